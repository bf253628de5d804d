//! From what a crash left on disk back to logs.
//!
//! One recovery runs at each start, over the journals of all shards there ever were. It reads the
//! base and the checkpoints, replays the journals, writes to the segments what they lack, syncs
//! it, and then commits a new base under a new incarnation: that one file is the moment from which
//! the old journals are no longer needed. So the number of shards, and which partition lives
//! where, may differ from start to start, and a crash during recovery changes nothing.
//!
//! ```text
//! base, checkpoints, journals → replay → write, sync, cut segments → new base → shards begin
//! ```
//!
//! It proceeds in phases: all requests of one must have ended before the next begins.
//!
//! The parts: `roots` finds base and checkpoints, `scan` reads journals, `replay` turns entries
//! into state (`swap` those of compaction), `drain` writes segments, `commit` ends it.
//!
//! Start reading at [`Recovery::poll_request`].

mod commit;
mod drain;
mod replay;
mod roots;
mod scan;
mod swap;

use std::collections::{BTreeMap, BTreeSet, HashSet, VecDeque};

use bytes::{Bytes, BytesMut};
use tidemill_record::{Offset, TopicId, TopicPartition};

use crate::checkpoint::{LogState, SegmentName, Snapshot};
use crate::config::Config;
use crate::error::{Damage, RecoverError};
use crate::io::{Action, Completion, DirName, Fault, FileName, Outcome, Request};
use crate::layout::Entry;
use crate::requests::Requests;

use commit::Leftovers;
use drain::Draining;
use replay::Replayed;
use roots::ShardFiles;
use scan::{Item, Scan};

/// So many requests are handed out at once at most.
const REQUESTS_MAX: usize = 64;

/// Files are read in pieces of so many bytes.
const READ_BYTES: u64 = 1 << 20;

/// One recovery of the whole data directory, at the start of the node.
#[derive(Debug)]
pub struct Recovery {
    config: Config,
    known: Known,
    phase: Phase,
    requests: Requests<Purpose>,
    handed_out: usize,
    /// Files being read as a whole.
    reading: BTreeMap<FileName, Reading>,
    /// Bases found, by incarnation, with their sizes.
    bases: BTreeMap<u64, u64>,
    /// Those of them not read yet, the newest last.
    bases_unread: Vec<u64>,
    base: Option<Snapshot>,
    /// The newest base that is not what was written.
    base_damaged: Option<u64>,
    /// Names below `partitions`.
    topics: BTreeSet<String>,
    /// What is to be removed of deleted topics.
    leftovers: Leftovers,
    shards: BTreeMap<u16, ShardFiles>,
    scan: Option<(u16, Scan)>,
    /// Shards whose journals are still to be scanned.
    to_scan: Vec<u16>,
    /// What was scanned and not replayed yet.
    items: VecDeque<(u16, Item)>,
    /// The reference that is replayed once its blocks are read.
    run: Option<RunReading>,
    /// The incarnation whose journals are replayed.
    replaying: u64,
    logs: BTreeMap<TopicPartition, Replayed>,
    draining: Draining,
    /// The new base.
    new_base: Bytes,
    recovered: Vec<RecoveredShard>,
    report: Report,
    failed: Option<RecoverError>,
    finished: Option<Result<Recovered, RecoverError>>,
}

/// What the caller knows from the metadata.
#[derive(Clone, Debug, Default)]
pub struct Known {
    /// All partitions of this node that are not deleted, each with its home shard.
    pub partitions: Vec<(TopicPartition, u16)>,
    /// Topics that are deleted but whose files may still be there.
    pub deleted: HashSet<TopicId>,
    /// Those of `partitions` whose logs are compacted: a compaction that did not end has left files.
    pub compacted: HashSet<TopicPartition>,
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

/// What is being done. Each phase begins when all requests of the one before have ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Phase {
    MakeDirs,
    MakeShardDirs,
    SyncDirs,
    ListRoots,
    ReadBase,
    ListShards,
    ReadRoots,
    Scan,
    /// Writes what waits, in the steps of [`drain`]; then the scan goes on.
    Drain(drain::Step),
    ListPartitions,
    ListFiles,
    RemoveFiles,
    RemovePartitions,
    RemoveTopics,
    ListLeft,
    MakeJournals,
    SyncJournals,
    MakeBase,
    WriteBase,
    SyncBase,
    Tidy,
    TidyDirs,
    Finished,
}

