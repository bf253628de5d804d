//! `.hlog` files: HdrHistogram's interval log, V2, one line per interval and tag.
//!
//! ```text
//! #[Histogram log format version 1.3]
//! #[StartTime: 1441812279.474 (seconds since epoch), …]
//! "StartTimestamp","Interval_Length","Interval_Max","Interval_Compressed_Histogram"
//! Tag=produce.total,0.000,1.000,2.769,HISTFAAA…
//! ```
//!
//! Values are nanoseconds, maxima in the file milliseconds, time stamps seconds since the start
//! of the log. HdrHistogram's own tools in Java, Python and JavaScript read what is written here,
//! and what they write is read here. A reader keeps the histograms compressed, as they lie in the
//! file, and inflates one at a time: a log may be large, a histogram only so large.
//!
//! Start reading at [`Writer`] and [`Log`].

use std::fmt;
use std::io::{self, BufRead, Read as _, Write};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use flate2::read::ZlibDecoder;
use hdrhistogram::Histogram;
use hdrhistogram::serialization::{Deserializer, Serializer as _, V2DeflateSerializer};

/// Maxima in the file are in milliseconds.
const MAX_DIVISOR: f64 = 1_000_000.0;

/// The longest line that is read: a histogram of three digits with every bucket in use, twice.
const LINE_BYTES_MAX: usize = 4 << 20;

/// The largest histogram that is inflated; the same, before compression.
const INFLATED_BYTES_MAX: u64 = 16 << 20;

/// The first bytes of a V2 histogram, and of a deflated one.
const COOKIE_V2: u32 = 0x1c84_9303;
const COOKIE_V2_DEFLATED: u32 = 0x1c84_9304;
const COOKIE_BITS: u32 = !0xf0;

/// The header of a V2 histogram: cookie, payload length, offset, digits, lowest, highest, ratio.
const HEADER_BYTES: usize = 40;

/// Why a histogram or a log could not be read.
#[derive(Debug)]
pub enum LogError {
    /// The file could not be read.
    Io(io::Error),
    /// A line is longer than any histogram.
    LineTooLong {
        /// Its number, from 1.
        line: usize,
    },
    /// A line has not the four fields of an interval.
    NotAnInterval {
        /// Its number, from 1.
        line: usize,
    },
    /// The bytes are no V2 histogram, deflated and in base64.
    NotAHistogram(String),
}

impl fmt::Display for LogError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(error) => write!(f, "cannot read the log: {error}"),
            Self::LineTooLong { line } => write!(f, "line {line} is longer than any histogram"),
            Self::NotAnInterval { line } => {
                write!(f, "line {line} is no interval of a histogram log")
            }
            Self::NotAHistogram(why) => write!(f, "not a compressed V2 histogram: {why}"),
        }
    }
}

impl std::error::Error for LogError {}

impl From<io::Error> for LogError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// A histogram as text: V2, deflated, base64.
#[must_use]
pub fn encode_histogram(histogram: &Histogram<u64>) -> String {
    let mut bytes = Vec::new();
    V2DeflateSerializer::new()
        .serialize(histogram, &mut bytes)
        .expect("memory takes all bytes, and counts are below 2^63");
    BASE64.encode(bytes)
}

