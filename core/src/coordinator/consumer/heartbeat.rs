//! What members of a group of the newer kind ask: one heartbeat says it all.
//!
//! A heartbeat is answered in three steps: the member becomes what it says it is; if that changes
//! what is read, or by whom, the group enters its next epoch and everything is shared out; and the
//! member takes its next step towards its share. Most heartbeats change nothing, and cost nothing:
//! neither they nor a member's steps look at the other members.
//!
//! Who asks for names and a pattern at once is given the names first, as in Kafka, and clients expect
//! it: the pattern counts from the group's next step on, if nobody else gives it already.
//!
//! Start reading at [`Consumer::heartbeat`].

use std::sync::Arc;

use tidemill_net::kafka::ErrorCode;
use tidemill_net::kafka::consumer_group_heartbeat::{JOIN_EPOCH as JOIN, LEAVE_EPOCH as LEAVE};
use tidemill_replication::metadata::Image;

use super::reconcile::Goal;
use super::topics::compile;
use super::{AWAY, Consumer, Member, Watch, record};
use crate::coordinator::assignment::{Assignor, Partitions};
use crate::coordinator::decision::{Becomes, Decision};
use crate::coordinator::record::{ConsumerRecord, Current, State, Subscription};
use crate::coordinator::request::{ConsumerHeartbeat, Heard, MemberId};
use crate::coordinator::timers::TimerId;

/// The config by which a group is set to another time between heartbeats.
const HEARTBEAT: &str = "consumer.heartbeat.interval.ms";

/// Why a heartbeat is refused.
#[derive(Debug)]
pub(in crate::coordinator) struct Refusal {
    pub(in crate::coordinator) error: ErrorCode,
    pub(in crate::coordinator) message: String,
}

fn refuse<T>(error: ErrorCode, message: impl Into<String>) -> Result<T, Refusal> {
    Err(Refusal { error, message: message.into() })
}

/// A copy of a group that is being changed, and the records that change it.
pub(super) struct Draft {
    pub(super) group: Consumer,
    pub(super) changes: Vec<ConsumerRecord>,
}

impl Draft {
    pub(super) fn of(group: &Consumer) -> Self {
        Self { group: group.clone(), changes: Vec::new() }
    }

    /// Changes the copy as the record will change the group.
    pub(super) fn write(&mut self, change: ConsumerRecord) {
        self.group.replay(&change);
        self.changes.push(change);
    }

    /// Has the group changed when the records are durable; nothing else happens to it until then.
    pub(super) fn finish(self, decision: &mut Decision<'_>) {
        if self.changes.is_empty() {
            return;
        }
        let group = decision.group;
        let records = self.changes.into_iter().map(|change| record(group, change));
        decision.outcome.records.extend(records);
        decision.outcome.blocks = true;
        decision.outcome.becomes = Some(Becomes::Consumer(Box::new(self.group)));
    }
}

impl ConsumerHeartbeat {
    /// Whether the member joins.
    pub(in crate::coordinator) fn joins(&self) -> bool {
        self.epoch == JOIN
    }

    /// Checks what can be checked without knowing the group.
    fn check(&self) -> Result<(), Refusal> {
        let invalid = |message: &str| refuse(ErrorCode::InvalidRequest, message);
        if self.instance.as_deref() == Some("") {
            return invalid("InstanceId can't be empty.");
        }
        if self.rack.as_deref() == Some("") {
            return invalid("RackId can't be empty.");
        }
        if self.epoch != JOIN && self.member.is_empty() {
            return invalid("MemberId can't be empty.");
        }
        match self.epoch {
            JOIN if self.rebalance_ms < 0 => {
                return invalid("RebalanceTimeoutMs must be provided in first request.");
            }
            JOIN if self.owned.as_ref().is_none_or(|owned| !owned.is_empty()) => {
                return invalid("TopicPartitions must be empty when (re-)joining.");
            }
            // It may not know yet which topics: a client that looks for them itself by a pattern
            // joins with no names, and says them later.
            JOIN if self.topics.is_none() && self.regex.is_none() => {
                return invalid(
                    "Either SubscribedTopicNames or SubscribedTopicRegex must be non-null when \
                     (re-)joining.",
                );
            }
            AWAY if self.instance.is_none() => return invalid("InstanceId can't be null."),
            i32::MIN..AWAY => return invalid("MemberEpoch is invalid."),
            _ => {}
        }
        if let Some(name) = &self.assignor
            && Assignor::from_name(name).is_none()
        {
            let known = Assignor::ALL.map(Assignor::name).join(", ");
            let message =
                format!("ServerAssignor {name} is not supported. Supported assignors: {known}.");
            return refuse(ErrorCode::UnsupportedAssignor, message);
        }
        if let Some(Err(error)) = self.regex.as_deref().map(compile) {
            let message =
                format!("SubscribedTopicRegex is not a valid regular expression: {error}");
            return refuse(ErrorCode::InvalidRegularExpression, message);
        }
        Ok(())
    }

