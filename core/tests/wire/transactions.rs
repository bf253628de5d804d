//! A producer of transactions in the words of the protocol: each step of both flows, and what readers
//! and tools are told meanwhile.

use std::io::Write;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use tidemill_net::kafka::add_partitions_to_txn::AddPartitionsToTxnRequest;
use tidemill_net::kafka::describe_transactions::{DescribeTransactionsRequest, state};
use tidemill_net::kafka::end_txn::{EndTxnRequest, EndTxnResponse};
use tidemill_net::kafka::fetch::{FetchPartition, FetchResponse, OutgoingFetch};
use tidemill_net::kafka::find_coordinator::{FindCoordinatorRequest, key_type};
use tidemill_net::kafka::init_producer_id::{InitProducerIdRequest, InitProducerIdResponse};
use tidemill_net::kafka::list_offsets::{
    LATEST, ListOffsetsPartition, ListOffsetsRequest, ListOffsetsTopic,
};
use tidemill_net::kafka::produce::{OutgoingProduce, OutgoingProducePartition, ProduceResponse};
use tidemill_net::kafka::topic_partitions::TopicPartitions;
use tidemill_net::kafka::{ApiKey, ErrorCode, TopicRef, parse_response_header};
use tidemill_record::{
    Batch, BatchBuilder, Codec, Producer, ProducerEpoch, ProducerId, Sequence, Timestamp,
};

use super::Client;
use crate::process::Broker;

pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
pub(crate) const TOPIC: &str = "t";
pub(crate) const ID: &str = "x";
/// The last version in which a batch does not add its partition.
pub(crate) const OLDER_PRODUCE: i16 = 11;
/// The first in which it does.
pub(crate) const NEWER_PRODUCE: i16 = 12;
pub(crate) const OLDER_END: i16 = 4;
pub(crate) const NEWER_END: i16 = 5;

pub(crate) fn broker(name: &str) -> (Broker, Client) {
    let broker = Broker::start(name, &["--shards", "2"]);
    let mut client = Client::open(&broker);
    client.create(TOPIC, 2);
    (broker, client)
}

/// Asks again until the coordinator has come up, and partitions have been told of an end.
pub(crate) fn patiently<T>(mut ask: impl FnMut() -> (ErrorCode, T)) -> (ErrorCode, T) {
    let start = Instant::now();
    loop {
        let (error, told) = ask();
        let passes = matches!(
            error,
            ErrorCode::CoordinatorNotAvailable
                | ErrorCode::NotCoordinator
                | ErrorCode::CoordinatorLoadInProgress
                | ErrorCode::ConcurrentTransactions
                | ErrorCode::NotEnoughReplicas
                | ErrorCode::UnstableOffsetCommit
        );
        if !passes || PATIENCE < start.elapsed() {
            return (error, told);
        }
    }
}

pub(crate) fn init_request(timeout_ms: i32) -> InitProducerIdRequest {
    InitProducerIdRequest {
        transactional_id: Some(ID.to_owned()),
        transaction_timeout_ms: timeout_ms,
        ..InitProducerIdRequest::default()
    }
}

pub(crate) fn producer(id: i64, epoch: i16) -> Producer {
    Producer { id: ProducerId(id), epoch: ProducerEpoch(epoch) }
}

/// Finds the coordinator, and is let in.
pub(crate) fn init(client: &mut Client) -> Producer {
    let told = init_with(client, 4, &init_request(60_000));
    assert_eq!(told.error_code, ErrorCode::None);
    producer(told.producer_id, told.producer_epoch)
}

pub(crate) fn init_with(
    client: &mut Client,
    version: i16,
    request: &InitProducerIdRequest,
) -> InitProducerIdResponse {
    let find = FindCoordinatorRequest {
        key: ID.to_owned(),
        key_type: key_type::TRANSACTION,
        ..FindCoordinatorRequest::default()
    };
    patiently(|| (client.ask(1, &find).error_code, ()));
    let told = patiently(|| {
        let told = client.ask(version, request);
        (told.error_code, told)
    });
    told.1
}

pub(crate) fn batch(producer: Producer, sequence: i32, count: usize) -> Bytes {
    let builder = BatchBuilder::new(Codec::None).numbered(producer, Sequence(sequence));
    filled(builder.transactional(), count)
}

pub(crate) fn filled(mut builder: BatchBuilder, count: usize) -> Bytes {
    for number in 0..count {
        builder.append(Timestamp(1_000), None, Some(format!("v{number}").as_bytes()));
    }
    builder.build().freeze()
}

