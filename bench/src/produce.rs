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

use crate::arrival::Arrivals;
use crate::load::{Plan, Tag, client_time};
use crate::tally::{Ends, Measure, Produced, Tally};
use crate::workload::{Identity, Shape, Values};

/// How long an answer may take.
const TIMEOUT: Duration = Duration::from_secs(60);

/// How many ranges of refused sequences are kept for one producer; more are one range.
const FAILED_MAX: usize = 10_000;

/// Records that were due at the same time.
type Due = (Instant, u64);

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
    codec: tidemill_record::Codec,
    arrivals: Arrivals,
    is_closed_loop: bool,
    is_keyed: bool,
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
    burst: Option<(Instant, u32)>,
}

impl Producing {
    /// For these partitions; their producers are numbered from `first_producer` on.
    #[must_use]
    pub fn new(
        partitions: &[i32],
        first_producer: u32,
        shape: Shape,
        pool: Arc<[u8]>,
        arrivals: Arrivals,
    ) -> Self {
        let stream = |(nth, partition): (usize, &i32)| Stream {
            partition: *partition,
            producer: first_producer + nth as u32,
            next_sequence: 0,
            last_offset: -1,
            failed: Vec::new(),
            batch: BatchBuilder::new(shape.codec),
            dues: Vec::new(),
            opened: Instant::default(),
            nth_batch: 0,
            is_full: false,
        };
        Self {
            streams: partitions.iter().enumerate().map(stream).collect(),
            values: Values::new(shape, pool, u64::from(first_producer) + 1),
            codec: shape.codec,
            is_closed_loop: arrivals.next_due().is_none(),
            is_keyed: shape.keys.is_some(),
            arrivals,
            current: 0,
            full: VecDeque::new(),
            open: VecDeque::new(),
            in_flight: 0,
            room_since: Instant::default(),
            had_room: true,
            burst: None,
        }
    }

    /// Takes what is due, sends what can be sent.
    pub fn drive(
        &mut self,
        plan: &Plan,
        connection: &mut Connection<Tag>,
        tally: &mut Tally,
        ends: &mut Ends,
        now: Instant,
    ) {
        loop {
            self.take_due(plan, tally, now);
            let sent = self.send(plan, connection, tally, ends, now);
            self.note_room(now);
            if !sent {
                return;
            }
        }
    }

    /// When there is something to do, unless an answer comes before.
    pub fn next_wake(&self, plan: &Plan) -> Option<Instant> {
        let has_place = self.full.len() < self.streams.len();
        let due = self.arrivals.next_due().filter(|due| has_place && *due < plan.end);
        let has_room = self.in_flight < plan.in_flight_max;
        let oldest = self.open.front().filter(|_| has_room);
        let lingered = oldest.map(|(stream, _)| self.streams[*stream].opened.after(plan.linger));
        match (due, lingered) {
            (Some(due), Some(lingered)) => Some(due.min(lingered)),
            (due, lingered) => due.or(lingered),
        }
    }

    /// Whether all that was due is answered.
    pub fn is_settled(&self, plan: &Plan) -> bool {
        let all_due = self.arrivals.next_due().is_none_or(|due| plan.end <= due);
        let nothing_waits = self.full.is_empty() && self.open.is_empty() && self.burst.is_none();
        all_due && nothing_waits && self.in_flight == 0
    }

