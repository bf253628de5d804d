//! Probes of the data directory: direct I/O, its alignment, durable writes, reserved space.
//!
//! They write one block to an unnamed file on the same file system. A data directory that does
//! not exist yet is judged by the nearest directory above it.

use std::ffi::CString;
use std::fs::{File, OpenOptions};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use super::Probe;
use crate::buffer::{AlignedBuffer, BLOCK_BYTES};

const NAME: &str = "data directory";
const DIRECT: &str = "direct I/O";
const SPACE: &str = "disk space";

/// Below this much free space not even the first journal files fit.
const FREE_BYTES_MIN: u64 = 128 << 20;

/// File systems that keep data elsewhere than on a disk of this machine.
const NOT_ON_DISK: [(i64, &str); 6] = [
    (0x0102_1994, "tmpfs keeps data in memory: it is gone after a restart of the machine"),
    (0x8584_58f6, "ramfs keeps data in memory: it is gone after a restart of the machine"),
    (0x6969, "NFS acknowledges and fails in ways a broker cannot build on"),
    (0xff53_4d42, "CIFS acknowledges and fails in ways a broker cannot build on"),
    (0x0102_1997, "9p hands every operation to another machine"),
    (0x794c_7630, "overlayfs copies files and belongs to a container's image: use a volume"),
];

pub(super) fn probes(data_dir: &Path) -> Vec<Probe> {
    // The empty path above a relative one is the current directory.
    let above = data_dir.ancestors().map(|dir| match dir.as_os_str().is_empty() {
        true => Path::new("."),
        false => dir,
    });
    if data_dir.exists() && !data_dir.is_dir() {
        let cause = format!("{} is no directory", data_dir.display());
        return vec![Probe::cannot(NAME, cause, "name a directory with --data-dir")];
    }
    let Some(dir) = above.into_iter().find(|dir| dir.is_dir()) else {
        let cause = format!("neither {} nor any directory above it exists", data_dir.display());
        return vec![Probe::cannot(NAME, cause, "give an absolute path with --data-dir")];
    };
    let mut probes = Vec::new();
    match unnamed_file(dir, libc::O_DIRECT) {
        Ok(file) => {
            probes.push(place(dir));
            probes.push(direct(&file, dir));
            probes.push(space(&file, dir));
        }
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
            probes.push(place(dir));
            probes.push(Probe::slower(
                DIRECT,
                format!(
                    "the file system of {} has none: every byte is copied once more",
                    dir.display()
                ),
                "keep the data on ext4 or XFS (--data-dir)",
            ));
        }
        Err(error) => {
            let fix = writable_fix(data_dir, &error);
            probes.push(Probe::cannot(NAME, not_writable(dir, &error), fix));
        }
    }
    probes
}

fn not_writable(dir: &Path, error: &io::Error) -> String {
    format!("no file can be made in {}: {error}", dir.display())
}

/// What gives this process the data directory in which it could make nothing.
#[must_use]
pub fn writable_fix(data_dir: &Path, error: &io::Error) -> String {
    if error.kind() != io::ErrorKind::PermissionDenied {
        return "choose another with --data-dir".to_owned();
    }
    let dir = std::path::absolute(data_dir).unwrap_or_else(|_| data_dir.to_owned());
    // SAFETY: a system call without arguments that always succeeds.
    let user = unsafe { libc::geteuid() };
    let dir = dir.display();
    format!("install -d -o {user} {dir}        (as root; or choose another with --data-dir)")
}

/// A file without a name: it is gone when it is closed.
fn unnamed_file(dir: &Path, flags: i32) -> io::Result<File> {
    let mut how = OpenOptions::new();
    how.read(true).write(true).mode(0o600);
    match how.custom_flags(libc::O_TMPFILE | flags).open(dir) {
        // Not all file systems know unnamed files: name it and take the name away at once.
        Err(error) if matches!(error.raw_os_error(), Some(libc::EOPNOTSUPP | libc::EISDIR)) => {
            let path = dir.join(format!(".tidemill-check-{}", std::process::id()));
            let file = how.create_new(true).custom_flags(flags).open(&path);
            // If it was made, it is there to be removed; if not, there is nothing to do.
            drop(std::fs::remove_file(&path));
            file
        }
        outcome => outcome,
    }
}

