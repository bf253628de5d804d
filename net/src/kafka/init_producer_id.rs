//! InitProducerId: a number for a producer that wants no duplicates.

use super::message::messages;
use super::{ErrorCode, Request};

/// No producer id.
pub const NO_PRODUCER_ID: i64 = -1;
/// No producer epoch.
pub const NO_PRODUCER_EPOCH: i16 = -1;

messages! {
    /// Asks for a producer id, or for the next epoch of one.
    struct InitProducerIdRequest of InitProducerId {
        /// Who runs transactions; null for a producer that runs none.
        transactional_id: Option<String> [0.., null 0],
        /// After how long an idle transaction is aborted.
        transaction_timeout_ms: i32 [0..],
        /// The id the producer has already; -1 for none.
        producer_id: i64 [3.., default NO_PRODUCER_ID],
        /// The epoch the producer has already; -1 for none.
        producer_epoch: i16 [3.., default NO_PRODUCER_EPOCH],
    }

    /// The producer id.
    struct InitProducerIdResponse of InitProducerId {
        /// How long the client is to keep quiet.
        throttle_time_ms: i32 [0..],
        /// How it ended.
        error_code: ErrorCode [0..],
        /// The id.
        producer_id: i64 [0.., default NO_PRODUCER_ID],
        /// Its epoch.
        producer_epoch: i16 [0.., default NO_PRODUCER_EPOCH],
    }
}

impl Request for InitProducerIdRequest {
    type Response = InitProducerIdResponse;

    fn error_response(&self, error: ErrorCode) -> InitProducerIdResponse {
        InitProducerIdResponse { error_code: error, ..InitProducerIdResponse::default() }
    }
}
