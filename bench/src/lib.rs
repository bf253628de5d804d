//! The load generator: open loop, verified, with the same client for every broker and for the
//! sink, the server that does nothing but answer.
//!
//! What it promises: a record's latency counts from when it was due, not from when it could be
//! sent ([`arrival`]); every record says whose and which it is and carries a checksum, and a
//! reader notices any that is lost, repeated, out of order or changed ([`verify`], [`verdict`]);
//! figures are for the phases between warm-up and end only ([`run`]); histograms of shards and
//! processes are merged, never averaged ([`tally`], [`fleet`]).
//!
//! `tidemill bench` is its command line ([`cli`]). Start reading at [`run`], then [`load`].

pub mod cli;

pub mod amount;
pub mod arrival;
pub mod control;
pub mod phases;
pub mod settings;
pub mod workload;

pub mod fleet;
pub mod follow;
pub mod listen;
pub mod load;
pub mod plan;
pub mod produce;
pub mod rejoin;
pub mod run;
pub mod stop;
pub mod streams;
pub mod tally;
pub mod usage;
pub mod watch;

pub mod asking;
pub mod figures;
pub mod groups;
pub mod progress;
pub mod stage;
pub mod txn;

pub mod report;
pub mod search;
pub mod verdict;
pub mod verify;

pub mod disk;
pub mod sink;
pub mod trouble;
