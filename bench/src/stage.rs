//! Many clients of a protocol on one thread: the connections are driven here, what is said on them
//! is decided by a [`Play`].
//!
//! A connection that is lost, or an answer that cannot be read, ends the run: these are loads of
//! requests, and a request without an answer has no latency. Start reading at [`run`].

use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::sync::mpsc::{Sender, channel};

use tidemill_client::kafka::Request;
use tidemill_client::{Connection, ConnectionConfig, Event, Reply, SendError};
use tidemill_runtime::chores::BackgroundThread;
use tidemill_runtime::edge::{
    Completion, Done, Edge, Instant, Next, Op, Program, ShardId, SocketId, Token,
};
use tidemill_runtime::ring::{RingConfig, RingEdge};
use tidemill_runtime::shard::{ShardPlan, run_shards};

use crate::asking::ANSWER_WITHIN;
use crate::control;
use crate::load::{CLIENT_ID, client_time};
use crate::trouble::Trouble;

/// What is done with the connections.
pub trait Play: Send + 'static {
    /// By which an answer is known again.
    type Tag: Send;

    /// A connection can be spoken on, for the first time.
    fn ready(&mut self, line: usize, lines: &mut Lines<Self::Tag>) -> Result<(), Trouble>;

    /// An answer has come.
    fn heard(
        &mut self,
        line: usize,
        tag: Self::Tag,
        reply: &Reply,
        lines: &mut Lines<Self::Tag>,
    ) -> Result<(), Trouble>;

    /// Something has happened, or it is time. Says when it is time again; never, if it is over.
    fn turn(&mut self, lines: &mut Lines<Self::Tag>) -> Result<Option<Instant>, Trouble>;
}

/// The connections, numbered as their addresses were given.
pub struct Lines<T> {
    /// The time of this turn.
    pub now: Instant,
    links: Vec<Link<T>>,
    touched: Vec<usize>,
}

struct Link<T> {
    connection: Connection<T>,
    socket: SocketId,
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

    fn touch(&mut self, line: usize) {
        if !std::mem::replace(&mut self.links[line].is_touched, true) {
            self.touched.push(line);
        }
    }
}

/// Connects to each address and goes on until the play is over; gives it back.
pub fn run<P: Play>(addresses: &[SocketAddr], play: P) -> Result<P, Trouble> {
    let streams = addresses.iter().map(|address| control::connect(*address));
    let streams = streams.collect::<std::io::Result<Vec<_>>>()?;
    let (end, ended) = channel();
    let make = move |_: ShardId| Stage::new(streams, play, end);
    let plan = ShardPlan { core: None, listeners: Vec::new(), make };
    let root = PathBuf::from(".");
    let config = RingConfig::new(root.clone());
    let handle = run_shards(&config, vec![plan], BackgroundThread::new(root))?;
    let outcome = ended.recv().expect("a stage says how it ended");
    handle.join();
    outcome
}

struct Stage<P: Play> {
    streams: Vec<TcpStream>,
    lines: Lines<P::Tag>,
    play: Option<P>,
    end: Sender<Result<P, Trouble>>,
}

const RECEIVED: u64 = 0;
const SENT: u64 = 1;

impl<P: Play> Stage<P> {
    fn new(streams: Vec<TcpStream>, play: P, end: Sender<Result<P, Trouble>>) -> Self {
        let lines = Lines { now: Instant::default(), links: Vec::new(), touched: Vec::new() };
        Self { streams, lines, play: Some(play), end }
    }

    fn adopt(&mut self, edge: &mut RingEdge<()>) {
        for (line, stream) in std::mem::take(&mut self.streams).into_iter().enumerate() {
            let client_id = CLIENT_ID.into();
            // What a play has under way on a connection is its own affair.
            let config =
                ConnectionConfig { client_id, in_flight_max: 1000, ..ConnectionConfig::default() };
            let mut connection = Connection::new(config);
            connection.handle_connected(client_time(self.lines.now));
            let socket = edge.adopt(stream);
            self.lines.links.push(Link { connection, socket, sending: false, is_touched: false });
            self.receive(line, edge);
            self.lines.touch(line);
        }
    }

    fn receive(&mut self, line: usize, edge: &mut RingEdge<()>) {
        let link = &mut self.lines.links[line];
        let into = link.connection.take_input();
        let token = Token((line as u64) << 1 | RECEIVED);
        edge.submit(token, Op::Receive { socket: link.socket, into });
    }

    fn take(&mut self, completion: Completion, edge: &mut RingEdge<()>) -> Result<(), Trouble> {
        let line = (completion.token.0 >> 1) as usize;
        let lost = |why: &str| Err(Trouble::new(format!("a connection was lost: {why}")));
        match completion.result {
            Ok(Done::Received { bytes, received }) if 0 < received => {
                let now = client_time(self.lines.now);
                self.lines.links[line].connection.handle_input(bytes, now);
                self.hear(line)?;
                self.receive(line, edge);
            }
            Ok(Done::Received { .. }) => return lost("the broker closed it"),
            Ok(_) => self.lines.links[line].sending = false,
            Err(fault) => return lost(&format!("{fault:?}")),
        }
        self.lines.touch(line);
        Ok(())
    }

    fn hear(&mut self, line: usize) -> Result<(), Trouble> {
        let play = self.play.as_mut().expect("it is not over");
        while let Some(event) = self.lines.links[line].connection.poll_event() {
            match event {
                Event::Ready => play.ready(line, &mut self.lines)?,
                Event::Reply(tag, reply) => play.heard(line, tag, &reply, &mut self.lines)?,
                Event::Lost(_) => {}
                Event::Closed(trouble) => {
                    return Err(Trouble::new(format!("a connection was lost: {trouble}")));
                }
            }
        }
        Ok(())
    }

    fn flush(&mut self, edge: &mut RingEdge<()>) {
        for line in std::mem::take(&mut self.lines.touched) {
            let link = &mut self.lines.links[line];
            link.is_touched = false;
            if link.sending || link.connection.unsent_bytes() == 0 {
                continue;
            }
            let mut parts = Vec::new();
            link.connection.take_output(&mut parts);
            link.sending = true;
            let token = Token((line as u64) << 1 | SENT);
            edge.submit(token, Op::Send { socket: link.socket, parts });
        }
    }

    fn step(&mut self, edge: &mut RingEdge<()>) -> Result<Option<Instant>, Trouble> {
        self.lines.now = edge.now();
        self.adopt(edge);
        while let Some(completion) = edge.poll_completion() {
            self.take(completion, edge)?;
        }
        let next = self.play.as_mut().expect("it is not over").turn(&mut self.lines)?;
        self.flush(edge);
        Ok(next)
    }
}

impl<P: Play> Program<RingEdge<()>> for Stage<P> {
    fn turn(&mut self, edge: &mut RingEdge<()>) -> Next {
        let outcome = match self.step(edge) {
            Ok(Some(next)) if next <= self.lines.now => return Next::Now,
            Ok(Some(next)) => return Next::At(next),
            Ok(None) => Ok(self.play.take().expect("it is over once")),
            Err(trouble) => Err(trouble),
        };
        // Fails only if nobody wants to know any more.
        drop(self.end.send(outcome));
        Next::Stop
    }
}
