//! The options of a run on the command line, and what they mean.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use tidemill_perf::machine::limits::Limits;
use tidemill_record::Codec;

use crate::amount::{Rate, Sizes, bytes_per_second, milliseconds, seconds, some_seconds};
use crate::arrival::{Arrival, Pattern};
use crate::control::{self, Making, Topic};
use crate::follow::Reading;
use crate::phases::{self, Usual};
use crate::search::Objective;
use crate::settings::{Phase, Readers, Settings};
use crate::trouble::Trouble;
use crate::workload::Shape;

/// How long a broker that was lost is awaited where nobody says.
const RECONNECT: Duration = Duration::from_secs(30);

/// Which broker, and which topic.
#[derive(Args, Clone, Debug)]
pub(super) struct BrokerOptions {
    /// Brokers to ask first.
    #[arg(short, long, visible_aliases = ["bootstrap", "bootstrap-server"])]
    #[arg(value_name = "HOST:PORT,...")]
    #[arg(default_value = "127.0.0.1:9092")]
    pub broker: String,
    /// The topic.
    #[arg(short, long, default_value = "bench")]
    pub topic: String,
    /// Delete the topic when the run has ended and is verified; with --sweep or --find-max after
    /// each step, so that the disk holds one step's records. One that lost records is kept. Groups
    /// that were made are deleted as well.
    #[arg(long)]
    pub delete_topic: bool,
    /// Connect to the broker named only, not to the leaders it tells of.
    #[arg(long)]
    pub ignore_leaders: bool,
    /// The broker's process, where it runs on this machine, to measure what it uses.
    #[arg(long)]
    pub pid: Option<u32>,
    /// Seconds that a broker that was lost is awaited before the run is given up.
    #[arg(long, value_name = "SECONDS", default_value = "30", value_parser = seconds)]
    pub reconnect: Duration,
}

/// How a topic is made that is not there.
#[derive(Args, Clone, Debug)]
pub(super) struct MakingOptions {
    /// How many partitions, if it is made.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    pub partitions: u32,
    /// How many replicas, if it is made; without it, as the broker likes.
    #[arg(long)]
    pub replicas: Option<i16>,
    /// Configs of the topic, if it is made.
    #[arg(long = "config", value_name = "NAME=VALUE", value_parser = config)]
    pub configs: Vec<(String, String)>,
}

/// How a run goes, whatever it does.
#[derive(Args, Clone, Debug)]
pub(super) struct RunOptions {
    /// How long is measured; for consume, at most.
    #[arg(long, value_name = "SECONDS", default_value = "10", value_parser = some_seconds)]
    pub seconds: Duration,
    /// Connections that produce; where nobody does, that read.
    #[arg(long, default_value_t = 1, value_parser = at_least_one)]
    pub connections: usize,
    /// Shards (threads) of the load generator, in each of its processes.
    #[arg(long, default_value_t = 1, value_parser = at_least_one)]
    pub shards: usize,
    /// Worker processes of the load generator on this machine: they start together and count as
    /// one.
    #[arg(long, alias = "processes", default_value_t = 1, value_parser = at_least_one)]
    pub workers: usize,
    /// One more worker, started with this command, such as 'ssh HOST tidemill bench worker'; may
    /// be repeated.
    #[arg(long = "worker", value_name = "COMMAND")]
    pub worker_commands: Vec<String>,
    /// Shown with the figures.
    #[arg(long)]
    pub name: Option<String>,
    /// A directory for env.json, latency.hlog, result.json and report.html.
    #[arg(long, value_name = "DIR")]
    pub result: Option<PathBuf>,
    /// What this machine can do at most, for shares of it [default: where `tidemill perf` keeps it]
    #[arg(long, value_name = "FILE")]
    pub limits: Option<PathBuf>,
}

