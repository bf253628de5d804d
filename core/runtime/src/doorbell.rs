//! How a sleeping shard is woken: a flag that says whether it sleeps, and two bells.
//!
//! Waking costs a system call, so nobody rings at a shard that is awake. The shard announces its
//! sleep and then looks once more at everything that could hold work for it; whoever leaves work
//! does so first and then looks at the flag. Between the write and the look of either side lies a
//! full fence (Dekker's protocol), so at least one of the two sees the other: no wake-up is lost.
//! `tests::loom` tries all interleavings.
//!
//! A neighbour rings through its own ring (MSG_RING, together with its turn's other submissions);
//! threads without a ring write to an eventfd that the sleeper's ring reads.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::OnceLock;

#[cfg(loom)]
use loom::sync::atomic::{AtomicBool, Ordering, fence};
#[cfg(not(loom))]
use std::sync::atomic::{AtomicBool, Ordering, fence};

/// Whether a shard sleeps, and who wakes it.
#[derive(Debug)]
pub(crate) struct SleepFlag {
    asleep: AtomicBool,
}

impl SleepFlag {
    pub(crate) fn new() -> Self {
        Self { asleep: AtomicBool::new(false) }
    }

    /// The shard is about to sleep. It must look for work once more after this.
    pub(crate) fn announce_sleep(&self) {
        self.asleep.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }

    /// The shard is awake.
    pub(crate) fn end_sleep(&self) {
        self.asleep.store(false, Ordering::Relaxed);
    }

    /// Work has been left for the shard: true for the one caller who has to ring.
    pub(crate) fn claim_wake(&self) -> bool {
        fence(Ordering::SeqCst);
        self.asleep.load(Ordering::Relaxed) && self.asleep.swap(false, Ordering::Relaxed)
    }
}

/// All it takes to wake one shard.
#[derive(Debug)]
pub(crate) struct Doorbell {
    pub(crate) sleep: SleepFlag,
    event: OwnedFd,
    /// The shard's ring, kept open here so that its number cannot come to mean another file.
    ring: OnceLock<OwnedFd>,
}

impl Doorbell {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self { sleep: SleepFlag::new(), event: event_fd()?, ring: OnceLock::new() })
    }

    /// Tells neighbours where to ring.
    pub(crate) fn set_ring(&self, ring: OwnedFd) {
        assert!(self.ring.set(ring).is_ok(), "a shard makes its ring once");
    }

    pub(crate) fn ring_fd(&self) -> Option<RawFd> {
        self.ring.get().map(AsRawFd::as_raw_fd)
    }

    pub(crate) fn event_fd(&self) -> RawFd {
        self.event.as_raw_fd()
    }

    /// Wakes the shard if it sleeps, from a thread that has no ring.
    pub(crate) fn wake_from_outside(&self) {
        if self.sleep.claim_wake() {
            signal(&self.event);
        }
    }

    /// Wakes the shard, asleep or not.
    pub(crate) fn wake_always(&self) {
        signal(&self.event);
    }
}

/// A counter that a ring or a blocking read can wait for.
pub(crate) fn event_fd() -> io::Result<OwnedFd> {
    // SAFETY: makes a descriptor or fails; it touches no memory.
    let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor is new and nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Adds one to an eventfd.
pub(crate) fn signal(event: &OwnedFd) {
    let one = 1_u64.to_ne_bytes();
    // SAFETY: the eight bytes live until the call returns.
    let written = unsafe { libc::write(event.as_raw_fd(), one.as_ptr().cast(), one.len()) };
    // The counter is read after each wake-up; it would block only at 2^64 - 1.
    assert!(written == 8, "an eventfd takes eight bytes: {}", io::Error::last_os_error());
}

#[cfg(test)]
mod tests {
    #[cfg(not(loom))]
    use super::*;

    #[cfg(not(loom))]
    #[test]
    fn only_a_sleeper_is_woken_and_only_by_one() {
        let flag = SleepFlag::new();
        assert!(!flag.claim_wake(), "it is awake");
        flag.announce_sleep();
        assert!(flag.claim_wake());
        assert!(!flag.claim_wake(), "somebody is at it already");
        flag.announce_sleep();
        flag.end_sleep();
        assert!(!flag.claim_wake());
    }

    /// All interleavings of two shards leaving work for a third that goes to sleep.
    #[cfg(loom)]
    mod loom {
        use loom::sync::Arc;
        use loom::sync::atomic::{AtomicUsize, Ordering};
        use loom::thread;

        use crate::doorbell::SleepFlag;

        struct World {
            flag: SleepFlag,
            /// Stands for the mesh queues: written before the flag is looked at.
            work: [AtomicUsize; 2],
            rings: AtomicUsize,
        }

        fn leave_work(world: &World, by: usize) {
            world.work[by].store(1, Ordering::Release);
            if world.flag.claim_wake() {
                world.rings.fetch_add(1, Ordering::Release);
            }
        }

        fn sees_work(world: &World) -> bool {
            world.work.iter().any(|work| work.load(Ordering::Acquire) != 0)
        }

        #[test]
        fn a_shard_that_sleeps_over_work_has_been_rung_at() {
            loom::model(|| {
                let world = Arc::new(World {
                    flag: SleepFlag::new(),
                    work: [AtomicUsize::new(0), AtomicUsize::new(0)],
                    rings: AtomicUsize::new(0),
                });
                let neighbours: Vec<_> = (0..2)
                    .map(|by| {
                        let world = Arc::clone(&world);
                        thread::spawn(move || leave_work(&world, by))
                    })
                    .collect();

                world.flag.announce_sleep();
                let stays_awake = sees_work(&world);
                if stays_awake {
                    world.flag.end_sleep();
                }
                for neighbour in neighbours {
                    neighbour.join().expect("no panic");
                }

                let rings = world.rings.load(Ordering::Acquire);
                assert!(stays_awake || rings == 1, "asleep over work, {rings} rings");
                assert!(rings <= 1, "one sleep, at most one ring");
            });
        }
    }
}
