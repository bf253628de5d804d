//! ShareFetch and ShareAcknowledge: records for a member of a share group, and what became of those
//! it has (KIP-932).
//!
//! A fetch first passes on what the member says of earlier records, then looks at its partitions one
//! after the other, each time beginning with another one. Who knows what the group has read of one
//! ([`crate::share`]) may live on another shard than the partition itself:
//!
//! ```text
//! next? ──> from ── read the log ──> batches ── acquire ──> what is the member's
//!   └─ never read: find where to begin, begin, and once more
//! ```
//!
//! Where the log has lost what is next, it is noted where it begins or ends now, and looked once more.
//!
//! With something in hand it replies, at once: the time of the locks is passing. Otherwise it waits
//! until more has come, in the log or back from other members, or its time is up.
//!
//! Start reading at `Shard::handle_share_fetch`, then `Shard::share_fetch_on`.

mod acknowledging;
mod looking;
mod parts;
mod waiting;

pub use self::acknowledging::Acknowledge;

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tidemill_net::kafka::share_acknowledge::INITIAL_EPOCH;
use tidemill_net::kafka::share_fetch::{
    AcquiredRecords, ShareFetchPartitionResponse, ShareFetchRequest, ShareFetchResponse,
    acquire_mode,
};
use tidemill_net::kafka::{ErrorCode, TopicRef};
use tidemill_perf::Stage as RequestStage;
use tidemill_record::{Offset, TopicPartition};
use tidemill_replication::quota::Bound;
use tidemill_runtime::edge::Instant;

use self::parts::{Told, told_of};
use super::groups::{is_group_name, names_fit};
use super::share_session::{Changes, Opened, Place, Who};
use super::{Job, ReplyForm};
use crate::job::JobId;
use crate::limits::{FETCH_WAIT_MS_MAX, SHARE_SESSION_PLACES_MAX};
use crate::message::Call;
use crate::partition::Times;
use crate::shard::Shard;
use crate::share::partition::{Given, SessionId};
use crate::share::record::Key;
use crate::share::request::Request;
use crate::share::rules::Rules;

/// A fetch under way.
pub struct ShareFetch {
    reply: ReplyForm,
    who: Who,
    session: SessionId,
    rules: Rules,
    deadline: Instant,
    /// All partitions are told of.
    is_new: bool,
    /// It reads nothing: it only says what became of records.
    only_tells: bool,
    bytes_left: u32,
    records_left: i64,
    is_strict: bool,
    batch_size: i64,
    parts: Vec<Part>,
    stage: Stage,
    /// What it holds of the budget for replies.
    held_bytes: usize,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Stage {
    /// So many partitions have not said whether they know what became of records.
    Telling(usize),
    /// This partition is being asked something.
    Looking(usize, Step),
    /// For more.
    Waiting,
}

/// What a partition is being asked.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Step {
    /// From where on there is something.
    Next,
    /// Where the group is to begin.
    Find,
    /// To begin.
    Begin,
    /// Where the log begins.
    FindStart,
    /// To note that.
    BeginAt,
    /// Where the log ends.
    FindEnd,
    /// To note that.
    EndAt,
    /// For records; it may have to wait for memory first.
    Read,
    /// Which of these the member may have.
    Acquire,
}

/// One partition of a fetch.
struct Part {
    place: Place,
    key: Key,
    id: Result<TopicPartition, ErrorCode>,
    /// Who knows what the group has read.
    state: Option<TopicPartition>,
    /// It is to be read, not only told about.
    is_read: bool,
    /// It is to be looked at.
    is_stale: bool,
    tries: u32,
    /// What came of what the member has said.
    told: Option<ErrorCode>,
    error: Option<ErrorCode>,
    from: i64,
    /// When the group's state was looked at; none: nothing is waited for there.
    seen: Option<u64>,
    /// Where the log's visible end was; none: nothing is waited for there.
    seen_end: Option<Offset>,
    batches: Vec<Bytes>,
    given: Vec<Given>,
}

impl Part {
    fn new(place: Place, who: &Who) -> Self {
        let key = Key { group: Arc::clone(&who.group), topic: place.0, partition: place.1 };
        Self {
            place,
            key,
            id: Err(ErrorCode::UnknownTopicId),
            state: None,
            is_read: false,
            is_stale: false,
            tries: 0,
            told: None,
            error: None,
            from: 0,
            seen: None,
            seen_end: None,
            batches: Vec::new(),
            given: Vec::new(),
        }
    }

    /// It cannot be read now; what was read is for nobody.
    fn fail(&mut self, error: ErrorCode) {
        self.error = Some(error);
        self.is_stale = false;
        self.batches.clear();
    }
}

impl ShareFetch {
    fn bytes(&self) -> usize {
        self.parts.iter().flat_map(|part| &part.batches).map(Bytes::len).sum()
    }
}

