//! The group coordinator: who consumes what together, and how far they have come.
//!
//! There is one [`Coordinator`] for each partition of the internal topic `__consumer_offsets`, at
//! home where the partition is. A group belongs to the partition its name hashes to, so everything
//! about a group happens on one shard.
//!
//! It is pure: requests and the time go in, records and replies come out. What must outlive the
//! process is written to the partition, in Kafka's own format ([`record`]), and read back at the
//! next start:
//!
//! ```text
//! request ── decide ──┬── reply                       (nothing was written)
//!                     └── records ── appended ── durable ──> reply, and offsets change
//!                                       └── refused ──────> the error; nothing has changed
//! ```
//!
//! The log would grow for ever: from time to time all that is remembered is written to its end once
//! more, and what lies before is dropped (`rewrite.rs`).
//!
//! What it promises: a reply that depends on a record goes out only when the record is durable.
//! While the membership of a group is being written, whatever else is asked of that group waits,
//! so that nobody is ever told what a crash could undo.
//!
//! What it does not do: it knows no sockets, no versions of the wire and no other coordinator.
//!
//! Start reading at [`Coordinate::request`]; then `classic.rs` for what a group does.

pub mod assignment;
mod classic;
mod concerned;
mod consumer;
mod decision;
mod fork_map;
mod group;
mod member;
mod migration;
pub mod offsets;
pub mod record;
pub mod request;
mod session;
mod share;
mod timers;

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;
use std::time::Duration;

use tidemill_net::kafka::ErrorCode;
use tidemill_record::ProducerId;
use tidemill_runtime::edge::Instant;
use tidemill_storage::mistake::{self, Mistake};

use self::concerned::Concerned;
use self::decision::{Becomes, Decision, IfRefused, Outcome};
use self::group::{Event, Group, Part};
use self::record::Record;
use self::request::{ByTopic, FetchOffsets, List, Listed, Reply, Request};
use self::timers::Timers;
use crate::coordinator_log::{self as log, Coordinate, Now};
use crate::job::ReplyTo;
use crate::limits::{GROUPS_EXPIRED_PER_TURN, GROUPS_PER_PARTITION_MAX};
use crate::random::Random;

/// The times and bounds that the node's settings give to its groups.
#[derive(Clone, Debug)]
pub struct Rules {
    /// `group.initial.rebalance.delay.ms`
    pub initial_delay: Duration,
    /// `group.max.size`
    pub members_max: usize,
    /// How long a member that does not know its name may wait for the others.
    pub new_member_timeout: Duration,
    /// `group.consumer.session.timeout.ms`
    pub consumer_session: Duration,
    /// Classic groups become ones of the newer kind under their members
    /// (`group.consumer.migration.policy`).
    pub upgrades: bool,
    /// Groups of the newer kind become classic ones under their members.
    pub downgrades: bool,
    /// The largest record about one group.
    pub record_bytes_max: usize,
    /// `offset.metadata.max.bytes`
    pub offset_metadata_bytes_max: usize,
    /// `offsets.retention.minutes`
    pub offsets_retention_ms: i64,
    /// `offsets.retention.check.interval.ms`
    pub expiry_interval: Duration,
}

/// The groups of one partition.
pub struct Coordinator {
    rules: Arc<Rules>,
    random: Random,
    groups: BTreeMap<Arc<str>, Group>,
    timers: Timers,
    replies: Vec<(ReplyTo, Reply)>,
    /// Ends of transactions that are being written.
    ends: BTreeMap<u64, End>,
    ends_begun: u64,
    concerned: Concerned,
    decided: Vec<Write>,
    /// Something waits for what is on its way.
    hurries: bool,
    expiry_at: Instant,
    /// Where a look at all groups goes on.
    expiry_after: Option<Arc<str>>,
    bytes: isize,
    /// It takes nothing more, and this is what it answers.
    closed: Option<ErrorCode>,
}

/// The end of a transaction, which may concern many groups.
struct End {
    /// In how many it is not durable yet.
    left: usize,
    /// In one it could not be written: it is to be told again.
    failed: Option<ErrorCode>,
    reply_to: ReplyTo,
}

