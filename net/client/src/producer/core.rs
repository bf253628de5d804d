//! The producer without I/O: records in, requests out through its [`Cluster`], reports back.
//!
//! ```text
//! send -> topic not known yet: waits | partition's open batch -> row -> request -> report
//! ```
//!
//! A partition with something to send stands in the queue of its leader. [`ProducerCore::tick`]
//! takes in what was heard, and then fills requests from the queues as long as leaders have room,
//! the partition that has waited longest first.
//!
//! Errors are treated as Kafka's own client does: what may work later is tried again in order
//! until the delivery timeout; a broker that has lost count of an idempotent producer gets the
//! batches again under a new epoch; a batch that is too large is halved; the rest is given up and
//! told.

mod answers;

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::fmt;
use std::sync::Arc;

use tidemill_net::kafka::init_producer_id::InitProducerIdRequest;
use tidemill_net::kafka::produce::{OutgoingBatch, OutgoingBatches};
use tidemill_net::kafka::{ApiKey, ErrorCode, TopicRef};
use tidemill_record::{Header, Producer as Identity, Timestamp, TopicId};

use super::batch::{Batch, State};
use super::part::{Next, Part, next_epoch};
use super::{Acks, ProducerConfig, Record, Report, partition_of_key};
use crate::backoff::Random;
use crate::cluster::{Cluster, Heard, NotSent, Peer};
use crate::error::{Error, ErrorKind};
use crate::limits;
use crate::time::{Instant, earlier};

/// What was asked.
#[derive(Debug)]
pub enum Ask {
    /// For a producer id.
    Id,
    /// To append these.
    Append {
        /// The node that was asked.
        node: i32,
        /// The batches, in the order of the request.
        batches: Vec<Sent>,
    },
}

/// A batch that was sent: which partition's, and which of its batches.
#[derive(Clone, Copy, Debug)]
pub struct Sent {
    part: usize,
    number: u64,
    /// How the topic was named, if by id.
    id: Option<TopicId>,
}

/// Why a record was not taken.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Refusal {
    /// The buffer is full.
    Full,
    /// It could never be sent.
    Never(Error),
}

/// A record that was not taken.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct NotTaken {
    /// Why.
    pub refusal: Refusal,
    /// The record, back.
    pub record: Record,
}

#[derive(Debug, Default)]
struct Topic {
    /// Index of each partition in the table of parts.
    parts: Vec<usize>,
    /// Records that came before the topic was known.
    waiting: VecDeque<(Record, Instant)>,
    /// Where records without a key go until that batch is full.
    sticky: Option<(i32, u64)>,
}

/// See the head of this file.
pub struct ProducerCore {
    config: ProducerConfig,
    cluster: Cluster<Ask>,
    random: Random,
    identity: Option<Identity>,
    id_asked: bool,
    /// Why there is no id yet.
    id_trouble: Option<Error>,
    /// When to ask again for an id, after a refusal.
    id_again_at: Option<Instant>,
    topics: HashMap<Arc<str>, Topic>,
    parts: Vec<Part>,
    /// Those with something to send, by leader, the longest waiting first. -1: no leader known.
    ready: BTreeMap<i32, VecDeque<usize>>,
    /// Those that may send again at a time.
    resting: BTreeSet<(Instant, usize)>,
    /// When a part's open batch has waited long enough, at the earliest; one entry for each part.
    lingering: BTreeSet<(Instant, usize)>,
    /// When a part's records have to be given up, at the earliest; one entry for each part.
    expiring: BTreeSet<(Instant, usize)>,
    /// Topics with records that wait for them to be known.
    unknown: BTreeSet<Arc<str>>,
    held_bytes: usize,
    /// How many records were taken and not yet told stored or not.
    pending: u64,
    flushing: bool,
    reports: VecDeque<Report>,
    failures: u64,
    first_failure: Option<Error>,
    /// Milliseconds since 1970 at the driver's start.
    wall_clock_start_ms: i64,
}

