//! What the producer makes of answers: stored, again, halved, given up.

use std::sync::Arc;
use std::time::Duration;

use tidemill_net::cursor::WireError;
use tidemill_net::kafka::init_producer_id::InitProducerIdResponse;
use tidemill_net::kafka::produce::{ProducePartitionResponse, ProduceResponse};
use tidemill_net::kafka::{ErrorCode, TopicRef};
use tidemill_record::{Producer as Identity, ProducerEpoch, ProducerId};

use super::super::batch::{Batch, State};
use super::{Outbox, Sent, Settled};
use crate::cluster::Address;
use crate::connection::Reply;
use crate::error::Error;
use crate::time::Instant;

impl Outbox {
    pub(super) fn take_id(&mut self, reply: &Reply, now: Instant) {
        self.id_asked = false;
        let answer = reply.decode::<InitProducerIdResponse>();
        let error = match answer {
            Ok(answer) if answer.error_code.is_none() => {
                self.identity = Some(Identity {
                    id: ProducerId(answer.producer_id),
                    epoch: ProducerEpoch(answer.producer_epoch),
                });
                self.id_trouble = None;
                return;
            }
            Ok(answer) => answer.error_code,
            Err(_) => ErrorCode::UnknownServerError,
        };
        self.id_again_at = Some(now.plus(self.config.retry.delay(1, &mut self.random)));
        let refused = Error::refused("cannot get a producer id", error, None);
        if !error.is_retriable() {
            self.hopeless = Some(refused.clone());
        }
        self.id_trouble = Some(refused);
    }

    pub(super) fn take_loss(&mut self, batches: &[Sent], now: Instant) {
        let trouble = self.cluster.trouble().map(str::to_owned);
        for sent in batches {
            let Some(at) = self.parts[sent.part].position(sent.number) else { continue };
            self.try_again(sent.part, at, trouble.clone(), now);
        }
    }

    pub(super) fn take_answers(
        &mut self,
        node: i32,
        batches: &[Sent],
        reply: &Reply,
        now: Instant,
    ) {
        let response = match reply.produce() {
            Ok(response) => response,
            Err(error) => return self.unreadable(batches, error, now),
        };
        if let Ok(ms @ 1..) = u64::try_from(response.throttle_time_ms) {
            self.cluster.keep_quiet(node, now.plus(Duration::from_millis(ms)));
        }
        for (at, sent) in batches.iter().enumerate() {
            let answer = self.answer_for(sent, at, &response).cloned();
            match answer {
                Some(answer) => self.take_answer(sent, &answer, &response, now),
                None => self.take_loss(std::slice::from_ref(sent), now),
            }
        }
    }

    fn unreadable(&mut self, batches: &[Sent], error: WireError, now: Instant) {
        for sent in batches {
            let Some(at) = self.parts[sent.part].position(sent.number) else { continue };
            let trouble = format!("the broker's answer cannot be read: {error}");
            self.try_again(sent.part, at, Some(trouble), now);
        }
    }

