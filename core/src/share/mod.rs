//! Share groups' records (KIP-932): which record of a partition is with which member, and which are
//! done with.
//!
//! There is one [`Coordinator`] for each partition of the internal topic `__share_group_state`, at
//! home where the partition is. What a group has read of one partition belongs to where the name of
//! group, topic and partition hashes to, so everything about it happens on one shard. Who is in a
//! group is another matter: see [`crate::coordinator`].
//!
//! Not to be taken for each other: `share` (this) is the decisions, which know no shard;
//! [`crate::shares`] is what a shard has to do with them.
//!
//! It is pure, and never sees a record: whoever fetches for a member asks from where on there is
//! something ([`Request::Next`]), reads the log, and asks which of it the member may have.
//!
//! ```text
//! fetch ── next? ──> from ── read ──> batches ── acquire ──> given out       (not written)
//!       ── acknowledge ──> change ── appended ── durable ──> Done
//! time is over, a member is gone ──> change ── appended
//! ```
//!
//! What becomes of records is in force at once, and its answer goes out when it is durable: nobody is
//! told that a record is done with that a crash would give out again. What could not be written stays
//! in force until the process ends; then the records in question are given out once more, unless a
//! rewrite of the log has made it durable meanwhile. Where a group begins, and that it is forgotten,
//! is in force when it is durable: until then things are as they were, and nothing more is noted.
//!
//! Start reading at [`Coordinator::request`]; then `partition.rs` for the rules.

pub mod partition;
pub mod record;
pub mod request;
pub mod rules;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tidemill_net::kafka::ErrorCode;
use tidemill_record::TopicId;
use tidemill_replication::config::GroupConfig;
use tidemill_runtime::edge::Instant;
use tidemill_storage::mistake::{self, Mistake};

use self::partition::{Acknowledgement, Next, SharePartition};
use self::record::{Key, Record, StateBatch};
use self::request::{Listed, Reply, Request};
use self::rules::Rules;
use crate::coordinator_log::{Coordinate, Now, Write as LogWrite};
use crate::job::ReplyTo;
use crate::limits::SHARE_PARTITIONS_PER_PARTITION_MAX;

/// What share groups have read, of one partition of the internal topic.
pub struct Coordinator {
    /// What groups are set to that are set to nothing.
    defaults: GroupConfig,
    all: BTreeMap<Key, Entry>,
    timers: BTreeSet<(Instant, Key)>,
    decided: Vec<Write>,
    replies: Vec<(ReplyTo, Reply)>,
    bytes: usize,
    /// So many entries were made.
    made: u64,
    /// It takes nothing more, and this is what it answers.
    closed: Option<ErrorCode>,
}

struct Entry {
    /// Tells it from those of the same key before and after.
    number: u64,
    partition: SharePartition,
    /// So many decisions are on their way that put something else in its place, or nothing.
    replaced: u32,
    /// Who waits until its beginning is durable; none: it is.
    beginning: Option<Vec<ReplyTo>>,
    /// The start that was written last.
    written_start: i64,
    /// Grows when more can be given out.
    seen: u64,
    watchers: Vec<ReplyTo>,
    timer: Option<Instant>,
    bytes: usize,
}

/// One decision on its way to the log.
#[derive(Debug)]
pub struct Write {
    records: Vec<Record>,
    reply_to: Option<ReplyTo>,
    then: Then,
}

/// What a decision does when it is durable. Entries go by their number: another of the same key may
/// have come meanwhile.
#[derive(Debug)]
enum Then {
    /// It is in force already.
    Nothing,
    /// This begins to be read.
    Begins(Key, u64),
    /// This is to be read from elsewhere.
    Resets(Key, u64, i64),
    /// These are forgotten.
    Forgets(Vec<(Key, u64)>),
}

impl LogWrite for Write {
    type Record = Record;

    fn records(&self) -> &[Record] {
        &self.records
    }
}

impl Entry {
    fn new(number: u64, partition: SharePartition) -> Self {
        Self {
            number,
            replaced: 0,
            written_start: partition.start(),
            partition,
            beginning: None,
            seen: 0,
            watchers: Vec::new(),
            timer: None,
            bytes: 0,
        }
    }
}

impl Coordinator {
    /// Nothing was read yet.
    pub fn new(defaults: GroupConfig) -> Self {
        Self {
            defaults,
            all: BTreeMap::new(),
            timers: BTreeSet::new(),
            decided: Vec::new(),
            replies: Vec::new(),
            bytes: 0,
            made: 0,
            closed: None,
        }
    }

