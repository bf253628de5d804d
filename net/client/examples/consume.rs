//! Reads a topic from its beginning until nothing comes for two seconds.
//!
//! `cargo run -p tidemill-client --example consume -- localhost:9092 greetings`

use std::time::{Duration, Instant};

use tidemill_client::{Consumer, ConsumerConfig, Error, Start};

fn main() {
    let mut arguments = std::env::args().skip(1);
    let brokers = arguments.next().unwrap_or_else(|| "localhost:9092".to_owned());
    let topic = arguments.next().unwrap_or_else(|| "greetings".to_owned());
    if let Err(error) = consume(&brokers, &topic) {
        eprintln!("error: {error}");
        std::process::exit(1);
    }
}

/// Reads a topic, shows its first records, and tells how many there were.
pub fn consume(brokers: &str, topic: &str) -> Result<usize, Error> {
    let mut consumer = Consumer::open(ConsumerConfig::new(brokers)?)?;
    consumer.assign_topic(topic, Start::Earliest, Duration::from_secs(10))?;
    let (start, mut last) = (Instant::now(), Instant::now());
    let mut count = 0;
    while last.elapsed() < Duration::from_secs(2) {
        let records = consumer.poll(Duration::from_millis(500))?;
        if records.is_empty() {
            continue;
        }
        last = Instant::now();
        if count == 0 {
            for record in records.iter().take(5) {
                let value = record.value.as_deref().unwrap_or_default();
                let text = String::from_utf8_lossy(value);
                println!("{}/{}: {text}", record.partition, record.offset);
            }
        }
        count += records.len();
    }
    let seconds = (last - start).as_secs_f64();
    println!("{count} records read in {seconds:.2} s: {:.0} per second", count as f64 / seconds);
    Ok(count)
}
