//! Chores: work that may block or takes long, carried out away from the shards.
//!
//! All shards of a node put their chores into one queue; one background executor takes them out
//! ([`ChoreQueue`]) and tells the end of each one ([`ChoreJob::finish`]), which wakes the shard.
//! Which executor that is, the broker decides ([`Background`]): it may wait for work on the
//! queue's eventfd. [`BackgroundThread`] is a plain thread that does one after the other.
//!
//! [`perform`] carries one chore out with blocking calls. The queue holds no more than the shards
//! have ops under way, which the ring bounds.
//!
//! Start reading at [`ChoreQueue`].

use std::collections::VecDeque;
use std::ffi::CString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::buffer::{AlignedBuffer, BLOCK_BYTES};
use crate::doorbell::{Doorbell, event_fd, signal};
use crate::edge::{Chore, Completion, Computation, DirEntry, Done, Fault, Token};
use crate::fault::fault_of_error;

/// Zeros are written in pieces of this size.
const PREWRITE_BYTES: usize = 1 << 20;

/// A background executor: takes chores until the queue is closed.
pub trait Background: Send + 'static {
    /// Runs on a thread of its own; returns once [`ChoreQueue::is_closed`] and all is done.
    fn run(self, queue: ChoreQueue);
}

/// The background executor's side: chores of all shards, first come, first served.
#[derive(Debug)]
pub struct ChoreQueue {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    jobs: Mutex<VecDeque<ChoreJob>>,
    /// Signalled for each new job and when the last sender is gone.
    event: OwnedFd,
    senders: AtomicUsize,
}

impl ChoreQueue {
    /// The next chore, if one waits.
    #[must_use]
    pub fn take(&self) -> Option<ChoreJob> {
        self.shared.jobs().pop_front()
    }

    /// Whether no chore waits and none will come: all shards have stopped.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        // In this order: a sender that is gone has put in all it had.
        self.shared.senders.load(Ordering::Acquire) == 0 && self.shared.jobs().is_empty()
    }

    /// A descriptor to wait on: eight bytes can be read from it when there are new chores or the
    /// queue was closed. After each such read, take all there is.
    ///
    /// # Errors
    /// If the process may open no more files.
    pub fn event_fd(&self) -> io::Result<OwnedFd> {
        self.shared.event.try_clone()
    }

    /// Blocks this thread until there may be something to take, or the queue is closed.
    pub fn wait(&self) {
        let mut count = [0_u8; 8];
        // SAFETY: the eight bytes live until the call returns.
        let read = unsafe {
            libc::read(self.shared.event.as_raw_fd(), count.as_mut_ptr().cast(), count.len())
        };
        // An interrupted read only makes the caller look once more than needed.
        assert!(read == 8 || io::Error::last_os_error().kind() == io::ErrorKind::Interrupted);
    }
}

impl Shared {
    fn jobs(&self) -> MutexGuard<'_, VecDeque<ChoreJob>> {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One chore to be done. Dropped unfinished, it ends as cancelled.
#[derive(Debug)]
pub struct ChoreJob {
    chore: Chore,
    token: Token,
    /// Where to tell the end; taken when it has been told.
    back: Option<Arc<ChoreReturn>>,
}

impl ChoreJob {
    /// What is to be done.
    #[must_use]
    pub fn chore(&self) -> &Chore {
        &self.chore
    }

    /// Tells the shard how the chore ended, from any thread.
    pub fn finish(mut self, result: Result<Done, Fault>) {
        self.tell(result);
    }

    fn tell(&mut self, result: Result<Done, Fault>) {
        if let Some(back) = self.back.take() {
            back.push(Completion { token: self.token, result });
        }
    }
}

impl Drop for ChoreJob {
    fn drop(&mut self) {
        self.tell(Err(Fault::Other(libc::ECANCELED)));
    }
}

/// Where the ends of one shard's chores are left for it.
#[derive(Debug)]
struct ChoreReturn {
    any: AtomicBool,
    done: Mutex<VecDeque<Completion>>,
    doorbells: Arc<[Doorbell]>,
    shard: usize,
}

impl ChoreReturn {
    fn push(&self, completion: Completion) {
        {
            let mut done = self.done.lock().unwrap_or_else(PoisonError::into_inner);
            done.push_back(completion);
            self.any.store(true, Ordering::Release);
        }
        self.doorbells[self.shard].wake_from_outside();
    }
}

/// A shard's side of the queue.
#[derive(Debug)]
pub(crate) struct ChoreSender {
    shared: Arc<Shared>,
    back: Arc<ChoreReturn>,
}

impl ChoreSender {
    pub(crate) fn send(&self, token: Token, chore: Chore) {
        let job = ChoreJob { chore, token, back: Some(Arc::clone(&self.back)) };
        self.shared.jobs().push_back(job);
        signal(&self.shared.event);
    }

