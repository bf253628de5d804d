//! A broker that does next to nothing, on our own runtime: the floor that a broker's figures stand
//! beside, and the measure of the load generator itself.
//!
//! It answers a produce at once, without a look at it. A fetch is answered from memory: with the
//! same batches each time, or, if it is told to keep what it is given, with what was produced. Then
//! it can also be told to do what no broker may: lose, repeat or damage a batch now and then.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tidemill_client::kafka::api_versions::{ApiVersion, ApiVersionsResponse};
use tidemill_client::kafka::create_topics::{CreatableTopicResult, CreateTopicsResponse};
use tidemill_client::kafka::fetch::{FetchPartitionResponse, FetchRequest, FetchResponse};
use tidemill_client::kafka::list_offsets::{
    EARLIEST, ListOffsetsPartitionResponse, ListOffsetsRequest, ListOffsetsResponse,
    ListOffsetsTopicResponse,
};
use tidemill_client::kafka::metadata::{
    MetadataRequest, MetadataResponse, MetadataResponseBroker, MetadataResponsePartition,
    MetadataResponseTopic,
};
use tidemill_client::kafka::produce::{ProducePartitionResponse, ProduceRequest, ProduceResponse};
use tidemill_client::kafka::{
    AnyRequest, ApiKey, ErrorCode, RequestHeader, TopicRef, encode_response,
};
use tidemill_client::record::{Batch, BatchBuilder, Codec, LeaderEpoch, Offset, Timestamp, stamp};
use tidemill_net::frame::frame_size;
use tidemill_runtime::chores::BackgroundThread;
use tidemill_runtime::edge::{
    Completion, Done, Edge, Instant, ListenerId, Next, Op, Program, ShardId, SocketId, Token,
};
use tidemill_runtime::ring::{RingConfig, RingEdge};
use tidemill_runtime::shard::{ShardPlan, run_shards};
use tidemill_runtime::socket;

use crate::workload::{Identity, Shape, Values, pool};

const REQUEST_BYTES_MAX: usize = 128 << 20;
const RECEIVE_ROOM: usize = 64 * 1024;

/// How long a fetch of what was kept waits for more: the sink looks again this often.
const LOOK_AGAIN: Duration = Duration::from_millis(1);

/// The highest versions that name topics by name.
const BY_NAME_MAX: i16 = 12;

/// What a sink does with a batch now and then, to be noticed by whoever reads.
#[derive(Clone, Copy, Debug, Eq, PartialEq, clap::ValueEnum)]
pub enum Misdeed {
    /// Acknowledges it and forgets it.
    Lose,
    /// Keeps it twice.
    Repeat,
    /// Changes a byte of the last record, with a checksum that hides it.
    Damage,
    /// Keeps it behind the one after it.
    Swap,
    /// Refuses it, as brokers may.
    Refuse,
}

/// How a sink behaves.
#[derive(Clone, Copy, Debug)]
pub struct Manners {
    /// How many bytes a fetch is answered with, of the same batches each time.
    pub fetch_bytes: usize,
    /// Whether it keeps what is produced and gives it to whoever fetches: at most so many bytes of
    /// each partition, the latest.
    pub keep_bytes: Option<usize>,
    /// What it does to every so many-th batch.
    pub misdeed: Option<(Misdeed, u64)>,
    /// How many milliseconds whoever produces is asked to be quiet after each answer.
    pub throttle_ms: i32,
}

impl Default for Manners {
    fn default() -> Self {
        Self { fetch_bytes: 1 << 20, keep_bytes: None, misdeed: None, throttle_ms: 0 }
    }
}

/// Serves until the process ends. `ready` is told the address.
pub fn serve(
    address: SocketAddr,
    manners: Manners,
    ready: impl FnOnce(SocketAddr),
) -> io::Result<()> {
    let listeners = socket::listen(address, 1)?;
    let bound = listeners[0].address();
    let make = move |_: ShardId| Sink::new(bound, manners);
    let plan = ShardPlan { core: None, listeners, make };
    let root = PathBuf::from(".");
    let config = RingConfig::new(root.clone());
    let handle = run_shards(&config, vec![plan], BackgroundThread::new(root))?;
    ready(bound);
    handle.join();
    Ok(())
}

