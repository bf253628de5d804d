//! What a process has used so far: CPU time, by thread if it is this one, and bytes written to
//! devices, as the kernel counts.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A reading of one process.
#[derive(Clone, Copy, Debug, Default)]
pub struct Usage {
    /// CPU time of all its threads, user and system.
    pub cpu: Duration,
    /// Bytes it caused to be written to devices.
    pub write_bytes: u64,
    /// Memory it has resident now.
    pub resident_bytes: u64,
}

impl Usage {
    /// A reading of the process `pid` now; none if there is no such process.
    #[must_use]
    pub fn of(pid: u32) -> Option<Self> {
        let cpu = cpu_in(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)?;
        let read = |file: &str| fs::read_to_string(format!("/proc/{pid}/{file}")).ok();
        // The counts of I/O are readable by the same user only.
        let io = read("io").unwrap_or_default();
        let write_bytes = number_after(&io, "\nwrite_bytes:").unwrap_or(0);
        let status = read("status").unwrap_or_default();
        let resident_bytes = number_after(&status, "\nVmRSS:").unwrap_or(0) * 1024;
        Some(Self { cpu, write_bytes, resident_bytes })
    }

    /// What was used since `earlier`; memory as of now. A process that ended and came back has
    /// begun to count anew.
    #[must_use]
    pub fn since(self, earlier: Self) -> Self {
        Self {
            cpu: self.cpu.saturating_sub(earlier.cpu),
            write_bytes: self.write_bytes.saturating_sub(earlier.write_bytes),
            resident_bytes: self.resident_bytes,
        }
    }
}

/// What the load generator itself used over some time.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct OwnUse {
    /// CPU time, of all threads of all processes.
    pub cpu: Duration,
    /// The thread that had the most to do.
    pub busiest: ThreadUse,
}

/// What a thread did over some time; the rest of it, it slept.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct ThreadUse {
    /// It ran.
    pub ran: Duration,
    /// It could have run, and had no core.
    pub waited: Duration,
}

impl ThreadUse {
    /// How long it had something to do.
    #[must_use]
    pub fn awake(self) -> Duration {
        self.ran + self.waited
    }
}

impl OwnUse {
    /// Adds another process's, of the same time.
    pub fn merge(&mut self, other: Self) {
        self.cpu += other.cpu;
        if self.busiest.awake() < other.busiest.awake() {
            self.busiest = other.busiest;
        }
    }

    /// Adds what was used afterwards.
    pub fn add_later(&mut self, later: Self) {
        self.cpu += later.cpu;
        self.busiest.ran += later.busiest.ran;
        self.busiest.waited += later.busiest.waited;
    }
}

/// A reading of this process, by thread; of those that have ended, what was known last.
#[derive(Clone, Debug, Default)]
pub struct Threads(BTreeMap<String, ThreadUse>);

impl Threads {
    /// A reading of this process now; empty where the kernel does not tell.
    #[must_use]
    pub fn of_this_process() -> Self {
        Self(threads_of("self").unwrap_or_default())
    }

    /// A later reading.
    #[must_use]
    pub fn read_on(&self) -> Self {
        let mut all = self.0.clone();
        all.extend(threads_of("self").unwrap_or_default());
        Self(all)
    }

    /// What was used since `earlier`.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> OwnUse {
        let mut all = OwnUse::default();
        for (id, now) in &self.0 {
            let before = earlier.0.get(id).copied().unwrap_or_default();
            let ran = now.ran.saturating_sub(before.ran);
            let waited = now.waited.saturating_sub(before.waited);
            all.merge(OwnUse { cpu: ran, busiest: ThreadUse { ran, waited } });
        }
        all
    }
}

