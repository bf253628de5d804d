//! A Kafka client: producer, consumer and admin, for any broker that speaks the protocol.
//!
//! ```no_run
//! use std::time::Duration;
//! use tidemill_client::{
//!     Admin, Consumer, ConsumerConfig, NewTopic, Producer, ProducerConfig, Record, Start,
//! };
//!
//! let brokers = "localhost:9092";
//! Admin::open(brokers)?.create_topic(&NewTopic::new("greetings").partitions(3))?;
//!
//! let producer = Producer::open(ProducerConfig::new(brokers)?)?;
//! producer.send(Record::to("greetings").key("en").value("hello"))?;
//! producer.close()?; // stored, or the reason why not
//!
//! let mut consumer = Consumer::open(ConsumerConfig::new(brokers)?)?;
//! consumer.assign_topic("greetings", Start::Earliest, Duration::from_secs(10))?;
//! for record in consumer.poll(Duration::from_secs(1))? {
//!     println!("{}/{}: {:?}", record.partition, record.offset, record.value);
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # For applications
//!
//! [`Producer`] (numbered batches, retries in order, a thread of its own that sends), [`Consumer`]
//! (positions, isolation, verified checksums; works while it is polled), [`GroupConsumer`] (the same
//! as a member of a [`group`] that shares partitions and keeps how far it has come) and [`Admin`]
//! (topics, settings, offsets). Everything that can grow has a bound.
//!
//! **What is promised.** With the settings of [`ProducerConfig::default`], a record that is told
//! stored is stored once, and those of one partition in the order they were sent in, across retries
//! and restarts of brokers. What was not stored in [`ProducerConfig::delivery_timeout`] is told: by
//! [`Producer::flush`] and [`Producer::close`], and record by record in [`Report`]s if those are on.
//! A consumer gives the records of a partition in order, from the offset it was told, and never a
//! batch whose checksum is wrong.
//!
//! **When a broker goes away**, connections are made again, after waits that double from
//! 50 ms to 1 s ([`ClusterConfig::reconnect`]); leaders that have moved are found by asking. Records
//! wait in the producer meanwhile, up to [`ProducerConfig::buffer_bytes`]. Whoever waits can ask what
//! for: [`Producer::trouble`], [`Consumer::trouble`], [`Admin::telling`].
//!
//! **When something cannot be done**, an [`Error`] says what, why, and what would help; its
//! [`ErrorKind`] is for programs.
//!
//! ```no_run
//! # let mut admin = tidemill_client::Admin::open("localhost:9092")?;
//! use tidemill_client::{ErrorKind, NewTopic, kafka::ErrorCode};
//!
//! match admin.create_topic(&NewTopic::new("greetings")) {
//!     Err(error) if error.kind() == ErrorKind::Refused(ErrorCode::TopicAlreadyExists) => {}
//!     Err(error) => eprintln!("{error}"), // three lines: what, cause, fix
//!     Ok(topic) => println!("{} is made, its id is {}", topic.name, topic.id),
//! }
//! # Ok::<(), tidemill_client::Error>(())
//! ```
//!
//! **Versions.** Each broker is asked which versions it speaks, and each request goes out in the
//! highest that both know; if there is none, that is the error ([`ErrorKind::Unsupported`]). Spoken
//! to so far: Tidemill, and Apache Kafka 2.8, 3.9 and 4.3.
//!
//! **What is not there**: TLS, authentication, groups of the newer protocol (KIP-848), transactions,
//! fetch sessions, fetching from followers, finding out that a log was cut off below a position.
//!
//! The directory `examples` has a program for each of the four, and one that measures how many
//! records a second a thread can send.
//!
//! # For those with an I/O of their own
//!
//! A load generator, say. The same without I/O: bytes in, events out; requests in, bytes out; time
//! as `now`, chance as a seed.
//!
//! | layer | what it does |
//! |---|---|
//! | [`Connection`] | one connection: versions negotiated, requests pipelined, replies with the tag of their request; batches made beforehand are sent from where they lie |
//! | [`Cluster`] | all brokers: connecting again, who leads what, hints of new leaders |
//! | [`ProducerCore`], [`ConsumerCore`], [`GroupCore`] | what the names say, on top of a `Cluster` |
//!
//! Start reading at [`Connection`].

pub mod limits;
pub mod time;

mod admin;
mod backoff;
mod cluster;
mod connection;
mod consumer;
mod driver;
mod error;
#[cfg(test)]
mod fake;
pub mod group;
mod producer;
mod versions;

pub use admin::{
    Admin, ClusterView, ConfigChange, ConfigResource, CreatedTopic, GroupOffsets, GroupView,
    ListedGroup, ListedTransaction, MemberView, NewTopic, ProducerView, Quota, QuotaOf, QuotasView,
    ShareProgress, TransactionFilter, TransactionView,
};
pub use backoff::Backoff;
pub use cluster::{
    Action, Address, AddressError, Cluster, ClusterConfig, Heard, LineId, Map, NotSent,
    PartitionView, Peer, TopicView,
};
pub use connection::{Connection, ConnectionConfig, Event, Reply, SendError, Trouble};
pub use consumer::{
    Consumer, ConsumerConfig, ConsumerCore, ConsumerRecord, FetchedBatch, Isolation, Start,
};
pub use error::{Error, ErrorKind, Explanation};
pub use group::{Assignor, Change, GroupConfig, GroupConsumer, GroupCore};
pub use producer::{
    Acks, NotTaken, Producer, ProducerConfig, ProducerCore, Record, Refusal, Report, SendRefused,
    murmur2, partition_of_key,
};
pub use time::Instant;
pub use versions::Versions;

pub use tidemill_net::kafka;
pub use tidemill_record as record;

/// The usual settings for the cluster that these brokers belong to, as `HOST:PORT,...`.
fn bootstrap(brokers: &str) -> Result<ClusterConfig, Error> {
    let bootstrap = Address::parse_list(brokers).map_err(|error| {
        Error::new(ErrorKind::Invalid, "cannot tell which brokers are meant")
            .because(error)
            .fix("name brokers as HOST:PORT, with commas between them")
    })?;
    Ok(ClusterConfig { bootstrap, ..ClusterConfig::default() })
}
