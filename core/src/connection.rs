//! One client's connection: bytes in order in, replies in request order out, and back-pressure.
//!
//! Requests of one connection may be answered in any order by the shards that do the work; the
//! client sees the answers in the order it asked. So each request takes a *slot*; a slot's reply
//! leaves when all slots before it have left. When too many slots are open, or the client does not
//! take its replies, the socket is not read any more: the client feels it as a full TCP window.
//!
//! This module does no I/O: it says what to receive and send next. Start at
//! [`Connection::next_receive`].

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tidemill_net::frame::{self, FrameError};
use tidemill_perf::{MEASURING, Stage as RequestStage};
use tidemill_runtime::edge::{Instant, RECEIVE_BYTES_MAX, SocketId};

use crate::budget::Budget;
use crate::limits::{
    FRAME_BYTES_FIRST_ALLOCATION, REPLY_BYTES_PER_CONNECTION_MAX, REQUESTS_PER_CONNECTION_MAX,
};
use crate::measure::Measured;

/// A connection of this shard, by a name that is never used twice.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct ConnectionId {
    /// Its place in the shard's table.
    pub index: usize,
    /// Counts all connections of the shard.
    pub serial: u64,
}

/// Where the reply to one request goes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct ReplySlot {
    /// Which connection.
    pub connection: ConnectionId,
    /// Which of its requests, counted from 0.
    pub number: u64,
}

/// The state of one client's connection.
pub struct Connection {
    /// Its name.
    pub id: ConnectionId,
    /// Its socket.
    pub socket: SocketId,
    /// Who it is.
    pub client: SocketAddr,
    /// What the client calls its software (KIP-511), once told.
    pub software: Option<String>,
    /// What the client calls itself, once it has said so.
    pub client_id: Option<Box<str>>,
    /// When the last bytes arrived, or the last ones sent were taken.
    pub last_active: Instant,
    frame_bytes_max: usize,
    incoming: BytesMut,
    /// When the newest of `incoming` arrived, in ticks.
    received_at: u64,
    /// When the first byte of `incoming` arrived, in ticks.
    began_at: u64,
    /// What the large request half received here has claimed of the budget.
    frame_claim: usize,
    /// Since when the rest of a request is being waited for.
    frame_since: Option<Instant>,
    /// In the order of the requests; the replies of the first `leaving` of them are being sent.
    slots: VecDeque<Slot>,
    first_slot: u64,
    leaving: usize,
    ready_bytes: usize,
    receiving: bool,
    /// Before this it is not read: its client has spent more than its quota.
    muted_until: Option<Instant>,
    sending: usize,
    stage: Stage,
}

/// A request, until its reply has left.
struct Slot {
    measured: Measured,
    reply: Reply,
}

enum Reply {
    /// With the bytes its request holds of the budget.
    Working(usize),
    Ready(Vec<Bytes>),
    /// The socket is taking it.
    Leaving,
    /// acks=0: nothing is sent.
    Silent,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Stage {
    Open,
    /// No more requests are read; closed when the last reply has left.
    Draining,
    /// Nothing of it is answered any more.
    Broken,
    /// The close has been asked for.
    Closing,
}

/// Where to receive next.
#[derive(Debug)]
pub enum Receive {
    /// Into this.
    Into(BytesMut),
    /// Nowhere until some of the budget is given back.
    Stalled,
    /// Nowhere now.
    Nothing,
}

/// What may be taken off the received bytes.
#[derive(Debug)]
pub enum Taken {
    /// A whole request, without its length prefix.
    Frame(BytesMut),
    /// Nothing now: more bytes or free slots are needed first.
    Nothing,
    /// The stream cannot be understood any more: close.
    Broken(FrameError),
}

/// What has come of a request whose slot was filled.
#[derive(Debug)]
pub enum Filled<'a> {
    /// Its reply is sent when it is its turn.
    ToBeSent,
    /// It ends here: no reply is due.
    Silently {
        /// What was measured of it.
        measured: &'a Measured,
        /// What its client calls itself.
        client_id: &'a str,
    },
}

