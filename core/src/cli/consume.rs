//! `tidemill consume`: records of a topic on standard output, as kcat's -C prints them.
//!
//! Reads partitions, not groups: nothing is committed. One thread fetches for each leader, so that
//! a quiet one holds up nobody; this thread prints.
//!
//! Start reading at [`Consume::run`].

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io::{self, BufWriter, IsTerminal, StdoutLock, Write};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use bytes::{Bytes, BytesMut};
use clap::Args;
use serde_json::json;
use tidemill_net::kafka::fetch::{FetchPartition, FetchResponse, OutgoingFetch};
use tidemill_net::kafka::{ApiKey, ErrorCode, TopicRef};
use tidemill_record::{Batch, Contents, Record};

use super::client::{Client, Patience};
use super::failure::Failure;
use super::offsets::{self, EARLIEST, LATEST};
use super::template::{self, Printed, Template};
use super::{Bootstrap, Output, Progress};
use crate::limits;

/// The last version that names topics by their names.
const FETCH_VERSION_MAX: i16 = 12;

/// How long a broker may wait for new records before it answers that there are none.
const FETCH_WAIT_MS: i32 = 500;

const FETCH_BYTES: i32 = 16 * 1024 * 1024;
const PARTITION_BYTES: i32 = 4 * 1024 * 1024;

/// How many fetched answers may wait to be printed.
const FETCHED_MAX: usize = 4;

/// What a batch may grow to when it is decompressed.
const UNCOMPRESSED_BYTES_MAX: usize = limits::REQUEST_BYTES_MAX as usize;

/// `tidemill consume …`
#[derive(Args, Debug)]
pub(super) struct Consume {
    /// From which topic.
    #[arg(short, long)]
    topic: String,
    /// From which partition; may be repeated [default: all]
    #[arg(short, long = "partition", value_name = "PARTITION")]
    partitions: Vec<i32>,
    /// Where to begin: beginning, end, an offset, -N (the last N), or s@MS (since a time)
    #[arg(short, long, default_value = "beginning", allow_hyphen_values = true, value_parser = parse_start)]
    offset: Start,
    /// End after so many records.
    #[arg(short, long)]
    count: Option<u64>,
    /// End at the end of the partitions instead of waiting for more.
    #[arg(short, long)]
    exit: bool,
    /// How to print a record, in kcat's words: %t %p %o %T %k %s %h, \n …
    #[arg(short, long, conflicts_with = "output")]
    format: Option<String>,
    /// Print keys too, with this between key and value.
    #[arg(short = 'K', long = "key-delimiter", value_name = "TEXT", conflicts_with = "format")]
    key_delimiter: Option<String>,
    /// What to print after each record.
    #[arg(short = 'D', long = "delimiter", value_name = "TEXT", conflicts_with = "format")]
    delimiter: Option<String>,
    /// Print null keys and values as NULL.
    #[arg(short = 'Z', long = "null")]
    null: bool,
    /// Do not collect output: write each record at once.
    #[arg(short, long)]
    unbuffered: bool,
    #[command(flatten)]
    output: Output,
    #[command(flatten)]
    bootstrap: Bootstrap,
}

/// Where to begin.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Start {
    Beginning,
    End,
    At(i64),
    Last(i64),
    Since(i64),
}

fn parse_start(text: &str) -> Result<Start, String> {
    let number = |text: &str| text.parse::<i64>().ok().filter(|number| 0 <= *number);
    let start = match text {
        "beginning" | "earliest" => Some(Start::Beginning),
        "end" | "latest" => Some(Start::End),
        text => match (text.strip_prefix("s@"), text.strip_prefix('-')) {
            (Some(ms), _) => number(ms).map(Start::Since),
            (None, Some(count)) => number(count).map(Start::Last),
            (None, None) => number(text).map(Start::At),
        },
    };
    start.ok_or_else(|| "beginning, end, an offset, -N or s@MS".to_owned())
}

