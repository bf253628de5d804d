//! Load of transactions: producers that begin, produce and end, each with a transactional id and
//! connections of its own, and a `read_committed` consumer that counts what it is given.
//!
//! Both flows: in the older one a producer names its partitions before it writes to them, in the
//! newer one (KIP-890) the first batch does. What is committed has to be read, once; what is aborted
//! must never be. Start reading at [`Transactions`].

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tidemill_client::Reply;
use tidemill_client::kafka::add_partitions_to_txn::AddPartitionsToTxnResponse;
use tidemill_client::kafka::end_txn::EndTxnResponse;
use tidemill_client::kafka::init_producer_id::InitProducerIdResponse;
use tidemill_client::kafka::{ApiKey, ErrorCode};
use tidemill_perf::units;
use tidemill_runtime::edge::Instant;

use crate::control::Topic;
use crate::figures::{Figures, Latencies, counted};
use crate::stage::{Lines, Place, Play};
use crate::trouble::Trouble;
use crate::usage::Usage;
use writer::{State, Writer};

pub mod reader;
mod writer;

pub use writer::MARK_BYTES;

/// After how long something is tried again that the transaction before still stands in the way of.
const AGAIN: Duration = Duration::from_millis(2);

/// How long answers are awaited after the end.
const DRAIN: Duration = Duration::from_secs(60);

/// Which way a transaction gets its partitions.
#[derive(Clone, Copy, Debug, Eq, PartialEq, clap::ValueEnum)]
pub enum Flow {
    /// They are named first (`transaction.version` 1 and before).
    Older,
    /// The first batch names its own (`transaction.version` 2, KIP-890).
    Newer,
}

/// What the load is.
#[derive(Clone, Debug)]
pub struct Shape {
    /// Which flow.
    pub flow: Flow,
    /// How many producers.
    pub producers: usize,
    /// Records of a transaction, in all.
    pub records: usize,
    /// Partitions of a transaction.
    pub partitions: usize,
    /// Bytes of a value.
    pub value_bytes: usize,
    /// Every so many-th transaction is aborted; 0 for none.
    pub abort_every: u64,
    /// Transactions per second of each producer; 0 for one after the other.
    pub rate: f64,
    /// Before anything is measured.
    pub warm_up: Duration,
    /// How long is measured.
    pub window: Duration,
    /// The broker's process, where it runs on this machine.
    pub broker: Option<u32>,
}

/// What was asked.
#[derive(Clone, Copy, Debug)]
pub enum What {
    /// For an epoch of its own.
    Init,
    /// To name the partitions.
    Add,
    /// To keep a batch, the one with this place in the transaction.
    Produce(usize),
    /// To commit or abort.
    End,
}

/// An answer, and whose it is.
pub type Tag = (usize, What);

/// What was counted of all transactions, those of the warm-up among them.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    /// Records of transactions that were committed.
    pub committed_records: u64,
    /// Committed while it was measured.
    pub committed: u64,
    /// Aborted while it was measured.
    pub aborted: u64,
    /// How often something had to be tried again.
    pub retried: u64,
    /// Transactions that were under way at the end.
    pub unfinished: u64,
    /// Records of those that may have been committed all the same.
    pub unknown_records: u64,
    /// Transactions that fell due, and that their producer had not come to at the end.
    pub not_begun: u64,
}

/// The producers.
pub struct Transactions {
    shape: Shape,
    topic: Arc<Topic>,
    run: u64,
    writers: Vec<Writer>,
    /// Whose each connection is.
    owners: Vec<usize>,
    started: Option<Instant>,
    /// When the last transaction ended that counts.
    last_end: Instant,
    counts: Counts,
    before: Option<Usage>,
    used: Option<Usage>,
    begin: Latencies,
    produce: Latencies,
    end: Latencies,
    whole: Latencies,
}

impl Transactions {
    /// Producers of these transactional ids, with what their connections go to.
    #[must_use]
    pub fn new(
        shape: &Shape,
        topic: &Arc<Topic>,
        ids: &[String],
        coordinators: &[SocketAddr],
        run: u64,
    ) -> (Self, Vec<(Place, SocketAddr)>) {
        let (mut writers, mut places, mut owners) = (Vec::new(), Vec::new(), Vec::new());
        let all = topic.leaders.len();
        for (nth, (id, coordinator)) in ids.iter().zip(coordinators).enumerate() {
            let line = places.len();
            let first = nth * shape.partitions;
            let partitions: Vec<i32> =
                (0..shape.partitions.min(all)).map(|i| ((first + i) % all) as i32).collect();
            places.push((Place::Transaction(id.clone()), *coordinator));
            let leader = |number: &i32| (Place::Leader(*number), topic.leaders[*number as usize]);
            places.extend(partitions.iter().map(leader));
            owners.resize(places.len(), nth);
            writers.push(Writer::new(nth, id.clone(), line, partitions));
        }
        let play = Self {
            shape: shape.clone(),
            topic: Arc::clone(topic),
            run,
            writers,
            owners,
            started: None,
            last_end: Instant::default(),
            counts: Counts::default(),
            before: None,
            used: None,
            begin: Latencies::default(),
            produce: Latencies::default(),
            end: Latencies::default(),
            whole: Latencies::default(),
        };
        (play, places)
    }

