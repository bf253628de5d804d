//! The end of recovery: deleted topics go, the new base is written, the shards' parts are cut out.
//!
//! The new base is the commit. Before it is durable, a crash leaves the old incarnation as it was;
//! after it, everything older is rubbish and is tidied away.

use std::collections::BTreeSet;

use tidemill_record::{PartitionId, TopicId, TopicPartition};

use super::{Recovered, RecoveredShard, Recovery};
use crate::checkpoint::{LogState, Snapshot};
use crate::io::{Action, DirName, FileName};
use crate::segment::PIECE_BYTES_MAX;
use crate::shard::RESERVED_BYTES;

/// What is left of deleted topics.
#[derive(Debug, Default)]
pub(super) struct Leftovers {
    topics: BTreeSet<TopicId>,
    partitions: BTreeSet<TopicPartition>,
    files: BTreeSet<FileName>,
}

impl Recovery {
    // --- deleted topics ---

    /// Deleted topics' directories are emptied; those nobody knows are put aside.
    pub(super) fn list_partitions(&mut self) {
        let known: BTreeSet<TopicId> =
            self.known.partitions.iter().map(|(name, _)| name.topic).collect();
        for name in std::mem::take(&mut self.topics) {
            match TopicId::from_hex(&name) {
                Some(topic) if self.known.deleted.contains(&topic) => {
                    self.leftovers.topics.insert(topic);
                    self.list(DirName::Topic { topic });
                }
                Some(topic) if known.contains(&topic) => {}
                _ => {
                    let path = format!("{}/{name}", DirName::Partitions);
                    self.report.quarantined.push(path.clone());
                    self.must(Action::Quarantine { dir: DirName::Unknown { path } });
                }
            }
        }
    }

    pub(super) fn take_leftovers(&mut self, dir: &DirName, names: &[(String, u64)]) {
        match *dir {
            DirName::Topic { topic } => {
                let numbers = names.iter().filter_map(|(name, _)| name.parse().ok());
                let partitions =
                    numbers.map(|n| TopicPartition { topic, partition: PartitionId(n) });
                self.leftovers.partitions.extend(partitions);
            }
            DirName::Partition { topic, partition } => {
                let owner = TopicPartition { topic, partition };
                if !self.leftovers.partitions.contains(&owner) {
                    return self.take_compacted(owner, names);
                }
                let files = names.iter().filter_map(|(name, _)| FileName::parse(owner, name));
                self.leftovers.files.extend(files);
            }
            _ => {}
        }
    }

    pub(super) fn list_files(&mut self) {
        for TopicPartition { topic, partition } in self.leftovers.partitions.clone() {
            self.list(DirName::Partition { topic, partition });
        }
    }

    pub(super) fn remove_files(&mut self) {
        for file in std::mem::take(&mut self.leftovers.files) {
            self.may(Action::Remove { file });
        }
    }

    pub(super) fn remove_partitions(&mut self) {
        for TopicPartition { topic, partition } in std::mem::take(&mut self.leftovers.partitions) {
            self.may(Action::RemoveDir { dir: DirName::Partition { topic, partition } });
        }
    }

    pub(super) fn remove_topics(&mut self) {
        for topic in std::mem::take(&mut self.leftovers.topics) {
            self.may(Action::RemoveDir { dir: DirName::Topic { topic } });
        }
    }

    /// What is still there was not removed: its topic stays deleted, and is tried again.
    pub(super) fn list_left(&mut self) {
        self.must(Action::SyncDir { dir: DirName::Partitions });
        if !self.known.deleted.is_empty() {
            self.list(DirName::Partitions);
        }
    }

    // --- journals ---

    /// Each shard has at least one journal file and both checkpoint slots before it begins.
    pub(super) fn make_journals(&mut self) {
        let mut prewrites = Vec::new();
        for shard in 0..self.known.shards {
            let files = self.shards.get_mut(&shard).expect("its directory was made");
            let usable = |file: &super::scan::File| file.size == self.config.journal_file_bytes;
            if !files.journals.values().any(usable) {
                let number = files.journals.keys().next_back().map_or(0, |last| last + 1);
                let size = self.config.journal_file_bytes;
                files.journals.insert(number, super::scan::File { size, head: None });
                prewrites.push((FileName::Journal { shard, number }, size));
            }
            for slot in 0..2u8 {
                if files.slots[usize::from(slot)].is_none_or(|size| size < RESERVED_BYTES) {
                    prewrites.push((FileName::Checkpoint { shard, slot }, RESERVED_BYTES));
                }
            }
        }
        for (file, size) in prewrites {
            self.must(Action::Prewrite { file, size });
        }
    }

