//! `tidemill check`: can this machine run the broker, and at full speed? The same probes are made
//! at each start.

use std::fs::{File, TryLockError};
use std::net::SocketAddr;
use std::path::Path;

use clap::Args;
use serde_json::json;
use tidemill_runtime::preflight::{self, Plan, Probe, Report, Verdict};
use tidemill_runtime::socket::free_address;

use super::failure::{Failure, STATUS_UNFIT};
use super::start::{self, Given, LOCK_FILE};
use super::{Output, print_line};
use crate::config::Config;
use crate::node;

/// `tidemill check …`
#[derive(Args, Debug)]
pub(super) struct Check {
    #[command(flatten)]
    given: Given,
    #[command(flatten)]
    output: Output,
}

impl Check {
    pub(super) fn run(self) -> Result<(), Failure> {
        let config = self.given.config()?;
        let mut report = probe(&config);
        report.probes.extend(beside(&config));
        if self.output.is_json() {
            let rows = report.probes.iter().map(|probe| {
                let verdict = match probe.verdict {
                    Verdict::Ok => "ok",
                    Verdict::Slower => "slower",
                    Verdict::Cannot => "cannot",
                };
                json!({
                    "probe": probe.name,
                    "verdict": verdict,
                    "cause": probe.cause,
                    "fix": probe.fix,
                })
            });
            print_line(&json!(rows.collect::<Vec<_>>()).to_string())?;
        } else {
            print_line(report.to_string().trim_end())?;
        }
        match report.verdict() {
            Verdict::Cannot => Err(unfit("the broker cannot run on this machine as it is")),
            Verdict::Slower | Verdict::Ok => Ok(()),
        }
    }
}

/// Makes all probes for a broker of this configuration.
pub(super) fn probe(config: &Config) -> Report {
    preflight::check(&Plan {
        data_dir: config.data_dir.clone(),
        addresses: vec![config.listen],
        shards: config.shards.map_or(0, usize::from),
    })
}

/// What a start finds out by itself, and what is no reason not to start: who holds the data
/// directory, and the ports without which clients are led by node or nobody can look.
fn beside(config: &Config) -> Vec<Probe> {
    let mut probes: Vec<Probe> = lock(&config.data_dir.join(LOCK_FILE)).into_iter().collect();
    for address in node::shard_addresses(config) {
        let otherwise = "clients would be led by node; see tidemill.shard.port";
        probes.push(port("shard's port", address, otherwise));
    }
    if let Some(address) = config.admin {
        probes.push(port("admin port", address, "nobody could look; see tidemill.admin.listener"));
    }
    probes
}

fn lock(path: &Path) -> Option<Probe> {
    let held = File::open(path).ok()?.try_lock_shared();
    matches!(held, Err(TryLockError::WouldBlock)).then(|| Probe {
        name: "lock",
        verdict: Verdict::Cannot,
        cause: match start::holder(path) {
            Some(pid) => format!("process {pid} runs on this data directory"),
            None => "a process runs on this data directory".to_owned(),
        },
        fix: "stop it, or name another directory with --data-dir".to_owned(),
    })
}

fn port(name: &'static str, address: SocketAddr, otherwise: &str) -> Probe {
    match free_address(address) {
        Ok(_) => Probe {
            name,
            verdict: Verdict::Ok,
            cause: format!("{address} is free"),
            fix: String::new(),
        },
        Err(error) => Probe {
            name,
            verdict: Verdict::Slower,
            cause: format!("{address} cannot be had ({error}): {otherwise}"),
            fix: format!("ss -ltnp 'sport = :{}'        (shows who has it)", address.port()),
        },
    }
}

/// At a start: warns of what is slower, refuses what cannot run.
pub(super) fn refuse_unfit(config: &Config) -> Result<(), Failure> {
    let report = probe(config);
    for probe in report.troubles().filter(|probe| probe.verdict == Verdict::Slower) {
        // The blanks that set a command apart on a terminal are in the way on one line.
        let fix = probe.fix.split_whitespace().collect::<Vec<_>>().join(" ");
        tracing::warn!(probe = probe.name, fix, "{}", probe.cause);
    }
    let refused = report.troubles().find(|probe| probe.verdict == Verdict::Cannot);
    match refused {
        None => Ok(()),
        Some(probe) => {
            let what = format!("the broker cannot run on this machine as it is ({})", probe.name);
            let failure = unfit(&what).because(&probe.cause);
            Err(if probe.fix.is_empty() { failure } else { failure.fix(probe.fix.clone()) })
        }
    }
}

fn unfit(what: &str) -> Failure {
    Failure::new(what).with_status(STATUS_UNFIT)
}
