//! Gathers what is told while a run goes on, and reads meanwhile what broker and generator use.
//!
//! Each phase begins and ends at a *mark*: a reading of what was used until then. What a phase used
//! is the difference of two marks.

use std::io;
use std::time::Duration;

use tidemill_runtime::clock;
use tidemill_runtime::edge::Instant;

use crate::plan::Plan;
use crate::settings::Settings;
use crate::tally::{Ends, Tallies, Tally};
use crate::usage::{OwnUse, Threads, Usage};
use crate::watch::{Moment, Watch};

/// How often the broker is looked at.
const SAMPLE: Duration = Duration::from_secs(1);

/// What was measured of one phase.
#[derive(Clone, Debug)]
pub struct Part {
    /// What was counted.
    pub tally: Tally,
    /// How long it was.
    pub elapsed: Duration,
    /// What the broker's process used; none if it was not to be watched.
    pub broker: Option<Usage>,
    /// What the load generator used.
    pub generator: OwnUse,
}

/// What was measured of a run.
#[derive(Clone, Debug)]
pub struct Measured {
    /// Of each phase.
    pub parts: Vec<Part>,
    /// What was known at the end.
    pub ends: Ends,
    /// The most memory the broker was seen to have.
    pub peak_bytes: u64,
    /// How long all of it took, from the beginning of the load.
    pub seconds: f64,
    /// What a reader of the figures has to know besides.
    pub notes: Vec<String>,
}

/// Whose load it is that is listened to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Whose {
    /// That of shards of this process.
    OwnShards,
    /// That of other processes: they tell what they use.
    Processes,
}

#[derive(Clone, Debug)]
struct Reading {
    at: Instant,
    broker: Option<Usage>,
    cpu: Duration,
    own: Threads,
}

/// Gathers what is told.
pub struct Listening {
    whose: Whose,
    broker_pid: Option<u32>,
    tallies: Tallies,
    pending: Tallies,
    ends: Ends,
    /// The beginning of the first phase and the ends of all, as far as they have come.
    marks: Vec<Reading>,
    last: Reading,
    /// CPU time that other processes have told since `last`.
    told_cpu: Duration,
    /// What they used in each phase.
    told_use: Vec<OwnUse>,
    peak_bytes: u64,
}

impl Listening {
    /// Nothing was told yet.
    #[must_use]
    pub fn new(settings: &Settings, plan: &Plan, whose: Whose) -> Self {
        let phases = plan.ends().len();
        let broker_pid = settings.broker_pid;
        let last = Reading { at: plan.start, ..Reading::now(broker_pid, whose, None) };
        Self {
            whose,
            broker_pid,
            tallies: Tallies::of(phases),
            pending: Tallies::of(phases),
            ends: Ends::default(),
            marks: Vec::new(),
            last,
            told_cpu: Duration::ZERO,
            told_use: vec![OwnUse::default(); phases],
            peak_bytes: 0,
        }
    }

    /// When [`Listening::look`] has something to do.
    #[must_use]
    pub fn next_look(&self, plan: &Plan) -> Instant {
        let sample = self.last.at.after(SAMPLE);
        self.next_mark(plan).map_or(sample, |mark| mark.min(sample))
    }

    fn next_mark(&self, plan: &Plan) -> Option<Instant> {
        match self.marks.len().checked_sub(1) {
            None => Some(plan.measure_from),
            Some(phase) => plan.ends().get(phase).copied(),
        }
    }

    /// Takes what was measured; whether it has the phases of this run.
    #[must_use]
    pub fn take(&mut self, told: &Tallies) -> bool {
        self.pending.merge(told)
    }

    /// Takes what another process has used in the same time.
    pub fn take_cpu(&mut self, cpu: Duration) {
        self.told_cpu += cpu;
    }

    /// Takes what is known at an end.
    pub fn take_end(&mut self, ends: Ends) {
        self.ends.merge(ends);
    }

    /// Takes what another process has used in each phase.
    pub fn take_use(&mut self, told: &[OwnUse]) {
        for (known, told) in self.told_use.iter_mut().zip(told) {
            known.merge(*told);
        }
    }

    /// Something happened that no shard can tell.
    pub fn ends(&mut self) -> &mut Ends {
        &mut self.ends
    }

    /// Reads what is to be read now, and tells whoever watches.
    pub fn look(&mut self, plan: &Plan, watch: &mut Watch, ended: bool) -> io::Result<()> {
        let now = clock::monotonic();
        while self.next_mark(plan).is_some_and(|mark| mark <= now) {
            let reading = Reading::now(self.broker_pid, self.whose, Some(&self.last));
            self.marks.push(reading);
        }
        if !ended && now < self.last.at.after(SAMPLE) {
            return Ok(());
        }
        let read = Reading::now(self.broker_pid, self.whose, Some(&self.last));
        let read = Reading { at: now, ..read };
        self.peak_bytes = self.peak_bytes.max(read.broker.map_or(0, |usage| usage.resident_bytes));
        let own_cpu = read.cpu.saturating_sub(self.last.cpu);
        watch.tick(Moment {
            since: self.last.at,
            now,
            plan,
            tallies: &self.pending,
            broker: used(&self.last, &read),
            generator_cpu: own_cpu + std::mem::take(&mut self.told_cpu),
        })?;
        let pending = self.pending.take();
        assert!(self.tallies.merge(&pending), "both have the phases of this run");
        self.last = read;
        Ok(())
    }

    /// All that was gathered.
    #[must_use]
    pub fn finish(mut self, plan: &Plan) -> Measured {
        // A run that ended before its time has phases that never began: they begin and end here.
        let begins = std::iter::once(plan.measure_from).chain(plan.ends().iter().copied());
        let begins: Vec<Instant> = begins.map(|at| at.min(self.last.at)).collect();
        while self.marks.len() < begins.len() {
            self.marks.push(self.last.clone());
        }
        if plan.until_caught_up
            && let Some(end) = self.marks.last_mut()
        {
            *end = self.last.clone();
        }
        let phases = self.tallies.by_phase().iter().zip(&self.told_use).enumerate();
        let parts = phases.map(|(phase, (tally, told))| {
            let (before, after) = (&self.marks[phase], &self.marks[phase + 1]);
            let mut generator = after.own.since(&before.own);
            generator.cpu = after.cpu.saturating_sub(before.cpu);
            generator.merge(*told);
            let elapsed = if plan.until_caught_up {
                let last = plan.start.after(Duration::from_nanos(self.ends.last_answer_nanos));
                last.since(begins[phase])
            } else {
                begins[phase + 1].since(begins[phase])
            };
            Part { tally: tally.clone(), elapsed, broker: used(before, after), generator }
        });
        Measured {
            parts: parts.collect(),
            peak_bytes: self.peak_bytes,
            seconds: plan.seconds(self.last.at),
            ends: self.ends,
            notes: Vec::new(),
        }
    }
}

fn used(before: &Reading, after: &Reading) -> Option<Usage> {
    before.broker.zip(after.broker).map(|(before, after)| after.since(before))
}

impl Reading {
    fn now(broker_pid: Option<u32>, whose: Whose, earlier: Option<&Self>) -> Self {
        let (at, broker) = (clock::monotonic(), broker_pid.and_then(Usage::of));
        match whose {
            Whose::OwnShards => {
                let own = earlier.map_or_else(Threads::of_this_process, |e| e.own.read_on());
                Self { at, broker, cpu: clock::cpu_time(), own }
            }
            // What only gathers is no load generator.
            Whose::Processes => Self { at, broker, cpu: Duration::ZERO, own: Threads::default() },
        }
    }
}
