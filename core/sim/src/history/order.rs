//! Whether each process reads and writes a key in the order of its offsets, without gaps.
//!
//! Distances are those of the version order: the offsets of which anything is known, counted
//! densely, so that markers and aborted records are no gaps.

use std::collections::BTreeMap;

use super::logs::Logs;
use super::operation::{Action, Key, Operation, Outcome};
use super::{Anomaly, Findings};

/// The places that one operation touched of each key, in its order.
type Places = BTreeMap<Key, Vec<usize>>;

pub(crate) fn find(operations: &[Operation], logs: &Logs, findings: &mut Findings) {
    let mut polled: BTreeMap<u32, BTreeMap<Key, usize>> = BTreeMap::new();
    let mut sent: BTreeMap<u32, BTreeMap<Key, usize>> = BTreeMap::new();
    for operation in operations {
        let process = operation.process;
        if let Action::Assign(keys) | Action::Subscribe(keys) = &operation.action {
            polled.entry(process).or_default().retain(|key, _| keys.contains(key));
        }
        polls(operation, logs, polled.entry(process).or_default(), findings);
        if operation.outcome != Outcome::Fail {
            sends(operation, logs, sent.entry(process).or_default(), findings);
        }
    }
}

fn polls(
    operation: &Operation,
    logs: &Logs,
    last: &mut BTreeMap<Key, usize>,
    findings: &mut Findings,
) {
    let mut places = Places::new();
    for (key, offset, _) in operation.polls() {
        let place = logs.of_key(key).place_of(offset).expect("whatever is polled is in the log");
        places.entry(key).or_default().push(place);
    }
    for (key, places) in places {
        let tell = |from, to| told(operation, logs, key, "polled", from, to);
        if let Some(before) = last.get(&key) {
            let keys = (Anomaly::PollSkip, Anomaly::NonmonotonicPoll);
            step(*before, places[0], keys, &tell, findings);
        }
        let rebalanced = operation.txn().is_some_and(|txn| txn.rebalanced.contains(&key));
        for pair in places.windows(2).filter(|_| !rebalanced) {
            let keys = (Anomaly::IntPollSkip, Anomaly::IntNonmonotonicPoll);
            step(pair[0], pair[1], keys, &tell, findings);
        }
        // What did not happen is read again.
        if operation.outcome == Outcome::Ok {
            last.insert(key, *places.last().expect("a key is there because of a place"));
        }
    }
}

fn sends(
    operation: &Operation,
    logs: &Logs,
    last: &mut BTreeMap<Key, usize>,
    findings: &mut Findings,
) {
    let mut places = Places::new();
    for (key, value, _) in operation.sends() {
        if let Some((first, _)) = logs.of_key(key).places.get(&value) {
            places.entry(key).or_default().push(*first);
        }
    }
    for (key, places) in places {
        let tell = |from, to| told(operation, logs, key, "sent", from, to);
        if let Some(before) = last.get(&key).filter(|before| places[0] <= **before) {
            findings.add(Anomaly::NonmonotonicSend, || tell(*before, places[0]));
        }
        for pair in places.windows(2) {
            let keys = (Anomaly::IntSendSkip, Anomaly::IntNonmonotonicSend);
            step(pair[0], pair[1], keys, &tell, findings);
        }
        last.insert(key, *places.last().expect("a key is there because of a place"));
    }
}

/// Files a step of more than one under the first key, one of less than one under the second.
fn step(
    from: usize,
    to: usize,
    (skip, back): (Anomaly, Anomaly),
    tell: &impl Fn(usize, usize) -> String,
    findings: &mut Findings,
) {
    if from + 1 < to {
        findings.add(skip, || tell(from, to));
    } else if to <= from {
        findings.add(back, || tell(from, to));
    }
}

fn told(op: &Operation, logs: &Logs, key: Key, did: &str, from: usize, to: usize) -> String {
    let order = &logs.of_key(key).order;
    let (from, to) = (order[from], order[to]);
    format!("process {} at {}: {did} {to} of key {key} after {from}", op.process, op.begin)
}
