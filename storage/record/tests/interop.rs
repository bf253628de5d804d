//! Another implementation of the format, the `kafka-protocol` crate, agrees with ours in both
//! directions and with every codec.

use bytes::{Bytes, BytesMut};
use kafka_protocol::indexmap::IndexMap;
use kafka_protocol::protocol::StrBytes;
use kafka_protocol::records::{
    Compression, Record, RecordBatchDecoder, RecordBatchEncoder, RecordEncodeOptions,
    TimestampType as TheirTimestampType,
};
use tidemill_record::{
    Batch, BatchBuilder, Codec, Contents, Header, LeaderEpoch, Limits, Marker, Offset, Outcome,
    Producer, ProducerEpoch, ProducerId, Sequence, Timestamp, TimestampType, stamp,
    stamp_log_append_time, validate,
};

const NOW: Timestamp = Timestamp(1_700_000_000_000);
const PRODUCER: Producer = Producer { id: ProducerId(4711), epoch: ProducerEpoch(2) };
const MIB: usize = 1 << 20;
const CLIENT: Limits = Limits { batch_bytes_max: 1 << 20, control_allowed: false };

const CODECS: [(Codec, Compression); 5] = [
    (Codec::None, Compression::None),
    (Codec::Gzip, Compression::Gzip),
    (Codec::Snappy, Compression::Snappy),
    (Codec::Lz4, Compression::Lz4),
    (Codec::Zstd, Compression::Zstd),
];

/// Their record number `i`, with all that a record can carry, and more than one block of it.
fn their_record(i: usize) -> Record {
    let value = format!("value {i} ").repeat(i * 10);
    Record {
        transactional: true,
        control: false,
        delete_horizon: false,
        partition_leader_epoch: 7,
        producer_id: PRODUCER.id.0,
        producer_epoch: PRODUCER.epoch.0,
        timestamp_type: TheirTimestampType::Creation,
        offset: 1000 + i as i64,
        sequence: 50 + i as i32,
        timestamp: NOW.0 + (i as i64 % 5) * 1000,
        key: (!i.is_multiple_of(3)).then(|| Bytes::from(format!("key {i}"))),
        value: (!i.is_multiple_of(4)).then(|| Bytes::from(value)),
        headers: (0..i % 3)
            .map(|h| {
                let value = (h == 0).then(|| Bytes::from_static(b"header"));
                (StrBytes::from_string(format!("h{h}")), value)
            })
            .collect(),
    }
}

/// What another client encodes is valid to us, and we read from it what it put in.
#[test]
fn batches_of_another_client_are_read() {
    let records: Vec<Record> = (0..100).map(their_record).collect();
    for (codec, compression) in CODECS {
        let mut bytes = BytesMut::new();
        let options = RecordEncodeOptions { version: 2, compression };
        RecordBatchEncoder::encode(&mut bytes, &records, &options).expect("it encodes");

        let validated = validate(&bytes, &CLIENT).expect("valid to us");
        assert_eq!(validated.compression(), codec);
        assert_eq!(validated.base_offset(), Offset(1000));
        assert_eq!(validated.records_count(), 100);
        assert_eq!(validated.leader_epoch(), LeaderEpoch(7));
        assert_eq!(validated.producer(), Some(PRODUCER));
        assert_eq!(validated.base_sequence(), Some(Sequence(50)));
        assert_eq!(validated.max_timestamp(), NOW.plus_ms(4000));
        assert!(validated.is_transactional());

        let (batch, _) = Batch::parse(&bytes).expect("a batch");
        let contents = Contents::open(&batch, MIB).expect("it decompresses");
        let mut theirs = records.iter();
        for ours in contents.records() {
            let (ours, theirs) = (ours.expect("readable"), theirs.next().expect("as many"));
            assert_eq!(ours.offset, Offset(theirs.offset));
            assert_eq!(ours.timestamp, Timestamp(theirs.timestamp));
            assert_eq!(ours.key, theirs.key.as_deref());
            assert_eq!(ours.value, theirs.value.as_deref());
            let headers = theirs.headers.iter();
            let headers =
                headers.map(|(key, value)| Header { key: key.as_bytes(), value: value.as_deref() });
            assert!(ours.headers.into_iter().eq(headers));
        }
        assert!(theirs.next().is_none());
    }
}

fn decode(bytes: BytesMut) -> Vec<Record> {
    let mut bytes = bytes.freeze();
    RecordBatchDecoder::decode(&mut bytes).expect("valid to them").records
}

/// What we build, another client reads, stamped as a leader would stamp it.
#[test]
fn batches_of_ours_are_read_by_another_client() {
    for (codec, _) in CODECS {
        let mut builder = BatchBuilder::new(codec).numbered(PRODUCER, Sequence(7));
        let value = b"a value that repeats ".repeat(50);
        for i in 0..200u32 {
            let header = Header { key: b"number", value: Some(&i.to_be_bytes()) };
            let key = i.to_string();
            let key = (i % 2 == 0).then_some(key.as_bytes());
            let headers = std::slice::from_ref(&header);
            builder.append_with_headers(NOW.plus_ms(i.into()), key, Some(&value), headers);
        }
        let mut bytes = builder.build();
        stamp(&mut bytes, Offset(5000), LeaderEpoch(3));

        let records = decode(bytes);
        assert_eq!(records.len(), 200, "{codec:?}");
        for (i, record) in (0u32..).zip(&records) {
            assert_eq!(record.offset, 5000 + i64::from(i));
            assert_eq!(record.timestamp, NOW.0 + i64::from(i));
            assert_eq!(record.sequence, 7 + i as i32);
            assert_eq!((record.producer_id, record.producer_epoch), (4711, 2));
            assert_eq!(record.partition_leader_epoch, 3);
            let key = (i % 2 == 0).then(|| Bytes::from(i.to_string()));
            assert_eq!(record.key, key);
            assert_eq!(record.value.as_deref(), Some(&value[..]));
            let number = (StrBytes::from_static_str("number"), Some(i.to_be_bytes().to_vec()));
            let headers: IndexMap<StrBytes, Option<Bytes>> =
                [number].into_iter().map(|(k, v)| (k, v.map(Bytes::from))).collect();
            assert_eq!(record.headers, headers);
        }
    }
}

/// A batch stamped with the time of its append is one to another client too: flag and checksum.
#[test]
fn the_time_of_the_append_is_understood_by_another_client() {
    let mut builder = BatchBuilder::new(Codec::Lz4);
    builder.append(NOW, None, Some(b"value"));
    let mut bytes = builder.build();
    stamp_log_append_time(&mut bytes, NOW.plus_ms(5));
    let (batch, _) = Batch::parse(&bytes).expect("a batch");
    assert_eq!(batch.timestamp_type(), TimestampType::LogAppendTime);
    let records = decode(bytes);
    assert_eq!(records[0].timestamp_type, TheirTimestampType::LogAppend);
}

/// Markers are control batches to another client, with key and value as the protocol has them.
#[test]
fn markers_are_understood_by_another_client() {
    for (outcome, kind) in [(Outcome::Abort, 0), (Outcome::Commit, 1)] {
        let marker = Marker { outcome, coordinator_epoch: 11 };
        let records = decode(marker.to_batch(PRODUCER, NOW));
        assert_eq!(records.len(), 1);
        assert!(records[0].control && records[0].transactional);
        assert_eq!(records[0].producer_id, PRODUCER.id.0);
        assert_eq!(records[0].key.as_deref(), Some(&[0, 0, 0, kind][..]));
        assert_eq!(records[0].value.as_deref(), Some(&[0, 0, 0, 0, 0, 11][..]));
    }
}
