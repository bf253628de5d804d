//! When records are due: a schedule that a slow broker does not slow down.
//!
//! A record is due at its time, whatever became of those before it. One that cannot be sent yet
//! keeps the time it was due at, so that its latency tells the wait as well (no coordinated
//! omission). Nothing is stored for what is due: the schedule itself remembers.

use std::collections::VecDeque;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tidemill_runtime::edge::Instant;

use crate::settings::Share;

/// How records are spread over time, whatever their rate.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Pattern {
    /// Evenly.
    Constant,
    /// By chance, each independent of the others.
    Poisson,
    /// So many at once.
    Bursts(u32),
    /// All of so much time at once.
    BurstsEvery(Duration),
}

impl FromStr for Pattern {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is not constant, poisson, bursts:100 or bursts:50ms");
        match text {
            "constant" => return Ok(Self::Constant),
            "poisson" => return Ok(Self::Poisson),
            _ => {}
        }
        let size =
            text.strip_prefix("bursts:").or(text.strip_prefix("burst:")).ok_or_else(wrong)?;
        if let Ok(records) = size.parse::<u32>() {
            return if 0 < records { Ok(Self::Bursts(records)) } else { Err(wrong()) };
        }
        let seconds = match size.strip_suffix("ms") {
            Some(number) => number.parse::<f64>().map(|ms| ms / 1e3),
            None => size.strip_suffix('s').ok_or_else(wrong)?.parse::<f64>(),
        };
        let every = seconds.ok().and_then(|s| Duration::try_from_secs_f64(s).ok());
        every.filter(|every| !every.is_zero()).map(Self::BurstsEvery).ok_or_else(wrong)
    }
}

impl Pattern {
    /// At this rate; none is a closed loop, whatever the pattern.
    #[must_use]
    pub fn at(self, rate: Option<f64>) -> Arrival {
        let Some(rate) = rate else { return Arrival::Closed };
        match self {
            Self::Constant => Arrival::Constant(rate),
            Self::Poisson => Arrival::Poisson(rate),
            Self::Bursts(size) => Arrival::Bursts(rate, size),
            Self::BurstsEvery(every) => {
                Arrival::Bursts(rate, (rate * every.as_secs_f64()).round().max(1.0) as u32)
            }
        }
    }
}

/// How the records of a run fall due.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Serialize)]
pub enum Arrival {
    /// A closed loop: a full batch is due as soon as there is room for it. It tells how much a
    /// broker takes; its latencies are those of a queue that the generator itself keeps full.
    Closed,
    /// Records per second, evenly spaced.
    Constant(f64),
    /// Records per second on average, each independent of the others.
    Poisson(f64),
    /// Records per second on average, so many at once.
    Bursts(f64, u32),
}

impl Arrival {
    /// Records per second; none for a closed loop.
    #[must_use]
    pub fn rate(self) -> Option<f64> {
        match self {
            Self::Closed => None,
            Self::Constant(rate) | Self::Poisson(rate) | Self::Bursts(rate, _) => Some(rate),
        }
    }

    /// The same kind at another rate; a closed loop becomes constant.
    #[must_use]
    pub fn at_rate(self, rate: f64) -> Self {
        match self {
            Self::Closed | Self::Constant(_) => Self::Constant(rate),
            Self::Poisson(_) => Self::Poisson(rate),
            Self::Bursts(_, size) => Self::Bursts(rate, size),
        }
    }
}

/// Numbers that look like chance, from a seed.
#[derive(Clone, Debug)]
pub struct Chance(u64);