    // Answering.

    fn answer(
        &mut self,
        request: Request,
        reply_to: ReplyTo,
        has_room: bool,
        now: Now<'_>,
    ) -> Option<Reply> {
        match request {
            Request::Next { key } => Some(self.next(&key, now)),
            Request::Begin { key, start } => self.begin(key, start, reply_to, has_room, now),
            Request::BeginsAt { key, log_start } => {
                self.change(&key, now, |partition, _| {
                    partition.begin_at(log_start);
                });
                Some(Reply::Done)
            }
            Request::EndsAt { key, log_end } => self.end_at(&key, log_end, reply_to, now),
            Request::Acquire { key, .. } if !self.is_begun(&key) => Some(Reply::Unbegun),
            Request::Acquire { key, want } => {
                let given = self.change(&key, now, |partition, rules| {
                    partition.acquire(&want, rules, now.times.now)
                });
                Some(given.map_or(Reply::Unbegun, Reply::Given))
            }
            Request::Acknowledge { key, .. }
                if self.all.get(&key).is_some_and(|entry| 0 < entry.replaced) =>
            {
                // What it is about is going; if that fails, it can be told again.
                Some(Reply::Refused(ErrorCode::CoordinatorNotAvailable))
            }
            Request::Acknowledge { key, member, told } => {
                let changes = self.change(&key, now, |partition, rules| {
                    partition.acknowledge(&member, &told, rules, now.times.now)
                });
                match changes {
                    // What nobody was given cannot be acknowledged.
                    None => Some(Reply::Refused(ErrorCode::InvalidRecordState)),
                    Some(Err(error)) => Some(Reply::Refused(error)),
                    // More time is nothing that is remembered.
                    Some(Ok(_)) if told.iter().all(Acknowledgement::only_renews) => {
                        Some(Reply::Done)
                    }
                    Some(Ok(changes)) if mistake::is_made(Mistake::ShareEarly) => {
                        self.write_change(&key, changes, None);
                        Some(Reply::Done)
                    }
                    Some(Ok(changes)) => {
                        self.write_change(&key, changes, Some(reply_to));
                        None
                    }
                }
            }
            Request::Release { key, member, session } => {
                let changes = self.change(&key, now, |partition, rules| {
                    partition.release(&member, session, rules)
                });
                self.write_if_changed(&key, changes.unwrap_or_default());
                Some(Reply::Done)
            }
            Request::Watch { key, seen } => self.watch(&key, seen, reply_to),
            Request::Unwatch { key } => {
                if let Some(entry) = self.all.get_mut(&key) {
                    let theirs = (reply_to.job, reply_to.shard);
                    entry.watchers.retain(|watcher| (watcher.job, watcher.shard) != theirs);
                }
                None
            }
            Request::List { group } => Some(Reply::Listed(self.list(&group))),
            Request::Reset { key, start } => self.reset(key, start, reply_to, has_room, now),
            Request::Forget { group, topics } => self.forget(reply_to, &group, |topic| {
                topics.as_ref().is_none_or(|topics| topics.contains(topic))
            }),
        }
    }

    /// Where the group begins is known, and durable.
    fn is_begun(&self, key: &Key) -> bool {
        self.all.get(key).is_some_and(|entry| entry.beginning.is_none())
    }

    fn next(&self, key: &Key, now: Now<'_>) -> Reply {
        let Some(entry) = self.all.get(key).filter(|entry| entry.beginning.is_none()) else {
            return Reply::Unbegun;
        };
        let from = match entry.partition.next(&Rules::of(&key.group, &self.defaults, now.image)) {
            Next::From(from) => Some(from),
            Next::Full => None,
        };
        Reply::Next { from, seen: entry.seen }
    }

    fn begin(
        &mut self,
        key: Key,
        start: i64,
        reply_to: ReplyTo,
        has_room: bool,
        now: Now<'_>,
    ) -> Option<Reply> {
        if let Some(entry) = self.all.get_mut(&key) {
            // Whoever was first has said where.
            return match &mut entry.beginning {
                None => Some(Reply::Done),
                Some(waiting) => {
                    waiting.push(reply_to);
                    None
                }
            };
        }
        if !has_room || SHARE_PARTITIONS_PER_PARTITION_MAX <= self.all.len() {
            return Some(Reply::Refused(ErrorCode::CoordinatorNotAvailable));
        }
        self.made += 1;
        let number = self.made;
        let mut entry = Entry::new(number, SharePartition::new(start));
        entry.beginning = Some(vec![reply_to]);
        self.all.insert(key.clone(), entry);
        self.count(&key);
        let records = vec![self.state_of(&key, now.times.wall_ms)];
        self.decided.push(Write { records, reply_to: None, then: Then::Begins(key, number) });
        None
    }

