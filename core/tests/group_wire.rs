//! Groups as they are on the wire: each rule that some client relies on, asked of the real binary in
//! the versions that differ.
//!
//! What a group decides has its rules beside the coordinator; here is what only a connection sees:
//! versions, names and ids of topics, many groups in one request, and that a connection that ends is
//! nobody's leave.
// Fixtures are tests, though they are no test functions.
#![allow(clippy::unwrap_used)]

mod process;

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use process::Broker;
use tidemill_net::kafka::consumer_group_describe::ConsumerGroupDescribeRequest;
use tidemill_net::kafka::consumer_group_heartbeat::ConsumerGroupHeartbeatRequest;
use tidemill_net::kafka::consumer_protocol::{Assignment, Subscription};
use tidemill_net::kafka::create_topics::{CreatableTopic, CreateTopicsRequest};
use tidemill_net::kafka::delete_groups::DeleteGroupsRequest;
use tidemill_net::kafka::describe_groups::DescribeGroupsRequest;
use tidemill_net::kafka::find_coordinator::FindCoordinatorRequest;
use tidemill_net::kafka::heartbeat::HeartbeatRequest;
use tidemill_net::kafka::join_group::{
    JoinGroupRequest, JoinGroupRequestProtocol, JoinGroupResponse,
};
use tidemill_net::kafka::list_groups::{ListGroupsRequest, ListedGroup};
use tidemill_net::kafka::metadata::MetadataRequest;
use tidemill_net::kafka::offset_commit::{
    OffsetCommitRequest, OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use tidemill_net::kafka::offset_delete::{
    OffsetDeleteRequest, OffsetDeleteRequestPartition, OffsetDeleteRequestTopic,
};
use tidemill_net::kafka::offset_fetch::{
    OffsetFetchRequest, OffsetFetchRequestGroup, OffsetFetchRequestTopic, OffsetFetchResponseTopic,
};
use tidemill_net::kafka::sync_group::{SyncGroupRequest, SyncGroupRequestAssignment};
use tidemill_net::kafka::topic_partitions::TopicPartitions;
use tidemill_net::kafka::{ErrorCode, Request, decode_response, encode_request};
use tidemill_record::TopicId;

const PATIENCE: Duration = Duration::from_secs(60);
const TOPIC: &str = "t";

/// One connection that asks and waits.
struct Wire {
    stream: TcpStream,
}

impl Wire {
    fn to(broker: &Broker) -> Self {
        Self::at(&broker.address())
    }

    fn at(address: &str) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Self { stream }
    }

    fn send<R: Request>(&mut self, version: i16, request: &R) {
        let mut frame = BytesMut::new();
        encode_request(&mut frame, version, 1, Some("wire"), request);
        self.stream.write_all(&frame).unwrap();
    }

    fn receive<R: Request>(&mut self, version: i16) -> R::Response {
        let mut length = [0; 4];
        self.stream.read_exact(&mut length).unwrap();
        let mut frame = vec![0; u32::from_be_bytes(length) as usize];
        self.stream.read_exact(&mut frame).unwrap();
        decode_response(version, &frame).unwrap().1
    }

    fn ask<R: Request>(&mut self, version: i16, request: &R) -> R::Response {
        self.send(version, request);
        self.receive::<R>(version)
    }

    /// Asks for the coordinator of a group until there is one.
    fn find(&mut self, group: &str) {
        let start = Instant::now();
        while start.elapsed() < PATIENCE {
            let request = FindCoordinatorRequest {
                key: group.to_owned(),
                ..FindCoordinatorRequest::default()
            };
            match self.ask(0, &request).error_code {
                ErrorCode::None => return,
                error => assert_eq!(error, ErrorCode::CoordinatorNotAvailable),
            }
        }
        panic!("no coordinator");
    }

    /// The groups that each of the cluster's brokers tells of, put together as they are.
    fn list(&mut self, states: &[&str], types: &[&str]) -> Vec<ListedGroup> {
        let texts = |list: &[&str]| list.iter().map(|text| (*text).to_owned()).collect();
        let request =
            ListGroupsRequest { states_filter: texts(states), types_filter: texts(types) };
        let cluster = MetadataRequest { topics: Some(Vec::new()), ..MetadataRequest::default() };
        let brokers = self.ask(9, &cluster).brokers;
        let lists = brokers.iter().flat_map(|broker| {
            let mut wire = Self::at(&format!("{}:{}", broker.host, broker.port));
            wire.ask(5, &request).groups
        });
        let mut groups: Vec<ListedGroup> = lists.collect();
        groups.sort_by(|a, b| a.group_id.cmp(&b.group_id));
        groups
    }

    fn commit(&mut self, version: i16, group: &str, topic: OffsetCommitRequestTopic) -> ErrorCode {
        let request = OffsetCommitRequest {
            group_id: group.to_owned(),
            topics: vec![topic],
            ..OffsetCommitRequest::default()
        };
        let response = self.ask(version, &request);
        response.topics[0].partitions[0].error_code
    }

    /// A member of a group of its own, with all of its share.
    fn join_alone(&mut self, group: &str) -> JoinGroupResponse {
        let named = self.ask(9, &join(group, ""));
        assert_eq!(named.error_code, ErrorCode::MemberIdRequired);
        let joined = self.ask(9, &join(group, &named.member_id));
        assert_eq!(joined.error_code, ErrorCode::None);
        let share = SyncGroupRequestAssignment {
            member_id: joined.member_id.clone(),
            assignment: Bytes::from_static(b"all"),
        };
        let sync = SyncGroupRequest {
            group_id: group.to_owned(),
            generation_id: joined.generation_id,
            member_id: joined.member_id.clone(),
            assignments: vec![share],
            ..SyncGroupRequest::default()
        };
        assert_eq!(self.ask(5, &sync).error_code, ErrorCode::None);
        joined
    }

    fn beat(&mut self, group: &str, joined: &JoinGroupResponse) -> ErrorCode {
        let beat = HeartbeatRequest {
            group_id: group.to_owned(),
            generation_id: joined.generation_id,
            member_id: joined.member_id.clone(),
            ..HeartbeatRequest::default()
        };
        self.ask(4, &beat).error_code
    }
}

