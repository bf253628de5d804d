//! The clients and the checkers, tried out on a model of a broker that keeps everything in a
//! memory no crash can touch. Without a flaw every run must pass; with any of its flaws, runs must
//! be caught.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

use bytes::{Bytes, BytesMut};
use sim::edge::SimEdge;
use sim::network::{BOOTSTRAP_LISTENER, BOOTSTRAP_PORT, OWN_LISTENER, OWN_PORT};
use sim::random::Random;
use sim::run::{Outcome, Plan, run};
use sim::trace::Trace;
use sim::world::{Node, Start};
use tidemill_net::frame::{LENGTH_BYTES, frame_size};
use tidemill_net::kafka::create_partitions::{
    CreatePartitionsResponse, CreatePartitionsTopicResult,
};
use tidemill_net::kafka::create_topics::{CreatableTopicResult, CreateTopicsResponse};
use tidemill_net::kafka::delete_records::{
    DeleteRecordsPartitionResult, DeleteRecordsResponse, DeleteRecordsTopicResult,
};
use tidemill_net::kafka::delete_topics::{DeletableTopicResult, DeleteTopicsResponse};
use tidemill_net::kafka::fetch::{FetchPartitionResponse, FetchResponse, READ_COMMITTED};
use tidemill_net::kafka::init_producer_id::InitProducerIdResponse;
use tidemill_net::kafka::list_offsets::{
    EARLIEST, ListOffsetsPartitionResponse, ListOffsetsResponse, ListOffsetsTopicResponse,
};
use tidemill_net::kafka::metadata::{
    MetadataResponse, MetadataResponseBroker, MetadataResponsePartition, MetadataResponseTopic,
};
use tidemill_net::kafka::produce::{ProducePartitionResponse, ProduceResponse};
use tidemill_net::kafka::{AnyRequest, ErrorCode, RequestHeader, TopicRef, encode_response};
use tidemill_record::{Batch, LeaderEpoch, Offset, TopicId, stamp};
use tidemill_runtime::edge::{Done, Edge, Next, Op, Program, ShardId, SocketId, Token};

/// What is wrong with the model.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Flaw {
    None,
    /// A restart loses the last batch of each partition.
    LosesTheEnd,
    /// Retries are appended again.
    ForgetsProducers,
    /// A restart brings deleted records back.
    ForgetsTrims,
    /// A restart brings deleted topics back.
    ForgetsDeletions,
    /// Leader epochs are stamped anew whenever a batch is read.
    ChangesBytes,
    /// Some requests are never answered.
    LosesAnswers,
}

#[derive(Clone, Default)]
struct Log {
    start: i64,
    batches: Vec<(i64, i64, Bytes)>,
    producers: BTreeMap<i64, VecDeque<(i32, i64)>>,
}

impl Log {
    fn end(&self) -> i64 {
        self.batches.last().map_or(0, |batch| batch.1)
    }
}

#[derive(Clone)]
struct Topic {
    name: String,
    logs: Vec<Log>,
}

struct State {
    flaw: Flaw,
    topics: BTreeMap<TopicId, Topic>,
    deleted: Vec<(TopicId, Topic)>,
    next_id: u8,
    next_producer: i64,
    epoch: i32,
    shards: u16,
    answers: u64,
}

impl State {
    fn topic(&mut self, topic: TopicRef<'_>) -> Option<&mut Topic> {
        match topic {
            TopicRef::Id(id) => self.topics.get_mut(&id),
            TopicRef::Name(name) => self.topics.values_mut().find(|topic| topic.name == name),
        }
    }

    fn log(&mut self, topic: TopicRef<'_>, partition: i32) -> Option<&mut Log> {
        self.topic(topic)?.logs.get_mut(usize::try_from(partition).ok()?)
    }