/// The records of one decision.
pub struct Write {
    group: Arc<str>,
    records: Vec<Record>,
    outcome: Outcome,
}

impl log::Write for Write {
    type Record = Record;

    fn records(&self) -> &[Record] {
        &self.records
    }

    fn is_whole(&self) -> bool {
        self.outcome.is_whole
    }

    /// Commits of offsets come often, and little depends on each.
    fn may_linger(&self) -> Option<&Arc<str>> {
        let is_commit = |record: &Record| matches!(record, Record::Offset { .. });
        let lingers = self.outcome.ends_transaction.is_none() && !self.outcome.blocks;
        (lingers && self.records.iter().all(is_commit)).then_some(&self.group)
    }
}

/// Something that was written: a part of a group.
#[derive(Debug)]
pub struct Place {
    group: Arc<str>,
    part: Part,
}

impl Coordinator {
    /// No groups. `seed` is where the names of members come from.
    pub fn new(rules: Arc<Rules>, seed: u128) -> Self {
        Self {
            rules,
            random: Random::new(seed),
            groups: BTreeMap::new(),
            timers: Timers::default(),
            replies: Vec::new(),
            ends: BTreeMap::new(),
            ends_begun: 0,
            concerned: Concerned::default(),
            decided: Vec::new(),
            hurries: false,
            expiry_at: Instant::default(),
            expiry_after: None,
            bytes: 0,
            closed: None,
        }
    }
}

impl Coordinate for Coordinator {
    type Request = Request;
    type Reply = Reply;
    type Record = Record;
    type Write = Write;
    type Place = Place;

    // A start.

    fn replay(&mut self, record: Record) {
        let (group, producer) = (Arc::clone(record.group()), record.producer());
        let entry = self.groups.entry(Arc::clone(&group)).or_default();
        let before = entry.bytes();
        entry.replay(record);
        self.bytes += entry.bytes() - before;
        if let Some(producer) = producer {
            self.concerned.look_for(producer, &group, entry);
        }
        if entry.is_vacant() {
            self.groups.remove(&group);
        }
    }

    /// From now on members are expected to speak up. Offsets of topics that are gone go too; a
    /// crash may have come before that was written.
    fn loaded(&mut self, now: Now<'_>) {
        let names: Vec<Arc<str>> = self.groups.keys().cloned().collect();
        for group in &names {
            self.decide(group, now, Group::loaded);
        }
        let mut gone: Vec<Arc<str>> = Vec::new();
        for group in self.groups.values() {
            let topics = group.offsets.topics().map(|(topic, _)| topic);
            gone.extend(topics.filter(|topic| now.image.topic_named(topic).is_none()).cloned());
        }
        gone.sort_unstable();
        gone.dedup();
        for topic in gone {
            self.topic_deleted(&topic, now);
        }
        self.expiry_at = now.times.now.after(self.rules.expiry_interval);
    }

    // What happens.

    fn request(&mut self, request: Request, reply_to: ReplyTo, has_room: bool, now: Now<'_>) {
        if let Some(error) = self.closed {
            return self.replies.push((reply_to, Reply::Refused(error)));
        }
        let Some(group) = request.group().cloned() else {
            return match request {
                Request::EndTransaction { producer, commit } => {
                    self.end_transaction(producer.id, commit, reply_to, now);
                }
                Request::List(list) => {
                    let listed = self.list(&list);
                    self.replies.push((reply_to, Reply::Listed(listed)));
                }
                _ => unreachable!("all others are of one group"),
            };
        };
        if let Request::FetchOffsets(fetch) = &request {
            // What is there is durable; what is on its way was promised to nobody.
            let reply = self.fetch_offsets(fetch);
            return self.replies.push((reply_to, reply));
        }
        if !has_room && request.grows() {
            return self
                .replies
                .push((reply_to, Reply::Refused(ErrorCode::CoordinatorNotAvailable)));
        }
        if !self.groups.contains_key(&group) {
            if !request.makes_group() {
                return self.replies.push((reply_to, request.of_unknown_group()));
            }
            if GROUPS_PER_PARTITION_MAX <= self.groups.len() {
                let error = ErrorCode::CoordinatorNotAvailable;
                return self.replies.push((reply_to, Reply::Refused(error)));
            }
            self.groups.insert(Arc::clone(&group), Group::default());
        }
        self.happens(&group, Event::Asked(request, reply_to), now);
    }

