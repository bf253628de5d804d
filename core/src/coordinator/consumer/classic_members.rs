//! What members that speak the classic protocol ask of a group of the newer kind, in which the
//! coordinator shares out: see [`crate::coordinator::migration`].
//!
//! JoinGroup stands for the heartbeat in which a member says all: what it wants, and what it still
//! reads. Who lets go of everything before it joins says that it reads nothing, and has its new share
//! at once; who keeps what it may (KIP-429) is first told what is left of it, gives the rest up, and
//! joins once more.
//!
//! Start reading at [`Consumer::join`].

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tidemill_net::kafka::ErrorCode;
use tidemill_net::kafka::consumer_protocol::PROTOCOL_TYPE;

use super::heartbeat::Draft;
use super::{Consumer, Member, Watch};
use crate::coordinator::decision::Decision;
use crate::coordinator::member::said_bytes;
use crate::coordinator::migration::{Said, told};
use crate::coordinator::record::{ClassicMember, ConsumerRecord, State, Subscription};
use crate::coordinator::request::{
    Heartbeat, Join, Joined, Leave, MemberId, Protocol, Reply, Sync, Synced, Who,
};
use crate::job::ReplyTo;

impl Consumer {
    // Joining.

    /// A classic member joins, or takes its next step.
    pub(in crate::coordinator) fn join(
        &self,
        join: &Join,
        reply_to: ReplyTo,
        watch: &mut Watch,
        decision: &mut Decision<'_>,
    ) {
        match self.joined(join, watch, decision) {
            Ok(joined) => decision.reply(reply_to, Reply::Joined(Box::new(joined))),
            Err((error, member)) => decision.refuse_join(reply_to, error, &member),
        }
    }

    fn joined(
        &self,
        join: &Join,
        watch: &mut Watch,
        decision: &mut Decision<'_>,
    ) -> Result<Joined, (ErrorCode, MemberId)> {
        let told_as = |error| (error, Arc::clone(&join.member));
        let old = join.instance.as_ref().and_then(|instance| self.statics.get(instance)).cloned();
        let known = old.as_ref().unwrap_or(&join.member);
        self.check_room(join, known, decision).map_err(|error| (error, "".into()))?;
        if !self.suits(join, known) {
            return Err(told_as(ErrorCode::InconsistentGroupProtocol));
        }
        let Ok(said) = Said::read(&join.protocols[0].metadata, decision.image) else {
            return Err(told_as(ErrorCode::InconsistentGroupProtocol));
        };
        let id = self.name(join, old.as_ref(), decision)?;
        let replaced = old.filter(|old| *old != id);
        let mut draft = Draft::of(self);
        if let Some(old) = &replaced {
            draft.replace(old, &id);
            watch.forget(old, decision.timers);
        }
        draft.says(&id, join, &said, watch, decision);
        let member = &draft.group.members[&id];
        let mut joined = member.joined(&id);
        // The last one that spoke the newer protocol has come back with the classic one.
        let spoke_newer = |old: &MemberId| self.members[old].wants.classic.is_none();
        if replaced.as_ref().is_some_and(spoke_newer)
            && let Some(mut classic) = draft.group.downgraded(decision)
        {
            if draft.group.is_settled() {
                classic.stands();
            }
            (joined.generation, joined.protocol) = (classic.generation(), classic.protocol());
            Draft::finish_as(classic, self, decision);
            return Ok(joined);
        }
        watch.touch(&id, member.wants.classic.as_ref(), decision);
        watch.await_step(&id, member, decision);
        draft.finish(decision);
        Ok(joined)
    }

    /// Whether there is room for a member, and for what it says.
    fn check_room(
        &self,
        join: &Join,
        known: &MemberId,
        decision: &Decision<'_>,
    ) -> Result<(), ErrorCode> {
        let rules = decision.rules;
        let is_new = !self.members.contains_key(known);
        let said = self.tally.said_by_others(self.said_by(known)) + said_bytes(&join.protocols);
        if (is_new && rules.members_max <= self.members.len()) || rules.record_bytes_max < said {
            return Err(ErrorCode::GroupMaxSizeReached);
        }
        Ok(())
    }

    /// Whether a member can work with the other classic ones: nobody knows when they are to share out
    /// among themselves again.
    fn suits(&self, join: &Join, known: &MemberId) -> bool {
        let own = self.said_by(known);
        let is_of_all = |protocol: &Protocol| self.tally.others_know(&protocol.name, own);
        &*join.protocol_type == PROTOCOL_TYPE && join.protocols.iter().any(is_of_all)
    }

    /// What a member has said, if it is a classic one.
    fn said_by(&self, id: &MemberId) -> Option<&ClassicMember> {
        self.members.get(id)?.wants.classic.as_ref()
    }

