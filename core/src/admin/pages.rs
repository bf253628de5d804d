//! What is found under which path of the admin port.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::to_vec;
use tidemill_net::http::{Request, Response, Status};
use tidemill_perf::document::{
    LATENESS_SCHEMA, LatencyDocument, LatenessDocument, NodeLabel, SlowestDocument,
};
use tidemill_perf::{ShardReading, ShardSlow, Snapshot, hlog};

use super::metrics::{self, Scrape};
use super::shards::{Asked, Shards};
use crate::measure::{Told, What};

/// Where the node is in its life.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u8)]
pub enum Life {
    /// Not all shards have their partitions yet.
    Starting,
    /// Clients are served.
    Serving,
    /// It was asked to stop.
    Stopping,
}

/// A [`Life`] that the node writes and the admin port reads.
#[derive(Clone, Debug, Default)]
pub struct LifeCell(Arc<AtomicU8>);

impl LifeCell {
    /// From now on it is this.
    pub fn set(&self, life: Life) {
        // Relaxed: nothing else is read by it.
        self.0.store(life as u8, Ordering::Relaxed);
    }

    /// What it is now.
    #[must_use]
    pub fn get(&self) -> Life {
        match self.0.load(Ordering::Relaxed) {
            0 => Life::Starting,
            1 => Life::Serving,
            _ => Life::Stopping,
        }
    }
}

/// All that the admin port can tell.
pub struct Pages {
    /// Which broker.
    pub node: NodeLabel,
    /// When it started, in milliseconds since the Unix epoch.
    pub started_unix_ms: u64,
    /// Who knows the rest.
    pub shards: Shards,
    /// Where it is in its life.
    pub life: LifeCell,
}

/// What is served, for people who look at the root or at a wrong path.
const INDEX: &str = "\
/livez                 every shard makes its turns
/readyz                clients are served
/metrics               for Prometheus; ?full adds shards, stages and partitions in detail
/latency               histograms of each stage as JSON; ?format=hlog as an HdrHistogram log
/slowest               the slowest requests and the latest stalls as JSON
/lateness              how late records come, by partition, as JSON";

const JSON: &str = "application/json";
const TEXT: &str = "text/plain; charset=utf-8";

/// The content type of the classic text format.
const PROMETHEUS: &str = "text/plain; version=0.0.4; charset=utf-8";

impl Pages {
    /// The answer to a request.
    #[must_use]
    pub fn answer(&self, request: &Request) -> Response {
        self.page(request).unwrap_or_else(|refused| refused)
    }

    fn page(&self, request: &Request) -> Result<Response, Response> {
        match request.path.as_str() {
            "/" => Ok(Response::text(Status::OK, INDEX)),
            "/livez" => {
                only(request, &[])?;
                self.live()
            }
            "/readyz" => {
                only(request, &[])?;
                self.ready()
            }
            "/metrics" => {
                only(request, &[("full", &["", "1", "true"])])?;
                Ok(self.metrics(!request.query.is_empty()))
            }
            "/metrics/full" => {
                only(request, &[])?;
                Ok(self.metrics(true))
            }
            "/latency" => {
                only(request, &[("format", &["json", "hlog"])])?;
                let hlog = request.query.iter().any(|(_, value)| value == "hlog");
                if hlog { self.latency_log() } else { self.latency() }
            }
            "/slowest" => {
                only(request, &[])?;
                self.slowest()
            }
            "/lateness" => {
                only(request, &[])?;
                Ok(self.lateness())
            }
            _ => {
                let line = format!("there is no such page; there are:\n{INDEX}");
                Err(Response::text(Status::NOT_FOUND, &line))
            }
        }
    }

    /// Alive is a node whose shards all make turns, whatever else may be wrong with it.
    fn live(&self) -> Result<Response, Response> {
        // Its shards may be gone already.
        if self.life.get() != Life::Stopping {
            self.ask(What::default())?;
        }
        Ok(Response::text(Status::OK, "alive"))
    }

    /// Ready is a node that serves clients and can append.
    fn ready(&self) -> Result<Response, Response> {
        match self.life.get() {
            Life::Starting => return Err(Response::text(Status::UNAVAILABLE, "starting")),
            Life::Stopping => return Err(Response::text(Status::UNAVAILABLE, "stopping")),
            Life::Serving => {}
        }
        let told = self.ask(What::default())?;
        match told.iter().find(|told| told.state.fenced || !told.state.serving) {
            None => Ok(Response::text(Status::OK, "ready")),
            Some(Told { state, .. }) if state.fenced => {
                let line = "the data directory has failed: nothing is appended until a restart";
                Err(Response::text(Status::UNAVAILABLE, line))
            }
            Some(Told { state, .. }) => {
                let line = format!("shard {} does not serve clients", state.shard);
                Err(Response::text(Status::UNAVAILABLE, &line))
            }
        }
    }

