//! Who coordinates a group, or the transactions of a producer: FindCoordinator.
//!
//! That is the shard where the partition of `__consumer_offsets` or `__transaction_state` is at home
//! that the name hashes to. The first to ask has that topic made, and waits for it.
//!
//! Also: which of them this shard tells of when it is asked to list all it looks after.

use tidemill_net::kafka::ErrorCode;
use tidemill_net::kafka::find_coordinator::{
    Coordinator, FindCoordinatorRequest, FindCoordinatorResponse, key_type,
};
use tidemill_record::TopicPartition;
use tidemill_replication::controller::{OFFSETS_TOPIC, TRANSACTIONS_TOPIC};

use super::{Job, ReplyForm, deadline_of};
use crate::config::Routing;
use crate::controller::{Outcome, Proposal};
use crate::limits::{GROUP_NAME_BYTES_MAX, REQUEST_WAIT_MS_DEFAULT};
use crate::partition::Times;
use crate::placement;
use crate::shard::Shard;

/// A question for a coordinator that waits until there is one.
pub struct Find {
    reply: ReplyForm,
    request: FindCoordinatorRequest,
}

impl Shard {
    pub(crate) fn handle_find_coordinator(
        &mut self,
        reply: ReplyForm,
        request: FindCoordinatorRequest,
        times: Times,
    ) {
        let (topic, proposal) = match request.key_type {
            key_type::TRANSACTION => (TRANSACTIONS_TOPIC, Proposal::TransactionsTopic),
            _ => (OFFSETS_TOPIC, Proposal::OffsetsTopic),
        };
        if request.key_type == key_type::SHARE || self.image.topic_named(topic).is_some() {
            return self.tell_coordinator(reply, &request, ErrorCode::CoordinatorNotAvailable);
        }
        let find = Find { reply, request };
        let job = self.jobs.insert(Job::FindCoordinator(Box::new(find)));
        self.jobs.set_deadline(job, deadline_of(REQUEST_WAIT_MS_DEFAULT, times));
        self.propose(job, proposal, 0, times);
    }

    pub(super) fn offsets_topic_made(&mut self, find: Find, outcome: &Outcome) {
        let Outcome::InternalTopic(error) = outcome else {
            unreachable!("a topic of the broker's own was to be made");
        };
        tracing::debug!(%error, "the topic of a coordinator");
        // Whatever went wrong, the client looks again later.
        self.tell_coordinator(find.reply, &find.request, ErrorCode::CoordinatorNotAvailable);
    }

    pub(super) fn find_coordinator_expired(&mut self, find: Find) {
        self.tell_coordinator(find.reply, &find.request, ErrorCode::CoordinatorNotAvailable);
    }

    fn tell_coordinator(
        &mut self,
        reply: ReplyForm,
        request: &FindCoordinatorRequest,
        unknown: ErrorCode,
    ) {
        let keys = request.keys(reply.version).iter();
        let found = keys.map(|key| self.coordinator_of(key, request.key_type, unknown));
        let response = FindCoordinatorResponse::of(found.collect());
        self.reply_message(reply, &response);
    }

    /// Whether a list that is asked of this shard tells of what is kept in this partition.
    ///
    /// Clients ask every broker they know for what it looks after itself, and some put the answers
    /// together as they are: where each shard is told as a broker, it tells of its own only.
    pub(super) fn lists_what_is_in(&self, partition: TopicPartition) -> bool {
        self.settings.endpoints.routing() == Routing::Node
            || placement::home(partition, self.settings.shards) == self.id
    }

    fn coordinator_of(&self, key: &str, kind: i8, unknown: ErrorCode) -> Coordinator {
        if kind != key_type::GROUP && kind != key_type::TRANSACTION {
            let message = Some("no coordinators of this kind are here yet".to_owned());
            let failed = Coordinator::failed(key.to_owned(), ErrorCode::InvalidRequest);
            return Coordinator { error_message: message, ..failed };
        }
        let of_groups = kind == key_type::GROUP;
        // The empty key is one like others, as in Kafka: a group without a name may keep offsets. What
        // else needs a name is refused by the coordinator.
        if GROUP_NAME_BYTES_MAX < key.len() {
            let error =
                if of_groups { ErrorCode::InvalidGroupId } else { ErrorCode::InvalidRequest };
            return Coordinator::failed(key.to_owned(), error);
        }
        let found = match of_groups {
            true => self.partition_of_group(key),
            false => self.partition_of_transaction(key),
        };
        let Some(partition) = found else {
            return Coordinator::failed(key.to_owned(), unknown);
        };
        let endpoint = self.settings.endpoints.endpoint_of(partition, self.settings.shards);
        Coordinator {
            key: key.to_owned(),
            node_id: endpoint.id,
            host: endpoint.host.to_owned(),
            port: i32::from(endpoint.port),
            ..Coordinator::default()
        }
    }
}
