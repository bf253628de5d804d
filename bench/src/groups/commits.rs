//! What do many groups cost that commit now and then? Groups of one member each, which says that it
//! lives and commits all its partitions at a rate: open loop, so a slow answer delays no other.
//!
//! A commit counts from when it was due, whenever it could be asked for. What falls due while there
//! is no connection, or while the member is in no group, waits; what the broker cannot do yet is
//! asked for again. What was under way on a connection that was lost is not: it counts with the time
//! that its answer was awaited.

use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tidemill_client::Reply;
use tidemill_client::kafka::ErrorCode;
use tidemill_client::kafka::offset_commit::OffsetCommitResponse;
use tidemill_perf::units;
use tidemill_runtime::edge::Instant;

use super::beat::Beat;
use super::member::{Member, Protocol, Tag, What, read};
use crate::control::Topic;
use crate::figures::{Figures, Latencies, counted};
use crate::stage::{Lines, Play};
use crate::trouble::Trouble;
use crate::usage::Usage;

/// All groups are to be there by then.
const GATHERS_WITHIN: Duration = Duration::from_secs(120);

/// How long answers are awaited after the end.
const DRAIN: Duration = Duration::from_secs(10);

/// How long the members may take to leave.
const LEAVE: Duration = Duration::from_secs(10);

/// Groups that begin at a time: a group that begins costs more than one that goes on.
const BEGIN_AT_ONCE: usize = 100;

/// By which chance decides when in an interval each member says that it lives.
const SEED: u64 = 1;

/// After how long a commit is asked for again that the broker could not do yet.
const AGAIN: Duration = Duration::from_millis(20);

/// The most commits of one group that are under way at a time.
const IN_FLIGHT_MAX: usize = 500;

/// How it goes.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// Commits per second of each group; 0 for heartbeats alone.
    pub rate: f64,
    /// Before anything is measured.
    pub warm_up: Duration,
    /// How long is measured.
    pub window: Duration,
    /// Between heartbeats, where the members choose.
    pub interval: Duration,
    /// The broker's process, where it runs on this machine.
    pub broker: Option<u32>,
}

/// The groups.
pub struct Commits {
    members: Vec<Member>,
    /// What each of them has to commit.
    dues: Vec<Dues>,
    pace: Pace,
    begun: usize,
    first_seen: Instant,
    /// When all were there, and the commits began.
    started: Option<Instant>,
    /// When to look at which group: it has something to say, or to commit.
    wakes: BinaryHeap<Reverse<(Instant, usize)>>,
    in_flight: BTreeSet<(Instant, usize)>,
    committed: u64,
    /// Those that could not be asked for when they were due.
    waited: u64,
    refused: ByError,
    retried: ByError,
    /// Asked for on a connection that was lost, or until the end.
    unanswered: u64,
    /// Due, and not asked for until the end.
    undone: u64,
    /// Since when the members leave.
    leaving_since: Option<Instant>,
    before: Option<Usage>,
    used: Option<Usage>,
    latencies: Latencies,
}

/// What one group has to commit.
#[derive(Debug, Default)]
struct Dues {
    /// When the next commit is due; none any more if the last one was.
    next: Option<Instant>,
    /// Those that are asked for again: when, and when they were due.
    again: VecDeque<(Instant, Instant)>,
    in_flight: usize,
    /// Whether something could not be asked for when it was due.
    is_held: bool,
}

impl Dues {
    /// When something was due that is to be asked for by now. Between two there is so much time, and
    /// the last is due before `end`.
    fn take(&mut self, now: Instant, end: Instant, between: Duration) -> Option<Instant> {
        if let Some((_, due)) = self.again.pop_front_if(|(at, _)| *at <= now) {
            return Some(due);
        }
        let due = self.next.filter(|due| *due <= now)?;
        self.next = Some(due.after(between)).filter(|next| *next < end);
        Some(due)
    }

    /// Whether there is something to be asked for by now.
    fn is_due(&self, now: Instant) -> bool {
        let again = self.again.front().map(|(at, _)| *at);
        self.next.into_iter().chain(again).any(|at| at <= now)
    }

