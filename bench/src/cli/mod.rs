//! The commands of the load generator, as `tidemill bench` offers them.
//!
//! A run prints its figures on standard output. It ends well, or with a [`Trouble`] that says what
//! was wrong: its status is 1 for a run that was not clean, 11 for an objective that was missed.
//!
//! Start reading at [`Bench::run`].

mod floor;
mod groups;
mod options;
mod steps;
mod txn;

use std::net::SocketAddr;
use std::process::Command;

use clap::{Args, Subcommand, ValueEnum};
use tidemill_perf::machine::limits::Limits;

use crate::fleet::{Fleet, worker};
use crate::report::Report;
use crate::run::run;
use crate::search::{Objective, sweep};
use crate::settings::Settings;
use crate::sink::{self, Manners, Misdeed};
use crate::stop;
use crate::trouble::Trouble;
use crate::watch::Watch;
use floor::Floor;
use groups::Groups;
use options::{BrokerOptions, LoadOptions, MakingOptions, ReadOptions, RunOptions, first_of};

/// `tidemill bench …`
#[derive(Args, Debug)]
pub struct Bench {
    #[command(subcommand)]
    command: What,
    /// For people, or one line of JSON for each run.
    #[arg(long, global = true, value_enum, default_value_t = OutputKind::Text)]
    output: OutputKind,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
enum OutputKind {
    Text,
    Json,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Produce to a topic; everything is read back and verified afterwards.
    Produce(RunArguments),
    /// Read a topic from its beginning to its end, verifying every record.
    #[command(alias = "fetch")]
    Consume(ConsumeArguments),
    /// Produce and read along: latency from when a record was due to when it was read.
    E2e(RunArguments),
    /// Produce to a topic while others read it from its beginning.
    Mixed(RunArguments),
    /// Put load on the coordinators of groups: members that come and go, offsets, new groups.
    Groups {
        /// What to measure.
        #[command(subcommand)]
        groups: Groups,
    },
    /// Put load of transactions, in either flow, and read what is committed.
    Txn(txn::Txn),
    /// What this machine does without a broker: the same load on a sink, and the disk alone.
    Floor {
        /// What to measure.
        #[command(subcommand)]
        floor: Floor,
    },
    /// A server that acknowledges at once, to measure the load generator; prints `ready` and its
    /// address.
    Sink(SinkArguments),
    /// One of several worker processes of a load generator: told what to do on its standard input.
    Worker,
}

#[derive(Args, Debug)]
struct RunArguments {
    #[command(flatten)]
    broker: BrokerOptions,
    #[command(flatten)]
    making: MakingOptions,
    #[command(flatten)]
    load: LoadOptions,
    #[command(flatten)]
    read: ReadOptions,
    /// What has to be met, such as 'p99<5ms,errors=0'; if it is not, the exit code is 11.
    #[arg(long)]
    slo: Option<Objective>,
    /// Find the highest rate that meets --slo, beginning at --rate.
    #[arg(long, requires = "slo", conflicts_with_all = ["sweep", "phases"])]
    find_max: bool,
    /// Run at these rates, one after the other: R,R,... or FROM..TO, doubling.
    #[arg(long, value_name = "RATES", conflicts_with = "phases")]
    sweep: Option<String>,
}

#[derive(Args, Debug)]
struct ConsumeArguments {
    #[command(flatten)]
    broker: BrokerOptions,
    #[command(flatten)]
    run: RunOptions,
    #[command(flatten)]
    read: ReadOptions,
    /// What has to be met, such as 'p99<5ms,errors=0'; if it is not, the exit code is 11.
    #[arg(long)]
    slo: Option<Objective>,
}

#[derive(Args, Debug)]
struct SinkArguments {
    /// Where to listen.
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// How many bytes a fetch is answered with.
    #[arg(long, default_value_t = 1 << 20)]
    fetch_bytes: usize,
    /// Keep what is produced, at most so many bytes of each partition, and give it to readers.
    #[arg(long)]
    keep: Option<usize>,
    /// Do to every so many-th batch what a broker may not do, or should not need to, for the
    /// verification to notice.
    #[arg(long, requires = "keep")]
    misdeed: Option<Misdeed>,
    /// To every how many-th batch.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..))]
    every: u64,
    /// Ask whoever produces to be quiet for so many milliseconds after each answer (KIP-219).
    #[arg(long, value_name = "MS", default_value_t = 0, value_parser = clap::value_parser!(i32).range(0..))]
    throttle: i32,
}

impl Bench {
    /// Carries the command out.
    ///
    /// # Errors
    /// If it could not be, if a run was not clean, or if an objective was missed.
    pub fn run(self) -> Result<(), Trouble> {
        let json = self.output == OutputKind::Json;
        if !matches!(self.command, What::Sink(_) | What::Floor { .. }) {
            stop::watch()?;
        }
        match &self.command {
            What::Produce(run) => produce("produce", run, 0, json),
            What::E2e(run) => produce("e2e", run, 1, json),
            What::Mixed(run) => produce("mixed", run, 1, json),
            What::Consume(run) => consume(run, json),
            What::Floor { floor } => floor.run(json),
            What::Groups { groups } => groups.run(json),
            What::Txn(txn) => txn.run(json),
            What::Sink(sink) => sink.run(),
            What::Worker => worker::serve(),
        }
    }
}

impl SinkArguments {
    fn run(&self) -> Result<(), Trouble> {
        let manners = Manners {
            fetch_bytes: self.fetch_bytes,
            keep_bytes: self.keep,
            misdeed: self.misdeed.map(|misdeed| (misdeed, self.every)),
            throttle_ms: self.throttle,
        };
        Ok(sink::serve(self.listen, manners, |address| println!("ready {address}"))?)
    }
}

/// What all runs of one command have in common.
struct Session {
    fleet: Option<Fleet>,
    watch: Watch,
    limits: Limits,
    json: bool,
    /// Whether some run found that the broker did what no broker may.
    is_harmed: bool,
}

impl Session {
    fn begin(run: &RunOptions, limits: Limits, title: &str, json: bool) -> Result<Self, Trouble> {
        let fleet = match (run.workers, run.worker_commands.as_slice()) {
            (1, []) => None,
            (own, commands) => Some(Fleet::start(own, own_program, commands)?),
        };
        let watch = Watch::new(run.result.as_deref(), title)?;
        Ok(Self { fleet, watch, limits, json, is_harmed: false })
    }

