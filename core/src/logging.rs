//! What the broker says about itself: events on stderr, written by a thread of their own.
//!
//! A slow terminal or a full pipe must not hold up a shard: lines are queued, and when the queue
//! is full they are dropped and counted.

use std::io::IsTerminal;

use tracing_appender::non_blocking::{NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::EnvFilter;

/// How many lines may wait for the writer.
const LINES_MAX: usize = 8192;

/// What a filter of one word can be.
const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

/// Keeps the writer alive; what is queued is written when this is dropped.
#[derive(Debug)]
#[must_use = "without it nothing is written"]
pub struct Logs {
    _writer: WorkerGuard,
}

/// Begins to write events that pass `filter`; otherwise says what is wrong with the filter.
pub fn start(filter: &str) -> Result<Logs, String> {
    let filter = read(filter)?;
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

/// Reads a filter. A single word is a level: the filter's own grammar takes any other word for the
/// name of a part of the program, and would be silent but for that part.
fn read(filter: &str) -> Result<EnvFilter, String> {
    let is_word = !filter.contains(['=', ',']);
    if is_word && !LEVELS.contains(&filter.trim().to_ascii_lowercase().as_str()) {
        let levels = LEVELS.join(", ");
        return Err(format!(
            "{filter:?} is none of {levels}, nor a filter such as info,broker=debug"
        ));
    }
    EnvFilter::try_new(filter.trim()).map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The bug: `verbose` was taken for the name of a part, and nothing was logged any more.
    #[test]
    fn a_word_that_is_no_level_is_refused() {
        for level in ["info", "WARN", "off", "info,broker::api=debug", "broker=trace"] {
            assert!(read(level).is_ok(), "{level}");
        }
        assert!(read("verbose").unwrap_err().contains("none of off, error"));
        assert!(read("").is_err());
    }
}
