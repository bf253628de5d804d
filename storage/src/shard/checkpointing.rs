//! Checkpoints: the state of all logs that changed, so that journal files can be used again.
//!
//! The state is taken at once, between two appends. It may be written only when everything it
//! speaks of is durable: the journal's entries up to that moment, and in the segments all bytes of
//! the logs whose journal files are to be freed. Those logs are parked at that moment.
//!
//! One is made when the journal is nearly full, and when a start would have much to replay.
//!
//! ```text
//! take the state → journal and segments have caught up → sync → write the slot → free files
//! ```
//!
//! Start reading at [`ShardStorage::step_checkpoint`].

use std::collections::VecDeque;

use bytes::Bytes;
use tidemill_record::Offset;

use super::append::is_dropping;
use super::{Purpose, ShardStorage};
use crate::checkpoint::{LogState, Place, ReplayFrom, Snapshot};
use crate::io::{Action, DirName, Fault, FileName, Outcome};
use crate::log::{Closing, Log, LogId};
use crate::mistake::{self, Mistake};
use crate::segment::{IndexSlot, PIECE_BYTES_MAX, Seal};

/// Each slot's file has so many bytes from the first start on, so that a full disk cannot keep a
/// checkpoint of ordinary size from being written.
pub(crate) const RESERVED_BYTES: u64 = 256 * 1024;

/// After a checkpoint found no space, the next one is tried so much later.
const RETRY_NS: u64 = 1_000_000_000;

/// A smaller active segment's index is built again faster than written.
const INDEX_WORTH_WRITING_BYTES: u64 = 1 << 20;

/// How far a checkpoint is.
#[derive(Debug, Default)]
enum Stage {
    /// None is being made.
    #[default]
    Idle,
    /// What the state speaks of has to become durable, and parked logs have to be written.
    Draining { undurable: VecDeque<(LogId, Offset)>, undrained: VecDeque<(LogId, Place)> },
    /// So many syncs are still under way.
    Syncing { left: usize },
    /// Space for the file is being reserved.
    Allocating { size: u64 },
    /// The file is being written, up to this position.
    Writing { to: u64 },
    /// After the last checkpoint, so many indexes are still being written.
    Indexing { left: usize },
}

/// The checkpoints of a shard.
#[derive(Debug)]
pub(super) struct Checkpointing {
    stage: Stage,
    number: u64,
    /// The number of the newest that is durable.
    durable: u64,
    snapshot: Option<Snapshot>,
    /// The file's bytes.
    bytes: Bytes,
    /// Logs whose bytes will all be in segments, with where they were parked.
    parked: Vec<(LogId, Place)>,
    /// Logs that must be parked whatever the journal needs.
    forced: Vec<LogId>,
    allocated: [u64; 2],
    retry_after: u64,
    /// It is the last one, of a clean stop.
    last: bool,
}

impl Default for Checkpointing {
    fn default() -> Self {
        Self {
            stage: Stage::Idle,
            number: 0,
            durable: 0,
            snapshot: None,
            bytes: Bytes::new(),
            parked: Vec::new(),
            forced: Vec::new(),
            allocated: [RESERVED_BYTES; 2],
            retry_after: 0,
            last: false,
        }
    }
}

impl Checkpointing {
    /// Before this time none is begun: the last one found no space.
    pub(super) fn retry_after(&self) -> u64 {
        self.retry_after
    }
}

impl ShardStorage {
    /// Begins a checkpoint if one is due; takes the one under way further.
    pub(super) fn step_checkpoint(&mut self) {
        match &self.checkpointing.stage {
            Stage::Idle => self.begin_if_due(),
            Stage::Draining { .. } => self.step_draining(),
            _ => {}
        }
    }

    /// This log is parked by the next checkpoint, which comes soon.
    pub(super) fn force_park(&mut self, id: LogId) {
        if !self.checkpointing.forced.contains(&id) {
            self.checkpointing.forced.push(id);
        }
    }

    /// The number of the first checkpoint that will hold what changes now.
    pub(super) fn next_checkpoint(&self) -> u64 {
        self.checkpointing.number + 1
    }

    /// Whether the checkpoint of this number is durable, or a newer one.
    pub(super) fn is_durable(&self, checkpoint: u64) -> bool {
        checkpoint <= self.checkpointing.durable
    }

    /// The end of this log was cut: where it was parked before says nothing any more.
    pub(super) fn forget_parked(&mut self, id: LogId) {
        self.checkpointing.parked.retain(|(parked, _)| *parked != id);
        if let Stage::Draining { undurable, undrained } = &mut self.checkpointing.stage {
            undrained.retain(|(parked, _)| *parked != id);
            undurable.retain(|(log, _)| *log != id);
        }
    }

