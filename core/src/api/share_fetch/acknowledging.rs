//! ShareAcknowledge: what became of records, said without fetching others; and what a member leaves
//! behind without saying anything.

use std::sync::Arc;
use std::time::Duration;

use tidemill_net::kafka::share_acknowledge::{
    AcknowledgePartitionResponse, AcknowledgeTopicResponse, FINAL_EPOCH, INITIAL_EPOCH,
    ShareAcknowledgeRequest, ShareAcknowledgeResponse,
};
use tidemill_net::kafka::{ErrorCode, Request as _, TopicRef};

use super::lock_ms;
use super::parts::told_of;
use crate::api::share_session::{Changes, Place, Who};
use crate::api::{Collect, Job, Purpose, ReplyForm};
use crate::message::{Answer, Call};
use crate::partition::Times;
use crate::shard::Shard;
use crate::share::partition::SessionId;
use crate::share::record::Key;
use crate::share::request::{Reply, Request};

/// What a ShareAcknowledge waits for.
pub struct Acknowledge {
    places: Vec<(Place, Result<(), ErrorCode>)>,
    lock_ms: i32,
}

/// How long it is known who wants to know that records are free again, which is nobody.
const RELEASE_WITHIN: Duration = Duration::from_secs(30);

impl Shard {
    pub(crate) fn handle_share_acknowledge(
        &mut self,
        reply: ReplyForm,
        request: ShareAcknowledgeRequest,
        times: Times,
    ) {
        let told = told_of(request.topics.iter().flat_map(|topic| {
            let partitions = topic.partitions.iter();
            partitions.map(|one| {
                ((topic.topic_id, one.partition_index), &one.acknowledgement_batches[..])
            })
        }));
        let names = (request.group_id.as_deref(), request.member_id.as_deref());
        let epoch = request.share_session_epoch;
        let opened = match epoch {
            INITIAL_EPOCH => Err(ErrorCode::InvalidShareSessionEpoch),
            _ => self.open_share_session(reply, names, epoch, Changes::default(), &told),
        };
        let (who, opened) = match opened {
            Ok(opened) => opened,
            Err(error) => return self.reply_message(reply, &request.error_response(error)),
        };
        let lock_ms = lock_ms(&self.share_rules(&who.group));
        let mut calls = Vec::new();
        let mut places = Vec::new();
        for told in told {
            let (topic, partition) = told.place;
            let key = Key { group: Arc::clone(&who.group), topic, partition };
            let known = self.find_partition(TopicRef::Id(topic), partition);
            let state = self.partition_of_share(&key).ok_or(ErrorCode::NotLeaderOrFollower);
            let asked = known.and(state).and_then(|state| Ok((state, told.said?)));
            let noted = asked.map(|(state, said)| {
                let request = Request::Acknowledge { key, member: who.member.clone(), told: said };
                calls.push((calls.len() as u32, state, Call::Share(Box::new(request))));
            });
            places.push((told.place, noted));
        }
        let purpose = Purpose::ShareAcknowledge(Acknowledge { places, lock_ms });
        let count = calls.len();
        let job = self.jobs.insert(Job::Collect(Collect::new(reply, count, purpose)));
        self.call(job, calls, times);
        if epoch == FINAL_EPOCH {
            self.release_share(&who, None, &opened.places, times);
        }
        if count == 0 {
            self.finish_collect(job);
        }
    }

    pub(in crate::api) fn finish_share_acknowledge(
        &mut self,
        reply: ReplyForm,
        request: Acknowledge,
        mut answers: impl Iterator<Item = Answer>,
    ) {
        let mut topics: Vec<AcknowledgeTopicResponse> = Vec::new();
        for ((topic_id, partition_index), noted) in request.places {
            let error_code = match noted.map(|()| answers.next().expect("one for each")) {
                Err(error) => error,
                Ok(Answer::Share(reply)) => error_of_told(&reply),
                Ok(Answer::Refused { error, .. }) => told_to_member(error),
                Ok(other) => unreachable!("what was said is noted or not, and not {other:?}"),
            };
            let partition = AcknowledgePartitionResponse {
                partition_index,
                error_code,
                ..AcknowledgePartitionResponse::default()
            };
            match topics.last_mut().filter(|topic| topic.topic_id == topic_id) {
                Some(topic) => topic.partitions.push(partition),
                None => {
                    topics.push(AcknowledgeTopicResponse { topic_id, partitions: vec![partition] });
                }
            }
        }
        let response = ShareAcknowledgeResponse {
            acquisition_lock_timeout_ms: request.lock_ms,
            responses: topics,
            ..ShareAcknowledgeResponse::default()
        };
        self.reply_message(reply, &response);
    }

    /// What a member has of these partitions, or got of them in one session, others may have.
    pub(super) fn release_share(
        &mut self,
        who: &Who,
        session: Option<SessionId>,
        places: &[Place],
        times: Times,
    ) {
        let released = places.iter().filter_map(|place| {
            let group = Arc::clone(&who.group);
            let key = Key { group, topic: place.0, partition: place.1 };
            let state = self.partition_of_share(&key)?;
            let request = Request::Release { key, member: Arc::clone(&who.member), session };
            Some((0, state, Call::Share(Box::new(request))))
        });
        let calls: Vec<_> = released.collect();
        if calls.is_empty() {
            return;
        }
        let job = self.jobs.insert(Job::Nobody);
        self.jobs.set_deadline(job, times.now.after(RELEASE_WITHIN));
        self.call(job, calls, times);
    }
}

/// What came of what a member has said.
pub(super) fn error_of_told(reply: &Reply) -> ErrorCode {
    match reply {
        Reply::Done => ErrorCode::None,
        Reply::Refused(error) => told_to_member(*error),
        other => unreachable!("what was said is noted or not, and not {other:?}"),
    }
}

/// A member knows nothing of who keeps what its group has read: what helps is to ask again.
pub(super) fn told_to_member(error: ErrorCode) -> ErrorCode {
    match error {
        ErrorCode::CoordinatorLoadInProgress
        | ErrorCode::CoordinatorNotAvailable
        | ErrorCode::NotCoordinator => ErrorCode::NotLeaderOrFollower,
        error => error,
    }
}
