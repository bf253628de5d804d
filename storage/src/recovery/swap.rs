//! Replaying what compaction did: segments that are one now, and files nobody names.
//!
//! The entry of a swap may be met again over any later state of its log: one that has the new
//! segment, one that has put that into another since, one that has trimmed it away. So it counts
//! only where the segments it was made of are all there, as they were.
//!
//! A crash may have come before the entry of a new file was durable. Such files are named by
//! nothing, so the directories of compacted logs are listed once the state of all logs is known.

use std::collections::BTreeSet;

use bytes::Bytes;
use tidemill_record::TopicPartition;

use super::Recovery;
use super::replay::Replayed;
use crate::checkpoint::{LogState, SegmentName, SegmentState};
use crate::io::{Action, DirName, FileName};
use crate::layout::Entry;
use crate::shard::compacting::row_of;

impl Replayed {
    /// Puts the new segment in the place of those it is made of, if they are there.
    pub(super) fn apply_swap(&mut self, entry: &Entry, payload: &Bytes) {
        let Some(new) = SegmentState::read(payload) else { return self.break_here() };
        let state = &mut self.state;
        state.compactions = state.compactions.max(new.compaction);
        let sources = entry.base_offset..entry.next_offset;
        let is_sane = new.is_compacted()
            && (new.base_offset, new.next_offset) == (sources.start, sources.end);
        if !is_sane {
            return self.break_here();
        }
        let Some(row) = row_of(state.segments.iter(), &sources) else { return };
        let is_older = |old: &SegmentState| old.compaction < new.compaction;
        if state.segments.len() <= row.end || !state.segments[row.clone()].iter().all(is_older) {
            return;
        }
        let old: Vec<SegmentState> = state.segments.splice(row, [new]).collect();
        state.doomed.extend(old.iter().map(SegmentState::name));
    }

    /// Whether the state still has the segments that this entry says are one now; its payload is
    /// not known.
    pub(super) fn lacks_swap(&self, entry: &Entry) -> bool {
        let segments = &self.state.segments;
        let row = row_of(segments.iter(), &(entry.base_offset..entry.next_offset));
        let is_new = |it: &SegmentState| it.is_compacted() && it.size_bytes == entry.position;
        row.is_some_and(|row| row.len() != 1 || !is_new(&segments[row.start]))
    }

    /// The end of the log was cut inside a compacted segment: what is known of that now.
    pub(super) fn note_cut(&mut self, payload: &Bytes) {
        let Some(cut) = SegmentState::read(payload) else { return };
        if let Some(last) = self.state.segments.iter_mut().rfind(|it| it.name() == cut.name()) {
            *last = cut;
        }
    }
}

impl Recovery {
    /// Asks what is in the directories of logs that compaction may have left files in.
    pub(super) fn list_compacted(&mut self) {
        // Also of a log whose topic was compacted once, and is not any more.
        let with_some = |state: &LogState| {
            0 < state.compactions || state.segments.iter().any(SegmentState::is_compacted)
        };
        let known = self.known.compacted.iter().copied().filter(|it| self.logs.contains_key(it));
        let mut compacted: BTreeSet<TopicPartition> = known.collect();
        let names =
            self.logs.iter().filter(|(_, log)| with_some(&log.state)).map(|(name, _)| *name);
        compacted.extend(names);
        for TopicPartition { topic, partition } in compacted {
            self.list(DirName::Partition { topic, partition });
        }
    }

    /// Of the names in the directory of a log that is kept: removes the files of compactions that
    /// never came to count. Others are left as they are.
    pub(super) fn take_compacted(&mut self, owner: TopicPartition, names: &[(String, u64)]) {
        let Some(log) = self.logs.get(&owner) else { return };
        // Where entries are lost, one of them may have named the file.
        let lost = self.shards.get(&log.state.home).is_some_and(|files| files.lost);
        if lost || log.state.broken_at.is_some() {
            return;
        }
        let is_named = |name: SegmentName| {
            let segments = log.state.segments.iter().map(SegmentState::name);
            segments.chain(log.state.doomed.iter().copied()).any(|known| known == name)
        };
        let mut stray = Vec::new();
        for (name, _) in names {
            let Some(file) = FileName::parse(owner, name) else { continue };
            let (FileName::Log { base_offset, compaction, .. }
            | FileName::Index { base_offset, compaction, .. }) = file
            else {
                continue;
            };
            if compaction != 0 && !is_named(SegmentName { base_offset, compaction }) {
                stray.push(file);
            }
        }
        stray.into_iter().for_each(|file| self.may(Action::Remove { file }));
    }
}
