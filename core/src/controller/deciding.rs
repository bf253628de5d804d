//! What a proposal comes to: the records that make the change, and what its asker is told.

use std::collections::{HashMap, HashSet};

use tidemill_net::kafka::ErrorCode;
use tidemill_net::kafka::alter_configs::{
    AlterConfigsRequest, AlterConfigsResource, AlterConfigsResourceResponse, AlterConfigsResponse,
    IncrementalAlterConfigsRequest, IncrementalAlterConfigsResponse, ReplaceConfigsResource,
};
use tidemill_net::kafka::create_partitions::{
    CreatePartitionsRequest, CreatePartitionsResponse, CreatePartitionsTopicResult,
};
use tidemill_net::kafka::create_topics::{
    CreatableTopic, CreatableTopicConfigs, CreatableTopicResult, CreateTopicsRequest,
    CreateTopicsResponse,
};
use tidemill_net::kafka::delete_topics::{
    DeletableTopicResult, DeleteTopicState, DeleteTopicsRequest, DeleteTopicsResponse,
};
use tidemill_net::kafka::describe_configs::resource;
use tidemill_net::kafka::describe_quorum::{
    DescribeQuorumRequest, DescribeQuorumResponse, DescribedQuorumPartition, DescribedQuorumTopic,
    METADATA_TOPIC, QuorumNode, QuorumReplica,
};
use tidemill_record::{NodeId, TopicId};
use tidemill_replication::config::describe_topic;
use tidemill_replication::controller::{
    self as decisions, ConfigChange, ConfigOperation, CreateTopic, Defaults, Error,
};
use tidemill_replication::metadata::{Image, Record, Resource};

use crate::limits::{GROUP_NAME_BYTES_MAX, OFFSETS_BATCH_BYTES_MAX};
use crate::placement;
use crate::shard::Shard;
use crate::topic_rules;

use super::{Controller, Outcome, Proposal, code};

impl Shard {
    pub(super) fn decide(
        &self,
        controller: &mut Controller,
        proposal: &Proposal,
    ) -> (Vec<Record>, Outcome) {
        match proposal {
            Proposal::CreateTopics(request) => self.decide_create_topics(controller, request),
            Proposal::DeleteTopics(request) => decide_delete_topics(&self.image, request),
            Proposal::CreatePartitions(request) => {
                decide_create_partitions(&self.image, &controller.defaults, request)
            }
            Proposal::AlterConfigs(request) => self.decide_alter_configs(request),
            Proposal::ReplaceConfigs(request) => self.decide_replace_configs(request),
            Proposal::Quotas(request) => crate::api::quotas::decide(&self.image, request),
            Proposal::Quorum(request) => (Vec::new(), self.describe_quorum(controller, request)),
            Proposal::ProducerIds => {
                let record = decisions::decide_producer_ids(&self.image);
                let Record::ProducerIdsGranted { first, count } = record else {
                    unreachable!("that is what was asked for");
                };
                (vec![record], Outcome::ProducerIds(Ok(first..first + count)))
            }
            Proposal::OffsetsTopic => {
                self.decide_internal_topic(controller, decisions::OFFSETS_TOPIC)
            }
            Proposal::TransactionsTopic => {
                self.decide_internal_topic(controller, decisions::TRANSACTIONS_TOPIC)
            }
            Proposal::ShareStateTopic => {
                self.decide_internal_topic(controller, decisions::SHARE_STATE_TOPIC)
            }
        }
    }

    /// A topic of the brokers' own, with Kafka's configs.
    fn decide_internal_topic(
        &self,
        controller: &mut Controller,
        name: &str,
    ) -> (Vec<Record>, Outcome) {
        let (groups, transactions) =
            (&self.settings.config.groups, &self.settings.config.transactions);
        let (partitions, replicas, segment_bytes) = match name {
            decisions::TRANSACTIONS_TOPIC => (
                transactions.topic_partitions,
                transactions.topic_replicas,
                transactions.topic_segment_bytes,
            ),
            // Share groups' is cut as that of other groups.
            _ => (groups.topic_partitions, groups.topic_replicas, groups.topic_segment_bytes),
        };
        let request = CreateTopic {
            name: name.to_owned(),
            partitions: partitions as i32,
            replication_factor: replicas as i16,
            ..CreateTopic::default()
        };
        // What share groups have read is written as changes, of which the last alone says nothing;
        // its coordinator drops what is not needed any more.
        let is_of_changes = name == decisions::SHARE_STATE_TOPIC;
        let policy = if is_of_changes { "delete" } else { "compact" };
        let configs = [
            ("cleanup.policy", policy.to_owned()),
            ("retention.ms", "-1".to_owned()),
            ("compression.type", "producer".to_owned()),
            ("max.message.bytes", OFFSETS_BATCH_BYTES_MAX.to_string()),
            ("segment.bytes", segment_bytes.to_string()),
            // What was told to clients is on disk, whatever other topics do.
            ("tidemill.durability", "durable".to_owned()),
        ];
        let configs = configs.map(|(name, value)| (name.to_owned(), value)).into();
        let seed = u128::from_be_bytes(controller.random.uuid());
        let defaults = &controller.defaults;
        match decisions::decide_internal_topic(&self.image, &request, configs, defaults, seed) {
            Ok(record) => (vec![record], Outcome::InternalTopic(ErrorCode::None)),
            Err(Error::TopicExists(_)) => (Vec::new(), Outcome::InternalTopic(ErrorCode::None)),
            Err(error) => {
                tracing::warn!(topic = name, %error, "a topic of the broker's own cannot be made");
                (Vec::new(), Outcome::InternalTopic(code(&error)))
            }
        }
    }

