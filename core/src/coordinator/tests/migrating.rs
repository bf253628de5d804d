//! A group changes its kind under its members (KIP-848): at no time do two of them read the same
//! partition, and no offset and no generation goes back.

use std::collections::BTreeSet;

use tidemill_net::kafka::consumer_protocol::{Assignment, Subscription};
use tidemill_net::kafka::topic_partitions::TopicPartitions;

use super::consuming::Reader;
use super::*;
use crate::coordinator::assignment::Partitions;
use crate::coordinator::request::ConsumerHeartbeat;

/// A classic member as its client keeps it.
#[derive(Clone, Debug)]
struct Older {
    join: Join,
    /// It gives up only what it is told to (KIP-429).
    keeps: bool,
    /// What it likes best, if that is not what members like usually.
    assignor: Option<&'static str>,
    /// It says that it likes the other protocol best.
    likes_own: bool,
    /// What it was told that the group works with.
    protocol: Option<Arc<str>>,
    generation: i32,
    owned: BTreeSet<i32>,
}

fn partitions(numbers: &BTreeSet<i32>) -> Vec<TopicPartitions> {
    let topic =
        TopicPartitions { topic: "t".to_owned(), partitions: numbers.iter().copied().collect() };
    Some(topic).filter(|topic| !topic.partitions.is_empty()).into_iter().collect()
}

impl Older {
    fn new(keeps: bool, instance: Option<&str>) -> Self {
        let mut join = Client::new().join;
        join.instance = instance.map(Arc::from);
        Self {
            join,
            keeps,
            assignor: None,
            likes_own: false,
            protocol: None,
            generation: -1,
            owned: BTreeSet::new(),
        }
    }

    /// A join as it would send it now.
    fn joins(&self) -> Join {
        let said = Subscription {
            topics: vec!["t".to_owned()],
            owned_partitions: partitions(&self.owned),
            generation_id: self.generation,
            ..Subscription::default()
        };
        let metadata = said.encode(if self.keeps { 3 } else { 0 });
        let usual = if self.keeps { "cooperative-sticky" } else { "range" };
        let name = self.assignor.unwrap_or(usual);
        let protocol = |name: &str| Protocol { name: name.into(), metadata: metadata.clone() };
        let mut protocols = vec![protocol(name), protocol("own")];
        if self.likes_own {
            protocols.reverse();
        }
        Join { protocols, ..self.join.clone() }
    }

    fn owns(&self) -> Vec<i32> {
        self.owned.iter().copied().collect()
    }
}

impl Scene {
    /// So many members of a classic group that share `t`.
    fn of_older(rules: Rules, mut members: Vec<Older>) -> (Self, Vec<Older>) {
        let mut scene = Self::with(rules);
        scene.share_among(&mut members);
        (scene, members)
    }

    /// All join, and the leader shares out, as in any classic group.
    fn share_among(&mut self, members: &mut [Older]) {
        let mut joining = Vec::new();
        for member in members.iter_mut() {
            if !member.keeps {
                member.owned.clear();
            }
            let mut asked = self.ask(Request::Join(Box::new(member.joins())));
            let named = ErrorCode::MemberIdRequired;
            if !self.is_waiting(asked) && self.joined(asked).error == named {
                member.join.member = self.joined(asked).member.clone();
                asked = self.ask(Request::Join(Box::new(member.joins())));
            }
            joining.push(asked);
        }
        self.pass(2 * DELAY);
        let each = 4 / members.len() as i32;
        let mut assignments = Vec::new();
        for (number, (member, asked)) in (0..).zip(members.iter_mut().zip(joining)) {
            let joined = self.joined(asked).clone();
            assert_eq!(joined.error, ErrorCode::None);
            (member.join.member, member.generation) = (joined.member, joined.generation);
            member.protocol = joined.protocol;
            member.owned = (number * each..(number + 1) * each).collect();
            let share =
                Assignment { assigned_partitions: partitions(&member.owned), user_data: None };
            assignments.push((member.join.member.clone(), share.encode(0)));
        }
        for member in members.iter() {
            self.sync_older(member, &assignments);
        }
        assert_eq!(self.state(), "Stable");
    }

    fn sync_older(&mut self, member: &Older, assignments: &[(MemberId, Bytes)]) -> Asked {
        let instance = member.join.instance.clone();
        self.ask(Request::Sync(Box::new(Sync {
            group: GROUP.into(),
            who: Who { instance, ..who(&member.join.member, member.generation) },
            protocol_type: Some("consumer".into()),
            protocol: member.protocol.clone(),
            assignments: assignments.to_vec(),
        })))
    }

