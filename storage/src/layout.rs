//! Every byte of a journal file: commit windows, back to back, each in whole blocks.
//!
//! ```text
//! | header | entry | entry … | payload | payload … | zeros | trailer |
//! 0        64      64 + 96·n                               window_bytes
//! ```
//!
//! The header's checksum covers the header and the entries, and stands again in the trailer, at
//! the window's very end. Each entry carries the checksum of its own payload. So a window is
//! whole if header, trailer and every payload agree; and if one payload alone is bad, it is known
//! whose it was. All integers are big-endian. Drawn in `docs/formats/journal.md`.
//!
//! Start reading at [`WindowHeader`].

use bytes::{Buf, BufMut};
use tidemill_record::{LeaderEpoch, Offset, PartitionId, TopicId, TopicPartition, checksum};

use crate::block::{BLOCK_BYTES, is_aligned, round_up};

/// The version of everything in this file. The first one knew no [`EntryKind::Swap`], and a
/// [`EntryKind::Truncate`] without payload only.
pub const JOURNAL_VERSION: u16 = 2;

/// How a window begins.
pub const WINDOW_MAGIC: [u8; 4] = *b"TIDW";
/// How its trailer ends.
pub const TRAILER_MAGIC: [u8; 4] = *b"WDIT";

/// Bytes of a window's header.
pub const HEADER_BYTES: usize = 4 + 2 + 2 + 8 + 8 + 8 + 4 + 4 + 4 + 4 + 8 + 4 + 4;
/// Bytes of an entry.
pub const ENTRY_BYTES: usize = 1 + 3 + 16 + 4 + 4 + 4 + 8 + 8 + 8 + 8 + 8 + 4 * 4 + 8;
/// Bytes of the trailer.
pub const TRAILER_BYTES: usize = 8 + 4 + 4;
const CHECKSUM_AT: usize = HEADER_BYTES - 4;

const _: () = {
    assert!(HEADER_BYTES == 64);
    assert!(ENTRY_BYTES == 96);
    assert!(HEADER_BYTES + TRAILER_BYTES < BLOCK_BYTES);
};

/// What stands at the beginning of each commit window.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct WindowHeader {
    /// Whose journal.
    pub shard: u16,
    /// Which start of the node wrote it.
    pub incarnation: u64,
    /// Counts the windows of this journal and incarnation, from 1.
    pub sequence: u64,
    /// The highest sequence that had been reported durable when this window was closed.
    pub mark: u64,
    /// The file it is in.
    pub file_number: u32,
    /// Counts how often this incarnation has begun to fill that file.
    pub file_use: u32,
    /// The checksum of the window before; 0 for the first.
    pub previous_checksum: u32,
    /// How many entries follow.
    pub entries_count: u32,
    /// Bytes of all payloads together.
    pub payload_bytes: u64,
    /// Blocks of the whole window.
    pub blocks: u32,
}

/// What an entry says happened.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u8)]
pub enum EntryKind {
    /// A batch, which is the payload.
    Append = 1,
    /// A run of batches that is in its segment already; the payload is only its partial blocks,
    /// the first and the last.
    Reference = 2,
    /// The segment `segment` ends at `position`; the next begins with `base_offset`.
    Roll = 3,
    /// The log starts at `base_offset`.
    Trim = 4,
    /// The log ends at `base_offset`, `position` in `segment`; `generation` begins, with a new
    /// segment. If `segment` is compacted, the payload is what the log knows of it from now on.
    Truncate = 5,
    /// The log is no more.
    Drop = 6,
    /// The segments from `base_offset` to `next_offset` are one now, which compaction wrote: the
    /// payload is what the log knows of it.
    Swap = 7,
}

impl EntryKind {
    fn from_byte(byte: u8) -> Option<Self> {
        Some(match byte {
            1 => Self::Append,
            2 => Self::Reference,
            3 => Self::Roll,
            4 => Self::Trim,
            5 => Self::Truncate,
            6 => Self::Drop,
            7 => Self::Swap,
            _ => return None,
        })
    }
}

