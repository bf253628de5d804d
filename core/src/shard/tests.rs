//! One shard whose neighbour takes and answers only what the test says: what happens to requests
//! when others are slow.

mod coordinators;
mod loading;
mod share_groups;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use bytes::{Bytes, BytesMut};
use tidemill_net::kafka::alter_configs::{
    IncrementalAlterConfigsRequest, IncrementalAlterConfigsResponse,
};
use tidemill_net::kafka::consumer_group_describe::ConsumerGroupDescribeRequest;
use tidemill_net::kafka::create_topics::{
    CreatableTopic, CreateTopicsRequest, CreateTopicsResponse,
};
use tidemill_net::kafka::describe_groups::DescribeGroupsRequest;
use tidemill_net::kafka::describe_producers::DescribeProducersRequest;
use tidemill_net::kafka::describe_transactions::DescribeTransactionsRequest;
use tidemill_net::kafka::fetch::{FetchPartition, OutgoingFetch};
use tidemill_net::kafka::init_producer_id::{InitProducerIdRequest, InitProducerIdResponse};
use tidemill_net::kafka::metadata::{MetadataRequest, MetadataRequestTopic, MetadataResponse};
use tidemill_net::kafka::offset_fetch::{
    OffsetFetchRequest, OffsetFetchRequestGroup, OffsetFetchRequestTopic,
};
use tidemill_net::kafka::topic_partitions::TopicPartitions;
use tidemill_net::kafka::{ErrorCode, Request, TopicRef, decode_response, encode_request};
use tidemill_record::{NodeId, Offset, PartitionId, TopicId, TopicPartition};
use tidemill_replication::controller::{OFFSETS_TOPIC, TRANSACTIONS_TOPIC};
use tidemill_replication::quota::{Bound, Entity, Quotas, Who};
use tidemill_runtime::edge::{Chore, Done, Op, SocketId, Token};

use super::*;
use crate::coordinator::request::Request as GroupRequest;
use crate::limits::{PROPOSALS_PER_SHARD_MAX, REQUESTS_PER_CONNECTION_AND_TURN_MAX};
use crate::message::{Call, ReadAnswer};
use crate::placement;
use crate::token::token;

const TOPIC: &str = "elsewhere";
const TOPIC_ID: TopicId = TopicId([2; 16]);

/// All that is around the shard.
#[derive(Default)]
struct World {
    now: Instant,
    completions: VecDeque<Completion>,
    inbox: VecDeque<(ShardId, Message)>,
    /// Receives under way, by connection.
    receiving: Vec<(Token, BytesMut)>,
    sending: Vec<(Token, Vec<Bytes>)>,
    closed: usize,
    /// Taken by shard 0.
    sent: Vec<Message>,
    /// Whether shard 0 takes anything.
    takes: bool,
    /// Whether there is a disk, which never ends what it is asked for.
    has_disk: bool,
}

impl Edge for World {
    type Message = Message;

    fn now(&self) -> Instant {
        self.now
    }

    fn wall_clock_ms(&self) -> i64 {
        0
    }

    fn submit(&mut self, token: Token, op: Op) {
        match op {
            Op::Receive { into, .. } => self.receiving.push((token, into)),
            Op::Send { parts, .. } => self.sending.push((token, parts)),
            Op::CloseSocket { .. } => self.closed += 1,
            Op::Chore(Chore::SyncFileSystem) | Op::Accept { .. } => {}
            _ if self.has_disk => {}
            other => panic!("a shard without files asks for {other:?}"),
        }
    }

    fn poll_completion(&mut self) -> Option<Completion> {
        self.completions.pop_front()
    }

    fn send(&mut self, _to: ShardId, message: Message) -> Result<(), Message> {
        if !self.takes {
            return Err(message);
        }
        self.sent.push(message);
        Ok(())
    }

    fn poll_message(&mut self) -> Option<(ShardId, Message)> {
        self.inbox.pop_front()
    }
}

struct Scene {
    shard: Shard,
    world: World,
}

impl Scene {
    /// Shard 1 of two, with one client; the only topic lives on shard 0.
    fn new(network_bytes: u64) -> Self {
        Self::with_clock(network_bytes, StampClock::cheapest())
    }

