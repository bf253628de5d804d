//! The real binary with our own client: what an application of `tidemill-client` sees.
//!
//! `TIDEMILL_BROKERS=HOST:PORT` makes those tests that do not kill the broker talk to any other
//! one, such as Apache Kafka, instead of one of their own: the client must not be able to tell.
// Fixtures are tests, though they are no test functions.
#![allow(clippy::unwrap_used)]

mod process;

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use process::Broker;
use tidemill_client::kafka::ErrorCode;
use tidemill_client::record::Codec;
use tidemill_client::{
    Acks, Admin, ConfigChange, ConfigResource, Consumer, ConsumerConfig, ConsumerRecord, Error,
    ErrorKind, GroupConfig, GroupConsumer, Isolation, NewTopic, Producer, ProducerConfig, Record,
    Report, Start,
};

const PATIENCE: Duration = Duration::from_secs(60);

/// A broker of the test's own, or the one that was named from outside.
struct Place {
    brokers: String,
    _own: Option<Broker>,
}

impl Place {
    fn find(name: &str) -> Place {
        if let Ok(brokers) = std::env::var("TIDEMILL_BROKERS") {
            return Place { brokers, _own: None };
        }
        let own = Broker::start(name, &["--shards", "2"]);
        Place { brokers: own.address(), _own: Some(own) }
    }

    /// A topic that no test run before has used.
    fn topic(&self, name: &str, partitions: i32) -> String {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        let name = format!("{name}-{}", now.as_nanos());
        let mut admin = Admin::open(&self.brokers).unwrap();
        admin.create_topic(&NewTopic::new(&name).partitions(partitions)).unwrap();
        name
    }

    fn producer(&self) -> ProducerConfig {
        ProducerConfig { reports: true, ..ProducerConfig::new(&self.brokers).unwrap() }
    }

    fn consumer(&self) -> Consumer {
        Consumer::open(ConsumerConfig::new(&self.brokers).unwrap()).unwrap()
    }
}

fn value_of(number: u64) -> Option<Vec<u8>> {
    let mut value = format!("value {number} ").into_bytes();
    let size = [0, 10, 1000, 20_000][number as usize % 4];
    value.extend((0..size).map(|at: usize| (at * 31 + number as usize) as u8));
    (!number.is_multiple_of(7)).then_some(value)
}

fn record(topic: &Arc<str>, number: u64, partition: Option<i32>) -> Record {
    let mut record = Record::to(Arc::clone(topic))
        .tag(number)
        .header("n", None)
        .header("n", Some(number.to_string().into()));
    record.partition = partition;
    record.value = value_of(number).map(Into::into);
    record.key = (!number.is_multiple_of(5)).then(|| format!("key {}", number % 17).into());
    record
}

/// Sends, taking reports while the buffer is full.
fn send(producer: &Producer, mut record: Record, reports: &mut Vec<Report>) {
    while let Err(refused) = producer.send_blocking(record) {
        assert_eq!(refused.error.kind(), ErrorKind::Full, "{}", refused.error);
        reports.extend(producer.take_reports());
        record = *refused.record;
    }
}

/// Where each record is, by its tag.
fn places(reports: Vec<Report>) -> BTreeMap<u64, (i32, i64)> {
    let mut places = BTreeMap::new();
    for report in reports {
        let base = report.outcome.unwrap();
        for (offset, tag) in (base..).zip(report.tags) {
            assert_eq!(places.insert(tag, (report.partition, offset)), None, "told once");
        }
    }
    places
}

/// All records there are, by partition.
fn read_all(place: &Place, topic: &str, count: usize) -> BTreeMap<i32, Vec<ConsumerRecord>> {
    let mut consumer = place.consumer();
    consumer.assign_topic(topic, Start::Earliest, PATIENCE).unwrap();
    let mut found: BTreeMap<i32, Vec<ConsumerRecord>> = BTreeMap::new();
    let mut left = count;
    while 0 < left {
        let records = consumer.poll(PATIENCE).unwrap();
        assert!(!records.is_empty() && records.len() <= left, "{left} left");
        left -= records.len();
        for record in records {
            found.entry(record.partition).or_default().push(record);
        }
    }
    for records in found.values() {
        for (expected, record) in (0..).zip(records) {
            assert_eq!(record.offset, expected, "no gap, and none twice");
        }
    }
    found
}

