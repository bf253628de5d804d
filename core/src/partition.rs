//! Partitions at home: their logs, and who waits for what in them.
//!
//! A [`Home`] is all that one shard owns of the data: its storage and the partitions whose home it
//! is. It takes a [`Call`] on a partition, from whatever shard, and gives exactly one [`Answer`]
//! back, at once or when the disk has done its part:
//!
//! - an append waits for space, then for durability;
//! - a read of old records waits for the disk; a watch waits for new ones;
//! - a trim waits until the new start is durable.
//!
//! Start reading at [`Home::call`].

mod checks;
pub mod compacting;
mod reading;
mod refused;
mod reworking;
pub mod transactions;

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::BytesMut;
use tidemill_net::kafka::ErrorCode;
use tidemill_perf::MEASURING;
use tidemill_perf::lateness::Lateness;
use tidemill_record::{IdMap, LeaderEpoch, Offset, Producer, Timestamp, TopicPartition, Validated};
use tidemill_runtime::edge::{Instant, ShardId};
use tidemill_storage::{
    AppendError, AppendKind, Appended, Durability, Event, LogConfig, LogId, ReadId, ShardStorage,
    TrimError,
};

pub use self::compacting::{Compaction, CompactionFigures, CompactionLimits, CompactionRules};

use self::checks::{
    check, check_keys, check_timestamps, epoch_error, refused, refused_append, validate,
};
use self::refused::RefusedBatches;
use self::transactions::{Incoming, Unverified, Verification};
use crate::job::{JobId, ReplyTo};
use crate::limits::{APPENDS_QUEUED_MAX, LATENESS_PARTITIONS_MAX};
use crate::measure::PartitionState;
use crate::message::{Acks, Answer, Call, ReadCall};
use crate::rework::{Rework, Wanted};

/// Everything this shard is the home of.
pub struct Home {
    /// The shard's logs and journal.
    pub storage: ShardStorage,
    partitions: IdMap<TopicPartition, Partition>,
    by_log: IdMap<LogId, TopicPartition>,
    reads: IdMap<ReadId, DiskRead>,
    /// What the appends that wait for space hold, in all partitions.
    queued_bytes: usize,
    queued_bytes_max: usize,
    answers: Vec<(ReplyTo, Answer)>,
    /// Partitions whose first batch waits to be made anew, with the number of that.
    reworks: VecDeque<(TopicPartition, u64)>,
    /// Which one is being made anew: one at a time.
    reworking: Option<(TopicPartition, u64)>,
    reworks_asked: u64,
    compaction: Compaction,
    /// What the coordinators of transactions are to be asked.
    verifications: VecDeque<Verification>,
    fenced: bool,
    stopping: bool,
    batches_appended: u64,
    /// Batches refused because too many transactions are remembered.
    transactions_refused: u64,
    /// Of so many partitions it is known how late their records come.
    lateness_kept: usize,
}

/// What the broker decides about a partition, beside what its log is told.
#[derive(Clone, Debug)]
pub struct Rules {
    /// The topic's name, for people.
    pub topic: Arc<str>,
    /// Raised by each start of the node; every append is stamped with it.
    pub leader_epoch: LeaderEpoch,
    /// `max.message.bytes`
    pub batch_bytes_max: u32,
    /// How many replicas the partition has.
    pub replicas: u32,
    /// `min.insync.replicas`: with fewer, acks=all is refused.
    pub min_in_sync: u32,
    /// `message.timestamp.after.max.ms`
    pub ahead_max_ms: i64,
    /// What is done to a batch before it is appended.
    pub wanted: Wanted,
    /// How the log keeps its records.
    pub log: LogConfig,
    /// How it is compacted, if it is.
    pub compaction: Option<CompactionRules>,
}

