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
use tidemill_bench::run::{Readers, Settings, run};
use tidemill_bench::sink::{self, Manners, Misdeed};
use tidemill_bench::tally::Measure;
use tidemill_bench::watch::Watch;
use tidemill_bench::workload::Shape;
use tidemill_bench::{disk, search::Objective};
use tidemill_record::{Codec, TopicId};

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
    Topic {
        name: "sink".to_owned(),
        id: TopicId::ZERO,
        leaders: vec![start(Manners { fetch_bytes: 256 * 1024, ..Manners::default() })],
        earliest: vec![0],
        latest: vec![0],
    }
}

/// A sink that keeps what it is given, and its topic.
fn keeping(partitions: u32, misdeed: Option<(Misdeed, u64)>) -> Topic {
    let manners = Manners { keep_bytes: Some(64 << 20), misdeed, ..Manners::default() };
    let address = start(manners).to_string();
    control::prepare(&address, "kept", &Making { partitions, ..Making::default() }).unwrap()
}

fn settings(topic: Topic) -> Settings {
    Settings {
        name: "test".to_owned(),
        topic,
        broker_pid: None,
        producers: 4,
        readers: None,
        read_back: false,
        shards: 1,
        arrival: Arrival::Closed,
        shape: Shape::of_bytes(1024),
        batch_bytes: 16 * 1024,
        linger: Duration::ZERO,
        in_flight_max: 5,
        acks: -1,
        warm_up: Duration::from_millis(50),
        duration: Duration::from_millis(200),
        drain: Duration::from_secs(20),
        until_caught_up: false,
    }
}

fn readers(sets: usize) -> Option<Readers> {
    let reading = Reading::default();
    Some(Readers { sets, connections: 2, from_start: false, reading })
}

fn report(settings: &Settings) -> Report {
    run(settings, &mut Watch::silent()).unwrap()
}

/// A closed loop keeps the server busy; everything sent is answered.
#[test]
fn a_closed_loop_is_answered_in_full() {
    let report = report(&settings(forgetful()));
    assert!(report.is_clean(), "{}", report.to_text());
    assert!(0 < report.tally.acked_batches);
    let json = report.to_json();
    assert!(json.starts_with('{') && json.ends_with('}'), "{json}");
}

/// An open loop counts exactly what was due in its window, however the server does.
#[test]
fn an_open_loop_counts_every_record_that_was_due() {
    for arrival in [Arrival::Constant(1000.0), Arrival::Bursts(1000.0, 5)] {
        let report = report(&Settings { arrival, ..settings(forgetful()) });
        assert!(report.is_clean(), "{}", report.to_text());
        // One arrival may fall on either side of each end of the window: both are cut at whole
        // nanoseconds.
        let counted = report.tally.histogram(Measure::Ack).unwrap().len();
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
    assert!(256 * 1024 < report.tally.read_bytes);
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
            arrival: Arrival::Poisson(20_000.0),
            shape,
            linger: Duration::from_millis(2),
            shards: 2,
            ..settings(keeping(partitions, None))
        });
        assert!(report.is_clean(), "{}", report.to_text());
        assert!(!report.tally.histogram(Measure::EndToEnd).unwrap().is_empty());
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
        let report = report(&Settings { readers, read_back, arrival, ..settings(topic) });
        assert!(report.is_clean(), "{}", report.to_text());
        let sent: u64 = report.ends.produced.iter().map(|produced| produced.sent).sum();
        assert_eq!((report.verdict.verified, report.verdict.lost), (sent, 0));
        assert!(1000 < sent);
    }
}

/// A broker that loses, repeats, damages or swaps a batch is found out.
#[test]
fn a_faulty_broker_is_found_out() {
    for misdeed in [Misdeed::Lose, Misdeed::Repeat, Misdeed::Damage, Misdeed::Swap] {
        for readers in [readers(1), None] {
            let report = report(&Settings {
                producers: 2,
                readers,
                read_back: true,
                arrival: Arrival::Constant(5_000.0),
                drain: Duration::from_secs(5),
                ..settings(keeping(2, Some((misdeed, 50))))
            });
            assert!(!report.is_clean(), "{misdeed:?}: {}", report.to_text());
        }
    }
}

/// A run whose window was over before anything was answered has no figures, and says so: 2,000
/// connections once took longer to make ready than three seconds, and the run was called clean.
#[test]
fn a_window_without_an_answer_is_no_result() {
    let duration = Duration::from_nanos(1);
    let report = report(&Settings { duration, ..settings(forgetful()) });
    assert!(!report.is_clean() && report.is_idle(), "{}", report.to_text());
    assert!(report.to_text().contains("nothing was answered"), "{}", report.to_text());
}

/// An objective that is out of reach is missed, one that is easy is met.
#[test]
fn objectives_are_judged() {
    let arrival = Arrival::Constant(1000.0);
    let report = report(&Settings { arrival, ..settings(forgetful()) });
    let easy: Objective = "p99<10s,errors=0".parse().unwrap();
    let hard: Objective = "p50<1ns".parse().unwrap();
    // A busy machine may not keep up with a window this short, and then says so.
    let about_latency = |objective: &Objective| {
        objective.missed(&report).into_iter().filter(|text| !text.contains("records/s")).count()
    };
    assert_eq!((about_latency(&easy), about_latency(&hard)), (0, 1));
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
