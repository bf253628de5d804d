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
//! With something in hand it replies, at once: the time of the locks is passing. Otherwise it waits
//! until more has come, in the log or back from other members, or its time is up.
//!
//! Start reading at `Shard::handle_share_fetch`, then `Shard::share_fetch_on`.

mod parts;

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tidemill_net::kafka::ErrorCode;
use tidemill_net::kafka::share_acknowledge::{
    AcknowledgePartitionResponse, AcknowledgeTopicResponse, FINAL_EPOCH, INITIAL_EPOCH,
    ShareAcknowledgeRequest, ShareAcknowledgeResponse,
};
use tidemill_net::kafka::share_fetch::{
    AcquiredRecords, ShareFetchPartitionResponse, ShareFetchRequest, ShareFetchResponse,
    acquire_mode,
};
use tidemill_net::kafka::{Request as _, TopicRef};
use tidemill_perf::Stage as RequestStage;
use tidemill_record::{Offset, TopicPartition};
use tidemill_replication::config::OffsetReset;
use tidemill_replication::quota::Bound;
use tidemill_runtime::edge::{Instant, ShardId};

use self::parts::{Told, kept, read_batches, told_of};
use super::groups::{is_group_name, names_fit};
use super::share_session::{Changes, Opened, Place, Who};
use super::{Collect, Job, Purpose, ReplyForm};
use crate::connection::ConnectionId;
use crate::job::JobId;
use crate::limits::{
    FETCH_WAIT_MS_MAX, SHARE_READ_BYTES, SHARE_SESSION_PLACES_MAX, SHARE_TRIES_MAX,
};
use crate::message::{Answer, Call, Message, ReadAnswer, ReadCall};
use crate::partition::Times;
use crate::placement;
use crate::shard::Shard;
use crate::share::partition::{Given, SessionId, Want};
use crate::share::record::Key;
use crate::share::request::{Reply, Request};
use crate::share::rules::Rules;

/// Timestamps with a meaning of their own in ListOffsets.
const LATEST: i64 = -1;
const EARLIEST: i64 = -2;

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

/// What a ShareAcknowledge waits for.
pub struct Acknowledge {
    places: Vec<(Place, Result<(), ErrorCode>)>,
    lock_ms: i32,
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

