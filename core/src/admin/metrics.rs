//! `/metrics`: the broker's figures as Prometheus' text format 0.0.4.
//!
//! [`METRICS`] is the one table of what there is; docs/operating/metrics.md shows it, and a test
//! compares both with a scrape. Without `?full` a node tells a few hundred lines, whatever is stored
//! on it; with it also pairs of shards, whole histograms of stages, and partitions (up to
//! [`PARTITIONS_SHOWN_MAX`](crate::limits::PARTITIONS_SHOWN_MAX)).
//!
//! Counters count from the start of the process. Times are seconds, sizes bytes.
//!
//! Start reading at [`METRICS`], then [`text`].

use std::fmt::Write as _;

use tidemill_perf::counts::Counts;
use tidemill_perf::document::NodeLabel;
use tidemill_perf::histogram::SAMPLED_NAME;
use tidemill_perf::{Kind, ShardReading, Snapshot};
use tidemill_runtime::clock::cpu_time;

use super::pages::Life;
use super::shards::Asked;
use crate::measure::{PartitionState, ShardState};
use crate::partition::CompactionFigures;

/// One row of the table.
#[derive(Debug)]
pub struct Metric {
    /// Its name, with its unit.
    pub name: &'static str,
    /// What its values do.
    pub kind: MetricKind,
    /// What tells its samples apart.
    pub labels: &'static [&'static str],
    /// Whether it is told only if everything is asked for.
    pub full: bool,
    /// What it means.
    pub help: &'static str,
}

/// What the values of a metric do.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum MetricKind {
    /// They grow, until a restart.
    Counter,
    /// They go up and down.
    Gauge,
    /// Counts below each of some bounds, a sum and a count, all of which grow.
    Histogram,
}

impl MetricKind {
    /// As Prometheus calls it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

const fn counter(
    name: &'static str,
    labels: &'static [&'static str],
    help: &'static str,
) -> Metric {
    Metric { name, kind: MetricKind::Counter, labels, full: false, help }
}

const fn gauge(name: &'static str, labels: &'static [&'static str], help: &'static str) -> Metric {
    Metric { name, kind: MetricKind::Gauge, labels, full: false, help }
}

const fn histogram(
    name: &'static str,
    labels: &'static [&'static str],
    help: &'static str,
) -> Metric {
    Metric { name, kind: MetricKind::Histogram, labels, full: false, help }
}

const fn in_full(mut metric: Metric) -> Metric {
    metric.full = true;
    metric
}

