//! ConsumerGroupHeartbeat: all of the newer group protocol in one request (KIP-848).
//!
//! A member says what has changed since it was last heard, and the coordinator says what the
//! member is to read now. Null means "as before", so an empty list and null are two things.

use super::message::{messages, nullable_structs};
use super::topic_partitions::TopicIdPartitions;
use super::{ErrorCode, Request};

/// The epoch of a member that joins, or was fenced and joins again.
pub const JOIN_EPOCH: i32 = 0;
/// The epoch of a member that leaves.
pub const LEAVE_EPOCH: i32 = -1;
/// The epoch of a static member that leaves and will be back: its part is kept for it.
pub const STATIC_LEAVE_EPOCH: i32 = -2;
/// From here on the member makes its own id (KIP-1082), so that a lost answer leaves nobody behind;
/// and the subscription may be a pattern.
pub const OWN_MEMBER_ID_FROM: i16 = 1;

messages! {
    /// What has changed with a member.
    struct ConsumerGroupHeartbeatRequest of ConsumerGroupHeartbeat {
        /// The group.
        group_id: String [0..],
        /// The member; empty if the coordinator is to name it (version 0).
        member_id: String [0..],
        /// Its epoch; see [`JOIN_EPOCH`], [`LEAVE_EPOCH`] and [`STATIC_LEAVE_EPOCH`].
        member_epoch: i32 [0..],
        /// Its name, if it is a static member; null if unchanged.
        instance_id: Option<String> [0.., null 0],
        /// Where it is; null if unchanged.
        rack_id: Option<String> [0.., null 0],
        /// How long it may take to give partitions up; -1 if unchanged.
        rebalance_timeout_ms: i32 [0.., default -1],
        /// The topics it wants; null if unchanged.
        subscribed_topic_names: Option<Vec<String>> [0.., null 0],
        /// A pattern of topics it wants; null if unchanged, empty for none any more.
        subscribed_topic_regex: Option<String> [1.., null 1],
        /// Which assignor the coordinator is to use; null if unchanged, or any.
        server_assignor: Option<String> [0.., null 0],
        /// What it reads now; null if unchanged.
        topic_partitions: Option<Vec<TopicIdPartitions>> [0.., null 0],
    }

    /// What the member is to read.
    struct ConsumerGroupHeartbeatResponse of ConsumerGroupHeartbeat {
        /// How long the client is to keep quiet.
        throttle_time_ms: i32 [0..],
        /// How it ended.
        error_code: ErrorCode [0..],
        /// What went wrong, for people.
        error_message: Option<String> [0.., null 0],
        /// The member; null if it knows already.
        member_id: Option<String> [0.., null 0],
        /// Its epoch.
        member_epoch: i32 [0..],
        /// When to be heard again.
        heartbeat_interval_ms: i32 [0..],
        /// What it is to read; null if unchanged.
        assignment: Option<MemberAssignment> [0.., null 0],
    }

    /// What a member is to read.
    struct MemberAssignment {
        /// The partitions that are free for it now.
        topic_partitions: Vec<TopicIdPartitions> [0..],
    }
}

nullable_structs! { MemberAssignment }

impl Request for ConsumerGroupHeartbeatRequest {
    type Response = ConsumerGroupHeartbeatResponse;

    fn error_response(&self, error: ErrorCode) -> ConsumerGroupHeartbeatResponse {
        ConsumerGroupHeartbeatResponse {
            error_code: error,
            ..ConsumerGroupHeartbeatResponse::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kafka::Message;
    use bytes::BytesMut;

    fn received<M: Message>(version: i16, message: &M) -> M {
        let mut out = BytesMut::new();
        message.encode(version, &mut out);
        M::decode(version, &out).unwrap()
    }

    /// A member that reads nothing must not look like one that has nothing new to say: to take one
    /// for the other would hand out partitions that are still being read, or never hand them out.
    #[test]
    fn nothing_and_unchanged_are_two_things() {
        let unchanged = ConsumerGroupHeartbeatRequest::default();
        assert_eq!(unchanged.topic_partitions, None);
        let nothing = ConsumerGroupHeartbeatRequest {
            topic_partitions: Some(Vec::new()),
            subscribed_topic_names: Some(Vec::new()),
            subscribed_topic_regex: Some(String::new()),
            ..ConsumerGroupHeartbeatRequest::default()
        };
        assert_eq!(received(1, &unchanged), unchanged);
        assert_eq!(received(1, &nothing), nothing);

        let unchanged = ConsumerGroupHeartbeatResponse::default();
        let nothing = ConsumerGroupHeartbeatResponse {
            assignment: Some(MemberAssignment::default()),
            ..ConsumerGroupHeartbeatResponse::default()
        };
        assert_eq!(received(0, &unchanged), unchanged);
        assert_eq!(received(0, &nothing), nothing);
    }

    /// Kafka takes any negative byte before a structure for null.
    #[test]
    fn a_structure_is_there_unless_its_mark_is_negative() {
        let mut out = BytesMut::new();
        ConsumerGroupHeartbeatResponse::default().encode(1, &mut out);
        let mark = out.len() - 2;
        assert_eq!(out[mark], 0xff, "null, and no tags");
        out[mark] = 0x80;
        let null = ConsumerGroupHeartbeatResponse::decode(1, &out).unwrap();
        assert_eq!(null.assignment, None);
        out[mark] = 0;
        assert!(ConsumerGroupHeartbeatResponse::decode(1, &out).is_err(), "there, and cut off");
    }

    /// A pattern came with version 1; before, a member that wants one cannot be understood.
    #[test]
    fn a_pattern_is_carried_from_version_1() {
        let pattern = ConsumerGroupHeartbeatRequest {
            subscribed_topic_regex: Some("a.*".to_owned()),
            ..ConsumerGroupHeartbeatRequest::default()
        };
        assert_eq!(received(0, &pattern).subscribed_topic_regex, None);
        assert_eq!(received(1, &pattern).subscribed_topic_regex.as_deref(), Some("a.*"));
    }
}
