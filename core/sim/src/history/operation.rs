//! One line of a history: what one process asked for, when, and how it ended.
//!
//! A process does one thing after the other. One whose operation ended in `info` does nothing more:
//! its clients are closed, and another process with another number takes its place.

use std::collections::BTreeSet;

use serde::Deserialize;

/// A partition of a topic, by a number of the recorder's choice.
pub type Key = u32;
/// What a record holds; each value is sent to a key once.
pub type Value = u64;
/// Where a record lies in its partition.
pub type Offset = u64;

/// How an operation ended.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// It happened.
    Ok,
    /// It certainly did not happen, nor will it.
    Fail,
    /// Nobody knows.
    Info,
}

/// One operation of one process.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Operation {
    /// Who.
    pub process: u32,
    /// How it ended.
    #[serde(rename = "type")]
    pub outcome: Outcome,
    /// Before it was asked for.
    pub begin: u64,
    /// After its end was told; none if it never was.
    #[serde(default)]
    pub end: Option<u64>,
    /// What was asked for.
    #[serde(rename = "f")]
    pub action: Action,
}

/// What was asked for, and what came of it.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// Sends and polls: one of them, or all that a transaction does.
    Txn(Txn),
    /// From now on these partitions are read, each from where this process was or from its start.
    Assign(BTreeSet<Key>),
    /// From now on these partitions are shared with the group.
    Subscribe(BTreeSet<Key>),
    /// The high watermark and the last stable offset of some keys, as `ListOffsets` tells them.
    Ends(Vec<(Key, Offset, Offset)>),
    /// All that a partition holds, read uncommitted.
    Log(Stored),
}

/// The steps of a transaction, or of a send or a poll outside of one.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Txn {
    /// In the order in which they were taken.
    pub steps: Vec<Step>,
    /// The keys that this process was given or lost meanwhile by a change of its group.
    #[serde(default)]
    pub rebalanced: BTreeSet<Key>,
}

/// A step of an operation.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Step {
    /// A value sent to a key, and the offset it got, if that was told.
    Send(Key, Value, Option<Offset>),
    /// The records that a poll returned, in the order in which it did.
    Poll(Vec<(Key, Offset, Value)>),
}

/// What a partition holds.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stored {
    /// Of which key.
    pub key: Key,
    /// Its first offset.
    pub start: Offset,
    /// Its high watermark.
    pub end: Offset,
    /// In the order of their offsets.
    pub batches: Vec<Batch>,
}

/// A record batch of a partition.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Batch {
    /// The first offset.
    pub base: Offset,
    /// The last offset.
    pub last: Offset,
    /// Who wrote it; below zero, no idempotent producer did.
    pub producer: i64,
    /// What it holds.
    pub kind: BatchKind,
    /// The records, if it holds data.
    #[serde(default)]
    pub records: Vec<(Offset, Value)>,
}

/// What a batch holds.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "lowercase")]
pub enum BatchKind {
    /// Records that count at once.
    Plain,
    /// Records that count if their transaction commits.
    Transactional,
    /// The end of a transaction whose records count.
    Commit,
    /// The end of a transaction whose records do not.
    Abort,
}

/// Reads a history. An error names the line.
pub fn parse(text: &str) -> Result<Vec<Operation>, String> {
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    lines
        .map(|(number, line)| {
            let operation: Operation = serde_json::from_str(line)
                .map_err(|error| format!("line {}: {error}", number + 1))?;
            let ordered = operation.end.is_none_or(|end| operation.begin <= end);
            let ended = operation.end.is_some() || operation.outcome == Outcome::Info;
            match ordered && ended {
                true => Ok(operation),
                false => Err(format!("line {}: it ends before it begins, or never", number + 1)),
            }
        })
        .collect()
}

impl Operation {
    /// The steps, if it has any.
    #[must_use]
    pub fn txn(&self) -> Option<&Txn> {
        match &self.action {
            Action::Txn(txn) => Some(txn),
            _ => None,
        }
    }

    /// What it sent: key, value and the offset, if told.
    pub fn sends(&self) -> impl Iterator<Item = (Key, Value, Option<Offset>)> {
        let steps = self.txn().map_or(&[][..], |txn| &txn.steps);
        steps.iter().filter_map(|step| match step {
            Step::Send(key, value, offset) => Some((*key, *value, *offset)),
            Step::Poll(_) => None,
        })
    }

    /// What it polled: key, offset and value.
    pub fn polls(&self) -> impl Iterator<Item = (Key, Offset, Value)> {
        let steps = self.txn().map_or(&[][..], |txn| &txn.steps);
        let polls = steps.iter().filter_map(|step| match step {
            Step::Send(..) => None,
            Step::Poll(records) => Some(records),
        });
        polls.flatten().copied()
    }
}
