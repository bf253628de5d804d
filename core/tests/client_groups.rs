//! Our own client's groups with the real binary: each record reaches the group, who comes gets its
//! share, who goes is replaced, and what was committed is where the group goes on.
//!
//! `TIDEMILL_BROKERS=HOST:PORT` makes those tests that do not kill the broker talk to any other
//! one, such as Apache Kafka, instead of one of their own.
// Fixtures are tests, though they are no test functions.
#![allow(clippy::unwrap_used)]

mod process;

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use process::Broker;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::message::Message;
use tidemill_client::kafka::ErrorCode;
use tidemill_client::{
    Admin, Assignor, Change, ConsumerRecord, ErrorKind, GroupConfig, GroupConsumer, NewTopic,
    Producer, ProducerConfig, Record,
};

const PATIENCE: Duration = Duration::from_secs(60);
const MOMENT: Duration = Duration::from_millis(50);
const PARTITIONS: i32 = 4;

/// A broker of the test's own, or the one that was named from outside; and a topic of its own.
struct Place {
    brokers: String,
    topic: String,
    own: Option<Broker>,
}

impl Place {
    fn find(name: &str) -> Place {
        let own = std::env::var("TIDEMILL_BROKERS").is_err().then(|| {
            let quick = ["--shards", "2", "--set", "group.initial.rebalance.delay.ms=100"];
            Broker::start(name, &quick)
        });
        let named = || std::env::var("TIDEMILL_BROKERS").unwrap();
        let brokers = own.as_ref().map_or_else(named, Broker::address);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        let topic = format!("{name}-{}", now.as_nanos());
        let mut admin = Admin::open(&brokers).unwrap();
        admin.create_topic(&NewTopic::new(&topic).partitions(PARTITIONS)).unwrap();
        Place { brokers, topic, own }
    }

    fn config(&self) -> GroupConfig {
        GroupConfig {
            // Nobody may be taken for dead here: all who go say so.
            session_timeout: Duration::from_secs(45),
            heartbeat_interval: Duration::from_millis(200),
            auto_commit: Some(Duration::from_millis(500)),
            ..GroupConfig::new(&self.brokers, &format!("readers of {}", self.topic)).unwrap()
        }
    }

    fn cooperative(&self) -> GroupConfig {
        GroupConfig { assignors: vec![Assignor::CooperativeSticky], ..self.config() }
    }

    fn member(&self, config: GroupConfig) -> GroupConsumer {
        let mut member = GroupConsumer::open(config).unwrap();
        member.subscribe([&*self.topic]);
        member
    }

    /// Writes so many records, each with its number, to the partitions in turn.
    fn write(&self, numbers: std::ops::Range<usize>) {
        let producer = Producer::open(ProducerConfig::new(&self.brokers).unwrap()).unwrap();
        for number in numbers {
            let record = Record::to(&*self.topic).value(number.to_string());
            let record = Record { partition: Some(number as i32 % PARTITIONS), ..record };
            producer.send_blocking(record).unwrap();
        }
        producer.close().unwrap();
    }
}

fn number_of(record: &ConsumerRecord) -> usize {
    std::str::from_utf8(record.value.as_ref().unwrap()).unwrap().parse().unwrap()
}

/// Polls the members in turn until `done` says so.
fn poll_until(
    members: &mut [GroupConsumer],
    mut done: impl FnMut(&mut [GroupConsumer], usize, Vec<ConsumerRecord>) -> bool,
) {
    let start = Instant::now();
    loop {
        for index in 0..members.len() {
            let records = members[index].poll(MOMENT).unwrap();
            if done(members, index, records) {
                return;
            }
        }
        assert!(start.elapsed() < PATIENCE, "it takes too long: {:?}", members[0].trouble());
    }
}

/// Polls until everybody has as many partitions as it should, and they are different ones. Records
/// that come meanwhile are put into `seen`.
fn settle(members: &mut [GroupConsumer], sizes: &[usize], seen: &mut BTreeMap<usize, usize>) {
    poll_until(members, |members, _, records| {
        count(seen, &records);
        let shares: Vec<BTreeSet<_>> =
            members.iter().map(|member| member.assigned().cloned().collect()).collect();
        let all: BTreeSet<_> = shares.iter().flatten().collect();
        let found: Vec<usize> = shares.iter().map(BTreeSet::len).collect();
        found == sizes && all.len() == sizes.iter().sum::<usize>()
    });
}

