//! What nodes agree on: the metadata log, the cluster's image it adds up to, and the controller
//! that decides what is written into it.
//!
//! ```text
//! request ─► controller::decide_* ─► records ─► quorum::Log ─► disk
//!                  ▲                                 │ committed
//!                  └── Image ◄── Image::replay ◄─────┘
//! ```
//!
//! Nothing here performs I/O, reads a clock or draws a random number: requests for the disk are
//! handed out ([`quorum::io`]), time and seeds come as arguments. State changes only in
//! [`Image::replay`], so that recovery and live operation are the same code.
//!
//! Today a cluster is one node: a quorum of one, whose commit is its own sync, under term 1.
//! Terms, voters with their directories and the hard state are on disk from the first start, so
//! that this data goes on working when there are more.
//!
//! Start reading at [`metadata::Record`], then [`controller`], then [`quorum::Log`].

pub mod config;
pub mod controller;
pub mod identity;
pub mod limits;
pub mod metadata;
pub mod quorum;
pub mod quota;
mod wire;

pub use config::TopicConfig;
pub use identity::{ClusterId, DirectoryId, NodeEpoch};
pub use metadata::{Image, Record, Resource};
