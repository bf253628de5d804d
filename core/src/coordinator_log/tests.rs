//! What every coordinator may rely on, told with one that keeps numbers by their names.

use std::collections::BTreeMap;
use std::ops::Bound;

use tidemill_record::{Batch, Contents, Offset};
use tidemill_runtime::edge::ShardId;

use super::linger::Haste;
use super::*;
use crate::job::Jobs;
use crate::limits::GROUP_APPEND_BYTES;

/// Remembers the last number of each name.
#[derive(Default)]
struct Numbers {
    known: BTreeMap<u32, u64>,
    decided: Vec<Change>,
    replies: Vec<(ReplyTo, Result<(), ErrorCode>)>,
    hurries: bool,
}

/// A name, its number, and how long its record is.
#[derive(Clone, Debug, PartialEq)]
struct Set(u32, u64, usize);

struct Change {
    /// One that names the name 0 goes out whole.
    records: Vec<Set>,
    lingers: Option<Arc<str>>,
    reply_to: ReplyTo,
}

impl Write for Change {
    type Record = Set;

    fn records(&self) -> &[Set] {
        &self.records
    }

    fn is_whole(&self) -> bool {
        self.records.iter().any(|record| record.0 == 0)
    }

    fn may_linger(&self) -> Option<&Arc<str>> {
        self.lingers.as_ref()
    }
}

impl LogRecord for Set {
    fn encode(&self) -> (BytesMut, Option<BytesMut>) {
        let mut value = BytesMut::from(&self.1.to_be_bytes()[..]);
        value.resize(8 + self.2, 0);
        (BytesMut::from(&self.0.to_be_bytes()[..]), Some(value))
    }

    fn decode(key: &[u8], value: Option<&[u8]>) -> Result<Self, DecodeError> {
        let (number, rest) = value.unwrap().split_at(8);
        let name = u32::from_be_bytes(key.try_into().unwrap());
        Ok(Self(name, u64::from_be_bytes(number.try_into().unwrap()), rest.len()))
    }
}

impl Coordinate for Numbers {
    type Request = Vec<Set>;
    type Reply = Result<(), ErrorCode>;
    type Record = Set;
    type Write = Change;
    type Place = u32;

    fn replay(&mut self, Set(name, number, _): Set) {
        self.known.insert(name, number);
    }

    fn loaded(&mut self, _now: Now<'_>) {}

    fn request(&mut self, records: Vec<Set>, reply_to: ReplyTo, _room: bool, _now: Now<'_>) {
        // Small names are not urgent.
        let lingers = (records[0].0 < 10).then(|| records[0].0.to_string().into());
        self.decided.push(Change { records, lingers, reply_to });
    }

    fn tick(&mut self, _now: Now<'_>) {}

    fn next_deadline(&self) -> Option<Instant> {
        None
    }

    fn close(&mut self, _error: ErrorCode) {}

    fn decided(&mut self) -> &mut Vec<Change> {
        &mut self.decided
    }

    fn take_hurry(&mut self) -> bool {
        std::mem::take(&mut self.hurries)
    }

    fn written(&mut self, write: Change, _now: Now<'_>) {
        write.records.into_iter().for_each(|record| self.replay(record));
        self.replies.push((write.reply_to, Ok(())));
    }

    fn refused(&mut self, write: Change, error: ErrorCode, _now: Now<'_>) {
        self.replies.push((write.reply_to, Err(error)));
    }

    fn replies(&mut self) -> &mut Vec<(ReplyTo, Result<(), ErrorCode>)> {
        &mut self.replies
    }

    fn refusal(error: ErrorCode) -> Result<(), ErrorCode> {
        Err(error)
    }

    fn remembered_after<'a>(
        &'a self,
        place: Option<&'a u32>,
    ) -> impl Iterator<Item = (u32, Vec<Set>)> + 'a {
        let from = place.map_or(Bound::Unbounded, Bound::Excluded);
        let behind = self.known.range((from, Bound::Unbounded));
        behind.map(|(name, number)| (*name, vec![Set(*name, *number, 0)]))
    }

    fn bytes(&self) -> usize {
        0
    }

    fn count(&self) -> usize {
        self.known.len()
    }
}