/// How often each number was read.
fn count(seen: &mut BTreeMap<usize, usize>, records: &[ConsumerRecord]) {
    for record in records {
        *seen.entry(number_of(record)).or_default() += 1;
    }
}

fn read_until(members: &mut [GroupConsumer], seen: &mut BTreeMap<usize, usize>, wanted: usize) {
    poll_until(members, |_, _, records| {
        count(seen, &records);
        wanted <= seen.len()
    });
}

/// Two members share everything, without anybody who says who gets what; the second to come gets
/// half. When one closes, the other goes on with all of it, each record once: what it had read was
/// committed.
#[test]
fn members_share_everything_and_go_on_for_each_other() {
    let place = Place::find("sharing");
    place.write(0..1000);
    let mut seen = BTreeMap::new();
    let mut members = vec![place.member(place.config())];
    read_until(&mut members, &mut seen, 1000);
    members.push(place.member(place.config()));
    settle(&mut members, &[2, 2], &mut seen);
    place.write(1000..2000);
    read_until(&mut members, &mut seen, 2000);
    // What was read is committed when it closes.
    members.pop().unwrap().close(PATIENCE);
    settle(&mut members, &[4], &mut seen);
    place.write(2000..3000);
    read_until(&mut members, &mut seen, 3000);
    assert!(seen.values().all(|times| *times == 1), "none came twice");
    members.pop().unwrap().close(PATIENCE);

    // Somebody else goes on where the group left off.
    let mut members = vec![place.member(place.config())];
    place.write(3000..3100);
    read_until(&mut members, &mut seen, 3100);
    assert!(seen.values().all(|times| *times == 1), "none came twice");
}

/// With cooperative members only what moves is not read for a moment: who is there keeps the rest,
/// and is told of nothing else.
#[test]
fn cooperative_members_keep_what_does_not_move() {
    let place = Place::find("cooperating");
    place.write(0..400);
    let mut seen = BTreeMap::new();
    let mut members = vec![place.member(place.cooperative())];
    read_until(&mut members, &mut seen, 400);
    let first = members[0].take_changes();
    assert!(matches!(&first[..], [Change::Given(all)] if all.len() == 4), "{first:?}");
    members.push(place.member(place.cooperative()));
    settle(&mut members, &[2, 2], &mut seen);
    let moved = members[0].take_changes();
    assert!(matches!(&moved[..], [Change::Taken(moved)] if moved.len() == 2), "{moved:?}");
    place.write(400..800);
    read_until(&mut members, &mut seen, 800);
    assert!(seen.values().all(|times| *times == 1), "none came twice");
}

