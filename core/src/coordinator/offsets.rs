//! The offsets a group has committed: what is kept, for how long, and who may touch it.
//!
//! An offset changes when the record that says so is durable ([`Offsets::apply`]), so what is
//! told here was never lost.
//!
//! Of two commits of a partition the later one counts, by their records in the log: what a
//! transaction commits has its place where it was written, not where the transaction ends. So each
//! commit in a transaction has a number that grows, and a partition with such commits remembers up to
//! which of them what is committed has overtaken:
//!
//! ```text
//! pending of p: 1   commit       pending of q: 2   p ends: 1 was overtaken, q ends: 2 counts
//! ────────────────> overtakes 1 ─────────────────────────────────────────────────────────────>
//! ```
//!
//! A commit overtakes all there are when its record is applied. Where that is not so, the record
//! says up to which: at the end of a transaction, and when the log is written anew.
//!
//! Start reading at [`Offsets`].

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use tidemill_record::ProducerId;
use tidemill_storage::mistake::{self, Mistake};

use super::record::Record;

/// One committed offset.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Committed {
    /// The next record to consume.
    pub offset: i64,
    /// Epoch of the leader that wrote the last one consumed; -1 if the client does not say.
    pub leader_epoch: i32,
    /// Whatever the client wants to find again.
    pub metadata: Arc<str>,
    /// When it was committed, in milliseconds of the Unix epoch.
    pub commit_ms: i64,
    /// When it may be forgotten, if the client has said so (OffsetCommit before version 5).
    pub expire_ms: Option<i64>,
}

/// From when on an offset of a group counts as unused.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum UnusedSince {
    /// Since it was committed.
    Commit,
    /// Since the group has no members.
    Time(i64),
}

/// All offsets of one group.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Offsets {
    by_topic: BTreeMap<Arc<str>, BTreeMap<i32, Committed>>,
    count: usize,
    /// Committed in transactions that are open.
    pending: BTreeMap<PendingKey, Pending>,
    /// What is known of the partitions of these.
    unstable: BTreeMap<Arc<str>, BTreeMap<i32, Unstable>>,
    /// The last number that a commit in a transaction was given.
    numbered: i64,
}

/// An offset that was committed in a transaction that is open.
#[derive(Clone, Debug, PartialEq)]
struct Pending {
    committed: Committed,
    /// Its number among the commits of the group in transactions, the first of which is 1.
    order: i64,
}

/// A partition of which open transactions have committed offsets.
#[derive(Clone, Debug, Default, PartialEq)]
struct Unstable {
    /// Transactions of how many producers.
    producers: usize,
    /// The largest number of these offsets since there are any.
    newest: i64,
    /// Those up to this number are older than what is committed, and never count. 0: none.
    overtaken: i64,
}

/// A producer of transactions, and the partition of which it has committed an offset.
pub type PendingKey = (ProducerId, Arc<str>, i32);

/// An offset, in the order in which what is remembered of them is told.
#[derive(Clone, Debug)]
pub enum Kept {
    /// In an open transaction.
    Pending(PendingKey),
    /// Of a partition.
    Committed(Arc<str>, i32),
}

/// What one offset takes in memory, beside its metadata.
pub const OFFSET_BYTES: usize = size_of::<Committed>() + 32;

impl Offsets {
    /// What is kept for a partition.
    pub fn get(&self, topic: &str, partition: i32) -> Option<&Committed> {
        self.by_topic.get(topic)?.get(&partition)
    }

    /// All there are.
    pub fn iter(&self) -> impl Iterator<Item = (&Arc<str>, i32, &Committed)> {
        self.by_topic.iter().flat_map(|(topic, partitions)| {
            partitions.iter().map(move |(partition, committed)| (topic, *partition, committed))
        })
    }

