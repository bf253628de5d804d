//! The consumer without I/O: partitions and positions in, requests out, batches back.
//!
//! ```text
//! Find (earliest, latest, by time) -- ListOffsets --> At(position) -- Fetch --> batches
//!      ^                                                  |
//!      +------------- out of range, if there is a policy -+
//! ```
//!
//! Each node has at most one fetch in flight, for all partitions it leads that have nothing fetched
//! and not yet taken: so memory holds one answer of each node at most. Answers to what was asked
//! before a seek are not believed.

mod answers;
mod asking;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use tidemill_net::kafka::list_offsets::{EARLIEST, LATEST};

use super::fetched::{Fetched, FetchedBatch, Step};
use super::{ConsumerConfig, Start};
use crate::backoff::Random;
use crate::cluster::{Cluster, Heard, Map};
use crate::connection::Reply;
use crate::error::{Error, ErrorKind};
use crate::group;
use crate::time::{Instant, earlier};

/// What was asked.
#[derive(Debug)]
pub enum Ask {
    /// For offsets.
    Find(Vec<Asked>),
    /// For records.
    Fetch {
        /// The node that was asked.
        node: i32,
        /// For which partitions, in the order of the request.
        parts: Vec<Asked>,
    },
    /// What a group asks of its coordinator.
    Group(group::Asked),
}

/// A partition that was asked for, as it was then.
#[derive(Clone, Copy, Debug)]
pub struct Asked {
    part: usize,
    generation: u64,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Place {
    Find(Start),
    At(i64),
}

#[derive(Debug)]
struct Part {
    topic: Arc<str>,
    partition: i32,
    place: Place,
    paused: bool,
    /// Whether something is asked for it.
    asked: bool,
    /// Whether something that was fetched waits to be taken.
    holds: bool,
    not_before: Instant,
    failed_tries: u32,
    /// Changes when what was asked before is not meant any more.
    generation: u64,
    readable_end: Option<i64>,
    /// Since when the cluster has said that it does not exist.
    missing_since: Option<Instant>,
    /// Why it was last asked for in vain; none since an answer has come.
    trouble: Option<String>,
}

/// See the head of this file.
#[derive(Debug)]
pub struct ConsumerCore {
    config: ConsumerConfig,
    cluster: Cluster<Ask>,
    random: Random,
    parts: Vec<Part>,
    fetched: VecDeque<(Asked, Fetched)>,
    problems: VecDeque<Error>,
    /// What the group's coordinator has answered; none for what was lost.
    for_group: VecDeque<(group::Asked, Option<Reply>)>,
    /// Nodes with a fetch in flight.
    fetching: Vec<i32>,
    next_generation: u64,
    /// Where in the list of partitions the next request begins, so that all have their turn.
    rotation: usize,
    last_tick: Instant,
}

/// How many problems wait to be told at most; the oldest are forgotten.
const PROBLEMS_MAX: usize = 100;

impl ConsumerCore {
    /// A consumer of nothing yet.
    pub fn new(config: ConsumerConfig) -> Result<ConsumerCore, Error> {
        if config.cluster.bootstrap.is_empty() {
            return Err(Error::new(ErrorKind::Invalid, "cannot make a consumer")
                .because("no broker is named")
                .fix("name at least one, as HOST:PORT"));
        }
        Ok(ConsumerCore {
            random: Random::new(config.cluster.seed ^ 0x636f_6e73),
            cluster: Cluster::new(config.cluster.clone()),
            config,
            parts: Vec::new(),
            fetched: VecDeque::new(),
            problems: VecDeque::new(),
            for_group: VecDeque::new(),
            fetching: Vec::new(),
            next_generation: 0,
            rotation: 0,
            last_tick: Instant::default(),
        })
    }

    /// The connections, for the driver.
    pub fn cluster(&mut self) -> &mut Cluster<Ask> {
        &mut self.cluster
    }

    /// What is known of the cluster.
    pub fn map(&self) -> &Map {
        self.cluster.map()
    }

    /// Reads these partitions from now on, and no others.
    pub fn assign(
        &mut self,
        partitions: impl IntoIterator<Item = (Arc<str>, i32, Start)>,
        now: Instant,
    ) {
        self.parts.clear();
        self.fetched.clear();
        self.problems.clear();
        for (topic, partition, start) in partitions {
            let part = self.new_part(topic, partition, start, now);
            self.parts.push(part);
        }
    }