impl Connection {
    /// A connection that has just been accepted.
    pub fn new(
        id: ConnectionId,
        socket: SocketId,
        client: SocketAddr,
        frame_bytes_max: usize,
        now: Instant,
    ) -> Self {
        Self {
            id,
            socket,
            client,
            software: None,
            client_id: None,
            last_active: now,
            frame_bytes_max,
            incoming: BytesMut::new(),
            received_at: 0,
            began_at: 0,
            frame_claim: 0,
            frame_since: None,
            slots: VecDeque::new(),
            first_slot: 0,
            leaving: 0,
            ready_bytes: 0,
            receiving: false,
            muted_until: None,
            sending: 0,
            stage: Stage::Open,
        }
    }

    /// Where to receive into, if the client may send more now.
    ///
    /// With a large frame half there, its rest is received in place; otherwise the edge lends its
    /// own buffer, so that an idle connection holds none. When the budget is used up, a client
    /// that already holds some of it is not read: [`Receive::Stalled`].
    pub fn next_receive(&mut self, budget: &mut Budget, now: Instant) -> Receive {
        if self.receiving {
            return Receive::Nothing;
        }
        let since = self.frame_since.take();
        if self.stage != Stage::Open || !self.has_room() {
            return Receive::Nothing;
        }
        let size = match frame::frame_size(&self.incoming, self.frame_bytes_max) {
            Ok(Some(size)) => size,
            Ok(None) | Err(_) => 0,
        };
        let missing = size.saturating_sub(self.incoming.len());
        if missing <= RECEIVE_BYTES_MAX {
            let holds_some = 0 < self.slots_open() || 0 < self.ready_bytes;
            if holds_some && !budget.has_room() && self.incoming.is_empty() {
                return Receive::Stalled;
            }
            self.receiving = true;
            // While it is not read, the client is not the one who is slow.
            self.frame_since = (!self.incoming.is_empty()).then(|| since.unwrap_or(now));
            return Receive::Into(BytesMut::new());
        }
        if self.frame_claim == 0 {
            if !budget.try_take_request(size) {
                return Receive::Stalled;
            }
            self.frame_claim = size;
        }
        self.receiving = true;
        self.frame_since = Some(since.unwrap_or(now));
        // What a client merely claims is not allocated at once: the buffer doubles as it fills.
        let step = missing.min(self.incoming.len().max(FRAME_BYTES_FIRST_ALLOCATION));
        let mut into = std::mem::take(&mut self.incoming);
        into.reserve(step);
        Receive::Into(into)
    }

    /// Bytes arrived in what [`Connection::next_receive`] gave out; none means the end.
    ///
    /// `stamp` is the time of the arrival in ticks.
    pub fn received(&mut self, bytes: BytesMut, now: Instant, stamp: u64) {
        self.receiving = false;
        self.received_at = stamp;
        self.last_active = now;
        if self.incoming.is_empty() {
            self.began_at = stamp;
            self.incoming = bytes;
        } else {
            self.incoming.extend_from_slice(&bytes);
        }
    }

    /// The receive ended without bytes: the client is gone or has said all.
    pub fn receive_ended(&mut self) {
        self.receiving = false;
        self.drain();
    }

    /// The next whole request, if there is one and a slot for it.
    pub fn take_frame(&mut self) -> Taken {
        if self.stage != Stage::Open || !self.has_room() || self.receiving {
            return Taken::Nothing;
        }
        match frame::frame_size(&self.incoming, self.frame_bytes_max) {
            Ok(Some(size)) if size <= self.incoming.len() => {
                self.frame_since = None;
                let mut frame = self.incoming.split_to(size);
                let _prefix = frame.split_to(frame::LENGTH_BYTES);
                Taken::Frame(frame)
            }
            Ok(_) => Taken::Nothing,
            Err(error) => Taken::Broken(error),
        }
    }

