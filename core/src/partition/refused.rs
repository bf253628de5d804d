//! Numbered batches that were refused for the time being, so that none behind them overtakes.
//!
//! An idempotent producer has several batches under way. If the first one is refused because there
//! is no room, and room returns before the next arrives, that next one must not be appended: for a
//! producer the log does not know yet, any first sequence would do, and the order would be lost.
//! So the lowest refused sequence of each producer is remembered until it comes again.

use std::collections::BTreeMap;

use tidemill_record::{Producer, Sequence};

/// The most producers of one partition that are remembered. Beyond them the lowest id is let go.
const PRODUCERS_MAX: usize = 1024;

/// The batches of one partition that were refused for now.
#[derive(Debug, Default)]
pub(super) struct RefusedBatches {
    /// The lowest sequence refused, by the producer's id and epoch. Each epoch counts for itself: what
    /// is left of an older one may still come.
    lowest: BTreeMap<(i64, i16), Sequence>,
}

impl RefusedBatches {
    /// A batch was refused; its producer will send it again.
    pub(super) fn remember(&mut self, producer: Producer, base_sequence: Sequence) {
        let lowest = self.lowest.entry(key(producer)).or_insert(base_sequence);
        if is_before(base_sequence, *lowest) {
            *lowest = base_sequence;
        }
        if PRODUCERS_MAX < self.lowest.len() {
            self.lowest.pop_first();
        }
    }

    /// Whether a batch would overtake one that was refused. If not, what was waited for has come.
    pub(super) fn would_overtake(&mut self, producer: Producer, base_sequence: Sequence) -> bool {
        let key = key(producer);
        let Some(lowest) = self.lowest.get(&key) else { return false };
        if is_before(*lowest, base_sequence) {
            return true;
        }
        self.lowest.remove(&key);
        false
    }
}

fn key(producer: Producer) -> (i64, i16) {
    (producer.id.0, producer.epoch.0)
}

/// Whether `one` comes before `other`; sequences begin again at 0 after the highest.
fn is_before(one: Sequence, other: Sequence) -> bool {
    let distance = (i64::from(other.0) - i64::from(one.0)).rem_euclid(1 << 31);
    0 < distance && distance < 1 << 30
}

#[cfg(test)]
mod tests {
    use super::*;
    use tidemill_record::{ProducerEpoch, ProducerId};

    fn producer(epoch: i16) -> Producer {
        Producer { id: ProducerId(7), epoch: ProducerEpoch(epoch) }
    }

    /// Of a row of batches the first one is waited for, and then the rest may come.
    #[test]
    fn nothing_overtakes_the_first_refused_batch() {
        let mut refused = RefusedBatches::default();
        refused.remember(producer(0), Sequence(0));
        refused.remember(producer(0), Sequence(3));
        assert!(refused.would_overtake(producer(0), Sequence(5)));
        assert!(refused.would_overtake(producer(0), Sequence(3)));
        assert!(!refused.would_overtake(producer(0), Sequence(0)));
        assert!(!refused.would_overtake(producer(0), Sequence(3)));
    }

    /// The bug: what an older epoch had still under way was refused, and what the newer one had been
    /// refused was forgotten: its next batch went first, and its first one could never come.
    #[test]
    fn a_late_batch_of_an_older_epoch_let_one_of_the_newer_overtake() {
        let mut refused = RefusedBatches::default();
        refused.remember(producer(4), Sequence(0));
        refused.remember(producer(3), Sequence(0));
        assert!(refused.would_overtake(producer(4), Sequence(3)));
        assert!(refused.would_overtake(producer(3), Sequence(7)));
        assert!(!refused.would_overtake(producer(4), Sequence(0)));
    }

    /// A producer that begins anew under another epoch waits for nothing.
    #[test]
    fn a_new_epoch_waits_for_nothing() {
        let mut refused = RefusedBatches::default();
        refused.remember(producer(0), Sequence(3));
        assert!(!refused.would_overtake(producer(1), Sequence(9)));
    }

    /// Sequences wrap: the first one after the highest comes behind it.
    #[test]
    fn sequences_wrap() {
        assert!(is_before(Sequence(i32::MAX), Sequence(0)));
        assert!(!is_before(Sequence(0), Sequence(i32::MAX)));
        assert!(!is_before(Sequence(4), Sequence(4)));
    }
}
