//! The two Python clients: confluent-kafka (librdkafka) and kafka-python (a protocol of its own).
//!
//! What one produces the other consumes, both ways, with every codec.

use std::process::Command;

use crate::corpus;
use crate::process::Broker;
use crate::program::{kept_dir, output, output_of, own_file, tidemill};

/// The interpreter of an environment that holds both clients; made once and kept.
fn interpreter() -> std::path::PathBuf {
    let dir = kept_dir("python-clients");
    let python = dir.join("bin/python");
    let complete = dir.join("complete");
    if !complete.exists() {
        output(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&dir));
        let requirements = own_file("requirements.txt");
        let pip = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r"];
        output(Command::new(&python).args(pip).arg(requirements));
        std::fs::write(complete, b"").unwrap();
    }
    python
}

/// Different people's code on both sides of the wire agrees on every byte.
#[test]
fn what_one_python_client_produces_the_other_reads() {
    let broker = Broker::start("python", &["--shards", "2"]);
    let records = corpus::package_index();
    let records = records[..records.len().min(10_000)].to_vec();
    let text = corpus::to_text(&records);
    let python = interpreter();
    let script = own_file("clients.py");
    let client = |what: &str, library: &str, topic: &str, codec: &str| {
        let mut command = Command::new(&python);
        command.arg(&script).args([what, library, &broker.address(), topic, codec]);
        command
    };
    for codec in ["none", "gzip", "snappy", "lz4", "zstd"] {
        for (writer, reader) in [("confluent", "kafka-python"), ("kafka-python", "confluent")] {
            let topic = format!("{writer}-{codec}");
            tidemill(&["topic", "create", &topic, "-p", "3", "-b", &broker.address()]);
            output_of(&mut client("produce", writer, &topic, codec), &text);
            let found = output(&mut client("consume", reader, &topic, codec));
            corpus::assert_same_by_key(&records, &corpus::from_text(&found));
            println!("{writer} to {reader} with {codec}: {} records", records.len());
        }
    }
}
