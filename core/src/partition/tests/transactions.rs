//! Transactions in a partition at home, on a disk that does at once what it is asked.

use tidemill_record::{
    BatchBuilder, Codec, Marker, Outcome as Ending, ProducerEpoch, ProducerId, Sequence,
};

use super::*;
use crate::message::InTransaction;
use crate::message::ReadAnswer;

/// A partition, and everybody's answers by the numbers of their calls.
struct Scene {
    home: Home,
    calls: u32,
    answers: Vec<(u32, Answer)>,
}

const TIMES: Times = Times { now: Instant { nanos: 0 }, wall_ms: 1 };

fn producer(id: i64, epoch: i16) -> Producer {
    Producer { id: ProducerId(id), epoch: ProducerEpoch(epoch) }
}

impl Scene {
    fn new() -> Self {
        Self { home: home(1 << 20), calls: 0, answers: Vec::new() }
    }

    fn call(&mut self, call: Call) -> u32 {
        self.calls += 1;
        self.home.call(PARTITION, call, reply_to(self.calls), TIMES);
        self.settle();
        self.calls
    }

    /// The disk ends all it is asked for.
    fn settle(&mut self) {
        loop {
            self.home.storage.end_turn(0);
            let Some(request) = self.home.storage.poll_request() else { break };
            let done = Completion { id: request.id, result: Ok(Outcome::Done) };
            self.home.storage.handle_completion(done, 0);
            self.take_events();
        }
        self.take_events();
        let answers = self.home.take_answers(Vec::new()).into_iter();
        self.answers.extend(answers.map(|(reply_to, answer)| (reply_to.index, answer)));
    }

    fn take_events(&mut self) {
        while let Some(event) = self.home.storage.poll_event() {
            self.home.handle_event(event, TIMES);
        }
    }

    fn write(&mut self, from: Producer, sequence: i32) -> u32 {
        self.write_in_flow(from, sequence, false)
    }

    fn write_in_flow(&mut self, from: Producer, sequence: i32, is_newer: bool) -> u32 {
        let builder = BatchBuilder::new(Codec::None).numbered(from, Sequence(sequence));
        let mut builder = builder.transactional();
        builder.append(Timestamp(1), None, Some(b"value"));
        let transaction = InTransaction {
            transactional_id: "t".into(),
            adds_partition: is_newer,
            may_be_told_to_abort: false,
        };
        let (batch, acks, transaction) = (builder.build(), Acks::InSync, Box::new(transaction));
        let zstd_allowed = true;
        self.call(Call::AppendInTransaction { batch, acks, zstd_allowed, transaction })
    }

    /// Answers the question that is open, which is about this producer.
    fn verify(&mut self, from: Producer, result: Result<(), ErrorCode>) {
        let asked = self.home.poll_verification().expect("the coordinator is asked");
        assert_eq!((asked.partition, asked.producer), (PARTITION, from));
        self.home.verified(PARTITION, from, result, TIMES);
        self.settle();
    }

    /// A batch of a transaction that the coordinator knows of.
    fn begin(&mut self, from: Producer) {
        let write = self.write(from, 0);
        self.verify(from, Ok(()));
        assert!(matches!(self.answer(write), Some(Answer::Appended { .. })));
    }

    fn mark(&mut self, from: Producer, outcome: Ending) -> u32 {
        self.call(Call::Mark { producer: from, marker: Marker { outcome, coordinator_epoch: 0 } })
    }

    fn answer(&mut self, call: u32) -> Option<Answer> {
        let place = self.answers.iter().position(|(index, _)| *index == call)?;
        Some(self.answers.remove(place).1)
    }

    fn error(&mut self, call: u32) -> Option<ErrorCode> {
        match self.answer(call)? {
            Answer::Refused { error, .. } => Some(error),
            other => panic!("not refused: {other:?}"),
        }
    }

    fn read(&mut self, from: i64, read_committed: bool) -> ReadAnswer {
        let call = self.call(Call::Read(ReadCall {
            from: Offset(from),
            limit_bytes: 1 << 20,
            min_one: true,
            read_committed,
            current_leader_epoch: None,
            last_fetched_epoch: None,
        }));
        match self.answer(call) {
            Some(Answer::Read(read)) => read,
            other => panic!("not read: {other:?}"),
        }
    }

    fn latest(&mut self, read_committed: bool) -> i64 {
        let timestamp = -1;
        let call = Call::ListOffset { timestamp, read_committed, current_leader_epoch: None };
        let call = self.call(call);
        match self.answer(call) {
            Some(Answer::Offset { found: Some((offset, _)), .. }) => offset.0,
            other => panic!("not found: {other:?}"),
        }
    }
}

