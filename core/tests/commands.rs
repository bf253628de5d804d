//! The commands of the real binary, each run as a user runs it, against a real broker.
//!
//! What is promised is what scripts rely on: what goes to standard output, in text and as JSON, and
//! the status of the process.
#![allow(clippy::unwrap_used)]

mod process;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use process::Broker;

fn tidemill(arguments: &[&str], input: &str) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_tidemill"))
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

/// Standard output of a command that must succeed.
fn output(arguments: &[&str], input: &str) -> String {
    let output = tidemill(arguments, input);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {errors}");
    String::from_utf8(output.stdout).unwrap()
}

fn json(arguments: &[&str]) -> serde_json::Value {
    serde_json::from_str(&output(arguments, "")).unwrap()
}

/// What a command that must fail says on standard error.
fn complaint(arguments: &[&str]) -> String {
    let output = tidemill(arguments, "");
    assert!(!output.status.success(), "{arguments:?}");
    assert!(output.stdout.is_empty(), "a failure is no output");
    String::from_utf8(output.stderr).unwrap()
}

/// Files below `dir` whose path holds `part`, the largest first.
fn files(dir: &Path, part: &str) -> Vec<PathBuf> {
    let (mut dirs, mut found) = (vec![dir.to_owned()], Vec::new());
    while let Some(dir) = dirs.pop() {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                dirs.push(path);
            } else if path.to_string_lossy().contains(part) {
                found.push(path);
            }
        }
    }
    found.sort_by_key(|path| std::cmp::Reverse(path.metadata().unwrap().len()));
    found
}

/// A topic from its making to its end, in text and as JSON.
#[test]
fn topics_are_made_listed_described_and_deleted() {
    let broker = Broker::start("commands-topics", &["--shards", "2"]);
    let at = ["--bootstrap", &broker.address()];
    let run = |arguments: &[&str]| output(&[arguments, &at[..]].concat(), "");
    let made = run(&["topic", "create", "words", "-p", "3", "-X", "retention.ms=60000"]);
    assert_eq!(made, "created words with 3 partitions\n");
    let again = [&["topic", "create", "words"][..], &at[..]].concat();
    assert!(complaint(&again).contains("TOPIC_ALREADY_EXISTS"));

    assert!(run(&["topic", "list"]).lines().any(|line| line.starts_with("words")));
    let listed = json(&[&["topic", "list", "--output", "json"][..], &at[..]].concat());
    assert_eq!(listed[0]["name"], "words");
    assert_eq!(listed[0]["partitions"], 3);

    let described =
        json(&[&["topic", "describe", "words", "--output", "json"][..], &at[..]].concat());
    assert_eq!(described["partitions"].as_array().unwrap().len(), 3);
    assert!(described["configs"].to_string().contains("60000"), "{described}");

    run(&["topic", "delete", "words"]);
    let listed = json(&[&["topic", "list", "--output", "json"][..], &at[..]].concat());
    assert_eq!(listed, serde_json::json!([]));
    let gone = [&["topic", "delete", "words"][..], &at[..]].concat();
    assert!(complaint(&gone).contains("UNKNOWN_TOPIC_OR_PARTITION"));
}

