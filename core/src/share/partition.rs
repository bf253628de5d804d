//! One partition as a share group reads it: which records are done with, who has which, what is next.
//!
//! ```text
//!      start                                   end
//! done   |  acquired | done | available | acquired |  never given out yet
//! ```
//!
//! Below `start` all is done with. From there to `end` each record is in a state; neighbours in the
//! same state are one *run* (`partition/runs.rs`):
//!
//! ```text
//! available ── acquire ──> acquired ──┬── accept ───────────> acknowledged
//!     ^                               ├── reject, gap ──────> archived
//!     └── release, time is over ──────┴── … for the last time ──> archived
//! ```
//!
//! It is pure, and knows no log: what has changed is returned, and whoever asks writes it down. As
//! in Kafka, that a record is acquired is not written: a crash makes it available again.
//!
//! Start reading at [`SharePartition::next`], then [`SharePartition::acquire`].

mod runs;

use tidemill_net::kafka::ErrorCode;
use tidemill_runtime::edge::{Instant, ShardId};
use tidemill_storage::mistake::{self, Mistake};

use self::runs::{Run, Runs, State};
use super::record::{Delivery, StateBatch};
use super::rules::Rules;
use crate::coordinator::request::MemberId;
use crate::limits::SHARE_RUNS_MAX;

/// What a member says about records it was given.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Verdict {
    /// There is none at this offset.
    Gap,
    /// It was dealt with.
    Accept,
    /// Somebody may have it again.
    Release,
    /// Nobody is to have it again.
    Reject,
    /// It takes longer.
    Renew,
}

/// What a member says about records that follow each other.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Acknowledgement {
    /// The first one's offset.
    pub first: i64,
    /// The last one's offset.
    pub last: i64,
    /// One for all of them, or one for each.
    pub verdicts: Vec<Verdict>,
}

impl Acknowledgement {
    /// Whether it says something of each of its records, or one thing of all.
    pub fn is_valid(&self) -> bool {
        let told = self.verdicts.len() as i64;
        let records = self.last.checked_sub(self.first).and_then(|span| span.checked_add(1));
        0 <= self.first
            && records.is_some_and(|records| 0 < records && [1, records].contains(&told))
    }

    /// Whether it asks for more time, and no more.
    pub fn only_renews(&self) -> bool {
        self.verdicts.iter().all(|verdict| *verdict == Verdict::Renew)
    }

    /// The records of which the same is said, in their order.
    fn parts(&self) -> impl Iterator<Item = (i64, i64, Verdict)> {
        let all = (self.verdicts.len() == 1).then(|| (self.first, self.last, self.verdicts[0]));
        let each = self.verdicts.chunk_by(|one, next| one == next).filter(move |_| all.is_none());
        let each = each.scan(self.first, |first, chunk| {
            let part = (*first, *first + chunk.len() as i64 - 1, chunk[0]);
            *first = part.1 + 1;
            Some(part)
        });
        all.into_iter().chain(each)
    }
}

/// What a read has brought, in the order of the log, from an offset on without a gap but for records
/// that do not exist.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ReadBatch {
    /// Offset of its first record.
    pub base: i64,
    /// Offset of its last record.
    pub last: i64,
    /// It holds nothing for members: a marker, or records of an aborted transaction.
    pub is_void: bool,
}

/// A session in which a member gets records. It may have another one when this is found to be gone.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct SessionId {
    /// Where it is.
    pub shard: ShardId,
    /// Tells it from others there.
    pub number: u64,
}

/// How much a member wants of what was read.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Want {
    /// Who wants it.
    pub member: MemberId,
    /// In which session.
    pub session: SessionId,
    /// Where the read has begun.
    pub from: i64,
    /// What it has brought.
    pub batches: Vec<ReadBatch>,
    /// How many records.
    pub records_max: i64,
    /// Never more, even if that divides a batch (KIP-1206).
    pub is_strict: bool,
    /// Records are handed out in runs of about so many, so that they can be acknowledged by the run.
    pub batch_size: i64,
}

/// Records that follow each other and were given to a member.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Given {
    /// The first one's offset.
    pub first: i64,
    /// The last one's offset.
    pub last: i64,
    /// How often they were given to somebody, this time included.
    pub count: i16,
}

