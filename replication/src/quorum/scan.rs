//! Reading one file of the log: which bytes are entries, and whether what stops them is a write
//! the power cut off or damage.
//!
//! Writes go to the disk one at a time, and each begins only after the one before was committed.
//! So a bad write followed by a genuine one was committed once: that is damage. So is a bad one
//! at or below what the hard state, a later file or a snapshot calls committed. Any other is the
//! torn end of a write nobody was told of.

use super::io::FileName;
use super::layout::{self, BlockError, FORMAT_VERSION, LogHeader, WRITE_HEADER_BYTES, WriteHeader};
use super::{Index, RecoverError};
use crate::identity::DirectoryId;
use crate::limits::BLOCK_BYTES;
use crate::metadata::Record;

/// One file of the log and where it stands in it.
#[derive(Debug)]
pub(super) struct LogFile<'a> {
    pub(super) first: Index,
    pub(super) bytes: &'a [u8],
    pub(super) directory: DirectoryId,
    /// Checksum of the last write of the file before, if that was read.
    pub(super) chain: Option<u32>,
    /// Where the next file begins, if there is one.
    pub(super) until: Option<Index>,
    /// An entry at or below this was committed.
    pub(super) committed: Index,
}

/// What a file held.
#[derive(Debug, Eq, PartialEq)]
pub(super) struct Scanned {
    pub(super) entries: Vec<(Index, Vec<Record>)>,
    /// The index after the last entry.
    pub(super) next: Index,
    /// Checksum of the last write.
    pub(super) chain: u32,
    /// How many bytes the writes take.
    pub(super) size_bytes: u64,
    /// Whether a write was cut off behind them.
    pub(super) torn: bool,
}

impl LogFile<'_> {
    /// All entries of the file; none at all if it was never finished making.
    pub(super) fn scan(&self) -> Result<Option<Scanned>, RecoverError> {
        let Some(header) = self.header()? else { return Ok(None) };
        let mut scanned = Scanned {
            entries: Vec::new(),
            next: self.first,
            chain: header.chain,
            size_bytes: 0,
            torn: false,
        };
        let mut position = BLOCK_BYTES;
        while self.until.is_none_or(|until| scanned.next < until) {
            let Some((write, crc)) = self.write_at(position, &scanned) else {
                self.accept_end(position, &mut scanned)?;
                break;
            };
            self.read_entries(position, &write, &mut scanned)?;
            scanned.chain = crc;
            position += write.size_bytes();
            scanned.size_bytes = (position - BLOCK_BYTES) as u64;
        }
        if self.until.is_some_and(|until| scanned.next != until) {
            return Err(self.damaged(position, scanned.next));
        }
        Ok(Some(scanned))
    }

    fn header(&self) -> Result<Option<LogHeader>, RecoverError> {
        let block = self.bytes.get(..BLOCK_BYTES).unwrap_or_default();
        let header = match LogHeader::decode(block, self.directory) {
            Ok(header) => Some(header),
            Err(BlockError::NewerFormat { found }) => {
                let file = self.name();
                return Err(RecoverError::NewerFormat { file, found, supported: FORMAT_VERSION });
            }
            Err(BlockError::Empty | BlockError::Damaged) => None,
        };
        let follows = |header: &LogHeader| {
            header.first == self.first && self.chain.is_none_or(|chain| chain == header.chain)
        };
        if let Some(header) = header.filter(follows) {
            return Ok(Some(header));
        }
        // The header is durable before the first write, so without it there is none.
        let finished = self.until.is_some() || self.first <= self.committed;
        if header.is_some() || finished || self.is_genuine_after(0) {
            return Err(self.damaged(0, self.first));
        }
        Ok(None)
    }

    /// The write at `position`, if it is whole and follows what was scanned.
    fn write_at(&self, position: usize, scanned: &Scanned) -> Option<(WriteHeader, u32)> {
        let bytes = self.bytes.get(position..)?;
        let (write, crc) = WriteHeader::decode(bytes, self.directory)?;
        let body = bytes.get(WRITE_HEADER_BYTES..)?.get(..write.body_bytes as usize)?;
        let follows = write.first == scanned.next && write.chain == scanned.chain;
        let whole = 0 < write.entries
            && write.size_bytes() <= bytes.len()
            && WriteHeader::crc_of(body, self.directory) == write.body_crc;
        (follows && whole).then_some((write, crc))
    }

    fn read_entries(
        &self,
        position: usize,
        write: &WriteHeader,
        scanned: &mut Scanned,
    ) -> Result<(), RecoverError> {
        let start = position + WRITE_HEADER_BYTES;
        let body = &self.bytes[start..start + write.body_bytes as usize];
        let entries = layout::decode_entries(body, write.entries).map_err(|error| {
            RecoverError::Undecodable { file: self.name(), position: position as u64, error }
        })?;
        for records in entries {
            scanned.entries.push((scanned.next, records));
            scanned.next = scanned.next.next();
        }
        Ok(())
    }

    /// Takes what is at `position` for the end of the file's entries, unless it is damage.
    fn accept_end(&self, position: usize, scanned: &mut Scanned) -> Result<(), RecoverError> {
        let was_committed = scanned.next <= self.committed || self.is_genuine_after(position);
        if was_committed {
            return Err(self.damaged(position, scanned.next));
        }
        let rest = self.bytes.get(position..).unwrap_or_default();
        scanned.torn = rest.iter().any(|&byte| byte != 0);
        Ok(())
    }

    /// Whether any block behind the one at `position` begins a write of this log.
    fn is_genuine_after(&self, position: usize) -> bool {
        let starts = (position + BLOCK_BYTES..self.bytes.len()).step_by(BLOCK_BYTES);
        starts
            .filter_map(|start| WriteHeader::decode(&self.bytes[start..], self.directory))
            .any(|(write, _)| self.first <= write.first)
    }

    fn damaged(&self, position: usize, index: Index) -> RecoverError {
        RecoverError::Damaged { file: self.name(), position: position as u64, index }
    }

    fn name(&self) -> FileName {
        FileName::Log { first: self.first }
    }
}
