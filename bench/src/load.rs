//! One shard of the load generator: its connections, driven on our own runtime.
//!
//! Each connection is a [`tidemill_client::Connection`], which speaks to any broker of Kafka's
//! protocol, and one part in the load: it produces ([`crate::produce`]) or it follows
//! ([`crate::follow`]). A connection is driven when something arrived for it or when its time has
//! come; with thousands of them a turn costs what its events cost.
//!
//! A connection that is lost is made again elsewhere ([`crate::rejoin`]) and handed back; what falls
//! due meanwhile keeps its time. If it takes too long the run is given up, in all shards.
//!
//! After the end nothing more becomes due; what is in flight is awaited for a while, and readers
//! read on until they have seen all of it. Start reading at [`Load::turn`].

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fmt;
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::Sender;
use std::time::Duration;

use tidemill_client::kafka::ErrorCode;
use tidemill_client::{Connection, ConnectionConfig, Event};
use tidemill_runtime::edge::{
    Completion, Done, Edge, Instant, Next, Op, Program, ShardId, SocketId,
};
use tidemill_runtime::ring::RingEdge;

use crate::follow::Following;
use crate::plan::Plan;
use crate::produce::{Producing, Sent};
use crate::rejoin::{Lost, Rejoined};
use crate::tally::{Ends, Tallies};
use link::{CLOSED, LINK_BITS, Link};

mod link;

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
    /// One of the partitions it serves, by which its leader is found again.
    pub partition: i32,
    /// What to do there.
    pub part: Part,
}

/// What all shards, and all processes, share.
#[derive(Debug, Default)]
pub struct Shared {
    /// How many producing connections are not yet settled; other processes count as one.
    pub producing: AtomicUsize,
    /// Whether the run is over before its time.
    pub over: AtomicBool,
    /// When its time was cut short, in nanoseconds; zero if it was not.
    cut_at: AtomicU64,
}

impl Shared {
    /// Cuts the time of the run short, once: nothing more falls due, what is in flight is awaited.
    pub fn cut(&self, at: Instant) {
        let (ordering, at) = (Ordering::AcqRel, at.nanos.max(1));
        // Whoever came first has said when.
        let _ = self.cut_at.compare_exchange(0, at, ordering, Ordering::Acquire);
    }

    /// When the time of the run was cut short, if it was.
    #[must_use]
    pub fn cut_at(&self) -> Option<Instant> {
        let nanos = self.cut_at.load(Ordering::Acquire);
        (0 < nanos).then_some(Instant { nanos })
    }
}

/// What a shard says.
#[derive(Debug)]
pub enum News {
    /// An interval has passed.
    Interval(Box<Tallies>),
    /// Nobody but other processes produces any more.
    Settled,
    /// The shard is done.
    End(Box<Ends>),
}

/// Whom a shard tells.
pub struct Outside {
    /// What all shards share.
    pub shared: Arc<Shared>,
    /// Takes what was measured.
    pub news: Sender<News>,
    /// Connects again.
    pub lost: Sender<Lost<i32>>,
}

/// What is wrong with an answer.
#[derive(Clone, Debug, PartialEq)]
pub enum Wrong {
    /// It shows what no broker may do: nothing that follows could be trusted.
    Damage(String),
    /// The broker refused, and said so.
    Refused {
        /// In words.
        text: String,
        /// Another broker may not.
        elsewhere: bool,
    },
}

impl Wrong {
    /// What no broker may do.
    pub fn damage(why: impl fmt::Display) -> Self {
        Self::Damage(why.to_string())
    }

