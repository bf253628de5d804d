//! Every byte of the metadata files. Drawn in `docs/formats/metadata.md`.
//!
//! Each structure begins at a block and with a magic and a version; its checksum is a CRC32C whose
//! start is the checksum of the directory's UUID, so that bytes of another directory, or bytes a
//! client chose to look like ours, never pass. Integers are big-endian.

use bytes::Bytes;
use tidemill_record::NodeId;

use super::{Index, Term};
use crate::identity::{ClusterId, DirectoryId};
use crate::limits::{BLOCK_BYTES, ENTRY_BYTES_MAX, RECORDS_PER_ENTRY_MAX, VOTERS_MAX};
use crate::metadata::Record;
use crate::wire::{DecodeError, Reader, Write};

/// The only version of all files so far.
pub const FORMAT_VERSION: u16 = 1;

/// The size of the hard state's file: two slots of a block each.
pub const STATE_FILE_BYTES: u64 = 2 * BLOCK_BYTES as u64;

const NODE_MAGIC: [u8; 8] = *b"tm-node\n";
const VOTERS_MAGIC: [u8; 8] = *b"tm-vote\n";
const STATE_MAGIC: [u8; 8] = *b"tm-stat\n";
const LOG_MAGIC: [u8; 8] = *b"tm-mlog\n";
const SNAPSHOT_MAGIC: [u8; 8] = *b"tm-snap\n";
const WRITE_MAGIC: [u8; 4] = *b"TMwr";

/// Bytes of a write's header, its checksum included.
pub const WRITE_HEADER_BYTES: usize = 52;

/// Memory for direct I/O.
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C, align(4096))]
struct Block([u8; BLOCK_BYTES]);

struct Blocks(Vec<Block>);

impl AsRef<[u8]> for Blocks {
    fn as_ref(&self) -> &[u8] {
        bytemuck::cast_slice(&self.0)
    }
}

/// `bytes` in aligned memory, filled up with zeros to whole blocks.
pub(crate) fn aligned(bytes: &[u8]) -> Bytes {
    let mut blocks = vec![Block([0; BLOCK_BYTES]); bytes.len().div_ceil(BLOCK_BYTES)];
    bytemuck::cast_slice_mut(&mut blocks)[..bytes.len()].copy_from_slice(bytes);
    Bytes::from_owner(Blocks(blocks))
}

/// `size` rounded up to whole blocks.
pub(crate) fn padded(size: usize) -> usize {
    size.next_multiple_of(BLOCK_BYTES)
}

/// Why a file's first block is not what it should be.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum BlockError {
    /// Nothing was ever written there.
    Empty,
    /// A newer program wrote it.
    NewerFormat {
        /// The version found.
        found: u16,
    },
    /// The magic or the checksum is wrong.
    Damaged,
}

/// `node`: whose data directory this is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct NodeFile {
    /// The cluster it belongs to.
    pub cluster: ClusterId,
    /// The node it belongs to.
    pub node: NodeId,
    /// Its own name for life.
    pub directory: DirectoryId,
}

impl NodeFile {
    /// The file's only block.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let mut out = block_start(NODE_MAGIC);
        out.put(&self.cluster.0);
        out.put_i32(self.node.0);
        out.put(&self.directory.0);
        block_end(out, 0)
    }

    /// Reads the file's only block.
    pub fn decode(block: &[u8]) -> Result<Self, BlockError> {
        let decode = |reader: &mut Reader<'_>| {
            Ok(Self {
                cluster: ClusterId(reader.array()?),
                node: NodeId(reader.i32()?),
                directory: DirectoryId(reader.array()?),
            })
        };
        read_block(block, NODE_MAGIC, 0, decode)
    }
}

/// `metadata/voters`: who votes, each with the directory it votes from.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct VotersFile {
    /// All voters.
    pub voters: Vec<(NodeId, DirectoryId)>,
}

impl VotersFile {
    /// The file's only block.
    #[must_use]
    pub fn encode(&self, directory: DirectoryId) -> Bytes {
        assert!(self.voters.len() <= VOTERS_MAX);
        let mut out = block_start(VOTERS_MAGIC);
        out.put_count(self.voters.len());
        for (node, directory) in &self.voters {
            out.put_i32(node.0);
            out.put(&directory.0);
        }
        block_end(out, seed(directory))
    }

    /// Reads the file's only block.
    pub fn decode(block: &[u8], directory: DirectoryId) -> Result<Self, BlockError> {
        let decode = |reader: &mut Reader<'_>| {
            let mut voters = Vec::new();
            for _ in 0..reader.count(VOTERS_MAX, 20)? {
                voters.push((NodeId(reader.i32()?), DirectoryId(reader.array()?)));
            }
            Ok(Self { voters })
        };
        read_block(block, VOTERS_MAGIC, seed(directory), decode)
    }
}

