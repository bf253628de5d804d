//! One connection of a shard of the load generator, and its ops.

use std::net::TcpStream;

use tidemill_client::Connection;
use tidemill_runtime::edge::{Edge, Instant, Op, SocketId, Token};
use tidemill_runtime::ring::RingEdge;

use super::{Part, Tag, client_time};
use crate::plan::Plan;
use crate::rejoin::Rejoined;
use crate::tally::Ends;

/// One connection, and what it does.
pub(super) struct Link {
    pub socket: SocketId,
    /// How often it was made: what is told of an earlier socket is no news.
    pub generation: u32,
    pub partition: i32,
    pub connection: Connection<Tag>,
    pub part: Part,
    pub sending: bool,
    pub open: bool,
    /// Since when there is no broker to speak to.
    pub down_since: Option<Instant>,
    /// What it was told cannot be trusted: it is not used any more.
    pub given_up: bool,
    /// A producer that has told that it is settled.
    pub told_settled: bool,
    /// The earliest wake that is in the heap.
    pub wake: Option<Instant>,
    pub is_touched: bool,
}

/// What an op of a link was, in the last bits of its token.
const RECEIVED: u64 = 0;
const SENT: u64 = 1;
pub(super) const CLOSED: u64 = 2;

/// So many links one shard can have: the rest of a token is their generation.
pub(super) const LINK_BITS: u32 = 30;

impl Link {
    pub(super) fn token(&self, i: usize, what: u64) -> Token {
        Token(u64::from(self.generation) << (LINK_BITS + 2) | (i as u64) << 2 | what)
    }

    pub(super) fn adopt(
        &mut self,
        i: usize,
        stream: TcpStream,
        now: Instant,
        edge: &mut RingEdge<Rejoined>,
    ) {
        self.socket = edge.adopt(stream);
        self.connection.handle_connected(client_time(now));
        self.receive(i, edge);
    }

    pub(super) fn handle_ready(&mut self, plan: &Plan, ends: &mut Ends, now: Instant) {
        if let Some(since) = self.down_since.take() {
            let away = now.since(since).as_secs_f64();
            ends.recoveries.note(plan.seconds(now), format!("connected again after {away:.1} s"));
        }
        if let Part::Produce(producing) = &mut self.part {
            producing.handle_rejoined(now);
        }
    }

    /// Whether there is nothing left to do for it.
    pub(super) fn is_done(&self) -> bool {
        match &self.part {
            Part::Produce(_) => self.told_settled,
            Part::Follow(following) => following.is_done(),
        }
    }

    pub(super) fn receive(&mut self, i: usize, edge: &mut RingEdge<Rejoined>) {
        if self.open {
            let into = self.connection.take_input();
            edge.submit(self.token(i, RECEIVED), Op::Receive { socket: self.socket, into });
        }
    }

    pub(super) fn is_sent(&self) -> bool {
        !self.sending && self.connection.unsent_bytes() == 0
    }

    pub(super) fn flush(&mut self, i: usize, edge: &mut RingEdge<Rejoined>) {
        if self.sending || !self.open || self.connection.unsent_bytes() == 0 {
            return;
        }
        let mut parts = Vec::new();
        self.connection.take_output(&mut parts);
        self.sending = true;
        edge.submit(self.token(i, SENT), Op::Send { socket: self.socket, parts });
    }
}
