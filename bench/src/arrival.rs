//! When records are due: a schedule that a slow broker does not slow down.
//!
//! A record is due at its time, whatever became of those before it. One that cannot be sent yet
//! keeps the time it was due at, so that its latency tells the wait as well (no coordinated
//! omission). Nothing is stored for what is due: the schedule itself remembers.

use std::time::Duration;

use tidemill_runtime::edge::Instant;

/// How the records of a run fall due.
#[derive(Clone, Copy, Debug, PartialEq)]
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

/// The schedule of one connection: its share of the run's.
#[derive(Clone, Debug)]
pub struct Arrivals {
    start: Instant,
    arrival: Arrival,
    /// How many events (records, or bursts) were taken.
    taken: u64,
    /// Seconds after `start` of the next event, where chance decides.
    next_seconds: f64,
    chance: Chance,
}

impl Arrivals {
    /// The share of connection `nth` of `connections` in a schedule that begins at `start`. Evenly
    /// spaced records stay evenly spaced over all connections.
    #[must_use]
    pub fn new(start: Instant, arrival: Arrival, nth: usize, connections: usize) -> Self {
        let rate = arrival.rate();
        assert!(rate.is_none_or(|rate| 0.0 < rate), "a rate of nothing is no schedule");
        let share = rate.map(|rate| rate / connections as f64);
        let mut chance = Chance::new(nth as u64 + 1);
        let (mut phase, mut next_seconds) = (0.0, 0.0);
        match (arrival, rate, share) {
            (Arrival::Poisson(_), _, Some(share)) => next_seconds = -chance.fraction().ln() / share,
            (Arrival::Bursts(_, size), Some(rate), _) => {
                phase = nth as f64 * f64::from(size) / rate;
            }
            (_, Some(rate), _) => phase = nth as f64 / rate,
            _ => {}
        }
        let start = start.after(Duration::from_secs_f64(phase));
        let arrival = share.map_or(arrival, |share| arrival.at_rate(share));
        Self { start, arrival, taken: 0, next_seconds, chance }
    }

    /// When something is due next; none in a closed loop.
    #[must_use]
    pub fn next_due(&self) -> Option<Instant> {
        let seconds = match self.arrival {
            Arrival::Closed => return None,
            Arrival::Constant(rate) => self.taken as f64 / rate,
            Arrival::Bursts(rate, size) => self.taken as f64 * f64::from(size) / rate,
            Arrival::Poisson(_) => self.next_seconds,
        };
        Some(self.start.after(Duration::from_secs_f64(seconds)))
    }

    /// What is due at `now` and was due first, if anything: when, and how many records at once.
    pub fn poll_due(&mut self, now: Instant) -> Option<(Instant, u32)> {
        let due = self.next_due().filter(|due| *due <= now)?;
        self.taken += 1;
        let mut records = 1;
        match self.arrival {
            Arrival::Poisson(rate) => self.next_seconds -= self.chance.fraction().ln() / rate,
            Arrival::Bursts(_, size) => records = size,
            Arrival::Closed | Arrival::Constant(_) => {}
        }
        Some((due, records))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all_due(arrivals: &mut Arrivals, now: Instant) -> Vec<(u64, u32)> {
        std::iter::from_fn(|| arrivals.poll_due(now)).map(|(due, n)| (due.nanos, n)).collect()
    }

    /// After a pause all that fell due in it is due at once, each at its own time.
    #[test]
    fn a_pause_of_the_sender_moves_nothing() {
        let start = Instant { nanos: 5_000 };
        let mut arrivals = Arrivals::new(start, Arrival::Constant(1_000_000.0), 0, 1);
        assert_eq!(arrivals.poll_due(start), Some((start, 1)));
        assert_eq!(arrivals.poll_due(start), None);
        let due = all_due(&mut arrivals, Instant { nanos: 8_500 });
        assert_eq!(due, [(6_000, 1), (7_000, 1), (8_000, 1)]);
        assert_eq!(arrivals.next_due(), Some(Instant { nanos: 9_000 }));
    }

    /// The connections of a run share its rate, one after the other.
    #[test]
    fn connections_take_turns() {
        let start = Instant { nanos: 0 };
        let end = Instant { nanos: 3_999 };
        let due = |nth| {
            let mut arrivals = Arrivals::new(start, Arrival::Constant(1_000_000.0), nth, 2);
            all_due(&mut arrivals, end).iter().map(|(due, _)| *due).collect::<Vec<_>>()
        };
        assert_eq!((due(0), due(1)), (vec![0, 2_000], vec![1_000, 3_000]));
    }

    /// Bursts hold their records back and then bring them at once; the rate is kept.
    #[test]
    fn bursts_keep_the_rate() {
        let start = Instant { nanos: 0 };
        let mut arrivals = Arrivals::new(start, Arrival::Bursts(1_000.0, 50), 0, 1);
        let due = all_due(&mut arrivals, Instant { nanos: 999_999_999 });
        assert_eq!(due.len(), 20);
        assert_eq!(due[1], (50_000_000, 50));
    }

    /// Chance keeps the rate too: 100 000 records in 100 s are within four deviations of it.
    #[test]
    fn chance_keeps_the_rate() {
        let start = Instant { nanos: 0 };
        let mut arrivals = Arrivals::new(start, Arrival::Poisson(1_000.0), 3, 1);
        let due = all_due(&mut arrivals, Instant { nanos: 100_000_000_000 });
        assert!((98_700..=101_300).contains(&due.len()), "{}", due.len());
        assert!(due.is_sorted());
    }
}
