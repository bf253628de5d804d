//! The metadata log: proposals in, writes out, committed records back.
//!
//! ```text
//! propose ─► queue ─► one durable write at a time ─► committed ─► poll_committed
//! ```
//!
//! Proposals that wait while a write is under way share the next one. A write is whole blocks and
//! no block is written twice. When nothing is left to write, the hard state says what was
//! reported committed, so that damage below that can be told from a write the power cut off.
//!
//! A failed write or sync fences the log for good: what the disk holds is unknown, and asking
//! again may get a lie. A full disk does not: the file in use has its space, the next one is kept
//! in reserve, and when even that is used up the log waits for [`Log::retry`].

use std::collections::VecDeque;
use std::fmt;

use super::io::{Action, Completion, DirName, Fault, FileName, Request, RequestId};
use super::layout::{self, HardState, LogHeader, WRITE_HEADER_BYTES, WriteHeader};
use super::snapshot::{Progress, SnapshotJob};
use super::{Index, Term};
use crate::identity::DirectoryId;
use crate::limits::{
    BLOCK_BYTES, ENTRY_BYTES_MAX, LOG_FILE_BYTES, PENDING_BYTES_MAX, RECORDS_PER_ENTRY_MAX,
    SNAPSHOT_AFTER_BYTES, SNAPSHOT_AFTER_FILES, WRITE_BYTES,
};
use crate::metadata::{Image, Record};

/// Why a proposal was refused. Nothing was written.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum ProposeError {
    /// More bytes than one entry may have.
    TooLarge {
        /// How many.
        size_bytes: usize,
    },
    /// Too much waits for the disk already; try again later.
    Busy,
    /// The disk is full; try again later.
    NoSpace,
    /// The disk failed; nothing will be committed before a restart.
    Fenced(LogFault),
}

/// What ended the log's work until the next start.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct LogFault {
    /// On which file; none if it was the directory.
    pub file: Option<FileName>,
    /// How.
    pub fault: Fault,
}

/// The metadata log of one node. Made by [`super::Recovery`].
#[derive(Debug)]
pub struct Log {
    directory: DirectoryId,
    term: Term,
    next_request: u64,

    /// The index of the next proposal.
    next_index: Index,
    /// Proposed and not yet in a write.
    queue: VecDeque<Entry>,
    queue_bytes: usize,
    /// In the write under way.
    writing: Vec<Entry>,
    /// Committed and not yet polled.
    committed_records: VecDeque<(Index, Record)>,
    committed: Index,
    delivered: Index,
    /// The version of an image that has replayed all that was polled.
    delivered_records: u64,

    /// First indexes of the files not yet replaced by a snapshot; the last one is written.
    files: VecDeque<Index>,
    file_bytes: u64,
    position: u64,
    chain: u32,
    spare: Spare,
    hard_state: HardState,
    step: Step,

    bytes_since_snapshot: u64,
    snapshot: Option<SnapshotJob>,
    snapshot_index: Index,
}

/// What recovery found and made: where the log goes on.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) directory: DirectoryId,
    pub(super) hard_state: HardState,
    /// The next entry; all before it are on disk.
    pub(super) next: Index,
    pub(super) chain: u32,
    pub(super) records_replayed: u64,
    /// Files still needed, without the one about to be made.
    pub(super) files: VecDeque<Index>,
    pub(super) has_spare: bool,
    pub(super) log_bytes: u64,
    pub(super) snapshot_index: Index,
    /// Where to go on numbering requests.
    pub(super) next_request: u64,
}

#[derive(Debug)]
struct Entry {
    index: Index,
    records: Vec<Record>,
    bytes: Vec<u8>,
}

/// A file made ahead, so that a full disk does not stop the deletion that would heal it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Spare {
    Missing,
    Ready,
    /// The disk was full when it should have been made.
    NoSpace,
}

/// What the log does. One thing at a time.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Step {
    /// Whatever comes next.
    Idle,
    /// A change of files is half done; this comes next.
    Roll(Roll),
    Waiting(Work, RequestId),
    NoSpace,
    Fenced(LogFault),
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Work {
    Write,
    Mark,
    MakeSpare,
    Roll(Roll),
}

/// The steps from one file to the next.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Roll {
    Make { from_spare: bool, file_bytes: u64 },
    WriteHeader { file_bytes: u64 },
    SyncDir { file_bytes: u64 },
    CloseOld { old: Index },
}

