//! Consuming as a group: the members share the partitions of topics among themselves, and the
//! brokers keep how far the group has come.
//!
//! [`GroupConsumer`] is for applications, [`GroupCore`] the same without I/O. What they speak is
//! Kafka's classic protocol:
//!
//! ```text
//!  FindCoordinator -> JoinGroup -> SyncGroup -> OffsetFetch -> read; Heartbeat, OffsetCommit
//!                        ^          (the leader, one of the        |
//!                        |           members, shares out)          |
//!                        +--- somebody comes or goes --------------+
//! ```
//!
//! **What is promised.** Each record that the group has not committed reaches a member at least once.
//! What [`GroupConsumer::poll`] returned counts as done with when it is called again: only that is
//! committed, from time to time ([`GroupConfig::auto_commit`]) and when partitions are given up. A
//! record can come twice: if a member dies, or is not heard of for its session's timeout, its
//! successor begins where was last committed.
//!
//! **It works while it is polled**, without a thread of its own: whoever does not poll for longer
//! than [`GroupConfig::session_timeout`] is taken for dead by the others.

mod assignor;
mod blocking;
mod core;

use std::sync::Arc;
use std::time::Duration;

use crate::consumer::{ConsumerConfig, Start};
use crate::error::Error;

pub(crate) use self::core::Asked;
pub use self::core::GroupCore;
pub use assignor::{Assignor, Member, Shares};
pub use blocking::GroupConsumer;

/// A partition of a topic.
pub type Share = (Arc<str>, i32);

/// How a member of a group works.
#[derive(Clone, Debug)]
pub struct GroupConfig {
    /// How it reads.
    pub reader: ConsumerConfig,
    /// The name of the group.
    pub group: String,
    /// A name that outlives this process, and is no other member's: if it comes back within the
    /// session's timeout, nothing moves.
    pub instance: Option<String>,
    /// The ways of sharing out that it knows, best first; the group takes one that all members know.
    pub assignors: Vec<Assignor>,
    /// Where to begin in a partition of which the group has committed nothing; and, if the reader
    /// says nothing else, where what it has committed does not exist any more.
    pub start: Start,
    /// How often what is done with is committed; `None`: only [`GroupConsumer::commit`] does it.
    pub auto_commit: Option<Duration>,
    /// After how long without a sign of life the others take it for dead.
    pub session_timeout: Duration,
    /// How often it gives a sign of life.
    pub heartbeat_interval: Duration,
    /// How long the others wait for it when partitions are shared out anew.
    pub rebalance_timeout: Duration,
}

impl Default for GroupConfig {
    fn default() -> GroupConfig {
        GroupConfig {
            reader: ConsumerConfig::default(),
            group: String::new(),
            instance: None,
            assignors: vec![Assignor::Range, Assignor::CooperativeSticky],
            start: Start::Earliest,
            auto_commit: Some(Duration::from_secs(5)),
            session_timeout: Duration::from_secs(45),
            heartbeat_interval: Duration::from_secs(3),
            rebalance_timeout: Duration::from_secs(60),
        }
    }
}

impl GroupConfig {
    /// The usual settings for a group of a cluster.
    pub fn new(bootstrap: &str, group: &str) -> Result<GroupConfig, Error> {
        let reader = ConsumerConfig::new(bootstrap)?;
        Ok(GroupConfig { reader, group: group.to_owned(), ..GroupConfig::default() })
    }
}

/// What has changed in what a member reads.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Change {
    /// These are read from now on.
    Given(Vec<Share>),
    /// These are read no more: another member gets them, or this one again.
    Taken(Vec<Share>),
}
