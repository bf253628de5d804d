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

mod appending;
mod checks;
pub mod compacting;
mod reading;
mod refused;
mod reworking;
pub mod transactions;

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use tidemill_net::kafka::ErrorCode;
use tidemill_perf::lateness::Lateness;
use tidemill_record::{IdMap, LeaderEpoch, Offset, TopicPartition};
use tidemill_runtime::edge::{Instant, ShardId};
use tidemill_storage::{Event, LogConfig, LogId, ReadId, ShardStorage, TrimError};

pub use self::compacting::{Compaction, CompactionFigures, CompactionLimits, CompactionRules};

use self::appending::{QueuedAppend, WaitingProduce};
use self::checks::{epoch_error, refused};
use self::refused::RefusedBatches;
use self::transactions::{Incoming, Unverified, Verification};
use crate::job::{JobId, ReplyTo};
use crate::measure::PartitionState;
use crate::message::{Answer, Call, ReadCall};
use crate::rework::Wanted;

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
    Fetch {
        diverging: Option<(LeaderEpoch, Offset)>,
        call: ReadCall,
        /// Batches in front of it of which compaction has left nothing.
        emptied: Vec<Bytes>,
    },
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

    // Trimming.

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

#[cfg(test)]
pub(crate) mod tests;
