//! The world, tried out on a toy: a node that writes numbers to its disk and echoes them.
//!
//! Each number a client sends goes over the mesh to shard 0, which writes it durably into a block
//! of its own, and back to the client. What was echoed must be on the disk, whatever happened.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::Path;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use sim::disk::PlantedInDisk;
use sim::edge::SimEdge;
use sim::network::{
    BOOTSTRAP_LISTENER, BOOTSTRAP_PORT, ClientEvent, ConnectionId, OWN_LISTENER, OWN_PORT,
};
use sim::random::Random;
use sim::trace::Trace;
use sim::world::{Clients, Crash, Node, Port, Settings, Start, World};
use tidemill_runtime::edge::{
    Chore, Done, Edge, FileId, Next, Op, OpenHow, Program, ShardId, SocketId, Token,
};

const BLOCK_BYTES: usize = 4096;

#[derive(Clone, Copy, bytemuck::Zeroable, bytemuck::Pod)]
#[repr(C, align(4096))]
struct Block([u8; BLOCK_BYTES]);

struct Blocks(Vec<Block>);

impl AsRef<[u8]> for Blocks {
    fn as_ref(&self) -> &[u8] {
        bytemuck::cast_slice(&self.0)
    }
}

#[derive(Clone, Copy, Debug)]
enum Message {
    Write { socket: SocketId, number: u64 },
    Written { socket: SocketId, number: u64 },
    Stop,
}

/// What a token stands for.
#[derive(Debug)]
enum Asked {
    Accept,
    Receive(SocketId),
    Send(SocketId),
    Close,
    Open,
    SyncDir,
    Write { from: ShardId, socket: SocketId, number: u64 },
}

/// One shard of the toy.
struct Toy {
    id: ShardId,
    asked: BTreeMap<u64, Asked>,
    next_token: u64,
    started: bool,
    stopping: bool,
    file: Option<FileId>,
    ready: bool,
    end: u64,
    waiting: VecDeque<(ShardId, SocketId, u64)>,
    open: BTreeMap<u32, VecDeque<Bytes>>,
    sending: BTreeSet<u32>,
    unsent: VecDeque<(ShardId, Message)>,
}

impl Toy {
    fn new(id: ShardId) -> Self {
        Self {
            id,
            asked: BTreeMap::new(),
            next_token: 0,
            started: false,
            stopping: false,
            file: None,
            ready: false,
            end: 0,
            waiting: VecDeque::new(),
            open: BTreeMap::new(),
            sending: BTreeSet::new(),
            unsent: VecDeque::new(),
        }
    }

    fn ask(&mut self, edge: &mut SimEdge<Message>, asked: Asked, op: Op) {
        self.next_token += 1;
        self.asked.insert(self.next_token, asked);
        edge.submit(Token(self.next_token), op);
    }

    fn receive(&mut self, edge: &mut SimEdge<Message>, socket: SocketId, into: BytesMut) {
        self.ask(edge, Asked::Receive(socket), Op::Receive { socket, into });
    }

    fn write(&mut self, edge: &mut SimEdge<Message>, from: ShardId, socket: SocketId, number: u64) {
        let Some(file) = self.file.filter(|_| self.ready) else {
            self.waiting.push_back((from, socket, number));
            return;
        };
        let block = Block(bytemuck::cast([number; BLOCK_BYTES / 8]));
        let bytes = Bytes::from_owner(Blocks(vec![block]));
        let position = self.end;
        self.end += BLOCK_BYTES as u64;
        let asked = Asked::Write { from, socket, number };
        self.ask(edge, asked, Op::Write { file, position, bytes, durable: true });
    }

    fn tell(&mut self, edge: &mut SimEdge<Message>, to: ShardId, message: Message) {
        if to == self.id {
            self.hear(edge, self.id, message);
        } else {
            self.unsent.push_back((to, message));
        }
    }

    fn hear(&mut self, edge: &mut SimEdge<Message>, from: ShardId, message: Message) {
        match message {
            Message::Write { socket, number } => self.write(edge, from, socket, number),
            Message::Written { socket, number } => {
                if let Some(replies) = self.open.get_mut(&socket.0) {
                    replies.push_back(Bytes::copy_from_slice(&number.to_be_bytes()));
                    self.send(edge, socket);
                }
            }
            Message::Stop => self.stopping = true,
        }
    }

    fn send(&mut self, edge: &mut SimEdge<Message>, socket: SocketId) {
        let Some(replies) = self.open.get_mut(&socket.0) else { return };
        if !replies.is_empty() && self.sending.insert(socket.0) {
            let parts = replies.drain(..).collect();
            self.ask(edge, Asked::Send(socket), Op::Send { socket, parts });
        }
    }