    fn decide_create_topics(
        &self,
        controller: &mut Controller,
        request: &CreateTopicsRequest,
    ) -> (Vec<Record>, Outcome) {
        let topics: Vec<CreateTopic> = request.topics.iter().map(create_topic).collect();
        let seed = u128::from_be_bytes(controller.random.uuid());
        let decided =
            decisions::decide_create_topics(&self.image, &topics, &controller.defaults, seed);
        let mut records = Vec::new();
        let mut results = Vec::new();
        // What is named twice is refused both times, and told of once.
        let mut told = HashSet::new();
        let decided = topics.iter().zip(decided);
        for (topic, decision) in decided.filter(|(topic, _)| told.insert(topic.name.as_str())) {
            match decision {
                Ok(record) => {
                    results.push(self.created(&record));
                    records.push(record);
                }
                Err(error) => results.push(CreatableTopicResult {
                    name: topic.name.clone(),
                    error_code: code(&error),
                    error_message: Some(error.to_string()),
                    ..CreatableTopicResult::default()
                }),
            }
        }
        if request.validate_only {
            records.clear();
        }
        let response = CreateTopicsResponse { topics: results, ..CreateTopicsResponse::default() };
        (records, Outcome::CreateTopics(response))
    }

    /// What the client is told of a topic that is made; null configs would crash Java clients.
    fn created(&self, record: &Record) -> CreatableTopicResult {
        let Record::TopicCreated { id, name, partitions, configs } = record else {
            unreachable!("that is what was decided");
        };
        let configs = configs.iter().cloned().collect();
        let layers = topic_rules::layers(&self.settings, &self.image, &configs);
        let told = describe_topic(&layers).into_iter().map(|config| CreatableTopicConfigs {
            name: config.name,
            value: Some(config.value),
            read_only: config.is_read_only,
            config_source: config.source as i8,
            is_sensitive: false,
        });
        CreatableTopicResult {
            name: name.clone(),
            topic_id: *id,
            num_partitions: partitions.len() as i32,
            replication_factor: partitions.first().map_or(0, Vec::len) as i16,
            configs: Some(told.collect()),
            ..CreatableTopicResult::default()
        }
    }

    fn decide_alter_configs(
        &self,
        request: &IncrementalAlterConfigsRequest,
    ) -> (Vec<Record>, Outcome) {
        let named = |asked: &AlterConfigsResource| Named {
            kind: asked.resource_type,
            name: asked.resource_name.clone(),
        };
        let names: Vec<Named> = request.resources.iter().map(named).collect();
        let mut all = request.resources.iter();
        let (records, responses) = self.alter_each(names, request.validate_only, |resource| {
            let changes = changes(all.next().expect("one for each"))?;
            let file = &self.settings.file_configs;
            decisions::decide_alter_configs(&self.image, &resource?, &changes, file)
        });
        let response = IncrementalAlterConfigsResponse { responses, ..Default::default() };
        (records, Outcome::AlterConfigs(response))
    }

    /// The older way to change configs: what is not named goes back to its default.
    fn decide_replace_configs(&self, request: &AlterConfigsRequest) -> (Vec<Record>, Outcome) {
        let named = |asked: &ReplaceConfigsResource| Named {
            kind: asked.resource_type,
            name: asked.resource_name.clone(),
        };
        let names: Vec<Named> = request.resources.iter().map(named).collect();
        let mut all = request.resources.iter();
        let (records, responses) = self.alter_each(names, request.validate_only, |resource| {
            let asked = all.next().expect("one for each");
            let configs = asked.configs.iter().map(|c| (c.name.clone(), c.value.clone()));
            let configs: Vec<_> = configs.collect();
            let file = &self.settings.file_configs;
            decisions::decide_replace_configs(&self.image, &resource?, &configs, file)
        });
        let response = AlterConfigsResponse { responses, ..Default::default() };
        (records, Outcome::ReplaceConfigs(response))
    }

