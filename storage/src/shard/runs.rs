//! Large runs: data that is long enough goes to its segment first, once, and only its reference
//! to the journal.
//!
//! ```text
//! segment:  | …… p | whole blocks: written durably at once | q …… |
//! journal:        [p…|                reference            |…q]
//! ```
//!
//! The partial blocks at both ends belong to other batches too, so they travel in the journal and
//! are written behind it, like everything small. The reference is journaled when the write is
//! complete and the file's name is durable. Until then later entries of the same log wait behind
//! the run; other logs do not.
//!
//! Start reading at [`ShardStorage::plan_runs`].

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};
use tidemill_record::{Offset, checksum};

use super::{Purpose, ShardStorage};
use crate::block::{AlignedBytes, BLOCK_BYTES, round_down, round_up};
use crate::io::{Action, DirName, Fault, Outcome};
use crate::journal::Pending;
use crate::layout::{Entry, EntryKind};
use crate::log::{Log, LogId};
use crate::segment::PIECE_BYTES_MAX;

/// How far a run is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Stage {
    /// The names of its file and directories are being made durable.
    Names,
    /// Its whole blocks are being written.
    Writing,
}

/// A run on its way into its segment.
#[derive(Debug)]
pub(crate) struct Run {
    /// The appends it is made of, in order.
    parts: Vec<Pending>,
    stage: Stage,
    /// Requests still under way.
    left: usize,
}

impl ShardStorage {
    /// Hands an entry to the journal, or to the end of what waits behind a run of its log.
    pub(super) fn enqueue(&mut self, id: LogId, pending: Pending) {
        let large = self.config.large_run_bytes;
        let log = self.log_mut(id);
        if log.run.is_some() {
            let bytes = pending.data.len() as u64;
            log.held.push_back(pending);
            self.held_bytes += bytes;
        } else if large <= pending.data.len() {
            self.begin_run(id, vec![pending]);
        } else {
            self.journal.take(pending, self.now);
        }
    }

    /// Takes runs that have come together during this turn out of the journal's queue.
    pub(super) fn plan_runs(&mut self) {
        let large = self.config.large_run_bytes as u64;
        if self.journal.pending_bytes() < large {
            return;
        }
        for id in self.journal.logs_with_runs(large) {
            if self.log(id).run.is_none() {
                let parts = self.journal.take_back(id);
                self.begin_run(id, parts);
            }
        }
    }

    fn begin_run(&mut self, id: LogId, parts: Vec<Pending>) {
        self.runs += 1;
        let log = self.log_mut(id);
        let segment = parts[0].entry.segment;
        let names_durable = log.segment(segment).is_some_and(|segment| segment.name_durable);
        let dirs = if names_durable { Vec::new() } else { log.dirs_to_sync() };
        log.run = Some(Run { parts, stage: Stage::Names, left: dirs.len() });
        if dirs.is_empty() {
            return self.write_run(id);
        }
        for dir in dirs {
            self.requests.ask(Purpose::Run(id), Action::SyncDir { dir });
        }
    }

    fn write_run(&mut self, id: LogId) {
        let log = self.logs[id.0 as usize].as_mut().expect("its run is not over");
        let run = log.run.as_mut().expect("it was begun");
        let (from, to) = run.blocks();
        let base_offset = run.parts[0].entry.segment;
        let next_offset = run.last().next_offset;
        let pieces = run.pieces();
        run.stage = Stage::Writing;
        run.left = pieces.len();
        let partition = log.partition;
        let segment = log.segment_mut(base_offset).expect("it is not durable yet, so not trimmed");
        segment.direct.push_back((from, to));
        segment.runs_end = next_offset;
        let file = segment.file(partition);
        for (position, bytes) in pieces {
            self.flush_bytes_in_flight += bytes.len() as u64;
            let action = Action::Write { file: file.clone(), position, bytes, durable: true };
            self.requests.ask(Purpose::Run(id), action);
        }
    }

    pub(super) fn handle_run(&mut self, id: LogId, result: Result<Outcome, Fault>) {
        if !self.must_succeed(&result) || self.fenced {
            return;
        }
        let log = self.log_mut(id);
        let run = log.run.as_mut().expect("its requests are under way");
        run.left -= 1;
        if run.left != 0 {
            return;
        }
        match run.stage {
            Stage::Names => {
                let base_offset = run.parts[0].entry.segment;
                log.dirs_durable = true;
                let segment = log.segment_mut(base_offset).expect("it is not durable yet");
                segment.name_durable = true;
                self.write_run(id);
            }
            Stage::Writing => self.finish_run(id),
        }
    }

