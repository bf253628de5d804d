//! One connection that produces: what is due goes into batches, batches go out as the connection
//! has room, and each answer tells when the records in its batch became durable.
//!
//! ```text
//! due -> open batch of a partition --full, or lingered--> request --answer--> latencies
//! ```
//!
//! Records without keys fill one partition's batch before they go on to the next one (as Kafka's
//! producer does); records with keys go to the partitions in turn. While as many requests are in
//! flight as may be, batches fill up; when all are full, what is due waits in the schedule.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tidemill_client::kafka::ApiKey;
use tidemill_client::kafka::produce::{OutgoingBatch, OutgoingBatches};
use tidemill_client::{Connection, Reply};
use tidemill_record::{BatchBuilder, Timestamp};
use tidemill_runtime::edge::Instant;

use crate::arrival::{Due, Schedule};
use crate::load::{Tag, Wrong, client_time};
use crate::plan::Plan;
use crate::settings::{Phase, Settings, Share};
use crate::tally::{Ends, Measure, Produced, Tallies};
use crate::workload::{Identity, Shape, Values};

/// How long an answer may take.
const TIMEOUT: Duration = Duration::from_secs(60);

/// How many ranges of refused sequences are kept for one producer; more are one range.
const FAILED_MAX: usize = 10_000;

/// A batch on its way.
#[derive(Debug)]
pub struct Sent {
    stream: usize,
    sequences: Range<u64>,
    bytes: u64,
    at: Instant,
    dues: Vec<Due>,
}

/// One connection's records for one partition.
struct Stream {
    partition: i32,
    producer: u32,
    next_sequence: u64,
    last_offset: i64,
    failed: Vec<Range<u64>>,
    batch: BatchBuilder,
    dues: Vec<Due>,
    opened: Instant,
    /// Counts the batches, so that a place in a queue is known to be of one before.
    nth_batch: u64,
    is_full: bool,
}

/// What one connection produces.
pub struct Producing {
    streams: Vec<Stream>,
    values: Values,
    /// What records look like in each phase.
    shapes: Vec<Shape>,
    schedule: Schedule,
    /// The stream that takes the next record.
    current: usize,
    /// Full batches, to be sent first.
    full: VecDeque<usize>,
    /// Batches with records in them, the oldest first: stream and number of the batch.
    open: VecDeque<(usize, u64)>,
    in_flight: usize,
    /// Since when there has been room for what falls due.
    room_since: Instant,
    had_room: bool,
    /// What is left of a burst that has begun.
    burst: Option<Due>,
    asked_quiet: Duration,
}

impl Producing {
    /// For these partitions, with a share of the load; its producers are numbered from
    /// `first_producer` on.
    #[must_use]
    pub fn new(
        partitions: &[i32],
        first_producer: u32,
        settings: &Settings,
        plan: &Plan,
        pool: Arc<[u8]>,
        share: Share,
    ) -> Self {
        let shapes = settings.shapes();
        let arrivals = |(phase, until): (&Phase, &Instant)| (*until, phase.arrival);
        let phases: Vec<_> = settings.phases.iter().zip(plan.ends()).map(arrivals).collect();
        let stream = |(nth, partition): (usize, &i32)| Stream {
            partition: *partition,
            producer: first_producer + nth as u32,
            next_sequence: 0,
            last_offset: -1,
            failed: Vec::new(),
            batch: BatchBuilder::new(shapes[0].codec),
            dues: Vec::new(),
            opened: Instant::default(),
            nth_batch: 0,
            is_full: false,
        };
        Self {
            streams: partitions.iter().enumerate().map(stream).collect(),
            values: Values::new(&shapes, pool, u64::from(first_producer) + 1),
            shapes,
            schedule: Schedule::new(plan.start, &phases, share),
            current: 0,
            full: VecDeque::new(),
            open: VecDeque::new(),
            in_flight: 0,
            room_since: Instant::default(),
            had_room: true,
            burst: None,
            asked_quiet: Duration::ZERO,
        }
    }

    /// Takes what is due, sends what can be sent.
    pub fn drive(
        &mut self,
        plan: &Plan,
        connection: &mut Connection<Tag>,
        tallies: &mut Tallies,
        ends: &mut Ends,
        now: Instant,
    ) {
        loop {
            self.take_due(plan, tallies, now);
            let sent = self.send(plan, connection, tallies, ends, now);
            self.note_room(now);
            if !sent {
                return;
            }
        }
    }

