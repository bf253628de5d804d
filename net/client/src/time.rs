//! Time as the client is told it: nanoseconds since a start that only the driver knows.

use std::time::Duration;

/// A moment. Drivers make it from their own clock; the parts without I/O only compare and add.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Instant {
    /// Nanoseconds since the driver's start.
    pub nanos: u64,
}

impl Instant {
    /// The moment so many nanoseconds after the driver's start.
    pub const fn from_nanos(nanos: u64) -> Instant {
        Instant { nanos }
    }

    /// This much later. Stops at the end of time, five hundred years on.
    #[must_use]
    pub fn plus(self, duration: Duration) -> Instant {
        let nanos = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        Instant { nanos: self.nanos.saturating_add(nanos) }
    }

    /// How long after `earlier` this is; nothing if it is not after it.
    pub fn since(self, earlier: Instant) -> Duration {
        Duration::from_nanos(self.nanos.saturating_sub(earlier.nanos))
    }
}

/// The earlier of two moments that may not come.
pub(crate) fn earlier(left: Option<Instant>, right: Option<Instant>) -> Option<Instant> {
    match (left, right) {
        (Some(left), Some(right)) => Some(left.min(right)),
        (left, right) => left.or(right),
    }
}
