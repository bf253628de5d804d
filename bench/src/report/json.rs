//! The figures of a run, for programs: one object, one line.

use hdrhistogram::Histogram;
use serde_json::{Map, Value, json};
use tidemill_perf::histogram::histogram_json;

use super::Report;
use crate::disk;
use crate::listen::Part;
use crate::settings::Phase;
use crate::tally::MEASURES;

impl Report {
    /// One line of JSON: the whole run, with its phases if there are several.
    #[must_use]
    pub fn to_json(&self) -> String {
        let settings = &self.settings;
        let mut all = part_json(self.whole());
        all.insert("generator_bound".to_owned(), json!(self.is_generator_bound()));
        let mut add = |name: &str, value: Value| {
            all.insert(name.to_owned(), value);
        };
        add("name", json!(settings.name));
        add("batch_bytes", json!(settings.batch_bytes));
        add("value_bytes", json!(settings.value_bytes_max()));
        add("producers", json!(settings.producers));
        add("fan_out", json!(settings.readers.map_or(0, |readers| readers.sets)));
        add("partitions", json!(settings.topic.leaders.len()));
        add("acks", json!(settings.acks));
        let rate = settings.phases.first().and_then(|phase| phase.arrival.rate());
        add("rate", json!(rate.unwrap_or(0.0)));
        add("verified_records", json!(self.verdict.verified));
        add("lost", json!(self.verdict.lost));
        add("unanswered", json!(self.ends.unanswered));
        add("refused", json!(self.ends.refused));
        add("throttles", json!(self.ends.throttles));
        add("gone_of_earlier_runs", json!(self.verdict.gone_of_others));
        add("faults", json!(self.ends.damage.count + self.ends.troubles.count));
        add("broker_resident_bytes", json!(self.peak_bytes));
        let shares = self.shares();
        let shares = shares.iter().map(|share| (share.name.clone(), json!(share.ratio())));
        add("of_limits", Value::Object(shares.collect()));
        add("clean", json!(self.is_clean()));
        add("complaints", json!(self.complaints()));
        add("missed", json!(self.missed()));
        add("remarks", json!(self.remarks()));
        if 1 < self.parts.len() {
            let phases = self.phases().map(|(phase, part)| self.phase_json(phase, part));
            add("phases", phases.collect());
        }
        Value::Object(all).to_string()
    }

    fn phase_json(&self, phase: &Phase, part: &Part) -> Value {
        let mut all = part_json(part);
        all.insert("name".to_owned(), json!(phase.name));
        all.insert("rate".to_owned(), json!(phase.arrival.rate().unwrap_or(0.0)));
        all.insert("value_bytes".to_owned(), json!(phase.shape.value_bytes_max));
        all.insert("generator_bound".to_owned(), json!(self.generator_bound(part).is_some()));
        Value::Object(all)
    }

    /// Whether the generator may set the figures of some phase.
    #[must_use]
    pub fn is_generator_bound(&self) -> bool {
        self.parts.iter().any(|part| self.generator_bound(part).is_some())
    }
}

fn part_json(part: &Part) -> Map<String, Value> {
    let tally = &part.tally;
    let mut all = Map::new();
    let mut add = |name: &str, value: Value| {
        all.insert(name.to_owned(), value);
    };
    add("seconds", json!(part.elapsed.as_secs_f64()));
    add("produced_bytes", json!(tally.acked_bytes));
    add("produced_batches", json!(tally.acked_batches));
    add("produced_records", json!(tally.acked_records));
    add("fetched_bytes", json!(tally.read_bytes));
    add("fetched_records", json!(tally.read_records));
    add("errors", json!(tally.errors));
    add("held_back", json!(tally.held_back));
    add("generator_cpu_seconds", json!(part.generator.cpu.as_secs_f64()));
    for (measure, tag) in MEASURES {
        if let Some(histogram) = tally.histogram(measure) {
            add(&format!("{tag}_ns"), told(histogram));
        }
    }
    if let Some(broker) = part.broker {
        add("broker_cpu_seconds", json!(broker.cpu.as_secs_f64()));
        add("broker_write_bytes", json!(broker.write_bytes));
    }
    all
}

fn told(histogram: &Histogram<u64>) -> Value {
    serde_json::from_str(&histogram_json(histogram)).expect("the measuring kit writes JSON")
}

/// One line of JSON about the disk's floor.
#[must_use]
pub fn disk_json(plan: disk::Plan, outcome: &disk::Outcome) -> String {
    json!({
        "name": "floor write",
        "write_bytes": plan.write_bytes,
        "depth": plan.depth,
        "seconds": outcome.elapsed.as_secs_f64(),
        "bytes": outcome.bytes,
        "cpu_seconds": outcome.cpu.as_secs_f64(),
        "latency_ns": told(&outcome.latency),
    })
    .to_string()
}
