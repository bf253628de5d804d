//! The bytes of records and images: fixed for ever, read back exactly, never trusted.
#![allow(clippy::unwrap_used)]

use proptest::prelude::*;
use tidemill_record::{NodeId, TopicId};
use tidemill_replication::identity::{ClusterId, DirectoryId, NodeEpoch};
use tidemill_replication::metadata::{DecodeError, Image, Record, Resource};
use tidemill_replication::quorum::layout::{
    HardState, LogHeader, NodeFile, SnapshotHeader, VotersFile, WriteHeader, decode_entries,
};
use tidemill_replication::quorum::{Index, Term};
use tidemill_replication::quota::{Bound, Entity, Who};

const DIRECTORY: DirectoryId = DirectoryId([0xdd; 16]);

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn encoded(record: &Record) -> Vec<u8> {
    let mut bytes = Vec::new();
    record.encode(&mut bytes);
    bytes
}

/// One record of each kind, with its bytes as the first version wrote them.
fn golden() -> Vec<(Record, String)> {
    let id = TopicId([0xaa; 16]);
    let aa = "aa".repeat(16);
    let dd = "dd".repeat(16);
    vec![
        (
            Record::ClusterCreated { cluster: ClusterId([0xcc; 16]) },
            format!("0101{}", "cc".repeat(16)),
        ),
        (
            Record::NodeStarted {
                node: NodeId(1),
                node_epoch: NodeEpoch(2),
                directory: DIRECTORY,
                shards: 3,
            },
            format!("02010000000100000002{dd}0003"),
        ),
        (
            Record::TopicCreated {
                id,
                name: "t".to_owned(),
                partitions: vec![vec![NodeId(1), NodeId(2)], vec![NodeId(2)]],
                configs: vec![("a".to_owned(), "b".to_owned())],
            },
            format!(
                "0301{aa}0000000174000000020200000001000000020100000002\
                 0000000100000001610000000162"
            ),
        ),
        (
            Record::PartitionsAdded { topic: id, new_count: 3, partitions: vec![vec![NodeId(1)]] },
            format!("0401{aa}00000003000000010100000001"),
        ),
        (Record::TopicDeleted { id }, format!("0501{aa}")),
        (Record::TopicDeletionFinished { id }, format!("0601{aa}")),
        (
            Record::ConfigChanged {
                resource: Resource::Topic(id),
                name: "a".to_owned(),
                value: Some("b".to_owned()),
            },
            format!("070101{aa}0000000161010000000162"),
        ),
        (
            Record::ConfigChanged {
                resource: Resource::Node(NodeId(5)),
                name: "a".to_owned(),
                value: None,
            },
            "07010200000005000000016100".to_owned(),
        ),
        (
            Record::ConfigChanged {
                resource: Resource::Group("g".into()),
                name: "a".to_owned(),
                value: Some("b".to_owned()),
            },
            "07010400000001670000000161010000000162".to_owned(),
        ),
        (
            Record::ProducerIdsGranted { first: 1000, count: 1000 },
            "080100000000000003e800000000000003e8".to_owned(),
        ),
        (
            Record::QuotaChanged {
                entity: Entity { user: Some(Who::Default), client: Some(Who::Named("c".into())) },
                bound: Bound::Fetch,
                rate: Some(1024),
            },
            "09010102000000016302010000000000000400".to_owned(),
        ),
        (
            Record::QuotaChanged {
                entity: Entity { user: None, client: Some(Who::Default) },
                bound: Bound::Produce,
                rate: None,
            },
            "090100010100".to_owned(),
        ),
    ]
}

/// What the first version wrote is read, and written the same, for ever.
#[test]
fn records_keep_their_bytes() {
    for (record, bytes) in golden() {
        assert_eq!(hex(&encoded(&record)), bytes, "{record:?}");
        assert_eq!(Record::decode(&encoded(&record)), Ok(record));
    }
}

/// Kinds and versions of the future are told from damage.
#[test]
fn what_a_newer_version_wrote_is_named() {
    assert_eq!(Record::decode(&[10, 1]), Err(DecodeError::UnknownKind(10)));
    let newer = DecodeError::NewerVersion { kind: 5, version: 2 };
    assert_eq!(Record::decode(&[5, 2]), Err(newer));
}

