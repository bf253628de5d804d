//! DeleteGroups: groups without members that go, with their committed offsets.

use super::message::messages;
use super::{ErrorCode, Request};

messages! {
    /// Names the groups.
    struct DeleteGroupsRequest of DeleteGroups {
        /// Their names.
        groups_names: Vec<String> [0..],
    }

    /// What became of the groups.
    struct DeleteGroupsResponse of DeleteGroups {
        /// How long the client is to keep quiet.
        throttle_time_ms: i32 [0..],
        /// One result for each group.
        results: Vec<DeletableGroupResult> [0..],
    }

    /// What became of one group.
    struct DeletableGroupResult {
        /// Its name.
        group_id: String [0..],
        /// How it ended.
        error_code: ErrorCode [0..],
    }
}

impl Request for DeleteGroupsRequest {
    type Response = DeleteGroupsResponse;

    fn error_response(&self, error: ErrorCode) -> DeleteGroupsResponse {
        let groups = self.groups_names.iter().cloned();
        DeleteGroupsResponse {
            results: groups
                .map(|group_id| DeletableGroupResult { group_id, error_code: error })
                .collect(),
            ..DeleteGroupsResponse::default()
        }
    }
}
