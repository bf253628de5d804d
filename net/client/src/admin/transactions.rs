//! Calls about transactions: what coordinators know of them, what single partitions know of their
//! producers, and ending by hand one that nobody else will end.

use std::sync::Arc;

use tidemill_net::kafka::ErrorCode;
use tidemill_net::kafka::describe_producers::DescribeProducersRequest;
use tidemill_net::kafka::describe_transactions::DescribeTransactionsRequest;
use tidemill_net::kafka::find_coordinator::key_type;
use tidemill_net::kafka::list_transactions::ListTransactionsRequest;
use tidemill_net::kafka::topic_partitions::TopicPartitions;
use tidemill_net::kafka::write_txn_markers::{WritableTxnMarker, WriteTxnMarkersRequest};

use super::Admin;
use crate::cluster::{Map, Peer};
use crate::error::{Error, ErrorKind};

/// A transactional id in a list.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct ListedTransaction {
    /// The transactional id.
    pub id: String,
    /// Its producer.
    pub producer_id: i64,
    /// Its state, in Kafka's words.
    pub state: String,
}

/// Which transactions to list.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct TransactionFilter {
    /// Only in these states; all if empty.
    pub states: Vec<String>,
    /// Only of these producers; all if empty.
    pub producers: Vec<i64>,
    /// Only those open for longer, in milliseconds.
    pub open_for_ms: Option<i64>,
}

/// How a transactional id stands.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct TransactionView {
    /// The node that coordinates it.
    pub coordinator: i32,
    /// Its producer.
    pub producer_id: i64,
    /// Its producer's epoch.
    pub producer_epoch: i16,
    /// Its state, in Kafka's words.
    pub state: String,
    /// After how long a transaction is aborted.
    pub timeout_ms: i32,
    /// When the open transaction began, in milliseconds of the Unix epoch.
    pub start_ms: Option<i64>,
    /// What it writes to.
    pub partitions: Vec<(String, i32)>,
}

/// What one partition knows of a producer.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ProducerView {
    /// The producer.
    pub id: i64,
    /// Its epoch.
    pub epoch: i32,
    /// The epoch of the coordinator that ended its last transaction here; -1 for none.
    pub coordinator_epoch: i32,
    /// The number of its last record here; -1 if not known.
    pub last_sequence: i32,
    /// When it last wrote here, in milliseconds of the Unix epoch.
    pub last_timestamp_ms: i64,
    /// Where its open transaction begins.
    pub open_from: Option<i64>,
}

impl Admin {
    /// All transactional ids that fit, by name. Every node is asked for those it coordinates.
    pub fn transactions(
        &mut self,
        filter: &TransactionFilter,
    ) -> Result<Vec<ListedTransaction>, Error> {
        let what = "cannot list the transactions";
        let nodes: Vec<i32> = self.cluster()?.nodes.into_keys().collect();
        let request = ListTransactionsRequest {
            state_filters: filter.states.clone(),
            producer_id_filters: filter.producers.clone(),
            duration_filter: filter.open_for_ms.unwrap_or(-1),
            ..ListTransactionsRequest::default()
        };
        let mut all = Vec::new();
        for node in nodes {
            let peer = |_: &_| Peer::Node(node);
            let (listed, unknown) = self.call(what.to_owned(), peer, &request, |answer| {
                let told =
                    (answer.transaction_states.clone(), answer.unknown_state_filters.clone());
                Some((answer.error_code, None, told))
            })?;
            if let Some(state) = unknown.first() {
                let why = format!("there is no state {state}");
                return Err(Error::new(ErrorKind::Invalid, what).because(why).fix(
                    "there are Empty, Ongoing, PrepareCommit, PrepareAbort, CompleteCommit, \
                     CompleteAbort, PrepareEpochFence and Dead",
                ));
            }
            all.extend(listed.into_iter().map(|listed| ListedTransaction {
                id: listed.transactional_id,
                producer_id: listed.producer_id,
                state: listed.transaction_state,
            }));
        }
        all.sort_unstable();
        all.dedup();
        Ok(all)
    }