    fn reset(
        &mut self,
        key: Key,
        start: i64,
        reply_to: ReplyTo,
        has_room: bool,
        now: Now<'_>,
    ) -> Option<Reply> {
        let Some(entry) = self.all.get_mut(&key) else {
            return self.begin(key, start, reply_to, has_room, now);
        };
        if entry.beginning.is_some() || 0 < entry.replaced {
            // Once that is durable or refused, it can be asked again.
            return Some(Reply::Refused(ErrorCode::CoordinatorNotAvailable));
        }
        entry.replaced += 1;
        let (batches, wall_ms) = (Vec::new(), now.times.wall_ms);
        let records = vec![Record::State { key: key.clone(), start, batches, wall_ms }];
        let then = Then::Resets(key, entry.number, start);
        self.decided.push(Write { records, reply_to: Some(reply_to), then });
        None
    }

    /// The log ends here. A change never takes anything back, so all that is left is written.
    fn end_at(
        &mut self,
        key: &Key,
        log_end: i64,
        reply_to: ReplyTo,
        now: Now<'_>,
    ) -> Option<Reply> {
        if self.all.get(key).is_some_and(|entry| 0 < entry.replaced) {
            // It is to be read from elsewhere.
            return Some(Reply::Refused(ErrorCode::CoordinatorNotAvailable));
        }
        let was_cut = self.change(key, now, |partition, _| partition.end_at(log_end));
        if was_cut != Some(true) {
            return Some(Reply::Done);
        }
        let records = vec![self.state_of(key, now.times.wall_ms)];
        if let Some(entry) = self.all.get_mut(key) {
            entry.written_start = entry.partition.start();
        }
        self.decided.push(Write { records, reply_to: Some(reply_to), then: Then::Nothing });
        None
    }

    fn forget(
        &mut self,
        reply_to: ReplyTo,
        group: &Arc<str>,
        which: impl Fn(&TopicId) -> bool,
    ) -> Option<Reply> {
        let first = Key { group: Arc::clone(group), topic: TopicId::ZERO, partition: i32::MIN };
        let of_group = self.all.range_mut(first..).take_while(|(key, _)| key.group == *group);
        let mut forgotten = Vec::new();
        for (key, entry) in of_group.filter(|(key, _)| which(&key.topic)) {
            entry.replaced += 1;
            forgotten.push((key.clone(), entry.number));
        }
        if forgotten.is_empty() {
            return Some(Reply::Done);
        }
        let keys = forgotten.iter().map(|(key, _)| key.clone());
        let records = keys.map(|key| Record::Forgotten { key }).collect();
        let then = Then::Forgets(forgotten);
        self.decided.push(Write { records, reply_to: Some(reply_to), then });
        None
    }

    /// Removes at once what is meant, and tells the records that say so.
    fn remove(&mut self, which: impl Fn(&Key) -> bool) -> Vec<Record> {
        let keys: Vec<Key> = self.all.keys().filter(|key| which(key)).cloned().collect();
        for key in &keys {
            self.take_out(key, ErrorCode::UnknownTopicOrPartition);
        }
        keys.into_iter().map(|key| Record::Forgotten { key }).collect()
    }

    /// Removes one, and tells all who wait for it; those who wait for its beginning are told `error`.
    fn take_out(&mut self, key: &Key, error: ErrorCode) {
        let Some(entry) = self.all.remove(key) else { return };
        self.bytes -= entry.bytes;
        if let Some(timer) = entry.timer {
            self.timers.remove(&(timer, key.clone()));
        }
        let watchers = entry.watchers.into_iter().map(|to| (to, Reply::Moved));
        self.replies.extend(watchers);
        let beginning = entry.beginning.into_iter().flatten();
        self.replies.extend(beginning.map(|to| (to, Reply::Refused(error))));
    }

    /// What a decision was about, if it is still there.
    fn meant(&mut self, key: &Key, number: u64) -> Option<&mut Entry> {
        self.all.get_mut(key).filter(|entry| entry.number == number)
    }

