//! Produce: batches to append (KIP-98, KIP-467, KIP-951).
//!
//! The batches are taken out of the received frame without a copy and sent to their home shards.
//! The reply waits for all of them, each as durable as the topic and the acks ask. With acks=0
//! there is no reply; if anything fails, the connection is closed, as Kafka does, so that the
//! client notices.

use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use tidemill_net::cursor::WireError;
use tidemill_net::kafka::ErrorCode;
use tidemill_net::kafka::produce::{
    ProducePartitionResponse, ProduceRequest, ProduceResponse, RecordError,
};
use tidemill_perf::{Kind, Stage};
use tidemill_record::TopicPartition;
use tidemill_replication::quota::Bound;

use super::hints::wants_hint;
use super::{Collect, Job, Purpose, ReplyForm, TopicName, own_name, partition_of};
use crate::limits::REQUEST_WAIT_MS_MAX;
use crate::message::{Acks, Answer, Call, InTransaction};
use crate::partition::Times;
use crate::shard::Shard;

/// From this version on a producer knows zstd (KIP-110).
const ZSTD_FROM: i16 = 7;
/// From this version on a batch makes its partition a part of its transaction (KIP-890).
const ADDS_PARTITION_FROM: i16 = 12;
/// From this version on a producer knows the error that tells it to abort (KIP-890).
const ABORTABLE_FROM: i16 = 11;
/// Versions below carry record formats that are not stored.
const SERVED_FROM: i16 = 3;
/// Up to here clients know no storage error (it is told as "not leader").
const STORAGE_ERROR_FROM: i16 = 4;

/// What the reply is made of, beside the answers.
pub struct Produce {
    partitions: Vec<(TopicName, i32)>,
    acks: Acks,
}

struct Incoming {
    topic: TopicName,
    partition: i32,
    target: Result<(TopicPartition, Range<usize>), ErrorCode>,
}

impl Shard {
    /// Answers a produce request. `body` is the frame behind the header.
    pub(crate) fn handle_produce(
        &mut self,
        reply: ReplyForm,
        mut body: BytesMut,
        times: Times,
    ) -> Result<(), WireError> {
        let request = ProduceRequest::parse(reply.version, &body)?;
        let decoded_at = self.stamp();
        let acks = match request.acks {
            0 => Acks::None,
            1 => Acks::Leader,
            -1 => Acks::InSync,
            _ => {
                let response = request.error_response(ErrorCode::InvalidRequiredAcks);
                let mut out = BytesMut::new();
                response.encode(&mut out, reply.version, reply.correlation_id);
                self.note_request(reply.slot, Kind::Produce, None, [(Stage::Decode, decoded_at)]);
                self.reply(reply.slot, None, vec![out.freeze()]);
                return Ok(());
            }
        };
        let timeout_ms = u64::try_from(request.timeout_ms).unwrap_or(0).min(REQUEST_WAIT_MS_MAX);
        let transactional_id: Option<Arc<str>> = request.transactional_id.map(Arc::from);
        let incoming = self.produce_targets(reply.version, &request);

        let about = incoming.iter().find_map(|i| i.target.as_ref().ok()).map(|target| target.0);
        let begun = [(Stage::Decode, decoded_at), (Stage::Route, self.stamp())];
        let partitions = incoming.iter().map(|i| (i.topic.clone(), i.partition)).collect();
        let purpose = Purpose::Produce(Produce { partitions, acks });
        let job = self.jobs.insert(Job::Collect(Collect::new(reply, incoming.len(), purpose)));
        if about.is_none() {
            // It will have ended before there are any calls.
            self.note_request(reply.slot, Kind::Produce, None, begun);
        }
        if incoming.is_empty() {
            self.finish_empty(job);
            return Ok(());
        }
        self.jobs.set_deadline(job, times.now.after(Duration::from_millis(timeout_ms)));
        let zstd_allowed = ZSTD_FROM <= reply.version;
        let transaction = transactional_id.map(|transactional_id| InTransaction {
            transactional_id,
            adds_partition: ADDS_PARTITION_FROM <= reply.version,
            may_be_told_to_abort: ABORTABLE_FROM <= reply.version,
        });
        let mut calls = Vec::with_capacity(incoming.len());
        let mut refused = Vec::new();
        let mut cut = 0;
        let frame_bytes = body.len();
        for (index, partition) in incoming.into_iter().enumerate() {
            match partition.target {
                Ok((id, range)) => {
                    // Ranges ascend, so each batch is split off the front in turn.
                    let mut batch = body.split_to(range.end - cut);
                    let mut batch = batch.split_off(range.start - cut);
                    // The log keeps the memory it is given: a small part of a large frame is
                    // copied, so that it does not hold all of it.
                    if 2 * batch.len() < frame_bytes {
                        batch = BytesMut::from(&batch[..]);
                    }
                    cut = range.end;
                    let call = match &transaction {
                        None => Call::Append { batch, acks, zstd_allowed },
                        Some(transaction) => {
                            let transaction = Box::new(transaction.clone());
                            Call::AppendInTransaction { batch, acks, zstd_allowed, transaction }
                        }
                    };
                    calls.push((index as u32, id, call));
                }
                Err(error) => refused.push((index as u32, error)),
            }
        }
        for (index, error) in refused {
            self.answered(job, index, Answer::Refused { error, message: None }, times);
        }
        self.call(job, calls, times);
        if about.is_some() {
            // What is at home here has been appended by now; the rest counts as waiting for the
            // disk. All that was called is answered later.
            let [decoded, routed] = begun;
            let ended = [decoded, routed, (Stage::Append, self.stamp())];
            self.note_request(reply.slot, Kind::Produce, about, ended);
        }
        Ok(())
    }

