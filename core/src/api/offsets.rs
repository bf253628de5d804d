//! ListOffsets, OffsetForLeaderEpoch and DeleteRecords: one call per partition each.
//!
//! A reply repeats the request's structure; answers are taken in the same order as the calls were
//! made.

use tidemill_net::kafka::delete_records::{
    DeleteRecordsPartition, DeleteRecordsPartitionResult, DeleteRecordsRequest,
    DeleteRecordsResponse, DeleteRecordsTopicResult,
};
use tidemill_net::kafka::fetch::READ_COMMITTED;
use tidemill_net::kafka::list_offsets::{
    EARLIEST, EARLIEST_LOCAL, EARLIEST_PENDING_UPLOAD, LATEST, LATEST_TIERED, ListOffsetsPartition,
    ListOffsetsPartitionResponse, ListOffsetsRequest, ListOffsetsResponse,
    ListOffsetsTopicResponse, MAX_TIMESTAMP,
};
use tidemill_net::kafka::offset_for_leader_epoch::{
    EpochEndOffset, OffsetForLeaderEpochRequest, OffsetForLeaderEpochResponse,
    OffsetForLeaderPartition, OffsetForLeaderTopicResult,
};
use tidemill_net::kafka::{ErrorCode, TopicRef};
use tidemill_record::{LeaderEpoch, TopicId, TopicPartition};

use super::{Collect, Job, Purpose, ReplyForm, deadline_of};
use crate::message::{Answer, Call};
use crate::partition::Times;
use crate::shard::Shard;
use crate::topic_rules;

/// What is asked of one named partition.
pub(super) struct Asked<'a> {
    pub(super) topic: &'a str,
    pub(super) partition: i32,
    pub(super) call: Call,
}

fn known_epoch(epoch: i32) -> Option<LeaderEpoch> {
    (0 <= epoch).then_some(LeaderEpoch(epoch))
}

/// From which version of ListOffsets on this may stand in place of a time.
fn known_from(timestamp: i64) -> i16 {
    match timestamp {
        0.. | LATEST | EARLIEST => 0,
        MAX_TIMESTAMP => 7,
        EARLIEST_LOCAL => 8,
        LATEST_TIERED => 9,
        EARLIEST_PENDING_UPLOAD => 11,
        _ => i16::MAX,
    }
}

impl Shard {
    pub(crate) fn handle_list_offsets(
        &mut self,
        reply: ReplyForm,
        request: ListOffsetsRequest,
        times: Times,
    ) {
        let read_committed = request.isolation_level == READ_COMMITTED;
        let ask = |partition: &ListOffsetsPartition| Call::ListOffset {
            timestamp: partition.timestamp,
            read_committed,
            current_leader_epoch: known_epoch(partition.current_leader_epoch),
        };
        let asked = request.topics.iter().flat_map(|topic| {
            topic.partitions.iter().map(move |partition| Asked {
                topic: &topic.name,
                partition: partition.partition_index,
                call: ask(partition),
            })
        });
        let mut targets = self.targets(asked);
        let timestamps = request.topics.iter().flat_map(|topic| &topic.partitions);
        for (target, partition) in targets.iter_mut().zip(timestamps) {
            if reply.version < known_from(partition.timestamp) {
                *target = Err(ErrorCode::UnsupportedVersion);
            }
        }
        let timeout_ms = request.timeout_ms;
        self.collect(reply, targets, Purpose::ListOffsets(request), timeout_ms, times);
    }

    pub(super) fn finish_list_offsets(
        &mut self,
        reply: ReplyForm,
        request: &ListOffsetsRequest,
        mut answers: impl Iterator<Item = Answer>,
    ) {
        let mut answer = |partition: &ListOffsetsPartition| {
            let told = ListOffsetsPartitionResponse {
                partition_index: partition.partition_index,
                ..ListOffsetsPartitionResponse::default()
            };
            match answers.next().expect("an answer per partition") {
                Answer::Offset { found: Some((offset, timestamp)), leader_epoch } => {
                    ListOffsetsPartitionResponse {
                        offset: offset.0,
                        timestamp: timestamp.0,
                        leader_epoch: leader_epoch.0,
                        ..told
                    }
                }
                Answer::Offset { found: None, .. } => told,
                other => ListOffsetsPartitionResponse { error_code: error_of(other), ..told },
            }
        };
        let topics = request.topics.iter().map(|topic| ListOffsetsTopicResponse {
            name: topic.name.clone(),
            partitions: topic.partitions.iter().map(&mut answer).collect(),
        });
        let topics = topics.collect();
        self.reply_message(reply, &ListOffsetsResponse { topics, ..Default::default() });
    }

    pub(crate) fn handle_epoch_ends(
        &mut self,
        reply: ReplyForm,
        request: OffsetForLeaderEpochRequest,
        times: Times,
    ) {
        let ask = |partition: &OffsetForLeaderPartition| Call::EpochEnd {
            epoch: LeaderEpoch(partition.leader_epoch),
            current_leader_epoch: known_epoch(partition.current_leader_epoch),
        };
        let asked = request.topics.iter().flat_map(|topic| {
            topic.partitions.iter().map(move |partition| Asked {
                topic: &topic.topic,
                partition: partition.partition,
                call: ask(partition),
            })
        });
        let targets = self.targets(asked);
        self.collect(reply, targets, Purpose::EpochEnds(request), 0, times);
    }

