//! The command line: one file per family of commands.
//!
//! Without a command the broker starts. The client commands (`topic`, `group`, `txn`, `produce`, `consume`)
//! speak to any Kafka broker, through [`tidemill_client`]; the others work on this machine alone. A command ends with status 0, or
//! with a [`Failure`] that says what, why, and what would help.
//!
//! Start reading at [`Arguments`] and [`run`].

mod brokers;
mod check;
mod configs;
mod consume;
mod failure;
mod group;
mod inspect;
mod offsets;
mod perf;
mod perf_machine;
mod produce;
mod settings;
mod start;
mod template;
mod topic;
mod txn;

use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::{Args, Parser, Subcommand, ValueEnum};

pub use failure::Failure;

/// A streaming broker that speaks the Kafka protocol. Without a command it starts.
#[derive(Debug, Parser)]
#[command(name = "tidemill", version, args_conflicts_with_subcommands = true)]
#[command(subcommand_negates_reqs = true, infer_subcommands = true)]
pub struct Arguments {
    #[command(flatten)]
    start: start::Start,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Start the broker (what happens without a command, too).
    Start(start::Start),
    /// Look whether this machine can run the broker, and at full speed.
    Check(check::Check),
    /// List all settings with their values, bounds and meaning; get, set and delete those of topics,
    /// brokers and groups, and quotas.
    Config(settings::Config),
    /// Make, list, describe, configure, grow, trim and delete topics.
    #[command(subcommand)]
    Topic(topic::TopicCommand),
    /// List, describe, reset and delete groups of consumers.
    #[command(subcommand)]
    Group(group::GroupCommand),
    /// List, describe and find transactions, and end those that hang.
    #[command(subcommand)]
    Txn(txn::TxnCommand),
    /// Look into the files of a data directory.
    #[command(subcommand)]
    Inspect(inspect::InspectCommand),
    /// Send lines of standard input or files as records.
    Produce(produce::Produce),
    /// Print the records of a topic.
    Consume(consume::Consume),
    /// Put load on any Kafka-compatible broker, verify every record, and tell latencies.
    Bench(Box<tidemill_bench::cli::Bench>),
    /// Where the time goes: a live view, recordings, reports, comparisons; and what this machine
    /// can do at most.
    #[command(subcommand)]
    Perf(perf::PerfCommand),
}

/// Carries out the command line; the status of the process.
#[must_use]
pub fn run(arguments: Arguments) -> ExitCode {
    let outcome = match arguments.command {
        None => arguments.start.run(),
        Some(Command::Start(start)) => start.run(),
        Some(Command::Check(check)) => check.run(),
        Some(Command::Config(config)) => config.run(),
        Some(Command::Topic(topic)) => topic.run(),
        Some(Command::Group(group)) => group.run(),
        Some(Command::Txn(txn)) => txn.run(),
        Some(Command::Inspect(inspect)) => inspect.run(),
        Some(Command::Produce(produce)) => produce.run(),
        Some(Command::Consume(consume)) => consume.run(),
        Some(Command::Bench(bench)) => bench.run().map_err(Failure::from),
        Some(Command::Perf(perf)) => perf.run(),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        // Who reads our output has had enough, as in `tidemill consume … | head`: no failure.
        Err(failure) if failure.is_closed_output() => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("tidemill: {failure}");
            ExitCode::from(failure.status)
        }
    }
}

/// How a command prints.
#[derive(Args, Debug)]
struct Output {
    /// For people or for programs.
    #[arg(long, value_enum, default_value_t = OutputKind::Text)]
    output: OutputKind,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
enum OutputKind {
    Text,
    Json,
}

impl Output {
    fn is_json(&self) -> bool {
        self.output == OutputKind::Json
    }
}

/// A number of things, with the right word for them.
fn counted(count: u64, one: &str, many: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { many })
}

/// Prints a line on standard output.
fn print_line(line: &str) -> Result<(), Failure> {
    writeln!(io::stdout().lock(), "{line}").map_err(|error| output_failure(&error))
}

fn output_failure(error: &io::Error) -> Failure {
    let failure = Failure::new("cannot write the output").because(error);
    if error.kind() == io::ErrorKind::BrokenPipe { failure.closed_output() } else { failure }
}

/// Prints rows in columns just as wide as they need to be.
fn print_table(heads: &[&str], rows: Vec<Vec<String>>) -> Result<(), Failure> {
    let widths: Vec<usize> = heads
        .iter()
        .enumerate()
        .map(|(column, head)| {
            let cells = rows.iter().map(|row| row[column].chars().count());
            cells.chain([head.len()]).max().unwrap_or(0)
        })
        .collect();
    let line = |cells: Vec<&str>| {
        let padded = cells.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
        padded.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    print_line(&line(heads.to_vec()))?;
    for row in &rows {
        print_line(&line(row.iter().map(String::as_str).collect()))?;
    }
    Ok(())
}

/// Tells a person at a terminal how far a long command has come.
struct Progress {
    verb: &'static str,
    start: Instant,
    told: Instant,
    records: u64,
    bytes: u64,
    shown: bool,
}

impl Progress {
    const EVERY: Duration = Duration::from_millis(500);

    fn new(verb: &'static str) -> Self {
        let now = Instant::now();
        // Records and progress on the same terminal would be a mess.
        let shown = io::stderr().is_terminal() && !io::stdout().is_terminal();
        Self { verb, start: now, told: now, records: 0, bytes: 0, shown }
    }

    fn add(&mut self, records: u64, bytes: usize) {
        self.records += records;
        self.bytes += bytes as u64;
        // A look at the clock for each record would cost more than the record.
        if self.shown && self.records.is_multiple_of(1024) && Self::EVERY <= self.told.elapsed() {
            self.told = Instant::now();
            if Duration::from_secs(1) <= self.start.elapsed() {
                self.tell("\r");
            }
        }
    }

    fn finish(&self) {
        if self.shown && Duration::from_secs(1) <= self.start.elapsed() {
            self.tell("\r");
            eprintln!();
        }
    }

    fn tell(&self, before: &str) {
        let seconds = self.start.elapsed().as_secs_f64();
        let mebibytes = self.bytes as f64 / f64::from(1 << 20);
        eprint!(
            "{before}{} {} records, {mebibytes:.0} MiB in {seconds:.0} s: {:.0} records/s, {:.1} MiB/s ",
            self.verb,
            self.records,
            self.records as f64 / seconds,
            mebibytes / seconds
        );
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    /// Two flags of one letter would only be met by the first person who asks for help.
    #[test]
    fn no_command_contradicts_itself() {
        Arguments::command().debug_assert();
    }
}
