//! Recordings of a shard's requests by kind and stage, and copies of them, merged on demand.
//!
//! Recordings are made when the first request of their kind ends, one for each stage and one for
//! the total: values from 1 ns to 60 s within 1 %. Only those parts of them take memory that are
//! ever met: below 1.4 MiB per shard. No atomics, no locks: a shard owns its recorder, and hands
//! over copies of it.

use std::fmt::Write as _;

use hdrhistogram::Histogram;
use tidemill_runtime::clock::TickScale;

use crate::counts::{Counts, Recordings};
use crate::stage::{KINDS, Kind, STAGES, Stage, Stamps, TICKS_PER_UNIT};

pub use crate::counts::{NANOS_MAX, empty};

/// One line beside the stages of each kind: from the first to the last.
const TOTAL: usize = STAGES;

/// All of them.
const LINES: usize = STAGES + 1;

/// The quantiles that are printed.
pub const QUANTILES: [(&str, f64); 7] = [
    ("p50", 0.5),
    ("p90", 0.9),
    ("p99", 0.99),
    ("p99.9", 0.999),
    ("p99.99", 0.9999),
    ("p99.999", 0.99999),
    ("max", 1.0),
];

/// One shard's recordings. Nobody else touches them.
#[derive(Clone, Debug)]
pub struct Recorder {
    scale: TickScale,
    nanos_per_tick: f32,
    rows: [Option<Recordings<LINES>>; KINDS],
}

/// The counts of one or several shards over some time.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Snapshot {
    rows: [[Option<Counts>; LINES]; KINDS],
}

impl Recorder {
    /// No request yet.
    #[must_use]
    pub fn new(scale: TickScale) -> Self {
        Self { scale, nanos_per_tick: scale.nanos_per_tick() as f32, rows: Default::default() }
    }

    /// A request has ended: takes its total and each stage it met.
    #[inline]
    pub fn record(&mut self, stamps: &Stamps) {
        let row = self.rows[stamps.kind() as usize].get_or_insert_default();
        let nanos_per_unit = self.nanos_per_tick * TICKS_PER_UNIT as f32;
        for (line, units) in stamps.units().iter().enumerate() {
            if 0 < *units {
                row.record(line, *units as f32 * nanos_per_unit);
            }
        }
        // Signed, because that is what processors turn into floating point.
        let total = stamps.total_ticks() as i64 as f32 * self.nanos_per_tick;
        row.record(TOTAL, total.clamp(1.0, NANOS_MAX as f32));
    }

    /// How ticks become nanoseconds here.
    #[must_use]
    pub fn scale(&self) -> TickScale {
        self.scale
    }

    /// All that was recorded so far. The difference of two snapshots is an interval.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        let rows = std::array::from_fn(|kind| {
            let row = self.rows[kind].as_ref();
            std::array::from_fn(|line| row.and_then(|row| row.counts(line)))
        });
        Snapshot { rows }
    }
}

impl Snapshot {
    /// Adds another shard's, or another interval's.
    pub fn merge(&mut self, other: &Self) {
        for (row, others) in self.rows.iter_mut().zip(&other.rows) {
            for (mine, other) in row.iter_mut().zip(others) {
                match (mine, other) {
                    (_, None) => {}
                    (Some(mine), Some(other)) => mine.merge(other),
                    (mine @ None, Some(other)) => *mine = Some(other.clone()),
                }
            }
        }
    }

