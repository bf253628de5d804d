//! The product's edge, end to end: real sockets, real files, real threads.
//!
//! Each test is one small program on one or two shards, talked to from the test's own thread.
#![allow(clippy::unwrap_used)]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tidemill_runtime::buffer::{AlignedBuffer, BLOCK_BYTES};
use tidemill_runtime::chores::BackgroundThread;
use tidemill_runtime::edge::{
    Chore, Done, Edge, Fault, FileId, ListenerId, Next, Op, OpenHow, Program, RECEIVE_BYTES_MAX,
    ShardId, SocketId, Token,
};
use tidemill_runtime::ring::{RingConfig, RingEdge};
use tidemill_runtime::shard::{Handle, ShardPlan, run_shards};
use tidemill_runtime::{OUTSIDE, socket};

type Ring = RingEdge<u64>;

/// A directory for one test, gone when the test ends.
struct TestDir(PathBuf);

impl TestDir {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("tidemill-edge-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }
}

impl Drop for TestDir {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(&self.0));
    }
}

/// Runs one program per shard; none has a core of its own, as tests share them.
fn run<P, F>(dir: &Path, listeners: Vec<Vec<socket::Listener>>, make: F) -> Handle<u64>
where
    P: Program<Ring>,
    F: FnOnce(ShardId) -> P + Send + Clone + 'static,
{
    let mut config = RingConfig::new(dir.to_owned());
    // Small, so that the tests meet full queues and used-up buffers.
    config.submissions = 16;
    config.receive_buffers = 4;
    config.mesh_messages = 4;
    let plans = listeners
        .into_iter()
        .map(|listeners| ShardPlan { core: None, listeners, make: make.clone() })
        .collect();
    run_shards(&config, plans, BackgroundThread::new(dir.to_owned())).unwrap()
}

/// Any message from outside ends a program.
fn told_to_stop(edge: &mut Ring) -> bool {
    edge.poll_message().is_some_and(|(from, _)| from == OUTSIDE)
}

fn any_port() -> SocketAddr {
    "127.0.0.1:0".parse().unwrap()
}

const ACCEPT: Token = Token(u64::MAX);

/// Sends back what it receives; closes a connection that has ended.
struct Echo {
    started: bool,
    /// Space offered with each receive; 0 borrows the edge's buffers.
    receive_bytes: usize,
}

impl Echo {
    fn receive(&self, edge: &mut Ring, socket: SocketId) {
        let into = BytesMut::with_capacity(self.receive_bytes);
        edge.submit(Token(u64::from(socket.0)), Op::Receive { socket, into });
    }
}

impl Program<Ring> for Echo {
    fn turn(&mut self, edge: &mut Ring) -> Next {
        if !std::mem::replace(&mut self.started, true) {
            edge.submit(ACCEPT, Op::Accept { listener: ListenerId(0) });
        }
        while let Some(completion) = edge.poll_completion() {
            let socket = SocketId(completion.token.0 as u32);
            match completion.result {
                Ok(Done::Accepted { socket, client }) => {
                    assert!(client.ip().is_loopback());
                    self.receive(edge, socket);
                }
                Ok(Done::Received { received: 0, .. }) | Err(Fault::Disconnected) => {
                    edge.submit(Token(1 << 40), Op::CloseSocket { socket });
                }
                Ok(Done::Received { bytes, received }) => {
                    assert_eq!(bytes.len(), received);
                    let mut bytes = bytes.freeze();
                    // In two parts, and an empty one.
                    let first = bytes.split_to(bytes.len() / 2);
                    let parts = vec![first, Bytes::new(), bytes];
                    edge.submit(completion.token, Op::Send { socket, parts });
                }
                Ok(Done::Complete) if completion.token.0 < 1 << 40 => self.receive(edge, socket),
                Ok(Done::Complete) => {}
                other => panic!("{other:?}"),
            }
        }
        if told_to_stop(edge) { Next::Stop } else { Next::Idle }
    }
}

fn echo_over_many_connections(receive_bytes: usize) {
    let dir = TestDir::new();
    let listeners = socket::listen(any_port(), 1).unwrap();
    let address = listeners[0].address();
    let make = move |_| Echo { started: false, receive_bytes };
    let handle = run(&dir.0, vec![listeners], make);

    let mut clients: Vec<_> = (0..100).map(|_| TcpStream::connect(address).unwrap()).collect();
    for round in 0..3_u8 {
        for (number, client) in clients.iter_mut().enumerate() {
            client.write_all(&[number as u8 ^ round; 1000]).unwrap();
        }
        for (number, client) in clients.iter_mut().enumerate() {
            let mut answer = [0; 1000];
            client.read_exact(&mut answer).unwrap();
            assert_eq!(answer, [number as u8 ^ round; 1000]);
        }
    }
    drop(clients);
    handle.post(ShardId(0), 0).unwrap();
    handle.join();
}