    /// Whether it says everything, so that it is told everything.
    fn is_full(&self) -> bool {
        let says_all = 0 <= self.rebalance_ms && self.topics.is_some() && self.owned.is_some();
        self.epoch == JOIN || says_all
    }
}

impl Consumer {
    /// A member says how it is, and is told what it may read.
    pub(in crate::coordinator) fn heartbeat(
        &self,
        asked: &ConsumerHeartbeat,
        watch: &mut Watch,
        decision: &mut Decision<'_>,
    ) -> Result<Heard, Refusal> {
        asked.check()?;
        if asked.epoch == LEAVE || asked.epoch == AWAY {
            return self.leave(asked, watch, decision);
        }
        if decision.rules.members_max <= self.members.len()
            && !self.members.contains_key(&asked.member)
        {
            let most = decision.rules.members_max;
            let message =
                format!("The consumer group has reached its maximum capacity of {most} members.");
            return refuse(ErrorCode::GroupMaxSizeReached, message);
        }
        let image = decision.image;
        let seen = Some(image.records_replayed());
        if let Some(heard) = self.nothing_new(asked, watch.seen == seen) {
            watch.touch(&asked.member, None, decision);
            return Ok(Heard { heartbeat_ms: decision.set_ms(HEARTBEAT), ..heard });
        }
        let mut draft = Draft::of(self);
        let id = draft.admit(asked, watch, decision)?;
        let had = draft.group.members.get(&id).map(|m| m.has.assigned.clone()).unwrap_or_default();
        let wants_other = draft.update(&id, asked);
        let is_early = wants_other && self.is_early(&draft.group.members[&id].wants);
        let early = is_early.then_some(&id);
        // Nobody is in epoch 0, not even who wants nothing yet.
        let due = wants_other || draft.group.epoch == 0;
        if due || watch.seen != seen {
            draft.next_epoch_if(due, early, image);
        }
        draft.share_out(early, image);
        draft.reconcile(&id, asked.owned.as_ref());

        // The next heartbeat compares, and finds that the pattern counts by then.
        watch.seen = seen.filter(|_| !is_early);
        watch.touch(&id, None, decision);
        let member = &draft.group.members[&id];
        if member.has.state == State::Unrevoked {
            watch.await_revocation(&id, member, decision);
        } else {
            watch.stop_revocation(&id, decision.timers);
        }
        let told = asked.is_full() || had != member.has.assigned;
        let heard = Heard {
            member: Arc::clone(&id),
            epoch: member.has.epoch,
            heartbeat_ms: decision.set_ms(HEARTBEAT),
            assignment: told.then(|| member.has.assigned.clone()),
        };
        draft.finish(decision);
        Ok(heard)
    }

    /// The answer to a heartbeat that changes nothing.
    fn nothing_new(&self, asked: &ConsumerHeartbeat, topics_are_seen: bool) -> Option<Heard> {
        let member = self.members.get(&asked.member)?;
        let settled = member.is_settled(self.assignment_epoch);
        let current = self.epoch == self.assignment_epoch && topics_are_seen;
        let same = asked.epoch == member.has.epoch
            && asked.instance.as_ref().is_none_or(|i| member.wants.instance.as_ref() == Some(i));
        if !(settled && current && same) || member.wants != updated(&member.wants, asked) {
            return None;
        }
        let assignment = asked.is_full().then(|| member.has.assigned.clone());
        let (member, epoch) = (Arc::clone(&asked.member), member.has.epoch);
        Some(Heard { member, epoch, heartbeat_ms: None, assignment })
    }

