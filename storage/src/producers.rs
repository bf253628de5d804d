//! Idempotence: the last batches of each producer of one log.
//!
//! A producer numbers its records. What it sends again because a reply was lost is recognised by
//! those numbers and answered with the original offsets; what does not follow on from the last
//! batch is refused, because to accept it would break the order the producer was promised
//! (KIP-98, KIP-360). The last five batches are remembered, as many as a client may have in
//! flight.
//!
//! [`Producers::check`] decides and changes nothing; [`Producers::note`] is told of each batch
//! that entered the log, by appends and by recovery alike, so both build the same state.
//!
//! Start reading at [`Producers::check`].

use std::collections::BTreeMap;

use bytes::{Buf, BufMut};
use tidemill_record::{Offset, ProducerEpoch, ProducerId, Sequence, Timestamp};

use crate::transactions::Transactions;

/// How many batches of a producer are remembered: a client has at most five in flight.
pub const BATCHES_KEPT: usize = 5;

/// The most producers one log remembers.
pub const PRODUCERS_MAX: usize = 32_768;

/// When [`PRODUCERS_MAX`] is reached, producers silent for so long make room: no client retries
/// a batch for longer (Kafka's `delivery.timeout.ms` is two minutes by default).
pub const SILENT_MS_MIN: i64 = 10 * 60 * 1000;

/// The part of a batch that idempotence looks at.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct NumberedBatch {
    /// Who sent it.
    pub producer_id: ProducerId,
    /// The era of that id.
    pub producer_epoch: ProducerEpoch,
    /// Number of its first record.
    pub base_sequence: Sequence,
    /// How many records it has, at least one.
    pub records_count: i32,
}

impl NumberedBatch {
    /// Number of its last record: the numbering may wrap to 0 inside the batch.
    #[must_use]
    pub fn last_sequence(&self) -> Sequence {
        self.base_sequence.plus(self.records_count - 1)
    }
}

/// What to do with a batch.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Verdict {
    /// Append it.
    New,
    /// It is in the log already: answer as then.
    Duplicate(NotedBatch),
}

/// A batch that is in the log.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct NotedBatch {
    /// Number of its first record.
    pub base_sequence: Sequence,
    /// Number of its last record.
    pub last_sequence: Sequence,
    /// Offset of its first record.
    pub base_offset: Offset,
    /// Offset of its last record.
    pub last_offset: Offset,
    /// What its reply told as log append time; [`Timestamp::NONE`] with create time.
    pub timestamp: Timestamp,
}

/// Why a numbered batch was refused. Nothing was written.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ProducerError {
    /// Another producer took over this id under a higher epoch.
    FencedProducerEpoch {
        /// Whose.
        producer_id: ProducerId,
        /// The epoch in force.
        current: ProducerEpoch,
        /// The epoch of the batch.
        found: ProducerEpoch,
    },
    /// A gap or an overlap in the producer's numbering: to accept it would break the order it was
    /// promised.
    OutOfOrderSequence {
        /// Whose.
        producer_id: ProducerId,
        /// The number that would follow.
        expected: Sequence,
        /// The number of the batch's first record.
        found: Sequence,
    },
    /// [`PRODUCERS_MAX`] producers were active within [`SILENT_MS_MIN`]; retry later.
    TooManyProducers {
        /// The limit.
        limit: u32,
    },
}

/// Bytes that are not a snapshot of producers.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ProducersError {
    /// They end in the middle of it.
    TooShort,
    /// Written by a newer version of this program.
    UnknownVersion {
        /// The version they name.
        found: u8,
    },
    /// They claim more producers than [`PRODUCERS_MAX`].
    TooManyProducers {
        /// How many they claim.
        found: u32,
    },
    /// They claim more batches of one producer than [`BATCHES_KEPT`], or none.
    WrongBatchCount {
        /// Whose.
        producer_id: ProducerId,
        /// How many they claim.
        found: u8,
    },
    /// The producers are not in rising order of their ids.
    OutOfOrder {
        /// The one that is not.
        producer_id: ProducerId,
    },
}