    fn metrics(&self, full: bool) -> Response {
        let asked = self.shards.ask(What { reading: true, ..What::default() });
        let partitions = if full { self.shards.partitions() } else { Vec::new() };
        let scrape = Scrape {
            node: &self.node,
            started_unix_ms: self.started_unix_ms,
            life: self.life.get(),
            asked: &asked,
            partitions: &partitions,
            process: metrics::Process::read(),
        };
        Response::ok(PROMETHEUS, metrics::text(&scrape, full))
    }

    fn latency(&self) -> Result<Response, Response> {
        let readings = self.readings()?;
        let node = self.node.clone();
        let taken = unix_ms();
        json(&LatencyDocument::new(node, self.started_unix_ms, taken, &readings))
    }

    fn latency_log(&self) -> Result<Response, Response> {
        let mut merged = Snapshot::default();
        self.readings()?.iter().for_each(|reading| merged.merge(&reading.latency));
        let start = UNIX_EPOCH + Duration::from_millis(self.started_unix_ms);
        let length = Duration::from_millis(unix_ms().saturating_sub(self.started_unix_ms));
        let comment = format!("tidemill node {}: nanoseconds since the start", self.node.id);
        let written = || {
            let mut log = hlog::Writer::new(Vec::new(), start, &[&comment])?;
            for (kind, stage, counts) in merged.iter() {
                let tag = format!("{}.{stage}", kind.name());
                log.write(&tag, Duration::ZERO, length, &counts.histogram())?;
            }
            log.flush()?;
            Ok(log.into_inner())
        };
        let bytes = written().map_err(|error: std::io::Error| failed(&error))?;
        Ok(Response::ok(TEXT, bytes))
    }

    fn slowest(&self) -> Result<Response, Response> {
        let told = self.ask(What { slowest: true, ..What::default() })?;
        let shards: Vec<ShardSlow> = told.into_iter().filter_map(|told| told.slowest).collect();
        json(&SlowestDocument::new(self.node.clone(), &shards))
    }

    fn lateness(&self) -> Response {
        let partitions = self.shards.partitions();
        let figures = partitions.iter().filter_map(|state| {
            Some(state.lateness.as_ref()?.figures(&state.topic, state.partition))
        });
        let document = LatenessDocument {
            schema: LATENESS_SCHEMA.to_owned(),
            node: self.node.clone(),
            partitions: figures.collect(),
        };
        json(&document).unwrap_or_else(|refused| refused)
    }

    fn readings(&self) -> Result<Vec<ShardReading>, Response> {
        let told = self.ask(What { reading: true, ..What::default() })?;
        Ok(told.into_iter().filter_map(|told| told.reading).collect())
    }

    /// The answers of all shards; without one of them there is no answer to give.
    fn ask(&self, what: What) -> Result<Vec<Told>, Response> {
        let Asked { told, silent } = self.shards.ask(what);
        match silent.as_slice() {
            [] => Ok(told),
            [shard, ..] => {
                let line = format!("shard {shard} does not answer");
                Err(Response::text(Status::UNAVAILABLE, &line))
            }
        }
    }
}

/// Refuses parameters nobody knows: whoever gives one expects something of it.
fn only(request: &Request, known: &[(&str, &[&str])]) -> Result<(), Response> {
    for (name, value) in &request.query {
        let line = match known.iter().find(|(known, _)| known == name) {
            None => format!("{} takes no parameter {name}", request.path),
            Some((_, values)) if values.contains(&value.as_str()) => continue,
            Some((_, values)) => {
                let values: Vec<_> = values.iter().filter(|value| !value.is_empty()).collect();
                format!("{name} cannot be {value}, but one of {values:?}")
            }
        };
        return Err(Response::text(Status::BAD_REQUEST, &line));
    }
    Ok(())
}

fn json<D: serde::Serialize>(document: &D) -> Result<Response, Response> {
    let body = to_vec(document).map_err(|error| failed(&error))?;
    Ok(Response::ok(JSON, body))
}

fn failed(error: &dyn std::fmt::Display) -> Response {
    Response::text(Status::UNAVAILABLE, &format!("this page could not be made: {error}"))
}

/// Now.
#[must_use]
pub fn unix_ms() -> u64 {
    let past = SystemTime::now().duration_since(UNIX_EPOCH);
    past.map_or(0, |past| u64::try_from(past.as_millis()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests;
