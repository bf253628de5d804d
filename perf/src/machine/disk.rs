//! What the disk can do: direct reads and writes of one prewritten file, durable ones among them,
//! by a program that does nothing else.
//!
//! The file is written in full first, so that no write allocates. Reads go past the page cache;
//! whatever cache the device itself has, they do not.

use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Sender, channel};
use std::time::Duration;

use bytes::Bytes;
use hdrhistogram::Histogram;
use tidemill_runtime::buffer::AlignedBuffer;
use tidemill_runtime::chores::BackgroundThread;
use tidemill_runtime::clock;
use tidemill_runtime::edge::{
    Chore, Completion, Done, Edge, Fault, FileId, Instant, Next, Op, OpenHow, Program, ShardId,
    Token,
};
use tidemill_runtime::ring::{RingConfig, RingEdge};
use tidemill_runtime::shard::{ShardPlan, run_shards};

use super::{Measured, Step, Timetable, Watcher, await_report};
use crate::counts::empty;

/// The file used, below the directory given; removed at the end.
const FILE: &str = "tidemill-perf.probe";

/// How large the file is.
const FILE_BYTES: u64 = 256 << 20;

/// What an operation does.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Action {
    /// Read past the page cache.
    Read,
    /// Write past the page cache.
    Write,
    /// Write, and be on stable storage when it completes.
    DurableWrite,
}

/// Where the next operation is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Order {
    /// Behind the one before.
    Sequential,
    /// Anywhere.
    Random,
}

/// One case.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Case {
    /// What an operation does.
    pub action: Action,
    /// Where.
    pub order: Order,
    /// Bytes per operation, a multiple of 4,096.
    pub block_bytes: usize,
    /// Operations under way at once.
    pub depth: usize,
    /// For how long.
    pub duration: Duration,
}

impl Case {
    /// Its name in every output.
    #[must_use]
    pub fn name(&self) -> String {
        let action = match self.action {
            Action::Read => "read",
            Action::Write => "write",
            Action::DurableWrite => "durable write",
        };
        let order = match self.order {
            Order::Sequential => "",
            Order::Random => "random ",
        };
        let size = if self.block_bytes < 1 << 20 {
            format!("{} KiB", self.block_bytes >> 10)
        } else {
            format!("{} MiB", self.block_bytes >> 20)
        };
        format!("{order}{action} {size} x {}", self.depth)
    }
}

/// The usual cases, in so much time altogether.
#[must_use]
pub fn cases(whole: Duration) -> Vec<Case> {
    const KIB: usize = 1 << 10;
    const MIB: usize = 1 << 20;
    use Action::{DurableWrite, Read, Write};
    use Order::{Random, Sequential};
    let cases = [
        (Write, Sequential, MIB, 4),
        (Read, Sequential, MIB, 4),
        (Read, Random, 4 * KIB, 1),
        (Read, Random, 4 * KIB, 32),
        (Write, Random, 4 * KIB, 32),
        (DurableWrite, Sequential, 4 * KIB, 1),
        (DurableWrite, Sequential, 4 * KIB, 4),
        (DurableWrite, Sequential, 4 * KIB, 16),
        (DurableWrite, Sequential, 64 * KIB, 1),
        (DurableWrite, Sequential, 64 * KIB, 4),
        (DurableWrite, Sequential, MIB, 1),
        (DurableWrite, Sequential, MIB, 4),
    ];
    let duration = whole / cases.len() as u32;
    let case =
        |(action, order, block_bytes, depth)| Case { action, order, block_bytes, depth, duration };
    cases.into_iter().map(case).collect()
}

