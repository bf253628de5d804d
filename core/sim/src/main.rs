//! `cargo sim SEED`: one seed, one run, one verdict.
//!
//! ```text
//! cargo sim 42                        runs seed 42
//! cargo sim 42 --trace                the same, and prints all that happens
//! cargo sim 42 --dump DIR             the same, and copies what is on the disk in the end
//! cargo sim --count 500 --start 1000  runs the seeds from 1000 to 1499
//! cargo sim --planted                 makes each mistake there is to plant, until it is caught
//! cargo sim --steady produce 20000    a steady load instead, to count instructions by
//! cargo sim --judge FILE              finds the anomalies of a history of real clients instead
//! ```
//!
//! A failure prints the one command that repeats it; the exit code is then 1.

use std::cell::RefCell;
use std::fs;
use std::num::NonZero;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

use sim::broker::Broker;
use sim::disk::PlantedInDisk;
use sim::history;
use sim::run::{Outcome, Plan, run_with};
use sim::steady::{self, Load};
use sim::trace::Trace;
use sim::workload::Workload;
use sim::world::World;
use tidemill_storage::mistake::{Mistake, plant};

const USAGE: &str = "usage: cargo sim SEED [--trace] [--dump DIR] [--plant MISTAKE]
       cargo sim --count N [--start SEED] [--plant MISTAKE]
       cargo sim --planted [--count N] [--start SEED]
       cargo sim --steady produce|fetch|follow REQUESTS
       cargo sim --judge FILE";

/// So many seeds are tried at most until a planted mistake is caught.
const PLANTED_SEEDS_MAX: u64 = 5_000;

/// What was asked for.
#[derive(Clone)]
struct Request {
    start: u64,
    count: u64,
    trace: bool,
    dump: Option<PathBuf>,
    planted: Option<Planted>,
    /// Whether every mistake is to be planted in turn, until it is caught.
    all_planted: bool,
    /// A steady load, and so many requests of it.
    steady: Option<(Load, u64)>,
    /// A history to be judged.
    judge: Option<PathBuf>,
}

impl Default for Request {
    fn default() -> Self {
        let (trace, all_planted) = (false, false);
        let (dump, planted, steady, judge) = (None, None, None, None);
        Self { start: 0, count: 1, trace, dump, planted, all_planted, steady, judge }
    }
}

thread_local! {
    /// What the last panic said: the broker's own assertions end a run, not the program.
    static LAST_PANIC: RefCell<String> = const { RefCell::new(String::new()) };
}

