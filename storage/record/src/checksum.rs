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
///
/// About as dear as the checksum of one KiB: behind the first run, its checksum is
/// multiplied by x to the power of the second's length in bits. (The crate's own function squares
/// matrices for that, and takes longer than the checksum of 200 KiB.)
pub fn combine(first: u32, second: u32, second_bytes: usize) -> u32 {
    let mut shifted = first;
    let mut rest = second_bytes as u64;
    let mut digit = 0;
    while rest != 0 {
        let value = (rest % 16) as usize;
        if value != 0 {
            shifted = multiply(POWERS[digit][value], shifted);
        }
        rest /= 16;
        digit += 1;
    }
    shifted ^ second
}

/// Castagnoli's polynomial without its highest power; as everywhere here, the lowest bit is the
/// highest power.
const POLYNOMIAL: u32 = 0x82f6_3b78;

/// The polynomial 1.
const ONE: u32 = 1 << 31;

/// `POWERS[digit][value]` is x^(8 · value · 16^digit): what `value` there, in the length as a
/// hexadecimal number of bytes, multiplies a checksum by.
static POWERS: [[u32; 16]; 16] = powers();

const fn powers() -> [[u32; 16]; 16] {
    let mut powers = [[ONE; 16]; 16];
    // x^8: one byte.
    let mut unit = ONE >> 8;
    let mut digit = 0;
    while digit < 16 {
        let mut value = 1;
        while value < 16 {
            powers[digit][value] = multiply(unit, powers[digit][value - 1]);
            value += 1;
        }
        unit = multiply(unit, powers[digit][15]);
        digit += 1;
    }
    powers
}

/// The product of two polynomials, modulo Castagnoli's.
const fn multiply(a: u32, b: u32) -> u32 {
    let mut product = 0;
    let mut shifted = b;
    let mut power = 0;
    while power < 32 {
        // No branches: which bits are set is as good as random.
        product ^= shifted & ((a >> (31 - power)) & 1).wrapping_neg();
        shifted = (shifted >> 1) ^ (POLYNOMIAL & (shifted & 1).wrapping_neg());
        power += 1;
    }
    product
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

    /// The crate's slow function does the same.
    #[test]
    fn combining_agrees_with_the_crate_for_all_lengths() {
        let (first, second) = (0x1234_5678, 0x9abc_def0);
        let lengths = (1..300).chain((8..40).flat_map(|bits| [(1 << bits) - 1, (1 << bits) + 7]));
        for length in lengths {
            let expected = crc32c::crc32c_combine(first, second, length);
            assert_eq!(combine(first, second, length), expected, "{length} bytes");
        }
    }
}