    /// Those behind a place, in the order of topics and partitions.
    fn after(
        &self,
        place: Option<(Arc<str>, i32)>,
    ) -> impl Iterator<Item = (&Arc<str>, i32, &Committed)> {
        let from = match &place {
            Some((topic, _)) => Bound::Included(Arc::clone(topic)),
            None => Bound::Unbounded,
        };
        let topics = self.by_topic.range::<Arc<str>, _>((from, Bound::Unbounded));
        topics.flat_map(move |(topic, partitions)| {
            let from = match &place {
                Some((begun, last)) if begun == topic => Bound::Excluded(*last),
                _ => Bound::Unbounded,
            };
            let rest = partitions.range((from, Bound::Unbounded));
            rest.map(move |(partition, committed)| (topic, *partition, committed))
        })
    }

    /// All there are, topic by topic.
    pub fn topics(&self) -> impl Iterator<Item = (&Arc<str>, &BTreeMap<i32, Committed>)> {
        self.by_topic.iter()
    }

    /// Whether an open transaction has committed an offset of this partition.
    pub fn is_pending(&self, topic: &str, partition: i32) -> bool {
        self.unstable_of(topic, partition).is_some()
    }

    fn unstable_of(&self, topic: &str, partition: i32) -> Option<&Unstable> {
        self.unstable.get(topic)?.get(&partition)
    }

    /// Whether open transactions have committed anything.
    pub fn has_pending(&self) -> bool {
        !self.pending.is_empty()
    }

    /// Whether an open transaction of this producer has committed anything.
    pub fn has_pending_of(&self, producer: ProducerId) -> bool {
        self.pending_of(producer).next().is_some()
    }

    fn pending_of(
        &self,
        producer: ProducerId,
    ) -> impl Iterator<Item = (&PendingKey, &Pending)> + Clone {
        let from = (producer, Arc::default(), i32::MIN);
        self.pending.range(from..).take_while(move |((id, ..), _)| *id == producer)
    }

    /// The number of the next commit in a transaction. They grow as commits are decided, which is
    /// the order in which they are written.
    pub fn next_order(&mut self) -> i64 {
        self.numbered = self.numbered.saturating_add(1);
        self.numbered
    }

    /// The records that end a producer's transaction. What counts comes first: a crash may lose
    /// the rest, which is then told again. What has been overtaken does not count.
    pub fn end_transaction(
        &self,
        group: &Arc<str>,
        producer: ProducerId,
        commit: bool,
    ) -> Vec<Record> {
        let of_producer = self.pending_of(producer);
        let counts = of_producer.clone().filter_map(|((_, topic, partition), pending)| {
            let unstable = self.unstable_of(topic, *partition).expect("it is pending");
            let counts = commit || mistake::is_made(Mistake::AbortedOffsetsCount);
            let is_last = unstable.overtaken < pending.order;
            if !counts || !is_last && !mistake::is_made(Mistake::CountFromEnd) {
                return None;
            }
            Some(Record::Offset {
                group: Arc::clone(group),
                topic: Arc::clone(topic),
                partition: *partition,
                committed: pending.committed.clone(),
                overtakes: (1 < unstable.producers).then_some(pending.order),
            })
        });
        let over = of_producer.map(|(key, _)| pending_removed(group, key));
        counts.chain(over).collect()
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.count
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.count == 0 && self.pending.is_empty()
    }

