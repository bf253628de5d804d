//! One connection that reads: it asks, verifies all that comes, and asks for what comes next.
//!
//! A slow reader asks again only when its share of time has passed; a late one begins later. After
//! the load has ended both read as fast as they can, until they have seen everything.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use tidemill_client::kafka::fetch::{FetchPartition, FetchResponse, OutgoingFetch};
use tidemill_client::kafka::{ApiKey, ErrorCode};
use tidemill_client::{Connection, Reply};
use tidemill_runtime::edge::Instant;

use crate::load::{Tag, Wrong, client_time};
use crate::plan::Plan;
use crate::tally::{Ends, Measure, ReadBack, Tallies};
use crate::verify::Verifier;

/// How long an answer may take beyond the wait that was asked for.
const TIMEOUT: Duration = Duration::from_secs(60);

/// How long a reader waits before it asks again what was refused.
const AFTER_REFUSAL: Duration = Duration::from_millis(100);

/// How readers behave.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Serialize)]
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
    /// What was refused is not asked for again before.
    refused_until: Instant,
}

/// What came with one answer.
#[derive(Default)]
struct Taken {
    bytes: u64,
    records: u64,
    /// Of the first partition that was refused.
    refusal: Option<ErrorCode>,
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
    /// A slow reader's next turn.
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
            refused_until: Instant::default(),
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
            .filter(|place| !place.caught_up && place.refused_until <= now)
            .map(|place| {
                let from = place.verifier.next_offset();
                let bytes = self.reading.fetch_bytes;
                FetchPartition::from_consumer(topic, place.partition, from, bytes)
            })
            .collect();
        if partitions.is_empty() {
            return;
        }
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
            Err(error) => ends.troubles.note(plan.seconds(now), format!("fetch: {error}")),
        }
    }

    /// When there is something to do, unless an answer comes before.
    pub fn next_wake(&self, plan: &Plan) -> Option<Instant> {
        let waits = self.asked.is_none() && !self.is_done();
        let begin = plan.start.after(self.reading.delay);
        let unfinished = self.places.iter().filter(|place| !place.caught_up);
        let allowed = unfinished.map(|place| place.refused_until).min().filter(|_| waits)?;
        Some(self.not_before.max(begin).max(allowed))
    }

    /// Whether it has read everything.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.places.iter().all(|place| place.caught_up)
    }

    /// The connection was lost: what was asked for will not come, and is asked for again.
    pub fn handle_lost(&mut self) {
        self.asked = None;
    }

    /// An answer has come.
    pub fn take_answer(
        &mut self,
        reply: &Reply,
        plan: &Plan,
        tallies: &mut Tallies,
        ends: &mut Ends,
        now: Instant,
    ) -> Result<(), Wrong> {
        let asked = self.asked.take().ok_or_else(|| Wrong::damage("an answer nobody asked for"))?;
        let response = reply.fetch().map_err(Wrong::damage)?;
        // The connection heeds this by itself.
        ends.take_throttle(response.throttle_time_ms);
        let Taken { bytes, records, refusal } =
            self.take_records(&response, plan, tallies, asked.1, now)?;
        if let Some(phase) = plan.measuring(now)
            && refusal.is_some()
        {
            tallies.phase(phase).errors += 1;
        }
        if let Some(rate) = self.reading.rate {
            let pause = Duration::from_secs_f64(bytes as f64 / rate);
            self.not_before = self.not_before.max(asked.0).after(pause);
        }
        if let Some(phase) = plan.measuring(now)
            && 0 < bytes
        {
            let tally = tallies.phase(phase);
            tally.read_bytes += bytes;
            tally.read_records += records;
            tally.record(Measure::Fetch, now.since(asked.0).as_nanos() as u64, 1);
            ends.last_answer_nanos = now.since(plan.start).as_nanos() as u64;
        }
        refusal.map_or(Ok(()), |code| Err(Wrong::refused("fetch", code)))
    }

    /// Verifies all records of an answer. A partition that was refused is asked for again after a
    /// while; it says nothing about the others.
    fn take_records(
        &mut self,
        response: &FetchResponse<'_>,
        plan: &Plan,
        tallies: &mut Tallies,
        settled: bool,
        now: Instant,
    ) -> Result<Taken, Wrong> {
        let again_from = now.after(AFTER_REFUSAL);
        if !response.error_code.is_none() {
            self.places.iter_mut().for_each(|place| place.refused_until = again_from);
            return Ok(Taken { refusal: Some(response.error_code), ..Taken::default() });
        }
        let Taken { mut bytes, mut records, mut refusal } = Taken::default();
        for answer in response.partitions.iter() {
            let is_asked = |place: &&mut Place| place.partition == answer.partition;
            let place = self.places.iter_mut().find(is_asked);
            let unasked = || Wrong::damage("an answer for a partition nobody asked for");
            let place = place.ok_or_else(unasked)?;
            if !answer.error_code.is_none() {
                place.refused_until = again_from;
                refusal = refusal.or(Some(answer.error_code));
                continue;
            }
            let before = place.verifier.records();
            for slice in answer.records.iter() {
                bytes += slice.len() as u64;
                if self.reading.verify {
                    let mut take_due = |due_nanos| {
                        let due = plan.start.after(Duration::from_nanos(due_nanos));
                        if let Some(phase) = plan.phase_of(due) {
                            let spent = now.since(due).as_nanos() as u64;
                            tallies.phase(phase).record(Measure::EndToEnd, spent, 1);
                        }
                    };
                    let partition = answer.partition;
                    let told = |why| Wrong::Damage(format!("partition {partition}: {why}"));
                    place.verifier.take(slice, &mut take_due).map_err(told)?;
                }
            }
            records += place.verifier.records() - before;
            place.caught_up = settled && answer.high_watermark <= place.verifier.next_offset();
        }
        Ok(Taken { bytes, records, refusal })
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

#[cfg(test)]
mod tests {
    use bytes::{Bytes, BytesMut};
    use tidemill_client::Event;
    use tidemill_client::kafka::fetch::FetchPartitionResponse;
    use tidemill_client::kafka::{RequestHeader, TopicRef};
    use tidemill_client::record::{BatchBuilder, Codec, Timestamp};

    use super::*;
    use crate::produce::tests::{at, connection, scene};

    fn batch(records: usize) -> Bytes {
        let mut builder = BatchBuilder::new(Codec::None);
        (0..records).for_each(|_| builder.append(Timestamp(1), None, Some(b"somebody's")));
        builder.build().freeze()
    }

    /// The partitions that were asked for, answered with a refusal of the first.
    fn exchange(
        following: &mut Following,
        connection: &mut Connection<Tag>,
        plan: &Plan,
        now: Instant,
    ) -> (Vec<i32>, Result<(), Wrong>) {
        let (mut tallies, mut ends) = (Tallies::of(1), Ends::default());
        following.drive(plan, connection, &mut ends, false, now);
        let mut frame = Vec::new();
        connection.take_output(&mut frame);
        if frame.is_empty() {
            return (Vec::new(), Ok(()));
        }
        let frame = Bytes::from(frame.concat()).slice(4..);
        let header = RequestHeader::parse(&frame).unwrap();
        let (version, id) = (header.version, header.correlation_id);
        let body = frame.slice(header.body_start..);
        let request = tidemill_client::kafka::AnyRequest::parse(ApiKey::Fetch, version, &body);
        let Ok(tidemill_client::kafka::AnyRequest::Fetch(request)) = request else {
            panic!("a fetch");
        };
        let places: Vec<(i32, i64)> =
            request.partitions().map(|asked| (asked.partition, asked.fetch_offset)).collect();
        let topic = TopicRef::Name("topic");
        let answers = places.iter().map(|place| match *place {
            (0, _) => FetchPartitionResponse::failed(topic, 0, ErrorCode::OffsetOutOfRange),
            (partition, 0) => FetchPartitionResponse {
                records: vec![batch(3)].into(),
                ..FetchPartitionResponse::at(topic, partition, 3)
            },
            (partition, _) => FetchPartitionResponse::at(topic, partition, 3),
        });
        let response = FetchResponse { partitions: answers.collect(), ..FetchResponse::default() };
        let (mut out, mut parts) = (BytesMut::new(), Vec::new());
        response.encode(&mut out, &mut parts, version, id);
        connection.handle_bytes(&parts.concat(), client_time(now));
        connection.handle_bytes(&out, client_time(now));
        let Some(Event::Reply(_, reply)) = connection.poll_event() else { panic!("a reply") };
        let taken = following.take_answer(&reply, plan, &mut tallies, &mut ends, now);
        (places.into_iter().map(|(partition, _)| partition).collect(), taken)
    }

    /// One partition that was refused once threw away what had come of the others, and made all of
    /// them wait.
    #[test]
    fn a_refusal_is_of_its_partition_only() {
        let (plan, _) = scene();
        let places = [(0, 0), (1, 0), (2, 0)];
        let mut following = Following::new(7, 0, &places, Reading::default());
        let mut connection = connection(&[ApiKey::Fetch]);
        let (asked, taken) = exchange(&mut following, &mut connection, &plan, at(1));
        assert_eq!(asked, [0, 1, 2]);
        assert!(matches!(taken, Err(Wrong::Refused { .. })), "{taken:?}");
        let read: Vec<u64> = following.places.iter().map(|p| p.verifier.foreign()).collect();
        assert_eq!(read, [0, 3, 3]);
        // The others are asked at once, the refused one after a while.
        assert!(following.next_wake(&plan).unwrap() <= at(1));
        let (mut asked, taken) = exchange(&mut following, &mut connection, &plan, at(2));
        asked.sort_unstable();
        assert_eq!((asked, taken), (vec![1, 2], Ok(())));
        let (mut asked, _) = exchange(&mut following, &mut connection, &plan, at(102));
        asked.sort_unstable();
        assert_eq!(asked, [0, 1, 2]);
    }
}
