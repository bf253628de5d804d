//! The background executor: file system work that would hold up a shard.
//!
//! One glommio executor per node, on no particular core, takes the shards' chores. Long streams of
//! writes (the zeros of a journal file) go through its own direct I/O, piece by piece, so that
//! other chores get their turn in between; calls that simply block run on its blocking threads.
//! Steps of long computations (compaction) have a thread of their own that yields to all others: a
//! core that a shard wants is the shard's.
//! This is the only module that knows glommio.

use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::mpsc;

use glommio::io::DmaFile;
use glommio::{GlommioError, LocalExecutorBuilder, Placement, PoolPlacement};
use tidemill_runtime::chores::{
    Background, BackgroundThread, ChoreJob, ChoreQueue, perform, yield_to_others,
};
use tidemill_runtime::edge::{Chore, Done, Fault};

/// Zeros are written in pieces of this size, with a turn for other chores after each.
const PIECE_BYTES: usize = 1 << 20;

/// One thread waits for chores, the others carry out those that block.
const BLOCKING_THREADS: usize = 3;

/// Carries out the chores of all shards.
#[derive(Clone, Debug)]
pub struct BackgroundExecutor {
    root: PathBuf,
}

impl BackgroundExecutor {
    /// For the data directory at `root`.
    pub fn new(root: PathBuf) -> Self {
        Self { root }
    }
}

impl Background for BackgroundExecutor {
    fn run(self, queue: ChoreQueue) {
        let builder = LocalExecutorBuilder::new(Placement::Unbound)
            .blocking_thread_pool_placement(PoolPlacement::Unbound(BLOCKING_THREADS))
            .name("tidemill-background");
        let steps = steps_thread();
        match (builder.make(), steps) {
            (Ok(executor), Ok(steps)) => executor.run(serve(self.root, queue, steps)),
            (Err(error), _) => {
                tracing::warn!(%error, "no glommio executor: chores run one after the other");
                BackgroundThread::new(self.root).run(queue);
            }
            (_, Err(error)) => {
                tracing::warn!(%error, "no thread for steps: chores run one after the other");
                BackgroundThread::new(self.root).run(queue);
            }
        }
    }
}

/// The thread for the steps of long computations; it ends when nobody can send it one.
fn steps_thread() -> std::io::Result<mpsc::Sender<ChoreJob>> {
    let (steps, jobs) = mpsc::channel::<ChoreJob>();
    let work = move || {
        yield_to_others();
        while let Ok(job) = jobs.recv() {
            let result = perform(Path::new(""), job.chore());
            job.finish(result);
        }
    };
    std::thread::Builder::new().name("tidemill-steps".to_owned()).spawn(work)?;
    Ok(steps)
}

async fn serve(root: PathBuf, queue: ChoreQueue, steps: mpsc::Sender<ChoreJob>) {
    let root: Rc<Path> = root.into();
    let queue = std::sync::Arc::new(queue);
    while !queue.is_closed() {
        let waiter = std::sync::Arc::clone(&queue);
        glommio::executor().spawn_blocking(move || waiter.wait()).await;
        while let Some(job) = queue.take() {
            if let Chore::Step(_) = job.chore() {
                // A job that nobody takes any more ends as cancelled.
                let _ = steps.send(job);
                continue;
            }
            glommio::spawn_local(carry_out(Rc::clone(&root), job)).detach();
        }
    }
    // No shard waits any more once the queue is closed: what they asked for has ended.
}

async fn carry_out(root: Rc<Path>, job: ChoreJob) {
    let chore = job.chore().clone();
    let result = match &chore {
        Chore::Prewrite { path, size } if size % PIECE_BYTES as u64 == 0 => {
            prewrite(&root.join(path), *size).await.map_err(fault_of)
        }
        _ => {
            let root = root.to_path_buf();
            glommio::executor().spawn_blocking(move || perform(&root, &chore)).await
        }
    };
    job.finish(result);
}

async fn prewrite(path: &Path, size: u64) -> Result<Done, GlommioError<()>> {
    let file = DmaFile::create(path).await?;
    let mut position = 0;
    while position < size {
        let piece_bytes = (size - position).min(PIECE_BYTES as u64) as usize;
        let mut zeros = file.alloc_dma_buffer(piece_bytes);
        zeros.as_bytes_mut().fill(0);
        // A short write is gone on with: what remains is aligned, as all direct writes are.
        position += file.write_at(zeros, position).await? as u64;
        glommio::yield_if_needed().await;
    }
    file.fdatasync().await?;
    file.close().await?;
    Ok(Done::Complete)
}

fn fault_of(error: GlommioError<()>) -> Fault {
    let errno = std::io::Error::from(error).raw_os_error();
    match errno {
        Some(libc::ENOSPC | libc::EDQUOT) => Fault::NoSpace,
        Some(libc::EIO) => Fault::Device,
        Some(libc::ENOENT) => Fault::NotFound,
        Some(errno) => Fault::Other(errno),
        None => Fault::Other(0),
    }
}
