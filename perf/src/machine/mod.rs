//! What this machine can do at most: programs of our own on the same ring, sockets and mesh that
//! the broker uses, and nothing else. A figure of the broker beside them is a share of the limit.
//!
//! The results are kept in a TOML file ([`limits`]); beside them a rate is a percentage ([`share`]).
//!
//! Start reading at [`Probe`].

pub mod cpu;
pub mod disk;
pub mod limits;
pub mod mesh;
pub mod net;
pub mod share;

use std::io;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use crate::report::is_told;
use crate::units;

/// What came of one case.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Measured {
    /// What was done.
    pub name: String,
    /// How often it was done.
    pub count: u64,
    /// Bytes moved by all of them; 0 where that says nothing.
    pub bytes: u64,
    /// How long it took in all.
    pub elapsed: Duration,
    /// CPU time of this process meanwhile.
    pub cpu: Duration,
    /// Nanoseconds of each; none where single ones are too short to be timed.
    pub latency: Option<Histogram<u64>>,
}

impl Measured {
    /// How many per second.
    #[must_use]
    pub fn per_second(&self) -> f64 {
        self.count as f64 / self.elapsed.as_secs_f64().max(1e-9)
    }

    /// Bytes per second.
    #[must_use]
    pub fn bytes_per_second(&self) -> f64 {
        self.bytes as f64 / self.elapsed.as_secs_f64().max(1e-9)
    }

    /// Its tag in a log, below the probe's name.
    #[must_use]
    pub fn tag(&self, probe: &str) -> String {
        let safe = |c: char| if c.is_alphanumeric() { c } else { '-' };
        let name: String = self.name.chars().map(safe).collect();
        format!("{probe}.{name}")
    }

    /// One line for people.
    #[must_use]
    pub fn to_text(&self) -> String {
        let mut parts = Vec::new();
        if 0 < self.bytes {
            parts.push(format!("{:>10}", units::figure(self.bytes_per_second(), "B/s")));
        }
        parts.push(format!("{:>9}", units::figure(self.per_second(), "/s")));
        match &self.latency {
            Some(latency) => {
                // Of too few samples a high quantile would be chance.
                let at = |quantile| match is_told(latency, quantile) {
                    true => units::nanos(latency.value_at_quantile(quantile) as f64),
                    false => "–".to_owned(),
                };
                let (p50, p99, p999) = (at(0.5), at(0.99), at(0.999));
                parts.push(format!("p50 {p50:>8}  p99 {p99:>8}  p99.9 {p999:>8}"));
            }
            None => parts.push(format!("{} each", units::nanos(1e9 / self.per_second().max(1e-9)))),
        }
        format!("{:<28} {}", self.name, parts.join("  "))
    }
}

/// How far a probe has come.
#[derive(Debug)]
pub enum Step<'a> {
    /// A case begins, or goes on: its name, and the share of the whole that is done.
    Runs(&'a str, f64),
    /// A case has ended.
    Ended(&'a Measured),
}

/// Told of each step.
pub type Watcher<'a> = &'a mut dyn FnMut(Step<'_>);

/// What can be measured.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Probe {
    /// Direct reads and writes of a file.
    Disk,
    /// TCP over loopback.
    Net,
    /// Messages between two shards.
    Mesh,
    /// Checksums, copies, system calls, recording.
    Cpu,
}

impl Probe {
    /// Its name in every output.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Disk => "disk",
            Self::Net => "net",
            Self::Mesh => "mesh",
            Self::Cpu => "cpu",
        }
    }
}

/// Waits for what the shards report, telling the watcher how time passes; the report.
fn await_report<T>(
    reports: &Receiver<Result<T, String>>,
    name: &str,
    time: &Timetable,
    watch: Watcher<'_>,
) -> io::Result<T> {
    const LOOK: Duration = Duration::from_millis(100);
    loop {
        match reports.recv_timeout(LOOK) {
            Ok(report) => return report.map_err(io::Error::other),
            Err(RecvTimeoutError::Timeout) => watch(Step::Runs(name, time.share())),
            Err(RecvTimeoutError::Disconnected) => {
                return Err(io::Error::other("the measuring shard ended without a word"));
            }
        }
    }
}

/// How much of the time planned has passed.
#[derive(Clone, Copy, Debug)]
struct Timetable {
    began: Instant,
    planned: Duration,
}

impl Timetable {
    fn of(planned: Duration) -> Self {
        Self { began: Instant::now(), planned }
    }

    fn share(&self) -> f64 {
        (self.began.elapsed().as_secs_f64() / self.planned.as_secs_f64().max(1e-3)).min(1.0)
    }
}

/// The first two cores of this process, for two shards that talk to each other.
fn two_cores() -> [Option<usize>; 2] {
    let cores = tidemill_runtime::topology::cores();
    match cores.as_slice() {
        [first, second, ..] => [Some(*first), Some(*second)],
        _ => [None, None],
    }
}
