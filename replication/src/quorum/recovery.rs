//! From the files found on disk back to a [`Log`] and an [`Image`]; at the first start, the files
//! themselves.
//!
//! ```text
//! node? ─no─► make the files, `node` last ─┐
//!   └──yes─► voters, state, newest snapshot, log files ─► sync all ─► new log file ─► done
//! ```
//!
//! Recovered is not durable: everything relied upon is synced, and a new log file that names the
//! last entry is on stable storage, before the image is handed out. Nothing that may have been
//! committed is dropped: damage ends the recovery with an error that says where.
//!
//! One request is under way at a time. Start reading at [`Recovery::handle_completion`].

use std::collections::VecDeque;
use std::mem;

use tidemill_record::NodeId;

use super::error::{RecoverError, block_error};
use super::io::{Action, Completion, DirName, Fault, FileName, Outcome, Request, RequestId};
use super::layout::{
    self, BlockError, HardState, NodeFile, STATE_FILE_BYTES, SnapshotHeader, VotersFile,
};
use super::log::{Found, Log, obsolete_files};
use super::scan::LogFile;
use super::{Index, Term};
use crate::identity::{ClusterId, DirectoryId};
use crate::limits::{
    BLOCK_BYTES, ENTRY_BYTES_MAX, LOG_FILE_BYTES, PIECE_BYTES, SNAPSHOT_BYTES_MAX, WRITE_BYTES,
};
use crate::metadata::{Image, Record};

/// Which node starts, and the randomness of its first start.
#[derive(Clone, Copy, Debug)]
pub struct Start {
    /// The configured node id.
    pub node: NodeId,
    /// 128 random bits for the cluster's id; used by the first start only.
    pub cluster_seed: u128,
    /// 128 random bits for the directory's id; used by the first start only.
    pub directory_seed: u128,
}

/// Whose data directory it is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Identity {
    /// The cluster.
    pub cluster: ClusterId,
    /// The node.
    pub node: NodeId,
    /// The directory.
    pub directory: DirectoryId,
}

/// What recovery ends in.
#[derive(Debug)]
pub struct Recovered {
    /// Open for proposals.
    pub log: Log,
    /// All that was committed.
    pub image: Image,
    /// Whose data directory it is.
    pub identity: Identity,
    /// Whether the files were made just now.
    pub first_start: bool,
    /// Whether a write was found that the power had cut off; nobody was told of it.
    pub torn_tail: bool,
}

/// The start of the metadata log, step by step.
#[derive(Debug)]
pub struct Recovery {
    start: Start,
    phase: Phase,
    /// To be asked for, in order.
    steps: VecDeque<Action>,
    waiting: Option<(RequestId, String)>,
    next_request: u64,
    identity: Identity,
    first_start: bool,
    files: Files,
    hard_state: Option<HardState>,
    /// An entry at or below this was committed.
    committed: Index,
    image: Image,
    snapshot: Index,
    next: Index,
    chain: Option<u32>,
    log_bytes: u64,
    torn_tail: bool,
    ended: Option<Result<Recovered, RecoverError>>,
}

/// What was found in `metadata/`.
#[derive(Debug, Default)]
struct Files {
    /// First index and size, ascending; those not read yet.
    logs: VecDeque<(Index, u64)>,
    /// Read, ascending.
    logs_read: VecDeque<Index>,
    /// Ascending; those not tried yet.
    snapshots: Vec<(Index, u64)>,
    has_state: bool,
    has_voters: bool,
    has_spare: bool,
    /// Replaced by the snapshot, or never finished.
    obsolete: Vec<FileName>,
}

#[derive(Debug)]
enum Phase {
    ReadNode,
    ListData,
    ListLeftovers,
    Format,
    List,
    ReadVoters,
    ReadState,
    ReadSnapshot { index: Index, size: u64, bytes: Vec<u8> },
    ReadLog { first: Index, size: u64, bytes: Vec<u8> },
    Settle,
    Open(Box<Log>),
    Ended,
}

impl Recovery {
    /// The start of `start`'s node on whatever its data directory holds. The directory itself
    /// exists and is nobody else's.
    #[must_use]
    pub fn new(start: Start) -> Self {
        let identity = Identity {
            cluster: ClusterId::from_seed(start.cluster_seed),
            node: start.node,
            directory: DirectoryId::from_seed(start.directory_seed),
        };
        let mut recovery = Self {
            start,
            phase: Phase::ReadNode,
            steps: VecDeque::new(),
            waiting: None,
            next_request: 0,
            identity,
            first_start: false,
            files: Files::default(),
            hard_state: None,
            committed: Index(0),
            image: Image::default(),
            snapshot: Index(0),
            next: Index(1),
            chain: None,
            log_bytes: 0,
            torn_tail: false,
            ended: None,
        };
        recovery.read(FileName::Node, 0, BLOCK_BYTES);
        recovery
    }

