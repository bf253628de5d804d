//! Transactions with a real client: librdkafka begins, writes, commits and aborts.
//!
//! What is promised here is what an application sees: whoever reads what is committed gets all of
//! a committed transaction and nothing of any other, a producer that was replaced writes no more,
//! and a broker that was killed in the middle leaves nothing that hangs.
// Fixtures are tests, though they are no test functions.
#![allow(clippy::unwrap_used)]

mod process;

use std::collections::BTreeSet;
use std::process::Command;
use std::time::{Duration, Instant};

use process::Broker;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::Message;
use rdkafka::producer::{BaseRecord, DefaultProducerContext, Producer, ThreadedProducer};
use rdkafka::{Offset, TopicPartitionList};

const PATIENCE: Duration = Duration::from_secs(60);
const TOPIC: &str = "ledger";
const PARTITIONS: i32 = 4;

type Writer = ThreadedProducer<DefaultProducerContext>;

fn broker(name: &str) -> Broker {
    Broker::start(name, &["--shards", "2", "--set", "num.partitions=4"])
}

fn client(broker: &Broker) -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", broker.address());
    config.set("broker.address.family", "v4");
    config.set("reconnect.backoff.max.ms", "500");
    config
}

fn writer(broker: &Broker, id: &str) -> Writer {
    let mut config = client(broker);
    config.set("transactional.id", id).set("transaction.timeout.ms", "30000");
    config.create().unwrap()
}

/// Writes each number to the partitions in turn, and waits until all is acknowledged.
fn write(writer: &Writer, numbers: std::ops::Range<i32>) {
    for number in numbers {
        let text = number.to_string();
        let record = BaseRecord::<str, str>::to(TOPIC).payload(&text);
        let record = record.partition(number % PARTITIONS);
        writer.send(record).map_err(|(error, _)| error).unwrap();
    }
    writer.flush(PATIENCE).unwrap();
}

/// All that is there, up to the ends of the partitions as this isolation shows them.
fn read(broker: &Broker, isolation: &str) -> BTreeSet<i32> {
    let mut config = client(broker);
    config.set("group.id", "nobody").set("enable.auto.commit", "false");
    config.set("isolation.level", isolation).set("enable.partition.eof", "true");
    let consumer: BaseConsumer = config.create().unwrap();
    let mut all = TopicPartitionList::new();
    for partition in 0..PARTITIONS {
        all.add_partition_offset(TOPIC, partition, Offset::Beginning).unwrap();
    }
    consumer.assign(&all).unwrap();
    let (mut seen, mut ended) = (BTreeSet::new(), BTreeSet::new());
    let start = Instant::now();
    while ended.len() < PARTITIONS as usize {
        assert!(start.elapsed() < PATIENCE, "it takes too long");
        match consumer.poll(Duration::from_millis(100)) {
            Some(Ok(message)) => {
                let text = std::str::from_utf8(message.payload().unwrap()).unwrap();
                assert!(seen.insert(text.parse().unwrap()), "{text} comes twice");
            }
            Some(Err(rdkafka::error::KafkaError::PartitionEOF(partition))) => {
                ended.insert(partition);
            }
            Some(Err(error)) => panic!("{error}"),
            None => {}
        }
    }
    seen
}

fn numbers(ranges: &[(i32, i32)]) -> BTreeSet<i32> {
    ranges.iter().flat_map(|(from, to)| *from..*to).collect()
}

/// All of a committed transaction, and nothing of an aborted or an open one.
#[test]
fn readers_of_what_is_committed_see_all_or_nothing() {
    let broker = broker("transactions-all-or-nothing");
    let (first, second) = (writer(&broker, "first"), writer(&broker, "second"));
    first.init_transactions(PATIENCE).unwrap();
    second.init_transactions(PATIENCE).unwrap();
    first.begin_transaction().unwrap();
    write(&first, 0..100);
    first.commit_transaction(PATIENCE).unwrap();
    first.begin_transaction().unwrap();
    write(&first, 100..200);
    first.abort_transaction(PATIENCE).unwrap();
    first.begin_transaction().unwrap();
    write(&first, 200..300);
    first.commit_transaction(PATIENCE).unwrap();
    second.begin_transaction().unwrap();
    write(&second, 300..400);
    assert_eq!(read(&broker, "read_committed"), numbers(&[(0, 100), (200, 300)]));
    assert_eq!(read(&broker, "read_uncommitted"), numbers(&[(0, 400)]));
    // So it is with the command, alone and in a group; it printed what was aborted.
    for how in [&[][..], &["--group", "printing"]] {
        assert_eq!(printed(&broker, how), 200, "{how:?}");
    }
    assert_eq!(printed(&broker, &["--isolation-level", "read_uncommitted"]), 400);
    // What is committed behind the open transaction has to wait for it.
    first.begin_transaction().unwrap();
    write(&first, 400..500);
    first.commit_transaction(PATIENCE).unwrap();
    assert_eq!(read(&broker, "read_committed"), numbers(&[(0, 100), (200, 300)]));
    second.commit_transaction(PATIENCE).unwrap();
    assert_eq!(read(&broker, "read_committed"), numbers(&[(0, 100), (200, 500)]));
}

