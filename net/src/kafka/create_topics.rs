//! CreateTopics: new topics, with their partitions and settings.

use super::message::messages;
use super::{ErrorCode, Request};
use tidemill_record::TopicId;

messages! {
    /// Asks for new topics.
    struct CreateTopicsRequest of CreateTopics {
        /// The topics.
        topics: Vec<CreatableTopic> [0..],
        /// How long it may take.
        timeout_ms: i32 [0.., default 60_000],
        /// Whether to say only what would happen.
        validate_only: bool [1..],
    }

    /// One new topic.
    struct CreatableTopic {
        /// Its name.
        name: String [0..],
        /// How many partitions; -1 for the default, or with `assignments`.
        num_partitions: i32 [0..],
        /// How many replicas of each; -1 for the default, or with `assignments`.
        replication_factor: i16 [0..],
        /// Where each partition is to be; empty to let the broker choose.
        assignments: Vec<CreatableReplicaAssignment> [0..],
        /// Its settings.
        configs: Vec<CreatableTopicConfig> [0..],
    }

    /// Where one partition is to be.
    struct CreatableReplicaAssignment {
        /// The partition's number.
        partition_index: i32 [0..],
        /// The nodes, the preferred leader first.
        broker_ids: Vec<i32> [0..],
    }

    /// One setting.
    struct CreatableTopicConfig {
        /// Its name.
        name: String [0..],
        /// Its value.
        value: Option<String> [0.., null 0],
    }

    /// What became of the topics.
    struct CreateTopicsResponse of CreateTopics {
        /// How long the client is to keep quiet.
        throttle_time_ms: i32 [2..],
        /// One result for each topic.
        topics: Vec<CreatableTopicResult> [0..],
    }

    /// What became of one topic.
    struct CreatableTopicResult {
        /// Its name.
        name: String [0..],
        /// Its id.
        topic_id: TopicId [7..],
        /// How it ended.
        error_code: ErrorCode [0..],
        /// What went wrong, for people.
        error_message: Option<String> [1.., null 0],
        /// Why the settings are not told, if they are not.
        topic_config_error_code: ErrorCode [5.., tag 0],
        /// How many partitions it has.
        num_partitions: i32 [5.., default -1],
        /// How many replicas each of them has.
        replication_factor: i16 [5.., default -1],
        /// Its settings. Never send null: Java's client fails on it.
        configs: Option<Vec<CreatableTopicConfigs>> [5.., null 5, default Some(Vec::new())],
    }

    /// One setting of a topic that was created.
    struct CreatableTopicConfigs {
        /// Its name.
        name: String [5..],
        /// Its value.
        value: Option<String> [5.., null 5],
        /// Whether it cannot be changed.
        read_only: bool [5..],
        /// Where the value comes from; see [`super::describe_configs::source`].
        config_source: i8 [5.., default -1],
        /// Whether the value is a secret.
        is_sensitive: bool [5..],
    }
}

impl Request for CreateTopicsRequest {
    type Response = CreateTopicsResponse;

    fn error_response(&self, error: ErrorCode) -> CreateTopicsResponse {
        let failed = |topic: &CreatableTopic| CreatableTopicResult {
            name: topic.name.clone(),
            error_code: error,
            ..CreatableTopicResult::default()
        };
        CreateTopicsResponse {
            topics: self.topics.iter().map(failed).collect(),
            ..CreateTopicsResponse::default()
        }
    }
}
