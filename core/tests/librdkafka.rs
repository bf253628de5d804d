//! The real binary with a real client: librdkafka, which stands behind most clients there are.
//!
//! What is promised here is what an application sees: bytes come back as they were sent, in order
//! and once, with every codec; what was acknowledged is there after a clean stop and after a kill.
// Fixtures are tests, though they are no test functions.
#![allow(clippy::unwrap_used)]

mod process;

use std::collections::{BTreeMap, HashMap};
use std::future::Future;
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;
use std::time::Duration;

use process::Broker;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::{ClientContext, DefaultClientContext};
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::{DeliveryResult, Header, Headers, Message, OwnedHeaders, OwnedMessage};
use rdkafka::producer::{
    BaseRecord, NoCustomPartitioner, Producer, ProducerContext, ThreadedProducer,
};
use rdkafka::types::RDKafkaErrorCode;
use rdkafka::{Offset, TopicPartitionList};

const PATIENCE: Duration = Duration::from_secs(60);

/// What the producer was told of each record, by the number the test gave it.
#[derive(Clone, Default)]
struct Acks {
    delivered: Arc<Mutex<BTreeMap<usize, (i32, i64)>>>,
    refused: Arc<Mutex<Vec<String>>>,
}

impl ClientContext for Acks {}

impl ProducerContext for Acks {
    type DeliveryOpaque = Box<usize>;

    fn delivery(&self, result: &DeliveryResult<'_>, number: Box<usize>) {
        match result {
            Ok(message) => {
                let place = (message.partition(), message.offset());
                let before = self.delivered.lock().unwrap().insert(*number, place);
                assert_eq!(before, None, "a record is acknowledged once");
            }
            Err((error, _)) => self.refused.lock().unwrap().push(error.to_string()),
        }
    }
}

type TestProducer = ThreadedProducer<Acks, NoCustomPartitioner>;

fn client(broker: &Broker) -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", broker.address());
    config.set("broker.address.family", "v4");
    config.set("reconnect.backoff.max.ms", "500");
    config
}

fn producer(broker: &Broker, settings: &[(&str, &str)]) -> (TestProducer, Acks) {
    let acks = Acks::default();
    let mut config = client(broker);
    config.set("enable.idempotence", "true").set("acks", "all").set("linger.ms", "2");
    for (name, value) in settings {
        config.set(*name, *value);
    }
    (config.create_with_context(acks.clone()).unwrap(), acks)
}

fn make_topic(broker: &Broker, name: &str, partitions: i32) {
    let admin: AdminClient<DefaultClientContext> = client(broker).create().unwrap();
    let topic = NewTopic::new(name, partitions, TopicReplication::Fixed(1));
    let made = wait_for(admin.create_topics([&topic], &AdminOptions::new())).unwrap();
    assert_eq!(made, [Ok(name.to_owned())]);
}

/// Runs a future to its end on this thread.
fn wait_for<T>(future: impl Future<Output = T>) -> T {
    struct Unpark(Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(value) => return value,
            Poll::Pending => std::thread::park(),
        }
    }
}

/// All records of all partitions, from the first to those there are now.
fn read_all(broker: &Broker, topic: &str, partitions: i32) -> BTreeMap<i32, Vec<OwnedMessage>> {
    let consumer: BaseConsumer = client(broker)
        .set("group.id", "none")
        .set("enable.auto.commit", "false")
        .set("check.crcs", "true")
        .create()
        .unwrap();
    let mut list = TopicPartitionList::new();
    let mut left = 0;
    for partition in 0..partitions {
        list.add_partition_offset(topic, partition, Offset::Beginning).unwrap();
        let (start, end) = consumer.fetch_watermarks(topic, partition, PATIENCE).unwrap();
        left += end - start;
    }
    consumer.assign(&list).unwrap();
    let mut found: BTreeMap<i32, Vec<OwnedMessage>> = BTreeMap::new();
    while 0 < left {
        let message = consumer.poll(PATIENCE).expect("records come").expect("and are sound");
        found.entry(message.partition()).or_default().push(message.detach());
        left -= 1;
    }
    found
}

fn assert_dense(found: &BTreeMap<i32, Vec<OwnedMessage>>) {
    for (partition, messages) in found {
        for (expected, message) in (0..).zip(messages) {
            assert_eq!(message.offset(), expected, "partition {partition} has no gap");
        }
    }
}

/// A value that shows where it came from, of very different sizes.
fn value_of(number: usize) -> Vec<u8> {
    let mut value = format!("value {number} ").into_bytes();
    let size = [0, 10, 1000, 20_000][number % 4];
    value.extend((0..size).map(|at| (at * 31 + number) as u8));
    value
}