impl Chance {
    /// Each seed gives numbers of its own.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        // A state of zero would stay zero.
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// The next number (xorshift*).
    pub fn next_u64(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// A number below `limit`, or 0 if that is 0.
    pub fn below(&mut self, limit: u64) -> u64 {
        ((u128::from(self.next_u64()) * u128::from(limit)) >> 64) as u64
    }

    /// Above 0, at most 1.
    pub fn fraction(&mut self) -> f64 {
        ((self.next_u64() >> 11) + 1) as f64 / (1u64 << 53) as f64
    }
}

/// One arrival of one connection: its share of the run's.
#[derive(Clone, Debug)]
struct Arrivals {
    start: Instant,
    arrival: Arrival,
    /// Between two events (records, or bursts), where chance does not decide.
    spacing_nanos: f64,
    /// How many events were taken.
    taken: u64,
    /// Nanoseconds after `start` of the next event, where chance decides.
    next_nanos: f64,
    chance: Chance,
}

impl Arrivals {
    /// One connection's share of an arrival that begins at `start`. Evenly spaced records stay
    /// evenly spaced over all connections.
    fn new(start: Instant, arrival: Arrival, share: Share, seed: u64) -> Self {
        let rate = arrival.rate();
        assert!(rate.is_none_or(|rate| 0.0 < rate), "a rate of nothing is no schedule");
        let mut chance = Chance::new(seed);
        let (mut phase, mut spacing_nanos, mut next_nanos) = (0.0, 0.0, 0.0);
        if let Some(rate) = rate {
            let size = if let Arrival::Bursts(_, size) = arrival { f64::from(size) } else { 1.0 };
            let apart = size * 1e9 / rate;
            spacing_nanos = apart * share.of as f64;
            match arrival {
                Arrival::Poisson(_) => next_nanos = -chance.fraction().ln() * spacing_nanos,
                _ => phase = share.nth as f64 * apart,
            }
        }
        let start = start.after(Duration::from_nanos(phase as u64));
        Self { start, arrival, spacing_nanos, taken: 0, next_nanos, chance }
    }

    /// When something is due next; none in a closed loop.
    fn next_due(&self) -> Option<Instant> {
        let nanos = match self.arrival {
            Arrival::Closed => return None,
            Arrival::Constant(_) | Arrival::Bursts(..) => self.taken as f64 * self.spacing_nanos,
            Arrival::Poisson(_) => self.next_nanos,
        };
        Some(Instant { nanos: self.start.nanos.saturating_add(nanos as u64) })
    }

    /// Takes what is due next; how many records that is.
    fn take(&mut self) -> u32 {
        self.taken += 1;
        match self.arrival {
            Arrival::Bursts(_, size) => size,
            Arrival::Poisson(_) => {
                self.next_nanos -= self.chance.fraction().ln() * self.spacing_nanos;
                1
            }
            Arrival::Closed | Arrival::Constant(_) => 1,
        }
    }
}

/// Some records that fall due.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Due {
    /// When.
    pub at: Instant,
    /// How many at once.
    pub records: u32,
    /// In which phase of the run.
    pub phase: usize,
}

/// The schedule of one connection, through all phases of a run.
#[derive(Clone, Debug)]
pub struct Schedule {
    /// What is left; the front one holds what is due next, or is a closed loop.
    segments: VecDeque<Segment>,
}

#[derive(Clone, Debug)]
struct Segment {
    phase: usize,
    from: Instant,
    until: Instant,
    arrivals: Arrivals,
}

impl Schedule {
    /// One connection's share of a run that begins at `start` and whose phases end when they say.
    /// What comes before the first one is like it.
    #[must_use]
    pub fn new(start: Instant, phases: &[(Instant, Arrival)], share: Share) -> Self {
        let mut from = start;
        let mut segments = VecDeque::new();
        for (phase, (until, arrival)) in phases.iter().enumerate() {
            let seed = (share.nth as u64 + 1) << 16 | phase as u64;
            let arrivals = Arrivals::new(from, *arrival, share, seed);
            segments.push_back(Segment { phase, from, until: *until, arrivals });
            from = *until;
        }
        let mut schedule = Self { segments };
        schedule.drop_empty();
        schedule
    }

    /// When something is due next, open loop; none if nothing ever will be, or not before a
    /// closed loop has ended.
    #[must_use]
    pub fn next_due(&self) -> Option<Instant> {
        self.segments.front()?.arrivals.next_due()
    }

