//! Load on the coordinators of groups: [`rebalance`], [`commits`], [`first`].
//!
//! The members speak the protocol themselves, either of the two, and read nothing: what is measured
//! is the broker and not a client library. Each has a connection of its own, as consumers have.
//! What is kept of the groups stays until its offsets expire; names are new in each run.

pub mod beat;
pub mod commits;
pub mod first;
pub mod member;
pub mod rebalance;
