//! What loopback TCP can do through our ring: small messages echoed, one connection and many, and
//! a stream of large ones. Two shards, one on each side.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::sync::mpsc::{Sender, channel};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use hdrhistogram::Histogram;
use tidemill_runtime::chores::BackgroundThread;
use tidemill_runtime::clock;
use tidemill_runtime::edge::{
    Completion, Done, Edge, Instant, ListenerId, Next, Op, Program, ShardId, SocketId, Token,
};
use tidemill_runtime::ring::{RingConfig, RingEdge};
use tidemill_runtime::shard::{ShardPlan, run_shards};
use tidemill_runtime::socket;

use super::{Measured, Step, Timetable, Watcher, await_report, two_cores};
use crate::counts::empty;

/// Room for a receive.
const ROOM: usize = 256 * 1024;

#[derive(Clone, Copy)]
struct Case {
    name: &'static str,
    message_bytes: usize,
    connections: usize,
    /// Whether messages come back; else only the other side's taking them counts.
    echo: bool,
}

const CASES: [Case; 4] = [
    Case { name: "echo 64 B x 1", message_bytes: 64, connections: 1, echo: true },
    Case { name: "echo 64 B x 64", message_bytes: 64, connections: 64, echo: true },
    Case { name: "echo 64 KiB x 1", message_bytes: 64 << 10, connections: 1, echo: true },
    Case { name: "stream 1 MiB x 1", message_bytes: 1 << 20, connections: 1, echo: false },
];

/// The names of its cases.
pub fn names() -> impl Iterator<Item = &'static str> {
    CASES.iter().map(|case| case.name)
}

/// Measures in so much time altogether.
pub fn measure(whole: Duration, watch: Watcher<'_>) -> io::Result<Vec<Measured>> {
    let time = Timetable::of(whole);
    let mut done = Vec::new();
    for case in CASES {
        watch(Step::Runs(case.name, time.share()));
        let listeners = socket::listen(SocketAddr::from(([127, 0, 0, 1], 0)), 1)?;
        let address = listeners[0].address();
        let connect = || {
            let stream = TcpStream::connect(address)?;
            stream.set_nodelay(true)?;
            io::Result::Ok(stream)
        };
        let streams = (0..case.connections).map(|_| connect()).collect::<io::Result<_>>()?;
        let (report, reports) = channel();
        let duration = whole / CASES.len() as u32;
        let [first, second] = two_cores();
        let client = Side::client(case, duration, streams, report);
        let plans = vec![
            ShardPlan { core: first, listeners: Vec::new(), make: make(client) },
            ShardPlan { core: second, listeners, make: make(Side::server(case)) },
        ];
        let root = PathBuf::from(".");
        let config = RingConfig::new(root.clone());
        let handle = run_shards(&config, plans, BackgroundThread::new(root))?;
        let measured = await_report(&reports, case.name, &time, watch);
        handle.join();
        let measured = measured?;
        watch(Step::Ended(&measured));
        done.push(measured);
    }
    Ok(done)
}

/// Both shards are made by one kind of function.
fn make(side: Side) -> impl FnOnce(ShardId) -> Side + Send + 'static {
    move |_| side
}

enum Side {
    Client(Box<Client>),
    Server(Server),
}

impl Side {
    fn client(
        case: Case,
        duration: Duration,
        streams: Vec<TcpStream>,
        report: Sender<Result<Measured, String>>,
    ) -> Self {
        Self::Client(Box::new(Client {
            case,
            duration,
            streams,
            links: Vec::new(),
            message: Bytes::from(vec![0xa5; case.message_bytes]),
            began: Instant::default(),
            cpu_before: Duration::ZERO,
            count: 0,
            open: 0,
            over: false,
            latency: empty(),
            scale: clock::TickScale::measure(),
            report,
        }))
    }

    fn server(case: Case) -> Self {
        Self::Server(Server { case, links: Vec::new(), listening: false, open: 0 })
    }
}

impl Program<RingEdge<()>> for Side {
    fn turn(&mut self, edge: &mut RingEdge<()>) -> Next {
        match self {
            Self::Client(client) => client.turn(edge),
            Self::Server(server) => server.turn(edge),
        }
    }
}

const SENT: u64 = 0;
const RECEIVED: u64 = 1;
const CLOSED: u64 = 2;
const ACCEPTED: Token = Token(u64::MAX);

fn token(link: usize, what: u64) -> Token {
    Token((link as u64) << 2 | what)
}

struct Client {
    case: Case,
    duration: Duration,
    streams: Vec<TcpStream>,
    links: Vec<Link>,
    message: Bytes,
    began: Instant,
    cpu_before: Duration,
    count: u64,
    open: usize,
    over: bool,
    latency: Histogram<u64>,
    scale: clock::TickScale,
    report: Sender<Result<Measured, String>>,
}

struct Link {
    socket: SocketId,
    sent_at: u64,
    /// Bytes of the message that have not come back.
    missing: usize,
}