    /// The same, whose stages and turns are timed by `clock`.
    fn with_clock(network_bytes: u64, clock: StampClock) -> Self {
        let mut config = Config::of_defaults();
        config.budgets.network_bytes = network_bytes;
        let endpoints = Endpoints {
            node: NodeId(1),
            host: "host".to_owned(),
            port: 9092,
            shard_ports: Vec::new(),
            rack: None,
        };
        let settings = Settings { clock, ..Settings::new(config, 2, endpoints, 7) };
        let settings = Arc::new(settings);
        let mut shard = Shard::new(settings, ShardId(1), Vec::new(), Box::new(|_| {}));
        let created = Record::TopicCreated {
            id: TOPIC_ID,
            name: TOPIC.to_owned(),
            partitions: vec![vec![NodeId(1)]],
            configs: Vec::new(),
        };
        shard.image.replay(&created).unwrap();
        shard.stage = Stage::Serving;
        let mut scene = Self { shard, world: World { takes: true, ..World::default() } };
        let client = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 1);
        let accepted = Done::Accepted { socket: SocketId(0), client };
        scene.complete(token(TokenKind::Accept, 0), accepted);
        scene.turn();
        scene
    }

    fn complete(&mut self, token: Token, done: Done) {
        self.world.completions.push_back(Completion { token, result: Ok(done) });
    }

    fn turn(&mut self) -> Next {
        self.shard.turn(&mut self.world)
    }

    /// Turns until nothing is left over; bounded, as a shard that is held back never rests.
    fn settle(&mut self) {
        for _ in 0..100 {
            if self.turn() != Next::Now {
                return;
            }
        }
    }

    /// The client sends `bytes`, in as many receives as that takes.
    fn send(&mut self, bytes: &[u8]) {
        for piece in bytes.chunks(tidemill_runtime::edge::RECEIVE_BYTES_MAX) {
            let Some((token, mut into)) = self.world.receiving.pop() else { return };
            into.extend_from_slice(piece);
            self.complete(token, Done::Received { bytes: into, received: piece.len() });
            self.settle();
        }
    }

    fn send_request<R: Request>(&mut self, version: i16, request: &R) {
        let mut out = BytesMut::new();
        encode_request(&mut out, version, 1, None, request);
        self.send(&out);
    }

    /// The replies sent to the client since the last time, taken by it.
    fn replies(&mut self) -> Vec<u8> {
        let mut all = Vec::new();
        while let Some((token, parts)) = self.world.sending.pop() {
            parts.iter().for_each(|part| all.extend_from_slice(part));
            self.complete(token, Done::Complete);
            self.settle();
        }
        all
    }

    fn pass(&mut self, time: Duration) {
        self.world.now = self.world.now.after(time);
        self.settle();
    }

    /// The reads that shard 0 has taken and not answered.
    fn reads(&mut self) -> Vec<(JobId, u32)> {
        let mut reads = Vec::new();
        for message in self.world.sent.drain(..) {
            if let Message::Calls { job, calls } = message {
                let only_reads = calls.iter().filter(|call| matches!(call.2, Call::Read(_)));
                reads.extend(only_reads.map(|call| (job, call.0)));
            }
        }
        reads
    }

    /// How many questions shard 0 has been asked since the last time.
    fn calls(&mut self) -> usize {
        let calls = self.world.sent.drain(..).map(|message| match message {
            Message::Calls { calls, .. } => calls.len(),
            _ => 0,
        });
        calls.sum()
    }

    /// A topic of the broker's own, with one partition, at home on shard 0.
    fn make_internal(&mut self, name: &str) {
        self.make_internal_at(ShardId(0), name);
    }

    /// The same, at home elsewhere.
    fn make_internal_at(&mut self, shard: ShardId, name: &str) {
        let is_there = |id: &TopicId| {
            let partition = TopicPartition { topic: *id, partition: PartitionId(0) };
            placement::home(partition, 2) == shard
        };
        let mut ids = (3..).map(|number| TopicId([number; 16]));
        let image = &self.shard.image;
        let id = ids.find(|id| is_there(id) && image.topic(*id).is_none()).unwrap();
        let (name, configs) = (name.to_owned(), Vec::new());
        let partitions = vec![vec![NodeId(1)]];
        let created = Record::TopicCreated { id, name, partitions, configs };
        self.shard.image.replay(&created).unwrap();
    }

    fn answer_read(&mut self, (job, index): (JobId, u32), size: usize) {
        let answer = Answer::Read(ReadAnswer {
            aborted: Vec::new(),
            from_disk: false,
            batches: vec![Bytes::from(vec![0; size])],
            size_bytes: size as u32,
            held_back: false,
            high_watermark: Offset(1),
            last_stable_offset: Offset(1),
            log_start_offset: Offset(0),
            diverging: None,
        });
        self.world.inbox.push_back((ShardId(0), Message::Answers(vec![(job, index, answer)])));
        self.settle();
    }
}