fn join(group: &str, member: &str) -> JoinGroupRequest {
    JoinGroupRequest {
        group_id: group.to_owned(),
        session_timeout_ms: 60_000,
        rebalance_timeout_ms: 60_000,
        member_id: member.to_owned(),
        protocol_type: "consumer".to_owned(),
        protocols: vec![JoinGroupRequestProtocol {
            name: "range".to_owned(),
            // No topics, no user data.
            metadata: Bytes::from_static(b"\0\0\0\0\0\0\xff\xff\xff\xff"),
        }],
        ..JoinGroupRequest::default()
    }
}

/// A broker of two shards with one topic of two partitions, and a connection to it.
fn scene(name: &str) -> (Broker, Wire, TopicId) {
    let broker =
        Broker::start(name, &["--shards", "2", "--set", "group.initial.rebalance.delay.ms=0"]);
    let mut wire = Wire::to(&broker);
    let topic = CreatableTopic {
        name: TOPIC.to_owned(),
        num_partitions: 2,
        replication_factor: 1,
        ..CreatableTopic::default()
    };
    let create =
        CreateTopicsRequest { topics: vec![topic], timeout_ms: 60_000, ..Default::default() };
    let created = wire.ask(7, &create);
    assert_eq!(created.topics[0].error_code, ErrorCode::None);
    let id = created.topics[0].topic_id;
    wire.find("g");
    (broker, wire, id)
}

fn offset(partition: i32, committed_offset: i64) -> OffsetCommitRequestPartition {
    OffsetCommitRequestPartition {
        partition_index: partition,
        committed_offset,
        committed_leader_epoch: 3,
        committed_metadata: Some("kept".to_owned()),
    }
}

fn named(name: &str, partitions: Vec<OffsetCommitRequestPartition>) -> OffsetCommitRequestTopic {
    OffsetCommitRequestTopic { name: name.to_owned(), partitions, ..Default::default() }
}