impl fmt::Debug for ProducerCore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProducerCore")
            .field("identity", &self.identity)
            .field("held_bytes", &self.held_bytes)
            .field("parts", &self.parts.len())
            .finish_non_exhaustive()
    }
}

impl ProducerCore {
    /// A producer that has sent nothing yet. Records without a timestamp get
    /// `wall_clock_start_ms` (milliseconds since 1970 at time zero of `now`) plus `now`.
    pub fn new(
        mut config: ProducerConfig,
        wall_clock_start_ms: i64,
    ) -> Result<ProducerCore, Error> {
        check(&config)?;
        config.cluster.connection.in_flight_max = config.in_flight_max;
        Ok(ProducerCore {
            random: Random::new(config.cluster.seed ^ 0x7072_6f64),
            cluster: Cluster::new(config.cluster.clone()),
            config,
            identity: None,
            id_asked: false,
            id_trouble: None,
            id_again_at: None,
            topics: HashMap::new(),
            parts: Vec::new(),
            ready: BTreeMap::new(),
            resting: BTreeSet::new(),
            lingering: BTreeSet::new(),
            expiring: BTreeSet::new(),
            unknown: BTreeSet::new(),
            held_bytes: 0,
            pending: 0,
            flushing: false,
            reports: VecDeque::new(),
            failures: 0,
            first_failure: None,
            wall_clock_start_ms,
        })
    }

    /// The connections, for the driver.
    pub fn cluster(&mut self) -> &mut Cluster<Ask> {
        &mut self.cluster
    }

    /// Takes a record, or gives it back. Nothing is sent before [`ProducerCore::tick`].
    pub fn send(&mut self, record: Record, now: Instant) -> Result<(), Box<NotTaken>> {
        let size = record.content_bytes();
        if self.config.record_bytes_max < size {
            let refusal = Refusal::Never(self.too_large(&record, size));
            return Err(Box::new(NotTaken { refusal, record }));
        }
        let held = record.held_bytes();
        if self.held_bytes != 0 && self.config.buffer_bytes < self.held_bytes + held {
            return Err(Box::new(NotTaken { refusal: Refusal::Full, record }));
        }
        if !self.topics.contains_key(&record.topic) {
            if limits::TOPICS_MAX <= self.topics.len() {
                return Err(Box::new(NotTaken { refusal: Refusal::Full, record }));
            }
            self.cluster.want_topic(&record.topic, now);
            self.topics.insert(Arc::clone(&record.topic), Topic::default());
            self.grow(&record.topic.clone());
        }
        self.held_bytes += held;
        self.pending += 1;
        let topic = self.topics.get_mut(&record.topic).expect("just made sure");
        if topic.parts.is_empty() {
            self.unknown.insert(Arc::clone(&record.topic));
            topic.waiting.push_back((record, now));
        } else {
            self.place(record, now, now);
        }
        Ok(())
    }

    /// Sends what is there without waiting for more, until nothing is under way.
    pub fn flush(&mut self) {
        self.flushing = true;
    }

    /// Whether all that was taken has been told stored or not.
    pub fn is_drained(&self) -> bool {
        self.pending == 0
    }

    /// How much all records take that are under way or not yet reported.
    pub fn held_bytes(&self) -> usize {
        self.held_bytes
    }

    /// The next report, if [`ProducerConfig::reports`] are wanted. Room is free again only when a
    /// report has been taken.
    pub fn poll_report(&mut self) -> Option<Report> {
        let report = self.reports.pop_front()?;
        self.held_bytes -= Self::report_bytes(&report);
        Some(report)
    }

    /// How many records were given up since this was last asked, and why the first of them.
    pub fn take_failures(&mut self) -> Option<(u64, Error)> {
        let first = self.first_failure.take()?;
        Some((std::mem::take(&mut self.failures), first))
    }

