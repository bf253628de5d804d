//! `tidemill produce`: lines from standard input or files become records, as kcat's -P does it.
//!
//! With acks=all each line is stored once and in order, also when the broker goes away and comes
//! back within the retry time. A line is sent at once when no more input is at hand. A topic that is
//! not there is made with the first line, and that is said: the name may be mistyped.
//!
//! Start reading at [`Produce::run`].

use std::fs::File;
use std::io::{BufRead, BufReader, IsTerminal, Read};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::Arc;

use clap::{Args, ValueEnum};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tidemill_client::kafka::ErrorCode;
use tidemill_client::record::Codec;
use tidemill_client::{
    Acks, Admin, ConfigResource, Error, ErrorKind, Producer, ProducerConfig, Record,
};

use super::brokers::{Bootstrap, Patience, RETRY_FOR, SILENT_FOR};
use super::failure::Failure;
use super::{Progress, counted, template};

/// A batch is sent once it holds so many bytes, uncompressed.
const BATCH_BYTES: usize = 512 * 1024;

/// A request is sent once all its batches together hold so many bytes.
const REQUEST_BYTES: usize = 4 * 1024 * 1024;

/// The longest line taken; a broker refuses such a record long before.
const LINE_BYTES_MAX: usize = 256 * 1024 * 1024;

/// How much is read ahead.
const READ_BYTES: usize = 1024 * 1024;

/// What a broker says of a topic that is not there.
const UNKNOWN: ErrorKind = ErrorKind::Refused(ErrorCode::UnknownTopicOrPartition);

/// `tidemill produce …`
#[derive(Args, Debug)]
pub(super) struct Produce {
    /// To which topic.
    #[arg(short, long)]
    topic: String,
    /// To which partition [default: by the key's hash; without keys, batch by batch to any]
    #[arg(short, long, value_parser = clap::value_parser!(i32).range(0..))]
    partition: Option<i32>,
    /// What separates key and value in a line, such as ':' or '\t' [default: lines have no key]
    #[arg(short = 'K', long = "key-delimiter", value_name = "TEXT")]
    key_delimiter: Option<String>,
    /// What separates records.
    #[arg(short = 'D', long = "delimiter", value_name = "TEXT", default_value = "\\n")]
    delimiter: String,
    /// The key of all records.
    #[arg(short, long, conflicts_with = "key_delimiter")]
    key: Option<String>,
    /// A header of all records; may be repeated.
    #[arg(short = 'H', long = "header", value_name = "NAME=VALUE")]
    headers: Vec<String>,
    /// Send empty keys and values as null.
    #[arg(short = 'Z', long = "null")]
    empty_is_null: bool,
    /// How to compress.
    #[arg(short = 'z', long, value_enum, default_value_t = Compression::None)]
    compression: Compression,
    /// Who must have the records before they count as sent: all, 1 or 0.
    #[arg(short, long, default_value = "all", value_parser = parse_acks)]
    acks: Acks,
    #[command(flatten)]
    bootstrap: Bootstrap,
    /// Files to read instead of standard input.
    files: Vec<PathBuf>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Compression {
    None,
    Gzip,
    Snappy,
    Lz4,
    Zstd,
}

fn parse_acks(text: &str) -> Result<Acks, String> {
    match text {
        "all" | "-1" => Ok(Acks::All),
        "1" => Ok(Acks::Leader),
        "0" => Ok(Acks::None),
        _ => Err("all, 1 or 0".to_owned()),
    }
}

impl Compression {
    fn codec(self) -> Codec {
        match self {
            Self::None => Codec::None,
            Self::Gzip => Codec::Gzip,
            Self::Snappy => Codec::Snappy,
            Self::Lz4 => Codec::Lz4,
            Self::Zstd => Codec::Zstd,
        }
    }
}

impl Produce {
    pub(super) fn run(self) -> Result<(), Failure> {
        let delimiter = self.separator("--delimiter", &self.delimiter)?;
        let key_delimiter = match &self.key_delimiter {
            Some(text) => Some(self.separator("--key-delimiter", text)?),
            None => None,
        };
        let mut sender = Sender::open(&self)?;
        if self.files.is_empty() {
            if std::io::stdin().is_terminal() {
                eprintln!("type one record per line; Ctrl-D ends");
            }
            let input = BufReader::with_capacity(READ_BYTES, std::io::stdin().lock());
            self.send_all(input, &delimiter, key_delimiter.as_deref(), &mut sender)?;
        }
        for path in &self.files {
            let file = File::open(path)
                .map_err(|e| Failure::new(format!("cannot read {}", path.display())).because(e))?;
            let input = BufReader::with_capacity(READ_BYTES, file);
            self.send_all(input, &delimiter, key_delimiter.as_deref(), &mut sender)?;
        }
        sender.settle()?;
        sender.progress.finish();
        if sender.makes_topic {
            eprintln!("tidemill: nothing was sent, and no topic {} was made", self.topic);
        }
        Ok(())
    }

