//! Appends to a partition at home: checked, queued, appended, and answered when they are durable.
//!
//! Appends of one partition happen in the order in which they arrived: what must be made anew away
//! from this shard, or waits for space, keeps what is behind it waiting. What waits is bounded, in
//! number and in bytes; the append that came last is refused beyond that. What was refused for now is
//! remembered, so that nothing of the same producer overtakes it.
//!
//! Start reading at `Home::append`.

use bytes::BytesMut;
use tidemill_net::kafka::ErrorCode;
use tidemill_perf::MEASURING;
use tidemill_record::{Offset, Producer, Timestamp, TopicPartition, Validated};
use tidemill_storage::{AppendError, AppendKind, Appended, Durability, LogId};

use super::checks::{check, refused, refused_append};
use super::{Home, Partition, Times};
use crate::job::ReplyTo;
use crate::limits::{APPENDS_QUEUED_MAX, LATENESS_PARTITIONS_MAX};
use crate::message::{Acks, Answer};
use crate::rework::Rework;

pub(super) struct QueuedAppend {
    pub(super) batch: BytesMut,
    /// Of the batch as it came: the log takes its bytes.
    pub(super) size_bytes: usize,
    pub(super) validated: Validated,
    /// What is to be done to it first, away from this shard.
    pub(super) rework: Option<Rework>,
    /// The number under which that was asked for.
    pub(super) rework_number: Option<u64>,
    pub(super) acks: Acks,
    pub(super) reply_to: ReplyTo,
}

pub(super) struct WaitingProduce {
    pub(super) end: Offset,
    pub(super) reply_to: ReplyTo,
    pub(super) base_offset: Offset,
    pub(super) log_append_time: Option<Timestamp>,
}

impl Home {
    pub(super) fn append(
        &mut self,
        id: TopicPartition,
        batch: BytesMut,
        acks: Acks,
        zstd_allowed: bool,
        reply_to: ReplyTo,
        times: Times,
    ) {
        let partition = self.partitions.get_mut(&id).expect("the caller has just seen it");
        let rules = &partition.rules;
        let validated = match check(&batch, rules, zstd_allowed, times.wall_ms) {
            Ok(validated) if validated.is_transactional() => {
                // Kafka's answer to a client that names no transaction.
                let error = ErrorCode::TransactionalIdAuthorizationFailed;
                return self.answers.push((reply_to, refused(error)));
            }
            Ok(validated) => validated,
            Err(answer) => return self.answers.push((reply_to, answer)),
        };
        let rework = rules.wanted.of(&validated, times.wall_ms);
        let queued = QueuedAppend::new(batch, validated, rework, acks, reply_to);
        self.enqueue(id, queued, times);
    }

    /// Takes an append in behind those that wait, or refuses it.
    pub(super) fn enqueue(&mut self, id: TopicPartition, queued: QueuedAppend, times: Times) {
        let Some(queued) = self.admit(id, queued) else { return };
        let partition = self.partitions.get_mut(&id).expect("the caller has just seen it");
        self.queued_bytes += queued.size_bytes;
        // What arrived earlier is appended earlier, or a producer's sequence would be torn.
        partition.queued.push_back(queued);
        if partition.queued.len() == 1 {
            self.append_queued(id, times);
        }
        self.refuse_last_beyond_bounds(id);
    }

