//! ListOffsets: the first and last offsets of partitions, and offsets by time.

use super::message::messages;
use super::{ErrorCode, Request};

/// Instead of a time: the offset after the last record that the reader may see.
pub const LATEST: i64 = -1;
/// Instead of a time: the first offset that is kept.
pub const EARLIEST: i64 = -2;
/// Instead of a time: the record with the highest timestamp (from version 7).
pub const MAX_TIMESTAMP: i64 = -3;
/// Instead of a time: the first offset kept on the node itself (from version 8).
pub const EARLIEST_LOCAL: i64 = -4;
/// Instead of a time: the last offset kept in remote storage (from version 9).
pub const LATEST_TIERED: i64 = -5;
/// Instead of a time: the first offset not yet in remote storage (from version 11).
pub const EARLIEST_PENDING_UPLOAD: i64 = -6;
/// No such offset, or no such timestamp.
pub const UNKNOWN: i64 = -1;

messages! {
    /// Asks for offsets.
    struct ListOffsetsRequest of ListOffsets {
        /// Which follower asks; -1 for a consumer.
        replica_id: i32 [0.., default -1],
        /// 1 to see only what lies below open transactions.
        isolation_level: i8 [2..],
        /// The topics.
        topics: Vec<ListOffsetsTopic> [0..],
        /// How long an answer may take that needs remote storage.
        timeout_ms: i32 [10..],
    }

    /// One topic of the request.
    struct ListOffsetsTopic {
        /// Its name.
        name: String [0..],
        /// Its partitions.
        partitions: Vec<ListOffsetsPartition> [0..],
    }

    /// One partition of the request.
    struct ListOffsetsPartition {
        /// Its number.
        partition_index: i32 [0..],
        /// The leader epoch the client knows of; -1 for none.
        current_leader_epoch: i32 [4.., default -1],
        /// Asks for the first record at this time or later; or one of this file's constants.
        timestamp: i64 [0..],
    }

    /// The offsets.
    struct ListOffsetsResponse of ListOffsets {
        /// How long the client is to keep quiet.
        throttle_time_ms: i32 [2..],
        /// The topics.
        topics: Vec<ListOffsetsTopicResponse> [0..],
    }

    /// One topic of the response.
    struct ListOffsetsTopicResponse {
        /// Its name.
        name: String [0..],
        /// Its partitions.
        partitions: Vec<ListOffsetsPartitionResponse> [0..],
    }

    /// One partition of the response.
    struct ListOffsetsPartitionResponse {
        /// Its number.
        partition_index: i32 [0..],
        /// How it ended.
        error_code: ErrorCode [0..],
        /// The timestamp of the record found; [`UNKNOWN`] for the special offsets.
        timestamp: i64 [0.., default UNKNOWN],
        /// The offset; [`UNKNOWN`] if there is no such record.
        offset: i64 [0.., default UNKNOWN],
        /// The epoch of the record found; -1 for none.
        leader_epoch: i32 [4.., default -1],
    }
}

impl Request for ListOffsetsRequest {
    type Response = ListOffsetsResponse;

    fn error_response(&self, error: ErrorCode) -> ListOffsetsResponse {
        let failed = |partition: &ListOffsetsPartition| ListOffsetsPartitionResponse {
            partition_index: partition.partition_index,
            error_code: error,
            ..ListOffsetsPartitionResponse::default()
        };
        let topics = self.topics.iter().map(|topic| ListOffsetsTopicResponse {
            name: topic.name.clone(),
            partitions: topic.partitions.iter().map(failed).collect(),
        });
        ListOffsetsResponse { topics: topics.collect(), ..ListOffsetsResponse::default() }
    }
}