/// The batches that are given to whoever fetches, where nothing is kept.
fn constant_records(fetch_bytes: usize) -> Bytes {
    let shape = Shape::of_bytes(1024);
    let mut values = Values::new(&[shape], pool(&[shape]), 0);
    let mut builder = BatchBuilder::new(Codec::None);
    for sequence in 0..60 {
        let identity = Identity { run: 0, producer: 0, sequence, due_nanos: 0 };
        let (key, value) = values.next(&shape, 0, identity);
        builder.append(Timestamp(0), key, Some(value));
    }
    let batch = builder.build();
    Bytes::from(batch.repeat(fetch_bytes.div_ceil(batch.len())))
}

/// What is kept of one partition.
#[derive(Default)]
struct Log {
    batches: VecDeque<(i64, Bytes)>,
    bytes: usize,
    next_offset: i64,
    appended: u64,
    held: Option<Bytes>,
}

struct Sink {
    address: SocketAddr,
    manners: Manners,
    records: Bytes,
    topics: HashMap<String, i32>,
    logs: HashMap<(String, i32), Log>,
    links: Vec<Option<Link>>,
    accepting: bool,
    /// Some link has a fetch that waits.
    waits: bool,
}

struct Link {
    socket: SocketId,
    input: BytesMut,
    outgoing: Vec<Bytes>,
    sending: bool,
    /// A fetch that found nothing: the whole frame, and until when it waits.
    waiting: Option<(Bytes, Instant)>,
}

const ACCEPTED: Token = Token(u64::MAX);
const RECEIVED: u64 = 0;
const SENT: u64 = 1;
const CLOSED: u64 = 2;

impl Sink {
    fn new(address: SocketAddr, manners: Manners) -> Self {
        let records = constant_records(manners.fetch_bytes);
        let (topics, logs) = (HashMap::new(), HashMap::new());
        let (links, accepting, waits) = (Vec::new(), false, false);
        Self { address, manners, records, topics, logs, links, accepting, waits }
    }

    fn handle(&mut self, completion: Completion, now: Instant, edge: &mut RingEdge<()>) {
        if completion.token == ACCEPTED {
            if let Ok(Done::Accepted { socket, .. }) = completion.result {
                let (input, outgoing, waiting) = (BytesMut::new(), Vec::new(), None);
                let link = Link { socket, input, outgoing, sending: false, waiting };
                self.links.push(Some(link));
                self.receive(self.links.len() - 1, edge);
            }
            return;
        }
        let (i, what) = ((completion.token.0 >> 2) as usize, completion.token.0 & 3);
        match (what, completion.result) {
            (RECEIVED, Ok(Done::Received { bytes, received })) if 0 < received => {
                if let Some(link) = &mut self.links[i] {
                    link.input = bytes;
                }
                if self.answer(i, now) {
                    self.receive(i, edge);
                } else {
                    self.close(i, edge);
                }
            }
            (SENT, Ok(_)) => {
                if let Some(link) = &mut self.links[i] {
                    link.sending = false;
                }
            }
            (CLOSED, _) => self.links[i] = None,
            // Ended or broken: whichever of receive and send tells it first closes.
            (RECEIVED, _) => self.close(i, edge),
            _ => {}
        }
        self.flush(i, edge);
    }

    fn close(&mut self, i: usize, edge: &mut RingEdge<()>) {
        if let Some(link) = &self.links[i] {
            let close = Op::CloseSocket { socket: link.socket };
            edge.submit(Token((i as u64) << 2 | CLOSED), close);
        }
    }

    fn receive(&mut self, i: usize, edge: &mut RingEdge<()>) {
        if let Some(link) = &mut self.links[i] {
            let mut into = std::mem::take(&mut link.input);
            into.reserve(RECEIVE_ROOM);
            let op = Op::Receive { socket: link.socket, into };
            edge.submit(Token((i as u64) << 2 | RECEIVED), op);
        }
    }

    /// Answers what has come whole; whether the connection can go on.
    fn answer(&mut self, i: usize, now: Instant) -> bool {
        loop {
            let Some(link) = &mut self.links[i] else { return false };
            let size = match frame_size(&link.input, REQUEST_BYTES_MAX) {
                Ok(Some(size)) if size <= link.input.len() => size,
                Ok(_) => return true,
                Err(_) => return false,
            };
            let frame = link.input.split_to(size).freeze().slice(4..);
            if self.answer_frame(i, &frame, now, false).is_none() {
                return false;
            }
        }
    }