/// All metrics, in the order in which they are told.
pub static METRICS: &[Metric] = &[
    gauge("tidemill_build_info", &["version", "node"], "Always 1."),
    gauge("tidemill_ready", &[], "1 while clients are served and records can be appended."),
    gauge("tidemill_topics", &[], "Topics that exist."),
    histogram(
        "tidemill_request_seconds",
        &["kind"],
        "From the first byte of a request to the last byte of its reply.",
    ),
    histogram(
        "tidemill_request_stage_seconds",
        &["kind", "stage"],
        "Where the time of the sampled requests went. Only sum and count, without ?full.",
    ),
    counter(
        "tidemill_requests_sampled_total",
        &["kind"],
        "Requests whose stages were recorded: of each sixteen in a row one, drawn by lot.",
    ),
    counter("tidemill_api_requests_total", &["api"], "Requests by Kafka API."),
    gauge("tidemill_shard_up", &["shard"], "1 if the shard answers; without it its figures lack."),
    gauge("tidemill_shard_fenced", &["shard"], "1 after a failed write or sync: no appends."),
    counter("tidemill_shard_busy_seconds_total", &["shard"], "Time spent in turns; else asleep."),
    counter("tidemill_shard_turns_total", &["shard"], "Turns of the shard's loop."),
    gauge("tidemill_shard_longest_turn_seconds", &["shard"], "The longest turn since the start."),
    counter("tidemill_shard_stalls_total", &["shard"], "Turns above tidemill.stall.ms."),
    gauge("tidemill_shard_connections", &["shard"], "Clients' connections open now."),
    gauge("tidemill_shard_requests_open", &["shard"], "Requests that wait for something now."),
    gauge("tidemill_shard_partitions", &["shard"], "Partitions whose home the shard is."),
    gauge("tidemill_shard_network_memory_bytes", &["shard"], "Held by requests and replies now."),
    gauge("tidemill_shard_network_memory_limit_bytes", &["shard"], "How much that may be."),
    gauge(
        "tidemill_shard_storage_memory_bytes",
        &["shard"],
        "Held by records on their way to the disk and by indexes now.",
    ),
    counter("tidemill_received_bytes_total", &["shard"], "Received from clients."),
    counter("tidemill_sent_bytes_total", &["shard"], "Taken by clients' sockets."),
    counter("tidemill_batches_appended_total", &["shard"], "Record batches appended to logs."),
    counter(
        "tidemill_transactions_refused_total",
        &["shard"],
        "Batches refused because their partition remembers 65,536 transactions, open or aborted.",
    ),
    counter("tidemill_disk_written_bytes_total", &["shard"], "Written to files."),
    counter("tidemill_disk_read_bytes_total", &["shard"], "Read from files."),
    counter("tidemill_compaction_rounds_total", &["shard"], "Logs that were compacted."),
    counter(
        "tidemill_compaction_failures_total",
        &["shard"],
        "Compactions given up for an error: the log stays as it was. The log tells why.",
    ),
    counter("tidemill_compaction_read_bytes_total", &["shard"], "Read by compaction."),
    counter("tidemill_compaction_written_bytes_total", &["shard"], "Written by compaction."),
    counter("tidemill_compaction_removed_records_total", &["shard"], "Left out by compaction."),
    gauge(
        "tidemill_compaction_dirty_ratio_max",
        &["shard"],
        "The largest share of a compacted log that could be compacted and is not yet.",
    ),
    gauge(
        "tidemill_compaction_uncompactable_partitions",
        &["shard"],
        "Partitions that cannot be compacted, or only in front of damage. The log tells why.",
    ),
    counter("tidemill_mesh_sent_messages_total", &["shard"], "Messages to other shards."),
    gauge("process_start_time_seconds", &[], "When the process started, since the Unix epoch."),
    counter("process_cpu_seconds_total", &[], "CPU time of all threads, user and system."),
    gauge("process_resident_memory_bytes", &[], "Memory in use."),
    gauge("process_open_fds", &[], "Open files and sockets."),
    in_full(counter(
        "tidemill_shard_requests_total",
        &["shard", "kind"],
        "Answered requests by the shard that held the connection.",
    )),
    in_full(counter(
        "tidemill_mesh_messages_total",
        &["from", "to"],
        "Messages from one shard to another.",
    )),
    in_full(gauge(
        "tidemill_partition_log_start_offset",
        &["topic", "partition"],
        "The first offset kept.",
    )),
    in_full(gauge(
        "tidemill_partition_high_watermark",
        &["topic", "partition"],
        "Consumers read up to here.",
    )),
    in_full(gauge("tidemill_partition_size_bytes", &["topic", "partition"], "Of its log.")),
    in_full(gauge(
        "tidemill_partition_lateness_seconds",
        &["topic", "partition", "q"],
        "How old the newest record of a batch was when it was appended, since the start.",
    )),
    in_full(gauge(
        "tidemill_partition_disorder_seconds",
        &["topic", "partition", "q"],
        "How far a batch's oldest record lay behind the newest before it, since the start.",
    )),
];

/// Upper bounds of the buckets of a histogram, in nanoseconds.
const BOUNDS_NS: [u64; 18] = [
    50_000,
    100_000,
    250_000,
    500_000,
    1_000_000,
    2_500_000,
    5_000_000,
    10_000_000,
    25_000_000,
    50_000_000,
    100_000_000,
    250_000_000,
    500_000_000,
    1_000_000_000,
    2_500_000_000,
    5_000_000_000,
    10_000_000_000,
    30_000_000_000,
];

/// What a scrape is made of.
#[derive(Debug)]
pub struct Scrape<'a> {
    /// Which broker.
    pub node: &'a NodeLabel,
    /// When it started, in milliseconds since the Unix epoch.
    pub started_unix_ms: u64,
    /// Where it is in its life.
    pub life: Life,
    /// What the shards said, readings included.
    pub asked: &'a Asked,
    /// By topic and number, each once; only if everything is told.
    pub partitions: &'a [PartitionState],
    /// What the kernel says.
    pub process: Process,
}

/// What the kernel says of this process.
#[derive(Clone, Copy, Debug, Default)]
pub struct Process {
    cpu_seconds: f64,
    resident_bytes: u64,
    open_files: u64,
}

