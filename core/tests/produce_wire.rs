//! Produce as it is on the wire: each fault of a batch with its error, what acks mean, the order of
//! answers, and what becomes of a batch in the log.
// Fixtures are tests, though they are no test functions.
#![allow(clippy::unwrap_used)]

mod process;
mod wire;

use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use process::Broker;
use tidemill_net::kafka::api_versions::ApiVersionsRequest;
use tidemill_net::kafka::fetch::{FetchPartition, OutgoingFetch};
use tidemill_net::kafka::init_producer_id::InitProducerIdRequest;
use tidemill_net::kafka::metadata::{MetadataRequest, MetadataRequestTopic};
use tidemill_net::kafka::produce::{OutgoingProduce, OutgoingProducePartition};
use tidemill_net::kafka::{ErrorCode, TopicRef, encode_request};
use tidemill_record::{
    Batch, BatchBuilder, Codec, Producer, ProducerEpoch, ProducerId, Sequence, Timestamp, TopicId,
};
use wire::Client;
use wire::records::{appending, batch_of, part};

/// The last version that names topics.
const BY_NAME: i16 = 12;
const BY_ID: i16 = 13;

fn one_shard(name: &str) -> (Broker, Client) {
    let broker = Broker::start(name, &["--shards", "1"]);
    let client = Client::open(&broker);
    (broker, client)
}

/// What became of one batch for partition 0.
fn sent(client: &mut Client, version: i16, topic: &str, records: &[u8]) -> (ErrorCode, i64) {
    let parts = [part(topic, 0, records)];
    client.produce_with(version, &appending(&parts), |told| {
        let told = &told.partitions[0];
        (told.error_code, told.base_offset)
    })
}

/// The batch with a change, and a checksum that is right for it.
fn changed(batch: &[u8], change: impl FnOnce(&mut [u8])) -> Vec<u8> {
    let mut bytes = batch.to_vec();
    change(&mut bytes);
    let crc = tidemill_record::checksum::crc32c(&bytes[21..]);
    bytes[17..21].copy_from_slice(&crc.to_be_bytes());
    bytes
}

/// Where things stand in the header of a batch.
mod at {
    pub(crate) const LENGTH: usize = 8;
    pub(crate) const MAGIC: usize = 16;
    pub(crate) const ATTRIBUTES: usize = 21;
    pub(crate) const LAST_DELTA: usize = 23;
    pub(crate) const PRODUCER_ID: usize = 43;
    pub(crate) const PRODUCER_EPOCH: usize = 51;
    pub(crate) const SEQUENCE: usize = 53;
    pub(crate) const COUNT: usize = 57;
}

fn put<const N: usize>(bytes: &mut [u8], position: usize, field: [u8; N]) {
    bytes[position..position + N].copy_from_slice(&field);
}