    /// An append that may wait for its turn; others are answered.
    pub(super) fn admit(
        &mut self,
        id: TopicPartition,
        queued: QueuedAppend,
    ) -> Option<QueuedAppend> {
        let partition = self.partitions.get_mut(&id).expect("the caller has just seen it");
        let QueuedAppend { validated, acks, reply_to, .. } = &queued;
        let reply_to = *reply_to;
        if self.stopping {
            self.answers.push((reply_to, refused(ErrorCode::NotLeaderOrFollower)));
            return None;
        }
        if *acks == Acks::InSync && partition.rules.replicas < partition.rules.min_in_sync {
            self.answers.push((reply_to, refused(ErrorCode::NotEnoughReplicas)));
            // The next batch may find enough.
            partition.remember_refused(&queued);
            return None;
        }
        let number = validated.producer().zip(validated.base_sequence());
        // Of a producer that it knows, the log sees for itself what comes too early.
        let unknown =
            |producer: &Producer| !self.storage.log(partition.log).knows_producer(producer.id);
        if let Some((producer, sequence)) = number
            && unknown(&producer)
            && partition.refused.would_overtake(producer, sequence)
        {
            let error = ErrorCode::OutOfOrderSequenceNumber;
            self.answers.push((reply_to, refused(error)));
            return None;
        }
        Some(queued)
    }

    /// Refuses the append that came last if there is no room for it to wait in.
    fn refuse_last_beyond_bounds(&mut self, id: TopicPartition) {
        let Some(partition) = self.partitions.get_mut(&id) else { return };
        let few = partition.queued.len() <= APPENDS_QUEUED_MAX;
        if few && self.queued_bytes <= self.queued_bytes_max {
            return;
        }
        let Some(last) = partition.queued.pop_back() else { return };
        self.queued_bytes -= last.size_bytes;
        partition.remember_refused(&last);
        let message = Some("too many records wait for the disk".to_owned());
        let answer = Answer::Refused { error: ErrorCode::KafkaStorageError, message };
        self.answers.push((last.reply_to, answer));
    }

    pub(super) fn append_queued(&mut self, id: TopicPartition, times: Times) {
        let Some(partition) = self.partitions.get_mut(&id) else { return };
        while let Some(next) = partition.queued.front_mut() {
            if next.rework.is_some() {
                if next.rework_number.is_none() {
                    self.reworks_asked += 1;
                    next.rework_number = Some(self.reworks_asked);
                    self.reworks.push_back((id, self.reworks_asked));
                }
                // It stays at the front; `reworked` follows.
                return;
            }
            let appended = self.storage.append(
                partition.log,
                &mut next.batch,
                &next.validated,
                partition.rules.leader_epoch,
                times.wall_ms,
                times.now.nanos,
            );
            if appended == Err(AppendError::SpaceNotReserved) {
                // It stays at the front; `Admitted` or `NoSpace` follows.
                return;
            }
            let queued = partition.queued.pop_front().expect("seen above");
            self.queued_bytes -= queued.size_bytes;
            match appended {
                Ok(appended) => {
                    let log = self.storage.log(partition.log);
                    let durable_end = log.durable_end();
                    let start = log.start();
                    if appended.kind == AppendKind::New {
                        self.batches_appended += 1;
                        let kept = &mut self.lateness_kept;
                        partition.note_lateness(&queued.validated, times.wall_ms, kept);
                    }
                    let answer = partition.appended(
                        &appended,
                        durable_end,
                        start,
                        queued.acks,
                        queued.reply_to,
                    );
                    self.answers.extend(answer.map(|answer| (queued.reply_to, answer)));
                }
                Err(error) => {
                    match error {
                        AppendError::TooManyProducers { .. } => partition.remember_refused(&queued),
                        AppendError::TooManyTransactions { limit } => {
                            self.transactions_refused += 1;
                            partition.tell_too_many_transactions(id, limit);
                        }
                        _ => {}
                    }
                    self.answers.push((queued.reply_to, refused_append(&error)));
                }
            }
        }
        if partition.rules.log.durability == Durability::Relaxed {
            self.wake(id);
        }
    }

    pub(super) fn admitted(&mut self, log: LogId, times: Times) {
        if let Some(&id) = self.by_log.get(&log) {
            self.append_queued(id, times);
        }
    }

