//! The product's edge: one io_uring per shard.
//!
//! Everything a shard asks for becomes a submission; one system call per turn hands them over,
//! waits if there is nothing else to do, and brings completions back. Short writes and sends are
//! continued here, so a shard only sees whole ones. What the kernel may touch is owned by the
//! table of ops under way ([`crate::flight`]) until the kernel says that it is done with it; an
//! edge that is dropped cancels all ops and waits for them.
//!
//! Files are registered with the ring, which spares the kernel counting references; sockets too,
//! from the kernel on where that has no side effects ([`crate::kernel`]).
//!
//! Start reading at [`RingEdge::run`].

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::path::PathBuf;
use std::time::Duration;

use bytes::{Buf, BytesMut};
use io_uring::types::{CancelBuilder, Fd, Timespec};
use io_uring::{cqueue, opcode, squeue};
use slab::Slab;

use crate::buffer::{BLOCK_BYTES, BufferPool};
use crate::chores::{ChoreSender, path_bytes};
use crate::clock;
use crate::edge::{
    Completion, Done, Edge, Fault, FileId, Instant, ListenerId, Next, Op, Program, ShardId,
    SocketId, Token,
};
use crate::fault::{fault_of_error, fault_of_file, fault_of_socket};
use crate::flight::{Flight, Outgoing, Target, Task};
use crate::kernel::{KERNEL_FREES_FILES_AT_ONCE, KernelVersion};
use crate::mesh::MeshPort;
use crate::receive_buffers::ReceiveBuffers;
use crate::socket::{Listener, peer_address};
use crate::submission::{End, Submission, Wait};

/// The bell's eventfd was read.
const EVENT: u64 = u64::MAX;
/// A neighbour rang through its ring.
const RANG: u64 = u64::MAX - 1;
/// From here on: ringing at a neighbour has failed; the neighbour's number is added.
const RINGING_FAILED: u64 = 1 << 62;

/// More ops under way than any broker within its limits asks for.
const OPS_UNDER_WAY_MAX: usize = 1 << 20;
/// Empty lists of parts are kept for the next sends up to this number.
const SPARE_OUTGOING_MAX: usize = 256;
/// How long an edge that ends waits for the kernel to let go of its memory.
const LAST_OPS_WAIT: Duration = Duration::from_secs(5);

/// How large the parts of one shard's edge are.
#[derive(Clone, Debug)]
pub struct RingConfig {
    /// The data directory: relative paths start here.
    pub root: PathBuf,
    /// Submissions per turn before the first go to the kernel early; a power of two.
    pub submissions: u32,
    /// Buffers lent to receives, [`crate::edge::RECEIVE_BYTES_MAX`] bytes each; a power of two.
    pub receive_buffers: u16,
    /// Messages under way between each ordered pair of shards.
    pub mesh_messages: usize,
    /// Files registered with the ring; what does not fit goes unregistered.
    pub registered_files: u32,
    /// Spare memory for reads.
    pub pool_bytes: usize,
}

impl RingConfig {
    /// The usual sizes, for the data directory `root`.
    #[must_use]
    pub fn new(root: PathBuf) -> Self {
        Self { root, ..Self::default() }
    }
}

impl Default for RingConfig {
    /// The usual sizes, for the current directory.
    fn default() -> Self {
        Self {
            root: PathBuf::from("."),
            submissions: 1024,
            receive_buffers: 128,
            mesh_messages: 1024,
            registered_files: 16_384,
            pool_bytes: 8 << 20,
        }
    }
}

/// One shard's world, on io_uring. Lives on the shard's thread.
pub struct RingEdge<M> {
    now: Instant,
    submission: Submission,
    flights: Slab<Flight>,
    completions: VecDeque<Completion>,
    chores_under_way: usize,
    listeners: Vec<Listener>,
    sockets: Slab<Socket>,
    files: Slab<OpenFile>,
    registered: RegisteredFiles,
    lent: ReceiveBuffers,
    pool: BufferPool,
    spare_outgoing: Vec<Outgoing>,
    mesh: MeshPort<M>,
    chores: ChoreSender,
    root: OwnedFd,
    /// What the bell's eventfd is read into.
    event_count: Box<[u8; 8]>,
    event_armed: bool,
}

struct Socket {
    fd: OwnedFd,
    slot: Option<u32>,
    receiving: bool,
    sending: bool,
    /// There were more bytes than the last receive took.
    more_waits: bool,
    closing: Option<Token>,
}

struct OpenFile {
    file: File,
    slot: Option<u32>,
    under_way: u32,
}

