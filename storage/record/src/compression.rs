//! The codecs of record batches, and their limits.
//!
//! A broker seldom decompresses: batches are stored and served as the client compressed them.
//! Where it must (a compacted topic, a search by time), the bytes come from strangers: a kilobyte
//! may claim, and really hold, a gigabyte. So [`decompress`] takes the most it may produce. It
//! stops there with an error; until then it holds no more than three times that limit (the result,
//! while it grows) and what a codec needs for itself: at most 12 MiB (LZ4 with the largest
//! blocks), well below 1 MiB for the others. No memory is reserved because a length field says so.
//!
//! What is written here follows what Kafka's Java client reads: snappy framed as snappy-java does,
//! LZ4 as the frame format with independent blocks.

use std::borrow::Cow;
use std::fmt;
use std::io::{Read, Write};

use bytes::{BufMut, Bytes, BytesMut};
use flate2::bufread::MultiGzDecoder;
use flate2::write::GzEncoder;
use lz4_flex::frame::{BlockMode, BlockSize, FrameDecoder, FrameEncoder, FrameInfo};
use zstd::zstd_safe::{self, zstd_sys};

/// How the records of a batch are compressed.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub enum Codec {
    /// Not at all.
    #[default]
    None,
    /// RFC 1952.
    Gzip,
    /// Snappy, framed as snappy-java does, or bare.
    Snappy,
    /// The LZ4 frame format.
    Lz4,
    /// RFC 8878.
    Zstd,
}

impl Codec {
    /// All of them, in the order of their numbers.
    pub const ALL: [Codec; 5] = [Codec::None, Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd];

    /// Its number: the lowest three bits of a batch's attributes.
    pub fn number(self) -> u8 {
        self as u8
    }

    /// The codec with this number.
    pub fn from_number(number: u8) -> Option<Codec> {
        Codec::ALL.get(usize::from(number)).copied()
    }

    /// Its name in configurations and command lines.
    pub fn name(self) -> &'static str {
        match self {
            Codec::None => "none",
            Codec::Gzip => "gzip",
            Codec::Snappy => "snappy",
            Codec::Lz4 => "lz4",
            Codec::Zstd => "zstd",
        }
    }

    /// The codec with this name.
    pub fn from_name(name: &str) -> Option<Codec> {
        Codec::ALL.into_iter().find(|codec| codec.name() == name)
    }
}

/// Why compressed bytes could not be turned back.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum DecompressError {
    /// They are not what the codec writes.
    Corrupt {
        /// The codec.
        codec: Codec,
    },
    /// They hold more than the limit. How much more is not known.
    TooLarge {
        /// The limit.
        limit_bytes: usize,
    },
}

impl fmt::Display for DecompressError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DecompressError::Corrupt { codec } => write!(f, "this is not {}", codec.name()),
            DecompressError::TooLarge { limit_bytes } => {
                write!(f, "decompressed, these are more than {limit_bytes} bytes")
            }
        }
    }
}

impl std::error::Error for DecompressError {}

/// Turns compressed bytes back, if they hold no more than `limit_bytes`.
///
/// Without a codec these are the bytes themselves, uncopied.
pub fn decompress(
    codec: Codec,
    bytes: &[u8],
    limit_bytes: usize,
) -> Result<Cow<'_, [u8]>, DecompressError> {
    let opened = match codec {
        Codec::None if bytes.len() <= limit_bytes => return Ok(Cow::Borrowed(bytes)),
        Codec::None => Err(Refusal::TooLarge),
        Codec::Gzip => gunzip(bytes, limit_bytes),
        Codec::Snappy => unsnappy(bytes, limit_bytes),
        Codec::Lz4 => unlz4(bytes, limit_bytes),
        Codec::Zstd => unzstd(bytes, limit_bytes),
    };
    match opened {
        Ok(opened) => Ok(Cow::Owned(opened)),
        Err(Refusal::Corrupt) => Err(DecompressError::Corrupt { codec }),
        Err(Refusal::TooLarge) => Err(DecompressError::TooLarge { limit_bytes }),
    }
}

