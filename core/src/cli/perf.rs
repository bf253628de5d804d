//! `tidemill perf`: where the time goes. A live view and recordings of a broker's admin port,
//! reports and comparisons of what was recorded, here or by the load generator.

use std::io::{BufWriter, IsTerminal};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use clap::{Args, Subcommand};
use signal_hook::consts::{SIGINT, SIGTERM};
use tidemill_perf::admin::Admin;
use tidemill_perf::diff::{Comparison, Condition};
use tidemill_perf::machine::limits::Limits;
use tidemill_perf::outcome::{Environment, Found, ResultDir, find};
use tidemill_perf::record::{RecordError, Recording};
use tidemill_perf::report::Report;
use tidemill_perf::top;

use super::failure::Failure;
use super::perf_machine::{DiskProbe, MachineProbe};
use super::{Output, counted, print_line};
use crate::admin::{alerts, dashboard};
use tidemill_perf::machine::Probe;

/// `tidemill perf …`
#[derive(Debug, Subcommand)]
pub(super) enum PerfCommand {
    /// Watch a broker: throughput, latency of each stage, shards, mesh.
    Top(Top),
    /// Record a broker's latencies over time into a result directory.
    Record(Record),
    /// Draw a recording: one HTML file, and .hgrm, .svg and JSON files beside it.
    Report(Draw),
    /// Print a Grafana dashboard of the broker's metrics.
    Dashboard,
    /// Print alerting rules for Prometheus on the broker's metrics.
    Alerts,
    /// Compare two result directories or .hlog files; status 1 if a condition fails.
    Diff(Diff),
    /// Measure what the disk can do: direct reads and writes, durable ones among them.
    Disk(DiskProbe),
    /// Measure what TCP over loopback can do.
    Net(MachineProbe),
    /// Measure what messages between two shards cost.
    Mesh(MachineProbe),
    /// Measure checksums, copies, system calls and clocks.
    Cpu(MachineProbe),
}

impl PerfCommand {
    pub(super) fn run(self) -> Result<(), Failure> {
        match self {
            Self::Top(top) => top.run(),
            Self::Record(record) => record.run(),
            Self::Report(draw) => draw.run(),
            Self::Dashboard => print_line(&format!("{:#}", dashboard::dashboard())),
            Self::Alerts => print_line(alerts::rules().trim_end()),
            Self::Diff(diff) => diff.run(),
            Self::Disk(disk) => disk.run(),
            Self::Net(probe) => probe.run(Probe::Net),
            Self::Mesh(probe) => probe.run(Probe::Mesh),
            Self::Cpu(probe) => probe.run(Probe::Cpu),
        }
    }
}

/// Which broker is asked.
#[derive(Args, Debug)]
struct AdminAddress {
    /// The admin address of a broker.
    #[arg(long = "admin", value_name = "HOST:PORT", default_value = "127.0.0.1:9644")]
    address: String,
    /// Seconds between two readings.
    #[arg(long = "every", value_name = "SECONDS", default_value_t = 1.0)]
    every: f64,
    /// What the broker's machine can do at most, as `tidemill perf disk --keep FILE` and the like
    /// wrote it; by default what was kept here, if the broker is on this machine.
    #[arg(long, value_name = "FILE")]
    limits: Option<PathBuf>,
}

impl AdminAddress {
    /// The limits that its rates are set beside; none of them if none were measured.
    fn limits(&self, admin: &Admin) -> Result<Limits, Failure> {
        if let Some(file) = &self.limits {
            if !file.is_file() {
                let line = format!("there is no file of limits {}", file.display());
                return Err(Failure::new(line).fix("tidemill perf disk --keep FILE writes one"));
            }
            return Limits::read(file)
                .map_err(|error| Failure::new("cannot read the limits").because(error));
        }
        if !admin.is_here() {
            return Ok(Limits::default());
        }
        Ok(Limits::usual().unwrap_or_else(|error| {
            // Nobody asked for them: what was asked for goes on.
            eprintln!("tidemill: the limits measured before cannot be read: {error}");
            Limits::default()
        }))
    }

