//! Apache Kafka's own command-line tools: the strictest readers of the protocol, and of the
//! segments we write.

use std::path::PathBuf;
use std::process::Command;

use crate::process::Broker;
use crate::program::{kept_dir, output, output_of, own_file};

/// The class path of the tools; fetched once through Maven and kept.
fn class_path() -> String {
    let dir = kept_dir("kafka-tools");
    let complete = dir.join("complete");
    if !complete.exists() {
        let pom = own_file("kafka-tools/pom.xml");
        let jars = format!("-DoutputDirectory={}", dir.display());
        output(
            Command::new("mvn")
                .args(["-q", "-B", "dependency:copy-dependencies", "-DincludeScope=runtime"])
                .arg(jars)
                .arg("-f")
                .arg(pom),
        );
        std::fs::write(complete, b"").unwrap();
    }
    format!("{}/*", dir.display())
}

fn tool(class: &str, arguments: &[&str]) -> Command {
    let mut java = Command::new("java");
    java.args(["-Xmx256m", "-cp", &class_path(), class]).args(arguments);
    java
}

fn text(command: &mut Command) -> String {
    String::from_utf8(output(command)).unwrap()
}

/// What an operator does with a new cluster on the first day.
#[test]
fn kafkas_own_tools_work() {
    let broker = Broker::start("kafka-tools-broker", &["--shards", "2"]);
    let address = broker.address();
    let server = ["--bootstrap-server", &address];
    let with = |arguments: &[&str]| {
        [&server, arguments].concat().iter().map(|s| (*s).to_owned()).collect::<Vec<_>>()
    };
    let run = |class: &str, arguments: &[&str]| {
        let arguments = with(arguments);
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        text(&mut tool(class, &arguments))
    };
    let topics = "org.apache.kafka.tools.TopicCommand";
    let configs = "kafka.admin.ConfigCommand";

    run(topics, &["--create", "--topic", "first", "--partitions", "3"]);
    assert!(run(topics, &["--list"]).lines().any(|line| line == "first"));
    let told = run(topics, &["--describe", "--topic", "first"]);
    assert!(told.contains("PartitionCount: 3"), "{told}");

    let console = "org.apache.kafka.tools.ConsoleProducer";
    let lines: String = (0..1000).map(|n| format!("line {n}\n")).collect();
    let arguments = with(&["--topic", "first"]);
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    output_of(&mut tool(console, &arguments), lines.as_bytes());
    let offsets = run("org.apache.kafka.tools.GetOffsetShell", &["--topic", "first"]);
    let total: u64 =
        offsets.lines().filter_map(|line| line.rsplit(':').next()?.parse::<u64>().ok()).sum();
    assert_eq!(total, 1000, "{offsets}");

    let entity = ["--entity-type", "topics", "--entity-name", "first"];
    run(configs, &[&entity[..], &["--alter", "--add-config", "retention.ms=3600000"]].concat());
    let told = run(configs, &[&entity[..], &["--describe"]].concat());
    assert!(told.contains("retention.ms=3600000"), "{told}");

    run(topics, &["--alter", "--topic", "first", "--partitions", "5"]);
    assert!(run(topics, &["--describe", "--topic", "first"]).contains("PartitionCount: 5"));
    run(topics, &["--delete", "--topic", "first"]);
    assert!(!run(topics, &["--list"]).lines().any(|line| line == "first"));
}

/// Kafka's own load generator is served, and what it wrote lies in segments that Kafka's own log
/// dump reads record by record without complaint.
#[test]
fn kafkas_log_dump_reads_our_segments() {
    let mut broker =
        Broker::start("kafka-dump-broker", &["--shards", "1", "--set", "log.segment.bytes=4MiB"]);
    let address = broker.address();
    let properties = format!("bootstrap.servers={address}");
    let load = ["--topic", "load", "--num-records", "100000", "--record-size", "200"];
    let more = ["--throughput", "-1", "--producer-props", &properties, "acks=all", "linger.ms=5"];
    let told = text(&mut tool(
        "org.apache.kafka.tools.ProducerPerformance",
        &[&load[..], &more[..]].concat(),
    ));
    assert!(told.contains("100000 records sent"), "{told}");
    assert!(broker.stop().success());

    let segments = segments_of(&broker);
    assert!(2 < segments.len(), "20 MB in segments of 4 MiB");
    let mut records = 0;
    // The last one is still growing: its end is zeros, which Kafka would not have written.
    for segment in &segments[..segments.len() - 1] {
        let path = segment.to_string_lossy().into_owned();
        let told = text(&mut tool(
            "org.apache.kafka.tools.DumpLogSegments",
            &["--deep-iteration", "--print-data-log", "--files", &path],
        ));
        let complaint = ["isvalid: false", "Exception", "mismatch", "corrupt", "Found"];
        let found = told.lines().find(|line| complaint.iter().any(|word| line.contains(word)));
        assert_eq!(found, None, "{path}");
        records += told.lines().filter(|line| line.starts_with("| offset: ")).count();
    }
    assert!(50_000 < records, "{records} records in sealed segments");
}

/// The only partition's segments, oldest first.
fn segments_of(broker: &Broker) -> Vec<PathBuf> {
    let mut waiting = vec![broker.data_dir().join("partitions")];
    let mut found = Vec::new();
    while let Some(dir) = waiting.pop() {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                waiting.push(path);
            } else if path.extension().is_some_and(|extension| extension == "log") {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}
