//! Any bytes of a segment or an index are batches or damage, never a panic.
//!
//! `RUSTC_BOOTSTRAP=1 cargo fuzz run segment` in `storage` runs it until stopped. What it finds
//! worth keeping goes into `corpus/segment`, which `cargo test` replays.
#![no_main]

#[path = "../segment.rs"]
mod segment;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| segment::check(bytes));
