//! The primitives of Kafka's wire: a bounded [`Reader`] and a [`Writer`].
//!
//! Kafka has two forms of each message. The older one puts fixed-width lengths before strings,
//! bytes and arrays; the *flexible* one puts *compact* lengths (an unsigned varint of length plus
//! one, zero for null) and ends each structure with *tagged fields*. Methods that differ take
//! `flexible`.
//!
//! Single fields are in `cursor/reader.rs` and `cursor/writer.rs`; values that know their own form,
//! lists and nulls included, in `cursor/wire.rs`.
//!
//! What the reader promises:
//! - it never reads past its bytes and never panics;
//! - an array's count is at most what the remaining bytes could hold;
//! - what is read from one message allocates at most [`ALLOWANCE_BASE_BYTES`] plus
//!   [`ALLOWANCE_FACTOR`] times its size, whatever the bytes claim: see [`Reader::allow`].

mod reader;
mod wire;
mod writer;

pub use reader::Reader;
pub use wire::{NullableWire, Wire};
pub use writer::Writer;

use std::fmt;

/// How many tagged fields one structure may carry. Kafka defines four at most.
pub const TAGS_MAX: u32 = 64;

/// How long a string may be, in either form: Kafka refuses longer ones too.
pub const STRING_BYTES_MAX: usize = i16::MAX as usize;

/// What decoding any message may allocate, however small it is.
pub const ALLOWANCE_BASE_BYTES: usize = 64 * 1024;

/// What decoding a message may allocate for each of its bytes, beyond the base.
///
/// The smallest elements (an empty name) would take some twenty times their wire size, but real
/// ones are longer: no list of topics that exists needs more than five times.
pub const ALLOWANCE_FACTOR: usize = 7;

/// Which form of a message is meant.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Form {
    /// The version of the API.
    pub version: i16,
    /// Whether lengths are compact and structures end with tagged fields.
    pub flexible: bool,
}

/// Why bytes are not the message they should be. Whoever sent them is at fault.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum WireError {
    /// The message ends inside a field.
    Truncated {
        /// What the field needs.
        needed_bytes: usize,
        /// What is left.
        remaining_bytes: usize,
    },
    /// A length below -1, or -1 where null is not allowed.
    NegativeLength {
        /// The length that was sent.
        found: i32,
    },
    /// Null where the field must be present.
    UnexpectedNull,
    /// A varint longer than its value needs, or too large for its field.
    BadVarint,
    /// A string longer than [`STRING_BYTES_MAX`].
    StringTooLong {
        /// The length that was sent.
        size_bytes: usize,
    },
    /// A string that is not UTF-8.
    NotUtf8,
    /// A count of elements that the remaining bytes cannot hold.
    CountTooLarge {
        /// The count that was sent.
        count: usize,
        /// What is left of the message.
        remaining_bytes: usize,
    },
    /// So many tiny elements that decoding them would take far more memory than they did.
    AllowanceExceeded {
        /// What the elements would have taken.
        needed_bytes: usize,
        /// What is left of the allowance.
        remaining_bytes: usize,
    },
    /// More than [`TAGS_MAX`] tagged fields in one structure.
    TooManyTags {
        /// The count that was sent.
        count: u32,
    },
    /// Tagged fields must come in ascending order, each once.
    TagOutOfOrder {
        /// The tag that came too late.
        tag: u32,
    },
    /// A tagged field is longer than what it holds.
    TagTooLong {
        /// The bytes left over.
        remaining_bytes: usize,
    },
    /// The version is none that this message has.
    UnsupportedVersion {
        /// The version asked for.
        version: i16,
    },
}

impl fmt::Display for WireError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            WireError::Truncated { needed_bytes, remaining_bytes } => {
                write!(f, "a field of {needed_bytes} bytes where {remaining_bytes} are left")
            }
            WireError::NegativeLength { found } => write!(f, "a length of {found}"),
            WireError::UnexpectedNull => write!(f, "null where a value must be"),
            WireError::BadVarint => write!(f, "a varint too long or too large"),
            WireError::StringTooLong { size_bytes } => write!(f, "a string of {size_bytes} bytes"),
            WireError::NotUtf8 => write!(f, "a string that is not UTF-8"),
            WireError::CountTooLarge { count, remaining_bytes } => {
                write!(f, "{count} elements in {remaining_bytes} bytes")
            }
            WireError::AllowanceExceeded { needed_bytes, remaining_bytes } => {
                write!(
                    f,
                    "elements taking {needed_bytes} bytes where {remaining_bytes} are allowed"
                )
            }
            WireError::TooManyTags { count } => write!(f, "{count} tagged fields"),
            WireError::TagOutOfOrder { tag } => write!(f, "tagged field {tag} out of order"),
            WireError::TagTooLong { remaining_bytes } => {
                write!(f, "a tagged field with {remaining_bytes} bytes too many")
            }
            WireError::UnsupportedVersion { version } => write!(f, "version {version}"),
        }
    }
}

