//! What a read of a segment gives, and what damage does to it.

use bytes::BytesMut;
use tidemill_record::{BatchBuilder, Codec, LeaderEpoch, PartitionId, TopicId, stamp};

use super::*;
use crate::block::{AlignedBytes, is_aligned};
use crate::epochs::LeaderEpochs;
use crate::index::IndexedBatch;

const MIB: u32 = 1024 * 1024;
const ALL: Offset = Offset(i64::MAX);

fn partition() -> TopicPartition {
    TopicPartition { topic: TopicId([7; 16]), partition: PartitionId(2) }
}

fn epochs() -> LeaderEpochs {
    let mut epochs = LeaderEpochs::default();
    epochs.note(LeaderEpoch(1), Offset(0));
    epochs
}

fn batch(base_offset: i64, timestamps: &[i64], value_bytes: usize, codec: Codec) -> BytesMut {
    let mut builder = BatchBuilder::new(codec);
    for &timestamp in timestamps {
        builder.append(Timestamp(timestamp), None, Some(&vec![b'v'; value_bytes]));
    }
    let mut bytes = builder.build();
    stamp(&mut bytes, Offset(base_offset), LeaderEpoch(1));
    bytes
}

/// A segment on disk, with its index.
#[derive(Clone)]
struct Segment {
    bytes: Vec<u8>,
    index: Index,
    /// The boundary before each batch, and the last one.
    boundaries: Vec<Boundary>,
}

impl Segment {
    /// Batches of ten records and about these many bytes each, from offset 1000 on.
    fn of(sizes: &[usize]) -> Self {
        let index = Index::new(partition(), Offset(1000));
        let start = Boundary { position: 0, offset: Offset(1000) };
        let mut segment = Self { bytes: Vec::new(), index, boundaries: vec![start] };
        for &size in sizes {
            let end = segment.end();
            let bytes = batch(end.offset.0, &[end.offset.0; 10], size / 10, Codec::None);
            segment.index.append(&IndexedBatch {
                next_offset: end.offset.plus(10),
                size_bytes: bytes.len() as u32,
                raw_crc: tidemill_record::checksum::crc32c(&bytes),
                max_timestamp: Timestamp(end.offset.0),
            });
            segment.bytes.extend_from_slice(&bytes);
            let position = segment.bytes.len() as u64;
            segment.boundaries.push(Boundary { position, offset: end.offset.plus(10) });
        }
        segment
    }

    /// Two hundred batches of about 1 KiB: six closed spans and an open one.
    fn of_small_batches() -> Self {
        Self::of(&[1024; 200])
    }

    fn end(&self) -> Boundary {
        self.boundaries[self.boundaries.len() - 1]
    }

    fn slice(&self, first: usize, end: usize) -> &[u8] {
        let at = |boundary: usize| self.boundaries[boundary].position as usize;
        &self.bytes[at(first)..at(end)]
    }

    /// What the disk gives for a read.
    fn read(&self, position: u64, size_bytes: u32) -> Bytes {
        assert!(is_aligned(position) && is_aligned(u64::from(size_bytes)));
        let start = (position as usize).min(self.bytes.len());
        let end = (start + size_bytes as usize).min(self.bytes.len());
        AlignedBytes::copy_of(&self.bytes[start..end]).freeze()
    }

    fn fetch(&self, wanted: Wanted) -> Option<Cut> {
        let plan = ReadPlan::new(&self.index, self.end(), wanted, MIB)?;
        Some(plan.cut(&self.read(plan.position(), plan.size_bytes())))
    }

    fn damage(&mut self, batch: usize, at: usize) {
        self.bytes[self.boundaries[batch].position as usize + at] ^= 1;
    }
}

fn wanted(from: i64, limit_bytes: u32) -> Wanted {
    Wanted { from: Offset(from), visible_end: ALL, limit_bytes, min_one: true }
}

/// Wherever a read begins, it returns the bytes as they were appended, from the batch that
/// holds the offset on.
#[test]
fn a_read_returns_whole_batches_verbatim_from_the_one_that_holds_the_offset() {
    let segment = Segment::of_small_batches();
    for from in (1000..3000).step_by(7) {
        let cut = segment.fetch(wanted(from, 10_000)).unwrap();
        let first = (from as usize - 1000) / 10;
        let count = cut.batches.len() / segment.slice(0, 1).len();
        assert!((1..=9).contains(&count), "{count} batches from {from}");
        assert_eq!(cut.batches, segment.slice(first, first + count));
        assert_eq!(cut.next_offset, segment.boundaries[first + count].offset);
        assert_eq!(cut.damage, None);
    }
}

/// Reading on from where the last read ended gives the whole segment, once.
#[test]
fn reads_in_a_row_give_the_whole_segment() {
    let segment = Segment::of(&[100, 40_000, 500, 200_000, 33_000, 10, 10, 10]);
    for limit_bytes in [1, 5_000, 70_000, MIB] {
        let mut from = 1000;
        let mut all = Vec::new();
        while let Some(cut) = segment.fetch(wanted(from, limit_bytes)) {
            all.extend_from_slice(&cut.batches);
            assert!(from < cut.next_offset.0, "no progress");
            from = cut.next_offset.0;
        }
        assert_eq!(all, segment.bytes);
    }
}

