//! The producer for applications: records are taken at once, a thread of its own sends them.
//!
//! The application's threads and that thread share the [intake](super::intake), behind a lock that
//! nobody holds while working or waiting. The thread sleeps in poll; who gives it something to do
//! rings a bell (a socket pair), unless it is awake anyway.

use std::fmt;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::core::ProducerCore;
use super::intake::{Intake, Refusal};
use super::outbox::Outbox;
use super::{ProducerConfig, Record, Report};
use crate::driver::Driver;
use crate::error::{Error, ErrorKind};
use crate::time::{Instant, earlier};

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
    state: Mutex<State>,
    /// Something was stored or given up.
    progress: Condvar,
    start: std::time::Instant,
    bell: UnixStream,
    delivery_timeout: Duration,
}

#[derive(Debug)]
struct State {
    intake: Intake,
    /// What keeps records from being stored, when the thread last looked.
    trouble: Option<Error>,
    /// Until when the thread sleeps; none while it is awake, or has been rung for.
    asleep_until: Option<Instant>,
    /// How many threads of the application wait for progress.
    waiting: usize,
    ending: bool,
}

impl Shared {
    fn now(&self) -> Instant {
        Instant::default().plus(self.start.elapsed())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Whoever panicked while holding it has left a record half taken at worst; its batch is
        // built only from whole ones.
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Wakes the thread if it would sleep too long.
    fn ring(&self, state: &mut State) {
        let Some(asleep_until) = state.asleep_until else { return };
        let due = state.intake.next_deadline().is_some_and(|next| next < asleep_until);
        if due || state.ending {
            state.asleep_until = None;
            // If the pair is full of rings, the thread will wake anyway.
            let _ = (&self.bell).write(&[1]);
        }
    }

    /// Lets go of the lock until something was stored or given up, or `most` has passed.
    fn wait<'a>(&self, mut state: MutexGuard<'a, State>, most: Duration) -> MutexGuard<'a, State> {
        state.waiting += 1;
        let mut state = match self.progress.wait_timeout(state, most) {
            Ok((state, _)) => state,
            Err(poisoned) => poisoned.into_inner().0,
        };
        state.waiting -= 1;
        state
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
        let delivery_timeout = config.delivery_timeout;
        let wall_clock = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let mut core = ProducerCore::new(config, wall_clock.as_millis() as i64)?;
        core.cluster().tick(Instant::default());
        let (intake, outbox) = core.into_sides();
        let (bell, ear) = UnixStream::pair().map_err(system)?;
        bell.set_nonblocking(true).map_err(system)?;
        ear.set_nonblocking(true).map_err(system)?;
        let driver = Driver::new();
        let state = State { intake, trouble: None, asleep_until: None, waiting: 0, ending: false };
        let shared = Arc::new(Shared {
            state: Mutex::new(state),
            progress: Condvar::new(),
            start: driver.start(),
            bell,
            delivery_timeout,
        });
        let sender = Sender { shared: Arc::clone(&shared), outbox, driver, ear };
        let thread = std::thread::Builder::new()
            .name("tidemill-send".to_owned())
            .spawn(move || sender.run())
            .map_err(system)?;
        Ok(Producer { shared, thread: Some(thread) })
    }

    /// Takes a record, without waiting. It is refused if the buffer is full: send it again later,
    /// or use [`Producer::send_blocking`].
    pub fn send(&self, record: Record) -> Result<(), SendRefused> {
        let now = self.shared.now();
        self.take(&mut self.shared.lock(), record, now)
    }

    fn take(&self, state: &mut State, record: Record, now: Instant) -> Result<(), SendRefused> {
        let taken = state.intake.take(record, now);
        self.shared.ring(state);
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
        self.send_within(record, self.shared.delivery_timeout)
    }

    /// Takes a record, and waits for room if there is none, at most so long. It does not wait for
    /// the caller itself, that is, while there are reports to be taken.
    pub fn send_within(&self, record: Record, patience: Duration) -> Result<(), SendRefused> {
        let start = self.shared.now();
        let until = start.plus(patience);
        let mut now = start;
        let mut record = record;
        let mut state = self.shared.lock();
        loop {
            let refused = match self.take(&mut state, record, now) {
                Err(refused) if refused.error.kind() == ErrorKind::Full => refused,
                done => return done,
            };
            now = self.shared.now();
            if until <= now || state.intake.has_reports() {
                return Err(refused);
            }
            record = *refused.record;
            state = self.shared.wait(state, until.since(now));
            now = self.shared.now();
        }
    }

    /// The fates of batches that have become known, if [`ProducerConfig::reports`] is on.
    pub fn take_reports(&self) -> Vec<Report> {
        let mut state = self.shared.lock();
        let reports: Vec<Report> = std::iter::from_fn(|| state.intake.poll_report()).collect();
        if !reports.is_empty() {
            // What they took is room for records of others who wait.
            self.shared.progress.notify_all();
        }
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
        let until = self.shared.now().plus(patience);
        let mut state = self.shared.lock();
        state.intake.flush();
        self.shared.ring(&mut state);
        while !state.intake.is_drained() {
            let now = self.shared.now();
            if until <= now {
                return Ok(false);
            }
            state = self.shared.wait(state, until.since(now));
        }
        tell_failures(&mut state.intake).map(|()| true)
    }

    /// Fails if any record was given up since that was last told, without waiting for those under
    /// way.
    pub fn check(&self) -> Result<(), Error> {
        tell_failures(&mut self.shared.lock().intake)
    }

    /// What keeps records from being stored just now, for whoever waits in vain; `None` if nothing
    /// is known to. They may be stored yet, as when a broker is about to come back.
    pub fn trouble(&self) -> Option<Error> {
        self.shared.lock().trouble.clone()
    }

    /// Flushes, and ends the producer.
    pub fn close(mut self) -> Result<(), Error> {
        let flushed = self.flush();
        self.end();
        flushed
    }

    fn end(&mut self) {
        let Some(thread) = self.thread.take() else { return };
        {
            let mut state = self.shared.lock();
            state.ending = true;
            self.shared.ring(&mut state);
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

fn tell_failures(intake: &mut Intake) -> Result<(), Error> {
    match intake.take_failures() {
        None => Ok(()),
        Some((1, first)) => Err(first),
        Some((count, first)) => {
            let cause = first.explanation().cause.as_deref().unwrap_or("unknown");
            let all = format!("{cause}; {count} records in all were not stored");
            Err(first.because(all))
        }
    }
}

/// The thread's side.
struct Sender {
    shared: Arc<Shared>,
    outbox: Outbox,
    driver: Driver,
    ear: UnixStream,
}

impl Sender {
    /// Turn by turn, until the producer ends. In each, the lock is taken twice, shortly: to take
    /// what is to be sent and tell what is settled, and to see whether to sleep.
    fn run(mut self) {
        loop {
            let now = self.driver.now();
            self.outbox.hear(now);
            if !self.exchange(now) {
                return;
            }
            self.outbox.send(now);
            self.driver.prepare(self.outbox.cluster());
            let until = self.fall_asleep();
            let woken = self.driver.wait(Some(until), Some(self.ear.as_fd()));
            if woken.by_bell {
                // Nothing to be read after all would be as good.
                let _ = self.ear.read(&mut [0; 64]);
            }
            self.driver.carry_on(self.outbox.cluster(), &woken);
        }
    }

    /// False if the producer has ended.
    fn exchange(&mut self, now: Instant) -> bool {
        let mut state = self.shared.lock();
        let before = state.intake.progress();
        state.asleep_until = None;
        self.outbox.exchange(&mut state.intake, now);
        state.trouble = self.outbox.trouble(&state.intake);
        self.notify(&state, before);
        !state.ending
    }

    /// Says until when to sleep, unless somebody rings.
    fn fall_asleep(&mut self) -> Instant {
        let now = self.driver.now();
        let mut state = self.shared.lock();
        let before = state.intake.progress();
        self.outbox.tell(&mut state.intake);
        self.notify(&state, before);
        let next = earlier(self.outbox.next_deadline(), state.intake.next_deadline());
        let until = next.unwrap_or(now.plus(IDLE));
        if state.ending || until <= now {
            return now;
        }
        state.asleep_until = Some(until);
        until
    }

    /// Wakes those who wait for progress, if there is any since `before`.
    fn notify(&self, state: &State, before: u64) {
        if before != state.intake.progress() && 0 < state.waiting {
            self.shared.progress.notify_all();
        }
    }
}

/// How long the thread sleeps with nothing to do.
const IDLE: Duration = Duration::from_secs(60);
