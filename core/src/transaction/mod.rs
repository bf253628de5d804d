//! The transaction coordinator: who may write under a transactional id, what to, and how it ends.
//!
//! There is one [`Coordinator`] for each partition of the internal topic `__transaction_state`, at
//! home where the partition is. A transactional id belongs to the partition its name hashes to, so
//! everything about it happens on one shard.
//!
//! It is pure: requests and the time go in; records, replies and markers to be written come out.
//! What must outlive the process is written to the partition, in Kafka's own format ([`record`]),
//! and read back at the next start: how, is in [`crate::coordinator_log`].
//!
//! The state changes only when the record that says so is durable ([`Coordinate::replay`]), live
//! and at a start alike. So a crash at any point leaves each transaction either open, to be ended
//! by its producer or its timeout, or prepared: then its partitions are told again, until all know.
//!
//! While a record of an id is on its way, whatever else is asked of that id waits. While its
//! partitions are being told, clients are told to come again (CONCURRENT_TRANSACTIONS).
//!
//! What it does not do: it knows no sockets, no versions of the wire and no other coordinator.
//!
//! Start reading at [`Coordinate::request`]; then `state.rs` for what may become of an id.

pub mod record;
pub mod request;
pub mod state;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Bound;
use std::sync::Arc;
use std::time::Duration;

use tidemill_net::kafka::ErrorCode;
use tidemill_record::{Outcome, Producer, ProducerId};
use tidemill_runtime::edge::Instant;
use tidemill_storage::mistake::{self, Mistake};

use self::record::Record;
use self::request::{Filter, Reply, Request};
use self::state::{Decision, Part, State, Status};
use crate::coordinator_log::{self as log, Coordinate, Now};
use crate::job::ReplyTo;
use crate::limits::{TRANSACTIONS_PER_PARTITION_MAX, TRANSACTIONS_WAITING_MAX};
use crate::partition::Times;

/// How long after a failure a partition is told again.
const RETRY: Duration = Duration::from_millis(100);

/// The times and bounds that the node's settings give to its transactions.
#[derive(Clone, Debug)]
pub struct Rules {
    /// `transaction.max.timeout.ms`
    pub timeout_max_ms: i32,
    /// `transactional.id.expiration.ms`
    pub expiration_ms: i64,
    /// `transaction.remove.expired.transaction.cleanup.interval.ms`
    pub expiry_interval: Duration,
}

/// The transactional ids of one partition.
pub struct Coordinator {
    rules: Arc<Rules>,
    ids: BTreeMap<Arc<str>, Entry>,
    timers: BTreeSet<(Instant, Arc<str>)>,
    replies: Vec<(ReplyTo, Reply)>,
    marks: Vec<Mark>,
    decided: Vec<Write>,
    /// Producer ids to give out.
    spare_ids: VecDeque<ProducerId>,
    /// The ids that wait for a producer id.
    starving: VecDeque<Arc<str>>,
    ids_wanted: usize,
    expiry_at: Instant,
    bytes: usize,
    /// It takes nothing more, and this is what it answers.
    closed: Option<ErrorCode>,
}

/// One transactional id.
#[derive(Default)]
struct Entry {
    /// As the log knows it.
    state: Option<State>,
    /// A record is on its way.
    is_writing: bool,
    /// It waits for a producer id.
    is_starving: bool,
    waiting: VecDeque<Event>,
    /// Of a prepared transaction: what has not confirmed its end.
    unmarked: BTreeSet<Part>,
    /// Of those, the ones to be told again.
    failed: BTreeSet<Part>,
    timer: Option<Instant>,
    /// When the transaction that is open is aborted, by the clock that nobody sets.
    deadline: Option<Instant>,
}

/// Something that happens to a transactional id.
enum Event {
    Asked(Request, ReplyTo),
    Rang,
    Marked,
    Expire,
}