/// Every fault of a batch has the error that tells the client what to do, and leaves nothing in the
/// log; a partition beside it gets its own batch all the same.
#[test]
fn each_fault_of_a_batch_has_its_error() {
    let (_broker, mut client) = one_shard("produce-faults");
    client.create("t", 2);
    let sound = batch_of(&["a", "b", "c"]);
    let with = |change: fn(&mut [u8])| changed(&sound, change);
    let short = sound.len() as i32 - 12 - 1;
    let (invalid, corrupt) = (ErrorCode::InvalidRecord, ErrorCode::CorruptMessage);
    let old_format = ErrorCode::UnsupportedForMessageFormat;
    let faults: Vec<(&str, Vec<u8>, ErrorCode)> = vec![
        ("no bytes", Vec::new(), corrupt),
        ("half a header", sound[..40].to_vec(), corrupt),
        ("cut short", sound[..sound.len() - 1].to_vec(), corrupt),
        ("a length below the header", with(|b| put(b, at::LENGTH, 48_i32.to_be_bytes())), corrupt),
        ("a negative length", with(|b| put(b, at::LENGTH, (-1_i32).to_be_bytes())), corrupt),
        ("a byte too many", changed(&sound, |b| put(b, at::LENGTH, short.to_be_bytes())), invalid),
        ("magic 1", with(|b| b[at::MAGIC] = 1), old_format),
        ("magic 3", with(|b| b[at::MAGIC] = 3), old_format),
        ("a wrong checksum", [&sound[..sound.len() - 1], b"!"].concat(), corrupt),
        ("two batches", [&sound[..], &sound[..]].concat(), invalid),
        ("no records", with(|b| put(b, at::COUNT, 0_i32.to_be_bytes())), invalid),
        ("fewer than offsets", with(|b| put(b, at::COUNT, 2_i32.to_be_bytes())), invalid),
        ("more than offsets", with(|b| put(b, at::LAST_DELTA, 1_i32.to_be_bytes())), invalid),
        ("codec 5", with(|b| b[at::ATTRIBUTES + 1] = 5), invalid),
        ("a marker", with(|b| b[at::ATTRIBUTES + 1] = 0x20), invalid),
        ("an id, no epoch", with(|b| put(b, at::PRODUCER_ID, 9_i64.to_be_bytes())), invalid),
        (
            "an id and an epoch, no sequence",
            with(|b| {
                put(b, at::PRODUCER_ID, 9_i64.to_be_bytes());
                put(b, at::PRODUCER_EPOCH, 0_i16.to_be_bytes());
            }),
            invalid,
        ),
        (
            "an id and a sequence, no epoch",
            with(|b| {
                put(b, at::PRODUCER_ID, 9_i64.to_be_bytes());
                put(b, at::SEQUENCE, 0_i32.to_be_bytes());
            }),
            invalid,
        ),
        ("a transaction of nobody", with(|b| b[at::ATTRIBUTES + 1] = 0x10), invalid),
    ];
    for (index, (fault, bytes, error)) in faults.iter().enumerate() {
        let parts = [part("t", 0, bytes), part("t", 1, &sound)];
        client.produce_with(BY_NAME, &appending(&parts), |told| {
            let [faulty, beside] = &told.partitions[..] else { panic!("{told:?}") };
            assert_eq!((faulty.error_code, faulty.base_offset), (*error, -1), "{fault}");
            assert!(faulty.error_message.is_some(), "{fault}");
            let offset = 3 * index as i64;
            assert_eq!((beside.error_code, beside.base_offset), (ErrorCode::None, offset));
        });
    }
    assert_eq!(sent(&mut client, BY_NAME, "t", &sound), (ErrorCode::None, 0), "nothing is there");
    // A transactional batch in a request that names no transaction.
    let producer = Producer { id: ProducerId(9), epoch: ProducerEpoch(0) };
    let mut stray = BatchBuilder::new(Codec::None).numbered(producer, Sequence(0)).transactional();
    stray.append(Timestamp(1), None, Some(b"v"));
    let error = sent(&mut client, BY_NAME, "t", &stray.build()).0;
    assert_eq!(error, ErrorCode::TransactionalIdAuthorizationFailed);
}

/// The largest batch is measured as it comes, compressed and with its prefix; the limit itself fits.
#[test]
fn a_batch_may_be_as_large_as_the_topic_says() {
    let (_broker, mut client) = one_shard("produce-large");
    let sound = batch_of(&["a value of some bytes"]);
    let limit = |bytes: usize| bytes.to_string();
    let fits = limit(sound.len());
    client.create_with("fits", 1, &[("max.message.bytes", fits.as_str())]);
    let small = limit(sound.len() - 1);
    client.create_with("small", 1, &[("max.message.bytes", small.as_str())]);
    client.create("default", 1);
    assert_eq!(sent(&mut client, BY_NAME, "fits", &sound), (ErrorCode::None, 0));
    assert_eq!(sent(&mut client, BY_NAME, "small", &sound).0, ErrorCode::MessageTooLarge);
    let of_size = |bytes: usize| {
        let with = |value_bytes: usize| batch_of(&["v".repeat(value_bytes).as_str()]);
        let nearly = bytes - 100;
        with(nearly + bytes - with(nearly).len())
    };
    const DEFAULT: usize = 1_048_588;
    let largest = of_size(DEFAULT);
    assert_eq!(largest.len(), DEFAULT);
    assert_eq!(sent(&mut client, BY_NAME, "default", &largest).0, ErrorCode::None);
    let too_large = of_size(DEFAULT + 1);
    assert_eq!(sent(&mut client, BY_NAME, "default", &too_large).0, ErrorCode::MessageTooLarge);
    // Compressed it is small enough.
    let mut builder = BatchBuilder::new(Codec::Lz4);
    builder.append(Timestamp(1), None, Some(&[b'v'; 2 * DEFAULT]));
    assert_eq!(sent(&mut client, BY_NAME, "default", &builder.build()).0, ErrorCode::None);
}

