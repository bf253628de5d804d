//! How members come together, and how they part.

use super::*;

/// A client that has no name is given one and must come again under it, so that a lost answer
/// leaves no member behind (KIP-394).
#[test]
fn a_new_member_must_come_again_under_its_name() {
    let mut scene = Scene::new();
    let mut client = Client::new();
    let asked = scene.join(&client);
    let told = scene.joined(asked).clone();
    assert_eq!((told.error, told.generation), (ErrorCode::MemberIdRequired, -1));
    assert!(told.member.starts_with("client-"));

    client.join.member = told.member;
    let asked = scene.join(&client);
    assert!(scene.is_waiting(asked), "the first members of a group wait for others");
    scene.pass(DELAY);
    let joined = scene.joined(asked);
    assert_eq!((joined.error, joined.generation), (ErrorCode::None, 1));
    assert_eq!(joined.leader, client.id());
    assert_eq!(joined.members.len(), 1);
    assert_eq!(joined.protocol.as_deref(), Some("range"));
}

/// Clients from before KIP-394 are let in at once.
#[test]
fn an_old_client_is_let_in_without_a_name() {
    let mut scene = Scene::new();
    let mut client = Client::new();
    client.join.needs_member_id = false;
    let asked = scene.join(&client);
    scene.pass(DELAY);
    let joined = scene.joined(asked);
    assert_eq!((joined.error, joined.generation), (ErrorCode::None, 1));
    assert!(!joined.member.is_empty());
}

/// A name that was given out and never used is forgotten with its session.
#[test]
fn a_name_that_does_not_come_again_is_forgotten() {
    let mut scene = Scene::new();
    let mut client = Client::new();
    let asked = scene.join(&client);
    client.join.member = Arc::clone(&scene.joined(asked).member);
    scene.pass(SESSION);
    assert_eq!(scene.coordinator.count(), 0, "and the group with it");
    let asked = scene.join(&client);
    assert_eq!(scene.joined(asked).error, ErrorCode::UnknownMemberId);
}

/// The first round waits as long as somebody new comes (KIP-134), but not beyond the time that
/// members have to come back.
#[test]
fn the_first_round_waits_while_members_come() {
    let mut scene = Scene::new();
    let mut first = Client::new();
    let asked = scene.join_named(&mut first);
    scene.pass(DELAY - Duration::from_millis(1));
    let second = scene.join_named(&mut Client::new());
    scene.pass(DELAY);
    assert!(scene.is_waiting(asked), "somebody came");
    scene.pass(DELAY);
    assert_eq!(scene.joined(asked).generation, 1);
    assert_eq!(scene.joined(second).generation, 1);

    let mut scene = Scene::new();
    let asked = scene.join_named(&mut first.clone_unnamed());
    let mut passed = Duration::ZERO;
    while scene.is_waiting(asked) {
        scene.join_named(&mut Client::new());
        scene.pass(DELAY / 2);
        passed += DELAY / 2;
        assert!(passed <= REBALANCE + DELAY, "it ends although members come");
    }
    assert!(REBALANCE <= passed);
}

/// All get the same generation; the leader alone is told who is there.
#[test]
fn members_come_together_and_share_out() {
    let mut scene = Scene::new();
    let (mut a, mut b) = (Client::new(), Client::new());
    let (first, second) = (scene.join_named(&mut a), scene.join_named(&mut b));
    scene.pass(2 * DELAY);
    let leader = scene.joined(first).clone();
    assert_eq!((leader.leader.clone(), leader.members.len()), (a.id(), 2));
    let follower = scene.joined(second).clone();
    assert_eq!((follower.leader, follower.members.len()), (a.id(), 0));
    assert_eq!(scene.state(), "CompletingRebalance");

    let followed = scene.sync(second, &[]);
    assert!(scene.is_waiting(followed), "its share is not known yet");
    let led = scene.sync(first, &[(&a.id(), "left"), (&b.id(), "right")]);
    assert_eq!(&scene.synced(led).assignment[..], b"left");
    assert_eq!(&scene.synced(followed).assignment[..], b"right");
    assert_eq!(scene.synced(followed).protocol.as_deref(), Some("range"));
    let description = scene.describe();
    assert_eq!((description.state, &*description.protocol), ("Stable", "range"));
    assert_eq!(&description.members[0].client_host[..], "/host");
    let again = scene.sync(second, &[]);
    assert_eq!(&scene.synced(again).assignment[..], b"right", "a stable group tells it again");
}

