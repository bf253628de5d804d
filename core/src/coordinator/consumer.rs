//! A group of the newer kind (KIP-848): the coordinator shares out, and each member moves to its
//! share in its own time.
//!
//! ```text
//! group epoch ──── grows when members or their topics change
//!    └─ shares, made for an epoch (the target)
//!         └─ each member: gives up what others are to have, then takes what has become free
//! ```
//!
//! A member says by heartbeat what it wants and what it reads; the answer says what it may read.
//! A partition goes to its new owner only when the old one has said that it has let go of it, or is
//! gone. So at no time do two members read a partition, and nobody waits for a round of everybody.
//!
//! All of [`Consumer`] outlives the process, and changes only by [`Consumer::replay`]: a decision
//! works on a copy, which takes the place of the original when its records are durable. A copy costs
//! nothing ([`super::fork_map`]), and what concerns all members is counted ([`tally`]), so that what
//! one member does costs the same in a large group. Sharing out alone looks at everybody ([`shares`]).
//!
//! Members that speak the classic protocol may be among the others ([`super::migration`]): what they
//! ask is in [`classic_members`].
//!
//! This file holds the state; [`heartbeat`] what members ask. Start reading there.

mod classic_members;
mod heartbeat;
mod migration;
mod reconcile;
mod shares;
mod tally;
mod topics;

pub(super) use heartbeat::Refusal;
pub(super) use migration::Upgraded;
pub(super) use topics::hash_of_topics;

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;
use std::time::Duration;

use tidemill_net::kafka::ErrorCode;
use tidemill_net::kafka::consumer_group_heartbeat::STATIC_LEAVE_EPOCH as AWAY;
use tidemill_net::kafka::describe_groups::{group_type, state};
use tidemill_record::TopicId;
use tidemill_replication::metadata::Image;

use self::tally::Tally;
use super::assignment::Partitions;
use super::decision::Decision;
use super::fork_map::ForkMap;
use super::record::{ClassicMember, ConsumerRecord, Current, Record, State, Subscription};
use super::request::{
    Commit, ConsumerDescription, ConsumerMemberDescription, Listed, MemberId, SharedPartitions,
};
use super::session::Sessions;
use super::timers::{Alarm, TimerId, Timers};

/// What a partition takes in memory that is held, and that a member has, about.
const HELD_BYTES: usize = 64;
const SINCE_BYTES: usize = 32;

/// What is remembered of a group.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Consumer {
    epoch: i32,
    /// Changes when a topic that is read comes, goes or grows.
    topics_hash: i64,
    assignment_epoch: i32,
    members: ForkMap<MemberId, Arc<Member>>,
    /// The members, counted.
    tally: Tally,
    targets: ForkMap<MemberId, Arc<Partitions>>,
    statics: ForkMap<Arc<str>, MemberId>,
    /// By how many members each partition is held.
    held: ForkMap<(TopicId, i32), usize>,
    /// What members and shares take in memory, about.
    bytes: usize,
}

/// A member of the group.
#[derive(Clone, Debug, Default, PartialEq)]
struct Member {
    wants: Subscription,
    has: Current,
    /// Since which of its epochs it has had each partition. Not remembered over a restart: then it
    /// is the epoch in which the member was last written down, which is no earlier.
    since: BTreeMap<(TopicId, i32), i32>,
}

/// What is waited for in a group of the newer kind, and what was looked at.
#[derive(Debug, Default)]
pub(super) struct Watch {
    sessions: Sessions,
    /// Members that are to give something up, and the epoch they were in when they were told; classic
    /// members that are to join or to sync.
    revocations: BTreeMap<MemberId, (TimerId, i32)>,
    /// The metadata it was last compared with.
    seen: Option<u64>,
    /// The epoch, and what members take in memory, in which a group of classic members alone could
    /// not become a classic one.
    stays: Option<(i32, usize)>,
}

impl Watch {
    /// Nothing is waited for any more.
    pub(super) fn end(&mut self, timers: &mut Timers) {
        self.sessions.end(timers);
        self.stays = None;
        for (timer, _) in std::mem::take(&mut self.revocations).into_values() {
            timers.cancel(&mut Some(timer));
        }
    }

    fn forget(&mut self, member: &MemberId, timers: &mut Timers) {
        self.sessions.forget(member, timers);
        self.stop_revocation(member, timers);
    }

