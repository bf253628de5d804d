//! The controller: shard 0's part that changes the metadata, one change after the other.
//!
//! A change is decided from the image ([`tidemill_replication::controller`]), written to the
//! metadata log, and once it is committed replayed on every shard. Only when all have replayed it
//! is the asker answered, so that what was made can be used at once, wherever the client asks next.
//!
//! The end of a deletion is a change too: when every home shard has removed a topic's files, its
//! tombstone may go.
//!
//! Start reading at `Shard::step_controller`.

use std::collections::{HashMap, HashSet, VecDeque};
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use tidemill_net::kafka::alter_client_quotas::{
    AlterClientQuotasRequest, AlterClientQuotasResponse,
};
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
use tidemill_net::kafka::{ErrorCode, Request as _};
use tidemill_record::{NodeId, TopicId, TopicPartition};
use tidemill_replication::config::describe_topic;
use tidemill_replication::controller::{
    self as decisions, ConfigChange, ConfigOperation, CreateTopic, Defaults, Error,
};
use tidemill_replication::metadata::{Image, Record, Resource};
use tidemill_replication::quorum::{self, Index};
use tidemill_runtime::edge::{Instant, ShardId};

use crate::job::JobId;
use crate::limits::{
    GROUP_NAME_BYTES_MAX, OFFSETS_BATCH_BYTES_MAX, PARTITIONS_MAX, PROPOSALS_QUEUED_BYTES_MAX,
    PROPOSALS_QUEUED_MAX,
};
use crate::message::Message;
use crate::partition::Times;
use crate::placement;
use crate::random::Random;
use crate::shard::{Settings, Shard};
use crate::topic_rules;

/// How often a full disk is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// A change asked for.
#[derive(Debug)]
pub enum Proposal {
    /// See [`CreateTopicsRequest`].
    CreateTopics(CreateTopicsRequest),
    /// See [`DeleteTopicsRequest`].
    DeleteTopics(DeleteTopicsRequest),
    /// See [`CreatePartitionsRequest`].
    CreatePartitions(CreatePartitionsRequest),
    /// See [`IncrementalAlterConfigsRequest`].
    AlterConfigs(IncrementalAlterConfigsRequest),
    /// See [`AlterConfigsRequest`].
    ReplaceConfigs(AlterConfigsRequest),
    /// See [`AlterClientQuotasRequest`].
    Quotas(AlterClientQuotasRequest),
    /// No change, but a question that only the writer of the metadata log can answer.
    Quorum(DescribeQuorumRequest),
    /// A block of producer ids for one shard.
    ProducerIds,
    /// The topic of groups and their offsets, if there is none yet.
    OffsetsTopic,
    /// The topic of transactions, if there is none yet.
    TransactionsTopic,
    /// The topic of what share groups have read, if there is none yet.
    ShareStateTopic,
}

/// What came of a change: what the client is answered.
#[derive(Debug)]
pub enum Outcome {
    /// Per topic.
    CreateTopics(CreateTopicsResponse),
    /// Per topic.
    DeleteTopics(DeleteTopicsResponse),
    /// Per topic.
    CreatePartitions(CreatePartitionsResponse),
    /// Per resource.
    AlterConfigs(IncrementalAlterConfigsResponse),
    /// Per resource.
    ReplaceConfigs(AlterConfigsResponse),
    /// Per entity.
    Quotas(AlterClientQuotasResponse),
    /// How the metadata quorum is.
    Quorum(DescribeQuorumResponse),
    /// The block, or why there is none.
    ProducerIds(Result<Range<i64>, ErrorCode>),
    /// Whether the topic of groups, or that of transactions, is there now.
    InternalTopic(ErrorCode),
}

/// The state of shard 0's controller.
pub struct Controller {
    log: quorum::Log,
    random: Random,
    defaults: Defaults,
    queue: VecDeque<Asked>,
    /// Of the requests in the queue.
    queued_bytes: usize,
    current: Option<Current>,
    commits: u64,
    /// Partitions of deleted topics whose files are not gone yet.
    dropping: HashMap<TopicId, u32>,
    finished_deletions: VecDeque<TopicId>,
    retry_at: Instant,
    stopping: bool,
    stop_told: bool,
}

