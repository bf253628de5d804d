//! ConsumerGroupDescribe: the state and the members of groups of the newer kind (KIP-848).

use super::message::messages;
use super::metadata::OPERATIONS_NOT_ASKED_FOR;
use super::{ErrorCode, Request};
use tidemill_record::TopicId;

/// Which protocol a member speaks.
pub mod member_type {
    /// The coordinator did not say (version 0).
    pub const UNKNOWN: i8 = -1;
    /// JoinGroup and SyncGroup, in a group that is on its way between the two.
    pub const CLASSIC: i8 = 0;
    /// ConsumerGroupHeartbeat.
    pub const CONSUMER: i8 = 1;
}

messages! {
    /// Asks about groups.
    struct ConsumerGroupDescribeRequest of ConsumerGroupDescribe {
        /// Their names.
        group_ids: Vec<String> [0..],
        /// Whether to tell what the client may do with them.
        include_authorized_operations: bool [0..],
    }

    /// The groups.
    struct ConsumerGroupDescribeResponse of ConsumerGroupDescribe {
        /// How long the client is to keep quiet.
        throttle_time_ms: i32 [0..],
        /// One answer for each group.
        groups: Vec<DescribedConsumerGroup> [0..],
    }

    /// One group.
    struct DescribedConsumerGroup {
        /// How it ended.
        error_code: ErrorCode [0..],
        /// What went wrong, for people.
        error_message: Option<String> [0.., null 0],
        /// Its name.
        group_id: String [0..],
        /// Its state; see [`super::describe_groups::state`].
        group_state: String [0..],
        /// Grows with each change of its members and their subscriptions.
        group_epoch: i32 [0..],
        /// The group's epoch for which the target assignment was made.
        assignment_epoch: i32 [0..],
        /// Which assignor made it.
        assignor_name: String [0..],
        /// Its members.
        members: Vec<ConsumerGroupMember> [0..],
        /// What the client may do with it.
        authorized_operations: i32 [0.., default OPERATIONS_NOT_ASKED_FOR],
    }

    /// One member.
    struct ConsumerGroupMember {
        /// Its id.
        member_id: String [0..],
        /// Its name, if it is a static member.
        instance_id: Option<String> [0.., null 0],
        /// Where it is.
        rack_id: Option<String> [0.., null 0],
        /// Its epoch.
        member_epoch: i32 [0..],
        /// How its client calls itself.
        client_id: String [0..],
        /// Where it connects from.
        client_host: String [0..],
        /// The topics it wants.
        subscribed_topic_names: Vec<String> [0..],
        /// The pattern of topics it wants.
        subscribed_topic_regex: Option<String> [0.., null 0],
        /// What it reads now.
        assignment: DescribedAssignment [0..],
        /// What it is to read in the end.
        target_assignment: DescribedAssignment [0..],
        /// Which protocol it speaks; see [`member_type`].
        member_type: i8 [1.., default member_type::UNKNOWN],
    }

    /// What a member reads, or is to read.
    struct DescribedAssignment {
        /// The partitions.
        topic_partitions: Vec<DescribedTopicPartitions> [0..],
    }

    /// Some partitions of a topic, named in both ways.
    struct DescribedTopicPartitions {
        /// The topic's id.
        topic_id: TopicId [0..],
        /// The topic's name.
        topic_name: String [0..],
        /// The numbers of the partitions.
        partitions: Vec<i32> [0..],
    }
}

impl DescribedConsumerGroup {
    /// Nothing can be said about this group. Java's client takes GROUP_ID_NOT_FOUND for a sign that
    /// the group is of the other kind, and asks again with DescribeGroups.
    pub fn failed(group_id: String, error: ErrorCode) -> DescribedConsumerGroup {
        DescribedConsumerGroup { error_code: error, group_id, ..Default::default() }
    }
}

impl Request for ConsumerGroupDescribeRequest {
    type Response = ConsumerGroupDescribeResponse;

    fn error_response(&self, error: ErrorCode) -> ConsumerGroupDescribeResponse {
        let groups = self.group_ids.iter().cloned();
        ConsumerGroupDescribeResponse {
            groups: groups.map(|group| DescribedConsumerGroup::failed(group, error)).collect(),
            ..ConsumerGroupDescribeResponse::default()
        }
    }
}
