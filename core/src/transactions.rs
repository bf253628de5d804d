//! The transaction coordinators at home on this shard: how they come to know their transactions,
//! how what they decide gets to the disk, and how partitions are told how a transaction ended.
//!
//! There is one for each partition of `__transaction_state` whose home this is. It reads the whole
//! partition before it answers; until then clients are told that it is loading. Reading begins
//! when all shards serve, because what follows from it may be markers for any of them.
//!
//! This is also where a partition at home here asks the coordinator of a transaction, wherever that
//! lives, whether a batch belongs to it.
//!
//! Start reading at `Shard::ask_transactions`.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tidemill_net::kafka::{ErrorCode, TopicRef};
use tidemill_record::{
    Batch, Contents, Marker, Offset, Outcome, PartitionId, Producer, ProducerId, TopicId,
    TopicPartition,
};
use tidemill_replication::controller::{OFFSETS_TOPIC, TRANSACTIONS_TOPIC};
use tidemill_replication::metadata::Record as MetadataRecord;
use tidemill_runtime::edge::Instant;

use crate::api::Job;
use crate::coordinator::partition_of;
use crate::coordinator::request::{Reply as GroupReply, Request as GroupRequest};
use crate::job::{JobId, ReplyTo};
use crate::limits::{OFFSETS_BATCH_BYTES_MAX, OFFSETS_LOAD_BYTES, TRANSACTIONS_BYTES_MAX};
use crate::message::{Acks, Answer, Call, GroupQuestion, ReadCall};
use crate::partition::Times;
use crate::partition::transactions::Verification;
use crate::placement;
use crate::shard::{Settings, Shard};
use crate::transaction::record::{DecodeError, Record};
use crate::transaction::request::{Reply, Request};
use crate::transaction::{Append, Coordinator, Mark, Rules};

/// How often a partition that cannot be read is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// The transaction coordinators of one shard.
pub struct Transactions {
    rules: Arc<Rules>,
    /// What they are kept in, once it was made.
    topic: Option<TopicId>,
    coordinators: BTreeMap<TopicPartition, Stage>,
    /// Those whose partition is still to be read, one after the other.
    to_load: VecDeque<TopicPartition>,
    loading: Option<Loading>,
    /// Clients are served, so all shards can be told things.
    is_serving: bool,
    /// Those that may have something to say or to write.
    touched: BTreeSet<TopicPartition>,
    /// When the first of them wants to know the time.
    deadline: Option<Instant>,
    /// What all transactional ids take in memory.
    bytes: usize,
    /// Commits of offsets that wait for coordinators, by the partition of their groups.
    commits: BTreeMap<(TopicPartition, ProducerId), Vec<JobId>>,
}

enum Stage {
    Loading(Coordinator),
    Ready(Coordinator),
}

/// A partition that is being read.
struct Loading {
    partition: TopicPartition,
    next: Offset,
    records: u64,
    bytes: usize,
    told: bool,
}

/// What a job of the shard's own does for transactions.
#[derive(Debug)]
pub enum TransactionJob {
    /// Reads the partition that is being loaded.
    Load,
    /// Appends a coordinator's batch.
    Append {
        /// Whose.
        partition: TopicPartition,
        /// The coordinator's name for it.
        number: u64,
    },
    /// Drops the beginning of a coordinator's log; if it cannot, the next time it can.
    Trim,
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
            rewrite_bytes: settings.group_rewrite_bytes,
        };
        Self {
            rules: Arc::new(rules),
            topic: None,
            coordinators: BTreeMap::new(),
            to_load: VecDeque::new(),
            loading: None,
            is_serving: false,
            touched: BTreeSet::new(),
            deadline: None,
            bytes: 0,
            commits: BTreeMap::new(),
        }
    }

    /// Whether a topic belongs to the coordinators, so that clients change nothing in it.
    #[inline]
    pub fn are_kept_in(&self, topic: TopicId) -> bool {
        self.topic == Some(topic)
    }

    /// When `Shard::tick_transactions` is wanted.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.deadline
    }

    fn ready(&mut self, partition: TopicPartition) -> Option<&mut Coordinator> {
        match self.coordinators.get_mut(&partition) {
            Some(Stage::Ready(coordinator)) => Some(coordinator),
            Some(Stage::Loading(_)) | None => None,
        }
    }

    /// Counts anew what is due and what is held.
    fn count(&mut self) {
        let ready = self.coordinators.values().filter_map(|stage| match stage {
            Stage::Ready(coordinator) => Some(coordinator),
            Stage::Loading(_) => None,
        });
        let (mut bytes, mut deadline) = (0, None::<Instant>);
        for coordinator in ready {
            bytes += coordinator.bytes();
            deadline = deadline.into_iter().chain(coordinator.next_deadline()).min();
        }
        (self.bytes, self.deadline) = (bytes, deadline);
    }
}

