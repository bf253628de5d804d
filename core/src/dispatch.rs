//! From a frame to the API it asks for.
//!
//! A request that cannot be understood ends its connection: an answer the client cannot read would
//! help nobody (Kafka does the same). The one exception is ApiVersions in a version we do not
//! speak, which is answered so that the client can choose another (KIP-511).

use bytes::BytesMut;
use tidemill_net::cursor::WireError;
use tidemill_net::kafka::{AnyRequest, ApiKey, HeaderError, RequestHeader, api_versions};
use tidemill_perf::{Kind, Stage};

use crate::api::ReplyForm;
use crate::connection::ReplySlot;
use crate::partition::Times;
use crate::shard::Shard;

/// Why a connection ends.
#[derive(Debug)]
pub enum DispatchError {
    /// The header says nothing we know.
    Header(HeaderError),
    /// The body is not what the header says.
    Body {
        /// Of which API.
        api_key: ApiKey,
        /// In which version.
        version: i16,
        /// Where it went wrong.
        error: WireError,
    },
}

impl std::fmt::Display for DispatchError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Header(error) => error.fmt(f),
            Self::Body { api_key, version, error } => {
                write!(f, "a damaged {} request, version {version}: {error}", api_key.api().name)
            }
        }
    }
}

impl std::error::Error for DispatchError {}

impl Shard {
    /// Answers a request, or begins to. `is_named` says that it is known what its client calls
    /// itself.
    pub(crate) fn dispatch(
        &mut self,
        slot: ReplySlot,
        is_named: bool,
        frame: BytesMut,
        times: Times,
    ) -> Result<(), DispatchError> {
        let header = match RequestHeader::parse_served(&frame) {
            Ok(header) => header,
            Err(HeaderError::UnsupportedVersion {
                api_key: ApiKey::ApiVersions,
                correlation_id,
                ..
            }) => {
                let mut out = BytesMut::new();
                api_versions::encode_unsupported_version(&mut out, correlation_id);
                self.reply(slot, None, vec![out.freeze()]);
                return Ok(());
            }
            Err(error) => return Err(DispatchError::Header(error)),
        };
        let RequestHeader { api_key, version, correlation_id, client_id, body_start } = header;
        self.measures.asked_for(api_key);
        if !is_named {
            self.note_client_id(slot, client_id);
        }
        let reply = ReplyForm { slot, version, correlation_id };
        if api_key == ApiKey::Produce {
            let body = split_body(frame, body_start);
            return self.handle_produce(reply, body, times).map_err(|error| DispatchError::Body {
                api_key,
                version,
                error,
            });
        }
        let request = AnyRequest::parse(api_key, version, &frame[body_start..])
            .map_err(|error| DispatchError::Body { api_key, version, error })?;
        if api_key != ApiKey::Fetch {
            let decoded = (Stage::Decode, self.stamp());
            self.note_request(slot, kind_of(api_key), None, [decoded]);
        }
        self.route(reply, request, client_id, times);
        Ok(())
    }

