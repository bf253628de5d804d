//! How one transactional id stands, and what may become of it.
//!
//! ```text
//!            add               end                     all marked
//!   Empty ────────> Ongoing ────────> Prepare{Commit,Abort} ────────> Complete{Commit,Abort}
//!     ^                 │ init, timeout: abort under a higher epoch         │  add: Ongoing
//!     └──────────────────────────── init: next epoch ───────────────────────┘
//! ```
//!
//! Each function here looks at a state and says what is to be written, or why nothing is. In the
//! *newer* flow (KIP-890, transaction version 2) each end raises the producer's epoch, so that no
//! late batch of one transaction gets into the next. In the older one the epoch stays.
//!
//! Start reading at [`State`], then [`init`].

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use tidemill_net::kafka::ErrorCode;
use tidemill_net::kafka::describe_transactions::state as name;
use tidemill_record::{Producer, ProducerEpoch, ProducerId};

use super::request::Reply;
use crate::limits::TRANSACTION_PARTITIONS_MAX;

/// A partition, by the name of its topic.
pub type Part = (Arc<str>, i32);

/// What a transactional id is doing.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Status {
    /// There is a producer, and it has done nothing yet.
    Empty,
    /// A transaction is open.
    Ongoing,
    /// It is decided that it counts; its partitions are being told.
    PrepareCommit,
    /// It is decided that it does not count; its partitions are being told.
    PrepareAbort,
    /// The last one counts, and all its partitions know.
    CompleteCommit,
    /// The last one does not count, and all its partitions know.
    CompleteAbort,
}

impl Status {
    /// All, by their numbers in Kafka's records.
    pub const ALL: [Self; 6] = [
        Self::Empty,
        Self::Ongoing,
        Self::PrepareCommit,
        Self::PrepareAbort,
        Self::CompleteCommit,
        Self::CompleteAbort,
    ];

    /// Kafka's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Empty => name::EMPTY,
            Self::Ongoing => name::ONGOING,
            Self::PrepareCommit => name::PREPARE_COMMIT,
            Self::PrepareAbort => name::PREPARE_ABORT,
            Self::CompleteCommit => name::COMPLETE_COMMIT,
            Self::CompleteAbort => name::COMPLETE_ABORT,
        }
    }

    /// Whether partitions are being told how it ended.
    pub fn is_prepared(self) -> bool {
        matches!(self, Self::PrepareCommit | Self::PrepareAbort)
    }

    fn committed(self) -> bool {
        matches!(self, Self::PrepareCommit | Self::CompleteCommit)
    }
}

/// How one transactional id stands.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct State {
    /// Who may write.
    pub producer: Producer,
    /// Who could before, if the same client was told to go on as `producer`: it may not have
    /// heard.
    pub previous: Option<Producer>,
    /// The id to go on with once the transaction is complete: the epochs of this one are used up.
    pub next: Option<ProducerId>,
    /// After how long an open transaction is aborted.
    pub timeout_ms: i32,
    /// What it is doing.
    pub status: Status,
    /// What the transaction writes to.
    pub partitions: BTreeSet<Part>,
    /// The client follows the newer flow.
    pub is_newer: bool,
    /// When this was written.
    pub updated_ms: i64,
    /// When the transaction began.
    pub started_ms: Option<i64>,
}

/// What comes of something that was asked.
#[derive(Debug)]
pub enum Decision {
    /// Nothing is to be written.
    Reply(Reply),
    /// This is to be written, and then answered.
    Write(Box<State>, Reply),
    /// A producer id is needed first.
    NeedsId,
}

impl Decision {
    fn refuse(error: ErrorCode) -> Self {
        Self::Reply(Reply::Refused(error))
    }
}

/// The last epoch that a producer may go on from: one more is left, to fence it with.
fn is_exhausted(epoch: ProducerEpoch) -> bool {
    i16::MAX - 1 <= epoch.0
}

fn next_epoch(producer: Producer) -> Producer {
    let epoch = ProducerEpoch(producer.epoch.0.saturating_add(1));
    Producer { epoch, ..producer }
}