/// One decision on its way to the log.
pub struct Write {
    record: Record,
    reply: Option<(ReplyTo, Reply)>,
}

impl log::Write for Write {
    type Record = Record;

    fn records(&self) -> &[Record] {
        std::slice::from_ref(&self.record)
    }
}

/// A partition is to be told how a transaction ended. What comes of it is told by
/// [`Coordinator::marked`].
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Mark {
    /// Whose transaction.
    pub id: Arc<str>,
    /// Its producer, under the epoch that ends it.
    pub producer: Producer,
    /// How it ended.
    pub outcome: Outcome,
    /// Who is to be told.
    pub part: Part,
}

impl Entry {
    /// Whether this may happen now, rather than later.
    fn may_happen(&self, event: &Event) -> bool {
        let waits_for_end = match event {
            Event::Asked(Request::Add { waits, .. }, _) => {
                *waits && self.state.as_ref().is_some_and(|state| state.status.is_prepared())
            }
            _ => false,
        };
        !self.is_writing && !self.is_starving && !waits_for_end
    }

    fn is_vacant(&self) -> bool {
        let idle = !self.is_writing && self.waiting.is_empty();
        self.state.is_none() && idle && !self.is_starving
    }
}

fn bytes_of(id: &str, state: &State) -> usize {
    let partitions: usize = state.partitions.iter().map(|(topic, _)| topic.len() + 48).sum();
    size_of::<Entry>() + 2 * id.len() + partitions
}

impl Coordinator {
    /// No transactional ids.
    pub fn new(rules: Arc<Rules>) -> Self {
        Self {
            rules,
            ids: BTreeMap::new(),
            timers: BTreeSet::new(),
            replies: Vec::new(),
            marks: Vec::new(),
            decided: Vec::new(),
            spare_ids: VecDeque::new(),
            starving: VecDeque::new(),
            ids_wanted: 0,
            expiry_at: Instant::default(),
            bytes: 0,
            closed: None,
        }
    }
}

impl Coordinate for Coordinator {
    type Request = Request;
    type Reply = Reply;
    type Record = Record;
    type Write = Write;
    type Place = Arc<str>;

    // A start.

    /// Also called, from then on, with every record that is durable.
    fn replay(&mut self, record: Record) {
        let Record { id, state } = record;
        let entry = self.ids.entry(Arc::clone(&id)).or_default();
        let before = entry.state.as_ref().map_or(0, |state| bytes_of(&id, state));
        let after = state.as_ref().map_or(0, |state| bytes_of(&id, state));
        self.bytes = self.bytes + after - before;
        entry.state = state;
        if entry.is_vacant() {
            self.ids.remove(&id);
        }
    }

    /// What is prepared goes on, what is open has its time.
    fn loaded(&mut self, now: Now<'_>) {
        let times = now.times;
        let ids: Vec<Arc<str>> = self.ids.keys().cloned().collect();
        for id in &ids {
            self.enter(id, times);
        }
        if mistake::is_made(Mistake::ForgetMarkers) {
            self.marks.clear();
        }
        self.expiry_at = times.now.after(self.rules.expiry_interval);
    }

    // What happens.