/// The producers of one log that number their batches.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Producers {
    /// In order of ids, so that snapshots of equal states are equal bytes.
    by_id: BTreeMap<ProducerId, Producer>,
    /// No producer was last active before this: spares sweeps that would find nothing.
    oldest_active_ms: i64,
}

#[derive(Clone, Debug, Eq, PartialEq)]
struct Producer {
    epoch: ProducerEpoch,
    /// When it last appended, by our clock.
    active_ms: i64,
    /// Its last batches, oldest first; at least one, at most [`BATCHES_KEPT`].
    batches: Vec<NotedBatch>,
}

const SNAPSHOT_VERSION: u8 = 1;

impl Producers {
    /// How many producers are known.
    #[must_use]
    pub fn len(&self) -> usize {
        self.by_id.len()
    }

    /// Whether none is known.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.by_id.is_empty()
    }

    /// Whether batches of this producer are checked against those before them.
    #[must_use]
    pub fn knows(&self, producer_id: ProducerId) -> bool {
        self.by_id.contains_key(&producer_id)
    }

    /// Whether `batch` is one of its producer's last ones.
    #[must_use]
    pub fn holds(&self, batch: &NumberedBatch) -> bool {
        let producer = self.by_id.get(&batch.producer_id);
        producer.is_some_and(|producer| {
            producer.epoch == batch.producer_epoch && producer.original_of(batch).is_some()
        })
    }

    /// Whether `batch` may be appended, is there already, or breaks its producer's numbering.
    ///
    /// Changes nothing but that producers silent for long may be forgotten to make room, in
    /// `transactions` too.
    pub fn check(
        &mut self,
        batch: &NumberedBatch,
        transactions: &mut Transactions,
        now_ms: i64,
    ) -> Result<Verdict, ProducerError> {
        let producer_id = batch.producer_id;
        let found = batch.base_sequence;
        let Some(producer) = self.by_id.get(&producer_id) else {
            // Its state may have been lost with expired records, so any number may come first.
            self.make_room(transactions, now_ms)?;
            return Ok(Verdict::New);
        };
        let current = producer.epoch;
        if batch.producer_epoch < current {
            let found = batch.producer_epoch;
            return Err(ProducerError::FencedProducerEpoch { producer_id, current, found });
        }
        let expected = if current < batch.producer_epoch {
            Sequence::ZERO
        } else {
            if let Some(original) = producer.original_of(batch) {
                return Ok(Verdict::Duplicate(original));
            }
            producer.last().last_sequence.plus(1)
        };
        if found != expected {
            return Err(ProducerError::OutOfOrderSequence { producer_id, expected, found });
        }
        Ok(Verdict::New)
    }

    /// Notes that `batch` entered the log at `base_offset`. `timestamp` is what its reply tells
    /// as log append time; `now_ms` when this happened, as far as known.
    pub fn note(
        &mut self,
        batch: &NumberedBatch,
        base_offset: Offset,
        timestamp: Timestamp,
        now_ms: i64,
    ) {
        assert!(0 < batch.records_count, "a batch has a record");
        let noted = NotedBatch {
            base_sequence: batch.base_sequence,
            last_sequence: batch.last_sequence(),
            base_offset,
            last_offset: base_offset.plus(i64::from(batch.records_count) - 1),
            timestamp,
        };
        if self.by_id.is_empty() {
            self.oldest_active_ms = now_ms;
        }
        self.oldest_active_ms = self.oldest_active_ms.min(now_ms);
        let producer = self.by_id.entry(batch.producer_id).or_insert_with(|| Producer {
            epoch: batch.producer_epoch,
            active_ms: now_ms,
            batches: Vec::with_capacity(1),
        });
        if producer.epoch != batch.producer_epoch {
            producer.epoch = batch.producer_epoch;
            producer.batches.clear();
        }
        if producer.batches.len() == BATCHES_KEPT {
            producer.batches.remove(0);
        }
        producer.batches.push(noted);
        producer.active_ms = producer.active_ms.max(now_ms);
    }

    /// Forgets producers that were silent for more than `expiration_ms`
    /// (`producer.id.expiration.ms`), and with their numbers their transactions: who is known only
    /// by these must begin at zero. Markers count as activity, and nobody is silent whose
    /// transaction is open. Returns how many.
    pub fn expire(
        &mut self,
        transactions: &mut Transactions,
        expiration_ms: i64,
        now_ms: i64,
    ) -> usize {
        let active_since_ms = now_ms.saturating_sub(expiration_ms);
        if active_since_ms <= self.oldest_active_ms {
            return 0;
        }
        let before = self.by_id.len();
        let mut oldest_ms = i64::MAX;
        self.by_id.retain(|&id, producer| {
            let other_ms = transactions.active_ms(id, now_ms).unwrap_or(i64::MIN);
            let active_ms = producer.active_ms.max(other_ms);
            let stays = active_since_ms <= active_ms;
            if stays {
                oldest_ms = oldest_ms.min(active_ms);
            }
            stays
        });
        self.oldest_active_ms = oldest_ms;
        transactions.expire(expiration_ms, now_ms);
        before - self.by_id.len()
    }

    /// Forgets those that were silent for longest, if there are more than `most`, until
    /// [`PRODUCERS_MAX`] are left.
    ///
    /// A replay needs it: what had expired before a crash comes back with its batches. Those who
    /// stay are all that were known then, and perhaps some that were not any more.
    pub(crate) fn forget_excess(&mut self, most: usize) {
        if self.by_id.len() <= most {
            return;
        }
        let mut by_age: Vec<(i64, ProducerId)> =
            self.by_id.iter().map(|(&id, producer)| (producer.active_ms, id)).collect();
        by_age.sort_unstable();
        let excess = self.by_id.len() - PRODUCERS_MAX;
        for (_, id) in &by_age[..excess] {
            self.by_id.remove(id);
        }
        self.oldest_active_ms = by_age[excess].0;
    }

    /// Forgets batches at and above `to`: the log was cut there.
    ///
    /// Returns the producers of whom nothing is left, though batches of theirs below `to` may
    /// have been pushed out of the window by those that are gone: the caller replays the log's
    /// batches from some point below to know them again.
    pub fn truncate(&mut self, to: Offset) -> Vec<ProducerId> {
        let mut lost = Vec::new();
        self.by_id.retain(|&producer_id, producer| {
            producer.batches.retain(|batch| batch.base_offset < to);
            let stays = !producer.batches.is_empty();
            if !stays {
                lost.push(producer_id);
            }
            stays
        });
        lost
    }

    /// The producers known, with their epochs, when they were last active, and their last batch.
    pub fn iter(
        &self,
    ) -> impl Iterator<Item = (ProducerId, ProducerEpoch, i64, &NotedBatch)> + use<'_> {
        self.by_id
            .iter()
            .map(|(&id, producer)| (id, producer.epoch, producer.active_ms, producer.last()))
    }

    fn make_room(
        &mut self,
        transactions: &mut Transactions,
        now_ms: i64,
    ) -> Result<(), ProducerError> {
        let has_room = self.by_id.len() < PRODUCERS_MAX;
        if has_room || 0 < self.expire(transactions, SILENT_MS_MIN, now_ms) {
            return Ok(());
        }
        Err(ProducerError::TooManyProducers { limit: PRODUCERS_MAX as u32 })
    }

    /// How many bytes [`Producers::encode`] writes.
    #[must_use]
    pub fn encoded_len(&self) -> usize {
        let batches: usize = self.by_id.values().map(|producer| producer.batches.len()).sum();
        HEADER_BYTES + PRODUCER_BYTES * self.by_id.len() + BATCH_BYTES * batches
    }

    /// Writes a snapshot: a version, a count, then each producer; all integers big-endian.
    pub fn encode(&self, out: &mut impl BufMut) {
        assert!(self.by_id.len() <= PRODUCERS_MAX, "more than a decoder takes");
        out.put_u8(SNAPSHOT_VERSION);
        out.put_u32(self.by_id.len() as u32);
        for (id, producer) in &self.by_id {
            out.put_i64(id.0);
            out.put_i16(producer.epoch.0);
            out.put_i64(producer.active_ms);
            out.put_u8(producer.batches.len() as u8);
            for batch in &producer.batches {
                out.put_i32(batch.base_sequence.0);
                out.put_i32(batch.last_sequence.0);
                out.put_i64(batch.base_offset.0);
                out.put_i64(batch.last_offset.0);
                out.put_i64(batch.timestamp.0);
            }
        }
    }

    /// Reads what [`Producers::encode`] wrote and leaves `bytes` behind it.
    pub fn decode(bytes: &mut &[u8]) -> Result<Self, ProducersError> {
        let short = |_| ProducersError::TooShort;
        let version = bytes.try_get_u8().map_err(short)?;
        if version != SNAPSHOT_VERSION {
            return Err(ProducersError::UnknownVersion { found: version });
        }
        let count = bytes.try_get_u32().map_err(short)?;
        if PRODUCERS_MAX < count as usize {
            return Err(ProducersError::TooManyProducers { found: count });
        }
        let mut producers = Self { oldest_active_ms: i64::MAX, ..Self::default() };
        for _ in 0..count {
            let producer_id = ProducerId(bytes.try_get_i64().map_err(short)?);
            let last_key_value = producers.by_id.last_key_value();
            if last_key_value.is_some_and(|(&last, _)| producer_id <= last) {
                return Err(ProducersError::OutOfOrder { producer_id });
            }
            let producer = Producer::decode(producer_id, bytes)?;
            producers.oldest_active_ms = producers.oldest_active_ms.min(producer.active_ms);
            producers.by_id.insert(producer_id, producer);
        }
        if producers.is_empty() {
            producers.oldest_active_ms = 0;
        }
        Ok(producers)
    }
}

