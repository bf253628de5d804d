//! ListTransactions: which transactions this node looks after.

use super::message::messages;
use super::{ErrorCode, Request};

messages! {
    /// Asks for the transactions.
    struct ListTransactionsRequest of ListTransactions {
        /// Only those in these states; empty for all. See [`super::describe_transactions::state`].
        state_filters: Vec<String> [0..],
        /// Only those of these producers; empty for all.
        producer_id_filters: Vec<i64> [0..],
        /// Only those that have been open for longer than this many milliseconds; -1 for all.
        duration_filter: i64 [1.., default -1],
        /// Only those whose id matches this pattern (KIP-1152); null or empty for all.
        transactional_id_pattern: Option<String> [2.., null 2],
    }

    /// The transactions.
    struct ListTransactionsResponse of ListTransactions {
        /// How long the client is to keep quiet.
        throttle_time_ms: i32 [0..],
        /// How it ended.
        error_code: ErrorCode [0..],
        /// Those of the states asked for that we have never heard of.
        unknown_state_filters: Vec<String> [0..],
        /// The transactions.
        transaction_states: Vec<ListedTransaction> [0..],
    }

    /// One transaction.
    struct ListedTransaction {
        /// Its id.
        transactional_id: String [0..],
        /// Its producer.
        producer_id: i64 [0..],
        /// Its state; see [`super::describe_transactions::state`].
        transaction_state: String [0..],
    }
}

impl Request for ListTransactionsRequest {
    type Response = ListTransactionsResponse;

    fn error_response(&self, error: ErrorCode) -> ListTransactionsResponse {
        ListTransactionsResponse { error_code: error, ..ListTransactionsResponse::default() }
    }
}
