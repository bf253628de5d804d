//! OffsetCommit: how far a group, or a consumer of its own, has read.

use super::message::messages;
use super::topic_partitions::PartitionError;
use super::{ErrorCode, Request};
use tidemill_record::TopicId;

/// The generation of a consumer that is in no group's rebalances, such as one that was assigned
/// its partitions by hand. Its member id is empty.
pub const NO_GENERATION: i32 = -1;
/// From here on topics are named by their ids.
pub const BY_ID_FROM: i16 = 10;

messages! {
    /// Commits offsets.
    struct OffsetCommitRequest of OffsetCommit {
        /// The group.
        group_id: String [0..],
        /// The generation the member belongs to, or its epoch if it speaks the newer protocol
        /// (KIP-848); [`NO_GENERATION`] for neither.
        generation_id_or_member_epoch: i32 [1.., default NO_GENERATION],
        /// The member; empty for none.
        member_id: String [1..],
        /// Its name, if it is a static member.
        group_instance_id: Option<String> [7.., null 7],
        /// How long the offsets are to be kept; -1 for as long as the broker keeps any.
        retention_time_ms: i64 [2..=4, default -1],
        /// The topics.
        topics: Vec<OffsetCommitRequestTopic> [0..],
    }

    /// The offsets of one topic.
    struct OffsetCommitRequestTopic {
        /// Its name.
        name: String [0..=9],
        /// Its id.
        topic_id: TopicId [10..],
        /// Its partitions.
        partitions: Vec<OffsetCommitRequestPartition> [0..],
    }

    /// The offset of one partition.
    struct OffsetCommitRequestPartition {
        /// Its number.
        partition_index: i32 [0..],
        /// The next offset to read.
        committed_offset: i64 [0..],
        /// The leader epoch of the record before; -1 if not known. To be kept and told again, so
        /// that the reader notices a log that was cut.
        committed_leader_epoch: i32 [6.., default -1],
        /// Whatever the client wants to keep beside it.
        committed_metadata: Option<String> [0.., null 0],
    }

    /// What became of the offsets.
    struct OffsetCommitResponse of OffsetCommit {
        /// How long the client is to keep quiet.
        throttle_time_ms: i32 [3..],
        /// The topics.
        topics: Vec<OffsetCommitResponseTopic> [0..],
    }

    /// What became of one topic's offsets.
    struct OffsetCommitResponseTopic {
        /// Its name.
        name: String [0..=9],
        /// Its id.
        topic_id: TopicId [10..],
        /// Its partitions.
        partitions: Vec<PartitionError> [0..],
    }
}

impl OffsetCommitRequestTopic {
    /// The answer when none of this topic's offsets could be committed.
    pub fn failed(&self, error: ErrorCode) -> OffsetCommitResponseTopic {
        let partitions = self.partitions.iter().map(|partition| partition.partition_index);
        OffsetCommitResponseTopic {
            name: self.name.clone(),
            topic_id: self.topic_id,
            partitions: PartitionError::each(partitions, error),
        }
    }
}

impl Request for OffsetCommitRequest {
    type Response = OffsetCommitResponse;

    fn error_response(&self, error: ErrorCode) -> OffsetCommitResponse {
        OffsetCommitResponse {
            topics: self.topics.iter().map(|topic| topic.failed(error)).collect(),
            ..OffsetCommitResponse::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kafka::Message;
    use bytes::BytesMut;

    fn received(version: i16) -> OffsetCommitRequest {
        let asked = OffsetCommitRequest {
            group_id: "g".to_owned(),
            topics: vec![OffsetCommitRequestTopic {
                name: "t".to_owned(),
                topic_id: TopicId([7; 16]),
                partitions: vec![OffsetCommitRequestPartition {
                    partition_index: 3,
                    committed_offset: 42,
                    committed_leader_epoch: 5,
                    committed_metadata: Some("mine".to_owned()),
                }],
            }],
            ..OffsetCommitRequest::default()
        };
        let mut out = BytesMut::new();
        asked.encode(version, &mut out);
        OffsetCommitRequest::decode(version, &out).unwrap()
    }

    /// The epoch and the metadata come back from OffsetFetch as they were given, so they must get
    /// as far as the coordinator, in every version that has them.
    #[test]
    fn the_leader_epoch_and_the_metadata_arrive() {
        for version in 2..=10 {
            let partition = received(version).topics[0].partitions[0].clone();
            assert_eq!(partition.committed_metadata.as_deref(), Some("mine"));
            assert_eq!(partition.committed_leader_epoch, if version < 6 { -1 } else { 5 });
        }
    }

    /// A topic that was deleted and created again has another id: from version 10 a late commit
    /// cannot hit the new one, and the answer names the topic as the request did.
    #[test]
    fn topics_are_named_by_id_from_version_10() {
        let by_name = received(BY_ID_FROM - 1);
        assert_eq!(
            (&by_name.topics[0].name[..], by_name.topics[0].topic_id.is_zero()),
            ("t", true)
        );
        let by_id = received(BY_ID_FROM);
        assert_eq!(by_id.topics[0].topic_id, TopicId([7; 16]));
        let refused = by_id.error_response(ErrorCode::UnknownTopicId);
        assert_eq!(refused.topics[0].topic_id, TopicId([7; 16]));
        assert_eq!(refused.topics[0].partitions[0].partition_index, 3);
    }
}