fn assert_is(number: u64, record: &ConsumerRecord) {
    assert_eq!(record.value.as_deref(), value_of(number).as_deref(), "{number}");
    let key = (!number.is_multiple_of(5)).then(|| format!("key {}", number % 17));
    assert_eq!(record.key.as_deref(), key.as_deref().map(str::as_bytes), "{number}");
    assert_eq!(record.headers.len(), 2, "headers may share a name");
    assert_eq!(record.headers[1].1.as_deref(), Some(number.to_string().as_bytes()));
}

/// Bytes come back as they were sent, at the place that was told, whatever the codec.
#[test]
fn every_codec_comes_back_byte_for_byte() {
    const RECORDS: u64 = 1000;
    let place = Place::find("client-codecs");
    for codec in Codec::ALL {
        let topic: Arc<str> = place.topic(codec.name(), 3).into();
        let config = ProducerConfig { compression: codec, ..place.producer() };
        let producer = Producer::open(config).unwrap();
        let mut reports = Vec::new();
        for number in 0..RECORDS {
            let partition = (number % 2 == 0).then_some(number as i32 % 3);
            send(&producer, record(&topic, number, partition), &mut reports);
        }
        producer.flush().unwrap();
        reports.extend(producer.take_reports());
        producer.close().unwrap();

        let places = places(reports);
        assert_eq!(places.len() as u64, RECORDS);
        let found = read_all(&place, &topic, RECORDS as usize);
        let mut last = BTreeMap::new();
        for (&number, &(partition, offset)) in &places {
            assert_is(number, &found[&partition][offset as usize]);
            if number % 2 == 0 {
                // Sent in this order to this partition, so stored in this order.
                assert_eq!(partition, number as i32 % 3);
                let before = last.insert(partition, offset);
                assert!(before < Some(offset), "{number} of {codec:?}");
            }
        }
    }
}

/// Kill the broker whenever you like: what was told stored is there once, in order, without gaps,
/// and in the end everything is told stored.
#[test]
fn records_are_stored_once_across_kill_9() {
    const PARTITIONS: i32 = 4;
    let mut broker = Broker::start("client-kill-9", &["--shards", "2"]);
    let place = Place { brokers: broker.address(), _own: None };
    let topic: Arc<str> = place.topic("survivors", PARTITIONS).into();
    let producer = Producer::open(place.producer()).unwrap();
    let mut reports: Vec<Report> = Vec::new();
    let mut sent = 0;
    for kill in 0..3 {
        let stored = |reports: &Vec<Report>| reports.iter().map(|r| r.tags.len()).sum::<usize>();
        let goal = stored(&reports) + 300 + kill * 37;
        while stored(&reports) < goal {
            let partition = Some(sent as i32 % PARTITIONS);
            send(&producer, record(&topic, sent, partition), &mut reports);
            sent += 1;
            reports.extend(producer.take_reports());
        }
        broker.kill();
        broker.run();
    }
    producer.flush().unwrap();
    reports.extend(producer.take_reports());
    let places = places(reports);
    assert_eq!(places.len() as u64, sent, "each record is told stored");
    let found = read_all(&place, &topic, sent as usize);
    for (&number, &(partition, offset)) in &places {
        assert_is(number, &found[&partition][offset as usize]);
    }
    for records in found.values() {
        let numbers = records.iter().map(|record| {
            let header = record.headers[1].1.as_deref().unwrap();
            std::str::from_utf8(header).unwrap().parse::<u64>().unwrap()
        });
        assert!(numbers.is_sorted(), "in the order they were sent in");
    }
    println!("{sent} records over 3 kills: none lost, none doubled, all in order");
}

