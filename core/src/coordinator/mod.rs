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
//! Start reading at [`Coordinator::request`]; then `classic.rs` for what a group does.

pub mod assignment;
mod classic;
mod consumer;
mod decision;
mod group;
mod member;
pub mod offsets;
pub mod record;
pub mod request;
mod rewrite;
mod timers;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use tidemill_net::kafka::ErrorCode;
use tidemill_record::{BatchBuilder, Codec, Offset, ProducerId, Timestamp};
use tidemill_runtime::edge::Instant;

pub use self::decision::Now;

use self::decision::{Decision, IfRefused, Outcome};
use self::group::{Event, Group};
use self::record::Record;
use self::request::{ByTopic, FetchOffsets, List, Listed, Reply, Request};
use self::rewrite::{Rewrite, Turn};
use self::timers::Timers;
use crate::job::ReplyTo;
use crate::limits::{GROUP_APPEND_BYTES, GROUPS_EXPIRED_PER_TURN, GROUPS_PER_PARTITION_MAX};
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
    /// The largest record about one group.
    pub record_bytes_max: usize,
    /// The log is written anew when so much was written, or four times what there is.
    pub rewrite_bytes: usize,
    /// `offset.metadata.max.bytes`
    pub offset_metadata_bytes_max: usize,
    /// `offsets.retention.minutes`
    pub offsets_retention_ms: i64,
    /// `offsets.retention.check.interval.ms`
    pub expiry_interval: Duration,
}

