//! Deadlines of one shard, earliest first.
//!
//! Setting and cancelling cost O(log n) and O(1); asking for what is due allocates nothing. A
//! cancelled timer leaves its place in the heap until it would have been due or until half of the
//! heap is such places: then they are swept out together. Memory follows the number of timers set,
//! never the number cancelled; that number is bounded by [`Timers::new`].
//!
//! Start reading at [`Timers::insert`].

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use slab::Slab;

use crate::edge::Instant;

/// Below this many places nothing is swept.
const SWEEP_PLACES_MIN: usize = 64;

/// Timers that carry a `T` each.
#[derive(Debug)]
pub struct Timers<T> {
    limit: usize,
    /// Earliest first; of equal deadlines, first set first.
    places: BinaryHeap<Reverse<Place>>,
    pending: Slab<(u64, T)>,
    next_serial: u64,
}

/// A timer that was set. Once it has expired or was cancelled, its id means nothing any more.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct TimerId {
    key: usize,
    serial: u64,
}

#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
struct Place {
    deadline: Instant,
    serial: u64,
    key: usize,
}

impl<T> Timers<T> {
    /// No timers; at most `limit` may be pending at a time.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self { limit, places: BinaryHeap::new(), pending: Slab::new(), next_serial: 0 }
    }

    /// Sets a timer; hands `value` back if the limit is reached.
    ///
    /// # Errors
    /// With `value`, if as many timers as allowed are pending.
    pub fn insert(&mut self, deadline: Instant, value: T) -> Result<TimerId, T> {
        if self.limit <= self.pending.len() {
            return Err(value);
        }
        let serial = self.next_serial;
        self.next_serial += 1;
        let key = self.pending.insert((serial, value));
        self.places.push(Reverse(Place { deadline, serial, key }));
        Ok(TimerId { key, serial })
    }

    /// Takes a timer back, unless it has expired already.
    pub fn cancel(&mut self, id: TimerId) -> Option<T> {
        if self.pending.get(id.key)?.0 != id.serial {
            return None;
        }
        let (_, value) = self.pending.remove(id.key);
        if SWEEP_PLACES_MIN <= self.places.len() && self.pending.len() <= self.places.len() / 2 {
            let pending = &self.pending;
            self.places.retain(|Reverse(place)| is_pending(pending, place));
        }
        Some(value)
    }

    /// The earliest timer whose deadline is not after `now`. To be asked until it says `None`.
    pub fn pop_expired(&mut self, now: Instant) -> Option<T> {
        let deadline = self.next_deadline()?;
        if now < deadline {
            return None;
        }
        let Reverse(place) = self.places.pop()?;
        Some(self.pending.remove(place.key).1)
    }

    /// When the next timer is due.
    pub fn next_deadline(&mut self) -> Option<Instant> {
        while let Some(Reverse(place)) = self.places.peek() {
            if is_pending(&self.pending, place) {
                return Some(place.deadline);
            }
            self.places.pop();
        }
        None
    }

    /// How many timers are pending.
    #[must_use]
    pub fn len(&self) -> usize {
        self.pending.len()
    }

    /// Whether no timer is pending.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.pending.is_empty()
    }
}

fn is_pending<T>(pending: &Slab<(u64, T)>, place: &Place) -> bool {
    pending.get(place.key).is_some_and(|(serial, _)| *serial == place.serial)
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use super::*;

    fn at(nanos: u64) -> Instant {
        Instant { nanos }
    }

    #[test]
    fn timers_expire_in_the_order_of_their_deadlines_then_of_their_setting() {
        let mut timers = Timers::new(10);
        for (deadline, name) in [(30, 'c'), (10, 'a'), (20, 'b'), (30, 'd')] {
            timers.insert(at(deadline), name).expect("below the limit");
        }
        assert_eq!(timers.next_deadline(), Some(at(10)));
        assert_eq!(timers.pop_expired(at(9)), None);
        let expired: String = std::iter::from_fn(|| timers.pop_expired(at(30))).collect();
        assert_eq!(expired, "abcd");
        assert!(timers.is_empty());
    }

    #[test]
    fn a_cancelled_timer_never_expires_and_its_id_cancels_no_other() {
        let mut timers = Timers::new(10);
        let first = timers.insert(at(1), 1).expect("below the limit");
        assert_eq!(timers.cancel(first), Some(1));
        let second = timers.insert(at(2), 2).expect("below the limit");
        assert_eq!(timers.cancel(first), None, "though the place is used again");
        assert_eq!(timers.pop_expired(at(5)), Some(2));
        assert_eq!(timers.cancel(second), None);
        assert_eq!(timers.next_deadline(), None);
    }

    #[test]
    fn the_limit_is_kept() {
        let mut timers = Timers::new(1);
        timers.insert(at(1), 'a').expect("below the limit");
        assert_eq!(timers.insert(at(1), 'b'), Err('b'));
    }

    #[test]
    fn setting_and_cancelling_for_ever_does_not_grow_memory() {
        let mut timers = Timers::new(1000);
        timers.insert(at(u64::MAX), 0).expect("below the limit");
        for round in 0..100_000 {
            let id = timers.insert(at(1_000_000 + round), 1).expect("below the limit");
            timers.cancel(id);
        }
        assert!(timers.places.len() <= SWEEP_PLACES_MIN);
        assert_eq!(timers.len(), 1);
    }
}
