//! Heartbeat: a member of a classic group says that it lives, and learns of a rebalance.

use super::message::messages;
use super::{ErrorCode, Request};

messages! {
    /// Says that a member lives.
    struct HeartbeatRequest of Heartbeat {
        /// The group.
        group_id: String [0..],
        /// The generation the member belongs to.
        generation_id: i32 [0..],
        /// The member.
        member_id: String [0..],
        /// Its name, if it is a static member.
        group_instance_id: Option<String> [3.., null 3],
    }

    /// Whether the generation still stands.
    struct HeartbeatResponse of Heartbeat {
        /// How long the client is to keep quiet.
        throttle_time_ms: i32 [1..],
        /// How it ended; REBALANCE_IN_PROGRESS asks the member to join again.
        error_code: ErrorCode [0..],
    }
}

impl Request for HeartbeatRequest {
    type Response = HeartbeatResponse;

    fn error_response(&self, error: ErrorCode) -> HeartbeatResponse {
        HeartbeatResponse { error_code: error, ..HeartbeatResponse::default() }
    }
}