    /// Lets a durable record have happened; others than those of offsets are of no concern here.
    /// Tells by how many bytes the offsets have grown.
    pub fn apply(&mut self, record: Record) -> isize {
        match record {
            Record::Offset { topic, partition, committed, overtakes, .. } => {
                let bytes = size_of_offset(&committed);
                let unstable = self.unstable.get_mut(&topic);
                if let Some(unstable) = unstable.and_then(|all| all.get_mut(&partition)) {
                    let overtakes = overtakes.unwrap_or(unstable.newest);
                    unstable.overtaken = unstable.overtaken.max(overtakes);
                }
                let partitions = self.by_topic.entry(topic).or_default();
                match partitions.insert(partition, committed) {
                    Some(old) => bytes - size_of_offset(&old),
                    None => {
                        self.count += 1;
                        bytes
                    }
                }
            }
            Record::OffsetRemoved { topic, partition, .. } => {
                let Some(partitions) = self.by_topic.get_mut(&topic) else { return 0 };
                let Some(old) = partitions.remove(&partition) else { return 0 };
                self.count -= 1;
                if partitions.is_empty() {
                    self.by_topic.remove(&topic);
                }
                -size_of_offset(&old)
            }
            Record::Pending { producer, topic, partition, committed, order, .. } => {
                // One that has none was written where it has its place.
                let order = order.unwrap_or_else(|| self.numbered.saturating_add(1));
                self.numbered = self.numbered.max(order);
                let bytes = size_of_offset(&committed);
                let partitions = self.unstable.entry(Arc::clone(&topic)).or_default();
                let unstable = partitions.entry(partition).or_default();
                unstable.newest = unstable.newest.max(order);
                let key = (producer, topic, partition);
                match self.pending.insert(key, Pending { committed, order }) {
                    Some(old) => bytes - size_of_offset(&old.committed),
                    None => {
                        unstable.producers += 1;
                        bytes
                    }
                }
            }
            Record::PendingRemoved { producer, topic, partition, .. } => {
                let key = (producer, topic, partition);
                let Some(old) = self.pending.remove(&key) else { return 0 };
                self.settle(&key.1, partition);
                -size_of_offset(&old.committed)
            }
            Record::Group { .. }
            | Record::GroupRemoved { .. }
            | Record::Consumer { .. }
            | Record::Share { .. } => 0,
        }
    }

    /// One producer less has committed an offset of this partition in an open transaction.
    fn settle(&mut self, topic: &Arc<str>, partition: i32) {
        let partitions = self.unstable.get_mut(topic).expect("counted when it was committed");
        let unstable = partitions.get_mut(&partition).expect("counted when it was committed");
        unstable.producers -= 1;
        if unstable.producers == 0 {
            partitions.remove(&partition);
        }
        if partitions.is_empty() {
            self.unstable.remove(topic);
        }
    }

    /// The records that forget everything.
    pub fn remove_all(&self, group: &Arc<str>) -> Vec<Record> {
        self.remove(group, |_, _| true)
    }

    /// The records that forget some partitions. What is pending goes first: without the offset that
    /// has overtaken it, it would count.
    pub fn remove(&self, group: &Arc<str>, goes: impl Fn(&Arc<str>, i32) -> bool) -> Vec<Record> {
        let pending = self.pending.keys().filter(|(_, topic, partition)| goes(topic, *partition));
        let pending = pending.map(|key| pending_removed(group, key));
        let kept = self.iter().filter(|(topic, partition, _)| goes(topic, *partition));
        pending.chain(kept.map(|(topic, partition, _)| removed(group, topic, partition))).collect()
    }

