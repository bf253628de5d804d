//! The figures of a run, for people and for programs.

use std::fmt::Write as _;
use std::time::Duration;

use tidemill_perf::histogram::histogram_json;

use crate::disk;
use crate::load::Outcome;
use crate::run::Settings;
use crate::usage::Usage;

/// All that is known of a run.
#[derive(Clone, Debug)]
pub struct Report {
    /// What was done.
    pub settings: Settings,
    /// What the load generator saw.
    pub outcome: Outcome,
    /// How long the window was.
    pub elapsed: Duration,
    /// What the broker's process used in the window.
    pub broker: Option<Usage>,
    /// CPU time of the load generator in the window.
    pub driver_cpu: Duration,
}

impl Report {
    /// Whether everything that was asked for was answered, rightly.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.outcome.faults == 0 && self.outcome.unanswered == 0
    }

    /// Lines for people.
    #[must_use]
    pub fn to_text(&self) -> String {
        let Outcome { produced_bytes, produced_batches, fetched_bytes, .. } = self.outcome;
        let seconds = self.elapsed.as_secs_f64();
        let mut out = format!("{}: {seconds:.1} s\n", self.settings.name);
        if 0 < produced_batches {
            let _ = writeln!(
                out,
                "  produced {} MB/s, {:.0} batches/s; latency us p50 {} p99 {} p99.9 {} max {}",
                megabytes(produced_bytes, seconds),
                produced_batches as f64 / seconds,
                self.micros(0.5),
                self.micros(0.99),
                self.micros(0.999),
                self.micros(1.0),
            );
        }
        if 0 < fetched_bytes {
            let _ = writeln!(out, "  fetched {} MB/s", megabytes(fetched_bytes, seconds));
        }
        if let Some(broker) = self.broker {
            let _ = write!(out, "  broker {:.3} CPU s", broker.cpu.as_secs_f64());
            if let Some(figure) = self.cpu_per_gb(broker.cpu) {
                let _ = write!(out, ", {figure:.3} CPU s/GB");
            }
            if let Some(figure) = self.cpu_per_batch(broker.cpu) {
                let _ = write!(out, ", {figure:.2} us/batch");
            }
            if 0 < produced_bytes {
                let ratio = broker.write_bytes as f64 / produced_bytes as f64;
                let _ = write!(out, ", {ratio:.2} device bytes per byte");
            }
            let _ = writeln!(out, ", {} MB resident", broker.resident_bytes >> 20);
        }
        let _ = writeln!(
            out,
            "  driver {:.3} CPU s; {} records acknowledged, {} verified, {} unanswered, {} faults",
            self.driver_cpu.as_secs_f64(),
            self.outcome.acknowledged_records,
            self.outcome.verified_records,
            self.outcome.unanswered,
            self.outcome.faults,
        );
        for text in &self.outcome.fault_texts {
            let _ = writeln!(out, "  fault: {text}");
        }
        out
    }

    /// One line of JSON.
    #[must_use]
    pub fn to_json(&self) -> String {
        let Settings { name, batch_bytes, value_bytes, producers, followers, .. } = &self.settings;
        let outcome = &self.outcome;
        let mut out = format!(
            "{{\"name\":\"{}\",\"seconds\":{:.6},\"batch_bytes\":{batch_bytes},\
             \"value_bytes\":{value_bytes},\"producers\":{producers},\"followers\":{followers},\
             \"partitions\":{},\"produced_bytes\":{},\"produced_batches\":{},\
             \"fetched_bytes\":{},\"acknowledged_records\":{},\"verified_records\":{},\
             \"unanswered\":{},\"faults\":{},\"driver_cpu_seconds\":{:.6},\"latency_ns\":{}",
            escaped(name),
            self.elapsed.as_secs_f64(),
            self.settings.leaders.len(),
            outcome.produced_bytes,
            outcome.produced_batches,
            outcome.fetched_bytes,
            outcome.acknowledged_records,
            outcome.verified_records,
            outcome.unanswered,
            outcome.faults,
            self.driver_cpu.as_secs_f64(),
            histogram_json(&outcome.latency),
        );
        if let Some(broker) = self.broker {
            let _ = write!(
                out,
                ",\"broker_cpu_seconds\":{:.6},\"broker_write_bytes\":{},\
                 \"broker_resident_bytes\":{}",
                broker.cpu.as_secs_f64(),
                broker.write_bytes,
                broker.resident_bytes
            );
        }
        out.push('}');
        out
    }

    fn micros(&self, quantile: f64) -> u64 {
        self.outcome.latency.value_at_quantile(quantile) / 1000
    }

    fn cpu_per_gb(&self, cpu: Duration) -> Option<f64> {
        let bytes = self.outcome.produced_bytes + self.outcome.fetched_bytes;
        (0 < bytes).then(|| cpu.as_secs_f64() / (bytes as f64 / 1e9))
    }

    fn cpu_per_batch(&self, cpu: Duration) -> Option<f64> {
        let batches = self.outcome.produced_batches;
        (0 < batches).then(|| cpu.as_secs_f64() * 1e6 / batches as f64)
    }
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
