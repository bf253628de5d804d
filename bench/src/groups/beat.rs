//! When a member says that it lives: each at times of its own, as members do that were not started
//! by one hand.
//!
//! A member hears of a change by its next heartbeat. If all of them were due together, as they are
//! when each counts from the answer that ended the last rebalance, a change would find them all far
//! from it or all near, and what is measured would be when the change was made.

use std::time::Duration;

use tidemill_runtime::edge::Instant;

use crate::arrival::Chance;

/// More often nobody says that it lives, whatever the broker asks for.
const INTERVAL_MIN: Duration = Duration::from_millis(1);

/// When one member says that it lives.
#[derive(Clone, Copy, Debug)]
pub struct Beat {
    interval: Duration,
    /// Where in each interval, as a part of 2^64.
    phase: u64,
}

impl Beat {
    /// Those of so many members: where in the interval is left to chance, the same for each seed.
    #[must_use]
    pub fn of_members(count: usize, interval: Duration, seed: u64) -> Vec<Self> {
        let mut chance = Chance::new(seed);
        let interval = interval.max(INTERVAL_MIN);
        (0..count).map(|_| Self { interval, phase: chance.next_u64() }).collect()
    }

    /// How often.
    #[must_use]
    pub fn interval(&self) -> Duration {
        self.interval
    }

    /// The broker says how often.
    pub fn set_interval(&mut self, interval: Duration) {
        self.interval = interval.max(INTERVAL_MIN);
    }

    /// The next time after `now`, at most one interval later.
    #[must_use]
    pub fn after(&self, now: Instant) -> Instant {
        let interval = u64::try_from(self.interval.as_nanos()).unwrap_or(u64::MAX >> 1);
        let phase = ((u128::from(self.phase) * u128::from(interval)) >> 64) as u64;
        let passed = (now.nanos % interval + interval - phase) % interval;
        now.after(Duration::from_nanos(interval - passed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTERVAL: Duration = Duration::from_millis(500);

    fn at(ms: u64) -> Instant {
        Instant { nanos: ms * 1_000_000 }
    }

    /// Whenever it is asked, the next heartbeat is at most one interval away, and from there on they
    /// are as far apart as they should be.
    #[test]
    fn heartbeats_are_one_interval_apart() {
        for beat in Beat::of_members(50, INTERVAL, 3) {
            for ms in [0, 1, 499, 500, 123_456] {
                let first = beat.after(at(ms));
                assert!(at(ms) < first && first <= at(ms).after(INTERVAL));
                assert_eq!(beat.after(first), first.after(INTERVAL));
            }
        }
    }

    /// The heartbeats of all members fell together after each rebalance, and the next change came a
    /// fixed time later: what was told as the time a group takes to settle was the rest of the
    /// interval, to the millisecond, whatever the broker did. Whenever a change comes, some member
    /// hears of it early and some late.
    #[test]
    fn heartbeats_fell_together_and_changes_were_heard_of_at_once() {
        let beats = Beat::of_members(100, INTERVAL, 1);
        for ms in (10_000..10_500).step_by(7) {
            let heard = |beat: &Beat| beat.after(at(ms)).since(at(ms));
            let first = beats.iter().map(heard).min().unwrap();
            let last = beats.iter().map(heard).max().unwrap();
            assert!(first < INTERVAL / 10, "{first:?} after {ms}");
            assert!(INTERVAL * 9 / 10 < last, "{last:?} after {ms}");
        }
    }

    /// Runs with the same seed have the same heartbeats, others have others.
    #[test]
    fn a_seed_gives_the_same_heartbeats_again() {
        let of = |seed| {
            let beats = Beat::of_members(5, INTERVAL, seed);
            beats.iter().map(|beat| beat.after(at(0))).collect::<Vec<_>>()
        };
        assert_eq!(of(7), of(7));
        assert_ne!(of(7), of(8));
    }

    /// A broker that asks for no time at all between heartbeats is not asked without a pause.
    #[test]
    fn no_time_between_heartbeats_is_a_millisecond() {
        let mut beat = Beat::of_members(1, Duration::ZERO, 1)[0];
        assert_eq!(beat.after(beat.after(at(0))), beat.after(at(0)).after(INTERVAL_MIN));
        beat.set_interval(Duration::ZERO);
        assert_eq!(beat.interval(), INTERVAL_MIN);
    }
}
