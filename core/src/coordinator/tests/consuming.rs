//! Groups of the newer kind (KIP-848): the coordinator shares out, and nobody reads what another
//! member has not let go of.

use tidemill_replication::metadata::{Record as MetadataRecord, Resource};

use super::*;
use crate::coordinator::assignment::Partitions;
use crate::coordinator::request::{ConsumerDescription, ConsumerHeartbeat, Heard};

const T: TopicId = TopicId([1; 16]);

/// A member as its client keeps it.
#[derive(Clone)]
pub(super) struct Reader {
    pub(super) member: MemberId,
    pub(super) epoch: i32,
    pub(super) instance: Option<Arc<str>>,
    pub(super) topics: Vec<Arc<str>>,
    pub(super) regex: Option<Arc<str>>,
    pub(super) assignor: Option<Arc<str>>,
    pub(super) owned: Partitions,
}

impl Reader {
    pub(super) fn new(member: &str) -> Self {
        Self {
            member: member.into(),
            epoch: 0,
            instance: None,
            topics: vec!["t".into()],
            regex: None,
            assignor: None,
            owned: Partitions::new(),
        }
    }

    /// All it can say, as it does when it joins.
    pub(super) fn says_all(&self) -> ConsumerHeartbeat {
        ConsumerHeartbeat {
            group: GROUP.into(),
            member: Arc::clone(&self.member),
            epoch: self.epoch,
            instance: self.instance.clone(),
            rack: None,
            rebalance_ms: REBALANCE.as_millis() as i32,
            topics: Some(self.topics.clone()),
            regex: self.regex.clone(),
            assignor: self.assignor.clone(),
            owned: Some(self.owned.clone()),
            client_id: "client".into(),
            client_host: "/host".into(),
        }
    }

    /// That it lives, and no more.
    pub(super) fn says_little(&self) -> ConsumerHeartbeat {
        ConsumerHeartbeat { rebalance_ms: -1, topics: None, owned: None, ..self.says_all() }
    }

    pub(super) fn owns(&self) -> Vec<i32> {
        self.owned.values().flatten().copied().collect()
    }
}

impl Scene {
    pub(super) fn beat(&mut self, heartbeat: ConsumerHeartbeat) -> Result<Heard, ErrorCode> {
        let asked = self.ask(Request::ConsumerHeartbeat(Box::new(heartbeat)));
        match self.reply(asked) {
            Reply::Heard(heard) => heard.clone().map_err(|(error, _)| error),
            Reply::Refused(error) => Err(*error),
            other => panic!("{other:?}"),
        }
    }

    /// A heartbeat, and what the client does upon the answer: it reads what it is told.
    pub(super) fn live(&mut self, reader: &mut Reader) -> Result<(), ErrorCode> {
        let heard = self.beat(reader.says_all())?;
        reader.epoch = heard.epoch;
        if let Some(assignment) = heard.assignment {
            reader.owned = assignment;
        }
        Ok(())
    }

    /// Heartbeats of all until nothing changes; at no time do two own the same partition.
    fn settle_readers(&mut self, readers: &mut [Reader]) {
        for _ in 0..10 {
            for index in 0..readers.len() {
                self.live(&mut readers[index]).unwrap();
                let mut owned: Vec<(TopicId, i32)> = Vec::new();
                for reader in readers.iter() {
                    let all = reader.owned.iter();
                    owned.extend(all.flat_map(|(id, numbers)| numbers.iter().map(|n| (*id, *n))));
                }
                let all = owned.len();
                owned.sort_unstable();
                owned.dedup();
                assert_eq!(owned.len(), all, "two members read the same partition");
            }
        }
        assert_eq!(self.describe_consumer().state, "Stable");
    }

    pub(super) fn describe_consumer(&mut self) -> ConsumerDescription {
        let asked = self.ask(Request::DescribeConsumer { group: GROUP.into() });
        match self.reply(asked) {
            Reply::ConsumerDescribed(Some(description)) => (**description).clone(),
            other => panic!("{other:?}"),
        }
    }

    /// So many readers, each with its share.
    pub(super) fn of_readers(count: usize) -> (Self, Vec<Reader>) {
        let mut scene = Self::new();
        let mut readers: Vec<Reader> =
            (0..count).map(|number| Reader::new(&format!("m{number}"))).collect();
        scene.settle_readers(&mut readers);
        (scene, readers)
    }
}