/// Who comes later makes everybody come again; heartbeats say so, and keep the session alive.
#[test]
fn a_newcomer_makes_everybody_join_again() {
    let (mut scene, clients) = Scene::stable(2);
    assert_eq!(scene.heartbeat(&clients[0].id(), 1), ErrorCode::None);
    let newcomer = scene.join_named(&mut Client::new());
    assert_eq!(scene.state(), "PreparingRebalance");
    for _ in 0..3 {
        scene.pass(SESSION - Duration::from_secs(1));
        for client in &clients {
            let told = scene.heartbeat(&client.id(), 1);
            assert_eq!(told, ErrorCode::RebalanceInProgress);
        }
    }
    let again: Vec<Asked> = clients.iter().map(|client| scene.join(client)).collect();
    assert_eq!(scene.joined(newcomer).generation, 2);
    assert!(again.iter().all(|asked| scene.joined(*asked).generation == 2));
    assert_eq!(scene.heartbeat(&clients[0].id(), 1), ErrorCode::IllegalGeneration);
    assert_eq!(
        scene.heartbeat(&clients[0].id(), 2),
        ErrorCode::None,
        "while shares are waited for"
    );
}

/// The time to come back is over: who has not come is out, and the others go on.
#[test]
fn who_does_not_come_back_in_time_is_out() {
    let (mut scene, clients) = Scene::stable(3);
    let leader = scene.join(&clients[0]);
    let other = scene.join(&clients[1]);
    for _ in 0..9 {
        scene.pass(SESSION - Duration::from_secs(1));
        scene.heartbeat(&clients[2].id(), 1);
    }
    assert_eq!(scene.joined(leader).generation, 2);
    assert_eq!(scene.joined(leader).members.len(), 2);
    assert_eq!(scene.joined(other).generation, 2);
    assert_eq!(scene.heartbeat(&clients[2].id(), 1), ErrorCode::UnknownMemberId);
}

/// All wait for as long as the slowest of them may take to come back.
#[test]
fn the_slowest_member_says_how_long_is_waited() {
    let mut scene = Scene::new();
    let mut clients = [Client::new(), Client::new()];
    clients[1].join.rebalance_timeout = 3 * REBALANCE;
    scene.stabilize(&mut clients);
    let asked = scene.join(&clients[0]);
    let mut passed = Duration::ZERO;
    while scene.is_waiting(asked) {
        let step = SESSION - Duration::from_secs(1);
        scene.pass(step);
        passed += step;
        scene.heartbeat(&clients[1].id(), 1);
    }
    assert!((3 * REBALANCE..3 * REBALANCE + SESSION).contains(&passed), "{passed:?}");
    assert_eq!(scene.joined(asked).members.len(), 1);
}

/// A leader that does not come back in time is replaced by one that did.
#[test]
fn another_member_leads_if_the_leader_does_not_come() {
    let (mut scene, clients) = Scene::stable(2);
    let newcomer = scene.join_named(&mut clients[0].clone_unnamed());
    let asked = scene.join(&clients[1]);
    for _ in 0..9 {
        scene.pass(SESSION - Duration::from_secs(1));
        scene.heartbeat(&clients[0].id(), 1);
    }
    let leader = scene.joined(asked).leader.clone();
    assert_ne!(leader, clients[0].id());
    let of_leader = if leader == clients[1].id() { asked } else { newcomer };
    assert_eq!(scene.joined(of_leader).members.len(), 2);
}

/// Silence beyond the session is taken for death, and the others share out anew.
#[test]
fn a_silent_member_is_out_after_its_session() {
    let (mut scene, clients) = Scene::stable(2);
    scene.pass(SESSION - Duration::from_millis(1));
    assert_eq!(scene.heartbeat(&clients[0].id(), 1), ErrorCode::None);
    scene.pass(Duration::from_millis(1));
    assert_eq!(scene.heartbeat(&clients[0].id(), 1), ErrorCode::RebalanceInProgress);
    assert_eq!(scene.heartbeat(&clients[1].id(), 1), ErrorCode::UnknownMemberId);
}

/// Waiting is no silence: a member whose join or sync is parked is not taken for dead.
#[test]
fn a_member_that_is_kept_waiting_does_not_die() {
    let mut scene = Scene::new();
    let mut clients = [Client::new(), Client::new()];
    let asked: Vec<Asked> = clients.iter_mut().map(|client| scene.join_named(client)).collect();
    scene.pass(2 * DELAY);
    let sync = scene.sync(asked[1], &[]);
    for _ in 0..4 {
        scene.pass(SESSION - Duration::from_secs(1));
        assert_eq!(scene.heartbeat(&clients[0].id(), 1), ErrorCode::None);
    }
    assert!(scene.is_waiting(sync));
    scene.sync(asked[0], &[(&clients[1].id(), "all")]);
    assert_eq!(&scene.synced(sync).assignment[..], b"all");
    scene.pass(SESSION - Duration::from_millis(1));
    assert_eq!(scene.heartbeat(&clients[1].id(), 1), ErrorCode::None, "its session begins anew");
}

