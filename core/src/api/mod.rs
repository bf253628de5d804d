//! The APIs: what each request means here, one file per family.
//!
//! A request that can be answered from what this shard knows is answered at once. Any other
//! becomes a [`Job`]: it asks the home shards of its partitions (`Call`) or the controller
//! ([`crate::controller::Proposal`]), collects their answers and then replies.

pub mod acls;
pub mod cluster;
pub mod configs;
pub mod consumer_groups;
pub mod coordinators;
pub mod credentials;
pub mod fetch;
pub mod fetch_session;
pub mod group_offsets;
pub mod groups;
mod hints;
pub mod log_dirs;
pub mod markers;
pub mod metadata;
pub mod offsets;
pub mod produce;
pub mod producer_ids;
pub mod quotas;
pub mod replicas;
pub mod share_fetch;
pub mod share_groups;
pub mod share_offsets;
pub mod share_session;
pub mod topic_partitions;
pub mod topics;
pub mod transactions;

use std::collections::HashSet;
use std::hash::Hash;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tidemill_net::kafka::{self, ErrorCode, Message, TopicRef};
use tidemill_perf::Stage;
use tidemill_record::{PartitionId, TopicId, TopicPartition};
use tidemill_replication::metadata::Topic;
use tidemill_runtime::edge::Instant;

use crate::connection::ReplySlot;
use crate::controller::Outcome;
use crate::coordinator::Coordinator as GroupCoordinator;
use crate::coordinator_log::at_home::LogJob;
use crate::job::JobId;
use crate::limits::REQUEST_WAIT_MS_MAX;
use crate::message::Answer;
use crate::partition::Times;
use crate::shard::Shard;
use crate::share;
use crate::transaction::Coordinator as TransactionCoordinator;
use crate::transactions::TransactionJob;

/// Leaves out what was named before. A request can name one thing as often as it likes, and what is
/// told of it may be long: told each time, the reply would have no bound. False if by that nothing
/// is left.
fn name_once<T: Clone + Eq + Hash>(named: &mut Vec<T>, seen: &mut HashSet<T>) -> bool {
    let was_empty = named.is_empty();
    named.retain(|one| seen.insert(one.clone()));
    was_empty || !named.is_empty()
}

/// Where an answer goes and in which form.
#[derive(Clone, Copy, Debug)]
pub struct ReplyForm {
    /// The slot of the request.
    pub slot: ReplySlot,
    /// The version asked in.
    pub version: i16,
    /// The number the client gave its request.
    pub correlation_id: i32,
}

/// A request under way.
pub enum Job {
    /// One call per partition; the reply is made when all are answered.
    Collect(Collect),
    /// A fetch: rounds of reads until there is enough.
    Fetch(Box<fetch::Fetch>),
    /// Waits for the controller.
    Change(topics::Change),
    /// Metadata that makes a topic first.
    AutoCreate(Box<metadata::AutoCreate>),
    /// Waits until this shard has producer ids again.
    ProducerId(ReplyForm),
    /// Waits until this shard has producer ids again, for the transactions of this partition.
    TransactionProducerId(TopicPartition),
    /// Fetches new producer ids for all who wait.
    ProducerIdGrant,
    /// Waits until there is a topic for groups.
    FindCoordinator(Box<coordinators::Find>),
    /// What is asked for the first share group, until there is a topic for what those have read.
    ShareTopic(ReplyForm, share_groups::First),
    /// A member of a share group fetches: see [`share_fetch`].
    ShareFetch(Box<share_fetch::ShareFetch>),
    /// What share groups have read is asked about: see [`share_offsets`].
    ShareOffsets(Box<share_offsets::Work>),
    /// Nobody waits for what comes of it.
    Nobody,
    /// Of the share groups' own: see [`crate::shares`].
    Shares(LogJob),
    /// Of the groups' own: see [`crate::groups`].
    Groups(LogJob),
    /// Of the transactions' own: see [`crate::transactions`].
    Transactions(TransactionJob),
}

/// A job of one answer per partition.
pub struct Collect {
    /// Where the reply goes.
    pub reply: ReplyForm,
    /// By the index of the call; `None` until it has come.
    pub answers: Vec<Option<Answer>>,
    /// How many have not come.
    pub missing: usize,
    /// What the reply is made of.
    pub purpose: Purpose,
}