/// Bytes come back as they were sent, whatever the codec: keys, nulls, headers, order.
#[test]
fn every_codec_comes_back_byte_for_byte() {
    let broker = Broker::start("codecs", &["--shards", "2"]);
    for codec in ["none", "gzip", "snappy", "lz4", "zstd"] {
        make_topic(&broker, codec, PARTITIONS);
        comes_back(&broker, codec, codec);
    }
}

/// The same where the broker compresses anew: whatever the producer's codec and the topic's, what
/// was sent comes back, in order and once, also when the broker was killed after it.
#[test]
fn what_the_broker_compresses_anew_comes_back_byte_for_byte() {
    let mut broker = Broker::start("recompressed", &["--shards", "2"]);
    let admin: AdminClient<DefaultClientContext> = client(&broker).create().unwrap();
    for (sent, kept) in [("none", "zstd"), ("gzip", "lz4"), ("lz4", "gzip"), ("zstd", "snappy")] {
        let topic = NewTopic::new(kept, PARTITIONS, TopicReplication::Fixed(1));
        let topic = topic.set("compression.type", kept);
        wait_for(admin.create_topics([&topic], &AdminOptions::new())).unwrap()[0].clone().unwrap();
        comes_back(&broker, kept, sent);
    }
    let before = read_all(&broker, "zstd", PARTITIONS);
    broker.kill();
    broker.run();
    let found = read_all(&broker, "zstd", PARTITIONS);
    let values = |found: &BTreeMap<i32, Vec<OwnedMessage>>| {
        let all = found.values().flatten().map(|m| m.payload().map(<[u8]>::to_vec));
        all.collect::<Vec<_>>()
    };
    assert_eq!(values(&found), values(&before));
}

const PARTITIONS: i32 = 3;

/// Sends records of all kinds with this codec and reads them back.
fn comes_back(broker: &Broker, topic: &str, codec: &str) {
    const RECORDS: usize = 1000;
    let (producer, acks) = producer(broker, &[("compression.type", codec)]);
    for number in 0..RECORDS {
        send(&producer, topic, number, Some((number as i32) % PARTITIONS));
    }
    producer.flush(PATIENCE).unwrap();

    let found = read_all(broker, topic, PARTITIONS);
    assert_dense(&found);
    let delivered = acks.delivered.lock().unwrap();
    assert_eq!(delivered.len(), RECORDS, "{:?}", acks.refused.lock().unwrap());
    for (&number, &(partition, offset)) in delivered.iter() {
        let message = &found[&partition][offset as usize];
        assert_eq!(message.key(), key_of(number).as_deref(), "{codec} {number}");
        let value = (!number.is_multiple_of(7)).then(|| value_of(number));
        assert_eq!(message.payload(), value.as_deref(), "{codec} {number}");
        let headers = message.headers().expect("it was sent with headers");
        assert_eq!(headers.count(), 2, "headers may share a name");
        assert_eq!(headers.get(1).value, Some(number.to_string().as_bytes()));
    }
    // Sent in this order to each partition, so stored in this order.
    let mut last = HashMap::new();
    for (number, (partition, offset)) in delivered.iter() {
        let before = last.insert(*partition, *offset);
        assert!(before < Some(*offset), "record {number} of {codec} is out of order");
    }
}

fn key_of(number: usize) -> Option<Vec<u8>> {
    (!number.is_multiple_of(5)).then(|| format!("key {}", number % 17).into_bytes())
}

fn send(producer: &TestProducer, topic: &str, number: usize, partition: Option<i32>) {
    let key = key_of(number);
    let value = value_of(number);
    let text = number.to_string();
    loop {
        let headers = OwnedHeaders::new()
            .insert(Header { key: "n", value: None::<&[u8]> })
            .insert(Header { key: "n", value: Some(text.as_bytes()) });
        let mut record: BaseRecord<'_, [u8], [u8], Box<usize>> =
            BaseRecord::with_opaque_to(topic, Box::new(number)).headers(headers);
        if let Some(key) = &key {
            record = record.key(key);
        }
        // A null value is as good as any: compacted topics delete with it.
        if !number.is_multiple_of(7) {
            record = record.payload(&value);
        }
        if let Some(partition) = partition {
            record = record.partition(partition);
        }
        match producer.send(record) {
            Ok(()) => return,
            Err((error, _)) if error.rdkafka_error_code() == Some(RDKafkaErrorCode::QueueFull) => {
                producer.flush(Duration::from_millis(100)).ok();
            }
            Err((error, _)) => panic!("{error}"),
        }
    }
}

