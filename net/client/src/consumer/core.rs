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

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tidemill_net::kafka::fetch::{FetchPartition, FetchPartitionResponse, OutgoingFetch};
use tidemill_net::kafka::list_offsets::{
    EARLIEST, LATEST, ListOffsetsPartition, ListOffsetsPartitionResponse, ListOffsetsRequest,
    ListOffsetsResponse, ListOffsetsTopic,
};
use tidemill_net::kafka::{ApiKey, ErrorCode, NodeEndpoint, TopicRef};

use super::fetched::{Fetched, FetchedBatch, Step};
use super::{ConsumerConfig, Start};
use crate::backoff::Random;
use crate::cluster::{Address, Cluster, Heard, Map, NotSent, Peer};
use crate::connection::Reply;
use crate::error::{Error, ErrorKind};
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
    high_watermark: Option<i64>,
    /// Since when the cluster has said that it does not exist.
    missing_since: Option<Instant>,
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
    /// Nodes with a fetch in flight.
    fetching: Vec<i32>,
    next_generation: u64,
    /// Where in the list of partitions the next request begins, so that all have their turn.
    rotation: usize,
    last_tick: Instant,
}

/// How many problems wait to be told at most; the oldest are forgotten.
const PROBLEMS_MAX: usize = 100;

/// How long a topic may be missing before that is told.
const MISSING_PATIENCE: Duration = Duration::from_secs(5);

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
            self.cluster.want_topic(&topic, now);
            let generation = self.take_generation();
            self.parts.push(Part {
                topic,
                partition,
                place: place(start),
                paused: false,
                asked: false,
                holds: false,
                not_before: now,
                failed_tries: 0,
                generation,
                high_watermark: None,
                missing_since: None,
            });
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

    /// The end of what could be read when the broker last said so.
    pub fn high_watermark(&self, topic: &str, partition: i32) -> Option<i64> {
        self.parts[self.find(topic, partition)?].high_watermark
    }

    /// The partitions that are read.
    pub fn assigned(&self) -> impl Iterator<Item = (&Arc<str>, i32)> {
        self.parts.iter().map(|part| (&part.topic, part.partition))
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
                Heard::Map => self.look_for_missing(now),
                Heard::Ready => {}
            }
        }
        self.ask_for_offsets(now);
        self.ask_for_records(now);
    }

    /// Topics that cannot be used are told, once for each new map: at once if there is no hope,
    /// and after a while if they may just be in the making.
    fn look_for_missing(&mut self, now: Instant) {
        let mut missing = Vec::new();
        for part in &mut self.parts {
            let view = self.cluster.map().topic(&part.topic);
            let error = match view {
                Some(view) if !view.error.is_none() => view.error,
                Some(view) if view.partitions.len() <= part.partition.max(0) as usize => {
                    ErrorCode::UnknownTopicOrPartition
                }
                _ => {
                    part.missing_since = None;
                    continue;
                }
            };
            let since = *part.missing_since.get_or_insert(now);
            if !error.is_retriable() || MISSING_PATIENCE <= now.since(since) {
                let what = format!("cannot read partition {} of {}", part.partition, part.topic);
                missing.push(Error::refused(what, error, None));
            }
        }
        for error in missing {
            self.complain(error);
        }
    }

    fn complain(&mut self, error: Error) {
        if PROBLEMS_MAX <= self.problems.len() {
            self.problems.pop_front();
        }
        self.problems.push_back(error);
    }

    /// Indexes of the partitions that something can be asked for, by leader.
    fn askable(
        &mut self,
        now: Instant,
        wanted: impl Fn(&Part) -> bool,
    ) -> BTreeMap<i32, Vec<usize>> {
        let mut by_leader: BTreeMap<i32, Vec<usize>> = BTreeMap::new();
        let mut leaderless = false;
        let count = self.parts.len();
        for step in 0..count {
            let index = (self.rotation + step) % count;
            let part = &self.parts[index];
            if part.asked || part.holds || now < part.not_before || !wanted(part) {
                continue;
            }
            match self.cluster.map().leader(&part.topic, part.partition) {
                Some(leader) => by_leader.entry(leader).or_default().push(index),
                None => leaderless = true,
            }
        }
        if leaderless && self.cluster.knows_the_cluster() {
            self.cluster.refresh(now);
        }
        by_leader
    }

    fn ask_for_offsets(&mut self, now: Instant) {
        let by_leader = self.askable(now, |part| matches!(part.place, Place::Find(_)));
        for (leader, indexes) in by_leader {
            let mut topics: Vec<ListOffsetsTopic> = Vec::new();
            for &index in &indexes {
                let part = &self.parts[index];
                let Place::Find(start) = part.place else { unreachable!("just filtered") };
                let partition = ListOffsetsPartition {
                    partition_index: part.partition,
                    current_leader_epoch: leader_epoch(self.cluster.map(), part),
                    timestamp: wire_time(start),
                };
                match topics.iter_mut().find(|topic| *topic.name == *part.topic) {
                    Some(topic) => topic.partitions.push(partition),
                    None => topics.push(ListOffsetsTopic {
                        name: part.topic.to_string(),
                        partitions: vec![partition],
                    }),
                }
            }
            let request = ListOffsetsRequest {
                isolation_level: self.config.isolation.to_wire(),
                topics,
                ..ListOffsetsRequest::default()
            };
            let asked = |&part: &usize| Asked { part, generation: self.parts[part].generation };
            let ask = Ask::Find(indexes.iter().map(asked).collect());
            let sent = self.cluster.send(Peer::Node(leader), &request, Duration::ZERO, ask, now);
            self.after_asking(sent.map(|()| indexes), leader, now);
        }
    }

    /// Notes what was sent; false if nothing was.
    fn after_asking(&mut self, sent: Result<Vec<usize>, NotSent>, node: i32, now: Instant) -> bool {
        match sent {
            Ok(indexes) => {
                for index in indexes {
                    self.parts[index].asked = true;
                }
                true
            }
            Err(NotSent::NotNow) => false,
            Err(NotSent::UnknownNode) => {
                self.cluster.refresh(now);
                false
            }
            Err(NotSent::NoCommonVersion { api, theirs }) => {
                let name = api.api().name;
                let error = Error::new(ErrorKind::Unsupported, format!("cannot ask node {node}"))
                    .because(format!("it takes versions {theirs:?} of {name}"))
                    .fix("use a broker of Apache Kafka 0.11 or later, or compatible with it");
                self.complain(error);
                false
            }
        }
    }

    fn ask_for_records(&mut self, now: Instant) {
        let by_leader =
            self.askable(now, |part| matches!(part.place, Place::At(_)) && !part.paused);
        for (leader, indexes) in by_leader {
            if !self.fetching.contains(&leader) {
                self.fetch_from(leader, indexes, now);
            }
        }
    }

    fn fetch_from(&mut self, leader: i32, indexes: Vec<usize>, now: Instant) {
        let room = self.cluster.room_at(leader, ApiKey::Fetch, now);
        let takes_ids = match room {
            Ok(takes_ids) => takes_ids,
            Err(error) => {
                self.after_asking(Err(error), leader, now);
                return;
            }
        };
        let id_of = |index: usize| {
            let view = self.cluster.map().topic(&self.parts[index].topic);
            view.map(|view| view.id).filter(|id| !id.is_zero())
        };
        let by_id = takes_ids && indexes.iter().all(|&index| id_of(index).is_some());
        let partitions: Vec<FetchPartition<'_>> = indexes
            .iter()
            .map(|&index| {
                let part = &self.parts[index];
                let Place::At(offset) = part.place else { unreachable!("just filtered") };
                let topic = match id_of(index) {
                    Some(id) if by_id => TopicRef::Id(id),
                    _ => TopicRef::Name(&part.topic),
                };
                let most = i32::try_from(self.config.partition_bytes).unwrap_or(i32::MAX);
                FetchPartition {
                    current_leader_epoch: leader_epoch(self.cluster.map(), part),
                    ..FetchPartition::from_consumer(topic, part.partition, offset, most)
                }
            })
            .collect();
        // An answer that waits for records of these keeps back those of the others, which can be
        // asked for as soon as what they brought has been taken.
        let others_hold = self.parts.iter().any(|part| {
            part.holds && self.cluster.map().leader(&part.topic, part.partition) == Some(leader)
        });
        let wait = if others_hold { Duration::ZERO } else { self.config.max_wait };
        let max_wait_ms = i32::try_from(wait.as_millis()).unwrap_or(i32::MAX);
        let request = OutgoingFetch {
            max_wait_ms,
            min_bytes: i32::try_from(self.config.min_bytes).unwrap_or(i32::MAX),
            max_bytes: i32::try_from(self.config.max_bytes).unwrap_or(i32::MAX),
            isolation_level: self.config.isolation.to_wire(),
            partitions: &partitions,
            ..OutgoingFetch::default()
        };
        let asked = |&part: &usize| Asked { part, generation: self.parts[part].generation };
        let ask = Ask::Fetch { node: leader, parts: indexes.iter().map(asked).collect() };
        let sent = self.cluster.fetch(leader, &request, ask, now);
        self.rotation = indexes.last().map_or(0, |last| last + 1);
        if self.after_asking(sent.map(|()| indexes), leader, now) {
            self.fetching.push(leader);
        }
    }

    /// The part that was asked for, if that is still meant.
    fn still_meant(&mut self, asked: Asked) -> Option<&mut Part> {
        self.parts.get_mut(asked.part).filter(|part| part.generation == asked.generation)
    }

    fn take_loss(&mut self, asked: &[Asked], now: Instant) {
        for &asked in asked {
            if self.still_meant(asked).is_some() {
                self.parts[asked.part].asked = false;
                self.rest(asked.part, now);
            }
        }
    }

    /// Asks again only after a while.
    fn rest(&mut self, index: usize, now: Instant) {
        let part = &mut self.parts[index];
        part.failed_tries = part.failed_tries.saturating_add(1);
        part.not_before = now.plus(self.config.retry.delay(part.failed_tries, &mut self.random));
    }

    fn take_offsets(&mut self, asked: &[Asked], reply: &Reply, now: Instant) {
        let Ok(answer) = reply.decode::<ListOffsetsResponse>() else {
            return self.take_loss(asked, now);
        };
        for &asked in asked {
            let Some(part) = self.still_meant(asked) else { continue };
            part.asked = false;
            let (topic, partition) = (Arc::clone(&part.topic), part.partition);
            let topics = answer.topics.iter().filter(|told| *told.name == *topic);
            let told = topics
                .flat_map(|told| &told.partitions)
                .find(|told| told.partition_index == partition);
            match told {
                Some(told) => self.take_offset(asked.part, told, now),
                None => self.rest(asked.part, now),
            }
        }
    }

    fn take_offset(&mut self, index: usize, told: &ListOffsetsPartitionResponse, now: Instant) {
        let part = &mut self.parts[index];
        match told.error_code {
            ErrorCode::None if 0 <= told.offset => {
                part.place = Place::At(told.offset);
                part.failed_tries = 0;
            }
            // No record is that young.
            ErrorCode::None => part.place = Place::Find(Start::Latest),
            error => self.take_error(index, error, now),
        }
    }

    fn take_error(&mut self, index: usize, error: ErrorCode, now: Instant) {
        self.rest(index, now);
        if error.is_retriable() {
            return self.cluster.refresh(now);
        }
        let part = &self.parts[index];
        let what = format!("cannot read partition {} of {}", part.partition, part.topic);
        self.complain(Error::refused(what, error, None));
    }

    fn take_records(&mut self, asked: &[Asked], reply: &Reply, now: Instant) {
        let response = match reply.fetch() {
            Ok(response) if response.error_code.is_none() => response,
            _ => return self.take_loss(asked, now),
        };
        for (at, &asked) in asked.iter().enumerate() {
            if self.still_meant(asked).is_none() {
                continue;
            }
            self.parts[asked.part].asked = false;
            let fits = |told: &&FetchPartitionResponse<'_>| self.is_about(asked.part, told);
            let told = response.partitions.get(at).filter(fits);
            match told.or_else(|| response.partitions.iter().find(fits)) {
                Some(told) => {
                    let endpoints = &response.node_endpoints;
                    self.take_partition(asked, told, endpoints, now);
                }
                None => self.rest(asked.part, now),
            }
        }
    }

    fn is_about(&self, index: usize, told: &FetchPartitionResponse<'_>) -> bool {
        let part = &self.parts[index];
        let same_topic = match told.topic {
            TopicRef::Name(name) => name == &*part.topic,
            TopicRef::Id(id) => {
                self.cluster.map().topic(&part.topic).is_some_and(|view| view.id == id)
            }
        };
        same_topic && told.partition == part.partition
    }

    fn take_partition(
        &mut self,
        asked: Asked,
        told: &FetchPartitionResponse<'_>,
        endpoints: &[NodeEndpoint<'_>],
        now: Instant,
    ) {
        let index = asked.part;
        let part = &mut self.parts[index];
        match told.error_code {
            ErrorCode::None => {
                part.failed_tries = 0;
                part.high_watermark = Some(told.high_watermark);
                if let Some(records) = told.records.first() {
                    let aborted = told.aborted_transactions.as_deref().unwrap_or(&[]);
                    part.holds = true;
                    self.fetched.push_back((asked, Fetched::new(records.clone(), aborted)));
                }
            }
            ErrorCode::OffsetOutOfRange => self.leave_range(index, now),
            error => {
                let hinted = told.current_leader.is_some_and(|hint| {
                    let endpoint = endpoints.iter().find(|e| e.node_id == hint.leader_id);
                    let address = endpoint.and_then(|endpoint| {
                        let port = u16::try_from(endpoint.port).ok()?;
                        Some(Address { host: endpoint.host.into(), port })
                    });
                    let (topic, partition) = (Arc::clone(&part.topic), part.partition);
                    self.cluster.map_mut().take_hint(&topic, partition, hint, address)
                });
                if !hinted {
                    self.take_error(index, error, now);
                }
            }
        }
    }

    /// The position does not exist: the policy says where to go on.
    fn leave_range(&mut self, index: usize, now: Instant) {
        if let Some(reset) = self.config.reset {
            self.rest(index, now);
            self.go_on_at(index, place(reset));
            return;
        }
        self.take_error(index, ErrorCode::OffsetOutOfRange, now);
    }
}

fn place(start: Start) -> Place {
    match start {
        Start::Offset(offset) => Place::At(offset),
        other => Place::Find(other),
    }
}

fn leader_epoch(map: &Map, part: &Part) -> i32 {
    map.partition(&part.topic, part.partition).map_or(-1, |view| view.leader_epoch)
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