    /// A member goes; a static one may be back, and its share is kept for it.
    fn leave(
        &self,
        asked: &ConsumerHeartbeat,
        watch: &mut Watch,
        decision: &mut Decision<'_>,
    ) -> Result<Heard, Refusal> {
        let member = match &asked.instance {
            None => self.known(&asked.member)?,
            Some(instance) => self.known_static(&asked.member, instance)?,
        };
        if asked.epoch == AWAY {
            let mut draft = Draft::of(self);
            let has = Current { epoch: AWAY, revoking: Partitions::new(), ..member.has.clone() };
            draft.write(ConsumerRecord::Current(Arc::clone(&asked.member), Some(has)));
            watch.stop_revocation(&asked.member, decision.timers);
            draft.finish(decision);
        } else {
            self.expel(&asked.member, watch, decision);
        }
        let heartbeat_ms = decision.set_ms(HEARTBEAT);
        let member = Arc::clone(&asked.member);
        Ok(Heard { member, epoch: asked.epoch, heartbeat_ms, assignment: None })
    }

    /// The timer of a member's session has gone off.
    pub(in crate::coordinator) fn session_is_over(
        &self,
        timer: TimerId,
        id: &MemberId,
        watch: &mut Watch,
        decision: &mut Decision<'_>,
    ) {
        if watch.sessions.is_over(timer, id, decision) {
            self.expel(id, watch, decision);
        }
    }

    /// The time in which a member was to give something up is over.
    pub(in crate::coordinator) fn revocation_is_over(
        &self,
        timer: TimerId,
        id: &MemberId,
        watch: &mut Watch,
        decision: &mut Decision<'_>,
    ) {
        if watch.revocations.get(id).is_none_or(|(set, _)| *set != timer) {
            return;
        }
        watch.revocations.remove(id);
        let group = decision.group;
        tracing::info!(group = &**group, member = &**id, "a member of a group gives nothing up");
        self.expel(id, watch, decision);
    }

    /// A member is out; what it had goes to others.
    fn expel(&self, id: &MemberId, watch: &mut Watch, decision: &mut Decision<'_>) {
        watch.forget(id, decision.timers);
        if !self.members.contains_key(id) {
            return;
        }
        let mut draft = Draft::of(self);
        draft.forget(id);
        if let Some(classic) = draft.group.downgraded(decision) {
            return Draft::finish_as(classic, self, decision);
        }
        draft.next_epoch_if(true, None, decision.image);
        draft.finish(decision);
    }

    fn known(&self, id: &MemberId) -> Result<&Arc<Member>, Refusal> {
        match self.members.get(id) {
            Some(member) => Ok(member),
            None => refuse(ErrorCode::UnknownMemberId, format!("Member {id} is not a member.")),
        }
    }

    fn known_static(&self, id: &MemberId, instance: &Arc<str>) -> Result<&Arc<Member>, Refusal> {
        let Some(current) = self.statics.get(instance) else {
            let message = format!("Instance id {instance} is unknown.");
            return refuse(ErrorCode::UnknownMemberId, message);
        };
        if current != id {
            let message = format!(
                "Static member {id} with instance id {instance} was fenced by member {current}."
            );
            return refuse(ErrorCode::FencedInstanceId, message);
        }
        self.known(current)
    }
}

impl Draft {
    /// Finds the member that asks, or lets it in; tells its name.
    fn admit(
        &mut self,
        asked: &ConsumerHeartbeat,
        watch: &mut Watch,
        decision: &mut Decision<'_>,
    ) -> Result<MemberId, Refusal> {
        // Before version 1 the coordinator names members.
        let id = match asked.member.is_empty() {
            true => decision.name_consumer(),
            false => Arc::clone(&asked.member),
        };
        if asked.epoch != JOIN {
            let member = match &asked.instance {
                None => self.group.known(&id)?,
                Some(instance) => self.group.known_static(&id, instance)?,
            };
            check_epoch(member, asked)?;
            return Ok(id);
        }
        let before = asked.instance.as_ref().and_then(|i| self.group.statics.get(i)).cloned();
        match before {
            Some(old) if old != id => {
                let owner = &self.group.members[&old];
                // One that spoke the classic protocol does not say that it will be back.
                if owner.has.epoch != AWAY && owner.wants.classic.is_none() {
                    let message = format!(
                        "Static member {id} cannot join the group because the instance id is owned \
                         by {old} member."
                    );
                    return refuse(ErrorCode::UnreleasedInstanceId, message);
                }
                self.replace(&old, &id);
                watch.forget(&old, decision.timers);
            }
            // It begins anew, and reads nothing: what it had is free.
            _ if self.group.members.contains_key(&id) => {
                self.write(ConsumerRecord::Current(Arc::clone(&id), Some(Current::default())));
            }
            _ => {}
        }
        Ok(id)
    }