    /// Opens the slot for the reply to a request of `request_bytes` that was just taken, at this
    /// stamp: it began when its first byte arrived.
    pub fn open_slot(
        &mut self,
        request_bytes: usize,
        stamp: u64,
        budget: &mut Budget,
    ) -> ReplySlot {
        // A large request has claimed its bytes before they came.
        let held = match std::mem::take(&mut self.frame_claim) {
            0 => {
                budget.take_request(request_bytes);
                request_bytes
            }
            claimed => claimed,
        };
        let number = self.first_slot + self.slots.len() as u64;
        // What lies behind it arrived with its last byte.
        let began_at = std::mem::replace(&mut self.began_at, self.received_at);
        let mut measured = Measured::begin(began_at, request_bytes as u32);
        measured.stamps.end(RequestStage::Receive, stamp);
        self.slots.push_back(Slot { measured, reply: Reply::Working(held) });
        ReplySlot { connection: self.id, number }
    }

    /// What is measured of the request whose reply goes into this slot, until that has left.
    #[inline]
    pub fn measured(&mut self, number: u64) -> Option<&mut Measured> {
        let index = number.wrapping_sub(self.first_slot);
        self.slots.get_mut(index as usize).map(|slot| &mut slot.measured)
    }

    /// Fills a slot; an empty reply means that the client expects none. `ended` is the last stage
    /// before that, and when it ended.
    ///
    /// The request's bytes are given back to the budget, the reply's taken until it is sent.
    pub fn fill_slot(
        &mut self,
        number: u64,
        ended: Option<(RequestStage, u64)>,
        parts: Vec<Bytes>,
        budget: &mut Budget,
    ) -> Filled<'_> {
        let index = (number - self.first_slot) as usize;
        let slot = self.slots.get_mut(index).expect("a slot is filled once, after it was opened");
        let Reply::Working(held) = slot.reply else { unreachable!("a request is answered once") };
        let reply_bytes: usize = parts.iter().map(Bytes::len).sum();
        budget.release_request(held);
        budget.take_reply(reply_bytes);
        self.ready_bytes += reply_bytes;
        if let Some((stage, at)) = ended {
            slot.measured.stamps.end(stage, at);
        }
        if parts.is_empty() {
            slot.reply = Reply::Silent;
            let client_id = self.client_id.as_deref().unwrap_or_default();
            return Filled::Silently { measured: &slot.measured, client_id };
        }
        slot.reply = Reply::Ready(parts);
        Filled::ToBeSent
    }

    /// What to send next: all replies at the front that are ready. At most one send at a time.
    pub fn next_send(&mut self) -> Option<Vec<Bytes>> {
        if 0 < self.leaving || matches!(self.stage, Stage::Broken | Stage::Closing) {
            return None;
        }
        let mut parts = Vec::new();
        for slot in &mut self.slots {
            match &mut slot.reply {
                Reply::Working(_) => break,
                Reply::Leaving => unreachable!("one send at a time"),
                Reply::Silent => {}
                Reply::Ready(reply) => {
                    // Mostly there is one.
                    match parts.is_empty() {
                        true => parts = std::mem::take(reply),
                        false => parts.append(reply),
                    }
                    slot.reply = Reply::Leaving;
                }
            }
            self.leaving += 1;
        }
        if parts.is_empty() {
            self.close_slots();
            return None;
        }
        self.sending = parts.iter().map(Bytes::len).sum();
        Some(parts)
    }

    /// The send has ended. If it went well, `answered` takes what was measured of each request
    /// that is answered by it, and the name of the client. Tells how many bytes were taken.
    pub fn sent(
        &mut self,
        well: bool,
        budget: &mut Budget,
        mut answered: impl FnMut(&mut Measured, &str),
    ) -> usize {
        let bytes = std::mem::take(&mut self.sending);
        budget.release_reply(bytes);
        self.ready_bytes -= bytes;
        if !well {
            self.drain();
            self.close_slots();
            // Nobody takes replies any more.
            self.slots.iter_mut().for_each(|slot| {
                if let Reply::Ready(_) = slot.reply {
                    slot.reply = Reply::Silent;
                }
            });
            return 0;
        }
        for _ in 0..std::mem::take(&mut self.leaving) {
            let slot = self.slots.front_mut().expect("its reply was being sent");
            if MEASURING && let Reply::Leaving = slot.reply {
                answered(&mut slot.measured, self.client_id.as_deref().unwrap_or_default());
            }
            self.close_slot();
        }
        bytes
    }

    /// Closes the slots of the replies that were being sent.
    fn close_slots(&mut self) {
        for _ in 0..std::mem::take(&mut self.leaving) {
            self.close_slot();
        }
    }

    /// Closes the first slot. What its reply holds is dropped where it lies, so that nothing of a
    /// slot has to be moved out for that.
    fn close_slot(&mut self) {
        if let Some(slot) = self.slots.front_mut() {
            slot.reply = Reply::Silent;
        }
        std::mem::forget(self.slots.pop_front());
        self.first_slot += 1;
    }

    /// How many requests wait for their reply, beside those whose replies are being sent.
    fn slots_open(&self) -> usize {
        self.slots.len() - self.leaving
    }

    /// Reads nothing before `until`; false if it is so already. Replies leave all the same, so that
    /// the client knows (KIP-219).
    pub fn mute(&mut self, until: Instant) -> bool {
        let longer = self.muted_until.is_none_or(|muted| muted < until);
        if longer {
            self.muted_until = Some(until);
        }
        longer
    }

    /// Reads again if its time has come.
    pub fn unmute(&mut self, now: Instant) {
        self.muted_until = self.muted_until.filter(|until| now < *until);
    }

    /// Reads no more requests; the connection closes when its open slots are answered.
    pub fn drain(&mut self) {
        if self.stage == Stage::Open {
            self.stage = Stage::Draining;
            self.incoming = BytesMut::new();
        }
    }

    /// A request that was taken cannot be understood, and is not answered.
    pub fn give_up(&mut self, number: u64, budget: &mut Budget) {
        let index = (number - self.first_slot) as usize;
        let slot = self.slots.get_mut(index).expect("it was just opened");
        let Reply::Working(held) = slot.reply else { unreachable!("nobody has answered it") };
        budget.release_request(held);
        slot.reply = Reply::Silent;
    }

    /// Answers nobody any more: nobody is there.
    pub fn break_off(&mut self) {
        if self.stage != Stage::Closing {
            self.incoming = BytesMut::new();
            self.stage = Stage::Broken;
        }
    }

    /// Whether the socket should be closed now.
    pub fn should_close(&self) -> bool {
        match self.stage {
            Stage::Open | Stage::Closing => false,
            Stage::Draining => self.slots.is_empty(),
            Stage::Broken => true,
        }
    }

    /// Gives back whatever this connection still holds of the budget: it is gone.
    pub fn release(&self, budget: &mut Budget) {
        let working = self.slots.iter().map(|slot| match slot.reply {
            Reply::Working(held) => held,
            Reply::Ready(_) | Reply::Leaving | Reply::Silent => 0,
        });
        budget.release_request(working.sum::<usize>() + self.frame_claim);
        budget.release_reply(self.ready_bytes);
    }

    /// The close is being submitted; false if it was before.
    pub fn begin_close(&mut self) -> bool {
        let first = self.stage != Stage::Closing;
        self.stage = Stage::Closing;
        first
    }

    /// Whether the rest of a request has been waited for since `limit` ago or longer: it holds
    /// memory that others wait for.
    pub fn is_request_overdue(&self, now: Instant, limit: Duration) -> bool {
        self.receiving && self.frame_since.is_some_and(|since| limit <= now.since(since))
    }

    /// Whether the client owes nothing and is owed nothing.
    pub fn is_idle(&self) -> bool {
        // Half a request or replies nobody takes are no sign of life.
        !self.slots.iter().any(|slot| matches!(slot.reply, Reply::Working(_)))
    }

    /// Whether a whole request is at hand, and a slot for it.
    pub fn has_frame(&self) -> bool {
        if self.stage != Stage::Open || self.receiving || !self.has_room() {
            return false;
        }
        match frame::frame_size(&self.incoming, self.frame_bytes_max) {
            Ok(size) => size.is_some_and(|size| size <= self.incoming.len()),
            Err(_) => true,
        }
    }

    fn has_room(&self) -> bool {
        self.slots_open() < REQUESTS_PER_CONNECTION_MAX
            && self.ready_bytes < REPLY_BYTES_PER_CONNECTION_MAX
            && self.muted_until.is_none()
    }
}

#[cfg(test)]
mod tests;