/// The blocks of all files keep their first bytes; what follows is zero.
#[test]
fn files_keep_their_bytes() {
    let node = NodeFile { cluster: ClusterId([0xcc; 16]), node: NodeId(1), directory: DIRECTORY };
    let block = node.encode();
    let (cc, dd) = ("cc".repeat(16), "dd".repeat(16));
    assert_eq!(hex(&block[..48]), format!("746d2d6e6f64650a00010030{cc}00000001{dd}"));
    assert!(block[52..].iter().all(|&byte| byte == 0));
    assert_eq!(NodeFile::decode(&block), Ok(node));

    let state = HardState { sequence: 3, term: Term(1), vote: NodeId(1), commit: Index(9) };
    let block = state.encode(DIRECTORY);
    let expected = "746d2d737461740a00010028000000000000000300000000000000010000000100000000\
                    00000009";
    assert_eq!(hex(&block[..40]), expected);
    assert_eq!(HardState::decode(&block, DIRECTORY), Ok(state));
    assert!(HardState::decode(&block, DirectoryId([1; 16])).is_err(), "of another directory");

    let header = LogHeader { first: Index(7), previous_term: Term(1), chain: 0xabcd };
    let block = header.encode(DIRECTORY);
    let expected = "746d2d6d6c6f670a00010020000000000000000700000000000000010000abcd";
    assert_eq!(hex(&block[..32]), expected);
    assert_eq!(LogHeader::decode(&block, DIRECTORY), Ok(header));

    let header = SnapshotHeader { index: Index(7), term: Term(1), size: 100, crc: 5 };
    assert_eq!(SnapshotHeader::decode(&header.encode(DIRECTORY), DIRECTORY), Ok(header));
    let voters = VotersFile { voters: vec![(NodeId(1), DIRECTORY), (NodeId(2), DIRECTORY)] };
    assert_eq!(VotersFile::decode(&voters.encode(DIRECTORY), DIRECTORY), Ok(voters));

    let write = WriteHeader {
        term: Term(1),
        first: Index(7),
        entries: 2,
        commit: Index(6),
        chain: 1,
        body_bytes: 100,
        body_crc: 3,
    };
    let (bytes, crc) = write.encode(DIRECTORY);
    let expected = "544d777200000000000000010000000000000007000000020000000000000006000000010000\
                    00640000000300000000";
    assert_eq!(hex(&bytes[..48]), expected);
    assert_eq!(WriteHeader::decode(&bytes, DIRECTORY), Some((write, crc)));
}

/// An image with something of everything.
fn full_image() -> Image {
    let mut image = Image::default();
    let topic = |number: u8, name: &str| Record::TopicCreated {
        id: TopicId([number; 16]),
        name: name.to_owned(),
        partitions: vec![vec![NodeId(1)]; 3],
        configs: vec![("retention.ms".to_owned(), "1".to_owned())],
    };
    let start = |epoch| Record::NodeStarted {
        node: NodeId(1),
        node_epoch: NodeEpoch(epoch),
        directory: DIRECTORY,
        shards: 2,
    };
    let set = |resource, value: Option<&str>| Record::ConfigChanged {
        resource,
        name: "log.retention.ms".to_owned(),
        value: value.map(str::to_owned),
    };
    let quota = |user: Option<&str>, bound, rate| Record::QuotaChanged {
        entity: Entity {
            user: user.map(|name| Who::Named(name.to_owned())),
            client: Some(Who::Default),
        },
        bound,
        rate,
    };
    let records = [
        Record::ClusterCreated { cluster: ClusterId([0xcc; 16]) },
        start(1),
        topic(1, "a.b"),
        start(2),
        topic(2, "c"),
        topic(3, "d_e"),
        Record::TopicDeleted { id: TopicId([3; 16]) },
        set(Resource::Cluster, Some("1")),
        set(Resource::Node(NodeId(1)), Some("2")),
        set(Resource::Node(NodeId(2)), Some("2")),
        set(Resource::Node(NodeId(2)), None),
        set(Resource::Group("g".into()), Some("3")),
        set(Resource::Group("h".into()), Some("4")),
        set(Resource::Group("h".into()), None),
        Record::ProducerIdsGranted { first: 0, count: 1000 },
        quota(Some("u"), Bound::Fetch, Some(5)),
        quota(None, Bound::Produce, Some(6)),
        quota(None, Bound::Fetch, Some(7)),
        quota(None, Bound::Fetch, None),
    ];
    records.iter().for_each(|record| image.replay(record).unwrap());
    image
}

/// A snapshot is the image: what is read back is equal in every respect.
#[test]
fn an_image_is_read_back_whole() {
    let image = full_image();
    let mut bytes = Vec::new();
    image.encode(&mut bytes);
    assert_eq!(Image::decode(&bytes), Ok(image));
    for end in 0..bytes.len() {
        assert!(Image::decode(&bytes[..end]).is_err(), "cut at {end}");
    }
}