impl Shard {
    // Beginning.

    pub(crate) fn handle_share_fetch(
        &mut self,
        reply: ReplyForm,
        request: ShareFetchRequest,
        times: Times,
    ) {
        let told = told_of(request.topics.iter().flat_map(|topic| {
            let partitions = topic.partitions.iter();
            partitions.map(|one| {
                ((topic.topic_id, one.partition_index), &one.acknowledgement_batches[..])
            })
        }));
        let forgotten = request.forgotten_topics_data.iter().flat_map(|topic| {
            topic.partitions.iter().map(|partition| (topic.topic_id, *partition))
        });
        let named = request.topics.iter().flat_map(|topic| {
            topic.partitions.iter().map(|one| (topic.topic_id, one.partition_index))
        });
        let changes = Changes { added: named.collect(), forgotten: forgotten.collect() };
        let names = (request.group_id.as_deref(), request.member_id.as_deref());
        let epoch = request.share_session_epoch;
        let opened = self.open_share_session(reply, names, epoch, changes, &told);
        let (who, opened) = match opened {
            Ok(opened) => opened,
            Err(error) => {
                let response = request.error_response(error);
                return self.reply(reply.slot, None, encode(reply, &response));
            }
        };
        let rules = self.share_rules(&who.group);
        let wait_ms = u64::try_from(request.max_wait_ms).unwrap_or(0).min(FETCH_WAIT_MS_MAX);
        let bytes_max = u32::try_from(request.max_bytes).unwrap_or(0);
        let room = u32::try_from(self.room(reply.slot, Bound::Fetch)).unwrap_or(u32::MAX);
        let asks_for_none = request.is_renew_ack || request.max_records <= 0;
        let fetch = ShareFetch {
            reply,
            session: SessionId { shard: self.id, number: opened.number },
            rules,
            deadline: times.now.after(Duration::from_millis(wait_ms)),
            is_new: opened.is_new,
            // With records to keep for longer it gets no others (KIP-1222).
            only_tells: opened.has_ended || asks_for_none || room == 0,
            bytes_left: bytes_max.min(self.settings.config.fetch_bytes_max).min(room),
            records_left: i64::from(request.max_records),
            is_strict: request.share_acquire_mode == acquire_mode::RECORD_LIMIT,
            batch_size: i64::from(request.batch_size.max(1)),
            parts: self.share_parts(&who, &opened, &told),
            stage: Stage::Telling(0),
            held_bytes: 0,
            who,
        };
        self.begin_share_fetch(fetch, &opened, told, times);
    }

    /// Checks what must hold for both requests, and takes the session a step further.
    fn open_share_session(
        &mut self,
        reply: ReplyForm,
        (group, member): (Option<&str>, Option<&str>),
        epoch: i32,
        changes: Changes,
        told: &[Told],
    ) -> Result<(Who, Opened), ErrorCode> {
        let (group, member) = (group.unwrap_or_default(), member.unwrap_or_default());
        if !is_group_name(group) || member.is_empty() || !names_fit(&[member]) {
            return Err(ErrorCode::InvalidRequest);
        }
        if SHARE_SESSION_PLACES_MAX < told.len() {
            return Err(ErrorCode::InvalidRequest);
        }
        // Who has just come has nothing to say of what it had.
        if epoch == INITIAL_EPOCH && told.iter().any(|told| told.has_something()) {
            return Err(ErrorCode::InvalidRequest);
        }
        let who = Who { group: group.into(), member: member.into() };
        let opened = self.shares.sessions.step(&who, epoch, reply.slot.connection, changes)?;
        Ok((who, opened))
    }

    /// What is read, and what is only spoken of.
    fn share_parts(&self, who: &Who, opened: &Opened, told: &[Told]) -> Vec<Part> {
        let read: &[Place] = if opened.has_ended { &[] } else { &opened.places };
        let spoken = told.iter().filter(|told| told.has_something()).map(|told| told.place);
        let mut parts: Vec<Part> = Vec::new();
        let mut seen: HashSet<Place> = HashSet::new();
        for (index, place) in read.iter().copied().chain(spoken).enumerate() {
            if !seen.insert(place) {
                continue;
            }
            let mut part = Part::new(place, who);
            part.id = self.find_partition(TopicRef::Id(place.0), place.1);
            part.state = self.partition_of_share(&part.key);
            part.is_read = index < read.len();
            part.is_stale = part.is_read;
            match (part.id, part.state) {
                (Err(error), _) => part.fail(error),
                (Ok(_), None) => part.fail(ErrorCode::NotLeaderOrFollower),
                (Ok(_), Some(_)) => {}
            }
            parts.push(part);
        }
        parts
    }