#[test]
fn a_hundred_connections_are_echoed_through_lent_buffers() {
    echo_over_many_connections(0);
}

#[test]
fn a_hundred_connections_are_echoed_through_buffers_of_their_own() {
    echo_over_many_connections(300);
}

/// More than fits any socket buffer, both ways at once: sends are continued until all is gone.
#[test]
fn a_long_stream_comes_back_whole() {
    const STREAM_BYTES: usize = 20 << 20;
    let dir = TestDir::new();
    let listeners = socket::listen(any_port(), 1).unwrap();
    let address = listeners[0].address();
    let make = |_| Echo { started: false, receive_bytes: 1 << 20 };
    let handle = run(&dir.0, vec![listeners], make);

    let stream: Vec<u8> = (0..STREAM_BYTES).map(|i| (i / 7) as u8).collect();
    let mut client = TcpStream::connect(address).unwrap();
    let mut writer = client.try_clone().unwrap();
    let sent = stream.clone();
    let writing = std::thread::spawn(move || writer.write_all(&sent).unwrap());
    let mut answer = vec![0; STREAM_BYTES];
    client.read_exact(&mut answer).unwrap();
    assert!(answer == stream);
    writing.join().unwrap();
    handle.post(ShardId(0), 0).unwrap();
    handle.join();
}

/// A script: ops one after the other, each result told to the test.
struct Script {
    ops: Receiver<Op>,
    results: Sender<Result<Done, Fault>>,
}

impl Program<Ring> for Script {
    fn turn(&mut self, edge: &mut Ring) -> Next {
        while let Some(completion) = edge.poll_completion() {
            self.results.send(completion.result).unwrap();
        }
        while let Some((from, message)) = edge.poll_message() {
            assert_eq!(from, OUTSIDE);
            if message == 0 {
                return Next::Stop;
            }
            edge.submit(Token(message), self.ops.recv().unwrap());
        }
        Next::Idle
    }
}

/// The test's side of a script.
struct Stage {
    dir: TestDir,
    handle: Handle<u64>,
    ops: Sender<Op>,
    results: Receiver<Result<Done, Fault>>,
}

impl Stage {
    fn new(listeners: Vec<socket::Listener>) -> Self {
        let dir = TestDir::new();
        let (ops, script_ops) = channel();
        let (script_results, results) = channel();
        let mut config = RingConfig::new(dir.0.clone());
        config.submissions = 8;
        let make = move |_| Script { ops: script_ops, results: script_results };
        let plans = vec![ShardPlan { core: None, listeners, make }];
        let background = BackgroundThread::new(dir.0.clone());
        let handle = run_shards(&config, plans, background).unwrap();
        Self { dir, handle, ops, results }
    }

    fn submit(&self, op: Op) {
        self.ops.send(op).unwrap();
        self.handle.post(ShardId(0), 1).unwrap();
    }

    fn result(&self) -> Result<Done, Fault> {
        self.results.recv_timeout(Duration::from_secs(20)).expect("the op ends")
    }

    fn call(&self, op: Op) -> Result<Done, Fault> {
        self.submit(op);
        self.result()
    }

    fn open(&self, name: &str, how: OpenHow) -> (FileId, u64) {
        match self.call(Op::Open { path: name.into(), how }) {
            Ok(Done::Opened { file, size }) => (file, size),
            other => panic!("{other:?}"),
        }
    }

    fn complete(&self, op: Op) {
        let result = self.call(op);
        assert!(matches!(result, Ok(Done::Complete)), "{result:?}");
    }

    fn end(self) {
        self.handle.post(ShardId(0), 0).unwrap();
        self.handle.join();
    }
}

fn blocks(fill: u8, count: usize) -> Bytes {
    let mut buffer = AlignedBuffer::zeroed(count * BLOCK_BYTES);
    buffer.fill(fill);
    buffer.freeze()
}