/// A consumer with a small limit gets a large batch all the same, but only as the first.
#[test]
fn the_first_batch_is_returned_whatever_its_size() {
    let segment = Segment::of(&[100_000, 100_000]);
    let cut = segment.fetch(wanted(1000, 10)).unwrap();
    assert_eq!(cut.batches, segment.slice(0, 1));

    let strict = Wanted { min_one: false, ..wanted(1000, 10) };
    let cut = segment.fetch(strict).unwrap();
    assert!(cut.batches.is_empty());
    assert_eq!(cut.next_offset, Offset(1000));
}

/// What is not committed is not shown.
#[test]
fn nothing_at_or_past_the_visible_end_is_returned() {
    let segment = Segment::of_small_batches();
    let until = |visible_end| {
        segment.fetch(Wanted { visible_end: Offset(visible_end), ..wanted(1000, MIB) })
    };
    assert_eq!(until(1050).unwrap().batches, segment.slice(0, 5));
    assert_eq!(until(1059).unwrap().batches, segment.slice(0, 5), "never half a batch");
    assert_eq!(until(1000), None);
}

/// A fetch must not read the whole segment for a few bytes, nor more than one read may be.
#[test]
fn a_read_is_bounded() {
    let segment = Segment::of(&[1024; 3000]);
    let plan = |limit_bytes| {
        let wanted = wanted(2000, limit_bytes);
        ReadPlan::new(&segment.index, segment.end(), wanted, MIB).unwrap()
    };
    assert!(plan(1000).size_bytes() < 80 * 1024);
    assert!(plan(u32::MAX).size_bytes() <= MIB + 8192);
    assert!(plan(200_000).size_bytes() < 300 * 1024);
}

/// The end of the active segment is in memory only; what is there on disk is garbage.
#[test]
fn only_what_is_written_is_read() {
    let mut segment = Segment::of_small_batches();
    let written = segment.boundaries[195];
    segment.bytes[written.position as usize..].fill(0xee);
    let plan = |from| ReadPlan::new(&segment.index, written, wanted(from, MIB), MIB);
    let last = plan(2900).unwrap();
    let cut = last.cut(&segment.read(last.position(), last.size_bytes()));
    assert_eq!(cut.batches, segment.slice(190, 195));
    assert_eq!(cut.damage, None);
    assert!(plan(2950).is_none());
}

/// A damaged batch is never served and never skipped; those before it and in other spans are.
#[test]
fn damage_ends_a_read_and_its_exact_range_is_told() {
    let mut segment = Segment::of_small_batches();
    segment.damage(40, 100);
    let spans: Vec<Span> = segment.index.spans_from(0).collect();
    assert!(spans[1].position < segment.boundaries[40].position);
    let cut = segment.fetch(wanted(1380, MIB)).unwrap();
    let end = Boundary { position: spans[1].end(), offset: spans[1].next_offset };
    let damage = Damage { start: segment.boundaries[40], end };
    assert_eq!(cut.damage, Some(damage));
    assert_eq!(cut.batches, segment.slice(38, 40), "what is sound before it");

    let cut = segment.fetch(wanted(1400, MIB)).unwrap();
    assert!(cut.batches.is_empty());
    assert_eq!(cut.damage, Some(damage));

    let cut = segment.fetch(wanted(end.offset.0, 5000)).unwrap();
    assert_eq!(cut.damage, None, "the span behind it is proved by itself");
    assert!(!cut.batches.is_empty());
}

/// Base offset and leader epoch lie outside the batch's own checksum.
#[test]
fn a_damaged_offset_or_epoch_is_damage_too() {
    for at in 0..20 {
        let mut segment = Segment::of_small_batches();
        segment.damage(40, at);
        let cut = segment.fetch(wanted(1400, MIB)).unwrap();
        assert!(cut.batches.is_empty(), "byte {at}");
        assert!(cut.damage.is_some(), "byte {at}");
    }
}

/// A file that was cut short on the device lacks bytes that were acknowledged.
#[test]
fn missing_bytes_are_damage() {
    let mut segment = Segment::of_small_batches();
    segment.bytes.truncate(segment.boundaries[150].position as usize + 10);
    let cut = segment.fetch(wanted(2490, MIB)).unwrap();
    assert_eq!(cut.batches, segment.slice(149, 150));
    assert_eq!(cut.damage.unwrap().start, segment.boundaries[150]);
    segment.bytes.clear();
    let cut = segment.fetch(wanted(2490, MIB)).unwrap();
    assert!(cut.batches.is_empty());
}

