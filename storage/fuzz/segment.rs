//! What must hold for any bytes of a segment and its index: whatever is returned is proved, and
//! every walk ends.
//!
//! Shared by the fuzz target and by the test that replays the corpus.

use bytes::Bytes;
use tidemill_record::{Batch, Offset, PartitionId, TopicId, TopicPartition, checksum};
use tidemill_storage::block::{AlignedBytes, round_up};
use tidemill_storage::epochs::LeaderEpochs;
use tidemill_storage::index::{Index, IndexedBatch};
use tidemill_storage::inspect::SegmentInspection;
use tidemill_storage::producers::Producers;
use tidemill_storage::read::{Boundary, Damage, ReadPlan, SegmentWalk, Wanted};

const BATCH_BYTES_MAX: u32 = 1 << 20;
const ALL: Offset = Offset(i64::MAX);

/// Reads the bytes in every way there is: as a segment, as one with an index made for other
/// bytes, as an index file, as the tables in a checkpoint.
pub(crate) fn check(bytes: &[u8]) {
    let index = walk(bytes);
    inspect(bytes);
    read_everything(&index, index.size_bytes(), bytes, true);
    // An index that claims all of the bytes: what does not match it must come out as damage.
    read_everything(&false_index(bytes), bytes.len() as u64, bytes, false);

    check_index_file(bytes);
    check_index_file(&with_index_put_right(bytes));
    if let Ok(epochs) = LeaderEpochs::decode(&mut &bytes[..]) {
        let mut again = Vec::new();
        epochs.encode(&mut again);
        assert!(bytes.starts_with(&again));
    }
    if let Ok(producers) = Producers::decode(&mut &bytes[..]) {
        let mut again = Vec::new();
        producers.encode(&mut again);
        assert!(bytes.starts_with(&again));
    }
}

fn check_index_file(bytes: &[u8]) {
    let Ok(index) = Index::decode(bytes, partition(), Offset::ZERO, 0) else { return };
    assert!(index.spans_from(0).all(|span| span.base_offset < span.next_offset));
    let again = index.encode(0);
    assert_eq!(Index::decode(&again, partition(), Offset::ZERO, 0), Ok(index));
}

/// The bytes with the checksum an index file would have: no fuzzer guesses one.
fn with_index_put_right(bytes: &[u8]) -> Vec<u8> {
    const COUNT_AT: usize = 56;
    const CRC_AT: usize = 60;
    let mut bytes = bytes.to_vec();
    if let Some(count) = bytes.get(COUNT_AT..CRC_AT) {
        let count = u32::from_be_bytes(count.try_into().expect("four bytes"));
        let end = (CRC_AT + 4).saturating_add((count as usize).saturating_mul(24));
        if end <= bytes.len() {
            let crc = checksum::crc32c(&bytes[..CRC_AT]);
            let crc = checksum::append(crc, &bytes[CRC_AT + 4..end]);
            bytes[CRC_AT..CRC_AT + 4].copy_from_slice(&crc.to_be_bytes());
        }
    }
    bytes
}

fn partition() -> TopicPartition {
    TopicPartition { topic: TopicId([3; 16]), partition: PartitionId(1) }
}

fn disk_read(bytes: &[u8], position: u64, size_bytes: u32) -> Bytes {
    let start = (position as usize).min(bytes.len());
    let end = (start + size_bytes as usize).min(bytes.len());
    AlignedBytes::copy_of(&bytes[start..end]).freeze()
}

/// The index of what is sound at the front of the bytes.
fn walk(bytes: &[u8]) -> Index {
    let index = Index::new(partition(), Offset::ZERO);
    let mut walk =
        SegmentWalk::new(index, LeaderEpochs::default(), bytes.len() as u64, ALL, BATCH_BYTES_MAX);
    let mut steps = 0;
    while let Some((position, size_bytes)) = walk.next_read() {
        steps += 1;
        assert!(steps <= 2 * bytes.len() + 2, "a walk ends");
        assert!(size_bytes <= round_up(u64::from(BATCH_BYTES_MAX)) as u32 + 8192);
        let read = disk_read(bytes, position, size_bytes);
        let outcome = walk.take(&read, |batch, _| assert!(batch.verify_checksum().is_ok()));
        if outcome.is_err() {
            break;
        }
    }
    walk.into_index()
}

fn inspect(bytes: &[u8]) {
    let mut inspection = SegmentInspection::new(Offset::ZERO, bytes.len() as u64);
    let mut steps = 0;
    while let Some((position, size_bytes)) = inspection.next_read() {
        steps += 1;
        assert!(steps <= 2 * bytes.len() + 2, "an inspection ends");
        let end = (position + u64::from(size_bytes)) as usize;
        inspection.take(&bytes[position as usize..end], |_| {});
    }
}

/// An index of batches of a hundred bytes each, whatever the bytes are.
fn false_index(bytes: &[u8]) -> Index {
    let mut index = Index::new(partition(), Offset::ZERO);
    for piece in bytes.chunks(100) {
        index.append(&IndexedBatch {
            next_offset: index.next_offset().plus(1),
            size_bytes: piece.len() as u32,
            raw_crc: 0,
            max_timestamp: tidemill_record::Timestamp(0),
        });
    }
    index
}

fn read_everything(index: &Index, size_bytes: u64, bytes: &[u8], sound: bool) {
    let written = Boundary { position: size_bytes, offset: index.next_offset() };
    let mut from = Offset::ZERO;
    while from < index.next_offset() {
        let wanted = Wanted { from, visible_end: ALL, limit_bytes: 1000, min_one: true };
        let plan = ReadPlan::new(index, written, wanted, 65_536).expect("the index holds it");
        let cut = plan.cut(&disk_read(bytes, plan.position(), plan.size_bytes()));
        let mut rest = &cut.batches[..];
        while !rest.is_empty() {
            let (batch, behind) = Batch::parse(rest).expect("whole batches");
            assert!(batch.verify_checksum().is_ok(), "nothing unproved is returned");
            rest = behind;
        }
        if sound {
            assert!(cut.damage.is_none() && from < cut.next_offset);
        }
        from = match cut.damage {
            Some(Damage { start, end }) if cut.next_offset <= from => {
                assert!(start.offset <= end.offset && start.position < end.position);
                end.offset.max(from.plus(1))
            }
            _ => cut.next_offset.max(from.plus(1)),
        };
    }
}
