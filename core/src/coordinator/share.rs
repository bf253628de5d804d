//! A share group (KIP-932): members that read the same partitions together.
//!
//! As in the newer kind of consumer groups a member says by heartbeat what it wants, and the answer
//! says what it may read. But members may read the same partition, so nobody has to give one up
//! before another gets it: whoever is heard in an epoch has its share of that epoch. Who gets which
//! record is not decided here: see [`crate::share`].
//!
//! The shares follow from the members and the topics alone ([`Share::shares`]), so they are not
//! written down. What is, changes only by [`Share::replay`]: a decision works on a copy, which takes
//! the place of the original when its records are durable.
//!
//! Start reading at [`Share::heartbeat`].

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tidemill_net::kafka::ErrorCode;
use tidemill_net::kafka::consumer_group_heartbeat::{JOIN_EPOCH as JOIN, LEAVE_EPOCH as LEAVE};
use tidemill_net::kafka::describe_groups::{group_type, state};
use tidemill_record::TopicId;
use tidemill_replication::metadata::{Image, Topic};

use super::assignment::Partitions;
use super::consumer::Refusal;
use super::decision::{Becomes, Decision};
use super::record::{Record, ShareRecord, ShareSubscription};
use super::request::{
    Heard, Listed, MemberId, ShareDescription, ShareHeartbeat, ShareMemberDescription,
};
use super::session::Sessions;
use super::timers::{TimerId, Timers};
use crate::limits::SHARE_MEMBERS_MAX;

/// Kafka's name of the one way in which share groups share out.
const ASSIGNOR: &str = "simple";

/// How long a member may be silent that was not heard since the start, in a group that is set to
/// nothing.
const SESSION: Duration = Duration::from_secs(45);

/// What groups of this kind say they are.
const PROTOCOL_TYPE: &str = "share";

/// What is remembered of a group.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Share {
    epoch: i32,
    /// Changes when a topic that is read comes, goes or grows.
    topics_hash: i64,
    members: BTreeMap<MemberId, Arc<ShareSubscription>>,
    /// What they take in memory, about.
    bytes: usize,
}

/// What is waited for in a share group, and what its members were told.
#[derive(Debug, Default)]
pub(super) struct ShareWatch {
    sessions: Sessions,
    /// The epoch each member is in and the one it was in before; after a start nobody knows.
    told: BTreeMap<MemberId, (i32, i32)>,
    /// The metadata it was last compared with.
    seen: Option<u64>,
}

impl ShareWatch {
    /// Nothing is waited for any more.
    pub(super) fn end(&mut self, timers: &mut Timers) {
        self.told.clear();
        self.sessions.end(timers);
    }

    fn forget(&mut self, member: &MemberId, timers: &mut Timers) {
        self.told.remove(member);
        self.sessions.forget(member, timers);
    }

    fn tell(&mut self, member: &MemberId, epoch: i32) {
        let told = self.told.entry(Arc::clone(member)).or_insert((epoch, epoch));
        if told.0 != epoch {
            *told = (epoch, told.0);
        }
    }
}

impl ShareHeartbeat {
    /// Whether the member joins.
    pub(super) fn joins(&self) -> bool {
        self.epoch == JOIN
    }

    /// Checks what can be checked without knowing the group.
    fn check(&self) -> Result<(), Refusal> {
        let invalid = |message: &str| refuse(ErrorCode::InvalidRequest, message);
        if self.member.is_empty() {
            return invalid("MemberId can't be empty.");
        }
        if self.rack.as_deref() == Some("") {
            return invalid("RackId can't be empty.");
        }
        if self.epoch < LEAVE {
            return invalid("MemberEpoch is invalid.");
        }
        if self.joins() && self.topics.as_ref().is_none_or(Vec::is_empty) {
            return invalid("SubscribedTopicNames must be set in first request.");
        }
        Ok(())
    }
}

