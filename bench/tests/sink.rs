//! The load generator and the sink, each other's test: what is sent is answered, counted and
//! verified, and what a faulty broker does is noticed.
#![allow(clippy::unwrap_used)]

use std::net::SocketAddr;
use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;

use tidemill_bench::arrival::Arrival;
use tidemill_bench::control::{self, Making, Topic};
use tidemill_bench::follow::Reading;
use tidemill_bench::report::Report;
use tidemill_bench::run::run;
use tidemill_bench::settings::{Phase, Readers, Settings};
use tidemill_bench::sink::{self, Manners, Misdeed};
use tidemill_bench::tally::Measure;
use tidemill_bench::watch::Watch;
use tidemill_bench::workload::Shape;
use tidemill_bench::{disk, search::Objective};
use tidemill_record::Codec;

fn start(manners: Manners) -> SocketAddr {
    let (ready, address) = channel();
    // Serves until the test's process ends.
    thread::spawn(move || {
        let tell = |bound| ready.send(bound).unwrap();
        sink::serve("127.0.0.1:0".parse().unwrap(), manners, tell).unwrap();
    });
    address.recv().unwrap()
}

fn forgetful() -> Topic {
    let manners = Manners { fetch_bytes: 256 * 1024, ..Manners::default() };
    Topic::of_one_leader("sink", start(manners))
}

/// A sink that keeps what it is given, and its topic.
fn keeping(partitions: u32, misdeed: Option<(Misdeed, u64)>) -> Topic {
    of_manners(partitions, Manners { misdeed, ..Manners::default() })
}

fn of_manners(partitions: u32, manners: Manners) -> Topic {
    let manners = Manners { keep_bytes: Some(64 << 20), ..manners };
    let address = start(manners).to_string();
    control::prepare(&address, "kept", &Making { partitions, ..Making::default() }).unwrap()
}

fn phase(arrival: Arrival, shape: Shape) -> Phase {
    let duration = Duration::from_millis(200);
    Phase { name: String::new(), duration, arrival, shape, objective: None }
}

/// One phase of this load.
fn settings_of(topic: Topic, arrival: Arrival) -> Settings {
    Settings {
        name: "test".to_owned(),
        topic,
        broker_pid: None,
        producers: 4,
        readers: None,
        read_back: false,
        shards: 1,
        phases: vec![phase(arrival, Shape::of_bytes(1024))],
        batch_bytes: 16 * 1024,
        linger: Duration::ZERO,
        in_flight_max: 5,
        acks: -1,
        warm_up: Duration::from_millis(50),
        drain: Duration::from_secs(20),
        reconnect: Duration::from_secs(5),
        until_caught_up: false,
    }
}

fn settings(topic: Topic) -> Settings {
    settings_of(topic, Arrival::Closed)
}

fn readers(sets: usize) -> Option<Readers> {
    let reading = Reading::default();
    Some(Readers { sets, connections: 2, from_start: false, reading })
}

fn report(settings: &Settings) -> Report {
    run(settings, None, &mut Watch::silent()).unwrap()
}

/// A closed loop keeps the server busy; everything sent is answered.
#[test]
fn a_closed_loop_is_answered_in_full() {
    let report = report(&settings(forgetful()));
    assert!(report.is_clean(), "{}", report.to_text());
    assert!(0 < report.whole().tally.acked_batches);
    let json = report.to_json();
    assert!(json.starts_with('{') && json.ends_with('}'), "{json}");
}

/// An open loop counts exactly what was due in its window, however the server does.
#[test]
fn an_open_loop_counts_every_record_that_was_due() {
    for arrival in [Arrival::Constant(1000.0), Arrival::Bursts(1000.0, 5)] {
        let report = report(&settings_of(forgetful(), arrival));
        assert!(report.is_clean(), "{}", report.to_text());
        // One arrival may fall on either side of each end of the window: both are cut at whole
        // nanoseconds.
        let counted = report.whole().tally.histogram(Measure::Ack).unwrap().len();
        assert!((195..=205).contains(&counted), "1000 per second for 0.2 s, not {counted}");
    }
}

/// Readers read what the server has in memory.
#[test]
fn readers_are_answered() {
    let reading = Reading { verify: false, ..Reading::default() };
    let readers = Some(Readers { sets: 2, connections: 1, from_start: true, reading });
    let drain = Duration::ZERO;
    let report = report(&Settings { producers: 0, readers, drain, ..settings(forgetful()) });
    assert!(report.is_clean(), "{}", report.to_text());
    assert!(256 * 1024 < report.whole().tally.read_bytes);
}