    /// When there is something to do, unless an answer comes before.
    pub fn next_wake(&self, plan: &Plan, now: Instant) -> Option<Instant> {
        let has_place = self.full.len() < self.streams.len();
        let due = self.schedule.next_due().filter(|_| has_place);
        let has_room = self.in_flight < plan.in_flight_max;
        let oldest = self.open.front().filter(|_| has_room);
        let lingered = oldest.map(|(stream, _)| self.streams[*stream].opened.after(plan.linger));
        let turn = self.schedule.next_turn(now);
        [due, lingered, turn].into_iter().flatten().min()
    }

    /// Whether all that was due is answered.
    pub fn is_settled(&self, now: Instant) -> bool {
        let nothing_waits = self.full.is_empty() && self.open.is_empty() && self.burst.is_none();
        self.schedule.is_over(now) && nothing_waits && self.in_flight == 0
    }

    /// Nothing falls due from `at` on.
    pub fn cut(&mut self, at: Instant) {
        self.schedule.cut(at);
    }

    /// The connection was lost. Nobody can tell how much of what was sent without being
    /// acknowledged has arrived; the rest was told lost one by one.
    pub fn handle_lost(&mut self, plan: &Plan) {
        if plan.acks == 0 {
            for stream in &mut self.streams {
                let unsent = u64::from(stream.batch.records_count());
                stream.failed.clear();
                stream.refused(0..stream.next_sequence - unsent);
            }
        }
    }

    /// The connection is there again: what fell due meanwhile was held back by the broker.
    pub fn handle_rejoined(&mut self, now: Instant) {
        (self.room_since, self.had_room) = (now, true);
    }

    /// What is known at the end. What was not answered counts as refused.
    pub fn finish(mut self, plan: &Plan, tallies: &mut Tallies, ends: &mut Ends, now: Instant) {
        while let Some(due) = self.next_due(now) {
            take_unanswered(&[due], plan, tallies, ends, now);
        }
        for stream in self.streams {
            take_unanswered(&stream.dues, plan, tallies, ends, now);
            // What is in a batch that was never sent was never sent.
            let unsent = u64::from(stream.batch.records_count());
            ends.produced.push(Produced {
                producer: stream.producer,
                partition: stream.partition,
                sent: stream.next_sequence - unsent,
                failed: stream.failed,
            });
        }
    }

    /// Whether something could be sent, or at least gathered: else what falls due is held back.
    fn note_room(&mut self, now: Instant) {
        let has_room = self.full.len() < self.streams.len();
        if has_room && !self.had_room {
            self.room_since = now;
        }
        self.had_room = has_room;
    }

    fn next_due(&mut self, now: Instant) -> Option<Due> {
        self.burst.take().or_else(|| self.schedule.poll_due(now))
    }

    fn take_due(&mut self, plan: &Plan, tallies: &mut Tallies, now: Instant) {
        let stamp = Timestamp(plan.wall_clock_ms(now));
        while self.full.len() < self.streams.len() {
            let Some(due) = self.next_due(now) else { return };
            let mut left = due.records;
            while 0 < left && self.full.len() < self.streams.len() {
                self.append(plan, due, stamp, now);
                left -= 1;
            }
            if 0 < left {
                self.burst = Some(Due { records: left, ..due });
            }
            if plan.counts(due.at) {
                let (taken, tally) = (u64::from(due.records - left), tallies.phase(due.phase));
                if due.at < self.room_since {
                    tally.held_back += taken;
                } else {
                    tally.record(Measure::Late, now.since(due.at).as_nanos() as u64, taken);
                }
            }
        }
    }

    /// Puts one of the records that are due into a batch that is not full. There is one.
    fn append(&mut self, plan: &Plan, due: Due, stamp: Timestamp, now: Instant) {
        while self.streams[self.current].is_full {
            self.current = (self.current + 1) % self.streams.len();
        }
        let place = self.current;
        let stream = &mut self.streams[place];
        if stream.batch.records_count() == 0 {
            stream.opened = now;
            self.open.push_back((place, stream.nth_batch));
        }
        let shape = &self.shapes[due.phase];
        let identity = Identity {
            run: plan.run,
            producer: stream.producer,
            sequence: stream.next_sequence,
            due_nanos: due.at.nanos.saturating_sub(plan.start.nanos),
        };
        stream.next_sequence += 1;
        let (key, value) = self.values.next(shape, stream.partition, identity);
        let size = value.len() + key.map_or(0, <[u8]>::len);
        stream.batch.append(stamp, key, Some(value));
        match stream.dues.last_mut() {
            Some(last) if last.at == due.at => last.records += 1,
            _ => stream.dues.push(Due { records: 1, ..due }),
        }
        // The next record is about as large as this one.
        if plan.batch_bytes < stream.batch.size_bytes() + size + 16 {
            stream.is_full = true;
            self.full.push_back(place);
        }
        if stream.is_full || shape.keys.is_some() {
            self.current = (place + 1) % self.streams.len();
        }
    }