    /// Answers one request; none if it cannot be read.
    fn answer_frame(&mut self, i: usize, frame: &Bytes, now: Instant, last: bool) -> Option<()> {
        let header = RequestHeader::parse(frame).ok()?;
        let (version, id) = (header.version, header.correlation_id);
        let body = frame.slice(header.body_start..);
        let mut out = BytesMut::new();
        let mut parts = Vec::new();
        match AnyRequest::parse(header.api_key, version, &body).ok()? {
            AnyRequest::Produce(request) => {
                let response = self.produce(&request, &body);
                if request.acks != 0 {
                    response.encode(&mut out, version, id);
                }
            }
            AnyRequest::Fetch(request) => {
                let (response, found) = self.fetch(&request);
                let wait = Duration::from_millis(u64::try_from(request.max_wait_ms).unwrap_or(0));
                if !found && !last && !wait.is_zero() {
                    let waiting = Some((frame.clone(), now.after(wait)));
                    self.links[i].as_mut()?.waiting = waiting;
                    self.waits = true;
                    return Some(());
                }
                response.encode(&mut out, &mut parts, version, id);
            }
            AnyRequest::ApiVersions(_) => encode_response(&mut out, version, id, &versions()),
            AnyRequest::Metadata(request) => {
                encode_response(&mut out, version, id, &self.metadata(&request));
            }
            AnyRequest::ListOffsets(request) => {
                encode_response(&mut out, version, id, &self.list_offsets(&request));
            }
            AnyRequest::CreateTopics(request) => {
                let made = |topic: &tidemill_client::kafka::create_topics::CreatableTopic| {
                    CreatableTopicResult { name: topic.name.clone(), ..Default::default() }
                };
                let topics = request.topics.iter().map(made).collect();
                for topic in request.topics {
                    self.topics.insert(topic.name, topic.num_partitions.max(1));
                }
                let response = CreateTopicsResponse { topics, ..CreateTopicsResponse::default() };
                encode_response(&mut out, version, id, &response);
            }
            _ => return None,
        }
        let link = self.links[i].as_mut()?;
        link.outgoing.append(&mut parts);
        if !out.is_empty() {
            link.outgoing.push(out.freeze());
        }
        Some(())
    }