/// Every set of readers sees every record once and in order, of each shape, through partitions
/// that share connections and connections that share partitions.
#[test]
fn every_record_is_seen_by_every_reader() {
    let plain = Shape::of_bytes(100);
    let varied = Shape { value_bytes_max: 2000, keys: Some(7), codec: Codec::Lz4, ..plain };
    for (partitions, producers, shape) in [(1, 3, plain), (7, 2, varied), (3, 3, varied)] {
        let report = report(&Settings {
            producers,
            readers: readers(2),
            phases: vec![phase(Arrival::Poisson(20_000.0), shape)],
            linger: Duration::from_millis(2),
            shards: 2,
            ..settings(keeping(partitions, None))
        });
        assert!(report.is_clean(), "{}", report.to_text());
        assert!(!report.whole().tally.histogram(Measure::EndToEnd).unwrap().is_empty());
        let sent: u64 = report.ends.produced.iter().map(|produced| produced.sent).sum();
        assert_eq!(report.verdict.verified, 2 * sent);
    }
}

/// Slow and late readers see everything in the end; so does whoever reads afterwards.
#[test]
fn slow_late_and_later_readers_see_everything() {
    let delay = Duration::from_millis(100);
    let reading = Reading { rate: Some(200_000.0), delay, ..Reading::default() };
    let slow = Some(Readers { sets: 1, connections: 1, from_start: true, reading });
    let arrival = Arrival::Constant(5_000.0);
    for (readers, read_back) in [(slow, false), (None, true)] {
        let topic = keeping(2, None);
        let report = report(&Settings { readers, read_back, ..settings_of(topic, arrival) });
        assert!(report.is_clean(), "{}", report.to_text());
        let sent: u64 = report.ends.produced.iter().map(|produced| produced.sent).sum();
        assert_eq!((report.verdict.verified, report.verdict.lost), (sent, 0));
        assert!(1000 < sent);
    }
}

/// Each phase counts what was due in it, at its own rate and size; together they are the run.
#[test]
fn each_phase_has_its_own_figures() {
    let phases = vec![
        Phase { name: "low".to_owned(), ..phase(Arrival::Constant(500.0), Shape::of_bytes(100)) },
        Phase {
            name: "high".to_owned(),
            ..phase(Arrival::Bursts(5_000.0, 50), Shape::of_bytes(900))
        },
        Phase { name: "full".to_owned(), ..phase(Arrival::Closed, Shape::of_bytes(900)) },
    ];
    let topic = keeping(2, None);
    let report = report(&Settings { phases, producers: 2, readers: readers(1), ..settings(topic) });
    assert!(report.is_clean(), "{}", report.to_text());
    let counted: Vec<u64> =
        report.parts.iter().map(|p| p.tally.histogram(Measure::Ack).unwrap().len()).collect();
    assert!((98..=102).contains(&counted[0]), "{counted:?}");
    assert!((950..=1050).contains(&counted[1]), "{counted:?}");
    assert!(0 < counted[2], "as much as this machine can, whatever that is: {counted:?}");
    let whole = report.whole().tally.histogram(Measure::Ack).unwrap().len();
    assert_eq!(whole, counted.iter().sum::<u64>());
    let text = report.to_text();
    assert!(text.contains(" low:") && text.contains(" all phases:"), "{text}");
}

/// A broker that loses, repeats, damages or swaps a batch is found out, and told of as what it did.
#[test]
fn a_faulty_broker_is_found_out() {
    let told = [
        (Misdeed::Lose, "LOST: "),
        (Misdeed::Repeat, " came a second time"),
        (Misdeed::Damage, " was damaged"),
        (Misdeed::Swap, " came out of order"),
    ];
    for (misdeed, words) in told {
        for readers in [readers(1), None] {
            let report = report(&Settings {
                producers: 2,
                readers,
                read_back: true,
                drain: Duration::from_secs(5),
                ..settings_of(keeping(2, Some((misdeed, 50))), Arrival::Constant(5_000.0))
            });
            let text = report.to_text();
            assert!(!report.is_clean() && report.is_harmed(), "{misdeed:?}: {text}");
            assert!(report.remarks().join("\n").contains(words), "{misdeed:?}: {text}");
            let is_loss = misdeed == Misdeed::Lose;
            assert_eq!(0 < report.verdict.lost, is_loss, "{misdeed:?}: {text}");
            assert_eq!(report.ends.damage.count == 0, is_loss, "{misdeed:?}: {text}");
        }
    }
}

