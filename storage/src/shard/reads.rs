//! Reading: from the tail at once, older records from the disk through the index.
//!
//! A read from disk plans whole spans, proves what comes back, and cuts the wanted batches out.
//! The index of a segment is loaded from its file when it is first needed; one that is missing or
//! damaged is built again from the segment, in bounded steps, while the reads wait.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use tidemill_record::{Offset, Timestamp};

use super::{Event, Found, Purpose, Read, ReadId, ShardStorage};
use crate::checkpoint::SegmentName;
use crate::error::ReadError;
use crate::index::{Index, IndexedBatch};
use crate::io::{Action, Fault, Outcome};
use crate::log::{Log, LogId};
use crate::read::{Boundary, Cut, Damage, ReadPlan, SegmentWalk, Wanted};
use crate::segment::{IndexSlot, Seal, Segment};

/// Reads that wait for a place in the disk's queue at most.
const READS_WAITING_MAX: usize = 4096;

/// What a read wants to know.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Goal {
    /// The batches.
    Batches,
    /// The first record with this timestamp or a newer one.
    FirstAt(Timestamp),
    /// The record with the newest timestamp.
    Newest {
        /// None is newer than this.
        at: Timestamp,
        /// The newest before the part that is being read.
        best: Option<Found>,
    },
}

/// One read under way.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) log: LogId,
    pub(super) segment: Offset,
    pub(super) wanted: Wanted,
    pub(super) goal: Goal,
    plan: Option<ReadPlan>,
}

/// An index on its way into memory.
#[derive(Debug)]
struct Build {
    /// `None` while the index file is read.
    walk: Option<SegmentWalk>,
    waiting: Vec<ReadId>,
}

/// All reads of a shard.
#[derive(Debug, Default)]
pub(super) struct Reads {
    next_id: u64,
    jobs: BTreeMap<ReadId, Job>,
    builds: BTreeMap<(LogId, Offset), Build>,
    /// Ready to be carried out, when there is a place.
    waiting: VecDeque<ReadId>,
    in_flight: usize,
    bytes_in_flight: usize,
    /// Indexes of sealed segments in memory, oldest first, with their size.
    cached: VecDeque<(LogId, Offset, usize)>,
    cached_bytes: usize,
}

impl Reads {
    /// Memory of cached indexes.
    pub(super) fn index_bytes(&self) -> usize {
        self.cached_bytes
    }
}

impl ShardStorage {
    /// The batches from the one that holds `from` on, none at or past `visible_end`, about
    /// `limit_bytes` in all.
    ///
    /// With `at_least_one`, the first batch is returned even if it alone exceeds `limit_bytes`.
    /// Otherwise a consumer with a small limit would ask for the same offset for ever.
    ///
    /// Of a log whose end is damaged, whoever has read all it may see is told so: what keeps it from
    /// seeing more will not end.
    pub fn read(
        &mut self,
        log: LogId,
        from: Offset,
        visible_end: Offset,
        limit_bytes: u32,
        at_least_one: bool,
    ) -> Result<Read, ReadError> {
        let wanted = Wanted { from, visible_end, limit_bytes, min_one: at_least_one };
        let books = self.log(log);
        // Who waits for the end of a transaction waits for ever, too: nothing is appended any more.
        if let Some(broken_at) = books.broken_at.filter(|at| *at <= from || visible_end <= from) {
            return Err(ReadError::Damaged { offsets: broken_at..Offset(i64::MAX) });
        }
        if from < books.start || books.end < from {
            return Err(ReadError::OffsetOutOfRange {
                asked: from,
                log_start: books.start,
                log_end: books.end,
            });
        }
        if visible_end <= from {
            return Ok(Read::Ready { batches: Vec::new(), size_bytes: 0 });
        }
        if let Some(damaged) = books.damaged.iter().find(|range| range.contains(&from)) {
            return Err(ReadError::Damaged { offsets: damaged.clone() });
        }
        if let Some((batches, size_bytes)) = books.tail.read(&wanted) {
            return Ok(Read::Ready { batches, size_bytes });
        }
        let Some(segment) = books.segment_holding(from).map(|s| s.state.base_offset) else {
            return Ok(Read::Ready { batches: Vec::new(), size_bytes: 0 });
        };
        self.start_read(log, segment, wanted, Goal::Batches).map(Read::Disk)
    }

