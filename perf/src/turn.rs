//! A shard's turns: how busy it is, and what ran in the turns that took too long.
//!
//! A turn is stamped at its beginning, after each of its parts and at its end. One above the
//! limit is a *stall*: whoever waited for this shard waited that long. The latest stalls are kept
//! with the time and number of things of each part.

use std::collections::VecDeque;
use std::time::Duration;

use tidemill_runtime::clock::TickScale;

use crate::MEASURING;

/// A part of a turn.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u8)]
pub enum Work {
    /// Completions taken from the ring.
    Completions,
    /// Messages of other shards.
    Messages,
    /// Deadlines and other work of passing time.
    Time,
    /// Requests taken off connections, decoded and dispatched.
    Requests,
    /// Logs, journal and disk stepped.
    Storage,
    /// Messages sent to other shards.
    Send,
    /// Replies handed to sockets.
    Replies,
    /// Whatever came after the last part that was told.
    Rest,
}

/// How many parts there are.
pub const WORKS: usize = 8;

impl Work {
    /// All parts, in the order of a turn.
    pub const ALL: [Self; WORKS] = [
        Self::Completions,
        Self::Messages,
        Self::Time,
        Self::Requests,
        Self::Storage,
        Self::Send,
        Self::Replies,
        Self::Rest,
    ];

    /// Its name in every output.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Completions => "completions",
            Self::Messages => "messages",
            Self::Time => "time",
            Self::Requests => "requests",
            Self::Storage => "storage",
            Self::Send => "send",
            Self::Replies => "replies",
            Self::Rest => "rest",
        }
    }
}

/// How many stalls are kept.
const STALLS_KEPT: usize = 32;

/// A turn above the limit.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Stall {
    /// When it ended, in milliseconds since the Unix epoch.
    pub ended_unix_ms: i64,
    /// How long it took.
    pub turn_ns: u64,
    /// Nanoseconds and things done of each part, by [`Work`].
    pub parts: [(u64, u32); WORKS],
}

/// The end of a part of a turn.
#[derive(Clone, Copy, Debug)]
struct Mark {
    work: Work,
    items: u32,
    at: u64,
}

/// Watches the turns of one shard. What its parts came to is worked out for stalls only.
#[derive(Clone, Debug)]
pub struct TurnWatch {
    scale: TickScale,
    limit_ticks: u64,
    begun: u64,
    /// The parts of this turn so far, and how many those are.
    marks: [Mark; WORKS],
    marked: usize,
    turns: u64,
    busy_ticks: u64,
    longest_ticks: u64,
    stalls: u64,
    latest: VecDeque<Stall>,
}

impl TurnWatch {
    /// No turn yet; one above `limit` will be a stall.
    #[must_use]
    pub fn new(scale: TickScale, limit: Duration) -> Self {
        Self {
            scale,
            limit_ticks: ticks_of(scale, limit),
            begun: 0,
            marks: [Mark { work: Work::Rest, items: 0, at: 0 }; WORKS],
            marked: 0,
            turns: 0,
            busy_ticks: 0,
            longest_ticks: 0,
            stalls: 0,
            latest: VecDeque::with_capacity(STALLS_KEPT),
        }
    }

    /// A turn begins at this stamp.
    #[inline]
    pub fn begin(&mut self, now: u64) {
        self.begun = now;
        self.marked = 0;
    }

    /// A part of it ends at this stamp: it did so many things. Met twice, it adds up. After as many
    /// as there are kinds of parts, what follows counts as the rest.
    #[inline]
    pub fn ran(&mut self, work: Work, items: usize, now: u64) {
        if !MEASURING {
            return;
        }
        if let Some(mark) = self.marks.get_mut(self.marked) {
            *mark = Mark { work, items: items as u32, at: now };
            self.marked += 1;
        }
    }

    /// The turn ends at this stamp. A stall is returned, and kept.
    #[inline]
    pub fn end(&mut self, now: u64, wall_ms: i64) -> Option<Stall> {
        if !MEASURING {
            return None;
        }
        let ticks = now.saturating_sub(self.begun);
        self.turns += 1;
        self.busy_ticks = self.busy_ticks.wrapping_add(ticks);
        self.longest_ticks = self.longest_ticks.max(ticks);
        (self.limit_ticks < ticks).then(|| self.stalled(now, ticks, wall_ms))
    }

