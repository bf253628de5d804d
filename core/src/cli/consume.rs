//! `tidemill consume`: records of a topic on standard output, as kcat's -C prints them.
//!
//! Reads partitions, and nothing is committed: one thread reads, this one prints. As a member of a
//! group it reads what is its share, see `consume/group.rs`.
//!
//! Start reading at [`Consume::run`].

mod group;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io::{self, BufWriter, IsTerminal, StdoutLock, Write};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use clap::{Args, ValueEnum};
use serde_json::json;
use tidemill_client::kafka::ErrorCode;
use tidemill_client::{
    Consumer, ConsumerConfig, ConsumerRecord, Error, ErrorKind, Isolation, Start,
};

use super::brokers::{Bootstrap, Patience, SILENT_FOR};
use super::failure::Failure;
use super::offsets::{Partitions, Place, parse_place};
use super::template::{self, Printed, Template};
use super::{Output, Progress};

const FETCH_BYTES: u32 = 16 * 1024 * 1024;
const PARTITION_BYTES: u32 = 4 * 1024 * 1024;

/// How many records are handed to the printing thread at once, rounded up to whole batches.
const READ_RECORDS: usize = 4096;

/// How many of these rows may wait to be printed.
const ROWS_MAX: usize = 4;

/// `tidemill consume …`
#[derive(Args, Debug)]
pub(super) struct Consume {
    /// From which topic.
    #[arg(short, long)]
    topic: String,
    /// From which partition; may be repeated [default: all]
    #[arg(short, long = "partition", value_name = "PARTITION")]
    partitions: Vec<i32>,
    /// As a member of this group: its members share the partitions, and what was printed is
    /// committed. It begins where the group left off, and --offset says where if it was nowhere yet.
    #[arg(short, long, conflicts_with = "partitions")]
    group: Option<String>,
    /// Where to begin: beginning, end, an offset, -N (the last N), or s@MS (since a time)
    #[arg(short, long, default_value = "beginning", allow_hyphen_values = true, value_parser = parse_place)]
    offset: Place,
    /// Which records of transactions to print: those of committed ones (and to wait for the end of
    /// those that are open), or all.
    #[arg(long, value_name = "LEVEL", default_value = "read_committed")]
    isolation_level: Level,
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

/// Kafka's names.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Level {
    #[value(name = "read_committed")]
    Committed,
    #[value(name = "read_uncommitted")]
    Uncommitted,
}

impl Consume {
    fn isolation(&self) -> Isolation {
        match self.isolation_level {
            Level::Committed => Isolation::ReadCommitted,
            Level::Uncommitted => Isolation::ReadUncommitted,
        }
    }

    pub(super) fn run(self) -> Result<(), Failure> {
        let style = self.style()?;
        if let Some(group) = &self.group {
            return group::run(&self, group, &style);
        }
        let mut reader = self.reader()?;
        let (sender, receiver) = sync_channel(ROWS_MAX);
        std::thread::spawn(move || reader.run(&sender));
        self.print_all(&style, &receiver)
    }

    /// A consumer of the partitions asked for, placed where to begin; and where each is to end.
    fn reader(&self) -> Result<Reader, Failure> {
        let (bootstrap, topic) = (&self.bootstrap, &*self.topic);
        let mut admin = bootstrap.admin(false)?;
        let numbers = bootstrap.partitions(&mut admin, topic, &self.partitions)?;
        let partitions = Partitions::new(bootstrap, &mut admin, topic, &numbers);
        let mut partitions = partitions.seen_by(self.isolation());
        let starts = partitions.find(self.offset)?;
        // Asked before the first fetch: what comes later does not keep `--exit` from ending.
        let ends = if self.exit { Some(partitions.ends()?) } else { None };
        let end_of = |partition| ends.as_ref().map_or(i64::MAX, |ends| ends[partition]);
        let unread: BTreeMap<i32, i64> = starts
            .iter()
            .map(|(partition, start)| (*partition, *start, end_of(partition)))
            .filter(|(_, start, end)| start < end)
            .map(|(partition, _, end)| (partition, end))
            .collect();

        let mut consumer =
            Consumer::open(self.config()).map_err(|error| bootstrap.failure(error))?;
        consumer.assign(unread.keys().map(|at| (topic, *at, Start::Offset(starts[at]))));
        Ok(Reader { consumer, topic: topic.to_owned(), unread })
    }