struct Asked {
    shard: ShardId,
    job: JobId,
    proposal: Proposal,
    request_bytes: u32,
}

/// The change being made.
struct Current {
    /// Who asked; nobody for changes of the controller's own.
    asker: Option<(ShardId, JobId, Outcome)>,
    index: Index,
    records: Vec<Record>,
    /// Shards that have not replayed it; set once it is committed.
    missing: Option<u16>,
}

impl Controller {
    /// Goes on with a recovered metadata log. The files of `removed` topics were found gone.
    pub fn new(log: quorum::Log, settings: &Settings, removed: Vec<TopicId>) -> Self {
        let topic_defaults = &settings.config.topic_defaults;
        Self {
            log,
            random: Random::new(settings.seed ^ 2),
            defaults: Defaults {
                partitions: topic_defaults.partitions,
                replication_factor: topic_defaults.replication_factor,
                partitions_max: PARTITIONS_MAX as usize,
            },
            queue: VecDeque::new(),
            queued_bytes: 0,
            current: None,
            commits: 0,
            dropping: HashMap::new(),
            finished_deletions: removed.into(),
            retry_at: Instant::default(),
            stopping: false,
            stop_told: false,
        }
    }

    /// A change is asked for. If too many wait, it is refused at once, with this outcome.
    pub fn propose(
        &mut self,
        shard: ShardId,
        job: JobId,
        proposal: Proposal,
        request_bytes: u32,
    ) -> Result<(), Outcome> {
        let bytes = self.queued_bytes + request_bytes as usize;
        let fits = bytes <= PROPOSALS_QUEUED_BYTES_MAX && self.queue.len() < PROPOSALS_QUEUED_MAX;
        if !fits && !self.queue.is_empty() {
            return Err(refused(&proposal, ErrorCode::ThrottlingQuotaExceeded));
        }
        self.queued_bytes = bytes;
        self.queue.push_back(Asked { shard, job, proposal, request_bytes });
        Ok(())
    }

    fn take_asked(&mut self) -> Option<Asked> {
        let asked = self.queue.pop_front()?;
        self.queued_bytes -= asked.request_bytes as usize;
        Some(asked)
    }

    /// A shard has replayed a commit.
    pub fn applied(&mut self, number: u64) {
        if number != self.commits {
            return;
        }
        if let Some(Current { missing: Some(missing), .. }) = &mut self.current {
            *missing -= 1;
        }
    }

    /// The files of a deleted partition are gone.
    pub fn dropped(&mut self, partition: TopicPartition) {
        let Some(left) = self.dropping.get_mut(&partition.topic) else { return };
        *left -= 1;
        if *left == 0 {
            self.dropping.remove(&partition.topic);
            self.finished_deletions.push_back(partition.topic);
        }
    }

    /// The metadata log's next request to the disk.
    pub fn poll_request(&mut self) -> Option<quorum::io::Request> {
        self.log.poll_request()
    }

    /// A request of the metadata log has ended.
    pub fn handle_completion(&mut self, completion: quorum::io::Completion) {
        self.log.handle_completion(completion);
    }

    /// Makes no more changes, once the one under way is done.
    pub fn begin_stop(&mut self) {
        self.stopping = true;
    }

    /// Whether the other shards are to be told to stop now. True once.
    pub fn tell_stop(&mut self) -> bool {
        !std::mem::replace(&mut self.stop_told, true)
    }

    /// Whether no change is under way and the log has nothing left to write, or cannot write it
    /// now: what is not committed was promised to nobody.
    pub fn is_idle(&self) -> bool {
        if self.log.fault().is_some() || (self.stopping && self.log.is_out_of_space()) {
            return true;
        }
        self.current.is_none() && self.queue.is_empty() && self.log.is_idle()
    }

    /// When a full disk is to be tried again.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.log.is_out_of_space().then_some(self.retry_at)
    }

    fn take_committed(&mut self) -> bool {
        let mut last = None;
        while let Some((index, _)) = self.log.poll_committed() {
            last = Some(index);
        }
        let current = self.current.as_ref().filter(|current| current.missing.is_none());
        current.is_some_and(|current| last.is_some_and(|last| current.index <= last))
    }
}