fn fetches(count: usize, bytes: i32, max_wait_ms: i32) -> BytesMut {
    let topic = TopicRef::Name(TOPIC);
    let partitions = [FetchPartition::from_consumer(topic, 0, 0, bytes)];
    let mut out = BytesMut::new();
    for _ in 0..count {
        let fetch = OutgoingFetch {
            max_wait_ms,
            min_bytes: 1,
            max_bytes: bytes,
            partitions: &partitions,
            ..OutgoingFetch::default()
        };
        fetch.encode(&mut out, 11, 1, None);
    }
    out
}

/// The bug: pipelined fetches counted against the budget only once their replies existed, so a
/// client that asked for much at once could go past the memory plan.
#[test]
fn pipelined_fetches_take_their_memory_before_they_read() {
    const MIB: usize = 1 << 20;
    let mut scene = Scene::new(8 * MIB as u64);
    scene.send(&fetches(16, MIB as i32, 60_000));

    let mut open = scene.reads();
    assert_eq!(open.len(), 2, "a third batch would be above three quarters of 4 MiB");
    let mut answered = 0;
    while let Some(read) = open.pop() {
        scene.answer_read(read, MIB - 100);
        assert!(scene.shard.budget.used_bytes() < 4 * MIB);
        scene.replies();
        answered += 1;
        open.extend(scene.reads());
    }
    assert_eq!(answered, 16, "all of them are served in the end");
    assert_eq!(scene.shard.budget.used_bytes(), 0);
}

/// What a fetch has reserved and not needed is given back; one that waits for records holds none.
#[test]
fn a_fetch_that_waits_for_records_holds_no_memory() {
    let mut scene = Scene::new(8 << 20);
    let fetch = fetches(1, 1 << 20, 60_000);
    scene.send(&fetch);
    let read = scene.reads()[0];
    assert!(1 << 20 <= scene.shard.budget.used_bytes());
    scene.answer_read(read, 0);
    assert!(scene.shard.budget.used_bytes() <= fetch.len(), "only the request");
}

