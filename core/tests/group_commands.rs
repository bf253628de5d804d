//! `tidemill group` of the real binary, each command run as a user runs it, against a real broker.
#![allow(clippy::unwrap_used)]

mod process;
mod wire;

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Output, Stdio};

use process::Broker;
use serde_json::Value;
use tidemill_client::{Admin, GroupOffsets};
use tidemill_net::kafka::ErrorCode;
use tidemill_net::kafka::consumer_group_heartbeat::ConsumerGroupHeartbeatRequest;
use tidemill_net::kafka::find_coordinator::FindCoordinatorRequest;
use wire::Client;

fn tidemill(broker: &Broker, arguments: &[&str], input: &str) -> Output {
    process::tidemill(&[arguments, &["-b", &broker.address()]].concat(), input)
}

/// Standard output of a command that must succeed.
fn output(broker: &Broker, arguments: &[&str], input: &str) -> String {
    process::output(&[arguments, &["-b", &broker.address()]].concat(), input)
}

fn json(broker: &Broker, arguments: &[&str]) -> Value {
    let with = [arguments, &["--output", "json"]].concat();
    serde_json::from_str(&output(broker, &with, "")).unwrap()
}

/// What a command that must fail says on standard error.
fn complaint(broker: &Broker, arguments: &[&str]) -> String {
    let output = tidemill(broker, arguments, "");
    assert!(!output.status.success(), "{arguments:?}");
    String::from_utf8(output.stderr).unwrap()
}

/// A group from its first commit to its end: it is listed, how far it is behind is told in records and
/// in seconds, its offsets are set, and it is deleted.
#[test]
fn a_group_is_listed_described_reset_and_deleted() {
    let broker = Broker::start("commands-group", &["--shards", "2"]);
    let run = |arguments: &[&str], input: &str| output(&broker, arguments, input);
    let told = |arguments: &[&str]| json(&broker, arguments);
    run(&["topic", "create", "words", "-p", "2"], "");
    run(&["produce", "-t", "words", "-p", "0"], "one\ntwo\nthree\n");
    let mut admin = Admin::open(&broker.address()).unwrap();
    let committed: GroupOffsets = [(("words".into(), 0), 1), (("words".into(), 1), 0)].into();
    admin.commit_group_offsets("readers", &committed).unwrap();

    let listed = told(&["group", "list"]);
    let expected = serde_json::json!([{"name": "readers", "state": "Empty", "type": "classic", "protocol_type": ""}]);
    assert_eq!(listed, expected);
    assert!(run(&["group", "list"], "").lines().any(|line| line.starts_with("readers  Empty")));

    let described = told(&["group", "describe", "readers"]);
    assert_eq!(described["state"], "Empty");
    let [behind, even] = &described["partitions"].as_array().unwrap()[..] else {
        panic!("{described}")
    };
    let of = |row: &serde_json::Value| (row["offset"].clone(), row["lag_records"].clone());
    assert_eq!(of(behind), (1.into(), 2.into()));
    let seconds = behind["lag_seconds"].as_f64().unwrap();
    assert!((0.0..60.0).contains(&seconds), "{seconds}");
    assert_eq!(of(even), (0.into(), 0.into()));
    assert_eq!(even["lag_seconds"], 0.0);
    let text = run(&["group", "describe", "readers"], "");
    assert!(text.starts_with("readers  Empty  0 members  type classic"), "{text}");
    assert!(text.contains("LAG_S") && text.contains("\n  behind by 2 records, "), "{text}");

    let reset = ["group", "reset", "readers", "--to", "end"];
    let dry = run(&[&reset[..], &["--dry-run"]].concat(), "");
    assert!(dry.contains("nothing was changed"), "{dry}");
    assert_eq!(admin.group_offsets("readers").unwrap(), committed);
    run(&reset, "");
    let after = admin.group_offsets("readers").unwrap();
    assert_eq!(after.values().copied().collect::<Vec<_>>(), [3, 0]);
    run(&["group", "reset", "readers", "-t", "words", "-p", "0", "--to", "-1"], "");
    let after = admin.group_offsets("readers").unwrap();
    assert_eq!(after.values().copied().collect::<Vec<_>>(), [2, 0]);

    let missing = ["group", "reset", "readers", "-t", "missing", "--to", "end"];
    let told_missing = complaint(&broker, &missing);
    assert!(told_missing.contains("UNKNOWN_TOPIC_OR_PARTITION"), "{told_missing}");

    assert_eq!(run(&["group", "delete", "readers"], ""), "deleted readers\n");
    assert!(complaint(&broker, &["group", "describe", "readers"]).contains("no group readers"));
    assert_eq!(told(&["group", "list"]), serde_json::json!([]));
    let again = complaint(&broker, &["group", "delete", "readers"]);
    assert!(again.contains("there is no such group") && again.contains("fix:"), "{again}");
    // What would help was told for the usual broker, where there may be none.
    assert!(again.contains(&format!("`tidemill group list -b {}`", broker.address())), "{again}");
}