    fn append(
        &mut self,
        topic: TopicRef<'_>,
        partition: i32,
        bytes: &[u8],
    ) -> Result<i64, ErrorCode> {
        let (flaw, epoch) = (self.flaw, self.epoch);
        let log = self.log(topic, partition).ok_or(ErrorCode::UnknownTopicOrPartition)?;
        let (batch, _) = Batch::parse(bytes).map_err(|_| ErrorCode::CorruptMessage)?;
        batch.verify_checksum().map_err(|_| ErrorCode::CorruptMessage)?;
        let base = log.end();
        if let (Some(producer), Some(sequence)) = (batch.producer(), batch.base_sequence())
            && flaw != Flaw::ForgetsProducers
        {
            let known = log.producers.entry(producer.id.0).or_default();
            if let Some(duplicate) = known.iter().find(|(first, _)| *first == sequence.0) {
                return Ok(duplicate.1);
            }
            let count = batch.records_count() as i32;
            let expected = known.back().map_or(0, |(_, _)| {
                let last = log.batches.iter().rev().find_map(|(_, _, bytes)| {
                    let (batch, _) = Batch::parse(bytes).ok()?;
                    let same = batch.producer().is_some_and(|p| p.id == producer.id);
                    same.then(|| batch.last_sequence().expect("it is numbered").0 + 1)
                });
                last.unwrap_or(0)
            });
            if expected != sequence.0 {
                return Err(ErrorCode::OutOfOrderSequenceNumber);
            }
            known.push_back((sequence.0, base));
            if 5 < known.len() {
                known.pop_front();
            }
            assert!(0 < count);
        }
        let mut stamped = BytesMut::from(bytes);
        stamp(&mut stamped, Offset(base), LeaderEpoch(epoch));
        log.batches.push((base, base + i64::from(batch.records_count()), stamped.freeze()));
        Ok(base)
    }

