//! Transactions as they are on the wire: each rule that some client relies on, asked of the real
//! binary in the versions that differ.
//!
//! What a coordinator decides has its rules beside it; here is what only a connection sees:
//! versions and their errors, what a fetch tells of open and aborted transactions, the bytes of
//! markers, and that an end may come from a connection that began nothing.
// Fixtures are tests, though they are no test functions.
#![allow(clippy::unwrap_used)]

mod process;
mod wire;

use process::Broker;
use tidemill_net::kafka::ErrorCode;
use tidemill_net::kafka::add_partitions_to_txn::{
    AddPartitionsToTxnRequest, AddPartitionsToTxnTransaction,
};
use tidemill_net::kafka::api_versions::ApiVersionsRequest;
use tidemill_net::kafka::describe_producers::DescribeProducersRequest;
use tidemill_net::kafka::describe_transactions::{DescribeTransactionsRequest, state};
use tidemill_net::kafka::fetch::READ_COMMITTED;
use tidemill_net::kafka::find_coordinator::{FindCoordinatorRequest, key_type};
use tidemill_net::kafka::init_producer_id::InitProducerIdRequest;
use tidemill_net::kafka::list_transactions::ListTransactionsRequest;
use tidemill_net::kafka::metadata::MetadataRequest;
use tidemill_net::kafka::write_txn_markers::{WritableTxnMarker, WriteTxnMarkersRequest};
use tidemill_record::{Batch, BatchBuilder, Codec, Producer, ProducerEpoch, ProducerId, Sequence};
use wire::Client;
use wire::transactions::{
    ID, NEWER_END, NEWER_PRODUCE, OLDER_END, OLDER_PRODUCE, TOPIC, add, batch, batches, broker,
    end, end_and_settle, end_offset, fetch, filled, init, init_request, init_with, parts, produce,
    produce_once, producer, settle,
};

/// Where readers of what is committed stop: at the first record of the oldest open transaction. Both
/// Fetch and ListOffsets tell so, and the other kind of reader is told of no aborted transactions,
/// not of none.
#[test]
fn the_last_stable_offset_is_where_the_oldest_open_transaction_begins() {
    let (_broker, mut client) = broker("txn-wire-stable");
    let plain = filled(BatchBuilder::new(Codec::None), 2);
    assert_eq!(client.produce(TOPIC, 0, &plain).base_offset, 0);
    let writer = init(&mut client);
    assert_eq!(add(&mut client, 3, writer, &[0, 1]), ErrorCode::None);
    assert_eq!(produce(&mut client, OLDER_PRODUCE, &batch(writer, 0, 3)), (ErrorCode::None, 2));
    assert_eq!(client.produce(TOPIC, 0, &plain).base_offset, 5, "behind it");

    assert_eq!((end_offset(&mut client, 0), end_offset(&mut client, READ_COMMITTED)), (7, 2));
    fetch(&mut client, 0, READ_COMMITTED, |told| {
        let part = &told.partitions[0];
        assert_eq!((part.high_watermark, part.last_stable_offset), (7, 2));
        assert_eq!(part.aborted_transactions.as_deref(), Some(&[][..]));
        assert_eq!(batches(told).len(), 1, "nothing at or behind the last stable offset");
    });
    fetch(&mut client, 0, 0, |told| {
        let part = &told.partitions[0];
        assert_eq!((part.high_watermark, part.last_stable_offset), (7, 2));
        assert!(part.aborted_transactions.is_none());
        assert_eq!(batches(told).len(), 3);
    });
    end_and_settle(&mut client, writer, true);
    assert_eq!(end_offset(&mut client, READ_COMMITTED), 8, "and a marker");
}

