//! What does a reader cost at the end of a log, and what where its bytes come from disk?
//!
//! At the end the batches lie in memory, and a read gives shares of them: nothing is copied, so a
//! read of 64 KiB in 4 batches must not cost more than one of 4 KiB in 4. From disk, a read is
//! proved by the checksum of its span and cut at the batches that are wanted: one pass over the
//! bytes, and a walk from header to header.
//!
//! Sketch before measuring: finding the place and checking the log's bounds 150, each batch 40 (a
//! share, counted up), the list's memory 150 and its growth: 500 for 4 batches, 3,500 for 64. From
//! disk, 64 KiB is one pass of the checksum (as in batch.rs: 12,000) and a walk of 50 for each of
//! 4 batches: 13,000. Twice that would mean that the bytes are passed over twice.
//!
//! Found: 610 and 4,920, about 72 for each batch: the list grows as it is filled, and each share is
//! an atomic counter. From disk 29,980, of which one pass of the checksum is 29,400 (as in batch.rs,
//! dearer than sketched): the bytes are passed over once.
//!
//! `cargo bench -p tidemill-bench --bench fetch` measures; see `measure/mod.rs` for the rest.

mod fixture;
mod measure;

use std::process::ExitCode;

use bytes::{Bytes, BytesMut};
use fixture::{EPOCH, KIB, Shard};
use measure::{Bench, Case};
use tidemill_record::{Batch, Offset, Timestamp, checksum, stamp};
use tidemill_storage::Read;
use tidemill_storage::index::{Index, IndexedBatch};
use tidemill_storage::read::{Boundary, Cut, ReadPlan, Wanted};

const LIMIT_BYTES: u32 = 80 * KIB as u32;
const READ_BYTES_MAX: u32 = 1024 * KIB as u32;
const OPS: u64 = 16;

fn main() -> ExitCode {
    let mut bench = Bench::from_args("fetch");
    for (name, batches) in [("tail-64-kib-4-batches", 4), ("tail-64-kib-64-batches", 64)] {
        bench.case(
            Case { name, ops: OPS, op_bytes: 64 * KIB as u64 },
            || with_tail(batches),
            |shard| (0..OPS).map(|_| read_tail(shard)).collect::<Vec<_>>(),
            |_, reads| reads.iter().flatten().map(|b| u64::from(checksum::crc32c(b))).sum(),
        );
    }
    bench.case(
        Case { name: "cold-64-kib-4-batches", ops: OPS, op_bytes: 64 * KIB as u64 },
        || segment_on_disk(4),
        |(plan, bytes)| (0..OPS).map(|_| plan.cut(bytes)).collect::<Vec<_>>(),
        |_, cuts| cuts.iter().map(digest_of_cut).sum(),
    );
    bench.finish()
}

/// A log whose newest 64 KiB are so many batches.
fn with_tail(batches: usize) -> Shard {
    let mut shard = Shard::with_partitions(1);
    let log = shard.logs[0];
    for number in 0..batches {
        let (mut batch, validated) = fixture::validated_batch(number as u64, 64 * KIB / batches);
        shard.append(log, &mut batch, &validated);
    }
    shard.settle();
    shard
}

/// Everything behind the one batch that each log begins with.
fn read_tail(shard: &mut Shard) -> Vec<Bytes> {
    let log = shard.logs[0];
    let (from, end) = (Offset(2), shard.storage.log(log).durable_end());
    match shard.storage.read(log, from, end, LIMIT_BYTES, true) {
        Ok(Read::Ready { batches, .. }) => batches,
        other => panic!("the tail holds it, yet {other:?}"),
    }
}

/// A segment of 64 KiB in so many batches: the plan to read it, and what the disk gives for it.
fn segment_on_disk(batches: usize) -> (ReadPlan, Bytes) {
    let mut index = Index::new(fixture::partition(0), Offset::ZERO);
    let mut bytes = BytesMut::new();
    for number in 0..batches {
        let mut batch = fixture::batch(number as u64, 64 * KIB / batches);
        stamp(&mut batch, index.next_offset(), EPOCH);
        let (parsed, _) = Batch::parse(&batch).expect("it was just built");
        index.append(&IndexedBatch {
            next_offset: parsed.header().next_offset(),
            size_bytes: batch.len() as u32,
            raw_crc: checksum::crc32c(&batch),
            max_timestamp: Timestamp(fixture::WALL_MS),
        });
        bytes.extend_from_slice(&batch);
    }
    let end = Boundary { position: index.size_bytes(), offset: index.next_offset() };
    let wanted = Wanted {
        from: Offset::ZERO,
        visible_end: end.offset,
        limit_bytes: LIMIT_BYTES,
        min_one: true,
    };
    let plan = ReadPlan::new(&index, end, wanted, READ_BYTES_MAX).expect("all of it is wanted");
    // The file may end before a whole block does.
    let given = bytes.len().min(plan.size_bytes() as usize);
    (plan, bytes.freeze().slice(..given))
}

fn digest_of_cut(cut: &Cut) -> u64 {
    assert_eq!(cut.damage, None);
    u64::from(checksum::crc32c(&cut.batches)) + cut.next_offset.0 as u64
}
