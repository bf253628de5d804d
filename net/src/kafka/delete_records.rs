//! DeleteRecords: partitions to trim from the start.

use super::message::messages;
use super::{ErrorCode, Request};

/// Instead of an offset: everything below the high watermark.
pub const HIGH_WATERMARK: i64 = -1;
/// No log start to tell, because of an error.
pub const UNKNOWN_LOW_WATERMARK: i64 = -1;

messages! {
    /// Asks for records to be deleted.
    struct DeleteRecordsRequest of DeleteRecords {
        /// The topics.
        topics: Vec<DeleteRecordsTopic> [0..],
        /// How long it may take.
        timeout_ms: i32 [0..],
    }

    /// One topic.
    struct DeleteRecordsTopic {
        /// Its name.
        name: String [0..],
        /// Its partitions.
        partitions: Vec<DeleteRecordsPartition> [0..],
    }

    /// One partition.
    struct DeleteRecordsPartition {
        /// Its number.
        partition_index: i32 [0..],
        /// The first offset to keep, or [`HIGH_WATERMARK`].
        offset: i64 [0..],
    }

    /// What became of the partitions.
    struct DeleteRecordsResponse of DeleteRecords {
        /// How long the client is to keep quiet.
        throttle_time_ms: i32 [0..],
        /// The topics.
        topics: Vec<DeleteRecordsTopicResult> [0..],
    }

    /// One topic of the response.
    struct DeleteRecordsTopicResult {
        /// Its name.
        name: String [0..],
        /// Its partitions.
        partitions: Vec<DeleteRecordsPartitionResult> [0..],
    }

    /// What became of one partition.
    struct DeleteRecordsPartitionResult {
        /// Its number.
        partition_index: i32 [0..],
        /// The first offset that any replica keeps.
        low_watermark: i64 [0.., default UNKNOWN_LOW_WATERMARK],
        /// How it ended.
        error_code: ErrorCode [0..],
    }
}

impl Request for DeleteRecordsRequest {
    type Response = DeleteRecordsResponse;

    fn error_response(&self, error: ErrorCode) -> DeleteRecordsResponse {
        let failed = |partition: &DeleteRecordsPartition| DeleteRecordsPartitionResult {
            partition_index: partition.partition_index,
            low_watermark: UNKNOWN_LOW_WATERMARK,
            error_code: error,
        };
        let topics = self.topics.iter().map(|topic| DeleteRecordsTopicResult {
            name: topic.name.clone(),
            partitions: topic.partitions.iter().map(failed).collect(),
        });
        DeleteRecordsResponse { topics: topics.collect(), ..DeleteRecordsResponse::default() }
    }
}
