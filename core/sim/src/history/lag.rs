//! How far consumers were behind, and what they were given more than once: for information.

use std::collections::BTreeMap;
use std::fmt;

use super::logs::Logs;
use super::operation::{Action, Key, Operation, Outcome, Value};

/// What is told of a history beside its anomalies.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Lag {
    /// The longest time, in microseconds, that a value had been known to be there when a poll began
    /// that did not come as far.
    pub worst_realtime_lag: u64,
    /// How many values a process of a group consumed more than once.
    pub consumed_again: u64,
}

impl fmt::Display for Lag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = self.worst_realtime_lag / 1000;
        write!(f, "worst-realtime-lag: {millis} ms\nconsume-counts: {} again", self.consumed_again)
    }
}

pub(crate) fn measure(operations: &[Operation], logs: &Logs) -> Lag {
    let known = known_since(operations, logs);
    let mut lag = Lag::default();
    // Where each process is, and what it consumed as a member of a group.
    let mut places: BTreeMap<u32, BTreeMap<Key, usize>> = BTreeMap::new();
    let mut consumed: BTreeMap<u32, BTreeMap<(Key, Value), u64>> = BTreeMap::new();
    for operation in operations.iter().filter(|operation| operation.outcome == Outcome::Ok) {
        let process = operation.process;
        match &operation.action {
            Action::Subscribe(_) => {
                places.remove(&process);
                consumed.entry(process).or_default();
            }
            Action::Assign(keys) => {
                places.entry(process).or_default().retain(|key, _| keys.contains(key));
                consumed.remove(&process);
            }
            _ => {}
        }
        let place = places.entry(process).or_default();
        for (key, offset, value) in operation.polls() {
            let at = logs.of_key(key).place_of(offset).expect("whatever is polled is in the log");
            place.insert(key, at);
            if let Some(counts) = consumed.get_mut(&process) {
                let count = counts.entry((key, value)).or_default();
                *count += 1;
                lag.consumed_again += u64::from(*count == 2);
            }
        }
        if operation.polls().next().is_some() {
            let behind = place
                .iter()
                .filter_map(|(key, at)| operation.begin.checked_sub(*known.get(key)?.get(at + 1)?));
            lag.worst_realtime_lag = lag.worst_realtime_lag.max(behind.max().unwrap_or(0));
        }
    }
    lag
}

/// For each key and place: since when it is known that something lies there or behind it.
fn known_since(operations: &[Operation], logs: &Logs) -> BTreeMap<Key, Vec<u64>> {
    let mut known: BTreeMap<Key, Vec<u64>> =
        logs.keys.iter().map(|(key, log)| (*key, vec![u64::MAX; log.order.len()])).collect();
    for operation in operations.iter().filter(|operation| operation.outcome == Outcome::Ok) {
        let Some(end) = operation.end else { continue };
        let sent = operation.sends().map(|(key, value, _)| (key, value));
        let polled = operation.polls().map(|(key, _, value)| (key, value));
        for (key, value) in sent.chain(polled) {
            let Some((first, _)) = logs.of_key(key).places.get(&value) else { continue };
            let known = known.get_mut(&key).expect("each key of a log has its times");
            known[*first] = known[*first].min(end);
        }
    }
    for times in known.values_mut() {
        for place in (1..times.len()).rev() {
            times[place - 1] = times[place - 1].min(times[place]);
        }
    }
    known
}
