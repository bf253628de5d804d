//! A group of the classic protocol: its members share out among themselves, the coordinator only
//! brings them together (the JoinGroup protocol, with KIP-134, 345, 394, 429 and 814).
//!
//! ```text
//!            first join             all joined, or time is up        leader's sync
//!   Empty ─────────────> Preparing ─────────────────────────> Completing ───────> Stable
//!     ^                    │  ^  ^ a join, a leave, a death     │                    │
//!     └── nobody is left ──┘  └──┴──────────────────────────────┴────────────────────┘
//! ```
//!
//! Each time all have joined, the group enters a new *generation*: one member, the leader, is told
//! who is there, and everybody waits for the shares it brings. What outlives the process is the
//! last generation that was shared out; members are told their shares only once that is durable,
//! so no generation is ever shared out twice.
//!
//! This file holds the state and what clients ask; [`rebalance`] how a generation ends and begins.
//! Start reading at [`Classic::join`].

mod migration;
mod rebalance;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tidemill_net::kafka::describe_groups::{group_type, state};
use tidemill_net::kafka::{ErrorCode, consumer_protocol};

use super::decision::Decision;
use super::member::{Member, said_bytes};
use super::offsets::UnusedSince;
use super::record::{GroupState, Record};
use super::request::{
    Commit, Description, Heartbeat, Join, Joined, Leave, Listed, MemberId, Reply, Sync, Synced, Who,
};
use super::session::Session;
use super::timers::{TimerId, Timers};
use crate::job::ReplyTo;

/// Where a group is in its round.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) enum Phase {
    /// No members.
    #[default]
    Empty,
    /// Members are waited for.
    Preparing,
    /// All have joined; the leader's shares are waited for.
    Completing,
    /// Everybody has its share.
    Stable,
}

impl Phase {
    /// Kafka's name of it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Empty => state::EMPTY,
            Self::Preparing => state::PREPARING_REBALANCE,
            Self::Completing => state::COMPLETING_REBALANCE,
            Self::Stable => state::STABLE,
        }
    }
}

/// The first round of a group that was empty: there is more time to join, as long as somebody new
/// comes.
#[derive(Clone, Copy, Debug)]
struct FirstRound {
    step: Duration,
    left: Duration,
    somebody_came: bool,
}

/// A group of the classic protocol.
#[derive(Debug, Default)]
pub(super) struct Classic {
    phase: Phase,
    /// Set while members of a group that was empty are waited for.
    first_round: Option<FirstRound>,
    /// Since when it is in its phase, in milliseconds of the Unix epoch; none for groups that
    /// never had members.
    since_ms: Option<i64>,
    protocol_type: Option<Arc<str>>,
    protocol: Option<Arc<str>>,
    generation: i32,
    leader: Option<MemberId>,
    members: BTreeMap<MemberId, Member>,
    statics: BTreeMap<Arc<str>, MemberId>,
    /// Names given out that must come again (KIP-394).
    pending: BTreeMap<MemberId, Session>,
    /// Members that have not asked for their share of this generation.
    unsynced: BTreeSet<MemberId>,
    /// How many members have a join waiting.
    joining: usize,
    /// How many members can work with each protocol.
    supported: BTreeMap<Arc<str>, usize>,
    /// The topics its members read, if that is known.
    subscribed: Option<BTreeSet<Arc<str>>>,
    join_timer: Option<TimerId>,
    sync_timer: Option<TimerId>,
    bytes: usize,
}

impl Classic {
    /// As it is remembered.
    pub(super) fn from_state(state: GroupState) -> Self {
        let some = |text: Arc<str>| (!text.is_empty()).then_some(text);
        let mut group = Self {
            phase: if state.members.is_empty() { Phase::Empty } else { Phase::Stable },
            since_ms: (0 <= state.since_ms).then_some(state.since_ms),
            protocol_type: some(state.protocol_type),
            protocol: state.protocol,
            generation: state.generation,
            ..Self::default()
        };
        for member in state.members {
            let id = Arc::clone(&member.member);
            let member = Member::from_state(member, group.protocol.as_ref());
            group.insert(id, member);
        }
        group.leader = state.leader;
        group.subscribed = group.find_subscribed();
        group
    }