fn wanted(group: &str, topic: Option<&str>) -> OffsetFetchRequestGroup {
    let topics = topic.map(|name| {
        vec![OffsetFetchRequestTopic {
            name: name.to_owned(),
            partition_indexes: vec![0, 1],
            ..OffsetFetchRequestTopic::default()
        }]
    });
    OffsetFetchRequestGroup { group_id: group.to_owned(), topics, ..Default::default() }
}

fn offsets_of(topic: &OffsetFetchResponseTopic) -> Vec<(i64, i32, Option<&str>, ErrorCode)> {
    let partitions = topic.partitions.iter();
    let told = partitions.map(|p| {
        (p.committed_offset, p.committed_leader_epoch, p.metadata.as_deref(), p.error_code)
    });
    told.collect()
}

const NOTHING: (i64, i32, Option<&str>, ErrorCode) = (-1, -1, Some(""), ErrorCode::None);

/// Offsets of groups and partitions nobody ever committed are -1 without an error; what was
/// committed comes back with its leader epoch and metadata, in every version that has them, and
/// from version 8 on for many groups at once.
#[test]
fn committed_offsets_are_fetched_in_all_shapes() {
    let (_broker, mut wire, id) = scene("wire-offsets");
    assert_eq!(wire.commit(9, "g", named(TOPIC, vec![offset(1, 42)])), ErrorCode::None);
    let found = (42, 3, Some("kept"), ErrorCode::None);

    // One group, without an error of its own before version 2.
    for version in [1, 5, 7] {
        for (group, second) in [("g", found), ("stranger", NOTHING)] {
            let request = OffsetFetchRequest {
                group_id: group.to_owned(),
                topics: wanted(group, Some(TOPIC)).topics,
                require_stable: true,
                ..OffsetFetchRequest::default()
            };
            let response = wire.ask(version, &request);
            assert_eq!(response.error_code, ErrorCode::None);
            let epoch = if version < 5 { -1 } else { second.1 };
            let second = (second.0, epoch, second.2, second.3);
            assert_eq!(offsets_of(&response.topics[0]), [NOTHING, second], "{group} {version}");
        }
    }

    // Many groups; null topics are all that a group has committed.
    let groups = vec![wanted("g", None), wanted("stranger", None), wanted("g", Some("nowhere"))];
    let request = OffsetFetchRequest { groups, ..OffsetFetchRequest::default() };
    let response = wire.ask(9, &request);
    let told = |index: usize| &response.groups[index];
    assert_eq!((told(0).group_id.as_str(), told(0).error_code), ("g", ErrorCode::None));
    assert_eq!(told(0).topics.len(), 1);
    assert_eq!(offsets_of(&told(0).topics[0]), [found], "only what was committed");
    assert_eq!((told(1).error_code, told(1).topics.len()), (ErrorCode::None, 0));
    assert_eq!(offsets_of(&told(2).topics[0]), [NOTHING, NOTHING]);

    // By id.
    let mut by_id = wanted("g", Some(TOPIC));
    let topics = by_id.topics.as_mut().unwrap();
    topics[0].topic_id = id;
    let unknown = OffsetFetchRequestTopic { topic_id: TopicId([9; 16]), ..topics[0].clone() };
    topics.push(unknown);
    let request = OffsetFetchRequest { groups: vec![by_id], ..OffsetFetchRequest::default() };
    let response = wire.ask(10, &request);
    let topics = &response.groups[0].topics;
    assert_eq!((topics[0].topic_id, offsets_of(&topics[0])), (id, vec![NOTHING, found]));
    assert!(topics[1].partitions.iter().all(|p| p.error_code == ErrorCode::UnknownTopicId));
}

