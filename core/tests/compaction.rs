//! Compacted topics with real clients: librdkafka writes keys again and again, and deletes some.
//!
//! What is promised here is what an application sees: whoever reads from the start finds the last
//! value of every key, whatever else is dropped and whenever the broker is killed.
// Fixtures are tests, though they are no test functions.
#![allow(clippy::unwrap_used)]

mod process;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use process::Broker;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::Message;
use rdkafka::producer::{BaseRecord, DefaultProducerContext, Producer, ThreadedProducer};
use rdkafka::{Offset, TopicPartitionList};
use tidemill_client::{Admin, ConfigChange, ConfigResource, NewTopic};

const PATIENCE: Duration = Duration::from_secs(90);
const TOPIC: &str = "accounts";
const KEYS: u32 = 50;

type Writer = ThreadedProducer<DefaultProducerContext>;

/// What a reader finds: of each key its offsets and values, in order.
type Found = BTreeMap<String, Vec<(i64, Option<String>)>>;

fn broker(name: &str) -> Broker {
    broker_with(name, &[])
}

fn broker_with(name: &str, more: &[&str]) -> Broker {
    let arguments = ["--shards", "2", "--set", "log.cleaner.backoff.ms=50"];
    let broker = Broker::start(name, &[&arguments[..], more].concat());
    let topic = NewTopic::new(TOPIC)
        .partitions(1)
        .config("cleanup.policy", "compact")
        .config("segment.bytes", "16384")
        .config("min.cleanable.dirty.ratio", "0.01")
        .config("delete.retention.ms", "1000");
    Admin::open(&broker.address()).unwrap().create_topic(&topic).unwrap();
    broker
}

fn client(broker: &Broker) -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", broker.address());
    config.set("broker.address.family", "v4");
    config.set("reconnect.backoff.max.ms", "500");
    config
}

fn writer(broker: &Broker, codec: &str) -> Writer {
    let mut config = client(broker);
    config.set("enable.idempotence", "true").set("compression.type", codec);
    config.set("batch.num.messages", "20").set("linger.ms", "1");
    config.create().unwrap()
}

fn send(writer: &Writer, key: &str, value: Option<&str>) {
    let mut record = BaseRecord::<str, str>::to(TOPIC).key(key).partition(0);
    record.payload = value;
    writer.send(record).map_err(|(error, _)| error).unwrap();
}

/// Writes every key so many times, the last time `last`; every fifth key is deleted at last.
fn write(writer: &Writer, times: u32, last: &str) {
    for time in 0..times {
        for key in 0..KEYS {
            let is_last = time + 1 == times;
            let text = if is_last { last.to_owned() } else { format!("{last} {time}") };
            let deleted = is_last && key % 5 == 0;
            send(writer, &format!("key {key}"), (!deleted).then_some(text.as_str()));
        }
    }
    writer.flush(PATIENCE).unwrap();
}

/// Fills segments with other keys, so that what was written before is in sealed ones.
fn fill(broker: &Broker) {
    let writer = writer(broker, "none");
    let large = "x".repeat(9000);
    for number in 0..6 {
        send(&writer, &format!("filler {number}"), Some(&large));
        writer.flush(PATIENCE).unwrap();
    }
}

/// Everything that is there, from the start to the end.
fn read(broker: &Broker) -> Found {
    let mut config = client(broker);
    config.set("group.id", "nobody").set("enable.auto.commit", "false");
    config.set("enable.partition.eof", "true").set("check.crcs", "true");
    let consumer: BaseConsumer = config.create().unwrap();
    let mut all = TopicPartitionList::new();
    all.add_partition_offset(TOPIC, 0, Offset::Beginning).unwrap();
    consumer.assign(&all).unwrap();
    let mut found = Found::new();
    let mut next = 0;
    let start = Instant::now();
    loop {
        assert!(start.elapsed() < PATIENCE, "it takes too long");
        match consumer.poll(Duration::from_millis(100)) {
            Some(Ok(message)) => {
                assert!(next <= message.offset(), "in order, and none twice");
                next = message.offset() + 1;
                let text = |bytes: &[u8]| std::str::from_utf8(bytes).unwrap().to_owned();
                let key = text(message.key().unwrap());
                let value = message.payload().map(text);
                found.entry(key).or_default().push((message.offset(), value));
            }
            Some(Err(rdkafka::error::KafkaError::PartitionEOF(_))) => return found,
            Some(Err(error)) => panic!("{error}"),
            None => {}
        }
    }
}

