//! ShareFetch: records for a member of a share group, and what became of earlier ones (KIP-932).
//!
//! Unlike Fetch it names no offsets: the broker decides which records the member gets, and keeps
//! others from getting them for a while. The request is in this file; the response, whose records
//! are never copied, in `share_fetch/response.rs`.

mod response;

pub use response::{AcquiredRecords, ShareFetchPartitionResponse, ShareFetchResponse};

use super::ErrorCode;
use super::message::messages;
use super::share_acknowledge::AcknowledgementBatch;
use super::topic_partitions::TopicIdPartitions;
use tidemill_record::TopicId;

/// How `max_records` is meant (KIP-1206).
pub mod acquire_mode {
    /// As a wish: whole batches, even if that makes more records.
    pub const BATCH_OPTIMIZED: i8 = 0;
    /// As a limit: never more records.
    pub const RECORD_LIMIT: i8 = 1;
}

messages! {
    /// Asks for records.
    struct ShareFetchRequest of ShareFetch {
        /// The group.
        group_id: Option<String> [0.., null 0],
        /// The member.
        member_id: Option<String> [0.., null 0],
        /// The step of the session; see [`INITIAL_EPOCH`](super::share_acknowledge::INITIAL_EPOCH)
        /// and [`FINAL_EPOCH`](super::share_acknowledge::FINAL_EPOCH).
        share_session_epoch: i32 [0..],
        /// How long to wait for `min_bytes`.
        max_wait_ms: i32 [0..],
        /// How much there must be before the answer goes out early.
        min_bytes: i32 [0..],
        /// How much the answer may hold.
        max_bytes: i32 [0.., default i32::MAX],
        /// How many records it may hold; see [`acquire_mode`].
        max_records: i32 [1..],
        /// Into how large batches the client would like the records to be divided.
        batch_size: i32 [1..],
        /// How `max_records` is meant; see [`acquire_mode`].
        share_acquire_mode: i8 [2..],
        /// Whether it asks for more time for any record. Then it gets no records.
        is_renew_ack: bool [2..],
        /// The partitions that are new in the session, or have something to acknowledge.
        topics: Vec<ShareFetchTopic> [0..],
        /// The partitions that leave the session.
        forgotten_topics_data: Vec<TopicIdPartitions> [0..],
    }

    /// What to read of one topic.
    struct ShareFetchTopic {
        /// Its id.
        topic_id: TopicId [0..],
        /// Its partitions.
        partitions: Vec<ShareFetchPartition> [0..],
    }

    /// What to read of one partition.
    struct ShareFetchPartition {
        /// Its number.
        partition_index: i32 [0..],
        /// What became of records that were read before, in ascending order of their offsets.
        acknowledgement_batches: Vec<AcknowledgementBatch> [0..],
    }
}

impl ShareFetchRequest {
    /// The answer when none of it could be done. The error is all of it: Kafka names no partitions
    /// beside one.
    pub fn error_response(&self, error: ErrorCode) -> ShareFetchResponse<'static> {
        ShareFetchResponse { error_code: error, ..ShareFetchResponse::default() }
    }
}
