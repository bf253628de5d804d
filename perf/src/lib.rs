//! The measuring kit: where the time of a request goes, as figures that can be trusted.
//!
//! A request carries [`Stamps`]; at its end a shard's own [`Recorder`] takes them into
//! histograms of fixed size, without atomics and without locks. [`Snapshot`]s of all shards are
//! merged on demand and written as text, JSON, `.hgrm` or `.hlog`.
//!
//! Start reading at [`stage`].

pub mod histogram;
pub mod slowest;
pub mod stage;

pub use histogram::{Recorder, Snapshot};
pub use slowest::Slowest;
pub use stage::{Kind, Stage, Stamps};
