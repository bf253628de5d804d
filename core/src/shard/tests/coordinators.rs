//! What clients are told while a group's coordinator cannot answer: each word steers them to ask again
//! there or to look for another, so it stands where each request looks for it.

use tidemill_net::kafka::consumer_group_heartbeat::ConsumerGroupHeartbeatRequest;
use tidemill_net::kafka::delete_groups::DeleteGroupsRequest;
use tidemill_net::kafka::heartbeat::HeartbeatRequest;
use tidemill_net::kafka::join_group::JoinGroupRequest;
use tidemill_net::kafka::leave_group::LeaveGroupRequest;
use tidemill_net::kafka::list_groups::ListGroupsRequest;
use tidemill_net::kafka::offset_commit::{
    OffsetCommitRequest, OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use tidemill_net::kafka::sync_group::SyncGroupRequest;

use super::*;
use crate::coordinator::request::Reply as GroupReply;

fn group() -> String {
    "g".to_owned()
}

/// What is told of a request whose coordinator, on shard 0, refuses it.
fn told<R: Request + std::fmt::Debug>(version: i16, request: &R, error: ErrorCode) -> R::Response {
    let mut scene = Scene::new(8 << 20);
    scene.make_internal(OFFSETS_TOPIC);
    scene.send_request(version, request);
    // Some requests are several questions, one after the other.
    for _ in 0..3 {
        let mut answers = Vec::new();
        for message in scene.world.sent.drain(..) {
            if let Message::Calls { job, calls } = message {
                let refused = || Answer::Group(Box::new(GroupReply::Refused(error)));
                answers.extend(calls.iter().map(|(index, ..)| (job, *index, refused())));
            }
        }
        assert!(!answers.is_empty(), "the coordinator is asked");
        scene.world.inbox.push_back((ShardId(0), Message::Answers(answers)));
        scene.settle();
        let reply = scene.replies();
        if !reply.is_empty() {
            return decode_response(version, &reply[4..]).unwrap().1;
        }
    }
    panic!("no answer to {request:?}");
}

fn fetched(version: i16, error: ErrorCode) -> (ErrorCode, Vec<ErrorCode>) {
    let topics = Some(vec![OffsetFetchRequestTopic {
        name: TOPIC.to_owned(),
        partition_indexes: vec![0],
        ..OffsetFetchRequestTopic::default()
    }]);
    let groups = vec![OffsetFetchRequestGroup {
        group_id: group(),
        topics: topics.clone(),
        ..OffsetFetchRequestGroup::default()
    }];
    let request =
        OffsetFetchRequest { group_id: group(), topics, groups, ..OffsetFetchRequest::default() };
    let mut told = told(version, &request, error);
    if 8 <= version {
        return (told.groups.remove(0).error_code, Vec::new());
    }
    let parts = told.topics.iter().flat_map(|topic| &topic.partitions);
    (told.error_code, parts.map(|partition| partition.error_code).collect())
}

/// A coordinator that still reads its log, one that is somewhere else, and none at all.
#[test]
fn a_coordinator_that_cannot_answer_is_told_in_its_own_word() {
    for error in [
        ErrorCode::CoordinatorLoadInProgress,
        ErrorCode::NotCoordinator,
        ErrorCode::CoordinatorNotAvailable,
    ] {
        let join = JoinGroupRequest {
            group_id: group(),
            session_timeout_ms: 10_000,
            protocol_type: "consumer".to_owned(),
            ..JoinGroupRequest::default()
        };
        assert_eq!(told(5, &join, error).error_code, error);
        let sync = SyncGroupRequest { group_id: group(), ..SyncGroupRequest::default() };
        assert_eq!(told(3, &sync, error).error_code, error);
        let leave = LeaveGroupRequest { group_id: group(), ..LeaveGroupRequest::default() };
        assert_eq!(told(1, &leave, error).error_code, error);
        let newer = ConsumerGroupHeartbeatRequest {
            group_id: group(),
            member_id: "m".to_owned(),
            member_epoch: 1,
            ..ConsumerGroupHeartbeatRequest::default()
        };
        assert_eq!(told(1, &newer, error).error_code, error);
        let commit = OffsetCommitRequest {
            group_id: group(),
            topics: vec![OffsetCommitRequestTopic {
                name: TOPIC.to_owned(),
                partitions: vec![OffsetCommitRequestPartition::default()],
                ..OffsetCommitRequestTopic::default()
            }],
            ..OffsetCommitRequest::default()
        };
        assert_eq!(told(8, &commit, error).topics[0].partitions[0].error_code, error);
        assert_eq!(fetched(1, error), (ErrorCode::None, vec![error]), "there is no other place");
        assert_eq!(fetched(5, error).0, error);
        assert_eq!(fetched(8, error).0, error);
        let describe = DescribeGroupsRequest { groups: vec![group()], ..Default::default() };
        assert_eq!(told(5, &describe, error).groups[0].error_code, error);
        let delete = DeleteGroupsRequest { groups_names: vec![group()] };
        assert_eq!(told(2, &delete, error).results[0].error_code, error);
        // One that is somewhere else lists its groups there.
        let of_list = if error == ErrorCode::NotCoordinator { ErrorCode::None } else { error };
        assert_eq!(told(4, &ListGroupsRequest::default(), error).error_code, of_list);
    }
}

/// As in Kafka: while a coordinator reads, it does not know who the members are, and tells none of
/// them to go.
#[test]
fn a_heartbeat_is_good_while_the_coordinator_reads() {
    let beat = HeartbeatRequest { group_id: group(), ..HeartbeatRequest::default() };
    let reads = told(3, &beat, ErrorCode::CoordinatorLoadInProgress);
    assert_eq!(reads.error_code, ErrorCode::None);
    let elsewhere = told(3, &beat, ErrorCode::NotCoordinator);
    assert_eq!(elsewhere.error_code, ErrorCode::NotCoordinator);
}
