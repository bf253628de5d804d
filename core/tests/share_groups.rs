//! Share groups on the wire (KIP-932): members of the real binary, each a connection.
//!
//! The rules for the records of one partition are beside these (`core/src/share/partition`); here is
//! what only connections and restarts show.
// Fixtures are tests, though they are no test functions.
#![allow(clippy::unwrap_used)]

mod process;
mod wire;

use std::io::Write;
use std::process::Command;

use bytes::{BufMut, Bytes, BytesMut};
use process::Broker;
use tidemill_net::kafka::alter_configs::operation;
use tidemill_net::kafka::describe_configs::resource;
use tidemill_net::kafka::find_coordinator::FindCoordinatorRequest;
use tidemill_net::kafka::share_acknowledge::{
    AcknowledgePartition, AcknowledgeTopic, AcknowledgementBatch, FINAL_EPOCH,
    ShareAcknowledgeRequest, acknowledge_type,
};
use tidemill_net::kafka::share_fetch::{
    ShareFetchPartition, ShareFetchRequest, ShareFetchResponse, ShareFetchTopic,
};
use tidemill_net::kafka::share_group_heartbeat::ShareGroupHeartbeatRequest;
use tidemill_net::kafka::{ApiKey, ErrorCode, Message, parse_response_header};
use tidemill_record::{BatchBuilder, Codec, Timestamp, TopicId};
use wire::Client;

const GROUP: &str = "workers";
const TOPIC: &str = "work";
const VERSION: i16 = 2;

/// A member, with its connection and its session.
struct Member {
    client: Client,
    name: String,
    topic: TopicId,
    step: i32,
}

/// Records given to a member: the first, the last, and how often they were given out.
type Given = Vec<(i64, i64, i16)>;

impl Member {
    /// Joins the group, and reads what it is told.
    fn join(broker: &Broker, name: &str) -> Member {
        let mut client = Client::open(broker);
        let find = FindCoordinatorRequest {
            coordinator_keys: vec![GROUP.to_owned()],
            ..FindCoordinatorRequest::default()
        };
        let heartbeat = ShareGroupHeartbeatRequest {
            group_id: GROUP.to_owned(),
            member_id: name.to_owned(),
            subscribed_topic_names: Some(vec![TOPIC.to_owned()]),
            ..ShareGroupHeartbeatRequest::default()
        };
        for _ in 0..10_000 {
            client.ask(4, &find);
            let heard = client.ask(1, &heartbeat);
            match heard.error_code {
                ErrorCode::None => {
                    let assigned = heard.assignment.unwrap().topic_partitions;
                    let topic = assigned[0].topic_id;
                    return Member { client, name: name.to_owned(), topic, step: 0 };
                }
                ErrorCode::CoordinatorNotAvailable
                | ErrorCode::NotCoordinator
                | ErrorCode::CoordinatorLoadInProgress => {}
                error => panic!("{error}: {:?}", heard.error_message),
            }
        }
        panic!("no coordinator");
    }

    fn send(&mut self, max_wait_ms: i32) {
        let partition = ShareFetchPartition { partition_index: 0, ..Default::default() };
        let topic = ShareFetchTopic { topic_id: self.topic, partitions: vec![partition] };
        let request = ShareFetchRequest {
            group_id: Some(GROUP.to_owned()),
            member_id: Some(self.name.clone()),
            share_session_epoch: self.step,
            max_wait_ms,
            min_bytes: 1,
            max_bytes: 1 << 20,
            max_records: 500,
            batch_size: 500,
            topics: if self.step == 0 { vec![topic] } else { Vec::new() },
            ..ShareFetchRequest::default()
        };
        self.step += 1;
        let mut body = BytesMut::new();
        request.encode(VERSION, &mut body);
        let mut frame = BytesMut::new();
        frame.put_i32(2 + 2 + 4 + 2 + 1 + body.len() as i32);
        frame.put_i16(ApiKey::ShareFetch.to_wire());
        frame.put_i16(VERSION);
        frame.put_i32(7);
        // No name, no tags.
        frame.put_i16(-1);
        frame.put_u8(0);
        frame.extend_from_slice(&body);
        self.client.stream.write_all(&frame).unwrap();
    }

    fn receive(&mut self) -> Given {
        self.try_receive().expect("it is known what the group has read")
    }

    /// What the member is given; none while what its group has read is being loaded.
    fn try_receive(&mut self) -> Option<Given> {
        let frame = Bytes::from(self.client.receive());
        let (_, start) = parse_response_header(ApiKey::ShareFetch, VERSION, &frame).unwrap();
        let body = frame.slice(start..);
        let response = ShareFetchResponse::parse(VERSION, &body).unwrap();
        assert_eq!(response.error_code, ErrorCode::None);
        let mut given = Vec::new();
        for partition in response.partitions.iter() {
            if partition.error_code == ErrorCode::NotLeaderOrFollower {
                return None;
            }
            assert_eq!(partition.error_code, ErrorCode::None);
            let all = partition.acquired_records.iter();
            given.extend(all.map(|one| (one.first_offset, one.last_offset, one.delivery_count)));
            assert_eq!(given.is_empty(), partition.records_bytes() == 0);
        }
        Some(given)
    }

    fn fetch(&mut self, max_wait_ms: i32) -> Given {
        for _ in 0..10_000 {
            self.send(max_wait_ms);
            if let Some(given) = self.try_receive() {
                return given;
            }
        }
        panic!("it is not known what the group has read");
    }

