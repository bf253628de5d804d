//! The simulated network between clients and the shards' listeners.
//!
//! A connection is a pair of byte streams. Bytes arrive in order, in pieces of any size, late;
//! a stream holds only so much before its sender must wait; a connection may break at any byte.
//! A killed process resets its connections; a machine gone dark says nothing at all.
//!
//! What a shard must never do (use a closed socket, receive twice at once) ends the run.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tidemill_runtime::edge::{
    Completion, Done, Fault, Instant, ListenerId, Op, RECEIVE_BYTES_MAX, ShardId, SocketId, Token,
};

use crate::agenda::Agenda;
use crate::random::Random;
use crate::world::Event;

/// A connection of a client, never used twice.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct ConnectionId(pub u64);

/// The listener all shards share.
pub const BOOTSTRAP_LISTENER: ListenerId = ListenerId(0);
/// The listener a shard has for itself.
pub const OWN_LISTENER: ListenerId = ListenerId(1);
/// The port all shards accept on.
pub const BOOTSTRAP_PORT: u16 = 9092;
/// The port of shard 0; shard `s` has this one plus `s`.
pub const OWN_PORT: u16 = BOOTSTRAP_PORT + 1000;

/// What the network does badly.
#[derive(Clone, Debug)]
pub struct NetworkFaults {
    /// Pieces, in parts per million, after (or within) which a connection breaks.
    pub resets: u32,
    /// The longest ordinary delay of a piece.
    pub delay_max: Duration,
    /// Not badly at all: what is sent at once arrives in one piece.
    pub whole: bool,
}

impl Default for NetworkFaults {
    fn default() -> Self {
        Self { resets: 0, delay_max: Duration::from_micros(500), whole: false }
    }
}

/// Something on its way.
#[derive(Debug)]
pub(crate) enum NetEvent {
    /// A client's wish to connect reaches the node.
    Knock(ConnectionId, u16),
    /// The client learns that it is connected.
    Connected(ConnectionId),
    /// A piece of the stream to the shard.
    Up(ConnectionId, Piece),
    /// A piece of the stream to the client.
    Down(ConnectionId, Piece),
    /// The client learns that the connection is no more.
    Broken(ConnectionId),
    /// A shard's close has been carried out.
    Closed { shard: ShardId, socket: SocketId, token: Token, start: u64 },
}

/// One piece of a stream.
#[derive(Debug)]
pub(crate) enum Piece {
    Bytes(Bytes),
    End,
}

/// What a client is told.
#[derive(Clone, Debug)]
pub enum ClientEvent {
    /// It is connected.
    Connected(ConnectionId),
    /// Bytes arrived.
    Bytes(ConnectionId, Bytes),
    /// The connection was refused, ended or broke.
    Closed(ConnectionId),
    /// The time it asked to be woken at has come; the number is its own.
    Woken(u64),
}

/// All connections of the world.
#[derive(Debug)]
pub(crate) struct Network {
    random: Random,
    connections: BTreeMap<ConnectionId, Connection>,
    /// Sockets of the running process, by the numbers of shard and socket. A closing one has none.
    sockets: BTreeMap<(u16, u32), Option<ConnectionId>>,
    accepting: BTreeMap<(u16, u32), Token>,
    backlog: BTreeMap<(u16, u32), VecDeque<ConnectionId>>,
    /// The shards of the running process; zero while none runs.
    shards: u16,
    start: u64,
    pub(crate) faults: NetworkFaults,
    pub(crate) completions: Vec<(ShardId, Completion)>,
    pub(crate) told: Vec<ClientEvent>,
}

#[derive(Debug)]
struct Connection {
    /// Where the shard has it; nothing before it is accepted or after it is closed there.
    socket: Option<(ShardId, SocketId)>,
    up: Stream,
    down: Stream,
    receiving: Option<(Token, BytesMut)>,
    sending: Option<Token>,
    broken: bool,
    /// Nobody is at the other end, and nobody said so.
    dark: bool,
    /// The client will be told of it: the node that came back refused what it sent.
    refused: bool,
    client_closed: bool,
}

/// One direction of a connection.
#[derive(Debug)]
struct Stream {
    unsent: VecDeque<Bytes>,
    in_transit: usize,
    arrived: VecDeque<Bytes>,
    arrived_bytes: usize,
    window: usize,
    piece_max: usize,
    last_arrival: Instant,
    /// The sender has said all.
    ending: bool,
    end_sent: bool,
    ended: bool,
}

