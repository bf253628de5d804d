//! A cluster played by bytes, for tests: it answers as Kafka's brokers do, and fails on command.
//!
//! It keeps logs, tells repeats by their numbers and refuses gaps, as a broker must. What goes
//! wrong is decided by [`Fake::mishap`]: before a produce request is carried out, or after.

mod group;

use std::collections::{BTreeMap, HashMap, VecDeque};

use bytes::{Bytes, BytesMut};
use tidemill_net::frame::{LENGTH_BYTES, frame_size};
use tidemill_net::kafka::api_versions::ApiVersionsResponse;
use tidemill_net::kafka::fetch::{FetchPartitionResponse, FetchRequest, FetchResponse};
use tidemill_net::kafka::init_producer_id::InitProducerIdResponse;
use tidemill_net::kafka::list_offsets::{
    EARLIEST, ListOffsetsPartitionResponse, ListOffsetsRequest, ListOffsetsResponse,
    ListOffsetsTopicResponse,
};
use tidemill_net::kafka::metadata::{
    MetadataRequest, MetadataResponse, MetadataResponseBroker, MetadataResponsePartition,
    MetadataResponseTopic,
};
use tidemill_net::kafka::produce::{ProducePartitionResponse, ProduceRequest, ProduceResponse};
use tidemill_net::kafka::{
    AnyRequest, ApiKey, ErrorCode, Message, RequestHeader, TopicRef, encode_response,
};
use tidemill_record::{Batch, LeaderEpoch, Offset, Producer, Sequence, TopicId, stamp};

use crate::cluster::{Action, Address, Cluster, LineId};
use crate::time::Instant;

pub(crate) use group::FakeGroup;

/// What goes wrong with a produce request.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Mishap {
    /// Nothing.
    None,
    /// Every partition is refused.
    Refuse(ErrorCode),
    /// The connection ends before anything is stored.
    LoseRequest,
    /// The connection ends after all is stored.
    LoseReply,
}

/// A batch as it was numbered, its count of records, and where it is.
type Numbered = (Sequence, i32, i64);

/// One partition.
#[derive(Debug, Default)]
pub(crate) struct FakePartition {
    leader: i32,
    leader_epoch: i32,
    pub(crate) batches: Vec<Bytes>,
    next_offset: i64,
    /// Epoch and last batches of each producer.
    producers: HashMap<i64, (i16, VecDeque<Numbered>)>,
    /// Larger batches are refused.
    pub(crate) batch_bytes_max: Option<usize>,
}

/// See the head of this file.
#[derive(Debug, Default)]
pub(crate) struct Fake {
    pub(crate) nodes: i32,
    pub(crate) topics: BTreeMap<String, Vec<FakePartition>>,
    /// What to do with the produce requests to come, in order; then nothing goes wrong.
    pub(crate) mishaps: VecDeque<Mishap>,
    /// How many requests of each kind came.
    pub(crate) asked: HashMap<ApiKey, usize>,
    /// The highest version told of each API, if not ours.
    pub(crate) versions: HashMap<ApiKey, i16>,
    pub(crate) unreachable: bool,
    /// How long each fetch was ready to wait, in milliseconds.
    pub(crate) waits: Vec<i32>,
    pub(crate) group: FakeGroup,
    lines: BTreeMap<LineId, (i32, BytesMut)>,
    next_producer_id: i64,
}

const FIRST_PORT: i32 = 9000;

pub(crate) fn bootstrap() -> Vec<Address> {
    vec![Address { host: "fake".into(), port: FIRST_PORT as u16 }]
}

impl Fake {
    pub(crate) fn new(nodes: i32) -> Fake {
        Fake { nodes, ..Fake::default() }
    }

    pub(crate) fn with_topic(mut self, name: &str, partitions: i32) -> Fake {
        let partition =
            |number| FakePartition { leader: number % self.nodes, ..Default::default() };
        let partitions = (0..partitions).map(partition).collect();
        self.topics.insert(name.to_owned(), partitions);
        self
    }

    pub(crate) fn partition(&mut self, topic: &str, partition: usize) -> &mut FakePartition {
        &mut self.topics.get_mut(topic).expect("a topic of the test's")[partition]
    }

