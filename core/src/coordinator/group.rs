//! One group, of whichever kind: what is asked of it goes to the kind it is of, or makes it one.
//!
//! A group without members is of the kind of whoever comes next. While its membership is being
//! written, events wait in line.
//!
//! Start reading at [`Group::happen`].

mod changing;
mod unknown;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use tidemill_net::kafka::ErrorCode;
use tidemill_record::ProducerId;
use tidemill_storage::mistake::{self, Mistake};

use super::classic::Classic;
use super::consumer::{Consumer, Watch};
use super::decision::{Becomes, Decision};
use super::offsets::{self, Kept, Offsets, UnusedSince};
use super::record::{ConsumerRecord, GroupState, Record, ShareRecord};
use super::request::{
    ByTopic, FetchOffsets, Joined, Listed, MemberId, Reply, Request, ShareHeartbeat,
};
use super::share::{Share, ShareWatch};
use super::timers::{Alarm, TimerId, Timers};
use crate::job::ReplyTo;

/// One group.
#[derive(Default)]
pub(super) struct Group {
    kind: Kind,
    pub(super) offsets: Offsets,
    /// What is remembered of a group of the classic kind beside its offsets.
    remembered: Option<Box<GroupState>>,
    /// Of a group of the newer kind.
    watch: Watch,
    /// Of a share group.
    share_watch: ShareWatch,
    /// Writes that have not ended.
    pub(super) writes: usize,
    /// Its membership is being written: everything waits.
    is_blocked: bool,
    waiting: VecDeque<Event>,
    /// What its offsets take in memory.
    offsets_bytes: isize,
}

enum Kind {
    Classic(Box<Classic>),
    Consumer(Box<Consumer>),
    Share(Box<Share>),
}

impl Default for Kind {
    fn default() -> Self {
        Self::Classic(Box::default())
    }
}

/// Something that happens to a group.
pub(super) enum Event {
    Asked(Request, ReplyTo),
    Rang(TimerId, Alarm),
    Expire,
    TopicDeleted(Arc<str>),
    /// A transaction with this number has ended, of this producer, and counts or not.
    TransactionEnded(u64, ProducerId, bool),
}

/// A part of what is remembered of a group, in the order in which it is written anew.
#[derive(Clone, Debug)]
pub(super) enum Part {
    /// The group itself.
    Itself,
    /// A member of a group of the newer kind.
    Member(MemberId),
    /// An offset.
    Offset(Kept),
}

impl Event {
    /// Whether nothing of the group may be on its way to the disk when it happens: what it does
    /// depends on all that will be there.
    fn wants_quiet(&self) -> bool {
        match self {
            Self::Asked(request, _) => {
                matches!(request, Request::Delete { .. } | Request::DeleteOffsets(_))
            }
            Self::Expire | Self::TopicDeleted(_) | Self::TransactionEnded(..) => true,
            Self::Rang(..) => false,
        }
    }
}

impl Group {
    /// Whether nothing of it is left to keep.
    pub(super) fn is_vacant(&self) -> bool {
        let remembered = self.remembered.is_some() || !self.offsets.is_empty();
        let under_way = 0 < self.writes || !self.waiting.is_empty();
        let nobody = matches!(&self.kind, Kind::Classic(classic) if classic.is_vacant());
        !remembered && !under_way && nobody
    }

    /// What it takes in memory, about.
    pub(super) fn bytes(&self) -> isize {
        let members = match &self.kind {
            Kind::Classic(classic) => classic.bytes(),
            Kind::Consumer(consumer) => consumer.bytes(),
            Kind::Share(share) => share.bytes(),
        };
        members as isize + self.offsets_bytes
    }

    // Replaying.

