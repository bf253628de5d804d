//! How long to wait before trying again: longer each time, and never all clients at once.

use std::time::Duration;

/// From how long to how long to wait between tries. Each wait is twice the one before it, and up
/// to a fifth shorter or longer, by chance.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Backoff {
    /// The first wait.
    pub first: Duration,
    /// The longest.
    pub longest: Duration,
}

impl Backoff {
    /// The wait after so many tries have failed, one at least.
    pub(crate) fn delay(&self, failed_tries: u32, random: &mut Random) -> Duration {
        let doublings = failed_tries.saturating_sub(1).min(20);
        let delay = self.first.saturating_mul(1 << doublings).min(self.longest);
        delay.mul_f64(0.8 + 0.4 * random.fraction())
    }
}

/// Chance from a seed: the same seed, the same choices (SplitMix64).
#[derive(Clone, Debug)]
pub(crate) struct Random {
    state: u64,
}

impl Random {
    pub(crate) fn new(seed: u64) -> Random {
        Random { state: seed }
    }

    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// From 0 up to, and without, 1.
    fn fraction(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// From 0 up to, and without, `count`, which is not 0.
    pub(crate) fn below(&mut self, count: usize) -> usize {
        (self.next() % count as u64) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Waits double up to the longest, and scatter by a fifth.
    #[test]
    fn waits_grow_to_the_longest_and_scatter() {
        let backoff =
            Backoff { first: Duration::from_millis(100), longest: Duration::from_secs(1) };
        let mut random = Random::new(1);
        for (tries, ms) in [(1, 100), (2, 200), (3, 400), (4, 800), (5, 1000), (400, 1000)] {
            let waits: Vec<_> =
                (0..100).map(|_| backoff.delay(tries, &mut random).as_millis()).collect();
            assert!(waits.iter().all(|wait| (ms * 8 / 10..=ms * 12 / 10).contains(wait)));
            assert!(waits.iter().any(|wait| *wait != waits[0]), "not all clients at once");
        }
    }
}
