//! What is told is durable, and what could not be written has not happened.

use super::*;

/// Nobody is told its share before that is durable, or a crash could share out the same generation
/// a second time, differently.
#[test]
fn shares_are_told_once_they_are_durable() {
    let mut scene = Scene::new();
    let mut client = Client::new();
    let asked = scene.join_named(&mut client);
    scene.pass(2 * DELAY);
    scene.disk = Disk::Waits;
    let sync = scene.sync(asked, &[(&client.id(), "all")]);
    assert!(scene.is_waiting(sync));
    let who_asks = who(&client.id(), 1);
    let commit = scene.commit_as(who_asks, &[("t", 0, 5)]);
    let newcomer = scene.join(&Client::new());
    assert!(scene.is_waiting(commit) && scene.is_waiting(newcomer), "whatever comes waits too");

    scene.settle();
    assert_eq!(&scene.synced(sync).assignment[..], b"all");
    assert_eq!(scene.joined(newcomer).error, ErrorCode::MemberIdRequired);
    assert!(scene.is_waiting(commit), "it was decided when the group went on");
    scene.settle();
    assert!(matches!(scene.reply(commit), Reply::Committed(_)));
}

/// The members that were told their shares are still there after a crash, in their generation;
/// they need not share out again if they speak up in time.
#[test]
fn a_stable_group_survives_a_crash() {
    let (mut scene, clients) = Scene::stable(3);
    scene.crash();
    assert_eq!(scene.state(), "Stable");
    scene.pass(SESSION - Duration::from_secs(1));
    assert_eq!(scene.heartbeat(&clients[0].id(), 1), ErrorCode::None);
    assert_eq!(scene.heartbeat(&clients[1].id(), 1), ErrorCode::None);
    let again = scene.sync_as(&clients[0].id(), 1, &[]);
    assert_eq!(scene.synced(again).error, ErrorCode::None);
    scene.pass(Duration::from_secs(1));
    assert_eq!(scene.heartbeat(&clients[2].id(), 1), ErrorCode::UnknownMemberId, "it was silent");
    assert_eq!(scene.heartbeat(&clients[0].id(), 1), ErrorCode::RebalanceInProgress);
}

/// A generation that was not shared out before the crash is begun anew: its members know nothing
/// that could contradict it.
#[test]
fn a_round_that_a_crash_cuts_off_begins_anew() {
    let (mut scene, clients) = Scene::stable(2);
    let asked: Vec<Asked> = clients.iter().map(|client| scene.join(client)).collect();
    assert_eq!(scene.joined(asked[0]).generation, 2);
    scene.disk = Disk::Waits;
    let sync = scene.sync(asked[0], &[(&clients[0].id(), "all")]);
    assert!(scene.is_waiting(sync));
    scene.crash();
    scene.disk = Disk::Takes;

    assert_eq!(scene.heartbeat(&clients[0].id(), 2), ErrorCode::IllegalGeneration);
    let asked: Vec<Asked> = clients.iter().map(|client| scene.join(client)).collect();
    assert_eq!(scene.joined(asked[0]).generation, 2);
}

/// An offset is told only once it is durable; a commit that was not acknowledged may be lost.
#[test]
fn an_offset_is_told_once_it_is_durable() {
    let mut scene = Scene::new();
    scene.commit(nobody(), &[("t", 0, 5)]).unwrap();
    scene.disk = Disk::Waits;
    let commit = scene.commit_as(nobody(), &[("t", 0, 6)]);
    assert!(scene.is_waiting(commit));
    assert_eq!(scene.committed("t", 0), Some(5));
    scene.crash();
    assert_eq!(scene.committed("t", 0), Some(5));
}

/// Commits do not wait for each other, and the last one stays.
#[test]
fn commits_under_way_do_not_hold_up_each_other() {
    let mut scene = Scene::new();
    scene.disk = Disk::Waits;
    let commits: Vec<Asked> = (0..3).map(|n| scene.commit_as(nobody(), &[("t", 0, n)])).collect();
    assert_eq!(scene.under_way.len(), 3);
    scene.settle();
    assert!(commits.iter().all(|commit| !scene.is_waiting(*commit)));
    assert_eq!(scene.committed("t", 0), Some(2));
}

/// On a full disk a commit is refused and nothing has changed; with room again it goes on.
#[test]
fn a_commit_that_cannot_be_written_changes_nothing() {
    let mut scene = Scene::new();
    scene.commit(nobody(), &[("t", 0, 5)]).unwrap();
    scene.disk = Disk::Full;
    assert_eq!(scene.commit(nobody(), &[("t", 0, 6)]), Err(ErrorCode::NotCoordinator));
    assert_eq!(scene.committed("t", 0), Some(5));
    scene.disk = Disk::Takes;
    scene.commit(nobody(), &[("t", 0, 7)]).unwrap();
    assert_eq!(scene.committed("t", 0), Some(7));
}

