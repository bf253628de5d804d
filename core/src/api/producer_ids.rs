//! InitProducerId: a number for a producer that wants no duplicates (KIP-98).
//!
//! Each shard takes numbers from the controller in blocks and hands them out one by one. A number
//! is never handed out twice, in this run or a later one: the block is committed first, and what a
//! stopped shard had left of it is lost.

use std::collections::VecDeque;

use tidemill_net::kafka::init_producer_id::{
    InitProducerIdRequest, InitProducerIdResponse, NO_PRODUCER_EPOCH, NO_PRODUCER_ID,
};
use tidemill_net::kafka::{ErrorCode, Request};

use tidemill_record::TopicPartition;

use super::{Job, ReplyForm, deadline_of};
use crate::controller::{Outcome, Proposal};
use crate::job::JobId;
use crate::limits::REQUEST_WAIT_MS_DEFAULT;
use crate::partition::Times;
use crate::shard::Shard;

/// The numbers a shard has left, and who waits for more.
#[derive(Debug, Default)]
pub struct ProducerIds {
    next: i64,
    end: i64,
    waiting: VecDeque<JobId>,
    asked: bool,
}

impl ProducerIds {
    fn take(&mut self) -> Option<i64> {
        let id = self.next;
        (id < self.end).then(|| {
            self.next += 1;
            id
        })
    }
}

impl Shard {
    pub(crate) fn handle_init_producer_id(
        &mut self,
        reply: ReplyForm,
        request: &InitProducerIdRequest,
        times: Times,
    ) {
        let has_id = request.producer_id != NO_PRODUCER_ID;
        if has_id != (request.producer_epoch != NO_PRODUCER_EPOCH) {
            return self.reply_message(reply, &request.error_response(ErrorCode::InvalidRequest));
        }
        if let Some(id) = request.transactional_id.as_deref() {
            return self.handle_init_transactions(reply, request, id, times);
        }
        // Without a transactional id a producer that lost count gets a new number, as in Kafka:
        // nobody can tell whether the one it names is its own.
        let job = self.jobs.insert(Job::ProducerId(reply));
        self.jobs.set_deadline(job, deadline_of(REQUEST_WAIT_MS_DEFAULT, times));
        self.producer_ids.waiting.push_back(job);
        self.hand_out_producer_ids(times);
    }

    /// A coordinator of transactions wants a number; it is told by [`Shard::give_producer_id`].
    pub(crate) fn want_producer_id(&mut self, partition: TopicPartition, times: Times) {
        let job = self.jobs.insert(Job::TransactionProducerId(partition));
        self.producer_ids.waiting.push_back(job);
        self.hand_out_producer_ids(times);
    }

    fn hand_out_producer_ids(&mut self, times: Times) {
        while !self.producer_ids.waiting.is_empty() {
            let Some(producer_id) = self.producer_ids.take() else { break };
            let job = self.producer_ids.waiting.pop_front().expect("it is not empty");
            match self.jobs.remove(job) {
                Some(Job::ProducerId(reply)) => {
                    let response = InitProducerIdResponse {
                        producer_id,
                        producer_epoch: 0,
                        ..InitProducerIdResponse::default()
                    };
                    self.reply_message(reply, &response);
                }
                Some(Job::TransactionProducerId(partition)) => {
                    self.give_producer_id(partition, Ok(producer_id), times);
                }
                _ => {}
            }
        }
        if !self.producer_ids.waiting.is_empty() && !self.producer_ids.asked {
            self.producer_ids.asked = true;
            let job = self.jobs.insert(Job::ProducerIdGrant);
            self.propose(job, Proposal::ProducerIds, 0, times);
        }
    }

    /// No ids have come for too long.
    pub(super) fn producer_id_expired(&mut self, id: JobId, reply: ReplyForm) {
        // Those who are told when their time is over wait equally long.
        let place = self.producer_ids.waiting.iter().position(|waiting| *waiting == id);
        place.map(|place| self.producer_ids.waiting.remove(place));
        let error_code = ErrorCode::RequestTimedOut;
        let response = InitProducerIdResponse { error_code, ..Default::default() };
        self.reply_message(reply, &response);
    }

    pub(super) fn producer_ids_granted(&mut self, outcome: Outcome, times: Times) {
        self.producer_ids.asked = false;
        match outcome {
            Outcome::ProducerIds(Ok(block)) => {
                self.producer_ids.next = block.start;
                self.producer_ids.end = block.end;
                self.hand_out_producer_ids(times);
            }
            Outcome::ProducerIds(Err(error_code)) => {
                for job in std::mem::take(&mut self.producer_ids.waiting) {
                    match self.jobs.remove(job) {
                        Some(Job::ProducerId(reply)) => {
                            let response =
                                InitProducerIdResponse { error_code, ..Default::default() };
                            self.reply_message(reply, &response);
                        }
                        Some(Job::TransactionProducerId(partition)) => {
                            self.give_producer_id(partition, Err(error_code), times);
                        }
                        _ => {}
                    }
                }
            }
            _ => unreachable!("producer ids were asked for"),
        }
    }
}