    /// The next request to the disk, if one can be made now.
    pub fn poll_request(&mut self) -> Option<Request> {
        if let Phase::Open(log) = &mut self.phase {
            return log.poll_request();
        }
        if self.waiting.is_some() {
            return None;
        }
        let action = self.steps.pop_front()?;
        let id = RequestId(self.next_request);
        self.next_request += 1;
        self.waiting = Some((id, path_of(&action)));
        Some(Request { id, action })
    }

    /// The result, once there is one. Requests still under way then are the log's: their
    /// completions go to [`Log::handle_completion`].
    pub fn poll_done(&mut self) -> Option<Result<Recovered, RecoverError>> {
        self.ended.take()
    }

    /// The end of a request.
    pub fn handle_completion(&mut self, completion: Completion) {
        let result = match &mut self.phase {
            Phase::Open(log) => {
                log.handle_completion(completion);
                self.log_advanced()
            }
            _ => {
                let (id, path) = self.waiting.take().expect("a completion nobody waits for");
                assert_eq!(id, completion.id, "a completion nobody waits for");
                self.advance(completion.result, path)
            }
        };
        if let Err(error) = result {
            self.phase = Phase::Ended;
            self.steps.clear();
            self.ended = Some(Err(error));
        }
    }

    fn advance(
        &mut self,
        result: Result<Outcome, Fault>,
        path: String,
    ) -> Result<(), RecoverError> {
        let missing = matches!(result, Err(Fault::NotFound));
        match self.phase {
            Phase::ReadNode if missing => return self.begin_format(),
            Phase::ListLeftovers if missing => return self.format(&[]),
            _ => {}
        }
        let outcome = result.map_err(|fault| RecoverError::Io { path, fault })?;
        let bytes: &[u8] = if let Outcome::Bytes(bytes) = &outcome { bytes } else { &[] };
        let names: &[_] = if let Outcome::Names(names) = &outcome { names } else { &[] };
        match &mut self.phase {
            Phase::ReadNode => self.node_read(bytes),
            Phase::ListData => self.data_listed(names),
            Phase::ListLeftovers => self.format(names),
            Phase::Format => self.formatted(),
            Phase::List => self.listed(names),
            Phase::ReadVoters => self.voters_read(bytes),
            Phase::ReadState => self.state_read(bytes),
            Phase::ReadSnapshot { bytes: read, .. } | Phase::ReadLog { bytes: read, .. } => {
                read.extend_from_slice(bytes);
                let at_end = bytes.is_empty();
                self.file_piece_read(at_end)
            }
            Phase::Settle => self.settled(),
            Phase::Open(_) | Phase::Ended => unreachable!("these ask for nothing of their own"),
        }
    }

    fn read(&mut self, file: FileName, position: u64, size: usize) {
        let size = layout::padded(size.min(PIECE_BYTES)) as u32;
        self.steps.push_back(Action::Read { file, position, size });
    }

    fn node_read(&mut self, block: &[u8]) -> Result<(), RecoverError> {
        let found = match NodeFile::decode(block) {
            Ok(found) => found,
            // It is renamed into place whole, so an empty one was never ours.
            Err(BlockError::Empty) => return self.begin_format(),
            Err(error) => return Err(block_error(FileName::Node, 0, error)),
        };
        if found.node != self.start.node {
            let configured = self.start.node;
            return Err(RecoverError::OtherNode { configured, found: found.node });
        }
        let NodeFile { cluster, node, directory } = found;
        self.identity = Identity { cluster, node, directory };
        self.list();
        Ok(())
    }

    fn begin_format(&mut self) -> Result<(), RecoverError> {
        self.phase = Phase::ListData;
        self.steps.push_back(Action::ListDir { dir: DirName::Data });
        Ok(())
    }

    fn data_listed(&mut self, names: &[(String, u64)]) -> Result<(), RecoverError> {
        // Partitions and journals are made after `node`.
        if names.iter().any(|(name, _)| name == "partitions" || name == "journal") {
            return Err(RecoverError::NodeFileMissing);
        }
        self.phase = Phase::ListLeftovers;
        self.steps.push_back(Action::ListDir { dir: DirName::Metadata });
        Ok(())
    }

