//! Offsets that groups commit in transactions.

use tidemill_record::{Producer, ProducerEpoch, ProducerId};

use super::*;
use crate::coordinator_log::Write as _;

const PRODUCER: ProducerId = ProducerId(9);

fn commit(scene: &mut Scene, producer: ProducerId, offset: i64) -> Asked {
    commit_as(scene, nobody(), producer, offset)
}

fn commit_as(scene: &mut Scene, who: Who, producer: ProducerId, offset: i64) -> Asked {
    let committed = Committed { offset, leader_epoch: -1, ..Committed::default() };
    let commit = Commit {
        group: GROUP.into(),
        who,
        unknown_group: ErrorCode::IllegalGeneration,
        knows_epochs: true,
        offsets: vec![("t".into(), 0, committed)],
    };
    scene.ask(Request::CommitInTransaction(commit, producer))
}

fn end(scene: &mut Scene, producer: ProducerId, commit: bool) -> Asked {
    let producer = Producer { id: producer, epoch: ProducerEpoch(0) };
    scene.ask(Request::EndTransaction { producer, commit })
}

fn ended(scene: &mut Scene, asked: Asked) -> bool {
    matches!(scene.told.get(&asked.0), Some(Reply::TransactionEnded))
}

/// What a transaction has committed counts when it is committed, and never if it is aborted.
#[test]
fn offsets_of_a_transaction_count_when_it_is_committed() {
    let mut scene = Scene::new();
    scene.commit(nobody(), &[("t", 0, 5)]).unwrap();
    commit(&mut scene, PRODUCER, 7);
    assert_eq!(scene.committed("t", 0), Some(5));
    let asked = end(&mut scene, PRODUCER, false);
    assert!(ended(&mut scene, asked));
    assert_eq!(scene.committed("t", 0), Some(5), "it was aborted");
    commit(&mut scene, PRODUCER, 8);
    let asked = end(&mut scene, PRODUCER, true);
    assert!(ended(&mut scene, asked));
    assert_eq!(scene.committed("t", 0), Some(8));
    let asked = end(&mut scene, PRODUCER, true);
    assert!(ended(&mut scene, asked), "told again, nothing is left to do");
}

/// A producer's end leaves the others alone.
#[test]
fn transactions_do_not_see_one_another() {
    let mut scene = Scene::new();
    commit(&mut scene, PRODUCER, 7);
    commit(&mut scene, ProducerId(10), 8);
    end(&mut scene, PRODUCER, true);
    assert_eq!(scene.committed("t", 0), Some(7));
    end(&mut scene, ProducerId(10), true);
    assert_eq!(scene.committed("t", 0), Some(8));
}

/// Who wants offsets that will not change waits for open transactions (KIP-447).
#[test]
fn offsets_of_an_open_transaction_are_not_stable() {
    let mut scene = Scene::new();
    commit(&mut scene, PRODUCER, 7);
    let topics = Some(vec![("t".into(), vec![0, 1])]);
    let fetch = FetchOffsets { topics, require_stable: true, ..all_offsets() };
    let asked = scene.ask(Request::FetchOffsets(fetch.clone()));
    let Reply::Offsets(found) = scene.reply(asked).clone() else { panic!("offsets") };
    assert_eq!(found[0].1[0].1, Err(ErrorCode::UnstableOffsetCommit));
    assert_eq!(found[0].1[1].1, Ok(None));
    end(&mut scene, PRODUCER, true);
    let asked = scene.ask(Request::FetchOffsets(fetch));
    let Reply::Offsets(found) = scene.reply(asked).clone() else { panic!("offsets") };
    assert!(matches!(&found[0].1[0].1, Ok(Some(committed)) if committed.offset == 7));
}

/// A crash behind any record loses no committed offset, and the end that is told again does what is
/// left to do.
#[test]
fn a_crash_leaves_offsets_to_be_ended() {
    for kept in 0..=3 {
        let mut scene = Scene::new();
        commit(&mut scene, PRODUCER, 7);
        end(&mut scene, PRODUCER, true);
        assert_eq!(scene.log.len(), 3, "pending, committed, not pending");
        scene.log.truncate(kept);
        scene.crash();
        let asked = end(&mut scene, PRODUCER, true);
        assert!(ended(&mut scene, asked));
        assert_eq!(scene.committed("t", 0), (0 < kept).then_some(7), "behind {kept} records");
    }
}

/// The end waits for what is on its way to the disk: it may be of its transaction.
#[test]
fn an_end_waits_for_commits_under_way() {
    let mut scene = Scene::new();
    scene.disk = Disk::Waits;
    let first = commit(&mut scene, PRODUCER, 7);
    let asked = end(&mut scene, PRODUCER, true);
    assert!(!ended(&mut scene, asked));
    scene.settle();
    assert!(matches!(scene.reply(first), Reply::Committed(_)));
    scene.settle();
    assert!(ended(&mut scene, asked));
    scene.disk = Disk::Takes;
    assert_eq!(scene.committed("t", 0), Some(7));
}