/// A member that joins alone has everything at once.
#[test]
fn a_reader_alone_reads_everything_at_once() {
    let mut scene = Scene::new();
    let mut reader = Reader::new("m");
    scene.live(&mut reader).unwrap();
    assert_eq!((reader.epoch, reader.owns()), (1, vec![0, 1, 2, 3]));
    let heard = scene.beat(reader.says_little()).unwrap();
    assert_eq!((heard.epoch, heard.assignment), (1, None), "nothing new, nothing told");
    let before = scene.log.len();
    scene.beat(reader.says_little()).unwrap();
    assert_eq!(scene.log.len(), before, "and nothing is written");
}

/// A group that was set to times of its own has these, from the next heartbeat on.
#[test]
fn a_group_may_have_a_session_of_its_own() {
    let mut scene = Scene::new();
    let mut reader = Reader::new("m");
    scene.live(&mut reader).unwrap();
    assert_eq!(scene.beat(reader.says_little()).unwrap().heartbeat_ms, None, "as all have it");
    let long = SESSION.as_millis() as u64 * 3;
    let set = |name: &str, value: u64| MetadataRecord::ConfigChanged {
        resource: Resource::Group(GROUP.into()),
        name: name.to_owned(),
        value: Some(value.to_string()),
    };
    scene.image.replay(&set("consumer.session.timeout.ms", long)).unwrap();
    scene.image.replay(&set("consumer.heartbeat.interval.ms", 1234)).unwrap();
    for _ in 0..2 {
        assert_eq!(scene.beat(reader.says_little()).unwrap().heartbeat_ms, Some(1234));
    }
    scene.pass(SESSION * 2);
    assert_eq!(scene.describe_consumer().members.len(), 1, "silent, but not for too long");
    scene.pass(SESSION * 2);
    assert_eq!(scene.describe_consumer().members.len(), 0);
}

/// A partition moves in two steps: the old owner lets go of it, then the new one has it.
#[test]
fn a_partition_moves_when_its_owner_has_let_go() {
    let (mut scene, mut readers) = Scene::of_readers(1);
    let mut newcomer = Reader::new("n");
    scene.live(&mut newcomer).unwrap();
    assert_eq!(newcomer.owns(), [] as [i32; 0], "all of it is still read by the other");
    assert_eq!(newcomer.epoch, 2);

    let heard = scene.beat(readers[0].says_little()).unwrap();
    let left: Vec<i32> = heard.assignment.unwrap().into_values().flatten().collect();
    assert_eq!((heard.epoch, left.len()), (1, 2), "it is asked to give up half");
    scene.live(&mut newcomer).unwrap();
    assert_eq!(newcomer.owns(), [] as [i32; 0], "it was asked, and has not done so");

    scene.live(&mut readers[0]).unwrap();
    scene.live(&mut readers[0]).unwrap();
    assert_eq!((readers[0].epoch, readers[0].owns()), (2, left));
    scene.live(&mut newcomer).unwrap();
    assert_eq!(newcomer.owns().len(), 2);
}

/// However members come and go, no partition is read by two.
#[test]
fn members_come_and_go() {
    let (mut scene, mut readers) = Scene::of_readers(3);
    let count = |readers: &[Reader]| -> usize { readers.iter().map(|r| r.owns().len()).sum() };
    assert_eq!(count(&readers), 4);
    let gone = readers.remove(1);
    scene.beat(ConsumerHeartbeat { epoch: -1, ..gone.says_little() }).unwrap();
    scene.settle_readers(&mut readers);
    assert_eq!(count(&readers), 4);
    assert_eq!(scene.beat(gone.says_all()).unwrap_err(), ErrorCode::UnknownMemberId);
    readers.push(Reader::new("late"));
    scene.settle_readers(&mut readers);
    assert_eq!(count(&readers), 4);
}

