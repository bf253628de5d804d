//! The edge: all a shard may ask of the outside world.
//!
//! A shard is a state machine. It owns no socket, no file and no clock; it submits [`Op`]s under
//! tokens of its own choosing and is told later how each one ended. The product's edge carries
//! them out on io_uring ([`crate::ring`]); the simulator's edge carries them out badly, on
//! purpose, from one seed. The same shard code runs on both.
//!
//! Promises every edge keeps:
//! - each submitted op completes exactly once (an [`Op::Accept`] once per connection until its
//!   listener is closed), in any order, never inside `submit`;
//! - memory handed to an op lives until that op has completed;
//! - `now` is fixed within a turn and never goes back.
//!
//! Start reading at [`Edge`].

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};

/// What the outside world does for one shard.
pub trait Edge {
    /// What shards say to each other.
    type Message;

    /// The monotonic time of this turn.
    fn now(&self) -> Instant;

    /// Milliseconds since the Unix epoch: for timestamps in records, never for deadlines.
    fn wall_clock_ms(&self) -> i64;

    /// Asks for `op`; its end is told under `token` by a later [`Edge::poll_completion`].
    fn submit(&mut self, token: Token, op: Op);

    /// The next op that has ended, if any.
    fn poll_completion(&mut self) -> Option<Completion>;

    /// Hands `message` to another shard, or back to the caller when that mesh queue is full.
    ///
    /// Never blocks. Messages between an ordered pair of shards arrive once and in order.
    fn send(&mut self, to: ShardId, message: Self::Message) -> Result<(), Self::Message>;

    /// The next message from another shard, with its sender.
    fn poll_message(&mut self) -> Option<(ShardId, Self::Message)>;
}

/// A program that an edge drives: one shard's whole work.
pub trait Program<E: Edge> {
    /// One turn: take completions and messages, step everything, submit what follows.
    fn turn(&mut self, edge: &mut E) -> Next;
}

/// When a shard wants its next turn if nothing happens before.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Next {
    /// At once: work is left over from this turn.
    Now,
    /// At this time, or earlier if something completes or arrives.
    At(Instant),
    /// Only when something completes or arrives.
    Idle,
    /// Never: the shard has stopped.
    Stop,
}

/// A shard of this node, counted from 0.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct ShardId(pub u16);

/// A point in monotonic time: nanoseconds since an arbitrary start, the same for all shards.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Instant {
    /// Nanoseconds since the start.
    pub nanos: u64,
}

impl Instant {
    /// This time and `duration` more.
    #[must_use]
    pub fn after(self, duration: Duration) -> Self {
        Self { nanos: self.nanos.saturating_add(duration.as_nanos() as u64) }
    }

    /// How long ago `earlier` was; zero if it is not in the past.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.nanos.saturating_sub(earlier.nanos))
    }
}

/// The name a shard gives an op; the edge only hands it back.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Token(pub u64);

/// A listening socket of this shard.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct ListenerId(pub u32);

/// A connected socket of this shard. An id is not used again before its close has completed.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct SocketId(pub u32);

/// An open file of this shard. An id is not used again before its close has completed.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct FileId(pub u32);

/// Something to be done.
#[derive(Debug)]
pub enum Op {
    /// Take connections: completes with [`Done::Accepted`] for each one, again and again.
    ///
    /// A fault (no more sockets may be open, say) is told and does not end it: it goes on after a
    /// pause.
    Accept {
        /// Where to listen; made before the shard started.
        listener: ListenerId,
    },
    /// Wait for bytes and put them into `into`, behind what it already holds, up to its capacity.
    ///
    /// With no capacity left in `into` the edge lends one of its own buffers while it waits, so
    /// that an idle connection holds no memory, and hands over a copy of at most
    /// [`RECEIVE_BYTES_MAX`] bytes. At most one receive per socket at a time.
    Receive {
        /// From where.
        socket: SocketId,
        /// Where the bytes go; returned by [`Done::Received`].
        into: BytesMut,
    },
    /// Send all of `parts`, in order. Completes when the last byte was taken by the socket.
    /// At most one send per socket at a time.
    Send {
        /// To where.
        socket: SocketId,
        /// What to send; empty parts are allowed.
        parts: Vec<Bytes>,
    },
    /// End the socket: a receive or send under way on it completes (with an error or the end of
    /// the stream), then the socket is closed and this op completes.
    CloseSocket {
        /// Which one.
        socket: SocketId,
    },
    /// Open a file for direct I/O: completes with [`Done::Opened`].
    Open {
        /// Below the data directory, or absolute.
        path: PathBuf,
        /// Whether it may be, or must be, made.
        how: OpenHow,
    },
    /// Write `bytes` at `position`; both, and the memory, aligned to the block size.
    Write {
        /// To where.
        file: FileId,
        /// Byte position in the file.
        position: u64,
        /// What to write: completes only when all of it is written.
        bytes: Bytes,
        /// Whether the write is on stable storage when it completes (RWF_DSYNC).
        durable: bool,
    },
    /// Read `size` bytes at `position`, both aligned: completes with [`Done::Read`], which is
    /// shorter only at the end of the file.
    Read {
        /// From where.
        file: FileId,
        /// Byte position in the file.
        position: u64,
        /// How many bytes.
        size: u32,
    },
    /// Make all completed writes of a file durable, with its size (fdatasync).
    Sync {
        /// Which one.
        file: FileId,
    },
    /// Reserve space for `size` bytes from `position` on; the file grows to hold them.
    Allocate {
        /// In which file.
        file: FileId,
        /// Byte position in the file.
        position: u64,
        /// How many bytes.
        size: u64,
    },
    /// Close a file. Only after all other ops on it have completed.
    CloseFile {
        /// Which one.
        file: FileId,
    },
    /// Work on the file system that may block: carried out away from the shard.
    Chore(Chore),
}

