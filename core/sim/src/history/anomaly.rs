//! The names of the anomalies, and which of them a Kafka broker may show.

use std::fmt;

/// Something that should not be, in a word.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Anomaly {
    /// An offset of a key held different values.
    InconsistentOffsets,
    /// A value lies at several offsets of a key.
    Duplicate,
    /// A committed operation read what an operation wrote that certainly failed.
    AbortedRead,
    /// An operation read what it had itself sent and not committed.
    PrecommittedRead,
    /// A value was passed over by all who read what lies behind it.
    LostWrite,
    /// An acknowledged value that nobody had polled by the end.
    Unseen,
    /// A value that nobody sent.
    Phantom,
    /// Of a transaction's writes some are to be seen and some are not.
    TornTransaction,
    /// An operation read on behind where the last one of its process had ended.
    PollSkip,
    /// An operation read again what an earlier one of its process had read.
    NonmonotonicPoll,
    /// A skip within one operation.
    IntPollSkip,
    /// A step back within one operation.
    IntNonmonotonicPoll,
    /// A process's later operation sent to an earlier place.
    NonmonotonicSend,
    /// The same within one operation.
    IntNonmonotonicSend,
    /// Between two sends of one operation lies another's.
    IntSendSkip,
    /// A cycle of the order of writes.
    WriteCycle(Beside),
    /// A cycle of who read whose writes.
    ReadCycle(Beside),
    /// A cycle of the order of writes too large to be shown.
    WriteCycleExists,
    /// A cycle of who read whose writes too large to be shown.
    ReadCycleExists,
    /// A high watermark or last stable offset went back.
    EndRegression,
    /// An offset that nobody polls, for which nothing in the log accounts; or the other way round.
    OffsetGap,
}

/// What takes part in a cycle beside the dependencies.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Beside {
    /// Nothing.
    Nothing,
    /// The order of one process.
    Process,
    /// The order of time.
    Realtime,
}

/// What decides about what is allowed, and what is looked for.
#[derive(Clone, Copy, Debug)]
pub struct Terms {
    /// Consumers were given their partitions by a group.
    pub subscribe: bool,
    /// The order of writes takes part in the cycles of reads.
    pub ww_edges: bool,
    /// No cycle is shown of a knot of more operations than this.
    pub shown_operations_max: usize,
}

impl Default for Terms {
    fn default() -> Self {
        Self { subscribe: false, ww_edges: false, shown_operations_max: 10_000 }
    }
}

impl Anomaly {
    /// Whether a broker may show it.
    ///
    /// Transactions of Kafka do not isolate writes: those of several transactions lie between each
    /// other, and cycles that the order of writes takes part in are no surprise. And partitions
    /// that a group takes from one process and gives to another are read from where the group is.
    #[must_use]
    pub fn is_allowed(self, terms: Terms) -> bool {
        match self {
            Self::IntSendSkip | Self::WriteCycle(_) | Self::WriteCycleExists => true,
            Self::PollSkip | Self::NonmonotonicPoll => terms.subscribe,
            Self::ReadCycle(_) | Self::ReadCycleExists => terms.ww_edges,
            _ => false,
        }
    }
}

impl fmt::Display for Anomaly {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self {
            Self::InconsistentOffsets => "inconsistent-offsets",
            Self::Duplicate => "duplicate",
            Self::AbortedRead => "G1a",
            Self::PrecommittedRead => "precommitted-read",
            Self::LostWrite => "lost-write",
            Self::Unseen => "unseen",
            Self::Phantom => "phantom",
            Self::TornTransaction => "torn-transaction",
            Self::PollSkip => "poll-skip",
            Self::NonmonotonicPoll => "nonmonotonic-poll",
            Self::IntPollSkip => "int-poll-skip",
            Self::IntNonmonotonicPoll => "int-nonmonotonic-poll",
            Self::NonmonotonicSend => "nonmonotonic-send",
            Self::IntNonmonotonicSend => "int-nonmonotonic-send",
            Self::IntSendSkip => "int-send-skip",
            Self::WriteCycle(Beside::Nothing) => "G0",
            Self::WriteCycle(Beside::Process) => "G0-process",
            Self::WriteCycle(Beside::Realtime) => "G0-realtime",
            Self::ReadCycle(Beside::Nothing) => "G1c",
            Self::ReadCycle(Beside::Process) => "G1c-process",
            Self::ReadCycle(Beside::Realtime) => "G1c-realtime",
            Self::WriteCycleExists => "PL-1-cycle-exists",
            Self::ReadCycleExists => "PL-2-cycle-exists",
            Self::EndRegression => "end-regression",
            Self::OffsetGap => "offset-gap",
        };
        f.write_str(name)
    }
}
