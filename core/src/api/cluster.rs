//! ApiVersions, UpdateFeatures, DescribeCluster, DescribeQuorum: what this broker speaks, which
//! features are in force, who the nodes are and who decides for them.

use bytes::BytesMut;
use tidemill_net::kafka;
use tidemill_net::kafka::api_versions::{ApiVersionsRequest, ApiVersionsResponse, Feature};
use tidemill_net::kafka::describe_cluster::{
    DescribeClusterBroker, DescribeClusterRequest, DescribeClusterResponse, ENDPOINT_BROKERS,
};
use tidemill_net::kafka::describe_quorum::DescribeQuorumRequest;
use tidemill_net::kafka::update_features::{
    FeatureUpdateKey, UpdatableFeatureResult, UpdateFeaturesRequest, UpdateFeaturesResponse,
    upgrade_type,
};
use tidemill_net::kafka::{ErrorCode, Request};

use super::ReplyForm;
use super::acls::CLUSTER_OPERATIONS;
use crate::controller::Proposal;
use crate::limits::REQUEST_WAIT_MS_DEFAULT;
use crate::partition::Times;
use crate::shard::Shard;

/// The features of the cluster that this broker knows, and the level of each that is in force.
/// What is in force follows from the program alone.
///
/// Kafka's others are left out: `metadata.version` and `kraft.version` are about files that we do not
/// write, the rest about what is not there. No client makes its behaviour depend on them.
const FEATURES: &[Feature<'static>] = &[
    // Groups of the newer kind (KIP-848).
    Feature { name: "group.version", supported: (0, 1), finalized: 1 },
    // Share groups (KIP-932).
    Feature { name: "share.version", supported: (0, 1), finalized: 1 },
    // Transactions in which a batch makes its partition a part (KIP-890).
    Feature { name: "transaction.version", supported: (0, 2), finalized: 2 },
];

/// Clients look at features only if their epoch is above "unknown"; these never change.
const FEATURES_EPOCH: i64 = 0;

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
        let response = ApiVersionsResponse::advertise(reply.version, FEATURES, FEATURES_EPOCH);
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
        let mut response = DescribeClusterResponse {
            cluster_id: self.image.cluster().to_string(),
            controller_id: endpoints.node.0,
            brokers: vec![node],
            ..DescribeClusterResponse::default()
        };
        if request.include_cluster_authorized_operations {
            response.cluster_authorized_operations = CLUSTER_OPERATIONS;
        }
        self.reply_message(reply, &response);
    }

    /// The levels of features follow from the program: what asks for the level there is succeeds,
    /// anything else is refused.
    pub(crate) fn handle_update_features(
        &mut self,
        reply: ReplyForm,
        request: &UpdateFeaturesRequest,
    ) {
        let results = request.feature_updates.iter().map(|update| {
            let refused = refused_level(update, reply.version);
            let (error_code, error_message) = refused.unzip();
            UpdatableFeatureResult {
                feature: update.feature.clone(),
                error_code: error_code.unwrap_or(ErrorCode::None),
                error_message,
            }
        });
        let results: Vec<UpdatableFeatureResult> = results.collect();
        let mut response = UpdateFeaturesResponse { results, ..Default::default() };
        // From version 2 all changes are made or none, and the first refusal is the answer.
        let first = response.results.iter().find(|result| !result.error_code.is_none());
        if let Some(refused) = first.filter(|_| 2 <= reply.version) {
            response.error_code = refused.error_code;
            response.error_message = refused.error_message.clone();
        }
        self.reply_message(reply, &response);
    }

    /// Only the node that writes the metadata log knows where it stands.
    pub(crate) fn handle_describe_quorum(
        &mut self,
        reply: ReplyForm,
        request: DescribeQuorumRequest,
        times: Times,
    ) {
        self.change(reply, Proposal::Quorum(request), REQUEST_WAIT_MS_DEFAULT, times);
    }
}

fn refused_level(update: &FeatureUpdateKey, version: i16) -> Option<(ErrorCode, String)> {
    let FeatureUpdateKey { feature, max_version_level, .. } = update;
    let kind = update.upgrade_type_of(version);
    if !(upgrade_type::UPGRADE..=upgrade_type::UNSAFE_DOWNGRADE).contains(&kind) {
        let why = format!("there is no kind {kind} of changes of features");
        return Some((ErrorCode::InvalidUpdateVersion, why));
    }
    let Some(known) = FEATURES.iter().find(|known| known.name == feature) else {
        let why = format!("no feature {feature:?} is known to this broker");
        return Some((ErrorCode::InvalidUpdateVersion, why));
    };
    (*max_version_level != known.finalized).then(|| {
        let why = format!("{feature} is at level {} and cannot be changed", known.finalized);
        (ErrorCode::InvalidUpdateVersion, why)
    })
}