    fn request(&mut self, request: Request, reply_to: ReplyTo, has_room: bool, now: Now<'_>) {
        let times = now.times;
        if let Some(error) = self.closed {
            return self.refuse(reply_to, error);
        }
        let Some(id) = request.id().cloned() else {
            let Request::List(filter) = &request else { unreachable!("all others are of one id") };
            let listed = self.list(filter, times.wall_ms);
            return self.replies.push((reply_to, Reply::Listed(listed)));
        };
        let state = self.ids.get(&id).and_then(|entry| entry.state.as_ref());
        match &request {
            Request::Describe { .. } => {
                let described = state.cloned().map(Box::new);
                return self.replies.push((reply_to, Reply::Described(described)));
            }
            Request::Init { timeout_ms, .. } => {
                if !(1..=self.rules.timeout_max_ms).contains(timeout_ms) {
                    return self.refuse(reply_to, ErrorCode::InvalidTransactionTimeout);
                }
                let is_full = TRANSACTIONS_PER_PARTITION_MAX <= self.ids.len() || !has_room;
                if is_full && !self.ids.contains_key(&id) {
                    return self.refuse(reply_to, ErrorCode::CoordinatorNotAvailable);
                }
                self.ids.entry(Arc::clone(&id)).or_default();
            }
            Request::Add { .. } if !has_room => {
                return self.refuse(reply_to, ErrorCode::CoordinatorNotAvailable);
            }
            _ => {}
        }
        let Some(entry) = self.ids.get(&id) else {
            return self.refuse(reply_to, ErrorCode::InvalidProducerIdMapping);
        };
        if TRANSACTIONS_WAITING_MAX <= entry.waiting.len() {
            return self.refuse(reply_to, ErrorCode::ConcurrentTransactions);
        }
        self.happens(&id, Event::Asked(request, reply_to), times);
    }

    fn tick(&mut self, now: Now<'_>) {
        let times = now.times;
        if self.closed.is_some() {
            return;
        }
        while let Some((at, id)) = self.timers.first().cloned() {
            if times.now < at {
                break;
            }
            self.set_timer(&id, None);
            self.happens(&id, Event::Rang, times);
        }
        if self.expiry_at <= times.now {
            self.expire(times);
        }
    }

    fn next_deadline(&self) -> Option<Instant> {
        let goes_on = self.closed.is_none();
        let expiry = (goes_on && !self.ids.is_empty()).then_some(self.expiry_at);
        let timer = self.timers.first().map(|(at, _)| *at).filter(|_| goes_on);
        timer.into_iter().chain(expiry).min()
    }

    fn close(&mut self, error: ErrorCode) {
        self.closed = Some(error);
        self.timers.clear();
        for entry in self.ids.values_mut() {
            entry.timer = None;
            for event in entry.waiting.drain(..) {
                if let Event::Asked(_, reply_to) = event {
                    self.replies.push((reply_to, Reply::Refused(error)));
                }
            }
        }
    }

    // What it has decided.

    fn decided(&mut self) -> &mut Vec<Write> {
        &mut self.decided
    }

    fn written(&mut self, write: Write, now: Now<'_>) {
        let Write { record, reply } = write;
        let id = Arc::clone(&record.id);
        if let Some(entry) = self.ids.get_mut(&id) {
            entry.is_writing = false;
        }
        self.replay(record);
        self.replies.extend(reply);
        self.enter(&id, now.times);
        self.go_on(&id, now.times);
    }

    fn refused(&mut self, write: Write, error: ErrorCode, now: Now<'_>) {
        let (Write { record, reply }, times) = (write, now.times);
        let refused = reply.map(|(reply_to, _)| (reply_to, Reply::Refused(error)));
        self.replies.extend(refused);
        if let Some(entry) = self.ids.get_mut(&record.id) {
            entry.is_writing = false;
            // What the coordinator does by itself is tried again.
            if entry.state.is_some() && entry.timer.is_none() {
                self.set_timer(&record.id, Some(times.now.after(RETRY)));
            }
        }
        self.go_on(&record.id, times);
    }

    fn replies(&mut self) -> &mut Vec<(ReplyTo, Reply)> {
        &mut self.replies
    }

    fn refusal(error: ErrorCode) -> Reply {
        Reply::Refused(error)
    }

    // What it remembers.

    fn remembered_after<'a>(
        &'a self,
        place: Option<&'a Arc<str>>,
    ) -> impl Iterator<Item = (Arc<str>, Vec<Record>)> + 'a {
        let from = place.map_or(Bound::Unbounded, Bound::Excluded);
        let behind = self.ids.range::<Arc<str>, _>((from, Bound::Unbounded));
        behind.filter_map(|(id, entry)| {
            let record = Record { id: Arc::clone(id), state: Some(entry.state.clone()?) };
            Some((Arc::clone(id), vec![record]))
        })
    }

    fn bytes(&self) -> usize {
        self.bytes
    }

    fn count(&self) -> usize {
        self.ids.len()
    }
}

