//! From the kernel's error numbers to the [`Fault`]s a shard acts upon.

use std::io;

use crate::edge::Fault;

/// The fault behind an I/O error of the standard library.
#[must_use]
pub fn fault_of_error(error: &io::Error) -> Fault {
    fault_of_file(error.raw_os_error().unwrap_or(libc::EIO))
}

/// What `errno` means when an operation on a file ended with it.
#[must_use]
pub fn fault_of_file(errno: i32) -> Fault {
    match errno {
        libc::ENOSPC | libc::EDQUOT => Fault::NoSpace,
        // A block device reports the medium, the target, the link or the protection information
        // by numbers of their own; the block layer hands them on unchanged.
        libc::EIO
        | libc::ENODATA
        | libc::EREMOTEIO
        | libc::ENOLINK
        | libc::EILSEQ
        | libc::ETIMEDOUT => Fault::Device,
        libc::ENOENT => Fault::NotFound,
        libc::EMFILE | libc::ENFILE => Fault::TooManyOpen,
        other => Fault::Other(other),
    }
}

/// What `errno` means when an operation on a socket ended with it.
#[must_use]
pub fn fault_of_socket(errno: i32) -> Fault {
    match errno {
        libc::ECONNRESET
        | libc::EPIPE
        | libc::ENOTCONN
        | libc::ECONNABORTED
        | libc::ESHUTDOWN
        | libc::ETIMEDOUT
        | libc::EHOSTUNREACH
        | libc::ENETUNREACH
        | libc::ENETDOWN
        | libc::ECANCELED
        | libc::EBADF => Fault::Disconnected,
        libc::EMFILE | libc::ENFILE => Fault::TooManyOpen,
        other => Fault::Other(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_and_a_used_up_quota_are_the_same_fault() {
        assert_eq!(fault_of_file(libc::ENOSPC), Fault::NoSpace);
        assert_eq!(fault_of_file(libc::EDQUOT), Fault::NoSpace);
    }

    #[test]
    fn a_time_out_is_the_device_on_a_file_and_the_other_side_on_a_socket() {
        assert_eq!(fault_of_file(libc::ETIMEDOUT), Fault::Device);
        assert_eq!(fault_of_socket(libc::ETIMEDOUT), Fault::Disconnected);
    }

    #[test]
    fn what_no_shard_acts_upon_keeps_its_number() {
        assert_eq!(fault_of_file(libc::EINVAL), Fault::Other(libc::EINVAL));
    }
}
