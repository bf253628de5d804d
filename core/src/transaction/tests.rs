//! The rules of transactions, told as short stories: a coordinator, clients, and a log that may
//! fail or be lost behind any record.

use tidemill_record::{Offset, ProducerEpoch};
use tidemill_replication::metadata::Image;
use tidemill_runtime::edge::ShardId;

use super::*;
use crate::coordinator_log::{Append, LogRecord, Logged};
use crate::job::Jobs;

/// A coordinator, its log, and what it has answered.
struct Scene {
    coordinator: Logged<Coordinator>,
    image: Image,
    log: Vec<Record>,
    now_ms: i64,
    /// How far the time of day was set back.
    set_back_ms: i64,
    asked: u32,
    answers: Vec<(u32, Reply)>,
    marks: Vec<Mark>,
    next_id: i64,
    appended: i64,
    /// What is handed out stays on its way.
    holds: bool,
    held: VecDeque<Append>,
}

const TIMEOUT_MS: i32 = 60_000;

fn rules() -> Arc<Rules> {
    Arc::new(Rules {
        timeout_max_ms: 900_000,
        expiration_ms: 1_000_000,
        expiry_interval: Duration::from_millis(10_000),
    })
}

fn reply_to(index: u32) -> ReplyTo {
    ReplyTo { shard: ShardId(0), job: Jobs::default().insert(()), index }
}

fn part(number: i32) -> Part {
    ("topic".into(), number)
}

fn producer(id: i64, epoch: i16) -> Producer {
    Producer { id: ProducerId(id), epoch: ProducerEpoch(epoch) }
}

impl Scene {
    fn new() -> Self {
        let mut coordinator = Logged::new(Coordinator::new(rules()), 1 << 20);
        let image = Image::default();
        let times = Times { now: Instant::default(), wall_ms: 0 };
        coordinator.loaded(0, Now { times, image: &image });
        Self {
            coordinator,
            image,
            log: Vec::new(),
            now_ms: 0,
            set_back_ms: 0,
            asked: 0,
            answers: Vec::new(),
            marks: Vec::new(),
            next_id: 100,
            appended: 0,
            holds: false,
            held: VecDeque::new(),
        }
    }

    fn times(&self) -> Times {
        let now = Instant { nanos: self.now_ms as u64 * 1_000_000 };
        Times { now, wall_ms: self.now_ms - self.set_back_ms }
    }

    /// The process dies; another one reads what is in the log.
    fn restart(&mut self) {
        let mut coordinator = Logged::new(Coordinator::new(rules()), 1 << 20);
        self.log.iter().cloned().for_each(|record| coordinator.replay(record));
        coordinator.loaded(0, Now { times: self.times(), image: &self.image });
        self.coordinator = coordinator;
        self.marks.clear();
        self.held.clear();
        self.holds = false;
        self.settle();
    }

    /// Whatever is to be written is, and producer ids are to be had.
    fn settle(&mut self) {
        loop {
            let wanted = self.coordinator.coordinator.take_ids_wanted();
            for _ in 0..wanted {
                self.next_id += 1;
                let (id, times) = (ProducerId(self.next_id), self.times());
                self.coordinator.coordinator.give_id(id, times);
            }
            let append = self.coordinator.poll_append(self.now_ms);
            let done = append.is_none() && wanted == 0;
            if let Some(append) = append {
                match self.holds {
                    true => self.held.push_back(append),
                    false => self.land(&append),
                }
            }
            if done {
                break;
            }
        }
        let replies = self.coordinator.take_replies().into_iter();
        self.answers.extend(replies.map(|(to, reply)| (to.index, reply)));
        self.marks.extend(self.coordinator.coordinator.take_marks());
    }

    fn land(&mut self, append: &Append) {
        let (batch, _) = tidemill_record::Batch::parse(&append.batch).expect("a batch");
        let contents = tidemill_record::Contents::open(&batch, 1 << 20).expect("readable");
        for record in contents.records() {
            let record = record.expect("a record");
            let key = record.key.expect("a key");
            self.log.push(Record::decode(key, record.value).expect("ours"));
        }
        self.appended += 1;
        let now = Now { times: self.times(), image: &self.image };
        self.coordinator.appended(append.number, Offset(self.appended), now);
    }