    fn config(&self) -> ConsumerConfig {
        ConsumerConfig {
            cluster: self.bootstrap.cluster(false),
            isolation: self.isolation(),
            max_bytes: FETCH_BYTES,
            partition_bytes: PARTITION_BYTES,
            poll_records: READ_RECORDS,
            ..ConsumerConfig::default()
        }
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

    fn printer<'a>(&self, style: &'a Style) -> Printer<'a> {
        Printer {
            out: BufWriter::with_capacity(256 * 1024, io::stdout().lock()),
            style,
            null: if self.null { b"NULL" } else { b"" },
            left: self.count.unwrap_or(u64::MAX),
            unbuffered: self.unbuffered || io::stdout().is_terminal(),
            progress: Progress::new("read"),
        }
    }

    fn print_all(&self, style: &Style, receiver: &Receiver<Row>) -> Result<(), Failure> {
        let mut printer = self.printer(style);
        while printer.left != 0 {
            let row = match receiver.try_recv() {
                Ok(row) => row,
                Err(_) => {
                    // About to wait: what was read so far must be seen.
                    printer.flush()?;
                    match receiver.recv() {
                        Ok(row) => row,
                        Err(_) => break,
                    }
                }
            };
            for record in row.map_err(|error| self.failure(error))? {
                if printer.left == 0 {
                    break;
                }
                printer.print(&record).map_err(unprintable)?;
            }
        }
        printer.flush()?;
        printer.progress.finish();
        Ok(())
    }

    fn failure(&self, error: Error) -> Failure {
        let is_out_of_range = error.kind() == ErrorKind::Refused(ErrorCode::OffsetOutOfRange);
        let failure = self.bootstrap.failure(error);
        if is_out_of_range {
            return failure.fix("what was next has been deleted: begin with -o beginning");
        }
        failure
    }
}

/// Some records, or why there are no more.
type Row = Result<Vec<ConsumerRecord>, Error>;

/// Reads partitions, each up to its end.
struct Reader {
    consumer: Consumer,
    topic: String,
    /// The partitions that are not yet at their end, and where that is.
    unread: BTreeMap<i32, i64>,
}

impl Reader {
    /// Reads until all partitions are at their end, or nobody listens any more.
    fn run(&mut self, sender: &SyncSender<Row>) {
        let mut patience = None;
        while !self.unread.is_empty() {
            let row = match self.read() {
                Ok(row) if row.is_empty() => match self.consumer.trouble() {
                    Some(trouble) => Err(trouble),
                    None => Ok(row),
                },
                row => row,
            };
            match row {
                Ok(row) => {
                    patience = None;
                    if !row.is_empty() && sender.send(Ok(row)).is_err() {
                        return;
                    }
                }
                Err(trouble) => {
                    let patience = patience.get_or_insert_with(Patience::default);
                    if !may_pass(&trouble) || patience.is_over() {
                        // If nobody listens, nobody wants to know.
                        let _ = sender.send(Err(trouble));
                        return;
                    }
                    patience.tell(&trouble);
                }
            }
        }
    }

    /// The next records, none if none come for a while.
    fn read(&mut self) -> Row {
        let mut row = self.consumer.poll(SILENT_FOR)?;
        row.retain(|record| {
            self.unread.get(&record.partition).is_some_and(|end| record.offset < *end)
        });
        let consumer = &mut self.consumer;
        let topic = &self.topic;
        let is_at_end = |partition: &i32, end: &mut i64| {
            consumer.position(topic, *partition).is_some_and(|position| *end <= position)
        };
        let read: Vec<i32> = self.unread.extract_if(.., is_at_end).map(|(at, _)| at).collect();
        for partition in read {
            self.consumer.pause(&self.topic, partition)?;
        }
        Ok(row)
    }
}

/// Whether polling on may help.
fn may_pass(trouble: &Error) -> bool {
    matches!(trouble.kind(), ErrorKind::Unreachable | ErrorKind::TimedOut)
}

enum Style {
    Template(Template),
    Json,
}

struct Printer<'a> {
    out: BufWriter<StdoutLock<'static>>,
    style: &'a Style,
    null: &'static [u8],
    left: u64,
    unbuffered: bool,
    progress: Progress,
}

impl Printer<'_> {
    fn print(&mut self, record: &ConsumerRecord) -> io::Result<()> {
        let headers: Vec<(&[u8], Option<&[u8]>)> =
            record.headers.iter().map(|(name, value)| (&name[..], value.as_deref())).collect();
        let (key, value) = (record.key.as_deref(), record.value.as_deref());
        match self.style {
            Style::Json => {
                let headers: Vec<_> = headers
                    .iter()
                    .map(|(name, value)| json!([text(Some(name)), text(*value)]))
                    .collect();
                let line = json!({
                    "topic": *record.topic,
                    "partition": record.partition,
                    "offset": record.offset,
                    "ts": record.timestamp_ms,
                    "key": text(key),
                    "payload": text(value),
                    "headers": headers,
                });
                writeln!(self.out, "{line}")?;
            }
            Style::Template(template) => template.print(
                &mut self.out,
                &Printed {
                    topic: &record.topic,
                    partition: record.partition,
                    offset: record.offset,
                    timestamp_ms: record.timestamp_ms,
                    key,
                    value,
                    headers: &headers,
                    null: self.null,
                },
            )?,
        }
        self.left -= 1;
        self.progress.add(1, value.map_or(0, <[u8]>::len));
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
