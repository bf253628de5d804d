//! TxnOffsetCommit: offsets of a group that count once a transaction is committed.

use super::init_producer_id::{NO_PRODUCER_EPOCH, NO_PRODUCER_ID};
use super::message::messages;
use super::offset_commit::{NO_GENERATION, OffsetCommitResponseTopic};
use super::topic_partitions::PartitionError;
use super::{ErrorCode, Request};

/// From here on the consumer's generation and member are told, so that one whose partitions have
/// gone to others cannot commit for them any more (KIP-447).
pub const GROUP_METADATA_FROM: i16 = 3;
/// From here on the group becomes part of the transaction by this very request, without
/// AddOffsetsToTxn (KIP-890).
pub const IMPLICIT_ADD_FROM: i16 = 5;

messages! {
    /// Commits offsets within a transaction.
    struct TxnOffsetCommitRequest of TxnOffsetCommit {
        /// Whose transaction.
        transactional_id: String [0..],
        /// The group.
        group_id: String [0..],
        /// The transaction's producer.
        producer_id: i64 [0.., default NO_PRODUCER_ID],
        /// Its producer's epoch.
        producer_epoch: i16 [0.., default NO_PRODUCER_EPOCH],
        /// The generation of the consumer, or its epoch; -1 if not told.
        generation_id: i32 [3.., default NO_GENERATION],
        /// The consumer; empty if not told.
        member_id: String [3..],
        /// Its name, if it is a static member.
        group_instance_id: Option<String> [3.., null 3],
        /// The topics.
        topics: Vec<TxnOffsetCommitRequestTopic> [0..],
    }

    /// The offsets of one topic.
    struct TxnOffsetCommitRequestTopic {
        /// Its name.
        name: String [0..],
        /// Its partitions.
        partitions: Vec<TxnOffsetCommitRequestPartition> [0..],
    }

    /// The offset of one partition.
    struct TxnOffsetCommitRequestPartition {
        /// Its number.
        partition_index: i32 [0..],
        /// The next offset to read.
        committed_offset: i64 [0..],
        /// The leader epoch of the record before; -1 if not known.
        committed_leader_epoch: i32 [2.., default -1],
        /// Whatever the client wants to keep beside it.
        committed_metadata: Option<String> [0.., null 0],
    }

    /// What became of the offsets.
    struct TxnOffsetCommitResponse of TxnOffsetCommit {
        /// How long the client is to keep quiet.
        throttle_time_ms: i32 [0..],
        /// The topics, as OffsetCommit answers of those that were named by name.
        topics: Vec<OffsetCommitResponseTopic> [0..],
    }
}

impl TxnOffsetCommitRequest {
    /// Whether the request says which consumer commits. The coordinator can check only then: an
    /// older producer cannot say, and a newer one need not.
    pub fn names_a_member(&self) -> bool {
        !self.member_id.is_empty() || 0 <= self.generation_id || self.group_instance_id.is_some()
    }
}

impl TxnOffsetCommitRequestTopic {
    /// The answer when none of this topic's offsets could be committed.
    pub fn failed(&self, error: ErrorCode) -> OffsetCommitResponseTopic {
        let partitions = self.partitions.iter().map(|partition| partition.partition_index);
        OffsetCommitResponseTopic {
            name: self.name.clone(),
            partitions: PartitionError::each(partitions, error),
            ..OffsetCommitResponseTopic::default()
        }
    }
}

impl Request for TxnOffsetCommitRequest {
    type Response = TxnOffsetCommitResponse;

    fn error_response(&self, error: ErrorCode) -> TxnOffsetCommitResponse {
        TxnOffsetCommitResponse {
            topics: self.topics.iter().map(|topic| topic.failed(error)).collect(),
            ..TxnOffsetCommitResponse::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kafka::Message;
    use bytes::BytesMut;

    /// A consumer that lost its partitions while it worked must not commit for them: from version
    /// 3 the coordinator can see who it is. Before, it has to believe the producer.
    #[test]
    fn the_member_is_told_from_version_3() {
        let asked = TxnOffsetCommitRequest {
            generation_id: 4,
            member_id: "m".to_owned(),
            ..TxnOffsetCommitRequest::default()
        };
        for version in 0..=5 {
            let mut out = BytesMut::new();
            asked.encode(version, &mut out);
            let read = TxnOffsetCommitRequest::decode(version, &out).unwrap();
            assert_eq!(read.names_a_member(), GROUP_METADATA_FROM <= version);
        }
        assert!(!TxnOffsetCommitRequest::default().names_a_member());
    }
}