    /// Sends batches while there is room; whether it sent any.
    fn send(
        &mut self,
        plan: &Plan,
        connection: &mut Connection<Tag>,
        tallies: &mut Tallies,
        ends: &mut Ends,
        now: Instant,
    ) -> bool {
        let mut sent = false;
        while connection.has_room(client_time(now)) {
            if let Some(phase) = self.schedule.closed_phase(now)
                && self.full.is_empty()
            {
                self.fill(plan, phase, now);
            }
            let Some(place) = self.next_batch(plan, now) else { break };
            if let Err(error) = self.send_batch(place, plan, connection, tallies, ends, now) {
                ends.troubles.note(plan.seconds(now), format!("produce: {error}"));
                break;
            }
            sent = true;
        }
        sent
    }

    /// A full batch, all due now.
    fn fill(&mut self, plan: &Plan, phase: usize, now: Instant) {
        let stamp = Timestamp(plan.wall_clock_ms(now));
        while self.full.is_empty() {
            self.append(plan, Due { at: now, records: 1, phase }, stamp, now);
        }
    }

    /// The stream whose batch is to be sent now.
    fn next_batch(&mut self, plan: &Plan, now: Instant) -> Option<usize> {
        if let Some(place) = self.full.pop_front() {
            return Some(place);
        }
        loop {
            let (place, nth) = *self.open.front()?;
            let stream = &self.streams[place];
            let is_gone = stream.nth_batch != nth;
            if !is_gone && now < stream.opened.after(plan.linger) && now < plan.end() {
                return None;
            }
            self.open.pop_front();
            if !is_gone {
                return Some(place);
            }
        }
    }

    fn send_batch(
        &mut self,
        place: usize,
        plan: &Plan,
        connection: &mut Connection<Tag>,
        tallies: &mut Tallies,
        ends: &mut Ends,
        now: Instant,
    ) -> Result<(), tidemill_client::SendError> {
        let stream = &mut self.streams[place];
        let batch = std::mem::replace(&mut stream.batch, BatchBuilder::new(self.shapes[0].codec));
        let count = u64::from(batch.records_count());
        let records: Bytes = batch.build().freeze();
        stream.nth_batch += 1;
        stream.is_full = false;
        let (bytes, dues) = (records.len() as u64, std::mem::take(&mut stream.dues));
        let sequences = stream.next_sequence - count..stream.next_sequence;
        let sent = Sent { stream: place, sequences: sequences.clone(), bytes, at: now, dues };
        // Gone from the front at once, so that the queue holds no more than one for each stream.
        while let Some((place, nth)) = self.open.front()
            && self.streams[*place].nth_batch != *nth
        {
            self.open.pop_front();
        }
        let request = OutgoingBatches {
            transactional_id: None,
            acks: plan.acks,
            timeout_ms: 30_000,
            partitions: &[OutgoingBatch {
                topic: plan.topic_for(connection, ApiKey::Produce),
                partition: self.streams[place].partition,
                records: &records,
            }],
        };
        let tag = Tag::Produced(sent);
        if let Err(error) = connection.produce(&request, tag, TIMEOUT, client_time(now)) {
            // The batch is gone, and was never sent.
            ends.unanswered += count;
            self.streams[place].refused(sequences);
            return Err(error);
        }
        if plan.acks != 0 {
            self.in_flight += 1;
        } else if let Some(phase) = plan.measuring(now) {
            // Nobody will tell: what is sent counts as done.
            let tally = tallies.phase(phase);
            tally.acked_bytes += bytes;
            tally.acked_records += count;
            tally.acked_batches += 1;
        }
        Ok(())
    }

