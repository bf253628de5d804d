//! A small correct broker and its clients, which write histories: the judge finds nothing in them,
//! and finds what each mistake that can be planted in it makes of them.

use std::collections::{BTreeMap, BTreeSet};

use super::operation::{Batch, BatchKind, Step, Stored, Txn};
use super::*;
use crate::random::Random;

const KEYS: Key = 4;
const CLIENTS: u32 = 5;
const TURNS: usize = 1_500;

/// What the broker does wrong.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Mistake {
    /// A poll goes beyond the last stable offset.
    ReadsOpenTransactions,
    /// Polls return records of aborted transactions, too.
    ReadsAborted,
    /// A commit does not reach all partitions; the others abort.
    CommitsHalf,
    /// An acknowledged record is replaced by the next one.
    ForgetsTheTail,
    /// A record is appended twice.
    AppendsTwice,
    /// Polls pass over a record now and then.
    PollsSkip,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum State {
    Open,
    Committed,
    Aborted,
}

/// What lies at an offset: a record of a transaction, or the end of one.
#[derive(Clone, Copy)]
struct Entry {
    value: Option<Value>,
    txn: usize,
}

/// The partitions, and all transactions there ever were; one send is a transaction, too.
struct Model {
    logs: Vec<Vec<Entry>>,
    /// By transaction and key.
    states: Vec<BTreeMap<Key, State>>,
    mistake: Option<Mistake>,
    chance: Random,
}

/// A client in the middle of an operation or between two.
struct Client {
    process: u32,
    positions: BTreeMap<Key, usize>,
    operation: Option<Running>,
}

struct Running {
    begin: u64,
    txn: usize,
    left: usize,
    steps: Vec<Step>,
    positions: BTreeMap<Key, usize>,
}

impl Model {
    fn state(&self, key: Key, txn: usize) -> State {
        self.states[txn].get(&key).copied().unwrap_or(State::Aborted)
    }

    fn high_watermark(&self, key: Key) -> usize {
        self.logs[key as usize].len()
    }

    fn last_stable(&self, key: Key) -> usize {
        let log = &self.logs[key as usize];
        let open = log.iter().position(|entry| self.state(key, entry.txn) == State::Open);
        open.unwrap_or(log.len())
    }

    fn append(&mut self, key: Key, value: Value, txn: usize) -> Offset {
        self.states[txn].insert(key, State::Open);
        let rarely = self.chance.happens(30_000);
        let log = &mut self.logs[key as usize];
        let entry = Entry { value: Some(value), txn };
        match self.mistake {
            Some(Mistake::AppendsTwice) if rarely => log.push(entry),
            Some(Mistake::ForgetsTheTail) if rarely => drop(log.pop()),
            _ => {}
        }
        log.push(entry);
        log.len() as Offset - 1
    }

    fn end(&mut self, txn: usize, state: State, marked: bool) {
        let keys: Vec<Key> = self.states[txn].keys().copied().collect();
        let half = self.mistake == Some(Mistake::CommitsHalf) && self.chance.coin();
        for (number, key) in keys.into_iter().enumerate() {
            let state = if half && 0 < number { State::Aborted } else { state };
            self.states[txn].insert(key, state);
            if marked {
                self.logs[key as usize].push(Entry { value: None, txn });
            }
        }
    }

    /// Up to so many records from a position on, and the position behind them.
    fn poll(&mut self, key: Key, from: usize, most: usize) -> (Vec<(Key, Offset, Value)>, usize) {
        let end = match self.mistake {
            Some(Mistake::ReadsOpenTransactions) => self.high_watermark(key),
            _ => self.last_stable(key),
        };
        let (mut records, mut at) = (Vec::new(), from);
        while at < end && records.len() < most {
            let entry = self.logs[key as usize][at];
            let visible = match self.state(key, entry.txn) {
                State::Open | State::Committed => true,
                State::Aborted => self.mistake == Some(Mistake::ReadsAborted),
            };
            let skips = self.mistake == Some(Mistake::PollsSkip) && self.chance.happens(20_000);
            if let Some(value) = entry.value.filter(|_| visible && !skips) {
                records.push((key, at as Offset, value));
            }
            at += 1;
        }
        (records, at)
    }

