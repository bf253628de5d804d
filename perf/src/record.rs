//! `tidemill perf record`: a broker's latencies over time, from its admin port into a result
//! directory.
//!
//! Each interval's histograms go into the log as they come; an interrupted recording keeps what
//! it has. A broker started anew leaves a gap, told in the result, and so does one that does not answer
//! for a while. Clocks are the broker's: an
//! interval is as long as the broker says it was.

use std::io::{self, Write};
use std::time::{Duration, UNIX_EPOCH};

use crate::admin::{Admin, AdminError};
use crate::document::LatencyDocument;
use crate::hlog::{LogError, Writer};
use crate::interval::Between;
use crate::machine::limits::Limits;
use crate::outcome::{Figure, Outcome, Series};
use crate::stage::Kind;

/// A recording under way.
pub struct Recording<W> {
    log: Writer<W>,
    first: LatencyDocument,
    /// The first reading of the broker as it runs now: the figures are of the time since.
    since: LatencyDocument,
    last: LatencyDocument,
    /// Where the time stands in the log: the broker's clock, since the first reading.
    offset: Duration,
    outcome: Outcome,
}

/// Why an interval could not be recorded.
#[derive(Debug)]
pub enum RecordError {
    /// The broker gave no document.
    Admin(AdminError),
    /// Its document holds something that is no histogram.
    Document(LogError),
    /// The log cannot be written.
    Io(io::Error),
}

impl std::fmt::Display for RecordError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Admin(error) => error.fmt(f),
            Self::Document(error) => write!(f, "the broker's document cannot be read: {error}"),
            Self::Io(error) => write!(f, "cannot write the log: {error}"),
        }
    }
}

impl std::error::Error for RecordError {}

impl From<AdminError> for RecordError {
    fn from(error: AdminError) -> Self {
        Self::Admin(error)
    }
}

impl From<LogError> for RecordError {
    fn from(error: LogError) -> Self {
        Self::Document(error)
    }
}

impl From<io::Error> for RecordError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl<W: Write> Recording<W> {
    /// Takes the first reading and begins the log.
    pub fn begin(admin: &Admin, out: W) -> Result<Self, RecordError> {
        let first = admin.latency()?;
        let start = UNIX_EPOCH + Duration::from_millis(first.taken_unix_ms);
        let comment = format!(
            "tidemill {} node {}: nanoseconds per request and stage",
            first.node.version, first.node.id
        );
        let title = format!("tidemill node {} at {}", first.node.id, admin.address());
        let outcome = Outcome::new(&title, start);
        let log = Writer::new(out, start, &[&comment])?;
        let (since, last) = (first.clone(), first.clone());
        Ok(Self { log, first, since, last, offset: Duration::ZERO, outcome })
    }

    /// Takes the next reading; what came between it and the one before, if the broker was the
    /// same.
    pub fn step(&mut self, admin: &Admin) -> Result<Option<Between>, RecordError> {
        let now = admin.latency()?;
        let between = Between::new(&self.last, &now)?;
        match &between {
            Some(between) => self.write(between)?,
            None => {
                self.outcome.notes.push(format!(
                    "the broker was started anew after {:.0} s; the time between is missing, and \
                     the figures are of the time since",
                    self.offset.as_secs_f64()
                ));
                self.offset = elapsed(&self.first, &now);
                self.since = now.clone();
            }
        }
        self.last = now;
        Ok(between)
    }

    fn write(&mut self, between: &Between) -> Result<(), RecordError> {
        let length = Duration::from_secs_f64(between.seconds);
        for (tag, histogram) in &between.stages {
            self.log.write(tag, self.offset, length, histogram)?;
        }
        self.log.flush()?;
        let at = (self.offset + length).as_secs_f64();
        let outcome = &mut self.outcome;
        for shard in &between.shards {
            let name = format!("shard {}", shard.shard);
            outcome.add(at, Series::busy(&name), shard.busy);
            for (peer, sent) in &shard.mesh {
                let name = format!("{} to {peer}", shard.shard);
                outcome.add(at, Series::new("mesh messages", &name, "/s"), *sent);
            }
        }
        let bytes = |name: &str| Series::new("throughput", name, "B/s");
        outcome.add(at, bytes("in"), between.sum(|shard| shard.bytes_in));
        outcome.add(at, bytes("out"), between.sum(|shard| shard.bytes_out));
        outcome.add(at, bytes("disk writes"), between.sum(|shard| shard.disk_written));
        outcome.add(at, bytes("disk reads"), between.sum(|shard| shard.disk_read));
        for kind in Kind::ALL.map(Kind::name) {
            outcome.add(at, Series::new("requests", kind, "/s"), between.requests(kind));
        }
        self.offset += length;
        Ok(())
    }