/// Without memory a fetch is answered when its time is up, without records and without an error.
#[test]
fn a_fetch_that_gets_no_memory_is_answered_without_records() {
    let mut scene = Scene::new(8 << 20);
    scene.shard.budget.take_reply(100 << 20);
    scene.send(&fetches(1, 1 << 20, 10));
    assert!(scene.reads().is_empty());

    scene.pass(Duration::from_secs(5));
    let calls = scene.world.sent.drain(..);
    let limits: Vec<(u32, bool)> = calls
        .filter_map(|message| match message {
            Message::Calls { calls, .. } => Some(calls),
            _ => None,
        })
        .flatten()
        .map(|(_, _, call)| match call {
            Call::Read(read) => (read.limit_bytes, read.min_one),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(limits, [(0, false)], "only where the log stands is asked for");
}

/// The bug: what another shard did not take was queued for it without a bound.
#[test]
fn requests_wait_while_another_shard_is_behind() {
    let mut scene = Scene::new(1 << 30);
    scene.world.takes = false;
    let requests = fetches(64, 1 << 10, 60_000);
    for _ in 0..20 {
        scene.send(&requests);
        scene.pass(Duration::from_secs(61));
    }
    let queued = scene.shard.outbox[0].len();
    assert!(queued <= 3 * REQUESTS_PER_CONNECTION_AND_TURN_MAX, "{queued} messages wait");

    scene.world.takes = true;
    scene.settle();
    assert!(scene.shard.outbox[0].is_empty());
    assert!(!scene.reads().is_empty(), "it goes on");
}

/// The bug: a request for a change waited for as long as the controller took, if that was for
/// ever. As in Kafka it is told that its time is up; what it asked for may still happen.
#[test]
fn a_change_is_answered_in_time_even_if_the_controller_is_silent() {
    let mut scene = Scene::new(8 << 20);
    let topic = CreatableTopic { name: "new".to_owned(), ..CreatableTopic::default() };
    let request = CreateTopicsRequest {
        topics: vec![topic],
        timeout_ms: 1000,
        ..CreateTopicsRequest::default()
    };
    scene.send_request(5, &request);
    scene.pass(Duration::from_millis(900));
    assert!(scene.replies().is_empty());
    scene.pass(Duration::from_millis(200));
    let reply = scene.replies();
    let (_, told) = decode_response::<CreateTopicsResponse>(5, &reply[4..]).unwrap();
    assert_eq!(told.topics[0].error_code, ErrorCode::RequestTimedOut);

    scene.send_request(1, &InitProducerIdRequest::default());
    scene.pass(Duration::from_mins(2));
    let reply = scene.replies();
    let (_, told) = decode_response::<InitProducerIdResponse>(1, &reply[4..]).unwrap();
    assert_eq!(told.error_code, ErrorCode::RequestTimedOut);
}

/// The bug: how many changes wait was looked at when one was taken up, not when it came.
#[test]
fn changes_beyond_the_bound_are_refused_when_they_come() {
    let mut scene = Scene::new(8 << 20);
    scene.shard.proposals_open = PROPOSALS_PER_SHARD_MAX;
    let resource = tidemill_net::kafka::alter_configs::AlterConfigsResource {
        resource_name: TOPIC.to_owned(),
        ..Default::default()
    };
    let request =
        IncrementalAlterConfigsRequest { resources: vec![resource], ..Default::default() };
    scene.send_request(0, &request);
    let reply = scene.replies();
    let (_, told) = decode_response::<IncrementalAlterConfigsResponse>(0, &reply[4..]).unwrap();
    assert_eq!(told.responses[0].error_code, ErrorCode::ThrottlingQuotaExceeded);
    assert!(scene.world.sent.is_empty());
}

/// The bug: a client was closed as silent though it had just been answered: the time it had been kept
/// waiting for that counted.
#[test]
fn a_client_was_closed_for_the_time_it_was_kept_waiting() {
    let mut scene = Scene::new(8 << 20);
    let kept = scene.shard.settings.config.connection_idle.unwrap();
    scene.send(&fetches(1, 1, 60_000));
    let read = scene.reads()[0];
    scene.answer_read(read, 0);
    scene.pass(Duration::from_secs(61));
    scene.reads().into_iter().for_each(|read| scene.answer_read(read, 0));
    assert!(!scene.replies().is_empty(), "its time is up");
    scene.pass(kept.checked_sub(Duration::from_secs(5)).unwrap());
    assert_eq!(scene.world.closed, 0);
    scene.pass(Duration::from_secs(10));
    assert_eq!(scene.world.closed, 1);
}

/// The bug: a request that came a byte at a time held its memory for as long as it liked.
#[test]
fn a_connection_whose_request_never_ends_is_closed() {
    let mut scene = Scene::new(8 << 20);
    let fetch = fetches(1, 1, 0);
    scene.send(&fetch[..10]);
    for _ in 0..59 {
        scene.pass(Duration::from_secs(1));
    }
    assert_eq!(scene.world.closed, 0);
    scene.pass(Duration::from_secs(2));
    assert_eq!(scene.world.closed, 1);
}

/// Whoever asks from outside gets copies, and is told of a turn above the limit with what ran in
/// it; asking changes nothing.
#[test]
fn a_question_is_answered_with_what_was_measured() {
    use crate::measure::{Open, Question, What};
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::sync::mpsc::sync_channel;

    /// Each look at this clock takes half a second or so.
    fn slow() -> u64 {
        static TICKS: AtomicU64 = AtomicU64::new(0);
        TICKS.fetch_add(1 << 30, Ordering::Relaxed)
    }

    let mut scene = Scene::with_clock(64 << 20, StampClock::of(slow));
    scene.send(&fetches(3, 1000, 0));
    let open = Arc::default();
    let ask = |scene: &mut Scene| {
        let (answer, answers) = sync_channel(1);
        let what = What { reading: true, slowest: true, partitions_after: Some(0) };
        let open = Open::begin(&open, 1).expect("the one before was answered");
        let question = Message::Ask(Question { what, answer, open });
        scene.world.inbox.push_back((tidemill_runtime::OUTSIDE, question));
        scene.settle();
        answers.recv().unwrap()
    };
    let told = ask(&mut scene);
    assert_eq!((told.state.shard, told.state.requests_open), (1, 3));
    assert_eq!(told.state.requests, [("Fetch", 3)]);
    let reading = told.reading.unwrap();
    assert_eq!(reading.traffic.connections, 1);
    assert!(0 < reading.turns.stalls && reading.turns.stalls <= reading.turns.turns);
    let document = tidemill_perf::document::SlowestDocument::new(
        tidemill_perf::document::NodeLabel::default(),
        &[told.slowest.unwrap()],
    );
    let parts = document.stalls.iter().flat_map(|stall| &stall.parts);
    let requests: u32 = parts.filter(|part| part.name == "requests").map(|part| part.items).sum();
    assert_eq!(requests, 3, "in the turn that took them");
    let again = ask(&mut scene);
    assert_eq!(again.state.requests, [("Fetch", 3)]);
    assert_eq!(again.reading.unwrap().traffic, reading.traffic);
}

/// The bug: a request could name one thing as often as it liked and was told all of it each time,
/// so that a small request made a reply of any size.
#[test]
fn what_is_named_many_times_is_told_once() {
    let mut scene = Scene::new(8 << 20);
    scene.make_internal(OFFSETS_TOPIC);
    scene.make_internal(TRANSACTIONS_TOPIC);
    for (version, why) in [(11, "by the name"), (12, "by the id")] {
        let named = |number: u8| match version {
            11 => MetadataRequestTopic {
                name: Some(TOPIC.to_owned()),
                topic_id: TopicId([number; 16]),
            },
            _ => MetadataRequestTopic { name: Some(number.to_string()), topic_id: TOPIC_ID },
        };
        let topics = Some((1..9).map(named).collect());
        scene.send_request(version, &MetadataRequest { topics, ..Default::default() });
        let reply = scene.replies();
        let (_, told) = decode_response::<MetadataResponse>(version, &reply[4..]).unwrap();
        assert_eq!(told.topics.len(), 1, "{why} alone");
    }

    let names = || ["one", "two", "one", "one"].map(str::to_owned).to_vec();

    let request = DescribeGroupsRequest { groups: names(), ..Default::default() };
    scene.send_request(5, &request);
    assert_eq!(scene.calls(), 2);
    let request = ConsumerGroupDescribeRequest { group_ids: names(), ..Default::default() };
    scene.send_request(0, &request);
    assert_eq!(scene.calls(), 2);
    scene.send_request(0, &DescribeTransactionsRequest { transactional_ids: names() });
    assert_eq!(scene.calls(), 2);
    let topic = |partitions| TopicPartitions { topic: TOPIC.to_owned(), partitions };
    let topics = vec![topic(vec![0, 0]), topic(vec![0])];
    scene.send_request(0, &DescribeProducersRequest { topics });
    assert_eq!(scene.calls(), 1);
}

/// The bug: as above, for the offsets of a group, each of which may come with 4 KiB of metadata.
#[test]
fn an_offset_that_is_wanted_many_times_is_told_once() {
    let mut scene = Scene::new(8 << 20);
    scene.make_internal(OFFSETS_TOPIC);
    let topic = |numbers: &[i32]| OffsetFetchRequestTopic {
        name: TOPIC.to_owned(),
        partition_indexes: numbers.to_vec(),
        ..Default::default()
    };
    let group =
        |topics| OffsetFetchRequestGroup { group_id: "g".to_owned(), topics, ..Default::default() };
    let groups = vec![
        group(Some(vec![topic(&[0, 1, 0]), topic(&[1])])),
        group(Some(vec![topic(&[0, 1])])),
        group(Some(vec![topic(&[1, 2])])),
        group(None),
        group(None),
    ];
    scene.send_request(8, &OffsetFetchRequest { groups, ..Default::default() });
    let mut asked = Vec::new();
    for message in scene.world.sent.drain(..) {
        let Message::Calls { calls, .. } = message else { continue };
        for (_, _, call) in calls {
            let Call::Group(request) = call else { panic!("a group was asked about") };
            let GroupRequest::FetchOffsets(fetch) = *request else { panic!("for its offsets") };
            let numbers = |(_, numbers): (_, Vec<i32>)| numbers;
            asked.push(fetch.topics.map(|topics| topics.into_iter().map(numbers).collect()));
        }
    }
    let expected: [Option<Vec<Vec<i32>>>; 3] = [Some(vec![vec![0, 1]]), Some(vec![vec![2]]), None];
    assert_eq!(asked, expected);
}

/// The bug: a shard that stops tells nobody what was spent on it, but asked to be woken for that at
/// once, again and again.
#[test]
fn a_shard_that_stops_is_not_woken_for_quotas() {
    let mut scene = Scene::new(8 << 20);
    let mut quotas = Quotas::default();
    let anybody = Entity { user: None, client: Some(Who::Default) };
    quotas.set(&anybody, Bound::Produce, Some(1000));
    scene.pass(Duration::from_secs(1));
    let now = scene.world.now;
    scene.shard.spending.spend(&quotas, "c", Bound::Produce, 1, now);
    let is_due =
        |scene: &Scene| matches!(scene.shard.next_wake(now), Next::At(then) if then <= now);
    assert!(is_due(&scene), "the others are to be told");
    scene.shard.stage = Stage::Stopping { others: 0, told: true };
    assert!(!is_due(&scene));
}
