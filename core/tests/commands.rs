//! The commands of the real binary, each run as a user runs it, against a real broker.
//!
//! What is promised is what scripts rely on: what goes to standard output, in text and as JSON, and
//! the status of the process.
#![allow(clippy::unwrap_used)]

mod process;

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use process::{Broker, output, tidemill};

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
    let at = ["--bootstrap-server", &broker.address()];
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

/// What belongs to topics, brokers, groups and clients is set, shown and taken off by one command.
#[test]
fn settings_of_everything_are_set_shown_and_taken_off() {
    let broker = Broker::start("commands-config", &["--shards", "1"]);
    let at = ["--bootstrap-server", &broker.address()];
    let run = |arguments: &[&str]| output(&[arguments, &at[..]].concat(), "");
    run(&["topic", "create", "words"]);
    let cases = [
        (&["topic", "words"][..], "retention.ms", "60000"),
        (&["broker"], "log.retention.ms", "70000"),
        (&["broker", "1"], "max.connections", "500"),
        (&["group", "readers"], "consumer.session.timeout.ms", "50000"),
        (&["client", "loader"], "producer_byte_rate", "1000"),
        (&["user"], "consumer_byte_rate", "2000"),
    ];
    for (whose, name, value) in cases {
        let with =
            |command: &str, more: &[&str]| run(&[&["config", command][..], whose, more].concat());
        let set = format!("{name}={value}");
        let told = with("set", &["-X", &set]);
        assert!(told.contains(&format!("{name} is {value}")), "{told}");
        let shown = with("get", &[]);
        assert!(shown.contains(&format!("{name} = {value}\n")), "{whose:?}: {shown}");
        with("delete", &["-X", name]);
        assert!(!with("get", &[]).contains(name), "{whose:?}");
    }
    let all = run(&["config", "get", "group", "readers", "--all"]);
    assert!(all.contains("consumer.session.timeout.ms = 45000    [default]"), "{all}");
    let wrong = ["config", "set", "group", "readers", "-X", "consumer.session.timeout.ms=1"];
    assert!(complaint(&[&wrong[..], &at].concat()).contains("45000"));
    let nobody = [&["config", "set", "topic", "-X", "retention.ms=1"][..], &at].concat();
    assert_eq!(tidemill(&nobody, "").status.code(), Some(2));
    for name in ["nosuch.setting", "retention.ms=5"] {
        let wrong = ["config", "delete", "topic", "words", "-X", name];
        assert!(complaint(&[&wrong[..], &at].concat()).contains(name));
    }
    // It waited for half a minute.
    for wrong in [&["get", "broker", "7"][..], &["set", "broker", "7", "-X", "max.connections=5"]] {
        let told = complaint(&[&["config"], wrong, &at].concat());
        assert!(told.contains("there is no broker 7") && told.contains("there is 1"), "{told}");
    }
}

/// Nobody could tell which clients, groups or topics something is set of without knowing their names.
#[test]
fn what_is_set_is_listed_without_a_name() {
    let broker = Broker::start("commands-config-list", &["--shards", "2"]);
    let at = ["-b", &broker.address()];
    let run = |arguments: &[&str]| output(&[&["config"], arguments, &at[..]].concat(), "");
    let listed = |of: &str| run(&["get", of]);
    for of in ["topic", "broker", "group", "user", "client"] {
        assert_eq!(listed(of), format!("nothing is set of any {of}\n"));
    }
    for topic in ["plain", "words"] {
        output(&[&["topic", "create", topic][..], &at].concat(), "");
    }
    run(&["set", "topic", "words", "-X", "retention.ms=60000"]);
    assert_eq!(listed("topic"), "topic words: retention.ms = 60000\n");
    // Of a group that was never seen, too.
    run(&["set", "group", "readers", "-X", "consumer.session.timeout.ms=50000"]);
    assert_eq!(listed("group"), "group readers: consumer.session.timeout.ms = 50000\n");
    run(&["set", "client", "loader", "-X", "producer_byte_rate=1000"]);
    run(&["set", "client", "-X", "consumer_byte_rate=2000"]);
    let told = listed("client");
    assert!(told.contains("client loader: producer_byte_rate = 1000\n"), "{told}");
    let others = "clients without quotas of their own: consumer_byte_rate = 2000\n";
    assert!(told.contains(others) && told.lines().count() == 2, "{told}");
    assert_eq!(listed("user"), "nothing is set of any user\n");
    // Each shard is told to clients as a broker: what is set on one is set on all, and listed once.
    run(&["set", "broker", "-X", "log.retention.ms=70000"]);
    let told = run(&["set", "broker", "65537", "-X", "max.connections=500"]);
    assert_eq!(told, "broker 1 with all its shards: max.connections is 500\n");
    let told = listed("broker");
    assert_eq!(told, "all brokers: log.retention.ms = 70000\nbroker 1: max.connections = 500\n");
    let told = json(&[&["config", "get", "client", "--output", "json"], &at[..]].concat());
    let of_loader = told.as_array().unwrap().iter().find(|row| row["client"] == "loader");
    assert_eq!(of_loader.unwrap()["value"], "1000", "{told}");
}