/// Carries the cases out in `dir`, one after the other.
pub fn measure(dir: &Path, cases: &[Case], watch: Watcher<'_>) -> io::Result<Vec<Measured>> {
    let is_valid = |case: &Case| {
        let aligned = 0 < case.block_bytes && case.block_bytes.is_multiple_of(4096);
        aligned && case.block_bytes as u64 <= FILE_BYTES && 0 < case.depth
    };
    if cases.is_empty() || !cases.iter().all(is_valid) {
        return Err(io::Error::other(
            "operations are multiples of 4096 bytes, up to 256 MiB, at least one at once",
        ));
    }
    let (report, reports) = channel();
    let theirs = cases.to_vec();
    let make = move |_: ShardId| Prober::new(theirs, report);
    let shard = ShardPlan { core: None, listeners: Vec::new(), make };
    let largest = cases.iter().map(|case| case.block_bytes * case.depth).max().unwrap_or(0);
    let mut config = RingConfig::new(dir.to_owned());
    config.pool_bytes = config.pool_bytes.max(2 * largest);
    let planned = cases.iter().map(|case| case.duration).sum();
    watch(Step::Runs("writing the file", 0.0));
    let handle = run_shards(&config, vec![shard], BackgroundThread::new(dir.to_owned()))?;
    let mut done = Vec::new();
    let mut time = Timetable::of(planned);
    let mut outcome = Ok(());
    for (nth, case) in cases.iter().enumerate() {
        let name =
            if nth == 0 { "writing the file, then reading it".to_owned() } else { case.name() };
        match await_report(&reports, &name, &time, watch) {
            Ok(measured) => {
                if nth == 0 {
                    // The file took the time before.
                    time = Timetable { planned: planned - case.duration, ..Timetable::of(planned) };
                }
                watch(Step::Ended(&measured));
                done.push(measured);
            }
            Err(error) => {
                outcome = Err(error);
                break;
            }
        }
    }
    handle.join();
    let removed = std::fs::remove_file(dir.join(FILE));
    outcome?;
    removed?;
    Ok(done)
}

struct Prober {
    cases: VecDeque<Case>,
    step: Stage,
    blocks: Bytes,
    next: u64,
    random: u64,
    started: Vec<u64>,
    free: Vec<usize>,
    began: Instant,
    cpu_before: Duration,
    count: u64,
    latency: Histogram<u64>,
    scale: clock::TickScale,
    report: Sender<Result<Measured, String>>,
}

fn in_words(fault: Fault) -> String {
    match fault {
        Fault::NoSpace => "no space is left".to_owned(),
        Fault::Device => "the device failed".to_owned(),
        Fault::NotFound => "there is no such file or directory".to_owned(),
        Fault::TooManyOpen => "this process may open no more files".to_owned(),
        Fault::Disconnected => "it was closed".to_owned(),
        Fault::Other(errno) => io::Error::from_raw_os_error(errno).to_string(),
    }
}

#[derive(Clone, Copy)]
enum Stage {
    Begin,
    Making,
    Probing(FileId),
    Failed,
}

impl Prober {
    fn new(cases: Vec<Case>, report: Sender<Result<Measured, String>>) -> Self {
        Self {
            cases: cases.into(),
            step: Stage::Begin,
            blocks: Bytes::new(),
            next: 0,
            random: 0x9e37_79b9_7f4a_7c15,
            started: Vec::new(),
            free: Vec::new(),
            began: Instant::default(),
            cpu_before: Duration::ZERO,
            count: 0,
            latency: empty(),
            scale: clock::TickScale::measure(),
            report,
        }
    }

    fn begin_case(&mut self, now: Instant) {
        let Some(case) = self.cases.front() else { return };
        let mut buffer = AlignedBuffer::zeroed(case.block_bytes);
        buffer.as_mut().fill(0xa5);
        self.blocks = buffer.freeze();
        self.started = vec![0; case.depth];
        self.free = (0..case.depth).collect();
        self.next = 0;
        self.count = 0;
        self.latency = empty();
        self.cpu_before = clock::cpu_time();
        self.began = now;
    }

