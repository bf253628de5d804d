//! What share groups have read outlives the process: told as what is asked and answered.

use std::time::Duration;

use tidemill_record::NodeId;
use tidemill_replication::metadata::{self, Image};
use tidemill_runtime::edge::ShardId;

use super::partition::{Given, ReadBatch, SessionId, Verdict, Want};
use super::*;
use crate::job::Jobs;
use crate::partition::Times;

const TOPIC: TopicId = TopicId([1; 16]);
const SESSION: SessionId = SessionId { shard: ShardId(0), number: 1 };

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

    /// What was decided cannot be written.
    fn fail(&mut self) {
        for write in std::mem::take(self.coordinator.decided()) {
            let error = ErrorCode::KafkaStorageError;
            let now = Now { times: self.times, image: &self.image };
            self.coordinator.refused(write, error, now);
        }
        self.look();
    }

    fn forget(&mut self) -> u32 {
        self.ask(Request::Forget { group: "g".into(), topics: None })
    }

    fn start(&mut self) -> Option<i64> {
        let asked = self.ask(Request::List { group: "g".into() });
        let Reply::Listed(listed) = &self.told[&asked] else { panic!("a list was asked for") };
        listed.first().map(|one| one.start)
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
            session: SESSION,
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
        // Towards the end it comes with ever fewer others.
        let given = scene.take("a");
        assert_eq!((given[0].first, given[0].count), (0, count));
        scene.pass(rules().lock);
        scene.settle();
        scene.restart();
    }
    assert_eq!(scene.start(), Some(1), "after the last time");
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
    scene.ask(Request::Release { key: key(), member: "a".into(), session: None });
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

/// A deletion that could not be written was answered as done when it was tried again, and after a
/// restart all was back.
#[test]
fn a_deletion_that_was_refused_has_not_happened() {
    let mut scene = Scene::begun();
    scene.take("a");
    scene.acknowledge(0, 3, Verdict::Accept);
    scene.settle();
    let refused = scene.forget();
    scene.fail();
    assert!(matches!(scene.told[&refused], Reply::Refused(ErrorCode::KafkaStorageError)));
    assert_eq!(scene.start(), Some(4), "as it was");
    let again = scene.forget();
    assert!(!scene.told.contains_key(&again), "there is something to be forgotten");
    scene.settle();
    assert!(matches!(scene.told[&again], Reply::Done));
    assert_eq!(scene.start(), None);
    scene.restart();
    assert_eq!(scene.start(), None);
}

/// A new start that could not be written is not in force; and what happens while it is on its way is
/// not written behind it, where it would be of the new one.
#[test]
fn a_reset_is_in_force_when_it_is_durable() {
    let mut scene = Scene::begun();
    scene.take("a");
    scene.acknowledge(0, 7, Verdict::Accept);
    scene.settle();
    scene.ask(Request::Reset { key: key(), start: 2 });
    scene.fail();
    assert_eq!(scene.start(), Some(8));
    let reset = scene.ask(Request::Reset { key: key(), start: 2 });
    let second = scene.ask(Request::Reset { key: key(), start: 3 });
    assert!(matches!(scene.told[&second], Reply::Refused(ErrorCode::CoordinatorNotAvailable)));
    let late = scene.acknowledge(8, 9, Verdict::Accept);
    assert!(matches!(scene.told[&late], Reply::Refused(ErrorCode::CoordinatorNotAvailable)));
    scene.ask(Request::Release { key: key(), member: "a".into(), session: None });
    assert_eq!(scene.start(), Some(8));
    scene.settle();
    assert!(matches!(scene.told[&reset], Reply::Done));
    assert_eq!(scene.start(), Some(2));
    scene.restart();
    assert_eq!(scene.start(), Some(2));
}

/// The bug: where a crash had cut the log of a topic with relaxed durability, a group stood behind the
/// log's end; it got nothing until the log had grown, and then not what was new below.
#[test]
fn a_group_goes_on_at_the_end_of_a_log_that_was_cut() {
    let mut scene = Scene::begun();
    scene.take("a");
    scene.acknowledge(1, 7, Verdict::Accept);
    scene.settle();
    scene.restart();
    let cut = scene.ask(Request::EndsAt { key: key(), log_end: 5 });
    assert!(!scene.told.contains_key(&cut), "not durable yet");
    scene.settle();
    assert!(matches!(scene.told[&cut], Reply::Done));
    scene.restart();
    let runs = |given: Vec<Given>| -> Vec<(i64, i64)> {
        given.iter().map(|given| (given.first, given.last)).collect()
    };
    assert_eq!(runs(scene.take("a")), [(0, 0), (5, 9)]);
    let again = scene.ask(Request::EndsAt { key: key(), log_end: 10 });
    assert!(matches!(scene.told[&again], Reply::Done), "it ends there");
}

/// A group that has read nothing begins where it is told to, and nobody begins elsewhere meanwhile.
#[test]
fn a_group_may_be_told_where_to_begin() {
    let mut scene = Scene::new();
    let reset = scene.ask(Request::Reset { key: key(), start: 5 });
    let begin = scene.ask(Request::Begin { key: key(), start: 0 });
    assert!(!scene.told.contains_key(&begin));
    scene.settle();
    assert!(matches!((&scene.told[&reset], &scene.told[&begin]), (Reply::Done, Reply::Done)));
    assert_eq!(scene.start(), Some(5));
}

/// The beginning before a deletion answered the one after it, which was not durable.
#[test]
fn each_beginning_is_answered_by_its_own_record() {
    let mut scene = Scene::new();
    let first = scene.ask(Request::Begin { key: key(), start: 1 });
    scene.forget();
    scene.coordinator.topic_deleted(TOPIC);
    let second = scene.ask(Request::Begin { key: key(), start: 2 });
    let mut writes = std::mem::take(scene.coordinator.decided());
    let last = writes.pop().expect("the second beginning");
    for write in writes {
        scene.coordinator.written(write, Now { times: scene.times, image: &scene.image });
    }
    scene.look();
    assert!(matches!(scene.told[&first], Reply::Refused(_)), "it was taken away");
    assert!(!scene.told.contains_key(&second), "not durable yet");
    let now = Now { times: scene.times, image: &scene.image };
    scene.coordinator.written(last, now);
    scene.look();
    assert!(matches!(scene.told[&second], Reply::Done));
    assert_eq!(scene.start(), Some(2));
}

/// What was said of records stays in force though it could not be appended; a rewrite that has made
/// it durable says no more than that.
#[test]
fn a_rewrite_may_say_what_is_refused_afterwards() {
    let mut scene = Scene::begun();
    scene.take("a");
    let told = scene.acknowledge(0, 6, Verdict::Accept);
    let remembered = scene.coordinator.remembered_after(None);
    let anew: Vec<Record> = remembered.flat_map(|(_, records)| records).collect();
    scene.fail();
    assert!(matches!(scene.told[&told], Reply::Refused(_)));
    assert_eq!(scene.start(), Some(7));
    scene.log = anew;
    scene.restart();
    assert_eq!(scene.start(), Some(7));
}
