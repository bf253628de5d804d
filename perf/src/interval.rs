//! What happened between two readings of a broker's `/latency`: rates, busy shares and the
//! histograms of that time.

use std::collections::BTreeMap;

use hdrhistogram::Histogram;

use crate::document::{LatencyDocument, ShardFigures, StageFigures};
use crate::histogram::SAMPLED_NAME;
use crate::hlog::{LogError, decode_histogram};
use crate::machine::share::Flow;

/// The time between two readings, all counts as differences.
#[derive(Clone, Debug, Default)]
pub struct Between {
    /// How many seconds it lasted.
    pub seconds: f64,
    /// One for each shard.
    pub shards: Vec<ShardBetween>,
    /// Times of each stage met, over all shards, by tag; in the document's order.
    pub stages: Vec<(String, Histogram<u64>)>,
}

/// One shard between two readings.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ShardBetween {
    /// Its number.
    pub shard: u16,
    /// The share of the time it was busy, from 0 to 1.
    pub busy: f64,
    /// Turns per second.
    pub turns: f64,
    /// Stalls (not per second).
    pub stalls: u64,
    /// Connections open at the end.
    pub connections: u64,
    /// Bytes received per second.
    pub bytes_in: f64,
    /// Bytes sent per second.
    pub bytes_out: f64,
    /// Batches appended per second.
    pub batches: f64,
    /// Bytes written to the device per second.
    pub disk_written: f64,
    /// Bytes read from the device per second.
    pub disk_read: f64,
    /// Messages per second to each other shard.
    pub mesh: Vec<(u16, f64)>,
}

impl Between {
    /// What lies between the two; none if the broker was started anew between them.
    pub fn new(
        before: &LatencyDocument,
        after: &LatencyDocument,
    ) -> Result<Option<Self>, LogError> {
        let same = before.node == after.node && before.started_unix_ms == after.started_unix_ms;
        if !same || before.shards.len() != after.shards.len() {
            return Ok(None);
        }
        let mut between = Self::default();
        let mut sums: BTreeMap<usize, (String, Histogram<u64>)> = BTreeMap::new();
        for (earlier, later) in before.shards.iter().zip(&after.shards) {
            let seconds = later.taken_ns.saturating_sub(earlier.taken_ns) as f64 / 1e9;
            if later.turns < earlier.turns || seconds <= 0.0 {
                return Ok(None);
            }
            // Shards are read one after the other. The mean of theirs adds up over many intervals;
            // the longest would not.
            between.seconds += seconds / before.shards.len() as f64;
            between.shards.push(shard_between(earlier, later, seconds));
            for stage in &later.stages {
                if let Some(met) = stage_between(earlier, stage)? {
                    add(&mut sums, stage, met)?;
                }
            }
        }
        between.stages = sums.into_values().collect();
        Ok(Some(between))
    }

    /// Times of a tag; none if it was not met.
    #[must_use]
    pub fn stage(&self, tag: &str) -> Option<&Histogram<u64>> {
        self.stages.iter().find(|(name, _)| name == tag).map(|(_, histogram)| histogram)
    }

    /// A figure of all shards added up.
    pub fn sum(&self, figure: impl Fn(&ShardBetween) -> f64) -> f64 {
        self.shards.iter().map(figure).sum()
    }

    /// What there is a most of: the rates to be put beside this machine's limits.
    #[must_use]
    pub fn flows(&self) -> Vec<(Flow, f64)> {
        let busiest = |rates: &mut dyn Iterator<Item = f64>| rates.fold(0.0, f64::max);
        let mut mesh = self.shards.iter().flat_map(|shard| &shard.mesh).map(|(_, sent)| *sent);
        let mut received = self.shards.iter().map(|shard| shard.bytes_in);
        vec![
            (Flow::BytesIn, self.sum(|shard| shard.bytes_in)),
            (Flow::BytesOut, self.sum(|shard| shard.bytes_out)),
            (Flow::DiskWrites, self.sum(|shard| shard.disk_written)),
            (Flow::DiskReads, self.sum(|shard| shard.disk_read)),
            (Flow::MeshMessages, busiest(&mut mesh)),
            (Flow::Checksums, busiest(&mut received)),
        ]
    }

    /// Requests of a kind per second.
    #[must_use]
    pub fn requests(&self, kind: &str) -> f64 {
        let total = self.stage(&format!("{kind}.total"));
        total.map_or(0.0, |total| total.len() as f64) / self.seconds.max(1e-9)
    }
}

fn shard_between(earlier: &ShardFigures, later: &ShardFigures, seconds: f64) -> ShardBetween {
    let count = |figure: fn(&ShardFigures) -> u64| figure(later).saturating_sub(figure(earlier));
    let rate = |figure: fn(&ShardFigures) -> u64| count(figure) as f64 / seconds;
    let mesh = later.mesh.iter().map(|peer| {
        let before = earlier.mesh.iter().find(|other| other.peer == peer.peer);
        let sent = peer.sent.saturating_sub(before.map_or(0, |before| before.sent));
        (peer.peer, sent as f64 / seconds)
    });
    ShardBetween {
        shard: later.shard,
        busy: (rate(|shard| shard.busy_ns) / 1e9).min(1.0),
        turns: rate(|shard| shard.turns),
        stalls: count(|shard| shard.stalls),
        connections: later.connections,
        bytes_in: rate(|shard| shard.bytes_in),
        bytes_out: rate(|shard| shard.bytes_out),
        batches: rate(|shard| shard.batches_appended),
        disk_written: rate(|shard| shard.disk_bytes_written),
        disk_read: rate(|shard| shard.disk_bytes_read),
        mesh: mesh.collect(),
    }
}

