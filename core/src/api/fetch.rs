//! Fetch: records to read, waiting for them if there are none (KIP-74, KIP-227, KIP-320, KIP-516).
//!
//! A fetch is a job of rounds. In a round it reads its partitions, each within what is left of the
//! request's bytes. If that gave enough, or an error, or time is up, it replies; otherwise it
//! watches its partitions and reads those again in which something has arrived.
//!
//! Before a round reads, the memory for what it may read is taken from the shard's budget; what it
//! did not need is given back when its answers are there. Without room for it the fetch waits, in
//! order of arrival, and when its time is up it tells what it knows without records.
//!
//! A client with a quota is given some seconds' worth at once, and nothing while it owes too much.
//!
//! The first batch of the first partition that has one is returned whole, however long (KIP-74):
//! otherwise a consumer with a small limit would ask for the same offset for ever.

mod response;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::time::Duration;

use tidemill_net::kafka::ErrorCode;
use tidemill_net::kafka::fetch::{self, FetchPartitionResponse, FetchRequest, FetchResponse};
use tidemill_perf::{Kind, Stage};
use tidemill_record::{LeaderEpoch, Offset, TopicPartition};
use tidemill_replication::quota::Bound;
use tidemill_runtime::edge::Instant;

pub use self::response::News;
use self::response::encode_fetch;
use super::fetch_session::{Opened, SessionPart};
use super::hints::wants_hint;
use super::{Job, ReplyForm, TopicName};
use crate::job::{JobId, ReplyTo};
use crate::limits::{FETCH_ROOM_BYTES_MIN, FETCH_ROOM_WAIT_MS_MIN, FETCH_WAIT_MS_MAX};
use crate::message::{Answer, Call, Message, ReadAnswer, ReadCall};
use crate::partition::Times;
use crate::placement;
use crate::shard::Shard;

/// A fetch under way.
pub struct Fetch {
    reply: ReplyForm,
    min_bytes: u64,
    max_bytes: u64,
    read_committed: bool,
    deadline: Instant,
    session_id: i32,
    incremental: bool,
    parts: Vec<Part>,
    outstanding: usize,
    watching: bool,
    /// A partition whose first batch alone is longer than the limits: read with force, once.
    forced: Option<usize>,
    was_forced: bool,
    /// Something of the round under way came from the disk.
    from_disk: bool,
    /// What it holds of the budget for replies.
    held_bytes: usize,
    /// Its place among those that wait until they may read.
    queued: Option<Place>,
    /// It has waited in vain, or its client's quota is used up: no records are read any more.
    gives_up: bool,
}

/// A place among the fetches that wait until they may read. Those that need no memory come first.
type Place = (bool, u64);

/// The fetches that wait for memory, or for other shards to take what was sent to them.
#[derive(Debug, Default)]
pub struct WaitingFetches {
    jobs: BTreeMap<Place, JobId>,
    next: u64,
}

impl WaitingFetches {
    /// Whether nobody waits.
    pub(super) fn is_empty(&self) -> bool {
        self.jobs.is_empty()
    }

    /// Lets a job wait behind all others.
    pub(super) fn push(&mut self, job: JobId) {
        self.jobs.insert((true, self.next), job);
        self.next += 1;
    }
}

/// One partition of a fetch.
struct Part {
    topic: TopicName,
    partition: i32,
    id: Result<TopicPartition, ErrorCode>,
    wanted: Wanted,
    /// To be read in the next round.
    stale: bool,
    answer: Option<PartAnswer>,
}

/// What a client wants of one partition.
#[derive(Clone, Copy, Debug)]
pub struct Wanted {
    /// The first offset.
    pub from: Offset,
    /// How many bytes at most.
    pub limit_bytes: u32,
    /// The client's view of the leader epoch.
    pub current_leader_epoch: Option<LeaderEpoch>,
    /// Epoch of the last record it has.
    pub last_fetched_epoch: Option<LeaderEpoch>,
}

enum PartAnswer {
    Read(ReadAnswer),
    Failed(ErrorCode),
}

