//! Share groups: who is in them and what each may read. Who gets which record is told elsewhere.

use std::collections::BTreeSet;

use tidemill_replication::metadata::{Record as MetadataRecord, Resource};

use super::*;
use crate::coordinator::assignment::Partitions;
use crate::coordinator::request::{Heard, ShareDescription, ShareHeartbeat};
use crate::limits::SHARE_MEMBERS_MAX;

const T: TopicId = TopicId([1; 16]);
const U: TopicId = TopicId([2; 16]);

/// A member as its client keeps it.
#[derive(Clone)]
struct Sharer {
    member: MemberId,
    epoch: i32,
    topics: Vec<Arc<str>>,
    share: Partitions,
}

impl Sharer {
    fn new(member: &str) -> Self {
        Self::of(member, &["t"])
    }

    fn of(member: &str, topics: &[&str]) -> Self {
        let topics = topics.iter().map(|topic| Arc::from(*topic)).collect();
        Self { member: member.into(), epoch: 0, topics, share: Partitions::new() }
    }

    fn says_all(&self) -> ShareHeartbeat {
        ShareHeartbeat {
            group: GROUP.into(),
            member: Arc::clone(&self.member),
            epoch: self.epoch,
            rack: None,
            topics: Some(self.topics.clone()),
            client_id: "client".into(),
            client_host: "/host".into(),
            session: SESSION,
        }
    }

    /// That it lives, and no more.
    fn says_little(&self) -> ShareHeartbeat {
        ShareHeartbeat { topics: None, ..self.says_all() }
    }

    fn leaves(&self) -> ShareHeartbeat {
        ShareHeartbeat { epoch: -1, ..self.says_little() }
    }

    fn parts(&self) -> Vec<(TopicId, i32)> {
        let all = self.share.iter();
        all.flat_map(|(topic, numbers)| numbers.iter().map(|number| (*topic, *number))).collect()
    }

    fn numbers(&self) -> Vec<i32> {
        self.parts().into_iter().map(|(_, number)| number).collect()
    }
}

impl Scene {
    fn hear(&mut self, heartbeat: ShareHeartbeat) -> Result<Heard, ErrorCode> {
        let asked = self.ask(Request::ShareHeartbeat(Box::new(heartbeat)));
        match self.reply(asked) {
            Reply::Heard(heard) => heard.clone().map_err(|(error, _)| error),
            Reply::Refused(error) => Err(*error),
            other => panic!("{other:?}"),
        }
    }

    /// A member joins, or says that it lives, and reads what it is told.
    fn share(&mut self, sharer: &mut Sharer) -> Result<(), ErrorCode> {
        let heartbeat = if sharer.epoch == 0 { sharer.says_all() } else { sharer.says_little() };
        let heard = self.hear(heartbeat)?;
        sharer.epoch = heard.epoch;
        if let Some(share) = heard.assignment {
            sharer.share = share;
        }
        Ok(())
    }

    fn share_all(&mut self, sharers: &mut [Sharer]) {
        sharers.iter_mut().for_each(|sharer| self.share(sharer).unwrap());
    }

    /// These members, each of which knows its share of the epoch they are in now.
    fn of_sharers(sharers: &mut [Sharer]) -> Self {
        let mut scene = Self::new();
        scene.share_all(sharers);
        scene.share_all(sharers);
        scene
    }

    fn described(&mut self) -> Option<ShareDescription> {
        let asked = self.ask(Request::DescribeShare { group: GROUP.into() });
        match self.reply(asked) {
            Reply::ShareDescribed(description) => description.as_deref().cloned(),
            other => panic!("{other:?}"),
        }
    }

    fn members(&mut self) -> Vec<MemberId> {
        self.described().unwrap().members.into_iter().map(|member| member.member).collect()
    }
}

fn names(names: &[&str]) -> Vec<MemberId> {
    names.iter().map(|name| MemberId::from(*name)).collect()
}

/// Who joins has its share with the first answer; who has nothing new to hear is told nothing, and
/// nothing is written.
#[test]
fn a_member_alone_reads_everything_at_once() {
    let mut scene = Scene::new();
    let mut sharer = Sharer::new("m");
    scene.share(&mut sharer).unwrap();
    assert_eq!((sharer.epoch, sharer.numbers()), (1, vec![0, 1, 2, 3]));
    let before = scene.log.len();
    let heard = scene.hear(sharer.says_little()).unwrap();
    assert_eq!((heard.epoch, heard.assignment), (1, None));
    assert_eq!(scene.log.len(), before);
    let heard = scene.hear(sharer.says_all()).unwrap();
    assert_eq!(heard.assignment, Some(sharer.share.clone()), "who says all is told all");
    assert_eq!(scene.log.len(), before);
}

