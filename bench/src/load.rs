//! The client side of one shard: connections that produce and connections that follow.
//!
//! Each connection belongs to one partition and is connected to its leader. A producer keeps at
//! most so many requests in flight; what is due beyond that waits, its latency running. A
//! follower asks, verifies, and asks for what comes next.
//!
//! After the end no more requests become due; what is in flight is awaited for a while, so that
//! every acknowledged batch is known. Start reading at [`Load::turn`].

use std::collections::VecDeque;
use std::net::TcpStream;
use std::sync::mpsc::Sender;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use hdrhistogram::Histogram;
use tidemill_net::frame::frame_size;
use tidemill_net::kafka::TopicRef;
use tidemill_net::kafka::fetch::{FetchPartition, FetchResponse, OutgoingFetch};
use tidemill_net::kafka::produce::{OutgoingProduce, OutgoingProducePartition, ProduceResponse};
use tidemill_net::kafka::{ApiKey, parse_response_header};
use tidemill_perf::histogram;
use tidemill_runtime::edge::{Completion, Done, Edge, Instant, Next, Op, Program, SocketId, Token};
use tidemill_runtime::ring::RingEdge;

use crate::arrival::Arrivals;
use crate::control::CLIENT_ID;
use crate::workload::{BatchTemplate, Verifier};

/// Versions that Tidemill and Kafka 4 both have, the last that name topics by name.
pub const PRODUCE_VERSION: i16 = 12;
/// As [`PRODUCE_VERSION`].
pub const FETCH_VERSION: i16 = 12;

/// The largest answer accepted.
const ANSWER_BYTES_MAX: usize = 128 << 20;

/// How much room a receive has at the least.
const RECEIVE_ROOM: usize = 64 * 1024;

/// How long answers are awaited after the end.
const DRAIN: Duration = Duration::from_secs(10);

/// The most mistakes that are told in words.
const FAULTS_MAX: usize = 10;

/// One connection's work.
#[derive(Debug)]
pub enum Role {
    /// Produces these batches.
    Produce {
        /// The batches.
        template: Box<BatchTemplate>,
    },
    /// Reads from the partition's beginning on.
    Follow {
        /// Whether records are checked, not only counted.
        verify: bool,
    },
}

/// One connection to be driven.
#[derive(Debug)]
pub struct Connection {
    /// Connected to the leader.
    pub stream: TcpStream,
    /// The partition.
    pub partition: i32,
    /// What to do there.
    pub role: Role,
}

/// What one shard is to do.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The topic.
    pub topic: String,
    /// Kafka's acks: 1 or -1.
    pub acks: i16,
    /// The most requests in flight on one connection.
    pub in_flight_max: usize,
    /// Requests per second of this shard; none for a closed loop.
    pub rate: Option<f64>,
    /// The most bytes a fetch asks for.
    pub fetch_bytes: i32,
    /// When the load begins.
    pub start: Instant,
    /// From when on it counts.
    pub measure_from: Instant,
    /// When it ends.
    pub end: Instant,
    /// Whether followers end when they have read all there is, instead.
    pub until_caught_up: bool,
}

/// What one shard has measured.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Bytes of batches acknowledged in the window.
    pub produced_bytes: u64,
    /// Batches acknowledged in the window.
    pub produced_batches: u64,
    /// Records acknowledged at any time.
    pub acknowledged_records: u64,
    /// Bytes of batches read in the window.
    pub fetched_bytes: u64,
    /// Answers with records read in the window.
    pub fetches: u64,
    /// Records verified at any time.
    pub verified_records: u64,
    /// Nanoseconds from when a produce was due to its answer, for those due in the window.
    pub latency: Histogram<u64>,
    /// Requests that were due and never answered.
    pub unanswered: u64,
    /// How many answers were errors, or not what they should be.
    pub faults: u64,
    /// The first of them, in words.
    pub fault_texts: Vec<String>,
    /// When the last counted answer came.
    pub last_answer: Instant,
}

impl Default for Outcome {
    fn default() -> Self {
        Self {
            produced_bytes: 0,
            produced_batches: 0,
            acknowledged_records: 0,
            fetched_bytes: 0,
            fetches: 0,
            verified_records: 0,
            latency: histogram::empty(),
            unanswered: 0,
            faults: 0,
            fault_texts: Vec::new(),
            last_answer: Instant::default(),
        }
    }
}

impl Outcome {
    /// Adds another shard's.
    pub fn merge(&mut self, other: &Self) {
        self.produced_bytes += other.produced_bytes;
        self.produced_batches += other.produced_batches;
        self.acknowledged_records += other.acknowledged_records;
        self.fetched_bytes += other.fetched_bytes;
        self.fetches += other.fetches;
        self.verified_records += other.verified_records;
        self.latency.add(&other.latency).expect("all have the same range");
        self.unanswered += other.unanswered;
        self.faults += other.faults;
        self.fault_texts.extend(other.fault_texts.iter().cloned());
        self.fault_texts.truncate(FAULTS_MAX);
        self.last_answer = self.last_answer.max(other.last_answer);
    }