    fn close(&mut self, edge: &mut SimEdge<Message>, socket: SocketId) {
        if self.open.remove(&socket.0).is_some() {
            self.ask(edge, Asked::Close, Op::CloseSocket { socket });
        }
    }

    fn complete(&mut self, edge: &mut SimEdge<Message>, asked: Asked, done: Option<Done>) {
        match (asked, done) {
            (Asked::Accept, Some(Done::Accepted { socket, .. })) => {
                self.open.insert(socket.0, VecDeque::new());
                self.receive(edge, socket, BytesMut::new());
            }
            (Asked::Receive(socket), Some(Done::Received { mut bytes, received })) => {
                if !self.open.contains_key(&socket.0) {
                    return;
                }
                if received == 0 {
                    return self.close(edge, socket);
                }
                while 8 <= bytes.len() {
                    let number =
                        u64::from_be_bytes(bytes.split_to(8)[..].try_into().expect("eight bytes"));
                    self.tell(edge, ShardId(0), Message::Write { socket, number });
                }
                // What is left of a number stays in front of what comes next.
                bytes.reserve(64);
                self.receive(edge, socket, bytes);
            }
            (Asked::Receive(socket), None) => self.close(edge, socket),
            (Asked::Send(socket), done) => {
                self.sending.remove(&socket.0);
                if done.is_some() {
                    self.send(edge, socket);
                } else {
                    self.close(edge, socket);
                }
            }
            (Asked::Open, Some(Done::Opened { file, size })) => {
                self.file = Some(file);
                self.end = size.next_multiple_of(BLOCK_BYTES as u64);
                self.ask(edge, Asked::SyncDir, Op::Chore(Chore::SyncDir("".into())));
            }
            (Asked::SyncDir, Some(_)) => {
                self.ready = true;
                for (from, socket, number) in std::mem::take(&mut self.waiting) {
                    self.write(edge, from, socket, number);
                }
            }
            (Asked::Write { from, socket, number }, Some(_)) => {
                self.tell(edge, from, Message::Written { socket, number });
            }
            (Asked::Close, Some(_)) => {}
            (asked, done) => panic!("{asked:?} ended as {done:?}"),
        }
    }
}

impl Program<SimEdge<Message>> for Toy {
    fn turn(&mut self, edge: &mut SimEdge<Message>) -> Next {
        if !std::mem::replace(&mut self.started, true) {
            for listener in [BOOTSTRAP_LISTENER, OWN_LISTENER] {
                self.ask(edge, Asked::Accept, Op::Accept { listener });
            }
            if self.id == ShardId(0) {
                let op = Op::Open { path: "numbers".into(), how: OpenHow::Create };
                self.ask(edge, Asked::Open, op);
            }
        }
        while let Some(completion) = edge.poll_completion() {
            let token = completion.token.0;
            // An accept ends again and again; everything else once.
            let asked = match self.asked.remove(&token).expect("told once per op") {
                Asked::Accept => {
                    self.asked.insert(token, Asked::Accept);
                    Asked::Accept
                }
                asked => asked,
            };
            self.complete(edge, asked, completion.result.ok());
        }
        while let Some((from, message)) = edge.poll_message() {
            self.hear(edge, from, message);
        }
        while let Some((to, message)) = self.unsent.pop_front() {
            if let Err(message) = edge.send(to, message) {
                self.unsent.push_front((to, message));
                return Next::At(edge.now().after(Duration::from_micros(10)));
            }
        }
        if self.stopping { Next::Stop } else { Next::Idle }
    }
}

struct ToyNode(u16);

impl Node for ToyNode {
    type Message = Message;
    type Shard = Toy;

    fn start(&mut self, start: &Start) -> Vec<Toy> {
        self.0 = start.shards;
        (0..start.shards).map(|id| Toy::new(ShardId(id))).collect()
    }

    fn stop(&mut self) -> Vec<(ShardId, Message)> {
        (0..self.0).map(|id| (ShardId(id), Message::Stop)).collect()
    }

    fn is_serving(&mut self) -> bool {
        true
    }

    fn failure(&mut self) -> Option<String> {
        None
    }
}

/// Clients that send a few numbers at once and wait for them.
#[derive(Default)]
struct Numbers {
    clients: u64,
    sent: u64,
    connections: BTreeMap<ConnectionId, (u64, BytesMut)>,
    echoed: BTreeSet<u64>,
    connects: u64,
}

