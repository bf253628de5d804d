//! JoinGroup: a client asks to be a member of a classic group, and waits for the others.
//!
//! What the members say of themselves ([`JoinGroupRequestProtocol::metadata`]) is theirs: the
//! broker hands it to the leader unread. For consumers it is a subscription, see
//! [`super::consumer_protocol`].

use super::message::messages;
use super::{ErrorCode, Request};
use bytes::Bytes;

/// From here on a client without a member id is told one, and joins with it in a second request
/// (KIP-394). Without that, each retry of a lost first answer would leave a dead member behind.
pub const MEMBER_ID_REQUIRED_FROM: i16 = 4;
/// From here on the leader can be told to leave the assignment as it is (KIP-814).
pub const SKIP_ASSIGNMENT_FROM: i16 = 9;
/// No generation: the client is no member.
pub const NO_GENERATION: i32 = -1;

messages! {
    /// Asks to be a member.
    struct JoinGroupRequest of JoinGroup {
        /// The group.
        group_id: String [0..],
        /// After how long without a heartbeat the member is gone.
        session_timeout_ms: i32 [0..],
        /// How long the others wait for it in a rebalance; see
        /// [`JoinGroupRequest::rebalance_timeout_of`].
        rebalance_timeout_ms: i32 [1.., default -1],
        /// The id the broker gave it; empty for a new member.
        member_id: String [0..],
        /// The name of a static member, which outlives its process.
        group_instance_id: Option<String> [5.., null 5],
        /// What the group is for, `consumer` or `connect` for instance.
        protocol_type: String [0..],
        /// The ways of sharing work that the member knows, best first.
        protocols: Vec<JoinGroupRequestProtocol> [0..],
        /// Why it joins, for people.
        reason: Option<String> [8.., null 8],
    }

    /// One way of sharing work.
    struct JoinGroupRequestProtocol {
        /// Its name.
        name: String [0..],
        /// What the member says of itself, in a form that its kind knows.
        metadata: Bytes [0..],
    }

    /// The generation that came about.
    struct JoinGroupResponse of JoinGroup {
        /// How long the client is to keep quiet.
        throttle_time_ms: i32 [2..],
        /// How it ended.
        error_code: ErrorCode [0..],
        /// The generation.
        generation_id: i32 [0.., default NO_GENERATION],
        /// What the group is for.
        protocol_type: Option<String> [7.., null 7],
        /// The way of sharing work that was chosen; null with an error, and before version 7 empty.
        protocol_name: Option<String> [0.., null 7],
        /// The member that shares out the work.
        leader: String [0..],
        /// Whether the leader must leave the assignment as it is.
        skip_assignment: bool [9..],
        /// The id of the member that asked.
        member_id: String [0..],
        /// All members, told to the leader alone.
        members: Vec<JoinGroupResponseMember> [0..],
    }

    /// One member, as the leader learns of it.
    struct JoinGroupResponseMember {
        /// Its id.
        member_id: String [0..],
        /// Its name, if it is a static member.
        group_instance_id: Option<String> [5.., null 5],
        /// What it says of itself.
        metadata: Bytes [0..],
    }
}

impl JoinGroupRequest {
    /// How long the others wait for this member in a rebalance. Version 0 does not say, and means
    /// the session's timeout.
    pub fn rebalance_timeout_of(&self, version: i16) -> i32 {
        if version == 0 { self.session_timeout_ms } else { self.rebalance_timeout_ms }
    }
}

impl JoinGroupResponse {
    /// Not joined. `member_id` is the one to join with, if the error is MEMBER_ID_REQUIRED.
    pub fn failed(member_id: String, error: ErrorCode) -> JoinGroupResponse {
        JoinGroupResponse { error_code: error, member_id, ..JoinGroupResponse::default() }
    }
}

impl Request for JoinGroupRequest {
    type Response = JoinGroupResponse;

    fn error_response(&self, error: ErrorCode) -> JoinGroupResponse {
        JoinGroupResponse::failed(self.member_id.clone(), error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kafka::Message;
    use bytes::BytesMut;

    fn received(version: i16, response: &JoinGroupResponse) -> JoinGroupResponse {
        let mut out = BytesMut::new();
        response.encode(version, &mut out);
        JoinGroupResponse::decode(version, &out).unwrap()
    }

    /// Version 0 has no rebalance timeout: the others wait as long as the session may last, not
    /// for the -1 that stands where nothing was sent.
    #[test]
    fn version_0_waits_for_the_session_timeout() {
        let asked = JoinGroupRequest {
            session_timeout_ms: 10_000,
            rebalance_timeout_ms: 60_000,
            ..JoinGroupRequest::default()
        };
        for (version, expected) in [(0, 10_000), (1, 60_000), (9, 60_000)] {
            let mut out = BytesMut::new();
            asked.encode(version, &mut out);
            let read = JoinGroupRequest::decode(version, &out).unwrap();
            assert_eq!(read.rebalance_timeout_of(version), expected);
        }
    }

    /// With an error no protocol is chosen. Before version 7 null has no form, and Kafka sends an
    /// empty name; from version 7 it sends null.
    #[test]
    fn a_failed_join_names_no_protocol() {
        let failed = JoinGroupResponse::failed("m-1".to_owned(), ErrorCode::MemberIdRequired);
        assert_eq!(received(6, &failed).protocol_name.as_deref(), Some(""));
        assert_eq!(received(7, &failed).protocol_name, None);
        assert_eq!(received(4, &failed).member_id, "m-1");
        assert_eq!(received(4, &failed).generation_id, NO_GENERATION);
    }

    /// Only who knows the field can be told to skip the assignment; an older leader would be left
    /// to compute one, so the coordinator must know the version.
    #[test]
    fn skip_assignment_is_told_from_version_9() {
        let skip = JoinGroupResponse { skip_assignment: true, ..JoinGroupResponse::default() };
        assert!(!received(SKIP_ASSIGNMENT_FROM - 1, &skip).skip_assignment);
        assert!(received(SKIP_ASSIGNMENT_FROM, &skip).skip_assignment);
    }
}