    /// Nothing falls due from `end` on.
    fn cut(&mut self, end: Instant) {
        self.next = self.next.filter(|next| *next < end);
    }
}

/// How often there was which error.
#[derive(Debug, Default)]
struct ByError(Vec<(ErrorCode, u64)>);

impl ByError {
    fn note(&mut self, error: ErrorCode) {
        match self.0.iter_mut().find(|(known, _)| *known == error) {
            Some((_, count)) => *count += 1,
            None => self.0.push((error, 1)),
        }
    }

    fn count(&self) -> u64 {
        self.0.iter().map(|(_, count)| count).sum()
    }

    fn to_text(&self) -> String {
        let Self(all) = self;
        let told = |(error, count): &(ErrorCode, u64)| match all.len() {
            1 => error.to_string(),
            _ => format!("{error} {}", counted(*count, "time", "times")),
        };
        all.iter().map(told).collect::<Vec<_>>().join(", ")
    }
}

impl Commits {
    /// So many groups; each has the connection of its number.
    #[must_use]
    pub fn new(
        prefix: &str,
        groups: usize,
        protocol: Protocol,
        topic: &Arc<Topic>,
        pace: Pace,
    ) -> Self {
        let member = |(nth, beat): (usize, Beat)| {
            let (group, topic) = (format!("{prefix}-{nth}"), Arc::clone(topic));
            Member::new((nth, nth), group, protocol, topic, beat)
        };
        let beats = Beat::of_members(groups, pace.interval, SEED);
        Self {
            members: beats.into_iter().enumerate().map(member).collect(),
            dues: (0..groups).map(|_| Dues::default()).collect(),
            pace,
            begun: 0,
            first_seen: Instant::default(),
            started: None,
            wakes: BinaryHeap::new(),
            in_flight: BTreeSet::new(),
            committed: 0,
            waited: 0,
            refused: ByError::default(),
            retried: ByError::default(),
            unanswered: 0,
            undone: 0,
            leaving_since: None,
            before: None,
            used: None,
            latencies: Latencies::default(),
        }
    }

    /// Adds what was measured.
    pub fn tell(&self, figures: &mut Figures) {
        let seconds = self.pace.window.as_secs_f64().max(f64::EPSILON);
        let per_second = self.committed as f64 / seconds;
        let shown = counted(self.committed, "commit", "commits");
        figures.tell("commits", format!("{shown}, {per_second:.0} a second"), self.committed);
        if 0 < self.latencies.count() {
            figures.tell_latencies("a commit, from when it was due", "commit", &self.latencies);
        }
        if let Some(used) = self.used {
            let cpu = used.cpu.as_secs_f64();
            let part = cpu / seconds;
            let shown = format!("the broker used {:.1} % of one core", part * 100.0);
            figures.tell("broker_cores", shown, part);
            figures.tell("broker_cpu_seconds", format!("{cpu:.2} s of CPU"), cpu);
            let resident = used.resident_bytes;
            let shown = format!("{:.0} MB of memory", resident as f64 / 1e6);
            figures.tell("broker_resident_bytes", shown, resident);
        }
        if 0 < self.waited {
            let shown = counted(self.waited, "commit", "commits");
            let shown =
                format!("{shown} had to wait for a connection when due: it is part of the time");
            figures.tell("waited", shown, self.waited);
        }
        if 0 < self.retried.count() {
            let shown = counted(self.retried.count(), "time", "times");
            let shown = format!("{shown} a commit was asked for again: {}", self.retried.to_text());
            figures.tell("retried", shown, self.retried.count());
        }
        let mut complain = |count: u64, one: &str, many: &str, more: &str| {
            if 0 < count {
                figures.complain(format!("{}{more}", counted(count, one, many)));
            }
        };
        let why = format!(": {}", self.refused.to_text());
        complain(self.refused.count(), "commit was refused", "commits were refused", &why);
        complain(self.unanswered, "commit got no answer", "commits got no answer", "");
        let (one, many) = ("commit that fell due was", "commits that fell due were");
        complain(self.undone, one, many, " not done by the end");
    }

