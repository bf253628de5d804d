//! Offsets that are committed in a transaction, as they are on the wire: when they count, and who may
//! commit them.
// Fixtures are tests, though they are no test functions.
#![allow(clippy::unwrap_used)]

mod process;
mod wire;

use bytes::Bytes;
use tidemill_net::kafka::ErrorCode;
use tidemill_net::kafka::add_offsets_to_txn::AddOffsetsToTxnRequest;
use tidemill_net::kafka::find_coordinator::FindCoordinatorRequest;
use tidemill_net::kafka::join_group::{JoinGroupRequest, JoinGroupRequestProtocol};
use tidemill_net::kafka::metadata::{MetadataRequest, MetadataRequestTopic};
use tidemill_net::kafka::offset_commit::{
    OffsetCommitRequest, OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use tidemill_net::kafka::offset_delete::{
    OffsetDeleteRequest, OffsetDeleteRequestPartition, OffsetDeleteRequestTopic,
};
use tidemill_net::kafka::offset_fetch::{
    OffsetFetchRequest, OffsetFetchRequestGroup, OffsetFetchRequestTopic,
};
use tidemill_net::kafka::sync_group::{SyncGroupRequest, SyncGroupRequestAssignment};
use tidemill_net::kafka::topic_partitions::TopicPartitions;
use tidemill_net::kafka::txn_offset_commit::{
    TxnOffsetCommitRequest, TxnOffsetCommitRequestPartition, TxnOffsetCommitRequestTopic,
};
use tidemill_net::kafka::write_txn_markers::{WritableTxnMarker, WriteTxnMarkersRequest};
use tidemill_record::Producer;
use wire::Client;
use wire::transactions::{
    ID, NEWER_END, TOPIC, broker, end, end_and_settle, init, patiently, producer, settle,
};

/// The topic that groups are kept in.
const OFFSETS: &str = "__consumer_offsets";

fn offsets(producer: Producer, offset: i64) -> TxnOffsetCommitRequest {
    TxnOffsetCommitRequest {
        transactional_id: ID.to_owned(),
        group_id: "g".to_owned(),
        producer_id: producer.id.0,
        producer_epoch: producer.epoch.0,
        topics: vec![TxnOffsetCommitRequestTopic {
            name: TOPIC.to_owned(),
            partitions: vec![TxnOffsetCommitRequestPartition {
                partition_index: 0,
                committed_offset: offset,
                ..TxnOffsetCommitRequestPartition::default()
            }],
        }],
        ..TxnOffsetCommitRequest::default()
    }
}

fn commit(client: &mut Client, version: i16, request: &TxnOffsetCommitRequest) -> ErrorCode {
    let told = patiently(|| (client.ask(version, request).topics[0].partitions[0].error_code, ()));
    told.0
}

/// The committed offset, or why it is not told.
fn committed(client: &mut Client, version: i16, require_stable: bool) -> Result<i64, ErrorCode> {
    let topics = Some(vec![OffsetFetchRequestTopic {
        name: TOPIC.to_owned(),
        partition_indexes: vec![0],
        ..OffsetFetchRequestTopic::default()
    }]);
    let request = OffsetFetchRequest {
        group_id: "g".to_owned(),
        topics: topics.clone(),
        groups: vec![OffsetFetchRequestGroup {
            group_id: "g".to_owned(),
            topics,
            ..OffsetFetchRequestGroup::default()
        }],
        require_stable,
    };
    let mut told = client.ask(version, &request);
    let mut topics = match version {
        ..8 => told.topics,
        _ => told.groups.remove(0).topics,
    };
    let partition = topics.remove(0).partitions.remove(0);
    match partition.error_code {
        ErrorCode::None => Ok(partition.committed_offset),
        error => Err(error),
    }
}

fn find_group(client: &mut Client) {
    let find = FindCoordinatorRequest { key: "g".to_owned(), ..Default::default() };
    patiently(|| (client.ask(1, &find).error_code, ()));
}

fn name_group(client: &mut Client, producer: Producer) -> ErrorCode {
    let request = AddOffsetsToTxnRequest {
        transactional_id: ID.to_owned(),
        producer_id: producer.id.0,
        producer_epoch: producer.epoch.0,
        group_id: "g".to_owned(),
    };
    patiently(|| (client.ask(3, &request).error_code, ())).0
}

/// Offsets of a transaction count once it is committed, and never if it is aborted. Until then a
/// consumer that wants what is stable is told to wait, and others see what was before. Both flows.
#[test]
fn offsets_count_with_their_transaction() {
    let (_broker, mut client) = broker("txn-wire-offsets");
    find_group(&mut client);
    let mut writer = init(&mut client);
    let mut before = -1;
    for (offset, newer, commits) in
        [(5, false, true), (6, false, false), (7, true, true), (8, true, false)]
    {
        let version = if newer { 5 } else { 3 };
        if !newer {
            assert_eq!(name_group(&mut client, writer), ErrorCode::None);
        }
        assert_eq!(commit(&mut client, version, &offsets(writer, offset)), ErrorCode::None);
        for version in [7, 8, 9] {
            let unstable = Err(ErrorCode::UnstableOffsetCommit);
            assert_eq!(committed(&mut client, version, true), unstable, "{offset}");
            assert_eq!(committed(&mut client, version, false), Ok(before), "{offset}");
        }
        if newer {
            let ended = end(&mut client, NEWER_END, writer, commits);
            writer = producer(ended.producer_id, ended.producer_epoch);
            settle(&mut client);
        } else {
            end_and_settle(&mut client, writer, commits);
        }
        before = if commits { offset } else { before };
        assert_eq!(committed(&mut client, 8, true), Ok(before), "{offset}");
    }
    // The group was not named in this transaction of the older flow: these would hang.
    for (version, error) in [(3, ErrorCode::InvalidTxnState), (4, ErrorCode::TransactionAbortable)]
    {
        assert_eq!(commit(&mut client, version, &offsets(writer, 9)), error);
    }
}

/// WriteTxnMarkers ends what a transaction has committed to groups, as in Kafka, where the way to the
/// offsets is the same as to records. The bug: it was refused, and what hung there could not be ended.
#[test]
fn offsets_that_hung_could_not_be_ended_by_hand() {
    let (_broker, mut client) = broker("txn-wire-offsets-hanging");
    find_group(&mut client);
    let writer = init(&mut client);
    let topic = MetadataRequestTopic { name: Some(OFFSETS.to_owned()), ..Default::default() };
    let request = MetadataRequest { topics: Some(vec![topic]), ..MetadataRequest::default() };
    let count = client.ask(12, &request).topics[0].partitions.len();
    // Java's hash of "g".
    let place = (103 % count) as i32;
    let write = |client: &mut Client, partition, transaction_result| {
        let topic = TopicPartitions { topic: OFFSETS.to_owned(), partitions: vec![partition] };
        let marker = WritableTxnMarker {
            producer_id: writer.id.0,
            producer_epoch: writer.epoch.0,
            transaction_result,
            topics: vec![topic],
            ..WritableTxnMarker::default()
        };
        let told = client.ask(1, &WriteTxnMarkersRequest { markers: vec![marker] });
        told.markers[0].topics[0].partitions[0].error_code
    };
    let mut before = -1;
    for (offset, commits) in [(5, true), (6, false)] {
        assert_eq!(name_group(&mut client, writer), ErrorCode::None);
        assert_eq!(commit(&mut client, 3, &offsets(writer, offset)), ErrorCode::None);
        assert_eq!(committed(&mut client, 8, true), Err(ErrorCode::UnstableOffsetCommit));
        assert_eq!(write(&mut client, place, commits), ErrorCode::None);
        before = if commits { offset } else { before };
        assert_eq!(committed(&mut client, 8, true), Ok(before), "{offset}");
    }
    let unknown = write(&mut client, count as i32, true);
    assert_eq!(unknown, ErrorCode::UnknownTopicOrPartition);
}

/// From version 3 on the consumer is named, and one that is not (any more) a member of the group in
/// this generation must not commit for it.
#[test]
fn offsets_are_committed_for_members_only() {
    let (_broker, mut client) = broker("txn-wire-members");
    find_group(&mut client);
    let join = |member_id: &str| JoinGroupRequest {
        group_id: "g".to_owned(),
        session_timeout_ms: 60_000,
        rebalance_timeout_ms: 60_000,
        member_id: member_id.to_owned(),
        group_instance_id: Some("i".to_owned()),
        protocol_type: "consumer".to_owned(),
        protocols: vec![JoinGroupRequestProtocol {
            name: "range".to_owned(),
            metadata: Bytes::new(),
        }],
        reason: None,
    };
    let joined = client.ask(9, &join(""));
    assert_eq!(joined.error_code, ErrorCode::None, "a static member is let in at once");
    let sync = SyncGroupRequest {
        group_id: "g".to_owned(),
        generation_id: joined.generation_id,
        member_id: joined.member_id.clone(),
        group_instance_id: Some("i".to_owned()),
        assignments: vec![SyncGroupRequestAssignment {
            member_id: joined.member_id.clone(),
            assignment: Bytes::new(),
        }],
        ..SyncGroupRequest::default()
    };
    assert_eq!(client.ask(5, &sync).error_code, ErrorCode::None);
    let writer = init(&mut client);
    assert_eq!(name_group(&mut client, writer), ErrorCode::None);
    let mut told = |generation_id: i32, member_id: &str, instance: Option<&str>| {
        let request = TxnOffsetCommitRequest {
            generation_id,
            member_id: member_id.to_owned(),
            group_instance_id: instance.map(str::to_owned),
            ..offsets(writer, 1)
        };
        commit(&mut client, 3, &request)
    };
    let (generation, member) = (joined.generation_id, &*joined.member_id);
    assert_eq!(told(generation + 1, member, None), ErrorCode::IllegalGeneration);
    assert_eq!(told(generation, "stranger", None), ErrorCode::UnknownMemberId);
    assert_eq!(told(generation, "stranger", Some("i")), ErrorCode::FencedInstanceId);
    assert_eq!(told(generation, member, Some("i")), ErrorCode::None);
}

/// The end of a transaction undid what its group had committed, or deleted, since.
#[test]
fn the_end_of_a_transaction_undid_what_came_later() {
    let (mut broker, mut client) = broker("txn-wire-overtaken");
    find_group(&mut client);
    let mut writer = init(&mut client);
    let plain = OffsetCommitRequest {
        group_id: "g".to_owned(),
        generation_id_or_member_epoch: -1,
        topics: vec![OffsetCommitRequestTopic {
            name: TOPIC.to_owned(),
            partitions: vec![OffsetCommitRequestPartition {
                partition_index: 0,
                committed_offset: 20,
                committed_leader_epoch: -1,
                ..OffsetCommitRequestPartition::default()
            }],
            ..OffsetCommitRequestTopic::default()
        }],
        ..OffsetCommitRequest::default()
    };
    let delete = OffsetDeleteRequest {
        group_id: "g".to_owned(),
        topics: vec![OffsetDeleteRequestTopic {
            name: TOPIC.to_owned(),
            partitions: vec![OffsetDeleteRequestPartition { partition_index: 0 }],
        }],
    };
    for (deletes, kills, expected) in
        [(false, false, 20), (false, true, 20), (true, false, -1), (true, true, -1)]
    {
        assert_eq!(commit(&mut client, 5, &offsets(writer, 10)), ErrorCode::None);
        let told = client.ask(8, &plain);
        assert_eq!(told.topics[0].partitions[0].error_code, ErrorCode::None);
        if deletes {
            let told = client.ask(0, &delete);
            assert_eq!(told.topics[0].partitions[0].error_code, ErrorCode::None);
        }
        if kills {
            broker.kill();
            broker.run();
            client = Client::open(&broker);
            find_group(&mut client);
        }
        let ended = patiently(|| {
            let told = end(&mut client, NEWER_END, writer, true);
            (told.error_code, told)
        });
        writer = producer(ended.1.producer_id, ended.1.producer_epoch);
        settle(&mut client);
        let found = patiently(|| match committed(&mut client, 8, true) {
            Ok(offset) => (ErrorCode::None, offset),
            Err(error) => (error, -2),
        });
        assert_eq!(found, (ErrorCode::None, expected), "{deletes} {kills}");
    }
}
