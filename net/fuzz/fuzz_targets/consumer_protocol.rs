//! What consumers say inside JoinGroup and SyncGroup is read or refused, never with a panic.
//!
//! `RUSTC_BOOTSTRAP=1 cargo fuzz run consumer_protocol` in `net` runs it until stopped. What it finds
//! worth keeping goes into `corpus/consumer_protocol`, which `cargo test` replays.
#![no_main]

#[path = "../check.rs"]
mod check;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| check::consumer_protocol(bytes));
