//! The simulated world: one node with its shards, its disk and its clients, in one thread.
//!
//! Time is virtual and jumps from event to event. Each shard runs its turns when something
//! completes or arrives, or when it asked to; ops go to the disk and the network and come back
//! later, in an order the seed decides. The node can be stopped, killed or lose its power between
//! any two events, and start again with another number of shards on the disk that is left.
//!
//! The world knows nothing of brokers: it runs any [`Node`], and any [`Clients`] against it.
//!
//! Start reading at [`World::step`].

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use tidemill_runtime::edge::{Completion, Instant, Next, Program, ShardId};

use crate::agenda::Agenda;
use crate::describe::{describe_client, describe_next, describe_op, describe_result};
use crate::disk::{Disk, DiskOpId};
use crate::edge::SimEdge;
use crate::network::{ClientEvent, ConnectionId, NetEvent, Network, NetworkFaults};
use crate::random::Random;
use crate::trace::Trace;

/// What makes the programs of a node's shards.
pub trait Node {
    /// What its shards say to each other.
    type Message;
    /// The program of one shard.
    type Shard: Program<SimEdge<Self::Message>>;

    /// The node's process starts: the programs of all its shards.
    fn start(&mut self, start: &Start) -> Vec<Self::Shard>;

    /// The node is asked to stop: what to tell which shard.
    fn stop(&mut self) -> Vec<(ShardId, Self::Message)>;

    /// Whether it serves its clients.
    fn is_serving(&mut self) -> bool;

    /// Why the last start failed, if it did.
    fn failure(&mut self) -> Option<String>;
}

/// One start of the node's process.
#[derive(Clone, Copy, Debug)]
pub struct Start {
    /// How many shards it has.
    pub shards: u16,
    /// How many starts there were before.
    pub number: u64,
    /// For whatever the process wants to be random.
    pub seed: u64,
}

/// Whoever uses the node from outside.
pub trait Clients {
    /// Something happened to them.
    fn handle(&mut self, event: ClientEvent, port: &mut Port<'_>);
}

/// What clients can do.
#[derive(Debug)]
pub struct Port<'a> {
    now: Instant,
    next_connection: &'a mut u64,
    connected: Vec<ConnectionId>,
    remarks: Vec<String>,
    commands: Vec<Command>,
}

#[derive(Debug)]
enum Command {
    Connect(ConnectionId, u16),
    Send(ConnectionId, Bytes),
    Close(ConnectionId),
    Wake(Instant, u64),
}

impl Port<'_> {
    /// The time.
    #[must_use]
    pub fn now(&self) -> Instant {
        self.now
    }

    /// Connects to a port of the node; told later by an event.
    pub fn connect(&mut self, port: u16) -> ConnectionId {
        let id = ConnectionId(*self.next_connection);
        *self.next_connection += 1;
        self.connected.push(id);
        self.commands.push(Command::Connect(id, port));
        id
    }

    /// The connections begun since this was last asked.
    pub fn take_connected(&mut self) -> Vec<ConnectionId> {
        std::mem::take(&mut self.connected)
    }

    /// Puts a remark into the trace.
    pub fn say(&mut self, remark: String) {
        self.remarks.push(remark);
    }

    /// Sends bytes on a connection.
    pub fn send(&mut self, connection: ConnectionId, bytes: Bytes) {
        self.commands.push(Command::Send(connection, bytes));
    }

    /// Closes a connection; nothing more is told of it.
    pub fn close(&mut self, connection: ConnectionId) {
        self.commands.push(Command::Close(connection));
    }

    /// Asks for [`ClientEvent::Woken`] with `number` after `wait`.
    pub fn wake_in(&mut self, wait: Duration, number: u64) {
        self.commands.push(Command::Wake(self.now.after(wait), number));
    }
}

/// Something that will happen.
#[derive(Debug)]
pub(crate) enum Event {
    Turn { shard: ShardId, start: u64 },
    DiskEnds(DiskOpId),
    MeshArrives { from: ShardId, to: ShardId, start: u64 },
    Net(NetEvent),
    Client(u64),
}

/// One line of the trace.
#[derive(Debug, Hash)]
enum Note<'a> {
    Start { shards: u16, number: u64 },
    Stopping,
    Stopped,
    Lost { power: bool },
    Turn { shard: u16, next: String },
    Submit { shard: u16, token: u64, op: String },
    Complete { shard: u16, token: u64, result: String },
    Send { from: u16, to: u16 },
    Client(String),
    Say(&'a str),
}

