//! A partition's log: a row of segments, and the newest batches in memory.
//!
//! ```text
//! start                                   durable_end      end
//!   | sealed | sealed | active ……………………………… | ……………… |
//!                            | tail: in memory          |
//! ```
//!
//! This module keeps the books of one log. Its journal entries, its reads and its files are the
//! shard's to carry out: see [`crate::shard`].
//!
//! Start reading at [`Log`].

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;

use tidemill_record::{
    LeaderEpoch, Offset, Producer, ProducerEpoch, ProducerId, Sequence, TopicPartition, Validated,
};

use crate::checkpoint::{LogState, Place, SegmentName, SegmentState};
use crate::config::LogConfig;
use crate::epochs::LeaderEpochs;
use crate::io::DirName;
use crate::journal::Pending;
use crate::producers::Producers;
use crate::segment::Segment;
use crate::shard::compacting::Compacting;
use crate::shard::cutting::{Cut, Drop, Removal};
use crate::shard::numbered;
use crate::shard::runs::Run;
use crate::tail::Tail;
use crate::transactions::{Aborted, TransactionState, Transactions};

/// A log of this shard. Not used again after the log is dropped.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct LogId(pub(crate) u32);

/// What is being done to make the next append possible.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Preparing {
    /// The topic's directory is being made.
    TopicDir,
    /// The partition's directory is being made.
    PartitionDir,
    /// The active segment's file is being made.
    File,
    /// The active segment's last, partial block is being read.
    Front,
    /// Space is being reserved, up to this position.
    Space {
        /// Position.
        to: u64,
    },
}

/// Why a log takes no appends for now, or for ever.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Closing {
    /// Its end is being cut to this offset.
    Truncating {
        /// The new end.
        to: Offset,
    },
    /// Its topic is deleted.
    Dropping,
}

/// A partition's log.
#[derive(Debug)]
pub struct Log {
    pub(crate) partition: TopicPartition,
    pub(crate) config: LogConfig,
    pub(crate) generation: u32,
    /// Where it begins, as readers see it: a trim that a crash could undo is not seen.
    pub(crate) start: Offset,
    /// Where it will begin once its last trim is durable.
    pub(crate) trimmed_to: Offset,
    pub(crate) end: Offset,
    pub(crate) durable_end: Offset,
    /// Oldest first. Empty before the first append.
    pub(crate) segments: Vec<Segment>,
    pub(crate) tail: Tail,
    pub(crate) epochs: LeaderEpochs,
    pub(crate) producers: Producers,
    pub(crate) transactions: Transactions,
    pub(crate) damaged: Vec<Range<Offset>>,
    pub(crate) broken_at: Option<Offset>,
    /// Deleted segments whose files may still be there.
    pub(crate) doomed: Vec<SegmentName>,
    /// Of those, the ones with large runs, and where the last run of each ended.
    pub(crate) doomed_runs: Vec<(SegmentName, Offset)>,
    /// Of those, the ones that were compacted, each with what took its place, while the entry that
    /// says so is not durable yet.
    pub(crate) doomed_swaps: Vec<(SegmentName, SegmentName)>,
    /// How many compactions there were, and one more: see `compactions_told_in`.
    pub(crate) compactions: u32,
    /// The first checkpoint that tells that there are compactions.
    pub(crate) compactions_told_in: u64,
    /// Everything below was compacted.
    pub(crate) compacted_to: Offset,
    /// The first checkpoint that knows of what compaction has made it forget last.
    pub(crate) forgotten_in: u64,
    /// The compaction under way.
    pub(crate) compacting: Option<Compacting>,
    /// Everything before it is durable in segments: what the last checkpoint says.
    pub(crate) synced: Place,
    /// Below this offset no crash makes replay look at the log's segments again: a durable
    /// checkpoint says so.
    pub(crate) checkpointed: Offset,
    /// The first window that may hold an entry which is not covered by `synced`.
    pub(crate) unsynced_since: Option<u64>,
    /// The next append carries the bytes of the partial block before it.
    pub(crate) carries: bool,
    /// Something of it differs from the base.
    pub(crate) changed: bool,
    pub(crate) dirs_made: bool,
    pub(crate) preparing: Option<Preparing>,
    /// Somebody waits for `Admitted`.
    pub(crate) waited_for: bool,
    pub(crate) closing: Option<Closing>,
    /// It is in the shard's queue of logs with something to write.
    pub(crate) flush_queued: bool,
    /// The names of its directories are durable.
    pub(crate) dirs_durable: bool,
    /// A run on its way into its segment.
    pub(crate) run: Option<Run>,
    /// What waits behind it.
    pub(crate) held: VecDeque<Pending>,
    /// A deleted segment is being removed.
    pub(crate) removal: Option<(Removal, SegmentName)>,
    /// Its end is being cut.
    pub(crate) cut: Option<Cut>,
    /// It is being dropped.
    pub(crate) dropping: Option<Drop>,
}

