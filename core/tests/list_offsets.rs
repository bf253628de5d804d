//! ListOffsets and OffsetForLeaderEpoch as they are on the wire: every place that has a name, records
//! by time, and where leader epochs end.
// Fixtures are tests, though they are no test functions.
#![allow(clippy::unwrap_used)]

mod process;
mod wire;

use process::Broker;
use tidemill_net::kafka::ErrorCode;
use tidemill_net::kafka::delete_records::{
    DeleteRecordsPartition, DeleteRecordsRequest, DeleteRecordsTopic,
};
use tidemill_net::kafka::list_offsets::{
    EARLIEST, EARLIEST_LOCAL, EARLIEST_PENDING_UPLOAD, LATEST, LATEST_TIERED, ListOffsetsPartition,
    ListOffsetsRequest, ListOffsetsTopic, MAX_TIMESTAMP,
};
use tidemill_net::kafka::metadata::MetadataRequest;
use tidemill_net::kafka::offset_for_leader_epoch::{
    OffsetForLeaderEpochRequest, OffsetForLeaderPartition, OffsetForLeaderTopic,
};
use tidemill_record::{BatchBuilder, Codec, Timestamp};
use wire::Client;

const NEWEST: i16 = 11;
const NONE: ErrorCode = ErrorCode::None;

fn start(name: &str) -> (Broker, Client) {
    let broker = Broker::start(name, &["--shards", "2"]);
    let mut client = Client::open(&broker);
    client.create("t", 1);
    (broker, client)
}

/// The error, the offset, the timestamp and the leader epoch that are told of a place in a partition.
fn found(
    client: &mut Client,
    version: i16,
    topic: &str,
    timestamp: i64,
    current_leader_epoch: i32,
) -> (ErrorCode, i64, i64, i32) {
    let partition = ListOffsetsPartition { partition_index: 0, current_leader_epoch, timestamp };
    let topic = ListOffsetsTopic { name: topic.to_owned(), partitions: vec![partition] };
    let request = ListOffsetsRequest { topics: vec![topic], ..ListOffsetsRequest::default() };
    let told = client.ask(version, &request).topics.remove(0).partitions.remove(0);
    (told.error_code, told.offset, told.timestamp, told.leader_epoch)
}

fn at(client: &mut Client, timestamp: i64) -> (ErrorCode, i64, i64, i32) {
    found(client, NEWEST, "t", timestamp, -1)
}

fn write(client: &mut Client, codec: Codec, times: &[i64]) {
    let mut builder = BatchBuilder::new(codec);
    times.iter().for_each(|&time| builder.append(Timestamp(time), None, Some(b"v")));
    assert_eq!(client.produce("t", 0, &builder.build()).error_code, NONE);
}

fn trim(client: &mut Client, offset: i64) {
    let partition = DeleteRecordsPartition { partition_index: 0, offset };
    let topic = DeleteRecordsTopic { name: "t".to_owned(), partitions: vec![partition] };
    let request = DeleteRecordsRequest { topics: vec![topic], timeout_ms: 30_000 };
    let told = client.ask(2, &request).topics.remove(0).partitions.remove(0);
    assert_eq!(told.error_code, NONE);
}

/// Every place that has a name, in an empty log, in one with records and in one that was trimmed.
/// The ends have no time; the newest record has, and is found in the middle of a compressed batch.
#[test]
fn every_place_with_a_name_is_found() {
    let (mut broker, mut client) = start("offsets-names");
    let nothing = (NONE, -1, -1, -1);
    assert_eq!(at(&mut client, MAX_TIMESTAMP), nothing);
    for place in [LATEST, EARLIEST, EARLIEST_LOCAL] {
        let (error, offset, timestamp, _) = at(&mut client, place);
        assert_eq!((error, offset, timestamp), (NONE, 0, -1), "{place}");
    }
    write(&mut client, Codec::None, &[1_000, 2_000]);
    write(&mut client, Codec::Lz4, &[3_000, 9_000, 4_000]);
    write(&mut client, Codec::None, &[5_000]);
    for restarted in [false, true] {
        let epoch_now = i32::from(restarted);
        assert_eq!(at(&mut client, LATEST), (NONE, 6, -1, epoch_now));
        assert_eq!(at(&mut client, EARLIEST), (NONE, 0, -1, 0));
        assert_eq!(at(&mut client, EARLIEST_LOCAL), (NONE, 0, -1, 0));
        assert_eq!(at(&mut client, MAX_TIMESTAMP), (NONE, 3, 9_000, 0));
        for remote in [LATEST_TIERED, EARLIEST_PENDING_UPLOAD] {
            assert_eq!(at(&mut client, remote), nothing, "nothing is kept anywhere else");
        }
        if !restarted {
            broker.kill();
            broker.run();
            client = Client::open(&broker);
        }
    }
    trim(&mut client, 5);
    assert_eq!(at(&mut client, EARLIEST).1, 5);
    assert_eq!(at(&mut client, EARLIEST_LOCAL).1, 5);
    assert_eq!(at(&mut client, MAX_TIMESTAMP), (NONE, 5, 5_000, 0), "of those that are left");
    trim(&mut client, 6);
    assert_eq!(at(&mut client, MAX_TIMESTAMP), nothing);
    assert_eq!((at(&mut client, EARLIEST).1, at(&mut client, LATEST).1), (6, 6));
}

