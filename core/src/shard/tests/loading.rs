//! What is asked of coordinators that have not yet read what they know.

use tidemill_net::kafka::add_offsets_to_txn::AddOffsetsToTxnRequest;
use tidemill_net::kafka::consumer_group_heartbeat::ConsumerGroupHeartbeatRequest;
use tidemill_net::kafka::end_txn::EndTxnRequest;
use tidemill_net::kafka::heartbeat::HeartbeatRequest;
use tidemill_net::kafka::join_group::JoinGroupRequest;
use tidemill_net::kafka::leave_group::LeaveGroupRequest;
use tidemill_net::kafka::offset_commit::{
    OffsetCommitRequest, OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use tidemill_net::kafka::share_group_describe::ShareGroupDescribeRequest;
use tidemill_net::kafka::share_group_heartbeat::ShareGroupHeartbeatRequest;
use tidemill_net::kafka::sync_group::SyncGroupRequest;

use tidemill_replication::controller::SHARE_STATE_TOPIC;

use super::*;
use crate::coordinator::Coordinator as GroupCoordinator;
use crate::coordinator_log::at_home::{AtHome, Coordinators};
use crate::partition::tests::home;
use crate::share;
use crate::transaction::Coordinator as TransactionCoordinator;

const LOADING: ErrorCode = ErrorCode::CoordinatorLoadInProgress;

impl Scene {
    /// A shard with groups and transactions of its own, in partitions that it cannot read yet.
    fn of_unread() -> Self {
        let mut scene = Self::new(8 << 20);
        scene.world.has_disk = true;
        scene.shard.home = Some(home(1 << 20));
        for name in [OFFSETS_TOPIC, TRANSACTIONS_TOPIC, SHARE_STATE_TOPIC] {
            scene.make_internal_at(ShardId(1), name);
        }
        scene.take_up();
        scene
    }

    fn take_up(&mut self) {
        let times = Times { now: self.world.now, wall_ms: 0 };
        self.shard.take_up_all::<GroupCoordinator>(times);
        self.shard.take_up_all::<share::Coordinator>(times);
        self.shard.adopt_transactions(times);
    }

    /// The partitions are there, and nothing is in them.
    fn read_all(&mut self) {
        *GroupCoordinator::of(&mut self.shard).0 = Coordinators::default();
        *share::Coordinator::of(&mut self.shard).0 = Coordinators::default();
        *TransactionCoordinator::of(&mut self.shard).0 = Coordinators::default();
        topic_rules::adopt_all(&mut self.shard);
        self.take_up();
    }

    fn error_of<R: Request>(
        &mut self,
        version: i16,
        request: &R,
        error: impl Fn(&R::Response) -> ErrorCode,
    ) -> ErrorCode {
        self.send_request(version, request);
        let reply = self.replies();
        let (_, told) = decode_response::<R::Response>(version, &reply[4..]).unwrap();
        error(&told)
    }

    /// How each request is answered that is about a group, of whichever kind.
    fn ask_of_groups(&mut self) -> Vec<ErrorCode> {
        let (group_id, member_id) = ("g".to_owned(), "m".to_owned());
        let commit = OffsetCommitRequest {
            group_id: group_id.clone(),
            member_id: member_id.clone(),
            topics: vec![OffsetCommitRequestTopic {
                name: TOPIC.to_owned(),
                partitions: vec![OffsetCommitRequestPartition::default()],
                ..OffsetCommitRequestTopic::default()
            }],
            ..OffsetCommitRequest::default()
        };
        let join = JoinGroupRequest {
            group_id: group_id.clone(),
            member_id: member_id.clone(),
            session_timeout_ms: 45_000,
            protocol_type: "consumer".to_owned(),
            protocols: vec![Default::default()],
            ..JoinGroupRequest::default()
        };
        let sync = SyncGroupRequest {
            group_id: group_id.clone(),
            member_id: member_id.clone(),
            ..SyncGroupRequest::default()
        };
        let beat = HeartbeatRequest {
            group_id: group_id.clone(),
            member_id: member_id.clone(),
            ..HeartbeatRequest::default()
        };
        let leave = LeaveGroupRequest {
            group_id: group_id.clone(),
            member_id: member_id.clone(),
            ..LeaveGroupRequest::default()
        };
        let newer = ConsumerGroupHeartbeatRequest {
            group_id: group_id.clone(),
            member_id: member_id.clone(),
            member_epoch: 1,
            ..ConsumerGroupHeartbeatRequest::default()
        };
        let share = ShareGroupHeartbeatRequest {
            group_id: group_id.clone(),
            member_id,
            member_epoch: 1,
            ..ShareGroupHeartbeatRequest::default()
        };
        let describe =
            ShareGroupDescribeRequest { group_ids: vec![group_id], ..Default::default() };
        vec![
            self.error_of(5, &join, |told| told.error_code),
            self.error_of(3, &sync, |told| told.error_code),
            self.error_of(3, &beat, |told| told.error_code),
            self.error_of(0, &leave, |told| told.error_code),
            self.error_of(8, &commit, |told| told.topics[0].partitions[0].error_code),
            self.error_of(0, &newer, |told| told.error_code),
            self.error_of(1, &share, |told| told.error_code),
            self.error_of(1, &describe, |told| told.groups[0].error_code),
        ]
    }

    /// What is answered without writing anything: of a member, a share group, a transactional id.
    fn ask_what_is_known(&mut self) -> [ErrorCode; 3] {
        let (group_id, member_id) = ("g".to_owned(), "m".to_owned());
        let group_ids = vec![group_id.clone()];
        let beat = HeartbeatRequest { group_id, member_id, ..HeartbeatRequest::default() };
        let share = ShareGroupDescribeRequest { group_ids, ..Default::default() };
        let transactional_ids = vec!["t".to_owned()];
        let transaction = DescribeTransactionsRequest { transactional_ids };
        [
            self.error_of(3, &beat, |told| told.error_code),
            self.error_of(1, &share, |told| told.groups[0].error_code),
            self.error_of(0, &transaction, |told| told.transaction_states[0].error_code),
        ]
    }

    /// How each request is answered that is about a transactional id.
    fn ask_of_transactions(&mut self) -> Vec<ErrorCode> {
        let transactional_id = || "t".to_owned();
        let init = InitProducerIdRequest {
            transactional_id: Some(transactional_id()),
            transaction_timeout_ms: 60_000,
            producer_id: 7,
            producer_epoch: 1,
        };
        let add = AddOffsetsToTxnRequest {
            transactional_id: transactional_id(),
            producer_id: 7,
            producer_epoch: 1,
            group_id: "g".to_owned(),
        };
        let end = EndTxnRequest {
            transactional_id: transactional_id(),
            producer_id: 7,
            producer_epoch: 1,
            committed: true,
        };
        let describe = DescribeTransactionsRequest { transactional_ids: vec![transactional_id()] };
        vec![
            self.error_of(4, &init, |told| told.error_code),
            self.error_of(3, &add, |told| told.error_code),
            self.error_of(3, &end, |told| told.error_code),
            self.error_of(0, &describe, |told| told.transaction_states[0].error_code),
        ]
    }
}

/// Until a coordinator has read its log whatever is asked of it is answered COORDINATOR_LOAD_IN_PROGRESS,
/// which clients ask again after; then it is answered by what the log says, here that there is nobody.
#[test]
fn what_is_asked_before_the_log_is_read_is_told_so_and_served_afterwards() {
    let mut scene = Scene::of_unread();
    // Who only says that it lives goes on living, as with Kafka.
    let of_groups = scene.ask_of_groups();
    assert_eq!(of_groups[2], ErrorCode::None);
    assert_eq!([&of_groups[..2], &of_groups[3..]].concat(), [LOADING; 7]);
    assert_eq!(scene.ask_of_transactions(), [LOADING; 4]);

    scene.read_all();
    let known = [
        ErrorCode::UnknownMemberId,
        ErrorCode::GroupIdNotFound,
        ErrorCode::TransactionalIdNotFound,
    ];
    assert_eq!(scene.ask_what_is_known(), known);
}
