//! A stream of any bytes is one request to the admin port, or refused, or not enough; never a panic.
//!
//! `RUSTC_BOOTSTRAP=1 cargo fuzz run http` in `net` runs it until stopped. What it finds worth
//! keeping goes into `corpus/http`, which `cargo test` replays.
#![no_main]

#[path = "../check.rs"]
mod check;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| check::http(bytes));
