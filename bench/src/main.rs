//! `tidemill-bench`: puts load on a broker, or on the floor, and prints what came of it.

use std::io::{self, BufRead, BufReader};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use tidemill_bench::run::{Settings, run};
use tidemill_bench::{control, disk, floor, report};

#[derive(Parser)]
#[command(name = "tidemill-bench", version, about = "Open-loop, verified load for Kafka brokers")]
struct Arguments {
    #[command(subcommand)]
    command: What,
    /// Print one line of JSON instead of text.
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Subcommand)]
enum What {
    /// Produce to a topic, with followers reading along if asked for.
    Produce {
        #[command(flatten)]
        broker: BrokerArguments,
        #[command(flatten)]
        load: LoadArguments,
    },
    /// Read a topic from its beginning to its end, verifying every record.
    Fetch {
        #[command(flatten)]
        broker: BrokerArguments,
        #[command(flatten)]
        load: LoadArguments,
    },
    /// The same load on a server that does nothing but answer.
    Floor {
        /// What to measure.
        #[command(subcommand)]
        floor: Floor,
    },
    /// The server of the floor; prints `ready` and its address.
    #[command(hide = true)]
    FloorServer {
        #[arg(long, default_value = "127.0.0.1:0")]
        listen: SocketAddr,
        #[arg(long, default_value_t = 1 << 20)]
        fetch_bytes: usize,
    },
}

#[derive(Subcommand)]
enum Floor {
    /// Produce requests received and answered; small batches make it the echo's floor.
    Receive {
        #[command(flatten)]
        load: LoadArguments,
    },
    /// Fetch requests answered from memory.
    Send {
        #[command(flatten)]
        load: LoadArguments,
    },
    /// Durable direct writes.
    Write {
        /// Where; a file is made there and removed.
        #[arg(long)]
        dir: PathBuf,
        /// Bytes per write.
        #[arg(long, default_value_t = 1 << 20)]
        write_bytes: usize,
        /// Writes under way at once.
        #[arg(long, default_value_t = 4)]
        depth: usize,
        /// For how long.
        #[arg(long, default_value_t = 5.0)]
        seconds: f64,
    },
}

#[derive(Args)]
struct BrokerArguments {
    /// The broker.
    #[arg(long, default_value = "127.0.0.1:9092")]
    broker: String,
    /// The topic; made if it is not there.
    #[arg(long, default_value = "bench")]
    topic: String,
    /// How many partitions, if it is made.
    #[arg(long, default_value_t = 1)]
    partitions: u32,
    /// Configs of the topic, if it is made.
    #[arg(long = "config", value_name = "NAME=VALUE")]
    configs: Vec<String>,
    /// Connect to the broker named only, not to the leaders it tells of.
    #[arg(long)]
    ignore_leaders: bool,
    /// The broker's process, to measure what it uses.
    #[arg(long)]
    pid: Option<u32>,
}