    /// Ends the log; the result that stands beside it, with the rates beside the limits of the
    /// broker's machine.
    pub fn finish(mut self, limits: &Limits) -> Result<(W, Outcome), RecordError> {
        self.log.flush()?;
        self.outcome.seconds = self.offset.as_secs_f64();
        if let Some(whole) = Between::new(&self.since, &self.last)? {
            let mut figure = |name: &str, value: f64, unit: &str| {
                self.outcome.figures.push(Figure::new(name, value, unit));
            };
            for kind in Kind::ALL.map(Kind::name) {
                figure(&format!("{kind} requests"), whole.requests(kind), "/s");
            }
            figure("bytes in", whole.sum(|shard| shard.bytes_in), "B/s");
            figure("bytes out", whole.sum(|shard| shard.bytes_out), "B/s");
            figure("disk writes", whole.sum(|shard| shard.disk_written), "B/s");
            figure("disk reads", whole.sum(|shard| shard.disk_read), "B/s");
            for shard in &whole.shards {
                figure(&format!("shard {} busy", shard.shard), shard.busy, "ratio");
            }
            let stalls: u64 = whole.shards.iter().map(|shard| shard.stalls).sum();
            figure("stalls", stalls as f64, "");
            self.outcome.shares = limits.shares(&whole.flows());
        }
        Ok((self.log.into_inner(), self.outcome))
    }
}

fn elapsed(first: &LatencyDocument, now: &LatencyDocument) -> Duration {
    Duration::from_millis(now.taken_unix_ms.saturating_sub(first.taken_unix_ms))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::tests::{ok, serve};
    use crate::hlog::Log;
    use crate::interval::tests::readings;

    /// What a broker tells over some seconds is what the log and the result say.
    #[test]
    fn a_recording_holds_what_was_served() {
        let answers = readings().map(|document| ok(&serde_json::to_string(&document).unwrap()));
        let (address, server) = serve(answers.to_vec());
        let admin = Admin::at(&address);
        let mut recording = Recording::begin(&admin, Vec::new()).unwrap();
        assert!(recording.step(&admin).unwrap().is_some());
        assert!(recording.step(&admin).unwrap().is_some());
        let (bytes, outcome) = recording.finish(&Limits::default()).unwrap();
        server.join().unwrap();

        let log = Log::read(bytes.as_slice()).unwrap();
        assert_eq!(log.tags(), ["produce.append", "produce.durable", "produce.total"]);
        assert_eq!(log.merged("produce.total").unwrap().unwrap().len(), 600);
        assert!((log.start_seconds - 1e9).abs() < 1e-3 && (log.end() - 3.0).abs() < 1e-3);
        assert!((outcome.seconds - 3.0).abs() < 1e-3);
        let busy = outcome.series.iter().find(|series| series.name == "shard 0").unwrap();
        assert_eq!(busy.points.len(), 2);
        assert!(busy.points.iter().all(|(_, busy)| (busy - 0.5).abs() < 1e-9));
    }

    /// A broker that is started anew leaves a gap, and the recording goes on.
    #[test]
    fn a_restart_leaves_a_gap_that_is_told() {
        let [start, mut first, mut last] = readings();
        first.started_unix_ms += 500;
        last.started_unix_ms += 500;
        let answers = [start, first, last];
        let answers = answers.map(|document| ok(&serde_json::to_string(&document).unwrap()));
        let (address, server) = serve(answers.to_vec());
        let admin = Admin::at(&address);
        let mut recording = Recording::begin(&admin, Vec::new()).unwrap();
        assert!(recording.step(&admin).unwrap().is_none());
        assert!(recording.step(&admin).unwrap().is_some());
        let (bytes, outcome) = recording.finish(&Limits::default()).unwrap();
        server.join().unwrap();
        assert!(outcome.notes.iter().any(|note| note.contains("started anew")));
        assert!(outcome.figures.iter().any(|figure| figure.name == "produce requests"));
        let log = Log::read(bytes.as_slice()).unwrap();
        assert!((log.intervals[0].offset - 1.0).abs() < 1e-3, "after the gap");
    }
}