/// Silence beyond the session is taken for death; what the member had goes to the others.
#[test]
fn a_silent_reader_is_out() {
    let (mut scene, mut readers) = Scene::of_readers(2);
    scene.pass(SESSION - Duration::from_millis(1));
    scene.live(&mut readers[0]).unwrap();
    scene.pass(Duration::from_millis(1));
    let silent = readers.pop().unwrap();
    scene.settle_readers(&mut readers);
    assert_eq!(readers[0].owns(), [0, 1, 2, 3]);
    assert_eq!(scene.beat(silent.says_all()).unwrap_err(), ErrorCode::UnknownMemberId);
}

/// Who lives and does not let go in time is out, too: others wait for it.
#[test]
fn a_reader_that_lets_go_of_nothing_is_out() {
    let (mut scene, readers) = Scene::of_readers(1);
    let mut newcomer = Reader::new("n");
    scene.live(&mut newcomer).unwrap();
    let mut fenced = false;
    for _ in 0..10 {
        fenced = scene.beat(readers[0].says_little()).is_err();
        scene.live(&mut newcomer).unwrap();
        scene.pass(SESSION - Duration::from_secs(1));
    }
    assert!(fenced);
    scene.live(&mut newcomer).unwrap();
    assert_eq!(newcomer.owns(), [0, 1, 2, 3]);
}

/// A member that names another epoch than its own has missed its being fenced. One that names the
/// one before has missed an answer, and goes on.
#[test]
fn an_epoch_that_is_not_the_members_is_fenced() {
    let (mut scene, mut readers) = Scene::of_readers(2);
    let reader = &mut readers[0];
    let ahead = ConsumerHeartbeat { epoch: reader.epoch + 1, ..reader.says_all() };
    assert_eq!(scene.beat(ahead).unwrap_err(), ErrorCode::FencedMemberEpoch);
    let missed = ConsumerHeartbeat { epoch: reader.epoch - 1, ..reader.says_all() };
    assert_eq!(scene.beat(missed.clone()).unwrap().epoch, reader.epoch);
    let owned = [(T, (0..4).collect())].into();
    let too_much = ConsumerHeartbeat { owned: Some(owned), ..missed };
    assert_eq!(scene.beat(too_much).unwrap_err(), ErrorCode::FencedMemberEpoch);
}

/// A static member that leaves for a restart finds its share again, under another name, and nobody
/// else notices. While it is there, nobody takes its place.
#[test]
fn a_static_reader_restarts_unnoticed() {
    let mut scene = Scene::new();
    let mut readers = [Reader::new("a"), Reader::new("b")];
    readers[1].instance = Some("one".into());
    scene.settle_readers(&mut readers);
    let [mut other, old] = readers;
    let mut again =
        Reader { member: "c".into(), epoch: 0, owned: Partitions::new(), ..old.clone() };
    assert_eq!(scene.live(&mut again).unwrap_err(), ErrorCode::UnreleasedInstanceId);

    scene.beat(ConsumerHeartbeat { epoch: -2, ..old.says_little() }).unwrap();
    scene.live(&mut again).unwrap();
    assert_eq!(again.owned, old.owned);
    let epoch = other.epoch;
    scene.live(&mut other).unwrap();
    assert_eq!(other.epoch, epoch);
    assert_eq!(scene.beat(old.says_all()).unwrap_err(), ErrorCode::FencedInstanceId);
}

/// New partitions, and new topics that match a pattern, are shared out at the next heartbeat.
#[test]
fn topics_that_come_and_grow_are_shared_out() {
    let mut scene = Scene::new();
    let mut reader = Reader::new("m");
    reader.topics.clear();
    reader.regex = Some("new-.*|t".into());
    scene.live(&mut reader).unwrap();
    assert_eq!(reader.owned.len(), 1, "only whole names match: not `topic`");
    add_topic(&mut scene.image, 9, "new-one", 2);
    scene.live(&mut reader).unwrap();
    assert_eq!(reader.owned.len(), 2);
    let grown = metadata::Record::PartitionsAdded {
        topic: TopicId([9; 16]),
        new_count: 3,
        partitions: vec![vec![NodeId(1)]],
    };
    scene.image.replay(&grown).unwrap();
    scene.live(&mut reader).unwrap();
    assert_eq!(reader.owned[&TopicId([9; 16])].len(), 3);
}

