//! An op under way: everything the kernel may touch until the op has completed.
//!
//! Flights live in one table of the shard's edge; the key in that table is what the kernel hands
//! back. The table may move its entries, so all memory the kernel is told of lies behind them on
//! the heap: message buffers, paths, and the lists of parts of a send.

use std::ffi::CString;
use std::ptr;

use bytes::{Buf, Bytes, BytesMut};
use io_uring::types::{Fd, Fixed};
use io_uring::{opcode, squeue, types};

use crate::buffer::AlignedBuffer;
use crate::edge::{OpenHow, Token};
use crate::receive_buffers::BUFFER_GROUP;

/// A send has at most this many parts per submission; the rest follows when they are gone.
const PARTS_PER_SUBMISSION: usize = 256;

/// Receives are cut to this size: larger ones cost twice as much per byte, because the bytes have
/// left the processor's cache by the time they are looked at.
const DIRECT_RECEIVE_BYTES_MAX: usize = 64 * 1024;

/// A single read or write is cut to this size, below what the kernel accepts.
const FILE_BYTES_MAX: usize = 1 << 30;

/// IORING_RECVSEND_POLL_FIRST: do not try before the socket says that it is ready.
const POLL_FIRST: u16 = 1 << 0;

/// How the kernel is told which file is meant.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Target {
    /// By its place among the ring's registered files.
    Registered(u32),
    /// By its descriptor.
    Descriptor(i32),
}

/// Builds a submission for either kind of target.
macro_rules! aim {
    ($target:expr, |$fd:ident| $build:expr) => {
        match $target {
            Target::Registered(slot) => {
                let $fd = Fixed(slot);
                $build
            }
            Target::Descriptor(number) => {
                let $fd = Fd(number);
                $build
            }
        }
    };
}

/// One op under way.
pub(crate) struct Flight {
    pub(crate) token: Token,
    pub(crate) task: Task,
}

/// What an op under way is about. Keys are those of the edge's tables.
pub(crate) enum Task {
    Accept { listener: usize },
    Receive { socket: usize, into: BytesMut },
    Send { socket: usize, outgoing: Outgoing },
    Open { path: CString, how: OpenHow, direct: bool },
    Write { file: usize, position: u64, bytes: Bytes, durable: bool },
    Read { file: usize, position: u64, buffer: AlignedBuffer, filled: usize },
    Sync { file: usize },
    Allocate { file: usize, position: u64, size: u64 },
}

/// The unsent rest of a send.
pub(crate) struct Outgoing {
    parts: Vec<Bytes>,
    /// The parts before this one are gone.
    first: usize,
    vectors: Vec<libc::iovec>,
    header: Box<libc::msghdr>,
}

impl Outgoing {
    pub(crate) fn empty() -> Self {
        // SAFETY: a message header of zeros is valid: no name, no parts, no control data.
        let header = Box::new(unsafe { std::mem::zeroed() });
        Self { parts: Vec::new(), first: 0, vectors: Vec::new(), header }
    }

    pub(crate) fn refill(&mut self, parts: Vec<Bytes>) {
        self.parts = parts;
        self.first = 0;
        self.skip_empty();
    }

    pub(crate) fn is_done(&self) -> bool {
        self.first == self.parts.len()
    }

    /// The socket has taken the first `size` bytes: lets go of them.
    pub(crate) fn advance(&mut self, mut size: usize) {
        while size != 0 {
            let part = &mut self.parts[self.first];
            let taken = size.min(part.len());
            part.advance(taken);
            size -= taken;
            self.skip_empty();
        }
    }

    /// Lets go of everything, to be used again.
    pub(crate) fn clear(&mut self) {
        self.parts = Vec::new();
        self.first = 0;
    }

    fn skip_empty(&mut self) {
        while self.parts.get(self.first).is_some_and(Bytes::is_empty) {
            self.parts[self.first] = Bytes::new();
            self.first += 1;
        }
    }

    fn submission(&mut self, target: Target) -> squeue::Entry {
        // The kernel sends on by itself until all is sent or the socket fails.
        const FLAGS: i32 = libc::MSG_WAITALL | libc::MSG_NOSIGNAL;
        let rest = &self.parts[self.first..];
        if let [only] = rest {
            let size = only.len().min(FILE_BYTES_MAX) as u32;
            return aim!(target, |fd| opcode::Send::new(fd, only.as_ptr(), size)
                .flags(FLAGS)
                .build());
        }
        self.vectors.clear();
        let parts = rest.iter().filter(|part| !part.is_empty()).take(PARTS_PER_SUBMISSION);
        self.vectors.extend(parts.map(|part| libc::iovec {
            iov_base: part.as_ptr().cast_mut().cast(),
            iov_len: part.len(),
        }));
        self.header.msg_iov = self.vectors.as_mut_ptr();
        self.header.msg_iovlen = self.vectors.len() as _;
        let header = &raw const *self.header;
        aim!(target, |fd| opcode::SendMsg::new(fd, header).flags(FLAGS as u32).build())
    }
}