    /// The broker's refusal.
    #[must_use]
    pub fn refused(what: &str, code: ErrorCode) -> Self {
        let elsewhere =
            matches!(code, ErrorCode::NotLeaderOrFollower | ErrorCode::FencedLeaderEpoch);
        Self::Refused { text: format!("{what}: {code}"), elsewhere }
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
    shard: ShardId,
    plan: Plan,
    config: ConnectionConfig,
    /// Not yet part of the edge.
    streams: Vec<TcpStream>,
    links: Vec<Link>,
    /// When which link wants to be driven, the earliest first.
    wakes: BinaryHeap<Reverse<(Instant, usize)>>,
    /// Links to be driven in this turn.
    touched: Vec<usize>,
    tallies: Tallies,
    next_report: Instant,
    ends: Ends,
    outside: Outside,
    /// Since when no connection of any shard produces.
    settled_since: Option<Instant>,
    begun: bool,
    /// Whether its time was cut short.
    is_cut: bool,
}

impl Load {
    /// A load that begins with the shard's first turn.
    #[must_use]
    pub fn new(shard: ShardId, plan: Plan, members: Vec<Member>, outside: Outside) -> Self {
        assert!(members.len() < 1 << LINK_BITS, "so many sockets no process has");
        let config = ConnectionConfig {
            client_id: Arc::from(CLIENT_ID),
            in_flight_max: plan.in_flight_max,
            unsent_bytes_max: (4 * plan.batch_bytes).max(1 << 20),
            ..ConnectionConfig::default()
        };
        let (mut streams, mut links) = (Vec::new(), Vec::new());
        for member in members {
            streams.push(member.stream);
            links.push(Link {
                socket: SocketId(u32::MAX),
                generation: 0,
                partition: member.partition,
                connection: Connection::new(config.clone()),
                part: member.part,
                sending: false,
                open: true,
                down_since: None,
                given_up: false,
                told_settled: false,
                wake: None,
                is_touched: false,
            });
        }
        Self {
            shard,
            next_report: plan.start.after(INTERVAL),
            tallies: Tallies::of(plan.ends().len()),
            plan,
            config,
            streams,
            links,
            wakes: BinaryHeap::new(),
            touched: Vec::new(),
            ends: Ends::default(),
            outside,
            settled_since: None,
            begun: false,
            is_cut: false,
        }
    }

    fn adopt(&mut self, now: Instant, edge: &mut RingEdge<Rejoined>) {
        for (i, stream) in std::mem::take(&mut self.streams).into_iter().enumerate() {
            self.links[i].adopt(i, stream, now, edge);
            self.touch(i);
        }
    }

    /// A connection is there again, unless nobody needs it any more.
    fn take_rejoined(&mut self, rejoined: Rejoined, now: Instant, edge: &mut RingEdge<Rejoined>) {
        let Rejoined { link: i, generation, stream } = rejoined;
        let link = &mut self.links[i];
        if link.open || link.given_up || link.generation != generation {
            return;
        }
        link.generation += 1;
        link.connection = Connection::new(self.config.clone());
        (link.open, link.sending) = (true, false);
        link.adopt(i, stream, now, edge);
        self.touch(i);
    }

    fn touch(&mut self, i: usize) {
        if !std::mem::replace(&mut self.links[i].is_touched, true) {
            self.touched.push(i);
        }
    }

    fn handle_completion(
        &mut self,
        completion: Completion,
        now: Instant,
        edge: &mut RingEdge<Rejoined>,
    ) {
        let (i, what) =
            ((completion.token.0 >> 2) as usize & ((1 << LINK_BITS) - 1), completion.token.0 & 3);
        let link = &mut self.links[i];
        if what == CLOSED || link.token(i, what) != completion.token {
            return;
        }
        match completion.result {
            Ok(Done::Received { bytes, received }) if 0 < received => {
                link.connection.handle_input(bytes, client_time(now));
                self.hear(i, now, edge);
                self.links[i].receive(i, edge);
            }
            Ok(Done::Received { .. }) => {
                self.close(i, "the broker closed the connection", now, edge)
            }
            Ok(_) => link.sending = false,
            Err(fault) => {
                self.close(i, &format!("the connection failed: {fault:?}"), now, edge);
            }
        }
        self.touch(i);
    }

    fn close(&mut self, i: usize, why: &str, now: Instant, edge: &mut RingEdge<Rejoined>) {
        if self.links[i].open {
            self.links[i].connection.handle_closed(why);
            self.hear(i, now, edge);
        }
    }

    fn hear(&mut self, i: usize, now: Instant, edge: &mut RingEdge<Rejoined>) {
        while let Some(event) = self.links[i].connection.poll_event() {
            let Self { plan, links, tallies, ends, .. } = self;
            let link = &mut links[i];
            let taken = match (event, &mut link.part) {
                (Event::Reply(Tag::Produced(sent), reply), Part::Produce(producing)) => {
                    let taken = producing.take_answer(&sent, &reply, plan, tallies, ends, now);
                    let quiet = producing.asked_quiet();
                    link.connection.keep_quiet(client_time(now).plus(quiet));
                    taken
                }
                (Event::Reply(Tag::Asked, reply), Part::Follow(following)) => {
                    following.take_answer(&reply, plan, tallies, ends, now)
                }
                (Event::Lost(Tag::Produced(sent)), Part::Produce(producing)) => {
                    producing.take_loss(&sent, plan, tallies, ends, now);
                    continue;
                }
                (Event::Ready, _) => {
                    link.handle_ready(plan, ends, now);
                    continue;
                }
                (Event::Closed(trouble), _) => {
                    self.lose(i, &trouble.to_string(), now, edge);
                    continue;
                }
                // The fetch under way: it is asked for again when the connection is.
                _ => continue,
            };
            if let Err(wrong) = taken {
                self.take_wrong(i, wrong, now);
            }
        }
    }