#[derive(Args)]
struct LoadArguments {
    /// Connections, spread over the partitions.
    #[arg(long, default_value_t = 1)]
    connections: usize,
    /// Connections that read along.
    #[arg(long, default_value_t = 0)]
    followers: usize,
    /// Shards of the load generator.
    #[arg(long, default_value_t = 1)]
    shards: usize,
    /// Batches per second in all; without it, as many as are answered.
    #[arg(long)]
    rate: Option<f64>,
    /// Bytes per batch, about.
    #[arg(long, default_value_t = 64 * 1024)]
    batch_bytes: usize,
    /// Bytes per record's value.
    #[arg(long, default_value_t = 1024)]
    value_bytes: usize,
    /// The most requests in flight on one connection.
    #[arg(long, default_value_t = 5)]
    in_flight: usize,
    /// Kafka's acks: 1 or -1.
    #[arg(long, default_value_t = -1, allow_hyphen_values = true)]
    acks: i16,
    /// The most bytes a fetch asks for.
    #[arg(long, default_value_t = 1 << 20)]
    fetch_bytes: i32,
    /// Seconds before the window.
    #[arg(long, default_value_t = 1.0)]
    warm_up: f64,
    /// Seconds of the window; for fetch, at most.
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
    /// Shown with the figures.
    #[arg(long)]
    name: Option<String>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match act(&arguments) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("tidemill-bench: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Does it; whether everything was as it should be.
fn act(arguments: &Arguments) -> io::Result<bool> {
    let json = arguments.json;
    match &arguments.command {
        What::Produce { broker, load } => {
            let mut settings = settings("produce", load)?;
            at_broker(&mut settings, broker)?;
            show(&settings, json)
        }
        What::Fetch { broker, load } => {
            let mut settings = settings("fetch", load)?;
            at_broker(&mut settings, broker)?;
            settings.followers = settings.leaders.len().max(load.connections);
            settings.producers = 0;
            settings.until_caught_up = true;
            settings.warm_up = Duration::ZERO;
            show(&settings, json)
        }
        What::Floor { floor: Floor::Receive { load } } => {
            let settings = settings("floor receive", load)?;
            on_floor(settings, json)
        }
        What::Floor { floor: Floor::Send { load } } => {
            let mut settings = settings("floor send", load)?;
            settings.followers = settings.producers;
            settings.producers = 0;
            settings.verify = false;
            on_floor(settings, json)
        }
        What::Floor { floor: Floor::Write { dir, write_bytes, depth, seconds } } => {
            let duration = positive(*seconds)?;
            let plan = disk::Plan { write_bytes: *write_bytes, depth: *depth, duration };
            let outcome = disk::measure(dir, plan)?;
            if json {
                println!("{}", report::disk_json(plan, &outcome));
            } else {
                print!("{}", report::disk_text(plan, &outcome));
            }
            Ok(true)
        }
        What::FloorServer { listen, fetch_bytes } => {
            floor::serve(*listen, *fetch_bytes, |address| println!("ready {address}"))?;
            Ok(true)
        }
    }
}

fn show(settings: &Settings, json: bool) -> io::Result<bool> {
    let report = run(settings)?;
    if json {
        println!("{}", report.to_json());
    } else {
        print!("{}", report.to_text());
    }
    Ok(report.is_clean())
}

fn settings(name: &str, load: &LoadArguments) -> io::Result<Settings> {
    if load.connections == 0 || load.shards == 0 || load.in_flight == 0 {
        return Err(io::Error::other("at least one connection, shard and request in flight"));
    }
    if load.rate.is_some_and(|rate| !(0.0 < rate && rate.is_finite())) {
        return Err(io::Error::other("a rate is above zero"));
    }
    if load.acks == 0 {
        return Err(io::Error::other("without acks there is nothing to measure"));
    }
    Ok(Settings {
        name: load.name.clone().unwrap_or_else(|| name.to_owned()),
        topic: "bench".to_owned(),
        leaders: Vec::new(),
        broker_pid: None,
        producers: load.connections,
        followers: load.followers,
        shards: load.shards,
        rate: load.rate,
        batch_bytes: load.batch_bytes,
        value_bytes: load.value_bytes,
        in_flight_max: load.in_flight,
        acks: load.acks,
        fetch_bytes: load.fetch_bytes,
        verify: true,
        warm_up: Duration::try_from_secs_f64(load.warm_up).map_err(io::Error::other)?,
        duration: positive(load.seconds)?,
        until_caught_up: false,
    })
}

fn positive(seconds: f64) -> io::Result<Duration> {
    let duration = Duration::try_from_secs_f64(seconds).map_err(io::Error::other)?;
    if duration.is_zero() { Err(io::Error::other("no time at all")) } else { Ok(duration) }
}

fn at_broker(settings: &mut Settings, broker: &BrokerArguments) -> io::Result<()> {
    let split = |config: &String| {
        let (name, value) = config.split_once('=')?;
        Some((name.to_owned(), value.to_owned()))
    };
    let configs: Option<Vec<_>> = broker.configs.iter().map(split).collect();
    let configs = configs.ok_or_else(|| io::Error::other("a config is NAME=VALUE"))?;
    settings.topic.clone_from(&broker.topic);
    settings.broker_pid = broker.pid;
    settings.leaders =
        control::prepare(&broker.broker, &broker.topic, broker.partitions, &configs)?;
    if broker.ignore_leaders {
        settings.leaders.fill(control::resolve(&broker.broker)?);
    }
    Ok(())
}

/// Runs the load on the floor's server, in a process of its own, so that what each uses is known.
fn on_floor(mut settings: Settings, json: bool) -> io::Result<bool> {
    let mut server = Command::new(std::env::current_exe()?)
        .arg("floor-server")
        .args(["--fetch-bytes", &settings.fetch_bytes.to_string()])
        .stdout(Stdio::piped())
        .spawn()?;
    let outcome = address_of(&mut server).and_then(|address| {
        settings.leaders = vec![address];
        settings.broker_pid = Some(server.id());
        show(&settings, json)
    });
    server.kill()?;
    server.wait()?;
    outcome
}

fn address_of(server: &mut Child) -> io::Result<SocketAddr> {
    let output = server.stdout.take().ok_or_else(|| io::Error::other("no output"))?;
    let mut line = String::new();
    BufReader::new(output).read_line(&mut line)?;
    let address = line.trim().strip_prefix("ready ").unwrap_or_default();
    address.parse().map_err(io::Error::other)
}
