//! CreateTopics, DeleteTopics, CreatePartitions and the changes of configs: all decided by the
//! controller and answered when the change is in force on every shard of the node.

use tidemill_net::kafka::alter_configs::IncrementalAlterConfigsRequest;
use tidemill_net::kafka::create_partitions::CreatePartitionsRequest;
use tidemill_net::kafka::create_topics::CreateTopicsRequest;
use tidemill_net::kafka::delete_topics::DeleteTopicsRequest;

use super::{Job, ReplyForm};
use crate::controller::{Outcome, Proposal};
use crate::message::Message;
use crate::shard::Shard;

/// A request that waits for the controller.
pub struct Change {
    reply: ReplyForm,
}

impl Shard {
    pub(crate) fn handle_create_topics(&mut self, reply: ReplyForm, request: CreateTopicsRequest) {
        self.propose(reply, Proposal::CreateTopics(request));
    }

    pub(crate) fn handle_delete_topics(&mut self, reply: ReplyForm, request: DeleteTopicsRequest) {
        self.propose(reply, Proposal::DeleteTopics(request));
    }

    pub(crate) fn handle_create_partitions(
        &mut self,
        reply: ReplyForm,
        request: CreatePartitionsRequest,
    ) {
        self.propose(reply, Proposal::CreatePartitions(request));
    }

    pub(crate) fn handle_alter_configs(
        &mut self,
        reply: ReplyForm,
        request: IncrementalAlterConfigsRequest,
    ) {
        self.propose(reply, Proposal::AlterConfigs(request));
    }

    fn propose(&mut self, reply: ReplyForm, proposal: Proposal) {
        let job = self.jobs.insert(Job::Change(Change { reply }));
        self.tell_controller(Message::Propose { job, proposal });
    }

    pub(super) fn finish_change(&mut self, change: Change, outcome: Outcome) {
        match outcome {
            Outcome::CreateTopics(response) => self.reply_message(change.reply, &response),
            Outcome::DeleteTopics(response) => self.reply_message(change.reply, &response),
            Outcome::CreatePartitions(response) => self.reply_message(change.reply, &response),
            Outcome::AlterConfigs(response) => self.reply_message(change.reply, &response),
            Outcome::ProducerIds(_) => unreachable!("no client asks for blocks of producer ids"),
        }
    }
}