    fn stored(&self, key: Key, transactional: bool) -> Stored {
        let log = &self.logs[key as usize];
        let batches = log.iter().enumerate().map(|(offset, entry)| {
            let offset = offset as Offset;
            let kind = match (entry.value, self.state(key, entry.txn)) {
                (Some(_), _) if transactional => BatchKind::Transactional,
                (Some(_), _) => BatchKind::Plain,
                (None, State::Committed) => BatchKind::Commit,
                (None, _) => BatchKind::Abort,
            };
            let records = entry.value.map(|value| (offset, value)).into_iter().collect();
            Batch { base: offset, last: offset, producer: entry.txn as i64, kind, records }
        });
        Stored { key, start: 0, end: log.len() as Offset, batches: batches.collect() }
    }
}

/// A world of clients and one broker, and what it has written down.
struct Rehearsal {
    model: Model,
    clients: Vec<Client>,
    transactional: bool,
    history: Vec<Operation>,
    now: u64,
    next_value: Value,
    next_process: u32,
}

impl Rehearsal {
    fn new(seed: u64, transactional: bool, mistake: Option<Mistake>) -> Self {
        let chance = Random::new(seed);
        let logs = (0..KEYS).map(|_| Vec::new()).collect();
        let model = Model { logs, states: Vec::new(), mistake, chance };
        let mut rehearsal = Self {
            model,
            clients: Vec::new(),
            transactional,
            history: Vec::new(),
            now: 0,
            next_value: 0,
            next_process: 0,
        };
        for _ in 0..CLIENTS {
            let client = rehearsal.client();
            rehearsal.clients.push(client);
        }
        rehearsal
    }

    fn client(&mut self) -> Client {
        self.next_process += 1;
        Client { process: self.next_process, positions: BTreeMap::new(), operation: None }
    }

    fn tell(&mut self, process: u32, outcome: Outcome, begin: u64, action: Action) {
        let end = Some(self.now);
        self.history.push(Operation { process, outcome, begin, end, action });
    }

    fn run(mut self) -> Vec<Operation> {
        for _ in 0..TURNS {
            self.now += 1;
            let turn = self.model.chance.index(self.clients.len());
            let mut client = std::mem::replace(
                &mut self.clients[turn],
                Client { process: 0, positions: BTreeMap::new(), operation: None },
            );
            if client.operation.is_none() {
                self.begin(&mut client);
            } else {
                client = self.step(client);
            }
            self.clients[turn] = client;
        }
        self.end()
    }

    fn begin(&mut self, client: &mut Client) {
        let begin = self.now;
        match self.model.chance.below(10) {
            0 => {
                let ends = (0..KEYS)
                    .map(|key| (key, self.model.high_watermark(key), self.model.last_stable(key)))
                    .map(|(key, high, stable)| (key, high as Offset, stable as Offset));
                let action = Action::Ends(ends.collect());
                self.tell(client.process, Outcome::Ok, begin, action);
            }
            1 => {
                let keys: BTreeSet<Key> = (0..KEYS).filter(|_| self.model.chance.coin()).collect();
                client.positions.retain(|key, _| keys.contains(key));
                for key in &keys {
                    client.positions.entry(*key).or_default();
                }
                self.tell(client.process, Outcome::Ok, begin, Action::Assign(keys));
            }
            _ => {
                let most = if self.transactional { 4 } else { 1 };
                let left = self.model.chance.between(1, most) as usize;
                self.model.states.push(BTreeMap::new());
                let txn = self.model.states.len() - 1;
                let positions = client.positions.clone();
                client.operation = Some(Running { begin, txn, left, steps: Vec::new(), positions });
            }
        }
    }

