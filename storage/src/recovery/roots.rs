//! Finding what recovery starts from: the base, the checkpoints, the heads of journal files.
//!
//! The newest base that is whole counts. One that is not whole was torn while it was written, and
//! then nothing depends on it yet; if something does, it is damage, and recovery refuses to go
//! on from an older state.

use std::collections::BTreeMap;

use bytes::{Bytes, BytesMut};
use tidemill_record::TopicPartition;

use super::replay::Replayed;
use super::scan::{File, Scan};
use super::{Purpose, READ_BYTES, Reading, Recovery};
use crate::block::BLOCK_BYTES;
use crate::checkpoint::{ReplayFrom, SNAPSHOT_VERSION, Snapshot, SnapshotError};
use crate::error::RecoverError;
use crate::io::{Action, DirName, FileName};
use crate::layout::WindowHeader;

/// What there is of one shard's journal.
#[derive(Debug, Default)]
pub(super) struct ShardFiles {
    /// The journal files, by number.
    pub(super) journals: BTreeMap<u32, File>,
    /// Sizes of the checkpoint slots.
    pub(super) slots: [Option<u64>; 2],
    /// The checkpoints that are whole.
    snapshots: Vec<Snapshot>,
    /// Windows of it are lost.
    pub(super) lost: bool,
}

impl Recovery {
    // --- listings ---

    /// Takes the names in a directory.
    pub(super) fn take_names(
        &mut self,
        dir: &DirName,
        names: Vec<(String, u64)>,
    ) -> Result<(), RecoverError> {
        match dir {
            DirName::Journals => {
                for (name, size) in &names {
                    if let Some(incarnation) = number_in(name, "base-", "") {
                        self.bases.insert(incarnation, *size);
                    } else if let Some(shard) = number_in(name, "shard-", "") {
                        self.shards.entry(shard).or_default();
                    }
                }
                self.bases_unread = self.bases.keys().copied().collect();
            }
            DirName::Partitions => {
                self.topics = names.into_iter().map(|(name, _)| name).collect();
            }
            DirName::Journal { shard } => {
                let files = self.shards.entry(*shard).or_default();
                for (name, size) in &names {
                    if let Some(number) = number_in(name, "", ".journal") {
                        // Windows are whole blocks; what is behind the last one is none.
                        let size = crate::block::round_down(*size);
                        files.journals.insert(number, File { size, head: None });
                    } else if let Some(slot @ 0..2) = number_in::<usize>(name, "checkpoint-", "") {
                        files.slots[slot] = Some(*size);
                    }
                }
            }
            _ => self.take_leftovers(dir, &names),
        }
        Ok(())
    }

    pub(super) fn list_shards(&mut self) {
        for shard in 0..self.known.shards {
            self.shards.entry(shard).or_default();
        }
        let shards: Vec<u16> = self.shards.keys().copied().collect();
        shards.into_iter().for_each(|shard| self.list(DirName::Journal { shard }));
    }

    /// No earlier start may have had this node epoch or a higher one.
    pub(super) fn check_incarnation(&self) -> Result<(), RecoverError> {
        let given = self.known.incarnation;
        match self.bases.keys().next_back() {
            Some(&found) if given <= found => Err(RecoverError::StaleIncarnation { given, found }),
            _ => Ok(()),
        }
    }

    // --- whole files ---

    fn read_whole(&mut self, file: FileName, size: u64) {
        let size = size - size % BLOCK_BYTES as u64;
        self.reading.insert(file.clone(), Reading { size, bytes: BytesMut::new() });
        self.read_on(file, 0, size);
    }

    fn read_on(&mut self, file: FileName, position: u64, size: u64) {
        let size = READ_BYTES.min(size - position) as u32;
        if size != 0 {
            let action = Action::Read { file: file.clone(), position, size };
            self.requests.ask(Purpose::Piece(file), action);
        }
    }

    pub(super) fn take_piece(&mut self, file: FileName, piece: &Bytes) -> Result<(), RecoverError> {
        let reading = self.reading.get_mut(&file).expect("it is being read");
        reading.bytes.extend_from_slice(piece);
        let (position, size) = (reading.bytes.len() as u64, reading.size);
        // A snapshot says how long it is; what follows is only reserved space.
        let wanted = Snapshot::total_bytes(&reading.bytes)
            .map_or(0, |total| total.next_multiple_of(BLOCK_BYTES as u64).min(size));
        if position < wanted && !piece.is_empty() {
            self.read_on(file, position, wanted);
            return Ok(());
        }
        let bytes = self.reading.remove(&file).expect("it is being read").bytes;
        self.take_snapshot(file, &bytes)
    }

    fn take_snapshot(&mut self, file: FileName, bytes: &[u8]) -> Result<(), RecoverError> {
        match (Snapshot::decode(bytes), &file) {
            (Err(SnapshotError::NewerFormat { found }), _) => {
                Err(RecoverError::NewerFormat { file, found, known: SNAPSHOT_VERSION })
            }
            (Ok(base), FileName::Base { incarnation }) if base.incarnation == *incarnation => {
                self.base = Some(base);
                Ok(())
            }
            (Ok(snapshot), FileName::Checkpoint { shard, .. }) if snapshot.shard == *shard => {
                self.shards.entry(*shard).or_default().snapshots.push(snapshot);
                Ok(())
            }
            (_, FileName::Base { incarnation }) => {
                self.base_damaged = self.base_damaged.max(Some(*incarnation));
                Ok(())
            }
            // Torn, or not written yet: the other slot counts.
            _ => Ok(()),
        }
    }