    /// As it is to be remembered.
    fn to_state(&self) -> GroupState {
        let protocol = self.protocol.as_deref();
        let members = self.members.iter().map(|(id, member)| member.to_state(id, protocol));
        GroupState {
            protocol_type: self.protocol_type.clone().unwrap_or_default(),
            generation: self.generation,
            protocol: self.protocol.clone(),
            leader: self.leader.clone(),
            since_ms: self.since_ms.unwrap_or(-1),
            members: members.collect(),
        }
    }

    pub(super) fn to_record(&self, group: &Arc<str>) -> Record {
        Record::Group { group: Arc::clone(group), state: self.to_state() }
    }

    /// The state was replayed, or comes from another kind: from now on the members are expected to
    /// speak up, and to share out if nobody has led them.
    pub(super) fn loaded(&mut self, decision: &mut Decision<'_>) {
        for (id, member) in &mut self.members {
            let (now, timeout) = (decision.times.now, member.session_timeout);
            member.session.touch(now, timeout, decision.group, id, decision.timers);
        }
        if self.phase == Phase::Stable && self.leader.is_none() {
            self.prepare(decision);
        }
    }

    /// It goes: nothing of it is waited for any more.
    pub(super) fn end(&mut self, timers: &mut Timers) {
        timers.cancel(&mut self.join_timer);
        timers.cancel(&mut self.sync_timer);
        self.members.values_mut().for_each(|member| member.session.end(timers));
        self.pending.values_mut().for_each(|session| session.end(timers));
    }

    /// Everybody who waits, taken out.
    pub(super) fn take_waiting(&mut self) -> Vec<ReplyTo> {
        let mut waiting = Vec::new();
        for member in self.members.values_mut() {
            waiting.extend(member.joining.take());
            waiting.extend(member.syncing.take());
        }
        self.joining = 0;
        waiting
    }

    pub(super) fn is_empty(&self) -> bool {
        self.phase == Phase::Empty
    }

    /// Whether nobody is in it or on the way into it.
    pub(super) fn is_vacant(&self) -> bool {
        self.is_empty() && self.pending.is_empty()
    }

