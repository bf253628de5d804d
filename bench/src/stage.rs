//! Many clients of a protocol on one thread: the connections are driven here, what is said on them
//! is decided by a [`Play`].
//!
//! A connection that is lost is made again where its [`Place`] is by then ([`crate::rejoin`]); the
//! play is told of both, and what was lost is counted ([`Losses`]). If it takes too long the play is
//! stopped, as it is by a signal. Start reading at [`run`].

use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::thread;
use std::time::Duration;

use tidemill_client::kafka::Request;
use tidemill_client::kafka::find_coordinator::key_type;
use tidemill_client::{Connection, ConnectionConfig, Event, Reply, SendError};
use tidemill_runtime::chores::BackgroundThread;
use tidemill_runtime::edge::{
    Completion, Done, Edge, Instant, Next, Op, Program, ShardId, SocketId, Token,
};
use tidemill_runtime::ring::{RingConfig, RingEdge};
use tidemill_runtime::shard::{ShardPlan, run_shards};

use crate::asking::{ANSWER_WITHIN, Asking};
use crate::control::{self, Topic};
use crate::figures::{Figures, counted};
use crate::load::{CLIENT_ID, client_time};
use crate::progress::{LINE_EVERY, Progress};
use crate::rejoin::{self, Lost, Rejoined};
use crate::stop;
use crate::trouble::Trouble;

/// How often it is looked at what no event tells of.
const LOOK: Duration = Duration::from_millis(250);

/// What is done with the connections.
pub trait Play: Send + 'static {
    /// By which an answer is known again.
    type Tag: Send;

    /// All connections can be spoken on, for the first time.
    fn begin(&mut self, lines: &mut Lines<Self::Tag>) -> Result<(), Trouble>;

    /// An answer has come.
    fn heard(
        &mut self,
        tag: Self::Tag,
        reply: &Reply,
        lines: &mut Lines<Self::Tag>,
    ) -> Result<(), Trouble>;

    /// A connection is gone; these will not be answered.
    fn lost(&mut self, line: usize, unanswered: Vec<Self::Tag>, now: Instant);

    /// A connection that was lost can be spoken on again.
    fn back(&mut self, line: usize, lines: &mut Lines<Self::Tag>) -> Result<(), Trouble>;

    /// Ends what is measured now, as if its time were over.
    fn stop(&mut self, now: Instant);

    /// It is over: what is not answered by now will not be.
    fn end(&mut self, now: Instant);

    /// Something has happened, or it is time. Says when it is time again; never, if it is over.
    fn turn(&mut self, lines: &mut Lines<Self::Tag>) -> Result<Option<Instant>, Trouble>;

    /// How far it has come, for a person who waits.
    fn status(&self, now: Instant) -> String;
}

/// What a connection goes to, by which it is found again.
#[derive(Clone, Debug)]
pub enum Place {
    /// The coordinator of this group.
    Group(String),
    /// The coordinator of this transactional id.
    Transaction(String),
    /// The leader of this partition.
    Leader(i32),
}

/// What was lost in a run, and whether it came to its end.
#[derive(Clone, Debug, Default)]
pub struct Losses {
    connections: u64,
    requests: u64,
    first: Option<String>,
    away: Duration,
    ended_early: Option<String>,
}

/// The connections, numbered as their addresses were given.
pub struct Lines<T> {
    /// The time of this turn.
    pub now: Instant,
    /// Whom to tell what takes long.
    pub progress: Progress,
    links: Vec<Link<T>>,
    touched: Vec<usize>,
    /// To be made again elsewhere.
    abandoned: Vec<usize>,
}

struct Link<T> {
    connection: Connection<T>,
    socket: SocketId,
    place: Place,
    /// How often it was made: what is told of an earlier socket is no news.
    generation: u32,
    /// Whether there is a socket.
    is_open: bool,
    is_up: bool,
    down_since: Option<Instant>,
    sending: bool,
    is_touched: bool,
}

impl<T> Lines<T> {
    /// Asks on one of the connections.
    pub fn send<R: Request>(&mut self, line: usize, request: &R, tag: T) -> Result<(), Trouble> {
        self.send_with(line, |connection, now| connection.send(request, tag, ANSWER_WITHIN, now))
    }

    /// The same for requests that a connection has ways of their own for.
    pub fn send_with(
        &mut self,
        line: usize,
        send: impl FnOnce(&mut Connection<T>, tidemill_client::Instant) -> Result<(), SendError>,
    ) -> Result<(), Trouble> {
        let now = client_time(self.now);
        send(&mut self.links[line].connection, now)
            .map_err(|error| Trouble::new(format!("a request cannot be sent: {error}")))?;
        self.touch(line);
        Ok(())
    }