/// A member that comes, goes or wants something else raises the epoch by one; the others hear of it
/// with their next heartbeat, and need not let go of anything first.
#[test]
fn epochs_rise_with_what_changes() {
    let mut sharers = [Sharer::new("a"), Sharer::new("b")];
    let mut scene = Scene::of_sharers(&mut sharers);
    let [a, b] = &mut sharers;
    assert_eq!((a.epoch, a.numbers()), (2, vec![0, 2]));
    assert_eq!((b.epoch, b.numbers()), (2, vec![1, 3]));

    a.topics = vec!["t".into(), "u".into()];
    let heard = scene.hear(a.says_all()).unwrap();
    assert_eq!((heard.epoch, heard.assignment.unwrap()[&U].len()), (3, 4));
    scene.share(b).unwrap();
    assert_eq!(b.epoch, 3, "it hears of it, though its share is the same");

    scene.hear(a.leaves()).unwrap();
    scene.share(b).unwrap();
    assert_eq!((b.epoch, b.numbers()), (4, vec![0, 1, 2, 3]));
    assert_eq!(scene.hear(a.says_little()).unwrap_err(), ErrorCode::UnknownMemberId);
    assert_eq!(scene.hear(a.leaves()).unwrap_err(), ErrorCode::UnknownMemberId);
    let description = scene.described().unwrap();
    assert_eq!((description.epoch, description.state), (4, "Stable"));

    scene.hear(b.leaves()).unwrap();
    let description = scene.described().unwrap();
    assert_eq!((description.epoch, description.state), (5, "Empty"));
}

/// A member that joins again is taken for itself: its epoch and its share are told anew.
#[test]
fn who_joins_again_stays_one_member() {
    let mut sharers = [Sharer::new("a"), Sharer::new("b")];
    let mut scene = Scene::of_sharers(&mut sharers);
    let mut again = Sharer::new("a");
    scene.share(&mut again).unwrap();
    assert_eq!((again.epoch, again.share), (2, sharers[0].share.clone()));
    assert_eq!(scene.members(), names(&["a", "b"]));
}

/// A member may name the epoch it was told last, or the one before: that answer may have been lost.
/// Any other it cannot have of us.
#[test]
fn an_epoch_that_is_not_the_members_is_fenced() {
    let mut sharers = [Sharer::new("a"), Sharer::new("b")];
    let mut scene = Scene::of_sharers(&mut sharers);
    let a = &sharers[0];
    for (epoch, expected) in [
        (2, Ok(2)),
        (1, Ok(2)),
        (3, Err(ErrorCode::FencedMemberEpoch)),
        (-2, Err(ErrorCode::InvalidRequest)),
    ] {
        let heard = scene.hear(ShareHeartbeat { epoch, ..a.says_little() });
        assert_eq!(heard.map(|heard| heard.epoch), expected, "{epoch}");
    }
    // Two epochs on, the first one is too old.
    scene.share(&mut Sharer::new("c")).unwrap();
    scene.hear(a.says_little()).unwrap();
    let old = ShareHeartbeat { epoch: 1, ..a.says_little() };
    assert_eq!(scene.hear(old).unwrap_err(), ErrorCode::FencedMemberEpoch);
}

/// Silence beyond the session is taken for death, and its session is what the group is set to.
#[test]
fn a_silent_member_is_out() {
    let mut sharers = [Sharer::new("a"), Sharer::new("b")];
    let mut scene = Scene::of_sharers(&mut sharers);
    scene.pass(SESSION - Duration::from_millis(1));
    let [a, b] = &mut sharers;
    scene.share(a).unwrap();
    assert_eq!(scene.members(), names(&["a", "b"]));
    scene.pass(Duration::from_millis(1));
    assert_eq!(scene.members(), names(&["a"]));
    scene.share(a).unwrap();
    assert_eq!((a.epoch, a.numbers()), (3, vec![0, 1, 2, 3]));
    assert_eq!(scene.hear(b.says_little()).unwrap_err(), ErrorCode::UnknownMemberId);
}