/// What kind of file system it is.
fn place(dir: &Path) -> Probe {
    let Some(path) = crate::chores::path_bytes(dir) else {
        return Probe::cannot(
            NAME,
            "its path contains a zero byte",
            "choose another with --data-dir",
        );
    };
    let Some(kind) = file_system_kind(&path) else {
        return Probe::ok(NAME, format!("{}", dir.display()));
    };
    match NOT_ON_DISK.iter().find(|(magic, _)| *magic == kind) {
        Some((_, why)) => Probe::slower(
            NAME,
            format!("{}: {why}", dir.display()),
            "keep the data on a local ext4 or XFS file system (--data-dir)",
        ),
        None => Probe::ok(NAME, format!("{}", dir.display())),
    }
}

fn file_system_kind(path: &CString) -> Option<i64> {
    let mut answer = MaybeUninit::<libc::statfs>::zeroed();
    // SAFETY: the path ends with a zero and the answer has room for one structure, which is valid
    // when zero, too.
    let answer = unsafe {
        if libc::statfs(path.as_ptr(), answer.as_mut_ptr()) != 0 {
            return None;
        }
        answer.assume_init()
    };
    // The type's width differs between processors; the numbers fit 32 bits.
    #[allow(clippy::unnecessary_cast)]
    Some(answer.f_type as i64 & 0xffff_ffff)
}

/// Writes a block past the page cache, durably, and looks at the alignment asked for.
fn direct(file: &File, dir: &Path) -> Probe {
    const FIX: &str =
        "keep the data on ext4 or XFS on a disk with blocks of at most 4096 bytes (--data-dir)";
    if let Some((memory, position)) = alignment(file)
        && (BLOCK_BYTES as u32) < memory.max(position)
    {
        let cause = format!(
            "{} asks for memory aligned to {memory} and positions aligned to {position} bytes; \
             we align to {BLOCK_BYTES}",
            dir.display()
        );
        return Probe::cannot(DIRECT, cause, FIX);
    }
    let block = AlignedBuffer::zeroed(BLOCK_BYTES);
    let part = libc::iovec { iov_base: block.as_ptr().cast_mut().cast(), iov_len: block.len() };
    // SAFETY: the block lives until the call returns, which only reads it.
    let written =
        unsafe { libc::pwritev2(file.as_raw_fd(), &raw const part, 1, 0, libc::RWF_DSYNC) };
    if usize::try_from(written) == Ok(BLOCK_BYTES) {
        return Probe::ok(DIRECT, format!("blocks of {BLOCK_BYTES} bytes, durable one by one"));
    }
    let error = io::Error::last_os_error();
    if matches!(error.raw_os_error(), Some(libc::ENOSPC | libc::EDQUOT)) {
        return Probe::slower(
            SPACE,
            format!("the file system of {} is full: nothing can be produced", dir.display()),
            format!(
                "df -h {}        (make room, or choose another with --data-dir)",
                dir.display()
            ),
        );
    }
    let cause = format!("a durable direct write to {} failed: {error}", dir.display());
    Probe::cannot(DIRECT, cause, FIX)
}

/// What direct I/O on `file` has to be aligned to, memory and position, if the kernel tells.
fn alignment(file: &File) -> Option<(u32, u32)> {
    let mut answer = MaybeUninit::<libc::statx>::zeroed();
    // SAFETY: the path is empty and ends with a zero; the answer has room for one structure,
    // which is valid when zero, too.
    let answer = unsafe {
        let result = libc::statx(
            file.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            libc::STATX_DIOALIGN,
            answer.as_mut_ptr(),
        );
        if result != 0 {
            return None;
        }
        answer.assume_init()
    };
    let told = answer.stx_mask & libc::STATX_DIOALIGN != 0 && answer.stx_dio_offset_align != 0;
    told.then_some((answer.stx_dio_mem_align, answer.stx_dio_offset_align))
}

