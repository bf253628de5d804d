//! How long does a group of many members take to settle after a change?
//!
//! All members join at once; then one leaves and one joins, in turns. A group is settled when all
//! its members have their shares in the same generation (or epoch), and each partition has exactly
//! one owner, which is looked at each time. The time counts from when the request that changed the
//! group was sent.

use std::sync::Arc;
use std::time::Duration;

use tidemill_client::Reply;
use tidemill_runtime::edge::Instant;

use super::member::{Member, Protocol, Tag};
use crate::control::Topic;
use crate::figures::{Figures, Latencies};
use crate::stage::{Lines, Play};
use crate::trouble::Trouble;

/// A group that has not settled after this has a fault.
const SETTLES_WITHIN: Duration = Duration::from_secs(120);

/// Between two changes.
const PAUSE: Duration = Duration::from_millis(300);

/// How long the members may take to leave at the end.
const LEAVE: Duration = Duration::from_secs(10);

/// Which change is being waited for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Step {
    Connect,
    Start,
    Leave,
    Join,
    /// All leave, and it is over.
    End,
}

/// One group and its members.
pub struct Rebalance {
    members: Vec<Member>,
    partitions: usize,
    rounds: usize,
    round: usize,
    step: Step,
    /// When the change began; none between two changes.
    begun: Option<Instant>,
    pause_until: Instant,
    is_stopped: bool,
    start: Latencies,
    leave: Latencies,
    join: Latencies,
}

impl Rebalance {
    /// A group of so many members; the first numbers are their connections.
    #[must_use]
    pub fn new(
        group: &str,
        members: usize,
        protocol: Protocol,
        topic: &Arc<Topic>,
        interval: Duration,
        rounds: usize,
    ) -> Self {
        let member = |nth: usize| {
            let topic = Arc::clone(topic);
            Member::new((nth, nth), group.to_owned(), protocol, topic, interval)
        };
        Self {
            members: (0..members).map(member).collect(),
            partitions: topic.leaders.len(),
            rounds,
            round: 0,
            step: Step::Connect,
            begun: None,
            pause_until: Instant::default(),
            is_stopped: false,
            start: Latencies::default(),
            leave: Latencies::default(),
            join: Latencies::default(),
        }
    }

    /// Adds what was measured.
    pub fn tell(&self, figures: &mut Figures) {
        figures.tell_latencies("settled after all joined at once", "start", &self.start);
        figures.tell_latencies("settled after a member left", "leave", &self.leave);
        figures.tell_latencies("settled after a member joined", "join", &self.join);
    }

    /// The longest that the group took to settle.
    #[must_use]
    pub fn longest(&self) -> Duration {
        [&self.start, &self.leave, &self.join]
            .map(Latencies::longest)
            .into_iter()
            .max()
            .unwrap_or_default()
    }

    /// Whether all who are in have their shares, in one generation, and every partition one owner.
    fn is_settled(&self) -> Result<bool, Trouble> {
        let mut owners = vec![0u32; self.partitions];
        let mut epoch = None;
        for member in &self.members {
            if member.is_out() {
                continue;
            }
            if !member.is_stable() || *epoch.get_or_insert(member.epoch()) != member.epoch() {
                return Ok(false);
            }
            for number in member.owned() {
                let owner = owners.get_mut(*number as usize);
                *owner.ok_or_else(|| Trouble::new("a share with an unknown partition"))? += 1;
            }
        }
        // In one generation, two owners are what no coordinator may bring about.
        match owners.iter().any(|count| 1 < *count) {
            true => Err(Trouble::new("two members read the same partition")),
            false => Ok(owners.iter().all(|count| *count == 1)),
        }
    }

    /// What is being waited for, or was.
    fn words(&self) -> String {
        let Self { round, rounds, .. } = self;
        match self.step {
            Step::Connect => "connecting".to_owned(),
            Step::Start => format!("{} members join", self.members.len()),
            Step::Leave => format!("round {} of {rounds}, a member leaves", round + 1),
            Step::Join => format!("round {round} of {rounds}, a member joins"),
            Step::End => "the members leave".to_owned(),
        }
    }