    /// What keeps records from being stored just now, for whoever waits in vain: what the oldest
    /// of them would be given up with. `None` if nothing is known to.
    pub fn trouble(&self) -> Option<Error> {
        if let Some(name) = self.unknown.first() {
            return Some(self.no_topic(name));
        }
        if self.needs_id() && self.pending != 0 {
            return self.id_trouble.clone().or_else(|| {
                let trouble = self.cluster.is_out_of_reach();
                trouble.then(|| self.unreachable("cannot get a producer id".to_owned()))
            });
        }
        let tried =
            |part: &Part| part.batches.front().is_some_and(|batch| batch.last_trouble.is_some());
        let index = self.parts.iter().position(tried)?;
        Some(self.too_late(index, &self.parts[index].batches[0]))
    }

    /// How long a record may take.
    pub fn delivery_timeout(&self) -> std::time::Duration {
        self.config.delivery_timeout
    }

    /// Whether reports wait to be taken.
    pub fn has_reports(&self) -> bool {
        !self.reports.is_empty()
    }

    /// When [`ProducerCore::tick`] has something to do, if nothing is heard before.
    pub fn next_deadline(&self) -> Option<Instant> {
        let mut next = self.cluster.next_deadline();
        for times in [&self.lingering, &self.expiring, &self.resting] {
            next = earlier(next, times.first().map(|(at, _)| *at));
        }
        let unknown = self.unknown.iter().filter_map(|name| self.topics.get(name));
        let waiting = unknown.filter_map(|topic| topic.waiting.front());
        let timeout = self.config.delivery_timeout;
        next = earlier(next, waiting.map(|(_, since)| since.plus(timeout)).min());
        next = earlier(next, self.id_again_at);
        next
    }

    /// Takes in what was heard, gives up what has taken too long, and sends what can be sent.
    pub fn tick(&mut self, now: Instant) {
        while let Some(heard) = self.cluster.poll_heard() {
            match heard {
                Heard::Reply(Ask::Id, reply) => self.take_id(&reply, now),
                Heard::Lost(Ask::Id) => self.id_asked = false,
                Heard::Reply(Ask::Append { node, batches }, reply) => {
                    self.take_answers(node, &batches, &reply, now);
                }
                Heard::Lost(Ask::Append { batches, .. }) => self.take_loss(&batches, now),
                Heard::Map => self.take_map(now),
                Heard::Ready => {}
            }
        }
        self.id_again_at = self.id_again_at.filter(|at| now < *at);
        self.end_linger(now);
        self.expire(now);
        self.wake_resting(now);
        self.send_all(now);
        if self.flushing && self.is_drained() {
            self.flushing = false;
        }
    }

    fn needs_id(&self) -> bool {
        self.config.idempotent && self.identity.is_none()
    }

    fn too_large(&self, record: &Record, size: usize) -> Error {
        let topic = &record.topic;
        let limit = self.config.record_bytes_max;
        Error::new(ErrorKind::Invalid, format!("cannot send a record to {topic}"))
            .because(format!("it has {size} bytes, and {limit} are allowed"))
            .fix("raise record_bytes_max here and max.message.bytes of the topic")
    }

    /// Makes parts for the partitions the map shows.
    fn grow(&mut self, name: &Arc<str>) {
        let Some(view) = self.cluster.map().topic(name) else { return };
        if !view.error.is_none() {
            return;
        }
        let topic = self.topics.get_mut(name).expect("asked for by those who have it");
        for partition in topic.parts.len()..view.partitions.len() {
            topic.parts.push(self.parts.len());
            self.parts.push(Part::new(Arc::clone(name), partition as i32));
        }
    }