    fn begin_if_due(&mut self) {
        if self.stopped || self.now < self.checkpointing.retry_after {
            return;
        }
        let is_quiet = self.journal.is_quiet() && self.runs == 0;
        if self.stopping && is_quiet && !self.is_closing_any() {
            self.checkpointing.last = true;
            let end = self.journal.end();
            return self.begin(end);
        }
        let can_grow = self.journal.plan_growth(&self.config).is_some()
            && (self.growing || self.grow_after <= self.now);
        if self.journal.is_tight(can_grow)
            && let Some(replay_from) = self.journal.plan_recycling()
        {
            return self.begin(replay_from);
        }
        if self.config.replay_bytes_max < self.journal.replay_bytes() {
            let replay_from = self.journal.plan_replay_from_here();
            return self.begin(replay_from);
        }
        if !self.checkpointing.forced.is_empty() {
            let first = self.journal.first();
            self.begin(first);
        }
    }

    fn is_closing_any(&self) -> bool {
        self.logs().any(|(_, log)| log.closing.is_some())
    }

    /// Takes the state of all logs. Those with something in the files before `replay_from` that
    /// is not in segments are parked.
    fn begin(&mut self, replay_from: ReplayFrom) {
        let forced = std::mem::take(&mut self.checkpointing.forced);
        let shard = self.shard;
        let mut states = Vec::new();
        let mut parked = Vec::new();
        let mut undurable = VecDeque::new();
        for id in self.log_ids() {
            let log = self.log_mut(id);
            if !log.changed {
                continue;
            }
            let needed = log.unsynced_since.is_some_and(|since| since < replay_from.sequence);
            if needed || forced.contains(&id) {
                let place = log.park();
                parked.push((id, place));
                states.push(log.state(shard, place));
                self.want_flush(id);
            } else {
                states.push(log.state(shard, log.synced));
            }
            let log = self.log(id);
            if log.durable_end < log.end {
                undurable.push_back((id, log.end));
            }
        }
        let gone = |partition: &_| LogState { dropped: true, ..LogState::new(*partition) };
        states.extend(self.dropped.iter().map(gone));
        if mistake::is_made(Mistake::RecycleEarly) {
            self.journal.recycle(&replay_from);
        }
        self.checkpointing.number += 1;
        self.checkpointing.snapshot = Some(Snapshot {
            shard: self.shard,
            incarnation: self.incarnation,
            number: self.checkpointing.number,
            replay_from,
            logs: states,
        });
        let undrained = parked.iter().copied().collect();
        self.checkpointing.parked = parked;
        self.checkpointing.stage = Stage::Draining { undurable, undrained };
        self.step_draining();
    }

    fn step_draining(&mut self) {
        let Stage::Draining { undurable, undrained } = &mut self.checkpointing.stage else {
            return;
        };
        // What the state speaks of must not be lost by the crash after which it is read: above
        // all, a producer's number must not be known when its batch is not there.
        while let Some((id, end)) = undurable.front() {
            let log = self.logs[id.0 as usize].as_ref();
            if log.is_some_and(|log| log.durable_end < *end && !is_dropping(log)) {
                return;
            }
            undurable.pop_front();
        }
        while let Some((id, place)) = undrained.front() {
            let log = self.logs[id.0 as usize].as_ref();
            if log.is_some_and(|log| !log.is_written_to(place)) {
                return;
            }
            undrained.pop_front();
        }
        self.sync_parked();
    }

    fn sync_parked(&mut self) {
        let mut files = Vec::new();
        for (id, place) in &self.checkpointing.parked {
            let Some(log) = self.logs[id.0 as usize].as_mut() else { continue };
            if is_dropping(log) {
                continue;
            }
            let partition = log.partition;
            for segment in &mut log.segments {
                if segment.dirty && segment.state.base_offset <= place.segment {
                    segment.dirty = false;
                    files.push(segment.file(partition));
                }
            }
        }
        let dirs = std::mem::take(&mut self.unsynced_dirs);
        let mut actions: Vec<Action> =
            dirs.into_iter().map(|dir| Action::SyncDir { dir }).collect();
        if self.config.sync_files_max < files.len() {
            actions.push(Action::SyncFileSystem);
        } else {
            actions.extend(files.into_iter().map(|file| Action::Sync { file }));
        }
        self.checkpointing.stage = Stage::Syncing { left: actions.len() };
        if actions.is_empty() {
            return self.begin_writing();
        }
        for action in actions {
            self.requests.ask(Purpose::Checkpoint, action);
        }
    }