    /// Lets a record of the log have happened, before anything is asked.
    pub(super) fn replay(&mut self, record: Record) {
        match record {
            Record::Group { state, .. } => {
                self.remembered = Some(Box::new(state.clone()));
                self.kind = Kind::Classic(Box::new(Classic::from_state(state)));
            }
            Record::GroupRemoved { .. } => {
                self.remembered = None;
                if let Kind::Classic(_) = self.kind {
                    self.kind = Kind::default();
                }
            }
            Record::Share { change: ShareRecord::Epoch(None), .. } => {
                if let Kind::Share(_) = self.kind {
                    self.kind = Kind::default();
                }
            }
            Record::Share { change, .. } => {
                let is_there =
                    matches!(change, ShareRecord::Epoch(_) | ShareRecord::Member(_, Some(_)));
                if !matches!(self.kind, Kind::Share(_)) && is_there {
                    self.kind = Kind::Share(Box::default());
                }
                if let Kind::Share(share) = &mut self.kind {
                    share.replay(&change);
                }
            }
            Record::Consumer { change: ConsumerRecord::Epoch(None), .. } => {
                if let Kind::Consumer(_) = self.kind {
                    self.kind = Kind::default();
                }
            }
            Record::Consumer { change, .. } => {
                if !matches!(self.kind, Kind::Consumer(_)) {
                    // Marks of what is gone make nothing.
                    if !matches!(
                        change,
                        ConsumerRecord::Epoch(_) | ConsumerRecord::Member(_, Some(_))
                    ) {
                        return;
                    }
                    self.kind = Kind::Consumer(Box::default());
                }
                if let Kind::Consumer(consumer) = &mut self.kind {
                    consumer.replay(&change);
                }
            }
            offset @ (Record::Offset { .. }
            | Record::OffsetRemoved { .. }
            | Record::Pending { .. }
            | Record::PendingRemoved { .. }) => {
                self.offsets_bytes += self.offsets.apply(offset);
            }
        }
    }

    /// All was replayed: from now on members are expected to speak up.
    pub(super) fn loaded(&mut self, decision: &mut Decision<'_>) {
        match &mut self.kind {
            Kind::Classic(classic) => classic.loaded(decision),
            Kind::Consumer(consumer) => consumer.expect_all(&mut self.watch, decision),
            Kind::Share(share) => share.expect_all(&mut self.share_watch, decision),
        }
    }

    // Writing.

    pub(super) fn writing(&mut self, blocks: bool) {
        self.writes += 1;
        self.is_blocked |= blocks;
    }

    /// A write has ended, one way or the other.
    pub(super) fn written(&mut self, blocks: bool) {
        self.writes -= 1;
        self.is_blocked &= !blocks;
    }

    /// These records are durable. Members of groups of the classic kind know already; a group of
    /// the newer kind is from now on what it becomes by them.
    pub(super) fn have_happened(
        &mut self,
        records: Vec<Record>,
        becomes: Option<Becomes>,
        timers: &mut Timers,
    ) {
        for record in records {
            match record {
                Record::Group { state, .. } => self.remembered = Some(Box::new(state)),
                Record::GroupRemoved { .. } => self.remembered = None,
                Record::Consumer { .. } | Record::Share { .. } => {}
                offset @ (Record::Offset { .. }
                | Record::OffsetRemoved { .. }
                | Record::Pending { .. }
                | Record::PendingRemoved { .. }) => {
                    self.offsets_bytes += self.offsets.apply(offset);
                }
            }
        }
        if let Some(becomes) = becomes {
            if let Kind::Classic(classic) = &mut self.kind {
                classic.end(timers);
            }
            self.kind = match becomes {
                Becomes::Classic(classic) => {
                    self.watch.end(timers);
                    Kind::Classic(classic)
                }
                Becomes::Consumer(consumer) => Kind::Consumer(consumer),
                Becomes::Share(share) => Kind::Share(share),
            };
            if let Kind::Consumer(consumer) = &mut self.kind {
                consumer.settle();
            }
        }
    }

    /// What was decided could not be written. `shares`: those of a group of the classic kind.
    pub(super) fn write_failed(&mut self, shares: bool, decision: &mut Decision<'_>) {
        match &mut self.kind {
            Kind::Classic(classic) if shares => classic.share_out_failed(decision),
            // Members of the newer kind that it was to get are not there.
            Kind::Classic(_) => self.watch.end(decision.timers),
            Kind::Consumer(consumer) => consumer.expect_all(&mut self.watch, decision),
            Kind::Share(share) => share.expect_all(&mut self.share_watch, decision),
        }
    }

    // Events.

    /// Gives an event back if it may happen now; otherwise it waits.
    pub(super) fn queue(&mut self, event: Event) -> Option<Event> {
        if self.waiting.is_empty() && self.may_happen(&event) {
            return Some(event);
        }
        self.waiting.push_back(event);
        None
    }

    /// The next event that has waited and may happen now.
    pub(super) fn next_event(&mut self) -> Option<Event> {
        let may_happen = self.waiting.front().is_some_and(|event| self.may_happen(event));
        if may_happen { self.waiting.pop_front() } else { None }
    }

