//! Share groups on the wire (KIP-932): members of the real binary, each a connection.
//!
//! The rules for the records of one partition are beside these (`core/src/share/partition`); here is
//! what only connections and restarts show.
// Fixtures are tests, though they are no test functions.
#![allow(clippy::unwrap_used)]

mod process;
mod wire;

use std::io::Write;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use bytes::{BufMut, Bytes, BytesMut};
use process::Broker;
use tidemill_net::kafka::alter_client_quotas::{
    AlterClientQuotasRequest, QuotaChange, QuotaChanges,
};
use tidemill_net::kafka::alter_configs::operation;
use tidemill_net::kafka::alter_share_group_offsets::{
    AlterShareGroupOffsetsRequest, ShareGroupPartitionToAlter, ShareGroupTopicToAlter,
};
use tidemill_net::kafka::consumer_group_heartbeat::LEAVE_EPOCH;
use tidemill_net::kafka::delete_share_group_offsets::{
    DeleteShareGroupOffsetsRequest, ShareGroupTopicToDelete,
};
use tidemill_net::kafka::describe_client_quotas::QuotaEntity;
use tidemill_net::kafka::describe_configs::resource;
use tidemill_net::kafka::describe_share_group_offsets::{
    DescribeShareGroupOffsetsRequest, ShareGroupToDescribe,
};
use tidemill_net::kafka::find_coordinator::FindCoordinatorRequest;
use tidemill_net::kafka::share_acknowledge::{
    AcknowledgePartition, AcknowledgeTopic, AcknowledgementBatch, FINAL_EPOCH,
    ShareAcknowledgeRequest, acknowledge_type,
};
use tidemill_net::kafka::share_fetch::{
    ShareFetchPartition, ShareFetchRequest, ShareFetchResponse, ShareFetchTopic,
};
use tidemill_net::kafka::share_group_describe::ShareGroupDescribeRequest;
use tidemill_net::kafka::share_group_heartbeat::ShareGroupHeartbeatRequest;
use tidemill_net::kafka::topic_partitions::TopicPartitions;
use tidemill_net::kafka::{ApiKey, ErrorCode, Message, parse_response_header};
use tidemill_record::{BatchBuilder, Codec, Timestamp, TopicId};
use wire::Client;

