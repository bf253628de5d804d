//! Transactions: beginning, naming partitions and groups, ending, and what tools ask about them.
//!
//! What becomes of a transaction is decided by its coordinator ([`crate::transaction`]), at home
//! where its partition of `__transaction_state` is. Here Kafka's messages become questions to it,
//! and its answers replies in the version asked. A request may come to any shard.

use std::collections::HashSet;
use std::sync::Arc;

use tidemill_net::kafka::add_offsets_to_txn::{AddOffsetsToTxnRequest, AddOffsetsToTxnResponse};
use tidemill_net::kafka::add_partitions_to_txn::{
    AddPartitionsToTxnPartitionResult, AddPartitionsToTxnRequest, AddPartitionsToTxnResponse,
    AddPartitionsToTxnResult, AddPartitionsToTxnTopicResult, AddPartitionsToTxnTransaction,
    BATCHED_FROM,
};
use tidemill_net::kafka::describe_transactions::{
    DescribeTransactionsRequest, DescribeTransactionsResponse, TransactionState,
};
use tidemill_net::kafka::end_txn::{EndTxnRequest, EndTxnResponse, NEW_EPOCH_FROM};
use tidemill_net::kafka::init_producer_id::{
    InitProducerIdRequest, InitProducerIdResponse, NO_PRODUCER_ID,
};
use tidemill_net::kafka::list_transactions::{
    ListTransactionsRequest, ListTransactionsResponse, ListedTransaction,
};
use tidemill_net::kafka::topic_partitions::TopicPartitions;
use tidemill_net::kafka::{ErrorCode, Request as _, TopicRef};
use tidemill_perf::Stage;
use tidemill_record::{Producer, ProducerEpoch, ProducerId, TopicPartition};

use tidemill_replication::controller::OFFSETS_TOPIC;

use super::{Collect, Job, ReplyForm, name_once};
use crate::controller::Proposal;
use crate::coordinator_log::at_home::LogJob;
use crate::limits::GROUP_NAME_BYTES_MAX;
use crate::message::{Answer, Call};
use crate::partition::Times;
use crate::shard::Shard;
use crate::transaction::request::{Filter, Reply, Request};
use crate::transaction::state::{Part, State, Status};
use crate::transactions::TransactionJob;

/// From these versions on clients know that they were fenced, by its own error (KIP-588).
const INIT_FENCED_FROM: i16 = 4;
const ADD_FENCED_FROM: i16 = 2;
const END_FENCED_FROM: i16 = 2;

/// From this version on brokers know of the newer flow, in which a batch adds its partition.
const NEWER_FLOW_FROM: i16 = 5;

/// Which reply the answers of coordinators make.
pub enum Purpose {
    /// InitProducerId.
    Init,
    /// AddPartitionsToTxn, with what is known of each partition that is not asked about.
    AddPartitions(Vec<Added>),
    /// AddOffsetsToTxn.
    AddOffsets,
    /// EndTxn.
    End,
    /// DescribeTransactions.
    Describe(Vec<String>),
    /// ListTransactions, with the filters of states that nobody knows.
    List(Vec<String>),
}

/// One transaction of an AddPartitionsToTxn.
pub struct Added {
    request: AddPartitionsToTxnTransaction,
    /// For each partition in order: refused already, or asked about.
    known: Vec<ErrorCode>,
}

impl Shard {
    // Asking.

    pub(crate) fn handle_init_transactions(
        &mut self,
        reply: ReplyForm,
        request: &InitProducerIdRequest,
        id: &str,
        times: Times,
    ) {
        if !is_transactional_id(id) {
            return self.reply_message(reply, &request.error_response(ErrorCode::InvalidRequest));
        }
        let has_id = request.producer_id != NO_PRODUCER_ID;
        let expected = producer(request.producer_id, request.producer_epoch);
        let asked = Request::Init {
            id: id.into(),
            timeout_ms: request.transaction_timeout_ms,
            expected: has_id.then_some(expected),
        };
        self.ask_transaction(reply, asked, Purpose::Init, times);
    }

    pub(crate) fn handle_add_partitions(
        &mut self,
        reply: ReplyForm,
        request: AddPartitionsToTxnRequest,
        times: Times,
    ) {
        let (mut asked, mut added) = (Vec::new(), Vec::new());
        for transaction in request.into_transactions(reply.version) {
            let known: Vec<ErrorCode> = each(&transaction.topics)
                .map(|(topic, partition)| self.may_be_added(topic, partition))
                .collect();
            let all = known.iter().all(|error| *error == ErrorCode::None);
            // All of a transaction's partitions are added, or none (as in Kafka).
            let known = match all {
                true => known,
                false => known.into_iter().map(not_attempted).collect(),
            };
            if all {
                asked.push(self.question(reply.version, &transaction));
            }
            added.push(Added { request: transaction, known });
        }
        self.ask_all_transactions(reply, asked, Purpose::AddPartitions(added), times);
    }

