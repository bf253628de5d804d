//! What an application is told when something cannot be done: what, why, and what would help.

use std::fmt;

use tidemill_net::kafka::{ApiKey, ErrorCode};

use crate::connection::SendError;

/// What kind of trouble it is, for programs.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ErrorKind {
    /// No broker could be reached, or the last connection was lost.
    Unreachable,
    /// The cluster names this node, but where it is said to be it cannot be reached.
    NodeUnreachable(i32),
    /// It took longer than allowed. It may have happened all the same.
    TimedOut,
    /// A broker refused.
    Refused(ErrorCode),
    /// As much as allowed is under way; try again later.
    Full,
    /// The client has been closed.
    Closed,
    /// Asked for in a wrong way.
    Invalid,
    /// What the broker sent is damaged.
    Damaged,
    /// The broker does not speak what is needed.
    Unsupported,
}

/// What could not be done, why, and what would help: three lines for a person. It is here, where
/// most of them come from, for all programs that use this library.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Explanation {
    /// What could not be done, or is not as it should be.
    pub what: String,
    /// Why, as far as known.
    pub cause: Option<String>,
    /// What would help, if we know it.
    pub fix: Option<String>,
}

impl Explanation {
    /// Only what, so far.
    pub fn new(what: impl Into<String>) -> Explanation {
        Explanation { what: what.into(), cause: None, fix: None }
    }

    /// Adds the reason.
    #[must_use]
    pub fn because(mut self, cause: impl fmt::Display) -> Explanation {
        self.cause = Some(cause.to_string());
        self
    }

    /// Adds a way out.
    #[must_use]
    pub fn fix(mut self, fix: impl Into<String>) -> Explanation {
        self.fix = Some(fix.into());
        self
    }

    /// What and why, for whoever waits for it to pass.
    pub fn in_one_line(&self) -> String {
        match &self.cause {
            Some(cause) => format!("{}: {cause}", self.what),
            None => self.what.clone(),
        }
    }
}

impl fmt::Display for Explanation {
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

/// Why something was not done: in words, and in kind.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Error {
    kind: ErrorKind,
    explanation: Explanation,
}

impl Error {
    pub(crate) fn new(kind: ErrorKind, what: impl Into<String>) -> Error {
        Error { kind, explanation: Explanation::new(what) }
    }

    /// A broker's refusal, in words.
    pub(crate) fn refused(what: impl Into<String>, code: ErrorCode, words: Option<&str>) -> Error {
        let error = Error::new(ErrorKind::Refused(code), what);
        let words = words.filter(|words| !words.is_empty());
        let error = match words {
            Some(words) => error.because(format!("{code}: {words}")),
            None => error.because(code),
        };
        match fix_for(code) {
            Some(fix) => error.fix(fix),
            None => error,
        }
    }

    /// Nobody could be asked. `trouble` is what is known of the reason.
    pub(crate) fn unreachable(
        kind: ErrorKind,
        what: impl Into<String>,
        trouble: Option<&str>,
    ) -> Error {
        let error = Error::new(kind, what).because(trouble.unwrap_or("no broker has answered yet"));
        match kind {
            ErrorKind::NodeUnreachable(node) => error.fix(format!(
                "the cluster names this address for node {node}: see advertised.listeners on that \
                 broker (and tidemill.routing, if it is a tidemill)"
            )),
            _ => error.fix("see whether the brokers run, and can be reached from here"),
        }
    }

    /// The broker and we have no version of an API in common; `theirs` is what it speaks.
    pub(crate) fn unsupported(
        what: impl Into<String>,
        api: ApiKey,
        theirs: Option<(i16, i16)>,
    ) -> Error {
        let is_newer = theirs.is_some_and(|(lowest, _)| api.api().max < lowest);
        Error::new(ErrorKind::Unsupported, what)
            .because(SendError::NoCommonVersion { api, theirs })
            .fix(if is_newer { "use a newer client" } else { "use a newer broker" })
    }

    pub(crate) fn because(mut self, cause: impl fmt::Display) -> Error {
        self.explanation = self.explanation.because(cause);
        self
    }

    pub(crate) fn fix(mut self, fix: impl Into<String>) -> Error {
        self.explanation = self.explanation.fix(fix);
        self
    }

    /// What kind of trouble it is.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// What, why, and what would help.
    pub fn explanation(&self) -> &Explanation {
        &self.explanation
    }
}

impl From<Error> for Explanation {
    fn from(error: Error) -> Explanation {
        error.explanation
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.explanation.fmt(f)
    }
}

impl std::error::Error for Error {}

fn fix_for(code: ErrorCode) -> Option<&'static str> {
    Some(match code {
        ErrorCode::UnknownTopicOrPartition | ErrorCode::UnknownTopicId => {
            "create the topic, or check its name and the number of the partition"
        }
        ErrorCode::TopicAlreadyExists => "use the topic that is there, or delete it first",
        ErrorCode::InvalidTopicException => {
            "a name has 1 to 249 letters, digits, dots, underscores or dashes"
        }
        ErrorCode::MessageTooLarge | ErrorCode::RecordListTooLarge => {
            "send smaller records, or raise max.message.bytes of the topic"
        }
        ErrorCode::InvalidReplicationFactor => {
            "ask for no more replicas than there are brokers, or leave it to the broker"
        }
        ErrorCode::TopicAuthorizationFailed
        | ErrorCode::ClusterAuthorizationFailed
        | ErrorCode::GroupAuthorizationFailed => "give this client's user the right to do this",
        ErrorCode::OffsetOutOfRange => "seek to an offset that is kept, or set a reset policy",
        ErrorCode::NotEnoughReplicas | ErrorCode::NotEnoughReplicasAfterAppend => {
            "bring back the brokers that are away, or lower min.insync.replicas of the topic"
        }
        ErrorCode::LeaderNotAvailable => "see whether all brokers of the cluster run",
        ErrorCode::KafkaStorageError => {
            "the broker's log says which file and why (`tidemill check` tests a tidemill's disk)"
        }
        _ => return None,
    })
}