/// Which reply a [`Collect`] makes.
pub enum Purpose {
    /// See [`produce`].
    Produce(produce::Produce),
    /// See [`offsets`].
    ListOffsets(tidemill_net::kafka::list_offsets::ListOffsetsRequest),
    /// See [`offsets`].
    EpochEnds(tidemill_net::kafka::offset_for_leader_epoch::OffsetForLeaderEpochRequest),
    /// See [`offsets`].
    Trim(tidemill_net::kafka::delete_records::DeleteRecordsRequest),
    /// See [`markers`].
    Markers(tidemill_net::kafka::write_txn_markers::WriteTxnMarkersRequest),
    /// See [`markers`].
    Producers(tidemill_net::kafka::describe_producers::DescribeProducersRequest),
    /// See [`groups`] and [`group_offsets`].
    Groups(groups::Purpose),
    /// See [`transactions`].
    Transactions(transactions::Purpose),
    /// See [`share_fetch`].
    ShareAcknowledge(share_fetch::Acknowledge),
    /// See [`log_dirs`].
    LogDirs(log_dirs::LogDirs),
}

/// A topic as a request has named it.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum TopicName {
    /// By name.
    Name(Arc<str>),
    /// By id.
    Id(TopicId),
}

impl TopicName {
    /// As the wire wants it.
    pub fn as_ref(&self) -> TopicRef<'_> {
        match self {
            Self::Name(name) => TopicRef::Name(name),
            Self::Id(id) => TopicRef::Id(*id),
        }
    }
}

impl Collect {
    /// A job that waits for `count` answers.
    pub fn new(reply: ReplyForm, count: usize, purpose: Purpose) -> Self {
        let answers = (0..count).map(|_| None).collect();
        Self { reply, answers, missing: count, purpose }
    }

    /// Sets the answer of one call; later ones to the same call are ignored.
    pub fn fill(&mut self, index: u32, answer: Answer) {
        let place = &mut self.answers[index as usize];
        if place.is_none() {
            *place = Some(answer);
            self.missing -= 1;
        }
    }
}

/// When a request is answered at the latest, by the timeout it carries.
fn deadline_of(timeout_ms: i32, times: Times) -> Instant {
    // Old versions carry no timeout, and some clients send 0 for "as long as it takes".
    let wait_ms = match u64::try_from(timeout_ms) {
        Ok(0) | Err(_) => REQUEST_WAIT_MS_MAX,
        Ok(wait_ms) => wait_ms.min(REQUEST_WAIT_MS_MAX),
    };
    times.now.after(Duration::from_millis(wait_ms))
}

impl Shard {
    /// An answer has come for a job of this shard; if the job has ended, nobody misses it.
    pub(crate) fn answered(&mut self, id: JobId, index: u32, answer: Answer, times: Times) {
        match self.jobs.get_mut(id) {
            Some(Job::Collect(collect)) => {
                collect.fill(index, answer);
                if collect.missing == 0 {
                    self.finish_collect(id);
                }
            }
            Some(Job::Fetch(_)) => self.fetch_answered(id, index, answer, times),
            Some(Job::Groups(job)) => {
                let job = *job;
                self.log_job_answered::<GroupCoordinator>(id, job, answer, times);
            }
            Some(Job::ShareFetch(_)) => self.share_fetch_answered(id, index, answer, times),
            Some(Job::ShareOffsets(_)) => self.share_offsets_answered(id, index, answer, times),
            Some(Job::Nobody) => {}
            Some(Job::Shares(job)) => {
                let job = *job;
                self.log_job_answered::<share::Coordinator>(id, job, answer, times);
            }
            Some(Job::Transactions(_)) => self.transaction_job_answered(id, answer, times),
            Some(_) => unreachable!("only jobs that call are answered"),
            None => {}
        }
    }

    /// The controller has carried out or refused a proposal.
    pub(crate) fn proposed(&mut self, id: JobId, outcome: Outcome, times: Times) {
        match self.jobs.remove(id) {
            Some(Job::Change(change)) => self.finish_change(change, outcome),
            Some(Job::AutoCreate(create)) => self.finish_auto_create(*create, outcome),
            Some(Job::ProducerIdGrant) => self.producer_ids_granted(outcome, times),
            Some(Job::FindCoordinator(find)) => self.offsets_topic_made(*find, &outcome),
            Some(Job::ShareTopic(reply, first)) => self.share_topic_made(reply, first, &outcome),
            Some(_) => unreachable!("only changes are proposed"),
            None => {}
        }
    }

