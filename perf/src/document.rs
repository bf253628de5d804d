//! What a broker tells of itself on its admin port: the documents of `/latency`, `/slowest` and
//! `/lateness`, as JSON.
//!
//! Every count is since the broker started and never goes back, so any number of readers may take
//! differences of their own: nobody's reading changes what another one sees. A reader that sees a
//! count go back has met a restarted broker ([`LatencyDocument::started_unix_ms`] differs too).
//!
//! Each document names its schema, `tidemill.NAME/VERSION`. Fields may be added within a version:
//! readers pass over those they do not know. A change of meaning is a new version.
//!
//! These are the types of the document only. [`crate::meter`] makes them, [`crate::admin`] reads
//! them.

use serde::{Deserialize, Serialize};

/// The schema of [`LatencyDocument`].
pub const LATENCY_SCHEMA: &str = "tidemill.latency/1";

/// The schema of [`SlowestDocument`].
pub const SLOWEST_SCHEMA: &str = "tidemill.slowest/1";

/// The schema of [`LatenessDocument`].
pub const LATENESS_SCHEMA: &str = "tidemill.lateness/1";

/// `GET /latency`: where the time of requests went, and how busy each shard is.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct LatencyDocument {
    /// [`LATENCY_SCHEMA`].
    pub schema: String,
    /// Which broker.
    pub node: NodeLabel,
    /// When all counts were zero, in milliseconds since the Unix epoch.
    pub started_unix_ms: u64,
    /// When this was taken, in milliseconds since the Unix epoch.
    pub taken_unix_ms: u64,
    /// One for each shard, in their order.
    pub shards: Vec<ShardFigures>,
}

/// Which broker a document is about.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct NodeLabel {
    /// Its node id.
    pub id: i32,
    /// Its version.
    pub version: String,
    /// Its process.
    pub pid: u32,
}

/// One shard's counts since the start.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct ShardFigures {
    /// Its number.
    pub shard: u16,
    /// Monotonic nanoseconds at which the counts were read; for differences only.
    pub taken_ns: u64,
    /// Turns of its loop.
    pub turns: u64,
    /// Nanoseconds spent in turns; the rest it slept.
    pub busy_ns: u64,
    /// The longest turn so far.
    pub longest_turn_ns: u64,
    /// Turns above the limit.
    pub stalls: u64,
    /// Connections open now (the one figure that goes up and down).
    pub connections: u64,
    /// Bytes received from clients.
    pub bytes_in: u64,
    /// Bytes sent to clients.
    pub bytes_out: u64,
    /// Record batches appended to logs of this shard.
    pub batches_appended: u64,
    /// Bytes written to the device.
    pub disk_bytes_written: u64,
    /// Bytes read from the device.
    pub disk_bytes_read: u64,
    /// Messages to and from each other shard.
    pub mesh: Vec<MeshFigures>,
    /// Histograms, in the order kind, stage; only those that have been met.
    pub stages: Vec<StageFigures>,
}

/// Messages between this shard and another.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct MeshFigures {
    /// The other one.
    pub peer: u16,
    /// Messages sent to it.
    pub sent: u64,
    /// Messages received from it.
    pub received: u64,
}

/// The times of one stage of one kind of request, in nanoseconds.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct StageFigures {
    /// `produce`, `fetch` or `other`.
    pub kind: String,
    /// A stage's name; `total` for whole requests; `sampled` for those whose stages were recorded.
    pub stage: String,
    /// How many requests met it.
    pub count: u64,
    /// Their times added up.
    pub sum_ns: u64,
    /// All of them as an HdrHistogram: V2, deflated, base64 (`HISTFAAA…`).
    pub histogram: String,
}

impl StageFigures {
    /// Its tag in `.hlog` files: `kind.stage`.
    #[must_use]
    pub fn tag(&self) -> String {
        format!("{}.{}", self.kind, self.stage)
    }
}

/// `GET /slowest`: the slowest requests of the last one to two windows, and the latest stalls.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct SlowestDocument {
    /// [`SLOWEST_SCHEMA`].
    pub schema: String,
    /// Which broker.
    pub node: NodeLabel,
    /// How long a window is, in milliseconds.
    pub window_ms: u64,
    /// The slowest first.
    pub requests: Vec<SlowFigures>,
    /// The latest last.
    pub stalls: Vec<StallFigures>,
}

/// One slow request.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct SlowFigures {
    /// The shard that held its connection.
    pub shard: u16,
    /// When it ended, in milliseconds since the Unix epoch.
    pub ended_unix_ms: u64,
    /// `produce`, `fetch` or `other`.
    pub kind: String,
    /// The client's own name for itself, cut to a bounded length.
    pub client_id: String,
    /// The (first) topic it was about; empty if about none.
    pub topic: String,
    /// The (first) partition it was about; -1 if about none.
    pub partition: i32,
    /// Bytes of the request.
    pub size_bytes: u32,
    /// From its first byte to the last byte of its reply.
    pub total_ns: u64,
    /// The stages it met, in their order.
    pub stages: Vec<PartFigures>,
}

/// One turn of a shard above the limit.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct StallFigures {
    /// Whose turn.
    pub shard: u16,
    /// When it ended, in milliseconds since the Unix epoch.
    pub ended_unix_ms: u64,
    /// How long it took.
    pub turn_ns: u64,
    /// What ran in it, in the order of a turn.
    pub parts: Vec<PartFigures>,
}

/// A part of something that took time.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct PartFigures {
    /// Its name.
    pub name: String,
    /// How long it took.
    pub ns: u64,
    /// How many things were done in it; 0 where that is not counted.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub items: u32,
}

fn is_zero(items: &u32) -> bool {
    *items == 0
}

/// `GET /lateness`: how late records come, by partition.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct LatenessDocument {
    /// [`LATENESS_SCHEMA`].
    pub schema: String,
    /// Which broker.
    pub node: NodeLabel,
    /// Partitions in the order of topic and number.
    pub partitions: Vec<LatenessFigures>,
}

/// How late the records of one partition come, in milliseconds. Quantiles are upper bounds of
/// buckets: at most a quarter too high.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct LatenessFigures {
    /// Of which topic.
    pub topic: String,
    /// Which partition.
    pub partition: i32,
    /// Batches seen.
    pub batches: u64,
    /// The newest event time seen, in milliseconds since the Unix epoch.
    pub newest_event_unix_ms: i64,
    /// Batches whose event time lay in our future.
    pub from_the_future: u64,
    /// From the event to its append.
    pub behind_clock_ms: LatenessQuantiles,
    /// How far a batch's oldest record lies behind the newest event time before it: what a reader
    /// has to wait for to see events in order.
    pub behind_newest_ms: LatenessQuantiles,
}

/// Some quantiles of a lateness, in milliseconds.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct LatenessQuantiles {
    /// Half of the batches are not later.
    pub p50: u64,
    /// 99 in 100 batches are not later.
    pub p99: u64,
    /// No batch is later.
    pub max: u64,
}