    /// Whether ends of chores wait to be taken.
    pub(crate) fn any_done(&self) -> bool {
        self.back.any.load(Ordering::Acquire)
    }

    /// Moves the ends of chores into `completions`; says how many they were.
    pub(crate) fn take_done(&self, completions: &mut VecDeque<Completion>) -> usize {
        if !self.any_done() {
            return 0;
        }
        let mut done = self.back.done.lock().unwrap_or_else(PoisonError::into_inner);
        self.back.any.store(false, Ordering::Release);
        let count = done.len();
        completions.extend(done.drain(..));
        count
    }
}

impl Drop for ChoreSender {
    fn drop(&mut self) {
        self.shared.senders.fetch_sub(1, Ordering::Release);
        signal(&self.shared.event);
    }
}

/// A queue with one sender per shard.
pub(crate) fn queue(doorbells: &Arc<[Doorbell]>) -> io::Result<(Vec<ChoreSender>, ChoreQueue)> {
    let shared = Arc::new(Shared {
        jobs: Mutex::new(VecDeque::new()),
        event: event_fd()?,
        senders: AtomicUsize::new(doorbells.len()),
    });
    let senders = (0..doorbells.len())
        .map(|shard| ChoreSender {
            shared: Arc::clone(&shared),
            back: Arc::new(ChoreReturn {
                any: AtomicBool::new(false),
                done: Mutex::new(VecDeque::new()),
                doorbells: Arc::clone(doorbells),
                shard,
            }),
        })
        .collect();
    Ok((senders, ChoreQueue { shared }))
}

/// The plain background executor: one chore after the other.
#[derive(Debug)]
pub struct BackgroundThread {
    root: PathBuf,
}

impl BackgroundThread {
    /// An executor for the data directory `root`.
    #[must_use]
    pub fn new(root: PathBuf) -> Self {
        Self { root }
    }
}

impl Background for BackgroundThread {
    fn run(self, queue: ChoreQueue) {
        while !queue.is_closed() {
            queue.wait();
            while let Some(job) = queue.take() {
                let result = perform(&self.root, job.chore());
                job.finish(result);
            }
        }
    }
}

/// From now on this thread runs only where no thread of usual priority wants to: one that wakes up
/// takes its core at once, where a thread that is merely nice would end its time slice first. If the
/// system does not allow even that, it is nice, or runs as all others do.
pub fn yield_to_others() {
    const NICEST: libc::c_int = 19;
    let none = libc::sched_param { sched_priority: 0 };
    // SAFETY: system calls on numbers and on a struct that lives throughout; 0 is the calling thread.
    // They change no memory.
    unsafe {
        if libc::sched_setscheduler(0, libc::SCHED_IDLE, &raw const none) != 0 {
            libc::setpriority(libc::PRIO_PROCESS, 0, NICEST);
        }
    }
}

/// Carries `chore` out, with blocking calls. Relative paths are below `root`.
///
/// # Errors
/// Whatever the file system says.
pub fn perform(root: &Path, chore: &Chore) -> Result<Done, Fault> {
    let outcome = match chore {
        Chore::MakeDir(dir) => make_dir(&root.join(dir)),
        Chore::SyncDir(dir) => File::open(root.join(dir)).and_then(|dir| dir.sync_all()),
        Chore::ListDir(dir) => {
            return list_dir(&root.join(dir)).map(Done::Listed).map_err(|e| fault_of_error(&e));
        }
        Chore::RemoveDir(dir) => fs::remove_dir(root.join(dir)),
        Chore::RemoveFile(path) => remove_file(&root.join(path)),
        Chore::Rename { from, to } => fs::rename(root.join(from), root.join(to)),
        Chore::Truncate { path, size } => truncate(&root.join(path), *size),
        Chore::Prewrite { path, size } => prewrite(&root.join(path), *size),
        Chore::SyncFileSystem => sync_file_system(root),
        Chore::Space => return space(root).map_err(|error| fault_of_error(&error)),
        Chore::Compute(Computation { bytes, wanted, work }) => {
            return Ok(Done::Computed(work(bytes, *wanted)));
        }
        Chore::Step(work) => {
            work.step();
            Ok(())
        }
    };
    outcome.map(|()| Done::Complete).map_err(|error| fault_of_error(&error))
}

fn make_dir(dir: &Path) -> io::Result<()> {
    match fs::create_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && dir.is_dir() => Ok(()),
        outcome => outcome,
    }
}