    /// Puts a record into its partition's open batch.
    fn place(&mut self, record: Record, since: Instant, now: Instant) {
        let topic = self.topics.get_mut(&record.topic).expect("the caller has looked");
        let count = topic.parts.len();
        let partition = match (record.partition, &record.key) {
            (Some(partition), _) => partition,
            (None, Some(key)) => partition_of_key(key, count),
            (None, None) => stick(topic, &self.parts, &mut self.random),
        };
        let part = usize::try_from(partition).ok().and_then(|at| topic.parts.get(at)).copied();
        let Some(index) = part else {
            return self.no_such_partition(record, count);
        };
        let size = record.held_bytes();
        let part = &mut self.parts[index];
        let full =
            |open: &super::part::Open| self.config.batch_bytes < open.builder.size_bytes() + size;
        if part.open.as_ref().is_some_and(full) {
            part.close();
        }
        let (open, begun) = part.open(self.config.compression, since);
        let wall_clock_ms = (now.nanos / 1_000_000) as i64 + self.wall_clock_start_ms;
        let headers: Vec<Header<'_>> = record
            .headers
            .iter()
            .map(|(key, value)| Header { key, value: value.as_deref() })
            .collect();
        open.builder.append_with_headers(
            Timestamp(record.timestamp_ms.unwrap_or(wall_clock_ms)),
            record.key.as_deref(),
            record.value.as_deref(),
            &headers,
        );
        if self.config.reports {
            open.tags.push(record.tag);
        }
        open.held_bytes += size;
        let is_full = self.config.batch_bytes <= open.builder.size_bytes();
        if begun {
            let part = &mut self.parts[index];
            if !std::mem::replace(&mut part.listed_lingering, true) {
                self.lingering.insert((since.plus(self.config.linger), index));
            }
            if !std::mem::replace(&mut part.listed_expiring, true) {
                self.expiring.insert((since.plus(self.config.delivery_timeout), index));
            }
        }
        if is_full {
            self.parts[index].close();
        }
        if is_full || !self.parts[index].batches.is_empty() {
            self.queue(index);
        }
    }

    fn no_such_partition(&mut self, record: Record, count: usize) {
        let (topic, partition) = (record.topic.clone(), record.partition.unwrap_or(-1));
        let error = Error::new(
            ErrorKind::Invalid,
            format!("cannot send a record to partition {partition} of {topic}"),
        )
        .because(format!("the topic has {count} partitions"))
        .fix("name one that exists, or none");
        self.give_up_record(record, error);
    }

    fn give_up_record(&mut self, record: Record, error: Error) {
        self.held_bytes -= record.held_bytes();
        let tags = if self.config.reports { vec![record.tag] } else { Vec::new() };
        self.report(record.topic, record.partition.unwrap_or(-1), tags, 1, Err(error));
    }

    /// Whether it is worth telling whoever sleeps that something can be sent.
    pub fn has_work(&self, now: Instant) -> bool {
        self.ready.values().any(|queue| !queue.is_empty())
            || self.lingering.first().is_some_and(|(at, _)| *at <= now)
    }

    fn queue(&mut self, index: usize) {
        let part = &mut self.parts[index];
        if part.queued {
            return;
        }
        part.queued = true;
        let leader = self.cluster.map().leader(&part.topic, part.partition).unwrap_or(-1);
        self.ready.entry(leader).or_default().push_back(index);
    }

    fn end_linger(&mut self, now: Instant) {
        if self.flushing {
            for index in 0..self.parts.len() {
                if self.parts[index].open.is_some() {
                    self.parts[index].open_is_due = true;
                    self.queue(index);
                }
            }
        }
        while let Some((_, index)) = pop_due(&mut self.lingering, now) {
            let part = &mut self.parts[index];
            part.listed_lingering = false;
            let Some(open) = &part.open else { continue };
            let due = open.created.plus(self.config.linger);
            if due <= now {
                part.open_is_due = true;
                self.queue(index);
            } else {
                part.listed_lingering = true;
                self.lingering.insert((due, index));
            }
        }
    }

    fn wake_resting(&mut self, now: Instant) {
        while let Some((_, index)) = pop_due(&mut self.resting, now) {
            self.parts[index].queued = false;
            self.queue(index);
        }
    }

