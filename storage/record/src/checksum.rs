//! CRC32C, and what exactly it covers.
//!
//! A batch's checksum covers its bytes from the attributes to the end:
//!
//! ```text
//! 0           8            12           16    17  21         23                        size
//! | offset    | length     | epoch      |magic|crc|attributes| …                       |
//! |            not covered                        |              covered               |
//! ```
//!
//! What lies outside is what a leader stamps (base offset, leader epoch) and what a reader needs
//! to find the end. So offsets are assigned without touching the checksum, and a damaged base
//! offset is not noticed by it: storage keeps checksums of its own over the raw bytes.

/// Where the bytes that a batch's checksum covers begin.
pub const COVERED_FROM: usize = 21;

/// CRC32C (Castagnoli) of these bytes.
pub fn crc32c(bytes: &[u8]) -> u32 {
    crc32c::crc32c(bytes)
}

/// CRC32C of everything up to here and these bytes, given the CRC32C of everything up to here.
/// `append(0, bytes)` is `crc32c(bytes)`.
pub fn append(crc: u32, bytes: &[u8]) -> u32 {
    crc32c::crc32c_append(crc, bytes)
}

/// CRC32C of two runs of bytes put together, from the CRC32C of each and the length of the second.
pub fn combine(first: u32, second: u32, second_bytes: usize) -> u32 {
    crc32c::crc32c_combine(first, second, second_bytes)
}

/// The checksum a batch should carry. `batch` is one whole batch, header included.
pub(crate) fn of_batch(batch: &[u8]) -> u32 {
    crc32c(&batch[COVERED_FROM..])
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 3720 §B.4 gives these.
    #[test]
    fn the_polynomial_is_castagnolis() {
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
        assert_eq!(crc32c(&[0xff; 32]), 0x62a8_ab43);
    }

    /// Checksums of pieces give the checksum of the whole, whichever way they are put together.
    #[test]
    fn pieces_add_up_to_the_whole() {
        let whole: Vec<u8> = (0..10_000u32).map(|i| (i * 7 + i / 256) as u8).collect();
        for cut in [0, 1, 4095, 4096, 9_999, 10_000] {
            let (first, second) = whole.split_at(cut);
            assert_eq!(append(crc32c(first), second), crc32c(&whole));
            assert_eq!(combine(crc32c(first), crc32c(second), second.len()), crc32c(&whole));
        }
    }
}
