//! `tidemill produce`: lines from standard input or files become records, as kcat's -P does it.
//!
//! An idempotent producer with one request in flight: with acks=all each line is stored once and
//! in order, also when the broker goes away and comes back within the retry time.
//!
//! Start reading at [`Produce::run`].

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader, IsTerminal, Read};
use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::{Bytes, BytesMut};
use clap::{Args, ValueEnum};
use tidemill_client::partition_of_key;
use tidemill_net::kafka::init_producer_id::InitProducerIdRequest;
use tidemill_net::kafka::produce::{OutgoingProduce, OutgoingProducePartition, ProduceResponse};
use tidemill_net::kafka::{ApiKey, ErrorCode, TopicRef};
use tidemill_record::{
    BatchBuilder, Codec, Header, Producer, ProducerEpoch, ProducerId, Sequence, Timestamp,
};

use super::client::{Client, Patience, RETRY_FOR};
use super::failure::Failure;
use super::{Bootstrap, Progress, template};

/// A batch is sent once it holds so many bytes, uncompressed.
const BATCH_BYTES: usize = 512 * 1024;

/// A request is sent once all its batches together hold so many bytes.
const REQUEST_BYTES: usize = 4 * 1024 * 1024;

/// The longest line taken; a broker refuses such a record long before.
const LINE_BYTES_MAX: u64 = 256 * 1024 * 1024;

/// How much is read ahead: a batch is as large as what is there to be read.
const READ_BYTES: usize = 1024 * 1024;

/// The last version that names topics by their names.
const PRODUCE_VERSION_MAX: i16 = 12;

