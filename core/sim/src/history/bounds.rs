//! Whether the ends of a partition only ever move on, and whether its log accounts for every offset.

use std::collections::{BTreeMap, BTreeSet};

use super::logs::{Log, Logs};
use super::operation::{Action, Batch, BatchKind, Key, Offset, Operation, Outcome, Stored};
use super::{Anomaly, Findings};

pub(crate) fn find(operations: &[Operation], logs: &Logs, findings: &mut Findings) {
    regressions(operations, findings);
    for operation in operations {
        if let Action::Log(stored) = &operation.action {
            audit(stored, logs.of_key(stored.key), findings);
        }
    }
}

/// How far a key's ends have been seen to be.
#[derive(Clone, Copy, Default)]
struct Floor {
    high_watermark: Offset,
    last_stable: Offset,
}

/// What was acknowledged lies below the high watermark, what was polled below the last stable
/// offset, for whoever asks afterwards; and neither goes back.
fn regressions(operations: &[Operation], findings: &mut Findings) {
    let mut ended: Vec<&Operation> = operations.iter().filter(|op| op.end.is_some()).collect();
    ended.sort_by_key(|operation| operation.end);
    let mut ended = ended.into_iter().peekable();
    let mut floors: BTreeMap<Key, Floor> = BTreeMap::new();
    for operation in operations {
        let Action::Ends(ends) = &operation.action else { continue };
        if operation.outcome != Outcome::Ok {
            continue;
        }
        while let Some(before) = ended.next_if(|before| before.end < Some(operation.begin)) {
            raise(&mut floors, before);
        }
        for (key, high_watermark, last_stable) in ends {
            let floor = floors.get(key).copied().unwrap_or_default();
            let pairs = [
                ("high watermark", floor.high_watermark, *high_watermark),
                ("last stable offset", floor.last_stable, *last_stable),
                // A transaction holds back the one, never the other.
                ("high watermark below the last stable offset", *last_stable, *high_watermark),
            ];
            for (name, at_least, found) in pairs.into_iter().filter(|(_, a, b)| b < a) {
                findings.add(Anomaly::EndRegression, || {
                    let begin = operation.begin;
                    format!("key {key} at {begin}: {name} {found}, known to be {at_least}")
                });
            }
        }
    }
}

fn raise(floors: &mut BTreeMap<Key, Floor>, operation: &Operation) {
    let mut raise = |key: Key, high_watermark: Offset, last_stable: Offset| {
        let floor = floors.entry(key).or_default();
        floor.high_watermark = floor.high_watermark.max(high_watermark);
        floor.last_stable = floor.last_stable.max(last_stable);
    };
    if operation.outcome == Outcome::Ok {
        for (key, _, offset) in operation.sends() {
            raise(key, offset.map_or(0, |offset| offset + 1), 0);
        }
        if let Action::Ends(ends) = &operation.action {
            ends.iter().for_each(|(key, high, stable)| raise(*key, *high, *stable));
        }
    }
    for (key, offset, _) in operation.polls() {
        raise(key, offset + 1, offset + 1);
    }
}

/// Every offset lies in a batch; each committed record was polled, each other offset was not.
fn audit(stored: &Stored, log: &Log, findings: &mut Findings) {
    let key = stored.key;
    let mut gap = |told: String| findings.add(Anomaly::OffsetGap, || format!("key {key}: {told}"));
    let mut expected = stored.start;
    for batch in &stored.batches {
        if batch.base != expected || batch.last < batch.base {
            gap(format!("{expected} is followed by a batch from {} to {}", batch.base, batch.last));
        }
        expected = batch.last + 1;
        let holes = holes(batch);
        if !holes.is_empty() {
            gap(format!("the batch at {} lacks {holes:?}", batch.base));
        }
    }
    if expected != stored.end {
        gap(format!("the last batch ends at {expected}, the log at {}", stored.end));
    }
    let committed = committed(stored, &mut gap);
    for (offset, value) in &committed {
        let polled = log.offsets.get(offset).is_some_and(|values| values.contains(value));
        if !polled {
            gap(format!("nobody polled {value} at {offset}, and it is committed"));
        }
    }
    let is_known: BTreeSet<Offset> = committed.iter().map(|(offset, _)| *offset).collect();
    for offset in log.order.iter().filter(|offset| stored.start <= **offset) {
        if !is_known.contains(offset) {
            gap(format!("{offset} was told, but no committed record lies there"));
        }
    }
}

/// The offsets of a batch that none of its records has; a marker has none.
fn holes(batch: &Batch) -> Vec<Offset> {
    if matches!(batch.kind, BatchKind::Commit | BatchKind::Abort) {
        return Vec::new();
    }
    let there: BTreeSet<Offset> = batch.records.iter().map(|(offset, _)| *offset).collect();
    let all = batch.base..=batch.last;
    all.filter(|offset| !there.contains(offset)).take(super::EVIDENCE_MAX).collect()
}

/// The records that count, by offset.
fn committed(stored: &Stored, gap: &mut impl FnMut(String)) -> Vec<(Offset, u64)> {
    let mut open: BTreeMap<i64, Vec<(Offset, u64)>> = BTreeMap::new();
    let mut committed = Vec::new();
    for batch in &stored.batches {
        match batch.kind {
            BatchKind::Plain => committed.extend(&batch.records),
            BatchKind::Transactional => {
                open.entry(batch.producer).or_default().extend(&batch.records);
            }
            BatchKind::Commit => committed.extend(open.remove(&batch.producer).unwrap_or_default()),
            BatchKind::Abort => drop(open.remove(&batch.producer)),
        }
    }
    for (producer, records) in open {
        let first = records.first().map(|(offset, _)| *offset);
        gap(format!("the transaction of producer {producer} from {first:?} never ends"));
    }
    committed
}
