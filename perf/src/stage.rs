//! The stages of a request, and stamping them.
//!
//! ```text
//! produce: receive, decode, route, append, durable, replicate, respond
//! fetch:   receive, decode, route, wait, cache or disk, respond
//! ```
//!
//! A stage lasts from the end of the one before it to its own end: [`Stamps::end`]. So the stages
//! of a request add up to its total, and a stage met twice adds up with itself. Time is the
//! processor's counter, in ticks ([`tidemill_runtime::clock::stamp`]), passed in by the caller:
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
    /// Anything else.
    Other,
}

/// How many kinds there are.
pub const KINDS: usize = 3;

impl Kind {
    /// All kinds.
    pub const ALL: [Self; KINDS] = [Self::Produce, Self::Fetch, Self::Other];

    /// Its name in every output.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Produce => "produce",
            Self::Fetch => "fetch",
            Self::Other => "other",
        }
    }
}

/// A stage's time is counted in units of so many ticks (a power of two): 31 bits then hold over
/// 20 s of a 3 GHz counter, in steps of about 10 ns.
const TICKS_PER_UNIT_LOG2: u32 = 5;

/// How many ticks a unit of a stage's time is.
pub(crate) const TICKS_PER_UNIT: u32 = 1 << TICKS_PER_UNIT_LOG2;

/// How many stages are kept of each request.
pub(crate) const KEPT: usize = if MEASURING { STAGES } else { 0 };

/// When a request came and where its time went. One cache line, stamped where it lies.
#[derive(Clone, Copy, Debug)]
pub struct Stamps {
    begun: u64,
    last: u64,
    /// In units, by stage. Signed, because that is what processors turn into floating point.
    spent: [i32; KEPT],
    kind: Kind,
}

const _: () = assert!(size_of::<Stamps>() <= 64);

impl Stamps {
    /// A request begins at `now`.
    #[inline]
    #[must_use]
    pub fn begin(now: u64) -> Self {
        Self { begun: now, last: now, spent: [0; KEPT], kind: Kind::Other }
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
        if !MEASURING {
            return;
        }
        let units = now.saturating_sub(self.last) >> TICKS_PER_UNIT_LOG2;
        let spent = &mut self.spent[stage as usize];
        *spent = (*spent as u64 + units).min(i32::MAX as u64) as i32;
        // Another core's counter may lag by a few ticks; time does not go back for it.
        self.last = self.last.max(now);
    }

    /// Ticks spent in `stage`; none if it was not met, or took no time that shows.
    #[inline]
    #[must_use]
    pub fn ticks(&self, stage: Stage) -> u64 {
        self.spent.get(stage as usize).map_or(0, |units| ticks(*units))
    }

    /// Each stage met, by its place in [`Stage::ALL`], with the ticks spent in it.
    pub fn spent(&self) -> impl Iterator<Item = (usize, u64)> {
        let met = self.spent.iter().enumerate().filter(|(_, units)| 0 < **units);
        met.map(|(place, units)| (place, ticks(*units)))
    }

    /// Each stage's time in units ([`TICKS_PER_UNIT`]), in the order of [`Stage::ALL`].
    #[inline]
    pub(crate) fn units(&self) -> &[i32; KEPT] {
        &self.spent
    }

    /// Ticks from the beginning to the end of the last stage.
    #[inline]
    #[must_use]
    pub fn total_ticks(&self) -> u64 {
        self.last - self.begun
    }
}

fn ticks(units: i32) -> u64 {
    (units as u64) << TICKS_PER_UNIT_LOG2
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
        stamps.end(Stage::Wait, 9480);
        stamps.end(Stage::Cache, 9640);
        stamps.end(Stage::Wait, 9960);
        let spent: u64 = Stage::ALL.iter().map(|&stage| stamps.ticks(stage)).sum();
        assert_eq!(spent, stamps.total_ticks());
        assert_eq!(stamps.ticks(Stage::Wait), 8320, "met twice");
    }

    /// A request that waits for hours saturates; a counter behind ours counts as no time.
    #[test]
    fn absurd_times_are_bounded() {
        let mut stamps = Stamps::begin(1000);
        stamps.end(Stage::Route, 900);
        assert_eq!(stamps.total_ticks(), 0);
        stamps.end(Stage::Wait, u64::MAX);
        stamps.end(Stage::Wait, u64::MAX);
        assert_eq!(stamps.ticks(Stage::Wait), ticks(i32::MAX));
    }
}
