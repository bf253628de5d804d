//! kcat, Debian's: librdkafka 2.0.2, which tests exact API versions before it compresses.

use std::process::Command;

use crate::corpus::{self, KEY_END, RECORD_END, Records};
use crate::process::Broker;
use crate::program::{output, output_of, tidemill};

const PARTITIONS: &str = "4";

fn produce(broker: &Broker, topic: &str, codec: &str, records: &Records) {
    let mut kcat = Command::new("kcat");
    kcat.args(["-P", "-q", "-b", &broker.address(), "-t", topic, "-z", codec]);
    kcat.args(["-K", &KEY_END.to_string(), "-D", &RECORD_END.to_string()]);
    kcat.args(["-X", "acks=all", "-X", "enable.idempotence=true"]);
    output_of(&mut kcat, &corpus::to_text(records));
}

fn consume(broker: &Broker, topic: &str) -> Records {
    let mut kcat = Command::new("kcat");
    kcat.args(["-C", "-q", "-e", "-b", &broker.address(), "-t", topic, "-o", "beginning"]);
    kcat.args(["-X", "check.crcs=true", "-f", &format!("%k{KEY_END}%s{RECORD_END}")]);
    corpus::from_text(&output(&mut kcat))
}

fn consume_ours(broker: &Broker, topic: &str) -> Records {
    let format = format!("%k{KEY_END}%s{RECORD_END}");
    let address = broker.address();
    let text = tidemill(&["consume", "-b", &address, "-t", topic, "-e", "-f", &format]);
    corpus::from_text(&text)
}

fn make_topic(broker: &Broker, topic: &str) {
    tidemill(&["topic", "create", topic, "-p", PARTITIONS, "-b", &broker.address()]);
}

/// The package index comes back byte for byte, in order per package, with every codec.
#[test]
fn the_package_index_comes_back_with_every_codec() {
    let broker = Broker::start("kcat-index", &["--shards", "2"]);
    let records = corpus::package_index();
    for codec in ["none", "gzip", "snappy", "lz4", "zstd"] {
        make_topic(&broker, codec);
        produce(&broker, codec, codec, &records);
        corpus::assert_same_by_key(&records, &consume(&broker, codec));
        corpus::assert_same_by_key(&records, &consume_ours(&broker, codec));
        println!("{} stanzas came back with {codec}", records.len());
    }
}

/// A large corpus of small records, produced by kcat and read by another client, with a kill and a
/// restart between them.
#[test]
fn a_corpus_of_text_survives_a_kill_between_producing_and_consuming() {
    let mut broker = Broker::start("kcat-corpus", &["--shards", "2"]);
    let count = if crate::is_long() { 2_000_000 } else { 200_000 };
    let records = corpus::lines_of_text(count);
    make_topic(&broker, "lines");
    produce(&broker, "lines", "none", &records);
    broker.kill();
    broker.run();
    println!("ready again {:.0?} after the kill", broker.ready_after);
    corpus::assert_same_by_key(&records, &consume_ours(&broker, "lines"));
    println!("{} lines came back", records.len());
}

/// kcat lists what there is, and asks for offsets by time.
#[test]
fn kcat_lists_and_queries() {
    let broker = Broker::start("kcat-list", &["--shards", "1"]);
    make_topic(&broker, "listed");
    let records: Records = (0..10).map(|n| (b"k".to_vec(), vec![b'0' + n])).collect();
    produce(&broker, "listed", "none", &records);

    let list = output(Command::new("kcat").args(["-L", "-J", "-b", &broker.address()]));
    let list: serde_json::Value = serde_json::from_slice(&list).unwrap();
    let topic = &list["topics"][0];
    assert_eq!(topic["topic"], "listed");
    assert_eq!(topic["partitions"].as_array().unwrap().len().to_string(), PARTITIONS);

    let query =
        output(Command::new("kcat").args(["-Q", "-b", &broker.address(), "-t", "listed:0:-1"]));
    assert!(String::from_utf8_lossy(&query).contains("listed [0] offset"));
}