impl Shard {
    /// Goes on with the changes of metadata; true if something happened.
    pub(crate) fn step_controller(&mut self, times: Times) -> bool {
        let Some(mut controller) = self.controller.take() else { return false };
        let moved = self.step(&mut controller, times);
        self.controller = Some(controller);
        moved
    }

    fn step(&mut self, controller: &mut Controller, times: Times) -> bool {
        if controller.log.is_out_of_space() && controller.retry_at <= times.now {
            controller.retry_at = times.now.after(RETRY);
            controller.log.retry();
        }
        let mut moved = false;
        if controller.take_committed() {
            moved = true;
            self.replay_everywhere(controller, times);
        }
        if controller.log.fault().is_some() {
            moved |= self.refuse_all(controller);
        }
        if controller.stopping {
            while let Some(Asked { shard, job, proposal, .. }) = controller.take_asked() {
                moved = true;
                let outcome = refused(&proposal, ErrorCode::NotController);
                self.tell(shard, Message::Proposed { job, outcome });
            }
        }
        let applied = controller.current.as_ref().is_some_and(|current| current.missing == Some(0));
        if applied {
            moved = true;
            let current = controller.current.take().expect("just seen");
            self.answer(current.asker);
            if controller.log.snapshot_is_due() {
                controller.log.snapshot(&self.image);
            }
        }
        if controller.current.is_none() && !controller.stopping {
            moved |= self.next_change(controller);
        }
        moved
    }

    /// The current change is committed: it happens here, then on all other shards.
    fn replay_everywhere(&mut self, controller: &mut Controller, times: Times) {
        let current = controller.current.as_mut().expect("it was committed");
        controller.commits += 1;
        let number = controller.commits;
        for record in &current.records {
            if let Record::TopicDeleted { id } = record {
                let topic = self.image.topic(*id).expect("decided from this image");
                controller.dropping.insert(*id, topic.partitions.len() as u32);
            }
        }
        let records: Arc<[Record]> = std::mem::take(&mut current.records).into();
        self.replay(&records, times);
        current.missing = Some(self.settings.shards - 1);
        self.tell_others(|| Message::Commit { number, records: Arc::clone(&records) });
    }

    /// The metadata log's disk has failed: nothing will be committed before a restart.
    fn refuse_all(&mut self, controller: &mut Controller) -> bool {
        let under_way = controller.current.take_if(|current| current.missing.is_none());
        let mut moved = under_way.is_some();
        if let Some((shard, job, outcome)) = under_way.and_then(|current| current.asker) {
            // Whether it will be found committed by the next start is unknown.
            let outcome = failed(&outcome, ErrorCode::KafkaStorageError);
            self.tell(shard, Message::Proposed { job, outcome });
        }
        while let Some(Asked { shard, job, proposal, .. }) = controller.take_asked() {
            moved = true;
            let outcome = refused(&proposal, ErrorCode::KafkaStorageError);
            self.tell(shard, Message::Proposed { job, outcome });
        }
        moved
    }

    fn answer(&mut self, asker: Option<(ShardId, JobId, Outcome)>) {
        if let Some((shard, job, outcome)) = asker {
            self.tell(shard, Message::Proposed { job, outcome });
        }
    }