    pub(super) fn handle_checkpoint(&mut self, result: Result<Outcome, Fault>) {
        match &mut self.checkpointing.stage {
            Stage::Syncing { left } => {
                // A directory or file may be gone because its log was dropped meanwhile.
                if result.is_err() && result.as_ref().err() != Some(&Fault::NotFound) {
                    return self.fence();
                }
                *left -= 1;
                if *left == 0 {
                    self.begin_writing();
                }
            }
            Stage::Allocating { size } => {
                let size = *size;
                match result {
                    Ok(_) => {
                        let slot = self.slot();
                        self.checkpointing.allocated[slot] = size;
                        self.write_piece(0);
                    }
                    Err(Fault::NoSpace) => self.give_up(),
                    Err(_) => self.fence(),
                }
            }
            Stage::Writing { to } => {
                let to = *to;
                if self.must_succeed(&result) {
                    self.write_piece(to);
                }
            }
            Stage::Indexing { left } => {
                *left -= 1;
                self.stopped = *left == 0;
            }
            Stage::Idle | Stage::Draining { .. } => panic!("nothing was asked for"),
        }
    }

    fn slot(&self) -> usize {
        (self.checkpointing.number % 2) as usize
    }

    fn begin_writing(&mut self) {
        if self.fenced {
            return;
        }
        let snapshot = self.checkpointing.snapshot.as_ref().expect("it was taken");
        self.checkpointing.bytes = snapshot.encode();
        let size = self.checkpointing.bytes.len() as u64;
        let slot = self.slot();
        let allocated = self.checkpointing.allocated[slot];
        if allocated < size {
            self.checkpointing.stage = Stage::Allocating { size };
            let action = Action::Allocate {
                file: self.checkpoint_file(),
                position: allocated,
                size: size - allocated,
            };
            return self.requests.ask(Purpose::Checkpoint, action);
        }
        self.write_piece(0);
    }

    fn checkpoint_file(&self) -> FileName {
        FileName::Checkpoint { shard: self.shard, slot: self.slot() as u8 }
    }

    /// Writes the next piece; it is valid only as a whole, by its checksum.
    fn write_piece(&mut self, from: u64) {
        let size = self.checkpointing.bytes.len() as u64;
        if from == size {
            return self.finish();
        }
        let to = size.min(from + PIECE_BYTES_MAX);
        self.checkpointing.stage = Stage::Writing { to };
        let bytes = self.checkpointing.bytes.slice(from as usize..to as usize);
        let file = self.checkpoint_file();
        let action = Action::Write { file, position: from, bytes, durable: true };
        self.requests.ask(Purpose::Checkpoint, action);
    }

    /// The checkpoint is durable: what it does not need is free.
    fn finish(&mut self) {
        let snapshot = self.checkpointing.snapshot.take().expect("it was taken");
        self.checkpointing.bytes = Bytes::new();
        self.checkpointing.stage = Stage::Idle;
        self.checkpointing.durable = snapshot.number;
        if self.checkpointing.last {
            return self.write_indexes();
        }
        self.journal.recycle(&snapshot.replay_from);
        for id in self.note_synced() {
            let log = self.log_mut(id);
            log.checkpointed = log.synced.offset;
            self.write_grown_index(id);
            self.after_last_request(id);
        }
    }

    /// The parked logs are synced up to where they were parked. Returns those that are left.
    fn note_synced(&mut self) -> Vec<LogId> {
        let mut noted = Vec::new();
        for (id, place) in std::mem::take(&mut self.checkpointing.parked) {
            if let Some(log) = self.find_log_mut(id) {
                log.synced = place;
                noted.push(id);
            }
        }
        noted
    }

    fn give_up(&mut self) {
        self.checkpointing.snapshot = None;
        self.checkpointing.bytes = Bytes::new();
        self.checkpointing.stage = Stage::Idle;
        // The same number, so the same slot: the other one is still the newest.
        self.checkpointing.number -= 1;
        self.checkpointing.retry_after = self.now + RETRY_NS;
        // They are synced, though nothing durable says so yet.
        for id in self.note_synced() {
            let log = self.log(id);
            if log.closing.is_some() || !log.doomed_runs.is_empty() {
                self.force_park(id);
            }
        }
        self.refuse_waiting();
        // Everything is in the journal as well: stopping does not need the checkpoint.
        self.stopped = self.checkpointing.last;
    }