    pub(super) fn start_read(
        &mut self,
        log: LogId,
        segment: Offset,
        wanted: Wanted,
        goal: Goal,
    ) -> Result<ReadId, ReadError> {
        if READS_WAITING_MAX <= self.reads.jobs.len() {
            return Err(ReadError::Busy);
        }
        let id = ReadId(self.reads.next_id);
        self.reads.next_id += 1;
        self.reads.jobs.insert(id, Job { log, segment, wanted, goal, plan: None });
        self.reads.waiting.push_back(id);
        self.step_reads();
        Ok(id)
    }

    /// Carries out waiting reads as far as there is room.
    fn step_reads(&mut self) {
        while self.reads.in_flight < self.config.reads_in_flight_max {
            let Some(id) = self.reads.waiting.pop_front() else { break };
            if !self.carry_out(id) {
                // The first that waits is the next one, however small those behind it are.
                self.reads.waiting.push_front(id);
                break;
            }
        }
    }

    /// Carries a read out; false if there is no room for its bytes.
    fn carry_out(&mut self, id: ReadId) -> bool {
        let job = &self.reads.jobs[&id];
        let (log_id, base_offset, wanted, goal) = (job.log, job.segment, job.wanted, job.goal);
        let log = self.logs[log_id.0 as usize].as_ref();
        let found = |log| Log::segment_for(log, base_offset, wanted.from);
        let Some((log, segment)) = log.and_then(|log| Some((log, found(log)?))) else {
            self.finish_read(id, Err(ReadError::Gone));
            return true;
        };
        let base_offset = segment.state.base_offset;
        let IndexSlot::Ready(index) = &segment.index else {
            self.want_index(log_id, base_offset, Some(id));
            return true;
        };
        let on_disk = log.on_disk(segment);
        let read_bytes_max = self.config.read_bytes_max as u32;
        let plan = match goal {
            Goal::Batches => ReadPlan::new(index, on_disk, wanted, read_bytes_max),
            Goal::FirstAt(at) | Goal::Newest { at, .. } => {
                let at_most = wanted.limit_bytes.min(read_bytes_max);
                ReadPlan::for_time(index, at, wanted.from, on_disk, at_most)
            }
        };
        let Some(plan) = plan else {
            // The index says that nothing of it is on disk: it is in the tail, or further on.
            let behind = on_disk.offset;
            match goal {
                Goal::Batches => self.finish_without_disk(id),
                Goal::FirstAt(_) | Goal::Newest { .. } => self.look_on(id, goal, behind),
            }
            return true;
        };
        let with_it = self.reads.bytes_in_flight + plan.size_bytes() as usize;
        if 0 < self.reads.in_flight && self.config.read_bytes_in_flight_max < with_it {
            return false;
        }
        let file = segment.file(log.partition);
        let action = Action::Read { file, position: plan.position(), size: plan.size_bytes() };
        let job = self.reads.jobs.get_mut(&id).expect("it was there");
        job.plan = Some(plan);
        job.segment = base_offset;
        self.reads.in_flight += 1;
        self.reads.bytes_in_flight = with_it;
        self.requests.ask(Purpose::Read(id), action);
        true
    }

