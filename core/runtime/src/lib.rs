//! The machine under the broker: one pinned thread per core, one ring each, no locks.
//!
//! This is the only crate with `unsafe` code and the only one that makes system calls for a
//! running shard. Start reading at [`edge`]: what a shard may ask for.
#![allow(unsafe_code)]

pub mod edge;
