//! Where records come in: each is put into the open batch of its partition, and stays there until
//! that is full or has waited long enough.
//!
//! ```text
//! take -> topic not known yet: waits | partition's open batch -> closed -> the outbox
//! ```
//!
//! This is all of a producer that the threads of an application touch, and all that they share with
//! the thread that sends: to take a record never waits for a checksum, a compressor or a socket. The
//! [outbox](super::outbox) comes by, takes what is to be sent, and tells what became of the rest.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;

use bytes::BytesMut;
use tidemill_record::{BatchBuilder, Header, Timestamp};

use super::{ProducerConfig, Record, Report, partition_of_key};
use crate::backoff::Random;
use crate::error::{Error, ErrorKind};
use crate::limits;
use crate::time::{Instant, earlier};

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

/// Records of one partition that will be one batch.
#[derive(Debug)]
pub(super) struct Gathered {
    pub(super) builder: BatchBuilder,
    pub(super) tags: Vec<u64>,
    /// What they count in the producer's buffer.
    pub(super) held_bytes: usize,
    /// When the first of them came.
    pub(super) created: Instant,
}

/// What became of some records.
#[derive(Debug)]
pub(super) struct Settled {
    pub(super) topic: Arc<str>,
    pub(super) partition: i32,
    pub(super) tags: Vec<u64>,
    pub(super) records_count: u64,
    pub(super) held_bytes: usize,
    pub(super) outcome: Result<i64, Error>,
    /// What held them, if nobody else looks at it any more.
    pub(super) memory: Option<BytesMut>,
}

#[derive(Debug)]
struct Topic {
    name: Arc<str>,
    /// The number of each partition's slot; none before the topic is known.
    slots: Vec<usize>,
    /// Records that came before.
    waiting: VecDeque<(Record, Instant)>,
    /// Where records without a key go until that batch is closed.
    sticky: Option<(i32, u64)>,
}

/// One partition.
#[derive(Debug, Default)]
struct Slot {
    open: Option<Gathered>,
    /// Counts the open batches, so that what was said of an earlier one is not taken for this one.
    opened: u64,
    /// Whether it stands among those whose open batch waits for more records.
    is_lingering: bool,
}

/// See the head of this file.
#[derive(Debug)]
pub(super) struct Intake {
    config: ProducerConfig,
    random: Random,
    topics: Vec<Topic>,
    numbers: HashMap<Arc<str>, usize>,
    /// The topic of the record before: most often that of the next one, too.
    last_topic: usize,
    /// By the numbers that the outbox gives its parts.
    slots: Vec<Slot>,
    /// When a slot's open batch has waited long enough, at the earliest; one entry for each slot.
    lingering: BTreeSet<(Instant, usize)>,
    closed: VecDeque<(usize, Gathered)>,
    /// Topics the outbox has not heard of yet.
    new_topics: Vec<Arc<str>>,
    /// Topics with records that wait for them to be known.
    unknown: BTreeSet<Arc<str>>,
    held_bytes: usize,
    /// How many records were taken and not yet settled.
    pending: u64,
    /// Counts what was settled.
    progress: u64,
    flushing: bool,
    reports: VecDeque<Report>,
    failures: u64,
    first_failure: Option<Error>,
    /// Memory of batches that are done with.
    spare: Vec<BytesMut>,
    /// Milliseconds since 1970 at the driver's start.
    wall_clock_start_ms: i64,
}

impl Intake {
    pub(super) fn new(config: ProducerConfig, wall_clock_start_ms: i64) -> Intake {
        Intake {
            random: Random::new(config.cluster.seed ^ 0x696e_7461),
            config,
            topics: Vec::new(),
            numbers: HashMap::new(),
            last_topic: 0,
            slots: Vec::new(),
            lingering: BTreeSet::new(),
            closed: VecDeque::new(),
            new_topics: Vec::new(),
            unknown: BTreeSet::new(),
            held_bytes: 0,
            pending: 0,
            progress: 0,
            flushing: false,
            reports: VecDeque::new(),
            failures: 0,
            first_failure: None,
            spare: Vec::new(),
            wall_clock_start_ms,
        }
    }

