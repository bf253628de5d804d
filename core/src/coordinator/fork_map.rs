//! A map whose copy costs nothing, and afterwards only what is changed in it.
//!
//! A decision works on a copy of a group, and may come to nothing. What group and copy have in common
//! is one map behind a pointer; who changes something while it is shared keeps the change beside it:
//!
//! ```text
//! group ──────┬──> { a: 1, b: 2, c: 3 }
//! copy ───────┘
//!  └── changes     { b: gone, d: 4 }
//! ```
//!
//! Whoever is the only one left to point at the map can take its changes in ([`ForkMap::settle`]).
//! Looking things up and going through them is as with any map, at any time.

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::ops::{Bound, Index};
use std::sync::Arc;

/// A map in the order of its keys.
#[derive(Clone, Debug)]
pub(super) struct ForkMap<K, V> {
    /// What copies have in common; none as long as nothing ever was in it.
    base: Option<Arc<BTreeMap<K, V>>>,
    /// What is other than in the base; none for what is gone.
    changes: BTreeMap<K, Option<V>>,
    len: usize,
}

impl<K, V> Default for ForkMap<K, V> {
    fn default() -> Self {
        Self { base: None, changes: BTreeMap::new(), len: 0 }
    }
}

impl<K: Ord + Clone, V: Clone> ForkMap<K, V> {
    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub(super) fn get<Q: Ord + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        match self.changes.get(key) {
            Some(change) => change.as_ref(),
            None => self.base.as_ref()?.get(key),
        }
    }

    pub(super) fn contains_key<Q: Ord + ?Sized>(&self, key: &Q) -> bool
    where
        K: Borrow<Q>,
    {
        self.get(key).is_some()
    }

    pub(super) fn get_mut(&mut self, key: &K) -> Option<&mut V> {
        if self.settle() {
            return alone(self.base.as_mut()?).get_mut(key);
        }
        if !self.changes.contains_key(key) {
            let value = self.base.as_ref()?.get(key)?.clone();
            self.changes.insert(key.clone(), Some(value));
        }
        self.changes.get_mut(key)?.as_mut()
    }

    pub(super) fn insert(&mut self, key: K, value: V) {
        let is_new = !self.contains_key(&key);
        if self.settle() {
            alone(self.base.get_or_insert_default()).insert(key, value);
        } else {
            self.changes.insert(key, Some(value));
        }
        self.len += usize::from(is_new);
    }

    pub(super) fn remove(&mut self, key: &K) {
        if !self.contains_key(key) {
            return;
        }
        if self.settle() {
            alone(self.base.get_or_insert_default()).remove(key);
        } else if self.base.as_ref().is_some_and(|base| base.contains_key(key)) {
            self.changes.insert(key.clone(), None);
        } else {
            self.changes.remove(key);
        }
        self.len -= 1;
    }

    /// Takes the changes in if no copy has the same base. Whether that is so.
    pub(super) fn settle(&mut self) -> bool {
        let Some(base) = &mut self.base else { return true };
        let Some(base) = Arc::get_mut(base) else { return false };
        while let Some((key, change)) = self.changes.pop_first() {
            match change {
                Some(value) => base.insert(key, value),
                None => base.remove(&key),
            };
        }
        debug_assert_eq!(base.len(), self.len);
        true
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.range_from(Bound::Unbounded)
    }

    pub(super) fn keys(&self) -> impl Iterator<Item = &K> {
        self.iter().map(|(key, _)| key)
    }

    pub(super) fn values(&self) -> impl Iterator<Item = &V> {
        self.iter().map(|(_, value)| value)
    }

    /// What comes from a key on, or after it.
    pub(super) fn range_from(&self, from: Bound<&K>) -> impl Iterator<Item = (&K, &V)> {
        let range = (from, Bound::Unbounded);
        let base = self.base.as_ref().map(|base| base.range::<K, _>(range));
        let mut base = base.into_iter().flatten().peekable();
        let mut changes = self.changes.range::<K, _>(range).peekable();
        std::iter::from_fn(move || {
            while let Some((changed, _)) = changes.peek() {
                match base.peek().map(|(key, _)| key.cmp(changed)) {
                    Some(Ordering::Less) => break,
                    Some(Ordering::Equal) => base.next(),
                    Some(Ordering::Greater) | None => None,
                };
                if let Some((key, Some(value))) = changes.next() {
                    return Some((key, value));
                }
            }
            base.next()
        })
    }
}

