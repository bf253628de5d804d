//! What happened, in order, and one number for all of it.
//!
//! Every event of a run is noted. The hash of all notes identifies the run: two runs of the same
//! seed with different hashes mean that something decided without asking the seed. With printing
//! on, each note is one line.

use std::fmt::Debug;
use std::hash::{Hash, Hasher};

use tidemill_runtime::edge::Instant;

/// The record of a run.
#[derive(Debug, Default)]
pub struct Trace {
    hash: Fold,
    notes: u64,
    printing: bool,
}

impl Trace {
    /// An empty trace; prints each note if `printing`.
    #[must_use]
    pub fn new(printing: bool) -> Self {
        Self { printing, ..Self::default() }
    }

    /// Notes that `what` happened at `now`.
    pub fn note(&mut self, now: Instant, what: &(impl Debug + Hash)) {
        now.nanos.hash(&mut self.hash);
        what.hash(&mut self.hash);
        self.notes += 1;
        if self.printing {
            println!("{:>12.6} {what:?}", now.nanos as f64 / 1e9);
        }
    }

    /// The number that stands for everything noted so far.
    #[must_use]
    pub fn hash(&self) -> u64 {
        self.hash.finish()
    }

    /// How many notes there are.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.notes
    }

    /// Whether nothing has happened yet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.notes == 0
    }
}

/// A hash that is the same in every process, unlike the standard one.
#[derive(Debug, Default)]
struct Fold(u64);

impl Hasher for Fold {
    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.write_u64(u64::from_le_bytes(word) ^ ((chunk.len() as u64) << 56));
        }
    }

    fn write_u64(&mut self, word: u64) {
        let mixed = (self.0 ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.0 = mixed ^ (mixed >> 29);
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The hash depends on what happened, when, and in which order.
    #[test]
    fn the_hash_tells_runs_apart() {
        let hash = |notes: &[(u64, &str)]| {
            let mut trace = Trace::new(false);
            notes.iter().for_each(|(nanos, what)| trace.note(Instant { nanos: *nanos }, what));
            trace.hash()
        };
        assert_eq!(hash(&[(1, "a"), (2, "b")]), hash(&[(1, "a"), (2, "b")]));
        assert_ne!(hash(&[(1, "a"), (2, "b")]), hash(&[(1, "b"), (2, "a")]));
        assert_ne!(hash(&[(1, "a"), (2, "b")]), hash(&[(1, "a"), (3, "b")]));
    }
}
