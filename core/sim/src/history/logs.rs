//! What all operations together tell of each key: which value lies at which offset, who wrote it
//! and who read it.

use std::collections::{BTreeMap, BTreeSet};

use super::operation::{Action, Key, Offset, Operation, Outcome, Value};

/// The number of an operation, in the order in which they began.
pub(crate) type Index = usize;

/// What is known of every key.
pub(crate) struct Logs {
    pub(crate) keys: BTreeMap<Key, Log>,
    /// Whether each operation happened for certain: it was told, or its writes were read.
    pub(crate) committed: Vec<bool>,
}

/// What is known of one key.
#[derive(Default)]
pub(crate) struct Log {
    pub(crate) writer_of: BTreeMap<Value, Index>,
    /// Who polled a value; of every outcome.
    pub(crate) readers_of: BTreeMap<Value, Vec<Index>>,
    /// The values seen at each offset: more than one is an anomaly.
    pub(crate) offsets: BTreeMap<Offset, BTreeSet<Value>>,
    /// The offsets in their order: a place in this list is an index of the version order.
    pub(crate) order: Vec<Offset>,
    /// The first and the last place of a value in that order.
    pub(crate) places: BTreeMap<Value, (usize, usize)>,
}

impl Logs {
    pub(crate) fn of(operations: &[Operation]) -> Self {
        let mut keys: BTreeMap<Key, Log> = BTreeMap::new();
        for (index, operation) in operations.iter().enumerate() {
            for (key, value, _) in operation.sends() {
                keys.entry(key).or_default().writer_of.insert(value, index);
            }
            // Whatever became of the operation: a poll only ever returns what is safe.
            for (key, offset, value) in operation.polls() {
                let log = keys.entry(key).or_default();
                log.offsets.entry(offset).or_default().insert(value);
                log.readers_of.entry(value).or_default().push(index);
            }
            if let Action::Log(stored) = &operation.action {
                keys.entry(stored.key).or_default();
            }
        }
        let is_read = |key, value| {
            let readers = keys.get(&key).and_then(|log: &Log| log.readers_of.get(&value));
            readers.is_some_and(|readers| {
                readers.iter().any(|reader| operations[*reader].outcome == Outcome::Ok)
            })
        };
        let committed: Vec<bool> = operations
            .iter()
            .map(|operation| match operation.outcome {
                Outcome::Ok => true,
                Outcome::Fail => false,
                Outcome::Info => operation.sends().any(|(key, value, _)| is_read(key, value)),
            })
            .collect();
        for (operation, committed) in operations.iter().zip(&committed) {
            for (key, value, offset) in operation.sends() {
                if let (true, Some(offset)) = (committed, offset) {
                    let log = keys.get_mut(&key).expect("its writer is known");
                    log.offsets.entry(offset).or_default().insert(value);
                }
            }
        }
        keys.values_mut().for_each(Log::set_in_order);
        Self { keys, committed }
    }

    /// What is known of `key`, which some operation names.
    pub(crate) fn of_key(&self, key: Key) -> &Log {
        &self.keys[&key]
    }
}

impl Log {
    fn set_in_order(&mut self) {
        self.order = self.offsets.keys().copied().collect();
        for (place, values) in self.offsets.values().enumerate() {
            for value in values {
                self.places.entry(*value).or_insert((place, place)).1 = place;
            }
        }
    }

    /// The place of an offset in the version order, if anything is known to lie there.
    pub(crate) fn place_of(&self, offset: Offset) -> Option<usize> {
        self.order.binary_search(&offset).ok()
    }

    /// The value at a place; if there are several, one of them.
    pub(crate) fn value_at(&self, place: usize) -> Value {
        *self.offsets[&self.order[place]].first().expect("only offsets with values are kept")
    }
}
