//! ListPartitionReassignments: which replicas are on their way to other nodes.
//!
//! User interfaces ask for it to draw a topic, so even a node that moves nothing must answer.

use super::message::messages;
use super::topic_partitions::TopicPartitions;
use super::{ErrorCode, Request};

messages! {
    /// Asks for the moves.
    struct ListPartitionReassignmentsRequest of ListPartitionReassignments {
        /// How long it may take.
        timeout_ms: i32 [0.., default 60_000],
        /// The partitions; null for all.
        topics: Option<Vec<TopicPartitions>> [0.., null 0],
    }

    /// The moves. A partition that does not move is left out.
    struct ListPartitionReassignmentsResponse of ListPartitionReassignments {
        /// How long the client is to keep quiet.
        throttle_time_ms: i32 [0..],
        /// How it ended.
        error_code: ErrorCode [0..],
        /// What went wrong, for people.
        error_message: Option<String> [0.., null 0],
        /// The topics.
        topics: Vec<OngoingTopicReassignment> [0..],
    }

    /// The moves of one topic.
    struct OngoingTopicReassignment {
        /// Its name.
        name: String [0..],
        /// Its partitions.
        partitions: Vec<OngoingPartitionReassignment> [0..],
    }

    /// The move of one partition.
    struct OngoingPartitionReassignment {
        /// Its number.
        partition_index: i32 [0..],
        /// The nodes that hold it, or will.
        replicas: Vec<i32> [0..],
        /// Those of them that will.
        adding_replicas: Vec<i32> [0..],
        /// Those of them that will not any more.
        removing_replicas: Vec<i32> [0..],
    }
}

impl Request for ListPartitionReassignmentsRequest {
    type Response = ListPartitionReassignmentsResponse;

    fn error_response(&self, error: ErrorCode) -> ListPartitionReassignmentsResponse {
        ListPartitionReassignmentsResponse {
            error_code: error,
            ..ListPartitionReassignmentsResponse::default()
        }
    }
}
