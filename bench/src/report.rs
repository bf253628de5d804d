//! The figures of a run, for people and for programs.

use std::fmt::Write as _;
use std::time::Duration;

use hdrhistogram::Histogram;
use tidemill_perf::histogram::{QUANTILES, histogram_json};
use tidemill_perf::outcome::Figure;
use tidemill_perf::units;

use crate::disk;
use crate::run::Settings;
use crate::tally::{Ends, MEASURES, Measure, Tally};
use crate::usage::Usage;
use crate::verdict::Verdict;

/// A quantile is told only if at least so many samples lie above it.
const SAMPLES_ABOVE_MIN: f64 = 10.0;

/// A generator this busy, per shard, is what is measured.
const BUSY: f64 = 0.9;

/// All that is known of a run.
#[derive(Clone, Debug)]
pub struct Report {
    /// What was done.
    pub settings: Settings,
    /// What was measured in the window.
    pub tally: Tally,
    /// What was known at the end.
    pub ends: Ends,
    /// Whether every record came through.
    pub verdict: Verdict,
    /// How long the window was.
    pub elapsed: Duration,
    /// What the broker's process used in the window.
    pub broker: Option<Usage>,
    /// CPU time of the load generator in the window.
    pub driver_cpu: Duration,
    /// The most memory the broker was seen to have.
    pub peak_bytes: u64,
}