/// The histogram of such a text, from whatever source: what it claims is held to bounds before
/// memory is taken for it.
pub fn decode_histogram(text: &str) -> Result<Histogram<u64>, LogError> {
    let wrong = |why: &dyn fmt::Display| LogError::NotAHistogram(why.to_string());
    if LINE_BYTES_MAX < text.len() {
        return Err(wrong(&"too long"));
    }
    let bytes = BASE64.decode(text).map_err(|error| wrong(&error))?;
    let word = |bytes: &[u8], at: usize| {
        let bytes = bytes.get(at..at + 4)?;
        Some(u32::from_be_bytes(bytes.try_into().ok()?))
    };
    let inner = match word(&bytes, 0).map(|cookie| cookie & COOKIE_BITS) {
        Some(cookie) if cookie == COOKIE_V2_DEFLATED & COOKIE_BITS => {
            let mut inflated = Vec::new();
            let mut source = ZlibDecoder::new(&bytes[8.min(bytes.len())..]);
            let taken = (&mut source).take(INFLATED_BYTES_MAX).read_to_end(&mut inflated);
            taken.map_err(|error| wrong(&error))?;
            inflated
        }
        Some(cookie) if cookie == COOKIE_V2 & COOKIE_BITS => bytes,
        _ => return Err(wrong(&"unknown cookie")),
    };
    // The claims that decide how much memory is taken: payload length and digits.
    let (payload, digits) = (word(&inner, 4), word(&inner, 12));
    let fits =
        payload.is_some_and(|size| size as usize <= inner.len().saturating_sub(HEADER_BYTES));
    if !fits || digits.is_none_or(|digits| 4 < digits) {
        return Err(wrong(&"its header claims more than there is"));
    }
    let read = Deserializer::new().deserialize(&mut inner.as_slice());
    read.map_err(|error| wrong(&error))
}

/// Writes a log as its intervals come.
pub struct Writer<W> {
    out: W,
    start: SystemTime,
}

impl<W: Write> Writer<W> {
    /// Writes the head of a log that starts at `start`. `comments` are for people.
    pub fn new(mut out: W, start: SystemTime, comments: &[&str]) -> io::Result<Self> {
        for line in comments.iter().flat_map(|comment| comment.lines()) {
            writeln!(out, "#{line}")?;
        }
        let seconds = start.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
        writeln!(out, "#[Histogram log format version 1.3]")?;
        writeln!(out, "#[BaseTime: {seconds:.3} (seconds since epoch)]")?;
        writeln!(out, "#[StartTime: {seconds:.3} (seconds since epoch)]")?;
        writeln!(
            out,
            "\"StartTimestamp\",\"Interval_Length\",\"Interval_Max\",\
             \"Interval_Compressed_Histogram\""
        )?;
        Ok(Self { out, start })
    }

    /// When the log starts.
    pub fn start(&self) -> SystemTime {
        self.start
    }

    /// One interval of one tag: `offset` after the start, `length` long.
    pub fn write(
        &mut self,
        tag: &str,
        offset: Duration,
        length: Duration,
        histogram: &Histogram<u64>,
    ) -> io::Result<()> {
        assert!(is_tag(tag), "a tag has no comma, space or line end: {tag:?}");
        let (offset, length) = (offset.as_secs_f64(), length.as_secs_f64());
        let max = histogram.max() as f64 / MAX_DIVISOR;
        let text = encode_histogram(histogram);
        writeln!(self.out, "Tag={tag},{offset:.3},{length:.3},{max:.3},{text}")
    }

    /// Passes on what is buffered.
    pub fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }

    /// The file written to.
    pub fn into_inner(self) -> W {
        self.out
    }
}

/// Whether a tag can stand in a log.
#[must_use]
pub fn is_tag(tag: &str) -> bool {
    !tag.is_empty() && !tag.contains([',', ' ', '\n', '\r'])
}

/// One line of a log.
#[derive(Clone, Debug, PartialEq)]
pub struct Interval {
    /// Its tag; empty if it has none.
    pub tag: String,
    /// Seconds after the start of the log.
    pub offset: f64,
    /// How many seconds it is long.
    pub length: f64,
    encoded: String,
}

impl Interval {
    /// What was recorded in it.
    pub fn histogram(&self) -> Result<Histogram<u64>, LogError> {
        decode_histogram(&self.encoded)
    }
}

/// A log that was read.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Log {
    /// When it starts, in seconds since the Unix epoch; 0 if it does not say.
    pub start_seconds: f64,
    /// Its lines.
    pub intervals: Vec<Interval>,
}