/// A commit names partitions that there are, by name or by id; the others are refused one by one.
/// Who says a generation of a group that is not there is told so in the version's own words.
#[test]
fn commits_are_refused_one_by_one() {
    let (_broker, mut wire, id) = scene("wire-commits");
    let unknown = ErrorCode::UnknownTopicOrPartition;
    assert_eq!(wire.commit(9, "g", named("nowhere", vec![offset(0, 1)])), unknown);
    let request = OffsetCommitRequest {
        group_id: "g".to_owned(),
        topics: vec![named(TOPIC, vec![offset(0, 1), offset(2, 1)])],
        ..OffsetCommitRequest::default()
    };
    let response = wire.ask(9, &request);
    let told: Vec<ErrorCode> =
        response.topics[0].partitions.iter().map(|partition| partition.error_code).collect();
    assert_eq!(told, [ErrorCode::None, unknown]);

    let by_id = |topic_id| OffsetCommitRequestTopic { topic_id, ..named("", vec![offset(0, 1)]) };
    assert_eq!(wire.commit(10, "g", by_id(id)), ErrorCode::None);
    assert_eq!(wire.commit(10, "g", by_id(TopicId([9; 16]))), ErrorCode::UnknownTopicId);

    for (version, error) in [(8, ErrorCode::IllegalGeneration), (9, ErrorCode::GroupIdNotFound)] {
        let request = OffsetCommitRequest {
            group_id: "stranger".to_owned(),
            generation_id_or_member_epoch: 5,
            member_id: "m".to_owned(),
            topics: vec![named(TOPIC, vec![offset(0, 1)])],
            ..OffsetCommitRequest::default()
        };
        let response = wire.ask(version, &request);
        assert_eq!(response.topics[0].partitions[0].error_code, error, "version {version}");
    }
}

/// Each key of a question for coordinators has its own answer.
#[test]
fn coordinators_are_found_key_by_key() {
    let (_broker, mut wire, _) = scene("wire-find");
    let request = FindCoordinatorRequest {
        coordinator_keys: vec!["g".to_owned(), "x".repeat(4_097), String::new()],
        ..FindCoordinatorRequest::default()
    };
    let response = wire.ask(4, &request);
    let told: Vec<(usize, ErrorCode)> =
        response.coordinators.iter().map(|c| (c.key.len(), c.error_code)).collect();
    let none = ErrorCode::None;
    assert_eq!(told, [(1, none), (4_097, ErrorCode::InvalidGroupId), (0, none)]);
    assert!(0 < response.coordinators[0].port && response.coordinators[1].node_id == -1);
}

/// A new member is told its name first, in the versions that have that; sessions have their bounds;
/// a group without a name is refused.
#[test]
fn members_join_as_their_version_says() {
    let (_broker, mut wire, _) = scene("wire-join");
    assert_eq!(wire.ask(3, &join("old", "")).error_code, ErrorCode::None, "no second round");
    let named = wire.ask(4, &join("new", ""));
    assert_eq!(named.error_code, ErrorCode::MemberIdRequired);
    assert!(named.member_id.starts_with("wire-"), "{}", named.member_id);
    for ms in [5_999, 1_800_001] {
        let request = JoinGroupRequest { session_timeout_ms: ms, ..join("g", "") };
        assert_eq!(wire.ask(9, &request).error_code, ErrorCode::InvalidSessionTimeout);
    }
    assert_eq!(wire.ask(9, &join("", "")).error_code, ErrorCode::InvalidGroupId);
}

/// A member whose connection ends is still a member: only silence and leaving end that. And a join
/// that waits for others on a dead connection does not keep the next one from being answered.
#[test]
fn a_connection_that_ends_is_no_leave() {
    let (broker, mut wire, _) = scene("wire-ends");
    let joined = wire.join_alone("g");
    let mut waiting = Wire::to(&broker);
    let named = waiting.ask(9, &join("g", ""));
    waiting.send(9, &join("g", &named.member_id));
    drop((wire, waiting));

    let mut again = Wire::to(&broker);
    loop {
        match again.beat("g", &joined) {
            // The join of the other one has not arrived yet.
            ErrorCode::None => {}
            error => {
                assert_eq!(error, ErrorCode::RebalanceInProgress);
                break;
            }
        }
    }
    let rejoined = again.ask(9, &join("g", &joined.member_id));
    assert_eq!(rejoined.error_code, ErrorCode::None);
    assert_eq!(rejoined.generation_id, joined.generation_id + 1);
}