/// A misspelled name was called one that cannot be changed, or just unknown; a topic that is not there
/// was to be made.
#[test]
fn a_name_that_nothing_has_is_told_with_the_one_that_was_meant() {
    let broker = Broker::start("commands-names", &["--shards", "1"]);
    let at = ["-b", &broker.address()];
    let complaint = |arguments: &[&str]| complaint(&[arguments, &at[..]].concat());
    output(&[&["topic", "create", "words"][..], &at].concat(), "");
    for (of, wrong, meant) in [
        (&["broker"][..], "log.retention.mss", "log.retention.ms"),
        (&["broker", "1"], "max.conections", "max.connections"),
        (&["group", "readers"], "consumer.sesion.timeout.ms", "consumer.session.timeout.ms"),
        (&["client", "loader"], "producer_byterate", "producer_byte_rate"),
        (&["topic", "words"], "retention.mss", "retention.ms"),
    ] {
        let setting = format!("{wrong}=5");
        let told = complaint(&[&["config", "set"], of, &["-X", &setting]].concat());
        assert!(told.contains(wrong) && told.contains(&format!("did you mean {meant}?")), "{told}");
    }
    let told = complaint(&["config", "set", "broker", "-X", "nonsense=1"]);
    let list = format!("`tidemill config get broker 1 --all -b {}`", at[1]);
    assert!(told.contains("there is no setting nonsense") && told.contains(&list), "{told}");
    let told = complaint(&["config", "set", "broker", "-X", "num.partitions=3"]);
    assert!(told.contains("can be changed while a node runs"), "{told}");

    let reset = ["group", "reset", "readers", "--to", "beginning", "-t"];
    for command in [&["config", "get", "topic"][..], &["topic", "describe"], &reset] {
        let told = complaint(&[command, &["wordz"]].concat());
        assert!(told.contains("no topic wordz") && told.contains("did you mean words?"), "{told}");
        let told = complaint(&[command, &["zzz"]].concat());
        assert!(told.contains(&format!("`tidemill topic list -b {}`", at[1])), "{told}");
    }
}

