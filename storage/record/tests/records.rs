//! Walking the records of a batch: what is found, and what is noticed.

use tidemill_record::{
    Batch, BatchBuilder, Codec, Contents, DecompressError, Header, Offset, RecordError, Summary,
    Timestamp, checksum, stamp,
};

const NOW: Timestamp = Timestamp(1_700_000_000_000);
const MIB: usize = 1024 * 1024;

/// A batch around these bytes instead of records made by the builder.
fn batch_around(records_count: i32, last_offset_delta: i32, payload: &[u8]) -> Vec<u8> {
    let mut builder = BatchBuilder::new(Codec::None);
    builder.append(NOW, None, None);
    let header = builder.build()[..tidemill_record::HEADER_BYTES].to_vec();
    let mut batch = [&header[..], payload].concat();
    let batch_length = batch.len() as i32 - 12;
    batch[8..12].copy_from_slice(&batch_length.to_be_bytes());
    batch[23..27].copy_from_slice(&last_offset_delta.to_be_bytes());
    batch[57..61].copy_from_slice(&records_count.to_be_bytes());
    let crc = checksum::crc32c(&batch[checksum::COVERED_FROM..]);
    batch[17..21].copy_from_slice(&crc.to_be_bytes());
    batch
}

fn survey(batch: &[u8]) -> Result<Summary, RecordError> {
    let (batch, _) = Batch::parse(batch).expect("a readable header");
    Contents::open(&batch, MIB)?.survey()
}

/// An empty record: attributes, two deltas, no key, no value, no headers.
fn empty_record(offset_delta: u8) -> Vec<u8> {
    vec![12, 0, 0, offset_delta * 2, 1, 1, 0]
}

/// Keys, values, headers and times come back as they were put in, with every codec. Headers may
/// repeat their name, and have no value.
#[test]
fn records_come_back_as_they_were_put_in() {
    let headers = [
        Header { key: b"trace", value: Some(b"1") },
        Header { key: b"trace", value: Some(b"2") },
        Header { key: b"", value: None },
    ];
    for codec in Codec::ALL {
        let mut builder = BatchBuilder::new(codec);
        builder.append_with_headers(NOW, Some(b"k"), Some(b"v"), &headers);
        builder.append(NOW.plus_ms(-5), None, Some(b""));
        builder.append(Timestamp::NONE, Some(b""), None);
        let mut bytes = builder.build();
        stamp(&mut bytes, Offset(500), tidemill_record::LeaderEpoch(1));

        let (batch, _) = Batch::parse(&bytes).expect("a batch");
        let contents = Contents::open(&batch, MIB).expect("it decompresses");
        let records: Vec<_> = contents.records().map(|record| record.expect("readable")).collect();

        assert_eq!(records.len(), 3);
        assert_eq!(records[0].offset, Offset(500));
        assert_eq!((records[0].key, records[0].value), (Some(&b"k"[..]), Some(&b"v"[..])));
        assert_eq!(records[0].headers.count(), 3);
        assert!(records[0].headers.into_iter().eq(headers));
        assert_eq!((records[1].offset, records[1].timestamp), (Offset(501), NOW.plus_ms(-5)));
        assert_eq!((records[1].key, records[1].value), (None, Some(&b""[..])));
        assert_eq!((records[2].offset, records[2].timestamp), (Offset(502), Timestamp::NONE));
        assert_eq!((records[2].key, records[2].value), (Some(&b""[..]), None));
        assert!(records[2].headers.is_empty());
    }
}

/// A search by time finds the first record, by offset, that is not older; times may go back.
#[test]
fn the_first_record_since_a_time_is_found() {
    let mut builder = BatchBuilder::new(Codec::None);
    for ms in [10, 30, 20, 30] {
        builder.append(Timestamp(ms), None, None);
    }
    let bytes = builder.build();
    let (batch, _) = Batch::parse(&bytes).expect("a batch");
    let contents = Contents::open(&batch, MIB).expect("uncompressed");
    let since = |ms| contents.first_since(Timestamp(ms)).expect("readable");

    assert_eq!(since(0), Some((Timestamp(10), Offset(0))));
    assert_eq!(since(11), Some((Timestamp(30), Offset(1))));
    assert_eq!(since(30), Some((Timestamp(30), Offset(1))));
    assert_eq!(since(31), None);
}

/// A survey tells the latest time, with the first record that has it, and whether keys lack.
#[test]
fn a_survey_finds_the_latest_time_and_the_first_missing_key() {
    let mut builder = BatchBuilder::new(Codec::Zstd);
    builder.append(Timestamp(10), Some(b"a"), None);
    builder.append(Timestamp(30), None, None);
    builder.append(Timestamp(30), None, None);
    let summary = survey(&builder.build()).expect("readable");
    assert_eq!(summary.latest, Some((Timestamp(30), Offset(1))));
    assert_eq!(summary.first_without_key, Some(Offset(1)));
}

/// Compaction leaves gaps, and may leave nothing at all. Both are read.
#[test]
fn gaps_left_by_compaction_are_read() {
    let payload = [empty_record(1), empty_record(7)].concat();
    let bytes = batch_around(2, 9, &payload);
    let (batch, _) = Batch::parse(&bytes).expect("a batch");
    let contents = Contents::open(&batch, MIB).expect("uncompressed");
    let offsets: Vec<_> = contents.records().map(|r| r.expect("readable").offset).collect();
    assert_eq!(offsets, [Offset(1), Offset(7)]);

    let empty = survey(&batch_around(0, 9, &[]));
    assert_eq!(empty, Ok(Summary { latest: None, first_without_key: None }));
}

