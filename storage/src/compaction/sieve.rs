//! The two passes over a log's batches: which record is each key's last, and what stays.
//!
//! First pass, [`Keys`]: over the part that is not clean yet. Second pass, [`Sieve`]: over all of
//! the log up to there. Both take one batch after the other, in the order of the log, and remember
//! nothing of it but what [`OffsetMap`] and [`EndedTransactions`] do.
//!
//! Start reading at [`Sieve::sift`].

use std::collections::{HashMap, HashSet};

use bytes::BytesMut;
use tidemill_record::{
    Batch, Contents, Offset, ProducerEpoch, ProducerId, RecordError, RetainedBatch, Sequence,
    Timestamp, emptied, retain,
};

use super::ended::EndedTransactions;
use super::offset_map::{Full, OffsetMap};
use crate::log::ProducerState;
use crate::mistake::{self, Mistake};
use crate::transactions::Aborted;

/// What does not change while a log is compacted.
#[derive(Clone, Debug)]
pub struct Terms {
    /// How large the records of one batch may be uncompressed. With a larger one, nothing is done.
    pub records_bytes_max: usize,
    /// The time: deletion marks whose horizon is not later are dropped.
    pub now_ms: i64,
    /// `delete.retention.ms`: how far ahead the horizon is that new deletion marks get.
    pub delete_retention_ms: i64,
}

/// The first pass: the last record of each key.
#[derive(Debug)]
pub struct Keys {
    terms: Terms,
    map: OffsetMap,
    ended: EndedTransactions,
    /// Nothing at or behind it is looked at.
    below: Offset,
    /// Everything before it is in the map.
    reached: Offset,
    full: bool,
}

impl Keys {
    /// A pass from `from` up to `below`. All transactions that end before `below` are among
    /// `aborted`, or committed; none is open there.
    #[must_use]
    pub fn new(
        terms: Terms,
        map: OffsetMap,
        from: Offset,
        below: Offset,
        aborted: &[Aborted],
    ) -> Keys {
        assert!(map.is_empty());
        let ended = EndedTransactions::new(aborted);
        Keys { terms, map, ended, below, reached: from, full: false }
    }

    /// Whether there is no more to be learnt.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.full || self.below <= self.reached
    }

    /// How far it came.
    #[must_use]
    pub fn reached(&self) -> Offset {
        self.reached
    }

    /// How many keys it met.
    #[must_use]
    pub fn keys_count(&self) -> usize {
        self.map.len()
    }

    /// What the map of keys takes.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        self.map.memory_bytes()
    }

    /// Takes the next batch.
    ///
    /// # Errors
    /// If the batch cannot be read; what the pass says is then of no use.
    pub fn take(&mut self, batch: &Batch<'_>) -> Result<(), RecordError> {
        if self.is_done() || batch.next_offset() <= self.reached {
            return Ok(());
        }
        let is_aborted = !batch.is_control()
            && self.ended.handle_batch(batch)
            && !mistake::is_made(Mistake::AbortedIsLastWord);
        if batch.is_control() || is_aborted {
            self.reached = batch.next_offset().min(self.below);
            return Ok(());
        }
        let contents = Contents::open(batch, self.terms.records_bytes_max)?;
        for record in contents.records() {
            let record = record?;
            if record.offset < self.reached {
                continue;
            }
            if self.below <= record.offset {
                break;
            }
            // A record without a key says nothing about any; the second pass drops it.
            let put = record.key.map_or(Ok(()), |key| self.map.put(key, record.offset));
            if put == Err(Full) {
                self.full = true;
                self.reached = record.offset;
                return Ok(());
            }
        }
        self.reached = batch.next_offset().min(self.below);
        Ok(())
    }

    /// The second pass, over the log from its start up to where this one came.
    #[must_use]
    pub fn into_sieve(self, aborted: &[Aborted], producers: &[ProducerState]) -> Sieve {
        let last = |state: &ProducerState| (state.id, (state.epoch, state.last_sequence));
        Sieve {
            horizon: Timestamp(self.terms.now_ms).plus_ms(self.terms.delete_retention_ms),
            terms: self.terms,
            map: self.map,
            below: self.reached,
            ended: EndedTransactions::new(aborted),
            listed: aborted.iter().map(|one| one.last).collect(),
            last_of: producers.iter().map(last).collect(),
        }
    }
}

