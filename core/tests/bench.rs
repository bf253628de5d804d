//! The load generator's loads of requests beside the real broker: when that goes away, and when the
//! load is to stop before its time.
#![allow(clippy::unwrap_used)]

mod process;

use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use process::Broker;

/// Whatever is awaited comes within this.
const SOON: Duration = Duration::from_secs(60);

fn tidemill(broker: &Broker, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidemill"));
    command.args(arguments).args(["-b", &broker.address()]);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn load(broker: &Broker, arguments: &[&str]) -> Child {
    let common = ["--delete-topic", "--output", "json"];
    tidemill(broker, &[&["bench"], arguments, &common].concat()).spawn().unwrap()
}

fn told(broker: &Broker, arguments: &[&str]) -> String {
    let output = tidemill(broker, arguments).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// Waits until a command's answer has a word, while the load goes on.
fn await_word(broker: &Broker, load: &mut Child, arguments: &[&str], word: &str) {
    let deadline = Instant::now() + SOON;
    while !told(broker, arguments).contains(word) {
        assert_eq!(load.try_wait().unwrap(), None, "the load has ended");
        assert!(Instant::now() < deadline, "{arguments:?} never told {word}");
    }
}

/// A number of the line of JSON.
fn figure(told: &str, name: &str) -> Option<u64> {
    let (_, rest) = told.split_once(&format!("\"{name}\":"))?;
    rest.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

fn text(output: &Output) -> String {
    let (out, err) = (&output.stdout, &output.stderr);
    format!("{}\n{}", String::from_utf8_lossy(out), String::from_utf8_lossy(err))
}

/// What each load is, and how it is seen that it is under way.
const LOADS: [(&[&str], &[&str], &str); 3] = [
    (
        &["groups", "commit", "-t", "commits", "--groups", "5", "--rate", "20", "--warm-up", "0"],
        &["group", "list"],
        "commits-",
    ),
    (
        &["groups", "rebalance", "-t", "rebalance", "--members", "3", "--rounds", "1000"],
        &["group", "list"],
        "rebalance-",
    ),
    (&["txn", "-t", "txn", "--producers", "2", "--warm-up", "0"], &["txn", "list"], "txn-"),
];

/// A load of requests ended at the first connection that it lost, and told nothing of what it had
/// measured. It goes on with the broker that is back, and is not clean.
#[test]
fn a_load_goes_on_when_the_broker_is_back() {
    let mut broker = Broker::start("bench-goes-on", &["--shards", "2"]);
    for (arguments, list, word) in [LOADS[0], LOADS[2]] {
        let mut load = load(&broker, &[arguments, &["--seconds", "4"]].concat());
        await_word(&broker, &mut load, list, word);
        broker.kill();
        broker.run();
        let output = load.wait_with_output().unwrap();
        let told = text(&output);
        assert_eq!(output.status.code(), Some(1), "{told}");
        assert!(told.contains("connections were lost"), "{told}");
        assert!(!told.contains("not back within"), "{told}");
        let done = figure(&told, "commits").or_else(|| figure(&told, "committed"));
        assert!(20 < done.unwrap(), "most of it came after the kill: {told}");
        let harm = ["were not read", "too many were read", "of aborted transactions"];
        assert!(!harm.iter().any(|harm| told.contains(harm)), "{told}");
    }
}

/// A load that was stopped left its topic and its groups behind. It ends as it would have, but for
/// being shorter.
#[test]
fn a_load_that_is_stopped_tells_its_figures_and_cleans_up() {
    let broker = Broker::start("bench-stopped", &["--shards", "2"]);
    for (arguments, list, word) in LOADS {
        let forever: &[&str] = match arguments.contains(&"rebalance") {
            true => &[],
            false => &["--seconds", "600"],
        };
        let mut load = load(&broker, &[arguments, forever].concat());
        await_word(&broker, &mut load, list, word);
        interrupt(&load);
        let output = load.wait_with_output().unwrap();
        let told = text(&output);
        assert_eq!(output.status.code(), Some(1), "{told}");
        assert!(told.contains("stopped by a signal"), "{told}");
    }
    let topics = told(&broker, &["topic", "list"]);
    assert!(["commits", "rebalance", "txn "].iter().all(|name| !topics.contains(name)), "{topics}");
    let groups = told(&broker, &["group", "list"]);
    assert_eq!(groups.lines().count(), 1, "only the heading is left: {groups}");
}

fn interrupt(load: &Child) {
    let id = load.id().to_string();
    let done = Command::new("kill").args(["-INT", &id]).status().unwrap();
    assert!(done.success());
}
