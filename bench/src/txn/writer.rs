//! One producer of transactions: what it has under way, and its requests.

use std::collections::BTreeMap;

use bytes::Bytes;
use tidemill_client::kafka::add_partitions_to_txn::AddPartitionsToTxnRequest;
use tidemill_client::kafka::end_txn::{EndTxnRequest, EndTxnResponse};
use tidemill_client::kafka::init_producer_id::InitProducerIdRequest;
use tidemill_client::kafka::produce::{OutgoingBatch, OutgoingBatches};
use tidemill_client::kafka::topic_partitions::TopicPartitions;
use tidemill_client::kafka::{ApiKey, TopicRef};
use tidemill_client::record::{
    BatchBuilder, Codec, Producer, ProducerEpoch, ProducerId, Sequence, Timestamp,
};
use tidemill_runtime::clock;
use tidemill_runtime::edge::Instant;

use super::{Shape, Tag, What};
use crate::asking::ANSWER_WITHIN;
use crate::control::Topic;
use crate::stage::Lines;
use crate::trouble::Trouble;

/// Everything that is written at the beginning of each value.
pub const MARK_BYTES: usize = 17;

/// What a producer waits for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum State {
    /// An epoch of its own.
    Begins,
    /// The next transaction to be due.
    Idle,
    /// Its partitions to be taken.
    Adding,
    /// So many batches to be kept.
    Producing(usize),
    /// The transaction to be committed, or aborted.
    Ending,
}

/// One producer.
pub(super) struct Writer {
    /// Its number, which its answers are known by.
    pub nth: usize,
    /// Its transactional id.
    pub id: String,
    /// Its connection to the coordinator; those to the leaders follow.
    pub line: usize,
    pub partitions: Vec<i32>,
    producer: Producer,
    sequences: BTreeMap<i32, i32>,
    pub state: State,
    /// How many transactions it has ended.
    pub count: u64,
    /// When its transaction was due, or the next one is.
    pub due: Instant,
    pub step_begun: Instant,
    /// What to do again, and when.
    pub again: Vec<(Instant, What)>,
    batches: Vec<Bytes>,
}

/// A value that says which run it is of, when its transaction was due, and whether it will be
/// committed.
#[must_use]
fn value(run: u64, due: Instant, commits: bool, bytes: usize) -> Vec<u8> {
    let mut value = vec![b'.'; bytes.max(MARK_BYTES)];
    value[..8].copy_from_slice(&run.to_be_bytes());
    value[8..16].copy_from_slice(&due.nanos.to_be_bytes());
    value[16] = u8::from(commits);
    value
}

impl Writer {
    /// A producer that is yet to begin.
    pub(super) fn new(nth: usize, id: String, line: usize, partitions: Vec<i32>) -> Self {
        Self {
            nth,
            id,
            line,
            partitions,
            producer: Producer { id: ProducerId(-1), epoch: ProducerEpoch(-1) },
            sequences: BTreeMap::new(),
            state: State::Begins,
            count: 0,
            due: Instant::default(),
            step_begun: Instant::default(),
            again: Vec::new(),
            batches: Vec::new(),
        }
    }

    /// Whether its transaction is committed, not aborted.
    pub(super) fn commits(&self, shape: &Shape) -> bool {
        let every = shape.abort_every;
        every == 0 || !(self.count + 1).is_multiple_of(every)
    }

    /// How many records its transactions have.
    pub(super) fn records(&self, shape: &Shape) -> u64 {
        (self.records_each(shape) * self.partitions.len()) as u64
    }

    fn records_each(&self, shape: &Shape) -> usize {
        shape.records.div_ceil(self.partitions.len())
    }

    /// Whether a transaction is under way.
    pub(super) fn is_busy(&self) -> bool {
        matches!(self.state, State::Adding | State::Producing(_) | State::Ending)
    }

    /// Whom it is from now on.
    pub(super) fn become_producer(&mut self, id: i64, epoch: i16) {
        self.producer = Producer { id: ProducerId(id), epoch: ProducerEpoch(epoch) };
    }

    /// Its transaction has ended. In the newer flow it goes on in an epoch of its own.
    pub(super) fn ended(&mut self, answer: &EndTxnResponse) {
        if 0 <= answer.producer_id {
            self.become_producer(answer.producer_id, answer.producer_epoch);
            self.sequences.clear();
        }
        self.count += 1;
        self.state = State::Idle;
    }

    /// Makes the batches of the next transaction, one for each partition.
    pub(super) fn fill(&mut self, run: u64, shape: &Shape) {
        let (each, commits) = (self.records_each(shape), self.commits(shape));
        self.batches.clear();
        for number in &self.partitions {
            let sequence = self.sequences.entry(*number).or_default();
            let mut builder = BatchBuilder::new(Codec::None)
                .numbered(self.producer, Sequence(*sequence))
                .transactional();
            let value = value(run, self.due, commits, shape.value_bytes);
            let wall_ms = Timestamp(clock::wall_clock_ms());
            (0..each).for_each(|_| builder.append(wall_ms, None, Some(&value)));
            *sequence = sequence.wrapping_add(each as i32) & i32::MAX;
            self.batches.push(builder.build().freeze());
        }
    }

    /// Asks for an epoch of its own.
    pub(super) fn init(&self, lines: &mut Lines<Tag>) -> Result<(), Trouble> {
        let request = InitProducerIdRequest {
            transactional_id: Some(self.id.clone()),
            transaction_timeout_ms: 60_000,
            ..InitProducerIdRequest::default()
        };
        lines.send(self.line, &request, (self.nth, What::Init))
    }

    /// Names the partitions of the transaction.
    pub(super) fn add(&self, topic: &Topic, lines: &mut Lines<Tag>) -> Result<(), Trouble> {
        let named =
            TopicPartitions { topic: topic.name.clone(), partitions: self.partitions.clone() };
        let request = AddPartitionsToTxnRequest {
            v3_and_below_transactional_id: self.id.clone(),
            v3_and_below_producer_id: self.producer.id.0,
            v3_and_below_producer_epoch: self.producer.epoch.0,
            v3_and_below_topics: vec![named],
            ..AddPartitionsToTxnRequest::default()
        };
        lines.send(self.line, &request, (self.nth, What::Add))
    }

    /// Sends one of its batches.
    pub(super) fn produce(
        &self,
        place: usize,
        topic: &Topic,
        lines: &mut Lines<Tag>,
    ) -> Result<(), Trouble> {
        lines.send_with(self.line + 1 + place, |connection, now| {
            let by_id = connection.takes_topic_ids(ApiKey::Produce) && !topic.id.is_zero();
            let topic = match by_id {
                true => TopicRef::Id(topic.id),
                false => TopicRef::Name(&topic.name),
            };
            let (partition, records) = (self.partitions[place], &self.batches[place]);
            let request = OutgoingBatches {
                transactional_id: Some(&self.id),
                acks: -1,
                timeout_ms: 30_000,
                partitions: &[OutgoingBatch { topic, partition, records }],
            };
            connection.produce(&request, (self.nth, What::Produce(place)), ANSWER_WITHIN, now)
        })
    }

    /// Commits the transaction, or aborts it.
    pub(super) fn end(&self, shape: &Shape, lines: &mut Lines<Tag>) -> Result<(), Trouble> {
        let request = EndTxnRequest {
            transactional_id: self.id.clone(),
            producer_id: self.producer.id.0,
            producer_epoch: self.producer.epoch.0,
            committed: self.commits(shape),
        };
        lines.send(self.line, &request, (self.nth, What::End))
    }
}
