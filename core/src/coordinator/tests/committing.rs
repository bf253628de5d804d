//! Who may commit offsets, what is kept of them and for how long.

use super::*;

/// What was committed is found again, also after a crash; what never was is no error.
#[test]
fn committed_offsets_are_found_again() {
    let (mut scene, clients) = Scene::stable(1);
    let member = who(&clients[0].id(), 1);
    scene.commit(member.clone(), &[("t", 0, 5), ("t", 1, 7), ("u", 0, 1)]).unwrap();
    scene.commit(member, &[("t", 0, 6)]).unwrap();
    for _ in 0..2 {
        assert_eq!(scene.committed("t", 0), Some(6));
        assert_eq!(scene.committed("t", 1), Some(7));
        assert_eq!(scene.committed("t", 9), None);
        assert_eq!(scene.committed("nowhere", 0), None);
        scene.crash();
    }
    let asked = scene.ask(Request::FetchOffsets(all_offsets()));
    let Reply::Offsets(topics) = scene.reply(asked) else { panic!("offsets were asked for") };
    let found: Vec<(&str, usize)> =
        topics.iter().map(|(topic, partitions)| (&**topic, partitions.len())).collect();
    assert_eq!(found, [("t", 2), ("u", 1)]);
}

/// Of a group that nobody knows, nothing was committed; that is no error either.
#[test]
fn an_unknown_group_has_committed_nothing() {
    let mut scene = Scene::new();
    assert_eq!(scene.committed("t", 0), None);
    let asked = scene.ask(Request::FetchOffsets(all_offsets()));
    assert!(matches!(scene.reply(asked), Reply::Offsets(topics) if topics.is_empty()));
}

/// A member commits under its name and generation; anything else would overwrite what the member
/// that has the partition now has committed.
#[test]
fn only_members_of_the_generation_commit() {
    let (mut scene, clients) = Scene::stable(2);
    let id = clients[0].id();
    let mut commit = |who| scene.commit(who, &[("t", 0, 5)]);
    assert_eq!(commit(who(&id, 0)), Err(ErrorCode::IllegalGeneration));
    assert_eq!(commit(who("stranger", 1)), Err(ErrorCode::UnknownMemberId));
    assert_eq!(commit(nobody()), Err(ErrorCode::UnknownMemberId), "there are members");
    assert_eq!(commit(who(&id, 1)), Ok(()));
}

/// While members join, those of the generation before still commit: that is how they keep what
/// they did before they give partitions up. While shares are waited for they cannot.
#[test]
fn commits_are_taken_while_members_join_but_not_while_shares_are_waited_for() {
    let (mut scene, clients) = Scene::stable(1);
    let newcomer = scene.join_named(&mut Client::new());
    assert_eq!(scene.commit(who(&clients[0].id(), 1), &[("t", 0, 5)]), Ok(()));
    scene.join(&clients[0]);
    let joined = scene.joined(newcomer).clone();
    let told = scene.commit(who(&joined.member, joined.generation), &[("t", 0, 6)]);
    assert_eq!(told, Err(ErrorCode::RebalanceInProgress));
}

/// A commit is a sign of life.
#[test]
fn a_commit_keeps_the_session_alive() {
    let (mut scene, clients) = Scene::stable(1);
    let id = clients[0].id();
    for _ in 0..3 {
        scene.pass(SESSION - Duration::from_secs(1));
        scene.commit(who(&id, 1), &[("t", 0, 5)]).unwrap();
    }
    assert_eq!(scene.heartbeat(&id, 1), ErrorCode::None);
}