#[test]
fn what_is_written_durably_is_read_back() {
    let stage = Stage::new(Vec::new());
    let (file, size) = stage.open("f", OpenHow::Create);
    assert_eq!(size, 0);
    stage.complete(Op::Allocate { file, position: 0, size: 1 << 20 });
    stage.complete(Op::Write { file, position: 8192, bytes: blocks(7, 3), durable: true });
    stage.complete(Op::Write { file, position: 0, bytes: blocks(9, 1), durable: false });
    stage.complete(Op::Sync { file });

    let Ok(Done::Read(bytes)) = stage.call(Op::Read { file, position: 0, size: 6 * 4096 }) else {
        panic!("it was written");
    };
    let expected = [blocks(9, 1), blocks(0, 1), blocks(7, 3), blocks(0, 1)].concat();
    assert!(bytes == expected);
    assert_eq!(bytes.as_ptr() as usize % BLOCK_BYTES, 0);

    stage.complete(Op::CloseFile { file });
    let (file, size) = stage.open("f", OpenHow::Read);
    assert_eq!(size, 1 << 20);
    stage.complete(Op::CloseFile { file });
    stage.end();
}

#[test]
fn a_read_is_shorter_only_at_the_end_of_the_file() {
    let stage = Stage::new(Vec::new());
    std::fs::write(stage.dir.0.join("f"), vec![5; 10_000]).unwrap();
    let (file, size) = stage.open("f", OpenHow::Read);
    assert_eq!(size, 10_000);
    for (position, expected) in [(0, 10_000), (8192, 1808), (12_288, 0)] {
        let Ok(Done::Read(bytes)) = stage.call(Op::Read { file, position, size: 65_536 }) else {
            panic!("the file is readable");
        };
        assert!(bytes.len() == expected && bytes.iter().all(|&byte| byte == 5));
    }
    stage.complete(Op::CloseFile { file });
    stage.end();
}

#[test]
fn a_missing_file_is_not_found_and_chores_are_done_in_the_background() {
    let stage = Stage::new(Vec::new());
    let missing = stage.call(Op::Open { path: "none".into(), how: OpenHow::Write });
    assert!(matches!(missing, Err(Fault::NotFound)));
    stage.complete(Op::Chore(Chore::MakeDir("d".into())));
    stage.complete(Op::Chore(Chore::Prewrite { path: "d/j".into(), size: 65_536 }));
    let Ok(Done::Listed(entries)) = stage.call(Op::Chore(Chore::ListDir("d".into()))) else {
        panic!("the directory exists");
    };
    assert_eq!((entries[0].name.as_str(), entries[0].size), ("j", 65_536));
    let gone = stage.call(Op::Chore(Chore::RemoveDir("e".into())));
    assert!(matches!(gone, Err(Fault::NotFound)));
    stage.end();
}

/// Many ops at once, more than the submission queue holds.
#[test]
fn many_writes_at_once_each_complete_once() {
    const WRITES: usize = 200;
    let stage = Stage::new(Vec::new());
    let (file, _) = stage.open("f", OpenHow::Create);
    for number in 0..WRITES {
        let position = (number * BLOCK_BYTES) as u64;
        stage.submit(Op::Write { file, position, bytes: blocks(number as u8, 1), durable: false });
    }
    for _ in 0..WRITES {
        assert!(matches!(stage.result(), Ok(Done::Complete)));
    }
    stage.complete(Op::Sync { file });
    let written = std::fs::read(stage.dir.0.join("f")).unwrap();
    for number in 0..WRITES {
        assert!(written[number * BLOCK_BYTES..][..BLOCK_BYTES].iter().all(|&b| b == number as u8));
    }
    stage.end();
}

fn connected(stage: &Stage, address: SocketAddr) -> (TcpStream, SocketId) {
    let client = TcpStream::connect(address).unwrap();
    let Ok(Done::Accepted { socket, client: from }) = stage.result() else {
        panic!("it connects");
    };
    assert_eq!(from, client.local_addr().unwrap());
    (client, socket)
}

fn listening_stage() -> (Stage, SocketAddr) {
    let listeners = socket::listen(any_port(), 1).unwrap();
    let address = listeners[0].address();
    let stage = Stage::new(listeners);
    stage.submit(Op::Accept { listener: ListenerId(0) });
    (stage, address)
}

