//! Memory for direct I/O: aligned to [`BLOCK_BYTES`], taken from a pool and returned to it.
//!
//! A buffer is given away as [`Bytes`] ([`AlignedBuffer::freeze`]) and may be dropped on any
//! thread; its memory goes back to the pool it came from, if that pool has room and is not being
//! used at that moment, else to the allocator. A pool keeps no more than its limit.
//!
//! The memory is not registered with the ring. Registration would save the pinning of pages, but
//! most bytes written come from buffers that storage makes by itself, and a pool large enough to
//! serve it would exceed the memlock limit (8 MiB by default) of an ordinary user.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::fmt;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;
use std::sync::{Arc, Mutex};

use bytes::Bytes;

/// The alignment, and the unit of size, of everything read or written directly.
pub const BLOCK_BYTES: usize = 4096;

/// Sizes are rounded up to a power of two from one block to this: larger ones are not kept.
const POOLED_BYTES_MAX: usize = 1 << 20;
const SIZE_CLASSES: usize = (POOLED_BYTES_MAX / BLOCK_BYTES).ilog2() as usize + 1;

const _: () = {
    assert!(BLOCK_BYTES.is_power_of_two());
    assert!(POOLED_BYTES_MAX == BLOCK_BYTES << (SIZE_CLASSES - 1));
};

/// Bytes aligned to [`BLOCK_BYTES`].
pub struct AlignedBuffer {
    start: NonNull<u8>,
    size: usize,
    capacity: usize,
    home: Option<Arc<Shelf>>,
}

// SAFETY: the buffer owns its memory alone, so it may move to, and be read from, any thread.
unsafe impl Send for AlignedBuffer {}
// SAFETY: as above; a shared reference gives reading access only.
unsafe impl Sync for AlignedBuffer {}

impl AlignedBuffer {
    /// `size` zero bytes that belong to no pool.
    #[must_use]
    pub fn zeroed(size: usize) -> Self {
        Self::allocate(size, None)
    }

    fn allocate(size: usize, home: Option<Arc<Shelf>>) -> Self {
        let capacity = match class_of(size) {
            Some(class) => BLOCK_BYTES << class,
            None => size.next_multiple_of(BLOCK_BYTES),
        };
        let layout = layout_of(capacity);
        // Uninitialised memory must not be seen through a slice. A recycled buffer holds what it
        // held before, so zeroing is paid for only once.
        // SAFETY: the layout's size is at least one block, so not zero.
        let Some(start) = NonNull::new(unsafe { alloc_zeroed(layout) }) else {
            handle_alloc_error(layout);
        };
        Self { start, size, capacity, home }
    }

    /// Cuts the buffer to its first `size` bytes.
    ///
    /// # Panics
    /// If it holds fewer.
    pub fn truncate(&mut self, size: usize) {
        assert!(size <= self.size, "a buffer is cut, never extended");
        self.size = size;
    }

    /// The buffer as shared bytes; its memory is recycled when the last of them is dropped.
    #[must_use]
    pub fn freeze(self) -> Bytes {
        Bytes::from_owner(self)
    }
}

impl Deref for AlignedBuffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: `size` never exceeds `capacity`; all of it is initialised and ours.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.size) }
    }
}

impl DerefMut for AlignedBuffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `deref`, and the buffer is borrowed exclusively.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.size) }
    }
}

impl AsRef<[u8]> for AlignedBuffer {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl fmt::Debug for AlignedBuffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AlignedBuffer").field("size", &self.size).finish_non_exhaustive()
    }
}

impl Drop for AlignedBuffer {
    fn drop(&mut self) {
        let kept = self.home.take().is_some_and(|home| home.keep(self.start, self.capacity));
        if !kept {
            // SAFETY: allocated with this very layout, and not used after this.
            unsafe { dealloc(self.start.as_ptr(), layout_of(self.capacity)) };
        }
    }
}

/// A shard's spare buffers, by size.
#[derive(Debug)]
pub struct BufferPool {
    shelf: Arc<Shelf>,
}

impl BufferPool {
    /// A pool that keeps at most `limit_bytes` of spare memory.
    #[must_use]
    pub fn new(limit_bytes: usize) -> Self {
        let spare = Spare { by_class: Default::default(), bytes: 0 };
        Self { shelf: Arc::new(Shelf { limit_bytes, spare: Mutex::new(spare) }) }
    }