/// Consumers that share with nobody, and tools, commit in nobody's name into groups without
/// members; that makes the group.
#[test]
fn a_group_without_members_takes_commits_of_nobody_in_particular() {
    let mut scene = Scene::new();
    assert_eq!(scene.commit(who("m", 3), &[("t", 0, 1)]), Err(ErrorCode::IllegalGeneration));
    scene.commit(nobody(), &[("t", 0, 5)]).unwrap();
    assert_eq!(scene.committed("t", 0), Some(5));
    let description = scene.describe();
    assert_eq!((description.state, &*description.protocol_type), ("Empty", ""));

    let (mut scene, clients) = Scene::stable(1);
    scene.leave(&[(&clients[0].id(), None)]);
    assert_eq!(scene.commit(nobody(), &[("t", 0, 5)]), Ok(()), "nobody is left");
}

/// What a client keeps with an offset is bounded; the other offsets of the commit are kept.
#[test]
fn too_much_metadata_is_refused_alone() {
    let mut scene = Scene::new();
    let offset = |topic: &str, metadata: String| {
        let committed = Committed { offset: 1, metadata: metadata.into(), ..Default::default() };
        (topic.into(), 0, committed)
    };
    let commit = Commit {
        group: GROUP.into(),
        who: nobody(),
        unknown_group: ErrorCode::IllegalGeneration,
        knows_epochs: true,
        offsets: vec![offset("t", "x".repeat(101)), offset("u", "x".repeat(100))],
    };
    let asked = scene.ask(Request::Commit(commit));
    let results = [ErrorCode::OffsetMetadataTooLarge, ErrorCode::None];
    assert!(matches!(scene.reply(asked), Reply::Committed(told) if *told == results));
    assert_eq!(scene.committed("t", 0), None);
    assert_eq!(scene.committed("u", 0), Some(1));
}

/// Offsets are kept for so long after the last member has gone, however old they are; then the
/// group is forgotten with them (KIP-211).
#[test]
fn offsets_are_kept_for_so_long_after_the_group_was_left() {
    let (mut scene, clients) = Scene::stable(1);
    let id = clients[0].id();
    scene.commit(who(&id, 1), &[("t", 0, 5)]).unwrap();
    for _ in 0..1000 {
        scene.pass(SESSION - Duration::from_secs(1));
        scene.heartbeat(&id, 1);
    }
    assert_eq!(scene.committed("t", 0), Some(5), "its topic is read");
    scene.leave(&[(&id, None)]);
    scene.pass(RETENTION - Duration::from_mins(1));
    assert_eq!(scene.committed("t", 0), Some(5));
    scene.pass(Duration::from_mins(11));
    assert_eq!(scene.committed("t", 0), None);
    assert_eq!(scene.coordinator.count(), 0);
    scene.crash();
    assert_eq!(scene.coordinator.count(), 0, "and is not found again");
}

/// Offsets of a topic that a group has stopped reading go, though it lives on; offsets committed
/// by nobody in particular go so long after the commit.
#[test]
fn offsets_that_nobody_uses_go_one_by_one() {
    let (mut scene, clients) = Scene::stable(1);
    let id = clients[0].id();
    scene.commit(who(&id, 1), &[("t", 0, 5), ("unread", 0, 7)]).unwrap();
    let passes = RETENTION.as_secs() / 9 + 70;
    for _ in 0..passes {
        scene.pass(SESSION - Duration::from_secs(1));
        scene.heartbeat(&id, 1);
    }
    assert_eq!(scene.committed("unread", 0), None);
    assert_eq!(scene.committed("t", 0), Some(5));

    let mut scene = Scene::new();
    scene.commit(nobody(), &[("t", 0, 5)]).unwrap();
    scene.pass(RETENTION / 2);
    scene.commit(nobody(), &[("t", 1, 5)]).unwrap();
    scene.pass(RETENTION / 2 + Duration::from_mins(10));
    assert_eq!(scene.committed("t", 0), None);
    assert_eq!(scene.committed("t", 1), Some(5));
}

