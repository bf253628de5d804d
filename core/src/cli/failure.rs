//! What a person is told when a command cannot be carried out: what, why, and what would help.

use std::fmt;

use tidemill_client::Explanation;

/// Why a command ends without having done its work.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Failure {
    /// What, why, and what would help.
    pub explanation: Explanation,
    /// The exit status of the process.
    pub status: u8,
    /// Whether nothing is wrong but that nobody reads our output any more.
    closed_output: bool,
}

/// The command was understood but could not be carried out.
pub(super) const STATUS_FAILED: u8 = 1;

/// The command line or the configuration is wrong.
pub(super) const STATUS_USAGE: u8 = 2;

/// The machine cannot run the broker.
pub(super) const STATUS_UNFIT: u8 = 10;

impl Failure {
    /// Something did not work.
    #[must_use]
    pub fn new(what: impl Into<String>) -> Self {
        Self::from(Explanation::new(what))
    }

    /// Something was asked for in a wrong way.
    #[must_use]
    pub fn usage(what: impl Into<String>) -> Self {
        Self { status: STATUS_USAGE, ..Self::new(what) }
    }

    /// Marks the one failure that is none: whoever reads our output has closed it.
    #[must_use]
    pub fn closed_output(mut self) -> Self {
        self.closed_output = true;
        self
    }

    /// Whether nothing is wrong but that nobody reads our output any more.
    #[must_use]
    pub fn is_closed_output(&self) -> bool {
        self.closed_output
    }

    /// Ends the process with another status.
    #[must_use]
    pub fn with_status(mut self, status: u8) -> Self {
        self.status = status;
        self
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
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.explanation.fmt(f)
    }
}

impl std::error::Error for Failure {}

impl From<Explanation> for Failure {
    fn from(explanation: Explanation) -> Self {
        Self { explanation, status: STATUS_FAILED, closed_output: false }
    }
}

/// What a broker or the way to it is to blame for is said by the client.
impl From<tidemill_client::Error> for Failure {
    fn from(error: tidemill_client::Error) -> Self {
        Self::from(Explanation::from(error))
    }
}

impl From<tidemill_bench::trouble::Trouble> for Failure {
    fn from(trouble: tidemill_bench::trouble::Trouble) -> Self {
        Self::from(trouble.explanation).with_status(trouble.status)
    }
}

impl From<crate::config::ConfigError> for Failure {
    fn from(error: crate::config::ConfigError) -> Self {
        Self::usage(error.to_string())
    }
}
