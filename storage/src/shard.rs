//! All the storage of one shard: its logs and their journal.
//!
//! A batch is appended to the tail of its log and waits for a commit window; when the window is
//! on disk it is durable. Behind that, batches are written to their segments in large pieces, and
//! checkpoints say how far, so that journal files can be used again.
//!
//! The parts: `append` takes batches in, `flush` writes segments and seals them, `reads` serves
//! old records, `lookup` finds records by time, `checkpointing` frees the journal, `cutting`
//! trims, truncates and drops, `compacting` puts compacted segments in, `runs` writes what is long
//! once.
//!
//! Start reading at [`ShardStorage::append`].

mod append;
mod checkpointing;
pub(crate) mod compacting;
pub(crate) mod cutting;
mod flush;
mod lookup;
mod reads;
pub(crate) mod runs;

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::ops::Range;

use bytes::Bytes;
use tidemill_record::{IdMap, LeaderEpoch, Offset, Timestamp, TopicPartition};

use crate::block::BLOCK_BYTES;
use crate::checkpoint::{LogState, SegmentName};
use crate::config::{Config, LogConfig};
use crate::error::ReadError;
use crate::io::{Action, Completion, DirName, Fault, Outcome, Request};
use crate::journal::Journal;
use crate::log::{Log, LogId};
use crate::recovery::RecoveredShard;
use crate::requests::Requests;

pub(crate) use append::{note_transaction, numbered};
pub(crate) use checkpointing::RESERVED_BYTES;
pub use compacting::{Swap, SwapError};
pub(crate) use runs::leading_run;

use checkpointing::Checkpointing;
use reads::Reads;

/// All logs of one shard, and the journal that makes their appends durable.
#[derive(Debug)]
pub struct ShardStorage {
    config: Config,
    shard: u16,
    incarnation: u64,
    /// Never shrinks: an id names one log for ever.
    logs: Vec<Option<Log>>,
    names: IdMap<TopicPartition, LogId>,
    /// What recovery found of logs nobody has asked for yet.
    recovered: HashMap<TopicPartition, LogState>,
    /// Partitions dropped since the base was written.
    dropped: Vec<TopicPartition>,
    journal: Journal,
    requests: Requests<Purpose>,
    events: VecDeque<Event>,
    reads: Reads,
    checkpointing: Checkpointing,
    /// Logs with something to write to their segments, in the order of asking.
    to_flush: VecDeque<LogId>,
    flush_bytes_in_flight: u64,
    /// Large runs on their way, and the bytes that wait behind them.
    runs: usize,
    held_bytes: u64,
    /// Directories with new entries that may not be durable.
    unsynced_dirs: BTreeSet<DirName>,
    /// The log of each batch in a tail, oldest first.
    tail_order: VecDeque<LogId>,
    /// How many of them left their tail otherwise than in this order.
    tail_order_stale: usize,
    tail_bytes: usize,
    /// Logs whose append waits for room in the journal or in memory, and how much.
    room_wanted: BTreeMap<LogId, u64>,
    /// A journal file is being made.
    growing: bool,
    /// There was no space for a new journal file; not tried again before this time.
    grow_after: u64,
    now: u64,
    fenced: bool,
    stopping: bool,
    stopped: bool,
}

/// What a request is for.
#[derive(Clone, Debug)]
enum Purpose {
    /// The write of a commit window.
    Window(u64),
    /// A new journal file.
    JournalFile,
    /// Its directory entry.
    JournalDir,
    /// A step of making the next append of a log possible.
    Prepare(LogId),
    /// A piece of a segment.
    Flush { log: LogId, segment: Offset, to: u64, bytes: u64 },
    /// A step of a large run.
    Run(LogId),
    /// A step of sealing a segment.
    Seal { log: LogId, segment: Offset },
    /// A step of a checkpoint.
    Checkpoint,
    /// A step of writing the index of an active segment at a clean stop.
    LastIndex {
        log: LogId,
        segment: Offset,
        /// What to write once the file is there.
        bytes: Option<Bytes>,
    },
    /// A step of writing the index of an active segment that has grown much.
    GrownIndex {
        log: LogId,
        segment: Offset,
        /// What to write once the file is there.
        bytes: Option<Bytes>,
    },
    /// A read for a consumer.
    Read(ReadId),
    /// A step of getting the index of a segment.
    Index { log: LogId, segment: SegmentName },
    /// A step of removing deleted segments.
    Removal { log: LogId },
    /// A step of dropping a log.
    Drop { log: LogId },
    /// A step of cutting a log's end.
    Cut { log: LogId },
}
/// What became of an append. It is durable once `log.durable_end() > last_offset`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Appended {
    /// Offset of the batch's first record.
    pub base_offset: Offset,
    /// Offset of its last record.
    pub last_offset: Offset,
    /// Our timestamp for its records, if the log stamps them.
    pub log_append_time: Option<Timestamp>,
    /// Whether it is new.
    pub kind: AppendKind,
}