    fn route(
        &mut self,
        reply: ReplyForm,
        request: AnyRequest<'_>,
        client_id: Option<&str>,
        times: Times,
    ) {
        match request {
            AnyRequest::Produce(_) => unreachable!("handled with its frame"),
            AnyRequest::Fetch(request) => self.handle_fetch(reply, &request, times),
            AnyRequest::ListOffsets(request) => self.handle_list_offsets(reply, request, times),
            AnyRequest::Metadata(request) => self.handle_metadata(reply, request, times),
            AnyRequest::ApiVersions(request) => self.handle_api_versions(reply, &request),
            AnyRequest::CreateTopics(request) => self.handle_create_topics(reply, request, times),
            AnyRequest::DeleteTopics(request) => self.handle_delete_topics(reply, request, times),
            AnyRequest::DeleteRecords(request) => self.handle_delete_records(reply, request, times),
            AnyRequest::InitProducerId(request) => {
                self.handle_init_producer_id(reply, &request, times);
            }
            AnyRequest::OffsetForLeaderEpoch(request) => {
                self.handle_epoch_ends(reply, request, times);
            }
            AnyRequest::DescribeConfigs(request) => self.handle_describe_configs(reply, &request),
            AnyRequest::CreatePartitions(request) => {
                self.handle_create_partitions(reply, request, times)
            }
            AnyRequest::IncrementalAlterConfigs(request) => {
                self.handle_alter_configs(reply, request, times);
            }
            AnyRequest::AddPartitionsToTxn(request) => {
                self.handle_add_partitions(reply, request, times);
            }
            AnyRequest::AddOffsetsToTxn(request) => self.handle_add_offsets(reply, &request, times),
            AnyRequest::TxnOffsetCommit(request) => {
                self.handle_txn_offset_commit(reply, request, times);
            }
            AnyRequest::EndTxn(request) => self.handle_end_transaction(reply, &request, times),
            AnyRequest::DescribeTransactions(request) => {
                self.handle_describe_transactions(reply, request, times);
            }
            AnyRequest::ListTransactions(request) => {
                self.handle_list_transactions(reply, request, times);
            }
            AnyRequest::WriteTxnMarkers(request) => self.handle_markers(reply, request, times),
            AnyRequest::DescribeProducers(request) => {
                self.handle_describe_producers(reply, request, times);
            }
            AnyRequest::DescribeCluster(request) => self.handle_describe_cluster(reply, &request),
            AnyRequest::FindCoordinator(request) => {
                self.handle_find_coordinator(reply, request, times);
            }
            AnyRequest::JoinGroup(request) => {
                self.handle_join_group(reply, request, client_id, times);
            }
            AnyRequest::SyncGroup(request) => self.handle_sync_group(reply, request, times),
            AnyRequest::Heartbeat(request) => self.handle_heartbeat(reply, request, times),
            AnyRequest::LeaveGroup(request) => self.handle_leave_group(reply, request, times),
            AnyRequest::ListGroups(request) => self.handle_list_groups(reply, request, times),
            AnyRequest::DescribeGroups(request) => {
                self.handle_describe_groups(reply, request, times);
            }
            AnyRequest::DeleteGroups(request) => self.handle_delete_groups(reply, request, times),
            AnyRequest::ConsumerGroupHeartbeat(request) => {
                self.handle_consumer_group_heartbeat(reply, request, client_id, times);
            }
            AnyRequest::ConsumerGroupDescribe(request) => {
                self.handle_consumer_group_describe(reply, request, times);
            }
            AnyRequest::ShareGroupHeartbeat(request) => {
                self.handle_share_group_heartbeat(reply, request, client_id, times);
            }
            AnyRequest::ShareGroupDescribe(request) => {
                self.handle_share_group_describe(reply, request, times);
            }
            AnyRequest::ShareFetch(request) => self.handle_share_fetch(reply, request, times),
            AnyRequest::ShareAcknowledge(request) => {
                self.handle_share_acknowledge(reply, request, times);
            }
            AnyRequest::DescribeShareGroupOffsets(request) => {
                self.handle_describe_share_offsets(reply, request, times);
            }
            AnyRequest::AlterShareGroupOffsets(request) => {
                self.handle_alter_share_offsets(reply, request, times);
            }
            AnyRequest::DeleteShareGroupOffsets(request) => {
                self.handle_delete_share_offsets(reply, request, times);
            }
            AnyRequest::OffsetCommit(request) => self.handle_offset_commit(reply, request, times),
            AnyRequest::OffsetFetch(request) => self.handle_offset_fetch(reply, request, times),
            AnyRequest::OffsetDelete(request) => self.handle_offset_delete(reply, request, times),
            AnyRequest::AlterConfigs(request) => {
                self.handle_replace_configs(reply, request, times);
            }
            AnyRequest::ListConfigResources(request) => {
                self.handle_list_config_resources(reply, &request);
            }
            AnyRequest::DescribeTopicPartitions(request) => {
                self.handle_describe_topic_partitions(reply, &request);
            }
            AnyRequest::DescribeLogDirs(request) => {
                self.handle_describe_log_dirs(reply, &request, times);
            }
            AnyRequest::DescribeAcls(request) => self.handle_describe_acls(reply, &request),
            AnyRequest::CreateAcls(request) => self.handle_create_acls(reply, &request),
            AnyRequest::DeleteAcls(request) => self.handle_delete_acls(reply, &request),
            AnyRequest::ElectLeaders(request) => self.handle_elect_leaders(reply, &request),
            AnyRequest::AlterPartitionReassignments(request) => {
                self.handle_alter_reassignments(reply, &request);
            }
            AnyRequest::ListPartitionReassignments(request) => {
                self.handle_list_reassignments(reply, &request);
            }
            AnyRequest::DescribeQuorum(request) => {
                self.handle_describe_quorum(reply, request, times);
            }
            AnyRequest::DescribeClientQuotas(request) => {
                self.handle_describe_quotas(reply, &request);
            }
            AnyRequest::AlterClientQuotas(request) => {
                self.handle_alter_quotas(reply, request, times);
            }
            AnyRequest::DescribeUserScramCredentials(request) => {
                self.handle_describe_credentials(reply, request);
            }
            AnyRequest::AlterUserScramCredentials(request) => {
                self.handle_alter_credentials(reply, &request);
            }
            AnyRequest::UpdateFeatures(request) => self.handle_update_features(reply, &request),
        }
    }
}

/// The frame without its header, in the same memory.
fn split_body(mut frame: BytesMut, body_start: usize) -> BytesMut {
    frame.split_off(body_start)
}

/// What a request asks for, where its API says so.
fn kind_of(api: ApiKey) -> Kind {
    match api {
        ApiKey::JoinGroup
        | ApiKey::SyncGroup
        | ApiKey::Heartbeat
        | ApiKey::LeaveGroup
        | ApiKey::OffsetCommit
        | ApiKey::OffsetFetch
        | ApiKey::ConsumerGroupHeartbeat
        | ApiKey::ShareGroupHeartbeat
        | ApiKey::ShareAcknowledge => Kind::Group,
        ApiKey::ShareFetch => Kind::Fetch,
        ApiKey::InitProducerId
        | ApiKey::AddPartitionsToTxn
        | ApiKey::AddOffsetsToTxn
        | ApiKey::TxnOffsetCommit
        | ApiKey::EndTxn => Kind::Transaction,
        _ => Kind::Other,
    }
}
