//! A report of one run: a single HTML file that needs nothing else, and the drawings and figures
//! in files of their own.
//!
//! No script, no font, no style is fetched: the file can be kept, mailed and opened in ten years.
//! Every drawing is made twice, for a wide and for a narrow window, and its colours follow the
//! reader's choice of dark or light.
//!
//! Start reading at [`Report`].

mod canvas;
mod charts;
mod heat;
mod page;
mod scale;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use hdrhistogram::Histogram;
use serde::Serialize;

use crate::hgrm::to_hgrm;
use crate::histogram::{QUANTILES, is_sampled};
use crate::hlog::LogError;
use crate::machine::share::Share;
use crate::outcome::{Environment, Found, Outcome};
use canvas::STYLE;
pub(crate) use charts::is_total;
use heat::Columns;

/// A quantile is told only if at least so many samples lie above it.
const SAMPLES_ABOVE_MIN: f64 = 10.0;

/// All that is drawn and told of one run.
#[derive(Debug)]
pub struct Report {
    title: String,
    start_seconds: f64,
    seconds: f64,
    environment: Option<Environment>,
    outcome: Option<Outcome>,
    /// Of each tag the whole, and its columns over time.
    tags: Vec<(String, Histogram<u64>, Columns)>,
}

/// Tags that belong together: the stages of one kind of request, or all that have no stages.
struct Group<'a> {
    name: &'a str,
    members: Vec<(&'a str, &'a Histogram<u64>, &'a Columns)>,
    /// The whole requests to which the stages add up, if those are not of all requests.
    sampled: Option<&'a Histogram<u64>>,
}

/// A histogram with the name it has in a drawing.
type Curve = (String, Histogram<u64>);

impl Report {
    /// Gathers the histograms of a run. Each interval is inflated once, one at a time.
    pub fn of(found: Found) -> Result<Self, LogError> {
        let Found { environment, outcome, mut log } = found;
        let seconds = log.end().max(1e-3);
        // Files that were written side by side follow each other in the log.
        log.intervals.sort_by(|a, b| a.offset.total_cmp(&b.offset));
        let mut tags: Vec<(String, Histogram<u64>, Columns)> = Vec::new();
        for interval in &log.intervals {
            let histogram = interval.histogram()?;
            let place = match tags.iter().position(|(tag, ..)| *tag == interval.tag) {
                Some(place) => place,
                None => {
                    let mut whole = Histogram::new_from(&histogram);
                    whole.auto(true);
                    tags.push((interval.tag.clone(), whole, Columns::new(seconds)));
                    tags.len() - 1
                }
            };
            let (tag, whole, columns) = &mut tags[place];
            let differ = |error: hdrhistogram::AdditionError| {
                LogError::NotAHistogram(format!("intervals of {tag} do not add up: {error}"))
            };
            whole.add(&histogram).map_err(differ)?;
            let to = interval.offset + interval.length;
            columns.add(interval.offset, to, histogram).map_err(differ)?;
        }
        tags.retain(|(_, whole, _)| !whole.is_empty());
        let title = outcome.as_ref().map_or("latency", |outcome| outcome.title.as_str()).to_owned();
        Ok(Self { title, start_seconds: log.start_seconds, seconds, environment, outcome, tags })
    }

    /// The one HTML file.
    #[must_use]
    pub fn to_html(&self) -> String {
        page::page(self)
    }

    /// The figures for programs.
    #[must_use]
    pub fn to_json(&self) -> String {
        let summary = Summary {
            schema: SUMMARY_SCHEMA,
            title: &self.title,
            seconds: self.seconds,
            tags: self.tags.iter().map(|(tag, whole, _)| (tag.as_str(), row(whole))).collect(),
            shares: self.shares().iter().map(|s| (s.name.as_str(), s.ratio())).collect(),
        };
        serde_json::to_string_pretty(&summary).expect("names and numbers are JSON")
    }