/// A producer was told STALE_MEMBER_EPOCH when its group shared out anew, which none knows: it was
/// the end of it. ILLEGAL_GENERATION makes it abort and go on.
#[test]
fn a_stale_epoch_was_the_end_of_a_producer() {
    let (mut scene, readers) = Scene::of_readers(1);
    let reader = &readers[0];
    let stale = commit_as(&mut scene, who(&reader.member, 0), PRODUCER, 5);
    assert!(matches!(scene.reply(stale), Reply::Refused(ErrorCode::IllegalGeneration)));
    let stranger = commit_as(&mut scene, who("stranger", reader.epoch), PRODUCER, 5);
    assert!(matches!(scene.reply(stranger), Reply::Refused(ErrorCode::UnknownMemberId)));
    let taken = commit_as(&mut scene, who(&reader.member, reader.epoch), PRODUCER, 5);
    assert!(matches!(scene.reply(taken), Reply::Committed(_)));
}

/// While shares were waited for, a producer of the generation was told REBALANCE_IN_PROGRESS, which
/// was the end of it, too. The generation is all that counts.
#[test]
fn a_rebalance_under_way_was_the_end_of_a_producer() {
    let (mut scene, clients) = Scene::stable(1);
    let newcomer = scene.join_named(&mut Client::new());
    scene.join(&clients[0]);
    let joined = scene.joined(newcomer).clone();
    let old = commit_as(&mut scene, who(&joined.member, joined.generation - 1), PRODUCER, 5);
    assert!(matches!(scene.reply(old), Reply::Refused(ErrorCode::IllegalGeneration)));
    let taken = commit_as(&mut scene, who(&joined.member, joined.generation), PRODUCER, 5);
    assert!(matches!(scene.reply(taken), Reply::Committed(_)));
}

/// To end a transaction all groups of the partition were looked through. What is kept of the
/// transactions instead says the same, whatever happens to the groups.
#[test]
fn the_groups_of_a_transaction_are_found_without_looking_at_the_others() {
    let mut scene = Scene::new();
    let mut random = Random::new(5);
    for step in 0..3000 {
        let mut draw = |below: u64| random.next_u64() % below;
        let group: Arc<str> = format!("group {}", draw(6)).into();
        let producer = Producer { id: ProducerId(draw(4) as i64), epoch: ProducerEpoch(0) };
        let offsets = vec![("t".into(), draw(3) as i32, Committed::default())];
        scene.disk = [Disk::Takes, Disk::Waits, Disk::Waits, Disk::Full][draw(4) as usize];
        let what = draw(8);
        let commit = Commit {
            group: Arc::clone(&group),
            who: nobody(),
            unknown_group: ErrorCode::IllegalGeneration,
            knows_epochs: true,
            offsets,
        };
        match what {
            0..3 => scene.ask(Request::CommitInTransaction(commit, producer.id)),
            3 => scene.ask(Request::Commit(commit)),
            4 | 5 => scene.ask(Request::EndTransaction { producer, commit: step % 2 == 0 }),
            _ => scene.ask(Request::Delete { group }),
        };
        if what == 6 {
            scene.settle();
        }
        if step % 100 == 99 {
            scene.crash();
        }
        let coordinator = &scene.coordinator.coordinator;
        for producer in (0..4).map(ProducerId) {
            let has = |entry: &Group| entry.offsets.has_pending_of(producer) || entry.is_busy();
            let found = coordinator.groups.iter().filter(|(_, entry)| has(entry));
            let found: Vec<Arc<str>> = found.map(|(group, _)| Arc::clone(group)).collect();
            assert_eq!(coordinator.concerned.by(producer), found);
        }
    }
}

/// Commits that may wait for others to be written with them do not, once the end of a transaction
/// waits for them.
#[test]
fn an_end_does_not_wait_for_what_lingers() {
    let mut scene = Scene::new();
    let ask = |scene: &mut Scene, request| {
        let reply_to = ReplyTo { shard: ShardId(0), job: scene.jobs.insert(()), index: 0 };
        let now = Now { times: scene.times, image: &scene.image };
        scene.coordinator.coordinator.request(request, reply_to, true, now);
    };
    let offsets = vec![("t".into(), 0, Committed::default())];
    let commit = Commit {
        group: GROUP.into(),
        who: nobody(),
        unknown_group: ErrorCode::IllegalGeneration,
        knows_epochs: true,
        offsets,
    };
    ask(&mut scene, Request::Commit(commit));
    let coordinator = &mut scene.coordinator.coordinator;
    assert!(coordinator.decided[0].may_linger().is_some_and(|group| **group == *GROUP));
    assert!(!coordinator.take_hurry());
    let producer = Producer { id: PRODUCER, epoch: ProducerEpoch(0) };
    ask(&mut scene, Request::EndTransaction { producer, commit: true });
    assert!(scene.coordinator.coordinator.take_hurry());
}