    /// What came of them.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// Adds what was measured.
    pub fn tell(&self, figures: &mut Figures) {
        let Counts { committed, aborted, retried, unfinished, not_begun, .. } = self.counts;
        // What fell due in the window may have taken longer.
        let longer = self.window().map_or(Duration::ZERO, |(_, end)| self.last_end.since(end));
        let seconds = self.shape.window.as_secs_f64().max(f64::EPSILON);
        let per_second = committed as f64 / (seconds + longer.as_secs_f64());
        let shown = format!("{} committed, {per_second:.0} a second", units::count(committed));
        figures.tell("committed", shown, committed);
        figures.tell(
            "committed_per_second",
            format!("{} aborted", units::count(aborted)),
            per_second,
        );
        let shown = format!("{} something was tried again", counted(retried, "time", "times"));
        figures.tell("aborted", shown, aborted);
        let records = counted(self.shape.records as u64, "record", "records");
        figures.tell("retried", format!("{records} each"), retried);
        if 0 < not_begun {
            let shown = counted(not_begun, "transaction", "transactions");
            let shown =
                format!("{shown} fell due and could not begin until the end: the wait counts");
            figures.tell("not_begun", shown, not_begun);
        }
        if self.shape.flow == Flow::Older {
            figures.tell_latencies("to name the partitions", "begin", &self.begin);
        }
        figures.tell_latencies("to produce", "produce", &self.produce);
        figures.tell_latencies("to commit or abort", "end", &self.end);
        figures.tell_latencies("a transaction in all", "transaction", &self.whole);
        if let Some(used) = self.used {
            let part = used.cpu.as_secs_f64() / seconds;
            let shown = format!("the broker used {:.1} % of one core", part * 100.0);
            figures.tell("broker_cores", shown, part);
        }
        if committed + aborted == 0 {
            figures.complain("no transaction came to its end");
        }
        if 0 < unfinished {
            let all = counted(unfinished, "transaction was", "transactions were");
            figures.complain(format!("{all} not at the end when it was over"));
        }
    }

    fn window(&self) -> Option<(Instant, Instant)> {
        let from = self.started?.after(self.shape.warm_up);
        Some((from, from.after(self.shape.window)))
    }

    fn is_measured(&self, due: Instant) -> bool {
        self.window().is_some_and(|(from, end)| from <= due && due < end)
    }

    /// Makes a connection speak as the flow does.
    fn teach(&self, line: usize, lines: &mut Lines<Tag>) {
        if self.shape.flow == Flow::Older {
            let connection = lines.connection(line);
            connection.speak_at_most(ApiKey::Produce, 11);
            connection.speak_at_most(ApiKey::EndTxn, 4);
            connection.speak_at_most(ApiKey::AddPartitionsToTxn, 3);
        }
    }

    /// The next transaction.
    fn begin(&mut self, nth: usize, lines: &mut Lines<Tag>) -> Result<(), Trouble> {
        let writer = &mut self.writers[nth];
        writer.fill(self.run, &self.shape);
        writer.step_begun = lines.now;
        match self.shape.flow {
            Flow::Older => {
                writer.state = State::Adding;
                self.ask(nth, What::Add, lines)
            }
            Flow::Newer => self.produce_all(nth, lines),
        }
    }

    fn produce_all(&mut self, nth: usize, lines: &mut Lines<Tag>) -> Result<(), Trouble> {
        let count = self.writers[nth].partitions.len();
        self.writers[nth].state = State::Producing(count);
        self.writers[nth].step_begun = lines.now;
        (0..count).try_for_each(|place| self.ask(nth, What::Produce(place), lines))
    }

    /// Between two transactions of a producer, if they fall due by the clock.
    fn between(&self) -> Option<Duration> {
        (0.0 < self.shape.rate).then(|| Duration::from_secs_f64(1.0 / self.shape.rate))
    }

