//! What a run does: with which broker, which load in which phases, and who reads.
//!
//! All of it is plain values, so that several generator processes can be told the same.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::arrival::Arrival;
use crate::control::Topic;
use crate::follow::Reading;
use crate::search::Objective;
use crate::workload::Shape;

/// One of several that divide something between them.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Share {
    /// Which, counted from 0.
    pub nth: usize,
    /// Of how many.
    pub of: usize,
}

impl Share {
    /// The only one.
    pub const WHOLE: Self = Self { nth: 0, of: 1 };
}

/// Who reads.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
pub struct Readers {
    /// Sets of readers: each reads everything.
    pub sets: usize,
    /// Connections of each set, at most one for each partition.
    pub connections: usize,
    /// Whether they begin at the first record there is, not at the end.
    pub from_start: bool,
    /// How they read.
    pub reading: Reading,
}

/// One part of a run, with a load and figures of its own.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Phase {
    /// Shown with its figures; empty if it is the only one.
    pub name: String,
    /// How long it is.
    pub duration: Duration,
    /// When records are due.
    pub arrival: Arrival,
    /// What they look like.
    pub shape: Shape,
    /// What it has to fulfil; judged by whoever started the run.
    #[serde(skip)]
    pub objective: Option<Objective>,
}

/// What to do to which broker.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Settings {
    /// Shown with the figures.
    pub name: String,
    /// The topic, and where its partitions are.
    pub topic: Topic,
    /// The process to be watched; none if it runs elsewhere.
    pub broker_pid: Option<u32>,
    /// Connections that produce; at least one for each address that leads.
    pub producers: usize,
    /// Who reads meanwhile.
    pub readers: Option<Readers>,
    /// Whether all is read back afterwards, where nobody has read meanwhile.
    pub read_back: bool,
    /// Shards of the load generator, in each of its processes.
    pub shards: usize,
    /// The load, at least one phase of it; they follow each other without a pause.
    pub phases: Vec<Phase>,
    /// A batch is full at this size.
    pub batch_bytes: usize,
    /// How long a batch that is not full waits for more.
    pub linger: Duration,
    /// The most requests in flight on one connection.
    pub in_flight_max: usize,
    /// Kafka's acks: 0, 1 or -1.
    pub acks: i16,
    /// Before the first phase, with its load.
    pub warm_up: Duration,
    /// How long answers are awaited, and readers may take to catch up, after the end.
    pub drain: Duration,
    /// How long a broker that was lost is awaited before the run is given up.
    pub reconnect: Duration,
    /// Whether to read until all that is there has been read, instead.
    pub until_caught_up: bool,
}

impl Settings {
    /// How long all phases take together.
    #[must_use]
    pub fn duration(&self) -> Duration {
        self.phases.iter().map(|phase| phase.duration).sum()
    }

    /// What records look like, phase by phase.
    #[must_use]
    pub fn shapes(&self) -> Vec<Shape> {
        self.phases.iter().map(|phase| phase.shape).collect()
    }

    /// The largest value of any phase.
    #[must_use]
    pub fn value_bytes_max(&self) -> usize {
        self.phases.iter().map(|phase| phase.shape.value_bytes_max).max().unwrap_or(0)
    }

    /// Whether some phase is a closed loop that produces.
    #[must_use]
    pub fn has_closed_loop(&self) -> bool {
        0 < self.producers && self.phases.iter().any(|phase| phase.arrival == Arrival::Closed)
    }
}