/// What a log knows of one producer.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct ProducerState {
    /// Who.
    pub id: ProducerId,
    /// Its epoch.
    pub epoch: ProducerEpoch,
    /// When it was last active, by our clock.
    pub active_ms: i64,
    /// The number of its last record, if it has written any under this epoch.
    pub last_sequence: Option<Sequence>,
    /// What is known of its transactions, if it has any.
    pub transaction: Option<TransactionState>,
}

impl Log {
    /// A log from what recovery knows of it.
    pub(crate) fn new(state: LogState, config: LogConfig) -> Self {
        let partition = state.partition;
        let last = state.segments.len().saturating_sub(1);
        let recover = |(at, segment)| Segment::recovered(partition, segment, at == last);
        let segments: Vec<Segment> =
            state.segments.iter().copied().enumerate().map(recover).collect();
        assert!(state.synced.offset == state.end, "recovery leaves nothing outside segments");
        let made = segments.iter().any(|segment| segment.made);
        Self {
            partition,
            config,
            generation: state.generation,
            start: state.start,
            trimmed_to: state.start,
            end: state.end,
            durable_end: state.end,
            dirs_made: made,
            segments,
            tail: Tail::default(),
            epochs: state.epochs,
            producers: state.producers,
            transactions: state.transactions,
            damaged: state.damaged,
            broken_at: state.broken_at,
            doomed: state.doomed,
            doomed_runs: Vec::new(),
            doomed_swaps: Vec::new(),
            compactions: state.compactions,
            compactions_told_in: 0,
            compacted_to: state.compacted_to,
            forgotten_in: 0,
            compacting: None,
            synced: state.synced,
            checkpointed: state.end,
            unsynced_since: None,
            carries: true,
            changed: false,
            preparing: None,
            waited_for: false,
            closing: None,
            flush_queued: false,
            dirs_durable: made,
            run: None,
            held: VecDeque::new(),
            removal: None,
            cut: None,
            dropping: None,
        }
    }

    /// Whose log it is.
    #[must_use]
    pub fn partition(&self) -> TopicPartition {
        self.partition
    }

    /// The rules it follows.
    #[must_use]
    pub fn config(&self) -> &LogConfig {
        &self.config
    }

    /// Offset of the first record kept. A trim counts once it is durable.
    #[must_use]
    pub fn start(&self) -> Offset {
        self.start
    }

    /// The offset the next record will get.
    #[must_use]
    pub fn end(&self) -> Offset {
        self.end
    }

    /// Everything below survives a crash.
    #[must_use]
    pub fn durable_end(&self) -> Offset {
        self.durable_end
    }

    /// Bytes of batches in all segments.
    #[must_use]
    pub fn size_bytes(&self) -> u64 {
        self.segments.iter().map(|segment| segment.state.size_bytes).sum()
    }

    /// The newest leader epoch that appended a record; `LeaderEpoch::NONE` if none did.
    #[must_use]
    pub fn leader_epoch(&self) -> LeaderEpoch {
        self.epochs.current().unwrap_or(LeaderEpoch::NONE)
    }

    /// The leader epoch of the record at `offset`; `LeaderEpoch::NONE` if that is not known.
    #[must_use]
    pub fn epoch_at(&self, offset: Offset) -> LeaderEpoch {
        self.epochs.epoch_at(offset).unwrap_or(LeaderEpoch::NONE)
    }

    /// Whether this batch was appended before, so that appending it again takes no room.
    #[must_use]
    pub fn holds(&self, batch: &Validated) -> bool {
        numbered(batch).is_some_and(|batch| self.producers.holds(&batch))
    }

    /// Whether the log itself sees when a batch of this producer comes too early.
    #[must_use]
    pub fn knows_producer(&self, producer_id: ProducerId) -> bool {
        self.producers.knows(producer_id)
    }

    /// How many producers it remembers.
    #[must_use]
    pub fn producers_count(&self) -> usize {
        self.producers.len()
    }

    /// Whether a transaction of this producer is open, under this epoch.
    #[must_use]
    pub fn is_in_transaction(&self, producer: Producer) -> bool {
        self.transactions.is_open(producer)
    }

