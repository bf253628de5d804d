//! `tidemill check`: can this machine run the broker, and at full speed? The same probes are made
//! at each start.

use clap::Args;
use serde_json::json;
use tidemill_runtime::preflight::{self, Plan, Report, Verdict};

use super::failure::{Failure, STATUS_UNFIT};
use super::start::Given;
use super::{Output, print_line};
use crate::config::Config;

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
        let report = probe(&self.given.config()?);
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

/// At a start: warns of what is slower, refuses what cannot run.
pub(super) fn refuse_unfit(config: &Config) -> Result<(), Failure> {
    let report = probe(config);
    for probe in report.troubles().filter(|probe| probe.verdict == Verdict::Slower) {
        tracing::warn!(probe = probe.name, fix = probe.fix, "{}", probe.cause);
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