    pub(crate) fn count(&self, api: ApiKey) -> usize {
        self.asked.get(&api).copied().unwrap_or(0)
    }

    /// Carries out what the cluster wants and answers, until there is nothing more to do. Tells
    /// whether there was anything.
    pub(crate) fn drive<A>(&mut self, cluster: &mut Cluster<A>, now: Instant) -> bool {
        let mut was_busy = false;
        loop {
            let mut busy = false;
            while let Some(action) = cluster.poll_action() {
                busy = true;
                match action {
                    Action::Connect(line, _) if self.unreachable => {
                        cluster.handle_closed(line, "connection refused", now);
                    }
                    Action::Connect(line, address) => {
                        let node = i32::from(address.port) - FIRST_PORT;
                        self.lines.insert(line, (node, BytesMut::new()));
                        cluster.handle_connected(line, now);
                    }
                    Action::Disconnect(line) => {
                        self.lines.remove(&line);
                    }
                }
            }
            let lines: Vec<LineId> = self.lines.keys().copied().collect();
            for line in lines {
                let mut parts = Vec::new();
                if 0 < cluster.take_output(line, &mut parts) {
                    busy = true;
                    self.receive(line, &parts.concat(), cluster, now);
                }
            }
            if !busy {
                return was_busy;
            }
            was_busy = true;
        }
    }

    /// All brokers die at once: every connection ends, and none can be made.
    pub(crate) fn die<A>(&mut self, cluster: &mut Cluster<A>, now: Instant) {
        self.unreachable = true;
        for line in std::mem::take(&mut self.lines).into_keys() {
            cluster.handle_closed(line, "reset", now);
        }
    }

    fn receive<A>(&mut self, line: LineId, bytes: &[u8], cluster: &mut Cluster<A>, now: Instant) {
        let Some((node, input)) = self.lines.get_mut(&line) else { return };
        let node = *node;
        input.extend_from_slice(bytes);
        while let Some((_, input)) = self.lines.get_mut(&line) {
            let size = frame_size(input, usize::MAX).expect("the client sends frames");
            let Some(size) = size.filter(|size| *size <= input.len()) else { return };
            let frame = input.split_to(size).freeze().slice(LENGTH_BYTES..);
            match self.answer(node, &frame) {
                Some(answer) => {
                    let mut input = cluster.take_input(line);
                    input.extend_from_slice(&answer);
                    cluster.handle_input(line, input, now);
                }
                None => {
                    self.lines.remove(&line);
                    cluster.handle_closed(line, "reset", now);
                }
            }
        }
    }

    /// The answer to a request; none: the connection ends.
    fn answer(&mut self, node: i32, frame: &[u8]) -> Option<BytesMut> {
        let header = RequestHeader::parse(frame).expect("the client sends what we know");
        *self.asked.entry(header.api_key).or_default() += 1;
        let body = &frame[header.body_start..];
        let request = AnyRequest::parse(header.api_key, header.version, body).expect("readable");
        let mut out = BytesMut::new();
        let names: Vec<String> = self.topics.keys().cloned().collect();
        let Some(request) = self.group.answer(node, &header, request, &names, &mut out) else {
            return Some(out);
        };
        match request {
            AnyRequest::ApiVersions(_) => send(&mut out, &header, &self.told_versions()),
            AnyRequest::Metadata(request) => send(&mut out, &header, &self.map(&request)),
            AnyRequest::InitProducerId(_) => {
                self.next_producer_id += 1;
                let answer = InitProducerIdResponse {
                    producer_id: self.next_producer_id,
                    producer_epoch: 0,
                    ..Default::default()
                };
                send(&mut out, &header, &answer);
            }
            AnyRequest::Produce(request) => {
                let answer = self.produce(node, &request, body)?;
                answer.encode(&mut out, header.version, header.correlation_id);
            }
            AnyRequest::Fetch(request) => {
                let mut parts = Vec::new();
                let answer = self.fetch(node, &request);
                answer.encode(&mut out, &mut parts, header.version, header.correlation_id);
                out.extend_from_slice(&parts.concat());
            }
            AnyRequest::ListOffsets(request) => send(&mut out, &header, &self.offsets(&request)),
            other => panic!("the fake does not answer {other:?}"),
        }
        Some(out)
    }