    fn expire(&mut self, now: Instant) {
        let timeout = self.config.delivery_timeout;
        while let Some((_, index)) = pop_due(&mut self.expiring, now) {
            self.expire_part(index, now);
            let part = &mut self.parts[index];
            let oldest = part.batches.iter().map(|batch| batch.created);
            let oldest = oldest.chain(part.open.as_ref().map(|open| open.created)).min();
            part.listed_expiring = oldest.is_some();
            if let Some(oldest) = oldest {
                // What is late but under way is given up when its answer is not what it should be.
                let again = oldest.plus(timeout).max(now.plus(LATE_AGAIN));
                self.expiring.insert((again, index));
            }
        }
        let late = |(_, since): &(Record, Instant)| since.plus(timeout) <= now;
        let mut given_up = Vec::new();
        self.unknown.retain(|name| {
            let Some(topic) = self.topics.get_mut(name) else { return false };
            while topic.waiting.front().is_some_and(late) {
                given_up.extend(topic.waiting.pop_front());
            }
            !topic.waiting.is_empty()
        });
        for (record, _) in given_up {
            let error = self.no_topic(&record.topic);
            self.give_up_record(record, error);
        }
    }

    fn no_topic(&self, name: &str) -> Error {
        let what = format!("cannot send a record to {name}");
        match self.cluster.map().topic(name) {
            Some(view) if !view.error.is_none() => Error::refused(what, view.error, None),
            _ => self.unreachable(what),
        }
    }

    fn unreachable(&self, what: String) -> Error {
        Error::unreachable(ErrorKind::TimedOut, what, self.cluster.trouble())
    }

    /// Gives up what of a partition is too old and not under way.
    fn expire_part(&mut self, index: usize, now: Instant) {
        let timeout = self.config.delivery_timeout;
        let part = &mut self.parts[index];
        if part.open.as_ref().is_some_and(|open| open.created.plus(timeout) <= now) {
            part.close();
        }
        let mut at = 0;
        while at < self.parts[index].batches.len() {
            let batch = &self.parts[index].batches[at];
            let late = batch.created.plus(timeout) <= now;
            if late && batch.state != State::InFlight {
                let error = self.too_late(index, batch);
                self.give_up(index, at, error);
            } else {
                at += 1;
            }
        }
    }

    fn too_late(&self, index: usize, batch: &Batch) -> Error {
        match &batch.last_trouble {
            Some(trouble) => Error::new(ErrorKind::TimedOut, self.what(index)).because(trouble),
            None => self.unreachable(self.what(index)),
        }
    }

    fn what(&self, index: usize) -> String {
        let part = &self.parts[index];
        format!("cannot send records to partition {} of {}", part.partition, part.topic)
    }

    fn send_all(&mut self, now: Instant) {
        let nodes: Vec<i32> = self.ready.keys().copied().collect();
        let anything = self.ready.values().any(|queue| !queue.is_empty());
        if !anything {
            return;
        }
        if self.needs_id() {
            return self.ask_for_id(now);
        }
        for node in nodes {
            if node < 0 {
                if !self.ready[&node].is_empty() {
                    self.cluster.refresh(now);
                }
                continue;
            }
            while self.send_to(node, now) {}
        }
        self.ready.retain(|_, queue| !queue.is_empty());
    }

    fn ask_for_id(&mut self, now: Instant) {
        if self.id_asked || self.id_again_at.is_some() {
            return;
        }
        let request = InitProducerIdRequest {
            transaction_timeout_ms: i32::MAX,
            ..InitProducerIdRequest::default()
        };
        let wait = std::time::Duration::ZERO;
        match self.cluster.send(Peer::Any, &request, wait, Ask::Id, now) {
            Ok(()) => self.id_asked = true,
            Err(NotSent::NoCommonVersion { api, theirs }) => {
                let error = Error::unsupported("cannot get a producer id", api, theirs);
                self.give_up_all(&error.fix("use a newer broker, or set idempotent to false"));
            }
            Err(_) => {}
        }
    }