    fn gather(&mut self, lines: &mut Lines<Tag>) -> Result<(), Trouble> {
        if self.first_seen.after(GATHERS_WITHIN) <= lines.now {
            return Err(Trouble::new("not all groups came about"));
        }
        let stable = self.members.iter().take(self.begun).filter(|m| m.is_stable()).count();
        while self.begun < self.members.len() && self.begun < stable + BEGIN_AT_ONCE {
            self.members[self.begun].join(lines)?;
            self.begun += 1;
        }
        for member in &mut self.members {
            member.drive(lines)?;
        }
        if stable == self.members.len() {
            self.start(lines.now);
        }
        Ok(())
    }

    /// All groups are there: from now on commits are due, those of the groups in turn.
    fn start(&mut self, now: Instant) {
        self.started = Some(now);
        let apart = self.between().map(|between| between.div_f64(self.members.len() as f64));
        for (nth, member) in self.members.iter().enumerate() {
            let first = apart.map(|apart| now.after(apart.mul_f64(nth as f64)));
            self.dues[nth].next = first;
            self.wakes.extend(first.into_iter().chain(member.due()).map(|at| Reverse((at, nth))));
        }
    }

    /// Between two commits of a group, if there are any.
    fn between(&self) -> Option<Duration> {
        (0.0 < self.pace.rate).then(|| Duration::from_secs_f64(1.0 / self.pace.rate))
    }

    /// When what is measured begins and ends, once all groups are there.
    fn window(&self) -> Option<(Instant, Instant)> {
        let from = self.started?.after(self.pace.warm_up);
        Some((from, from.after(self.pace.window)))
    }

    fn is_measured(&self, due: Instant) -> bool {
        self.window().is_some_and(|(from, end)| from <= due && due < end)
    }

    /// Asks for all that is due in a group. What cannot be asked for now waits for the connection to
    /// be there, for the member to be in its group, or for answers.
    fn commit(&mut self, nth: usize, lines: &mut Lines<Tag>) -> Result<(), Trouble> {
        let (Some((from, end)), Some(between)) = (self.window(), self.between()) else {
            return Ok(());
        };
        let was_held = std::mem::take(&mut self.dues[nth].is_held);
        while self.leaving_since.is_none() && self.dues[nth].is_due(lines.now) {
            let has_room = self.dues[nth].in_flight < IN_FLIGHT_MAX;
            if !has_room || !lines.is_up(nth) || !self.members[nth].is_stable() {
                self.dues[nth].is_held = true;
                return Ok(());
            }
            let next = self.dues[nth].next;
            let due = self.dues[nth].take(lines.now, end, between).expect("something is due");
            let later = self.dues[nth].next.filter(|later| next != Some(*later));
            self.wakes.extend(later.map(|later| Reverse((later, nth))));
            self.waited += u64::from(was_held && from <= due);
            self.dues[nth].in_flight += 1;
            self.in_flight.insert((due, nth));
            let offset = i64::try_from(due.since(from).as_millis()).unwrap_or(0);
            self.members[nth].commit(offset, due, lines)?;
        }
        Ok(())
    }

    /// An answer to a commit.
    fn committed(&mut self, nth: usize, due: Instant, error: ErrorCode, lines: &mut Lines<Tag>) {
        if !self.in_flight.remove(&(due, nth)) {
            // It came too late to be counted.
            return;
        }
        self.dues[nth].in_flight -= 1;
        match error {
            ErrorCode::None if self.is_measured(due) => {
                self.committed += 1;
                self.latencies.record(lines.now.since(due));
            }
            ErrorCode::None => {}
            error if error.is_retriable() => {
                if error == ErrorCode::NotCoordinator {
                    lines.abandon(nth);
                }
                self.retried.note(error);
                let at = lines.now.after(AGAIN);
                self.dues[nth].again.push_back((at, due));
                self.wakes.push(Reverse((at, nth)));
            }
            error => self.refused.note(error),
        }
    }