    /// Whether something of it is to be known only later.
    pub(super) fn is_busy(&self) -> bool {
        0 < self.writes || !self.waiting.is_empty()
    }

    fn may_happen(&self, event: &Event) -> bool {
        !self.is_blocked && (self.writes == 0 || !event.wants_quiet())
    }

    /// Lets something happen.
    pub(super) fn happen(&mut self, event: Event, decision: &mut Decision<'_>) {
        match event {
            Event::Asked(request, reply_to) => self.answer(request, reply_to, decision),
            Event::Rang(timer, alarm) => self.rang(timer, &alarm, decision),
            Event::Expire => self.expire(decision),
            Event::TopicDeleted(topic) => self.topic_deleted(&topic, decision),
            Event::TransactionEnded(number, producer, commit) => {
                let records = self.offsets.end_transaction(decision.group, producer, commit);
                decision.outcome.records.extend(records);
                decision.outcome.ends_transaction = Some(number);
            }
        }
    }

    /// It goes: nothing is waited for any more. What has waited is given back.
    pub(super) fn end(mut self, timers: &mut Timers) -> VecDeque<Event> {
        if let Kind::Classic(classic) = &mut self.kind {
            classic.end(timers);
        }
        self.watch.end(timers);
        self.share_watch.end(timers);
        self.waiting
    }

    /// Everybody who waits, taken out.
    pub(super) fn take_waiting(&mut self) -> Vec<ReplyTo> {
        let mut waiting = match &mut self.kind {
            Kind::Classic(classic) => classic.take_waiting(),
            Kind::Consumer(_) | Kind::Share(_) => Vec::new(),
        };
        for event in self.waiting.drain(..) {
            if let Event::Asked(_, reply_to) = event {
                waiting.push(reply_to);
            }
        }
        waiting
    }

    fn rang(&mut self, timer: TimerId, alarm: &Alarm, decision: &mut Decision<'_>) {
        match (&mut self.kind, alarm) {
            (Kind::Classic(classic), Alarm::Join) => classic.join_time_is_over(timer, decision),
            (Kind::Classic(classic), Alarm::Sync) => classic.sync_time_is_over(timer, decision),
            (Kind::Classic(classic), Alarm::Session(member)) => {
                classic.session_is_over(timer, member, decision);
            }
            (Kind::Consumer(consumer), Alarm::Session(member)) => {
                consumer.session_is_over(timer, member, &mut self.watch, decision);
            }
            (Kind::Consumer(consumer), Alarm::Revocation(member)) => {
                consumer.revocation_is_over(timer, member, &mut self.watch, decision);
            }
            (Kind::Share(share), Alarm::Session(member)) => {
                share.session_is_over(timer, member, &mut self.share_watch, decision);
            }
            // Set by the kind the group was of before.
            (Kind::Classic(_), Alarm::Revocation(_))
            | (Kind::Consumer(_), Alarm::Join | Alarm::Sync)
            | (Kind::Share(_), Alarm::Join | Alarm::Sync | Alarm::Revocation(_)) => {}
        }
    }

    // Answering.

