//! Topics with lists of their partitions: what many messages have in common.
//!
//! Kafka names the same few fields differently from message to message; on the wire they are the
//! same, so here each shape is one type. All of them look alike in every version.

use super::ErrorCode;
use super::message::messages;
use tidemill_record::TopicId;

messages! {
    /// Some partitions of a topic that is known by its name.
    struct TopicPartitions {
        /// The topic's name.
        topic: String [0..],
        /// The numbers of the partitions.
        partitions: Vec<i32> [0..],
    }

    /// Some partitions of a topic that is known by its id.
    struct TopicIdPartitions {
        /// The topic's id.
        topic_id: TopicId [0..],
        /// The numbers of the partitions.
        partitions: Vec<i32> [0..],
    }

    /// What became of some partitions of a topic.
    struct TopicErrors {
        /// The topic's name.
        topic: String [0..],
        /// The partitions.
        partitions: Vec<PartitionError> [0..],
    }

    /// What became of one partition.
    struct PartitionError {
        /// Its number.
        partition_index: i32 [0..],
        /// How it ended.
        error_code: ErrorCode [0..],
    }
}

impl TopicPartitions {
    /// The answer when nothing could be done with any of them.
    pub fn failed(&self, error: ErrorCode) -> TopicErrors {
        TopicErrors {
            topic: self.topic.clone(),
            partitions: PartitionError::each(self.partitions.iter().copied(), error),
        }
    }
}

impl PartitionError {
    /// The same for each of these partitions.
    pub fn each(partitions: impl Iterator<Item = i32>, error: ErrorCode) -> Vec<PartitionError> {
        partitions
            .map(|partition_index| PartitionError { partition_index, error_code: error })
            .collect()
    }
}
