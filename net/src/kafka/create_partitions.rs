//! CreatePartitions: more partitions for topics that exist.

use super::message::messages;
use super::{ErrorCode, Request};

messages! {
    /// Asks for more partitions.
    struct CreatePartitionsRequest of CreatePartitions {
        /// The topics.
        topics: Vec<CreatePartitionsTopic> [0..],
        /// How long it may take.
        timeout_ms: i32 [0..],
        /// Whether to say only what would happen.
        validate_only: bool [0..],
    }

    /// One topic.
    struct CreatePartitionsTopic {
        /// Its name.
        name: String [0..],
        /// How many partitions it is to have in all.
        count: i32 [0..],
        /// Where the new ones are to be; null to let the broker choose.
        assignments: Option<Vec<CreatePartitionsAssignment>> [0.., null 0],
    }

    /// Where one new partition is to be.
    struct CreatePartitionsAssignment {
        /// The nodes, the preferred leader first.
        broker_ids: Vec<i32> [0..],
    }

    /// What became of the topics.
    struct CreatePartitionsResponse of CreatePartitions {
        /// How long the client is to keep quiet.
        throttle_time_ms: i32 [0..],
        /// One result for each topic.
        results: Vec<CreatePartitionsTopicResult> [0..],
    }

    /// What became of one topic.
    struct CreatePartitionsTopicResult {
        /// Its name.
        name: String [0..],
        /// How it ended.
        error_code: ErrorCode [0..],
        /// What went wrong, for people.
        error_message: Option<String> [0.., null 0],
    }
}

impl Request for CreatePartitionsRequest {
    type Response = CreatePartitionsResponse;

    fn error_response(&self, error: ErrorCode) -> CreatePartitionsResponse {
        let failed = |topic: &CreatePartitionsTopic| CreatePartitionsTopicResult {
            name: topic.name.clone(),
            error_code: error,
            error_message: None,
        };
        CreatePartitionsResponse {
            results: self.topics.iter().map(failed).collect(),
            ..CreatePartitionsResponse::default()
        }
    }
}
