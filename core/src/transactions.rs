//! The transaction coordinators at home on this shard: where they are kept, and how partitions are
//! told how a transaction ended.
//!
//! How they come to know their transactions, and how what they decide gets to the disk, is the same
//! for all coordinators: see [`crate::coordinator_log::at_home`]. Their reading begins when all
//! shards serve, because what follows from it may be markers for any of them.
//!
//! This is also where a partition at home here asks the coordinator of a transaction, wherever that
//! lives, whether a batch belongs to it.
//!
//! Start reading at `Shard::step_transactions`.

use std::collections::BTreeMap;
use std::sync::Arc;

use tidemill_net::kafka::{ErrorCode, TopicRef};
use tidemill_record::{Marker, Outcome, Producer, ProducerId, TopicPartition};
use tidemill_replication::controller::{OFFSETS_TOPIC, TRANSACTIONS_TOPIC};
use tidemill_replication::metadata::{Image, Record as MetadataRecord};

use crate::api::Job;
use crate::coordinator::Coordinator as GroupCoordinator;
use crate::coordinator::request::{Reply as GroupReply, Request as GroupRequest};
use crate::coordinator_log::Logged;
use crate::coordinator_log::at_home::{AtHome, Coordinators, LogJob};
use crate::job::{JobId, ReplyTo};
use crate::limits::TRANSACTIONS_BYTES_MAX;
use crate::message::{Answer, Call, GroupQuestion};
use crate::partition::Times;
use crate::partition::transactions::Verification;
use crate::shard::{Settings, Shard};
use crate::transaction::request::{Reply, Request};
use crate::transaction::{Coordinator, Mark, Rules};

/// The transaction coordinators of one shard.
pub struct Transactions {
    /// Those at home here.
    pub coordinators: Coordinators<Coordinator>,
    rules: Arc<Rules>,
    /// Clients are served, so all shards can be told things.
    is_serving: bool,
    /// Commits of offsets that wait for coordinators, by the partition of their groups.
    commits: BTreeMap<(TopicPartition, ProducerId), Vec<JobId>>,
}

/// What a job of the shard's own does for transactions.
#[derive(Debug)]
pub enum TransactionJob {
    /// What all coordinators need.
    Log(LogJob),
    /// Tells a partition how a transaction ended.
    Mark {
        /// Whose coordinator asked for it.
        partition: TopicPartition,
        /// What.
        mark: Mark,
    },
    /// Asks a coordinator about a partition that is at home here.
    Verify(Verification),
    /// Asks a coordinator about a commit of offsets to groups that are at home here.
    VerifyCommit {
        /// Where the groups are kept.
        partition: TopicPartition,
        /// What is asked of them.
        question: Box<GroupQuestion>,
        /// Who waits.
        reply_to: ReplyTo,
    },
}

impl Transactions {
    /// No coordinators yet.
    pub fn new(settings: &Settings) -> Self {
        let transactions = &settings.config.transactions;
        let rules = Rules {
            timeout_max_ms: transactions.timeout_max_ms,
            expiration_ms: transactions.expiration.as_millis() as i64,
            expiry_interval: transactions.expiry_interval,
        };
        Self {
            coordinators: Coordinators::default(),
            rules: Arc::new(rules),
            is_serving: false,
            commits: BTreeMap::new(),
        }
    }
}

impl AtHome for Coordinator {
    const TOPIC: &'static str = TRANSACTIONS_TOPIC;
    const THINGS: &'static str = "transactions";
    const BYTES_MAX: usize = TRANSACTIONS_BYTES_MAX;

    fn of(shard: &mut Shard) -> (&mut Coordinators<Self>, &Image) {
        (&mut shard.transactions.coordinators, &shard.image)
    }

    fn new(shard: &mut Shard) -> Logged<Self> {
        let coordinator = Self::new(Arc::clone(&shard.transactions.rules));
        Logged::new(coordinator, shard.settings.group_rewrite_bytes)
    }

    fn job(job: LogJob) -> Job {
        Job::Transactions(TransactionJob::Log(job))
    }

    fn answer(reply: Reply) -> Answer {
        Answer::Transaction(Box::new(reply))
    }

    fn step_on(shard: &mut Shard, partition: TopicPartition, times: Times) {
        shard.step_ends(partition, times);
    }
}