impl Report {
    /// Whether everything that was asked for was answered, rightly, and nothing was lost.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        let Verdict { lost, behind, .. } = self.verdict;
        self.ends.faults == 0
            && self.ends.unanswered == 0
            && lost == 0
            && behind == 0
            && !self.is_idle()
    }

    /// Whether a load was to be put on, and nothing of it was answered within the window.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        let Tally { acked_records, read_records, .. } = self.tally;
        0 < self.settings.producers && acked_records == 0 && read_records == 0
    }

    /// Whether the load generator, not the broker, sets the figures; why.
    #[must_use]
    pub fn generator_bound(&self) -> Option<String> {
        let cores = self.driver_cpu.as_secs_f64() / self.elapsed.as_secs_f64().max(1e-9);
        let shards = self.settings.shards as f64;
        if BUSY * shards < cores {
            return Some(format!(
                "the load generator used {cores:.2} cores with {shards} shards: it may be the \
                 limit, not the broker (give it more with --shards)"
            ));
        }
        let late = self.tally.histogram(Measure::Late)?;
        let ack = self.tally.histogram(Measure::Ack).or(self.tally.histogram(Measure::EndToEnd))?;
        let (late, ack) = (late.value_at_quantile(0.99), ack.value_at_quantile(0.99));
        (1_000_000 < late && ack < late * 4).then(|| {
            format!(
                "the load generator took up records late, p99 {}: part of the latency is its own",
                units::nanos(late as f64)
            )
        })
    }

    /// What a reader of the figures has to know.
    #[must_use]
    pub fn remarks(&self) -> Vec<String> {
        let mut remarks: Vec<String> = self.generator_bound().into_iter().collect();
        if self.settings.arrival.rate().is_none() && 0 < self.settings.producers {
            remarks.push(
                "closed loop: latencies are those of a full queue, not of a given load".to_owned(),
            );
        }
        if self.is_idle() {
            remarks.push("nothing was answered within the window: there are no figures".to_owned());
        }
        let Tally { held_back, .. } = self.tally;
        if 0 < held_back {
            remarks.push(format!(
                "{} records fell due while {} requests were in flight on their connection: their \
                 wait is part of their latency",
                units::count(held_back),
                self.settings.in_flight_max
            ));
        }
        remarks.extend(self.ends.fault_texts.iter().map(|text| format!("fault: {text}")));
        remarks.extend(self.verdict.texts.iter().map(|text| format!("lost: {text}")));
        let Verdict { behind, foreign, .. } = self.verdict;
        if 0 < behind {
            remarks.push(format!("{behind} readers did not come to the end of their partition"));
        }
        if 0 < foreign {
            let foreign = units::count(foreign);
            remarks.push(format!("{foreign} records of others were read and not verified"));
        }
        remarks
    }

    /// The figures for a result directory.
    #[must_use]
    pub fn figures(&self) -> Vec<Figure> {
        let seconds = self.elapsed.as_secs_f64().max(1e-9);
        let Tally { acked_bytes, acked_records, read_bytes, read_records, .. } = self.tally;
        let mut figures = Vec::new();
        let mut add = |name: &str, value: f64, unit: &str| {
            figures.push(Figure::new(name, value, unit));
        };
        if 0 < acked_bytes {
            add("produced", acked_bytes as f64 / seconds, "B/s");
            add("acknowledged", acked_records as f64 / seconds, "records/s");
        }
        if 0 < read_bytes {
            add("read", read_bytes as f64 / seconds, "B/s");
            add("read and verified", read_records as f64 / seconds, "records/s");
        }
        for (name, cpu) in
            [("broker", self.broker.map(|b| b.cpu)), ("generator", Some(self.driver_cpu))]
        {
            let Some(cpu) = cpu else { continue };
            add(&format!("{name}'s processor"), cpu.as_secs_f64() / seconds, "cores");
            if let Some(value) = self.cpu_per_gb(cpu) {
                add(&format!("{name}'s processor per GB"), value, "s");
            }
            if let Some(value) = self.cpu_per_million(cpu) {
                add(&format!("{name}'s processor per million records"), value, "s");
            }
        }
        if 0 < self.peak_bytes {
            add("broker's memory at most", self.peak_bytes as f64, "B");
        }
        add("errors", self.tally.errors as f64, "");
        add("unanswered", self.ends.unanswered as f64, "");
        add("lost", self.verdict.lost as f64, "");
        add("verified", self.verdict.verified as f64, "");
        figures
    }

    /// Lines for people.
    #[must_use]
    pub fn to_text(&self) -> String {
        let Tally { acked_bytes, acked_batches, acked_records, read_bytes, .. } = self.tally;
        let seconds = self.elapsed.as_secs_f64();
        let mut out = format!("{}: {seconds:.1} s\n", self.settings.name);
        if 0 < acked_batches {
            let _ = writeln!(
                out,
                "  produced {} MB/s, {:.0} records/s, {:.0} batches/s",
                megabytes(acked_bytes, seconds),
                acked_records as f64 / seconds,
                acked_batches as f64 / seconds,
            );
        }
        if 0 < read_bytes {
            let read = megabytes(read_bytes, seconds);
            let _ = writeln!(out, "  fetched {read} MB/s");
        }
        for (measure, tag) in MEASURES {
            if let Some(histogram) = self.tally.histogram(measure)
                && measure != Measure::Late
            {
                let _ = writeln!(out, "  {tag:<8}{}", quantiles(histogram));
            }
        }
        if let Some(broker) = self.broker {
            self.broker_text(&mut out, broker);
        }
        let _ = write!(out, "  driver {:.3} CPU s", self.driver_cpu.as_secs_f64());
        if let Some(figure) = self.cpu_per_gb(self.driver_cpu) {
            let _ = write!(out, ", {figure:.3} CPU s/GB");
        }
        if let Some(figure) = self.cpu_per_million(self.driver_cpu) {
            let _ = write!(out, ", {figure:.3} CPU s per million records");
        }
        let _ = writeln!(
            out,
            "\n  {} records verified, {} lost, {} unanswered, {} errors, {} faults",
            self.verdict.verified,
            self.verdict.lost,
            self.ends.unanswered,
            self.tally.errors,
            self.ends.faults,
        );
        for text in self.remarks() {
            let _ = writeln!(out, "  {text}");
        }
        out
    }

    fn broker_text(&self, out: &mut String, broker: Usage) {
        let _ = write!(out, "  broker {:.3} CPU s", broker.cpu.as_secs_f64());
        if let Some(figure) = self.cpu_per_gb(broker.cpu) {
            let _ = write!(out, ", {figure:.3} CPU s/GB");
        }
        if let Some(figure) = self.cpu_per_million(broker.cpu) {
            let _ = write!(out, ", {figure:.3} CPU s per million records");
        }
        if let Some(figure) = self.cpu_per_batch(broker.cpu) {
            let _ = write!(out, ", {figure:.2} us/batch");
        }
        if 0 < self.tally.acked_bytes {
            let ratio = broker.write_bytes as f64 / self.tally.acked_bytes as f64;
            let _ = write!(out, ", {ratio:.2} device bytes per byte");
        }
        let _ = writeln!(out, ", {} MB resident", broker.resident_bytes >> 20);
    }

    /// One line of JSON.
    #[must_use]
    pub fn to_json(&self) -> String {
        let Settings { name, batch_bytes, shape, producers, readers, .. } = &self.settings;
        let Report { tally, ends, verdict, .. } = self;
        let mut out = format!(
            "{{\"name\":\"{}\",\"seconds\":{:.6},\"batch_bytes\":{batch_bytes},\
             \"value_bytes\":{},\"producers\":{producers},\"fan_out\":{},\
             \"partitions\":{},\"rate\":{},\"produced_bytes\":{},\"produced_batches\":{},\
             \"produced_records\":{},\"fetched_bytes\":{},\"fetched_records\":{},\
             \"verified_records\":{},\"lost\":{},\"errors\":{},\"unanswered\":{},\
             \"faults\":{},\"held_back\":{},\"generator_bound\":{},\
             \"driver_cpu_seconds\":{:.6},\"clean\":{}",
            escaped(name),
            self.elapsed.as_secs_f64(),
            shape.value_bytes_max,
            readers.map_or(0, |readers| readers.sets),
            self.settings.topic.leaders.len(),
            self.settings.arrival.rate().unwrap_or(0.0),
            tally.acked_bytes,
            tally.acked_batches,
            tally.acked_records,
            tally.read_bytes,
            tally.read_records,
            verdict.verified,
            verdict.lost,
            tally.errors,
            ends.unanswered,
            ends.faults,
            tally.held_back,
            self.generator_bound().is_some(),
            self.driver_cpu.as_secs_f64(),
            self.is_clean(),
        );
        for (measure, tag) in MEASURES {
            if let Some(histogram) = tally.histogram(measure) {
                let _ = write!(out, ",\"{tag}_ns\":{}", histogram_json(histogram));
            }
        }
        if let Some(broker) = self.broker {
            let _ = write!(
                out,
                ",\"broker_cpu_seconds\":{:.6},\"broker_write_bytes\":{},\
                 \"broker_resident_bytes\":{}",
                broker.cpu.as_secs_f64(),
                broker.write_bytes,
                self.peak_bytes.max(broker.resident_bytes)
            );
        }
        out.push('}');
        out
    }

    fn cpu_per_gb(&self, cpu: Duration) -> Option<f64> {
        let bytes = self.tally.acked_bytes + self.tally.read_bytes;
        (0 < bytes).then(|| cpu.as_secs_f64() / (bytes as f64 / 1e9))
    }

    /// Counts each record each time it goes in or out.
    fn cpu_per_million(&self, cpu: Duration) -> Option<f64> {
        let records = self.tally.acked_records + self.tally.read_records;
        (0 < records).then(|| cpu.as_secs_f64() / (records as f64 / 1e6))
    }

    fn cpu_per_batch(&self, cpu: Duration) -> Option<f64> {
        let batches = self.tally.acked_batches;
        (0 < batches).then(|| cpu.as_secs_f64() * 1e6 / batches as f64)
    }
}

