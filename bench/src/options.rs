//! The options of a run on the command line, and what they mean.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use tidemill_record::Codec;

use crate::arrival::Arrival;
use crate::control::{self, Making, Topic};
use crate::follow::Reading;
use crate::run::{Readers, Settings};
use crate::workload::{Shape, VALUE_BYTES_MAX, VALUE_BYTES_MIN};

/// Which broker, and which topic.
#[derive(Args, Clone, Debug)]
pub struct BrokerOptions {
    /// Brokers to ask first: HOST:PORT,...
    #[arg(long, default_value = "127.0.0.1:9092")]
    pub broker: String,
    /// The topic; made if it is not there.
    #[arg(long, default_value = "bench")]
    pub topic: String,
    /// How many partitions, if it is made.
    #[arg(long, default_value_t = 1)]
    pub partitions: u32,
    /// How many replicas, if it is made; without it, as the broker likes.
    #[arg(long)]
    pub replicas: Option<i16>,
    /// Configs of the topic, if it is made.
    #[arg(long = "config", value_name = "NAME=VALUE")]
    pub configs: Vec<String>,
    /// Delete the topic when the run has ended and is verified.
    #[arg(long)]
    pub delete_topic: bool,
    /// Connect to the broker named only, not to the leaders it tells of.
    #[arg(long)]
    pub ignore_leaders: bool,
    /// The broker's process, where it runs on this machine, to measure what it uses.
    #[arg(long)]
    pub pid: Option<u32>,
}

/// What load.
#[derive(Args, Clone, Debug)]
pub struct LoadOptions {
    /// Records per second in all, or bytes with a unit (20MB), or `max`: as many as are answered.
    #[arg(long, default_value = "10000")]
    pub rate: String,
    /// When records are due: constant, poisson, or bursts:N for N at once.
    #[arg(long, default_value = "constant")]
    pub arrival: String,
    /// Connections that produce.
    #[arg(long, default_value_t = 1)]
    pub connections: usize,
    /// Shards (threads) of the load generator.
    #[arg(long, default_value_t = 1)]
    pub shards: usize,
    /// A batch is full at this size.
    #[arg(long, default_value_t = 64 * 1024)]
    pub batch_bytes: usize,
    /// Milliseconds that a batch waits for more records. In a closed loop batches are full.
    #[arg(long, default_value_t = 0.0)]
    pub linger: f64,
    /// Bytes per record's value, at least 40: one size, or MIN..MAX.
    #[arg(long, default_value = "1024")]
    pub value_bytes: String,
    /// Keys per partition; without it, records have no key.
    #[arg(long)]
    pub keys: Option<u64>,
    /// Which part of a value can be compressed away, from 0 to 1.
    #[arg(long, default_value_t = 0.5)]
    pub compressible: f64,
    /// What batches are compressed with: none, gzip, snappy, lz4, zstd.
    #[arg(long, default_value = "none")]
    pub compression: String,
    /// The most requests in flight on one connection.
    #[arg(long, default_value_t = 5)]
    pub in_flight: usize,
    /// Kafka's acks: 0, 1 or -1 (all).
    #[arg(long, default_value_t = -1, allow_hyphen_values = true)]
    pub acks: i16,
    /// Seconds before the window.
    #[arg(long, default_value_t = 1.0)]
    pub warm_up: f64,
    /// Seconds of the window; for consume, at most.
    #[arg(long, default_value_t = 10.0)]
    pub seconds: f64,
    /// Seconds that answers are awaited, and readers may take to catch up, after the end.
    #[arg(long, default_value_t = 60.0)]
    pub drain: f64,
    /// Do not read back what nobody has read meanwhile.
    #[arg(long)]
    pub no_read_back: bool,
    /// Shown with the figures.
    #[arg(long)]
    pub name: Option<String>,
    /// A directory for env.json, latency.hlog, result.json and report.html.
    #[arg(long)]
    pub result: Option<PathBuf>,
}

