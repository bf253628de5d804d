//! All brokers of a cluster, without I/O: connections, who leads what, and whom to ask.
//!
//! ```text
//! the driver                                   this
//!   what to do?      <- poll_action            Connect, Disconnect
//!   connected        -> handle_connected
//!   bytes arrived    -> take_input, handle_input
//!   not connected, or ended -> handle_closed
//!   time passed      -> tick
//!   what to send?    <- take_output            for each line
//! the user
//!   send, produce, fetch: to a node, or to any; not yet connected: begins to connect, says NotNow
//!   what happened?   <- poll_heard             replies, losses, a new map
//! ```
//!
//! A *line* is one attempt to be connected to one address; the next attempt is another line, so
//! that what a driver says late cannot be mistaken. Nothing is queued for a broker that cannot take
//! it now: the user asks again, when [`Cluster::next_deadline`] says or something was heard.
//!
//! The map of topics and leaders is refreshed when a user says that it is old, when it is old, and
//! for as long as a wanted topic has a partition without leader.

mod address;
mod lines;
mod map;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tidemill_net::kafka::fetch::OutgoingFetch;
use tidemill_net::kafka::metadata::{MetadataRequest, MetadataRequestTopic, MetadataResponse};
use tidemill_net::kafka::produce::OutgoingBatches;
use tidemill_net::kafka::{ApiKey, Request};

use crate::backoff::{Backoff, Random};
use crate::connection::{ConnectionConfig, Reply, SendError};
use crate::limits;
use crate::time::{Instant, earlier};

use self::lines::{Line, Place};

pub use address::{Address, AddressError};
pub use map::{Map, PartitionView, TopicView};

/// How a client deals with the cluster.
#[derive(Clone, Debug)]
pub struct ClusterConfig {
    /// Brokers to ask first; the others are learned from them.
    pub bootstrap: Vec<Address>,
    /// How each connection behaves.
    pub connection: ConnectionConfig,
    /// How long connecting may take.
    pub connect_timeout: Duration,
    /// How long a reply may take, beyond any wait that the request asks for.
    pub request_timeout: Duration,
    /// The waits before connecting again to a broker that failed.
    pub reconnect: Backoff,
    /// The waits before asking again for the map.
    pub refresh: Backoff,
    /// How old the map may become.
    pub map_age_max: Duration,
    /// Whether asking for a topic may create it, if the broker is so inclined.
    pub create_topics: bool,
    /// What chance is made of.
    pub seed: u64,
}

impl Default for ClusterConfig {
    fn default() -> ClusterConfig {
        let (first, longest) = (Duration::from_millis(50), Duration::from_secs(1));
        ClusterConfig {
            bootstrap: Vec::new(),
            connection: ConnectionConfig::default(),
            connect_timeout: Duration::from_secs(10),
            request_timeout: Duration::from_secs(30),
            reconnect: Backoff { first, longest },
            refresh: Backoff { first: Duration::from_millis(100), longest },
            map_age_max: Duration::from_secs(300),
            create_topics: true,
            seed: 0,
        }
    }
}

/// One attempt to be connected to one address.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct LineId(pub u64);

/// Whom to ask.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Peer {
    /// Whichever broker is at hand.
    Any,
    /// The node with this id.
    Node(i32),
    /// The node with this id, over a connection of its own: what a broker may keep waiting for long
    /// holds up nothing else there, and is not held up.
    Aside(i32),
}

/// What the driver is to do.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Action {
    /// Connect; tell with [`Cluster::handle_connected`] or [`Cluster::handle_closed`].
    Connect(LineId, Address),
    /// Close; nothing needs to be told. If there is no such line any more, do nothing.
    Disconnect(LineId),
}

/// What was heard.
#[derive(Clone, Debug)]
pub enum Heard<A> {
    /// The answer to a request.
    Reply(A, Reply),
    /// No answer will come. Whether the broker did what was asked is not known.
    Lost(A),
    /// A broker can be asked that could not before.
    Ready,
    /// The map is new.
    Map,
}