/// Offsets rise and stay within the batch.
#[test]
fn offsets_that_do_not_rise_are_refused() {
    let repeated = [empty_record(0), empty_record(0)].concat();
    let refused = RecordError::OffsetDeltaOutOfOrder { found: 0, lowest: 1, highest: 1 };
    assert_eq!(survey(&batch_around(2, 1, &repeated)), Err(refused));

    let beyond = [empty_record(0), empty_record(2)].concat();
    let refused = RecordError::OffsetDeltaOutOfOrder { found: 2, lowest: 1, highest: 1 };
    assert_eq!(survey(&batch_around(2, 1, &beyond)), Err(refused));

    // An offset delta of −1.
    let refused = RecordError::OffsetDeltaOutOfOrder { found: -1, lowest: 0, highest: 0 };
    assert_eq!(survey(&batch_around(1, 0, &[12, 0, 0, 1, 1, 1, 0])), Err(refused));
}

/// The header's count and the bytes must agree.
#[test]
fn more_or_fewer_records_than_counted_are_refused() {
    let two = [empty_record(0), empty_record(1)].concat();
    let refused = RecordError::TrailingBytes { extra_bytes: empty_record(1).len() };
    assert_eq!(survey(&batch_around(1, 0, &two)), Err(refused));
    let refused = RecordError::Truncated { needed_bytes: 1, found_bytes: 0 };
    assert_eq!(survey(&batch_around(3, 2, &two)), Err(refused));
    // Two thousand million records in seven bytes: an error, and no memory for them.
    assert_eq!(survey(&batch_around(i32::MAX, i32::MAX - 1, &two)), Err(refused));
}

/// Each record, each key, value and header must end where it said, inside of what it is in.
#[test]
fn lengths_that_do_not_fit_are_refused() {
    let cases: [(&str, &[u8]); 9] = [
        ("a record of −1 bytes", &[1]),
        ("a record of −2 bytes", &[3]),
        ("a record longer than the batch", &[14, 0, 0, 0, 1, 1, 0]),
        ("a key longer than the record", &[12, 0, 0, 0, 200, 1, 0]),
        ("a key of −2 bytes", &[12, 0, 0, 0, 3, 1, 0]),
        ("a value longer than the record", &[12, 0, 0, 0, 1, 6, 0]),
        ("−1 headers", &[12, 0, 0, 0, 1, 1, 1]),
        ("a header that is not there", &[12, 0, 0, 0, 1, 1, 2]),
        ("a header without a name", &[16, 0, 0, 0, 1, 1, 2, 1, 1]),
    ];
    for (what, payload) in cases {
        assert!(survey(&batch_around(1, 0, payload)).is_err(), "{what}");
    }
    let left_over = survey(&batch_around(1, 0, &[14, 0, 0, 0, 1, 1, 0, 9]));
    assert_eq!(left_over, Err(RecordError::TrailingBytes { extra_bytes: 1 }));
}

/// A varint has at most 32 bits, a varlong 64. Longer ones would be read differently by others.
#[test]
fn numbers_longer_than_their_type_are_refused() {
    let long_varint = [0xff, 0xff, 0xff, 0xff, 0x1f];
    assert_eq!(
        survey(&batch_around(1, 0, &long_varint)),
        Err(RecordError::NumberTooLong { bits_max: 32 })
    );
    let endless_varint = [0x80; 6];
    assert_eq!(
        survey(&batch_around(1, 0, &endless_varint)),
        Err(RecordError::NumberTooLong { bits_max: 32 })
    );
    let mut long_varlong = vec![60, 0];
    long_varlong.extend([0xff; 9]);
    long_varlong.push(2);
    long_varlong.extend([0; 30]);
    assert_eq!(
        survey(&batch_around(1, 0, &long_varlong)),
        Err(RecordError::NumberTooLong { bits_max: 64 })
    );
}

/// A delta that leads beyond the range of timestamps is refused, not wrapped around.
#[test]
fn a_timestamp_out_of_range_is_refused() {
    let mut record = vec![30, 0];
    record.extend([0xfe, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01]);
    record.extend([0, 1, 1, 0]);
    let refused = RecordError::TimestampOutOfRange { base: NOW, delta: i64::MAX };
    assert_eq!(survey(&batch_around(1, 0, &record)), Err(refused));
}

/// After an error the walk is over: what follows cannot be trusted to be where it seems.
#[test]
fn a_walk_ends_at_the_first_error() {
    let bytes = batch_around(2, 1, &[empty_record(5), empty_record(0)].concat());
    let (batch, _) = Batch::parse(&bytes).expect("a batch");
    let contents = Contents::open(&batch, MIB).expect("uncompressed");
    let mut records = contents.records();
    assert!(records.next().is_some_and(|record| record.is_err()));
    assert!(records.next().is_none());
}

/// The limit of a decompressed batch is the reader's to set.
#[test]
fn a_batch_that_decompresses_beyond_the_limit_is_refused() {
    let mut builder = BatchBuilder::new(Codec::Gzip);
    builder.append(NOW, None, Some(&vec![0; MIB]));
    let refused = survey(&builder.build());
    let too_large = DecompressError::TooLarge { limit_bytes: MIB };
    assert_eq!(refused, Err(RecordError::Decompress(too_large)));
}
