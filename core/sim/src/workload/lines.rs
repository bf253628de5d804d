//! A client's connections: requests out, answers in, in order, with timeouts.
//!
//! As with real clients, a connection on which an answer is overdue is given up, and with it all
//! that was asked on it: what became of those requests is not known.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use tidemill_net::frame::{LENGTH_BYTES, frame_size};
use tidemill_runtime::edge::Instant;

use crate::checker::{Violation, check};
use crate::network::{ClientEvent, ConnectionId};
use crate::world::Port;

const FRAME_BYTES_MAX: usize = 64 << 20;

/// The connections of one client, one for each port, with what was asked on each.
#[derive(Debug)]
pub(crate) struct Lines<A> {
    lines: BTreeMap<u16, Line<A>>,
    next_correlation: i32,
    timeout: Duration,
}

#[derive(Debug)]
struct Line<A> {
    connection: ConnectionId,
    connected: bool,
    unsent: BytesMut,
    received: BytesMut,
    asked: VecDeque<Asked<A>>,
}

#[derive(Debug)]
struct Asked<A> {
    correlation: i32,
    at: Instant,
    ask: A,
}

/// What became of requests.
#[derive(Debug)]
pub(crate) enum Heard<A> {
    /// An answer: the frame without its length.
    Answer(A, Bytes),
    /// No answer will come.
    Lost(A),
}

impl<A> Lines<A> {
    pub(crate) fn new(timeout: Duration) -> Self {
        Self { lines: BTreeMap::new(), next_correlation: 0, timeout }
    }

    /// Sends a request to a port of the node, connecting first if need be. `encode` is given the
    /// correlation id. Without `ask` no answer is expected.
    pub(crate) fn ask(
        &mut self,
        to: u16,
        ask: Option<A>,
        port: &mut Port<'_>,
        encode: impl FnOnce(&mut BytesMut, i32),
    ) {
        self.open(to, port);
        let line = self.lines.get_mut(&to).expect("it has just been opened");
        self.next_correlation += 1;
        encode(&mut line.unsent, self.next_correlation);
        if let Some(ask) = ask {
            let correlation = self.next_correlation;
            line.asked.push_back(Asked { correlation, at: port.now(), ask });
        }
        line.flush(port);
    }

    /// Connects to a port, if there is no connection yet.
    pub(crate) fn open(&mut self, to: u16, port: &mut Port<'_>) -> ConnectionId {
        let line = self.lines.entry(to).or_insert_with(|| Line {
            connection: port.connect(to),
            connected: false,
            unsent: BytesMut::new(),
            received: BytesMut::new(),
            asked: VecDeque::new(),
        });
        line.connection
    }

    /// The connection to a port, if there is one.
    pub(crate) fn connection(&self, to: u16) -> Option<ConnectionId> {
        self.lines.get(&to).map(|line| line.connection)
    }

    /// How many requests wait for their answer at a port.
    pub(crate) fn in_flight(&self, to: u16) -> usize {
        self.lines.get(&to).map_or(0, |line| line.asked.len())
    }

    /// How many requests wait for their answer.
    pub(crate) fn all_in_flight(&self) -> usize {
        self.lines.values().map(|line| line.asked.len()).sum()
    }

    /// Takes in what happened to one of the connections.
    pub(crate) fn handle(
        &mut self,
        event: ClientEvent,
        port: &mut Port<'_>,
    ) -> Result<Vec<Heard<A>>, Violation> {
        match event {
            ClientEvent::Connected(id) => {
                if let Some((_, line)) = self.line(id) {
                    line.connected = true;
                    line.flush(port);
                }
                Ok(Vec::new())
            }
            ClientEvent::Bytes(id, bytes) => match self.line(id) {
                Some((_, line)) => line.receive(&bytes),
                None => Ok(Vec::new()),
            },
            ClientEvent::Closed(id) => match self.line(id) {
                Some((to, _)) => Ok(self.give_up(to)),
                None => Ok(Vec::new()),
            },
            ClientEvent::Woken(_) => Ok(Vec::new()),
        }
    }

    /// Gives up connections on which an answer is overdue.
    pub(crate) fn expire(&mut self, port: &mut Port<'_>) -> Vec<Heard<A>> {
        let (now, timeout) = (port.now(), self.timeout);
        let overdue =
            |line: &Line<A>| line.asked.front().is_some_and(|asked| timeout <= now.since(asked.at));
        let late: Vec<u16> =
            self.lines.iter().filter(|(_, line)| overdue(line)).map(|(to, _)| *to).collect();
        let mut heard = Vec::new();
        for to in late {
            port.close(self.lines[&to].connection);
            heard.extend(self.give_up(to));
        }
        heard
    }

    /// Closes a connection, whatever waits on it.
    pub(crate) fn hang_up(&mut self, to: u16, port: &mut Port<'_>) -> Vec<Heard<A>> {
        if let Some(line) = self.lines.get(&to) {
            port.close(line.connection);
        }
        self.give_up(to)
    }

    /// The ports there is a connection to.
    pub(crate) fn ports(&self) -> Vec<u16> {
        self.lines.keys().copied().collect()
    }

    fn give_up(&mut self, to: u16) -> Vec<Heard<A>> {
        let line = self.lines.remove(&to);
        line.into_iter().flat_map(|line| line.asked).map(|asked| Heard::Lost(asked.ask)).collect()
    }

    fn line(&mut self, id: ConnectionId) -> Option<(u16, &mut Line<A>)> {
        let found = self.lines.iter_mut().find(|(_, line)| line.connection == id);
        found.map(|(to, line)| (*to, line))
    }
}

impl<A> Line<A> {
    fn flush(&mut self, port: &mut Port<'_>) {
        if self.connected && !self.unsent.is_empty() {
            port.send(self.connection, self.unsent.split().freeze());
        }
    }

    fn receive(&mut self, bytes: &[u8]) -> Result<Vec<Heard<A>>, Violation> {
        self.received.extend_from_slice(bytes);
        let mut heard = Vec::new();
        loop {
            let size = frame_size(&self.received, FRAME_BYTES_MAX).map_err(|error| Violation {
                rule: "answers are frames",
                evidence: error.to_string(),
            })?;
            let Some(size) = size.filter(|size| *size <= self.received.len()) else { break };
            let mut frame = self.received.split_to(size).freeze();
            frame.advance(LENGTH_BYTES);
            let correlation = frame.first_chunk().map(|id| i32::from_be_bytes(*id));
            let asked = self.asked.pop_front().ok_or_else(|| Violation {
                rule: "every answer has its request",
                evidence: format!("an answer with correlation {correlation:?}"),
            })?;
            check(correlation == Some(asked.correlation), "answers keep the order", || {
                format!("asked {}, answered {correlation:?}", asked.correlation)
            })?;
            heard.push(Heard::Answer(asked.ask, frame));
        }
        Ok(heard)
    }
}