    /// The name under which a member is let in.
    fn name(
        &self,
        join: &Join,
        old: Option<&MemberId>,
        decision: &mut Decision<'_>,
    ) -> Result<MemberId, (ErrorCode, MemberId)> {
        let member = &join.member;
        match &join.instance {
            Some(instance) if member.is_empty() => Ok(decision.name_member(instance)),
            Some(_) if old == Some(member) => Ok(Arc::clone(member)),
            Some(_) if old.is_some() => Err((ErrorCode::FencedInstanceId, Arc::clone(member))),
            Some(_) => Err((ErrorCode::UnknownMemberId, Arc::clone(member))),
            None if !member.is_empty() => Ok(Arc::clone(member)),
            None => {
                let id = decision.name_member(&join.client_id);
                if join.needs_member_id { Err((ErrorCode::MemberIdRequired, id)) } else { Ok(id) }
            }
        }
    }

    // Staying and leaving.

    /// A classic member asks what it may read.
    pub(in crate::coordinator) fn sync(
        &self,
        sync: &Sync,
        watch: &mut Watch,
        decision: &mut Decision<'_>,
    ) -> Synced {
        let id = &sync.who.member;
        let (member, classic) = match self.in_epoch(&sync.who) {
            Ok(found) => found,
            Err(error) => return Synced::refused(error),
        };
        // Who joined while the group was a classic one was told what that had chosen.
        let is_meant = |protocol: &&Protocol| {
            sync.protocol.as_ref().is_none_or(|said| **said == *protocol.name)
        };
        let is_other_type = sync.protocol_type.as_ref().is_some_and(|it| **it != *PROTOCOL_TYPE);
        let protocol = classic.protocols.iter().find(is_meant).filter(|_| !is_other_type);
        let Some(protocol) = protocol else {
            return Synced::refused(ErrorCode::InconsistentGroupProtocol);
        };
        watch.touch(id, Some(classic), decision);
        // Who has to give something up is told what is left of its share first.
        if member.has.epoch < self.epoch && member.has.state != State::Unrevoked {
            watch.await_revocation(id, member, decision);
            return Synced::refused(ErrorCode::RebalanceInProgress);
        }
        watch.stop_revocation(id, decision.timers);
        Synced {
            error: ErrorCode::None,
            protocol_type: Some(PROTOCOL_TYPE.into()),
            protocol: Some(Arc::clone(&protocol.name)),
            assignment: told(&member.has.assigned, &protocol.metadata, decision.image),
        }
    }

    /// A classic member is alive, and is told if it is to join again.
    pub(in crate::coordinator) fn classic_heartbeat(
        &self,
        heartbeat: &Heartbeat,
        watch: &mut Watch,
        decision: &mut Decision<'_>,
    ) -> ErrorCode {
        let id = &heartbeat.who.member;
        let (member, classic) = match self.in_epoch(&heartbeat.who) {
            Ok(found) => found,
            Err(error) => return error,
        };
        watch.touch(id, Some(classic), decision);
        if self.looks_again(watch, decision) {
            return ErrorCode::RebalanceInProgress;
        }
        let is_due = match member.has.state {
            State::Unrevoked => true,
            State::Unreleased => !self.waits(id, member),
            State::Stable => false,
        };
        if is_due || member.has.epoch < self.epoch {
            watch.await_revocation(id, member, decision);
            return ErrorCode::RebalanceInProgress;
        }
        ErrorCode::None
    }

    /// Looks whether the group goes on as it is: it is classic again if it can be, and enters another
    /// epoch if its topics are others. Where nobody speaks the newer protocol, nobody else looks.
    fn looks_again(&self, watch: &mut Watch, decision: &mut Decision<'_>) -> bool {
        if self.is_classic() && watch.stays != Some((self.epoch, self.bytes)) {
            if let Some(classic) = self.downgraded(decision) {
                Draft::finish_as(classic, self, decision);
                return true;
            }
            watch.stays = Some((self.epoch, self.bytes));
        }
        let seen = Some(decision.image.records_replayed());
        if watch.seen == seen {
            return false;
        }
        let mut draft = Draft::of(self);
        draft.next_epoch_if(false, None, decision.image);
        watch.seen = seen;
        let is_other = !draft.changes.is_empty();
        draft.finish(decision);
        is_other
    }

    /// Whether others still hold some of what a member is to have.
    fn waits(&self, id: &MemberId, member: &Member) -> bool {
        let is_missing = |topic, number: &i32| {
            let assigned = member.has.assigned.get(topic);
            !assigned.is_some_and(|assigned| assigned.contains(number))
        };
        let share = self.targets.get(id);
        let mut all = share.into_iter().flat_map(|share| share.iter());
        all.any(|(topic, numbers)| {
            numbers.iter().any(|number| {
                is_missing(topic, number) && self.held.contains_key(&(*topic, *number))
            })
        })
    }

