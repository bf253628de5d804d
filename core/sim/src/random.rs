//! Chance, from one seed.
//!
//! Every decision of a simulated run is drawn from a [`Random`], and every `Random` descends from
//! the seed of the run: the same seed makes the same decisions in the same order. Parts of the
//! world draw from streams of their own ([`Random::fork`]), so that a change in one does not
//! shuffle all the others.

use std::time::Duration;

/// A stream of pseudo-random numbers (xoshiro256**, seeded by splitmix64).
#[derive(Clone, Debug)]
pub struct Random {
    state: [u64; 4],
}

impl Random {
    /// The stream that belongs to `seed`.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        let mut mix = seed;
        let state = std::array::from_fn(|_| splitmix(&mut mix));
        Self { state }
    }

    /// A new stream for the part of the world called `name`.
    ///
    /// It depends on the seed and the name, and on nothing drawn before by other names.
    #[must_use]
    pub fn fork(&self, name: &str) -> Self {
        let mut mix = self.state[0] ^ self.state[3].rotate_left(17);
        for byte in name.bytes() {
            mix = (mix ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
        Self::new(mix)
    }

    /// Any number.
    pub fn draw(&mut self) -> u64 {
        let [a, b, c, d] = &mut self.state;
        let drawn = b.wrapping_mul(5).rotate_left(7).wrapping_mul(9);
        let shifted = *b << 17;
        *c ^= *a;
        *d ^= *b;
        *b ^= *c;
        *a ^= *d;
        *c ^= shifted;
        *d = d.rotate_left(45);
        drawn
    }

    /// A number below `end`, which is not zero.
    pub fn below(&mut self, end: u64) -> u64 {
        assert!(0 < end, "nothing lies below zero");
        // The bias is below 2^-32 for the small ranges used here.
        ((u128::from(self.draw()) * u128::from(end)) >> 64) as u64
    }

    /// A number from `low` to `high`, both included.
    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        assert!(low <= high);
        low + self.below(high - low + 1)
    }

    /// An index into a collection of `len` things, which is not empty.
    pub fn index(&mut self, len: usize) -> usize {
        self.below(len as u64) as usize
    }

    /// True `parts` times in a million.
    pub fn happens(&mut self, parts_per_million: u32) -> bool {
        self.below(1_000_000) < u64::from(parts_per_million)
    }

    /// Heads or tails.
    pub fn coin(&mut self) -> bool {
        self.draw() >> 63 == 1
    }

    /// A duration between two others; short ones are likelier, as with real machines.
    pub fn latency(&mut self, least: Duration, most: Duration) -> Duration {
        let (low, high) = (least.as_nanos() as u64, most.as_nanos() as u64);
        let first = self.between(low, high.max(low));
        let second = self.between(low, high.max(low));
        let third = self.between(low, high.max(low));
        Duration::from_nanos(first.min(second).min(third))
    }

    /// One of `choices`, which is not empty.
    pub fn pick<'a, T>(&mut self, choices: &'a [T]) -> &'a T {
        &choices[self.index(choices.len())]
    }
}

fn splitmix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut mixed = *state;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The same seed draws the same numbers; another seed draws others.
    #[test]
    fn a_seed_decides_the_whole_stream() {
        let drawn = |seed| {
            let mut random = Random::new(seed);
            (0..100).map(|_| random.draw()).collect::<Vec<_>>()
        };
        assert_eq!(drawn(7), drawn(7));
        assert_ne!(drawn(7), drawn(8));
    }

    /// A forked stream depends on its name, and not on how much its siblings drew.
    #[test]
    fn a_fork_is_independent_of_its_siblings() {
        let root = Random::new(1);
        let mut disk = root.fork("disk");
        disk.draw();
        assert_eq!(root.fork("network").draw(), root.fork("network").draw());
        assert_ne!(root.fork("network").draw(), root.fork("disk").draw());
    }

    /// Ranges keep to their ends and reach both of them.
    #[test]
    fn a_range_reaches_both_ends() {
        let mut random = Random::new(3);
        let drawn: Vec<u64> = (0..200).map(|_| random.between(2, 5)).collect();
        assert!(drawn.iter().all(|number| (2..=5).contains(number)));
        assert!(drawn.contains(&2) && drawn.contains(&5));
    }
}