    pub(super) fn no_space(&mut self, log: LogId, times: Times) {
        let Some(&id) = self.by_log.get(&log) else { return };
        let Some(partition) = self.partitions.get_mut(&id) else { return };
        for queued in std::mem::take(&mut partition.queued) {
            if self.storage.log(log).holds(&queued.validated) {
                // It takes no room. Refused, it could come again when its number is forgotten.
                partition.queued.push_back(queued);
                continue;
            }
            self.queued_bytes -= queued.size_bytes;
            partition.remember_refused(&queued);
            let message = "the data directory's disk is full".to_owned();
            let answer =
                Answer::Refused { error: ErrorCode::KafkaStorageError, message: Some(message) };
            self.answers.push((queued.reply_to, answer));
        }
        self.append_queued(id, times);
    }

    pub(super) fn durable(&mut self, log: LogId) {
        let Some(&id) = self.by_log.get(&log) else { return };
        let Some(partition) = self.partitions.get_mut(&id) else { return };
        let log = self.storage.log(log);
        while let Some(waiting) = partition.waiting.front() {
            if log.durable_end() < waiting.end {
                break;
            }
            let waiting = partition.waiting.pop_front().expect("seen above");
            let answer = Answer::Appended {
                base_offset: waiting.base_offset,
                log_append_time: waiting.log_append_time,
                log_start_offset: log.start(),
            };
            self.answers.push((waiting.reply_to, answer));
        }
        self.wake(id);
    }
}

impl QueuedAppend {
    pub(super) fn new(
        batch: BytesMut,
        validated: Validated,
        rework: Option<Rework>,
        acks: Acks,
        reply_to: ReplyTo,
    ) -> Self {
        let size_bytes = batch.len();
        Self { batch, size_bytes, validated, rework, rework_number: None, acks, reply_to }
    }
}

impl Partition {
    /// Counts how late a new batch is; of further partitions than may be kept it is not counted.
    fn note_lateness(&mut self, batch: &Validated, wall_ms: i64, kept: &mut usize) {
        if !MEASURING {
            return;
        }
        if self.lateness.is_none() {
            if *kept == LATENESS_PARTITIONS_MAX {
                return;
            }
            *kept += 1;
        }
        let lateness = self.lateness.get_or_insert_default();
        lateness.append(batch.base_timestamp().0, batch.max_timestamp().0, wall_ms);
    }

    pub(super) fn queued_bytes(&self) -> usize {
        let queued = self.queued.iter().chain(self.unverified.iter());
        queued.map(|queued| queued.size_bytes).sum()
    }

    pub(super) fn remember_refused(&mut self, queued: &QueuedAppend) {
        let validated = &queued.validated;
        if let Some((producer, sequence)) = validated.producer().zip(validated.base_sequence()) {
            self.refused.remember(producer, sequence);
        }
    }

    /// Says, the first time, that it takes no more transactions: nobody who looks at the broker
    /// would know otherwise.
    fn tell_too_many_transactions(&mut self, id: TopicPartition, limit: u32) {
        if !std::mem::replace(&mut self.is_full_told, true) {
            tracing::warn!(
                topic = &*self.rules.topic,
                partition = id.partition.0,
                limit,
                "no more transactions are taken: too many, open or aborted, are remembered; delete \
                 records (DeleteRecords, or a shorter retention)"
            );
        }
    }

    /// The answer to an append, if it need not wait for the disk.
    fn appended(
        &mut self,
        appended: &Appended,
        durable_end: Offset,
        log_start_offset: Offset,
        acks: Acks,
        reply_to: ReplyTo,
    ) -> Option<Answer> {
        let end = appended.last_offset.plus(1);
        let relaxed = self.rules.log.durability == Durability::Relaxed;
        let base_offset = appended.base_offset;
        let log_append_time = appended.log_append_time;
        if relaxed || acks == Acks::None || end <= durable_end {
            return Some(Answer::Appended { base_offset, log_append_time, log_start_offset });
        }
        // A duplicate may lie before what others wait for: it waits for what its original does.
        let place = self.waiting.iter().rposition(|waiting| waiting.end <= end);
        let waiting = WaitingProduce { end, reply_to, base_offset, log_append_time };
        self.waiting.insert(place.map_or(0, |place| place + 1), waiting);
        None
    }
}