impl Coordinator {
    fn refuse(&mut self, reply_to: ReplyTo, error: ErrorCode) {
        self.replies.push((reply_to, Reply::Refused(error)));
    }

    /// A partition was told how a transaction ended, or could not be told.
    pub fn marked(&mut self, mark: &Mark, result: Result<(), ErrorCode>, times: Times) {
        let Some(entry) = self.ids.get_mut(&mark.id) else { return };
        let prepared = entry.state.as_ref().filter(|state| state.status.is_prepared());
        if prepared.is_none_or(|state| state.producer != mark.producer) {
            return;
        }
        match result {
            Ok(()) => {
                entry.unmarked.remove(&mark.part);
                if entry.unmarked.is_empty() {
                    self.happens(&mark.id, Event::Marked, times);
                }
            }
            Err(error) => {
                tracing::debug!(id = %mark.id, part = ?mark.part, %error, "a marker is sent again");
                entry.failed.insert(mark.part.clone());
                if entry.timer.is_none() {
                    self.set_timer(&mark.id, Some(times.now.after(RETRY)));
                }
            }
        }
    }

    // Producer ids.

    /// How many producer ids are wanted since the last time; each is told by
    /// [`Coordinator::give_id`] or [`Coordinator::no_id`].
    pub fn take_ids_wanted(&mut self) -> usize {
        std::mem::take(&mut self.ids_wanted)
    }

    /// A producer id that was given to nobody else.
    pub fn give_id(&mut self, id: ProducerId, times: Times) {
        self.spare_ids.push_back(id);
        if let Some(waits) = self.starving.pop_front() {
            self.fed(&waits, times);
        }
    }

    /// There is none to be had now.
    pub fn no_id(&mut self, times: Times) {
        let Some(id) = self.starving.pop_front() else { return };
        let first = self.ids.get_mut(&id).and_then(|entry| entry.waiting.pop_front());
        if let Some(Event::Asked(_, reply_to)) = first {
            self.refuse(reply_to, ErrorCode::CoordinatorNotAvailable);
        }
        self.fed(&id, times);
    }

    fn fed(&mut self, id: &Arc<str>, times: Times) {
        if let Some(entry) = self.ids.get_mut(id) {
            entry.is_starving = false;
            self.go_on(id, times);
        }
    }

    /// The partitions that are to be told, since the last time.
    pub fn take_marks(&mut self) -> Vec<Mark> {
        std::mem::take(&mut self.marks)
    }

    // Deciding.

    /// Lets something happen to an id, now or when what it waits for is over.
    fn happens(&mut self, id: &Arc<str>, event: Event, times: Times) {
        let Some(entry) = self.ids.get_mut(id) else { return };
        entry.waiting.push_back(event);
        self.go_on(id, times);
    }

    /// Lets happen what has waited and may, in order, and forgets an id of which nothing is left.
    fn go_on(&mut self, id: &Arc<str>, times: Times) {
        while let Some(entry) = self.ids.get_mut(id) {
            let Some(next) = entry.waiting.iter().position(|event| entry.may_happen(event)) else {
                break;
            };
            let event = entry.waiting.remove(next).expect("just seen");
            self.happen(id, event, times);
        }
        if self.ids.get(id).is_some_and(Entry::is_vacant) {
            self.set_timer(id, None);
            self.ids.remove(id);
        }
    }

