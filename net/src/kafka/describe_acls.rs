//! DescribeAcls: the access rules that a filter lets through.

use super::acl::pattern_type;
use super::message::messages;
use super::{ErrorCode, Request};

messages! {
    /// Asks for rules. The numbers are those of [`super::acl`].
    struct DescribeAclsRequest of DescribeAcls {
        /// What they are about.
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

    /// The rules.
    struct DescribeAclsResponse of DescribeAcls {
        /// How long the client is to keep quiet.
        throttle_time_ms: i32 [0..],
        /// How it ended.
        error_code: ErrorCode [0..],
        /// What went wrong, for people.
        error_message: Option<String> [0.., null 0],
        /// The resources that have such rules.
        resources: Vec<DescribeAclsResource> [0..],
    }

    /// One resource.
    struct DescribeAclsResource {
        /// What it is.
        resource_type: i8 [0..],
        /// Its name.
        resource_name: String [0..],
        /// How the name stands for names.
        pattern_type: i8 [1.., default pattern_type::LITERAL],
        /// Its rules.
        acls: Vec<AclDescription> [0..],
    }

    /// One rule.
    struct AclDescription {
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

impl Request for DescribeAclsRequest {
    type Response = DescribeAclsResponse;

    fn error_response(&self, error: ErrorCode) -> DescribeAclsResponse {
        DescribeAclsResponse { error_code: error, ..DescribeAclsResponse::default() }
    }
}
