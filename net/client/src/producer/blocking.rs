//! The producer for applications: records are taken at once, a thread of its own sends them.
//!
//! The application and the thread share a [`ProducerCore`] behind a lock that nobody holds while
//! waiting. The thread sleeps in poll; who gives it something to do rings a bell (a socket pair),
//! unless it is awake anyway.

use std::fmt;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::core::{ProducerCore, Refusal};
use super::{ProducerConfig, Record, Report};
use crate::driver::Driver;
use crate::error::{Error, ErrorKind};
use crate::time::Instant;

/// Why a record was not taken. It comes back, to be sent later or elsewhere.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct SendRefused {
    /// Why.
    pub error: Error,
    /// The record.
    pub record: Box<Record>,
}

impl fmt::Display for SendRefused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)
    }
}

impl std::error::Error for SendRefused {}

/// Sends records to topics. Can be shared between threads.
///
/// ```no_run
/// use tidemill_client::{Producer, ProducerConfig, Record};
///
/// let producer = Producer::open(ProducerConfig::new("localhost:9092")?)?;
/// for number in 0..1000 {
///     producer.send_blocking(Record::to("greetings").value(format!("hello {number}")))?;
/// }
/// producer.close()?; // waits until all are stored, or says why not
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Producer {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<Inner>,
    /// Something was stored or given up.
    progress: Condvar,
    start: std::time::Instant,
    bell: UnixStream,
}

#[derive(Debug)]
struct Inner {
    core: ProducerCore,
    /// Until when the thread sleeps; none while it is awake, or has been rung for.
    asleep_until: Option<Instant>,
    ending: bool,
}

impl Shared {
    fn now(&self) -> Instant {
        Instant::default().plus(self.start.elapsed())
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Whoever panicked while holding it has left a record half taken at worst; its batch is
        // built only from whole ones.
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Wakes the thread if it would sleep too long.
    fn ring(&self, inner: &mut Inner) {
        let Some(asleep_until) = inner.asleep_until else { return };
        let now = self.now();
        let due = inner.core.next_deadline().is_some_and(|next| next < asleep_until);
        if due || inner.ending || inner.core.has_work(now) {
            inner.asleep_until = None;
            // If the pair is full of rings, the thread will wake anyway.
            let _ = (&self.bell).write(&[1]);
        }
    }
}

impl Producer {
    /// A producer. Nothing is connected before the first record.
    pub fn open(mut config: ProducerConfig) -> Result<Producer, Error> {
        let system = |error: std::io::Error| {
            Error::new(ErrorKind::Invalid, "cannot make a producer").because(error)
        };
        if config.cluster.seed == 0 {
            config.cluster.seed = crate::driver::seed();
        }
        let wall_clock = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let mut core = ProducerCore::new(config, wall_clock.as_millis() as i64)?;
        core.cluster().tick(Instant::default());
        let (bell, ear) = UnixStream::pair().map_err(system)?;
        bell.set_nonblocking(true).map_err(system)?;
        ear.set_nonblocking(true).map_err(system)?;
        let driver = Driver::new();
        let shared = Arc::new(Shared {
            state: Mutex::new(Inner { core, asleep_until: None, ending: false }),
            progress: Condvar::new(),
            start: driver.start(),
            bell,
        });
        let theirs = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name("tidemill-send".to_owned())
            .spawn(move || run(&theirs, driver, ear))
            .map_err(system)?;
        Ok(Producer { shared, thread: Some(thread) })
    }

    /// Takes a record, without waiting. It is refused if the buffer is full: send it again later,
    /// or use [`Producer::send_blocking`].
    pub fn send(&self, record: Record) -> Result<(), SendRefused> {
        let mut inner = self.shared.lock();
        self.send_locked(&mut inner, record)
    }

    fn send_locked(&self, inner: &mut Inner, record: Record) -> Result<(), SendRefused> {
        let taken = inner.core.send(record, self.shared.now());
        self.shared.ring(inner);
        taken.map_err(|not_taken| SendRefused {
            error: match not_taken.refusal {
                Refusal::Never(error) => error,
                Refusal::Full => Error::new(ErrorKind::Full, "cannot take the record")
                    .because("as much is under way as buffer_bytes allows")
                    .fix("send it again later; take reports if they are on; or allow more"),
            },
            record: Box::new(not_taken.record),
        })
    }

    /// Takes a record, and waits for room if there is none, at most for the delivery timeout.
    pub fn send_blocking(&self, record: Record) -> Result<(), SendRefused> {
        let patience = self.shared.lock().core.delivery_timeout();
        self.send_within(record, patience)
    }