/// What was read of a topic that is deleted is taken from the member, and nothing else of its share.
#[test]
fn a_topic_that_is_deleted_is_given_up_alone() {
    let mut scene = Scene::new();
    add_topic(&mut scene.image, 9, "new-one", 2);
    let mut reader = Reader::new("m");
    reader.topics.push("new-one".into());
    scene.live(&mut reader).unwrap();
    let both = reader.owned.clone();
    assert_eq!(both.len(), 2);
    scene.image.replay(&metadata::Record::TopicDeleted { id: TopicId([9; 16]) }).unwrap();
    scene.live(&mut reader).unwrap();
    let kept = both.into_iter().filter(|(topic, _)| *topic != TopicId([9; 16]));
    assert_eq!(reader.owned, kept.collect());
}

/// Who asks for names and a pattern has the names first, and what matches from the group's next step
/// on. Both came at once, which clients' tests of the broker do not expect.
#[test]
fn names_are_shared_out_before_what_matches_a_pattern() {
    let mut scene = Scene::new();
    add_topic(&mut scene.image, 9, "new-one", 2);
    let mut reader = Reader::new("m");
    reader.regex = Some("new-.*".into());
    scene.live(&mut reader).unwrap();
    assert_eq!((reader.epoch, reader.owned.len()), (1, 1), "the names");
    let heard = scene.beat(reader.says_little()).unwrap();
    assert_eq!((heard.epoch, heard.assignment.unwrap().len()), (2, 2), "and what matches");
    scene.live(&mut reader).unwrap();
    assert_eq!(reader.owned.len(), 2);
    let heard = scene.beat(reader.says_little()).unwrap();
    assert_eq!((heard.epoch, heard.assignment), (2, None), "that was all");
}

/// Any member's heartbeat is the group's next step, also if nothing that matches is new to the group.
#[test]
fn a_pattern_counts_from_any_members_next_heartbeat_on() {
    let (mut scene, mut readers) = Scene::of_readers(1);
    add_topic(&mut scene.image, 9, "new-one", 2);
    let mut both = Reader::new("n");
    (both.topics, both.regex) = (vec!["new-one".into()], Some("t".into()));
    scene.live(&mut both).unwrap();
    assert_eq!(both.owned.len(), 1);
    let epoch = scene.describe_consumer().epoch;
    scene.live(&mut readers[0]).unwrap();
    assert_eq!(scene.describe_consumer().epoch, epoch + 1);
    let target = |scene: &mut Scene, of: &str| {
        let members = scene.describe_consumer().members;
        members.into_iter().find(|member| &*member.member == of).unwrap().target.len()
    };
    assert_eq!(target(&mut scene, "n"), 2);
    readers.push(both);
    scene.settle_readers(&mut readers);

    // It is known now, so that another member has it at once.
    let mut third = Reader::new("o");
    (third.topics, third.regex) = (vec!["new-one".into()], Some("t".into()));
    scene.live(&mut third).unwrap();
    assert_eq!(target(&mut scene, "o"), 2);
}

/// A pattern that does not count yet does so after a crash, and after the disk was full.
#[test]
fn a_pattern_comes_to_count_though_the_step_was_lost() {
    for crashes in [false, true] {
        let mut scene = Scene::new();
        add_topic(&mut scene.image, 9, "new-one", 2);
        let mut reader = Reader::new("m");
        reader.regex = Some("new-.*".into());
        scene.live(&mut reader).unwrap();
        if crashes {
            scene.crash();
        } else {
            scene.disk = Disk::Full;
            assert_eq!(scene.beat(reader.says_little()).unwrap_err(), ErrorCode::NotCoordinator);
            scene.disk = Disk::Takes;
        }
        scene.live(&mut reader).unwrap();
        assert_eq!(reader.owned.len(), 2);
    }
}

/// A pattern that closed the brackets put around it matched parts of names: members were given
/// topics that they had not asked for.
#[test]
fn a_pattern_cannot_leave_its_brackets() {
    let mut scene = Scene::new();
    let mut reader = Reader::new("m");
    reader.topics.clear();
    for regex in ["t)|(?:x", "x)$|^(?:t", ")|("] {
        reader.regex = Some(regex.into());
        let refused = scene.beat(reader.says_all()).unwrap_err();
        assert_eq!(refused, ErrorCode::InvalidRegularExpression, "{regex}");
    }
    reader.regex = Some("(t)|(?:x)".into());
    scene.live(&mut reader).unwrap();
    assert_eq!(reader.owned.len(), 1);
}

