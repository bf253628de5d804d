//! From what a crash left on disk back to logs.
//!
//! Start reading at [`Recovery::poll_request`].

use std::collections::HashSet;

use tidemill_record::{TopicId, TopicPartition};

use crate::checkpoint::LogState;
use crate::config::Config;
use crate::error::{Damage, RecoverError};
use crate::io;

/// One recovery of the whole data directory, at the start of the node. It reads what the last run
/// left, writes what had not reached the segments, and commits a new common beginning.
#[derive(Debug)]
pub struct Recovery {
    finished: Option<Result<Recovered, RecoverError>>,
}

/// What the caller knows from the metadata.
#[derive(Clone, Debug, Default)]
pub struct Known {
    /// All partitions of this node that are not deleted, each with its home shard.
    pub partitions: Vec<(TopicPartition, u16)>,
    /// Topics that are deleted but whose files may still be there.
    pub deleted: HashSet<TopicId>,
    /// How many shards there are now.
    pub shards: u16,
    /// The node epoch of this start: above that of every earlier start.
    pub incarnation: u64,
}

/// What recovery ends with.
#[derive(Debug)]
pub struct Recovered {
    /// One for each shard, in order: to be given to `ShardStorage::new` there.
    pub shards: Vec<RecoveredShard>,
    /// What happened.
    pub report: Report,
}

/// What recovery did, for the log of the node.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Report {
    /// Logs with records.
    pub logs: u64,
    /// Commit windows replayed.
    pub windows: u64,
    /// Bytes written into segments.
    pub drained_bytes: u64,
    /// What is lost.
    pub damaged: Vec<Damage>,
    /// Deleted topics whose files are gone now.
    pub removed_topics: Vec<TopicId>,
    /// Directories nobody knew, moved below `quarantine/`.
    pub quarantined: Vec<String>,
}

/// What one shard begins from.
#[derive(Debug)]
pub struct RecoveredShard {
    /// Which one.
    pub(crate) shard: u16,
    /// The start of the node this is.
    pub(crate) incarnation: u64,
    /// The logs that have their home there and are not empty.
    pub(crate) logs: Vec<LogState>,
    /// Its journal files, all free.
    pub(crate) journal_files: Vec<u32>,
}

impl Recovery {
    /// Begins a recovery.
    #[must_use]
    pub fn new(config: Config, known: Known) -> Self {
        let _ = (config, known);
        unimplemented!("follows")
    }

    /// The next thing to be done to the disk.
    pub fn poll_request(&mut self) -> Option<io::Request> {
        None
    }

    /// A request has ended.
    pub fn handle_completion(&mut self, completion: io::Completion) {
        let _ = completion;
    }

    /// The result, once.
    pub fn poll_finished(&mut self) -> Option<Result<Recovered, RecoverError>> {
        self.finished.take()
    }
}
