//! What do many groups cost that commit now and then? Groups of one member each, which says that it
//! lives and commits all its partitions at a rate: open loop, so a slow answer delays no other.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;
use std::time::Duration;

use tidemill_client::Reply;
use tidemill_client::kafka::offset_commit::OffsetCommitResponse;
use tidemill_perf::units;
use tidemill_runtime::edge::Instant;

use super::member::{Member, Protocol, Tag, What, read};
use crate::control::Topic;
use crate::figures::{Figures, Latencies};
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
    pace: Pace,
    begun: usize,
    first_seen: Instant,
    /// When all were there, and the commits began.
    started: Option<Instant>,
    due: BinaryHeap<Reverse<(Instant, usize)>>,
    wakes: BinaryHeap<Reverse<(Instant, usize)>>,
    in_flight: u64,
    committed: u64,
    refused: u64,
    /// Asked for on a connection that was lost.
    unanswered: u64,
    /// Due while there was no connection.
    unsent: u64,
    /// Since when the members leave.
    leaving_since: Option<Instant>,
    before: Option<Usage>,
    used: Option<Usage>,
    latencies: Latencies,
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
        let member = |nth: usize| {
            let (group, topic) = (format!("{prefix}-{nth}"), Arc::clone(topic));
            Member::new((nth, nth), group, protocol, topic, pace.interval)
        };
        Self {
            members: (0..groups).map(member).collect(),
            pace,
            begun: 0,
            first_seen: Instant::default(),
            started: None,
            due: BinaryHeap::new(),
            wakes: BinaryHeap::new(),
            in_flight: 0,
            committed: 0,
            refused: 0,
            unanswered: 0,
            unsent: 0,
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
        let shown = format!("{} commits, {per_second:.0} a second", units::count(self.committed));
        figures.tell("commits", shown, self.committed);
        if 0 < self.committed {
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
        if 0 < self.refused {
            figures.complain(format!("{} commits were refused", self.refused));
        }
        let unanswered = self.in_flight + self.unanswered;
        if 0 < unanswered {
            figures.complain(format!("{unanswered} commits got no answer"));
        }
        if 0 < self.unsent {
            figures.complain(format!("{} commits were due without a connection", self.unsent));
        }
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
        if stable < self.members.len() {
            return Ok(());
        }
        self.started = Some(lines.now);
        if 0.0 < self.pace.rate {
            let between = 1.0 / self.pace.rate / self.members.len() as f64;
            for nth in 0..self.members.len() {
                let first = Duration::from_secs_f64(between * nth as f64);
                self.due.push(Reverse((lines.now.after(first), nth)));
            }
        }
        for (nth, member) in self.members.iter().enumerate() {
            self.wakes.extend(member.due().map(|due| Reverse((due, nth))));
        }
        Ok(())
    }

    fn commit(&mut self, start: Instant, lines: &mut Lines<Tag>) -> Result<(), Trouble> {
        let end = start.after(self.pace.warm_up + self.pace.window);
        while let Some(Reverse((due, nth))) = self.due.peek().copied()
            && due <= lines.now
        {
            self.due.pop();
            let next = due.after(Duration::from_secs_f64(1.0 / self.pace.rate));
            if next < end {
                self.due.push(Reverse((next, nth)));
            }
            if !lines.is_up(nth) {
                self.unsent += 1;
                continue;
            }
            self.in_flight += 1;
            let offset = i64::try_from(due.since(start).as_millis()).unwrap_or(0);
            self.members[nth].commit(offset, due, lines)?;
        }
        Ok(())
    }

    fn is_measured(&self, due: Instant) -> bool {
        let from = self.started.map(|start| start.after(self.pace.warm_up));
        from.is_some_and(|from| from <= due && due < from.after(self.pace.window))
    }

    fn look(&mut self, start: Instant, now: Instant) {
        let from = start.after(self.pace.warm_up);
        let Some(pid) = self.pace.broker else { return };
        if from <= now && self.before.is_none() {
            self.before = Usage::of(pid);
        }
        if from.after(self.pace.window) <= now && self.used.is_none() {
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
        for (_, what) in unanswered {
            let What::Commit(due) = what else { continue };
            self.in_flight -= 1;
            self.unanswered += 1;
            // Left out, a broker that hangs would look fast.
            if self.is_measured(due) {
                self.latencies.record(now.since(due));
            }
        }
    }

    fn back(&mut self, line: usize, lines: &mut Lines<Tag>) -> Result<(), Trouble> {
        self.members[line].take_up(lines)
    }

    fn stop(&mut self, now: Instant) {
        let start = *self.started.get_or_insert(now);
        let so_far = now.since(start);
        self.pace.warm_up = self.pace.warm_up.min(so_far);
        self.pace.window = self.pace.window.min(so_far - self.pace.warm_up);
        self.due.clear();
    }

    fn status(&self, now: Instant) -> String {
        let Some(start) = self.started else {
            let stable = self.members.iter().filter(|member| member.is_stable()).count();
            return format!("{stable} of {} groups are there", self.members.len());
        };
        let from = start.after(self.pace.warm_up);
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
        let What::Commit(due) = what else {
            self.members[number].heard(what, reply, lines)?;
            let due = self.members[number].due();
            self.wakes.extend(due.map(|due| Reverse((due, number))));
            return Ok(());
        };
        self.in_flight -= 1;
        let answer: OffsetCommitResponse = read(reply.decode())?;
        let mut errors = answer.topics.iter().flat_map(|topic| &topic.partitions);
        let refused = errors.any(|partition| !partition.error_code.is_none());
        if refused {
            self.refused += 1;
        } else if self.is_measured(due) {
            self.committed += 1;
            self.latencies.record(lines.now.since(due));
        }
        Ok(())
    }

    fn turn(&mut self, lines: &mut Lines<Tag>) -> Result<Option<Instant>, Trouble> {
        let soon = lines.now.after(Duration::from_millis(5));
        if let Some(since) = self.leaving_since {
            let is_over = self.members.iter().all(Member::is_out);
            return Ok((!is_over && lines.now < since.after(LEAVE)).then_some(soon));
        }
        let Some(start) = self.started else {
            self.gather(lines)?;
            for member in &mut self.members {
                member.drive(lines)?;
            }
            return Ok(Some(soon));
        };
        self.look(start, lines.now);
        self.commit(start, lines)?;
        while let Some(Reverse((due, nth))) = self.wakes.peek().copied()
            && due <= lines.now
        {
            self.wakes.pop();
            self.members[nth].drive(lines)?;
        }
        let from = start.after(self.pace.warm_up);
        let end = from.after(self.pace.window);
        if end <= lines.now && (self.in_flight == 0 || end.after(DRAIN) <= lines.now) {
            self.leaving_since = Some(lines.now);
            for member in self.members.iter_mut().filter(|member| !member.is_out()) {
                member.leave(lines)?;
            }
            return Ok(Some(soon));
        }
        let mut next = if lines.now < from { from } else { end.max(soon) };
        for heap in [&self.due, &self.wakes] {
            next = heap.peek().map_or(next, |Reverse((due, _))| next.min(*due));
        }
        Ok(Some(next))
    }
}
