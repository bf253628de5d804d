//! The load generator: open loop, verified, with the same client for every broker and for the
//! floor, the server that does nothing but answer.
//!
//! What it promises: a request's latency counts from when it was due, not from when it could be
//! sent ([`arrival`]); every record says whose and which it is and carries a checksum, and a
//! reader notices any that is lost, repeated, out of order or changed ([`workload`]); figures are
//! for the window between warm-up and end only ([`run`]).
//!
//! Start reading at [`run`], then [`load`].

pub mod arrival;
pub mod control;
pub mod disk;
pub mod floor;
pub mod load;
pub mod report;
pub mod run;
pub mod usage;
pub mod workload;
