//! Metadata: which topics there are, who leads their partitions and where to reach them.
//!
//! Answered from this shard's own image of the cluster. The leader of a partition is told as the
//! endpoint of its home shard, so that clients talk straight to the core that owns it; replicas
//! and ISR are told as nodes. Unknown topics are made first if the broker and the request allow it
//! (never by Produce, Fetch or ListOffsets).

use std::collections::{HashMap, HashSet};

use tidemill_net::kafka::ErrorCode;
use tidemill_net::kafka::create_topics::{CreatableTopic, CreateTopicsRequest};
use tidemill_net::kafka::metadata::{
    MetadataRequest, MetadataRequestTopic, MetadataResponse, MetadataResponseBroker,
    MetadataResponsePartition, MetadataResponseTopic,
};
use tidemill_record::{PartitionId, TopicId, TopicPartition};
use tidemill_replication::controller::{check_topic_name, is_internal};
use tidemill_replication::metadata::Topic;

use super::acls::{CLUSTER_OPERATIONS, TOPIC_OPERATIONS};
use super::{Job, ReplyForm, deadline_of};
use crate::controller::{Outcome, Proposal};
use crate::limits::REQUEST_WAIT_MS_DEFAULT;
use crate::partition::Times;
use crate::shard::Shard;

/// Below this version a request cannot forbid the making of topics, and means to allow it.
const AUTO_CREATE_IN_REQUEST_FROM: i16 = 4;

/// Topics are asked for by their ids from here on, whatever name is beside them.
const IDS_FROM: i16 = 12;

/// A request whose unknown topics are being made.
pub struct AutoCreate {
    reply: ReplyForm,
    request: MetadataRequest,
}

impl Shard {
    pub(crate) fn handle_metadata(
        &mut self,
        reply: ReplyForm,
        mut request: MetadataRequest,
        times: Times,
    ) {
        if IDS_FROM <= reply.version {
            // Java's client says an empty name beside an id.
            let by_id = request.topics.iter_mut().flatten().filter(|one| !one.topic_id.is_zero());
            by_id.for_each(|one| one.name = None);
        }
        let allowed = self.settings.config.auto_create_topics
            && (reply.version < AUTO_CREATE_IN_REQUEST_FROM || request.allow_auto_topic_creation);
        let missing = if allowed { self.missing_topics(&request) } else { Vec::new() };
        if missing.is_empty() {
            let response = self.metadata_response(reply.version, &request, &HashMap::new());
            return self.reply_message(reply, &response);
        }
        let topics = missing.into_iter().map(|name| CreatableTopic {
            name,
            num_partitions: -1,
            replication_factor: -1,
            ..CreatableTopic::default()
        });
        let proposal = Proposal::CreateTopics(CreateTopicsRequest {
            topics: topics.collect(),
            ..CreateTopicsRequest::default()
        });
        let job = self.jobs.insert(Job::AutoCreate(Box::new(AutoCreate { reply, request })));
        self.jobs.set_deadline(job, deadline_of(REQUEST_WAIT_MS_DEFAULT, times));
        let request_bytes = self.measured(reply.slot).map_or(0, |measured| measured.size_bytes);
        self.propose(job, proposal, request_bytes, times);
    }

    /// Names asked for that no topic has, but one could have.
    fn missing_topics(&self, request: &MetadataRequest) -> Vec<String> {
        let mut seen = HashSet::new();
        let names = request.topics.iter().flatten().filter_map(|topic| topic.name.as_deref());
        names
            .filter(|name| check_topic_name(name).is_ok() && !is_internal(name))
            .filter(|name| self.image.topic_named(name).is_none())
            .filter(|name| seen.insert(*name))
            .map(str::to_owned)
            .collect()
    }

    pub(super) fn finish_auto_create(&mut self, create: AutoCreate, outcome: Outcome) {
        let AutoCreate { reply, request } = create;
        let Outcome::CreateTopics(created) = outcome else {
            unreachable!("topics were to be made");
        };
        let failures: HashMap<String, ErrorCode> = created
            .topics
            .into_iter()
            .filter(|topic| topic.error_code != ErrorCode::None)
            .map(|topic| (topic.name, topic.error_code))
            .collect();
        let response = self.metadata_response(reply.version, &request, &failures);
        self.reply_message(reply, &response);
    }

