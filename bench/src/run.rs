//! One run: connections made, load put on, the window measured, all records verified, the figures
//! drawn up.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tidemill_runtime::chores::BackgroundThread;
use tidemill_runtime::clock;
use tidemill_runtime::edge::{Instant, ShardId};
use tidemill_runtime::ring::RingConfig;
use tidemill_runtime::shard::{ShardPlan, run_shards};

use crate::arrival::{Arrival, Arrivals};
use crate::control::{self, Topic};
use crate::follow::{Following, Reading};
use crate::load::{Load, Member, Part, Plan};
use crate::produce::Producing;
use crate::report::Report;
use crate::tally::{Ends, News, Tally};
use crate::usage::Usage;
use crate::verdict::Verdict;
use crate::watch::{Moment, Watch};
use crate::workload::{Shape, pool};

/// Who reads.
#[derive(Clone, Copy, Debug)]
pub struct Readers {
    /// Sets of readers: each reads everything.
    pub sets: usize,
    /// Connections of each set, at most one for each partition.
    pub connections: usize,
    /// Whether they begin at the first record there is, not at the end.
    pub from_start: bool,
    /// How they read.
    pub reading: Reading,
}

/// What to do to which broker.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Shown with the figures.
    pub name: String,
    /// The topic, and where its partitions are.
    pub topic: Topic,
    /// The process to be watched; none if it runs elsewhere.
    pub broker_pid: Option<u32>,
    /// Connections that produce; at least one for each address that leads.
    pub producers: usize,
    /// Who reads meanwhile.
    pub readers: Option<Readers>,
    /// Whether all is read back afterwards, where nobody has read meanwhile.
    pub read_back: bool,
    /// Shards of the load generator.
    pub shards: usize,
    /// When records are due.
    pub arrival: Arrival,
    /// What they look like.
    pub shape: Shape,
    /// A batch is full at this size.
    pub batch_bytes: usize,
    /// How long a batch that is not full waits for more.
    pub linger: Duration,
    /// The most requests in flight on one connection.
    pub in_flight_max: usize,
    /// Kafka's acks: 0, 1 or -1.
    pub acks: i16,
    /// Before the window.
    pub warm_up: Duration,
    /// The window.
    pub duration: Duration,
    /// How long answers are awaited, and readers may take to catch up, after the end.
    pub drain: Duration,
    /// Whether to read until all that is there has been read, instead.
    pub until_caught_up: bool,
}

/// Time between the beginning of a run and its first request, for the shards to start …
const PREPARATION: Duration = Duration::from_millis(100);

/// … and for each of their connections to be told what to do.
const PREPARATION_EACH: Duration = Duration::from_micros(200);

/// How often the broker is looked at.
const SAMPLE: Duration = Duration::from_secs(1);

/// Carries a run out. `watch` is told how it goes.
pub fn run(settings: &Settings, watch: &mut Watch) -> io::Result<Report> {
    let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    // Unique among the runs of a machine, most likely among all runs.
    let run = unix.as_nanos() as u64 ^ u64::from(std::process::id()) << 40;
    let mut measured = execute(settings, run, watch)?;
    let produces = 0 < settings.producers;
    if produces && settings.readers.is_none() && settings.read_back {
        watch.say("reading everything back");
        let readers = Readers {
            sets: 1,
            connections: settings.producers,
            from_start: false,
            reading: Reading::default(),
        };
        let again = Settings {
            producers: 0,
            readers: Some(readers),
            until_caught_up: true,
            warm_up: Duration::ZERO,
            duration: settings.drain,
            ..settings.clone()
        };
        let read = execute(&again, run, &mut Watch::silent())?;
        measured.ends.merge(Ends { last_answer: Instant::default(), ..read.ends });
    }
    let verdict = Verdict::of(run, &measured.ends);
    let Measured { tally, ends, elapsed, broker, driver_cpu, peak_bytes } = measured;
    let settings = settings.clone();
    Ok(Report { settings, tally, ends, verdict, elapsed, broker, driver_cpu, peak_bytes })
}

struct Measured {
    tally: Tally,
    ends: Ends,
    elapsed: Duration,
    broker: Option<Usage>,
    driver_cpu: Duration,
    peak_bytes: u64,
}

