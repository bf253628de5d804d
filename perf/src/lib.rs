//! The measuring kit: where the time of a request goes, as figures that can be trusted.
//!
//! A request carries [`Stamps`]; at its end a shard's own [`Meter`] takes them into counts of
//! fixed size, without atomics and without locks. Copies of all shards are merged on demand and
//! leave the broker as a [`document`]. Whatever is measured, here or by the load generator, lies
//! in an [`hlog`].
//!
//! Start reading at [`stage`], then [`meter`].

pub mod admin;
pub mod counts;
pub mod diff;
pub mod document;
pub mod hgrm;
pub mod histogram;
pub mod hlog;
pub mod interval;
pub mod lateness;
pub mod live;
pub mod machine;
pub mod meter;
pub mod outcome;
pub mod record;
pub mod report;
pub mod sample;
pub mod slowest;
pub mod stage;
pub mod top;
pub mod turn;
pub mod units;

pub use histogram::{Recorder, Snapshot};
pub use meter::{Meter, MeterLimits, ShardReading, ShardSlow};
pub use slowest::{Slowest, Whose};
pub use stage::{Kind, Stage, Stamps};
pub use turn::Work;

/// Whether anything is measured. It always is; without, the broker is built only to find out what
/// measuring costs (`docs/decisions/2026-11-23-what-measuring-costs.md`).
pub const MEASURING: bool = !cfg!(feature = "unmeasured");