impl Consume {
    pub(super) fn run(self) -> Result<(), Failure> {
        let style = self.style()?;
        let mut client = Client::new(&self.bootstrap.address);
        let partitions = self.chosen(&mut client)?;
        let starts = self.starts(&mut client, &partitions)?;
        // Read before the first fetch: what comes later does not keep `--exit` from ending.
        let ends = match self.exit {
            true => offsets::at(&mut client, &self.topic, &partitions, LATEST)?,
            false => BTreeMap::new(),
        };

        let (sender, receiver) = sync_channel(FETCHED_MAX);
        let mut by_leader: BTreeMap<i32, Positions> = BTreeMap::new();
        for partition in partitions {
            let end = ends.get(&partition).copied();
            let start = starts[&partition];
            if end.is_some_and(|end| end <= start) {
                continue;
            }
            let leader = client.leader_of(&self.topic, partition).unwrap_or(-1);
            by_leader.entry(leader).or_default().insert(partition, (start, end));
        }
        drop(client);
        for positions in by_leader.into_values() {
            let sender = sender.clone();
            let mut fetcher = Fetcher {
                client: Client::new(&self.bootstrap.address),
                topic: self.topic.clone(),
                positions,
                patience: None,
            };
            std::thread::spawn(move || fetcher.run(&sender));
        }
        drop(sender);
        self.print_all(&style, &receiver)
    }

    fn style(&self) -> Result<Style, Failure> {
        let usage = |flag: &str, reason: String| Failure::usage(format!("{flag}: {reason}"));
        if self.output.is_json() {
            return Ok(Style::Json);
        }
        let format = match (&self.format, &self.key_delimiter) {
            (Some(format), _) => format.clone(),
            (None, keys) => {
                let literal = |text: &str| text.replace('%', "%%");
                let end = literal(self.delimiter.as_deref().unwrap_or("\\n"));
                match keys {
                    Some(between) => format!("%k{}%s{end}", literal(between)),
                    None => format!("%s{end}"),
                }
            }
        };
        // Checked apart from the template, whose percent signs mean something.
        template::unescape(&format).map_err(|reason| usage("--format", reason))?;
        Template::parse(&format).map(Style::Template).map_err(|reason| usage("--format", reason))
    }

    /// The partitions asked for, which exist.
    fn chosen(&self, client: &mut Client) -> Result<Vec<i32>, Failure> {
        let topic = client.topic(&self.topic, false)?;
        let all: Vec<i32> = topic.partitions.iter().map(|p| p.partition_index).collect();
        if let Some(missing) = self.partitions.iter().find(|p| !all.contains(p)) {
            return Err(Failure::usage(format!(
                "topic {} has partitions 0 to {}, not {missing}",
                self.topic,
                all.len() - 1
            )));
        }
        Ok(if self.partitions.is_empty() { all } else { self.partitions.clone() })
    }

    fn starts(
        &self,
        client: &mut Client,
        partitions: &[i32],
    ) -> Result<BTreeMap<i32, i64>, Failure> {
        let mut at = |timestamp| offsets::at(client, &self.topic, partitions, timestamp);
        match self.offset {
            Start::Beginning => at(EARLIEST),
            Start::End => at(LATEST),
            Start::At(offset) => {
                let (firsts, ends) = (at(EARLIEST)?, at(LATEST)?);
                for partition in partitions {
                    let (first, end) = (firsts[partition], ends[partition]);
                    if !(first..=end).contains(&offset) {
                        return Err(self.no_such_offset(*partition, offset, first, end));
                    }
                }
                Ok(partitions.iter().map(|p| (*p, offset)).collect())
            }
            Start::Last(count) => {
                let firsts = at(EARLIEST)?;
                let ends = at(LATEST)?;
                let back = |(partition, end): (i32, i64)| {
                    (partition, (end - count).max(firsts[&partition]))
                };
                Ok(ends.into_iter().map(back).collect())
            }
            Start::Since(ms) => {
                let ends = at(LATEST)?;
                let found = at(ms)?;
                // None that young: begin with those to come.
                let place = |(partition, offset): (i32, i64)| {
                    (partition, if offset < 0 { ends[&partition] } else { offset })
                };
                Ok(found.into_iter().map(place).collect())
            }
        }
    }

