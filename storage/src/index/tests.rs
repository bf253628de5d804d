//! What an index finds, and its file byte by byte.

use tidemill_record::{PartitionId, TopicId};

use super::*;

const BASE: Offset = Offset(1000);
const GENERATION: u32 = 7;

fn partition() -> TopicPartition {
    TopicPartition { topic: TopicId([0xab; 16]), partition: PartitionId(3) }
}

/// Batches of ten records and these many bytes, with these timestamps; and those bytes.
fn index_of(batches: &[(usize, i64)]) -> (Index, Vec<u8>) {
    let mut index = Index::new(partition(), BASE);
    let mut segment = Vec::new();
    for (i, &(size_bytes, timestamp)) in batches.iter().enumerate() {
        let bytes: Vec<u8> = (0..size_bytes).map(|at| (at * 31 + i) as u8).collect();
        index.append(&IndexedBatch {
            next_offset: index.next_offset().plus(10),
            size_bytes: size_bytes as u32,
            raw_crc: checksum::crc32c(&bytes),
            max_timestamp: Timestamp(timestamp),
        });
        segment.extend_from_slice(&bytes);
    }
    (index, segment)
}

/// Three spans: 40 batches of 1000 bytes with rising timestamps give 33, 7 of them open, and
/// a big one that closes its span at once.
fn three_spans() -> (Index, Vec<u8>) {
    let mut batches: Vec<(usize, i64)> = (0..40).map(|i| (1000, 100 * i)).collect();
    batches.push((100_000, 50));
    batches.push((61, 9000));
    index_of(&batches)
}

/// Whole batches, at least 32 KiB; whatever its size, a batch lies in one span.
#[test]
fn a_span_closes_with_the_batch_that_makes_it_long_enough() {
    let (index, segment) = three_spans();
    let spans: Vec<Span> = index.spans_from(0).collect();
    let ranges: Vec<_> = spans.iter().map(|span| (span.position, span.end())).collect();
    assert_eq!(ranges, [(0, 33_000), (33_000, 140_000), (140_000, 140_061)]);
    assert_eq!(index.size_bytes(), segment.len() as u64);

    let offsets: Vec<_> = spans.iter().map(|span| span.base_offset.0).collect();
    assert_eq!(offsets, [1000, 1330, 1410]);
    assert_eq!(spans[2].next_offset, index.next_offset());
}

#[test]
fn an_offset_is_found_in_the_one_span_that_holds_it() {
    let (index, _) = three_spans();
    let holding = |offset| index.span_holding(Offset(offset));
    assert_eq!(holding(999), None, "below the segment");
    assert_eq!(holding(1000), Some(0));
    assert_eq!(holding(1329), Some(0));
    assert_eq!(holding(1330), Some(1));
    assert_eq!(holding(1419), Some(2));
    assert_eq!(holding(1420), None, "not yet appended");
    assert_eq!(Index::new(partition(), BASE).span_holding(BASE), None);
}

/// ListOffsets by time: the first record at or after it, even where timestamps go back.
#[test]
fn a_timestamp_is_found_in_the_first_span_that_reaches_it() {
    let (index, _) = three_spans();
    let at_time = |ms| index.span_at_time(Timestamp(ms));
    assert_eq!(at_time(i64::MIN), Some(0));
    assert_eq!(at_time(3200), Some(0));
    assert_eq!(at_time(3201), Some(1));
    assert_eq!(at_time(3901), Some(2), "the big batch's own timestamp is older");
    assert_eq!(at_time(9001), None);
    assert_eq!(index.max_timestamp(), Timestamp(9000));
}

/// A block written to the wrong place must not pass for the right one.
#[test]
fn a_spans_checksum_covers_its_bytes_and_their_place() {
    let (index, segment) = three_spans();
    for span in index.spans_from(0) {
        let bytes = &segment[span.position as usize..span.end() as usize];
        assert_eq!(Index::crc_of(partition(), span.position, bytes), span.crc);
        assert_ne!(Index::crc_of(partition(), span.position + 1, bytes), span.crc);

        let elsewhere = TopicPartition { partition: PartitionId(4), ..partition() };
        assert_ne!(Index::crc_of(elsewhere, span.position, bytes), span.crc);
        let mut damaged = bytes.to_vec();
        damaged[bytes.len() / 2] ^= 1;
        assert_ne!(Index::crc_of(partition(), span.position, &damaged), span.crc);
    }
}