    fn beat_older(&mut self, member: &Older) -> ErrorCode {
        let instance = member.join.instance.clone();
        let who = Who { instance, ..who(&member.join.member, member.generation) };
        let asked = self.ask(Request::Heartbeat(Heartbeat { group: GROUP.into(), who }));
        match self.reply(asked) {
            Reply::Alive(error) => *error,
            other => panic!("{other:?}"),
        }
    }

    /// Joins a group in which the broker shares out, and reads what it is told to.
    fn rejoin(&mut self, member: &mut Older) -> Joined {
        if !member.keeps {
            member.owned.clear();
        }
        let asked = self.ask(Request::Join(Box::new(member.joins())));
        let joined = self.joined(asked).clone();
        if joined.error != ErrorCode::None {
            return joined;
        }
        assert!(joined.leader.is_empty() && joined.members.is_empty(), "the broker shares out");
        (member.join.member, member.generation) = (joined.member.clone(), joined.generation);
        member.protocol.clone_from(&joined.protocol);
        let asked = self.sync_older(member, &[]);
        let synced = self.synced(asked);
        assert_eq!(synced.error, ErrorCode::None);
        let share = Assignment::decode(&synced.assignment).unwrap().assigned_partitions;
        member.owned = share.into_iter().flat_map(|topic| topic.partitions).collect();
        joined
    }

    /// A heartbeat of a classic member, and what it does upon the answer.
    fn live_older(&mut self, member: &mut Older) {
        match self.beat_older(member) {
            ErrorCode::None => {}
            ErrorCode::RebalanceInProgress => {
                assert_eq!(self.rejoin(member).error, ErrorCode::None);
            }
            error => panic!("{error:?}"),
        }
    }

    /// All of both kinds go on until each has its share of a mixed group.
    fn settle_mixed(&mut self, older: &mut [Older], newer: &mut [Reader]) {
        for _ in 0..8 {
            for index in 0..older.len() {
                self.live_older(&mut older[index]);
                self.demand_one_owner(older, newer);
            }
            for index in 0..newer.len() {
                self.live(&mut newer[index]).unwrap();
                self.demand_one_owner(older, newer);
            }
        }
        assert_eq!(self.describe_consumer().state, "Stable");
        let all = older.iter().map(Older::owns).chain(newer.iter().map(Reader::owns));
        let count = self.image.topic(TopicId([1; 16])).unwrap().partitions.len() as i32;
        assert_eq!(all.flatten().collect::<BTreeSet<i32>>(), (0..count).collect());
    }

    fn demand_one_owner(&self, older: &[Older], newer: &[Reader]) {
        let all = older.iter().map(Older::owns).chain(newer.iter().map(Reader::owns));
        let mut seen = BTreeSet::new();
        for number in all.flatten() {
            assert!(seen.insert(number), "two members read partition {number}");
        }
    }

    fn leaves(&mut self, reader: &Reader) {
        self.beat(ConsumerHeartbeat { epoch: -1, ..reader.says_little() }).unwrap();
    }

    /// What is remembered, as it would be written anew.
    fn remembered(&self) -> Vec<Record> {
        remembered(&self.coordinator.coordinator)
    }
}

fn remembered(coordinator: &Coordinator) -> Vec<Record> {
    coordinator.remembered_after(None).flat_map(|(_, records)| records).collect()
}

fn two(keeps: bool) -> Vec<Older> {
    vec![Older::new(keeps, None), Older::new(keeps, None)]
}

