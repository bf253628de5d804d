//! The figures of a run, for people.

use std::fmt::Write as _;
use std::time::Duration;

use hdrhistogram::Histogram;
use tidemill_perf::histogram::QUANTILES;
use tidemill_perf::report::is_told;
use tidemill_perf::units;

use super::{Report, cpu_per_gb, cpu_per_million};
use crate::disk;
use crate::listen::Part;
use crate::settings::Phase;
use crate::tally::{MEASURES, Measure, Tally};

impl Report {
    /// Lines for people.
    #[must_use]
    pub fn to_text(&self) -> String {
        let seconds = self.whole().elapsed.as_secs_f64();
        let mut out = format!("{}: {seconds:.1} s\n", self.settings.name);
        if 1 < self.parts.len() {
            for (phase, part) in self.phases() {
                let _ = writeln!(out, " {}: {}", phase.name, load_in_words(phase));
                part_text(&mut out, part);
            }
            let _ = writeln!(out, " all phases:");
        }
        part_text(&mut out, self.whole());
        for share in self.shares() {
            let _ = writeln!(out, "  {}", share.to_text());
        }
        for text in self.remarks() {
            let _ = writeln!(out, "  {text}");
        }
        let _ = writeln!(out, "  {}", self.verdict_text());
        let missed = self.missed();
        if !missed.is_empty() {
            let _ = writeln!(out, "  OBJECTIVE MISSED: {}", missed.join("; "));
        } else if self.settings.phases.iter().any(|phase| phase.objective.is_some()) {
            let _ = writeln!(out, "  objective met");
        }
        out
    }

    /// Whether the run was clean, in one line.
    #[must_use]
    pub fn verdict_text(&self) -> String {
        let complaints = self.complaints();
        if !complaints.is_empty() {
            return format!("NOT CLEAN: {}", complaints.join("; "));
        }
        let sent: u64 = self.ends.produced.iter().map(|produced| produced.sent).sum();
        let verified = self.verdict.verified;
        let sets = self.settings.readers.map_or(1, |readers| readers.sets);
        let mut parts = Vec::new();
        if 0 < sent {
            parts.push(format!("{} records produced", units::count(sent)));
        }
        if 0 < verified {
            let by = if 1 < sets { format!(" by {sets} sets of readers") } else { String::new() };
            parts.push(format!("{} read and verified{by}", units::count(verified)));
        } else {
            parts.push("nothing read and verified".to_owned());
        }
        format!("clean: {}", parts.join(", "))
    }
}

/// What a phase asks for.
pub(crate) fn load_in_words(phase: &Phase) -> String {
    let rate = match phase.arrival.rate() {
        Some(rate) => format!("{} records/s", units::count(rate as u64)),
        None => "as many as are answered".to_owned(),
    };
    let (min, max) = (phase.shape.value_bytes_min, phase.shape.value_bytes_max);
    let size = if min == max { format!("{min} B") } else { format!("{min} to {max} B") };
    let seconds = phase.duration.as_secs_f64();
    format!("{seconds} s, {rate}, {size}")
}

fn part_text(out: &mut String, part: &Part) {
    let Tally { acked_bytes, acked_batches, acked_records, read_bytes, read_records, .. } =
        part.tally;
    let seconds = part.elapsed.as_secs_f64();
    let each = |count: u64| count as f64 / seconds.max(1e-9);
    if 0 < acked_batches {
        let _ = writeln!(
            out,
            "  produced {} MB/s, {:.0} records/s, {:.0} batches/s",
            megabytes(acked_bytes, seconds),
            each(acked_records),
            each(acked_batches),
        );
    }
    if 0 < read_bytes {
        let read = megabytes(read_bytes, seconds);
        // Where records are not looked at, they are not counted.
        let records = format!(", {:.0} records/s", each(read_records));
        let records = if 0 < read_records { records.as_str() } else { "" };
        let _ = writeln!(out, "  read {read} MB/s{records}");
    }
    if acked_batches == 0 && read_bytes == 0 {
        let _ = writeln!(out, "  nothing was answered");
    }
    for (measure, tag) in MEASURES {
        if let Some(histogram) = part.tally.histogram(measure)
            && measure != Measure::Late
        {
            let _ = writeln!(out, "  {tag:<8}{}", quantiles(histogram));
        }
    }
    if let Some(broker) = part.broker {
        let _ = write!(out, "  broker {}", cpu_text(part, broker.cpu));
        if 0 < acked_batches {
            let micros = broker.cpu.as_secs_f64() * 1e6 / acked_batches as f64;
            let ratio = broker.write_bytes as f64 / acked_bytes as f64;
            let _ = write!(out, ", {micros:.2} us/batch, {ratio:.2} device bytes per byte");
        }
        let _ = writeln!(out, ", {} MB resident", broker.resident_bytes >> 20);
    }
    let _ = writeln!(out, "  generator {}", cpu_text(part, part.generator.cpu));
}

fn cpu_text(part: &Part, cpu: Duration) -> String {
    let cores = cpu.as_secs_f64() / part.elapsed.as_secs_f64().max(1e-9);
    let mut text = format!("{:.3} CPU s ({cores:.2} cores)", cpu.as_secs_f64());
    if let Some(figure) = cpu_per_gb(part, cpu) {
        let _ = write!(text, ", {figure:.3} CPU s/GB");
    }
    if let Some(figure) = cpu_per_million(part, cpu) {
        let _ = write!(text, ", {figure:.3} CPU s per million records");
    }
    text
}

/// The quantiles that enough samples lie above, and the maximum.
fn quantiles(histogram: &Histogram<u64>) -> String {
    let mut out = String::new();
    for (name, quantile) in QUANTILES {
        if let Some(text) = quantile_text(histogram, quantile) {
            let _ = write!(out, "{name} {text}  ");
        }
    }
    let _ = write!(out, "({} samples)", units::count(histogram.len()));
    out
}

/// A quantile, if enough samples lie above it.
pub(crate) fn quantile_text(histogram: &Histogram<u64>, quantile: f64) -> Option<String> {
    is_told(histogram, quantile).then(|| units::nanos(histogram.value_at_quantile(quantile) as f64))
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

fn megabytes(bytes: u64, seconds: f64) -> String {
    format!("{:.1}", bytes as f64 / 1e6 / seconds.max(1e-9))
}