/// Of each aborted transaction with records behind the fetch offset its producer and its first
/// offset are told, which may lie before; the marker that ends it is among the data.
#[test]
fn a_reader_is_told_which_transactions_were_aborted() {
    let (_broker, mut client) = broker("txn-wire-aborted");
    let writer = init(&mut client);
    assert_eq!(add(&mut client, 0, writer, &[0]), ErrorCode::None);
    produce(&mut client, OLDER_PRODUCE, &batch(writer, 0, 2));
    produce(&mut client, OLDER_PRODUCE, &batch(writer, 2, 2));
    end_and_settle(&mut client, writer, false);
    assert_eq!(add(&mut client, 0, writer, &[0]), ErrorCode::None);
    produce(&mut client, OLDER_PRODUCE, &batch(writer, 4, 1));
    end_and_settle(&mut client, writer, true);

    for (from, told_of) in [(0, true), (3, true), (4, true), (5, false)] {
        fetch(&mut client, from, READ_COMMITTED, |told| {
            let aborted = told.partitions[0].aborted_transactions.as_deref().unwrap();
            let aborted: Vec<_> = aborted.iter().map(|a| (a.producer_id, a.first_offset)).collect();
            let expected = if told_of { vec![(writer.id.0, 0)] } else { Vec::new() };
            assert_eq!(aborted, expected, "from {from}");
        });
    }
    let kinds = fetch(&mut client, 0, READ_COMMITTED, |told| {
        let kinds = batches(told).into_iter().map(|bytes| {
            let (batch, _) = Batch::parse(&bytes).unwrap();
            (batch.base_offset().0, batch.is_control())
        });
        kinds.collect::<Vec<_>>()
    });
    assert_eq!(kinds, [(0, false), (2, false), (4, true), (5, false), (6, true)]);
}

/// A marker, byte by byte: one record in a transactional control batch of the producer without a
/// sequence, whose key tells the outcome and whose value the coordinator's epoch.
#[test]
fn markers_are_as_kafka_writes_them() {
    let (_broker, mut client) = broker("txn-wire-markers");
    let writer = init(&mut client);
    for (sequence, committed) in [(0, false), (1, true)] {
        assert_eq!(add(&mut client, 3, writer, &[0]), ErrorCode::None);
        produce(&mut client, OLDER_PRODUCE, &batch(writer, sequence, 1));
        end_and_settle(&mut client, writer, committed);
    }
    let all = fetch(&mut client, 0, 0, batches);
    assert_eq!(all.len(), 4);
    for (marker, kind) in [(&all[1], 0_u8), (&all[3], 1)] {
        let (batch, _) = Batch::parse(marker).unwrap();
        batch.verify_checksum().unwrap();
        assert_eq!(batch.attributes() & 0x30, 0x30, "transactional, control");
        assert_eq!(batch.producer(), Some(writer));
        assert_eq!((batch.base_sequence(), batch.records_count()), (None, 1));
        // Behind the length, attributes, times: a key of 4 bytes and a value of 6.
        let record = batch.payload();
        assert_eq!(&record[4..9], &[8, 0, 0, 0, kind], "version 0, and the outcome");
        assert_eq!(&record[9..12], &[12, 0, 0], "version 0, and an epoch");
    }
}

/// An end that is asked for again is answered as the first time, also on a connection that began
/// nothing and after a restart, as Flink does; the other end is refused.
#[test]
fn an_end_may_be_asked_for_again_from_anywhere() {
    let (mut broker, mut client) = broker("txn-wire-again");
    let writer = init(&mut client);
    assert_eq!(add(&mut client, 3, writer, &[0]), ErrorCode::None);
    produce(&mut client, OLDER_PRODUCE, &batch(writer, 0, 1));
    broker.kill();
    broker.run();

    for version in [OLDER_END, 0, 1] {
        let mut other = Client::open(&broker);
        assert_eq!(end(&mut other, version, writer, true).error_code, ErrorCode::None);
        settle(&mut other);
    }
    let mut other = Client::open(&broker);
    let wrong = end(&mut other, OLDER_END, writer, false).error_code;
    assert_eq!(wrong, ErrorCode::InvalidTxnState);
    assert_eq!(end_offset(&mut other, READ_COMMITTED), 2, "one record, one marker");
}

/// A transaction whose time is over is aborted under a higher epoch: its producer is fenced, in the
/// words that its version knows, until it asks for that epoch; and for good when another has come.
#[test]
fn a_producer_whose_time_is_over_is_fenced_until_it_asks_for_the_next_epoch() {
    let (_broker, mut client) = broker("txn-wire-late");
    let told = init_with(&mut client, 4, &init_request(2_000));
    let writer = producer(told.producer_id, told.producer_epoch);
    assert_eq!(add(&mut client, 3, writer, &[0]), ErrorCode::None);
    assert_eq!(produce(&mut client, OLDER_PRODUCE, &batch(writer, 0, 1)).0, ErrorCode::None);
    assert_eq!(settle(&mut client), state::COMPLETE_ABORT);

    for (version, error) in
        [(1, ErrorCode::InvalidProducerEpoch), (OLDER_END, ErrorCode::ProducerFenced)]
    {
        assert_eq!(end(&mut client, version, writer, true).error_code, error);
    }
    for (version, error) in [(1, ErrorCode::InvalidProducerEpoch), (3, ErrorCode::ProducerFenced)] {
        assert_eq!(add(&mut client, version, writer, &[0]), error);
    }
    let late = produce(&mut client, OLDER_PRODUCE, &batch(writer, 1, 1)).0;
    assert_eq!(late, ErrorCode::InvalidProducerEpoch, "Produce has no word of its own");
    let (producer_id, producer_epoch) = (writer.id.0, writer.epoch.0);
    let named = InitProducerIdRequest { producer_id, producer_epoch, ..init_request(60_000) };
    for version in [3, 4] {
        let told = init_with(&mut client, version, &named);
        assert_eq!(told.error_code, ErrorCode::None);
        assert_eq!((told.producer_id, told.producer_epoch), (writer.id.0, writer.epoch.0 + 1));
    }
    let next = init(&mut client);
    assert_eq!(next, producer(writer.id.0, writer.epoch.0 + 2));
    for (version, error) in [(3, ErrorCode::InvalidProducerEpoch), (4, ErrorCode::ProducerFenced)] {
        assert_eq!(init_with(&mut client, version, &named).error_code, error);
    }
}