    fn fault(&mut self, text: String) {
        self.faults += 1;
        if self.fault_texts.len() < FAULTS_MAX {
            self.fault_texts.push(text);
        }
    }
}

/// The program of one shard of the load generator.
pub struct Load {
    plan: Plan,
    /// Not yet part of the edge.
    streams: Vec<TcpStream>,
    links: Vec<Link>,
    arrivals: Arrivals,
    /// Whose turn it is to take the next request that is due.
    next_link: usize,
    producers: Vec<usize>,
    outcome: Outcome,
    report: Sender<Outcome>,
}

struct Link {
    socket: SocketId,
    partition: i32,
    work: Work,
    input: BytesMut,
    /// Frames not yet handed to the socket.
    outgoing: BytesMut,
    sending: bool,
    correlation_id: i32,
    open: bool,
}

enum Work {
    Produce {
        template: Box<BatchTemplate>,
        in_flight: VecDeque<Sent>,
        /// Due, but no place in flight was free: when each was due.
        waiting: VecDeque<Instant>,
        last_offset: i64,
    },
    Follow {
        verifier: Option<Verifier>,
        next_offset: i64,
        asked: bool,
        caught_up: bool,
    },
}

struct Sent {
    due: Instant,
    bytes: u64,
    correlation_id: i32,
}

const RECEIVED: u64 = 0;
const SENT: u64 = 1;

fn token(link: usize, what: u64) -> Token {
    Token((link as u64) << 1 | what)
}

impl Load {
    /// A load that begins with the shard's first turn and reports when it ends.
    #[must_use]
    pub fn new(plan: Plan, connections: Vec<Connection>, report: Sender<Outcome>) -> Self {
        let arrivals = Arrivals::new(plan.start, plan.rate);
        let mut load = Self {
            plan,
            streams: Vec::new(),
            links: Vec::new(),
            arrivals,
            next_link: 0,
            producers: Vec::new(),
            outcome: Outcome::default(),
            report,
        };
        for connection in connections {
            load.add(connection);
        }
        load
    }

    fn add(&mut self, connection: Connection) {
        let work = match connection.role {
            Role::Produce { template } => {
                self.producers.push(self.links.len());
                let (in_flight, waiting) = (VecDeque::new(), VecDeque::new());
                Work::Produce { template, in_flight, waiting, last_offset: -1 }
            }
            Role::Follow { verify } => Work::Follow {
                verifier: verify.then(Verifier::default),
                next_offset: 0,
                asked: false,
                caught_up: false,
            },
        };
        self.streams.push(connection.stream);
        self.links.push(Link {
            socket: SocketId(u32::MAX),
            partition: connection.partition,
            work,
            input: BytesMut::new(),
            outgoing: BytesMut::new(),
            sending: false,
            correlation_id: 0,
            open: true,
        });
    }

    fn adopt(&mut self, edge: &mut RingEdge<()>) {
        for (i, stream) in self.streams.drain(..).enumerate() {
            self.links[i].socket = edge.adopt(stream);
            self.links[i].receive(i, edge);
        }
    }

    /// Requests that have become due go to the connections in turn.
    fn take_due(&mut self, now: Instant) {
        if self.producers.is_empty() || now < self.plan.start || self.plan.end <= now {
            return;
        }
        while let Some(due) = self.arrivals.poll_due(now) {
            let link = self.producers[self.next_link % self.producers.len()];
            self.next_link += 1;
            let Work::Produce { waiting, .. } = &mut self.links[link].work else {
                unreachable!("only producers are listed")
            };
            waiting.push_back(due);
        }
    }