/// Without quotas a snapshot is what programs before them wrote and can read.
#[test]
fn an_image_without_quotas_keeps_its_first_form() {
    let mut image = Image::default();
    let mut bytes = Vec::new();
    image.encode(&mut bytes);
    assert_eq!(bytes[0], 1);
    let entity = Entity { user: Some(Who::Default), client: None };
    let set = |rate| Record::QuotaChanged { entity: entity.clone(), bound: Bound::Fetch, rate };
    image.replay(&set(Some(9))).unwrap();
    bytes.clear();
    image.encode(&mut bytes);
    assert_eq!(bytes[0], 2);
    assert_eq!(hex(&bytes[bytes.len() - 16..]), "00000001010001020000000000000009");
    image.replay(&set(None)).unwrap();
    bytes.clear();
    image.encode(&mut bytes);
    assert_eq!(bytes[0], 1);
}

/// With configs of groups a snapshot has room for them, behind quotas of which there may be none.
#[test]
fn configs_of_groups_lie_behind_quotas() {
    let mut image = Image::default();
    let set = |value: Option<&str>| Record::ConfigChanged {
        resource: Resource::Group("g".into()),
        name: "a".to_owned(),
        value: value.map(str::to_owned),
    };
    image.replay(&set(Some("b"))).unwrap();
    let mut bytes = Vec::new();
    image.encode(&mut bytes);
    assert_eq!(bytes[0], 3);
    let groups = "0000000100000001670000000100000001610000000162";
    assert!(hex(&bytes).ends_with(&format!("00000000{groups}")));
    assert_eq!(Image::decode(&bytes), Ok(image.clone()));
    image.replay(&set(None)).unwrap();
    bytes.clear();
    image.encode(&mut bytes);
    assert_eq!(bytes[0], 1);
}

/// A record that does not follow from the image changes nothing.
#[test]
fn a_record_that_does_not_follow_changes_nothing() {
    let mut image = full_image();
    let before = image.clone();
    let taken = |id: u8, name: &str, nodes: &[i32]| Record::TopicCreated {
        id: TopicId([id; 16]),
        name: name.to_owned(),
        partitions: vec![nodes.iter().map(|&node| NodeId(node)).collect()],
        configs: Vec::new(),
    };
    let records = [
        Record::ClusterCreated { cluster: ClusterId([1; 16]) },
        taken(1, "new", &[1]),
        taken(3, "new", &[1]),
        taken(0, "new", &[1]),
        taken(9, "c", &[1]),
        taken(9, "a_b", &[1]),
        taken(9, "new", &[]),
        taken(9, "new", &[1, 1]),
        Record::PartitionsAdded { topic: TopicId([2; 16]), new_count: 3, partitions: vec![] },
        Record::TopicDeleted { id: TopicId([3; 16]) },
        Record::TopicDeletionFinished { id: TopicId([1; 16]) },
        Record::ProducerIdsGranted { first: 0, count: 1000 },
        Record::ProducerIdsGranted { first: 1000, count: i64::MAX },
        Record::QuotaChanged {
            entity: Entity { user: None, client: None },
            bound: Bound::Fetch,
            rate: Some(1),
        },
    ];
    for record in records {
        image.replay(&record).unwrap_err();
        assert_eq!(image, before, "{record:?}");
    }
}

proptest! {
    /// Any bytes are a record or an error, and a record has one spelling.
    #[test]
    fn any_bytes_are_a_record_or_an_error(
        kind in 0u8..11,
        rest in proptest::collection::vec(any::<u8>(), 0..200),
    ) {
        let bytes = [&[kind, 1], &rest[..]].concat();
        if let Ok(record) = Record::decode(&bytes) {
            prop_assert_eq!(encoded(&record), bytes);
        }
    }

    /// Any change to a snapshot's bytes is an image or an error, never a panic.
    #[test]
    fn any_bytes_are_an_image_or_an_error(position in 0usize..600, byte in any::<u8>()) {
        let mut bytes = Vec::new();
        full_image().encode(&mut bytes);
        let position = position % bytes.len();
        bytes[position] = byte;
        if let Ok(image) = Image::decode(&bytes) {
            for topic in image.topics() {
                topic.partitions.iter().for_each(|p| assert!(0 <= image.leader_epoch_of(p).0));
            }
        }
    }

    /// Any bytes are entries or an error, whatever number of them is claimed.
    #[test]
    fn any_bytes_are_entries_or_an_error(
        count in any::<u32>(),
        bytes in proptest::collection::vec(any::<u8>(), 0..200),
    ) {
        let _ = decode_entries(&bytes, count);
    }
}
