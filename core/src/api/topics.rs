//! CreateTopics, DeleteTopics, CreatePartitions and the changes of configs: all decided by the
//! controller and answered when the change is in force on every shard of the node.

use tidemill_net::kafka::ErrorCode;
use tidemill_net::kafka::alter_configs::{AlterConfigsRequest, IncrementalAlterConfigsRequest};
use tidemill_net::kafka::create_partitions::CreatePartitionsRequest;
use tidemill_net::kafka::create_topics::CreateTopicsRequest;
use tidemill_net::kafka::delete_topics::DeleteTopicsRequest;

use super::{Job, ReplyForm, deadline_of};
use crate::controller::{self, Outcome, Proposal};
use crate::limits::REQUEST_WAIT_MS_DEFAULT;
use crate::partition::Times;
use crate::shard::Shard;

/// A request that waits for the controller.
pub struct Change {
    reply: ReplyForm,
    /// What it is answered when its time is up: the change may still be made.
    timed_out: Box<Outcome>,
}

impl Shard {
    pub(crate) fn handle_create_topics(
        &mut self,
        reply: ReplyForm,
        request: CreateTopicsRequest,
        times: Times,
    ) {
        let timeout_ms = request.timeout_ms;
        self.change(reply, Proposal::CreateTopics(request), timeout_ms, times);
    }

    pub(crate) fn handle_delete_topics(
        &mut self,
        reply: ReplyForm,
        request: DeleteTopicsRequest,
        times: Times,
    ) {
        let timeout_ms = request.timeout_ms;
        self.change(reply, Proposal::DeleteTopics(request), timeout_ms, times);
    }

    pub(crate) fn handle_create_partitions(
        &mut self,
        reply: ReplyForm,
        request: CreatePartitionsRequest,
        times: Times,
    ) {
        let timeout_ms = request.timeout_ms;
        self.change(reply, Proposal::CreatePartitions(request), timeout_ms, times);
    }

    pub(crate) fn handle_alter_configs(
        &mut self,
        reply: ReplyForm,
        request: IncrementalAlterConfigsRequest,
        times: Times,
    ) {
        let timeout_ms = REQUEST_WAIT_MS_DEFAULT;
        self.change(reply, Proposal::AlterConfigs(request), timeout_ms, times);
    }

    pub(crate) fn handle_replace_configs(
        &mut self,
        reply: ReplyForm,
        request: AlterConfigsRequest,
        times: Times,
    ) {
        let timeout_ms = REQUEST_WAIT_MS_DEFAULT;
        self.change(reply, Proposal::ReplaceConfigs(request), timeout_ms, times);
    }

    pub(super) fn change(
        &mut self,
        reply: ReplyForm,
        proposal: Proposal,
        timeout_ms: i32,
        times: Times,
    ) {
        let timed_out = Box::new(controller::refused(&proposal, ErrorCode::RequestTimedOut));
        let job = self.jobs.insert(Job::Change(Change { reply, timed_out }));
        self.jobs.set_deadline(job, deadline_of(timeout_ms, times));
        let request_bytes = self.measured(reply.slot).map_or(0, |measured| measured.size_bytes);
        self.propose(job, proposal, request_bytes, times);
    }

    /// The time a change may take is over. What was asked for may still happen, as in Kafka.
    pub(super) fn change_expired(&mut self, change: Change) {
        let Change { reply, timed_out } = change;
        self.tell_outcome(reply, *timed_out);
    }

    pub(super) fn finish_change(&mut self, change: Change, outcome: Outcome) {
        self.tell_outcome(change.reply, outcome);
    }

    fn tell_outcome(&mut self, reply: ReplyForm, outcome: Outcome) {
        match outcome {
            Outcome::CreateTopics(response) => self.reply_message(reply, &response),
            Outcome::DeleteTopics(response) => self.reply_message(reply, &response),
            Outcome::CreatePartitions(response) => self.reply_message(reply, &response),
            Outcome::AlterConfigs(response) => self.reply_message(reply, &response),
            Outcome::ReplaceConfigs(response) => self.reply_message(reply, &response),
            Outcome::Quorum(response) => self.reply_message(reply, &response),
            Outcome::Quotas(response) => self.reply_message(reply, &response),
            Outcome::ProducerIds(_) | Outcome::InternalTopic(_) => {
                unreachable!("no client asks for these")
            }
        }
    }
}
