//! Maps keyed by names that we gave out ourselves.
//!
//! The standard maps are proof against strangers who choose keys that meet in one place, and pay
//! for that at each look. Keys that no stranger chooses need no such proof: topics by id, logs,
//! requests and reads by number. Never key one of these by what a client or a file can choose.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

/// A map keyed by our own names. `IdMap::default()` makes an empty one.
pub type IdMap<K, V> = HashMap<K, V, BuildHasherDefault<IdHasher>>;

/// One multiplication for each word of a key.
#[derive(Clone, Copy, Debug, Default)]
pub struct IdHasher(u64);

/// An odd number without a pattern: the golden ratio's binary digits.
const MIXER: u64 = 0x9e37_79b9_7f4a_7c15;

impl Hasher for IdHasher {
    #[inline]
    fn write(&mut self, bytes: &[u8]) {
        let (words, rest) = bytes.as_chunks::<8>();
        for word in words {
            self.write_u64(u64::from_le_bytes(*word));
        }
        for byte in rest {
            self.write_u64(u64::from(*byte));
        }
    }

    #[inline]
    fn write_u64(&mut self, word: u64) {
        self.0 = (self.0.rotate_left(5) ^ word).wrapping_mul(MIXER);
    }

    #[inline]
    fn write_u8(&mut self, word: u8) {
        self.write_u64(u64::from(word));
    }

    #[inline]
    fn write_u16(&mut self, word: u16) {
        self.write_u64(u64::from(word));
    }

    #[inline]
    fn write_u32(&mut self, word: u32) {
        self.write_u64(u64::from(word));
    }

    #[inline]
    fn write_i32(&mut self, word: i32) {
        self.write_u64(u64::from(word as u32));
    }

    #[inline]
    fn write_i64(&mut self, word: i64) {
        self.write_u64(word as u64);
    }

    #[inline]
    fn write_usize(&mut self, word: usize) {
        self.write_u64(word as u64);
    }

    #[inline]
    fn write_isize(&mut self, word: isize) {
        self.write_u64(word as u64);
    }

    #[inline]
    fn finish(&self) -> u64 {
        // A map looks at the highest and at the lowest bits; the middle ones are mixed best.
        self.0.rotate_left(26)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::hash::BuildHasher;

    use super::*;
    use crate::{PartitionId, TopicId, TopicPartition};

    fn hash(key: impl std::hash::Hash) -> u64 {
        BuildHasherDefault::<IdHasher>::default().hash_one(key)
    }

    /// Neighbours do not meet: neither in the bits that choose a place of a small table, nor in
    /// those that tell keys in one place apart.
    #[test]
    fn names_one_after_another_are_spread_over_a_table() {
        let partition = |number| {
            let topic = TopicId([7; 16]);
            hash(TopicPartition { topic, partition: PartitionId(number) })
        };
        let hashes = [
            (0..1024).map(|number| hash(number as u64)).collect::<Vec<_>>(),
            (0..1024).map(|number| hash(number << 20)).collect(),
            (0..1024).map(partition).collect(),
        ];
        for hashes in hashes {
            let places: HashSet<u64> = hashes.iter().map(|hash| hash % 1024).collect();
            assert!(512 < places.len(), "{} places of 1024", places.len());
            let tags: HashSet<u64> = hashes.iter().map(|hash| hash >> 57).collect();
            assert!(100 < tags.len(), "{} tags of 128", tags.len());
        }
    }
}
