//! One shard of the load generator: its connections, driven on our own runtime.
//!
//! Each connection is a [`tidemill_client::Connection`], which speaks to any broker of Kafka's
//! protocol, and one part in the load: it produces ([`crate::produce`]) or it follows
//! ([`crate::follow`]). A connection is driven when something arrived for it or when its time has
//! come; with thousands of them a turn costs what its events cost.
//!
//! After the end nothing more becomes due; what is in flight is awaited for a while, and readers
//! read on until they have seen all of it. Start reading at [`Load::turn`].

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::Sender;
use std::time::Duration;

use tidemill_client::kafka::{ApiKey, TopicRef};
use tidemill_client::record::TopicId;
use tidemill_client::{Connection, ConnectionConfig, Event};
use tidemill_runtime::edge::{Completion, Done, Edge, Instant, Next, Op, Program, SocketId, Token};
use tidemill_runtime::ring::RingEdge;

use crate::follow::Following;
use crate::produce::{Producing, Sent};
use crate::tally::{Ends, News, Tally};

/// How the load generator calls itself.
pub const CLIENT_ID: &str = "tidemill-bench";

/// How often a shard tells what it measured.
const INTERVAL: Duration = Duration::from_secs(1);

/// How long after the last answer a record may become visible to readers, where an answer does not
/// wait for that.
const GRACE: Duration = Duration::from_secs(1);

/// What one connection does.
pub enum Part {
    /// It produces.
    Produce(Box<Producing>),
    /// It reads.
    Follow(Box<Following>),
}

/// One connection to be driven.
pub struct Member {
    /// Connected to the leader.
    pub stream: TcpStream,
    /// What to do there.
    pub part: Part,
}

/// What all shards are to do.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The run's number, in every record.
    pub run: u64,
    /// The topic.
    pub topic: String,
    /// Its id, if the broker has told one.
    pub topic_id: TopicId,
    /// Kafka's acks: 0, 1 or -1.
    pub acks: i16,
    /// The most requests in flight on one connection.
    pub in_flight_max: usize,
    /// A batch is full at this size.
    pub batch_bytes: usize,
    /// How long a batch that is not full waits for more.
    pub linger: Duration,
    /// When the load begins.
    pub start: Instant,
    /// The wall clock at the start, in milliseconds.
    pub start_unix_ms: i64,
    /// From when on it counts.
    pub measure_from: Instant,
    /// When it ends.
    pub end: Instant,
    /// How long answers are awaited after the end, and readers may take to catch up.
    pub drain: Duration,
    /// Whether what is read counts until all is read, not only until the end.
    pub until_caught_up: bool,
}

impl Plan {
    /// Whether what was due then counts.
    #[must_use]
    pub fn counts(&self, due: Instant) -> bool {
        self.measure_from <= due && due < self.end
    }

    /// Whether what is answered now counts.
    #[must_use]
    pub fn is_measuring(&self, now: Instant) -> bool {
        self.measure_from <= now && (now < self.end || self.until_caught_up)
    }

    /// The topic as this broker wants it called.
    #[must_use]
    pub fn topic_for<A>(&self, connection: &Connection<A>, api: ApiKey) -> TopicRef<'_> {
        if !self.topic_id.is_zero() && connection.takes_topic_ids(api) {
            TopicRef::Id(self.topic_id)
        } else {
            TopicRef::Name(&self.topic)
        }
    }

    /// The time that records are stamped with.
    #[must_use]
    pub fn wall_clock_ms(&self, now: Instant) -> i64 {
        self.start_unix_ms + now.since(self.start).as_millis() as i64
    }
}

/// The client's time for the runtime's.
#[must_use]
pub fn client_time(now: Instant) -> tidemill_client::Instant {
    tidemill_client::Instant::from_nanos(now.nanos)
}

/// Which request a reply answers.
#[derive(Debug)]
pub enum Tag {
    /// This batch.
    Produced(Sent),
    /// The fetch under way.
    Asked,
}

/// The program of one shard of the load generator.
pub struct Load {
    plan: Plan,
    /// Not yet part of the edge.
    streams: Vec<TcpStream>,
    links: Vec<Link>,
    /// When which link wants to be driven, the earliest first.
    wakes: BinaryHeap<Reverse<(Instant, usize)>>,
    /// Links to be driven in this turn.
    touched: Vec<usize>,
    tally: Tally,
    next_report: Instant,
    ends: Ends,
    /// How many producing connections of all shards are not yet settled.
    producing: Arc<AtomicUsize>,
    /// Since when none is.
    settled_since: Option<Instant>,
    news: Sender<News>,
    begun: bool,
}

struct Link {
    socket: SocketId,
    connection: Connection<Tag>,
    part: Part,
    sending: bool,
    open: bool,
    /// A producer that has told that it is settled.
    told_settled: bool,
    /// The earliest wake that is in the heap.
    wake: Option<Instant>,
    is_touched: bool,
}