    /// The deadline of a job has passed.
    pub(crate) fn job_expired(&mut self, id: JobId, times: Times) {
        match self.jobs.get_mut(id) {
            Some(Job::Collect(collect)) => {
                for index in 0..collect.answers.len() {
                    let message = Some("not done within the request's timeout".to_owned());
                    let error = ErrorCode::RequestTimedOut;
                    collect.fill(index as u32, Answer::Refused { error, message });
                }
                self.finish_collect(id);
            }
            Some(Job::Fetch(_)) => self.fetch_expired(id, times),
            Some(Job::Groups(_)) => self.log_job_expired::<GroupCoordinator>(id, times),
            Some(Job::Transactions(_)) => self.log_job_expired::<TransactionCoordinator>(id, times),
            Some(Job::ShareFetch(_)) => self.share_fetch_expired(id, times),
            Some(Job::Shares(_)) => self.log_job_expired::<share::Coordinator>(id, times),
            Some(Job::Nobody) => {
                self.jobs.remove(id);
            }
            Some(Job::TransactionProducerId(_)) => {}
            Some(Job::ProducerIdGrant | Job::ShareOffsets(_)) | None => {}
            Some(
                Job::Change(_)
                | Job::AutoCreate(_)
                | Job::ProducerId(_)
                | Job::FindCoordinator(_)
                | Job::ShareTopic(..),
            ) => match self.jobs.remove(id) {
                Some(Job::Change(change)) => self.change_expired(change),
                Some(Job::AutoCreate(create)) => self.auto_create_expired(*create),
                Some(Job::ProducerId(reply)) => self.producer_id_expired(id, reply),
                Some(Job::FindCoordinator(find)) => self.find_coordinator_expired(*find),
                Some(Job::ShareTopic(reply, first)) => self.share_topic_awaited(reply, first),
                _ => unreachable!("just seen"),
            },
        }
    }

    pub(crate) fn finish_collect(&mut self, id: JobId) {
        let Some(Job::Collect(collect)) = self.jobs.remove(id) else {
            unreachable!("the caller has just seen it");
        };
        let Collect { reply, answers, purpose, .. } = collect;
        let answers = answers.into_iter().map(|answer| answer.expect("all have come"));
        match purpose {
            Purpose::Produce(produce) => self.finish_produce(reply, produce, answers),
            Purpose::ListOffsets(request) => self.finish_list_offsets(reply, &request, answers),
            Purpose::EpochEnds(request) => self.finish_epoch_ends(reply, &request, answers),
            Purpose::Trim(request) => self.finish_trim(reply, &request, answers),
            Purpose::Markers(request) => self.finish_markers(reply, request, answers),
            Purpose::Producers(request) => {
                self.finish_describe_producers(reply, request, answers);
            }
            Purpose::Groups(purpose) => self.finish_groups(reply, purpose, answers),
            Purpose::Transactions(purpose) => self.finish_transactions(reply, purpose, answers),
            Purpose::ShareAcknowledge(request) => {
                self.finish_share_acknowledge(reply, request, answers);
            }
            Purpose::LogDirs(asked) => self.finish_log_dirs(reply, asked, answers),
        }
    }

    /// Sends a message as the reply to a request.
    pub(crate) fn reply_message<M: Message>(&mut self, reply: ReplyForm, message: &M) {
        let mut out = BytesMut::new();
        kafka::encode_response(&mut out, reply.version, reply.correlation_id, message);
        self.reply_bytes(reply, out.freeze());
    }

    /// Sends encoded bytes as the reply to a request of no stages of its own.
    pub(crate) fn reply_bytes(&mut self, reply: ReplyForm, bytes: Bytes) {
        let ended_at = self.stamp();
        self.reply(reply.slot, Some((Stage::Work, ended_at)), vec![bytes]);
    }

    /// Finds the topic a request names.
    pub(crate) fn find_topic(&self, topic: TopicRef<'_>) -> Option<&Topic> {
        match topic {
            TopicRef::Name(name) => self.image.topic_named(name),
            TopicRef::Id(id) => self.image.topic(id),
        }
        .map(Arc::as_ref)
    }

    /// Finds the partition a request names.
    pub(crate) fn find_partition(
        &self,
        topic: TopicRef<'_>,
        partition: i32,
    ) -> Result<TopicPartition, ErrorCode> {
        partition_of(self.find_topic(topic), topic, partition)
    }

    /// The name of a topic in owned form; without a copy if the topic exists.
    pub(crate) fn own_topic(&self, topic: TopicRef<'_>) -> TopicName {
        own_name(self.find_topic(topic), topic)
    }
}

/// The partition a request names, in the topic that was found for it.
fn partition_of(
    found: Option<&Topic>,
    topic: TopicRef<'_>,
    partition: i32,
) -> Result<TopicPartition, ErrorCode> {
    let found = found.ok_or(match topic {
        TopicRef::Name(_) => ErrorCode::UnknownTopicOrPartition,
        TopicRef::Id(_) => ErrorCode::UnknownTopicId,
    })?;
    let exists = usize::try_from(partition).is_ok_and(|p| p < found.partitions.len());
    if !exists {
        return Err(ErrorCode::UnknownTopicOrPartition);
    }
    Ok(TopicPartition { topic: found.id, partition: PartitionId(partition) })
}

/// The name by which a request names a topic, in owned form.
fn own_name(found: Option<&Topic>, topic: TopicRef<'_>) -> TopicName {
    match (topic, found) {
        (TopicRef::Id(id), _) => TopicName::Id(id),
        (TopicRef::Name(_), Some(found)) => TopicName::Name(Arc::clone(&found.name)),
        (TopicRef::Name(name), None) => TopicName::Name(Arc::from(name)),
    }
}