    fn answer(&mut self, request: Request, reply_to: ReplyTo, decision: &mut Decision<'_>) {
        if let Request::Join(_) = request {
            self.become_classic_if_empty(decision);
        }
        let reply = match (&mut self.kind, request) {
            (Kind::Classic(classic), Request::Join(join)) => {
                return classic.join(&join, reply_to, decision);
            }
            (Kind::Classic(classic), Request::Sync(sync)) => {
                return classic.sync(&sync, reply_to, decision);
            }
            (Kind::Classic(classic), Request::Heartbeat(heartbeat)) => {
                Reply::Alive(classic.heartbeat(&heartbeat, decision))
            }
            (Kind::Classic(classic), Request::Leave(leave)) => {
                Reply::Left(classic.leave(&leave, decision))
            }
            (Kind::Consumer(consumer), Request::Join(join)) => {
                return consumer.join(&join, reply_to, &mut self.watch, decision);
            }
            (Kind::Consumer(consumer), Request::Sync(sync)) => {
                Reply::Synced(Box::new(consumer.sync(&sync, &mut self.watch, decision)))
            }
            (Kind::Consumer(consumer), Request::Heartbeat(heartbeat)) => {
                Reply::Alive(consumer.classic_heartbeat(&heartbeat, &mut self.watch, decision))
            }
            (Kind::Consumer(consumer), Request::Leave(leave)) => {
                Reply::Left(consumer.leave_named(&leave, &mut self.watch, decision))
            }
            // Nobody shares out what all read.
            (Kind::Share(_), Request::Join(join)) => {
                let error = ErrorCode::InconsistentGroupProtocol;
                Reply::Joined(Box::new(Joined::refused(error, &join.member)))
            }
            (
                Kind::Share(_),
                request @ (Request::Sync(_) | Request::Heartbeat(_) | Request::Leave(_)),
            ) => request.of_unknown_group(),
            (_, Request::ShareHeartbeat(heartbeat)) => self.share_heartbeat(&heartbeat, decision),
            (_, Request::ConsumerHeartbeat(heartbeat)) => {
                self.consumer_heartbeat(&heartbeat, decision)
            }
            (kind, Request::Commit(commit)) => {
                let allowed = match kind {
                    Kind::Classic(classic) => classic.check_commit(&commit, decision),
                    Kind::Consumer(consumer) => consumer.check_commit(&commit, decision.image),
                    Kind::Share(_) => Err(commit.unknown_group),
                };
                match allowed {
                    Err(error) => Reply::Refused(error),
                    Ok(()) => Reply::Committed(commit_offsets(commit.offsets, None, decision)),
                }
            }
            (kind, Request::CommitInTransaction(commit, producer)) => {
                // Producers need not say for whom they commit.
                let who = &commit.who;
                let is_named =
                    0 <= who.generation || !who.member.is_empty() || who.instance.is_some();
                let allowed = match kind {
                    Kind::Share(_) => Err(commit.unknown_group),
                    _ if !is_named => Ok(()),
                    Kind::Classic(classic) => classic.check_commit(&commit, decision),
                    Kind::Consumer(consumer) => consumer.check_commit(&commit, decision.image),
                };
                // Producers know of groups what was known before the newer kind: any other error
                // ends them for good, where this one makes them abort and go on.
                let allowed = match allowed {
                    Err(ErrorCode::StaleMemberEpoch) => Err(ErrorCode::IllegalGeneration),
                    // It is in the generation, though it waits for its share.
                    Err(ErrorCode::RebalanceInProgress) => Ok(()),
                    Err(_) if mistake::is_made(Mistake::TakeFromFenced) => Ok(()),
                    allowed => allowed,
                };
                match allowed {
                    Err(error) => Reply::Refused(error),
                    Ok(()) => {
                        let within = Some((producer, self.offsets.next_order()));
                        Reply::Committed(commit_offsets(commit.offsets, within, decision))
                    }
                }
            }
            (_, Request::DeleteOffsets(delete)) => self.delete_offsets(&delete.topics, decision),
            (Kind::Classic(classic), Request::Describe { .. }) => {
                Reply::Described(Some(Box::new(classic.describe())))
            }
            (Kind::Consumer(_) | Kind::Share(_), Request::Describe { .. }) => {
                Reply::Described(None)
            }
            (_, Request::MakeShare { .. }) => self.make_share(decision),
            (Kind::Share(share), Request::DescribeShare { .. }) => {
                let described = share.describe(&self.share_watch, decision.image);
                Reply::ShareDescribed(Some(Box::new(described)))
            }
            (_, Request::DescribeShare { .. }) => Reply::ShareDescribed(None),
            (Kind::Consumer(consumer), Request::DescribeConsumer { .. }) => {
                Reply::ConsumerDescribed(Some(Box::new(consumer.describe(decision.image))))
            }
            (Kind::Classic(_) | Kind::Share(_), Request::DescribeConsumer { .. }) => {
                Reply::ConsumerDescribed(None)
            }
            (_, Request::Delete { .. }) => Reply::Deleted(self.delete(decision)),
            (_, Request::FetchOffsets(_) | Request::List(_) | Request::EndTransaction { .. }) => {
                unreachable!("answered before")
            }
        };
        decision.reply(reply_to, reply);
    }

    /// Nothing is known of it yet: it may become what it is wanted to be.
    fn is_new(&self) -> bool {
        let is_vacant = matches!(&self.kind, Kind::Classic(classic) if classic.is_vacant());
        is_vacant && self.remembered.is_none() && self.offsets.is_empty()
    }

