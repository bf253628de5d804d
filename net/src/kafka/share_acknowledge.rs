//! ShareAcknowledge: what became of records that a member of a share group was given (KIP-932).

use super::message::messages;
use super::{ErrorCode, Request};
use tidemill_record::TopicId;

/// What became of a record.
pub mod acknowledge_type {
    /// There is no record at this offset.
    pub const GAP: i8 = 0;
    /// It was dealt with.
    pub const ACCEPT: i8 = 1;
    /// It may be given to somebody again.
    pub const RELEASE: i8 = 2;
    /// It cannot be dealt with, and must not be given again.
    pub const REJECT: i8 = 3;
    /// It takes longer; nobody else may have it yet (from version 2, KIP-1222).
    pub const RENEW: i8 = 4;
}

/// The session epoch of a request that opens a session; ShareAcknowledge cannot open one.
pub const INITIAL_EPOCH: i32 = 0;
/// The session epoch of a request that closes its session.
pub const FINAL_EPOCH: i32 = -1;

messages! {
    /// Tells what became of records.
    struct ShareAcknowledgeRequest of ShareAcknowledge {
        /// The group.
        group_id: Option<String> [0.., null 0],
        /// The member.
        member_id: Option<String> [0.., null 0],
        /// The step of the session; see [`FINAL_EPOCH`].
        share_session_epoch: i32 [0..],
        /// Whether it asks for more time for any record.
        is_renew_ack: bool [2..],
        /// The topics.
        topics: Vec<AcknowledgeTopic> [0..],
    }

    /// The records of one topic.
    struct AcknowledgeTopic {
        /// Its id.
        topic_id: TopicId [0..],
        /// Its partitions.
        partitions: Vec<AcknowledgePartition> [0..],
    }

    /// The records of one partition.
    struct AcknowledgePartition {
        /// Its number.
        partition_index: i32 [0..],
        /// The records, in ascending order of their offsets.
        acknowledgement_batches: Vec<AcknowledgementBatch> [0..],
    }

    /// Records that follow each other.
    struct AcknowledgementBatch {
        /// The first one's offset.
        first_offset: i64 [0..],
        /// The last one's offset.
        last_offset: i64 [0..],
        /// What became of each; one entry for all if it is the same. See [`acknowledge_type`].
        acknowledge_types: Vec<i8> [0..],
    }

    /// Whether that was noted.
    struct ShareAcknowledgeResponse of ShareAcknowledge {
        /// How long the client is to keep quiet.
        throttle_time_ms: i32 [0..],
        /// An error with the request as a whole.
        error_code: ErrorCode [0..],
        /// What went wrong, for people.
        error_message: Option<String> [0.., null 0],
        /// For how long nobody else gets records that were given to a member.
        acquisition_lock_timeout_ms: i32 [2..],
        /// The topics.
        responses: Vec<AcknowledgeTopicResponse> [0..],
        /// Where the leaders named in the partitions are.
        node_endpoints: Vec<LeaderEndpoint> [0..],
    }

    /// Whether one topic's records were noted.
    struct AcknowledgeTopicResponse {
        /// Its id.
        topic_id: TopicId [0..],
        /// Its partitions.
        partitions: Vec<AcknowledgePartitionResponse> [0..],
    }

    /// Whether one partition's records were noted.
    struct AcknowledgePartitionResponse {
        /// Its number.
        partition_index: i32 [0..],
        /// How it ended.
        error_code: ErrorCode [0..],
        /// What went wrong, for people.
        error_message: Option<String> [0.., null 0],
        /// Who leads, if the error says that it is not us; otherwise it means nothing.
        current_leader: LeaderIdAndEpoch [0..],
    }

    /// Who leads a partition.
    struct LeaderIdAndEpoch {
        /// The leader; -1 if there is nothing to say.
        leader_id: i32 [0.., default -1],
        /// The leader's epoch; -1 if there is nothing to say.
        leader_epoch: i32 [0.., default -1],
    }

    /// Where a leader is.
    struct LeaderEndpoint {
        /// The node.
        node_id: i32 [0..],
        /// Host name or address.
        host: String [0..],
        /// Port.
        port: i32 [0..],
        /// Its rack.
        rack: Option<String> [0.., null 0],
    }
}

impl AcknowledgementBatch {
    /// Whether it says something of each of its records, or one thing of all of them.
    pub fn is_valid(&self) -> bool {
        let span = self.last_offset.checked_sub(self.first_offset);
        let Some(records) =
            span.filter(|_| 0 <= self.first_offset).and_then(|it| it.checked_add(1))
        else {
            return false;
        };
        let known = acknowledge_type::GAP..=acknowledge_type::RENEW;
        let told = self.acknowledge_types.len();
        0 < records
            && (told == 1 || i64::try_from(told) == Ok(records))
            && self.acknowledge_types.iter().all(|kind| known.contains(kind))
    }
}

impl Request for ShareAcknowledgeRequest {
    type Response = ShareAcknowledgeResponse;

    /// The error is the whole answer: Kafka names no partitions beside one.
    fn error_response(&self, error: ErrorCode) -> ShareAcknowledgeResponse {
        ShareAcknowledgeResponse { error_code: error, ..ShareAcknowledgeResponse::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A list that is longer or shorter than its records would shift what is said to records it
    /// was not meant for; offsets at the edges must not overflow.
    #[test]
    fn a_batch_tells_of_each_record_or_of_all() {
        let batch = |first_offset, last_offset, types: &[i8]| AcknowledgementBatch {
            first_offset,
            last_offset,
            acknowledge_types: types.to_vec(),
        };
        assert!(batch(5, 7, &[1, 2, 0]).is_valid());
        assert!(batch(5, 7, &[1]).is_valid());
        assert!(batch(0, i64::MAX - 1, &[4]).is_valid());
        for bad in [
            batch(5, 7, &[]),
            batch(5, 7, &[1, 2]),
            batch(7, 5, &[1]),
            batch(-1, 5, &[1]),
            batch(5, 5, &[5]),
            batch(5, 5, &[-1]),
            batch(0, i64::MAX, &[1]),
            batch(i64::MIN, i64::MAX, &[1]),
        ] {
            assert!(!bad.is_valid(), "{bad:?}");
        }
    }
}