impl Shard {
    /// The partition whose coordinator a transactional id belongs to; none before the first one
    /// was looked for.
    pub(crate) fn partition_of_transaction(&self, id: &str) -> Option<TopicPartition> {
        self.partition_of::<Coordinator>(id)
    }

    /// All partitions that transactions are kept in.
    pub(crate) fn partitions_of_transactions(&self) -> Vec<TopicPartition> {
        self.partitions_of::<Coordinator>()
    }

    // Coming and going.

    /// Takes up the coordinators of all partitions that are at home here: clients are served.
    pub(crate) fn adopt_transactions(&mut self, times: Times) {
        self.transactions.is_serving = true;
        self.take_up_all::<Coordinator>(times);
    }

    /// Does what a record of the metadata means for transactions.
    pub(crate) fn transactions_follow(&mut self, record: &MetadataRecord, times: Times) {
        if let MetadataRecord::TopicCreated { name, .. } = record
            && name == TRANSACTIONS_TOPIC
            && self.transactions.is_serving
        {
            self.take_up_all::<Coordinator>(times);
        }
    }

    // Producer ids.

    /// A producer id for the coordinator of this partition, or why there is none.
    pub(crate) fn give_producer_id(
        &mut self,
        partition: TopicPartition,
        id: Result<i64, ErrorCode>,
        times: Times,
    ) {
        let coordinators = &mut self.transactions.coordinators;
        let Some(logged) = coordinators.ready(partition) else { return };
        match id {
            Ok(id) => logged.coordinator.give_id(ProducerId(id), times),
            Err(_) => logged.coordinator.no_id(times),
        }
        coordinators.touch(partition);
    }

    // Verifying.

    /// Asks a coordinator whether a partition that is at home here is part of a transaction.
    fn verify(&mut self, verification: Verification, times: Times) {
        let Verification { partition, producer, transaction } = &verification;
        let id = Arc::clone(&transaction.transactional_id);
        let topic = self.image.topic(partition.topic).map(|topic| Arc::clone(&topic.name));
        let coordinator = self.partition_of_transaction(&id);
        let (Some(topic), Some(coordinator)) = (topic, coordinator) else {
            let refused = Reply::Refused(ErrorCode::InvalidProducerIdMapping);
            return self.verified(&verification, &refused, times);
        };
        let parts = vec![(topic, partition.partition.0)];
        let producer = *producer;
        let request = match transaction.adds_partition {
            true => Request::Add { id, producer, parts, is_newer: true, waits: true },
            false => Request::Verify { id, producer, parts },
        };
        let job = self.jobs.insert(Job::Transactions(TransactionJob::Verify(verification)));
        self.call(job, [(0, coordinator, Call::Transaction(Box::new(request)))], times);
    }

    fn verified(&mut self, verification: &Verification, reply: &Reply, times: Times) {
        let Verification { partition, producer, transaction } = verification;
        let result = match told_to_writer(error_of(reply), transaction.may_be_told_to_abort) {
            ErrorCode::None => Ok(()),
            error => Err(error),
        };
        let home = self.home.as_mut().expect("its partition is at home here");
        home.verified(*partition, *producer, result, times);
    }

    /// Asks a coordinator whether a transaction may commit offsets to groups that are at home here.
    pub(crate) fn verify_commit(
        &mut self,
        partition: TopicPartition,
        question: GroupQuestion,
        reply_to: ReplyTo,
        times: Times,
    ) {
        let GroupQuestion { transaction, producer, .. } = &question;
        let id = Arc::clone(&transaction.transactional_id);
        let Some(coordinator) = self.partition_of_transaction(&id) else {
            let refused = GroupReply::Refused(ErrorCode::InvalidProducerIdMapping);
            return self.answer_group(reply_to, refused);
        };
        let (producer, parts) = (*producer, vec![(OFFSETS_TOPIC.into(), partition.partition.0)]);
        let request = match transaction.adds_partition {
            true => Request::Add { id, producer, parts, is_newer: true, waits: true },
            false => Request::Verify { id, producer, parts },
        };
        let question = Box::new(question);
        let job = TransactionJob::VerifyCommit { partition, question, reply_to };
        let job = self.jobs.insert(Job::Transactions(job));
        self.transactions.commits.entry((partition, producer.id)).or_default().push(job);
        self.call(job, [(0, coordinator, Call::Transaction(Box::new(request)))], times);
    }