    fn produce_targets(&self, version: i16, request: &ProduceRequest<'_>) -> Vec<Incoming> {
        let mut incoming: Vec<Incoming> = Vec::with_capacity(request.partitions_count());
        for partition in request.partitions() {
            let found = self.find_topic(partition.topic);
            let target = if version < SERVED_FROM {
                Err(ErrorCode::UnsupportedForMessageFormat)
            } else {
                partition_of(found, partition.topic, partition.partition).and_then(|id| {
                    if self.is_of_coordinators(id.topic) {
                        return Err(ErrorCode::InvalidTopicException);
                    }
                    let records = partition.records.ok_or(ErrorCode::InvalidRecord)?;
                    Ok((id, records))
                })
            };
            let topic = match incoming.last() {
                Some(last) if last.topic.as_ref() == partition.topic => last.topic.clone(),
                _ => own_name(found, partition.topic),
            };
            incoming.push(Incoming { topic, partition: partition.partition, target });
        }
        refuse_repeated(&mut incoming);
        incoming
    }

    fn finish_empty(&mut self, job: crate::job::JobId) {
        let Some(Job::Collect(Collect { reply, purpose: Purpose::Produce(produce), .. })) =
            self.jobs.remove(job)
        else {
            unreachable!("just inserted");
        };
        self.finish_produce(reply, produce, std::iter::empty());
    }