    fn every(&self) -> Result<Duration, Failure> {
        positive("--every", self.every)
    }
}

pub(super) fn positive(flag: &str, seconds: f64) -> Result<Duration, Failure> {
    let duration = Duration::try_from_secs_f64(seconds).unwrap_or_default();
    let usual = Duration::from_millis(10)..Duration::from_secs(1_000_000);
    if usual.contains(&duration) {
        Ok(duration)
    } else {
        Err(Failure::usage(format!("{flag} is a number of seconds, 0.01 or more")))
    }
}

#[derive(Args, Debug)]
pub(super) struct Top {
    #[command(flatten)]
    admin: AdminAddress,
    /// Print the view once, over one interval, and end.
    #[arg(long)]
    once: bool,
}

impl Top {
    fn run(self) -> Result<(), Failure> {
        let every = self.admin.every()?;
        let admin = Admin::at(&self.admin.address);
        let limits = self.admin.limits(&admin)?;
        if self.once {
            let screen = top::once(&admin, every, limits).map_err(|error| unanswered(&error))?;
            return print_line(screen.trim_end());
        }
        if !std::io::stdout().is_terminal() {
            return Err(Failure::usage("the live view needs a terminal")
                .fix("print it once with --once, or record with `tidemill perf record DIR`"));
        }
        top::run(&admin, every, limits).map_err(|error| unanswered(&error))
    }
}

fn unanswered(cause: &dyn std::fmt::Display) -> Failure {
    Failure::new("cannot read the broker's latencies")
        .because(cause)
        .fix("start a broker with its admin port on, or name its address with --admin HOST:PORT")
}

#[derive(Args, Debug)]
pub(super) struct Record {
    #[command(flatten)]
    admin: AdminAddress,
    /// How long; Ctrl-C ends it earlier, and what was recorded is kept.
    #[arg(long, default_value_t = 30.0)]
    seconds: f64,
    /// Where to: a directory, made if it is not there.
    #[arg(value_name = "DIR")]
    dir: PathBuf,
}

impl Record {
    fn run(self) -> Result<(), Failure> {
        let every = self.admin.every()?;
        let whole = positive("--seconds", self.seconds)?;
        let failed = |error: &dyn std::fmt::Display| {
            Failure::new(format!("cannot write to {}", self.dir.display())).because(error)
        };
        let stop = Arc::new(AtomicBool::new(false));
        for signal in [SIGINT, SIGTERM] {
            signal_hook::flag::register(signal, Arc::clone(&stop)).map_err(|e| failed(&e))?;
        }
        let admin = Admin::at(&self.admin.address);
        let limits = self.admin.limits(&admin)?;
        // Asked before anything is written: a broker that is not there leaves no directory behind.
        admin.latency().map_err(|error| unanswered(&error))?;
        let dir = ResultDir::create(&self.dir).map_err(|e| failed(&e))?;
        let environment = Environment::of_this_machine(&self.dir);
        let log = BufWriter::new(dir.create_log().map_err(|e| failed(&e))?);
        let mut recording = Recording::begin(&admin, log).map_err(|error| unanswered(&error))?;
        let begun = Instant::now();
        let (mut next, mut answers) = (begun + every, true);
        while next <= begun + whole && !stop.load(Ordering::Relaxed) {
            pause_until(next, &stop);
            next += every;
            match recording.step(&admin) {
                Ok(_) => answers = true,
                // A broker that is started again is worth recording on; what there is is kept.
                Err(RecordError::Admin(error)) => {
                    if std::mem::take(&mut answers) {
                        eprintln!("tidemill: no answer, a gap in the recording: {error}");
                    }
                }
                Err(error) => {
                    eprintln!("tidemill: the recording ends here: {error}");
                    break;
                }
            }
        }
        let (_, outcome) = recording.finish(&limits).map_err(|error| failed(&error))?;
        let seconds = outcome.seconds;
        dir.write(&environment, &outcome).map_err(|e| failed(&e))?;
        let dir = self.dir.display();
        print_line(&format!(
            "recorded {seconds:.1} s into {dir}; draw it with: tidemill perf report {dir}"
        ))
    }
}