/// The disk was full when a silent member was to go. It goes when there is room.
#[test]
fn a_silent_member_is_out_though_the_disk_was_full() {
    let mut sharers = [Sharer::new("a"), Sharer::new("b")];
    let mut scene = Scene::of_sharers(&mut sharers);
    let session = MetadataRecord::ConfigChanged {
        resource: Resource::Group(GROUP.into()),
        name: "share.session.timeout.ms".to_owned(),
        value: Some(SESSION.as_millis().to_string()),
    };
    scene.image.replay(&session).unwrap();
    scene.disk = Disk::Full;
    scene.pass(SESSION);
    assert_eq!(scene.members(), names(&["a", "b"]), "it could not be written");
    scene.disk = Disk::Takes;
    for _ in 0..3 {
        scene.pass(SESSION - Duration::from_millis(1));
        scene.share(&mut sharers[0]).unwrap();
    }
    assert_eq!(scene.members(), names(&["a"]));
    assert_eq!(sharers[0].numbers(), [0, 1, 2, 3]);
}

/// Each partition is read by somebody, each member reads something, and what members have differs by
/// one partition at most. With more members than partitions they read them together.
#[test]
fn shares_are_dealt_evenly() {
    for count in 1..=9 {
        let mut sharers: Vec<Sharer> =
            (0..count).map(|number| Sharer::new(&format!("m{number}"))).collect();
        let mut scene = Scene::of_sharers(&mut sharers);
        let read: BTreeSet<i32> = sharers.iter().flat_map(Sharer::numbers).collect();
        assert_eq!(read, (0..4).collect(), "{count} members");
        let sizes = sharers.iter().map(|sharer| sharer.parts().len());
        let (least, most) = (sizes.clone().min().unwrap(), sizes.max().unwrap());
        assert!(1 <= least && most - least <= 1, "{count} members: {least} to {most}");
        for member in scene.described().unwrap().members {
            let sharer = sharers.iter().find(|sharer| sharer.member == member.member).unwrap();
            let told = member.assigned.into_iter();
            let told = told.map(|(topic, _, numbers)| (topic, numbers.into_iter().collect()));
            assert_eq!(told.collect::<Partitions>(), sharer.share, "as it is described");
        }
    }
}

/// A member reads nothing of what it did not ask for, and all of what it alone asked for.
#[test]
fn members_may_want_different_topics() {
    let mut sharers = [Sharer::of("a", &["t"]), Sharer::of("b", &["t", "u"])];
    let _scene = Scene::of_sharers(&mut sharers);
    let [a, b] = &sharers;
    assert!(a.parts().iter().all(|(topic, _)| *topic == T));
    assert_eq!(b.share[&U].len(), 4);
    assert_eq!(a.share[&T].len() + b.share[&T].len(), 4);
}

/// Topics that come, grow and go change the shares with the next heartbeat, in a new epoch.
#[test]
fn topics_come_grow_and_go() {
    let new = TopicId([9; 16]);
    let mut sharer = Sharer::of("m", &["new", "t"]);
    let mut scene = Scene::of_sharers(std::slice::from_mut(&mut sharer));
    assert_eq!((sharer.epoch, sharer.share.len()), (1, 1), "one that is not there yet is awaited");
    add_topic(&mut scene.image, 9, "new", 2);
    scene.share(&mut sharer).unwrap();
    assert_eq!((sharer.epoch, sharer.share[&new].len()), (2, 2));
    let grown = metadata::Record::PartitionsAdded {
        topic: new,
        new_count: 3,
        partitions: vec![vec![NodeId(1)]],
    };
    scene.image.replay(&grown).unwrap();
    scene.share(&mut sharer).unwrap();
    assert_eq!((sharer.epoch, sharer.share[&new].len()), (3, 3));
    add_topic(&mut scene.image, 8, "other", 2);
    scene.share(&mut sharer).unwrap();
    assert_eq!(sharer.epoch, 3, "what nobody reads is no concern of the group");
    scene.image.replay(&metadata::Record::TopicDeleted { id: new }).unwrap();
    scene.share(&mut sharer).unwrap();
    assert_eq!((sharer.epoch, sharer.numbers()), (4, vec![0, 1, 2, 3]));
}