    pub(super) fn handle_read(&mut self, id: ReadId, result: Result<Outcome, Fault>) {
        self.reads.in_flight -= 1;
        let job = self.reads.jobs.get_mut(&id).expect("a read ends once");
        let plan = job.plan.take().expect("it was planned");
        self.reads.bytes_in_flight -= plan.size_bytes() as usize;
        let (log, segment, goal) = (job.log, job.segment, job.goal);
        match result {
            Ok(Outcome::Bytes(bytes)) => {
                let cut = plan.cut(&bytes);
                if let Some(damage) = &cut.damage {
                    self.quarantine(log, damage);
                }
                match goal {
                    Goal::Batches => self.finish_batches(id, cut),
                    Goal::FirstAt(_) | Goal::Newest { .. } => self.finish_lookup(id, &cut),
                }
            }
            Ok(_) => panic!("a read ends with bytes"),
            Err(fault) => self.finish_read(id, Err(ReadError::Device { fault })),
        }
        // Who waits to remove the file, or to cut it, may have waited for this.
        self.after_read(log, segment);
        self.step_reads();
    }

    fn finish_batches(&mut self, id: ReadId, cut: Cut) {
        let result = match cut.damage {
            Some(Damage { start, end }) if cut.batches.is_empty() => {
                Err(ReadError::Damaged { offsets: start.offset..end.offset })
            }
            _ => Ok(vec![cut.batches]),
        };
        self.finish_read(id, result);
    }

    /// What is wanted is in the tail, or nowhere.
    fn finish_without_disk(&mut self, id: ReadId) {
        let job = &self.reads.jobs[&id];
        let batches = self.log(job.log).tail.read(&job.wanted).map_or(Vec::new(), |read| read.0);
        self.finish_read(id, Ok(batches));
    }

    /// A lookup goes on at `from`, in larger pieces than its first. It waits for its turn again.
    pub(super) fn read_on(&mut self, id: ReadId, segment: Offset, goal: Goal, from: Offset) {
        let job = self.reads.jobs.get_mut(&id).expect("it goes on");
        job.segment = segment;
        job.goal = goal;
        job.wanted = Wanted { from, limit_bytes: u32::MAX, ..job.wanted };
        self.reads.waiting.push_back(id);
    }

    /// The log and goal of a read, which is over.
    pub(super) fn take_job(&mut self, id: ReadId) -> Job {
        self.reads.jobs.remove(&id).expect("a read ends once")
    }

    pub(super) fn job(&self, id: ReadId) -> &Job {
        &self.reads.jobs[&id]
    }

    fn after_read(&mut self, id: LogId, segment: Offset) {
        let waits = |log: &Log| {
            log.segment(segment).is_none() || log.closing.is_some() || !log.doomed.is_empty()
        };
        if self.logs[id.0 as usize].as_ref().is_none_or(waits) {
            self.after_last_request(id);
        }
    }

    pub(super) fn finish_read(&mut self, id: ReadId, result: Result<Vec<Bytes>, ReadError>) {
        let job = self.take_job(id);
        self.events.push_back(match (job.goal, result) {
            (Goal::Batches, result) => Event::ReadDone { read: id, result },
            (_, Err(error)) => Event::LookupDone { read: id, result: Err(error) },
            (_, Ok(_)) => Event::LookupDone { read: id, result: Ok(None) },
        });
    }

    /// What was found damaged is never served again, and it is told once.
    pub(super) fn quarantine(&mut self, id: LogId, damage: &Damage) {
        let offsets = damage.start.offset..damage.end.offset;
        let Some(log) = self.find_log_mut(id) else { return };
        let known = |known: &std::ops::Range<Offset>| {
            known.start <= offsets.start && offsets.end <= known.end
        };
        if log.damaged.iter().any(known) {
            return;
        }
        log.damaged.push(offsets.clone());
        log.damaged.sort_by_key(|range| range.start);
        log.changed = true;
        self.events.push_back(Event::Damaged { log: id, offsets });
    }

    // --- indexes ---

    /// Gets the index of a segment into memory; `read` goes on when it is there.
    pub(super) fn want_index(&mut self, id: LogId, base_offset: Offset, read: Option<ReadId>) {
        if let Some(build) = self.reads.builds.get_mut(&(id, base_offset)) {
            return build.waiting.extend(read);
        }
        let log = self.log(id);
        let segment = log.segment(base_offset).expect("it was just there");
        let (file, name) = (segment.index_file(log.partition), segment.state.name());
        let size = segment.index_file_bytes_max();
        let waiting = read.into_iter().collect();
        self.reads.builds.insert((id, base_offset), Build { walk: None, waiting });
        let purpose = Purpose::Index { log: id, segment: name };
        self.requests.ask(purpose, Action::Read { file, position: 0, size });
    }

