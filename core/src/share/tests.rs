//! What share groups have read outlives the process: told as what is asked and answered.

use std::time::Duration;

use tidemill_record::NodeId;
use tidemill_replication::metadata::{self, Image};
use tidemill_runtime::edge::ShardId;

use super::partition::{Given, ReadBatch, Verdict, Want};
use super::*;
use crate::job::Jobs;
use crate::partition::Times;

const TOPIC: TopicId = TopicId([1; 16]);

struct Scene {
    coordinator: Coordinator,
    image: Image,
    times: Times,
    jobs: Jobs<()>,
    log: Vec<Record>,
    told: BTreeMap<u32, Reply>,
    asked: u32,
}

fn image() -> Image {
    let mut image = Image::default();
    let made = metadata::Record::TopicCreated {
        id: TOPIC,
        name: "t".to_owned(),
        partitions: vec![vec![NodeId(0)]],
        configs: Vec::new(),
    };
    image.replay(&made).unwrap();
    image
}

fn defaults() -> GroupConfig {
    GroupConfig::of_node(&metadata::Configs::default())
}

fn rules() -> Rules {
    Rules::of("g", &defaults(), &image())
}

fn key() -> Key {
    Key { group: "g".into(), topic: TOPIC, partition: 0 }
}

impl Scene {
    fn new() -> Self {
        let mut scene = Self {
            coordinator: Coordinator::new(defaults()),
            image: image(),
            times: Times { now: Instant { nanos: 1 }, wall_ms: 1_000_000 },
            jobs: Jobs::default(),
            log: Vec::new(),
            told: BTreeMap::new(),
            asked: 0,
        };
        scene.coordinator.loaded(Now { times: scene.times, image: &scene.image });
        scene
    }

    fn ask(&mut self, request: Request) -> u32 {
        let index = self.asked;
        self.asked += 1;
        let reply_to = ReplyTo { shard: ShardId(0), job: self.jobs.insert(()), index };
        let now = Now { times: self.times, image: &self.image };
        self.coordinator.request(request, reply_to, true, now);
        self.look();
        index
    }

    fn look(&mut self) {
        for (to, reply) in self.coordinator.replies().drain(..) {
            assert!(self.told.insert(to.index, reply).is_none(), "everybody is answered once");
        }
    }

    /// What was decided becomes durable.
    fn settle(&mut self) {
        for write in std::mem::take(self.coordinator.decided()) {
            self.log.extend(write.records().iter().cloned());
            self.coordinator.written(write, Now { times: self.times, image: &self.image });
        }
        self.look();
    }

    fn pass(&mut self, time: Duration) {
        self.times.now = self.times.now.after(time);
        self.coordinator.tick(Now { times: self.times, image: &self.image });
        self.look();
    }

    /// The process ends, and another one reads what was durable.
    fn restart(&mut self) {
        self.coordinator = Coordinator::new(defaults());
        for record in self.log.clone() {
            self.coordinator.replay(record);
        }
        self.coordinator.loaded(Now { times: self.times, image: &self.image });
    }

    /// A member reads a batch of ten records.
    fn take(&mut self, member: &str) -> Vec<Given> {
        let next = self.ask(Request::Next { key: key() });
        let Some(Reply::Next { from: Some(from), .. }) = self.told.get(&next).cloned() else {
            return Vec::new();
        };
        let want = Want {
            member: member.into(),
            from,
            batches: vec![ReadBatch { base: 0, last: 9, is_void: false }],
            records_max: 100,
            is_strict: false,
            batch_size: 100,
        };
        let asked = self.ask(Request::Acquire { key: key(), want: Box::new(want) });
        match self.told.get(&asked) {
            Some(Reply::Given(given)) => given.clone(),
            other => panic!("{other:?}"),
        }
    }

    fn acknowledge(&mut self, first: i64, last: i64, verdict: Verdict) -> u32 {
        let told = vec![Acknowledgement { first, last, verdicts: vec![verdict] }];
        self.ask(Request::Acknowledge { key: key(), member: "a".into(), told })
    }

    fn begun() -> Self {
        let mut scene = Self::new();
        scene.ask(Request::Begin { key: key(), start: 0 });
        scene.settle();
        scene
    }
}

