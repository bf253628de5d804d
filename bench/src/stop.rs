//! Being asked to stop: the first SIGINT or SIGTERM ends a run as if its time were over, so that
//! what was measured is told and what it made is deleted; the second ends the process at once.

use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;

use crate::trouble::Trouble;

/// What is said of a run that was asked to stop.
pub const WHY: &str = "it was stopped by a signal before its time";

/// Signals are for the process, and so is what they ask for.
static ASKED: OnceLock<Arc<AtomicBool>> = OnceLock::new();

/// From now on signals ask for an end.
pub fn watch() -> Result<(), Trouble> {
    let asked = Arc::new(AtomicBool::new(false));
    if ASKED.set(Arc::clone(&asked)).is_err() {
        return Ok(());
    }
    for signal in [SIGINT, SIGTERM] {
        flag::register_conditional_shutdown(signal, 1, Arc::clone(&asked))
            .and_then(|_| flag::register(signal, Arc::clone(&asked)))
            .map_err(|error| Trouble::new("cannot wait for signals").because(error))?;
    }
    Ok(())
}

/// Whether an end was asked for.
#[must_use]
pub fn is_asked() -> bool {
    ASKED.get().is_some_and(|asked| asked.load(Ordering::Acquire))
}

/// An error if an end was asked for: what would come next does not come.
pub fn check() -> Result<(), Trouble> {
    if is_asked() { Err(Trouble::new(WHY)) } else { Ok(()) }
}