/// A position can be an offset, an end, or a time; what is out of range follows the policy.
#[test]
fn reading_begins_where_one_says() {
    let place = Place::find("client-seeks");
    let topic: Arc<str> = place.topic("timed", 1).into();
    let producer = Producer::open(ProducerConfig { reports: false, ..place.producer() }).unwrap();
    let start_ms = 1_700_000_000_000;
    for number in 0..100 {
        let record = record(&topic, number, None).timestamp_ms(start_ms + 1000 * number as i64);
        producer.send(record).unwrap();
        if number % 10 == 9 {
            producer.flush().unwrap();
        }
    }
    let mut consumer = place.consumer();
    let mut first_at = |start: Start| {
        consumer.assign([(Arc::clone(&topic), 0, start)]);
        consumer.poll(PATIENCE).unwrap()[0].offset
    };
    assert_eq!(first_at(Start::Earliest), 0);
    assert_eq!(first_at(Start::Offset(42)), 42, "in the middle of a batch");
    assert_eq!(first_at(Start::Time(start_ms + 41_500)), 42);
    assert_eq!(first_at(Start::Time(0)), 0);

    consumer.assign([(Arc::clone(&topic), 0, Start::Latest)]);
    // Where the end is, is told as soon as the broker can.
    let start = Instant::now();
    while consumer.position(&topic, 0).is_none() {
        assert!(consumer.poll(Duration::from_millis(100)).unwrap().is_empty(), "nothing new");
        assert!(start.elapsed() < PATIENCE, "it is not told where the end is");
    }
    assert_eq!(consumer.position(&topic, 0), Some(100));
    producer.send(record(&topic, 100, None)).unwrap();
    producer.flush().unwrap();
    assert_eq!(consumer.poll(PATIENCE).unwrap()[0].offset, 100);
    consumer.seek(&topic, 0, Start::Offset(7)).unwrap();
    assert_eq!(consumer.poll(PATIENCE).unwrap()[0].offset, 7);

    consumer.assign([(Arc::clone(&topic), 0, Start::Offset(5000))]);
    let error = consumer.poll(PATIENCE).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused(ErrorCode::OffsetOutOfRange));
    let config = ConsumerConfig {
        reset: Some(Start::Earliest),
        ..ConsumerConfig::new(&place.brokers).unwrap()
    };
    let mut lenient = Consumer::open(config).unwrap();
    lenient.assign([(Arc::clone(&topic), 0, Start::Offset(5000))]);
    assert_eq!(lenient.poll(PATIENCE).unwrap()[0].offset, 0);
}

/// A topic's life: made, grown, set, trimmed, deleted; and each mistake is told.
#[test]
fn topics_are_seen_to() {
    let place = Place::find("client-admin");
    let topic = place.topic("life", 2);
    let mut admin = Admin::open(&place.brokers).unwrap();
    let cluster = admin.cluster().unwrap();
    assert!(cluster.id.is_some());
    assert!(!cluster.nodes.is_empty());

    let error = admin.create_topic(&NewTopic::new(&topic)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused(ErrorCode::TopicAlreadyExists));
    let error = admin.create_topic(&NewTopic::new("no spaces")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused(ErrorCode::InvalidTopicException));
    assert!(error.explanation().fix.is_some(), "{error}");

    admin.create_partitions(&topic, 3).unwrap();
    while admin.topic(&topic).unwrap().partitions.len() < 3 {}
    assert!(admin.topics().unwrap().contains_key(&*topic));

    let resource = ConfigResource::Topic(topic.clone());
    let change = ConfigChange::Set("retention.ms".to_owned(), "120000".to_owned());
    admin.alter_configs(&resource, &[change]).unwrap();
    let retention = |admin: &mut Admin| {
        let configs = admin.describe_configs(&resource).unwrap();
        configs.into_iter().find(|config| config.name == "retention.ms").unwrap().value.unwrap()
    };
    while retention(&mut admin) != "120000" {}
    let change = ConfigChange::Set("retention.ms".to_owned(), "soon".to_owned());
    let error = admin.alter_configs(&resource, &[change]).unwrap_err();
    // The second is what Kafka 2.8 says.
    let refusals = [ErrorCode::InvalidConfig, ErrorCode::InvalidRequest].map(ErrorKind::Refused);
    assert!(refusals.contains(&error.kind()), "{error}");

    let producer = Producer::open(ProducerConfig { reports: false, ..place.producer() }).unwrap();
    let name: Arc<str> = Arc::from(&*topic);
    for number in 0..10 {
        producer.send(record(&name, number, Some(1))).unwrap();
    }
    producer.close().unwrap();
    let ends = |admin: &mut Admin, start| {
        admin.list_offsets(&topic, &[0, 1], start, Isolation::ReadUncommitted).unwrap()
    };
    assert_eq!(ends(&mut admin, Start::Latest), BTreeMap::from([(0, 0), (1, 10)]));
    let kept = admin.delete_records(&topic, &[(0, None), (1, Some(4))]).unwrap();
    assert_eq!(kept, BTreeMap::from([(0, 0), (1, 4)]));
    assert_eq!(ends(&mut admin, Start::Earliest), BTreeMap::from([(0, 0), (1, 4)]));

    admin.delete_topic(&topic).unwrap();
    let error = admin.delete_topic("was never there").unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Refused(_)), "{error}");
}