    /// One of the connections.
    pub fn connection(&mut self, line: usize) -> &mut Connection<T> {
        &mut self.links[line].connection
    }

    /// Whether one of the connections can be spoken on. Only then may it be asked anything.
    #[must_use]
    pub fn is_up(&self, line: usize) -> bool {
        self.links[line].is_up
    }

    /// What one of the connections goes to is elsewhere by now: it is lost, and made again there.
    pub fn abandon(&mut self, line: usize) {
        self.abandoned.push(line);
    }

    fn touch(&mut self, line: usize) {
        if !std::mem::replace(&mut self.links[line].is_touched, true) {
            self.touched.push(line);
        }
    }
}

impl Losses {
    /// Complains of what was lost, if anything was.
    pub fn tell(&self, figures: &mut Figures) {
        if let Some(why) = &self.ended_early {
            figures.complain(why);
        }
        let Some(first) = &self.first else { return };
        let connections = counted(self.connections, "connection was", "connections were");
        let requests = counted(self.requests, "request", "requests");
        figures.complain(format!(
            "{connections} lost, with {requests} under way (first: {first}); the longest was away for \
             {:.1} s",
            self.away.as_secs_f64()
        ));
    }
}

/// Connects to each place, at the address it has now, and goes on until the play is over; gives it
/// back. A connection that was lost and is not back within `reconnect` ends it early.
pub fn run<P: Play>(
    topic: &Arc<Topic>,
    places: Vec<(Place, SocketAddr)>,
    reconnect: Duration,
    play: P,
) -> Result<(P, Losses), Trouble> {
    let connected = |(place, address)| Ok((place, control::connect(address)?));
    let streams = places.into_iter().map(connected).collect::<std::io::Result<Vec<_>>>()?;
    let ((end, ended), (lost, losses)) = (channel(), channel());
    let progress = Progress::on_stderr();
    let make = move |shard: ShardId| Stage {
        shard,
        streams,
        lines: Lines {
            now: Instant::default(),
            progress,
            links: Vec::new(),
            touched: Vec::new(),
            abandoned: Vec::new(),
        },
        play: Some(play),
        up: 0,
        has_begun: false,
        next_look: Instant::default(),
        next_line: None,
        reconnect,
        losses: Losses::default(),
        lost,
        end,
    };
    let plan = ShardPlan { core: None, listeners: Vec::new(), make };
    let root = PathBuf::from(".");
    let config = RingConfig::new(root.clone());
    let handle = run_shards(&config, vec![plan], BackgroundThread::new(root))?;
    let (topic, poster) = (Arc::clone(topic), handle.poster());
    // It ends when the stage has.
    thread::spawn(move || rejoin::serve(|lost| find(&topic, lost), &losses, &poster));
    let outcome = ended.recv().expect("a stage says how it ended");
    handle.join();
    progress.clear();
    outcome
}

/// Where these are now.
fn find(topic: &Topic, lost: &[Lost<Place>]) -> Result<Vec<Option<SocketAddr>>, Trouble> {
    let leaders = topic.leaders_now()?;
    let mut asking = None;
    let mut find = |kind: i8, key: &String| {
        let asking: &mut Asking = match &mut asking {
            Some(asking) => asking,
            none => none.insert(Asking::open(leaders[0])?),
        };
        let found = asking.coordinators(kind, std::slice::from_ref(key))?;
        Ok(found.first().copied())
    };
    let places = lost.iter().map(|lost| match &lost.place {
        Place::Group(group) => find(key_type::GROUP, group),
        Place::Transaction(id) => find(key_type::TRANSACTION, id),
        Place::Leader(partition) => Ok(leaders.get(*partition as usize).copied()),
    });
    places.collect()
}

struct Stage<P: Play> {
    shard: ShardId,
    streams: Vec<(Place, TcpStream)>,
    lines: Lines<P::Tag>,
    play: Option<P>,
    /// How many connections can be spoken on.
    up: usize,
    has_begun: bool,
    next_look: Instant,
    /// When it is told how it stands where no line can change.
    next_line: Option<Instant>,
    reconnect: Duration,
    losses: Losses,
    lost: Sender<Lost<Place>>,
    end: Sender<Result<(P, Losses), Trouble>>,
}

const RECEIVED: u64 = 0;
const SENT: u64 = 1;
const CLOSED: u64 = 2;

/// So many connections there can be: the rest of a token is their generation.
const LINE_BITS: u32 = 30;

fn connection<T>() -> Connection<T> {
    let client_id = CLIENT_ID.into();
    // What a play has under way on a connection is its own affair.
    Connection::new(ConnectionConfig {
        client_id,
        in_flight_max: 1000,
        ..ConnectionConfig::default()
    })
}

