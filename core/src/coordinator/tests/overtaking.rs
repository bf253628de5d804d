//! Which of several commits of a partition counts, if some of them were in transactions: the one
//! whose record was written last, whenever its transaction ends.

use tidemill_record::{Producer, ProducerEpoch, ProducerId};

use super::*;

const P: ProducerId = ProducerId(9);
const Q: ProducerId = ProducerId(8);

/// What happens between any two steps of a story.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Between {
    Nothing,
    Crash,
    /// The log is written anew and cut, then it crashes.
    Rewrite,
    /// The log turns out to be one from before commits in transactions had numbers.
    OldLog,
}

const BETWEEN: [Between; 4] = [Between::Nothing, Between::Crash, Between::Rewrite, Between::OldLog];

/// A step of a story about partition 0 of `t`.
#[derive(Clone, Copy, Debug)]
enum Step {
    Commit(i64),
    Pend(ProducerId, i64),
    End(ProducerId, bool),
    Delete,
}

use Step::{Commit as Commits, Delete, End, Pend};

impl Scene {
    fn step(&mut self, step: Step, partition: i32, metadata: &str) -> Asked {
        let commit = |offset| Commit {
            group: GROUP.into(),
            who: nobody(),
            unknown_group: ErrorCode::IllegalGeneration,
            knows_epochs: true,
            offsets: vec![(
                "t".into(),
                partition,
                Committed { offset, metadata: metadata.into(), ..Committed::default() },
            )],
        };
        self.ask(match step {
            Commits(offset) => Request::Commit(commit(offset)),
            Pend(producer, offset) => Request::CommitInTransaction(commit(offset), producer),
            End(id, commit) => {
                let producer = Producer { id, epoch: ProducerEpoch(0) };
                Request::EndTransaction { producer, commit }
            }
            Delete => {
                let topics = vec![("t".into(), vec![partition])];
                Request::DeleteOffsets(DeleteOffsets { group: GROUP.into(), topics })
            }
        })
    }

    /// The log is written anew, and begins with what was written.
    fn rewrite(&mut self) {
        self.coordinator.pretend_log_bytes(2 << 30);
        self.commit(nobody(), &[("unread", 0, 1)]).unwrap();
        let cut = self.coordinator.take_trim().expect("it is cut");
        self.log.drain(..cut.0 as usize);
    }

    fn between(&mut self, between: Between) {
        match between {
            Between::Nothing => return,
            Between::Crash => {}
            Between::Rewrite => self.rewrite(),
            Between::OldLog => {
                for record in &mut self.log {
                    if let Record::Pending { order: number, .. }
                    | Record::Offset { overtakes: number, .. } = record
                    {
                        *number = None;
                    }
                }
            }
        }
        self.crash();
    }
}

/// What a story comes to, whatever is between its steps.
fn comes_to(story: &[Step], expected: Option<i64>) {
    for between in BETWEEN {
        let mut scene = Scene::new();
        for step in story {
            scene.step(*step, 0, "");
            scene.between(between);
        }
        assert_eq!(scene.committed("t", 0), expected, "{story:?}, {between:?} between");
        assert!(!scene.coordinator.coordinator.groups[GROUP].offsets.is_pending("t", 0));
    }
}

/// Whatever a transaction had committed became the offset when it ended, though something was
/// committed since: a group went back, or skipped records.
#[test]
fn a_commit_was_undone_by_the_end_of_an_older_transaction() {
    comes_to(&[Pend(P, 10), Commits(20), End(P, true)], Some(20));
    comes_to(&[Commits(20), Pend(P, 10), End(P, true)], Some(10));
    comes_to(&[Pend(P, 10), Commits(20), End(P, false)], Some(20));
    comes_to(&[Pend(P, 10), Commits(20), Pend(P, 15), End(P, true)], Some(15));
    comes_to(&[Pend(P, 10), Commits(20), End(P, true), Pend(P, 15), End(P, true)], Some(15));
}

/// The transaction that ended last had its offset, not the one that was the last to commit it.
#[test]
fn the_order_in_which_transactions_ended_decided_between_their_offsets() {
    for (first, last) in [(P, Q), (Q, P)] {
        comes_to(&[Pend(first, 50), Pend(last, 40), End(last, true), End(first, true)], Some(40));
        comes_to(&[Pend(first, 50), Pend(last, 40), End(last, false), End(first, true)], Some(50));
        let between = [Pend(first, 50), Commits(60), Pend(last, 40)];
        comes_to(&[&between[..], &[End(last, true), End(first, true)]].concat(), Some(40));
        comes_to(&[&between[..], &[End(first, true), End(last, false)]].concat(), Some(60));
        let again = [Pend(first, 50), Pend(last, 40), Pend(first, 45)];
        comes_to(&[&again[..], &[End(first, true), End(last, true)]].concat(), Some(45));
    }
}

/// What the end of a transaction commits overtakes only what is older than it: a younger
/// transaction still counts. In a log without numbers that lasts until the next restart.
#[test]
fn the_end_of_an_older_transaction_leaves_a_younger_one_alone() {
    for (first, last) in [(P, Q), (Q, P)] {
        let story = [Pend(first, 50), Pend(last, 40), End(first, true), End(last, true)];
        for between in BETWEEN {
            let mut scene = Scene::new();
            for (number, step) in story.into_iter().enumerate() {
                scene.step(step, 0, "");
                let is_mended = between == Between::OldLog && 2 <= number;
                scene.between(if is_mended { Between::Crash } else { between });
            }
            assert_eq!(scene.committed("t", 0), Some(40), "{between:?}");
        }
        let story = [Pend(first, 50), Commits(60), Pend(last, 40)];
        comes_to(&[&story[..], &[End(first, true), End(last, true)]].concat(), Some(40));
    }
}

