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

mod classic;
mod decision;
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
use tidemill_record::{BatchBuilder, Codec, Offset, Timestamp};
use tidemill_runtime::edge::Instant;

use self::classic::Classic;
use self::decision::{Decision, IfRefused, Outcome};
use self::offsets::Offsets;
use self::record::{GroupState, Record};
use self::request::{ByTopic, FetchOffsets, Joined, List, Listed, Reply, Request, Synced};
use self::rewrite::{Rewrite, Turn};
use self::timers::{Alarm, TimerId, Timers};
use crate::job::ReplyTo;
use crate::limits::{GROUP_APPEND_BYTES, GROUPS_EXPIRED_PER_TURN, GROUPS_PER_PARTITION_MAX};
use crate::partition::Times;
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
    groups: BTreeMap<Arc<str>, Entry>,
    timers: Timers,
    replies: Vec<(ReplyTo, Reply)>,
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

/// One group.
#[derive(Default)]
struct Entry {
    classic: Classic,
    offsets: Offsets,
    /// What is remembered of it beside its offsets.
    remembered: Option<Box<GroupState>>,
    /// Writes that have not ended.
    writes: usize,
    /// Its membership is being written: everything waits.
    is_blocked: bool,
    waiting: VecDeque<Event>,
}

/// Something that happens to a group.
enum Event {
    Asked(Request, ReplyTo),
    Rang(TimerId, Alarm),
    Expire,
    TopicDeleted(Arc<str>),
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

impl Event {
    /// Whether nothing of the group may be on its way to the disk when it happens: what it does
    /// depends on all that will be there.
    fn wants_quiet(&self) -> bool {
        match self {
            Self::Asked(request, _) => {
                matches!(request, Request::Delete { .. } | Request::DeleteOffsets(_))
            }
            Self::Expire | Self::TopicDeleted(_) => true,
            Self::Rang(..) => false,
        }
    }
}

impl Entry {
    /// Whether nothing of it is left to keep.
    fn is_vacant(&self) -> bool {
        let remembered = self.remembered.is_some() || !self.offsets.is_empty();
        let under_way = 0 < self.writes || !self.waiting.is_empty();
        !remembered && !under_way && self.classic.is_vacant()
    }

    fn may_happen(&self, event: &Event) -> bool {
        !self.is_blocked && (self.writes == 0 || !event.wants_quiet())
    }

    fn bytes(&self) -> isize {
        self.classic.bytes() as isize
    }
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
        self.bytes -= entry.bytes();
        match record {
            Record::Group { state, .. } => {
                entry.remembered = Some(Box::new(state.clone()));
                entry.classic = Classic::from_state(state);
            }
            Record::GroupRemoved { .. } => {
                entry.classic = Classic::default();
                entry.remembered = None;
            }
            offset @ (Record::Offset { .. } | Record::OffsetRemoved { .. }) => {
                self.bytes += entry.offsets.apply(offset);
            }
        }
        self.bytes += entry.bytes();
        if entry.is_vacant() {
            self.groups.remove(&group);
        }
    }

    /// All records were replayed, from a log of so many bytes: from now on members are expected to speak up. Offsets of topics
    /// that are gone go too; a crash may have come before that was written.
    pub fn loaded(&mut self, log_bytes: usize, times: Times, exists: impl Fn(&str) -> bool) {
        self.log_bytes = log_bytes;
        let names: Vec<Arc<str>> = self.groups.keys().cloned().collect();
        for group in &names {
            self.decide(group, times, |entry, decision| entry.classic.loaded(decision));
        }
        let mut gone: Vec<Arc<str>> = Vec::new();
        for entry in self.groups.values() {
            let topics = entry.offsets.topics().map(|(topic, _)| topic);
            gone.extend(topics.filter(|topic| !exists(topic)).cloned());
        }
        gone.sort_unstable();
        gone.dedup();
        for topic in gone {
            self.topic_deleted(&topic, times);
        }
        self.expiry_at = times.now.after(self.rules.expiry_interval);
    }

