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
//! A change is in force at once, and its answer goes out when it is durable: nobody is told that a
//! record is done with that a crash would give out again. What could not be written stays in force
//! until the process ends; then the records in question are given out once more.
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
    /// It takes nothing more, and this is what it answers.
    closed: Option<ErrorCode>,
}

struct Entry {
    partition: SharePartition,
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
    /// This begins to be read.
    begins: Option<Key>,
}

impl LogWrite for Write {
    type Record = Record;

    fn records(&self) -> &[Record] {
        &self.records
    }
}

impl Entry {
    fn new(partition: SharePartition) -> Self {
        Self {
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
            Request::Acquire { key, want } => {
                let given = self.change(&key, now, |partition, rules| {
                    partition.acquire(&want, rules, now.times.now)
                });
                Some(given.map_or(Reply::Unbegun, Reply::Given))
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
                    Some(Ok(changes)) => {
                        self.write_change(&key, changes, Some(reply_to));
                        None
                    }
                }
            }
            Request::Release { key, member } => {
                let changes =
                    self.change(&key, now, |partition, rules| partition.release(&member, rules));
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
            Request::Forget { group, topics } => self.forget(reply_to, |key| {
                key.group == group
                    && topics.as_ref().is_none_or(|topics| topics.contains(&key.topic))
            }),
        }
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
        let mut entry = Entry::new(SharePartition::new(start));
        entry.beginning = Some(vec![reply_to]);
        self.all.insert(key.clone(), entry);
        self.count(&key);
        let records = vec![self.state_of(&key, now.times.wall_ms)];
        self.decided.push(Write { records, reply_to: None, begins: Some(key) });
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
        if !self.all.contains_key(&key) {
            if !has_room || SHARE_PARTITIONS_PER_PARTITION_MAX <= self.all.len() {
                return Some(Reply::Refused(ErrorCode::CoordinatorNotAvailable));
            }
            self.all.insert(key.clone(), Entry::new(SharePartition::new(start)));
        }
        self.change(&key, now, |partition, _| *partition = SharePartition::new(start));
        self.all.get_mut(&key).expect("it was there").written_start = start;
        let records = vec![self.state_of(&key, now.times.wall_ms)];
        self.decided.push(Write { records, reply_to: Some(reply_to), begins: None });
        None
    }

    fn forget(&mut self, reply_to: ReplyTo, which: impl Fn(&Key) -> bool) -> Option<Reply> {
        let records = self.remove(which);
        if records.is_empty() {
            return Some(Reply::Done);
        }
        self.decided.push(Write { records, reply_to: Some(reply_to), begins: None });
        None
    }

    /// Removes what is meant, and tells the records that say so.
    fn remove(&mut self, which: impl Fn(&Key) -> bool) -> Vec<Record> {
        let keys: Vec<Key> = self.all.keys().filter(|key| which(key)).cloned().collect();
        for key in &keys {
            let Some(entry) = self.all.remove(key) else { continue };
            self.bytes -= entry.bytes;
            if let Some(timer) = entry.timer {
                self.timers.remove(&(timer, key.clone()));
            }
            let watchers = entry.watchers.into_iter().map(|to| (to, Reply::Moved));
            self.replies.extend(watchers);
            let error = ErrorCode::UnknownTopicOrPartition;
            let beginning = entry.beginning.into_iter().flatten();
            self.replies.extend(beginning.map(|to| (to, Reply::Refused(error))));
        }
        keys.into_iter().map(|key| Record::Forgotten { key }).collect()
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
            self.decided.push(Write { records, reply_to: None, begins: None });
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
        let Some(entry) = self.all.get_mut(key) else { return };
        let start = entry.partition.start();
        entry.written_start = start;
        let records = vec![Record::Change { key: key.clone(), start, batches }];
        self.decided.push(Write { records, reply_to, begins: None });
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
                if let Some(entry) = self.all.remove(&key) {
                    self.bytes -= entry.bytes;
                }
                return;
            }
            Record::State { start, batches, .. } => {
                let mut partition = SharePartition::new(start);
                partition.replay(start, &batches);
                let entry = Entry::new(partition);
                if let Some(before) = self.all.insert(key.clone(), entry) {
                    self.bytes -= before.bytes;
                }
            }
            Record::Change { start, batches, .. } => {
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
            self.decided.push(Write { records, reply_to: None, begins: None });
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

    fn written(&mut self, write: Write, _now: Now<'_>) {
        self.replies.extend(write.reply_to.map(|to| (to, Reply::Done)));
        if let Some(key) = write.begins
            && let Some(entry) = self.all.get_mut(&key)
        {
            let waiting = entry.beginning.take().unwrap_or_default();
            self.replies.extend(waiting.into_iter().map(|to| (to, Reply::Done)));
        }
    }

    fn refused(&mut self, write: Write, error: ErrorCode, _now: Now<'_>) {
        self.replies.extend(write.reply_to.map(|to| (to, Reply::Refused(error))));
        if let Some(key) = write.begins
            && let Some(mut entry) = self.all.remove(&key)
        {
            self.bytes -= entry.bytes;
            let waiting = entry.beginning.take().unwrap_or_default();
            self.replies.extend(waiting.into_iter().map(|to| (to, Reply::Refused(error))));
        }
    }

    fn replies(&mut self) -> &mut Vec<(ReplyTo, Reply)> {
        &mut self.replies
    }

    fn refusal(error: ErrorCode) -> Reply {
        Reply::Refused(error)
    }

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