/// What load.
#[derive(Args, Clone, Debug)]
pub(super) struct LoadOptions {
    /// Records per second in all, or bytes with a unit (20MB), or `max`: as many as are answered.
    #[arg(long, default_value = "10000", allow_negative_numbers = true)]
    pub rate: Rate,
    /// When records are due: constant, poisson, bursts:100 (records) or bursts:50ms at once.
    #[arg(long, default_value = "constant", value_name = "PATTERN")]
    pub arrival: Pattern,
    /// Seconds before the window, with the load but not counted [default: 1]
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    pub warm_up: Option<Duration>,
    /// A load that changes: phases with rates, patterns, sizes and objectives of their own, in a
    /// TOML file (an example: bench/examples/phases.toml).
    #[arg(long, value_name = "FILE")]
    pub phases: Option<PathBuf>,
    /// A batch is full at this size.
    #[arg(long, default_value_t = 64 * 1024, value_parser = at_least_one)]
    pub batch_bytes: usize,
    /// Milliseconds that a batch waits for more records. In a closed loop batches are full.
    #[arg(long, value_name = "MS", default_value = "0", value_parser = milliseconds)]
    pub linger: Duration,
    /// Bytes per record's value, at least 40: one size, or MIN..MAX.
    #[arg(long, default_value = "1024", value_name = "BYTES")]
    pub value_bytes: Sizes,
    /// Keys per partition; without it, records have no key.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    pub keys: Option<u64>,
    /// Which part of a value can be compressed away, from 0 to 1.
    #[arg(long, default_value_t = 0.5, value_name = "PART", value_parser = part)]
    pub compressible: f64,
    /// What batches are compressed with: none, gzip, snappy, lz4, zstd.
    #[arg(long, default_value = "none", value_name = "CODEC", value_parser = codec)]
    pub compression: Codec,
    /// The most requests in flight on one connection.
    #[arg(long, default_value_t = 5, value_parser = at_least_one)]
    pub in_flight: usize,
    /// Who must have a record before it is acknowledged: all, 1 or 0.
    #[arg(long, default_value = "all", allow_hyphen_values = true, value_parser = acks)]
    pub acks: i16,
    /// Seconds that answers are awaited, and readers may take to catch up, after the end.
    #[arg(long, value_name = "SECONDS", default_value = "60", value_parser = seconds)]
    pub drain: Duration,
    /// Do not read back what nobody has read meanwhile.
    #[arg(long)]
    pub no_read_back: bool,
    #[command(flatten)]
    pub run: RunOptions,
}

/// Who reads, and how.
#[derive(Args, Clone, Debug)]
pub(super) struct ReadOptions {
    /// Sets of readers, each of which reads everything.
    #[arg(long)]
    pub fan_out: Option<usize>,
    /// Connections of each set; without it, as many as produce, at most one for each partition.
    #[arg(long, value_parser = at_least_one)]
    pub reader_connections: Option<usize>,
    /// Read from the first record there is, not from where the topic ends at the start.
    #[arg(long)]
    pub from_start: bool,
    /// Slow readers: bytes per second that each connection reads at most, such as 2MB.
    #[arg(long, value_name = "BYTES/S", value_parser = bytes_per_second)]
    pub reader_rate: Option<f64>,
    /// Late readers: seconds after the start that they begin.
    #[arg(long, value_name = "SECONDS", default_value = "0", value_parser = seconds)]
    pub reader_delay: Duration,
    /// The most bytes of one partition a fetch asks for.
    #[arg(long, default_value_t = 1 << 20, allow_negative_numbers = true)]
    #[arg(value_parser = clap::value_parser!(i32).range(1..))]
    pub fetch_bytes: i32,
    /// The most bytes a fetch asks for in all.
    #[arg(long, default_value_t = 8 << 20, allow_negative_numbers = true)]
    #[arg(value_parser = clap::value_parser!(i32).range(1..))]
    pub fetch_bytes_all: i32,
    /// Milliseconds that a broker may hold a fetch that finds nothing.
    #[arg(long, value_name = "MS", default_value = "200", value_parser = milliseconds)]
    pub fetch_wait: Duration,
}

fn config(text: &str) -> Result<(String, String), String> {
    let split = text.split_once('=').ok_or("a config is NAME=VALUE")?;
    Ok((split.0.to_owned(), split.1.to_owned()))
}

pub(super) fn at_least_one(text: &str) -> Result<usize, String> {
    let number = text.parse::<usize>().ok().filter(|number| 0 < *number);
    number.ok_or_else(|| "a whole number, at least one".to_owned())
}

fn part(text: &str) -> Result<f64, String> {
    let number = text.parse::<f64>().ok().filter(|number| (0.0..=1.0).contains(number));
    number.ok_or_else(|| "a number from 0 to 1".to_owned())
}

fn codec(text: &str) -> Result<Codec, String> {
    Codec::from_name(text).ok_or_else(|| "none, gzip, snappy, lz4 or zstd".to_owned())
}

fn acks(text: &str) -> Result<i16, String> {
    match text {
        "all" | "-1" => Ok(-1),
        "1" => Ok(1),
        "0" => Ok(0),
        _ => Err("all, 1 or 0".to_owned()),
    }
}

impl LoadOptions {
    fn usual(&self, objective: Option<&Objective>) -> Usual {
        let shape = Shape {
            value_bytes_min: self.value_bytes.min,
            value_bytes_max: self.value_bytes.max,
            keys: self.keys,
            compressible: self.compressible,
            codec: self.compression,
        };
        Usual {
            duration: self.run.seconds,
            rate: self.rate,
            pattern: self.arrival,
            shape,
            objective: objective.cloned(),
        }
    }

    /// What records look like where no phase says otherwise.
    #[must_use]
    pub(super) fn shape(&self) -> Shape {
        self.usual(None).shape
    }

    /// The phases of the run, and the time before the first of them.
    pub(super) fn phases(
        &self,
        objective: Option<&Objective>,
    ) -> Result<(Vec<Phase>, Duration), Trouble> {
        let usual = self.usual(objective);
        let (phases, warm_up) = match &self.phases {
            Some(path) => phases::read(path, &usual)?,
            None => (vec![usual.phase()], None),
        };
        Ok((phases, self.warm_up.or(warm_up).unwrap_or(Duration::from_secs(1))))
    }

