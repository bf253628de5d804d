//! A member of a group against a coordinator played by bytes: where it begins, what it commits and
//! when, what it gives up.

use tidemill_net::kafka::ApiKey;
use tidemill_net::kafka::consumer_protocol::Subscription;
use tidemill_net::kafka::topic_partitions::TopicPartitions;
use tidemill_record::{BatchBuilder, Codec, Timestamp};

use super::*;
use crate::backoff::Backoff;
use crate::fake::{Fake, bootstrap};

const MS: Duration = Duration::from_millis(1);

fn config(assignor: Assignor) -> GroupConfig {
    let mut config = GroupConfig {
        group: "g".to_owned(),
        assignors: vec![assignor],
        auto_commit: Some(50 * MS),
        heartbeat_interval: 10 * MS,
        session_timeout: 200 * MS,
        ..GroupConfig::default()
    };
    config.reader.cluster.bootstrap = bootstrap();
    config.reader.retry = Backoff { first: MS, longest: 5 * MS };
    config.reader.cluster.reconnect = config.reader.retry;
    config.reader.cluster.refresh = config.reader.retry;
    config
}

/// A topic of three partitions with ten batches of one record each, a member, and the time.
struct Scene {
    fake: Fake,
    core: GroupCore,
    now: Instant,
}

impl Scene {
    fn new(config: GroupConfig) -> Scene {
        let mut fake = Fake::new(2).with_topic("t", 3);
        fake.group.node = 1;
        for partition in 0..3 {
            for _ in 0..10 {
                let mut builder = BatchBuilder::new(Codec::None);
                builder.append(Timestamp(1), None, Some(b"value"));
                fake.partition("t", partition).append(&builder.build()).unwrap();
            }
        }
        let mut core = GroupCore::new(config).unwrap();
        core.subscribe([Arc::from("t")], Instant::default());
        Scene { fake, core, now: Instant::default() }
    }

    /// Lets a millisecond pass; whoever calls it is done with what was polled before.
    fn step(&mut self) {
        self.core.tick(self.now);
        self.fake.drive(self.core.cluster(), self.now);
        self.core.cluster().tick(self.now);
        self.core.tick(self.now);
        self.now = self.now.plus(MS);
    }

    fn steps(&mut self, count: usize) {
        for _ in 0..count {
            self.step();
        }
    }

    /// Steps until everything was read that can be: how many batches of each partition.
    fn read(&mut self) -> [usize; 3] {
        let mut counts = [0; 3];
        for _ in 0..100 {
            while let Some(batch) = self.core.poll_batch() {
                counts[batch.partition as usize] += 1;
            }
            self.step();
        }
        counts
    }

    fn committed(&self) -> Vec<i64> {
        self.fake.group.committed.values().copied().collect()
    }
}

fn partitions(numbers: &[i32]) -> Vec<TopicPartitions> {
    vec![TopicPartitions { topic: "t".to_owned(), partitions: numbers.to_vec() }]
}

fn other() -> Subscription {
    Subscription { topics: vec!["t".to_owned()], ..Subscription::default() }
}

/// Where the group left off, there its member begins; where nobody was, at the beginning.
#[test]
fn a_member_begins_where_the_group_left_off() {
    let mut scene = Scene::new(config(Assignor::Range));
    scene.fake.group.committed.insert(("t".to_owned(), 1), 7);
    assert_eq!(scene.read(), [10, 3, 10]);
    assert_eq!(scene.core.poll_problem(), None);
    assert_eq!(scene.fake.group.joined.len(), 1, "it stays a member");
    assert!(5 < scene.fake.count(ApiKey::Heartbeat), "it says that it lives");
}

/// A batch that was polled may still be worked on until the next tick: committed before, it would
/// be lost if its reader died over it.
#[test]
fn only_what_is_done_with_is_committed() {
    let mut scene = Scene::new(config(Assignor::Range));
    while !scene.core.has_batches() {
        scene.step();
    }
    scene.steps(100);
    assert!(scene.committed().iter().all(|offset| *offset == 0), "nothing was taken");
    let batch = scene.core.poll_batch().unwrap();
    scene.core.read_ahead(scene.now);
    scene.fake.drive(scene.core.cluster(), scene.now);
    let place = ("t".to_owned(), batch.partition);
    assert_ne!(scene.fake.group.committed.get(&place), Some(&1), "it may be worked on");
    scene.steps(60);
    assert_eq!(scene.fake.group.committed.get(&place), Some(&1));
}

/// An eager member gives up everything before it joins again, and commits it first: whoever gets
/// it next begins behind that.
#[test]
fn an_eager_member_commits_and_gives_up_all_before_it_joins_again() {
    let mut scene = Scene::new(config(Assignor::Range));
    assert_eq!(scene.read(), [10, 10, 10]);
    assert_eq!(
        scene.core.poll_change(),
        Some(Change::Given(scene.core.assigned().cloned().collect()))
    );
    scene.fake.group.committed.clear();
    scene.core.commits.at = None;
    for progress in scene.core.shares.values_mut() {
        progress.committed = None;
    }
    scene.fake.group.others.push(other());
    scene.fake.group.refusals.push_back((ApiKey::Heartbeat, ErrorCode::RebalanceInProgress));
    scene.steps(50);
    assert_eq!(scene.committed(), [10, 10, 10]);
    assert_eq!(scene.fake.group.joined.len(), 2);
    assert_eq!(scene.fake.group.joined[1].owned_partitions, []);
    assert!(matches!(scene.core.poll_change(), Some(Change::Taken(all)) if all.len() == 3));
    let mine: Vec<i32> = scene.core.assigned().map(|share| share.1).collect();
    assert_eq!(scene.fake.group.shared_out.len(), 2);
    assert_eq!(scene.fake.group.shared_out[0], partitions(&mine));
}

