//! EndTxn: a transaction is committed or aborted.

use super::init_producer_id::{NO_PRODUCER_EPOCH, NO_PRODUCER_ID};
use super::message::messages;
use super::{ErrorCode, Request};

/// From here on every transaction ends with a new epoch, told in the answer (KIP-890): a late
/// record of one transaction cannot get into the next.
pub const NEW_EPOCH_FROM: i16 = 5;

messages! {
    /// Ends a transaction.
    struct EndTxnRequest of EndTxn {
        /// Whose transaction.
        transactional_id: String [0..],
        /// Its producer.
        producer_id: i64 [0..],
        /// Its producer's epoch.
        producer_epoch: i16 [0..],
        /// Whether it is committed, rather than aborted.
        committed: bool [0..],
    }

    /// How the transaction ended.
    struct EndTxnResponse of EndTxn {
        /// How long the client is to keep quiet.
        throttle_time_ms: i32 [0..],
        /// How it ended.
        error_code: ErrorCode [0..],
        /// The producer's id from now on; -1 with an error.
        producer_id: i64 [5.., default NO_PRODUCER_ID],
        /// The producer's epoch from now on; -1 with an error.
        producer_epoch: i16 [5.., default NO_PRODUCER_EPOCH],
    }
}

impl Request for EndTxnRequest {
    type Response = EndTxnResponse;

    fn error_response(&self, error: ErrorCode) -> EndTxnResponse {
        EndTxnResponse { error_code: error, ..EndTxnResponse::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kafka::Message;
    use bytes::BytesMut;

    /// A producer of the newer flow goes on with the epoch told here. An older one cannot be told,
    /// so its epoch must stay: only the version says which flow it is.
    #[test]
    fn a_new_epoch_is_told_from_version_5() {
        let ended = EndTxnResponse { producer_id: 7, producer_epoch: 3, ..Default::default() };
        let told = |version| {
            let mut out = BytesMut::new();
            ended.encode(version, &mut out);
            let read = EndTxnResponse::decode(version, &out).unwrap();
            (read.producer_id, read.producer_epoch)
        };
        assert_eq!(told(NEW_EPOCH_FROM - 1), (-1, -1));
        assert_eq!(told(NEW_EPOCH_FROM), (7, 3));
    }
}