impl Wanted {
    /// Takes a partition's part of a request.
    pub fn of(partition: &fetch::FetchPartition<'_>) -> Self {
        let epoch = |epoch| (0 <= epoch).then_some(LeaderEpoch(epoch));
        Self {
            from: Offset(partition.fetch_offset),
            limit_bytes: u32::try_from(partition.partition_max_bytes).unwrap_or(0),
            current_leader_epoch: epoch(partition.current_leader_epoch),
            last_fetched_epoch: epoch(partition.last_fetched_epoch),
        }
    }
}

impl Fetch {
    fn bytes(&self) -> u64 {
        let read = |part: &Part| match &part.answer {
            Some(PartAnswer::Read(read)) => u64::from(read.size_bytes),
            _ => 0,
        };
        self.parts.iter().map(read).sum()
    }

    fn must_reply_now(&self) -> bool {
        self.parts.iter().any(|part| match &part.answer {
            Some(PartAnswer::Failed(_)) => true,
            Some(PartAnswer::Read(read)) => read.diverging.is_some(),
            None => part.id.is_err(),
        })
    }

    /// A partition that has records, none of which fitted, while nothing else was read.
    fn held_back(&self) -> Option<usize> {
        if 0 < self.bytes() || self.was_forced || self.gives_up {
            return None;
        }
        self.parts
            .iter()
            .position(|part| matches!(&part.answer, Some(PartAnswer::Read(read)) if read.held_back))
    }

    fn take_answer(&mut self, index: usize, answer: Answer) {
        let part = &mut self.parts[index];
        self.outstanding -= 1;
        part.answer = Some(match answer {
            Answer::Read(read) => {
                self.from_disk |= read.from_disk;
                PartAnswer::Read(read)
            }
            Answer::Refused { error, .. } => PartAnswer::Failed(error),
            other => unreachable!("a read is answered as such, not with {other:?}"),
        });
    }
}

impl Shard {
    /// Answers a fetch request, now or when there is enough.
    pub(crate) fn handle_fetch(
        &mut self,
        reply: ReplyForm,
        request: &FetchRequest<'_>,
        times: Times,
    ) {
        let decoded_at = self.stamp();
        let opened = match self.open_fetch_session(reply.version, request, times) {
            Ok(opened) => opened,
            Err(error) => {
                let response = FetchResponse { error_code: error, ..FetchResponse::default() };
                self.note_request(reply.slot, Kind::Fetch, None, [(Stage::Decode, decoded_at)]);
                return self.reply(reply.slot, None, encode_fetch(reply, &response));
            }
        };
        let Opened { session_id, incremental, parts } = opened;
        let parts: Vec<Part> = parts.into_iter().map(|part| self.fetch_part(part)).collect();
        let about = parts.iter().find_map(|part| part.id.ok());
        let begun = [(Stage::Decode, decoded_at), (Stage::Route, self.stamp())];
        self.note_request(reply.slot, Kind::Fetch, about, begun);
        let wait_ms = u64::try_from(request.max_wait_ms).unwrap_or(0).min(FETCH_WAIT_MS_MAX);
        let deadline = times.now.after(Duration::from_millis(wait_ms));
        let room = self.room(reply.slot, Bound::Fetch);
        let limit = u64::from(self.settings.config.fetch_bytes_max).min(room);
        let fetch = Fetch {
            reply,
            // Batches are given whole: what fits is more than half of the room, if there is as much.
            min_bytes: u64::try_from(request.min_bytes).unwrap_or(0).min(room / 2),
            max_bytes: u64::try_from(request.max_bytes).unwrap_or(0).min(limit),
            read_committed: request.isolation_level == fetch::READ_COMMITTED,
            deadline,
            session_id,
            incremental,
            parts,
            outstanding: 0,
            watching: false,
            forced: None,
            was_forced: false,
            from_disk: false,
            held_bytes: 0,
            queued: None,
            gives_up: room == 0,
        };
        let job = self.jobs.insert(Job::Fetch(Box::new(fetch)));
        self.fetch_round(job, times);
    }

    fn fetch_part(&self, part: SessionPart) -> Part {
        let id = self.find_partition(part.topic.as_ref(), part.partition);
        Part {
            topic: part.topic,
            partition: part.partition,
            id,
            wanted: part.wanted,
            stale: true,
            answer: None,
        }
    }