    fn read(
        &mut self,
        topic: TopicRef<'_>,
        partition: i32,
        from: i64,
    ) -> FetchPartitionResponse<'static> {
        let (flaw, answers) = (self.flaw, self.answers);
        let Some(log) = self.log(topic, partition) else {
            let nobody = TopicRef::Id(TopicId::ZERO);
            return FetchPartitionResponse::failed(
                nobody,
                partition,
                ErrorCode::UnknownTopicOrPartition,
            );
        };
        let nobody = TopicRef::Id(TopicId::ZERO);
        if from < log.start || log.end() < from {
            return FetchPartitionResponse::failed(nobody, partition, ErrorCode::OffsetOutOfRange);
        }
        let batches = log.batches.iter().filter(|batch| from < batch.1).take(3);
        let records = batches.map(|(base, _, bytes)| {
            let mut bytes = BytesMut::from(&bytes[..]);
            if flaw == Flaw::ChangesBytes {
                stamp(&mut bytes, Offset(*base), LeaderEpoch(answers as i32));
            }
            bytes.freeze()
        });
        let records: Vec<Bytes> = records.collect();
        FetchPartitionResponse {
            log_start_offset: log.start,
            records: records.into(),
            ..FetchPartitionResponse::at(nobody, partition, log.end())
        }
    }

    fn metadata(&self) -> MetadataResponse {
        let broker = |shard: u16| MetadataResponseBroker {
            node_id: 1 + i32::from(shard) * 65_536,
            host: "model".to_owned(),
            port: i32::from(OWN_PORT + shard),
            rack: None,
        };
        let partition = |number: usize| MetadataResponsePartition {
            partition_index: number as i32,
            leader_id: 1 + (number as i32 % i32::from(self.shards)) * 65_536,
            leader_epoch: self.epoch,
            ..MetadataResponsePartition::default()
        };
        let topic = |(id, topic): (&TopicId, &Topic)| MetadataResponseTopic {
            name: Some(topic.name.clone()),
            topic_id: *id,
            partitions: (0..topic.logs.len()).map(partition).collect(),
            ..MetadataResponseTopic::default()
        };
        MetadataResponse {
            brokers: (0..self.shards).map(broker).collect(),
            topics: self.topics.iter().map(topic).collect(),
            ..MetadataResponse::default()
        }
    }

    fn create(&mut self, name: &str, partitions: i32) -> (ErrorCode, TopicId) {
        if self.topic(TopicRef::Name(name)).is_some() {
            return (ErrorCode::TopicAlreadyExists, TopicId::ZERO);
        }
        self.next_id += 1;
        let id = TopicId([self.next_id; 16]);
        let logs = vec![Log::default(); partitions as usize];
        self.topics.insert(id, Topic { name: name.to_owned(), logs });
        (ErrorCode::None, id)
    }

    /// What a restart does to it.
    fn restart(&mut self) {
        self.epoch += 1;
        for log in self.topics.values_mut().flat_map(|topic| &mut topic.logs) {
            if self.flaw == Flaw::LosesTheEnd {
                log.batches.pop();
            }
            if self.flaw == Flaw::ForgetsTrims {
                log.start = 0;
            }
        }
        if self.flaw == Flaw::ForgetsDeletions {
            self.topics.extend(self.deleted.drain(..));
        }
    }

    /// The answer to a frame; nothing, if none is wanted.
    fn answer(&mut self, frame: &[u8]) -> Vec<Bytes> {
        self.answers += 1;
        let header = RequestHeader::parse(frame).expect("our own clients");
        let (version, correlation) = (header.version, header.correlation_id);
        let body = &frame[header.body_start..];
        let request = AnyRequest::parse(header.api_key, version, body).expect("our own clients");
        let mut out = BytesMut::new();
        match request {
            AnyRequest::Produce(request) => {
                let mut partitions = Vec::new();
                for part in request.partitions() {
                    let records = &body[part.records.expect("records are sent")];
                    partitions.push(match self.append(part.topic, part.partition, records) {
                        Ok(base) => {
                            ProducePartitionResponse::appended(part.topic, part.partition, base, 0)
                        }
                        Err(error) => {
                            ProducePartitionResponse::failed(part.topic, part.partition, error)
                        }
                    });
                }
                if request.acks == 0 {
                    return Vec::new();
                }
                let response =
                    ProduceResponse { partitions: partitions.into(), ..Default::default() };
                response.encode(&mut out, version, correlation);
            }
            AnyRequest::Fetch(request) => {
                let mut partitions = Vec::new();
                for part in request.partitions() {
                    let read = self.read(part.topic, part.partition, part.fetch_offset);
                    // Nothing is ever part of a transaction.
                    let aborted_transactions =
                        (request.isolation_level == READ_COMMITTED).then(|| Vec::new().into());
                    partitions.push(FetchPartitionResponse {
                        topic: part.topic,
                        aborted_transactions,
                        ..read
                    });
                }
                let response =
                    FetchResponse { partitions: partitions.into(), ..Default::default() };
                let mut parts = Vec::new();
                response.encode(&mut out, &mut parts, version, correlation);
                return parts;
            }
            AnyRequest::Metadata(_) => {
                encode_response(&mut out, version, correlation, &self.metadata())
            }
            AnyRequest::InitProducerId(_) => {
                self.next_producer += 1;
                let response = InitProducerIdResponse {
                    producer_id: self.next_producer,
                    producer_epoch: 0,
                    ..InitProducerIdResponse::default()
                };
                encode_response(&mut out, version, correlation, &response);
            }
            AnyRequest::ListOffsets(request) => {
                let topics = request.topics.iter().map(|topic| ListOffsetsTopicResponse {
                    name: topic.name.clone(),
                    partitions: topic
                        .partitions
                        .iter()
                        .map(|part| {
                            match self.log(TopicRef::Name(&topic.name), part.partition_index) {
                                Some(log) => ListOffsetsPartitionResponse {
                                    partition_index: part.partition_index,
                                    offset: if part.timestamp == EARLIEST {
                                        log.start
                                    } else {
                                        log.end()
                                    },
                                    ..ListOffsetsPartitionResponse::default()
                                },
                                None => ListOffsetsPartitionResponse {
                                    partition_index: part.partition_index,
                                    error_code: ErrorCode::UnknownTopicOrPartition,
                                    ..ListOffsetsPartitionResponse::default()
                                },
                            }
                        })
                        .collect(),
                });
                let response = ListOffsetsResponse {
                    topics: topics.collect(),
                    ..ListOffsetsResponse::default()
                };
                encode_response(&mut out, version, correlation, &response);
            }
            AnyRequest::CreateTopics(request) => {
                let topics = request.topics.iter().map(|topic| {
                    let (error_code, topic_id) = self.create(&topic.name, topic.num_partitions);
                    let name = topic.name.clone();
                    CreatableTopicResult { name, error_code, topic_id, ..Default::default() }
                });
                let response = CreateTopicsResponse {
                    topics: topics.collect(),
                    ..CreateTopicsResponse::default()
                };
                encode_response(&mut out, version, correlation, &response);
            }
            AnyRequest::DeleteTopics(request) => {
                let id = match request.topics.first() {
                    Some(topic) if 6 <= version => Some(topic.topic_id),
                    _ => {
                        let name = request.topic_names.first().expect("one topic");
                        self.topics.iter().find(|(_, t)| t.name == *name).map(|(id, _)| *id)
                    }
                };
                let gone = id.and_then(|id| Some((id, self.topics.remove(&id)?)));
                let error_code = match gone {
                    Some(gone) => {
                        self.deleted.push(gone);
                        ErrorCode::None
                    }
                    None => ErrorCode::UnknownTopicOrPartition,
                };
                let result = DeletableTopicResult {
                    name: Some(String::new()),
                    error_code,
                    ..Default::default()
                };
                let response = DeleteTopicsResponse {
                    responses: vec![result],
                    ..DeleteTopicsResponse::default()
                };
                encode_response(&mut out, version, correlation, &response);
            }
            AnyRequest::CreatePartitions(request) => {
                let wish = request.topics.first().expect("one topic");
                let topic = self.topic(TopicRef::Name(&wish.name));
                let error_code = match topic {
                    Some(topic) if topic.logs.len() < wish.count as usize => {
                        topic.logs.resize(wish.count as usize, Log::default());
                        ErrorCode::None
                    }
                    Some(_) => ErrorCode::InvalidPartitions,
                    None => ErrorCode::UnknownTopicOrPartition,
                };
                let result = CreatePartitionsTopicResult { error_code, ..Default::default() };
                let response =
                    CreatePartitionsResponse { results: vec![result], ..Default::default() };
                encode_response(&mut out, version, correlation, &response);
            }
            AnyRequest::DeleteRecords(request) => {
                let topic = request.topics.first().expect("one topic");
                let part = topic.partitions.first().expect("one partition");
                let mut result = DeleteRecordsPartitionResult {
                    partition_index: part.partition_index,
                    ..DeleteRecordsPartitionResult::default()
                };
                match self.log(TopicRef::Name(&topic.name), part.partition_index) {
                    Some(log) => {
                        let before = if part.offset == -1 { log.end() } else { part.offset };
                        log.start = log.start.max(before);
                        result.low_watermark = log.start;
                    }
                    None => result.error_code = ErrorCode::UnknownTopicOrPartition,
                }
                let topics = vec![DeleteRecordsTopicResult {
                    name: topic.name.clone(),
                    partitions: vec![result],
                }];
                let response = DeleteRecordsResponse { topics, ..DeleteRecordsResponse::default() };
                encode_response(&mut out, version, correlation, &response);
            }
            other => panic!("nobody asks {other:?}"),
        }
        vec![out.freeze()]
    }
}

