//! A planted history for each anomaly, and its sound neighbour, which must pass.

use super::anomaly::Beside;
use super::operation::{Batch, BatchKind, Stored, Txn};
use super::*;
use crate::history::operation::Step;

/// What happens one after the other: each operation takes a second.
#[derive(Default)]
struct Story {
    operations: Vec<Operation>,
    now: u64,
}

const SECOND: u64 = 1_000_000;

fn send(key: Key, value: Value, offset: Offset) -> Step {
    Step::Send(key, value, Some(offset))
}

fn poll(key: Key, records: &[(Offset, Value)]) -> Step {
    Step::Poll(records.iter().map(|(offset, value)| (key, *offset, *value)).collect())
}

impl Story {
    fn then(&mut self, process: u32, outcome: Outcome, action: Action) -> &mut Self {
        self.now += SECOND;
        self.during(process, outcome, action, self.now, self.now + SECOND / 2)
    }

    fn during(
        &mut self,
        process: u32,
        outcome: Outcome,
        action: Action,
        begin: u64,
        end: u64,
    ) -> &mut Self {
        self.operations.push(Operation { process, outcome, begin, end: Some(end), action });
        self
    }

    fn ok(&mut self, process: u32, steps: &[Step]) -> &mut Self {
        self.then(process, Outcome::Ok, txn(steps))
    }

    fn fail(&mut self, process: u32, steps: &[Step]) -> &mut Self {
        self.then(process, Outcome::Fail, txn(steps))
    }

    fn info(&mut self, process: u32, steps: &[Step]) -> &mut Self {
        self.then(process, Outcome::Info, txn(steps))
    }

    fn report(&self) -> Report {
        judge(self.operations.clone(), false)
    }

    /// Every anomaly that was found, allowed or not.
    fn found(&self) -> Vec<Anomaly> {
        self.report().found.keys().copied().collect()
    }

    fn is_clean(&self) -> bool {
        self.found().is_empty()
    }
}

fn txn(steps: &[Step]) -> Action {
    Action::Txn(Txn { steps: steps.to_vec(), ..Txn::default() })
}

/// Three values by process 1, acknowledged and polled by process 2.
fn sound() -> Story {
    let mut story = Story::default();
    story.ok(1, &[send(0, 1, 0)]).ok(1, &[send(0, 2, 1)]).ok(1, &[send(0, 3, 4)]);
    story.ok(2, &[poll(0, &[(0, 1), (1, 2)])]).ok(2, &[poll(0, &[(4, 3)])]);
    story
}

#[test]
fn a_sound_history_passes() {
    assert!(sound().is_clean(), "{}", sound().report());
}