    fn handle(&mut self, completion: Completion, now: Instant, edge: &mut RingEdge<()>) {
        let done = match completion.result {
            Ok(done) => done,
            Err(fault) => {
                self.step = Stage::Failed;
                // Fails only if nobody wants to know any more.
                drop(self.report.send(Err(format!("the disk refused: {}", in_words(fault)))));
                return;
            }
        };
        match (self.step, done) {
            (Stage::Making, Done::Opened { file, .. }) => {
                self.step = Stage::Probing(file);
                self.begin_case(now);
            }
            (Stage::Making, Done::Complete) => {
                let open = Op::Open { path: PathBuf::from(FILE), how: OpenHow::Write };
                edge.submit(Token(0), open);
            }
            (Stage::Probing(_), _) => {
                let place = completion.token.0 as usize;
                let ticks = clock::stamp().saturating_sub(self.started[place]);
                self.latency.saturating_record(self.scale.nanos(ticks));
                self.count += 1;
                self.free.push(place);
            }
            _ => {}
        }
    }

    fn submit(&mut self, case: Case, file: FileId, edge: &mut RingEdge<()>) {
        let size = case.block_bytes as u64;
        let blocks = FILE_BYTES / size;
        while let Some(place) = self.free.pop() {
            let block = match case.order {
                Order::Sequential => self.next % blocks,
                Order::Random => self.draw() % blocks,
            };
            self.next += 1;
            let position = block * size;
            self.started[place] = clock::stamp();
            let durable = case.action == Action::DurableWrite;
            let op = match case.action {
                Action::Read => Op::Read { file, position, size: size as u32 },
                Action::Write | Action::DurableWrite => {
                    Op::Write { file, position, bytes: self.blocks.clone(), durable }
                }
            };
            edge.submit(Token(place as u64), op);
        }
    }

    /// Xorshift: places need to be apart, not unpredictable.
    fn draw(&mut self) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random
    }

    fn end_case(&mut self, case: Case, now: Instant) {
        let measured = Measured {
            name: case.name(),
            count: self.count,
            bytes: self.count * case.block_bytes as u64,
            elapsed: now.since(self.began),
            cpu: clock::cpu_time().saturating_sub(self.cpu_before),
            latency: Some(self.latency.clone()),
        };
        // Fails only if nobody wants to know any more.
        drop(self.report.send(Ok(measured)));
        self.cases.pop_front();
        self.begin_case(now);
    }
}

impl Program<RingEdge<()>> for Prober {
    fn turn(&mut self, edge: &mut RingEdge<()>) -> Next {
        let now = edge.now();
        if matches!(self.step, Stage::Begin) {
            self.step = Stage::Making;
            let prewrite = Chore::Prewrite { path: PathBuf::from(FILE), size: FILE_BYTES };
            edge.submit(Token(0), Op::Chore(prewrite));
        }
        while let Some(completion) = edge.poll_completion() {
            self.handle(completion, now, edge);
        }
        match self.step {
            Stage::Failed => return Next::Stop,
            Stage::Begin | Stage::Making => return Next::Idle,
            Stage::Probing(file) => {
                while let Some(case) = self.cases.front().copied() {
                    if now.since(self.began) < case.duration {
                        self.submit(case, file, edge);
                        return Next::Idle;
                    }
                    if self.free.len() < case.depth {
                        return Next::Idle;
                    }
                    self.end_case(case, now);
                }
            }
        }
        Next::Stop
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outcome::tests::fresh_dir;

    /// Every case does work and leaves no file behind.
    #[test]
    fn every_case_does_its_work() {
        let dir = fresh_dir("disk");
        std::fs::create_dir_all(&dir).unwrap();
        let short = Duration::from_millis(20);
        let actions = [Action::Write, Action::Read, Action::DurableWrite];
        let case = |action| Case {
            action,
            order: Order::Random,
            block_bytes: 4096,
            depth: 2,
            duration: short,
        };
        let mut steps = 0;
        let measured = measure(&dir, &actions.map(case), &mut |_| steps += 1).unwrap();
        let names: Vec<_> = measured.iter().map(|measured| measured.name.as_str()).collect();
        assert_eq!(names[1], "random read 4 KiB x 2");
        for measured in &measured {
            assert!(0 < measured.count && short <= measured.elapsed, "{measured:?}");
            assert_eq!(measured.latency.as_ref().unwrap().len(), measured.count);
        }
        assert!(3 < steps);
        assert_eq!(std::fs::read_dir(&dir).unwrap().count(), 0);
        assert!(measure(&dir, &[], &mut |_| ()).is_err());
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