/// CPU time in a process's `stat`, to 10 ms. Threads that have ended are in it, as they would not be in
/// a sum over its threads.
fn cpu_in(stat: &str) -> Option<Duration> {
    /// Ticks are hundredths of a second, whatever the kernel's own.
    const MS_PER_TICK: u64 = 10;
    // The program's name stands in parentheses and may hold anything; the times are the twelfth and
    // thirteenth field behind it.
    let (_, fields) = stat.rsplit_once(')')?;
    let ticks: Vec<u64> =
        fields.split_whitespace().skip(11).take(2).map_while(|ticks| ticks.parse().ok()).collect();
    let [user, system] = ticks[..] else { return None };
    Some(Duration::from_millis((user + system) * MS_PER_TICK))
}

/// The scheduler's own counts, in nanoseconds, of each thread.
fn threads_of(process: &str) -> Option<BTreeMap<String, ThreadUse>> {
    let mut threads = BTreeMap::new();
    for entry in fs::read_dir(format!("/proc/{process}/task")).ok()? {
        let path = entry.ok()?.path();
        // A thread may end while we look.
        let Ok(text) = fs::read_to_string(path.join("schedstat")) else { continue };
        let mut numbers = text.split_whitespace().map_while(|number| number.parse().ok());
        let (ran, waited) = (numbers.next()?, numbers.next()?);
        let (ran, waited) = (Duration::from_nanos(ran), Duration::from_nanos(waited));
        let id = path.file_name()?.to_string_lossy().into_owned();
        threads.insert(id, ThreadUse { ran, waited });
    }
    Some(threads)
}

fn number_after(text: &str, label: &str) -> Option<u64> {
    let rest = &text[text.find(label)? + label.len()..];
    rest.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    /// A process's name may hold what separates the fields.
    #[test]
    fn the_time_of_a_process_is_found_behind_its_name() {
        let stat = "7 (a) R) 9) S 1 7 7 0 -1 4194560 100 0 0 0 150 25 3 4 20 0 8 0";
        assert_eq!(cpu_in(stat), Some(Duration::from_millis(1750)));
        assert_eq!(cpu_in("7 (a) S 1"), None);
    }

    /// A thread that has ended takes its time along in the sum over threads, not here.
    #[test]
    fn the_time_of_ended_threads_counts() {
        let before = Usage::of(std::process::id()).unwrap();
        let spin = || {
            let begun = std::time::Instant::now();
            while begun.elapsed() < Duration::from_millis(200) {
                std::hint::black_box(0);
            }
            // What it really had: a busy machine may have given it less.
            fs::read_to_string("/proc/thread-self/schedstat").unwrap()
        };
        let told = std::thread::spawn(spin).join().unwrap();
        let ran: u64 = told.split_whitespace().next().unwrap().parse().unwrap();
        let used = Usage::of(std::process::id()).unwrap().since(before);
        assert!(Duration::from_nanos(ran) <= used.cpu + Duration::from_millis(20), "{used:?}");
    }

    /// This process has used some CPU and some memory, and more of the former later; all of it by
    /// some thread.
    #[test]
    fn a_process_is_read_and_a_missing_one_is_none() {
        let me = std::process::id();
        let (before, threads) = (Usage::of(me).unwrap(), Threads::of_this_process());
        // The kernel counts both at its ticks, and not at the same ones.
        let (begun, mut sum) = (Instant::now(), 0u64);
        let mut has_risen = false;
        while !has_risen && begun.elapsed() < Duration::from_secs(60) {
            sum = (0..100_000).fold(sum, |sum, i| sum.wrapping_mul(31).wrapping_add(i));
            let cpu = Usage::of(me).unwrap().since(before).cpu;
            let ran = Threads::of_this_process().since(&threads).busiest.ran;
            has_risen = !cpu.is_zero() && !ran.is_zero();
        }
        assert!(has_risen, "neither has risen in a minute of work");
        assert!(0 < before.resident_bytes, "{sum}");
        assert!(Usage::of(u32::MAX).is_none());
        let used = Threads::of_this_process().since(&threads);
        assert!(used.busiest.ran <= used.cpu, "{used:?}");
    }
}