/// Why a request was not sent. Nothing was written.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum NotSent {
    /// Not connected yet, or as much as allowed is under way. Ask again.
    NotNow,
    /// The map has no such node.
    UnknownNode,
    /// The broker and we have no version of this API in common that can say this.
    NoCommonVersion {
        /// The API.
        api: ApiKey,
        /// What the broker speaks of it.
        theirs: Option<(i16, i16)>,
    },
}

impl From<SendError> for NotSent {
    fn from(error: SendError) -> NotSent {
        match error {
            SendError::NotReady | SendError::NoRoom => NotSent::NotNow,
            SendError::NoCommonVersion { api, theirs } => NotSent::NoCommonVersion { api, theirs },
        }
    }
}

#[derive(Debug)]
enum Ask<A> {
    Map { all: bool },
    Theirs(A),
}

/// See the head of this file.
#[derive(Debug)]
pub struct Cluster<A> {
    config: ClusterConfig,
    random: Random,
    map: Map,
    lines: BTreeMap<LineId, Line<A>>,
    places: BTreeMap<Address, Place>,
    next_line: u64,
    actions: VecDeque<Action>,
    heard: VecDeque<Heard<A>>,
    wanted: BTreeSet<Arc<str>>,
    want_all: bool,
    shows_all: bool,
    refresh_at: Option<Instant>,
    refreshing: bool,
    /// It is time to refresh, but nobody can be asked yet.
    refresh_waits: bool,
    refreshed_at: Option<Instant>,
    refresh_tries: u32,
    /// When somebody who was told NotNow may ask again, if nothing is heard before.
    ask_again_at: Option<Instant>,
    trouble: Option<String>,
}

impl<A> Cluster<A> {
    /// A client that knows where to ask first. Nothing happens before [`Cluster::tick`].
    pub fn new(config: ClusterConfig) -> Cluster<A> {
        let random = Random::new(config.seed);
        Cluster {
            config,
            random,
            map: Map::default(),
            lines: BTreeMap::new(),
            places: BTreeMap::new(),
            next_line: 0,
            actions: VecDeque::new(),
            heard: VecDeque::new(),
            wanted: BTreeSet::new(),
            want_all: false,
            shows_all: false,
            refresh_at: Some(Instant::default()),
            refreshing: false,
            refresh_waits: false,
            refreshed_at: None,
            refresh_tries: 0,
            ask_again_at: None,
            trouble: None,
        }
    }

    /// What is known of the cluster.
    pub fn map(&self) -> &Map {
        &self.map
    }

    pub(crate) fn map_mut(&mut self) -> &mut Map {
        &mut self.map
    }

    /// How it deals with the cluster.
    pub fn config(&self) -> &ClusterConfig {
        &self.config
    }

    /// The last thing that went wrong with a connection, for whoever waits in vain.
    pub fn trouble(&self) -> Option<&str> {
        self.trouble.as_deref()
    }

    /// Whether every broker known of was last tried in vain.
    pub fn is_out_of_reach(&self) -> bool {
        let mut known = self.map.nodes().values().chain(&self.config.bootstrap);
        known.all(|address| self.is_away(address))
    }

    /// Whether a node was last tried in vain.
    pub fn is_node_out_of_reach(&self, node: i32) -> bool {
        self.map.nodes().get(&node).is_some_and(|address| self.is_away(address))
    }

    fn is_away(&self, address: &Address) -> bool {
        self.places.get(address).is_some_and(|place| place.is_away)
    }

    /// Whether the map has been heard at least once.
    pub fn knows_the_cluster(&self) -> bool {
        self.refreshed_at.is_some()
    }

    /// Whether nobody has told of the cluster yet, and something has gone wrong in asking.
    pub fn is_sought_in_vain(&self) -> bool {
        !self.knows_the_cluster() && self.trouble.is_some()
    }

    /// Adds a topic to those the map is to show.
    pub fn want_topic(&mut self, name: &Arc<str>, now: Instant) {
        if self.wanted.len() < limits::TOPICS_MAX && self.wanted.insert(Arc::clone(name)) {
            self.refresh_at = Some(now);
        }
    }

    /// Makes the map show all topics.
    pub fn want_all_topics(&mut self, now: Instant) {
        self.want_all = true;
        self.shows_all = false;
        self.refresh_at = Some(now);
    }