    /// The settings of a run that produces, on a topic that is ready.
    pub(super) fn settings(
        &self,
        name: &str,
        topic: Topic,
        (phases, warm_up): (Vec<Phase>, Duration),
    ) -> Settings {
        Settings {
            producers: self.run.connections,
            read_back: !self.no_read_back,
            batch_bytes: self.batch_bytes,
            linger: self.linger,
            in_flight_max: self.in_flight,
            acks: self.acks,
            warm_up,
            drain: self.drain,
            ..self.run.settings(name, topic, phases)
        }
    }
}

impl RunOptions {
    /// One phase as fast as it can be, for whoever reads.
    pub(super) fn closed_phase(&self, objective: Option<&Objective>) -> Phase {
        Phase {
            name: String::new(),
            duration: self.seconds,
            arrival: Arrival::Closed,
            shape: Shape::of_bytes(0),
            objective: objective.cloned(),
        }
    }

    /// What this machine can do at most, as far as it was measured.
    pub(super) fn limits(&self) -> Result<Limits, Trouble> {
        match &self.limits {
            Some(file) if !file.is_file() => {
                let line = format!("there is no file of limits {}", file.display());
                Err(Trouble::new(line).fix("tidemill perf disk --keep FILE writes one"))
            }
            Some(file) => Ok(Limits::read(file)?),
            None => Ok(Limits::usual().unwrap_or_else(|error| {
                // Nobody asked for them: what was asked for goes on.
                eprintln!("tidemill: the limits measured before cannot be read: {error}");
                Limits::default()
            })),
        }
    }

    /// The settings of a run that produces nothing, and in which nobody reads yet.
    pub(super) fn settings(&self, name: &str, topic: Topic, phases: Vec<Phase>) -> Settings {
        Settings {
            name: self.name.clone().unwrap_or_else(|| name.to_owned()),
            topic,
            broker_pid: None,
            producers: 0,
            readers: None,
            read_back: false,
            shards: self.shards,
            phases,
            batch_bytes: 64 * 1024,
            linger: Duration::ZERO,
            in_flight_max: 5,
            acks: -1,
            warm_up: Duration::ZERO,
            drain: Duration::ZERO,
            reconnect: RECONNECT,
            until_caught_up: false,
        }
    }
}

impl ReadOptions {
    /// Who reads, if anybody does.
    #[must_use]
    pub(super) fn readers(&self, fan_out: usize, connections: usize) -> Option<Readers> {
        let reading = Reading {
            fetch_bytes: self.fetch_bytes,
            fetch_bytes_all: self.fetch_bytes_all,
            wait: self.fetch_wait,
            rate: self.reader_rate,
            delay: self.reader_delay,
            verify: true,
        };
        let sets = self.fan_out.unwrap_or(fan_out);
        let connections = self.reader_connections.unwrap_or(connections);
        let from_start = self.from_start;
        (0 < sets).then_some(Readers { sets, connections, from_start, reading })
    }
}

impl BrokerOptions {
    /// Makes the topic ready.
    pub(super) fn prepare(&self, making: &MakingOptions) -> Result<Topic, Trouble> {
        let making = Making {
            partitions: making.partitions,
            replicas: making.replicas,
            configs: making.configs.clone(),
        };
        self.led(control::prepare(&self.broker, &self.topic, &making)?)
    }

    /// Looks for the topic, which has to be there.
    pub(super) fn find(&self) -> Result<Topic, Trouble> {
        self.led(control::find(&self.broker, &self.topic)?)
    }

    fn led(&self, mut topic: Topic) -> Result<Topic, Trouble> {
        if self.ignore_leaders {
            let only = self.broker.split(',').next().unwrap_or_default();
            topic.lead_all_from(control::resolve(only)?);
        }
        Ok(topic)
    }

    /// Deletes the topic, if that was asked for. One in which a run found harm is evidence.
    pub(super) fn clean_up(&self, is_harmed: bool) -> Result<(), Trouble> {
        if !self.delete_topic {
            return Ok(());
        }
        if is_harmed {
            eprintln!("tidemill: topic {} is kept, not deleted: it shows the harm", self.topic);
            return Ok(());
        }
        control::delete(&self.broker, &self.topic)
    }

    /// Deletes groups with the topic, if that was asked for.
    pub(super) fn clean_up_groups(&self, groups: &[String]) -> Result<(), Trouble> {
        if !self.delete_topic {
            return Ok(());
        }
        first_of(control::delete_groups(&self.broker, groups), self.clean_up(false))
    }
}

/// What a command ended with, and what then came of cleaning up: the first trouble is that of the
/// command, a second one is told.
pub(super) fn first_of(
    ended: Result<(), Trouble>,
    after: Result<(), Trouble>,
) -> Result<(), Trouble> {
    if ended.is_err()
        && let Err(second) = &after
    {
        eprintln!("tidemill: {second}");
    }
    ended.and(after)
}