    /// Writes the index of an active segment that has grown much, so that whoever reads its last
    /// records after a crash need not go over all of it first.
    ///
    /// Only as far as the log is synced: what is behind may not survive, and then other batches
    /// come to stand in its place.
    fn write_grown_index(&mut self, id: LogId) {
        let (stopping, step) = (self.stopping, self.config.index_step_bytes);
        let log = self.log_mut(id);
        let (partition, synced) = (log.partition, log.synced);
        if stopping || log.closing.is_some() {
            return;
        }
        let Some(active) = log.segment_mut(synced.segment) else { return };
        let IndexSlot::Ready(index) = &active.index else { return };
        let has_grown = active.indexed_to + step <= synced.position;
        if !has_grown || active.writes_index || active.seal != Seal::Active {
            return;
        }
        let mut index = index.clone();
        index.cut(synced.position);
        active.indexed_to = synced.position;
        active.writes_index = true;
        let bytes = Some(index.encode(active.state.generation));
        let file = active.index_file(partition);
        let purpose = Purpose::GrownIndex { log: id, segment: synced.segment, bytes };
        self.requests.ask(purpose, Action::Create { file });
    }

    pub(super) fn handle_grown_index(
        &mut self,
        id: LogId,
        base_offset: Offset,
        bytes: Option<Bytes>,
        result: &Result<Outcome, Fault>,
    ) {
        let log = self.logs[id.0 as usize].as_mut();
        let partition = log.as_ref().map(|log| log.partition);
        let segment = log.and_then(|log| log.segment_mut(base_offset)).filter(|s| s.writes_index);
        if let (Some(segment), Some(partition)) = (segment, partition) {
            if let (Ok(_), Some(bytes)) = (result, bytes) {
                let file = segment.index_file(partition);
                let purpose = Purpose::GrownIndex { log: id, segment: base_offset, bytes: None };
                let action = Action::Write { file, position: 0, bytes, durable: false };
                return self.requests.ask(purpose, action);
            }
            // Written, or not: it can be built again.
            segment.writes_index = false;
            self.step_seal(id, base_offset);
        }
        self.after_last_request(id);
    }

    /// The last checkpoint is made. Indexes of large active segments spare the next start work.
    fn write_indexes(&mut self) {
        let mut writes = Vec::new();
        for (id, log) in self.logs() {
            let Some(active) = log.active() else { continue };
            if active.state.size_bytes < INDEX_WORTH_WRITING_BYTES || active.writes_index {
                continue;
            }
            if let IndexSlot::Ready(index) = &active.index {
                let bytes = index.encode(active.state.generation);
                writes.push((
                    id,
                    active.state.base_offset,
                    active.index_file(log.partition),
                    bytes,
                ));
            }
        }
        self.stopped = writes.is_empty();
        self.checkpointing.stage = Stage::Indexing { left: writes.len() };
        for (log, segment, file, bytes) in writes {
            let purpose = Purpose::LastIndex { log, segment, bytes: Some(bytes) };
            self.requests.ask(purpose, Action::Create { file });
        }
    }

    pub(super) fn handle_last_index(
        &mut self,
        id: LogId,
        segment: Offset,
        bytes: Option<Bytes>,
        result: Result<Outcome, Fault>,
    ) {
        let (Ok(_), Some(bytes)) = (&result, bytes) else {
            // Written, or not: it can be built again.
            return self.handle_checkpoint(Ok(Outcome::Done));
        };
        let log = self.log(id);
        let file = log.segment(segment).expect("nothing is trimmed now").index_file(log.partition);
        let purpose = Purpose::LastIndex { log: id, segment, bytes: None };
        let action = Action::Write { file, position: 0, bytes, durable: false };
        self.requests.ask(purpose, action);
    }

    /// The directory of this shard's journal and checkpoints.
    pub(super) fn journal_dir(&self) -> DirName {
        DirName::Journal { shard: self.shard }
    }
}

impl Log {
    /// From here on, the bytes before its end need no journal once they are written and synced:
    /// the next append carries those of the partial block again.
    fn park(&mut self) -> Place {
        self.unsynced_since = None;
        self.carries = true;
        for segment in &mut self.segments {
            segment.park_to = segment.park_to.max(segment.state.size_bytes);
        }
        self.end_place()
    }

    /// Whether everything before `place` is in segments' files.
    fn is_written_to(&self, place: &Place) -> bool {
        let written = |segment: &crate::segment::Segment| {
            let state = &segment.state;
            if state.is_compacted() {
                // It was durable before it was put in, and `place` may be told in an older file.
                true
            } else if state.base_offset < place.segment {
                segment.written == state.size_bytes
            } else {
                place.segment < state.base_offset || place.position <= segment.written
            }
        };
        self.closing == Some(Closing::Dropping) || self.segments.iter().all(written)
    }
}
