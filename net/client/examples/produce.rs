//! Sends numbered greetings, waits until all are stored, and tells how fast that was.
//!
//! `cargo run -p tidemill-client --example produce -- localhost:9092 greetings 100000`

use std::time::Instant;

use tidemill_client::record::Codec;
use tidemill_client::{Error, ErrorKind, Producer, ProducerConfig, Record};

fn main() {
    let mut arguments = std::env::args().skip(1);
    let brokers = arguments.next().unwrap_or_else(|| "localhost:9092".to_owned());
    let topic = arguments.next().unwrap_or_else(|| "greetings".to_owned());
    let count = arguments.next().and_then(|text| text.parse().ok()).unwrap_or(1000);
    let start = Instant::now();
    match produce(&brokers, &topic, count) {
        Ok(stored) => {
            let seconds = start.elapsed().as_secs_f64();
            let per_second = stored as f64 / seconds;
            println!("{stored} records stored in {seconds:.2} s: {per_second:.0} per second");
        }
        Err(error) => {
            eprintln!("error: {error}");
            std::process::exit(1);
        }
    }
}

/// Sends so many records; tells how many were reported stored.
pub fn produce(brokers: &str, topic: &str, count: u64) -> Result<u64, Error> {
    let config =
        ProducerConfig { compression: Codec::Lz4, reports: true, ..ProducerConfig::new(brokers)? };
    let producer = Producer::open(config)?;
    let mut stored = 0;
    for number in 0..count {
        let mut record = Record::to(topic)
            .key(format!("key {}", number % 100))
            .value(format!("hello, this is greeting {number}"))
            .tag(number);
        while let Err(refused) = producer.send_blocking(record) {
            if refused.error.kind() != ErrorKind::Full {
                return Err(refused.error);
            }
            // What is reported makes room.
            stored += take_reports(&producer)?;
            record = *refused.record;
        }
    }
    producer.flush()?;
    stored += take_reports(&producer)?;
    producer.close()?;
    Ok(stored)
}

/// How many records the reports tell stored.
fn take_reports(producer: &Producer) -> Result<u64, Error> {
    let mut stored = 0;
    for report in producer.take_reports() {
        report.outcome?;
        stored += report.tags.len() as u64;
    }
    Ok(stored)
}
