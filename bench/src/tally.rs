//! What the shards of the load generator tell the thread that reports: histograms and counts by
//! interval, and at the end what was acknowledged and what was seen.
//!
//! Histograms are merged, never averaged.

use std::ops::Range;

use hdrhistogram::Histogram;
use tidemill_perf::histogram;
use tidemill_runtime::edge::Instant;

use crate::verify::Seen;

/// The most mistakes that are told in words.
pub const FAULTS_MAX: usize = 10;

/// What is measured, each in nanoseconds.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Measure {
    /// Of each record: from when it was due to its acknowledgement.
    Ack,
    /// Of each produce request: from when it was sent to its answer.
    Service,
    /// Of each record and reader: from when it was due to when it was read and verified.
    EndToEnd,
    /// Of each fetch with records: from when it was sent to its answer.
    Fetch,
    /// Of each record due while there was room to send it: how much later the generator took it up.
    Late,
}

/// All measures, and their tags in logs.
pub const MEASURES: [(Measure, &str); 5] = [
    (Measure::Ack, "ack"),
    (Measure::Service, "service"),
    (Measure::EndToEnd, "e2e"),
    (Measure::Fetch, "fetch"),
    (Measure::Late, "late"),
];

/// What was measured in one interval, or over all of a run.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    histograms: [Option<Histogram<u64>>; MEASURES.len()],
    /// Batch bytes acknowledged.
    pub acked_bytes: u64,
    /// Records acknowledged.
    pub acked_records: u64,
    /// Batches acknowledged.
    pub acked_batches: u64,
    /// Batch bytes read.
    pub read_bytes: u64,
    /// Records read and verified.
    pub read_records: u64,
    /// Answers that were errors.
    pub errors: u64,
    /// Records that fell due while no request could be sent: the limit of those in flight was
    /// reached. Their wait is part of their latency.
    pub held_back: u64,
}

impl Tally {
    /// Records the same time `count` times.
    pub fn record(&mut self, measure: Measure, nanos: u64, count: u64) {
        let place = &mut self.histograms[measure as usize];
        place.get_or_insert_with(histogram::empty).saturating_record_n(nanos, count);
    }

    /// The times of one measure; none if it was never met.
    #[must_use]
    pub fn histogram(&self, measure: Measure) -> Option<&Histogram<u64>> {
        self.histograms[measure as usize].as_ref()
    }

    /// Adds another's.
    pub fn merge(&mut self, other: &Self) {
        for (mine, other) in self.histograms.iter_mut().zip(&other.histograms) {
            let Some(other) = other else { continue };
            let mine = mine.get_or_insert_with(histogram::empty);
            mine.add(other).expect("all have the same range");
        }
        self.acked_bytes += other.acked_bytes;
        self.acked_records += other.acked_records;
        self.acked_batches += other.acked_batches;
        self.read_bytes += other.read_bytes;
        self.read_records += other.read_records;
        self.errors += other.errors;
        self.held_back += other.held_back;
    }
}

/// What became of one producer's records.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Produced {
    /// The producer.
    pub producer: u32,
    /// Into which partition.
    pub partition: i32,
    /// Sequences below this were sent.
    pub sent: u64,
    /// Sequences of those that were refused, or never answered.
    pub failed: Vec<Range<u64>>,
}

/// What one reader saw of one partition.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct ReadBack {
    /// To which of the sets of readers it belongs: each set reads everything.
    pub set: usize,
    /// Which partition.
    pub partition: i32,
    /// Whether it has read to the end.
    pub caught_up: bool,
    /// What it saw of each producer.
    pub seen: Vec<Seen>,
    /// Records that were verified.
    pub records: u64,
    /// Records of somebody else.
    pub foreign: u64,
}

/// What is known at the end, over all of a run.
#[derive(Clone, Debug, Default)]
pub struct Ends {
    /// Of each producer.
    pub produced: Vec<Produced>,
    /// Of each reader and partition.
    pub read: Vec<ReadBack>,
    /// Records that were due and for which no answer came.
    pub unanswered: u64,
    /// How often something was not as it should be.
    pub faults: u64,
    /// The first of these, in words.
    pub fault_texts: Vec<String>,
    /// When the last counted answer came.
    pub last_answer: Instant,
}

impl Ends {
    /// Adds another shard's.
    pub fn merge(&mut self, other: Self) {
        self.produced.extend(other.produced);
        self.read.extend(other.read);
        self.unanswered += other.unanswered;
        self.faults += other.faults;
        self.fault_texts.extend(other.fault_texts);
        self.fault_texts.truncate(FAULTS_MAX);
        self.last_answer = self.last_answer.max(other.last_answer);
    }

    /// Something was not as it should be.
    pub fn fault(&mut self, text: String) {
        self.faults += 1;
        if self.fault_texts.len() < FAULTS_MAX {
            self.fault_texts.push(text);
        }
    }
}

/// What a shard says.
#[derive(Debug)]
pub enum News {
    /// An interval has passed.
    Interval(Box<Tally>),
    /// The shard is done.
    End(Box<Ends>),
}