    fn commit_verified(&mut self, job: JobId, waits: WaitingCommit, reply: &Reply, times: Times) {
        let WaitingCommit { partition, question, reply_to } = waits;
        let key = (partition, question.producer.id);
        if let Some(jobs) = self.transactions.commits.get_mut(&key) {
            jobs.retain(|waiting| *waiting != job);
            if jobs.is_empty() {
                self.transactions.commits.remove(&key);
            }
        }
        match told_to_writer(error_of(reply), question.transaction.may_be_told_to_abort) {
            ErrorCode::None => {
                self.ask::<GroupCoordinator>(partition, question.request, reply_to, times);
            }
            // What a commit may be told, and helps: to look for the coordinator again.
            ErrorCode::NotEnoughReplicas => {
                let refused = GroupReply::Refused(ErrorCode::CoordinatorNotAvailable);
                self.answer_group(reply_to, refused);
            }
            error => self.answer_group(reply_to, GroupReply::Refused(error)),
        }
    }

    /// A transaction has ended: commits of its that still wait to be verified are refused. They
    /// may be answered "yes", as things were before, and would never end. Those of the next one
    /// wait on.
    pub(crate) fn refuse_late_commits(&mut self, partition: TopicPartition, marker: Producer) {
        let key = (partition, marker.id);
        let (mut waiting, mut refused) = (Vec::new(), Vec::new());
        for id in self.transactions.commits.remove(&key).unwrap_or_default() {
            let Some(Job::Transactions(TransactionJob::VerifyCommit {
                question, reply_to, ..
            })) = self.jobs.get_mut(id)
            else {
                continue;
            };
            match question.transaction.is_ended_by(question.producer.epoch, marker.epoch) {
                true => refused.push((id, *reply_to)),
                false => waiting.push(id),
            }
        }
        if !waiting.is_empty() {
            self.transactions.commits.insert(key, waiting);
        }
        for (id, reply_to) in refused {
            self.jobs.remove(id);
            self.answer_group(reply_to, GroupReply::Refused(ErrorCode::InvalidTxnState));
        }
    }

    fn answer_group(&mut self, reply_to: ReplyTo, reply: GroupReply) {
        let home = self.home.as_mut().expect("clients are served after adoption");
        home.answer(reply_to, Answer::Group(Box::new(reply)));
    }

    // Writing.

    /// An answer for a job of the transactions' own.
    pub(crate) fn transaction_job_answered(&mut self, id: JobId, answer: Answer, times: Times) {
        match self.jobs.get_mut(id) {
            Some(Job::Transactions(TransactionJob::Log(job))) => {
                let job = *job;
                return self.log_job_answered::<Coordinator>(id, job, answer, times);
            }
            Some(Job::Transactions(_)) => {}
            _ => return,
        }
        let Some(Job::Transactions(job)) = self.jobs.remove(id) else { return };
        match job {
            TransactionJob::Log(_) => unreachable!("seen above"),
            TransactionJob::Mark { partition, mark } => {
                self.part_told(partition, &mark, marked(&answer), times);
            }
            TransactionJob::Verify(verification) => {
                self.verified(&verification, &reply_of(answer), times);
            }
            TransactionJob::VerifyCommit { partition, question, reply_to } => {
                let waits = WaitingCommit { partition, question, reply_to };
                self.commit_verified(id, waits, &reply_of(answer), times);
            }
        }
    }

    /// Tells and writes what coordinators have decided, and asks what partitions want to know; true
    /// if there was anything.
    pub(crate) fn step_transactions(&mut self, times: Times) -> bool {
        let mut moved = false;
        while let Some(asked) = self.home.as_mut().and_then(|home| home.poll_verification()) {
            moved = true;
            self.verify(asked, times);
        }
        self.step_coordinators::<Coordinator>(times) || moved
    }

    /// Tells partitions of the ends that a coordinator has decided, and gets it the producer ids that
    /// it wants.
    fn step_ends(&mut self, partition: TopicPartition, times: Times) {
        let Some(logged) = self.transactions.coordinators.ready(partition) else { return };
        let marks = logged.coordinator.take_marks();
        let ids_wanted = logged.coordinator.take_ids_wanted();
        let home = self.home.as_ref().expect("coordinators come after adoption");
        let epoch = home.leader_epoch(partition).map_or(0, |epoch| epoch.0);
        for mark in marks {
            self.tell_partition(partition, mark, epoch, times);
        }
        for _ in 0..ids_wanted {
            self.want_producer_id(partition, times);
        }
    }

