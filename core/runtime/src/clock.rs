//! Time: the monotonic clock of all shards, and ticks that cost next to nothing.
//!
//! [`monotonic`] and [`wall_clock_ms`] ask the kernel (through the vDSO, some 25 ns); a shard asks
//! once per turn. [`stamp`] reads the processor's own counter (some 10 ns) and is meant for the
//! stages of a request; [`TickScale`] turns the difference of two stamps into nanoseconds.
//!
//! Stamps taken on two cores are comparable: the counter is used only where the processor says
//! that it runs at one rate in all states, else the monotonic clock stands in.

use std::sync::OnceLock;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::edge::Instant;

/// How long a scale is measured at the least: reading both clocks is then off by below 0.01 %.
const SCALE_NANOS_MIN: u64 = 1_000_000;

/// The monotonic time now (CLOCK_MONOTONIC), the same for all shards.
#[must_use]
pub fn monotonic() -> Instant {
    Instant { nanos: read(libc::CLOCK_MONOTONIC) }
}

/// CPU time this process has used, all threads, user and system.
#[must_use]
pub fn cpu_time() -> Duration {
    Duration::from_nanos(read(libc::CLOCK_PROCESS_CPUTIME_ID))
}

fn read(clock: libc::clockid_t) -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a valid place for one timespec.
    let result = unsafe { libc::clock_gettime(clock, &raw mut time) };
    assert!(result == 0, "these clocks exist on every Linux");
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// Milliseconds since the Unix epoch; 0 for a clock set before it.
#[must_use]
pub fn wall_clock_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |past| past.as_millis() as i64)
}

/// A cheap reading of time in ticks of unspecified length, for differences only.
#[inline]
#[must_use]
pub fn stamp() -> u64 {
    #[cfg(target_arch = "x86_64")]
    if counter_is_steady() {
        // SAFETY: every x86-64 processor has this counter, and Linux lets programs read it.
        return unsafe { std::arch::x86_64::_rdtsc() };
    }
    monotonic().nanos
}

/// The cheapest way to take stamps on this machine, found out once by whoever takes many.
#[derive(Clone, Copy, Debug)]
pub struct StampClock {
    /// None reads the processor's counter, without a call.
    read: Option<fn() -> u64>,
}

impl StampClock {
    /// The clock that [`stamp`] reads.
    #[must_use]
    pub fn cheapest() -> Self {
        #[cfg(target_arch = "x86_64")]
        if counter_is_steady() {
            return Self { read: None };
        }
        Self::of(stamp)
    }

    /// Another one, for tests and simulations.
    #[must_use]
    pub fn of(read: fn() -> u64) -> Self {
        Self { read: Some(read) }
    }

    /// See [`stamp`].
    #[inline]
    #[must_use]
    pub fn stamp(self) -> u64 {
        match self.read {
            Some(read) => read(),
            #[cfg(target_arch = "x86_64")]
            // SAFETY: every x86-64 processor has this counter, and Linux lets programs read it.
            None => unsafe { std::arch::x86_64::_rdtsc() },
            #[cfg(not(target_arch = "x86_64"))]
            None => stamp(),
        }
    }
}

/// How long a tick of [`stamp`] is.
#[derive(Clone, Copy, Debug)]
pub struct TickScale {
    /// Nanoseconds per tick, as a fixed-point number with 32 binary places.
    nanos_per_tick_q32: u64,
}

impl TickScale {
    /// Compares the two clocks, over at least a millisecond since the first call to this.
    #[must_use]
    pub fn measure() -> Self {
        static START: OnceLock<(u64, u64)> = OnceLock::new();
        let (start_ticks, start_nanos) = *START.get_or_init(read_both);
        loop {
            let (ticks, nanos) = read_both();
            if SCALE_NANOS_MIN <= nanos - start_nanos && start_ticks < ticks {
                let ratio =
                    (u128::from(nanos - start_nanos) << 32) / u128::from(ticks - start_ticks);
                return Self { nanos_per_tick_q32: ratio as u64 };
            }
            std::hint::spin_loop();
        }
    }

    /// How many nanoseconds a tick lasts.
    #[must_use]
    pub fn nanos_per_tick(self) -> f64 {
        self.nanos_per_tick_q32 as f64 / (1u64 << 32) as f64
    }

    /// `ticks`, the difference of two stamps, in nanoseconds.
    #[inline]
    #[must_use]
    pub fn nanos(self, ticks: u64) -> u64 {
        ((u128::from(ticks) * u128::from(self.nanos_per_tick_q32)) >> 32) as u64
    }
}

/// Both clocks at the same time: of a few attempts the one that took the shortest, so that being
/// interrupted in between does no harm.
fn read_both() -> (u64, u64) {
    const ATTEMPTS: usize = 8;
    let attempt = |_| {
        let before = stamp();
        let nanos = monotonic().nanos;
        let took = stamp().saturating_sub(before);
        (took, (before + took / 2, nanos))
    };
    (0..ATTEMPTS).map(attempt).min().map_or((0, 0), |(_, both)| both)
}

/// Whether the counter runs at one rate in all states of the processor ("invariant TSC").
#[cfg(target_arch = "x86_64")]
#[inline]
fn counter_is_steady() -> bool {
    static STEADY: OnceLock<bool> = OnceLock::new();
    *STEADY.get_or_init(|| {
        use std::arch::x86_64::__cpuid;
        const POWER_LEAF: u32 = 0x8000_0007;
        const INVARIANT_TSC: u32 = 1 << 8;
        POWER_LEAF <= __cpuid(0x8000_0000).eax && __cpuid(POWER_LEAF).edx & INVARIANT_TSC != 0
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_monotonic_clock_never_goes_back() {
        let mut last = monotonic();
        for _ in 0..1_000 {
            let now = monotonic();
            assert!(last <= now);
            last = now;
        }
    }

    #[test]
    fn ticks_measured_in_nanoseconds_agree_with_the_monotonic_clock() {
        let scale = TickScale::measure();
        let (start_ticks, start_nanos) = read_both();
        let (mut ticks, mut nanos) = read_both();
        while nanos - start_nanos < 2_000_000 {
            (ticks, nanos) = read_both();
        }
        let by_ticks = scale.nanos(ticks - start_ticks);
        let by_clock = nanos - start_nanos;
        // A machine that stops us between two readings makes them differ; 20 % is far above that
        // and far below a wrong unit.
        assert!(by_ticks.abs_diff(by_clock) < by_clock / 5, "{by_ticks} against {by_clock} ns");
    }

    #[test]
    fn the_wall_clock_is_in_milliseconds_of_this_century() {
        assert!(946_684_800_000 < wall_clock_ms());
        assert!(wall_clock_ms() < 4_102_444_800_000);
    }
}