    /// Reads these partitions from now on, and no others. Those that are read already go on where
    /// they are: nothing that was fetched of them is fetched again.
    pub fn reassign(
        &mut self,
        partitions: impl IntoIterator<Item = (Arc<str>, i32, Start)>,
        now: Instant,
    ) {
        let mut before = BTreeMap::new();
        for (index, part) in std::mem::take(&mut self.parts).into_iter().enumerate() {
            before.insert((Arc::clone(&part.topic), part.partition), (index, part));
        }
        let mut moved = BTreeMap::new();
        for (topic, partition, start) in partitions {
            let part = match before.remove(&(Arc::clone(&topic), partition)) {
                Some((index, mut part)) => {
                    moved.insert(index, self.parts.len());
                    if part.asked {
                        // The answer on its way names a place that is another's now.
                        part.generation = self.take_generation();
                        part.asked = false;
                    }
                    part
                }
                None => self.new_part(topic, partition, start, now),
            };
            self.parts.push(part);
        }
        self.fetched.retain_mut(|(asked, _)| {
            let place = moved.get(&asked.part).copied();
            asked.part = place.unwrap_or(asked.part);
            place.is_some()
        });
    }

    fn new_part(&mut self, topic: Arc<str>, partition: i32, start: Start, now: Instant) -> Part {
        self.cluster.want_topic(&topic, now);
        Part {
            topic,
            partition,
            place: place(start),
            paused: false,
            asked: false,
            holds: false,
            not_before: now,
            failed_tries: 0,
            generation: self.take_generation(),
            readable_end: None,
            missing_since: None,
            trouble: None,
        }
    }

    /// Goes on elsewhere in a partition; false if it is not assigned.
    pub fn seek(&mut self, topic: &str, partition: i32, start: Start) -> bool {
        let Some(index) = self.find(topic, partition) else { return false };
        self.go_on_at(index, place(start));
        true
    }

    fn go_on_at(&mut self, index: usize, place: Place) {
        let generation = self.take_generation();
        let part = &mut self.parts[index];
        part.place = place;
        part.generation = generation;
        (part.asked, part.holds) = (false, false);
        self.fetched.retain(|(asked, _)| asked.part != index);
    }

    /// Stops or goes on asking for a partition; false if it is not assigned.
    pub fn pause(&mut self, topic: &str, partition: i32, paused: bool) -> bool {
        let Some(index) = self.find(topic, partition) else { return false };
        self.parts[index].paused = paused;
        true
    }

    /// The offset of the next record to be taken, once that is known.
    pub fn position(&self, topic: &str, partition: i32) -> Option<i64> {
        match self.parts[self.find(topic, partition)?].place {
            Place::At(offset) => Some(offset),
            Place::Find(_) => None,
        }
    }

    /// The end of what could be read when the broker last said so: with what is committed alone, of
    /// what is stable.
    pub fn readable_end(&self, topic: &str, partition: i32) -> Option<i64> {
        self.parts[self.find(topic, partition)?].readable_end
    }

    /// The partitions that are read.
    pub fn assigned(&self) -> impl Iterator<Item = (&Arc<str>, i32)> {
        self.parts.iter().map(|part| (&part.topic, part.partition))
    }

    /// The partitions that are read, and the offsets of the next records to be taken, where those
    /// are known.
    pub(crate) fn positions(&self) -> impl Iterator<Item = (&Arc<str>, i32, i64)> {
        self.parts.iter().filter_map(|part| match part.place {
            Place::At(offset) => Some((&part.topic, part.partition, offset)),
            Place::Find(_) => None,
        })
    }

    /// What the group's coordinator has answered.
    pub(crate) fn poll_for_group(&mut self) -> Option<(group::Asked, Option<Reply>)> {
        self.for_group.pop_front()
    }

    fn find(&self, topic: &str, partition: i32) -> Option<usize> {
        self.parts.iter().position(|part| part.partition == partition && &*part.topic == topic)
    }

    fn take_generation(&mut self) -> u64 {
        self.next_generation += 1;
        self.next_generation
    }