/// How to open a file.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum OpenHow {
    /// For reading only; it must exist.
    Read,
    /// For reading and writing; it must exist.
    Write,
    /// For reading and writing; made if it is missing.
    Create,
}

/// Work that may block or takes long, so a background executor does it: mostly on the file system.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Chore {
    /// Make a directory; it is no error if it exists.
    MakeDir(PathBuf),
    /// Make the entries of a directory durable.
    SyncDir(PathBuf),
    /// The names in a directory: completes with [`Done::Listed`].
    ListDir(PathBuf),
    /// Remove an empty directory.
    RemoveDir(PathBuf),
    /// Remove a file; it is no error if it is missing.
    RemoveFile(PathBuf),
    /// Give a file or directory another name, replacing a file of that name.
    Rename {
        /// The name now.
        from: PathBuf,
        /// The name then.
        to: PathBuf,
    },
    /// Cut a file to `size` bytes and make that durable.
    Truncate {
        /// Which file.
        path: PathBuf,
        /// Its size afterwards.
        size: u64,
    },
    /// Make a file of `size` zero bytes that are really written, not only reserved, and sync it:
    /// completes only when a later overwrite of it needs no allocation.
    Prewrite {
        /// Which file; an old one of that name is replaced.
        path: PathBuf,
        /// Its size.
        size: u64,
    },
    /// Make every completed write to the data directory's file system durable (syncfs).
    SyncFileSystem,
    /// How large the data directory's file system is: completes with [`Done::Space`].
    Space,
    /// No file work, but a computation that would take too long in a turn: completes with
    /// [`Done::Computed`].
    Compute(Computation),
    /// One step of a longer computation, which remembers what it needs.
    Step(Work),
}

/// What is to be computed away from the shards: `work` of the rest. It depends on nothing else, so
/// it gives the same in a rehearsal.
#[derive(Clone, Debug)]
pub struct Computation {
    /// What it works on.
    pub bytes: Bytes,
    /// What else it is told.
    pub wanted: [i64; 2],
    /// What is done: new bytes, or why there are none.
    pub work: fn(&Bytes, [i64; 2]) -> Result<BytesMut, Refusal>,
}

/// Why nothing was computed.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Refusal {
    /// The reason, as its asker numbers the reasons.
    pub reason: u32,
    /// What it is about, if there is more to say than the reason.
    pub places: Vec<u32>,
}

/// A computation that goes on over many steps. Its asker looks at it only between two of them, so
/// nobody ever waits for the lock.
#[derive(Clone)]
pub struct Work(pub Arc<Mutex<dyn Steps>>);

/// What is done step by step.
pub trait Steps: Send {
    /// The next step. It depends on nothing but what it was told, so it gives the same in a rehearsal.
    fn step(&mut self);
}

impl Work {
    /// Does the next step.
    pub fn step(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).step();
    }
}

impl fmt::Debug for Work {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Work")
    }
}

impl PartialEq for Work {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for Work {}

impl PartialEq for Computation {
    fn eq(&self, other: &Self) -> bool {
        self.bytes == other.bytes
            && self.wanted == other.wanted
            && std::ptr::fn_addr_eq(self.work, other.work)
    }
}

impl Eq for Computation {}

/// The end of one op.
#[derive(Debug)]
pub struct Completion {
    /// As submitted.
    pub token: Token,
    /// What came of it.
    pub result: Result<Done, Fault>,
}

/// How an op ended well.
#[derive(Debug)]
pub enum Done {
    /// Nothing to tell but that it is done.
    Complete,
    /// A connection was taken.
    Accepted {
        /// The new socket.
        socket: SocketId,
        /// Who connected.
        client: SocketAddr,
    },
    /// Bytes arrived; none new means that the other side has ended the stream.
    Received {
        /// What was submitted as `into`, longer by what arrived.
        bytes: BytesMut,
        /// How many bytes arrived.
        received: usize,
    },
    /// A file is open.
    Opened {
        /// Its id.
        file: FileId,
        /// Its size in bytes.
        size: u64,
    },
    /// The bytes read.
    Read(Bytes),
    /// The entries of a directory, in no particular order.
    Listed(Vec<DirEntry>),
    /// The size of the data directory's file system.
    Space {
        /// All of it.
        total_bytes: u64,
        /// What may still be used.
        usable_bytes: u64,
    },
    /// What was computed, or why not.
    Computed(Result<BytesMut, Refusal>),
}

/// One name in a directory.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct DirEntry {
    /// The name, without its directory.
    pub name: String,
    /// Whether it is a directory itself.
    pub is_dir: bool,
    /// Size in bytes, for files.
    pub size: u64,
}

/// How an op ended badly. The names of the kinds a shard acts upon; the number of the rest.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Fault {
    /// No space is left on the device (or in the quota).
    NoSpace,
    /// The device failed the operation (EIO): what the disk holds now is unknown.
    Device,
    /// There is no such file or directory.
    NotFound,
    /// The socket is gone: reset, broken or closed here.
    Disconnected,
    /// The process may open no more files or sockets now.
    TooManyOpen,
    /// Anything else, as errno.
    Other(i32),
}

/// The most bytes a receive without capacity of its own hands over at once.
pub const RECEIVE_BYTES_MAX: usize = 16 * 1024;