    #[cold]
    fn stalled(&mut self, now: u64, ticks: u64, wall_ms: i64) -> Stall {
        let parts = self.parts(now).map(|(ticks, items)| (self.scale.nanos(ticks), items));
        let stall = Stall { ended_unix_ms: wall_ms, turn_ns: self.scale.nanos(ticks), parts };
        self.stalls += 1;
        if self.latest.len() == STALLS_KEPT {
            self.latest.pop_front();
        }
        self.latest.push_back(stall);
        stall
    }

    /// Ticks and things done of each part of the turn that ends at this stamp.
    fn parts(&self, now: u64) -> [(u64, u32); WORKS] {
        let mut parts = [(0, 0); WORKS];
        let rest = Mark { work: Work::Rest, items: 0, at: now };
        let mut last = self.begun;
        for mark in self.marks[..self.marked].iter().chain([&rest]) {
            let part: &mut (u64, u32) = &mut parts[mark.work as usize];
            part.0 += mark.at.saturating_sub(last);
            part.1 = part.1.saturating_add(mark.items);
            // Another core's counter may lag by a few ticks; time does not go back for it.
            last = last.max(mark.at);
        }
        parts
    }

    /// The counts since the start.
    #[must_use]
    pub fn read(&self) -> Turns {
        Turns {
            turns: self.turns,
            busy_ns: self.scale.nanos(self.busy_ticks),
            longest_ns: self.scale.nanos(self.longest_ticks),
            stalls: self.stalls,
        }
    }

    /// The latest stalls, the latest last.
    #[must_use]
    pub fn stalls(&self) -> Vec<Stall> {
        self.latest.iter().copied().collect()
    }
}

/// What a shard's turns came to since the start.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Turns {
    /// How many there were.
    pub turns: u64,
    /// Nanoseconds in all of them.
    pub busy_ns: u64,
    /// The longest one.
    pub longest_ns: u64,
    /// Those above the limit.
    pub stalls: u64,
}

/// How many ticks `limit` lasts.
fn ticks_of(scale: TickScale, limit: Duration) -> u64 {
    let nanos_per_tick_q32 = u128::from(scale.nanos(1 << 32)).max(1);
    u64::try_from((limit.as_nanos() << 32) / nanos_per_tick_q32).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn watch(limit_us: u64) -> (TurnWatch, u64) {
        let scale = TickScale::measure();
        let limit = Duration::from_micros(limit_us);
        (TurnWatch::new(scale, limit), ticks_of(scale, Duration::from_micros(1)))
    }

    /// A turn above the limit is told with what ran in it; the others are only counted.
    #[test]
    fn a_turn_above_the_limit_says_what_ran_in_it() {
        let (mut watch, us) = watch(100);
        watch.begin(0);
        watch.ran(Work::Completions, 3, 20 * us);
        assert_eq!(watch.end(30 * us, 1), None);

        watch.begin(1000 * us);
        watch.ran(Work::Completions, 2, 1010 * us);
        watch.ran(Work::Storage, 1, 1190 * us);
        let stall = watch.end(1200 * us, 7).expect("twice the limit");
        assert_eq!(stall.ended_unix_ms, 7);
        let (storage_ns, items) = stall.parts[Work::Storage as usize];
        assert!(storage_ns.abs_diff(180_000) < 2_000, "{storage_ns}");
        assert_eq!(items, 1);
        let whole: u64 = stall.parts.iter().map(|(ns, _)| ns).sum();
        assert!(whole.abs_diff(stall.turn_ns) < 10, "parts add up to the turn");

        let turns = watch.read();
        assert_eq!((turns.turns, turns.stalls), (2, 1));
        assert!(turns.busy_ns.abs_diff(230_000) < 3_000, "{turns:?}");
        assert_eq!(watch.stalls(), [stall]);
    }

    /// A shard that stalls for ever tells of the latest stalls, and counts all.
    #[test]
    fn the_latest_stalls_are_kept() {
        let (mut watch, us) = watch(1);
        for i in 0..100 {
            watch.begin(0);
            watch.end(10 * us, i);
        }
        let kept = watch.stalls();
        assert_eq!((kept.len(), watch.read().stalls), (STALLS_KEPT, 100));
        assert_eq!(kept.last().map(|stall| stall.ended_unix_ms), Some(99));
    }
}
