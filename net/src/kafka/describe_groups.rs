//! DescribeGroups: the state and the members of classic groups.

use super::message::messages;
use super::metadata::OPERATIONS_NOT_ASKED_FOR;
use super::{ErrorCode, Request};
use bytes::Bytes;

/// The names of states. Clients compare them letter by letter.
pub mod state {
    /// Members join.
    pub const PREPARING_REBALANCE: &str = "PreparingRebalance";
    /// All have joined and wait for the leader's assignment.
    pub const COMPLETING_REBALANCE: &str = "CompletingRebalance";
    /// Every member has its part.
    pub const STABLE: &str = "Stable";
    /// No members; committed offsets may be left.
    pub const EMPTY: &str = "Empty";
    /// Not there, or about to go.
    pub const DEAD: &str = "Dead";
    /// A new assignment is being made (KIP-848).
    pub const ASSIGNING: &str = "Assigning";
    /// Members move towards their new assignment (KIP-848).
    pub const RECONCILING: &str = "Reconciling";
}

/// The names of the kinds of groups, by the protocol that their members speak.
pub mod group_type {
    /// JoinGroup and SyncGroup.
    pub const CLASSIC: &str = "classic";
    /// ConsumerGroupHeartbeat (KIP-848).
    pub const CONSUMER: &str = "consumer";
    /// ShareGroupHeartbeat (KIP-932).
    pub const SHARE: &str = "share";
}

/// From here on a group that is not there is an error; before, it is dead (KIP-1043).
const NOT_FOUND_FROM: i16 = 6;

messages! {
    /// Asks about groups.
    struct DescribeGroupsRequest of DescribeGroups {
        /// Their names.
        groups: Vec<String> [0..],
        /// Whether to tell what the client may do with them.
        include_authorized_operations: bool [3..],
    }

    /// The groups.
    struct DescribeGroupsResponse of DescribeGroups {
        /// How long the client is to keep quiet.
        throttle_time_ms: i32 [1..],
        /// One answer for each group.
        groups: Vec<DescribedGroup> [0..],
    }

    /// One group.
    struct DescribedGroup {
        /// How it ended.
        error_code: ErrorCode [0..],
        /// What went wrong, for people.
        error_message: Option<String> [6.., null 6],
        /// Its name.
        group_id: String [0..],
        /// Its state; see [`state`].
        group_state: String [0..],
        /// What it is for.
        protocol_type: String [0..],
        /// The way of sharing work that was chosen; empty unless it is stable.
        protocol_data: String [0..],
        /// Its members.
        members: Vec<DescribedGroupMember> [0..],
        /// What the client may do with it.
        authorized_operations: i32 [3.., default OPERATIONS_NOT_ASKED_FOR],
    }

    /// One member.
    struct DescribedGroupMember {
        /// Its id.
        member_id: String [0..],
        /// Its name, if it is a static member.
        group_instance_id: Option<String> [4.., null 4],
        /// How its client calls itself.
        client_id: String [0..],
        /// Where it connects from.
        client_host: String [0..],
        /// What it says of itself; empty unless the group is stable.
        member_metadata: Bytes [0..],
        /// Its part; empty unless the group is stable.
        member_assignment: Bytes [0..],
    }
}

impl DescribedGroup {
    /// Nothing can be said about this group.
    pub fn failed(group_id: String, error: ErrorCode) -> DescribedGroup {
        DescribedGroup { error_code: error, group_id, ..DescribedGroup::default() }
    }

    /// This group is not there, as that is said in this version.
    pub fn not_found(version: i16, group_id: String) -> DescribedGroup {
        let error_code =
            if version < NOT_FOUND_FROM { ErrorCode::None } else { ErrorCode::GroupIdNotFound };
        DescribedGroup {
            error_message: Some(format!("Group {group_id} not found.")),
            group_state: state::DEAD.to_owned(),
            ..DescribedGroup::failed(group_id, error_code)
        }
    }
}

impl Request for DescribeGroupsRequest {
    type Response = DescribeGroupsResponse;

    fn error_response(&self, error: ErrorCode) -> DescribeGroupsResponse {
        let groups = self.groups.iter().cloned();
        DescribeGroupsResponse {
            groups: groups.map(|group| DescribedGroup::failed(group, error)).collect(),
            ..DescribeGroupsResponse::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kafka::Message;
    use bytes::BytesMut;

    /// Older tools take an error for a broken broker, newer ones ask to be told: up to version 5 a
    /// group that is not there is dead, from version 6 it is not found.
    #[test]
    fn a_group_that_is_not_there_is_dead_before_version_6() {
        for version in 0..=6 {
            let response = DescribeGroupsResponse {
                groups: vec![DescribedGroup::not_found(version, "g".to_owned())],
                ..DescribeGroupsResponse::default()
            };
            let mut out = BytesMut::new();
            response.encode(version, &mut out);
            let group = &DescribeGroupsResponse::decode(version, &out).unwrap().groups[0];
            assert_eq!((&group.group_id[..], &group.group_state[..]), ("g", "Dead"));
            assert_eq!(
                group.error_code,
                if version < 6 { ErrorCode::None } else { ErrorCode::GroupIdNotFound }
            );
            assert_eq!(group.authorized_operations, OPERATIONS_NOT_ASKED_FOR);
        }
    }
}
