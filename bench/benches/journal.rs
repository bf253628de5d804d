//! What does it cost to close a commit window and to encode it, beyond copying what is in it?
//!
//! A window gathers what was appended in a turn into aligned memory: header, entries, bytes. The
//! bytes bring their checksums with them, so only header and entries are summed. Two windows of 64
//! KiB, of one batch and of 64: the same bytes, so their difference is the price of an entry.
//!
//! Sketch before measuring: 64 KiB are 2,048 vectors, loaded and stored: 5,000 instructions with
//! the loop, whether in one piece or in 64. Memory, header, looking at what else the turn wants:
//! 2,000. An entry of about 120 bytes is written field by field, summed, and kept for its
//! completion: 250. So expect 7,000 with one entry, and 16,000 more with 64.
//!
//! Found: 9,830 with one entry, of which the copy is 7,500 (a vector costs 3.7 instructions rather
//! than 2.5), and 60,670 with 64: 810 more for each entry. Copying in pieces of 1 KiB takes 220 of
//! it; the rest is twice the sketch: an entry's fields are put into a list that looks for room at
//! each of them, and the list is then copied into the window.
//!
//! `cargo bench -p tidemill-bench --bench journal` measures; see `measure/mod.rs` for the rest.

mod fixture;
mod measure;

use std::process::ExitCode;

use fixture::{KIB, Shard};
use measure::{Bench, Case};
use tidemill_record::checksum;
use tidemill_storage::io::{Action, FileName, Request};

fn main() -> ExitCode {
    let mut bench = Bench::from_args("journal");
    for (name, entries) in [("window-64-kib-1-entry", 1), ("window-64-kib-64-entries", 64)] {
        bench.case(
            Case { name, ops: 1, op_bytes: 64 * KIB as u64 },
            || with_open_window(entries),
            Shard::close_window,
            |_, write| digest(write.as_ref()),
        );
    }
    bench.finish()
}

/// 64 KiB in so many batches, each of another log, wait for the end of the turn.
fn with_open_window(entries: usize) -> Shard {
    let mut shard = Shard::with_partitions(entries as i32);
    for (number, log) in (0..).zip(shard.logs.clone()) {
        let (mut batch, validated) = fixture::validated_batch(number, 64 * KIB / entries);
        shard.append(log, &mut batch, &validated);
    }
    shard
}

/// Of the bytes that would be written.
fn digest(write: Option<&Request>) -> u64 {
    match write.map(|write| &write.action) {
        Some(Action::Write { file: FileName::Journal { .. }, bytes, durable: true, .. }) => {
            u64::from(checksum::crc32c(bytes)) ^ ((bytes.len() as u64) << 32)
        }
        other => panic!("the write of a window was to come, not {other:?}"),
    }
}