    /// Lines for people at a terminal.
    #[must_use]
    pub fn to_text(&self) -> String {
        use std::fmt::Write as _;
        if self.tags.is_empty() {
            return self.figures_as_text();
        }
        let widest = self.tags.iter().map(|(tag, ..)| tag.chars().count()).max().unwrap_or(0);
        let mut out = format!("{:<widest$} {:>12} {:>10}", "", "count", "mean");
        for (name, _) in QUANTILES {
            let _ = write!(out, " {name:>10}");
        }
        for (tag, whole, _) in &self.tags {
            let mean = crate::units::nanos(whole.mean());
            let _ = write!(out, "\n{tag:<widest$} {:>12} {mean:>10}", whole.len());
            for (_, quantile) in QUANTILES {
                let text = if is_told(whole, quantile) {
                    crate::units::nanos(whole.value_at_quantile(quantile) as f64)
                } else {
                    "–".to_owned()
                };
                let _ = write!(out, " {text:>10}");
            }
        }
        out.push('\n');
        for share in self.shares() {
            let _ = writeln!(out, "{}", share.to_text());
        }
        out
    }

    /// What was used of what the machine can do.
    fn shares(&self) -> &[Share] {
        self.outcome.as_ref().map_or(&[], |outcome| &outcome.shares)
    }

    /// What there is to tell of a run without latencies.
    fn figures_as_text(&self) -> String {
        let figures = self.outcome.as_ref().map_or(&[][..], |outcome| &outcome.figures);
        if figures.is_empty() {
            return "nothing was recorded\n".to_owned();
        }
        let widest = figures.iter().map(|f| f.name.chars().count()).max().unwrap_or(0);
        let lines = figures.iter().map(|figure| {
            let value = crate::units::figure(figure.value, &figure.unit);
            format!("{:<widest$} {value:>16}\n", figure.name)
        });
        lines.collect()
    }

    /// Writes the HTML file, and beside it `summary.json`, one `.hgrm` for each tag and one `.svg`
    /// for each drawing; the files written.
    pub fn write(&self, dir: &Path) -> io::Result<Vec<PathBuf>> {
        let mut written = Vec::new();
        let mut write = |name: String, text: String| {
            let path = dir.join(name);
            fs::write(&path, text)?;
            written.push(path);
            io::Result::Ok(())
        };
        write("report.html".to_owned(), self.to_html())?;
        write("summary.json".to_owned(), self.to_json())?;
        for (tag, whole, _) in &self.tags {
            write(format!("{}.hgrm", file_name(tag)), to_hgrm(whole))?;
        }
        for (name, drawing) in self.drawings() {
            write(format!("{}.svg", file_name(&name)), drawing)?;
        }
        Ok(written)
    }

    /// The drawings for themselves, with their style.
    fn drawings(&self) -> Vec<(String, String)> {
        const WIDTH: f64 = 960.0;
        let styled = |svg: String| {
            let paper = "svg{background:var(--paper)}";
            svg.replacen('>', &format!("><style>{STYLE}{paper}</style>"), 1)
        };
        let mut drawings = Vec::new();
        for group in self.groups().iter().filter(|group| group.can_be_drawn()) {
            let name = |what: &str| format!("{}-{what}", group.name);
            drawings.push((name("percentiles"), charts::percentiles(WIDTH, &group.curves())));
            if let Some((stages, whole)) = group.stages() {
                drawings.push((name("waterfall"), charts::waterfall(WIDTH, &stages, whole)));
            }
            for (tag, _, columns) in &group.members {
                drawings.push((format!("{tag}-heat"), heat::heat_map(WIDTH, tag, columns)));
            }
        }
        drawings.into_iter().map(|(name, svg)| (name, styled(svg))).collect()
    }

    fn groups(&self) -> Vec<Group<'_>> {
        let mut groups: Vec<Group<'_>> = Vec::new();
        for (tag, whole, columns) in &self.tags {
            let name = tag.rsplit_once('.').map_or("latency", |(kind, _)| kind);
            let place = groups.iter().position(|group| group.name == name);
            let place = place.unwrap_or_else(|| {
                groups.push(Group { name, members: Vec::new(), sampled: None });
                groups.len() - 1
            });
            match is_sampled(tag) {
                true => groups[place].sampled = Some(whole),
                false => groups[place].members.push((tag.as_str(), whole, columns)),
            }
        }
        groups
    }
}

