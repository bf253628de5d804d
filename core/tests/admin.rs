//! The admin port of the real binary: what it tells after a load is what the load was.
#![allow(clippy::unwrap_used)]

mod process;

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use process::Broker;
use tidemill_client::{
    Admin, Consumer, ConsumerConfig, NewTopic, Producer, ProducerConfig, Record, Start,
};
use tidemill_perf::document::{LatencyDocument, LatenessDocument, SlowestDocument};
use tidemill_perf::hlog::{self, Log};

const PATIENCE: Duration = Duration::from_secs(60);
const TOPIC: &str = "measured";

/// A broker of two shards whose admin port is the kernel's choice.
fn start(name: &str) -> (Broker, String) {
    let arguments = ["--shards", "2", "--set", "tidemill.admin.listener=127.0.0.1:0"];
    let broker = Broker::start(name, &arguments);
    let address = broker.ready_word("admin=").to_owned();
    (broker, address)
}

/// An answer: the status line, the headers and the body.
struct Answer {
    head: String,
    body: Vec<u8>,
}

impl Answer {
    fn status(&self) -> &str {
        self.head.split(' ').nth(1).unwrap()
    }

    fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }
}

/// Sends these bytes, and reads what comes until the end.
fn exchange(address: &str, bytes: &[u8]) -> Answer {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(bytes).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n").expect("HTTP");
    let head = String::from_utf8(answer[..end].to_vec()).unwrap();
    Answer { head, body: answer[end + 4..].to_vec() }
}

