//! A shard's sockets: connections taken, bytes received and sent, and the orderly end of each.
//!
//! A listener that cannot take connections now, because no more files may be open for one, says so
//! and tries again after a pause: connections wait in the kernel's queue meanwhile.

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use io_uring::cqueue;

use super::RingEdge;
use crate::edge::{Done, Fault, SocketId, Token};
use crate::fault::fault_of_socket;
use crate::flight::{Outgoing, Task};
use crate::socket::peer_address;

/// Empty lists of parts are kept for the next sends up to this number.
const SPARE_OUTGOING_MAX: usize = 256;
/// How long a listener pauses after it could not take a connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

pub(super) struct Socket {
    pub(super) fd: OwnedFd,
    pub(super) slot: Option<u32>,
    pub(super) receiving: bool,
    pub(super) sending: bool,
    /// There were more bytes than the last receive took.
    pub(super) more_waits: bool,
    pub(super) closing: Option<Token>,
}

impl<M> RingEdge<M> {
    pub(super) fn handle_accept(&mut self, key: usize, result: i32, flags: u32) {
        let token = self.flights[key].token;
        if 0 <= result {
            // SAFETY: the kernel has just made this descriptor for us.
            let fd = unsafe { OwnedFd::from_raw_fd(result) };
            // Without a peer it is gone already, and nobody needs to know.
            if let Ok(client) = peer_address(fd.as_raw_fd()) {
                let socket = self.add_socket(fd);
                self.complete(token, Ok(Done::Accepted { socket, client }));
            }
        } else if !was_one_connection(-result) {
            self.complete(token, Err(fault_of_socket(-result)));
            self.paused_accepts.push_back((self.now.after(ACCEPT_PAUSE), key));
            return;
        }
        if !cqueue::more(flags) {
            self.launch_again(key);
        }
    }

    /// Takes over a connection that was made elsewhere, to another node or by a client program.
    pub fn adopt(&mut self, stream: std::net::TcpStream) -> SocketId {
        // The ring waits by itself; a non-blocking socket would make it give up at once.
        stream.set_nonblocking(false).expect("an open socket can be made to block");
        self.add_socket(stream.into())
    }

    fn add_socket(&mut self, fd: OwnedFd) -> SocketId {
        let slot = match self.registered.sockets_too {
            true => self.registered.add(&self.submission, fd.as_raw_fd()),
            false => None,
        };
        let socket = self.sockets.insert(Socket {
            fd,
            slot,
            receiving: false,
            sending: false,
            more_waits: false,
            closing: None,
        });
        SocketId(socket as u32)
    }

    /// Lets listeners try again whose pause is over.
    pub(super) fn resume_accepts(&mut self) {
        while let Some(&(at, key)) = self.paused_accepts.front()
            && at <= self.now
        {
            self.paused_accepts.pop_front();
            self.launch_again(key);
        }
    }

    pub(super) fn handle_receive(&mut self, key: usize, result: i32, flags: u32) {
        if result == -libc::ENOBUFS {
            // All lent buffers were taken in this turn; they are back by now.
            return self.launch_again(key);
        }
        let flight = self.land(key);
        let Task::Receive { socket: socket_key, into: mut bytes } = flight.task else {
            unreachable!("the caller has looked")
        };
        let socket = &mut self.sockets[socket_key];
        socket.receiving = false;
        socket.more_waits = cqueue::sock_nonempty(flags);
        let closing = socket.closing.is_some();
        let received = result.max(0) as usize;
        match cqueue::buffer_select(flags) {
            Some(id) => {
                bytes.extend_from_slice(self.lent.filled(id, received));
                self.lent.give_back(id);
            }
            None if received != 0 => {
                // SAFETY: the kernel has written that many bytes into the spare capacity.
                unsafe { bytes.set_len(bytes.len() + received) };
            }
            None => {}
        }
        let outcome = match result {
            _ if closing => Err(Fault::Disconnected),
            ..0 => Err(fault_of_socket(-result)),
            _ => Ok(Done::Received { bytes, received }),
        };
        self.complete(flight.token, outcome);
        self.settle_close(socket_key);
    }