    /// Says what became of records.
    fn tell(&mut self, first_offset: i64, last_offset: i64, kind: i8, step: i32) -> ErrorCode {
        let batch =
            AcknowledgementBatch { first_offset, last_offset, acknowledge_types: vec![kind] };
        let partition =
            AcknowledgePartition { partition_index: 0, acknowledgement_batches: vec![batch] };
        let request = ShareAcknowledgeRequest {
            group_id: Some(GROUP.to_owned()),
            member_id: Some(self.name.clone()),
            share_session_epoch: step,
            topics: vec![AcknowledgeTopic { topic_id: self.topic, partitions: vec![partition] }],
            ..ShareAcknowledgeRequest::default()
        };
        let told = self.client.ask(VERSION, &request);
        match told.error_code {
            ErrorCode::None => told.responses[0].partitions[0].error_code,
            error => error,
        }
    }

    fn accept(&mut self, first: i64, last: i64) -> ErrorCode {
        let step = self.step;
        self.step += 1;
        self.tell(first, last, acknowledge_type::ACCEPT, step)
    }
}

/// A broker with a topic, and a group that reads it from the beginning.
fn scene(name: &str) -> Broker {
    let broker = Broker::start(name, &["--shards", "2"]);
    let mut client = Client::open(&broker);
    client.create(TOPIC, 1);
    let earliest = [("share.auto.offset.reset", operation::SET, Some("earliest"))];
    assert_eq!(client.alter(resource::GROUP, GROUP, &earliest), ErrorCode::None);
    produce(&broker);
    broker
}

/// Ten more records.
fn produce(broker: &Broker) {
    let mut builder = BatchBuilder::new(Codec::None);
    (0..10).for_each(|_| builder.append(Timestamp(1000), None, Some(b"value")));
    let produced = Client::open(broker).produce(TOPIC, 0, &builder.build());
    assert_eq!(produced.error_code, ErrorCode::None);
}

/// What was accepted is never given out again, whatever ends; everything else is.
#[test]
fn what_was_accepted_is_done_with_across_a_kill() {
    let mut broker = scene("share-kill");
    let mut first = Member::join(&broker, "first");
    assert_eq!(first.fetch(5000), [(0, 9, 1)]);
    assert_eq!(first.accept(2, 6), ErrorCode::None);
    broker.kill();
    broker.run();
    let mut second = Member::join(&broker, "second");
    assert_eq!(second.fetch(5000), [(0, 1, 1), (7, 9, 1)]);
    broker.stop();
}

/// A member that waits gets what is new, and what a member had whose connection has ended.
#[test]
fn who_waits_gets_what_is_new_and_what_comes_back() {
    let mut broker = scene("share-waits");
    let mut first = Member::join(&broker, "first");
    let mut second = Member::join(&broker, "second");
    assert_eq!(first.fetch(5000), [(0, 9, 1)]);
    assert_eq!(second.fetch(100), [], "the first one has it");
    second.send(30_000);
    produce(&broker);
    assert_eq!(second.receive(), [(10, 19, 1)]);
    second.send(30_000);
    drop(first);
    assert_eq!(second.receive(), [(0, 9, 2)]);
    broker.stop();
}

/// Steps of a session come in order, only who has records may speak of them, and what is left when
/// a session ends is free.
#[test]
fn sessions_and_acknowledgements_are_checked() {
    let mut broker = scene("share-sessions");
    let mut first = Member::join(&broker, "first");
    let mut second = Member::join(&broker, "second");
    let unknown = first.tell(0, 0, acknowledge_type::ACCEPT, 1);
    assert_eq!(unknown, ErrorCode::ShareSessionNotFound);
    assert_eq!(first.fetch(5000), [(0, 9, 1)]);
    let early = first.tell(0, 0, acknowledge_type::ACCEPT, 7);
    assert_eq!(early, ErrorCode::InvalidShareSessionEpoch);
    assert_eq!(second.fetch(0), []);
    assert_eq!(second.accept(0, 0), ErrorCode::InvalidRecordState);
    assert_eq!(first.accept(0, 3), ErrorCode::None);
    assert_eq!(first.tell(4, 4, acknowledge_type::REJECT, FINAL_EPOCH), ErrorCode::None);
    assert_eq!(second.fetch(5000), [(5, 9, 2)]);
    broker.stop();
}

/// Who speaks of a share group to a command for other groups is told what it is. It was not there, or
/// of another protocol.
#[test]
fn commands_say_that_it_is_a_share_group() {
    let mut broker = scene("share-commands");
    let member = Member::join(&broker, "first");
    let commands = [
        &["group", "describe", GROUP][..],
        &["group", "reset", GROUP, "-t", TOPIC, "--to", "end"],
        &["group", "delete", GROUP],
        &["consume", "-t", TOPIC, "-g", GROUP, "-e"],
    ];
    for arguments in commands {
        let run = Command::new(env!("CARGO_BIN_EXE_tidemill"))
            .args(arguments)
            .args(["-b", &broker.address()])
            .output()
            .unwrap();
        let why = String::from_utf8(run.stderr).unwrap();
        assert!(!run.status.success(), "{arguments:?}");
        assert!(why.contains("share group") && why.contains("kafka-share-groups.sh"), "{why}");
    }
    drop(member);
    broker.stop();
}