/// Places in the ring's table of registered files.
struct RegisteredFiles {
    free: Vec<u32>,
    sockets_too: bool,
}

fn target(slot: Option<u32>, fd: RawFd) -> Target {
    slot.map_or(Target::Descriptor(fd), Target::Registered)
}

impl<M> RingEdge<M> {
    /// The edge of one shard, made on the shard's own thread: no other may use it.
    pub(crate) fn new(
        config: &RingConfig,
        listeners: Vec<Listener>,
        mesh: MeshPort<M>,
        chores: ChoreSender,
    ) -> io::Result<Self> {
        let submission = Submission::new(config.submissions)?;
        let lent = ReceiveBuffers::register(&submission.submitter(), config.receive_buffers)?;
        mesh.doorbell().set_ring(submission.duplicate_fd()?);
        let registered = RegisteredFiles::new(&submission, config.registered_files);
        let mut edge = Self {
            now: clock::monotonic(),
            submission,
            flights: Slab::new(),
            completions: VecDeque::new(),
            chores_under_way: 0,
            listeners,
            sockets: Slab::new(),
            files: Slab::new(),
            registered,
            lent,
            pool: BufferPool::new(config.pool_bytes),
            spare_outgoing: Vec::new(),
            mesh,
            chores,
            root: File::open(&config.root)?.into(),
            event_count: Box::new([0; 8]),
            event_armed: false,
        };
        edge.listen_to_bell();
        Ok(edge)
    }

    /// Which shard this is the edge of.
    #[must_use]
    pub fn shard(&self) -> ShardId {
        self.mesh.me()
    }