impl Stream {
    fn new(random: &mut Random) -> Self {
        Self {
            unsent: VecDeque::new(),
            in_transit: 0,
            arrived: VecDeque::new(),
            arrived_bytes: 0,
            window: *random.pick(&[4 << 10, 16 << 10, 64 << 10, 256 << 10]),
            piece_max: *random.pick(&[97, 536, 1460, 1460, 16 << 10, 64 << 10, 64 << 10]),
            last_arrival: Instant { nanos: 0 },
            ending: false,
            end_sent: false,
            ended: false,
        }
    }

    fn push(&mut self, bytes: Bytes) {
        if !bytes.is_empty() {
            self.unsent.push_back(bytes);
        }
    }

    /// The next piece that fits into the stream, and when it arrives.
    fn next_piece(
        &mut self,
        now: Instant,
        delay: Duration,
        whole: bool,
        random: &mut Random,
    ) -> Option<(Instant, Piece)> {
        let window = if whole { usize::MAX } else { self.window };
        let free = window.saturating_sub(self.in_transit + self.arrived_bytes);
        let piece = match self.unsent.front_mut() {
            // As TCP does, wait for a window worth using (RFC 9293, 3.8.6.2.1).
            Some(first) if free < first.len().min(window / 4) => return None,
            Some(first) => {
                // Large sends go in larger pieces: a run must not be all network.
                let most = first.len().min(free).min(self.piece_max.max(first.len() / 16));
                let size = if whole {
                    first.len()
                } else if random.happens(200_000) {
                    random.between(1, most as u64) as usize
                } else {
                    most
                };
                let bytes = first.split_to(size);
                if first.is_empty() {
                    self.unsent.pop_front();
                }
                self.in_transit += size;
                Piece::Bytes(bytes)
            }
            None if self.ending && !self.end_sent => {
                self.end_sent = true;
                Piece::End
            }
            None => return None,
        };
        self.last_arrival = now.after(delay).max(self.last_arrival);
        Some((self.last_arrival, piece))
    }

    fn arrive(&mut self, piece: Piece) {
        match piece {
            Piece::Bytes(bytes) => {
                self.in_transit -= bytes.len();
                self.arrived_bytes += bytes.len();
                self.arrived.push_back(bytes);
            }
            Piece::End => self.ended = true,
        }
    }

    /// Takes up to `most` arrived bytes.
    fn take(&mut self, most: usize) -> Option<Bytes> {
        let first = self.arrived.front_mut()?;
        let taken = first.split_to(first.len().min(most));
        if first.is_empty() {
            self.arrived.pop_front();
        }
        self.arrived_bytes -= taken.len();
        Some(taken)
    }
}

impl Network {
    pub(crate) fn new(random: Random) -> Self {
        Self {
            random,
            connections: BTreeMap::new(),
            sockets: BTreeMap::new(),
            accepting: BTreeMap::new(),
            backlog: BTreeMap::new(),
            shards: 0,
            start: 0,
            faults: NetworkFaults::default(),
            completions: Vec::new(),
            told: Vec::new(),
        }
    }

    /// A process with `shards` shards listens from now on: the start-th one.
    pub(crate) fn listen(&mut self, shards: u16, start: u64) {
        self.shards = shards;
        self.start = start;
    }

    /// The process is gone. Its clients are told, unless the machine went `dark`.
    pub(crate) fn lose_node(&mut self, dark: bool, agenda: &mut Agenda<Event>) {
        self.shards = 0;
        self.sockets.clear();
        self.accepting.clear();
        self.backlog.clear();
        self.completions.clear();
        // A connection that was lost before is as it was: a later process knows nothing of it.
        for (id, connection) in self.connections.iter_mut().filter(|(_, there)| !there.broken) {
            connection.socket = None;
            connection.receiving = None;
            connection.sending = None;
            connection.broken = true;
            connection.dark = dark;
            if !dark {
                let delay = self.random.latency(Duration::ZERO, self.faults.delay_max);
                agenda.plan_in(delay, Event::Net(NetEvent::Broken(*id)));
            }
        }
    }

