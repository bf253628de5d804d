//! SyncGroup: the leader of a classic group tells who gets what, and each member fetches its part.

use super::message::messages;
use super::{ErrorCode, Request};
use bytes::Bytes;

messages! {
    /// Brings the assignment of all, or asks for one's own.
    struct SyncGroupRequest of SyncGroup {
        /// The group.
        group_id: String [0..],
        /// The generation the member belongs to.
        generation_id: i32 [0..],
        /// The member that asks.
        member_id: String [0..],
        /// Its name, if it is a static member.
        group_instance_id: Option<String> [3.., null 3],
        /// What it takes the group to be for (KIP-559); null if it does not say.
        protocol_type: Option<String> [5.., null 5],
        /// The way of sharing work it takes to be chosen; null if it does not say.
        protocol_name: Option<String> [5.., null 5],
        /// Who gets what; empty from anybody but the leader.
        assignments: Vec<SyncGroupRequestAssignment> [0..],
    }

    /// What one member gets.
    struct SyncGroupRequestAssignment {
        /// The member.
        member_id: String [0..],
        /// Its part, in a form that its kind knows; see [`super::consumer_protocol`].
        assignment: Bytes [0..],
    }

    /// What the member that asked gets.
    struct SyncGroupResponse of SyncGroup {
        /// How long the client is to keep quiet.
        throttle_time_ms: i32 [1..],
        /// How it ended.
        error_code: ErrorCode [0..],
        /// What the group is for.
        protocol_type: Option<String> [5.., null 5],
        /// The way of sharing work that was chosen.
        protocol_name: Option<String> [5.., null 5],
        /// Its part; empty with an error.
        assignment: Bytes [0..],
    }
}

impl SyncGroupRequest {
    /// Whether what the member takes the group to be is what it is. Who does not say is right;
    /// otherwise the answer is INCONSISTENT_GROUP_PROTOCOL (KIP-559).
    pub fn is_consistent_with(&self, protocol_type: &str, protocol_name: &str) -> bool {
        self.protocol_type.as_deref().is_none_or(|taken| taken == protocol_type)
            && self.protocol_name.as_deref().is_none_or(|taken| taken == protocol_name)
    }
}

impl Request for SyncGroupRequest {
    type Response = SyncGroupResponse;

    fn error_response(&self, error: ErrorCode) -> SyncGroupResponse {
        SyncGroupResponse { error_code: error, ..SyncGroupResponse::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kafka::Message;
    use bytes::BytesMut;

    /// Two members that take the group for different things would read each other's assignments
    /// as something they are not. Before version 5 they could not say, and are believed.
    #[test]
    fn another_protocol_is_noticed_from_version_5() {
        let asked = SyncGroupRequest {
            protocol_type: Some("consumer".to_owned()),
            protocol_name: Some("range".to_owned()),
            ..SyncGroupRequest::default()
        };
        let received = |version| {
            let mut out = BytesMut::new();
            asked.encode(version, &mut out);
            SyncGroupRequest::decode(version, &out).unwrap()
        };
        assert!(received(5).is_consistent_with("consumer", "range"));
        assert!(!received(5).is_consistent_with("connect", "range"));
        assert!(!received(5).is_consistent_with("consumer", "sticky"));
        assert!(received(4).is_consistent_with("connect", "sticky"));
    }
}
