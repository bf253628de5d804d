//! The rehearsal: the broker in a world that fails on command.
//!
//! One seed decides everything: how long each op takes, what a power loss leaves of the disk,
//! where a connection breaks, when the process is killed and with how many shards it comes back.
//! The same seed replays the same run, event for event; the hash of the trace shows it.
//!
//! Start reading at [`world`].

pub mod world;

pub mod disk;
pub mod edge;
pub mod network;

pub mod broker;
pub mod run;
pub mod steady;
pub mod workload;

pub mod checker;
pub mod history;
pub mod value;

pub mod random;
pub mod trace;

mod agenda;
mod describe;