/// The bug: a client that looks for topics by a pattern of its own joined before it had found any, and
/// was refused for good. It says what it has found with a later heartbeat.
#[test]
fn a_reader_may_join_before_it_knows_what_to_read() {
    let mut scene = Scene::new();
    let mut reader = Reader { topics: Vec::new(), ..Reader::new("m") };
    scene.live(&mut reader).unwrap();
    assert_eq!((reader.epoch, reader.owns()), (1, vec![]));
    scene.crash();
    scene.live(&mut reader).unwrap();
    assert!(reader.owns().is_empty());
    reader.topics = vec!["t".into()];
    scene.live(&mut reader).unwrap();
    assert_eq!(reader.owns(), [0, 1, 2, 3]);
    let unsaid = ConsumerHeartbeat { topics: None, ..Reader::new("n").says_all() };
    assert_eq!(scene.beat(unsaid).unwrap_err(), ErrorCode::InvalidRequest);
}

/// The bug: a member whose machine was gone for good could not be taken out by an operator, if it spoke
/// the newer protocol.
#[test]
fn an_operator_takes_out_members_by_either_name() {
    let (mut scene, mut readers) = Scene::of_readers(3);
    readers[2].instance = Some("i".into());
    scene.leave(&[("m2", None)]);
    (readers[2].epoch, readers[2].owned) = (0, Partitions::new());
    scene.settle_readers(&mut readers);
    let told = scene.leave(&[("m0", None), ("", Some("i")), ("", Some("j")), ("m7", None)]);
    let (done, unknown) = (ErrorCode::None, ErrorCode::UnknownMemberId);
    assert_eq!(told, [done, done, unknown, unknown]);
    assert_eq!(scene.leave(&[("m1", Some("i"))]), [unknown]);
    scene.crash();
    assert_eq!(scene.describe_consumer().members.len(), 1);
    assert_eq!(scene.live(&mut readers[0]).unwrap_err(), unknown);
    scene.settle_readers(&mut readers[1..2]);
    assert_eq!(readers[1].owns(), [0, 1, 2, 3]);
}

/// What members ask for that there is not, or that contradicts itself, is refused with its reason.
#[test]
fn what_cannot_be_is_refused() {
    let mut scene = Scene::new();
    let all = Reader::new("m").says_all();
    let mut refused = |heartbeat: ConsumerHeartbeat| scene.beat(heartbeat).unwrap_err();
    let invalid = ErrorCode::InvalidRequest;
    assert_eq!(refused(ConsumerHeartbeat { topics: None, ..all.clone() }), invalid);
    assert_eq!(refused(ConsumerHeartbeat { rebalance_ms: -1, ..all.clone() }), invalid);
    assert_eq!(refused(ConsumerHeartbeat { owned: None, ..all.clone() }), invalid);
    assert_eq!(refused(ConsumerHeartbeat { epoch: -7, ..all.clone() }), ErrorCode::GroupIdNotFound);
    let assignor = Some("own".into());
    let unsupported = refused(ConsumerHeartbeat { assignor, ..all.clone() });
    assert_eq!(unsupported, ErrorCode::UnsupportedAssignor);
    let regex = Some("(".into());
    let irregular = refused(ConsumerHeartbeat { regex, ..all });
    assert_eq!(irregular, ErrorCode::InvalidRegularExpression);
    assert_eq!(scene.coordinator.count(), 0, "and nothing is kept of it");
}

/// Commits and fetches carry the member's epoch, and a stale one is told as such.
#[test]
fn commits_carry_the_members_epoch() {
    let (mut scene, readers) = Scene::of_readers(1);
    let reader = &readers[0];
    scene.commit(who(&reader.member, reader.epoch), &[("t", 0, 5)]).unwrap();
    let stale = scene.commit(who(&reader.member, 0), &[("t", 0, 6)]);
    assert_eq!(stale, Err(ErrorCode::StaleMemberEpoch));
    assert_eq!(scene.commit(nobody(), &[("t", 0, 6)]), Err(ErrorCode::UnknownMemberId));
    let fetch = FetchOffsets { member: Some("m0".into()), epoch: 0, ..all_offsets() };
    let asked = scene.ask(Request::FetchOffsets(fetch));
    assert!(matches!(scene.reply(asked), Reply::Refused(ErrorCode::StaleMemberEpoch)));
    assert_eq!(scene.committed("t", 0), Some(5));
}