/// The rest of a cut span has a checksum nobody knows, so it is made again from its batches.
#[test]
fn a_cut_forgets_every_span_that_reaches_above_it() {
    let (whole, _) = three_spans();
    let cut = |position| {
        let mut index = whole.clone();
        let again_from = index.cut(position);
        (again_from, index.spans_count(), index.next_offset().0)
    };
    assert_eq!(cut(140_061), (140_061, 3, 1420));
    assert_eq!(cut(140_060), (140_000, 2, 1410));
    assert_eq!(cut(33_000), (33_000, 1, 1330));
    assert_eq!(cut(32_999), (0, 0, 1000));

    let (first_span, _) = index_of(&vec![(1000, 0); 33]);
    let mut index = index_of(&vec![(1000, 0); 40]).0;
    index.cut(33_000);
    assert_eq!(index, first_span);
}

#[test]
fn a_file_is_read_back_as_written() {
    for (index, _) in [three_spans(), index_of(&[])] {
        let file = index.encode(GENERATION);
        assert!(crate::block::is_aligned(file.len() as u64));
        assert_eq!(Index::decode(&file, partition(), BASE, GENERATION), Ok(index));
    }
}

/// The index of a segment that was cut away must not be taken for its successor's.
#[test]
fn the_index_of_another_segment_is_refused() {
    let file = three_spans().0.encode(GENERATION);
    let another = Err(IndexError::OfAnotherSegment);
    assert_eq!(Index::decode(&file, partition(), BASE, GENERATION + 1), another);
    assert_eq!(Index::decode(&file, partition(), Offset(0), GENERATION), another);
    let elsewhere = TopicPartition { partition: PartitionId(4), ..partition() };
    assert_eq!(Index::decode(&file, elsewhere, BASE, GENERATION), another);
}

/// One bit anywhere in the file, or a missing end, and it is built again instead.
#[test]
fn a_damaged_file_is_refused() {
    let (index, _) = three_spans();
    let file = index.encode(GENERATION);
    let used = HEADER_BYTES + 3 * ENTRY_BYTES;
    for at in 0..used {
        let mut damaged = file.to_vec();
        damaged[at] ^= 0x10;
        assert!(Index::decode(&damaged, partition(), BASE, GENERATION).is_err(), "byte {at}");
        assert!(Index::decode(&file[..at], partition(), BASE, GENERATION).is_err());
    }
}

#[test]
fn a_newer_version_is_told_apart_from_damage() {
    let mut file = three_spans().0.encode(GENERATION).to_vec();
    file[9] = 2;
    let refused = Index::decode(&file, partition(), BASE, GENERATION);
    assert_eq!(refused, Err(IndexError::UnknownVersion { found: 2 }));
}

/// The bytes of version 1, for ever.
#[test]
fn the_file_format_is_this() {
    let (index, _) = index_of(&[(256, 5)]);
    let file = index.encode(GENERATION);
    #[rustfmt::skip]
    let expected = [
        b'T', b'I', b'D', b'E', b'I', b'N', b'D', b'X',
        0, 1,                                           // version
        0, 0,                                           // reserved
        0, 0, 0, 3,                                     // partition
        0xab, 0xab, 0xab, 0xab, 0xab, 0xab, 0xab, 0xab, // topic
        0xab, 0xab, 0xab, 0xab, 0xab, 0xab, 0xab, 0xab,
        0, 0, 0, 7,                                     // generation
        0, 0, 0, 0, 0, 0, 3, 0xe8,                      // base offset
        0, 0, 0, 0, 0, 0, 3, 0xf2,                      // next offset
        0, 0, 1, 0,                                     // size of the segment
        0, 0, 0, 1,                                     // entries
    ];
    assert_eq!(file[..CRC_AT], expected);
    #[rustfmt::skip]
    let expected = [
        0, 0, 0, 0, 0, 0, 3, 0xe8,                      // base offset
        0, 0, 0, 0, 0, 0, 0, 5,                         // newest timestamp so far
        0, 0, 0, 0,                                     // position
    ];
    assert_eq!(file[HEADER_BYTES..HEADER_BYTES + 20], expected);
    assert_eq!(file.len(), 4096);
}
