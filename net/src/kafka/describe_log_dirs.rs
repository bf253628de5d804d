//! DescribeLogDirs: how much of its disks each partition takes. User interfaces show sizes by it.

use super::message::messages;
use super::topic_partitions::TopicPartitions;
use super::{ErrorCode, Request};

messages! {
    /// Asks about partitions.
    struct DescribeLogDirsRequest of DescribeLogDirs {
        /// The partitions; null for all.
        topics: Option<Vec<TopicPartitions>> [0.., null 0],
    }

    /// The directories.
    struct DescribeLogDirsResponse of DescribeLogDirs {
        /// How long the client is to keep quiet.
        throttle_time_ms: i32 [0..],
        /// An error with the request as a whole.
        error_code: ErrorCode [3..],
        /// The directories.
        results: Vec<DescribeLogDirsResult> [0..],
    }

    /// One directory.
    struct DescribeLogDirsResult {
        /// Whether it can be used.
        error_code: ErrorCode [0..],
        /// Its path, absolute.
        log_dir: String [0..],
        /// The topics that have something in it.
        topics: Vec<DescribeLogDirsTopic> [0..],
        /// How large the disk is; -1 if not known.
        total_bytes: i64 [4.., default -1],
        /// How much of that is free; -1 if not known.
        usable_bytes: i64 [4.., default -1],
        /// Whether it gets no new partitions (KIP-1066).
        is_cordoned: bool [5..],
    }

    /// One topic.
    struct DescribeLogDirsTopic {
        /// Its name.
        name: String [0..],
        /// Its partitions.
        partitions: Vec<DescribeLogDirsPartition> [0..],
    }

    /// One partition.
    struct DescribeLogDirsPartition {
        /// Its number.
        partition_index: i32 [0..],
        /// How much its log takes.
        partition_size: i64 [0..],
        /// How many offsets it is behind the high watermark, or behind the log it is to replace.
        offset_lag: i64 [0..],
        /// Whether it is to replace a log in another directory.
        is_future_key: bool [0..],
    }
}

impl Request for DescribeLogDirsRequest {
    type Response = DescribeLogDirsResponse;

    fn error_response(&self, error: ErrorCode) -> DescribeLogDirsResponse {
        DescribeLogDirsResponse { error_code: error, ..DescribeLogDirsResponse::default() }
    }
}
