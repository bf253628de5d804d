//! One file of the crash disk: its bytes now, its bytes after a crash, and what lies between.

use bytes::Bytes;
use tidemill_storage::block::AlignedBytes;

use super::SECTOR_BYTES;
use super::random::Luck;

/// A file's bytes. Its name may have changed, or be gone.
#[derive(Clone, Debug, Default)]
pub struct File {
    /// As a read sees them.
    pub now: Vec<u8>,
    /// As they are after a crash at this moment.
    pub durable: Vec<u8>,
    /// What is between the two, oldest first.
    unsynced: Vec<Unsynced>,
}

#[derive(Clone, Debug)]
pub enum Unsynced {
    Write { position: usize, bytes: Bytes },
    Grow { size: usize },
    Cut { size: usize },
}

impl File {
    pub fn read(&self, position: u64, size: u32) -> Bytes {
        let start = (position as usize).min(self.now.len());
        let end = (start + size as usize).min(self.now.len());
        AlignedBytes::copy_of(&self.now[start..end]).freeze()
    }

    pub fn write(&mut self, position: usize, bytes: &Bytes) {
        put(&mut self.now, position, bytes);
        self.unsynced.push(Unsynced::Write { position, bytes: bytes.clone() });
    }

    pub fn grow(&mut self, size: usize) {
        if self.now.len() < size {
            self.now.resize(size, 0);
            self.unsynced.push(Unsynced::Grow { size });
        }
    }

    pub fn cut(&mut self, size: usize) {
        self.now.resize(size, 0);
        self.unsynced.push(Unsynced::Cut { size });
    }

    pub fn sync(&mut self) {
        self.durable.clone_from(&self.now);
        self.unsynced.clear();
    }

    /// A durable write makes its own bytes durable and nothing else.
    pub fn sync_range(&mut self, position: usize, bytes: &Bytes) {
        put(&mut self.durable, position, bytes);
        let end = position + bytes.len();
        for earlier in &mut self.unsynced {
            // What it wrote over cannot come back.
            if let Unsynced::Write { position: start, bytes: old } = earlier {
                let covered_from = (*start).max(position);
                let covered_to = (*start + old.len()).min(end);
                if covered_from < covered_to {
                    let mut merged = old.to_vec();
                    merged[covered_from - *start..covered_to - *start]
                        .copy_from_slice(&bytes[covered_from - position..covered_to - position]);
                    *old = Bytes::from(merged);
                }
            }
        }
        let last = self.unsynced.pop();
        assert!(matches!(last, Some(Unsynced::Write { .. })), "the write itself");
    }

    pub fn forget_unsynced(&mut self) {
        self.unsynced.clear();
    }

    pub fn crash(&mut self, luck: &mut Luck) {
        for unsynced in std::mem::take(&mut self.unsynced) {
            match unsynced {
                Unsynced::Write { position, bytes } => {
                    for (i, sector) in bytes.chunks(SECTOR_BYTES).enumerate() {
                        if luck.toss() {
                            put(&mut self.durable, position + i * SECTOR_BYTES, sector);
                        }
                    }
                }
                Unsynced::Grow { size } if luck.toss() => {
                    let grown = size.max(self.durable.len());
                    self.durable.resize(grown, 0);
                }
                Unsynced::Cut { size } if luck.toss() => self.durable.resize(size, 0),
                Unsynced::Grow { .. } | Unsynced::Cut { .. } => {}
            }
        }
        self.now.clone_from(&self.durable);
    }
}

fn put(file: &mut Vec<u8>, position: usize, bytes: &[u8]) {
    let end = position + bytes.len();
    if file.len() < end {
        file.resize(end, 0);
    }
    file[position..end].copy_from_slice(bytes);
}