    /// A connection is gone: asks for another one, unless nothing is left for it to do.
    fn lose(&mut self, i: usize, why: &str, now: Instant, edge: &mut RingEdge<Rejoined>) {
        let Self { plan, links, ends, outside, .. } = self;
        let link = &mut links[i];
        link.open = false;
        link.down_since.get_or_insert(now);
        edge.submit(link.token(i, CLOSED), Op::CloseSocket { socket: link.socket });
        match &mut link.part {
            Part::Produce(producing) => producing.handle_lost(plan),
            Part::Follow(following) => following.handle_lost(),
        }
        if link.given_up || link.is_done() {
            return;
        }
        ends.troubles.note(plan.seconds(now), why.to_owned());
        let (shard, generation, place) = (self.shard, link.generation, link.partition);
        // Fails only at the very end, when nobody connects any more.
        let _ = outside.lost.send(Lost { shard, link: i, generation, place });
    }

    fn take_wrong(&mut self, i: usize, wrong: Wrong, now: Instant) {
        let (ends, link) = (&mut self.ends, &mut self.links[i]);
        let seconds = self.plan.seconds(now);
        match wrong {
            Wrong::Damage(text) => {
                ends.damage.note(seconds, text);
                link.given_up = true;
                link.connection.handle_closed("given up");
            }
            Wrong::Refused { text, elsewhere } => {
                ends.troubles.note(seconds, text);
                if elsewhere {
                    link.connection.handle_closed("the partition is led elsewhere now");
                }
            }
        }
    }

    fn drive(&mut self, i: usize, now: Instant, edge: &mut RingEdge<Rejoined>) {
        let settled = self.is_settled(now);
        let Self { plan, links, tallies, ends, .. } = self;
        let link = &mut links[i];
        link.is_touched = false;
        if link.open {
            link.connection.tick(client_time(now));
        }
        if link.open && plan.start <= now && link.connection.is_ready() {
            match &mut link.part {
                Part::Produce(producing) => {
                    producing.drive(plan, &mut link.connection, tallies, ends, now);
                }
                Part::Follow(following) => {
                    following.drive(plan, &mut link.connection, ends, settled, now);
                }
            }
        }
        link.flush(i, edge);
        if let Part::Produce(producing) = &link.part
            && !link.told_settled
            && plan.end() <= now
            && (link.given_up || producing.is_settled(now) && link.is_sent())
        {
            link.told_settled = true;
            let left = self.outside.shared.producing.fetch_sub(1, Ordering::AcqRel) - 1;
            if left <= 1 {
                // Fails only if nobody wants to know any more.
                drop(self.outside.news.send(News::Settled));
            }
        }
        self.hear(i, now, edge);
        self.arrange_wake(i, now);
    }

    /// Whether all producers have ended, and what they sent can be read.
    fn is_settled(&mut self, now: Instant) -> bool {
        let is_none_left = || self.outside.shared.producing.load(Ordering::Acquire) == 0;
        if self.settled_since.is_none() && is_none_left() {
            self.settled_since = Some(now);
        }
        let grace = if self.plan.acks == -1 { Duration::ZERO } else { GRACE };
        self.settled_since.is_some_and(|since| since.after(grace) <= now)
            && (self.plan.end() <= now || self.plan.until_caught_up)
    }