    fn step(&mut self, mut client: Client) -> Client {
        let running = client.operation.as_mut().expect("only those with an operation step");
        if running.left == 0 {
            return self.finish(client);
        }
        running.left -= 1;
        if self.model.chance.coin() {
            let key = self.model.chance.below(u64::from(KEYS)) as Key;
            self.next_value += 1;
            let offset = self.model.append(key, self.next_value, running.txn);
            running.steps.push(Step::Send(key, self.next_value, Some(offset)));
        } else {
            let mut polled = Vec::new();
            for (key, position) in &mut client.positions {
                let most = self.model.chance.between(0, 3) as usize;
                let (records, at) = self.model.poll(*key, *position, most);
                polled.extend(records);
                *position = at;
            }
            running.steps.push(Step::Poll(polled));
        }
        client
    }

    /// It is committed or not, and its client is told or not.
    fn finish(&mut self, mut client: Client) -> Client {
        let running = client.operation.take().expect("only those with an operation finish");
        let (state, outcome) = match self.model.chance.below(10) {
            0 => (State::Aborted, Outcome::Fail),
            1 => (State::Aborted, Outcome::Info),
            2 => (State::Committed, Outcome::Info),
            _ => (State::Committed, Outcome::Ok),
        };
        self.model.end(running.txn, state, self.transactional);
        let mut steps = running.steps;
        if outcome != Outcome::Ok {
            client.positions = running.positions;
            // The offsets were not told, either.
            for step in &mut steps {
                if let Step::Send(_, _, offset) = step {
                    *offset = None;
                }
            }
        }
        let action = Action::Txn(Txn { steps, ..Txn::default() });
        self.tell(client.process, outcome, running.begin, action);
        if outcome == Outcome::Info { self.client() } else { client }
    }

    /// What is open is aborted, and somebody reads everything.
    fn end(mut self) -> Vec<Operation> {
        for client in std::mem::take(&mut self.clients) {
            if let Some(running) = client.operation {
                self.model.end(running.txn, State::Aborted, self.transactional);
                let action = Action::Txn(Txn { steps: running.steps, ..Txn::default() });
                self.tell(client.process, Outcome::Fail, running.begin, action);
            }
        }
        self.now += 1;
        let process = self.client().process;
        for key in 0..KEYS {
            let (records, _) = self.model.poll(key, 0, usize::MAX);
            let txn = Txn { steps: vec![Step::Poll(records)], ..Txn::default() };
            self.tell(process, Outcome::Ok, self.now, Action::Txn(txn));
            // One send that was not committed is as if it had not been appended.
            if self.transactional {
                let stored = self.model.stored(key, true);
                self.tell(process, Outcome::Ok, self.now, Action::Log(stored));
            }
            self.now += 1;
        }
        self.history
    }
}

/// Whatever a correct broker and its clients do, whoever is told what: nothing is found.
#[test]
fn histories_of_a_correct_broker_show_nothing() {
    for seed in 0..200 {
        for transactional in [false, true] {
            let report = judge(Rehearsal::new(seed, transactional, None).run(), false);
            assert!(report.is_clean(), "seed {seed}, transactional {transactional}: {report}");
            let ok = report.counts[&Outcome::Ok];
            assert!(100 < ok, "seed {seed}: only {ok} operations say little");
        }
    }
}

/// A mistake of the broker shows, whatever else happens, and under its name.
#[test]
fn histories_of_a_broker_with_a_mistake_show_it() {
    let mistakes = [
        (Mistake::ReadsOpenTransactions, Anomaly::PrecommittedRead),
        (Mistake::ReadsAborted, Anomaly::AbortedRead),
        (Mistake::CommitsHalf, Anomaly::TornTransaction),
        (Mistake::ForgetsTheTail, Anomaly::Unseen),
        (Mistake::AppendsTwice, Anomaly::Duplicate),
        (Mistake::PollsSkip, Anomaly::IntPollSkip),
    ];
    for (mistake, anomaly) in mistakes {
        let caught = |seed| {
            let report = judge(Rehearsal::new(seed, true, Some(mistake)).run(), false);
            report.forbidden().any(|found| found == anomaly)
        };
        let count = (0..20).filter(|seed| caught(*seed)).count();
        assert!(5 <= count, "{mistake:?}: {anomaly} in {count} of 20 histories");
    }
}
