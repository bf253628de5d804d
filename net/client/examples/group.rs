//! Reads a topic as a member of a group until nothing comes for two seconds. Start it several times:
//! the members share the partitions, and each time it goes on where the group left off.
//!
//! `cargo run -p tidemill-client --example group -- localhost:9092 greetings readers`

use std::time::{Duration, Instant};

use tidemill_client::{Change, Error, GroupConfig, GroupConsumer};

fn main() {
    let mut arguments = std::env::args().skip(1);
    let brokers = arguments.next().unwrap_or_else(|| "localhost:9092".to_owned());
    let topic = arguments.next().unwrap_or_else(|| "greetings".to_owned());
    let group = arguments.next().unwrap_or_else(|| "readers".to_owned());
    if let Err(error) = consume(&brokers, &topic, &group) {
        eprintln!("error: {error}");
        std::process::exit(1);
    }
}

/// Reads what the group has not read yet, and tells how many records that were.
pub fn consume(brokers: &str, topic: &str, group: &str) -> Result<usize, Error> {
    let mut member = GroupConsumer::open(GroupConfig::new(brokers, group)?)?;
    member.subscribe([topic]);
    let (mut last, mut count) = (Instant::now(), 0);
    while member.assigned().count() == 0 || last.elapsed() < Duration::from_secs(2) {
        let records = member.poll(Duration::from_millis(500))?;
        for change in member.take_changes() {
            last = Instant::now();
            match change {
                Change::Given(shares) => println!("{} partitions are ours", shares.len()),
                Change::Taken(shares) => println!("{} partitions are ours no more", shares.len()),
            }
        }
        if !records.is_empty() {
            last = Instant::now();
            // Here the records are worked on; the polls to come commit them.
            count += records.len();
        }
    }
    // Commits the rest; the other members go on with our partitions at once.
    member.close(Duration::from_secs(10));
    println!("{count} records read by this member of {group}");
    Ok(count)
}