const GROUP: &str = "workers";
const TOPIC: &str = "work";
const VERSION: i16 = 2;
/// The longest that a coordinator may take to come up.
const PATIENCE: Duration = Duration::from_secs(60);

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
        let start = Instant::now();
        while start.elapsed() < PATIENCE {
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
        let start = Instant::now();
        while start.elapsed() < PATIENCE {
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

    fn leave(mut self) {
        let goodbye = ShareGroupHeartbeatRequest {
            group_id: GROUP.to_owned(),
            member_id: self.name.clone(),
            member_epoch: LEAVE_EPOCH,
            ..ShareGroupHeartbeatRequest::default()
        };
        assert_eq!(self.client.ask(1, &goodbye).error_code, ErrorCode::None);
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

/// What a request names twice is told of once, and done once: else an answer would have no bound. Of more
/// groups than are told of at once, those behind are said to be too many.
#[test]
fn what_is_named_twice_is_told_once() {
    let mut broker = scene("share-twice");
    let mut member = Member::join(&broker, "first");
    assert_eq!(member.fetch(5000), [(0, 9, 1)]);
    assert_eq!(member.accept(0, 3), ErrorCode::None);
    let mut client = Client::open(&broker);
    let twice = |name: &str| vec![name.to_owned(), name.to_owned()];
    let describe = ShareGroupDescribeRequest {
        group_ids: [twice(GROUP), twice("nobody's")].concat(),
        ..ShareGroupDescribeRequest::default()
    };
    let told = client.ask(1, &describe).groups;
    let told: Vec<_> = told.into_iter().map(|group| (group.group_id, group.error_code)).collect();
    let expected = [(GROUP, ErrorCode::None), ("nobody's", ErrorCode::GroupIdNotFound)];
    assert_eq!(told, expected.map(|(group, error)| (group.to_owned(), error)));

    let named = TopicPartitions { topic: TOPIC.to_owned(), partitions: vec![0, 0, 7] };
    let topics = Some(vec![named.clone(), named]);
    let group = ShareGroupToDescribe { group_id: GROUP.to_owned(), topics };
    let others = (0..101).map(|number| ShareGroupToDescribe {
        group_id: format!("other-{number}"),
        ..ShareGroupToDescribe::default()
    });
    let groups = [group.clone(), group].into_iter().chain(others).collect();
    let told = client.ask(1, &DescribeShareGroupOffsetsRequest { groups }).groups;
    assert_eq!(told.len(), 102, "each group once");
    let parts: Vec<_> = told[0].topics.iter().flat_map(|topic| &topic.partitions).collect();
    let parts = parts.iter().map(|one| (one.partition_index, one.start_offset, one.lag));
    assert_eq!(parts.collect::<Vec<_>>(), [(0, 4, 6), (7, -1, -1)]);
    assert!(told[1..100].iter().all(|group| group.error_code == ErrorCode::GroupIdNotFound));
    assert!(told[100..].iter().all(|group| group.error_code == ErrorCode::InvalidRequest));

    member.leave();
    let part = |start_offset: i64| ShareGroupPartitionToAlter { partition_index: 0, start_offset };
    let topic = |starts: &[i64]| ShareGroupTopicToAlter {
        topic_name: TOPIC.to_owned(),
        partitions: starts.iter().map(|start| part(*start)).collect(),
    };
    let alter = AlterShareGroupOffsetsRequest {
        group_id: GROUP.to_owned(),
        topics: vec![topic(&[2, 5]), topic(&[7])],
    };
    let told = client.ask(0, &alter);
    assert_eq!(told.error_code, ErrorCode::None);
    let parts: Vec<_> = told.responses.iter().flat_map(|topic| &topic.partitions).collect();
    assert_eq!((parts.len(), parts[0].error_code), (1, ErrorCode::None));
    assert_eq!(progress(&described(&broker)), [(0, 2, 10, 8, 0)], "what was said first");

    // Also of a group that nobody knows: it is there from then on, and its first member begins there.
    let alter = AlterShareGroupOffsetsRequest { group_id: "next".to_owned(), topics: alter.topics };
    assert_eq!(client.ask(0, &alter).error_code, ErrorCode::None);
    let group = ShareGroupToDescribe { group_id: "next".to_owned(), topics: None };
    let told = client.ask(1, &DescribeShareGroupOffsetsRequest { groups: vec![group] }).groups;
    assert_eq!(told[0].topics[0].partitions[0].start_offset, 2);

    let topic = ShareGroupTopicToDelete { topic_name: TOPIC.to_owned() };
    let topics = vec![topic.clone(), topic];
    let delete = DeleteShareGroupOffsetsRequest { group_id: GROUP.to_owned(), topics };
    let told = client.ask(0, &delete).responses;
    assert_eq!((told.len(), told[0].error_code), (1, ErrorCode::None));
    assert_eq!(progress(&described(&broker)), []);
    broker.stop();
}

/// Only what there is can be forgotten: of a topic that the group has read nothing of, it is said that
/// there was nothing, as in Kafka. The bug: it was said to be done.
#[test]
fn what_was_never_read_was_said_to_be_forgotten() {
    let mut broker = scene("share-never-read");
    let mut client = Client::open(&broker);
    client.create("other", 2);
    let mut member = Member::join(&broker, "first");
    assert_eq!(member.fetch(5000), [(0, 9, 1)]);
    assert_eq!(member.accept(0, 3), ErrorCode::None);
    member.leave();
    let mut forget = |names: &[&str]| {
        let name = |name: &&str| ShareGroupTopicToDelete { topic_name: (*name).to_owned() };
        let topics = names.iter().map(name).collect();
        let delete = DeleteShareGroupOffsetsRequest { group_id: GROUP.to_owned(), topics };
        let told = client.ask(0, &delete).responses.into_iter();
        let told = told.map(|topic| (topic.error_code, topic.error_message.is_some()));
        told.collect::<Vec<_>>()
    };
    let (done, nothing) = ((ErrorCode::None, false), (ErrorCode::UnknownTopicOrPartition, true));
    assert_eq!(forget(&["other", TOPIC, "no"]), [nothing, done, nothing]);
    assert_eq!(forget(&[TOPIC]), [nothing], "it is forgotten already");
    broker.stop();
}

/// The first share group of all may be one that is placed and has no member yet: who places it is told
/// to come again until there is a topic for what share groups have read.
#[test]
fn the_first_share_group_of_all_is_placed_before_its_first_member() {
    let mut broker = scene("share-first");
    let mut client = Client::open(&broker);
    let find = FindCoordinatorRequest {
        coordinator_keys: vec![GROUP.to_owned()],
        ..FindCoordinatorRequest::default()
    };
    let part = ShareGroupPartitionToAlter { partition_index: 0, start_offset: 7 };
    let topic = ShareGroupTopicToAlter { topic_name: TOPIC.to_owned(), partitions: vec![part] };
    let group_id = GROUP.to_owned();
    let alter = AlterShareGroupOffsetsRequest { group_id, topics: vec![topic] };
    let start = Instant::now();
    let told = std::iter::repeat_with(|| {
        client.ask(4, &find);
        let told = client.ask(0, &alter);
        told.responses.first().map_or(told.error_code, |topic| topic.partitions[0].error_code)
    });
    let comes_again = |error: &ErrorCode| {
        use ErrorCode::{CoordinatorLoadInProgress, CoordinatorNotAvailable, NotCoordinator};
        matches!(error, CoordinatorLoadInProgress | CoordinatorNotAvailable | NotCoordinator)
    };
    let mut told = told.skip_while(|error| comes_again(error) && start.elapsed() < PATIENCE);
    assert_eq!(told.next(), Some(ErrorCode::None));
    let mut member = Member::join(&broker, "first");
    assert_eq!(member.fetch(5000), [(7, 9, 1)]);
    member.leave();
    broker.stop();
}

/// Who would be a member of a share group with the command that reads for other groups is told what it
/// is. It was not there, or of another protocol.
#[test]
fn who_consumes_is_told_that_it_is_a_share_group() {
    let mut broker = scene("share-consume");
    let _member = Member::join(&broker, "first");
    let why = complaint(&broker, &["consume", "-t", TOPIC, "-g", GROUP, "-e"]);
    assert!(why.contains("share group") && why.contains("share-consumer.sh"), "{why}");
    broker.stop();
}

/// A share group from its first member to its end with our own commands: how far it is, who is in it,
/// that it begins elsewhere, forgets a topic, and is deleted, but while somebody is in it.
#[test]
fn commands_describe_reset_and_delete_share_groups() {
    let mut broker = scene("share-commands");
    let mut member = Member::join(&broker, "first");
    assert_eq!(member.fetch(5000), [(0, 9, 1)]);
    assert_eq!(member.accept(0, 3), ErrorCode::None);
    assert_eq!(member.accept(6, 6), ErrorCode::None);
    let told = described(&broker);
    assert_eq!((&told["state"], &told["type"]), (&"Stable".into(), &"share".into()), "{told}");
    let of_member = &told["members"][0];
    assert_eq!((&of_member["name"], &of_member["partitions"]), (&"first".into(), &1.into()));
    assert_eq!(progress(&told), [(0, 4, 10, 5, 1)]);
    let text = command(&broker, &["group", "describe", GROUP]);
    assert!(text.starts_with("workers  Stable  1 member  type share"), "{text}");
    assert!(text.contains("START") && text.contains("LAG_S") && text.contains("first"), "{text}");

    let reset = ["group", "reset", GROUP, "--to", "beginning"];
    assert!(complaint(&broker, &reset).contains("it has 1 member"));
    assert!(complaint(&broker, &["group", "delete", GROUP]).contains("somebody is in it"));
    let forget = ["group", "delete", GROUP, "-t", TOPIC];
    assert!(complaint(&broker, &forget).contains("somebody is in it"));

    member.leave();
    let dry = command(&broker, &[&reset[..], &["--dry-run"]].concat());
    assert!(dry.contains("nothing was changed"), "{dry}");
    assert_eq!(progress(&described(&broker)), [(0, 4, 10, 5, 0)]);
    command(&broker, &reset);
    assert_eq!(progress(&described(&broker)), [(0, 0, 10, 10, 0)]);
    let mut member = Member::join(&broker, "second");
    assert_eq!(member.fetch(5000), [(0, 9, 1)], "also what was accepted before");
    member.leave();
    command(&broker, &["group", "reset", GROUP, "-t", TOPIC, "-p", "0", "--to", "end"]);
    assert_eq!(progress(&described(&broker)), [(0, 10, 10, 0, 0)]);
    command(&broker, &["group", "reset", GROUP, "--to", "s@1000"]);
    assert_eq!(progress(&described(&broker)), [(0, 0, 10, 10, 0)], "their time is 1000");
    command(&broker, &["group", "reset", GROUP, "--to", "s@1001"]);
    assert_eq!(progress(&described(&broker)), [(0, 10, 10, 0, 0)], "none is that young");

    command(&broker, &forget);
    assert_eq!(progress(&described(&broker)), []);
    assert!(complaint(&broker, &reset).contains("has read nothing"));
    assert_eq!(command(&broker, &["group", "delete", GROUP]), "deleted workers\n");
    let why = complaint(&broker, &["group", "describe", GROUP]);
    assert!(why.contains("no group workers"), "{why}");
    broker.stop();
}

fn run(broker: &Broker, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_tidemill"))
        .args(arguments)
        .args(["-b", &broker.address()])
        .output()
        .unwrap()
}

/// What a command says.
fn command(broker: &Broker, arguments: &[&str]) -> String {
    let run = run(broker, arguments);
    let why = String::from_utf8_lossy(&run.stderr);
    assert!(run.status.success(), "{arguments:?}: {why}");
    String::from_utf8(run.stdout).unwrap()
}

/// Why it does not do what it is told.
fn complaint(broker: &Broker, arguments: &[&str]) -> String {
    let run = run(broker, arguments);
    assert!(!run.status.success(), "{arguments:?}");
    String::from_utf8(run.stderr).unwrap()
}

fn described(broker: &Broker) -> serde_json::Value {
    let text = command(broker, &["group", "describe", GROUP, "--output", "json"]);
    serde_json::from_str(&text).unwrap()
}

/// Of each partition its number, the start, the end, the lag and how many members read it.
fn progress(told: &serde_json::Value) -> Vec<(i64, i64, i64, i64, i64)> {
    let all = told["partitions"].as_array().unwrap().iter().map(|row| {
        let number = |name: &str| row[name].as_i64().unwrap();
        let (start, end) = (number("start_offset"), number("end_offset"));
        (number("partition"), start, end, number("lag_records"), number("members"))
    });
    all.collect()
}

/// A member of a share group got any number of seconds' worth of its quota at once. It gets ten, or one
/// batch, and nothing while its client owes a minute.
#[test]
fn a_share_fetch_brought_any_number_of_seconds_worth() {
    let mut broker = Broker::start("share-quota", &["--shards", "1"]);
    let mut client = Client::open(&broker);
    client.create(TOPIC, 1);
    let earliest = [("share.auto.offset.reset", operation::SET, Some("earliest"))];
    assert_eq!(client.alter(resource::GROUP, GROUP, &earliest), ErrorCode::None);
    for bytes in [4_000, 4_000, 4_000, 100_000, 10] {
        let mut builder = BatchBuilder::new(Codec::None);
        builder.append(Timestamp(1000), None, Some(&vec![7; bytes]));
        assert_eq!(client.produce(TOPIC, 0, &builder.build()).error_code, ErrorCode::None);
    }
    let mut first = Member::join(&broker, "first");
    let mut second = Member::join(&broker, "second");
    let anybody = QuotaEntity { entity_type: "client-id".to_owned(), entity_name: None };
    let key = "consumer_byte_rate".to_owned();
    let ops = vec![QuotaChange { key, value: 1000.0, remove: false }];
    let entries = vec![QuotaChanges { entity: vec![anybody], ops }];
    let quotas = AlterClientQuotasRequest { entries, validate_only: false };
    assert_eq!(client.ask(1, &quotas).entries[0].error_code, ErrorCode::None);

    let last = |given: &Given| given.last().map(|(_, last, _)| *last);
    assert_eq!(last(&first.fetch(5000)), Some(1), "two are eight seconds' worth");
    assert_eq!(last(&first.fetch(5000)), Some(2));
    assert_eq!(last(&second.fetch(5000)), Some(3), "alone it is too much, and so it comes alone");
    let mut third = Member::join(&broker, "third");
    assert_eq!(third.fetch(i32::MAX), [], "there is one, but not for now; that is told at once");
    broker.stop();
}