    fn question(
        &self,
        version: i16,
        transaction: &AddPartitionsToTxnTransaction,
    ) -> Option<(TopicPartition, Request)> {
        let id: Arc<str> = transaction.transactional_id.as_str().into();
        let producer = producer(transaction.producer_id, transaction.producer_epoch);
        let parts = each(&transaction.topics);
        let parts = parts.map(|(topic, partition)| (Arc::from(topic), partition)).collect();
        let is_newer = NEWER_FLOW_FROM <= version;
        let request = match transaction.verify_only {
            true => Request::Verify { id, producer, parts },
            false => Request::Add { id, producer, parts, is_newer, waits: false },
        };
        self.partition_of_transaction(&transaction.transactional_id)
            .map(|coordinator| (coordinator, request))
    }

    fn may_be_added(&self, topic: &str, partition: i32) -> ErrorCode {
        match self.find_partition(TopicRef::Name(topic), partition) {
            // Of the topics of coordinators, that of groups takes part: with what is committed.
            Ok(found)
                if self.is_of_coordinators(found.topic)
                    && !self.groups.coordinators.are_kept_in(found.topic) =>
            {
                ErrorCode::InvalidTopicException
            }
            Ok(_) => ErrorCode::None,
            Err(error) => error,
        }
    }

    pub(crate) fn handle_add_offsets(
        &mut self,
        reply: ReplyForm,
        request: &AddOffsetsToTxnRequest,
        times: Times,
    ) {
        let Some(part) = self.part_of_group(&request.group_id) else {
            // The client comes again: nobody waits for the topic of groups.
            let job = self.jobs.insert(Job::Transactions(TransactionJob::Log(LogJob::Trim)));
            self.jobs.remove(job);
            self.propose(job, Proposal::OffsetsTopic, 0, times);
            let error = ErrorCode::CoordinatorNotAvailable;
            return self.reply_message(reply, &request.error_response(error));
        };
        let asked = Request::Add {
            id: request.transactional_id.as_str().into(),
            producer: producer(request.producer_id, request.producer_epoch),
            parts: vec![part],
            is_newer: false,
            waits: false,
        };
        self.ask_transaction(reply, asked, Purpose::AddOffsets, times);
    }

    /// What becomes part of a transaction that commits offsets of a group.
    pub(crate) fn part_of_group(&self, group: &str) -> Option<Part> {
        let partition = self.partition_of_group(group)?;
        Some((OFFSETS_TOPIC.into(), partition.partition.0))
    }

    pub(crate) fn handle_end_transaction(
        &mut self,
        reply: ReplyForm,
        request: &EndTxnRequest,
        times: Times,
    ) {
        let asked = Request::End {
            id: request.transactional_id.as_str().into(),
            producer: producer(request.producer_id, request.producer_epoch),
            commit: request.committed,
            is_newer: NEW_EPOCH_FROM <= reply.version,
        };
        self.ask_transaction(reply, asked, Purpose::End, times);
    }

    pub(crate) fn handle_describe_transactions(
        &mut self,
        reply: ReplyForm,
        mut request: DescribeTransactionsRequest,
        times: Times,
    ) {
        name_once(&mut request.transactional_ids, &mut HashSet::new());
        let asked = request.transactional_ids.iter().map(|id| {
            let coordinator = self.partition_of_transaction(id)?;
            Some((coordinator, Request::Describe { id: id.as_str().into() }))
        });
        let asked = asked.collect();
        let purpose = Purpose::Describe(request.transactional_ids);
        self.ask_all_transactions(reply, asked, purpose, times);
    }

    pub(crate) fn handle_list_transactions(
        &mut self,
        reply: ReplyForm,
        request: ListTransactionsRequest,
        times: Times,
    ) {
        if request.transactional_id_pattern.as_deref().is_some_and(|pattern| !pattern.is_empty()) {
            let error = ErrorCode::InvalidRegularExpression;
            return self.reply_message(reply, &request.error_response(error));
        }
        let is_known = |name: &String| Status::ALL.iter().any(|status| status.name() == name);
        let (states, unknown): (Vec<_>, Vec<_>) =
            request.state_filters.into_iter().partition(is_known);
        let nothing = states.is_empty() && !unknown.is_empty();
        let filter = Filter {
            states,
            producers: request.producer_id_filters,
            open_for_ms: Some(request.duration_filter).filter(|least| 0 <= *least),
        };
        let all = self.partitions_of_transactions().into_iter().filter(|_| !nothing);
        let asked = all
            .filter(|partition| self.lists_what_is_in(*partition))
            .map(|partition| Some((partition, Request::List(filter.clone()))));
        let asked = asked.collect();
        self.ask_all_transactions(reply, asked, Purpose::List(unknown), times);
    }

