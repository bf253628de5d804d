//! How much of our own does it take to make a batch durable, when the disk costs nothing?
//!
//! From a validated batch to `Durable`: offsets, index, tail, the commit window and its write, its
//! completion, and later the write to the segment. The disk ends each request at once, so what is
//! left is our own cost.
//!
//! Sketch before measuring: a batch of 16 KiB is copied twice, into the window and into the write
//! of its segment (512 vectors of 32 bytes, loaded and stored: 1,000 instructions a copy, more
//! with the loop). Its checksum is not made again: what the producer sent is combined with that of
//! the head. Append itself 1,000; a turn with a window of its own (close, encode, write, complete,
//! tell) 3,000. Expect 6,000 to 7,000 in all, about 3 us. With 16 batches of 1 KiB in each turn the
//! turn is shared: expect about 1,500 per batch. Above 10,000 and 3,000 something other than bytes
//! is being paid for.
//!
//! Found at first: 14,130, and 6,520 (one log) or 6,240 (16 logs). Something else was being paid for:
//! two combinations of checksums, one for the batch and one for its index, were 1,460 each, and the
//! turn with a window and a write of its own twice the sketch: memory for the window, its zeros, and
//! the tables of requests under way with their hashes. With checksums combined by a carry-less
//! multiplication and cheaper hashes: 10,260, and 3,780 or 3,580.
//!
//! `cargo bench -p tidemill-bench --bench append` measures; see `measure/mod.rs` for the rest.

mod fixture;
mod measure;

use std::process::ExitCode;

use bytes::BytesMut;
use fixture::{KIB, Shard};
use measure::{Bench, Case};
use tidemill_record::Validated;

const OPS: u64 = 256;

/// A shard, and what is to be appended to it.
struct Ready {
    shard: Shard,
    batches: Vec<(BytesMut, Validated)>,
}

fn main() -> ExitCode {
    let mut bench = Bench::from_args("append");
    for (name, size_bytes, per_turn, partitions) in [
        ("16-kib-alone-in-a-turn", 16 * KIB, 1, 1),
        ("1-kib-16-in-a-turn-1-log", KIB, 16, 1),
        ("1-kib-16-in-a-turn-16-logs", KIB, 16, 16),
    ] {
        bench.case(
            Case { name, ops: OPS, op_bytes: size_bytes as u64 },
            || Ready {
                shard: Shard::with_partitions(partitions),
                batches: (0..OPS).map(|n| fixture::validated_batch(n, size_bytes)).collect(),
            },
            |ready| append_all(ready, per_turn),
            |ready, _| digest(&ready.shard),
        );
    }
    bench.finish()
}

/// Appends all batches, so many in each turn, the logs by turns.
fn append_all(ready: &mut Ready, per_turn: usize) {
    let Ready { shard, batches } = ready;
    let logs = shard.logs.clone();
    for turn in batches.chunks_mut(per_turn) {
        for ((batch, validated), log) in turn.iter_mut().zip(logs.iter().cycle()) {
            shard.append(*log, batch, validated);
        }
        shard.turn();
    }
}

/// Everything is durable, with so much written.
fn digest(shard: &Shard) -> u64 {
    let ends = shard.logs.iter().map(|log| {
        let log = shard.storage.log(*log);
        assert_eq!(log.durable_end(), log.end(), "the disk ends each request at once");
        log.end().0 as u64
    });
    ends.sum::<u64>() + shard.written_bytes
}
