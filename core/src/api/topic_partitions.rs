//! DescribeTopicPartitions: topics and their partitions, some at a time (KIP-966).
//!
//! All partitions stand in one row, by topic name and number; an answer is a piece of that row,
//! and says where the next one begins. It speaks of nodes, as all of administration does: a client
//! that wants to reach a leader asks for Metadata.

use std::collections::BTreeSet;

use tidemill_net::kafka::describe_topic_partitions::{
    DescribeCursor, DescribeTopicPartitionsRequest, DescribeTopicPartitionsResponse,
    DescribedPartition, DescribedTopic,
};
use tidemill_net::kafka::{ErrorCode, Request as _};
use tidemill_replication::controller::{check_topic_name, is_internal};
use tidemill_replication::metadata::Topic;

use super::ReplyForm;
use super::acls::TOPIC_OPERATIONS;
use crate::limits::PARTITIONS_DESCRIBED_MAX;
use crate::shard::Shard;

impl Shard {
    pub(crate) fn handle_describe_topic_partitions(
        &mut self,
        reply: ReplyForm,
        request: &DescribeTopicPartitionsRequest,
    ) {
        if request.cursor.as_ref().is_some_and(|cursor| cursor.partition_index < 0) {
            let response = request.error_response(ErrorCode::InvalidRequest);
            return self.reply_message(reply, &response);
        }
        let response = self.describe_topic_partitions(request);
        self.reply_message(reply, &response);
    }

    fn describe_topic_partitions(
        &self,
        request: &DescribeTopicPartitionsRequest,
    ) -> DescribeTopicPartitionsResponse {
        let named: BTreeSet<&str> = match request.topics.as_slice() {
            [] => self.image.topics().map(|topic| &*topic.name).collect(),
            asked => asked.iter().map(|topic| topic.name.as_str()).collect(),
        };
        let (from, mut first) = match &request.cursor {
            Some(cursor) => (cursor.topic_name.as_str(), cursor.partition_index as usize),
            None => ("", 0),
        };
        let limit = usize::try_from(request.response_partition_limit).unwrap_or(0);
        let mut left = limit.clamp(1, PARTITIONS_DESCRIBED_MAX);
        let mut response = DescribeTopicPartitionsResponse::default();
        for name in named.range(from..).copied() {
            if left == 0 {
                response.next_cursor = cursor(name, 0);
                break;
            }
            let Some(topic) = self.image.topic_named(name) else {
                response.topics.push(unknown(name));
                continue;
            };
            // The topic of the cursor may be gone; its number is for no other.
            let skip = if name == from { std::mem::take(&mut first) } else { 0 };
            let told = self.described(topic, skip, left);
            left -= told.partitions.len();
            let next = skip + told.partitions.len();
            response.topics.push(told);
            if next < topic.partitions.len() {
                response.next_cursor = cursor(name, next);
                break;
            }
        }
        response
    }

    fn described(&self, topic: &Topic, skip: usize, limit: usize) -> DescribedTopic {
        let partitions = topic.partitions.iter().enumerate().skip(skip).take(limit);
        let partitions = partitions.map(|(number, partition)| {
            let replicas: Vec<i32> = partition.replicas.iter().map(|node| node.0).collect();
            DescribedPartition {
                partition_index: number as i32,
                leader_id: partition.leader.0,
                leader_epoch: self.image.leader_epoch_of(partition).0,
                isr_nodes: replicas.clone(),
                replica_nodes: replicas,
                ..DescribedPartition::default()
            }
        });
        DescribedTopic {
            name: Some(topic.name.to_string()),
            topic_id: topic.id,
            is_internal: is_internal(&topic.name),
            partitions: partitions.collect(),
            topic_authorized_operations: TOPIC_OPERATIONS,
            ..DescribedTopic::default()
        }
    }
}

fn cursor(topic: &str, partition: usize) -> Option<DescribeCursor> {
    let partition_index = partition as i32;
    Some(DescribeCursor { topic_name: topic.to_owned(), partition_index })
}

fn unknown(name: &str) -> DescribedTopic {
    let error_code = match check_topic_name(name) {
        Ok(()) => ErrorCode::UnknownTopicOrPartition,
        Err(_) => ErrorCode::InvalidTopicException,
    };
    DescribedTopic { error_code, name: Some(name.to_owned()), ..DescribedTopic::default() }
}
