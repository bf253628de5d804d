//! What a person who waits is told on standard error: one line that changes, on a terminal; where
//! there is none, a line for each step that takes long, and one now and then.

use std::io::{self, IsTerminal as _, Write as _};
use std::time::Duration;

/// How often it is told how it stands where there is no terminal.
pub const LINE_EVERY: Duration = Duration::from_secs(5);

/// Tells whoever waits.
#[derive(Clone, Copy, Debug, Default)]
pub struct Progress {
    is_terminal: bool,
    tells_steps: bool,
}

impl Progress {
    /// Tells nothing.
    #[must_use]
    pub fn silent() -> Self {
        Self::default()
    }

    /// Tells, as standard error is a terminal or not.
    #[must_use]
    pub fn on_stderr() -> Self {
        Self { is_terminal: io::stderr().is_terminal(), tells_steps: true }
    }

    /// Whether there is a line that changes.
    #[must_use]
    pub fn has_line(&self) -> bool {
        self.is_terminal
    }

    /// How it stands, which is soon old.
    pub fn say(&self, words: &str) {
        if self.is_terminal {
            // A terminal that cannot be written to is no reason to stop measuring.
            drop(write!(io::stderr(), "\r\x1b[K{words} …"));
        }
    }

    /// A step that took long is done.
    pub fn step(&self, words: &str) {
        match self.is_terminal {
            true => self.say(words),
            false if self.tells_steps => drop(writeln!(io::stderr(), "{words}")),
            false => {}
        }
    }

    /// Takes the line away.
    pub fn clear(&self) {
        if self.is_terminal {
            drop(write!(io::stderr(), "\r\x1b[K"));
        }
    }
}