    fn tick(&mut self, now: Now<'_>) {
        if self.closed.is_some() {
            return;
        }
        while let Some((id, group, alarm)) = self.timers.pop(now.times.now) {
            self.happens(&group, Event::Rang(id, alarm), now);
        }
        if self.expiry_at <= now.times.now {
            self.expire_some(now);
        }
    }

    fn next_deadline(&self) -> Option<Instant> {
        let goes_on = self.closed.is_none();
        let expiry = (goes_on && !self.groups.is_empty()).then_some(self.expiry_at);
        self.timers.next().filter(|_| goes_on).into_iter().chain(expiry).min()
    }

    fn close(&mut self, error: ErrorCode) {
        self.closed = Some(error);
        self.timers = Timers::default();
        let ends = std::mem::take(&mut self.ends).into_values();
        self.replies.extend(ends.map(|end| (end.reply_to, Reply::Refused(error))));
        for entry in self.groups.values_mut() {
            let refused = entry.take_waiting().into_iter().map(|to| (to, Reply::Refused(error)));
            self.replies.extend(refused);
        }
    }

    // What it has decided.

    fn decided(&mut self) -> &mut Vec<Write> {
        &mut self.decided
    }

    fn take_hurry(&mut self) -> bool {
        std::mem::take(&mut self.hurries)
    }

    fn written(&mut self, write: Write, now: Now<'_>) {
        let Write { group, records, outcome } = write;
        let Outcome { replies, blocks, becomes, ends, ends_transaction, .. } = outcome;
        let is_classic_again = matches!(becomes, Some(Becomes::Classic(_)));
        if let Some(entry) = self.groups.get_mut(&group) {
            let mut producers: Vec<ProducerId> =
                records.iter().filter_map(Record::producer).collect();
            producers.dedup();
            let before = entry.bytes();
            entry.written(blocks);
            entry.have_happened(records, becomes, &mut self.timers);
            self.bytes += entry.bytes() - before;
            for producer in producers {
                self.concerned.look_for(producer, &group, entry);
            }
        }
        self.replies.extend(replies);
        if let Some(number) = ends_transaction {
            self.transaction_ended(number, None);
        }
        if is_classic_again && !mistake::is_made(Mistake::MissNobody) {
            self.decide(&group, now, Group::loaded);
        }
        if ends {
            self.remove(&group, now);
        } else {
            self.go_on(&group, now);
        }
    }

    fn refused(&mut self, write: Write, error: ErrorCode, now: Now<'_>) {
        let Write { group, outcome, .. } = write;
        let Outcome { replies, blocks, if_refused, ends_transaction, .. } = outcome;
        if let Some(number) = ends_transaction {
            self.transaction_ended(number, Some(error));
        }
        self.replies.extend(replies.into_iter().map(|(to, _)| (to, Reply::Refused(error))));
        if let Some(entry) = self.groups.get_mut(&group) {
            entry.written(blocks);
        }
        let shares = if_refused == IfRefused::Rebalance;
        self.decide(&group, now, |entry, decision| entry.write_failed(shares, decision));
        self.go_on(&group, now);
    }

    fn replies(&mut self) -> &mut Vec<(ReplyTo, Reply)> {
        &mut self.replies
    }

    fn refusal(error: ErrorCode) -> Reply {
        Reply::Refused(error)
    }

    // What it remembers.