    /// Members go that LeaveGroup names: classic ones by their own wish, others by an operator's.
    pub(in crate::coordinator) fn leave_named(
        &self,
        leave: &Leave,
        watch: &mut Watch,
        decision: &mut Decision<'_>,
    ) -> Vec<ErrorCode> {
        let mut draft = Draft::of(self);
        let mut results = Vec::with_capacity(leave.members.len());
        for (id, instance) in &leave.members {
            // Tools remove a static member by the name it has across restarts.
            let named = match instance.as_ref().filter(|_| id.is_empty()) {
                Some(instance) => draft.group.statics.get(instance).cloned(),
                None => Some(Arc::clone(id)),
            };
            let named = named.ok_or(ErrorCode::UnknownMemberId);
            let found = named.and_then(|id| {
                draft.group.named(&id, instance.as_ref())?;
                Ok(id)
            });
            if let Ok(id) = &found {
                draft.forget(id);
                watch.forget(id, decision.timers);
            }
            results.push(found.err().unwrap_or(ErrorCode::None));
        }
        if results.contains(&ErrorCode::None) {
            if let Some(classic) = draft.group.downgraded(decision) {
                Draft::finish_as(classic, self, decision);
                return results;
            }
            draft.next_epoch_if(true, None, decision.image);
            draft.finish(decision);
        }
        results
    }

    /// The member of this name, which still has the name it has across restarts.
    fn named(&self, id: &MemberId, instance: Option<&Arc<str>>) -> Result<&Member, ErrorCode> {
        if let Some(instance) = instance {
            match self.statics.get(instance) {
                None => return Err(ErrorCode::UnknownMemberId),
                Some(current) if current != id => return Err(ErrorCode::FencedInstanceId),
                Some(_) => {}
            }
        }
        self.members.get(id).map(|member| &**member).ok_or(ErrorCode::UnknownMemberId)
    }

    /// The same, if it is a classic one.
    fn classic(
        &self,
        id: &MemberId,
        instance: Option<&Arc<str>>,
    ) -> Result<(&Member, &ClassicMember), ErrorCode> {
        let member = self.named(id, instance)?;
        let classic = member.wants.classic.as_ref().ok_or(ErrorCode::UnknownMemberId)?;
        Ok((member, classic))
    }

    fn in_epoch(&self, who: &Who) -> Result<(&Member, &ClassicMember), ErrorCode> {
        let (member, classic) = self.classic(&who.member, who.instance.as_ref())?;
        match member.has.epoch == who.generation {
            true => Ok((member, classic)),
            false => Err(ErrorCode::IllegalGeneration),
        }
    }
}

impl Draft {
    /// A classic member says what it wants and reads, and takes its next step.
    fn says(
        &mut self,
        id: &MemberId,
        join: &Join,
        said: &Said,
        watch: &mut Watch,
        decision: &Decision<'_>,
    ) {
        let image = decision.image;
        let before = self.group.members.get(id).map(|member| member.wants.clone());
        let wants = wanted(before.as_ref(), join, said);
        let others = before.as_ref().map(|before| (&before.topics, before.pattern()))
            != Some((&wants.topics, None));
        if before.as_ref() != Some(&wants) {
            self.write(ConsumerRecord::Member(Arc::clone(id), Some(wants)));
        }
        let seen = Some(image.records_replayed());
        if others || watch.seen != seen {
            self.next_epoch_if(others, None, image);
        }
        self.share_out(None, image);
        self.reconcile(id, Some(&said.owned));
        watch.seen = seen;
    }
}

impl Member {
    /// What a classic member is told when it has joined. It is not told who leads: nobody does.
    fn joined(&self, id: &MemberId) -> Joined {
        let classic = self.wants.classic.as_ref();
        let first = classic.and_then(|classic| classic.protocols.first());
        Joined {
            error: ErrorCode::None,
            member: Arc::clone(id),
            generation: self.has.epoch,
            protocol_type: Some(PROTOCOL_TYPE.into()),
            protocol: first.map(|protocol| Arc::clone(&protocol.name)),
            leader: "".into(),
            skip_assignment: false,
            members: Vec::new(),
        }
    }
}

/// What a classic member wants that joins.
fn wanted(before: Option<&Subscription>, join: &Join, said: &Said) -> Subscription {
    let ms = |time: Duration| i32::try_from(time.as_millis()).unwrap_or(i32::MAX);
    // The buffer that it came in is not kept with it.
    let own = |protocol: &Protocol| {
        let metadata = Bytes::copy_from_slice(&protocol.metadata);
        Protocol { name: Arc::clone(&protocol.name), metadata }
    };
    let classic = ClassicMember {
        session_ms: ms(join.session_timeout),
        protocols: join.protocols.iter().map(own).collect(),
    };
    Subscription {
        instance: join.instance.clone().or_else(|| before.and_then(|b| b.instance.clone())),
        rack: said.rack.clone(),
        client_id: Arc::clone(&join.client_id),
        client_host: Arc::clone(&join.client_host),
        topics: said.topics.clone(),
        regex: None,
        rebalance_ms: ms(join.rebalance_timeout),
        assignor: None,
        classic: Some(classic),
    }
}