/// One thing that happened to one log.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Entry {
    /// What happened.
    pub kind: EntryKind,
    /// To whose log.
    pub partition: TopicPartition,
    /// The log's generation: raised by each truncation.
    pub generation: u32,
    /// The leader epoch it was appended under.
    pub epoch: LeaderEpoch,
    /// Base offset of the segment.
    pub segment: Offset,
    /// Position in the segment of the first byte behind the prefix.
    pub position: u64,
    /// Offset of the first record.
    pub base_offset: Offset,
    /// Offset after the last record.
    pub next_offset: Offset,
    /// The time of day when it happened.
    pub wall_ms: i64,
    /// Bytes of batches, or of what else the payload is.
    pub data_bytes: u32,
    /// Bytes before them that repeat what the segment's block holds already: see
    /// [`crate::checkpoint`].
    pub prefix_bytes: u32,
    /// CRC32C of the batches as stored, or of what else the payload is.
    pub data_crc: u32,
    /// CRC32C of the prefix; of a [`EntryKind::Reference`], of its whole payload.
    pub prefix_crc: u32,
    /// Of a [`EntryKind::Reference`]: how many of the batches' last bytes are in the payload,
    /// those from the last block boundary on.
    pub last_bytes: u32,
}

impl Entry {
    /// How many bytes of the window's payload are this entry's.
    #[must_use]
    pub fn payload_bytes(&self) -> u64 {
        let data = match self.kind {
            EntryKind::Reference => self.first_bytes() + u64::from(self.last_bytes),
            _ => u64::from(self.data_bytes),
        };
        u64::from(self.prefix_bytes) + data
    }

    /// Of a [`EntryKind::Reference`]: how many of the batches' first bytes are in the payload,
    /// those up to the next block boundary.
    #[must_use]
    pub fn first_bytes(&self) -> u64 {
        round_up(self.position % BLOCK_BYTES as u64) - self.position % BLOCK_BYTES as u64
    }

    /// Writes it.
    pub fn encode(&self, out: &mut impl BufMut) {
        out.put_u8(self.kind as u8);
        out.put_bytes(0, 3);
        out.put_slice(&self.partition.topic.0);
        out.put_i32(self.partition.partition.0);
        out.put_u32(self.generation);
        out.put_i32(self.epoch.0);
        out.put_i64(self.segment.0);
        out.put_u64(self.position);
        out.put_i64(self.base_offset.0);
        out.put_i64(self.next_offset.0);
        out.put_i64(self.wall_ms);
        out.put_u32(self.data_bytes);
        out.put_u32(self.prefix_bytes);
        out.put_u32(self.data_crc);
        out.put_u32(self.prefix_crc);
        out.put_u32(self.last_bytes);
        out.put_u32(0);
    }

    /// Reads one; `None` if it is of a kind nobody knows. Panics below [`ENTRY_BYTES`] bytes.
    #[must_use]
    pub fn decode(mut bytes: &[u8]) -> Option<Self> {
        let kind = EntryKind::from_byte(bytes.get_u8())?;
        bytes.advance(3);
        let mut topic = [0; 16];
        bytes.copy_to_slice(&mut topic);
        let partition = PartitionId(bytes.get_i32());
        Some(Self {
            kind,
            partition: TopicPartition { topic: TopicId(topic), partition },
            generation: bytes.get_u32(),
            epoch: LeaderEpoch(bytes.get_i32()),
            segment: Offset(bytes.get_i64()),
            position: bytes.get_u64(),
            base_offset: Offset(bytes.get_i64()),
            next_offset: Offset(bytes.get_i64()),
            wall_ms: bytes.get_i64(),
            data_bytes: bytes.get_u32(),
            prefix_bytes: bytes.get_u32(),
            data_crc: bytes.get_u32(),
            prefix_crc: bytes.get_u32(),
            last_bytes: bytes.get_u32(),
        })
    }

    /// Whether `payload` (prefix and data) is what was written.
    #[must_use]
    pub fn payload_is_sound(&self, payload: &[u8]) -> bool {
        if payload.len() as u64 != self.payload_bytes() {
            return false;
        }
        if self.kind == EntryKind::Reference {
            // The run as a whole is proved with the segment's bytes; this is what may be torn.
            return checksum::crc32c(payload) == self.prefix_crc;
        }
        let (prefix, data) = payload.split_at(self.prefix_bytes as usize);
        checksum::crc32c(prefix) == self.prefix_crc && checksum::crc32c(data) == self.data_crc
    }
}