    // What happens.

    /// Something is asked. The answer comes out of [`Coordinator::take_replies`], at once or when
    /// it is durable, or when others have done their part. Without `has_room` nothing new is kept.
    pub fn request(&mut self, request: Request, reply_to: ReplyTo, has_room: bool, times: Times) {
        if let Some(error) = self.closed {
            return self.replies.push((reply_to, Reply::Refused(error)));
        }
        let Some(group) = request.group().cloned() else {
            let Request::List(list) = request else { unreachable!("all others are of one group") };
            let listed = self.list(&list);
            return self.replies.push((reply_to, Reply::Listed(listed)));
        };
        if let Request::FetchOffsets(fetch) = &request {
            // What is there is durable; what is on its way was promised to nobody.
            let offsets = self.fetch_offsets(fetch);
            return self.replies.push((reply_to, Reply::Offsets(offsets)));
        }
        if !has_room && grows(&request) {
            return self
                .replies
                .push((reply_to, Reply::Refused(ErrorCode::CoordinatorNotAvailable)));
        }
        if !self.groups.contains_key(&group) {
            if !makes_group(&request) {
                return self.replies.push((reply_to, unknown_group(&request)));
            }
            if GROUPS_PER_PARTITION_MAX <= self.groups.len() {
                let error = ErrorCode::CoordinatorNotAvailable;
                return self.replies.push((reply_to, Reply::Refused(error)));
            }
            self.groups.insert(Arc::clone(&group), Entry::default());
        }
        self.happens(&group, Event::Asked(request, reply_to), times);
    }

