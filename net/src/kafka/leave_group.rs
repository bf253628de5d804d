//! LeaveGroup: members that go, so that the others need not wait for their timeout.
//!
//! Up to version 2 a member takes itself out; from version 3 anybody takes out a list of members,
//! by their ids or by the names of static ones (KIP-345). [`LeaveGroupRequest::into_members`] and
//! [`LeaveGroupResponse::of`] make one shape of the two.

use super::message::messages;
use super::{ErrorCode, Request};

/// From here on there is a list of members, each with an error of its own.
const LIST_FROM: i16 = 3;

messages! {
    /// Takes members out.
    struct LeaveGroupRequest of LeaveGroup {
        /// The group.
        group_id: String [0..],
        /// The one member that goes; see [`LeaveGroupRequest::into_members`].
        member_id: String [0..=2],
        /// The members that go.
        members: Vec<MemberIdentity> [3..],
    }

    /// One member that goes.
    struct MemberIdentity {
        /// Its id; empty if only its name is known.
        member_id: String [3..],
        /// Its name, if it is a static member.
        group_instance_id: Option<String> [3.., null 3],
        /// Why it goes, for people.
        reason: Option<String> [5.., null 5],
    }

    /// What became of the members.
    struct LeaveGroupResponse of LeaveGroup {
        /// How long the client is to keep quiet.
        throttle_time_ms: i32 [1..],
        /// How it ended, for all of them.
        error_code: ErrorCode [0..],
        /// One result for each member.
        members: Vec<MemberResponse> [3..],
    }

    /// What became of one member.
    struct MemberResponse {
        /// Its id, as it was given.
        member_id: String [3..],
        /// Its name, if it is a static member.
        group_instance_id: Option<String> [3.., null 3],
        /// How it ended.
        error_code: ErrorCode [3..],
    }
}

impl LeaveGroupRequest {
    /// Who is to go, by a request of this version.
    pub fn into_members(self, version: i16) -> Vec<MemberIdentity> {
        if LIST_FROM <= version {
            return self.members;
        }
        vec![MemberIdentity { member_id: self.member_id, ..MemberIdentity::default() }]
    }
}

impl LeaveGroupResponse {
    /// One result for each member, in the shape of this version: before there were lists, the one
    /// member's error is the message's.
    pub fn of(version: i16, members: Vec<MemberResponse>) -> LeaveGroupResponse {
        let first = members.first().map_or(ErrorCode::None, |member| member.error_code);
        let error_code = if version < LIST_FROM { first } else { ErrorCode::None };
        LeaveGroupResponse { error_code, members, ..LeaveGroupResponse::default() }
    }
}

impl Request for LeaveGroupRequest {
    type Response = LeaveGroupResponse;

    fn error_response(&self, error: ErrorCode) -> LeaveGroupResponse {
        LeaveGroupResponse { error_code: error, ..LeaveGroupResponse::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kafka::Message;
    use bytes::BytesMut;

    /// kafka-go and librdkafka leave in versions 0 and 1, Java in 5: the coordinator sees a list
    /// of members, and an error reaches each of them.
    #[test]
    fn members_leave_one_by_one_or_as_a_list() {
        let unknown = MemberResponse {
            member_id: "m".to_owned(),
            error_code: ErrorCode::UnknownMemberId,
            ..MemberResponse::default()
        };
        for version in 0..=5 {
            let identity = MemberIdentity { member_id: "m".to_owned(), ..Default::default() };
            let asked = LeaveGroupRequest {
                member_id: "m".to_owned(),
                members: vec![identity.clone()],
                ..LeaveGroupRequest::default()
            };
            let mut out = BytesMut::new();
            asked.encode(version, &mut out);
            let read = LeaveGroupRequest::decode(version, &out).unwrap();
            assert_eq!(read.into_members(version), [identity]);

            let mut out = BytesMut::new();
            LeaveGroupResponse::of(version, vec![unknown.clone()]).encode(version, &mut out);
            let answer = LeaveGroupResponse::decode(version, &out).unwrap();
            if version < 3 {
                assert_eq!(answer.error_code, ErrorCode::UnknownMemberId);
            } else {
                assert_eq!(answer.error_code, ErrorCode::None);
                assert_eq!(answer.members, std::slice::from_ref(&unknown));
            }
        }
    }

    /// A static member is taken out by its name alone, as `kafka-consumer-groups` does it.
    #[test]
    fn a_static_member_leaves_by_its_name_from_version_3() {
        let asked = LeaveGroupRequest {
            members: vec![MemberIdentity {
                group_instance_id: Some("host-1".to_owned()),
                ..MemberIdentity::default()
            }],
            ..LeaveGroupRequest::default()
        };
        let mut out = BytesMut::new();
        asked.encode(3, &mut out);
        let members = LeaveGroupRequest::decode(3, &out).unwrap().into_members(3);
        assert_eq!(members[0].member_id, "");
        assert_eq!(members[0].group_instance_id.as_deref(), Some("host-1"));
    }
}
