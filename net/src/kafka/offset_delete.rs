//! OffsetDelete: committed offsets that a group gives up.
//!
//! Its only version is 0, in the older form: it was never made flexible, though it is younger
//! than flexible versions are.

use super::message::messages;
use super::topic_partitions::{PartitionError, TopicErrors};
use super::{ErrorCode, Request};

messages! {
    /// Names the offsets.
    struct OffsetDeleteRequest of OffsetDelete {
        /// The group.
        group_id: String [0..],
        /// The topics.
        topics: Vec<OffsetDeleteRequestTopic> [0..],
    }

    /// One topic.
    struct OffsetDeleteRequestTopic {
        /// Its name.
        name: String [0..],
        /// Its partitions.
        partitions: Vec<OffsetDeleteRequestPartition> [0..],
    }

    /// One partition.
    struct OffsetDeleteRequestPartition {
        /// Its number.
        partition_index: i32 [0..],
    }

    /// What became of the offsets.
    struct OffsetDeleteResponse of OffsetDelete {
        /// How it ended, for all of them.
        error_code: ErrorCode [0..],
        /// How long the client is to keep quiet.
        throttle_time_ms: i32 [0..],
        /// The topics.
        topics: Vec<TopicErrors> [0..],
    }
}

impl OffsetDeleteRequestTopic {
    /// The answer when none of this topic's offsets could be deleted.
    pub fn failed(&self, error: ErrorCode) -> TopicErrors {
        let partitions = self.partitions.iter().map(|partition| partition.partition_index);
        TopicErrors {
            topic: self.name.clone(),
            partitions: PartitionError::each(partitions, error),
        }
    }
}

impl Request for OffsetDeleteRequest {
    type Response = OffsetDeleteResponse;

    /// The error is the whole answer: Kafka names no topics beside one, and its clients stop
    /// reading there.
    fn error_response(&self, error: ErrorCode) -> OffsetDeleteResponse {
        OffsetDeleteResponse { error_code: error, ..OffsetDeleteResponse::default() }
    }
}

#[cfg(test)]
mod tests {
    use crate::kafka::{ApiKey, NEVER};

    /// Everything else of its age is flexible; compact lengths here would be read as damage.
    #[test]
    fn offset_delete_was_never_flexible() {
        assert_eq!(ApiKey::OffsetDelete.api().flexible_from, NEVER);
        assert!(!ApiKey::OffsetDelete.form(0).unwrap().flexible);
        assert!(ApiKey::OffsetDelete.form(1).is_none());
    }
}
