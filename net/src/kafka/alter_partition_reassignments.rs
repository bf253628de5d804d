//! AlterPartitionReassignments: replicas are to move to other nodes.

use super::message::messages;
use super::{ErrorCode, Request};

messages! {
    /// Asks for moves.
    struct AlterPartitionReassignmentsRequest of AlterPartitionReassignments {
        /// How long it may take.
        timeout_ms: i32 [0.., default 60_000],
        /// Whether a partition may end with more or fewer replicas than it has (KIP-860).
        allow_replication_factor_change: bool [1.., default true],
        /// The topics.
        topics: Vec<ReassignableTopic> [0..],
    }

    /// The moves of one topic.
    struct ReassignableTopic {
        /// Its name.
        name: String [0..],
        /// Its partitions.
        partitions: Vec<ReassignablePartition> [0..],
    }

    /// The move of one partition.
    struct ReassignablePartition {
        /// Its number.
        partition_index: i32 [0..],
        /// The nodes that are to hold it, the preferred leader first; null to end a move.
        replicas: Option<Vec<i32>> [0.., null 0],
    }

    /// What became of the moves.
    struct AlterPartitionReassignmentsResponse of AlterPartitionReassignments {
        /// How long the client is to keep quiet.
        throttle_time_ms: i32 [0..],
        /// Whether the number of replicas was allowed to change.
        allow_replication_factor_change: bool [1.., default true],
        /// An error with the request as a whole.
        error_code: ErrorCode [0..],
        /// What went wrong, for people.
        error_message: Option<String> [0.., null 0],
        /// The topics.
        responses: Vec<ReassignableTopicResponse> [0..],
    }

    /// What became of one topic's moves.
    struct ReassignableTopicResponse {
        /// Its name.
        name: String [0..],
        /// Its partitions.
        partitions: Vec<ReassignablePartitionResponse> [0..],
    }

    /// What became of one partition's move.
    struct ReassignablePartitionResponse {
        /// Its number.
        partition_index: i32 [0..],
        /// How it ended.
        error_code: ErrorCode [0..],
        /// What went wrong, for people.
        error_message: Option<String> [0.., null 0],
    }
}

impl Request for AlterPartitionReassignmentsRequest {
    type Response = AlterPartitionReassignmentsResponse;

    fn error_response(&self, error: ErrorCode) -> AlterPartitionReassignmentsResponse {
        let failed = |partition: &ReassignablePartition| ReassignablePartitionResponse {
            partition_index: partition.partition_index,
            error_code: error,
            error_message: None,
        };
        let topics = self.topics.iter().map(|topic| ReassignableTopicResponse {
            name: topic.name.clone(),
            partitions: topic.partitions.iter().map(failed).collect(),
        });
        AlterPartitionReassignmentsResponse {
            allow_replication_factor_change: self.allow_replication_factor_change,
            error_code: error,
            responses: topics.collect(),
            ..AlterPartitionReassignmentsResponse::default()
        }
    }
}