    pub(super) fn finish_produce(
        &mut self,
        reply: ReplyForm,
        produce: Produce,
        answers: impl Iterator<Item = Answer>,
    ) {
        // Without an answer nobody waits for the disk.
        let stage = if produce.acks == Acks::None { Stage::Append } else { Stage::Durable };
        let ended = Some((stage, self.stamped));
        let mut failed = false;
        let mut partitions: Vec<ProducePartitionResponse<'_>> = produce
            .partitions
            .iter()
            .zip(answers)
            .map(|((topic, partition), answer)| {
                let response = partition_response(topic, *partition, answer, reply.version);
                failed |= response.error_code != ErrorCode::None;
                response
            })
            .collect();
        let throttle_time_ms = self.throttle(reply.slot, Bound::Produce, None);
        if produce.acks == Acks::None {
            self.reply(reply.slot, ended, Vec::new());
            if failed {
                self.drain(reply.slot);
            }
            return;
        }
        for refused in partitions.iter_mut().filter(|p| failed && wants_hint(p.error_code)) {
            refused.current_leader = self.leader_hint(refused.topic, refused.partition);
        }
        let hints = partitions.iter().filter_map(|partition| partition.current_leader);
        let node_endpoints = if failed { self.hinted_endpoints(hints) } else { Vec::new() };
        let response = ProduceResponse {
            partitions: Cow::Owned(partitions),
            throttle_time_ms,
            node_endpoints: Cow::Owned(node_endpoints),
        };
        let mut out = BytesMut::with_capacity(64 + 64 * produce.partitions.len());
        response.encode(&mut out, reply.version, reply.correlation_id);
        self.reply(reply.slot, ended, vec![out.freeze()]);
    }
}

/// A partition named twice in one request is refused both times: which batch would be first?
fn refuse_repeated(incoming: &mut [Incoming]) {
    if incoming.len() < 2 {
        return;
    }
    let mut seen = std::collections::HashMap::with_capacity(incoming.len());
    let mut repeated = Vec::new();
    for (index, partition) in incoming.iter().enumerate() {
        if let Ok((id, _)) = &partition.target
            && let Some(first) = seen.insert(*id, index)
        {
            repeated.extend([first, index]);
        }
    }
    for index in repeated {
        incoming[index].target = Err(ErrorCode::InvalidRequest);
    }
}

fn partition_response<'a>(
    topic: &'a TopicName,
    partition: i32,
    answer: Answer,
    version: i16,
) -> ProducePartitionResponse<'a> {
    let topic = topic.as_ref();
    match answer {
        Answer::Appended { base_offset, log_append_time, log_start_offset } => {
            let response = ProducePartitionResponse::appended(
                topic,
                partition,
                base_offset.0,
                log_start_offset.0,
            );
            let log_append_time_ms = log_append_time.map_or(-1, |time| time.0);
            ProducePartitionResponse { log_append_time_ms, ..response }
        }
        Answer::Refused { error, message } => {
            let unknown_to_client =
                error == ErrorCode::KafkaStorageError && version < STORAGE_ERROR_FROM;
            let error = if unknown_to_client { ErrorCode::NotLeaderOrFollower } else { error };
            let response = ProducePartitionResponse::failed(topic, partition, error);
            ProducePartitionResponse { error_message: message.map(Cow::Owned), ..response }
        }
        Answer::RefusedRecords { error, message, records } => {
            let response = ProducePartitionResponse::failed(topic, partition, error);
            // Why is said once, for all of them: there may be many.
            let fault = |record: u32| RecordError { batch_index: record as i32, message: None };
            ProducePartitionResponse {
                record_errors: records.into_iter().map(fault).collect(),
                error_message: Some(Cow::Borrowed(message)),
                ..response
            }
        }
        other => unreachable!("an append is answered as such, not with {other:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A producer of before version 4 takes the word for a failed disk for the end; in the words that
    /// it knows, it looks for the leader and tries again.
    #[test]
    fn old_producers_are_told_of_a_failed_disk_in_words_they_know() {
        let topic = TopicName::Name("t".into());
        let told = |version, error| {
            let answer = Answer::Refused { error, message: None };
            partition_response(&topic, 0, answer, version).error_code
        };
        let (storage, leader) = (ErrorCode::KafkaStorageError, ErrorCode::NotLeaderOrFollower);
        assert_eq!((told(3, storage), told(4, storage)), (leader, storage));
        assert_eq!(told(3, ErrorCode::MessageTooLarge), ErrorCode::MessageTooLarge);
    }
}