/// Waits for the time of the next reading; a signal ends it within a moment.
fn pause_until(at: Instant, stop: &AtomicBool) {
    const MOMENT: Duration = Duration::from_millis(50);
    while Instant::now() < at && !stop.load(Ordering::Relaxed) {
        thread::sleep(at.saturating_duration_since(Instant::now()).min(MOMENT));
    }
}

#[derive(Args, Debug)]
pub(super) struct Draw {
    /// A result directory, or a .hlog file of any program.
    #[arg(value_name = "DIR|FILE")]
    from: PathBuf,
    /// Where the report goes: by default into the result directory, or beside the file.
    #[arg(long, value_name = "DIR")]
    to: Option<PathBuf>,
    #[command(flatten)]
    output: Output,
}

impl Draw {
    fn run(self) -> Result<(), Failure> {
        let report =
            Report::of(read(&self.from)?).map_err(|error| unreadable(&self.from, &error))?;
        let to = self.to.unwrap_or_else(|| match self.from.is_dir() {
            true => self.from.clone(),
            false => self.from.with_extension("report"),
        });
        let failed =
            |error| Failure::new(format!("cannot write to {}", to.display())).because(error);
        ResultDir::create(&to).map_err(failed)?;
        let written = report.write(&to).map_err(failed)?;
        if self.output.is_json() {
            return print_line(&report.to_json());
        }
        print_line(report.to_text().trim_end())?;
        let page = written.first().map_or_else(String::new, |page| page.display().to_string());
        let files = counted(written.len().saturating_sub(1) as u64, "file", "files");
        print_line(&format!("{page} and {files} beside it"))
    }
}

fn read(path: &Path) -> Result<Found, Failure> {
    find(path).map_err(|error| unreadable(path, &error))
}

fn unreadable(path: &Path, cause: &dyn std::fmt::Display) -> Failure {
    Failure::new(format!("cannot read the histograms of {}", path.display())).because(cause).fix(
        "name a .hlog file, or a directory that `tidemill perf record DIR` or `tidemill bench … \
         --result DIR` wrote",
    )
}

#[derive(Args, Debug)]
pub(super) struct Diff {
    /// The run to compare with.
    #[arg(value_name = "BEFORE")]
    before: PathBuf,
    /// The run in question.
    #[arg(value_name = "AFTER")]
    after: PathBuf,
    /// End with status 1 if this holds, such as 'p99>+5%', 'produce.total:p99.9>+2ms' or
    /// 'bytes in<-3%'. Without a tag it is asked of every tag of whole requests.
    #[arg(long = "fail-if", value_name = "CONDITION")]
    conditions: Vec<String>,
    #[command(flatten)]
    output: Output,
}

impl Diff {
    fn run(self) -> Result<(), Failure> {
        let parsed = self.conditions.iter().map(|text| text.parse::<Condition>());
        let conditions = parsed
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| Failure::usage(error.to_string()))?;
        let (before, after) = (read(&self.before)?, read(&self.after)?);
        let comparison = Comparison::of(&before, &after, &conditions)
            .map_err(|error| unreadable(&self.after, &error))?;
        let text = if self.output.is_json() {
            serde_json::to_string(&comparison).map_err(|error| unreadable(&self.after, &error))?
        } else {
            comparison.to_text().trim_end().to_owned()
        };
        print_line(&text)?;
        match comparison.failed.as_slice() {
            [] => Ok(()),
            [one] => Err(Failure::new(format!("the second run fails: {one}"))),
            many => Err(Failure::new(format!("the second run fails {} conditions", many.len()))),
        }
    }
}