    fn drive(&mut self, i: usize, now: Instant, edge: &mut RingEdge<()>) {
        let link = &mut self.links[i];
        if !link.open || now < self.plan.start {
            return;
        }
        let ended = self.plan.end <= now;
        let closed_loop = !self.arrivals.is_open_loop() && !ended;
        match &mut link.work {
            Work::Produce { template, in_flight, waiting, .. } => {
                while in_flight.len() < self.plan.in_flight_max {
                    let due = match waiting.pop_front() {
                        Some(due) => due,
                        None if closed_loop => now,
                        None => break,
                    };
                    let batch = template.next_batch();
                    let bytes = batch.len() as u64;
                    let correlation_id = link.correlation_id;
                    link.correlation_id = correlation_id.wrapping_add(1);
                    let request = OutgoingProduce {
                        transactional_id: None,
                        acks: self.plan.acks,
                        timeout_ms: 30_000,
                        partitions: &[OutgoingProducePartition {
                            topic: TopicRef::Name(&self.plan.topic),
                            partition: link.partition,
                            records: Some(batch),
                        }],
                    };
                    let out = &mut link.outgoing;
                    request.encode(out, PRODUCE_VERSION, correlation_id, Some(CLIENT_ID));
                    in_flight.push_back(Sent { due, bytes, correlation_id });
                }
            }
            Work::Follow { next_offset, asked, caught_up, .. } => {
                if !*asked && !*caught_up && (!ended || self.plan.until_caught_up) {
                    let partition = FetchPartition::from_consumer(
                        TopicRef::Name(&self.plan.topic),
                        link.partition,
                        *next_offset,
                        self.plan.fetch_bytes,
                    );
                    let request = OutgoingFetch {
                        max_wait_ms: 200,
                        max_bytes: self.plan.fetch_bytes,
                        partitions: &[partition],
                        ..OutgoingFetch::default()
                    };
                    let correlation_id = link.correlation_id;
                    link.correlation_id = correlation_id.wrapping_add(1);
                    let out = &mut link.outgoing;
                    request.encode(out, FETCH_VERSION, correlation_id, Some(CLIENT_ID));
                    *asked = true;
                }
            }
        }
        link.flush(i, edge);
    }

    fn handle_completion(&mut self, completion: Completion, now: Instant, edge: &mut RingEdge<()>) {
        let i = (completion.token.0 >> 1) as usize;
        let link = &mut self.links[i];
        match completion.result {
            Ok(Done::Received { bytes, received }) if 0 < received => {
                link.input = bytes;
                self.take_answers(i, now);
                self.links[i].receive(i, edge);
            }
            Ok(Done::Received { .. }) => self.lost(i, "the broker closed the connection"),
            Ok(_) => link.sending = false,
            Err(fault) => self.lost(i, &format!("the connection failed: {fault:?}")),
        }
    }

    fn lost(&mut self, i: usize, why: &str) {
        let link = &mut self.links[i];
        if link.open {
            link.open = false;
            self.outcome.fault(format!("partition {}: {why}", link.partition));
        }
    }

    fn take_answers(&mut self, i: usize, now: Instant) {
        loop {
            let link = &mut self.links[i];
            let frame = match link.take_frame() {
                Ok(Some(frame)) => frame,
                Ok(None) => return,
                Err(why) => return self.lost(i, &why),
            };
            let taken = match &link.work {
                Work::Produce { .. } => self.take_produced(i, &frame, now),
                Work::Follow { .. } => self.take_fetched(i, frame, now),
            };
            if let Err(why) = taken {
                return self.lost(i, &why);
            }
        }
    }

    fn counts(&self, now: Instant) -> bool {
        self.plan.measure_from <= now && (now < self.plan.end || self.plan.until_caught_up)
    }

    fn take_produced(&mut self, i: usize, frame: &Bytes, now: Instant) -> Result<(), String> {
        let counts = self.counts(now);
        let Work::Produce { in_flight, last_offset, template, .. } = &mut self.links[i].work else {
            unreachable!("the caller has looked")
        };
        let (id, start) = parse_response_header(ApiKey::Produce, PRODUCE_VERSION, frame)
            .map_err(|error| error.to_string())?;
        let sent = in_flight.pop_front().ok_or("an answer nobody asked for")?;
        if id != sent.correlation_id {
            return Err(format!("answer {id} instead of {}", sent.correlation_id));
        }
        let response = ProduceResponse::parse(PRODUCE_VERSION, &frame[start..])
            .map_err(|error| error.to_string())?;
        let partition = response.partitions.first().ok_or("an answer for no partition")?;
        if !partition.error_code.is_none() {
            self.outcome.fault(format!("produce: {:?}", partition.error_code));
            return Ok(());
        }
        if partition.base_offset <= *last_offset {
            let found = partition.base_offset;
            return Err(format!("offset {found} after {last_offset}"));
        }
        *last_offset = partition.base_offset;
        self.outcome.acknowledged_records += template.records() as u64;
        if counts {
            self.outcome.produced_bytes += sent.bytes;
            self.outcome.produced_batches += 1;
            self.outcome.last_answer = now;
        }
        // Requests due in the window count whenever their answer comes: the slow ones, too.
        if self.plan.measure_from <= sent.due && sent.due < self.plan.end {
            let nanos = now.since(sent.due).as_nanos();
            self.outcome.latency.saturating_record(u64::try_from(nanos).unwrap_or(u64::MAX));
        }
        Ok(())
    }