impl Log {
    /// Goes on behind what was found, in a new file.
    pub(super) fn open(found: Found) -> Self {
        let before = Index(found.next.0 - 1);
        Self {
            directory: found.directory,
            term: found.hard_state.term,
            next_request: found.next_request,
            next_index: found.next,
            queue: VecDeque::new(),
            queue_bytes: 0,
            writing: Vec::new(),
            committed_records: VecDeque::new(),
            committed: before,
            delivered: before,
            delivered_records: found.records_replayed,
            files: found.files,
            // No room: the first thing done is to make a file.
            file_bytes: 0,
            position: 0,
            chain: found.chain,
            spare: if found.has_spare { Spare::Ready } else { Spare::Missing },
            hard_state: found.hard_state,
            step: Step::Idle,
            bytes_since_snapshot: found.log_bytes,
            snapshot: None,
            snapshot_index: found.snapshot_index,
        }
    }

    /// Whether the first file of this start is in place.
    pub(super) fn is_open(&self) -> bool {
        0 < self.file_bytes
    }

    /// The index of the next proposal.
    pub(super) fn next_index(&self) -> Index {
        self.next_index
    }

    /// Asks for `records` to be committed, all or none of them, behind all proposals before.
    ///
    /// They come back from [`Log::poll_committed`] under the index returned, once they are on
    /// stable storage.
    pub fn propose(&mut self, records: Vec<Record>) -> Result<Index, ProposeError> {
        assert!(!records.is_empty(), "an entry says something");
        if let Step::Fenced(fault) = self.step {
            return Err(ProposeError::Fenced(fault));
        }
        if self.step == Step::NoSpace {
            return Err(ProposeError::NoSpace);
        }
        let bytes = layout::encode_entry(&records);
        if ENTRY_BYTES_MAX < bytes.len() || RECORDS_PER_ENTRY_MAX < records.len() {
            return Err(ProposeError::TooLarge { size_bytes: bytes.len() });
        }
        if PENDING_BYTES_MAX < self.queue_bytes + bytes.len() {
            return Err(ProposeError::Busy);
        }
        let index = self.next_index;
        self.next_index = index.next();
        self.queue_bytes += bytes.len();
        self.queue.push_back(Entry { index, records, bytes });
        Ok(index)
    }

    /// The next committed record, in order. Records of one proposal share its index.
    pub fn poll_committed(&mut self) -> Option<(Index, Record)> {
        let (index, record) = self.committed_records.pop_front()?;
        self.delivered = index;
        self.delivered_records += 1;
        Some((index, record))
    }

    /// The last entry that is committed.
    #[must_use]
    pub fn committed(&self) -> Index {
        self.committed
    }

    /// The term entries are proposed under.
    #[must_use]
    pub fn term(&self) -> Term {
        self.term
    }

    /// Whether the disk has failed: no proposal will be committed any more.
    #[must_use]
    pub fn fault(&self) -> Option<LogFault> {
        match self.step {
            Step::Fenced(fault) => Some(fault),
            _ => None,
        }
    }

    /// Whether proposals wait for space on the disk: [`Log::retry`] now and then.
    #[must_use]
    pub fn is_out_of_space(&self) -> bool {
        self.step == Step::NoSpace || self.spare == Spare::NoSpace
    }

    /// Space may have come back: tries again.
    pub fn retry(&mut self) {
        if self.step == Step::NoSpace {
            self.step = Step::Idle;
        }
        if self.spare == Spare::NoSpace {
            self.spare = Spare::Missing;
        }
    }