    /// Begins to read all stale partitions, or waits until it may.
    fn fetch_round(&mut self, job: JobId, times: Times) {
        // Nobody overtakes those who wait.
        if !self.waiting_fetches.jobs.is_empty() || !self.try_fetch_round(job, times) {
            self.queue_fetch(job, times);
        }
    }

    fn queue_fetch(&mut self, job: JobId, times: Times) {
        let Some(Job::Fetch(fetch)) = self.jobs.get_mut(job) else { return };
        let place = (!fetch.gives_up, self.waiting_fetches.next);
        self.waiting_fetches.next += 1;
        self.waiting_fetches.jobs.insert(place, job);
        fetch.watching = false;
        fetch.queued = Some(place);
        let patience = times.now.after(Duration::from_millis(FETCH_ROOM_WAIT_MS_MIN));
        let deadline = fetch.deadline.max(patience);
        if !fetch.gives_up {
            self.jobs.set_deadline(job, deadline);
        }
    }

    /// Lets those fetches read for which there is room now; true if there was one.
    pub(crate) fn resume_fetches(&mut self, times: Times) -> bool {
        let mut moved = false;
        while let Some((&place, &job)) = self.waiting_fetches.jobs.first_key_value() {
            let has_begun = match self.jobs.get_mut(job) {
                Some(Job::ShareFetch(_)) => self.try_share_read(job, times),
                _ => self.try_fetch_round(job, times),
            };
            if !has_begun {
                break;
            }
            self.waiting_fetches.jobs.remove(&place);
            moved = true;
        }
        moved
    }

    /// Takes the memory for what a round of a fetch may read, if there is room for it.
    fn grant_round(&mut self, job: JobId) -> Option<u64> {
        let Some(Job::Fetch(fetch)) = self.jobs.get_mut(job) else { return Some(0) };
        let (mut kept, mut wanted, mut first) = (0, 0, None);
        for part in &fetch.parts {
            match (&part.answer, part.id) {
                (_, Ok(id)) if part.stale => {
                    first.get_or_insert(id);
                    wanted += u64::from(part.wanted.limit_bytes);
                }
                (Some(PartAnswer::Read(read)), _) => kept += u64::from(read.size_bytes),
                _ => {}
            }
        }
        let Some(first) = first.filter(|_| !fetch.gives_up) else { return Some(0) };
        let mut wanted = wanted.min(fetch.max_bytes.saturating_sub(kept)) as usize;
        let mut least = wanted.min(FETCH_ROOM_BYTES_MIN);
        if kept == 0 {
            // One batch is read whole, whatever the limits.
            let home = self.home.as_ref().and_then(|home| home.batch_bytes_max(first));
            least = home.unwrap_or(self.settings.config.batch_bytes_max) as usize;
            wanted = wanted.max(least);
        }
        let granted = self.budget.try_take_reply(wanted, least)?;
        fetch.held_bytes += granted;
        Some(granted as u64)
    }