/// How the world treats a node, chosen once per run.
#[derive(Clone, Debug)]
pub struct Settings {
    /// How much the disk holds.
    pub disk_bytes: u64,
    /// How many messages a mesh queue holds.
    pub mesh_messages_max: usize,
    /// Turns, in parts per million, after which a shard is held up for up to a second.
    pub stalls: u32,
}

impl Default for Settings {
    fn default() -> Self {
        Self { disk_bytes: 1 << 30, mesh_messages_max: 64, stalls: 0 }
    }
}

/// How a node ends without being asked.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Crash {
    /// The process is killed; the machine goes on.
    Kill,
    /// The machine loses its power.
    PowerLoss,
}

/// The world of one run.
pub struct World<N: Node, C> {
    node: N,
    clients: C,
    settings: Settings,
    shards: Vec<Shard<N>>,
    mesh: BTreeMap<(ShardId, ShardId), Queue<N::Message>>,
    agenda: Agenda<Event>,
    disk: Disk,
    network: Network,
    random: Random,
    trace: Trace,
    starts: u64,
    next_connection: u64,
}

struct Shard<N: Node> {
    program: N::Shard,
    edge: SimEdge<N::Message>,
    /// When its next turn is planned.
    turn_at: Option<Instant>,
    /// Before this it is still at its last turn.
    busy_until: Instant,
    stopped: bool,
}

/// The mesh queue of an ordered pair of shards.
struct Queue<M> {
    on_the_way: VecDeque<M>,
    last_arrival: Instant,
    /// Sent and not yet taken by the receiver.
    held: usize,
}

impl<N: Node, C: Clients> World<N, C> {
    /// A world with an empty disk and no running process.
    pub fn new(seed: u64, node: N, clients: C, settings: Settings, trace: Trace) -> Self {
        let random = Random::new(seed);
        Self {
            node,
            clients,
            shards: Vec::new(),
            mesh: BTreeMap::new(),
            agenda: Agenda::new(),
            disk: Disk::new(settings.disk_bytes, random.fork("disk")),
            network: Network::new(random.fork("network")),
            random: random.fork("world"),
            settings,
            trace,
            starts: 0,
            next_connection: 0,
        }
    }

    /// The time.
    pub fn now(&self) -> Instant {
        self.agenda.now()
    }

    /// The disk, to look at or to make worse.
    pub fn disk(&mut self) -> &mut Disk {
        &mut self.disk
    }

    /// What the network does badly.
    pub fn network_faults(&mut self) -> &mut NetworkFaults {
        &mut self.network.faults
    }

    /// How the world treats the node.
    pub fn settings(&mut self) -> &mut Settings {
        &mut self.settings
    }

    /// The clients.
    pub fn clients(&mut self) -> &mut C {
        &mut self.clients
    }

    /// The maker of programs.
    pub fn node(&mut self) -> &mut N {
        &mut self.node
    }

    /// What happened so far.
    pub fn trace(&self) -> &Trace {
        &self.trace
    }

    /// How often a process was started.
    pub fn starts(&self) -> u64 {
        self.starts
    }

    /// Whether any shard of a process is running.
    pub fn is_running(&self) -> bool {
        self.shards.iter().any(|shard| !shard.stopped)
    }

    /// Whether nothing that clients have sent is still on its way.
    pub fn is_delivered(&self) -> bool {
        self.network.is_delivered()
    }

    /// Notes a remark of whoever directs the run.
    pub fn say(&mut self, text: &str) {
        self.trace.note(self.agenda.now(), &Note::Say(text));
    }

    /// Starts a process with `shards` shards.
    pub fn start(&mut self, shards: u16) {
        assert!(self.shards.is_empty(), "the last process is still there");
        let number = self.starts;
        self.starts += 1;
        self.trace.note(self.agenda.now(), &Note::Start { shards, number });
        let start = Start { shards, number, seed: self.random.draw() };
        let programs = self.node.start(&start);
        assert_eq!(programs.len(), usize::from(shards));
        self.network.listen(shards, self.starts);
        for program in programs {
            self.shards.push(Shard {
                program,
                edge: SimEdge::new(),
                turn_at: None,
                busy_until: self.agenda.now(),
                stopped: false,
            });
        }
        for from in 0..shards {
            for to in 0..shards {
                let queue =
                    Queue { on_the_way: VecDeque::new(), last_arrival: self.now(), held: 0 };
                self.mesh.insert((ShardId(from), ShardId(to)), queue);
            }
            self.wake(ShardId(from));
        }
    }