    fn next_change(&mut self, controller: &mut Controller) -> bool {
        if let Some(id) = controller.finished_deletions.pop_front() {
            if let Some(record) = decisions::decide_deletion_finished(&self.image, id) {
                let records = vec![record];
                if let Ok(index) = controller.log.propose(records.clone()) {
                    controller.current =
                        Some(Current { asker: None, index, records, missing: None });
                } else {
                    // The tombstone stays until the next start finds the files gone.
                    tracing::warn!(topic = %id, "the end of a deletion could not be recorded");
                }
            }
            return true;
        }
        let Some(Asked { shard, job, proposal, .. }) = controller.take_asked() else {
            return false;
        };
        let (records, outcome) = self.decide(controller, &proposal);
        if records.is_empty() {
            self.tell(shard, Message::Proposed { job, outcome });
            return true;
        }
        match controller.log.propose(records.clone()) {
            Ok(index) => {
                let asker = Some((shard, job, outcome));
                controller.current = Some(Current { asker, index, records, missing: None });
            }
            Err(error) => {
                tracing::warn!(?error, "a change of metadata could not be written");
                let error = match error {
                    quorum::ProposeError::TooLarge { .. } => ErrorCode::PolicyViolation,
                    _ => ErrorCode::KafkaStorageError,
                };
                let outcome = failed(&outcome, error);
                self.tell(shard, Message::Proposed { job, outcome });
            }
        }
        true
    }

    // Decisions.

