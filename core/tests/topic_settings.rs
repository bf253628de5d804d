//! What topics may be set to, carried out by the real binary: whose clock stamps records and how
//! far a producer's may be off, and the codec they are kept in.
// Fixtures are tests, though they are no test functions.
#![allow(clippy::unwrap_used)]

mod process;
mod wire;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use process::Broker;
use tidemill_net::kafka::ErrorCode;
use tidemill_net::kafka::alter_configs::operation;
use tidemill_net::kafka::describe_configs::resource;
use tidemill_record::{Batch, BatchBuilder, Codec, Contents, Timestamp, TimestampType};
use wire::Client;

const HOUR: i64 = Duration::from_hours(1).as_millis() as i64;

fn now_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as i64
}

fn batch(codec: Codec, times: &[i64]) -> bytes::BytesMut {
    let mut builder = BatchBuilder::new(codec);
    times.iter().for_each(|&time| builder.append(Timestamp(time), None, Some(&[b'v'; 100])));
    builder.build()
}

/// A record further ahead of the broker's clock than the topic allows refuses its batch; an hour
/// is allowed unless it is set otherwise, which counts at once and for ever.
#[test]
fn records_from_the_future_are_refused() {
    let mut broker = Broker::start("future", &["--shards", "2"]);
    let mut client = Client::open(&broker);
    client.create("t", 1);
    let ahead = |ms| batch(Codec::None, &[now_ms(), now_ms() + ms]);
    let produced = client.produce("t", 0, &ahead(HOUR - 60_000));
    assert_eq!((produced.error_code, produced.log_append_time_ms), (ErrorCode::None, -1));
    let refused = client.produce("t", 0, &ahead(2 * HOUR));
    assert_eq!(refused.error_code, ErrorCode::InvalidTimestamp);
    assert!(refused.error_message.is_some_and(|why| why.contains("ahead")));

    let name = "message.timestamp.after.max.ms";
    let more = (3 * HOUR).to_string();
    let set = [(name, operation::SET, Some(more.as_str()))];
    assert_eq!(client.alter(resource::TOPIC, "t", &set), ErrorCode::None);
    assert_eq!(client.produce("t", 0, &ahead(2 * HOUR)).error_code, ErrorCode::None);
    broker.kill();
    broker.run();
    let mut client = Client::open(&broker);
    assert_eq!(client.produce("t", 0, &ahead(2 * HOUR)).error_code, ErrorCode::None);
    // Without a timestamp there is nothing to compare.
    let none = batch(Codec::None, &[Timestamp::NONE.0]);
    assert_eq!(client.produce("t", 0, &none).error_code, ErrorCode::None);
}

/// A record further behind than the topic allows refuses its batch wherever in it it lies, and
/// whatever the codec.
#[test]
fn records_from_the_past_are_refused_where_asked() {
    let broker = Broker::start("past", &["--shards", "2"]);
    let mut client = Client::open(&broker);
    client.create("any", 1);
    client.create_with("t", 1, &[("message.timestamp.before.max.ms", "600000")]);
    let now = now_ms();
    for codec in [Codec::None, Codec::Lz4] {
        let sound = batch(codec, &[now, now - 500_000, now]);
        assert_eq!(client.produce("t", 0, &sound).error_code, ErrorCode::None, "{codec:?}");
        for times in [[now, now - 700_000, now], [now - 700_000, now, now]] {
            let old = batch(codec, &times);
            let refused = client.produce("t", 0, &old);
            assert_eq!(refused.error_code, ErrorCode::InvalidTimestamp, "{codec:?}");
            assert_eq!(client.produce("any", 0, &old).error_code, ErrorCode::None);
        }
    }
    let told = client.fetch("t", -1, |told| told.partitions[0].high_watermark);
    assert_eq!(told, 6, "nothing of what was refused is there");
}