/// What a broker refused is neither lost nor part of the latencies, and both is said. The next run
/// finds those records gone, and cannot tell why: they were once told as lost.
#[test]
fn what_was_refused_is_told_apart() {
    let topic = keeping(2, Some((Misdeed::Refuse, 20)));
    let arrival = Arrival::Constant(5_000.0);
    let first = report(&Settings { readers: readers(1), ..settings_of(topic.clone(), arrival) });
    assert!(!first.is_clean() && !first.is_harmed(), "{}", first.to_text());
    assert!(0 < first.ends.refused, "{}", first.to_text());
    let text = first.to_text();
    assert!(text.contains("were refused: no latency counts them"), "{text}");
    let mut readers = readers(1).unwrap();
    readers.from_start = true;
    let second = report(&Settings {
        producers: 0,
        readers: Some(readers),
        until_caught_up: true,
        warm_up: Duration::ZERO,
        ..settings_of(topic, Arrival::Closed)
    });
    assert!(second.is_clean(), "{}", second.to_text());
    let gone = second.verdict.gone_of_others;
    assert!(0 < gone && gone <= first.ends.refused, "{}", second.to_text());
    assert!(second.to_text().contains("of earlier runs are not there"), "{}", second.to_text());
}

/// Whoever asks for quiet is left alone (KIP-219), what falls due meanwhile waits, and all of it is
/// said: a throttled run once looked like a slow broker, and the quiet was not kept.
#[test]
fn a_broker_that_asks_for_quiet_is_left_alone() {
    let throttle_ms = 100;
    let topic = of_manners(1, Manners { throttle_ms, ..Manners::default() });
    let report = report(&Settings {
        producers: 1,
        in_flight_max: 1,
        ..settings_of(topic, Arrival::Constant(1000.0))
    });
    let text = report.to_text();
    assert!(report.is_clean(), "{text}");
    assert!(text.contains("the broker throttled: "), "{text}");
    assert!(text.contains(" or was throttled"), "{text}");
    assert!(text.contains("the load was more than was taken"), "{text}");
    // One batch of 15 at a time, and then quiet.
    let batches = report.whole().tally.acked_batches;
    assert!(batches <= 3, "200 ms are enough for three batches, not {batches}: {text}");
    let slowest = report.whole().tally.histogram(Measure::Ack).unwrap().max();
    assert!(100_000_000 < slowest, "{text}");
}

/// A run whose window was over before anything was answered has no figures, and says so: 2,000
/// connections once took longer to make ready than three seconds, and the run was called clean.
#[test]
fn a_window_without_an_answer_is_no_result() {
    let duration = Duration::from_nanos(1);
    let phases = vec![Phase { duration, ..phase(Arrival::Closed, Shape::of_bytes(1024)) }];
    let report = report(&Settings { phases, ..settings(forgetful()) });
    assert!(!report.is_clean() && report.is_idle(), "{}", report.to_text());
    assert!(report.to_text().contains("nothing was answered"), "{}", report.to_text());
}

/// An objective that is out of reach is missed, one that is easy is met.
#[test]
fn objectives_are_judged() {
    let report = report(&settings_of(forgetful(), Arrival::Constant(1000.0)));
    let (phase, part) = report.phases().next().unwrap();
    let easy: Objective = "p90<10s,errors=0".parse().unwrap();
    let hard: Objective = "p50<1ns".parse().unwrap();
    // A busy machine may not keep up with a window this short, and then says so.
    let about_latency = |objective: &Objective| {
        let missed = objective.missed(&report, phase, part);
        missed.into_iter().filter(|text| !text.contains("records/s")).count()
    };
    assert_eq!((about_latency(&easy), about_latency(&hard)), (0, 1));
    // Two samples above a p99 are chance: it was once met by one.
    let unknown: Objective = "p99<10s".parse().unwrap();
    let missed = unknown.missed(&report, phase, part);
    assert!(missed.iter().any(|text| text.contains("too few for p99")), "{missed:?}");
}

/// The disk's floor writes, counts, and leaves nothing behind.
#[test]
fn the_disks_floor_cleans_up() {
    // Where the tests are built there is a real file system, one that takes direct writes.
    let dir = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("disk-floor");
    std::fs::create_dir_all(&dir).unwrap();
    let duration = Duration::from_millis(50);
    let plan = disk::Plan { write_bytes: 64 * 1024, depth: 2, duration };
    let outcome = disk::measure(&dir, plan).unwrap();
    assert!(0 < outcome.bytes);
    assert_eq!(std::fs::read_dir(&dir).unwrap().count(), 0);
    disk::measure(&dir, disk::Plan { write_bytes: 100, ..plan }).unwrap_err();
}