fn execute(settings: &Settings, run: u64, watch: &mut Watch) -> io::Result<Measured> {
    let streams = Streams::connect(settings)?;
    let preparation = PREPARATION + PREPARATION_EACH * streams.count();
    let start = clock::monotonic().after(preparation);
    let measure_from = start.after(settings.warm_up);
    let plan = Plan {
        run,
        topic: settings.topic.name.clone(),
        topic_id: settings.topic.id,
        acks: settings.acks,
        in_flight_max: settings.in_flight_max,
        batch_bytes: settings.batch_bytes,
        linger: settings.linger,
        start,
        start_unix_ms: clock::wall_clock_ms() + preparation.as_millis() as i64,
        measure_from,
        end: measure_from.after(settings.duration),
        drain: settings.drain,
        until_caught_up: settings.until_caught_up,
    };
    let producing = Arc::new(AtomicUsize::new(streams.producers.len()));
    let members = streams.into_members(settings, &plan);
    let (news, heard) = channel();
    let mut shards: Vec<Vec<Member>> = (0..settings.shards).map(|_| Vec::new()).collect();
    for (i, member) in members.into_iter().enumerate() {
        shards[i % settings.shards].push(member);
    }
    let mut plans = Vec::new();
    for members in shards {
        let (plan, producing, news) = (plan.clone(), Arc::clone(&producing), news.clone());
        let make = move |_: ShardId| Load::new(plan, members, producing, news);
        plans.push(ShardPlan { core: None, listeners: Vec::new(), make });
    }
    drop(news);
    let root = PathBuf::from(".");
    let config = RingConfig::new(root.clone());
    let handle = run_shards(&config, plans, BackgroundThread::new(root))?;
    let measured = listen(settings, &plan, &heard, watch)?;
    handle.join();
    Ok(measured)
}

#[derive(Clone, Copy)]
struct Readings {
    broker: Option<Usage>,
    driver_cpu: Duration,
}

fn readings(settings: &Settings) -> Readings {
    let broker = settings.broker_pid.and_then(Usage::of);
    Readings { broker, driver_cpu: clock::cpu_time() }
}

