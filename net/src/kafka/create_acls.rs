//! CreateAcls: new access rules.

use super::acl::pattern_type;
use super::message::messages;
use super::{ErrorCode, Request};

messages! {
    /// Asks for new rules.
    struct CreateAclsRequest of CreateAcls {
        /// The rules.
        creations: Vec<AclCreation> [0..],
    }

    /// One rule. The numbers are those of [`super::acl`].
    struct AclCreation {
        /// What it is about.
        resource_type: i8 [0..],
        /// Under which name.
        resource_name: String [0..],
        /// How the name stands for names.
        resource_pattern_type: i8 [1.., default pattern_type::LITERAL],
        /// Whom it is for.
        principal: String [0..],
        /// From where.
        host: String [0..],
        /// What it lets or forbids.
        operation: i8 [0..],
        /// Whether it lets or forbids.
        permission_type: i8 [0..],
    }

    /// What became of the rules.
    struct CreateAclsResponse of CreateAcls {
        /// How long the client is to keep quiet.
        throttle_time_ms: i32 [0..],
        /// One result for each rule, in the same order: they have no other name.
        results: Vec<AclCreationResult> [0..],
    }

    /// What became of one rule.
    struct AclCreationResult {
        /// How it ended.
        error_code: ErrorCode [0..],
        /// What went wrong, for people.
        error_message: Option<String> [0.., null 0],
    }
}

impl Request for CreateAclsRequest {
    type Response = CreateAclsResponse;

    fn error_response(&self, error: ErrorCode) -> CreateAclsResponse {
        let failed = AclCreationResult { error_code: error, error_message: None };
        CreateAclsResponse {
            results: vec![failed; self.creations.len()],
            ..CreateAclsResponse::default()
        }
    }
}
