//! What a person is told when a command cannot be carried out: what, why, and what would help.

use std::fmt;

/// Why a command ends without having done its work.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Failure {
    /// What could not be done.
    pub what: String,
    /// Why, as far as we know.
    pub cause: Option<String>,
    /// What the person can do about it.
    pub fix: Option<String>,
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
        Self {
            what: what.into(),
            cause: None,
            fix: None,
            status: STATUS_FAILED,
            closed_output: false,
        }
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

    /// What and why, for whoever waits for it to pass.
    pub(super) fn in_one_line(&self) -> String {
        match &self.cause {
            Some(cause) => format!("{}: {cause}", self.what),
            None => self.what.clone(),
        }
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
        self.cause = Some(cause.to_string());
        self
    }

    /// Adds a way out.
    #[must_use]
    pub fn fix(mut self, fix: impl Into<String>) -> Self {
        self.fix = Some(fix.into());
        self
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)?;
        if let Some(cause) = &self.cause {
            write!(f, "\n  cause: {cause}")?;
        }
        if let Some(fix) = &self.fix {
            write!(f, "\n  fix:   {fix}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Failure {}

/// What a broker or the way to it is to blame for is said by the client, in the same three parts.
impl From<tidemill_client::Error> for Failure {
    fn from(error: tidemill_client::Error) -> Self {
        Self {
            cause: error.cause().map(str::to_owned),
            fix: error.remedy().map(str::to_owned),
            ..Self::new(error.what())
        }
    }
}

impl From<tidemill_bench::trouble::Trouble> for Failure {
    fn from(trouble: tidemill_bench::trouble::Trouble) -> Self {
        let tidemill_bench::trouble::Trouble { what, cause, fix, status } = trouble;
        Self { cause, fix, status, ..Self::new(what) }
    }
}

impl From<crate::config::ConfigError> for Failure {
    fn from(error: crate::config::ConfigError) -> Self {
        Self::usage(error.to_string())
    }
}