/// A join of somebody new that nobody answers for long is given up: its client may be gone, and
/// is not seen to be.
#[test]
fn a_new_member_waits_only_so_long_for_the_others() {
    let mut patient = Client::new();
    patient.join.rebalance_timeout = Duration::from_hours(1);
    patient.join.session_timeout = Duration::from_mins(30);
    let mut scene = Scene::new();
    let mut clients = [patient.clone(), patient.clone()];
    scene.stabilize(&mut clients);
    let newcomer = scene.join_named(&mut patient);
    scene.pass(Duration::from_mins(5));
    let told = scene.joined(newcomer);
    assert_eq!((told.error, &*told.member), (ErrorCode::UnknownMemberId, ""));
}

/// Leaving makes the others share out at once; the last one leaves an empty group.
#[test]
fn a_member_that_leaves_is_gone_at_once() {
    let (mut scene, clients) = Scene::stable(2);
    assert_eq!(scene.leave(&[(&clients[0].id(), None)]), [ErrorCode::None]);
    assert_eq!(scene.heartbeat(&clients[1].id(), 1), ErrorCode::RebalanceInProgress);
    let asked = scene.join(&clients[1]);
    assert_eq!(scene.joined(asked).leader, clients[1].id());
    assert_eq!(scene.leave(&[(&clients[1].id(), None)]), [ErrorCode::None]);
    assert_eq!(scene.state(), "Empty");
    assert_eq!(scene.leave(&[(&clients[1].id(), None)]), [ErrorCode::UnknownMemberId]);
}

/// Several members may leave in one request, and each is told of itself (KIP-345).
#[test]
fn many_leave_in_one_request() {
    let (mut scene, clients) = Scene::stable(3);
    let named = scene.join(&Client::new());
    let pending = Arc::clone(&scene.joined(named).member);
    let left = scene.leave(&[
        (&clients[0].id(), None),
        ("stranger", None),
        (&pending, None),
        (&clients[1].id(), None),
    ]);
    let unknown = ErrorCode::UnknownMemberId;
    assert_eq!(left, [ErrorCode::None, unknown, ErrorCode::None, ErrorCode::None]);
}

/// A leader that does not share out holds up nobody for ever: who did not ask for its share is
/// out, and a new round begins.
#[test]
fn a_leader_that_does_not_share_out_is_replaced() {
    let mut scene = Scene::new();
    let mut clients = [Client::new(), Client::new()];
    let asked: Vec<Asked> = clients.iter_mut().map(|client| scene.join_named(client)).collect();
    scene.pass(2 * DELAY);
    let sync = scene.sync(asked[1], &[]);
    while scene.is_waiting(sync) {
        scene.pass(SESSION - Duration::from_secs(1));
        scene.heartbeat(&clients[0].id(), 1);
    }
    assert_eq!(scene.synced(sync).error, ErrorCode::RebalanceInProgress);
    assert_eq!(scene.heartbeat(&clients[0].id(), 1), ErrorCode::UnknownMemberId);
    let again = scene.join(&clients[1]);
    assert_eq!(scene.joined(again).leader, clients[1].id());
    assert_eq!(scene.joined(again).generation, 2);
}

/// A join during the wait for shares ends that wait: shares were to be made for others.
#[test]
fn a_join_ends_the_wait_for_shares() {
    let mut scene = Scene::new();
    let mut clients = [Client::new(), Client::new()];
    let asked: Vec<Asked> = clients.iter_mut().map(|client| scene.join_named(client)).collect();
    scene.pass(2 * DELAY);
    let sync = scene.sync(asked[1], &[]);
    scene.join_named(&mut Client::new());
    assert_eq!(scene.synced(sync).error, ErrorCode::RebalanceInProgress);
    let late = scene.sync(asked[0], &[(&clients[0].id(), "all")]);
    assert_eq!(scene.synced(late).error, ErrorCode::RebalanceInProgress);
}