    /// Reads all stale partitions; goes on when the last answer is there. False if it may not yet.
    fn try_fetch_round(&mut self, job: JobId, times: Times) -> bool {
        if self.mesh_is_held_back() {
            return false;
        }
        let Some(mut left) = self.grant_round(job) else { return false };
        let Some(Job::Fetch(fetch)) = self.jobs.get_mut(job) else { return true };
        let read_committed = fetch.read_committed;
        let (slot, has_waited) = (fetch.reply.slot, fetch.queued.take().is_some());
        fetch.watching = false;
        fetch.parts.iter_mut().filter(|part| part.stale).for_each(|part| part.answer = None);
        left = left.min(fetch.max_bytes.saturating_sub(fetch.bytes()));
        let mut min_one = fetch.bytes() == 0 && !fetch.gives_up;
        let forced = fetch.forced.take();
        let reads: Vec<(usize, TopicPartition, Wanted)> = fetch
            .parts
            .iter_mut()
            .enumerate()
            .filter(|(_, part)| part.stale)
            .filter_map(|(index, part)| {
                part.stale = false;
                Some((index, part.id.ok()?, part.wanted))
            })
            .collect();
        fetch.outstanding = reads.len();
        if has_waited {
            self.stage_ended(slot, Stage::Wait);
        }
        for (index, id, wanted) in reads {
            let limit_bytes = u64::from(wanted.limit_bytes).min(left) as u32;
            let call = Call::Read(ReadCall {
                from: wanted.from,
                limit_bytes,
                min_one: forced.map_or(min_one, |forced| forced == index && min_one),
                read_committed,
                current_leader_epoch: wanted.current_leader_epoch,
                last_fetched_epoch: wanted.last_fetched_epoch,
            });
            self.call(job, [(index as u32, id, call)], times);
            // What is in memory here is answered at once, so that the next partition knows what
            // is left; for what is not, the whole limit is set aside.
            match self.take_own_answer(job, index as u32) {
                Some(answer) => {
                    let Some(Job::Fetch(fetch)) = self.jobs.get_mut(job) else { return true };
                    fetch.take_answer(index, answer);
                    let read = match &fetch.parts[index].answer {
                        Some(PartAnswer::Read(read)) => u64::from(read.size_bytes),
                        _ => 0,
                    };
                    min_one &= read == 0;
                    left = left.saturating_sub(read);
                }
                None => {
                    min_one = false;
                    left -= u64::from(limit_bytes);
                }
            }
        }
        self.fetch_progress(job, times);
        true
    }

    /// The answer just given by this shard's own home, if it was given at once.
    fn take_own_answer(&mut self, job: JobId, index: u32) -> Option<Answer> {
        let reply_to = ReplyTo { shard: self.id, job, index };
        let answer = self.home.as_mut()?.take_last_answer(reply_to);
        // A watch that was answered just before its fetch began to read again tells nothing new.
        answer.filter(|answer| !matches!(answer, Answer::Moved))
    }

    /// A read or a watch of a fetch is answered.
    pub(super) fn fetch_answered(&mut self, id: JobId, index: u32, answer: Answer, times: Times) {
        let Some(Job::Fetch(fetch)) = self.jobs.get_mut(id) else { return };
        let index = index as usize;
        if fetch.watching {
            // Also a refusal of the watch: reading again tells why.
            fetch.parts[index].stale = true;
            let slot = fetch.reply.slot;
            self.stage_ended(slot, Stage::Wait);
            self.unwatch(id);
            self.fetch_round(id, times);
            return;
        }
        if matches!(answer, Answer::Moved) || fetch.parts[index].answer.is_some() {
            // A watch that was answered while its fetch was already reading again.
            return;
        }
        fetch.take_answer(index, answer);
        self.fetch_progress(id, times);
    }

    /// Replies, reads again or waits, once a round is complete.
    fn fetch_progress(&mut self, job: JobId, times: Times) {
        let stopping = self.is_stopping();
        let Some(Job::Fetch(fetch)) = self.jobs.get_mut(job) else { return };
        if 0 < fetch.outstanding {
            return;
        }
        let stage = if fetch.from_disk { Stage::Disk } else { Stage::Cache };
        // What the round did not need is given back.
        let read = fetch.bytes() as usize;
        let held = std::mem::replace(&mut fetch.held_bytes, read);
        if held != read {
            self.budget.take_reply(read);
            self.budget.release_reply(held);
        }
        if let Some(index) = fetch.held_back() {
            fetch.parts[index].stale = true;
            fetch.forced = Some(index);
            fetch.was_forced = true;
            return self.fetch_round(job, times);
        }
        // A fetch of nothing has nothing to wait for.
        let enough = fetch.min_bytes <= fetch.bytes() || fetch.parts.is_empty() || stopping;
        if enough || fetch.deadline <= times.now || fetch.must_reply_now() {
            let looked_at = self.stamp();
            return self.finish_fetch(job, (stage, looked_at), times);
        }
        self.watch(job, times);
    }

