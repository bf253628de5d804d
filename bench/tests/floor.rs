//! The load generator and the floor, each other's test: what is sent is answered and counted.
#![allow(clippy::unwrap_used)]

use std::net::SocketAddr;
use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;

use tidemill_bench::run::{Settings, run};
use tidemill_bench::{disk, floor};

fn floor_server() -> SocketAddr {
    let (ready, address) = channel();
    // Serves until the test's process ends.
    thread::spawn(move || {
        floor::serve("127.0.0.1:0".parse().unwrap(), 256 * 1024, |bound| {
            ready.send(bound).unwrap();
        })
        .unwrap();
    });
    address.recv().unwrap()
}

fn settings() -> Settings {
    Settings {
        name: "test".to_owned(),
        topic: "floor".to_owned(),
        leaders: vec![floor_server()],
        broker_pid: None,
        producers: 4,
        followers: 0,
        shards: 1,
        rate: None,
        batch_bytes: 16 * 1024,
        value_bytes: 1024,
        in_flight_max: 5,
        acks: -1,
        fetch_bytes: 256 * 1024,
        verify: false,
        warm_up: Duration::from_millis(50),
        duration: Duration::from_millis(200),
        until_caught_up: false,
    }
}

/// A closed loop keeps the server busy; everything sent is answered.
#[test]
fn a_closed_loop_is_answered_in_full() {
    let report = run(&settings()).unwrap();
    assert!(report.is_clean(), "{}", report.to_text());
    assert!(0 < report.outcome.produced_batches);
    let json = report.to_json();
    assert!(json.starts_with('{') && json.ends_with('}'), "{json}");
}

/// An open loop asks for exactly what was due in its window, however the server does.
#[test]
fn an_open_loop_counts_every_request_that_was_due() {
    let report = run(&Settings { rate: Some(1000.0), ..settings() }).unwrap();
    assert!(report.is_clean(), "{}", report.to_text());
    // One arrival may fall on either side of each end of the window: both are cut at whole
    // nanoseconds.
    let counted = report.outcome.latency.len();
    assert!((199..=201).contains(&counted), "1000 per second for 0.2 s, not {counted}");
}

/// Followers read what the server has in memory.
#[test]
fn followers_are_answered() {
    let report = run(&Settings { producers: 0, followers: 2, ..settings() }).unwrap();
    assert!(report.is_clean(), "{}", report.to_text());
    assert!(256 * 1024 < report.outcome.fetched_bytes);
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
