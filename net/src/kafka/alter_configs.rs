//! IncrementalAlterConfigs: changes of settings, one by one. AlterConfigs: all settings anew.
//!
//! The older AlterConfigs replaces everything a resource had: what it does not name goes back to
//! its default. Both are answered alike.

use super::message::messages;
use super::{ErrorCode, Request};

/// What is done to a setting.
pub mod operation {
    /// Give it this value.
    pub const SET: i8 = 0;
    /// Go back to the default.
    pub const DELETE: i8 = 1;
    /// Add these words to its list.
    pub const APPEND: i8 = 2;
    /// Take these words out of its list.
    pub const SUBTRACT: i8 = 3;
}

messages! {
    /// Asks for changes.
    struct IncrementalAlterConfigsRequest of IncrementalAlterConfigs {
        /// Whose settings.
        resources: Vec<AlterConfigsResource> [0..],
        /// Whether to say only what would happen.
        validate_only: bool [0..],
    }

    /// Whose settings to change.
    struct AlterConfigsResource {
        /// Which kind; see [`super::describe_configs::resource`].
        resource_type: i8 [0..],
        /// Its name.
        resource_name: String [0..],
        /// The changes.
        configs: Vec<AlterableConfig> [0..],
    }

    /// One change.
    struct AlterableConfig {
        /// The setting's name.
        name: String [0..],
        /// What is done to it; see [`operation`].
        config_operation: i8 [0..],
        /// The value.
        value: Option<String> [0.., null 0],
    }

    /// What became of the changes.
    struct IncrementalAlterConfigsResponse of IncrementalAlterConfigs {
        /// How long the client is to keep quiet.
        throttle_time_ms: i32 [0..],
        /// One result for each resource.
        responses: Vec<AlterConfigsResourceResponse> [0..],
    }

    /// What became of the changes to one resource.
    struct AlterConfigsResourceResponse {
        /// How it ended.
        error_code: ErrorCode [0..],
        /// What went wrong, for people.
        error_message: Option<String> [0.., null 0],
        /// Which kind; see [`super::describe_configs::resource`].
        resource_type: i8 [0..],
        /// Its name.
        resource_name: String [0..],
    }
}

impl Request for IncrementalAlterConfigsRequest {
    type Response = IncrementalAlterConfigsResponse;

    fn error_response(&self, error: ErrorCode) -> IncrementalAlterConfigsResponse {
        let failed = |resource: &AlterConfigsResource| AlterConfigsResourceResponse {
            error_code: error,
            error_message: None,
            resource_type: resource.resource_type,
            resource_name: resource.resource_name.clone(),
        };
        IncrementalAlterConfigsResponse {
            responses: self.resources.iter().map(failed).collect(),
            ..IncrementalAlterConfigsResponse::default()
        }
    }
}

messages! {
    /// Asks for new settings in place of all there are.
    struct AlterConfigsRequest of AlterConfigs {
        /// Whose settings.
        resources: Vec<ReplaceConfigsResource> [0..],
        /// Whether to say only what would happen.
        validate_only: bool [0..],
    }

    /// Whose settings to replace.
    struct ReplaceConfigsResource {
        /// Which kind; see [`super::describe_configs::resource`].
        resource_type: i8 [0..],
        /// Its name.
        resource_name: String [0..],
        /// All settings it is to have.
        configs: Vec<ReplacingConfig> [0..],
    }

    /// One setting.
    struct ReplacingConfig {
        /// Its name.
        name: String [0..],
        /// Its value.
        value: Option<String> [0.., null 0],
    }

    /// What became of the settings.
    struct AlterConfigsResponse of AlterConfigs {
        /// How long the client is to keep quiet.
        throttle_time_ms: i32 [0..],
        /// One result for each resource.
        responses: Vec<AlterConfigsResourceResponse> [0..],
    }
}

impl Request for AlterConfigsRequest {
    type Response = AlterConfigsResponse;

    fn error_response(&self, error: ErrorCode) -> AlterConfigsResponse {
        let failed = |resource: &ReplaceConfigsResource| AlterConfigsResourceResponse {
            error_code: error,
            error_message: None,
            resource_type: resource.resource_type,
            resource_name: resource.resource_name.clone(),
        };
        AlterConfigsResponse {
            responses: self.resources.iter().map(failed).collect(),
            ..AlterConfigsResponse::default()
        }
    }
}
