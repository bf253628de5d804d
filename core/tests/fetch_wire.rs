//! Fetch as it is on the wire: which batches come, how long an answer waits, and what is told of
//! partitions that cannot be read.
// Fixtures are tests, though they are no test functions.
#![allow(clippy::unwrap_used)]

mod process;
mod wire;

use std::time::{Duration, Instant};

use process::Broker;
use tidemill_net::kafka::delete_records::{
    DeleteRecordsPartition, DeleteRecordsRequest, DeleteRecordsTopic,
};
use tidemill_net::kafka::delete_topics::DeleteTopicsRequest;
use tidemill_net::kafka::fetch::{FetchPartition, FetchResponse, OutgoingFetch};
use tidemill_net::kafka::metadata::{MetadataRequest, MetadataRequestTopic};
use tidemill_net::kafka::{ErrorCode, TopicRef};
use tidemill_record::{Batch, BatchBuilder, Codec, Timestamp, TopicId};
use wire::Client;
use wire::records::batch_of;

/// The last version that names topics.
const BY_NAME: i16 = 12;
const BY_ID: i16 = 13;
const NEWEST: i16 = 18;
/// Longer than any test may take: who waits so long was forgotten.
const FOR_EVER_MS: i32 = 600_000;
const SOON: Duration = Duration::from_secs(30);

fn start(name: &str, shards: &str) -> (Broker, Client) {
    let broker = Broker::start(name, &["--shards", shards]);
    let client = Client::open(&broker);
    (broker, client)
}

fn of(topic: &str, partition: i32, from: i64) -> FetchPartition<'_> {
    FetchPartition::from_consumer(TopicRef::Name(topic), partition, from, 1 << 20)
}

