//! Compaction: of each key only the last record stays.
//!
//! ```text
//! offset  0    1    2    3    4    5    6             0    3    5    6
//!        a=1  b=1  a=2  c=1  b=∅  a=3  b=∅    →      (holes)  c=1  a=3  b=∅
//! ```
//!
//! Offsets never change and order stays; what is left out leaves a hole. A record without a value
//! deletes its key: it stays until its horizon, so that readers on their way see it, and goes then.
//!
//! This module is the algorithm: it is handed batches and says what is to be written in their
//! place. It performs no I/O, each of its steps is about one batch, and its memory is that of one
//! batch and of [`OffsetMap`], whose size is a setting. When the map is full, as much of the log is
//! compacted as it covers; the rest has its turn later.
//!
//! What the second pass leaves must take the place of what was there from the front on, and no
//! further than all went well: a deletion mark gets its horizon only where everything it deletes is
//! gone.
//!
//! - [`plan`]: what the log's shard hands out to be compacted, and how it is read.
//! - [`policy`]: which log, how far, and what goes into one segment.
//! - [`Keys`], the first pass, over what was not compacted yet: the last offset of each key.
//! - [`Sieve`], the second pass, over all of the log up to there: what stays.
//! - [`Round`]: both passes over one log, as reads, steps of work, writes and swaps.
//! - [`ended`]: transactions. What was aborted goes, its marker later.
//!
//! Start reading at [`Sieve::sift`].

pub mod ended;
pub mod offset_map;
pub mod plan;
pub mod policy;
pub mod round;
mod sieve;

pub use offset_map::OffsetMap;
pub use round::Round;
pub use sieve::{Keys, Sieve, Sifted, SiftedBatch, Terms};

#[cfg(test)]
mod tests;