    fn decide(&self, controller: &mut Controller, proposal: &Proposal) -> (Vec<Record>, Outcome) {
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
            Proposal::OffsetsTopic => self.decide_offsets_topic(controller),
            Proposal::TransactionsTopic => self.decide_transactions_topic(controller),
            Proposal::ShareStateTopic => self.decide_share_state_topic(controller),
        }
    }

    /// Kafka's topic of groups, with Kafka's configs.
    fn decide_offsets_topic(&self, controller: &mut Controller) -> (Vec<Record>, Outcome) {
        let groups = &self.settings.config.groups;
        let request = CreateTopic {
            name: decisions::OFFSETS_TOPIC.to_owned(),
            partitions: groups.topic_partitions as i32,
            replication_factor: groups.topic_replicas as i16,
            ..CreateTopic::default()
        };
        self.decide_internal_topic(controller, &request, groups.topic_segment_bytes)
    }

    /// Kafka's topic of transactions.
    fn decide_transactions_topic(&self, controller: &mut Controller) -> (Vec<Record>, Outcome) {
        let transactions = &self.settings.config.transactions;
        let request = CreateTopic {
            name: decisions::TRANSACTIONS_TOPIC.to_owned(),
            partitions: transactions.topic_partitions as i32,
            replication_factor: transactions.topic_replicas as i16,
            ..CreateTopic::default()
        };
        self.decide_internal_topic(controller, &request, transactions.topic_segment_bytes)
    }

    /// Kafka's topic of what share groups have read.
    fn decide_share_state_topic(&self, controller: &mut Controller) -> (Vec<Record>, Outcome) {
        let groups = &self.settings.config.groups;
        let request = CreateTopic {
            name: decisions::SHARE_STATE_TOPIC.to_owned(),
            partitions: groups.topic_partitions as i32,
            replication_factor: groups.topic_replicas as i16,
            ..CreateTopic::default()
        };
        self.decide_internal_topic(controller, &request, groups.topic_segment_bytes)
    }

    fn decide_internal_topic(
        &self,
        controller: &mut Controller,
        request: &CreateTopic,
        segment_bytes: u32,
    ) -> (Vec<Record>, Outcome) {
        // What share groups have read is written as changes, of which the last alone says nothing;
        // its coordinator drops what is not needed any more.
        let is_of_changes = request.name == decisions::SHARE_STATE_TOPIC;
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
        match decisions::decide_internal_topic(&self.image, request, configs, defaults, seed) {
            Ok(record) => (vec![record], Outcome::InternalTopic(ErrorCode::None)),
            Err(Error::TopicExists(_)) => (Vec::new(), Outcome::InternalTopic(ErrorCode::None)),
            Err(error) => {
                tracing::warn!(topic = request.name, %error, "a topic of the broker's own cannot be made");
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
        for (topic, decision) in topics.iter().zip(decided) {
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
            other => {
                Err(Error::InvalidRequest(format!("resources of type {other} have no configs")))
            }
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
    let mut named = HashSet::new();
    let mut responses = Vec::new();
    for DeleteTopicState { name, topic_id } in request.all_topics() {
        let decision = match &name {
            Some(name) => decisions::decide_delete_topic(image, name),
            None => decisions::decide_delete_topic_id(image, topic_id),
        };
        let decision = decision.and_then(|record| {
            let Record::TopicDeleted { id } = &record else {
                unreachable!("that is what was asked for");
            };
            match named.insert(*id) {
                true => Ok(record),
                false => Err(Error::InvalidRequest("the topic is named twice".to_owned())),
            }
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
    for topic in &request.topics {
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

/// Kafka's code for a refusal.
pub fn code(error: &Error) -> ErrorCode {
    match error {
        Error::UnknownTopic => ErrorCode::UnknownTopicOrPartition,
        Error::InvalidTopicName(_) => ErrorCode::InvalidTopicException,
        Error::TopicExists(_) => ErrorCode::TopicAlreadyExists,
        Error::InvalidPartitions(_) => ErrorCode::InvalidPartitions,
        Error::InvalidReplicationFactor(_) => ErrorCode::InvalidReplicationFactor,
        Error::InvalidReplicaAssignment(_) => ErrorCode::InvalidReplicaAssignment,
        Error::InvalidConfig(_) => ErrorCode::InvalidConfig,
        Error::InvalidRequest(_) => ErrorCode::InvalidRequest,
        Error::UnknownTopicId => ErrorCode::UnknownTopicId,
    }
}

/// The answer to a proposal of which nothing was done, or nothing is known.
pub fn refused(proposal: &Proposal, error: ErrorCode) -> Outcome {
    match proposal {
        Proposal::CreateTopics(request) => Outcome::CreateTopics(request.error_response(error)),
        Proposal::DeleteTopics(request) => Outcome::DeleteTopics(request.error_response(error)),
        Proposal::CreatePartitions(request) => {
            Outcome::CreatePartitions(request.error_response(error))
        }
        Proposal::AlterConfigs(request) => Outcome::AlterConfigs(request.error_response(error)),
        Proposal::ReplaceConfigs(request) => Outcome::ReplaceConfigs(request.error_response(error)),
        Proposal::Quotas(request) => Outcome::Quotas(request.error_response(error)),
        Proposal::Quorum(request) => Outcome::Quorum(request.error_response(error)),
        Proposal::ProducerIds => Outcome::ProducerIds(Err(error)),
        Proposal::OffsetsTopic | Proposal::TransactionsTopic | Proposal::ShareStateTopic => {
            Outcome::InternalTopic(error)
        }
    }
}

/// An outcome that was decided but could not be written: what would have succeeded has failed.
fn failed(outcome: &Outcome, error: ErrorCode) -> Outcome {
    let spoil = |code: &mut ErrorCode| {
        if *code == ErrorCode::None {
            *code = error;
        }
    };
    match outcome {
        Outcome::CreateTopics(response) => {
            let mut response = response.clone();
            response.topics.iter_mut().for_each(|topic| spoil(&mut topic.error_code));
            Outcome::CreateTopics(response)
        }
        Outcome::DeleteTopics(response) => {
            let mut response = response.clone();
            response.responses.iter_mut().for_each(|topic| spoil(&mut topic.error_code));
            Outcome::DeleteTopics(response)
        }
        Outcome::CreatePartitions(response) => {
            let mut response = response.clone();
            response.results.iter_mut().for_each(|topic| spoil(&mut topic.error_code));
            Outcome::CreatePartitions(response)
        }
        Outcome::AlterConfigs(response) => {
            let mut response = response.clone();
            response.responses.iter_mut().for_each(|resource| spoil(&mut resource.error_code));
            Outcome::AlterConfigs(response)
        }
        Outcome::ReplaceConfigs(response) => {
            let mut response = response.clone();
            response.responses.iter_mut().for_each(|resource| spoil(&mut resource.error_code));
            Outcome::ReplaceConfigs(response)
        }
        Outcome::Quotas(response) => {
            let mut response = response.clone();
            response.entries.iter_mut().for_each(|entry| spoil(&mut entry.error_code));
            Outcome::Quotas(response)
        }
        Outcome::Quorum(_) => unreachable!("a question writes nothing"),
        Outcome::ProducerIds(_) => Outcome::ProducerIds(Err(error)),
        Outcome::InternalTopic(_) => Outcome::InternalTopic(error),
    }
}
