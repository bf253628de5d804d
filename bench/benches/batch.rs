//! What does it cost to take a batch from a stranger, beyond one pass over its bytes?
//!
//! A produced batch is validated (header, and the checksum over all its bytes) and stamped with its
//! offset and leader epoch, in place. The checksum has to be made; everything else should be lost
//! beside it. So a bare pass of the checksum stands next to it.
//!
//! Sketch before measuring: the processor's own instruction takes 8 bytes, and in three streams
//! about one instruction more for each: 64 KiB in 8,192 to 12,000 instructions, at about 20 GB/s in
//! 3.3 us. Header and stamp are fields at known places: at most 300 instructions, whatever the
//! size. So expect validate + stamp of 64 KiB within 3 % of the bare pass, and of 1 KiB below 700.
//!
//! Found: 28,960 for the bare pass, 29,140 with validate + stamp (0.6 % more, 180), 810 for 1 KiB.
//! So validating is as cheap as hoped; the pass itself is not. The three streams are there, but
//! each step checks the bounds of three slices: 10 instructions for 24 bytes, not 6.
//!
//! `cargo bench -p tidemill-bench --bench batch` measures; see `measure/mod.rs` for the rest.

mod fixture;
mod measure;

use std::process::ExitCode;

use bytes::BytesMut;
use fixture::{EPOCH, KIB};
use measure::{Bench, Case};
use tidemill_record::{Offset, checksum, stamp, validate};

const OPS: u64 = 16;

fn main() -> ExitCode {
    let mut bench = Bench::from_args("batch");
    bench.case(
        Case { name: "crc32c-64-kib", ops: OPS, op_bytes: 64 * KIB as u64 },
        || batches(64 * KIB),
        |batches| {
            let covered = batches.iter().map(|batch| &batch[checksum::COVERED_FROM..]);
            covered.fold(0, |all, bytes| all ^ crc32c::crc32c(bytes))
        },
        |_, crc| u64::from(*crc),
    );
    for (name, size_bytes) in
        [("validate-and-stamp-64-kib", 64 * KIB), ("validate-and-stamp-1-kib", KIB)]
    {
        bench.case(
            Case { name, ops: OPS, op_bytes: size_bytes as u64 },
            || batches(size_bytes),
            |batches| batches.iter_mut().fold(Offset::ZERO, |end, batch| take(batch, end)),
            |batches, end| end.0 as u64 + digest(batches),
        );
    }
    bench.finish()
}

fn batches(size_bytes: usize) -> Vec<BytesMut> {
    (0..OPS).map(|number| fixture::batch(number, size_bytes)).collect()
}

/// Gives a batch its place behind `end`; returns the new end.
fn take(batch: &mut BytesMut, end: Offset) -> Offset {
    let validated = validate(batch, &fixture::limits()).expect("a batch just built");
    stamp(batch, end, EPOCH);
    end.plus(i64::from(validated.records_count()))
}

/// Of all bytes, stamped ones included.
fn digest(batches: &[BytesMut]) -> u64 {
    batches.iter().map(|batch| u64::from(checksum::crc32c(batch))).sum()
}