    /// Whether nothing that clients have sent is still on its way.
    pub(crate) fn is_delivered(&self) -> bool {
        let delivered = |there: &Connection| {
            there.broken
                || (there.up.unsent.is_empty()
                    && there.up.in_transit == 0
                    && there.up.arrived_bytes == 0)
        };
        self.connections.values().all(delivered)
    }

    // ----- the client's side -----

    pub(crate) fn connect(&mut self, id: ConnectionId, port: u16, agenda: &mut Agenda<Event>) {
        let connection = Connection {
            socket: None,
            up: Stream::new(&mut self.random),
            down: Stream::new(&mut self.random),
            receiving: None,
            sending: None,
            broken: false,
            dark: false,
            refused: false,
            client_closed: false,
        };
        self.connections.insert(id, connection);
        let delay = self.delay();
        agenda.plan_in(delay, Event::Net(NetEvent::Knock(id, port)));
    }

    /// Bytes on a connection that is no more go nowhere.
    pub(crate) fn client_send(
        &mut self,
        id: ConnectionId,
        bytes: Bytes,
        agenda: &mut Agenda<Event>,
    ) {
        let delay = self.delay();
        let Some(connection) = self.connections.get_mut(&id) else { return };
        if connection.broken {
            if connection.dark && !connection.refused && self.shards != 0 {
                // The node is back and knows nothing of this connection.
                connection.refused = true;
                agenda.plan_in(delay, Event::Net(NetEvent::Broken(id)));
            }
            return;
        }
        connection.up.push(bytes);
        self.pump_up(id, agenda);
    }