/// Where a group begins is durable before anything is given out: after a crash it would begin
/// elsewhere, and leave out what was on its way.
#[test]
fn a_group_begins_once_and_for_all() {
    let mut scene = Scene::new();
    let first = scene.ask(Request::Begin { key: key(), start: 3 });
    let second = scene.ask(Request::Begin { key: key(), start: 8 });
    let next = scene.ask(Request::Next { key: key() });
    assert!(matches!(scene.told[&next], Reply::Unbegun));
    assert!(!scene.told.contains_key(&first) && !scene.told.contains_key(&second));
    scene.settle();
    assert!(matches!(scene.told[&first], Reply::Done));
    assert!(matches!(scene.told[&second], Reply::Done));
    let next = scene.ask(Request::Next { key: key() });
    assert!(matches!(scene.told[&next], Reply::Next { from: Some(3), .. }));
}

/// Nobody is told that a record is done with before that is durable; then no crash gives it out
/// again.
#[test]
fn what_was_acknowledged_is_never_given_out_again() {
    let mut scene = Scene::begun();
    scene.take("a");
    let told = scene.acknowledge(2, 6, Verdict::Accept);
    assert!(!scene.told.contains_key(&told));
    scene.settle();
    assert!(matches!(scene.told[&told], Reply::Done));
    scene.restart();
    let given: Vec<(i64, i64)> =
        scene.take("b").iter().map(|given| (given.first, given.last)).collect();
    assert_eq!(given, [(0, 1), (7, 9)]);
}

/// How often a record was given out is known after a crash, as far as it came back before.
#[test]
fn deliveries_are_counted_across_restarts() {
    let mut scene = Scene::begun();
    for count in 1..=rules().deliveries_max {
        assert_eq!(scene.take("a"), [Given { first: 0, last: 9, count }]);
        scene.pass(rules().lock);
        scene.settle();
        scene.restart();
    }
    let asked = scene.ask(Request::List { group: "g".into() });
    let Reply::Listed(listed) = &scene.told[&asked] else { panic!("a list was asked for") };
    assert_eq!((listed[0].start, listed[0].done_past_start), (10, 0), "after the last time");
}

/// Who waits for records is told when some come back.
#[test]
fn who_waits_is_told_when_more_can_be_given_out() {
    let mut scene = Scene::begun();
    scene.take("a");
    let next = scene.ask(Request::Next { key: key() });
    let Reply::Next { from: Some(10), seen } = scene.told[&next] else { panic!("all is out") };
    let watch = scene.ask(Request::Watch { key: key(), seen });
    scene.acknowledge(0, 4, Verdict::Accept);
    assert!(!scene.told.contains_key(&watch), "that is nothing new for others");
    scene.ask(Request::Release { key: key(), member: "a".into() });
    assert!(matches!(scene.told[&watch], Reply::Moved));
    let late = scene.ask(Request::Watch { key: key(), seen });
    assert!(matches!(scene.told[&late], Reply::Moved), "it has moved since");
}

/// What is written anew says all there is.
#[test]
fn what_is_written_anew_is_what_there_is() {
    let mut scene = Scene::begun();
    scene.take("a");
    scene.acknowledge(2, 3, Verdict::Accept);
    scene.acknowledge(5, 5, Verdict::Release);
    scene.settle();
    let remembered = scene.coordinator.remembered_after(None);
    let anew: Vec<Record> = remembered.flat_map(|(_, records)| records).collect();
    scene.restart();
    let before = scene.take("b");
    scene.log = anew;
    scene.restart();
    assert_eq!(scene.take("b"), before);
}

/// A group, or a topic, that is gone leaves nothing behind.
#[test]
fn what_is_forgotten_begins_anew() {
    for by_topic in [false, true] {
        let mut scene = Scene::begun();
        scene.take("a");
        if by_topic {
            scene.coordinator.topic_deleted(TOPIC);
        } else {
            scene.ask(Request::Forget { group: "g".into(), topics: None });
        }
        scene.settle();
        scene.restart();
        let next = scene.ask(Request::Next { key: key() });
        assert!(matches!(scene.told[&next], Reply::Unbegun));
        assert_eq!((scene.coordinator.bytes(), scene.coordinator.next_deadline()), (0, None));
    }
}