const RECEIVED: u64 = 0;
const SENT: u64 = 1;

fn token(link: usize, what: u64) -> Token {
    Token((link as u64) << 1 | what)
}

impl Load {
    /// A load that begins with the shard's first turn. `producing` counts the producing
    /// connections of all shards.
    #[must_use]
    pub fn new(
        plan: Plan,
        members: Vec<Member>,
        producing: Arc<AtomicUsize>,
        news: Sender<News>,
    ) -> Self {
        let config = ConnectionConfig {
            client_id: Arc::from(CLIENT_ID),
            in_flight_max: plan.in_flight_max.max(1),
            unsent_bytes_max: (4 * plan.batch_bytes).max(1 << 20),
            ..ConnectionConfig::default()
        };
        let (mut streams, mut links) = (Vec::new(), Vec::new());
        for member in members {
            streams.push(member.stream);
            links.push(Link {
                socket: SocketId(u32::MAX),
                connection: Connection::new(config.clone()),
                part: member.part,
                sending: false,
                open: true,
                told_settled: false,
                wake: None,
                is_touched: false,
            });
        }
        let next_report = plan.start.after(INTERVAL);
        Self {
            plan,
            streams,
            links,
            wakes: BinaryHeap::new(),
            touched: Vec::new(),
            tally: Tally::default(),
            next_report,
            ends: Ends::default(),
            producing,
            settled_since: None,
            news,
            begun: false,
        }
    }

    fn adopt(&mut self, now: Instant, edge: &mut RingEdge<()>) {
        for (i, stream) in std::mem::take(&mut self.streams).into_iter().enumerate() {
            let link = &mut self.links[i];
            link.socket = edge.adopt(stream);
            link.connection.handle_connected(client_time(now));
            link.receive(i, edge);
            self.touch(i);
        }
    }

    fn touch(&mut self, i: usize) {
        if !std::mem::replace(&mut self.links[i].is_touched, true) {
            self.touched.push(i);
        }
    }

    fn handle_completion(&mut self, completion: Completion, now: Instant, edge: &mut RingEdge<()>) {
        let i = (completion.token.0 >> 1) as usize;
        let link = &mut self.links[i];
        match completion.result {
            Ok(Done::Received { bytes, received }) if 0 < received => {
                link.connection.handle_input(bytes, client_time(now));
                self.hear(i, now);
                self.links[i].receive(i, edge);
            }
            Ok(Done::Received { .. }) => self.close(i, "the broker closed the connection", now),
            Ok(_) => link.sending = false,
            Err(fault) => self.close(i, &format!("the connection failed: {fault:?}"), now),
        }
        self.touch(i);
    }

    fn close(&mut self, i: usize, why: &str, now: Instant) {
        if self.links[i].open {
            self.links[i].connection.handle_closed(why);
            self.hear(i, now);
        }
    }

    fn hear(&mut self, i: usize, now: Instant) {
        let Self { plan, links, tally, ends, .. } = self;
        let link = &mut links[i];
        while let Some(event) = link.connection.poll_event() {
            let taken = match (event, &mut link.part) {
                (Event::Reply(Tag::Produced(sent), reply), Part::Produce(producing)) => {
                    producing.take_answer(&sent, &reply, plan, tally, ends, now)
                }
                (Event::Reply(Tag::Asked, reply), Part::Follow(following)) => {
                    following.take_answer(&reply, plan, tally, ends, now)
                }
                (Event::Lost(Tag::Produced(sent)), Part::Produce(producing)) => {
                    producing.take_loss(&sent, ends);
                    Ok(())
                }
                (Event::Closed(trouble), _) => {
                    if std::mem::replace(&mut link.open, false) {
                        ends.fault(trouble.to_string());
                    }
                    Ok(())
                }
                _ => Ok(()),
            };
            if let Err(why) = taken {
                // Nothing that follows on this connection could be trusted.
                ends.fault(why);
                link.open = false;
                link.connection.handle_closed("given up");
            }
        }
    }

    fn drive(&mut self, i: usize, now: Instant, edge: &mut RingEdge<()>) {
        let settled = self.is_settled(now);
        let Self { plan, links, tally, ends, producing: all_producing, .. } = self;
        let link = &mut links[i];
        link.is_touched = false;
        if link.open {
            link.connection.tick(client_time(now));
        }
        if link.open && plan.start <= now && link.connection.is_ready() {
            match &mut link.part {
                Part::Produce(producing) => {
                    producing.drive(plan, &mut link.connection, tally, ends, now);
                }
                Part::Follow(following) => {
                    following.drive(plan, &mut link.connection, ends, settled, now);
                }
            }
        }
        link.flush(i, edge);
        if let Part::Produce(producing) = &link.part
            && !link.told_settled
            && plan.end <= now
            && (!link.open || producing.is_settled(plan) && link.is_sent())
        {
            link.told_settled = true;
            all_producing.fetch_sub(1, Ordering::AcqRel);
        }
        self.hear(i, now);
        self.arrange_wake(i, now);
    }