fn main() -> ExitCode {
    let request = match parse(std::env::args().skip(1)) {
        Ok(request) => request,
        Err(complaint) => {
            eprintln!("{complaint}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    if let Some(path) = &request.judge {
        return judge(path);
    }
    if request.trace {
        // What the broker logs, among the events that made it do so.
        tracing_subscriber::fmt().without_time().with_writer(std::io::stdout).init();
    }
    std::panic::set_hook(Box::new(|panic| {
        LAST_PANIC.set(panic.to_string());
    }));
    if let Some((load, requests)) = request.steady {
        println!("{} requests answered", steady::run(load, requests));
        return ExitCode::SUCCESS;
    }
    let failures = match (request.all_planted, request.count) {
        (true, _) => run_planted(&request),
        (false, 1) => run_one(&request),
        (false, _) => run_many(&request),
    };
    if failures == 0 { ExitCode::SUCCESS } else { ExitCode::from(1) }
}

fn parse(arguments: impl Iterator<Item = String>) -> Result<Request, String> {
    let mut request = Request::default();
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
            "--planted" => {
                request.all_planted = true;
                request.count = PLANTED_SEEDS_MAX;
            }
            "--steady" => {
                let name = value()?;
                let load = Load::named(&name).ok_or(format!("{name} is no load"))?;
                request.steady = Some((load, number(&value()?)?));
            }
            "--judge" => request.judge = Some(value()?.into()),
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
#[derive(Clone, Copy, Eq, PartialEq)]
enum Planted {
    Disk(PlantedInDisk),
    Storage(Mistake),
}

impl Planted {
    fn name(self) -> &'static str {
        let found = MISTAKES.iter().find(|(_, planted)| *planted == self);
        found.expect("every mistake has a name").0
    }
}

const MISTAKES: [(&str, Planted); 24] = [
    ("acknowledge-early", Planted::Disk(PlantedInDisk::AcknowledgeBeforeDurable)),
    ("skip-directory-sync", Planted::Disk(PlantedInDisk::SkipDirectorySync)),
    ("skip-file-sync", Planted::Disk(PlantedInDisk::SkipFileSync)),
    ("recycle-early", Planted::Storage(Mistake::RecycleEarly)),
    ("damage-is-torn-tail", Planted::Storage(Mistake::DamageIsTornTail)),
    ("replay-old-windows", Planted::Storage(Mistake::ReplayOldWindows)),
    ("stale-producers", Planted::Storage(Mistake::StaleProducers)),
    ("stale-transactions", Planted::Storage(Mistake::StaleTransactions)),
    ("end-early", Planted::Storage(Mistake::EndEarly)),
    ("forget-markers", Planted::Storage(Mistake::ForgetMarkers)),
    ("aborted-is-last-word", Planted::Storage(Mistake::AbortedIsLastWord)),
    ("swap-early", Planted::Storage(Mistake::SwapEarly)),
    ("marks-go-early", Planted::Storage(Mistake::MarksGoEarly)),
    ("share-early", Planted::Storage(Mistake::ShareEarly)),
    ("locks-end-together", Planted::Storage(Mistake::LocksEndTogether)),
    ("pass-over-released", Planted::Storage(Mistake::PassOverReleased)),
    ("forget-deliveries", Planted::Storage(Mistake::ForgetDeliveries)),
    ("begin-anew", Planted::Storage(Mistake::BeginAnew)),
    ("give-what-is-read", Planted::Storage(Mistake::GiveWhatIsRead)),
    ("miss-nobody", Planted::Storage(Mistake::MissNobody)),
    ("take-from-fenced", Planted::Storage(Mistake::TakeFromFenced)),
    ("count-from-end", Planted::Storage(Mistake::CountFromEnd)),
    ("aborted-offsets-count", Planted::Storage(Mistake::AbortedOffsetsCount)),
    ("forget-group-only", Planted::Storage(Mistake::ForgetGroupOnly)),
];

fn mistake(text: &str) -> Result<Planted, String> {
    let found = MISTAKES.iter().find(|(name, _)| *name == text);
    found.map(|(_, planted)| *planted).ok_or_else(|| {
        let names: Vec<&str> = MISTAKES.iter().map(|(name, _)| *name).collect();
        format!("{text} is no mistake; there are {}", names.join(", "))
    })
}

/// Prints what a history shows; the exit code is 1 if that is more than is allowed.
fn judge(path: &Path) -> ExitCode {
    let text = fs::read_to_string(path).map_err(|error| error.to_string());
    match text.and_then(|text| history::parse(&text)) {
        Ok(operations) => {
            let report = history::judge(operations, false);
            println!("{report}");
            ExitCode::from(u8::from(!report.is_clean()))
        }
        Err(complaint) => {
            eprintln!("{}: {complaint}", path.display());
            ExitCode::from(2)
        }
    }
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
                    report(request.start, request, &violation.to_string());
                    1
                }
            }
        }
        Err(panic) => {
            report(request.start, request, &panic);
            1
        }
    }
}