    /// The run is in its segment: its reference goes to the journal, and what waited follows.
    fn finish_run(&mut self, id: LogId) {
        self.runs -= 1;
        let log = self.log_mut(id);
        let run = log.run.take().expect("it is written");
        let held = std::mem::take(&mut log.held);
        let (from, to) = run.blocks();
        let segment = run.parts[0].entry.segment;
        log.segment_mut(segment).expect("it is not durable yet, so not trimmed").dirty = true;
        self.flush_bytes_in_flight -= to - from;
        self.held_bytes -= held.iter().map(|pending| pending.data.len() as u64).sum::<u64>();
        self.journal.take(run.reference(id), self.now);
        self.release(id, held);
    }

    /// What waited behind a run goes on: as the next run, or to the journal.
    fn release(&mut self, id: LogId, mut held: VecDeque<Pending>) {
        let large = self.config.large_run_bytes as u64;
        while !held.is_empty() && self.log(id).run.is_none() {
            let (count, bytes) = leading_run(&held);
            let group = held.drain(..count.max(1));
            if large <= bytes {
                let parts = group.collect();
                self.begin_run(id, parts);
            } else {
                let (journal, now) = (&mut self.journal, self.now);
                group.for_each(|pending| journal.take(pending, now));
            }
        }
        for pending in held {
            self.enqueue(id, pending);
        }
    }
}

impl Run {
    fn start(&self) -> u64 {
        self.parts[0].entry.position
    }

    fn last(&self) -> &Entry {
        &self.parts.last().expect("a run has a batch").entry
    }

    fn end(&self) -> u64 {
        self.last().position + u64::from(self.last().data_bytes)
    }

    /// The whole blocks it fills alone.
    fn blocks(&self) -> (u64, u64) {
        let blocks = (round_up(self.start()), round_down(self.end()));
        assert!(blocks.0 < blocks.1, "a run is longer than a few blocks");
        blocks
    }

    /// Those blocks as aligned pieces with their positions: the one copy.
    fn pieces(&self) -> Vec<(u64, Bytes)> {
        let (from, to) = self.blocks();
        let mut pieces = Vec::new();
        let mut position = from;
        while position < to {
            let end = to.min(position + PIECE_BYTES_MAX);
            let mut piece = AlignedBytes::with_capacity((end - position) as usize);
            self.each_slice(position, end, |slice| piece.put(slice));
            pieces.push((position, piece.into_blocks()));
            position = end;
        }
        pieces
    }

    fn each_slice(&self, from: u64, to: u64, mut each: impl FnMut(&[u8])) {
        for part in &self.parts {
            let start = part.entry.position;
            let end = start + part.data.len() as u64;
            let (from, to) = (from.max(start), to.min(end));
            if from < to {
                each(&part.data[(from - start) as usize..(to - start) as usize]);
            }
        }
    }

    /// Its journal entry, with the partial blocks at both ends as payload.
    fn reference(&self, log: LogId) -> Pending {
        let (from, to) = self.blocks();
        let first = &self.parts[0];
        let last = self.last();
        let mut data = BytesMut::with_capacity(2 * BLOCK_BYTES);
        self.each_slice(self.start(), from, |slice| data.extend_from_slice(slice));
        self.each_slice(to, self.end(), |slice| data.extend_from_slice(slice));
        let combine =
            |crc, part: &Pending| checksum::combine(crc, part.entry.data_crc, part.data.len());
        let prefix_crc = checksum::append(checksum::crc32c(&first.prefix), &data);
        let entry = Entry {
            kind: EntryKind::Reference,
            prefix_crc,
            next_offset: last.next_offset,
            wall_ms: last.wall_ms,
            data_bytes: (self.end() - self.start()) as u32,
            data_crc: self.parts.iter().fold(0, combine),
            last_bytes: (self.end() - to) as u32,
            ..first.entry
        };
        let (prefix, data) = (first.prefix.clone(), data.freeze());
        Pending { log, entry, prefix, data, starts_anew: first.starts_anew }
    }
}

impl Log {
    /// The directories that must be synced so that a new segment's name is durable.
    fn dirs_to_sync(&self) -> Vec<DirName> {
        let mut dirs = vec![self.dir()];
        if !self.dirs_durable {
            dirs.push(DirName::Topic { topic: self.partition.topic });
            dirs.push(DirName::Partitions);
        }
        dirs
    }
}

/// How many entries from the front can be one run, and their bytes: appends to one segment, with
/// no parking between them.
pub(crate) fn leading_run<'a>(pending: impl IntoIterator<Item = &'a Pending>) -> (usize, u64) {
    let mut segment: Option<Offset> = None;
    let mut count = 0;
    let mut bytes = 0;
    for part in pending {
        let follows = match segment {
            None => true,
            Some(segment) => part.entry.segment == segment && !part.starts_anew,
        };
        if part.entry.kind != EntryKind::Append || !follows {
            break;
        }
        segment = Some(part.entry.segment);
        count += 1;
        bytes += part.data.len() as u64;
    }
    (count, bytes)
}