/// The second pass: what stays.
#[derive(Debug)]
pub struct Sieve {
    terms: Terms,
    horizon: Timestamp,
    map: OffsetMap,
    /// Records at or behind it were not looked at: they stay.
    below: Offset,
    ended: EndedTransactions,
    /// The markers of the transactions that readers are told were aborted.
    listed: HashSet<Offset>,
    /// Up to where each active producer came.
    last_of: HashMap<ProducerId, (ProducerEpoch, Option<Sequence>)>,
}

/// What becomes of a batch.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Sifted {
    /// How many records it had.
    pub before: u32,
    /// How many of them stay.
    pub after: u32,
    /// What is written in its place.
    pub batch: SiftedBatch,
}

/// What is written in a batch's place.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum SiftedBatch {
    /// The batch as it was.
    AsItWas,
    /// This.
    Rewritten(BytesMut),
    /// Nothing.
    Gone,
}

impl Sieve {
    /// Decides about the next batch. One that `must_stay` loses its records only.
    ///
    /// # Errors
    /// If the batch cannot be read: then nothing of the log may be dropped.
    pub fn sift(&mut self, batch: &Batch<'_>, must_stay: bool) -> Result<Sifted, RecordError> {
        let before = batch.records_count();
        if self.below <= batch.base_offset() {
            return Ok(Sifted { before, after: before, batch: SiftedBatch::AsItWas });
        }
        let is_over = match batch.is_control() {
            true => self.ended.handle_marker(batch),
            false => self.ended.handle_batch(batch),
        };
        let is_over_at =
            |at: Timestamp| at.0 <= self.terms.now_ms || mistake::is_made(Mistake::MarksGoEarly);
        let has_expired = batch.delete_horizon().is_some_and(is_over_at);
        let must_stay = must_stay || self.is_last_of_its_producer(batch);
        // A reader that is told of it waits for its marker, and passes over all that its producer
        // writes until then: only what the log has forgotten may go.
        let is_listed = batch.is_control() && self.listed.contains(&batch.base_offset());
        let may_go = has_expired && !is_listed;
        if is_over && (may_go || !batch.is_control()) {
            return Ok(gone(batch, must_stay));
        }
        // A marker waits for its horizon from when nothing of its transaction is left.
        let horizon = (is_over || !batch.is_control()).then_some(self.horizon);
        let (map, below, is_control) = (&self.map, self.below, batch.is_control());
        let retained = retain(batch, self.terms.records_bytes_max, horizon, |record| {
            if is_control || below <= record.offset {
                return true;
            }
            let Some(key) = record.key else { return false };
            let is_last = map.get(key).is_none_or(|last| last <= record.offset);
            is_last && (record.value.is_some() || !has_expired)
        })?;
        let batch = match retained.batch {
            RetainedBatch::AsItWas => SiftedBatch::AsItWas,
            RetainedBatch::Rewritten(made) => SiftedBatch::Rewritten(made),
            RetainedBatch::Nothing => return Ok(gone(batch, must_stay)),
        };
        Ok(Sifted { before, after: retained.after, batch })
    }

    /// What the map of keys takes.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        self.map.memory_bytes()
    }

    /// How far the log is clean after this pass.
    #[must_use]
    pub fn below(&self) -> Offset {
        self.below
    }

    /// Of those of `aborted` that ended before [`Sieve::below`] and of which nothing was met, the
    /// markers' offsets. To be asked after a pass over all of the log.
    #[must_use]
    pub fn forgotten(&self, aborted: &[Aborted]) -> Vec<Offset> {
        let ended = aborted.iter().map(|one| one.last).filter(|last| *last < self.below);
        ended.filter(|last| !self.ended.is_still_there(*last)).collect()
    }

    /// A producer that is active goes on from the number of its last batch, and whoever has its id
    /// is fenced by the epoch of its last marker: also after all else was forgotten.
    fn is_last_of_its_producer(&self, batch: &Batch<'_>) -> bool {
        let Some(producer) = batch.producer() else { return false };
        let Some((epoch, last_sequence)) = self.last_of.get(&producer.id) else { return false };
        producer.epoch == *epoch
            && match last_sequence {
                Some(_) => !batch.is_control() && batch.last_sequence() == *last_sequence,
                None => batch.is_control(),
            }
    }
}

/// What is written in the place of a batch without any record left.
fn gone(batch: &Batch<'_>, must_stay: bool) -> Sifted {
    let before = batch.records_count();
    let batch = match must_stay {
        // Emptied before: there is nothing to take from it.
        true if before == 0 => SiftedBatch::AsItWas,
        true => SiftedBatch::Rewritten(emptied(batch)),
        false => SiftedBatch::Gone,
    };
    Sifted { before, after: 0, batch }
}