    fn ask(&mut self, request: Request) -> u32 {
        self.asked += 1;
        let now = Now { times: self.times(), image: &self.image };
        self.coordinator.request(request, reply_to(self.asked), true, now);
        self.settle();
        self.asked
    }

    fn answer(&mut self, asked: u32) -> Option<Reply> {
        let place = self.answers.iter().position(|(index, _)| *index == asked)?;
        Some(self.answers.remove(place).1)
    }

    fn told(&mut self, request: Request) -> Reply {
        let asked = self.ask(request);
        self.answer(asked).expect("it is answered")
    }

    fn init(&mut self) -> Reply {
        self.init_as(None)
    }

    fn init_as(&mut self, expected: Option<Producer>) -> Reply {
        self.told(Request::Init { id: "x".into(), timeout_ms: TIMEOUT_MS, expected })
    }

    fn begin(&mut self) -> Producer {
        match self.init() {
            Reply::Producer(producer) => producer,
            other => panic!("no producer: {other:?}"),
        }
    }

    fn add(&mut self, from: Producer, number: i32) -> Reply {
        self.told(add(from, number, false))
    }

    fn end(&mut self, from: Producer, commit: bool) -> Reply {
        self.told(Request::End { id: "x".into(), producer: from, commit, is_newer: false })
    }

    fn end_newer(&mut self, from: Producer, commit: bool) -> Reply {
        self.told(Request::End { id: "x".into(), producer: from, commit, is_newer: true })
    }

    /// The partitions confirm what they are told.
    fn confirm(&mut self) -> Vec<(i32, Producer, Outcome)> {
        let marks = std::mem::take(&mut self.marks);
        for mark in &marks {
            let times = self.times();
            self.coordinator.coordinator.marked(mark, Ok(()), times);
        }
        self.settle();
        marks.iter().map(|mark| (mark.part.1, mark.producer, mark.outcome)).collect()
    }

    fn wait(&mut self, ms: i64) {
        self.now_ms += ms;
        self.coordinator.tick(Now { times: self.times(), image: &self.image });
        self.settle();
    }

    fn status(&mut self) -> Option<Status> {
        match self.told(Request::Describe { id: "x".into() }) {
            Reply::Described(state) => state.map(|state| state.status),
            other => panic!("not described: {other:?}"),
        }
    }
}

fn add(from: Producer, number: i32, waits: bool) -> Request {
    let parts = vec![part(number)];
    Request::Add { id: "x".into(), producer: from, parts, is_newer: waits, waits }
}

fn refused(error: ErrorCode) -> Reply {
    Reply::Refused(error)
}

/// The older flow, from the beginning to the end, twice with the same epoch.
#[test]
fn a_transaction_is_begun_written_to_and_ended() {
    let mut scene = Scene::new();
    let from = scene.begin();
    assert_eq!(from, producer(101, 0));
    for commit in [true, false] {
        assert_eq!(scene.add(from, 0), Reply::Done);
        assert_eq!(scene.add(from, 1), Reply::Done);
        assert_eq!(scene.status(), Some(Status::Ongoing));
        assert_eq!(scene.end(from, commit), Reply::Producer(from));
        let outcome = if commit { Outcome::Commit } else { Outcome::Abort };
        assert_eq!(scene.confirm(), [(0, from, outcome), (1, from, outcome)]);
        let complete = if commit { Status::CompleteCommit } else { Status::CompleteAbort };
        assert_eq!(scene.status(), Some(complete));
    }
}

/// In the newer flow each end raises the epoch, and the markers carry the new one: a batch that
/// comes late is refused.
#[test]
fn in_the_newer_flow_each_end_raises_the_epoch() {
    let mut scene = Scene::new();
    let from = scene.begin();
    scene.add(from, 0);
    let next = producer(101, 1);
    assert_eq!(scene.end_newer(from, true), Reply::Producer(next));
    assert_eq!(scene.confirm(), [(0, next, Outcome::Commit)]);
    assert_eq!(scene.add(from, 0), refused(ErrorCode::ProducerFenced));
    assert_eq!(scene.add(next, 0), Reply::Done);
}