    /// How long the broker asked to be left alone with its last answer; most often not at all.
    #[must_use]
    pub fn asked_quiet(&self) -> Duration {
        self.asked_quiet
    }

    /// An answer has come.
    pub fn take_answer(
        &mut self,
        sent: &Sent,
        reply: &Reply,
        plan: &Plan,
        tallies: &mut Tallies,
        ends: &mut Ends,
        now: Instant,
    ) -> Result<(), Wrong> {
        self.in_flight -= 1;
        let damage = |why: String| Wrong::Damage(why);
        let response = reply.produce().map_err(|error| damage(error.to_string()))?;
        self.asked_quiet = ends.take_throttle(response.throttle_time_ms);
        let partition = response.partitions.first();
        let partition = partition.ok_or_else(|| damage("an answer for no partition".to_owned()))?;
        let stream = &mut self.streams[sent.stream];
        let measuring = plan.measuring(now);
        if !partition.error_code.is_none() {
            stream.refused(sent.sequences.clone());
            ends.refused += sent.sequences.end - sent.sequences.start;
            if let Some(phase) = measuring {
                tallies.phase(phase).errors += 1;
            }
            return Err(Wrong::refused("produce", partition.error_code));
        }
        if partition.base_offset <= stream.last_offset {
            let (found, last) = (partition.base_offset, stream.last_offset);
            return Err(damage(format!(
                "partition {}: offset {found} after {last}",
                stream.partition
            )));
        }
        stream.last_offset = partition.base_offset;
        if let Some(phase) = measuring {
            let tally = tallies.phase(phase);
            tally.acked_bytes += sent.bytes;
            tally.acked_records += sent.sequences.end - sent.sequences.start;
            tally.acked_batches += 1;
            ends.last_answer_nanos = now.since(plan.start).as_nanos() as u64;
        }
        // Records due in a phase count there whenever their answer comes: the slow ones, too.
        for due in sent.dues.iter().filter(|due| plan.counts(due.at)) {
            let spent = now.since(due.at).as_nanos() as u64;
            tallies.phase(due.phase).record(Measure::Ack, spent, u64::from(due.records));
        }
        if let Some(phase) = plan.phase_of(sent.at) {
            let spent = now.since(sent.at).as_nanos() as u64;
            tallies.phase(phase).record(Measure::Service, spent, 1);
        }
        Ok(())
    }

    /// No answer will come: whether the records are there is not known.
    pub fn take_loss(
        &mut self,
        sent: &Sent,
        plan: &Plan,
        tallies: &mut Tallies,
        ends: &mut Ends,
        now: Instant,
    ) {
        self.in_flight -= 1;
        take_unanswered(&sent.dues, plan, tallies, ends, now);
        self.streams[sent.stream].refused(sent.sequences.clone());
    }
}

/// Nobody waits for the answer to these records any more. They have waited until now: a latency
/// that leaves them out would tell only of those that the broker was quick with.
fn take_unanswered(
    dues: &[Due],
    plan: &Plan,
    tallies: &mut Tallies,
    ends: &mut Ends,
    now: Instant,
) {
    for due in dues {
        let records = u64::from(due.records);
        ends.unanswered += records;
        if plan.counts(due.at) && plan.acks != 0 {
            let spent = now.since(due.at).as_nanos() as u64;
            tallies.phase(due.phase).record(Measure::Ack, spent, records);
        }
    }
}