impl Task {
    /// The submission for what is left to do.
    ///
    /// `root` is the directory that relative paths start from; `eager` says that a receive should
    /// find bytes at once. The entry points into this task's heap memory.
    pub(crate) fn submission(&mut self, target: Target, eager: bool) -> squeue::Entry {
        match self {
            Self::Accept { .. } => {
                aim!(target, |fd| opcode::AcceptMulti::new(fd).flags(libc::SOCK_CLOEXEC).build())
            }
            Self::Receive { into, .. } => receive(target, into, eager),
            Self::Send { outgoing, .. } => outgoing.submission(target),
            Self::Open { path, how, direct } => open(target, path, *how, *direct),
            Self::Write { position, bytes, durable, .. } => {
                let size = bytes.len().min(FILE_BYTES_MAX) as u32;
                let flags = if *durable { libc::RWF_DSYNC } else { 0 };
                aim!(target, |fd| opcode::Write::new(fd, bytes.as_ptr(), size)
                    .offset(*position)
                    .rw_flags(flags)
                    .build())
            }
            Self::Read { position, buffer, filled, .. } => {
                let rest = &mut buffer[*filled..];
                let size = rest.len().min(FILE_BYTES_MAX) as u32;
                let position = *position + *filled as u64;
                aim!(target, |fd| opcode::Read::new(fd, rest.as_mut_ptr(), size)
                    .offset(position)
                    .build())
            }
            Self::Sync { .. } => {
                aim!(target, |fd| opcode::Fsync::new(fd).flags(types::FsyncFlags::DATASYNC).build())
            }
            Self::Allocate { position, size, .. } => {
                aim!(target, |fd| opcode::Fallocate::new(fd, *size).offset(*position).build())
            }
        }
    }
}

fn receive(target: Target, into: &mut BytesMut, eager: bool) -> squeue::Entry {
    let how = if eager { 0 } else { POLL_FIRST };
    let space = into.spare_capacity_mut();
    if space.is_empty() {
        // Size 0: as much as the lent buffer holds.
        return aim!(target, |fd| opcode::Recv::new(fd, ptr::null_mut(), 0)
            .ioprio(how)
            .buf_group(BUFFER_GROUP)
            .build())
        .flags(squeue::Flags::BUFFER_SELECT);
    }
    let size = space.len().min(DIRECT_RECEIVE_BYTES_MAX) as u32;
    let start = space.as_mut_ptr().cast();
    aim!(target, |fd| opcode::Recv::new(fd, start, size).ioprio(how).build())
}

fn open(root: Target, path: &CString, how: OpenHow, direct: bool) -> squeue::Entry {
    let Target::Descriptor(root) = root else {
        unreachable!("the data directory is not a registered file")
    };
    let access = match how {
        OpenHow::Read => libc::O_RDONLY,
        OpenHow::Write => libc::O_RDWR,
        OpenHow::Create => libc::O_RDWR | libc::O_CREAT,
    };
    let direct = if direct { libc::O_DIRECT } else { 0 };
    opcode::OpenAt::new(Fd(root), path.as_ptr())
        .flags(access | direct | libc::O_CLOEXEC)
        .mode(0o640)
        .build()
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use super::*;

    #[test]
    fn a_send_lets_go_of_what_is_gone_and_skips_what_is_empty() {
        let mut outgoing = Outgoing::empty();
        let parts = [&b""[..], b"abc", b"", b"de", b""].map(Bytes::from_static);
        outgoing.refill(parts.to_vec());
        assert!(!outgoing.is_done());
        outgoing.advance(2);
        assert_eq!(outgoing.parts[1], "c");
        outgoing.advance(2);
        assert_eq!(outgoing.parts[3], "e");
        assert!(!outgoing.is_done());
        outgoing.advance(1);
        assert!(outgoing.is_done());
    }

    #[test]
    fn a_send_of_nothing_is_done_at_once() {
        let mut outgoing = Outgoing::empty();
        outgoing.refill(vec![Bytes::new(), Bytes::new()]);
        assert!(outgoing.is_done());
        outgoing.refill(Vec::new());
        assert!(outgoing.is_done());
    }

    #[test]
    fn a_submission_takes_a_bounded_number_of_parts() {
        let mut outgoing = Outgoing::empty();
        outgoing.refill(vec![Bytes::from_static(b"x"); 1000]);
        outgoing.submission(Target::Descriptor(0));
        assert_eq!(outgoing.vectors.len(), PARTS_PER_SUBMISSION);
        assert_eq!(outgoing.header.msg_iovlen, PARTS_PER_SUBMISSION);
    }
}