impl Shard {
    /// The partition whose coordinator a transactional id belongs to; none before the first one
    /// was looked for.
    pub(crate) fn partition_of_transaction(&self, id: &str) -> Option<TopicPartition> {
        let topic = self.image.topic_named(TRANSACTIONS_TOPIC)?;
        let number = partition_of(id, topic.partitions.len() as i32);
        Some(TopicPartition { topic: topic.id, partition: PartitionId(number) })
    }

    /// All partitions that transactions are kept in.
    pub(crate) fn partitions_of_transactions(&self) -> Vec<TopicPartition> {
        let topic = self.image.topic_named(TRANSACTIONS_TOPIC);
        let all = topic.into_iter().flat_map(|topic| {
            let numbers = 0..topic.partitions.len() as i32;
            numbers.map(|number| TopicPartition { topic: topic.id, partition: PartitionId(number) })
        });
        all.collect()
    }

    /// Asks the coordinator of a partition at home here.
    pub(crate) fn ask_transactions(
        &mut self,
        partition: TopicPartition,
        request: Request,
        reply_to: ReplyTo,
        times: Times,
    ) {
        let has_room = self.transactions.bytes < TRANSACTIONS_BYTES_MAX;
        let refused = match self.transactions.coordinators.get_mut(&partition) {
            Some(Stage::Ready(coordinator)) => {
                coordinator.request(request, reply_to, has_room, times);
                self.transactions.touched.insert(partition);
                return;
            }
            Some(Stage::Loading(_)) => ErrorCode::CoordinatorLoadInProgress,
            None => ErrorCode::NotCoordinator,
        };
        let home = self.home.as_mut().expect("clients are served after adoption");
        home.answer(reply_to, Answer::Transaction(Box::new(Reply::Refused(refused))));
    }

    // Coming and going.

    /// Takes up the coordinators of all partitions that are at home here: clients are served.
    pub(crate) fn adopt_transactions(&mut self, times: Times) {
        self.transactions.is_serving = true;
        self.transactions.topic = self.image.topic_named(TRANSACTIONS_TOPIC).map(|topic| topic.id);
        for partition in self.partitions_of_transactions() {
            let is_here = placement::home(partition, self.settings.shards) == self.id;
            if is_here && !self.transactions.coordinators.contains_key(&partition) {
                let coordinator = Coordinator::new(Arc::clone(&self.transactions.rules));
                let stage = Stage::Loading(coordinator);
                self.transactions.coordinators.insert(partition, stage);
                self.transactions.to_load.push_back(partition);
            }
        }
        self.load_next_transactions(times);
    }

    /// Does what a record of the metadata means for transactions.
    pub(crate) fn transactions_follow(&mut self, record: &MetadataRecord, times: Times) {
        if let MetadataRecord::TopicCreated { name, .. } = record
            && name == TRANSACTIONS_TOPIC
            && self.transactions.is_serving
        {
            self.adopt_transactions(times);
        }
    }

    /// The node stops: all who wait are told to look for the coordinator again.
    pub(crate) fn close_transactions(&mut self) {
        for (partition, stage) in &mut self.transactions.coordinators {
            if let Stage::Ready(coordinator) = stage {
                coordinator.close(ErrorCode::NotCoordinator);
                self.transactions.touched.insert(*partition);
            }
        }
    }

    // Loading.

    fn load_next_transactions(&mut self, times: Times) {
        while self.transactions.loading.is_none() {
            let Some(partition) = self.transactions.to_load.pop_front() else { return };
            let home = self.home.as_ref().expect("coordinators come after adoption");
            let Some((start, _)) = home.bounds(partition) else { continue };
            let loading = Loading { partition, next: start, records: 0, bytes: 0, told: false };
            self.transactions.loading = Some(loading);
            self.load_transactions_on(times);
        }
    }