impl Stream {
    fn refused(&mut self, sequences: Range<u64>) {
        let many = FAILED_MAX <= self.failed.len();
        match self.failed.last_mut() {
            Some(last) if many || last.end == sequences.start => last.end = sequences.end,
            _ => self.failed.push(sequences),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use bytes::BytesMut;
    use tidemill_client::kafka::api_versions::{ApiVersion, ApiVersionsResponse};
    use tidemill_client::kafka::{RequestHeader, encode_response};
    use tidemill_client::{ConnectionConfig, Event};

    use super::*;
    use crate::arrival::Arrival;
    use crate::control::Topic;
    use crate::workload::pool;

    /// A connection to a broker that speaks these, ready.
    pub(crate) fn connection(spoken: &[ApiKey]) -> Connection<Tag> {
        let mut connection = Connection::new(ConnectionConfig::default());
        connection.handle_connected(client_time(at(0)));
        let mut asked = Vec::new();
        connection.take_output(&mut asked);
        let asked = asked.concat();
        let header = RequestHeader::parse(&asked[4..]).unwrap();
        let version = |key: &ApiKey| ApiVersion {
            api_key: key.to_wire(),
            min_version: key.api().served_min,
            max_version: 9,
        };
        let api_keys = spoken.iter().map(version).collect();
        let answer = ApiVersionsResponse { api_keys, ..ApiVersionsResponse::default() };
        let mut bytes = BytesMut::new();
        encode_response(&mut bytes, header.version, header.correlation_id, &answer);
        connection.handle_input(bytes, client_time(at(0)));
        assert!(matches!(connection.poll_event(), Some(Event::Ready)));
        connection
    }

    pub(crate) fn at(ms: u64) -> Instant {
        Instant { nanos: ms * 1_000_000 }
    }

    /// A record each millisecond for 100 ms, into one partition.
    pub(crate) fn scene() -> (Plan, Producing) {
        let address = std::net::SocketAddr::from(([127, 0, 0, 1], 1));
        let shape = Shape::of_bytes(100);
        let settings = Settings {
            name: String::new(),
            topic: Topic::of_one_leader("topic", address),
            broker_pid: None,
            producers: 1,
            readers: None,
            read_back: false,
            shards: 1,
            phases: vec![Phase {
                name: String::new(),
                duration: Duration::from_millis(100),
                arrival: Arrival::Constant(1000.0),
                shape,
                objective: None,
            }],
            batch_bytes: 16 * 1024,
            linger: Duration::ZERO,
            in_flight_max: 5,
            acks: -1,
            warm_up: Duration::ZERO,
            drain: Duration::ZERO,
            reconnect: Duration::ZERO,
            until_caught_up: false,
        };
        let plan = Plan::of(&settings, 7, at(0), 0);
        let pool = pool(&[shape]);
        let producing = Producing::new(&[0], 0, &settings, &plan, pool, Share::WHOLE);
        (plan, producing)
    }

    /// A broker with no version of Produce in common was told of as one that loses records: those
    /// it was never sent counted as acknowledged, and their place in flight stayed taken.
    #[test]
    fn what_could_not_be_sent_is_not_lost() {
        let (plan, mut producing) = scene();
        let (mut tallies, mut ends) = (Tallies::of(1), Ends::default());
        let mut connection = connection(&[ApiKey::Fetch]);
        producing.drive(&plan, &mut connection, &mut tallies, &mut ends, at(20));
        assert_eq!(ends.troubles.count, 1);
        assert_eq!(producing.in_flight, 0);
        producing.finish(&plan, &mut tallies, &mut ends, at(20));
        let Produced { sent, failed, .. } = &ends.produced[0];
        assert!((19..=21).contains(sent), "{sent}");
        assert!(failed.len() == 1 && failed[0] == (0..*sent), "{failed:?}");
        assert_eq!(ends.unanswered, *sent);
    }

    /// A broker that stopped answering looked fast: what it left without an answer was in no
    /// percentile.
    #[test]
    fn what_gets_no_answer_counts_with_the_time_it_waited() {
        let (plan, mut producing) = scene();
        let (mut tallies, mut ends) = (Tallies::of(1), Ends::default());
        let mut connection = connection(&[ApiKey::Produce]);
        // Due up to 20 ms and sent; the connection breaks at 60 ms. The rest is never sent.
        producing.drive(&plan, &mut connection, &mut tallies, &mut ends, at(20));
        connection.handle_closed("broken");
        let Some(Event::Lost(Tag::Produced(sent))) = connection.poll_event() else {
            panic!("a batch was in flight");
        };
        producing.take_loss(&sent, &plan, &mut tallies, &mut ends, at(60));
        let all = tallies.by_phase()[0].histogram(Measure::Ack).unwrap().clone();
        assert_eq!(all.len(), ends.unanswered);
        assert!((19..=21).contains(&all.len()), "{}", all.len());
        assert!(39_000_000 <= all.min() && all.max() <= 61_000_000, "{} {}", all.min(), all.max());
        producing.finish(&plan, &mut tallies, &mut ends, at(1000));
        let all = tallies.by_phase()[0].histogram(Measure::Ack).unwrap();
        assert!((99..=101).contains(&all.len()), "{}", all.len());
        assert_eq!(all.len(), ends.unanswered);
        assert!(900_000_000 <= all.value_at_quantile(0.99), "{}", all.value_at_quantile(0.99));
    }
}