/// One slot of `metadata/state`. The valid one with the higher sequence counts.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct HardState {
    /// Counts the writes of the hard state; its parity is the slot.
    pub sequence: u64,
    /// The highest term known.
    pub term: Term,
    /// Who got this node's vote in that term.
    pub vote: NodeId,
    /// An entry at or below this was reported committed.
    pub commit: Index,
}

impl HardState {
    /// The slot's block.
    #[must_use]
    pub fn encode(&self, directory: DirectoryId) -> Bytes {
        let mut out = block_start(STATE_MAGIC);
        out.put_u64(self.sequence);
        out.put_u64(self.term.0);
        out.put_i32(self.vote.0);
        out.put_u64(self.commit.0);
        block_end(out, seed(directory))
    }

    /// Reads a slot's block.
    pub fn decode(block: &[u8], directory: DirectoryId) -> Result<Self, BlockError> {
        let decode = |reader: &mut Reader<'_>| {
            Ok(Self {
                sequence: reader.u64()?,
                term: Term(reader.u64()?),
                vote: NodeId(reader.i32()?),
                commit: Index(reader.u64()?),
            })
        };
        read_block(block, STATE_MAGIC, seed(directory), decode)
    }

    /// Where in the file this slot lies.
    #[must_use]
    pub fn position(&self) -> u64 {
        self.sequence % 2 * BLOCK_BYTES as u64
    }
}

/// The first block of a log file.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct LogHeader {
    /// The first entry the file may hold. All before it are committed.
    pub first: Index,
    /// The term of the entry before it.
    pub previous_term: Term,
    /// The checksum of the write before it, in an earlier file.
    pub chain: u32,
}

impl LogHeader {
    /// The block.
    #[must_use]
    pub fn encode(&self, directory: DirectoryId) -> Bytes {
        let mut out = block_start(LOG_MAGIC);
        out.put_u64(self.first.0);
        out.put_u64(self.previous_term.0);
        out.put_u32(self.chain);
        block_end(out, seed(directory))
    }

    /// Reads the block.
    pub fn decode(block: &[u8], directory: DirectoryId) -> Result<Self, BlockError> {
        let decode = |reader: &mut Reader<'_>| {
            Ok(Self {
                first: Index(reader.u64()?),
                previous_term: Term(reader.u64()?),
                chain: reader.u32()?,
            })
        };
        read_block(block, LOG_MAGIC, seed(directory), decode)
    }
}

/// The first block of a snapshot; the image follows in the blocks after it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct SnapshotHeader {
    /// The last entry the image includes.
    pub index: Index,
    /// That entry's term.
    pub term: Term,
    /// The image's size in bytes.
    pub size: u64,
    /// The image's checksum.
    pub crc: u32,
}

impl SnapshotHeader {
    /// The block.
    #[must_use]
    pub fn encode(&self, directory: DirectoryId) -> Bytes {
        let mut out = block_start(SNAPSHOT_MAGIC);
        out.put_u64(self.index.0);
        out.put_u64(self.term.0);
        out.put_u64(self.size);
        out.put_u32(self.crc);
        block_end(out, seed(directory))
    }

    /// Reads the block.
    pub fn decode(block: &[u8], directory: DirectoryId) -> Result<Self, BlockError> {
        let decode = |reader: &mut Reader<'_>| {
            Ok(Self {
                index: Index(reader.u64()?),
                term: Term(reader.u64()?),
                size: reader.u64()?,
                crc: reader.u32()?,
            })
        };
        read_block(block, SNAPSHOT_MAGIC, seed(directory), decode)
    }

    /// The checksum of an image's bytes.
    #[must_use]
    pub fn crc_of(image: &[u8], directory: DirectoryId) -> u32 {
        crc32c::crc32c_append(seed(directory), image)
    }
}

/// The header of one write: what a write says of the entries it carries.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct WriteHeader {
    /// The term of its entries.
    pub term: Term,
    /// The index of its first entry.
    pub first: Index,
    /// How many entries it carries.
    pub entries: u32,
    /// The last entry reported committed before this was written.
    pub commit: Index,
    /// The checksum of the write before it.
    pub chain: u32,
    /// Bytes of entries behind the header.
    pub body_bytes: u32,
    /// Checksum of these bytes.
    pub body_crc: u32,
}

impl WriteHeader {
    /// The index after its last entry.
    #[must_use]
    pub fn end(&self) -> Index {
        Index(self.first.0.saturating_add(u64::from(self.entries)))
    }

    /// The whole write's size in the file.
    #[must_use]
    pub fn size_bytes(&self) -> usize {
        padded(WRITE_HEADER_BYTES + self.body_bytes as usize)
    }

    /// The header's bytes; the last four are its checksum, which the next write repeats.
    #[must_use]
    pub fn encode(&self, directory: DirectoryId) -> ([u8; WRITE_HEADER_BYTES], u32) {
        let mut out = Vec::with_capacity(WRITE_HEADER_BYTES);
        out.put(&WRITE_MAGIC);
        out.put_u64(self.term.0);
        out.put_u64(self.first.0);
        out.put_u32(self.entries);
        out.put_u64(self.commit.0);
        out.put_u32(self.chain);
        out.put_u32(self.body_bytes);
        out.put_u32(self.body_crc);
        // Reserved, zero.
        out.put_u32(0);
        let crc = crc32c::crc32c_append(seed(directory), &out);
        out.put_u32(crc);
        (out.try_into().expect("the fields add up to the header's size"), crc)
    }

