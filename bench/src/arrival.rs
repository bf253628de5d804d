//! When requests are due: a schedule that a slow broker does not slow down.
//!
//! Request *n* is due at `start + n / rate`, whatever became of those before it. What waits for a
//! free place in flight keeps the time it was due at, so that its latency tells the wait as well
//! (no coordinated omission).

use std::time::Duration;

use tidemill_runtime::edge::Instant;

/// The schedule of one shard of the load generator.
#[derive(Clone, Debug)]
pub struct Arrivals {
    start: Instant,
    /// Per second; none for a closed loop, where a request is due as soon as it can be sent.
    rate: Option<f64>,
    next: u64,
}

impl Arrivals {
    /// A schedule from `start` on.
    #[must_use]
    pub fn new(start: Instant, rate: Option<f64>) -> Self {
        assert!(rate.is_none_or(|rate| 0.0 < rate), "a rate of nothing is no schedule");
        Self { start, rate, next: 0 }
    }

    /// Whether requests are due by the clock.
    #[must_use]
    pub fn is_open_loop(&self) -> bool {
        self.rate.is_some()
    }

    /// When the next request is due; none in a closed loop.
    #[must_use]
    pub fn next_due(&self) -> Option<Instant> {
        let seconds = self.next as f64 / self.rate?;
        Some(self.start.after(Duration::from_secs_f64(seconds)))
    }

    /// The next request that is due at `now`, if any: when it was due.
    pub fn poll_due(&mut self, now: Instant) -> Option<Instant> {
        let due = self.next_due().filter(|due| *due <= now)?;
        self.next += 1;
        Some(due)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// After a pause all that fell due in it is due at once, each at its own time.
    #[test]
    fn a_pause_of_the_sender_moves_nothing() {
        let start = Instant { nanos: 5_000 };
        let mut arrivals = Arrivals::new(start, Some(1_000_000.0));
        assert_eq!(arrivals.poll_due(start), Some(start));
        assert_eq!(arrivals.poll_due(start), None);
        let later = Instant { nanos: 8_500 };
        let due: Vec<_> = std::iter::from_fn(|| arrivals.poll_due(later)).collect();
        assert_eq!(due.iter().map(|due| due.nanos).collect::<Vec<_>>(), [6_000, 7_000, 8_000]);
        assert_eq!(arrivals.next_due(), Some(Instant { nanos: 9_000 }));
    }
}
