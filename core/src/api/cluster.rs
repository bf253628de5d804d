//! ApiVersions and DescribeCluster: what this broker speaks and who the nodes are.

use bytes::BytesMut;
use tidemill_net::kafka;
use tidemill_net::kafka::api_versions::{ApiVersionsRequest, ApiVersionsResponse};
use tidemill_net::kafka::describe_cluster::{
    DescribeClusterBroker, DescribeClusterRequest, DescribeClusterResponse, ENDPOINT_BROKERS,
};
use tidemill_net::kafka::{ErrorCode, Request};

use super::ReplyForm;
use crate::shard::Shard;

impl Shard {
    pub(crate) fn handle_api_versions(&mut self, reply: ReplyForm, request: &ApiVersionsRequest) {
        if !request.is_valid(reply.version) {
            let response = request.error_response(ErrorCode::InvalidRequest);
            return self.reply_message(reply, &response);
        }
        if let Some(connection) = self.connection_mut(reply.slot.connection)
            && connection.software.is_none()
        {
            let name = &request.client_software_name;
            connection.software = Some(format!("{name} {}", request.client_software_version));
        }
        let response = ApiVersionsResponse::advertise(reply.version, &[], -1);
        let mut out = BytesMut::new();
        kafka::encode_response(&mut out, reply.version, reply.correlation_id, &response);
        self.reply_bytes(reply, out.freeze());
    }

    pub(crate) fn handle_describe_cluster(
        &mut self,
        reply: ReplyForm,
        request: &DescribeClusterRequest,
    ) {
        if request.endpoint_type != ENDPOINT_BROKERS {
            // There are no controllers of their own: every node is a broker.
            let error = ErrorCode::UnsupportedEndpointType;
            return self.reply_message(reply, &request.error_response(error));
        }
        // This API speaks of nodes: one node, whatever the number of its endpoints.
        let endpoints = &self.settings.endpoints;
        let node = DescribeClusterBroker {
            broker_id: endpoints.node.0,
            host: endpoints.host.clone(),
            port: i32::from(endpoints.port),
            rack: endpoints.rack.clone(),
            is_fenced: false,
        };
        let response = DescribeClusterResponse {
            cluster_id: self.image.cluster().to_string(),
            controller_id: endpoints.node.0,
            brokers: vec![node],
            ..DescribeClusterResponse::default()
        };
        self.reply_message(reply, &response);
    }
}
