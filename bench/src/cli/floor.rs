//! `tidemill bench floor`: what this machine does without a broker.

use std::io::{self, BufRead, BufReader};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::time::Duration;

use clap::Subcommand;

use super::options::{LoadOptions, RunOptions};
use super::{Session, own_program};
use crate::amount::some_seconds;
use crate::control::Topic;
use crate::disk;
use crate::follow::Reading;
use crate::report::{json, text};
use crate::settings::{Readers, Settings};
use crate::trouble::Trouble;

/// What to measure.
#[derive(Debug, Subcommand)]
pub(super) enum Floor {
    /// Produce requests received and answered; small batches make it the echo's floor.
    Receive {
        #[command(flatten)]
        load: LoadOptions,
    },
    /// Fetch requests answered from memory.
    Send {
        #[command(flatten)]
        run: RunOptions,
    },
    /// Durable direct writes.
    Write {
        /// Where; a file is made there and removed.
        #[arg(long)]
        dir: PathBuf,
        /// Bytes per write.
        #[arg(long, default_value_t = 1 << 20)]
        write_bytes: usize,
        /// Writes under way at once.
        #[arg(long, default_value_t = 4)]
        depth: usize,
        /// For how long.
        #[arg(long, value_name = "SECONDS", default_value = "5", value_parser = some_seconds)]
        seconds: Duration,
    },
}

impl Floor {
    pub(super) fn run(&self, json: bool) -> Result<(), Trouble> {
        match self {
            Self::Receive { load } => at_sink(&load.run, json, |address| {
                let topic = Topic::of_one_leader("sink", address);
                let mut settings = load.settings("floor receive", topic, load.phases(None)?);
                settings.read_back = false;
                Ok(settings)
            }),
            Self::Send { run } => at_sink(run, json, |address| {
                let topic = Topic::of_one_leader("sink", address);
                let mut settings = run.settings("floor send", topic, vec![run.closed_phase(None)]);
                let reading = Reading { verify: false, ..Reading::default() };
                let (sets, connections, from_start) = (run.connections, 1, true);
                settings.readers = Some(Readers { sets, connections, from_start, reading });
                settings.warm_up = Duration::from_secs(1);
                Ok(settings)
            }),
            Self::Write { dir, write_bytes, depth, seconds } => {
                let (write_bytes, depth, duration) = (*write_bytes, *depth, *seconds);
                let plan = disk::Plan { write_bytes, depth, duration };
                let outcome = disk::measure(dir, plan).map_err(|error| {
                    let what = format!("cannot measure writes in {}", dir.display());
                    Trouble::new(what).because(error).fix(
                        "name another directory with --dir, or blocks that the disk takes with \
                         --write-bytes",
                    )
                })?;
                if json {
                    println!("{}", json::disk_json(plan, &outcome));
                } else {
                    print!("{}", text::disk_text(plan, &outcome));
                }
                Ok(())
            }
        }
    }
}

/// Runs the load on the sink, in a process of its own, so that what each uses is known.
fn at_sink(
    run: &RunOptions,
    json: bool,
    settings: impl FnOnce(SocketAddr) -> Result<Settings, Trouble>,
) -> Result<(), Trouble> {
    let mut server = own_program()?.arg("sink").stdout(Stdio::piped()).spawn()?;
    let outcome = address_of(&mut server).map_err(Trouble::from).and_then(settings);
    let outcome = outcome.and_then(|mut settings| {
        settings.broker_pid = Some(server.id());
        let mut session = Session::begin(run, run.limits()?, &settings.name, json)?;
        let ending = session.one(&settings);
        ending.and(session.end())
    });
    server.kill()?;
    server.wait()?;
    outcome
}

fn address_of(server: &mut Child) -> io::Result<SocketAddr> {
    let output = server.stdout.take().ok_or_else(|| io::Error::other("no output"))?;
    let mut line = String::new();
    BufReader::new(output).read_line(&mut line)?;
    let address = line.trim().strip_prefix("ready ").unwrap_or_default();
    address.parse().map_err(|_| io::Error::other("the sink has ended before it was ready"))
}