/// Tools list groups by state and kind, in any case of letters, each group at one of the brokers that
/// they are told of; a group that is not there is dead,
/// or from version 6 on an error; groups with members are not deleted.
#[test]
fn tools_see_groups() {
    let (_broker, mut wire, _) = scene("wire-tools");
    assert_eq!(wire.commit(9, "offsets", named(TOPIC, vec![offset(0, 1)])), ErrorCode::None);
    wire.join_alone("members");
    let mut list = |states: &[&str], types: &[&str]| -> Vec<String> {
        wire.list(states, types).into_iter().map(|group| group.group_id).collect()
    };
    assert_eq!(list(&[], &[]), ["members", "offsets"]);
    assert_eq!(list(&["STABLE"], &[]), ["members"]);
    assert_eq!(list(&["empty", "Dead"], &["Classic"]), ["offsets"]);
    assert!(list(&[], &["consumer"]).is_empty());

    let groups = ["members", "offsets", "nobody"].map(str::to_owned);
    let describe = DescribeGroupsRequest { groups: groups.to_vec(), ..Default::default() };
    for (version, error) in [(5, ErrorCode::None), (6, ErrorCode::GroupIdNotFound)] {
        let response = wire.ask(version, &describe);
        let told: Vec<(&str, ErrorCode)> =
            response.groups.iter().map(|g| (g.group_state.as_str(), g.error_code)).collect();
        let none = ErrorCode::None;
        assert_eq!(told, [("Stable", none), ("Empty", none), ("Dead", error)]);
        assert_eq!(&response.groups[0].members[0].member_assignment[..], b"all");
    }

    let response = wire.ask(2, &DeleteGroupsRequest { groups_names: groups.to_vec() });
    let told: Vec<ErrorCode> = response.results.iter().map(|result| result.error_code).collect();
    let expected = [ErrorCode::NonEmptyGroup, ErrorCode::None, ErrorCode::GroupIdNotFound];
    assert_eq!(told, expected);
}

/// Single offsets are deleted; a topic or partition that is not there has its error, a group that is
/// not there is the whole answer.
#[test]
fn offsets_are_deleted_one_by_one() {
    let (_broker, mut wire, _) = scene("wire-delete");
    assert_eq!(wire.commit(9, "g", named(TOPIC, vec![offset(0, 7)])), ErrorCode::None);
    let topic = |name: &str, partitions: &[i32]| OffsetDeleteRequestTopic {
        name: name.to_owned(),
        partitions: partitions
            .iter()
            .map(|number| OffsetDeleteRequestPartition { partition_index: *number })
            .collect(),
    };
    let topics = vec![topic(TOPIC, &[77, 0, -1]), topic("no", &[0])];
    let mut request = OffsetDeleteRequest { group_id: "g".to_owned(), topics };
    let response = wire.ask(0, &request);
    assert_eq!(response.error_code, ErrorCode::None);
    let told: Vec<ErrorCode> = response
        .topics
        .iter()
        .flat_map(|topic| topic.partitions.iter().map(|partition| partition.error_code))
        .collect();
    let unknown = ErrorCode::UnknownTopicOrPartition;
    assert_eq!(told, [unknown, ErrorCode::None, unknown, unknown]);
    let request_of_all =
        OffsetFetchRequest { groups: vec![wanted("g", None)], ..Default::default() };
    assert!(wire.ask(8, &request_of_all).groups[0].topics.is_empty());

    request.group_id = "stranger".to_owned();
    assert_eq!(wire.ask(0, &request).error_code, ErrorCode::GroupIdNotFound);
}

/// The topic that groups are kept in is the broker's: it is seen, and told to be internal.
#[test]
fn the_topic_of_groups_is_internal() {
    let (_broker, mut wire, _) = scene("wire-internal");
    let response = wire.ask(9, &MetadataRequest { topics: None, ..MetadataRequest::default() });
    let told = response.topics.iter().map(|t| (t.name.as_deref().unwrap(), t.is_internal));
    let mut told: Vec<_> = told.collect();
    told.sort_unstable();
    assert_eq!(told, [("__consumer_offsets", true), (TOPIC, false)]);
}

