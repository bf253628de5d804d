//! What a process has used so far: CPU time and bytes written to devices, as the kernel counts.

use std::fs;
use std::time::Duration;

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
        let cpu = cpu_of(pid)?;
        let read = |file: &str| fs::read_to_string(format!("/proc/{pid}/{file}")).ok();
        // The counts of I/O are readable by the same user only.
        let io = read("io").unwrap_or_default();
        let write_bytes = number_after(&io, "\nwrite_bytes:").unwrap_or(0);
        let status = read("status").unwrap_or_default();
        let resident_bytes = number_after(&status, "\nVmRSS:").unwrap_or(0) * 1024;
        Some(Self { cpu, write_bytes, resident_bytes })
    }

    /// What was used since `earlier`; memory as of now.
    #[must_use]
    pub fn since(self, earlier: Self) -> Self {
        Self {
            cpu: self.cpu.saturating_sub(earlier.cpu),
            write_bytes: self.write_bytes.saturating_sub(earlier.write_bytes),
            resident_bytes: self.resident_bytes,
        }
    }
}

/// The scheduler's own count, in nanoseconds, summed over the threads.
fn cpu_of(pid: u32) -> Option<Duration> {
    let mut nanos = 0;
    for thread in fs::read_dir(format!("/proc/{pid}/task")).ok()? {
        // A thread may end while we look.
        let Ok(text) = fs::read_to_string(thread.ok()?.path().join("schedstat")) else { continue };
        nanos += text.split_whitespace().next()?.parse::<u64>().ok()?;
    }
    Some(Duration::from_nanos(nanos))
}

fn number_after(text: &str, label: &str) -> Option<u64> {
    let rest = &text[text.find(label)? + label.len()..];
    rest.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// This process has used some CPU and some memory, and more of the former later.
    #[test]
    fn a_process_is_read_and_a_missing_one_is_none() {
        let me = std::process::id();
        let before = Usage::of(me).unwrap();
        let mut sum = 0u64;
        while Usage::of(me).unwrap().since(before).cpu < Duration::from_millis(1) {
            sum = (0..100_000).fold(sum, |sum, i| sum.wrapping_mul(31).wrapping_add(i));
        }
        assert!(0 < before.resident_bytes, "{sum}");
        assert!(Usage::of(u32::MAX).is_none());
    }
}