/// Compresses bytes, at each codec's usual level.
pub fn compress(codec: Codec, bytes: &[u8]) -> Bytes {
    match codec {
        Codec::None => Bytes::copy_from_slice(bytes),
        Codec::Gzip => gzip(bytes),
        Codec::Snappy => snappy(bytes),
        Codec::Lz4 => lz4(bytes),
        Codec::Zstd => Bytes::from(zstd_compress(bytes)),
    }
}

enum Refusal {
    Corrupt,
    TooLarge,
}

/// How much a growing result begins with.
const FIRST_BYTES: usize = 64 * 1024;

/// Reads to the end, or until more than `limit_bytes` came.
fn read_bounded(reader: impl Read, limit_bytes: usize) -> Result<Vec<u8>, Refusal> {
    let mut opened = Vec::with_capacity(limit_bytes.min(FIRST_BYTES));
    let one_more = limit_bytes as u64 + 1;
    // Reading from memory fails for one reason: the bytes are not what they should be.
    reader.take(one_more).read_to_end(&mut opened).map_err(|_| Refusal::Corrupt)?;
    if limit_bytes < opened.len() {
        return Err(Refusal::TooLarge);
    }
    Ok(opened)
}

fn gunzip(bytes: &[u8], limit_bytes: usize) -> Result<Vec<u8>, Refusal> {
    // RFC 1952 §2.2: a gzip file is a series of members, one after the other.
    read_bounded(MultiGzDecoder::new(bytes), limit_bytes)
}

fn gzip(bytes: &[u8]) -> Bytes {
    let mut encoder = GzEncoder::new(BytesMut::new().writer(), flate2::Compression::default());
    encoder.write_all(bytes).expect("writing to memory does not fail");
    encoder.finish().expect("writing to memory does not fail").into_inner().freeze()
}

/// What snappy-java's framing begins with: a magic, its version, the oldest version that reads it.
const SNAPPY_FRAMING: [u8; 16] = *b"\x82SNAPPY\0\0\0\0\x01\0\0\0\x01";

/// The part of it that tells framed from bare.
const SNAPPY_MAGIC_BYTES: usize = 8;

/// How much snappy-java compresses at a time.
const SNAPPY_BLOCK_BYTES: usize = 32 * 1024;

fn unsnappy(bytes: &[u8], limit_bytes: usize) -> Result<Vec<u8>, Refusal> {
    let mut opened = Vec::new();
    if !bytes.starts_with(&SNAPPY_FRAMING[..SNAPPY_MAGIC_BYTES]) {
        unsnappy_block(bytes, &mut opened, limit_bytes)?;
        return Ok(opened);
    }
    let mut rest = bytes.get(SNAPPY_FRAMING.len()..).ok_or(Refusal::Corrupt)?;
    while !rest.is_empty() {
        let (length, after) = rest.split_first_chunk::<4>().ok_or(Refusal::Corrupt)?;
        let length = u32::from_be_bytes(*length) as usize;
        let (block, after) = after.split_at_checked(length).ok_or(Refusal::Corrupt)?;
        unsnappy_block(block, &mut opened, limit_bytes)?;
        rest = after;
    }
    Ok(opened)
}

fn unsnappy_block(block: &[u8], opened: &mut Vec<u8>, limit_bytes: usize) -> Result<(), Refusal> {
    let claimed = snap::raw::decompress_len(block).map_err(|_| Refusal::Corrupt)?;
    if limit_bytes - opened.len() < claimed {
        return Err(Refusal::TooLarge);
    }
    // The densest element is a copy: three bytes for 64. Who claims more than that is lying, and
    // gets no memory for it.
    if block.len().saturating_mul(64) < claimed {
        return Err(Refusal::Corrupt);
    }
    let start = opened.len();
    opened.resize(start + claimed, 0);
    let mut decoder = snap::raw::Decoder::new();
    decoder.decompress(block, &mut opened[start..]).map_err(|_| Refusal::Corrupt)?;
    Ok(())
}