impl Group<'_> {
    /// Whether there are samples enough for a drawing to say something.
    fn can_be_drawn(&self) -> bool {
        self.members.iter().any(|(_, whole, _)| is_told(whole, 0.5))
    }

    /// The curves with their short names.
    fn curves(&self) -> Vec<Curve> {
        let short = |tag: &str| tag.rsplit_once('.').map_or(tag, |(_, stage)| stage).to_owned();
        self.members.iter().map(|(tag, whole, _)| (short(tag), (*whole).clone())).collect()
    }

    /// The stages, and the whole requests to which they add up, if that is what the group is.
    fn stages(&self) -> Option<(Vec<Curve>, &Histogram<u64>)> {
        let (_, total, _) = self.members.iter().find(|(tag, ..)| tag.ends_with(".total"))?;
        let stages: Vec<_> =
            self.curves().into_iter().filter(|(name, _)| name != "total").collect();
        (!stages.is_empty()).then_some((stages, self.sampled.unwrap_or(total)))
    }

    /// The members that stand for whole requests; all if none does.
    fn leading(&self) -> Vec<&str> {
        let all: Vec<&str> = self.members.iter().map(|(tag, ..)| *tag).collect();
        let totals: Vec<&str> = all.iter().copied().filter(|tag| is_total(tag)).collect();
        if totals.is_empty() { all } else { totals }
    }
}

/// The schema of `summary.json`.
pub const SUMMARY_SCHEMA: &str = "tidemill.summary/1";

#[derive(Serialize)]
struct Summary<'a> {
    schema: &'a str,
    title: &'a str,
    seconds: f64,
    tags: BTreeMap<&'a str, BTreeMap<&'static str, f64>>,
    /// Of what this machine can do at most, by what it is: 0.34 is 34 %.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    shares: BTreeMap<&'a str, f64>,
}

/// Nanoseconds by quantile, with the count; only quantiles that enough samples tell of.
fn row(whole: &Histogram<u64>) -> BTreeMap<&'static str, f64> {
    let told = QUANTILES.iter().filter(|(_, quantile)| is_told(whole, *quantile));
    let quantiles = told.map(|(name, quantile)| (*name, whole.value_at_quantile(*quantile) as f64));
    quantiles.chain([("count", whole.len() as f64), ("mean", whole.mean())]).collect()
}

/// Whether enough samples lie above a quantile for it not to be chance.
#[must_use]
pub fn is_told(whole: &Histogram<u64>, quantile: f64) -> bool {
    1.0 <= quantile || SAMPLES_ABOVE_MIN <= whole.len() as f64 * (1.0 - quantile) + 1e-9
}

