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
//! **For applications**: [`Producer`] (numbered batches, retries in order, a thread of its own
//! that sends), [`Consumer`] (positions, isolation, verified checksums; works while it is polled)
//! and [`Admin`]. Errors say what, why, and what would help. Everything that can grow has a bound.
//!
//! **For those with an I/O of their own**, such as a load generator, the same without I/O: bytes
//! in, events out; requests in, bytes out; time as `now`, chance as a seed.
//!
//! | layer | what it does |
//! |---|---|
//! | [`Connection`] | one connection: versions negotiated, requests pipelined, replies with the tag of their request; batches made beforehand are sent from where they lie |
//! | [`Cluster`] | all brokers: connecting again, who leads what, hints of new leaders |
//! | [`ProducerCore`], [`ConsumerCore`] | what the names say, on top of a `Cluster` |
//!
//! Spoken to so far: Tidemill, and Apache Kafka 4.3. What is not there: TLS, authentication,
//! groups, transactions, fetch sessions, fetching from followers, finding out that a log was cut
//! off below a position.
//!
//! Start reading at [`Connection`], or in the directory `examples`.

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
mod producer;
mod versions;

pub use admin::{Admin, ClusterView, ConfigChange, ConfigResource, CreatedTopic, NewTopic};
pub use backoff::Backoff;
pub use cluster::{
    Action, Address, AddressError, Cluster, ClusterConfig, Heard, LineId, Map, NotSent,
    PartitionView, Peer, TopicView,
};
pub use connection::{Connection, ConnectionConfig, Event, Reply, SendError, Trouble};
pub use consumer::{
    Consumer, ConsumerConfig, ConsumerCore, ConsumerRecord, FetchedBatch, Isolation, Start,
};
pub use error::{Error, ErrorKind};
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
