//! How a generation ends and the next one begins: who is waited for, for how long, and what
//! happens to those who do not come.
//!
//! Start reading at [`Classic::prepare`].

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tidemill_net::kafka::ErrorCode;
use tidemill_net::kafka::consumer_protocol::Subscription;

use super::{Classic, FirstRound, Phase};
use crate::coordinator::decision::{Decision, IfRefused};
use crate::coordinator::request::{MemberId, Reply, Sync};
use crate::coordinator::timers::{Alarm, TimerId};

impl Classic {
    /// Begins to wait for the members, if they are not waited for already.
    pub(super) fn rebalance_or_go_on(&mut self, decision: &mut Decision<'_>) {
        match self.phase {
            Phase::Preparing => self.complete_if_all_joined(decision),
            Phase::Empty | Phase::Completing | Phase::Stable => self.prepare(decision),
        }
    }

    /// From now on members must join again.
    pub(super) fn prepare(&mut self, decision: &mut Decision<'_>) {
        assert!(self.phase != Phase::Preparing, "a rebalance begins once");
        if self.phase == Phase::Completing {
            self.refuse_syncs(ErrorCode::RebalanceInProgress, decision);
        }
        self.unsynced.clear();
        decision.timers.cancel(&mut self.sync_timer);
        let was_empty = self.phase == Phase::Empty;
        self.enter(Phase::Preparing, decision);
        if was_empty {
            let step = decision.rules.initial_delay;
            let left = self.rebalance_timeout().saturating_sub(step);
            self.first_round = Some(FirstRound { step, left, somebody_came: false });
            self.set_join_timer(step, decision);
        } else if self.have_all_joined() {
            self.complete_join(decision);
        } else {
            self.set_join_timer(self.rebalance_timeout(), decision);
        }
    }

    /// Goes on if nobody is missing; but the first round of a group lasts its time.
    pub(super) fn complete_if_all_joined(&mut self, decision: &mut Decision<'_>) {
        let goes_on = self.phase == Phase::Preparing && self.first_round.is_none();
        if goes_on && self.have_all_joined() {
            self.complete_join(decision);
        }
    }

    /// The timer for joins has gone off.
    pub(in crate::coordinator) fn join_time_is_over(
        &mut self,
        timer: TimerId,
        decision: &mut Decision<'_>,
    ) {
        if self.join_timer != Some(timer) {
            return;
        }
        self.join_timer = None;
        match &mut self.first_round {
            Some(round) if round.somebody_came && !round.left.is_zero() => {
                round.somebody_came = false;
                let step = decision.rules.initial_delay.min(round.left);
                round.left = round.left.saturating_sub(round.step);
                round.step = step;
                self.set_join_timer(step, decision);
            }
            _ => self.complete_join(decision),
        }
    }

    /// The timer for syncs has gone off: who has not asked for its share is not there any more.
    pub(in crate::coordinator) fn sync_time_is_over(
        &mut self,
        timer: TimerId,
        decision: &mut Decision<'_>,
    ) {
        if self.sync_timer != Some(timer) {
            return;
        }
        self.sync_timer = None;
        if self.unsynced.is_empty() {
            return;
        }
        for id in std::mem::take(&mut self.unsynced) {
            self.remove(&id, decision);
        }
        self.prepare(decision);
    }

    /// The timer of a member's session, or of a name given out, has gone off.
    pub(in crate::coordinator) fn session_is_over(
        &mut self,
        timer: TimerId,
        id: &MemberId,
        decision: &mut Decision<'_>,
    ) {
        let (now, group) = (decision.times.now, decision.group);
        if let Some(session) = self.pending.get_mut(id) {
            if session.is_over(timer, now, group, id, decision.timers) {
                self.remove(id, decision);
                self.complete_without(decision);
            }
            return;
        }
        let Some(member) = self.members.get_mut(id) else { return };
        // Who is kept waiting is looked at again when it has been answered.
        if !member.session.is_over(timer, now, group, id, decision.timers)
            || member.is_kept_waiting()
        {
            return;
        }
        tracing::info!(group = &**group, member = &**id, "a member of a group has gone silent");
        self.remove(id, decision);
        match self.phase {
            Phase::Stable | Phase::Completing => self.prepare(decision),
            Phase::Preparing => self.complete_without(decision),
            Phase::Empty => {}
        }
    }