struct Partition {
    log: LogId,
    rules: Rules,
    /// Appends that wait until segment and journal have room, in order of arrival.
    queued: VecDeque<QueuedAppend>,
    /// Appended, not yet durable, in order of `end`.
    waiting: VecDeque<WaitingProduce>,
    /// Of transactions whose coordinator is asked whether it knows of them.
    unverified: Unverified,
    /// Refused for now: nothing of the same producer may overtake them.
    refused: RefusedBatches,
    /// It was told that there are too many transactions.
    is_full_told: bool,
    watchers: Vec<Watcher>,
    trims: Vec<(Offset, ReplyTo)>,
    /// Made with the first batch since the start.
    lateness: Option<Box<Lateness>>,
}

struct QueuedAppend {
    batch: BytesMut,
    /// Of the batch as it came: the log takes its bytes.
    size_bytes: usize,
    validated: Validated,
    /// What is to be done to it first, away from this shard.
    rework: Option<Rework>,
    /// The number under which that was asked for.
    rework_number: Option<u64>,
    acks: Acks,
    reply_to: ReplyTo,
}

struct WaitingProduce {
    end: Offset,
    reply_to: ReplyTo,
    base_offset: Offset,
    log_append_time: Option<Timestamp>,
}

struct Watcher {
    reply_to: ReplyTo,
    seen_end: Offset,
    read_committed: bool,
}

struct DiskRead {
    partition: TopicPartition,
    reply_to: ReplyTo,
    kind: DiskReadKind,
}

enum DiskReadKind {
    Fetch { diverging: Option<(LeaderEpoch, Offset)>, call: ReadCall },
    Lookup,
}

/// The time, as an append needs it.
#[derive(Clone, Copy, Debug)]
pub struct Times {
    /// Monotonic.
    pub now: Instant,
    /// Milliseconds since the Unix epoch.
    pub wall_ms: i64,
}

impl Home {
    /// The home of nothing yet, on recovered storage. Appends that wait for space hold at most
    /// `queued_bytes_max`: their requests may have timed out, and then nothing else counts them.
    pub fn new(
        storage: ShardStorage,
        queued_bytes_max: usize,
        compaction: CompactionLimits,
    ) -> Self {
        Self {
            storage,
            partitions: IdMap::default(),
            by_log: IdMap::default(),
            reads: IdMap::default(),
            queued_bytes: 0,
            queued_bytes_max,
            answers: Vec::new(),
            reworks: VecDeque::new(),
            reworking: None,
            reworks_asked: 0,
            compaction: Compaction::new(compaction),
            verifications: VecDeque::new(),
            fenced: false,
            stopping: false,
            batches_appended: 0,
            transactions_refused: 0,
            lateness_kept: 0,
        }
    }

    /// Takes a partition in, or gives one that is here new rules.
    pub fn adopt(&mut self, id: TopicPartition, rules: Rules) {
        self.compaction.set_rules(id, rules.compaction);
        if let Some(partition) = self.partitions.get_mut(&id) {
            self.storage.configure(partition.log, rules.log.clone());
            partition.rules = rules;
            return;
        }
        let log = self.storage.create_log(id, rules.log.clone());
        self.by_log.insert(log, id);
        self.partitions.insert(
            id,
            Partition {
                log,
                rules,
                queued: VecDeque::new(),
                waiting: VecDeque::new(),
                unverified: Unverified::default(),
                refused: RefusedBatches::default(),
                is_full_told: false,
                watchers: Vec::new(),
                trims: Vec::new(),
                lateness: None,
            },
        );
    }

    /// Removes a partition and its files for ever; everybody who waits is refused.
    pub fn delete(&mut self, id: TopicPartition, now: Instant) {
        let Some(partition) = self.partitions.remove(&id) else { return };
        self.by_log.remove(&partition.log);
        self.queued_bytes -= partition.queued_bytes();
        self.lateness_kept -= usize::from(partition.lateness.is_some());
        let queued = partition.queued.into_iter().chain(partition.unverified.into_all());
        let everybody = queued.map(|queued| queued.reply_to);
        let everybody = everybody.chain(partition.waiting.into_iter().map(|w| w.reply_to));
        let everybody = everybody.chain(partition.trims.into_iter().map(|(_, reply_to)| reply_to));
        for reply_to in everybody {
            self.answers.push((reply_to, refused(ErrorCode::UnknownTopicOrPartition)));
        }
        for watcher in partition.watchers {
            self.answers.push((watcher.reply_to, Answer::Moved));
        }
        self.stop_compacting(id, now);
        self.storage.drop_log(partition.log, now.nanos);
    }