    /// One run; what came of it.
    fn measure(&mut self, settings: &Settings) -> Result<Report, Trouble> {
        let names: Vec<&str> = settings.phases.iter().map(|phase| phase.name.as_str()).collect();
        self.watch.name_phases(&names);
        let mut report = run(settings, self.fleet.as_mut(), &mut self.watch)?;
        report.limits = self.limits.clone();
        self.is_harmed |= report.is_harmed();
        self.watch.take_report(&report);
        if self.json {
            println!("{}", report.to_json());
        }
        Ok(report)
    }

    /// One run, told in full.
    fn one(&mut self, settings: &Settings) -> Result<(), Trouble> {
        let report = self.measure(settings)?;
        if !self.json {
            print!("{}", report.to_text());
        }
        self.judge(&report)
    }

    /// What a run ends with.
    fn judge(&self, report: &Report) -> Result<(), Trouble> {
        let told = |what: &str, why: Vec<String>| match self.json {
            true => format!("{what}: {}", why.join("; ")),
            false => what.to_owned(),
        };
        if !report.is_clean() {
            return Err(Trouble::new(told("the run was not clean", report.complaints())));
        }
        let missed = report.missed();
        if missed.is_empty() {
            Ok(())
        } else {
            Err(Trouble::missed(told("the objective was missed", missed)))
        }
    }

    /// Writes what is left of the result directory, and says where it is.
    fn end(self) -> Result<(), Trouble> {
        if let Some(path) = self.watch.finish()?
            && !self.json
        {
            println!("  report: {}", path.join("report.html").display());
        }
        Ok(())
    }
}

/// This program's own load generator, for further processes.
fn own_program() -> Result<Command, Trouble> {
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("bench");
    Ok(command)
}

fn produce(name: &str, run: &RunArguments, fan_out: usize, json: bool) -> Result<(), Trouble> {
    // What is wrong on the command line is told before a topic is made.
    let shape = run.load.shape();
    let records = |text: &str| text.parse().map(|rate: crate::amount::Rate| rate.records(&shape));
    let rates = run.sweep.as_ref().map(|text| sweep(text, records)).transpose();
    let rates = rates.map_err(|why| Trouble::usage(format!("--sweep: {why}")))?;
    let phases = run.load.phases(run.slo.as_ref())?;
    let limits = run.load.run.limits()?;
    let topic = run.broker.prepare(&run.making)?;
    let mut settings = run.load.settings(name, topic, phases);
    (settings.broker_pid, settings.reconnect) = (run.broker.pid, run.broker.reconnect);
    settings.readers = run.read.readers(fan_out, run.load.run.connections);
    if name == "mixed"
        && let Some(readers) = &mut settings.readers
    {
        readers.from_start = true;
    }
    let mut session = Session::begin(&run.load.run, limits, &settings.name, json)?;
    let ending = match rates {
        Some(rates) => steps::sweep(run, &settings, &rates, &mut session),
        None if run.find_max => steps::find_max(run, &settings, &mut session),
        None => session.one(&settings),
    };
    finish(ending, session, &run.broker)
}

/// What the run ended with says more than what came after.
fn finish(
    ending: Result<(), Trouble>,
    session: Session,
    broker: &BrokerOptions,
) -> Result<(), Trouble> {
    let is_harmed = session.is_harmed;
    let ended = session.end();
    first_of(ending.and(ended), broker.clean_up(is_harmed))
}

fn consume(asked: &ConsumeArguments, json: bool) -> Result<(), Trouble> {
    let ConsumeArguments { broker, run, read, slo } = asked;
    let limits = run.limits()?;
    let phase = run.closed_phase(slo.as_ref());
    let mut settings = run.settings("consume", broker.find()?, vec![phase]);
    (settings.broker_pid, settings.reconnect) = (broker.pid, broker.reconnect);
    let connections = run.connections.max(settings.topic.leaders.len().min(16));
    settings.readers = read.readers(1, connections);
    if let Some(readers) = &mut settings.readers {
        readers.from_start = true;
    }
    settings.until_caught_up = true;
    let mut session = Session::begin(run, limits, &settings.name, json)?;
    let ending = session.one(&settings);
    finish(ending, session, broker)
}