    /// Whether nothing is waiting for the disk or to be polled, so that a clean stop loses
    /// nothing, not even the mark of what was committed.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.queue.is_empty()
            && self.committed_records.is_empty()
            && self.step == Step::Idle
            && self.hard_state.commit == self.committed
            && self.snapshot.is_none()
    }

    /// Whether the log has grown so much that [`Log::snapshot`] should replace its beginning.
    #[must_use]
    pub fn snapshot_is_due(&self) -> bool {
        let grown = SNAPSHOT_AFTER_BYTES <= self.bytes_since_snapshot
            || SNAPSHOT_AFTER_FILES < self.files.len();
        grown && self.snapshot.is_none() && self.snapshot_index < self.delivered
    }

    /// Starts to write `image`, which has replayed exactly what was polled, next to the log. Once
    /// it is on stable storage the files it replaces are removed.
    pub fn snapshot(&mut self, image: &Image) {
        let version = image.records_replayed();
        assert_eq!(version, self.delivered_records, "the image is not what was polled");
        let torn = self.committed_records.front().is_some_and(|(i, _)| *i == self.delivered);
        assert!(!torn, "an entry is polled whole before it is in a snapshot");
        if self.snapshot.is_some() || self.delivered <= self.snapshot_index {
            return;
        }
        let mut bytes = Vec::new();
        image.encode(&mut bytes);
        self.snapshot = Some(SnapshotJob::new(self.directory, self.delivered, self.term, &bytes));
        self.bytes_since_snapshot = 0;
    }

    /// The next request to the disk, if one can be made now.
    pub fn poll_request(&mut self) -> Option<Request> {
        if let Some((work, action)) = self.next_work() {
            let id = self.next_id();
            self.step = Step::Waiting(work, id);
            return Some(Request { id, action });
        }
        if self.fault().is_some() {
            return None;
        }
        let action = self.snapshot.as_mut()?.next_action()?;
        let id = self.next_id();
        self.snapshot.as_mut()?.wait_for(id);
        Some(Request { id, action })
    }

    fn next_id(&mut self) -> RequestId {
        let id = RequestId(self.next_request);
        self.next_request += 1;
        id
    }

    fn next_work(&mut self) -> Option<(Work, Action)> {
        match self.step {
            Step::Roll(roll) => return Some((Work::Roll(roll), self.roll_action(roll))),
            Step::Idle => {}
            Step::Waiting(..) | Step::NoSpace | Step::Fenced(_) => return None,
        }
        if self.file_bytes == 0 {
            return Some(self.begin_roll(0));
        }
        if !self.queue.is_empty() {
            let size = layout::padded(WRITE_HEADER_BYTES + self.next_write_entries().1);
            let fits = self.position + size as u64 <= self.file_bytes;
            return Some(if fits { self.write() } else { self.begin_roll(size) });
        }
        if self.hard_state.commit < self.committed {
            return Some(self.mark());
        }
        (self.spare == Spare::Missing).then(|| {
            let size = LOG_FILE_BYTES;
            (Work::MakeSpare, Action::Prewrite { file: FileName::Spare, size })
        })
    }

    /// How many entries the next write takes, and their bytes: as many as share it well, at
    /// least one.
    fn next_write_entries(&self) -> (usize, usize) {
        let (mut count, mut bytes) = (0, 0);
        for entry in &self.queue {
            if 0 < count && WRITE_BYTES < bytes + entry.bytes.len() {
                break;
            }
            count += 1;
            bytes += entry.bytes.len();
        }
        (count, bytes)
    }

    fn write(&mut self) -> (Work, Action) {
        let (count, body_bytes) = self.next_write_entries();
        self.queue_bytes -= body_bytes;
        self.writing.extend(self.queue.drain(..count));

        let mut bytes = vec![0; WRITE_HEADER_BYTES];
        self.writing.iter().for_each(|entry| bytes.extend_from_slice(&entry.bytes));
        let body = &bytes[WRITE_HEADER_BYTES..];
        let header = WriteHeader {
            term: self.term,
            first: self.writing[0].index,
            entries: count as u32,
            commit: self.committed,
            chain: self.chain,
            body_bytes: body.len() as u32,
            body_crc: WriteHeader::crc_of(body, self.directory),
        };
        let (header_bytes, crc) = header.encode(self.directory);
        bytes[..WRITE_HEADER_BYTES].copy_from_slice(&header_bytes);

        let bytes = layout::aligned(&bytes);
        let position = self.position;
        self.position += bytes.len() as u64;
        self.bytes_since_snapshot += bytes.len() as u64;
        self.chain = crc;
        let file = self.current_file();
        (Work::Write, Action::Write { file, position, bytes, durable: true })
    }

    /// Says in the hard state what was reported committed.
    fn mark(&mut self) -> (Work, Action) {
        self.hard_state.sequence += 1;
        self.hard_state.commit = self.committed;
        let position = self.hard_state.position();
        let bytes = self.hard_state.encode(self.directory);
        (Work::Mark, Action::Write { file: FileName::State, position, bytes, durable: true })
    }

    /// Goes on in a new file with room for a write of `write_bytes`.
    fn begin_roll(&mut self, write_bytes: usize) -> (Work, Action) {
        let needed = (BLOCK_BYTES + write_bytes) as u64;
        let from_spare = self.spare == Spare::Ready && needed <= LOG_FILE_BYTES;
        let roll = Roll::Make { from_spare, file_bytes: needed.max(LOG_FILE_BYTES) };
        (Work::Roll(roll), self.roll_action(roll))
    }

    fn roll_action(&self, roll: Roll) -> Action {
        let file = self.next_file();
        match roll {
            Roll::Make { from_spare: true, .. } => {
                Action::Rename { from: FileName::Spare, to: file }
            }
            Roll::Make { from_spare: false, file_bytes } => {
                Action::Prewrite { file, size: file_bytes }
            }
            Roll::WriteHeader { .. } => {
                let first = self.committed.next();
                let header = LogHeader { first, previous_term: self.term, chain: self.chain };
                let bytes = header.encode(self.directory);
                Action::Write { file, position: 0, bytes, durable: true }
            }
            Roll::SyncDir { .. } => Action::SyncDir { dir: DirName::Metadata },
            Roll::CloseOld { old } => Action::Close { file: FileName::Log { first: old } },
        }
    }

    /// The end of a request.
    pub fn handle_completion(&mut self, completion: Completion) {
        if self.snapshot.as_ref().is_some_and(|job| job.waits_for(completion.id)) {
            return self.handle_snapshot(completion);
        }
        let Step::Waiting(work, id) = self.step else {
            // Fenced by the snapshot's failure while this was under way: its end is not trusted.
            assert!(self.fault().is_some(), "a completion nobody waits for");
            return;
        };
        assert_eq!(id, completion.id, "a completion nobody waits for");
        self.step = match completion.result {
            Ok(_) => self.done(work),
            Err(fault) => self.failed(work, fault),
        };
    }

    fn done(&mut self, work: Work) -> Step {
        match work {
            Work::Write => self.commit(),
            Work::Mark => {}
            Work::MakeSpare => self.spare = Spare::Ready,
            Work::Roll(roll) => return self.rolled(roll),
        }
        Step::Idle
    }

    /// A quorum of one: what is on this disk is committed.
    fn commit(&mut self) {
        for entry in self.writing.drain(..) {
            self.committed = entry.index;
            let index = entry.index;
            self.committed_records.extend(entry.records.into_iter().map(|r| (index, r)));
        }
    }

    fn rolled(&mut self, roll: Roll) -> Step {
        match roll {
            Roll::Make { from_spare, file_bytes } => {
                if from_spare {
                    self.spare = Spare::Missing;
                }
                Step::Roll(Roll::WriteHeader { file_bytes })
            }
            Roll::WriteHeader { file_bytes } => Step::Roll(Roll::SyncDir { file_bytes }),
            Roll::SyncDir { file_bytes } => {
                let old = self.files.back().copied().filter(|_| 0 < self.file_bytes);
                self.files.push_back(self.committed.next());
                self.file_bytes = file_bytes;
                self.position = BLOCK_BYTES as u64;
                old.map_or(Step::Idle, |old| Step::Roll(Roll::CloseOld { old }))
            }
            Roll::CloseOld { .. } => Step::Idle,
        }
    }

    fn failed(&mut self, work: Work, fault: Fault) -> Step {
        let file = match work {
            Work::MakeSpare if fault == Fault::NoSpace => {
                self.spare = Spare::NoSpace;
                return Step::Idle;
            }
            Work::Roll(Roll::Make { .. }) if fault == Fault::NoSpace => return Step::NoSpace,
            // Somebody removed the reserve: make a file of the right name instead.
            Work::Roll(Roll::Make { from_spare: true, .. }) if fault == Fault::NotFound => {
                self.spare = Spare::Missing;
                return Step::Idle;
            }
            // Nothing depends on a descriptor being closed.
            Work::Roll(Roll::CloseOld { .. }) => return Step::Idle,
            Work::MakeSpare => Some(FileName::Spare),
            Work::Mark => Some(FileName::State),
            Work::Write => Some(self.current_file()),
            Work::Roll(Roll::SyncDir { .. }) => None,
            Work::Roll(_) => Some(self.next_file()),
        };
        Step::Fenced(LogFault { file, fault })
    }

    fn handle_snapshot(&mut self, completion: Completion) {
        let Some(job) = &mut self.snapshot else { return };
        match job.handle_completion(completion.result) {
            Progress::Going => {}
            Progress::Durable(index) => {
                let dropped = obsolete_files(&self.files, index);
                let old_snapshot = self.snapshot_index;
                self.snapshot_index = index;
                let dropped: Vec<_> = self.files.drain(..dropped).collect();
                job.remove_replaced(old_snapshot, &dropped);
            }
            // Without space the log simply stays longer; the next try is as far away again.
            Progress::Ended => self.snapshot = None,
            Progress::Failed(fault) => {
                let fault = LogFault { file: Some(job.file()), fault };
                self.snapshot = None;
                self.step = Step::Fenced(fault);
            }
        }
    }

    fn current_file(&self) -> FileName {
        FileName::Log { first: *self.files.back().expect("a file was made before any write") }
    }

    /// The file after the current one. Nothing is being written when it is made.
    fn next_file(&self) -> FileName {
        FileName::Log { first: self.committed.next() }
    }
}

/// How many of `files` hold no entry above `index`: all whose successor begins at or below the
/// next one. Never the last.
pub(super) fn obsolete_files(files: &VecDeque<Index>, index: Index) -> usize {
    files.iter().skip(1).take_while(|first| **first <= index.next()).count()
}

impl fmt::Display for ProposeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLarge { size_bytes } => write!(f, "{size_bytes} bytes are too many"),
            Self::Busy => write!(f, "too much waits for the disk"),
            Self::NoSpace => write!(f, "the disk is full"),
            Self::Fenced(fault) => fault.fmt(f),
        }
    }
}

impl std::error::Error for ProposeError {}

impl fmt::Display for LogFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.file {
            Some(file) => write!(f, "{file}: {}", self.fault),
            None => write!(f, "{}: {}", DirName::Metadata, self.fault),
        }
    }
}