/// The quantiles that enough samples lie above, and the maximum.
fn quantiles(histogram: &Histogram<u64>) -> String {
    let samples = histogram.len() as f64;
    let mut out = String::new();
    for (name, quantile) in QUANTILES {
        let is_told = quantile == 1.0 || SAMPLES_ABOVE_MIN <= (1.0 - quantile) * samples;
        if is_told {
            let value = histogram.value_at_quantile(quantile) as f64;
            let _ = write!(out, "{name} {}  ", units::nanos(value));
        }
    }
    let _ = write!(out, "({} samples)", units::count(histogram.len()));
    out
}

/// Lines for people about the disk's floor.
#[must_use]
pub fn disk_text(plan: disk::Plan, outcome: &disk::Outcome) -> String {
    let seconds = outcome.elapsed.as_secs_f64();
    let gigabytes = outcome.bytes as f64 / 1e9;
    let micros = |quantile| outcome.latency.value_at_quantile(quantile) / 1000;
    format!(
        "floor write {} x {}: {} MB/s, {:.0} writes/s, {:.3} CPU s/GB; us p50 {} p99 {} max {}\n",
        plan.write_bytes,
        plan.depth,
        megabytes(outcome.bytes, seconds),
        outcome.latency.len() as f64 / seconds,
        outcome.cpu.as_secs_f64() / gigabytes.max(1e-9),
        micros(0.5),
        micros(0.99),
        micros(1.0),
    )
}

/// One line of JSON about the disk's floor.
#[must_use]
pub fn disk_json(plan: disk::Plan, outcome: &disk::Outcome) -> String {
    format!(
        "{{\"name\":\"floor write\",\"write_bytes\":{},\"depth\":{},\"seconds\":{:.6},\
         \"bytes\":{},\"cpu_seconds\":{:.6},\"latency_ns\":{}}}",
        plan.write_bytes,
        plan.depth,
        outcome.elapsed.as_secs_f64(),
        outcome.bytes,
        outcome.cpu.as_secs_f64(),
        histogram_json(&outcome.latency),
    )
}

fn megabytes(bytes: u64, seconds: f64) -> String {
    format!("{:.1}", bytes as f64 / 1e6 / seconds.max(1e-9))
}

fn escaped(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).flat_map(char::escape_default).collect()
}