fn snappy(bytes: &[u8]) -> Bytes {
    let mut encoder = snap::raw::Encoder::new();
    let mut framed = BytesMut::from(&SNAPPY_FRAMING[..]);
    for block in bytes.chunks(SNAPPY_BLOCK_BYTES) {
        let block = encoder.compress_vec(block).expect("blocks are far below snappy's limit");
        framed.put_u32(block.len() as u32);
        framed.put_slice(&block);
    }
    framed.freeze()
}

/// What the frame format begins with. (There are older and skippable formats; Kafka reads none.)
const LZ4_FRAME_MAGIC: [u8; 4] = 0x184d_2204_u32.to_le_bytes();

fn unlz4(bytes: &[u8], limit_bytes: usize) -> Result<Vec<u8>, Refusal> {
    if !bytes.starts_with(&LZ4_FRAME_MAGIC) {
        return Err(Refusal::Corrupt);
    }
    let mut rest = bytes;
    let opened = read_bounded(FrameDecoder::new(&mut rest), limit_bytes)?;
    // One frame and nothing else. (A frame cut between two blocks is not noticed here, but by
    // whoever counts the records.)
    if rest.is_empty() { Ok(opened) } else { Err(Refusal::Corrupt) }
}

fn lz4(bytes: &[u8]) -> Bytes {
    // Kafka's Java client refuses blocks that depend on one another.
    let frame = FrameInfo::new().block_size(BlockSize::Max64KB).block_mode(BlockMode::Independent);
    let mut encoder = FrameEncoder::with_frame_info(frame, BytesMut::new().writer());
    encoder.write_all(bytes).expect("writing to memory does not fail");
    encoder.finish().expect("writing to memory does not fail").into_inner().freeze()
}

/// Decompresses in one call into a result that grows until all fits, instead of as a stream: a
/// stream needs the frame's window besides, up to 128 MiB for what producers at the highest
/// levels send, or they would have to be refused.
fn unzstd(bytes: &[u8], limit_bytes: usize) -> Result<Vec<u8>, Refusal> {
    const NO_ROOM: usize =
        (zstd_sys::ZSTD_ErrorCode::ZSTD_error_dstSize_tooSmall as usize).wrapping_neg();

    let mut size_bytes = bytes.len().saturating_mul(4).max(FIRST_BYTES);
    loop {
        size_bytes = size_bytes.min(limit_bytes);
        let mut opened = Vec::with_capacity(size_bytes);
        match zstd_safe::decompress(&mut opened, bytes) {
            // A vector may be larger than asked for.
            Ok(_) if opened.len() <= limit_bytes => return Ok(opened),
            Ok(_) => return Err(Refusal::TooLarge),
            Err(NO_ROOM) if size_bytes < limit_bytes => size_bytes = size_bytes.saturating_mul(4),
            Err(NO_ROOM) => return Err(Refusal::TooLarge),
            Err(_) => return Err(Refusal::Corrupt),
        }
    }
}

