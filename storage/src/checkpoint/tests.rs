//! A checkpoint byte by byte; what is read back of it, and what is refused.

use tidemill_record::LeaderEpoch;

use super::*;

fn state() -> LogState {
    let partition = TopicPartition { topic: TopicId([0xab; 16]), partition: PartitionId(7) };
    let segment = SegmentState {
        base_offset: Offset(3),
        next_offset: Offset(9),
        generation: 1,
        size_bytes: 0x321,
        max_timestamp: Timestamp(0x44),
        opened_ms: 0x45,
        appended_ms: 0x46,
        compaction: 6,
        index_crc: 7,
    };
    let mut epochs = LeaderEpochs::default();
    epochs.note(LeaderEpoch(2), Offset(3));
    LogState {
        partition,
        home: 5,
        generation: 1,
        start: Offset(4),
        end: Offset(9),
        synced: Place { offset: Offset(8), segment: Offset(3), position: 0x300 },
        segments: vec![segment],
        doomed: vec![SegmentName { base_offset: Offset(0), compaction: 5 }],
        compactions: 6,
        compacted_to: Offset(9),
        epochs,
        damaged: vec![Offset(5)..Offset(6)],
        ..LogState::new(partition)
    }
}

fn snapshot() -> Snapshot {
    let replay_from =
        ReplayFrom { sequence: 11, file_number: 2, position: 0x1000, previous_checksum: 77 };
    Snapshot { shard: 5, incarnation: 12, number: 3, replay_from, logs: vec![state()] }
}

/// The bytes of version 3, for ever.
#[test]
fn the_file_format_is_this() {
    #[rustfmt::skip]
    let expected_header = [
        b'T', b'I', b'D', b'E', b'S', b'N', b'A', b'P',
        0, 3,                               // version
        0, 5,                               // shard
        0, 0, 0, 0,
        0, 0, 0, 0, 0, 0, 0, 12,            // incarnation
        0, 0, 0, 0, 0, 0, 0, 3,             // number
        0, 0, 0, 0, 0, 0, 0, 11,            // replay from: sequence
        0, 0, 0, 2,                         // file
        0, 0, 0, 77,                        // checksum of the window before
        0, 0, 0, 0, 0, 0, 0x10, 0,          // position
        0, 0, 0, 0, 0, 0, 1, 0x21,          // bytes in all
        0, 0, 0, 1,                         // logs
    ];
    #[rustfmt::skip]
    let expected_log = [
        0xab, 0xab, 0xab, 0xab, 0xab, 0xab, 0xab, 0xab,
        0xab, 0xab, 0xab, 0xab, 0xab, 0xab, 0xab, 0xab,
        0, 0, 0, 7,                         // partition
        0, 5,                               // home shard
        0, 0, 0, 1,                         // generation
        0,                                  // not dropped
        0, 0, 0, 0, 0, 0, 0, 4,             // start
        0, 0, 0, 0, 0, 0, 0, 9,             // end
        0, 0, 0, 0, 0, 0, 0, 8,             // synced: offset
        0, 0, 0, 0, 0, 0, 0, 3,             // segment
        0, 0, 0, 0, 0, 0, 3, 0,             // position
        0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, // not broken
        0, 0, 0, 1,                         // segments
        0, 0, 0, 0, 0, 0, 0, 3,             // base offset
        0, 0, 0, 0, 0, 0, 0, 9,             // next offset
        0, 0, 0, 1,                         // generation
        0, 0, 0, 0, 0, 0, 3, 0x21,          // size
        0, 0, 0, 0, 0, 0, 0, 0x44,          // newest timestamp
        0, 0, 0, 0, 0, 0, 0, 0x45,          // opened
        0, 0, 0, 0, 0, 0, 0, 0x46,          // last appended to
        0, 0, 0, 6,                         // compaction
        0, 0, 0, 7,                         // checksum of its index
        0, 0, 0, 1,                         // deleted segments
        0, 0, 0, 0, 0, 0, 0, 0,
        0, 0, 0, 5,
        0, 0, 0, 1,                         // damaged ranges
        0, 0, 0, 0, 0, 0, 0, 5,
        0, 0, 0, 0, 0, 0, 0, 6,
        0, 0, 0, 1,                         // leader epochs
        0, 0, 0, 2,
        0, 0, 0, 0, 0, 0, 0, 3,
        1,                                  // producers: version
        0, 0, 0, 0,                         // none
        1,                                  // transactions: version
        0, 0, 0, 0,                         // no producers
        0, 0, 0, 0,                         // none aborted
        0, 0, 0, 6,                         // compactions
        0, 0, 0, 0, 0, 0, 0, 9,             // compacted to
    ];
    let file = snapshot().encode();
    assert_eq!(file.len(), BLOCK_BYTES);
    assert_eq!(file[..CHECKSUM_AT], expected_header);
    let log = &file[SNAPSHOT_HEADER_BYTES..][..expected_log.len()];
    assert_eq!(log, expected_log);
    assert_eq!(SNAPSHOT_HEADER_BYTES + expected_log.len(), 289);
}

