//! Groups with a real client: librdkafka subscribes, shares, commits and comes back.
//!
//! What is promised here is what an application sees: each record reaches one member of the group,
//! who leaves is replaced by the others, and what was committed is where the next one begins, also
//! after the broker was killed.
// Fixtures are tests, though they are no test functions.
#![allow(clippy::unwrap_used)]

mod process;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use process::Broker;
use rdkafka::client::ClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer, ConsumerContext, Rebalance};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Message, OwnedMessage};
use rdkafka::producer::{BaseRecord, DefaultProducerContext, Producer, ThreadedProducer};
use rdkafka::{Offset, TopicPartitionList};

const PATIENCE: Duration = Duration::from_secs(60);
const TOPIC: &str = "shared";
const GROUP: &str = "readers";

/// What a consumer was given, by its rebalances.
#[derive(Clone, Default)]
struct Shares {
    mine: Arc<Mutex<BTreeSet<i32>>>,
    changes: Arc<AtomicUsize>,
}

impl ClientContext for Shares {}

impl ConsumerContext for Shares {
    fn post_rebalance(&self, _: &BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        let numbers = |list: &TopicPartitionList| {
            list.elements().iter().map(|element| element.partition()).collect::<Vec<_>>()
        };
        let mut mine = self.mine.lock().unwrap();
        match rebalance {
            Rebalance::Assign(list) => mine.extend(numbers(list)),
            Rebalance::Revoke(list) => numbers(list).iter().for_each(|n| {
                mine.remove(n);
            }),
            Rebalance::Error(error) => panic!("{error}"),
        }
        self.changes.fetch_add(1, Ordering::SeqCst);
    }
}

type Member = BaseConsumer<Shares>;

fn broker(name: &str) -> Broker {
    let settings = ["--shards", "2", "--set", "group.initial.rebalance.delay.ms=100"];
    let small = ["--set", "num.partitions=4", "--set", "group.min.session.timeout.ms=500"];
    let newer = ["--set", "group.consumer.heartbeat.interval.ms=100"];
    Broker::start(name, &[&settings[..], &small[..], &newer[..]].concat())
}

fn client(broker: &Broker) -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", broker.address());
    config.set("broker.address.family", "v4");
    config.set("reconnect.backoff.max.ms", "500");
    config
}

fn member(broker: &Broker, settings: &[(&str, &str)]) -> (Member, Shares) {
    // Nobody may be taken for dead here: all who go say so, or come back.
    let own = [("session.timeout.ms", "45000"), ("heartbeat.interval.ms", "200")];
    subscriber(broker, TOPIC, &[&own, settings].concat())
}

/// A member whose shares the broker makes (KIP-848).
fn newer_member(broker: &Broker, settings: &[(&str, &str)]) -> (Member, Shares) {
    subscriber(broker, TOPIC, &[&[("group.protocol", "consumer")], settings].concat())
}

fn subscriber(broker: &Broker, to: &str, settings: &[(&str, &str)]) -> (Member, Shares) {
    let shares = Shares::default();
    let mut config = client(broker);
    config.set("group.id", GROUP).set("enable.auto.commit", "false");
    config.set("auto.offset.reset", "earliest");
    for (name, value) in settings {
        config.set(*name, *value);
    }
    let member: Member = config.create_with_context(shares.clone()).unwrap();
    member.subscribe(&[to]).unwrap();
    (member, shares)
}

fn count(shares: &Shares) -> usize {
    shares.mine.lock().unwrap().len()
}

/// Writes so many records, each with its number, to the partitions in turn.
fn write(broker: &Broker, numbers: std::ops::Range<usize>) {
    let producer: ThreadedProducer<DefaultProducerContext> =
        client(broker).set("acks", "all").create().unwrap();
    for number in numbers {
        let text = number.to_string();
        let record = BaseRecord::<str, str>::to(TOPIC).payload(&text).partition(number as i32 % 4);
        producer.send(record).map_err(|(error, _)| error).unwrap();
    }
    producer.flush(PATIENCE).unwrap();
}