/// Who has not heard the answer asks again, also after a restart, and is told the same.
#[test]
fn an_end_that_is_asked_for_twice_is_answered_twice() {
    let mut scene = Scene::new();
    let from = scene.begin();
    scene.add(from, 0);
    let next = producer(101, 1);
    assert_eq!(scene.end_newer(from, true), Reply::Producer(next));
    assert_eq!(scene.end_newer(from, true), refused(ErrorCode::ConcurrentTransactions));
    scene.confirm();
    assert_eq!(scene.end_newer(from, true), Reply::Producer(next));
    scene.restart();
    assert_eq!(scene.end_newer(from, true), Reply::Producer(next));
    assert_eq!(scene.end_newer(from, false), refused(ErrorCode::InvalidTxnState));
    // With the new epoch it is another transaction, of which nothing was written.
    assert_eq!(scene.end_newer(next, true), refused(ErrorCode::InvalidTxnState));
    assert_eq!(scene.end_newer(next, false), Reply::Producer(producer(101, 2)));

    let mut scene = Scene::new();
    let from = scene.begin();
    assert_eq!(scene.end(from, true), refused(ErrorCode::InvalidTxnState), "nothing was begun");
    scene.add(from, 0);
    scene.end(from, true);
    scene.confirm();
    scene.restart();
    assert_eq!(scene.end(from, true), Reply::Producer(from));
    assert_eq!(scene.end(from, false), refused(ErrorCode::InvalidTxnState));
}

/// A second producer of the same name takes over: what the first one has open is aborted, and it
/// writes and ends nothing more.
#[test]
fn a_new_producer_fences_the_one_before() {
    let mut scene = Scene::new();
    let old = scene.begin();
    scene.add(old, 0);
    assert_eq!(scene.init(), refused(ErrorCode::ConcurrentTransactions), "first it is aborted");
    assert_eq!(scene.init(), refused(ErrorCode::ConcurrentTransactions), "still");
    assert_eq!(scene.confirm(), [(0, producer(101, 1), Outcome::Abort)]);
    assert_eq!(scene.init(), Reply::Producer(producer(101, 2)));
    assert_eq!(scene.add(old, 0), refused(ErrorCode::ProducerFenced));
    assert_eq!(scene.end(old, true), refused(ErrorCode::ProducerFenced));
    let verify = Request::Verify { id: "x".into(), producer: old, parts: vec![part(0)] };
    assert_eq!(scene.told(verify), refused(ErrorCode::ProducerFenced));
}

/// A client that raises its own epoch after an error is told the same when it asks twice; somebody
/// else who took over in between fences it (KIP-360).
#[test]
fn a_producer_that_names_itself_keeps_its_place() {
    let mut scene = Scene::new();
    let from = scene.begin();
    assert_eq!(scene.init_as(Some(from)), Reply::Producer(producer(101, 1)));
    assert_eq!(scene.init_as(Some(from)), Reply::Producer(producer(101, 1)), "it had not heard");
    scene.restart();
    assert_eq!(scene.init_as(Some(from)), Reply::Producer(producer(101, 1)));
    assert_eq!(scene.init(), Reply::Producer(producer(101, 2)));
    let fenced = refused(ErrorCode::ProducerFenced);
    assert_eq!(scene.init_as(Some(from)), fenced);
    assert_eq!(scene.init_as(Some(producer(101, 1))), fenced);
    assert_eq!(scene.init_as(Some(producer(7, 2))), fenced);
}

/// Whoever does not end a transaction in time has lost it, and is told so by its epoch.
#[test]
fn a_transaction_ends_with_its_time() {
    let mut scene = Scene::new();
    let from = scene.begin();
    scene.wait(500_000);
    scene.add(from, 0);
    scene.wait(i64::from(TIMEOUT_MS) - 1);
    assert_eq!(scene.status(), Some(Status::Ongoing));
    scene.wait(1);
    assert_eq!(scene.confirm(), [(0, producer(101, 1), Outcome::Abort)]);
    assert_eq!(scene.status(), Some(Status::CompleteAbort));
    assert_eq!(scene.end(from, true), refused(ErrorCode::ProducerFenced));
    let mut scene = Scene::new();
    let from = scene.begin();
    scene.add(from, 0);
    scene.now_ms += i64::from(TIMEOUT_MS);
    scene.restart();
    scene.wait(0);
    assert_eq!(scene.status(), Some(Status::PrepareAbort), "also behind a restart");
}