/// How many records `tidemill consume` prints up to the end.
fn printed(broker: &Broker, how: &[&str]) -> usize {
    let output = Command::new(env!("CARGO_BIN_EXE_tidemill"))
        .args(["consume", "-b", &broker.address(), "-t", TOPIC, "--exit"])
        .args(how)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output.stdout.iter().filter(|byte| **byte == b'\n').count()
}

/// A second producer of the same name aborts what the first has open and takes over.
#[test]
fn a_replaced_producer_commits_nothing() {
    let broker = broker("transactions-fencing");
    let old = writer(&broker, "one");
    old.init_transactions(PATIENCE).unwrap();
    old.begin_transaction().unwrap();
    write(&old, 0..40);
    let new = writer(&broker, "one");
    new.init_transactions(PATIENCE).unwrap();
    assert!(old.commit_transaction(PATIENCE).is_err(), "it was replaced");
    new.begin_transaction().unwrap();
    write(&new, 40..80);
    new.commit_transaction(PATIENCE).unwrap();
    assert_eq!(read(&broker, "read_committed"), numbers(&[(40, 80)]));
}

/// Offsets that a producer commits for a group count with its transaction: after a commit the next
/// consumer begins behind them, after an abort where the one before did.
#[test]
fn offsets_of_a_group_count_with_the_transaction() {
    let broker = broker("transactions-offsets");
    let writer = writer(&broker, "copier");
    writer.init_transactions(PATIENCE).unwrap();
    let mut config = client(&broker);
    config.set("group.id", "copiers").set("enable.auto.commit", "false");
    let consumer: BaseConsumer = config.create().unwrap();
    let mut committed = None;
    for (offset, commits) in [(7, true), (9, false), (11, true)] {
        writer.begin_transaction().unwrap();
        write(&writer, 0..1);
        let mut offsets = TopicPartitionList::new();
        offsets.add_partition_offset(TOPIC, 0, Offset::Offset(offset)).unwrap();
        let group = consumer.group_metadata().unwrap();
        writer.send_offsets_to_transaction(&offsets, &group, PATIENCE).unwrap();
        if commits {
            writer.commit_transaction(PATIENCE).unwrap();
            committed = Some(Offset::Offset(offset));
        } else {
            writer.abort_transaction(PATIENCE).unwrap();
        }
        // Whoever asks for stable offsets waits until the transaction is complete.
        let mut asked = TopicPartitionList::new();
        asked.add_partition(TOPIC, 0);
        let found = consumer.committed_offsets(asked, PATIENCE).unwrap();
        assert_eq!(found.find_partition(TOPIC, 0).map(|found| found.offset()), committed);
    }
}

/// A broker that is killed in the middle of a transaction goes on with it; what its producer never
/// ends, the next one of its name does.
#[test]
fn a_transaction_goes_on_behind_a_kill() {
    let mut broker = broker("transactions-kill");
    let survivor = writer(&broker, "survivor");
    survivor.init_transactions(PATIENCE).unwrap();
    let lost = writer(&broker, "lost");
    lost.init_transactions(PATIENCE).unwrap();
    for round in 0..3 {
        let base = round * 1000;
        survivor.begin_transaction().unwrap();
        write(&survivor, base..base + 100);
        lost.begin_transaction().unwrap();
        write(&lost, base + 500..base + 540);
        broker.kill();
        broker.run();
        write(&survivor, base + 100..base + 200);
        survivor.commit_transaction(PATIENCE).unwrap();
        lost.abort_transaction(PATIENCE).unwrap();
    }
    lost.begin_transaction().unwrap();
    write(&lost, 9000..9040);
    drop(lost);
    broker.kill();
    broker.run();
    let next = writer(&broker, "lost");
    next.init_transactions(PATIENCE).unwrap();
    next.begin_transaction().unwrap();
    write(&next, 9100..9140);
    next.commit_transaction(PATIENCE).unwrap();
    let committed = numbers(&[(0, 200), (1000, 1200), (2000, 2200), (9100, 9140)]);
    assert_eq!(read(&broker, "read_committed"), committed);
}

