//! DescribeProducers: what partitions know of their producers, to find a transaction that hangs.

use super::message::messages;
use super::topic_partitions::TopicPartitions;
use super::{ErrorCode, Request};

messages! {
    /// Asks about partitions.
    struct DescribeProducersRequest of DescribeProducers {
        /// The partitions.
        topics: Vec<TopicPartitions> [0..],
    }

    /// The producers.
    struct DescribeProducersResponse of DescribeProducers {
        /// How long the client is to keep quiet.
        throttle_time_ms: i32 [0..],
        /// The topics.
        topics: Vec<ProducersOfTopic> [0..],
    }

    /// The producers of one topic.
    struct ProducersOfTopic {
        /// Its name.
        name: String [0..],
        /// Its partitions.
        partitions: Vec<ProducersOfPartition> [0..],
    }

    /// The producers of one partition.
    struct ProducersOfPartition {
        /// Its number.
        partition_index: i32 [0..],
        /// How it ended.
        error_code: ErrorCode [0..],
        /// What went wrong, for people.
        error_message: Option<String> [0.., null 0],
        /// The producers that it has not forgotten.
        active_producers: Vec<ProducerState> [0..],
    }

    /// One producer.
    struct ProducerState {
        /// Its id.
        producer_id: i64 [0..],
        /// Its epoch; wider here than anywhere else.
        producer_epoch: i32 [0..],
        /// The sequence of its last record; -1 for none.
        last_sequence: i32 [0.., default -1],
        /// The time of its last record; -1 for none.
        last_timestamp: i64 [0.., default -1],
        /// The epoch of the coordinator that ended its last transaction; -1 for none.
        coordinator_epoch: i32 [0..],
        /// Where its open transaction begins; -1 for none.
        current_txn_start_offset: i64 [0.., default -1],
    }
}

impl Request for DescribeProducersRequest {
    type Response = DescribeProducersResponse;

    fn error_response(&self, error: ErrorCode) -> DescribeProducersResponse {
        let failed = |&partition_index: &i32| ProducersOfPartition {
            partition_index,
            error_code: error,
            ..ProducersOfPartition::default()
        };
        let topics = self.topics.iter().map(|topic| ProducersOfTopic {
            name: topic.topic.clone(),
            partitions: topic.partitions.iter().map(failed).collect(),
        });
        DescribeProducersResponse {
            topics: topics.collect(),
            ..DescribeProducersResponse::default()
        }
    }
}