    /// The next batch that was read; the position moves behind it.
    pub fn poll_batch(&mut self) -> Option<FetchedBatch> {
        while let Some((asked, fetched)) = self.fetched.front_mut() {
            let part = &mut self.parts[asked.part];
            let Place::At(from) = part.place else {
                unreachable!("what was fetched is dropped when the place is looked for anew")
            };
            match fetched.next(self.config.verify_checksums) {
                Ok(Step::Batch(bytes)) => {
                    let (topic, partition) = (Arc::clone(&part.topic), part.partition);
                    let batch = FetchedBatch { topic, partition, bytes, from };
                    // The batch that holds the position begins before it.
                    part.place = Place::At(batch.next_offset().max(from));
                    if from < batch.next_offset() {
                        return Some(batch);
                    }
                }
                Ok(Step::Skip(next_offset)) => part.place = Place::At(next_offset.max(from)),
                Ok(Step::End) => {
                    part.holds = false;
                    self.fetched.pop_front();
                }
                Err(error) => {
                    part.holds = false;
                    let index = asked.part;
                    let what = format!(
                        "cannot read partition {} of {} at {from}",
                        part.partition, part.topic
                    );
                    self.fetched.pop_front();
                    let error = Error::new(ErrorKind::Damaged, what).because(error);
                    self.complain(error.fix("seek behind it, or restore the partition"));
                    self.rest(index, self.last_tick);
                    return None;
                }
            }
        }
        None
    }

    /// What went wrong that the application should know.
    pub fn poll_problem(&mut self) -> Option<Error> {
        self.problems.pop_front()
    }

    /// What keeps records from being read just now, for whoever waits in vain. What will not pass
    /// by itself is told by [`ConsumerCore::poll_problem`] instead.
    pub fn trouble(&self) -> Option<Error> {
        if !self.cluster.knows_the_cluster() {
            return Some(self.unreachable("cannot read records"));
        }
        let part = self.parts.iter().find(|part| part.trouble.is_some())?;
        let what = format!("cannot read partition {} of {}", part.partition, part.topic);
        let trouble = part.trouble.as_deref();
        Some(Error::new(ErrorKind::TimedOut, what).because(trouble.unwrap_or_default()))
    }

    pub(crate) fn unreachable(&self, what: impl Into<String>) -> Error {
        Error::unreachable(ErrorKind::Unreachable, what, self.cluster.trouble())
    }

    /// Whether there is something to be polled.
    pub fn has_batches(&self) -> bool {
        !self.fetched.is_empty() || !self.problems.is_empty()
    }

    /// When [`ConsumerCore::tick`] has something to do, if nothing is heard before.
    pub fn next_deadline(&self) -> Option<Instant> {
        let idle = self.parts.iter().filter(|part| !part.asked && !part.holds && !part.paused);
        // What could be asked for and was not waits for a connection, which the cluster sees to.
        let rested = idle.map(|part| part.not_before).filter(|at| self.last_tick < *at).min();
        earlier(self.cluster.next_deadline(), rested)
    }

    /// Takes in what was heard, and asks for what can be asked.
    pub fn tick(&mut self, now: Instant) {
        self.last_tick = now;
        while let Some(heard) = self.cluster.poll_heard() {
            match heard {
                Heard::Reply(Ask::Find(asked), reply) => self.take_offsets(&asked, &reply, now),
                Heard::Lost(Ask::Find(asked)) => self.take_loss(&asked, now),
                Heard::Reply(Ask::Fetch { node, parts }, reply) => {
                    self.fetching.retain(|other| *other != node);
                    self.take_records(&parts, &reply, now);
                }
                Heard::Lost(Ask::Fetch { node, parts }) => {
                    self.fetching.retain(|other| *other != node);
                    self.take_loss(&parts, now);
                }
                Heard::Reply(Ask::Group(asked), reply) => {
                    self.for_group.push_back((asked, Some(reply)));
                }
                Heard::Lost(Ask::Group(asked)) => self.for_group.push_back((asked, None)),
                Heard::Map => self.look_for_missing(now),
                Heard::Ready => {}
            }
        }
        self.ask_for_offsets(now);
        self.ask_for_records(now);
    }

    fn complain(&mut self, error: Error) {
        if PROBLEMS_MAX <= self.problems.len() {
            self.problems.pop_front();
        }
        self.problems.push_back(error);
    }
}

fn place(start: Start) -> Place {
    match start {
        Start::Offset(offset) => Place::At(offset),
        other => Place::Find(other),
    }
}

/// What ListOffsets is asked for.
pub(crate) fn wire_time(start: Start) -> i64 {
    match start {
        Start::Earliest => EARLIEST,
        Start::Latest | Start::Offset(_) => LATEST,
        Start::Time(ms) => ms.max(0),
    }
}

#[cfg(test)]
mod tests;