    fn told_versions(&self) -> ApiVersionsResponse {
        let mut answer = ApiVersionsResponse::advertise(4, &[], -1);
        for told in &mut answer.api_keys {
            let api = ApiKey::from_wire(told.api_key).expect("one of ours");
            told.max_version = self.versions.get(&api).copied().unwrap_or(told.max_version);
        }
        answer
    }

    fn map(&self, request: &MetadataRequest) -> MetadataResponse {
        let broker = |node_id| MetadataResponseBroker {
            node_id,
            host: "fake".to_owned(),
            port: FIRST_PORT + node_id,
            rack: None,
        };
        let names: Vec<String> = match &request.topics {
            None => self.topics.keys().cloned().collect(),
            Some(topics) => topics.iter().filter_map(|topic| topic.name.clone()).collect(),
        };
        let topic = |name: &String| {
            let known = self.topics.get(name);
            let partition = |(index, partition): (i32, &FakePartition)| MetadataResponsePartition {
                partition_index: index,
                leader_id: partition.leader,
                leader_epoch: partition.leader_epoch,
                ..Default::default()
            };
            let unknown = ErrorCode::UnknownTopicOrPartition;
            MetadataResponseTopic {
                error_code: if known.is_some() { ErrorCode::None } else { unknown },
                name: Some(name.clone()),
                topic_id: topic_id(name),
                partitions: (0..).zip(known.into_iter().flatten()).map(partition).collect(),
                ..Default::default()
            }
        };
        MetadataResponse {
            brokers: (0..self.nodes).map(broker).collect(),
            topics: names.iter().map(topic).collect(),
            ..Default::default()
        }
    }

    fn named(&self, topic: TopicRef<'_>) -> String {
        match topic {
            TopicRef::Name(name) => name.to_owned(),
            TopicRef::Id(id) => {
                let found = self.topics.keys().find(|name| topic_id(name) == id);
                found.expect("an id that we have told").clone()
            }
        }
    }

    fn produce<'a>(
        &mut self,
        node: i32,
        request: &ProduceRequest<'a>,
        body: &[u8],
    ) -> Option<ProduceResponse<'a>> {
        let mishap = self.mishaps.pop_front().unwrap_or(Mishap::None);
        if mishap == Mishap::LoseRequest {
            return None;
        }
        let mut answers = Vec::new();
        for asked in request.partitions() {
            let name = self.named(asked.topic);
            let records = &body[asked.records.clone().expect("a batch")];
            let partition = self.partition(&name, asked.partition as usize);
            let outcome = match mishap {
                Mishap::Refuse(error) => Err(error),
                _ if partition.leader != node => Err(ErrorCode::NotLeaderOrFollower),
                _ => partition.append(records),
            };
            answers.push(match outcome {
                Ok(offset) => {
                    ProducePartitionResponse::appended(asked.topic, asked.partition, offset, 0)
                }
                Err(error) => ProducePartitionResponse::failed(asked.topic, asked.partition, error),
            });
        }
        let answer = ProduceResponse { partitions: answers.into(), ..Default::default() };
        (mishap != Mishap::LoseReply).then_some(answer)
    }

    fn fetch<'a>(&mut self, node: i32, request: &FetchRequest<'a>) -> FetchResponse<'a> {
        self.waits.push(request.max_wait_ms);
        let mut answers = Vec::new();
        for asked in request.partitions() {
            let name = self.named(asked.topic);
            let partition = self.partition(&name, asked.partition as usize);
            let failed =
                |error| FetchPartitionResponse::failed(asked.topic, asked.partition, error);
            answers.push(if partition.leader != node {
                failed(ErrorCode::NotLeaderOrFollower)
            } else if partition.next_offset < asked.fetch_offset {
                failed(ErrorCode::OffsetOutOfRange)
            } else {
                let next = partition.batches.iter().find(|batch| {
                    let (batch, _) = Batch::parse(batch).expect("checked when it came");
                    asked.fetch_offset < batch.next_offset().0
                });
                FetchPartitionResponse {
                    records: next.cloned().into_iter().collect(),
                    ..FetchPartitionResponse::at(
                        asked.topic,
                        asked.partition,
                        partition.next_offset,
                    )
                }
            });
        }
        FetchResponse { partitions: answers.into(), ..Default::default() }
    }

    fn offsets(&mut self, request: &ListOffsetsRequest) -> ListOffsetsResponse {
        let mut topics = Vec::new();
        for topic in &request.topics {
            let mut partitions = Vec::new();
            for asked in &topic.partitions {
                let end = self.partition(&topic.name, asked.partition_index as usize).next_offset;
                partitions.push(ListOffsetsPartitionResponse {
                    partition_index: asked.partition_index,
                    offset: if asked.timestamp == EARLIEST { 0 } else { end },
                    ..Default::default()
                });
            }
            topics.push(ListOffsetsTopicResponse { name: topic.name.clone(), partitions });
        }
        ListOffsetsResponse { topics, ..Default::default() }
    }
}