/// The newer flow: brokers tell that they follow it; a batch adds its partition by itself; each end
/// tells the next epoch, under which sequences begin anew, and is answered again if it is asked for
/// again under the old one. The old epoch writes no more.
#[test]
fn in_the_newer_flow_each_end_tells_the_next_epoch() {
    let (_broker, mut client) = broker("txn-wire-newer");
    let asked = ApiVersionsRequest {
        client_software_name: "test".to_owned(),
        client_software_version: "1".to_owned(),
    };
    let versions = client.ask(3, &asked);
    let level = versions.finalized_features.iter().find(|f| f.name == "transaction.version");
    let level = level.map(|found| (found.min_version_level, found.max_version_level));
    assert_eq!(level, Some((2, 2)));

    let mut writer = init(&mut client);
    for (number, committed) in (0_i64..).zip([true, false, true]) {
        let sent = produce(&mut client, NEWER_PRODUCE, &batch(writer, 0, 1));
        assert_eq!(sent, (ErrorCode::None, 2 * number), "the sequence begins anew");
        let ended = end(&mut client, NEWER_END, writer, committed);
        assert_eq!(ended.error_code, ErrorCode::None);
        assert_eq!(ended.producer_id, writer.id.0);
        assert_eq!(ended.producer_epoch, writer.epoch.0 + 1);
        let again = end(&mut client, NEWER_END, writer, committed);
        assert_eq!(again, ended, "as one who has not heard");
        settle(&mut client);
        let late = produce(&mut client, NEWER_PRODUCE, &batch(writer, 1, 1)).0;
        assert_eq!(late, ErrorCode::InvalidProducerEpoch);
        writer = producer(ended.producer_id, ended.producer_epoch);
    }
    let empty = end(&mut client, NEWER_END, writer, true).error_code;
    assert_eq!(empty, ErrorCode::InvalidTxnState, "there is nothing to commit");
    let aborted = end(&mut client, NEWER_END, writer, false);
    assert_eq!(aborted.producer_epoch, writer.epoch.0 + 1, "an abort may be of nothing");
}

/// A batch of the older flow whose partition nobody has added would hang for ever: it is refused, and
/// only versions that know the word are told to abort.
#[test]
fn a_batch_whose_partition_was_not_added_is_refused() {
    let (_broker, mut client) = broker("txn-wire-not-added");
    let writer = init(&mut client);
    for (version, error) in
        [(10, ErrorCode::InvalidTxnState), (OLDER_PRODUCE, ErrorCode::TransactionAbortable)]
    {
        assert_eq!(produce(&mut client, version, &batch(writer, 0, 1)).0, error);
    }
    assert_eq!(end_offset(&mut client, 0), 0);
}