    /// When a closed loop begins or ends next, if it does.
    #[must_use]
    pub fn next_turn(&self, now: Instant) -> Option<Instant> {
        let front = self.segments.front().filter(|front| front.is_closed())?;
        Some(if now < front.from { front.from } else { front.until })
    }

    /// The phase whose closed loop it is at `now`, if it is one's.
    #[must_use]
    pub fn closed_phase(&self, now: Instant) -> Option<usize> {
        let front = self.segments.front().filter(|front| front.is_closed())?;
        (front.from <= now && now < front.until).then_some(front.phase)
    }

    /// What is due at `now` and was due first, if anything.
    pub fn poll_due(&mut self, now: Instant) -> Option<Due> {
        while self.segments.front().is_some_and(|front| front.is_closed() && front.until <= now) {
            self.segments.pop_front();
            self.drop_empty();
        }
        let front = self.segments.front_mut()?;
        let at = front.arrivals.next_due().filter(|due| *due <= now)?;
        let due = Due { at, records: front.arrivals.take(), phase: front.phase };
        self.drop_empty();
        Some(due)
    }

    /// Whether nothing more falls due.
    #[must_use]
    pub fn is_over(&self, now: Instant) -> bool {
        self.segments.iter().all(|segment| segment.is_closed() && segment.until <= now)
    }

    /// Nothing falls due from `at` on.
    pub fn cut(&mut self, at: Instant) {
        self.segments.iter_mut().for_each(|segment| segment.until = at.min(segment.until));
        self.segments.retain(|segment| segment.from < segment.until && !segment.is_empty());
    }

    /// Drops open segments in which nothing more falls due.
    fn drop_empty(&mut self) {
        while self.segments.front().is_some_and(Segment::is_empty) {
            self.segments.pop_front();
        }
    }
}

impl Segment {
    fn is_closed(&self) -> bool {
        self.arrivals.arrival == Arrival::Closed
    }

