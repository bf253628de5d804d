//! The body of any response is a response or an error, never a panic.
//!
//! `RUSTC_BOOTSTRAP=1 cargo fuzz run response` in `net` runs it until stopped. What it finds worth
//! keeping goes into `corpus/response`, which `cargo test` replays.
#![no_main]

#[path = "../check.rs"]
mod check;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| check::response(bytes));
