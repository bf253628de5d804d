//! WriteTxnMarkers and DescribeProducers: how transactions stand in single partitions.
//!
//! Our own coordinators tell partitions in another way; these are for an administrator who finds a
//! transaction that hangs (DescribeProducers) and ends it (WriteTxnMarkers). What a transaction has
//! committed to groups ends so, too: their coordinator is told instead of their partition, for it keeps
//! no markers.

use std::collections::{HashMap, HashSet};

use tidemill_net::kafka::ErrorCode;
use tidemill_net::kafka::describe_producers::{
    DescribeProducersRequest, DescribeProducersResponse, ProducerState as ToldProducer,
    ProducersOfPartition, ProducersOfTopic,
};
use tidemill_net::kafka::topic_partitions::{PartitionError, TopicErrors, TopicPartitions};
use tidemill_net::kafka::write_txn_markers::{
    WritableTxnMarker, WritableTxnMarkerResult, WriteTxnMarkersRequest, WriteTxnMarkersResponse,
};
use tidemill_record::{Marker, Outcome, Producer, ProducerEpoch, ProducerId};
use tidemill_replication::controller::OFFSETS_TOPIC;
use tidemill_storage::ProducerState;
use tidemill_storage::transactions::NO_COORDINATOR;

use super::offsets::{Asked, error_of};
use super::{Purpose, ReplyForm, name_once};
use crate::coordinator::request::{Reply as GroupReply, Request as GroupRequest};
use crate::message::{Answer, Call};
use crate::partition::Times;
use crate::shard::Shard;

/// Told where there is no number to tell.
const NONE: i32 = -1;

impl Shard {
    pub(crate) fn handle_markers(
        &mut self,
        reply: ReplyForm,
        request: WriteTxnMarkersRequest,
        times: Times,
    ) {
        let asked = request.markers.iter().flat_map(|marker| {
            each(&marker.topics).map(move |(topic, partition)| Asked {
                topic,
                partition,
                call: if topic == OFFSETS_TOPIC { end(marker) } else { mark(marker) },
            })
        });
        let targets = self.targets(asked);
        self.collect(reply, targets, Purpose::Markers(request), 0, times);
    }

    pub(super) fn finish_markers(
        &mut self,
        reply: ReplyForm,
        request: WriteTxnMarkersRequest,
        mut answers: impl Iterator<Item = Answer>,
    ) {
        let mut result = |partition_index| {
            let error_code = match answers.next().expect("an answer per partition") {
                Answer::Appended { .. } => ErrorCode::None,
                Answer::Group(reply) => error_of_groups(&reply),
                other => error_of(other),
            };
            PartitionError { partition_index, error_code }
        };
        let mut topic = |topic: TopicPartitions| TopicErrors {
            topic: topic.topic,
            partitions: topic.partitions.into_iter().map(&mut result).collect(),
        };
        let markers = request.markers.into_iter().map(|marker| WritableTxnMarkerResult {
            producer_id: marker.producer_id,
            topics: marker.topics.into_iter().map(&mut topic).collect(),
        });
        let markers = markers.collect();
        self.reply_message(reply, &WriteTxnMarkersResponse { markers });
    }

    pub(crate) fn handle_describe_producers(
        &mut self,
        reply: ReplyForm,
        mut request: DescribeProducersRequest,
        times: Times,
    ) {
        let mut seen: HashMap<String, HashSet<i32>> = HashMap::new();
        request.topics.retain_mut(|topic| {
            name_once(&mut topic.partitions, seen.entry(topic.topic.clone()).or_default())
        });
        let asked = each(&request.topics);
        let asked = asked.map(|(topic, partition)| {
            let call = Call::DescribeProducers;
            Asked { topic, partition, call }
        });
        let targets = self.targets(asked);
        self.collect(reply, targets, Purpose::Producers(request), 0, times);
    }

    pub(super) fn finish_describe_producers(
        &mut self,
        reply: ReplyForm,
        request: DescribeProducersRequest,
        mut answers: impl Iterator<Item = Answer>,
    ) {
        let mut told = |partition_index| {
            let described =
                ProducersOfPartition { partition_index, ..ProducersOfPartition::default() };
            match answers.next().expect("an answer per partition") {
                Answer::Producers(states) => ProducersOfPartition {
                    active_producers: states.iter().map(told_producer).collect(),
                    ..described
                },
                other => ProducersOfPartition { error_code: error_of(other), ..described },
            }
        };
        let topics = request.topics.into_iter().map(|topic| ProducersOfTopic {
            name: topic.topic,
            partitions: topic.partitions.into_iter().map(&mut told).collect(),
        });
        let topics = topics.collect();
        self.reply_message(reply, &DescribeProducersResponse { topics, ..Default::default() });
    }
}

fn each(topics: &[TopicPartitions]) -> impl Iterator<Item = (&str, i32)> {
    topics.iter().flat_map(|topic| {
        topic.partitions.iter().map(move |partition| (topic.topic.as_str(), *partition))
    })
}

fn mark(marker: &WritableTxnMarker) -> Call {
    let outcome = if marker.transaction_result { Outcome::Commit } else { Outcome::Abort };
    let coordinator_epoch = marker.coordinator_epoch;
    Call::Mark { producer: producer(marker), marker: Marker { outcome, coordinator_epoch } }
}

/// The same for a partition of groups.
fn end(marker: &WritableTxnMarker) -> Call {
    let (producer, commit) = (producer(marker), marker.transaction_result);
    Call::Group(Box::new(GroupRequest::EndTransaction { producer, commit }))
}

fn producer(marker: &WritableTxnMarker) -> Producer {
    Producer { id: ProducerId(marker.producer_id), epoch: ProducerEpoch(marker.producer_epoch) }
}

/// What groups say, in a word that belongs to a partition: as in Kafka, who asks comes again.
fn error_of_groups(reply: &GroupReply) -> ErrorCode {
    match reply {
        GroupReply::TransactionEnded => ErrorCode::None,
        GroupReply::Refused(
            ErrorCode::CoordinatorNotAvailable
            | ErrorCode::CoordinatorLoadInProgress
            | ErrorCode::NotCoordinator,
        ) => ErrorCode::NotLeaderOrFollower,
        GroupReply::Refused(error) => *error,
        other => unreachable!("groups were told of an end, and say {other:?}"),
    }
}

fn told_producer(state: &ProducerState) -> ToldProducer {
    let transaction = state.transaction.as_ref();
    ToldProducer {
        producer_id: state.id.0,
        producer_epoch: i32::from(state.epoch.0),
        last_sequence: state.last_sequence.map_or(NONE, |sequence| sequence.0),
        last_timestamp: state.active_ms,
        coordinator_epoch: transaction.map_or(NO_COORDINATOR, |known| known.coordinator_epoch),
        current_txn_start_offset: transaction
            .and_then(|known| known.first)
            .map_or(i64::from(NONE), |first| first.0),
    }
}