/// A client begins, or begins anew: InitProducerId. `expected` is who it was until now, if it says.
pub fn init(
    state: Option<&State>,
    timeout_ms: i32,
    expected: Option<Producer>,
    ids: &mut VecDeque<ProducerId>,
    now_ms: i64,
) -> Decision {
    let begin = |producer: Producer, previous: Option<Producer>| {
        let state = State {
            producer,
            previous,
            next: None,
            timeout_ms,
            status: Status::Empty,
            partitions: BTreeSet::new(),
            is_newer: false,
            updated_ms: now_ms,
            started_ms: None,
        };
        Decision::Write(Box::new(state), Reply::Producer(producer))
    };
    let mut begin_as_new = |previous| match ids.pop_front() {
        Some(id) => begin(Producer { id, epoch: ProducerEpoch(0) }, previous),
        None => Decision::NeedsId,
    };
    let Some(state) = state else { return begin_as_new(None) };
    let is_repeated = expected.is_some() && expected == state.previous;
    if expected.is_some_and(|expected| expected != state.producer) && !is_repeated {
        return Decision::refuse(ErrorCode::ProducerFenced);
    }
    match state.status {
        Status::PrepareCommit | Status::PrepareAbort => {
            Decision::refuse(ErrorCode::ConcurrentTransactions)
        }
        Status::Ongoing => {
            // What is open is aborted first; the client comes again.
            let refused = Reply::Refused(ErrorCode::ConcurrentTransactions);
            Decision::Write(Box::new(fence(state, None, now_ms)), refused)
        }
        // It was told before, and has not heard.
        _ if is_repeated => Decision::Reply(Reply::Producer(state.producer)),
        _ if is_exhausted(state.producer.epoch) => begin_as_new(expected),
        _ => begin(next_epoch(state.producer), expected),
    }
}

/// The time of an open transaction is over: it is aborted. Its producer may go on from there, when
/// it has heard; that is not told apart from an end whose answer it missed.
pub fn time_out(state: &State, now_ms: i64) -> State {
    // The last epoch of all is for fencing: nobody goes on under it.
    let previous = Some(state.producer).filter(|producer| !is_exhausted(producer.epoch));
    fence(state, previous, now_ms)
}

/// An open transaction is aborted by somebody else than its producer, who may write no more unless
/// it is the one that is told to go on.
fn fence(state: &State, previous: Option<Producer>, now_ms: i64) -> State {
    assert!(state.status == Status::Ongoing, "there is something to abort");
    State {
        producer: next_epoch(state.producer),
        previous,
        status: Status::PrepareAbort,
        updated_ms: now_ms,
        ..state.clone()
    }
}

/// Partitions become part of the transaction: AddPartitionsToTxn, AddOffsetsToTxn, and what the
/// newer flow does without them.
pub fn add(
    state: Option<&State>,
    producer: Producer,
    parts: &[Part],
    is_newer: bool,
    now_ms: i64,
) -> Decision {
    let Some(state) = state.filter(|state| state.producer.id == producer.id) else {
        return Decision::refuse(ErrorCode::InvalidProducerIdMapping);
    };
    if state.producer.epoch != producer.epoch {
        return Decision::refuse(ErrorCode::ProducerFenced);
    }
    if state.status.is_prepared() {
        return Decision::refuse(ErrorCode::ConcurrentTransactions);
    }
    let is_open = state.status == Status::Ongoing;
    if is_open && parts.iter().all(|part| state.partitions.contains(part)) {
        return Decision::Reply(Reply::Done);
    }
    let mut next = State { status: Status::Ongoing, updated_ms: now_ms, ..state.clone() };
    if !is_open {
        next.partitions.clear();
        next.started_ms = Some(now_ms);
        next.is_newer = is_newer;
    }
    next.partitions.extend(parts.iter().cloned());
    if TRANSACTION_PARTITIONS_MAX < next.partitions.len() {
        return Decision::refuse(ErrorCode::PolicyViolation);
    }
    Decision::Write(Box::new(next), Reply::Done)
}

