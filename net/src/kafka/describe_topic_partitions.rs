//! DescribeTopicPartitions: topics and their partitions, some at a time (KIP-966).

use super::message::{messages, nullable_structs};
use super::metadata::OPERATIONS_NOT_ASKED_FOR;
use super::{ErrorCode, Request};
use tidemill_record::TopicId;

messages! {
    /// Asks about topics.
    struct DescribeTopicPartitionsRequest of DescribeTopicPartitions {
        /// Their names; none for all.
        topics: Vec<TopicToDescribe> [0..],
        /// How many partitions the answer may have.
        response_partition_limit: i32 [0.., default 2000],
        /// Where to go on; null for the beginning.
        cursor: Option<DescribeCursor> [0.., null 0],
    }

    /// One topic asked for.
    struct TopicToDescribe {
        /// Its name.
        name: String [0..],
    }

    /// A place in the row of all partitions, which goes by topic name and partition number.
    struct DescribeCursor {
        /// The topic.
        topic_name: String [0..],
        /// The partition to begin with.
        partition_index: i32 [0..],
    }

    /// The topics, or some of them.
    struct DescribeTopicPartitionsResponse of DescribeTopicPartitions {
        /// How long the client is to keep quiet.
        throttle_time_ms: i32 [0..],
        /// The topics.
        topics: Vec<DescribedTopic> [0..],
        /// Where to go on; null at the end.
        next_cursor: Option<DescribeCursor> [0.., null 0],
    }

    /// One topic.
    struct DescribedTopic {
        /// Whether it could be described.
        error_code: ErrorCode [0..],
        /// Its name.
        name: Option<String> [0.., null 0],
        /// Its id.
        topic_id: TopicId [0..],
        /// Whether it belongs to the broker itself.
        is_internal: bool [0..],
        /// Its partitions.
        partitions: Vec<DescribedPartition> [0..],
        /// What the client may do with it.
        topic_authorized_operations: i32 [0.., default OPERATIONS_NOT_ASKED_FOR],
    }

    /// One partition.
    struct DescribedPartition {
        /// Whether it can be used.
        error_code: ErrorCode [0..],
        /// Its number.
        partition_index: i32 [0..],
        /// Whom to produce to and fetch from; -1 for nobody.
        leader_id: i32 [0..],
        /// The leader's epoch.
        leader_epoch: i32 [0.., default -1],
        /// The nodes that are to hold a replica.
        replica_nodes: Vec<i32> [0..],
        /// Those of them that have everything committed.
        isr_nodes: Vec<i32> [0..],
        /// Those outside the in-sync ones that could lead without loss. Never send null: Java's
        /// client fails on it.
        eligible_leader_replicas: Option<Vec<i32>> [0.., null 0, default Some(Vec::new())],
        /// Those that could before, as far as is known. Never send null either.
        last_known_elr: Option<Vec<i32>> [0.., null 0, default Some(Vec::new())],
        /// Those that cannot be reached.
        offline_replicas: Vec<i32> [0..],
    }
}

nullable_structs! { DescribeCursor }

impl Request for DescribeTopicPartitionsRequest {
    type Response = DescribeTopicPartitionsResponse;

    fn error_response(&self, error: ErrorCode) -> DescribeTopicPartitionsResponse {
        let failed = |topic: &TopicToDescribe| DescribedTopic {
            error_code: error,
            name: Some(topic.name.clone()),
            ..DescribedTopic::default()
        };
        DescribeTopicPartitionsResponse {
            topics: self.topics.iter().map(failed).collect(),
            ..DescribeTopicPartitionsResponse::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Java's client reads these lists without a look at whether they are there, though the schema
    /// lets them be null.
    #[test]
    fn lists_that_java_fails_on_are_empty_not_null() {
        let partition = DescribedPartition::default();
        assert_eq!(partition.eligible_leader_replicas, Some(Vec::new()));
        assert_eq!(partition.last_known_elr, Some(Vec::new()));
    }
}
