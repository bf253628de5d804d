//! `tidemill perf alerts`: alerting rules for Prometheus on the metrics of [`super::metrics`].
//!
//! Each wakes somebody for something that clients feel or soon will, and says what to look at.

use std::fmt::Write as _;

/// One rule.
#[derive(Debug)]
pub struct Alert {
    /// Its name.
    pub name: &'static str,
    /// When it fires.
    pub expression: &'static str,
    /// For how long it must hold.
    pub lasting: &'static str,
    /// `critical` wakes people, `warning` waits for the morning.
    pub severity: &'static str,
    /// What it means.
    pub summary: &'static str,
    /// What to do.
    pub advice: &'static str,
}

/// All rules.
pub static ALERTS: &[Alert] = &[
    Alert {
        name: "TidemillDown",
        expression: "up{job=~\".*tidemill.*\"} == 0",
        lasting: "1m",
        severity: "critical",
        summary: "Nothing answers a scrape of {{ $labels.instance }}.",
        advice: "Does the process run? Its log says why it ended; is its admin port reached?",
    },
    Alert {
        name: "TidemillNotReady",
        expression: "tidemill_ready == 0",
        lasting: "1m",
        severity: "critical",
        summary: "Broker {{ $labels.instance }} does not serve clients.",
        advice: "Ask its /readyz for the reason; a start that recovers much takes a while.",
    },
    Alert {
        name: "TidemillDiskFailed",
        expression: "max by (instance) (tidemill_shard_fenced) == 1",
        lasting: "0m",
        severity: "critical",
        summary: "A write or sync failed on {{ $labels.instance }}: nothing is appended any more.",
        advice: "Replace or repair the disk, then restart the broker.",
    },
    Alert {
        name: "TidemillShardSilent",
        expression: "tidemill_shard_up == 0",
        lasting: "30s",
        severity: "critical",
        summary: "Shard {{ $labels.shard }} of {{ $labels.instance }} makes no turns.",
        advice: "Look into the broker's log for stalls; is its core taken by something else?",
    },
    Alert {
        name: "TidemillShardBusy",
        expression: "rate(tidemill_shard_busy_seconds_total[5m]) > 0.9",
        lasting: "10m",
        severity: "warning",
        summary: "Shard {{ $labels.shard }} of {{ $labels.instance }} is busy nearly all the time.",
        advice: "Spread its partitions over more shards or nodes; see where time goes: perf top.",
    },
    Alert {
        name: "TidemillStalls",
        expression: "increase(tidemill_shard_stalls_total[10m]) > 10",
        lasting: "5m",
        severity: "warning",
        summary: "Turns of shard {{ $labels.shard }} of {{ $labels.instance }} take too long.",
        advice: "/slowest says what ran in them.",
    },
    Alert {
        name: "TidemillProduceSlow",
        expression: "histogram_quantile(0.99, sum by (instance, le) \
                     (rate(tidemill_request_seconds_bucket{kind=\"produce\"}[5m]))) > 0.25",
        lasting: "10m",
        severity: "warning",
        summary: "One in a hundred produces on {{ $labels.instance }} takes over 250 ms.",
        advice: "Compare the stages: durable is the disk, receive and respond the network.",
    },
    Alert {
        name: "TidemillNetworkMemoryFull",
        expression: "tidemill_shard_network_memory_bytes \
                     / tidemill_shard_network_memory_limit_bytes > 0.9",
        lasting: "10m",
        severity: "warning",
        summary: "Clients of {{ $labels.instance }} wait for memory on shard {{ $labels.shard }}.",
        advice: "Raise tidemill.network.bytes, or look for consumers that do not take replies.",
    },
    Alert {
        name: "TidemillCompactionFails",
        expression: "increase(tidemill_compaction_failures_total[30m]) > 0",
        lasting: "1h",
        severity: "warning",
        summary: "Compaction fails again and again on shard {{ $labels.shard }} of \
                  {{ $labels.instance }}.",
        advice: "Its log says why; is the disk full? What is compacted stays readable, but grows.",
    },
    Alert {
        name: "TidemillUncompactable",
        expression: "tidemill_compaction_uncompactable_partitions > 0",
        lasting: "0m",
        severity: "warning",
        summary: "Partitions of shard {{ $labels.shard }} of {{ $labels.instance }} are not \
                  compacted any more.",
        advice: "Its log says why, and which; after that is mended, restart the broker.",
    },
    Alert {
        name: "TidemillTransactionsRefused",
        expression: "increase(tidemill_transactions_refused_total[10m]) > 0",
        lasting: "0m",
        severity: "warning",
        summary: "Shard {{ $labels.shard }} of {{ $labels.instance }} refuses transactions.",
        advice: "A partition remembers too many: look for one that hangs (txn find-hanging), and \
                 for producers that abort a lot.",
    },
    Alert {
        name: "TidemillRestarted",
        expression: "changes(process_start_time_seconds{job=~\".*tidemill.*\"}[15m]) > 1",
        lasting: "0m",
        severity: "warning",
        summary: "Broker {{ $labels.instance }} was started again and again.",
        advice: "Its log says why it ended.",
    },
];

/// The rules as a file for Prometheus.
#[must_use]
pub fn rules() -> String {
    let mut out = String::from("groups:\n  - name: tidemill\n    rules:\n");
    for alert in ALERTS {
        let Alert { name, expression, lasting, severity, summary, advice } = alert;
        let _ = write!(
            out,
            "      - alert: {name}\n        expr: {}\n        for: {lasting}\n        labels:\n          \
             severity: {severity}\n        annotations:\n          summary: {}\n          \
             description: {}\n",
            quoted(expression),
            quoted(summary),
            quoted(advice)
        );
    }
    out
}

/// A text in YAML's single quotes, in which nothing but the quote itself means anything.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Texts may hold whatever YAML would take for its own.
    #[test]
    fn texts_are_quoted_as_yaml_wants_it() {
        assert_eq!(quoted("it's: {{ x }} # \"y\""), "'it''s: {{ x }} # \"y\"'");
    }

    /// Each rule says for how long, how bad, what it means and what to do; names are told apart.
    #[test]
    fn rules_are_complete() {
        let mut names: Vec<_> = ALERTS.iter().map(|alert| alert.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), ALERTS.len());
        for alert in ALERTS {
            let number = alert.lasting.trim_end_matches(['s', 'm', 'h']);
            assert!(number.parse::<u32>().is_ok(), "{alert:?}");
            assert!(["critical", "warning"].contains(&alert.severity), "{alert:?}");
            assert!(alert.summary.contains("$labels.instance"), "{alert:?}");
            assert!(!alert.advice.is_empty());
        }
    }
}
