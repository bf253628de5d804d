//! Where batches go out: rows of them, one for each partition; requests to leaders; what became of
//! them.
//!
//! ```text
//! intake -> row -> request -> stored | again | halved | given up -> intake
//! ```
//!
//! A partition with something to send stands in the queue of its leader. [`Outbox::hear`] takes in
//! what was heard, [`Outbox::exchange`] gives to the [intake](super::intake) what is settled and
//! takes from it what is to be sent, and [`Outbox::send`] fills requests from the queues as long as
//! leaders have room, the partition that has waited longest first. Only the exchange needs the
//! intake, and it does nothing that takes long: checksums and compression are work for `send`.
//!
//! Errors are treated as Kafka's own client does: what may work later is tried again in order
//! until the delivery timeout; a broker that has lost count of an idempotent producer gets the
//! batches again under a new epoch; a batch that is too large is halved; the rest is given up and
//! told.

mod answers;
mod sending;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tidemill_net::kafka::ApiKey;
use tidemill_record::{Producer as Identity, TopicId};

use super::ProducerConfig;
use super::batch::{Batch, State};
use super::intake::{Intake, Settled};
use super::part::Part;
use crate::backoff::Random;
use crate::cluster::{Cluster, Heard};
use crate::error::{Error, ErrorKind};
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

/// A topic that records were sent to.
#[derive(Debug)]
struct Topic {
    name: Arc<str>,
    /// How many partitions have parts.
    partitions: usize,
}

/// See the head of this file.
pub(super) struct Outbox {
    config: ProducerConfig,
    cluster: Cluster<Ask>,
    random: Random,
    identity: Option<Identity>,
    id_asked: bool,
    /// Why there is no id yet.
    id_trouble: Option<Error>,
    /// When to ask again for an id, after a refusal.
    id_again_at: Option<Instant>,
    /// Why nothing at all can be sent: what is there is given up with it.
    hopeless: Option<Error>,
    topics: Vec<Topic>,
    parts: Vec<Part>,
    map_is_new: bool,
    /// Those with something to send, by leader, the longest waiting first. -1: no leader known.
    ready: BTreeMap<i32, VecDeque<usize>>,
    /// Those that may send again at a time.
    resting: BTreeSet<(Instant, usize)>,
    /// When a part's records have to be given up, at the earliest; one entry for each part.
    expiring: BTreeSet<(Instant, usize)>,
    /// Whether a part could send its open batch if the intake gave it.
    open_is_wanted: bool,
    /// How many batches were sent in vain and wait for another try.
    troubled: usize,
    /// What the intake has to be told.
    settled: Vec<Settled>,
}

impl fmt::Debug for Outbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Outbox")
            .field("identity", &self.identity)
            .field("parts", &self.parts.len())
            .finish_non_exhaustive()
    }
}

impl Outbox {
    pub(super) fn new(mut config: ProducerConfig) -> Outbox {
        config.cluster.connection.in_flight_max = config.in_flight_max;
        Outbox {
            random: Random::new(config.cluster.seed ^ 0x7072_6f64),
            cluster: Cluster::new(config.cluster.clone()),
            config,
            identity: None,
            id_asked: false,
            id_trouble: None,
            id_again_at: None,
            hopeless: None,
            topics: Vec::new(),
            parts: Vec::new(),
            map_is_new: false,
            ready: BTreeMap::new(),
            resting: BTreeSet::new(),
            expiring: BTreeSet::new(),
            open_is_wanted: false,
            troubled: 0,
            settled: Vec::new(),
        }
    }

    pub(super) fn cluster(&mut self) -> &mut Cluster<Ask> {
        &mut self.cluster
    }

