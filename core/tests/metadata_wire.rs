//! Metadata as it is on the wire: which topics are told, when asking makes one, and where clients are
//! sent.
// Fixtures are tests, though they are no test functions.
#![allow(clippy::unwrap_used)]

mod process;
mod wire;

use std::net::TcpStream;

use process::Broker;
use tidemill_net::kafka::ErrorCode;
use tidemill_net::kafka::describe_cluster::DescribeClusterRequest;
use tidemill_net::kafka::metadata::{
    MetadataRequest, MetadataRequestTopic, MetadataResponse, OPERATIONS_NOT_ASKED_FOR,
};
use tidemill_record::TopicId;
use wire::Client;

const NEWEST: i16 = 13;
/// From this version on topics have ids, and are asked for by them.
const BY_ID: i16 = 12;

fn named(name: &str) -> MetadataRequestTopic {
    MetadataRequestTopic { name: Some(name.to_owned()), ..Default::default() }
}

/// Asks for topics, and makes none.
fn ask(
    client: &mut Client,
    version: i16,
    topics: Option<Vec<MetadataRequestTopic>>,
) -> MetadataResponse {
    let request = MetadataRequest {
        topics,
        allow_auto_topic_creation: version < 4,
        ..MetadataRequest::default()
    };
    client.ask(version, &request)
}

fn names(told: &MetadataResponse) -> Vec<&str> {
    let mut names: Vec<_> = told.topics.iter().map(|t| t.name.as_deref().unwrap()).collect();
    names.sort_unstable();
    names
}

/// In version 0 an empty list asks for all topics; afterwards null does, and an empty list asks for
/// none, as clients do who only want to know the brokers.
#[test]
fn nothing_is_asked_for_in_two_ways() {
    let broker = Broker::start("metadata-nothing", &["--shards", "2"]);
    let mut client = Client::open(&broker);
    client.create("a", 1);
    client.create("b", 2);
    assert_eq!(names(&ask(&mut client, 0, Some(Vec::new()))), ["a", "b"]);
    for version in 1..=NEWEST {
        assert_eq!(names(&ask(&mut client, version, None)), ["a", "b"], "{version}");
        let none = ask(&mut client, version, Some(Vec::new()));
        assert!(none.topics.is_empty() && !none.brokers.is_empty(), "{version}");
    }
    // A name twice is no fault here.
    let twice = ask(&mut client, NEWEST, Some(vec![named("a"), named("a")]));
    assert!(twice.topics.iter().all(|topic| topic.error_code.is_none()));
}

/// A topic is made by asking for it only if the broker allows it and the request does, which before
/// version 4 it always does; names that no topic can have are told as such, and not to be tried
/// again.
#[test]
fn asking_makes_a_topic_where_both_sides_allow_it() {
    let unknown = ErrorCode::UnknownTopicOrPartition;
    let settings = ["--set", "auto.create.topics.enable=true", "--set", "num.partitions=3"];
    let broker = Broker::start("metadata-makes", &settings);
    let mut client = Client::open(&broker);
    let mut told = |version, allow_auto_topic_creation, name: &str| {
        let request = MetadataRequest {
            topics: Some(vec![named(name)]),
            allow_auto_topic_creation,
            ..MetadataRequest::default()
        };
        let told = client.ask(version, &request).topics.remove(0);
        (told.error_code, told.partitions.len())
    };
    for version in [4, NEWEST] {
        assert_eq!(told(version, false, "no"), (unknown, 0));
    }
    for (version, name) in [(0, "old"), (3, "older"), (4, "new"), (NEWEST, "newer")] {
        assert_eq!(told(version, true, name), (ErrorCode::None, 3), "made at once: {version}");
        assert_eq!(told(NEWEST, false, name), (ErrorCode::None, 3), "for everybody");
    }
    let long = "x".repeat(250);
    for name in ["", ".", "..", "a/b", "a b", "\u{e4}", &long] {
        for (version, allowed) in [(1, true), (8, true), (NEWEST, false)] {
            let refused = (ErrorCode::InvalidTopicException, 0);
            assert_eq!(told(version, allowed, name), refused, "{name:?}");
        }
    }
    assert_eq!(told(NEWEST, true, "ol.d"), (ErrorCode::None, 3));
    let collides = (ErrorCode::InvalidTopicException, 0);
    assert_eq!(told(NEWEST, true, "ol_d"), collides, "as in metrics");
    assert_eq!(told(NEWEST, true, "no"), (ErrorCode::None, 3), "it could always have been made");

    let settings = ["--set", "auto.create.topics.enable=false"];
    let broker = Broker::start("metadata-makes-none", &settings);
    let mut client = Client::open(&broker);
    for version in [1, NEWEST] {
        let request = MetadataRequest {
            topics: Some(vec![named("never")]),
            allow_auto_topic_creation: true,
            ..MetadataRequest::default()
        };
        assert_eq!(client.ask(version, &request).topics[0].error_code, unknown);
    }
    assert!(ask(&mut client, NEWEST, None).topics.is_empty());
}