#[test]
fn lines_are_read_and_those_that_make_no_sense_are_named() {
    let text = r#"
{"process":1,"type":"ok","begin":10,"end":25,"f":{"assign":[0,1]}}
{"process":1,"type":"ok","begin":30,"end":62,"f":{"txn":{"steps":[{"send":[0,17,4]},{"poll":[[1,0,3]]}],"rebalanced":[1]}}}
{"process":2,"type":"info","begin":31,"f":{"txn":{"steps":[{"send":[0,18,null]}]}}}
{"process":9,"type":"ok","begin":70,"end":71,"f":{"ends":[[0,5,5]]}}
{"process":9,"type":"ok","begin":72,"end":73,"f":{"log":{"key":0,"start":4,"end":5,"batches":[
"#;
    let (sound, broken) = text.trim().rsplit_once('\n').unwrap();
    let operations = parse(sound).unwrap();
    assert_eq!(operations.len(), 4);
    assert_eq!(operations[1].polls().collect::<Vec<_>>(), [(1, 0, 3)]);
    assert_eq!(operations[2].sends().collect::<Vec<_>>(), [(0, 18, None)]);
    assert!(parse(broken).unwrap_err().starts_with("line 1: EOF"));
    let endless = r#"{"process":1,"type":"ok","begin":10,"f":{"assign":[0]}}"#;
    assert!(parse(endless).is_err());
}

#[test]
fn an_offset_with_two_values_is_inconsistent() {
    let mut story = sound();
    story.ok(1, &[send(0, 4, 5)]).ok(3, &[send(0, 5, 5)]);
    story.ok(2, &[poll(0, &[(5, 4)])]).ok(4, &[poll(0, &[(5, 5)])]);
    assert_eq!(story.found(), [Anomaly::InconsistentOffsets]);
}

/// An offset that was told for a write of which nobody knows whether it happened proves nothing.
#[test]
fn an_offset_of_an_uncertain_write_is_no_contradiction() {
    let mut story = sound();
    story.info(1, &[send(0, 4, 5)]).ok(3, &[send(0, 5, 5)]).ok(2, &[poll(0, &[(5, 5)])]);
    assert!(story.is_clean(), "{}", story.report());
}

#[test]
fn a_value_at_two_offsets_is_a_duplicate() {
    let mut story = sound();
    story.ok(2, &[poll(0, &[(5, 3)])]);
    assert_eq!(story.found(), [Anomaly::Duplicate]);
}

#[test]
fn reading_what_was_aborted_is_an_aborted_read() {
    let mut story = sound();
    story.fail(1, &[Step::Send(0, 4, None)]);
    assert!(story.is_clean());
    // Whoever failed, too, has read nothing for certain.
    story.fail(2, &[poll(0, &[(5, 4)])]);
    assert!(story.is_clean());
    story.ok(2, &[poll(0, &[(5, 4)])]);
    assert_eq!(story.found(), [Anomaly::AbortedRead]);
}

#[test]
fn reading_ones_own_writes_is_a_precommitted_read() {
    let mut story = sound();
    story.ok(2, &[send(0, 4, 5), poll(0, &[(5, 4)])]);
    assert_eq!(story.found(), [Anomaly::PrecommittedRead]);
}

#[test]
fn a_value_that_nobody_sent_is_a_phantom() {
    let mut story = sound();
    story.ok(2, &[poll(0, &[(5, 99)])]);
    assert_eq!(story.found(), [Anomaly::Phantom]);
}

/// Process 2 reads 1 and 3; what lies between them was acknowledged, and nobody ever saw it.
#[test]
fn what_every_reader_passes_is_a_lost_write() {
    let mut story = Story::default();
    story.ok(1, &[send(0, 1, 0)]).ok(1, &[send(0, 2, 1)]).ok(1, &[send(0, 3, 2)]);
    story.ok(2, &[poll(0, &[(0, 1)]), poll(0, &[(2, 3)])]);
    assert_eq!(story.found(), [Anomaly::LostWrite, Anomaly::Unseen, Anomaly::IntPollSkip]);
}

/// Nobody knows whether the transaction happened, but one half of it was read.
#[test]
fn half_of_an_uncertain_transaction_is_lost_and_torn() {
    let mut story = Story::default();
    story.info(1, &[send(0, 1, 0), send(1, 1, 0)]).ok(2, &[send(1, 2, 1)]);
    story.ok(3, &[poll(0, &[(0, 1)]), poll(1, &[(1, 2)])]);
    assert_eq!(story.found(), [Anomaly::LostWrite, Anomaly::TornTransaction]);
}

#[test]
fn an_acknowledged_end_that_nobody_reads_is_unseen() {
    let mut story = sound();
    story.info(1, &[send(0, 4, 5)]).fail(1, &[send(0, 5, 6)]);
    assert!(story.is_clean(), "whether it happened is not known");
    story.ok(3, &[send(0, 6, 7)]);
    assert_eq!(story.found(), [Anomaly::Unseen]);
}

#[test]
fn a_transaction_of_which_a_part_is_to_be_seen_is_torn() {
    let steps = [Step::Send(0, 4, None), Step::Send(1, 4, None)];
    let seen = [poll(0, &[(5, 4)])];
    let mut story = sound();
    story.info(1, &steps);
    assert!(story.is_clean(), "none of it");
    story.ok(2, &seen);
    assert_eq!(story.found(), [Anomaly::TornTransaction]);
    story.ok(2, &[poll(1, &[(0, 4)])]);
    assert!(story.is_clean(), "all of it: {}", story.report());
}

#[test]
fn what_comes_behind_a_gap_between_two_polls_is_a_skip() {
    let mut story = sound();
    story.ok(3, &[poll(0, &[(0, 1)])]).ok(3, &[poll(0, &[(4, 3)])]);
    assert_eq!(story.found(), [Anomaly::PollSkip]);
    assert!(!story.report().is_clean());
}

#[test]
fn what_comes_a_second_time_is_nonmonotonic() {
    let mut story = sound();
    story.ok(3, &[poll(0, &[(0, 1), (1, 2)])]).ok(3, &[poll(0, &[(1, 2)])]);
    assert_eq!(story.found(), [Anomaly::NonmonotonicPoll]);
    assert!(!story.report().is_clean());
}

/// A failed operation's polls are taken back, so its records come again.
#[test]
fn what_a_failed_poll_returned_may_come_again() {
    let mut story = sound();
    story.ok(3, &[poll(0, &[(0, 1)])]).fail(3, &[poll(0, &[(1, 2)])]);
    story.ok(3, &[poll(0, &[(1, 2), (4, 3)])]);
    assert!(story.is_clean(), "{}", story.report());
}

#[test]
fn a_new_assignment_forgets_the_keys_that_are_not_part_of_it() {
    let mut story = sound();
    let assign = |keys: &[Key]| Action::Assign(keys.iter().copied().collect());
    story.ok(3, &[poll(0, &[(0, 1), (1, 2)])]);
    story.then(3, Outcome::Ok, assign(&[1])).then(3, Outcome::Ok, assign(&[0, 1]));
    story.ok(3, &[poll(0, &[(0, 1)])]);
    assert!(story.is_clean(), "{}", story.report());
    story.then(3, Outcome::Ok, assign(&[0])).ok(3, &[poll(0, &[(0, 1)])]);
    assert_eq!(story.found(), [Anomaly::NonmonotonicPoll], "this one kept the key");
}

/// A group may give a partition away and back, and its records come from where the group is.
#[test]
fn a_group_may_skip_and_go_back_between_operations() {
    let mut story = sound();
    story.then(3, Outcome::Ok, Action::Subscribe([0].into()));
    story.ok(3, &[poll(0, &[(0, 1)])]).ok(3, &[poll(0, &[(4, 3)])]).ok(3, &[poll(0, &[(1, 2)])]);
    assert_eq!(story.found(), [Anomaly::PollSkip, Anomaly::NonmonotonicPoll]);
    assert!(story.report().is_clean());
}

#[test]
fn a_gap_or_a_step_back_within_an_operation_is_told_apart() {
    let mut skip = sound();
    skip.ok(3, &[poll(0, &[(0, 1)]), poll(0, &[(4, 3)])]);
    assert_eq!(skip.found(), [Anomaly::IntPollSkip]);
    let mut back = sound();
    back.ok(3, &[poll(0, &[(0, 1), (1, 2), (0, 1)])]);
    assert_eq!(back.found(), [Anomaly::IntNonmonotonicPoll]);
    // Unless the partition was away in the meantime.
    let mut moved = sound();
    let steps = vec![poll(0, &[(0, 1), (4, 3), (1, 2)])];
    moved.then(3, Outcome::Ok, Action::Txn(Txn { steps, rebalanced: [0].into() }));
    assert!(moved.is_clean(), "{}", moved.report());
}

#[test]
fn a_process_sends_in_the_order_of_offsets() {
    let mut story = Story::default();
    story.ok(1, &[send(0, 1, 1)]).ok(1, &[send(0, 2, 0)]);
    story.ok(2, &[poll(0, &[(0, 2), (1, 1)])]);
    // The cycle of writes that comes with it is allowed.
    let found = [Anomaly::NonmonotonicSend, Anomaly::WriteCycle(Beside::Process)];
    assert_eq!(story.found(), found);
    assert!(!story.report().is_clean());
}

#[test]
fn an_operation_sends_in_the_order_of_offsets() {
    let mut story = Story::default();
    story.ok(1, &[send(0, 1, 1), send(0, 2, 0)]).ok(2, &[poll(0, &[(0, 2), (1, 1)])]);
    assert_eq!(story.found(), [Anomaly::IntNonmonotonicSend]);
}

/// Transactions lie between each other: this is told, and it is no fault.
#[test]
fn anothers_value_between_two_of_an_operation_is_allowed() {
    let mut story = Story::default();
    let (both, between) = (txn(&[send(0, 1, 0), send(0, 3, 2)]), txn(&[send(0, 2, 1)]));
    story.during(1, Outcome::Ok, both, 1, 9).during(2, Outcome::Ok, between, 2, 8);
    story.ok(3, &[poll(0, &[(0, 1), (1, 2), (2, 3)])]);
    let allowed = [Anomaly::IntSendSkip, Anomaly::WriteCycle(Beside::Nothing)];
    assert_eq!(story.found(), allowed);
    assert!(story.report().is_clean());
}

/// The later of two operations wrote the earlier value: with or without a process in common.
#[test]
fn cycles_of_writes_are_told_and_allowed() {
    let mut time = Story::default();
    time.ok(1, &[send(0, 1, 1)]).ok(2, &[send(0, 2, 0)]).ok(3, &[poll(0, &[(0, 2), (1, 1)])]);
    assert_eq!(time.found(), [Anomaly::WriteCycle(Beside::Realtime)]);
    assert!(time.report().is_clean());
    let mut process = Story::default();
    process.ok(1, &[send(0, 1, 1)]).ok(1, &[send(0, 2, 0)]);
    process.ok(3, &[poll(0, &[(0, 2), (1, 1)])]);
    assert!(process.found().contains(&Anomaly::WriteCycle(Beside::Process)));
}

/// Each of two transactions read what the other wrote.
fn circle() -> Story {
    let mut story = Story::default();
    let first = txn(&[send(0, 1, 0), poll(1, &[(0, 1)])]);
    let second = txn(&[send(1, 1, 0), poll(0, &[(0, 1)])]);
    story.during(1, Outcome::Ok, first, 1, 9).during(2, Outcome::Ok, second, 2, 8);
    story
}

#[test]
fn a_cycle_of_reads_is_forbidden() {
    assert_eq!(circle().found(), [Anomaly::ReadCycle(Beside::Nothing)]);
    let evidence = &circle().report().found[&Anomaly::ReadCycle(Beside::Nothing)].evidence;
    assert_eq!(evidence[..], ["process 2 at 2 → process 1 at 1 → the first"]);
    assert!(!circle().report().is_clean());
}

/// A process read what it was to send only later.
#[test]
fn reading_the_later_write_of_a_process_is_a_cycle() {
    let mut story = Story::default();
    story.ok(1, &[poll(0, &[(0, 1)])]).ok(1, &[send(0, 1, 0)]);
    assert_eq!(story.found(), [Anomaly::ReadCycle(Beside::Process)]);
}

/// One read what another sent only after the first had ended.
#[test]
fn reading_a_write_of_the_future_is_a_cycle() {
    let mut story = Story::default();
    story.ok(1, &[poll(0, &[(0, 1)])]).ok(2, &[send(0, 1, 0)]);
    assert_eq!(story.found(), [Anomaly::ReadCycle(Beside::Realtime)]);
}

/// What was still under way when the writer began may read what it wrote.
#[test]
fn reading_a_write_of_the_same_time_is_none() {
    let mut story = Story::default();
    story.during(1, Outcome::Ok, txn(&[poll(0, &[(0, 1)])]), 1, 9);
    story.during(2, Outcome::Info, txn(&[send(0, 1, 0)]), 3, 4);
    assert!(story.is_clean(), "{}", story.report());
}

/// The order of writes closes a cycle: to be expected where it is asked for.
#[test]
fn a_cycle_of_reads_and_writes_is_allowed() {
    let mut story = Story::default();
    let first = txn(&[send(0, 1, 0), send(1, 2, 1)]);
    let second = txn(&[send(1, 1, 0), poll(0, &[(0, 1)])]);
    story.during(1, Outcome::Ok, first, 1, 9).during(2, Outcome::Ok, second, 2, 8);
    story.ok(3, &[poll(1, &[(0, 1), (1, 2)])]);
    assert!(story.is_clean(), "{}", story.report());
    let report = judge(story.operations, true);
    assert_eq!(report.found.keys().collect::<Vec<_>>(), [&Anomaly::ReadCycle(Beside::Nothing)]);
    assert!(report.is_clean());
}

#[test]
fn knots_too_large_to_be_shown_are_told() {
    let terms = Terms { shown_operations_max: 1, ..Terms::default() };
    let report = judge_by(&circle().operations, terms);
    assert_eq!(report.found.keys().collect::<Vec<_>>(), [&Anomaly::ReadCycleExists]);
    assert!(!report.is_clean());
    let mut writes = Story::default();
    writes.ok(1, &[send(0, 1, 1)]).ok(2, &[send(0, 2, 0)]).ok(3, &[poll(0, &[(0, 2), (1, 1)])]);
    let report = judge_by(&writes.operations, terms);
    assert_eq!(report.found.keys().collect::<Vec<_>>(), [&Anomaly::WriteCycleExists]);
    assert!(report.is_clean());
}

#[test]
fn an_end_that_goes_back_is_a_regression() {
    let ends = |high, stable| Action::Ends(vec![(0, high, stable)]);
    let mut story = sound();
    story.then(9, Outcome::Ok, ends(6, 5)).then(8, Outcome::Ok, ends(6, 5));
    assert!(story.is_clean(), "{}", story.report());
    let mut high = sound();
    high.then(9, Outcome::Ok, ends(7, 5)).then(8, Outcome::Ok, ends(6, 5));
    assert_eq!(high.found(), [Anomaly::EndRegression]);
    let mut stable = sound();
    stable.then(9, Outcome::Ok, ends(7, 6)).then(8, Outcome::Ok, ends(7, 5));
    assert_eq!(stable.found(), [Anomaly::EndRegression]);
    // Two that are under way at once may be told in either order.
    let mut at_once = Story::default();
    at_once.during(9, Outcome::Ok, ends(7, 7), 1, 5).during(8, Outcome::Ok, ends(6, 6), 2, 4);
    assert!(at_once.is_clean());
    // What was polled or acknowledged lies below.
    let mut below = sound();
    below.then(9, Outcome::Ok, ends(4, 4));
    assert_eq!(below.report().found[&Anomaly::EndRegression].count, 2);
}

fn batch(producer: i64, kind: BatchKind, records: &[(Offset, Value)]) -> Batch {
    let (base, last) = (records[0].0, records[records.len() - 1].0);
    let records = records.to_vec();
    Batch { base, last, producer, kind, records }
}

fn marker(producer: i64, kind: BatchKind, offset: Offset) -> Batch {
    Batch { base: offset, last: offset, producer, kind, records: Vec::new() }
}

/// What lies in the partition that `sound` tells of: an aborted record, and a transaction.
fn stored() -> Stored {
    let batches = vec![
        batch(-1, BatchKind::Plain, &[(0, 1), (1, 2)]),
        batch(7, BatchKind::Transactional, &[(2, 50)]),
        marker(7, BatchKind::Abort, 3),
        batch(7, BatchKind::Transactional, &[(4, 3)]),
        marker(7, BatchKind::Commit, 5),
    ];
    Stored { key: 0, start: 0, end: 6, batches }
}

#[test]
fn every_offset_is_accounted_for() {
    let with = |stored| {
        let mut story = sound();
        story.then(9, Outcome::Ok, Action::Log(stored));
        story.found()
    };
    assert_eq!(with(stored()), []);
    let spoilt: [fn(&mut Stored); 7] = [
        |stored| drop(stored.batches.remove(2)),
        |stored| drop(stored.batches.pop()),
        |stored| stored.batches[0].records.truncate(1),
        |stored| stored.end = 7,
        // The aborted record counts, but nobody polled it.
        |stored| stored.batches[2].kind = BatchKind::Commit,
        // The record that was polled does not count.
        |stored| stored.batches[4].kind = BatchKind::Abort,
        // Another value than the one that was polled.
        |stored| stored.batches[3].records = vec![(4, 8)],
    ];
    for (number, spoil) in spoilt.into_iter().enumerate() {
        let mut stored = stored();
        spoil(&mut stored);
        assert_eq!(with(stored), [Anomaly::OffsetGap], "way {number} to spoil it");
    }
}

#[test]
fn a_consumer_that_is_behind_is_told() {
    let mut story = Story::default();
    story.ok(1, &[send(0, 1, 0)]).ok(1, &[send(0, 2, 1)]);
    story.then(2, Outcome::Ok, Action::Subscribe([0].into()));
    story.ok(2, &[poll(0, &[(0, 1)])]).ok(2, &[poll(0, &[(0, 1), (1, 2)])]);
    let lag = story.report().lag;
    // The second value was there after 2.5 s; a poll that began at 4 s did not return it.
    assert_eq!(lag, Lag { worst_realtime_lag: 3 * SECOND / 2, consumed_again: 1 });
}

/// What is printed is what the check with real clients reads.
#[test]
fn a_report_tells_what_it_found_and_its_verdict() {
    let mut story = sound();
    story.ok(2, &[poll(0, &[(5, 99)])]).info(1, &[]).fail(1, &[]);
    let told = "operations: 6 ok, 1 fail, 1 info\nforbidden phantom 1\n  process 2 polled 99 at 5 \
                of key 0: nobody sent it\nworst-realtime-lag: 500 ms\nconsume-counts: 0 again\n\
                verdict: anomalies";
    assert_eq!(story.report().to_string(), told);
}
