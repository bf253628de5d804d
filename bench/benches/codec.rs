//! What does it cost to read a Produce request, and to write what stands around fetched records?
//!
//! Neither looks at a record: a request is read where it lies, and a response is a list of slices,
//! those of records being the ones that storage gave. So the size of the records must not matter,
//! and each further partition costs a few fields.
//!
//! Sketch before measuring: reading is header, client id, five fields and a first walk that proves
//! the lists, then a walk over them: 300 instructions, and 60 for each further partition. Writing
//! takes memory for the head (2 allocations of 100 to 150 instructions), then each partition about
//! ten fields, a cut and a count on each side of the records: 600 for the first, 250 for each
//! further one. At 3 instructions per ns all of it is far below a microsecond for one partition.
//!
//! Found: reading 1,130, and 189 for each further partition; writing 1,270 and 454. Both two to
//! three times the sketch, and still below half a microsecond. Reading: both walks decode every
//! field, where the sketch took the second for free, and names are checked to be UTF-8 (250).
//! Writing: each cut is a shared slice with a counter to raise, and each length is a varint byte by
//! byte.
//!
//! `cargo bench -p tidemill-bench --bench codec` measures; see `measure/mod.rs` for the rest.

mod fixture;
mod measure;

use std::borrow::Cow;
use std::process::ExitCode;

use bytes::{Bytes, BytesMut};
use fixture::KIB;
use measure::{Bench, Case};
use tidemill_net::frame::LENGTH_BYTES;
use tidemill_net::kafka::fetch::{FetchPartitionResponse, FetchResponse};
use tidemill_net::kafka::produce::{OutgoingProduce, OutgoingProducePartition, ProduceRequest};
use tidemill_net::kafka::{RequestHeader, TopicRef};
use tidemill_record::{TopicId, checksum};

/// Versions that current clients choose: topics by name to produce, by id to fetch.
const PRODUCE_VERSION: i16 = 12;
const FETCH_VERSION: i16 = 16;
const TOPIC: TopicId = TopicId([0xaa; 16]);
const OPS: u64 = 64;

fn main() -> ExitCode {
    let mut bench = Bench::from_args("codec");
    for (name, partitions) in [("produce-request-1", 1), ("produce-request-16", 16)] {
        bench.case(
            Case { name, ops: OPS, op_bytes: 0 },
            || produce_frame(partitions),
            |frame| (0..OPS).map(|_| read_produce(std::hint::black_box(frame))).sum::<u64>(),
            |_, sum| *sum,
        );
    }
    for (name, partitions) in [("fetch-response-1", 1), ("fetch-response-16", 16)] {
        bench.case(
            Case { name, ops: OPS, op_bytes: 0 },
            || fetched(partitions),
            |fetched| {
                let write = |number| write_fetch(fetched, number as i32);
                (0..OPS).map(write).collect::<Vec<_>>()
            },
            |_, frames| frames.iter().flatten().map(|p| u64::from(checksum::crc32c(p))).sum(),
        );
    }
    bench.finish()
}

/// A request as it comes, without its length: 64 KiB for each partition.
fn produce_frame(partitions: i32) -> Bytes {
    let batch = fixture::batch(1, 64 * KIB);
    let partitions: Vec<_> = (0..partitions)
        .map(|partition| OutgoingProducePartition {
            topic: TopicRef::Name("orders"),
            partition,
            records: Some(&batch),
        })
        .collect();
    let produce = OutgoingProduce {
        transactional_id: None,
        acks: -1,
        timeout_ms: 30_000,
        partitions: &partitions,
    };
    let mut frame = BytesMut::new();
    produce.encode(&mut frame, PRODUCE_VERSION, 7, Some("bench"));
    frame.freeze().slice(LENGTH_BYTES..)
}

/// Reads a request as the broker does; returns the sum of where its records begin and end.
fn read_produce(frame: &[u8]) -> u64 {
    let header = RequestHeader::parse(frame).expect("a header just written");
    let body = &frame[header.body_start..];
    let request = ProduceRequest::parse(header.version, body).expect("a request just written");
    let ranges = request.partitions().filter_map(|partition| partition.records);
    ranges.map(|range| (range.start + range.end) as u64).sum()
}

/// What storage has given for each partition.
fn fetched(partitions: u64) -> Vec<Vec<Bytes>> {
    (0..partitions).map(|number| vec![fixture::batch(number, 64 * KIB).freeze()]).collect()
}

/// Writes a response as the broker does, memory included.
fn write_fetch(fetched: &[Vec<Bytes>], correlation_id: i32) -> Vec<Bytes> {
    let partitions: Vec<_> = fetched
        .iter()
        .zip(0..)
        .map(|(records, partition)| FetchPartitionResponse {
            log_start_offset: 0,
            records: Cow::Borrowed(records),
            ..FetchPartitionResponse::at(TopicRef::Id(TOPIC), partition, 1_000_000)
        })
        .collect();
    let mut parts = Vec::with_capacity(2 * partitions.len() + 1);
    let mut out = BytesMut::with_capacity(64 + 96 * partitions.len());
    let response = FetchResponse { partitions: Cow::Owned(partitions), ..FetchResponse::default() };
    response.encode(&mut out, &mut parts, FETCH_VERSION, correlation_id);
    parts
}