/// Runs many seeds, on all cores; one seed runs on one.
fn run_many(request: &Request) -> u64 {
    let began = Instant::now();
    let (begun, done, failures) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
    let counts: [AtomicU64; 14] = std::array::from_fn(|_| AtomicU64::new(0));
    let run = || {
        loop {
            let number = begun.fetch_add(1, Relaxed);
            if request.count <= number {
                return;
            }
            let (trouble, counted) = trouble(request.start + number, request);
            for (count, more) in counts.iter().zip(counted) {
                count.fetch_add(more, Relaxed);
            }
            if let Some(trouble) = trouble {
                report(request.start + number, request, &trouble);
                failures.fetch_add(1, Relaxed);
            }
            let done = done.fetch_add(1, Relaxed) + 1;
            if done.is_multiple_of(100) {
                let (rate, failures) =
                    (done as f64 / began.elapsed().as_secs_f64(), failures.load(Relaxed));
                println!("{done} of {}: {failures} failures, {rate:.1} seeds/s", request.count);
            }
        }
    };
    let cores = std::thread::available_parallelism().map_or(1, NonZero::get);
    std::thread::scope(|scope| (0..cores).for_each(|_| drop(scope.spawn(run))));
    let failures = failures.into_inner();
    let counts = counts.map(AtomicU64::into_inner);
    let [records, offsets, shares, transactions, removed, logs, runs, ..] = counts;
    let [.., shared, done, up, down, within, fenced, deletions] = counts;
    println!("{records} records and {offsets} offsets acknowledged, {shares} shares given");
    println!("{up} groups upgraded, {down} downgraded");
    println!("{within} offsets committed in transactions of members, {fenced} commits fenced");
    println!("{deletions} groups and offsets deleted");
    println!("{transactions} transactions committed");
    println!("{removed} records removed by compaction from {logs} logs in {runs} runs");
    println!("{shared} records given to share groups, {done} of them done with");
    println!("{} seeds, {failures} failures", request.count);
    failures
}

/// Plants each mistake in turn, until a checker catches it. Returns how many went unnoticed.
fn run_planted(request: &Request) -> u64 {
    let mut unnoticed = 0;
    for (name, planted) in MISTAKES {
        let request = Request { planted: Some(planted), ..request.clone() };
        let seeds = request.start..request.start + request.count;
        let caught = seeds.clone().find_map(|seed| Some((seed, trouble(seed, &request).0?)));
        match caught {
            Some((seed, trouble)) => {
                let tried = seed - request.start + 1;
                println!("{name}: caught by seed {seed}, after {tried}: {trouble}");
            }
            None => {
                println!("{name}: NOT caught by {} seeds", request.count);
                unnoticed += 1;
            }
        }
    }
    println!("{} mistakes, {unnoticed} not caught", MISTAKES.len());
    unnoticed
}

/// What is wrong with a run, if anything, and how many records and offsets it acknowledged, shares
/// it gave, transactions it committed and records it removed; from how many logs, and whether any;
/// records it gave to share groups and was told to be done with; groups upgraded and downgraded; and
/// offsets that members committed in transactions, were not let, and that were deleted.
fn trouble(seed: u64, request: &Request) -> (Option<String>, [u64; 14]) {
    match run_seed(seed, request) {
        Ok(outcome) => {
            let Outcome { acked_records, committed_offsets, shares, transactions, .. } = outcome;
            let (removed, logs) = (outcome.removed_records, outcome.compacted_logs);
            let (shared, done) = (outcome.shared_records, outcome.done_records);
            let trouble = outcome.violation.map(|violation| violation.to_string());
            let any = u64::from(0 < removed);
            let clients = [acked_records, committed_offsets, shares, transactions];
            let [records, offsets, shares, transactions] = clients;
            let (up, down) = outcome.changes_of_kind;
            let counts = [
                records,
                offsets,
                shares,
                transactions,
                removed,
                logs,
                any,
                shared,
                done,
                up,
                down,
                outcome.offsets_in_transactions,
                outcome.fenced_commits,
                outcome.deletions_in_groups,
            ];
            (trouble, counts)
        }
        Err(panic) => (Some(panic), [0; 14]),
    }
}

fn report(seed: u64, request: &Request, trouble: &str) {
    let plant =
        request.planted.map_or(String::new(), |planted| format!(" --plant {}", planted.name()));
    println!("seed {seed} FAILED: {trouble}\n  repeat with: cargo sim {seed}{plant}");
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
        let prepare = |world: &mut World<Broker, Workload>| {
            world.disk().planted = disk;
            // A mistake with the few files of the metadata would be found at once.
            world.disk().planted_below = &["journal", "partitions"];
        };
        run_with(seed, broker, &plan, trace, prepare, |world| dump(world, request.dump.as_deref()))
    };
    catch_unwind(AssertUnwindSafe(run)).map_err(|_| LAST_PANIC.take())
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