/// A topic need not exist: the broker makes it when it is first asked for, if it does that.
/// What can never be sent is told with cause and fix, and so is what is not stored in time.
#[test]
fn failures_say_cause_and_fix() {
    let place = Place::find("client-failures");
    let topic: Arc<str> = place.topic("failing", 1).into();
    let producer = Producer::open(ProducerConfig { reports: false, ..place.producer() }).unwrap();
    let huge = Record::to(Arc::clone(&topic)).value(vec![0; 2 << 20]);
    let refused = producer.send(huge).unwrap_err();
    assert_eq!(refused.error.kind(), ErrorKind::Invalid);
    assert!(refused.error.to_string().contains("record_bytes_max"), "{}", refused.error);

    producer.send(Record::to(Arc::clone(&topic)).partition(7).value("lost")).unwrap();
    let error = producer.flush().unwrap_err();
    assert!(error.to_string().contains("the topic has 1 partition"), "{error}");

    producer.send(Record::to("not allowed!").value("lost")).unwrap();
    let error = producer.close().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused(ErrorCode::InvalidTopicException), "{error}");

    let mut config = ProducerConfig::new("127.0.0.1:1").unwrap();
    // Long enough for one attempt, whatever holds it up.
    config.delivery_timeout = Duration::from_secs(5);
    let nobody = Producer::open(config).unwrap();
    nobody.send(Record::to("t").value("lost")).unwrap();
    let error = nobody.close().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TimedOut);
    assert!(error.to_string().contains("refused"), "{error}");
    let contradiction = ProducerConfig { acks: Acks::None, ..place.producer() };
    assert_eq!(Producer::open(contradiction).unwrap_err().kind(), ErrorKind::Invalid);
}

/// Without acknowledgement records arrive all the same, as a rule; nobody is told where.
#[test]
fn acks_0_and_1_store_too() {
    let place = Place::find("client-acks");
    for acks in [Acks::None, Acks::Leader] {
        let topic: Arc<str> = place.topic("acks", 1).into();
        // A leader may be named a moment before it knows: what nobody acknowledges is lost then.
        let mut admin = Admin::open(&place.brokers).unwrap();
        admin.list_offsets(&topic, &[0], Start::Latest, Isolation::ReadUncommitted).unwrap();
        let config = ProducerConfig { acks, idempotent: false, ..place.producer() };
        let producer = Producer::open(config).unwrap();
        for number in 0..100 {
            producer.send(record(&topic, number, None)).unwrap();
        }
        producer.flush().unwrap();
        let reports = producer.take_reports();
        let told = |report: &Report| (acks == Acks::None) == (report.outcome == Ok(-1));
        assert!(reports.iter().all(told), "{reports:?}");
        let found = read_all(&place, &topic, 100);
        for (number, record) in (0..).zip(&found[&0]) {
            assert_is(number, record);
        }
    }
}

/// Who polls for a shorter time than it takes to be connected was told that no broker has answered,
/// though nothing had gone wrong; it is told as soon as something has.
#[test]
fn a_short_poll_of_a_slow_broker_is_no_failure() {
    let slow = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = slow.local_addr().unwrap().to_string();
    let mut consumer = Consumer::open(ConsumerConfig::new(&address).unwrap()).unwrap();
    consumer.assign([(Arc::from("t"), 0, Start::Earliest)]);
    let mut member = GroupConsumer::open(GroupConfig::new(&address, "g").unwrap()).unwrap();
    member.subscribe(["t"]);
    let moment = Duration::from_millis(1);
    assert!(consumer.poll(moment).unwrap().is_empty() && member.poll(moment).unwrap().is_empty());
    drop(slow);
    let start = Instant::now();
    let told = |poll: &mut dyn FnMut() -> Result<Vec<ConsumerRecord>, Error>| {
        while start.elapsed() < PATIENCE {
            if let Err(error) = poll() {
                return error.kind();
            }
        }
        panic!("nothing is told")
    };
    assert_eq!(told(&mut || consumer.poll(moment)), ErrorKind::Unreachable);
    assert_eq!(told(&mut || member.poll(moment)), ErrorKind::Unreachable);
}