fn remove_file(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        outcome => outcome,
    }
}

fn list_dir(dir: &Path) -> io::Result<Vec<DirEntry>> {
    let mut entries = Vec::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let metadata = match entry.metadata() {
            // Removed since the listing began.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            outcome => outcome?,
        };
        let is_dir = metadata.is_dir();
        let size = if is_dir { 0 } else { metadata.len() };
        let name = entry.file_name().to_string_lossy().into_owned();
        entries.push(DirEntry { name, is_dir, size });
    }
    Ok(entries)
}

fn truncate(path: &Path, size: u64) -> io::Result<()> {
    let file = OpenOptions::new().write(true).open(path)?;
    file.set_len(size)?;
    file.sync_all()
}

/// Writes zeros past the page cache where the file system allows it, so that making journal
/// files does not push out what is being read.
fn prewrite(path: &Path, size: u64) -> io::Result<()> {
    let mut how = OpenOptions::new();
    how.write(true).create(true).truncate(true);
    let direct = how.clone().custom_flags(libc::O_DIRECT).open(path);
    let mut file = match direct {
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => how.open(path)?,
        outcome => outcome?,
    };
    let zeros = AlignedBuffer::zeroed(PREWRITE_BYTES);
    let mut left = size;
    while left != 0 {
        let piece = left.min(PREWRITE_BYTES as u64) as usize;
        if !piece.is_multiple_of(BLOCK_BYTES) {
            file = how.clone().truncate(false).append(true).open(path)?;
        }
        file.write_all(&zeros[..piece])?;
        left -= piece as u64;
    }
    file.sync_all()
}

