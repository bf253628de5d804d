//! `cargo sim SEED`: one seed, one run, one verdict.
//!
//! ```text
//! cargo sim 42                        runs seed 42
//! cargo sim 42 --trace                the same, and prints all that happens
//! cargo sim 42 --dump DIR             the same, and copies what is on the disk in the end
//! cargo sim --count 500 --start 1000  runs the seeds from 1000 to 1499
//! ```
//!
//! A failure prints the one command that repeats it; the exit code is then 1.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Mutex;
use std::time::Instant;

use sim::broker::Broker;
use sim::disk::PlantedInDisk;
use sim::run::{Outcome, Plan, run_with};
use sim::trace::Trace;
use sim::workload::Workload;
use sim::world::World;
use tidemill_storage::mistake::{Mistake, plant};

const USAGE: &str = "usage: cargo sim SEED [--trace] [--dump DIR] [--plant MISTAKE]
       cargo sim --count N [--start SEED] [--plant MISTAKE]";

/// What was asked for.
struct Request {
    start: u64,
    count: u64,
    trace: bool,
    dump: Option<PathBuf>,
    planted: Option<Planted>,
}

/// What the last panic said: the broker's own assertions end a run, not the program.
static LAST_PANIC: Mutex<String> = Mutex::new(String::new());

fn main() -> ExitCode {
    let request = match parse(std::env::args().skip(1)) {
        Ok(request) => request,
        Err(complaint) => {
            eprintln!("{complaint}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    if request.trace {
        // What the broker logs, among the events that made it do so.
        tracing_subscriber::fmt().without_time().with_writer(std::io::stdout).init();
    }
    std::panic::set_hook(Box::new(|panic| {
        *LAST_PANIC.lock().expect("nothing panics while it is held") = panic.to_string();
    }));
    let failures = if request.count == 1 { run_one(&request) } else { run_many(&request) };
    if failures == 0 { ExitCode::SUCCESS } else { ExitCode::from(1) }
}

fn parse(arguments: impl Iterator<Item = String>) -> Result<Request, String> {
    let mut request = Request { start: 0, count: 1, trace: false, dump: None, planted: None };
    let mut arguments = arguments.peekable();
    if arguments.peek().is_none() {
        return Err("a seed, please".to_owned());
    }
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().ok_or(format!("{argument} needs a value"));
        match argument.as_str() {
            "--count" => request.count = number(&value()?)?,
            "--start" => request.start = number(&value()?)?,
            "--trace" => request.trace = true,
            "--dump" => request.dump = Some(value()?.into()),
            "--plant" => request.planted = Some(mistake(&value()?)?),
            seed => request.start = number(seed)?,
        }
    }
    Ok(request)
}

fn number(text: &str) -> Result<u64, String> {
    text.parse().map_err(|_| format!("{text} is no number"))
}

/// A mistake to be planted: in the disk below the broker, or in its storage.
#[derive(Clone, Copy)]
enum Planted {
    Disk(PlantedInDisk),
    Storage(Mistake),
}

const MISTAKES: [(&str, Planted); 7] = [
    ("acknowledge-early", Planted::Disk(PlantedInDisk::AcknowledgeBeforeDurable)),
    ("skip-directory-sync", Planted::Disk(PlantedInDisk::SkipDirectorySync)),
    ("skip-file-sync", Planted::Disk(PlantedInDisk::SkipFileSync)),
    ("recycle-early", Planted::Storage(Mistake::RecycleEarly)),
    ("damage-is-torn-tail", Planted::Storage(Mistake::DamageIsTornTail)),
    ("replay-old-windows", Planted::Storage(Mistake::ReplayOldWindows)),
    ("stale-producers", Planted::Storage(Mistake::StaleProducers)),
];

fn mistake(text: &str) -> Result<Planted, String> {
    let found = MISTAKES.iter().find(|(name, _)| *name == text);
    found.map(|(_, planted)| *planted).ok_or_else(|| {
        let names: Vec<&str> = MISTAKES.iter().map(|(name, _)| *name).collect();
        format!("{text} is no mistake; there are {}", names.join(", "))
    })
}

fn run_one(request: &Request) -> u64 {
    let outcome = run_seed(request.start, request);
    match outcome {
        Ok(outcome) => {
            println!(
                "seed {}: {} events, {} starts, {} records acknowledged, {} read",
                request.start,
                outcome.notes,
                outcome.starts,
                outcome.acked_records,
                outcome.read_records
            );
            println!("trace {:016x}", outcome.hash);
            match outcome.violation {
                None => 0,
                Some(violation) => {
                    report(request.start, &violation.to_string());
                    1
                }
            }
        }
        Err(panic) => {
            report(request.start, &panic);
            1
        }
    }
}

fn run_many(request: &Request) -> u64 {
    let began = Instant::now();
    let (mut failures, mut acked) = (0, 0);
    for (done, seed) in (request.start..).take(request.count as usize).enumerate() {
        let trouble = match run_seed(seed, request) {
            Ok(outcome) => {
                acked += outcome.acked_records;
                outcome.violation.map(|violation| violation.to_string())
            }
            Err(panic) => Some(panic),
        };
        if let Some(trouble) = trouble {
            report(seed, &trouble);
            failures += 1;
        }
        let done = done as u64 + 1;
        if done.is_multiple_of(100) {
            let rate = done as f64 / began.elapsed().as_secs_f64();
            println!("{done} of {}: {failures} failures, {rate:.1} seeds/s", request.count);
        }
    }
    println!("{acked} records acknowledged");
    println!("{} seeds, {failures} failures", request.count);
    failures
}

fn report(seed: u64, trouble: &str) {
    println!("seed {seed} FAILED: {trouble}");
    println!("  repeat with: cargo sim {seed}");
}

/// Runs a seed; an error is the panic that ended it.
fn run_seed(seed: u64, request: &Request) -> Result<Outcome, String> {
    let trace = Trace::new(request.trace);
    let (disk, storage) = match request.planted {
        Some(Planted::Disk(planted)) => (Some(planted), None),
        Some(Planted::Storage(mistake)) => (None, Some(mistake)),
        None => (None, None),
    };
    plant(storage);
    let (broker, plan) = (Broker::new(seed), Plan::of(seed));
    if request.trace {
        println!("{plan:#?}\n{broker:#?}");
    }
    let run = || {
        let prepare = |world: &mut World<Broker, Workload>| world.disk().planted = disk;
        run_with(seed, broker, &plan, trace, prepare, |world| dump(world, request.dump.as_deref()))
    };
    catch_unwind(AssertUnwindSafe(run))
        .map_err(|_| LAST_PANIC.lock().expect("nothing panics while it is held").clone())
}

/// Copies the simulated disk into a real directory, for `tidemill inspect`.
fn dump(world: &mut World<Broker, Workload>, into: Option<&Path>) {
    let Some(into) = into else { return };
    for (path, _) in world.disk().listing() {
        let copy = into.join(&path);
        let bytes = world.disk().contents(&path).expect("just listed");
        let dir = copy.parent().expect("a file lies in a directory");
        if let Err(error) = fs::create_dir_all(dir).and_then(|()| fs::write(&copy, bytes)) {
            println!("{} cannot be written: {error}", copy.display());
        }
    }
}
