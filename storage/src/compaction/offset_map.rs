//! Which record of a key is its last: a table in bounded memory.
//!
//! A key is remembered by 128 bits of a keyed hash: 24 bytes for each, however long it is. Nobody
//! who does not know the seed can choose two keys that meet, and by chance none ever do: with a
//! thousand million keys the odds are below one in 10^20. (Had two keys the same hash, the earlier
//! one's last record would be lost.)
//!
//! The table is open: a key lies in its place or in the next free one behind it. Its size is
//! chosen once; when so many keys are in it that looking takes long, it takes no more.

use siphasher::sip128::{Hasher128, SipHasher13};
use std::hash::Hasher;
use tidemill_record::Offset;

/// What one key takes.
pub const ENTRY_BYTES: usize = size_of::<[u64; 2]>() + size_of::<i64>();

/// The last offset of each key.
pub struct OffsetMap {
    hasher: SipHasher13,
    keys: Vec<[u64; 2]>,
    /// One more than the offset; zero where there is no key.
    after: Vec<i64>,
    len: usize,
    len_max: usize,
}

/// There is no room for one more key.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Full;

impl OffsetMap {
    /// A map of at most `bytes_max`, and no larger than `keys_max` keys need. Of its places at most
    /// the share `load_max` is used. There is always room for one key.
    ///
    /// # Errors
    /// If there is not so much memory.
    pub fn new(
        bytes_max: usize,
        keys_max: u64,
        load_max: f64,
        seed: [u64; 2],
    ) -> Result<OffsetMap, std::collections::TryReserveError> {
        assert!(0.0 < load_max && load_max < 1.0);
        let needed = (keys_max as f64 / load_max).ceil() as usize;
        // One place is always free: there a search ends.
        let places = (bytes_max / ENTRY_BYTES).min(needed.saturating_add(1)).max(2);
        let len_max = ((places as f64 * load_max) as usize).clamp(1, places - 1);
        Ok(OffsetMap {
            hasher: SipHasher13::new_with_keys(seed[0], seed[1]),
            keys: zeroed(places)?,
            after: zeroed(places)?,
            len: 0,
            len_max,
        })
    }

    /// Notes that `key` has a record at `offset`, behind all before.
    #[inline]
    pub fn put(&mut self, key: &[u8], offset: Offset) -> Result<(), Full> {
        let hash = self.hash(key);
        let place = self.place_of(hash);
        if self.after[place] == 0 {
            if self.len == self.len_max {
                return Err(Full);
            }
            self.len += 1;
            self.keys[place] = hash;
        }
        self.after[place] = self.after[place].max(offset.plus(1).0);
        Ok(())
    }

    /// The last offset of `key`, if it was put in.
    #[inline]
    #[must_use]
    pub fn get(&self, key: &[u8]) -> Option<Offset> {
        let after = self.after[self.place_of(self.hash(key))];
        (after != 0).then(|| Offset(after - 1))
    }

    /// How many keys are in it.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether nothing is in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Memory it takes, as soon as all of it was touched.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        self.keys.len() * ENTRY_BYTES
    }

    fn hash(&self, key: &[u8]) -> [u64; 2] {
        let mut hasher = self.hasher;
        hasher.write(key);
        let hash = hasher.finish128();
        [hash.h1, hash.h2]
    }

    /// Where the key with this hash is, or would be.
    fn place_of(&self, hash: [u64; 2]) -> usize {
        let places = self.keys.len();
        let mut place = ((u128::from(hash[0]) * places as u128) >> 64) as usize;
        while self.after[place] != 0 && self.keys[place] != hash {
            place += 1;
            if place == places {
                place = 0;
            }
        }
        place
    }
}

impl std::fmt::Debug for OffsetMap {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OffsetMap").field("len", &self.len).field("len_max", &self.len_max).finish()
    }
}

/// Zeroed memory, or an error where a plain vector would end the process. The system gives it page
/// by page as it is touched.
fn zeroed<T: Clone + Default>(len: usize) -> Result<Vec<T>, std::collections::TryReserveError> {
    let mut probe: Vec<T> = Vec::new();
    probe.try_reserve_exact(len)?;
    drop(probe);
    Ok(vec![T::default(); len])
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEED: [u64; 2] = [1, 2];

    /// Of each key the last offset is kept; keys that never came are not there.
    #[test]
    fn the_last_offset_of_each_key_is_found() {
        let mut map = OffsetMap::new(1 << 20, 1000, 0.9, SEED).unwrap();
        for offset in 0..3000_i64 {
            map.put(format!("key {}", offset % 1000).as_bytes(), Offset(offset)).unwrap();
        }
        assert_eq!(map.len(), 1000);
        for key in 0..1000_i64 {
            assert_eq!(map.get(format!("key {key}").as_bytes()), Some(Offset(2000 + key)));
        }
        assert_eq!(map.get(b"key 1000"), None);
        assert_eq!(map.get(b""), None);
        map.put(b"", Offset(0)).unwrap();
        assert_eq!(map.get(b""), Some(Offset(0)), "an empty key is a key");
    }

    /// A full map takes no new key, but known ones still move on.
    #[test]
    fn a_full_map_takes_no_new_key() {
        let mut map = OffsetMap::new(100 * ENTRY_BYTES, u64::MAX, 0.5, SEED).unwrap();
        assert_eq!(map.memory_bytes(), 100 * ENTRY_BYTES);
        for key in 0..50_u8 {
            map.put(&[key], Offset(i64::from(key))).unwrap();
        }
        assert_eq!(map.put(&[50], Offset(50)), Err(Full));
        map.put(&[7], Offset(51)).unwrap();
        assert_eq!(map.get(&[7]), Some(Offset(51)));
        assert_eq!(map.get(&[50]), None);
    }

    /// However little memory there is, one key fits; and a map is no larger than its keys need.
    #[test]
    fn there_is_room_for_one_key_and_no_more_than_asked() {
        let mut map = OffsetMap::new(0, 0, 0.9, SEED).unwrap();
        map.put(b"a", Offset(0)).unwrap();
        assert_eq!(map.put(b"b", Offset(1)), Err(Full));
        let map = OffsetMap::new(1 << 30, 90, 0.9, SEED).unwrap();
        assert!(map.memory_bytes() <= 102 * ENTRY_BYTES);
    }
}