/// Shares that cannot be written are told to nobody; the members are asked to come again.
#[test]
fn shares_that_cannot_be_written_are_shared_out_again() {
    let mut scene = Scene::new();
    let mut clients = [Client::new(), Client::new()];
    let asked: Vec<Asked> = clients.iter_mut().map(|client| scene.join_named(client)).collect();
    scene.pass(2 * DELAY);
    scene.disk = Disk::Full;
    let follower = scene.sync(asked[1], &[]);
    let leader = scene.sync(asked[0], &[(&clients[0].id(), "all")]);
    for sync in [follower, leader] {
        assert!(matches!(scene.reply(sync), Reply::Refused(ErrorCode::NotCoordinator)));
    }
    assert_eq!(scene.state(), "PreparingRebalance");

    scene.disk = Disk::Takes;
    let asked: Vec<Asked> = clients.iter().map(|client| scene.join(client)).collect();
    assert_eq!(scene.joined(asked[0]).generation, 2);
    let sync = scene.sync(asked[0], &[(&clients[0].id(), "all")]);
    assert_eq!(&scene.synced(sync).assignment[..], b"all");
}

/// A deletion waits for commits that are under way: one that landed behind it would bring the
/// group back at the next start.
#[test]
fn a_deletion_waits_for_commits_under_way() {
    let mut scene = Scene::new();
    scene.disk = Disk::Waits;
    let commit = scene.commit_as(nobody(), &[("t", 0, 5)]);
    let delete = scene.delete();
    let late = scene.commit_as(nobody(), &[("t", 0, 6)]);
    scene.settle();
    assert!(!scene.is_waiting(commit) && scene.is_waiting(delete));
    scene.settle();
    assert!(matches!(scene.reply(delete), Reply::Deleted(ErrorCode::None)));
    scene.settle();
    assert!(matches!(scene.reply(late), Reply::Committed(_)), "it makes the group anew");
    scene.crash();
    assert_eq!(scene.committed("t", 0), Some(6));
}

/// A group with more offsets than a batch holds is deleted in several, the first of which must be
/// durable before the next goes out.
#[test]
fn a_large_deletion_goes_out_in_parts() {
    let mut scene = Scene::new();
    let offsets: Vec<(&str, i32, i64)> = (0..20_000).map(|p| ("topic", p, 1)).collect();
    scene.commit(nobody(), &offsets).unwrap();
    let before = scene.log.len();
    scene.disk = Disk::Waits;
    let delete = scene.delete();
    assert_eq!(scene.under_way.len(), 1);
    assert!(scene.is_waiting(delete));
    let mut batches = 0;
    while scene.is_waiting(delete) {
        scene.settle();
        batches += 1;
    }
    assert!(1 < batches);
    assert_eq!(scene.log.len() - before, 20_001);
    assert_eq!(scene.coordinator.count(), 0);
}

/// If a part of a large write fails, all of it has failed, and the next one is whole.
#[test]
fn a_write_of_which_a_part_fails_has_failed() {
    let mut scene = Scene::new();
    scene.disk = Disk::Full;
    let offsets: Vec<(&str, i32, i64)> = (0..20_000).map(|p| ("topic", p, 1)).collect();
    assert_eq!(scene.commit(nobody(), &offsets), Err(ErrorCode::NotCoordinator));
    assert_eq!(scene.coordinator.count(), 0, "nothing of the group is left");
    scene.disk = Disk::Takes;
    scene.commit(nobody(), &offsets).unwrap();
    assert_eq!(scene.committed("topic", 19_999), Some(1));
}

/// When the coordinator goes, everybody who waits for others is told, nobody twice; what is being
/// written is told when it is durable.
#[test]
fn nobody_is_left_waiting_when_the_coordinator_goes() {
    let (mut scene, clients) = Scene::stable(2);
    let join = scene.join(&clients[0]);
    scene.disk = Disk::Waits;
    let commit = scene.commit_as(who(&clients[1].id(), 1), &[("t", 0, 5)]);
    let delete = scene.delete();
    scene.coordinator.close(ErrorCode::NotCoordinator);
    let late = scene.join(&clients[1]);
    for asked in [join, delete, late] {
        assert!(matches!(scene.reply(asked), Reply::Refused(ErrorCode::NotCoordinator)));
    }
    assert!(scene.is_waiting(commit));
    scene.settle();
    assert!(matches!(scene.reply(commit), Reply::Committed(_)));
    assert_eq!(scene.coordinator.next_deadline(), None);
}

/// Beyond the bound of memory nothing new is kept; what is there goes on.
#[test]
fn without_room_nothing_new_is_kept() {
    let (mut scene, clients) = Scene::stable(1);
    let reply_to = ReplyTo { shard: ShardId(0), job: scene.jobs.insert(()), index: 1000 };
    let join = Request::Join(Box::new(Client::new().join));
    let now = Now { times: scene.times, image: &scene.image };
    scene.coordinator.request(join, reply_to, false, now);
    scene.write();
    assert!(matches!(scene.told[&1000], Reply::Refused(ErrorCode::CoordinatorNotAvailable)));
    assert_eq!(scene.heartbeat(&clients[0].id(), 1), ErrorCode::None);
}