/// A cooperative member says what it has and goes on reading it; what it is to give up it commits,
/// and joins again so that the next reader can have it.
#[test]
fn a_cooperative_member_goes_on_with_what_it_keeps() {
    let mut scene = Scene::new(config(Assignor::CooperativeSticky));
    scene.steps(50);
    scene.fake.group.given = Some(partitions(&[0, 1]));
    scene.fake.group.others.push(other());
    scene.fake.group.refusals.push_back((ApiKey::Heartbeat, ErrorCode::RebalanceInProgress));
    let mut counts = [0; 3];
    for _ in 0..100 {
        let before = scene.core.assigned().count();
        assert!(2 <= before, "what it keeps it never gives up");
        while let Some(batch) = scene.core.poll_batch() {
            counts[batch.partition as usize] += 1;
        }
        scene.step();
    }
    assert_eq!(counts[..2], [10, 10], "nothing was read again");
    let joined = &scene.fake.group.joined;
    assert_eq!(joined.len(), 3, "once more after it gave one up");
    assert_eq!(joined[1].owned_partitions, partitions(&[0, 1, 2]));
    assert_eq!(joined[2].owned_partitions, partitions(&[0, 1]));
    assert!(matches!(scene.core.poll_change(), Some(Change::Given(all)) if all.len() == 3));
    let taken = Change::Taken(vec![("t".into(), 2)]);
    assert_eq!(scene.core.poll_change(), Some(taken));
    assert_eq!(scene.core.poll_change(), None);
    assert_eq!(scene.fake.group.committed[&("t".to_owned(), 2)], counts[2] as i64);
}

/// Who is not known any more commits nothing, because another may have come further; it begins
/// anew, where the group is.
#[test]
fn who_is_not_known_any_more_commits_nothing_and_begins_anew() {
    for error in [ErrorCode::UnknownMemberId, ErrorCode::IllegalGeneration] {
        let mut scene = Scene::new(GroupConfig { auto_commit: None, ..config(Assignor::Range) });
        assert_eq!(scene.read(), [10, 10, 10]);
        scene.core.commit(scene.now);
        scene.steps(5);
        assert_eq!(scene.core.poll_committed(), Some(Ok(())));
        scene.fake.group.committed.insert(("t".to_owned(), 0), 4);
        scene.fake.group.refusals.push_back((ApiKey::Heartbeat, error));
        assert_eq!(scene.read(), [6, 0, 0]);
        assert_eq!(scene.committed(), [4, 10, 10]);
        assert_eq!(scene.fake.group.joined.len(), 2);
    }
}

/// Who was not polled for its session's timeout cannot know whether others have its partitions: it
/// stops before it asks.
#[test]
fn who_was_silent_for_too_long_stops_reading() {
    let mut scene = Scene::new(config(Assignor::Range));
    scene.steps(50);
    assert_eq!(scene.core.assigned().count(), 3);
    scene.now = scene.now.plus(300 * MS);
    scene.core.tick(scene.now);
    assert_eq!(scene.core.assigned().count(), 0);
    assert!(scene.core.poll_batch().is_none(), "what was fetched is not given out");
    assert_eq!(scene.read(), [10, 10, 10], "it is a member again");
}

/// Another node coordinates: it is found, and nothing is given up for that.
#[test]
fn a_coordinator_that_moves_is_found() {
    let mut scene = Scene::new(config(Assignor::Range));
    scene.steps(50);
    scene.fake.group.node = 0;
    assert_eq!(scene.read(), [10, 10, 10]);
    assert_eq!(scene.fake.group.joined.len(), 1);
    assert_eq!(scene.committed(), [10, 10, 10]);
}

/// Who leaves commits what it is done with, and says that it goes. Afterwards nothing is asked.
#[test]
fn who_leaves_commits_and_says_so() {
    let mut scene = Scene::new(GroupConfig {
        auto_commit: Some(Duration::from_secs(3600)),
        ..config(Assignor::Range)
    });
    assert_eq!(scene.read(), [10, 10, 10]);
    assert!(scene.committed().is_empty(), "not yet");
    scene.core.leave(scene.now);
    scene.steps(5);
    assert!(scene.core.has_left() && scene.fake.group.has_left);
    assert_eq!(scene.committed(), [10, 10, 10]);
    let asked = scene.fake.count(ApiKey::Heartbeat);
    scene.steps(100);
    assert_eq!(scene.fake.count(ApiKey::Heartbeat), asked);
}

/// A refusal that will not pass is told, with what would help; and tried again, less often.
#[test]
fn what_will_not_pass_is_told() {
    let mut scene = Scene::new(config(Assignor::Range));
    let error = ErrorCode::GroupAuthorizationFailed;
    scene.fake.group.refusals.push_back((ApiKey::JoinGroup, error));
    scene.steps(20);
    let told = scene.core.poll_problem().unwrap();
    assert_eq!(told.kind(), ErrorKind::Refused(error));
    assert!(told.explanation().fix.is_some(), "{told}");
    assert_eq!(scene.read(), [10, 10, 10]);
}