/// The least by which the log grows before it is written anew.
const REWRITE_BYTES: usize = 10_000;

struct Scene {
    numbers: Logged<Numbers>,
    image: Image,
    jobs: Jobs<()>,
    asked: u32,
}

impl Scene {
    fn new() -> Self {
        Self::with_log(1 << 30)
    }

    /// A log that is written anew when it has grown by so much.
    fn with_log(rewrite_bytes: usize) -> Self {
        let numbers = Logged::new(Numbers::default(), rewrite_bytes);
        Self { numbers, image: Image::default(), jobs: Jobs::default(), asked: 0 }
    }

    fn set(&mut self, records: Vec<Set>) {
        self.asked += 1;
        let reply_to = ReplyTo { shard: ShardId(0), job: self.jobs.insert(()), index: self.asked };
        let now = Now { times: times(), image: &self.image };
        self.numbers.request(records, reply_to, true, now);
    }

    fn next(&mut self) -> Option<Append> {
        self.numbers.poll_append(0)
    }

    fn lands(&mut self, append: &Append) {
        let now = Now { times: times(), image: &self.image };
        self.numbers.appended(append.number, Offset(7), now);
    }

    fn fails(&mut self, append: &Append) {
        let now = Now { times: times(), image: &self.image };
        self.numbers.refused(append.number, ErrorCode::KafkaStorageError, now);
    }

    /// Writes so much that the log is due to be written anew, and gives back the first batch of
    /// that.
    fn rewrite(&mut self) -> Append {
        self.set(vec![Set(1, 1, REWRITE_BYTES)]);
        let append = self.next().unwrap();
        self.lands(&append);
        self.next().expect("it is due")
    }

    /// Who was answered since the last time, and whether it was done.
    fn told(&mut self) -> Vec<(u32, bool)> {
        let replies = self.numbers.take_replies().into_iter();
        replies.map(|(reply_to, reply)| (reply_to.index, reply.is_ok())).collect()
    }
}

fn times() -> Times {
    Times { now: Instant::default(), wall_ms: 0 }
}

fn names_in(append: &Append) -> Vec<u32> {
    let (batch, _) = Batch::parse(&append.batch).unwrap();
    let contents = Contents::open(&batch, 1 << 24).unwrap();
    let records = contents.records().map(|record| {
        let record = record.unwrap();
        Set::decode(record.key.unwrap(), record.value).unwrap().0
    });
    records.collect()
}

/// Things belong to the partitions that Kafka's tools look for them in: the hash is Java's.
#[test]
fn a_name_belongs_to_the_partition_it_hashes_to() {
    assert_eq!(partition_of("", 50), 0);
    assert_eq!(partition_of("a", 50), 97 % 50);
    assert_eq!(partition_of("my-group", 50), 12, "its hash is -1,906,497,762");
    assert_eq!(partition_of("größe", 50), 7);
    assert_eq!(partition_of("𝄞", 50), 44, "which Java keeps as two units");
    assert_eq!(partition_of("polygenelubricants", 50), 0, "its hash has no positive counterpart");
}

/// What comes while the disk is busy goes out together, in order.
#[test]
fn decisions_of_one_turn_share_a_batch() {
    let mut scene = Scene::new();
    (1..=3).for_each(|name| scene.set(vec![Set(name, 1, 0)]));
    let append = scene.next().unwrap();
    assert_eq!(names_in(&append), [1, 2, 3]);
    assert!(scene.next().is_none() && scene.told().is_empty());
    scene.lands(&append);
    assert_eq!(scene.told(), [(1, true), (2, true), (3, true)]);
}

/// A decision that is too large for one batch is written in parts, one after the other is durable.
/// If one fails, all of it fails, and nothing else does.
#[test]
fn a_large_decision_fails_as_a_whole() {
    let large = || (1..=3).map(|name| Set(name, 1, GROUP_APPEND_BYTES)).collect();
    let mut scene = Scene::new();
    scene.set(large());
    scene.set(vec![Set(4, 1, 0)]);
    for part in 1..=2 {
        let append = scene.next().unwrap();
        assert_eq!(names_in(&append), [part]);
        assert!(scene.next().is_none(), "the rest waits");
        scene.lands(&append);
    }
    let last = scene.next().unwrap();
    assert_eq!(names_in(&last), [3]);
    let small = scene.next().unwrap();
    scene.fails(&last);
    scene.lands(&small);
    assert_eq!(scene.told(), [(1, false), (2, true)]);

    scene.set(large());
    scene.set(vec![Set(5, 1, 0)]);
    let first = scene.next().unwrap();
    scene.fails(&first);
    assert_eq!(scene.told(), [(3, false)]);
    let small = scene.next().unwrap();
    assert_eq!(names_in(&small), [5], "nothing more of it is written");
}

