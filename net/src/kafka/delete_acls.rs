//! DeleteAcls: access rules that go, by filters that let them through.

use super::acl::pattern_type;
use super::message::messages;
use super::{ErrorCode, Request};

messages! {
    /// Names the rules.
    struct DeleteAclsRequest of DeleteAcls {
        /// The filters; a rule goes if any of them lets it through.
        filters: Vec<DeleteAclsFilter> [0..],
    }

    /// One filter. The numbers are those of [`super::acl`].
    struct DeleteAclsFilter {
        /// What the rules are about.
        resource_type_filter: i8 [0..],
        /// Under which name; null for any.
        resource_name_filter: Option<String> [0.., null 0],
        /// How the name stands for names.
        pattern_type_filter: i8 [1.., default pattern_type::LITERAL],
        /// Whom they are for; null for anybody.
        principal_filter: Option<String> [0.., null 0],
        /// From where; null for anywhere.
        host_filter: Option<String> [0.., null 0],
        /// What they let or forbid.
        operation: i8 [0..],
        /// Whether they let or forbid.
        permission_type: i8 [0..],
    }

    /// What became of the rules.
    struct DeleteAclsResponse of DeleteAcls {
        /// How long the client is to keep quiet.
        throttle_time_ms: i32 [0..],
        /// One result for each filter, in the same order: they have no other name.
        filter_results: Vec<DeleteAclsFilterResult> [0..],
    }

    /// What became of the rules that one filter let through.
    struct DeleteAclsFilterResult {
        /// How it ended.
        error_code: ErrorCode [0..],
        /// What went wrong, for people.
        error_message: Option<String> [0.., null 0],
        /// The rules.
        matching_acls: Vec<DeleteAclsMatchingAcl> [0..],
    }

    /// What became of one rule.
    struct DeleteAclsMatchingAcl {
        /// How it ended.
        error_code: ErrorCode [0..],
        /// What went wrong, for people.
        error_message: Option<String> [0.., null 0],
        /// What it is about.
        resource_type: i8 [0..],
        /// Under which name.
        resource_name: String [0..],
        /// How the name stands for names.
        pattern_type: i8 [1.., default pattern_type::LITERAL],
        /// Whom it is for.
        principal: String [0..],
        /// From where.
        host: String [0..],
        /// What it lets or forbids.
        operation: i8 [0..],
        /// Whether it lets or forbids.
        permission_type: i8 [0..],
    }
}

impl Request for DeleteAclsRequest {
    type Response = DeleteAclsResponse;

    fn error_response(&self, error: ErrorCode) -> DeleteAclsResponse {
        let failed =
            DeleteAclsFilterResult { error_code: error, ..DeleteAclsFilterResult::default() };
        DeleteAclsResponse {
            filter_results: vec![failed; self.filters.len()],
            ..DeleteAclsResponse::default()
        }
    }
}