    fn list(&self, group: &Arc<str>) -> Vec<Listed> {
        let first = Key { group: Arc::clone(group), topic: TopicId::ZERO, partition: i32::MIN };
        let all = self.all.range(first..).take_while(|(key, _)| key.group == *group);
        let listed = all.map(|(key, entry)| Listed {
            topic: key.topic,
            partition: key.partition,
            start: entry.partition.start(),
            done_past_start: entry.partition.done_past_start(),
        });
        listed.collect()
    }

    // Watching.

    fn watch(&mut self, key: &Key, seen: u64, reply_to: ReplyTo) -> Option<Reply> {
        match self.all.get_mut(key) {
            Some(entry) if entry.seen == seen => {
                entry.watchers.push(reply_to);
                None
            }
            _ => Some(Reply::Moved),
        }
    }

    /// A topic is gone: nobody will ask for its records.
    pub fn topic_deleted(&mut self, topic: TopicId) {
        let records = self.remove(|key| key.topic == topic);
        if !records.is_empty() {
            self.decided.push(Write { records, reply_to: None, then: Then::Nothing });
        }
    }

    // Changing.

    /// Lets something happen to a partition, if it is known, and tells those who wait for it.
    fn change<T>(
        &mut self,
        key: &Key,
        now: Now<'_>,
        change: impl FnOnce(&mut SharePartition, &Rules) -> T,
    ) -> Option<T> {
        let rules = Rules::of(&key.group, &self.defaults, now.image);
        let entry = self.all.get_mut(key)?;
        let before = (entry.partition.next(&rules), entry.partition.end());
        let changed = change(&mut entry.partition, &rules);
        let after = (entry.partition.next(&rules), entry.partition.end());
        let has_more = match after.0 {
            Next::From(from) => before.0 == Next::Full || from < after.1 || after.1 < before.1,
            Next::Full => false,
        };
        if has_more && before != after {
            entry.seen += 1;
            let watchers = std::mem::take(&mut entry.watchers);
            self.replies.extend(watchers.into_iter().map(|to| (to, Reply::Moved)));
        }
        self.count(key);
        Some(changed)
    }

    /// Writes a change down; whoever is to be told is told when it is durable.
    fn write_change(&mut self, key: &Key, batches: Vec<StateBatch>, reply_to: Option<ReplyTo>) {
        // Behind the record that replaces it nothing is written of it: that would be of the new one.
        let Some(entry) = self.all.get_mut(key).filter(|entry| entry.replaced == 0) else {
            return;
        };
        let start = entry.partition.start();
        entry.written_start = start;
        let records = vec![Record::Change { key: key.clone(), start, batches }];
        self.decided.push(Write { records, reply_to, then: Then::Nothing });
    }

    /// Writes down what has changed by itself, if anything has.
    fn write_if_changed(&mut self, key: &Key, batches: Vec<StateBatch>) {
        let moved = |entry: &Entry| entry.written_start != entry.partition.start();
        if !batches.is_empty() || self.all.get(key).is_some_and(moved) {
            self.write_change(key, batches, None);
        }
    }

    fn state_of(&self, key: &Key, wall_ms: i64) -> Record {
        let partition = &self.all[key].partition;
        let (start, batches) = (partition.start(), partition.remembered());
        Record::State { key: key.clone(), start, batches, wall_ms }
    }

    /// Counts anew what an entry takes, and when it wants to know the time.
    fn count(&mut self, key: &Key) {
        let Some(entry) = self.all.get_mut(key) else { return };
        let names = size_of::<(Key, Entry)>() + key.group.len();
        let bytes = names + entry.partition.bytes();
        self.bytes = self.bytes - entry.bytes + bytes;
        entry.bytes = bytes;
        let timer = entry.partition.next_deadline();
        if entry.timer == timer {
            return;
        }
        if let Some(before) = std::mem::replace(&mut entry.timer, timer) {
            self.timers.remove(&(before, key.clone()));
        }
        self.timers.extend(timer.map(|timer| (timer, key.clone())));
    }
}

impl Coordinate for Coordinator {
    type Request = Request;
    type Reply = Reply;
    type Record = Record;
    type Write = Write;
    type Place = Key;

    fn replay(&mut self, record: Record) {
        let key = record.key().clone();
        match record {
            Record::Forgotten { .. } => {
                return self.take_out(&key, ErrorCode::UnknownTopicOrPartition);
            }
            Record::State { start, batches, .. } => {
                let mut partition = SharePartition::new(start);
                partition.replay(start, &batches);
                self.made += 1;
                let entry = Entry::new(self.made, partition);
                if let Some(before) = self.all.insert(key.clone(), entry) {
                    self.bytes -= before.bytes;
                }
            }
            Record::Change { start, mut batches, .. } => {
                if mistake::is_made(Mistake::ForgetDeliveries) {
                    batches.iter_mut().for_each(|batch| batch.count = 0);
                }
                if let Some(entry) = self.all.get_mut(&key) {
                    entry.partition.replay(start, &batches);
                    entry.written_start = entry.partition.start();
                }
            }
        }
        self.count(&key);
    }

