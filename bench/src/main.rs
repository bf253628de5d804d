//! `tidemill-bench`: puts load on a broker, or on the sink, and prints what came of it.

use std::io::{self, BufRead, BufReader};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use tidemill_bench::control::{self, Topic};
use tidemill_bench::follow::Reading;
use tidemill_bench::options::{BrokerOptions, LoadOptions, ReadOptions, positive, rate};
use tidemill_bench::run::{Readers, Settings, run};
use tidemill_bench::search::{Objective, Search, sweep};
use tidemill_bench::sink::{self, Manners, Misdeed};
use tidemill_bench::watch::Watch;
use tidemill_bench::{disk, report};

/// Batches come and go by the thousand; the system's allocator would give each one's memory back to
/// the kernel, which cost a third of the generator's processor time.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[derive(Parser)]
#[command(name = "tidemill-bench", version, about = "Open-loop, verified load for Kafka brokers")]
struct Arguments {
    #[command(subcommand)]
    command: What,
    /// Print one line of JSON for each run instead of text.
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Subcommand)]
enum What {
    /// Produce to a topic; everything is read back and verified afterwards.
    Produce(RunArguments),
    /// Read a topic from its beginning to its end, verifying every record.
    #[command(alias = "fetch")]
    Consume(RunArguments),
    /// Produce and read along: latency from when a record was due to when it was read.
    E2e(RunArguments),
    /// Produce to a topic while others read it from its beginning.
    Mixed(RunArguments),
    /// The same load on a server that does nothing but answer.
    Floor {
        /// What to measure.
        #[command(subcommand)]
        floor: Floor,
    },
    /// A server that acknowledges at once, to measure the load generator; prints `ready` and its
    /// address.
    Sink(SinkArguments),
}

#[derive(Args)]
struct RunArguments {
    #[command(flatten)]
    broker: BrokerOptions,
    #[command(flatten)]
    load: LoadOptions,
    #[command(flatten)]
    read: ReadOptions,
    /// What has to be met, such as 'p99<5ms,errors=0'; if it is not, the exit code is 11.
    #[arg(long)]
    slo: Option<Objective>,
    /// Find the highest rate that meets --slo, beginning at --rate.
    #[arg(long, requires = "slo", conflicts_with = "sweep")]
    find_max: bool,
    /// Run at these rates, one after the other: R,R,... or FROM..TO, doubling.
    #[arg(long)]
    sweep: Option<String>,
}

#[derive(Args)]
struct SinkArguments {
    /// Where to listen.
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// How many bytes a fetch is answered with.
    #[arg(long, default_value_t = 1 << 20)]
    fetch_bytes: usize,
    /// Keep what is produced, at most so many bytes of each partition, and give it to readers.
    #[arg(long)]
    keep: Option<usize>,
    /// Do to every so many-th batch what no broker may, for the verification to notice.
    #[arg(long, requires = "keep")]
    misdeed: Option<Wrong>,
    /// How many batches it leaves alone between.
    #[arg(long, default_value_t = 100)]
    every: u64,
}

#[derive(Clone, Copy, ValueEnum)]
enum Wrong {
    Lose,
    Repeat,
    Damage,
    Swap,
}