    /// Decides for each of the resources named, in their order; one that is named twice is refused
    /// both times, as in Kafka: each is decided from what was before.
    fn alter_each(
        &self,
        names: Vec<Named>,
        validate_only: bool,
        mut decide: impl FnMut(Result<Resource, Error>) -> Result<Vec<Record>, Error>,
    ) -> (Vec<Record>, Vec<AlterConfigsResourceResponse>) {
        let found: Vec<_> =
            names.iter().map(|named| self.find_resource(named.kind, &named.name)).collect();
        let mut times: HashMap<Resource, u32> = HashMap::new();
        for resource in found.iter().flatten() {
            *times.entry(resource.clone()).or_default() += 1;
        }
        let mut records = Vec::new();
        let mut responses = Vec::new();
        for (named, found) in names.into_iter().zip(found) {
            let once = found.and_then(|resource| match times[&resource] {
                1 => Ok(resource),
                _ => Err(Error::InvalidRequest("the resource is named twice".to_owned())),
            });
            let (error_code, error_message) = match decide(once) {
                Ok(decided) => {
                    records.extend(decided);
                    (ErrorCode::None, None)
                }
                Err(error) => (code(&error), Some(error.to_string())),
            };
            responses.push(AlterConfigsResourceResponse {
                error_code,
                error_message,
                resource_type: named.kind,
                resource_name: named.name,
            });
        }
        if validate_only {
            records.clear();
        }
        (records, responses)
    }

    /// A quorum of one: whoever writes the log leads it, and has all of it.
    fn describe_quorum(&self, controller: &Controller, request: &DescribeQuorumRequest) -> Outcome {
        let node = self.settings.endpoints.node;
        // Offsets count from the first entry, which has index 1, and an end is exclusive.
        let end = i64::try_from(controller.log.committed().0).unwrap_or(i64::MAX);
        let directory = self.image.node(node).map(|node| node.directory);
        let now = self.measures.wall_ms;
        let voter = QuorumReplica {
            replica_id: node.0,
            replica_directory_id: TopicId(directory.map_or([0; 16], |directory| directory.0)),
            log_end_offset: end,
            last_fetch_timestamp: now,
            last_caught_up_timestamp: now,
        };
        let describe = |name: &str, partition_index| match (name, partition_index) {
            (METADATA_TOPIC, 0) => DescribedQuorumPartition {
                leader_id: node.0,
                leader_epoch: i32::try_from(controller.log.term().0).unwrap_or(i32::MAX),
                high_watermark: end,
                current_voters: vec![voter.clone()],
                ..DescribedQuorumPartition::default()
            },
            _ => DescribedQuorumPartition {
                partition_index,
                error_code: ErrorCode::UnknownTopicOrPartition,
                ..DescribedQuorumPartition::default()
            },
        };
        let topics = request.topics.iter().map(|topic| {
            let partitions = topic.partitions.iter();
            let partitions = partitions.map(|p| describe(&topic.topic_name, p.partition_index));
            DescribedQuorumTopic {
                topic_name: topic.topic_name.clone(),
                partitions: partitions.collect(),
            }
        });
        // There is no other node that it would listen for.
        let nodes = vec![QuorumNode { node_id: node.0, listeners: Vec::new() }];
        let topics = topics.collect();
        Outcome::Quorum(DescribeQuorumResponse { topics, nodes, ..Default::default() })
    }

    /// The resource a request speaks of. Brokers are named by their id, endpoints by theirs; the
    /// empty name means all of them. A group has configs whether or not there is one of its name.
    pub(crate) fn find_resource(&self, kind: i8, name: &str) -> Result<Resource, Error> {
        match kind {
            resource::TOPIC => {
                decisions::check_topic_name(name)?;
                let topic = self.image.topic_named(name).ok_or(Error::UnknownTopic)?;
                Ok(Resource::Topic(topic.id))
            }
            resource::BROKER if name.is_empty() => Ok(Resource::Cluster),
            resource::BROKER => {
                let id = name.parse().ok().map(placement::node_of);
                let known = id.filter(|id| *id == self.settings.endpoints.node);
                known
                    .map(Resource::Node)
                    .ok_or_else(|| Error::InvalidRequest(format!("there is no broker {name:?}")))
            }
            resource::GROUP if name.is_empty() => {
                Err(Error::InvalidRequest("groups have no configs for all of them".to_owned()))
            }
            resource::GROUP if GROUP_NAME_BYTES_MAX < name.len() => Err(Error::InvalidRequest(
                format!("a group's name has at most {GROUP_NAME_BYTES_MAX} bytes"),
            )),
            resource::GROUP => Ok(Resource::Group(name.into())),
            resource::BROKER_LOGGER => {
                Err(Error::InvalidRequest("loggers have no configs here".to_owned()))
            }
            resource::CLIENT_METRICS => {
                Err(Error::InvalidRequest("metrics of clients have no configs here".to_owned()))
            }
            other => Err(Error::InvalidRequest(format!("there are no resources of type {other}"))),
        }
    }
}