fn topic_id(name: &str) -> TopicId {
    let mut id = [7; 16];
    for (at, byte) in name.bytes().enumerate() {
        id[at % 16] ^= byte;
    }
    TopicId(id)
}

fn send(out: &mut BytesMut, header: &RequestHeader<'_>, answer: &impl Message) {
    encode_response(out, header.version, header.correlation_id, answer);
}

impl FakePartition {
    /// Somebody else leads from now on.
    pub(crate) fn move_to(&mut self, leader: i32) {
        self.leader = leader;
        self.leader_epoch += 1;
    }

    /// Stores a batch, or tells where it is if it is a repeat.
    pub(crate) fn append(&mut self, records: &[u8]) -> Result<i64, ErrorCode> {
        let (batch, rest) = Batch::parse(records).expect("the client sends batches");
        assert!(rest.is_empty(), "one batch for each partition");
        batch.verify_checksum().expect("the client makes checksums");
        if self.batch_bytes_max.is_some_and(|most| most < records.len()) {
            return Err(ErrorCode::MessageTooLarge);
        }
        let count = batch.records_count() as i32;
        if let (Some(producer), Some(sequence)) = (batch.producer(), batch.base_sequence())
            && let Some(offset) = self.check(producer, sequence, count)?
        {
            return Ok(offset);
        }
        let offset = self.next_offset;
        self.next_offset += i64::from(count);
        let mut stored = BytesMut::from(records);
        stamp(&mut stored, Offset(offset), LeaderEpoch(0));
        self.batches.push(stored.freeze());
        if let (Some(producer), Some(sequence)) = (batch.producer(), batch.base_sequence()) {
            let (_, last) = self.producers.get_mut(&producer.id.0).expect("checked above");
            last.push_back((sequence, count, offset));
            if 5 < last.len() {
                last.pop_front();
            }
        }
        Ok(offset)
    }

    /// Where a repeat is; an error for a gap.
    fn check(
        &mut self,
        producer: Producer,
        sequence: Sequence,
        count: i32,
    ) -> Result<Option<i64>, ErrorCode> {
        // Of whom it knows nothing, a broker takes whatever comes first: Kafka does.
        let is_new = !self.producers.contains_key(&producer.id.0);
        let entry = self.producers.entry(producer.id.0);
        let (epoch, last) = entry.or_insert_with(|| (producer.epoch.0, VecDeque::new()));
        if producer.epoch.0 < *epoch {
            return Err(ErrorCode::InvalidProducerEpoch);
        }
        if *epoch < producer.epoch.0 {
            if sequence != Sequence::ZERO {
                return Err(ErrorCode::OutOfOrderSequenceNumber);
            }
            (*epoch, *last) = (producer.epoch.0, VecDeque::new());
        }
        if let Some(repeat) = last.iter().find(|known| (known.0, known.1) == (sequence, count)) {
            return Ok(Some(repeat.2));
        }
        let expected = last.back().map_or(Sequence::ZERO, |last| last.0.plus(last.1));
        if expected == sequence || is_new {
            Ok(None)
        } else {
            Err(ErrorCode::OutOfOrderSequenceNumber)
        }
    }
}
