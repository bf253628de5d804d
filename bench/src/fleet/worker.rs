//! One process of several: does its share of each run it is told of, and tells what it measured.
//!
//! It reads its standard input and writes its standard output. At the end of its input it ends,
//! whatever it does: whoever started it is gone.

use std::io::{self, BufReader, Stdout};
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tidemill_runtime::clock;
use tidemill_runtime::edge::Instant;

use super::message::{FromWorker, Order, Start, ToWorker, boot_id, read_line, write_line};
use crate::load::Shared;
use crate::run::{Company, local};
use crate::settings::Share;
use crate::trouble::Trouble;
use crate::watch::Watch;

/// What the run under way shares with whoever listens to the other processes.
type Current = Arc<Mutex<Option<Arc<Shared>>>>;

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
        say(&end)?;
    }
}

fn say(message: &FromWorker) -> io::Result<()> {
    write_line(&mut io::stdout().lock(), message)
}

/// Carries out what concerns the run under way; passes on the rest.
fn hear(current: &Current, tell: &Sender<ToWorker>) {
    let mut input = BufReader::new(io::stdin());
    loop {
        let message = read_line(&mut input).ok().flatten();
        let running = current.lock().unwrap_or_else(PoisonError::into_inner).clone();
        match message {
            Some(ToWorker::Settled) => {
                if let Some(shared) = running {
                    shared.producing.fetch_sub(1, Ordering::AcqRel);
                }
            }
            Some(ToWorker::Stop) | None => {
                if let Some(shared) = running {
                    shared.over.store(true, Ordering::Release);
                }
                if message.is_none() {
                    return;
                }
            }
            Some(other) => {
                if tell.send(other).is_err() {
                    return;
                }
            }
        }
    }
}

fn one(order: &Order, told: &Receiver<ToWorker>, current: &Current) -> Result<FromWorker, Trouble> {
    let mut output: Stdout = io::stdout();
    let mut watch = Watch::forwarding(Box::new(move |tallies, cpu| {
        let tallies = tallies.clone();
        write_line(&mut output, &FromWorker::Interval { tallies, cpu })
    }));
    let mut company = Fellow { share: order.share, told, current };
    let measured = local(&order.settings, order.run, &mut company, &mut watch);
    *current.lock().unwrap_or_else(PoisonError::into_inner) = None;
    let measured = measured?;
    let used = measured.parts.iter().map(|part| part.generator).collect();
    Ok(FromWorker::End { ends: Box::new(measured.ends), used })
}

/// Begins with the others, and settles with them.
struct Fellow<'a> {
    share: Share,
    told: &'a Receiver<ToWorker>,
    current: &'a Current,
}

impl Company for Fellow<'_> {
    fn share(&self) -> Share {
        self.share
    }

    fn begin(&mut self, _: usize) -> Result<(Instant, i64), Trouble> {
        say(&FromWorker::Ready { boot_id: boot_id() })?;
        match self.told.recv() {
            Ok(ToWorker::Start(start)) => Ok(begin_at(&start)),
            _ => Err(Trouble::new("told otherwise before the start")),
        }
    }

    fn joined(&mut self, shared: &Arc<Shared>) {
        *self.current.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(shared));
    }

    fn settled(&mut self) {
        // If nobody hears it, the input has ended as well.
        drop(say(&FromWorker::Settled));
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