/// The bug: a producer whose transaction had run out of time was fenced for ever, so that one long
/// pause ended the application. It lost the transaction, and goes on under the next epoch: in the
/// newer flow by aborting it, in either one by asking for that epoch, also behind a restart.
#[test]
fn a_producer_whose_time_was_over_goes_on() {
    let next = producer(101, 1);
    let timed_out = || {
        let mut scene = Scene::new();
        let from = scene.begin();
        assert_eq!(scene.told(add(from, 0, true)), Reply::Done);
        scene.wait(i64::from(TIMEOUT_MS));
        (scene, from)
    };
    let (mut scene, from) = timed_out();
    assert_eq!(scene.end_newer(from, false), refused(ErrorCode::ConcurrentTransactions));
    assert_eq!(scene.confirm(), [(0, next, Outcome::Abort)]);
    assert_eq!(scene.end_newer(from, true), refused(ErrorCode::InvalidTxnState), "it is lost");
    for _ in 0..2 {
        assert_eq!(scene.end_newer(from, false), Reply::Producer(next));
        scene.restart();
    }
    assert_eq!(scene.add(from, 0), refused(ErrorCode::ProducerFenced));
    assert_eq!(scene.add(next, 0), Reply::Done);

    let (mut scene, from) = timed_out();
    assert_eq!(scene.init_as(Some(from)), refused(ErrorCode::ConcurrentTransactions));
    scene.confirm();
    for _ in 0..2 {
        assert_eq!(scene.init_as(Some(from)), Reply::Producer(next));
        scene.restart();
    }

    // Somebody else who takes over ends it for good.
    let (mut scene, from) = timed_out();
    scene.confirm();
    assert_eq!(scene.init(), Reply::Producer(producer(101, 2)));
    for told in [scene.init_as(Some(from)), scene.end_newer(from, false), scene.init_as(Some(next))]
    {
        assert_eq!(told, refused(ErrorCode::ProducerFenced));
    }
}

/// Under the last epoch of all nobody writes: it is there to fence with.
#[test]
fn a_producer_whose_epochs_are_used_up_does_not_go_on_when_its_time_is_over() {
    let open = |epoch| State {
        producer: producer(101, epoch),
        previous: None,
        next: None,
        timeout_ms: TIMEOUT_MS,
        status: Status::Ongoing,
        partitions: [part(0)].into(),
        is_newer: true,
        updated_ms: 0,
        started_ms: Some(0),
    };
    let timed_out = |epoch| {
        let state = state::time_out(&open(epoch), 1);
        (state.producer, state.previous)
    };
    let last = i16::MAX;
    assert_eq!(timed_out(last - 2), (producer(101, last - 1), Some(producer(101, last - 2))));
    assert_eq!(timed_out(last - 1), (producer(101, last), None));
}

/// The bug: how long a transaction may stay open was worked out anew from the time of day whenever
/// something was added and when its timer rang: a clock that was set back held it open.
#[test]
fn a_clock_that_is_set_back_holds_no_transaction_open() {
    let mut scene = Scene::new();
    let from = scene.begin();
    scene.add(from, 0);
    scene.wait(i64::from(TIMEOUT_MS) - 1000);
    scene.set_back_ms = 3_600_000;
    assert_eq!(scene.add(from, 1), Reply::Done);
    scene.wait(999);
    assert_eq!(scene.status(), Some(Status::Ongoing));
    scene.wait(1);
    assert_eq!(scene.status(), Some(Status::PrepareAbort));
    scene.confirm();
    assert_eq!(scene.init(), Reply::Producer(producer(101, 2)));
    assert_eq!(scene.add(producer(101, 2), 0), Reply::Done);
    scene.wait(i64::from(TIMEOUT_MS) - 1);
    assert_eq!(scene.status(), Some(Status::Ongoing), "the next one has its own time");
}

