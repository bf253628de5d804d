//! ShareGroupHeartbeat: a member of a share group says that it lives and what it wants (KIP-932).
//!
//! As in [`super::consumer_group_heartbeat`], null means "as before". Members of a share group may
//! read the same partitions, so nobody has to give one up before another gets it.

use super::consumer_group_heartbeat::MemberAssignment;
use super::message::messages;
use super::{ErrorCode, Request};

messages! {
    /// What has changed with a member.
    struct ShareGroupHeartbeatRequest of ShareGroupHeartbeat {
        /// The group.
        group_id: String [0..],
        /// The member. It makes its own id.
        member_id: String [0..],
        /// Its epoch; 0 to join, -1 to leave.
        member_epoch: i32 [0..],
        /// Where it is; null if unchanged.
        rack_id: Option<String> [0.., null 0],
        /// The topics it wants; null if unchanged.
        subscribed_topic_names: Option<Vec<String>> [0.., null 0],
    }

    /// What the member is to read.
    struct ShareGroupHeartbeatResponse of ShareGroupHeartbeat {
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
}

impl Request for ShareGroupHeartbeatRequest {
    type Response = ShareGroupHeartbeatResponse;

    fn error_response(&self, error: ErrorCode) -> ShareGroupHeartbeatResponse {
        ShareGroupHeartbeatResponse { error_code: error, ..ShareGroupHeartbeatResponse::default() }
    }
}