#[derive(Subcommand)]
enum Floor {
    /// Produce requests received and answered; small batches make it the echo's floor.
    Receive {
        #[command(flatten)]
        load: LoadOptions,
    },
    /// Fetch requests answered from memory.
    Send {
        #[command(flatten)]
        load: LoadOptions,
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

/// Everything as it should be; something lost, damaged or failed; an objective missed.
enum Ending {
    Clean,
    Faulty,
    Missed,
}

/// The exit code of a missed objective.
const MISSED: u8 = 11;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match act(&arguments) {
        Ok(Ending::Clean) => ExitCode::SUCCESS,
        Ok(Ending::Faulty) => ExitCode::FAILURE,
        Ok(Ending::Missed) => ExitCode::from(MISSED),
        Err(error) => {
            eprintln!("tidemill-bench: {error}");
            ExitCode::FAILURE
        }
    }
}

fn act(arguments: &Arguments) -> io::Result<Ending> {
    let json = arguments.json;
    match &arguments.command {
        What::Produce(run) => produce("produce", run, 0, json),
        What::E2e(run) => produce("e2e", run, 1, json),
        What::Mixed(run) => produce("mixed", run, 1, json),
        What::Consume(run) => consume(run, json),
        What::Floor { floor } => on_floor(floor, json),
        What::Sink(sink) => {
            let misdeed = sink.misdeed.map(|wrong| match wrong {
                Wrong::Lose => Misdeed::Lose,
                Wrong::Repeat => Misdeed::Repeat,
                Wrong::Damage => Misdeed::Damage,
                Wrong::Swap => Misdeed::Swap,
            });
            let manners = Manners {
                fetch_bytes: sink.fetch_bytes,
                keep_bytes: sink.keep,
                misdeed: misdeed.map(|misdeed| (misdeed, sink.every.max(1))),
            };
            sink::serve(sink.listen, manners, |address| println!("ready {address}"))?;
            Ok(Ending::Clean)
        }
    }
}

fn produce(name: &str, run: &RunArguments, fan_out: usize, json: bool) -> io::Result<Ending> {
    let mut settings = run.load.settings(name, run.broker.prepare()?)?;
    settings.broker_pid = run.broker.pid;
    settings.readers = run.read.readers(fan_out, run.load.connections)?;
    if name == "mixed"
        && let Some(readers) = &mut settings.readers
    {
        readers.from_start = true;
    }
    let mut watch = Watch::new(run.load.result.as_deref(), &settings.name)?;
    let ending = if let Some(rates) = &run.sweep {
        let rates = sweep(rates, |text| rate(text, &settings.shape))?;
        at_rates(run, &settings, &rates, &mut watch, json)?
    } else if run.find_max {
        find_max(run, &settings, &mut watch, json)?
    } else {
        one(&settings, run.slo.as_ref(), &mut watch, json)?
    };
    tell_where(watch, json)?;
    if run.broker.delete_topic {
        control::delete(&run.broker.broker, &run.broker.topic)?;
    }
    Ok(ending)
}

fn tell_where(watch: Watch, json: bool) -> io::Result<()> {
    if let Some(path) = watch.finish()?
        && !json
    {
        println!("  report: {}", path.join("report.html").display());
    }
    Ok(())
}

/// One run; prints its figures and what it missed.
fn one(
    settings: &Settings,
    objective: Option<&Objective>,
    watch: &mut Watch,
    json: bool,
) -> io::Result<Ending> {
    let report = run(settings, watch)?;
    watch.take_report(&report);
    if json {
        println!("{}", report.to_json());
    } else {
        print!("{}", report.to_text());
    }
    if !report.is_clean() {
        return Ok(Ending::Faulty);
    }
    let missed = objective.map(|objective| objective.missed(&report)).unwrap_or_default();
    if missed.is_empty() {
        return Ok(Ending::Clean);
    }
    eprintln!("  objective missed: {}", missed.join("; "));
    Ok(Ending::Missed)
}

/// The same run at another rate, on a topic whose ends are where they are by now.
fn one_at(
    run: &RunArguments,
    settings: &Settings,
    rate: f64,
    watch: &mut Watch,
    json: bool,
) -> io::Result<Ending> {
    let again = Settings {
        name: format!("{} at {rate:.0} records/s", settings.name),
        topic: run.broker.prepare()?,
        arrival: settings.arrival.at_rate(rate),
        ..settings.clone()
    };
    watch.begin_phase(&format!("{rate:.0}"));
    one(&again, run.slo.as_ref(), watch, json)
}

fn at_rates(
    run: &RunArguments,
    settings: &Settings,
    rates: &[f64],
    watch: &mut Watch,
    json: bool,
) -> io::Result<Ending> {
    let mut worst = Ending::Clean;
    for &rate in rates {
        match one_at(run, settings, rate, watch, json)? {
            Ending::Clean => {}
            Ending::Missed if matches!(worst, Ending::Faulty) => {}
            ending => worst = ending,
        }
    }
    Ok(worst)
}

fn find_max(
    run: &RunArguments,
    settings: &Settings,
    watch: &mut Watch,
    json: bool,
) -> io::Result<Ending> {
    let first = settings.arrival.rate().unwrap_or(10_000.0);
    let mut search = Search::from(first);
    while let Some(rate) = search.next() {
        let ending = one_at(run, settings, rate, watch, json)?;
        if matches!(ending, Ending::Faulty) {
            eprintln!("  objective missed: the run was not clean");
        }
        search.tell(matches!(ending, Ending::Clean));
    }
    if json {
        let met = search.met.map_or("null".to_owned(), |met| format!("{met:.0}"));
        println!("{{\"find_max_records_per_second\":{met}}}");
    } else {
        println!("{search}");
    }
    Ok(if search.met.is_some() { Ending::Clean } else { Ending::Missed })
}

fn consume(run: &RunArguments, json: bool) -> io::Result<Ending> {
    let mut settings = run.load.settings("consume", run.broker.prepare()?)?;
    settings.broker_pid = run.broker.pid;
    let connections = run.load.connections.max(settings.topic.leaders.len().min(16));
    settings.readers = run.read.readers(1, connections)?;
    if let Some(readers) = &mut settings.readers {
        readers.from_start = true;
    }
    settings.producers = 0;
    settings.until_caught_up = true;
    settings.warm_up = Duration::ZERO;
    settings.drain = Duration::ZERO;
    let mut watch = Watch::new(run.load.result.as_deref(), &settings.name)?;
    let ending = one(&settings, None, &mut watch, json)?;
    tell_where(watch, json)?;
    Ok(ending)
}

fn on_floor(floor: &Floor, json: bool) -> io::Result<Ending> {
    match floor {
        Floor::Receive { load } => at_sink(json, |address| {
            let mut settings = load.settings("floor receive", sink_topic(address))?;
            settings.read_back = false;
            Ok(settings)
        }),
        Floor::Send { load } => at_sink(json, |address| {
            let mut settings = load.settings("floor send", sink_topic(address))?;
            let reading = Reading { verify: false, ..Reading::default() };
            let (sets, connections) = (settings.producers, 1);
            settings.readers = Some(Readers { sets, connections, from_start: true, reading });
            settings.producers = 0;
            settings.drain = Duration::ZERO;
            Ok(settings)
        }),
        Floor::Write { dir, write_bytes, depth, seconds } => {
            let duration = positive(*seconds)?;
            let plan = disk::Plan { write_bytes: *write_bytes, depth: *depth, duration };
            let outcome = disk::measure(dir, plan)?;
            if json {
                println!("{}", report::disk_json(plan, &outcome));
            } else {
                print!("{}", report::disk_text(plan, &outcome));
            }
            Ok(Ending::Clean)
        }
    }
}

fn sink_topic(address: SocketAddr) -> Topic {
    Topic {
        name: "sink".to_owned(),
        id: tidemill_record::TopicId::ZERO,
        leaders: vec![address],
        earliest: vec![0],
        latest: vec![0],
    }
}

/// Runs the load on the sink, in a process of its own, so that what each uses is known.
fn at_sink(
    json: bool,
    settings: impl FnOnce(SocketAddr) -> io::Result<Settings>,
) -> io::Result<Ending> {
    let mut server =
        Command::new(std::env::current_exe()?).arg("sink").stdout(Stdio::piped()).spawn()?;
    let outcome = address_of(&mut server).and_then(settings).and_then(|mut settings| {
        settings.broker_pid = Some(server.id());
        let mut watch = Watch::new(None, &settings.name)?;
        one(&settings, None, &mut watch, json)
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
