//! Any bytes are a batch or an error, never a panic.
//!
//! `RUSTC_BOOTSTRAP=1 cargo fuzz run batch` in `storage/record` runs it until stopped. What it
//! finds worth keeping goes into `corpus/batch`, which `cargo test` replays.
#![no_main]

#[path = "../check.rs"]
mod check;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| check::check(bytes));