    fn stop_revocation(&mut self, member: &MemberId, timers: &mut Timers) {
        if let Some((timer, _)) = self.revocations.remove(member) {
            timers.cancel(&mut Some(timer));
        }
    }

    /// A member lives; a classic one has a session of its own.
    fn touch(
        &mut self,
        member: &MemberId,
        classic: Option<&ClassicMember>,
        decision: &mut Decision<'_>,
    ) {
        let of_group = || decision.set_ms("consumer.session.timeout.ms").map(Duration::from_millis);
        let own = classic.map(ClassicMember::session).or_else(of_group);
        let timeout = own.unwrap_or(decision.rules.consumer_session);
        self.sessions.touch(member, timeout, decision);
    }

    fn await_revocation(&mut self, id: &MemberId, member: &Member, decision: &mut Decision<'_>) {
        if self.revocations.get(id).is_some_and(|(_, epoch)| *epoch == member.has.epoch) {
            return;
        }
        self.await_step(id, member, decision);
    }

    /// A member has its rebalance timeout from now on for its next step.
    fn await_step(&mut self, id: &MemberId, member: &Member, decision: &mut Decision<'_>) {
        self.stop_revocation(id, decision.timers);
        let ms = u64::try_from(member.wants.rebalance_ms).unwrap_or(0);
        let at = decision.times.now.after(Duration::from_millis(ms));
        let alarm = Alarm::Revocation(Arc::clone(id));
        let timer = decision.timers.set(at, decision.group, alarm);
        self.revocations.insert(Arc::clone(id), (timer, member.has.epoch));
    }
}

impl Consumer {
    /// Lets a record have happened. The end of the group is not its own affair.
    pub(super) fn replay(&mut self, change: &ConsumerRecord) {
        match change {
            ConsumerRecord::Epoch(Some((epoch, hash))) => {
                (self.epoch, self.topics_hash) = (*epoch, *hash);
            }
            ConsumerRecord::Epoch(None) => {}
            ConsumerRecord::TargetEpoch(epoch) => self.assignment_epoch = epoch.unwrap_or(0),
            ConsumerRecord::Member(id, Some(wants)) => {
                if let Some(instance) = &wants.instance {
                    self.statics.insert(Arc::clone(instance), Arc::clone(id));
                }
                self.tally.comes(wants);
                self.bytes += Tally::bytes_of(wants);
                if let Some(member) = self.members.get_mut(id) {
                    self.tally.goes(&member.wants);
                    self.bytes -= Tally::bytes_of(&member.wants);
                    Arc::make_mut(member).wants = wants.clone();
                } else {
                    let member = Member { wants: wants.clone(), ..Member::default() };
                    self.members.insert(Arc::clone(id), Arc::new(member));
                    self.bytes += size_of::<Member>();
                }
            }
            ConsumerRecord::Member(id, None) => self.remove(id),
            ConsumerRecord::Target(id, Some(share)) => {
                self.bytes += bytes_of(share);
                self.bytes -= self.targets.get(id).map_or(0, |share| bytes_of(share));
                self.targets.insert(Arc::clone(id), Arc::new(share.clone()));
            }
            ConsumerRecord::Target(id, None) => {
                self.bytes -= self.targets.get(id).map_or(0, |share| bytes_of(share));
                self.targets.remove(id);
            }
            ConsumerRecord::Current(id, has) => self.hold(id, has.clone().unwrap_or_default()),
        }
    }

    fn remove(&mut self, id: &MemberId) {
        self.hold(id, Current::default());
        let Some(member) = self.members.get(id).cloned() else { return };
        self.members.remove(id);
        self.tally.goes(&member.wants);
        self.bytes -= size_of::<Member>() + Tally::bytes_of(&member.wants);
        if let Some(instance) = &member.wants.instance
            && self.statics.get(instance) == Some(id)
        {
            self.statics.remove(instance);
        }
    }

