//! DescribeQuorum: who votes on the cluster's metadata, and how far each voter has got.

use super::message::messages;
use super::{ErrorCode, Request};
use tidemill_record::TopicId;

/// The name under which clients ask for the metadata quorum's log. Its one partition is 0.
pub const METADATA_TOPIC: &str = "__cluster_metadata";

messages! {
    /// Asks about the quorum.
    struct DescribeQuorumRequest of DescribeQuorum {
        /// The logs: [`METADATA_TOPIC`], partition 0.
        topics: Vec<QuorumTopic> [0..],
    }

    /// One log.
    struct QuorumTopic {
        /// Its name.
        topic_name: String [0..],
        /// Its partitions.
        partitions: Vec<QuorumPartition> [0..],
    }

    /// One partition.
    struct QuorumPartition {
        /// Its number.
        partition_index: i32 [0..],
    }

    /// The quorum.
    struct DescribeQuorumResponse of DescribeQuorum {
        /// How it ended.
        error_code: ErrorCode [0..],
        /// What went wrong, for people.
        error_message: Option<String> [2.., null 2],
        /// The logs.
        topics: Vec<DescribedQuorumTopic> [0..],
        /// Where the voters and observers are.
        nodes: Vec<QuorumNode> [2..],
    }

    /// The state of one log.
    struct DescribedQuorumTopic {
        /// Its name.
        topic_name: String [0..],
        /// Its partitions.
        partitions: Vec<DescribedQuorumPartition> [0..],
    }

    /// The state of one partition.
    struct DescribedQuorumPartition {
        /// Its number.
        partition_index: i32 [0..],
        /// How it ended.
        error_code: ErrorCode [0..],
        /// What went wrong, for people.
        error_message: Option<String> [2.., null 2],
        /// Who leads; -1 if nobody is known to.
        leader_id: i32 [0..],
        /// The leader's epoch.
        leader_epoch: i32 [0..],
        /// A majority has what lies below.
        high_watermark: i64 [0..],
        /// Who votes.
        current_voters: Vec<QuorumReplica> [0..],
        /// Who only follows.
        observers: Vec<QuorumReplica> [0..],
    }

    /// How far one node has got.
    struct QuorumReplica {
        /// The node.
        replica_id: i32 [0..],
        /// The directory of its log.
        replica_directory_id: TopicId [2..],
        /// The end of its log; -1 if not known.
        log_end_offset: i64 [0..],
        /// When it last fetched, by the leader's clock; -1 if not known.
        last_fetch_timestamp: i64 [1.., default -1],
        /// When it last had all the leader had; -1 if not known.
        last_caught_up_timestamp: i64 [1.., default -1],
    }

    /// Where one node is.
    struct QuorumNode {
        /// The node.
        node_id: i32 [2..],
        /// Where it listens for others of the quorum.
        listeners: Vec<QuorumListener> [2..],
    }

    /// One place where a node listens.
    struct QuorumListener {
        /// Its name.
        name: String [2..],
        /// Host name or address.
        host: String [2..],
        /// Port.
        port: u16 [2..],
    }
}

impl Request for DescribeQuorumRequest {
    type Response = DescribeQuorumResponse;

    fn error_response(&self, error: ErrorCode) -> DescribeQuorumResponse {
        DescribeQuorumResponse { error_code: error, ..DescribeQuorumResponse::default() }
    }
}