impl Process {
    /// Asks it; what it does not say is zero.
    #[must_use]
    pub fn read() -> Self {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kibibytes =
            resident.and_then(|text| text.trim().strip_suffix("kB")?.trim().parse().ok());
        let files = std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count);
        Self {
            cpu_seconds: cpu_time().as_secs_f64(),
            resident_bytes: kibibytes.unwrap_or(0u64) * 1024,
            open_files: files as u64,
        }
    }
}

/// The page.
#[must_use]
pub fn text(scrape: &Scrape<'_>, full: bool) -> String {
    let mut page = Page { out: String::new(), full };
    tell_node(scrape, &mut page);
    tell_requests(scrape, &mut page);
    tell_shards(scrape, &mut page);
    tell_process(scrape, &mut page);
    if full {
        tell_pairs(scrape, &mut page);
        tell_partitions(scrape, &mut page);
    }
    page.out
}

fn states<'a>(scrape: &'a Scrape<'_>) -> impl Iterator<Item = &'a ShardState> {
    scrape.asked.told.iter().map(|told| &told.state)
}

fn readings<'a>(scrape: &'a Scrape<'_>) -> impl Iterator<Item = &'a ShardReading> {
    scrape.asked.told.iter().filter_map(|told| told.reading.as_ref())
}

fn tell_node(scrape: &Scrape<'_>, page: &mut Page) {
    let id = scrape.node.id.to_string();
    page.family("tidemill_build_info").sample(&[&scrape.node.version, &id], 1.0);
    let well = states(scrape).all(|state| state.serving && !state.fenced);
    let ready = scrape.life == Life::Serving && scrape.asked.silent.is_empty() && well;
    page.family("tidemill_ready").sample(&[], f64::from(u8::from(ready)));
    let topics = states(scrape).map(|state| state.topics).max().unwrap_or(0);
    page.family("tidemill_topics").sample(&[], topics as f64);
}

fn tell_requests(scrape: &Scrape<'_>, page: &mut Page) {
    let mut merged = Snapshot::default();
    readings(scrape).for_each(|reading| merged.merge(&reading.latency));
    let full = page.full;
    let mut family = page.family("tidemill_request_seconds");
    let none = Counts::default();
    for kind in Kind::ALL {
        family.histogram(&[kind.name()], merged.total(kind).unwrap_or(&none), true);
    }
    let mut family = page.family("tidemill_request_stage_seconds");
    let is_stage = |stage: &str| !["total", SAMPLED_NAME].contains(&stage);
    for (kind, stage, counts) in merged.iter().filter(|(_, stage, _)| is_stage(stage)) {
        family.histogram(&[kind.name(), stage], counts, full);
    }
    let mut family = page.family("tidemill_requests_sampled_total");
    for kind in Kind::ALL {
        family.sample(&[kind.name()], merged.sampled(kind).map_or(0, Counts::len) as f64);
    }
    let mut family = page.family("tidemill_api_requests_total");
    let mut counts: Vec<(&str, u64)> = Vec::new();
    for &(api, count) in states(scrape).flat_map(|state| &state.requests) {
        match counts.iter_mut().find(|(other, _)| *other == api) {
            Some((_, sum)) => *sum += count,
            None => counts.push((api, count)),
        }
    }
    counts.iter().for_each(|(api, count)| family.sample(&[api], *count as f64));
}