/// A topic named twice is read once.
#[test]
fn a_topic_named_twice_is_one_topic() {
    let mut sharers = [Sharer::of("a", &["t", "t"]), Sharer::of("b", &["t"])];
    let mut scene = Scene::of_sharers(&mut sharers);
    assert_eq!((sharers[0].numbers(), sharers[1].numbers()), (vec![0, 2], vec![1, 3]));
    let wants = &scene.described().unwrap().members[0].wants;
    assert_eq!(wants.topics, ["t".into()]);
}

/// There are so many members and no more; who is in stays in, and when one goes another may come.
#[test]
fn the_number_of_members_is_bounded() {
    let mut sharers: Vec<Sharer> =
        (0..SHARE_MEMBERS_MAX).map(|number| Sharer::new(&format!("m{number}"))).collect();
    let mut scene = Scene::of_sharers(&mut sharers);
    let mut late = Sharer::new("late");
    assert_eq!(scene.share(&mut late).unwrap_err(), ErrorCode::GroupMaxSizeReached);
    scene.share(&mut Sharer::new("m0")).unwrap();
    scene.hear(sharers[1].leaves()).unwrap();
    scene.share(&mut late).unwrap();
    assert_eq!(scene.members().len(), SHARE_MEMBERS_MAX);
}

/// What cannot be is refused with its reason, and nothing is kept of it.
#[test]
fn what_cannot_be_is_refused() {
    let mut scene = Scene::new();
    let all = Sharer::new("m").says_all();
    let mut refused = |heartbeat: ShareHeartbeat| scene.hear(heartbeat).unwrap_err();
    let invalid = ErrorCode::InvalidRequest;
    assert_eq!(refused(ShareHeartbeat { topics: None, ..all.clone() }), invalid);
    assert_eq!(refused(ShareHeartbeat { topics: Some(Vec::new()), ..all.clone() }), invalid);
    assert_eq!(refused(ShareHeartbeat { member: "".into(), ..all.clone() }), invalid);
    assert_eq!(refused(ShareHeartbeat { rack: Some("".into()), ..all.clone() }), invalid);
    let missing = ErrorCode::GroupIdNotFound;
    assert_eq!(refused(ShareHeartbeat { epoch: 3, ..all.clone() }), missing);
    assert_eq!(refused(ShareHeartbeat { epoch: -1, ..all }), missing);
    assert_eq!((scene.coordinator.count(), scene.log.len()), (0, 0));
    assert!(scene.described().is_none());
}

/// A name that a group of another kind has is not for share groups, though nobody is in it: what it
/// has committed would be lost. The other way round it is the same, until the share group is deleted.
#[test]
fn a_name_belongs_to_one_kind_of_group() {
    let (mut scene, clients) = Scene::stable(1);
    let mut sharer = Sharer::new("m");
    assert_eq!(scene.share(&mut sharer).unwrap_err(), ErrorCode::GroupIdNotFound);
    assert!(scene.described().is_none());
    scene.commit(who(&clients[0].id(), 1), &[("t", 0, 5)]).unwrap();
    scene.leave(&[(&clients[0].id(), None)]);
    assert_eq!(scene.share(&mut sharer).unwrap_err(), ErrorCode::GroupIdNotFound);
    assert_eq!(scene.committed("t", 0), Some(5));
    scene.delete();
    scene.share(&mut sharer).unwrap();

    let joining = scene.join(&Client::new());
    assert_eq!(scene.joined(joining).error, ErrorCode::InconsistentGroupProtocol);
    assert!(scene.commit(nobody(), &[("t", 0, 5)]).is_err());
    scene.hear(sharer.leaves()).unwrap();
    let joining = scene.join(&Client::new());
    assert_eq!(scene.joined(joining).error, ErrorCode::InconsistentGroupProtocol, "though empty");
    let deleted = scene.delete();
    assert!(matches!(scene.reply(deleted), Reply::Deleted(ErrorCode::None)));
    scene.stabilize(&mut [Client::new()]);
}