    /// Takes topics from those the map is to show.
    pub fn keep_topics(&mut self, kept: impl Fn(&str) -> bool) {
        self.wanted.retain(|name| kept(name));
        self.map.keep_only(kept);
    }

    /// The map has proved to be old.
    pub fn refresh(&mut self, now: Instant) {
        let earliest = match self.refreshed_at {
            Some(last) => last.plus(self.config.refresh.delay(1, &mut self.random)).max(now),
            None => now,
        };
        self.refresh_at = Some(self.refresh_at.map_or(earliest, |at| at.min(earliest)));
    }

    /// Somebody wants to see the map as it is now.
    pub fn refresh_now(&mut self, now: Instant) {
        self.refresh_at = Some(now);
    }

    /// Whether the map shows all topics there are.
    pub fn shows_all_topics(&self) -> bool {
        self.shows_all
    }

    /// Sends a request. `wait` is how long the request itself asks the broker to wait.
    pub fn send<R: Request>(
        &mut self,
        to: Peer,
        request: &R,
        wait: Duration,
        tag: A,
        now: Instant,
    ) -> Result<(), NotSent> {
        let timeout = self.config.request_timeout.saturating_add(wait);
        let connection = self.connection(to, now)?;
        Ok(connection.send(request, Ask::Theirs(tag), timeout, now)?)
    }

    /// Sends batches to a node: see [`Connection::produce`](crate::Connection::produce).
    pub fn produce(
        &mut self,
        node: i32,
        request: &OutgoingBatches<'_>,
        tag: A,
        now: Instant,
    ) -> Result<(), NotSent> {
        let timeout = self.config.request_timeout;
        let connection = self.connection(Peer::Node(node), now)?;
        Ok(connection.produce(request, Ask::Theirs(tag), timeout, now)?)
    }

    /// Asks a node for records: see [`Connection::fetch`](crate::Connection::fetch).
    pub fn fetch(
        &mut self,
        node: i32,
        request: &OutgoingFetch<'_>,
        tag: A,
        now: Instant,
    ) -> Result<(), NotSent> {
        let wait = Duration::from_millis(request.max_wait_ms.max(0).unsigned_abs().into());
        let timeout = self.config.request_timeout.saturating_add(wait);
        let connection = self.connection(Peer::Node(node), now)?;
        Ok(connection.fetch(request, Ask::Theirs(tag), timeout, now)?)
    }

    /// Whether a node can take a request now, and whether it takes topics by id in this API. Begins
    /// to connect if need be.
    pub fn room_at(&mut self, node: i32, api: ApiKey, now: Instant) -> Result<bool, NotSent> {
        let connection = self.connection(Peer::Node(node), now)?;
        Ok(connection.takes_topic_ids(api))
    }

    /// How many requests of the user's and ours wait for their reply at a node.
    pub fn in_flight_at(&self, node: i32) -> usize {
        let place = self.map.nodes().get(&node).and_then(|address| self.places.get(address));
        let line = place.and_then(|place| place.line).and_then(|line| self.lines.get(&line));
        line.map_or(0, |line| line.connection.in_flight())
    }

    /// A broker asks to keep quiet: see [`Connection::keep_quiet`](crate::Connection::keep_quiet).
    pub fn keep_quiet(&mut self, node: i32, until: Instant) {
        let place = self.map.nodes().get(&node).and_then(|address| self.places.get(address));
        let line = place.and_then(|place| place.line).and_then(|line| self.lines.get_mut(&line));
        if let Some(line) = line {
            line.connection.keep_quiet(until);
        }
    }

    /// What to do next.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// What was heard, oldest first.
    pub fn poll_heard(&mut self) -> Option<Heard<A>> {
        self.heard.pop_front()
    }

    /// A line is connected.
    pub fn handle_connected(&mut self, line: LineId, now: Instant) {
        if let Some(connected) = self.lines.get_mut(&line) {
            connected.connecting_until = None;
            connected.connection.handle_connected(now);
        }
    }