    /// What is known at the end. What was not answered counts as refused.
    pub fn finish(mut self, plan: &Plan, ends: &mut Ends) {
        while let Some((due, records)) = self.next_due(plan.end) {
            ends.unanswered += if due < plan.end { u64::from(records) } else { 0 };
        }
        for stream in self.streams {
            ends.unanswered += stream.dues.iter().map(|(_, records)| records).sum::<u64>();
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

    fn next_due(&mut self, now: Instant) -> Option<(Instant, u32)> {
        self.burst.take().or_else(|| self.arrivals.poll_due(now))
    }

    fn take_due(&mut self, plan: &Plan, tally: &mut Tally, now: Instant) {
        if self.is_closed_loop {
            return;
        }
        let until = Instant { nanos: now.nanos.min(plan.end.nanos.saturating_sub(1)) };
        while self.full.len() < self.streams.len() {
            let Some((due, records)) = self.next_due(until) else { return };
            let mut left = records;
            while 0 < left && self.full.len() < self.streams.len() {
                self.append(plan, due, now);
                left -= 1;
            }
            if 0 < left {
                self.burst = Some((due, left));
            }
            if plan.counts(due) {
                if due < self.room_since {
                    tally.held_back += u64::from(records - left);
                } else {
                    let late = now.since(due).as_nanos() as u64;
                    tally.record(Measure::Late, late, u64::from(records - left));
                }
            }
        }
    }

    /// Puts one record into a batch that is not full. There is one.
    fn append(&mut self, plan: &Plan, due: Instant, now: Instant) {
        while self.streams[self.current].is_full {
            self.current = (self.current + 1) % self.streams.len();
        }
        let place = self.current;
        let stream = &mut self.streams[place];
        if stream.batch.records_count() == 0 {
            stream.opened = now;
            self.open.push_back((place, stream.nth_batch));
        }
        let identity = Identity {
            run: plan.run,
            producer: stream.producer,
            sequence: stream.next_sequence,
            due,
        };
        stream.next_sequence += 1;
        let (key, value) = self.values.next(stream.partition, identity);
        let size = value.len() + key.map_or(0, <[u8]>::len);
        stream.batch.append(Timestamp(plan.wall_clock_ms(now)), key, Some(value));
        match stream.dues.last_mut() {
            Some((last, records)) if *last == due => *records += 1,
            _ => stream.dues.push((due, 1)),
        }
        // The next record is about as large as this one.
        if plan.batch_bytes < stream.batch.size_bytes() + size + 16 {
            stream.is_full = true;
            self.full.push_back(place);
        }
        if stream.is_full || self.is_keyed {
            self.current = (place + 1) % self.streams.len();
        }
    }

    /// Sends batches while there is room; whether it sent any.
    fn send(
        &mut self,
        plan: &Plan,
        connection: &mut Connection<Tag>,
        tally: &mut Tally,
        ends: &mut Ends,
        now: Instant,
    ) -> bool {
        let mut sent = false;
        while connection.has_room(client_time(now)) {
            let closed_loop = self.is_closed_loop && plan.start <= now && now < plan.end;
            if closed_loop && self.full.is_empty() {
                self.fill(plan, now);
            }
            let Some(place) = self.next_batch(plan, now) else { break };
            if let Err(error) = self.send_batch(place, plan, connection, tally, now) {
                ends.fault(format!("produce: {error}"));
                break;
            }
            sent = true;
        }
        sent
    }

    /// A full batch, all due now.
    fn fill(&mut self, plan: &Plan, now: Instant) {
        while self.full.is_empty() {
            self.append(plan, now, now);
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
            if !is_gone && now < stream.opened.after(plan.linger) && now < plan.end {
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
        tally: &mut Tally,
        now: Instant,
    ) -> Result<(), tidemill_client::SendError> {
        let stream = &mut self.streams[place];
        let batch = std::mem::replace(&mut stream.batch, BatchBuilder::new(self.codec));
        let records: Bytes = batch.build().freeze();
        let count = u64::from(batch.records_count());
        stream.nth_batch += 1;
        stream.is_full = false;
        let sent = Sent {
            stream: place,
            sequences: stream.next_sequence - count..stream.next_sequence,
            bytes: records.len() as u64,
            at: now,
            dues: std::mem::take(&mut stream.dues),
        };
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
        if plan.acks == 0 {
            // Nobody will tell: what is sent counts as done.
            if plan.is_measuring(now) {
                tally.acked_bytes += sent.bytes;
                tally.acked_records += count;
                tally.acked_batches += 1;
            }
        } else {
            self.in_flight += 1;
        }
        connection.produce(&request, Tag::Produced(sent), TIMEOUT, client_time(now))
    }

    /// An answer has come.
    pub fn take_answer(
        &mut self,
        sent: &Sent,
        reply: &Reply,
        plan: &Plan,
        tally: &mut Tally,
        ends: &mut Ends,
        now: Instant,
    ) -> Result<(), String> {
        self.in_flight -= 1;
        let response = reply.produce().map_err(|error| error.to_string())?;
        let partition = response.partitions.first().ok_or("an answer for no partition")?;
        let stream = &mut self.streams[sent.stream];
        if !partition.error_code.is_none() {
            stream.refused(sent.sequences.clone());
            tally.errors += 1;
            ends.fault(format!("produce: {:?}", partition.error_code));
            return Ok(());
        }
        if partition.base_offset <= stream.last_offset {
            let (found, last) = (partition.base_offset, stream.last_offset);
            return Err(format!("offset {found} after {last}"));
        }
        stream.last_offset = partition.base_offset;
        if plan.is_measuring(now) {
            tally.acked_bytes += sent.bytes;
            tally.acked_records += sent.sequences.end - sent.sequences.start;
            tally.acked_batches += 1;
            ends.last_answer = now;
        }
        // Records due in the window count whenever their answer comes: the slow ones, too.
        for (due, records) in &sent.dues {
            if plan.counts(*due) {
                tally.record(Measure::Ack, now.since(*due).as_nanos() as u64, *records);
            }
        }
        if plan.counts(sent.at) {
            tally.record(Measure::Service, now.since(sent.at).as_nanos() as u64, 1);
        }
        Ok(())
    }

    /// No answer will come: whether the records are there is not known.
    pub fn take_loss(&mut self, sent: &Sent, ends: &mut Ends) {
        self.in_flight -= 1;
        ends.unanswered += sent.sequences.end - sent.sequences.start;
        self.streams[sent.stream].refused(sent.sequences.clone());
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
