//! Recordings of a shard's requests by kind and stage, and copies of them, merged on demand.
//!
//! Recordings are made when the first request of their kind ends, one for each stage and one for
//! the total: values from 1 ns to 60 s within 1 %. The total of every request is recorded, the
//! stages of a sample ([`crate::sample`]); beside them lie the totals of that sample, to which its
//! stages add up. Only those parts of them take memory that are ever met: below 1.5 MiB per shard.
//! No atomics, no locks: a shard owns its recorder, and hands over copies of it.

use std::fmt::Write as _;

use hdrhistogram::Histogram;
use tidemill_runtime::clock::TickScale;

use crate::counts::{Counts, Recordings};
use crate::sample::Lot;
use crate::stage::{KINDS, Kind, STAGES, Stage, Stamps};

pub use crate::counts::{NANOS_MAX, empty};

/// Beside the stages of each kind: from the first to the last, of the requests that were sampled
/// and of all.
const SAMPLED: usize = STAGES;
const TOTAL: usize = STAGES + 1;

/// All of them.
const LINES: usize = STAGES + 2;

/// The name of the line of the requests whose stages were recorded, in every output.
pub const SAMPLED_NAME: &str = "sampled";

/// Whether this tag is of whole requests, but of those only whose stages were recorded.
#[must_use]
pub fn is_sampled(tag: &str) -> bool {
    tag.rsplit_once('.').is_some_and(|(_, stage)| stage == SAMPLED_NAME)
}

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
    lot: Lot,
    rows: [Option<Recordings<LINES>>; KINDS],
}

/// The counts of one or several shards over some time.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Snapshot {
    rows: [[Option<Counts>; LINES]; KINDS],
}

impl Recorder {
    /// No request yet. The seed decides whose stages are recorded.
    #[must_use]
    pub fn new(scale: TickScale, seed: u64) -> Self {
        let nanos_per_tick = scale.nanos_per_tick() as f32;
        Self { scale, nanos_per_tick, lot: Lot::new(seed), rows: Default::default() }
    }

    /// A request has ended after so many ticks: takes its total, and if it is drawn each stage it
    /// met.
    #[inline]
    pub fn record(&mut self, total_ticks: i64, stamps: &Stamps) {
        let nanos = nanos(total_ticks, self.nanos_per_tick);
        let row = self.rows[stamps.kind() as usize].get_or_insert_default();
        row.record(TOTAL, nanos);
        if self.lot.is_drawn() {
            self.record_stages(nanos, stamps);
        }
    }

