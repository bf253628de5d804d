//! The log of a coordinator: how what it decides outlives the process.
//!
//! A coordinator keeps things that belong together by their name (groups, transactions) in one
//! partition of an internal topic, at home where that partition is. What it decides is its own
//! affair and pure; what it decides *with* is here, and the same for all kinds:
//!
//! ```text
//! request ── decide ──┬── reply                       (nothing was written)
//!                     └── records ── appended ── durable ──> written: state changes, reply
//!                                       └── refused ──────> refused: nothing has changed
//!
//! start ──── read the partition ── replay ── loaded ──> requests are taken
//! ```
//!
//! [`Coordinate`] is what a kind of coordinator supplies, [`Logged`] puts its decisions into
//! batches and lets them happen when they are durable, and [`at_home`] brings it to the partitions
//! of a shard: reads them at a start, appends, keeps time.
//!
//! What it promises: decisions reach the log in the order in which they were made, and
//! [`Coordinate::written`] is called in that order too, only with what is durable. A coordinator
//! is asked nothing before all of its log was replayed. The log does not grow for ever: see
//! `rewrite.rs`.
//!
//! Start reading at [`Coordinate`].

pub mod at_home;
mod linger;
mod logged;
mod rewrite;

use std::fmt;
use std::sync::Arc;

use bytes::BytesMut;
use tidemill_net::cursor::{Reader, WireError};
use tidemill_net::kafka::ErrorCode;
use tidemill_replication::metadata::Image;
use tidemill_runtime::edge::Instant;

pub use self::logged::{Append, Logged};

use crate::job::ReplyTo;
use crate::partition::Times;

/// The time, and the topics there are.
#[derive(Clone, Copy, Debug)]
pub struct Now<'a> {
    /// What the clocks show.
    pub times: Times,
    /// The cluster's metadata.
    pub image: &'a Image,
}

/// The number of the partition a name belongs to: Kafka's, so that its tools agree.
pub fn partition_of(name: &str, partitions: i32) -> i32 {
    assert!(0 < partitions);
    // Java's String.hashCode, and Kafka's absolute value of it.
    let units = name.encode_utf16();
    let hash = units.fold(0i32, |hash, unit| hash.wrapping_mul(31).wrapping_add(i32::from(unit)));
    hash.checked_abs().unwrap_or(0) % partitions
}

/// A coordinator of the things of one partition, without the log it is kept in.
pub trait Coordinate: Sized {
    /// What is asked of it.
    type Request;
    /// What it answers.
    type Reply;
    /// One change of what it remembers.
    type Record: LogRecord;
    /// One decision on its way to the log.
    type Write: Write<Record = Self::Record>;
    /// Something that is remembered: where writing all of it anew goes on.
    type Place;

    // A start.

    /// Lets a record of the log have happened, before anything is asked.
    fn replay(&mut self, record: Self::Record);

    /// All records were replayed: from now on it is asked, and time passes.
    fn loaded(&mut self, now: Now<'_>);

    // What happens.

    /// Something is asked. The answer goes to [`Coordinate::replies`] at once, or when it is
    /// durable, or when others have done their part. Without `has_room` nothing new is kept.
    fn request(&mut self, request: Self::Request, reply_to: ReplyTo, has_room: bool, now: Now<'_>);

    /// Time has passed.
    fn tick(&mut self, now: Now<'_>);

    /// When [`Coordinate::tick`] is wanted.
    fn next_deadline(&self) -> Option<Instant>;

    /// The partition goes, or the node stops: all who wait are told `error`, and from now on
    /// everybody who asks. What is being written is still told when it is durable.
    fn close(&mut self, error: ErrorCode);

    // What it has decided.

    /// The decisions since the last time, in order; whoever looks takes them out. Each comes back
    /// by [`Coordinate::written`] or [`Coordinate::refused`].
    fn decided(&mut self) -> &mut Vec<Self::Write>;

    /// Whether somebody has begun to wait for what is on its way since the last time: then it does
    /// not linger.
    fn take_hurry(&mut self) -> bool {
        false
    }

    /// The records of a decision are durable.
    fn written(&mut self, write: Self::Write, now: Now<'_>);

    /// The records of a decision were not appended, at least not all, and never will be.
    fn refused(&mut self, write: Self::Write, error: ErrorCode, now: Now<'_>);

    /// The answers since the last time; whoever looks takes them out.
    fn replies(&mut self) -> &mut Vec<(ReplyTo, Self::Reply)>;

    /// The answer that something cannot be done.
    fn refusal(error: ErrorCode) -> Self::Reply;

    // What it remembers.

    /// All that is remembered behind a place, or from the beginning, in an order that stays: each
    /// place with the records that say how it is. Only what is durable, or is in force even if it is
    /// refused: a batch of these may be the first to say it.
    fn remembered_after<'a>(
        &'a self,
        place: Option<&'a Self::Place>,
    ) -> impl Iterator<Item = (Self::Place, Vec<Self::Record>)> + 'a;

    /// What it takes in memory, about.
    fn bytes(&self) -> usize;

    /// How many things it remembers.
    fn count(&self) -> usize;
}

/// One decision on its way to the log, with what follows from it when it is durable.
pub trait Write {
    /// One change of what is remembered.
    type Record;

    /// Its records, one at least.
    fn records(&self) -> &[Self::Record];

    /// Whether it must not be remembered in part, whatever happens: its records go out in one batch.
    /// They are no larger than [`crate::limits::GROUP_RECORD_BYTES_MAX`] then.
    fn is_whole(&self) -> bool {
        false
    }

    /// If it may wait a little for others to be appended with it: what it is about, so that it
    /// does not wait where nothing else is written.
    fn may_linger(&self) -> Option<&Arc<str>> {
        None
    }
}

/// One change of what a coordinator remembers, in the form in which it is kept.
pub trait LogRecord: Sized {
    /// Its key and its value; no value means that the key is to be forgotten.
    fn encode(&self) -> (BytesMut, Option<BytesMut>);

    /// Reads a record of the log.
    fn decode(key: &[u8], value: Option<&[u8]>) -> Result<Self, DecodeError>;
}

/// Why a record cannot be read.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum DecodeError {
    /// It breaks off, or a field is not what it should be.
    Malformed(WireError),
    /// A number that says which of several it is, and is none that we know.
    Unknown {
        /// What it is the number of.
        what: &'static str,
        /// The number.
        found: i16,
    },
    /// The batch around it is not what it should be.
    DamagedBatch,
}

impl From<WireError> for DecodeError {
    fn from(error: WireError) -> Self {
        Self::Malformed(error)
    }
}

/// The value of a record, of which only this version is known, behind where it says so.
pub fn open_value(value: &[u8], known: i16) -> Result<Reader<'_>, DecodeError> {
    let mut value = Reader::new(value);
    match value.i16()? {
        found if found == known => Ok(value),
        found => Err(DecodeError::Unknown { what: "version of a value", found }),
    }
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Malformed(error) => write!(f, "a damaged record: {error}"),
            Self::Unknown { what, found } => write!(f, "an unknown {what}: {found}"),
            Self::DamagedBatch => f.write_str("a damaged batch"),
        }
    }
}

impl std::error::Error for DecodeError {}

#[cfg(test)]
mod tests;