impl Client {
    fn turn(&mut self, edge: &mut RingEdge<()>) -> Next {
        let now = edge.now();
        if !self.streams.is_empty() {
            self.began = now;
            self.cpu_before = clock::cpu_time();
            for stream in std::mem::take(&mut self.streams) {
                let socket = edge.adopt(stream);
                self.links.push(Link { socket, sent_at: 0, missing: 0 });
                self.open += 1;
                self.send(self.links.len() - 1, edge);
            }
        }
        while let Some(completion) = edge.poll_completion() {
            self.handle(completion, now, edge);
        }
        if 0 < self.open {
            return Next::Idle;
        }
        let measured = Measured {
            name: self.case.name.to_owned(),
            count: self.count,
            bytes: self.count * self.case.message_bytes as u64,
            elapsed: now.since(self.began),
            cpu: clock::cpu_time().saturating_sub(self.cpu_before),
            latency: Some(self.latency.clone()),
        };
        // Fails only if nobody wants to know any more.
        drop(self.report.send(Ok(measured)));
        Next::Stop
    }

    fn send(&mut self, i: usize, edge: &mut RingEdge<()>) {
        let link = &mut self.links[i];
        link.sent_at = clock::stamp();
        link.missing = self.case.message_bytes;
        let op = Op::Send { socket: link.socket, parts: vec![self.message.clone()] };
        edge.submit(token(i, SENT), op);
        if self.case.echo {
            self.receive(i, BytesMut::new(), edge);
        }
    }

    fn receive(&mut self, i: usize, mut into: BytesMut, edge: &mut RingEdge<()>) {
        into.clear();
        into.reserve(self.case.message_bytes.min(ROOM));
        let op = Op::Receive { socket: self.links[i].socket, into };
        edge.submit(token(i, RECEIVED), op);
    }

    fn handle(&mut self, completion: Completion, now: Instant, edge: &mut RingEdge<()>) {
        let (i, what) = ((completion.token.0 >> 2) as usize, completion.token.0 & 3);
        match (what, completion.result) {
            (CLOSED, _) => self.open -= 1,
            (SENT, Ok(_)) if self.case.echo => {}
            (SENT, Ok(_)) => self.arrived(i, now, edge),
            (RECEIVED, Ok(Done::Received { bytes, received })) if 0 < received => {
                let link = &mut self.links[i];
                link.missing = link.missing.saturating_sub(received);
                if link.missing == 0 {
                    self.arrived(i, now, edge);
                } else {
                    self.receive(i, bytes, edge);
                }
            }
            (_, result) => {
                let why = format!("a connection over loopback broke: {result:?}");
                // Fails only if nobody wants to know any more.
                drop(self.report.send(Err(why)));
                self.close(i, edge);
            }
        }
    }

    fn arrived(&mut self, i: usize, now: Instant, edge: &mut RingEdge<()>) {
        let ticks = clock::stamp().saturating_sub(self.links[i].sent_at);
        self.latency.saturating_record(self.scale.nanos(ticks));
        self.count += 1;
        self.over |= self.duration <= now.since(self.began);
        if self.over { self.close(i, edge) } else { self.send(i, edge) }
    }

    fn close(&mut self, i: usize, edge: &mut RingEdge<()>) {
        edge.submit(token(i, CLOSED), Op::CloseSocket { socket: self.links[i].socket });
    }
}

struct Server {
    case: Case,
    links: Vec<SocketId>,
    listening: bool,
    open: usize,
}

impl Server {
    fn turn(&mut self, edge: &mut RingEdge<()>) -> Next {
        if !self.listening {
            self.listening = true;
            edge.submit(ACCEPTED, Op::Accept { listener: ListenerId(0) });
        }
        while let Some(completion) = edge.poll_completion() {
            self.handle(completion, edge);
        }
        let all_came = self.links.len() == self.case.connections;
        if all_came && self.open == 0 { Next::Stop } else { Next::Idle }
    }

    fn handle(&mut self, completion: Completion, edge: &mut RingEdge<()>) {
        if completion.token == ACCEPTED {
            if let Ok(Done::Accepted { socket, .. }) = completion.result {
                self.links.push(socket);
                self.open += 1;
                self.receive(self.links.len() - 1, BytesMut::new(), edge);
            }
            return;
        }
        let (i, what) = ((completion.token.0 >> 2) as usize, completion.token.0 & 3);
        match (what, completion.result) {
            (RECEIVED, Ok(Done::Received { bytes, received })) if 0 < received => {
                if self.case.echo {
                    let op = Op::Send { socket: self.links[i], parts: vec![bytes.freeze()] };
                    edge.submit(token(i, SENT), op);
                } else {
                    self.receive(i, bytes, edge);
                }
            }
            (SENT, Ok(_)) => self.receive(i, BytesMut::new(), edge),
            (CLOSED, _) => self.open -= 1,
            _ => edge.submit(token(i, CLOSED), Op::CloseSocket { socket: self.links[i] }),
        }
    }

    fn receive(&mut self, i: usize, mut into: BytesMut, edge: &mut RingEdge<()>) {
        into.clear();
        into.reserve(if self.case.echo { self.case.message_bytes.min(ROOM) } else { ROOM });
        edge.submit(token(i, RECEIVED), Op::Receive { socket: self.links[i], into });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_case_does_its_work() {
        let measured = measure(Duration::from_millis(120), &mut |_| ()).unwrap();
        let names: Vec<_> = measured.iter().map(|measured| measured.name.as_str()).collect();
        assert_eq!(names, CASES.map(|case| case.name));
        for measured in &measured {
            assert!(0 < measured.count && 0 < measured.bytes, "{measured:?}");
        }
    }
}