    fn no_such_offset(&self, partition: i32, asked: i64, first: i64, end: i64) -> Failure {
        let topic = &self.topic;
        let there = if first == end {
            format!("it is empty; the next record will be {end}")
        } else {
            format!("its records are {first} to {}", end - 1)
        };
        Failure::new(format!("partition {partition} of {topic} has no offset {asked}"))
            .because(there)
            .fix("begin elsewhere with -o beginning, end or -N, or choose a partition with -p")
    }

    fn print_all(
        &self,
        style: &Style,
        receiver: &Receiver<Result<Fetched, Failure>>,
    ) -> Result<(), Failure> {
        let mut printer = Printer {
            out: BufWriter::with_capacity(256 * 1024, io::stdout().lock()),
            style,
            topic: &self.topic,
            null: if self.null { b"NULL" } else { b"" },
            left: self.count.unwrap_or(u64::MAX),
            unbuffered: self.unbuffered || io::stdout().is_terminal(),
            progress: Progress::new("read"),
        };
        while printer.left != 0 {
            let fetched = match receiver.try_recv() {
                Ok(fetched) => fetched,
                Err(_) => {
                    // About to wait: what was read so far must be seen.
                    printer.flush()?;
                    match receiver.recv() {
                        Ok(fetched) => fetched,
                        Err(_) => break,
                    }
                }
            };
            let fetched = fetched?;
            for bytes in &fetched.records {
                printer.print_batches(fetched.partition, fetched.from, fetched.until, bytes)?;
            }
        }
        printer.flush()?;
        printer.progress.finish();
        Ok(())
    }
}

/// Where each partition is read next and, with `--exit`, where reading ends.
type Positions = BTreeMap<i32, (i64, Option<i64>)>;

/// What one fetch brought for one partition.
struct Fetched {
    partition: i32,
    /// Earlier records of the first batch were not asked for.
    from: i64,
    /// Records from here on are not asked for either.
    until: i64,
    records: Vec<Bytes>,
}

/// Reads some partitions, from whoever leads them at the time.
struct Fetcher {
    client: Client,
    topic: String,
    positions: Positions,
    /// How long nothing has worked.
    patience: Option<Patience>,
}

impl Fetcher {
    /// Fetches until all partitions are at their end, or nobody listens any more.
    fn run(&mut self, sender: &SyncSender<Result<Fetched, Failure>>) {
        if let Err(failure) = self.client.topic(&self.topic, false) {
            let _ = sender.send(Err(failure));
            return;
        }
        while !self.positions.is_empty() {
            match self.fetch_all(sender) {
                Ok(true) => self.patience = None,
                // The receiver is gone: enough was printed.
                Ok(false) => return,
                Err(Trouble::Passing(failure)) => {
                    let patience = self.patience.get_or_insert_default();
                    if !patience.wait(&failure.in_one_line()) {
                        let _ = sender.send(Err(failure));
                        return;
                    }
                    // If the cluster is away, the next fetch will say so.
                    let _ = self.client.metadata(Some(&[&self.topic]), false);
                }
                Err(Trouble::Lasting(failure)) => {
                    let _ = sender.send(Err(failure));
                    return;
                }
            }
        }
    }

