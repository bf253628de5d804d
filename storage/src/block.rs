//! Blocks: the unit of direct I/O, and memory aligned to it.
//!
//! The device takes whole blocks only: positions, sizes and the memory itself are multiples of
//! [`BLOCK_BYTES`]. [`AlignedBytes`] gathers bytes of any size into such memory with one copy and
//! becomes [`Bytes`] without another.
//!
//! Start reading at [`AlignedBytes`].

use bytemuck::{Pod, Zeroable};
use bytes::Bytes;

/// The unit of direct I/O: no device the preflight lets through asks for more.
pub const BLOCK_BYTES: usize = 4096;

const _: () = {
    assert!(BLOCK_BYTES.is_power_of_two());
    assert!(size_of::<Block>() == BLOCK_BYTES);
    assert!(align_of::<Block>() == BLOCK_BYTES);
};

const BLOCK_MASK: u64 = BLOCK_BYTES as u64 - 1;

/// Whether a position or size is a whole number of blocks.
#[must_use]
pub const fn is_aligned(bytes: u64) -> bool {
    bytes & BLOCK_MASK == 0
}

/// The start of the block that holds the byte at `position`.
#[must_use]
pub const fn round_down(position: u64) -> u64 {
    position & !BLOCK_MASK
}

/// The first block boundary at or after `position`. Panics above 2^64 - 4096.
#[must_use]
pub const fn round_up(position: u64) -> u64 {
    round_down(position + BLOCK_MASK)
}

/// One block of memory.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C, align(4096))]
struct Block([u8; BLOCK_BYTES]);

const ZERO_BLOCK: Block = Block([0; BLOCK_BYTES]);

/// Bytes gathered into aligned memory, to be written to the device.
///
/// What was not filled of the last block is zero.
#[derive(Clone, Default)]
pub struct AlignedBytes {
    blocks: Vec<Block>,
    /// How many bytes were put in: at most one block less than `blocks` holds.
    len: usize,
}

impl AlignedBytes {
    /// Memory for `bytes` bytes, rounded up to whole blocks; it grows if more are put in.
    #[must_use]
    pub fn with_capacity(bytes: usize) -> Self {
        Self { blocks: Vec::with_capacity(bytes.div_ceil(BLOCK_BYTES)), len: 0 }
    }

    /// `bytes`, copied.
    #[must_use]
    pub fn copy_of(bytes: &[u8]) -> Self {
        let mut copy = Self::with_capacity(bytes.len());
        copy.put(bytes);
        copy
    }

    /// How many bytes were put in.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether nothing was put in.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// How many bytes [`AlignedBytes::into_blocks`] will give: `len` rounded up to whole blocks.
    #[must_use]
    pub fn padded_len(&self) -> usize {
        self.blocks.len() * BLOCK_BYTES
    }

    /// Appends `bytes`: the one copy.
    pub fn put(&mut self, bytes: &[u8]) {
        let gap = self.padded_len() - self.len;
        let (first, rest) = bytes.split_at(gap.min(bytes.len()));
        let start = self.len;
        self.all_mut()[start..start + first.len()].copy_from_slice(first);

        // Whole blocks are copied where they go, without being zeroed before.
        let (whole, partial) = rest.as_chunks::<BLOCK_BYTES>();
        self.blocks.extend(whole.iter().map(|block| Block(*block)));
        if !partial.is_empty() {
            let mut last = ZERO_BLOCK;
            last.0[..partial.len()].copy_from_slice(partial);
            self.blocks.push(last);
        }
        self.len += bytes.len();
    }

    /// Appends `count` zero bytes.
    pub fn put_zeros(&mut self, count: usize) {
        self.len += count;
        self.blocks.resize(self.len.div_ceil(BLOCK_BYTES), ZERO_BLOCK);
    }

    /// Fills up the last block with zeros.
    pub fn pad(&mut self) {
        self.len = self.padded_len();
    }

    /// What was put in.
    #[must_use]
    pub fn as_slice(&self) -> &[u8] {
        &bytemuck::cast_slice(&self.blocks)[..self.len]
    }

    /// What was put in, to be changed in place.
    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        let len = self.len;
        &mut self.all_mut()[..len]
    }

    /// Exactly what was put in, as shared bytes. The memory begins at a block boundary.
    #[must_use]
    pub fn freeze(self) -> Bytes {
        let len = self.len;
        self.into_blocks().slice(..len)
    }

    /// What was put in, zero-padded to whole blocks: ready to be written.
    #[must_use]
    pub fn into_blocks(self) -> Bytes {
        if self.blocks.is_empty() {
            return Bytes::new();
        }
        Bytes::from_owner(Owner(self.blocks))
    }

    fn all_mut(&mut self) -> &mut [u8] {
        bytemuck::cast_slice_mut(&mut self.blocks)
    }
}

impl std::fmt::Debug for AlignedBytes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AlignedBytes").field("len", &self.len).finish_non_exhaustive()
    }
}

/// Blocks seen as the bytes they are.
struct Owner(Vec<Block>);

impl AsRef<[u8]> for Owner {
    fn as_ref(&self) -> &[u8] {
        bytemuck::cast_slice(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pattern(len: usize) -> Vec<u8> {
        (0..len).map(|i| (i % 251) as u8 + 1).collect()
    }

    /// Direct I/O refuses memory, positions and sizes that are not whole blocks.
    #[test]
    fn gathered_bytes_are_whole_blocks_at_an_aligned_address() {
        for len in [1, 4095, 4096, 4097, 70_000] {
            let blocks = AlignedBytes::copy_of(&pattern(len)).into_blocks();
            assert!(is_aligned(blocks.as_ptr() as u64));
            assert_eq!(blocks.len() as u64, round_up(len as u64));
        }
        assert!(AlignedBytes::default().into_blocks().is_empty());
    }

    /// Pieces of any size come out in order with nothing between them; the rest of the last block
    /// is zero, so no old memory reaches the disk.
    #[test]
    fn pieces_come_out_back_to_back_and_the_padding_is_zero() {
        let all = pattern(30_000);
        let mut gathered = AlignedBytes::with_capacity(100);
        let mut rest = &all[..];
        for size in [1, 0, 4095, 4096, 1, 9000, 4095, 2].into_iter().cycle() {
            let (piece, after) = rest.split_at(size.min(rest.len()));
            gathered.put(piece);
            rest = after;
            if rest.is_empty() {
                break;
            }
        }
        assert_eq!(gathered.as_slice(), all);
        assert_eq!(gathered.clone().freeze(), all);
        let blocks = gathered.into_blocks();
        assert!(blocks[all.len()..].iter().all(|&byte| byte == 0));
    }

    /// Zeros put in count as content; padding goes to the block boundary and no further.
    #[test]
    fn zeros_and_padding_extend_the_content() {
        let mut gathered = AlignedBytes::copy_of(&[7; 10]);
        gathered.put_zeros(5000);
        gathered.put(&[9]);
        assert_eq!(gathered.len(), 5011);
        assert_eq!(gathered.as_slice()[5010], 9);
        assert!(gathered.as_slice()[10..5010].iter().all(|&byte| byte == 0));

        gathered.pad();
        assert_eq!(gathered.len(), 8192);
        gathered.pad();
        assert_eq!(gathered.len(), 8192);
    }

    #[test]
    fn positions_round_to_the_block_boundaries_around_them() {
        assert_eq!((round_down(0), round_up(0)), (0, 0));
        assert_eq!((round_down(1), round_up(1)), (0, 4096));
        assert_eq!((round_down(4096), round_up(4096)), (4096, 4096));
        assert!(is_aligned(8192) && !is_aligned(8193));
    }
}
