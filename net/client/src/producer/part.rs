//! One partition's row of batches: open at the end, sent from the front, in order across retries.
//!
//! ```text
//! front                                                  end
//! | in flight | in flight | waiting | waiting | open: takes records |
//! ```
//!
//! A batch that failed waits in its place and goes out again only as the first of the row: then
//! nothing that was sent after it can come before it. At most as many are in flight as brokers
//! remember, so that repeats are told from new ones; and only one until the first of a numbering
//! is acknowledged: a broker that knows nothing of a producer takes whatever number comes first, so
//! if the first batch failed for a moment, the second would be stored before it.

use std::collections::VecDeque;
use std::sync::Arc;

use tidemill_record::{BatchBuilder, Codec, Producer, ProducerEpoch, Sequence};

use super::batch::{Batch, State};
use crate::limits::BATCHES_IN_FLIGHT_MAX;
use crate::time::Instant;

/// The batch that still takes records.
#[derive(Debug)]
pub(super) struct Open {
    pub(super) builder: BatchBuilder,
    pub(super) tags: Vec<u64>,
    pub(super) held_bytes: usize,
    pub(super) created: Instant,
}

/// What a partition can send.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Next {
    /// The batch at this place of the row.
    Batch(usize),
    /// Something, but not before this.
    Rest(Instant),
    /// Nothing before something else happens.
    Nothing,
}

/// See the head of this file.
#[derive(Debug)]
pub(super) struct Part {
    pub(super) topic: Arc<str>,
    pub(super) partition: i32,
    pub(super) batches: VecDeque<Batch>,
    pub(super) open: Option<Open>,
    /// Whether the open batch has waited long enough.
    pub(super) open_is_due: bool,
    /// Counts the open batches, so that what was said of an earlier one is not taken for this one.
    pub(super) opened: u64,
    /// Whom the numbers of the row belong to.
    pub(super) identity: Option<Producer>,
    next_sequence: Sequence,
    /// Whose numbers the broker has acknowledged here.
    pub(super) acknowledged: Option<Producer>,
    /// A batch was given up whose fate is unknown, or the broker has lost count: what follows can
    /// only be numbered anew.
    pub(super) needs_new_epoch: bool,
    /// Whether it stands in a queue of those that have something to send.
    pub(super) queued: bool,
    /// Whether it stands among those whose open batch waits for more records.
    pub(super) listed_lingering: bool,
    /// Whether it stands among those whose records may have to be given up.
    pub(super) listed_expiring: bool,
    next_number: u64,
}

impl Part {
    pub(super) fn new(topic: Arc<str>, partition: i32) -> Part {
        Part {
            topic,
            partition,
            batches: VecDeque::new(),
            open: None,
            open_is_due: false,
            opened: 0,
            identity: None,
            next_sequence: Sequence::ZERO,
            acknowledged: None,
            needs_new_epoch: false,
            queued: false,
            listed_lingering: false,
            listed_expiring: false,
            next_number: 0,
        }
    }

    /// The open batch, begun if there is none; tells whether it was.
    pub(super) fn open(&mut self, codec: Codec, now: Instant) -> (&mut Open, bool) {
        let begun = self.open.is_none();
        if begun {
            self.opened += 1;
            self.open_is_due = false;
        }
        let open = self.open.get_or_insert_with(|| Open {
            builder: BatchBuilder::new(codec),
            tags: Vec::new(),
            held_bytes: 0,
            created: now,
        });
        (open, begun)
    }

    /// Puts the open batch into the row.
    pub(super) fn close(&mut self) {
        let Some(open) = self.open.take() else { return };
        let number = self.take_number();
        self.open_is_due = false;
        let Open { builder, tags, held_bytes, created } = open;
        self.batches.push_back(Batch::new(number, builder, tags, held_bytes, created));
    }

    pub(super) fn take_number(&mut self) -> u64 {
        self.next_number += 1;
        self.next_number
    }

    pub(super) fn in_flight(&self) -> usize {
        self.batches.iter().filter(|batch| batch.state == State::InFlight).count()
    }

    pub(super) fn position(&self, number: u64) -> Option<usize> {
        self.batches.iter().position(|batch| batch.number == number)
    }

    /// What can be sent now. Closes the open batch if it is its turn.
    pub(super) fn next(&mut self, identity: Option<Producer>, now: Instant) -> Next {
        let in_flight = self.in_flight();
        let begun = identity.is_none() || self.acknowledged == identity;
        let most = if begun { BATCHES_IN_FLIGHT_MAX } else { 1 };
        if most <= in_flight {
            return Next::Nothing;
        }
        let changes = identity.is_some() && self.identity != identity;
        if (self.needs_new_epoch || changes) && 0 < in_flight {
            return Next::Nothing;
        }
        if self.batches.len() == in_flight && self.open_is_due {
            self.close();
        }
        let waiting = self.batches.iter().position(|batch| batch.state != State::InFlight);
        let Some(at) = waiting else { return Next::Nothing };
        let batch = &self.batches[at];
        match batch.state {
            State::Waiting(until) if now < until => Next::Rest(until),
            _ if 0 < batch.failed_tries && at != 0 => Next::Nothing,
            _ => Next::Batch(at),
        }
    }

    /// Numbers the batch at `at`, and all that wait if the identity is new to this partition.
    pub(super) fn number(&mut self, at: usize, identity: Producer) {
        if self.identity != Some(identity) {
            assert!(self.in_flight() == 0, "numbers change only while nothing is under way");
            self.identity = Some(identity);
            self.next_sequence = Sequence::ZERO;
            self.needs_new_epoch = false;
            for batch in &mut self.batches {
                if batch.numbered.is_some() {
                    batch.number(identity, self.next_sequence);
                    self.next_sequence = self.next_sequence.plus(batch.records_count);
                }
            }
        }
        let batch = &mut self.batches[at];
        if batch.numbered.is_none() {
            batch.number(identity, self.next_sequence);
            self.next_sequence = self.next_sequence.plus(batch.records_count);
        }
    }
}

/// The same producer's next epoch; none if there are no more, and a new id is needed.
pub(super) fn next_epoch(producer: Producer) -> Option<Producer> {
    let epoch = producer.epoch.0.checked_add(1)?;
    Some(Producer { epoch: ProducerEpoch(epoch), ..producer })
}