impl<T> Link<T> {
    fn token(&self, line: usize, what: u64) -> Token {
        Token(u64::from(self.generation) << (LINE_BITS + 2) | (line as u64) << 2 | what)
    }
}

impl<P: Play> Stage<P> {
    fn adopt(&mut self, edge: &mut RingEdge<Rejoined>) {
        for (place, stream) in std::mem::take(&mut self.streams) {
            let line = self.lines.links.len();
            assert!(line < 1 << LINE_BITS, "so many sockets no process has");
            self.lines.links.push(Link {
                connection: connection(),
                socket: edge.adopt(stream),
                place,
                generation: 0,
                is_open: true,
                is_up: false,
                down_since: None,
                sending: false,
                is_touched: false,
            });
            self.greet(line, edge);
        }
    }

    fn take_rejoined(&mut self, rejoined: Rejoined, edge: &mut RingEdge<Rejoined>) {
        let Rejoined { link: line, generation, stream } = rejoined;
        let link = &mut self.lines.links[line];
        assert_eq!(link.generation, generation, "each loss is asked for once");
        link.generation += 1;
        link.connection = connection();
        link.socket = edge.adopt(stream);
        (link.is_open, link.sending) = (true, false);
        self.greet(line, edge);
    }

    fn greet(&mut self, line: usize, edge: &mut RingEdge<Rejoined>) {
        self.lines.links[line].connection.handle_connected(client_time(self.lines.now));
        self.receive(line, edge);
        self.lines.touch(line);
    }

    fn receive(&mut self, line: usize, edge: &mut RingEdge<Rejoined>) {
        let link = &mut self.lines.links[line];
        let into = link.connection.take_input();
        edge.submit(link.token(line, RECEIVED), Op::Receive { socket: link.socket, into });
    }

    fn take(
        &mut self,
        completion: Completion,
        edge: &mut RingEdge<Rejoined>,
    ) -> Result<(), Trouble> {
        let line = (completion.token.0 >> 2) as usize & ((1 << LINE_BITS) - 1);
        let what = completion.token.0 & 3;
        let link = &mut self.lines.links[line];
        if what == CLOSED || link.token(line, what) != completion.token {
            return Ok(());
        }
        match completion.result {
            Ok(Done::Received { bytes, received }) if 0 < received => {
                link.connection.handle_input(bytes, client_time(self.lines.now));
                if self.hear(line, edge)? {
                    self.receive(line, edge);
                }
            }
            Ok(Done::Received { .. }) => {
                link.connection.handle_closed("the broker closed the connection");
                self.hear(line, edge)?;
            }
            Ok(_) => link.sending = false,
            Err(fault) => {
                link.connection.handle_closed(format!("the connection failed: {fault:?}"));
                self.hear(line, edge)?;
            }
        }
        self.lines.touch(line);
        Ok(())
    }

    /// Whether the connection goes on.
    fn hear(&mut self, line: usize, edge: &mut RingEdge<Rejoined>) -> Result<bool, Trouble> {
        let mut unanswered = Vec::new();
        while let Some(event) = self.lines.links[line].connection.poll_event() {
            match event {
                Event::Ready => self.greeted(line)?,
                Event::Reply(tag, reply) => {
                    let play = self.play.as_mut().expect("it is not over");
                    play.heard(tag, &reply, &mut self.lines)?;
                }
                Event::Lost(tag) => unanswered.push(tag),
                Event::Closed(trouble) => {
                    let unanswered = std::mem::take(&mut unanswered);
                    self.lose(line, &trouble.to_string(), unanswered, edge);
                }
            }
        }
        Ok(self.lines.links[line].is_open)
    }

    fn greeted(&mut self, line: usize) -> Result<(), Trouble> {
        let (now, link) = (self.lines.now, &mut self.lines.links[line]);
        link.is_up = true;
        self.up += 1;
        if let Some(since) = link.down_since.take() {
            self.losses.away = self.losses.away.max(now.since(since));
        }
        let play = self.play.as_mut().expect("it is not over");
        if self.has_begun {
            return play.back(line, &mut self.lines);
        }
        if self.up == self.lines.links.len() {
            self.has_begun = true;
            return play.begin(&mut self.lines);
        }
        Ok(())
    }

