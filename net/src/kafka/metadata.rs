//! Metadata: the nodes, the topics, and who leads their partitions.

use super::message::messages;
use super::{ErrorCode, Request};
use tidemill_record::TopicId;

/// What stands for a set of allowed operations that nobody asked for.
pub const OPERATIONS_NOT_ASKED_FOR: i32 = i32::MIN;

messages! {
    /// Asks for topics, all or some, and always for the nodes.
    struct MetadataRequest of Metadata {
        /// The topics. Null asks for all, and so does an empty list in version 0; from version 1
        /// an empty list asks for none.
        topics: Option<Vec<MetadataRequestTopic>> [0.., null 1],
        /// Whether a topic that is not there may be created; before version 4 it always may.
        allow_auto_topic_creation: bool [4.., default true],
        /// Whether to tell what the client may do with the cluster.
        include_cluster_authorized_operations: bool [8..=10],
        /// Whether to tell what the client may do with each topic.
        include_topic_authorized_operations: bool [8..],
    }

    /// One topic asked for, by name or by id.
    struct MetadataRequestTopic {
        /// Its id; zero if it is asked for by name.
        topic_id: TopicId [10..],
        /// Its name; null if it is asked for by id.
        name: Option<String> [0.., null 10],
    }

    /// The nodes and the topics.
    struct MetadataResponse of Metadata {
        /// How long the client is to keep quiet.
        throttle_time_ms: i32 [3..],
        /// Whom clients can connect to.
        brokers: Vec<MetadataResponseBroker> [0..],
        /// The name of the cluster.
        cluster_id: Option<String> [2.., null 2],
        /// Which of the brokers decides for the cluster.
        controller_id: i32 [1.., default -1],
        /// The topics.
        topics: Vec<MetadataResponseTopic> [0..],
        /// What the client may do with the cluster.
        cluster_authorized_operations: i32 [8..=10, default OPERATIONS_NOT_ASKED_FOR],
        /// An error with the whole request (KIP-1102).
        error_code: ErrorCode [13..],
    }

    /// Somebody to connect to.
    struct MetadataResponseBroker {
        /// The id leaders are named by.
        node_id: i32 [0..],
        /// Host name or address.
        host: String [0..],
        /// Port.
        port: i32 [0..],
        /// Its rack.
        rack: Option<String> [1.., null 1],
    }

    /// One topic.
    struct MetadataResponseTopic {
        /// Whether it could be described.
        error_code: ErrorCode [0..],
        /// Its name; null if it was asked for by an id that is unknown.
        name: Option<String> [0.., null 12],
        /// Its id; zero if it was asked for by a name that is unknown.
        topic_id: TopicId [10..],
        /// Whether it belongs to the broker itself.
        is_internal: bool [1..],
        /// Its partitions.
        partitions: Vec<MetadataResponsePartition> [0..],
        /// What the client may do with it.
        topic_authorized_operations: i32 [8.., default OPERATIONS_NOT_ASKED_FOR],
    }

    /// One partition.
    struct MetadataResponsePartition {
        /// Whether it can be used.
        error_code: ErrorCode [0..],
        /// Its number.
        partition_index: i32 [0..],
        /// Whom to produce to and fetch from; -1 for nobody.
        leader_id: i32 [0..],
        /// The leader's epoch. A client ignores what has a lower one than it knows.
        leader_epoch: i32 [7.., default -1],
        /// The nodes that are to hold a replica.
        replica_nodes: Vec<i32> [0..],
        /// Those of them that have everything committed.
        isr_nodes: Vec<i32> [0..],
        /// Those of them that cannot be reached.
        offline_replicas: Vec<i32> [5..],
    }
}

impl Request for MetadataRequest {
    type Response = MetadataResponse;

    fn error_response(&self, error: ErrorCode) -> MetadataResponse {
        let failed = |topic: &MetadataRequestTopic| MetadataResponseTopic {
            error_code: error,
            name: topic.name.clone(),
            topic_id: topic.topic_id,
            ..MetadataResponseTopic::default()
        };
        MetadataResponse {
            topics: self.topics.iter().flatten().map(failed).collect(),
            error_code: error,
            ..MetadataResponse::default()
        }
    }
}