/// librdkafka's members and ours are one group, whoever of them leads it.
#[test]
fn members_of_another_make_are_understood() {
    for assignor in ["range", "cooperative-sticky"] {
        let place = Place::find(&format!("mixed-{assignor}"));
        let config = if assignor == "range" { place.config() } else { place.cooperative() };
        let theirs: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", &place.brokers)
            .set("broker.address.family", "v4")
            .set("group.id", &config.group)
            .set("auto.offset.reset", "earliest")
            .set("session.timeout.ms", "45000")
            .set("heartbeat.interval.ms", "200")
            .set("partition.assignment.strategy", assignor)
            .create()
            .unwrap();
        place.write(0..400);
        for they_lead in [true, false] {
            let mut seen = BTreeMap::new();
            let poll_theirs = |seen: &mut BTreeMap<usize, usize>| {
                while let Some(message) = theirs.poll(Duration::ZERO) {
                    let message = message.unwrap();
                    let text = std::str::from_utf8(message.payload().unwrap()).unwrap();
                    *seen.entry(text.parse().unwrap()).or_default() += 1;
                }
                theirs.assignment().unwrap().count()
            };
            let start = Instant::now();
            let wait = |done: &mut dyn FnMut() -> bool| {
                while !done() {
                    assert!(start.elapsed() < PATIENCE, "it takes too long");
                }
            };
            let mut ours = GroupConsumer::open(config.clone()).unwrap();
            if they_lead {
                theirs.subscribe(&[&place.topic]).unwrap();
                wait(&mut || poll_theirs(&mut seen) == 4);
            }
            ours.subscribe([&*place.topic]);
            wait(&mut || {
                count(&mut seen, &ours.poll(MOMENT).unwrap());
                let share = if they_lead { 2 } else { 4 };
                poll_theirs(&mut seen);
                ours.assigned().count() == share
            });
            if !they_lead {
                theirs.subscribe(&[&place.topic]).unwrap();
            }
            wait(&mut || {
                count(&mut seen, &ours.poll(MOMENT).unwrap());
                poll_theirs(&mut seen) == 2 && ours.assigned().count() == 2
            });
            let numbers = if they_lead { 400..800 } else { 800..1200 };
            place.write(numbers.clone());
            wait(&mut || {
                count(&mut seen, &ours.poll(MOMENT).unwrap());
                poll_theirs(&mut seen);
                numbers.clone().all(|number| seen.contains_key(&number))
            });
            ours.close(PATIENCE);
            theirs.unsubscribe();
            wait(&mut || poll_theirs(&mut seen) == 0);
        }
    }
}

/// Who commits by itself is told when that came too late, because its part is another's by now;
/// what it did commit is where the next one begins.
#[test]
fn who_commits_too_late_is_told() {
    let place = Place::find("committing");
    place.write(0..400);
    let config = GroupConfig { auto_commit: None, ..place.config() };
    let mut members = vec![place.member(config.clone())];
    let mut seen = BTreeMap::new();
    read_until(&mut members, &mut seen, 400);
    members[0].commit(PATIENCE).unwrap();
    members[0].commit(PATIENCE).unwrap();

    place.write(400..800);
    read_until(&mut members, &mut seen, 800);
    members.push(place.member(config.clone()));
    settle(&mut members, &[2, 2], &mut seen);
    let error = members[0].commit(PATIENCE).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused(ErrorCode::IllegalGeneration), "{error}");
    for member in members {
        member.close(PATIENCE);
    }

    // All that was not committed comes again, and nothing else.
    let mut again = BTreeMap::new();
    read_until(&mut [place.member(config)], &mut again, 400);
    assert_eq!(again.keys().copied().collect::<Vec<_>>(), (400..800).collect::<Vec<_>>());
}

/// New partitions get a reader without anybody doing anything.
#[test]
fn new_partitions_are_read_by_the_group() {
    let place = Place::find("growing");
    let mut config = place.config();
    config.reader.cluster.map_age_max = Duration::from_millis(300);
    let mut members = vec![place.member(config.clone()), place.member(config)];
    settle(&mut members, &[2, 2], &mut BTreeMap::new());
    Admin::open(&place.brokers).unwrap().create_partitions(&place.topic, 6).unwrap();
    settle(&mut members, &[3, 3], &mut BTreeMap::new());
}

/// A broker that is killed and comes back finds the group as it was: nobody has to do anything, and
/// nothing that was committed is read again.
#[test]
fn kill_9_of_the_broker_costs_the_group_a_moment() {
    if std::env::var("TIDEMILL_BROKERS").is_ok() {
        return;
    }
    let mut place = Place::find("killed");
    place.write(0..400);
    let mut seen = BTreeMap::new();
    let mut members = vec![place.member(place.config()), place.member(place.config())];
    settle(&mut members, &[2, 2], &mut seen);
    read_until(&mut members, &mut seen, 400);
    for member in &mut members {
        member.commit(PATIENCE).unwrap();
    }
    let own = place.own.as_mut().unwrap();
    own.kill();
    own.run();
    place.write(400..800);
    read_until(&mut members, &mut seen, 800);
    assert!(seen.values().all(|times| *times == 1), "none came twice");
    settle(&mut members, &[2, 2], &mut seen);
}
