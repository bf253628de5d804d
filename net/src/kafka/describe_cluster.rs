//! DescribeCluster: the nodes of the cluster, without its topics.

use super::message::messages;
use super::metadata::OPERATIONS_NOT_ASKED_FOR;
use super::{ErrorCode, Request};

/// The endpoints that clients use.
pub const ENDPOINT_BROKERS: i8 = 1;
/// The endpoints of the metadata quorum.
pub const ENDPOINT_CONTROLLERS: i8 = 2;

messages! {
    /// Asks for the nodes.
    struct DescribeClusterRequest of DescribeCluster {
        /// Whether to tell what the client may do with the cluster.
        include_cluster_authorized_operations: bool [0..],
        /// Which endpoints to tell.
        endpoint_type: i8 [1.., default ENDPOINT_BROKERS],
        /// Whether to tell also the nodes that are fenced.
        include_fenced_brokers: bool [2..],
    }

    /// The nodes.
    struct DescribeClusterResponse of DescribeCluster {
        /// How long the client is to keep quiet.
        throttle_time_ms: i32 [0..],
        /// How it ended.
        error_code: ErrorCode [0..],
        /// What went wrong, for people.
        error_message: Option<String> [0.., null 0],
        /// Which endpoints are told.
        endpoint_type: i8 [1.., default ENDPOINT_BROKERS],
        /// The name of the cluster.
        cluster_id: String [0..],
        /// Which of the nodes decides for the cluster.
        controller_id: i32 [0.., default -1],
        /// The nodes.
        brokers: Vec<DescribeClusterBroker> [0..],
        /// What the client may do with the cluster.
        cluster_authorized_operations: i32 [0.., default OPERATIONS_NOT_ASKED_FOR],
    }

    /// One node.
    struct DescribeClusterBroker {
        /// Its id.
        broker_id: i32 [0..],
        /// Host name or address.
        host: String [0..],
        /// Port.
        port: i32 [0..],
        /// Its rack.
        rack: Option<String> [0.., null 0],
        /// Whether it may not lead anything.
        is_fenced: bool [2..],
    }
}

impl Request for DescribeClusterRequest {
    type Response = DescribeClusterResponse;

    fn error_response(&self, error: ErrorCode) -> DescribeClusterResponse {
        DescribeClusterResponse {
            error_code: error,
            endpoint_type: self.endpoint_type,
            ..DescribeClusterResponse::default()
        }
    }
}