/// What all groups take in memory is counted, and nothing is left of them when they are gone.
#[test]
fn memory_is_counted_up_and_down() {
    let (mut scene, clients) = Scene::stable(3);
    let with_members = scene.coordinator.bytes();
    assert!(0 < with_members);
    scene.commit(who(&clients[0].id(), 1), &[("t", 0, 5), ("t", 1, 5)]).unwrap();
    assert!(with_members < scene.coordinator.bytes());
    scene.crash();
    scene.pass(SESSION + REBALANCE);
    assert_eq!(scene.state(), "Empty");
    scene.delete();
    assert_eq!(scene.coordinator.bytes(), 0);
}

/// A log that has grown far beyond what there is to remember is written anew and cut; nothing is
/// lost on the way, whenever the coordinator crashes.
#[test]
fn a_log_that_repeats_itself_is_cut() {
    for crash_after in 0..40 {
        let mut scene = Scene::with_log(rules(), 20_000);
        let mut client = Client::new();
        scene.stabilize(std::slice::from_mut(&mut client));
        let offsets: Vec<(&str, i32, i64)> = (0..50).map(|partition| ("t", partition, 7)).collect();
        let member = who(&client.id(), 1);
        let mut cut = 0;
        while cut == 0 {
            scene.commit(member.clone(), &offsets).unwrap();
            cut = scene.coordinator.take_trim().map_or(0, |to| to.0);
            assert!(scene.log.len() < 2000, "it is cut some time");
        }
        // What is left is enough.
        scene.log.drain(..cut as usize);
        assert!(scene.log.len() < 200);
        scene.commit(member.clone(), &[("t", 0, 8)]).unwrap();

        // The next time it is cut off somewhere.
        scene.disk = Disk::Waits;
        scene.coordinator.pretend_log_bytes(1 << 20);
        for round in 0..crash_after {
            let commit = scene.commit_as(member.clone(), &[("t", 1, 10 + round)]);
            while scene.is_waiting(commit) {
                assert!(scene.settle_next(), "something is under way");
                scene.write();
            }
        }
        scene.crash();
        scene.disk = Disk::Takes;
        assert_eq!(scene.state(), "Stable");
        assert_eq!(scene.committed("t", 0), Some(8));
        let last = if crash_after == 0 { 7 } else { 9 + crash_after };
        assert_eq!(scene.committed("t", 1), Some(last));
        assert_eq!(scene.committed("t", 49), Some(7));
        assert_eq!(scene.heartbeat(&client.id(), 1), ErrorCode::None);
    }
}

/// A batch that repeats what is remembered never lands behind something newer: it waits for what
/// is under way, and what comes meanwhile waits for it.
#[test]
fn a_rewrite_undoes_nothing() {
    let mut scene = Scene::new();
    scene.commit(nobody(), &[("t", 0, 1)]).unwrap();
    scene.disk = Disk::Waits;
    scene.commit_as(nobody(), &[("t", 0, 2)]);
    scene.coordinator.pretend_log_bytes(2 << 30);
    scene.commit_as(nobody(), &[("t", 0, 3)]);
    let (number, records) = scene.under_way.pop_front().unwrap();
    scene.log.extend(records);
    let now = Now { times: scene.times, image: &scene.image };
    scene.coordinator.appended(number, Offset(1), now);
    scene.write();
    assert_eq!(scene.under_way.len(), 1, "the rewrite waits for the second commit");
    scene.commit_as(nobody(), &[("t", 0, 4)]);
    while !scene.under_way.is_empty() {
        scene.settle();
    }
    assert!(scene.coordinator.take_trim().is_some());
    scene.crash();
    assert_eq!(scene.committed("t", 0), Some(4));
}

/// A group with more offsets than a batch holds is written anew in several.
#[test]
fn a_large_group_is_written_anew_in_parts() {
    let mut scene = Scene::with_log(rules(), 1000);
    let offsets: Vec<(&str, i32, i64)> = (0..20_000).map(|p| ("topic", p, 5)).collect();
    scene.commit(nobody(), &offsets).unwrap();
    scene.coordinator.pretend_log_bytes(1 << 30);
    scene.commit(nobody(), &[("topic", 0, 6)]).unwrap();
    let cut = scene.coordinator.take_trim().unwrap();
    scene.log.drain(..cut.0 as usize);
    assert!(20_000 <= scene.log.len());
    scene.crash();
    assert_eq!(scene.committed("topic", 0), Some(6));
    assert_eq!(scene.committed("topic", 19_999), Some(5));
}
