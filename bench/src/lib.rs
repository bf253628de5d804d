//! The load generator: open loop, verified, with the same client for every broker and for the
//! sink, the server that does nothing but answer.
//!
//! What it promises: a record's latency counts from when it was due, not from when it could be
//! sent ([`arrival`]); every record says whose and which it is and carries a checksum, and a
//! reader notices any that is lost, repeated, out of order or changed ([`verify`], [`verdict`]);
//! figures are for the window between warm-up and end only ([`run`]); histograms are merged, never
//! averaged ([`tally`]).
//!
//! Start reading at [`run`], then [`load`].

pub mod arrival;
pub mod control;
pub mod disk;
pub mod follow;
pub mod load;
pub mod options;
pub mod produce;
pub mod report;
pub mod run;
pub mod search;
pub mod sink;
pub mod tally;
pub mod usage;
pub mod verdict;
pub mod verify;
pub mod watch;
pub mod workload;
