//! One process of several: does its share of each run it is told of, and tells what it measured.
//!
//! It reads its standard input and writes its standard output. At the end of its input it ends,
//! whatever it does: whoever started it is gone.

use std::io::{self, BufReader};
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tidemill_runtime::clock;
use tidemill_runtime::edge::Instant;

use super::message::{FromWorker, Order, Start, ToWorker, Told, boot_id, read_line, write_line};
use crate::load::Shared;
use crate::run::{Company, local};
use crate::settings::Share;
use crate::trouble::Trouble;
use crate::watch::Watch;

/// The run under way, as whoever listens to the other processes knows it.
#[derive(Debug, Default)]
struct Standing {
    run: u64,
    /// What its shards share, once they are there.
    shared: Option<Arc<Shared>>,
    /// The end came before that.
    stopped: bool,
    /// So did the end of its time.
    cut_at: Option<Instant>,
}

impl Standing {
    /// A run begins.
    fn begin(&mut self, run: u64) {
        *self = Self { run, ..Self::default() };
    }

    /// Its shards are there.
    fn join(&mut self, shared: &Arc<Shared>) {
        shared.over.fetch_or(self.stopped, Ordering::AcqRel);
        if let Some(at) = self.cut_at {
            shared.cut(at);
        }
        self.shared = Some(Arc::clone(shared));
    }

    /// Nobody else produces any more.
    fn settle(&self, run: u64) {
        if let Some(shared) = self.shared.as_ref().filter(|_| run == self.run) {
            shared.producing.fetch_sub(1, Ordering::AcqRel);
        }
    }

    /// The time of the run is over: now, or as soon as its shards are there.
    fn cut(&mut self, run: u64, at: Instant) {
        if run == self.run {
            self.cut_at = Some(at);
            if let Some(shared) = &self.shared {
                shared.cut(at);
            }
        }
    }

    /// The run is to end: now, or as soon as its shards are there.
    fn stop(&mut self, run: u64) {
        if run == self.run {
            self.stopped = true;
            if let Some(shared) = &self.shared {
                shared.over.store(true, Ordering::Release);
            }
        }
    }

    /// Whoever started this process is gone.
    fn leave(&mut self) {
        self.stop(self.run);
    }
}

type Current = Arc<Mutex<Standing>>;

fn standing(current: &Current) -> MutexGuard<'_, Standing> {
    current.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Serves until the input ends.
pub fn serve() -> Result<(), Trouble> {
    let current = Current::default();
    let (tell, told) = channel();
    let heard = Arc::clone(&current);
    thread::spawn(move || hear(&heard, &tell));
    loop {
        let order = match told.recv() {
            Ok(ToWorker::Order(order)) => order,
            // What was meant for a run that has ended.
            Ok(_) => continue,
            Err(_) => return Ok(()),
        };
        let end = one(&order, &told, &current).unwrap_or_else(|trouble| {
            let text = trouble.to_string();
            FromWorker::Failed(text)
        });
        say(order.run, end)?;
    }
}

fn say(run: u64, word: FromWorker) -> io::Result<()> {
    write_line(&mut io::stdout().lock(), &Told { run, word })
}

/// Carries out what concerns the run under way; passes on the rest.
fn hear(current: &Current, tell: &Sender<ToWorker>) {
    let mut input = BufReader::new(io::stdin());
    loop {
        let Some(message) = read_line(&mut input).ok().flatten() else {
            return standing(current).leave();
        };
        match message {
            ToWorker::Settled(run) => standing(current).settle(run),
            ToWorker::Stop(run) => standing(current).stop(run),
            ToWorker::Cut(run) => standing(current).cut(run, clock::monotonic()),
            other => {
                if let ToWorker::Order(order) = &other {
                    standing(current).begin(order.run);
                }
                if tell.send(other).is_err() {
                    return;
                }
            }
        }
    }
}

fn one(order: &Order, told: &Receiver<ToWorker>, current: &Current) -> Result<FromWorker, Trouble> {
    let run = order.run;
    let mut watch = Watch::forwarding(Box::new(move |tallies, cpu| {
        let tallies = tallies.clone();
        say(run, FromWorker::Interval { tallies, cpu })
    }));
    let mut company = Fellow { run, share: order.share, told, current };
    let measured = local(&order.settings, run, &mut company, &mut watch)?;
    let used = measured.parts.iter().map(|part| part.generator).collect();
    Ok(FromWorker::End { ends: Box::new(measured.ends), used })
}

/// Begins with the others, and settles with them.
struct Fellow<'a> {
    run: u64,
    share: Share,
    told: &'a Receiver<ToWorker>,
    current: &'a Current,
}

impl Company for Fellow<'_> {
    fn share(&self) -> Share {
        self.share
    }

    fn begin(&mut self, _: usize) -> Result<(Instant, i64), Trouble> {
        say(self.run, FromWorker::Ready { boot_id: boot_id() })?;
        match self.told.recv() {
            Ok(ToWorker::Start(start)) => Ok(begin_at(&start)),
            _ => Err(Trouble::new("told otherwise before the start")),
        }
    }

    fn joined(&mut self, shared: &Arc<Shared>) {
        standing(self.current).join(shared);
    }

    fn settled(&mut self) {
        // If nobody hears it, the input has ended as well.
        drop(say(self.run, FromWorker::Settled));
    }
}

/// The start by this machine's clock, and by the wall clock in milliseconds.
fn begin_at(start: &Start) -> (Instant, i64) {
    let unix_ms = (start.unix_nanos / 1_000_000) as i64;
    if start.boot_id == boot_id() {
        return (Instant { nanos: start.monotonic_nanos }, unix_ms);
    }
    let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let left = Duration::from_nanos(start.unix_nanos).saturating_sub(wall);
    (clock::monotonic().after(left), unix_ms)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_over(shared: &Arc<Shared>) -> bool {
        shared.over.load(Ordering::Acquire)
    }

    /// The word to stop came between the start and the first shard, and was lost: the worker put
    /// its load on, alone.
    #[test]
    fn a_stop_before_the_shards_are_there_is_remembered() {
        let (mut standing, shared) = (Standing::default(), Arc::new(Shared::default()));
        standing.begin(7);
        standing.stop(7);
        standing.join(&shared);
        assert!(is_over(&shared));
    }

    /// The end of its time, too, may come before the first shard.
    #[test]
    fn a_cut_before_the_shards_are_there_is_remembered() {
        let (mut standing, shared) = (Standing::default(), Arc::new(Shared::default()));
        standing.begin(7);
        standing.cut(7, Instant { nanos: 5 });
        standing.cut(6, Instant { nanos: 4 });
        standing.join(&shared);
        assert_eq!((shared.cut_at(), is_over(&shared)), (Some(Instant { nanos: 5 }), false));
    }

    /// What is said of one run does not touch the next.
    #[test]
    fn a_late_word_is_of_its_own_run() {
        let (mut standing, shared) = (Standing::default(), Arc::new(Shared::default()));
        shared.producing.store(2, Ordering::Release);
        standing.begin(7);
        standing.stop(7);
        standing.begin(8);
        standing.join(&shared);
        standing.stop(7);
        standing.settle(7);
        assert!(!is_over(&shared));
        assert_eq!(shared.producing.load(Ordering::Acquire), 2);
        standing.settle(8);
        assert_eq!(shared.producing.load(Ordering::Acquire), 1);
        standing.leave();
        assert!(is_over(&shared), "whoever is alone ends");
    }
}