/// The bug: where a group begins could not be set before its first member had come, though that is
/// when it matters.
#[test]
fn a_group_may_be_there_before_its_first_member() {
    let mut scene = Scene::new();
    let make = |scene: &mut Scene| {
        let asked = scene.ask(Request::MakeShare { group: GROUP.into() });
        match scene.reply(asked) {
            Reply::ShareDescribed(made) => made.is_some(),
            Reply::Refused(_) => false,
            other => panic!("{other:?}"),
        }
    };
    scene.disk = Disk::Full;
    assert!(!make(&mut scene), "it would be gone after a crash");
    assert!(scene.described().is_none());
    scene.disk = Disk::Takes;
    assert!(make(&mut scene));
    scene.crash();
    let before = scene.log.len();
    assert!(make(&mut scene), "again");
    assert_eq!((scene.members(), scene.log.len()), (names(&[]), before));
    let joining = scene.join(&Client::new());
    assert_eq!(scene.joined(joining).error, ErrorCode::InconsistentGroupProtocol);
    let mut sharer = Sharer::new("m");
    scene.share(&mut sharer).unwrap();
    assert_eq!((sharer.epoch, sharer.numbers()), (1, vec![0, 1, 2, 3]));

    let (mut scene, _) = Scene::stable(1);
    assert!(!make(&mut scene), "of another kind");
}

/// What could not be written has not happened: the member asks again.
#[test]
fn a_join_that_cannot_be_written_changes_nothing() {
    let mut sharers = [Sharer::new("a")];
    let mut scene = Scene::of_sharers(&mut sharers);
    scene.disk = Disk::Full;
    let mut late = Sharer::new("b");
    assert_eq!(scene.share(&mut late).unwrap_err(), ErrorCode::NotCoordinator);
    assert_eq!((scene.members(), scene.described().unwrap().epoch), (names(&["a"]), 1));
    scene.disk = Disk::Takes;
    scene.share(&mut late).unwrap();
    scene.share(&mut sharers[0]).unwrap();
    assert_eq!((late.numbers(), sharers[0].numbers()), (vec![1, 3], vec![0, 2]));
}

/// Nobody is told of an epoch that a crash would take back: the answer waits for the log.
#[test]
fn an_answer_waits_until_it_is_durable() {
    let mut scene = Scene::new();
    scene.disk = Disk::Waits;
    let asked = scene.ask(Request::ShareHeartbeat(Box::new(Sharer::new("m").says_all())));
    assert!(scene.is_waiting(asked));
    scene.settle();
    assert!(!scene.is_waiting(asked));
}

/// A crash loses nothing that a member was told, and members that it took along go with their time.
#[test]
fn members_survive_a_crash() {
    let mut sharers = [Sharer::new("a"), Sharer::new("b")];
    let mut scene = Scene::of_sharers(&mut sharers);
    let before = sharers.clone();
    scene.crash();
    let [a, b] = &mut sharers;
    scene.share(a).unwrap();
    assert_eq!((a.epoch, a.numbers()), (before[0].epoch, before[0].numbers()));
    let ahead = ShareHeartbeat { epoch: b.epoch + 1, ..b.says_little() };
    assert_eq!(scene.hear(ahead).unwrap_err(), ErrorCode::FencedMemberEpoch);
    for _ in 0..5 {
        scene.pass(SESSION - Duration::from_millis(1));
        scene.share(a).unwrap();
    }
    assert_eq!((scene.members(), a.numbers()), (names(&["a"]), vec![0, 1, 2, 3]));
}

/// The log of a group is written anew whole, and a group that is deleted leaves nothing behind.
#[test]
fn a_group_is_written_anew_and_deleted() {
    let mut sharers = [Sharer::new("a"), Sharer::new("b"), Sharer::of("c", &["u"])];
    let mut scene = Scene::of_sharers(&mut sharers);
    scene.share_all(&mut sharers);
    let before = scene.described().unwrap();
    scene.coordinator.pretend_log_bytes(2 << 30);
    scene.hear(sharers[0].leaves()).unwrap();
    let cut = scene.coordinator.take_trim().unwrap();
    scene.log.drain(..cut.0 as usize);
    scene.crash();
    assert_eq!(scene.members(), names(&["b", "c"]));
    assert_eq!(scene.described().unwrap().epoch, before.epoch + 1);

    let refused = scene.delete();
    assert!(matches!(scene.reply(refused), Reply::Deleted(ErrorCode::NonEmptyGroup)));
    for sharer in &sharers[1..] {
        scene.hear(sharer.leaves()).unwrap();
    }
    let deleted = scene.delete();
    assert!(matches!(scene.reply(deleted), Reply::Deleted(ErrorCode::None)));
    scene.crash();
    assert_eq!((scene.coordinator.count(), scene.coordinator.bytes()), (0, 0));
}
