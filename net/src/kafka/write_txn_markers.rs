//! WriteTxnMarkers: the coordinator of transactions tells leaders how they ended.
//!
//! Sent from broker to broker, and by an administrator that ends a transaction which hangs.

use super::message::messages;
use super::topic_partitions::{TopicErrors, TopicPartitions};
use super::{ErrorCode, Request};

messages! {
    /// Asks for markers.
    struct WriteTxnMarkersRequest of WriteTxnMarkers {
        /// The markers.
        markers: Vec<WritableTxnMarker> [0..],
    }

    /// One marker, for each of its partitions.
    struct WritableTxnMarker {
        /// The transaction's producer.
        producer_id: i64 [0..],
        /// Its producer's epoch.
        producer_epoch: i16 [0..],
        /// Whether it was committed, rather than aborted.
        transaction_result: bool [0..],
        /// The partitions.
        topics: Vec<TopicPartitions> [0..],
        /// The epoch of the coordinator, so that one that was replaced cannot write any more.
        coordinator_epoch: i32 [0..],
        /// Which flow the transaction follows: 2 for the newer one (KIP-1228).
        transaction_version: i8 [2..],
    }

    /// What became of the markers.
    struct WriteTxnMarkersResponse of WriteTxnMarkers {
        /// The markers.
        markers: Vec<WritableTxnMarkerResult> [0..],
    }

    /// What became of one marker.
    struct WritableTxnMarkerResult {
        /// The transaction's producer.
        producer_id: i64 [0..],
        /// The partitions.
        topics: Vec<TopicErrors> [0..],
    }
}

impl Request for WriteTxnMarkersRequest {
    type Response = WriteTxnMarkersResponse;

    fn error_response(&self, error: ErrorCode) -> WriteTxnMarkersResponse {
        let failed = |marker: &WritableTxnMarker| WritableTxnMarkerResult {
            producer_id: marker.producer_id,
            topics: marker.topics.iter().map(|topic| topic.failed(error)).collect(),
        };
        WriteTxnMarkersResponse { markers: self.markers.iter().map(failed).collect() }
    }
}