    /// Below it nothing belongs to an open transaction, for readers who see what is below
    /// `visible_end`.
    #[must_use]
    #[inline]
    pub fn last_stable(&self, visible_end: Offset) -> Offset {
        // What was deleted was stable enough for whoever deleted it.
        self.transactions.last_stable(visible_end).max(self.start).min(visible_end)
    }

    /// The aborted transactions that readers of these offsets must know.
    #[must_use]
    pub fn aborted_in(&self, offsets: Range<Offset>) -> Vec<Aborted> {
        self.transactions.aborted_in(offsets)
    }

    /// Whether there are aborted transactions.
    #[must_use]
    pub fn has_aborted(&self) -> bool {
        self.transactions.has_aborted()
    }

    /// All producers it remembers, by rising ids.
    #[must_use]
    pub fn producer_states(&self) -> Vec<ProducerState> {
        let mut states = BTreeMap::new();
        for (id, epoch, active_ms, last) in self.producers.iter() {
            let last_sequence = Some(last.last_sequence);
            let state = ProducerState { id, epoch, active_ms, last_sequence, transaction: None };
            states.insert(id, state);
        }
        for (id, transaction) in self.transactions.iter() {
            let TransactionState { epoch, active_ms, .. } = *transaction;
            let state = states.entry(id).or_insert(ProducerState {
                id,
                epoch,
                active_ms,
                last_sequence: None,
                transaction: None,
            });
            if state.epoch < epoch {
                (state.epoch, state.last_sequence) = (epoch, None);
            }
            state.active_ms = state.active_ms.max(active_ms);
            state.transaction = Some(*transaction);
        }
        states.into_values().collect()
    }

    /// Everything below this offset was compacted, as far as that is remembered.
    #[must_use]
    pub fn compacted_to(&self) -> Offset {
        self.compacted_to
    }

    /// Its segments, oldest first; the last one grows.
    pub fn segments(&self) -> impl Iterator<Item = &SegmentState> {
        self.segments.iter().map(|segment| &segment.state)
    }

    /// How many segments it has.
    #[must_use]
    pub fn segments_count(&self) -> usize {
        self.segments.len()
    }

    /// What of it cannot be served, lowest first.
    #[must_use]
    pub fn damaged(&self) -> &[Range<Offset>] {
        &self.damaged
    }

    /// Memory of its newest batches.
    #[must_use]
    pub fn tail_bytes(&self) -> usize {
        self.tail.cost_bytes()
    }

    /// The directory of its files.
    pub(crate) fn dir(&self) -> DirName {
        DirName::Partition { topic: self.partition.topic, partition: self.partition.partition }
    }

    /// Its segment of that name.
    pub(crate) fn segment_mut(&mut self, base_offset: Offset) -> Option<&mut Segment> {
        self.segments.iter_mut().rev().find(|segment| segment.state.base_offset == base_offset)
    }

    /// Its segment of that name.
    pub(crate) fn segment(&self, base_offset: Offset) -> Option<&Segment> {
        self.segments.iter().rev().find(|segment| segment.state.base_offset == base_offset)
    }

    /// The segment that grows.
    pub(crate) fn active_mut(&mut self) -> Option<&mut Segment> {
        self.segments.last_mut()
    }

    /// The segment that grows.
    pub(crate) fn active(&self) -> Option<&Segment> {
        self.segments.last()
    }

    /// The segment that holds the record at `offset`.
    pub(crate) fn segment_holding(&self, offset: Offset) -> Option<&Segment> {
        let after = self.segments.partition_point(|s| s.state.base_offset <= offset);
        self.segments.get(after.checked_sub(1)?)
    }

    /// Where its end is in the active segment.
    pub(crate) fn end_place(&self) -> Place {
        self.active().map_or(self.synced, |active| Place {
            offset: self.end,
            segment: active.state.base_offset,
            position: active.state.size_bytes,
        })
    }

    /// What a checkpoint says of it, if everything before `synced` is durable in segments.
    pub(crate) fn state(&self, home: u16, synced: Place) -> LogState {
        LogState {
            home,
            partition: self.partition,
            generation: self.generation,
            start: self.trimmed_to,
            end: self.end,
            synced,
            segments: self.segments.iter().map(|segment| segment.state).collect(),
            doomed: self.doomed.clone(),
            compactions: self.compactions,
            compacted_to: self.compacted_to,
            epochs: self.epochs.clone(),
            producers: self.producers.clone(),
            // What is not durable yet is before the state is.
            transactions: self.transactions.settled(),
            damaged: self.damaged.clone(),
            broken_at: self.broken_at,
            dropped: self.closing == Some(Closing::Dropping),
        }
    }
}
