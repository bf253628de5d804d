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
/// Behind the second run, the first one's checksum is multiplied by x to the power of the second's
/// length in bits: one multiplication for each byte of the length that is not 0, about as dear as
/// the checksum of 200 bytes each. (The crate's own function squares matrices for that, and takes
/// longer than the checksum of 200 KiB.)
pub fn combine(first: u32, second: u32, second_bytes: usize) -> u32 {
    let mut shifted = first;
    let mut rest = second_bytes as u64;
    let mut place = 0;
    while rest != 0 {
        let value = (rest % 256) as usize;
        if value != 0 {
            shifted = multiply(POWERS[place][value], shifted);
        }
        rest /= 256;
        place += 1;
    }
    shifted ^ second
}

/// Castagnoli's polynomial without its highest power; as everywhere here, the lowest bit is the
/// highest power.
const POLYNOMIAL: u32 = 0x82f6_3b78;

/// The polynomial 1.
const ONE: u32 = 1 << 31;

/// `POWERS[place][value]` is x^(8 · value · 256^place): what the byte `value` there, in a length
/// in bytes, multiplies a checksum by.
static POWERS: [[u32; 256]; 8] = powers();

const fn powers() -> [[u32; 256]; 8] {
    let mut powers = [[ONE; 256]; 8];
    // x^8: one byte.
    let mut unit = ONE >> 8;
    let mut place = 0;
    while place < 8 {
        let mut value = 1;
        while value < 256 {
            powers[place][value] = multiply(unit, powers[place][value - 1]);
            value += 1;
        }
        unit = multiply(unit, powers[place][255]);
        place += 1;
    }
    powers
}

/// The product of two polynomials, modulo Castagnoli's.
const fn multiply(a: u32, b: u32) -> u32 {
    // The lowest bit of each is x^31, so that of the product is x^62. One further up, the upper
    // half of it has the powers below 32, and the lower half those that are to be reduced.
    let product = multiply_unreduced(a, b) << 1;
    let high = (product as u32).to_le_bytes();
    (product >> 32) as u32
        ^ REDUCED[0][high[0] as usize]
        ^ REDUCED[1][high[1] as usize]
        ^ REDUCED[2][high[2] as usize]
        ^ REDUCED[3][high[3] as usize]
}

/// The product of two polynomials: that of two numbers, but without carrying.
///
/// Each is taken apart into four, of every fourth bit. In the product of two such parts there are
/// three bits between any two, and at most 8 ones meet in one place: what they carry stays in the
/// gap behind it.
const fn multiply_unreduced(a: u32, b: u32) -> u64 {
    const EVERY_FOURTH: u64 = 0x1111_1111_1111_1111;
    let (a, b) = (a as u64, b as u64);
    let a = [a & EVERY_FOURTH, a & EVERY_FOURTH << 1, a & EVERY_FOURTH << 2, a & EVERY_FOURTH << 3];
    let b = [b & EVERY_FOURTH, b & EVERY_FOURTH << 1, b & EVERY_FOURTH << 2, b & EVERY_FOURTH << 3];
    // Parts whose numbers add up to the same, modulo 4, meet in the same places.
    let sums = [
        (a[0] * b[0]) ^ (a[1] * b[3]) ^ (a[2] * b[2]) ^ (a[3] * b[1]),
        (a[0] * b[1]) ^ (a[1] * b[0]) ^ (a[2] * b[3]) ^ (a[3] * b[2]),
        (a[0] * b[2]) ^ (a[1] * b[1]) ^ (a[2] * b[0]) ^ (a[3] * b[3]),
        (a[0] * b[3]) ^ (a[1] * b[2]) ^ (a[2] * b[1]) ^ (a[3] * b[0]),
    ];
    (sums[0] & EVERY_FOURTH)
        | (sums[1] & EVERY_FOURTH << 1)
        | (sums[2] & EVERY_FOURTH << 2)
        | (sums[3] & EVERY_FOURTH << 3)
}

/// `REDUCED[place][value]`: the powers from 32 up that the byte `value` at that place (the lowest
/// has the highest powers) stands for, modulo Castagnoli's polynomial.
static REDUCED: [[u32; 256]; 4] = reduced();

const fn reduced() -> [[u32; 256]; 4] {
    let mut reduced = [[0; 256]; 4];
    let mut place = 0;
    while place < 4 {
        let mut value = 0;
        while value < 256 {
            let mut bits = (value as u32) << (8 * place);
            let mut power = 0;
            while power < 32 {
                bits = (bits >> 1) ^ (POLYNOMIAL & (bits & 1).wrapping_neg());
                power += 1;
            }
            reduced[place][value] = bits;
            value += 1;
        }
        place += 1;
    }
    reduced
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

    /// What multiplication means, bit by bit. It is linear on both sides, so that all pairs of
    /// single bits would do; all bits at once show that no carry reaches its neighbour.
    #[test]
    fn multiplying_all_bits_at_once_is_multiplying_bit_by_bit() {
        let by_bits = |a: u32, b: u32| {
            let step = |(product, shifted): (u32, u32), power: u32| {
                let product = product ^ (shifted & ((a >> (31 - power)) & 1).wrapping_neg());
                (product, (shifted >> 1) ^ (POLYNOMIAL & (shifted & 1).wrapping_neg()))
            };
            (0..32).fold((0, b), step).0
        };
        let mut seen: Vec<u32> = (0..32).map(|bit| 1 << bit).collect();
        seen.extend([0, u32::MAX, 0x1111_1111, 0x8888_8888, 0x7fff_ffff, 0xdead_beef, POLYNOMIAL]);
        for &a in &seen {
            for &b in &seen {
                assert_eq!(multiply(a, b), by_bits(a, b), "{a:x} times {b:x}");
            }
        }
    }
}