    fn separator(&self, flag: &str, text: &str) -> Result<Vec<u8>, Failure> {
        match template::unescape(text) {
            Ok(bytes) if !bytes.is_empty() => Ok(bytes),
            Ok(_) => Err(Failure::usage(format!("{flag} cannot be empty"))),
            Err(reason) => Err(Failure::usage(format!("{flag}: {reason}"))),
        }
    }

    fn send_all(
        &self,
        mut input: impl BufReadAhead,
        delimiter: &[u8],
        key_delimiter: Option<&[u8]>,
        sender: &mut Sender,
    ) -> Result<(), Failure> {
        let mut line = Vec::new();
        while read_until(&mut input, delimiter, &mut line)
            .map_err(|e| Failure::new("cannot read the input").because(e))?
        {
            let (key, value) = match key_delimiter {
                Some(delimiter) => split_key(&line, delimiter),
                None => (self.key.as_deref().map(str::as_bytes), &line[..]),
            };
            let kept = |bytes: &&[u8]| !(self.empty_is_null && bytes.is_empty());
            sender.take(key.filter(kept), Some(value).filter(kept))?;
            // Nothing more at hand: a person or a slow program is typing, so do not make it wait.
            if !input.has_more_at_hand() {
                sender.settle()?;
            }
            line.clear();
        }
        Ok(())
    }
}

/// Input that knows whether more can be read without waiting.
trait BufReadAhead: BufRead {
    fn has_more_at_hand(&self) -> bool;
}

impl<R: Read + AsFd> BufReadAhead for BufReader<R> {
    fn has_more_at_hand(&self) -> bool {
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        let mut input = [PollFd::new(self.get_ref(), PollFlags::IN)];
        // The end of the input counts as well: it is seen when it is read.
        !self.buffer().is_empty() || poll(&mut input, Some(&now)).is_ok_and(|ready| 0 < ready)
    }
}

/// Reads up to the next delimiter, which is left out; false at the end of the input.
fn read_until(
    input: &mut impl BufRead,
    delimiter: &[u8],
    line: &mut Vec<u8>,
) -> std::io::Result<bool> {
    let last = *delimiter.last().expect("a delimiter has at least one byte");
    loop {
        let read = input.by_ref().take(LINE_BYTES_MAX as u64).read_until(last, line)?;
        if line.ends_with(delimiter) {
            line.truncate(line.len() - delimiter.len());
            return Ok(true);
        }
        if read == 0 {
            return Ok(!line.is_empty());
        }
        if LINE_BYTES_MAX <= line.len() {
            return Err(std::io::Error::other("a record is longer than 256 MiB"));
        }
    }
}

/// The part before the first delimiter and the part after it; without one, all is value.
fn split_key<'a>(line: &'a [u8], delimiter: &[u8]) -> (Option<&'a [u8]>, &'a [u8]) {
    match line.windows(delimiter.len()).position(|window| window == delimiter) {
        Some(at) => (Some(&line[..at]), &line[at + delimiter.len()..]),
        None => (None, line),
    }
}

/// Hands records to the client and sees to it that they are stored.
struct Sender<'a> {
    bootstrap: &'a Bootstrap,
    producer: Producer,
    /// Whether the topic is not there, and the first record makes it.
    makes_topic: bool,
    /// What all records have in common.
    record: Record,
    patience: Patience,
    progress: Progress,
}

impl<'a> Sender<'a> {
    fn open(produce: &'a Produce) -> Result<Self, Failure> {
        let bootstrap = &produce.bootstrap;
        let mut admin = bootstrap.admin(false)?;
        let makes_topic = match admin.topic(&produce.topic) {
            Err(error) if error.kind() == UNKNOWN && makes_topics(&mut admin) => true,
            // Told at once, and not only when the first record is given up.
            _ => {
                let asked: Vec<i32> = produce.partition.into_iter().collect();
                bootstrap.partitions(&mut admin, &produce.topic, &asked)?;
                false
            }
        };
        if makes_topic && produce.files.is_empty() && std::io::stdin().is_terminal() {
            eprintln!("there is no topic {} yet: the first record makes it", produce.topic);
        }
        let failed = |error| bootstrap.failure(error);
        let producer = Producer::open(produce.config()).map_err(failed)?;
        let mut record = Record::to(Arc::from(&*produce.topic));
        record.partition = produce.partition;
        for header in &produce.headers {
            record = match header.split_once('=') {
                Some((name, value)) => {
                    record.header(name.to_owned(), Some(value.to_owned().into()))
                }
                None => record.header(header.clone(), None),
            };
        }
        let (patience, progress) = (Patience::default(), Progress::new("sent"));
        Ok(Self { bootstrap, producer, makes_topic, record, patience, progress })
    }

