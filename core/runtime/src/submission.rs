//! The two queues shared with the kernel, and the one system call between them.
//!
//! What is pushed goes to the kernel with the next [`Submission::enter`], which also waits if
//! asked to. If the queue is full, what is in it goes at once; what the kernel does not take then
//! waits in a backlog, in order. Nothing pushed is ever lost.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use io_uring::types::{SubmitArgs, Timespec};
use io_uring::{IoUring, Submitter, squeue};

/// Flags of `io_uring_enter` (see its manual page).
const ENTER_GETEVENTS: u32 = 1 << 0;
const ENTER_EXT_ARG: u32 = 1 << 3;

/// The completion queue is larger than the submission queue: ops that wait occupy no place in
/// either, but may all complete in one turn. What does not fit, the kernel keeps.
const COMPLETIONS_PER_SUBMISSION: u32 = 4;

/// Whether to sleep in the kernel until something completes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Wait {
    /// Not at all.
    No,
    /// But no longer than this.
    For(Duration),
    /// However long it takes.
    Forever,
}

/// A ring, owned by the thread that made it.
pub(crate) struct Submission {
    ring: IoUring,
    backlog: VecDeque<squeue::Entry>,
}

impl Submission {
    /// A ring for `entries` submissions at a time. Only the calling thread may use it.
    pub(crate) fn new(entries: u32) -> io::Result<Self> {
        let ring = IoUring::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_taskrun_flag()
            .setup_submit_all()
            .setup_cqsize(entries * COMPLETIONS_PER_SUBMISSION)
            .build(entries)?;
        assert!(ring.params().is_feature_nodrop(), "part of every kernel we run on");
        Ok(Self { ring, backlog: VecDeque::new() })
    }

    pub(crate) fn submitter(&self) -> Submitter<'_> {
        self.ring.submitter()
    }

    /// Another descriptor of this ring, for the neighbours that ring the bell.
    pub(crate) fn duplicate_fd(&self) -> io::Result<OwnedFd> {
        // SAFETY: the ring's descriptor is open as long as the ring.
        let ring = unsafe { BorrowedFd::borrow_raw(self.ring.as_raw_fd()) };
        ring.try_clone_to_owned()
    }

    /// Puts `entry` into the queue for the kernel.
    ///
    /// # Safety
    /// All memory that `entry` points to must live, unmoved, until its completion is reaped.
    pub(crate) unsafe fn push(&mut self, entry: squeue::Entry) {
        if !self.backlog.is_empty() || !self.try_push(&entry) {
            self.backlog.push_back(entry);
            self.enter(Wait::No);
        }
    }

    fn try_push(&mut self, entry: &squeue::Entry) -> bool {
        // SAFETY: `push`'s caller promises what the kernel needs.
        unsafe { self.ring.submission().push(entry).is_ok() }
    }

    fn push_backlog(&mut self) {
        while let Some(entry) = self.backlog.pop_front() {
            if !self.try_push(&entry) {
                self.backlog.push_front(entry);
                return;
            }
        }
    }

    /// Submits what was pushed and, if asked to, sleeps until there is a completion.
    pub(crate) fn enter(&mut self, wait: Wait) {
        loop {
            let (queued, kernel_has_work) = {
                let queue = self.ring.submission();
                (queue.len(), queue.taskrun() || queue.cq_overflow())
            };
            if queued == 0 && wait == Wait::No && !kernel_has_work && self.backlog.is_empty() {
                return;
            }
            // With a backlog there is more to submit: not the time to sleep.
            let wait = if self.backlog.is_empty() { wait } else { Wait::No };
            let taken = self.enter_once(queued as u32, wait);
            if self.backlog.is_empty() || !taken {
                return;
            }
            self.push_backlog();
        }
    }

    /// One system call. False if the kernel takes nothing until completions have been reaped.
    fn enter_once(&mut self, queued: u32, wait: Wait) -> bool {
        let submitter = self.ring.submitter();
        // SAFETY: `push`'s callers promise that what is submitted points to living memory; the
        // time limit lives until the call returns.
        let outcome = unsafe {
            match wait {
                Wait::No => submitter.enter::<libc::sigset_t>(queued, 0, ENTER_GETEVENTS, None),
                Wait::Forever => {
                    submitter.enter::<libc::sigset_t>(queued, 1, ENTER_GETEVENTS, None)
                }
                Wait::For(duration) => {
                    let limit = Timespec::from(duration);
                    let args = SubmitArgs::new().timespec(&limit);
                    submitter.enter(queued, 1, ENTER_GETEVENTS | ENTER_EXT_ARG, Some(&args))
                }
            }
        };
        match outcome.map_err(|error| (error.raw_os_error(), error)) {
            Ok(_) => true,
            Err((Some(libc::ETIME | libc::EINTR), _)) => true,
            Err((Some(libc::EBUSY | libc::EAGAIN | libc::ENOMEM), _)) => false,
            // EBADR, for one: the kernel had no memory left to keep a completion. An op would
            // never end, so the shard cannot go on.
            Err((_, error)) => panic!("io_uring_enter failed: {error}"),
        }
    }

    /// The next completion, if any.
    pub(crate) fn reap(&mut self) -> Option<End> {
        let end = self.ring.completion().next()?;
        Some(End { user_data: end.user_data(), result: end.result(), flags: end.flags() })
    }
}

/// The kernel's word on one submission.
#[derive(Clone, Copy, Debug)]
pub(crate) struct End {
    /// As submitted.
    pub(crate) user_data: u64,
    /// What the system call of that kind would return, errors negated.
    pub(crate) result: i32,
    /// More about the result, to be read by the functions of [`cqueue`](io_uring::cqueue).
    pub(crate) flags: u32,
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use io_uring::opcode;

    use super::*;

    /// More than the queue holds, pushed at once, and more completions than their queue holds:
    /// each ends exactly once.
    #[test]
    fn a_full_queue_and_an_overflowing_one_lose_nothing() {
        const OPS: u64 = 1000;
        let mut ring = Submission::new(8).expect("io_uring");
        for number in 0..OPS {
            // SAFETY: no memory involved.
            unsafe { ring.push(opcode::Nop::new().build().user_data(number)) };
        }
        let mut ended = vec![0; OPS as usize];
        let mut left = OPS;
        while left != 0 {
            ring.enter(Wait::No);
            while let Some(end) = ring.reap() {
                ended[end.user_data as usize] += 1;
                left -= 1;
            }
        }
        assert!(ended.iter().all(|&times| times == 1));
    }

    #[test]
    fn waiting_ends_at_its_time_limit() {
        let mut ring = Submission::new(8).expect("io_uring");
        let before = crate::clock::monotonic();
        ring.enter(Wait::For(Duration::from_millis(2)));
        assert!(Duration::from_millis(2) <= crate::clock::monotonic().since(before));
    }
}