    fn loaded(&mut self, now: Now<'_>) {
        let records = self.remove(|key| now.image.topic(key.topic).is_none());
        if !records.is_empty() {
            self.decided.push(Write { records, reply_to: None, then: Then::Nothing });
        }
    }

    fn request(&mut self, request: Request, reply_to: ReplyTo, has_room: bool, now: Now<'_>) {
        let reply = match self.closed {
            Some(error) => Some(Reply::Refused(error)),
            None => self.answer(request, reply_to, has_room, now),
        };
        self.replies.extend(reply.map(|reply| (reply_to, reply)));
    }

    fn tick(&mut self, now: Now<'_>) {
        while let Some((at, key)) = self.timers.first().cloned()
            && at <= now.times.now
            && self.closed.is_none()
        {
            let changes =
                self.change(&key, now, |partition, rules| partition.expire(rules, now.times.now));
            self.write_if_changed(&key, changes.unwrap_or_default());
        }
    }

    fn next_deadline(&self) -> Option<Instant> {
        self.timers.first().filter(|_| self.closed.is_none()).map(|(at, _)| *at)
    }

    fn close(&mut self, error: ErrorCode) {
        self.closed = Some(error);
        for entry in self.all.values_mut() {
            let watchers = std::mem::take(&mut entry.watchers);
            self.replies.extend(watchers.into_iter().map(|to| (to, Reply::Refused(error))));
        }
    }

    fn decided(&mut self) -> &mut Vec<Write> {
        &mut self.decided
    }

    fn written(&mut self, write: Write, now: Now<'_>) {
        self.replies.extend(write.reply_to.map(|to| (to, Reply::Done)));
        match write.then {
            Then::Nothing => {}
            Then::Begins(key, number) => {
                let Some(entry) = self.meant(&key, number) else { return };
                let waiting = entry.beginning.take().unwrap_or_default();
                self.replies.extend(waiting.into_iter().map(|to| (to, Reply::Done)));
            }
            Then::Resets(key, number, start) => {
                let Some(entry) = self.meant(&key, number) else { return };
                entry.replaced -= 1;
                entry.written_start = start;
                self.change(&key, now, |partition, _| *partition = SharePartition::new(start));
            }
            Then::Forgets(all) => {
                for (key, number) in all {
                    if self.meant(&key, number).is_some() {
                        self.take_out(&key, ErrorCode::UnknownTopicOrPartition);
                    }
                }
            }
        }
    }

    fn refused(&mut self, write: Write, error: ErrorCode, _now: Now<'_>) {
        self.replies.extend(write.reply_to.map(|to| (to, Reply::Refused(error))));
        match write.then {
            Then::Nothing => {}
            Then::Begins(key, number) => {
                if self.meant(&key, number).is_some() {
                    self.take_out(&key, error);
                }
            }
            Then::Resets(key, number, _) => {
                self.meant(&key, number).into_iter().for_each(|entry| entry.replaced -= 1);
            }
            Then::Forgets(all) => {
                for (key, number) in all {
                    self.meant(&key, number).into_iter().for_each(|entry| entry.replaced -= 1);
                }
            }
        }
    }

    fn replies(&mut self) -> &mut Vec<(ReplyTo, Reply)> {
        &mut self.replies
    }

    fn refusal(error: ErrorCode) -> Reply {
        Reply::Refused(error)
    }

    // What is decided of records and not appended yet is in it: if that is refused afterwards, it is
    // in force all the same, here and after a restart.
    fn remembered_after<'a>(
        &'a self,
        place: Option<&'a Key>,
    ) -> impl Iterator<Item = (Key, Vec<Record>)> + 'a {
        use std::ops::Bound;
        let from = place.map_or(Bound::Unbounded, Bound::Excluded);
        let all = self.all.range((from, Bound::Unbounded));
        let begun = all.filter(|(_, entry)| entry.beginning.is_none());
        begun.map(|(key, _)| (key.clone(), vec![self.state_of(key, 0)]))
    }

    fn bytes(&self) -> usize {
        self.bytes
    }

    fn count(&self) -> usize {
        self.all.len()
    }
}

#[cfg(test)]
mod tests;