fn alone<K, V>(base: &mut Arc<BTreeMap<K, V>>) -> &mut BTreeMap<K, V> {
    Arc::get_mut(base).expect("it was just seen to be the only one that points at it")
}

impl<K: Ord + Clone> ForkMap<K, usize> {
    /// One more of this.
    pub(super) fn count_up(&mut self, key: &K) {
        match self.get_mut(key) {
            Some(count) => *count += 1,
            None => self.insert(key.clone(), 1),
        }
    }

    /// One less of this, which was counted.
    pub(super) fn count_down(&mut self, key: &K) {
        let count = self.get_mut(key).expect("it was counted when it came");
        *count -= 1;
        if *count == 0 {
            self.remove(key);
        }
    }

    /// How many there are of this.
    pub(super) fn count<Q: Ord + ?Sized>(&self, key: &Q) -> usize
    where
        K: Borrow<Q>,
    {
        self.get(key).copied().unwrap_or(0)
    }
}

impl<K: Ord + Clone, V: Clone + PartialEq> PartialEq for ForkMap<K, V> {
    fn eq(&self, other: &Self) -> bool {
        self.len == other.len && self.iter().eq(other.iter())
    }
}

impl<K: Ord + Clone + Borrow<Q>, Q: Ord + ?Sized, V: Clone> Index<&Q> for ForkMap<K, V> {
    type Output = V;

    fn index(&self, key: &Q) -> &V {
        self.get(key).expect("the caller knows that it is there")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;

    fn assert_same(map: &ForkMap<u64, u64>, model: &BTreeMap<u64, u64>) {
        assert!(map.iter().eq(model.iter()), "{map:?} is not {model:?}");
        assert_eq!((map.len(), map.is_empty()), (model.len(), model.is_empty()));
        for from in 0..12 {
            assert_eq!(map.get(&from), model.get(&from));
            let (from, to) = (Bound::Excluded(&from), Bound::<&u64>::Unbounded);
            assert!(map.range_from(from).eq(model.range((from, to))));
        }
    }

    fn change(map: &mut ForkMap<u64, u64>, model: &mut BTreeMap<u64, u64>, random: &mut Random) {
        let (key, value) = (random.next_u64() % 12, random.next_u64());
        match random.next_u64() % 3 {
            0 => {
                map.insert(key, value);
                model.insert(key, value);
            }
            1 => {
                map.remove(&key);
                model.remove(&key);
            }
            _ => {
                let (one, other) = (map.get_mut(&key), model.get_mut(&key));
                assert_eq!(one, other);
                if let Some((one, other)) = one.zip(other) {
                    (*one, *other) = (value, value);
                }
            }
        }
        assert_same(map, model);
    }

    /// A copy is a map of its own: what is changed in one is not seen in the other, whichever of the
    /// two is kept.
    #[test]
    fn a_copy_is_a_map_of_its_own() {
        let mut random = Random::new(7);
        let (mut map, mut model) = (ForkMap::default(), BTreeMap::new());
        for _ in 0..500 {
            let (mut copy, mut of_copy) = (map.clone(), model.clone());
            for _ in 0..random.next_u64() % 6 {
                change(&mut copy, &mut of_copy, &mut random);
                assert_same(&map, &model);
            }
            if random.next_u64().is_multiple_of(4) {
                change(&mut map, &mut model, &mut random);
                assert_same(&copy, &of_copy);
            }
            if random.next_u64().is_multiple_of(2) {
                (map, model) = (copy, of_copy);
                assert!(map.settle(), "the other one is gone");
                assert_same(&map, &model);
            }
        }
    }

    /// What is counted down to nothing is gone.
    #[test]
    fn what_is_counted_is_there_as_often_as_it_came() {
        let mut counts: ForkMap<u64, usize> = ForkMap::default();
        counts.count_up(&1);
        let mut copy = counts.clone();
        copy.count_up(&1);
        copy.count_up(&2);
        counts.count_down(&1);
        assert_eq!((counts.count(&1), counts.len()), (0, 0));
        assert_eq!((copy.count(&1), copy.count(&2)), (2, 1));
    }
}
