//! What is asked of a coordinator of transactions and what it answers, without any version of the
//! wire.

use std::sync::Arc;

use tidemill_net::kafka::ErrorCode;
use tidemill_record::Producer;

use super::state::{Part, State};

/// Something asked of the coordinator of one partition.
#[derive(Clone, Debug)]
pub enum Request {
    /// InitProducerId with a transactional id.
    Init {
        /// Whose.
        id: Arc<str>,
        /// After how long an open transaction is aborted.
        timeout_ms: i32,
        /// Who the client was until now, if it says.
        expected: Option<Producer>,
    },
    /// Partitions become part of a transaction.
    Add {
        /// Whose.
        id: Arc<str>,
        /// Who writes.
        producer: Producer,
        /// To what.
        parts: Vec<Part>,
        /// In the newer flow, by which the batch itself adds its partition.
        is_newer: bool,
        /// Whoever asks can wait until the transaction before is complete.
        waits: bool,
    },
    /// Are partitions part of the open transaction?
    Verify {
        /// Whose.
        id: Arc<str>,
        /// Who writes.
        producer: Producer,
        /// To what.
        parts: Vec<Part>,
    },
    /// EndTxn.
    End {
        /// Whose.
        id: Arc<str>,
        /// Who ends it.
        producer: Producer,
        /// Whether it counts.
        commit: bool,
        /// In the newer flow.
        is_newer: bool,
    },
    /// DescribeTransactions, for one id.
    Describe {
        /// Whose.
        id: Arc<str>,
    },
    /// ListTransactions.
    List(Filter),
}

impl Request {
    /// The transactional id it is about; none if about all.
    pub fn id(&self) -> Option<&Arc<str>> {
        match self {
            Self::Init { id, .. }
            | Self::Add { id, .. }
            | Self::Verify { id, .. }
            | Self::End { id, .. }
            | Self::Describe { id } => Some(id),
            Self::List(_) => None,
        }
    }
}

/// Which transactions to list.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Only in these states; all if empty.
    pub states: Vec<String>,
    /// Only of these producers; all if empty.
    pub producers: Vec<i64>,
    /// Only those open for longer.
    pub open_for_ms: Option<i64>,
}

/// What came of a [`Request`].
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Reply {
    /// Nothing was done.
    Refused(ErrorCode),
    /// Who may write from now on: to Init and End.
    Producer(Producer),
    /// To Add.
    Done,
    /// To Verify, for each partition.
    Verified(Vec<ErrorCode>),
    /// To Describe; none if there is no such id.
    Described(Option<Box<State>>),
    /// To List.
    Listed(Vec<(Arc<str>, Producer, &'static str)>),
}