impl std::error::Error for WireError {}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::BytesMut;

    fn written(write: impl FnOnce(&mut Writer<'_>)) -> BytesMut {
        let mut out = BytesMut::new();
        write(&mut Writer::new(&mut out));
        out
    }

    /// Each value has exactly one form, the shortest: the sizes at which it grows are well known.
    #[test]
    fn varints_are_read_as_written_and_only_in_their_shortest_form() {
        for (value, size_bytes) in
            [(0, 1), (127, 1), (128, 2), (16_383, 2), (16_384, 3), (1 << 28, 5), (u32::MAX, 5)]
        {
            let bytes = written(|writer| writer.unsigned_varint(value));
            assert_eq!(bytes.len(), size_bytes);
            assert_eq!(Reader::new(&bytes).unsigned_varint(), Ok(value));
        }
        for bad in [
            &[0x80, 0x00][..],                         // zero in two bytes
            &[0xff, 0x80, 0x00][..],                   // 127 in three
            &[0xff, 0xff, 0xff, 0xff, 0x1f][..],       // 33 bits
            &[0x80, 0x80, 0x80, 0x80, 0x80, 0x01][..], // six bytes
        ] {
            assert_eq!(Reader::new(bad).unsigned_varint(), Err(WireError::BadVarint), "{bad:?}");
        }
        assert!(matches!(
            Reader::new(&[0x80, 0x80]).unsigned_varint(),
            Err(WireError::Truncated { .. })
        ));
    }

    /// Null and empty are two things, in both forms.
    #[test]
    fn null_and_empty_are_told_apart() {
        for flexible in [false, true] {
            let bytes = written(|writer| {
                writer.nullable_string(None, flexible);
                writer.string("", flexible);
                writer.nullable_bytes(None, flexible);
                writer.nullable_bytes(Some(&[]), flexible);
                writer.nullable_count(None, flexible);
                writer.count(0, flexible);
            });
            let mut reader = Reader::new(&bytes);
            assert_eq!(reader.nullable_string(flexible), Ok(None));
            assert_eq!(reader.nullable_string(flexible), Ok(Some("")));
            assert_eq!(reader.nullable_bytes(flexible), Ok(None));
            assert_eq!(reader.nullable_bytes(flexible), Ok(Some(&[][..])));
            assert_eq!(reader.nullable_count(flexible, 1), Ok(None));
            assert_eq!(reader.count(flexible, 1), Ok(0));
            assert!(reader.is_empty());
            assert_eq!(Reader::new(&bytes).string(flexible), Err(WireError::UnexpectedNull));
        }
    }

    /// A count is refused when the bytes behind it could not hold as many elements.
    #[test]
    fn counts_are_bounded_by_what_is_left() {
        let mut bytes = 3_i32.to_be_bytes().to_vec();
        bytes.resize(4 + 12, 0);
        assert_eq!(Reader::new(&bytes).count(false, 4), Ok(3));
        assert_eq!(
            Reader::new(&bytes).count(false, 5),
            Err(WireError::CountTooLarge { count: 3, remaining_bytes: 12 })
        );
        assert_eq!(
            Reader::new(&(-2_i32).to_be_bytes()).count(false, 1),
            Err(WireError::NegativeLength { found: -2 })
        );
    }

    /// A list of empty names is true to its count and still must not take the memory it would.
    #[test]
    fn tiny_elements_exhaust_the_allowance() {
        let mut bytes = 200_000_i32.to_be_bytes().to_vec();
        bytes.resize(4 + 400_000, 0);
        let form = Form { version: 0, flexible: false };
        assert!(matches!(
            Vec::<String>::read(&mut Reader::new(&bytes), form),
            Err(WireError::AllowanceExceeded { .. })
        ));
        bytes.truncate(4 + 2_000);
        bytes[..4].copy_from_slice(&1_000_i32.to_be_bytes());
        assert_eq!(Vec::<String>::read(&mut Reader::new(&bytes), form).unwrap().len(), 1_000);
    }

    /// Kafka refuses strings above 32,767 bytes in either form; we never write one.
    #[test]
    fn strings_end_at_their_limit_and_at_a_character() {
        let long = "é".repeat(20_000);
        for flexible in [false, true] {
            let bytes = written(|writer| writer.string(&long, flexible));
            let read = Reader::new(&bytes).string(flexible).unwrap();
            assert_eq!(read.len(), STRING_BYTES_MAX - 1, "an é takes two bytes");
        }
        let mut bytes = written(|writer| writer.unsigned_varint(40_001));
        bytes.resize(3 + 40_000, b'x');
        assert_eq!(
            Reader::new(&bytes).string(true),
            Err(WireError::StringTooLong { size_bytes: 40_000 })
        );
        assert_eq!(Reader::new(&[0, 1, 0xff]).string(false), Err(WireError::NotUtf8));
    }

    /// Unknown tagged fields are passed over; what breaks their rules is refused.
    #[test]
    fn tagged_fields_are_passed_over_in_order_and_in_bounds() {
        let read = |bytes: &[u8]| {
            let mut seen = Vec::new();
            let mut reader = Reader::new(bytes);
            reader
                .tagged_fields(true, |tag, field| {
                    seen.push(tag);
                    Ok(tag == 1 && field.i8().is_ok())
                })
                .map(|()| (seen, reader.remaining()))
        };
        assert_eq!(read(&[2, 1, 1, 0, 9, 2, 7, 7, 42]), Ok((vec![1, 9], 1)));
        assert_eq!(read(&[2, 9, 0, 9, 0]), Err(WireError::TagOutOfOrder { tag: 9 }));
        assert_eq!(read(&[1, 1, 2, 0, 0]), Err(WireError::TagTooLong { remaining_bytes: 1 }));
        assert_eq!(read(&[65]), Err(WireError::TooManyTags { count: 65 }));
        assert!(matches!(read(&[1, 0, 5, 0]), Err(WireError::Truncated { .. })));
    }
}
