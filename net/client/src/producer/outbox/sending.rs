//! Filling requests: from the queues of leaders, as long as those have room.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use tidemill_net::kafka::init_producer_id::InitProducerIdRequest;
use tidemill_net::kafka::produce::{OutgoingBatch, OutgoingBatches};
use tidemill_net::kafka::{ApiKey, TopicRef};

use super::super::Acks;
use super::super::batch::State;
use super::super::part::{Next, next_epoch};
use super::{Ask, Outbox, Sent};
use crate::cluster::{NotSent, Peer};
use crate::error::Error;
use crate::time::Instant;

impl Outbox {
    /// Sends what can be sent.
    pub(in crate::producer) fn send(&mut self, now: Instant) {
        let nodes: Vec<i32> = self.ready.keys().copied().collect();
        let anything = self.ready.values().any(|queue| !queue.is_empty());
        if !anything {
            return;
        }
        if self.needs_id() {
            return self.ask_for_id(now);
        }
        for node in nodes {
            if node < 0 {
                if !self.ready[&node].is_empty() {
                    self.cluster.refresh(now);
                }
                continue;
            }
            while self.send_to(node, now) {}
        }
        self.ready.retain(|_, queue| !queue.is_empty());
    }

    fn ask_for_id(&mut self, now: Instant) {
        if self.id_asked || self.id_again_at.is_some() {
            return;
        }
        let request = InitProducerIdRequest {
            transaction_timeout_ms: i32::MAX,
            ..InitProducerIdRequest::default()
        };
        let wait = Duration::ZERO;
        match self.cluster.send(Peer::Any, &request, wait, Ask::Id, now) {
            Ok(()) => self.id_asked = true,
            Err(NotSent::NoCommonVersion { api, theirs }) => {
                let error = Error::unsupported("cannot get a producer id", api, theirs);
                self.hopeless = Some(error.fix("use a newer broker, or set idempotent to false"));
            }
            Err(_) => {}
        }
    }

    /// Fills one request for a node and sends it; false if there is nothing to send, or no room.
    fn send_to(&mut self, node: i32, now: Instant) -> bool {
        if self.ready.get(&node).is_none_or(VecDeque::is_empty) {
            return false;
        }
        let by_id = match self.cluster.room_at(node, ApiKey::Produce, now) {
            Ok(by_id) => by_id,
            Err(NotSent::NotNow) => return false,
            Err(_) => {
                self.cluster.refresh(now);
                return false;
            }
        };
        let mut sent = Vec::new();
        let mut bytes = Vec::new();
        let mut request_bytes = 0;
        let mut others = Vec::new();
        let queue_length = self.ready[&node].len();
        for _ in 0..queue_length {
            let queue = self.ready.get_mut(&node).expect("looked at above");
            let Some(index) = queue.pop_front() else { break };
            self.parts[index].queued = false;
            self.renew_epoch(index);
            let part = &mut self.parts[index];
            match part.next(self.identity, now) {
                // Its turn has come while its open batch was not at hand: the next exchange brings
                // it.
                Next::Nothing if part.wants_open(self.identity) => others.push(index),
                Next::Nothing => {}
                Next::Rest(until) => {
                    part.queued = true;
                    self.resting.insert((until, index));
                }
                Next::Batch(at) => {
                    let id = self.cluster.map().topic(&part.topic).map(|view| view.id);
                    let id = id.filter(|id| by_id && !id.is_zero());
                    if let Some(identity) = self.identity {
                        part.number(at, identity);
                    }
                    let batch = part.batches[at].bytes();
                    let fits = request_bytes + batch.len() <= self.config.request_bytes;
                    let same_kind =
                        sent.first().is_none_or(|first: &Sent| first.id.is_some() == id.is_some());
                    let joins = sent.is_empty() || fits && same_kind;
                    if !joins {
                        part.queued = true;
                        self.ready.entry(node).or_default().push_front(index);
                        break;
                    }
                    request_bytes += batch.len();
                    part.batches[at].state = State::InFlight;
                    sent.push(Sent { part: index, number: part.batches[at].number, id });
                    bytes.push(batch);
                }
            }
        }
        self.open_is_wanted |= !others.is_empty();
        for index in others {
            self.queue(index);
        }
        !sent.is_empty() && self.send_request(node, sent, &bytes, now)
    }

    /// What a partition was numbered with is spoilt: the next epoch of the producer begins.
    fn renew_epoch(&mut self, index: usize) {
        let part = &self.parts[index];
        let spoilt = part.needs_new_epoch && part.in_flight() == 0;
        if spoilt && part.identity == self.identity {
            // Without a next epoch, a new id is asked for.
            self.identity = self.identity.and_then(next_epoch);
        }
    }

    fn send_request(&mut self, node: i32, sent: Vec<Sent>, bytes: &[Bytes], now: Instant) -> bool {
        if self.needs_id() {
            // The last epoch has just been used up: nothing was numbered, so nothing is sent.
            self.put_back(&sent, now);
            return false;
        }
        // One batch of a partition for each request: those that have more stand at the end again.
        for sent in &sent {
            self.queue_if_more(sent.part);
        }
        let partitions: Vec<OutgoingBatch<'_>> = sent
            .iter()
            .zip(bytes)
            .map(|(sent, records)| OutgoingBatch {
                topic: match sent.id {
                    Some(id) => TopicRef::Id(id),
                    None => TopicRef::Name(&self.parts[sent.part].topic),
                },
                partition: self.parts[sent.part].partition,
                records,
            })
            .collect();
        let timeout_ms = self.config.cluster.request_timeout.as_millis();
        let request = OutgoingBatches {
            transactional_id: None,
            acks: self.config.acks.to_wire(),
            timeout_ms: i32::try_from(timeout_ms).unwrap_or(i32::MAX),
            partitions: &partitions,
        };
        let ask = Ask::Append { node, batches: sent.clone() };
        match self.cluster.produce(node, &request, ask, now) {
            Ok(()) if self.config.acks == Acks::None => {
                for sent in &sent {
                    self.complete(sent.part, sent.number, -1);
                }
                true
            }
            Ok(()) => true,
            Err(NotSent::NoCommonVersion { api, theirs }) => {
                for sent in &sent {
                    let error = Error::unsupported(self.what(sent.part), api, theirs);
                    let at = self.parts[sent.part].position(sent.number);
                    self.give_up(sent.part, at.expect("just sent"), error);
                }
                false
            }
            Err(_) => {
                self.put_back(&sent, now);
                false
            }
        }
    }

    fn queue_if_more(&mut self, index: usize) {
        let part = &self.parts[index];
        let waits = part.batches.iter().any(|batch| batch.state != State::InFlight);
        if waits || part.open_is_due {
            self.queue(index);
        }
    }

    /// What was not sent after all.
    fn put_back(&mut self, sent: &[Sent], now: Instant) {
        for sent in sent {
            let part = &mut self.parts[sent.part];
            let at = part.position(sent.number).expect("it has just been taken out");
            part.batches[at].state = State::Waiting(now);
            self.queue(sent.part);
        }
    }
}