    /// Reads on, or ends if all is read.
    fn load_transactions_on(&mut self, times: Times) {
        let Some(loading) = &self.transactions.loading else { return };
        let (partition, from) = (loading.partition, loading.next);
        let home = self.home.as_ref().expect("coordinators come after adoption");
        let Some((_, end)) = home.bounds(partition) else {
            self.transactions.coordinators.remove(&partition);
            self.transactions.loading = None;
            return self.load_next_transactions(times);
        };
        if end <= from {
            return self.transactions_loaded(times);
        }
        let job = self.jobs.insert(Job::Transactions(TransactionJob::Load));
        let read = ReadCall {
            from,
            limit_bytes: OFFSETS_LOAD_BYTES,
            min_one: true,
            read_committed: false,
            current_leader_epoch: None,
            last_fetched_epoch: None,
        };
        self.call(job, [(0, partition, Call::Read(read))], times);
    }

    fn transactions_loaded(&mut self, times: Times) {
        let loading = self.transactions.loading.take();
        let Some(Loading { partition, records, bytes, .. }) = loading else { return };
        let stage = self.transactions.coordinators.remove(&partition);
        if let Some(Stage::Loading(mut coordinator)) = stage {
            coordinator.loaded(bytes, times);
            if 0 < records {
                let transactions = coordinator.ids_count();
                let partition = partition.partition.0;
                tracing::info!(partition, transactions, records, "transactions are known again");
            }
            self.transactions.coordinators.insert(partition, Stage::Ready(coordinator));
            self.transactions.touched.insert(partition);
        }
        self.load_next_transactions(times);
    }

    fn load_of_transactions_answered(&mut self, job: JobId, answer: Answer, times: Times) {
        let refusal = match answer {
            Answer::Read(read) => match self.replay_transactions(&read.batches) {
                Ok(()) => {
                    self.jobs.remove(job);
                    return self.load_transactions_on(times);
                }
                Err(error) => error.to_string(),
            },
            Answer::Refused { error, .. } => error.to_string(),
            other => unreachable!("a read is answered as such, not with {other:?}"),
        };
        let Some(loading) = &mut self.transactions.loading else { return };
        if !loading.told {
            loading.told = true;
            let partition = loading.partition.partition.0;
            let from = loading.next.0;
            tracing::error!(partition, from, refusal, "transactions cannot be read; tried again");
        }
        self.jobs.set_deadline(job, times.now.after(RETRY));
    }

    /// The time to try again has come.
    pub(crate) fn transaction_job_expired(&mut self, id: JobId, times: Times) {
        self.jobs.remove(id);
        self.load_transactions_on(times);
    }

    fn replay_transactions(&mut self, runs: &[bytes::Bytes]) -> Result<(), DecodeError> {
        let Some(loading) = &mut self.transactions.loading else { return Ok(()) };
        let stage = self.transactions.coordinators.get_mut(&loading.partition);
        let Some(Stage::Loading(coordinator)) = stage else { return Ok(()) };
        for run in runs {
            loading.bytes += run.len();
            let mut rest = &run[..];
            while !rest.is_empty() {
                let (batch, after) = Batch::parse(rest).map_err(|_| DecodeError::DamagedBatch)?;
                let contents = Contents::open(&batch, OFFSETS_BATCH_BYTES_MAX as usize);
                let contents = contents.map_err(|_| DecodeError::DamagedBatch)?;
                for record in contents.records() {
                    let record = record.map_err(|_| DecodeError::DamagedBatch)?;
                    let key = record.key.ok_or(DecodeError::DamagedBatch)?;
                    coordinator.replay(Record::decode(key, record.value)?);
                    loading.records += 1;
                }
                loading.next = batch.next_offset();
                rest = after;
            }
        }
        Ok(())
    }

    // Producer ids.