    /// A partition was told how a transaction ended, or could not be told.
    fn part_told(
        &mut self,
        coordinator: TopicPartition,
        mark: &Mark,
        result: Result<(), ErrorCode>,
        times: Times,
    ) {
        let coordinators = &mut self.transactions.coordinators;
        if let Some(logged) = coordinators.ready(coordinator) {
            logged.coordinator.marked(mark, result, times);
            coordinators.touch(coordinator);
        }
    }

    /// Tells a partition how a transaction ended.
    fn tell_partition(
        &mut self,
        coordinator: TopicPartition,
        mark: Mark,
        coordinator_epoch: i32,
        times: Times,
    ) {
        let (topic, number) = (&mark.part.0, mark.part.1);
        let Ok(part) = self.find_partition(TopicRef::Name(topic), number) else {
            // It was deleted, and its records with it.
            return self.part_told(coordinator, &mark, Ok(()), times);
        };
        let marker = Marker { outcome: mark.outcome, coordinator_epoch };
        let producer: Producer = mark.producer;
        // Groups keep what transactions commit in their own way, and no markers.
        let call = match **topic == *OFFSETS_TOPIC {
            true => {
                let commit = mark.outcome == Outcome::Commit;
                let ended = GroupRequest::EndTransaction { producer, commit };
                Call::Group(Box::new(ended))
            }
            false => Call::Mark { producer, marker },
        };
        let job = TransactionJob::Mark { partition: coordinator, mark };
        let job = self.jobs.insert(Job::Transactions(job));
        self.call(job, [(0, part, call)], times);
    }
}

/// A commit of offsets that waits for the coordinator of its transaction.
struct WaitingCommit {
    partition: TopicPartition,
    question: Box<GroupQuestion>,
    reply_to: ReplyTo,
}

fn reply_of(answer: Answer) -> Reply {
    match answer {
        Answer::Transaction(reply) => *reply,
        Answer::Refused { error, .. } => Reply::Refused(error),
        other => unreachable!("a coordinator answers as such, not with {other:?}"),
    }
}

/// What a coordinator says of the one partition it was asked about.
fn error_of(reply: &Reply) -> ErrorCode {
    match reply {
        Reply::Done => ErrorCode::None,
        Reply::Verified(errors) => errors[0],
        Reply::Refused(error) => *error,
        other => unreachable!("a coordinator answers what it is asked, not {other:?}"),
    }
}

/// Whether a partition knows now how the transaction ended.
fn marked(answer: &Answer) -> Result<(), ErrorCode> {
    match answer {
        Answer::Appended { .. } => Ok(()),
        Answer::Group(reply) => match &**reply {
            GroupReply::TransactionEnded => Ok(()),
            GroupReply::Refused(error) => Err(*error),
            other => unreachable!("groups were told of an end, and say {other:?}"),
        },
        // Its records are gone, or a newer coordinator has ended the transaction.
        Answer::Refused {
            error:
                ErrorCode::UnknownTopicOrPartition
                | ErrorCode::InvalidProducerEpoch
                | ErrorCode::TransactionCoordinatorFenced,
            ..
        } => Ok(()),
        Answer::Refused { error, .. } => Err(*error),
        other => unreachable!("a marker is answered as an append, not with {other:?}"),
    }
}

/// What a producer is told whose batch was not appended because of its coordinator's answer; as
/// Kafka tells it, since clients know only some errors as answers to Produce.
fn told_to_writer(error: ErrorCode, may_be_told_to_abort: bool) -> ErrorCode {
    match error {
        ErrorCode::ConcurrentTransactions
        | ErrorCode::CoordinatorLoadInProgress
        | ErrorCode::CoordinatorNotAvailable
        | ErrorCode::NotCoordinator
        | ErrorCode::UnknownTopicOrPartition
        | ErrorCode::RequestTimedOut => ErrorCode::NotEnoughReplicas,
        ErrorCode::ProducerFenced => ErrorCode::InvalidProducerEpoch,
        ErrorCode::TransactionAbortable if !may_be_told_to_abort => ErrorCode::InvalidTxnState,
        error => error,
    }
}