/// Whether a batch was appended now or had been before.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum AppendKind {
    /// Appended now.
    New,
    /// The producer sent it again: nothing was appended, the offsets are the original's.
    Duplicate,
}

/// The name of a read under way.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct ReadId(pub u64);

/// The answer to a read.
#[derive(Clone, Debug)]
pub enum Read {
    /// Whole batches, back to back in offset order; none if there is nothing to read yet.
    Ready {
        /// The batches, as runs of bytes that hold one or more each.
        batches: Vec<Bytes>,
        /// Bytes in all of them.
        size_bytes: u64,
    },
    /// On disk: [`Event::ReadDone`] brings them.
    Disk(ReadId),
}

/// A record found by its timestamp.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Found {
    /// Its offset.
    pub offset: Offset,
    /// Its timestamp.
    pub timestamp: Timestamp,
    /// The leader epoch it was appended under.
    pub epoch: LeaderEpoch,
}

/// The answer to a question about timestamps.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Lookup {
    /// Known at once: this record, or none.
    Ready(Option<Found>),
    /// On disk: [`Event::LookupDone`] brings it.
    Disk(ReadId),
}

/// What happened inside storage that the broker must know.
#[derive(Clone, Debug)]
pub enum Event {
    /// Everything below `end` of this log survives a crash now.
    Durable {
        /// Which log.
        log: LogId,
        /// Its durable end.
        end: Offset,
    },
    /// An append that was refused with `SpaceNotReserved` may be tried again.
    Admitted {
        /// Which log.
        log: LogId,
    },
    /// The space an append waits for cannot be had: the disk is full.
    NoSpace {
        /// Which log.
        log: LogId,
    },
    /// A read has ended.
    ReadDone {
        /// Which read.
        read: ReadId,
        /// Whole batches, in offset order.
        result: Result<Vec<Bytes>, ReadError>,
    },
    /// A question about timestamps is answered.
    LookupDone {
        /// Which question.
        read: ReadId,
        /// The record, if there is one.
        result: Result<Option<Found>, ReadError>,
    },
    /// The log's new start is durable.
    Trimmed {
        /// Which log.
        log: LogId,
        /// Its start.
        start: Offset,
    },
    /// The log's new end is durable, and it can be appended to.
    Truncated {
        /// Which log.
        log: LogId,
        /// Its end.
        end: Offset,
    },
    /// The log's files are gone.
    Dropped {
        /// Whose they were.
        partition: TopicPartition,
    },
    /// Bytes of a log do not match their checksum: they will not be served.
    Damaged {
        /// Which log.
        log: LogId,
        /// What is lost.
        offsets: Range<Offset>,
    },
    /// A write or sync failed. Nothing is appended any more; what is durable can still be read.
    /// Every other shard of the node must be told (see [`ShardStorage::fence`]).
    Fenced,
}

impl ShardStorage {
    /// The storage of a shard, from what recovery found.
    #[must_use]
    pub fn new(config: Config, recovered: RecoveredShard) -> Self {
        config.check();
        let RecoveredShard { shard, incarnation, logs, journal_files } = recovered;
        let journal = Journal::new(&config, shard, incarnation, &journal_files);
        Self {
            config,
            shard,
            incarnation,
            logs: Vec::new(),
            names: IdMap::default(),
            recovered: logs.into_iter().map(|log| (log.partition, log)).collect(),
            dropped: Vec::new(),
            journal,
            requests: Requests::default(),
            events: VecDeque::new(),
            reads: Reads::default(),
            checkpointing: Checkpointing::default(),
            to_flush: VecDeque::new(),
            flush_bytes_in_flight: 0,
            runs: 0,
            held_bytes: 0,
            unsynced_dirs: BTreeSet::new(),
            tail_order: VecDeque::new(),
            tail_order_stale: 0,
            tail_bytes: 0,
            room_wanted: BTreeMap::new(),
            growing: false,
            grow_after: 0,
            now: 0,
            fenced: false,
            stopping: false,
            stopped: false,
        }
    }

    /// The log of `partition`: as recovered, or a new, empty one. Costs no I/O before its first
    /// append.
    pub fn create_log(&mut self, partition: TopicPartition, config: LogConfig) -> LogId {
        if let Some(log) = self.find_log(partition) {
            self.configure(log, config);
            return log;
        }
        let state = self.recovered.remove(&partition).unwrap_or_else(|| LogState::new(partition));
        let log = Log::new(state, config);
        let id = LogId(self.logs.len() as u32);
        let has_doomed = !log.doomed.is_empty();
        self.logs.push(Some(log));
        self.names.insert(partition, id);
        if has_doomed {
            self.remove_doomed(id);
        }
        id
    }