    fn settled(&mut self, took: Duration, lines: &Lines<Tag>) {
        let into = match self.step {
            Step::Leave => &mut self.leave,
            Step::Join => &mut self.join,
            Step::Connect | Step::Start | Step::End => &mut self.start,
        };
        into.record(took);
        self.begun = None;
        self.pause_until = lines.now.after(PAUSE);
        let seconds = took.as_secs_f64();
        lines.progress.step(&format!("{}: settled in {seconds:.2} s", self.words()));
    }

    /// The next change.
    fn go_on(&mut self, lines: &mut Lines<Tag>) -> Result<(), Trouble> {
        let who = self.round % self.members.len();
        match self.step {
            Step::Connect => {
                self.step = Step::Start;
                for member in &mut self.members {
                    member.join(lines)?;
                }
            }
            Step::Start | Step::Join => {
                self.step = Step::Leave;
                self.members[who].leave(lines)?;
            }
            Step::Leave => {
                self.step = Step::Join;
                self.round += 1;
                self.members[who].join(lines)?;
            }
            Step::End => {}
        }
        self.begun = Some(lines.now);
        Ok(())
    }

    fn is_measured(&self) -> bool {
        let last = if self.members.len() < 2 { 0 } else { self.rounds };
        self.begun.is_none() && self.round == last && matches!(self.step, Step::Start | Step::Join)
    }
}

impl Play for Rebalance {
    type Tag = Tag;

    fn begin(&mut self, _: &mut Lines<Tag>) -> Result<(), Trouble> {
        Ok(())
    }

    /// What it costs is in the time that the group takes to settle.
    fn lost(&mut self, _: usize, _: Vec<Tag>, _: Instant) {}

    fn back(&mut self, line: usize, lines: &mut Lines<Tag>) -> Result<(), Trouble> {
        self.members[line].take_up(lines)
    }

    fn stop(&mut self, _: Instant) {
        self.is_stopped = true;
    }

    fn status(&self, now: Instant) -> String {
        match self.begun {
            Some(begun) => format!("{}: {:.0} s", self.words(), now.since(begun).as_secs_f64()),
            None => self.words(),
        }
    }

    fn heard(
        &mut self,
        (number, what): Tag,
        reply: &Reply,
        lines: &mut Lines<Tag>,
    ) -> Result<(), Trouble> {
        self.members[number].heard(what, reply, lines)?;
        if let Some(begun) = self.begun
            && self.is_settled()?
        {
            self.settled(lines.now.since(begun), lines);
        }
        Ok(())
    }

    fn turn(&mut self, lines: &mut Lines<Tag>) -> Result<Option<Instant>, Trouble> {
        if self.step == Step::End {
            let is_over = self.members.iter().all(Member::is_out);
            let next = lines.now.after(Duration::from_millis(5));
            return Ok((!is_over && lines.now < self.pause_until).then_some(next));
        }
        if self.is_measured() || self.is_stopped {
            (self.step, self.begun) = (Step::End, None);
            self.pause_until = lines.now.after(LEAVE);
            for member in self.members.iter_mut().filter(|member| !member.is_out()) {
                member.leave(lines)?;
            }
            return Ok(Some(lines.now));
        }
        if self.begun.is_none() && self.pause_until <= lines.now {
            self.go_on(lines)?;
        }
        if let Some(begun) = self.begun
            && begun.after(SETTLES_WITHIN) <= lines.now
        {
            let why = format!("the group did not settle within {} s", SETTLES_WITHIN.as_secs());
            return Err(Trouble::new(why));
        }
        let mut next = lines.now.after(PAUSE);
        for member in &mut self.members {
            member.drive(lines)?;
            next = member.due().into_iter().chain([next]).min().expect("one of them");
        }
        Ok(Some(next))
    }
}