/// What a command of the real binary prints, as JSON; none if it failed.
fn command(broker: &Broker, arguments: &[&str]) -> Option<serde_json::Value> {
    let run = Command::new(env!("CARGO_BIN_EXE_tidemill"))
        .args(arguments)
        .args(["--output", "json", "-b", &broker.address()])
        .output()
        .unwrap();
    run.status.success().then(|| serde_json::from_slice(&run.stdout).unwrap())
}

/// An administrator sees who runs transactions, what they write to and since when, and can end one
/// by hand in a partition. One that its coordinator knows of does not hang, however old it is, and is
/// only ended by force.
#[test]
fn an_administrator_looks_into_transactions() {
    let broker = broker("transactions-commands");
    let (idle, busy) = (writer(&broker, "idle"), writer(&broker, "busy"));
    idle.init_transactions(PATIENCE).unwrap();
    busy.init_transactions(PATIENCE).unwrap();
    busy.begin_transaction().unwrap();
    write(&busy, 0..2);

    let run = |arguments: &[&str]| command(&broker, arguments).unwrap();
    let listed = run(&["txn", "list"]);
    let ids = listed.as_array().unwrap().iter().map(|row| &row["transactional_id"]);
    assert_eq!(ids.collect::<Vec<_>>(), ["busy", "idle"]);
    let listed = run(&["txn", "list", "--state", "Ongoing"]);
    assert_eq!((listed.as_array().unwrap().len(), &listed[0]["state"]), (1, &"Ongoing".into()));
    let old = run(&["txn", "list", "--duration-filter", "3600000"]);
    assert_eq!(old, serde_json::json!([]));
    assert!(command(&broker, &["txn", "list", "--state", "Bored"]).is_none());

    let described = run(&["txn", "describe", "busy"]);
    assert_eq!(described["state"], "Ongoing");
    assert_eq!(described["timeout_ms"], 30_000);
    assert_eq!(described["partitions"].as_array().unwrap().len(), 2);
    assert!(described["open_ms"].is_number());
    assert!(run(&["txn", "describe", "idle"])["open_ms"].is_null());
    assert!(command(&broker, &["txn", "describe", "nobody"]).is_none());

    let producers = run(&["txn", "describe-producers", TOPIC, "-p", "0"]);
    assert_eq!(producers[0]["producer_id"], described["producer_id"]);
    assert_eq!(producers[0]["start_offset"], 0);
    let hanging = run(&["txn", "find-hanging", "--max-transaction-timeout", "0"]);
    assert_eq!(hanging, serde_json::json!([]));

    let abort = |offset: &str, further: &[&str]| {
        let mut run = Command::new(env!("CARGO_BIN_EXE_tidemill"));
        run.args(["txn", "abort", TOPIC, "0", "--start-offset", offset, "-b", &broker.address()]);
        run.args(further).output().unwrap()
    };
    assert!(!abort("1", &[]).status.success(), "none begins there");
    let refused = abort("0", &[]);
    let why = String::from_utf8(refused.stderr).unwrap();
    assert!(!refused.status.success() && why.contains("busy has it open for"), "{why}");
    assert!(why.contains("ends by itself after its timeout of 30.0s"), "{why}");
    let open = run(&["txn", "describe-producers", TOPIC, "-p", "0"]);
    assert_eq!(open[0]["start_offset"], 0, "nothing was ended");
    let aborted = String::from_utf8(abort("0", &["--force"]).stdout).unwrap();
    assert!(aborted.starts_with("aborted the transaction of producer"), "{aborted}");
    let producers = run(&["txn", "describe-producers", TOPIC]);
    let open = producers.as_array().unwrap().iter().filter(|row| !row["start_offset"].is_null());
    assert_eq!(open.count(), 1, "that of partition 1 is open still");
}
