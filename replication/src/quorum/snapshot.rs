//! Writing a snapshot of the image beside the log, piece by piece.
//!
//! Space for it is made first, which may fail without harm. Then come the image's bytes, the
//! header that makes them a snapshot, and the sync. Until then a crash leaves a file without a
//! valid header, or with bytes that are not what the header says; recovery removes it. Only once
//! the snapshot is on stable storage are the files it replaces removed.

use std::collections::VecDeque;

use bytes::Bytes;

use super::io::{Action, DirName, Fault, FileName, Outcome, RequestId};
use super::layout::{self, SnapshotHeader};
use super::{Index, Term};
use crate::identity::DirectoryId;
use crate::limits::{BLOCK_BYTES, PIECE_BYTES};

/// The writing of one snapshot.
#[derive(Debug)]
pub(super) struct SnapshotJob {
    index: Index,
    steps: VecDeque<Action>,
    /// How many of the steps make the snapshot; the rest remove what it replaces.
    until_durable: usize,
    waiting: Option<RequestId>,
    /// The disk was full: what is left is to remove what was written.
    given_up: bool,
}

/// What a completion meant for the job.
#[derive(Debug, Eq, PartialEq)]
pub(super) enum Progress {
    Going,
    /// The snapshot is on stable storage.
    Durable(Index),
    /// There is nothing left to do.
    Ended,
    /// The disk failed.
    Failed(Fault),
}

impl SnapshotJob {
    /// The job that writes `image`, as of entry `index`.
    pub(super) fn new(directory: DirectoryId, index: Index, term: Term, image: &[u8]) -> Self {
        let file = FileName::Snapshot { index };
        let crc = SnapshotHeader::crc_of(image, directory);
        let header = SnapshotHeader { index, term, size: image.len() as u64, crc };
        let write =
            |position, bytes: Bytes| Action::Write { file, position, bytes, durable: false };

        let body_start = BLOCK_BYTES as u64;
        let body = layout::aligned(image);
        let piece = |start| {
            let end = body.len().min(start + PIECE_BYTES);
            write(body_start + start as u64, body.slice(start..end))
        };
        let mut steps = VecDeque::new();
        steps.push_back(Action::Prewrite { file, size: body_start + body.len() as u64 });
        steps.extend((0..body.len()).step_by(PIECE_BYTES).map(piece));
        steps.push_back(write(0, header.encode(directory)));
        steps.push_back(Action::Sync { file });
        steps.push_back(Action::SyncDir { dir: DirName::Metadata });
        let until_durable = steps.len();
        steps.push_back(Action::Close { file });
        Self { index, steps, until_durable, waiting: None, given_up: false }
    }

    pub(super) fn file(&self) -> FileName {
        FileName::Snapshot { index: self.index }
    }

    pub(super) fn waits_for(&self, id: RequestId) -> bool {
        self.waiting == Some(id)
    }

    /// What to do next, unless something is under way.
    pub(super) fn next_action(&mut self) -> Option<Action> {
        if self.waiting.is_some() { None } else { self.steps.pop_front() }
    }

    pub(super) fn wait_for(&mut self, id: RequestId) {
        self.waiting = Some(id);
    }

    pub(super) fn handle_completion(&mut self, result: Result<Outcome, Fault>) -> Progress {
        self.waiting = None;
        match result {
            Ok(_) if self.until_durable == 1 => {
                self.until_durable = 0;
                Progress::Durable(self.index)
            }
            Ok(_) => {
                self.until_durable = self.until_durable.saturating_sub(1);
                if self.steps.is_empty() { Progress::Ended } else { Progress::Going }
            }
            Err(Fault::NoSpace) if 0 < self.until_durable && !self.given_up => {
                let file = self.file();
                self.given_up = true;
                self.until_durable = 0;
                self.steps = [Action::Close { file }, Action::Remove { file }].into();
                Progress::Going
            }
            // A file that stays is removed at the next start.
            Err(_) if self.until_durable == 0 && self.steps.is_empty() => Progress::Ended,
            Err(_) if self.until_durable == 0 => Progress::Going,
            Err(fault) => Progress::Failed(fault),
        }
    }

    /// Has the files removed that the snapshot made superfluous.
    pub(super) fn remove_replaced(&mut self, old: Index, logs: &[Index]) {
        if old != Index(0) {
            self.steps.push_back(Action::Remove { file: FileName::Snapshot { index: old } });
        }
        let remove = |&first| Action::Remove { file: FileName::Log { first } };
        self.steps.extend(logs.iter().map(remove));
    }
}