    fn produce<'a>(&mut self, request: &ProduceRequest<'a>, body: &Bytes) -> ProduceResponse<'a> {
        let mut partitions = Vec::new();
        for asked in request.partitions() {
            let log = log_of(&mut self.logs, asked.topic, asked.partition);
            let base = log.next_offset;
            let records = asked.records.map(|range| body.slice(range)).unwrap_or_default();
            let taken = match self.manners.keep_bytes {
                Some(keep) => log.append(&records, keep, self.manners.misdeed),
                None => {
                    log.next_offset += 1;
                    true
                }
            };
            let (topic, partition) = (asked.topic, asked.partition);
            partitions.push(if taken {
                ProducePartitionResponse::appended(topic, partition, base, 0)
            } else {
                ProducePartitionResponse::failed(topic, partition, ErrorCode::PolicyViolation)
            });
        }
        let throttle_time_ms = self.manners.throttle_ms;
        ProduceResponse { partitions: partitions.into(), throttle_time_ms, ..Default::default() }
    }

    /// The answer to a fetch, and whether it holds anything.
    fn fetch<'a>(&mut self, request: &FetchRequest<'a>) -> (FetchResponse<'a>, bool) {
        let mut partitions = Vec::new();
        let (mut found, mut left) = (false, request.max_bytes.max(0) as usize);
        for asked in request.partitions() {
            let (topic, partition) = (asked.topic, asked.partition);
            let mut answer = FetchPartitionResponse::at(topic, partition, i64::MAX);
            if self.manners.keep_bytes.is_some() {
                let log = log_of(&mut self.logs, topic, partition);
                let limit = left.min(asked.partition_max_bytes.max(0) as usize);
                let records = log.read(asked.fetch_offset, limit);
                answer = FetchPartitionResponse::at(topic, partition, log.next_offset);
                left = left.saturating_sub(records.iter().map(Bytes::len).sum());
                found |= !records.is_empty();
                answer.records = records.into();
            } else {
                found = true;
                answer.records = vec![self.records.clone()].into();
            }
            partitions.push(answer);
        }
        (FetchResponse { partitions: partitions.into(), ..FetchResponse::default() }, found)
    }

    fn metadata(&self, request: &MetadataRequest) -> MetadataResponse {
        let broker = MetadataResponseBroker {
            node_id: 1,
            host: self.address.ip().to_string(),
            port: i32::from(self.address.port()),
            ..MetadataResponseBroker::default()
        };
        let partition = |partition_index| MetadataResponsePartition {
            partition_index,
            leader_id: 1,
            replica_nodes: vec![1],
            isr_nodes: vec![1],
            ..MetadataResponsePartition::default()
        };
        let topic = |name: &String| MetadataResponseTopic {
            error_code: match self.topics.contains_key(name) {
                true => ErrorCode::None,
                false => ErrorCode::UnknownTopicOrPartition,
            },
            name: Some(name.clone()),
            partitions: (0..self.topics.get(name).copied().unwrap_or(0)).map(partition).collect(),
            ..MetadataResponseTopic::default()
        };
        let topics = match &request.topics {
            Some(asked) => asked.iter().filter_map(|t| t.name.as_ref()).map(topic).collect(),
            None => self.topics.keys().map(topic).collect(),
        };
        MetadataResponse {
            brokers: vec![broker],
            cluster_id: Some("sink".to_owned()),
            controller_id: 1,
            topics,
            ..MetadataResponse::default()
        }
    }

    fn list_offsets(&mut self, request: &ListOffsetsRequest) -> ListOffsetsResponse {
        let mut topics = Vec::new();
        for topic in &request.topics {
            let mut partitions = Vec::new();
            for asked in &topic.partitions {
                let partition_index = asked.partition_index;
                let log = log_of(&mut self.logs, TopicRef::Name(&topic.name), partition_index);
                let first = log.batches.front().map_or(log.next_offset, |(base, _)| *base);
                let offset = if asked.timestamp == EARLIEST { first } else { log.next_offset };
                let found = ListOffsetsPartitionResponse {
                    partition_index,
                    offset,
                    ..ListOffsetsPartitionResponse::default()
                };
                partitions.push(found);
            }
            topics.push(ListOffsetsTopicResponse { name: topic.name.clone(), partitions });
        }
        ListOffsetsResponse { topics, ..ListOffsetsResponse::default() }
    }

    fn look_again(&mut self, now: Instant, edge: &mut RingEdge<()>) {
        if !std::mem::take(&mut self.waits) {
            return;
        }
        for i in 0..self.links.len() {
            let waiting = self.links[i].as_mut().and_then(|link| link.waiting.take());
            if let Some((frame, until)) = waiting {
                let last = until <= now;
                let answered = self.answer_frame(i, &frame, now, last);
                if let Some(Some((_, again))) =
                    answered.and(self.links[i].as_mut()).map(|l| &mut l.waiting)
                {
                    *again = until;
                }
                self.flush(i, edge);
            }
        }
    }

    fn flush(&mut self, i: usize, edge: &mut RingEdge<()>) {
        if let Some(link) = &mut self.links[i]
            && !link.sending
            && !link.outgoing.is_empty()
        {
            link.sending = true;
            let parts = std::mem::take(&mut link.outgoing);
            let op = Op::Send { socket: link.socket, parts };
            edge.submit(Token((i as u64) << 2 | SENT), op);
        }
    }
}

fn log_of<'l>(
    logs: &'l mut HashMap<(String, i32), Log>,
    topic: TopicRef<'_>,
    partition: i32,
) -> &'l mut Log {
    let TopicRef::Name(name) = topic else { unreachable!("versions with ids are not told of") };
    logs.entry((name.to_owned(), partition)).or_default()
}

