//! Draining: what the journals know and the segments lack is written to the segments.
//!
//! Directories and files may be missing: their entries need not have been durable. In the middle
//! of a long replay only the writes are made, to bound memory; at its end everything written is
//! synced, and segments that have ended are cut to their size.

use std::collections::BTreeSet;

use bytes::Bytes;
use tidemill_record::TopicPartition;

use super::Recovery;
use crate::checkpoint::SegmentName;
use crate::io::{Action, DirName, FileName};

/// The steps of a drain; each waits for the one before.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Step {
    TopicDirs,
    PartitionDirs,
    Files,
    Space,
    Writes,
    Syncs,
    Cuts,
}

impl Step {
    pub(super) const FIRST: Step = Step::TopicDirs;

    pub(super) fn next(self) -> Option<Step> {
        Some(match self {
            Step::TopicDirs => Step::PartitionDirs,
            Step::PartitionDirs => Step::Files,
            Step::Files => Step::Space,
            Step::Space => Step::Writes,
            Step::Writes => Step::Syncs,
            Step::Syncs => Step::Cuts,
            Step::Cuts => return None,
        })
    }
}

/// What is being drained.
#[derive(Debug, Default)]
pub(super) struct Draining {
    /// Replay is over: what was written is synced too.
    pub(super) is_last: bool,
    /// File, position, bytes.
    writes: Vec<(FileName, u64, Bytes)>,
    /// Partitions and files that are certainly there.
    partitions: BTreeSet<TopicPartition>,
    files: BTreeSet<FileName>,
    /// Files to be made in this drain.
    new_files: BTreeSet<FileName>,
    new_partitions: BTreeSet<TopicPartition>,
}

impl Recovery {
    pub(super) fn drain(&mut self, step: Step) {
        match step {
            Step::TopicDirs => {
                self.collect_writes();
                let topics: BTreeSet<_> =
                    self.draining.new_partitions.iter().map(|name| name.topic).collect();
                for topic in topics {
                    self.must(Action::MakeDir { dir: DirName::Topic { topic } });
                }
            }
            Step::PartitionDirs => {
                for TopicPartition { topic, partition } in
                    std::mem::take(&mut self.draining.new_partitions)
                {
                    self.must(Action::MakeDir { dir: DirName::Partition { topic, partition } });
                }
            }
            Step::Files => {
                for file in std::mem::take(&mut self.draining.new_files) {
                    self.must(Action::Create { file });
                }
            }
            Step::Space => self.allocate(),
            Step::Writes => {
                for (file, position, bytes) in std::mem::take(&mut self.draining.writes) {
                    self.report.drained_bytes += bytes.len() as u64;
                    self.must(Action::Write { file, position, bytes, durable: false });
                }
            }
            Step::Syncs if self.draining.is_last => self.sync_segments(),
            Step::Cuts if self.draining.is_last => self.cut_segments(),
            Step::Syncs | Step::Cuts => {}
        }
    }

    fn collect_writes(&mut self) {
        if !self.draining.is_last {
            self.forget_unknown();
        }
        for (name, log) in &mut self.logs {
            let mut files: Vec<FileName> = Vec::new();
            for (segment, position, bytes) in log.take_writes() {
                let file = SegmentName::appended(segment).file(*name);
                files.push(file.clone());
                self.draining.writes.push((file, position, bytes));
            }
            if self.draining.is_last {
                files.extend(log.cuts.keys().map(|segment| segment.file(*name)));
            }
            for file in files {
                if self.draining.partitions.insert(*name) {
                    self.draining.new_partitions.insert(*name);
                }
                if self.draining.files.insert(file.clone()) {
                    self.draining.new_files.insert(file);
                }
            }
        }
    }

    /// Space was reserved before the bytes were journaled, but that need not have been durable.
    fn allocate(&mut self) {
        let mut actions = Vec::new();
        for (file, position, bytes) in &self.draining.writes {
            let (file, position, size) = (file.clone(), *position, bytes.len() as u64);
            actions.push(Action::Allocate { file, position, size });
        }
        actions.into_iter().for_each(|action| self.must(action));
    }

    fn sync_segments(&mut self) {
        let files = std::mem::take(&mut self.draining.files);
        let partitions = std::mem::take(&mut self.draining.partitions);
        if self.config.sync_files_max < files.len() {
            // The names of new files and directories too: one by one, ten thousand take seconds.
            return self.must(Action::SyncFileSystem);
        }
        files.into_iter().for_each(|file| self.must(Action::Sync { file }));
        if partitions.is_empty() {
            return;
        }
        let mut dirs = BTreeSet::from([DirName::Partitions]);
        for TopicPartition { topic, partition } in partitions {
            dirs.insert(DirName::Topic { topic });
            dirs.insert(DirName::Partition { topic, partition });
        }
        dirs.into_iter().for_each(|dir| self.must(Action::SyncDir { dir }));
    }

    fn cut_segments(&mut self) {
        let mut cuts = Vec::new();
        for (name, log) in &self.logs {
            cuts.extend(log.cuts.iter().map(|(segment, &size)| (segment.file(*name), size)));
        }
        for (file, size) in cuts {
            self.must(Action::Truncate { file, size });
        }
    }
}