    /// Whether the index of a segment is on its way into memory.
    pub(super) fn is_index_coming(&self, id: LogId, base_offset: Offset) -> bool {
        self.reads.builds.contains_key(&(id, base_offset))
    }

    pub(super) fn handle_index(
        &mut self,
        id: LogId,
        name: SegmentName,
        result: Result<Outcome, Fault>,
    ) {
        let base_offset = name.base_offset;
        let key = (id, base_offset);
        let log = self.logs[id.0 as usize].as_ref();
        let segment = log.and_then(|log| log.segment(base_offset));
        if segment.is_none_or(|segment| segment.state.name() != name) {
            // Those who wait find another segment with what they want, or none.
            self.end_build(key, &Ok(()));
            return self.after_last_request(id);
        }
        let build = self.reads.builds.get_mut(&key).expect("it was begun");
        match (&mut build.walk, result) {
            (None, result) => self.begin_walk(key, result),
            (Some(walk), Ok(Outcome::Bytes(bytes))) => match walk.take(&bytes, |_, _| {}) {
                Ok(()) => self.step_walk(key),
                Err(_) => self.finish_walk(key),
            },
            (Some(_), Ok(_)) => panic!("a read ends with bytes"),
            (Some(_), Err(fault)) => self.end_build(key, &Err(ReadError::Device { fault })),
        }
        self.after_read(id, base_offset);
    }

    /// The index file has been read, or is not there. What it does not cover is walked.
    fn begin_walk(&mut self, key: (LogId, Offset), file: Result<Outcome, Fault>) {
        let log = self.log(key.0);
        let segment = log.segment(key.1).expect("it was looked up");
        let IndexSlot::Absent { from, from_offset, .. } = &segment.index else {
            return self.end_build(key, &Ok(()));
        };
        let (end, stop_at) = (*from, *from_offset);
        let generation = segment.state.generation;
        let decoded = match file {
            Ok(Outcome::Bytes(bytes)) => {
                Index::decode(&bytes, log.partition, key.1, generation).ok()
            }
            _ => None,
        };
        let fits = |index: &Index| {
            index.size_bytes() <= end
                && index.next_offset() <= stop_at
                && segment.state.accepts(index)
        };
        let new = || segment.state.empty_index(log.partition);
        let index = decoded.filter(fits).unwrap_or_else(new);
        let batch_bytes_max = u32::try_from(end).unwrap_or(u32::MAX);
        let walk = SegmentWalk::new(index, log.epochs.clone(), end, stop_at, batch_bytes_max);
        self.reads.builds.get_mut(&key).expect("it was begun").walk = Some(walk);
        self.step_walk(key);
    }

    fn step_walk(&mut self, key: (LogId, Offset)) {
        let build = self.reads.builds.get_mut(&key).expect("it was begun");
        let walk = build.walk.as_ref().expect("it walks");
        if let Some((position, size)) = walk.next_read() {
            let log = self.log(key.0);
            let segment = log.segment(key.1).expect("it was looked up");
            let file = segment.file(log.partition);
            let purpose = Purpose::Index { log: key.0, segment: segment.state.name() };
            return self.requests.ask(purpose, Action::Read { file, position, size });
        }
        self.finish_walk(key);
    }