    fn ended(&mut self, nth: usize, answer: &EndTxnResponse, now: Instant) {
        let between = self.between();
        let writer = &mut self.writers[nth];
        let (commits, records) = (writer.commits(&self.shape), writer.records(&self.shape));
        let (due, took) = (writer.due, now.since(writer.step_begun));
        writer.ended(answer);
        writer.due = between.map_or(now, |between| due.after(between));
        if commits {
            self.counts.committed_records += records;
        }
        if self.is_measured(due) {
            self.last_end = now;
            self.end.record(took);
            self.whole.record(now.since(due));
            match commits {
                true => self.counts.committed += 1,
                false => self.counts.aborted += 1,
            }
        }
    }

    /// Tries again what the end of the transaction before stands in the way of; anything else that
    /// is refused ends the run. True if it was refused.
    fn is_refused(
        &mut self,
        nth: usize,
        what: What,
        error: ErrorCode,
        lines: &mut Lines<Tag>,
    ) -> Result<bool, Trouble> {
        match error {
            ErrorCode::None => return Ok(false),
            ErrorCode::NotCoordinator | ErrorCode::NotLeaderOrFollower => {
                lines.abandon(self.line_for(nth, what));
            }
            other if other.is_retriable() => {}
            other => {
                let id = &self.writers[nth].id;
                return Err(Trouble::new(format!("{id}: {what:?} was refused: {other}")));
            }
        }
        self.counts.retried += 1;
        self.writers[nth].again.push((lines.now.after(AGAIN), what));
        Ok(true)
    }

    /// The connection that this is asked on.
    fn line_for(&self, nth: usize, what: What) -> usize {
        match what {
            What::Produce(place) => self.writers[nth].line + 1 + place,
            What::Init | What::Add | What::End => self.writers[nth].line,
        }
    }

    /// Does again what is to be done by now, where there is a connection to do it on. What is asked
    /// a second time is the same request: a broker that has done it already says so.
    fn retry(&mut self, nth: usize, lines: &mut Lines<Tag>) -> Result<(), Trouble> {
        for (at, what) in std::mem::take(&mut self.writers[nth].again) {
            if lines.now < at || !lines.is_up(self.line_for(nth, what)) {
                self.writers[nth].again.push((at, what));
                continue;
            }
            match what {
                What::Init => self.writers[nth].init(lines)?,
                What::Add => self.writers[nth].add(&self.topic, lines)?,
                What::Produce(place) => self.writers[nth].produce(place, &self.topic, lines)?,
                What::End => self.writers[nth].end(&self.shape, lines)?,
            }
        }
        Ok(())
    }

    /// Asks, or leaves it for when the connection is back.
    fn ask(&mut self, nth: usize, what: What, lines: &mut Lines<Tag>) -> Result<(), Trouble> {
        self.writers[nth].again.push((lines.now, what));
        self.retry(nth, lines)
    }

    fn look(&mut self, now: Instant) {
        let (Some((from, end)), Some(pid)) = (self.window(), self.shape.broker) else { return };
        if from <= now && self.before.is_none() {
            self.before = Usage::of(pid);
        }
        if end <= now && self.used.is_none() {
            self.used = Usage::of(pid).zip(self.before).map(|(now, before)| now.since(before));
        }
    }

    /// All have their epochs: from now on transactions are due.
    fn start(&mut self, now: Instant) {
        self.started = Some(now);
        let between = match 0.0 < self.shape.rate {
            true => 1.0 / self.shape.rate / self.writers.len() as f64,
            false => 0.0,
        };
        for (nth, writer) in self.writers.iter_mut().enumerate() {
            writer.due = now.after(Duration::from_secs_f64(between * nth as f64));
        }
    }
}

impl Play for Transactions {
    type Tag = Tag;

    fn begin(&mut self, lines: &mut Lines<Tag>) -> Result<(), Trouble> {
        (0..self.owners.len()).for_each(|line| self.teach(line, lines));
        (0..self.writers.len()).try_for_each(|nth| self.ask(nth, What::Init, lines))
    }

    fn lost(&mut self, _: usize, unanswered: Vec<Tag>, now: Instant) {
        for (nth, what) in unanswered {
            self.writers[nth].again.push((now, what));
        }
    }

    fn back(&mut self, line: usize, lines: &mut Lines<Tag>) -> Result<(), Trouble> {
        self.teach(line, lines);
        self.retry(self.owners[line], lines)
    }

    fn stop(&mut self, now: Instant) {
        let start = *self.started.get_or_insert(now);
        let so_far = now.since(start);
        self.shape.warm_up = self.shape.warm_up.min(so_far);
        self.shape.window = self.shape.window.min(so_far - self.shape.warm_up);
    }