/// What can be given out next.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Next {
    /// Records from here on.
    From(i64),
    /// Nothing until some are done with: too many are not, or there is too much to remember behind one.
    Full,
}

/// See the file's head.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct SharePartition {
    /// What was given out and is not all done with.
    runs: Runs,
    /// No lock ends before this.
    deadline: Option<Instant>,
}

impl SharePartition {
    /// Nothing before `start` is wanted, nothing was given out.
    pub fn new(start: i64) -> Self {
        Self { runs: Runs::new(start), deadline: None }
    }

    // Looking.

    /// Everything below is done with.
    pub fn start(&self) -> i64 {
        self.runs.start()
    }

    /// How many records past the start are done with.
    pub fn done_past_start(&self) -> i64 {
        self.runs.end() - self.runs.start() - self.runs.open()
    }

    /// Where what was given out ends.
    pub fn end(&self) -> i64 {
        self.runs.end()
    }

    /// What can be given out next.
    pub fn next(&self, rules: &Rules) -> Next {
        let available = self.runs.iter().find(|(_, run)| run.state == State::Available);
        match available {
            Some((first, _)) => Next::From(first),
            None if rules.locks_max <= self.runs.open() => Next::Full,
            None if SHARE_RUNS_MAX <= self.runs.len() => Next::Full,
            None => Next::From(self.runs.end()),
        }
    }

    /// When [`SharePartition::expire`] is wanted.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// What it takes in memory, about.
    pub fn bytes(&self) -> usize {
        size_of::<Option<Instant>>() + self.runs.bytes()
    }

    /// What is to be known of it after a crash.
    pub fn remembered(&self) -> Vec<StateBatch> {
        self.runs.remembered()
    }

    // Giving out.

    /// Gives a member what it wants of what was read, as far as it is there to be given. What the
    /// log does not hold, or not for members, is archived.
    ///
    /// Records that have come back again and again are given in ever smaller numbers and alone
    /// (`cautious`): one that no member survives must not take good ones with it.
    pub fn acquire(&mut self, want: &Want, rules: &Rules, now: Instant) -> Vec<Given> {
        let mut given = Vec::new();
        // It was set to another start since the read began.
        if self.runs.end() < want.from {
            return given;
        }
        let until = now.after(rules.lock);
        let (member, session) = (want.member.clone(), want.session);
        let acquired = State::Acquired { member, session, until };
        let mut left = want.records_max;
        let mut next = want.from.max(self.runs.start());
        for batch in &want.batches {
            self.archive(next, batch.base - 1);
            next = next.max(batch.base);
            if batch.last < next {
                continue;
            }
            if batch.is_void {
                self.archive(next, batch.last);
                next = batch.last + 1;
                continue;
            }
            let limit = if want.is_strict { left } else { i64::MAX };
            let is_first = given.is_empty();
            let (new, goes_on) =
                self.acquire_within(next, batch, limit, is_first, &acquired, rules);
            left -= new.iter().map(|one| one.last - one.first + 1).sum::<i64>();
            new.into_iter().for_each(|one| push_given(&mut given, one, want.batch_size));
            next = batch.last + 1;
            if left <= 0 || self.runs.end() < next || !goes_on {
                break;
            }
        }
        if !given.is_empty() {
            self.deadline = Some(self.deadline.map_or(until, |deadline| deadline.min(until)));
        }
        self.runs.advance();
        given
    }

