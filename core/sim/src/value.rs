//! The values of simulated records: each unique, and each able to tell that it is whole.
//!
//! ```text
//! writer: u32 | number: u64 | filling that follows from both | crc32c of all before: u32
//! ```

use crate::random::Random;

const FRAME_BYTES: usize = 4 + 8 + 4;

/// Which value it is: a writer's `number`-th one in one partition, counted from 0.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Value {
    /// Who wrote it.
    pub writer: u32,
    /// Which one of the writer's, in this partition.
    pub number: u64,
}

impl Value {
    /// The bytes, with `filling` bytes more than the least.
    #[must_use]
    pub fn encode(self, filling: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(FRAME_BYTES + filling + 8);
        bytes.extend_from_slice(&self.writer.to_be_bytes());
        bytes.extend_from_slice(&self.number.to_be_bytes());
        let mut random = Random::new((u64::from(self.writer) << 40) ^ self.number);
        while bytes.len() < 12 + filling {
            bytes.extend_from_slice(&random.draw().to_be_bytes());
        }
        bytes.truncate(12 + filling);
        let sum = crc32c::crc32c(&bytes);
        bytes.extend_from_slice(&sum.to_be_bytes());
        bytes
    }

    /// The key of its record, if that has one: few values share one, of this writer alone or of all
    /// that are at about the same number. So most keys have had their last value long before a run
    /// ends.
    #[must_use]
    pub fn key(self) -> String {
        let Self { writer, number } = self;
        let (era, one) = (number / 32, Random::new(number).below(4));
        match number % 3 {
            0 => format!("of all {era} {one}"),
            _ => format!("of {writer} {era} {one}"),
        }
    }

    /// Whether its record, in a compacted topic, deletes its key: then it has no value, and says in a
    /// header which one it is.
    #[must_use]
    pub fn deletes(self) -> bool {
        (self.number + u64::from(self.writer)) % 5 == 2
    }

    /// The value whose bytes these are; nothing if they are not those of a whole value.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let (content, sum) = bytes.split_last_chunk::<4>()?;
        let (writer, rest) = content.split_first_chunk::<4>()?;
        let (number, _) = rest.split_first_chunk::<8>()?;
        let whole = crc32c::crc32c(content) == u32::from_be_bytes(*sum);
        whole.then_some(Self {
            writer: u32::from_be_bytes(*writer),
            number: u64::from_be_bytes(*number),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A value is read back as written, whatever its size, and a damaged one is not read at all.
    #[test]
    fn a_value_tells_whether_it_is_whole() {
        for filling in [0, 1, 7, 8, 1000] {
            let value = Value { writer: 7, number: 1 << 40 };
            let mut bytes = value.encode(filling);
            assert_eq!(bytes.len(), FRAME_BYTES + filling);
            assert_eq!(Value::decode(&bytes), Some(value));
            bytes[filling / 2] ^= 1;
            assert_eq!(Value::decode(&bytes), None);
        }
        assert_eq!(Value::decode(&[0; 15]), None);
    }
}