/// `tidemill produce …`
#[derive(Args, Debug)]
pub(super) struct Produce {
    /// To which topic.
    #[arg(short, long)]
    topic: String,
    /// To which partition [default: by the key's hash, or in turn]
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
    acks: i16,
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

fn parse_acks(text: &str) -> Result<i16, String> {
    match text {
        "all" | "-1" => Ok(-1),
        "1" => Ok(1),
        "0" => Ok(0),
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
        sender.send()?;
        sender.progress.finish();
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
                sender.send()?;
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

impl<R: Read> BufReadAhead for BufReader<R> {
    fn has_more_at_hand(&self) -> bool {
        !self.buffer().is_empty()
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
        let read = input.by_ref().take(LINE_BYTES_MAX).read_until(last, line)?;
        if line.ends_with(delimiter) {
            line.truncate(line.len() - delimiter.len());
            return Ok(true);
        }
        if read == 0 {
            return Ok(!line.is_empty());
        }
        if LINE_BYTES_MAX <= line.len() as u64 {
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

/// Collects records into batches and sends them.
struct Sender {
    client: Client,
    topic: String,
    partitions: Vec<i32>,
    fixed: Option<i32>,
    next_in_turn: usize,
    producer: Option<Producer>,
    sequences: BTreeMap<i32, Sequence>,
    codec: Codec,
    acks: i16,
    headers: Vec<(String, Option<String>)>,
    open: BTreeMap<i32, BatchBuilder>,
    open_bytes: usize,
    progress: Progress,
}

impl Sender {
    fn open(produce: &Produce) -> Result<Self, Failure> {
        let mut client = Client::new(&produce.bootstrap.address);
        let topic = client.topic(&produce.topic, true)?;
        let partitions: Vec<i32> = topic.partitions.iter().map(|p| p.partition_index).collect();
        if let Some(partition) = produce.partition.filter(|p| !partitions.contains(p)) {
            return Err(Failure::usage(format!(
                "topic {} has partitions 0 to {}, not {partition}",
                produce.topic,
                partitions.len() - 1
            )));
        }
        // Only who waits for all replicas can be promised that nothing is stored twice.
        let producer = if produce.acks == -1 { Some(producer_id(&mut client)?) } else { None };
        let headers = produce.headers.iter().map(|text| match text.split_once('=') {
            Some((name, value)) => (name.to_owned(), Some(value.to_owned())),
            None => (text.clone(), None),
        });
        Ok(Self {
            client,
            topic: produce.topic.clone(),
            partitions,
            fixed: produce.partition,
            next_in_turn: 0,
            producer,
            sequences: BTreeMap::new(),
            codec: produce.compression.codec(),
            acks: produce.acks,
            headers: headers.collect(),
            open: BTreeMap::new(),
            open_bytes: 0,
            progress: Progress::new("sent"),
        })
    }

    fn take(&mut self, key: Option<&[u8]>, value: Option<&[u8]>) -> Result<(), Failure> {
        let size = key.map_or(0, <[u8]>::len) + value.map_or(0, <[u8]>::len);
        let partition = self.partition_for(key);
        let full = |builder: &BatchBuilder| BATCH_BYTES < builder.size_bytes() + size;
        if self.open.get(&partition).is_some_and(full) || REQUEST_BYTES < self.open_bytes + size {
            self.send()?;
        }
        let headers: Vec<Header<'_>> = self
            .headers
            .iter()
            .map(|(name, value)| Header {
                key: name.as_bytes(),
                value: value.as_ref().map(String::as_bytes),
            })
            .collect();
        let builder = self.open.entry(partition).or_insert_with(|| {
            let builder = BatchBuilder::new(self.codec);
            match self.producer {
                Some(producer) => {
                    let sequence = self.sequences.get(&partition).copied();
                    builder.numbered(producer, sequence.unwrap_or(Sequence(0)))
                }
                None => builder,
            }
        });
        builder.append_with_headers(Timestamp(now_ms()), key, value, &headers);
        self.open_bytes += size;
        self.progress.add(1, size);
        Ok(())
    }

    /// Where a record goes: with a key always to the same partition as Java's clients send it,
    /// without one to one partition after the other, a batch each.
    fn partition_for(&self, key: Option<&[u8]>) -> i32 {
        let count = self.partitions.len();
        match (self.fixed, key) {
            (Some(fixed), _) => fixed,
            (None, Some(key)) => self.partitions[partition_of_key(key, count) as usize],
            (None, None) => self.partitions[self.next_in_turn % count],
        }
    }

    /// Sends all open batches and waits until they are acknowledged.
    fn send(&mut self) -> Result<(), Failure> {
        if self.open.is_empty() {
            return Ok(());
        }
        let mut waiting = BTreeMap::new();
        for (partition, builder) in std::mem::take(&mut self.open) {
            let next = self.sequences.entry(partition).or_insert(Sequence(0));
            *next = next.plus(builder.records_count() as i32);
            waiting.insert(partition, builder.build().freeze());
        }
        self.open_bytes = 0;
        self.next_in_turn += 1;

        let mut patience = Patience::default();
        loop {
            let failure = self.send_once(&mut waiting)?;
            let Some(failure) = failure else { return Ok(()) };
            if !patience.wait(&failure.in_one_line()) {
                return Err(failure);
            }
            // Ignored on purpose: if the broker is away, the next try will say so.
            let _ = self.client.metadata(Some(&[&self.topic]), false);
        }
    }

    /// Sends each waiting batch once; what was stored is taken out of `waiting`. Tells why the
    /// rest may be tried again, if there is a rest.
    fn send_once(
        &mut self,
        waiting: &mut BTreeMap<i32, Bytes>,
    ) -> Result<Option<Failure>, Failure> {
        let mut by_leader: BTreeMap<i32, Vec<i32>> = BTreeMap::new();
        let mut failure = None;
        for &partition in waiting.keys() {
            match self.client.leader_of(&self.topic, partition) {
                Some(leader) => by_leader.entry(leader).or_default().push(partition),
                None => failure = Some(self.failed(partition, "no leader is known")),
            }
        }
        for (leader, partitions) in by_leader {
            let outcome = self.send_to(leader, &partitions, waiting);
            let results = match outcome {
                Ok(results) => results,
                Err(lost) => {
                    self.client.forget(leader);
                    failure = Some(lost);
                    continue;
                }
            };
            for (partition, error, message) in results {
                match error {
                    ErrorCode::None | ErrorCode::DuplicateSequenceNumber => {
                        waiting.remove(&partition);
                    }
                    error if error.is_retriable() => {
                        failure = Some(self.failed(partition, error.name()).advised(error));
                    }
                    error => {
                        let why = match message {
                            Some(message) if !message.is_empty() => {
                                format!("{}: {message}", error.name())
                            }
                            _ => error.name().to_owned(),
                        };
                        return Err(self.failed(partition, &why).advised(error));
                    }
                }
            }
        }
        Ok(if waiting.is_empty() { None } else { failure })
    }

    fn send_to(
        &mut self,
        leader: i32,
        partitions: &[i32],
        waiting: &BTreeMap<i32, Bytes>,
    ) -> Result<Vec<(i32, ErrorCode, Option<String>)>, Failure> {
        let parts: Vec<_> = partitions
            .iter()
            .map(|partition| OutgoingProducePartition {
                topic: TopicRef::Name(&self.topic),
                partition: *partition,
                records: Some(&waiting[partition]),
            })
            .collect();
        let request = OutgoingProduce {
            transactional_id: None,
            acks: self.acks,
            timeout_ms: RETRY_FOR.as_millis() as i32,
            partitions: &parts,
        };
        let connection = self.client.node(leader)?;
        let version = connection.version_of(ApiKey::Produce, PRODUCE_VERSION_MAX)?;
        let encode = |out: &mut BytesMut, id: i32, client: Option<&str>| {
            request.encode(out, version, id, client);
        };
        if self.acks == 0 {
            connection.send_only(encode)?;
            return Ok(partitions.iter().map(|p| (*p, ErrorCode::None, None)).collect());
        }
        let body = connection.call_in_place(ApiKey::Produce, version, encode)?;
        let answer = ProduceResponse::parse(version, &body).map_err(|e| {
            Failure::new("the broker's answer to a produce cannot be read").because(e)
        })?;
        let results = answer
            .partitions
            .iter()
            .map(|p| (p.partition, p.error_code, p.error_message.as_deref().map(str::to_owned)));
        Ok(results.collect())
    }

    fn failed(&self, partition: i32, cause: &str) -> Failure {
        Failure::new(format!("cannot produce to partition {partition} of {}", self.topic))
            .because(cause)
    }
}

fn producer_id(client: &mut Client) -> Result<Producer, Failure> {
    let request = InitProducerIdRequest { transaction_timeout_ms: 60_000, ..Default::default() };
    let mut patience = Patience::default();
    loop {
        let answer = client.any()?.call(&request)?;
        if answer.error_code == ErrorCode::None {
            return Ok(Producer {
                id: ProducerId(answer.producer_id),
                epoch: ProducerEpoch(answer.producer_epoch),
            });
        }
        let error = answer.error_code;
        let failure =
            Failure::new("the broker gave no producer id").because(error.name()).advised(error);
        if !error.is_retriable() || !patience.wait(&failure.in_one_line()) {
            return Err(failure);
        }
    }
}

fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    since.as_millis() as i64
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