/// Whether of each key only the last value is left; in any case the last is there.
fn is_compacted(found: &Found, last: &str) -> bool {
    let mut only_last = true;
    for key in 0..KEYS {
        let records = found.get(&format!("key {key}")).map_or(&[][..], Vec::as_slice);
        if key % 5 == 0 {
            // Deleted: the mark itself goes a second after it was first met.
            assert!(records.last().is_none_or(|(_, value)| value.is_none()), "key {key}");
            only_last &= records.len() <= 1;
        } else {
            let (_, value) = records.last().unwrap();
            assert_eq!(value.as_deref(), Some(last), "key {key}");
            only_last &= records.len() == 1;
        }
    }
    only_last
}

fn wait_until_compacted(broker: &Broker, last: &str) -> Found {
    let start = Instant::now();
    loop {
        let found = read(broker);
        if is_compacted(&found, last) {
            return found;
        }
        assert!(
            start.elapsed() < PATIENCE,
            "not compacted: {} keys, {} records",
            found.len(),
            found.values().flatten().count()
        );
    }
}

/// Of each key only the last value is left, at the offset it always had, also behind a kill -9; and
/// deletions go after their time. Whatever the codec.
#[test]
fn the_last_value_of_each_key_is_left_and_survives_kill_9() {
    let mut broker = broker("compaction-kill");
    for (round, codec) in ["none", "lz4", "zstd"].into_iter().enumerate() {
        let writer = writer(&broker, codec);
        let last = format!("value of {codec}");
        write(&writer, 60, &last);
        fill(&broker);
        let found = wait_until_compacted(&broker, &last);
        broker.kill();
        broker.run();
        let again = read(&broker);
        assert!(is_compacted(&again, &last), "round {round}");
        for (key, records) in again.iter().filter(|(key, _)| key.starts_with("key")) {
            assert_eq!(found.get(key), Some(records), "a record does not move");
        }
        println!("{codec}: {} keys, {} records", found.len(), found.values().flatten().count());
    }
}

/// The files that compaction has made, finished or not.
fn made(broker: &Broker) -> BTreeSet<String> {
    let mut dirs = vec![broker.data_dir()];
    let mut made = BTreeSet::new();
    while let Some(dir) = dirs.pop() {
        // It may be gone by now.
        let Ok(entries) = std::fs::read_dir(dir) else { continue };
        for entry in entries.flatten() {
            let path = entry.path();
            let name = entry.file_name().into_string().unwrap();
            let is_made = name.ends_with(".log") && name.matches('.').count() == 2;
            match path.is_dir() {
                true => dirs.push(path),
                false if is_made => _ = made.insert(name),
                false => {}
            }
        }
    }
    made
}

/// Waits until compaction has begun a file that was not there.
fn wait_until_compacting(broker: &Broker, before: &BTreeSet<String>) {
    let start = Instant::now();
    while made(broker).is_subset(before) {
        assert!(start.elapsed() < PATIENCE, "nothing is compacted");
        std::thread::yield_now();
    }
}

/// Killed again and again while it compacts, the broker never loses the last value of a key.
#[test]
fn a_kill_in_the_middle_of_compaction_loses_nothing() {
    let mut broker = broker("compaction-kills");
    for round in 0..6 {
        let writer = writer(&broker, "none");
        let last = format!("round {round}");
        write(&writer, 40, &last);
        let before = made(&broker);
        fill(&broker);
        wait_until_compacting(&broker, &before);
        broker.kill();
        broker.run();
        is_compacted(&read(&broker), &last);
    }
    wait_until_compacted(&broker, "round 5");
}