/// A tag as the name of a file.
fn file_name(tag: &str) -> String {
    let safe = |c: char| if c.is_alphanumeric() || c == '-' || c == '.' { c } else { '_' };
    let name: String = tag.chars().map(safe).take(100).collect();
    if name.is_empty() { "latency".to_owned() } else { name }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hlog::{Log, Writer};
    use crate::outcome::{Series, tests::fresh_dir};
    use std::time::{Duration, UNIX_EPOCH};

    fn found() -> Found {
        let start = UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        let mut log = Writer::new(Vec::new(), start, &[]).unwrap();
        let mut outcome = Outcome::new("a <run> & its figures", start);
        for second in 0..20u32 {
            for (tag, micros) in
                [("produce.append", 20u64), ("produce.durable", 900), ("produce.total", 950)]
            {
                let mut histogram = crate::counts::empty();
                for i in 1..=500 {
                    histogram.record(micros * (500 + i * i % 997)).unwrap();
                }
                let length = Duration::from_secs(1);
                log.write(tag, length * second, length, &histogram).unwrap();
            }
            outcome.add(f64::from(second + 1), Series::busy("shard 0"), 0.4);
            outcome.add(f64::from(second + 1), Series::new("throughput", "in", "B/s"), 1e6);
        }
        outcome.shares.push(Share {
            name: "disk writes".to_owned(),
            rate: 5e8,
            unit: "B/s".to_owned(),
            most: 2e9,
            case: "disk: write 1 MiB x 4".to_owned(),
            place: "ext4 on /dev/vda".to_owned(),
            measured_unix_ms: 1_700_000_000_000,
        });
        let log = Log::read(log.into_inner().as_slice()).unwrap();
        Found { environment: Some(Environment::default()), outcome: Some(outcome), log }
    }

    /// One file that fetches nothing, with every drawing, and what comes from outside escaped.
    #[test]
    fn the_page_needs_nothing_but_itself() {
        let html = Report::of(found()).unwrap().to_html();
        let addresses = html.replace("http://www.w3.org/2000/svg", "");
        for bad in ["http:", "https:", "<script", "@import", "url(", "<link"] {
            assert!(!addresses.contains(bad), "{bad}");
        }
        assert!(html.contains("a &lt;run&gt; &amp; its figures"));
        assert!(html.contains("prefers-color-scheme:dark"));
        for drawing in ["percentile curves", "latency of produce.total over time", "busy", "mean"] {
            assert!(html.contains(drawing), "{drawing}");
        }
        assert!(!html.contains("NaN"));
    }

    /// What the tables say is what lies in the log; what too few samples tell is not told.
    #[test]
    fn the_summary_is_of_all_intervals() {
        let report = Report::of(found()).unwrap();
        let json: serde_json::Value = serde_json::from_str(&report.to_json()).unwrap();
        let total = &json["tags"]["produce.total"];
        assert_eq!(total["count"], 10_000.0);
        assert!(total["p99.9"].is_f64() && total["p99.99"].is_null());
        assert!(report.to_text().contains("produce.durable"));
    }

    /// What was used of the machine's limits stands on the page, in the text and in the JSON, with
    /// the limit, where it was found and when.
    #[test]
    fn shares_of_the_limits_are_told() {
        let report = Report::of(found()).unwrap();
        let html = report.to_html();
        for words in
            ["25 %", "500 MB/s of 2 GB/s", "ext4 on /dev/vda, measured 2023-11-14 22:13:20"]
        {
            assert!(html.contains(words), "{words}");
        }
        let line = "disk writes: 25 % of 2 GB/s (disk: write 1 MiB x 4)";
        assert!(report.to_text().contains(line));
        let json: serde_json::Value = serde_json::from_str(&report.to_json()).unwrap();
        assert_eq!(json["shares"]["disk writes"], 0.25);
    }

    /// Where the stages are of a sample, the waterfall is of that sample, and the page says so; the
    /// sample is no curve of its own.
    #[test]
    fn stages_of_a_sample_add_up_to_the_sample() {
        let mut found = found();
        let mut sample = found.log.intervals.clone();
        sample.retain(|interval| interval.tag == "produce.total");
        for interval in &mut found.log.intervals {
            interval.tag = interval.tag.replace("produce.total", "produce.sampled");
        }
        for interval in sample.iter().chain(&sample) {
            found.log.intervals.push(interval.clone());
        }
        let report = Report::of(found).unwrap();
        let groups = report.groups();
        let (stages, whole) = groups[0].stages().unwrap();
        assert_eq!((stages.len(), whole.len()), (2, 10_000));
        assert_eq!(groups[0].curves().len(), 3);
        assert_eq!(groups[0].leading(), ["produce.total"]);
        let words = [10_000, 20_000].map(crate::units::count).join(" requests out of ");
        assert!(report.to_html().contains(&format!("a sample of {words}")));
    }

    /// Every file of a report is written.
    #[test]
    fn the_files_are_written() {
        let dir = fresh_dir("report");
        fs::create_dir_all(&dir).unwrap();
        let written = Report::of(found()).unwrap().write(&dir).unwrap();
        let names: Vec<_> =
            written.iter().map(|path| path.file_name().unwrap().to_str().unwrap()).collect();
        for name in ["report.html", "summary.json", "produce.total.hgrm", "produce-waterfall.svg"] {
            assert!(names.contains(&name), "{names:?}");
        }
        fs::remove_dir_all(&dir).unwrap();
    }

    /// A log without intervals, or with empty ones, is a report without drawings, not a crash.
    #[test]
    fn an_empty_log_is_no_crash() {
        let html = Report::of(Found::default()).unwrap().to_html();
        assert!(html.contains("Nothing was recorded"));
    }
}