/// Bytes of a window with so many entries and bytes of payload: whole blocks.
#[must_use]
pub fn window_bytes(entries_count: usize, payload_bytes: u64) -> u64 {
    let head = (HEADER_BYTES + entries_count * ENTRY_BYTES + TRAILER_BYTES) as u64;
    round_up(head + payload_bytes)
}

/// Why bytes are not a commit window.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum WindowError {
    /// Not the bytes of one: never written, torn or damaged.
    NotAWindow,
    /// Written by a newer program.
    NewerFormat {
        /// Its version.
        found: u16,
    },
    /// More bytes are needed to tell.
    NeedsBytes(u64),
}

impl WindowHeader {
    /// Bytes of the whole window.
    #[must_use]
    pub fn window_bytes(&self) -> u64 {
        u64::from(self.blocks) * BLOCK_BYTES as u64
    }

    /// Where the payload begins.
    #[must_use]
    pub fn payload_at(&self) -> usize {
        HEADER_BYTES + self.entries_count as usize * ENTRY_BYTES
    }

    /// Writes the header and the entries to the front of `out`; returns their checksum.
    pub fn encode<'a>(
        &self,
        entries: impl IntoIterator<Item = &'a Entry>,
        out: &mut Vec<u8>,
    ) -> u32 {
        assert!(out.is_empty());
        out.put_slice(&WINDOW_MAGIC);
        out.put_u16(JOURNAL_VERSION);
        out.put_u16(self.shard);
        out.put_u64(self.incarnation);
        out.put_u64(self.sequence);
        out.put_u64(self.mark);
        out.put_u32(self.file_number);
        out.put_u32(self.file_use);
        out.put_u32(self.previous_checksum);
        out.put_u32(self.entries_count);
        out.put_u64(self.payload_bytes);
        out.put_u32(self.blocks);
        assert!(out.len() == CHECKSUM_AT);
        out.put_u32(0);
        for entry in entries {
            entry.encode(out);
        }
        assert!(out.len() == HEADER_BYTES + self.entries_count as usize * ENTRY_BYTES);
        let checksum = head_checksum(out);
        out[CHECKSUM_AT..HEADER_BYTES].copy_from_slice(&checksum.to_be_bytes());
        checksum
    }

    /// The trailer of this window.
    #[must_use]
    pub fn trailer(&self, checksum: u32) -> [u8; TRAILER_BYTES] {
        let mut trailer = [0; TRAILER_BYTES];
        let mut out = &mut trailer[..];
        out.put_u64(self.sequence);
        out.put_u32(checksum);
        out.put_slice(&TRAILER_MAGIC);
        trailer
    }

    /// Reads header and entries from the front of `bytes` and proves them. Believes no length
    /// before its checksum: `window_bytes_max` bounds what is asked for.
    pub fn decode(
        bytes: &[u8],
        window_bytes_max: u64,
    ) -> Result<(Self, Vec<Entry>, u32), WindowError> {
        if bytes.len() < HEADER_BYTES {
            return Err(WindowError::NeedsBytes(HEADER_BYTES as u64));
        }
        let (header, version, checksum) = Self::read(bytes).ok_or(WindowError::NotAWindow)?;
        let blocks_needed = window_bytes(header.entries_count as usize, header.payload_bytes);
        let sane = header.payload_bytes <= window_bytes_max
            && header.window_bytes() <= window_bytes_max
            && blocks_needed == header.window_bytes();
        if !sane {
            return Err(WindowError::NotAWindow);
        }
        let head = bytes
            .get(..header.payload_at())
            .ok_or(WindowError::NeedsBytes(header.payload_at() as u64))?;
        if head_checksum(head) != checksum {
            return Err(WindowError::NotAWindow);
        }
        // The checksum is right, so this was written on purpose.
        if JOURNAL_VERSION < version {
            return Err(WindowError::NewerFormat { found: version });
        }
        let entries: Option<Vec<_>> = head[HEADER_BYTES..]
            .as_chunks::<ENTRY_BYTES>()
            .0
            .iter()
            .map(|b| Entry::decode(b))
            .collect();
        let entries = entries.ok_or(WindowError::NotAWindow)?;
        let payload_bytes: u64 = entries.iter().map(Entry::payload_bytes).sum();
        if payload_bytes != header.payload_bytes {
            return Err(WindowError::NotAWindow);
        }
        Ok((header, entries, checksum))
    }

    /// What a header at the front of `bytes` says, unproved.
    #[must_use]
    pub fn peek(bytes: &[u8]) -> Option<Self> {
        let header = bytes.get(..HEADER_BYTES)?;
        Self::read(header).map(|(header, ..)| header)
    }

    /// Whether the trailer of the whole window `bytes` is there and agrees.
    #[must_use]
    pub fn trailer_is_sound(&self, bytes: &[u8], checksum: u32) -> bool {
        assert!(is_aligned(bytes.len() as u64));
        bytes.ends_with(&self.trailer(checksum))
    }

    fn read(mut bytes: &[u8]) -> Option<(Self, u16, u32)> {
        let mut magic = [0; 4];
        bytes.copy_to_slice(&mut magic);
        if magic != WINDOW_MAGIC {
            return None;
        }
        let version = bytes.get_u16();
        let header = Self {
            shard: bytes.get_u16(),
            incarnation: bytes.get_u64(),
            sequence: bytes.get_u64(),
            mark: bytes.get_u64(),
            file_number: bytes.get_u32(),
            file_use: bytes.get_u32(),
            previous_checksum: bytes.get_u32(),
            entries_count: bytes.get_u32(),
            payload_bytes: bytes.get_u64(),
            blocks: bytes.get_u32(),
        };
        Some((header, version, bytes.get_u32()))
    }
}

