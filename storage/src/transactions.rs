//! Transactions of one log: which are open, which were aborted, and where what is stable ends.
//!
//! A producer's first transactional batch opens its transaction in this log; a marker, written by
//! whoever coordinates the transaction, ends it (KIP-98). Consumers that read only what is
//! committed stop at the *last stable offset*: where the oldest open transaction begins. Of what
//! lies below it they are told which transactions were aborted, to leave their records out.
//!
//! ```text
//!        | a1 | b1 | a2 | commit A | b2 | c1 | abort B | c2 |
//! first of A    first of B          first of C
//!                                        ^ last stable offset: C is open
//! ```
//!
//! A marker also fences: batches of an older epoch of its producer are refused from then on.
//!
//! Checks decide and change nothing; [`Transactions::note_batch`] and [`Transactions::note_marker`]
//! are told what entered the log, by appends and by recovery alike, so both build the same state.
//! A marker that a crash could still undo has not ended anything for readers.
//!
//! Start reading at [`Transactions`].

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;

use bytes::{Buf, BufMut};
use tidemill_record::{Marker, Offset, Outcome, Producer, ProducerEpoch, ProducerId};

/// The most transactions one log remembers, open and aborted together. An aborted one is
/// remembered until its records are deleted.
pub const TRANSACTIONS_MAX: usize = 65_536;

/// The most producers of transactions one log remembers.
pub const PRODUCERS_MAX: usize = 32_768;

/// Of a producer that no coordinator has spoken for.
pub const NO_COORDINATOR: i32 = -1;

/// A transaction whose records are to be left out.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Aborted {
    /// Whose.
    pub producer_id: ProducerId,
    /// Its first record in this log.
    pub first: Offset,
    /// Its marker.
    pub last: Offset,
    /// No transaction that ended after it began below this offset.
    pub stable: Offset,
}

/// What is known of a producer of transactions.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct TransactionState {
    /// Its epoch: what comes with an older one is refused.
    pub epoch: ProducerEpoch,
    /// The epoch of the coordinator that ended its last transaction; [`NO_COORDINATOR`] before.
    pub coordinator_epoch: i32,
    /// When something of it was last appended, by our clock.
    pub active_ms: i64,
    /// Where its open transaction begins.
    pub first: Option<Offset>,
}

/// Why a batch or a marker was refused. Nothing was written.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum TransactionError {
    /// The producer's epoch was raised since.
    FencedProducerEpoch {
        /// The epoch in force.
        current: ProducerEpoch,
    },
    /// A producer's first batch after a marker does not begin its numbering anew.
    NotFromZero,
    /// A batch outside of the transaction that its producer has open.
    NotTransactional,
    /// A marker of a coordinator that another has replaced.
    FencedCoordinator {
        /// The epoch of the newest coordinator.
        current: i32,
    },
    /// [`PRODUCERS_MAX`] producers were active of late; retry later.
    TooManyProducers,
    /// [`TRANSACTIONS_MAX`] transactions are remembered; some must be deleted first.
    TooManyTransactions,
}

/// The transactions of one log.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Transactions {
    /// In order of ids, so that snapshots of equal states are equal bytes.
    producers: BTreeMap<ProducerId, TransactionState>,
    /// Whose the open ones are, by where they begin.
    open: BTreeMap<Offset, ProducerId>,
    /// Ended by markers that may not be durable yet, in the order of these.
    ending: VecDeque<Ending>,
    /// In the order of their markers.
    aborted: VecDeque<Aborted>,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Ending {
    producer_id: ProducerId,
    first: Offset,
    marker: Offset,
}

const SNAPSHOT_VERSION: u8 = 1;
const PRODUCER_BYTES: usize = 8 + 2 + 4 + 8 + 8;
const ABORTED_BYTES: usize = 8 + 8 + 8 + 8;