/// An old client may say itself how long its offset is to be kept.
#[test]
fn a_client_may_say_how_long_to_keep_an_offset() {
    let mut scene = Scene::new();
    let expire_ms = Some(scene.times.wall_ms + 1000);
    let committed = Committed { offset: 5, expire_ms, ..Default::default() };
    scene.ask(Request::Commit(Commit {
        group: GROUP.into(),
        who: nobody(),
        unknown_group: ErrorCode::IllegalGeneration,
        knows_epochs: true,
        offsets: vec![("t".into(), 0, committed)],
    }));
    assert_eq!(scene.committed("t", 0), Some(5));
    scene.pass(Duration::from_mins(10));
    assert_eq!(scene.committed("t", 0), None);
}

/// A group with members cannot be deleted; one without is gone with its offsets, for good.
#[test]
fn a_group_is_deleted_when_nobody_is_in_it() {
    let (mut scene, clients) = Scene::stable(1);
    scene.commit(who(&clients[0].id(), 1), &[("t", 0, 5)]).unwrap();
    let refused = scene.delete();
    assert!(matches!(scene.reply(refused), Reply::Deleted(ErrorCode::NonEmptyGroup)));
    scene.leave(&[(&clients[0].id(), None)]);
    let deleted = scene.delete();
    assert!(matches!(scene.reply(deleted), Reply::Deleted(ErrorCode::None)));
    for _ in 0..2 {
        assert_eq!(scene.committed("t", 0), None);
        assert_eq!(scene.coordinator.count(), 0);
        assert_eq!(scene.coordinator.bytes(), 0);
        scene.crash();
    }
}

/// Single offsets are deleted of topics that the members do not read (KIP-496).
#[test]
fn offsets_are_deleted_of_topics_nobody_reads() {
    let (mut scene, clients) = Scene::stable(1);
    scene.commit(who(&clients[0].id(), 1), &[("t", 0, 5), ("u", 0, 7)]).unwrap();
    let topics = vec![("t".into(), vec![0]), ("u".into(), vec![0, 1]), ("v".into(), vec![0])];
    let delete = Request::DeleteOffsets(DeleteOffsets { group: GROUP.into(), topics });
    let asked = scene.ask(delete);
    let results = [ErrorCode::GroupSubscribedToTopic, ErrorCode::None, ErrorCode::None];
    assert!(matches!(scene.reply(asked), Reply::OffsetsDeleted(told) if *told == results));
    assert_eq!(scene.committed("t", 0), Some(5));
    assert_eq!(scene.committed("u", 0), None);
}

/// A group that is no group of consumers says nothing about topics: its offsets stay while it has
/// members.
#[test]
fn offsets_of_other_kinds_of_groups_are_not_deleted_under_their_members() {
    let mut scene = Scene::new();
    let mut client = Client::new();
    client.join.protocol_type = "connect".into();
    scene.stabilize(&mut [client]);
    let topics = vec![("t".into(), vec![0])];
    let delete = Request::DeleteOffsets(DeleteOffsets { group: GROUP.into(), topics });
    let asked = scene.ask(delete);
    assert!(matches!(scene.reply(asked), Reply::Refused(ErrorCode::NonEmptyGroup)));
}

/// Offsets go with their topic: a new topic of the same name begins without any, also if the
/// coordinator crashed before it could say so.
#[test]
fn offsets_go_with_their_topic() {
    let mut scene = Scene::new();
    scene.commit(nobody(), &[("t", 0, 5), ("u", 0, 7)]).unwrap();
    let before = scene.log.clone();
    let now = Now { times: scene.times, image: &scene.image };
    scene.coordinator.coordinator.topic_deleted(&"t".into(), now);
    scene.write();
    assert_eq!(scene.committed("t", 0), None);
    assert_eq!(scene.committed("u", 0), Some(7));

    scene.coordinator = Logged::new(Coordinator::new(Arc::new(rules()), 9), 1 << 30);
    before.into_iter().for_each(|record| scene.coordinator.replay(record));
    let mut image = Image::default();
    add_topic(&mut image, 2, "u", 4);
    scene.coordinator.loaded(0, Now { times: scene.times, image: &image });
    scene.write();
    assert_eq!(scene.committed("t", 0), None);
    assert_eq!(scene.committed("u", 0), Some(7));
}