    /// Gives out what is available of a batch from `first` on, at most `limit` records; and whether
    /// more may be given with it.
    fn acquire_within(
        &mut self,
        first: i64,
        batch: &ReadBatch,
        limit: i64,
        is_first: bool,
        acquired: &State,
        rules: &Rules,
    ) -> (Vec<Given>, bool) {
        let last = batch.last;
        let mut given = Vec::new();
        let mut left = limit;
        let known = self.runs.within(first, last);
        for (from, to, run) in known {
            if run.state != State::Available || left <= 0 {
                continue;
            }
            if rules.deliveries_max <= run.count {
                // The limit was lowered meanwhile.
                self.runs.set(from, to, State::Archived, run.count);
                continue;
            }
            let few = cautious(last - batch.base + 1, run.count, rules);
            if few.is_some() && !(is_first && given.is_empty()) {
                return (given, false);
            }
            let to = to.min(from.saturating_add(left.min(few.unwrap_or(left)) - 1));
            let count = run.count + 1;
            self.runs.set(from, to, acquired.clone(), count);
            given.push(Given { first: from, last: to, count });
            if few.is_some() {
                return (given, false);
            }
            left -= to - from + 1;
        }
        let room = left.min(rules.locks_max - self.runs.open()).min(last - self.runs.end() + 1);
        if first <= self.runs.end() && 0 < room {
            let from = self.runs.end();
            let to = from + room - 1;
            self.runs.append(to, acquired.clone(), 1);
            given.push(Given { first: from, last: to, count: 1 });
        }
        (given, true)
    }

    /// What nobody is to get, because there is nothing, or nothing for members.
    fn archive(&mut self, first: i64, last: i64) {
        for (from, to, run) in self.runs.within(first, last) {
            if run.state == State::Available {
                self.runs.set(from, to, State::Archived, run.count);
            }
        }
        if first <= self.runs.end() && self.runs.end() <= last {
            self.runs.append(last, State::Archived, 0);
        }
    }

    // Taking back.

    /// A member says what became of records it has. Either all of it holds, or nothing.
    pub fn acknowledge(
        &mut self,
        member: &str,
        told: &[Acknowledgement],
        rules: &Rules,
        now: Instant,
    ) -> Result<Vec<StateBatch>, ErrorCode> {
        self.check(member, told, rules)?;
        let mut changes = Vec::new();
        for (first, last, verdict) in told.iter().flat_map(Acknowledgement::parts) {
            for (from, to, run) in self.runs.within(first, last) {
                let Run { state, count, .. } = run;
                let next = match verdict {
                    Verdict::Accept => State::Acknowledged,
                    Verdict::Gap | Verdict::Reject => State::Archived,
                    Verdict::Release => released(count, rules),
                    Verdict::Renew => {
                        let State::Acquired { member, session, .. } = state else { continue };
                        let until = now.after(rules.lock);
                        self.runs.set(from, to, State::Acquired { member, session, until }, count);
                        continue;
                    }
                };
                changes.extend(batch_of(from, to, &next, count));
                self.runs.set(from, to, next, count);
            }
        }
        self.runs.advance();
        Ok(self.still_of_interest(changes))
    }

    fn check(
        &self,
        member: &str,
        told: &[Acknowledgement],
        rules: &Rules,
    ) -> Result<(), ErrorCode> {
        let ordered = told.windows(2).all(|two| two[0].last < two[1].first);
        if !ordered || !told.iter().all(Acknowledgement::is_valid) {
            return Err(ErrorCode::InvalidRequest);
        }
        for one in told {
            if !rules.renew_allowed && one.verdicts.contains(&Verdict::Renew) {
                return Err(ErrorCode::InvalidRequest);
            }
            if self.runs.end() <= one.last {
                return Err(ErrorCode::InvalidRecordState);
            }
            let is_theirs = |run: &Run| matches!(&run.state, State::Acquired { member: has, .. } if **has == *member);
            if !self.runs.touching(one.first, one.last).all(|(_, run)| is_theirs(run)) {
                return Err(ErrorCode::InvalidRecordState);
            }
        }
        Ok(())
    }

    /// The time of members has passed: what they have had for too long others may have.
    pub fn expire(&mut self, rules: &Rules, now: Instant) -> Vec<StateBatch> {
        if self.deadline.is_none_or(|deadline| now < deadline) {
            return Vec::new();
        }
        let all = mistake::is_made(Mistake::LocksEndTogether);
        let over =
            |state: &State| matches!(state, State::Acquired { until, .. } if *until <= now || all);
        let changes = self.take_back(over, rules);
        let untils = self.runs.iter().filter_map(|(_, run)| match run.state {
            State::Acquired { until, .. } => Some(until),
            _ => None,
        });
        self.deadline = untils.min();
        changes
    }