    /// The log of `partition`, if there is one.
    #[must_use]
    pub fn find_log(&self, partition: TopicPartition) -> Option<LogId> {
        self.names.get(&partition).copied()
    }

    /// Changes the rules of a log from now on.
    pub fn configure(&mut self, log: LogId, config: LogConfig) {
        self.log_mut(log).config = config;
    }

    /// This log as it is now. Panics if it was dropped.
    #[must_use]
    pub fn log(&self, log: LogId) -> &Log {
        self.logs[log.0 as usize].as_ref().expect("a dropped log is not used again")
    }

    /// All logs of this shard.
    pub fn logs(&self) -> impl Iterator<Item = (LogId, &Log)> {
        self.logs.iter().enumerate().filter_map(|(at, log)| Some((LogId(at as u32), log.as_ref()?)))
    }

    /// Where `epoch` ended in this log, told by who leads in the epoch `leading`; see
    /// [`crate::epochs::LeaderEpochs::end_of`].
    #[must_use]
    pub fn epoch_end(
        &self,
        log: LogId,
        epoch: LeaderEpoch,
        leading: LeaderEpoch,
    ) -> Option<(LeaderEpoch, Offset)> {
        let log = self.log(log);
        log.epochs.end_of(epoch, leading, log.end)
    }

    /// The turn is over: windows are closed, writes are planned. To be called in each turn, after
    /// everything else.
    pub fn end_turn(&mut self, now: u64) {
        self.now = self.now.max(now);
        if self.fenced {
            return;
        }
        self.grow_journal();
        self.plan_runs();
        self.step_checkpoint();
        self.step_flush();
        self.close_windows();
        self.admit_waiting();
    }

    /// Time has passed.
    pub fn tick(&mut self, now: u64) {
        self.end_turn(now);
    }

    /// When [`ShardStorage::tick`] is wanted at the latest, if nothing else happens.
    #[must_use]
    pub fn next_deadline(&self) -> Option<u64> {
        if self.fenced {
            return None;
        }
        // A full disk is asked again only if somebody waits for the answer.
        let retry = (self.stopping && !self.stopped) || !self.room_wanted.is_empty();
        let retries = [self.checkpointing.retry_after(), self.grow_after];
        let retries = retries.into_iter().filter(|at| retry && self.now < *at);
        self.journal.next_deadline(&self.config).into_iter().chain(retries).min()
    }

    /// The next thing to be done to the disk.
    pub fn poll_request(&mut self) -> Option<Request> {
        self.requests.poll()
    }

    /// The next thing the broker must know.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// A request has ended.
    pub fn handle_completion(&mut self, completion: Completion, now: u64) {
        self.now = self.now.max(now);
        let result = completion.result;
        match self.requests.end(completion.id) {
            Purpose::Window(sequence) => self.handle_window(sequence, result),
            Purpose::JournalFile => self.handle_journal_file(result),
            Purpose::JournalDir => self.handle_journal_dir(result),
            Purpose::Prepare(log) => self.handle_prepared(log, result),
            Purpose::Flush { log, segment, to, bytes } => {
                self.handle_flushed(log, segment, to, bytes, result);
            }
            Purpose::Run(log) => self.handle_run(log, result),
            Purpose::Seal { log, segment } => self.handle_seal(log, segment, result),
            Purpose::Checkpoint => self.handle_checkpoint(result),
            Purpose::LastIndex { log, segment, bytes } => {
                self.handle_last_index(log, segment, bytes, result);
            }
            Purpose::GrownIndex { log, segment, bytes } => {
                self.handle_grown_index(log, segment, bytes, &result);
            }
            Purpose::Read(read) => self.handle_read(read, result),
            Purpose::Index { log, segment } => self.handle_index(log, segment, result),
            Purpose::Removal { log } => self.handle_removal(log, result),
            Purpose::Drop { log } => self.handle_drop(log, result),
            Purpose::Cut { log } => self.handle_cut(log, result),
        }
    }

    /// The data directory failed elsewhere: nothing more is appended.
    pub fn fence(&mut self) {
        if !self.fenced {
            self.fenced = true;
            self.events.push_back(Event::Fenced);
        }
    }

    /// Whether nothing can be appended before a restart.
    #[must_use]
    pub fn is_fenced(&self) -> bool {
        self.fenced
    }