/// The number of the partition a group belongs to: Kafka's, so that its tools agree.
pub fn partition_of(group: &str, partitions: i32) -> i32 {
    assert!(0 < partitions);
    // Java's String.hashCode, and Kafka's absolute value of it.
    let units = group.encode_utf16();
    let hash = units.fold(0i32, |hash, unit| hash.wrapping_mul(31).wrapping_add(i32::from(unit)));
    hash.checked_abs().unwrap_or(0) % partitions
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
    /// Decided, not yet handed out to be appended.
    unsent: VecDeque<Write>,
    /// Handed out, in order.
    in_flight: VecDeque<Flight>,
    appends: u64,
    expiry_at: Instant,
    /// Where a look at all groups goes on.
    expiry_after: Option<Arc<str>>,
    bytes: isize,
    /// It takes nothing more, and this is what it answers.
    closed: Option<ErrorCode>,
    /// Bytes of the log since all that is remembered was written once more.
    log_bytes: usize,
    rewrite: Option<Rewrite>,
    trim_to: Option<Offset>,
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
struct Write {
    group: Arc<str>,
    records: Vec<Record>,
    /// How many of them were handed out.
    sent: usize,
    outcome: Outcome,
}

/// One batch on its way to the disk, and the writes whose last record is in it.
struct Flight {
    number: u64,
    writes: Vec<Write>,
    /// It repeats what is remembered.
    is_rewrite: bool,
}

/// A batch to be appended to the coordinator's partition.
#[derive(Debug)]
pub struct Append {
    /// Its name, for what comes of it.
    pub number: u64,
    /// The batch.
    pub batch: BytesMut,
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
            unsent: VecDeque::new(),
            in_flight: VecDeque::new(),
            appends: 0,
            expiry_at: Instant::default(),
            expiry_after: None,
            bytes: 0,
            closed: None,
            log_bytes: 0,
            rewrite: None,
            trim_to: None,
        }
    }

    // Replaying.

    /// Lets a record of the log have happened: at a start, before anything is asked.
    pub fn replay(&mut self, record: Record) {
        let group = Arc::clone(record.group());
        let entry = self.groups.entry(Arc::clone(&group)).or_default();
        let before = entry.bytes();
        entry.replay(record);
        self.bytes += entry.bytes() - before;
        if entry.is_vacant() {
            self.groups.remove(&group);
        }
    }

    /// All records were replayed, from a log of so many bytes: from now on members are expected to
    /// speak up. Offsets of topics that are gone go too; a crash may have come before that was
    /// written.
    pub fn loaded(&mut self, log_bytes: usize, now: Now<'_>) {
        self.log_bytes = log_bytes;
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

    /// Something is asked. The answer comes out of [`Coordinator::take_replies`], at once or when
    /// it is durable, or when others have done their part. Without `has_room` nothing new is kept.
    pub fn request(&mut self, request: Request, reply_to: ReplyTo, has_room: bool, now: Now<'_>) {
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

    /// A transaction has ended: so has what it committed, in all groups. The answer comes when all
    /// of it is durable.
    fn end_transaction(
        &mut self,
        producer: ProducerId,
        commit: bool,
        reply_to: ReplyTo,
        now: Now<'_>,
    ) {
        // What is on its way may be of this transaction.
        let has = |entry: &Group| entry.offsets.has_pending_of(producer) || entry.is_busy();
        let concerned = self.groups.iter().filter(|(_, entry)| has(entry));
        let concerned: Vec<Arc<str>> = concerned.map(|(group, _)| Arc::clone(group)).collect();
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

    /// Time has passed.
    pub fn tick(&mut self, now: Now<'_>) {
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

    /// When [`Coordinator::tick`] is wanted.
    pub fn next_deadline(&self) -> Option<Instant> {
        let goes_on = self.closed.is_none();
        let expiry = (goes_on && !self.groups.is_empty()).then_some(self.expiry_at);
        self.timers.next().filter(|_| goes_on).into_iter().chain(expiry).min()
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

    /// The partition goes, or the node stops: all who wait for others are told `error`, and from
    /// now on everybody who asks. What is being written is still told when it is durable.
    pub fn close(&mut self, error: ErrorCode) {
        self.closed = Some(error);
        self.timers = Timers::default();
        let ends = std::mem::take(&mut self.ends).into_values();
        self.replies.extend(ends.map(|end| (end.reply_to, Reply::Refused(error))));
        for entry in self.groups.values_mut() {
            let refused = entry.take_waiting().into_iter().map(|to| (to, Reply::Refused(error)));
            self.replies.extend(refused);
        }
    }

    // Writing.

    /// The next batch to append, if there is one. Its end is told by [`Coordinator::appended`] or
    /// [`Coordinator::refused`].
    pub fn poll_append(&mut self, wall_ms: i64) -> Option<Append> {
        match self.poll_rewrite(wall_ms) {
            Turn::Mine(append) => return Some(append),
            Turn::Waits => return None,
            Turn::Others => {}
        }
        let begun = self.unsent.front()?.sent;
        // The rest of a write goes out when its beginning is durable: if that fails, all fails.
        if 0 < begun && !self.in_flight.is_empty() {
            return None;
        }
        let mut builder = BatchBuilder::new(Codec::None);
        let (mut bytes, mut writes) = (0, Vec::new());
        while let Some(write) = self.unsent.front_mut() {
            while let Some(record) = write.records.get(write.sent)
                && bytes < GROUP_APPEND_BYTES
            {
                let (key, value) = record.encode();
                bytes += key.len() + value.as_ref().map_or(0, |value| value.len());
                builder.append(Timestamp(wall_ms), Some(&key), value.as_deref());
                write.sent += 1;
            }
            if write.sent < write.records.len() {
                break;
            }
            writes.extend(self.unsent.pop_front());
        }
        Some(self.send(builder, writes, false))
    }

    fn send(&mut self, builder: BatchBuilder, writes: Vec<Write>, is_rewrite: bool) -> Append {
        let (number, batch) = (self.appends, builder.build());
        self.appends += 1;
        self.log_bytes += batch.len();
        self.in_flight.push_back(Flight { number, writes, is_rewrite });
        Append { number, batch }
    }

    /// A batch is durable, and begins at this offset.
    pub fn appended(&mut self, number: u64, base_offset: Offset, now: Now<'_>) {
        let Some(Flight { writes, is_rewrite, .. }) = self.landed(number) else { return };
        if is_rewrite {
            self.rewritten(base_offset);
        }
        self.begin_rewrite_if_due();
        for Write { group, records, outcome, .. } in writes {
            let Outcome { replies, blocks, becomes, ends, ends_transaction, .. } = outcome;
            if let Some(entry) = self.groups.get_mut(&group) {
                let before = entry.bytes();
                entry.written(blocks);
                entry.have_happened(records, becomes, &mut self.timers);
                self.bytes += entry.bytes() - before;
            }
            self.replies.extend(replies);
            if let Some(number) = ends_transaction {
                self.transaction_ended(number, None);
            }
            if ends {
                self.remove(&group, now);
            } else {
                self.go_on(&group, now);
            }
        }
    }

    /// A batch was not appended, and never will be.
    pub fn refused(&mut self, number: u64, error: ErrorCode, now: Now<'_>) {
        let Some(Flight { writes, is_rewrite, .. }) = self.landed(number) else { return };
        let mut failed = writes;
        if is_rewrite {
            self.rewrite = None;
        }
        // What it began cannot be ended.
        if self.unsent.front().is_some_and(|write| 0 < write.sent) {
            failed.extend(self.unsent.pop_front());
        }
        for Write { group, outcome, .. } in failed {
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
    }

    fn landed(&mut self, number: u64) -> Option<Flight> {
        let place = self.in_flight.iter().position(|flight| flight.number == number)?;
        self.in_flight.remove(place)
    }

    /// The replies since the last time.
    pub fn take_replies(&mut self) -> Vec<(ReplyTo, Reply)> {
        std::mem::take(&mut self.replies)
    }

    /// What all groups take in memory, about.
    pub fn bytes(&self) -> usize {
        usize::try_from(self.bytes).unwrap_or(0)
    }

    /// How many groups there are.
    pub fn groups_count(&self) -> usize {
        self.groups.len()
    }

    // Deciding.

    /// Lets something happen to a group, now or when what it waits for is over.
    fn happens(&mut self, group: &Arc<str>, event: Event, now: Now<'_>) {
        let Some(entry) = self.groups.get_mut(group) else { return };
        if let Some(event) = entry.queue(event) {
            self.decide(group, now, |entry, decision| entry.happen(event, decision));
            self.go_on(group, now);
        }
    }

    /// Lets happen what has waited, and forgets a group of which nothing is left.
    fn go_on(&mut self, group: &Arc<str>, now: Now<'_>) {
        while let Some(event) = self.groups.get_mut(group).and_then(Group::next_event) {
            self.decide(group, now, |entry, decision| entry.happen(event, decision));
        }
        if self.groups.get(group).is_some_and(Group::is_vacant) {
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
        let records = std::mem::take(&mut outcome.records);
        self.unsent.push_back(Write { group: Arc::clone(group), records, sent: 0, outcome });
    }

    /// Forgets a group; what waits for it finds none, or makes a new one.
    fn remove(&mut self, group: &Arc<str>, now: Now<'_>) {
        let Some(entry) = self.groups.remove(group) else { return };
        self.bytes -= entry.bytes();
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
        use std::ops::Bound;
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