/// Whoever reads what is committed gets nothing of an open transaction, waits for its end, and is
/// told what was aborted; whoever reads all gets all at once.
#[test]
fn readers_of_what_is_committed_wait_for_the_end_of_transactions() {
    let mut scene = Scene::new();
    let from = producer(9, 0);
    scene.begin(from);
    assert_eq!(scene.read(0, false).size_bytes, scene.read(0, false).batches[0].len() as u32);
    let read = scene.read(0, true);
    assert_eq!(
        (read.size_bytes, read.high_watermark, read.last_stable_offset),
        (0, Offset(1), Offset(0))
    );
    assert!(!read.held_back, "there is nothing that a larger limit would bring");
    assert_eq!((scene.latest(true), scene.latest(false)), (0, 1));

    let watch = scene.call(Call::Watch { seen_end: Offset(0), read_committed: true });
    let write = scene.write(from, 1);
    assert!(scene.answer(write).is_some(), "its transaction is open: nobody is asked");
    assert!(scene.answer(watch).is_none(), "nothing new is stable");
    scene.mark(from, Ending::Abort);
    assert!(matches!(scene.answer(watch), Some(Answer::Moved)));
    let read = scene.read(1, true);
    assert_eq!(read.last_stable_offset, Offset(3));
    let aborted: Vec<_> = read.aborted.iter().map(|a| (a.producer_id, a.first)).collect();
    assert_eq!(aborted, [(ProducerId(9), Offset(0))], "it began before what is read");
    assert!(scene.read(0, false).aborted.is_empty());
    assert_eq!((scene.latest(true), scene.latest(false)), (3, 3));
}

/// No transaction is opened that its coordinator does not know of: nobody would ever end it.
#[test]
fn a_batch_of_an_unknown_transaction_is_refused() {
    let mut scene = Scene::new();
    let from = producer(9, 0);
    let (first, second) = (scene.write(from, 0), scene.write(from, 1));
    assert!(scene.answers.is_empty(), "both wait, and one question is asked");
    scene.verify(from, Err(ErrorCode::InvalidTxnState));
    assert_eq!(scene.error(first), Some(ErrorCode::InvalidTxnState));
    assert_eq!(scene.error(second), Some(ErrorCode::InvalidTxnState));
    assert!(scene.home.poll_verification().is_none());
    assert_eq!(scene.latest(true), 0);
    // The second must not come first when both are sent again.
    let second = scene.write(from, 1);
    assert_eq!(scene.error(second), Some(ErrorCode::OutOfOrderSequenceNumber));
}

/// The bug that KIP-890 was written for: a batch that comes late, behind the marker that ended its
/// transaction, opens one that nobody ends.
#[test]
fn a_batch_that_waited_while_its_transaction_ended_is_refused() {
    let mut scene = Scene::new();
    let from = producer(9, 0);
    let write = scene.write(from, 0);
    let mark = scene.mark(from, Ending::Abort);
    assert!(matches!(scene.answer(mark), Some(Answer::Appended { .. })));
    assert_eq!(scene.error(write), Some(ErrorCode::InvalidTxnState));
    scene.verify(from, Ok(()));
    assert_eq!((scene.latest(true), scene.latest(false)), (1, 1), "nothing is open");
}

/// The bug: while a marker waited behind a batch that is made anew, its transaction counted as open:
/// a late batch was not asked about, went behind the marker, and opened one that nobody ends.
#[test]
fn a_batch_behind_a_marker_that_waits_is_asked_about() {
    let mut scene = Scene::new();
    let from = producer(9, 0);
    scene.begin(from);
    let codec = Some(Codec::Lz4);
    let rules = &mut scene.home.partitions.get_mut(&PARTITION).unwrap().rules;
    rules.wanted = Wanted { codec, ..Wanted::default() };
    let slow = batch(0, &[7; 10_000]);
    scene.call(Call::Append { batch: slow, acks: Acks::InSync, zstd_allowed: true });
    let chore = scene.home.poll_rework().expect("it is to be compressed");
    let mark = scene.mark(from, Ending::Commit);
    assert!(scene.answer(mark).is_none(), "it waits its turn");
    let late = scene.write(from, 1);
    scene.verify(from, Err(ErrorCode::InvalidTxnState));
    assert_eq!(scene.error(late), Some(ErrorCode::InvalidTxnState));
    scene.home.reworked(done(&chore), TIMES);
    scene.settle();
    assert!(matches!(scene.answer(mark), Some(Answer::Appended { .. })));
    assert_eq!((scene.latest(true), scene.latest(false)), (3, 3), "nothing is open");
}

