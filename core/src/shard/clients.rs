//! The clients of one shard: their connections from the first byte to the last.
//!
//! A connection is *touched* when something happened to it; at the end of a turn each touched one
//! sends what is ready, is closed if it is done, and reads on if there is room.
//!
//! Start reading at [`Shard::serve_connections`].

use bytes::Bytes;
use tidemill_perf::Stage as RequestStage;
use tidemill_runtime::edge::{Done, Edge, Fault, Instant, Op};

use super::{Shard, Stage};
use crate::connection::{Connection, ConnectionId, Filled, Receive, ReplySlot, Taken};
use crate::limits::{
    CLIENT_ID_BYTES_KEPT, REQUESTS_PER_CONNECTION_AND_TURN_MAX, REQUESTS_UNDER_WAY_MAX,
};
use crate::message::Message;
use crate::partition::Times;
use crate::token::{TokenKind, token};
use crate::topic_rules;

impl Shard {
    pub(super) fn accepted<E: Edge<Message = Message>>(
        &mut self,
        result: Result<Done, Fault>,
        times: Times,
        edge: &mut E,
    ) {
        let (socket, client) = match result {
            Ok(Done::Accepted { socket, client }) => (socket, client),
            Ok(_) => return,
            Err(fault) => {
                if self.stage == Stage::Serving {
                    tracing::warn!(?fault, "a connection could not be taken");
                }
                return;
            }
        };
        let entry = self.connections.vacant_entry();
        let id = ConnectionId { index: entry.key(), serial: self.connections_made };
        self.connections_made += 1;
        let index = id.index;
        let limit = self.settings.config.request_bytes_max as usize;
        entry.insert(Connection::new(id, socket, client, limit, times.now));
        let set = topic_rules::node_number("max.connections", &self.settings, &self.image);
        let set = set.and_then(|number| usize::try_from(number).ok());
        let allowed = set.unwrap_or(self.settings.config.connections_max as usize);
        let share = allowed.div_ceil(usize::from(self.settings.shards));
        if self.stage != Stage::Serving {
            tracing::debug!(%client, "refused: this node stops");
            return self.close(index, edge);
        }
        if share < self.connections.len() {
            tracing::warn!(%client, "refused: max.connections are open");
            return self.close(index, edge);
        }
        self.touched.push(index);
    }

    pub(super) fn received(&mut self, index: usize, result: Result<Done, Fault>, times: Times) {
        let connection = self.connections.get_mut(index).expect("open until quiet");
        match result {
            Ok(Done::Received { bytes, received }) if 0 < received => {
                self.measures.meter.traffic.bytes_in += received as u64;
                // It was there when the turn began.
                connection.received(bytes, times.now, self.stamped);
            }
            Ok(_) => connection.receive_ended(),
            Err(_) => {
                connection.receive_ended();
                connection.break_off();
            }
        }
        self.touched.push(index);
    }

    /// Clients have taken replies, or will take none any more.
    pub(super) fn sent(&mut self, index: usize, well: bool) {
        // They had taken them when the turn began.
        let now = self.stamped;
        let connection = self.connections.get_mut(index).expect("open until quiet");
        let bytes = connection.sent(well, &mut self.budget, |measured, client_id| {
            measured.stamps.end(RequestStage::Respond, now);
            self.measures.ended(measured, now, client_id, &self.image);
        });
        connection.last_active = self.now;
        self.measures.meter.traffic.bytes_out += bytes as u64;
        self.touched.push(index);
    }

    /// Takes whole requests off the received bytes, and tells how many. A busy connection leaves
    /// the rest for the next turn, so that it does not hold up the others.
    pub(super) fn take_requests(&mut self, times: Times) -> usize {
        let mut requests = 0;
        // Jobs answered at once touch their connections again, behind these.
        for place in 0..self.touched.len() {
            let index = self.touched[place];
            for _ in 0..REQUESTS_PER_CONNECTION_AND_TURN_MAX {
                if self.held_back || REQUESTS_UNDER_WAY_MAX <= self.jobs.len() {
                    break;
                }
                let Some(connection) = self.connections.get_mut(index) else { break };
                match connection.take_frame() {
                    Taken::Frame(frame) => {
                        requests += 1;
                        // The clock was read at the end of the request before it.
                        let now = self.stamped;
                        let slot = connection.open_slot(frame.len(), now, &mut self.budget);
                        let is_named = connection.client_id.is_some();
                        if let Err(error) = self.dispatch(slot, is_named, frame, times) {
                            self.refuse(index, &error);
                            self.connections[index].give_up(slot.number, &mut self.budget);
                            break;
                        }
                    }
                    Taken::Nothing => break,
                    Taken::Broken(error) => {
                        self.refuse(index, &error);
                        break;
                    }
                }
            }
        }
        requests
    }