    pub(super) fn read_base(&mut self) {
        let Some(incarnation) = self.bases_unread.pop() else { return };
        let size = self.bases[&incarnation];
        if size < BLOCK_BYTES as u64 {
            self.base_damaged = self.base_damaged.max(Some(incarnation));
            return;
        }
        self.read_whole(FileName::Base { incarnation }, size);
    }

    /// Reads the checkpoints and the first block of each journal file.
    pub(super) fn read_roots(&mut self) {
        let mut slots = Vec::new();
        let mut heads = Vec::new();
        for (&shard, files) in &self.shards {
            for (slot, size) in files.slots.iter().enumerate() {
                if let Some(size) = size.filter(|size| BLOCK_BYTES as u64 <= *size) {
                    slots.push((FileName::Checkpoint { shard, slot: slot as u8 }, size));
                }
            }
            heads.extend(files.journals.keys().map(|&number| (shard, number)));
        }
        for (file, size) in slots {
            self.read_whole(file, size);
        }
        for (shard, number) in heads {
            let file = FileName::Journal { shard, number };
            let action = Action::Read { file, position: 0, size: BLOCK_BYTES as u32 };
            self.requests.ask(Purpose::Head { shard, number }, action);
        }
    }

    pub(super) fn take_head(&mut self, shard: u16, number: u32, bytes: &[u8]) {
        let files = self.shards.get_mut(&shard).expect("it was listed");
        let file = files.journals.get_mut(&number).expect("it was listed");
        file.head = WindowHeader::peek(bytes)
            .filter(|head| (head.shard, head.file_number) == (shard, number));
    }

    // --- putting them together ---

    /// The logs as base and checkpoints know them.
    pub(super) fn take_roots(&mut self) -> Result<(), RecoverError> {
        let incarnation = self.base.as_ref().map_or(0, |base| base.incarnation);
        let heads = self.shards.values().flat_map(|files| files.journals.values());
        let newest_window = heads.filter_map(|file| Some(file.head?.incarnation)).max();
        let snapshots = self.shards.values().flat_map(|files| &files.snapshots);
        let newest_checkpoint = snapshots.map(|snapshot| snapshot.incarnation).max();
        let newest = newest_window.max(newest_checkpoint).unwrap_or(0);
        if incarnation < newest {
            return Err(RecoverError::BaseDamaged { incarnation: newest });
        }
        // Without any base there can be no logs either: this would be the very first start.
        if self.base.is_none() && !self.topics.is_empty() {
            let incarnation = self.base_damaged.unwrap_or(0);
            return Err(RecoverError::BaseDamaged { incarnation });
        }
        for state in self.base.take().map_or(Vec::new(), |base| base.logs) {
            self.logs.insert(state.partition, Replayed::new(state));
        }
        let mut to_scan = Vec::new();
        for (&shard, files) in &mut self.shards {
            files.snapshots.retain(|snapshot| snapshot.incarnation == incarnation);
            files.snapshots.sort_by_key(|snapshot| snapshot.number);
            if let Some(newest) = files.snapshots.last_mut() {
                overlay(&mut self.logs, newest);
            }
            to_scan.push(shard);
        }
        // A stack: shard 0 is scanned first.
        to_scan.reverse();
        self.to_scan = to_scan;
        self.replaying = incarnation;
        Ok(())
    }

    pub(super) fn begin_scan(&self, shard: u16) -> Scan {
        let files = &self.shards[&shard];
        let from = files.snapshots.last().map_or_else(
            || ReplayFrom {
                sequence: 1,
                file_number: first_file(files, self.replaying),
                ..ReplayFrom::default()
            },
            |snapshot| snapshot.replay_from,
        );
        let window_bytes_max = files.journals.values().map(|file| file.size).max().unwrap_or(0);
        Scan::new(shard, self.replaying, window_bytes_max, files.journals.clone(), from)
    }
}

/// The file that begins with the first window of all; any other if none does.
fn first_file(files: &ShardFiles, incarnation: u64) -> u32 {
    let is_first = |head: WindowHeader| head.incarnation == incarnation && head.sequence == 1;
    let mut numbers = files.journals.iter();
    let found = numbers.find(|(_, file)| file.head.is_some_and(is_first));
    found.or(files.journals.iter().next()).map_or(0, |(&number, _)| number)
}

/// A checkpoint knows better than the base.
fn overlay(logs: &mut BTreeMap<TopicPartition, Replayed>, snapshot: &mut Snapshot) {
    for state in std::mem::take(&mut snapshot.logs) {
        if state.dropped {
            logs.remove(&state.partition);
        } else {
            logs.insert(state.partition, Replayed::new(state));
        }
    }
}

/// The number in a name like `prefix123suffix`.
fn number_in<T: std::str::FromStr>(name: &str, prefix: &str, suffix: &str) -> Option<T> {
    name.strip_prefix(prefix)?.strip_suffix(suffix)?.parse().ok()
}