/// Who reads, and how.
#[derive(Args, Clone, Debug)]
pub struct ReadOptions {
    /// Sets of readers, each of which reads everything.
    #[arg(long)]
    pub fan_out: Option<usize>,
    /// Connections of each set; without it, as many as produce, at most one for each partition.
    #[arg(long)]
    pub reader_connections: Option<usize>,
    /// Read from the first record there is, not from where the topic ends at the start.
    #[arg(long)]
    pub from_start: bool,
    /// Slow readers: bytes per second that each connection reads at most.
    #[arg(long)]
    pub reader_rate: Option<String>,
    /// Late readers: seconds after the start that they begin.
    #[arg(long, default_value_t = 0.0)]
    pub reader_delay: f64,
    /// The most bytes of one partition a fetch asks for.
    #[arg(long, default_value_t = 1 << 20)]
    pub fetch_bytes: i32,
    /// The most bytes a fetch asks for in all.
    #[arg(long, default_value_t = 8 << 20)]
    pub fetch_bytes_all: i32,
    /// Milliseconds that a broker may hold a fetch that finds nothing.
    #[arg(long, default_value_t = 200.0)]
    pub fetch_wait: f64,
}

fn wrong(why: impl Into<String>) -> io::Error {
    io::Error::other(why.into())
}

/// A time above zero, from seconds.
pub fn positive(seconds: f64) -> io::Result<Duration> {
    let duration = duration(seconds)?;
    if duration.is_zero() { Err(wrong("no time at all")) } else { Ok(duration) }
}

fn duration(seconds: f64) -> io::Result<Duration> {
    Duration::try_from_secs_f64(seconds).map_err(io::Error::other)
}

/// A number with a decimal prefix and perhaps a unit: `500`, `20k`, `1.5MB`. Whether it had bytes
/// for its unit.
pub fn quantity(text: &str) -> io::Result<(f64, bool)> {
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let number: f64 = number.parse().map_err(|_| wrong(format!("{text:?} is no number")))?;
    let unit = unit.trim().trim_end_matches("/s");
    let bytes = unit.ends_with('B');
    let factor = match unit.trim_end_matches('B') {
        "" => 1.0,
        "k" | "K" => 1e3,
        "M" => 1e6,
        "G" => 1e9,
        _ => return Err(wrong(format!("{text:?} has an unknown unit: k, M, G, B are known"))),
    };
    Ok((number * factor, bytes))
}

/// Records per second; none for `max`.
pub fn rate(text: &str, shape: &Shape) -> io::Result<Option<f64>> {
    if text == "max" {
        return Ok(None);
    }
    let (number, bytes) = quantity(text)?;
    let mean = (shape.value_bytes_min + shape.value_bytes_max) as f64 / 2.0;
    let rate = if bytes { number / mean } else { number };
    if 0.0 < rate && rate.is_finite() { Ok(Some(rate)) } else { Err(wrong("a rate is above zero")) }
}

impl LoadOptions {
    fn shape(&self) -> io::Result<Shape> {
        let number = |text: &str| {
            let size = text.parse::<usize>().ok();
            let size = size.filter(|size| (VALUE_BYTES_MIN..=VALUE_BYTES_MAX).contains(size));
            size.ok_or_else(|| {
                wrong(format!("{text:?}: a value has {VALUE_BYTES_MIN} to {VALUE_BYTES_MAX} bytes"))
            })
        };
        let (min, max) = match self.value_bytes.split_once("..") {
            Some((min, max)) => (number(min)?, number(max)?),
            None => (number(&self.value_bytes)?, number(&self.value_bytes)?),
        };
        if max < min || !(0.0..=1.0).contains(&self.compressible) || self.keys == Some(0) {
            return Err(wrong("sizes are MIN..MAX, compressible from 0 to 1, keys at least one"));
        }
        let codec = match self.compression.as_str() {
            "none" => Codec::None,
            "gzip" => Codec::Gzip,
            "snappy" => Codec::Snappy,
            "lz4" => Codec::Lz4,
            "zstd" => Codec::Zstd,
            other => return Err(wrong(format!("unknown compression {other:?}"))),
        };
        let (keys, compressible) = (self.keys, self.compressible);
        Ok(Shape { value_bytes_min: min, value_bytes_max: max, keys, compressible, codec })
    }