fn walk(segment: &Segment, mut walk: SegmentWalk) -> (SegmentWalk, Result<(), Damage>, u32) {
    let mut reads = 0;
    while let Some((position, size_bytes)) = walk.next_read() {
        reads += 1;
        let bytes = segment.read(position, size_bytes);
        if let Err(damage) = walk.take(&bytes, |_, _| {}) {
            return (walk, Err(damage), reads);
        }
    }
    (walk, Ok(()), reads)
}

fn new_walk(segment: &Segment, stop_at: Offset) -> SegmentWalk {
    let index = Index::new(partition(), Offset(1000));
    SegmentWalk::new(index, epochs(), segment.end().position, stop_at, 2 * MIB)
}

/// An index file is a convenience: walking the segment gives the same index.
#[test]
fn an_index_is_built_again_from_the_segment() {
    let big = STEP_BYTES as usize + 9_000;
    for sizes in [&[1024; 3000][..], &[100, big, 10, 3 * big, 5000, big], &[10]] {
        let segment = Segment::of(sizes);
        let (walk, result, reads) = walk(&segment, new_walk(&segment, ALL));
        assert_eq!(result, Ok(()));
        assert_eq!(*walk.index(), segment.index);
        assert!(u64::from(reads) <= 2 + segment.end().position / 100_000, "{reads} reads");
    }
}

/// Where a truncation cuts: before the batch that reaches past the offset.
#[test]
fn a_walk_stops_before_the_batch_that_reaches_past_its_end() {
    let segment = Segment::of_small_batches();
    for (stop_at, batches) in [(1000, 0), (1009, 0), (1010, 1), (1995, 99), (3000, 200)] {
        let (walk, result, _) = walk(&segment, new_walk(&segment, Offset(stop_at)));
        assert_eq!(result, Ok(()));
        assert_eq!(walk.index().size_bytes(), segment.boundaries[batches].position);
    }
}

/// After a cut only the last span is walked again.
#[test]
fn a_walk_goes_on_from_where_an_index_was_cut() {
    let segment = Segment::of_small_batches();
    let cut_at = segment.boundaries[170];
    let mut index = segment.index.clone();
    let again_from = index.cut(cut_at.position);
    assert!(0 < again_from && again_from < cut_at.position);
    let resumed = SegmentWalk::new(index, epochs(), cut_at.position, ALL, MIB);
    let (resumed, result, _) = walk(&segment, resumed);
    assert_eq!(result, Ok(()));
    assert_eq!(*resumed.index(), Segment::of(&[1024; 170]).index);
}

/// Whatever is damaged, the walk ends before it and says where; it reads no endless length.
#[test]
fn a_walk_ends_at_damage() {
    for at in [0, 3, 8, 10, 12, 15, 16, 20, 30, 60, 900] {
        let mut segment = Segment::of_small_batches();
        segment.damage(77, at);
        let (walk, result, reads) = walk(&segment, new_walk(&segment, ALL));
        assert_eq!(result.unwrap_err().start, segment.boundaries[77], "byte {at}");
        assert_eq!(walk.index().size_bytes(), segment.boundaries[77].position);
        assert!(reads <= 3);
    }
    let mut short = Segment::of_small_batches();
    short.bytes.truncate(50_000);
    let mut over = new_walk(&short, ALL);
    over.end = Segment::of_small_batches().end().position;
    assert!(walk(&short, over).1.is_err(), "the file ends before the segment");
}

#[test]
fn a_record_is_found_by_its_time_also_in_compressed_batches() {
    for codec in [Codec::None, Codec::Zstd] {
        let mut proved = batch(10, &[100, 300, 200], 20, codec);
        proved.extend_from_slice(&batch(13, &[50, 400, 400], 20, codec));
        let since = |ms, offsets| {
            first_since(&proved, Timestamp(ms), offsets, 10_000)
                .map(|(timestamp, offset)| (timestamp.0, offset.0))
        };
        let all = Offset(0)..ALL;
        assert_eq!(since(0, all.clone()), Some((100, 10)));
        assert_eq!(since(150, all.clone()), Some((300, 11)));
        assert_eq!(since(301, all.clone()), Some((400, 14)));
        assert_eq!(since(401, all.clone()), None);
        assert_eq!(since(150, Offset(12)..ALL), Some((200, 12)), "trimmed records count not");
        assert_eq!(since(301, Offset(0)..Offset(14)), None, "nor what is not visible");

        let newest = |offsets| newest(&proved, offsets, 10_000).unwrap();
        assert_eq!(newest(all), (Timestamp(400), Offset(14)), "the first of equals");
        assert_eq!(newest(Offset(0)..Offset(14)), (Timestamp(300), Offset(11)));
    }
}

/// A producer's nonsense must not hide the records behind it.
#[test]
fn a_batch_whose_records_cannot_be_read_counts_as_a_whole() {
    let bomb = batch(10, &[100; 50], 1000, Codec::Gzip);
    let found = first_since(&bomb, Timestamp(60), Offset(0)..ALL, 1000);
    assert_eq!(found, Some((Timestamp(100), Offset(10))));
    assert_eq!(newest(&bomb, Offset(0)..ALL, 1000), Some((Timestamp(100), Offset(10))));
}