/// A crash behind any record leaves no transaction that hangs: what is prepared is told again until
/// all know, what is open can be ended.
#[test]
fn a_crash_behind_any_record_leaves_nothing_hanging() {
    let story = |scene: &mut Scene| {
        let from = scene.begin();
        scene.add(from, 0);
        scene.add(from, 1);
        scene.end_newer(from, true);
        scene.confirm();
    };
    let mut whole = Scene::new();
    story(&mut whole);
    assert_eq!(whole.log.len(), 5);
    for cut in 1..=whole.log.len() {
        let mut scene = Scene::new();
        story(&mut scene);
        scene.log.truncate(cut);
        scene.restart();
        match scene.status() {
            Some(Status::Ongoing) => {
                let next = producer(101, 1);
                assert_eq!(scene.end_newer(producer(101, 0), true), Reply::Producer(next));
                assert_eq!(scene.confirm().len(), cut - 1);
            }
            Some(Status::PrepareCommit) => {
                let told = scene.confirm();
                let commit = |number| (number, producer(101, 1), Outcome::Commit);
                assert_eq!(told, [commit(0), commit(1)], "both, again");
            }
            Some(Status::Empty | Status::CompleteCommit) => continue,
            other => panic!("behind record {cut}: {other:?}"),
        }
        assert_eq!(scene.status(), Some(Status::CompleteCommit));
    }
}

/// A partition that cannot be told is told again until it confirms; the others are left alone.
#[test]
fn a_partition_that_fails_is_told_again() {
    let mut scene = Scene::new();
    let from = scene.begin();
    scene.add(from, 0);
    scene.add(from, 1);
    scene.end(from, true);
    let marks = std::mem::take(&mut scene.marks);
    let times = scene.times();
    scene.coordinator.coordinator.marked(&marks[0], Ok(()), times);
    scene.coordinator.coordinator.marked(&marks[1], Err(ErrorCode::KafkaStorageError), times);
    scene.settle();
    assert!(scene.marks.is_empty());
    scene.wait(RETRY.as_millis() as i64);
    assert_eq!(scene.status(), Some(Status::PrepareCommit));
    assert_eq!(scene.confirm(), [(1, from, Outcome::Commit)]);
    assert_eq!(scene.status(), Some(Status::CompleteCommit));
}

/// A batch of the next transaction that comes while partitions are still being told of the end of
/// the one before waits in the newer flow, and is not refused; clients that ask are.
#[test]
fn the_next_transaction_waits_for_the_end_of_the_one_before() {
    let mut scene = Scene::new();
    let from = scene.begin();
    scene.add(from, 0);
    scene.end_newer(from, true);
    let next = producer(101, 1);
    assert_eq!(scene.add(next, 0), refused(ErrorCode::ConcurrentTransactions));
    let waits = scene.ask(add(next, 0, true));
    assert_eq!(scene.answer(waits), None);
    scene.confirm();
    assert_eq!(scene.answer(waits), Some(Reply::Done));
}

/// Only what is part of the open transaction may be written to.
#[test]
fn partitions_are_verified() {
    let mut scene = Scene::new();
    let from = scene.begin();
    let verify = |id| {
        let parts = vec![part(0), part(1)];
        Request::Verify { id: "x".into(), producer: producer(id, 0), parts }
    };
    let no = ErrorCode::TransactionAbortable;
    assert_eq!(scene.told(verify(101)), Reply::Verified(vec![no, no]));
    scene.add(from, 1);
    assert_eq!(scene.told(verify(101)), Reply::Verified(vec![no, ErrorCode::None]));
    assert_eq!(scene.told(verify(7)), refused(ErrorCode::InvalidProducerIdMapping));
    scene.end(from, true);
    assert_eq!(scene.told(verify(101)), refused(ErrorCode::ConcurrentTransactions));
    scene.confirm();
    assert_eq!(scene.told(verify(101)), Reply::Verified(vec![no, no]), "it is over");
}

/// Nobody is told what a crash could undo, and what fails has not happened.
#[test]
fn a_reply_waits_for_its_record() {
    let mut scene = Scene::new();
    let from = scene.begin();
    scene.holds = true;
    let added = scene.ask(add(from, 0, false));
    let ended =
        scene.ask(Request::End { id: "x".into(), producer: from, commit: true, is_newer: false });
    assert!(scene.answers.is_empty() && scene.held.len() == 1, "the end waits for the add");
    let append = scene.held.pop_front().unwrap();
    let now = Now { times: scene.times(), image: &scene.image };
    scene.coordinator.refused(append.number, ErrorCode::NotCoordinator, now);
    scene.holds = false;
    scene.settle();
    assert_eq!(scene.answer(added), Some(refused(ErrorCode::NotCoordinator)));
    assert_eq!(scene.answer(ended), Some(refused(ErrorCode::InvalidTxnState)), "nothing is open");
}