    /// What is not answered by now will not be. Left out, a broker that hangs would look fast.
    fn give_up_waiting(&mut self, now: Instant) {
        let Some((_, end)) = self.window() else { return };
        let mut left = Vec::new();
        for (due, nth) in std::mem::take(&mut self.in_flight) {
            self.dues[nth].in_flight -= 1;
            self.unanswered += 1;
            left.push(due);
        }
        let between = self.between().unwrap_or(self.pace.window);
        for dues in &mut self.dues {
            let known = left.len();
            left.extend(std::mem::take(&mut dues.again).into_iter().map(|(_, due)| due));
            left.extend(std::iter::from_fn(|| dues.take(now, end, between)));
            dues.next = None;
            self.undone += (left.len() - known) as u64;
        }
        left.retain(|due| self.is_measured(*due));
        left.into_iter().for_each(|due| self.latencies.record(now.since(due)));
    }

    fn look(&mut self, now: Instant) {
        let (Some((from, end)), Some(pid)) = (self.window(), self.pace.broker) else { return };
        if from <= now && self.before.is_none() {
            self.before = Usage::of(pid);
        }
        if end <= now && self.used.is_none() {
            self.used = Usage::of(pid).zip(self.before).map(|(now, before)| now.since(before));
        }
    }
}

impl Play for Commits {
    type Tag = Tag;

    fn begin(&mut self, lines: &mut Lines<Tag>) -> Result<(), Trouble> {
        self.first_seen = lines.now;
        Ok(())
    }

    fn lost(&mut self, _: usize, unanswered: Vec<Tag>, now: Instant) {
        for (nth, what) in unanswered {
            let What::Commit(due) = what else { continue };
            if !self.in_flight.remove(&(due, nth)) {
                continue;
            }
            self.dues[nth].in_flight -= 1;
            self.unanswered += 1;
            // Left out, a broker that hangs would look fast.
            if self.is_measured(due) {
                self.latencies.record(now.since(due));
            }
        }
    }

    fn back(&mut self, line: usize, lines: &mut Lines<Tag>) -> Result<(), Trouble> {
        self.members[line].take_up(lines)?;
        self.commit(line, lines)
    }

    fn stop(&mut self, now: Instant) {
        let start = *self.started.get_or_insert(now);
        let so_far = now.since(start);
        self.pace.warm_up = self.pace.warm_up.min(so_far);
        self.pace.window = self.pace.window.min(so_far - self.pace.warm_up);
        if let Some((_, end)) = self.window() {
            self.dues.iter_mut().for_each(|dues| dues.cut(end));
        }
    }

    fn end(&mut self, now: Instant) {
        self.give_up_waiting(now);
    }

    fn status(&self, now: Instant) -> String {
        let Some((from, _)) = self.window() else {
            let stable = self.members.iter().filter(|member| member.is_stable()).count();
            return format!("{stable} of {} groups are there", self.members.len());
        };
        match now < from {
            true => "warming up".to_owned(),
            false if self.leaving_since.is_some() => "the members leave".to_owned(),
            false => {
                let (passed, of) = (now.since(from), self.pace.window.as_secs());
                let committed = units::count(self.committed);
                format!("{} of {of} s  {committed} commits", passed.as_secs().min(of))
            }
        }
    }

    fn heard(
        &mut self,
        (number, what): Tag,
        reply: &Reply,
        lines: &mut Lines<Tag>,
    ) -> Result<(), Trouble> {
        if let What::Commit(due) = what {
            let answer: OffsetCommitResponse = read(reply.decode())?;
            let errors = answer.topics.iter().flat_map(|topic| &topic.partitions);
            let mut errors = errors.map(|partition| partition.error_code);
            let error = errors.find(|error| !error.is_none()).unwrap_or(ErrorCode::None);
            self.committed(number, due, error, lines);
        } else {
            self.members[number].heard(what, reply, lines)?;
            let due = self.members[number].due();
            self.wakes.extend(due.map(|due| Reverse((due, number))));
        }
        match self.dues[number].is_held {
            true => self.commit(number, lines),
            false => Ok(()),
        }
    }

