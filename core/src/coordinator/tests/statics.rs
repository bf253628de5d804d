//! Static members (KIP-345): a client that restarts finds its place again.

use super::*;

/// Two static members that share a group, the first one leading.
fn two() -> (Scene, [Client; 2]) {
    let clients = [Client::with_instance("one"), Client::with_instance("two")];
    two_with(rules(), clients)
}

fn two_with(rules: Rules, mut clients: [Client; 2]) -> (Scene, [Client; 2]) {
    let mut scene = Scene::with(rules);
    let asked: Vec<Asked> = clients.iter().map(|client| scene.join(client)).collect();
    scene.pass(2 * DELAY);
    for (client, asked) in clients.iter_mut().zip(&asked) {
        client.join.member = Arc::clone(&scene.joined(*asked).member);
    }
    let (one, two) = (clients[0].id(), clients[1].id());
    scene.sync(asked[1], &[]);
    scene.sync(asked[0], &[(&one, "left"), (&two, "right")]);
    assert_eq!(scene.state(), "Stable");
    (scene, clients)
}

fn restarted(client: &Client) -> Client {
    let mut client = client.clone();
    client.join.member = "".into();
    client
}

fn as_instance(client: &Client, generation: i32) -> Who {
    Who { instance: client.join.instance.clone(), ..who(&client.id(), generation) }
}

/// A static member that comes again gets a new name and keeps its share; nobody else notices.
#[test]
fn a_restart_disturbs_nobody() {
    let (mut scene, clients) = two();
    let asked = scene.join(&restarted(&clients[1]));
    let joined = scene.joined(asked).clone();
    assert_eq!((joined.error, joined.generation), (ErrorCode::None, 1));
    assert_ne!(joined.member, clients[1].id());
    assert_eq!(joined.leader, clients[0].id());
    assert!(joined.members.is_empty() && !joined.skip_assignment);
    let sync = scene.sync(asked, &[]);
    assert_eq!(&scene.synced(sync).assignment[..], b"right");
    assert_eq!(scene.heartbeat(&clients[0].id(), 1), ErrorCode::None);
}

/// A leader that comes again is told that what it shared out stands (KIP-814). Older clients are
/// told of a leader that is not they, or they would share out again.
#[test]
fn a_leader_that_restarts_does_not_share_out_again() {
    let (mut scene, clients) = two();
    let asked = scene.join(&restarted(&clients[0]));
    let joined = scene.joined(asked);
    assert!(joined.skip_assignment);
    assert_eq!((&joined.leader, joined.members.len()), (&joined.member, 2));

    let (mut scene, clients) = two();
    let mut old = restarted(&clients[0]);
    old.join.may_skip_assignment = false;
    let asked = scene.join(&old);
    let joined = scene.joined(asked);
    assert_eq!((&joined.leader, joined.members.len()), (&clients[0].id(), 0));
    assert!(!joined.skip_assignment);
}

/// The name that was replaced is of no use any more: two clients of one instance must not both
/// believe that they have its share.
#[test]
fn the_name_before_is_fenced() {
    let (mut scene, clients) = two();
    let waiting = scene.commit_as(as_instance(&clients[1], 1), &[("t", 0, 1)]);
    assert!(matches!(scene.reply(waiting), Reply::Committed(_)));
    scene.join(&restarted(&clients[1]));

    let who = as_instance(&clients[1], 1);
    let asked = scene.ask(Request::Heartbeat(Heartbeat { group: GROUP.into(), who: who.clone() }));
    assert!(matches!(scene.reply(asked), Reply::Alive(ErrorCode::FencedInstanceId)));
    assert_eq!(scene.commit(who, &[("t", 0, 5)]), Err(ErrorCode::FencedInstanceId));
    let asked = scene.join(&clients[1]);
    assert_eq!(scene.joined(asked).error, ErrorCode::FencedInstanceId);
    let left = scene.leave(&[(&clients[1].id(), Some("two"))]);
    assert_eq!(left, [ErrorCode::FencedInstanceId]);
    assert_eq!(scene.heartbeat(&clients[1].id(), 1), ErrorCode::UnknownMemberId, "unnamed");
}

/// Who waits under the name before is told at once that it was replaced.
#[test]
fn who_waits_under_the_name_before_is_fenced() {
    let (mut scene, clients) = two();
    let waiting = scene.join(&clients[0]);
    assert!(scene.is_waiting(waiting));
    let again = scene.join(&restarted(&clients[0]));
    assert_eq!(scene.joined(waiting).error, ErrorCode::FencedInstanceId);
    scene.join(&clients[1]);
    assert_eq!(scene.joined(again).generation, 2);
}

