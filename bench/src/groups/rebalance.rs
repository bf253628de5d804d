//! How long does a group of many members take to settle after a change?
//!
//! All members join at once; then one leaves and one joins, in turns. A group is settled when all
//! its members have their shares in the same generation (or epoch), and each partition has exactly
//! one owner, which is looked at each time. The time counts from when the request that changed the
//! group was sent.
//!
//! Most of that time is no broker's: a member hears of a change by its next heartbeat. So that the
//! figures are not those of one lucky moment, each member has heartbeats at times of its own
//! ([`super::beat`]) and changes come after pauses that chance decides, both the same for each seed.
//! How long the group took once the last member had asked is told besides.

use std::sync::Arc;
use std::time::Duration;

use tidemill_client::Reply;
use tidemill_perf::units;
use tidemill_runtime::edge::Instant;

use super::beat::Beat;
use super::member::{Member, Protocol, Tag};
use crate::arrival::Chance;
use crate::control::Topic;
use crate::figures::{Figures, Latencies};
use crate::stage::{Lines, Play};
use crate::trouble::Trouble;

/// A group that has not settled after this has a fault.
const SETTLES_WITHIN: Duration = Duration::from_secs(120);

/// Between two changes there is at least this, and at most an interval of heartbeats more.
const PAUSE_MIN: Duration = Duration::from_millis(100);

/// How often it is looked at what no answer tells of.
const LOOK: Duration = Duration::from_millis(300);

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

/// How it goes.
#[derive(Clone, Copy, Debug)]
pub struct Course {
    /// How many members.
    pub members: usize,
    /// How often one leaves and one joins.
    pub rounds: usize,
    /// Between heartbeats, where the members choose.
    pub interval: Duration,
    /// By which chance decides.
    pub seed: u64,
}

/// One group and its members.
pub struct Rebalance {
    members: Vec<Member>,
    partitions: usize,
    course: Course,
    chance: Chance,
    round: usize,
    step: Step,
    /// When the change began; none between two changes.
    begun: Option<Instant>,
    pause_until: Instant,
    is_stopped: bool,
    /// How long a change was waited for that was under way at the end.
    unsettled: Option<Duration>,
    start: Latencies,
    leave: Latencies,
    join: Latencies,
    /// Of those after the start, from when the last member asked.
    asked: Latencies,
}

impl Rebalance {
    /// A group whose members have the connections of their numbers.
    #[must_use]
    pub fn new(group: &str, protocol: Protocol, topic: &Arc<Topic>, course: Course) -> Self {
        let beats = Beat::of_members(course.members, course.interval, course.seed);
        let member = |(nth, beat): (usize, Beat)| {
            let topic = Arc::clone(topic);
            Member::new((nth, nth), group.to_owned(), protocol, topic, beat)
        };
        Self {
            members: beats.into_iter().enumerate().map(member).collect(),
            partitions: topic.leaders.len(),
            course,
            chance: Chance::new(!course.seed),
            round: 0,
            step: Step::Connect,
            begun: None,
            pause_until: Instant::default(),
            is_stopped: false,
            unsettled: None,
            start: Latencies::default(),
            leave: Latencies::default(),
            join: Latencies::default(),
            asked: Latencies::default(),
        }
    }

    /// Adds what was measured.
    pub fn tell(&self, figures: &mut Figures) {
        let interval = self.interval();
        let every = units::brief_nanos(interval.as_nanos() as f64);
        let shown = format!("a heartbeat of each every {every}, at times of its own");
        figures.tell("heartbeat_ms", shown, interval.as_millis() as u64);
        let seed = self.course.seed;
        figures.tell("seed", format!("chance by seed {seed}"), seed);
        figures.tell_latencies("settled after all joined at once", "start", &self.start);
        figures.tell_latencies("settled after a member left", "leave", &self.leave);
        figures.tell_latencies("settled after a member joined", "join", &self.join);
        let words = "after either, from the heartbeat that told the last member of it";
        figures.tell_latencies(words, "asked", &self.asked);
        if let Some(waited) = self.unsettled {
            let nanos = waited.as_nanos() as f64;
            let shown =
                format!("not settled {} after the change when it ended", units::nanos(nanos));
            figures.tell("unsettled_ns", shown, nanos);
        }
    }

    /// How often members say that they live.
    fn interval(&self) -> Duration {
        self.members.iter().map(Member::interval).max().unwrap_or_default()
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
        let (round, rounds) = (self.round, self.course.rounds);
        match self.step {
            Step::Connect => "connecting".to_owned(),
            Step::Start => format!("{} members join", self.members.len()),
            Step::Leave => format!("round {} of {rounds}, a member leaves", round + 1),
            Step::Join => format!("round {round} of {rounds}, a member joins"),
            Step::End => "the members leave".to_owned(),
        }
    }

    fn settled(&mut self, begun: Instant, lines: &Lines<Tag>) {
        let took = lines.now.since(begun);
        let into = match self.step {
            Step::Leave => &mut self.leave,
            Step::Join => &mut self.join,
            Step::Connect | Step::Start | Step::End => &mut self.start,
        };
        into.record(took);
        let members = self.members.iter().filter(|member| !member.is_out());
        let asked = members.map(Member::news_of).filter(|asked| begun <= *asked).max();
        if let (Step::Leave | Step::Join, Some(asked)) = (self.step, asked) {
            self.asked.record(lines.now.since(asked));
        }
        self.begun = None;
        let interval = u64::try_from(self.interval().as_nanos()).unwrap_or(u64::MAX);
        let more = Duration::from_nanos(self.chance.below(interval));
        self.pause_until = lines.now.after(PAUSE_MIN + more);
        let took = units::nanos(took.as_nanos() as f64);
        lines.progress.step(&format!("{}: settled in {took}", self.words()));
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
        let last = if self.members.len() < 2 { 0 } else { self.course.rounds };
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

    fn stop(&mut self, now: Instant) {
        self.is_stopped = true;
        self.unsettled = self.begun.map(|begun| now.since(begun));
    }

    fn end(&mut self, _: Instant) {}

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
            self.settled(begun, lines);
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
        let mut next = lines.now.after(LOOK);
        if self.begun.is_none() {
            next = next.min(self.pause_until);
        }
        for member in &mut self.members {
            member.drive(lines)?;
            next = member.due().into_iter().chain([next]).min().expect("one of them");
        }
        Ok(Some(next))
    }
}