fn tell_shards(scrape: &Scrape<'_>, page: &mut Page) {
    let mut family = page.family("tidemill_shard_up");
    for state in states(scrape) {
        family.sample(&[&state.shard.to_string()], 1.0);
    }
    for shard in &scrape.asked.silent {
        family.sample(&[&shard.to_string()], 0.0);
    }
    let mut of_state = |name, figure: fn(&ShardState) -> f64| {
        let mut family = page.family(name);
        for state in states(scrape) {
            family.sample(&[&state.shard.to_string()], figure(state));
        }
    };
    of_state("tidemill_shard_fenced", |state| f64::from(u8::from(state.fenced)));
    of_state("tidemill_shard_requests_open", |state| state.requests_open as f64);
    of_state("tidemill_shard_partitions", |state| state.partitions as f64);
    of_state("tidemill_shard_network_memory_bytes", |state| state.network_bytes as f64);
    of_state("tidemill_shard_network_memory_limit_bytes", |state| state.network_bytes_max as f64);
    of_state("tidemill_shard_storage_memory_bytes", |state| state.storage_bytes as f64);
    of_state("tidemill_transactions_refused_total", |state| state.transactions_refused as f64);
    let compaction = |state: &ShardState| state.compaction;
    let mut of_compaction = |name, figure: fn(&CompactionFigures) -> f64| {
        let mut family = page.family(name);
        for state in states(scrape) {
            family.sample(&[&state.shard.to_string()], figure(&compaction(state)));
        }
    };
    of_compaction("tidemill_compaction_rounds_total", |figures| figures.rounds as f64);
    of_compaction("tidemill_compaction_failures_total", |figures| figures.failures as f64);
    of_compaction("tidemill_compaction_read_bytes_total", |figures| figures.read_bytes as f64);
    of_compaction("tidemill_compaction_written_bytes_total", |figures| {
        figures.written_bytes as f64
    });
    of_compaction("tidemill_compaction_removed_records_total", |figures| {
        figures.records_removed as f64
    });
    of_compaction("tidemill_compaction_dirty_ratio_max", |figures| figures.dirty_ratio_max);
    of_compaction("tidemill_compaction_uncompactable_partitions", |figures| {
        figures.uncompactable as f64
    });
    let mut of_reading = |name, figure: fn(&ShardReading) -> f64| {
        let mut family = page.family(name);
        for reading in readings(scrape) {
            family.sample(&[&reading.shard.to_string()], figure(reading));
        }
    };
    of_reading("tidemill_shard_busy_seconds_total", |reading| seconds(reading.turns.busy_ns));
    of_reading("tidemill_shard_turns_total", |reading| reading.turns.turns as f64);
    of_reading("tidemill_shard_longest_turn_seconds", |reading| seconds(reading.turns.longest_ns));
    of_reading("tidemill_shard_stalls_total", |reading| reading.turns.stalls as f64);
    of_reading("tidemill_shard_connections", |reading| reading.traffic.connections as f64);
    of_reading("tidemill_received_bytes_total", |reading| reading.traffic.bytes_in as f64);
    of_reading("tidemill_sent_bytes_total", |reading| reading.traffic.bytes_out as f64);
    of_reading("tidemill_batches_appended_total", |reading| {
        reading.traffic.batches_appended as f64
    });
    of_reading("tidemill_disk_written_bytes_total", |reading| {
        reading.traffic.disk_bytes_written as f64
    });
    of_reading("tidemill_disk_read_bytes_total", |reading| reading.traffic.disk_bytes_read as f64);
    of_reading("tidemill_mesh_sent_messages_total", |reading| {
        reading.mesh.peers().map(|(_, sent, _)| sent).sum::<u64>() as f64
    });
}

fn tell_process(scrape: &Scrape<'_>, page: &mut Page) {
    let Process { cpu_seconds, resident_bytes, open_files } = scrape.process;
    let started = scrape.started_unix_ms as f64 / 1000.0;
    page.family("process_start_time_seconds").sample(&[], started);
    page.family("process_cpu_seconds_total").sample(&[], cpu_seconds);
    page.family("process_resident_memory_bytes").sample(&[], resident_bytes as f64);
    page.family("process_open_fds").sample(&[], open_files as f64);
}

fn tell_pairs(scrape: &Scrape<'_>, page: &mut Page) {
    let mut family = page.family("tidemill_shard_requests_total");
    for reading in readings(scrape) {
        for kind in Kind::ALL {
            let count = reading.latency.total(kind).map_or(0, Counts::len);
            family.sample(&[&reading.shard.to_string(), kind.name()], count as f64);
        }
    }
    let mut family = page.family("tidemill_mesh_messages_total");
    for reading in readings(scrape) {
        for (peer, sent, _) in reading.mesh.peers().filter(|(peer, ..)| *peer != reading.shard) {
            family.sample(&[&reading.shard.to_string(), &peer.to_string()], sent as f64);
        }
    }
}