    /// What a member holds is this from now on.
    fn hold(&mut self, id: &MemberId, has: Current) {
        let Some(member) = self.members.get_mut(id) else { return };
        for place in held_by(&member.has) {
            self.held.count_down(&place);
        }
        for place in held_by(&has) {
            self.held.count_up(&place);
        }
        let member = Arc::make_mut(member);
        // Whoever is away or joins comes back as somebody new.
        let was_in = 0 < member.has.epoch;
        let known = |place: &(TopicId, i32)| member.since.get(place).copied().filter(|_| was_in);
        let since = held_by(&has).map(|place| (place, known(&place).unwrap_or(has.epoch)));
        let since: BTreeMap<_, _> = since.collect();
        self.bytes += SINCE_BYTES * since.len();
        self.bytes -= SINCE_BYTES * member.since.len();
        member.since = since;
        member.has = has;
    }

    /// It is what its group has become: its copies are gone.
    pub(super) fn settle(&mut self) {
        let settled = [
            self.tally.settle(),
            self.members.settle(),
            self.targets.settle(),
            self.statics.settle(),
            self.held.settle(),
        ];
        debug_assert_eq!(settled, [true; 5], "nobody else decides meanwhile");
        debug_assert!(self.is_counted());
    }

    /// Whether all that is counted is what there is.
    fn is_counted(&self) -> bool {
        let (mut tally, mut held) = (Tally::default(), ForkMap::default());
        for member in self.members.values() {
            tally.comes(&member.wants);
            held_by(&member.has).for_each(|place| held.count_up(&place));
        }
        let members = self.members.values().map(|member| {
            let since = SINCE_BYTES * member.since.len();
            size_of::<Member>() + Tally::bytes_of(&member.wants) + since
        });
        let targets = self.targets.values().map(|share| bytes_of(share));
        let bytes: usize = members.chain(targets).sum();
        tally == self.tally && held == self.held && bytes == self.bytes
    }

    pub(super) fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// What it takes in memory, about.
    pub(super) fn bytes(&self) -> usize {
        self.bytes + HELD_BYTES * self.held.len()
    }

    /// From now on all members are expected to speak up, and to give up what they are to: those of
    /// whom that is not expected yet. So it is when the state was replayed; and when a change could
    /// not be written, by which somebody would have been out.
    pub(super) fn expect_all(&self, watch: &mut Watch, decision: &mut Decision<'_>) {
        debug_assert!(self.is_counted());
        (watch.seen, watch.stays) = (None, None);
        for (id, member) in self.members.iter() {
            if !watch.sessions.has(id) {
                watch.touch(id, member.wants.classic.as_ref(), decision);
            }
            if member.has.state == State::Unrevoked {
                watch.await_revocation(id, member, decision);
            }
        }
    }

    // Looking.