    /// It cannot be read now.
    fn fail(&mut self, error: ErrorCode) {
        self.error = Some(error);
        self.is_stale = false;
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
        let fetch = ShareFetch {
            reply,
            session: SessionId { shard: self.id, number: opened.number },
            rules,
            deadline: times.now.after(Duration::from_millis(wait_ms)),
            is_new: opened.is_new,
            // With records to keep for longer it gets no others (KIP-1222).
            only_tells: opened.has_ended || request.is_renew_ack || request.max_records <= 0,
            bytes_left: bytes_max.min(self.settings.config.fetch_bytes_max),
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

    /// What a member has of these partitions, or got of them in one session, others may have.
    fn release_share(
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

    /// A connection is gone: so are the sessions that came by it, and whoever waits for them.
    pub(crate) fn share_connection_gone(&mut self, connection: ConnectionId, times: Times) {
        let ended = self.shares.sessions.end_of(connection);
        if ended.is_empty() {
            return;
        }
        for id in self.jobs.ids() {
            if let Some(Job::ShareFetch(fetch)) = self.jobs.get_mut(id)
                && fetch.reply.slot.connection == connection
                && fetch.stage == Stage::Waiting
            {
                self.unwatch_share(id, times);
                self.jobs.remove(id);
            }
        }
        for (who, number, places) in ended {
            // The member may have come back by another connection: what it gets there is its own.
            let session = SessionId { shard: self.id, number };
            self.release_share(&who, Some(session), &places, times);
        }
    }

    // Looking.

    /// Looks at the next partition; when there is none, replies or waits.
    fn share_fetch_on(&mut self, job: JobId, times: Times) {
        let stopping = self.is_stopping();
        let Some(Job::ShareFetch(fetch)) = self.jobs.get_mut(job) else { return };
        let has_room = 0 < fetch.records_left && 0 < fetch.bytes_left;
        if has_room && !fetch.only_tells && !stopping {
            let next = fetch.parts.iter().position(|part| part.is_stale);
            if let Some(index) = next {
                let key = fetch.parts[index].key.clone();
                return self.ask_share(job, index, Step::Next, Request::Next { key }, times);
            }
        }
        let tells = |part: &Part| !part.given.is_empty() || part.error.is_some();
        let has_news = fetch.parts.iter().any(tells);
        let reads = fetch.parts.iter().any(|part| part.is_read);
        let is_over = fetch.deadline <= times.now || fetch.only_tells || !reads || stopping;
        if has_news || is_over {
            return self.finish_share_fetch(job, times);
        }
        self.watch_share(job, times);
    }

    /// Asks whoever knows what the group has read.
    fn ask_share(&mut self, job: JobId, index: usize, step: Step, request: Request, times: Times) {
        let Some(Job::ShareFetch(fetch)) = self.jobs.get_mut(job) else { return };
        fetch.stage = Stage::Looking(index, step);
        let state = fetch.parts[index].state.expect("parts without fail");
        self.call(job, [(index as u32, state, Call::Share(Box::new(request)))], times);
    }

    /// Asks the partition for an offset.
    fn find_share(&mut self, job: JobId, index: usize, step: Step, timestamp: i64, times: Times) {
        let Some(Job::ShareFetch(fetch)) = self.jobs.get_mut(job) else { return };
        fetch.stage = Stage::Looking(index, step);
        let id = fetch.parts[index].id.expect("parts without fail");
        // A log goes on behind what is stable.
        let read_committed = fetch.rules.read_committed && step != Step::FindEnd;
        let call = Call::ListOffset { timestamp, read_committed, current_leader_epoch: None };
        self.call(job, [(index as u32, id, call)], times);
    }

    /// An answer for a fetch.
    pub(super) fn share_fetch_answered(
        &mut self,
        job: JobId,
        index: u32,
        answer: Answer,
        times: Times,
    ) {
        let Some(Job::ShareFetch(fetch)) = self.jobs.get_mut(job) else { return };
        let index = index as usize;
        match fetch.stage {
            Stage::Telling(left) => {
                let error = match answer {
                    Answer::Share(reply) => error_of_told(&reply),
                    Answer::Refused { error, .. } => told_to_member(error),
                    other => unreachable!("what was said is noted or not, and not {other:?}"),
                };
                fetch.parts[index].told = Some(error);
                fetch.stage = Stage::Telling(left - 1);
                if left == 1 {
                    self.share_fetch_on(job, times);
                }
            }
            Stage::Waiting => {
                // Also a refusal: looking again tells why.
                let index = index % fetch.parts.len();
                fetch.parts[index].is_stale = true;
                fetch.parts[index].tries = 0;
                let slot = fetch.reply.slot;
                self.stage_ended(slot, RequestStage::Wait);
                self.unwatch_share(job, times);
                // Under a new name, so that what the other watches tell reaches nobody.
                let Some(fetch) = self.jobs.remove(job) else { return };
                let job = self.jobs.insert(fetch);
                self.share_fetch_on(job, times);
            }
            Stage::Looking(_, step) => self.share_step(job, index, step, answer, times),
        }
    }

    fn share_step(&mut self, job: JobId, index: usize, step: Step, answer: Answer, times: Times) {
        let Some(Job::ShareFetch(fetch)) = self.jobs.get_mut(job) else { return };
        let part = &mut fetch.parts[index];
        let key = part.key.clone();
        let reply = match answer {
            Answer::Share(reply) => *reply,
            Answer::Offset { found, .. } => {
                let found = found.map(|(offset, _)| offset.0);
                return self.share_offset_found(job, index, step, found, times);
            }
            Answer::Read(read) => return self.share_was_read(job, index, read, times),
            Answer::Refused { error: ErrorCode::OffsetOutOfRange, .. }
                if step == Step::Read && part.tries < SHARE_TRIES_MAX =>
            {
                // The log has dropped it, or a crash has cut the log.
                part.tries += 1;
                self.give_back_share(job);
                return self.find_share(job, index, Step::FindStart, EARLIEST, times);
            }
            Answer::Refused { error, .. } => {
                part.fail(error);
                self.give_back_share(job);
                return self.share_fetch_on(job, times);
            }
            other => unreachable!("no answer to anything that was asked: {other:?}"),
        };
        match (step, reply) {
            (_, Reply::Refused(error)) => {
                part.fail(told_to_member(error));
                self.give_back_share(job);
                self.share_fetch_on(job, times);
            }
            (Step::Next, Reply::Unbegun) => {
                let timestamp = match fetch.rules.reset {
                    OffsetReset::Latest => LATEST,
                    OffsetReset::Earliest => EARLIEST,
                    OffsetReset::ByDuration { ms } => {
                        times.wall_ms.saturating_sub_unsigned(ms).max(0)
                    }
                };
                self.find_share(job, index, Step::Find, timestamp, times);
            }
            (Step::Next, Reply::Next { from, seen }) => {
                part.seen = Some(seen);
                match from {
                    Some(from) => {
                        part.from = from;
                        fetch.stage = Stage::Looking(index, Step::Read);
                        // Nobody overtakes those who wait.
                        if !self.waiting_fetches.is_empty() || !self.try_share_read(job, times) {
                            self.waiting_fetches.push(job);
                        }
                    }
                    None => {
                        (part.is_stale, part.seen_end) = (false, None);
                        self.share_fetch_on(job, times);
                    }
                }
            }
            (Step::Begin | Step::BeginAt | Step::EndAt, Reply::Done) => {
                self.ask_share(job, index, Step::Next, Request::Next { key }, times);
            }
            (Step::Acquire, Reply::Given(given)) => {
                self.share_given(job, index, given, times);
            }
            // Forgotten meanwhile: it begins anew, or is gone.
            (Step::Acquire, Reply::Unbegun) => self.share_given(job, index, Vec::new(), times),
            (step, reply) => unreachable!("{reply:?} is no answer to {step:?}"),
        }
    }

    fn share_offset_found(
        &mut self,
        job: JobId,
        index: usize,
        step: Step,
        found: Option<i64>,
        times: Times,
    ) {
        let Some(Job::ShareFetch(fetch)) = self.jobs.get_mut(job) else { return };
        let part = &fetch.parts[index];
        let key = part.key.clone();
        match (step, found) {
            (Step::FindStart, Some(log_start)) if part.from < log_start => {
                let request = Request::BeginsAt { key, log_start };
                self.ask_share(job, index, Step::BeginAt, request, times);
            }
            (Step::FindStart, Some(_)) => {
                self.find_share(job, index, Step::FindEnd, LATEST, times);
            }
            (Step::FindEnd, Some(log_end)) => {
                let request = Request::EndsAt { key, log_end };
                self.ask_share(job, index, Step::EndAt, request, times);
            }
            (_, Some(start)) => {
                self.ask_share(job, index, Step::Begin, Request::Begin { key, start }, times);
            }
            // Nothing is as new as that.
            (_, None) => self.find_share(job, index, Step::Find, LATEST, times),
        }
    }

    /// Takes memory for what is read and reads; false if there is none now, or a shard is behind.
    pub(super) fn try_share_read(&mut self, job: JobId, times: Times) -> bool {
        if self.mesh_is_held_back() {
            return false;
        }
        let Some(Job::ShareFetch(fetch)) = self.jobs.get_mut(job) else { return true };
        let Stage::Looking(index, Step::Read) = fetch.stage else { return true };
        let part = &fetch.parts[index];
        let Ok(id) = part.id else { return true };
        let limit_bytes = fetch.bytes_left.min(SHARE_READ_BYTES);
        let home = self.home.as_ref().and_then(|home| home.batch_bytes_max(id));
        // One batch is read whole, whatever the limits.
        let least = home.unwrap_or(self.settings.config.batch_bytes_max) as usize;
        let wanted = (limit_bytes as usize).max(least);
        let Some(granted) = self.budget.try_take_reply(wanted, least) else { return false };
        fetch.held_bytes += granted;
        let call = Call::Read(ReadCall {
            from: Offset(part.from),
            limit_bytes,
            min_one: true,
            read_committed: fetch.rules.read_committed,
            current_leader_epoch: None,
            last_fetched_epoch: None,
        });
        self.call(job, [(index as u32, id, call)], times);
        true
    }

    /// What was taken of the budget and is not needed is given back.
    fn give_back_share(&mut self, job: JobId) {
        let Some(Job::ShareFetch(fetch)) = self.jobs.get_mut(job) else { return };
        let needed = fetch.bytes();
        let held = std::mem::replace(&mut fetch.held_bytes, needed);
        if held != needed {
            self.budget.take_reply(needed);
            self.budget.release_reply(held);
        }
    }

    fn share_was_read(&mut self, job: JobId, index: usize, read: ReadAnswer, times: Times) {
        let Some(Job::ShareFetch(fetch)) = self.jobs.get_mut(job) else { return };
        let read_committed = fetch.rules.read_committed;
        let part = &mut fetch.parts[index];
        part.seen_end = Some(match read_committed {
            true => read.last_stable_offset,
            false => read.high_watermark,
        });
        if read.batches.is_empty() {
            part.is_stale = false;
            self.give_back_share(job);
            return self.share_fetch_on(job, times);
        }
        let want = Want {
            member: Arc::clone(&fetch.who.member),
            session: fetch.session,
            from: part.from,
            batches: read_batches(&read.batches, &read.aborted),
            records_max: fetch.records_left,
            is_strict: fetch.is_strict,
            batch_size: fetch.batch_size,
        };
        part.batches = read.batches;
        let request = Request::Acquire { key: part.key.clone(), want: Box::new(want) };
        self.give_back_share(job);
        self.ask_share(job, index, Step::Acquire, request, times);
    }

    fn share_given(&mut self, job: JobId, index: usize, given: Vec<Given>, times: Times) {
        let Some(Job::ShareFetch(fetch)) = self.jobs.get_mut(job) else { return };
        let part = &mut fetch.parts[index];
        part.batches = kept(&part.batches, &given);
        let records: i64 = given.iter().map(|given| given.last - given.first + 1).sum();
        let bytes: usize = part.batches.iter().map(Bytes::len).sum();
        part.tries += 1;
        if given.is_empty() && part.tries < SHARE_TRIES_MAX {
            // Others were faster, or it was nothing for members: there may be more behind.
            let key = part.key.clone();
            self.give_back_share(job);
            return self.ask_share(job, index, Step::Next, Request::Next { key }, times);
        }
        if given.is_empty() {
            // There is more behind what was read: it is looked at again, after others.
            part.seen_end = Some(Offset::ZERO);
        }
        part.is_stale = false;
        part.given = given;
        fetch.records_left -= records;
        fetch.bytes_left = fetch.bytes_left.saturating_sub(bytes as u32);
        self.give_back_share(job);
        self.share_fetch_on(job, times);
    }

    // Waiting.

    /// Waits until there is more in a log, or more can be given out.
    fn watch_share(&mut self, job: JobId, times: Times) {
        let Some(Job::ShareFetch(fetch)) = self.jobs.get_mut(job) else { return };
        fetch.stage = Stage::Waiting;
        let (deadline, read_committed) = (fetch.deadline, fetch.rules.read_committed);
        let count = fetch.parts.len();
        let mut calls = Vec::new();
        for (index, part) in fetch.parts.iter().enumerate().filter(|(_, part)| part.is_read) {
            if let (Some(seen_end), Ok(id)) = (part.seen_end, part.id) {
                calls.push((index as u32, id, Call::Watch { seen_end, read_committed }));
            }
            if let (Some(seen), Some(state)) = (part.seen, part.state) {
                let request = Request::Watch { key: part.key.clone(), seen };
                calls.push(((count + index) as u32, state, Call::Share(Box::new(request))));
            }
        }
        self.jobs.set_deadline(job, deadline);
        self.call(job, calls, times);
    }

    /// Ends the watches of a fetch.
    fn unwatch_share(&mut self, job: JobId, times: Times) {
        let Some(Job::ShareFetch(fetch)) = self.jobs.get_mut(job) else { return };
        let mut calls = Vec::new();
        let mut watched: Vec<Vec<TopicPartition>> =
            vec![Vec::new(); usize::from(self.settings.shards)];
        for part in fetch.parts.iter().filter(|part| part.is_read) {
            if let (Some(_), Ok(id)) = (part.seen_end, part.id) {
                watched[usize::from(placement::home(id, self.settings.shards).0)].push(id);
            }
            if let (Some(_), Some(state)) = (part.seen, part.state) {
                let request = Request::Unwatch { key: part.key.clone() };
                calls.push((0, state, Call::Share(Box::new(request))));
            }
        }
        for (shard, partitions) in watched.into_iter().enumerate() {
            let shard = ShardId(shard as u16);
            if shard == self.id {
                let Some(home) = &mut self.home else { continue };
                partitions.iter().for_each(|id| home.unwatch(*id, job, shard));
            } else if !partitions.is_empty() {
                self.tell(shard, Message::Unwatch { job, partitions });
            }
        }
        self.call(job, calls, times);
    }

    /// The time a fetch may wait is over.
    pub(crate) fn share_fetch_expired(&mut self, job: JobId, times: Times) {
        // What is being looked at ends by itself, and then finds the deadline passed.
        if let Some(Job::ShareFetch(fetch)) = self.jobs.get_mut(job)
            && fetch.stage == Stage::Waiting
        {
            self.unwatch_share(job, times);
            self.finish_share_fetch(job, times);
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

    // Acknowledging alone.

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

    pub(super) fn finish_share_acknowledge(
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

/// How long it is known who wants to know that records are free again, which is nobody.
const RELEASE_WITHIN: Duration = Duration::from_secs(30);

fn lock_ms(rules: &Rules) -> i32 {
    i32::try_from(rules.lock.as_millis()).unwrap_or(i32::MAX)
}

fn encode(reply: ReplyForm, response: &ShareFetchResponse<'_>) -> Vec<Bytes> {
    let mut parts = Vec::with_capacity(2 * response.partitions.len() + 1);
    let mut out = BytesMut::with_capacity(64 + 96 * response.partitions.len());
    response.encode(&mut out, &mut parts, reply.version, reply.correlation_id);
    parts
}

/// What came of what a member has said.
fn error_of_told(reply: &Reply) -> ErrorCode {
    match reply {
        Reply::Done => ErrorCode::None,
        Reply::Refused(error) => told_to_member(*error),
        other => unreachable!("what was said is noted or not, and not {other:?}"),
    }
}

/// A member knows nothing of who keeps what its group has read: what helps is to ask again.
fn told_to_member(error: ErrorCode) -> ErrorCode {
    match error {
        ErrorCode::CoordinatorLoadInProgress
        | ErrorCode::CoordinatorNotAvailable
        | ErrorCode::NotCoordinator => ErrorCode::NotLeaderOrFollower,
        error => error,
    }
}
