//! Stopping the real binary when it is busy, full, or asked again.
#![allow(clippy::unwrap_used)]

mod process;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use process::Broker;
use tidemill_net::kafka::TopicRef;
use tidemill_net::kafka::fetch::{FetchPartition, OutgoingFetch};

/// How long a clean stop waits for clients to take their replies.
const CLEAN_STOP_WAITS: Duration = Duration::from_secs(5);

fn command(broker: &Broker, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidemill"));
    command.args(arguments).args(["--bootstrap-server", &broker.address()]);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command
}

fn produce(broker: &Broker, topic: &str, input: &[u8]) {
    let arguments = ["produce", "-t", topic];
    let mut child = command(broker, &arguments).stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(input).unwrap();
    assert!(child.wait().unwrap().success());
}

fn read(broker: &Broker, topic: &str) -> Vec<u8> {
    let arguments = ["consume", "-t", topic, "-e"];
    let output = command(broker, &arguments).stdout(Stdio::piped()).output().unwrap();
    assert!(output.status.success());
    output.stdout
}

/// More replies than the sockets hold, and nobody who reads them.
fn client_that_takes_nothing(broker: &Broker) -> TcpStream {
    let mut client = TcpStream::connect(broker.address()).unwrap();
    let partitions = [FetchPartition::from_consumer(TopicRef::Name("much"), 0, 0, 16 << 20)];
    let fetch = OutgoingFetch { partitions: &partitions, ..OutgoingFetch::default() };
    let mut requests = BytesMut::new();
    fetch.encode(&mut requests, 11, 1, None);
    client.write_all(&requests).unwrap();
    client.read_exact(&mut [0]).unwrap();
    client
}

/// Who asks a second time means now: the process ends at once, with a status of its own, although a
/// client does not take its replies, which a clean stop would wait for. What was acknowledged is there
/// at the next start.
#[test]
fn a_second_signal_ends_a_stop_that_waits() {
    for second in ["TERM", "INT"] {
        let name = format!("stopping-{}", second.to_lowercase());
        let mut broker = Broker::start(&name, &["--shards", "1"]);
        let line = [&[b'x'; 1023][..], b"\n"].concat();
        let input = line.repeat(32 << 10);
        produce(&broker, "much", &input);

        for stops in 1.. {
            let _client = client_that_takes_nothing(&broker);
            let asked = Instant::now();
            broker.signal("TERM");
            // Its path is in the log too. Two signals of one kind that come at once are one.
            while broker.log().matches("broker::node: stopping").count() < stops {
                std::thread::yield_now();
            }
            broker.signal(second);
            let status = broker.wait();
            broker.run();
            if status.code() == Some(1) {
                break;
            }
            // Somebody was held up for so long that the first stop was over: that shows nothing.
            let is_late = CLEAN_STOP_WAITS <= asked.elapsed() && stops < 10;
            assert!(status.success() && is_late, "{status}: {}", broker.log());
        }
        assert!(read(&broker, "much") == input, "all that was acknowledged, once and in order");
    }
}

/// A stop while topics are being made and deleted ends cleanly; what was answered has happened.
#[test]
fn a_stop_under_changes_ends_and_keeps_what_was_answered() {
    let mut broker = Broker::start(
        "stopping-changes",
        &["--shards", "2", "--set", "tidemill.log=info,broker::shard=debug"],
    );
    let (over, answered) = (AtomicBool::new(false), AtomicUsize::new(0));
    let made: Vec<String> = std::thread::scope(|scope| {
        let client = |number: usize| {
            let (broker, over, answered) = (&broker, &over, &answered);
            move || {
                let mut made = Vec::new();
                for count in 0.. {
                    if over.load(Ordering::Relaxed) {
                        break;
                    }
                    let topic = format!("topic-{number}-{count}");
                    let arguments = ["topic", "create", &topic, "-p", "8"];
                    let mut child = command(broker, &arguments).spawn().unwrap();
                    while child.try_wait().unwrap().is_none() {
                        if over.load(Ordering::Relaxed) {
                            // It would go on asking a broker that is gone.
                            let _ = child.kill();
                        }
                        std::thread::sleep(Duration::from_millis(1));
                    }
                    if child.wait().unwrap().success() {
                        made.push(topic);
                        answered.fetch_add(1, Ordering::Relaxed);
                    }
                }
                made
            }
        };
        let clients: Vec<_> = (0..4).map(|number| scope.spawn(client(number))).collect();
        // Each client is in the middle of making topics, more or less.
        while answered.load(Ordering::Relaxed) < 3 * clients.len() {
            std::thread::yield_now();
        }
        broker.signal("TERM");
        while !broker.log().contains("where the time of requests went") {
            std::thread::yield_now();
        }
        over.store(true, Ordering::Relaxed);
        clients.into_iter().flat_map(|client| client.join().unwrap()).collect()
    });
    assert!(broker.wait().success(), "{}", broker.log());
    assert!(!made.is_empty(), "some were made before");

    broker.run();
    let listed = command(&broker, &["topic", "list"]).stdout(Stdio::piped()).output().unwrap();
    let listed = String::from_utf8(listed.stdout).unwrap();
    for topic in made {
        assert!(listed.contains(&topic), "{topic} was answered and is gone");
    }
}