/// A group of the newer kind, as its members and tools see it: members name themselves from version
/// 1 on, commits and fetches carry the epoch, and each kind is described by its own request.
#[test]
fn the_newer_kind_is_told_from_the_classic_one() {
    let (_broker, mut wire, id) = scene("wire-newer");
    let joins = ConsumerGroupHeartbeatRequest {
        group_id: "newer".to_owned(),
        rebalance_timeout_ms: 60_000,
        subscribed_topic_names: Some(vec![TOPIC.to_owned()]),
        topic_partitions: Some(Vec::new()),
        ..ConsumerGroupHeartbeatRequest::default()
    };
    assert_eq!(wire.ask(1, &joins).error_code, ErrorCode::InvalidRequest, "it has no name");
    let joins = ConsumerGroupHeartbeatRequest { member_id: "m".to_owned(), ..joins };
    let joined = wire.ask(1, &joins);
    let share = &joined.assignment.as_ref().unwrap().topic_partitions[0];
    assert_eq!((joined.member_epoch, share.topic_id, share.partitions.len()), (1, id, 2));
    assert_eq!(joined.heartbeat_interval_ms, 5_000);

    for (version, epoch, error) in [
        (8, 1, ErrorCode::UnsupportedVersion),
        (9, 1, ErrorCode::None),
        (9, 0, ErrorCode::StaleMemberEpoch),
    ] {
        let request = OffsetCommitRequest {
            group_id: "newer".to_owned(),
            generation_id_or_member_epoch: epoch,
            member_id: "m".to_owned(),
            topics: vec![named(TOPIC, vec![offset(0, 1)])],
            ..OffsetCommitRequest::default()
        };
        let told = wire.ask(version, &request).topics[0].partitions[0].error_code;
        assert_eq!(told, error, "version {version}, epoch {epoch}");
    }
    for (epoch, error) in [(1, ErrorCode::None), (7, ErrorCode::StaleMemberEpoch)] {
        let group = OffsetFetchRequestGroup {
            member_id: Some("m".to_owned()),
            member_epoch: epoch,
            ..wanted("newer", None)
        };
        let request = OffsetFetchRequest { groups: vec![group], ..Default::default() };
        assert_eq!(wire.ask(9, &request).groups[0].error_code, error);
    }

    wire.join_alone("classic");
    let groups = vec!["newer".to_owned(), "classic".to_owned()];
    let request = ConsumerGroupDescribeRequest { group_ids: groups.clone(), ..Default::default() };
    let newer = wire.ask(1, &request);
    let told: Vec<(&str, ErrorCode)> =
        newer.groups.iter().map(|g| (g.group_state.as_str(), g.error_code)).collect();
    assert_eq!(told, [("Stable", ErrorCode::None), ("", ErrorCode::GroupIdNotFound)]);
    let assigned = &newer.groups[0].members[0].assignment.topic_partitions[0];
    assert_eq!((assigned.topic_name.as_str(), &assigned.partitions[..]), (TOPIC, &[0, 1][..]));
    let request = DescribeGroupsRequest { groups, ..Default::default() };
    let told: Vec<ErrorCode> =
        wire.ask(6, &request).groups.iter().map(|group| group.error_code).collect();
    assert_eq!(told, [ErrorCode::GroupIdNotFound, ErrorCode::None]);
    let listed = wire.list(&[], &["Consumer"]);
    assert_eq!((listed.len(), listed[0].group_type.as_str()), (1, "consumer"));
}

