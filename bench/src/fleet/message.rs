//! What the processes of a run say to each other: lines of JSON, each of bounded length.

use std::fs;
use std::io::{self, BufRead, Read as _, Write};
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::settings::{Settings, Share};
use crate::tally::{Ends, Tallies};
use crate::usage::OwnUse;

/// The longest line that is read: what is known at the end of ten thousand partitions, and more.
const LINE_BYTES_MAX: u64 = 256 << 20;

/// What a worker is told.
#[derive(Debug, Deserialize, Serialize)]
pub enum ToWorker {
    /// Connect.
    Order(Box<Order>),
    /// Begin.
    Start(Start),
    /// Nobody produces any more in the run of this number.
    Settled(u64),
    /// The time of this run is over: what is in flight is awaited.
    Cut(u64),
    /// End this run at once.
    Stop(u64),
}

/// What a worker is to do.
#[derive(Debug, Deserialize, Serialize)]
pub struct Order {
    /// The run's number.
    pub run: u64,
    /// Which part of it.
    pub share: Share,
    /// All of the run.
    pub settings: Settings,
}

/// When the load begins, by two clocks.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Start {
    /// The boot of the machine whose monotonic clock is meant.
    pub boot_id: String,
    /// By that clock.
    pub monotonic_nanos: u64,
    /// By the wall clock, for other machines.
    pub unix_nanos: u64,
}

/// What a worker tells, and of which run: what is left of an earlier one is no news of this one.
#[derive(Debug, Deserialize, Serialize)]
pub struct Told {
    /// The run's number.
    pub run: u64,
    /// What it tells.
    pub word: FromWorker,
}

/// What a worker tells of a run.
#[derive(Debug, Deserialize, Serialize)]
pub enum FromWorker {
    /// All its connections are made.
    Ready {
        /// The boot of its machine.
        boot_id: String,
    },
    /// What it measured since it told the last time, and the CPU time it used.
    Interval {
        /// By phase.
        tallies: Tallies,
        /// Of all its threads.
        cpu: Duration,
    },
    /// None of its connections produces any more.
    Settled,
    /// Its run has ended.
    End {
        /// What is known.
        ends: Box<Ends>,
        /// What it used in each phase.
        used: Vec<OwnUse>,
    },
    /// It could not do it.
    Failed(String),
}

/// The boot that this machine runs since; empty where the kernel does not tell.
#[must_use]
pub fn boot_id() -> String {
    let text = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    text.trim().to_owned()
}

/// The next message; none at the end.
pub fn read_line<T: DeserializeOwned>(from: &mut impl BufRead) -> io::Result<Option<T>> {
    let mut line = String::new();
    from.by_ref().take(LINE_BYTES_MAX).read_line(&mut line)?;
    if line.is_empty() {
        return Ok(None);
    }
    let shown: String = line.trim_end().chars().take(80).collect();
    let told = |error| io::Error::other(format!("not a message of a worker ({error}): {shown}"));
    serde_json::from_str(&line).map(Some).map_err(told)
}

/// Writes a message.
pub fn write_line(to: &mut impl Write, message: &impl Serialize) -> io::Result<()> {
    let mut line = serde_json::to_vec(message).map_err(io::Error::other)?;
    line.push(b'\n');
    to.write_all(&line)?;
    to.flush()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::BufReader;

    /// Messages come one by one, as they were sent; noise is told with its beginning.
    #[test]
    fn messages_are_lines() {
        let mut bytes = Vec::new();
        write_line(&mut bytes, &ToWorker::Settled(1)).unwrap();
        write_line(&mut bytes, &ToWorker::Stop(1)).unwrap();
        bytes.extend_from_slice(b"Permission denied\n");
        let mut from = BufReader::new(&bytes[..]);
        assert!(matches!(read_line(&mut from).unwrap(), Some(ToWorker::Settled(1))));
        assert!(matches!(read_line(&mut from).unwrap(), Some(ToWorker::Stop(1))));
        let error = read_line::<ToWorker>(&mut from).unwrap_err().to_string();
        assert!(error.contains("Permission denied"), "{error}");
        assert!(read_line::<ToWorker>(&mut from).unwrap().is_none());
    }
}
