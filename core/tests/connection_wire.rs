//! What ends a connection and what does not: lengths, APIs and versions that nobody knows, silence; and
//! the one question that is answered in any version (KIP-511).
// Fixtures are tests, though they are no test functions.
#![allow(clippy::unwrap_used)]

mod process;
mod wire;

use std::time::{Duration, Instant};

use bytes::BytesMut;
use process::Broker;
use tidemill_net::kafka::api_versions::ApiVersionsRequest;
use tidemill_net::kafka::fetch::{FetchPartition, OutgoingFetch};
use tidemill_net::kafka::metadata::MetadataRequest;
use tidemill_net::kafka::{ApiKey, ErrorCode, TopicRef, encode_request};
use wire::Client;

fn asking(name: &str, version: &str) -> ApiVersionsRequest {
    ApiVersionsRequest {
        client_software_name: name.to_owned(),
        client_software_version: version.to_owned(),
    }
}

/// A frame of these fields and bytes; the client has no name.
fn frame(api_key: i16, version: i16, correlation: i32, rest: &[u8]) -> Vec<u8> {
    let size = 2 + 2 + 4 + 2 + rest.len() as i32;
    let mut bytes = size.to_be_bytes().to_vec();
    bytes.extend(api_key.to_be_bytes());
    bytes.extend(version.to_be_bytes());
    bytes.extend(correlation.to_be_bytes());
    bytes.extend((-1_i16).to_be_bytes());
    bytes.extend(rest);
    bytes
}

fn is_alive(client: &mut Client) {
    assert_eq!(client.ask(0, &ApiVersionsRequest::default()).error_code, ErrorCode::None);
}

/// An API or a version that is not served closes the connection without a word: no answer could be
/// read. The bug: what had been asked before it, and was not answered yet, was not answered at all.
#[test]
fn what_is_not_served_closes_the_connection() {
    let broker = Broker::start("connection-unknown", &["--shards", "1"]);
    let metadata = ApiKey::Metadata as i16;
    for (api_key, version, why) in [
        (metadata, 14, "a version to come"),
        (metadata, -1, "no version"),
        (ApiKey::Fetch as i16, 3, "a version that was left behind"),
        (ApiKey::OffsetCommit as i16, 1, "a version that was left behind"),
        (i16::MAX, 0, "no API"),
        (-1, 0, "no API"),
        (4, 0, "one of brokers among themselves"),
        (71, 0, "telemetry"),
        (72, 0, "telemetry"),
    ] {
        let mut client = Client::open(&broker);
        client.send(&frame(metadata, 1, 8, &0_i32.to_be_bytes()));
        client.send(&frame(api_key, version, 9, &[0; 64]));
        assert_eq!(client.receive()[..4], 8_i32.to_be_bytes());
        client.expect_closed();
        println!("{why}: {api_key} {version}");
    }
}

/// A length below zero, above the limit, or too short for a header closes the connection, at once:
/// nothing is waited for, and no memory is set aside. So does a body that is not what it says.
#[test]
fn lengths_that_cannot_be_close_the_connection() {
    let settings = ["--shards", "1", "--set", "socket.request.max.bytes=2000000"];
    let broker = Broker::start("connection-lengths", &settings);
    for length in [-1, i32::MIN, 2_000_001, i32::MAX, 0, 1, 7] {
        let mut client = Client::open(&broker);
        client.send(&[&length.to_be_bytes()[..], &[0; 7]].concat());
        client.expect_closed();
    }
    let metadata = ApiKey::Metadata as i16;
    let too_many = i32::MAX.to_be_bytes();
    let cut_off = [&1_i32.to_be_bytes()[..], &[0, 9, b't']].concat();
    for body in [&too_many[..], &cut_off] {
        let mut client = Client::open(&broker);
        client.send(&frame(metadata, 1, 8, body));
        client.expect_closed();
    }
    is_alive(&mut Client::open(&broker));
}

/// ApiVersions in a version that is not served is answered in version 0 with what is, and the
/// connection goes on; the header of an answer never has tagged fields.
#[test]
fn any_version_of_the_first_question_is_answered() {
    let broker = Broker::start("connection-versions", &["--shards", "1"]);
    let mut client = Client::open(&broker);
    for version in [5, 99, i16::MAX] {
        client.send(&frame(ApiKey::ApiVersions as i16, version, 5, &[0xff; 20]));
        let told = client.receive();
        let expected = [0, 0, 0, 5, 0, 35, 0, 0, 0, 1, 0, 18, 0, 0, 0, 4];
        assert_eq!(told, expected, "no header beside the number, one API, its range");
    }
    for version in 0..=4 {
        let mut out = BytesMut::new();
        encode_request(&mut out, version, 6, Some("test"), &asking("test", "1"));
        client.send(&out);
        let told = client.receive();
        assert_eq!(told[..6], [0, 0, 0, 6, 0, 0], "the number, and right behind it the error");
    }
}