    pub(super) fn finish_epoch_ends(
        &mut self,
        reply: ReplyForm,
        request: &OffsetForLeaderEpochRequest,
        mut answers: impl Iterator<Item = Answer>,
    ) {
        let mut answer = |partition: &OffsetForLeaderPartition| {
            let told =
                EpochEndOffset { partition: partition.partition, ..EpochEndOffset::default() };
            match answers.next().expect("an answer per partition") {
                Answer::EpochEnd(Some((epoch, end))) => {
                    EpochEndOffset { leader_epoch: epoch.0, end_offset: end.0, ..told }
                }
                Answer::EpochEnd(None) => told,
                other => EpochEndOffset { error_code: error_of(other), ..told },
            }
        };
        let topics = request.topics.iter().map(|topic| OffsetForLeaderTopicResult {
            topic: topic.topic.clone(),
            partitions: topic.partitions.iter().map(&mut answer).collect(),
        });
        let topics = topics.collect();
        self.reply_message(reply, &OffsetForLeaderEpochResponse { topics, ..Default::default() });
    }

    pub(crate) fn handle_delete_records(
        &mut self,
        reply: ReplyForm,
        request: DeleteRecordsRequest,
        times: Times,
    ) {
        let asked = request.topics.iter().flat_map(|topic| {
            topic.partitions.iter().map(move |partition| Asked {
                topic: &topic.name,
                partition: partition.partition_index,
                call: Call::Trim { before: partition.offset },
            })
        });
        let targets = self.targets(asked);
        let timeout_ms = request.timeout_ms;
        self.collect(reply, targets, Purpose::Trim(request), timeout_ms, times);
    }

    pub(super) fn finish_trim(
        &mut self,
        reply: ReplyForm,
        request: &DeleteRecordsRequest,
        mut answers: impl Iterator<Item = Answer>,
    ) {
        let mut answer = |partition: &DeleteRecordsPartition| {
            let told = DeleteRecordsPartitionResult {
                partition_index: partition.partition_index,
                ..DeleteRecordsPartitionResult::default()
            };
            match answers.next().expect("an answer per partition") {
                Answer::Trimmed { log_start_offset } => {
                    DeleteRecordsPartitionResult { low_watermark: log_start_offset.0, ..told }
                }
                other => DeleteRecordsPartitionResult { error_code: error_of(other), ..told },
            }
        };
        let topics = request.topics.iter().map(|topic| DeleteRecordsTopicResult {
            name: topic.name.clone(),
            partitions: topic.partitions.iter().map(&mut answer).collect(),
        });
        let topics = topics.collect();
        self.reply_message(reply, &DeleteRecordsResponse { topics, ..Default::default() });
    }

    pub(super) fn targets<'a>(
        &self,
        asked: impl Iterator<Item = Asked<'a>>,
    ) -> Vec<Result<(TopicPartition, Call), ErrorCode>> {
        let find = |asked: Asked<'_>| {
            let id = self.find_partition(TopicRef::Name(asked.topic), asked.partition)?;
            let writes = matches!(asked.call, Call::Trim { .. } | Call::Mark { .. });
            if writes && self.is_of_coordinators(id.topic) {
                return Err(ErrorCode::InvalidTopicException);
            }
            if matches!(asked.call, Call::Trim { .. }) && !self.may_delete_of(id.topic) {
                return Err(ErrorCode::PolicyViolation);
            }
            Ok((id, asked.call))
        };
        asked.map(find).collect()
    }

    fn may_delete_of(&self, topic: TopicId) -> bool {
        let topic = self.image.topic(topic).expect("a partition that was found has a topic");
        topic_rules::may_delete(&self.settings, &self.image, &topic.configs)
    }

    /// Makes a job of one call per partition; those that do not exist are answered at once.
    pub(super) fn collect(
        &mut self,
        reply: ReplyForm,
        targets: Vec<Result<(TopicPartition, Call), ErrorCode>>,
        purpose: Purpose,
        timeout_ms: i32,
        times: Times,
    ) {
        let mut collect = Collect::new(reply, targets.len(), purpose);
        let mut calls = Vec::with_capacity(targets.len());
        for (index, target) in targets.into_iter().enumerate() {
            match target {
                Ok((id, call)) => calls.push((index as u32, id, call)),
                Err(error) => collect.fill(index as u32, Answer::Refused { error, message: None }),
            }
        }
        let missing = collect.missing;
        let job = self.jobs.insert(Job::Collect(collect));
        if missing == 0 {
            return self.finish_collect(job);
        }
        self.jobs.set_deadline(job, deadline_of(timeout_ms, times));
        self.call(job, calls, times);
    }
}

pub(super) fn error_of(answer: Answer) -> ErrorCode {
    match answer {
        Answer::Refused { error, .. } => error,
        other => unreachable!("the home answers what was asked, not with {other:?}"),
    }
}
