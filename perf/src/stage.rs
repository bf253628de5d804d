//! The stages of a request, and stamping them.
//!
//! ```text
//! produce: receive, decode, route, append, durable, replicate, respond
//! fetch:   receive, decode, route, wait, cache or disk, respond
//! group, transaction: receive, decode, wait or durable, work, respond
//! ```
//!
//! A stage lasts from the end of those before it, in the order of [`Stage::ALL`], to its own end:
//! [`Stamps::end`]. So the stages of a request add up to its total. One that is met again lasts to
//! its last end: a fetch that looks, waits and looks again has waited from its first look on, and
//! looked once. Time is the processor's counter, in ticks ([`tidemill_runtime::clock::stamp`]), passed in by the caller:
//! several requests that end a stage at the same point may share one reading.

use crate::MEASURING;

/// A part of the way of a request through the broker.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
#[repr(u8)]
pub enum Stage {
    /// Its first byte is here, its last is not yet.
    Receive,
    /// From bytes to a request.
    Decode,
    /// On its way to the shard that owns the partition, and into the hands of that.
    Route,
    /// Checked, numbered and put into the log's tail and the commit window.
    Append,
    /// Until its window is on stable storage.
    Durable,
    /// Until the in-sync replicas have it.
    Replicate,
    /// Parked until there is something to answer.
    Wait,
    /// Read from memory.
    Cache,
    /// Read from the device.
    Disk,
    /// Whatever else the request needed.
    Work,
    /// Until the socket took the last byte of the reply.
    Respond,
}

/// How many stages there are.
pub const STAGES: usize = 11;

impl Stage {
    /// All stages, in the order a request meets them.
    pub const ALL: [Self; STAGES] = [
        Self::Receive,
        Self::Decode,
        Self::Route,
        Self::Append,
        Self::Durable,
        Self::Replicate,
        Self::Wait,
        Self::Cache,
        Self::Disk,
        Self::Work,
        Self::Respond,
    ];

    /// Its name in every output.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Receive => "receive",
            Self::Decode => "decode",
            Self::Route => "route",
            Self::Append => "append",
            Self::Durable => "durable",
            Self::Replicate => "replicate",
            Self::Wait => "wait",
            Self::Cache => "cache",
            Self::Disk => "disk",
            Self::Work => "work",
            Self::Respond => "respond",
        }
    }
}

/// What a request asks for.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
#[repr(u8)]
pub enum Kind {
    /// Records to be appended.
    Produce,
    /// Records to be read.
    Fetch,
    /// Something of a group of consumers: to be a member, to live on, to keep offsets.
    Group,
    /// Something of a transaction, or for a producer to get its id.
    Transaction,
    /// Anything else.
    Other,
}

/// How many kinds there are.
pub const KINDS: usize = 5;

impl Kind {
    /// All kinds.
    pub const ALL: [Self; KINDS] =
        [Self::Produce, Self::Fetch, Self::Group, Self::Transaction, Self::Other];

    /// Its name in every output.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Produce => "produce",
            Self::Fetch => "fetch",
            Self::Group => "group",
            Self::Transaction => "transaction",
            Self::Other => "other",
        }
    }
}

/// How many stages are kept of each request.
const KEPT: usize = if MEASURING { STAGES } else { 0 };

/// When a request came, and when each of its stages ended: stamped where it lies, with one store
/// each. What the stages took is worked out for those only of which somebody wants to know.
#[derive(Clone, Copy, Debug)]
pub struct Stamps {
    begun: u64,
    /// By stage; 0 until it is met.
    ended: [u64; KEPT],
    kind: Kind,
}

impl Stamps {
    /// A request begins at `now`.
    #[inline]
    #[must_use]
    pub fn begin(now: u64) -> Self {
        Self { begun: now, ended: [0; KEPT], kind: Kind::Other }
    }

    /// What it asks for, once that is known.
    #[inline]
    pub fn set_kind(&mut self, kind: Kind) {
        self.kind = kind;
    }

    /// What it asks for.
    #[inline]
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// `stage` ends at `now`, and the next one begins.
    #[inline]
    pub fn end(&mut self, stage: Stage, now: u64) {
        if MEASURING {
            self.ended[stage as usize] = now;
        }
    }

    /// Ticks spent in `stage`; none if it was not met, or took no time that shows.
    #[must_use]
    pub fn ticks(&self, stage: Stage) -> u64 {
        let found = self.spent().find(|(place, _)| *place == stage as usize);
        found.map_or(0, |(_, ticks)| ticks)
    }

    /// Each stage that took time, by its place in [`Stage::ALL`], with the ticks spent in it.
    pub fn spent(&self) -> impl Iterator<Item = (usize, u64)> {
        let mut last = self.begun;
        self.ended.iter().enumerate().filter_map(move |(place, &ended)| {
            let ticks = ended.saturating_sub(last);
            // Another core's counter may lag by a few ticks; time does not go back for it.
            last = last.max(ended);
            (0 < ticks).then_some((place, ticks))
        })
    }

    /// Ticks from the beginning to `ended`, when the last stage did. Signed, because that is what
    /// processors turn into floating point; below zero if another core's counter lags.
    #[inline]
    #[must_use]
    pub fn total_until(&self, ended: u64) -> i64 {
        ended.wrapping_sub(self.begun) as i64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Wherever a request's time went, it adds up to the whole.
    #[test]
    fn stages_add_up_to_the_total() {
        let mut stamps = Stamps::begin(1000);
        stamps.end(Stage::Receive, 1160);
        stamps.end(Stage::Decode, 1480);
        stamps.end(Stage::Cache, 1500);
        stamps.end(Stage::Wait, 9480);
        stamps.end(Stage::Cache, 9640);
        stamps.end(Stage::Respond, 9960);
        let spent: u64 = Stage::ALL.iter().map(|&stage| stamps.ticks(stage)).sum();
        assert_eq!(spent as i64, stamps.total_until(9960));
        assert_eq!(stamps.ticks(Stage::Wait), 8000, "from the first look on");
        assert_eq!(stamps.ticks(Stage::Cache), 160, "the last look");
    }

    /// What ended before the stages in front of it did has not held the request up by itself.
    #[test]
    fn a_look_before_a_long_wait_is_part_of_it() {
        let mut stamps = Stamps::begin(0);
        stamps.end(Stage::Cache, 20);
        stamps.end(Stage::Wait, 500);
        stamps.end(Stage::Respond, 600);
        let spent: Vec<_> = stamps.spent().collect();
        assert_eq!(spent, [(Stage::Wait as usize, 500), (Stage::Respond as usize, 100)]);
    }

    /// A counter behind ours counts as no time.
    #[test]
    fn absurd_times_are_bounded() {
        let mut stamps = Stamps::begin(1000);
        stamps.end(Stage::Route, 900);
        assert_eq!(stamps.ticks(Stage::Route), 0);
        assert_eq!(stamps.total_until(900), -100);
        stamps.end(Stage::Wait, u64::MAX);
        assert_eq!(stamps.ticks(Stage::Wait), u64::MAX - 1000);
    }
}