impl Share {
    /// Lets a record have happened. The end of the group is not its own affair.
    pub(super) fn replay(&mut self, change: &ShareRecord) {
        match change {
            ShareRecord::Epoch(Some((epoch, hash))) => {
                (self.epoch, self.topics_hash) = (*epoch, *hash);
            }
            ShareRecord::Epoch(None) => {}
            ShareRecord::Member(id, Some(wants)) => {
                self.bytes += bytes_of(wants);
                let before = self.members.insert(Arc::clone(id), Arc::new(wants.clone()));
                self.bytes -= before.map_or(0, |wants| bytes_of(&wants));
            }
            ShareRecord::Member(id, None) => {
                let before = self.members.remove(id);
                self.bytes -= before.map_or(0, |wants| bytes_of(&wants));
            }
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// What it takes in memory, about.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether that is what there is.
    fn is_counted(&self) -> bool {
        self.members.values().map(|wants| bytes_of(wants)).sum::<usize>() == self.bytes
    }

    /// From now on all members are expected to speak up: those of whom that is not expected yet.
    pub(super) fn expect_all(&self, watch: &mut ShareWatch, decision: &mut Decision<'_>) {
        debug_assert!(self.is_counted());
        watch.seen = None;
        let session_ms = decision.set_ms("share.session.timeout.ms");
        let timeout = session_ms.map_or(SESSION, Duration::from_millis);
        for id in self.members.keys() {
            if !watch.sessions.has(id) {
                watch.sessions.touch(id, timeout, decision);
            }
        }
    }

    /// There is such a group from now on, with nobody in it: who begins elsewhere is there before its
    /// first member.
    pub(super) fn make(&self, decision: &mut Decision<'_>) {
        let change = ShareRecord::Epoch(Some((self.epoch, self.topics_hash)));
        self.clone().finish(vec![change], decision);
    }

    // Heartbeats.

    /// A member says how it is, and is told what it may read.
    pub(super) fn heartbeat(
        &self,
        asked: &ShareHeartbeat,
        watch: &mut ShareWatch,
        decision: &mut Decision<'_>,
    ) -> Result<Heard, Refusal> {
        asked.check()?;
        let id = &asked.member;
        let known = self.members.get(id);
        if asked.epoch == LEAVE {
            if known.is_none() {
                return unknown(id);
            }
            self.remove(id, watch, decision);
            return Ok(Heard {
                member: Arc::clone(id),
                epoch: LEAVE,
                assignment: None,
                heartbeat_ms: None,
            });
        }
        if known.is_none() && SHARE_MEMBERS_MAX <= self.members.len() {
            let message = format!(
                "The share group has reached its maximum capacity of {SHARE_MEMBERS_MAX} members."
            );
            return refuse(ErrorCode::GroupMaxSizeReached, message);
        }
        if !asked.joins() {
            self.check_epoch(asked, watch)?;
        }
        let seen = Some(decision.image.records_replayed());
        let wants = updated(known, asked);
        let hash = match watch.seen == seen {
            true => self.topics_hash,
            false => self.hash_topics(decision.image),
        };
        let is_other = known.is_none_or(|known| known.topics != wants.topics);
        let mut changes = Vec::new();
        if known.is_none_or(|known| **known != wants) {
            changes.push(ShareRecord::Member(Arc::clone(id), Some(wants)));
        }
        let mut group = None;
        if is_other || hash != self.topics_hash || !changes.is_empty() {
            let mut draft = self.clone();
            changes.iter().for_each(|change| draft.replay(change));
            draft.next_epoch_if(is_other, decision.image, &mut changes);
            group = Some(draft);
        }
        watch.seen = seen;
        watch.sessions.touch(id, asked.session, decision);
        let now = group.as_ref().unwrap_or(self);
        let epoch = now.epoch;
        watch.tell(id, epoch);
        let told = asked.topics.is_some() || asked.epoch != epoch;
        let assignment = told.then(|| now.share_of(id, decision.image));
        if let Some(group) = group {
            group.finish(changes, decision);
        }
        Ok(Heard { member: Arc::clone(id), epoch, assignment, heartbeat_ms: None })
    }

    fn check_epoch(&self, asked: &ShareHeartbeat, watch: &ShareWatch) -> Result<(), Refusal> {
        let id = &asked.member;
        if !self.members.contains_key(id) {
            return unknown(id);
        }
        let told = watch.told.get(id);
        let fits = match told {
            Some((epoch, before)) => asked.epoch == *epoch || asked.epoch == *before,
            None => asked.epoch <= self.epoch,
        };
        if !fits {
            let is = told.map_or(self.epoch, |(epoch, _)| *epoch);
            let message = format!("The share group member has epoch {is}, not {}.", asked.epoch);
            return refuse(ErrorCode::FencedMemberEpoch, message);
        }
        Ok(())
    }

    /// The timer of a member's session has gone off.
    pub(super) fn session_is_over(
        &self,
        timer: TimerId,
        id: &MemberId,
        watch: &mut ShareWatch,
        decision: &mut Decision<'_>,
    ) {
        if watch.sessions.is_over(timer, id, decision) {
            self.remove(id, watch, decision);
        }
    }

    /// A member is out; what it had goes to others.
    fn remove(&self, id: &MemberId, watch: &mut ShareWatch, decision: &mut Decision<'_>) {
        watch.forget(id, decision.timers);
        if !self.members.contains_key(id) {
            return;
        }
        let mut draft = self.clone();
        let mut changes = vec![ShareRecord::Member(Arc::clone(id), None)];
        draft.replay(&changes[0]);
        draft.next_epoch_if(true, decision.image, &mut changes);
        draft.finish(changes, decision);
    }

    /// Enters the next epoch if that is `due`, or the topics that are read have changed.
    fn next_epoch_if(&mut self, due: bool, image: &Image, changes: &mut Vec<ShareRecord>) {
        let hash = self.hash_topics(image);
        if due || hash != self.topics_hash {
            let epoch = self.epoch.checked_add(1).unwrap_or(1);
            let change = ShareRecord::Epoch(Some((epoch, hash)));
            self.replay(&change);
            changes.push(change);
        }
    }

    /// Has the group become this when the records are durable; nothing else happens to it until
    /// then.
    fn finish(self, changes: Vec<ShareRecord>, decision: &mut Decision<'_>) {
        debug_assert!(self.is_counted());
        if changes.is_empty() {
            return;
        }
        let group = decision.group;
        let records = changes.into_iter().map(|change| record(group, change));
        decision.outcome.records.extend(records);
        decision.outcome.blocks = true;
        decision.outcome.becomes = Some(Becomes::Share(Box::new(self)));
    }

    // Shares.

    /// What each member may read: each partition is with one member at least, each member has one
    /// at least if it wants any, and all have about the same number. Where there are more members
    /// than partitions, members read partitions together.
    fn shares(&self, image: &Image) -> BTreeMap<&MemberId, Partitions> {
        let mut shares: BTreeMap<&MemberId, Partitions> =
            self.members.keys().map(|id| (id, Partitions::new())).collect();
        let wanted = |wants: &ShareSubscription| -> BTreeMap<TopicId, usize> {
            let topics = wants.topics.iter().filter_map(|name| image.topic_named(name));
            topics.map(|topic| (topic.id, topic.partitions.len())).collect()
        };
        let by_member: Vec<(&MemberId, BTreeMap<TopicId, usize>)> =
            self.members.iter().map(|(id, wants)| (id, wanted(wants))).collect();
        let Some((_, first)) = by_member.first() else { return shares };
        let partitions = |topics: &BTreeMap<TopicId, usize>| -> Vec<(TopicId, i32)> {
            let all = topics.iter();
            all.flat_map(|(id, count)| (0..*count).map(|number| (*id, number as i32))).collect()
        };
        if by_member.iter().all(|(_, topics)| topics == first) {
            let members: Vec<&MemberId> = by_member.iter().map(|(id, _)| *id).collect();
            deal(&members, &partitions(first), &mut shares);
            return shares;
        }
        let mut topics: BTreeMap<TopicId, usize> = BTreeMap::new();
        by_member.iter().for_each(|(_, wanted)| topics.extend(wanted));
        for (id, count) in topics {
            let members: Vec<&MemberId> = by_member
                .iter()
                .filter(|(_, wanted)| wanted.contains_key(&id))
                .map(|(member, _)| *member)
                .collect();
            deal(&members, &partitions(&BTreeMap::from([(id, count)])), &mut shares);
        }
        shares
    }

    fn share_of(&self, id: &MemberId, image: &Image) -> Partitions {
        self.shares(image).remove(id).unwrap_or_default()
    }

    /// A number that changes with the topics that are read.
    fn hash_topics(&self, image: &Image) -> i64 {
        let names: BTreeSet<&Arc<str>> =
            self.members.values().flat_map(|wants| &wants.topics).collect();
        let topics = names.into_iter().filter_map(|name| image.topic_named(name));
        let topics: BTreeMap<TopicId, &Arc<Topic>> =
            topics.map(|topic| (topic.id, topic)).collect();
        super::consumer::hash_of_topics(&topics)
    }

    // Looking.

    fn state(&self) -> &'static str {
        if self.members.is_empty() { state::EMPTY } else { state::STABLE }
    }

    pub(super) fn listed(&self, group: &Arc<str>) -> Listed {
        Listed {
            group: Arc::clone(group),
            protocol_type: PROTOCOL_TYPE.into(),
            state: self.state(),
            kind: group_type::SHARE,
        }
    }

    pub(super) fn describe(&self, watch: &ShareWatch, image: &Image) -> ShareDescription {
        let mut shares = self.shares(image);
        let named = |partitions: Partitions| {
            let topics = partitions.into_iter().filter_map(|(id, numbers)| {
                let name = Arc::clone(&image.topic(id)?.name);
                Some((id, name, numbers.into_iter().collect()))
            });
            topics.collect()
        };
        let members = self.members.iter().map(|(id, wants)| ShareMemberDescription {
            member: Arc::clone(id),
            epoch: watch.told.get(id).map_or(self.epoch, |(epoch, _)| *epoch),
            wants: (**wants).clone(),
            assigned: named(shares.remove(id).unwrap_or_default()),
        });
        ShareDescription {
            state: self.state(),
            epoch: self.epoch,
            assignor: ASSIGNOR,
            members: members.collect(),
        }
    }

    // Remembering.

    /// The records that say what the group is, its members aside.
    pub(super) fn records(&self, group: &Arc<str>) -> Vec<Record> {
        vec![record(group, ShareRecord::Epoch(Some((self.epoch, self.topics_hash))))]
    }

    /// The members after `after`, each with the record that says what it is.
    pub(super) fn records_of_members<'a>(
        &'a self,
        group: &'a Arc<str>,
        after: Option<&MemberId>,
    ) -> impl Iterator<Item = (&'a MemberId, Vec<Record>)> {
        use std::ops::Bound;
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let members = self.members.range::<MemberId, _>((from, Bound::Unbounded));
        members.map(move |(id, wants)| {
            let change = ShareRecord::Member(Arc::clone(id), Some((**wants).clone()));
            (id, vec![record(group, change)])
        })
    }