/// What a request is for.
#[derive(Clone, Debug)]
enum Purpose {
    /// Its success is all that matters.
    Must(String),
    /// Nothing depends on it.
    May,
    /// A directory's names.
    List(DirName),
    /// A piece of a file that is read as a whole.
    Piece(FileName),
    /// The first block of a journal file.
    Head { shard: u16, number: u32 },
    /// A piece of the journal being scanned.
    Scan,
    /// A piece of the run a reference refers to.
    Run,
}

/// A run while its blocks are read.
#[derive(Debug)]
struct RunReading {
    shard: u16,
    entry: Entry,
    payload: Bytes,
    from: u64,
    to: u64,
    blocks: BytesMut,
}

/// A file while it is read.
#[derive(Debug)]
struct Reading {
    size: u64,
    bytes: BytesMut,
}

impl Recovery {
    /// Begins a recovery.
    #[must_use]
    pub fn new(config: Config, known: Known) -> Self {
        config.check();
        assert!(0 < known.shards, "a node has a shard");
        let mut recovery = Self {
            config,
            known,
            phase: Phase::MakeDirs,
            requests: Requests::default(),
            handed_out: 0,
            reading: BTreeMap::new(),
            bases: BTreeMap::new(),
            bases_unread: Vec::new(),
            base: None,
            base_damaged: None,
            topics: BTreeSet::new(),
            leftovers: Leftovers::default(),
            shards: BTreeMap::new(),
            scan: None,
            to_scan: Vec::new(),
            items: VecDeque::new(),
            run: None,
            replaying: 0,
            logs: BTreeMap::new(),
            draining: Draining::default(),
            new_base: Bytes::new(),
            recovered: Vec::new(),
            report: Report::default(),
            failed: None,
            finished: None,
        };
        recovery.enter(Phase::MakeDirs);
        recovery
    }

    /// The next thing to be done to the disk.
    pub fn poll_request(&mut self) -> Option<Request> {
        if REQUESTS_MAX <= self.handed_out || self.failed.is_some() {
            return None;
        }
        let request = self.requests.poll()?;
        self.handed_out += 1;
        Some(request)
    }

    /// A request has ended.
    pub fn handle_completion(&mut self, completion: Completion) {
        self.handed_out -= 1;
        let purpose = self.requests.end(completion.id);
        if self.failed.is_none()
            && let Err(error) = self.handle(purpose, completion.result)
        {
            self.failed = Some(error);
        }
        match &self.failed {
            // What has been handed out is waited for: its memory and files are in use.
            Some(error) if self.handed_out == 0 => {
                if self.phase != Phase::Finished {
                    self.phase = Phase::Finished;
                    self.finished = Some(Err(error.clone()));
                }
            }
            Some(_) => {}
            None => self.advance(),
        }
    }

    /// The result, once.
    pub fn poll_finished(&mut self) -> Option<Result<Recovered, RecoverError>> {
        self.finished.take()
    }

