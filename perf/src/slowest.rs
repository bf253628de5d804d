//! The slowest requests of an interval, with where their time went.
//!
//! A request that is not among them costs one comparison. What identifies a request (client,
//! topic) is made only for those that are kept.

use crate::stage::Stamps;

/// A bounded set of the slowest requests.
#[derive(Clone, Debug)]
pub struct Slowest<T> {
    kept: Vec<(Stamps, T)>,
    capacity: usize,
    /// A request must take longer than this to be kept.
    threshold: u64,
}

impl<T> Slowest<T> {
    /// Keeps up to `capacity` requests.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        assert!(0 < capacity, "none at all is not a set of the slowest");
        Self { kept: Vec::with_capacity(capacity), capacity, threshold: 0 }
    }

    /// A request has ended; `describe` says whose it was, if it is among the slowest.
    #[inline]
    pub fn offer(&mut self, stamps: &Stamps, describe: impl FnOnce() -> T) {
        if self.threshold < stamps.total_ticks() {
            self.keep(stamps, describe());
        }
    }

    fn keep(&mut self, stamps: &Stamps, whose: T) {
        if self.kept.len() < self.capacity {
            self.kept.push((*stamps, whose));
        } else {
            let fastest = self.kept.iter_mut().min_by_key(|(stamps, _)| stamps.total_ticks());
            *fastest.expect("the set is full") = (*stamps, whose);
        }
        if self.kept.len() == self.capacity {
            let totals = self.kept.iter().map(|(stamps, _)| stamps.total_ticks());
            self.threshold = totals.min().expect("the set is full");
        }
    }

    /// The requests kept, the slowest first; the set begins anew.
    pub fn take(&mut self) -> Vec<(Stamps, T)> {
        self.threshold = 0;
        let mut taken = std::mem::replace(&mut self.kept, Vec::with_capacity(self.capacity));
        taken.sort_by_key(|(stamps, _)| std::cmp::Reverse(stamps.total_ticks()));
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stage::Stage;

    /// Of many requests the slowest few are kept, the slowest first.
    #[test]
    fn the_slowest_are_kept() {
        let mut slowest = Slowest::new(3);
        for total in [5u64, 1, 9, 7, 2, 8, 3] {
            let mut stamps = Stamps::begin(0);
            stamps.end(Stage::Work, total * 100);
            slowest.offer(&stamps, || total);
        }
        let kept: Vec<_> = slowest.take().into_iter().map(|(_, whose)| whose).collect();
        assert_eq!(kept, [9, 8, 7]);
        assert!(slowest.take().is_empty());
    }
}