    /// Takes a record, and waits for room if there is none, at most so long.
    pub fn send_within(&self, record: Record, patience: Duration) -> Result<(), SendRefused> {
        let mut inner = self.shared.lock();
        let mut refused = match self.send_locked(&mut inner, record) {
            Err(refused) if refused.error.kind() == ErrorKind::Full => refused,
            done => return done,
        };
        let start = std::time::Instant::now();
        loop {
            let left = patience.saturating_sub(start.elapsed());
            if left.is_zero() || inner.core.has_reports() {
                return Err(refused);
            }
            inner = self.wait(inner, left);
            refused = match self.send_locked(&mut inner, *refused.record) {
                Err(refused) if refused.error.kind() == ErrorKind::Full => refused,
                done => return done,
            };
        }
    }

    /// The fates of batches that have become known, if [`ProducerConfig::reports`] is on.
    pub fn take_reports(&self) -> Vec<Report> {
        let mut inner = self.shared.lock();
        let reports = std::iter::from_fn(|| inner.core.poll_report()).collect();
        self.shared.progress.notify_all();
        reports
    }

    /// Sends what is there and waits until all of it is stored. Fails if any record was given up
    /// since that was last told: with the first reason, and how many.
    ///
    /// It ends, because every record is stored or given up within the delivery timeout.
    pub fn flush(&self) -> Result<(), Error> {
        while !self.flush_within(Duration::from_secs(1))? {}
        Ok(())
    }

    /// As [`Producer::flush`], but waits at most so long; false if some are still under way.
    pub fn flush_within(&self, patience: Duration) -> Result<bool, Error> {
        let start = std::time::Instant::now();
        let mut inner = self.shared.lock();
        inner.core.flush();
        while !inner.core.is_drained() {
            let left = patience.saturating_sub(start.elapsed());
            if left.is_zero() {
                return Ok(false);
            }
            self.shared.ring(&mut inner);
            inner = self.wait(inner, left);
        }
        tell_failures(&mut inner.core).map(|()| true)
    }

    /// Fails if any record was given up since that was last told, without waiting for those under
    /// way.
    pub fn check(&self) -> Result<(), Error> {
        tell_failures(&mut self.shared.lock().core)
    }

    /// What keeps records from being stored just now, for whoever waits in vain; `None` if nothing
    /// is known to. They may be stored yet, as when a broker is about to come back.
    pub fn trouble(&self) -> Option<Error> {
        self.shared.lock().core.trouble()
    }

    /// Flushes, and ends the producer.
    pub fn close(mut self) -> Result<(), Error> {
        let flushed = self.flush();
        self.end();
        flushed
    }

    fn wait<'a>(&self, inner: MutexGuard<'a, Inner>, most: Duration) -> MutexGuard<'a, Inner> {
        match self.shared.progress.wait_timeout(inner, most) {
            Ok((inner, _)) => inner,
            Err(poisoned) => poisoned.into_inner().0,
        }
    }

    fn end(&mut self) {
        let Some(thread) = self.thread.take() else { return };
        {
            let mut inner = self.shared.lock();
            inner.ending = true;
            self.shared.ring(&mut inner);
        }
        // It panics only over a broken invariant, and has said so.
        let _ = thread.join();
    }
}

impl Drop for Producer {
    /// What was not flushed may be lost.
    fn drop(&mut self) {
        self.end();
    }
}

fn tell_failures(core: &mut ProducerCore) -> Result<(), Error> {
    match core.take_failures() {
        None => Ok(()),
        Some((1, first)) => Err(first),
        Some((count, first)) => {
            let cause = first.cause().unwrap_or("unknown");
            let all = format!("{cause}; {count} records in all were not stored");
            Err(first.because(all))
        }
    }
}

/// What the thread does.
fn run(shared: &Shared, mut driver: Driver, mut ear: UnixStream) {
    loop {
        let until = {
            let mut inner = shared.lock();
            if inner.ending {
                return;
            }
            driver.prepare(inner.core.cluster());
            let until = inner.core.next_deadline().unwrap_or(shared.now().plus(IDLE));
            inner.asleep_until = Some(until);
            until
        };
        let woken = driver.wait(Some(until), Some(ear.as_fd()));
        if woken.by_bell {
            // Nothing to be read after all would be as good.
            let _ = ear.read(&mut [0; 64]);
        }
        let mut inner = shared.lock();
        inner.asleep_until = None;
        driver.carry_on(inner.core.cluster(), &woken);
        inner.core.tick(shared.now());
        shared.progress.notify_all();
    }
}

/// How long the thread sleeps with nothing to do.
const IDLE: Duration = Duration::from_secs(60);
