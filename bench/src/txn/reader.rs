//! Who reads what transactions have written, `read_committed`, and counts it.

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use tidemill_client::{Consumer, ConsumerConfig, Isolation, Start};
use tidemill_perf::units;
use tidemill_runtime::clock;
use tidemill_runtime::edge;

use super::MARK_BYTES;
use crate::control::Topic;
use crate::figures::{Figures, Latencies, counted};
use crate::trouble::Trouble;

/// How long what was committed may take to be read.
const READ_WITHIN: Duration = Duration::from_secs(20);

const POLL: Duration = Duration::from_millis(100);

/// A consumer on a thread of its own.
pub struct Reader {
    expected: Arc<AtomicU64>,
    is_over: Arc<AtomicBool>,
    thread: JoinHandle<Result<Read, Trouble>>,
}

/// What was read.
#[derive(Debug, Default)]
pub struct Read {
    records: u64,
    aborted: u64,
    latencies: Latencies,
}

impl Reader {
    /// Reads the topic from its end on; what is written after this is read.
    pub fn start(brokers: &str, topic: &Topic, run: u64) -> Result<Self, Trouble> {
        let config =
            ConsumerConfig { isolation: Isolation::ReadCommitted, ..ConsumerConfig::new(brokers)? };
        let mut consumer = Consumer::open(config)?;
        // The ends were asked for when the topic was looked at: what is written from now on is
        // read, whenever the consumer gets there.
        let ends = topic.latest.iter().enumerate();
        let name: Arc<str> = topic.name.as_str().into();
        let places = ends.map(|(nth, end)| (Arc::clone(&name), nth as i32, Start::Offset(*end)));
        consumer.assign(places);
        let (expected, is_over) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let (expects, over) = (Arc::clone(&expected), Arc::clone(&is_over));
        let body = move || read(&mut consumer, run, &expects, &over);
        let thread = thread::Builder::new().name("reader".to_owned()).spawn(body)?;
        Ok(Self { expected, is_over, thread })
    }

    /// Nothing more is written, and so many records are committed in all.
    pub fn end(self, committed: u64) -> Result<Read, Trouble> {
        self.expected.store(committed, Ordering::Release);
        self.is_over.store(true, Ordering::Release);
        self.thread.join().map_err(|_| Trouble::new("the reader has panicked"))?
    }
}

fn read(
    consumer: &mut Consumer,
    run: u64,
    expected: &AtomicU64,
    is_over: &AtomicBool,
) -> Result<Read, Trouble> {
    let mut all = Read::default();
    let mut over_since = None;
    loop {
        for record in consumer.poll(POLL)? {
            let Some(value) = record.value.as_deref().filter(|v| MARK_BYTES <= v.len()) else {
                continue;
            };
            let number =
                |at: usize| u64::from_be_bytes(value[at..at + 8].try_into().expect("eight bytes"));
            if number(0) != run {
                continue;
            }
            all.records += 1;
            all.aborted += u64::from(value[16] == 0);
            let due = edge::Instant { nanos: number(8) };
            all.latencies.record(clock::monotonic().since(due));
        }
        if is_over.load(Ordering::Acquire) {
            let since = *over_since.get_or_insert_with(Instant::now);
            let has_all = expected.load(Ordering::Acquire) <= all.records;
            if has_all || READ_WITHIN <= since.elapsed() {
                return Ok(all);
            }
        }
    }
}

impl Read {
    /// Whether something was read that should not have been, or was not that should. Of how many
    /// records it was told that they are committed, and of how many more it may be so.
    pub fn is_harm(&self, committed: &RangeInclusive<u64>) -> bool {
        0 < self.aborted || !committed.contains(&self.records)
    }

    /// Adds what was read, and complains of what should not have been, or was not.
    pub fn tell(&self, committed: &RangeInclusive<u64>, figures: &mut Figures) {
        let (records, all) = (units::count(self.records), units::count(*committed.start()));
        let words = "committed records were read, those of the warm-up included";
        figures.tell("read_records", format!("{records} of {all} {words}"), self.records);
        figures.tell_latencies("from its due time until it was read", "e2e", &self.latencies);
        let mut complain = |count: u64, one: &str, many: &str| {
            if 0 < count {
                figures.complain(counted(count, one, many));
            }
        };
        let (one, many) =
            ("record of an aborted transaction was", "records of aborted transactions were");
        complain(self.aborted, &format!("{one} read"), &format!("{many} read"));
        let lost = committed.start().saturating_sub(self.records);
        complain(lost, "committed record was not read", "committed records were not read");
        let more = self.records.saturating_sub(*committed.end());
        complain(more, "record too many was read", "records too many were read");
    }
}