    /// Left out, a broker that hangs would look fast.
    fn end(&mut self, now: Instant) {
        let Some((_, end)) = self.window() else { return };
        let (now, between) = (now.max(end), self.between());
        for nth in 0..self.writers.len() {
            let writer = &self.writers[nth];
            let (mut due, is_busy) = (writer.due, writer.is_busy());
            if is_busy {
                self.counts.unfinished += 1;
                if writer.state == State::Ending && writer.commits(&self.shape) {
                    self.counts.unknown_records += writer.records(&self.shape);
                }
                if self.is_measured(due) {
                    self.whole.record(now.since(due));
                }
            }
            let Some(between) = between else { continue };
            if is_busy {
                due = due.after(between);
            }
            while due < end {
                if self.is_measured(due) {
                    self.counts.not_begun += 1;
                    self.whole.record(now.since(due));
                }
                due = due.after(between);
            }
        }
    }

    fn status(&self, now: Instant) -> String {
        let Some((from, end)) = self.window() else { return "the producers begin".to_owned() };
        if now < from {
            return "warming up".to_owned();
        }
        if end <= now {
            return "ending".to_owned();
        }
        let (passed, of) = (now.since(from).as_secs(), self.shape.window.as_secs());
        format!("{passed} of {of} s  {} committed", units::count(self.counts.committed))
    }

    fn heard(
        &mut self,
        (nth, what): Tag,
        reply: &Reply,
        lines: &mut Lines<Tag>,
    ) -> Result<(), Trouble> {
        let now = lines.now;
        let unreadable = |error| Trouble::new(format!("an answer cannot be read: {error}"));
        match what {
            What::Init => {
                let answer: InitProducerIdResponse = reply.decode().map_err(unreadable)?;
                if !self.is_refused(nth, what, answer.error_code, lines)? {
                    let writer = &mut self.writers[nth];
                    writer.become_producer(answer.producer_id, answer.producer_epoch);
                    writer.state = State::Idle;
                }
            }
            What::Add => {
                let answer: AddPartitionsToTxnResponse = reply.decode().map_err(unreadable)?;
                let topics = answer.results_by_topic_v3_and_below.iter();
                let errors = topics.flat_map(|topic| &topic.results_by_partition);
                let mut errors = errors.map(|told| told.partition_error_code);
                let error = errors.find(|error| !error.is_none()).unwrap_or(ErrorCode::None);
                if !self.is_refused(nth, what, error, lines)? {
                    let took = now.since(self.writers[nth].step_begun);
                    if self.is_measured(self.writers[nth].due) {
                        self.begin.record(took);
                    }
                    self.produce_all(nth, lines)?;
                }
            }
            What::Produce(_) => {
                let answer = reply.produce().map_err(unreadable)?;
                let mut errors = answer.partitions.iter().map(|told| told.error_code);
                let error = errors.find(|error| !error.is_none()).unwrap_or(ErrorCode::None);
                if self.is_refused(nth, what, error, lines)? {
                    return Ok(());
                }
                let State::Producing(left) = self.writers[nth].state else {
                    return Err(Trouble::new("an answer to a batch that was answered"));
                };
                self.writers[nth].state = State::Producing(left - 1);
                if left == 1 {
                    let took = now.since(self.writers[nth].step_begun);
                    if self.is_measured(self.writers[nth].due) {
                        self.produce.record(took);
                    }
                    self.writers[nth].step_begun = now;
                    self.writers[nth].state = State::Ending;
                    self.ask(nth, What::End, lines)?;
                }
            }
            What::End => {
                let answer: EndTxnResponse = reply.decode().map_err(unreadable)?;
                if !self.is_refused(nth, what, answer.error_code, lines)? {
                    self.ended(nth, &answer, now);
                }
            }
        }
        Ok(())
    }

    fn turn(&mut self, lines: &mut Lines<Tag>) -> Result<Option<Instant>, Trouble> {
        let now = lines.now;
        if self.started.is_none() && self.writers.iter().all(|writer| writer.state == State::Idle) {
            self.start(now);
        }
        self.look(now);
        let end = self.window().map(|(_, end)| end);
        let mut next = now.after(Duration::from_millis(100));
        for nth in 0..self.writers.len() {
            if !self.writers[nth].again.is_empty() {
                self.retry(nth, lines)?;
                // What waits for its connection is done when that is back.
                let again = self.writers[nth].again.iter().map(|(at, _)| *at);
                next = again.filter(|at| now < *at).fold(next, Instant::min);
            }
            let writer = &self.writers[nth];
            let goes_on = end.is_some_and(|end| now < end);
            if writer.state == State::Idle && goes_on {
                match writer.due <= now {
                    true => self.begin(nth, lines)?,
                    false => next = next.min(writer.due),
                }
            }
        }
        let is_over = end.is_some_and(|end| {
            let all = self.writers.iter().all(|writer| writer.state == State::Idle);
            end <= now && all || end.after(DRAIN) <= now
        });
        if let Some(end) = end.filter(|end| now < *end) {
            next = next.min(end);
        }
        Ok((!is_over).then_some(next))
    }
}