    /// Clean stop: no more appends; those not begun are refused so that clients try again later.
    pub fn stop(&mut self, now: Instant) {
        self.stopping = true;
        self.queued_bytes = 0;
        for partition in self.partitions.values_mut() {
            for queued in partition.queued.drain(..).chain(partition.unverified.take_all()) {
                self.answers.push((queued.reply_to, refused(ErrorCode::NotLeaderOrFollower)));
            }
        }
        self.leave_round();
        self.storage.checkpoint_and_stop(now.nanos);
    }

    /// The longest batch that is appended to a partition, if it lives here.
    pub fn batch_bytes_max(&self, id: TopicPartition) -> Option<u32> {
        Some(self.partitions.get(&id)?.rules.batch_bytes_max)
    }

    /// Does `call`, or begins to; the answer comes out of [`Home::take_answers`].
    pub fn call(&mut self, id: TopicPartition, call: Call, reply_to: ReplyTo, times: Times) {
        let Some(partition) = self.partitions.get(&id) else {
            let error = ErrorCode::UnknownTopicOrPartition;
            return self.answers.push((reply_to, refused(error)));
        };
        let leading = partition.rules.leader_epoch;
        let claimed = match &call {
            Call::Read(read) => read.current_leader_epoch,
            Call::ListOffset { current_leader_epoch, .. }
            | Call::EpochEnd { current_leader_epoch, .. } => *current_leader_epoch,
            Call::Append { .. }
            | Call::Watch { .. }
            | Call::Trim { .. }
            | Call::Size
            | Call::AppendInTransaction { .. }
            | Call::Mark { .. }
            | Call::DescribeProducers
            | Call::Group(_)
            | Call::GroupInTransaction(_)
            | Call::Share(_)
            | Call::Transaction(_) => None,
        };
        if let Some(error) = claimed.and_then(|claimed| epoch_error(claimed, leading)) {
            return self.answers.push((reply_to, refused(error)));
        }
        match call {
            Call::Append { batch, acks, zstd_allowed } => {
                self.append(id, batch, acks, zstd_allowed, reply_to, times);
            }
            Call::AppendInTransaction { batch, acks, zstd_allowed, transaction } => {
                let batch = Incoming { batch, acks, zstd_allowed, reply_to };
                self.append_in_transaction(id, batch, *transaction, times);
            }
            Call::Mark { producer, marker } => self.mark(id, producer, marker, reply_to, times),
            Call::DescribeProducers => {
                let states = self.storage.log(self.partitions[&id].log).producer_states();
                self.answers.push((reply_to, Answer::Producers(states)));
            }
            Call::Read(read) => self.read(id, read, reply_to),
            Call::Watch { seen_end, read_committed } => {
                self.watch(id, Watcher { reply_to, seen_end, read_committed });
            }
            Call::ListOffset { timestamp, read_committed, .. } => {
                self.list_offset(id, timestamp, read_committed, reply_to);
            }
            Call::EpochEnd { epoch, .. } => {
                let end = self.storage.epoch_end(partition.log, epoch, leading);
                self.answers.push((reply_to, Answer::EpochEnd(end)));
            }
            Call::Trim { before } => self.trim(id, before, reply_to, times.now),
            Call::Group(_)
            | Call::GroupInTransaction(_)
            | Call::Transaction(_)
            | Call::Share(_) => {
                unreachable!("the partition's coordinator answers it")
            }
            Call::Size => {
                let size_bytes = self.storage.log(partition.log).size_bytes();
                self.answers.push((reply_to, Answer::Size { size_bytes }));
            }
        }
    }

    /// A job's fetch has ended: it waits for no arrivals any more.
    pub fn unwatch(&mut self, id: TopicPartition, job: JobId, shard: ShardId) {
        if let Some(partition) = self.partitions.get_mut(&id) {
            partition
                .watchers
                .retain(|watcher| (watcher.reply_to.job, watcher.reply_to.shard) != (job, shard));
        }
    }