/// Everything that is named can be reached: leaders and the controller are among the brokers, brokers
/// answer where they are said to be; and after a restart all is where it was, under epochs that only
/// rise, or clients would not believe it.
#[test]
fn clients_are_sent_where_they_are_answered() {
    let mut broker = Broker::start("metadata-brokers", &["--shards", "2"]);
    let mut client = Client::open(&broker);
    client.create("t", 4);
    let mut before: Option<MetadataResponse> = None;
    for round in 0..3 {
        let mut client = Client::open(&broker);
        let told = ask(&mut client, NEWEST, None);
        let ids: Vec<i32> = told.brokers.iter().map(|broker| broker.node_id).collect();
        assert!(ids.contains(&told.controller_id));
        assert!(told.cluster_id.as_ref().is_some_and(|id| !id.is_empty()));
        for broker in &told.brokers {
            let stream = TcpStream::connect((broker.host.as_str(), broker.port as u16)).unwrap();
            let mut there = Client { stream, name: "test" };
            let same = ask(&mut there, NEWEST, None);
            assert_eq!(
                (same.cluster_id, same.brokers),
                (told.cluster_id.clone(), told.brokers.clone())
            );
        }
        for partition in &told.topics[0].partitions {
            assert_eq!(partition.error_code, ErrorCode::None);
            assert!(ids.contains(&partition.leader_id), "{partition:?}");
            assert!(partition.isr_nodes.iter().all(|node| partition.replica_nodes.contains(node)));
        }
        if let Some(before) = before {
            let places = |told: &MetadataResponse| {
                let leaders: Vec<_> = told.topics[0]
                    .partitions
                    .iter()
                    .map(|p| (p.partition_index, p.leader_id))
                    .collect();
                (told.cluster_id.clone(), told.controller_id, told.topics[0].topic_id, leaders)
            };
            assert_eq!(places(&before), places(&told), "round {round}");
            for (old, new) in before.topics[0].partitions.iter().zip(&told.topics[0].partitions) {
                assert!(old.leader_epoch < new.leader_epoch, "round {round}");
            }
        }
        before = Some(told);
        broker.kill();
        broker.run();
    }
}

/// What a client may do is told to who asks; others are told that it was not asked for, which is no
/// set of operations.
#[test]
fn what_is_allowed_is_told_to_who_asks() {
    let broker = Broker::start("metadata-operations", &["--shards", "1"]);
    let mut client = Client::open(&broker);
    client.create("t", 1);
    for version in [8, 10, NEWEST] {
        for asks in [false, true] {
            let request = MetadataRequest {
                topics: Some(vec![named("t"), named("no")]),
                allow_auto_topic_creation: false,
                include_cluster_authorized_operations: asks,
                include_topic_authorized_operations: asks,
            };
            let told = client.ask(version, &request);
            let is_told = |operations: i32| operations != OPERATIONS_NOT_ASKED_FOR;
            let [known, unknown] = &told.topics[..] else { panic!("{told:?}") };
            assert_eq!(is_told(known.topic_authorized_operations), asks, "{version}");
            assert!(!is_told(unknown.topic_authorized_operations));
            let of_cluster = asks && version <= 10;
            assert_eq!(is_told(told.cluster_authorized_operations), of_cluster);
        }
    }
    for asks in [false, true] {
        let request = DescribeClusterRequest {
            include_cluster_authorized_operations: asks,
            ..DescribeClusterRequest::default()
        };
        let told = client.ask(1, &request);
        assert_eq!(told.cluster_authorized_operations != OPERATIONS_NOT_ASKED_FOR, asks);
    }
}

/// The bug: Java's client names nothing by an empty name where it asks for topics by their ids. It was
/// told that this is no name, once for all of them: what matched its pattern could not be read.
#[test]
fn an_empty_name_beside_an_id_is_no_name() {
    let broker = Broker::start("metadata-ids-unnamed", &["--shards", "1"]);
    let mut client = Client::open(&broker);
    client.create("a", 1);
    client.create("b", 1);
    let all = ask(&mut client, BY_ID, None).topics;
    let by_id = |name: &str| {
        let name = Some(name.to_owned());
        let one = |topic_id| MetadataRequestTopic { topic_id, name: name.clone() };
        let ids = all.iter().map(|topic| topic.topic_id);
        Some(ids.chain([TopicId([9; 16])]).map(one).collect())
    };
    // Nor is another name looked at.
    for name in ["", "c"] {
        let told = ask(&mut client, BY_ID, by_id(name)).topics;
        let told: Vec<_> = told.iter().map(|t| (t.error_code, t.name.as_deref())).collect();
        let known = |name| (ErrorCode::None, Some(name));
        assert_eq!(told, [known("a"), known("b"), (ErrorCode::UnknownTopicId, None)]);
    }
    assert_eq!(ask(&mut client, BY_ID, None).topics.len(), 2, "and none is made");
}

/// By id a topic is told with its name; one that is unknown is told by its id, without a name.
#[test]
fn topics_are_found_by_their_ids() {
    let broker = Broker::start("metadata-ids", &["--shards", "1"]);
    let mut client = Client::open(&broker);
    client.create("t", 1);
    let id = ask(&mut client, BY_ID, None).topics[0].topic_id;
    assert!(!id.is_zero());
    let by_id = |topic_id| MetadataRequestTopic { topic_id, name: None };
    let stranger = TopicId([9; 16]);
    for version in BY_ID..=NEWEST {
        let told = ask(&mut client, version, Some(vec![by_id(id), by_id(stranger)]));
        let told: Vec<_> =
            told.topics.iter().map(|t| (t.error_code, t.topic_id, t.name.as_deref())).collect();
        let unknown = (ErrorCode::UnknownTopicId, stranger, None);
        assert_eq!(told, [(ErrorCode::None, id, Some("t")), unknown]);
    }
}