    fn ask_transaction(
        &mut self,
        reply: ReplyForm,
        request: Request,
        purpose: Purpose,
        times: Times,
    ) {
        let id = request.id().expect("it is about one");
        let coordinator = self.partition_of_transaction(id);
        let asked = coordinator.map(|coordinator| (coordinator, request));
        self.ask_all_transactions(reply, vec![asked], purpose, times);
    }

    /// Asks coordinators; the reply is made when all have answered. Where nobody can be asked, the
    /// client is to look for the coordinator first.
    fn ask_all_transactions(
        &mut self,
        reply: ReplyForm,
        asked: Vec<Option<(TopicPartition, Request)>>,
        purpose: Purpose,
        times: Times,
    ) {
        let collect = Collect::new(reply, asked.len(), super::Purpose::Transactions(purpose));
        let job = self.jobs.insert(Job::Collect(collect));
        if asked.is_empty() {
            return self.finish_collect(job);
        }
        let mut calls = Vec::new();
        let mut nowhere = Vec::new();
        for (index, asked) in (0..).zip(asked) {
            match asked {
                Some((partition, request)) => {
                    calls.push((index, partition, Call::Transaction(Box::new(request))));
                }
                None => nowhere.push(index),
            }
        }
        for index in nowhere {
            let refused = Reply::Refused(ErrorCode::NotCoordinator);
            self.answered(job, index, Answer::Transaction(Box::new(refused)), times);
        }
        self.call(job, calls, times);
    }

    // Replying.

    pub(super) fn finish_transactions(
        &mut self,
        reply: ReplyForm,
        purpose: Purpose,
        answers: impl Iterator<Item = Answer>,
    ) {
        // What changes a transaction is told when it is on disk.
        self.stamp();
        self.stage_ended(reply.slot, Stage::Durable);
        let mut answers = answers.map(reply_of);
        let version = reply.version;
        match purpose {
            Purpose::Init => {
                let response = match answers.next().expect("one was asked") {
                    Reply::Producer(Producer { id, epoch }) => InitProducerIdResponse {
                        producer_id: id.0,
                        producer_epoch: epoch.0,
                        ..InitProducerIdResponse::default()
                    },
                    other => InitProducerIdResponse {
                        error_code: fenced(error_of(&other), version, INIT_FENCED_FROM),
                        ..InitProducerIdResponse::default()
                    },
                };
                self.reply_message(reply, &response);
            }
            Purpose::AddPartitions(added) => {
                let results =
                    added.into_iter().map(|added| added_result(added, version, &mut answers));
                let response = AddPartitionsToTxnResponse::of(version, results.collect());
                self.reply_message(reply, &response);
            }
            Purpose::AddOffsets => {
                let error = error_of(&answers.next().expect("one was asked"));
                let error_code = fenced(error, version, ADD_FENCED_FROM);
                let response = AddOffsetsToTxnResponse { error_code, ..Default::default() };
                self.reply_message(reply, &response);
            }
            Purpose::End => {
                let response = match answers.next().expect("one was asked") {
                    Reply::Producer(Producer { id, epoch }) => EndTxnResponse {
                        producer_id: id.0,
                        producer_epoch: epoch.0,
                        ..EndTxnResponse::default()
                    },
                    other => EndTxnResponse {
                        error_code: fenced(error_of(&other), version, END_FENCED_FROM),
                        ..EndTxnResponse::default()
                    },
                };
                self.reply_message(reply, &response);
            }
            Purpose::Describe(ids) => {
                let states = ids.into_iter().zip(answers).map(|(id, answer)| match answer {
                    Reply::Described(Some(state)) => told_state(id, &state),
                    Reply::Described(None) => {
                        TransactionState::failed(id, ErrorCode::TransactionalIdNotFound)
                    }
                    other => TransactionState::failed(id, error_of(&other)),
                });
                let transaction_states = states.collect();
                let response =
                    DescribeTransactionsResponse { transaction_states, ..Default::default() };
                self.reply_message(reply, &response);
            }
            Purpose::List(unknown_state_filters) => {
                let mut response =
                    ListTransactionsResponse { unknown_state_filters, ..Default::default() };
                for answer in answers {
                    match answer {
                        Reply::Listed(listed) => {
                            let listed =
                                listed.into_iter().map(|(id, producer, state)| ListedTransaction {
                                    transactional_id: id.to_string(),
                                    producer_id: producer.id.0,
                                    transaction_state: state.to_owned(),
                                });
                            response.transaction_states.extend(listed);
                        }
                        // A coordinator that is not here (any more) has nothing to tell.
                        Reply::Refused(ErrorCode::NotCoordinator) => {}
                        other => response.error_code = error_of(&other),
                    }
                }
                self.reply_message(reply, &response);
            }
        }
    }
}