/// What is told to be served is what old clients look for: minimums as low as Kafka's own, no
/// telemetry, nothing of brokers among themselves. The level 0 of a feature is for version 4.
#[test]
fn the_ranges_told_are_those_that_clients_look_for() {
    let broker = Broker::start("connection-ranges", &["--shards", "1"]);
    let mut client = Client::open(&broker);
    for version in 0..=4 {
        let told = client.ask(version, &asking("test", "1"));
        let range = |key: i16| {
            let found = told.api_keys.iter().find(|api| api.api_key == key)?;
            Some((found.min_version, found.max_version))
        };
        // librdkafka before 2.11 wants exactly these to be within the range.
        for (api, wanted) in [
            (ApiKey::Produce, &[0, 2, 3, 7][..]),
            (ApiKey::Fetch, &[4, 10, 12]),
            (ApiKey::ListOffsets, &[1]),
            (ApiKey::Metadata, &[0, 1, 6]),
            (ApiKey::OffsetCommit, &[2, 9]),
            (ApiKey::OffsetFetch, &[1, 9]),
            (ApiKey::FindCoordinator, &[0]),
            (ApiKey::JoinGroup, &[0]),
            (ApiKey::SyncGroup, &[0]),
            (ApiKey::Heartbeat, &[0]),
            (ApiKey::LeaveGroup, &[0]),
            (ApiKey::InitProducerId, &[0]),
            (ApiKey::ApiVersions, &[0]),
            (ApiKey::AddPartitionsToTxn, &[0]),
            (ApiKey::OffsetForLeaderEpoch, &[2]),
            (ApiKey::ConsumerGroupHeartbeat, &[0, 1]),
        ] {
            let (min, max) = range(api as i16).unwrap();
            assert!(wanted.iter().all(|v| (min..=max).contains(v)), "{api:?}: {min} to {max}");
        }
        for key in [4, 5, 6, 7, 52, 53, 54, 56, 58, 59, 62, 63, 67, 70, 71, 72, 73] {
            assert_eq!(range(key), None, "{key}");
        }
        let minimums = told.supported_features.iter().map(|feature| feature.min_version);
        assert!(minimums.eq(match version {
            ..=3 => Vec::new(),
            _ => vec![0; 3],
        }));
        assert_eq!(told.finalized_features.len(), if version < 3 { 0 } else { 3 });
    }
}

/// A client that tells what it is tells it in few letters, or it is refused, in words that it reads;
/// and may ask again.
#[test]
fn the_name_of_a_clients_software_is_checked() {
    let broker = Broker::start("connection-software", &["--shards", "1"]);
    let mut client = Client::open(&broker);
    for (name, version) in [
        ("", "1"),
        ("a b", "1"),
        ("-a", "1"),
        ("a-", "1"),
        ("a", ""),
        ("a", "1\n"),
        ("\u{e4}", "1"),
    ] {
        for asked in [3, 4] {
            let told = client.ask(asked, &asking(name, version));
            assert_eq!(told.error_code, ErrorCode::InvalidRequest, "{name:?} {version:?}");
        }
    }
    for name in ["a", "apache-kafka-java", "A.9-z"] {
        assert_eq!(client.ask(3, &asking(name, "4.3.0")).error_code, ErrorCode::None);
    }
}

/// A client that has been silent for long is closed, also with half a request sent; one that waits for
/// an answer is not.
#[test]
fn a_silent_connection_is_closed() {
    // Far longer than anything may hold up the test between two of its steps.
    let settings = ["--shards", "1", "--set", "connections.max.idle.ms=6000"];
    let broker = Broker::start("connection-idle", &settings);
    let mut waiting = Client::open(&broker);
    waiting.create("t", 1);
    let begin = Instant::now();
    let parts = [FetchPartition::from_consumer(TopicRef::Name("t"), 0, 0, 1 << 20)];
    let fetch =
        OutgoingFetch { max_wait_ms: 13_000, partitions: &parts, ..OutgoingFetch::default() };
    waiting.send_fetch(12, 7, &fetch);

    let mut silent = Client::open(&broker);
    is_alive(&mut silent);
    let mut half = Client::open(&broker);
    half.send(&frame(ApiKey::Metadata as i16, 1, 8, &0_i32.to_be_bytes())[..9]);
    silent.expect_closed();
    half.expect_closed();
    assert!(Duration::from_millis(6_000) <= begin.elapsed());

    waiting.take_fetched(12, |told| assert_eq!(told.partitions[0].error_code, ErrorCode::None));
    assert!(Duration::from_millis(13_000) <= begin.elapsed());
    is_alive(&mut waiting);
}

/// A client that says no more is still answered: it has closed its half alone.
#[test]
fn who_has_said_all_is_answered() {
    let broker = Broker::start("connection-half", &["--shards", "1"]);
    let mut client = Client::open(&broker);
    let mut out = BytesMut::new();
    encode_request(&mut out, 1, 3, None, &MetadataRequest::default());
    client.send(&out);
    client.stream.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(client.receive()[..4], 3_i32.to_be_bytes());
    client.expect_closed();
}
