//! Why a command of the load generator ends otherwise than well: what, why, and what would help.

use std::fmt;
use std::io;

use tidemill_client::Explanation;

/// The command line, or a file it names, is wrong.
const STATUS_USAGE: u8 = 2;

/// It did not work, or a run was not clean.
const STATUS_FAILED: u8 = 1;

/// An objective was missed; everything else is well.
const STATUS_MISSED: u8 = 11;

/// Why a command ends otherwise than well.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Trouble {
    /// What, why, and what would help.
    pub explanation: Explanation,
    /// The exit status of the process: 1 failed, 2 wrongly asked for, 11 an objective missed.
    pub status: u8,
    /// Whether nobody answered, or nobody could yet: what was asked may be asked again.
    pub is_passing: bool,
}

impl Trouble {
    /// Something did not work.
    pub fn new(what: impl Into<String>) -> Self {
        Self { explanation: Explanation::new(what), status: STATUS_FAILED, is_passing: false }
    }

    /// Nobody answered, or nobody could yet.
    pub fn passing(what: impl Into<String>) -> Self {
        Self { is_passing: true, ..Self::new(what) }
    }

    /// Something was asked for in a wrong way.
    pub fn usage(what: impl Into<String>) -> Self {
        Self { status: STATUS_USAGE, ..Self::new(what) }
    }

    /// An objective was missed.
    pub fn missed(what: impl Into<String>) -> Self {
        Self { status: STATUS_MISSED, ..Self::new(what) }
    }

    /// Adds the reason.
    #[must_use]
    pub fn because(mut self, cause: impl fmt::Display) -> Self {
        self.explanation = self.explanation.because(cause);
        self
    }

    /// Adds a way out.
    #[must_use]
    pub fn fix(mut self, fix: impl Into<String>) -> Self {
        self.explanation = self.explanation.fix(fix);
        self
    }

    /// Whether all that is wrong is that an objective was missed.
    #[must_use]
    pub fn is_missed(&self) -> bool {
        self.status == STATUS_MISSED
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.explanation.fmt(f)
    }
}

impl std::error::Error for Trouble {}

impl From<io::Error> for Trouble {
    fn from(error: io::Error) -> Self {
        Self::new(error.to_string())
    }
}

impl From<tidemill_client::Error> for Trouble {
    fn from(error: tidemill_client::Error) -> Self {
        Self { explanation: error.into(), status: STATUS_FAILED, is_passing: false }
    }
}