    fn handle(
        &mut self,
        purpose: Purpose,
        result: Result<Outcome, Fault>,
    ) -> Result<(), RecoverError> {
        match (purpose, result) {
            (Purpose::May, _) | (Purpose::Must(_), Ok(_)) => Ok(()),
            (Purpose::Must(what), Err(fault)) => Err(RecoverError::Disk { what, fault }),
            (Purpose::List(dir), Ok(Outcome::Names(names))) => self.take_names(&dir, names),
            // What is not there has no names.
            (Purpose::List(_), Err(Fault::NotFound)) => Ok(()),
            (Purpose::List(dir), Err(fault)) => {
                Err(RecoverError::Disk { what: format!("list {dir}"), fault })
            }
            (Purpose::Piece(file), Ok(Outcome::Bytes(bytes))) => self.take_piece(file, &bytes),
            (Purpose::Piece(file), Err(fault)) => {
                Err(RecoverError::Disk { what: format!("read {file}"), fault })
            }
            (Purpose::Head { shard, number }, Ok(Outcome::Bytes(bytes))) => {
                self.take_head(shard, number, &bytes);
                Ok(())
            }
            (Purpose::Head { shard, number }, Err(fault)) => {
                let file = FileName::Journal { shard, number };
                Err(RecoverError::Disk { what: format!("read {file}"), fault })
            }
            (Purpose::Scan, Ok(Outcome::Bytes(bytes))) => self.take_scanned(&bytes),
            (Purpose::Scan, Err(fault)) => {
                Err(RecoverError::Disk { what: "read the journal".to_owned(), fault })
            }
            (Purpose::Run, Ok(Outcome::Bytes(bytes))) => {
                self.take_run(&bytes);
                Ok(())
            }
            // Then nothing of it is there: replay finds that out.
            (Purpose::Run, Err(Fault::NotFound)) => {
                self.take_run(&Bytes::new());
                Ok(())
            }
            (Purpose::Run, Err(fault)) => {
                Err(RecoverError::Disk { what: "read a segment".to_owned(), fault })
            }
            (_, Ok(_)) => panic!("the disk answered another question"),
        }
    }

    /// Enters phase after phase, as long as they need nothing of the disk.
    fn advance(&mut self) {
        while self.requests.under_way() == 0 && self.phase != Phase::Finished {
            match self.next_phase() {
                Ok(next) => self.enter(next),
                Err(error) => {
                    self.phase = Phase::Finished;
                    self.finished = Some(Err(error));
                }
            }
        }
    }

    fn next_phase(&mut self) -> Result<Phase, RecoverError> {
        Ok(match self.phase {
            Phase::MakeDirs => Phase::MakeShardDirs,
            Phase::MakeShardDirs => Phase::SyncDirs,
            Phase::SyncDirs => Phase::ListRoots,
            Phase::ListRoots => {
                self.check_incarnation()?;
                Phase::ReadBase
            }
            Phase::ReadBase if self.base.is_none() && !self.bases_unread.is_empty() => {
                Phase::ReadBase
            }
            Phase::ReadBase => Phase::ListShards,
            Phase::ListShards => Phase::ReadRoots,
            Phase::ReadRoots => {
                self.take_roots()?;
                Phase::Scan
            }
            Phase::Scan if self.must_drain() => Phase::Drain(drain::Step::FIRST),
            Phase::Scan if self.scan.is_some() || !self.to_scan.is_empty() => Phase::Scan,
            Phase::Scan => {
                self.finish_replay();
                Phase::Drain(drain::Step::FIRST)
            }
            Phase::Drain(step) => match step.next() {
                Some(next) => Phase::Drain(next),
                None if self.draining.is_last => Phase::ListPartitions,
                None => Phase::Scan,
            },
            Phase::ListPartitions => Phase::ListFiles,
            Phase::ListFiles => Phase::RemoveFiles,
            Phase::RemoveFiles => Phase::RemovePartitions,
            Phase::RemovePartitions => Phase::RemoveTopics,
            Phase::RemoveTopics => Phase::ListLeft,
            Phase::ListLeft => Phase::MakeJournals,
            Phase::MakeJournals => Phase::SyncJournals,
            Phase::SyncJournals => Phase::MakeBase,
            Phase::MakeBase => Phase::WriteBase,
            Phase::WriteBase => Phase::SyncBase,
            Phase::SyncBase => Phase::Tidy,
            Phase::Tidy => Phase::TidyDirs,
            Phase::TidyDirs => Phase::Finished,
            Phase::Finished => Phase::Finished,
        })
    }