/// By time: the first record at or after it, in the order of offsets and wherever in its batch it
/// lies, with the time it has. None is no error.
#[test]
fn the_first_record_since_a_time_is_found() {
    let (_broker, mut client) = start("offsets-times");
    assert_eq!(at(&mut client, 0), (NONE, -1, -1, -1), "there are no records");
    write(&mut client, Codec::None, &[1_000, 2_000]);
    write(&mut client, Codec::Gzip, &[3_000, 9_000, 4_000]);
    write(&mut client, Codec::None, &[5_000]);
    for (time, offset, found_time) in [
        (0, 0, 1_000),
        (1_000, 0, 1_000),
        (1_001, 1, 2_000),
        (2_500, 2, 3_000),
        (3_001, 3, 9_000),
        (9_000, 3, 9_000),
    ] {
        assert_eq!(at(&mut client, time), (NONE, offset, found_time, 0), "{time}");
    }
    for time in [9_001, i64::MAX] {
        assert_eq!(at(&mut client, time), (NONE, -1, -1, -1), "{time}");
    }
}

/// What a version cannot know is refused in each partition, whatever the number. The bug: names of
/// places counted in every version, and those that nobody has were said to be a wrong request.
#[test]
fn places_that_a_version_does_not_know_are_refused() {
    let (_broker, mut client) = start("offsets-versions");
    let unsupported = (ErrorCode::UnsupportedVersion, -1, -1, -1);
    for (place, since) in [
        (MAX_TIMESTAMP, 7),
        (EARLIEST_LOCAL, 8),
        (LATEST_TIERED, 9),
        (EARLIEST_PENDING_UPLOAD, NEWEST),
    ] {
        assert_eq!(found(&mut client, since - 1, "t", place, -1), unsupported, "{place}");
        assert_eq!(found(&mut client, since, "t", place, -1).0, NONE, "{place}");
    }
    for place in [-7, i64::MIN] {
        assert_eq!(at(&mut client, place), unsupported, "{place}");
    }
    for version in 1..=NEWEST {
        let (error, offset, timestamp, epoch) = found(&mut client, version, "t", LATEST, -1);
        let known = if version < 4 { -1 } else { 0 };
        assert_eq!((error, offset, timestamp, epoch), (NONE, 0, -1, known), "{version}");
    }
}

/// Where a leader epoch ends; one between two ends where the one before it does, and one that never
/// was is undefined, which is no error.
#[test]
fn epochs_end_where_the_next_one_begins() {
    let (mut broker, mut client) = start("offsets-epochs");
    let ask = |client: &mut Client, version, leader_epoch, current_leader_epoch| {
        let partition =
            OffsetForLeaderPartition { partition: 0, current_leader_epoch, leader_epoch };
        let topic = OffsetForLeaderTopic { topic: "t".to_owned(), partitions: vec![partition] };
        let request = OffsetForLeaderEpochRequest { topics: vec![topic], ..Default::default() };
        let told = client.ask(version, &request).topics.remove(0).partitions.remove(0);
        (told.error_code, told.leader_epoch, told.end_offset)
    };
    write(&mut client, Codec::None, &[1, 2]);
    for _ in 0..2 {
        broker.kill();
        broker.run();
    }
    let mut client = Client::open(&broker);
    // What is told with the end must be known when a reader comes back with it.
    assert_eq!(found(&mut client, 4, "t", LATEST, -1), (NONE, 2, -1, 2));
    assert_eq!(ask(&mut client, 4, 2, -1), (NONE, 2, 2), "nothing is written in it yet");
    assert_eq!(ask(&mut client, 4, 1, -1), (NONE, 0, 2));
    write(&mut client, Codec::None, &[3]);
    for version in 2..=4 {
        assert_eq!(ask(&mut client, version, 0, -1), (NONE, 0, 2));
        assert_eq!(ask(&mut client, version, 1, -1), (NONE, 0, 2), "nothing was written in it");
        assert_eq!(ask(&mut client, version, 2, -1), (NONE, 2, 3));
        for unknown in [3, i32::MAX, -1] {
            assert_eq!(ask(&mut client, version, unknown, -1), (NONE, -1, -1), "{unknown}");
        }
        // A client that knows another epoch of the leader than it has.
        let undefined = |error| (error, -1, -1);
        let fenced = undefined(ErrorCode::FencedLeaderEpoch);
        assert_eq!(ask(&mut client, version, 0, 1), fenced);
        let unknown = undefined(ErrorCode::UnknownLeaderEpoch);
        assert_eq!(ask(&mut client, version, 0, 3), unknown);
        assert_eq!(ask(&mut client, version, 0, 2), (NONE, 0, 2));
    }
    for (epoch, error) in
        [(1, ErrorCode::FencedLeaderEpoch), (2, NONE), (3, ErrorCode::UnknownLeaderEpoch)]
    {
        assert_eq!(found(&mut client, 4, "t", LATEST, epoch).0, error, "ListOffsets, {epoch}");
        let told = client.fetch("t", epoch, |told| told.partitions[0].error_code);
        assert_eq!(told, error, "Fetch, {epoch}");
    }
}

/// What is not there is told, and not made by asking for it.
#[test]
fn topics_are_not_made_by_looking_for_offsets() {
    let (_broker, mut client) = start("offsets-unknown");
    let unknown = (ErrorCode::UnknownTopicOrPartition, -1, -1, -1);
    assert_eq!(found(&mut client, NEWEST, "never", LATEST, -1), unknown);
    let told = client.fetch("never", -1, |told| told.partitions[0].error_code);
    assert_eq!(told, unknown.0);
    let told = client.ask(9, &MetadataRequest { topics: None, ..MetadataRequest::default() });
    let names: Vec<_> = told.topics.iter().map(|topic| topic.name.as_deref().unwrap()).collect();
    assert_eq!(names, ["t"]);
}