/// A member of the newer protocol, which has a connection of its own.
fn join(broker: &Broker, group: &str, client: &'static str, topic: &str) -> Client {
    let mut wire = Client::open(broker);
    wire.name = client;
    let find = FindCoordinatorRequest {
        coordinator_keys: vec![group.to_owned()],
        ..FindCoordinatorRequest::default()
    };
    wire.ask(4, &find);
    let joins = ConsumerGroupHeartbeatRequest {
        group_id: group.to_owned(),
        member_id: format!("id-of-{client}"),
        rebalance_timeout_ms: 10_000,
        subscribed_topic_names: Some(vec![topic.to_owned()]),
        topic_partitions: Some(Vec::new()),
        ..ConsumerGroupHeartbeatRequest::default()
    };
    assert_eq!(wire.ask(1, &joins).error_code, ErrorCode::None);
    wire
}

/// A member of the classic protocol, which has printed the first record.
fn consume(broker: &Broker, group: &str, topic: &str) -> Child {
    let mut reader = Command::new(env!("CARGO_BIN_EXE_tidemill"))
        .args(["consume", "-t", topic, "-g", group, "-b", &broker.address()])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(reader.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "one\n");
    reader
}

/// Three members shared one partition, and only the one that read it was told, without its client's
/// name, and without a word on which of them was still of the classic protocol.
#[test]
fn members_that_read_nothing_and_the_protocol_of_each_are_described() {
    let settings = ["--shards", "1", "--set", "group.initial.rebalance.delay.ms=0"];
    let mut broker = Broker::start("commands-group-members", &settings);
    output(&broker, &["topic", "create", "words"], "");
    output(&broker, &["produce", "-t", "words"], "one\n");
    let mut classic = consume(&broker, "movers", "words");
    let describe = ["group", "describe", "movers"];
    let told = json(&broker, &describe);
    let member = &told["members"][0];
    assert_eq!((&told["type"], &told["epoch"]), (&"classic".into(), &Value::Null), "{told}");
    assert_eq!((&member["client"], &member["partitions"]), (&"tidemill-cli".into(), &1.into()));
    assert_eq!(member["assignment"], serde_json::json!({"words": [0]}));
    let text = output(&broker, &describe, "");
    assert!(text.contains("CLIENT") && text.contains("tidemill-cli"), "{text}");
    assert!(!text.contains("PROTOCOL"), "it is that of the group: {text}");

    let _newer = ["mover-1", "mover-2"].map(|client| join(&broker, "movers", client, "words"));
    let told = json(&broker, &describe);
    assert_eq!(told["type"], "consumer", "{told}");
    assert!(told["epoch"].is_i64() && told["assignment_epoch"].is_i64(), "{told}");
    let members = told["members"].as_array().unwrap().iter();
    let members: Vec<_> =
        members.map(|m| (m["client"].as_str().unwrap(), m["protocol"].as_str().unwrap())).collect();
    let expected = [("mover-1", "consumer"), ("mover-2", "consumer"), ("tidemill-cli", "classic")];
    assert_eq!(members, expected);

    let text = output(&broker, &describe, "");
    assert!(text.starts_with("movers  ") && text.contains("  3 members  type consumer"), "{text}");
    let protocols = "1 member speaks the classic protocol, 2 the consumer protocol";
    assert!(text.contains(protocols) && text.contains("  epoch "), "{text}");
    let members: Vec<&str> = text.lines().skip_while(|line| !line.starts_with("MEMBER")).collect();
    let heads: Vec<&str> = members[0].split_whitespace().collect();
    assert_eq!(heads, ["MEMBER", "CLIENT", "HOST", "PROTOCOL", "EPOCH", "PARTITIONS", "TARGET"]);
    let first: Vec<&str> = members[1].split_whitespace().take(4).collect();
    assert_eq!(first, ["id-of-mover-1", "mover-1", "127.0.0.1", "consumer"]);

    let part = |flag: &str| output(&broker, &[&describe[..], &[flag]].concat(), "");
    assert!(!part("--state").contains("MEMBER"));
    assert!(part("--members").contains("\nMEMBER") && !part("--members").contains("LAG_S"));
    assert!(part("--offsets").contains("LAG_S") && !part("--offsets").contains("PROTOCOL"));
    let told = json(&broker, &[&describe[..], &["--members"]].concat());
    assert!(told["partitions"].is_null() && told["members"].is_array(), "{told}");
    classic.kill().unwrap();
    classic.wait().unwrap();
    assert!(broker.stop().success());
}