    /// Whether all producers have ended, and what they sent can be read.
    fn is_settled(&mut self, now: Instant) -> bool {
        if self.settled_since.is_none() && self.producing.load(Ordering::Acquire) == 0 {
            self.settled_since = Some(now);
        }
        let grace = if self.plan.acks == -1 { Duration::ZERO } else { GRACE };
        self.settled_since.is_some_and(|since| since.after(grace) <= now)
            && (self.plan.end <= now || self.plan.until_caught_up)
    }

    fn arrange_wake(&mut self, i: usize, now: Instant) {
        let link = &mut self.links[i];
        if !link.open {
            return;
        }
        let wake = match &link.part {
            Part::Produce(producing) if now < self.plan.end => producing.next_wake(&self.plan),
            Part::Produce(_) => None,
            Part::Follow(following) => following.next_wake(&self.plan),
        };
        // What is due already waits for the connection; its answer will wake the link.
        let Some(wake) = wake.filter(|wake| now < *wake) else { return };
        if link.wake.is_none_or(|known| wake < known) {
            link.wake = Some(wake);
            self.wakes.push(Reverse((wake, i)));
        }
    }

    fn take_wakes(&mut self, now: Instant) {
        while let Some(Reverse((at, i))) = self.wakes.peek().copied()
            && at <= now
        {
            self.wakes.pop();
            if self.links[i].wake == Some(at) {
                self.links[i].wake = None;
            }
            self.touch(i);
        }
    }

    /// Whether everything that may still come has come.
    fn is_done(&self, now: Instant) -> bool {
        if self.plan.end.after(self.plan.drain) <= now {
            return true;
        }
        let ended = self.plan.end <= now || self.plan.until_caught_up;
        ended
            && self.links.iter().all(|link| {
                !link.open
                    || match &link.part {
                        Part::Produce(_) => link.told_settled,
                        Part::Follow(following) => following.is_done(),
                    }
            })
    }

    fn finish(&mut self) -> Next {
        self.report();
        let mut ends = std::mem::take(&mut self.ends);
        for link in self.links.drain(..) {
            match link.part {
                Part::Produce(producing) => producing.finish(&self.plan, &mut ends),
                Part::Follow(following) => following.finish(&mut ends),
            }
        }
        // Fails only if nobody wants to know any more.
        drop(self.news.send(News::End(Box::new(ends))));
        Next::Stop
    }

    fn report(&mut self) {
        let tally = std::mem::take(&mut self.tally);
        drop(self.news.send(News::Interval(Box::new(tally))));
    }

    fn next_turn(&self, now: Instant) -> Next {
        let mut next = self.next_report;
        for at in [self.plan.start, self.plan.end, self.plan.end.after(self.plan.drain)] {
            if now < at {
                next = next.min(at);
            }
        }
        if self.plan.end <= now {
            // Others tell by a shared count that they are settled; that wakes nobody.
            next = next.min(now.after(Duration::from_millis(20)));
        }
        if let Some(Reverse((at, _))) = self.wakes.peek() {
            next = next.min(*at);
        }
        Next::At(next)
    }
}

impl Program<RingEdge<()>> for Load {
    fn turn(&mut self, edge: &mut RingEdge<()>) -> Next {
        let now = edge.now();
        if !self.streams.is_empty() {
            self.adopt(now, edge);
        }
        while let Some(completion) = edge.poll_completion() {
            self.handle_completion(completion, now, edge);
        }
        self.take_wakes(now);
        let reports = self.next_report <= now;
        if reports {
            self.next_report = now.after(INTERVAL);
            self.report();
        }
        // Rarely: whatever waits for the start, the end, or an answer that is overdue.
        let begins = !self.begun && self.plan.start <= now;
        self.begun |= begins;
        if reports || begins || self.plan.end <= now {
            (0..self.links.len()).for_each(|i| self.touch(i));
        }
        for i in std::mem::take(&mut self.touched) {
            self.drive(i, now, edge);
        }
        if self.is_done(now) { self.finish() } else { self.next_turn(now) }
    }
}

impl Link {
    fn receive(&mut self, i: usize, edge: &mut RingEdge<()>) {
        if self.open {
            let into = self.connection.take_input();
            edge.submit(token(i, RECEIVED), Op::Receive { socket: self.socket, into });
        }
    }

    fn is_sent(&self) -> bool {
        !self.sending && self.connection.unsent_bytes() == 0
    }

    fn flush(&mut self, i: usize, edge: &mut RingEdge<()>) {
        if self.sending || !self.open || self.connection.unsent_bytes() == 0 {
            return;
        }
        let mut parts = Vec::new();
        self.connection.take_output(&mut parts);
        self.sending = true;
        edge.submit(token(i, SENT), Op::Send { socket: self.socket, parts });
    }
}