    fn enter(&mut self, phase: Phase) {
        self.phase = phase;
        match phase {
            Phase::MakeDirs => {
                self.must(Action::MakeDir { dir: DirName::Journals });
                self.must(Action::MakeDir { dir: DirName::Partitions });
            }
            Phase::MakeShardDirs => {
                for shard in 0..self.known.shards {
                    self.must(Action::MakeDir { dir: DirName::Journal { shard } });
                }
            }
            Phase::SyncDirs => {
                self.must(Action::SyncDir { dir: DirName::Data });
                self.must(Action::SyncDir { dir: DirName::Journals });
            }
            Phase::ListRoots => {
                self.list(DirName::Journals);
                self.list(DirName::Partitions);
            }
            Phase::ReadBase => self.read_base(),
            Phase::ListShards => self.list_shards(),
            Phase::ReadRoots => self.read_roots(),
            Phase::Scan => self.step_scan(),
            Phase::Drain(step) => self.drain(step),
            Phase::ListPartitions => self.list_partitions(),
            Phase::ListFiles => {
                self.list_files();
                self.list_compacted();
            }
            Phase::RemoveFiles => self.remove_files(),
            Phase::RemovePartitions => self.remove_partitions(),
            Phase::RemoveTopics => self.remove_topics(),
            Phase::ListLeft => self.list_left(),
            Phase::MakeJournals => self.make_journals(),
            Phase::SyncJournals => self.sync_journals(),
            Phase::MakeBase => self.make_base(),
            Phase::WriteBase => self.write_base(),
            Phase::SyncBase => self.sync_base(),
            Phase::Tidy => self.tidy(),
            Phase::TidyDirs => self.tidy_dirs(),
            Phase::Finished => self.finish(),
        }
    }

    // --- asking ---

    fn must(&mut self, action: Action) {
        let what = describe(&action);
        self.requests.ask(Purpose::Must(what), action);
    }

    fn may(&mut self, action: Action) {
        self.requests.ask(Purpose::May, action);
    }

    fn list(&mut self, dir: DirName) {
        self.requests.ask(Purpose::List(dir.clone()), Action::ListDir { dir });
    }

    // --- the journals ---

    /// Begins the scan of the next journal, or reads on in the one at hand.
    fn step_scan(&mut self) {
        loop {
            if self.scan.is_none() {
                let Some(shard) = self.to_scan.pop() else { return };
                self.scan = Some((shard, self.begin_scan(shard)));
            }
            let (shard, scan) = self.scan.as_ref().expect("one was begun");
            if let Some((number, position, size)) = scan.next_read() {
                let file = FileName::Journal { shard: *shard, number };
                return self.requests.ask(Purpose::Scan, Action::Read { file, position, size });
            }
            self.report.windows += scan.windows;
            self.scan = None;
        }
    }

    fn take_scanned(&mut self, bytes: &Bytes) -> Result<(), RecoverError> {
        let mut items = Vec::new();
        let (shard, scan) = self.scan.as_mut().expect("it is being read");
        let shard = *shard;
        scan.take(bytes, &mut items);
        if let Some((number, found)) = scan.newer_format() {
            let file = FileName::Journal { shard, number };
            return Err(RecoverError::NewerFormat {
                file,
                found,
                known: crate::layout::JOURNAL_VERSION,
            });
        }
        self.items.extend(items.into_iter().map(|item| (shard, item)));
        self.replay_items();
        Ok(())
    }

    /// Replays what was scanned, up to a reference whose blocks must be read first.
    fn replay_items(&mut self) {
        while let Some((shard, item)) = self.items.pop_front() {
            if let Item::Entry(entry, payload) = &item
                && let Some((from, to)) = self.replayed(shard, entry.partition).wants_run(entry)
            {
                let (entry, payload) = (*entry, payload.clone());
                let blocks = BytesMut::new();
                self.run = Some(RunReading { shard, entry, payload, from, to, blocks });
                return self.read_run();
            }
            self.replay(shard, &item);
        }
    }

    fn read_run(&mut self) {
        let run = self.run.as_ref().expect("one is being read");
        let file = SegmentName::appended(run.entry.segment).file(run.entry.partition);
        let position = run.from + run.blocks.len() as u64;
        let size = READ_BYTES.min(run.to - position) as u32;
        self.requests.ask(Purpose::Run, Action::Read { file, position, size });
    }

