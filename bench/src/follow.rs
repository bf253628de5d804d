//! One connection that reads: it asks, verifies all that comes, and asks for what comes next.
//!
//! A slow reader asks again only when its share of time has passed; a late one begins later. After
//! the load has ended both read as fast as they can, until they have seen everything.

use std::time::Duration;

use tidemill_client::kafka::ApiKey;
use tidemill_client::kafka::fetch::{FetchPartition, OutgoingFetch};
use tidemill_client::{Connection, Reply};
use tidemill_runtime::edge::Instant;

use crate::load::{Plan, Tag, client_time};
use crate::tally::{Ends, Measure, ReadBack, Tally};
use crate::verify::Verifier;

/// How long an answer may take beyond the wait that was asked for.
const TIMEOUT: Duration = Duration::from_secs(60);

/// How readers behave.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Reading {
    /// The most bytes of one partition a fetch asks for.
    pub fetch_bytes: i32,
    /// The most bytes in all a fetch asks for.
    pub fetch_bytes_all: i32,
    /// How long a broker may hold a fetch that finds nothing.
    pub wait: Duration,
    /// Bytes per second that each connection reads at most; none for as many as come.
    pub rate: Option<f64>,
    /// How long after the start readers begin.
    pub delay: Duration,
    /// Whether records are checked, not only counted.
    pub verify: bool,
}

impl Default for Reading {
    fn default() -> Self {
        Self {
            fetch_bytes: 1 << 20,
            fetch_bytes_all: 8 << 20,
            wait: Duration::from_millis(200),
            rate: None,
            delay: Duration::ZERO,
            verify: true,
        }
    }
}

/// One partition as one reader sees it.
struct Place {
    partition: i32,
    verifier: Verifier,
    caught_up: bool,
}

/// What one connection reads.
pub struct Following {
    set: usize,
    reading: Reading,
    places: Vec<Place>,
    /// From which place the next fetch begins, so that each comes first in turn.
    first: usize,
    /// When the fetch under way was sent, and whether all producing had ended before.
    asked: Option<(Instant, bool)>,
    not_before: Instant,
}

impl Following {
    /// Reads these partitions, each from its offset, as part of a set.
    #[must_use]
    pub fn new(run: u64, set: usize, partitions: &[(i32, i64)], reading: Reading) -> Self {
        let place = |(partition, from): &(i32, i64)| Place {
            partition: *partition,
            verifier: Verifier::new(run, *from),
            caught_up: false,
        };
        let places = partitions.iter().map(place).collect();
        Self { set, reading, places, first: 0, asked: None, not_before: Instant::default() }
    }

    /// Asks, if it is time to. `settled`: nothing more will be produced.
    pub fn drive(
        &mut self,
        plan: &Plan,
        connection: &mut Connection<Tag>,
        ends: &mut Ends,
        settled: bool,
        now: Instant,
    ) {
        let begin = plan.start.after(self.reading.delay);
        let too_early = !settled && (now < self.not_before || now < begin);
        if self.asked.is_some() || self.is_done() || too_early {
            return;
        }
        if !connection.has_room(client_time(now)) {
            return;
        }
        let count = self.places.len();
        let topic = plan.topic_for(connection, ApiKey::Fetch);
        let partitions: Vec<FetchPartition<'_>> = (0..count)
            .map(|nth| &self.places[(self.first + nth) % count])
            .filter(|place| !place.caught_up)
            .map(|place| {
                let from = place.verifier.next_offset();
                let bytes = self.reading.fetch_bytes;
                FetchPartition::from_consumer(topic, place.partition, from, bytes)
            })
            .collect();
        self.first = (self.first + 1) % count;
        let request = OutgoingFetch {
            max_wait_ms: self.reading.wait.as_millis() as i32,
            max_bytes: self.reading.fetch_bytes_all,
            partitions: &partitions,
            ..OutgoingFetch::default()
        };
        let timeout = TIMEOUT + self.reading.wait;
        match connection.fetch(&request, Tag::Asked, timeout, client_time(now)) {
            Ok(()) => self.asked = Some((now, settled)),
            Err(error) => ends.fault(format!("fetch: {error}")),
        }
    }

    /// When there is something to do, unless an answer comes before.
    pub fn next_wake(&self, plan: &Plan) -> Option<Instant> {
        let waits = self.asked.is_none() && !self.is_done();
        waits.then(|| self.not_before.max(plan.start.after(self.reading.delay)))
    }

    /// Whether it has read everything.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.places.iter().all(|place| place.caught_up)
    }

    /// An answer has come.
    pub fn take_answer(
        &mut self,
        reply: &Reply,
        plan: &Plan,
        tally: &mut Tally,
        ends: &mut Ends,
        now: Instant,
    ) -> Result<(), String> {
        let response = reply.fetch().map_err(|error| error.to_string())?;
        let (asked_at, settled) = self.asked.take().ok_or("an answer nobody asked for")?;
        if !response.error_code.is_none() {
            tally.errors += 1;
            return Err(format!("fetch: {:?}", response.error_code));
        }
        let measuring = plan.is_measuring(now);
        let (mut bytes, mut records) = (0, 0);
        for answer in response.partitions.iter() {
            if !answer.error_code.is_none() {
                tally.errors += 1;
                return Err(format!("fetch: {:?}", answer.error_code));
            }
            let is_asked = |place: &&mut Place| place.partition == answer.partition;
            let place = self.places.iter_mut().find(is_asked);
            let place = place.ok_or("an answer for a partition nobody asked for")?;
            let before = place.verifier.records();
            for slice in answer.records.iter() {
                bytes += slice.len() as u64;
                if self.reading.verify {
                    place.verifier.take(slice, &mut |due| {
                        if plan.counts(due) {
                            let spent = now.since(due).as_nanos() as u64;
                            tally.record(Measure::EndToEnd, spent, 1);
                        }
                    })?;
                }
            }
            records += place.verifier.records() - before;
            place.caught_up = settled && answer.high_watermark <= place.verifier.next_offset();
        }
        if let Some(rate) = self.reading.rate {
            let pause = Duration::from_secs_f64(bytes as f64 / rate);
            self.not_before = self.not_before.max(asked_at).after(pause);
        }
        if measuring && 0 < bytes {
            tally.read_bytes += bytes;
            tally.read_records += records;
            tally.record(Measure::Fetch, now.since(asked_at).as_nanos() as u64, 1);
            ends.last_answer = now;
        }
        Ok(())
    }

    /// What is known at the end.
    pub fn finish(self, ends: &mut Ends) {
        if !self.reading.verify {
            return;
        }
        for place in self.places {
            ends.read.push(ReadBack {
                set: self.set,
                partition: place.partition,
                caught_up: place.caught_up,
                records: place.verifier.records(),
                foreign: place.verifier.foreign(),
                seen: place.verifier.producers().to_vec(),
            });
        }
    }
}
