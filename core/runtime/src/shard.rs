//! Threads of shards: started, pinned, run, joined.
//!
//! Each shard is one thread with one [`RingEdge`]. A panic in any of them ends the process: with
//! one shard's state lost the node cannot keep its promises, and a replica takes over.
//!
//! Start reading at [`run_shards`].

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Barrier};
use std::thread::{self, JoinHandle};

use core_affinity::CoreId;

use crate::chores::{self, Background, ChoreSender};
use crate::edge::{Program, ShardId};
use crate::mesh::{self, MeshOutside, MeshPort};
use crate::ring::{RingConfig, RingEdge};
use crate::socket::Listener;

/// What one shard starts with.
#[derive(Debug)]
pub struct ShardPlan<F> {
    /// The core its thread is pinned to; unpinned if there is none.
    pub core: Option<usize>,
    /// Its listeners: their places here are their [`crate::edge::ListenerId`]s.
    pub listeners: Vec<Listener>,
    /// Makes its program, on its own thread.
    pub make: F,
}

/// The running shards, as seen by a thread outside.
pub struct Handle<M> {
    poster: Poster<M>,
    threads: Vec<JoinHandle<()>>,
}

/// Posts messages into shards from any thread.
pub struct Poster<M> {
    outside: Arc<MeshOutside<M>>,
}

impl<M> Clone for Poster<M> {
    fn clone(&self) -> Self {
        Self { outside: Arc::clone(&self.outside) }
    }
}

impl<M> Poster<M> {
    /// Leaves `message` for `shard`, which sees it as coming from [`crate::OUTSIDE`].
    ///
    /// # Errors
    /// With the message, if too many wait there already.
    pub fn post(&self, shard: ShardId, message: M) -> Result<(), M> {
        let shard = usize::from(shard.0);
        self.outside.inboxes[shard].push(message)?;
        self.outside.doorbells[shard].wake_from_outside();
        Ok(())
    }

    /// How many shards there are.
    #[must_use]
    pub fn shards(&self) -> usize {
        self.outside.inboxes.len()
    }
}

impl<M> Handle<M> {
    /// Leaves `message` for `shard`, which sees it as coming from [`crate::OUTSIDE`].
    ///
    /// # Errors
    /// With the message, if too many wait there already.
    pub fn post(&self, shard: ShardId, message: M) -> Result<(), M> {
        self.poster.post(shard, message)
    }

    /// Something to post with from other threads.
    #[must_use]
    pub fn poster(&self) -> Poster<M> {
        self.poster.clone()
    }

    /// Waits until all shards have stopped and the background work is done.
    pub fn join(self) {
        for thread in self.threads {
            // A thread that panics takes the process with it.
            thread.join().expect("a shard's panic does not get here");
        }
    }
}

/// Starts one shard per plan, with a mesh between them and one background executor for all.
///
/// Returns once every shard has its ring; programs make their first turn only then.
///
/// # Errors
/// If a ring or a thread cannot be made: then nothing runs. [`crate::preflight`] tells why.
pub fn run_shards<M, P, F, B>(
    config: &RingConfig,
    plans: Vec<ShardPlan<F>>,
    background: B,
) -> io::Result<Handle<M>>
where
    M: Send + 'static,
    P: Program<RingEdge<M>>,
    F: FnOnce(ShardId) -> P + Send + 'static,
    B: Background,
{
    assert!(!plans.is_empty(), "a node has at least one shard");
    assert!(plans.len() < usize::from(u16::MAX), "shards are numbered by 16 bits");
    let (ports, outside) = mesh::weave(plans.len(), config.mesh_messages)?;
    let (senders, queue) = chores::queue(&outside.doorbells)?;
    let (report, reports) = sync_channel(plans.len());
    let gate = Gate {
        report,
        start: Arc::new(Barrier::new(plans.len())),
        failed: Arc::new(AtomicBool::new(false)),
    };

    let mut threads = vec![spawn("tidemill-background", move || background.run(queue))?];
    for ((plan, port), chores) in plans.into_iter().zip(ports).zip(senders) {
        let gate = gate.clone();
        let config = config.clone();
        let name = format!("tidemill-shard-{}", port.me().0);
        let body = move || run_shard(&config, plan, port, chores, gate);
        threads.push(spawn(&name, body)?);
    }
    drop(gate);
    let handle = Handle { poster: Poster { outside: Arc::new(outside) }, threads };
    // Ends when all shards have passed the gate.
    match reports.iter().reduce(|first, _| first) {
        None => Ok(handle),
        Some(error) => {
            handle.join();
            Err(error)
        }
    }
}

/// Where shards meet before their first turn.
#[derive(Clone)]
struct Gate {
    report: SyncSender<io::Error>,
    start: Arc<Barrier>,
    failed: Arc<AtomicBool>,
}

impl Gate {
    /// Waits for all shards; `None` if any of them could not make its edge.
    fn pass<M>(self, edge: io::Result<RingEdge<M>>) -> Option<RingEdge<M>> {
        let edge = match edge {
            Ok(edge) => Some(edge),
            Err(error) => {
                self.failed.store(true, Ordering::Release);
                // Fails only if the starter has gone, who then needs no report.
                drop(self.report.send(error));
                None
            }
        };
        self.start.wait();
        edge.filter(|_| !self.failed.load(Ordering::Acquire))
    }
}

fn run_shard<M, P, F>(
    config: &RingConfig,
    plan: ShardPlan<F>,
    port: MeshPort<M>,
    chores: ChoreSender,
    gate: Gate,
) where
    P: Program<RingEdge<M>>,
    F: FnOnce(ShardId) -> P,
{
    if let Some(core) = plan.core {
        // The core may have been taken from us since it was chosen: slower, not wrong.
        let _pinned = core_affinity::set_for_current(CoreId { id: core });
    }
    let shard = port.me();
    let edge = RingEdge::new(config, plan.listeners, port, chores);
    if let Some(edge) = gate.pass(edge) {
        edge.run((plan.make)(shard));
    }
}

/// A thread whose panic ends the process.
fn spawn(name: &str, body: impl FnOnce() + Send + 'static) -> io::Result<JoinHandle<()>> {
    thread::Builder::new().name(name.to_owned()).spawn(move || {
        if catch_unwind(AssertUnwindSafe(body)).is_err() {
            std::process::abort();
        }
    })
}
