//! Whether what was sent is what was read: once, whole, and only if it was committed.

use std::collections::BTreeSet;

use super::logs::{Index, Log, Logs};
use super::operation::{Key, Operation, Outcome, Value};
use super::{Anomaly, Findings};

pub(crate) fn find(operations: &[Operation], logs: &Logs, findings: &mut Findings) {
    for (key, log) in &logs.keys {
        places(*key, log, findings);
        lost_writes(operations, logs, *key, log, findings);
        unseen(operations, *key, log, findings);
    }
    for operation in operations {
        reads(operations, logs, operation, findings);
        torn(logs, operation, findings);
    }
}

/// An offset holds one value, and a value lies at one offset.
fn places(key: Key, log: &Log, findings: &mut Findings) {
    for (offset, values) in log.offsets.iter().filter(|(_, values)| 1 < values.len()) {
        findings.add(Anomaly::InconsistentOffsets, || {
            format!("key {key}: offset {offset} holds {values:?}")
        });
    }
    let mut seen = BTreeSet::new();
    for (offset, values) in &log.offsets {
        for value in values.iter().filter(|value| !seen.insert(**value)) {
            let first = log.order[log.places[value].0];
            findings.add(Anomaly::Duplicate, || {
                format!("key {key}: value {value} lies at {first} and at {offset}")
            });
        }
    }
}

/// Only committed values of others are read.
fn reads(operations: &[Operation], logs: &Logs, operation: &Operation, findings: &mut Findings) {
    let own: BTreeSet<(Key, Value)> =
        operation.sends().map(|(key, value, _)| (key, value)).collect();
    for (key, offset, value) in operation.polls() {
        let told =
            || format!("process {} polled {value} at {offset} of key {key}", operation.process);
        if own.contains(&(key, value)) {
            findings.add(Anomaly::PrecommittedRead, told);
        }
        match logs.of_key(key).writer_of.get(&value) {
            None => findings.add(Anomaly::Phantom, || format!("{}: nobody sent it", told())),
            Some(writer) => {
                let writer = &operations[*writer];
                if writer.outcome == Outcome::Fail && operation.outcome == Outcome::Ok {
                    findings.add(Anomaly::AbortedRead, || {
                        let (process, begin) = (writer.process, writer.begin);
                        format!("{}: process {process} failed to write it at {begin}", told())
                    });
                }
            }
        }
    }
}

/// Who reads a value has passed all that lies before it: what nobody read of that is lost.
///
/// Careful with logs that contradict themselves: a value counts as read from its first place on,
/// and has to be read only if its last place was passed.
fn lost_writes(
    operations: &[Operation],
    logs: &Logs,
    key: Key,
    log: &Log,
    findings: &mut Findings,
) {
    let is_read = |value: &Value| {
        let readers = log.readers_of.get(value).map_or(&[][..], Vec::as_slice);
        readers.iter().any(|reader| operations[*reader].outcome == Outcome::Ok)
    };
    let passed = log.places.iter().filter(|(value, _)| is_read(value)).map(|(_, places)| places.0);
    let Some(bound) = passed.max() else { return };
    for (value, (_, last)) in log.places.iter().filter(|(value, _)| !is_read(value)) {
        let writer: Option<&Index> = log.writer_of.get(value);
        if *last <= bound && writer.is_some_and(|writer| logs.committed[*writer]) {
            let offset = log.order[*last];
            findings.add(Anomaly::LostWrite, || {
                format!("key {key}: {value} at {offset} was passed by all who read on")
            });
        }
    }
}

/// What was acknowledged has been polled by the end.
fn unseen(operations: &[Operation], key: Key, log: &Log, findings: &mut Findings) {
    for (value, writer) in &log.writer_of {
        let writer = &operations[*writer];
        if writer.outcome == Outcome::Ok && !log.readers_of.contains_key(value) {
            findings.add(Anomaly::Unseen, || {
                let (process, begin) = (writer.process, writer.begin);
                format!("key {key}: {value}, sent by process {process} at {begin}")
            });
        }
    }
}

/// In the end the writes of a transaction are all to be seen, or none; none if it failed.
fn torn(logs: &Logs, operation: &Operation, findings: &mut Findings) {
    let is_seen = |key: Key, value: Value| logs.of_key(key).readers_of.contains_key(&value);
    let (seen, missing): (Vec<_>, Vec<_>) = operation
        .sends()
        .map(|(key, value, _)| (key, value))
        .partition(|(key, value)| is_seen(*key, *value));
    if seen.len() + missing.len() < 2 {
        return;
    }
    let whole = match operation.outcome {
        Outcome::Ok => missing.is_empty(),
        Outcome::Fail => seen.is_empty(),
        Outcome::Info => seen.is_empty() || missing.is_empty(),
    };
    if !whole {
        let Operation { process, begin, outcome, .. } = operation;
        findings.add(Anomaly::TornTransaction, || {
            format!("process {process} at {begin}, {outcome:?}: {seen:?} seen, {missing:?} not")
        });
    }
}