    /// The record that forgets a group without members.
    pub(super) fn removal(group: &Arc<str>) -> Record {
        record(group, ShareRecord::Epoch(None))
    }
}

/// Deals partitions to members in turn, as often as it takes until all have something.
fn deal(
    members: &[&MemberId],
    partitions: &[(TopicId, i32)],
    shares: &mut BTreeMap<&MemberId, Partitions>,
) {
    if members.is_empty() || partitions.is_empty() {
        return;
    }
    for turn in 0..members.len().max(partitions.len()) {
        let (topic, number) = partitions[turn % partitions.len()];
        let share = shares.get_mut(members[turn % members.len()]).expect("all are in it");
        share.entry(topic).or_default().insert(number);
    }
}

/// What a member wants from now on: what it leaves out is as before.
fn updated(before: Option<&Arc<ShareSubscription>>, asked: &ShareHeartbeat) -> ShareSubscription {
    let before = before.map(|before| (**before).clone()).unwrap_or_default();
    let topics = asked.topics.clone().map(|mut topics| {
        topics.sort_unstable();
        topics.dedup();
        topics
    });
    ShareSubscription {
        rack: asked.rack.clone().or(before.rack),
        client_id: Arc::clone(&asked.client_id),
        client_host: Arc::clone(&asked.client_host),
        topics: topics.unwrap_or(before.topics),
    }
}

fn bytes_of(wants: &ShareSubscription) -> usize {
    let topics: usize = wants.topics.iter().map(|topic| topic.len() + 16).sum();
    size_of::<ShareSubscription>() + wants.client_id.len() + wants.client_host.len() + topics
}

fn record(group: &Arc<str>, change: ShareRecord) -> Record {
    Record::Share { group: Arc::clone(group), change }
}

fn unknown<T>(id: &MemberId) -> Result<T, Refusal> {
    refuse(ErrorCode::UnknownMemberId, format!("Member {id} is not a member."))
}

fn refuse<T>(error: ErrorCode, message: impl Into<String>) -> Result<T, Refusal> {
    Err(Refusal { error, message: message.into() })
}
