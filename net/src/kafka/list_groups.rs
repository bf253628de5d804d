//! ListGroups: which groups this node looks after.

use super::message::messages;
use super::{ErrorCode, Request};

messages! {
    /// Asks for the groups.
    struct ListGroupsRequest of ListGroups {
        /// Only groups in these states (KIP-518); empty for all. Clients write them as they like:
        /// Kafka compares without regard to case.
        states_filter: Vec<String> [4..],
        /// Only groups of these kinds (KIP-848); empty for all.
        types_filter: Vec<String> [5..],
    }

    /// The groups.
    struct ListGroupsResponse of ListGroups {
        /// How long the client is to keep quiet.
        throttle_time_ms: i32 [1..],
        /// How it ended.
        error_code: ErrorCode [0..],
        /// The groups.
        groups: Vec<ListedGroup> [0..],
    }

    /// One group.
    struct ListedGroup {
        /// Its name.
        group_id: String [0..],
        /// What it is for; empty for a group of nothing but committed offsets.
        protocol_type: String [0..],
        /// Its state; see [`super::describe_groups::state`].
        group_state: String [4..],
        /// Which protocol its members speak; see [`super::describe_groups::group_type`].
        group_type: String [5..],
    }
}

impl Request for ListGroupsRequest {
    type Response = ListGroupsResponse;

    fn error_response(&self, error: ErrorCode) -> ListGroupsResponse {
        ListGroupsResponse { error_code: error, ..ListGroupsResponse::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kafka::Message;
    use bytes::BytesMut;

    /// A filter that a version cannot carry is an empty one, which leaves nothing out.
    #[test]
    fn filters_came_one_by_one() {
        let asked = ListGroupsRequest {
            states_filter: vec!["Stable".to_owned()],
            types_filter: vec!["consumer".to_owned()],
        };
        for version in 0..=5 {
            let mut out = BytesMut::new();
            asked.encode(version, &mut out);
            let read = ListGroupsRequest::decode(version, &out).unwrap();
            assert_eq!(read.states_filter.len(), usize::from(4 <= version));
            assert_eq!(read.types_filter.len(), usize::from(5 <= version));
        }
    }
}