    fn remembered_after<'a>(
        &'a self,
        place: Option<&'a Place>,
    ) -> impl Iterator<Item = (Place, Vec<Record>)> + 'a {
        let from = place.map_or(Bound::Unbounded, |place| Bound::Included(&place.group));
        let groups = self.groups.range::<Arc<str>, _>((from, Bound::Unbounded));
        groups.flat_map(move |(group, entry)| {
            let begun = place.filter(|place| place.group == *group).map(|place| &place.part);
            let parts = entry.remembered_after(group, begun);
            parts.map(|(part, records)| (Place { group: Arc::clone(group), part }, records))
        })
    }

    fn bytes(&self) -> usize {
        usize::try_from(self.bytes).unwrap_or(0)
    }

    fn count(&self) -> usize {
        self.groups.len()
    }
}

impl Coordinator {
    /// A transaction has ended: so has what it committed, in all groups. The answer comes when all
    /// of it is durable.
    fn end_transaction(
        &mut self,
        producer: ProducerId,
        commit: bool,
        reply_to: ReplyTo,
        now: Now<'_>,
    ) {
        let concerned = self.concerned.by(producer);
        let number = self.ends_begun;
        self.ends_begun += 1;
        // One more than there are, so that it does not end before all have begun.
        let left = concerned.len() + 1;
        self.ends.insert(number, End { left, failed: None, reply_to });
        for group in concerned {
            self.happens(&group, Event::TransactionEnded(number, producer, commit), now);
        }
        self.transaction_ended(number, None);
    }

    /// The end of a transaction is durable in one more group, or could not be written.
    fn transaction_ended(&mut self, number: u64, error: Option<ErrorCode>) {
        let Some(end) = self.ends.get_mut(&number) else { return };
        end.left -= 1;
        end.failed = end.failed.or(error);
        if 0 < end.left {
            return;
        }
        let reply = end.failed.map_or(Reply::TransactionEnded, Reply::Refused);
        let reply_to = end.reply_to;
        self.ends.remove(&number);
        self.replies.push((reply_to, reply));
    }

    /// A topic is gone: nobody will ask for its offsets, and a new one of its name must not find
    /// them.
    pub fn topic_deleted(&mut self, topic: &Arc<str>, now: Now<'_>) {
        let has = |entry: &Group| {
            entry.offsets.has_pending() || entry.offsets.topics().any(|(name, _)| name == topic)
        };
        let concerned = self.groups.iter().filter(|(_, entry)| has(entry) || 0 < entry.writes);
        let concerned: Vec<Arc<str>> = concerned.map(|(group, _)| Arc::clone(group)).collect();
        for group in concerned {
            self.happens(&group, Event::TopicDeleted(Arc::clone(topic)), now);
        }
    }

    // Deciding.

    /// Lets something happen to a group, now or when what it waits for is over.
    fn happens(&mut self, group: &Arc<str>, event: Event, now: Now<'_>) {
        let Some(entry) = self.groups.get_mut(group) else { return };
        match entry.queue(event) {
            Some(event) => {
                self.decide(group, now, |entry, decision| entry.happen(event, decision));
                self.go_on(group, now);
            }
            None => {
                self.hurries = true;
                self.concerned.is_busy(group);
            }
        }
    }

    /// Lets happen what has waited, and forgets a group of which nothing is left.
    fn go_on(&mut self, group: &Arc<str>, now: Now<'_>) {
        while let Some(event) = self.groups.get_mut(group).and_then(Group::next_event) {
            self.decide(group, now, |entry, decision| entry.happen(event, decision));
        }
        let Some(entry) = self.groups.get(group) else { return };
        if !entry.is_busy() {
            self.concerned.is_quiet(group);
        }
        if entry.is_vacant() {
            self.remove(group, now);
        }
    }