fn added_result(
    added: Added,
    version: i16,
    answers: &mut impl Iterator<Item = Reply>,
) -> AddPartitionsToTxnResult {
    let Added { request, known } = added;
    let refused = known.iter().any(|error| *error != ErrorCode::None);
    let told: Vec<ErrorCode> = match refused {
        true => known,
        false => match answers.next().expect("it was asked about") {
            Reply::Verified(errors) => errors,
            other => known.iter().map(|_| error_of(&other)).collect(),
        },
    };
    let mut told = told.into_iter();
    let mut result = |partition_index: i32| {
        let error = told.next().expect("one for each partition");
        let error = match error {
            ErrorCode::TransactionAbortable if version <= BATCHED_FROM => {
                ErrorCode::InvalidTxnState
            }
            error => fenced(error, version, ADD_FENCED_FROM),
        };
        AddPartitionsToTxnPartitionResult { partition_index, partition_error_code: error }
    };
    let topics = request.topics.into_iter().map(|topic| AddPartitionsToTxnTopicResult {
        name: topic.topic,
        results_by_partition: topic.partitions.into_iter().map(&mut result).collect(),
    });
    let topic_results = topics.collect();
    AddPartitionsToTxnResult { transactional_id: request.transactional_id, topic_results }
}

/// Of partitions named together with one that cannot be added nothing was tried.
fn not_attempted(error: ErrorCode) -> ErrorCode {
    match error {
        ErrorCode::None => ErrorCode::OperationNotAttempted,
        error => error,
    }
}

fn each(topics: &[TopicPartitions]) -> impl Iterator<Item = (&str, i32)> {
    topics.iter().flat_map(|topic| {
        topic.partitions.iter().map(move |partition| (topic.topic.as_str(), *partition))
    })
}

fn producer(id: i64, epoch: i16) -> Producer {
    Producer { id: ProducerId(id), epoch: ProducerEpoch(epoch) }
}

/// Whether a client can call its transactions so.
pub(super) fn is_transactional_id(id: &str) -> bool {
    (1..=GROUP_NAME_BYTES_MAX).contains(&id.len())
}

/// The error of one who was fenced, in words that its version knows.
fn fenced(error: ErrorCode, version: i16, known_from: i16) -> ErrorCode {
    match error {
        ErrorCode::ProducerFenced if version < known_from => ErrorCode::InvalidProducerEpoch,
        error => error,
    }
}

/// What a coordinator answered, or what the way to it did.
pub(super) fn reply_of(answer: Answer) -> Reply {
    match answer {
        Answer::Transaction(reply) => *reply,
        Answer::Refused { error: ErrorCode::RequestTimedOut, .. } => {
            Reply::Refused(ErrorCode::CoordinatorNotAvailable)
        }
        Answer::Refused { .. } => Reply::Refused(ErrorCode::NotCoordinator),
        other => unreachable!("a coordinator answers as such, not with {other:?}"),
    }
}

fn error_of(reply: &Reply) -> ErrorCode {
    match reply {
        Reply::Refused(error) => *error,
        Reply::Done => ErrorCode::None,
        other => unreachable!("a coordinator answers what it is asked, not {other:?}"),
    }
}

fn told_state(transactional_id: String, state: &State) -> TransactionState {
    let mut topics: Vec<TopicPartitions> = Vec::new();
    for (topic, partition) in &state.partitions {
        match topics.last_mut() {
            Some(last) if *last.topic == **topic => last.partitions.push(*partition),
            _ => topics
                .push(TopicPartitions { topic: topic.to_string(), partitions: vec![*partition] }),
        }
    }
    TransactionState {
        transactional_id,
        transaction_state: state.status.name().to_owned(),
        transaction_timeout_ms: state.timeout_ms,
        // Also once it is complete, until the next one begins.
        transaction_start_time_ms: state.started_ms.unwrap_or(-1),
        producer_id: state.producer.id.0,
        producer_epoch: state.producer.epoch.0,
        topics,
        ..TransactionState::default()
    }
}