    /// Asks the process to stop. It has when [`World::is_running`] says so; then it must be
    /// cleared away by [`World::crash`], which finds nothing under way.
    pub fn ask_to_stop(&mut self) {
        self.trace.note(self.agenda.now(), &Note::Stopping);
        for (shard, message) in self.node.stop() {
            self.shards[usize::from(shard.0)].edge.inbox.push_back((shard, message));
            let queue = self.mesh.get_mut(&(shard, shard)).expect("one queue per pair");
            queue.held += 1;
            self.wake(shard);
        }
    }

    /// Ends the process at once.
    pub fn crash(&mut self, crash: Crash) {
        self.trace.note(self.agenda.now(), &Note::Lost { power: crash == Crash::PowerLoss });
        self.shards.clear();
        self.mesh.clear();
        self.network.lose_node(crash == Crash::PowerLoss, &mut self.agenda);
        match crash {
            Crash::Kill => self.disk.kill(),
            Crash::PowerLoss => self.disk.lose_power(),
        }
    }

    /// Lets the clients begin: they are told [`ClientEvent::Woken`] with `number`.
    pub fn wake_clients(&mut self, number: u64) {
        self.agenda.plan_in(Duration::ZERO, Event::Client(number));
    }

    /// Goes on until `limit`, at most `events` events; false if the limit came first.
    pub fn run_events(&mut self, events: u64, limit: Instant) -> bool {
        (0..events).all(|_| self.step(limit))
    }

    /// Goes on for `duration`.
    pub fn run_for(&mut self, duration: Duration) {
        let limit = self.now().after(duration);
        while self.step(limit) {}
    }

    /// The next event, if one comes until `limit`.
    pub fn step(&mut self, limit: Instant) -> bool {
        let Some(event) = self.agenda.next(limit) else { return false };
        match event {
            Event::Turn { shard, start } => {
                let now = self.now();
                if start == self.starts && self.shard(shard).is_some_and(|s| s.turn_at == Some(now))
                {
                    self.turn(shard);
                }
            }
            Event::DiskEnds(op) => {
                if let Some((shard, token, result)) = self.disk.end(op) {
                    self.deliver(shard, Completion { token, result });
                }
            }
            Event::MeshArrives { from, to, start } => {
                if start == self.starts
                    && let Some(queue) = self.mesh.get_mut(&(from, to))
                {
                    let message = queue.on_the_way.pop_front().expect("one event per message");
                    self.shards[usize::from(to.0)].edge.inbox.push_back((from, message));
                    self.wake(to);
                }
            }
            Event::Net(event) => self.network.handle(event, &mut self.agenda),
            Event::Client(number) => self.network.told.push(ClientEvent::Woken(number)),
        }
        self.spread();
        true
    }

