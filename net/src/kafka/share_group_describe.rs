//! ShareGroupDescribe: the state and the members of share groups (KIP-932).

use super::consumer_group_describe::DescribedAssignment;
use super::message::messages;
use super::metadata::OPERATIONS_NOT_ASKED_FOR;
use super::{ErrorCode, Request};

messages! {
    /// Asks about groups.
    struct ShareGroupDescribeRequest of ShareGroupDescribe {
        /// Their names.
        group_ids: Vec<String> [0..],
        /// Whether to tell what the client may do with them.
        include_authorized_operations: bool [0..],
    }

    /// The groups.
    struct ShareGroupDescribeResponse of ShareGroupDescribe {
        /// How long the client is to keep quiet.
        throttle_time_ms: i32 [0..],
        /// One answer for each group.
        groups: Vec<DescribedShareGroup> [0..],
    }

    /// One group.
    struct DescribedShareGroup {
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
        /// The group's epoch for which the assignment was made.
        assignment_epoch: i32 [0..],
        /// Which assignor made it.
        assignor_name: String [0..],
        /// Its members.
        members: Vec<ShareGroupMember> [0..],
        /// What the client may do with it.
        authorized_operations: i32 [0.., default OPERATIONS_NOT_ASKED_FOR],
    }

    /// One member.
    struct ShareGroupMember {
        /// Its id.
        member_id: String [0..],
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
        /// What it reads.
        assignment: DescribedAssignment [0..],
    }
}

impl DescribedShareGroup {
    /// Nothing can be said about this group.
    pub fn failed(group_id: String, error: ErrorCode) -> DescribedShareGroup {
        DescribedShareGroup { error_code: error, group_id, ..DescribedShareGroup::default() }
    }
}

impl Request for ShareGroupDescribeRequest {
    type Response = ShareGroupDescribeResponse;

    fn error_response(&self, error: ErrorCode) -> ShareGroupDescribeResponse {
        let groups = self.group_ids.iter().cloned();
        ShareGroupDescribeResponse {
            groups: groups.map(|group| DescribedShareGroup::failed(group, error)).collect(),
            ..ShareGroupDescribeResponse::default()
        }
    }
}
