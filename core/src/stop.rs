//! Being asked to stop: SIGTERM or SIGINT once means a clean stop, twice means now.
//!
//! The binary calls [`watch`] before anything else runs; the node calls [`wait`] once it serves.
//! Whoever embeds the broker can [`request`] a stop without a signal.

use std::sync::{Condvar, Mutex, PoisonError};

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

static REQUESTED: Mutex<bool> = Mutex::new(false);
static CHANGED: Condvar = Condvar::new();

/// Turns the first SIGTERM or SIGINT into a request to stop, and the second into
/// an end at once, with status 1.
pub fn watch() -> std::io::Result<()> {
    let mut signals = Signals::new([SIGTERM, SIGINT])?;
    std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
        for (count, _signal) in signals.forever().enumerate() {
            if count != 0 {
                // Acknowledged records are on disk: an end without any last step loses none of
                // them. Nothing is run at this exit, which could wait for what hangs.
                signal_hook::low_level::exit(1);
            }
            request();
        }
    })?;
    Ok(())
}

/// Asks for a clean stop.
pub fn request() {
    // The flag is whole whoever panicked while holding the lock.
    *REQUESTED.lock().unwrap_or_else(PoisonError::into_inner) = true;
    CHANGED.notify_all();
}

/// Waits until a stop is asked for.
pub fn wait() {
    let mut requested = REQUESTED.lock().unwrap_or_else(PoisonError::into_inner);
    while !*requested {
        requested = CHANGED.wait(requested).unwrap_or_else(PoisonError::into_inner);
    }
}