    /// Has the broker make the topic, and says so.
    fn make_topic(&mut self) -> Result<(), Failure> {
        let (topic, mut admin) = (&self.record.topic, self.bootstrap.admin(true)?);
        let count = self.bootstrap.topic(&mut admin, topic)?.partitions.len() as u64;
        let partitions = counted(count, "partition", "partitions");
        eprintln!("tidemill: there was no topic {topic}: it is made, with {partitions}");
        let asked: Vec<i32> = self.record.partition.into_iter().collect();
        self.bootstrap.partitions(&mut admin, topic, &asked)?;
        self.makes_topic = false;
        Ok(())
    }

    /// Takes a record to be sent; waits while as much as allowed is under way.
    fn take(&mut self, key: Option<&[u8]>, value: Option<&[u8]>) -> Result<(), Failure> {
        if self.makes_topic {
            self.make_topic()?;
        }
        let mut record = self.record.clone();
        record.key = key.map(|key| key.to_vec().into());
        record.value = value.map(|value| value.to_vec().into());
        while let Err(refused) = self.producer.send_within(record, SILENT_FOR) {
            if refused.error.kind() != ErrorKind::Full {
                return Err(self.bootstrap.failure(refused.error));
            }
            self.check()?;
            record = *refused.record;
        }
        self.progress.add(1, key.map_or(0, <[u8]>::len) + value.map_or(0, <[u8]>::len));
        Ok(())
    }

    /// Waits until all that was taken is stored.
    fn settle(&mut self) -> Result<(), Failure> {
        while !self.producer.flush_within(SILENT_FOR).map_err(|error| self.failure(error))? {
            self.check()?;
        }
        Ok(())
    }

    /// Fails if anything was given up; else says what is waited for, if that is known.
    fn check(&mut self) -> Result<(), Failure> {
        self.producer.check().map_err(|error| self.failure(error))?;
        if let Some(trouble) = self.producer.trouble() {
            self.patience.tell(&trouble);
        }
        Ok(())
    }

    fn failure(&self, error: Error) -> Failure {
        let failure = self.bootstrap.failure(error);
        let too_few = ErrorCode::NotEnoughReplicas.to_string();
        let cause = failure.explanation.cause.as_deref().unwrap_or_default();
        if !cause.starts_with(&too_few) || failure.explanation.fix.is_some() {
            return failure;
        }
        let (topic, flag) = (&self.record.topic, self.bootstrap.flag());
        failure.fix(format!(
            "`tidemill topic describe {topic}{flag}` shows how many replicas are in sync (ISR): bring \
             back what is away, or `tidemill topic configure {topic} -X min.insync.replicas=1{flag}`"
        ))
    }
}

/// Whether asking for a topic makes it, as far as the broker tells.
fn makes_topics(admin: &mut Admin) -> bool {
    let nodes = admin.cluster().map(|cluster| cluster.nodes).unwrap_or_default();
    let Some(node) = nodes.into_keys().next() else { return true };
    let configs = admin.describe_configs(&ConfigResource::Node(node)).unwrap_or_default();
    let value = configs.into_iter().find(|config| config.name == "auto.create.topics.enable");
    value.and_then(|config| config.value).as_deref() != Some("false")
}

impl Produce {
    fn config(&self) -> ProducerConfig {
        // Only who waits for all replicas can be promised that nothing is stored twice. Whoever
        // does not keeps the order by having one request under way.
        let idempotent = self.acks == Acks::All;
        let usual = ProducerConfig::default();
        ProducerConfig {
            cluster: self.bootstrap.cluster(true),
            acks: self.acks,
            idempotent,
            in_flight_max: if idempotent { usual.in_flight_max } else { 1 },
            batch_bytes: BATCH_BYTES,
            request_bytes: REQUEST_BYTES,
            record_bytes_max: LINE_BYTES_MAX,
            compression: self.compression.codec(),
            delivery_timeout: RETRY_FOR,
            ..usual
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn input_is_cut_at_each_delimiter_and_the_last_record_needs_none() {
        let mut input = &b"one||two|half||three"[..];
        let mut lines = Vec::new();
        let mut line = Vec::new();
        while read_until(&mut input, b"||", &mut line).unwrap() {
            lines.push(String::from_utf8(std::mem::take(&mut line)).unwrap());
        }
        assert_eq!(lines, ["one", "two|half", "three"]);
    }

    #[test]
    fn the_first_delimiter_ends_the_key() {
        assert_eq!(split_key(b"k:v:w", b":"), (Some(&b"k"[..]), &b"v:w"[..]));
        assert_eq!(split_key(b"value", b":"), (None, &b"value"[..]));
    }
}