/// A resource as a request names it.
struct Named {
    kind: i8,
    name: String,
}

fn create_topic(asked: &CreatableTopic) -> CreateTopic {
    CreateTopic {
        name: asked.name.clone(),
        partitions: asked.num_partitions,
        replication_factor: asked.replication_factor,
        assignments: asked
            .assignments
            .iter()
            .map(|assignment| {
                (assignment.partition_index, placement::nodes_of(&assignment.broker_ids))
            })
            .collect(),
        configs: asked.configs.iter().map(|c| (c.name.clone(), c.value.clone())).collect(),
    }
}

fn decide_delete_topics(image: &Image, request: &DeleteTopicsRequest) -> (Vec<Record>, Outcome) {
    let mut records: Vec<Record> = Vec::new();
    let mut times: HashMap<TopicId, u32> = HashMap::new();
    let decided: Vec<_> = request
        .all_topics()
        .map(|asked| {
            let decision = match &asked.name {
                Some(name) => decisions::decide_delete_topic(image, name),
                None => decisions::decide_delete_topic_id(image, asked.topic_id),
            };
            if let Ok(Record::TopicDeleted { id }) = &decision {
                *times.entry(*id).or_default() += 1;
            }
            (asked, decision)
        })
        .collect();
    let mut told = HashSet::new();
    let mut responses = Vec::new();
    for (DeleteTopicState { name, topic_id }, decision) in decided {
        if !told.insert((name.clone(), topic_id)) {
            continue;
        }
        // As in Kafka: who names a topic twice may not mean what it says, so it stays.
        let decision = decision.and_then(|record| match &record {
            Record::TopicDeleted { id } if 1 < times[id] => {
                Err(Error::InvalidRequest("the topic is named twice".to_owned()))
            }
            _ => Ok(record),
        });
        let mut response =
            DeletableTopicResult { name, topic_id, ..DeletableTopicResult::default() };
        match decision {
            Ok(record) => {
                if let Record::TopicDeleted { id } = &record {
                    response.topic_id = *id;
                    response.name = image.topic(*id).map(|topic| topic.name.to_string());
                }
                records.push(record);
            }
            Err(error) => {
                response.error_code = code(&error);
                response.error_message = Some(error.to_string());
            }
        }
        responses.push(response);
    }
    (records, Outcome::DeleteTopics(DeleteTopicsResponse { responses, ..Default::default() }))
}

fn decide_create_partitions(
    image: &Image,
    defaults: &Defaults,
    request: &CreatePartitionsRequest,
) -> (Vec<Record>, Outcome) {
    let mut records: Vec<Record> = Vec::new();
    let mut results = Vec::new();
    let mut named: HashMap<&str, u32> = HashMap::new();
    for topic in &request.topics {
        *named.entry(&topic.name).or_default() += 1;
    }
    let mut told = HashSet::new();
    for topic in request.topics.iter().filter(|topic| told.insert(&topic.name)) {
        let assignments: Option<Vec<Vec<NodeId>>> = topic.assignments.as_ref().map(|assigned| {
            assigned.iter().map(|one| placement::nodes_of(&one.broker_ids)).collect()
        });
        let decision = if named[topic.name.as_str()] != 1 {
            Err(Error::InvalidRequest("the topic is named twice".to_owned()))
        } else {
            let assignments = assignments.as_deref();
            decisions::decide_create_partitions(
                image,
                &topic.name,
                topic.count,
                assignments,
                defaults,
            )
        };
        let mut result = CreatePartitionsTopicResult {
            name: topic.name.clone(),
            ..CreatePartitionsTopicResult::default()
        };
        match decision {
            Ok(record) => records.push(record),
            Err(error) => {
                result.error_code = code(&error);
                result.error_message = Some(error.to_string());
            }
        }
        results.push(result);
    }
    if request.validate_only {
        records.clear();
    }
    let response = CreatePartitionsResponse { results, ..CreatePartitionsResponse::default() };
    (records, Outcome::CreatePartitions(response))
}

fn changes(asked: &AlterConfigsResource) -> Result<Vec<ConfigChange>, Error> {
    let change = |config: &tidemill_net::kafka::alter_configs::AlterableConfig| {
        let operation = ConfigOperation::from_wire(config.config_operation).ok_or_else(|| {
            Error::InvalidRequest(format!("unknown operation {}", config.config_operation))
        })?;
        Ok(ConfigChange { name: config.name.clone(), operation, value: config.value.clone() })
    };
    asked.configs.iter().map(change).collect()
}