    /// Answers a call that was not for the partition itself, in the order of all others.
    pub fn answer(&mut self, reply_to: ReplyTo, answer: Answer) {
        self.answers.push((reply_to, answer));
    }

    /// Where a partition that lives here begins, and how far it can be read.
    pub fn bounds(&self, id: TopicPartition) -> Option<(Offset, Offset)> {
        let partition = self.partitions.get(&id)?;
        Some((self.storage.log(partition.log).start(), self.high_watermark(partition)))
    }

    /// The answers since the last time, in exchange for an empty vector.
    pub fn take_answers(&mut self, spare: Vec<(ReplyTo, Answer)>) -> Vec<(ReplyTo, Answer)> {
        assert!(spare.is_empty(), "an answer is given once");
        std::mem::replace(&mut self.answers, spare)
    }

    /// The answer given last, if it is the one for `reply_to`.
    pub fn take_last_answer(&mut self, reply_to: ReplyTo) -> Option<Answer> {
        let own = self.answers.last()?.0 == reply_to;
        own.then(|| self.answers.pop().expect("just seen").1)
    }

    /// Whether there are answers to take.
    pub fn has_answers(&self) -> bool {
        !self.answers.is_empty()
    }

    /// How many batches were appended since the start.
    pub fn batches_appended(&self) -> u64 {
        self.batches_appended
    }

    /// How many batches were refused since the start because their partition remembers too many
    /// transactions.
    pub fn transactions_refused(&self) -> u64 {
        self.transactions_refused
    }

    /// What compaction did here.
    pub fn compaction_figures(&self) -> CompactionFigures {
        self.compaction.figures()
    }

    /// How many partitions live here.
    pub fn partitions_count(&self) -> usize {
        self.partitions.len()
    }

    /// How a partition is, if it lives here.
    pub fn state(&self, id: TopicPartition, topic: &Arc<str>) -> Option<PartitionState> {
        let partition = self.partitions.get(&id)?;
        let log = self.storage.log(partition.log);
        Some(PartitionState {
            topic: Arc::clone(topic),
            partition: id.partition.0,
            log_start: log.start().0,
            high_watermark: self.high_watermark(partition).0,
            size_bytes: log.size_bytes(),
            lateness: partition.lateness.clone(),
        })
    }

    /// The era of the partition's leader, if it lives here.
    pub fn leader_epoch(&self, id: TopicPartition) -> Option<LeaderEpoch> {
        Some(self.partitions.get(&id)?.rules.leader_epoch)
    }

    /// Which partition's log this is.
    pub fn partition_of(&self, log: LogId) -> Option<TopicPartition> {
        self.by_log.get(&log).copied()
    }

    /// Whether the data directory has failed.
    pub fn is_fenced(&self) -> bool {
        self.fenced
    }

    /// Something happened in storage. Returns a partition whose files are gone.
    pub fn handle_event(&mut self, event: Event, times: Times) -> Option<TopicPartition> {
        match event {
            Event::Durable { log, .. } => self.durable(log),
            Event::Admitted { log } => self.admitted(log, times),
            Event::NoSpace { log } => self.no_space(log, times),
            Event::ReadDone { read, result } => self.read_done(read, result),
            Event::LookupDone { read, result } => self.lookup_done(read, result),
            Event::Trimmed { log, start } => self.trimmed(log, start),
            Event::Truncated { log, .. } => self.admitted(log, times),
            Event::Dropped { partition } => return Some(partition),
            // Its topic's name is known to the shard, which tells.
            Event::Damaged { .. } => {}
            Event::Fenced => self.fence(),
        }
        None
    }

    /// The data directory has failed here or on another shard: nothing is appended any more.
    pub fn fence(&mut self) {
        if !self.fenced {
            tracing::error!("a write or sync failed: no appends until a restart has repaired it");
        }
        self.fenced = true;
        self.storage.fence();
        self.queued_bytes = 0;
        for partition in self.partitions.values_mut() {
            let queued = partition.queued.drain(..).chain(partition.unverified.take_all());
            let queued = queued.map(|queued| queued.reply_to);
            // Whether these reached the disk is unknown: they must not be acknowledged.
            let waiting = partition.waiting.drain(..).map(|waiting| waiting.reply_to);
            let trims = partition.trims.drain(..).map(|(_, reply_to)| reply_to);
            for reply_to in queued.chain(waiting).chain(trims) {
                self.answers.push((reply_to, refused(ErrorCode::KafkaStorageError)));
            }
        }
    }

