//! The journal of a shard: how what happens to all its logs becomes durable with few writes.
//!
//! Entries of all logs wait in one queue. A commit window takes as many as fit and is written with
//! one durable write. Several writes may be under way; durability is told in order, so that if an
//! entry is durable, so are all before it. The journal's files are prewritten and used again and
//! again: a full one is free once a checkpoint no longer needs it.
//!
//! ```text
//! oldest live file           …           current file             free files
//! | window | window | window |   | window | window | (room) |    | … |   | … |
//! first needed by recovery                         ^ next window
//! ```
//!
//! This module knows no logs: it returns the entries that have become durable.
//!
//! Start reading at [`Journal::close_window`].

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;

use crate::block::AlignedBytes;
use crate::checkpoint::ReplayFrom;
use crate::config::Config;
use crate::io::{Action, FileName};
use crate::layout::{
    ENTRY_BYTES, Entry, EntryKind, HEADER_BYTES, TRAILER_BYTES, WindowHeader, window_bytes,
};
use crate::log::LogId;
use crate::mistake::{self, Mistake};
use crate::shard::leading_run;

/// An entry on its way to the disk.
#[derive(Clone, Debug)]
pub(crate) struct Pending {
    /// Whose it is.
    pub(crate) log: LogId,
    /// What it says.
    pub(crate) entry: Entry,
    /// The bytes of the log's partial block before the data, if it was parked.
    pub(crate) prefix: Bytes,
    /// The batch.
    pub(crate) data: Bytes,
    /// The log was parked before it.
    pub(crate) starts_anew: bool,
}

/// A window that has been written or is being written, until it is told durable.
#[derive(Debug)]
struct Window {
    sequence: u64,
    written: bool,
    entries: Vec<(LogId, Entry)>,
}

/// A file of the ring in use: all windows in it, from this one on.
#[derive(Clone, Copy, Debug)]
struct LiveFile {
    number: u32,
    first: ReplayFrom,
    /// What [`Journal::taken_bytes`] was before that window.
    taken_before: u64,
}

/// The journal of one shard.
#[derive(Debug)]
pub(crate) struct Journal {
    shard: u16,
    incarnation: u64,
    file_bytes: u64,
    /// Oldest first; the last is being filled.
    live: VecDeque<LiveFile>,
    /// Prewritten, and needed by nobody.
    free: VecDeque<u32>,
    /// How many files there are, and the number of the next new one.
    next_number: u32,
    file_uses: u32,
    /// Where in the current file the next window begins.
    position: u64,
    next_sequence: u64,
    previous_checksum: u32,
    /// Bytes that a replay of everything would take in: of the windows, and of the runs they refer
    /// to.
    taken_bytes: u64,
    /// The same at the place that [`Journal::plan_replay_from_here`] told last.
    planned_bytes: u64,
    pending: VecDeque<Pending>,
    pending_bytes: u64,
    /// What is pending has changed since it was looked through for runs.
    pending_changed: bool,
    /// When the oldest pending entry came.
    pending_since: u64,
    in_flight: VecDeque<Window>,
    /// The highest sequence told durable.
    reported: u64,
    /// The highest of them with entries: what a mark is for.
    reported_full: u64,
    /// The mark in the newest window.
    marked: u64,
    /// When something was last appended or told durable.
    active_at: u64,
}

/// Bytes of journal kept back from appends, for entries that must always find room: trims, drops,
/// rolls. They are small, but each may come in a window of its own.
fn reserve_bytes(config: &Config) -> u64 {
    2 * config.window_bytes_max as u64
}

impl Journal {
    /// A journal that begins to fill the first of `files`, all of them free.
    pub(crate) fn new(config: &Config, shard: u16, incarnation: u64, files: &[u32]) -> Self {
        let mut free: VecDeque<u32> = files.iter().copied().collect();
        let number = free.pop_front().expect("recovery has made the first journal file");
        let first = ReplayFrom { sequence: 1, file_number: number, ..ReplayFrom::default() };
        Self {
            shard,
            incarnation,
            file_bytes: config.journal_file_bytes,
            live: VecDeque::from([LiveFile { number, first, taken_before: 0 }]),
            free,
            next_number: files.iter().max().map_or(0, |last| last + 1),
            file_uses: 1,
            position: 0,
            next_sequence: 1,
            previous_checksum: 0,
            taken_bytes: 0,
            planned_bytes: 0,
            pending: VecDeque::new(),
            pending_bytes: 0,
            pending_changed: false,
            pending_since: 0,
            in_flight: VecDeque::new(),
            reported: 0,
            reported_full: 0,
            marked: 0,
            active_at: 0,
        }
    }

