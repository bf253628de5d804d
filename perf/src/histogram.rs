//! Histograms of a shard's requests by kind and stage; snapshots of them, merged and written out.
//!
//! A histogram is made when its stage is first met, and has a fixed size: values from 1 ns to
//! 60 s within 1 %, about 30 KiB. Larger values count as the largest. At most [`KINDS`] × (all
//! stages and the total) exist per shard: below 1.2 MiB.

use std::fmt::Write as _;
use std::io;
use std::time::{Duration, SystemTime};

use hdrhistogram::Histogram;
use hdrhistogram::serialization::V2DeflateSerializer;
use hdrhistogram::serialization::interval_log::{IntervalLogWriterBuilder, Tag};
use tidemill_runtime::clock::TickScale;

use crate::stage::{KINDS, Kind, STAGES, Stage, Stamps};

/// The largest time told apart: 60 s.
pub const NANOS_MAX: u64 = 60_000_000_000;

/// Significant decimal digits of a value.
const DIGITS: u8 = 2;

/// One line beside the stages of each kind: from the first to the last.
const TOTAL: usize = STAGES;

/// The quantiles that are printed.
const QUANTILES: [(&str, f64); 6] =
    [("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p99.9", 0.999), ("p99.99", 0.9999), ("max", 1.0)];

type Row = [Option<Box<Histogram<u64>>>; STAGES + 1];

/// One shard's histograms. Nobody else touches them.
#[derive(Clone, Debug)]
pub struct Recorder {
    scale: TickScale,
    rows: [Row; KINDS],
}

/// The histograms of one or several shards over some time, in nanoseconds.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    rows: [Row; KINDS],
}

impl Recorder {
    /// No request yet.
    #[must_use]
    pub fn new(scale: TickScale) -> Self {
        Self { scale, rows: Default::default() }
    }

    /// A request has ended: takes its total and each stage it met.
    pub fn record(&mut self, stamps: &Stamps) {
        let row = &mut self.rows[stamps.kind() as usize];
        let mut add = |place: usize, ticks: u64| {
            let histogram = row[place].get_or_insert_with(|| Box::new(empty()));
            histogram.saturating_record(self.scale.nanos(ticks));
        };
        for stage in Stage::ALL {
            let ticks = stamps.ticks(stage);
            if 0 < ticks {
                add(stage as usize, ticks);
            }
        }
        add(TOTAL, stamps.total_ticks());
    }

    /// All that was recorded so far.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        Snapshot { rows: self.rows.clone() }
    }

    /// All that was recorded since the last call to this; the recorder begins anew.
    pub fn take(&mut self) -> Snapshot {
        Snapshot { rows: std::mem::take(&mut self.rows) }
    }
}

/// A histogram of the kit's range and precision.
#[must_use]
pub fn empty() -> Histogram<u64> {
    Histogram::new_with_bounds(1, NANOS_MAX, DIGITS).expect("the bounds and digits are valid")
}

impl Snapshot {
    /// Adds another shard's, or another interval's.
    pub fn merge(&mut self, other: &Self) {
        for (row, others) in self.rows.iter_mut().zip(&other.rows) {
            for (mine, other) in row.iter_mut().zip(others) {
                match (mine, other) {
                    (_, None) => {}
                    (Some(mine), Some(other)) => {
                        mine.add(&**other).expect("all have the same range");
                    }
                    (mine @ None, Some(other)) => *mine = Some(other.clone()),
                }
            }
        }
    }

    /// The times of one stage of one kind; none if it was never met.
    #[must_use]
    pub fn stage(&self, kind: Kind, stage: Stage) -> Option<&Histogram<u64>> {
        self.rows[kind as usize][stage as usize].as_deref()
    }

    /// The times of one kind from the first to the last stage.
    #[must_use]
    pub fn total(&self, kind: Kind) -> Option<&Histogram<u64>> {
        self.rows[kind as usize][TOTAL].as_deref()
    }