    /// Clean stop: no more appends; everything is written and a checkpoint made, so that the next
    /// start has nothing to replay. [`ShardStorage::is_stopped`] tells when that is done.
    pub fn checkpoint_and_stop(&mut self, now: u64) {
        self.now = self.now.max(now);
        self.stopping = true;
    }

    /// Whether a clean stop is complete (or cannot be, because the directory is fenced).
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        self.stopped || self.fenced
    }

    /// Memory held for batches, windows and indexes.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        self.tail_bytes
            + self.journal.pending_bytes() as usize
            + self.flush_bytes_in_flight as usize
            + self.reads.index_bytes()
    }

    // --- for all parts ---

    fn log_mut(&mut self, log: LogId) -> &mut Log {
        self.logs[log.0 as usize].as_mut().expect("a dropped log is not used again")
    }

    fn find_log_mut(&mut self, log: LogId) -> Option<&mut Log> {
        self.logs[log.0 as usize].as_mut()
    }

    fn log_ids(&self) -> Vec<LogId> {
        self.logs().map(|(id, _)| id).collect()
    }

    /// Every write and sync that fails ends here: what the disk holds is unknown, and the next
    /// sync may lie. Returns whether all was well.
    fn must_succeed(&mut self, result: &Result<Outcome, Fault>) -> bool {
        if result.is_err() {
            self.fence();
        }
        result.is_ok()
    }

    // --- the journal ---

    fn close_windows(&mut self) {
        while let Some((sequence, write)) = self.journal.close_window(&self.config, self.now) {
            self.requests.ask(Purpose::Window(sequence), write);
        }
    }

    fn handle_window(&mut self, sequence: u64, result: Result<Outcome, Fault>) {
        if !self.must_succeed(&result) || self.fenced {
            return;
        }
        let mut advanced = BTreeSet::new();
        for (id, entry) in self.journal.handle_written(sequence, self.now) {
            self.handle_durable(id, &entry, &mut advanced);
        }
        for id in advanced {
            let end = self.log(id).durable_end;
            self.events.push_back(Event::Durable { log: id, end });
            self.want_flush(id);
        }
    }

    fn grow_journal(&mut self) {
        if self.growing || self.now < self.grow_after {
            return;
        }
        if let Some(file) = self.journal.plan_growth(&self.config) {
            self.growing = true;
            let size = self.config.journal_file_bytes;
            self.requests.ask(Purpose::JournalFile, Action::Prewrite { file, size });
        }
    }

    fn handle_journal_file(&mut self, result: Result<Outcome, Fault>) {
        const RETRY_NS: u64 = 1_000_000_000;
        match result {
            Ok(_) => {
                let dir = self.journal_dir();
                self.requests.ask(Purpose::JournalDir, Action::SyncDir { dir });
            }
            // A full disk: the ring stays as large as it is for now.
            Err(Fault::NoSpace) => {
                self.growing = false;
                self.grow_after = self.now + RETRY_NS;
                self.refuse_waiting();
            }
            Err(_) => self.fence(),
        }
    }

    fn handle_journal_dir(&mut self, result: Result<Outcome, Fault>) {
        if self.must_succeed(&result) {
            self.growing = false;
            self.journal.grow();
        }
    }

    // --- admission ---

    /// Whether an append of so many bytes finds room in the journal and in memory.
    fn has_room(&self, bytes: u64) -> bool {
        // Batches leave memory at the end of turns, once they are written; until then a little
        // more than planned is taken.
        let memory_max = self.config.tail_bytes_max + self.config.tail_bytes_max / 4;
        let is_run = self.config.large_run_bytes as u64 <= bytes;
        // Of a run, the journal takes the partial blocks, and the prefix as of any append.
        let bytes = if is_run { 2 * BLOCK_BYTES as u64 } else { bytes };
        self.tail_bytes <= memory_max
            && self.journal.has_room(&self.config, self.held_bytes + bytes + BLOCK_BYTES as u64)
    }

    /// Tells those who waited for room that there is.
    fn admit_waiting(&mut self) {
        if self.room_wanted.is_empty() {
            return;
        }
        let mut waiting = std::mem::take(&mut self.room_wanted);
        waiting.retain(|log, bytes| {
            let waits = !self.has_room(*bytes);
            if !waits && self.find_log_mut(*log).is_some() {
                self.events.push_back(Event::Admitted { log: *log });
            }
            waits
        });
        self.room_wanted = waiting;
    }

    /// Tells those who wait for room that there is none to be had.
    fn refuse_waiting(&mut self) {
        for (log, _) in std::mem::take(&mut self.room_wanted) {
            self.events.push_back(Event::NoSpace { log });
        }
    }
}