    #[cold]
    #[inline(never)]
    fn record_stages(&mut self, total_nanos: f32, stamps: &Stamps) {
        self.lot.draw();
        let row = self.rows[stamps.kind() as usize].get_or_insert_default();
        row.record(SAMPLED, total_nanos);
        for (line, ticks) in stamps.spent() {
            row.record(line, nanos(ticks as i64, self.nanos_per_tick));
        }
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

/// What can be recorded: at least 1 ns, and at most what is told apart.
#[inline]
fn nanos(ticks: i64, nanos_per_tick: f32) -> f32 {
    (ticks as f32 * nanos_per_tick).clamp(1.0, NANOS_MAX as f32)
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

    /// The times of one stage of one kind, of the sampled requests; none if it was never met.
    #[must_use]
    pub fn stage(&self, kind: Kind, stage: Stage) -> Option<&Counts> {
        self.rows[kind as usize][stage as usize].as_ref()
    }

    /// The times of one kind from the first to the last stage.
    #[must_use]
    pub fn total(&self, kind: Kind) -> Option<&Counts> {
        self.rows[kind as usize][TOTAL].as_ref()
    }

    /// The times of one kind from the first to the last stage, of the sampled requests.
    #[must_use]
    pub fn sampled(&self, kind: Kind) -> Option<&Counts> {
        self.rows[kind as usize][SAMPLED].as_ref()
    }

    /// All counts with their kind and their stage's name (`sampled` and `total` last).
    pub fn iter(&self) -> impl Iterator<Item = (Kind, &'static str, &Counts)> {
        let name = |place: usize| match place {
            SAMPLED => SAMPLED_NAME,
            TOTAL => "total",
            place => Stage::ALL[place].name(),
        };
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
        let mut recorder = Recorder::new(scale, 1);
        for i in 0..requests {
            let mut stamps = Stamps::begin(0);
            stamps.set_kind(Kind::Produce);
            let end = 32_000 + 64_000 * (i + 1);
            stamps.end(Stage::Append, 32_000);
            stamps.end(Stage::Durable, end);
            recorder.record(stamps.total_until(end), &stamps);
        }
        recorder
    }

    /// The total of every request is counted; the stages are those of one in sixteen, and add up
    /// to what these took.
    #[test]
    fn totals_are_exact_and_stages_a_sample() {
        let snapshot = recorded(16_000).snapshot();
        let total = snapshot.total(Kind::Produce).unwrap();
        let sampled = snapshot.sampled(Kind::Produce).unwrap();
        assert_eq!((total.len(), sampled.len()), (16_000, 1000));
        let stages = [Stage::Append, Stage::Durable].map(|s| snapshot.stage(Kind::Produce, s));
        assert!(stages.iter().all(|stage| stage.unwrap().len() == 1000));
        let spent: u64 = stages.iter().map(|stage| stage.unwrap().sum_nanos()).sum();
        assert!(spent.abs_diff(sampled.sum_nanos()) <= sampled.sum_nanos() / 1_000_000);
    }

    /// Requests become slower and slower, and every sixteenth is a hundred times slower: the
    /// sample tells of them what all of them together would.
    #[test]
    fn the_sample_is_not_biased() {
        let scale = TickScale::measure();
        let mut recorder = Recorder::new(scale, 3);
        for i in 0..160_000u64 {
            let mut stamps = Stamps::begin(0);
            let end = (100_000 + i) * if i % 16 == 5 { 100 } else { 1 };
            stamps.end(Stage::Work, end);
            recorder.record(stamps.total_until(end), &stamps);
        }
        let snapshot = recorder.snapshot();
        let total = snapshot.total(Kind::Other).unwrap();
        let work = snapshot.stage(Kind::Other, Stage::Work).unwrap();
        let off = work.mean_nanos() / total.mean_nanos();
        // One standard deviation is 3 %.
        assert!((0.88..1.12).contains(&off), "{off}");
        for quantile in [0.1, 0.5, 0.9] {
            let (all, some) = (total.at_quantile(quantile), work.at_quantile(quantile));
            let off = some as f64 / all as f64;
            assert!((0.95..1.05).contains(&off), "{quantile}: {some} for {all}");
        }
    }

    /// Two shards' figures are those of one shard that served both.
    #[test]
    fn merged_snapshots_count_everything_once() {
        let mut merged = recorded(10).snapshot();
        merged.merge(&recorded(30).snapshot());
        merged.merge(&Snapshot::default());
        assert_eq!(merged.total(Kind::Produce).unwrap().len(), 40);
        let durable = merged.stage(Kind::Produce, Stage::Durable).unwrap().len();
        assert!((2..=4).contains(&durable), "{durable} of 10 and 30");
        assert!(merged.stage(Kind::Produce, Stage::Wait).is_none(), "never met, never made");
        assert!(merged.total(Kind::Fetch).is_none());
    }

    /// Any number of readers take their own intervals: none changes what another one sees.
    #[test]
    fn intervals_are_differences() {
        let mut recorder = recorded(16);
        let first = recorder.snapshot();
        let mut fetch = Stamps::begin(0);
        fetch.set_kind(Kind::Fetch);
        fetch.end(Stage::Cache, 16_000);
        for _ in 0..16 {
            recorder.record(16_000, &fetch);
        }
        let interval = recorder.snapshot().since(&first);
        let met: Vec<_> = interval.iter().map(|(kind, stage, _)| (kind, stage)).collect();
        assert_eq!(met, ["cache", "sampled", "total"].map(|stage| (Kind::Fetch, stage)));
        assert_eq!(recorder.snapshot().total(Kind::Produce).unwrap().len(), 16);
    }

    /// Times are within one percent of what was stamped.
    #[test]
    fn values_are_kept_within_one_percent() {
        let scale = TickScale::measure();
        let mut recorder = Recorder::new(scale, 1);
        let stamps = Stamps::begin(0);
        recorder.record(stamps.total_until(160_000_000), &stamps);
        let snapshot = recorder.snapshot();
        let found = snapshot.total(Kind::Other).unwrap().at_quantile(1.0) as f64;
        let expected = scale.nanos(160_000_000) as f64;
        assert!((found - expected).abs() <= expected / 100.0, "{found} for {expected}");
    }

    /// The texts name each stage once, with its count.
    #[test]
    fn the_texts_hold_the_figures() {
        let snapshot = recorded(16).snapshot();
        assert_eq!(snapshot.to_text().lines().count(), 5);
        let histogram = snapshot.total(Kind::Produce).unwrap().histogram();
        assert!(histogram_json(&histogram).starts_with("{\"count\":16,"));
    }
}