    /// The client's bytes cannot be answered: it is not listened to any more, and gets the answers to
    /// what it asked before.
    fn refuse(&mut self, index: usize, error: &dyn std::fmt::Display) {
        let connection = &mut self.connections[index];
        tracing::warn!(client = %connection.client, %error, "connection closed");
        connection.drain();
    }

    /// Fills the slot of a request; no parts mean that the client expects no reply. `ended` is the
    /// last stage before that, and when it ended.
    pub(crate) fn reply(
        &mut self,
        slot: ReplySlot,
        ended: Option<(RequestStage, u64)>,
        parts: Vec<Bytes>,
    ) {
        let ReplySlot { connection: id, number } = slot;
        let connection = self.connections.get_mut(id.index).filter(|c| c.id == id);
        let Some(connection) = connection else { return };
        match connection.fill_slot(number, ended, parts, &mut self.budget) {
            Filled::ToBeSent => {}
            // Nothing is sent at whose end it would be counted.
            Filled::Silently { measured, client_id } => {
                self.measures.ended_silently(measured, self.stamped, client_id, &self.image);
            }
        }
        self.touched.push(slot.connection.index);
    }

    /// Remembers what a client calls itself, for those who look at slow requests.
    pub(crate) fn note_client_id(&mut self, slot: ReplySlot, client_id: Option<&str>) {
        if let Some(connection) = self.connection_mut(slot.connection) {
            let name = client_id.unwrap_or_default();
            connection.client_id =
                Some(name[..name.floor_char_boundary(CLIENT_ID_BYTES_KEPT)].into());
        }
    }

    /// Ends a connection because of what one of its requests led to (acks=0 that failed), once the
    /// others are answered.
    pub(crate) fn drain(&mut self, slot: ReplySlot) {
        if let Some(connection) = self.connection_mut(slot.connection) {
            connection.drain();
            self.touched.push(slot.connection.index);
        }
    }

    /// Sends what is ready, closes what is done, reads where there is room.
    pub(super) fn serve_connections<E: Edge<Message = Message>>(
        &mut self,
        now: Instant,
        edge: &mut E,
    ) {
        let spare = std::mem::take(&mut self.spare_touched);
        let mut touched = std::mem::replace(&mut self.touched, spare);
        if self.budget.take_freed() {
            touched.append(&mut self.stalled);
        }
        touched.sort_unstable();
        touched.dedup();
        for index in touched.drain(..) {
            let Some(connection) = self.connections.get_mut(index) else { continue };
            if let Some(parts) = connection.next_send() {
                let socket = connection.socket;
                edge.submit(token(TokenKind::Send, index), Op::Send { socket, parts });
            }
            if connection.should_close() {
                self.close(index, edge);
                continue;
            }
            if connection.has_frame() {
                // Its turn comes again with the next one.
                self.touched.push(index);
                continue;
            }
            match connection.next_receive(&mut self.budget, now) {
                Receive::Into(into) => {
                    let socket = connection.socket;
                    edge.submit(token(TokenKind::Receive, index), Op::Receive { socket, into });
                }
                Receive::Stalled => self.stalled.push(index),
                Receive::Nothing => {}
            }
        }
        self.spare_touched = touched;
    }

    fn close<E: Edge<Message = Message>>(&mut self, index: usize, edge: &mut E) {
        let connection = &mut self.connections[index];
        let socket = connection.socket;
        if connection.begin_close() {
            edge.submit(token(TokenKind::Close, index), Op::CloseSocket { socket });
        }
    }

    pub(super) fn close_idle<E: Edge<Message = Message>>(&mut self, times: Times, edge: &mut E) {
        let Some(limit) = self.settings.config.connection_idle else { return };
        let idle: Vec<usize> = self
            .connections
            .iter()
            .filter(|(_, c)| c.is_idle() && limit <= times.now.since(c.last_active))
            .map(|(index, _)| index)
            .collect();
        for index in idle {
            self.close(index, edge);
        }
    }

    pub(super) fn close_overdue<E: Edge<Message = Message>>(&mut self, now: Instant, edge: &mut E) {
        let Some(limit) = self.settings.config.request_receive else { return };
        let overdue = self.connections.iter().filter(|(_, c)| c.is_request_overdue(now, limit));
        let overdue: Vec<usize> = overdue.map(|(index, _)| index).collect();
        for index in overdue {
            let client = self.connections[index].client;
            let limit_ms = limit.as_millis() as u64;
            tracing::warn!(%client, limit_ms, "connection closed: a request came too slowly");
            self.close(index, edge);
        }
    }
}