/// A fetch that does not wait.
fn now<'a>(partitions: &'a [FetchPartition<'a>]) -> OutgoingFetch<'a> {
    OutgoingFetch { max_wait_ms: 0, partitions, ..OutgoingFetch::default() }
}

/// Deletes the records before an offset: what is told, and where the log begins then.
fn trim(client: &mut Client, topic: &str, offset: i64) -> (ErrorCode, i64) {
    let partition = DeleteRecordsPartition { partition_index: 0, offset };
    let topic = DeleteRecordsTopic { name: topic.to_owned(), partitions: vec![partition] };
    let request = DeleteRecordsRequest { topics: vec![topic], timeout_ms: 30_000 };
    let told = client.ask(2, &request).topics.remove(0).partitions.remove(0);
    (told.error_code, told.low_watermark)
}

/// The base offsets of the batches that came of each partition.
fn bases(told: &FetchResponse<'_>) -> Vec<(i32, Vec<i64>)> {
    let of_partition = told.partitions.iter().map(|part| {
        assert_eq!(part.error_code, ErrorCode::None, "{part:?}");
        let bytes = part.records.concat();
        let mut rest = &bytes[..];
        let mut found = Vec::new();
        while !rest.is_empty() {
            let (batch, more) = Batch::parse(rest).expect("whole batches");
            batch.verify_checksum().unwrap();
            found.push(batch.base_offset().0);
            rest = more;
        }
        (part.partition, found)
    });
    of_partition.collect()
}

/// However small the limits, the first batch of the first partition that has one comes whole, or a
/// consumer would ask for it for ever; nothing comes beside it. Wherever the partitions live.
#[test]
fn the_first_batch_comes_whole() {
    let (_broker, mut client) = start("fetch-first", "2");
    client.create("t", 3);
    let batch = batch_of(&["a value that is longer than ten bytes"]);
    for partition in [1, 2, 1, 2] {
        client.produce("t", partition, &batch);
    }
    let limits = [(10, 1 << 20), (1 << 20, 10), (10, 10), (0, 1 << 20), (1 << 20, 0)];
    for version in [4, 11, BY_NAME] {
        for order in [[0, 1, 2], [2, 1, 0]] {
            for (max_bytes, partition_max_bytes) in limits {
                let parts = order.map(|p| FetchPartition { partition_max_bytes, ..of("t", p, 0) });
                let fetch = OutgoingFetch { max_bytes, ..now(&parts) };
                let told = client.fetch_with(version, &fetch, bases);
                let one: Vec<_> = told.iter().filter(|(_, found)| !found.is_empty()).collect();
                assert_eq!(one.len(), 1, "{max_bytes} {partition_max_bytes} {order:?}: {told:?}");
                assert_eq!(one[0].1, [0]);
                assert_eq!(told.len(), 3, "the others are told, with what there is of them");
            }
        }
    }
    // The limit of one partition ends it at a batch, and leaves the next its own.
    let size = batch.len() as i32;
    let parts = [1, 2].map(|p| FetchPartition { partition_max_bytes: size, ..of("t", p, 0) });
    let told = client.fetch_with(BY_NAME, &now(&parts), bases);
    assert_eq!(told, [(1, vec![0]), (2, vec![0])]);
    let parts = [1, 2].map(|p| FetchPartition { partition_max_bytes: 2 * size, ..of("t", p, 0) });
    let told = client.fetch_with(BY_NAME, &now(&parts), bases);
    assert_eq!(told, [(1, vec![0, 1]), (2, vec![0, 1])]);
    // That of the whole request ends it at a batch, too.
    let parts = [of("t", 1, 0)];
    let fetch = OutgoingFetch { max_bytes: 2 * size - 1, ..now(&parts) };
    assert_eq!(client.fetch_with(BY_NAME, &fetch, bases), [(1, vec![0])]);
}

/// Who asks for an offset in the middle of a batch gets the batch that holds it, uncut and in its
/// place: the client leaves out what lies before. Also from the disk, after a restart.
#[test]
fn the_batch_that_holds_the_offset_comes() {
    let (mut broker, mut client) = start("fetch-middle", "1");
    client.create("t", 1);
    let batch = batch_of(&["a", "b", "c"]);
    client.produce("t", 0, &batch);
    client.produce("t", 0, &batch);
    for _ in 0..2 {
        for (from, base) in [(0, 0), (1, 0), (2, 0), (3, 3), (5, 3)] {
            let parts = [of("t", 0, from)];
            let found = client.fetch_with(BY_NAME, &now(&parts), bases);
            assert_eq!(found[0].1[0], base, "from {from}");
        }
        broker.kill();
        broker.run();
        client = Client::open(&broker);
    }
}

/// The bytes of an answer end with the length of the records: 0, not "null", whatever is told and in
/// every version. librdkafka ends a partition over a null.
#[test]
fn records_are_never_null() {
    let (_broker, mut client) = start("fetch-null", "1");
    client.create("t", 1);
    let id = topic_id(&mut client, "t");
    for version in 4..=NEWEST {
        let known = if version < BY_ID { TopicRef::Name("t") } else { TopicRef::Id(id) };
        let unknown = match version < BY_ID {
            true => TopicRef::Name("no"),
            false => TopicRef::Id(TopicId([9; 16])),
        };
        let asked = [
            (known, 0, 0, ErrorCode::None),
            (known, 0, 1, ErrorCode::OffsetOutOfRange),
            (known, 0, -1, ErrorCode::OffsetOutOfRange),
            (known, 7, 0, ErrorCode::UnknownTopicOrPartition),
            (
                unknown,
                0,
                0,
                match version < BY_ID {
                    true => ErrorCode::UnknownTopicOrPartition,
                    false => ErrorCode::UnknownTopicId,
                },
            ),
        ];
        for (topic, partition, from, error) in asked {
            let parts = [FetchPartition::from_consumer(topic, partition, from, 1 << 20)];
            client.send_fetch(version, 7, &now(&parts));
            let frame = bytes::Bytes::from(client.receive());
            let end: &[u8] = match version {
                ..BY_NAME => &[0, 0, 0, 0],
                // And no tagged fields of partition, topic and answer.
                _ => &[1, 0, 0, 0],
            };
            assert!(frame.ends_with(end), "version {version}, {error:?}: {frame:02x?}");
            let start = if version < BY_NAME { 4 } else { 5 };
            let body = frame.slice(start..);
            let told = FetchResponse::parse(version, &body).unwrap();
            let part = &told.partitions[0];
            assert_eq!((part.topic, part.partition, part.error_code), (topic, partition, error));
            assert_eq!(part.preferred_read_replica, -1);
            if error != ErrorCode::None {
                assert_eq!((part.high_watermark, part.last_stable_offset), (-1, -1));
            }
        }
    }
}

fn topic_id(client: &mut Client, name: &str) -> TopicId {
    let topic = MetadataRequestTopic { name: Some(name.to_owned()), ..Default::default() };
    let request = MetadataRequest { topics: Some(vec![topic]), ..MetadataRequest::default() };
    client.ask(12, &request).topics[0].topic_id
}

/// A fetch waits until there is as much as it asks for in all its partitions together, or its time is
/// over; an error in any of them is told at once, and so is what asks for nothing.
#[test]
fn an_answer_waits_for_enough() {
    let (broker, mut client) = start("fetch-waits", "2");
    client.create("t", 2);
    let mut producer = Client::open(&broker);
    let batch = batch_of(&["v"]);
    let size = batch.len() as i32;
    let begin = Instant::now();

    // Enough of both together, which live on two shards.
    let parts = [of("t", 0, 0), of("t", 1, 0)];
    let patient = OutgoingFetch { max_wait_ms: FOR_EVER_MS, partitions: &parts, ..now(&[]) };
    let both = OutgoingFetch { min_bytes: 2 * size, ..patient.clone() };
    client.send_fetch(BY_NAME, 7, &both);
    producer.produce("t", 0, &batch);
    producer.produce("t", 1, &batch);
    assert_eq!(client.take_fetched(BY_NAME, bases), [(0, vec![0]), (1, vec![0])]);
    // What is there already is enough for less.
    let less = OutgoingFetch { min_bytes: 1, ..patient.clone() };
    assert_eq!(client.fetch_with(BY_NAME, &less, bases).len(), 2);

    // Nothing more is wanted than that it is answered.
    let parts = [of("t", 0, 1)];
    let patient = OutgoingFetch { partitions: &parts, ..patient.clone() };
    let nothing = OutgoingFetch { min_bytes: 0, ..patient.clone() };
    assert_eq!(client.fetch_with(BY_NAME, &nothing, bases), [(0, vec![])]);
    let no_parts = OutgoingFetch { partitions: &[], ..patient.clone() };
    assert_eq!(client.fetch_with(BY_NAME, &no_parts, bases), []);
    // One that fails beside one that could wait.
    for (failing, error) in [
        (of("no", 0, 0), ErrorCode::UnknownTopicOrPartition),
        (of("t", 1, 9), ErrorCode::OffsetOutOfRange),
        (
            FetchPartition { current_leader_epoch: 99, ..of("t", 1, 0) },
            ErrorCode::UnknownLeaderEpoch,
        ),
    ] {
        let parts = [of("t", 0, 1), failing];
        let fetch = OutgoingFetch { partitions: &parts, ..patient.clone() };
        let told = client.fetch_with(BY_NAME, &fetch, |told| told.partitions[1].error_code);
        assert_eq!(told, error);
    }
    assert!(begin.elapsed() < SOON, "none of these may wait");

    // Time is over: not before, and then without anything.
    let begin = Instant::now();
    let short = OutgoingFetch { max_wait_ms: 200, ..patient.clone() };
    assert_eq!(client.fetch_with(BY_NAME, &short, bases), [(0, vec![])]);
    let waited = begin.elapsed();
    assert!(Duration::from_millis(200) <= waited && waited < SOON, "{waited:?}");
}

/// Who waits in a topic that is deleted meanwhile is told at once.
#[test]
fn who_waits_is_told_that_the_topic_is_gone() {
    let (broker, mut client) = start("fetch-gone", "2");
    client.create("t", 2);
    let begin = Instant::now();
    let parts = [of("t", 0, 0), of("t", 1, 0)];
    let fetch = OutgoingFetch { max_wait_ms: FOR_EVER_MS, partitions: &parts, ..now(&[]) };
    client.send_fetch(BY_NAME, 7, &fetch);
    let delete = DeleteTopicsRequest {
        topic_names: vec!["t".to_owned()],
        timeout_ms: 30_000,
        ..DeleteTopicsRequest::default()
    };
    let told = Client::open(&broker).ask(5, &delete);
    assert_eq!(told.responses[0].error_code, ErrorCode::None);
    client.take_fetched(BY_NAME, |told| {
        // One may have gone before the other.
        let gone = |error| error == ErrorCode::UnknownTopicOrPartition;
        assert!(told.partitions.iter().any(|part| gone(part.error_code)), "{told:?}");
    });
    assert!(begin.elapsed() < SOON);
}

/// A reader is told the log's bounds by errors: below the start and behind the end is out of range,
/// the end itself is where one waits.
#[test]
fn offsets_out_of_range_are_told() {
    let (_broker, mut client) = start("fetch-range", "1");
    client.create("t", 1);
    for _ in 0..4 {
        client.produce("t", 0, &batch_of(&["v"]));
    }
    let mut trim = |offset| trim(&mut client, "t", offset);
    assert_eq!(trim(5), (ErrorCode::OffsetOutOfRange, -1));
    assert_eq!(trim(-2), (ErrorCode::OffsetOutOfRange, -1));
    assert_eq!(trim(2), (ErrorCode::None, 2));
    assert_eq!(trim(1), (ErrorCode::None, 2), "it is gone already");
    for (from, error) in [
        (0, ErrorCode::OffsetOutOfRange),
        (1, ErrorCode::OffsetOutOfRange),
        (2, ErrorCode::None),
        (4, ErrorCode::None),
        (5, ErrorCode::OffsetOutOfRange),
    ] {
        let parts = [of("t", 0, from)];
        client.fetch_with(BY_NAME, &now(&parts), |told| {
            let part = &told.partitions[0];
            let bounds = match error {
                ErrorCode::None => (4, 4, 2),
                _ => (-1, -1, -1),
            };
            let told = (part.high_watermark, part.last_stable_offset, part.log_start_offset);
            assert_eq!((part.error_code, told), (error, bounds), "from {from}");
        });
    }
}

/// The bug: DeleteRecords took the records of keys away from topics that promise to keep the last one
/// of each. Who wants that says so with `cleanup.policy=compact,delete`.
#[test]
fn records_of_a_topic_that_is_only_compacted_are_not_deleted() {
    let (_broker, mut client) = start("trim-compacted", "1");
    for (name, policy, told) in [
        ("keeps", "compact", (ErrorCode::PolicyViolation, -1)),
        ("drops", "compact,delete", (ErrorCode::None, 3)),
    ] {
        client.create_with(name, 1, &[("cleanup.policy", policy)]);
        let mut records = BatchBuilder::new(Codec::None);
        (0..3).for_each(|_| records.append(Timestamp(1), Some(b"key"), Some(b"value")));
        client.produce(name, 0, &records.build());
        assert_eq!(trim(&mut client, name, -1), told, "{policy}");
        let start = if told.0 == ErrorCode::None { 3 } else { 0 };
        client.fetch_with(BY_NAME, &now(&[of(name, 0, 3)]), |told| {
            assert_eq!(told.partitions[0].log_start_offset, start, "{policy}");
        });
    }
}

/// Topics that are named by id are found by id alone: an unknown one is told as such, not as an
/// unknown name, and a topic that was made anew is another one.
#[test]
fn a_topic_made_anew_has_another_id() {
    let (_broker, mut client) = start("fetch-ids", "1");
    let error = |client: &mut Client, id: TopicId| {
        let parts = [FetchPartition::from_consumer(TopicRef::Id(id), 0, 0, 1 << 20)];
        client.fetch_with(BY_ID, &now(&parts), |told| told.partitions[0].error_code)
    };
    client.create("t", 1);
    let old = topic_id(&mut client, "t");
    assert_eq!(error(&mut client, old), ErrorCode::None);
    assert_eq!(error(&mut client, TopicId::ZERO), ErrorCode::UnknownTopicId);
    let delete = DeleteTopicsRequest {
        topic_names: vec!["t".to_owned()],
        timeout_ms: 30_000,
        ..DeleteTopicsRequest::default()
    };
    client.ask(5, &delete);
    client.create("t", 1);
    let new = topic_id(&mut client, "t");
    assert_ne!(old, new);
    assert_eq!(error(&mut client, old), ErrorCode::UnknownTopicId);
    assert_eq!(error(&mut client, new), ErrorCode::None);
}

/// A reader that has read under an epoch and further than that epoch goes here has read records that
/// are not in this log: it is told where they part. The bug: who had read under an epoch that this
/// log has never seen was answered as if nothing were wrong; it is out of range, as in Kafka.
#[test]
fn a_reader_whose_log_was_another_is_told() {
    let (mut broker, mut client) = start("fetch-diverging", "1");
    client.create("t", 1);
    client.produce("t", 0, &batch_of(&["a", "b"]));
    broker.kill();
    broker.run();
    let mut client = Client::open(&broker);
    let read = |client: &mut Client, from: i64, last_fetched_epoch: i32| {
        let parts = [FetchPartition { last_fetched_epoch, ..of("t", 0, from) }];
        client.fetch_with(BY_NAME, &now(&parts), |told| {
            let part = &told.partitions[0];
            let diverging = part.diverging_epoch.map(|at| (at.epoch, at.end_offset));
            (part.error_code, diverging, part.records.is_empty())
        })
    };
    let nothing_new = (ErrorCode::None, None, true);
    assert_eq!(read(&mut client, 2, 0), nothing_new);
    assert_eq!(read(&mut client, 2, 1), nothing_new, "nothing is written in epoch 1 yet");
    client.produce("t", 0, &batch_of(&["c"]));
    let mut read = |from, epoch| read(&mut client, from, epoch);
    assert_eq!(read(2, 0), (ErrorCode::None, None, false));
    assert_eq!(read(3, 0), (ErrorCode::None, Some((0, 2)), true), "epoch 0 ends at 2");
    assert_eq!(read(3, 1), nothing_new);
    assert_eq!(read(1, -1), (ErrorCode::None, None, false));
    assert_eq!(read(3, 9), (ErrorCode::OffsetOutOfRange, None, true), "no such epoch here");
}

/// What is compressed with zstd is sent as it is to whoever fetches it, as by Kafka since 4.0. The bug:
/// below version 10 an error was told instead (KIP-110), and clients that know zstd well but fetch in
/// an older version, kafka-python 2.0.2 for one, asked for the same records for ever.
#[test]
fn zstd_was_kept_from_clients_that_know_it_and_fetch_in_an_older_version() {
    let (_broker, mut client) = start("fetch-zstd", "1");
    client.create("t", 1);
    client.produce("t", 0, &batch_of(&["v"]));
    let mut builder = BatchBuilder::new(Codec::Zstd);
    builder.append(Timestamp(1), None, Some(b"v"));
    let zstd = builder.build();
    client.produce("t", 0, &zstd);
    for version in [4, 9, 10, BY_NAME] {
        let parts = [of("t", 0, 1)];
        client.fetch_with(version, &now(&parts), |told| {
            let part = &told.partitions[0];
            assert_eq!(part.error_code, ErrorCode::None, "version {version}");
            let records = part.records.concat();
            let (batch, _) = Batch::parse(&records).unwrap();
            assert_eq!((batch.base_offset().0, batch.header().compression()), (1, Codec::Zstd));
        });
    }
}