/// Times of a stage since `earlier`; none if it was not met since.
fn stage_between(
    earlier: &ShardFigures,
    stage: &StageFigures,
) -> Result<Option<Histogram<u64>>, LogError> {
    let is_same = |other: &&StageFigures| other.kind == stage.kind && other.stage == stage.stage;
    let before = earlier.stages.iter().find(is_same);
    if before.is_some_and(|before| stage.count <= before.count) {
        return Ok(None);
    }
    let mut met = decode_histogram(&stage.histogram)?;
    if let Some(before) = before {
        met.subtract(decode_histogram(&before.histogram)?)
            .map_err(|_| LogError::NotAHistogram("a count went back".to_owned()))?;
    }
    Ok(Some(met))
}

/// The order in which a request meets its stages, kinds apart; unknown ones come last.
fn order(stage: &StageFigures) -> usize {
    use crate::stage::{Kind, STAGES, Stage};
    let kind = Kind::ALL.iter().position(|kind| kind.name() == stage.kind);
    let place = Stage::ALL.iter().position(|other| other.name() == stage.stage);
    let sampled = (stage.stage == SAMPLED_NAME).then_some(STAGES);
    kind.unwrap_or(Kind::ALL.len()) * 2 * STAGES + place.or(sampled).unwrap_or(STAGES + 1)
}

fn add(
    sums: &mut BTreeMap<usize, (String, Histogram<u64>)>,
    stage: &StageFigures,
    met: Histogram<u64>,
) -> Result<(), LogError> {
    let tag = stage.tag();
    let mut place = order(stage);
    // Two unknown stages may share a place; they still are two.
    while sums.get(&place).is_some_and(|(other, _)| *other != tag) {
        place += 10_000;
    }
    match sums.get_mut(&place) {
        Some((_, sum)) => sum.add(met).map_err(|error| LogError::NotAHistogram(error.to_string())),
        None => {
            sums.insert(place, (tag, met));
            Ok(())
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::document::{LATENCY_SCHEMA, MeshFigures, NodeLabel};
    use crate::hlog::encode_histogram;

    /// Two readings a second apart of a broker of two shards that is half busy: the stages of
    /// produce grow by a hundred requests, from the start by two hundred.
    pub(crate) fn readings() -> [LatencyDocument; 3] {
        [0u64, 1, 3].map(|second| {
            let stages = ["append", "durable", "total"].iter().zip([20u64, 900, 1000]);
            let stages: Vec<_> = stages
                .map(|(stage, micros)| {
                    let mut histogram = crate::counts::empty();
                    for i in 0..100 * second {
                        histogram.record(micros * 1000 * (1 + i % 10)).unwrap();
                    }
                    StageFigures {
                        kind: "produce".to_owned(),
                        stage: (*stage).to_owned(),
                        count: histogram.len(),
                        sum_ns: 0,
                        histogram: encode_histogram(&histogram),
                    }
                })
                .filter(|stage| 0 < stage.count)
                .collect();
            let shard = |shard| ShardFigures {
                shard,
                taken_ns: 1 + second * 1_000_000_000,
                turns: 1000 * second,
                busy_ns: 500_000_000 * second,
                connections: 3,
                bytes_in: 10_000_000 * second,
                bytes_out: 2_000_000 * second,
                mesh: vec![MeshFigures {
                    peer: 1 - shard,
                    sent: 70 * second,
                    received: 70 * second,
                }],
                stages: stages.clone(),
                ..Default::default()
            };
            LatencyDocument {
                schema: LATENCY_SCHEMA.to_owned(),
                node: NodeLabel::default(),
                started_unix_ms: 1_000,
                taken_unix_ms: 1_000_000_000_000 + second * 1000,
                shards: vec![shard(0), shard(1)],
            }
        })
    }

    /// Rates are per second of the shard's own clock; histograms hold the new requests only.
    #[test]
    fn differences_are_of_the_interval_only() {
        let [start, first, last] = readings();
        let between = Between::new(&first, &last).unwrap().unwrap();
        assert!((between.seconds - 2.0).abs() < 1e-9);
        let shard = &between.shards[0];
        assert!((shard.busy - 0.5).abs() < 1e-9 && (shard.bytes_in - 1e7).abs() < 1e-3);
        assert_eq!(shard.mesh, [(1, 70.0)]);
        let flow = |wanted| between.flows().into_iter().find(|(flow, _)| *flow == wanted);
        assert_eq!(flow(Flow::BytesIn), Some((Flow::BytesIn, 2e7)), "of both shards");
        assert_eq!(flow(Flow::Checksums), Some((Flow::Checksums, 1e7)), "of one core");
        assert_eq!(flow(Flow::MeshMessages), Some((Flow::MeshMessages, 70.0)), "of one queue");
        let total = between.stage("produce.total").unwrap();
        assert_eq!(total.len(), 400, "two hundred on each shard");
        assert!((between.requests("produce") - 200.0).abs() < 1e-9);
        let tags: Vec<_> = between.stages.iter().map(|(tag, _)| tag.as_str()).collect();
        assert_eq!(tags, ["produce.append", "produce.durable", "produce.total"]);
        let whole = Between::new(&start, &last).unwrap().unwrap();
        assert_eq!(whole.stage("produce.append").unwrap().len(), 600);
    }

    /// A broker started anew counts from zero: there is no difference to be taken.
    #[test]
    fn a_restart_is_no_interval() {
        let [start, first, mut last] = readings();
        last.started_unix_ms += 1;
        assert!(Between::new(&first, &last).unwrap().is_none());
        assert!(Between::new(&first, &start).unwrap().is_none(), "time went back");
    }
}
