//! A stream of any bytes is cut into frames and requests, or refused, never with a panic.
//!
//! `RUSTC_BOOTSTRAP=1 cargo fuzz run frame` in `net` runs it until stopped. What it finds worth
//! keeping goes into `corpus/frame`, which `cargo test` replays.
#![no_main]

#[path = "../check.rs"]
mod check;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| check::frame(bytes));
