//! One partition's row of batches: sent from the front, in order across retries.
//!
//! ```text
//! front                                     end    in the intake
//! | in flight | in flight | waiting | waiting |  <- | open: takes records |
//! ```
//!
//! The open batch joins the row when it is full, or when it has waited long enough and nothing is
//! before it that still has to be sent: until then it gathers more.
//!
//! A batch that failed waits in its place and goes out again only as the first of the row: then
//! nothing that was sent after it can come before it. At most as many are in flight as brokers
//! remember, so that repeats are told from new ones; and only one until the first of a numbering
//! is acknowledged: a broker that knows nothing of a producer takes whatever number comes first, so
//! if the first batch failed for a moment, the second would be stored before it.

use std::collections::VecDeque;
use std::sync::Arc;

use tidemill_record::{Producer, ProducerEpoch, Sequence};

use super::batch::{Batch, State};
use super::intake::Gathered;
use crate::limits::BATCHES_IN_FLIGHT_MAX;
use crate::time::Instant;

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
    /// Whether the open batch has waited long enough.
    pub(super) open_is_due: bool,
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
            open_is_due: false,
            identity: None,
            next_sequence: Sequence::ZERO,
            acknowledged: None,
            needs_new_epoch: false,
            queued: false,
            listed_expiring: false,
            next_number: 0,
        }
    }

    /// Puts what was gathered at the end of the row.
    pub(super) fn push(&mut self, gathered: Gathered) {
        // Whatever is open now has been opened since.
        self.open_is_due = false;
        let number = self.take_number();
        self.batches.push_back(Batch::new(number, gathered));
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

    /// Whether another batch could be sent before one of those under way is answered.
    fn has_room(&self, identity: Option<Producer>) -> bool {
        let in_flight = self.in_flight();
        let begun = identity.is_none() || self.acknowledged == identity;
        let most = if begun { BATCHES_IN_FLIGHT_MAX } else { 1 };
        let changes = identity.is_some() && self.identity != identity;
        in_flight < most && (in_flight == 0 || !(self.needs_new_epoch || changes))
    }

    /// Whether there are records to be sent, or under way.
    pub(super) fn has_something(&self) -> bool {
        self.open_is_due || !self.batches.is_empty()
    }

    /// Whether it is the open batch's turn to be sent.
    pub(super) fn wants_open(&self, identity: Option<Producer>) -> bool {
        self.open_is_due && self.batches.len() == self.in_flight() && self.has_room(identity)
    }

    /// What can be sent now.
    pub(super) fn next(&self, identity: Option<Producer>, now: Instant) -> Next {
        if !self.has_room(identity) {
            return Next::Nothing;
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