    /// What its members take in memory.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    fn is_of_consumers(&self) -> bool {
        self.protocol_type.as_deref() == Some(consumer_protocol::PROTOCOL_TYPE)
    }

    // Joining.

    /// A member wants to be part of the next generation.
    pub(super) fn join(&mut self, join: &Join, reply_to: ReplyTo, decision: &mut Decision<'_>) {
        let nobody: MemberId = "".into();
        let is_unknown = join.member.is_empty();
        if !self.has_room_for(join, decision) {
            self.remove(&join.member, decision);
            return decision.refuse_join(reply_to, ErrorCode::GroupMaxSizeReached, &nobody);
        }
        if !self.suits(join) {
            let told = if is_unknown { &nobody } else { &join.member };
            let error = ErrorCode::InconsistentGroupProtocol;
            return decision.refuse_join(reply_to, error, told);
        }
        if is_unknown {
            return match &join.instance {
                Some(instance) => self.join_static(join, instance, reply_to, decision),
                None => self.join_dynamic(join, reply_to, decision),
            };
        }
        // Names are given out to dynamic members only: with one, nobody takes a static one's place.
        if join.instance.is_none()
            && let Some(mut session) = self.pending.remove(&join.member)
        {
            session.end(decision.timers);
            return self.add(&join.member, join, reply_to, decision);
        }
        if let Err(error) = self.check_member(&join.member, join.instance.as_ref()) {
            return decision.refuse_join(reply_to, error, &join.member);
        }
        self.join_again(join, reply_to, decision);
    }

    /// Whether the group, and what is remembered of it, may grow by this member.
    fn has_room_for(&self, join: &Join, decision: &Decision<'_>) -> bool {
        let most = decision.rules.members_max;
        let is_new = !self.members.contains_key(&join.member);
        let returns = join.instance.as_ref().is_some_and(|it| self.statics.contains_key(it));
        if is_new && !returns && !self.may_say(join, None, decision) {
            return false;
        }
        if join.member.is_empty() && most <= self.pending.len() {
            return false;
        }
        match self.phase {
            Phase::Empty => true,
            // Who came first stays, even if the group was allowed to be larger before.
            Phase::Preparing => {
                let waits = |member: &Member| member.joining.is_some();
                self.members.get(&join.member).is_some_and(waits) || self.joining < most
            }
            Phase::Completing | Phase::Stable => !is_new || self.members.len() < most,
        }
    }

    /// Whether what a member says, in place of what it said before, goes into one record with what
    /// the others have said. Who says no more than before may stay.
    fn may_say(&self, join: &Join, id: Option<&MemberId>, decision: &Decision<'_>) -> bool {
        let member = id.and_then(|id| self.members.get(id));
        let before = member.map_or(0, |member| said_bytes(member.protocols()));
        let said = said_bytes(&join.protocols);
        said <= before || self.bytes - before + said <= decision.rules.record_bytes_max
    }

    /// Whether a member can work with the others.
    fn suits(&self, join: &Join) -> bool {
        if self.phase == Phase::Empty {
            return !join.protocol_type.is_empty() && !join.protocols.is_empty();
        }
        let everybody = self.members.len();
        let of_all = |name: &Arc<str>| self.supported.get(name).copied().unwrap_or(0) == everybody;
        self.protocol_type.as_ref() == Some(&join.protocol_type)
            && join.protocols.iter().any(|protocol| of_all(&protocol.name))
    }

    fn join_static(
        &mut self,
        join: &Join,
        instance: &Arc<str>,
        reply_to: ReplyTo,
        decision: &mut Decision<'_>,
    ) {
        let id = decision.name_member(instance);
        match self.statics.get(instance).cloned() {
            Some(old) if !self.may_say(join, Some(&old), decision) => {
                decision.refuse_join(reply_to, ErrorCode::GroupMaxSizeReached, &"".into());
            }
            Some(old) => self.replace(join, &old, id, reply_to, decision),
            None => self.add(&id, join, reply_to, decision),
        }
    }

    fn join_dynamic(&mut self, join: &Join, reply_to: ReplyTo, decision: &mut Decision<'_>) {
        let id = decision.name_member(&join.client_id);
        if !join.needs_member_id {
            return self.add(&id, join, reply_to, decision);
        }
        // Whoever is told its name twice does not leave a member behind (KIP-394).
        let mut session = Session::default();
        let (now, timeout) = (decision.times.now, join.session_timeout);
        session.touch(now, timeout, decision.group, &id, decision.timers);
        decision.refuse_join(reply_to, ErrorCode::MemberIdRequired, &id);
        self.pending.insert(id, session);
    }

    /// A member joins that was in the group before.
    fn join_again(&mut self, join: &Join, reply_to: ReplyTo, decision: &mut Decision<'_>) {
        let member = &self.members[&join.member];
        let is_leader = self.leader.as_ref() == Some(&join.member);
        // A leader that joins again wants to share out again: topics have changed, say.
        let nothing_new = member.says_the_same(join);
        let stands = match self.phase {
            Phase::Preparing => false,
            // It may not have received the answer to its join.
            Phase::Completing => nothing_new,
            Phase::Stable => nothing_new && !is_leader,
            Phase::Empty => unreachable!("an empty group has no members"),
        };
        if stands {
            let joined = self.joined(&join.member, is_leader, false);
            return decision.reply(reply_to, Reply::Joined(Box::new(joined)));
        }
        if !self.may_say(join, Some(&join.member), decision) {
            let error = ErrorCode::GroupMaxSizeReached;
            return decision.refuse_join(reply_to, error, &join.member);
        }
        self.update(join, &join.member, reply_to, decision);
        self.rebalance_or_go_on(decision);
    }

    /// What a member of this generation is told.
    fn joined(&self, id: &MemberId, with_members: bool, skip_assignment: bool) -> Joined {
        let protocol = self.protocol.as_deref();
        let members = self.members.iter().filter(|_| with_members).map(|(id, member)| {
            (Arc::clone(id), member.instance.clone(), member.metadata(protocol))
        });
        Joined {
            error: ErrorCode::None,
            member: Arc::clone(id),
            generation: self.generation,
            protocol_type: self.protocol_type.clone(),
            protocol: self.protocol.clone(),
            leader: self.leader.clone().unwrap_or_else(|| "".into()),
            skip_assignment,
            members: members.collect(),
        }
    }

    fn add(&mut self, id: &MemberId, join: &Join, reply_to: ReplyTo, decision: &mut Decision<'_>) {
        let mut member = Member::new(join);
        // It cannot send heartbeats before it is told its name, and whether its connection lives
        // is not seen; so that those who gave up do not add up, it is given only so much time.
        let (now, timeout) = (decision.times.now, decision.rules.new_member_timeout);
        member.session.touch(now, timeout, decision.group, id, decision.timers);
        member.joining = Some(reply_to);
        self.joining += 1;
        if let Some(first_round) = &mut self.first_round {
            first_round.somebody_came = true;
        }
        if self.members.is_empty() {
            self.protocol_type = Some(Arc::clone(&join.protocol_type));
        }
        self.insert(Arc::clone(id), member);
        self.rebalance_or_go_on(decision);
    }

    /// A static member has come again under a new name, after a restart of its client.
    fn replace(
        &mut self,
        join: &Join,
        old: &MemberId,
        id: MemberId,
        reply_to: ReplyTo,
        decision: &mut Decision<'_>,
    ) {
        let was_leader = self.leader.as_ref() == Some(old);
        let mut member = self.take(old).expect("a static member is a member");
        // Whoever waits under the old name has been replaced.
        if let Some(waiting) = member.joining.take() {
            self.joining -= 1;
            decision.refuse_join(waiting, ErrorCode::FencedInstanceId, old);
        }
        if let Some(waiting) = member.syncing.take() {
            decision.refuse_sync(waiting, ErrorCode::FencedInstanceId);
        }
        member.session.end(decision.timers);
        self.insert(Arc::clone(&id), member.renamed());
        if self.unsynced.remove(old) {
            self.unsynced.insert(Arc::clone(&id));
        }
        if was_leader {
            self.leader = Some(Arc::clone(&id));
        }
        self.touch(&id, decision);
        self.update(join, &id, reply_to, decision);
        match self.phase {
            Phase::Stable if self.protocol.as_ref() == Some(self.select_protocol()) => {
                self.joining -= 1;
                let member = self.members.get_mut(&id).expect("just inserted");
                let reply_to = member.joining.take().expect("just set");
                // Older clients would share out again if they knew that they lead.
                let joined = if join.may_skip_assignment {
                    self.joined(&id, was_leader, was_leader)
                } else {
                    let leader =
                        if was_leader { Some(Arc::clone(old)) } else { self.leader.clone() };
                    Joined {
                        leader: leader.unwrap_or_else(|| "".into()),
                        ..self.joined(&id, false, false)
                    }
                };
                decision.reply(reply_to, Reply::Joined(Box::new(joined)));
                let record = self.to_record(decision.group);
                decision.write_and_block(record);
            }
            Phase::Stable => self.rebalance_or_go_on(decision),
            // The leader may be sharing out to the old name.
            Phase::Completing => self.prepare(decision),
            Phase::Preparing => self.complete_if_all_joined(decision),
            Phase::Empty => unreachable!("an empty group has no members"),
        }
    }

    // Members.

    fn insert(&mut self, id: MemberId, member: Member) {
        for protocol in member.protocols() {
            *self.supported.entry(Arc::clone(&protocol.name)).or_default() += 1;
        }
        if let Some(instance) = &member.instance {
            self.statics.insert(Arc::clone(instance), Arc::clone(&id));
        }
        if self.leader.is_none() {
            self.leader = Some(Arc::clone(&id));
        }
        self.bytes += id.len() + member.bytes();
        self.members.insert(id, member);
    }

    fn take(&mut self, id: &MemberId) -> Option<Member> {
        let member = self.members.remove(id)?;
        self.forget_protocols(&member);
        if let Some(instance) = &member.instance {
            self.statics.remove(instance);
        }
        self.bytes -= id.len() + member.bytes();
        Some(member)
    }

    fn forget_protocols(&mut self, member: &Member) {
        for protocol in member.protocols() {
            let count = self.supported.get_mut(&protocol.name).expect("counted when it came");
            *count -= 1;
            if *count == 0 {
                self.supported.remove(&protocol.name);
            }
        }
    }

    /// A member has come again and says something else now; its join waits.
    fn update(
        &mut self,
        join: &Join,
        id: &MemberId,
        reply_to: ReplyTo,
        decision: &mut Decision<'_>,
    ) {
        let mut member = self.members.remove(id).expect("the caller has found it");
        self.forget_protocols(&member);
        self.bytes -= id.len() + member.bytes();
        member.update(join);
        match member.joining.replace(reply_to) {
            // Its client has given up waiting for the first answer.
            Some(old) => decision.refuse_join(old, ErrorCode::RebalanceInProgress, id),
            None => self.joining += 1,
        }
        self.insert(Arc::clone(id), member);
    }

    /// Removes a member, or a name that was given out; who waits under it is told.
    fn remove(&mut self, id: &MemberId, decision: &mut Decision<'_>) {
        if let Some(mut session) = self.pending.remove(id) {
            session.end(decision.timers);
        }
        self.unsynced.remove(id);
        let Some(mut member) = self.take(id) else { return };
        member.session.end(decision.timers);
        if let Some(waiting) = member.joining.take() {
            self.joining -= 1;
            // A client that is alive comes again.
            decision.refuse_join(waiting, ErrorCode::UnknownMemberId, &"".into());
        }
        if let Some(waiting) = member.syncing.take() {
            decision.refuse_sync(waiting, ErrorCode::UnknownMemberId);
        }
        if self.leader.as_ref() == Some(id) {
            self.leader = self.members.keys().next().cloned();
        }
    }

    fn touch(&mut self, id: &MemberId, decision: &mut Decision<'_>) {
        if let Some(member) = self.members.get_mut(id) {
            let (now, timeout) = (decision.times.now, member.session_timeout);
            member.session.touch(now, timeout, decision.group, id, decision.timers);
        }
    }

    /// Whether a name belongs to a member, and a static member still has that name.
    fn check_member(&self, id: &MemberId, instance: Option<&Arc<str>>) -> Result<(), ErrorCode> {
        if let Some(instance) = instance {
            match self.statics.get(instance) {
                None => return Err(ErrorCode::UnknownMemberId),
                Some(current) if current != id => return Err(ErrorCode::FencedInstanceId),
                Some(_) => {}
            }
        }
        match self.members.contains_key(id) {
            true => Ok(()),
            false => Err(ErrorCode::UnknownMemberId),
        }
    }

    fn check_in_generation(&self, who: &Who) -> Result<(), ErrorCode> {
        self.check_member(&who.member, who.instance.as_ref())?;
        match who.generation == self.generation {
            true => Ok(()),
            false => Err(ErrorCode::IllegalGeneration),
        }
    }

    // Staying and leaving.

    /// A member wants its share; the leader brings everybody's.
    pub(super) fn sync(&mut self, sync: &Sync, reply_to: ReplyTo, decision: &mut Decision<'_>) {
        if let Err(error) = self.check_sync(sync) {
            return decision.refuse_sync(reply_to, error);
        }
        let id = &sync.who.member;
        self.unsynced.remove(id);
        if self.phase == Phase::Stable {
            let synced = self.synced(id);
            return decision.reply(reply_to, Reply::Synced(Box::new(synced)));
        }
        let member = self.members.get_mut(id).expect("just checked");
        if let Some(old) = member.syncing.replace(reply_to) {
            decision.refuse_sync(old, ErrorCode::RebalanceInProgress);
        }
        if self.leader.as_ref() == Some(id) {
            self.share_out(sync, decision);
        }
    }

    fn check_sync(&self, sync: &Sync) -> Result<(), ErrorCode> {
        self.check_in_generation(&sync.who)?;
        // Whoever comes from a group of the newer kind may have been told another protocol.
        if self.phase == Phase::Preparing {
            return Err(ErrorCode::RebalanceInProgress);
        }
        let differs = |told: &Option<Arc<str>>, is: &Option<Arc<str>>| {
            told.as_ref().zip(is.as_ref()).is_some_and(|(told, is)| told != is)
        };
        if differs(&sync.protocol_type, &self.protocol_type)
            || differs(&sync.protocol, &self.protocol)
        {
            return Err(ErrorCode::InconsistentGroupProtocol);
        }
        match self.phase {
            Phase::Completing | Phase::Stable => Ok(()),
            Phase::Empty | Phase::Preparing => Err(ErrorCode::UnknownMemberId),
        }
    }

    fn synced(&self, id: &MemberId) -> Synced {
        Synced {
            error: ErrorCode::None,
            protocol_type: self.protocol_type.clone(),
            protocol: self.protocol.clone(),
            assignment: self.members[id].assignment.clone(),
        }
    }

    /// A member is alive.
    pub(super) fn heartbeat(
        &mut self,
        heartbeat: &Heartbeat,
        decision: &mut Decision<'_>,
    ) -> ErrorCode {
        let who = &heartbeat.who;
        if let Err(error) = self.check_in_generation(who) {
            return error;
        }
        self.touch(&who.member, decision);
        match self.phase {
            Phase::Empty => ErrorCode::UnknownMemberId,
            Phase::Preparing => ErrorCode::RebalanceInProgress,
            Phase::Completing | Phase::Stable => ErrorCode::None,
        }
    }

    /// Members go, by their own wish or an operator's.
    pub(super) fn leave(&mut self, leave: &Leave, decision: &mut Decision<'_>) -> Vec<ErrorCode> {
        let results: Vec<ErrorCode> = leave
            .members
            .iter()
            .map(|(id, instance)| self.leave_one(id, instance.as_ref(), decision))
            .collect();
        if results.contains(&ErrorCode::None) {
            match self.phase {
                Phase::Stable | Phase::Completing => self.prepare(decision),
                Phase::Preparing => self.complete_if_all_joined(decision),
                Phase::Empty => {}
            }
        }
        results
    }

    fn leave_one(
        &mut self,
        id: &MemberId,
        instance: Option<&Arc<str>>,
        decision: &mut Decision<'_>,
    ) -> ErrorCode {
        // Tools remove a static member by the name it has across restarts.
        let named = match instance.filter(|_| id.is_empty()) {
            Some(instance) => self.statics.get(instance).cloned(),
            None => Some(Arc::clone(id)),
        };
        let Some(id) = named else { return ErrorCode::UnknownMemberId };
        if !self.pending.contains_key(&id)
            && let Err(error) = self.check_member(&id, instance)
        {
            return error;
        }
        self.remove(&id, decision);
        ErrorCode::None
    }

    /// Whether offsets may be committed in this name; if so, it counts as a sign of life.
    pub(super) fn check_commit(
        &mut self,
        commit: &Commit,
        decision: &mut Decision<'_>,
    ) -> Result<(), ErrorCode> {
        let who = &commit.who;
        if who.generation < 0 && self.phase == Phase::Empty {
            return Ok(());
        }
        if 0 <= who.generation || !who.member.is_empty() || who.instance.is_some() {
            self.check_in_generation(who)?;
        } else if self.phase != Phase::Empty {
            // Nobody in particular, while there are members.
            return Err(ErrorCode::UnknownMemberId);
        }
        match self.phase {
            // It knows the generation, but its share of it is not out yet.
            Phase::Completing => return Err(ErrorCode::RebalanceInProgress),
            Phase::Stable | Phase::Preparing => self.touch(&who.member, decision),
            Phase::Empty => {}
        }
        Ok(())
    }

    // Looking.

    pub(super) fn describe(&self) -> Description {
        // Before all have their shares there is no protocol in force.
        let protocol = self.protocol.as_ref().filter(|_| self.phase == Phase::Stable);
        let members = self
            .members
            .iter()
            .map(|(id, member)| member.describe(id, protocol.map(|protocol| &**protocol)));
        Description {
            state: self.phase.name(),
            protocol_type: self.protocol_type.clone().unwrap_or_default(),
            protocol: protocol.cloned().unwrap_or_default(),
            members: members.collect(),
        }
    }

    pub(super) fn listed(&self, group: &Arc<str>) -> Listed {
        Listed {
            group: Arc::clone(group),
            protocol_type: self.protocol_type.clone().unwrap_or_default(),
            state: self.phase.name(),
            kind: group_type::CLASSIC,
        }
    }

    /// Whether its members read a topic, as far as that is known.
    pub(super) fn reads(&self, topic: &str) -> bool {
        match &self.subscribed {
            Some(subscribed) => subscribed.contains(topic),
            None => self.is_of_consumers(),
        }
    }

    /// Whether single offsets may be deleted.
    pub(super) fn check_delete_offsets(&self) -> Result<(), ErrorCode> {
        match self.is_empty() || self.is_of_consumers() {
            true => Ok(()),
            false => Err(ErrorCode::NonEmptyGroup),
        }
    }

    /// From when on its offsets count as unused; none if they are in use.
    pub(super) fn unused_since(&self) -> Option<UnusedSince> {
        if self.protocol_type.is_none() {
            return Some(UnusedSince::Commit);
        }
        match self.phase {
            Phase::Empty => Some(self.since_ms.map_or(UnusedSince::Commit, UnusedSince::Time)),
            Phase::Stable if self.is_of_consumers() && self.subscribed.is_some() => {
                Some(UnusedSince::Commit)
            }
            _ => None,
        }
    }
}
