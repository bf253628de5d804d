//! DescribeLogDirs: how much of the data directory each partition takes.
//!
//! Each home tells the size of its partitions: the bytes of the batches they hold, which is what
//! Kafka calls the size of a log. The background executor asks the file system how large it is and
//! what is left of it. User interfaces draw it, and fail without it.
//!
//! Whoever asks for all is told of what this endpoint leads, for clients ask every broker they know and
//! add up what those say.

use std::collections::BTreeMap;
use std::sync::Arc;

use tidemill_net::kafka::describe_log_dirs::{
    DescribeLogDirsPartition, DescribeLogDirsRequest, DescribeLogDirsResponse,
    DescribeLogDirsResult, DescribeLogDirsTopic,
};
use tidemill_net::kafka::{ErrorCode, TopicRef};
use tidemill_record::{PartitionId, TopicPartition};
use tidemill_replication::metadata::Topic;

use super::{Collect, Job, Purpose, ReplyForm, deadline_of};
use crate::limits::REQUEST_WAIT_MS_DEFAULT;
use crate::message::{Answer, Call};
use crate::partition::Times;
use crate::shard::Shard;

/// What is told of a disk that does not tell.
const UNKNOWN: i64 = -1;

/// What was asked for and exists: topics, and the numbers of their partitions.
pub struct LogDirs {
    topics: BTreeMap<Arc<str>, Vec<i32>>,
}

impl Shard {
    pub(crate) fn handle_describe_log_dirs(
        &mut self,
        reply: ReplyForm,
        request: &DescribeLogDirsRequest,
        times: Times,
    ) {
        let topics = self.log_dirs_asked(request);
        let partitions = topics.iter().flat_map(|(name, numbers)| {
            let topic = self.find_topic(TopicRef::Name(name)).expect("just found").id;
            let id = move |&number: &i32| TopicPartition { topic, partition: PartitionId(number) };
            numbers.iter().map(id)
        });
        let calls: Vec<_> = (0..).zip(partitions).map(|(n, id)| (n, id, Call::Size)).collect();
        // The last answer is how large the disk is.
        let purpose = Purpose::LogDirs(LogDirs { topics });
        let collect = Collect::new(reply, calls.len() + 1, purpose);
        let job = self.jobs.insert(Job::Collect(collect));
        self.jobs.set_deadline(job, deadline_of(REQUEST_WAIT_MS_DEFAULT, times));
        self.space_wanted.push((job, calls.len() as u32));
        self.call(job, calls, times);
    }

    /// What does not exist is left out, as in Kafka; what is named twice is told once.
    fn log_dirs_asked(&self, request: &DescribeLogDirsRequest) -> BTreeMap<Arc<str>, Vec<i32>> {
        let Some(asked) = &request.topics else {
            let led = |topic: &Topic| -> Vec<i32> {
                let id =
                    |number| TopicPartition { topic: topic.id, partition: PartitionId(number) };
                let numbers = 0..topic.partitions.len() as i32;
                numbers.filter(|&number| self.lists_what_is_in(id(number))).collect()
            };
            return self
                .image
                .topics()
                .map(|topic| (Arc::clone(&topic.name), led(topic)))
                .collect();
        };
        let mut topics: BTreeMap<Arc<str>, Vec<i32>> = BTreeMap::new();
        for asked in asked {
            let Some(topic) = self.find_topic(TopicRef::Name(&asked.topic)) else { continue };
            let there = 0..topic.partitions.len() as i32;
            let known = asked.partitions.iter().copied().filter(|number| there.contains(number));
            let numbers = topics.entry(Arc::clone(&topic.name)).or_default();
            numbers.extend(known);
            numbers.sort_unstable();
            numbers.dedup();
        }
        topics
    }

    pub(super) fn finish_log_dirs(
        &mut self,
        reply: ReplyForm,
        asked: LogDirs,
        mut answers: impl Iterator<Item = Answer>,
    ) {
        let mut failed = ErrorCode::None;
        let mut topics = Vec::with_capacity(asked.topics.len());
        for (name, numbers) in asked.topics {
            let mut partitions = Vec::with_capacity(numbers.len());
            for partition_index in numbers {
                match answers.next().expect("an answer per partition") {
                    Answer::Size { size_bytes } => partitions.push(DescribeLogDirsPartition {
                        partition_index,
                        partition_size: told(size_bytes),
                        ..DescribeLogDirsPartition::default()
                    }),
                    // It was deleted just now.
                    Answer::Refused { error: ErrorCode::UnknownTopicOrPartition, .. } => {}
                    Answer::Refused { error, .. } => failed = error,
                    other => unreachable!("the home answers what was asked, not with {other:?}"),
                }
            }
            if !partitions.is_empty() {
                topics.push(DescribeLogDirsTopic { name: name.to_string(), partitions });
            }
        }
        let (total_bytes, usable_bytes) = match answers.next() {
            Some(Answer::Space(Some((total, usable)))) => (told(total), told(usable)),
            _ => (UNKNOWN, UNKNOWN),
        };
        let fenced = self.home.as_ref().is_some_and(|home| home.is_fenced());
        let directory = DescribeLogDirsResult {
            error_code: if fenced { ErrorCode::KafkaStorageError } else { ErrorCode::None },
            log_dir: self.settings.data_dir_shown.clone(),
            topics,
            total_bytes,
            usable_bytes,
            ..DescribeLogDirsResult::default()
        };
        let response = DescribeLogDirsResponse {
            error_code: failed,
            results: vec![directory],
            ..DescribeLogDirsResponse::default()
        };
        self.reply_message(reply, &response);
    }
}

fn told(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}
