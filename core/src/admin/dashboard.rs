//! `tidemill perf dashboard`: a Grafana dashboard of the metrics of [`super::metrics`].
//!
//! Made for any data source of the kind Prometheus, chosen at its top. Everything on it comes with
//! the small scrape.

use serde_json::{Value, json};

/// A quantile of a kind's latency over all chosen brokers.
macro_rules! quantile {
    ($quantile:literal, $kind:literal) => {
        concat!(
            "histogram_quantile(",
            $quantile,
            ", sum by (le) (rate(tidemill_request_seconds_bucket{instance=~\"$instance\",kind=\"",
            $kind,
            "\"}[$__rate_interval])))"
        )
    };
}

/// What each stage adds to the mean latency of a kind.
macro_rules! stage_share {
    ($kind:literal) => {
        concat!(
            "sum by (stage) (rate(tidemill_request_stage_seconds_sum{instance=~\"$instance\",kind=\"",
            $kind,
            "\"}[$__rate_interval])) / scalar(sum(rate(tidemill_requests_sampled_total{",
            "instance=~\"$instance\",kind=\"",
            $kind,
            "\"}[$__rate_interval])))"
        )
    };
}

/// How fast a counter grows.
macro_rules! per_second {
    ($name:literal, $by:literal) => {
        concat!("sum ", $by, " (rate(", $name, "{instance=~\"$instance\"}[$__rate_interval]))")
    };
}

/// What a gauge says.
macro_rules! now {
    ($name:literal, $by:literal) => {
        concat!("sum ", $by, " (", $name, "{instance=~\"$instance\"})")
    };
}

/// A panel: what it shows, its unit in Grafana's words, and its lines with their names.
struct Panel {
    title: &'static str,
    about: &'static str,
    unit: &'static str,
    lines: &'static [(&'static str, &'static str)],
}

const PANELS: &[Panel] = &[
    Panel {
        title: "Produce latency",
        about: "From the first byte of a request to the last byte of its reply; durable.",
        unit: "s",
        lines: &[
            (quantile!("0.5", "produce"), "p50"),
            (quantile!("0.99", "produce"), "p99"),
            (quantile!("0.999", "produce"), "p99.9"),
        ],
    },
    Panel {
        title: "Fetch latency",
        about: "Waiting for records counts, as consumers ask for it: see the stages.",
        unit: "s",
        lines: &[
            (quantile!("0.5", "fetch"), "p50"),
            (quantile!("0.99", "fetch"), "p99"),
            (quantile!("0.999", "fetch"), "p99.9"),
        ],
    },
    Panel {
        title: "Where a produce spends its time",
        about: "Mean time of each stage per request, of a sample; together the mean latency.",
        unit: "s",
        lines: &[(stage_share!("produce"), "{{stage}}")],
    },
    Panel {
        title: "Where a fetch spends its time",
        about: "Mean time of each stage per request, of a sample; together the mean latency.",
        unit: "s",
        lines: &[(stage_share!("fetch"), "{{stage}}")],
    },
    Panel {
        title: "Requests",
        about: "By Kafka API.",
        unit: "reqps",
        lines: &[(per_second!("tidemill_api_requests_total", "by (api)"), "{{api}}")],
    },
    Panel {
        title: "Throughput",
        about: "From and to clients, to and from the disk.",
        unit: "Bps",
        lines: &[
            (per_second!("tidemill_received_bytes_total", ""), "in"),
            (per_second!("tidemill_sent_bytes_total", ""), "out"),
            (per_second!("tidemill_disk_written_bytes_total", ""), "disk writes"),
            (per_second!("tidemill_disk_read_bytes_total", ""), "disk reads"),
        ],
    },
    Panel {
        title: "Shards: busy",
        about: "Share of the time spent in turns. Above 0.9 requests queue.",
        unit: "percentunit",
        lines: &[(
            per_second!("tidemill_shard_busy_seconds_total", "by (instance, shard)"),
            "{{instance}} shard {{shard}}",
        )],
    },
    Panel {
        title: "Shards: stalls",
        about: "Turns above tidemill.stall.ms, per second. /slowest says what ran in them.",
        unit: "short",
        lines: &[(
            per_second!("tidemill_shard_stalls_total", "by (instance, shard)"),
            "{{instance}} shard {{shard}}",
        )],
    },
    Panel {
        title: "Messages between shards",
        about: "Few, if clients go straight to the shard that owns a partition.",
        unit: "short",
        lines: &[(
            per_second!("tidemill_mesh_sent_messages_total", "by (instance, shard)"),
            "{{instance}} shard {{shard}}",
        )],
    },
    Panel {
        title: "Batches appended",
        about: "Many small batches cost more than few large ones: see linger.ms of producers.",
        unit: "short",
        lines: &[(per_second!("tidemill_batches_appended_total", "by (instance)"), "{{instance}}")],
    },
    Panel {
        title: "Connections",
        about: "Open now.",
        unit: "short",
        lines: &[(now!("tidemill_shard_connections", "by (instance)"), "{{instance}}")],
    },
    Panel {
        title: "Memory",
        about: "Of the process, and what requests, replies and records hold of it.",
        unit: "bytes",
        lines: &[
            (now!("process_resident_memory_bytes", "by (instance)"), "{{instance}} process"),
            (now!("tidemill_shard_network_memory_bytes", "by (instance)"), "{{instance}} network"),
            (now!("tidemill_shard_storage_memory_bytes", "by (instance)"), "{{instance}} storage"),
        ],
    },
];

