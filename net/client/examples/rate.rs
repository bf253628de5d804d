//! How many small records a second one thread can send: it sends as fast as it can, waits until all
//! are stored, and tells the rate of several rounds.
//!
//! `cargo run --release -p tidemill-client --example rate -- localhost:9092 rate 5000000 100`
//!
//! The arguments: brokers, topic (made with 4 partitions if it is not there), records a round,
//! bytes a record.

use std::sync::Arc;
use std::time::Instant;

use tidemill_client::kafka::ErrorCode;
use tidemill_client::{Admin, Error, ErrorKind, NewTopic, Producer, ProducerConfig, Record};

const ROUNDS: u32 = 3;

fn main() {
    let mut arguments = std::env::args().skip(1);
    let brokers = arguments.next().unwrap_or_else(|| "localhost:9092".to_owned());
    let topic = arguments.next().unwrap_or_else(|| "rate".to_owned());
    let mut number =
        |default| arguments.next().and_then(|text| text.parse().ok()).unwrap_or(default);
    let (records, bytes) = (number(5_000_000), number(100));
    if let Err(error) = measure(&brokers, &topic, records, bytes) {
        eprintln!("error: {error}");
        std::process::exit(1);
    }
}

/// Sends so many records of so many bytes, a few times.
pub fn measure(brokers: &str, topic: &str, records: usize, bytes: usize) -> Result<(), Error> {
    match Admin::open(brokers)?.create_topic(&NewTopic::new(topic).partitions(4)) {
        Err(error) if error.kind() != ErrorKind::Refused(ErrorCode::TopicAlreadyExists) => {
            return Err(error);
        }
        _ => {}
    }
    let producer = Producer::open(ProducerConfig::new(brokers)?)?;
    let topic: Arc<str> = topic.into();
    let value = vec![b'x'; bytes];
    for round in 1..=ROUNDS {
        let start = Instant::now();
        for _ in 0..records {
            let record = Record::to(Arc::clone(&topic)).value(value.clone());
            producer.send_blocking(record).map_err(|refused| refused.error)?;
        }
        producer.flush()?;
        let seconds = start.elapsed().as_secs_f64();
        let per_second = records as f64 / seconds;
        println!(
            "round {round}: {records} records of {bytes} bytes in {seconds:.2} s: {per_second:.0} records/s"
        );
    }
    producer.close()
}