/// A node goes on with what a program before transactions or before compaction has left, and
/// is told apart from one whose program is newer.
#[test]
fn older_versions_are_read_and_a_newer_one_refused() {
    const TRANSACTIONS_BYTES: usize = 9;
    const SEGMENT_AT: usize = SNAPSHOT_HEADER_BYTES + 79;
    const DOOMED_AT: usize = SEGMENT_AT + 60 + 4;
    let file = snapshot().encode();
    let total = Snapshot::total_bytes(&file).unwrap() as usize;
    let with_version = |version: u8, mut bytes: Vec<u8>| {
        bytes[9] = version;
        let size = bytes.len() as u64;
        bytes[CHECKSUM_AT - 12..CHECKSUM_AT - 4].copy_from_slice(&size.to_be_bytes());
        let checksum = file_checksum(&bytes);
        bytes[CHECKSUM_AT..SNAPSHOT_HEADER_BYTES].copy_from_slice(&checksum.to_be_bytes());
        bytes
    };
    let mut before_compaction = file[..total - 12].to_vec();
    before_compaction.drain(DOOMED_AT + 8..DOOMED_AT + 12);
    before_compaction.drain(SEGMENT_AT + 52..SEGMENT_AT + 60);
    let mut known = snapshot();
    (known.logs[0].compactions, known.logs[0].compacted_to) = (0, Offset(0));
    known.logs[0].doomed[0].compaction = 0;
    let segment = &mut known.logs[0].segments[0];
    (segment.compaction, segment.index_crc) = (0, 0);

    let version_2 = with_version(2, before_compaction.clone());
    assert_eq!(Snapshot::decode(&version_2), Ok(known.clone()));
    before_compaction.truncate(before_compaction.len() - TRANSACTIONS_BYTES);
    let version_1 = with_version(1, before_compaction);
    assert_eq!(Snapshot::decode(&version_1), Ok(known));
    let newer = with_version(4, file[..total].to_vec());
    assert_eq!(Snapshot::decode(&newer), Err(SnapshotError::NewerFormat { found: 4 }));
}

#[test]
fn a_snapshot_is_read_back_as_written() {
    assert_eq!(Snapshot::decode(&snapshot().encode()), Ok(snapshot()));
}

/// A torn or rotten slot is not taken for a checkpoint.
#[test]
fn every_damaged_byte_is_noticed() {
    let sound = snapshot().encode();
    let total = Snapshot::total_bytes(&sound).unwrap() as usize;
    for at in 0..total {
        let mut damaged = sound.to_vec();
        damaged[at] ^= 1;
        assert_eq!(Snapshot::decode(&damaged), Err(SnapshotError::Damaged), "byte {at}");
    }
    for cut in 0..total {
        assert_eq!(Snapshot::decode(&sound[..cut]), Err(SnapshotError::Damaged));
    }
}