fn number_of(message: &OwnedMessage) -> usize {
    std::str::from_utf8(message.payload().unwrap()).unwrap().parse().unwrap()
}

/// Polls all members until `done` says so.
fn poll_until(members: &[&Member], mut done: impl FnMut(usize, Option<OwnedMessage>) -> bool) {
    let start = Instant::now();
    loop {
        for (index, member) in members.iter().enumerate() {
            let message = member.poll(Duration::from_millis(20)).filter(|message| {
                // A broker that was killed is one that comes back.
                let away =
                    [RDKafkaErrorCode::BrokerTransportFailure, RDKafkaErrorCode::AllBrokersDown];
                let Err(KafkaError::MessageConsumption(error)) = message else { return true };
                !away.contains(error)
            });
            let message = message.map(|message| message.unwrap().detach());
            if done(index, message) {
                return;
            }
        }
        assert!(start.elapsed() < PATIENCE, "it takes too long");
    }
}

/// Reads until so many different records were seen, and tells where each member's came from.
fn read(members: &[&Member], wanted: std::ops::Range<usize>) -> BTreeMap<usize, usize> {
    let mut seen = BTreeMap::new();
    poll_until(members, |index, message| {
        if let Some(message) = message {
            let before = seen.insert(number_of(&message), index);
            assert!(before.is_none(), "each record reaches one member once");
        }
        seen.len() == wanted.len()
    });
    assert!(seen.keys().copied().eq(wanted), "{seen:?}");
    seen
}

/// One consumer subscribes, reads all, commits and goes; the next goes on where it was.
#[test]
fn a_consumer_begins_where_the_one_before_has_committed() {
    let broker = broker("resume");
    write(&broker, 0..100);
    let (first, shares) = member(&broker, &[]);
    read(&[&first], 0..100);
    assert_eq!(*shares.mine.lock().unwrap(), (0..4).collect());
    first.commit_consumer_state(CommitMode::Sync).unwrap();
    drop(first);

    write(&broker, 100..150);
    let (second, _) = member(&broker, &[]);
    read(&[&second], 100..150);
    let committed = second.committed(PATIENCE).unwrap();
    assert!(committed.elements().iter().all(|e| e.offset() == Offset::Offset(25)));
}

/// Two members share the partitions; when one leaves, the other has all of them.
#[test]
fn two_members_share_and_one_takes_over() {
    let broker = broker("share");
    write(&broker, 0..40);
    for strategy in ["range", "cooperative-sticky"] {
        let settings = [("group.id", strategy), ("partition.assignment.strategy", strategy)];
        let (first, of_first) = member(&broker, &settings);
        let (second, of_second) = member(&broker, &settings);
        poll_until(&[&first, &second], |_, _| count(&of_first) == 2 && count(&of_second) == 2);
        let together: BTreeSet<i32> =
            &*of_first.mine.lock().unwrap() | &*of_second.mine.lock().unwrap();
        assert_eq!(together, (0..4).collect());
        drop(second);
        poll_until(&[&first], |_, _| of_first.mine.lock().unwrap().len() == 4);
    }
}

/// The broker is killed while a group reads; the members find it again, and what was committed
/// before is not read again.
#[test]
fn what_was_committed_survives_kill_9() {
    let mut broker = broker("kill");
    write(&broker, 0..400);
    let (reader, shares) = member(&broker, &[]);
    let mut seen = BTreeSet::new();
    for kill in 1..=3 {
        poll_until(&[&reader], |_, message| {
            if let Some(message) = message {
                assert!(seen.insert(number_of(&message)), "nothing committed is read again");
            }
            100 * kill <= seen.len()
        });
        reader.commit_consumer_state(CommitMode::Sync).unwrap();
        broker.kill();
        broker.run();
    }
    poll_until(&[&reader], |_, message| {
        if let Some(message) = message {
            assert!(seen.insert(number_of(&message)), "nothing committed is read again");
        }
        seen.len() == 400
    });
    assert!(!shares.mine.lock().unwrap().is_empty());
    reader.commit_consumer_state(CommitMode::Sync).unwrap();
    drop(reader);
    broker.kill();
    broker.run();
    let (last, _) = member(&broker, &[]);
    write(&broker, 400..404);
    read(&[&last], 400..404);
}