/// Zstd is refused from who cannot know it; formats that are not stored are refused in the answer's
/// own version, and the connection goes on.
#[test]
fn old_versions_are_told_what_they_cannot_send() {
    let (_broker, mut client) = one_shard("produce-versions");
    client.create("t", 1);
    let mut builder = BatchBuilder::new(Codec::Zstd);
    builder.append(Timestamp(1), None, Some(b"v"));
    let zstd = builder.build();
    for version in [3, 6] {
        let error = sent(&mut client, version, "t", &zstd).0;
        assert_eq!(error, ErrorCode::UnsupportedCompressionType, "version {version}");
    }
    assert_eq!(sent(&mut client, 7, "t", &zstd), (ErrorCode::None, 0));
    let plain = batch_of(&["v"]);
    for version in 0..=2 {
        let error = sent(&mut client, version, "t", &plain).0;
        assert_eq!(error, ErrorCode::UnsupportedForMessageFormat, "version {version}");
    }
    for (version, offset) in (3..=BY_NAME).zip(1..) {
        assert_eq!(sent(&mut client, version, "t", &plain), (ErrorCode::None, offset));
    }
}

/// Records without a key are named to who sent them to a compacted topic, from version 8 on, and
/// what is wrong with them is said; older versions get the error. The batch is refused as a whole.
#[test]
fn records_without_a_key_are_named_one_by_one() {
    let (_broker, mut client) = one_shard("produce-keys");
    client.create_with("t", 1, &[("cleanup.policy", "compact")]);
    for codec in [Codec::None, Codec::Lz4] {
        let mut builder = BatchBuilder::new(codec);
        for key in [Some(&b"k"[..]), None, Some(b"k"), None] {
            builder.append(Timestamp(1), key, Some(b"v"));
        }
        let keyless = builder.build();
        for version in [7, 8, BY_NAME] {
            let parts = [part("t", 0, &keyless)];
            client.produce_with(version, &appending(&parts), |told| {
                let told = &told.partitions[0];
                assert_eq!((told.error_code, told.base_offset), (ErrorCode::InvalidRecord, -1));
                let named: Vec<i32> = told.record_errors.iter().map(|e| e.batch_index).collect();
                let expected: &[i32] = if version < 8 { &[] } else { &[1, 3] };
                assert_eq!(named, expected, "version {version}, {codec:?}");
                assert_eq!(told.error_message.is_some(), 8 <= version);
            });
        }
    }
    let mut sound = BatchBuilder::new(Codec::None);
    sound.append(Timestamp(1), Some(b"k"), None);
    assert_eq!(sent(&mut client, BY_NAME, "t", &sound.build()), (ErrorCode::None, 0));
}