fn get(address: &str, target: &str) -> Answer {
    exchange(address, format!("GET {target} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes())
}

/// A page, asked for again while a shard is held up: it is told that this one does not answer.
fn page(address: &str, target: &str) -> String {
    let start = Instant::now();
    loop {
        let answer = get(address, target);
        let held_up = answer.status() == "503" && answer.text().contains("does not answer");
        if !held_up || PATIENCE < start.elapsed() {
            assert_eq!(answer.status(), "200", "{target}: {}", answer.text());
            return answer.text().to_owned();
        }
    }
}

fn latency(address: &str) -> LatencyDocument {
    serde_json::from_str(&page(address, "/latency")).unwrap()
}

/// A scrape with the figures of all shards.
fn scrape(address: &str, target: &str) -> String {
    let start = Instant::now();
    loop {
        let scrape = page(address, target);
        if scrape.contains("\ntidemill_ready 1\n") {
            return scrape;
        }
        assert!(start.elapsed() < PATIENCE, "it is not ready: {scrape}");
    }
}

/// Samples of a scrape by name and labels.
fn samples(scrape: &str) -> BTreeMap<String, f64> {
    let lines = scrape.lines().filter(|line| !line.starts_with('#'));
    let samples = lines.map(|line| {
        let (name, value) = line.rsplit_once(' ').unwrap();
        (name.to_owned(), value.parse().unwrap())
    });
    samples.collect()
}

/// All samples of a metric added up.
fn sum(samples: &BTreeMap<String, f64>, name: &str) -> f64 {
    let of_name = |key: &&String| key.split('{').next() == Some(name);
    samples.keys().filter(of_name).map(|key| samples[key]).sum()
}

/// Sends records one by one, each acknowledged before the next, and reads them all.
fn load(broker: &Broker, records: u64) {
    let brokers = broker.address();
    let mut admin = Admin::open(&brokers).unwrap();
    // A second load finds the topic.
    let _ = admin.create_topic(&NewTopic::new(TOPIC).partitions(4));
    let mut config = ProducerConfig::new(&brokers).unwrap();
    config.cluster.connection.client_id = "the-producer".into();
    let producer = Producer::open(config).unwrap();
    let topic: Arc<str> = TOPIC.into();
    for number in 0..records {
        let record = Record::to(Arc::clone(&topic)).partition(number as i32 % 4);
        producer.send(record.value(vec![b'x'; 1000])).unwrap();
        producer.flush().unwrap();
    }
    producer.close().unwrap();
    let mut consumer = Consumer::open(ConsumerConfig::new(&brokers).unwrap()).unwrap();
    consumer.assign_topic(TOPIC, Start::Earliest, PATIENCE).unwrap();
    let mut read = 0;
    while read < records {
        read += consumer.poll(PATIENCE).unwrap().len() as u64;
    }
}

fn total(document: &LatencyDocument, kind: &str, stage: &str) -> u64 {
    let stages = document.shards.iter().flat_map(|shard| &shard.stages);
    stages.filter(|it| it.kind == kind && it.stage == stage).map(|it| it.count).sum()
}

/// Each endpoint tells what was sent: no request is missing and none is counted twice.
#[test]
fn what_is_told_is_what_was_sent() {
    const RECORDS: u64 = 320;
    let (broker, address) = start("admin-counts");
    assert_eq!(page(&address, "/livez"), "alive\n");
    assert_eq!(page(&address, "/readyz"), "ready\n");
    load(&broker, RECORDS);

    let (latency, later) = (latency(&address), latency(&address));
    assert_eq!(latency.shards.len(), 2);
    assert_eq!(total(&latency, "produce", "total"), RECORDS);
    assert!(0 < total(&latency, "fetch", "total") && 0 < total(&latency, "other", "total"));
    // Stages are told of one request in sixteen of each shard.
    for shard in &latency.shards {
        let of = |stage: &str| {
            shard.stages.iter().filter(|it| it.stage == stage).map(|it| it.count).sum::<u64>()
        };
        let (all, sampled) = (of("total"), of("sampled"));
        assert!((all / 16..=all / 16 + 1).contains(&sampled), "{sampled} of {all}");
    }
    let sampled = total(&latency, "produce", "sampled");
    assert!(0 < sampled, "some twenty are expected");
    for stage in ["route", "append", "durable", "respond"] {
        let count = total(&latency, "produce", stage);
        assert!((sampled / 2..=sampled).contains(&count), "{stage}: {count} of {sampled}");
    }
    let batches: u64 = latency.shards.iter().map(|shard| shard.batches_appended).sum();
    assert_eq!(batches, RECORDS);
    let bytes_in: u64 = latency.shards.iter().map(|shard| shard.bytes_in).sum();
    assert!((1000 * RECORDS..2000 * RECORDS).contains(&bytes_in), "{bytes_in}");
    let written: u64 = latency.shards.iter().map(|shard| shard.disk_bytes_written).sum();
    assert!(1000 * RECORDS < written, "{written}");
    for shard in &latency.shards {
        assert!(0 < shard.turns && 0 < shard.busy_ns, "{shard:?}");
        let is_stage = |stage: &str| !["total", "sampled"].contains(&stage);
        let spent: u64 = shard.stages.iter().filter(|s| is_stage(&s.stage)).map(|s| s.sum_ns).sum();
        let whole: u64 =
            shard.stages.iter().filter(|s| s.stage == "sampled").map(|s| s.sum_ns).sum();
        assert!(spent.abs_diff(whole) <= whole / 100, "stages add up: {spent} of {whole}");
    }
    // The shards are not asked at one moment: what one has received the other had sent later on.
    let sent: u64 = later.shards.iter().flat_map(|shard| &shard.mesh).map(|m| m.sent).sum();
    let received: u64 =
        latency.shards.iter().flat_map(|shard| &shard.mesh).map(|m| m.received).sum();
    assert!(0 < sent && received <= sent, "{received} of {sent}");

    let slowest: SlowestDocument = serde_json::from_str(&page(&address, "/slowest")).unwrap();
    let produce =
        slowest.requests.iter().find(|slow| slow.kind == "produce").expect("one at least");
    assert_eq!((produce.client_id.as_str(), produce.topic.as_str()), ("the-producer", TOPIC));
    assert!((0..4).contains(&produce.partition) && 1000 < produce.size_bytes, "{produce:?}");
    let parts: u64 = produce.stages.iter().map(|part| part.ns).sum();
    assert!(parts <= produce.total_ns && produce.total_ns / 100 * 99 <= parts, "{produce:?}");

    let lateness: LatenessDocument = serde_json::from_str(&page(&address, "/lateness")).unwrap();
    assert_eq!(lateness.partitions.len(), 4);
    assert_eq!(lateness.partitions.iter().map(|it| it.batches).sum::<u64>(), RECORDS);

    let full = samples(&scrape(&address, "/metrics?full"));
    let again = samples(&scrape(&address, "/metrics/full"));
    let scrape = samples(&scrape(&address, "/metrics"));
    assert_eq!(scrape["tidemill_request_seconds_count{kind=\"produce\"}"] as u64, RECORDS);
    assert_eq!(scrape["tidemill_api_requests_total{api=\"Produce\"}"] as u64, RECORDS);
    assert_eq!(scrape["tidemill_requests_sampled_total{kind=\"produce\"}"] as u64, sampled);
    assert_eq!(sum(&scrape, "tidemill_batches_appended_total") as u64, RECORDS);
    assert_eq!(sum(&scrape, "tidemill_shard_partitions") as u64, 4);
    assert_eq!(sum(&full, "tidemill_partition_high_watermark") as u64, RECORDS);
    // Time alone changes some of the values.
    assert!(full.keys().eq(again.keys()), "{full:?}\n{again:?}");
    let (small, all) = (scrape.len(), full.len());
    assert!(small < all && small < 250, "{small} and {all}");

    let log = page(&address, "/latency?format=hlog");
    let log = Log::read(log.as_bytes()).unwrap();
    assert_eq!(log.merged("produce.total").unwrap().unwrap().len(), RECORDS);
}

/// Every metric that the dashboard and the alerts ask for is in a real scrape.
#[test]
fn dashboard_and_alerts_ask_for_what_is_there() {
    let (broker, address) = start("admin-dashboard");
    load(&broker, 3);
    let scrape = scrape(&address, "/metrics");
    let told = broker::admin::metrics::sample_names(&scrape);
    for what in ["dashboard", "alerts"] {
        let printed = command(&["perf", what]);
        let words = printed.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        let names: Vec<&str> =
            words.filter(|w| w.starts_with("tidemill_") || w.starts_with("process_")).collect();
        assert!(5 < names.len(), "{printed}");
        for name in names {
            assert!(told.contains(&name), "{what} asks for {name}");
        }
    }
    serde_json::from_str::<serde_json::Value>(&command(&["perf", "dashboard"])).unwrap();
}

fn command(arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_tidemill")).args(arguments).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {errors}");
    String::from_utf8(output.stdout).unwrap()
}

/// What `perf top` shows, asked for again where the broker has not answered in time.
fn watch(address: &str) -> String {
    let start = Instant::now();
    loop {
        let top = ["perf", "top", "--once", "--admin", address];
        let output = Command::new(env!("CARGO_BIN_EXE_tidemill")).args(top).output().unwrap();
        if output.status.success() {
            return String::from_utf8(output.stdout).unwrap();
        }
        assert!(start.elapsed() < PATIENCE, "{}", String::from_utf8_lossy(&output.stderr));
    }
}

/// `perf record` and `perf top` see a load while it lasts.
#[test]
fn a_load_is_recorded_and_seen() {
    const RECORDS: u64 = 50;
    let (broker, address) = start("admin-record");
    load(&broker, 1);
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("admin-recording");
    let _ = std::fs::remove_dir_all(&dir);
    let to = dir.to_str().unwrap();
    let before = latency(&address);
    let record = || {
        Command::new(env!("CARGO_BIN_EXE_tidemill"))
            .args(["perf", "record", to, "--admin", &address, "--every", "0.2", "--seconds", "600"])
            .spawn()
            .unwrap()
    };
    let mut recorder = record();
    let log = dir.join("latency.hlog");
    let deadline = Instant::now() + PATIENCE;
    while std::fs::metadata(&log).map_or(0, |it| it.len()) == 0 && Instant::now() < deadline {
        // Without a first answer in time there is nothing to begin with.
        if recorder.try_wait().unwrap().is_some() {
            let _ = std::fs::remove_dir_all(&dir);
            recorder = record();
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    let (screen, loads) = std::thread::scope(|scope| {
        let watcher = scope.spawn(|| watch(&address));
        let mut loads = 0;
        while loads == 0 || !watcher.is_finished() {
            load(&broker, RECORDS);
            loads += 1;
        }
        (watcher.join().unwrap(), loads)
    });
    let deadline = Instant::now() + PATIENCE;
    for words in ["produce.total", "of limit", "to others", "stages, last", "connection"] {
        assert!(screen.contains(words), "{words} is missing in\n{screen}");
    }
    let after = latency(&address);
    // Until the recording has seen all of it.
    let new = total(&after, "produce", "total") - total(&before, "produce", "total");
    assert_eq!(new, loads * RECORDS);
    let recorded = || {
        let bytes = std::fs::read(&log).unwrap();
        // The last line may be half written.
        let whole = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
        let log = Log::read(&bytes[..whole]).unwrap();
        log.merged("produce.total").unwrap().map_or(0, |histogram| histogram.len())
    };
    while recorded() < new && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(50));
    }
    let pid = recorder.id().to_string();
    assert!(Command::new("kill").args(["-INT", &pid]).status().unwrap().success());
    assert!(recorder.wait().unwrap().success());
    assert_eq!(recorded(), new);
    let report = command(&["perf", "report", to]);
    assert!(report.contains("produce.total"), "{report}");
    std::fs::remove_dir_all(&dir).unwrap();
}

/// Who asks for nonsense is told so, and everybody else is served as before.
#[test]
fn wrong_requests_are_told_what_is_wrong() {
    let (_broker, address) = start("admin-wrong");
    for (target, status, word) in [
        ("/nothing", "404", "/metrics"),
        ("/metrics?fool", "400", "fool"),
        ("/metrics?full=perhaps", "400", "perhaps"),
        ("/latency?format=xml", "400", "hlog"),
        ("/livez?verbose", "400", "verbose"),
        ("/../etc/passwd", "404", "no such page"),
    ] {
        let answer = get(&address, target);
        assert_eq!(answer.status(), status, "{target}");
        assert!(answer.text().contains(word), "{target}: {}", answer.text());
    }
    for (request, status) in [
        ("POST /metrics HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello", "405"),
        ("DELETE / HTTP/1.1\r\n\r\n", "405"),
        ("GET / HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello", "413"),
        ("GET / HTTP/3\r\n\r\n", "505"),
        ("\u{0}\u{0}\u{0}\u{12}\u{0}\u{12}\r\n\r\n", "400"),
    ] {
        let answer = exchange(&address, request.as_bytes());
        assert_eq!(answer.status(), status, "{request:?}: {}", answer.text());
    }
    let huge = format!("GET / HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(60_000));
    assert_eq!(exchange(&address, huge.as_bytes()).status(), "431");
    let head = exchange(&address, b"HEAD /metrics HTTP/1.1\r\n\r\n");
    assert_eq!((head.status(), head.body.len()), ("200", 0));
    assert!(page(&address, "/").contains("/slowest"));
}

/// Connections that say nothing, or too little, hold up the broker not at all, and others only
/// until their time is up.
#[test]
fn silent_connections_are_bounded_and_let_go() {
    let (broker, address) = start("admin-silent");
    let mut silent: Vec<TcpStream> = Vec::new();
    for _ in 0..2 * broker::limits::ADMIN_CONNECTIONS_MAX {
        let mut stream = TcpStream::connect(&address).unwrap();
        stream.write_all(b"GET /metrics HT").unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        silent.push(stream);
    }
    load(&broker, 5);
    assert_eq!(page(&address, "/readyz"), "ready\n");
    for mut stream in silent {
        let mut told = String::new();
        stream.read_to_string(&mut told).unwrap();
        assert!(told.starts_with("HTTP/1.1 408 "), "{told}");
    }
}

/// Looking changes nothing: scraped all the time, everything stays as exact.
#[test]
fn a_scrape_under_load_changes_nothing_else() {
    const RECORDS: u64 = 50;
    let (broker, address) = start("admin-scraped");
    let over = std::sync::atomic::AtomicBool::new(false);
    let scrapes = std::thread::scope(|scope| {
        let scraper = scope.spawn(|| {
            let mut scrapes = 0;
            let (mut turns, mut produced) = (0, 0);
            while !over.load(std::sync::atomic::Ordering::Relaxed) {
                for target in ["/metrics?full", "/slowest", "/lateness", "/readyz"] {
                    page(&address, target);
                }
                let document = latency(&address);
                let now: u64 = document.shards.iter().map(|shard| shard.turns).sum();
                let count = total(&document, "produce", "total");
                assert!(turns <= now && produced <= count, "counts never go back");
                (turns, produced, scrapes) = (now, count, scrapes + 5);
            }
            scrapes
        });
        load(&broker, RECORDS);
        over.store(true, std::sync::atomic::Ordering::Relaxed);
        scraper.join().unwrap()
    });
    assert!(0 < scrapes);
    let document = latency(&address);
    assert_eq!(total(&document, "produce", "total"), RECORDS);
    for stage in document.shards.iter().flat_map(|shard| &shard.stages) {
        assert_eq!(hlog::decode_histogram(&stage.histogram).unwrap().len(), stage.count);
    }
}

/// A taken admin port is no reason not to serve; `none` asks for none; both are told.
#[test]
fn a_broker_without_an_admin_port_serves_all_the_same() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let setting = format!("tidemill.admin.listener={}", taken.local_addr().unwrap());
    for setting in [setting.as_str(), "tidemill.admin.listener=none"] {
        let mut broker = Broker::start("admin-none", &["--shards", "1", "--set", setting]);
        assert_eq!(broker.ready_word("admin="), "none");
        let warned = broker.log().contains("tidemill.admin.listener");
        assert_eq!(warned, !setting.ends_with("none"), "{}", broker.log());
        load(&broker, 1);
        assert!(broker.stop().success(), "{}", broker.log());
    }
}