/// A member whose epoch has moved on without its hearing of it was fenced for what it committed
/// meanwhile. It may commit what it has had since the epoch that it names (KIP-1251), and nothing else.
#[test]
fn an_earlier_epoch_commits_what_was_had_in_it() {
    let (mut scene, mut readers) = Scene::of_readers(1);
    let before = readers[0].epoch;
    readers.push(Reader::new("m1"));
    scene.settle_readers(&mut readers);
    let [first, second] = &readers[..] else { unreachable!("two") };
    let (kept, given_up) = (first.owns()[0], second.owns()[0]);
    assert!(before < first.epoch);

    let member = &first.member;
    scene.commit(who(member, before), &[("t", kept, 5)]).unwrap();
    assert_eq!(scene.committed("t", kept), Some(5));
    let stale = Err(ErrorCode::StaleMemberEpoch);
    assert_eq!(scene.commit(who(member, before), &[("t", given_up, 5)]), stale, "given up");
    let both = [("t", kept, 6), ("t", given_up, 6)];
    assert_eq!(scene.commit(who(member, before), &both), stale, "all or nothing");
    assert_eq!(scene.commit(who(member, before - 1), &[("t", kept, 6)]), stale, "too early");
    assert_eq!(scene.commit(who(member, first.epoch + 1), &[("t", kept, 6)]), stale, "too late");
    let newcomer = scene.commit(who(&second.member, before), &[("t", given_up, 6)]);
    assert_eq!(newcomer, stale, "it had nothing then");
    assert_eq!(scene.committed("t", kept), Some(5));
    assert_eq!(scene.committed("t", given_up), None);

    // Since when it has had a partition is not written down: a restart makes it no earlier.
    scene.crash();
    let after = scene.commit(who(member, before), &[("t", given_up, 6)]);
    assert_eq!(after, stale);
    scene.commit(who(&readers[0].member, readers[0].epoch), &[("t", kept, 7)]).unwrap();
}

/// A crash loses nothing that a member was told: it goes on in its epoch, with its share.
#[test]
fn readers_survive_a_crash() {
    let (mut scene, mut readers) = Scene::of_readers(2);
    let before: Vec<(i32, Vec<i32>)> = readers.iter().map(|r| (r.epoch, r.owns())).collect();
    scene.crash();
    scene.settle_readers(&mut readers);
    let after: Vec<(i32, Vec<i32>)> = readers.iter().map(|r| (r.epoch, r.owns())).collect();
    assert_eq!(before, after);
}

/// What could not be written has not happened: the member asks again.
#[test]
fn a_join_that_cannot_be_written_changes_nothing() {
    let (mut scene, mut readers) = Scene::of_readers(1);
    scene.disk = Disk::Full;
    let mut newcomer = Reader::new("n");
    assert_eq!(scene.live(&mut newcomer).unwrap_err(), ErrorCode::NotCoordinator);
    assert_eq!(scene.describe_consumer().members.len(), 1);
    scene.disk = Disk::Takes;
    scene.live(&mut newcomer).unwrap();
    readers.push(newcomer);
    scene.settle_readers(&mut readers);
}

/// A group without members is of the kind of whoever comes next, and keeps its offsets, also where
/// groups do not change it under their members.
#[test]
fn an_empty_group_changes_its_kind() {
    let mut scene = Scene::with(Rules { upgrades: false, downgrades: false, ..rules() });
    let mut clients = [Client::new()];
    scene.stabilize(&mut clients);
    let mut reader = Reader::new("m");
    assert_eq!(scene.live(&mut reader).unwrap_err(), ErrorCode::GroupIdNotFound);
    scene.commit(who(&clients[0].id(), 1), &[("t", 0, 5)]).unwrap();
    scene.leave(&[(&clients[0].id(), None)]);
    scene.live(&mut reader).unwrap();
    scene.crash();
    assert_eq!(scene.describe_consumer().members.len(), 1);
    assert_eq!(scene.committed("t", 0), Some(5));

    scene.beat(ConsumerHeartbeat { epoch: -1, ..reader.says_little() }).unwrap();
    scene.stabilize(&mut [Client::new()]);
    scene.crash();
    assert_eq!(scene.state(), "Stable");
    assert_eq!(scene.committed("t", 0), Some(5));
}