impl Numbers {
    fn connect(&mut self, client: u64, port: &mut Port<'_>) {
        self.connects += 1;
        let to = if self.connects.is_multiple_of(3) { OWN_PORT } else { BOOTSTRAP_PORT };
        let id = port.connect(to);
        self.connections.insert(id, (client, BytesMut::new()));
    }

    fn send(&mut self, id: ConnectionId, port: &mut Port<'_>) {
        self.sent += 1;
        port.send(id, Bytes::copy_from_slice(&self.sent.to_be_bytes()));
    }
}

impl Clients for Numbers {
    fn handle(&mut self, event: ClientEvent, port: &mut Port<'_>) {
        match event {
            ClientEvent::Woken(0) => {
                (1..=self.clients).for_each(|client| self.connect(client, port))
            }
            ClientEvent::Woken(client) => self.connect(client, port),
            ClientEvent::Connected(id) => (0..3).for_each(|_| self.send(id, port)),
            ClientEvent::Bytes(id, bytes) => {
                let Some((_, buffer)) = self.connections.get_mut(&id) else { return };
                buffer.extend_from_slice(&bytes);
                let mut echoes = 0;
                while 8 <= buffer.len() {
                    let number =
                        u64::from_be_bytes(buffer.split_to(8)[..].try_into().expect("eight bytes"));
                    self.echoed.insert(number);
                    echoes += 1;
                }
                (0..echoes).for_each(|_| self.send(id, port));
            }
            ClientEvent::Closed(id) => {
                if let Some((client, _)) = self.connections.remove(&id) {
                    port.wake_in(Duration::from_millis(3), client);
                }
            }
        }
    }
}

/// How a run of the toy ended.
struct Verdict {
    hash: u64,
    echoed: usize,
    lost: usize,
}

fn run(seed: u64, planted: Option<PlantedInDisk>) -> Verdict {
    let clients = Numbers { clients: 4, ..Numbers::default() };
    let mut random = Random::new(seed).fork("attacks");
    let mut world = World::new(seed, ToyNode(0), clients, Settings::default(), Trace::new(false));
    world.disk().planted = planted;
    world.network_faults().resets = 5_000;
    world.settings().stalls = 1_000;
    world.wake_clients(0);
    for _ in 0..4 {
        world.start(random.between(1, 3) as u16);
        let limit = world.now().after(Duration::from_millis(200));
        world.run_events(random.between(10, 3_000), limit);
        if random.coin() {
            world.ask_to_stop();
            world.run_for(Duration::from_secs(2));
            assert!(!world.is_running());
        }
        world.crash(if random.coin() { Crash::Kill } else { Crash::PowerLoss });
        world.run_for(Duration::from_millis(random.between(0, 20)));
    }
    world.disk().lose_power();
    let left = world.disk().contents(Path::new("numbers")).unwrap_or_default();
    let whole: BTreeSet<u64> = left
        .chunks_exact(BLOCK_BYTES)
        .filter(|block| block.chunks(8).all(|number| number == &block[..8]))
        .map(|block| u64::from_ne_bytes(block[..8].try_into().expect("eight bytes")))
        .collect();
    let hash = world.trace().hash();
    let echoed = &world.clients().echoed;
    Verdict { hash, echoed: echoed.len(), lost: echoed.difference(&whole).count() }
}

/// What the toy echoed survives kills, power losses, resets and changes of the shard count.
#[test]
fn what_was_echoed_survives() {
    let mut echoed = 0;
    for seed in 0..50 {
        let verdict = run(seed, None);
        assert_eq!(verdict.lost, 0, "seed {seed}");
        echoed += verdict.echoed;
    }
    assert!(1_000 < echoed, "only {echoed} numbers were echoed: the toy did no work");
}

/// A disk that says "done" too early, or syncs no directory, is found out.
#[test]
fn planted_mistakes_are_found() {
    for planted in [PlantedInDisk::AcknowledgeBeforeDurable, PlantedInDisk::SkipDirectorySync] {
        let lost: usize = (0..50).map(|seed| run(seed, Some(planted)).lost).sum();
        assert!(0 < lost, "{planted:?} went unnoticed");
    }
}

/// One seed, one run: the same hash again, and another one for another seed.
#[test]
fn a_seed_replays_to_the_same_trace() {
    let hashes: Vec<u64> = (0..5).map(|seed| run(seed, None).hash).collect();
    let again: Vec<u64> = (0..5).map(|seed| run(seed, None).hash).collect();
    assert_eq!(hashes, again);
    assert_eq!(hashes.iter().collect::<BTreeSet<_>>().len(), 5);
}
