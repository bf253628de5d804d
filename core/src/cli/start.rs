//! `tidemill start`: from the command line to a running broker.
//!
//! The lock on the data directory lives as long as the process, so two brokers can never write to
//! the same data.

use std::fs::{File, TryLockError};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Args;
use tidemill_runtime::preflight;

use super::failure::Failure;
use super::{check, print_line};
use crate::config::{Config, Layers, Origin, Routing};
use crate::node::{self, Ready};
use crate::{logging, stop};

/// The name of the file in the data directory that a running broker holds a lock on.
pub(super) const LOCK_FILE: &str = "lock";

/// How long to wait for a lock whose holder is gone.
const LOCK_WITHIN: Duration = Duration::from_secs(10);

/// How often to look.
const LOCK_EVERY: Duration = Duration::from_millis(2);

/// `tidemill [start] …`
#[derive(Args, Debug)]
pub(super) struct Start {
    #[command(flatten)]
    given: Given,
}

/// What the command line says about the configuration.
#[derive(Args, Debug)]
pub(super) struct Given {
    /// A TOML file with settings.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Where the data is kept [default: ./tidemill-data]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<String>,
    /// The address to serve clients on [default: 127.0.0.1:9092]
    #[arg(long, value_name = "IP:PORT")]
    listen: Option<String>,
    /// How many shards to run [default: one per core]
    #[arg(long, value_name = "N")]
    shards: Option<String>,
    /// Any setting by its name; may be repeated. `tidemill config` lists them.
    #[arg(long, value_name = "NAME=VALUE")]
    set: Vec<String>,
}

impl Given {
    /// Lays file, `--set` and flags over the defaults.
    pub(super) fn config(&self) -> Result<Config, Failure> {
        let mut layers = Layers::default();
        if let Some(path) = &self.config {
            layers.read_file(path)?;
        }
        for assignment in &self.set {
            layers.assign(assignment)?;
        }
        let flags = [
            ("log.dir", &self.data_dir, "--data-dir"),
            ("listeners", &self.listen, "--listen"),
            ("tidemill.shards", &self.shards, "--shards"),
        ];
        for (name, value, flag) in flags {
            if let Some(value) = value {
                layers.set(name, value, Origin::Flag(flag))?;
            }
        }
        Ok(Config::from_layers(layers)?)
    }
}

impl Start {
    pub(super) fn run(self) -> Result<(), Failure> {
        let config = self.given.config()?;
        let _logs = logging::start(&config.log_filter)
            .map_err(|reason| Failure::usage(format!("tidemill.log: {reason}")))?;
        let lock = Arc::new(lock(&config.data_dir)?);
        node::wait_for_ports(&config);
        check::refuse_unfit(&config)?;
        stop::watch().map_err(|e| Failure::new("cannot wait for signals").because(e))?;
        node::run(config, lock, announce)
            .map_err(|e| Failure::new("the broker could not run").because(e))
    }
}

/// The one line on standard output, by which whoever started us knows that we serve.
fn announce(ready: &Ready) {
    let routing = match ready.routing {
        Routing::Owner => "owner",
        Routing::Node => "node",
    };
    let (address, shards) = (ready.address, ready.shards);
    let admin = ready.admin.map_or_else(|| "none".to_owned(), |address| address.to_string());
    // A closed standard output is no reason not to serve.
    let _ = print_line(&format!("ready {address} shards={shards} routing={routing} admin={admin}"));
}

/// Makes the data directory if it is missing, and takes its lock.
///
/// Every ring holds the file open too (see [`RingConfig::keep_open`]): after a kill the lock is free
/// only when the kernel has carried out the last write of the process that is gone. Nothing is
/// read or written here before.
///
/// [`RingConfig::keep_open`]: tidemill_runtime::ring::RingConfig::keep_open
fn lock(data_dir: &Path) -> Result<File, Failure> {
    let shown = data_dir.display();
    std::fs::create_dir_all(data_dir).map_err(|e| {
        Failure::new(format!("cannot make the data directory {shown}"))
            .fix(match data_dir.exists() {
                true => "it is no directory: name one with --data-dir DIR".to_owned(),
                false => preflight::writable_fix(data_dir, &e),
            })
            .because(e)
    })?;
    let unlockable = |e: std::io::Error| {
        Failure::new(format!("cannot lock the data directory {shown}"))
            .because(e)
            .fix("give the directory and what is in it to the user the broker runs as")
    };
    let path = data_dir.join(LOCK_FILE);
    let mut file = File::options()
        .create(true)
        .truncate(false)
        .read(true)
        .write(true)
        .open(&path)
        .map_err(unlockable)?;
    let deadline = Instant::now() + LOCK_WITHIN;
    loop {
        match file.try_lock() {
            Ok(()) => break,
            Err(TryLockError::Error(error)) => return Err(unlockable(error)),
            Err(TryLockError::WouldBlock) => {}
        }
        let holder = holder(&path);
        if holder.is_some_and(is_running) || deadline <= Instant::now() {
            let holder =
                holder.map_or_else(|| "a process".to_owned(), |pid| format!("process {pid}"));
            let what = format!("the data directory {shown} is in use by another tidemill");
            return Err(Failure::new(what)
                .because(format!("{holder} holds the lock on {}", path.display()))
                .fix("stop the other one, or name another directory with --data-dir DIR"));
        }
        std::thread::sleep(LOCK_EVERY);
    }
    // Only a hint for the message above: the lock is what counts.
    let written = file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id()));
    written.map_err(unlockable)?;
    Ok(file)
}

/// The process that wrote its id into the lock file last.
pub(super) fn holder(path: &Path) -> Option<u32> {
    std::fs::read_to_string(path).ok()?.trim().parse().ok()
}

fn is_running(pid: u32) -> bool {
    Path::new("/proc").join(pid.to_string()).exists()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two brokers on one directory would overwrite each other's journal.
    #[test]
    fn a_data_directory_has_one_broker_at_a_time() {
        let dir = std::env::temp_dir().join(format!("tidemill-lock-{}", std::process::id()));
        let held = lock(&dir).unwrap();
        let refused = lock(&dir).unwrap_err();
        assert!(refused.to_string().contains("in use by another tidemill"), "{refused}");
        drop(held);
        assert!(lock(&dir).is_ok(), "free again once the first is gone");
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