/// Reserves a block ahead, as segments do when they grow, and looks at what is free.
fn space(file: &File, dir: &Path) -> Probe {
    let block = BLOCK_BYTES as libc::off_t;
    // SAFETY: a system call on an open descriptor; it touches no memory.
    let outcome = unsafe { libc::fallocate(file.as_raw_fd(), 0, block, block) };
    let error = io::Error::last_os_error();
    if outcome != 0 && error.raw_os_error() == Some(libc::EOPNOTSUPP) {
        let cause = format!("the file system of {} cannot reserve space", dir.display());
        return Probe::cannot(SPACE, cause, "keep the data on ext4, XFS or btrfs (--data-dir)");
    }
    let fix =
        format!("df -h {}        (make room, or choose another with --data-dir)", dir.display());
    match free_bytes(file) {
        Some(free) if free < FREE_BYTES_MIN => {
            Probe::slower(SPACE, format!("only {} MiB are free", free >> 20), fix)
        }
        Some(free) => Probe::ok(SPACE, format!("{} MiB are free", free >> 20)),
        None => Probe::ok(SPACE, "the file system does not tell what is free"),
    }
}

fn free_bytes(file: &File) -> Option<u64> {
    let mut answer = MaybeUninit::<libc::statvfs>::zeroed();
    // SAFETY: the answer has room for one structure, which is valid when zero, too.
    let answer = unsafe {
        if libc::fstatvfs(file.as_raw_fd(), answer.as_mut_ptr()) != 0 {
            return None;
        }
        answer.assume_init()
    };
    Some(answer.f_bavail.saturating_mul(answer.f_frsize))
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use super::*;
    use crate::preflight::Verdict;
    use crate::test_dir::TestDir;

    #[test]
    fn a_missing_directory_is_judged_by_the_one_above() {
        let dir = TestDir::new("disk");
        let probes = probes(&dir.path().join("a/b"));
        assert!(probes.iter().all(|probe| probe.verdict != Verdict::Cannot), "{probes:?}");
        assert!(probes[0].cause.contains(&dir.path().display().to_string()));
    }

    #[test]
    fn a_directory_where_no_file_can_be_made_is_refused() {
        let probes = probes(Path::new("/proc/tidemill"));
        assert!(probes.iter().any(|probe| probe.verdict == Verdict::Cannot), "{probes:?}");
    }

    /// The bug: the command to copy gave away the directory above.
    #[test]
    fn the_cure_for_a_missing_permission_names_the_directory_asked_for() {
        let denied = io::ErrorKind::PermissionDenied.into();
        let fix = writable_fix(Path::new("/srv/broker/data"), &denied);
        assert!(fix.starts_with("install -d -o "), "{fix}");
        assert!(fix.contains(" /srv/broker/data "), "{fix}");
        let full = io::ErrorKind::ReadOnlyFilesystem.into();
        assert!(!writable_fix(Path::new("/srv"), &full).contains("install"));
    }

    #[test]
    fn a_data_directory_that_is_a_file_is_refused_in_one_row() {
        let dir = TestDir::new("file");
        let file = dir.path().join("file");
        std::fs::write(&file, "x").unwrap();
        let probes = probes(&file);
        assert_eq!(probes.len(), 1);
        assert_eq!(probes[0].verdict, Verdict::Cannot);
    }

    #[test]
    fn a_relative_path_is_judged_by_the_current_directory() {
        assert!(probes(Path::new("no/such/place"))[0].cause.starts_with('.'));
    }
}