    /// Time has passed.
    pub fn tick(&mut self, times: Times) {
        if self.closed.is_some() {
            return;
        }
        while let Some((id, group, alarm)) = self.timers.pop(times.now) {
            self.happens(&group, Event::Rang(id, alarm), times);
        }
        if self.expiry_at <= times.now {
            self.expire_some(times);
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
    pub fn topic_deleted(&mut self, topic: &Arc<str>, times: Times) {
        let has = |entry: &Entry| entry.offsets.topics().any(|(name, _)| name == topic);
        let concerned = self.groups.iter().filter(|(_, entry)| has(entry) || 0 < entry.writes);
        let concerned: Vec<Arc<str>> = concerned.map(|(group, _)| Arc::clone(group)).collect();
        for group in concerned {
            self.happens(&group, Event::TopicDeleted(Arc::clone(topic)), times);
        }
    }

    /// The partition goes, or the node stops: all who wait for others are told `error`, and from
    /// now on everybody who asks. What is being written is still told when it is durable.
    pub fn close(&mut self, error: ErrorCode) {
        self.closed = Some(error);
        self.timers = Timers::default();
        for entry in self.groups.values_mut() {
            let mut waiting = entry.classic.take_waiting();
            for event in entry.waiting.drain(..) {
                if let Event::Asked(_, reply_to) = event {
                    waiting.push(reply_to);
                }
            }
            let refused = waiting.into_iter().map(|to| (to, Reply::Refused(error)));
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
    pub fn appended(&mut self, number: u64, base_offset: Offset, times: Times) {
        let Some(Flight { writes, is_rewrite, .. }) = self.landed(number) else { return };
        if is_rewrite {
            self.rewritten(base_offset);
        }
        self.begin_rewrite_if_due();
        for write in writes {
            let Write { group, records, outcome, .. } = write;
            let mut is_removed = false;
            if let Some(entry) = self.groups.get_mut(&group) {
                entry.writes -= 1;
                entry.is_blocked &= !outcome.blocks;
                for record in records {
                    match record {
                        Record::Group { state, .. } => entry.remembered = Some(Box::new(state)),
                        Record::GroupRemoved { .. } => is_removed = true,
                        offset @ (Record::Offset { .. } | Record::OffsetRemoved { .. }) => {
                            self.bytes += entry.offsets.apply(offset);
                        }
                    }
                }
            }
            self.replies.extend(outcome.replies);
            if is_removed {
                self.remove(&group, times);
            } else {
                self.go_on(&group, times);
            }
        }
    }

    /// A batch was not appended, and never will be.
    pub fn refused(&mut self, number: u64, error: ErrorCode, times: Times) {
        let Some(Flight { writes: mut failed, is_rewrite, .. }) = self.landed(number) else {
            return;
        };
        if is_rewrite {
            self.rewrite = None;
        }
        // What it began cannot be ended.
        if self.unsent.front().is_some_and(|write| 0 < write.sent) {
            failed.extend(self.unsent.pop_front());
        }
        for write in failed {
            let Write { group, outcome, .. } = write;
            let refused = outcome.replies.into_iter().map(|(to, _)| (to, Reply::Refused(error)));
            self.replies.extend(refused);
            if let Some(entry) = self.groups.get_mut(&group) {
                entry.writes -= 1;
                entry.is_blocked &= !outcome.blocks;
            }
            if outcome.if_refused == IfRefused::Rebalance {
                self.decide(&group, times, |entry, decision| {
                    entry.classic.share_out_failed(decision)
                });
            }
            self.go_on(&group, times);
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
    fn happens(&mut self, group: &Arc<str>, event: Event, times: Times) {
        let Some(entry) = self.groups.get_mut(group) else { return };
        if !entry.waiting.is_empty() || !entry.may_happen(&event) {
            return entry.waiting.push_back(event);
        }
        self.happen(group, event, times);
        self.go_on(group, times);
    }

    /// Lets happen what has waited, and forgets a group of which nothing is left.
    fn go_on(&mut self, group: &Arc<str>, times: Times) {
        while let Some(entry) = self.groups.get_mut(group)
            && entry.waiting.front().is_some_and(|event| entry.may_happen(event))
        {
            let event = entry.waiting.pop_front().expect("just seen");
            self.happen(group, event, times);
        }
        if self.groups.get(group).is_some_and(Entry::is_vacant) {
            self.remove(group, times);
        }
    }

    fn happen(&mut self, group: &Arc<str>, event: Event, times: Times) {
        self.decide(group, times, |entry, decision| match event {
            Event::Asked(request, reply_to) => entry.answer(request, reply_to, decision),
            Event::Rang(id, Alarm::Join) => entry.classic.join_time_is_over(id, decision),
            Event::Rang(id, Alarm::Sync) => entry.classic.sync_time_is_over(id, decision),
            Event::Rang(id, Alarm::Session(member)) => {
                entry.classic.session_is_over(id, &member, decision);
            }
            Event::Expire => entry.expire(decision),
            Event::TopicDeleted(topic) => entry.topic_deleted(&topic, decision),
        });
    }

    fn decide(
        &mut self,
        group: &Arc<str>,
        times: Times,
        decide: impl FnOnce(&mut Entry, &mut Decision<'_>),
    ) {
        let Some(entry) = self.groups.get_mut(group) else { return };
        let before = entry.bytes();
        let mut decision = Decision {
            group,
            times,
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
            return;
        }
        entry.writes += 1;
        entry.is_blocked |= outcome.blocks;
        let records = std::mem::take(&mut outcome.records);
        self.unsent.push_back(Write { group: Arc::clone(group), records, sent: 0, outcome });
    }

    /// Forgets a group; what waits for it finds none, or makes a new one.
    fn remove(&mut self, group: &Arc<str>, times: Times) {
        let Some(mut entry) = self.groups.remove(group) else { return };
        self.bytes -= entry.bytes() + entry.offsets.bytes();
        entry.classic.end(&mut self.timers);
        for event in entry.waiting {
            if let Event::Asked(request, reply_to) = event {
                self.request(request, reply_to, true, times);
            }
        }
    }

    // Looking.

    fn list(&self, list: &List) -> Vec<Listed> {
        let wanted = |filter: &[String], is: &str| {
            filter.is_empty() || filter.iter().any(|wanted| wanted.eq_ignore_ascii_case(is))
        };
        let listed = self.groups.iter().map(|(group, entry)| entry.classic.listed(group));
        listed
            .filter(|one| wanted(&list.states, one.state) && wanted(&list.types, one.kind))
            .collect()
    }

    fn fetch_offsets(&self, fetch: &FetchOffsets) -> ByTopic<(i32, Option<offsets::Committed>)> {
        let offsets = self.groups.get(&fetch.group).map(|entry| &entry.offsets);
        match (&fetch.topics, offsets) {
            (None, None) => Vec::new(),
            (None, Some(offsets)) => {
                let topics = offsets.topics().map(|(topic, partitions)| {
                    let all =
                        partitions.iter().map(|(number, found)| (*number, Some(found.clone())));
                    (Arc::clone(topic), all.collect())
                });
                topics.collect()
            }
            (Some(topics), offsets) => {
                let find = |topic: &str, number| offsets.and_then(|all| all.get(topic, number));
                let topics = topics.iter().map(|(topic, numbers)| {
                    let found =
                        numbers.iter().map(|number| (*number, find(topic, *number).cloned()));
                    (Arc::clone(topic), found.collect())
                });
                topics.collect()
            }
        }
    }

    // Expiring.

    /// Looks for offsets that nobody uses any more, at some groups at a time.
    fn expire_some(&mut self, times: Times) {
        use std::ops::Bound;
        let from = match self.expiry_after.take() {
            Some(last) => Bound::Excluded(last),
            None => Bound::Unbounded,
        };
        let some = self.groups.range((from, Bound::Unbounded)).take(GROUPS_EXPIRED_PER_TURN);
        let some: Vec<Arc<str>> = some.map(|(group, _)| Arc::clone(group)).collect();
        for group in &some {
            self.happens(group, Event::Expire, times);
        }
        if some.len() == GROUPS_EXPIRED_PER_TURN {
            self.expiry_after = some.last().cloned();
        } else {
            self.expiry_at = times.now.after(self.rules.expiry_interval);
        }
    }
}

impl Entry {
    fn answer(&mut self, request: Request, reply_to: ReplyTo, decision: &mut Decision<'_>) {
        let reply = match request {
            Request::Join(join) => return self.classic.join(&join, reply_to, decision),
            Request::Sync(sync) => return self.classic.sync(&sync, reply_to, decision),
            Request::Heartbeat(heartbeat) => {
                Reply::Alive(self.classic.heartbeat(&heartbeat, decision))
            }
            Request::Leave(leave) => Reply::Left(self.classic.leave(&leave, decision)),
            Request::Commit(commit) => match self.classic.check_commit(&commit, decision) {
                Err(error) => Reply::Refused(error),
                Ok(()) => Reply::Committed(commit_offsets(commit.offsets, decision)),
            },
            Request::DeleteOffsets(delete) => match self.classic.check_delete_offsets() {
                Err(error) => Reply::Refused(error),
                Ok(()) => Reply::OffsetsDeleted(self.delete_offsets(&delete.topics, decision)),
            },
            Request::Describe { .. } => Reply::Described(Some(Box::new(self.classic.describe()))),
            Request::Delete { .. } => Reply::Deleted(self.delete(decision)),
            Request::FetchOffsets(_) | Request::List(_) => unreachable!("answered before"),
        };
        decision.reply(reply_to, reply);
    }

    fn delete_offsets(
        &self,
        topics: &[(Arc<str>, Vec<i32>)],
        decision: &mut Decision<'_>,
    ) -> Vec<ErrorCode> {
        let mut results = Vec::new();
        for (topic, partitions) in topics {
            if self.classic.reads(topic) {
                results.push(ErrorCode::GroupSubscribedToTopic);
                continue;
            }
            let known = partitions.iter().filter(|p| self.offsets.get(topic, **p).is_some());
            let removed = known.map(|p| offsets::removed(decision.group, topic, *p));
            decision.outcome.records.extend(removed);
            results.push(ErrorCode::None);
        }
        results
    }

    fn delete(&self, decision: &mut Decision<'_>) -> ErrorCode {
        if !self.classic.is_empty() {
            return ErrorCode::NonEmptyGroup;
        }
        self.forget(self.offsets.remove_all(decision.group), decision);
        ErrorCode::None
    }

    /// Writes that the group is gone, and its last offsets with it.
    fn forget(&self, offsets: Vec<Record>, decision: &mut Decision<'_>) {
        decision.outcome.records.extend(offsets);
        let group = Arc::clone(decision.group);
        decision.write_and_block(Record::GroupRemoved { group });
    }

    /// Forgets what was unused for too long; a group with nothing left is gone.
    fn expire(&self, decision: &mut Decision<'_>) {
        let Some(unused) = self.classic.unused_since() else { return };
        let Decision { group, times, rules, .. } = &decision;
        let is_read = |topic: &str| self.classic.reads(topic);
        let retention_ms = rules.offsets_retention_ms;
        let over = self.offsets.expire(group, unused, is_read, times.wall_ms, retention_ms);
        if over.len() == self.offsets.count() && self.classic.is_vacant() {
            self.forget(over, decision);
        } else {
            decision.outcome.records.extend(over);
        }
    }

    fn topic_deleted(&self, topic: &Arc<str>, decision: &mut Decision<'_>) {
        let of_topic = self.offsets.iter().filter(|(name, _, _)| *name == topic);
        let removed = of_topic.map(|(_, partition, _)| (partition, topic));
        let removed =
            removed.map(|(partition, topic)| offsets::removed(decision.group, topic, partition));
        decision.outcome.records.extend(removed);
    }
}

/// Writes the offsets that may be kept, and tells of each how it went.
fn commit_offsets(
    offsets: Vec<(Arc<str>, i32, offsets::Committed)>,
    decision: &mut Decision<'_>,
) -> Vec<ErrorCode> {
    let mut results = Vec::with_capacity(offsets.len());
    for (topic, partition, committed) in offsets {
        if decision.rules.offset_metadata_bytes_max < committed.metadata.len() {
            results.push(ErrorCode::OffsetMetadataTooLarge);
            continue;
        }
        let group = Arc::clone(decision.group);
        decision.outcome.records.push(Record::Offset { group, topic, partition, committed });
        results.push(ErrorCode::None);
    }
    results
}

/// Whether a request may lead to something new being kept.
fn grows(request: &Request) -> bool {
    matches!(request, Request::Join(_) | Request::Commit(_))
}

/// Whether a request makes its group if there is none.
fn makes_group(request: &Request) -> bool {
    match request {
        Request::Join(join) => join.member.is_empty(),
        Request::Commit(commit) => commit.who.generation < 0,
        _ => false,
    }
}

/// What is answered about a group that does not exist.
fn unknown_group(request: &Request) -> Reply {
    let unknown = ErrorCode::UnknownMemberId;
    match request {
        Request::Join(join) => Reply::Joined(Box::new(Joined::refused(unknown, &join.member))),
        Request::Sync(_) => Reply::Synced(Box::new(Synced::refused(unknown))),
        Request::Heartbeat(_) => Reply::Alive(unknown),
        Request::Leave(leave) => Reply::Left(vec![unknown; leave.members.len()]),
        Request::Commit(commit) => Reply::Refused(commit.unknown_group),
        Request::DeleteOffsets(_) => Reply::Refused(ErrorCode::GroupIdNotFound),
        Request::Describe { .. } => Reply::Described(None),
        Request::Delete { .. } => Reply::Deleted(ErrorCode::GroupIdNotFound),
        Request::FetchOffsets(_) | Request::List(_) => unreachable!("answered before"),
    }
}

#[cfg(test)]
mod tests;