    /// Passes on what the member says, and gives back what it leaves behind.
    fn begin_share_fetch(
        &mut self,
        mut fetch: ShareFetch,
        opened: &Opened,
        told: Vec<Told>,
        times: Times,
    ) {
        let mut calls = Vec::new();
        let places = fetch.parts.iter().enumerate().map(|(index, part)| (part.place, index));
        let places: HashMap<Place, usize> = places.collect();
        for told in told.into_iter().filter(Told::has_something) {
            let index = *places.get(&told.place).expect("all that is spoken of is a part");
            let part = &mut fetch.parts[index];
            match (told.said, part.state) {
                (Err(error), _) => part.told = Some(error),
                (Ok(_), _) if part.error.is_some() => part.told = part.error,
                (Ok(_), None) => unreachable!("without a state it has an error"),
                (Ok(said), Some(state)) => {
                    let (key, member) = (part.key.clone(), Arc::clone(&fetch.who.member));
                    let request = Request::Acknowledge { key, member, told: said };
                    calls.push((index as u32, state, Call::Share(Box::new(request))));
                }
            }
        }
        fetch.stage = Stage::Telling(calls.len());
        let (nobody, who) = (calls.is_empty(), fetch.who.clone());
        let job = self.jobs.insert(Job::ShareFetch(Box::new(fetch)));
        self.call(job, calls, times);
        if opened.has_ended {
            // After what was said of it.
            self.release_share(&who, None, &opened.places, times);
        }
        if nobody {
            self.share_fetch_on(job, times);
        }
    }

    // Replying.

    fn finish_share_fetch(&mut self, job: JobId, times: Times) {
        let Some(Job::ShareFetch(fetch)) = self.jobs.remove(job) else { return };
        let bytes = fetch.bytes() as u64;
        self.budget.release_reply(fetch.held_bytes);
        let reply = fetch.reply;
        if self.connection_mut(reply.slot.connection).is_none() {
            // Nobody is there any more to take it.
            let places: Vec<Place> = fetch.parts.iter().map(|part| part.place).collect();
            return self.release_share(&fetch.who, Some(fetch.session), &places, times);
        }
        let throttle_time_ms = self.throttle(reply.slot, Bound::Fetch, Some(bytes));
        let told = |part: &&Part| {
            fetch.is_new || part.told.is_some() || part.error.is_some() || !part.given.is_empty()
        };
        let partitions: Vec<ShareFetchPartitionResponse<'_>> =
            fetch.parts.iter().filter(told).map(Part::response).collect();
        let response = ShareFetchResponse {
            throttle_time_ms,
            acquisition_lock_timeout_ms: lock_ms(&fetch.rules),
            partitions: Cow::Owned(partitions),
            ..ShareFetchResponse::default()
        };
        let encoded = encode(reply, &response);
        let looked_at = self.stamp();
        self.reply(reply.slot, Some((RequestStage::Cache, looked_at)), encoded);
    }
}

impl Part {
    fn response(&self) -> ShareFetchPartitionResponse<'_> {
        let acquired = self.given.iter().map(|given| AcquiredRecords {
            first_offset: given.first,
            last_offset: given.last,
            delivery_count: given.count,
        });
        ShareFetchPartitionResponse {
            error_code: self.error.filter(|_| self.is_read).unwrap_or(ErrorCode::None),
            acknowledge_error_code: self.told.unwrap_or(ErrorCode::None),
            records: Cow::Borrowed(&self.batches),
            acquired_records: acquired.collect(),
            ..ShareFetchPartitionResponse::none(TopicRef::Id(self.place.0), self.place.1)
        }
    }
}

fn lock_ms(rules: &Rules) -> i32 {
    i32::try_from(rules.lock.as_millis()).unwrap_or(i32::MAX)
}

fn encode(reply: ReplyForm, response: &ShareFetchResponse<'_>) -> Vec<Bytes> {
    let mut parts = Vec::with_capacity(2 * response.partitions.len() + 1);
    let mut out = BytesMut::with_capacity(64 + 96 * response.partitions.len());
    response.encode(&mut out, &mut parts, reply.version, reply.correlation_id);
    parts
}

#[cfg(test)]
mod tests {
    use tidemill_record::TopicId;

    use super::*;

    /// While the node stopped, records that were read and could not be given to anybody any more were
    /// sent beside the error.
    #[test]
    fn a_partition_that_fails_sends_no_records() {
        let who = Who { group: "g".into(), member: "m".into() };
        let mut part = Part::new((TopicId([1; 16]), 0), &who);
        part.is_read = true;
        part.batches.push(Bytes::from_static(b"records"));
        part.fail(ErrorCode::NotLeaderOrFollower);
        let response = part.response();
        assert_eq!(response.error_code, ErrorCode::NotLeaderOrFollower);
        assert_eq!(response.records_bytes(), 0);
    }
}