/// SIGTERM ends the process with status 0, and nothing is missing or doubled afterwards, also
/// with another number of shards.
#[test]
fn a_clean_stop_keeps_everything() {
    let mut broker = Broker::start("clean-stop", &["--shards", "2"]);
    make_topic(&broker, "kept", 2);
    for round in 0..3 {
        let (producer, acks) = producer(&broker, &[]);
        for number in 0..500 {
            send(&producer, "kept", number, Some(number as i32 % 2));
        }
        producer.flush(PATIENCE).unwrap();
        assert_eq!(acks.delivered.lock().unwrap().len(), 500);
        drop(producer);

        assert!(broker.stop().success(), "{}", broker.log());
        broker.run();
        let found = read_all(&broker, "kept", 2);
        assert_dense(&found);
        assert_eq!(found.values().map(Vec::len).sum::<usize>(), 500 * (round + 1));
    }
}

/// The promise the whole design is for: kill the process whenever you like, and what was
/// acknowledged is there once, at the offset that was told, in order, without gaps.
#[test]
fn acknowledged_records_survive_kill_9() {
    let number = |name: &str, default: usize| {
        std::env::var(name).ok().map_or(default, |text| text.parse().expect("a number"))
    };
    let kills = number("TIDEMILL_KILLS", 3);
    let partitions = number("TIDEMILL_PARTITIONS", 4) as i32;
    let shards = number("TIDEMILL_SHARDS", 2).to_string();

    let mut broker = Broker::start("kill-9", &["--shards", &shards]);
    make_topic(&broker, "survivors", partitions);
    let (producer, acks) =
        producer(&broker, &[("message.timeout.ms", "120000"), ("retry.backoff.ms", "20")]);

    let mut sent = 0;
    for kill in 0..kills {
        let goal = acks.delivered.lock().unwrap().len() + 200 + kill * 37 % 300;
        while acks.delivered.lock().unwrap().len() < goal {
            send(&producer, "survivors", sent, Some(sent as i32 % partitions));
            sent += 1;
            let refused = acks.refused.lock().unwrap();
            assert!(refused.is_empty(), "after {kill} kills: {refused:?}\n{}", broker.log());
        }
        broker.kill();
        broker.run();
    }
    producer.flush(Duration::from_secs(120)).unwrap();

    let found = read_all(&broker, "survivors", partitions);
    assert_dense(&found);
    let delivered = acks.delivered.lock().unwrap();
    assert_eq!(delivered.len(), sent, "{:?}", acks.refused.lock().unwrap());
    for (&number, &(partition, offset)) in delivered.iter() {
        let message = found[&partition].get(offset as usize);
        let header = message
            .and_then(|m| m.headers())
            .map(|headers| headers.get(1).value.map(<[u8]>::to_vec));
        let expected = Some(Some(number.to_string().into_bytes()));
        assert_eq!(header, expected, "record {number} is at {partition}/{offset}");
        let value = (!number.is_multiple_of(7)).then(|| value_of(number));
        assert_eq!(message.unwrap().payload(), value.as_deref(), "record {number}");
    }
    // As many records as were sent, and each of them found: so none is there twice.
    assert_eq!(found.values().map(Vec::len).sum::<usize>(), sent);
    println!("{kills} kills, {sent} records acknowledged, none lost, none doubled");
}

/// Offsets by time: the first record at or after it, and the end if there is none.
#[test]
fn offsets_are_found_by_time() {
    let broker = Broker::start("by-time", &["--shards", "1"]);
    make_topic(&broker, "timed", 1);
    let (producer, _) = producer(&broker, &[]);
    for number in 0..100_i64 {
        let text = number.to_string();
        let record =
            BaseRecord::<str, str, Box<usize>>::with_opaque_to("timed", Box::new(number as usize))
                .payload(&text)
                .timestamp(1_700_000_000_000 + number * 1000);
        producer.send(record).map_err(|(error, _)| error).unwrap();
    }
    producer.flush(PATIENCE).unwrap();

    let consumer: BaseConsumer = client(&broker).set("group.id", "none").create().unwrap();
    let find = |ms: i64| {
        let mut times = TopicPartitionList::new();
        times.add_partition_offset("timed", 0, Offset::Offset(ms)).unwrap();
        let found = consumer.offsets_for_times(times, PATIENCE).unwrap();
        found.elements()[0].offset()
    };
    assert_eq!(find(0), Offset::Offset(0));
    assert_eq!(find(1_700_000_000_000 + 41_500), Offset::Offset(42));
    assert_eq!(find(1_700_000_000_000 + 99_000), Offset::Offset(99));
    assert_eq!(find(1_800_000_000_000), Offset::End);
}