    fn take_fetched(&mut self, i: usize, frame: Bytes, now: Instant) -> Result<(), String> {
        let counts = self.counts(now);
        let until_caught_up = self.plan.until_caught_up;
        let Work::Follow { verifier, next_offset, asked, caught_up } = &mut self.links[i].work
        else {
            unreachable!("the caller has looked")
        };
        let (_, start) = parse_response_header(ApiKey::Fetch, FETCH_VERSION, &frame)
            .map_err(|error| error.to_string())?;
        let body = frame.slice(start..);
        let response =
            FetchResponse::parse(FETCH_VERSION, &body).map_err(|error| error.to_string())?;
        *asked = false;
        if !response.error_code.is_none() {
            return Err(format!("fetch: {:?}", response.error_code));
        }
        let mut bytes = 0;
        for partition in response.partitions.iter() {
            if !partition.error_code.is_none() {
                return Err(format!("fetch: {:?}", partition.error_code));
            }
            for records in partition.records.iter() {
                bytes += records.len() as u64;
                if let Some(verifier) = verifier {
                    let before = verifier.records();
                    let taken = verifier.take(records);
                    self.outcome.verified_records += verifier.records() - before;
                    taken?;
                    *next_offset = verifier.next_offset();
                }
            }
            *caught_up |= until_caught_up && partition.high_watermark <= *next_offset;
        }
        if counts && 0 < bytes {
            self.outcome.fetched_bytes += bytes;
            self.outcome.fetches += 1;
            self.outcome.last_answer = now;
        }
        Ok(())
    }

    fn is_done(&self, now: Instant) -> bool {
        let all_settled = self.links.iter().all(|link| {
            !link.open
                || match &link.work {
                    Work::Produce { in_flight, waiting, .. } => {
                        in_flight.is_empty() && waiting.is_empty()
                    }
                    Work::Follow { caught_up, .. } => *caught_up || !self.plan.until_caught_up,
                }
        });
        let reads_only = self.producers.is_empty() && self.plan.until_caught_up;
        let ended = self.plan.end <= now || reads_only;
        (ended && all_settled) || self.plan.end.after(DRAIN) <= now
    }

    fn finish(&mut self) -> Next {
        for link in &self.links {
            if let Work::Produce { in_flight, waiting, .. } = &link.work {
                self.outcome.unanswered += (in_flight.len() + waiting.len()) as u64;
            }
        }
        // Fails only if nobody wants to know any more.
        drop(self.report.send(self.outcome.clone()));
        Next::Stop
    }

    fn next_turn(&self, now: Instant) -> Next {
        if now < self.plan.start {
            return Next::At(self.plan.start);
        }
        let end = if now < self.plan.end { self.plan.end } else { self.plan.end.after(DRAIN) };
        match self.arrivals.next_due().filter(|_| !self.producers.is_empty()) {
            Some(due) if now < self.plan.end => Next::At(due.min(end)),
            _ => Next::At(end),
        }
    }
}

impl Program<RingEdge<()>> for Load {
    fn turn(&mut self, edge: &mut RingEdge<()>) -> Next {
        let now = edge.now();
        if !self.streams.is_empty() {
            self.adopt(edge);
        }
        while let Some(completion) = edge.poll_completion() {
            self.handle_completion(completion, now, edge);
        }
        self.take_due(now);
        for i in 0..self.links.len() {
            self.drive(i, now, edge);
        }
        if self.is_done(now) { self.finish() } else { self.next_turn(now) }
    }
}

impl Link {
    fn receive(&mut self, i: usize, edge: &mut RingEdge<()>) {
        if !self.open {
            return;
        }
        let mut into = std::mem::take(&mut self.input);
        // Room for the rest of a frame whose size is known, at least for a usual receive.
        let frame = frame_size(&into, ANSWER_BYTES_MAX).ok().flatten().unwrap_or(0);
        into.reserve(frame.saturating_sub(into.len()).max(RECEIVE_ROOM));
        edge.submit(token(i, RECEIVED), Op::Receive { socket: self.socket, into });
    }

    fn flush(&mut self, i: usize, edge: &mut RingEdge<()>) {
        if self.sending || self.outgoing.is_empty() || !self.open {
            return;
        }
        self.sending = true;
        let parts = vec![self.outgoing.split().freeze()];
        edge.submit(token(i, SENT), Op::Send { socket: self.socket, parts });
    }

    fn take_frame(&mut self) -> Result<Option<Bytes>, String> {
        let size = frame_size(&self.input, ANSWER_BYTES_MAX).map_err(|error| error.to_string())?;
        let Some(size) = size.filter(|size| *size <= self.input.len()) else { return Ok(None) };
        let frame = self.input.split_to(size).freeze();
        Ok(Some(frame.slice(4..)))
    }
}
