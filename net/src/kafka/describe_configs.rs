//! DescribeConfigs: the settings of topics and nodes, and where each value comes from.

use super::message::messages;
use super::{ErrorCode, Request};

/// What settings belong to.
pub mod resource {
    /// A topic, by name.
    pub const TOPIC: i8 = 2;
    /// A node, by its id as text; an empty name is the default of all.
    pub const BROKER: i8 = 4;
    /// The levels of a node's loggers.
    pub const BROKER_LOGGER: i8 = 8;
    /// What clients are to measure.
    pub const CLIENT_METRICS: i8 = 16;
    /// A consumer group.
    pub const GROUP: i8 = 32;
}

/// Where a value comes from.
pub mod source {
    /// Set for the topic.
    pub const TOPIC: i8 = 1;
    /// Set for one node while it ran.
    pub const DYNAMIC_BROKER: i8 = 2;
    /// Set for all nodes while they ran.
    pub const DYNAMIC_DEFAULT_BROKER: i8 = 3;
    /// From the node's file or arguments.
    pub const STATIC_BROKER: i8 = 4;
    /// Built in.
    pub const DEFAULT: i8 = 5;
    /// Set for a logger.
    pub const DYNAMIC_BROKER_LOGGER: i8 = 6;
    /// Set for a group.
    pub const GROUP: i8 = 8;
}

/// How a value is written.
pub mod value_type {
    /// `true` or `false`.
    pub const BOOLEAN: i8 = 1;
    /// Text.
    pub const STRING: i8 = 2;
    /// A 32-bit integer.
    pub const INT: i8 = 3;
    /// A 16-bit integer.
    pub const SHORT: i8 = 4;
    /// A 64-bit integer.
    pub const LONG: i8 = 5;
    /// A fraction.
    pub const DOUBLE: i8 = 6;
    /// Words with commas between them.
    pub const LIST: i8 = 7;
    /// The name of a Java class.
    pub const CLASS: i8 = 8;
    /// A secret.
    pub const PASSWORD: i8 = 9;
}

messages! {
    /// Asks for settings.
    struct DescribeConfigsRequest of DescribeConfigs {
        /// Whose settings.
        resources: Vec<DescribeConfigsResource> [0..],
        /// Whether to tell also what each value stands before.
        include_synonyms: bool [1..],
        /// Whether to explain each setting.
        include_documentation: bool [3..],
    }

    /// Whose settings to tell.
    struct DescribeConfigsResource {
        /// Which kind; see [`resource`].
        resource_type: i8 [0..],
        /// Its name.
        resource_name: String [0..],
        /// Which settings; null for all.
        configuration_keys: Option<Vec<String>> [0.., null 0],
    }

    /// The settings.
    struct DescribeConfigsResponse of DescribeConfigs {
        /// How long the client is to keep quiet.
        throttle_time_ms: i32 [0..],
        /// One result for each resource.
        results: Vec<DescribeConfigsResult> [0..],
    }

    /// The settings of one resource.
    struct DescribeConfigsResult {
        /// How it ended.
        error_code: ErrorCode [0..],
        /// What went wrong, for people.
        error_message: Option<String> [0.., null 0],
        /// Which kind; see [`resource`].
        resource_type: i8 [0..],
        /// Its name.
        resource_name: String [0..],
        /// Its settings.
        configs: Vec<DescribeConfigsResourceResult> [0..],
    }

    /// One setting.
    struct DescribeConfigsResourceResult {
        /// Its name.
        name: String [0..],
        /// Its value; null for a secret.
        value: Option<String> [0.., null 0],
        /// Whether it cannot be changed.
        read_only: bool [0..],
        /// Where the value comes from; see [`source`].
        config_source: i8 [1.., default -1],
        /// Whether the value is a secret.
        is_sensitive: bool [0..],
        /// The values it stands before, and itself.
        synonyms: Vec<DescribeConfigsSynonym> [1..],
        /// How the value is written; see [`value_type`].
        config_type: i8 [3..],
        /// What the setting does.
        documentation: Option<String> [3.., null 3],
    }

    /// A value that would hold if those before it were not set.
    struct DescribeConfigsSynonym {
        /// The setting's name there.
        name: String [1..],
        /// The value.
        value: Option<String> [1.., null 1],
        /// Where it comes from; see [`source`].
        source: i8 [1..],
    }
}

impl Request for DescribeConfigsRequest {
    type Response = DescribeConfigsResponse;

    fn error_response(&self, error: ErrorCode) -> DescribeConfigsResponse {
        let failed = |resource: &DescribeConfigsResource| DescribeConfigsResult {
            error_code: error,
            resource_type: resource.resource_type,
            resource_name: resource.resource_name.clone(),
            ..DescribeConfigsResult::default()
        };
        DescribeConfigsResponse {
            results: self.resources.iter().map(failed).collect(),
            ..DescribeConfigsResponse::default()
        }
    }
}
