//! Buffers lent to receives that wait: the kernel takes one only when bytes have arrived, so a
//! thousand idle connections hold no memory.
//!
//! The kernel and the shard share a ring of free buffers (a "provided buffer ring"): the shard
//! puts buffers in, the kernel takes them out, in order. A buffer is back in the ring as soon as
//! its bytes have been copied out, within the turn they arrived in. If a burst takes them all,
//! the receives that got none are simply submitted again.

use std::io;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::Submitter;
use io_uring::types::BufRingEntry;

use crate::buffer::AlignedBuffer;
use crate::edge::RECEIVE_BYTES_MAX;

/// The only group of provided buffers of a ring.
pub(crate) const BUFFER_GROUP: u16 = 0;

/// The free buffers of one shard.
pub(crate) struct ReceiveBuffers {
    /// The ring shared with the kernel; page-aligned as it demands.
    entries: AlignedBuffer,
    /// All buffers, one behind the other.
    memory: AlignedBuffer,
    count: u16,
    tail: u16,
}

impl ReceiveBuffers {
    /// `count` buffers, a power of two. To be dropped only after the ring is closed or
    /// [`ReceiveBuffers::unregister`] was called.
    pub(crate) fn register(submitter: &Submitter<'_>, count: u16) -> io::Result<Self> {
        assert!(count.is_power_of_two(), "the kernel masks indices");
        let entries = AlignedBuffer::zeroed(usize::from(count) * size_of::<BufRingEntry>());
        let memory = AlignedBuffer::zeroed(usize::from(count) * RECEIVE_BYTES_MAX);
        // SAFETY: the ring's memory is aligned to a page, large enough, and outlives the
        // registration.
        unsafe {
            submitter.register_buf_ring_with_flags(
                entries.as_ptr() as u64,
                count,
                BUFFER_GROUP,
                0,
            )?;
        }
        let mut buffers = Self { entries, memory, count, tail: 0 };
        for id in 0..count {
            buffers.give_back(id);
        }
        Ok(buffers)
    }

    /// Takes all buffers back from the kernel.
    pub(crate) fn unregister(self, submitter: &Submitter<'_>) -> io::Result<()> {
        submitter.unregister_buf_ring(BUFFER_GROUP)
    }

    /// The first `size` bytes of buffer `id`, which the kernel has filled.
    pub(crate) fn filled(&self, id: u16, size: usize) -> &[u8] {
        assert!(size <= RECEIVE_BYTES_MAX, "the kernel stays within the buffer");
        let start = usize::from(id) * RECEIVE_BYTES_MAX;
        &self.memory[start..start + size]
    }

    /// Puts buffer `id` back into the ring.
    pub(crate) fn give_back(&mut self, id: u16) {
        assert!(id < self.count);
        let offset = usize::from(id) * RECEIVE_BYTES_MAX;
        let address = self.memory[offset..].as_mut_ptr() as u64;
        let slot = usize::from(self.tail & (self.count - 1));
        let ring: NonNull<BufRingEntry> =
            NonNull::new(self.entries.as_mut_ptr().cast()).expect("allocated memory");
        // SAFETY: `slot` lies within the ring, whose memory is ours and aligned to a page. The
        // kernel reads only entries below the tail published last, and this one is not.
        let entry = unsafe { ring.add(slot).as_mut() };
        entry.set_addr(address);
        entry.set_len(RECEIVE_BYTES_MAX as u32);
        entry.set_bid(id);
        self.tail = self.tail.wrapping_add(1);
        // SAFETY: the tail lies in the ring's memory at the place the kernel defines, aligned for
        // a u16, and is only written through this atomic from here on.
        unsafe {
            let tail = BufRingEntry::tail(ring.as_ptr()).cast::<AtomicU16>();
            (*tail).store(self.tail, Ordering::Release);
        }
    }
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use super::*;

    /// The ring wraps: after several rounds each buffer can still be taken.
    #[test]
    fn buffers_given_back_are_lent_again_round_after_round() {
        use io_uring::{IoUring, cqueue, opcode, squeue, types};
        use std::io::Write;
        use std::os::fd::AsRawFd;
        use std::os::unix::net::UnixStream;

        let mut ring = IoUring::new(8).expect("io_uring");
        let mut buffers = ReceiveBuffers::register(&ring.submitter(), 4).expect("buffer ring");
        let (mut here, there) = UnixStream::pair().expect("a pair of sockets");
        for round in 0..20_u8 {
            here.write_all(&[round; 100]).expect("room in the socket");
            let fd = types::Fd(there.as_raw_fd());
            let receive = opcode::Recv::new(fd, std::ptr::null_mut(), 0)
                .buf_group(BUFFER_GROUP)
                .build()
                .flags(squeue::Flags::BUFFER_SELECT);
            // SAFETY: the buffers outlive the ring's use of them below.
            unsafe { ring.submission().push(&receive).expect("room") };
            ring.submit_and_wait(1).expect("a completion");
            let end = ring.completion().next().expect("a completion");
            let id = cqueue::buffer_select(end.flags()).expect("a buffer was lent");
            assert_eq!(buffers.filled(id, end.result() as usize), [round; 100]);
            buffers.give_back(id);
        }
        drop(ring);
    }
}