/// One shard of the model: connections on shared state.
struct ModelShard {
    state: Rc<RefCell<State>>,
    started: bool,
    received: BTreeMap<u32, BytesMut>,
    /// Answers not handed over yet, and whether a send is under way.
    sending: BTreeMap<u32, (VecDeque<Bytes>, bool)>,
    stopping: bool,
}

const ACCEPT: u64 = 1 << 40;
const RECEIVE: u64 = 2 << 40;
const SEND: u64 = 3 << 40;
const CLOSE: u64 = 4 << 40;

impl ModelShard {
    fn received(&mut self, edge: &mut SimEdge<()>, socket: u32, new: &[u8]) {
        let buffer = self.received.get_mut(&socket).expect("an open socket");
        buffer.extend_from_slice(new);
        let mut answers = Vec::new();
        while let Some(size) = frame_size(buffer, 1 << 30).expect("our own clients")
            && size <= buffer.len()
        {
            let frame = buffer.split_to(size);
            let mut state = self.state.borrow_mut();
            let answer = state.answer(&frame[LENGTH_BYTES..]);
            if state.flaw != Flaw::LosesAnswers || !state.answers.is_multiple_of(100) {
                answers.extend(answer);
            }
        }
        let queue = self.sending.get_mut(&socket).expect("an open socket");
        queue.0.extend(answers);
        self.send(edge, socket);
        let op = Op::Receive { socket: SocketId(socket), into: BytesMut::new() };
        edge.submit(Token(RECEIVE | u64::from(socket)), op);
    }

    fn send(&mut self, edge: &mut SimEdge<()>, socket: u32) {
        let Some((queue, under_way)) = self.sending.get_mut(&socket) else { return };
        if queue.is_empty() || std::mem::replace(under_way, true) {
            return;
        }
        let parts = queue.drain(..).collect();
        let op = Op::Send { socket: SocketId(socket), parts };
        edge.submit(Token(SEND | u64::from(socket)), op);
    }

    fn close(&mut self, edge: &mut SimEdge<()>, socket: u32) {
        if self.received.remove(&socket).is_some() {
            self.sending.remove(&socket);
            let op = Op::CloseSocket { socket: SocketId(socket) };
            edge.submit(Token(CLOSE | u64::from(socket)), op);
        }
    }
}