    /// The topics take long to be made. They are told as unknown, so that the client asks again.
    pub(super) fn auto_create_expired(&mut self, create: AutoCreate) {
        let AutoCreate { reply, request } = create;
        let response = self.metadata_response(reply.version, &request, &HashMap::new());
        self.reply_message(reply, &response);
    }

    fn metadata_response(
        &self,
        version: i16,
        request: &MetadataRequest,
        failures: &HashMap<String, ErrorCode>,
    ) -> MetadataResponse {
        let brokers = self.settings.endpoints.all().map(|endpoint| MetadataResponseBroker {
            node_id: endpoint.id,
            host: endpoint.host.to_owned(),
            port: i32::from(endpoint.port),
            rack: endpoint.rack.map(str::to_owned),
        });
        // Null asks for all topics; version 0 has no null and asks with an empty list.
        let topics = match &request.topics {
            Some(topics) if 0 < version || !topics.is_empty() => {
                // Each once, or a small request could ask for an answer of any size.
                let mut seen = HashSet::new();
                topics
                    .iter()
                    .filter(|topic| match topic.name.as_deref() {
                        // Before ids were asked for, one beside a name makes no difference.
                        Some(name) => seen.insert((Some(name), TopicId::ZERO)),
                        None => seen.insert((None, topic.topic_id)),
                    })
                    .map(|topic| self.describe_named(topic, failures))
                    .collect()
            }
            _ => self.image.topics().map(|topic| self.describe_topic(topic)).collect(),
        };
        let mut response = MetadataResponse {
            brokers: brokers.collect(),
            cluster_id: Some(self.image.cluster().to_string()),
            controller_id: self.settings.endpoints.node.0,
            topics,
            ..MetadataResponse::default()
        };
        if request.include_cluster_authorized_operations {
            response.cluster_authorized_operations = CLUSTER_OPERATIONS;
        }
        if request.include_topic_authorized_operations {
            let known = response.topics.iter_mut().filter(|topic| topic.error_code.is_none());
            known.for_each(|topic| topic.topic_authorized_operations = TOPIC_OPERATIONS);
        }
        response
    }

    fn describe_named(
        &self,
        asked: &MetadataRequestTopic,
        failures: &HashMap<String, ErrorCode>,
    ) -> MetadataResponseTopic {
        let failed = |error_code| MetadataResponseTopic {
            error_code,
            name: asked.name.clone(),
            topic_id: asked.topic_id,
            ..MetadataResponseTopic::default()
        };
        if let Some(name) = asked.name.as_deref() {
            if let Some(topic) = self.image.topic_named(name) {
                return self.describe_topic(topic);
            }
            if check_topic_name(name).is_err() {
                return failed(ErrorCode::InvalidTopicException);
            }
            let error = match failures.get(name) {
                Some(ErrorCode::TopicAlreadyExists) | None => ErrorCode::UnknownTopicOrPartition,
                Some(error) => *error,
            };
            return failed(error);
        }
        match self.image.topic(asked.topic_id) {
            Some(topic) => self.describe_topic(topic),
            None => failed(ErrorCode::UnknownTopicId),
        }
    }

    fn describe_topic(&self, topic: &Topic) -> MetadataResponseTopic {
        let partitions = topic.partitions.iter().enumerate().map(|(number, partition)| {
            let number = number as i32;
            let id = TopicPartition { topic: topic.id, partition: PartitionId(number) };
            let replicas: Vec<i32> = partition.replicas.iter().map(|node| node.0).collect();
            MetadataResponsePartition {
                error_code: ErrorCode::None,
                partition_index: number,
                leader_id: self.settings.endpoints.leader(id, self.settings.shards),
                leader_epoch: self.image.leader_epoch_of(partition).0,
                isr_nodes: replicas.clone(),
                replica_nodes: replicas,
                offline_replicas: Vec::new(),
            }
        });
        MetadataResponseTopic {
            name: Some(topic.name.to_string()),
            topic_id: topic.id,
            is_internal: is_internal(&topic.name),
            partitions: partitions.collect(),
            ..MetadataResponseTopic::default()
        }
    }
}