    /// Takes a record, or gives it back.
    pub(super) fn take(&mut self, record: Record, now: Instant) -> Result<(), Box<NotTaken>> {
        let size = record.content_bytes();
        if self.config.record_bytes_max < size {
            let refusal = Refusal::Never(self.too_large(&record, size));
            return Err(Box::new(NotTaken { refusal, record }));
        }
        let held = record.held_bytes();
        let fits = self.held_bytes == 0 || self.held_bytes + held <= self.config.buffer_bytes;
        let Some(topic) = self.number_of(&record.topic).filter(|_| fits) else {
            return Err(Box::new(NotTaken { refusal: Refusal::Full, record }));
        };
        self.held_bytes += held;
        self.pending += 1;
        if self.topics[topic].slots.is_empty() {
            self.unknown.insert(Arc::clone(&record.topic));
            self.topics[topic].waiting.push_back((record, now));
        } else {
            self.place(topic, record, now, now);
        }
        Ok(())
    }

    fn too_large(&self, record: &Record, size: usize) -> Error {
        let topic = &record.topic;
        let limit = self.config.record_bytes_max;
        Error::new(ErrorKind::Invalid, format!("cannot send a record to {topic}"))
            .because(format!("it has {size} bytes, and {limit} are allowed"))
            .fix("raise record_bytes_max here and max.message.bytes of the topic")
    }

    /// Where a topic stands in the table, in which it is entered if need be; `None` if that is full.
    fn number_of(&mut self, name: &Arc<str>) -> Option<usize> {
        if self.topics.get(self.last_topic).is_some_and(|topic| topic.name == *name) {
            return Some(self.last_topic);
        }
        let number = match self.numbers.get(name) {
            Some(number) => *number,
            None if limits::TOPICS_MAX <= self.topics.len() => return None,
            None => {
                let number = self.topics.len();
                let (slots, waiting) = (Vec::new(), VecDeque::new());
                self.topics.push(Topic { name: Arc::clone(name), slots, waiting, sticky: None });
                self.numbers.insert(Arc::clone(name), number);
                self.new_topics.push(Arc::clone(name));
                number
            }
        };
        self.last_topic = number;
        Some(number)
    }

    /// Puts a record into its partition's open batch.
    fn place(&mut self, topic: usize, record: Record, since: Instant, now: Instant) {
        let partition = match (record.partition, &record.key) {
            (Some(partition), _) => partition,
            (None, Some(key)) => partition_of_key(key, self.topics[topic].slots.len()),
            (None, None) => self.stick(topic),
        };
        let slots = &self.topics[topic].slots;
        let number = usize::try_from(partition).ok().and_then(|at| slots.get(at)).copied();
        let Some(number) = number else {
            let count = slots.len();
            return self.no_such_partition(record, count);
        };
        let held = record.held_bytes();
        let full = |open: &Gathered| self.config.batch_bytes < open.builder.size_bytes() + held;
        if self.slots[number].open.as_ref().is_some_and(full) {
            self.close(number);
        }
        let wall_clock_ms = (now.nanos / 1_000_000) as i64 + self.wall_clock_start_ms;
        let headers: Vec<Header<'_>> = record
            .headers
            .iter()
            .map(|(key, value)| Header { key, value: value.as_deref() })
            .collect();
        let reports = self.config.reports;
        let open = self.open(number, since);
        open.builder.append_with_headers(
            Timestamp(record.timestamp_ms.unwrap_or(wall_clock_ms)),
            record.key.as_deref(),
            record.value.as_deref(),
            &headers,
        );
        if reports {
            open.tags.push(record.tag);
        }
        open.held_bytes += held;
        let size_bytes = open.builder.size_bytes();
        if self.config.batch_bytes <= size_bytes {
            self.close(number);
        }
    }