    /// Whether an append of `bytes` finds room, whatever else is waiting.
    pub(crate) fn has_room(&self, config: &Config, bytes: u64) -> bool {
        let window_max = config.window_bytes_max as u64;
        // A window that does not fit at the end of a file goes to the next one.
        let wasted = bytes + window_max;
        let rest = (self.file_bytes - self.position).saturating_sub(window_max);
        let whole = self.file_bytes.saturating_sub(wasted);
        let room = rest + whole * self.free.len() as u64;
        self.pending_bytes + cost(bytes) + reserve_bytes(config) <= room
    }

    /// The sequence of the next window to be closed: an entry taken now is in that or a later one.
    pub(crate) fn next_sequence(&self) -> u64 {
        self.next_sequence
    }

    /// Bytes waiting for a window.
    pub(crate) fn pending_bytes(&self) -> u64 {
        self.pending_bytes
    }

    /// Takes an entry; it will be durable in the order of taking.
    pub(crate) fn take(&mut self, pending: Pending, now: u64) {
        debug_assert_eq!(
            pending.entry.payload_bytes(),
            (pending.prefix.len() + pending.data.len()) as u64
        );
        if self.pending.is_empty() {
            self.pending_since = now;
        }
        self.active_at = now;
        self.pending_bytes += cost(pending.entry.payload_bytes());
        self.pending.push_back(pending);
        self.pending_changed = true;
    }

    /// The logs whose waiting entries are all appends that make one run of `bytes` or more; none
    /// if that was asked before and nothing has changed since.
    pub(crate) fn logs_with_runs(&mut self, bytes: u64) -> Vec<LogId> {
        let changed = std::mem::take(&mut self.pending_changed);
        if !changed || !self.may_hold_run(bytes) {
            return Vec::new();
        }
        let mut by_log: BTreeMap<LogId, Vec<&Pending>> = BTreeMap::new();
        for pending in &self.pending {
            by_log.entry(pending.log).or_default().push(pending);
        }
        let is_run = |waiting: &[&Pending]| {
            let (count, run_bytes) = leading_run(waiting.iter().copied());
            count == waiting.len() && bytes <= run_bytes
        };
        by_log.iter().filter(|(_, waiting)| is_run(waiting)).map(|(&log, _)| log).collect()
    }

    /// A look at all that waits, before it is sorted by logs: among many small entries of many
    /// logs there is no run.
    fn may_hold_run(&self, bytes: u64) -> bool {
        const GROUPS: usize = 64;
        let mut by_group = [0; GROUPS];
        for pending in &self.pending {
            by_group[pending.log.0 as usize % GROUPS] += pending.data.len() as u64;
        }
        by_group.iter().any(|group| bytes <= *group)
    }

    /// Takes all waiting entries of a log out of the queue again.
    pub(crate) fn take_back(&mut self, log: LogId) -> Vec<Pending> {
        let waiting = std::mem::take(&mut self.pending);
        let (back, rest): (Vec<Pending>, Vec<Pending>) =
            waiting.into_iter().partition(|pending| pending.log == log);
        self.pending = rest.into();
        self.pending_bytes -=
            back.iter().map(|pending| cost(pending.entry.payload_bytes())).sum::<u64>();
        back
    }

    /// Closes a window if it is time to, and returns its number and the write to be made.
    ///
    /// With no write under way, whatever waits goes at once. With some under way, it is better to
    /// let more come together, up to a size or a delay.
    pub(crate) fn close_window(&mut self, config: &Config, now: u64) -> Option<(u64, Action)> {
        if self.in_flight.len() >= config.windows_in_flight_max {
            return None;
        }
        let full = config.window_bytes_close as u64 <= self.pending_bytes;
        let late = self.pending_since + config.window_delay_ns <= now;
        let due = !self.pending.is_empty() && (self.in_flight.is_empty() || full || late);
        if !due && !self.mark_is_due(config, now) {
            return None;
        }
        if !self.next_fits(config) && !self.open_next_file() {
            return None;
        }
        let count = self.count_that_fits(config);
        let payload_bytes = self.payload_of(count);
        let bytes = window_bytes(count, payload_bytes);
        Some(self.write_window(count, payload_bytes, bytes, now))
    }