/// A static member that says something else may keep its name out of a rebalance only if the
/// chosen protocol stays the same.
#[test]
fn a_restart_that_changes_the_protocol_is_a_rebalance() {
    let said = |names: &[&str]| -> Vec<Protocol> {
        names.iter().map(|name| protocol(name, &["t"])).collect()
    };
    let mut scene = Scene::new();
    let mut client = Client::with_instance("one");
    client.join.protocols = said(&["range", "sticky"]);
    let asked = scene.join(&client);
    scene.pass(2 * DELAY);
    scene.sync(asked, &[]);
    assert_eq!(scene.state(), "Stable");
    client.join.protocols = said(&["sticky", "range"]);
    let again = scene.join(&client);
    assert_eq!(scene.joined(again).generation, 2);
    assert_eq!(scene.joined(again).protocol.as_deref(), Some("sticky"));
}

/// A join of a known instance while shares are waited for begins anew: the leader may be sharing
/// out to the name before.
#[test]
fn a_restart_while_shares_are_waited_for_begins_a_new_round() {
    let mut scene = Scene::new();
    let client = Client::with_instance("one");
    let asked = scene.join(&client);
    scene.pass(2 * DELAY);
    assert_eq!(scene.joined(asked).generation, 1);
    let again = scene.join(&client);
    assert_eq!(scene.joined(again).generation, 2);
}

/// No rebalance waits out a static member: it is restarting, and goes only with its session.
#[test]
fn a_static_member_stays_while_its_session_lasts() {
    let mut scene = Scene::new();
    let mut slow = Client::with_instance("slow");
    slow.join.session_timeout = Duration::from_mins(5);
    let mut quick = Client::new();
    let asked = [scene.join(&slow), scene.join_named(&mut quick)];
    scene.pass(2 * DELAY);
    scene.sync(asked[1], &[]);
    scene.sync(asked[0], &[]);

    let again = scene.join_named(&mut Client::new());
    scene.join(&quick);
    scene.pass(REBALANCE);
    assert_eq!(scene.joined(again).generation, 2, "the round ends without it");
    assert_eq!(scene.describe().members.len(), 3, "but it is still a member");
}

/// Tools remove a static member by the name it has across restarts (KIP-345).
#[test]
fn a_static_member_is_removed_by_its_instance() {
    let (mut scene, clients) = two();
    assert_eq!(scene.leave(&[("", Some("three"))]), [ErrorCode::UnknownMemberId]);
    assert_eq!(scene.leave(&[("", None)]), [ErrorCode::UnknownMemberId]);
    assert_eq!(scene.leave(&[("", Some("two"))]), [ErrorCode::None]);
    assert_eq!(scene.heartbeat(&clients[0].id(), 1), ErrorCode::RebalanceInProgress);
}

/// The new name outlives a crash of the coordinator, and so does the fence.
#[test]
fn the_new_name_survives_a_crash() {
    let (mut scene, clients) = two();
    let asked = scene.join(&restarted(&clients[1]));
    let new = Arc::clone(&scene.joined(asked).member);
    scene.crash();
    assert_eq!(scene.heartbeat(&new, 1), ErrorCode::None);
    let who = as_instance(&clients[1], 1);
    assert_eq!(scene.commit(who, &[("t", 0, 5)]), Err(ErrorCode::FencedInstanceId));
}

/// A name that was given to a dynamic member does not let its client in as an instance that is
/// there: both would believe that they have its share.
#[test]
fn a_name_given_out_takes_no_static_members_place() {
    let (mut scene, clients) = two();
    let named = scene.join(&Client::new());
    let mut intruder = Client::with_instance("two");
    intruder.join.member = Arc::clone(&scene.joined(named).member);
    let asked = scene.join(&intruder);
    assert_eq!(scene.joined(asked).error, ErrorCode::FencedInstanceId);
    assert_eq!(scene.heartbeat(&clients[1].id(), 1), ErrorCode::None);
    intruder.join.instance = Some("three".into());
    let asked = scene.join(&intruder);
    assert_eq!(scene.joined(asked).error, ErrorCode::UnknownMemberId);
}

/// What a static member says when it comes again takes the place of what it said before: it is not
/// counted twice, and may not grow beyond what fits a record.
#[test]
fn a_static_member_that_restarts_counts_once() {
    let metadata = |client: &Client, bytes| {
        let mut client = client.clone();
        client.join.protocols[0].metadata = Bytes::from(vec![0; bytes]);
        client
    };
    let clients = ["one", "two"].map(|name| metadata(&Client::with_instance(name), 2000));
    let (mut scene, clients) = two_with(Rules { record_bytes_max: 5500, ..rules() }, clients);
    let asked = scene.join(&metadata(&restarted(&clients[1]), 3500));
    assert_eq!(scene.joined(asked).error, ErrorCode::GroupMaxSizeReached);
    assert_eq!(scene.heartbeat(&clients[0].id(), 1), ErrorCode::None, "nobody notices");
    let asked = scene.join(&restarted(&clients[1]));
    assert_eq!(scene.joined(asked).error, ErrorCode::None);
}