    // Appending.

    fn append(
        &mut self,
        id: TopicPartition,
        batch: BytesMut,
        acks: Acks,
        zstd_allowed: bool,
        reply_to: ReplyTo,
        times: Times,
    ) {
        let partition = self.partitions.get_mut(&id).expect("the caller has just seen it");
        let rules = &partition.rules;
        let checked = check(&batch, rules, zstd_allowed)
            .and_then(|validated| check_timestamps(validated, rules, times.wall_ms))
            .and_then(|validated| check_keys(&batch, validated, rules));
        let validated = match checked {
            Ok(validated) if validated.is_transactional() => {
                // Kafka's answer to a client that names no transaction.
                let error = ErrorCode::TransactionalIdAuthorizationFailed;
                return self.answers.push((reply_to, refused(error)));
            }
            Ok(validated) => validated,
            Err(answer) => return self.answers.push((reply_to, answer)),
        };
        let rework = rules.wanted.of(&validated, times.wall_ms);
        let queued = QueuedAppend::new(batch, validated, rework, acks, reply_to);
        self.enqueue(id, queued, times);
    }

    /// Takes an append in behind those that wait, or refuses it.
    fn enqueue(&mut self, id: TopicPartition, queued: QueuedAppend, times: Times) {
        let Some(queued) = self.admit(id, queued) else { return };
        let partition = self.partitions.get_mut(&id).expect("the caller has just seen it");
        self.queued_bytes += queued.size_bytes;
        // What arrived earlier is appended earlier, or a producer's sequence would be torn.
        partition.queued.push_back(queued);
        if partition.queued.len() == 1 {
            self.append_queued(id, times);
        }
        self.refuse_last_beyond_bounds(id);
    }

    /// An append that may wait for its turn; others are answered.
    fn admit(&mut self, id: TopicPartition, queued: QueuedAppend) -> Option<QueuedAppend> {
        let partition = self.partitions.get_mut(&id).expect("the caller has just seen it");
        let QueuedAppend { validated, acks, reply_to, .. } = &queued;
        let reply_to = *reply_to;
        if self.stopping {
            self.answers.push((reply_to, refused(ErrorCode::NotLeaderOrFollower)));
            return None;
        }
        if *acks == Acks::InSync && partition.rules.replicas < partition.rules.min_in_sync {
            self.answers.push((reply_to, refused(ErrorCode::NotEnoughReplicas)));
            return None;
        }
        let number = validated.producer().zip(validated.base_sequence());
        // Of a producer that it knows, the log sees for itself what comes too early.
        let unknown =
            |producer: &Producer| !self.storage.log(partition.log).knows_producer(producer.id);
        if let Some((producer, sequence)) = number
            && unknown(&producer)
            && partition.refused.would_overtake(producer, sequence)
        {
            let error = ErrorCode::OutOfOrderSequenceNumber;
            self.answers.push((reply_to, refused(error)));
            return None;
        }
        Some(queued)
    }

    /// Refuses the append that came last if there is no room for it to wait in.
    fn refuse_last_beyond_bounds(&mut self, id: TopicPartition) {
        let Some(partition) = self.partitions.get_mut(&id) else { return };
        let few = partition.queued.len() <= APPENDS_QUEUED_MAX;
        if few && self.queued_bytes <= self.queued_bytes_max {
            return;
        }
        let Some(last) = partition.queued.pop_back() else { return };
        self.queued_bytes -= last.size_bytes;
        partition.remember_refused(&last);
        let message = Some("too many records wait for the disk".to_owned());
        let answer = Answer::Refused { error: ErrorCode::KafkaStorageError, message };
        self.answers.push((last.reply_to, answer));
    }

