//! What the broker says about itself: events on stderr, written by a thread of their own.
//!
//! A slow terminal or a full pipe must not hold up a shard: lines are queued, and when the queue
//! is full they are dropped and counted.

use std::io::IsTerminal;

use tracing_appender::non_blocking::{NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::EnvFilter;

/// How many lines may wait for the writer.
const LINES_MAX: usize = 8192;

/// Keeps the writer alive; what is queued is written when this is dropped.
#[derive(Debug)]
#[must_use = "without it nothing is written"]
pub struct Logs {
    _writer: WorkerGuard,
}

/// Begins to write events that pass `filter`; otherwise says what is wrong with the filter.
pub fn start(filter: &str) -> Result<Logs, String> {
    let filter = EnvFilter::try_new(filter).map_err(|e| e.to_string())?;
    let (lines, writer) = NonBlockingBuilder::default()
        .buffered_lines_limit(LINES_MAX)
        .lossy(true)
        .thread_name("logs")
        .finish(std::io::stderr());
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(lines)
        .with_ansi(std::io::stderr().is_terminal())
        .try_init()
        .map_err(|e| e.to_string())?;
    Ok(Logs { _writer: writer })
}