    /// The open batch of a slot, begun if there is none.
    fn open(&mut self, number: usize, since: Instant) -> &mut Gathered {
        let slot = &mut self.slots[number];
        if slot.open.is_none() {
            slot.opened += 1;
            if !std::mem::replace(&mut slot.is_lingering, true) {
                self.lingering.insert((since.plus(self.config.linger), number));
            }
        }
        slot.open.get_or_insert_with(|| Gathered {
            builder: BatchBuilder::reusing(
                self.spare.pop().unwrap_or_default(),
                self.config.compression,
            ),
            tags: Vec::new(),
            held_bytes: 0,
            created: since,
        })
    }

    /// No more records for the open batch of a slot, if there is one.
    fn close(&mut self, number: usize) {
        if let Some(open) = self.slots[number].open.take() {
            self.closed.push_back((number, open));
        }
    }

    /// The partition that records without a key go to now: the same until its batch is closed.
    fn stick(&mut self, topic: usize) -> i32 {
        let topic = &mut self.topics[topic];
        if let Some((partition, opened)) = topic.sticky {
            let slot = &self.slots[topic.slots[partition as usize]];
            if slot.opened == opened && slot.open.is_some() || slot.opened + 1 == opened {
                return partition;
            }
        }
        let partition = self.random.below(topic.slots.len());
        let slot = &self.slots[topic.slots[partition]];
        let opened = if slot.open.is_some() { slot.opened } else { slot.opened + 1 };
        topic.sticky = Some((partition as i32, opened));
        partition as i32
    }

    fn no_such_partition(&mut self, record: Record, count: usize) {
        let (topic, partition) = (&record.topic, record.partition.unwrap_or(-1));
        let what = format!("cannot send a record to partition {partition} of {topic}");
        let error = Error::new(ErrorKind::Invalid, what)
            .because(match count {
                1 => "the topic has 1 partition".to_owned(),
                _ => format!("the topic has {count} partitions"),
            })
            .fix("name one that exists, or none");
        self.give_up(record, error);
    }

    fn give_up(&mut self, record: Record, error: Error) {
        self.settle(Settled {
            held_bytes: record.held_bytes(),
            partition: record.partition.unwrap_or(-1),
            topic: record.topic,
            tags: if self.config.reports { vec![record.tag] } else { Vec::new() },
            records_count: 1,
            outcome: Err(error),
            memory: None,
        });
    }

    /// Notes what became of records, and has room for others.
    pub(super) fn settle(&mut self, settled: Settled) {
        self.progress += 1;
        self.pending -= settled.records_count;
        self.held_bytes -= settled.held_bytes;
        self.flushing &= self.pending != 0;
        if let Err(error) = &settled.outcome {
            self.failures += settled.records_count;
            self.first_failure.get_or_insert_with(|| error.clone());
        }
        if let Some(memory) = settled.memory
            && self.spare.len() < limits::SPARE_BATCHES_MAX
            && memory.capacity() <= 2 * self.config.batch_bytes
        {
            self.spare.push(memory);
        }
        if self.config.reports {
            let Settled { topic, partition, tags, outcome, .. } = settled;
            let report = Report { topic, partition, tags, outcome };
            // Until they are taken, reports take room like the records they tell of.
            self.held_bytes += room_of(&report);
            self.reports.push_back(report);
        }
    }

    /// Makes everything due that is there, and that comes until all is settled.
    pub(super) fn flush(&mut self) {
        self.flushing = self.pending != 0;
    }

    pub(super) fn is_drained(&self) -> bool {
        self.pending == 0
    }

    /// Changes whenever something is settled: then there may be room for others.
    pub(super) fn progress(&self) -> u64 {
        self.progress
    }

    pub(super) fn held_bytes(&self) -> usize {
        self.held_bytes
    }

    pub(super) fn has_reports(&self) -> bool {
        !self.reports.is_empty()
    }

    pub(super) fn poll_report(&mut self) -> Option<Report> {
        let report = self.reports.pop_front()?;
        self.held_bytes -= room_of(&report);
        Some(report)
    }

    /// How many records were given up since this was last asked, and why the first of them.
    pub(super) fn take_failures(&mut self) -> Option<(u64, Error)> {
        let first = self.first_failure.take()?;
        Some((std::mem::take(&mut self.failures), first))
    }