    fn append_queued(&mut self, id: TopicPartition, times: Times) {
        let Some(partition) = self.partitions.get_mut(&id) else { return };
        while let Some(next) = partition.queued.front_mut() {
            if next.rework.is_some() {
                if next.rework_number.is_none() {
                    self.reworks_asked += 1;
                    next.rework_number = Some(self.reworks_asked);
                    self.reworks.push_back((id, self.reworks_asked));
                }
                // It stays at the front; `reworked` follows.
                return;
            }
            let appended = self.storage.append(
                partition.log,
                &mut next.batch,
                &next.validated,
                partition.rules.leader_epoch,
                times.wall_ms,
                times.now.nanos,
            );
            if appended == Err(AppendError::SpaceNotReserved) {
                // It stays at the front; `Admitted` or `NoSpace` follows.
                return;
            }
            let queued = partition.queued.pop_front().expect("seen above");
            self.queued_bytes -= queued.size_bytes;
            match appended {
                Ok(appended) => {
                    let log = self.storage.log(partition.log);
                    let durable_end = log.durable_end();
                    let start = log.start();
                    if appended.kind == AppendKind::New {
                        self.batches_appended += 1;
                        let kept = &mut self.lateness_kept;
                        partition.note_lateness(&queued.validated, times.wall_ms, kept);
                    }
                    let answer = partition.appended(
                        &appended,
                        durable_end,
                        start,
                        queued.acks,
                        queued.reply_to,
                    );
                    self.answers.extend(answer.map(|answer| (queued.reply_to, answer)));
                }
                Err(error) => {
                    match error {
                        AppendError::TooManyProducers { .. } => partition.remember_refused(&queued),
                        AppendError::TooManyTransactions { limit } => {
                            self.transactions_refused += 1;
                            partition.tell_too_many_transactions(id, limit);
                        }
                        _ => {}
                    }
                    self.answers.push((queued.reply_to, refused_append(&error)));
                }
            }
        }
        if partition.rules.log.durability == Durability::Relaxed {
            self.wake(id);
        }
    }

    fn admitted(&mut self, log: LogId, times: Times) {
        if let Some(&id) = self.by_log.get(&log) {
            self.append_queued(id, times);
        }
    }

    fn no_space(&mut self, log: LogId, times: Times) {
        let Some(&id) = self.by_log.get(&log) else { return };
        let Some(partition) = self.partitions.get_mut(&id) else { return };
        for queued in std::mem::take(&mut partition.queued) {
            if self.storage.log(log).holds(&queued.validated) {
                // It takes no room. Refused, it could come again when its number is forgotten.
                partition.queued.push_back(queued);
                continue;
            }
            self.queued_bytes -= queued.size_bytes;
            partition.remember_refused(&queued);
            let message = "the data directory's disk is full".to_owned();
            let answer =
                Answer::Refused { error: ErrorCode::KafkaStorageError, message: Some(message) };
            self.answers.push((queued.reply_to, answer));
        }
        self.append_queued(id, times);
    }

    fn durable(&mut self, log: LogId) {
        let Some(&id) = self.by_log.get(&log) else { return };
        let Some(partition) = self.partitions.get_mut(&id) else { return };
        let log = self.storage.log(log);
        while let Some(waiting) = partition.waiting.front() {
            if log.durable_end() < waiting.end {
                break;
            }
            let waiting = partition.waiting.pop_front().expect("seen above");
            let answer = Answer::Appended {
                base_offset: waiting.base_offset,
                log_append_time: waiting.log_append_time,
                log_start_offset: log.start(),
            };
            self.answers.push((waiting.reply_to, answer));
        }
        self.wake(id);
    }