/// A mistyped name became a topic without a word, even if nothing was sent to it.
#[test]
fn a_topic_is_made_with_its_first_record_and_that_is_said() {
    let broker = Broker::start("commands-first-record", &["--shards", "1"]);
    let at = ["-b", &broker.address()];
    let run = |arguments: &[&str], input: &str| {
        let output = tidemill(&[arguments, &at[..]].concat(), input);
        assert!(output.status.success());
        let told = String::from_utf8(output.stderr).unwrap();
        // A broker that is held up is waited for, which is said, too.
        told.split_inclusive('\n').filter(|line| !line.contains("tidemill: waiting: ")).collect()
    };
    let told: String = run(&["produce", "-t", "nope"], "");
    assert!(told.contains("nothing was sent, and no topic nope was made"), "{told}");
    let listed = json(&[&["topic", "list", "--output", "json"], &at[..]].concat());
    assert_eq!(listed, serde_json::json!([]));
    let told = run(&["produce", "-t", "words"], "one\ntwo\n");
    assert_eq!(told, "tidemill: there was no topic words: it is made, with 1 partition\n");
    assert_eq!(run(&["produce", "-t", "words"], ""), "");
    let read = output(&[&["consume", "-t", "words", "-e"], &at[..]].concat(), "");
    assert_eq!(read, "one\ntwo\n");

    // Kafka takes it, but who sends to such a topic waits for what cannot come.
    let told = run(&["topic", "create", "safe", "-X", "min.insync.replicas=2"], "");
    let warning = "min.insync.replicas is 2, but safe has 1 replica";
    assert!(told.contains(warning), "{told}");
    for command in [["topic", "configure", "safe"], ["config", "set", "topic"]] {
        let named = if command[0] == "config" { &["safe"][..] } else { &[] };
        let told = run(&[&command, named, &["-X", "min.insync.replicas=2"]].concat(), "");
        assert!(told.contains(warning), "{told}");
    }
    assert_eq!(run(&["topic", "configure", "safe", "-X", "min.insync.replicas=1"], ""), "");
}

/// Settings are set, deleted, appended to and subtracted from; all of a command or nothing. A
/// misspelled one is told with the one that was meant.
#[test]
fn a_topic_is_configured() {
    let broker = Broker::start("commands-configure", &["--shards", "1"]);
    let address = broker.address();
    let at = ["--bootstrap-server", address.as_str()];
    output(&[&["topic", "create", "words"][..], &at[..]].concat(), "");
    let configure = ["topic", "configure", "words", at[0], at[1]];
    let complaint = |arguments: &[&str]| complaint(&[&configure, arguments].concat());
    let output = |arguments: &[&str]| output(&[&configure, arguments].concat(), "");
    let configs = || {
        let describe = [&["topic", "describe", "words", "--output", "json"][..], &at[..]].concat();
        json(&describe)["configs"].clone()
    };
    let set = ["-X", "retention.ms=60000", "--set", "segment.bytes=1048576"];
    assert_eq!(output(&set), "words: retention.ms is 60000\nwords: segment.bytes is 1048576\n");
    let both = serde_json::json!({"retention.ms": "60000", "segment.bytes": "1048576"});
    assert_eq!(configs(), both);

    let told = complaint(&["--delete", "segment.bytes", "-X", "retention.ms=soon"]);
    assert!(told.contains("INVALID_CONFIG") && told.contains("soon"), "{told}");
    assert_eq!(configs(), both, "all or nothing");

    output(&["--delete", "segment.bytes", "--append", "cleanup.policy=delete"]);
    let now = serde_json::json!({"retention.ms": "60000", "cleanup.policy": "delete"});
    assert_eq!(configs(), now);
    let told = complaint(&["--subtract", "retention.ms=60000"]);
    assert!(told.contains("is not a list"), "{told}");
    let told = complaint(&["-X", "retention.sm=1"]);
    assert!(told.contains("did you mean retention.ms?"), "{told}");
    let told = complaint(&[]);
    assert!(told.contains("--subtract"), "{told}");
    assert_eq!(tidemill(&configure, "").status.code(), Some(2));
}