/// One figure of the page of metrics, all its samples together.
fn figure(broker: &Broker, name: &str) -> f64 {
    let mut stream = TcpStream::connect(broker.ready_word("admin=")).unwrap();
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    let mut page = String::new();
    stream.read_to_string(&mut page).unwrap();
    let samples = page.lines().filter_map(|line| line.rsplit_once(' '));
    let of_name = samples.filter(|(key, _)| key.split('{').next() == Some(name));
    of_name.map(|(_, value)| value.parse::<f64>().unwrap()).sum()
}

/// A large log is compacted for minutes: what was read of it is told meanwhile, not at the end.
#[test]
fn what_a_compaction_has_moved_is_told_while_it_runs() {
    let slow = "log.cleaner.io.max.bytes.per.second=1024";
    let set = ["--set", "tidemill.admin.listener=127.0.0.1:0", "--set", slow];
    let broker = broker_with("compaction-told", &set);
    write(&writer(&broker, "none"), 4, "here");
    fill(&broker);
    let start = Instant::now();
    while figure(&broker, "tidemill_compaction_read_bytes_total") == 0.0 {
        assert!(start.elapsed() < PATIENCE, "nothing is told");
        std::thread::yield_now();
    }
    assert_eq!(figure(&broker, "tidemill_compaction_rounds_total"), 0.0, "it takes minutes");
}

/// The bug: of each sealed segment a batch stays, to say where it ends, be nothing left in it. A fetch
/// reads from one segment; of many emptied ones in a row a consumer was given one empty batch after the
/// other, took that for batches too large for it, and failed (MSG_SIZE_TOO_LARGE).
#[test]
fn emptied_segments_in_a_row_were_an_error_to_consumers() {
    const SEGMENTS: usize = 30;
    let set = ["--set", "tidemill.admin.listener=127.0.0.1:0"];
    let broker = broker_with("compaction-emptied", &set);
    let mut admin = Admin::open(&broker.address()).unwrap();
    let topic = ConfigResource::Topic(TOPIC.to_owned());
    let lag = "min.compaction.lag.ms".to_owned();
    // So that all of it is compacted in one round.
    let later = ConfigChange::Set(lag.clone(), "86400000".to_owned());
    admin.alter_configs(&topic, &[later]).unwrap();
    let writer = writer(&broker, "none");
    let large = "x".repeat(9000);
    for _ in 0..SEGMENTS {
        send(&writer, "the key", Some(&large));
        writer.flush(PATIENCE).unwrap();
    }
    send(&writer, "the key", Some("last"));
    writer.flush(PATIENCE).unwrap();
    admin.alter_configs(&topic, &[ConfigChange::Reset(lag)]).unwrap();
    let start = Instant::now();
    while figure(&broker, "tidemill_compaction_rounds_total") == 0.0 {
        assert!(start.elapsed() < PATIENCE, "nothing is compacted");
        std::thread::yield_now();
    }
    let found = read(&broker);
    let (offset, value) = found["the key"].last().unwrap();
    assert_eq!((*offset, value.as_deref()), (SEGMENTS as i64, Some("last")));
}

/// A record without a key is refused by a compacted topic, and named; those that came with it are
/// told that it was not for them.
#[test]
fn a_record_without_a_key_is_refused() {
    let broker = broker("compaction-keyless");
    let writer = writer(&broker, "none");
    writer.send(BaseRecord::<str, str>::to(TOPIC).payload("nameless").partition(0)).unwrap();
    writer.flush(PATIENCE).unwrap();
    assert!(read(&broker).is_empty());
    send(&writer, "a", Some("1"));
    writer.flush(PATIENCE).unwrap();
    assert_eq!(read(&broker).len(), 1);
}