    /// Makes all files. Only when they are durable does `node` appear, so that a first start cut
    /// off anywhere is simply made again.
    fn format(&mut self, leftovers: &[(String, u64)]) -> Result<(), RecoverError> {
        let is_data = |name: &str| {
            matches!(
                FileName::in_metadata(name),
                Some(FileName::Log { .. } | FileName::Snapshot { .. })
            )
        };
        if leftovers.iter().any(|(name, _)| is_data(name)) {
            return Err(RecoverError::NodeFileMissing);
        }
        let Identity { cluster, node, directory } = self.identity;
        let state = HardState { sequence: 1, term: Term(1), vote: node, commit: Index(0) };
        let voters = VotersFile { voters: vec![(node, directory)] };
        let write = |file, position, bytes| Action::Write { file, position, bytes, durable: true };
        self.first_start = true;
        self.phase = Phase::Format;
        self.steps.extend([
            Action::MakeDir { dir: DirName::Metadata },
            Action::Prewrite { file: FileName::State, size: STATE_FILE_BYTES },
            write(FileName::State, state.position(), state.encode(directory)),
            Action::Prewrite { file: FileName::Voters, size: BLOCK_BYTES as u64 },
            write(FileName::Voters, 0, voters.encode(directory)),
            Action::SyncDir { dir: DirName::Metadata },
            Action::SyncDir { dir: DirName::Data },
            Action::Prewrite { file: FileName::NodeNew, size: BLOCK_BYTES as u64 },
            write(FileName::NodeNew, 0, NodeFile { cluster, node, directory }.encode()),
            Action::Close { file: FileName::NodeNew },
            Action::Rename { from: FileName::NodeNew, to: FileName::Node },
            Action::SyncDir { dir: DirName::Data },
        ]);
        Ok(())
    }

    fn formatted(&mut self) -> Result<(), RecoverError> {
        if self.steps.is_empty() {
            self.list();
        }
        Ok(())
    }

    fn list(&mut self) {
        self.phase = Phase::List;
        self.steps.push_back(Action::ListDir { dir: DirName::Metadata });
    }

    fn listed(&mut self, names: &[(String, u64)]) -> Result<(), RecoverError> {
        let mut logs = Vec::new();
        for (name, size) in names {
            match FileName::in_metadata(name) {
                Some(FileName::Log { first }) if first != Index(0) => logs.push((first, *size)),
                Some(FileName::Snapshot { index }) => self.files.snapshots.push((index, *size)),
                Some(FileName::State) => self.files.has_state = true,
                Some(FileName::Voters) => self.files.has_voters = true,
                Some(FileName::Spare) => self.files.has_spare = *size == LOG_FILE_BYTES,
                _ => {}
            }
        }
        logs.sort_unstable();
        self.files.logs = logs.into();
        self.files.snapshots.sort_unstable();
        if !self.files.has_voters {
            return Err(RecoverError::Missing(FileName::Voters));
        }
        if !self.files.has_state {
            return Err(RecoverError::Missing(FileName::State));
        }
        self.phase = Phase::ReadVoters;
        self.read(FileName::Voters, 0, BLOCK_BYTES);
        Ok(())
    }

    fn voters_read(&mut self, block: &[u8]) -> Result<(), RecoverError> {
        let Identity { node, directory, .. } = self.identity;
        let found = VotersFile::decode(block, directory)
            .map_err(|error| block_error(FileName::Voters, 0, error))?;
        if !found.voters.contains(&(node, directory)) {
            return Err(RecoverError::NotAVoter);
        }
        self.phase = Phase::ReadState;
        self.read(FileName::State, 0, STATE_FILE_BYTES as usize);
        Ok(())
    }

    fn state_read(&mut self, bytes: &[u8]) -> Result<(), RecoverError> {
        let mut newest: Option<HardState> = None;
        for slot in bytes.chunks(BLOCK_BYTES) {
            match HardState::decode(slot, self.identity.directory) {
                Ok(state) if newest.is_none_or(|n| n.sequence < state.sequence) => {
                    newest = Some(state);
                }
                // A slot may be torn; the other one is the older state, still true.
                Ok(_) | Err(BlockError::Empty | BlockError::Damaged) => {}
                Err(error) => return Err(block_error(FileName::State, 0, error)),
            }
        }
        let damaged = || block_error(FileName::State, 0, BlockError::Damaged);
        let state = newest.ok_or_else(damaged)?;
        self.committed = state.commit;
        self.hard_state = Some(state);
        self.try_next_snapshot()
    }

