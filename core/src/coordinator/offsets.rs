//! The offsets a group has committed: what is kept, for how long, and who may touch it.
//!
//! An offset changes when the record that says so is durable ([`Offsets::apply`]), so what is
//! told here was never lost.
//!
//! Start reading at [`Offsets`].

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use tidemill_record::ProducerId;

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
    pending: BTreeMap<PendingKey, Committed>,
    /// Of how many producers each partition has such offsets, where there are any.
    unstable: BTreeMap<Arc<str>, BTreeMap<i32, usize>>,
}

/// A producer of transactions, and the partition of which it has committed an offset.
pub type PendingKey = (ProducerId, Arc<str>, i32);

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
    pub fn after(
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

    /// Those committed in transactions that are open, behind a place.
    pub fn pending_after(
        &self,
        place: Option<PendingKey>,
    ) -> impl Iterator<Item = (&PendingKey, &Committed)> {
        let from = place.map_or(Bound::Unbounded, Bound::Excluded);
        self.pending.range((from, Bound::Unbounded))
    }

    /// Whether an open transaction has committed an offset of this partition.
    pub fn is_pending(&self, topic: &str, partition: i32) -> bool {
        self.unstable.get(topic).is_some_and(|partitions| partitions.contains_key(&partition))
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
    ) -> impl Iterator<Item = (&PendingKey, &Committed)> + Clone {
        let from = (producer, Arc::default(), i32::MIN);
        self.pending.range(from..).take_while(move |((id, ..), _)| *id == producer)
    }

    /// The records that end a producer's transaction. What counts comes first: a crash may lose
    /// the rest, which is then told again.
    pub fn end_transaction(
        &self,
        group: &Arc<str>,
        producer: ProducerId,
        commit: bool,
    ) -> Vec<Record> {
        let of_producer = self.pending_of(producer);
        let counts = of_producer.clone().filter(|_| commit).map(|((_, topic, partition), kept)| {
            let (group, topic) = (Arc::clone(group), Arc::clone(topic));
            Record::Offset { group, topic, partition: *partition, committed: kept.clone() }
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
            Record::Offset { topic, partition, committed, .. } => {
                let bytes = size_of_offset(&committed);
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
            Record::Pending { producer, topic, partition, committed, .. } => {
                let bytes = size_of_offset(&committed);
                let key = (producer, Arc::clone(&topic), partition);
                match self.pending.insert(key, committed) {
                    Some(old) => bytes - size_of_offset(&old),
                    None => {
                        let partitions = self.unstable.entry(topic).or_default();
                        *partitions.entry(partition).or_default() += 1;
                        bytes
                    }
                }
            }
            Record::PendingRemoved { producer, topic, partition, .. } => {
                let key = (producer, topic, partition);
                let Some(old) = self.pending.remove(&key) else { return 0 };
                self.settle(&key.1, partition);
                -size_of_offset(&old)
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
        let count = partitions.get_mut(&partition).expect("counted when it was committed");
        *count -= 1;
        if *count == 0 {
            partitions.remove(&partition);
        }
        if partitions.is_empty() {
            self.unstable.remove(topic);
        }
    }

    /// The records that forget everything.
    pub fn remove_all(&self, group: &Arc<str>) -> Vec<Record> {
        let offsets = self.iter().map(|(topic, partition, _)| removed(group, topic, partition));
        offsets.chain(self.pending.keys().map(|key| pending_removed(group, key))).collect()
    }

    /// The records that forget what has been unused for too long, of topics nobody reads.
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
            let over = partitions.iter().filter(|(_, committed)| is_over(committed));
            over.map(move |(partition, _)| removed(group, topic, *partition))
        });
        over.collect()
    }
}

/// The record that forgets one offset.
pub fn removed(group: &Arc<str>, topic: &Arc<str>, partition: i32) -> Record {
    Record::OffsetRemoved { group: Arc::clone(group), topic: Arc::clone(topic), partition }
}

/// The record that forgets an offset of a transaction.
pub fn pending_removed(group: &Arc<str>, key: &PendingKey) -> Record {
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
            offsets.apply(if bits & 1024 == 0 {
                let committed = Committed::default();
                Record::Pending { group, producer, topic, partition, committed }
            } else {
                Record::PendingRemoved { group, producer, topic, partition }
            });
            for (topic, partition) in ["t", "u", "v"].into_iter().zip(0..4) {
                let all = offsets.pending_after(None);
                let is = all.filter(|((_, t, p), _)| &**t == topic && *p == partition).count();
                assert_eq!(offsets.is_pending(topic, partition), is != 0);
            }
        }
        let keys: Vec<PendingKey> =
            offsets.pending_after(None).map(|(key, _)| key.clone()).collect();
        keys.iter().for_each(|key| {
            offsets.apply(pending_removed(&group, key));
        });
        assert_eq!(offsets, Offsets::default(), "and nothing is left of it");
    }
}