    fn decide(
        &mut self,
        group: &Arc<str>,
        now: Now<'_>,
        decide: impl FnOnce(&mut Group, &mut Decision<'_>),
    ) {
        let Some(entry) = self.groups.get_mut(group) else { return };
        let before = entry.bytes();
        let mut decision = Decision {
            group,
            times: now.times,
            image: now.image,
            rules: &self.rules,
            timers: &mut self.timers,
            random: &mut self.random,
            outcome: Outcome::default(),
        };
        decide(entry, &mut decision);
        let mut outcome = decision.outcome;
        self.bytes += entry.bytes() - before;
        if outcome.records.is_empty() {
            self.replies.append(&mut outcome.replies);
            if let Some(number) = outcome.ends_transaction {
                self.transaction_ended(number, None);
            }
            return;
        }
        entry.writing(outcome.blocks);
        self.concerned.is_busy(group);
        let records = std::mem::take(&mut outcome.records);
        self.decided.push(Write { group: Arc::clone(group), records, outcome });
    }

    /// Forgets a group; what waits for it finds none, or makes a new one.
    fn remove(&mut self, group: &Arc<str>, now: Now<'_>) {
        let Some(entry) = self.groups.remove(group) else { return };
        self.bytes -= entry.bytes();
        self.concerned.is_quiet(group);
        assert!(!entry.offsets.has_pending(), "they would be waited for, and never end");
        for event in entry.end(&mut self.timers) {
            match event {
                Event::Asked(request, reply_to) => self.request(request, reply_to, true, now),
                // What it had committed is gone with it.
                Event::TransactionEnded(number, ..) => self.transaction_ended(number, None),
                Event::Rang(..) | Event::Expire | Event::TopicDeleted(_) => {}
            }
        }
    }

    // Looking.

    fn list(&self, list: &List) -> Vec<Listed> {
        let wanted = |filter: &[String], is: &str| {
            filter.is_empty() || filter.iter().any(|wanted| wanted.eq_ignore_ascii_case(is))
        };
        let listed = self.groups.iter().map(|(group, entry)| entry.listed(group));
        listed
            .filter(|one| wanted(&list.states, one.state) && wanted(&list.types, one.kind))
            .collect()
    }

    fn fetch_offsets(&self, fetch: &FetchOffsets) -> Reply {
        let group = self.groups.get(&fetch.group);
        if let Some(Err(error)) = group.map(|group| group.check_fetch(fetch)) {
            return Reply::Refused(error);
        }
        let offsets = group.map(|group| &group.offsets);
        let unstable = |topic: &str, number| {
            fetch.require_stable && offsets.is_some_and(|all| all.is_pending(topic, number))
        };
        let told = |topic: &str, number, found: Option<&offsets::Committed>| {
            let told = match unstable(topic, number) {
                true => Err(ErrorCode::UnstableOffsetCommit),
                false => Ok(found.cloned()),
            };
            (number, told)
        };
        let found: ByTopic<_> = match (&fetch.topics, offsets) {
            (None, None) => Vec::new(),
            (None, Some(offsets)) => {
                let topics = offsets.topics().map(|(topic, partitions)| {
                    let all =
                        partitions.iter().map(|(number, found)| told(topic, *number, Some(found)));
                    (Arc::clone(topic), all.collect())
                });
                topics.collect()
            }
            (Some(topics), offsets) => {
                let find = |topic: &str, number| offsets.and_then(|all| all.get(topic, number));
                let topics = topics.iter().map(|(topic, numbers)| {
                    let found =
                        numbers.iter().map(|number| told(topic, *number, find(topic, *number)));
                    (Arc::clone(topic), found.collect())
                });
                topics.collect()
            }
        };
        Reply::Offsets(found)
    }

    // Expiring.

    /// Looks for offsets that nobody uses any more, at some groups at a time.
    fn expire_some(&mut self, now: Now<'_>) {
        let from = match self.expiry_after.take() {
            Some(last) => Bound::Excluded(last),
            None => Bound::Unbounded,
        };
        let some = self.groups.range((from, Bound::Unbounded)).take(GROUPS_EXPIRED_PER_TURN);
        let some: Vec<Arc<str>> = some.map(|(group, _)| Arc::clone(group)).collect();
        for group in &some {
            self.happens(group, Event::Expire, now);
        }
        if some.len() == GROUPS_EXPIRED_PER_TURN {
            self.expiry_after = some.last().cloned();
        } else {
            self.expiry_at = now.times.now.after(self.rules.expiry_interval);
        }
    }
}

#[cfg(test)]
mod tests;