fn head_checksum(head: &[u8]) -> u32 {
    let crc = checksum::crc32c(&head[..CHECKSUM_AT]);
    checksum::append(crc, &head[HEADER_BYTES..])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry() -> Entry {
        Entry {
            kind: EntryKind::Append,
            partition: TopicPartition { topic: TopicId([0xab; 16]), partition: PartitionId(7) },
            generation: 3,
            epoch: LeaderEpoch(5),
            segment: Offset(0x100),
            position: 0x2000,
            base_offset: Offset(0x111),
            next_offset: Offset(0x114),
            wall_ms: 0x0a0b,
            data_bytes: 9,
            prefix_bytes: 2,
            data_crc: checksum::crc32c(b"123456789"),
            prefix_crc: checksum::crc32c(b"pp"),
            last_bytes: 0,
        }
    }

    fn header() -> WindowHeader {
        WindowHeader {
            shard: 2,
            incarnation: 4,
            sequence: 6,
            mark: 5,
            file_number: 8,
            file_use: 1,
            previous_checksum: 0x0102_0304,
            entries_count: 1,
            payload_bytes: 11,
            blocks: 1,
        }
    }

    fn window() -> Vec<u8> {
        let mut window = Vec::new();
        let checksum = header().encode([&entry()], &mut window);
        window.extend_from_slice(b"pp123456789");
        window.resize(BLOCK_BYTES - TRAILER_BYTES, 0);
        window.extend_from_slice(&header().trailer(checksum));
        window
    }

    /// The bytes of version 2, for ever. Those of version 1 differ in that number alone.
    #[test]
    fn the_window_format_is_this() {
        #[rustfmt::skip]
        let expected_header = [
            b'T', b'I', b'D', b'W',
            0, 2,                               // version
            0, 2,                               // shard
            0, 0, 0, 0, 0, 0, 0, 4,             // incarnation
            0, 0, 0, 0, 0, 0, 0, 6,             // sequence
            0, 0, 0, 0, 0, 0, 0, 5,             // mark
            0, 0, 0, 8,                         // file number
            0, 0, 0, 1,                         // use of the file
            1, 2, 3, 4,                         // previous checksum
            0, 0, 0, 1,                         // entries
            0, 0, 0, 0, 0, 0, 0, 11,            // bytes of payloads
            0, 0, 0, 1,                         // blocks
        ];
        #[rustfmt::skip]
        let expected_entry = [
            1, 0, 0, 0,                         // append
            0xab, 0xab, 0xab, 0xab, 0xab, 0xab, 0xab, 0xab,
            0xab, 0xab, 0xab, 0xab, 0xab, 0xab, 0xab, 0xab,
            0, 0, 0, 7,                         // partition
            0, 0, 0, 3,                         // generation
            0, 0, 0, 5,                         // leader epoch
            0, 0, 0, 0, 0, 0, 1, 0,             // segment
            0, 0, 0, 0, 0, 0, 0x20, 0,          // position
            0, 0, 0, 0, 0, 0, 1, 0x11,          // base offset
            0, 0, 0, 0, 0, 0, 1, 0x14,          // next offset
            0, 0, 0, 0, 0, 0, 0x0a, 0x0b,       // time of day, ms
            0, 0, 0, 9,                         // bytes of data
            0, 0, 0, 2,                         // bytes of prefix
            0xe3, 0x06, 0x92, 0x83,             // CRC32C of the data
        ];
        let window = window();
        assert_eq!(window[..CHECKSUM_AT], expected_header);
        assert_eq!(window[HEADER_BYTES..][..expected_entry.len()], expected_entry);
        let checksum = &window[CHECKSUM_AT..HEADER_BYTES];
        let trailer = [&[0, 0, 0, 0, 0, 0, 0, 6], checksum, b"WDIT"].concat();
        assert!(window.ends_with(&trailer));
    }

    #[test]
    fn a_window_is_read_back_as_written() {
        let window = window();
        let (found, entries, checksum) = WindowHeader::decode(&window, 1 << 20).unwrap();
        assert_eq!((found, &entries[..]), (header(), &[entry()][..]));
        assert!(found.trailer_is_sound(&window, checksum));
        let payload = &window[found.payload_at()..][..11];
        assert!(entries[0].payload_is_sound(payload));
        assert!(!entries[0].payload_is_sound(b"pp12345678X"));
        assert!(!entries[0].payload_is_sound(b"qp123456789"));
    }

    /// No byte of header, entries or trailer can change unnoticed.
    #[test]
    fn every_damaged_byte_is_noticed() {
        let sound = window();
        let head_bytes = HEADER_BYTES + ENTRY_BYTES;
        for at in (0..head_bytes).chain(BLOCK_BYTES - TRAILER_BYTES..BLOCK_BYTES) {
            let mut damaged = sound.clone();
            damaged[at] ^= 1;
            let noticed = match WindowHeader::decode(&damaged, 1 << 20) {
                Ok((header, _, checksum)) => !header.trailer_is_sound(&damaged, checksum),
                Err(_) => true,
            };
            assert!(noticed, "byte {at}");
        }
    }

    /// A length that is merely claimed is not believed, nor read.
    #[test]
    fn absurd_lengths_are_no_window() {
        let mut window = window();
        window[44..48].fill(0xff);
        assert_eq!(WindowHeader::decode(&window, 1 << 20), Err(WindowError::NotAWindow));
    }

    #[test]
    fn a_window_of_version_1_is_read() {
        let mut window = window();
        window[5] = 1;
        let checksum = head_checksum(&window[..HEADER_BYTES + ENTRY_BYTES]);
        window[CHECKSUM_AT..HEADER_BYTES].copy_from_slice(&checksum.to_be_bytes());
        let (found, entries, _) = WindowHeader::decode(&window, 1 << 20).unwrap();
        assert_eq!((found, &entries[..]), (header(), &[entry()][..]));
    }

    #[test]
    fn a_window_of_a_newer_version_is_told_apart_from_damage() {
        let mut window = window();
        window[5] = 3;
        let head = HEADER_BYTES + ENTRY_BYTES;
        let checksum = head_checksum(&window[..head]);
        window[CHECKSUM_AT..HEADER_BYTES].copy_from_slice(&checksum.to_be_bytes());
        assert_eq!(
            WindowHeader::decode(&window, 1 << 20),
            Err(WindowError::NewerFormat { found: 3 })
        );
    }
}