    /// A producer id for the coordinator of this partition, or why there is none.
    pub(crate) fn give_producer_id(
        &mut self,
        partition: TopicPartition,
        id: Result<i64, ErrorCode>,
        times: Times,
    ) {
        let Some(coordinator) = self.transactions.ready(partition) else { return };
        match id {
            Ok(id) => coordinator.give_id(ProducerId(id), times),
            Err(_) => coordinator.no_id(times),
        }
        self.transactions.touched.insert(partition);
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
            ErrorCode::None => self.ask_coordinator(partition, question.request, reply_to, times),
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
        let Some(Job::Transactions(job)) = self.jobs.get_mut(id) else { return };
        if matches!(job, TransactionJob::Load) {
            return self.load_of_transactions_answered(id, answer, times);
        }
        let Some(Job::Transactions(job)) = self.jobs.remove(id) else { return };
        let partition = match job {
            TransactionJob::Load => unreachable!("seen above"),
            TransactionJob::Trim => return,
            TransactionJob::Append { partition, number } => {
                let Some(coordinator) = self.transactions.ready(partition) else { return };
                match answer {
                    Answer::Appended { base_offset, .. } => {
                        coordinator.appended(number, base_offset, times);
                    }
                    Answer::Refused { error, .. } => {
                        coordinator.refused(number, told_to_client(error), times);
                    }
                    other => unreachable!("an append is answered as such, not with {other:?}"),
                }
                partition
            }
            TransactionJob::Mark { partition, mark } => {
                let Some(coordinator) = self.transactions.ready(partition) else { return };
                coordinator.marked(&mark, marked(&answer), times);
                partition
            }
            TransactionJob::Verify(verification) => {
                return self.verified(&verification, &reply_of(answer), times);
            }
            TransactionJob::VerifyCommit { partition, question, reply_to } => {
                let waits = WaitingCommit { partition, question, reply_to };
                return self.commit_verified(id, waits, &reply_of(answer), times);
            }
        };
        self.transactions.touched.insert(partition);
    }

    /// Tells and writes what coordinators have decided, and asks what partitions want to know; true
    /// if there was anything.
    pub(crate) fn step_transactions(&mut self, times: Times) -> bool {
        let mut moved = false;
        while let Some(asked) = self.home.as_mut().and_then(|home| home.poll_verification()) {
            moved = true;
            self.verify(asked, times);
        }
        if self.transactions.touched.is_empty() {
            return moved;
        }
        for partition in std::mem::take(&mut self.transactions.touched) {
            self.step_transaction_coordinator(partition, times);
        }
        self.transactions.count();
        true
    }

    fn step_transaction_coordinator(&mut self, partition: TopicPartition, times: Times) {
        let Some(coordinator) = self.transactions.ready(partition) else { return };
        let replies = coordinator.take_replies();
        let marks = coordinator.take_marks();
        let ids_wanted = coordinator.take_ids_wanted();
        let appends = std::iter::from_fn(|| coordinator.poll_append(times.wall_ms));
        let mut calls: Vec<(TransactionJob, Call)> = appends
            .map(|Append { number, batch }| {
                let append = Call::Append { batch, acks: Acks::InSync, zstd_allowed: false };
                (TransactionJob::Append { partition, number }, append)
            })
            .collect();
        let trim = coordinator.take_trim();
        calls.extend(trim.map(|before| (TransactionJob::Trim, Call::Trim { before: before.0 })));
        let home = self.home.as_mut().expect("coordinators come after adoption");
        for (reply_to, reply) in replies {
            home.answer(reply_to, Answer::Transaction(Box::new(reply)));
        }
        for (job, call) in calls {
            let job = self.jobs.insert(Job::Transactions(job));
            home.call(partition, call, ReplyTo { shard: self.id, job, index: 0 }, times);
        }
        let epoch = home.leader_epoch(partition).map_or(0, |epoch| epoch.0);
        for mark in marks {
            self.tell_partition(partition, mark, epoch, times);
        }
        for _ in 0..ids_wanted {
            self.want_producer_id(partition, times);
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
            if let Some(ready) = self.transactions.ready(coordinator) {
                ready.marked(&mark, Ok(()), times);
                self.transactions.touched.insert(coordinator);
            }
            return;
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

    /// Time has passed; tells how many coordinators were told.
    pub(crate) fn tick_transactions(&mut self, times: Times) -> usize {
        if self.transactions.deadline.is_none_or(|deadline| times.now < deadline) {
            return 0;
        }
        let mut ticked = 0;
        for (partition, stage) in &mut self.transactions.coordinators {
            if let Stage::Ready(coordinator) = stage
                && coordinator.next_deadline().is_some_and(|deadline| deadline <= times.now)
            {
                coordinator.tick(times);
                self.transactions.touched.insert(*partition);
                ticked += 1;
            }
        }
        ticked
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

/// What a client is told about a transaction whose record could not be appended. What helps is to
/// look for the coordinator again.
fn told_to_client(error: ErrorCode) -> ErrorCode {
    match error {
        ErrorCode::KafkaStorageError | ErrorCode::NotLeaderOrFollower => ErrorCode::NotCoordinator,
        ErrorCode::UnknownTopicOrPartition
        | ErrorCode::NotEnoughReplicas
        | ErrorCode::RequestTimedOut => ErrorCode::CoordinatorNotAvailable,
        _ => ErrorCode::UnknownServerError,
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