    /// How a transactional id stands; none if nobody has used it of late.
    pub fn transaction(&mut self, id: &str) -> Result<Option<TransactionView>, Error> {
        let what = format!("cannot describe transactional id {id}");
        let request = DescribeTransactionsRequest { transactional_ids: vec![id.to_owned()] };
        let told = self.ask_coordinator_of(key_type::TRANSACTION, &what, id, &request, |answer| {
            let state = answer.transaction_states.first()?;
            Some((state.error_code, None, state.clone()))
        });
        let (coordinator, state) = match told {
            Ok(told) => told,
            Err(error)
                if error.kind() == ErrorKind::Refused(ErrorCode::TransactionalIdNotFound) =>
            {
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
        let partitions = state.topics.into_iter().flat_map(|topic| {
            let name = topic.topic;
            topic.partitions.into_iter().map(move |partition| (name.clone(), partition))
        });
        Ok(Some(TransactionView {
            coordinator,
            producer_id: state.producer_id,
            producer_epoch: state.producer_epoch,
            state: state.transaction_state,
            timeout_ms: state.transaction_timeout_ms,
            start_ms: Some(state.transaction_start_time_ms).filter(|at| 0 <= *at),
            partitions: partitions.collect(),
        }))
    }

    /// The producers that a partition knows, by their ids.
    pub fn producers(&mut self, topic: &str, partition: i32) -> Result<Vec<ProducerView>, Error> {
        let what = format!("cannot tell the producers of {topic}-{partition}");
        let leader = self.leader(topic, partition)?;
        let request = DescribeProducersRequest { topics: vec![one(topic, partition)] };
        let told = self.call(what, leader, &request, |answer| {
            let told = answer.topics.first()?.partitions.first()?;
            let producers = told.active_producers.clone();
            Some((told.error_code, told.error_message.clone(), producers))
        })?;
        let mut producers: Vec<ProducerView> = told
            .into_iter()
            .map(|told| ProducerView {
                id: told.producer_id,
                epoch: told.producer_epoch,
                coordinator_epoch: told.coordinator_epoch,
                last_sequence: told.last_sequence,
                last_timestamp_ms: told.last_timestamp,
                open_from: Some(told.current_txn_start_offset).filter(|at| 0 <= *at),
            })
            .collect();
        producers.sort_unstable_by_key(|producer| producer.id);
        Ok(producers)
    }

    /// Ends, in one partition, a transaction that its coordinator does not know of any more.
    pub fn abort_transaction(
        &mut self,
        topic: &str,
        partition: i32,
        producer: &ProducerView,
    ) -> Result<(), Error> {
        let what = format!("cannot abort the transaction in {topic}-{partition}");
        let leader = self.leader(topic, partition)?;
        let request = WriteTxnMarkersRequest {
            markers: vec![WritableTxnMarker {
                producer_id: producer.id,
                producer_epoch: i16::try_from(producer.epoch).unwrap_or(i16::MAX),
                transaction_result: false,
                topics: vec![one(topic, partition)],
                // As whoever coordinated it last; nobody has, perhaps.
                coordinator_epoch: producer.coordinator_epoch.max(0),
                ..WritableTxnMarker::default()
            }],
        };
        self.call(what, leader, &request, |answer| {
            let told = answer.markers.first()?.topics.first()?.partitions.first()?;
            Some((told.error_code, None, ()))
        })
    }

    /// Who leads a partition: of producers and their transactions only the leader knows.
    fn leader(
        &mut self,
        topic: &str,
        partition: i32,
    ) -> Result<impl Fn(&Map) -> Peer + use<>, Error> {
        let view = self.topic(topic)?;
        let found = usize::try_from(partition).ok().and_then(|at| view.partitions.get(at));
        let Some(leader) = found.and_then(|found| found.leader) else {
            let what = format!("cannot find {topic}-{partition}");
            let why = match view.partitions.len() {
                1 => format!("topic {topic} has 1 partition"),
                count => format!("topic {topic} has {count} partitions"),
            };
            return Err(Error::new(ErrorKind::Invalid, what).because(why));
        };
        let topic: Arc<str> = topic.into();
        Ok(move |map: &Map| {
            // It may have moved since.
            let known =
                map.topic(&topic).and_then(|topic| topic.partitions.get(partition as usize));
            Peer::Node(known.and_then(|known| known.leader).unwrap_or(leader))
        })
    }
}

fn one(topic: &str, partition: i32) -> TopicPartitions {
    TopicPartitions { topic: topic.to_owned(), partitions: vec![partition] }
}