    fn arrival(&self, shape: &Shape) -> io::Result<Arrival> {
        let Some(rate) = rate(&self.rate, shape)? else { return Ok(Arrival::Closed) };
        match self.arrival.split_once(':') {
            None if self.arrival == "constant" => Ok(Arrival::Constant(rate)),
            None if self.arrival == "poisson" => Ok(Arrival::Poisson(rate)),
            Some(("bursts", size)) => match size.parse() {
                Ok(size) if 0 < size => Ok(Arrival::Bursts(rate, size)),
                _ => Err(wrong("a burst has at least one record")),
            },
            _ => Err(wrong("an arrival is constant, poisson or bursts:N")),
        }
    }

    /// The settings of a run that produces, on a topic that is ready.
    pub fn settings(&self, name: &str, topic: Topic) -> io::Result<Settings> {
        if self.connections == 0 || self.shards == 0 || self.in_flight == 0 {
            return Err(wrong("at least one connection, shard and request in flight"));
        }
        if !matches!(self.acks, -1..=1) {
            return Err(wrong("acks are 0, 1 or -1"));
        }
        let shape = self.shape()?;
        Ok(Settings {
            name: self.name.clone().unwrap_or_else(|| name.to_owned()),
            topic,
            broker_pid: None,
            producers: self.connections,
            readers: None,
            read_back: !self.no_read_back,
            shards: self.shards,
            arrival: self.arrival(&shape)?,
            shape,
            batch_bytes: self.batch_bytes,
            linger: duration(self.linger / 1e3)?,
            in_flight_max: self.in_flight,
            acks: self.acks,
            warm_up: duration(self.warm_up)?,
            duration: positive(self.seconds)?,
            drain: duration(self.drain)?,
            until_caught_up: false,
        })
    }
}

impl ReadOptions {
    /// Who reads, if anybody does.
    pub fn readers(&self, fan_out: usize, connections: usize) -> io::Result<Option<Readers>> {
        let rate = match &self.reader_rate {
            Some(text) => Some(quantity(text)?.0).filter(|rate| 0.0 < *rate),
            None => None,
        };
        let reading = Reading {
            fetch_bytes: self.fetch_bytes,
            fetch_bytes_all: self.fetch_bytes_all,
            wait: duration(self.fetch_wait / 1e3)?,
            rate,
            delay: duration(self.reader_delay)?,
            verify: true,
        };
        let sets = self.fan_out.unwrap_or(fan_out);
        let connections = self.reader_connections.unwrap_or(connections).max(1);
        let from_start = self.from_start;
        Ok((0 < sets).then_some(Readers { sets, connections, from_start, reading }))
    }
}

impl BrokerOptions {
    /// Makes the topic ready.
    pub fn prepare(&self) -> io::Result<Topic> {
        let split = |config: &String| {
            let (name, value) = config.split_once('=')?;
            Some((name.to_owned(), value.to_owned()))
        };
        let configs: Option<Vec<_>> = self.configs.iter().map(split).collect();
        let configs = configs.ok_or_else(|| wrong("a config is NAME=VALUE"))?;
        let making = Making { partitions: self.partitions, replicas: self.replicas, configs };
        let mut topic = control::prepare(&self.broker, &self.topic, &making)?;
        if self.ignore_leaders {
            let only = self.broker.split(',').next().unwrap_or_default();
            topic.leaders.fill(control::resolve(only)?);
        }
        Ok(topic)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rates are records, or bytes if they say so.
    #[test]
    fn rates_have_units() {
        let shape = Shape::of_bytes(1000);
        assert_eq!(rate("max", &shape).unwrap(), None);
        assert_eq!(rate("250", &shape).unwrap(), Some(250.0));
        assert_eq!(rate("1.5M", &shape).unwrap(), Some(1_500_000.0));
        assert_eq!(rate("20MB/s", &shape).unwrap(), Some(20_000.0));
        for text in ["0", "", "fast", "10T"] {
            rate(text, &shape).unwrap_err();
        }
    }
}
