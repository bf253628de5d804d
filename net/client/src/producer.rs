//! Producing: records in, batches out, each record told where it is stored, or why not.
//!
//! [`Producer`] is for applications: it has a thread of its own that sends while the application
//! goes on. [`ProducerCore`] is the same without I/O.

mod batch;
mod blocking;
mod core;
mod intake;
mod outbox;
mod part;
mod partitioner;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tidemill_record::Codec;

use crate::backoff::Backoff;
use crate::cluster::ClusterConfig;
use crate::error::Error;

pub use self::core::ProducerCore;
pub use blocking::{Producer, SendRefused};
pub use intake::{NotTaken, Refusal};
pub use partitioner::{murmur2, partition_of_key};

/// Who must have the records before they count as stored.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Acks {
    /// Nobody: no answer is awaited, and no offset is told.
    None,
    /// The leader of the partition.
    Leader,
    /// All replicas that are in sync.
    #[default]
    All,
}

impl Acks {
    fn to_wire(self) -> i16 {
        match self {
            Acks::None => 0,
            Acks::Leader => 1,
            Acks::All => -1,
        }
    }
}

/// How a producer works. The defaults lose nothing, store nothing twice and keep the order.
#[derive(Clone, Debug)]
pub struct ProducerConfig {
    /// Whom to ask, and how.
    pub cluster: ClusterConfig,
    /// Who must have the records before they count as stored.
    pub acks: Acks,
    /// Whether batches are numbered, so that the broker can tell a repeat. Needs [`Acks::All`].
    pub idempotent: bool,
    /// How long a batch may wait for more records.
    pub linger: Duration,
    /// How large a batch becomes, uncompressed, before it is sent without waiting.
    pub batch_bytes: usize,
    /// How large a request becomes that holds more than one batch.
    pub request_bytes: usize,
    /// The largest record taken, key, value and headers together.
    pub record_bytes_max: usize,
    /// How much all records may take that are not yet told stored, or not.
    pub buffer_bytes: usize,
    /// How batches are compressed.
    pub compression: Codec,
    /// How many requests may be in flight to one broker.
    pub in_flight_max: usize,
    /// How long a record may take in all, retries included, before it is given up.
    pub delivery_timeout: Duration,
    /// The waits before a batch is sent again.
    pub retry: Backoff,
    /// Whether each record's fate is told, in [`Report`]s that have to be taken. If not, only
    /// failures are, by `flush` and `close`.
    pub reports: bool,
}

impl Default for ProducerConfig {
    fn default() -> ProducerConfig {
        let (first, longest) = (Duration::from_millis(100), Duration::from_secs(1));
        ProducerConfig {
            cluster: ClusterConfig::default(),
            acks: Acks::All,
            idempotent: true,
            linger: Duration::from_millis(5),
            batch_bytes: 64 * 1024,
            request_bytes: 1024 * 1024,
            record_bytes_max: 1024 * 1024,
            buffer_bytes: 32 * 1024 * 1024,
            compression: Codec::None,
            in_flight_max: crate::limits::BATCHES_IN_FLIGHT_MAX,
            delivery_timeout: Duration::from_secs(120),
            retry: Backoff { first, longest },
            reports: false,
        }
    }
}

impl ProducerConfig {
    /// The usual settings for a cluster.
    pub fn new(bootstrap: &str) -> Result<ProducerConfig, Error> {
        let cluster = crate::bootstrap(bootstrap)?;
        Ok(ProducerConfig { cluster, ..ProducerConfig::default() })
    }
}

/// A record to be sent.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Record {
    /// To which topic.
    pub topic: Arc<str>,
    /// To which partition; `None`: by the key's hash, or wherever it suits.
    pub partition: Option<i32>,
    /// What it is about.
    pub key: Option<Bytes>,
    /// What it says.
    pub value: Option<Bytes>,
    /// What else it carries.
    pub headers: Vec<(Bytes, Option<Bytes>)>,
    /// Milliseconds since 1970; `None`: now.
    pub timestamp_ms: Option<i64>,
    /// Comes back in its [`Report`].
    pub tag: u64,
}

impl Record {
    /// An empty record for a topic.
    pub fn to(topic: impl Into<Arc<str>>) -> Record {
        Record {
            topic: topic.into(),
            partition: None,
            key: None,
            value: None,
            headers: Vec::new(),
            timestamp_ms: None,
            tag: 0,
        }
    }

    /// With this key.
    #[must_use]
    pub fn key(mut self, key: impl Into<Bytes>) -> Record {
        self.key = Some(key.into());
        self
    }

    /// With this value.
    #[must_use]
    pub fn value(mut self, value: impl Into<Bytes>) -> Record {
        self.value = Some(value.into());
        self
    }

    /// To this partition.
    #[must_use]
    pub fn partition(mut self, partition: i32) -> Record {
        self.partition = Some(partition);
        self
    }

    /// With one more header.
    #[must_use]
    pub fn header(mut self, name: impl Into<Bytes>, value: Option<Bytes>) -> Record {
        self.headers.push((name.into(), value));
        self
    }

    /// Made at this time, in milliseconds since 1970.
    #[must_use]
    pub fn timestamp_ms(mut self, timestamp_ms: i64) -> Record {
        self.timestamp_ms = Some(timestamp_ms);
        self
    }

    /// With a tag that comes back in its [`Report`].
    #[must_use]
    pub fn tag(mut self, tag: u64) -> Record {
        self.tag = tag;
        self
    }

    /// Key, value and headers.
    fn content_bytes(&self) -> usize {
        let length = |bytes: &Option<Bytes>| bytes.as_ref().map_or(0, Bytes::len);
        let headers: usize =
            self.headers.iter().map(|(name, value)| name.len() + length(value) + 8).sum();
        length(&self.key) + length(&self.value) + headers
    }

    /// What it counts in the buffer: also what stands around it.
    fn held_bytes(&self) -> usize {
        self.content_bytes() + 64
    }
}

/// The fate of one batch of records.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Report {
    /// The topic.
    pub topic: Arc<str>,
    /// The partition; -1 if none was found for the records.
    pub partition: i32,
    /// The tags of the records, in the order they were sent in.
    pub tags: Vec<u64>,
    /// The offset of the first record, the others following one by one (-1 with [`Acks::None`]);
    /// or why they were given up.
    pub outcome: Result<i64, Error>,
}