impl Transactions {
    /// Whether there never was a transaction, as far as is known.
    #[must_use]
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.producers.is_empty() && self.aborted.is_empty()
    }

    /// What is known of a producer.
    #[must_use]
    pub fn get(&self, producer_id: ProducerId) -> Option<&TransactionState> {
        self.producers.get(&producer_id)
    }

    /// Whether this producer has a transaction open, under this epoch.
    #[must_use]
    pub fn is_open(&self, producer: Producer) -> bool {
        let state = self.producers.get(&producer.id);
        state.is_some_and(|state| state.first.is_some() && state.epoch == producer.epoch)
    }

    /// All producers known.
    pub fn iter(&self) -> impl Iterator<Item = (ProducerId, &TransactionState)> {
        self.producers.iter().map(|(&id, state)| (id, state))
    }

    /// When something of a producer was last appended, as far as transactions are concerned; now,
    /// while it has one open.
    pub(crate) fn active_ms(&self, producer_id: ProducerId, now_ms: i64) -> Option<i64> {
        let state = self.producers.get(&producer_id)?;
        Some(state.first.map_or(state.active_ms, |_| now_ms))
    }

    /// How many transactions are open.
    #[must_use]
    pub fn open_count(&self) -> usize {
        self.open.len()
    }

    /// Whether a batch may be appended, as far as transactions are concerned. `is_numbered` says
    /// that batches of its producer are remembered, so its number is checked elsewhere.
    pub fn check_batch(
        &mut self,
        producer: Producer,
        is_transactional: bool,
        begins_at_zero: bool,
        is_numbered: bool,
        expiration_ms: i64,
        now_ms: i64,
    ) -> Result<(), TransactionError> {
        if let Some(state) = self.producers.get(&producer.id) {
            if producer.epoch < state.epoch {
                return Err(TransactionError::FencedProducerEpoch { current: state.epoch });
            }
            // Under a higher epoch it is another transaction: the marker that ends this one, and
            // raises the epoch, has not come.
            let is_other = !is_transactional || state.epoch < producer.epoch;
            if state.first.is_some() && is_other {
                return Err(TransactionError::NotTransactional);
            }
            // As much as unknown: it was silent for so long that its numbers were forgotten.
            let is_expired = state.active_ms < now_ms.saturating_sub(expiration_ms);
            let must_begin = state.first.is_none() && !is_numbered && !is_expired;
            if must_begin && !begins_at_zero {
                return Err(TransactionError::NotFromZero);
            }
            if state.first.is_some() {
                return Ok(());
            }
        }
        if !is_transactional {
            return Ok(());
        }
        if TRANSACTIONS_MAX <= self.open.len() + self.aborted.len() {
            return Err(TransactionError::TooManyTransactions);
        }
        let is_known = self.producers.contains_key(&producer.id);
        if !is_known && PRODUCERS_MAX <= self.producers.len() {
            self.expire(expiration_ms, now_ms);
            if PRODUCERS_MAX <= self.producers.len() {
                return Err(TransactionError::TooManyProducers);
            }
        }
        Ok(())
    }

    /// Whether a marker may be appended.
    pub fn check_marker(
        &self,
        producer: Producer,
        coordinator_epoch: i32,
    ) -> Result<(), TransactionError> {
        let Some(state) = self.producers.get(&producer.id) else { return Ok(()) };
        if producer.epoch < state.epoch {
            return Err(TransactionError::FencedProducerEpoch { current: state.epoch });
        }
        if coordinator_epoch < state.coordinator_epoch {
            let current = state.coordinator_epoch;
            return Err(TransactionError::FencedCoordinator { current });
        }
        Ok(())
    }

    /// Notes that a transactional batch entered the log at `base_offset`.
    pub fn note_batch(&mut self, producer: Producer, base_offset: Offset, now_ms: i64) {
        let state = self.producers.entry(producer.id).or_insert(TransactionState {
            epoch: producer.epoch,
            coordinator_epoch: NO_COORDINATOR,
            active_ms: now_ms,
            first: None,
        });
        state.epoch = state.epoch.max(producer.epoch);
        state.active_ms = state.active_ms.max(now_ms);
        if state.first.is_none() {
            state.first = Some(base_offset);
            self.open.insert(base_offset, producer.id);
        }
    }

    /// Notes that a marker entered the log at `at`.
    pub fn note_marker(&mut self, producer: Producer, marker: Marker, at: Offset, now_ms: i64) {
        let producer_id = producer.id;
        let is_known = self.producers.contains_key(&producer_id);
        if !is_known && PRODUCERS_MAX <= self.producers.len() {
            // It ends nothing here, and there is no room to remember whom it fences.
            return;
        }
        let state = self.producers.entry(producer_id).or_insert(TransactionState {
            epoch: producer.epoch,
            coordinator_epoch: NO_COORDINATOR,
            active_ms: now_ms,
            first: None,
        });
        state.epoch = state.epoch.max(producer.epoch);
        state.coordinator_epoch = state.coordinator_epoch.max(marker.coordinator_epoch);
        state.active_ms = state.active_ms.max(now_ms);
        let Some(first) = state.first.take() else { return };
        self.open.remove(&first);
        self.ending.push_back(Ending { producer_id, first, marker: at });
        if marker.outcome == Outcome::Abort {
            let stable = self.open.first_key_value().map_or(at.plus(1), |(first, _)| *first);
            self.aborted.push_back(Aborted { producer_id, first, last: at, stable });
        }
    }

    /// Everything below `durable_end` survives a crash: markers there have ended what they end.
    #[inline]
    pub fn settle(&mut self, durable_end: Offset) {
        while self.ending.front().is_some_and(|ending| ending.marker < durable_end) {
            self.ending.pop_front();
        }
    }

    /// The same, without what only matters until it is durable.
    #[must_use]
    pub fn settled(&self) -> Self {
        Self { ending: VecDeque::new(), ..self.clone() }
    }

    /// Below it nothing belongs to an open transaction, if readers see what is below
    /// `visible_end`.
    #[must_use]
    #[inline]
    pub fn last_stable(&self, visible_end: Offset) -> Offset {
        let open = self.open.first_key_value().map(|(first, _)| *first);
        let ending = self.ending.iter().filter(|ending| visible_end <= ending.marker);
        let ending = ending.map(|ending| ending.first);
        open.into_iter().chain(ending).fold(visible_end, Offset::min)
    }

    /// The aborted transactions with something in `offsets`, or a marker at or behind its start.
    #[must_use]
    pub fn aborted_in(&self, offsets: Range<Offset>) -> Vec<Aborted> {
        let begin = self.aborted.partition_point(|aborted| aborted.last < offsets.start);
        let mut found = Vec::new();
        for aborted in self.aborted.range(begin..) {
            if aborted.first < offsets.end {
                found.push(*aborted);
            }
            if offsets.end <= aborted.stable {
                break;
            }
        }
        found
    }

    /// Forgets the aborted transactions with these markers, in order: nothing of them is in the log
    /// any more.
    pub(crate) fn forget_aborted(&mut self, markers: &[Offset]) {
        let mut markers = markers.iter().peekable();
        self.aborted.retain(|aborted| {
            while markers.next_if(|marker| **marker < aborted.last).is_some() {}
            markers.next_if(|marker| **marker == aborted.last).is_none()
        });
    }

    /// Whether there are aborted transactions at all.
    #[must_use]
    pub fn has_aborted(&self) -> bool {
        !self.aborted.is_empty()
    }

    /// Nothing below `start` is read any more.
    pub fn trim(&mut self, start: Offset) {
        while self.aborted.front().is_some_and(|aborted| aborted.last < start) {
            self.aborted.pop_front();
        }
    }

    /// The log was cut at `to`: transactions that began behind it never were, those whose marker
    /// is gone are open again.
    ///
    /// Of a transaction that was committed, and whose marker was durable, nobody knows any more
    /// that it had been open: a cut goes no further back than to what all replicas have.
    pub fn truncate(&mut self, to: Offset) {
        let reopened = |aborted: &Aborted| (aborted.producer_id, aborted.first, aborted.last);
        let aborted = self.aborted.iter().map(reopened);
        let ended = self.ending.iter().map(|e| (e.producer_id, e.first, e.marker)).chain(aborted);
        let again: Vec<_> = ended.filter(|(_, first, last)| *first < to && to <= *last).collect();
        self.aborted.retain(|aborted| aborted.last < to);
        self.ending.retain(|ending| ending.marker < to);
        for state in self.producers.values_mut() {
            state.first = state.first.filter(|first| *first < to);
        }
        self.open.retain(|first, _| *first < to);
        for (producer_id, first, _) in again {
            if let Some(state) = self.producers.get_mut(&producer_id) {
                state.first = Some(first);
                self.open.insert(first, producer_id);
            }
        }
    }

    /// Forgets producers without an open transaction that were silent for more than
    /// `expiration_ms`.
    pub fn expire(&mut self, expiration_ms: i64, now_ms: i64) {
        let since_ms = now_ms.saturating_sub(expiration_ms);
        self.producers.retain(|_, state| state.first.is_some() || since_ms <= state.active_ms);
    }

    /// Forgets those that were silent for longest, until [`PRODUCERS_MAX`] are left: what had
    /// expired before a crash comes back with a replay.
    pub(crate) fn forget_excess(&mut self) {
        let excess = self.producers.len().saturating_sub(PRODUCERS_MAX);
        if excess == 0 {
            return;
        }
        let idle = self.producers.iter().filter(|(_, state)| state.first.is_none());
        let mut by_age: Vec<_> = idle.map(|(&id, state)| (state.active_ms, id)).collect();
        by_age.sort_unstable();
        for (_, id) in by_age.into_iter().take(excess) {
            self.producers.remove(&id);
        }
    }

    /// Writes a snapshot: a version, the producers, the aborted; all integers big-endian.
    pub fn encode(&self, out: &mut impl BufMut) {
        out.put_u8(SNAPSHOT_VERSION);
        out.put_u32(self.producers.len() as u32);
        for (id, state) in &self.producers {
            out.put_i64(id.0);
            out.put_i16(state.epoch.0);
            out.put_i32(state.coordinator_epoch);
            out.put_i64(state.active_ms);
            out.put_i64(state.first.map_or(-1, |first| first.0));
        }
        out.put_u32(self.aborted.len() as u32);
        for aborted in &self.aborted {
            out.put_i64(aborted.producer_id.0);
            out.put_i64(aborted.first.0);
            out.put_i64(aborted.last.0);
            out.put_i64(aborted.stable.0);
        }
    }

    /// Reads what [`Transactions::encode`] wrote and leaves `bytes` behind it; `None` if it is
    /// anything else.
    pub fn decode(bytes: &mut &[u8]) -> Option<Self> {
        let mut transactions = Self::default();
        if bytes.try_get_u8().ok()? != SNAPSHOT_VERSION {
            return None;
        }
        for _ in 0..count(bytes, PRODUCER_BYTES, TRANSACTIONS_MAX)? {
            let id = ProducerId(bytes.try_get_i64().ok()?);
            let state = TransactionState {
                epoch: ProducerEpoch(bytes.try_get_i16().ok()?),
                coordinator_epoch: bytes.try_get_i32().ok()?,
                active_ms: bytes.try_get_i64().ok()?,
                first: Some(Offset(bytes.try_get_i64().ok()?)).filter(|at| Offset::ZERO <= *at),
            };
            let rises = transactions.producers.last_key_value().is_none_or(|(last, _)| *last < id);
            let shared = state.first.and_then(|first| transactions.open.insert(first, id));
            if !rises || shared.is_some() {
                return None;
            }
            transactions.producers.insert(id, state);
        }
        for _ in 0..count(bytes, ABORTED_BYTES, TRANSACTIONS_MAX)? {
            let aborted = Aborted {
                producer_id: ProducerId(bytes.try_get_i64().ok()?),
                first: Offset(bytes.try_get_i64().ok()?),
                last: Offset(bytes.try_get_i64().ok()?),
                stable: Offset(bytes.try_get_i64().ok()?),
            };
            let rises = transactions.aborted.back().is_none_or(|last| last.last < aborted.last);
            if !rises || aborted.last < aborted.first {
                return None;
            }
            transactions.aborted.push_back(aborted);
        }
        Some(transactions)
    }
}

/// A count of things that are `each_bytes` long, if so many are allowed and can follow.
fn count(bytes: &mut &[u8], each_bytes: usize, most: usize) -> Option<u32> {
    let count = bytes.try_get_u32().ok()?;
    let fits = count as usize <= most.min(bytes.remaining() / each_bytes);
    fits.then_some(count)
}

#[cfg(test)]
mod tests;