    fn arrange_wake(&mut self, i: usize, now: Instant) {
        let link = &mut self.links[i];
        if !link.open {
            return;
        }
        let wake = match &link.part {
            Part::Produce(producing) if now < self.plan.end() => {
                producing.next_wake(&self.plan, now)
            }
            Part::Produce(_) => None,
            Part::Follow(following) => following.next_wake(&self.plan),
        };
        // What is due already waits for the connection: for the end of the time that the broker
        // asked to be left alone, or for an answer, which will wake the link.
        let quiet_until = Instant { nanos: link.connection.quiet_until().nanos };
        let wake = wake.map(|wake| wake.max(quiet_until));
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

    /// Gives the run up, in all shards, if some broker is away for too long.
    fn look_for_lost(&mut self, now: Instant) {
        let limit = self.plan.reconnect;
        let needed = self.links.iter().filter(|link| !link.given_up && !link.is_done());
        let longest = needed.filter_map(|link| link.down_since).min();
        if let Some(since) = longest
            && since.after(limit) <= now
            && self.ends.given_up.is_none()
        {
            self.ends.given_up = Some(format!(
                "the broker was lost {:.1} s after the start and not back within {:.0} s",
                self.plan.seconds(since),
                limit.as_secs_f64()
            ));
            self.outside.shared.over.store(true, Ordering::Release);
        }
    }

    /// The time of the run was cut short: nothing more falls due. What is in flight is awaited,
    /// unless a broker is away; whoever only reads has nothing in flight.
    fn take_cut(&mut self) {
        let Some(at) = self.outside.shared.cut_at().filter(|_| !self.is_cut) else { return };
        self.is_cut = true;
        self.plan.cut(at);
        let mut is_over = self.plan.until_caught_up;
        for link in &mut self.links {
            is_over |= link.down_since.is_some() && !link.given_up && !link.is_done();
            if let Part::Produce(producing) = &mut link.part {
                producing.cut(at);
            }
        }
        if is_over {
            self.outside.shared.over.store(true, Ordering::Release);
        }
    }

    /// Whether everything that may still come has come.
    fn is_done(&self, now: Instant) -> bool {
        let is_over = self.outside.shared.over.load(Ordering::Acquire);
        if is_over || self.plan.end().after(self.plan.drain) <= now {
            return true;
        }
        let ended = self.plan.end() <= now || self.plan.until_caught_up;
        ended && self.links.iter().all(|link| link.given_up || link.is_done())
    }

    fn finish(&mut self, now: Instant) -> Next {
        let mut ends = std::mem::take(&mut self.ends);
        let Self { plan, tallies, .. } = self;
        for mut link in self.links.drain(..) {
            // What is still in flight will not be answered any more.
            link.connection.handle_closed("the run has ended");
            while let Some(event) = link.connection.poll_event() {
                if let (Event::Lost(Tag::Produced(sent)), Part::Produce(producing)) =
                    (event, &mut link.part)
                {
                    producing.take_loss(&sent, plan, tallies, &mut ends, now);
                }
            }
            match link.part {
                Part::Produce(producing) => producing.finish(plan, tallies, &mut ends, now),
                Part::Follow(following) => following.finish(&mut ends),
            }
        }
        self.report();
        // Fails only if nobody wants to know any more.
        drop(self.outside.news.send(News::End(Box::new(ends))));
        Next::Stop
    }

    fn report(&mut self) {
        let tallies = self.tallies.take();
        drop(self.outside.news.send(News::Interval(Box::new(tallies))));
    }

    fn next_turn(&self, now: Instant) -> Next {
        let mut next = self.next_report;
        let end = self.plan.end();
        for at in [self.plan.start, end, end.after(self.plan.drain)] {
            if now < at {
                next = next.min(at);
            }
        }
        if end <= now {
            // Others tell by a shared count that they are settled; that wakes nobody.
            next = next.min(now.after(Duration::from_millis(20)));
        }
        if let Some(Reverse((at, _))) = self.wakes.peek() {
            next = next.min(*at);
        }
        Next::At(next)
    }
}

impl Program<RingEdge<Rejoined>> for Load {
    fn turn(&mut self, edge: &mut RingEdge<Rejoined>) -> Next {
        let now = edge.now();
        if !self.streams.is_empty() {
            self.adopt(now, edge);
        }
        while let Some((_, rejoined)) = edge.poll_message() {
            self.take_rejoined(rejoined, now, edge);
        }
        while let Some(completion) = edge.poll_completion() {
            self.handle_completion(completion, now, edge);
        }
        self.take_cut();
        self.take_wakes(now);
        let reports = self.next_report <= now;
        if reports {
            self.next_report = now.after(INTERVAL);
            self.report();
            self.look_for_lost(now);
        }
        // Rarely: whatever waits for the start, the end, or an answer that is overdue.
        let begins = !self.begun && self.plan.start <= now;
        self.begun |= begins;
        if reports || begins || self.plan.end() <= now {
            (0..self.links.len()).for_each(|i| self.touch(i));
        }
        for i in std::mem::take(&mut self.touched) {
            self.drive(i, now, edge);
        }
        if self.is_done(now) { self.finish(now) } else { self.next_turn(now) }
    }
}