    pub(super) fn sync_journals(&mut self) {
        for shard in 0..self.known.shards {
            self.must(Action::SyncDir { dir: DirName::Journal { shard } });
        }
    }

    // --- the base ---

    pub(super) fn make_base(&mut self) {
        self.forget_unknown();
        let mut by_shard: Vec<Vec<LogState>> = vec![Vec::new(); usize::from(self.known.shards)];
        for (name, home) in &self.known.partitions {
            assert!(*home < self.known.shards, "a partition has its home on a shard there is");
            let Some(log) = self.logs.remove(name) else { continue };
            let state = LogState { home: *home, ..log.state };
            if state != (LogState { home: *home, ..LogState::new(*name) }) {
                by_shard[usize::from(*home)].push(state);
            }
        }
        let incarnation = self.known.incarnation;
        let base = Snapshot { incarnation, logs: by_shard.concat(), ..Snapshot::default() };
        self.report.logs = base.logs.len() as u64;
        self.new_base = base.encode();
        self.recovered = (0..)
            .zip(by_shard)
            .map(|(shard, logs)| RecoveredShard {
                shard,
                incarnation,
                logs,
                journal_files: self.usable_journals(shard),
            })
            .collect();
        self.must(Action::Create { file: FileName::Base { incarnation } });
    }

    fn usable_journals(&self, shard: u16) -> Vec<u32> {
        let files = &self.shards[&shard].journals;
        let usable = files.iter().filter(|(_, f)| f.size == self.config.journal_file_bytes);
        usable.map(|(&number, _)| number).take(self.config.journal_files_max() as usize).collect()
    }

    pub(super) fn write_base(&mut self) {
        let file = FileName::Base { incarnation: self.known.incarnation };
        let base = std::mem::take(&mut self.new_base);
        let mut position = 0;
        while position < base.len() {
            let end = base.len().min(position + PIECE_BYTES_MAX as usize);
            let (file, bytes) = (file.clone(), base.slice(position..end));
            self.must(Action::Write { file, position: position as u64, bytes, durable: true });
            position = end;
        }
    }

    /// From here on the new incarnation counts.
    pub(super) fn sync_base(&mut self) {
        self.must(Action::Sync { file: FileName::Base { incarnation: self.known.incarnation } });
        self.must(Action::SyncDir { dir: DirName::Journals });
    }

    // --- afterwards ---

    /// Removes what only older incarnations needed. Whatever stays is ignored by the next start.
    pub(super) fn tidy(&mut self) {
        let mut files: Vec<FileName> =
            self.bases.keys().map(|&incarnation| FileName::Base { incarnation }).collect();
        for (&shard, there) in &self.shards {
            let kept = match self.recovered.get(usize::from(shard)) {
                Some(recovered) => recovered.journal_files.clone(),
                None => Vec::new(),
            };
            let gone = there.journals.keys().filter(|number| !kept.contains(number));
            files.extend(gone.map(|&number| FileName::Journal { shard, number }));
            if self.known.shards <= shard {
                files.extend((0..2).map(|slot| FileName::Checkpoint { shard, slot }));
            }
        }
        for file in files {
            self.may(Action::Remove { file });
        }
    }

    pub(super) fn tidy_dirs(&mut self) {
        let gone: Vec<u16> = self.shards.range(self.known.shards..).map(|(&s, _)| s).collect();
        for shard in gone {
            self.may(Action::RemoveDir { dir: DirName::Journal { shard } });
        }
    }

    pub(super) fn finish(&mut self) {
        let left = |topic: &TopicId| self.topics.contains(&topic.to_string());
        let mut removed: Vec<TopicId> =
            self.known.deleted.iter().filter(|topic| !left(topic)).copied().collect();
        removed.sort();
        self.report.removed_topics = removed;
        let shards = std::mem::take(&mut self.recovered);
        let report = std::mem::take(&mut self.report);
        self.finished = Some(Ok(Recovered { shards, report }));
    }
}