impl Program<SimEdge<()>> for ModelShard {
    fn turn(&mut self, edge: &mut SimEdge<()>) -> Next {
        if !std::mem::replace(&mut self.started, true) {
            for listener in [BOOTSTRAP_LISTENER, OWN_LISTENER] {
                edge.submit(Token(ACCEPT | u64::from(listener.0)), Op::Accept { listener });
            }
        }
        while let Some(completion) = edge.poll_completion() {
            let (kind, socket) = (completion.token.0 >> 40 << 40, completion.token.0 as u32);
            match (kind, completion.result) {
                (ACCEPT, Ok(Done::Accepted { socket, .. })) => {
                    self.received.insert(socket.0, BytesMut::new());
                    self.sending.insert(socket.0, (VecDeque::new(), false));
                    self.received(edge, socket.0, &[]);
                }
                (RECEIVE, Ok(Done::Received { bytes, received })) if 0 < received => {
                    // What arrives after the close is dropped.
                    let is_open = self.received.contains_key(&socket);
                    if is_open {
                        self.received(edge, socket, &bytes);
                    }
                }
                (RECEIVE, _) | (SEND, Err(_)) => self.close(edge, socket),
                (SEND, Ok(_)) => {
                    if let Some(queue) = self.sending.get_mut(&socket) {
                        queue.1 = false;
                    }
                    self.send(edge, socket);
                }
                _ => {}
            }
        }
        while edge.poll_message().is_some() {
            self.stopping = true;
        }
        if self.stopping { Next::Stop } else { Next::Idle }
    }
}

struct Model {
    state: Rc<RefCell<State>>,
}

impl Node for Model {
    type Message = ();
    type Shard = ModelShard;

    fn start(&mut self, start: &Start) -> Vec<ModelShard> {
        self.state.borrow_mut().shards = start.shards;
        self.state.borrow_mut().restart();
        let shard = |_| ModelShard {
            state: Rc::clone(&self.state),
            started: false,
            received: BTreeMap::new(),
            sending: BTreeMap::new(),
            stopping: false,
        };
        (0..start.shards).map(shard).collect()
    }

    fn stop(&mut self) -> Vec<(ShardId, ())> {
        (0..self.state.borrow().shards).map(|shard| (ShardId(shard), ())).collect()
    }

    fn is_serving(&mut self) -> bool {
        true
    }

    fn failure(&mut self) -> Option<String> {
        None
    }
}

fn run_model(seed: u64, flaw: Flaw) -> Outcome {
    let state = State {
        flaw,
        topics: BTreeMap::new(),
        deleted: Vec::new(),
        next_id: 0,
        next_producer: 0,
        epoch: 0,
        shards: 1,
        answers: Random::new(seed).below(100),
    };
    let model = Model { state: Rc::new(RefCell::new(state)) };
    let mut plan = Plan::of(seed);
    // The model has partitions and nothing else.
    plan.crowd.members = 0;
    plan.crowd.sharers = 0;
    plan.crowd.quotas = 0;
    plan.crowd.compacted_topics = 0;
    plan.crowd.transactors = 0;
    if flaw != Flaw::None {
        // Whatever can be forgotten must first be done.
        plan.crowd.topic_deletions = plan.crowd.topic_deletions.max(50_000);
        plan.crowd.record_deletions = plan.crowd.record_deletions.max(50_000);
        plan.resets = plan.resets.max(1_000);
    }
    run(seed, model, &plan, Trace::new(false))
}

const SEEDS: u64 = 30;

/// A broker without a flaw passes every run, and the runs are no empty ones.
#[test]
fn a_faultless_broker_passes() {
    assert_eq!(BOOTSTRAP_PORT + 1000, OWN_PORT);
    let (mut acked, mut read) = (0, 0);
    for seed in 0..SEEDS {
        let outcome = run_model(seed, Flaw::None);
        assert!(outcome.violation.is_none(), "seed {seed}: {:?}", outcome.violation);
        acked += outcome.acked_records;
        read += outcome.read_records;
    }
    assert!(1_000 < acked && acked < read, "{acked} acknowledged, {read} read");
}

/// Every flaw is found within a few runs.
#[test]
fn every_flaw_is_found() {
    for flaw in [
        Flaw::LosesTheEnd,
        Flaw::ForgetsProducers,
        Flaw::ForgetsTrims,
        Flaw::ForgetsDeletions,
        Flaw::ChangesBytes,
        Flaw::LosesAnswers,
    ] {
        let found = (0..SEEDS).find_map(|seed| run_model(seed, flaw).violation);
        assert!(found.is_some(), "{flaw:?} went unnoticed");
    }
}

/// The same seed replays to the same trace.
#[test]
fn a_run_is_repeated_exactly() {
    for seed in 0..3 {
        assert_eq!(run_model(seed, Flaw::None).hash, run_model(seed, Flaw::None).hash);
    }
}