    /// A static member is back under another name: it has the share it had.
    pub(super) fn replace(&mut self, old: &MemberId, new: &MemberId) {
        let member = Arc::clone(&self.group.members[old]);
        let share = self.group.targets.get(old).map(|share| (**share).clone());
        self.forget(old);
        self.write(ConsumerRecord::Member(Arc::clone(new), Some(member.wants.clone())));
        self.write(ConsumerRecord::Target(Arc::clone(new), Some(share.unwrap_or_default())));
        let has = Current { epoch: JOIN, previous_epoch: JOIN, ..member.has.clone() };
        self.write(ConsumerRecord::Current(Arc::clone(new), Some(has)));
    }

    pub(super) fn forget(&mut self, id: &MemberId) {
        self.write(ConsumerRecord::Current(Arc::clone(id), None));
        self.write(ConsumerRecord::Target(Arc::clone(id), None));
        self.write(ConsumerRecord::Member(Arc::clone(id), None));
    }

    /// The member wants what it says now. True if that is other topics.
    fn update(&mut self, id: &MemberId, asked: &ConsumerHeartbeat) -> bool {
        let before = self.group.members.get(id).map(|member| member.wants.clone());
        let wants = updated(&before.clone().unwrap_or_default(), asked);
        if before.as_ref() == Some(&wants) {
            return false;
        }
        let before = before.unwrap_or_default();
        let others = before.topics != wants.topics || before.regex != wants.regex;
        self.write(ConsumerRecord::Member(Arc::clone(id), Some(wants)));
        others
    }

    /// Enters the next epoch if that is `due`, or the topics that are read have changed.
    pub(super) fn next_epoch_if(&mut self, due: bool, early: Option<&MemberId>, image: &Image) {
        let hash = self.group.hash_topics(early, image);
        if due || hash != self.group.topics_hash {
            let epoch = self.group.epoch.checked_add(1).unwrap_or(1);
            self.write(ConsumerRecord::Epoch(Some((epoch, hash))));
        }
    }

    /// The member takes its next step.
    pub(super) fn reconcile(&mut self, id: &MemberId, owned: Option<&Partitions>) {
        let none = Partitions::new();
        let group = &self.group;
        let share = group.targets.get(id).map_or(&none, |share| share);
        let goal = Goal { epoch: group.assignment_epoch, share, owned };
        let is_held = |topic, number| group.held.contains_key(&(topic, number));
        let member = &group.members[id];
        let next = member.reconciled(&goal, is_held);
        if next != member.has {
            self.write(ConsumerRecord::Current(Arc::clone(id), Some(next)));
        }
    }
}

/// Whether a member names the epoch it is in, or the one before, because it may have missed the
/// answer that told it; then it must not read more than it may.
fn check_epoch(member: &Member, asked: &ConsumerHeartbeat) -> Result<(), Refusal> {
    let current = member.has.epoch;
    let is_within = |owned: &Partitions| {
        owned.iter().all(|(topic, numbers)| {
            member.has.assigned.get(topic).is_some_and(|assigned| numbers.is_subset(assigned))
        })
    };
    let missed = asked.epoch == member.has.previous_epoch
        && asked.epoch < current
        && asked.owned.as_ref().is_some_and(is_within);
    if asked.epoch == current || missed {
        return Ok(());
    }
    let than = if current < asked.epoch { "greater" } else { "smaller" };
    let message = format!(
        "The consumer group member has a {than} member epoch ({}) than the one known by the group \
         coordinator ({current}). The member must abandon all its partitions and rejoin.",
        asked.epoch
    );
    refuse(ErrorCode::FencedMemberEpoch, message)
}

/// What a member wants after a heartbeat: what it does not say stays.
fn updated(before: &Subscription, asked: &ConsumerHeartbeat) -> Subscription {
    let mut wants = before.clone();
    if asked.instance.is_some() {
        wants.instance.clone_from(&asked.instance);
    }
    if asked.rack.is_some() {
        wants.rack.clone_from(&asked.rack);
    }
    if 0 <= asked.rebalance_ms {
        wants.rebalance_ms = asked.rebalance_ms;
    }
    if asked.assignor.is_some() {
        wants.assignor.clone_from(&asked.assignor);
    }
    if let Some(topics) = &asked.topics {
        wants.topics.clone_from(topics);
        wants.topics.sort_unstable();
        wants.topics.dedup();
    }
    if asked.regex.is_some() {
        wants.regex.clone_from(&asked.regex);
    }
    wants.client_id = Arc::clone(&asked.client_id);
    wants.client_host = Arc::clone(&asked.client_host);
    wants.classic = None;
    wants
}
