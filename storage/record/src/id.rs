//! Names of the things a record belongs to: topics, partitions, nodes, producers.
//!
//! Each is a type of its own, so that one can never be passed for another. None of them carries
//! behaviour; what is written here is how they look as text.

use std::fmt;

/// The name of a topic for life: a UUID. A topic deleted and made again has another one.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct TopicId(pub [u8; 16]);

/// The alphabet of Kafka's text form: base64 for URLs, without padding.
const BASE64_URL: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/// How many characters Kafka's text form has: 128 bits at 6 bits each, rounded up.
const BASE64_CHARS: usize = 22;

impl TopicId {
    /// No topic: what requests carry that name their topics by text.
    pub const ZERO: TopicId = TopicId([0; 16]);

    /// Whether this is [`TopicId::ZERO`].
    pub fn is_zero(self) -> bool {
        self == TopicId::ZERO
    }

    /// Reads the form `Display` writes: 32 lower-case hexadecimal digits.
    ///
    /// Upper case is refused: the text is a directory name, and each topic has exactly one.
    pub fn from_hex(text: &str) -> Option<TopicId> {
        let digits = text.as_bytes();
        if digits.len() != 32 {
            return None;
        }
        let mut id = [0; 16];
        for (byte, pair) in id.iter_mut().zip(digits.chunks_exact(2)) {
            *byte = hex_digit(pair[0])? << 4 | hex_digit(pair[1])?;
        }
        Some(TopicId(id))
    }

    /// The form Kafka's tools print: 22 characters of base64 for URLs, without padding.
    pub fn to_base64(self) -> String {
        let bits = u128::from_be_bytes(self.0);
        let sextet = |i: usize| match 122usize.checked_sub(6 * i) {
            Some(shift) => bits >> shift,
            // The last character holds two bits, then four zeros.
            None => bits << 4,
        };
        (0..BASE64_CHARS).map(|i| BASE64_URL[(sextet(i) & 63) as usize] as char).collect()
    }

    /// Reads the form Kafka's tools print. The four bits left over must be zero.
    pub fn from_base64(text: &str) -> Option<TopicId> {
        if text.len() != BASE64_CHARS {
            return None;
        }
        let mut bits = 0u128;
        for (i, digit) in text.bytes().enumerate() {
            let sextet = BASE64_URL.iter().position(|&known| known == digit)? as u128;
            match 122usize.checked_sub(6 * i) {
                Some(shift) => bits |= sextet << shift,
                None if sextet & 0b1111 == 0 => bits |= sextet >> 4,
                None => return None,
            }
        }
        Some(TopicId(bits.to_be_bytes()))
    }
}

fn hex_digit(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    }
}

impl fmt::Display for TopicId {
    /// 32 lower-case hexadecimal digits.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", u128::from_be_bytes(self.0))
    }
}

/// The number of a partition within its topic, from 0.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct PartitionId(pub i32);

/// A machine-process in the cluster. Kafka's wire says broker id.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct NodeId(pub i32);

/// A producer that numbers its batches, so that none is stored twice.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct ProducerId(pub i64);

/// The era of a producer id: who comes with a lower one has been replaced.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct ProducerEpoch(pub i16);

/// One partition of one topic.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct TopicPartition {
    /// The topic.
    pub topic: TopicId,
    /// The partition within it.
    pub partition: PartitionId,
}

impl fmt::Display for PartitionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for ProducerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for ProducerEpoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for TopicPartition {
    /// `<topic>/<partition>`, as in the data directory.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.topic, self.partition)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: TopicId = TopicId([
        0x01, 0x23, 0x45, 0x67, 0x89, 0xab, 0xcd, 0xef, 0xfe, 0xdc, 0xba, 0x98, 0x76, 0x54, 0x32,
        0x10,
    ]);

    /// The text form names a directory, so it must lead back to the same topic, and no second
    /// text may name it too.
    #[test]
    fn a_topic_id_as_text_is_read_back_and_has_no_second_spelling() {
        assert_eq!(ID.to_string(), "0123456789abcdeffedcba9876543210");
        assert_eq!(TopicId::from_hex(&ID.to_string()), Some(ID));

        assert_eq!(TopicId::from_hex("0123456789ABCDEFfedcba9876543210"), None);
        assert_eq!(TopicId::from_hex("0123456789abcdeffedcba987654321"), None);
        assert_eq!(TopicId::from_hex("+123456789abcdeffedcba9876543210"), None);
    }

    /// Kafka's tools print and take topic ids as base64 for URLs without padding.
    #[test]
    fn kafkas_text_form_is_base64_for_urls_without_padding() {
        // RFC 4648 §5, `base64` of the same bytes with `+/` replaced by `-_`.
        assert_eq!(ID.to_base64(), "ASNFZ4mrze_-3LqYdlQyEA");
        assert_eq!(TopicId::ZERO.to_base64(), "AAAAAAAAAAAAAAAAAAAAAA");
        assert_eq!(TopicId([0xff; 16]).to_base64(), "_____________________w");

        for id in [ID, TopicId::ZERO, TopicId([0xff; 16])] {
            assert_eq!(TopicId::from_base64(&id.to_base64()), Some(id));
        }
        assert_eq!(TopicId::from_base64("_____________________x"), None, "bits left over");
        assert_eq!(TopicId::from_base64("ASNFZ4mrze_-3LqYdlQyE"), None);
        assert_eq!(TopicId::from_base64("ASNFZ4mrze/-3LqYdlQyEA"), None);
    }
}
