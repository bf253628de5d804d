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

/// Waits until a command's answer is what is awaited, while the load goes on; gives it back.
fn await_told(
    broker: &Broker,
    load: &mut Child,
    arguments: &[&str],
    is_it: impl Fn(&str) -> bool,
) -> String {
    let deadline = Instant::now() + SOON;
    loop {
        let told = told(broker, arguments);
        if is_it(&told) {
            return told;
        }
        assert_eq!(load.try_wait().unwrap(), None, "the load has ended");
        assert!(Instant::now() < deadline, "{arguments:?} tells no more than {told}");
    }
}

/// The same for a word.
fn await_word(broker: &Broker, load: &mut Child, arguments: &[&str], word: &str) -> String {
    await_told(broker, load, arguments, |told| told.contains(word))
}

/// A figure of one of the latencies in the line of JSON.
fn latency(told: &str, tag: &str, name: &str) -> Duration {
    let (_, rest) = told.split_once(&format!("\"{tag}_ns\":{{")).unwrap();
    let (all, _) = rest.split_once('}').unwrap();
    Duration::from_nanos(figure(all, name).unwrap())
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
const LOADS: [(&[&str], &[&str], &str); 5] = [
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
    (&["groups", "first", "-t", "first", "--times", "1000000"], &["group", "list"], "first-"),
    (&["e2e", "-t", "e2e", "--rate", "500", "--warm-up", "0"], &["topic", "list"], "e2e"),
];

/// A load of requests ended at the first connection that it lost, and told nothing of what it had
/// measured. It goes on with the broker that is back, and is not clean.
#[test]
fn a_load_goes_on_when_the_broker_is_back() {
    let mut broker = Broker::start("bench-goes-on", &["--shards", "2"]);
    for (arguments, list, word) in [LOADS[0], LOADS[2]] {
        let mut load = load(&broker, &[arguments, &["--seconds", "10"]].concat());
        await_word(&broker, &mut load, list, word);
        broker.kill();
        broker.run();
        let output = load.wait_with_output().unwrap();
        let told = text(&output);
        assert_eq!(output.status.code(), Some(1), "{told}");
        assert!(told.contains("connections were lost"), "{told}");
        assert!(!told.contains("not back within"), "{told}");
        let done = figure(&told, "commits").or_else(|| figure(&told, "committed"));
        assert!(0 < done.unwrap(), "{told}");
        let stuck = ["not at the end", "not done by the end"];
        assert!(
            !stuck.iter().any(|stuck| told.contains(stuck)),
            "it goes on after the kill: {told}"
        );
        let harm = ["not read", "too many", "aborted transaction"];
        assert!(!harm.iter().any(|harm| told.contains(harm)), "{told}");
    }
}

/// A load that was stopped left its topic and its groups behind, and told what it had under way as
/// failures of the broker. It ends as it would have, but for being shorter, and is not clean for
/// that alone.
#[test]
fn a_load_that_is_stopped_tells_its_figures_and_cleans_up() {
    let broker = Broker::start("bench-stopped", &["--shards", "2"]);
    for (arguments, list, word) in LOADS {
        let forever: &[&str] = match arguments.contains(&"--warm-up") {
            true => &["--seconds", "600"],
            false => &[],
        };
        let mut load = load(&broker, &[arguments, forever].concat());
        await_word(&broker, &mut load, list, word);
        interrupt(&load);
        let output = load.wait_with_output().unwrap();
        let told = text(&output);
        assert_eq!(output.status.code(), Some(1), "{told}");
        let only = r#""complaints":["it was stopped by a signal before its time"]"#;
        assert!(told.contains(only), "{told}");
    }
    let topics = told(&broker, &["topic", "list"]);
    let names = ["commits", "rebalance", "txn ", "first", "e2e"];
    assert!(names.iter().all(|name| !topics.contains(name)), "{topics}");
    let groups = told(&broker, &["group", "list"]);
    assert_eq!(groups.lines().count(), 1, "only the heading is left: {groups}");
}

/// How long the broker is away where that is to be seen in the figures.
const AWAY: Duration = Duration::from_secs(2);

/// What of that is to be seen at least: the load notices a little later that nobody is there.
const WAITED: Duration = Duration::from_secs(1);

/// What fell due while the broker was away was left out, and the longest commit was told as short.
/// Everything that fell due is accounted for, from when it was due. How far it is, is told on standard
/// error though there is no terminal.
#[test]
fn commits_that_fell_due_without_a_broker_count_from_then_on() {
    let mut broker = Broker::start("bench-commits-away", &["--shards", "1"]);
    let groups = ["groups", "commit", "-t", "away", "--groups", "5", "--rate", "20"];
    let pace = ["--warm-up", "0", "--seconds", "20"];
    let mut load = load(&broker, &[&groups[..], &pace].concat());
    let groups = await_word(&broker, &mut load, &["group", "list"], "away-");
    let group = groups.split_whitespace().find(|word| word.starts_with("away-")).unwrap();
    let describe = ["group", "describe", group, "--output", "json"];
    await_told(&broker, &mut load, &describe, |told| figure(told, "offset").is_some());
    broker.kill();
    std::thread::sleep(AWAY);
    broker.run();
    let output = load.wait_with_output().unwrap();
    let told = text(&output);
    assert_eq!(output.status.code(), Some(1), "{told}");
    assert!(WAITED <= latency(&told, "commit", "max"), "{told}");
    assert!(told.contains("5 connections were lost"), "{told}");
    let (due, waited) = (20 * 20 * 5, figure(&told, "waited").unwrap());
    assert!(5 * 15 <= waited, "a second of them waited: {told}");
    let (_, counted) = told.split_once("\"commit_ns\":").unwrap();
    let counted = figure(counted, "count").unwrap();
    assert!(due - 5 <= counted && counted <= due + 5, "{counted} of {due} are told: {told}");
    assert!(told.contains(" of 20 s  "), "{told}");
}

/// Groups stayed behind when the broker was killed in the middle, those with a member that was lost
/// and all after them, and nothing was said of it; what the consumer waited was left out.
#[test]
fn first_records_count_what_they_waited_and_no_group_is_left() {
    let mut broker = Broker::start("bench-first-away", &["--shards", "1"]);
    for protocol in ["classic", "consumer"] {
        let first = ["groups", "first", "-t", "away", "--times", "1000000", "--protocol", protocol];
        let mut load = load(&broker, &first);
        await_word(&broker, &mut load, &["group", "list"], "away-");
        broker.kill();
        std::thread::sleep(AWAY);
        broker.run();
        let known = told(&broker, &["group", "list"]).lines().count();
        let list = ["group", "list"];
        await_told(&broker, &mut load, &list, |told| known + 2 <= told.lines().count());
        interrupt(&load);
        let output = load.wait_with_output().unwrap();
        let said = text(&output);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(WAITED <= latency(&said, "first", "max"), "{said}");
        assert!(!said.contains("could not be deleted"), "{said}");
        let groups = told(&broker, &["group", "list"]);
        assert_eq!(groups.lines().count(), 1, "only the heading is left: {groups}");
    }
}

/// A load that was to abort everything, and did, was told as not clean: nothing was committed.
#[test]
fn a_load_that_aborts_everything_is_clean() {
    let broker = Broker::start("bench-aborts", &["--shards", "1"]);
    let all = ["txn", "-t", "aborts", "--abort-every", "1", "--seconds", "1", "--warm-up", "0"];
    let output = load(&broker, &all).wait_with_output().unwrap();
    let told = text(&output);
    assert!(output.status.success(), "{told}");
    assert_eq!(figure(&told, "committed"), Some(0), "{told}");
    assert!(0 < figure(&told, "aborted").unwrap(), "{told}");
}

/// Heartbeats of all members fell together, and changes came a fixed time after the last one: a
/// group was told to settle within milliseconds in which no member could have heard of anything. By
/// this seed the heartbeats of eight members leave no more than half of the interval without any, so
/// whenever one leaves or joins it takes the other half until all have heard of it. What the group
/// takes from then on is told besides.
#[test]
fn a_group_cannot_settle_before_its_members_have_heard_of_the_change() {
    let broker = Broker::start("bench-heartbeats", &["--shards", "1"]);
    let group = ["groups", "rebalance", "-t", "beats", "--partitions", "8", "--members", "8"];
    let pace = ["--rounds", "5", "--protocol", "classic", "--heartbeat", "600", "--seed", "1"];
    let output = load(&broker, &[group, pace].concat()).wait_with_output().unwrap();
    let told = text(&output);
    assert!(output.status.success(), "{told}");
    assert_eq!(figure(&told, "heartbeat_ms"), Some(600), "{told}");
    let heard = Duration::from_millis(290);
    // If the load itself is held up when a change is due, all heartbeats come at once right after it:
    // most changes are not like that.
    for change in ["leave", "join"] {
        let settled = latency(&told, change, "p50");
        assert!(heard <= settled, "{change}: settled in {settled:?}: {told}");
    }
    let longest = latency(&told, "leave", "max").max(latency(&told, "join", "max"));
    let asked = latency(&told, "asked", "min");
    // Both are told to three digits.
    assert!(asked + heard <= longest.mul_f64(1.01), "{asked:?} of {longest:?}: {told}");
}

fn interrupt(load: &Child) {
    let id = load.id().to_string();
    let done = Command::new("kill").args(["-INT", &id]).status().unwrap();
    assert!(done.success());
}
