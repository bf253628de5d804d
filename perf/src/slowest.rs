//! The slowest requests of the last one to two windows, with where their time went.
//!
//! A request that is not among them costs one comparison; the window passes by itself, once a turn.
//! What a fetch waited for records that had not come does not count. What identifies a request
//! (client, topic) is made only for those that are kept. Looking at them changes nothing: they leave
//! when their window is over, so that any number of people may look.

use crate::stage::{Stage, Stamps};

/// The most bytes kept of a client's or topic's name.
const NAME_BYTES_MAX: usize = 64;

/// Whose request it was.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Whose {
    /// The client's own name for itself.
    pub client_id: String,
    /// The (first) topic it was about; empty if about none.
    pub topic: String,
    /// The (first) partition it was about; -1 if about none.
    pub partition: i32,
    /// Bytes of the request.
    pub size_bytes: u32,
}

impl Whose {
    /// With names cut to what is kept of them.
    #[must_use]
    pub fn new(client_id: &str, topic: &str, partition: i32, size_bytes: u32) -> Self {
        let cut = |name: &str| name[..name.floor_char_boundary(NAME_BYTES_MAX)].to_owned();
        Self { client_id: cut(client_id), topic: cut(topic), partition, size_bytes }
    }
}

/// One that was kept.
#[derive(Clone, Debug)]
pub struct Slow<T> {
    /// Its times.
    pub stamps: Stamps,
    /// Ticks from its beginning to its end.
    pub total_ticks: u64,
    /// When it ended, in milliseconds since the Unix epoch.
    pub ended_unix_ms: i64,
    /// Whose it was.
    pub whose: T,
}

impl<T> Slow<T> {
    /// Ticks in which it was on its way, without those in which a fetch waited for records to come:
    /// a long poll is not slow.
    fn own_ticks(&self) -> u64 {
        self.total_ticks.saturating_sub(self.stamps.ticks(Stage::Wait))
    }
}

/// A bounded set of the slowest requests.
#[derive(Clone, Debug)]
pub struct Slowest<T> {
    /// Those of this window and, behind them, those of the one before.
    kept: Vec<Slow<T>>,
    before: Vec<Slow<T>>,
    capacity: usize,
    window_ms: i64,
    window_began_ms: i64,
    /// A request must take longer than this to be kept.
    threshold: i64,
}

impl<T: Clone> Slowest<T> {
    /// Keeps up to `capacity` requests of each window of so many milliseconds.
    #[must_use]
    pub fn new(capacity: usize, window_ms: i64) -> Self {
        assert!(0 < capacity, "none at all is not a set of the slowest");
        assert!(0 < window_ms, "a window has a length");
        Self {
            kept: Vec::with_capacity(capacity),
            before: Vec::with_capacity(capacity),
            capacity,
            window_ms,
            window_began_ms: 0,
            threshold: 0,
        }
    }

    /// It is `wall_ms` now: a window may be over. To be told before requests of that time are
    /// offered.
    #[inline]
    pub fn time_is(&mut self, wall_ms: i64) {
        // A clock that was set back, too, begins a window: its difference is huge without a sign.
        if self.window_ms as u64 <= (wall_ms - self.window_began_ms) as u64 {
            self.roll(wall_ms);
        }
    }

    /// A request has ended after so many ticks; `describe` says whose it was, if it is among the
    /// slowest.
    #[inline]
    pub fn offer(
        &mut self,
        total_ticks: i64,
        stamps: &Stamps,
        wall_ms: i64,
        describe: impl FnOnce() -> T,
    ) {
        if self.threshold < total_ticks {
            self.offer_slow(total_ticks as u64, stamps, wall_ms, describe);
        }
    }

    #[cold]
    fn offer_slow(
        &mut self,
        total_ticks: u64,
        stamps: &Stamps,
        wall_ms: i64,
        describe: impl FnOnce() -> T,
    ) {
        let slow = Slow { stamps: *stamps, total_ticks, ended_unix_ms: wall_ms, whose: () };
        if self.threshold < slow.own_ticks() as i64 {
            let Slow { stamps, total_ticks, ended_unix_ms, .. } = slow;
            self.keep(Slow { stamps, total_ticks, ended_unix_ms, whose: describe() });
        }
    }

    /// A new window begins at `wall_ms`.
    #[cold]
    fn roll(&mut self, wall_ms: i64) {
        std::mem::swap(&mut self.kept, &mut self.before);
        self.kept.clear();
        // After a long silence both windows are over.
        if 2 * self.window_ms <= wall_ms - self.window_began_ms {
            self.before.clear();
        }
        self.window_began_ms = wall_ms;
        self.threshold = 0;
    }