/// The bug: in the newer flow a marker carries the epoch of the next transaction; one that was told
/// again refused the next transaction's batch, which waited for its coordinator.
#[test]
fn a_marker_that_comes_again_leaves_the_next_transaction_alone() {
    let mut scene = Scene::new();
    scene.begin(producer(9, 0));
    scene.mark(producer(9, 1), Ending::Commit);
    let late = scene.write_in_flow(producer(9, 0), 1, true);
    let next = scene.write_in_flow(producer(9, 1), 0, true);
    scene.mark(producer(9, 1), Ending::Commit);
    assert_eq!(scene.error(late), Some(ErrorCode::InvalidTxnState), "it is over");
    assert!(scene.answer(next).is_none(), "it waits on");
    scene.home.poll_verification().expect("about the late one");
    scene.verify(producer(9, 1), Ok(()));
    assert!(matches!(scene.answer(next), Some(Answer::Appended { .. })));
    assert_eq!(scene.latest(true), 3, "it is open");
}

/// In the older flow the epoch stays: what waits under the marker's own may be part of what it ends.
#[test]
fn what_waits_is_ended_by_markers_as_its_flow_says() {
    let in_flow = |adds_partition| InTransaction {
        transactional_id: "t".into(),
        adds_partition,
        may_be_told_to_abort: false,
    };
    let (lower, higher) = (ProducerEpoch(4), ProducerEpoch(5));
    for (adds_partition, equal) in [(false, true), (true, false)] {
        let sent = in_flow(adds_partition);
        assert!(sent.is_ended_by(lower, higher));
        assert_eq!(sent.is_ended_by(higher, higher), equal);
        assert!(!sent.is_ended_by(higher, lower), "a marker of one before");
    }
}

/// A marker under a higher epoch ends the transaction and fences who had it open.
#[test]
fn a_fenced_producer_writes_no_more() {
    let mut scene = Scene::new();
    scene.begin(producer(9, 0));
    scene.mark(producer(9, 1), Ending::Abort);
    let late = scene.write(producer(9, 0), 1);
    scene.verify(producer(9, 0), Ok(()));
    assert_eq!(scene.error(late), Some(ErrorCode::InvalidProducerEpoch));
    scene.begin(producer(9, 1));
    let old = scene.mark(producer(9, 0), Ending::Commit);
    assert_eq!(scene.error(old), Some(ErrorCode::InvalidProducerEpoch));
    assert_eq!(scene.latest(true), 2, "the new one is open");
}

/// A transactional batch from a client that names no transaction, and a marker of nobody.
#[test]
fn what_belongs_to_no_transaction_is_refused() {
    let mut scene = Scene::new();
    let builder = BatchBuilder::new(Codec::None).numbered(producer(9, 0), Sequence(0));
    let mut builder = builder.transactional();
    builder.append(Timestamp(1), None, Some(b"value"));
    let batch = builder.build();
    let call = scene.call(Call::Append { batch, acks: Acks::InSync, zstd_allowed: true });
    assert_eq!(scene.error(call), Some(ErrorCode::TransactionalIdAuthorizationFailed));
    let call = scene.mark(producer(-1, -1), Ending::Abort);
    assert_eq!(scene.error(call), Some(ErrorCode::InvalidRequest));
}

/// The bug: what was aborted is worked out when the disk has done its part, and by then a trim had
/// made the log forget it: its records were given out as if they were committed.
#[test]
fn what_is_trimmed_while_it_is_read_is_not_given_out_as_committed() {
    let mut scene = Scene::new();
    scene.begin(producer(9, 0));
    scene.mark(producer(9, 0), Ending::Abort);
    let batches = scene.read(0, false).batches;
    let (read, asked) = (ReadId(u64::MAX), 1000);
    let call = ReadCall {
        from: Offset(0),
        limit_bytes: 1 << 20,
        min_one: true,
        read_committed: true,
        current_leader_epoch: None,
        last_fetched_epoch: None,
    };
    let kind = DiskReadKind::Fetch { diverging: None, call, emptied: Vec::new() };
    let under_way = DiskRead { partition: PARTITION, reply_to: reply_to(asked), kind };
    scene.home.reads.insert(read, under_way);
    let trim = scene.call(Call::Trim { before: 2 });
    assert!(matches!(scene.answer(trim), Some(Answer::Trimmed { .. })));
    scene.home.handle_event(Event::ReadDone { read, result: Ok(batches) }, TIMES);
    scene.settle();
    assert_eq!(scene.error(asked), Some(ErrorCode::OffsetOutOfRange));
}

/// An administrator sees which transaction keeps readers waiting.
#[test]
fn producers_are_described_with_what_they_have_open() {
    let mut scene = Scene::new();
    scene.begin(producer(9, 2));
    let call = scene.call(Call::DescribeProducers);
    let Some(Answer::Producers(states)) = scene.answer(call) else { panic!("not described") };
    assert_eq!(states.len(), 1);
    assert_eq!((states[0].id, states[0].epoch), (ProducerId(9), ProducerEpoch(2)));
    assert_eq!(states[0].last_sequence, Some(Sequence(0)));
    assert_eq!(states[0].transaction.and_then(|known| known.first), Some(Offset(0)));
}
