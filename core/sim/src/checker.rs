//! What must always hold, checked against everything clients see.
//!
//! Clients report what they do and what they are told; the [`History`] compares it with all that
//! was said before and names the first contradiction:
//!
//! - [`records`]: an offset holds one record for ever, the same bytes for every observer; offsets
//!   are dense; no value appears twice, and none that nobody sent;
//! - [`order`]: an idempotent producer's values lie in the order it numbered them, without holes;
//! - [`acked`]: what was acknowledged is still there in the end;
//! - [`compacted`]: in a compacted log, that is what each key's last record is;
//! - [`bounds`]: the ends of a log never go back; what was deleted stays deleted;
//! - [`shares`]: a record is with one member of a share group at a time, until it is done with;
//! - [`groups`]: a generation of a group is shared out once, and generations never go back;
//! - [`offsets`]: of two commits the later one counts; none that was aborted, deleted, or sent by a
//!   member that was out, ever shows;
//! - [`transactions`]: they happen as a whole or not at all, and who was fenced writes no more;
//! - [`topics`]: topics and partitions neither vanish nor return;
//! - [`quotas`]: quotas stay as they were set.

pub mod acked;
pub mod bounds;
pub mod compacted;
pub mod groups;
pub mod offsets;
pub mod order;
pub mod quotas;
pub mod records;
pub mod shares;
pub mod topics;
pub mod transactions;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use tidemill_record::{Outcome, TopicId};

use self::acked::Acked;
use self::bounds::Bounds;
use self::groups::Group;
use self::offsets::{DeletionEnd, Offsets};
use self::order::Order;
use self::quotas::Quotas;
use self::records::{Records, Times};
use self::shares::{ShareRules, Shares};
use self::topics::Topics;
use self::transactions::Transactions;
use crate::value::Value;
use crate::workload::REBORN;

/// A promise that was broken.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Violation {
    /// Which promise.
    pub rule: &'static str,
    /// The evidence.
    pub evidence: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.rule, self.evidence)
    }
}

/// What a check finds.
pub type Verdict = Result<(), Violation>;

/// A violation of `rule`, unless `holds`.
pub(crate) fn check(holds: bool, rule: &'static str, evidence: impl FnOnce() -> String) -> Verdict {
    if holds { Ok(()) } else { Err(Violation { rule, evidence: evidence() }) }
}

/// One partition of one topic that ever was.
#[derive(Clone, Copy, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Place {
    /// The topic.
    pub topic: TopicId,
    /// The partition's number.
    pub partition: i32,
}

impl fmt::Debug for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.topic, self.partition)
    }
}

/// A record as an observer saw it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Seen {
    /// Its offset.
    pub offset: i64,
    /// Its value; none if it is the marker that ends a transaction.
    pub value: Option<Value>,
    /// What a reader of what is committed makes of it, if that was asked for.
    pub shown: Option<Outcome>,
    /// The checksum of the whole batch it came in, header included.
    pub batch: u32,
}

/// All that was observed of one partition.
#[derive(Debug, Default)]
pub struct Partition {
    /// What its offsets hold.
    pub records: Records,
    /// What was acknowledged.
    pub acked: Acked,
    /// In which order values lie.
    pub order: Order,
    /// Where it begins and ends.
    pub bounds: Bounds,
}

/// All that clients ever saw.
#[derive(Debug, Default)]
pub struct History {
    /// Topics, by what was said of them.
    pub topics: Topics,
    /// Quotas, by what was said of them.
    pub quotas: Quotas,
    /// The time, in ms.
    pub now_ms: i64,
    /// When the node was started last.
    started_ms: i64,
    partitions: BTreeMap<Place, Partition>,
    producer_ids: BTreeSet<i64>,
    groups: BTreeMap<String, Group>,
    /// Committed offsets, by what was said of them.
    pub offsets: Offsets,
    /// Deletions of groups of which nobody knows what came of them.
    deletions_lost: Vec<String>,
    /// Share groups, by what their members were given and have said.
    pub sharing: Shares,
    /// Transactions, by what was said of them.
    pub transactions: Transactions,
    /// How many records were acknowledged, with an offset.
    pub acked_records: u64,
    /// How many commits of offsets were acknowledged.
    pub committed_offsets: u64,
    /// How many of them members committed in transactions.
    pub offsets_in_transactions: u64,
    /// How many commits in transactions were refused, since their members were out.
    pub fenced_commits: u64,
    /// How often a group or an offset of one was deleted.
    pub deletions_in_groups: u64,
    /// How many shares were given to members of groups.
    pub shares: u64,
    /// How many records were read, each reader's reads counted.
    pub read_records: u64,
}

