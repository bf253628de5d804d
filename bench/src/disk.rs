//! The floor of the disk: durable direct writes to a prewritten file, and nothing else, by the
//! measuring kit's program.

use std::io;
use std::path::Path;
use std::time::Duration;

use hdrhistogram::Histogram;
use tidemill_perf::machine::disk::{self, Action, Case, Order};

/// What to write.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Bytes per write, a multiple of 4,096.
    pub write_bytes: usize,
    /// Writes under way at once.
    pub depth: usize,
    /// For how long.
    pub duration: Duration,
}

/// What came of it.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Bytes on stable storage.
    pub bytes: u64,
    /// For how long it took.
    pub elapsed: Duration,
    /// CPU time of this process meanwhile.
    pub cpu: Duration,
    /// Nanoseconds per write.
    pub latency: Histogram<u64>,
}

/// Writes as `plan` says, in `dir`.
pub fn measure(dir: &Path, plan: Plan) -> io::Result<Outcome> {
    let case = Case {
        action: Action::DurableWrite,
        order: Order::Sequential,
        block_bytes: plan.write_bytes,
        depth: plan.depth,
        duration: plan.duration,
    };
    let measured = disk::measure(dir, &[case], &mut |_| ())?;
    let measured = measured.into_iter().next().expect("one case has one outcome");
    Ok(Outcome {
        bytes: measured.bytes,
        elapsed: measured.elapsed,
        cpu: measured.cpu,
        latency: measured.latency.expect("each write is timed"),
    })
}