impl Log {
    /// Reads all lines of a log.
    pub fn read(mut source: impl BufRead) -> Result<Self, LogError> {
        let mut log = Self::default();
        let mut base_seconds = None;
        let mut line = Vec::new();
        for number in 1.. {
            line.clear();
            let limit = LINE_BYTES_MAX as u64 + 1;
            if (&mut source).take(limit).read_until(b'\n', &mut line)? == 0 {
                break;
            }
            if LINE_BYTES_MAX < line.len() {
                return Err(LogError::LineTooLong { line: number });
            }
            let text = std::str::from_utf8(&line);
            let text = text.map_err(|_| LogError::NotAnInterval { line: number })?.trim_end();
            if let Some(seconds) = seconds_of(text, "#[StartTime:") {
                log.start_seconds = seconds;
            } else if let Some(seconds) = seconds_of(text, "#[BaseTime:") {
                base_seconds = Some(seconds);
            } else if !(text.is_empty() || text.starts_with(['#', '"'])) {
                let interval = interval(text).ok_or(LogError::NotAnInterval { line: number })?;
                log.intervals.push(interval);
            }
        }
        log.settle_times(base_seconds);
        Ok(log)
    }

    /// Time stamps count from a base, or from the epoch if there is none: from the start here.
    fn settle_times(&mut self, base_seconds: Option<f64>) {
        let first = self.intervals.first().map_or(0.0, |interval| interval.offset);
        // Java's tools take stamps more than a year before the start for relative ones.
        const YEAR: f64 = 365.0 * 86_400.0;
        let is_relative = base_seconds.is_none() && first < self.start_seconds - YEAR;
        let base = base_seconds.unwrap_or(if is_relative { self.start_seconds } else { 0.0 });
        if self.start_seconds == 0.0 {
            self.start_seconds = base + first;
        }
        for interval in &mut self.intervals {
            interval.offset += base - self.start_seconds;
        }
    }

    /// The tags in the order in which they first came.
    #[must_use]
    pub fn tags(&self) -> Vec<&str> {
        let mut tags: Vec<&str> = Vec::new();
        for interval in &self.intervals {
            if !tags.contains(&interval.tag.as_str()) {
                tags.push(&interval.tag);
            }
        }
        tags
    }

    /// All intervals of a tag as one histogram; none if there is no such tag.
    pub fn merged(&self, tag: &str) -> Result<Option<Histogram<u64>>, LogError> {
        let mut sum: Option<Histogram<u64>> = None;
        for interval in self.intervals.iter().filter(|interval| interval.tag == tag) {
            let histogram = interval.histogram()?;
            match &mut sum {
                None => {
                    let mut first = histogram;
                    first.auto(true);
                    sum = Some(first);
                }
                Some(sum) => sum.add(&histogram).map_err(|error| {
                    LogError::NotAHistogram(format!("intervals of {tag} do not add up: {error}"))
                })?,
            }
        }
        Ok(sum)
    }

    /// When the last interval ends, in seconds after the start.
    #[must_use]
    pub fn end(&self) -> f64 {
        let ends = self.intervals.iter().map(|interval| interval.offset + interval.length);
        ends.fold(0.0, f64::max)
    }
}

fn seconds_of(text: &str, label: &str) -> Option<f64> {
    let rest = text.strip_prefix(label)?.trim_start();
    let number = rest.split([' ', ']']).next()?;
    number.parse().ok().filter(|seconds: &f64| seconds.is_finite())
}