fn with_acks<'a>(acks: i16, partitions: &'a [OutgoingProducePartition<'a>]) -> OutgoingProduce<'a> {
    OutgoingProduce { acks, ..appending(partitions) }
}

/// With acks=0 nothing is answered: the next answer is the next request's. Where something cannot be
/// stored the connection is closed, so that the client looks for itself.
#[test]
fn nothing_is_answered_where_nothing_is_asked_for() {
    let (broker, mut client) = one_shard("produce-acks-0");
    client.create("t", 1);
    let batch = batch_of(&["v"]);
    let sound = [part("t", 0, &batch)];
    for correlation in 0..3 {
        client.send_produce(BY_NAME, correlation, &with_acks(0, &sound));
    }
    let told = client.produce_with(BY_NAME, &with_acks(1, &sound), |told| {
        assert_eq!(told.partitions.len(), 1);
        told.partitions[0].base_offset
    });
    assert_eq!(told, 3, "the answer to the fourth");

    let corrupt = changed(&batch, |b| b[at::ATTRIBUTES + 1] = 5);
    for refused in [part("no", 0, &batch), part("t", 7, &batch), part("t", 0, &corrupt)] {
        let mut client = Client::open(&broker);
        client.send_produce(BY_NAME, 1, &with_acks(-1, &sound));
        client.send_produce(BY_NAME, 2, &with_acks(0, &[refused]));
        client.take_produced(BY_NAME, |correlation, _| assert_eq!(correlation, 1));
        client.expect_closed();
    }
}

/// Acks other than 0, 1 and all are refused for each partition. With fewer replicas than a topic
/// wants, all of them cannot have it, and one can.
#[test]
fn acks_say_who_must_have_a_batch() {
    let (_broker, mut client) = one_shard("produce-acks");
    client.create("t", 2);
    client.create_with("safe", 1, &[("min.insync.replicas", "2")]);
    let batch = batch_of(&["v"]);
    for acks in [2, -2, i16::MAX] {
        let parts = [part("t", 0, &batch), part("t", 1, &batch)];
        client.produce_with(BY_NAME, &with_acks(acks, &parts), |told| {
            let errors: Vec<ErrorCode> = told.partitions.iter().map(|p| p.error_code).collect();
            assert_eq!(errors, [ErrorCode::InvalidRequiredAcks; 2]);
        });
    }
    let mut to = |topic, acks| {
        let parts = [part(topic, 0, &batch)];
        client.produce_with(BY_NAME, &with_acks(acks, &parts), |told| {
            (told.partitions[0].error_code, told.partitions[0].base_offset)
        })
    };
    assert_eq!(to("safe", -1), (ErrorCode::NotEnoughReplicas, -1));
    assert_eq!(to("safe", 1), (ErrorCode::None, 0), "nothing was appended before");
    assert_eq!(to("t", 1), (ErrorCode::None, 0));
    assert_eq!(to("t", -1), (ErrorCode::None, 1));
}

/// Requests may be sent without waiting: answers come in their order, also behind a fetch that
/// waits, and a producer's batches are appended in theirs.
#[test]
fn answers_come_in_the_order_of_requests() {
    let broker = Broker::start("produce-order", &["--shards", "2"]);
    let mut client = Client::open(&broker);
    client.create("t", 2);
    client.create("empty", 1);
    let waiting = FetchPartition::from_consumer(TopicRef::Name("empty"), 0, 0, 1 << 20);
    let fetch =
        OutgoingFetch { max_wait_ms: 300, partitions: &[waiting], ..OutgoingFetch::default() };
    client.send_fetch(BY_NAME, 99, &fetch);
    let producer = Producer { id: ProducerId(1 << 40), epoch: ProducerEpoch(0) };
    for sequence in 0..5 {
        let mut builder = BatchBuilder::new(Codec::None).numbered(producer, Sequence(sequence));
        builder.append(Timestamp(1), None, Some(b"v"));
        let batch = builder.build();
        // Both partitions: one of them lives on the shard that did not accept the connection.
        let parts = [part("t", 0, &batch), part("t", 1, &batch)];
        client.send_produce(BY_NAME, sequence, &appending(&parts));
    }
    let mut last = BytesMut::new();
    encode_request(&mut last, 9, 100, Some("test"), &MetadataRequest::default());
    client.send(&last);

    let frame = client.receive();
    assert_eq!(frame[..4], 99_i32.to_be_bytes(), "the fetch, though it had to wait");
    for number in 0..5 {
        client.take_produced(BY_NAME, |correlation, told| {
            assert_eq!(correlation, number);
            for told in &told.partitions[..] {
                let expected = (ErrorCode::None, i64::from(number));
                assert_eq!((told.error_code, told.base_offset), expected);
            }
        });
    }
    assert_eq!(client.receive()[..4], 100_i32.to_be_bytes());
}

/// A request of nothing is answered with nothing. A partition without records is refused, and one
/// that is named twice both times; those beside them are not.
#[test]
fn nothing_null_and_twice_are_no_batches() {
    let (_broker, mut client) = one_shard("produce-nothing");
    client.create("t", 3);
    client.produce_with(BY_NAME, &appending(&[]), |told| assert!(told.partitions.is_empty()));
    let batch = batch_of(&["v"]);
    let null = OutgoingProducePartition { records: None, ..part("t", 0, &[]) };
    let parts = [null, part("t", 1, &batch), part("t", 2, &batch), part("t", 1, &batch)];
    client.produce_with(BY_NAME, &appending(&parts), |told| {
        let told: Vec<_> = told.partitions.iter().map(|p| (p.partition, p.error_code)).collect();
        let twice = (1, ErrorCode::InvalidRequest);
        assert_eq!(told, [(0, ErrorCode::InvalidRecord), twice, (2, ErrorCode::None), twice]);
    });
    // With acks=0, too, these are errors; a request of nothing is not.
    client.send_produce(BY_NAME, 1, &with_acks(0, &[]));
    assert_eq!(sent(&mut client, BY_NAME, "t", &batch), (ErrorCode::None, 0));
    client.send_produce(BY_NAME, 1, &with_acks(0, &parts[..1]));
    client.expect_closed();
}

/// What is not there is told by name and by id each in its own word, and nothing is made by asking.
#[test]
fn unknown_topics_are_told_and_not_made() {
    let (_broker, mut client) = one_shard("produce-unknown");
    client.create("t", 1);
    let batch = batch_of(&["v"]);
    let unknown = ErrorCode::UnknownTopicOrPartition;
    assert_eq!(sent(&mut client, BY_NAME, "never", &batch), (unknown, -1));
    assert_eq!(sent(&mut client, BY_NAME, "", &batch).0, unknown);
    for (topic, partition, error) in [
        (TopicRef::Id(TopicId([9; 16])), 0, ErrorCode::UnknownTopicId),
        (TopicRef::Id(TopicId::ZERO), 0, ErrorCode::UnknownTopicId),
        (TopicRef::Name("t"), 1, unknown),
        (TopicRef::Name("t"), -1, unknown),
    ] {
        let parts = [OutgoingProducePartition { topic, partition, records: Some(&batch) }];
        let version = if matches!(topic, TopicRef::Id(_)) { BY_ID } else { BY_NAME };
        client.produce_with(version, &appending(&parts), |told| {
            assert_eq!(told.partitions[0].error_code, error, "{topic:?} {partition}");
        });
    }
    let all = MetadataRequest { topics: None, ..MetadataRequest::default() };
    let told = client.ask(9, &all);
    let names: Vec<_> = told.topics.iter().map(|topic| topic.name.as_deref().unwrap()).collect();
    assert_eq!(names, ["t"]);
}

/// Of a batch the broker sets the offset and the leader epoch, which is the one that metadata tells,
/// and nothing else: all behind them comes back as it was sent.
#[test]
fn a_batch_is_stamped_with_its_offset_and_epoch() {
    let (mut broker, mut client) = one_shard("produce-stamps");
    client.create("t", 1);
    let batch = batch_of(&["a", "b"]);
    sent(&mut client, BY_NAME, "t", &batch);
    broker.kill();
    broker.run();
    let mut client = Client::open(&broker);
    let told = client.produce("t", 0, &batch);
    assert_eq!((told.base_offset, told.log_append_time_ms), (2, -1), "the producer's time counts");
    let topic = MetadataRequestTopic { name: Some("t".to_owned()), ..Default::default() };
    let request = MetadataRequest { topics: Some(vec![topic]), ..MetadataRequest::default() };
    let epoch = client.ask(9, &request).topics[0].partitions[0].leader_epoch;
    assert!(0 < epoch);
    for (base, epoch) in [(0, epoch - 1), (2, epoch)] {
        let wanted = FetchPartition::from_consumer(TopicRef::Name("t"), 0, base, 1 << 20);
        let fetch = OutgoingFetch { partitions: &[wanted], ..OutgoingFetch::default() };
        client.fetch_with(BY_NAME, &fetch, |told| {
            let records = told.partitions[0].records.concat();
            let (found, _) = Batch::parse(&records).unwrap();
            assert_eq!((found.base_offset().0, found.leader_epoch().0), (base, epoch));
            found.verify_checksum().unwrap();
            assert_eq!(found.bytes()[16..], batch[16..], "verbatim");
        });
    }
}

/// A batch that comes again is answered with the time that it was stamped with, not with now.
#[test]
fn a_duplicate_is_told_the_time_of_the_original() {
    let (_broker, mut client) = one_shard("produce-time");
    client.create_with("t", 1, &[("message.timestamp.type", "LogAppendTime")]);
    let request = InitProducerIdRequest { transactional_id: None, ..Default::default() };
    let told = client.ask(4, &request);
    let id = ProducerId(told.producer_id);
    let producer = Producer { id, epoch: ProducerEpoch(told.producer_epoch) };
    let mut builder = BatchBuilder::new(Codec::None).numbered(producer, Sequence(0));
    builder.append(Timestamp(1), None, Some(b"v"));
    let batch: Bytes = builder.build().freeze();
    let first = client.produce("t", 0, &batch);
    assert!(0 < first.log_append_time_ms);
    // The clock goes on by a millisecond at least.
    let start = Instant::now();
    while start.elapsed() < Duration::from_millis(2) {
        std::hint::spin_loop();
    }
    let again = client.produce("t", 0, &batch);
    assert_eq!(again.error_code, ErrorCode::None);
    let told = (again.base_offset, again.log_append_time_ms);
    assert_eq!(told, (0, first.log_append_time_ms));
}

/// A producer without a transaction always gets a number of its own and epoch 0, also one that names
/// the number it had, as in Kafka; and no number is given out twice, also not after a kill.
#[test]
fn no_producer_number_is_given_out_twice() {
    let mut broker = Broker::start("produce-ids", &["--shards", "2"]);
    let mut seen = Vec::new();
    for _ in 0..2 {
        for _ in 0..4 {
            let mut client = Client::open(&broker);
            let request = InitProducerIdRequest { transactional_id: None, ..Default::default() };
            let told = client.ask(1, &request);
            let named = InitProducerIdRequest {
                producer_id: told.producer_id,
                producer_epoch: told.producer_epoch,
                ..request
            };
            let again = client.ask(4, &named);
            let torn = InitProducerIdRequest { producer_epoch: -1, ..named };
            assert_eq!(client.ask(4, &torn).error_code, ErrorCode::InvalidRequest);
            for told in [told, again] {
                assert_eq!((told.error_code, told.producer_epoch), (ErrorCode::None, 0));
                assert!(0 <= told.producer_id && !seen.contains(&told.producer_id));
                seen.push(told.producer_id);
            }
        }
        broker.kill();
        broker.run();
    }
}

/// A body that cannot be read ends the connection: what follows cannot be understood either.
#[test]
fn a_damaged_request_closes_the_connection() {
    let (broker, mut client) = one_shard("produce-damaged");
    client.create("t", 1);
    let batch = batch_of(&["v"]);
    let mut out = BytesMut::new();
    let parts = [part("t", 0, &batch)];
    appending(&parts).encode(&mut out, 8, 7, Some("test"));
    // The number of topics, behind the header, the transaction, the acks and the timeout.
    let count = out.len() - batch.len() - 4 - 4 - 4 - 3 - 4;
    assert_eq!(out[count..count + 4], 1_i32.to_be_bytes());
    out[count..count + 4].copy_from_slice(&i32::MAX.to_be_bytes());
    client.send(&out);
    client.expect_closed();
    let mut client = Client::open(&broker);
    assert_eq!(client.ask(0, &ApiVersionsRequest::default()).error_code, ErrorCode::None);
}