    /// Fills one request for a node and sends it; false if there is nothing to send, or no room.
    fn send_to(&mut self, node: i32, now: Instant) -> bool {
        if self.ready.get(&node).is_none_or(VecDeque::is_empty) {
            return false;
        }
        let by_id = match self.cluster.room_at(node, ApiKey::Produce, now) {
            Ok(by_id) => by_id,
            Err(NotSent::NotNow) => return false,
            Err(_) => {
                self.cluster.refresh(now);
                return false;
            }
        };
        let mut sent = Vec::new();
        let mut bytes = Vec::new();
        let mut request_bytes = 0;
        let queue_length = self.ready[&node].len();
        for _ in 0..queue_length {
            let queue = self.ready.get_mut(&node).expect("looked at above");
            let Some(index) = queue.pop_front() else { break };
            self.parts[index].queued = false;
            self.renew_epoch(index);
            let part = &mut self.parts[index];
            match part.next(self.identity, now) {
                Next::Nothing => {}
                Next::Rest(until) => {
                    part.queued = true;
                    self.resting.insert((until, index));
                }
                Next::Batch(at) => {
                    let id = self.cluster.map().topic(&part.topic).map(|view| view.id);
                    let id = id.filter(|id| by_id && !id.is_zero());
                    if let Some(identity) = self.identity {
                        part.number(at, identity);
                    }
                    let batch = part.batches[at].bytes();
                    let fits = request_bytes + batch.len() <= self.config.request_bytes;
                    let same_kind =
                        sent.first().is_none_or(|first: &Sent| first.id.is_some() == id.is_some());
                    let joins = sent.is_empty() || fits && same_kind;
                    if !joins {
                        part.queued = true;
                        self.ready.entry(node).or_default().push_front(index);
                        break;
                    }
                    request_bytes += batch.len();
                    part.batches[at].state = State::InFlight;
                    sent.push(Sent { part: index, number: part.batches[at].number, id });
                    bytes.push(batch);
                }
            }
        }
        !sent.is_empty() && self.send_request(node, sent, &bytes, now)
    }

    /// What a partition was numbered with is spoilt: the next epoch of the producer begins.
    fn renew_epoch(&mut self, index: usize) {
        let part = &self.parts[index];
        let spoilt = part.needs_new_epoch && part.in_flight() == 0;
        if spoilt && part.identity == self.identity {
            // Without a next epoch, a new id is asked for.
            self.identity = self.identity.and_then(next_epoch);
        }
    }

    fn send_request(
        &mut self,
        node: i32,
        sent: Vec<Sent>,
        bytes: &[bytes::Bytes],
        now: Instant,
    ) -> bool {
        if self.needs_id() {
            // The last epoch has just been used up: nothing was numbered, so nothing is sent.
            self.put_back(&sent, now);
            return false;
        }
        // One batch of a partition for each request: those that have more stand at the end again.
        for sent in &sent {
            self.queue_if_more(sent.part);
        }
        let partitions: Vec<OutgoingBatch<'_>> = sent
            .iter()
            .zip(bytes)
            .map(|(sent, records)| OutgoingBatch {
                topic: match sent.id {
                    Some(id) => TopicRef::Id(id),
                    None => TopicRef::Name(&self.parts[sent.part].topic),
                },
                partition: self.parts[sent.part].partition,
                records,
            })
            .collect();
        let timeout_ms = self.config.cluster.request_timeout.as_millis();
        let request = OutgoingBatches {
            transactional_id: None,
            acks: self.config.acks.to_wire(),
            timeout_ms: i32::try_from(timeout_ms).unwrap_or(i32::MAX),
            partitions: &partitions,
        };
        let ask = Ask::Append { node, batches: sent.clone() };
        match self.cluster.produce(node, &request, ask, now) {
            Ok(()) if self.config.acks == Acks::None => {
                for sent in &sent {
                    self.complete(sent.part, sent.number, -1);
                }
                true
            }
            Ok(()) => true,
            Err(NotSent::NoCommonVersion { api, theirs }) => {
                for sent in &sent {
                    let error = Error::unsupported(self.what(sent.part), api, theirs);
                    let at = self.parts[sent.part].position(sent.number);
                    self.give_up(sent.part, at.expect("just sent"), error);
                }
                false
            }
            Err(_) => {
                self.put_back(&sent, now);
                false
            }
        }
    }