    /// A member is gone, or one of its sessions: what it has, or got there, others may have.
    pub fn release(
        &mut self,
        member: &str,
        only: Option<SessionId>,
        rules: &Rules,
    ) -> Vec<StateBatch> {
        let theirs = |state: &State| match state {
            State::Acquired { member: has, session, .. } => {
                **has == *member && only.is_none_or(|only| only == *session)
            }
            _ => false,
        };
        self.take_back(theirs, rules)
    }

    fn take_back(&mut self, which: impl Fn(&State) -> bool, rules: &Rules) -> Vec<StateBatch> {
        let found = self.runs.iter().filter(|(_, run)| which(&run.state));
        let found: Vec<(i64, i64, i16)> =
            found.map(|(first, run)| (first, run.last, run.count)).collect();
        let mut changes = Vec::new();
        for (first, last, count) in found {
            let next = released(count, rules);
            changes.extend(batch_of(first, last, &next, count));
            self.runs.set(first, last, next, count);
        }
        self.runs.advance();
        self.still_of_interest(changes)
    }

    /// The log begins here now: what lay before is gone. True if that concerns it.
    pub fn begin_at(&mut self, log_start: i64) -> bool {
        self.runs.begin_at(log_start)
    }

    /// The log ends here now: what was given out from behind is gone, and other records will come
    /// in its place. True if that concerns it.
    pub fn end_at(&mut self, log_end: i64) -> bool {
        self.runs.end_at(log_end)
    }

    // Replaying.

    /// Lets a change of the log have happened.
    pub fn replay(&mut self, start: i64, changes: &[StateBatch]) {
        self.begin_at(start);
        for change in changes {
            let first = change.first.max(self.runs.start());
            if change.last < first {
                continue;
            }
            if self.runs.end() < first {
                // Given out, and not done with when the process ended.
                self.runs.append(first - 1, State::Available, 0);
            }
            let state = match change.state {
                Delivery::Available => State::Available,
                Delivery::Acknowledged => State::Acknowledged,
                Delivery::Archived => State::Archived,
            };
            let known = change.last.min(self.runs.end() - 1);
            if first <= known {
                self.runs.set(first, known, state.clone(), change.count);
            }
            if self.runs.end() <= change.last {
                self.runs.append(change.last, state, change.count);
            }
        }
        self.runs.advance();
    }

    /// Of changes, those that the start does not say.
    fn still_of_interest(&self, mut changes: Vec<StateBatch>) -> Vec<StateBatch> {
        changes.retain(|change| self.runs.start() <= change.last);
        changes
    }
}

/// How many records of a batch are given at once when they were given out `count` times before: all of
/// them up to half of the deliveries there are, then ever fewer, at last one (as Kafka does since 4.2,
/// KAFKA-17541).
fn cautious(records: i64, count: i16, rules: &Rules) -> Option<i64> {
    let half = (rules.deliveries_max / 2 + rules.deliveries_max % 2).max(2);
    let halvings = count.checked_sub(half).filter(|past| 0 <= *past)? + 1;
    let is_last = rules.deliveries_max <= count + 1;
    Some(if is_last { 1 } else { records.checked_shr(halvings as u32).unwrap_or(0).max(1) })
}

/// What a record becomes that a member has not dealt with.
fn released(count: i16, rules: &Rules) -> State {
    let is_passed_over = mistake::is_made(Mistake::PassOverReleased);
    if count < rules.deliveries_max && !is_passed_over { State::Available } else { State::Archived }
}

fn batch_of(first: i64, last: i64, state: &State, count: i16) -> Option<StateBatch> {
    let state = match state {
        State::Available => Delivery::Available,
        State::Acknowledged => Delivery::Acknowledged,
        State::Archived => Delivery::Archived,
        State::Acquired { .. } => return None,
    };
    Some(StateBatch { first, last, state, count })
}

/// Adds to what is given, as part of the last run if that is like it and still small.
fn push_given(given: &mut Vec<Given>, one: Given, batch_size: i64) {
    if let Some(last) = given.last_mut()
        && last.last + 1 == one.first
        && last.count == one.count
        && last.last - last.first + 1 < batch_size
    {
        last.last = one.last;
        return;
    }
    given.push(one);
}

#[cfg(test)]
mod tests;
