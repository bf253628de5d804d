//! DescribeTransactions: the state of transactions, as their coordinator sees it.

use super::init_producer_id::{NO_PRODUCER_EPOCH, NO_PRODUCER_ID};
use super::message::messages;
use super::topic_partitions::TopicPartitions;
use super::{ErrorCode, Request};

/// The names of states. Clients compare them letter by letter.
pub mod state {
    /// A producer, but no transaction yet.
    pub const EMPTY: &str = "Empty";
    /// Records may be written.
    pub const ONGOING: &str = "Ongoing";
    /// Committed; markers are being written.
    pub const PREPARE_COMMIT: &str = "PrepareCommit";
    /// Aborted; markers are being written.
    pub const PREPARE_ABORT: &str = "PrepareAbort";
    /// Committed, and every marker written.
    pub const COMPLETE_COMMIT: &str = "CompleteCommit";
    /// Aborted, and every marker written.
    pub const COMPLETE_ABORT: &str = "CompleteAbort";
    /// About to be forgotten.
    pub const DEAD: &str = "Dead";
    /// Being aborted, after its producer was fenced.
    pub const PREPARE_EPOCH_FENCE: &str = "PrepareEpochFence";
}

messages! {
    /// Asks about transactions.
    struct DescribeTransactionsRequest of DescribeTransactions {
        /// Their ids.
        transactional_ids: Vec<String> [0..],
    }

    /// The transactions.
    struct DescribeTransactionsResponse of DescribeTransactions {
        /// How long the client is to keep quiet.
        throttle_time_ms: i32 [0..],
        /// One answer for each id.
        transaction_states: Vec<TransactionState> [0..],
    }

    /// One transaction.
    struct TransactionState {
        /// How it ended.
        error_code: ErrorCode [0..],
        /// Its id.
        transactional_id: String [0..],
        /// Its state; see [`state`].
        transaction_state: String [0..],
        /// After how long it is aborted.
        transaction_timeout_ms: i32 [0..],
        /// When it began; -1 if none is open.
        transaction_start_time_ms: i64 [0.., default -1],
        /// Its producer.
        producer_id: i64 [0.., default NO_PRODUCER_ID],
        /// Its producer's epoch.
        producer_epoch: i16 [0.., default NO_PRODUCER_EPOCH],
        /// The partitions it writes to.
        topics: Vec<TopicPartitions> [0..],
    }
}

impl TransactionState {
    /// Nothing can be said about this transaction.
    pub fn failed(transactional_id: String, error: ErrorCode) -> TransactionState {
        TransactionState { error_code: error, transactional_id, ..TransactionState::default() }
    }
}

impl Request for DescribeTransactionsRequest {
    type Response = DescribeTransactionsResponse;

    fn error_response(&self, error: ErrorCode) -> DescribeTransactionsResponse {
        let ids = self.transactional_ids.iter().cloned();
        DescribeTransactionsResponse {
            transaction_states: ids.map(|id| TransactionState::failed(id, error)).collect(),
            ..DescribeTransactionsResponse::default()
        }
    }
}