fn zstd_compress(bytes: &[u8]) -> Vec<u8> {
    let mut compressed = Vec::with_capacity(zstd_safe::compress_bound(bytes.len()));
    zstd_safe::compress(&mut compressed, bytes, zstd_safe::CLEVEL_DEFAULT)
        .expect("there is room for the worst case");
    compressed
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: usize = 1024 * 1024;
    const COMPRESSING: [Codec; 4] = [Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd];

    /// Some structure, some noise, and not a multiple of any block.
    fn sample(size_bytes: usize) -> Vec<u8> {
        let mut state = 1u32;
        (0..size_bytes)
            .map(|i| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                if i % 64 < 48 { b"offset "[i % 7] } else { (state >> 24) as u8 }
            })
            .collect()
    }

    /// Whatever the size: nothing, less than a block, just a block, several.
    #[test]
    fn what_was_compressed_comes_back() {
        for codec in Codec::ALL {
            for size in [0, 1, 1000, 32 * 1024, 64 * 1024, 300_001] {
                let bytes = sample(size);
                let compressed = compress(codec, &bytes);
                let opened = decompress(codec, &compressed, size).expect("it fits exactly");
                assert_eq!(opened, bytes, "{codec:?}, {size} bytes");
            }
        }
    }

    /// The limit is inclusive, and one byte above it is an error, whatever the codec.
    #[test]
    fn one_byte_more_than_the_limit_is_refused() {
        let bytes = sample(100_000);
        for codec in Codec::ALL {
            let compressed = compress(codec, &bytes);
            let refused = decompress(codec, &compressed, 99_999);
            assert_eq!(
                refused,
                Err(DecompressError::TooLarge { limit_bytes: 99_999 }),
                "{codec:?}"
            );
        }
    }

    /// 64 MiB of zeros are a few kilobytes to most codecs. With a limit of 1 MiB they stay below
    /// it, and are refused without having been unpacked.
    #[test]
    fn a_bomb_is_refused_at_the_limit() {
        let zeros = vec![0; 64 * MIB];
        for codec in COMPRESSING {
            let bomb = compress(codec, &zeros);
            let refused = decompress(codec, &bomb, MIB);
            assert_eq!(refused, Err(DecompressError::TooLarge { limit_bytes: MIB }), "{codec:?}");
        }
    }

    /// Ten bytes that claim 4 GiB get an error and no memory, however high the limit.
    #[test]
    fn a_length_that_is_merely_claimed_reserves_no_memory() {
        let four_gib_in_snappy = [0xff, 0xff, 0xff, 0xff, 0x0f, 0, b'x', 0, b'y', 0];
        let refused = decompress(Codec::Snappy, &four_gib_in_snappy, usize::MAX);
        assert_eq!(refused, Err(DecompressError::Corrupt { codec: Codec::Snappy }));
    }

    /// Cutting anything off, or adding anything, is noticed. (LZ4 ends with a mark of four bytes,
    /// whose absence alone it does not report: the content is all there.)
    #[test]
    fn damaged_bytes_are_refused() {
        for codec in COMPRESSING {
            let whole = compress(codec, &sample(5000));
            for cut in 1..whole.len() - 8 {
                let refused = decompress(codec, &whole[..cut], MIB);
                if let Ok(opened) = refused {
                    let frame_without_blocks = codec == Codec::Lz4 || codec == Codec::Snappy;
                    assert!(frame_without_blocks && opened.is_empty(), "{codec:?} cut at {cut}");
                }
            }
            let longer = [&whole[..], b"?"].concat();
            let refused = decompress(codec, &longer, MIB);
            assert_eq!(refused, Err(DecompressError::Corrupt { codec }), "{codec:?}");
        }
    }

    /// Some clients send bare snappy; snappy-java reads it, so it may be in a batch.
    #[test]
    fn snappy_is_read_framed_or_bare() {
        let bytes = sample(1000);
        let bare = snap::raw::Encoder::new().compress_vec(&bytes).expect("small enough");
        assert_eq!(decompress(Codec::Snappy, &bare, MIB).expect("bare snappy"), bytes);
        assert!(compress(Codec::Snappy, &bytes).starts_with(&SNAPPY_FRAMING));
    }

    /// The highest levels use windows of up to 128 MiB. They need no memory for it here.
    #[test]
    fn zstd_with_the_largest_window_is_read() {
        let bytes = sample(MIB);
        let mut encoder = zstd::Encoder::new(Vec::new(), 22).expect("a valid level");
        encoder.window_log(27).expect("a valid window");
        encoder.write_all(&bytes).expect("memory");
        let compressed = encoder.finish().expect("memory");
        assert_eq!(decompress(Codec::Zstd, &compressed, MIB).expect("it fits"), bytes);
    }

    /// Numbers are on the wire and names in configurations: both lead back.
    #[test]
    fn a_codec_is_found_by_number_and_by_name() {
        for codec in Codec::ALL {
            assert_eq!(Codec::from_number(codec.number()), Some(codec));
            assert_eq!(Codec::from_name(codec.name()), Some(codec));
        }
        assert_eq!(Codec::from_number(5), None);
        assert_eq!(Codec::from_name("lzma"), None);
    }
}