const HEADER_BYTES: usize = 1 + 4;
const PRODUCER_BYTES: usize = 8 + 2 + 8 + 1;
const BATCH_BYTES: usize = 4 + 4 + 8 + 8 + 8;

impl Producer {
    fn last(&self) -> &NotedBatch {
        self.batches.last().expect("a producer is known by at least one batch")
    }

    fn original_of(&self, batch: &NumberedBatch) -> Option<NotedBatch> {
        let is_original = |noted: &&NotedBatch| {
            noted.base_sequence == batch.base_sequence
                && noted.last_sequence == batch.last_sequence()
        };
        self.batches.iter().find(is_original).copied()
    }

    fn decode(producer_id: ProducerId, bytes: &mut &[u8]) -> Result<Self, ProducersError> {
        let short = |_| ProducersError::TooShort;
        let epoch = ProducerEpoch(bytes.try_get_i16().map_err(short)?);
        let active_ms = bytes.try_get_i64().map_err(short)?;
        let count = bytes.try_get_u8().map_err(short)?;
        if !(1..=BATCHES_KEPT).contains(&usize::from(count)) {
            return Err(ProducersError::WrongBatchCount { producer_id, found: count });
        }
        let mut batches = Vec::with_capacity(usize::from(count));
        for _ in 0..count {
            batches.push(NotedBatch {
                base_sequence: Sequence(bytes.try_get_i32().map_err(short)?),
                last_sequence: Sequence(bytes.try_get_i32().map_err(short)?),
                base_offset: Offset(bytes.try_get_i64().map_err(short)?),
                last_offset: Offset(bytes.try_get_i64().map_err(short)?),
                timestamp: Timestamp(bytes.try_get_i64().map_err(short)?),
            });
        }
        Ok(Self { epoch, active_ms, batches })
    }
}

#[cfg(test)]
mod tests;