/// The epochs of a producer id are used up after 32 thousand transactions: it goes on under another
/// id, and who has not heard of it is still known.
#[test]
fn when_the_epochs_are_used_up_another_id_is_given_out() {
    let mut scene = Scene::new();
    let mut from = scene.begin();
    for epoch in 1..i16::MAX {
        scene.add(from, 0);
        assert_eq!(scene.end_newer(from, true), Reply::Producer(producer(101, epoch)));
        scene.confirm();
        scene.log.clear();
        from = producer(101, epoch);
    }
    scene.add(from, 0);
    let next = producer(102, 0);
    assert_eq!(scene.end_newer(from, true), Reply::Producer(next));
    let last = producer(101, i16::MAX);
    assert_eq!(scene.confirm(), [(0, last, Outcome::Commit)], "one epoch was kept to fence with");
    assert_eq!(scene.end_newer(from, true), Reply::Producer(next), "it had not heard");
    assert_eq!(scene.add(next, 0), Reply::Done);
}

/// Ids that nobody has used for long are forgotten, unless something of theirs is open.
#[test]
fn unused_ids_expire() {
    let mut scene = Scene::new();
    scene.begin();
    scene.wait(999_999);
    assert_eq!(scene.status(), Some(Status::Empty));
    scene.wait(10_001);
    assert_eq!(scene.status(), None);
    assert_eq!(scene.log.last().map(|record| record.state.is_none()), Some(true));
    scene.restart();
    assert_eq!(scene.coordinator.count(), 0);
}

/// Tools find the transactions that have been open for too long.
#[test]
fn transactions_are_listed_by_state_producer_and_age() {
    let mut scene = Scene::new();
    let from = scene.begin();
    scene.add(from, 0);
    scene.wait(5000);
    let mut list = |filter| match scene.told(Request::List(filter)) {
        Reply::Listed(listed) => listed.len(),
        other => panic!("not listed: {other:?}"),
    };
    assert_eq!(list(Filter::default()), 1);
    let states = vec!["Ongoing".to_owned()];
    assert_eq!(list(Filter { states, open_for_ms: Some(4999), ..Filter::default() }), 1);
    assert_eq!(list(Filter { open_for_ms: Some(5000), ..Filter::default() }), 0);
    assert_eq!(list(Filter { producers: vec![7], ..Filter::default() }), 0);
}

/// What is not allowed is refused, and nothing is kept of it.
#[test]
fn nonsense_is_refused() {
    let mut scene = Scene::new();
    let init = |timeout_ms| Request::Init { id: "x".into(), timeout_ms, expected: None };
    for timeout_ms in [-1, 0, 900_001] {
        assert_eq!(scene.told(init(timeout_ms)), refused(ErrorCode::InvalidTransactionTimeout));
    }
    let unknown = refused(ErrorCode::InvalidProducerIdMapping);
    assert_eq!(scene.add(producer(1, 0), 0), unknown);
    assert_eq!(scene.end(producer(1, 0), true), unknown);
    assert_eq!(scene.coordinator.count(), 0);
    scene.coordinator.close(ErrorCode::NotCoordinator);
    assert_eq!(scene.told(init(1000)), refused(ErrorCode::NotCoordinator));
}

/// The log does not grow for ever: it is written anew, and what lies before can go.
#[test]
fn the_log_is_written_anew() {
    let mut scene = Scene::new();
    let mut from = scene.begin();
    let mut trimmed = None;
    for _ in 0..10_000 {
        scene.add(from, 0);
        let Reply::Producer(next) = scene.end_newer(from, true) else { panic!("not ended") };
        from = next;
        scene.confirm();
        trimmed = trimmed.or(scene.coordinator.take_trim());
        if let Some(Offset(to)) = trimmed {
            scene.log.drain(..scene.log.len().min(to as usize - 1));
            scene.restart();
            assert_eq!(scene.add(from, 0), Reply::Done, "it is still known");
            return;
        }
    }
    panic!("the log grows for ever");
}