/// Lines go in as records and come out in the words of the format; what lies on disk can be
/// looked into once the broker has stopped.
#[test]
fn records_go_in_come_out_and_are_seen_on_disk() {
    let mut broker = Broker::start("commands-records", &["--shards", "1"]);
    let address = broker.address();
    let at = ["--bootstrap", address.as_str()];
    output(&[&["topic", "create", "words"][..], &at[..]].concat(), "");
    let produce = [&["produce", "-t", "words", "-K", ":"][..], &at[..]].concat();
    output(&produce, "a:one\nb:two\n");

    let consume = ["consume", "-t", "words", "-e", "-f", "%t/%p/%o %k=%s\\n"];
    let read = output(&[&consume[..], &at[..]].concat(), "");
    assert_eq!(read, "words/0/0 a=one\nwords/0/1 b=two\n");
    let consume = ["consume", "-t", "words", "-c", "1", "-o", "1", "--output", "json"];
    let read = json(&[&consume[..], &at[..]].concat());
    assert_eq!(
        (&read["offset"], &read["key"], &read["payload"]),
        (&1.into(), &"b".into(), &"two".into())
    );

    assert!(broker.stop().success(), "{}", broker.log());
    let data = broker.data_dir();
    let segment = &files(&data.join("partitions"), ".log")[0];
    let segment = segment.to_str().unwrap();
    let batches = output(&["inspect", "segment", segment, "--output", "json"], "");
    let first: serde_json::Value = serde_json::from_str(batches.lines().next().unwrap()).unwrap();
    assert_eq!(first["base_offset"], 0, "{first}");
    assert!(output(&["inspect", "segment", segment, "--records"], "").contains("two"));

    let metadata = &files(&data.join("metadata"), ".log")[0];
    let entries = output(&["inspect", "metadata", metadata.to_str().unwrap()], "");
    assert!(entries.contains("words"), "{entries}");
    let journal = files(&data.join("journal"), ".journal");
    let told = journal.iter().any(|file| {
        let told =
            tidemill(&["inspect", "journal", file.to_str().unwrap(), "--output", "json"], "");
        told.status.success() && !told.stdout.is_empty()
    });
    assert!(told, "a journal file has windows");
}

/// A file of another kind, a place where nothing is, an address that is none: each is told as what
/// it is, with what would help.
#[test]
fn what_cannot_be_looked_into_is_told_with_its_cause() {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let text = dir.join("commands-no-journal.journal");
    std::fs::write(&text, "root:x:0:0\n").unwrap();
    let refused = tidemill(&["inspect", "journal", text.to_str().unwrap()], "");
    assert_eq!(refused.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("is no journal"));
    let told = complaint(&["inspect", "segment", dir.join("commands-nothing").to_str().unwrap()]);
    assert!(told.contains("No such file"), "{told}");
    let told = complaint(&["topic", "list", "-b", "one:1,two:2"]);
    assert!(told.contains("one broker as HOST or HOST:PORT"), "{told}");
}

/// Reading from where nothing will be for long, and sending to a topic nobody makes, end soon and
/// say what there is.
#[test]
fn what_is_not_there_is_told_at_once() {
    let broker = Broker::start(
        "commands-missing",
        &["--shards", "1", "--set", "auto.create.topics.enable=false"],
    );
    let address = broker.address();
    let at = ["--bootstrap", address.as_str()];
    output(&[&["topic", "create", "words"][..], &at[..]].concat(), "");
    output(&[&["produce", "-t", "words"][..], &at[..]].concat(), "one\ntwo\n");
    let beyond = complaint(&[&["consume", "-t", "words", "-o", "7", "-e"][..], &at[..]].concat());
    assert!(beyond.contains("has no offset 7") && beyond.contains("0 to 1"), "{beyond}");

    let missing = complaint(&[&["produce", "-t", "other"][..], &at[..]].concat());
    assert!(missing.contains(&format!("tidemill topic create other -b {address}")), "{missing}");

    let described =
        json(&[&["topic", "describe", "words", "--output", "json"][..], &at[..]].concat());
    let directory = described["directory"].as_str().unwrap();
    assert!(broker.data_dir().join("partitions").join(directory).is_dir(), "{directory}");
}

/// A misspelled name is an error that tells the right one; nothing starts with half a config.
#[test]
fn a_misspelled_setting_is_told_with_the_one_that_was_meant() {
    let told = complaint(&["config", "--set", "num.partition=3"]);
    assert!(told.contains("did you mean num.partitions?"), "{told}");

    let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join("misspelled.toml");
    std::fs::write(&file, "log.retention.sm = 1000\n").unwrap();
    let told = complaint(&["start", "--config", file.to_str().unwrap()]);
    assert!(told.contains("line 1") && told.contains("log.retention.ms?"), "{told}");

    let settings = json(&["config", "--set", "num.partitions=7", "--output", "json"]);
    let partitions = settings.as_array().unwrap().iter().find(|s| s["name"] == "num.partitions");
    assert_eq!(partitions.unwrap()["value"], 7);
}
