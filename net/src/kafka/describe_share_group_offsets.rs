//! DescribeShareGroupOffsets: where share groups begin to read, and how far they are behind.

use super::message::messages;
use super::topic_partitions::TopicPartitions;
use super::{ErrorCode, Request};
use tidemill_record::TopicId;

messages! {
    /// Asks about groups.
    struct DescribeShareGroupOffsetsRequest of DescribeShareGroupOffsets {
        /// The groups.
        groups: Vec<ShareGroupToDescribe> [0..],
    }

    /// One group.
    struct ShareGroupToDescribe {
        /// Its name.
        group_id: String [0..],
        /// The partitions; null for all it reads.
        topics: Option<Vec<TopicPartitions>> [0.., null 0],
    }

    /// The groups.
    struct DescribeShareGroupOffsetsResponse of DescribeShareGroupOffsets {
        /// How long the client is to keep quiet.
        throttle_time_ms: i32 [0..],
        /// One answer for each group.
        groups: Vec<ShareGroupOffsets> [0..],
    }

    /// One group.
    struct ShareGroupOffsets {
        /// Its name.
        group_id: String [0..],
        /// The topics.
        topics: Vec<ShareGroupTopicOffsets> [0..],
        /// How it ended for the whole group.
        error_code: ErrorCode [0..],
        /// What went wrong, for people.
        error_message: Option<String> [0.., null 0],
    }

    /// One topic.
    struct ShareGroupTopicOffsets {
        /// Its name.
        topic_name: String [0..],
        /// Its id.
        topic_id: TopicId [0..],
        /// Its partitions.
        partitions: Vec<ShareGroupPartitionOffset> [0..],
    }

    /// One partition.
    struct ShareGroupPartitionOffset {
        /// Its number.
        partition_index: i32 [0..],
        /// Everything below has been dealt with; -1 if it is not known yet.
        start_offset: i64 [0.., default -1],
        /// The leader's epoch.
        leader_epoch: i32 [0..],
        /// How many records are left to deal with; -1 if not known (KIP-1226).
        lag: i64 [1.., default -1],
        /// How it ended.
        error_code: ErrorCode [0..],
        /// What went wrong, for people.
        error_message: Option<String> [0.., null 0],
    }
}

impl ShareGroupOffsets {
    /// Nothing can be said about this group.
    pub fn failed(group_id: String, error: ErrorCode) -> ShareGroupOffsets {
        ShareGroupOffsets { group_id, error_code: error, ..ShareGroupOffsets::default() }
    }
}

impl Request for DescribeShareGroupOffsetsRequest {
    type Response = DescribeShareGroupOffsetsResponse;

    fn error_response(&self, error: ErrorCode) -> DescribeShareGroupOffsetsResponse {
        let groups = self.groups.iter().map(|group| group.group_id.clone());
        DescribeShareGroupOffsetsResponse {
            groups: groups.map(|group| ShareGroupOffsets::failed(group, error)).collect(),
            ..DescribeShareGroupOffsetsResponse::default()
        }
    }
}