    fn trim(&mut self, id: TopicPartition, before: i64, reply_to: ReplyTo, now: Instant) {
        const HIGH_WATERMARK: i64 = -1;
        let partition = &self.partitions[&id];
        let end = self.high_watermark(partition);
        // What a relaxed topic shows may not be durable yet; only what is can be dropped.
        let durable_end = self.storage.log(partition.log).durable_end();
        let before = if before == HIGH_WATERMARK { end.min(durable_end) } else { Offset(before) };
        if before < Offset::ZERO || end < before {
            return self.answers.push((reply_to, refused(ErrorCode::OffsetOutOfRange)));
        }
        match self.storage.trim(partition.log, before, now.nanos) {
            Ok(()) => {
                let partition = self.partitions.get_mut(&id).expect("seen above");
                partition.trims.push((before, reply_to));
            }
            Err(error) => {
                let error = match error {
                    TrimError::OffsetOutOfRange { .. } => ErrorCode::OffsetOutOfRange,
                    TrimError::Closing => ErrorCode::UnknownTopicOrPartition,
                    TrimError::Fenced | TrimError::Busy => ErrorCode::KafkaStorageError,
                };
                self.answers.push((reply_to, refused(error)));
            }
        }
    }

    fn trimmed(&mut self, log: LogId, start: Offset) {
        let Some(id) = self.by_log.get(&log) else { return };
        let Some(partition) = self.partitions.get_mut(id) else { return };
        let answers = &mut self.answers;
        partition.trims.retain(|&(before, reply_to)| {
            let stays = start < before;
            if !stays {
                answers.push((reply_to, Answer::Trimmed { log_start_offset: start }));
            }
            stays
        });
    }
}

impl QueuedAppend {
    fn new(
        batch: BytesMut,
        validated: Validated,
        rework: Option<Rework>,
        acks: Acks,
        reply_to: ReplyTo,
    ) -> Self {
        let size_bytes = batch.len();
        Self { batch, size_bytes, validated, rework, rework_number: None, acks, reply_to }
    }
}

impl Partition {
    /// Counts how late a new batch is; of further partitions than may be kept it is not counted.
    fn note_lateness(&mut self, batch: &Validated, wall_ms: i64, kept: &mut usize) {
        if !MEASURING {
            return;
        }
        if self.lateness.is_none() {
            if *kept == LATENESS_PARTITIONS_MAX {
                return;
            }
            *kept += 1;
        }
        let lateness = self.lateness.get_or_insert_default();
        lateness.append(batch.base_timestamp().0, batch.max_timestamp().0, wall_ms);
    }

    fn queued_bytes(&self) -> usize {
        let queued = self.queued.iter().chain(self.unverified.iter());
        queued.map(|queued| queued.size_bytes).sum()
    }

    fn remember_refused(&mut self, queued: &QueuedAppend) {
        let validated = &queued.validated;
        if let Some((producer, sequence)) = validated.producer().zip(validated.base_sequence()) {
            self.refused.remember(producer, sequence);
        }
    }

    /// Says, the first time, that it takes no more transactions: nobody who looks at the broker
    /// would know otherwise.
    fn tell_too_many_transactions(&mut self, id: TopicPartition, limit: u32) {
        if !std::mem::replace(&mut self.is_full_told, true) {
            tracing::warn!(
                topic = &*self.rules.topic,
                partition = id.partition.0,
                limit,
                "no more transactions are taken: too many, open or aborted, are remembered; delete \
                 records (DeleteRecords, or a shorter retention)"
            );
        }
    }

    /// The answer to an append, if it need not wait for the disk.
    fn appended(
        &mut self,
        appended: &Appended,
        durable_end: Offset,
        log_start_offset: Offset,
        acks: Acks,
        reply_to: ReplyTo,
    ) -> Option<Answer> {
        let end = appended.last_offset.plus(1);
        let relaxed = self.rules.log.durability == Durability::Relaxed;
        let base_offset = appended.base_offset;
        let log_append_time = appended.log_append_time;
        if relaxed || acks == Acks::None || end <= durable_end {
            return Some(Answer::Appended { base_offset, log_append_time, log_start_offset });
        }
        // A duplicate may lie before what others wait for: it waits for what its original does.
        let place = self.waiting.iter().rposition(|waiting| waiting.end <= end);
        let waiting = WaitingProduce { end, reply_to, base_offset, log_append_time };
        self.waiting.insert(place.map_or(0, |place| place + 1), waiting);
        None
    }
}

#[cfg(test)]
pub(crate) mod tests;
