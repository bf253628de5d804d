//! The controller: shard 0's part that changes the metadata, one change after the other.
//!
//! A change is decided from the image (in `deciding`, by the rules of
//! [`tidemill_replication::controller`]), written to the metadata log, and once it is committed
//! replayed on every shard. Only when all have replayed it is the asker answered, so that what was
//! made can be used at once, wherever the client asks next.
//!
//! The end of a deletion is a change too: when every home shard has removed a topic's files, its
//! tombstone may go.
//!
//! Start reading at `Shard::step_controller`.

mod deciding;

use std::collections::{HashMap, VecDeque};
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use tidemill_net::kafka::alter_client_quotas::{
    AlterClientQuotasRequest, AlterClientQuotasResponse,
};
use tidemill_net::kafka::alter_configs::{
    AlterConfigsRequest, AlterConfigsResponse, IncrementalAlterConfigsRequest,
    IncrementalAlterConfigsResponse,
};
use tidemill_net::kafka::create_partitions::{CreatePartitionsRequest, CreatePartitionsResponse};
use tidemill_net::kafka::create_topics::{CreateTopicsRequest, CreateTopicsResponse};
use tidemill_net::kafka::delete_topics::{DeleteTopicsRequest, DeleteTopicsResponse};
use tidemill_net::kafka::describe_quorum::{DescribeQuorumRequest, DescribeQuorumResponse};
use tidemill_net::kafka::{ErrorCode, Request as _};
use tidemill_record::{TopicId, TopicPartition};
use tidemill_replication::controller::{self as decisions, Defaults, Error};
use tidemill_replication::metadata::Record;
use tidemill_replication::quorum::{self, Index};
use tidemill_runtime::edge::{Instant, ShardId};

use crate::job::JobId;
use crate::limits::{PARTITIONS_MAX, PROPOSALS_QUEUED_BYTES_MAX, PROPOSALS_QUEUED_MAX};
use crate::message::Message;
use crate::partition::Times;
use crate::random::Random;
use crate::shard::{Settings, Shard};

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
#[derive(Clone, Debug)]
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
    /// Whether a topic of the brokers' own is there now.
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
    let mut failed = outcome.clone();
    match &mut failed {
        Outcome::CreateTopics(told) => {
            told.topics.iter_mut().for_each(|t| spoil(&mut t.error_code))
        }
        Outcome::DeleteTopics(told) => {
            told.responses.iter_mut().for_each(|t| spoil(&mut t.error_code));
        }
        Outcome::CreatePartitions(told) => {
            told.results.iter_mut().for_each(|t| spoil(&mut t.error_code));
        }
        Outcome::AlterConfigs(told) => {
            told.responses.iter_mut().for_each(|r| spoil(&mut r.error_code));
        }
        Outcome::ReplaceConfigs(told) => {
            told.responses.iter_mut().for_each(|r| spoil(&mut r.error_code));
        }
        Outcome::Quotas(told) => told.entries.iter_mut().for_each(|e| spoil(&mut e.error_code)),
        Outcome::Quorum(_) => unreachable!("a question writes nothing"),
        Outcome::ProducerIds(told) => *told = Err(error),
        Outcome::InternalTopic(told) => *told = error,
    }
    failed
}