    fn happen(&mut self, id: &Arc<str>, event: Event, times: Times) {
        let Some(entry) = self.ids.get(id) else { return };
        let (state, now_ms) = (entry.state.as_ref(), times.wall_ms);
        match event {
            Event::Asked(request, reply_to) => {
                let decision = decide(state, &request, &mut self.spare_ids, now_ms);
                match decision {
                    Decision::Reply(reply) => self.replies.push((reply_to, reply)),
                    Decision::Write(next, reply)
                        if mistake::is_made(Mistake::EndEarly) && next.status.is_prepared() =>
                    {
                        self.replies.push((reply_to, reply));
                        self.write(id, Some(*next), None);
                    }
                    Decision::Write(next, reply) => {
                        self.write(id, Some(*next), Some((reply_to, reply)));
                    }
                    Decision::NeedsId => self.starve(id, Event::Asked(request, reply_to)),
                }
            }
            Event::Rang => self.rang(id, times),
            Event::Marked => {
                let prepared = state.filter(|state| state.status.is_prepared());
                if let Some(state) = prepared.filter(|_| entry.unmarked.is_empty()) {
                    let next = state::complete(state, now_ms);
                    self.write(id, Some(next), None);
                }
            }
            Event::Expire => {
                if state.is_some_and(|state| is_expired(state, &self.rules, now_ms)) {
                    self.write(id, None, None);
                }
            }
        }
    }

    fn write(&mut self, id: &Arc<str>, state: Option<State>, reply: Option<(ReplyTo, Reply)>) {
        let entry = self.ids.get_mut(id).expect("it was just looked at");
        entry.is_writing = true;
        let record = Record { id: Arc::clone(id), state };
        self.decided.push(Write { record, reply });
    }

    fn starve(&mut self, id: &Arc<str>, event: Event) {
        let entry = self.ids.get_mut(id).expect("it was just looked at");
        entry.is_starving = true;
        entry.waiting.push_front(event);
        self.starving.push_back(Arc::clone(id));
        self.ids_wanted += 1;
    }

    /// What follows from a state that has just become true.
    fn enter(&mut self, id: &Arc<str>, times: Times) {
        let Some(entry) = self.ids.get_mut(id) else { return };
        entry.unmarked.clear();
        entry.failed.clear();
        if entry.state.as_ref().is_none_or(|state| state.status != Status::Ongoing) {
            entry.deadline = None;
        }
        if self.closed.is_some() {
            // The next start goes on from here.
            return;
        }
        let Some(state) = &entry.state else { return self.set_timer(id, None) };
        match state.status {
            Status::Ongoing => {
                let at = *entry.deadline.get_or_insert_with(|| deadline(state, times));
                self.set_timer(id, Some(at));
            }
            Status::PrepareCommit | Status::PrepareAbort => {
                entry.unmarked = state.partitions.clone();
                let marks = state.partitions.iter().map(|part| mark(id, state, part));
                self.marks.extend(marks);
                let is_marked = entry.unmarked.is_empty();
                self.set_timer(id, None);
                if is_marked {
                    self.happens(id, Event::Marked, times);
                }
            }
            Status::Empty | Status::CompleteCommit | Status::CompleteAbort => {
                self.set_timer(id, None);
            }
        }
    }

    /// The time of a transaction is over, or that to try again has come.
    fn rang(&mut self, id: &Arc<str>, times: Times) {
        let Some(entry) = self.ids.get_mut(id) else { return };
        let Some(state) = &entry.state else { return };
        if state.status == Status::Ongoing {
            let at = *entry.deadline.get_or_insert_with(|| deadline(state, times));
            if times.now < at {
                return self.set_timer(id, Some(at));
            }
            tracing::info!(%id, "a transaction is aborted: its time is over");
            let next = state::time_out(state, times.wall_ms);
            return self.write(id, Some(next), None);
        }
        if !state.status.is_prepared() {
            return;
        }
        let again = std::mem::take(&mut entry.failed);
        self.marks.extend(again.iter().map(|part| mark(id, state, part)));
        if entry.unmarked.is_empty() {
            self.happens(id, Event::Marked, times);
        }
    }

