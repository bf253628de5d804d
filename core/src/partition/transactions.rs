//! Batches and markers of transactions in a partition at home.
//!
//! A producer's first batch opens its transaction in the partition. Nobody would ever end one that
//! its coordinator does not know of, so the coordinator is asked first (KIP-890): the batch, and
//! all behind it of the same producer, wait for the answer beside the queue, so that nobody else
//! waits for them. A marker that arrives meanwhile has ended what they would have been part of:
//! they are refused.
//!
//! Start reading at `Home::append_in_transaction`.

use std::collections::BTreeMap;

use bytes::{Bytes, BytesMut};
use tidemill_net::kafka::ErrorCode;
use tidemill_record::{
    Batch, Limits, Marker, Offset, Producer, ProducerEpoch, ProducerId, Timestamp, TopicPartition,
};
use tidemill_storage::Log;
use tidemill_storage::transactions::Aborted;

use super::appending::QueuedAppend;
use super::checks::{check, refused};
use super::{Home, Partition, Times};
use crate::job::ReplyTo;
use crate::limits::APPENDS_QUEUED_MAX;
use crate::message::{Acks, Answer, InTransaction};

/// What the coordinator of a transaction is to be asked: is this partition part of it?
#[derive(Clone, Debug)]
pub struct Verification {
    /// The partition.
    pub partition: TopicPartition,
    /// Who writes to it.
    pub producer: Producer,
    /// In which transaction.
    pub transaction: InTransaction,
}

/// A batch as it has come.
pub(super) struct Incoming {
    pub(super) batch: BytesMut,
    pub(super) acks: Acks,
    pub(super) zstd_allowed: bool,
    pub(super) reply_to: ReplyTo,
}

/// The batches of one partition that wait for the coordinators of their transactions.
#[derive(Default)]
pub(super) struct Unverified {
    by_producer: BTreeMap<(ProducerId, ProducerEpoch), WaitingBatches>,
    count: usize,
}

/// Those of one producer under one epoch, and the transaction that their coordinator is asked about.
struct WaitingBatches {
    transaction: InTransaction,
    batches: Vec<QueuedAppend>,
}

impl Unverified {
    pub(super) fn iter(&self) -> impl Iterator<Item = &QueuedAppend> {
        self.by_producer.values().flat_map(|waiting| &waiting.batches)
    }

    pub(super) fn into_all(self) -> impl Iterator<Item = QueuedAppend> {
        self.by_producer.into_values().flat_map(|waiting| waiting.batches)
    }

    pub(super) fn take_all(&mut self) -> impl Iterator<Item = QueuedAppend> + use<> {
        std::mem::take(self).into_all()
    }

    /// Adds a batch; true if the first of its producer.
    fn push(
        &mut self,
        producer: Producer,
        transaction: &InTransaction,
        queued: QueuedAppend,
    ) -> bool {
        self.count += 1;
        let waiting = self.by_producer.entry((producer.id, producer.epoch));
        let waiting = waiting.or_insert_with(|| {
            let transaction = transaction.clone();
            WaitingBatches { transaction, batches: Vec::new() }
        });
        waiting.batches.push(queued);
        waiting.batches.len() == 1
    }

    fn take(&mut self, producer: Producer) -> Vec<QueuedAppend> {
        let taken = self.by_producer.remove(&(producer.id, producer.epoch));
        let taken = taken.map_or_else(Vec::new, |waiting| waiting.batches);
        self.count -= taken.len();
        taken
    }

    /// Those that a marker comes before, and that are part of what it ends, by their epochs.
    fn ended_by(&self, marker: Producer) -> Vec<Producer> {
        let up_to = (marker.id, ProducerEpoch(i16::MIN))..=(marker.id, marker.epoch);
        self.by_producer
            .range(up_to)
            .filter(|((_, epoch), waiting)| waiting.transaction.is_ended_by(*epoch, marker.epoch))
            .map(|((id, epoch), _)| Producer { id: *id, epoch: *epoch })
            .collect()
    }

    fn waits(&self, producer: Producer) -> bool {
        self.by_producer.contains_key(&(producer.id, producer.epoch))
    }
}

impl Partition {
    /// Whether something waits that ends what this producer has open: behind it, it is over.
    fn is_marker_queued(&self, id: ProducerId) -> bool {
        let is_marker = |queued: &QueuedAppend| {
            let validated = &queued.validated;
            validated.is_control() && validated.producer().is_some_and(|of| of.id == id)
        };
        self.queued.iter().any(is_marker)
    }
}