    /// Somebody who was waited for will not come.
    fn complete_without(&mut self, decision: &mut Decision<'_>) {
        if self.phase == Phase::Preparing && self.have_all_joined() {
            self.complete_join(decision);
        }
    }

    /// Enters the next generation with those who have come.
    fn complete_join(&mut self, decision: &mut Decision<'_>) {
        decision.timers.cancel(&mut self.join_timer);
        self.remove_absent(decision);
        if !self.elect_leader() && !self.members.is_empty() {
            // Only static members are left, and none of them has come. They go with their sessions.
            return self.set_join_timer(self.rebalance_timeout(), decision);
        }
        self.first_round = None;
        self.generation = self.generation.checked_add(1).unwrap_or(1);
        self.unsynced.clear();
        if self.members.is_empty() {
            self.protocol = None;
            self.leader = None;
            self.subscribed = self.find_subscribed();
            self.enter(Phase::Empty, decision);
            // If it cannot be written, the members of before come back with a restart, and go
            // again with their sessions.
            let record = self.to_record(decision.group);
            decision.outcome.records.push(record);
            return;
        }
        self.protocol = Some(Arc::clone(self.select_protocol()));
        self.subscribed = self.find_subscribed();
        self.enter(Phase::Completing, decision);
        self.answer_joins(decision);
        let at = decision.times.now.after(self.rebalance_timeout());
        self.sync_timer = Some(decision.timers.set(at, decision.group, Alarm::Sync));
    }

    /// Dynamic members that have not joined again are out. Static ones may: they are restarting.
    fn remove_absent(&mut self, decision: &mut Decision<'_>) {
        let absent = self.members.iter().filter(|(_, member)| member.joining.is_none());
        let absent = absent.filter(|(_, member)| !member.is_static());
        let absent: Vec<MemberId> = absent.map(|(id, _)| Arc::clone(id)).collect();
        for id in absent {
            self.remove(&id, decision);
        }
    }

    /// Makes sure that the leader is one of those who have come; false if nobody has.
    fn elect_leader(&mut self) -> bool {
        let has_come = |id: &MemberId| self.members.get(id).is_some_and(|m| m.joining.is_some());
        if self.leader.as_ref().is_some_and(has_come) {
            return true;
        }
        let new = self.members.iter().find(|(_, member)| member.joining.is_some());
        let Some(new) = new.map(|(id, _)| Arc::clone(id)) else { return false };
        self.leader = Some(new);
        true
    }

    fn answer_joins(&mut self, decision: &mut Decision<'_>) {
        let ids: Vec<MemberId> = self.members.keys().cloned().collect();
        for id in &ids {
            let is_leader = self.leader.as_ref() == Some(id);
            let joined = self.joined(id, is_leader, false);
            let member = self.members.get_mut(id).expect("listed");
            if let Some(waiting) = member.joining.take() {
                decision.reply(waiting, Reply::Joined(Box::new(joined)));
            }
            member.is_new = false;
            self.touch(id, decision);
            self.unsynced.insert(Arc::clone(id));
        }
        self.joining = 0;
    }