fn sync_file_system(root: &Path) -> io::Result<()> {
    let root = File::open(root)?;
    // SAFETY: a system call on an open descriptor; it touches no memory.
    if unsafe { libc::syncfs(root.as_raw_fd()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

fn space(root: &Path) -> io::Result<Done> {
    let path = path_bytes(root).ok_or(io::ErrorKind::InvalidInput)?;
    let mut answer = MaybeUninit::<libc::statvfs>::zeroed();
    // SAFETY: the path ends with a zero, and the answer has room for what is written into it.
    if unsafe { libc::statvfs(path.as_ptr(), answer.as_mut_ptr()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: all bytes are set, to zero or by the call, and any bytes are an answer.
    let answer = unsafe { answer.assume_init() };
    let bytes = |blocks: u64| blocks.saturating_mul(answer.f_frsize);
    Ok(Done::Space { total_bytes: bytes(answer.f_blocks), usable_bytes: bytes(answer.f_bavail) })
}

/// `path` as the kernel wants it.
pub(crate) fn path_bytes(path: &Path) -> Option<CString> {
    CString::new(path.as_os_str().as_bytes()).ok()
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use super::*;
    use crate::edge::Refusal;
    use crate::test_dir::TestDir;
    use bytes::{Bytes, BytesMut};

    fn names(root: &Path) -> Vec<(String, bool, u64)> {
        let Ok(Done::Listed(mut entries)) = perform(root, &Chore::ListDir("".into())) else {
            panic!("the directory exists");
        };
        entries.sort();
        entries.into_iter().map(|e| (e.name, e.is_dir, e.size)).collect()
    }

    fn ok(root: &Path, chore: Chore) {
        assert!(matches!(perform(root, &chore), Ok(Done::Complete)), "{chore:?}");
    }

    /// A thread that is merely nice keeps its core until its time slice is over.
    #[test]
    fn a_thread_that_yields_gives_its_core_to_whoever_wakes_up() {
        let thread = std::thread::spawn(|| {
            yield_to_others();
            // SAFETY: a system call on a number; 0 is the calling thread. It touches no memory.
            unsafe { libc::sched_getscheduler(0) }
        });
        assert_eq!(thread.join().unwrap(), libc::SCHED_IDLE);
    }

    #[test]
    fn directories_and_files_are_made_listed_renamed_cut_and_removed() {
        let dir = TestDir::new("chores");
        let root = dir.path();
        ok(root, Chore::MakeDir("a".into()));
        ok(root, Chore::MakeDir("a".into()));
        ok(root, Chore::Prewrite { path: "f".into(), size: 10_000 });
        ok(root, Chore::Prewrite { path: "g".into(), size: 3 << 20 });
        assert_eq!(
            names(root),
            [("a".into(), true, 0), ("f".into(), false, 10_000), ("g".into(), false, 3 << 20)]
        );
        ok(root, Chore::Truncate { path: "g".into(), size: 5 });
        ok(root, Chore::Rename { from: "g".into(), to: "f".into() });
        ok(root, Chore::SyncDir("".into()));
        ok(root, Chore::SyncFileSystem);
        assert_eq!(names(root), [("a".into(), true, 0), ("f".into(), false, 5)]);
        ok(root, Chore::RemoveFile("f".into()));
        ok(root, Chore::RemoveFile("f".into()));
        ok(root, Chore::RemoveDir("a".into()));
        assert_eq!(names(root), []);
    }

    #[test]
    fn a_prewritten_file_has_its_blocks() {
        use std::os::unix::fs::MetadataExt;
        let dir = TestDir::new("prewrite");
        ok(dir.path(), Chore::Prewrite { path: "f".into(), size: 1 << 20 });
        let metadata = fs::metadata(dir.path().join("f")).expect("just made");
        assert!(1 << 20 <= metadata.blocks() * 512);
    }

    #[test]
    fn the_size_of_the_file_system_is_told() {
        let dir = TestDir::new("space");
        let Ok(Done::Space { total_bytes, usable_bytes }) = perform(dir.path(), &Chore::Space)
        else {
            panic!("the directory exists");
        };
        assert!(0 < usable_bytes && usable_bytes <= total_bytes);
    }

    #[test]
    fn what_is_computed_comes_from_its_bytes_alone() {
        let dir = TestDir::new("compute");
        let work = |bytes: &Bytes, [times, error]: [i64; 2]| match error {
            0 => Ok(BytesMut::from(&bytes.repeat(times as usize)[..])),
            error => Err(Refusal { reason: error as u32, places: Vec::new() }),
        };
        let compute = |wanted| {
            let chore = Computation { bytes: Bytes::from_static(b"ab"), wanted, work };
            match perform(dir.path(), &Chore::Compute(chore)) {
                Ok(Done::Computed(result)) => result,
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(compute([2, 0]).expect("no error asked for"), "abab");
        assert_eq!(compute([2, 7]), Err(Refusal { reason: 7, places: Vec::new() }));
    }

    #[test]
    fn a_missing_file_is_told_as_such() {
        let dir = TestDir::new("missing");
        let chore = Chore::Truncate { path: "none".into(), size: 0 };
        assert!(matches!(perform(dir.path(), &chore), Err(Fault::NotFound)));
        let chore = Chore::ListDir("none".into());
        assert!(matches!(perform(dir.path(), &chore), Err(Fault::NotFound)));
    }

    #[test]
    fn a_chore_dropped_unfinished_still_ends() {
        let doorbells: Arc<[Doorbell]> = vec![Doorbell::new().expect("eventfd")].into();
        let (senders, queue) = queue(&doorbells).expect("eventfd");
        senders[0].send(Token(3), Chore::SyncFileSystem);
        drop(queue.take().expect("one chore"));
        let mut done = VecDeque::new();
        assert_eq!(senders[0].take_done(&mut done), 1);
        assert_eq!(done[0].token, Token(3));
        assert!(matches!(done[0].result, Err(Fault::Other(libc::ECANCELED))));
        assert!(!queue.is_closed());
        drop(senders);
        assert!(queue.is_closed());
        queue.wait();
    }
}