/// Takes what the shards tell until all have ended.
fn listen(
    settings: &Settings,
    plan: &Plan,
    heard: &Receiver<News>,
    watch: &mut Watch,
) -> io::Result<Measured> {
    let (mut tally, mut pending, mut ends) = (Tally::default(), Tally::default(), Ends::default());
    let (mut before, mut after): (Option<Readings>, Option<Readings>) = (None, None);
    let mut last = (plan.start, readings(settings));
    let mut peak_bytes = 0;
    let mut left = settings.shards;
    while 0 < left {
        let mut next = last.0.after(SAMPLE);
        if before.is_none() {
            next = next.min(plan.measure_from);
        } else if after.is_none() {
            next = next.min(plan.end);
        }
        match heard.recv_timeout(next.since(clock::monotonic())) {
            Ok(News::Interval(told)) => pending.merge(&told),
            Ok(News::End(told)) => {
                ends.merge(*told);
                left -= 1;
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => {
                return Err(io::Error::other("a shard of the load generator has ended early"));
            }
        }
        let now = clock::monotonic();
        if before.is_none() && plan.measure_from <= now {
            before = Some(readings(settings));
        }
        if after.is_none() && plan.end <= now {
            after = Some(readings(settings));
        }
        if last.0.after(SAMPLE) <= now || left == 0 {
            let (since, earlier) = last;
            let read = readings(settings);
            let broker = earlier.broker.zip(read.broker).map(|(b, a)| a.since(b));
            peak_bytes = peak_bytes.max(read.broker.map_or(0, |usage| usage.resident_bytes));
            let driver_cpu = read.driver_cpu.saturating_sub(earlier.driver_cpu);
            watch.tick(Moment { since, now, plan, tally: &pending, broker, driver_cpu })?;
            tally.merge(&std::mem::take(&mut pending));
            last = (now, read);
        }
    }
    let last_reading = readings(settings);
    let before = before.unwrap_or(last_reading);
    let after = after.filter(|_| !settings.until_caught_up).unwrap_or(last_reading);
    let elapsed = if settings.until_caught_up {
        ends.last_answer.since(plan.measure_from)
    } else {
        settings.duration
    };
    let broker = before.broker.zip(after.broker).map(|(b, a)| a.since(b));
    let driver_cpu = after.driver_cpu.saturating_sub(before.driver_cpu);
    Ok(Measured { tally, ends, elapsed, broker, driver_cpu, peak_bytes })
}

/// The connections of a run, not yet told what to do.
struct Streams {
    producers: Vec<(std::net::TcpStream, Vec<i32>)>,
    readers: Vec<(std::net::TcpStream, usize, Vec<i32>)>,
}

impl Streams {
    fn connect(settings: &Settings) -> io::Result<Self> {
        let leaders = &settings.topic.leaders;
        let mut producers = Vec::new();
        for (address, partitions) in spread(leaders, settings.producers) {
            producers.push((control::connect(address)?, partitions));
        }
        let mut readers = Vec::new();
        if let Some(Readers { sets, connections, .. }) = settings.readers {
            for set in 0..sets {
                for (address, partitions) in spread(leaders, connections.min(leaders.len())) {
                    readers.push((control::connect(address)?, set, partitions));
                }
            }
        }
        Ok(Self { producers, readers })
    }

    fn count(&self) -> u32 {
        (self.producers.len() + self.readers.len()) as u32
    }

    fn into_members(self, settings: &Settings, plan: &Plan) -> Vec<Member> {
        let mut members = Vec::new();
        let connections = self.producers.len();
        let mut first_producer = 0;
        let pool = pool(&settings.shape);
        for (nth, (stream, partitions)) in self.producers.into_iter().enumerate() {
            let arrivals = Arrivals::new(plan.start, settings.arrival, nth, connections);
            let (shape, pool) = (settings.shape, Arc::clone(&pool));
            let producing = Producing::new(&partitions, first_producer, shape, pool, arrivals);
            first_producer += partitions.len() as u32;
            members.push(Member { stream, part: Part::Produce(Box::new(producing)) });
        }
        for (stream, set, partitions) in self.readers {
            let readers = settings.readers.expect("there are readers");
            let topic = &settings.topic;
            let from = if readers.from_start { &topic.earliest } else { &topic.latest };
            let from: Vec<(i32, i64)> =
                partitions.iter().map(|number| (*number, from[*number as usize])).collect();
            let following = Following::new(plan.run, set, &from, readers.reading);
            members.push(Member { stream, part: Part::Follow(Box::new(following)) });
        }
        members
    }
}

/// Which connection goes where, with which partitions. With fewer connections than partitions each
/// has several, all led from its address, and there is at least one for each address; with more,
/// several have the same one.
fn spread(leaders: &[SocketAddr], connections: usize) -> Vec<(SocketAddr, Vec<i32>)> {
    if connections == 0 {
        return Vec::new();
    }
    if leaders.len() <= connections {
        let one = |nth: usize| (leaders[nth % leaders.len()], vec![(nth % leaders.len()) as i32]);
        return (0..connections).map(one).collect();
    }
    let mut led: BTreeMap<SocketAddr, Vec<i32>> = BTreeMap::new();
    for (number, leader) in leaders.iter().enumerate() {
        led.entry(*leader).or_default().push(number as i32);
    }
    let addresses = led.len();
    let mut all = Vec::new();
    for (nth, (address, partitions)) in led.into_iter().enumerate() {
        let extra = usize::from(nth < connections % addresses);
        let mine = (connections / addresses + extra).clamp(1, partitions.len());
        for first in 0..mine {
            let some = partitions.iter().skip(first).step_by(mine).copied().collect();
            all.push((address, some));
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(port: u16) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], port))
    }

    /// Each partition has a connection, and each connection goes to the leader of all it serves.
    #[test]
    fn connections_go_to_the_leaders() {
        let leaders: Vec<_> = (0..10).map(|n| address(1000 + n % 3)).collect();
        for connections in [1, 2, 3, 4, 7, 10, 25] {
            let spread = spread(&leaders, connections);
            assert!(connections.max(3) <= spread.len(), "{connections}");
            let mut served: Vec<i32> = Vec::new();
            for (address, partitions) in &spread {
                assert!(!partitions.is_empty());
                assert!(partitions.iter().all(|p| leaders[*p as usize] == *address));
                served.extend(partitions);
            }
            served.sort_unstable();
            served.dedup();
            assert_eq!(served, (0..10).collect::<Vec<_>>(), "{connections}");
        }
    }
}
