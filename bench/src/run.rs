//! One run: connections made, load put on, the window measured, the figures drawn up.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;

use tidemill_runtime::chores::BackgroundThread;
use tidemill_runtime::clock;
use tidemill_runtime::edge::{Instant, ShardId};
use tidemill_runtime::ring::RingConfig;
use tidemill_runtime::shard::{ShardPlan, run_shards};

use crate::control;
use crate::load::{Connection, Load, Outcome, Plan, Role};
use crate::report::Report;
use crate::usage::Usage;
use crate::workload::BatchTemplate;

/// What to do to which broker.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Shown with the figures.
    pub name: String,
    /// The topic.
    pub topic: String,
    /// The leader of each partition.
    pub leaders: Vec<SocketAddr>,
    /// The process to be watched; none if it runs elsewhere.
    pub broker_pid: Option<u32>,
    /// Connections that produce.
    pub producers: usize,
    /// Connections that read while others produce, or that read what is there.
    pub followers: usize,
    /// Shards of the load generator.
    pub shards: usize,
    /// Batches per second in all; none for a closed loop.
    pub rate: Option<f64>,
    /// Bytes per batch, about.
    pub batch_bytes: usize,
    /// Bytes per record's value.
    pub value_bytes: usize,
    /// The most requests in flight on one connection.
    pub in_flight_max: usize,
    /// Kafka's acks: 1 or -1.
    pub acks: i16,
    /// The most bytes a fetch asks for.
    pub fetch_bytes: i32,
    /// Whether what is read is verified.
    pub verify: bool,
    /// Before the window.
    pub warm_up: Duration,
    /// The window.
    pub duration: Duration,
    /// Whether to read until all that is there has been read, instead.
    pub until_caught_up: bool,
}

/// Time between the beginning of a run and its first request, for the shards to start.
const PREPARATION: Duration = Duration::from_millis(100);

/// Carries a run out.
pub fn run(settings: &Settings) -> io::Result<Report> {
    let mut connections = connections(settings)?;
    let start = clock::monotonic().after(PREPARATION);
    let measure_from = start.after(settings.warm_up);
    let end = measure_from.after(settings.duration);
    let plan = Plan {
        topic: settings.topic.clone(),
        acks: settings.acks,
        in_flight_max: settings.in_flight_max,
        rate: settings.rate.map(|rate| rate / settings.shards as f64),
        fetch_bytes: settings.fetch_bytes,
        start,
        measure_from,
        end,
        until_caught_up: settings.until_caught_up,
    };
    let (report, outcomes) = channel();
    let mut plans = Vec::new();
    for _ in 0..settings.shards {
        let (plan, report) = (plan.clone(), report.clone());
        let mine = connections.pop().expect("one list for each shard");
        let make = move |_: ShardId| Load::new(plan, mine, report);
        plans.push(ShardPlan { core: None, listeners: Vec::new(), make });
    }
    drop(report);
    let root = PathBuf::from(".");
    let config = RingConfig::new(root.clone());
    let handle = run_shards(&config, plans, BackgroundThread::new(root))?;

    wait_until(measure_from);
    let before = readings(settings);
    if !settings.until_caught_up {
        wait_until(end);
    }
    let mut after = readings(settings);
    handle.join();
    if settings.until_caught_up {
        after = readings(settings);
    }

    let mut outcome = Outcome::default();
    outcomes.iter().for_each(|shard| outcome.merge(&shard));
    let elapsed = if settings.until_caught_up {
        outcome.last_answer.since(measure_from)
    } else {
        settings.duration
    };
    let broker = before.broker.zip(after.broker).map(|(b, a)| a.since(b));
    let driver_cpu = after.driver_cpu.saturating_sub(before.driver_cpu);
    Ok(Report { settings: settings.clone(), outcome, elapsed, broker, driver_cpu })
}

struct Readings {
    broker: Option<Usage>,
    driver_cpu: Duration,
}

fn readings(settings: &Settings) -> Readings {
    let broker = settings.broker_pid.and_then(Usage::of);
    Readings { broker, driver_cpu: clock::cpu_time() }
}

fn wait_until(at: Instant) {
    thread::sleep(at.since(clock::monotonic()));
}

/// The connections of each shard.
fn connections(settings: &Settings) -> io::Result<Vec<Vec<Connection>>> {
    let run = clock::monotonic().nanos;
    let mut shards: Vec<Vec<Connection>> = (0..settings.shards).map(|_| Vec::new()).collect();
    for i in 0..settings.producers + settings.followers {
        let producer = i < settings.producers;
        let nth = if producer { i } else { i - settings.producers };
        let partition = nth % settings.leaders.len();
        let stream = control::connect(settings.leaders[partition])?;
        let role = if producer {
            let (batch, value) = (settings.batch_bytes, settings.value_bytes);
            let template = BatchTemplate::new(run, i as u32, batch, value);
            Role::Produce { template: Box::new(template) }
        } else {
            Role::Follow { verify: settings.verify }
        };
        let connection = Connection { stream, partition: partition as i32, role };
        shards[i % settings.shards].push(connection);
    }
    Ok(shards)
}