    /// The answer for one batch: most brokers keep the order of the request, none has to.
    fn answer_for<'a>(
        &self,
        sent: &Sent,
        at: usize,
        response: &'a ProduceResponse<'a>,
    ) -> Option<&'a ProducePartitionResponse<'a>> {
        let part = &self.parts[sent.part];
        let fits = |answer: &&ProducePartitionResponse<'_>| {
            let same_topic = match (answer.topic, sent.id) {
                (TopicRef::Id(found), Some(id)) => found == id,
                (TopicRef::Name(found), None) => found == &*part.topic,
                _ => false,
            };
            same_topic && answer.partition == part.partition
        };
        let expected = response.partitions.get(at).filter(fits);
        expected.or_else(|| response.partitions.iter().find(fits))
    }

    fn take_answer(
        &mut self,
        sent: &Sent,
        answer: &ProducePartitionResponse<'_>,
        response: &ProduceResponse<'_>,
        now: Instant,
    ) {
        let index = sent.part;
        let Some(at) = self.parts[index].position(sent.number) else { return };
        let error = answer.error_code;
        match error {
            // A repeat whose place is not known any more: it is stored all the same.
            ErrorCode::None | ErrorCode::DuplicateSequenceNumber => {
                return self.complete(index, sent.number, answer.base_offset);
            }
            ErrorCode::MessageTooLarge if self.halve(index, at) => return self.queue(index),
            ErrorCode::OutOfOrderSequenceNumber if self.config.idempotent => {
                // What is not the first follows one that failed. But the first was told to follow
                // what is stored: the broker has lost count.
                self.parts[index].needs_new_epoch |= at == 0;
            }
            ErrorCode::UnknownProducerId | ErrorCode::InvalidProducerEpoch
                if self.config.idempotent =>
            {
                self.parts[index].needs_new_epoch = true;
            }
            _ if is_about_leadership(error) => {
                if !self.take_hint(index, answer, response) {
                    self.cluster.refresh(now);
                }
            }
            _ if error.is_retriable() => {}
            _ => {
                let words = answer.error_message.as_deref();
                let refused = Error::refused(self.what(index), error, words);
                self.give_up(index, at, refused);
                return self.queue(index);
            }
        }
        let trouble = match answer.error_message.as_deref() {
            Some(words) if !words.is_empty() => format!("{error}: {words}"),
            _ => error.to_string(),
        };
        self.try_again(index, at, Some(trouble), now);
    }

    /// The broker has told who leads instead (KIP-951).
    fn take_hint(
        &mut self,
        index: usize,
        answer: &ProducePartitionResponse<'_>,
        response: &ProduceResponse<'_>,
    ) -> bool {
        let Some(hint) = answer.current_leader else { return false };
        let endpoint = response.node_endpoints.iter().find(|e| e.node_id == hint.leader_id);
        let address = endpoint.and_then(|endpoint| {
            let port = u16::try_from(endpoint.port).ok()?;
            Some(Address { host: endpoint.host.into(), port })
        });
        let part = &self.parts[index];
        let (topic, partition) = (part.topic.clone(), part.partition);
        self.cluster.map_mut().take_hint(&topic, partition, hint, address)
    }

    /// Makes two batches of one that is too large, if it has more than one record.
    fn halve(&mut self, index: usize, at: usize) -> bool {
        let part = &mut self.parts[index];
        if part.batches[at].records_count < 2 {
            return false;
        }
        let number = part.take_number();
        let batch = self.remove(index, at);
        let part = &mut self.parts[index];
        let (first, second) = batch.split(number);
        part.batches.insert(at, second);
        part.batches.insert(at, first);
        true
    }

    /// A batch goes out again, unless it has had its time.
    fn try_again(&mut self, index: usize, at: usize, trouble: Option<String>, now: Instant) {
        let batch = &mut self.parts[index].batches[at];
        self.troubled -= usize::from(batch.last_trouble.is_some());
        self.troubled += usize::from(trouble.is_some());
        batch.last_trouble = trouble;
        batch.failed_tries = batch.failed_tries.saturating_add(1);
        let delay = self.config.retry.delay(batch.failed_tries, &mut self.random);
        batch.state = State::Waiting(now.plus(delay));
        self.expire_part(index, now);
        self.queue(index);
    }

    /// A batch is stored.
    pub(super) fn complete(&mut self, index: usize, number: u64, base_offset: i64) {
        let at = self.parts[index].position(number).expect("the caller has found it");
        let batch = self.remove(index, at);
        let part = &mut self.parts[index];
        part.acknowledged = batch.numbered.map(|(producer, _)| producer);
        if part.has_something() {
            self.queue(index);
        }
        self.settle(index, batch, Ok(base_offset));
    }

    /// A batch is given up. If it may be stored all the same, what follows is numbered anew.
    pub(super) fn give_up(&mut self, index: usize, at: usize, error: Error) {
        let batch = self.remove(index, at);
        self.parts[index].needs_new_epoch |= batch.numbered.is_some();
        self.settle(index, batch, Err(error));
    }

    fn remove(&mut self, index: usize, at: usize) -> Batch {
        let batch = self.parts[index].batches.remove(at).expect("the caller has found it there");
        self.troubled -= usize::from(batch.last_trouble.is_some());
        batch
    }

    fn settle(&mut self, index: usize, mut batch: Batch, outcome: Result<i64, Error>) {
        let part = &self.parts[index];
        self.settled.push(Settled {
            topic: Arc::clone(&part.topic),
            partition: part.partition,
            tags: std::mem::take(&mut batch.tags),
            records_count: u64::from(batch.records_count.unsigned_abs()),
            held_bytes: batch.held_bytes,
            outcome,
            memory: batch.into_memory(),
        });
    }
}

/// Whether an error says that somebody else leads, or that the topic is another.
fn is_about_leadership(error: ErrorCode) -> bool {
    matches!(
        error,
        ErrorCode::NotLeaderOrFollower
            | ErrorCode::LeaderNotAvailable
            | ErrorCode::FencedLeaderEpoch
            | ErrorCode::UnknownLeaderEpoch
            | ErrorCode::UnknownTopicOrPartition
            | ErrorCode::UnknownTopicId
            | ErrorCode::InconsistentTopicId
            | ErrorCode::KafkaStorageError
            | ErrorCode::ReplicaNotAvailable
            | ErrorCode::NetworkException
    )
}