/// With LogAppendTime the broker's clock counts, for whatever the producer says; the answer tells
/// the time, and readers see it on every record.
#[test]
fn the_brokers_clock_stamps_where_asked() {
    let broker = Broker::start("append-time", &[]);
    let mut client = Client::open(&broker);
    let bounds = [
        ("message.timestamp.type", "LogAppendTime"),
        ("message.timestamp.before.max.ms", "1"),
        ("message.timestamp.after.max.ms", "1"),
    ];
    // A shard looks at the clock once in each turn, before it sees what has come: a batch is stamped later
    // than the request before it was sent.
    let before = now_ms();
    client.create_with("t", 1, &bounds);
    let produced = client.produce("t", 0, &batch(Codec::None, &[5, 1 << 50]));
    assert_eq!(produced.error_code, ErrorCode::None);
    let told = produced.log_append_time_ms;
    assert!((before..=now_ms()).contains(&told));
    client.fetch("t", -1, |fetched| {
        let records = fetched.partitions[0].records.concat();
        let (batch, _) = Batch::parse(&records).unwrap();
        batch.verify_checksum().unwrap();
        assert_eq!(batch.timestamp_type(), TimestampType::LogAppendTime);
        assert_eq!(batch.max_timestamp(), Timestamp(told));
    });
    // Only the broker may say that.
    client.create("u", 1);
    let mut lie = batch(Codec::None, &[before]);
    tidemill_record::stamp_log_append_time(&mut lie, Timestamp(before));
    assert_eq!(client.produce("u", 0, &lie).error_code, ErrorCode::InvalidTimestamp);
}

/// A topic's batches are kept in its codec, whatever they were sent in; those sent in it are kept as
/// they were, and so is everything where the producer decides.
#[test]
fn batches_are_kept_in_the_codec_of_their_topic() {
    let broker = Broker::start("kept-codec", &["--shards", "2"]);
    let mut client = Client::open(&broker);
    let kept = [
        ("uncompressed", Codec::None),
        ("gzip", Codec::Gzip),
        ("snappy", Codec::Snappy),
        ("lz4", Codec::Lz4),
        ("zstd", Codec::Zstd),
    ];
    let now = now_ms();
    for (name, codec) in kept {
        client.create_with(name, 1, &[("compression.type", name)]);
        for sent in [Codec::None, Codec::Gzip, Codec::Zstd] {
            let produced = client.produce(name, 0, &batch(sent, &[now, now + 1, now]));
            assert_eq!(produced.error_code, ErrorCode::None, "{sent:?} to {name}");
        }
        client.fetch(name, -1, |fetched| {
            let records = fetched.partitions[0].records.concat();
            let mut rest = &records[..];
            for base in [0, 3, 6] {
                let (batch, more) = Batch::parse(rest).unwrap();
                batch.verify_checksum().unwrap();
                assert_eq!((batch.compression(), batch.base_offset().0), (codec, base));
                let contents = Contents::open(&batch, 1 << 20).unwrap();
                let values = contents.records().map(|r| r.unwrap().value.unwrap().to_vec());
                assert_eq!(values.collect::<Vec<_>>(), vec![vec![b'v'; 100]; 3]);
                rest = more;
            }
            assert!(rest.is_empty());
        });
    }
    client.create("p", 1);
    let sent = batch(Codec::Gzip, &[now]);
    client.produce("p", 0, &sent);
    client.fetch("p", -1, |fetched| {
        let records = fetched.partitions[0].records.concat();
        assert_eq!(records[61..], sent[61..], "verbatim");
    });
    // What is too large once it is as the topic wants it is refused, and nothing of it is kept.
    client.create_with(
        "small",
        1,
        &[("compression.type", "uncompressed"), ("max.message.bytes", "2000")],
    );
    let large = batch(Codec::Zstd, &[now; 100]);
    assert!(large.len() < 2000);
    assert_eq!(client.produce("small", 0, &large).error_code, ErrorCode::MessageTooLarge);
    assert_eq!(client.produce("small", 0, &batch(Codec::Zstd, &[now])).base_offset, 0);
    // Records that cannot be read are told as such, where they are looked at.
    let mut broken = batch(Codec::None, &[now; 3]).to_vec();
    broken[61] = 0x7e;
    let crc = tidemill_record::checksum::crc32c(&broken[21..]);
    broken[17..21].copy_from_slice(&crc.to_be_bytes());
    assert_eq!(client.produce("lz4", 0, &broken).error_code, ErrorCode::InvalidRecord);
}