/// AddPartitionsToTxn from version 4: many transactions in one request, some only asked about; a
/// partition that is not there keeps those beside it from being added.
#[test]
fn partitions_are_added_all_or_none_and_can_be_asked_about() {
    let (_broker, mut client) = broker("txn-wire-add");
    let writer = init(&mut client);
    let mut ask = |version, verify_only, partitions: &[i32]| {
        let transaction = AddPartitionsToTxnTransaction {
            transactional_id: ID.to_owned(),
            producer_id: writer.id.0,
            producer_epoch: writer.epoch.0,
            verify_only,
            topics: parts(partitions),
        };
        let transactions = vec![transaction];
        let request = AddPartitionsToTxnRequest { transactions, ..Default::default() };
        let told = client.ask(version, &request).results_by_transaction.remove(0);
        let results = &told.topic_results[0].results_by_partition;
        results.iter().map(|result| result.partition_error_code).collect::<Vec<_>>()
    };
    let (none, unknown) = (ErrorCode::None, ErrorCode::UnknownTopicOrPartition);
    assert_eq!(ask(4, true, &[0]), [ErrorCode::InvalidTxnState], "version 4 has no other word");
    assert_eq!(ask(5, true, &[0]), [ErrorCode::TransactionAbortable]);
    assert_eq!(ask(4, false, &[0, 9]), [ErrorCode::OperationNotAttempted, unknown]);
    assert_eq!(ask(5, true, &[0]), [ErrorCode::TransactionAbortable], "nothing was added");
    assert_eq!(ask(4, false, &[0]), [none]);
    assert_eq!(ask(5, true, &[0, 1]), [none, ErrorCode::TransactionAbortable]);
}

/// A timeout above the broker's limit is refused; an hour, as Flink asks for, is not. A producer
/// without a name is no producer of transactions, and an empty name is none.
#[test]
fn timeouts_and_names_are_checked() {
    let (_broker, mut client) = broker("txn-wire-timeouts");
    let hour = init_with(&mut client, 4, &init_request(3_600_000));
    assert_eq!(hour.error_code, ErrorCode::None, "what Flink asks for");
    for timeout_ms in [3_600_001, 0, -1] {
        let told = init_with(&mut client, 4, &init_request(timeout_ms)).error_code;
        assert_eq!(told, ErrorCode::InvalidTransactionTimeout, "{timeout_ms}");
    }
    let empty =
        InitProducerIdRequest { transactional_id: Some(String::new()), ..init_request(60_000) };
    assert_eq!(client.ask(4, &empty).error_code, ErrorCode::InvalidRequest);
    let unnamed = InitProducerIdRequest { transactional_id: None, ..init_request(60_000) };
    let ids = [(); 2].map(|()| client.ask(4, &unnamed));
    assert!(ids.iter().all(|told| told.error_code.is_none() && told.producer_epoch == 0));
    assert_ne!(ids[0].producer_id, ids[1].producer_id);
}

/// When the last transaction began is told until the next one begins, also once it is complete.
#[test]
fn when_a_transaction_began_was_not_told_once_it_was_complete() {
    let (_broker, mut client) = broker("txn-wire-began");
    let writer = init(&mut client);
    let began = |client: &mut Client| {
        let request = DescribeTransactionsRequest { transactional_ids: vec![ID.to_owned()] };
        client.ask(0, &request).transaction_states.remove(0).transaction_start_time_ms
    };
    assert_eq!(began(&mut client), -1, "none has begun");
    produce(&mut client, NEWER_PRODUCE, &batch(writer, 0, 1));
    let open = began(&mut client);
    assert!(0 < open);
    assert_eq!(end(&mut client, NEWER_END, writer, true).error_code, ErrorCode::None);
    settle(&mut client);
    assert_eq!(began(&mut client), open);
}

// Administrators.

/// A transaction that nobody will end is seen in its partition and can be ended there by hand: with
/// WriteTxnMarkers, as its producer under its epoch.
#[test]
fn an_administrator_sees_and_ends_what_hangs() {
    let (_broker, mut client) = broker("txn-wire-hanging");
    init(&mut client);
    let writer = init(&mut client);
    produce(&mut client, NEWER_PRODUCE, &batch(writer, 0, 2));
    let open = |client: &mut Client| {
        let request = DescribeProducersRequest { topics: parts(&[0]) };
        let told = client.ask(0, &request).topics.remove(0).partitions.remove(0);
        let producer = &told.active_producers[0];
        assert_eq!(producer.producer_id, writer.id.0);
        assert_eq!(producer.producer_epoch, i32::from(writer.epoch.0));
        producer.current_txn_start_offset
    };
    assert_eq!(open(&mut client), 0);
    let marker = |producer_epoch: i16| WriteTxnMarkersRequest {
        markers: vec![WritableTxnMarker {
            producer_id: writer.id.0,
            producer_epoch,
            transaction_result: false,
            topics: parts(&[0]),
            ..WritableTxnMarker::default()
        }],
    };
    let mut write = |version, request: &WriteTxnMarkersRequest| {
        client.ask(version, request).markers[0].topics[0].partitions[0].error_code
    };
    assert_eq!(write(1, &marker(writer.epoch.0 - 1)), ErrorCode::InvalidProducerEpoch);
    assert_eq!(write(1, &marker(writer.epoch.0)), ErrorCode::None);
    assert_eq!(open(&mut client), -1);
    assert_eq!(end_offset(&mut client, READ_COMMITTED), 3);
}