    fn is_empty(&self) -> bool {
        self.arrivals.next_due().is_some_and(|due| self.until <= due)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(nanos: u64) -> Instant {
        Instant { nanos }
    }

    /// One phase without end, from `start` on.
    fn schedule(start: u64, arrival: Arrival, nth: usize, of: usize) -> Schedule {
        Schedule::new(at(start), &[(at(u64::MAX), arrival)], Share { nth, of })
    }

    fn all_due(schedule: &mut Schedule, now: u64) -> Vec<(u64, u32)> {
        std::iter::from_fn(|| schedule.poll_due(at(now)))
            .map(|due| (due.at.nanos, due.records))
            .collect()
    }

    /// After a pause all that fell due in it is due at once, each at its own time.
    #[test]
    fn a_pause_of_the_sender_moves_nothing() {
        let mut schedule = schedule(5_000, Arrival::Constant(1_000_000.0), 0, 1);
        assert_eq!(all_due(&mut schedule, 5_000), [(5_000, 1)]);
        assert_eq!(schedule.poll_due(at(5_000)), None);
        assert_eq!(all_due(&mut schedule, 8_500), [(6_000, 1), (7_000, 1), (8_000, 1)]);
        assert_eq!(schedule.next_due(), Some(at(9_000)));
    }

    /// The connections of a run share its rate, one after the other.
    #[test]
    fn connections_take_turns() {
        let due = |nth| {
            let mut schedule = schedule(0, Arrival::Constant(1_000_000.0), nth, 2);
            all_due(&mut schedule, 3_999).iter().map(|(due, _)| *due).collect::<Vec<_>>()
        };
        assert_eq!((due(0), due(1)), (vec![0, 2_000], vec![1_000, 3_000]));
    }

    /// Bursts hold their records back and then bring them at once; the rate is kept.
    #[test]
    fn bursts_keep_the_rate() {
        let mut schedule = schedule(0, Arrival::Bursts(1_000.0, 50), 0, 1);
        let due = all_due(&mut schedule, 999_999_999);
        assert_eq!(due.len(), 20);
        assert_eq!(due[1], (50_000_000, 50));
    }

    /// Chance keeps the rate too: 100 000 records in 100 s are within four deviations of it.
    #[test]
    fn chance_keeps_the_rate() {
        let mut schedule = schedule(0, Arrival::Poisson(1_000.0), 3, 1);
        let due = all_due(&mut schedule, 100_000_000_000);
        assert!((98_700..=101_300).contains(&due.len()), "{}", due.len());
        assert!(due.is_sorted());
    }

    /// Phases follow each other, each at its own rate; a pause of the sender loses nothing of any.
    #[test]
    fn phases_follow_each_other() {
        let second = 1_000_000_000;
        let phases = [
            (at(second), Arrival::Constant(10.0)),
            (at(2 * second), Arrival::Bursts(100.0, 25)),
            (at(3 * second), Arrival::Constant(1.0)),
        ];
        let mut schedule = Schedule::new(at(0), &phases, Share::WHOLE);
        let mut by_phase = [0; 3];
        while let Some(due) = schedule.poll_due(at(10 * second)) {
            by_phase[due.phase] += due.records;
        }
        assert_eq!(by_phase, [10, 100, 1]);
        assert_eq!(schedule.next_due(), None);
    }

    /// A closed loop between open ones begins and ends by the clock.
    #[test]
    fn a_closed_loop_has_its_time() {
        let phases = [
            (at(100), Arrival::Constant(1e9 / 50.0)),
            (at(200), Arrival::Closed),
            (at(300), Arrival::Constant(1e9 / 50.0)),
        ];
        let mut schedule = Schedule::new(at(0), &phases, Share::WHOLE);
        assert_eq!(all_due(&mut schedule, 120), [(0, 1), (50, 1)]);
        assert_eq!(
            (schedule.closed_phase(at(99)), schedule.next_turn(at(99))),
            (None, Some(at(100)))
        );
        assert_eq!(schedule.closed_phase(at(120)), Some(1));
        assert_eq!((schedule.next_due(), schedule.next_turn(at(120))), (None, Some(at(200))));
        assert_eq!(all_due(&mut schedule, 260), [(200, 1), (250, 1)]);
    }

    /// A schedule that is cut short still holds what was due before, and nothing after it.
    #[test]
    fn what_was_due_before_the_cut_is_still_due() {
        let phases = [
            (at(100), Arrival::Constant(1e9 / 50.0)),
            (at(200), Arrival::Closed),
            (at(300), Arrival::Constant(1e9 / 50.0)),
        ];
        let of = || Schedule::new(at(0), &phases, Share::WHOLE);
        let mut early = of();
        early.cut(at(60));
        assert!(!early.is_over(at(70)), "two records are due");
        assert_eq!(all_due(&mut early, 1000), [(0, 1), (50, 1)]);
        assert!(early.is_over(at(70)));
        let mut closed = of();
        assert_eq!(all_due(&mut closed, 120), [(0, 1), (50, 1)]);
        closed.cut(at(150));
        assert_eq!((closed.closed_phase(at(149)), closed.closed_phase(at(150))), (Some(1), None));
        assert!(closed.is_over(at(150)));
    }

    /// A pattern is read with its size, in records or in time.
    #[test]
    fn patterns_are_read() {
        let at = |text: &str| text.parse::<Pattern>().unwrap().at(Some(1_000.0));
        assert_eq!(at("constant"), Arrival::Constant(1_000.0));
        assert_eq!(at("poisson"), Arrival::Poisson(1_000.0));
        assert_eq!(at("bursts:7"), Arrival::Bursts(1_000.0, 7));
        assert_eq!(at("bursts:50ms"), Arrival::Bursts(1_000.0, 50));
        assert_eq!(at("bursts:2s"), Arrival::Bursts(1_000.0, 2_000));
        for text in ["", "bursts", "bursts:0", "bursts:0ms", "bursts:x", "often"] {
            text.parse::<Pattern>().unwrap_err();
        }
    }
}
