//! The floor of the disk: durable direct writes to a prewritten file, and nothing else.

use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Sender, channel};
use std::time::Duration;

use bytes::Bytes;
use hdrhistogram::Histogram;
use tidemill_perf::histogram;
use tidemill_runtime::buffer::AlignedBuffer;
use tidemill_runtime::chores::BackgroundThread;
use tidemill_runtime::clock;
use tidemill_runtime::edge::{
    Chore, Completion, Done, Edge, FileId, Instant, Next, Op, OpenHow, Program, ShardId, Token,
};
use tidemill_runtime::ring::{RingConfig, RingEdge};
use tidemill_runtime::shard::{ShardPlan, run_shards};

/// The file written, below the directory given; removed at the end.
const FILE: &str = "tidemill-bench.floor";

/// How large the file is.
const FILE_BYTES: u64 = 256 << 20;

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
    /// The first write that failed, if any did.
    pub fault: Option<String>,
}

/// Writes as `plan` says, in `dir`.
pub fn measure(dir: &Path, plan: Plan) -> io::Result<Outcome> {
    let is_valid = 0 < plan.write_bytes && plan.write_bytes.is_multiple_of(4096) && 0 < plan.depth;
    if !is_valid {
        return Err(io::Error::other("writes are multiples of 4096 bytes, at least one at once"));
    }
    let (report, outcome) = channel();
    let make = move |_: ShardId| Writer::new(plan, report);
    let shard = ShardPlan { core: None, listeners: Vec::new(), make };
    let config = RingConfig::new(dir.to_owned());
    run_shards(&config, vec![shard], BackgroundThread::new(dir.to_owned()))?.join();
    let outcome = outcome.try_recv().map_err(io::Error::other)?;
    std::fs::remove_file(dir.join(FILE))?;
    match outcome.fault {
        Some(fault) => Err(io::Error::other(fault)),
        None => Ok(outcome),
    }
}

struct Writer {
    plan: Plan,
    bytes: Bytes,
    step: Step,
    next: u64,
    started: Vec<Instant>,
    free: VecDeque<usize>,
    began: Instant,
    cpu_before: Duration,
    outcome: Outcome,
    report: Sender<Outcome>,
}

enum Step {
    Begin,
    Making,
    Writing(FileId),
}

impl Writer {
    fn new(plan: Plan, report: Sender<Outcome>) -> Self {
        let mut buffer = AlignedBuffer::zeroed(plan.write_bytes);
        buffer.as_mut().fill(0xa5);
        let outcome = Outcome {
            bytes: 0,
            elapsed: Duration::ZERO,
            cpu: Duration::ZERO,
            latency: histogram::empty(),
            fault: None,
        };
        Self {
            plan,
            bytes: buffer.freeze(),
            step: Step::Begin,
            next: 0,
            started: vec![Instant::default(); plan.depth],
            free: (0..plan.depth).collect(),
            began: Instant::default(),
            cpu_before: Duration::ZERO,
            outcome,
            report,
        }
    }

    fn handle(&mut self, completion: Completion, now: Instant, edge: &mut RingEdge<()>) {
        let done = match completion.result {
            Ok(done) => done,
            Err(fault) => {
                self.outcome.fault = Some(format!("{fault:?}"));
                return;
            }
        };
        match (&self.step, done) {
            (Step::Begin, _) | (Step::Making, Done::Complete) => {
                let open = Op::Open { path: PathBuf::from(FILE), how: OpenHow::Write };
                edge.submit(Token(0), open);
            }
            (Step::Making, Done::Opened { file, .. }) => {
                self.step = Step::Writing(file);
                self.began = now;
                self.cpu_before = clock::cpu_time();
            }
            (Step::Writing(_), _) => {
                let place = completion.token.0 as usize;
                let nanos = now.since(self.started[place]).as_nanos();
                self.outcome.latency.saturating_record(nanos as u64);
                self.outcome.bytes += self.bytes.len() as u64;
                self.free.push_back(place);
            }
            (Step::Making, _) => {}
        }
    }

    fn write(&mut self, file: FileId, now: Instant, edge: &mut RingEdge<()>) {
        let size = self.bytes.len() as u64;
        while let Some(place) = self.free.pop_front() {
            let position = self.next % (FILE_BYTES / size).max(1) * size;
            self.next += 1;
            self.started[place] = now;
            let bytes = self.bytes.clone();
            let write = Op::Write { file, position, bytes, durable: true };
            edge.submit(Token(place as u64), write);
        }
    }

    fn finish(&mut self, now: Instant) -> Next {
        self.outcome.elapsed = now.since(self.began);
        self.outcome.cpu = clock::cpu_time().saturating_sub(self.cpu_before);
        // Fails only if nobody wants to know any more.
        drop(self.report.send(self.outcome.clone()));
        Next::Stop
    }
}

impl Program<RingEdge<()>> for Writer {
    fn turn(&mut self, edge: &mut RingEdge<()>) -> Next {
        let now = edge.now();
        if matches!(self.step, Step::Begin) {
            self.step = Step::Making;
            let size = FILE_BYTES.max(self.bytes.len() as u64);
            let prewrite = Chore::Prewrite { path: PathBuf::from(FILE), size };
            edge.submit(Token(0), Op::Chore(prewrite));
        }
        while let Some(completion) = edge.poll_completion() {
            self.handle(completion, now, edge);
        }
        if self.outcome.fault.is_some() {
            return self.finish(now);
        }
        let Step::Writing(file) = self.step else { return Next::Idle };
        if self.plan.duration <= now.since(self.began) {
            return if self.free.len() == self.plan.depth { self.finish(now) } else { Next::Idle };
        }
        self.write(file, now, edge);
        Next::Idle
    }
}
