//! Small batches that hold a gigabyte: memory stays within what `decompress` promises.
//!
//! One test alone in this file, because it looks at the memory of the whole process.

use std::io::Write;

use bytes::{BufMut, BytesMut};
use lz4_flex::frame::{BlockMode, BlockSize, FrameEncoder, FrameInfo};
use tidemill_record::{Codec, DecompressError, compress, decompress};

const MIB: usize = 1024 * 1024;
const LIMIT: usize = 4 * MIB;
const BOMB_MIB: usize = 1024;

/// Three times the limit while the result grows, 12 MiB for the codec, and some for the allocator.
const GROWTH_MAX: usize = 3 * LIMIT + 12 * MIB + 4 * MIB;

/// A figure of this process' memory: `VmRSS`, what it uses now, or `VmHWM`, the most it has used.
fn memory_bytes(figure: &str) -> usize {
    let status = std::fs::read_to_string("/proc/self/status").expect("a Linux system");
    let line = status.lines().find(|line| line.starts_with(figure)).expect("a Linux system");
    let kib = line.split_whitespace().nth(1).expect("a number");
    kib.parse::<usize>().expect("a number") * 1024
}

/// What the memory will have grown from: what is used now, if the peak can be set back to that.
fn start_measuring() -> usize {
    match std::fs::write("/proc/self/clear_refs", "5") {
        Ok(()) => memory_bytes("VmRSS"),
        Err(_) => memory_bytes("VmHWM"),
    }
}

/// A gigabyte of zeros, made without ever holding more than a few megabytes of them: each format
/// allows to repeat a part of itself.
fn bomb(codec: Codec) -> Vec<u8> {
    let zeros = vec![0; MIB];
    match codec {
        Codec::None => unreachable!("nothing is hidden in what is not compressed"),
        Codec::Gzip | Codec::Zstd => compress(codec, &zeros).repeat(BOMB_MIB),
        Codec::Snappy => {
            let framed = compress(codec, &zeros);
            let (framing, blocks) = framed.split_at(16);
            [framing, &blocks.repeat(BOMB_MIB)].concat()
        }
        Codec::Lz4 => {
            let info = FrameInfo::new().block_size(BlockSize::Max4MB);
            let info = info.block_mode(BlockMode::Linked);
            let mut encoder = FrameEncoder::with_frame_info(info, BytesMut::new().writer());
            for _ in 0..BOMB_MIB {
                encoder.write_all(&zeros).expect("memory");
            }
            encoder.finish().expect("memory").into_inner().to_vec()
        }
    }
}

/// Bombs of a gigabyte in four codecs are refused at the limit, and their memory stays bounded.
#[test]
fn a_bomb_of_a_gigabyte_takes_no_more_memory_than_the_limit_allows() {
    for codec in [Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd] {
        let bomb = bomb(codec);
        let before = start_measuring();
        let refused = decompress(codec, &bomb, LIMIT);
        let growth = memory_bytes("VmHWM").saturating_sub(before);
        assert_eq!(refused, Err(DecompressError::TooLarge { limit_bytes: LIMIT }), "{codec:?}");
        assert!(growth <= GROWTH_MAX, "{codec:?} took {growth} bytes");
        println!("{codec:?}: {growth} bytes");
    }
}