    /// The records that say what is kept, behind a place of those before: first what is pending,
    /// then what is committed, which may have overtaken it.
    pub fn remembered_after<'a>(
        &'a self,
        group: &'a Arc<str>,
        after: Option<Kept>,
    ) -> impl Iterator<Item = (Kept, Record)> + 'a {
        let (pending_after, committed_after) = match after {
            Some(Kept::Pending(key)) => (Some(Bound::Excluded(key)), None),
            Some(Kept::Committed(topic, partition)) => (None, Some((topic, partition))),
            None => (Some(Bound::Unbounded), None),
        };
        let pending = pending_after.map(|from| self.pending.range((from, Bound::Unbounded)));
        let pending = pending.into_iter().flatten().map(|(key, pending)| {
            let (producer, topic, partition) = key;
            let record = Record::Pending {
                group: Arc::clone(group),
                producer: *producer,
                topic: Arc::clone(topic),
                partition: *partition,
                committed: pending.committed.clone(),
                order: Some(pending.order),
            };
            (Kept::Pending(key.clone()), record)
        });
        let committed = self.after(committed_after).map(|(topic, partition, committed)| {
            let overtakes = self.unstable_of(topic, partition).map(|unstable| unstable.overtaken);
            let record = Record::Offset {
                group: Arc::clone(group),
                topic: Arc::clone(topic),
                partition,
                committed: committed.clone(),
                overtakes,
            };
            (Kept::Committed(Arc::clone(topic), partition), record)
        });
        pending.chain(committed)
    }

    /// The records that forget what has been unused for too long, of topics nobody reads. What an
    /// open transaction may change stays.
    pub fn expire(
        &self,
        group: &Arc<str>,
        unused: UnusedSince,
        is_read: impl Fn(&str) -> bool,
        wall_ms: i64,
        retention_ms: i64,
    ) -> Vec<Record> {
        let is_over = |committed: &Committed| match (committed.expire_ms, unused) {
            (Some(expire_ms), _) => expire_ms <= wall_ms,
            (None, UnusedSince::Commit) => retention_ms <= wall_ms - committed.commit_ms,
            (None, UnusedSince::Time(since_ms)) => retention_ms <= wall_ms - since_ms,
        };
        let unread = self.by_topic.iter().filter(|(topic, _)| !is_read(topic));
        let over = unread.flat_map(|(topic, partitions)| {
            let over = partitions.iter().filter(|(partition, committed)| {
                is_over(committed) && !self.is_pending(topic, **partition)
            });
            over.map(move |(partition, _)| removed(group, topic, *partition))
        });
        over.collect()
    }
}

/// The record that forgets one offset.
fn removed(group: &Arc<str>, topic: &Arc<str>, partition: i32) -> Record {
    Record::OffsetRemoved { group: Arc::clone(group), topic: Arc::clone(topic), partition }
}

/// The record that forgets an offset of a transaction.
fn pending_removed(group: &Arc<str>, key: &PendingKey) -> Record {
    let (producer, topic, partition) = key;
    Record::PendingRemoved {
        group: Arc::clone(group),
        producer: *producer,
        topic: Arc::clone(topic),
        partition: *partition,
    }
}

fn size_of_offset(committed: &Committed) -> isize {
    (OFFSET_BYTES + committed.metadata.len()) as isize
}

#[cfg(test)]
mod tests {
    use super::*;

    /// To find that a partition has no offset in an open transaction, all that were in one were
    /// looked through: with many of both, one request took minutes. What is kept of each partition
    /// instead says the same.
    #[test]
    fn a_partition_is_found_unstable_without_looking_at_the_others() {
        let group: Arc<str> = "g".into();
        let mut offsets = Offsets::default();
        let mut number = 1_u32;
        for _ in 0..5000 {
            number = number.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let bits = number >> 16;
            let producer = ProducerId(i64::from(bits % 3));
            let topic: Arc<str> = if bits & 8 == 0 { "t" } else { "u" }.into();
            let partition = (bits >> 4) as i32 % 4;
            let group = Arc::clone(&group);
            let order = Some(offsets.next_order());
            offsets.apply(if bits & 1024 == 0 {
                let committed = Committed::default();
                Record::Pending { group, producer, topic, partition, committed, order }
            } else {
                Record::PendingRemoved { group, producer, topic, partition }
            });
            for (topic, partition) in ["t", "u", "v"].into_iter().zip(0..4) {
                let all = offsets.pending.keys();
                let is = all.filter(|(_, t, p)| &**t == topic && *p == partition).count();
                assert_eq!(offsets.is_pending(topic, partition), is != 0);
            }
        }
        let keys: Vec<PendingKey> = offsets.pending.keys().cloned().collect();
        keys.iter().for_each(|key| {
            offsets.apply(pending_removed(&group, key));
        });
        let nothing = Offsets { numbered: offsets.numbered, ..Offsets::default() };
        assert_eq!(offsets, nothing, "and nothing is left of it");
    }
}