    /// Every histogram with its kind and its stage's name (`total` last).
    pub fn iter(&self) -> impl Iterator<Item = (Kind, &'static str, &Histogram<u64>)> {
        let name = |place: usize| Stage::ALL.get(place).map_or("total", |stage| stage.name());
        Kind::ALL.into_iter().flat_map(move |kind| {
            let row = self.rows[kind as usize].iter().enumerate();
            row.filter_map(move |(place, h)| Some((kind, name(place), h.as_deref()?)))
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
        for (kind, stage, histogram) in self.iter() {
            let mean = histogram.mean() / 1000.0;
            let count = histogram.len();
            let _ = write!(out, "{:<8} {stage:<10} {count:>12} {mean:>10.1}", kind.name());
            for (_, quantile) in QUANTILES {
                let _ = write!(out, " {:>10.1}", micros(histogram, quantile));
            }
            out.push('\n');
        }
        out
    }

    /// The same figures for programs, in nanoseconds: `{"produce":{"total":{"count":…}}}`.
    #[must_use]
    pub fn to_json(&self) -> String {
        let mut out = String::from("{");
        let mut last: Option<Kind> = None;
        for (kind, stage, histogram) in self.iter() {
            match last {
                Some(previous) if previous == kind => out.push(','),
                Some(_) => {
                    let _ = write!(out, "}},\"{}\":{{", kind.name());
                }
                None => {
                    let _ = write!(out, "\"{}\":{{", kind.name());
                }
            }
            last = Some(kind);
            let _ = write!(out, "\"{stage}\":{}", histogram_json(histogram));
        }
        out.push_str(if last.is_some() { "}}" } else { "}" });
        out
    }

    /// Writes one interval as HdrHistogram's log, a line per kind and stage tagged `kind.stage`.
    /// Values are nanoseconds, their maxima in the file milliseconds.
    pub fn write_hlog(
        &self,
        out: &mut impl io::Write,
        start: SystemTime,
        duration: Duration,
    ) -> io::Result<()> {
        let mut serializer = V2DeflateSerializer::new();
        let mut log = IntervalLogWriterBuilder::new()
            .add_comment("tidemill: nanoseconds per request and stage")
            .with_start_time(start)
            .with_base_time(start)
            .with_max_value_divisor(1_000_000.0)
            .begin_log_with(out, &mut serializer)?;
        for (kind, stage, histogram) in self.iter() {
            let name = format!("{}.{stage}", kind.name());
            let tag = Tag::new(&name).expect("names have no comma, space or line end");
            log.write_histogram(histogram, Duration::ZERO, duration, Some(tag))
                .map_err(|error| io::Error::other(format!("{error:?}")))?;
        }
        Ok(())
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

/// One histogram as `.hgrm`: the percentile distribution that HdrHistogram's plotters read, in
/// microseconds.
#[must_use]
pub fn to_hgrm(histogram: &Histogram<u64>) -> String {
    let mut out = String::from("       Value     Percentile TotalCount 1/(1-Percentile)\n\n");
    for step in histogram.iter_quantiles(5) {
        let value = step.value_iterated_to() as f64 / 1000.0;
        let quantile = step.quantile_iterated_to();
        let below = histogram.count_between(0, step.value_iterated_to());
        let _ = if quantile < 1.0 {
            let odds = 1.0 / (1.0 - quantile);
            writeln!(out, "{value:12.3} {quantile:.12} {below:10} {odds:14.2}")
        } else {
            writeln!(out, "{value:12.3} {quantile:.12} {below:10}")
        };
    }
    let micros = |nanos: f64| nanos / 1000.0;
    let (mean, deviation) = (micros(histogram.mean()), micros(histogram.stdev()));
    let (max, count) = (micros(histogram.max() as f64), histogram.len());
    let _ = writeln!(out, "#[Mean    = {mean:12.3}, StdDeviation   = {deviation:12.3}]");
    let _ = writeln!(out, "#[Max     = {max:12.3}, Total count    = {count:12}]");
    let buckets = histogram.buckets();
    let _ = writeln!(out, "#[Buckets = {buckets:12}, SubBuckets     = {:12}]", 256);
    out
}

fn micros(histogram: &Histogram<u64>, quantile: f64) -> f64 {
    histogram.value_at_quantile(quantile) as f64 / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use hdrhistogram::serialization::interval_log::{IntervalLogIterator, LogEntry};

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

    /// Taking a snapshot begins a new interval.
    #[test]
    fn taking_begins_anew() {
        let mut recorder = recorded(5);
        assert_eq!(recorder.take().total(Kind::Produce).unwrap().len(), 5);
        assert!(recorder.snapshot().total(Kind::Produce).is_none());
    }

    /// Times are within one percent of what was stamped, and the absurd count as the largest.
    #[test]
    fn values_are_kept_within_one_percent() {
        let scale = TickScale::measure();
        let mut recorder = Recorder::new(scale);
        let mut stamps = Stamps::begin(0);
        stamps.end(Stage::Work, 160_000_000);
        recorder.record(&stamps);
        let snapshot = recorder.snapshot();
        let found = snapshot.stage(Kind::Other, Stage::Work).unwrap().max() as f64;
        let expected = scale.nanos(160_000_000) as f64;
        assert!((found - expected).abs() <= expected / 100.0, "{found} for {expected}");

        let mut stamps = Stamps::begin(0);
        stamps.end(Stage::Wait, u64::MAX);
        recorder.record(&stamps);
        assert!(recorder.snapshot().total(Kind::Other).unwrap().max() <= NANOS_MAX * 101 / 100);
    }

    /// What is written as `.hlog` is read back by HdrHistogram's own reader.
    #[test]
    fn a_log_is_read_back() {
        let mut bytes = Vec::new();
        let start = SystemTime::UNIX_EPOCH + Duration::from_secs(1000);
        recorded(7).snapshot().write_hlog(&mut bytes, start, Duration::from_secs(1)).unwrap();
        let tags: Vec<_> = IntervalLogIterator::new(&bytes)
            .filter_map(|entry| match entry.unwrap() {
                LogEntry::Interval(interval) => Some(interval.tag().unwrap().as_str().to_owned()),
                _ => None,
            })
            .collect();
        assert_eq!(tags, ["produce.append", "produce.durable", "produce.total"]);
    }

    /// The texts name each stage once, with its count.
    #[test]
    fn the_texts_hold_the_figures() {
        let snapshot = recorded(3).snapshot();
        let json = snapshot.to_json();
        assert!(json.starts_with("{\"produce\":{\"append\":{\"count\":3,"), "{json}");
        assert!(json.ends_with("}}"), "{json}");
        assert_eq!(Snapshot::default().to_json(), "{}");
        assert_eq!(snapshot.to_text().lines().count(), 4);
        let hgrm = to_hgrm(snapshot.total(Kind::Produce).unwrap());
        assert!(hgrm.contains("Total count    =            3"), "{hgrm}");
    }
}