/// The bug: a group that changed its kind was written in parts when it was large. When a later part was
/// refused, the log held half of a change that had not happened, and the next start believed it.
#[test]
fn what_must_be_whole_is_one_batch() {
    let mut scene = Scene::new();
    scene.set(vec![Set(1, 1, GROUP_APPEND_BYTES / 2)]);
    scene.set((0..=4).rev().map(|name| Set(name, 1, GROUP_APPEND_BYTES)).collect());
    scene.set(vec![Set(5, 1, 0)]);
    let append = scene.next().unwrap();
    assert_eq!(names_in(&append), [1, 4, 3, 2, 1, 0]);
    let small = scene.next().unwrap();
    scene.fails(&append);
    scene.lands(&small);
    assert_eq!(scene.told(), [(1, false), (2, false), (3, true)]);
}

/// The bug: when a batch of a rewrite was refused, the log counted as empty, though all of it was
/// still there: it grew by as much again before the next attempt.
#[test]
fn a_refused_rewrite_leaves_the_log_as_large_as_it_was() {
    let mut scene = Scene::with_log(REWRITE_BYTES);
    let rewrite = scene.rewrite();
    assert_eq!(names_in(&rewrite), [1]);
    scene.fails(&rewrite);
    scene.set(vec![Set(2, 1, GROUP_APPEND_BYTES - 1000)]);
    let append = scene.next().unwrap();
    scene.lands(&append);
    assert!(scene.next().is_none(), "it does not try again for every record");
    scene.set(vec![Set(2, 2, 1000)]);
    let append = scene.next().unwrap();
    scene.lands(&append);
    let rewrite = scene.next().expect("it is due again");
    assert_eq!(names_in(&rewrite), [1, 2]);
    scene.lands(&rewrite);
    assert!(scene.next().is_none());
    assert_eq!(scene.numbers.take_trim(), Some(Offset(7)));
}

/// The bug: a decision whose first part was on its way failed with a batch of a rewrite that was
/// refused, which has none of it.
#[test]
fn a_refused_rewrite_takes_no_decision_along() {
    let mut scene = Scene::with_log(REWRITE_BYTES);
    let rewrite = scene.rewrite();
    scene.told();
    scene.set((2..=3).map(|name| Set(name, 1, GROUP_APPEND_BYTES)).collect());
    let first = scene.next().unwrap();
    assert_eq!(names_in(&first), [2]);
    scene.fails(&rewrite);
    scene.lands(&first);
    let second = scene.next().unwrap();
    scene.lands(&second);
    assert_eq!(scene.told(), [(2, true)]);
}

/// What may wait for others does so until something comes that may not, or somebody waits for it.
#[test]
fn haste_is_that_of_the_most_urgent_decision() {
    let mut scene = Scene::new();
    assert_eq!(scene.numbers.haste(), Haste::Nothing);
    scene.set(vec![Set(1, 1, 0)]);
    assert_eq!(scene.numbers.haste(), Haste::Alone("1".into()));
    scene.set(vec![Set(2, 1, 0)]);
    assert_eq!(scene.numbers.haste(), Haste::Linger);
    scene.numbers.coordinator.hurries = true;
    assert_eq!(scene.numbers.haste(), Haste::Now, "somebody waits");
    scene.set(vec![Set(10, 1, 0)]);
    assert_eq!(scene.numbers.haste(), Haste::Now);
    let append = scene.next().unwrap();
    assert_eq!(names_in(&append), [1, 2, 10], "all of it goes, in order");
    scene.lands(&append);
    scene.numbers.coordinator.hurries = true;
    assert_eq!(scene.numbers.haste(), Haste::Nothing, "what is waited for is on its way");
}