    fn take_run(&mut self, bytes: &[u8]) {
        let run = self.run.as_mut().expect("it is being read");
        run.blocks.extend_from_slice(bytes);
        let is_whole = run.to <= run.from + run.blocks.len() as u64;
        if !is_whole && !bytes.is_empty() {
            return self.read_run();
        }
        let run = self.run.take().expect("it is being read");
        let log = self.replayed(run.shard, run.entry.partition);
        log.apply_reference(&run.entry, &run.payload, &run.blocks);
        self.replay_items();
    }

    fn replay(&mut self, shard: u16, item: &Item) {
        match item {
            Item::Entry(entry, payload) => {
                self.replayed(shard, entry.partition).apply(entry, payload)
            }
            Item::Damaged(entry) => self.replayed(shard, entry.partition).lose(entry),
            Item::Lost => {
                let files = self.shards.get_mut(&shard).expect("it is being scanned");
                files.lost = true;
                // What follows proves, log by log, that nothing of it was lost.
                for log in self.logs.values_mut().filter(|log| log.state.home == shard) {
                    log.proved = false;
                }
            }
        }
    }

    fn replayed(&mut self, shard: u16, partition: TopicPartition) -> &mut Replayed {
        self.logs
            .entry(partition)
            .or_insert_with(|| Replayed::new(LogState { home: shard, ..LogState::new(partition) }))
    }

    /// All journals are read: the states are what they were when the node stopped.
    fn finish_replay(&mut self) {
        let lost: BTreeSet<u16> =
            self.shards.iter().filter(|(_, files)| files.lost).map(|(&shard, _)| shard).collect();
        if !lost.is_empty() {
            // A log without any state may have had its first append in a window that is lost.
            for (partition, home) in self.known.partitions.clone() {
                let log = self.replayed(home, partition);
                let is_new = log.state.segments.is_empty();
                log.proved &= !(is_new && lost.contains(&log.state.home));
            }
        }
        self.forget_unknown();
        for log in self.logs.values_mut() {
            if !log.proved {
                log.break_here();
            }
            log.finish();
            if let Some(from) = log.state.broken_at {
                let offsets = from..Offset(i64::MAX);
                let partition = log.state.partition;
                self.report.damaged.push(Damage { partition, offsets });
            }
        }
        self.draining.is_last = true;
    }

    /// Logs the metadata does not know are deleted.
    fn forget_unknown(&mut self) {
        let known: HashSet<_> = self.known.partitions.iter().map(|(name, _)| *name).collect();
        self.logs.retain(|name, log| known.contains(name) && !log.state.dropped);
    }

    fn must_drain(&self) -> bool {
        let pending: u64 = self.logs.values().map(Replayed::pending_bytes).sum();
        self.config.replay_pending_bytes_max < pending
    }
}

/// What an error says was being done.
fn describe(action: &Action) -> String {
    match action {
        Action::Create { file } => format!("create {file}"),
        Action::Write { file, .. } => format!("write {file}"),
        Action::Read { file, .. } => format!("read {file}"),
        Action::Sync { file } => format!("sync {file}"),
        Action::Allocate { file, size, .. } => format!("reserve {size} bytes for {file}"),
        Action::Truncate { file, .. } => format!("cut {file}"),
        Action::Prewrite { file, size } => format!("write {size} zero bytes to {file}"),
        Action::Remove { file } => format!("remove {file}"),
        Action::Rename { from, to } => format!("rename {from} to {to}"),
        Action::Close { file } => format!("close {file}"),
        Action::MakeDir { dir } => format!("make directory {dir}"),
        Action::SyncDir { dir } => format!("sync directory {dir}"),
        Action::ListDir { dir } => format!("list directory {dir}"),
        Action::RemoveDir { dir } => format!("remove directory {dir}"),
        Action::Quarantine { dir } => format!("quarantine directory {dir}"),
        Action::SyncFileSystem => "sync the file system".to_owned(),
    }
}
