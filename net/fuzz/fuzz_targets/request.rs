//! The body of any request is a request or an error, never a panic.
//!
//! `RUSTC_BOOTSTRAP=1 cargo fuzz run request` in `net` runs it until stopped. What it finds worth
//! keeping goes into `corpus/request`, which `cargo test` replays.
#![no_main]

#[path = "../check.rs"]
mod check;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| check::request(bytes));