    /// Reads a header, if one begins here, with its checksum.
    #[must_use]
    pub fn decode(bytes: &[u8], directory: DirectoryId) -> Option<(Self, u32)> {
        let (covered, crc) = bytes.get(..WRITE_HEADER_BYTES)?.split_at(WRITE_HEADER_BYTES - 4);
        let crc = u32::from_be_bytes(crc.try_into().expect("four bytes were split off"));
        let genuine = covered.starts_with(&WRITE_MAGIC)
            && crc32c::crc32c_append(seed(directory), covered) == crc;
        let header = genuine.then(|| Self::decode_fields(&covered[4..]))?.ok()?;
        Some((header, crc))
    }

    fn decode_fields(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        Ok(Self {
            term: Term(reader.u64()?),
            first: Index(reader.u64()?),
            entries: reader.u32()?,
            commit: Index(reader.u64()?),
            chain: reader.u32()?,
            body_bytes: reader.u32()?,
            body_crc: reader.u32()?,
        })
    }

    /// The checksum of the entries' bytes.
    #[must_use]
    pub fn crc_of(body: &[u8], directory: DirectoryId) -> u32 {
        crc32c::crc32c_append(seed(directory), body)
    }
}

/// One entry's bytes: its size, how many records, and each behind its size.
pub(crate) fn encode_entry(records: &[Record]) -> Vec<u8> {
    let mut out = vec![0; 4];
    out.put_count(records.len());
    for record in records {
        let start = out.len();
        out.put_u32(0);
        record.encode(&mut out);
        patch_size(&mut out, start);
    }
    patch_size(&mut out, 0);
    out
}

/// Writes the number of bytes behind it into the four at `start`.
fn patch_size(out: &mut [u8], start: usize) {
    let size = u32::try_from(out.len() - start - 4).expect("entries are bounded far below 4 GiB");
    out[start..start + 4].copy_from_slice(&size.to_be_bytes());
}

/// The entries of a write's body.
pub fn decode_entries(body: &[u8], count: u32) -> Result<Vec<Vec<Record>>, DecodeError> {
    let mut reader = Reader::new(body);
    let mut entries = Vec::new();
    for _ in 0..count {
        let mut entry = Reader::new(reader.bytes(ENTRY_BYTES_MAX)?);
        let mut records = Vec::new();
        for _ in 0..entry.count(RECORDS_PER_ENTRY_MAX, 6)? {
            records.push(Record::decode(entry.bytes(ENTRY_BYTES_MAX)?)?);
        }
        entry.finish()?;
        entries.push(records);
    }
    reader.finish()?;
    Ok(entries)
}

fn seed(directory: DirectoryId) -> u32 {
    crc32c::crc32c(&directory.0)
}

fn block_start(magic: [u8; 8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(BLOCK_BYTES);
    out.put(&magic);
    out.put_u16(FORMAT_VERSION);
    // The size of what the checksum covers; set at the end.
    out.put_u16(0);
    out
}

fn block_end(mut out: Vec<u8>, seed: u32) -> Bytes {
    let size = u16::try_from(out.len()).expect("a block is smaller than 64 KiB");
    out[10..12].copy_from_slice(&size.to_be_bytes());
    let crc = crc32c::crc32c_append(seed, &out);
    out.put_u32(crc);
    assert!(out.len() <= BLOCK_BYTES);
    aligned(&out)
}

fn read_block<T>(
    block: &[u8],
    magic: [u8; 8],
    seed: u32,
    decode: impl FnOnce(&mut Reader<'_>) -> Result<T, DecodeError>,
) -> Result<T, BlockError> {
    if block.iter().all(|&byte| byte == 0) {
        return Err(BlockError::Empty);
    }
    let mut reader = Reader::new(block);
    let damaged = |_| BlockError::Damaged;
    if reader.array().map_err(damaged)? != magic {
        return Err(BlockError::Damaged);
    }
    let version = reader.u16().map_err(damaged)?;
    let size = reader.u16().map_err(damaged)? as usize;
    let covered = block.get(..size).ok_or(BlockError::Damaged)?;
    let crc = block.get(size..size + 4).ok_or(BlockError::Damaged)?;
    if crc32c::crc32c_append(seed, covered).to_be_bytes() != crc {
        return Err(BlockError::Damaged);
    }
    // Only now: a version is believed when its checksum is right.
    if version != FORMAT_VERSION {
        return Err(BlockError::NewerFormat { found: version });
    }
    let mut fields = Reader::new(covered.get(12..).ok_or(BlockError::Damaged)?);
    let decoded = decode(&mut fields).map_err(damaged)?;
    fields.finish().map_err(damaged)?;
    Ok(decoded)
}