/// The first member that speaks the newer protocol makes the group one of the newer kind. Everybody
/// has its part in the end, whether the others give everything up to join or keep what they may.
#[test]
fn a_group_is_upgraded_by_its_first_newer_member() {
    for keeps in [false, true] {
        let (mut scene, mut older) = Scene::of_older(rules(), two(keeps));
        scene.commit(who(&older[0].join.member, 1), &[("t", 0, 5)]).unwrap();
        let mut newer = [Reader::new("n")];
        scene.live(&mut newer[0]).unwrap();
        assert_eq!(
            (newer[0].epoch, newer[0].owns()),
            (2, vec![]),
            "generation 1 goes on as epoch 2"
        );
        assert_eq!(scene.beat_older(&older[0]), ErrorCode::RebalanceInProgress);
        let late = scene.sync_older(&older[1], &[]);
        assert_eq!(scene.synced(late).error, ErrorCode::RebalanceInProgress);
        // Before it joins it can say how far it has come.
        scene.commit(who(&older[0].join.member, 1), &[("t", 0, 6)]).unwrap();
        scene.settle_mixed(&mut older, &mut newer);
        let (first, second) = (older[0].owns().len(), older[1].owns().len());
        assert_eq!(first + second, 3, "{first} {second}");
        assert_eq!(newer[0].owns().len(), 1);
        scene.commit(who(&older[0].join.member, older[0].generation), &[("t", 0, 7)]).unwrap();
        let stale = scene.commit(who(&older[0].join.member, 0), &[("t", 0, 8)]);
        assert_eq!(stale, Err(ErrorCode::IllegalGeneration), "it had nothing then");
        assert_eq!(scene.committed("t", 0), Some(7));
        let types = scene.describe_consumer().members.into_iter();
        let types: Vec<bool> = types.map(|member| member.wants.classic.is_some()).collect();
        assert_eq!(types.iter().filter(|classic| **classic).count(), 2);
    }
}

/// Whoever waits in a rebalance is told to join again, and finds its place in the new kind of group.
#[test]
fn a_rebalance_is_interrupted_by_an_upgrade() {
    for keeps in [false, true] {
        let (mut scene, mut older) = Scene::of_older(rules(), two(keeps));
        // One more comes, and one of the others has joined again.
        let mut third = Older::new(keeps, None);
        let named = scene.ask(Request::Join(Box::new(third.joins())));
        third.join.member = scene.joined(named).member.clone();
        let joining = scene.ask(Request::Join(Box::new(third.joins())));
        let rejoining = scene.ask(Request::Join(Box::new(older[0].joins())));
        assert!(scene.is_waiting(joining) && scene.is_waiting(rejoining));
        let mut newer = [Reader::new("n")];
        scene.live(&mut newer[0]).unwrap();
        for asked in [joining, rejoining] {
            assert_eq!(scene.joined(asked).error, ErrorCode::RebalanceInProgress);
        }
        assert_eq!(scene.rejoin(&mut third).error, ErrorCode::None);
        older.push(third);
        scene.settle_mixed(&mut older, &mut newer);
        assert!(older.iter().all(|member| member.owns().len() == 1));
    }
}

/// Classic members join and leave a group of the newer kind at any time; the last one leaves a group
/// as if there had never been any.
#[test]
fn classic_members_come_and_go() {
    let (mut scene, mut newer) = Scene::of_readers(1);
    let mut older = [Older::new(true, None)];
    let named = scene.rejoin(&mut older[0]);
    assert_eq!(named.error, ErrorCode::MemberIdRequired);
    older[0].join.member = named.member;
    assert_eq!(scene.rejoin(&mut older[0]).error, ErrorCode::None);
    scene.settle_mixed(&mut older, &mut newer);
    assert_eq!(older[0].owns().len(), 2);

    let told = scene.leave(&[("nobody", None), (&older[0].join.member, None)]);
    let unknown = ErrorCode::UnknownMemberId;
    assert_eq!(told, [unknown, ErrorCode::None]);
    assert_eq!(scene.beat_older(&older[0]), unknown);
    scene.settle_mixed(&mut [], &mut newer);
    assert_eq!(newer[0].owns().len(), 4);
}

/// A classic member cannot share out with others that know none of its protocols; and it must be a
/// consumer.
#[test]
fn a_classic_member_must_suit_the_others() {
    let (mut scene, older) = Scene::of_older(rules(), two(false));
    scene.live(&mut Reader::new("n")).unwrap();
    for (protocol_type, name) in [("consumer", "other"), ("connect", "range")] {
        let mut stranger = Client::with_protocols(vec![protocol(name, &["t"])]);
        stranger.join.protocol_type = protocol_type.into();
        let asked = scene.join(&stranger);
        assert_eq!(scene.joined(asked).error, ErrorCode::InconsistentGroupProtocol);
    }
    let mut unreadable = older[0].joins();
    unreadable.protocols[0].metadata = Bytes::from_static(b"?");
    let asked = scene.ask(Request::Join(Box::new(unreadable)));
    assert_eq!(scene.joined(asked).error, ErrorCode::InconsistentGroupProtocol);
    assert_eq!(scene.beat_older(&older[0]), ErrorCode::RebalanceInProgress, "it is still there");
}

