//! Looking at the partitions of a fetch, one after the other: from where on is there something for
//! members, what does the log hold there, and which of it may this member have?
//!
//! Start reading at `Shard::share_fetch_on`.

use std::sync::Arc;

use bytes::Bytes;
use tidemill_net::kafka::ErrorCode;
use tidemill_net::kafka::list_offsets::{EARLIEST, LATEST};
use tidemill_perf::Stage as RequestStage;
use tidemill_record::Offset;
use tidemill_replication::config::OffsetReset;

use super::acknowledging::{error_of_told, told_to_member};
use super::parts::{kept, read_batches};
use super::{Part, Stage, Step};
use crate::api::Job;
use crate::job::JobId;
use crate::limits::{SHARE_READ_BYTES, SHARE_TRIES_MAX};
use crate::message::{Answer, Call, ReadAnswer, ReadCall};
use crate::partition::Times;
use crate::shard::Shard;
use crate::share::partition::{Given, Want};
use crate::share::request::{Reply, Request};

impl Shard {
    /// Looks at the next partition; when there is none, replies or waits.
    pub(super) fn share_fetch_on(&mut self, job: JobId, times: Times) {
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
    pub(in crate::api) fn share_fetch_answered(
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
    pub(in crate::api) fn try_share_read(&mut self, job: JobId, times: Times) -> bool {
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
}