#[test]
fn closing_a_socket_ends_the_receive_and_the_send_under_way() {
    let (stage, address) = listening_stage();
    let (mut client, socket) = connected(&stage, address);
    stage.submit(Op::Receive { socket, into: BytesMut::new() });
    // The client reads nothing, so this can never all be taken.
    stage.submit(Op::Send { socket, parts: vec![Bytes::from(vec![1; 64 << 20])] });
    stage.submit(Op::CloseSocket { socket });
    let ends: Vec<_> = (0..3).map(|_| stage.result()).collect();
    let cut = ends.iter().filter(|end| matches!(end, Err(Fault::Disconnected))).count();
    assert_eq!(cut, 2, "{ends:?}");
    assert!(matches!(ends[2], Ok(Done::Complete)), "the close comes last");
    // The client gets what was taken, and then the end.
    let mut rest = Vec::new();
    drop(client.read_to_end(&mut rest));

    let (_again, second) = connected(&stage, address);
    assert_eq!(second, socket, "the id is free again");
    stage.end();
}

#[test]
fn a_receive_appends_to_what_it_was_given() {
    let (stage, address) = listening_stage();
    let (mut client, socket) = connected(&stage, address);
    for capacity in [0, 100] {
        let mut into = BytesMut::with_capacity(2 + capacity);
        into.extend_from_slice(b"ab");
        if capacity == 0 {
            assert_eq!(into.capacity(), 2);
        }
        stage.submit(Op::Receive { socket, into });
        client.write_all(b"cde").unwrap();
        let Ok(Done::Received { bytes, received }) = stage.result() else {
            panic!("bytes arrive");
        };
        assert_eq!((&bytes[..], received), (&b"abcde"[..], 3));
    }
    // The most a lent buffer hands over at once.
    client.write_all(&[3; 3 * RECEIVE_BYTES_MAX]).unwrap();
    let mut left = 3 * RECEIVE_BYTES_MAX;
    while left != 0 {
        let Ok(Done::Received { received, .. }) =
            stage.call(Op::Receive { socket, into: BytesMut::new() })
        else {
            panic!("bytes arrive");
        };
        assert!(received <= RECEIVE_BYTES_MAX);
        left -= received;
    }
    // The end of the stream.
    drop(client);
    let end = stage.call(Op::Receive { socket, into: BytesMut::new() });
    assert!(matches!(end, Ok(Done::Received { received: 0, .. })), "{end:?}");
    stage.complete(Op::CloseSocket { socket });
    stage.end();
}

/// An edge dropped with ops under way cancels them: the test ends, and no memory is touched
/// afterwards.
#[test]
fn a_shard_stops_with_ops_under_way() {
    let (stage, address) = listening_stage();
    let (client, socket) = connected(&stage, address);
    stage.submit(Op::Receive { socket, into: BytesMut::with_capacity(1000) });
    let (_other, second) = connected(&stage, address);
    stage.submit(Op::Receive { socket: second, into: BytesMut::new() });
    stage.end();
    drop(client);
}

/// Says one word over a connection the test has made, and stops when it is echoed.
struct Caller {
    stream: Option<TcpStream>,
}

impl Program<Ring> for Caller {
    fn turn(&mut self, edge: &mut Ring) -> Next {
        if let Some(stream) = self.stream.take() {
            let socket = edge.adopt(stream);
            edge.submit(Token(1), Op::Send { socket, parts: vec![Bytes::from_static(b"ahoy")] });
            edge.submit(Token(2), Op::Receive { socket, into: BytesMut::new() });
        }
        while let Some(completion) = edge.poll_completion() {
            if let Ok(Done::Received { bytes, .. }) = completion.result {
                assert_eq!(bytes, "ahoy"[..]);
                return Next::Stop;
            }
        }
        Next::Idle
    }
}

#[test]
fn a_connection_made_elsewhere_is_taken_over() {
    let dir = TestDir::new();
    let listener = std::net::TcpListener::bind(any_port()).unwrap();
    let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    stream.set_nonblocking(true).unwrap();
    let make = move |_| Caller { stream: Some(stream) };
    let plans = vec![ShardPlan { core: None, listeners: Vec::new(), make }];
    let config = RingConfig::new(dir.0.clone());
    let handle = run_shards(&config, plans, BackgroundThread::new(dir.0.clone())).unwrap();

    let (mut other, _) = listener.accept().unwrap();
    let mut word = [0; 4];
    other.read_exact(&mut word).unwrap();
    other.write_all(&word).unwrap();
    handle.join();
}

/// Two shards hand a number back and forth, each time one higher.
struct PingPong {
    rounds: u64,
    started: bool,
}

