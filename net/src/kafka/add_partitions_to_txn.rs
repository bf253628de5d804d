//! AddPartitionsToTxn: which partitions a transaction writes to, told before it does.
//!
//! Up to version 3 a producer tells it for its one transaction; from version 4 brokers do, for many
//! at once, or only ask whether it was told (KIP-890). Producers of the newer flow
//! (`transaction.version=2`) never send it. [`AddPartitionsToTxnRequest::into_transactions`] and
//! [`AddPartitionsToTxnResponse::of`] make one shape of the two.

use super::message::messages;
use super::topic_partitions::TopicPartitions;
use super::{ErrorCode, Request};

/// From here on a request is about many transactions, and comes from brokers only.
pub const BATCHED_FROM: i16 = 4;

messages! {
    /// Names partitions.
    struct AddPartitionsToTxnRequest of AddPartitionsToTxn {
        /// The transactions.
        transactions: Vec<AddPartitionsToTxnTransaction> [4..],
        /// The one transaction; see [`AddPartitionsToTxnRequest::into_transactions`].
        v3_and_below_transactional_id: String [0..=3],
        /// Its producer.
        v3_and_below_producer_id: i64 [0..=3],
        /// Its producer's epoch.
        v3_and_below_producer_epoch: i16 [0..=3],
        /// Its partitions.
        v3_and_below_topics: Vec<TopicPartitions> [0..=3],
    }

    /// One transaction.
    struct AddPartitionsToTxnTransaction {
        /// Its id.
        transactional_id: String [4..],
        /// Its producer.
        producer_id: i64 [4..],
        /// Its producer's epoch.
        producer_epoch: i16 [4..],
        /// Whether to say only whether they are part of it already.
        verify_only: bool [4..],
        /// The partitions.
        topics: Vec<TopicPartitions> [4..],
    }

    /// What became of the partitions.
    struct AddPartitionsToTxnResponse of AddPartitionsToTxn {
        /// How long the client is to keep quiet.
        throttle_time_ms: i32 [0..],
        /// An error with the whole request.
        error_code: ErrorCode [4..],
        /// The transactions.
        results_by_transaction: Vec<AddPartitionsToTxnResult> [4..],
        /// The one transaction's topics.
        results_by_topic_v3_and_below: Vec<AddPartitionsToTxnTopicResult> [0..=3],
    }

    /// What became of one transaction's partitions.
    struct AddPartitionsToTxnResult {
        /// Its id.
        transactional_id: String [4..],
        /// Its topics.
        topic_results: Vec<AddPartitionsToTxnTopicResult> [4..],
    }

    /// What became of one topic's partitions.
    struct AddPartitionsToTxnTopicResult {
        /// Its name.
        name: String [0..],
        /// Its partitions.
        results_by_partition: Vec<AddPartitionsToTxnPartitionResult> [0..],
    }

    /// What became of one partition.
    struct AddPartitionsToTxnPartitionResult {
        /// Its number.
        partition_index: i32 [0..],
        /// How it ended.
        partition_error_code: ErrorCode [0..],
    }
}

impl AddPartitionsToTxnRequest {
    /// The transactions that a request of this version is about.
    pub fn into_transactions(self, version: i16) -> Vec<AddPartitionsToTxnTransaction> {
        if BATCHED_FROM <= version {
            return self.transactions;
        }
        vec![AddPartitionsToTxnTransaction {
            transactional_id: self.v3_and_below_transactional_id,
            producer_id: self.v3_and_below_producer_id,
            producer_epoch: self.v3_and_below_producer_epoch,
            verify_only: false,
            topics: self.v3_and_below_topics,
        }]
    }
}

impl AddPartitionsToTxnTransaction {
    /// The answer when all its partitions end the same way.
    pub fn all(&self, error: ErrorCode) -> AddPartitionsToTxnResult {
        AddPartitionsToTxnResult {
            transactional_id: self.transactional_id.clone(),
            topic_results: all(&self.topics, error),
        }
    }
}

fn all(topics: &[TopicPartitions], error: ErrorCode) -> Vec<AddPartitionsToTxnTopicResult> {
    let result = |&partition_index: &i32| AddPartitionsToTxnPartitionResult {
        partition_index,
        partition_error_code: error,
    };
    let topics = topics.iter().map(|topic| AddPartitionsToTxnTopicResult {
        name: topic.topic.clone(),
        results_by_partition: topic.partitions.iter().map(result).collect(),
    });
    topics.collect()
}

impl AddPartitionsToTxnResponse {
    /// The transactions' results, in the shape of this version.
    ///
    /// # Panics
    /// If a version that is about one transaction gets another number of them.
    pub fn of(
        version: i16,
        mut transactions: Vec<AddPartitionsToTxnResult>,
    ) -> AddPartitionsToTxnResponse {
        if BATCHED_FROM <= version {
            return AddPartitionsToTxnResponse {
                results_by_transaction: transactions,
                ..AddPartitionsToTxnResponse::default()
            };
        }
        assert_eq!(transactions.len(), 1, "the request was about one transaction");
        AddPartitionsToTxnResponse {
            results_by_topic_v3_and_below: transactions.pop().expect("there is one").topic_results,
            ..AddPartitionsToTxnResponse::default()
        }
    }
}

impl Request for AddPartitionsToTxnRequest {
    type Response = AddPartitionsToTxnResponse;

    fn error_response(&self, error: ErrorCode) -> AddPartitionsToTxnResponse {
        let transactions = self.transactions.iter().map(|transaction| transaction.all(error));
        AddPartitionsToTxnResponse {
            error_code: error,
            results_by_transaction: transactions.collect(),
            results_by_topic_v3_and_below: all(&self.v3_and_below_topics, error),
            ..AddPartitionsToTxnResponse::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kafka::Message;
    use bytes::BytesMut;

    /// librdkafka sends version 0 and Java version 3, each about its own transaction; brokers send
    /// 4 and 5 about many. The coordinator sees one shape, and so does whoever asked.
    #[test]
    fn one_transaction_or_many_have_one_shape() {
        let topics = vec![TopicPartitions { topic: "t".to_owned(), partitions: vec![0, 3] }];
        let transaction = AddPartitionsToTxnTransaction {
            transactional_id: "x".to_owned(),
            producer_id: 9,
            producer_epoch: 2,
            verify_only: false,
            topics: topics.clone(),
        };
        let asked = AddPartitionsToTxnRequest {
            transactions: vec![transaction.clone()],
            v3_and_below_transactional_id: "x".to_owned(),
            v3_and_below_producer_id: 9,
            v3_and_below_producer_epoch: 2,
            v3_and_below_topics: topics,
        };
        for version in 0..=5 {
            let mut out = BytesMut::new();
            asked.encode(version, &mut out);
            let read = AddPartitionsToTxnRequest::decode(version, &out).unwrap();
            let transactions = read.into_transactions(version);
            assert_eq!(transactions, std::slice::from_ref(&transaction));

            let result = transactions[0].all(ErrorCode::OperationNotAttempted);
            let mut out = BytesMut::new();
            AddPartitionsToTxnResponse::of(version, vec![result.clone()]).encode(version, &mut out);
            let answer = AddPartitionsToTxnResponse::decode(version, &out).unwrap();
            let topics = if version < BATCHED_FROM {
                answer.results_by_topic_v3_and_below
            } else {
                answer.results_by_transaction[0].topic_results.clone()
            };
            assert_eq!(topics, result.topic_results);
        }
    }
}