    /// The walk has come to the end of what was there, or to damage. What lies behind damage gets
    /// a span that no read will ever prove; and the index goes on behind it.
    fn finish_walk(&mut self, key: (LogId, Offset)) {
        let build = self.reads.builds.get_mut(&key).expect("it was begun");
        let mut index = build.walk.take().expect("it walks").into_index();
        let log = self.log(key.0);
        let segment = log.segment(key.1).expect("it was looked up");
        let IndexSlot::Absent { from, from_offset, .. } = segment.index else {
            return self.end_build(key, &Ok(()));
        };
        let end = Boundary { position: from, offset: from_offset };
        let reached = Boundary { position: index.size_bytes(), offset: index.next_offset() };
        if reached != end || !segment.state.accepts(&index) {
            let fits = reached.position < end.position && reached.offset < end.offset;
            if !fits || segment.state.is_compacted() {
                // Sound batches, but not those that were written here. Of a compacted segment it
                // is all or nothing: where its batches begin is proved by the whole index alone.
                index = segment.state.empty_index(log.partition);
            }
            let start = Boundary { position: index.size_bytes(), offset: index.next_offset() };
            self.quarantine(key.0, &Damage { start, end });
            index.append(&IndexedBatch {
                next_offset: end.offset,
                size_bytes: (end.position - start.position) as u32,
                raw_crc: 0,
                max_timestamp: Timestamp::NONE,
            });
        }
        let segment = self.log_mut(key.0).segment_mut(key.1).expect("it was looked up");
        if let IndexSlot::Absent { since, .. } = &segment.index {
            since.iter().for_each(|batch| index.append(batch));
        }
        segment.index = IndexSlot::Ready(index);
        self.note_index(key.0, key.1);
        self.end_build(key, &Ok(()));
    }

    fn end_build(&mut self, key: (LogId, Offset), result: &Result<(), ReadError>) {
        let build = self.reads.builds.remove(&key).expect("it was begun");
        for id in build.waiting {
            match result {
                Ok(()) => self.reads.waiting.push_back(id),
                Err(error) => self.finish_read(id, Err(error.clone())),
            }
        }
        self.step_reads();
    }

    /// The index of a sealed segment is in memory; the oldest ones leave it.
    pub(super) fn note_index(&mut self, id: LogId, base_offset: Offset) {
        let Some(segment) = self.log(id).segment(base_offset) else { return };
        let IndexSlot::Ready(index) = &segment.index else { return };
        // One that is being sealed is noted when it is.
        if segment.seal != Seal::Sealed {
            return;
        }
        let bytes = index.memory_bytes();
        self.reads.cached.push_back((id, base_offset, bytes));
        self.reads.cached_bytes += bytes;
        while self.config.index_bytes_max < self.reads.cached_bytes && 1 < self.reads.cached.len() {
            let (id, base_offset, bytes) =
                self.reads.cached.pop_front().expect("there is more than one");
            self.reads.cached_bytes -= bytes;
            let Some(log) = self.find_log_mut(id) else { continue };
            // Its name may have gone to a new segment, whose newest bytes are in the tail only.
            let segment = log.segment_mut(base_offset).filter(|it| it.seal == Seal::Sealed);
            if let Some(segment) = segment {
                segment.forget_index();
            }
        }
    }
}

impl Log {
    /// The segment of that name; if compaction has put it into another, the one that holds the
    /// record at `from`.
    fn segment_for(&self, base_offset: Offset, from: Offset) -> Option<&Segment> {
        let is_kept = self.start <= from;
        let holding = || self.segment_holding(from).filter(|_| is_kept);
        self.segment(base_offset).or_else(holding)
    }

    /// How far the bytes of `segment` are certainly in its file: what is not, is in the tail.
    pub(super) fn on_disk(&self, segment: &Segment) -> Boundary {
        let state = &segment.state;
        let end = Boundary { position: state.size_bytes, offset: state.next_offset };
        match self.tail.first() {
            Some(first) if first.segment < state.base_offset => {
                Boundary { position: 0, offset: state.base_offset }
            }
            _ => self.tail.start_in(state.base_offset).unwrap_or(end),
        }
    }
}

impl Segment {
    /// Leaves it to the next read to get the index again.
    pub(super) fn forget_index(&mut self) {
        self.index = IndexSlot::Absent {
            from: self.state.size_bytes,
            from_offset: self.state.next_offset,
            since: Vec::new(),
        };
    }
}