    /// When there is something to do, if nothing is heard and nothing comes in before.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        if self.open_is_wanted {
            return Some(Instant::default());
        }
        let mut next = earlier(self.cluster.next_deadline(), self.id_again_at);
        for times in [&self.expiring, &self.resting] {
            next = earlier(next, times.first().map(|(at, _)| *at));
        }
        next
    }

    /// What keeps records from being stored just now; `None` if nothing is known to.
    pub(super) fn trouble(&self, intake: &Intake) -> Option<Error> {
        if let Some(name) = intake.unknown_topic() {
            return Some(self.no_topic(name));
        }
        if self.needs_id() && !intake.is_drained() {
            let away = || self.unreachable("cannot get a producer id".to_owned());
            let is_away = self.cluster.is_out_of_reach();
            return self.id_trouble.clone().or_else(|| is_away.then(away));
        }
        let tried =
            |part: &Part| part.batches.front().is_some_and(|batch| batch.last_trouble.is_some());
        let tried = (0 < self.troubled).then(|| self.parts.iter().position(tried)).flatten();
        if let Some(index) = tried {
            return Some(self.too_late(index, &self.parts[index].batches[0]));
        }
        // What came when its leader was gone already has never been tried.
        let mut cut_off = self.ready.iter().filter(|(node, _)| self.is_cut_off(**node));
        let waits = |index: &&usize| self.parts[**index].has_something();
        let index = cut_off.find_map(|(_, queue)| queue.iter().find(waits))?;
        Some(self.unreachable(self.what(*index)))
    }

    /// Whether a leader, -1 if none is known, was last tried in vain.
    fn is_cut_off(&self, node: i32) -> bool {
        self.cluster.is_node_out_of_reach(node) || node < 0 && self.cluster.is_out_of_reach()
    }

    /// Takes in what was heard.
    pub(super) fn hear(&mut self, now: Instant) {
        while let Some(heard) = self.cluster.poll_heard() {
            match heard {
                Heard::Reply(Ask::Id, reply) => self.take_id(&reply, now),
                Heard::Lost(Ask::Id) => self.id_asked = false,
                Heard::Reply(Ask::Append { node, batches }, reply) => {
                    self.take_answers(node, &batches, &reply, now);
                }
                Heard::Lost(Ask::Append { batches, .. }) => self.take_loss(&batches, now),
                Heard::Map => self.map_is_new = true,
                Heard::Ready => {}
            }
        }
        self.id_again_at = self.id_again_at.filter(|at| now < *at);
    }

    /// Gives to the intake what is settled, takes from it what is to be sent, and gives up what has
    /// taken too long.
    pub(super) fn exchange(&mut self, intake: &mut Intake, now: Instant) {
        for name in intake.take_new_topics() {
            self.cluster.want_topic(&name, now);
            self.topics.push(Topic { name, partitions: 0 });
            self.grow(self.topics.len() - 1, intake, now);
        }
        if std::mem::take(&mut self.map_is_new) {
            self.read_map(intake, now);
        }
        while let Some((index, gathered)) = intake.take_closed() {
            self.watch(index, gathered.created);
            self.parts[index].push(gathered);
            self.queue(index);
        }
        while let Some(index) = intake.take_due(now) {
            self.watch(index, intake.open_since(index).unwrap_or(now));
            self.parts[index].open_is_due = true;
            self.queue(index);
        }
        self.expire(intake, now);
        if let Some(error) = self.hopeless.take() {
            self.give_up_all(intake, &error);
        }
        self.wake_resting(now);
        self.take_open(intake, now);
        self.tell(intake);
    }

    /// Tells the intake what is settled.
    pub(super) fn tell(&mut self, intake: &mut Intake) {
        for settled in self.settled.drain(..) {
            intake.settle(settled);
        }
    }

    fn read_map(&mut self, intake: &mut Intake, now: Instant) {
        for number in 0..self.topics.len() {
            self.grow(number, intake, now);
            let name = &self.topics[number].name;
            let error = self.cluster.map().topic(name).map(|view| view.error);
            let is_hopeless = error.is_some_and(|error| !error.is_none() && !error.is_retriable());
            if is_hopeless && self.topics[number].partitions == 0 {
                intake.give_up_waiting(name, None, &self.no_topic(name));
            }
        }
        // Leaders may have changed: all that wait find their queues anew.
        let queued: Vec<usize> = std::mem::take(&mut self.ready).into_values().flatten().collect();
        for index in queued {
            self.parts[index].queued = false;
            self.queue(index);
        }
    }

    /// Makes parts for the partitions of a topic that the map shows.
    fn grow(&mut self, number: usize, intake: &mut Intake, now: Instant) {
        let Topic { name, partitions } = &mut self.topics[number];
        let Some(view) = self.cluster.map().topic(name) else { return };
        if !view.error.is_none() || view.partitions.len() <= *partitions {
            return;
        }
        let first = self.parts.len();
        for partition in *partitions..view.partitions.len() {
            self.parts.push(Part::new(Arc::clone(name), partition as i32));
        }
        *partitions = view.partitions.len();
        intake.grow(name, first..self.parts.len(), now);
    }

    /// Takes open batches whose turn it is: for leaders that have room, not more than they have.
    fn take_open(&mut self, intake: &mut Intake, now: Instant) {
        self.open_is_wanted = false;
        if self.needs_id() {
            return;
        }
        let in_flight_max = self.config.in_flight_max;
        for (&node, queue) in &self.ready {
            if node < 0 || self.cluster.room_at(node, ApiKey::Produce, now).is_err() {
                continue;
            }
            let requests = in_flight_max.saturating_sub(self.cluster.in_flight_at(node));
            let mut room = self.config.request_bytes.saturating_mul(requests);
            for &index in queue {
                let part = &mut self.parts[index];
                if !part.wants_open(self.identity) {
                    continue;
                }
                if let Some(gathered) = intake.take_open(index) {
                    room = room.saturating_sub(gathered.builder.size_bytes());
                    part.push(gathered);
                }
                if room == 0 {
                    break;
                }
            }
        }
    }

    /// Sees to it that a part's records are given up in time.
    fn watch(&mut self, index: usize, created: Instant) {
        if !std::mem::replace(&mut self.parts[index].listed_expiring, true) {
            self.expiring.insert((created.plus(self.config.delivery_timeout), index));
        }
    }

    fn expire(&mut self, intake: &mut Intake, now: Instant) {
        let timeout = self.config.delivery_timeout;
        while let Some((_, index)) = pop_due(&mut self.expiring, now) {
            if intake.open_since(index).is_some_and(|since| since.plus(timeout) <= now)
                && let Some(gathered) = intake.take_open(index)
            {
                self.parts[index].push(gathered);
            }
            self.expire_part(index, now);
            let part = &mut self.parts[index];
            let oldest = part.batches.iter().map(|batch| batch.created);
            let oldest = oldest.chain(intake.open_since(index)).min();
            part.listed_expiring = oldest.is_some();
            if let Some(oldest) = oldest {
                // What is late but under way is given up when its answer is not what it should be.
                let again = oldest.plus(timeout).max(now.plus(LATE_AGAIN));
                self.expiring.insert((again, index));
            }
        }
        while let Some(name) = intake.late_topic(now) {
            intake.give_up_waiting(&name, Some(now), &self.no_topic(&name));
        }
    }

    /// Gives up what of a partition is too old and not under way.
    fn expire_part(&mut self, index: usize, now: Instant) {
        let timeout = self.config.delivery_timeout;
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

    /// Nothing can be sent: says so to all that wait.
    fn give_up_all(&mut self, intake: &mut Intake, error: &Error) {
        for index in 0..self.parts.len() {
            if let Some(gathered) = intake.take_open(index) {
                self.parts[index].push(gathered);
            }
            while !self.parts[index].batches.is_empty() {
                self.give_up(index, 0, error.clone());
            }
        }
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

    fn wake_resting(&mut self, now: Instant) {
        while let Some((_, index)) = pop_due(&mut self.resting, now) {
            self.parts[index].queued = false;
            self.queue(index);
        }
    }

    fn needs_id(&self) -> bool {
        self.config.idempotent && self.identity.is_none()
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

    fn too_late(&self, index: usize, batch: &Batch) -> Error {
        let what = self.what(index);
        match (&batch.last_trouble, &self.id_trouble) {
            (Some(trouble), _) => Error::new(ErrorKind::TimedOut, what).because(trouble),
            (None, Some(no_id)) => {
                let cause = no_id.explanation().in_one_line();
                Error::new(ErrorKind::TimedOut, what).because(cause)
            }
            (None, None) => self.unreachable(what),
        }
    }

    fn what(&self, index: usize) -> String {
        let part = &self.parts[index];
        format!("cannot send records to partition {} of {}", part.partition, part.topic)
    }
}

/// How long to wait before looking again at what is late but under way.
const LATE_AGAIN: Duration = Duration::from_millis(100);

/// Takes out the first entry, if its time has come.
fn pop_due(times: &mut BTreeSet<(Instant, usize)>, now: Instant) -> Option<(Instant, usize)> {
    let first = times.first().copied().filter(|(at, _)| *at <= now)?;
    times.pop_first();
    Some(first)
}