/// Offsets that were deleted came back when a transaction ended that had committed them before,
/// and were unstable until then.
#[test]
fn a_deleted_offset_came_back_at_the_end_of_a_transaction() {
    let keeps = [Commits(1), Pend(P, 10), Pend(Q, 11), Delete];
    for between in BETWEEN {
        let mut scene = Scene::new();
        scene.commit(nobody(), &[("u", 0, 7)]).unwrap();
        for step in keeps {
            scene.step(step, 0, "");
            scene.between(between);
        }
        assert!(!scene.coordinator.coordinator.groups[GROUP].offsets.is_pending("t", 0));
        scene.step(End(P, true), 0, "");
        scene.step(End(Q, true), 0, "");
        assert_eq!(scene.committed("t", 0), None, "{between:?}");
        scene.step(Pend(P, 12), 0, "");
        scene.between(between);
        scene.step(End(P, true), 0, "");
        assert_eq!(scene.committed("t", 0), Some(12), "what comes later counts");
    }
}

/// An offset that an open transaction has overtaken, or may, is not forgotten before it has ended:
/// it is what tells which of them counts.
#[test]
fn an_offset_does_not_expire_under_a_transaction() {
    let mut scene = Scene::new();
    scene.step(Pend(P, 10), 0, "");
    scene.step(Commits(20), 0, "");
    scene.commit(nobody(), &[("u", 0, 7)]).unwrap();
    scene.pass(2 * RETENTION);
    assert_eq!(scene.committed("u", 0), None);
    assert_eq!(scene.committed("t", 0), Some(20));
    scene.step(End(P, true), 0, "");
    assert_eq!(scene.committed("t", 0), Some(20));
    scene.pass(2 * RETENTION);
    assert_eq!(scene.committed("t", 0), None);
}

/// What is known without the log: which commit of each partition counts.
#[derive(Default)]
struct Model {
    written: u64,
    committed: BTreeMap<i32, (i64, u64)>,
    pending: BTreeMap<(ProducerId, i32), (i64, u64)>,
}

impl Model {
    fn step(&mut self, step: Step, partition: i32) {
        self.written += 1;
        match step {
            Commits(offset) => {
                self.committed.insert(partition, (offset, self.written));
            }
            Pend(producer, offset) => {
                self.pending.insert((producer, partition), (offset, self.written));
            }
            End(producer, commit) => {
                let of_producer = self.pending.extract_if(.., |(id, _), _| *id == producer);
                for ((_, partition), (offset, written)) in of_producer.filter(|_| commit) {
                    let kept = self.committed.entry(partition).or_insert((offset, 0));
                    if kept.1 < written {
                        *kept = (offset, written);
                    }
                }
            }
            Delete => {
                self.committed.remove(&partition);
                self.pending.retain(|(_, p), _| *p != partition);
            }
        }
    }
}

/// Whatever is committed and ended in whatever order, while the log is written anew in many parts
/// or lost behind any of them: the same counts.
#[test]
fn what_counts_is_the_same_behind_every_rewrite_and_crash() {
    // A batch of a rewrite holds about ten.
    let metadata = "m".repeat(24 * 1024);
    let mut trims = 0;
    for seed in 0..20 {
        let mut random = Random::new(seed);
        let mut draw = |below: u64| random.next_u64() % below;
        let rules = Rules { offset_metadata_bytes_max: metadata.len(), ..rules() };
        let (mut scene, mut model) = (Scene::with(rules), Model::default());
        for offset in 0..300 {
            let (partition, producer) = (draw(4) as i32, ProducerId(draw(4) as i64));
            let step = match draw(16) {
                0..5 => Commits(offset),
                5..11 => Pend(producer, offset),
                11..15 => End(producer, draw(4) != 0),
                _ => Delete,
            };
            scene.disk = Disk::Waits;
            let asked = scene.step(step, partition, &metadata);
            while scene.is_waiting(asked) {
                assert!(scene.settle_next(), "something is under way");
                scene.write();
            }
            model.step(step, partition);
            if let Some(to) = scene.coordinator.take_trim() {
                scene.log.drain(..to.0 as usize);
                trims += 1;
            }
            match draw(8) {
                0 => scene.crash(),
                1 | 2 => scene.coordinator.pretend_log_bytes(2 << 30),
                _ => {}
            }
            for partition in 0..4 {
                let committed = model.committed.get(&partition).map(|(offset, _)| *offset);
                assert_eq!(scene.committed("t", partition), committed, "{seed}: {step:?}");
                let pending = model.pending.keys().any(|(_, p)| *p == partition);
                let group = scene.coordinator.coordinator.groups.get(GROUP);
                let is_pending = group.is_some_and(|all| all.offsets.is_pending("t", partition));
                assert_eq!(is_pending, pending, "{seed}: {step:?}");
            }
        }
    }
    assert!(200 < trims, "{trims}");
}