    /// What came since `earlier`, a snapshot of the same recorder; only what was met since then.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let difference = |now: &Option<Counts>, before: &Option<Counts>| {
            let now = now.as_ref()?;
            let rest = before.as_ref().map_or_else(|| now.clone(), |before| now.since(before));
            (!rest.is_empty()).then_some(rest)
        };
        let rows = std::array::from_fn(|kind| {
            let (now, before) = (&self.rows[kind], &earlier.rows[kind]);
            std::array::from_fn(|place| difference(&now[place], &before[place]))
        });
        Self { rows }
    }

    /// The times of one stage of one kind; none if it was never met.
    #[must_use]
    pub fn stage(&self, kind: Kind, stage: Stage) -> Option<&Counts> {
        self.rows[kind as usize][stage as usize].as_ref()
    }

    /// The times of one kind from the first to the last stage.
    #[must_use]
    pub fn total(&self, kind: Kind) -> Option<&Counts> {
        self.rows[kind as usize][TOTAL].as_ref()
    }

    /// All counts with their kind and their stage's name (`total` last).
    pub fn iter(&self) -> impl Iterator<Item = (Kind, &'static str, &Counts)> {
        let name = |place: usize| Stage::ALL.get(place).map_or("total", |stage| stage.name());
        Kind::ALL.into_iter().flat_map(move |kind| {
            let row = self.rows[kind as usize].iter().enumerate();
            row.filter_map(move |(place, counts)| Some((kind, name(place), counts.as_ref()?)))
        })
    }

    /// A table for people: microseconds, one line per stage.
    #[must_use]
    pub fn to_text(&self) -> String {
        let mut out = format!("{:<8} {:<10} {:>12} {:>10}", "request", "stage", "count", "mean us");
        for (name, _) in QUANTILES {
            let _ = write!(out, " {name:>10}");
        }
        out.push('\n');
        for (kind, stage, counts) in self.iter() {
            let (count, mean) = (counts.len(), counts.mean_nanos() / 1000.0);
            let _ = write!(out, "{:<8} {stage:<10} {count:>12} {mean:>10.1}", kind.name());
            for (_, quantile) in QUANTILES {
                let _ = write!(out, " {:>10.1}", counts.at_quantile(quantile) as f64 / 1000.0);
            }
            out.push('\n');
        }
        out
    }
}

/// One histogram's figures as a JSON object, in nanoseconds.
#[must_use]
pub fn histogram_json(histogram: &Histogram<u64>) -> String {
    let mut out = format!("{{\"count\":{},\"mean\":{:.0}", histogram.len(), histogram.mean());
    for (name, quantile) in QUANTILES {
        let _ = write!(out, ",\"{name}\":{}", histogram.value_at_quantile(quantile));
    }
    out.push('}');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recorded(requests: u64) -> Recorder {
        let scale = TickScale::measure();
        let mut recorder = Recorder::new(scale);
        for i in 0..requests {
            let mut stamps = Stamps::begin(0);
            stamps.set_kind(Kind::Produce);
            stamps.end(Stage::Append, 32_000);
            stamps.end(Stage::Durable, 32_000 + 64_000 * (i + 1));
            recorder.record(&stamps);
        }
        recorder
    }

    /// Two shards' figures are those of one shard that served both.
    #[test]
    fn merged_snapshots_count_everything_once() {
        let mut merged = recorded(10).snapshot();
        merged.merge(&recorded(30).snapshot());
        merged.merge(&Snapshot::default());
        assert_eq!(merged.total(Kind::Produce).unwrap().len(), 40);
        assert_eq!(merged.stage(Kind::Produce, Stage::Durable).unwrap().len(), 40);
        assert!(merged.stage(Kind::Produce, Stage::Wait).is_none(), "never met, never made");
        assert!(merged.total(Kind::Fetch).is_none());
    }

    /// Any number of readers take their own intervals: none changes what another one sees.
    #[test]
    fn intervals_are_differences() {
        let mut recorder = recorded(5);
        let first = recorder.snapshot();
        let mut fetch = Stamps::begin(0);
        fetch.set_kind(Kind::Fetch);
        fetch.end(Stage::Cache, 16_000);
        recorder.record(&fetch);
        let interval = recorder.snapshot().since(&first);
        let met: Vec<_> = interval.iter().map(|(kind, stage, _)| (kind, stage)).collect();
        assert_eq!(met, [(Kind::Fetch, "cache"), (Kind::Fetch, "total")]);
        assert_eq!(recorder.snapshot().total(Kind::Produce).unwrap().len(), 5);
    }

    /// Times are within one percent of what was stamped.
    #[test]
    fn values_are_kept_within_one_percent() {
        let scale = TickScale::measure();
        let mut recorder = Recorder::new(scale);
        let mut stamps = Stamps::begin(0);
        stamps.end(Stage::Work, 160_000_000);
        recorder.record(&stamps);
        let snapshot = recorder.snapshot();
        let found = snapshot.stage(Kind::Other, Stage::Work).unwrap().at_quantile(1.0) as f64;
        let expected = scale.nanos(160_000_000) as f64;
        assert!((found - expected).abs() <= expected / 100.0, "{found} for {expected}");
    }

    /// The texts name each stage once, with its count.
    #[test]
    fn the_texts_hold_the_figures() {
        let snapshot = recorded(3).snapshot();
        assert_eq!(snapshot.to_text().lines().count(), 4);
        let histogram = snapshot.total(Kind::Produce).unwrap().histogram();
        assert!(histogram_json(&histogram).starts_with("{\"count\":3,"));
    }
}