    pub(super) fn handle_send(&mut self, key: usize, result: i32) {
        let Task::Send { socket, outgoing } = &mut self.flights[key].task else {
            unreachable!("the caller has looked")
        };
        let socket_key = *socket;
        let closing = self.sockets[socket_key].closing.is_some();
        let outcome = match result {
            ..0 => Err(fault_of_socket(-result)),
            0 => Err(Fault::Disconnected),
            taken => {
                outgoing.advance(taken as usize);
                match outgoing.is_done() {
                    true => Ok(Done::Complete),
                    false if closing => Err(Fault::Disconnected),
                    false => return self.launch_again(key),
                }
            }
        };
        let flight = self.land(key);
        if let Task::Send { outgoing, .. } = flight.task {
            self.keep_outgoing(outgoing);
        }
        self.sockets[socket_key].sending = false;
        self.complete(flight.token, outcome);
        self.settle_close(socket_key);
    }

    pub(super) fn keep_outgoing(&mut self, mut outgoing: Outgoing) {
        outgoing.clear();
        if self.spare_outgoing.len() < SPARE_OUTGOING_MAX {
            self.spare_outgoing.push(outgoing);
        }
    }

    /// Closes a socket that is to be closed, once nothing is under way on it.
    pub(super) fn settle_close(&mut self, socket_key: usize) {
        let socket = &self.sockets[socket_key];
        if let Some(token) = socket.closing
            && !socket.receiving
            && !socket.sending
        {
            let socket = self.sockets.remove(socket_key);
            self.registered.remove(&self.submission, socket.slot);
            self.complete(token, Ok(Done::Complete));
        }
    }

    pub(super) fn receive(&mut self, token: Token, socket: SocketId, into: BytesMut) {
        let key = socket.0 as usize;
        let state = &mut self.sockets[key];
        if state.closing.is_some() {
            return self.complete(token, Err(Fault::Disconnected));
        }
        assert!(!state.receiving, "one receive per socket at a time");
        state.receiving = true;
        self.launch(token, Task::Receive { socket: key, into });
    }

    pub(super) fn send_parts(&mut self, token: Token, socket: SocketId, parts: Vec<Bytes>) {
        let key = socket.0 as usize;
        if self.sockets[key].closing.is_some() {
            return self.complete(token, Err(Fault::Disconnected));
        }
        assert!(!self.sockets[key].sending, "one send per socket at a time");
        let mut outgoing = self.spare_outgoing.pop().unwrap_or_else(Outgoing::empty);
        outgoing.refill(parts);
        if outgoing.is_done() {
            self.keep_outgoing(outgoing);
            return self.complete(token, Ok(Done::Complete));
        }
        self.sockets[key].sending = true;
        self.launch(token, Task::Send { socket: key, outgoing });
    }

    pub(super) fn close_socket(&mut self, token: Token, socket: SocketId) {
        let key = socket.0 as usize;
        let socket = &mut self.sockets[key];
        assert!(socket.closing.is_none(), "a socket is closed once");
        socket.closing = Some(token);
        // Wakes the receive and the send under way. It fails if the other side is gone already,
        // and then they end by themselves.
        // SAFETY: a system call on an open descriptor; it touches no memory.
        unsafe { libc::shutdown(socket.fd.as_raw_fd(), libc::SHUT_RDWR) };
        self.settle_close(key);
    }
}

/// Whether accepting has failed only for one connection, which was gone before it was accepted:
/// accept(2) names these errors.
fn was_one_connection(errno: i32) -> bool {
    matches!(
        errno,
        libc::ECONNABORTED
            | libc::EPROTO
            | libc::EPERM
            | libc::ENETDOWN
            | libc::ENOPROTOOPT
            | libc::EHOSTDOWN
            | libc::ENONET
            | libc::EHOSTUNREACH
            | libc::EOPNOTSUPP
            | libc::ENETUNREACH
            | libc::ETIMEDOUT
    )
}