    /// When [`Journal::close_window`] will want to be called, if nothing else happens.
    pub(crate) fn next_deadline(&self, config: &Config) -> Option<u64> {
        if !self.pending.is_empty() {
            // If nothing can be closed now, only a completion changes that.
            let can_close = self.in_flight.len() < config.windows_in_flight_max
                && (self.next_fits(config) || !self.free.is_empty());
            return can_close.then(|| self.pending_since + config.window_delay_ns);
        }
        let idle = self.in_flight.is_empty() && self.marked < self.reported_full;
        idle.then(|| self.active_at + config.idle_mark_ns)
    }

    /// A window's write is complete. Returns the entries that have become durable, in order.
    pub(crate) fn handle_written(&mut self, sequence: u64, now: u64) -> Vec<(LogId, Entry)> {
        let window = self.in_flight.iter_mut().find(|window| window.sequence == sequence);
        window.expect("a window completes once").written = true;

        let mut durable = Vec::new();
        while let Some(window) = self.in_flight.front_mut()
            && window.written
        {
            // Durable in order: an entry counts only when all before it are on disk.
            assert!(self.reported < window.sequence);
            self.reported = window.sequence;
            if !window.entries.is_empty() {
                self.reported_full = window.sequence;
            }
            if durable.is_empty() {
                durable = std::mem::take(&mut window.entries);
            } else {
                durable.append(&mut window.entries);
            }
            self.in_flight.pop_front();
        }
        if !durable.is_empty() {
            self.active_at = now;
        }
        durable
    }

    /// Whether everything taken is durable and nothing is being written.
    pub(crate) fn is_quiet(&self) -> bool {
        self.pending.is_empty() && self.in_flight.is_empty()
    }

    // --- the ring of files ---

    /// The live files that a checkpoint should free now: the older half, never the current one.
    /// Returns where replay would begin then; `None` if there is nothing to free.
    pub(crate) fn plan_recycling(&self) -> Option<ReplayFrom> {
        let full = self.live.len() - 1;
        (0 < full).then(|| self.live[full.div_ceil(2)].first)
    }

    /// Where replay begins if nothing is freed.
    pub(crate) fn first(&self) -> ReplayFrom {
        self.live.front().expect("there is always a current file").first
    }

    /// Where replay would begin if everything taken so far were synced in segments. Only when
    /// nothing waits or is under way.
    pub(crate) fn end(&self) -> ReplayFrom {
        assert!(self.is_quiet());
        self.next_window()
    }

    /// The bytes that a start would have to replay if it came now.
    pub(crate) fn replay_bytes(&self) -> u64 {
        self.taken_bytes - self.live.front().expect("there is a current file").taken_before
    }

    /// Where replay begins if everything in windows closed so far is synced in segments.
    pub(crate) fn plan_replay_from_here(&mut self) -> ReplayFrom {
        self.planned_bytes = self.taken_bytes;
        self.next_window()
    }

    /// If the next window does not fit into the current file, it begins the next one: whoever
    /// looks for it here, looks there too.
    fn next_window(&self) -> ReplayFrom {
        ReplayFrom {
            sequence: self.next_sequence,
            file_number: self.current().number,
            position: self.position,
            previous_checksum: self.previous_checksum,
        }
    }

    /// A checkpoint is durable that needs nothing before `from`: frees the files before.
    pub(crate) fn recycle(&mut self, from: &ReplayFrom) {
        while self.live.front().is_some_and(|file| file.number != from.file_number) {
            let file = self.live.pop_front().expect("there is a front");
            // Equal if nothing of it was needed any more, and what followed went to the next file.
            assert!(file.first.sequence <= from.sequence, "only older files are freed");
            match mistake::is_made(Mistake::RecycleEarly) {
                true => self.free.push_front(file.number),
                false => self.free.push_back(file.number),
            }
        }
        let front = self.live.front_mut().expect("the current file is never freed");
        if front.first.sequence < from.sequence {
            // The windows before it in this file are needed no more.
            front.first = *from;
            front.taken_before = self.planned_bytes;
        }
    }

    /// The next file to be prewritten, if there should be more: two are kept free ahead.
    pub(crate) fn plan_growth(&self, config: &Config) -> Option<FileName> {
        const FREE_AHEAD: usize = 2;
        let count = (self.live.len() + self.free.len()) as u32;
        let wanted = self.free.len() < FREE_AHEAD && count < config.journal_files_max();
        wanted.then_some(FileName::Journal { shard: self.shard, number: self.next_number })
    }

    /// A new file is there, durable and full of zeros.
    pub(crate) fn grow(&mut self) {
        self.free.push_back(self.next_number);
        self.next_number += 1;
    }