    #[cold]
    fn keep(&mut self, slow: Slow<T>) {
        if self.kept.len() < self.capacity {
            self.kept.push(slow);
        } else {
            let fastest = self.kept.iter_mut().min_by_key(|slow| slow.own_ticks());
            *fastest.expect("the set is full") = slow;
        }
        if self.kept.len() == self.capacity {
            let own = self.kept.iter().map(Slow::own_ticks);
            self.threshold = own.min().expect("the set is full") as i64;
        }
    }

    /// The slowest of this window and the one before, as of `wall_ms`, the slowest first; at most
    /// twice the capacity.
    #[must_use]
    pub fn read(&self, wall_ms: i64) -> Vec<Slow<T>> {
        // Windows roll when requests end: since the last one both may be over.
        let is_recent = |slow: &&Slow<T>| wall_ms - slow.ended_unix_ms < 2 * self.window_ms;
        let kept = self.kept.iter().chain(&self.before);
        let mut all: Vec<_> = kept.filter(is_recent).cloned().collect();
        all.sort_by_key(|slow| std::cmp::Reverse(slow.own_ticks()));
        all
    }

    /// How long a window is.
    #[must_use]
    pub fn window_ms(&self) -> i64 {
        self.window_ms
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offer(slowest: &mut Slowest<u64>, total: u64, wall_ms: i64) {
        let mut stamps = Stamps::begin(0);
        stamps.end(Stage::Work, total * 100);
        slowest.time_is(wall_ms);
        slowest.offer(stamps.total_until(total * 100), &stamps, wall_ms, || total);
    }

    /// Looked at when the last request ended.
    fn kept(slowest: &Slowest<u64>) -> Vec<u64> {
        kept_at(slowest, slowest.window_began_ms)
    }

    fn kept_at(slowest: &Slowest<u64>, wall_ms: i64) -> Vec<u64> {
        slowest.read(wall_ms).into_iter().map(|slow| slow.whose).collect()
    }

    /// Of many requests the slowest few are kept, the slowest first.
    #[test]
    fn the_slowest_are_kept() {
        let mut slowest = Slowest::new(3, 1000);
        for total in [5u64, 1, 9, 7, 2, 8, 3] {
            offer(&mut slowest, total, 1);
        }
        assert_eq!(kept(&slowest), [9, 8, 7]);
        assert_eq!(kept(&slowest), [9, 8, 7], "looking changes nothing");
    }

    /// The bug: where one consumer was idle, its long polls were all that was told.
    #[test]
    fn a_long_poll_is_not_slow() {
        let mut slowest = Slowest::new(2, 1000);
        offer(&mut slowest, 3, 1);
        for poll in 0..5 {
            let mut stamps = Stamps::begin(0);
            stamps.end(Stage::Work, 100);
            stamps.end(Stage::Wait, 50_000);
            slowest.offer(stamps.total_until(50_000), &stamps, 1, || 100 + poll);
        }
        offer(&mut slowest, 2, 1);
        assert_eq!(kept(&slowest), [3, 2]);
    }

    /// One slow request an hour ago does not hide what is slow now.
    #[test]
    fn windows_pass() {
        let mut slowest = Slowest::new(2, 1000);
        offer(&mut slowest, 9, 5000);
        offer(&mut slowest, 3, 6000);
        assert_eq!(kept(&slowest), [9, 3], "the window before still shows");
        offer(&mut slowest, 2, 7000);
        assert_eq!(kept(&slowest), [3, 2]);
        offer(&mut slowest, 1, 20_000);
        assert_eq!(kept(&slowest), [1], "both windows were over");
    }

    /// The bug: a broker that nobody asked any more told the slowest requests of yesterday for
    /// those of the last minute.
    #[test]
    fn what_is_long_over_is_not_told() {
        let mut slowest = Slowest::new(2, 1000);
        offer(&mut slowest, 9, 5000);
        assert_eq!(kept_at(&slowest, 6999), [9]);
        assert!(kept_at(&slowest, 7000).is_empty());
    }

    /// The bug: after the clock was set back by an hour, the slowest of that hour stayed.
    #[test]
    fn a_clock_set_back_begins_a_window() {
        let mut slowest = Slowest::new(1, 1000);
        offer(&mut slowest, 9, 3_600_000);
        offer(&mut slowest, 2, 10_000);
        offer(&mut slowest, 3, 11_000);
        assert_eq!(kept_at(&slowest, 11_000), [3, 2]);
    }

    /// Clients choose their names; we choose how much of them we keep.
    #[test]
    fn long_names_are_cut_between_characters() {
        let whose = Whose::new(&"ä".repeat(100), "t", 0, 1);
        assert_eq!(whose.client_id.len(), 64);
        assert_eq!(Whose::new(&format!("x{}", "ä".repeat(100)), "t", 0, 1).client_id.len(), 63);
    }
}