    fn turn(&mut self, lines: &mut Lines<Tag>) -> Result<Option<Instant>, Trouble> {
        let soon = lines.now.after(Duration::from_millis(5));
        if let Some(since) = self.leaving_since {
            let is_over = self.members.iter().all(Member::is_out);
            return Ok((!is_over && lines.now < since.after(LEAVE)).then_some(soon));
        }
        let Some((from, end)) = self.window() else {
            self.gather(lines)?;
            return Ok(Some(soon));
        };
        self.look(lines.now);
        while let Some(Reverse((at, nth))) = self.wakes.peek().copied()
            && at <= lines.now
        {
            self.wakes.pop();
            self.members[nth].drive(lines)?;
            self.commit(nth, lines)?;
        }
        let is_done = || {
            let mut dues = self.dues.iter();
            self.in_flight.is_empty() && dues.all(|due| due.next.is_none() && due.again.is_empty())
        };
        if end <= lines.now && (is_done() || end.after(DRAIN) <= lines.now) {
            self.give_up_waiting(lines.now);
            self.leaving_since = Some(lines.now);
            for member in self.members.iter_mut().filter(|member| !member.is_out()) {
                member.leave(lines)?;
            }
            return Ok(Some(soon));
        }
        let next = if lines.now < from { from } else { end.max(soon) };
        let wake = self.wakes.peek().map(|Reverse((at, _))| *at);
        Ok(Some(wake.map_or(next, |wake| next.min(wake))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BETWEEN: Duration = Duration::from_millis(100);

    fn at(ms: u64) -> Instant {
        Instant { nanos: ms * 1_000_000 }
    }

    /// What fell due while it could not be asked for was left out: it is all there afterwards, with
    /// the times that it was due, and nothing that is due later or past the end.
    #[test]
    fn what_could_not_be_asked_for_is_still_due() {
        let mut dues = Dues { next: Some(at(100)), ..Dues::default() };
        assert!(!dues.is_due(at(99)));
        assert_eq!(dues.take(at(99), at(1000), BETWEEN), None);
        let all = |dues: &mut Dues, now| -> Vec<u64> {
            let each = std::iter::from_fn(|| dues.take(at(now), at(1000), BETWEEN));
            each.map(|due| due.nanos / 1_000_000).collect()
        };
        assert_eq!(all(&mut dues, 450), [100, 200, 300, 400]);
        assert_eq!(all(&mut dues, 5000), [500, 600, 700, 800, 900]);
        assert_eq!(dues.next, None, "the last was due before the end");
        assert!(!dues.is_due(at(9999)));
    }

    /// What the broker could not do yet is asked for again when its pause is over, as what was due
    /// then.
    #[test]
    fn what_is_asked_for_again_keeps_its_time() {
        let mut dues = Dues { next: Some(at(500)), ..Dues::default() };
        dues.again.push_back((at(220), at(200)));
        assert!(!dues.is_due(at(219)));
        assert_eq!(dues.take(at(220), at(1000), BETWEEN), Some(at(200)));
        dues.cut(at(500));
        assert_eq!(dues.take(at(9999), at(1000), BETWEEN), None, "nothing falls due from then on");
    }

    /// Commits were said to be refused, and not why.
    #[test]
    fn refusals_are_told_with_their_errors() {
        let mut errors = ByError::default();
        errors.note(ErrorCode::IllegalGeneration);
        assert_eq!(errors.to_text(), "ILLEGAL_GENERATION (22)");
        errors.note(ErrorCode::UnknownMemberId);
        errors.note(ErrorCode::UnknownMemberId);
        let told = "ILLEGAL_GENERATION (22) 1 time, UNKNOWN_MEMBER_ID (25) 2 times";
        assert_eq!((errors.to_text().as_str(), errors.count()), (told, 3));
    }
}