/// A follower that says nothing new is told what it may have missed; a leader, or whoever says
/// something else, makes everybody share out anew.
#[test]
fn joining_again_means_different_things() {
    let (mut scene, mut clients) = Scene::stable(2);
    let again = scene.join(&clients[1]);
    assert_eq!(scene.joined(again).generation, 1, "nothing has changed");
    assert_eq!(scene.state(), "Stable");
    clients[1].join.protocols = vec![protocol("range", &["t", "u"])];
    scene.join(&clients[1]);
    assert_eq!(scene.state(), "PreparingRebalance");

    let (mut scene, clients) = Scene::stable(2);
    scene.join(&clients[0]);
    assert_eq!(scene.state(), "PreparingRebalance", "topics have changed, say");
}

/// The same join once more while shares are waited for: the first answer was lost, say.
#[test]
fn an_answer_to_a_join_is_given_again() {
    let mut scene = Scene::new();
    let mut clients = [Client::new(), Client::new()];
    let asked: Vec<Asked> = clients.iter_mut().map(|client| scene.join_named(client)).collect();
    scene.pass(2 * DELAY);
    let again = scene.join(&clients[0]);
    assert_eq!(scene.joined(again), scene.joined(asked[0]), "to the leader with all members");
    assert_eq!(scene.state(), "CompletingRebalance");
}

/// A join that its client sends a second time takes the place of the first.
#[test]
fn the_second_join_of_a_member_replaces_the_first() {
    let (mut scene, clients) = Scene::stable(2);
    let first = scene.join(&clients[0]);
    let second = scene.join(&clients[0]);
    assert_eq!(scene.joined(first).error, ErrorCode::RebalanceInProgress);
    assert!(scene.is_waiting(second));
    scene.join(&clients[1]);
    assert_eq!(scene.joined(second).generation, 2);
}

/// The protocol is one that all can work with, and of those the one most like best.
#[test]
fn members_agree_on_a_protocol() {
    let said = |names: &[&str]| names.iter().map(|name| protocol(name, &["t"])).collect();
    let mut scene = Scene::new();
    let mut clients = [
        Client::with_protocols(said(&["sticky", "range"])),
        Client::with_protocols(said(&["range", "sticky", "own"])),
        Client::with_protocols(said(&["range", "sticky"])),
    ];
    let asked: Vec<Asked> = clients.iter_mut().map(|client| scene.join_named(client)).collect();
    let stranger = scene.join(&Client::with_protocols(said(&["own"])));
    assert_eq!(scene.joined(stranger).error, ErrorCode::InconsistentGroupProtocol);
    let mut connect = Client::with_protocols(said(&["range"]));
    connect.join.protocol_type = "connect".into();
    let connect = scene.join(&connect);
    assert_eq!(scene.joined(connect).error, ErrorCode::InconsistentGroupProtocol);
    scene.pass(2 * DELAY);
    assert_eq!(scene.joined(asked[0]).protocol.as_deref(), Some("range"));

    let sync = scene.ask(Request::Sync(Box::new(Sync {
        group: GROUP.into(),
        who: who(&clients[0].id(), 1),
        protocol_type: Some("consumer".into()),
        protocol: Some("sticky".into()),
        assignments: Vec::new(),
    })));
    assert_eq!(scene.synced(sync).error, ErrorCode::InconsistentGroupProtocol);
}

/// Somebody who can work with nothing, or says of no kind what it is, is let into no group.
#[test]
fn a_member_without_a_protocol_is_refused() {
    let mut scene = Scene::new();
    let asked = scene.join(&Client::with_protocols(Vec::new()));
    assert_eq!(scene.joined(asked).error, ErrorCode::InconsistentGroupProtocol);
    let mut client = Client::new();
    client.join.protocol_type = "".into();
    let asked = scene.join(&client);
    assert_eq!(scene.joined(asked).error, ErrorCode::InconsistentGroupProtocol);
    assert_eq!(scene.coordinator.count(), 0);
}

/// A group takes so many members and no more; those that are in it stay.
#[test]
fn a_full_group_takes_nobody_new() {
    let mut scene = Scene::with(Rules { members_max: 2, ..rules() });
    let mut clients = [Client::new(), Client::new()];
    scene.stabilize(&mut clients);
    let asked = scene.join(&Client::new());
    assert_eq!(scene.joined(asked).error, ErrorCode::GroupMaxSizeReached);
    assert_eq!(scene.heartbeat(&clients[0].id(), 1), ErrorCode::None);
    let again = scene.join(&clients[1]);
    assert_eq!(scene.joined(again).error, ErrorCode::None);

    let mut scene = Scene::with(Rules { members_max: 2, ..rules() });
    for _ in 0..2 {
        let asked = scene.join(&Client::new());
        assert_eq!(scene.joined(asked).error, ErrorCode::MemberIdRequired);
    }
    let asked = scene.join(&Client::new());
    let told = scene.joined(asked).error;
    assert_eq!(told, ErrorCode::GroupMaxSizeReached, "names are not given out without end either");
}