/// A member that is to join, or to sync, and does neither is out after its rebalance timeout, though
/// it says that it lives.
#[test]
fn a_classic_member_that_does_not_join_is_out() {
    for joins in [false, true] {
        let (mut scene, mut older) = Scene::of_older(rules(), two(true));
        let mut newer = [Reader::new("n")];
        scene.live(&mut newer[0]).unwrap();
        assert_eq!(scene.beat_older(&older[0]), ErrorCode::RebalanceInProgress);
        if joins {
            let asked = scene.ask(Request::Join(Box::new(older[0].joins())));
            older[0].generation = scene.joined(asked).generation;
        }
        for _ in 0..10 {
            assert_ne!(scene.beat_older(&older[0]), ErrorCode::UnknownMemberId);
            scene.pass(REBALANCE / 10);
            scene.live(&mut newer[0]).unwrap();
        }
        assert_eq!(scene.beat_older(&older[0]), ErrorCode::UnknownMemberId);
    }
}

/// When the last member that speaks the newer protocol leaves, or falls silent, the others are a
/// classic group again: the generation goes on, offsets stay, and they share out among themselves.
#[test]
fn a_group_is_classic_again_without_newer_members() {
    for leaves in [true, false] {
        let (mut scene, mut older) = Scene::of_older(rules(), two(true));
        let mut newer = [Reader::new("n")];
        scene.live(&mut newer[0]).unwrap();
        scene.settle_mixed(&mut older, &mut newer);
        scene.commit(who("n", newer[0].epoch), &[("t", 3, 9)]).unwrap();
        let generation = older[0].generation;
        if leaves {
            scene.leaves(&newer[0]);
        } else {
            for _ in 0..3 {
                scene.pass(SESSION * 4 / 10);
                for member in &older {
                    scene.beat_older(member);
                }
            }
        }
        assert_eq!(scene.state(), "PreparingRebalance");
        assert_eq!(scene.beat_older(&older[0]), ErrorCode::RebalanceInProgress);
        let gone = scene.beat(newer[0].says_little()).unwrap_err();
        assert_eq!(gone, ErrorCode::UnknownMemberId, "it may join again");
        scene.share_among(&mut older);
        assert_eq!(older[0].generation, generation + 1);
        assert_eq!(scene.committed("t", 3), Some(9));
    }
}

/// A crash when the group is classic again, and has not shared out: what the newer member read would
/// be nobody's. They are told to join again all the same.
#[test]
fn a_crash_after_a_downgrade_does_not_lose_the_rebalance() {
    let (mut scene, mut older) = Scene::of_older(rules(), two(true));
    let mut newer = [Reader::new("n")];
    scene.live(&mut newer[0]).unwrap();
    scene.settle_mixed(&mut older, &mut newer);
    scene.leaves(&newer[0]);
    for _ in 0..2 {
        scene.crash();
        assert_eq!(scene.state(), "PreparingRebalance");
        assert_eq!(scene.beat_older(&older[0]), ErrorCode::RebalanceInProgress);
    }
    scene.share_among(&mut older);
    scene.crash();
    assert_eq!(scene.state(), "Stable");
}

/// Static members that restart one by one with the newer protocol keep their shares, and nobody else
/// notices; so do those that go back.
#[test]
fn static_members_change_their_protocol_one_by_one() {
    let members = vec![Older::new(true, Some("one")), Older::new(true, Some("two"))];
    let (mut scene, mut older) = Scene::of_older(rules(), members);
    let reads =
        |numbers: &[i32]| Partitions::from([(TopicId([1; 16]), numbers.iter().copied().collect())]);
    let mut newer = Vec::new();
    for (index, instance) in ["one", "two"].into_iter().enumerate() {
        let name = format!("n-{instance}");
        let mut reader = Reader { instance: Some(instance.into()), ..Reader::new(&name) };
        scene.live(&mut reader).unwrap();
        assert_eq!(reader.owned, reads(&older[index].owns()));
        assert_eq!(scene.beat_older(&older[index]), ErrorCode::FencedInstanceId);
        newer.push(reader);
        if index == 0 {
            assert_eq!(scene.beat_older(&older[1]), ErrorCode::None, "it notices nothing");
        }
    }
    let epoch = newer[0].epoch;
    for (index, member) in older.iter_mut().enumerate() {
        assert_eq!(scene.describe_consumer().members.len(), 2);
        scene.beat(ConsumerHeartbeat { epoch: -2, ..newer[index].says_little() }).unwrap();
        member.join.member = "".into();
        let before = std::mem::take(&mut member.owned);
        let joined = scene.rejoin(member);
        assert_eq!((joined.error, joined.generation), (ErrorCode::None, epoch));
        assert_eq!(member.owned, before);
    }
    assert_eq!(scene.state(), "Stable", "a classic group, and nobody was disturbed");
    for member in &older {
        assert_eq!(scene.beat_older(member), ErrorCode::None);
    }
    scene.crash();
    for member in &older {
        assert_eq!(scene.beat_older(member), ErrorCode::None);
    }
}

