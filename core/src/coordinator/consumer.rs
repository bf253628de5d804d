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
//! works on a copy, which takes the place of the original when its records are durable.
//!
//! Members that speak the classic protocol may be among the others ([`super::migration`]): what they
//! ask is in [`classic_members`].
//!
//! This file holds the state; [`heartbeat`] what members ask. Start reading there.

mod classic_members;
mod heartbeat;
mod migration;
mod reconcile;

pub(super) use heartbeat::Refusal;
pub(super) use migration::Upgraded;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use regex::{Regex, RegexBuilder};
use tidemill_net::kafka::ErrorCode;
use tidemill_net::kafka::consumer_group_heartbeat::STATIC_LEAVE_EPOCH as AWAY;
use tidemill_net::kafka::describe_groups::{group_type, state};
use tidemill_record::TopicId;
use tidemill_replication::metadata::{Image, Topic};

use super::assignment::{Assignor, Partitions};
use super::decision::Decision;
use super::member::said_bytes;
use super::record::{ClassicMember, ConsumerRecord, Current, Record, State, Subscription};
use super::request::{
    Commit, ConsumerDescription, ConsumerMemberDescription, Listed, MemberId, SharedPartitions,
};
use super::session::Sessions;
use super::timers::{Alarm, TimerId, Timers};

/// How much memory a pattern of topics may take when it is made ready.
const REGEX_BYTES_MAX: usize = 1 << 20;

/// What is remembered of a group.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Consumer {
    epoch: i32,
    /// Changes when a topic that is read comes, goes or grows.
    topics_hash: i64,
    assignment_epoch: i32,
    members: BTreeMap<MemberId, Arc<Member>>,
    /// How many of them speak the newer protocol.
    speak_newer: usize,
    targets: BTreeMap<MemberId, Arc<Partitions>>,
    statics: BTreeMap<Arc<str>, MemberId>,
    /// By how many members each partition is held.
    held: BTreeMap<(TopicId, i32), u32>,
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
}