    /// One fetch from each leader; false if nobody listens any more.
    fn fetch_all(
        &mut self,
        sender: &SyncSender<Result<Fetched, Failure>>,
    ) -> Result<bool, Trouble> {
        let mut by_leader: BTreeMap<i32, Vec<i32>> = BTreeMap::new();
        for &partition in self.positions.keys() {
            let leader = self.client.leader_of(&self.topic, partition).ok_or_else(|| {
                let topic = &self.topic;
                Trouble::Passing(Failure::new(format!(
                    "partition {partition} of {topic} has no leader"
                )))
            })?;
            by_leader.entry(leader).or_default().push(partition);
        }
        for (leader, partitions) in by_leader {
            let (version, body) = match self.fetch_from(leader, &partitions) {
                Ok(answer) => answer,
                Err(lost) => {
                    self.client.forget(leader);
                    return Err(Trouble::Passing(lost));
                }
            };
            let answer = FetchResponse::parse(version, &body).map_err(|e| {
                let what = "the broker's answer to a fetch cannot be read";
                Trouble::Lasting(Failure::new(what).because(e))
            })?;
            if answer.error_code != ErrorCode::None {
                let what = format!("the broker refused to let {} be read", self.topic);
                return Err(Trouble::Passing(Failure::new(what).because(answer.error_code.name())));
            }
            for partition in answer.partitions.iter() {
                self.check(partition.partition, partition.error_code, partition.log_start_offset)?;
                let number = partition.partition;
                if let Some(fetched) = self.advance(number, &partition.records)
                    && sender.send(Ok(fetched)).is_err()
                {
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }

    fn fetch_from(&mut self, leader: i32, partitions: &[i32]) -> Result<(i16, Bytes), Failure> {
        let topic = TopicRef::Name(&self.topic);
        let parts: Vec<_> = partitions
            .iter()
            .map(|p| FetchPartition::from_consumer(topic, *p, self.positions[p].0, PARTITION_BYTES))
            .collect();
        let request = OutgoingFetch {
            max_wait_ms: FETCH_WAIT_MS,
            max_bytes: FETCH_BYTES,
            partitions: &parts,
            ..OutgoingFetch::default()
        };
        let connection = self.client.node(leader)?;
        let version = connection.version_of(ApiKey::Fetch, FETCH_VERSION_MAX)?;
        let encode = |out: &mut BytesMut, id: i32, client: Option<&str>| {
            request.encode(out, version, id, client);
        };
        Ok((version, connection.call_in_place(ApiKey::Fetch, version, encode)?))
    }

    fn check(&self, partition: i32, error: ErrorCode, log_start: i64) -> Result<(), Trouble> {
        let what = format!("cannot read partition {partition} of {}", self.topic);
        match error {
            ErrorCode::None => Ok(()),
            ErrorCode::OffsetOutOfRange => {
                let asked = self.positions.get(&partition).map_or(-1, |(from, _)| *from);
                let mut cause = format!("it has no offset {asked}");
                if 0 <= log_start {
                    cause.push_str(&format!("; its records begin at {log_start}"));
                }
                let fix = "read from the beginning with -o beginning";
                Err(Trouble::Lasting(Failure::new(what).because(cause).fix(fix)))
            }
            error if error.is_retriable() => {
                Err(Trouble::Passing(Failure::new(what).because(error.name()).advised(error)))
            }
            error => Err(Trouble::Lasting(Failure::new(what).because(error.name()).advised(error))),
        }
    }

    /// Moves a partition behind what was received; none if nothing was.
    fn advance(&mut self, partition: i32, records: &[Bytes]) -> Option<Fetched> {
        let (from, end) = *self.positions.get(&partition)?;
        let mut next = from;
        for bytes in records {
            let mut rest = &bytes[..];
            // A last batch that is cut off is legal, and useless.
            while let Ok((batch, behind)) = Batch::parse(rest) {
                next = next.max(batch.next_offset().0);
                rest = behind;
            }
        }
        if next == from {
            return None;
        }
        if end.is_some_and(|end| end <= next) {
            self.positions.remove(&partition);
        } else {
            self.positions.insert(partition, (next, end));
        }
        let until = end.unwrap_or(i64::MAX);
        Some(Fetched { partition, from, until, records: records.to_vec() })
    }
}

/// Why a fetch brought nothing.
enum Trouble {
    /// A leader is moving or away: worth another try.
    Passing(Failure),
    /// Trying again would not help.
    Lasting(Failure),
}

enum Style {
    Template(Template),
    Json,
}

struct Printer<'a> {
    out: BufWriter<StdoutLock<'static>>,
    style: &'a Style,
    topic: &'a str,
    null: &'static [u8],
    left: u64,
    unbuffered: bool,
    progress: Progress,
}

impl Printer<'_> {
    /// Prints the records of whole batches that lie in `from..until`.
    fn print_batches(
        &mut self,
        partition: i32,
        from: i64,
        until: i64,
        bytes: &[u8],
    ) -> Result<(), Failure> {
        let topic = self.topic;
        let damaged = |cause: &dyn std::fmt::Debug| {
            Failure::new(format!("partition {partition} of {topic} holds a damaged batch"))
                .because(format!("{cause:?}"))
        };
        let mut rest = bytes;
        while let Ok((batch, behind)) = Batch::parse(rest) {
            rest = behind;
            batch.verify_checksum().map_err(|e| damaged(&e))?;
            if batch.is_control() {
                continue;
            }
            let contents =
                Contents::open(&batch, UNCOMPRESSED_BYTES_MAX).map_err(|e| damaged(&e))?;
            for record in contents.records() {
                let record = record.map_err(|e| damaged(&e))?;
                if record.offset.0 < from || until <= record.offset.0 {
                    continue;
                }
                if self.left == 0 {
                    return Ok(());
                }
                self.left -= 1;
                self.print(partition, &record).map_err(unprintable)?;
            }
        }
        Ok(())
    }

    fn print(&mut self, partition: i32, record: &Record<'_>) -> io::Result<()> {
        let headers: Vec<_> = record.headers.into_iter().map(|h| (h.key, h.value)).collect();
        match self.style {
            Style::Json => {
                let headers: Vec<_> = headers
                    .iter()
                    .map(|(key, value)| json!([text(Some(key)), text(*value)]))
                    .collect();
                let line = json!({
                    "topic": self.topic,
                    "partition": partition,
                    "offset": record.offset.0,
                    "ts": record.timestamp.0,
                    "key": text(record.key),
                    "payload": text(record.value),
                    "headers": headers,
                });
                writeln!(self.out, "{line}")?;
            }
            Style::Template(template) => template.print(
                &mut self.out,
                &Printed {
                    topic: self.topic,
                    partition,
                    offset: record.offset.0,
                    timestamp_ms: record.timestamp.0,
                    key: record.key,
                    value: record.value,
                    headers: &headers,
                    null: self.null,
                },
            )?,
        }
        self.progress.add(1, record.value.map_or(0, <[u8]>::len));
        if self.unbuffered { self.out.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<(), Failure> {
        self.out.flush().map_err(unprintable)
    }
}

/// JSON holds text only: what is not UTF-8 is shown with marks in its place.
fn text(bytes: Option<&[u8]>) -> Option<Cow<'_, str>> {
    bytes.map(String::from_utf8_lossy)
}

fn unprintable(error: io::Error) -> Failure {
    super::output_failure(&error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_to_begin_is_said_as_in_kcat() {
        assert_eq!(parse_start("beginning"), Ok(Start::Beginning));
        assert_eq!(parse_start("end"), Ok(Start::End));
        assert_eq!(parse_start("17"), Ok(Start::At(17)));
        assert_eq!(parse_start("-5"), Ok(Start::Last(5)));
        assert_eq!(parse_start("s@1700000000000"), Ok(Start::Since(1_700_000_000_000)));
        assert!(parse_start("middle").is_err());
        assert!(parse_start("--5").is_err());
    }
}
