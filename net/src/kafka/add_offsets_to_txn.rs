//! AddOffsetsToTxn: a transaction is going to commit offsets of a group.
//!
//! Producers of the newer flow (`transaction.version=2`) never send it: their TxnOffsetCommit says
//! enough.

use super::message::messages;
use super::{ErrorCode, Request};

messages! {
    /// Names the group.
    struct AddOffsetsToTxnRequest of AddOffsetsToTxn {
        /// Whose transaction.
        transactional_id: String [0..],
        /// Its producer.
        producer_id: i64 [0..],
        /// Its producer's epoch.
        producer_epoch: i16 [0..],
        /// The group.
        group_id: String [0..],
    }

    /// Whether the group is part of the transaction now.
    struct AddOffsetsToTxnResponse of AddOffsetsToTxn {
        /// How long the client is to keep quiet.
        throttle_time_ms: i32 [0..],
        /// How it ended.
        error_code: ErrorCode [0..],
    }
}

impl Request for AddOffsetsToTxnRequest {
    type Response = AddOffsetsToTxnResponse;

    fn error_response(&self, error: ErrorCode) -> AddOffsetsToTxnResponse {
        AddOffsetsToTxnResponse { error_code: error, ..AddOffsetsToTxnResponse::default() }
    }
}