impl Watch {
    /// Nothing is waited for any more.
    pub(super) fn end(&mut self, timers: &mut Timers) {
        self.sessions.end(timers);
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
                let old = self.members.get(id).map(|member| &member.wants);
                self.speak_newer -= usize::from(old.is_some_and(Subscription::speaks_newer));
                self.speak_newer += usize::from(wants.speaks_newer());
                let member = self.members.entry(Arc::clone(id)).or_default();
                Arc::make_mut(member).wants = wants.clone();
            }
            ConsumerRecord::Member(id, None) => self.remove(id),
            ConsumerRecord::Target(id, Some(share)) => {
                self.targets.insert(Arc::clone(id), Arc::new(share.clone()));
            }
            ConsumerRecord::Target(id, None) => {
                self.targets.remove(id);
            }
            ConsumerRecord::Current(id, has) => self.hold(id, has.clone().unwrap_or_default()),
        }
    }

    fn remove(&mut self, id: &MemberId) {
        self.hold(id, Current::default());
        let Some(member) = self.members.remove(id) else { return };
        self.speak_newer -= usize::from(member.wants.speaks_newer());
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
            if let Some(count) = self.held.get_mut(&place) {
                *count -= 1;
                if *count == 0 {
                    self.held.remove(&place);
                }
            }
        }
        for place in held_by(&has) {
            *self.held.entry(place).or_default() += 1;
        }
        let member = Arc::make_mut(member);
        // Whoever is away or joins comes back as somebody new.
        let was_in = 0 < member.has.epoch;
        let known = |place: &(TopicId, i32)| member.since.get(place).copied().filter(|_| was_in);
        let since = held_by(&has).map(|place| (place, known(&place).unwrap_or(has.epoch)));
        member.since = since.collect();
        member.has = has;
    }

    pub(super) fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// What it takes in memory, about.
    pub(super) fn bytes(&self) -> usize {
        let members = self.members.values().map(|member| {
            let wants = &member.wants;
            let topics: usize = wants.topics.iter().map(|topic| topic.len() + 16).sum();
            let classic = wants.classic.as_ref();
            let said = classic.map_or(0, |classic| said_bytes(&classic.protocols));
            let client = wants.client_id.len() + wants.client_host.len();
            size_of::<Member>() + client + topics + said + 32 * member.since.len()
        });
        let targets = self.targets.values().map(|share| bytes_of(share));
        members.sum::<usize>() + targets.sum::<usize>() + 64 * self.held.len()
    }

    /// From now on all members are expected to speak up, and to give up what they are to: those of
    /// whom that is not expected yet. So it is when the state was replayed; and when a change could
    /// not be written, by which somebody would have been out.
    pub(super) fn expect_all(&self, watch: &mut Watch, decision: &mut Decision<'_>) {
        watch.seen = None;
        for (id, member) in &self.members {
            if !watch.sessions.has(id) {
                watch.touch(id, member.wants.classic.as_ref(), decision);
            }
            if member.has.state == State::Unrevoked {
                watch.await_revocation(id, member, decision);
            }
        }
    }

    // Topics.

    /// The topics that each member wants and that there are; the pattern of `early` not counted.
    fn topics_of_members<'a>(
        &self,
        early: Option<&MemberId>,
        image: &'a Image,
    ) -> BTreeMap<&MemberId, BTreeMap<TopicId, &'a Arc<Topic>>> {
        let mut by_regex: BTreeMap<&str, Vec<&'a Arc<Topic>>> = BTreeMap::new();
        let mut all = BTreeMap::new();
        for (id, member) in &self.members {
            let named = member.wants.topics.iter().filter_map(|name| image.topic_named(name));
            let mut topics: BTreeMap<TopicId, &Arc<Topic>> =
                named.map(|topic| (topic.id, topic)).collect();
            if let Some(regex) = member.wants.pattern().filter(|_| early != Some(id)) {
                let matching = by_regex.entry(regex).or_insert_with(|| matching(regex, image));
                topics.extend(matching.iter().map(|topic| (topic.id, *topic)));
            }
            all.insert(id, topics);
        }
        all
    }

    /// A number that changes with the topics that are read, and when the pattern of a member that
    /// was `early` comes to count.
    fn hash_topics(&self, early: Option<&MemberId>, image: &Image) -> i64 {
        let hash = hash_of_topics(&self.topics_read(early, image));
        if early.is_some() { !hash } else { hash }
    }

    /// All topics that are read and that there are; the pattern of `early` not counted.
    fn topics_read<'a>(
        &self,
        early: Option<&MemberId>,
        image: &'a Image,
    ) -> BTreeMap<TopicId, &'a Arc<Topic>> {
        let names = self.members.values().flat_map(|member| &member.wants.topics);
        let names: BTreeSet<&Arc<str>> = names.collect();
        let named = names.into_iter().filter_map(|name| image.topic_named(name));
        let others = self.members.iter().filter(|(id, _)| early != Some(id));
        let patterns: BTreeSet<&str> =
            others.filter_map(|(_, member)| member.wants.pattern()).collect();
        let matching = patterns.into_iter().flat_map(|regex| matching(regex, image));
        named.chain(matching).map(|topic| (topic.id, topic)).collect()
    }

    /// The patterns that members give, each once.
    fn patterns(&self) -> BTreeSet<&str> {
        self.members.values().filter_map(|member| member.wants.pattern()).collect()
    }

    /// Tells of topics whether a member reads them.
    pub(super) fn readers(&self) -> impl Fn(&str) -> bool {
        let names = self.members.values().flat_map(|member| &member.wants.topics);
        let names: BTreeSet<&str> = names.map(|name| &**name).collect();
        let patterns: Vec<Regex> =
            self.patterns().into_iter().filter_map(|regex| compile(regex).ok()).collect();
        move |topic| names.contains(topic) || patterns.iter().any(|regex| regex.is_match(topic))
    }

    fn assignor(&self) -> Assignor {
        let asked = self.members.values().filter_map(|member| member.wants.assignor.as_deref());
        let asked: Vec<Assignor> = asked.filter_map(Assignor::from_name).collect();
        let votes = |assignor: &Assignor| asked.iter().filter(|one| *one == assignor).count();
        // The first of those that most ask for: nobody asks, and it is the default.
        let mut best = Assignor::default();
        for assignor in Assignor::ALL {
            if votes(&best) < votes(&assignor) {
                best = assignor;
            }
        }
        best
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
            assignor: self.assignor().name(),
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
        use std::ops::Bound;
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let members = self.members.range::<MemberId, _>((from, Bound::Unbounded));
        members.map(move |(id, member)| {
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

/// A number that changes when one of these topics comes, goes or grows.
pub(super) fn hash_of_topics(topics: &BTreeMap<TopicId, &Arc<Topic>>) -> i64 {
    // FNV-1a, by Fowler, Noll and Vo. Nobody is to be deceived: only changes must show.
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for (id, topic) in topics {
        let partitions = topic.partitions.len() as u32;
        for byte in id.0.into_iter().chain(partitions.to_be_bytes()) {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }
    if topics.is_empty() { 0 } else { hash as i64 }
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

/// All topics whose whole name matches.
fn matching<'a>(regex: &str, image: &'a Image) -> Vec<&'a Arc<Topic>> {
    let Ok(regex) = compile(regex) else { return Vec::new() };
    image.topics().filter(|topic| regex.is_match(&topic.name)).collect()
}

/// Makes a pattern of topics ready. As in Kafka it must match the whole name.
fn compile(regex: &str) -> Result<Regex, regex::Error> {
    let build = |regex: &str| RegexBuilder::new(regex).size_limit(REGEX_BYTES_MAX).build();
    // It must be one by itself: `a)|(?:b` would close what is put around it here.
    build(regex)?;
    build(&format!("^(?:{regex})$"))
}
