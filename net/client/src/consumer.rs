//! Consuming: records of the partitions one names, in order, from where one says.
//!
//! [`Consumer`] is for applications: it works while it is polled, without a thread of its own.
//! [`ConsumerCore`] is the same without I/O. Whoever consumes says which partitions, and keeps the
//! positions; in a [group](crate::group) the group does.

mod blocking;
mod core;
mod fetched;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::backoff::Backoff;
use crate::cluster::ClusterConfig;
use crate::error::Error;

pub(crate) use self::core::wire_time;

pub(crate) use self::blocking::{not_assigned, take_records};
pub(crate) use self::core::Ask;
pub use self::core::ConsumerCore;
pub use blocking::Consumer;
pub use fetched::FetchedBatch;

/// Where to begin to read.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Start {
    /// At this offset.
    Offset(i64),
    /// At the first record that is kept.
    Earliest,
    /// After the last record there is.
    Latest,
    /// At the first record made at this time or later, in milliseconds since 1970; if there is
    /// none, after the last one.
    Time(i64),
}

/// Which records of transactions are seen.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Isolation {
    /// All, also those of transactions that are open or were aborted.
    #[default]
    ReadUncommitted,
    /// Only those of transactions that were committed.
    ReadCommitted,
}

impl Isolation {
    pub(crate) fn to_wire(self) -> i8 {
        match self {
            Isolation::ReadUncommitted => 0,
            Isolation::ReadCommitted => 1,
        }
    }
}

/// How a consumer works.
#[derive(Clone, Debug)]
pub struct ConsumerConfig {
    /// Whom to ask, and how.
    pub cluster: ClusterConfig,
    /// How long a broker may wait for `min_bytes`.
    pub max_wait: Duration,
    /// How much there must be for an answer before that.
    pub min_bytes: u32,
    /// How much one answer may hold; its first batch comes whole in any case.
    pub max_bytes: u32,
    /// How much of it may be of one partition.
    pub partition_bytes: u32,
    /// Which records of transactions are seen.
    pub isolation: Isolation,
    /// Where to go on if a position does not exist (any more); `None`: it is an error.
    pub reset: Option<Start>,
    /// Whether the checksum of every batch is verified.
    pub verify_checksums: bool,
    /// How many records a poll returns, rounded up to whole batches.
    pub poll_records: usize,
    /// The waits before asking again after an error.
    pub retry: Backoff,
}

impl Default for ConsumerConfig {
    fn default() -> ConsumerConfig {
        let (first, longest) = (Duration::from_millis(100), Duration::from_secs(1));
        ConsumerConfig {
            cluster: ClusterConfig { create_topics: false, ..ClusterConfig::default() },
            max_wait: Duration::from_millis(500),
            min_bytes: 1,
            max_bytes: 50 * 1024 * 1024,
            partition_bytes: 1024 * 1024,
            isolation: Isolation::ReadUncommitted,
            reset: None,
            verify_checksums: true,
            poll_records: 500,
            retry: Backoff { first, longest },
        }
    }
}

impl ConsumerConfig {
    /// The usual settings for a cluster.
    pub fn new(bootstrap: &str) -> Result<ConsumerConfig, Error> {
        let mut config = ConsumerConfig::default();
        config.cluster.bootstrap = crate::bootstrap(bootstrap)?.bootstrap;
        Ok(config)
    }
}

/// A record that was read. Its bytes are slices of what was received, or of what it decompressed
/// to: whoever keeps one for long keeps its batch in memory.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ConsumerRecord {
    /// The topic.
    pub topic: Arc<str>,
    /// The partition.
    pub partition: i32,
    /// Its place in the partition.
    pub offset: i64,
    /// When it was made or, if the topic says so, appended: milliseconds since 1970.
    pub timestamp_ms: i64,
    /// What it is about.
    pub key: Option<Bytes>,
    /// What it says.
    pub value: Option<Bytes>,
    /// What else it carries.
    pub headers: Vec<(Bytes, Option<Bytes>)>,
}