    fn set_timer(&mut self, id: &Arc<str>, at: Option<Instant>) {
        let Some(entry) = self.ids.get_mut(id) else { return };
        if let Some(old) = std::mem::replace(&mut entry.timer, at) {
            self.timers.remove(&(old, Arc::clone(id)));
        }
        if let Some(at) = at {
            self.timers.insert((at, Arc::clone(id)));
        }
    }

    /// Forgets ids that nobody has used for long.
    fn expire(&mut self, times: Times) {
        self.expiry_at = times.now.after(self.rules.expiry_interval);
        let over = |state: &State| is_expired(state, &self.rules, times.wall_ms);
        let over = self.ids.iter().filter(|(_, entry)| entry.state.as_ref().is_some_and(over));
        let over: Vec<Arc<str>> = over.map(|(id, _)| Arc::clone(id)).collect();
        for id in over {
            self.happens(&id, Event::Expire, times);
        }
    }

    // Telling.

    fn list(&self, filter: &Filter, now_ms: i64) -> Vec<(Arc<str>, Producer, &'static str)> {
        let all = self.ids.iter().filter_map(|(id, entry)| Some((id, entry.state.as_ref()?)));
        let wanted = all.filter(|(_, state)| {
            let name = state.status.name();
            let open = state.status == Status::Ongoing || state.status.is_prepared();
            let since_ms = state.started_ms.filter(|_| open);
            (filter.states.is_empty() || filter.states.iter().any(|wanted| wanted == name))
                && (filter.producers.is_empty() || filter.producers.contains(&state.producer.id.0))
                && filter
                    .open_for_ms
                    .is_none_or(|least| since_ms.is_some_and(|since_ms| least < now_ms - since_ms))
        });
        wanted.map(|(id, state)| (Arc::clone(id), state.producer, state.status.name())).collect()
    }
}

fn decide(
    state: Option<&State>,
    request: &Request,
    spare_ids: &mut VecDeque<ProducerId>,
    now_ms: i64,
) -> Decision {
    match request {
        Request::Init { timeout_ms, expected, .. } => {
            state::init(state, *timeout_ms, *expected, spare_ids, now_ms)
        }
        Request::Add { producer, parts, is_newer, .. } => {
            state::add(state, *producer, parts, *is_newer, now_ms)
        }
        Request::Verify { producer, parts, .. } => {
            Decision::Reply(state::verify(state, *producer, parts))
        }
        Request::End { producer, commit, is_newer, .. } => {
            state::end(state, *producer, *commit, *is_newer, spare_ids, now_ms)
        }
        Request::Describe { .. } | Request::List(_) => unreachable!("answered at once"),
    }
}

fn is_expired(state: &State, rules: &Rules, now_ms: i64) -> bool {
    let idle = state.status != Status::Ongoing && !state.status.is_prepared();
    idle && rules.expiration_ms <= now_ms.saturating_sub(state.updated_ms)
}

/// When an open transaction is aborted, by the time of day; asked once, since that may be set.
fn deadline(state: &State, times: Times) -> Instant {
    let since_ms = state.started_ms.unwrap_or(times.wall_ms);
    let end_ms = since_ms.saturating_add(i64::from(state.timeout_ms));
    // A clock that was set back must not make it wait for longer than it may.
    let left_ms = end_ms.saturating_sub(times.wall_ms).clamp(0, i64::from(state.timeout_ms.max(0)));
    times.now.after(Duration::from_millis(left_ms as u64))
}

fn mark(id: &Arc<str>, state: &State, part: &Part) -> Mark {
    let outcome = match state.status {
        Status::PrepareCommit => Outcome::Commit,
        _ => Outcome::Abort,
    };
    Mark { id: Arc::clone(id), producer: state.producer, outcome, part: part.clone() }
}

#[cfg(test)]
mod tests;