/// A group that is read with both protocols: tools see it as one of the newer kind, with members of
/// either, and the last newer member leaves a classic group behind.
#[test]
fn a_group_is_read_with_both_protocols() {
    let (_broker, mut wire, _) = scene("wire-both");
    let group = "both";
    let said = Subscription { topics: vec![TOPIC.to_owned()], ..Subscription::default() };
    let join_as = |member: &str| {
        let mut join = join(group, member);
        join.protocols[0].metadata = said.encode(1);
        join
    };
    let named = wire.ask(9, &join_as("")).member_id;
    let joined = wire.ask(9, &join_as(&named));
    assert_eq!((joined.error_code, &joined.leader), (ErrorCode::None, &named));
    let all = TopicPartitions { topic: TOPIC.to_owned(), partitions: vec![0, 1] };
    let share = Assignment { assigned_partitions: vec![all], user_data: None };
    let sync_as = |generation_id: i32, assignments: Vec<SyncGroupRequestAssignment>| {
        let (group_id, member_id) = (group.to_owned(), named.clone());
        SyncGroupRequest { group_id, member_id, generation_id, assignments, ..Default::default() }
    };
    let share =
        SyncGroupRequestAssignment { member_id: named.clone(), assignment: share.encode(1) };
    assert_eq!(
        wire.ask(5, &sync_as(joined.generation_id, vec![share])).error_code,
        ErrorCode::None
    );

    let newer = ConsumerGroupHeartbeatRequest {
        group_id: group.to_owned(),
        member_id: "n".to_owned(),
        rebalance_timeout_ms: 60_000,
        subscribed_topic_names: Some(vec![TOPIC.to_owned()]),
        topic_partitions: Some(Vec::new()),
        ..ConsumerGroupHeartbeatRequest::default()
    };
    let upgraded = wire.ask(1, &newer);
    assert_eq!((upgraded.error_code, upgraded.member_epoch), (ErrorCode::None, 2));
    assert!(upgraded.assignment.unwrap().topic_partitions.is_empty(), "the other one reads all");
    assert_eq!(wire.beat(group, &joined), ErrorCode::RebalanceInProgress);
    let joined = wire.ask(9, &join_as(&named));
    assert_eq!((joined.error_code, joined.generation_id), (ErrorCode::None, 2));
    assert_eq!((&*joined.leader, joined.protocol_name.as_deref()), ("", Some("range")));
    let synced = wire.ask(5, &sync_as(2, Vec::new()));
    let told = Assignment::decode(&synced.assignment).unwrap().assigned_partitions;
    assert_eq!((told.len(), told[0].partitions.len()), (1, 1));
    let alive = ConsumerGroupHeartbeatRequest { member_epoch: 2, ..newer };
    let share = wire.ask(1, &alive).assignment.unwrap();
    assert_eq!(share.topic_partitions[0].partitions, [1 - told[0].partitions[0]]);
    // The version says nothing of a classic member's kind of group.
    for version in [8, 9] {
        let request = OffsetCommitRequest {
            group_id: group.to_owned(),
            generation_id_or_member_epoch: 2,
            member_id: named.clone(),
            topics: vec![named_topic()],
            ..OffsetCommitRequest::default()
        };
        let told = wire.ask(version, &request).topics[0].partitions[0].error_code;
        assert_eq!(told, ErrorCode::None);
    }

    let ids = vec![group.to_owned()];
    let request = ConsumerGroupDescribeRequest { group_ids: ids.clone(), ..Default::default() };
    for (version, newer, classic) in [(1, 1, 0), (0, -1, -1)] {
        let members = wire.ask(version, &request).groups.remove(0).members;
        let types: BTreeMap<String, i8> =
            members.into_iter().map(|member| (member.member_id, member.member_type)).collect();
        assert_eq!(types, [("n".to_owned(), newer), (named.clone(), classic)].into());
    }
    let request = DescribeGroupsRequest { groups: ids, ..Default::default() };
    assert_eq!(wire.ask(6, &request).groups[0].error_code, ErrorCode::GroupIdNotFound);
    assert_eq!(wire.list(&[], &["consumer"]).len(), 1);

    let leaves = ConsumerGroupHeartbeatRequest { member_epoch: -1, ..alive };
    assert_eq!(wire.ask(1, &leaves).error_code, ErrorCode::None);
    assert_eq!(wire.ask(6, &request).groups[0].group_state, "PreparingRebalance");
    assert_eq!(wire.beat(group, &joined), ErrorCode::RebalanceInProgress);
    let joined = wire.ask(9, &join_as(&named));
    assert_eq!((joined.generation_id, &joined.leader), (3, &named), "it shares out again");
    assert_eq!(wire.list(&[], &["classic"]).len(), 1);
}

fn named_topic() -> OffsetCommitRequestTopic {
    named(TOPIC, vec![offset(0, 1)])
}