    /// When there is something for the outbox to take.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        let is_now = !self.closed.is_empty()
            || !self.new_topics.is_empty()
            || self.flushing && !self.lingering.is_empty();
        if is_now {
            return Some(Instant::default());
        }
        let unknown = self.unknown.iter().filter_map(|name| self.numbers.get(name));
        let waiting = unknown.filter_map(|number| self.topics[*number].waiting.front());
        let timeout = self.config.delivery_timeout;
        let late = waiting.map(|(_, since)| since.plus(timeout)).min();
        earlier(self.lingering.first().map(|(at, _)| *at), late)
    }

    // What follows is for the outbox.

    pub(super) fn take_new_topics(&mut self) -> Vec<Arc<str>> {
        std::mem::take(&mut self.new_topics)
    }

    /// A topic with records that wait for it to be known.
    pub(super) fn unknown_topic(&self) -> Option<&Arc<str>> {
        self.unknown.first()
    }

    /// A topic has these partitions more, numbered on by the outbox; records that waited for it go
    /// where they belong.
    pub(super) fn grow(&mut self, name: &Arc<str>, more: std::ops::Range<usize>, now: Instant) {
        assert!(more.start == self.slots.len(), "both sides number alike");
        let topic = self.numbers[name];
        self.slots.resize_with(more.end, Slot::default);
        self.topics[topic].slots.extend(more);
        self.unknown.remove(name);
        for (record, since) in std::mem::take(&mut self.topics[topic].waiting) {
            self.place(topic, record, since, now);
        }
    }

    /// Records that wait for a topic in vain are given up; only those that are late by now, if that
    /// is given.
    pub(super) fn give_up_waiting(
        &mut self,
        name: &Arc<str>,
        late: Option<Instant>,
        error: &Error,
    ) {
        let timeout = self.config.delivery_timeout;
        let number = self.numbers[name];
        let waiting = &mut self.topics[number].waiting;
        let count =
            waiting.partition_point(|(_, since)| late.is_none_or(|now| since.plus(timeout) <= now));
        let given_up: Vec<_> = waiting.drain(..count).collect();
        if waiting.is_empty() {
            self.unknown.remove(name);
        }
        for (record, _) in given_up {
            self.give_up(record, error.clone());
        }
    }

    /// A topic whose first record has waited for it for longer than allowed.
    pub(super) fn late_topic(&self, now: Instant) -> Option<Arc<str>> {
        let timeout = self.config.delivery_timeout;
        let is_late = |name: &&Arc<str>| {
            let waiting = &self.topics[self.numbers[*name]].waiting;
            waiting.front().is_some_and(|(_, since)| since.plus(timeout) <= now)
        };
        self.unknown.iter().find(is_late).cloned()
    }

    /// The next batch that is closed.
    pub(super) fn take_closed(&mut self) -> Option<(usize, Gathered)> {
        self.closed.pop_front()
    }

    /// The number of a slot whose open batch has waited long enough. Each is told once.
    pub(super) fn take_due(&mut self, now: Instant) -> Option<usize> {
        loop {
            let &(at, number) = self.lingering.first()?;
            if now < at && !self.flushing {
                return None;
            }
            self.lingering.pop_first();
            let slot = &mut self.slots[number];
            slot.is_lingering = false;
            let Some(open) = &slot.open else { continue };
            let due = open.created.plus(self.config.linger);
            if due <= now || self.flushing {
                return Some(number);
            }
            slot.is_lingering = true;
            self.lingering.insert((due, number));
        }
    }

    /// When the first record of a slot's open batch came.
    pub(super) fn open_since(&self, number: usize) -> Option<Instant> {
        self.slots[number].open.as_ref().map(|open| open.created)
    }

    /// The open batch of a slot, which takes no more.
    pub(super) fn take_open(&mut self, number: usize) -> Option<Gathered> {
        self.slots[number].open.take()
    }
}

/// What a report counts in the buffer.
fn room_of(report: &Report) -> usize {
    report.tags.len() * 64
}
