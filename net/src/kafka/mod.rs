//! Kafka's protocol: which APIs we know, in which versions, and which of them are served.
//!
//! A frame, behind its length, is a header and a body:
//!
//! ```text
//! request    | api key: i16 | version: i16 | correlation id: i32 | client id | tags* | body
//! response   | correlation id: i32 | tags* | body                 * flexible versions only
//! ```
//!
//! [`APIS`] is the one table of what can be read and written, and of what is served.
//! [`RequestHeader`] reads the header, [`AnyRequest`] the body. [`produce`] and [`fetch`] are walked
//! in place, without a copy and without an allocation, and so is the response of [`share_fetch`];
//! every other message is one declaration in a file of its own (see [`message`]), named in
//! [`declared_messages`](crate::declared_messages).

#[cfg(test)]
mod differential;
mod error;
mod header;
pub mod message;
mod parts;
mod topic;
pub mod topic_partitions;

pub mod api_versions;
pub mod fetch;
pub mod produce;
pub mod share_fetch;

pub mod acl;
pub mod add_offsets_to_txn;
pub mod add_partitions_to_txn;
pub mod alter_client_quotas;
pub mod alter_configs;
pub mod alter_partition_reassignments;
pub mod alter_share_group_offsets;
pub mod alter_user_scram_credentials;
pub mod consumer_group_describe;
pub mod consumer_group_heartbeat;
pub mod consumer_protocol;
pub mod create_acls;
pub mod create_partitions;
pub mod create_topics;
pub mod delete_acls;
pub mod delete_groups;
pub mod delete_records;
pub mod delete_share_group_offsets;
pub mod delete_topics;
pub mod describe_acls;
pub mod describe_client_quotas;
pub mod describe_cluster;
pub mod describe_configs;
pub mod describe_groups;
pub mod describe_log_dirs;
pub mod describe_producers;
pub mod describe_quorum;
pub mod describe_share_group_offsets;
pub mod describe_topic_partitions;
pub mod describe_transactions;
pub mod describe_user_scram_credentials;
pub mod elect_leaders;
pub mod end_txn;
pub mod find_coordinator;
pub mod heartbeat;
pub mod init_producer_id;
pub mod join_group;
pub mod leave_group;
pub mod list_config_resources;
pub mod list_groups;
pub mod list_offsets;
pub mod list_partition_reassignments;
pub mod list_transactions;
pub mod metadata;
pub mod offset_commit;
pub mod offset_delete;
pub mod offset_fetch;
pub mod offset_for_leader_epoch;
pub mod share_acknowledge;
pub mod share_group_describe;
pub mod share_group_heartbeat;
pub mod sync_group;
pub mod txn_offset_commit;
pub mod update_features;
pub mod write_txn_markers;

pub use error::ErrorCode;
pub use header::{HeaderError, RequestHeader, parse_response_header, write_response_header};
pub use message::{Message, Request};
pub use topic::{ByTopic, LeaderHint, NodeEndpoint, OfTopic, PartitionWire, TopicRef};

use crate::cursor::{Form, WireError, Writer};
use crate::frame::{begin_frame, end_frame};
use bytes::BytesMut;

/// One API: its number, the versions we know, and whether the broker answers it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Api {
    /// Which one.
    pub key: ApiKey,
    /// The name in Kafka's documentation.
    pub name: &'static str,
    /// The lowest version we tell clients of.
    pub advertised_min: i16,
    /// The lowest version that gets what it asks for. Below it, down to `advertised_min`, requests
    /// are understood and answered with an error.
    pub served_min: i16,
    /// The highest version.
    pub max: i16,
    /// The lowest version with compact lengths and tagged fields; [`NEVER`] if there is none.
    pub flexible_from: i16,
    /// Whether the broker tells clients of it and answers it. What is not served can be read and
    /// written all the same.
    pub served: bool,
}

/// No version at all.
pub const NEVER: i16 = i16::MAX;

/// The words of the table for [`Api::served`].
macro_rules! is_served {
    (served) => {
        true
    };
    (known) => {
        false
    };
}

