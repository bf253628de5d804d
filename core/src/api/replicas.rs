//! ElectLeaders, AlterPartitionReassignments, ListPartitionReassignments: who holds and leads what.
//!
//! With one node there is nothing to choose: it leads every partition, and a partition's replicas
//! can be no others than they are. So nothing changes here, and everything is told as it is.

use std::collections::HashMap;

use tidemill_net::kafka::alter_partition_reassignments::{
    AlterPartitionReassignmentsRequest, AlterPartitionReassignmentsResponse, ReassignablePartition,
    ReassignablePartitionResponse, ReassignableTopicResponse,
};
use tidemill_net::kafka::elect_leaders::{
    ElectLeadersRequest, ElectLeadersResponse, ElectionResult, ReplicaElectionResult, election_type,
};
use tidemill_net::kafka::list_partition_reassignments::{
    ListPartitionReassignmentsRequest, ListPartitionReassignmentsResponse,
};
use tidemill_net::kafka::{ErrorCode, Request as _, TopicRef};
use tidemill_replication::metadata::Topic;

use super::ReplyForm;
use crate::placement;
use crate::shard::Shard;

impl Shard {
    pub(crate) fn handle_elect_leaders(&mut self, reply: ReplyForm, request: &ElectLeadersRequest) {
        if !matches!(request.election_type, election_type::PREFERRED | election_type::UNCLEAN) {
            let response = request.error_response(ErrorCode::InvalidRequest);
            return self.reply_message(reply, &response);
        }
        // If all are asked for, those that need no election are left out: here that is all.
        let asked = request.topic_partitions.as_deref().unwrap_or_default();
        let results = asked.iter().map(|asked| {
            let topic = TopicRef::Name(&asked.topic);
            let partitions = asked.partitions.iter().map(|&partition_id| {
                // Its one replica leads it. No words: the codes say it, and an answer of many words
                // for each number asked would be many times as large as its request.
                let found = self.find_partition(topic, partition_id);
                let error_code = found.err().unwrap_or(ErrorCode::ElectionNotNeeded);
                ElectionResult { partition_id, error_code, error_message: None }
            });
            ReplicaElectionResult {
                topic: asked.topic.clone(),
                partition_result: partitions.collect(),
            }
        });
        let replica_election_results = results.collect();
        let response = ElectLeadersResponse { replica_election_results, ..Default::default() };
        self.reply_message(reply, &response);
    }

    pub(crate) fn handle_alter_reassignments(
        &mut self,
        reply: ReplyForm,
        request: &AlterPartitionReassignmentsRequest,
    ) {
        let mut named: HashMap<(&str, i32), u32> = HashMap::new();
        for topic in &request.topics {
            for partition in &topic.partitions {
                *named.entry((&topic.name, partition.partition_index)).or_default() += 1;
            }
        }
        let responses = request.topics.iter().map(|topic| {
            let found = self.find_topic(TopicRef::Name(&topic.name));
            let partitions = topic.partitions.iter().map(|partition| {
                let once = named[&(topic.name.as_str(), partition.partition_index)] == 1;
                let refused = match once {
                    true => refused_move(found, partition),
                    false => Some((ErrorCode::InvalidRequest, "")),
                };
                let (error_code, message) = refused.unzip();
                ReassignablePartitionResponse {
                    partition_index: partition.partition_index,
                    error_code: error_code.unwrap_or(ErrorCode::None),
                    error_message: message.filter(|text| !text.is_empty()).map(str::to_owned),
                }
            });
            ReassignableTopicResponse { name: topic.name.clone(), partitions: partitions.collect() }
        });
        let response = AlterPartitionReassignmentsResponse {
            allow_replication_factor_change: request.allow_replication_factor_change,
            responses: responses.collect(),
            ..AlterPartitionReassignmentsResponse::default()
        };
        self.reply_message(reply, &response);
    }

    /// Nothing is on its way anywhere.
    pub(crate) fn handle_list_reassignments(
        &mut self,
        reply: ReplyForm,
        _request: &ListPartitionReassignmentsRequest,
    ) {
        self.reply_message(reply, &ListPartitionReassignmentsResponse::default());
    }
}

/// Why a partition cannot be moved as asked, in words where there is such a partition; none if it
/// is there already.
fn refused_move(
    topic: Option<&Topic>,
    asked: &ReassignablePartition,
) -> Option<(ErrorCode, &'static str)> {
    let number = usize::try_from(asked.partition_index).ok();
    let Some(partition) = topic.zip(number).and_then(|(topic, n)| topic.partitions.get(n)) else {
        return Some((ErrorCode::UnknownTopicOrPartition, ""));
    };
    let Some(replicas) = &asked.replicas else {
        return Some((ErrorCode::NoReassignmentInProgress, "the partition is not being moved"));
    };
    let same = placement::nodes_of(replicas) == *partition.replicas;
    (!same).then_some((
        ErrorCode::InvalidReplicaAssignment,
        "there are no other nodes: the replicas can only be those there are",
    ))
}