    /// Reads the newest snapshot not tried yet; without any, the log from its beginning.
    fn try_next_snapshot(&mut self) -> Result<(), RecoverError> {
        match self.files.snapshots.pop() {
            Some((index, size)) if size <= SNAPSHOT_BYTES_MAX => {
                self.phase = Phase::ReadSnapshot { index, size, bytes: Vec::new() };
                self.read(FileName::Snapshot { index }, 0, (size as usize).max(BLOCK_BYTES));
                Ok(())
            }
            Some((index, _)) => {
                self.files.obsolete.push(FileName::Snapshot { index });
                self.try_next_snapshot()
            }
            None => self.begin_logs(),
        }
    }

    fn file_piece_read(&mut self, at_end: bool) -> Result<(), RecoverError> {
        let (file, size, read) = match &self.phase {
            Phase::ReadSnapshot { index, size, bytes } => {
                (FileName::Snapshot { index: *index }, *size, bytes.len())
            }
            Phase::ReadLog { first, size, bytes } => {
                (FileName::Log { first: *first }, *size, bytes.len())
            }
            _ => unreachable!("only these are read in pieces"),
        };
        // A read that ends off a block was the last of the file.
        if !at_end && (read as u64) < size && read % BLOCK_BYTES == 0 {
            self.read(file, read as u64, size as usize - read);
            return Ok(());
        }
        match mem::replace(&mut self.phase, Phase::Settle) {
            Phase::ReadSnapshot { index, bytes, .. } => self.snapshot_read(index, &bytes),
            Phase::ReadLog { first, bytes, .. } => self.log_read(first, &bytes),
            _ => unreachable!("only these are read in pieces"),
        }
    }

    fn snapshot_read(&mut self, index: Index, bytes: &[u8]) -> Result<(), RecoverError> {
        let file = FileName::Snapshot { index };
        let directory = self.identity.directory;
        let block = bytes.get(..BLOCK_BYTES).unwrap_or_default();
        let header = match SnapshotHeader::decode(block, directory) {
            Ok(header) => Some(header).filter(|header| header.index == index),
            Err(error @ BlockError::NewerFormat { .. }) => {
                return Err(block_error(file, 0, error));
            }
            Err(BlockError::Empty | BlockError::Damaged) => None,
        };
        let body = header.and_then(|header| {
            let body = bytes.get(BLOCK_BYTES..)?.get(..usize::try_from(header.size).ok()?)?;
            (SnapshotHeader::crc_of(body, directory) == header.crc).then_some(body)
        });
        let Some(body) = body else {
            // Cut off while it was written, so the files it would have replaced are all there;
            // if they are not, reading them will say so.
            self.files.obsolete.push(file);
            return self.try_next_snapshot();
        };
        let position = BLOCK_BYTES as u64;
        self.image = Image::decode(body).map_err(|error| RecoverError::Undecodable {
            file,
            position,
            error,
        })?;
        self.snapshot = index;
        self.committed = self.committed.max(index);
        self.next = index.next();
        let older = mem::take(&mut self.files.snapshots);
        let name = |(index, _)| FileName::Snapshot { index };
        self.files.obsolete.extend(older.into_iter().map(name));
        self.begin_logs()
    }

    /// Skips the files that the snapshot replaces, then reads the others.
    fn begin_logs(&mut self) -> Result<(), RecoverError> {
        let firsts = self.files.logs.iter().map(|(first, _)| *first).collect();
        let replaced = obsolete_files(&firsts, self.snapshot);
        for (first, _) in self.files.logs.drain(..replaced) {
            self.files.obsolete.push(FileName::Log { first });
        }
        // Each file is made only when all entries before it are committed.
        if let Some((last, _)) = self.files.logs.back() {
            self.committed = self.committed.max(Index(last.0 - 1));
        }
        self.read_next_log()
    }

    fn read_next_log(&mut self) -> Result<(), RecoverError> {
        let Some((first, size)) = self.files.logs.pop_front() else { return self.settle() };
        let is_gap = self.next < first;
        if is_gap || LOG_FILE_BYTES_MAX < size {
            let file = FileName::Log { first };
            return Err(RecoverError::Damaged { file, position: 0, index: self.next });
        }
        self.phase = Phase::ReadLog { first, size, bytes: Vec::new() };
        self.read(FileName::Log { first }, 0, (size as usize).max(BLOCK_BYTES));
        Ok(())
    }

    fn log_read(&mut self, first: Index, bytes: &[u8]) -> Result<(), RecoverError> {
        let file = LogFile {
            first,
            bytes,
            directory: self.identity.directory,
            chain: self.chain,
            until: self.files.logs.front().map(|(first, _)| *first),
            // What a snapshot holds is not needed from the log.
            committed: self.committed,
        };
        let Some(scanned) = file.scan()? else {
            self.files.obsolete.push(FileName::Log { first });
            return self.read_next_log();
        };
        for (index, records) in scanned.entries {
            // The snapshot may end inside the file.
            if index < self.next {
                continue;
            }
            for record in records {
                self.image
                    .replay(&record)
                    .map_err(|error| RecoverError::Replay { index, error })?;
            }
            self.next = index.next();
        }
        self.chain = Some(scanned.chain);
        self.log_bytes += scanned.size_bytes;
        self.torn_tail |= scanned.torn;
        self.files.logs_read.push_back(first);
        self.read_next_log()
    }