impl History {
    /// Nothing was observed yet, and share groups are set to this.
    #[must_use]
    pub fn new(rules: ShareRules) -> Self {
        Self { sharing: Shares::new(rules), ..Self::default() }
    }

    /// What was observed of a partition.
    pub fn partition(&mut self, place: Place) -> &mut Partition {
        self.partitions.entry(place).or_default()
    }

    /// What was observed of a group.
    pub fn group(&mut self, name: &str) -> &mut Group {
        if !self.groups.contains_key(name) {
            self.groups.insert(name.to_owned(), Group::default());
        }
        self.groups.get_mut(name).expect("it is there now")
    }

    /// Somebody asks to delete a group, or the offset of a partition. The number is for
    /// [`History::deletion_over`].
    pub fn deleting(&mut self, group: &str, of: Option<Place>) -> usize {
        if of.is_none() {
            self.group(group).deleting();
        }
        self.offsets.deleting(group, of)
    }

    /// That was answered, or will not be.
    pub fn deletion_over(
        &mut self,
        group: &str,
        of: Option<Place>,
        number: usize,
        end: DeletionEnd,
    ) {
        self.offsets.deletion_over(group, number, end);
        match end {
            DeletionEnd::Unknown if of.is_none() => self.deletions_lost.push(group.to_owned()),
            end if of.is_none() => self.group(group).deletion_over(end == DeletionEnd::Done),
            _ => {}
        }
        self.deletions_in_groups += u64::from(end == DeletionEnd::Done);
    }

    /// What a fetch of a committed offset that is sent now must find at least, by who waits for what
    /// is not decided yet or does not.
    pub fn floor_of_offset(&mut self, group: &str, place: Place, waits: bool) -> offsets::Floor {
        self.offsets.floor(group, place, waits, &self.transactions)
    }

    /// A committed offset was fetched.
    pub fn offset_fetched(
        &mut self,
        group: &str,
        place: Place,
        found: Option<i64>,
        floor: offsets::Floor,
    ) -> Verdict {
        self.offsets.fetched(group, place, found, floor, &mut self.transactions)
    }

    /// How often groups were upgraded, and how often downgraded, as far as their members saw.
    #[must_use]
    pub fn changes_of_kind(&self) -> (u64, u64) {
        let changes = self.groups.values().map(Group::changes_of_kind);
        changes.fold((0, 0), |(ups, downs), (up, down)| (ups + up, downs + down))
    }

    /// All partitions of which anything was observed.
    #[must_use]
    pub fn places(&self) -> Vec<Place> {
        self.partitions.keys().copied().collect()
    }

    /// A partition's log is compacted, and deletion marks stay for `retention_ms`. To be said before
    /// anything is sent to it.
    pub fn compacts(&mut self, place: Place, retention_ms: i64) {
        self.partition(place).records.compacts(retention_ms);
    }

    /// Whether any log is compacted.
    #[must_use]
    pub fn compacts_any(&self) -> bool {
        self.partitions.values().any(|partition| partition.records.left().is_some())
    }

    /// The node starts again. What compaction had removed last may be there again.
    pub fn starts(&mut self) {
        self.started_ms = self.now_ms;
        self.offsets.starts();
        for name in std::mem::take(&mut self.deletions_lost) {
            self.group(&name).deletion_over(true);
        }
        for partition in self.partitions.values_mut() {
            partition.records.starts();
        }
    }

