//! The machine under the broker: one pinned thread per core, one ring each, no locks.
//!
//! This is the only crate with `unsafe` code and the only one that makes system calls for a
//! running shard. Start reading at [`edge`]: what a shard may ask for.
#![allow(unsafe_code)]

pub mod buffer;
pub mod chores;
pub mod clock;
mod doorbell;
pub mod edge;
pub mod fault;
mod flight;
pub mod kernel;
pub mod mesh;
pub mod preflight;
mod receive_buffers;
pub mod ring;
pub mod shard;
pub mod socket;
mod submission;
#[cfg(all(test, not(loom)))]
mod test_dir;
pub mod timer;
pub mod topology;

pub use mesh::OUTSIDE;