/// A topic had grown, and the leader of a classic group went before it looked. Its next process, which
/// spoke the newer protocol, took its place and its share; the new partitions were read by nobody.
#[test]
fn partitions_that_came_before_an_upgrade_were_read_by_nobody() {
    let (mut scene, _) = Scene::of_older(rules(), vec![Older::new(true, Some("one"))]);
    let grown = metadata::Record::PartitionsAdded {
        topic: TopicId([1; 16]),
        new_count: 6,
        partitions: vec![vec![NodeId(1)]; 2],
    };
    scene.image.replay(&grown).unwrap();
    let mut reader = Reader { instance: Some("one".into()), ..Reader::new("n") };
    for _ in 0..3 {
        scene.live(&mut reader).unwrap();
    }
    assert_eq!(reader.owned[&TopicId([1; 16])].len(), 6);
}

/// Where the policy forbids a change, the newer member is told that there is no such group, and
/// classic members that are left alone are still served by the broker's shares.
#[test]
fn a_policy_may_forbid_either_change() {
    let (mut scene, _) = Scene::of_older(Rules { upgrades: false, ..rules() }, two(false));
    let refused = scene.live(&mut Reader::new("n")).unwrap_err();
    assert_eq!(refused, ErrorCode::GroupIdNotFound);
    assert_eq!(scene.state(), "Stable");

    let no_downgrades = Rules { downgrades: false, ..rules() };
    let (mut scene, mut older) = Scene::of_older(no_downgrades, two(true));
    let mut newer = [Reader::new("n")];
    scene.live(&mut newer[0]).unwrap();
    scene.settle_mixed(&mut older, &mut newer);
    scene.leaves(&newer[0]);
    scene.settle_mixed(&mut older, &mut []);
    assert_eq!(older[0].owns().len(), 2);
    let grown = metadata::Record::PartitionsAdded {
        topic: TopicId([1; 16]),
        new_count: 6,
        partitions: vec![vec![NodeId(1)]; 2],
    };
    scene.image.replay(&grown).unwrap();
    scene.settle_mixed(&mut older, &mut []);
    assert_eq!(older[0].owns().len(), 3, "what is new of a topic is read");
}

/// A generation never comes again, also if nobody was in the group when it changed its kind, and the
/// broker has crashed before it was shared out.
#[test]
fn generations_go_on_in_a_group_that_was_empty() {
    let (mut scene, mut older) = Scene::of_older(rules(), two(false));
    for member in &older {
        scene.leave(&[(&member.join.member, None)]);
    }
    let mut newer = Reader::new("n");
    scene.live(&mut newer).unwrap();
    assert_eq!(newer.epoch, 3, "the empty group was in generation 2");
    scene.leaves(&newer);
    assert_eq!(scene.describe_consumer().epoch, 4);
    scene.rejoin(&mut Older::new(false, None));
    scene.crash();
    older.iter_mut().for_each(|member| member.join.member = "".into());
    scene.share_among(&mut older);
    assert_eq!(older[0].generation, 5);
}

/// Groups that are not of consumers, or whose members say what nobody can read, stay what they are.
#[test]
fn only_groups_of_consumers_are_upgraded() {
    let mut workers = Client::with_protocols(vec![protocol("default", &["t"])]);
    workers.join.protocol_type = "connect".into();
    let unreadable = Protocol { name: "range".into(), metadata: Bytes::from_static(b"?") };
    for client in [workers, Client::with_protocols(vec![unreadable])] {
        let mut scene = Scene::new();
        scene.stabilize(&mut [client]);
        let refused = scene.live(&mut Reader::new("n")).unwrap_err();
        assert_eq!(refused, ErrorCode::GroupIdNotFound);
        assert_eq!(scene.state(), "Stable");
    }
}