impl Program<Ring> for PingPong {
    fn turn(&mut self, edge: &mut Ring) -> Next {
        let neighbour = ShardId(1 - edge.shard().0);
        if !std::mem::replace(&mut self.started, true) && neighbour == ShardId(1) {
            edge.send(neighbour, 1).expect("the queue is empty");
        }
        while let Some((from, number)) = edge.poll_message() {
            assert_eq!(from, neighbour);
            if number < self.rounds {
                edge.send(neighbour, number + 1).expect("one message at a time");
            }
            if self.rounds <= number + 1 {
                return Next::Stop;
            }
        }
        Next::Idle
    }
}

#[test]
fn two_sleeping_shards_wake_each_other_through_their_rings() {
    let dir = TestDir::new();
    let make = |_| PingPong { rounds: 10_000, started: false };
    run(&dir.0, vec![Vec::new(), Vec::new()], make).join();
}

/// Counts the messages from outside, up to a number.
struct Counting {
    left: u64,
}

impl Program<Ring> for Counting {
    fn turn(&mut self, edge: &mut Ring) -> Next {
        while let Some((from, _)) = edge.poll_message() {
            assert_eq!(from, OUTSIDE);
            self.left -= 1;
        }
        if self.left == 0 { Next::Stop } else { Next::Idle }
    }
}

/// If one wake-up were lost, the test would hang.
#[test]
fn what_many_threads_post_into_a_sleeping_shard_all_arrives() {
    const THREADS: u64 = 4;
    const MESSAGES: u64 = 5_000;
    let dir = TestDir::new();
    let handle = run(&dir.0, vec![Vec::new()], |_| Counting { left: THREADS * MESSAGES });
    let posting: Vec<_> = (0..THREADS)
        .map(|_| {
            let poster = handle.poster();
            std::thread::spawn(move || {
                for number in 0..MESSAGES {
                    while poster.post(ShardId(0), number).is_err() {
                        std::thread::yield_now();
                    }
                }
            })
        })
        .collect();
    for thread in posting {
        thread.join().unwrap();
    }
    handle.join();
}

/// Each shard floods its neighbours through queues of four messages and counts what it gets.
struct Flood {
    shards: u16,
    to_send: Vec<u64>,
    to_get: u64,
}

const FLOOD_MESSAGES: u64 = 2_000;

impl Program<Ring> for Flood {
    fn turn(&mut self, edge: &mut Ring) -> Next {
        let me = edge.shard();
        if self.to_send.is_empty() {
            self.to_send = vec![FLOOD_MESSAGES; usize::from(self.shards)];
            self.to_send[usize::from(me.0)] = 0;
        }
        while edge.poll_message().is_some() {
            self.to_get -= 1;
        }
        for to in 0..self.shards {
            let left = &mut self.to_send[usize::from(to)];
            while *left != 0 && edge.send(ShardId(to), *left).is_ok() {
                *left -= 1;
            }
        }
        match (self.to_send.iter().all(|&left| left == 0), self.to_get) {
            (true, 0) => Next::Stop,
            (true, _) => Next::Idle,
            // A full queue tells nobody when it has room again.
            (false, _) => Next::Now,
        }
    }
}

#[test]
fn three_shards_flood_each_other_and_nothing_is_lost() {
    let dir = TestDir::new();
    let make = |_| Flood { shards: 3, to_send: Vec::new(), to_get: 2 * FLOOD_MESSAGES };
    run(&dir.0, vec![Vec::new(), Vec::new(), Vec::new()], make).join();
}

/// Counts its turns up to a number of deadlines.
struct Ticking {
    ticks: u32,
}

impl Program<Ring> for Ticking {
    fn turn(&mut self, edge: &mut Ring) -> Next {
        self.ticks -= 1;
        if self.ticks == 0 {
            return Next::Stop;
        }
        Next::At(edge.now().after(Duration::from_millis(1)))
    }
}

#[test]
fn a_deadline_gives_a_turn_though_nothing_happens() {
    let dir = TestDir::new();
    let before = std::time::Instant::now();
    run(&dir.0, vec![Vec::new()], |_| Ticking { ticks: 10 }).join();
    assert!(Duration::from_millis(9) <= before.elapsed());
}

#[test]
fn shards_that_cannot_be_made_are_an_error_and_nothing_runs() {
    let missing = PathBuf::from("/nonexistent/tidemill");
    let plans = (0..2)
        .map(|_| ShardPlan { core: None, listeners: Vec::new(), make: |_| Ticking { ticks: 1 } })
        .collect();
    let config = RingConfig::new(missing.clone());
    let outcome = run_shards::<u64, _, _, _>(&config, plans, BackgroundThread::new(missing));
    assert_eq!(outcome.err().expect("no data directory").kind(), std::io::ErrorKind::NotFound);
}