    /// How many records compaction has removed, as far as readers saw since the last start, and in
    /// how many partitions.
    #[must_use]
    pub fn removed(&self) -> (u64, u64) {
        let left = self.partitions.values().filter_map(|partition| partition.records.left());
        let gone = left.map(|left| left.gone.len() as u64).filter(|gone| 0 < *gone);
        gone.fold((0, 0), |(records, logs), gone| (records + gone, logs + 1))
    }

    /// A writer is about to send a value.
    pub fn sending(&mut self, place: Place, value: Value, idempotent: bool) {
        let now_ms = self.now_ms;
        let partition = self.partition(place);
        partition.records.sending(value, now_ms);
        if idempotent {
            partition.order.follow(value.writer);
        }
    }

    /// A writer is about to send a value as part of a transaction.
    pub fn sending_in(&mut self, place: Place, value: Value, transaction: usize) {
        self.transactions.belongs(value, transaction);
        let now_ms = self.now_ms;
        let partition = self.partition(place);
        partition.records.sending(value, now_ms);
        partition.order.follow_with_holes(value.writer);
    }

    /// A producer without an id was given this one.
    pub fn told_producer_id(&mut self, id: i64) -> Verdict {
        check(self.producer_ids.insert(id), "a producer id is given once", || id.to_string())
    }

    /// Values were acknowledged, the first of them with `base_offset`.
    pub fn acked(&mut self, place: Place, base_offset: i64, values: &[Value]) -> Verdict {
        self.acked_records += values.len() as u64;
        let partition = self.partition(place);
        for (offset, value) in (base_offset..).zip(values) {
            partition.records.told(offset, Some(*value))?;
            partition.order.add(offset, *value)?;
            partition.acked.add(offset, *value);
        }
        partition.bounds.acked(base_offset + values.len() as i64);
        Ok(())
    }

    /// A reader that asked for `from`, at `asked_ms`, was given these records, in batches that end
    /// before `next`.
    pub fn read(
        &mut self,
        place: Place,
        from: i64,
        next: i64,
        asked_ms: i64,
        seen: &[Seen],
    ) -> Verdict {
        self.read_records += seen.len() as u64;
        let partition = self.partitions.entry(place).or_default();
        // What a process that is gone still said tells nothing of the one there is now.
        let is_current = self.started_ms <= asked_ms;
        let times = Times { asked_ms, heard_ms: if is_current { self.now_ms } else { i64::MAX } };
        partition.records.read(from, next, times, seen)?;
        for record in seen {
            let Some(value) = record.value else { continue };
            partition.order.add(record.offset, value)?;
            self.transactions.found(value)?;
            if let Some(shown) = record.shown {
                self.transactions.shown(value, shown)?;
            }
        }
        Ok(())
    }

    /// A member of a share group was shown these records, of which some are for it.
    pub fn shared(&mut self, place: Place, seen: &[Seen], mine: &[Seen]) -> Verdict {
        let partition = self.partitions.entry(place).or_default();
        partition.records.shown(seen)?;
        for record in mine {
            let Some(value) = record.value else {
                return check(false, "markers are given to nobody", || format!("{record:?}"));
            };
            partition.bounds.acked(record.offset + 1);
            partition.order.add(record.offset, value)?;
            self.transactions.found(value)?;
            if self.sharing.reads_committed() {
                self.transactions.shown(value, Outcome::Commit)?;
            }
        }
        Ok(())
    }

    /// At the end, the log of a living partition was read from `start` to `end`.
    pub fn final_state(&mut self, place: Place, start: i64, end: i64) -> Verdict {
        let transactions = &self.transactions;
        let partition = self.partitions.entry(place).or_default();
        partition.bounds.final_state(start, end)?;
        // Share groups read what keeps its name, and nobody waits until they have read what goes.
        let topic = self.topics.get(place.topic);
        if topic.is_some_and(|topic| !topic.delete_asked && !topic.name.starts_with(REBORN)) {
            let counts = |value| transactions.counts(value);
            self.sharing.final_state(place, start, end, &partition.records, counts)?;
        }
        if partition.records.left().is_some() {
            let counts = |value| transactions.counts(value);
            return compacted::final_state(start, end, &partition.records, counts);
        }
        partition.acked.final_state(start, end, &partition.records)?;
        partition.order.final_state(start, end)
    }
}