    /// A buffer of `size` bytes with any content.
    #[must_use]
    pub fn take(&self, size: usize) -> AlignedBuffer {
        let Some(class) = class_of(size) else { return AlignedBuffer::allocate(size, None) };
        let home = Some(Arc::clone(&self.shelf));
        match self.shelf.find(class) {
            Some(start) => AlignedBuffer { start, size, capacity: BLOCK_BYTES << class, home },
            None => AlignedBuffer::allocate(size, home),
        }
    }

    /// How much spare memory is kept now.
    #[must_use]
    pub fn spare_bytes(&self) -> usize {
        self.shelf.spare.lock().map_or(0, |spare| spare.bytes)
    }
}

/// Where spare buffers lie. The lock is the shard's own: others only try it, and give the memory
/// back to the allocator if they do not get it, so nobody ever waits.
#[derive(Debug)]
struct Shelf {
    limit_bytes: usize,
    spare: Mutex<Spare>,
}

#[derive(Debug)]
struct Spare {
    by_class: [Vec<NonNull<u8>>; SIZE_CLASSES],
    bytes: usize,
}

// SAFETY: the pointers are owned memory that nobody else refers to.
unsafe impl Send for Spare {}

impl Shelf {
    fn find(&self, class: usize) -> Option<NonNull<u8>> {
        let mut spare = self.spare.try_lock().ok()?;
        let start = spare.by_class[class].pop()?;
        spare.bytes -= BLOCK_BYTES << class;
        Some(start)
    }

    fn keep(&self, start: NonNull<u8>, capacity: usize) -> bool {
        let Some(class) = class_of(capacity) else { return false };
        let Ok(mut spare) = self.spare.try_lock() else { return false };
        if self.limit_bytes < spare.bytes + capacity {
            return false;
        }
        spare.bytes += capacity;
        spare.by_class[class].push(start);
        true
    }
}

impl Drop for Spare {
    fn drop(&mut self) {
        for (class, buffers) in self.by_class.iter_mut().enumerate() {
            for start in buffers.drain(..) {
                // SAFETY: kept buffers of this class were allocated with this layout.
                unsafe { dealloc(start.as_ptr(), layout_of(BLOCK_BYTES << class)) };
            }
        }
    }
}

/// The smallest class that holds `size` bytes.
fn class_of(size: usize) -> Option<usize> {
    let blocks = size.div_ceil(BLOCK_BYTES).max(1).next_power_of_two();
    let class = blocks.ilog2() as usize;
    (class < SIZE_CLASSES).then_some(class)
}

fn layout_of(capacity: usize) -> Layout {
    Layout::from_size_align(capacity, BLOCK_BYTES).expect("capacities are far below isize::MAX")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_buffer_is_aligned_and_as_long_as_asked() {
        let pool = BufferPool::new(1 << 20);
        for size in [1, 4096, 5000, 65_536, (1 << 20) + 1] {
            let buffer = pool.take(size);
            assert_eq!(buffer.len(), size);
            assert_eq!(buffer.as_ptr() as usize % BLOCK_BYTES, 0);
        }
    }

    #[test]
    fn the_memory_of_dropped_bytes_is_used_again() {
        let pool = BufferPool::new(1 << 20);
        let first = pool.take(8192).freeze();
        let address = first.as_ptr();
        let slice = first.slice(10..20);
        drop(first);
        assert_eq!(pool.spare_bytes(), 0, "a slice still holds it");
        drop(slice);
        assert_eq!(pool.spare_bytes(), 8192);
        assert_eq!(pool.take(5000).as_ptr(), address);
    }

    #[test]
    fn a_pool_keeps_no_more_than_its_limit() {
        let pool = BufferPool::new(10_000);
        let buffers: Vec<_> = (0..5).map(|_| pool.take(4096)).collect();
        drop(buffers);
        assert_eq!(pool.spare_bytes(), 8192);
    }

    #[test]
    fn a_buffer_may_be_dropped_on_another_thread_and_after_its_pool() {
        let pool = BufferPool::new(1 << 20);
        let mut buffer = pool.take(4096);
        buffer[4095] = 7;
        drop(pool);
        let bytes = buffer.freeze();
        std::thread::spawn(move || assert_eq!(bytes[4095], 7)).join().expect("no panic");
    }

    #[test]
    fn a_buffer_of_its_own_is_zero() {
        assert!(AlignedBuffer::zeroed(9000).iter().all(|&byte| byte == 0));
    }
}