    /// Makes durable what was read, since it is relied upon from now on, and removes the rest.
    fn settle(&mut self) -> Result<(), RecoverError> {
        if self.next <= self.committed {
            let file = FileName::Log { first: self.next };
            return Err(RecoverError::Damaged { file, position: 0, index: self.next });
        }
        let mut read: Vec<_> =
            self.files.logs_read.iter().map(|&first| FileName::Log { first }).collect();
        if self.snapshot != Index(0) {
            read.push(FileName::Snapshot { index: self.snapshot });
        }
        self.steps.push_back(Action::Sync { file: FileName::State });
        self.steps.extend(read.iter().map(|&file| Action::Sync { file }));
        self.steps.push_back(Action::SyncDir { dir: DirName::Metadata });
        // A start that was killed may have left the name of `node` to the cache.
        self.steps.push_back(Action::SyncDir { dir: DirName::Data });
        read.extend([FileName::Node, FileName::Voters]);
        read.extend(&self.files.obsolete);
        self.steps.extend(read.into_iter().map(|file| Action::Close { file }));
        self.steps.extend(self.files.obsolete.drain(..).map(|file| Action::Remove { file }));
        self.phase = Phase::Settle;
        Ok(())
    }

    fn settled(&mut self) -> Result<(), RecoverError> {
        if !self.steps.is_empty() {
            return Ok(());
        }
        let log = Log::open(Found {
            directory: self.identity.directory,
            hard_state: self.hard_state.expect("read before the log"),
            next: self.next,
            chain: self.chain.unwrap_or(0),
            records_replayed: self.image.records_replayed(),
            files: mem::take(&mut self.files.logs_read),
            has_spare: self.files.has_spare,
            log_bytes: self.log_bytes,
            snapshot_index: self.snapshot,
            next_request: self.next_request,
        });
        self.phase = Phase::Open(Box::new(log));
        Ok(())
    }

    /// The log did something: is it open, and does it hold the cluster's first record?
    fn log_advanced(&mut self) -> Result<(), RecoverError> {
        let Phase::Open(log) = &mut self.phase else { unreachable!("only then is there a log") };
        if let Some(fault) = log.fault() {
            return Err(RecoverError::from(fault));
        }
        if !log.is_open() {
            if log.is_out_of_space() {
                let path = DirName::Metadata.to_string();
                return Err(RecoverError::Io { path, fault: Fault::NoSpace });
            }
            return Ok(());
        }
        while let Some((index, record)) = log.poll_committed() {
            self.image.replay(&record).map_err(|error| RecoverError::Replay { index, error })?;
        }
        if log.next_index() == Index(1) {
            let record = Record::ClusterCreated { cluster: self.identity.cluster };
            log.propose(vec![record]).expect("a log just opened takes a small record");
        }
        if log.committed().next() != log.next_index() {
            return Ok(());
        }
        self.finish()
    }

    fn finish(&mut self) -> Result<(), RecoverError> {
        if self.image.cluster() != self.identity.cluster {
            let (node_file, log) = (self.identity.cluster, self.image.cluster());
            return Err(RecoverError::OtherCluster { node_file, log });
        }
        let Phase::Open(log) = mem::replace(&mut self.phase, Phase::Ended) else {
            unreachable!("only then is there a log")
        };
        self.ended = Some(Ok(Recovered {
            log: *log,
            image: mem::take(&mut self.image),
            identity: self.identity,
            first_start: self.first_start,
            torn_tail: self.torn_tail,
        }));
        Ok(())
    }
}

/// The largest file a log can make: the header's block and one write of the largest entry.
const LOG_FILE_BYTES_MAX: u64 = (BLOCK_BYTES * 2 + ENTRY_BYTES_MAX + WRITE_BYTES) as u64;

fn path_of(action: &Action) -> String {
    match action {
        Action::Write { file, .. }
        | Action::Read { file, .. }
        | Action::Sync { file }
        | Action::Prewrite { file, .. }
        | Action::Remove { file }
        | Action::Rename { from: file, .. }
        | Action::Close { file } => file.to_string(),
        Action::MakeDir { dir } | Action::SyncDir { dir } | Action::ListDir { dir } => {
            dir.to_string()
        }
    }
}