fn interval(text: &str) -> Option<Interval> {
    let (tag, rest) = match text.strip_prefix("Tag=") {
        Some(tagged) => tagged.split_once(',')?,
        None => ("", text),
    };
    let mut fields = rest.split(',');
    let mut number = || fields.next()?.trim().parse().ok().filter(|n: &f64| n.is_finite());
    let (offset, length, _max) = (number()?, number()?, number()?);
    let encoded = fields.next()?.trim().to_owned();
    let is_whole = fields.next().is_none() && 0.0 <= length;
    is_whole.then(|| Interval { tag: tag.to_owned(), offset, length, encoded })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::counts::empty;

    fn histogram(values: impl IntoIterator<Item = u64>) -> Histogram<u64> {
        let mut histogram = empty();
        values.into_iter().for_each(|value| histogram.record(value).unwrap());
        histogram
    }

    fn written() -> Vec<u8> {
        let start = UNIX_EPOCH + Duration::from_millis(1_441_812_279_474);
        let mut log = Writer::new(Vec::new(), start, &["of a test"]).unwrap();
        let second = Duration::from_secs(1);
        for (i, tag) in ["a.total", "b.total", "a.total"].into_iter().enumerate() {
            let values = (1..=100).map(|value| value * 1000 * (i as u64 + 1));
            log.write(tag, second * i as u32, second, &histogram(values)).unwrap();
        }
        log.into_inner()
    }

    /// What is written is read back: tags, times, and every count.
    #[test]
    fn a_log_is_read_back() {
        let log = Log::read(written().as_slice()).unwrap();
        assert_eq!(log.tags(), ["a.total", "b.total"]);
        assert!((log.start_seconds - 1_441_812_279.474).abs() < 1e-3);
        let offsets: Vec<_> = log.intervals.iter().map(|i| i.offset.round()).collect();
        assert_eq!(offsets, [0.0, 1.0, 2.0]);
        assert!((log.end() - 3.0).abs() < 1e-3);
        let merged = log.merged("a.total").unwrap().unwrap();
        let mut expected = histogram((1..=100).map(|value| value * 1000));
        expected.add(histogram((1..=100).map(|value| value * 3000))).unwrap();
        assert_eq!(merged, expected);
        assert!(log.merged("c").unwrap().is_none());
    }

    /// HdrHistogram's own reader finds the same in it.
    #[test]
    fn another_reader_finds_the_same() {
        use hdrhistogram::serialization::interval_log::{IntervalLogIterator, LogEntry};
        let bytes = written();
        let intervals: Vec<_> = IntervalLogIterator::new(&bytes)
            .filter_map(|entry| match entry.unwrap() {
                LogEntry::Interval(interval) => {
                    let tag = interval.tag().unwrap().as_str().to_owned();
                    Some((tag, decode_histogram(interval.encoded_histogram()).unwrap().len()))
                }
                _ => None,
            })
            .collect();
        assert_eq!(intervals[1], ("b.total".to_owned(), 100));
        assert_eq!(intervals.len(), 3);
    }

    /// Logs of other programs count from the epoch, or from a start without a base.
    #[test]
    fn times_are_those_of_the_log_whatever_they_count_from() {
        let text = encode_histogram(&histogram([1, 2, 3]));
        let absolute =
            format!("#[StartTime: 1000000000.5 (seconds)]\n1000000002.5,1.0,0.1,{text}\n");
        let log = Log::read(absolute.as_bytes()).unwrap();
        assert_eq!((log.intervals[0].offset, log.intervals[0].tag.as_str()), (2.0, ""));
        let relative = format!("#[StartTime: 1000000000.5 (seconds)]\n0.127,1.0,0.1,{text}\n");
        assert!((Log::read(relative.as_bytes()).unwrap().intervals[0].offset - 0.127).abs() < 1e-6);
    }

    /// Damaged and hostile logs are refused with the line, and take no memory they only claim.
    #[test]
    fn what_is_no_log_is_refused() {
        assert!(matches!(Log::read(&b"hello\n"[..]), Err(LogError::NotAnInterval { line: 1 })));
        let endless = vec![b'a'; LINE_BYTES_MAX + 2];
        assert!(matches!(Log::read(&endless[..]), Err(LogError::LineTooLong { line: 1 })));
        let whole = encode_histogram(&histogram([1, 2, 3]));
        for cut in (0..whole.len()).step_by(4) {
            assert!(decode_histogram(&whole[..cut]).is_err(), "cut at {cut}");
        }
        let mut claims = vec![0u8; 44];
        claims[..4].copy_from_slice(&COOKIE_V2.to_be_bytes());
        claims[4..8].copy_from_slice(&u32::MAX.to_be_bytes());
        assert!(decode_histogram(&BASE64.encode(claims)).is_err());
    }
}
