//! The product's edge: one io_uring per shard.
//!
//! Everything a shard asks for becomes a submission; one system call per turn hands them over,
//! waits if there is nothing else to do, and brings completions back. Short writes and sends are
//! continued here, so a shard only sees whole ones. What the kernel may touch is owned by the
//! table of ops under way (`flight.rs`) until the kernel says that it is done with it; an
//! edge that is dropped cancels all ops and waits for them.
//!
//! Files are registered with the ring, which spares the kernel counting references; sockets too,
//! from the kernel on where that has no side effects ([`crate::kernel`]).
//!
//! Start reading at [`RingEdge`], and at `RingEdge::run` for the turn.

mod files;
mod sockets;

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use io_uring::types::{CancelBuilder, Fd, Timespec};
use io_uring::{cqueue, opcode, squeue};
use slab::Slab;

use crate::buffer::{BLOCK_BYTES, BufferPool};
use crate::chores::{ChoreSender, path_bytes};
use crate::clock;
use crate::edge::{
    Completion, Done, Edge, Fault, Instant, ListenerId, Next, Op, Program, ShardId, Token,
};
use crate::fault::fault_of_file;
use crate::flight::{Flight, Outgoing, Target, Task};
use crate::mesh::MeshPort;
use crate::receive_buffers::ReceiveBuffers;
use crate::socket::Listener;
use crate::submission::{End, Submission, Wait};
use files::{OpenFile, RegisteredFiles};
use sockets::Socket;

/// The bell's eventfd was read.
const EVENT: u64 = u64::MAX;
/// A neighbour rang through its ring.
const RANG: u64 = u64::MAX - 1;
/// From here on: ringing at a neighbour has failed; the neighbour's number is added.
const RINGING_FAILED: u64 = 1 << 62;

/// More ops under way than any broker within its limits asks for.
const OPS_UNDER_WAY_MAX: usize = 1 << 20;
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
    /// A file that stays open until the ring's last op has ended, even if the process is killed:
    /// the kernel takes a ring apart in the background, and writes go on for some milliseconds
    /// after the process is gone. A lock on this file tells the next process when they are over.
    pub keep_open: Option<Arc<File>>,
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
            keep_open: None,
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
    /// Accepts that try again later, and when.
    paused_accepts: VecDeque<(Instant, usize)>,
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
        let mut registered = RegisteredFiles::new(&submission, config.registered_files);
        if let Some(file) = &config.keep_open {
            // Never removed. If there is no room for it, the lock ends with the process.
            registered.add(&submission, file.as_raw_fd());
        }
        let mut edge = Self {
            now: clock::monotonic(),
            submission,
            flights: Slab::new(),
            completions: VecDeque::new(),
            chores_under_way: 0,
            listeners,
            paused_accepts: VecDeque::new(),
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
        self.resume_accepts();
        self.reap();
    }

    /// When the shard wakes if nothing happens: at its own deadline or at the edge's.
    fn wait_of(&self, next: Next) -> Wait {
        let deadline = match next {
            Next::Now | Next::Stop => return Wait::No,
            Next::At(deadline) => Some(deadline),
            Next::Idle => None,
        };
        let resume = self.paused_accepts.front().map(|(at, _)| *at);
        match deadline.into_iter().chain(resume).min() {
            None => Wait::Forever,
            Some(deadline) => match deadline.since(clock::monotonic()) {
                Duration::ZERO => Wait::No,
                duration => Wait::For(duration),
            },
        }
    }

    /// Submits what the turn has left; sleeps if the shard wants to and nothing has come since.
    fn end_turn(&mut self, next: Next) {
        self.wake_neighbours();
        let mut wait = self.wait_of(next);
        let sleeps = wait != Wait::No;
        if sleeps {
            self.mesh.doorbell().sleep.announce_sleep();
            if self.has_work() {
                wait = Wait::No;
            }
        }
        self.submission.enter(wait);
        if sleeps {
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
        for (_, key) in std::mem::take(&mut self.paused_accepts) {
            self.land(key);
        }
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

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::buffer::AlignedBuffer;
    use crate::edge::{FileId, OpenHow};
    use crate::test_dir::TestDir;
    use crate::{chores, mesh};

    /// An edge on the test's own thread, with one open file.
    fn edge_with_file(dir: &TestDir) -> (RingEdge<()>, FileId) {
        let (mut ports, outside) = mesh::weave(1, 4).expect("an eventfd");
        let (mut senders, _queue) = chores::queue(&outside.doorbells).expect("an eventfd");
        let config = RingConfig::new(dir.path().to_owned());
        let (port, sender) = (ports.remove(0), senders.remove(0));
        let mut edge = RingEdge::new(&config, Vec::new(), port, sender).expect("io_uring");
        edge.submit(Token(1), Op::Open { path: "f".into(), how: OpenHow::Create });
        let Ok(Done::Opened { file, .. }) = next_end(&mut edge) else { panic!("it opens") };
        (edge, file)
    }

    fn next_end(edge: &mut RingEdge<()>) -> Result<Done, Fault> {
        loop {
            edge.begin_turn();
            if let Some(completion) = edge.poll_completion() {
                return completion.result;
            }
            edge.end_turn(Next::Idle);
        }
    }

    fn write(edge: &mut RingEdge<()>, file: FileId, position: u64, bytes: Bytes) {
        edge.submit(Token(2), Op::Write { file, position, bytes, durable: false });
    }

    #[test]
    #[should_panic(expected = "at a block")]
    fn a_write_beside_a_block_is_our_own_bug() {
        let dir = TestDir::new("position");
        let (mut edge, file) = edge_with_file(&dir);
        write(&mut edge, file, 512, AlignedBuffer::zeroed(4096).freeze());
    }

    #[test]
    #[should_panic(expected = "aligned memory")]
    fn a_write_from_unaligned_memory_is_our_own_bug() {
        let dir = TestDir::new("memory");
        let (mut edge, file) = edge_with_file(&dir);
        write(&mut edge, file, 0, AlignedBuffer::zeroed(8192).freeze().slice(512..4608));
    }

    #[test]
    fn an_edge_dropped_in_the_middle_of_writes_waits_for_them() {
        const WRITES: u64 = 64;
        let dir = TestDir::new("drop");
        let (mut edge, file) = edge_with_file(&dir);
        for number in 0..WRITES {
            let mut block = AlignedBuffer::zeroed(1 << 16);
            block.fill(7);
            let (position, bytes) = (number << 16, block.freeze());
            edge.submit(Token(3), Op::Write { file, position, bytes, durable: true });
        }
        edge.end_turn(Next::Now);
        drop(edge);
        let written = std::fs::read(dir.path().join("f")).expect("the file is there");
        // Cancelled ones leave holes; nothing but the bytes handed over was ever written.
        assert!(written.iter().all(|&byte| byte == 7 || byte == 0));
    }

    #[test]
    fn time_stands_still_within_a_turn_and_never_goes_back() {
        let dir = TestDir::new("time");
        let (mut edge, _) = edge_with_file(&dir);
        let before = edge.now();
        assert_eq!(edge.now(), before);
        edge.begin_turn();
        assert!(before <= edge.now());
    }
}