/// Trimming deletes the records before a place, which is said as for reading, in the partitions
/// that are named, or in all. What does not exist yet cannot be kept.
#[test]
fn a_topic_is_trimmed() {
    let broker = Broker::start("commands-trim", &["--shards", "2"]);
    let address = broker.address();
    let at = ["--bootstrap-server", address.as_str()];
    output(&[&["topic", "create", "words", "-p", "2"][..], &at[..]].concat(), "");
    for partition in ["0", "1"] {
        let produce = [&["produce", "-t", "words", "-p", partition][..], &at[..]].concat();
        output(&produce, "a\nb\nc\nd\ne\n");
    }
    let trim = ["topic", "trim", "words", at[0], at[1]];
    let trimmed = |arguments: &[&str]| output(&[&trim, arguments].concat(), "");
    let complaint = |arguments: &[&str]| complaint(&[&trim, arguments].concat());
    let told = trimmed(&["-p", "1", "--before", "2"]);
    assert_eq!(told, "PARTITION  START\n1          2\n");
    let consume = [&["consume", "-t", "words", "-e", "-f", "%p%o%s "][..], &at[..]].concat();
    assert_eq!(sorted(&output(&consume, "")), "00a 01b 02c 03d 04e 12c 13d 14e");

    // Whatever is gone already is no reason to fail; it would be in a script that is run again.
    let told = json(&[&trim[..], &["--before", "1", "--output", "json"]].concat());
    assert_eq!(
        told,
        serde_json::json!([{"partition": 0, "start_offset": 1}, {"partition": 1, "start_offset": 2}])
    );
    let told = complaint(&["--before", "6"]);
    assert!(told.contains("has no offset 6") && told.contains("1 to 4"), "{told}");
    trimmed(&["--before", "-1"]);
    assert_eq!(sorted(&output(&consume, "")), "04e 14e");
    trimmed(&["-p", "0", "--before", "end"]);
    assert_eq!(output(&consume, ""), "14e ");
    trimmed(&["--before", "s@4000000000000"]);
    assert_eq!(output(&consume, ""), "", "none is that young");
    let told = complaint(&["-p", "7", "--before", "end"]);
    assert!(told.contains("partitions 0 to 1, not 7"), "{told}");
}

/// Words in their order, whatever partition came first.
fn sorted(text: &str) -> String {
    let mut words: Vec<&str> = text.split_whitespace().collect();
    words.sort_unstable();
    words.join(" ")
}

/// Nobody at the address, or somebody else: told at once, with the way out.
#[test]
fn a_broker_that_is_not_there_is_told_at_once() {
    let produce = ["produce", "-t", "t", "-b", "127.0.0.1:1"];
    let consume = ["consume", "-t", "t", "-b", "127.0.0.1:1"];
    for arguments in [&["topic", "list", "-b", "127.0.0.1:1"][..], &produce, &consume] {
        let told = complaint(arguments);
        assert!(told.contains("cannot reach a broker at 127.0.0.1:1"), "{told}");
        assert!(told.contains("refused") && told.contains("tidemill start"), "{told}");
    }
    let other = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = other.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        for stream in other.incoming() {
            let _ = stream.unwrap().write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n");
        }
    });
    let told = complaint(&["topic", "list", "-b", &address]);
    assert!(told.contains("is not Kafka's protocol"), "{told}");
}

/// Lines are stored once and in order, though the broker is killed and comes back while they are
/// typed; who types is told what is waited for.
#[test]
fn typed_lines_are_stored_once_across_kill_9() {
    let mut broker = Broker::start("commands-kill", &["--shards", "1"]);
    let address = broker.address();
    let at = ["--bootstrap-server", address.as_str()];
    output(&[&["topic", "create", "words"][..], &at[..]].concat(), "");
    let mut typing = Command::new(env!("CARGO_BIN_EXE_tidemill"))
        .args([&["produce", "-t", "words"][..], &at[..]].concat())
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut keyboard = typing.stdin.take().unwrap();
    let mut told = BufReader::new(typing.stderr.take().unwrap()).lines();
    for round in 0..3 {
        writeln!(keyboard, "{round} before").unwrap();
        let count = (2 * round + 1).to_string();
        let stored = output(&[&["consume", "-t", "words", "-c", &count], &at[..]].concat(), "");
        assert!(stored.ends_with(&format!("{round} before\n")), "{stored}");
        broker.kill();
        writeln!(keyboard, "{round} without").unwrap();
        if round == 0 {
            let mut waiting = told.by_ref().map(Result::unwrap);
            assert!(waiting.any(|line| line.contains("waiting: cannot send records")));
        }
        broker.run();
    }
    drop(keyboard);
    assert!(typing.wait().unwrap().success(), "{:?}", told.collect::<Vec<_>>());
    let read = output(&[&["consume", "-t", "words", "-e"][..], &at[..]].concat(), "");
    let expected = ["0 before", "0 without", "1 before", "1 without", "2 before", "2 without", ""];
    assert_eq!(read, expected.join("\n"));
}

