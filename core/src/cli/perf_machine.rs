//! `tidemill perf disk|net|mesh|cpu`: what this machine can do at most, shown as it is measured
//! and kept in a file, so that others may print shares of it.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use clap::Args;
use serde_json::json;
use tidemill_perf::hlog::Writer;
use tidemill_perf::live::Live;
use tidemill_perf::machine::limits::{Limits, usual_file};
use tidemill_perf::machine::{Measured, Probe, Step, cpu, disk, mesh, net};
use tidemill_perf::outcome::{Environment, Figure, Outcome, ResultDir};

use super::failure::Failure;
use super::perf::positive;
use super::{Output, print_line};

/// `tidemill perf net|mesh|cpu …`
#[derive(Args, Debug)]
pub(super) struct MachineProbe {
    /// How long all cases take together.
    #[arg(long, default_value_t = 10.0)]
    seconds: f64,
    /// Keep the result in this file instead of the one in the user's state directory.
    #[arg(long, value_name = "FILE")]
    keep: Option<PathBuf>,
    /// Write a result directory as well, for `tidemill perf report`.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    #[command(flatten)]
    output: Output,
}

/// `tidemill perf disk …`
#[derive(Args, Debug)]
pub(super) struct DiskProbe {
    /// A directory on the disk in question; a file of 256 MiB is made there and removed.
    #[arg(long, value_name = "DIR", default_value = ".")]
    dir: PathBuf,
    #[command(flatten)]
    probe: MachineProbe,
}

impl DiskProbe {
    pub(super) fn run(self) -> Result<(), Failure> {
        let dir = self.dir;
        self.probe.carry_out(Probe::Disk, &dir)
    }
}

impl MachineProbe {
    pub(super) fn run(self, probe: Probe) -> Result<(), Failure> {
        self.carry_out(probe, Path::new("."))
    }

    fn carry_out(self, probe: Probe, dir: &Path) -> Result<(), Failure> {
        let whole = positive("--seconds", self.seconds)?;
        let started = SystemTime::now();
        let environment = Environment::of_this_machine(dir);
        let json = self.output.is_json();
        let live = Live::new();
        let mut watch = |step: Step<'_>| {
            live.show(&step, |measured| {
                if !json {
                    // Whoever closed our output does not stop the measuring; the end tells.
                    drop(print_line(&measured.to_text()));
                }
            });
        };
        let measured = match probe {
            Probe::Disk => disk::measure(dir, &disk::cases(whole), &mut watch),
            Probe::Net => net::measure(whole, &mut watch),
            Probe::Mesh => mesh::measure(whole, &mut watch),
            Probe::Cpu => Ok(cpu::measure(whole, &mut watch)),
        };
        live.finish();
        let measured = measured.map_err(|error| {
            let what = format!("cannot measure the {}", probe.name());
            match probe {
                Probe::Disk => Failure::new(format!("{what} below {}", dir.display()))
                    .because(error)
                    .fix("name another directory with --dir: it takes a file of 256 MiB there"),
                _ => Failure::new(what)
                    .because(error)
                    .fix("tidemill check says whether this machine can run the broker at all"),
            }
        })?;
        self.keep(probe, &place(probe, &environment), &measured)?;
        if let Some(out) = &self.out {
            write_results(out, probe, &environment, started, &measured)
                .map_err(|error| unwritten(out, &error))?;
        }
        if json { print_line(&to_json(probe, &measured).to_string()) } else { Ok(()) }
    }

    /// Puts the result into the file of limits.
    fn keep(&self, probe: Probe, place: &str, measured: &[Measured]) -> Result<(), Failure> {
        let Some(file) = self.keep.clone().or_else(usual_file) else {
            eprintln!("tidemill: no state directory (HOME is not set): the result is not kept");
            return Ok(());
        };
        let mut limits = Limits::read(&file).map_err(|error| {
            Failure::new("cannot read the limits measured before")
                .because(error)
                .fix("remove the file, or name another with --keep FILE")
        })?;
        limits.replace(probe, place, measured);
        limits.write(&file).map_err(|error| unwritten(&file, &error))?;
        if !self.output.is_json() {
            print_line(&format!("kept in {}", file.display()))?;
        }
        Ok(())
    }
}

fn unwritten(path: &Path, error: &std::io::Error) -> Failure {
    Failure::new(format!("cannot write {}", path.display())).because(error)
}

/// On what it was measured.
fn place(probe: Probe, environment: &Environment) -> String {
    let of = |name: &str| environment.machine.get(name).cloned().unwrap_or_default();
    match probe {
        Probe::Disk => of("file system"),
        Probe::Net | Probe::Mesh | Probe::Cpu => of("processor"),
    }
}

fn write_results(
    out: &Path,
    probe: Probe,
    environment: &Environment,
    started: SystemTime,
    measured: &[Measured],
) -> std::io::Result<()> {
    let dir = ResultDir::create(out)?;
    let mut log = Writer::new(dir.create_log()?, started, &["tidemill: nanoseconds"])?;
    let mut outcome = Outcome::new(&format!("limits of the {}", probe.name()), started);
    let mut offset = Duration::ZERO;
    for case in measured {
        if let Some(latency) = &case.latency {
            log.write(&case.tag(probe.name()), offset, case.elapsed, latency)?;
        }
        let figure = if 0 < case.bytes {
            Figure::new(&case.name, case.bytes_per_second(), "B/s")
        } else {
            Figure::new(&case.name, case.per_second(), "/s")
        };
        outcome.figures.push(figure);
        offset += case.elapsed;
    }
    outcome.seconds = offset.as_secs_f64();
    dir.write(environment, &outcome)
}

fn to_json(probe: Probe, measured: &[Measured]) -> serde_json::Value {
    let cases = measured.iter().map(|case| {
        let at = |quantile| case.latency.as_ref().map(|l| l.value_at_quantile(quantile));
        json!({
            "name": case.name,
            "count": case.count,
            "per_second": case.per_second(),
            "bytes_per_second": case.bytes_per_second(),
            "cpu_seconds": case.cpu.as_secs_f64(),
            "p50_ns": at(0.5),
            "p99_ns": at(0.99),
            "p999_ns": at(0.999),
        })
    });
    json!({ "probe": probe.name(), "cases": cases.collect::<Vec<_>>() })
}