impl Home {
    pub(super) fn append_in_transaction(
        &mut self,
        id: TopicPartition,
        incoming: Incoming,
        transaction: InTransaction,
        times: Times,
    ) {
        let Incoming { batch, acks, zstd_allowed, reply_to } = incoming;
        let partition = self.partitions.get_mut(&id).expect("the caller has just seen it");
        let rules = &partition.rules;
        let validated = match check(&batch, rules, zstd_allowed, times.wall_ms) {
            Ok(validated) => validated,
            Err(answer) => return self.answers.push((reply_to, answer)),
        };
        let rework = rules.wanted.of(&validated, times.wall_ms);
        let queued = QueuedAppend::new(batch, validated, rework, acks, reply_to);
        let size_bytes = queued.size_bytes;
        let producer = validated.producer().filter(|_| validated.is_transactional());
        let Some(producer) = producer else { return self.enqueue(id, queued, times) };
        let log = self.storage.log(partition.log);
        // A batch that is there already opens nothing.
        let is_open = log.is_in_transaction(producer) && !partition.is_marker_queued(producer.id);
        let is_known = is_open || log.holds(&validated);
        if is_known && !partition.unverified.waits(producer) {
            return self.enqueue(id, queued, times);
        }
        let Some(queued) = self.admit(id, queued) else { return };
        let partition = self.partitions.get_mut(&id).expect("seen above");
        let few = partition.unverified.count < APPENDS_QUEUED_MAX;
        if !few || self.queued_bytes_max < self.queued_bytes + size_bytes {
            partition.remember_refused(&queued);
            let message = Some("too many records wait for coordinators".to_owned());
            let answer = Answer::Refused { error: ErrorCode::KafkaStorageError, message };
            return self.answers.push((reply_to, answer));
        }
        self.queued_bytes += size_bytes;
        if partition.unverified.push(producer, &transaction, queued) {
            self.verifications.push_back(Verification { partition: id, producer, transaction });
        }
    }

    /// The next question to a coordinator; its answer is told by [`Home::verified`].
    pub fn poll_verification(&mut self) -> Option<Verification> {
        self.verifications.pop_front()
    }

    /// The coordinator of a transaction has said whether the partition is part of it.
    pub fn verified(
        &mut self,
        id: TopicPartition,
        producer: Producer,
        result: Result<(), ErrorCode>,
        times: Times,
    ) {
        let Some(partition) = self.partitions.get_mut(&id) else { return };
        let waited = partition.unverified.take(producer);
        if let Err(error) = result {
            return self.refuse_unverified(id, waited, error);
        }
        let was_empty = partition.queued.is_empty();
        partition.queued.extend(waited);
        if was_empty {
            self.append_queued(id, times);
        }
    }

    fn refuse_unverified(
        &mut self,
        id: TopicPartition,
        batches: Vec<QueuedAppend>,
        error: ErrorCode,
    ) {
        let Some(partition) = self.partitions.get_mut(&id) else { return };
        for queued in batches {
            self.queued_bytes -= queued.size_bytes;
            partition.remember_refused(&queued);
            self.answers.push((queued.reply_to, refused(error)));
        }
    }

    /// Appends the marker that ends a transaction.
    pub(super) fn mark(
        &mut self,
        id: TopicPartition,
        producer: Producer,
        marker: Marker,
        reply_to: ReplyTo,
        times: Times,
    ) {
        let partition = self.partitions.get_mut(&id).expect("the caller has just seen it");
        // What was asked about them may be answered "yes", as things were before.
        for waiting in partition.unverified.ended_by(producer) {
            let partition = self.partitions.get_mut(&id).expect("seen above");
            let ended = partition.unverified.take(waiting);
            self.refuse_unverified(id, ended, ErrorCode::InvalidTxnState);
        }
        let batch = marker.to_batch(producer, Timestamp(times.wall_ms));
        let limits = Limits { batch_bytes_max: u32::MAX, control_allowed: true };
        // The producer may be anything that a client has sent.
        let Ok(validated) = tidemill_record::validate(&batch, &limits) else {
            return self.answers.push((reply_to, refused(ErrorCode::InvalidRequest)));
        };
        let queued = QueuedAppend::new(batch, validated, None, Acks::InSync, reply_to);
        self.enqueue(id, queued, times);
    }
}

/// The aborted transactions among the batches that a reader from `from` on is given.
pub(super) fn aborted_among(log: &Log, from: Offset, runs: &[Bytes]) -> Vec<Aborted> {
    let Some(last) = runs.last() else { return Vec::new() };
    let mut end = from;
    let mut rest = &last[..];
    while let Ok((batch, behind)) = Batch::parse(rest) {
        end = batch.next_offset();
        rest = behind;
    }
    log.aborted_in(from..end)
}