/// A group of the newer kind is deleted when nobody is in it, and its log is written anew whole.
#[test]
fn a_group_of_readers_is_written_anew_and_deleted() {
    let (mut scene, mut readers) = Scene::of_readers(3);
    scene.commit(who(&readers[0].member, readers[0].epoch), &[("t", 0, 5)]).unwrap();
    scene.coordinator.pretend_log_bytes(2 << 30);
    scene.commit(who(&readers[0].member, readers[0].epoch), &[("t", 0, 6)]).unwrap();
    let cut = scene.coordinator.take_trim().unwrap();
    scene.log.drain(..cut.0 as usize);
    scene.crash();
    scene.settle_readers(&mut readers);
    assert_eq!(scene.committed("t", 0), Some(6));

    let refused = scene.delete();
    assert!(matches!(scene.reply(refused), Reply::Deleted(ErrorCode::NonEmptyGroup)));
    for reader in &readers {
        scene.beat(ConsumerHeartbeat { epoch: -1, ..reader.says_little() }).unwrap();
    }
    let deleted = scene.delete();
    assert!(matches!(scene.reply(deleted), Reply::Deleted(ErrorCode::None)));
    assert_eq!((scene.coordinator.count(), scene.coordinator.bytes()), (0, 0));
    scene.crash();
    assert_eq!((scene.coordinator.count(), scene.coordinator.bytes()), (0, 0));
}

/// What a group takes in memory follows what its members want, before a crash and after it.
#[test]
fn memory_follows_what_readers_want() {
    let (mut scene, mut readers) = Scene::of_readers(3);
    let before = scene.coordinator.bytes();
    readers[0].topics = ["t", "u", "t"].map(Arc::from).to_vec();
    (readers[0].regex, readers[0].assignor) = (Some("t.*".into()), Some("range".into()));
    scene.settle_readers(&mut readers);
    let with_more = scene.coordinator.bytes();
    assert!(before < with_more);
    scene.crash();
    assert_eq!(scene.coordinator.bytes(), with_more);
    readers[0].topics = vec!["t".into()];
    (readers[0].regex, readers[0].assignor) = (Some("".into()), Some("uniform".into()));
    scene.settle_readers(&mut readers);
    assert_eq!(scene.coordinator.bytes(), before);
}

/// A full disk kept the end of a silent member from being written, and the member stayed for ever,
/// with its share. It is tried again.
#[test]
fn a_silent_reader_is_out_though_the_disk_was_full() {
    let (mut scene, mut readers) = Scene::of_readers(2);
    let _silent = readers.pop().unwrap();
    scene.disk = Disk::Full;
    for _ in 0..3 {
        scene.pass(SESSION - Duration::from_millis(1));
        scene.live(&mut readers[0]).unwrap();
    }
    assert_eq!(scene.describe_consumer().members.len(), 2, "it could not be written");
    scene.disk = Disk::Takes;
    for _ in 0..3 {
        scene.pass(SESSION - Duration::from_millis(1));
        scene.live(&mut readers[0]).unwrap();
    }
    scene.settle_readers(&mut readers);
    assert_eq!(readers[0].owns(), [0, 1, 2, 3]);
}

/// A full disk kept a new partition from being shared out, and nobody looked again. The next
/// heartbeat does.
#[test]
fn a_topic_that_grew_is_shared_out_though_the_disk_was_full() {
    let (mut scene, mut readers) = Scene::of_readers(1);
    let grown = metadata::Record::PartitionsAdded {
        topic: T,
        new_count: 5,
        partitions: vec![vec![NodeId(1)]],
    };
    scene.image.replay(&grown).unwrap();
    scene.disk = Disk::Full;
    assert_eq!(scene.live(&mut readers[0]).unwrap_err(), ErrorCode::NotCoordinator);
    scene.disk = Disk::Takes;
    scene.settle_readers(&mut readers);
    assert_eq!(readers[0].owns(), [0, 1, 2, 3, 4]);
}