    fn state(&self) -> &'static str {
        let settled = |member: &Arc<Member>| member.is_settled(self.assignment_epoch);
        if self.members.is_empty() {
            state::EMPTY
        } else if self.assignment_epoch < self.epoch {
            state::ASSIGNING
        } else if self.members.values().all(settled) {
            state::STABLE
        } else {
            state::RECONCILING
        }
    }

    pub(super) fn listed(&self, group: &Arc<str>) -> Listed {
        Listed {
            group: Arc::clone(group),
            protocol_type: tidemill_net::kafka::consumer_protocol::PROTOCOL_TYPE.into(),
            state: self.state(),
            kind: group_type::CONSUMER,
        }
    }

    pub(super) fn describe(&self, image: &Image) -> ConsumerDescription {
        let named = |partitions: &Partitions| -> SharedPartitions {
            let topics = partitions.iter().filter_map(|(id, numbers)| {
                let name = Arc::clone(&image.topic(*id)?.name);
                Some((*id, name, numbers.iter().copied().collect()))
            });
            topics.collect()
        };
        let members = self.members.iter().map(|(id, member)| ConsumerMemberDescription {
            member: Arc::clone(id),
            epoch: member.has.epoch,
            wants: member.wants.clone(),
            assigned: named(&member.has.assigned),
            target: self.targets.get(id).map(|share| named(share)).unwrap_or_default(),
        });
        ConsumerDescription {
            state: self.state(),
            epoch: self.epoch,
            assignment_epoch: self.assignment_epoch,
            assignor: self.tally.assignor().name(),
            members: members.collect(),
        }
    }

    /// Whether offsets may be committed in this name. A member that has not heard of its epoch yet
    /// may commit in an earlier one what it has had since then (KIP-1251): whose heartbeats and
    /// commits overtake each other is not fenced for that.
    pub(super) fn check_commit(&self, commit: &Commit, image: &Image) -> Result<(), ErrorCode> {
        if commit.who.generation < 0 && self.members.is_empty() {
            return Ok(());
        }
        let Some(member) = self.members.get(&commit.who.member) else {
            return Err(ErrorCode::UnknownMemberId);
        };
        if !commit.knows_epochs && member.wants.classic.is_none() {
            return Err(ErrorCode::UnsupportedVersion);
        }
        let epoch = commit.who.generation;
        let is_had = |topic: &str, number: i32| {
            let since = image.topic_named(topic).and_then(|t| member.since.get(&(t.id, number)));
            since.is_some_and(|since| *since <= epoch)
        };
        let mut offsets = commit.offsets.iter();
        let is_allowed = epoch == member.has.epoch
            || epoch < member.has.epoch && offsets.all(|(topic, number, _)| is_had(topic, *number));
        if is_allowed { Ok(()) } else { Err(member.is_in_another_epoch()) }
    }

    /// Whether somebody may fetch offsets in this name; anybody may who gives none.
    pub(super) fn check_fetch(&self, member: Option<&str>, epoch: i32) -> Result<(), ErrorCode> {
        match member {
            None if epoch < 0 => Ok(()),
            member => self.check_epoch(member.unwrap_or_default(), epoch),
        }
    }

    fn check_epoch(&self, member: &str, epoch: i32) -> Result<(), ErrorCode> {
        match self.members.get(member) {
            None => Err(ErrorCode::UnknownMemberId),
            Some(member) if member.has.epoch == epoch => Ok(()),
            Some(member) => Err(member.is_in_another_epoch()),
        }
    }

    // Remembering.

    /// The records that say what the group is, its members aside.
    pub(super) fn records(&self, group: &Arc<str>) -> Vec<Record> {
        let epoch = ConsumerRecord::Epoch(Some((self.epoch, self.topics_hash)));
        let target = ConsumerRecord::TargetEpoch(Some(self.assignment_epoch));
        [epoch, target].into_iter().map(|change| record(group, change)).collect()
    }

    /// The members after `after`, each with the records that say what it is.
    pub(super) fn records_of_members<'a>(
        &'a self,
        group: &'a Arc<str>,
        after: Option<&MemberId>,
    ) -> impl Iterator<Item = (&'a MemberId, Vec<Record>)> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        self.members.range_from(from).map(move |(id, member)| {
            let wants = ConsumerRecord::Member(Arc::clone(id), Some(member.wants.clone()));
            let target = self.targets.get(id);
            let target =
                target.map(|share| ConsumerRecord::Target(Arc::clone(id), Some((**share).clone())));
            let has = ConsumerRecord::Current(Arc::clone(id), Some(member.has.clone()));
            let all = std::iter::once(wants).chain(target).chain([has]);
            (id, all.map(|change| record(group, change)).collect())
        })
    }

    /// The records that forget a group without members.
    pub(super) fn removal(group: &Arc<str>) -> Vec<Record> {
        let changes = [ConsumerRecord::TargetEpoch(None), ConsumerRecord::Epoch(None)];
        changes.into_iter().map(|change| record(group, change)).collect()
    }
}

impl Member {
    /// How it is told that it names an epoch that it is not in.
    fn is_in_another_epoch(&self) -> ErrorCode {
        match self.wants.classic {
            Some(_) => ErrorCode::IllegalGeneration,
            None => ErrorCode::StaleMemberEpoch,
        }
    }

    /// Whether it has its share of this epoch, and others have theirs of what it had.
    fn is_settled(&self, assignment_epoch: i32) -> bool {
        self.has.state == State::Stable && self.has.epoch == assignment_epoch
    }
}

fn record(group: &Arc<str>, change: ConsumerRecord) -> Record {
    Record::Consumer { group: Arc::clone(group), change }
}

fn held_by(has: &Current) -> impl Iterator<Item = (TopicId, i32)> {
    let all = has.assigned.iter().chain(&has.revoking);
    all.flat_map(|(topic, numbers)| numbers.iter().map(|number| (*topic, *number)))
}

fn bytes_of(partitions: &Partitions) -> usize {
    partitions.values().map(|numbers| 64 + 16 * numbers.len()).sum()
}
