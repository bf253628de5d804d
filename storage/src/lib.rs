//! A partition's log and the shard's journal. Plans I/O, performs none.
//!
//! [`shard::ShardStorage`] is all the storage of one shard: many logs, one journal. It is told
//! what happened (`handle_*`, `tick`) and what to do (`append`, `read`, `trim`, …), and asked what
//! comes next (`poll_request` for the disk, `poll_event` for the broker). At every start of the
//! node one [`recovery::Recovery`] turns what is on disk into the state the shards begin from.
//!
//! Reading order: [`io`] what is asked of the disk, [`block`] its unit, [`layout`] what a journal
//! holds, [`log`] what a partition is, [`checkpoint`] and [`recovery`] what survives a crash,
//! [`shard`] the whole. Smaller nouns: [`index`], [`read`], [`epochs`], [`producers`],
//! [`transactions`], [`retention`], [`compaction`].

pub mod block;
pub mod checkpoint;
pub mod compaction;
pub mod config;
pub mod epochs;
pub mod error;
pub mod index;
pub mod inspect;
pub mod io;
mod journal;
pub mod layout;
pub mod log;
pub mod mistake;
pub mod producers;
pub mod read;
pub mod recovery;
mod requests;
pub mod retention;
mod segment;
pub mod shard;
mod tail;
pub mod transactions;

pub use compaction::plan::{CompactionPlan, SealedReader};
pub use config::{Config, Durability, LogConfig, TimestampPolicy};
pub use error::{AppendError, ReadError, RecoverError, TrimError, TruncateError};
pub use log::{Log, LogId, ProducerState};
pub use recovery::{RecoveredShard, Recovery};
pub use shard::{
    AppendKind, Appended, Event, Found, Lookup, Read, ReadId, ShardStorage, Swap, SwapError,
};
