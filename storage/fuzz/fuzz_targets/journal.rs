//! Any bytes in the journal directory are recovered, refused or reported, never a panic.
//!
//! `RUSTC_BOOTSTRAP=1 cargo fuzz run journal` in `storage` runs it until stopped. What it finds
//! worth keeping goes into `corpus/journal`, which `cargo test` replays.
#![no_main]

#[path = "../../tests/disk/mod.rs"]
mod disk;
#[path = "../journal.rs"]
mod journal;
#[path = "../../tests/world/mod.rs"]
mod world;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| journal::check(bytes));