macro_rules! apis {
    ($(
        $(#[$meta:meta])*
        $key:ident = $number:literal, $advertised_min:literal, $served_min:literal, $max:literal,
        $flexible_from:expr, $served:ident;
    )*) => {
        /// The APIs we know, by their number on the wire.
        #[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
        #[repr(i16)]
        pub enum ApiKey {
            $( $(#[$meta])* $key = $number, )*
        }

        /// All we know, in the order of their numbers. What is not [`Api::served`] is neither
        /// advertised nor answered.
        pub const APIS: &[Api] = &[$( ApiKey::$key.api(), )*];

        impl ApiKey {
            /// The API with this number, if we know it.
            pub fn from_wire(number: i16) -> Option<ApiKey> {
                match number {
                    $( $number => Some(ApiKey::$key), )*
                    _ => None,
                }
            }

            /// What the table says of this API.
            pub const fn api(self) -> Api {
                match self {
                    $( ApiKey::$key => Api {
                        key: ApiKey::$key,
                        name: stringify!($key),
                        advertised_min: $advertised_min,
                        served_min: $served_min,
                        max: $max,
                        flexible_from: $flexible_from,
                        served: is_served!($served),
                    }, )*
                }
            }
        }
    };
}

apis! {
    // number, advertised from, served from, up to, flexible from: Kafka 4.3's own ranges. Then
    // whether the broker serves it, or only the codec knows it.

    /// Records to append. Versions 0 to 2 carry old message formats, which nobody sends any more;
    /// but librdkafka before 2.11 leaves compression out if they are not advertised.
    Produce = 0, 0, 3, 13, 9, served;
    /// Records to read, waiting for them if there are none.
    Fetch = 1, 4, 4, 18, 12, served;
    /// First and last offsets, and offsets by time.
    ListOffsets = 2, 1, 1, 11, 6, served;
    /// Nodes, topics, leaders.
    Metadata = 3, 0, 0, 13, 9, served;
    /// Where a group's members have read to.
    OffsetCommit = 8, 2, 2, 10, 8, served;
    /// Where a group's members left off.
    OffsetFetch = 9, 1, 1, 10, 6, served;
    /// Who looks after a group or a transaction.
    FindCoordinator = 10, 0, 0, 6, 3, served;
    /// A member asks to be one. Version 0 is what librdkafka before 2.11 looks for.
    JoinGroup = 11, 0, 0, 9, 6, served;
    /// A member says that it lives.
    Heartbeat = 12, 0, 0, 4, 4, served;
    /// Members that go.
    LeaveGroup = 13, 0, 0, 5, 4, served;
    /// What each member of a group is to read.
    SyncGroup = 14, 0, 0, 5, 4, served;
    /// Groups and their members.
    DescribeGroups = 15, 0, 0, 6, 5, served;
    /// Which groups there are.
    ListGroups = 16, 0, 0, 5, 3, served;
    /// Which APIs and versions the broker speaks.
    ApiVersions = 18, 0, 0, 4, 3, served;
    /// New topics.
    CreateTopics = 19, 2, 2, 7, 5, served;
    /// Topics to delete.
    DeleteTopics = 20, 1, 1, 6, 4, served;
    /// Records to trim from the start of partitions.
    DeleteRecords = 21, 0, 0, 2, 2, served;
    /// A number for a producer that wants no duplicates.
    InitProducerId = 22, 0, 0, 5, 2, served;
    /// Where leader epochs end.
    OffsetForLeaderEpoch = 23, 2, 2, 4, 4, served;
    /// Which partitions a transaction writes to. Versions from 4 come from brokers.
    AddPartitionsToTxn = 24, 0, 0, 5, 3, served;
    /// For which group a transaction commits offsets.
    AddOffsetsToTxn = 25, 0, 0, 4, 3, served;
    /// A transaction is committed or aborted.
    EndTxn = 26, 0, 0, 5, 3, served;
    /// Leaders are told how transactions ended.
    WriteTxnMarkers = 27, 1, 1, 2, 1, served;
    /// Where a group's members have read to, once a transaction is committed.
    TxnOffsetCommit = 28, 0, 0, 5, 3, served;
    /// Access rules.
    DescribeAcls = 29, 1, 1, 3, 2, served;
    /// New access rules.
    CreateAcls = 30, 1, 1, 3, 2, served;
    /// Access rules to delete.
    DeleteAcls = 31, 1, 1, 3, 2, served;
    /// Settings of topics and nodes.
    DescribeConfigs = 32, 1, 1, 4, 4, served;
    /// New settings in place of all that were.
    AlterConfigs = 33, 0, 0, 2, 2, served;
    /// How much of its disks each partition takes.
    DescribeLogDirs = 35, 1, 1, 5, 2, served;
    /// More partitions for a topic.
    CreatePartitions = 37, 0, 0, 3, 2, served;
    /// Groups to delete.
    DeleteGroups = 42, 0, 0, 2, 2, served;
    /// Other replicas are to lead.
    ElectLeaders = 43, 0, 0, 2, 2, served;
    /// Changes of settings, one by one.
    IncrementalAlterConfigs = 44, 0, 0, 1, 1, served;
    /// Replicas are to move to other nodes.
    AlterPartitionReassignments = 45, 0, 0, 1, 0, served;
    /// Replicas on their way to other nodes.
    ListPartitionReassignments = 46, 0, 0, 0, 0, served;
    /// Committed offsets to delete. Its one version was never made flexible.
    OffsetDelete = 47, 0, 0, 0, NEVER, served;
    /// How much clients may do.
    DescribeClientQuotas = 48, 0, 0, 1, 1, served;
    /// Clients may do more or less.
    AlterClientQuotas = 49, 0, 0, 1, 1, served;
    /// Which users have passwords.
    DescribeUserScramCredentials = 50, 0, 0, 0, 0, served;
    /// Users get, change and lose passwords.
    AlterUserScramCredentials = 51, 0, 0, 0, 0, served;
    /// Who votes on the cluster's metadata.
    DescribeQuorum = 55, 0, 0, 2, 0, served;
    /// Other levels of the cluster's features.
    UpdateFeatures = 57, 0, 0, 2, 0, served;
    /// The nodes of the cluster.
    DescribeCluster = 60, 0, 0, 2, 0, served;
    /// What partitions know of their producers.
    DescribeProducers = 61, 0, 0, 0, 0, served;
    /// Transactions.
    DescribeTransactions = 65, 0, 0, 0, 0, served;
    /// Which transactions there are.
    ListTransactions = 66, 0, 0, 2, 0, served;
    /// A member of a group of the newer kind says what has changed, and learns what to read.
    ConsumerGroupHeartbeat = 68, 0, 0, 1, 0, served;
    /// Groups of the newer kind and their members.
    ConsumerGroupDescribe = 69, 0, 0, 1, 0, served;
    /// What has settings of its own.
    ListConfigResources = 74, 0, 0, 1, 0, served;
    /// Topics and their partitions, some at a time.
    DescribeTopicPartitions = 75, 0, 0, 0, 0, served;
    /// A member of a share group says what has changed, and learns what to read.
    ShareGroupHeartbeat = 76, 1, 1, 1, 0, served;
    /// Share groups and their members.
    ShareGroupDescribe = 77, 1, 1, 1, 0, served;
    /// Records for a member of a share group, and what became of earlier ones.
    ShareFetch = 78, 1, 1, 2, 0, served;
    /// What became of records that a member of a share group got.
    ShareAcknowledge = 79, 1, 1, 2, 0, served;
    /// Where share groups begin to read.
    DescribeShareGroupOffsets = 90, 0, 0, 1, 0, served;
    /// Share groups are to begin elsewhere.
    AlterShareGroupOffsets = 91, 0, 0, 0, 0, served;
    /// Share groups forget topics.
    DeleteShareGroupOffsets = 92, 0, 0, 0, 0, served;
}

impl ApiKey {
    /// The number on the wire.
    pub const fn to_wire(self) -> i16 {
        self as i16
    }

    /// How `version` of this API is written; `None` if we do not know that version.
    pub fn form(self, version: i16) -> Option<Form> {
        let api = self.api();
        let known = api.advertised_min <= version && version <= api.max;
        known.then_some(Form { version, flexible: api.flexible_from <= version })
    }

    /// Whether the response's header ends with tagged fields. ApiVersions never has them, so that
    /// a client can read the answer before it knows what the broker speaks (KIP-511).
    fn tags_in_response_header(self, version: i16) -> bool {
        self != ApiKey::ApiVersions && self.api().flexible_from <= version
    }
}

/// Appends a whole request frame to `out`: length, header, body.
pub fn encode_request<R: Request>(
    out: &mut BytesMut,
    version: i16,
    correlation_id: i32,
    client_id: Option<&str>,
    request: &R,
) {
    let frame = begin_frame(out);
    RequestHeader::write(&mut Writer::new(out), R::API, version, correlation_id, client_id);
    request.encode(version, out);
    end_frame(out, frame, 0);
}

/// Appends a whole response frame to `out`: length, header, body.
pub fn encode_response<M: Message>(
    out: &mut BytesMut,
    version: i16,
    correlation_id: i32,
    response: &M,
) {
    let frame = begin_frame(out);
    write_response_header(&mut Writer::new(out), M::API, version, correlation_id);
    response.encode(version, out);
    end_frame(out, frame, 0);
}

/// Reads a whole response frame, without its length: the correlation id and the message.
pub fn decode_response<M: Message>(version: i16, frame: &[u8]) -> Result<(i32, M), WireError> {
    let (correlation_id, body_start) = parse_response_header(M::API, version, frame)?;
    Ok((correlation_id, M::decode(version, &frame[body_start..])?))
}

/// Hands the list of all messages that are one declaration to a macro, so that nobody keeps a
/// second list. Each row is an API, its module, its request and its response. What carries records
/// is missing: [`produce`](crate::kafka::produce), [`fetch`](crate::kafka::fetch) and
/// [`share_fetch`](crate::kafka::share_fetch).
#[macro_export]
macro_rules! declared_messages {
    ($then:ident) => {
        $then! {
            ListOffsets: list_offsets::(ListOffsetsRequest, ListOffsetsResponse);
            Metadata: metadata::(MetadataRequest, MetadataResponse);
            OffsetCommit: offset_commit::(OffsetCommitRequest, OffsetCommitResponse);
            OffsetFetch: offset_fetch::(OffsetFetchRequest, OffsetFetchResponse);
            FindCoordinator: find_coordinator::(FindCoordinatorRequest, FindCoordinatorResponse);
            JoinGroup: join_group::(JoinGroupRequest, JoinGroupResponse);
            Heartbeat: heartbeat::(HeartbeatRequest, HeartbeatResponse);
            LeaveGroup: leave_group::(LeaveGroupRequest, LeaveGroupResponse);
            SyncGroup: sync_group::(SyncGroupRequest, SyncGroupResponse);
            DescribeGroups: describe_groups::(DescribeGroupsRequest, DescribeGroupsResponse);
            ListGroups: list_groups::(ListGroupsRequest, ListGroupsResponse);
            ApiVersions: api_versions::(ApiVersionsRequest, ApiVersionsResponse);
            CreateTopics: create_topics::(CreateTopicsRequest, CreateTopicsResponse);
            DeleteTopics: delete_topics::(DeleteTopicsRequest, DeleteTopicsResponse);
            DeleteRecords: delete_records::(DeleteRecordsRequest, DeleteRecordsResponse);
            InitProducerId: init_producer_id::(InitProducerIdRequest, InitProducerIdResponse);
            OffsetForLeaderEpoch: offset_for_leader_epoch::(
                OffsetForLeaderEpochRequest, OffsetForLeaderEpochResponse);
            AddPartitionsToTxn: add_partitions_to_txn::(
                AddPartitionsToTxnRequest, AddPartitionsToTxnResponse);
            AddOffsetsToTxn: add_offsets_to_txn::(AddOffsetsToTxnRequest, AddOffsetsToTxnResponse);
            EndTxn: end_txn::(EndTxnRequest, EndTxnResponse);
            WriteTxnMarkers: write_txn_markers::(WriteTxnMarkersRequest, WriteTxnMarkersResponse);
            TxnOffsetCommit: txn_offset_commit::(TxnOffsetCommitRequest, TxnOffsetCommitResponse);
            DescribeAcls: describe_acls::(DescribeAclsRequest, DescribeAclsResponse);
            CreateAcls: create_acls::(CreateAclsRequest, CreateAclsResponse);
            DeleteAcls: delete_acls::(DeleteAclsRequest, DeleteAclsResponse);
            DescribeConfigs: describe_configs::(DescribeConfigsRequest, DescribeConfigsResponse);
            AlterConfigs: alter_configs::(AlterConfigsRequest, AlterConfigsResponse);
            DescribeLogDirs: describe_log_dirs::(DescribeLogDirsRequest, DescribeLogDirsResponse);
            CreatePartitions: create_partitions::(
                CreatePartitionsRequest, CreatePartitionsResponse);
            DeleteGroups: delete_groups::(DeleteGroupsRequest, DeleteGroupsResponse);
            ElectLeaders: elect_leaders::(ElectLeadersRequest, ElectLeadersResponse);
            IncrementalAlterConfigs: alter_configs::(
                IncrementalAlterConfigsRequest, IncrementalAlterConfigsResponse);
            AlterPartitionReassignments: alter_partition_reassignments::(
                AlterPartitionReassignmentsRequest, AlterPartitionReassignmentsResponse);
            ListPartitionReassignments: list_partition_reassignments::(
                ListPartitionReassignmentsRequest, ListPartitionReassignmentsResponse);
            OffsetDelete: offset_delete::(OffsetDeleteRequest, OffsetDeleteResponse);
            DescribeClientQuotas: describe_client_quotas::(
                DescribeClientQuotasRequest, DescribeClientQuotasResponse);
            AlterClientQuotas: alter_client_quotas::(
                AlterClientQuotasRequest, AlterClientQuotasResponse);
            DescribeUserScramCredentials: describe_user_scram_credentials::(
                DescribeUserScramCredentialsRequest, DescribeUserScramCredentialsResponse);
            AlterUserScramCredentials: alter_user_scram_credentials::(
                AlterUserScramCredentialsRequest, AlterUserScramCredentialsResponse);
            DescribeQuorum: describe_quorum::(DescribeQuorumRequest, DescribeQuorumResponse);
            UpdateFeatures: update_features::(UpdateFeaturesRequest, UpdateFeaturesResponse);
            DescribeCluster: describe_cluster::(DescribeClusterRequest, DescribeClusterResponse);
            DescribeProducers: describe_producers::(
                DescribeProducersRequest, DescribeProducersResponse);
            DescribeTransactions: describe_transactions::(
                DescribeTransactionsRequest, DescribeTransactionsResponse);
            ListTransactions: list_transactions::(
                ListTransactionsRequest, ListTransactionsResponse);
            ConsumerGroupHeartbeat: consumer_group_heartbeat::(
                ConsumerGroupHeartbeatRequest, ConsumerGroupHeartbeatResponse);
            ConsumerGroupDescribe: consumer_group_describe::(
                ConsumerGroupDescribeRequest, ConsumerGroupDescribeResponse);
            ListConfigResources: list_config_resources::(
                ListConfigResourcesRequest, ListConfigResourcesResponse);
            DescribeTopicPartitions: describe_topic_partitions::(
                DescribeTopicPartitionsRequest, DescribeTopicPartitionsResponse);
            ShareGroupHeartbeat: share_group_heartbeat::(
                ShareGroupHeartbeatRequest, ShareGroupHeartbeatResponse);
            ShareGroupDescribe: share_group_describe::(
                ShareGroupDescribeRequest, ShareGroupDescribeResponse);
            ShareAcknowledge: share_acknowledge::(
                ShareAcknowledgeRequest, ShareAcknowledgeResponse);
            DescribeShareGroupOffsets: describe_share_group_offsets::(
                DescribeShareGroupOffsetsRequest, DescribeShareGroupOffsetsResponse);
            AlterShareGroupOffsets: alter_share_group_offsets::(
                AlterShareGroupOffsetsRequest, AlterShareGroupOffsetsResponse);
            DeleteShareGroupOffsets: delete_share_group_offsets::(
                DeleteShareGroupOffsetsRequest, DeleteShareGroupOffsetsResponse);
        }
    };
}

macro_rules! any_request {
    ($($api:ident: $module:ident::($request:ident, $response:ident);)*) => {
        /// The body of any request that we know.
        #[derive(Clone, Debug)]
        pub enum AnyRequest<'a> {
            /// See [`produce::ProduceRequest`].
            Produce(produce::ProduceRequest<'a>),
            /// See [`fetch::FetchRequest`].
            Fetch(fetch::FetchRequest<'a>),
            /// See [`share_fetch::ShareFetchRequest`].
            ShareFetch(share_fetch::ShareFetchRequest),
            $(
                #[doc = concat!(
                    "See [`", stringify!($module), "::", stringify!($request), "`]."
                )]
                $api($module::$request),
            )*
        }

        impl<'a> AnyRequest<'a> {
            /// Reads the body of a request, whole, before any of it is acted upon.
            pub fn parse(
                api_key: ApiKey,
                version: i16,
                body: &'a [u8],
            ) -> Result<AnyRequest<'a>, WireError> {
                match api_key {
                    ApiKey::Produce => {
                        produce::ProduceRequest::parse(version, body).map(AnyRequest::Produce)
                    }
                    ApiKey::Fetch => {
                        fetch::FetchRequest::parse(version, body).map(AnyRequest::Fetch)
                    }
                    ApiKey::ShareFetch => share_fetch::ShareFetchRequest::decode(version, body)
                        .map(AnyRequest::ShareFetch),
                    $(
                        ApiKey::$api => {
                            $module::$request::decode(version, body).map(AnyRequest::$api)
                        }
                    )*
                }
            }
        }
    };
}

declared_messages!(any_request);

#[cfg(test)]
mod tests {
    use super::*;

    /// The table is what it says of itself, and in the order a client may rely on.
    #[test]
    fn the_table_of_versions_is_consistent() {
        for pair in APIS.windows(2) {
            assert!(pair[0].key.to_wire() < pair[1].key.to_wire());
        }
        for api in APIS {
            assert_eq!(ApiKey::from_wire(api.key.to_wire()), Some(api.key));
            assert_eq!(api.key.api(), *api);
            assert!(0 <= api.advertised_min && api.advertised_min <= api.served_min);
            assert!(api.served_min <= api.max && api.max < NEVER);
        }
    }

    /// Some clients send versions without a look at what is advertised (kafka-go), or look for the
    /// very version they have in mind and give up a feature without it (librdkafka before 2.12).
    #[test]
    fn versions_that_clients_insist_on_are_known() {
        let insisted: &[(ApiKey, &[i16])] = &[
            (ApiKey::Produce, &[0, 2, 3, 7]),
            (ApiKey::Fetch, &[4, 5, 10, 11, 12]),
            (ApiKey::ListOffsets, &[1]),
            (ApiKey::Metadata, &[1, 6]),
            (ApiKey::OffsetCommit, &[2, 9]),
            (ApiKey::OffsetFetch, &[1, 9]),
            (ApiKey::FindCoordinator, &[0]),
            (ApiKey::JoinGroup, &[0, 1, 2]),
            (ApiKey::Heartbeat, &[0]),
            (ApiKey::LeaveGroup, &[0]),
            (ApiKey::SyncGroup, &[0]),
            (ApiKey::ListGroups, &[1]),
            (ApiKey::ApiVersions, &[0]),
            (ApiKey::InitProducerId, &[0]),
            (ApiKey::OffsetForLeaderEpoch, &[2]),
            (ApiKey::AddPartitionsToTxn, &[0]),
            (ApiKey::EndTxn, &[1]),
            (ApiKey::ConsumerGroupHeartbeat, &[1]),
            (ApiKey::ShareFetch, &[1, 2]),
            (ApiKey::ShareAcknowledge, &[1, 2]),
        ];
        for (key, versions) in insisted {
            for &version in *versions {
                assert!(key.form(version).is_some(), "{} {version}", key.api().name);
            }
        }
    }
}
