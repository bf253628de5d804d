//! A Kafka client: producer, consumer and admin, for any broker that speaks the protocol.
//!
//! What is below is without I/O: bytes in, events out; requests in, bytes out; time as `now`.
//! [`Connection`] is one connection: versions negotiated, requests pipelined, replies with the tag
//! of their request. A load generator drives it with batches made beforehand, which are sent from
//! where they lie.
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