/// Sends a batch to partition 0; the error, and the offset.
pub(crate) fn produce_once(
    client: &mut Client,
    version: i16,
    id: Option<&str>,
    batch: &[u8],
) -> (ErrorCode, i64) {
    let partitions = [OutgoingProducePartition {
        topic: TopicRef::Name(TOPIC),
        partition: 0,
        records: Some(batch),
    }];
    let produce = OutgoingProduce {
        transactional_id: id,
        acks: -1,
        timeout_ms: 30_000,
        partitions: &partitions,
    };
    let mut out = BytesMut::new();
    produce.encode(&mut out, version, 7, Some("test"));
    client.stream.write_all(&out).unwrap();
    let frame = client.receive();
    let (_, start) = parse_response_header(ApiKey::Produce, version, &frame).unwrap();
    let response = ProduceResponse::parse(version, &frame[start..]).unwrap();
    (response.partitions[0].error_code, response.partitions[0].base_offset)
}

pub(crate) fn produce(client: &mut Client, version: i16, batch: &[u8]) -> (ErrorCode, i64) {
    patiently(|| produce_once(client, version, Some(ID), batch))
}

pub(crate) fn add(
    client: &mut Client,
    version: i16,
    producer: Producer,
    partitions: &[i32],
) -> ErrorCode {
    let request = AddPartitionsToTxnRequest {
        v3_and_below_transactional_id: ID.to_owned(),
        v3_and_below_producer_id: producer.id.0,
        v3_and_below_producer_epoch: producer.epoch.0,
        v3_and_below_topics: parts(partitions),
        ..AddPartitionsToTxnRequest::default()
    };
    let told = patiently(|| {
        let told = client.ask(version, &request).results_by_topic_v3_and_below;
        (told[0].results_by_partition[0].partition_error_code, ())
    });
    told.0
}

pub(crate) fn parts(partitions: &[i32]) -> Vec<TopicPartitions> {
    vec![TopicPartitions { topic: TOPIC.to_owned(), partitions: partitions.to_vec() }]
}

pub(crate) fn end(
    client: &mut Client,
    version: i16,
    producer: Producer,
    committed: bool,
) -> EndTxnResponse {
    let request = EndTxnRequest {
        transactional_id: ID.to_owned(),
        producer_id: producer.id.0,
        producer_epoch: producer.epoch.0,
        committed,
    };
    let told = patiently(|| {
        let told = client.ask(version, &request);
        (told.error_code, told)
    });
    told.1
}

/// Ends a transaction of the older flow, and waits until its partitions know.
pub(crate) fn end_and_settle(client: &mut Client, producer: Producer, committed: bool) {
    assert_eq!(end(client, OLDER_END, producer, committed).error_code, ErrorCode::None);
    settle(client);
}

/// Waits until nothing of the transactional id is open.
pub(crate) fn settle(client: &mut Client) -> String {
    let request = DescribeTransactionsRequest { transactional_ids: vec![ID.to_owned()] };
    let start = Instant::now();
    loop {
        let told = client.ask(0, &request).transaction_states.remove(0).transaction_state;
        if [state::EMPTY, state::COMPLETE_COMMIT, state::COMPLETE_ABORT].contains(&&*told) {
            return told;
        }
        assert!(start.elapsed() < PATIENCE, "it hangs as {told}");
    }
}

/// What a fetch of partition 0 tells.
pub(crate) fn fetch<T>(
    client: &mut Client,
    from: i64,
    isolation_level: i8,
    look: impl FnOnce(&FetchResponse<'_>) -> T,
) -> T {
    const VERSION: i16 = 12;
    let partition = FetchPartition::from_consumer(TopicRef::Name(TOPIC), 0, from, 1 << 20);
    let fetch = OutgoingFetch {
        max_bytes: 1 << 20,
        isolation_level,
        partitions: &[partition],
        ..OutgoingFetch::default()
    };
    let mut out = BytesMut::new();
    fetch.encode(&mut out, VERSION, 7, Some("test"));
    client.stream.write_all(&out).unwrap();
    let frame = Bytes::from(client.receive());
    let (_, start) = parse_response_header(ApiKey::Fetch, VERSION, &frame).unwrap();
    let body = frame.slice(start..);
    look(&FetchResponse::parse(VERSION, &body).unwrap())
}

/// The batches that a fetch gives, each from its first offset.
pub(crate) fn batches(response: &FetchResponse<'_>) -> Vec<Bytes> {
    let mut found = Vec::new();
    for run in response.partitions[0].records.iter() {
        let mut rest = &run[..];
        while !rest.is_empty() {
            let (batch, behind) = Batch::parse(rest).unwrap();
            found.push(Bytes::copy_from_slice(batch.bytes()));
            rest = behind;
        }
    }
    found
}

pub(crate) fn end_offset(client: &mut Client, isolation_level: i8) -> i64 {
    let request = ListOffsetsRequest {
        isolation_level,
        topics: vec![ListOffsetsTopic {
            name: TOPIC.to_owned(),
            partitions: vec![ListOffsetsPartition {
                partition_index: 0,
                timestamp: LATEST,
                ..ListOffsetsPartition::default()
            }],
        }],
        ..ListOffsetsRequest::default()
    };
    client.ask(6, &request).topics[0].partitions[0].offset
}