    /// Whether the ring is filling up, so that a checkpoint should make room.
    pub(crate) fn is_tight(&self, can_grow: bool) -> bool {
        let count = self.live.len() + self.free.len();
        !can_grow && 1 < self.live.len() && self.free.len() <= (count / 4).max(1)
    }

    fn current(&self) -> &LiveFile {
        self.live.back().expect("there is always a current file")
    }

    fn open_next_file(&mut self) -> bool {
        let Some(number) = self.free.pop_front() else { return false };
        self.file_uses += 1;
        self.position = 0;
        let first = ReplayFrom {
            sequence: self.next_sequence,
            file_number: number,
            position: 0,
            previous_checksum: self.previous_checksum,
        };
        self.live.push_back(LiveFile { number, first, taken_before: self.taken_bytes });
        true
    }

    // --- one window ---

    /// The empty window that says: all before me was told durable.
    fn mark_is_due(&self, config: &Config, now: u64) -> bool {
        self.is_quiet()
            && self.marked < self.reported_full
            && self.active_at + config.idle_mark_ns <= now
    }

    /// How many entries go into the next window: as many as stay below the limit, at least one.
    fn count_that_fits(&self, config: &Config) -> usize {
        let limit = (config.window_bytes_max - HEADER_BYTES - TRAILER_BYTES) as u64;
        if self.pending_bytes <= limit {
            return self.pending.len();
        }
        let mut bytes = 0;
        let fitting = self.pending.iter().take_while(|pending| {
            bytes += cost(pending.entry.payload_bytes());
            bytes <= limit
        });
        fitting.count().max(1).min(self.pending.len())
    }

    /// Whether the next window fits into what is left of the current file.
    fn next_fits(&self, config: &Config) -> bool {
        let count = self.count_that_fits(config);
        self.position + window_bytes(count, self.payload_of(count)) <= self.file_bytes
    }

    fn payload_of(&self, count: usize) -> u64 {
        if count == self.pending.len() {
            return self.pending_bytes - (count * ENTRY_BYTES) as u64;
        }
        self.pending.iter().take(count).map(|pending| pending.entry.payload_bytes()).sum()
    }

    fn write_window(
        &mut self,
        count: usize,
        payload_bytes: u64,
        bytes: u64,
        now: u64,
    ) -> (u64, Action) {
        let sequence = self.next_sequence;
        let number = self.current().number;
        let header = WindowHeader {
            shard: self.shard,
            incarnation: self.incarnation,
            sequence,
            mark: self.reported,
            file_number: number,
            file_use: self.file_uses,
            previous_checksum: self.previous_checksum,
            entries_count: count as u32,
            payload_bytes,
            blocks: (bytes / crate::block::BLOCK_BYTES as u64) as u32,
        };
        let mut head = Vec::with_capacity(HEADER_BYTES + count * ENTRY_BYTES);
        let taken = self.pending.iter().take(count);
        let checksum = header.encode(taken.clone().map(|pending| &pending.entry), &mut head);

        let mut buffer = AlignedBytes::with_capacity(bytes as usize);
        buffer.put(&head);
        for pending in taken {
            buffer.put(&pending.prefix);
            buffer.put(&pending.data);
        }
        buffer.put_zeros(bytes as usize - TRAILER_BYTES - buffer.len());
        buffer.put(&header.trailer(checksum));

        let action = Action::Write {
            file: FileName::Journal { shard: self.shard, number },
            position: self.position,
            bytes: buffer.into_blocks(),
            durable: true,
        };
        self.pending_changed = true;
        let taken = self.pending.drain(..count);
        let entries: Vec<_> = taken.map(|pending| (pending.log, pending.entry)).collect();
        let runs = entries.iter().filter(|(_, entry)| entry.kind == EntryKind::Reference);
        self.taken_bytes += bytes + runs.map(|(_, entry)| u64::from(entry.data_bytes)).sum::<u64>();
        self.in_flight.push_back(Window { sequence, written: false, entries });
        self.pending_bytes -= payload_bytes + (count * ENTRY_BYTES) as u64;
        self.pending_since = now;
        self.position += bytes;
        self.next_sequence += 1;
        self.previous_checksum = checksum;
        self.marked = self.reported;
        (sequence, action)
    }
}

/// What an entry adds to a window.
fn cost(payload_bytes: u64) -> u64 {
    payload_bytes + ENTRY_BYTES as u64
}

#[cfg(test)]
mod tests;
