//! What must hold for any bytes whatsoever: they are a batch or an error, never a panic, and what
//! they are does not depend on how often one asks.
//!
//! Shared by the fuzz target, by the test that replays the corpus, and by the property tests.

use tidemill_record::{
    Batch, BatchBuilder, Codec, Contents, HEADER_BYTES, LeaderEpoch, Limits, Marker, Offset,
    PREFIX_BYTES, Record, Timestamp, checksum, decompress, stamp, stamp_log_append_time, validate,
};

const DECOMPRESSED_BYTES_MAX: usize = 256 * 1024;

/// Reads the bytes in every way there is: as a batch, as one whose length, version and checksum
/// have been put right (no fuzzer guesses a checksum), and as compressed bytes.
pub(crate) fn check(bytes: &[u8]) {
    check_batch(bytes);
    if HEADER_BYTES <= bytes.len() {
        let mut bytes = bytes.to_vec();
        put_right(&mut bytes);
        check_batch(&bytes);
    }
    for codec in Codec::ALL {
        if let Ok(opened) = decompress(codec, bytes, DECOMPRESSED_BYTES_MAX) {
            assert!(opened.len() <= DECOMPRESSED_BYTES_MAX);
        }
    }
}

fn put_right(bytes: &mut [u8]) {
    let batch_length = (bytes.len() - PREFIX_BYTES) as i32;
    bytes[8..12].copy_from_slice(&batch_length.to_be_bytes());
    bytes[16] = 2;
    let crc = checksum::crc32c(&bytes[checksum::COVERED_FROM..]);
    bytes[17..21].copy_from_slice(&crc.to_be_bytes());
}

fn check_batch(bytes: &[u8]) {
    let limits = Limits { batch_bytes_max: 1024 * 1024, control_allowed: true };
    let validated = validate(bytes, &limits);
    let Ok((batch, rest)) = Batch::parse(bytes) else {
        assert!(validated.is_err(), "who validates has parsed");
        return;
    };
    assert_eq!(batch.bytes().len() + rest.len(), bytes.len());
    assert_eq!(batch.bytes().len(), HEADER_BYTES + batch.payload().len());
    assert!(batch.base_offset() <= batch.last_offset());
    assert_eq!(batch.header().to_native().to_bytes()[..], bytes[..HEADER_BYTES]);

    let _ = Marker::read(&batch);
    check_contents(&batch);
    if let Ok(validated) = validated {
        assert!(rest.is_empty() && batch.verify_checksum().is_ok());
        assert_eq!(validated.next_offset().distance_from(validated.base_offset()), {
            i64::from(validated.records_count())
        });
        check_stamping(bytes, &limits);
    }
}

fn check_contents(batch: &Batch<'_>) {
    let Ok(contents) = Contents::open(batch, DECOMPRESSED_BYTES_MAX) else { return };
    let walked: Result<Vec<Record<'_>>, _> = contents.records().collect();
    let summary = contents.survey();
    let Ok(records) = walked else {
        assert!(summary.is_err(), "what cannot be walked cannot be surveyed");
        return;
    };
    let summary = summary.expect("what was walked can be surveyed");
    assert_eq!(records.len(), batch.records_count() as usize);
    assert_eq!(summary.latest.is_none(), records.is_empty());
    let latest = records.iter().map(|record| record.timestamp).max();
    assert_eq!(summary.latest.map(|(latest, _)| latest), latest);
    for record in &records {
        assert!(batch.base_offset() <= record.offset && record.offset <= batch.last_offset());
        assert_eq!(record.headers.into_iter().count(), record.headers.count() as usize);
    }
    if !records.is_empty() {
        check_rebuilding(&records);
    }
}

/// What was read can be written, and is then read as the same.
fn check_rebuilding(records: &[Record<'_>]) {
    let first = records[0].timestamp.0;
    if records.iter().any(|record| record.timestamp.0.checked_sub(first).is_none()) {
        return;
    }
    let mut builder = BatchBuilder::new(Codec::None);
    for record in records {
        let headers: Vec<_> = record.headers.into_iter().collect();
        builder.append_with_headers(record.timestamp, record.key, record.value, &headers);
    }
    let bytes = builder.build();
    let (batch, _) = Batch::parse(&bytes).expect("just built");
    let contents = Contents::open(&batch, usize::MAX).expect("not compressed");
    assert!(contents.records().map(|record| record.expect("just built")).zip(records).all(
        |(rebuilt, record)| {
            (rebuilt.timestamp, rebuilt.key, rebuilt.value)
                == (record.timestamp, record.key, record.value)
                && rebuilt.headers.into_iter().eq(record.headers)
        }
    ));
}

/// A stamped batch is as valid as before, with its new place or its new time.
fn check_stamping(bytes: &[u8], limits: &Limits) {
    let mut bytes = bytes.to_vec();
    stamp(&mut bytes, Offset(77), LeaderEpoch(3));
    stamp_log_append_time(&mut bytes, Timestamp(99));
    let stamped = validate(&bytes, limits).expect("stamping leaves a batch valid");
    assert_eq!((stamped.base_offset(), stamped.leader_epoch()), (Offset(77), LeaderEpoch(3)));
    assert_eq!(stamped.max_timestamp(), Timestamp(99));
}