    /// Where the shard's listeners listen, in the order of their ids.
    pub fn listener_addresses(&self) -> impl Iterator<Item = std::net::SocketAddr> + '_ {
        self.listeners.iter().map(Listener::address)
    }

    /// Turn after turn, until the program stops.
    pub(crate) fn run(mut self, mut program: impl Program<Self>) {
        loop {
            self.begin_turn();
            match program.turn(&mut self) {
                Next::Stop => break,
                next => self.end_turn(next),
            }
        }
        // Neighbours get what was sent in the last turn.
        self.end_turn(Next::Now);
    }

    fn begin_turn(&mut self) {
        self.now = self.now.max(clock::monotonic());
        self.reap();
    }

    /// Submits what the turn has left; sleeps if the shard wants to and nothing has come since.
    fn end_turn(&mut self, next: Next) {
        self.wake_neighbours();
        let mut wait = match next {
            Next::Now | Next::Stop => Wait::No,
            Next::Idle => Wait::Forever,
            Next::At(deadline) => match deadline.since(clock::monotonic()) {
                Duration::ZERO => Wait::No,
                duration => Wait::For(duration),
            },
        };
        if wait != Wait::No {
            self.mesh.doorbell().sleep.announce_sleep();
            if self.has_work() {
                wait = Wait::No;
            }
        }
        self.submission.enter(wait);
        if wait != Wait::No || next != Next::Now {
            self.mesh.doorbell().sleep.end_sleep();
        }
    }

    fn has_work(&self) -> bool {
        !self.completions.is_empty() || self.chores.any_done() || self.mesh.has_messages()
    }

    fn wake_neighbours(&mut self) {
        if !self.mesh.has_unannounced() {
            return;
        }
        while let Some(neighbour) = self.mesh.next_to_wake() {
            let Some(ring) = self.mesh.doorbell_of(neighbour).ring_fd() else {
                // It has not begun its first turn.
                self.mesh.doorbell_of(neighbour).wake_always();
                continue;
            };
            let ringing = opcode::MsgRingData::new(Fd(ring), 0, RANG, None)
                .build()
                .flags(squeue::Flags::SKIP_SUCCESS)
                .user_data(RINGING_FAILED + neighbour as u64);
            // SAFETY: no memory involved; the doorbell keeps the neighbour's ring open.
            unsafe { self.submission.push(ringing) };
        }
    }

    fn listen_to_bell(&mut self) {
        let event = Fd(self.mesh.doorbell().event_fd());
        let read = opcode::Read::new(event, self.event_count.as_mut_ptr(), 8).build();
        // SAFETY: the eight bytes live on the heap until this edge is dropped, and it waits for
        // its ops first.
        unsafe { self.submission.push(read.user_data(EVENT)) };
        self.event_armed = true;
    }

    /// Takes what the kernel and the background executor have completed.
    fn reap(&mut self) {
        while let Some(end) = self.submission.reap() {
            self.handle_end(end);
        }
        self.chores_under_way -= self.chores.take_done(&mut self.completions);
    }

    fn handle_end(&mut self, end: End) {
        match end.user_data {
            EVENT => {
                self.event_armed = false;
                self.listen_to_bell();
            }
            RANG => {}
            failed if RINGING_FAILED <= failed => {
                let neighbour = (failed - RINGING_FAILED) as usize;
                self.mesh.doorbell_of(neighbour).wake_always();
            }
            key => self.handle_flight(key as usize, end.result, end.flags),
        }
    }

    /// Puts an op under way.
    fn launch(&mut self, token: Token, task: Task) {
        assert!(self.flights.len() < OPS_UNDER_WAY_MAX, "the shard keeps within its limits");
        let key = self.flights.insert(Flight { token, task });
        self.launch_again(key);
    }

    fn launch_again(&mut self, key: usize) {
        let flight = &mut self.flights[key];
        let mut eager = false;
        let target = match &flight.task {
            Task::Accept { listener } => Target::Descriptor(self.listeners[*listener].raw_fd()),
            Task::Receive { socket, .. } | Task::Send { socket, .. } => {
                let socket = &self.sockets[*socket];
                eager = socket.more_waits;
                target(socket.slot, socket.fd.as_raw_fd())
            }
            Task::Open { .. } => Target::Descriptor(self.root.as_raw_fd()),
            Task::Write { file, .. }
            | Task::Read { file, .. }
            | Task::Sync { file }
            | Task::Allocate { file, .. } => {
                let file = &self.files[*file];
                target(file.slot, file.file.as_raw_fd())
            }
        };
        let entry = flight.task.submission(target, eager).user_data(key as u64);
        // SAFETY: the entry points into heap memory owned by the flight, which stays in the table
        // until its completion has been reaped.
        unsafe { self.submission.push(entry) };
    }

    fn complete(&mut self, token: Token, result: Result<Done, Fault>) {
        self.completions.push_back(Completion { token, result });
    }

    /// Takes the flight out of the table; the kernel is done with it.
    fn land(&mut self, key: usize) -> Flight {
        self.flights.remove(key)
    }

    fn handle_flight(&mut self, key: usize, result: i32, flags: u32) {
        if matches!(result, n if n == -libc::EINTR || n == -libc::EAGAIN) {
            return self.launch_again(key);
        }
        match &self.flights[key].task {
            Task::Accept { .. } => self.handle_accept(key, result, flags),
            Task::Receive { .. } => self.handle_receive(key, result, flags),
            Task::Send { .. } => self.handle_send(key, result),
            Task::Open { .. } => self.handle_open(key, result),
            Task::Write { .. } => self.handle_write(key, result),
            Task::Read { .. } => self.handle_read(key, result),
            Task::Sync { file } | Task::Allocate { file, .. } => {
                let file = *file;
                let outcome = if result < 0 { Err(fault_of_file(-result)) } else { Ok(()) };
                self.end_file_op(key, file, outcome.map(|()| Done::Complete));
            }
        }
    }

    fn handle_accept(&mut self, key: usize, result: i32, flags: u32) {
        let token = self.flights[key].token;
        if 0 <= result {
            // SAFETY: the kernel has just made this descriptor for us.
            let fd = unsafe { OwnedFd::from_raw_fd(result) };
            // Without a peer it is gone already, and nobody needs to know.
            if let Ok(client) = peer_address(fd.as_raw_fd()) {
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
                let socket = SocketId(socket as u32);
                self.complete(token, Ok(Done::Accepted { socket, client }));
            }
        } else if accept_is_over(-result) {
            self.land(key);
            return self.complete(token, Err(fault_of_socket(-result)));
        }
        if !cqueue::more(flags) {
            self.launch_again(key);
        }
    }

    fn handle_receive(&mut self, key: usize, result: i32, flags: u32) {
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

    fn handle_send(&mut self, key: usize, result: i32) {
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

    fn keep_outgoing(&mut self, mut outgoing: Outgoing) {
        outgoing.clear();
        if self.spare_outgoing.len() < SPARE_OUTGOING_MAX {
            self.spare_outgoing.push(outgoing);
        }
    }

    /// Closes a socket that is to be closed, once nothing is under way on it.
    fn settle_close(&mut self, socket_key: usize) {
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

    fn handle_open(&mut self, key: usize, result: i32) {
        let Task::Open { direct, .. } = &mut self.flights[key].task else {
            unreachable!("the caller has looked")
        };
        if result == -libc::EINVAL && *direct {
            // A file system without direct I/O: slower, and preflight says so.
            *direct = false;
            return self.launch_again(key);
        }
        let token = self.land(key).token;
        if result < 0 {
            return self.complete(token, Err(fault_of_file(-result)));
        }
        // SAFETY: the kernel has just made this descriptor for us.
        let file = File::from(unsafe { OwnedFd::from_raw_fd(result) });
        let outcome = file.metadata().map(|metadata| metadata.len());
        let outcome = outcome.map_err(|error| fault_of_error(&error)).map(|size| {
            let slot = self.registered.add(&self.submission, file.as_raw_fd());
            let key = self.files.insert(OpenFile { file, slot, under_way: 0 });
            Done::Opened { file: FileId(key as u32), size }
        });
        self.complete(token, outcome);
    }

    fn handle_write(&mut self, key: usize, result: i32) {
        let Task::Write { file, position, bytes, .. } = &mut self.flights[key].task else {
            unreachable!("the caller has looked")
        };
        let file = *file;
        let outcome = match result {
            ..0 => Err(fault_of_file(-result)),
            _ if result as usize == bytes.len() => Ok(Done::Complete),
            // A write within a block has written nothing we could go on from.
            short if (short as usize) < BLOCK_BYTES => Err(Fault::Device),
            short => {
                let written = short as usize / BLOCK_BYTES * BLOCK_BYTES;
                bytes.advance(written);
                *position += written as u64;
                return self.launch_again(key);
            }
        };
        self.end_file_op(key, file, outcome);
    }

    fn handle_read(&mut self, key: usize, result: i32) {
        let Task::Read { file, buffer, filled, .. } = &mut self.flights[key].task else {
            unreachable!("the caller has looked")
        };
        let file = *file;
        *filled += result.max(0) as usize;
        let at_end = result == 0 || !filled.is_multiple_of(BLOCK_BYTES);
        if 0 < result && *filled < buffer.len() && !at_end {
            return self.launch_again(key);
        }
        if result < 0 {
            return self.end_file_op(key, file, Err(fault_of_file(-result)));
        }
        let flight = self.land(key);
        self.files[file].under_way -= 1;
        let Task::Read { mut buffer, filled, .. } = flight.task else {
            unreachable!("the caller has looked")
        };
        buffer.truncate(filled);
        self.complete(flight.token, Ok(Done::Read(buffer.freeze())));
    }

    fn end_file_op(&mut self, key: usize, file: usize, outcome: Result<Done, Fault>) {
        let token = self.land(key).token;
        self.files[file].under_way -= 1;
        self.complete(token, outcome);
    }

    fn receive(&mut self, token: Token, socket: SocketId, into: BytesMut) {
        let key = socket.0 as usize;
        let state = &mut self.sockets[key];
        if state.closing.is_some() {
            return self.complete(token, Err(Fault::Disconnected));
        }
        assert!(!state.receiving, "one receive per socket at a time");
        state.receiving = true;
        self.launch(token, Task::Receive { socket: key, into });
    }

    fn send_parts(&mut self, token: Token, socket: SocketId, parts: Vec<bytes::Bytes>) {
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

    fn close_socket(&mut self, token: Token, socket: SocketId) {
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

    fn close_file(&mut self, token: Token, file: FileId) {
        let file = self.files.remove(file.0 as usize);
        assert!(file.under_way == 0, "a file is closed after all ops on it");
        self.registered.remove(&self.submission, file.slot);
        drop(file.file);
        self.complete(token, Ok(Done::Complete));
    }

    fn launch_file_op(&mut self, token: Token, file: usize, task: Task) {
        self.files[file].under_way += 1;
        self.launch(token, task);
    }

    fn do_chore(&mut self, token: Token, chore: crate::edge::Chore) {
        assert!(self.chores_under_way < OPS_UNDER_WAY_MAX, "the shard keeps within its limits");
        self.chores_under_way += 1;
        self.chores.send(token, chore);
    }
}

impl<M> Edge for RingEdge<M> {
    type Message = M;

    fn now(&self) -> Instant {
        self.now
    }

    fn wall_clock_ms(&self) -> i64 {
        clock::wall_clock_ms()
    }

    fn submit(&mut self, token: Token, op: Op) {
        match op {
            Op::Accept { listener: ListenerId(listener) } => {
                self.launch(token, Task::Accept { listener: listener as usize });
            }
            Op::Receive { socket, into } => self.receive(token, socket, into),
            Op::Send { socket, parts } => self.send_parts(token, socket, parts),
            Op::CloseSocket { socket } => self.close_socket(token, socket),
            Op::Open { path, how } => match path_bytes(&path) {
                Some(path) => self.launch(token, Task::Open { path, how, direct: true }),
                None => self.complete(token, Err(Fault::Other(libc::EINVAL))),
            },
            Op::Write { file, position, bytes, durable } => {
                assert!(
                    !bytes.is_empty() && bytes.len().is_multiple_of(BLOCK_BYTES),
                    "whole blocks"
                );
                assert!(position.is_multiple_of(BLOCK_BYTES as u64), "at a block");
                assert!(bytes.as_ptr().addr().is_multiple_of(BLOCK_BYTES), "aligned memory");
                let file = file.0 as usize;
                self.launch_file_op(token, file, Task::Write { file, position, bytes, durable });
            }
            Op::Read { file, position, size } => {
                assert!(size != 0 && size.is_multiple_of(BLOCK_BYTES as u32), "whole blocks");
                assert!(position.is_multiple_of(BLOCK_BYTES as u64), "at a block");
                let buffer = self.pool.take(size as usize);
                let file = file.0 as usize;
                self.launch_file_op(token, file, Task::Read { file, position, buffer, filled: 0 });
            }
            Op::Sync { file } => {
                let file = file.0 as usize;
                self.launch_file_op(token, file, Task::Sync { file });
            }
            Op::Allocate { file, position, size } => {
                let file = file.0 as usize;
                self.launch_file_op(token, file, Task::Allocate { file, position, size });
            }
            Op::CloseFile { file } => self.close_file(token, file),
            Op::Chore(chore) => self.do_chore(token, chore),
        }
    }

    fn poll_completion(&mut self) -> Option<Completion> {
        self.completions.pop_front()
    }

    fn send(&mut self, to: ShardId, message: M) -> Result<(), M> {
        self.mesh.send(to, message)
    }

    fn poll_message(&mut self) -> Option<(ShardId, M)> {
        self.mesh.poll()
    }
}

impl<M> Drop for RingEdge<M> {
    fn drop(&mut self) {
        // What the kernel may still write to must outlive its ops.
        let deadline = clock::monotonic().after(LAST_OPS_WAIT);
        let second = Timespec::from(Duration::from_secs(1));
        while !self.flights.is_empty() || self.event_armed {
            // Fails if nothing is left to cancel; what cannot be cancelled ends by itself.
            drop(
                self.submission
                    .submitter()
                    .register_sync_cancel(Some(second), CancelBuilder::any().all()),
            );
            self.submission.enter(Wait::For(Duration::from_millis(10)));
            self.reap_last();
            if deadline <= clock::monotonic() {
                // Rather lose the memory than have it overwritten.
                std::mem::forget(std::mem::take(&mut self.flights));
                std::mem::forget(std::mem::take(&mut self.event_count));
                break;
            }
        }
    }
}

impl<M> RingEdge<M> {
    /// Lets go of ops that have ended, telling nobody and starting nothing.
    fn reap_last(&mut self) {
        while let Some(end) = self.submission.reap() {
            match end.user_data {
                EVENT => self.event_armed = false,
                key if key < RINGING_FAILED && !cqueue::more(end.flags) => {
                    self.flights.remove(key as usize);
                }
                _ => {}
            }
        }
    }
}

impl RegisteredFiles {
    fn new(submission: &Submission, count: u32) -> Self {
        // More than the process may open is refused as a whole: then halve.
        let mut count = count;
        while count != 0 && submission.submitter().register_files_sparse(count).is_err() {
            count /= 2;
        }
        let sockets_too =
            KernelVersion::running().is_some_and(|running| KERNEL_FREES_FILES_AT_ONCE <= running);
        Self { free: (0..count).rev().collect(), sockets_too }
    }

    fn add(&mut self, submission: &Submission, fd: RawFd) -> Option<u32> {
        let slot = self.free.pop()?;
        match submission.submitter().register_files_update(slot, &[fd]) {
            Ok(1) => Some(slot),
            _ => {
                self.free.push(slot);
                None
            }
        }
    }

    fn remove(&mut self, submission: &Submission, slot: Option<u32>) {
        let Some(slot) = slot else { return };
        let outcome = submission.submitter().register_files_update(slot, &[-1]);
        // A place that could not be emptied is not used again.
        if outcome.is_ok() {
            self.free.push(slot);
        }
    }
}

/// Whether accepting has failed for a reason that going on does not cure.
fn accept_is_over(errno: i32) -> bool {
    !matches!(
        errno,
        // The connection was gone before it was accepted; accept(2) names these.
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