    /// The leader has brought everybody's share: once they are durable, everybody is told.
    pub(super) fn share_out(&mut self, sync: &Sync, decision: &mut Decision<'_>) {
        let mut shares: BTreeMap<&MemberId, &Bytes> = BTreeMap::new();
        shares.extend(sync.assignments.iter().map(|(id, share)| (id, share)));
        for (id, member) in &mut self.members {
            self.bytes -= member.assignment.len();
            member.assignment = shares.get(id).map_or_else(Bytes::new, |share| (*share).clone());
            self.bytes += member.assignment.len();
        }
        if decision.rules.record_bytes_max < self.bytes {
            // It could not be written. Kafka answers the same.
            self.refuse_syncs(ErrorCode::UnknownServerError, decision);
            return self.prepare(decision);
        }
        self.enter(Phase::Stable, decision);
        let ids: Vec<MemberId> = self.members.keys().cloned().collect();
        for id in &ids {
            let synced = self.synced(id);
            let member = self.members.get_mut(id).expect("listed");
            if let Some(waiting) = member.syncing.take() {
                decision.reply(waiting, Reply::Synced(Box::new(synced)));
                self.touch(id, decision);
            }
        }
        let record = self.to_record(decision.group);
        decision.write_and_block(record);
        decision.outcome.if_refused = IfRefused::Rebalance;
    }

    /// The shares could not be written, and nobody was told: share out again.
    pub(in crate::coordinator) fn share_out_failed(&mut self, decision: &mut Decision<'_>) {
        if self.phase == Phase::Stable {
            self.forget_shares();
            self.prepare(decision);
        }
    }

    fn forget_shares(&mut self) {
        for member in self.members.values_mut() {
            self.bytes -= member.assignment.len();
            member.assignment = Bytes::new();
        }
    }

    /// All who wait for their share are told that there is none.
    fn refuse_syncs(&mut self, error: ErrorCode, decision: &mut Decision<'_>) {
        self.forget_shares();
        let ids: Vec<MemberId> = self.members.keys().cloned().collect();
        for id in &ids {
            let member = self.members.get_mut(id).expect("listed");
            if let Some(waiting) = member.syncing.take() {
                decision.refuse_sync(waiting, error);
                self.touch(id, decision);
            }
        }
    }

    /// The protocol that most like best, of those that all can work with.
    pub(super) fn select_protocol(&self) -> &Arc<str> {
        let mut votes: BTreeMap<&Arc<str>, usize> = BTreeMap::new();
        for member in self.members.values() {
            *votes.entry(member.vote(&self.supported, self.members.len())).or_default() += 1;
        }
        let most = votes.into_iter().max_by_key(|(_, votes)| *votes);
        most.expect("a group that chooses has members").0
    }

    /// The topics the members read, if that can be known.
    pub(super) fn find_subscribed(&self) -> Option<BTreeSet<Arc<str>>> {
        if !self.is_of_consumers() {
            return None;
        }
        let mut topics = BTreeSet::new();
        for member in self.members.values() {
            let metadata = member.metadata(self.protocol.as_deref());
            let read = Subscription::topics_of(&metadata).ok()?;
            topics.extend(read.into_iter().map(Arc::from));
        }
        Some(topics)
    }

    fn have_all_joined(&self) -> bool {
        self.joining == self.members.len() && self.pending.is_empty()
    }

    /// How long the slowest member may take to come back.
    fn rebalance_timeout(&self) -> Duration {
        let timeouts = self.members.values().map(|member| member.rebalance_timeout);
        timeouts.max().unwrap_or_default()
    }

    fn set_join_timer(&mut self, after: Duration, decision: &mut Decision<'_>) {
        decision.timers.cancel(&mut self.join_timer);
        let at = decision.times.now.after(after);
        self.join_timer = Some(decision.timers.set(at, decision.group, Alarm::Join));
    }

    fn enter(&mut self, phase: Phase, decision: &Decision<'_>) {
        tracing::debug!(
            group = &**decision.group,
            generation = self.generation,
            from = self.phase.name(),
            to = phase.name(),
            members = self.members.len(),
            "a group goes on"
        );
        self.phase = phase;
        self.since_ms = Some(decision.times.wall_ms);
    }
}