fn tell_partitions(scrape: &Scrape<'_>, page: &mut Page) {
    let mut of_each = |name, figure: fn(&PartitionState) -> f64| {
        let mut family = page.family(name);
        for state in scrape.partitions {
            family.sample(&[&state.topic, &state.partition.to_string()], figure(state));
        }
    };
    of_each("tidemill_partition_log_start_offset", |state| state.log_start as f64);
    of_each("tidemill_partition_high_watermark", |state| state.high_watermark as f64);
    of_each("tidemill_partition_size_bytes", |state| state.size_bytes as f64);
    for name in ["tidemill_partition_lateness_seconds", "tidemill_partition_disorder_seconds"] {
        let mut family = page.family(name);
        for state in scrape.partitions {
            let Some(lateness) = &state.lateness else { continue };
            let figures = lateness.figures(&state.topic, state.partition);
            let quantiles = match name {
                "tidemill_partition_lateness_seconds" => figures.behind_clock_ms,
                _ => figures.behind_newest_ms,
            };
            let partition = state.partition.to_string();
            let values = [("0.5", quantiles.p50), ("0.99", quantiles.p99), ("1", quantiles.max)];
            for (quantile, millis) in values {
                family.sample(&[&state.topic, &partition, quantile], millis as f64 / 1000.0);
            }
        }
    }
}

fn seconds(nanos: u64) -> f64 {
    nanos as f64 / 1e9
}

/// The page while it is written.
struct Page {
    out: String,
    full: bool,
}

impl Page {
    /// Begins a metric: all its samples follow.
    fn family(&mut self, name: &str) -> Family<'_> {
        let metric = METRICS.iter().find(|metric| metric.name == name);
        let metric = metric.expect("the table knows every name");
        debug_assert!(self.full || !metric.full);
        let _ = writeln!(self.out, "# HELP {name} {}", metric.help);
        let _ = writeln!(self.out, "# TYPE {name} {}", metric.kind.name());
        Family { metric, out: &mut self.out }
    }
}

/// One metric while its samples are written.
struct Family<'a> {
    metric: &'static Metric,
    out: &'a mut String,
}

impl Family<'_> {
    fn sample(&mut self, values: &[&str], value: f64) {
        self.line("", values, None, value);
    }

    /// A histogram; only sum, count and the last bucket if it is not to be told with all.
    fn histogram(&mut self, values: &[&str], counts: &Counts, with_buckets: bool) {
        let (mut buckets, mut below) = (counts.iter().peekable(), 0u64);
        for bound in BOUNDS_NS.iter().filter(|_| with_buckets) {
            // A bucket that lies across the bound (1 % wide) counts as above it.
            while let Some((nanos, step, count)) = buckets.peek()
                && nanos + step - 1 <= *bound
            {
                below += count;
                buckets.next();
            }
            self.line("_bucket", values, Some(&seconds(*bound).to_string()), below as f64);
        }
        let count = counts.len() as f64;
        self.line("_bucket", values, Some("+Inf"), count);
        self.line("_sum", values, None, seconds(counts.sum_nanos()));
        self.line("_count", values, None, count);
    }

    fn line(&mut self, suffix: &str, values: &[&str], bound: Option<&str>, value: f64) {
        let labels = self.metric.labels;
        assert!(labels.len() == values.len(), "{} has other labels", self.metric.name);
        self.out.push_str(self.metric.name);
        self.out.push_str(suffix);
        let bound = bound.map(|bound| ("le", bound));
        let pairs = labels.iter().copied().zip(values.iter().copied()).chain(bound);
        for (place, (label, value)) in pairs.enumerate() {
            self.out.push(if place == 0 { '{' } else { ',' });
            let _ = write!(self.out, "{label}=\"{}\"", escaped(value));
        }
        if !labels.is_empty() || bound.is_some() {
            self.out.push('}');
        }
        let _ = writeln!(self.out, " {value}");
    }
}

/// A label's value as the format wants it.
fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

/// The table for docs/operating/metrics.md.
#[must_use]
pub fn table() -> String {
    let mut out = "| metric | kind | labels | told | meaning |\n|---|---|---|---|---|\n".to_owned();
    for metric in METRICS {
        let labels = metric.labels.iter().map(|label| format!("`{label}`"));
        let labels = labels.collect::<Vec<_>>().join(", ");
        let (name, kind, help) = (metric.name, metric.kind.name(), metric.help);
        let told = if metric.full { "with `?full`" } else { "always" };
        let _ = writeln!(out, "| `{name}` | {kind} | {labels} | {told} | {help} |");
    }
    out
}

/// The names of all samples on a page, each once, in order.
#[must_use]
pub fn sample_names(page: &str) -> Vec<&str> {
    let lines = page.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
    let mut names: Vec<&str> = lines.filter_map(|line| line.split(['{', ' ']).next()).collect();
    names.sort_unstable();
    names.dedup();
    names
}

#[cfg(test)]
pub(super) mod tests;