/// Whether partitions are part of the open transaction: what brokers ask before they append.
pub fn verify(state: Option<&State>, producer: Producer, parts: &[Part]) -> Reply {
    let Some(state) = state.filter(|state| state.producer.id == producer.id) else {
        return Reply::Refused(ErrorCode::InvalidProducerIdMapping);
    };
    if state.producer.epoch != producer.epoch {
        return Reply::Refused(ErrorCode::ProducerFenced);
    }
    if state.status.is_prepared() {
        return Reply::Refused(ErrorCode::ConcurrentTransactions);
    }
    let is_open = state.status == Status::Ongoing;
    let told = |part| match is_open && state.partitions.contains(part) {
        true => ErrorCode::None,
        false => ErrorCode::TransactionAbortable,
    };
    Reply::Verified(parts.iter().map(told).collect())
}

/// A transaction is committed or aborted: EndTxn.
pub fn end(
    state: Option<&State>,
    producer: Producer,
    commit: bool,
    is_newer: bool,
    ids: &mut VecDeque<ProducerId>,
    now_ms: i64,
) -> Decision {
    let Some(state) = state else {
        return Decision::refuse(ErrorCode::InvalidProducerIdMapping);
    };
    let is_repeated = is_newer && state.is_newer && state.previous == Some(producer);
    let ended = state.status.is_prepared()
        || matches!(state.status, Status::CompleteCommit | Status::CompleteAbort);
    let is_repeated = is_repeated && ended;
    if state.producer.id != producer.id && !is_repeated {
        return Decision::refuse(ErrorCode::InvalidProducerIdMapping);
    }
    if state.producer != producer && !is_repeated {
        return Decision::refuse(ErrorCode::ProducerFenced);
    }
    let same = state.status.committed() == commit;
    match state.status {
        Status::Ongoing => prepare(state, commit, is_newer, ids, now_ms),
        Status::PrepareCommit | Status::PrepareAbort if same => {
            Decision::refuse(ErrorCode::ConcurrentTransactions)
        }
        Status::CompleteCommit | Status::CompleteAbort if same && (is_repeated || !is_newer) => {
            Decision::Reply(Reply::Producer(state.producer))
        }
        // The newer flow may abort what was never begun: perhaps a batch is still on its way.
        Status::Empty | Status::CompleteCommit | Status::CompleteAbort
            if is_newer && !commit && !is_repeated =>
        {
            prepare(state, commit, is_newer, ids, now_ms)
        }
        _ => Decision::refuse(ErrorCode::InvalidTxnState),
    }
}

fn prepare(
    state: &State,
    commit: bool,
    is_newer: bool,
    ids: &mut VecDeque<ProducerId>,
    now_ms: i64,
) -> Decision {
    let is_open = state.status == Status::Ongoing;
    let mut next = State {
        status: if commit { Status::PrepareCommit } else { Status::PrepareAbort },
        is_newer,
        updated_ms: now_ms,
        started_ms: state.started_ms.filter(|_| is_open).or(Some(now_ms)),
        ..state.clone()
    };
    let mut told = state.producer;
    if is_newer {
        told = next_epoch(state.producer);
        if is_exhausted(state.producer.epoch) {
            let Some(id) = ids.pop_front() else { return Decision::NeedsId };
            next.next = Some(id);
            told = Producer { id, epoch: ProducerEpoch(0) };
        }
        next.previous = Some(state.producer);
        next.producer = next_epoch(state.producer);
    }
    if !is_open {
        next.partitions.clear();
    }
    if next.partitions.is_empty() {
        // Nobody is to be told.
        next = complete(&next, now_ms);
    }
    Decision::Write(Box::new(next), Reply::Producer(told))
}

/// All partitions know how the transaction ended.
pub fn complete(state: &State, now_ms: i64) -> State {
    let status = match state.status {
        Status::PrepareCommit => Status::CompleteCommit,
        Status::PrepareAbort => Status::CompleteAbort,
        other => unreachable!("only what is prepared is completed, not {other:?}"),
    };
    let producer = match state.next {
        Some(id) => Producer { id, epoch: ProducerEpoch(0) },
        None => state.producer,
    };
    State {
        producer,
        next: None,
        status,
        partitions: BTreeSet::new(),
        updated_ms: now_ms,
        ..state.clone()
    }
}
