//! A shard's open files, and the ring's table of registered ones.

use std::fs::File;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use bytes::Buf;

use super::RingEdge;
use crate::buffer::BLOCK_BYTES;
use crate::edge::{Done, Fault, FileId, Token};
use crate::fault::{fault_of_error, fault_of_file};
use crate::flight::Task;
use crate::kernel::{KERNEL_FREES_FILES_AT_ONCE, KernelVersion};
use crate::submission::Submission;

pub(super) struct OpenFile {
    pub(super) file: File,
    pub(super) slot: Option<u32>,
    pub(super) under_way: u32,
}

/// Places in the ring's table of registered files.
pub(super) struct RegisteredFiles {
    pub(super) free: Vec<u32>,
    pub(super) sockets_too: bool,
}

impl RegisteredFiles {
    pub(super) fn new(submission: &Submission, count: u32) -> Self {
        // More than the process may open is refused as a whole: then halve.
        let mut count = count;
        while count != 0 && submission.submitter().register_files_sparse(count).is_err() {
            count /= 2;
        }
        let sockets_too =
            KernelVersion::running().is_some_and(|running| KERNEL_FREES_FILES_AT_ONCE <= running);
        Self { free: (0..count).rev().collect(), sockets_too }
    }

    pub(super) fn add(&mut self, submission: &Submission, fd: RawFd) -> Option<u32> {
        let slot = self.free.pop()?;
        match submission.submitter().register_files_update(slot, &[fd]) {
            Ok(1) => Some(slot),
            _ => {
                self.free.push(slot);
                None
            }
        }
    }

    pub(super) fn remove(&mut self, submission: &Submission, slot: Option<u32>) {
        let Some(slot) = slot else { return };
        let outcome = submission.submitter().register_files_update(slot, &[-1]);
        // A place that could not be emptied is not used again.
        if outcome.is_ok() {
            self.free.push(slot);
        }
    }
}

impl<M> RingEdge<M> {
    pub(super) fn handle_open(&mut self, key: usize, result: i32) {
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

    pub(super) fn handle_write(&mut self, key: usize, result: i32) {
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

    pub(super) fn handle_read(&mut self, key: usize, result: i32) {
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

    pub(super) fn end_file_op(&mut self, key: usize, file: usize, outcome: Result<Done, Fault>) {
        let token = self.land(key).token;
        self.files[file].under_way -= 1;
        self.complete(token, outcome);
    }

    pub(super) fn close_file(&mut self, token: Token, file: FileId) {
        let file = self.files.remove(file.0 as usize);
        assert!(file.under_way == 0, "a file is closed after all ops on it");
        self.registered.remove(&self.submission, file.slot);
        drop(file.file);
        self.complete(token, Ok(Done::Complete));
    }

    pub(super) fn launch_file_op(&mut self, token: Token, file: usize, task: Task) {
        self.files[file].under_way += 1;
        self.launch(token, task);
    }
}