/// The bug: a stray consumer took over a group whose leader tells its members more than partitions, as
/// that of Kafka Streams does, and what it had told was lost.
#[test]
fn a_group_whose_leader_tells_more_than_partitions_stays_classic() {
    for (name, is_upgraded) in [("stream", false), ("cooperative-sticky", true)] {
        tells_more(name, is_upgraded);
    }
}

fn tells_more(name: &'static str, is_upgraded: bool) {
    let mut members = two(true);
    members.iter_mut().for_each(|member| member.assignor = Some(name));
    let (mut scene, older) = Scene::of_older(rules(), members);
    let joins: Vec<Asked> =
        older.iter().map(|member| scene.ask(Request::Join(Box::new(member.joins())))).collect();
    let generation = scene.joined(joins[0]).generation;
    let shares = older.iter().map(|member| {
        let user_data = Some(Bytes::from_static(b"tasks"));
        let share = Assignment { assigned_partitions: partitions(&member.owned), user_data };
        (member.join.member.clone(), share.encode(0))
    });
    let shares: Vec<_> = shares.collect();
    for member in &older {
        scene.sync_older(&Older { generation, ..member.clone() }, &shares);
    }
    assert_eq!(scene.state(), "Stable");
    let joined = scene.live(&mut Reader::new("n"));
    if is_upgraded {
        return assert_eq!(joined, Ok(()), "librdkafka's leaders give back what members say");
    }
    assert_eq!(joined, Err(ErrorCode::GroupIdNotFound));
    assert_eq!(scene.state(), "Stable");
}

/// The bug: members that like another protocol best were told that as the group's when the group became
/// classic, and told theirs to SyncGroup: INCONSISTENT_GROUP_PROTOCOL ends a client.
#[test]
fn members_that_like_different_protocols_come_back_from_a_mixed_group() {
    let mut members = vec![Older::new(true, Some("one")), Older::new(true, Some("two"))];
    members[1].likes_own = true;
    let (mut scene, mut older) = Scene::of_older(rules(), members);
    let mut reader = Reader { instance: Some("two".into()), ..Reader::new("n") };
    scene.live(&mut reader).unwrap();
    scene.settle_mixed(&mut older[..1], std::slice::from_mut(&mut reader));
    scene.beat(ConsumerHeartbeat { epoch: -2, ..reader.says_little() }).unwrap();
    older[1].join.member = "".into();
    let asked = scene.ask(Request::Join(Box::new(older[1].joins())));
    let joined = scene.joined(asked).clone();
    assert_eq!(joined.error, ErrorCode::None);
    for member in &mut older {
        if member.join.instance.as_deref() == Some("two") {
            (member.join.member, member.generation) = (joined.member.clone(), joined.generation);
        }
        let asked = scene.sync_older(member, &[]);
        assert_eq!(scene.synced(asked).error, ErrorCode::RebalanceInProgress);
    }
    scene.share_among(&mut older);
}

/// The bug: a member that had been told by JoinGroup what its group had chosen, and said so to SyncGroup
/// when the group was one of the newer kind already, was held to what it likes best itself:
/// INCONSISTENT_GROUP_PROTOCOL ends a client.
#[test]
fn a_member_that_is_between_its_two_steps_survives_the_upgrade() {
    let mut members = two(true);
    members[1].likes_own = true;
    let (mut scene, mut older) = Scene::of_older(rules(), members);
    let joining: Vec<Asked> =
        older.iter().map(|member| scene.ask(Request::Join(Box::new(member.joins())))).collect();
    scene.pass(2 * DELAY);
    for (member, asked) in older.iter_mut().zip(joining) {
        let joined = scene.joined(asked).clone();
        assert_eq!(joined.error, ErrorCode::None);
        (member.generation, member.protocol) = (joined.generation, joined.protocol);
    }
    let mut newer = [Reader::new("n")];
    scene.live(&mut newer[0]).unwrap();
    for member in &older {
        let asked = scene.sync_older(member, &[]);
        assert_eq!(scene.synced(asked).error, ErrorCode::RebalanceInProgress);
    }
    let stranger = Older { protocol: Some("stranger".into()), ..older.pop().unwrap() };
    let asked = scene.sync_older(&stranger, &[]);
    assert_eq!(scene.synced(asked).error, ErrorCode::InconsistentGroupProtocol);
}