impl Log {
    /// Whether it says that it has taken them.
    fn append(
        &mut self,
        records: &Bytes,
        keep_bytes: usize,
        misdeed: Option<(Misdeed, u64)>,
    ) -> bool {
        self.appended += 1;
        let due = misdeed.filter(|(_, every)| self.appended.is_multiple_of(*every));
        let held = self.held.take();
        match due.map(|(misdeed, _)| misdeed) {
            None => self.keep(records),
            // Its offsets are gone with it: nothing looks wrong to whoever produces.
            Some(Misdeed::Lose) => self.next_offset += records_count(records),
            Some(Misdeed::Refuse) => {}
            Some(Misdeed::Repeat) => {
                self.keep(records);
                self.keep(records);
            }
            Some(Misdeed::Damage) => self.keep(&damaged(records)),
            Some(Misdeed::Swap) => self.held = Some(records.clone()),
        }
        if let Some(held) = held {
            self.keep(&held);
        }
        while keep_bytes < self.bytes
            && let Some((_, oldest)) = self.batches.pop_front()
        {
            self.bytes -= oldest.len();
        }
        due.is_none_or(|(misdeed, _)| misdeed != Misdeed::Refuse)
    }

    fn keep(&mut self, records: &Bytes) {
        let count = records_count(records);
        if count == 0 {
            return;
        }
        let mut stamped = BytesMut::from(&records[..]);
        stamp(&mut stamped, Offset(self.next_offset), LeaderEpoch(0));
        self.bytes += stamped.len();
        self.batches.push_back((self.next_offset, stamped.freeze()));
        self.next_offset += count;
    }

    /// At least one batch, if there is any.
    fn read(&self, from: i64, limit_bytes: usize) -> Vec<Bytes> {
        let behind = self.batches.partition_point(|(base, _)| *base <= from);
        // Offsets that were lost with their batch lie between two others.
        let holds = |(base, batch): &&(i64, Bytes)| from < *base + records_count(batch);
        let before =
            behind.checked_sub(1).filter(|at| self.batches.get(*at).as_ref().is_some_and(holds));
        let first = before.unwrap_or(behind);
        let (mut found, mut size) = (Vec::new(), 0);
        if self.next_offset <= from {
            return found;
        }
        for (_, batch) in self.batches.iter().skip(first) {
            if !found.is_empty() && limit_bytes < size + batch.len() {
                break;
            }
            size += batch.len();
            found.push(batch.clone());
        }
        found
    }
}

/// How many records a batch has; none if it is none.
fn records_count(records: &Bytes) -> i64 {
    Batch::parse(records).map_or(0, |(batch, _)| batch.last_offset().0 - batch.base_offset().0 + 1)
}

/// The batch with a byte changed before its end, and a checksum that says all is well.
fn damaged(records: &Bytes) -> Bytes {
    let mut bytes = BytesMut::from(&records[..]);
    let place = bytes.len().saturating_sub(2);
    bytes[place] ^= 1;
    let crc = crc32c::crc32c(&bytes[21..]);
    bytes[17..21].copy_from_slice(&crc.to_be_bytes());
    bytes.freeze()
}

/// What the sink speaks: topics by their names.
fn versions() -> ApiVersionsResponse {
    let spoken = [
        ApiKey::Produce,
        ApiKey::Fetch,
        ApiKey::ListOffsets,
        ApiKey::Metadata,
        ApiKey::ApiVersions,
        ApiKey::CreateTopics,
    ];
    let version = |key: &ApiKey| {
        let api = key.api();
        let by_name = matches!(key, ApiKey::Produce | ApiKey::Fetch);
        ApiVersion {
            api_key: key.to_wire(),
            min_version: api.served_min,
            max_version: if by_name { BY_NAME_MAX } else { api.max },
        }
    };
    ApiVersionsResponse {
        api_keys: spoken.iter().map(version).collect(),
        finalized_features_epoch: -1,
        ..ApiVersionsResponse::default()
    }
}

impl Program<RingEdge<()>> for Sink {
    fn turn(&mut self, edge: &mut RingEdge<()>) -> Next {
        if !self.accepting {
            self.accepting = true;
            edge.submit(ACCEPTED, Op::Accept { listener: ListenerId(0) });
        }
        let now = edge.now();
        while let Some(completion) = edge.poll_completion() {
            self.handle(completion, now, edge);
        }
        self.look_again(now, edge);
        if self.waits { Next::At(now.after(LOOK_AGAIN)) } else { Next::Idle }
    }
}
