//! OffsetForLeaderEpoch: where leader epochs end, so that a reader notices a truncated log.

use super::message::messages;
use super::{ErrorCode, Request};

/// No such epoch, or no end known.
pub const UNDEFINED_EPOCH: i32 = -1;
/// No such end.
pub const UNDEFINED_OFFSET: i64 = -1;

messages! {
    /// Asks where epochs end.
    struct OffsetForLeaderEpochRequest of OffsetForLeaderEpoch {
        /// Which follower asks; -1 for a consumer, -2 before version 3.
        replica_id: i32 [3.., default -2],
        /// The topics.
        topics: Vec<OffsetForLeaderTopic> [0..],
    }

    /// One topic.
    struct OffsetForLeaderTopic {
        /// Its name.
        topic: String [0..],
        /// Its partitions.
        partitions: Vec<OffsetForLeaderPartition> [0..],
    }

    /// One partition.
    struct OffsetForLeaderPartition {
        /// Its number.
        partition: i32 [0..],
        /// The leader epoch the client knows of; -1 for none.
        current_leader_epoch: i32 [2.., default -1],
        /// The epoch whose end is wanted.
        leader_epoch: i32 [0..],
    }

    /// Where epochs end.
    struct OffsetForLeaderEpochResponse of OffsetForLeaderEpoch {
        /// How long the client is to keep quiet.
        throttle_time_ms: i32 [2..],
        /// The topics.
        topics: Vec<OffsetForLeaderTopicResult> [0..],
    }

    /// One topic of the response.
    struct OffsetForLeaderTopicResult {
        /// Its name.
        topic: String [0..],
        /// Its partitions.
        partitions: Vec<EpochEndOffset> [0..],
    }

    /// One partition of the response.
    struct EpochEndOffset {
        /// How it ended.
        error_code: ErrorCode [0..],
        /// Its number.
        partition: i32 [0..],
        /// The largest epoch not above the one asked for.
        leader_epoch: i32 [1.., default UNDEFINED_EPOCH],
        /// The first offset after it.
        end_offset: i64 [0.., default UNDEFINED_OFFSET],
    }
}

impl Request for OffsetForLeaderEpochRequest {
    type Response = OffsetForLeaderEpochResponse;

    fn error_response(&self, error: ErrorCode) -> OffsetForLeaderEpochResponse {
        let failed = |partition: &OffsetForLeaderPartition| EpochEndOffset {
            error_code: error,
            partition: partition.partition,
            ..EpochEndOffset::default()
        };
        let topics = self.topics.iter().map(|topic| OffsetForLeaderTopicResult {
            topic: topic.topic.clone(),
            partitions: topic.partitions.iter().map(failed).collect(),
        });
        OffsetForLeaderEpochResponse {
            topics: topics.collect(),
            ..OffsetForLeaderEpochResponse::default()
        }
    }
}