    fn queue_if_more(&mut self, index: usize) {
        let part = &self.parts[index];
        let waits = part.batches.iter().any(|batch| batch.state != State::InFlight);
        if waits || part.open_is_due {
            self.queue(index);
        }
    }

    /// What was not sent after all.
    fn put_back(&mut self, sent: &[Sent], now: Instant) {
        for sent in sent {
            let part = &mut self.parts[sent.part];
            let at = part.position(sent.number).expect("it has just been taken out");
            part.batches[at].state = State::Waiting(now);
            self.queue(sent.part);
        }
    }

    fn report_bytes(report: &Report) -> usize {
        report.tags.len() * 64
    }

    fn report(
        &mut self,
        topic: Arc<str>,
        partition: i32,
        tags: Vec<u64>,
        records: u64,
        outcome: Result<i64, Error>,
    ) {
        self.pending -= records;
        if let Err(error) = &outcome {
            self.failures += records;
            self.first_failure.get_or_insert_with(|| error.clone());
        }
        if self.config.reports {
            let report = Report { topic, partition, tags, outcome };
            // Until they are taken, reports take room like the records they tell of.
            self.held_bytes += Self::report_bytes(&report);
            self.reports.push_back(report);
        }
    }
}

/// How long to wait before looking again at what is late but under way.
const LATE_AGAIN: std::time::Duration = std::time::Duration::from_millis(100);

/// Takes out the first entry, if its time has come.
fn pop_due(times: &mut BTreeSet<(Instant, usize)>, now: Instant) -> Option<(Instant, usize)> {
    let first = times.first().copied().filter(|(at, _)| *at <= now)?;
    times.pop_first();
    Some(first)
}

/// Refuses settings that contradict one another.
fn check(config: &ProducerConfig) -> Result<(), Error> {
    let invalid = |cause: &str, fix: &str| {
        Err(Error::new(ErrorKind::Invalid, "cannot make a producer").because(cause).fix(fix))
    };
    if config.idempotent && config.acks != Acks::All {
        return invalid(
            "numbered batches need the acknowledgement of all replicas",
            "set acks to All, or idempotent to false",
        );
    }
    if config.idempotent && limits::BATCHES_IN_FLIGHT_MAX < config.in_flight_max {
        return invalid(
            "brokers tell repeats only among a producer's last 5 batches",
            "set in_flight_max to 5 or less, or idempotent to false",
        );
    }
    if config.in_flight_max == 0 || limits::IN_FLIGHT_MAX < config.in_flight_max {
        return invalid("in_flight_max is out of range", "set it to 1 or more");
    }
    if config.cluster.bootstrap.is_empty() {
        return invalid("no broker is named", "name at least one, as HOST:PORT");
    }
    Ok(())
}

/// The partition that records without a key go to now: the same until its batch is closed.
fn stick(topic: &mut Topic, parts: &[Part], random: &mut Random) -> i32 {
    let count = topic.parts.len();
    if let Some((partition, opened)) = topic.sticky {
        let part = &parts[topic.parts[partition as usize]];
        if part.opened == opened && part.open.is_some() || part.opened + 1 == opened {
            return partition;
        }
    }
    let partition = random.below(count) as i32;
    let next_opened = {
        let part = &parts[topic.parts[partition as usize]];
        if part.open.is_some() { part.opened } else { part.opened + 1 }
    };
    topic.sticky = Some((partition, next_opened));
    partition
}

/// Whether an error says that somebody else leads, or that the topic is another.
fn is_about_leadership(error: ErrorCode) -> bool {
    matches!(
        error,
        ErrorCode::NotLeaderOrFollower
            | ErrorCode::LeaderNotAvailable
            | ErrorCode::FencedLeaderEpoch
            | ErrorCode::UnknownLeaderEpoch
            | ErrorCode::UnknownTopicOrPartition
            | ErrorCode::UnknownTopicId
            | ErrorCode::InconsistentTopicId
            | ErrorCode::KafkaStorageError
            | ErrorCode::ReplicaNotAvailable
            | ErrorCode::NetworkException
    )
}

#[cfg(test)]
mod tests;
