//! AlterShareGroupOffsets: a share group without members is to begin elsewhere.

use super::message::messages;
use super::{ErrorCode, Request};
use tidemill_record::TopicId;

messages! {
    /// Asks for new beginnings.
    struct AlterShareGroupOffsetsRequest of AlterShareGroupOffsets {
        /// The group.
        group_id: String [0..],
        /// The topics.
        topics: Vec<ShareGroupTopicToAlter> [0..],
    }

    /// One topic.
    struct ShareGroupTopicToAlter {
        /// Its name.
        topic_name: String [0..],
        /// Its partitions.
        partitions: Vec<ShareGroupPartitionToAlter> [0..],
    }

    /// One partition.
    struct ShareGroupPartitionToAlter {
        /// Its number.
        partition_index: i32 [0..],
        /// Where to begin.
        start_offset: i64 [0..],
    }

    /// What became of that.
    struct AlterShareGroupOffsetsResponse of AlterShareGroupOffsets {
        /// How long the client is to keep quiet.
        throttle_time_ms: i32 [0..],
        /// An error with the request as a whole.
        error_code: ErrorCode [0..],
        /// What went wrong, for people.
        error_message: Option<String> [0.., null 0],
        /// The topics.
        responses: Vec<AlteredShareGroupTopic> [0..],
    }

    /// What became of one topic.
    struct AlteredShareGroupTopic {
        /// Its name.
        topic_name: String [0..],
        /// Its id.
        topic_id: TopicId [0..],
        /// Its partitions.
        partitions: Vec<AlteredShareGroupPartition> [0..],
    }

    /// What became of one partition.
    struct AlteredShareGroupPartition {
        /// Its number.
        partition_index: i32 [0..],
        /// How it ended.
        error_code: ErrorCode [0..],
        /// What went wrong, for people.
        error_message: Option<String> [0.., null 0],
    }
}

impl Request for AlterShareGroupOffsetsRequest {
    type Response = AlterShareGroupOffsetsResponse;

    fn error_response(&self, error: ErrorCode) -> AlterShareGroupOffsetsResponse {
        let failed = |partition: &ShareGroupPartitionToAlter| AlteredShareGroupPartition {
            partition_index: partition.partition_index,
            error_code: error,
            error_message: None,
        };
        let topics = self.topics.iter().map(|topic| AlteredShareGroupTopic {
            topic_name: topic.topic_name.clone(),
            topic_id: TopicId::ZERO,
            partitions: topic.partitions.iter().map(failed).collect(),
        });
        AlterShareGroupOffsetsResponse {
            error_code: error,
            responses: topics.collect(),
            ..AlterShareGroupOffsetsResponse::default()
        }
    }
}