/// What members say is bounded together, as it goes into one record.
#[test]
fn a_group_whose_record_would_be_too_large_takes_nobody_new() {
    let mut scene = Scene::with(Rules { record_bytes_max: 3000, ..rules() });
    let mut loud = Client::new();
    loud.join.protocols[0].metadata = Bytes::from(vec![0; 1500]);
    scene.stabilize(&mut [loud.clone()]);
    let asked = scene.join(&loud);
    assert_eq!(scene.joined(asked).error, ErrorCode::GroupMaxSizeReached);
}

/// Only new members were held to that bound: one that joined again could say anything, and then no
/// share of the group could be written any more.
#[test]
fn a_member_that_joins_again_is_held_to_the_bound_too() {
    let mut scene = Scene::with(Rules { record_bytes_max: 3000, ..rules() });
    let mut clients = [Client::new()];
    scene.stabilize(&mut clients);
    let [client] = &clients;
    let said = |bytes| {
        let mut client = client.clone();
        client.join.protocols[0].metadata = Bytes::from(vec![0; bytes]);
        client
    };
    let asked = scene.join(&said(3000));
    assert_eq!(scene.joined(asked).error, ErrorCode::GroupMaxSizeReached);
    assert_eq!(scene.heartbeat(&client.id(), 1), ErrorCode::None, "it stays what it was");
    assert_eq!(scene.state(), "Stable");
    let asked = scene.join(&said(1500));
    assert_eq!(scene.joined(asked).error, ErrorCode::None);
}

/// Shares that would not fit a record are refused, and nobody is told any.
#[test]
fn shares_that_are_too_large_are_refused() {
    let mut scene = Scene::with(Rules { record_bytes_max: 3000, ..rules() });
    let mut client = Client::new();
    let asked = scene.join_named(&mut client);
    scene.pass(2 * DELAY);
    let large: &'static str = Box::leak("x".repeat(3000).into_boxed_str());
    let sync = scene.sync(asked, &[(&client.id(), large)]);
    assert_eq!(scene.synced(sync).error, ErrorCode::UnknownServerError);
    assert_eq!(scene.state(), "PreparingRebalance");
}

/// Without a group nobody is a member.
#[test]
fn an_unknown_group_knows_nobody() {
    let mut scene = Scene::new();
    let unknown = ErrorCode::UnknownMemberId;
    assert_eq!(scene.heartbeat(&"m".into(), 1), unknown);
    assert_eq!(scene.leave(&[("m", None), ("n", None)]), [unknown, unknown]);
    let sync = scene.sync_as(&"m".into(), 1, &[]);
    assert_eq!(scene.synced(sync).error, unknown);
    let mut client = Client::new();
    client.join.member = "m".into();
    let join = scene.join(&client);
    assert_eq!((scene.joined(join).error, &*scene.joined(join).member), (unknown, "m"));
    let delete = scene.delete();
    assert!(matches!(scene.reply(delete), Reply::Deleted(ErrorCode::GroupIdNotFound)));
    let describe = scene.ask(Request::Describe { group: GROUP.into() });
    assert!(matches!(scene.reply(describe), Reply::Described(None)));
    assert_eq!(scene.coordinator.count(), 0);
}

/// Groups are listed by the states and types asked for, whatever the case.
#[test]
fn groups_are_listed_by_state_and_type() {
    let (mut scene, _) = Scene::stable(1);
    let mut list = |states: &[&str], types: &[&str]| {
        let owned = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
        let list = List { states: owned(states), types: owned(types) };
        let asked = scene.ask(Request::List(list));
        match scene.reply(asked) {
            Reply::Listed(listed) => listed.clone(),
            other => panic!("{other:?}"),
        }
    };
    let all = list(&[], &[]);
    assert_eq!((&*all[0].group, &*all[0].protocol_type), (GROUP, "consumer"));
    assert_eq!((all[0].state, all[0].kind), ("Stable", "classic"));
    assert_eq!(list(&["empty", "stable"], &["classic"]), all);
    assert_eq!(list(&["Empty"], &[]), []);
    assert_eq!(list(&[], &["consumer"]), []);
}

impl Client {
    fn clone_unnamed(&self) -> Self {
        let mut client = self.clone();
        client.join.member = "".into();
        client
    }
}