    fn lose(
        &mut self,
        line: usize,
        why: &str,
        unanswered: Vec<P::Tag>,
        edge: &mut RingEdge<Rejoined>,
    ) {
        let (now, link) = (self.lines.now, &mut self.lines.links[line]);
        edge.submit(link.token(line, CLOSED), Op::CloseSocket { socket: link.socket });
        link.is_open = false;
        link.down_since.get_or_insert(now);
        if std::mem::replace(&mut link.is_up, false) {
            self.up -= 1;
            self.losses.connections += 1;
            self.losses.requests += unanswered.len() as u64;
            self.losses.first.get_or_insert_with(|| why.to_owned());
        }
        let (shard, generation, place) = (self.shard, link.generation, link.place.clone());
        // Fails only at the very end, when nobody connects any more.
        drop(self.lost.send(Lost { shard, link: line, generation, place }));
        if self.has_begun {
            self.play.as_mut().expect("it is not over").lost(line, unanswered, now);
        }
    }

    /// What no event tells of.
    fn look(&mut self, edge: &mut RingEdge<Rejoined>) -> Result<(), Trouble> {
        let now = self.lines.now;
        self.next_look = now.after(LOOK);
        for line in 0..self.lines.links.len() {
            self.lines.links[line].connection.tick(client_time(now));
            self.hear(line, edge)?;
        }
        let longest = self.lines.links.iter().filter_map(|link| link.down_since).min();
        let is_away = longest.is_some_and(|since| since.after(self.reconnect) <= now);
        if self.losses.ended_early.is_none() && (is_away || stop::is_asked()) {
            self.losses.away = longest.map_or(self.losses.away, |since| now.since(since));
            let reconnect = self.reconnect.as_secs_f64();
            self.losses.ended_early = Some(match is_away {
                true => format!("the broker was lost and not back within {reconnect:.0} s"),
                false => stop::WHY.to_owned(),
            });
            self.play.as_mut().expect("it is not over").stop(now);
        }
        self.tell_progress(longest);
        Ok(())
    }

    fn tell_progress(&mut self, lost_since: Option<Instant>) {
        let now = self.lines.now;
        let next_line = *self.next_line.get_or_insert(now.after(LINE_EVERY));
        let has_line = self.lines.progress.has_line();
        if !has_line && now < next_line {
            return;
        }
        let words = match (lost_since, &self.play) {
            (Some(since), _) => {
                format!("the broker was lost {:.0} s ago", now.since(since).as_secs_f64())
            }
            (None, Some(play)) if self.has_begun => play.status(now),
            _ => "connecting".to_owned(),
        };
        self.next_line = Some(now.after(LINE_EVERY));
        match has_line {
            true => self.lines.progress.say(&words),
            false => self.lines.progress.step(&words),
        }
    }

    fn flush(&mut self, edge: &mut RingEdge<Rejoined>) {
        for line in std::mem::take(&mut self.lines.touched) {
            let link = &mut self.lines.links[line];
            link.is_touched = false;
            if link.sending || link.connection.unsent_bytes() == 0 {
                continue;
            }
            let mut parts = Vec::new();
            link.connection.take_output(&mut parts);
            link.sending = true;
            edge.submit(link.token(line, SENT), Op::Send { socket: link.socket, parts });
        }
    }

    fn step(&mut self, edge: &mut RingEdge<Rejoined>) -> Result<Option<Instant>, Trouble> {
        self.lines.now = edge.now();
        self.adopt(edge);
        while let Some((_, rejoined)) = edge.poll_message() {
            self.take_rejoined(rejoined, edge);
        }
        while let Some(completion) = edge.poll_completion() {
            self.take(completion, edge)?;
        }
        for line in std::mem::take(&mut self.lines.abandoned) {
            self.lines.links[line].connection.handle_closed("it is answered elsewhere now");
            self.hear(line, edge)?;
        }
        if self.next_look <= self.lines.now {
            self.look(edge)?;
        }
        // What is away may not come back: nothing that still waits for it is waited for.
        let is_over = self.losses.ended_early.is_some() && self.up < self.lines.links.len();
        let play = self.play.as_mut().expect("it is not over");
        let next = match self.has_begun && !is_over {
            true => play.turn(&mut self.lines)?,
            false => (!is_over).then_some(self.next_look),
        };
        self.flush(edge);
        Ok(next.map(|next| next.min(self.next_look)))
    }
}

impl<P: Play> Program<RingEdge<Rejoined>> for Stage<P> {
    fn turn(&mut self, edge: &mut RingEdge<Rejoined>) -> Next {
        let outcome = match self.step(edge) {
            Ok(Some(next)) if next <= self.lines.now => return Next::Now,
            Ok(Some(next)) => return Next::At(next),
            Ok(None) => {
                let mut play = self.play.take().expect("it is over once");
                play.end(self.lines.now);
                Ok((play, std::mem::take(&mut self.losses)))
            }
            Err(trouble) => Err(trouble),
        };
        // Fails only if nobody wants to know any more.
        drop(self.end.send(outcome));
        Next::Stop
    }
}
