//! Groups in the versions of the protocol that old clients send and never look further, and where an
//! error of a whole group stands in each of them.
// Fixtures are tests, though they are no test functions.
#![allow(clippy::unwrap_used)]

mod process;
mod wire;

use bytes::Bytes;
use process::Broker;
use tidemill_net::kafka::ErrorCode;
use tidemill_net::kafka::consumer_group_describe::ConsumerGroupDescribeRequest;
use tidemill_net::kafka::consumer_group_heartbeat::ConsumerGroupHeartbeatRequest;
use tidemill_net::kafka::describe_groups::DescribeGroupsRequest;
use tidemill_net::kafka::find_coordinator::{FindCoordinatorRequest, key_type};
use tidemill_net::kafka::heartbeat::HeartbeatRequest;
use tidemill_net::kafka::join_group::{JoinGroupRequest, JoinGroupRequestProtocol};
use tidemill_net::kafka::leave_group::{LeaveGroupRequest, MemberIdentity};
use tidemill_net::kafka::metadata::OPERATIONS_NOT_ASKED_FOR;
use tidemill_net::kafka::offset_commit::{
    OffsetCommitRequest, OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use tidemill_net::kafka::offset_fetch::{
    OffsetFetchRequest, OffsetFetchRequestGroup, OffsetFetchRequestTopic,
};
use tidemill_net::kafka::sync_group::{SyncGroupRequest, SyncGroupRequestAssignment};
use wire::Client;
use wire::transactions::patiently;

const TOPIC: &str = "t";
const NONE: ErrorCode = ErrorCode::None;

fn start(name: &str) -> (Broker, Client) {
    let settings = ["--shards", "2", "--set", "group.initial.rebalance.delay.ms=0"];
    let broker = Broker::start(name, &settings);
    let mut client = Client::open(&broker);
    client.create(TOPIC, 2);
    (broker, client)
}

fn find(client: &mut Client, version: i16, key: &str, key_type: i8) -> (ErrorCode, i32) {
    let request = FindCoordinatorRequest {
        key: key.to_owned(),
        key_type,
        coordinator_keys: vec![key.to_owned()],
    };
    patiently(|| {
        let mut told = client.ask(version, &request);
        match version {
            ..4 => (told.error_code, told.node_id),
            _ => {
                let told = told.coordinators.remove(0);
                (told.error_code, told.node_id)
            }
        }
    })
}

fn committing(group: &str, generation: i32, member: &str, metadata: &str) -> OffsetCommitRequest {
    let partition = OffsetCommitRequestPartition {
        partition_index: 0,
        committed_offset: 7,
        committed_metadata: Some(metadata.to_owned()),
        ..OffsetCommitRequestPartition::default()
    };
    OffsetCommitRequest {
        group_id: group.to_owned(),
        generation_id_or_member_epoch: generation,
        member_id: member.to_owned(),
        topics: vec![OffsetCommitRequestTopic {
            name: TOPIC.to_owned(),
            partitions: vec![partition],
            ..OffsetCommitRequestTopic::default()
        }],
        ..OffsetCommitRequest::default()
    }
}

fn commit(client: &mut Client, version: i16, request: &OffsetCommitRequest) -> ErrorCode {
    client.ask(version, request).topics[0].partitions[0].error_code
}

/// The errors that a fetch of two partitions tells: of the group, where the version has that, and of
/// each partition; with the offset of the first.
fn fetch(client: &mut Client, version: i16, group: &str) -> (ErrorCode, Vec<ErrorCode>, i64) {
    let topics = Some(vec![OffsetFetchRequestTopic {
        name: TOPIC.to_owned(),
        partition_indexes: vec![0, 1],
        ..OffsetFetchRequestTopic::default()
    }]);
    let request = OffsetFetchRequest {
        group_id: group.to_owned(),
        topics: topics.clone(),
        groups: vec![OffsetFetchRequestGroup {
            group_id: group.to_owned(),
            topics,
            ..OffsetFetchRequestGroup::default()
        }],
        ..OffsetFetchRequest::default()
    };
    let mut told = client.ask(version, &request);
    let (error, topics) = match version {
        ..8 => (told.error_code, told.topics),
        _ => {
            let group = told.groups.remove(0);
            (group.error_code, group.topics)
        }
    };
    let parts = topics.iter().flat_map(|topic| &topic.partitions);
    let errors = parts.clone().map(|partition| partition.error_code).collect();
    (error, errors, parts.clone().next().map_or(-1, |first| first.committed_offset))
}

/// A client that knows nothing of what came after 2016 joins a group, shares out, commits, reads what
/// it has committed, and leaves; each in the one version it knows.
#[test]
fn an_old_client_gets_along() {
    let (_broker, mut client) = start("group-old");
    for (round, join_version) in [0, 1, 2].into_iter().enumerate() {
        assert_eq!(find(&mut client, 0, "g", key_type::GROUP).0, NONE);
        let join = JoinGroupRequest {
            group_id: "g".to_owned(),
            session_timeout_ms: 60_000,
            rebalance_timeout_ms: 60_000,
            protocol_type: "consumer".to_owned(),
            protocols: vec![JoinGroupRequestProtocol {
                name: "range".to_owned(),
                metadata: Bytes::from_static(b"\0\0\0\0\0\0\xff\xff\xff\xff"),
            }],
            ..JoinGroupRequest::default()
        };
        let joined = client.ask(join_version, &join);
        assert_eq!(joined.error_code, NONE, "at once, without a second round");
        assert!(!joined.member_id.is_empty() && joined.leader == joined.member_id);
        assert_eq!((joined.protocol_name.as_deref(), joined.members.len()), (Some("range"), 1));
        let (generation, member) = (joined.generation_id, joined.member_id);
        let sync = SyncGroupRequest {
            group_id: "g".to_owned(),
            generation_id: generation,
            member_id: member.clone(),
            assignments: vec![SyncGroupRequestAssignment {
                member_id: member.clone(),
                assignment: Bytes::from_static(b"opaque"),
            }],
            ..SyncGroupRequest::default()
        };
        let synced = client.ask(0, &sync);
        assert_eq!((synced.error_code, &synced.assignment[..]), (NONE, &b"opaque"[..]));
        let mut beat = |generation_id, member_id: &str| {
            let beat = HeartbeatRequest {
                group_id: "g".to_owned(),
                generation_id,
                member_id: member_id.to_owned(),
                ..HeartbeatRequest::default()
            };
            client.ask(0, &beat).error_code
        };
        assert_eq!(beat(generation, &member), NONE);
        assert_eq!(beat(generation + 1, &member), ErrorCode::IllegalGeneration);
        assert_eq!(beat(generation, "stranger"), ErrorCode::UnknownMemberId);

        if round == 0 {
            assert_eq!(fetch(&mut client, 1, "g"), (NONE, vec![NONE; 2], -1));
        }
        let request = committing("g", generation, &member, "");
        assert_eq!(commit(&mut client, 2, &request), NONE);
        let nobody = committing("g", -1, "", "");
        assert_eq!(commit(&mut client, 2, &nobody), ErrorCode::UnknownMemberId);
        assert_eq!(fetch(&mut client, 1, "g"), (NONE, vec![NONE; 2], 7));

        let leave = LeaveGroupRequest {
            group_id: "g".to_owned(),
            member_id: member.clone(),
            members: vec![MemberIdentity { member_id: member, ..MemberIdentity::default() }],
        };
        assert_eq!(client.ask(0, &leave).error_code, NONE);
        assert_eq!(client.ask(0, &leave).error_code, ErrorCode::UnknownMemberId, "it is gone");
        assert_eq!(commit(&mut client, 2, &nobody), NONE, "nobody is in it now");
    }
}

/// A group that cannot be asked is told of in each partition before version 2, then for the whole
/// answer, and from version 8 on for the group.
#[test]
fn a_groups_error_stands_where_its_version_looks() {
    let (_broker, mut client) = start("group-errors");
    // Nobody has looked for a coordinator yet: this makes clients do so.
    let missing = ErrorCode::NotCoordinator;
    assert_eq!(fetch(&mut client, 1, "g"), (NONE, vec![missing; 2], -1));
    for version in 2..=9 {
        assert_eq!(fetch(&mut client, version, "g").0, missing, "version {version}");
    }
    assert_eq!(commit(&mut client, 8, &committing("g", -1, "", "")), missing);
    assert_eq!(find(&mut client, 4, "g", key_type::GROUP).0, NONE);
    assert_eq!(fetch(&mut client, 1, "g"), (NONE, vec![NONE; 2], -1), "and that is no error");
    let long = "g".repeat(4_097);
    let invalid = ErrorCode::InvalidGroupId;
    assert_eq!(fetch(&mut client, 1, &long), (NONE, vec![invalid; 2], -1));
    for version in 2..=9 {
        assert_eq!(fetch(&mut client, version, &long).0, invalid, "version {version}");
    }
}

/// In every version the coordinator is found by its key, also by the empty one, as in Kafka: a group
/// without a name may keep offsets. Kinds of keys that nobody knows are refused.
#[test]
fn coordinators_are_found_in_every_version() {
    let (_broker, mut client) = start("group-find");
    let nowhere = |error| (error, -1);
    for version in 0..=6 {
        let (error, node) = find(&mut client, version, "g", key_type::GROUP);
        assert!(error.is_none() && 0 <= node, "version {version}");
        let (error, node) = find(&mut client, version, "", key_type::GROUP);
        assert!(error.is_none() && 0 <= node, "version {version}");
        let long = find(&mut client, version, &"g".repeat(4_097), key_type::GROUP);
        assert_eq!(long, nowhere(ErrorCode::InvalidGroupId), "version {version}");
        if version == 0 {
            continue;
        }
        for key in ["x", ""] {
            let (error, node) = find(&mut client, version, key, key_type::TRANSACTION);
            assert!(error.is_none() && 0 <= node, "version {version}");
        }
        for (key, kind) in [("g", key_type::SHARE), ("", key_type::SHARE), ("g", 9), ("g", -1)] {
            let told = find(&mut client, version, key, kind);
            assert_eq!(told, nowhere(ErrorCode::InvalidRequest), "{key:?} {kind} {version}");
        }
    }
}

/// What is kept with an offset may have 4096 bytes, in every version.
#[test]
fn what_is_kept_with_an_offset_is_bounded() {
    let (_broker, mut client) = start("group-metadata");
    find(&mut client, 0, "g", key_type::GROUP);
    let (fits, long) = ("x".repeat(4_096), "x".repeat(4_097));
    for version in 2..=9 {
        assert_eq!(commit(&mut client, version, &committing("g", -1, "", &fits)), NONE);
        let refused = commit(&mut client, version, &committing("g", -1, "", &long));
        assert_eq!(refused, ErrorCode::OffsetMetadataTooLarge, "version {version}");
    }
}

/// In the first version of the newer protocol the broker names a member that has no name; from the
/// next one on the member does, and one without is refused. Leaving is an epoch of its own.
#[test]
fn a_member_of_the_newer_kind_is_named_by_who_its_version_says() {
    let (_broker, mut client) = start("group-newer-names");
    find(&mut client, 4, "g", key_type::GROUP);
    let joins = ConsumerGroupHeartbeatRequest {
        group_id: "g".to_owned(),
        rebalance_timeout_ms: 60_000,
        subscribed_topic_names: Some(vec![TOPIC.to_owned()]),
        topic_partitions: Some(Vec::new()),
        ..ConsumerGroupHeartbeatRequest::default()
    };
    assert_eq!(client.ask(1, &joins).error_code, ErrorCode::InvalidRequest);
    let joined = client.ask(0, &joins);
    assert_eq!(joined.error_code, NONE);
    let member_id = joined.member_id.expect("it is told its name");
    assert!(!member_id.is_empty() && joined.member_epoch == 1);
    let named = ConsumerGroupHeartbeatRequest { member_id, ..joins };
    let leaves = ConsumerGroupHeartbeatRequest { member_epoch: -1, ..named.clone() };
    let left = client.ask(0, &leaves);
    assert_eq!((left.error_code, left.member_epoch), (NONE, -1));
    assert_eq!(client.ask(0, &leaves).error_code, ErrorCode::UnknownMemberId);
    let again = ConsumerGroupHeartbeatRequest { member_epoch: 1, ..named };
    assert_eq!(client.ask(0, &again).error_code, ErrorCode::UnknownMemberId);
}

/// What a client may do with a group is told to who asks, in the versions that have that.
#[test]
fn what_is_allowed_is_told_to_who_asks() {
    let (_broker, mut client) = start("group-operations");
    find(&mut client, 4, "g", key_type::GROUP);
    assert_eq!(commit(&mut client, 8, &committing("g", -1, "", "")), NONE);
    let joins = ConsumerGroupHeartbeatRequest {
        group_id: "newer".to_owned(),
        member_id: "m".to_owned(),
        rebalance_timeout_ms: 60_000,
        subscribed_topic_names: Some(vec![TOPIC.to_owned()]),
        topic_partitions: Some(Vec::new()),
        ..ConsumerGroupHeartbeatRequest::default()
    };
    assert_eq!(client.ask(1, &joins).error_code, NONE);
    for asks in [false, true] {
        let request = DescribeGroupsRequest {
            groups: vec!["g".to_owned()],
            include_authorized_operations: asks,
        };
        for version in [3, 6] {
            let told = client.ask(version, &request).groups.remove(0);
            assert_eq!((told.error_code, told.group_state.as_str()), (NONE, "Empty"));
            assert_eq!(told.authorized_operations != OPERATIONS_NOT_ASKED_FOR, asks, "{version}");
        }
        let request = ConsumerGroupDescribeRequest {
            group_ids: vec!["newer".to_owned()],
            include_authorized_operations: asks,
        };
        let told = client.ask(1, &request).groups.remove(0);
        assert_eq!(told.authorized_operations != OPERATIONS_NOT_ASKED_FOR, asks);
    }
}