    pub(crate) fn client_close(&mut self, id: ConnectionId, agenda: &mut Agenda<Event>) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        connection.client_closed = true;
        connection.up.ending = true;
        if connection.broken {
            self.connections.remove(&id);
        } else {
            self.pump_up(id, agenda);
        }
    }

    // ----- the shard's side -----

    pub(crate) fn submit(
        &mut self,
        shard: ShardId,
        token: Token,
        op: Op,
        agenda: &mut Agenda<Event>,
    ) {
        match op {
            Op::Accept { listener } => {
                let key = (shard.0, listener.0);
                assert!(listener.0 <= OWN_LISTENER.0, "{shard:?} has no {listener:?}");
                let before = self.accepting.insert(key, token);
                assert!(before.is_none(), "{shard:?} accepts on {listener:?} twice");
                while let Some(id) = self.backlog.get_mut(&key).and_then(VecDeque::pop_front) {
                    self.accept(shard, token, id, agenda);
                }
            }
            Op::Receive { socket, into } => {
                let connection = self.connection(shard, socket);
                assert!(connection.receiving.is_none(), "{socket:?} receives twice at once");
                connection.receiving = Some((token, into));
                let id = self.id(shard, socket);
                self.try_receive(id, agenda);
            }
            Op::Send { socket, parts } => {
                let connection = self.connection(shard, socket);
                assert!(connection.sending.is_none(), "{socket:?} sends twice at once");
                connection.sending = Some(token);
                parts.into_iter().for_each(|part| connection.down.push(part));
                let id = self.id(shard, socket);
                self.pump_down(id, agenda);
            }
            Op::CloseSocket { socket } => self.close(shard, socket, token, agenda),
            other => unreachable!("the disk's op: {other:?}"),
        }
    }

    fn close(
        &mut self,
        shard: ShardId,
        socket: SocketId,
        token: Token,
        agenda: &mut Agenda<Event>,
    ) {
        let id = self.id(shard, socket);
        let connection = self.connection(shard, socket);
        connection.socket = None;
        connection.down.ending = true;
        let receiving = connection.receiving.take().map(|receiving| receiving.0);
        let sending = connection.sending.take();
        if sending.is_some() {
            connection.down.unsent.clear();
        }
        for token in receiving.into_iter().chain(sending) {
            self.complete(shard, token, Err(Fault::Disconnected));
        }
        self.sockets.insert((shard.0, socket.0), None);
        self.pump_down(id, agenda);
        if self.connections.get(&id).is_some_and(|gone| gone.broken && gone.client_closed) {
            self.connections.remove(&id);
        }
        let wait = self.random.latency(Duration::from_micros(1), Duration::from_micros(50));
        let start = self.start;
        agenda.plan_in(wait, Event::Net(NetEvent::Closed { shard, socket, token, start }));
    }

    // ----- what arrives -----

    pub(crate) fn handle(&mut self, event: NetEvent, agenda: &mut Agenda<Event>) {
        match event {
            NetEvent::Knock(id, port) => self.knock(id, port, agenda),
            NetEvent::Connected(id) => {
                if self.connections.get(&id).is_some_and(|connection| !connection.client_closed) {
                    self.told.push(ClientEvent::Connected(id));
                }
            }
            NetEvent::Up(id, piece) => {
                if self.live(id) {
                    let breaks = self.breaks(&piece);
                    self.connections.get_mut(&id).expect("live").up.arrive(piece);
                    self.try_receive(id, agenda);
                    if breaks {
                        self.break_connection(id, agenda);
                    }
                }
            }
            NetEvent::Down(id, piece) => self.arrive_down(id, piece, agenda),
            NetEvent::Broken(id) => {
                if let Some(connection) = self.connections.remove(&id)
                    && !connection.client_closed
                {
                    self.told.push(ClientEvent::Closed(id));
                }
            }
            NetEvent::Closed { shard, socket, token, start } => {
                if start == self.start && self.shards != 0 {
                    self.sockets.remove(&(shard.0, socket.0));
                    self.complete(shard, token, Ok(Done::Complete));
                }
            }
        }
    }

    fn knock(&mut self, id: ConnectionId, port: u16, agenda: &mut Agenda<Event>) {
        let place = match port {
            _ if self.shards == 0 => None,
            BOOTSTRAP_PORT => Some((
                ShardId(self.random.below(u64::from(self.shards)) as u16),
                BOOTSTRAP_LISTENER,
            )),
            _ => port
                .checked_sub(OWN_PORT)
                .filter(|shard| *shard < self.shards)
                .map(|shard| (ShardId(shard), OWN_LISTENER)),
        };
        let delay = self.delay();
        let Some((shard, listener)) = place else {
            agenda.plan_in(delay, Event::Net(NetEvent::Broken(id)));
            return;
        };
        let at = agenda.now().after(delay);
        if let Some(connection) = self.connections.get_mut(&id) {
            // Nothing can arrive before the client knows that it is connected.
            connection.down.last_arrival = at;
        }
        agenda.plan(at, Event::Net(NetEvent::Connected(id)));
        match self.accepting.get(&(shard.0, listener.0)) {
            Some(token) => self.accept(shard, *token, id, agenda),
            None => self.backlog.entry((shard.0, listener.0)).or_default().push_back(id),
        }
    }

    fn accept(
        &mut self,
        shard: ShardId,
        token: Token,
        id: ConnectionId,
        agenda: &mut Agenda<Event>,
    ) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        let unused = |socket: &u32| !self.sockets.contains_key(&(shard.0, *socket));
        let socket = SocketId((0..).find(unused).expect("fewer than 2^32 sockets are open"));
        self.sockets.insert((shard.0, socket.0), Some(id));
        connection.socket = Some((shard, socket));
        let client = SocketAddr::from(([10, 0, 0, 1], 1024 + (id.0 % 60_000) as u16));
        self.complete(shard, token, Ok(Done::Accepted { socket, client }));
        self.try_receive(id, agenda);
    }

    fn arrive_down(&mut self, id: ConnectionId, piece: Piece, agenda: &mut Agenda<Event>) {
        // What was on its way when the node was lost may still arrive, or not.
        let Some(connection) = self.connections.get_mut(&id) else { return };
        if connection.dark {
            return;
        }
        let breaks = !connection.broken && self.breaks(&piece);
        let connection = self.connections.get_mut(&id).expect("just found");
        connection.down.arrive(piece);
        while let Some(bytes) = connection.down.take(usize::MAX) {
            if !connection.client_closed {
                self.told.push(ClientEvent::Bytes(id, bytes));
            }
        }
        if connection.down.ended {
            let connection = self.connections.remove(&id).expect("just found");
            if !connection.client_closed {
                self.told.push(ClientEvent::Closed(id));
            }
            return;
        }
        if breaks {
            self.break_connection(id, agenda);
        } else {
            self.pump_down(id, agenda);
        }
    }

    /// Both ends learn that the connection is no more.
    fn break_connection(&mut self, id: ConnectionId, agenda: &mut Agenda<Event>) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        connection.broken = true;
        connection.down.unsent.clear();
        connection.up.unsent.clear();
        let sending = connection.sending.take();
        if let Some((shard, _)) = connection.socket {
            if let Some(token) = sending {
                self.complete(shard, token, Err(Fault::Disconnected));
            }
            self.try_receive(id, agenda);
        }
        let delay = self.delay();
        agenda.plan_in(delay, Event::Net(NetEvent::Broken(id)));
    }

    fn try_receive(&mut self, id: ConnectionId, agenda: &mut Agenda<Event>) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        let Some((shard, _)) = connection.socket else { return };
        let Some((token, mut into)) = connection.receiving.take() else { return };
        let spare = into.capacity() - into.len();
        let most = if spare == 0 { RECEIVE_BYTES_MAX } else { spare };
        if connection.broken {
            self.complete(shard, token, Err(Fault::Disconnected));
        } else if let Some(bytes) = connection.up.take(most) {
            into.extend_from_slice(&bytes);
            self.complete(shard, token, Ok(Done::Received { bytes: into, received: bytes.len() }));
            self.pump_up(id, agenda);
        } else if connection.up.ended {
            self.complete(shard, token, Ok(Done::Received { bytes: into, received: 0 }));
        } else {
            connection.receiving = Some((token, into));
        }
    }

    fn pump_up(&mut self, id: ConnectionId, agenda: &mut Agenda<Event>) {
        let whole = self.faults.whole;
        loop {
            let delay = self.delay();
            let Some(connection) = self.connections.get_mut(&id) else { return };
            if connection.broken {
                return;
            }
            match connection.up.next_piece(agenda.now(), delay, whole, &mut self.random) {
                Some((at, piece)) => agenda.plan(at, Event::Net(NetEvent::Up(id, piece))),
                None => return,
            }
        }
    }

    fn pump_down(&mut self, id: ConnectionId, agenda: &mut Agenda<Event>) {
        let whole = self.faults.whole;
        loop {
            let delay = self.delay();
            let Some(connection) = self.connections.get_mut(&id) else { return };
            if connection.broken {
                // A send on a broken connection ends at once, badly.
                let sending = connection.sending.take();
                connection.down.unsent.clear();
                if let (Some(token), Some((shard, _))) = (sending, connection.socket) {
                    self.complete(shard, token, Err(Fault::Disconnected));
                }
                return;
            }
            match connection.down.next_piece(agenda.now(), delay, whole, &mut self.random) {
                Some((at, piece)) => agenda.plan(at, Event::Net(NetEvent::Down(id, piece))),
                None => break,
            }
        }
        let connection = self.connections.get_mut(&id).expect("it was there in the loop");
        if connection.down.unsent.is_empty()
            && let Some(token) = connection.sending.take()
        {
            let (shard, _) = connection.socket.expect("only an open socket sends");
            self.complete(shard, token, Ok(Done::Complete));
        }
    }

    fn complete(&mut self, shard: ShardId, token: Token, result: Result<Done, Fault>) {
        self.completions.push((shard, Completion { token, result }));
    }

    fn id(&self, shard: ShardId, socket: SocketId) -> ConnectionId {
        let open = self.sockets.get(&(shard.0, socket.0)).copied().flatten();
        open.unwrap_or_else(|| panic!("{shard:?} uses {socket:?}, which is not open"))
    }

    /// The connection of a socket; one that is gone on the client's side is made anew, broken.
    fn connection(&mut self, shard: ShardId, socket: SocketId) -> &mut Connection {
        let id = self.id(shard, socket);
        let random = &mut self.random;
        self.connections.entry(id).or_insert_with(|| Connection {
            socket: Some((shard, socket)),
            up: Stream::new(random),
            down: Stream::new(random),
            receiving: None,
            sending: None,
            broken: true,
            dark: true,
            refused: false,
            client_closed: true,
        })
    }

    fn live(&self, id: ConnectionId) -> bool {
        self.connections.get(&id).is_some_and(|connection| !connection.broken)
    }

    fn breaks(&mut self, piece: &Piece) -> bool {
        matches!(piece, Piece::Bytes(_)) && self.random.happens(self.faults.resets)
    }

    fn delay(&mut self) -> Duration {
        self.random.latency(Duration::from_micros(5), self.faults.delay_max)
    }
}