/// The bug: where a member had joined already without the protocol of the last generation, what it said
/// was looked for under that, and the newcomer was told that there is no such group, which ends it.
#[test]
fn a_group_that_is_changing_its_protocol_is_upgraded() {
    let (mut scene, older) = Scene::of_older(rules(), two(true));
    let mut joins = older[0].joins();
    joins.protocols.remove(0);
    let waits = scene.ask(Request::Join(Box::new(joins)));
    assert!(scene.is_waiting(waits));
    scene.live(&mut Reader::new("n")).unwrap();
    assert_eq!(scene.describe_consumer().members.len(), 3);
}

/// A change goes out in one batch, and a group that is too large for that keeps its kind.
#[test]
fn a_group_that_is_too_large_for_one_batch_keeps_its_kind() {
    let small = Rules { record_bytes_max: 1200, ..rules() };
    let (mut scene, _) = Scene::of_older(small, two(true));
    let refused = scene.live(&mut Reader::new("n")).unwrap_err();
    assert_eq!(refused, ErrorCode::GroupIdNotFound);
    assert_eq!(scene.state(), "Stable");
}

/// On a full disk nothing changes its kind, and when there is room again everything goes on.
#[test]
fn a_change_that_cannot_be_written_has_not_happened() {
    let (mut scene, mut older) = Scene::of_older(rules(), two(true));
    let mut newer = [Reader::new("n")];
    scene.disk = Disk::Full;
    assert_eq!(scene.live(&mut newer[0]).unwrap_err(), ErrorCode::NotCoordinator);
    assert_eq!(scene.beat_older(&older[0]), ErrorCode::None);
    scene.disk = Disk::Takes;
    scene.live(&mut newer[0]).unwrap();
    scene.settle_mixed(&mut older, &mut newer);

    scene.disk = Disk::Full;
    let refused = scene.beat(ConsumerHeartbeat { epoch: -1, ..newer[0].says_little() });
    assert_eq!(refused.unwrap_err(), ErrorCode::NotCoordinator);
    assert_eq!(scene.describe_consumer().members.len(), 3);
    scene.disk = Disk::Takes;
    scene.leaves(&newer[0]);
    assert_eq!(scene.state(), "PreparingRebalance");
}

/// What is remembered after each decision is what its records say; and after a crash in the middle of
/// one, whoever speaks up is told to go on or to join again.
#[test]
fn every_record_of_a_change_may_be_the_last() {
    let (mut scene, mut older) = Scene::of_older(rules(), two(true));
    let mut newer = [Reader::new("n")];
    let mut seen = vec![(scene.log.len(), scene.remembered())];
    scene.live(&mut newer[0]).unwrap();
    seen.push((scene.log.len(), scene.remembered()));
    for _ in 0..6 {
        for member in &mut older {
            scene.live_older(member);
            seen.push((scene.log.len(), scene.remembered()));
        }
        scene.live(&mut newer[0]).unwrap();
        seen.push((scene.log.len(), scene.remembered()));
    }
    scene.leaves(&newer[0]);
    seen.push((scene.log.len(), scene.remembered()));
    scene.share_among(&mut older);
    seen.push((scene.log.len(), scene.remembered()));

    for (end, expected) in &seen {
        let mut again = Coordinator::new(Arc::new(rules()), 9);
        scene.log[..*end].iter().for_each(|record| again.replay(record.clone()));
        assert_eq!(remembered(&again), *expected, "after {end} records");
    }
    for end in 0..=scene.log.len() {
        let mut cut = Scene::new();
        cut.log = scene.log[..end].to_vec();
        cut.crash();
        for member in &older {
            let known = [
                ErrorCode::None,
                ErrorCode::RebalanceInProgress,
                ErrorCode::UnknownMemberId,
                ErrorCode::IllegalGeneration,
            ];
            assert!(known.contains(&cut.beat_older(member)));
        }
        // All go away, and the group with them.
        cut.pass(2 * (SESSION + REBALANCE));
        let deleted = cut.delete();
        assert!(matches!(
            cut.reply(deleted),
            Reply::Deleted(ErrorCode::None | ErrorCode::GroupIdNotFound)
        ));
        cut.crash();
        assert_eq!((cut.coordinator.count(), cut.coordinator.bytes()), (0, 0), "cut at {end}");
    }
}