/// What every broker of the cluster lists, put together as it is, names each transactional id once, and
/// from the one that looks after it: Kafka's admin client takes it so. The bug: every shard listed all,
/// so that `kafka-transactions list` showed each of them once for each shard.
#[test]
fn a_transaction_was_listed_once_for_each_shard() {
    const IDS: [&str; 8] = ["a", "b", "c", "d", "e", "f", "g", "h"];
    for (routing, brokers) in [("owner", 2), ("node", 1)] {
        let name = format!("txn-wire-listed-{routing}");
        let set = format!("tidemill.routing={routing}");
        let broker = Broker::start(&name, &["--shards", "2", "--set", &set]);
        let mut client = Client::open(&broker);
        for id in IDS {
            let request = InitProducerIdRequest {
                transactional_id: Some(id.to_owned()),
                ..init_request(60_000)
            };
            assert_eq!(init_with(&mut client, 4, &request).error_code, ErrorCode::None);
        }
        let find = FindCoordinatorRequest {
            coordinator_keys: IDS.map(str::to_owned).to_vec(),
            key_type: key_type::TRANSACTION,
            ..FindCoordinatorRequest::default()
        };
        let found = client.ask(4, &find).coordinators.into_iter();
        let by_coordinator: Vec<_> = found.map(|found| (found.key, found.node_id)).collect();

        let nobody = MetadataRequest { topics: Some(Vec::new()), ..MetadataRequest::default() };
        let nodes = client.ask(9, &nobody).brokers;
        assert_eq!(nodes.len(), brokers);
        let mut listed = Vec::new();
        for node in &nodes {
            let mut client = Client::at(&format!("{}:{}", node.host, node.port));
            let told = client.ask(0, &ListTransactionsRequest::default());
            assert_eq!(told.error_code, ErrorCode::None);
            assert!(!told.transaction_states.is_empty(), "each of them looks after some");
            let ids = told.transaction_states.into_iter().map(|one| one.transactional_id);
            listed.extend(ids.map(|id| (id, node.node_id)));
        }
        listed.sort();
        assert_eq!(listed, by_coordinator, "{routing}");
    }
}

// Numbers of batches.

/// A batch that is sent again is answered as the first time, also after a restart and across the
/// wrap of sequences; the fifth before the last is the oldest that is known again.
#[test]
fn a_batch_that_is_sent_again_is_answered_as_before() {
    let (mut broker, mut client) = broker("txn-wire-numbers");
    let writer = init(&mut client);
    let id = ProducerId(writer.id.0 + 1_000_000);
    let numbered = |epoch: i16, sequence: i32, count: usize| {
        let producer = Producer { id, epoch: ProducerEpoch(epoch) };
        filled(BatchBuilder::new(Codec::None).numbered(producer, Sequence(sequence)), count)
    };
    let send = |client: &mut Client, epoch, sequence, count| {
        produce_once(client, OLDER_PRODUCE, None, &numbered(epoch, sequence, count))
    };
    let (none, gap) = (ErrorCode::None, ErrorCode::OutOfOrderSequenceNumber);
    // Of an unknown producer any number is taken: what it sent before is gone.
    assert_eq!(send(&mut client, 3, i32::MAX - 1, 3), (none, 0), "over the wrap: 0 is the last");
    for (at, offset) in (1..=4).zip(3..) {
        assert_eq!(send(&mut client, 3, at, 1), (none, offset));
    }
    assert_eq!(send(&mut client, 3, i32::MAX - 1, 3), (none, 0), "one of the last five");
    broker.kill();
    broker.run();
    let mut client = Client::open(&broker);
    assert_eq!(send(&mut client, 3, 2, 1), (none, 4), "after a restart, too");
    assert_eq!(send(&mut client, 3, 2, 2).0, gap, "another batch with the same beginning");
    assert_eq!(send(&mut client, 3, 6, 1).0, gap);
    assert_eq!(send(&mut client, 2, 5, 1).0, ErrorCode::InvalidProducerEpoch);
    assert_eq!(send(&mut client, 4, 5, 1).0, gap, "a new epoch begins with 0");
    assert_eq!(send(&mut client, 4, 0, 1), (none, 7));
    assert_eq!(send(&mut client, 3, 5, 1).0, ErrorCode::InvalidProducerEpoch);
}