/// A static member that restarts finds its partitions again, and the other members do not notice.
#[test]
fn a_static_member_restarts_unnoticed() {
    let broker = broker("static");
    write(&broker, 0..40);
    let (first, of_first) = member(&broker, &[("group.instance.id", "one")]);
    let (second, of_second) = member(&broker, &[("group.instance.id", "two")]);
    poll_until(&[&first, &second], |_, _| count(&of_first) == 2 && count(&of_second) == 2);
    let had = of_second.mine.lock().unwrap().clone();
    let changes = of_first.changes.load(Ordering::SeqCst);
    drop(second);

    let (again, of_again) = member(&broker, &[("group.instance.id", "two")]);
    poll_until(&[&first, &again], |_, _| count(&of_again) == 2);
    assert_eq!(*of_again.mine.lock().unwrap(), had);
    assert_eq!(of_first.changes.load(Ordering::SeqCst), changes, "nobody else was disturbed");
}

/// The same with members whose shares the broker makes: they share, the others take over what one
/// leaves, and each goes on where the one before has committed, also after the broker was killed.
#[test]
fn members_of_the_newer_kind_share_and_go_on() {
    let mut broker = broker("newer");
    write(&broker, 0..40);
    for assignor in ["uniform", "range"] {
        let settings = [("group.id", assignor), ("group.remote.assignor", assignor)];
        let (first, of_first) = newer_member(&broker, &settings);
        read(&[&first], 0..40);
        first.commit_consumer_state(CommitMode::Sync).unwrap();
        let (second, of_second) = newer_member(&broker, &settings);
        poll_until(&[&first, &second], |_, message| {
            assert!(message.is_none(), "what was committed is not read again");
            count(&of_first) == 2 && count(&of_second) == 2
        });
        drop(first);
        poll_until(&[&second], |_, message| {
            assert!(message.is_none(), "what was committed is not read again");
            count(&of_second) == 4
        });
    }

    let (reader, shares) = newer_member(&broker, &[]);
    read(&[&reader], 0..40);
    reader.commit_consumer_state(CommitMode::Sync).unwrap();
    let changes = shares.changes.load(Ordering::SeqCst);
    broker.kill();
    broker.run();
    write(&broker, 40..80);
    read(&[&reader], 40..80);
    reader.commit_consumer_state(CommitMode::Sync).unwrap();
    assert_eq!(shares.changes.load(Ordering::SeqCst), changes, "it kept its share");
    drop(reader);
    write(&broker, 80..120);
    let (last, _) = newer_member(&broker, &[]);
    read(&[&last], 80..120);
}

/// A static member of the newer kind that restarts finds its partitions again.
#[test]
fn a_static_member_of_the_newer_kind_restarts_unnoticed() {
    let broker = broker("newer-static");
    write(&broker, 0..40);
    let (first, of_first) = newer_member(&broker, &[("group.instance.id", "one")]);
    let (second, of_second) = newer_member(&broker, &[("group.instance.id", "two")]);
    poll_until(&[&first, &second], |_, _| count(&of_first) == 2 && count(&of_second) == 2);
    let had = of_second.mine.lock().unwrap().clone();
    let changes = of_first.changes.load(Ordering::SeqCst);
    drop(second);

    let (again, of_again) = newer_member(&broker, &[("group.instance.id", "two")]);
    poll_until(&[&first, &again], |_, _| count(&of_again) == 2);
    assert_eq!(*of_again.mine.lock().unwrap(), had);
    assert_eq!(of_first.changes.load(Ordering::SeqCst), changes, "nobody else was disturbed");
}

/// Members subscribe to topics by a pattern that the broker reads, and one that cannot be read is
/// told as such.
#[test]
fn a_pattern_is_the_brokers_to_read() {
    let broker = broker("newer-pattern");
    write(&broker, 0..40);
    let settings = [("group.protocol", "consumer")];
    let (reader, shares) = subscriber(&broker, "^sha.*", &settings);
    read(&[&reader], 0..40);
    assert_eq!(count(&shares), 4);
}