/// Panels per row, and a row's height, of Grafana's 24 columns.
const COLUMNS: usize = 2;
const WIDTH: usize = 24 / COLUMNS;
const HEIGHT: usize = 8;

/// The dashboard, as Grafana imports it.
#[must_use]
pub fn dashboard() -> Value {
    let panels: Vec<Value> =
        PANELS.iter().enumerate().map(|(place, it)| panel(place, it)).collect();
    json!({
        "title": "Tidemill",
        "uid": "tidemill",
        "tags": ["tidemill"],
        "schemaVersion": 39,
        "timezone": "browser",
        "refresh": "10s",
        "time": { "from": "now-30m", "to": "now" },
        "templating": { "list": [
            {
                "name": "source", "label": "Data source", "type": "datasource",
                "query": "prometheus",
            },
            {
                "name": "instance", "label": "Broker", "type": "query",
                "datasource": { "type": "prometheus", "uid": "${source}" },
                "query": { "query": "label_values(tidemill_build_info, instance)", "refId": "A" },
                "refresh": 2, "includeAll": true, "multi": true, "allValue": ".*",
                "current": { "text": "All", "value": "$__all" },
            },
        ]},
        "panels": panels,
    })
}

fn panel(place: usize, panel: &Panel) -> Value {
    let targets: Vec<Value> = panel
        .lines
        .iter()
        .enumerate()
        .map(|(line, (expression, legend))| {
            let name = char::from(b'A' + line as u8).to_string();
            json!({ "refId": name, "expr": expression, "legendFormat": legend })
        })
        .collect();
    json!({
        "id": place + 1,
        "type": "timeseries",
        "title": panel.title,
        "description": panel.about,
        "datasource": { "type": "prometheus", "uid": "${source}" },
        "gridPos": {
            "x": place % COLUMNS * WIDTH, "y": place / COLUMNS * HEIGHT,
            "w": WIDTH, "h": HEIGHT,
        },
        "fieldConfig": {
            "defaults": { "unit": panel.unit, "min": 0, "custom": { "fillOpacity": 10 } },
            "overrides": [],
        },
        "options": {
            "tooltip": { "mode": "multi", "sort": "desc" },
            "legend": {
                "displayMode": "list", "placement": "bottom", "showLegend": true, "calcs": [],
            },
        },
        "targets": targets,
    })
}

/// All expressions on the dashboard.
#[must_use]
pub fn expressions() -> Vec<&'static str> {
    PANELS.iter().flat_map(|panel| panel.lines).map(|(expression, _)| *expression).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    /// Panels have ids and places of their own, inside of Grafana's 24 columns; lines of a panel
    /// have names of their own: what shares one is not shown.
    #[test]
    fn panels_do_not_cover_each_other() {
        let board = dashboard();
        let panels = board["panels"].as_array().unwrap();
        assert_eq!(panels.len(), PANELS.len());
        let mut taken = BTreeSet::new();
        let mut ids = BTreeSet::new();
        for panel in panels {
            assert!(ids.insert(panel["id"].as_u64().unwrap()));
            let of = |name: &str| panel["gridPos"][name].as_u64().unwrap();
            assert!(of("x") + of("w") <= 24);
            for x in of("x")..of("x") + of("w") {
                for y in of("y")..of("y") + of("h") {
                    assert!(taken.insert((x, y)), "{}: {x}, {y}", panel["title"]);
                }
            }
            let targets = panel["targets"].as_array().unwrap();
            let names: BTreeSet<_> =
                targets.iter().map(|target| &target["refId"]).map(|id| id.as_str()).collect();
            assert_eq!(names.len(), targets.len(), "{}", panel["title"]);
        }
    }

    /// Expressions use no variable that the dashboard does not have, and close what they open.
    #[test]
    fn expressions_are_whole() {
        for expression in expressions() {
            for (open, close) in [('(', ')'), ('{', '}'), ('[', ']')] {
                let count = |c| expression.matches(c).count();
                assert_eq!(count(open), count(close), "{expression}");
            }
            let variables = expression.split('$').skip(1);
            for rest in variables {
                let known = rest.starts_with("instance") || rest.starts_with("__rate_interval");
                assert!(known, "{expression}");
            }
        }
    }
}