/// Lines go in as records and come out in the words of the format; what lies on disk can be
/// looked into once the broker has stopped.
#[test]
fn records_go_in_come_out_and_are_seen_on_disk() {
    let mut broker = Broker::start("commands-records", &["--shards", "1"]);
    let address = broker.address();
    let at = ["--bootstrap-server", address.as_str()];
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
    // What a shell makes of *.log; and a directory is no damaged file.
    let both = output(&["inspect", "segment", segment, segment], "");
    assert_eq!(both.matches(&format!("{segment}\n")).count(), 2, "{both}");
    let told = complaint(&["inspect", "segment", data.to_str().unwrap()]);
    assert!(told.contains("is a directory") && told.contains("name a file in it"), "{told}");

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

/// A group goes on where it left off: behind what was printed, not behind what was received.
#[test]
fn a_group_goes_on_behind_what_was_printed() {
    let quick = ["--shards", "1", "--set", "group.initial.rebalance.delay.ms=100"];
    let broker = Broker::start("commands-groups", &quick);
    let address = broker.address();
    let at = ["--bootstrap-server", address.as_str()];
    output(&[&["topic", "create", "words"][..], &at[..]].concat(), "");
    output(&[&["produce", "-t", "words"][..], &at[..]].concat(), "one\ntwo\nthree\nfour\n");
    let read = |more: &[&str]| {
        output(&[&["consume", "-t", "words", "-g", "readers"][..], more, &at[..]].concat(), "")
    };
    assert_eq!(read(&["-c", "2"]), "one\ntwo\n");
    assert_eq!(read(&["-e"]), "three\nfour\n");
    assert_eq!(read(&["-e"]), "");
    output(&[&["produce", "-t", "words"][..], &at[..]].concat(), "five\n");
    assert_eq!(read(&["-e", "-o", "end"]), "five\n", "the group was here before");
    let late = ["consume", "-t", "words", "-g", "late", "-e", "-o", "end"];
    assert_eq!(output(&[&late[..], &at[..]].concat(), ""), "", "all is older than it");
    let offset = ["consume", "-t", "words", "-g", "readers", "-o", "3"];
    assert!(complaint(&[&offset[..], &at[..]].concat()).contains("fix:"));
}

/// Ctrl-C is the only way to end a reading without an end: what was printed is committed, and the
/// group is left. Both were missing: the next one printed the same again, after waiting for the dead.
#[test]
fn ctrl_c_commits_what_was_printed_and_leaves_the_group() {
    let quick = ["--shards", "1", "--set", "group.initial.rebalance.delay.ms=100"];
    let broker = Broker::start("commands-ctrl-c", &quick);
    let address = broker.address();
    let at = ["--bootstrap-server", address.as_str()];
    output(&[&["topic", "create", "words"][..], &at[..]].concat(), "");
    output(&[&["produce", "-t", "words"][..], &at[..]].concat(), "one\ntwo\n");
    for signal in ["INT", "TERM"] {
        let mut reader = Command::new(env!("CARGO_BIN_EXE_tidemill"))
            .args([&["consume", "-t", "words", "-g", signal], &at[..]].concat())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut printed = BufReader::new(reader.stdout.take().unwrap());
        for expected in ["one\n", "two\n"] {
            let mut line = String::new();
            printed.read_line(&mut line).unwrap();
            assert_eq!(line, expected);
        }
        let pid = reader.id().to_string();
        assert!(
            Command::new("kill").args([&format!("-{signal}"), &pid]).status().unwrap().success()
        );
        assert!(reader.wait().unwrap().success());
        let told = json(&[&["group", "describe", signal, "--output", "json"], &at[..]].concat());
        assert_eq!(told["state"], "Empty", "{told}");
        assert_eq!(told["partitions"][0]["offset"], 2, "{told}");
    }
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
    let at = ["--bootstrap-server", address.as_str()];
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