    /// Where bytes received on a line go: see
    /// [`Connection::take_input`](crate::Connection::take_input).
    pub fn take_input(&mut self, line: LineId) -> BytesMut {
        self.lines.get_mut(&line).map_or_else(BytesMut::new, |line| line.connection.take_input())
    }

    /// Bytes arrived: see [`Connection::handle_input`](crate::Connection::handle_input).
    pub fn handle_input(&mut self, line: LineId, input: BytesMut, now: Instant) {
        if let Some(receiving) = self.lines.get_mut(&line) {
            receiving.connection.handle_input(input, now);
            self.listen(line, now);
        }
    }

    /// A line could not be connected, or has ended.
    pub fn handle_closed(&mut self, line: LineId, cause: impl fmt::Display, now: Instant) {
        if let Some(ended) = self.lines.get_mut(&line) {
            ended.connection.handle_closed(cause);
            self.listen(line, now);
        }
    }

    /// Appends what is to be sent on a line; tells how many bytes that is.
    pub fn take_output(&mut self, line: LineId, parts: &mut Vec<Bytes>) -> usize {
        self.lines.get_mut(&line).map_or(0, |line| line.connection.take_output(parts))
    }

    /// Time passed.
    pub fn tick(&mut self, now: Instant) {
        self.ask_again_at = self.ask_again_at.filter(|at| now < *at);
        let lines: Vec<LineId> = self.lines.keys().copied().collect();
        for id in lines {
            let line = self.lines.get_mut(&id).expect("just listed, and each visited once");
            match line.connecting_until {
                Some(until) if until <= now => line.connection.handle_closed("timed out"),
                _ => line.connection.tick(now),
            }
            self.listen(id, now);
        }
        if !self.refreshing && self.refresh_at.is_some_and(|at| at <= now) {
            self.ask_for_map(now);
        }
    }

    /// When [`Cluster::tick`], or somebody who was told to ask again, has something to do.
    pub fn next_deadline(&self) -> Option<Instant> {
        let mut next = self.ask_again_at;
        if !self.refreshing && !self.refresh_waits {
            next = earlier(next, self.refresh_at);
        }
        for line in self.lines.values() {
            let due = earlier(line.connecting_until, line.connection.next_deadline());
            next = earlier(next, due);
        }
        next
    }

    fn ask_for_map(&mut self, now: Instant) {
        let named = |name: &Arc<str>| MetadataRequestTopic {
            name: Some(name.to_string()),
            ..MetadataRequestTopic::default()
        };
        let all = self.want_all;
        let request = MetadataRequest {
            topics: (!all).then(|| self.wanted.iter().map(named).collect()),
            allow_auto_topic_creation: self.config.create_topics,
            ..MetadataRequest::default()
        };
        let timeout = self.config.request_timeout;
        let asked = match self.connection(Peer::Any, now) {
            Ok(connection) => connection.send(&request, Ask::Map { all }, timeout, now).is_ok(),
            Err(_) => false,
        };
        self.refreshing = asked;
        self.refresh_waits = !asked;
        if asked {
            self.refresh_at = None;
        }
    }

    fn take_map(&mut self, answer: MetadataResponse, all: bool, now: Instant) {
        self.refreshing = false;
        self.refreshed_at = Some(now);
        self.shows_all = all;
        self.map.absorb(answer, all);
        let whole = |name: &Arc<str>| {
            self.map.topic(name).is_some_and(|topic| {
                topic.error.is_none() && topic.partitions.iter().all(|p| p.leader.is_some())
            })
        };
        self.refresh_tries =
            if self.wanted.iter().all(whole) { 0 } else { self.refresh_tries.saturating_add(1) };
        let next = match self.refresh_tries {
            0 => self.config.map_age_max,
            tries => self.config.refresh.delay(tries, &mut self.random),
        };
        // Somebody may have asked for more while the question was on its way.
        let asked_for_more = self.refresh_at.take();
        self.refresh_at = earlier(asked_for_more, Some(now.plus(next)));
        let known: BTreeSet<&Address> =
            self.map.nodes().values().chain(&self.config.bootstrap).collect();
        self.places.retain(|address, place| place.has_line() || known.contains(address));
        self.heard.push_back(Heard::Map);
    }
}

#[cfg(test)]
mod tests;