    fn make_share(&mut self, decision: &mut Decision<'_>) -> Reply {
        let nobody = Share::default();
        let share = match &self.kind {
            Kind::Share(share) => share,
            Kind::Classic(_) if self.is_new() => {
                nobody.make(decision);
                &nobody
            }
            Kind::Classic(_) | Kind::Consumer(_) => return Reply::ShareDescribed(None),
        };
        let described = share.describe(&self.share_watch, decision.image);
        Reply::ShareDescribed(Some(Box::new(described)))
    }

    fn share_heartbeat(&mut self, asked: &ShareHeartbeat, decision: &mut Decision<'_>) -> Reply {
        let nobody = Share::default();
        let share = match &self.kind {
            Kind::Share(share) => share,
            Kind::Classic(_) if self.is_new() && asked.joins() => &nobody,
            Kind::Classic(_) | Kind::Consumer(_) => {
                let message = format!("Group {} is not a share group.", asked.group);
                return Reply::Heard(Err((ErrorCode::GroupIdNotFound, message)));
            }
        };
        let heard = share.heartbeat(asked, &mut self.share_watch, decision);
        Reply::Heard(heard.map_err(|refusal| (refusal.error, refusal.message)))
    }

    /// Whether offsets may be fetched in the name that is given.
    pub(super) fn check_fetch(&self, fetch: &FetchOffsets) -> Result<(), ErrorCode> {
        match &self.kind {
            Kind::Classic(_) => Ok(()),
            Kind::Share(_) => Err(ErrorCode::GroupIdNotFound),
            Kind::Consumer(consumer) => consumer.check_fetch(fetch.member.as_deref(), fetch.epoch),
        }
    }

    pub(super) fn listed(&self, group: &Arc<str>) -> Listed {
        match &self.kind {
            Kind::Classic(classic) => classic.listed(group),
            Kind::Consumer(consumer) => consumer.listed(group),
            Kind::Share(share) => share.listed(group),
        }
    }

    // Forgetting.

    fn is_empty(&self) -> bool {
        match &self.kind {
            Kind::Classic(classic) => classic.is_empty(),
            Kind::Consumer(consumer) => consumer.is_empty(),
            Kind::Share(share) => share.is_empty(),
        }
    }