    /// Hands on what the network has for shards and clients.
    fn spread(&mut self) {
        for (shard, completion) in std::mem::take(&mut self.network.completions) {
            self.deliver(shard, completion);
        }
        for event in std::mem::take(&mut self.network.told) {
            self.trace.note(self.agenda.now(), &Note::Client(describe_client(&event)));
            let mut port = Port {
                now: self.agenda.now(),
                next_connection: &mut self.next_connection,
                connected: Vec::new(),
                remarks: Vec::new(),
                commands: Vec::new(),
            };
            self.clients.handle(event, &mut port);
            for remark in port.remarks {
                self.trace.note(self.agenda.now(), &Note::Say(&remark));
            }
            for command in port.commands {
                self.obey(command);
            }
        }
        // Commands complete shards' ops, but tell clients nothing before the next event.
        for (shard, completion) in std::mem::take(&mut self.network.completions) {
            self.deliver(shard, completion);
        }
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::Connect(id, port) => self.network.connect(id, port, &mut self.agenda),
            Command::Send(id, bytes) => self.network.client_send(id, bytes, &mut self.agenda),
            Command::Close(id) => self.network.client_close(id, &mut self.agenda),
            Command::Wake(at, number) => self.agenda.plan(at, Event::Client(number)),
        }
    }

    fn turn(&mut self, id: ShardId) {
        let now = self.now();
        let room = self.room(id);
        let shard = &mut self.shards[usize::from(id.0)];
        shard.turn_at = None;
        shard.edge.now = now;
        shard.edge.room = room;
        let next = shard.program.turn(&mut shard.edge);
        self.trace.note(now, &Note::Turn { shard: id.0, next: describe_next(next) });

        let submitted = std::mem::take(&mut shard.edge.submitted);
        let sent = std::mem::take(&mut shard.edge.sent);
        let taken = std::mem::take(&mut shard.edge.taken);
        for from in taken {
            self.mesh.get_mut(&(from, id)).expect("one queue per pair").held -= 1;
        }
        for (to, message) in sent {
            self.carry(id, to, message);
        }
        for (token, op) in submitted {
            let note = Note::Submit { shard: id.0, token: token.0, op: describe_op(&op) };
            self.trace.note(now, &note);
            if Disk::takes(&op) {
                let (op, took) = self.disk.begin(id, token, op);
                self.agenda.plan_in(took, Event::DiskEnds(op));
            } else {
                self.network.submit(id, token, op, &mut self.agenda);
            }
        }
        self.plan_next(id, next);
    }

    fn plan_next(&mut self, id: ShardId, next: Next) {
        let mut took = self.random.latency(Duration::from_nanos(500), Duration::from_micros(20));
        if self.random.happens(self.settings.stalls) {
            took = self.random.latency(Duration::from_millis(1), Duration::from_secs(1));
        }
        let now = self.now();
        let shard = &mut self.shards[usize::from(id.0)];
        shard.busy_until = now.after(took);
        let left_over = !shard.edge.completions.is_empty() || !shard.edge.inbox.is_empty();
        match next {
            Next::Stop => {
                shard.stopped = true;
                if self.shards.iter().all(|shard| shard.stopped) {
                    self.trace.note(now, &Note::Stopped);
                }
            }
            Next::Now => self.plan_turn(id, now),
            _ if left_over => self.plan_turn(id, now),
            Next::At(at) => self.plan_turn(id, at),
            Next::Idle => {}
        }
    }

    fn carry(&mut self, from: ShardId, to: ShardId, message: N::Message) {
        let delay = self.random.latency(Duration::from_nanos(200), Duration::from_micros(50));
        let now = self.now();
        let queue = self.mesh.get_mut(&(from, to)).expect("the edge refuses unknown shards");
        queue.on_the_way.push_back(message);
        queue.held += 1;
        queue.last_arrival = queue.last_arrival.max(now.after(delay));
        let (at, start) = (queue.last_arrival, self.starts);
        self.trace.note(now, &Note::Send { from: from.0, to: to.0 });
        self.agenda.plan(at, Event::MeshArrives { from, to, start });
    }

    /// How many messages `from` can still send to each shard.
    fn room(&self, from: ShardId) -> BTreeMap<ShardId, usize> {
        let most = self.settings.mesh_messages_max;
        let pairs = self.mesh.range((from, ShardId(0))..=(from, ShardId(u16::MAX)));
        pairs.map(|((_, to), queue)| (*to, most.saturating_sub(queue.held))).collect()
    }

    fn deliver(&mut self, shard: ShardId, completion: Completion) {
        let note = Note::Complete {
            shard: shard.0,
            token: completion.token.0,
            result: describe_result(&completion.result),
        };
        self.trace.note(self.agenda.now(), &note);
        if let Some(there) = self.shards.get_mut(usize::from(shard.0)) {
            there.edge.completions.push_back(completion);
            self.wake(shard);
        }
    }

    fn wake(&mut self, shard: ShardId) {
        let delay = self.random.latency(Duration::from_nanos(100), Duration::from_micros(10));
        self.plan_turn(shard, self.now().after(delay));
    }

    /// Plans a turn for `at`, unless one comes earlier.
    fn plan_turn(&mut self, id: ShardId, at: Instant) {
        let now = self.now();
        let shard = &mut self.shards[usize::from(id.0)];
        if shard.stopped {
            return;
        }
        let at = at.max(shard.busy_until).max(now);
        if shard.turn_at.is_none_or(|planned| at < planned) {
            shard.turn_at = Some(at);
            self.agenda.plan(at, Event::Turn { shard: id, start: self.starts });
        }
    }

    fn shard(&self, id: ShardId) -> Option<&Shard<N>> {
        self.shards.get(usize::from(id.0))
    }
}
