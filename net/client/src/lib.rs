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

mod connection;
mod versions;

pub use connection::{Connection, ConnectionConfig, Event, Reply, SendError, Trouble};
pub use time::Instant;
pub use versions::Versions;

pub use tidemill_net::kafka;
pub use tidemill_record as record;