    /// Tells of topics whether a member reads them, as far as that is known.
    fn readers(&self) -> Box<dyn Fn(&str) -> bool + '_> {
        match &self.kind {
            Kind::Classic(classic) => Box::new(|topic| classic.reads(topic)),
            Kind::Consumer(consumer) => Box::new(consumer.readers()),
            Kind::Share(_) => Box::new(|_| false),
        }
    }

    fn delete_offsets(&self, topics: &ByTopic<i32>, decision: &mut Decision<'_>) -> Reply {
        if let Kind::Share(_) = self.kind {
            return Reply::Refused(ErrorCode::GroupIdNotFound);
        }
        if let Kind::Classic(classic) = &self.kind
            && let Err(error) = classic.check_delete_offsets()
        {
            return Reply::Refused(error);
        }
        let (mut results, is_read) = (Vec::new(), self.readers());
        let mut gone: BTreeMap<Arc<str>, BTreeSet<i32>> = BTreeMap::new();
        for (topic, partitions) in topics {
            if is_read(topic) {
                results.push(ErrorCode::GroupSubscribedToTopic);
                continue;
            }
            gone.entry(Arc::clone(topic)).or_default().extend(partitions);
            results.push(ErrorCode::None);
        }
        let goes = |topic: &Arc<str>, partition: i32| {
            gone.get(topic).is_some_and(|partitions| partitions.contains(&partition))
        };
        decision.outcome.records.extend(self.offsets.remove(decision.group, goes));
        Reply::OffsetsDeleted(results)
    }

    fn delete(&self, decision: &mut Decision<'_>) -> ErrorCode {
        if !self.is_empty() {
            return ErrorCode::NonEmptyGroup;
        }
        let mut offsets = self.offsets.remove_all(decision.group);
        if mistake::is_made(Mistake::ForgetGroupOnly) {
            offsets.retain(|record| !matches!(record, Record::OffsetRemoved { .. }));
        }
        self.forget(offsets, decision);
        ErrorCode::None
    }

    /// Writes that the group is gone, and its last offsets with it.
    fn forget(&self, offsets: Vec<Record>, decision: &mut Decision<'_>) {
        let group = decision.group;
        let outcome = &mut decision.outcome;
        outcome.records.extend(offsets);
        match &self.kind {
            Kind::Classic(_) => {
                outcome.records.push(Record::GroupRemoved { group: Arc::clone(group) });
            }
            Kind::Consumer(_) => {
                // A crash may have come when only the first record of its upgrade was there.
                if self.remembered.is_some() {
                    outcome.records.push(Record::GroupRemoved { group: Arc::clone(group) });
                }
                outcome.records.extend(Consumer::removal(group));
            }
            Kind::Share(_) => outcome.records.push(Share::removal(group)),
        }
        outcome.blocks = true;
        outcome.ends = true;
    }

    /// Forgets what was unused for too long; a group with nothing left is gone.
    fn expire(&self, decision: &mut Decision<'_>) {
        let (unused, vacant) = match &self.kind {
            Kind::Classic(classic) => (classic.unused_since(), classic.is_vacant()),
            Kind::Consumer(consumer) => (Some(UnusedSince::Commit), consumer.is_empty()),
            // It has none, and stays until it is deleted.
            Kind::Share(_) => (None, false),
        };
        let Some(unused) = unused else { return };
        let Decision { group, times, rules, .. } = &decision;
        let is_read = self.readers();
        let retention_ms = rules.offsets_retention_ms;
        let over = self.offsets.expire(group, unused, is_read, times.wall_ms, retention_ms);
        let nothing_left = over.len() == self.offsets.count() && !self.offsets.has_pending();
        if nothing_left && vacant {
            self.forget(over, decision);
        } else {
            decision.outcome.records.extend(over);
        }
    }

    fn topic_deleted(&self, topic: &Arc<str>, decision: &mut Decision<'_>) {
        let of_topic = |name: &Arc<str>, _| name == topic;
        decision.outcome.records.extend(self.offsets.remove(decision.group, of_topic));
    }

    // Writing anew.

    /// What is remembered of it and comes after a part, each part with its records.
    pub(super) fn remembered_after<'a>(
        &'a self,
        group: &'a Arc<str>,
        after: Option<&'a Part>,
    ) -> impl Iterator<Item = (Part, Vec<Record>)> + 'a {
        let itself = match (&self.kind, &self.remembered, after) {
            (Kind::Classic(_), Some(state), None) => {
                vec![Record::Group { group: Arc::clone(group), state: (**state).clone() }]
            }
            (Kind::Consumer(consumer), _, None) => consumer.records(group),
            (Kind::Share(share), _, None) => share.records(group),
            _ => Vec::new(),
        };
        let itself = Some((Part::Itself, itself)).filter(|(_, records)| !records.is_empty());
        let last_member = match after {
            Some(Part::Member(member)) => Some(member),
            _ => None,
        };
        let members = match (&self.kind, after) {
            (Kind::Consumer(consumer), None | Some(Part::Itself | Part::Member(_))) => {
                Some(consumer.records_of_members(group, last_member))
            }
            _ => None,
        };
        let shares = match (&self.kind, after) {
            (Kind::Share(share), None | Some(Part::Itself | Part::Member(_))) => {
                Some(share.records_of_members(group, last_member))
            }
            _ => None,
        };
        let members = members.into_iter().flatten().chain(shares.into_iter().flatten());
        let members = members.map(|(id, records)| (Part::Member(Arc::clone(id)), records));
        let last_offset = match after {
            Some(Part::Offset(kept)) => Some(kept.clone()),
            _ => None,
        };
        let offsets = self.offsets.remembered_after(group, last_offset);
        let offsets = offsets.map(|(kept, record)| (Part::Offset(kept), vec![record]));
        itself.into_iter().chain(members).chain(offsets)
    }
}

/// Writes the offsets that may be kept, within a producer's transaction and with their number there
/// if there is one, and tells of each how it went.
fn commit_offsets(
    offsets: Vec<(Arc<str>, i32, offsets::Committed)>,
    within: Option<(ProducerId, i64)>,
    decision: &mut Decision<'_>,
) -> Vec<ErrorCode> {
    let mut results = Vec::with_capacity(offsets.len());
    for (topic, partition, committed) in offsets {
        if decision.rules.offset_metadata_bytes_max < committed.metadata.len() {
            results.push(ErrorCode::OffsetMetadataTooLarge);
            continue;
        }
        let group = Arc::clone(decision.group);
        decision.outcome.records.push(match within {
            None => Record::Offset { group, topic, partition, committed, overtakes: None },
            Some((producer, order)) => {
                let order = Some(order);
                Record::Pending { group, producer, topic, partition, committed, order }
            }
        });
        results.push(ErrorCode::None);
    }
    results
}
