//! What a scrape says, and that dashboard and alerts ask for nothing else.

use std::sync::Arc;

use tidemill_perf::lateness::Lateness;
use tidemill_perf::{Meter, MeterLimits, Stage, Stamps, Whose};
use tidemill_runtime::clock::TickScale;

use super::*;
use crate::admin::{alerts, dashboard};
use crate::measure::Told;

/// Ticks that last about so many microseconds.
fn micros(scale: TickScale, micros: u64) -> u64 {
    micros * 1000 * 1_000_000 / scale.nanos(1_000_000).max(1)
}

/// Two shards; each has served 160 produces of 200 µs, one of which took 20 ms.
fn asked() -> Asked {
    let told = (0..2).map(|shard| {
        let scale = TickScale::measure();
        let mut meter = Meter::new(scale, shard, 2, MeterLimits::default());
        for request in 0..160 {
            let mut stamps = Stamps::begin(0);
            stamps.set_kind(Kind::Produce);
            let ended = micros(scale, if request == 9 { 20_000 } else { 200 });
            stamps.end(Stage::Durable, ended);
            meter.request_ended(&stamps, ended, 1, Whose::default);
        }
        meter.mesh.sent(1 - shard, 7);
        let requests = vec![("Produce", 160)];
        let state = ShardState { shard, serving: true, topics: 1, requests, ..Default::default() };
        Told { state, reading: Some(meter.read(1)), slowest: None, partitions: Vec::new() }
    });
    Asked { told: told.collect(), silent: Vec::new() }
}

fn page(asked: &Asked, full: bool) -> String {
    let mut lateness = Lateness::default();
    lateness.append(1000, 1000, 3000);
    let partition = PartitionState {
        topic: Arc::from("a \"topic\"\\"),
        partition: 3,
        log_start: 1,
        high_watermark: 2,
        size_bytes: 3,
        lateness: Some(Box::new(lateness)),
    };
    let scrape = Scrape {
        node: &NodeLabel { id: 1, version: "0.1".to_owned(), pid: 2 },
        started_unix_ms: 1500,
        life: Life::Serving,
        asked,
        partitions: &[partition],
        process: Process::read(),
    };
    text(&scrape, full)
}

/// The counts of all shards, in one histogram whose buckets grow.
#[test]
fn figures_of_all_shards_are_told() {
    let page = page(&asked(), false);
    for line in [
        "tidemill_ready 1",
        "tidemill_request_seconds_bucket{kind=\"produce\",le=\"0.0001\"} 0",
        "tidemill_request_seconds_bucket{kind=\"produce\",le=\"0.00025\"} 318",
        "tidemill_request_seconds_bucket{kind=\"produce\",le=\"0.01\"} 318",
        "tidemill_request_seconds_bucket{kind=\"produce\",le=\"0.025\"} 320",
        "tidemill_request_seconds_bucket{kind=\"produce\",le=\"+Inf\"} 320",
        "tidemill_request_seconds_count{kind=\"produce\"} 320",
        "tidemill_request_seconds_count{kind=\"fetch\"} 0",
        "tidemill_request_stage_seconds_bucket{kind=\"produce\",stage=\"durable\",le=\"+Inf\"} 20",
        "tidemill_requests_sampled_total{kind=\"produce\"} 20",
        "tidemill_requests_sampled_total{kind=\"fetch\"} 0",
        "tidemill_api_requests_total{api=\"Produce\"} 320",
        "tidemill_mesh_sent_messages_total{shard=\"1\"} 7",
        "process_start_time_seconds 1.5",
    ] {
        assert!(page.lines().any(|found| found == line), "{line} is missing in\n{page}");
    }
    assert!(!page.contains("tidemill_partition"), "small by default");
}

/// A shard that does not answer is told as such, and the node is not ready.
#[test]
fn a_silent_shard_is_told() {
    let mut asked = asked();
    asked.told.pop();
    asked.silent.push(1);
    let page = page(&asked, false);
    assert!(page.contains("tidemill_shard_up{shard=\"1\"} 0\n"), "{page}");
    assert!(page.contains("\ntidemill_ready 0\n"), "{page}");
}

/// Names are clients' choice: they do not break the format.
#[test]
fn labels_are_escaped() {
    let page = page(&asked(), true);
    let line = "tidemill_partition_high_watermark{topic=\"a \\\"topic\\\"\\\\\",partition=\"3\"} 2";
    assert!(page.lines().any(|found| found == line), "{page}");
}

/// Each metric of the table is told, each once, with its samples behind its head.
#[test]
fn a_full_page_tells_the_whole_table_and_nothing_else() {
    let page = page(&asked(), true);
    let mut told = Vec::new();
    for line in page.lines() {
        if let Some(head) = line.strip_prefix("# TYPE ") {
            told.push(head.split(' ').next().unwrap());
        } else if !line.starts_with('#') {
            assert!(line.starts_with(told.last().unwrap()), "{line} has no head before it");
        }
    }
    let all = told.len();
    told.sort_unstable();
    told.dedup();
    assert_eq!(told.len(), all, "each once");
    let mut table: Vec<_> = METRICS.iter().map(|metric| metric.name).collect();
    table.sort_unstable();
    assert_eq!(told, table);
}

/// The names of metrics in an expression.
fn names(expression: &str) -> impl Iterator<Item = &str> {
    let words = expression.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    words.filter(|word| word.starts_with("tidemill_") || word.starts_with("process_"))
}

/// A dashboard or an alert on a metric that does not exist would be silent for ever.
#[test]
fn dashboard_and_alerts_ask_for_what_a_small_scrape_tells() {
    let page = page(&asked(), false);
    let told = sample_names(&page);
    let alerts = alerts::ALERTS.iter().map(|alert| alert.expression);
    let mut asked_for = 0;
    for expression in dashboard::expressions().into_iter().chain(alerts) {
        for name in names(expression) {
            assert!(told.contains(&name), "{name} in {expression}");
            asked_for += 1;
        }
    }
    assert!(20 < asked_for);
    assert_eq!(alerts::rules().matches("- alert:").count(), alerts::ALERTS.len());
    let json = dashboard::dashboard().to_string();
    assert!(json.contains("tidemill_request_seconds_bucket"), "{json}");
}

/// The document shows the table that is served.
#[test]
fn the_documented_table_is_the_one_told() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/operating/metrics.md");
    let text = std::fs::read_to_string(path).unwrap();
    const BEGIN: &str =
        "<!-- table of metrics: generated by TIDY_REWRITE=1 cargo test metrics -->\n";
    const END: &str = "<!-- end of table -->";
    let (before, rest) = text.split_once(BEGIN).expect("the document has the mark");
    let (_, after) = rest.split_once(END).expect("the document has the end mark");
    let wanted = format!("{before}{BEGIN}{}{END}{after}", table());
    if std::env::var_os("TIDY_REWRITE").is_some() {
        std::fs::write(path, wanted).unwrap();
    } else {
        assert!(
            wanted == text,
            "docs/operating/metrics.md is old: TIDY_REWRITE=1 cargo test metrics"
        );
    }
}