    /// Waits for arrivals in every partition of a fetch.
    fn watch(&mut self, job: JobId, times: Times) {
        let Some(Job::Fetch(fetch)) = self.jobs.get_mut(job) else { return };
        fetch.watching = true;
        // The look before a wait is part of that, wherever it found what is too little.
        fetch.from_disk = false;
        let deadline = fetch.deadline;
        let read_committed = fetch.read_committed;
        let calls: Vec<_> = fetch
            .parts
            .iter()
            .enumerate()
            .filter_map(|(index, part)| match (&part.answer, part.id) {
                (Some(PartAnswer::Read(read)), Ok(id)) => {
                    let seen_end = match read_committed {
                        true => read.last_stable_offset,
                        false => read.high_watermark,
                    };
                    Some((index as u32, id, Call::Watch { seen_end, read_committed }))
                }
                _ => None,
            })
            .collect();
        self.jobs.set_deadline(job, deadline);
        self.call(job, calls, times);
    }

    /// Ends the watches of a fetch.
    fn unwatch(&mut self, job: JobId) {
        let Some(Job::Fetch(fetch)) = self.jobs.get_mut(job) else { return };
        let ids: Vec<TopicPartition> = fetch.parts.iter().filter_map(|part| part.id.ok()).collect();
        let shards = self.settings.shards;
        let mut remote: Vec<Vec<TopicPartition>> = Vec::new();
        for id in ids {
            let shard = placement::home(id, shards);
            if shard == self.id {
                if let Some(home) = &mut self.home {
                    home.unwatch(id, job, shard);
                }
            } else {
                if remote.is_empty() {
                    remote.resize_with(usize::from(shards), Vec::new);
                }
                remote[usize::from(shard.0)].push(id);
            }
        }
        for (shard, partitions) in remote.into_iter().enumerate() {
            if !partitions.is_empty() {
                let shard = tidemill_runtime::edge::ShardId(shard as u16);
                self.tell(shard, Message::Unwatch { job, partitions });
            }
        }
    }

    /// The time a fetch may wait is over: it replies with what there is.
    pub(crate) fn fetch_expired(&mut self, job: JobId, times: Times) {
        let Some(Job::Fetch(fetch)) = self.jobs.get_mut(job) else { return };
        // A round still under way ends by itself and then finds the deadline passed.
        if fetch.watching {
            self.unwatch(job);
            return self.finish_fetch(job, (Stage::Wait, self.stamped), times);
        }
        if let Some(place) = fetch.queued.take() {
            self.waiting_fetches.jobs.remove(&place);
            let knows = |part: &Part| part.answer.is_some() || part.id.is_err();
            if fetch.parts.iter().all(knows) {
                return self.finish_fetch(job, (Stage::Wait, self.stamped), times);
            }
            fetch.gives_up = true;
            if !self.try_fetch_round(job, times) {
                self.queue_fetch(job, times);
            }
        }
    }

    /// Replies. `ended` is the last stage before that, and when it ended.
    fn finish_fetch(&mut self, job: JobId, ended: (Stage, u64), times: Times) {
        let Some(Job::Fetch(fetch)) = self.jobs.remove(job) else { return };
        let throttle_time_ms = self.throttle(fetch.reply.slot, Bound::Fetch, Some(fetch.bytes()));
        let Fetch { reply, read_committed, session_id, incremental, mut parts, .. } = *fetch;
        self.budget.release_reply(fetch.held_bytes);
        if incremental || session_id != fetch::NO_SESSION {
            self.sessions.tell(session_id, times.now, |session| {
                parts.retain_mut(|part| {
                    let news = part.news();
                    session.told(&part.topic, part.partition, news) || !incremental
                });
            });
        }
        let mut partitions: Vec<FetchPartitionResponse<'_>> =
            parts.iter_mut().map(|part| part.response(reply.version, read_committed)).collect();
        let mut hints = Vec::new();
        for refused in partitions.iter_mut().filter(|p| wants_hint(p.error_code)) {
            refused.current_leader = self.leader_hint(refused.topic, refused.partition);
            hints.extend(refused.current_leader);
        }
        let node_endpoints = match hints.is_empty() {
            true => Vec::new(),
            false => self.hinted_endpoints(hints.into_iter()),
        };
        let response = FetchResponse {
            session_id,
            throttle_time_ms,
            node_endpoints: Cow::Owned(node_endpoints),
            partitions: Cow::Owned(partitions),
            ..FetchResponse::default()
        };
        let encoded = encode_fetch(reply, &response);
        self.reply(reply.slot, Some(ended), encoded);
    }
}
