//! The rules of transactions in one log, told as short stories.

use super::*;

const DAY_MS: i64 = 24 * 60 * 60 * 1000;

/// A log of which only the transactions are kept.
#[derive(Default)]
struct Log {
    transactions: Transactions,
    end: i64,
}

fn producer(id: i64, epoch: i16) -> Producer {
    Producer { id: ProducerId(id), epoch: ProducerEpoch(epoch) }
}

impl Log {
    fn plain(&mut self, records: i64) {
        self.end += records;
    }

    fn batch(&mut self, id: i64, records: i64) {
        self.transactions.note_batch(producer(id, 0), Offset(self.end), 0);
        self.end += records;
    }

    fn marker(&mut self, id: i64, outcome: Outcome) {
        let marker = Marker { outcome, coordinator_epoch: 3 };
        self.transactions.note_marker(producer(id, 0), marker, Offset(self.end), 0);
        self.end += 1;
    }

    fn settle(&mut self) {
        self.transactions.settle(Offset(self.end));
    }

    fn stable(&self) -> i64 {
        self.transactions.last_stable(Offset(self.end)).0
    }

    fn aborted(&self, from: i64, end: i64) -> Vec<(i64, i64)> {
        let aborted = self.transactions.aborted_in(Offset(from)..Offset(end));
        aborted.iter().map(|aborted| (aborted.producer_id.0, aborted.first.0)).collect()
    }

    fn check(
        &mut self,
        from: Producer,
        transactional: bool,
        zero: bool,
    ) -> Result<(), TransactionError> {
        self.transactions.check_batch(from, transactional, zero, false, DAY_MS, 0)
    }
}

/// Whoever reads only what is committed stops where the oldest open transaction begins.
#[test]
fn the_last_stable_offset_is_where_the_oldest_open_transaction_begins() {
    let mut log = Log::default();
    log.plain(5);
    assert_eq!(log.stable(), 5, "without transactions all is stable");
    log.batch(1, 2);
    log.batch(2, 1);
    log.plain(2);
    log.batch(1, 1);
    assert_eq!(log.stable(), 5);
    log.marker(1, Outcome::Commit);
    log.settle();
    assert_eq!(log.stable(), 7, "the second is open");
    log.marker(2, Outcome::Abort);
    log.settle();
    assert_eq!(log.stable(), log.end);
}

/// A marker that a crash may still take back has ended nothing for those who read.
#[test]
fn a_marker_counts_once_it_is_durable() {
    let mut log = Log::default();
    log.batch(1, 3);
    log.marker(1, Outcome::Commit);
    assert_eq!(log.transactions.last_stable(Offset(3)), Offset(0), "the marker is not durable");
    assert_eq!(log.transactions.last_stable(Offset(4)), Offset(4));
}

/// A reader is told of every aborted transaction with records in what it is given, also of those
/// that began before, and of no others that ended before.
#[test]
fn a_reader_is_told_of_the_aborted_transactions_that_overlap() {
    let mut log = Log::default();
    log.batch(1, 2); // 0, 1
    log.marker(1, Outcome::Abort); // 2
    log.batch(2, 2); // 3, 4
    log.batch(3, 1); // 5
    log.marker(2, Outcome::Abort); // 6
    log.plain(1); // 7
    log.marker(3, Outcome::Commit); // 8
    log.batch(1, 1); // 9
    log.marker(1, Outcome::Abort); // 10
    assert_eq!(log.aborted(0, 11), [(1, 0), (2, 3), (1, 9)]);
    assert_eq!(log.aborted(3, 9), [(2, 3)]);
    assert_eq!(log.aborted(6, 7), [(2, 3)], "its marker is read, its records were before");
    assert_eq!(log.aborted(7, 9), []);
    assert_eq!(log.aborted(0, 3), [(1, 0)]);
}

/// What was deleted need not be told any more.
#[test]
fn aborted_transactions_are_forgotten_with_their_records() {
    let mut log = Log::default();
    log.batch(1, 2);
    log.marker(1, Outcome::Abort);
    log.batch(2, 2);
    log.marker(2, Outcome::Abort);
    log.transactions.trim(Offset(2));
    assert_eq!(log.aborted(0, 6), [(1, 0), (2, 3)], "the first one's marker is still there");
    log.transactions.trim(Offset(3));
    assert_eq!(log.aborted(0, 6), [(2, 3)]);
}

/// A producer whose transaction was ended under a higher epoch writes nothing more: a transaction
/// opened by what it sent too late would never end.
#[test]
fn a_marker_fences_older_epochs() {
    let mut log = Log::default();
    log.batch(1, 1);
    let marker = Marker { outcome: Outcome::Abort, coordinator_epoch: 3 };
    log.transactions.note_marker(producer(1, 1), marker, Offset(1), 0);
    let fenced = TransactionError::FencedProducerEpoch { current: ProducerEpoch(1) };
    assert_eq!(log.check(producer(1, 0), true, true), Err(fenced));
    assert_eq!(log.transactions.check_marker(producer(1, 0), 3), Err(fenced));
    assert_eq!(log.check(producer(1, 1), true, false), Err(TransactionError::NotFromZero));
    assert_eq!(log.check(producer(1, 1), true, true), Ok(()));
    assert_eq!(log.transactions.check_marker(producer(1, 1), 3), Ok(()), "sent again");
    let replaced = TransactionError::FencedCoordinator { current: 3 };
    assert_eq!(log.transactions.check_marker(producer(1, 1), 2), Err(replaced));
}

/// The bug: who was known by an old marker alone, its numbers long forgotten, could not go on.
#[test]
fn a_producer_silent_for_long_may_go_on_anywhere() {
    let mut log = Log::default();
    log.batch(1, 1);
    log.marker(1, Outcome::Commit);
    let from = producer(1, 0);
    let mut check = |now_ms| {
        let (is_transactional, begins_at_zero, is_numbered) = (true, false, false);
        let transactions = &mut log.transactions;
        transactions.check_batch(
            from,
            is_transactional,
            begins_at_zero,
            is_numbered,
            DAY_MS,
            now_ms,
        )
    };
    assert_eq!(check(DAY_MS), Err(TransactionError::NotFromZero));
    assert_eq!(check(DAY_MS + 1), Ok(()));
}

/// Between the records of a transaction its producer writes nothing else.
#[test]
fn a_producer_in_a_transaction_writes_nothing_outside_of_it() {
    let mut log = Log::default();
    log.batch(1, 1);
    let refused = log.check(producer(1, 0), false, false);
    assert_eq!(refused, Err(TransactionError::NotTransactional));
    log.marker(1, Outcome::Commit);
    assert_eq!(log.check(producer(1, 0), false, true), Ok(()));
}

/// The bug: a batch of a higher epoch was taken for a part of the transaction that was open under
/// the one before.
#[test]
fn a_higher_epoch_does_not_continue_an_open_transaction() {
    let mut log = Log::default();
    log.batch(1, 1);
    let refused = log.check(producer(1, 1), true, true);
    assert_eq!(refused, Err(TransactionError::NotTransactional));
    let marker = Marker { outcome: Outcome::Commit, coordinator_epoch: 3 };
    log.transactions.note_marker(producer(1, 1), marker, Offset(1), 0);
    assert_eq!(log.check(producer(1, 1), true, true), Ok(()));
}

/// Aborted transactions are remembered as long as their records: their number is bounded by
/// refusing new ones, never by forgetting one.
#[test]
fn no_more_transactions_are_begun_than_can_be_remembered() {
    let mut log = Log::default();
    for _ in 0..TRANSACTIONS_MAX {
        log.batch(1, 1);
        log.marker(1, Outcome::Abort);
    }
    let refused = log.check(producer(1, 0), true, true);
    assert_eq!(refused, Err(TransactionError::TooManyTransactions));
    log.transactions.trim(Offset(2));
    assert_eq!(log.check(producer(1, 0), true, true), Ok(()));
}

/// A producer with an open transaction is never forgotten, however long it is silent.
#[test]
fn silent_producers_expire_unless_their_transaction_is_open() {
    let mut log = Log::default();
    log.batch(1, 1);
    log.batch(2, 1);
    log.marker(2, Outcome::Commit);
    log.transactions.expire(DAY_MS, DAY_MS + 1);
    let known: Vec<i64> = log.transactions.iter().map(|(id, _)| id.0).collect();
    assert_eq!(known, [1]);
}

/// A log whose end is cut off knows what was open there.
#[test]
fn a_transaction_whose_marker_is_cut_off_is_open_again() {
    let mut log = Log::default();
    log.batch(1, 2);
    log.batch(2, 1);
    log.marker(1, Outcome::Abort);
    log.marker(2, Outcome::Commit);
    log.batch(3, 1);
    let cut_at = |to| {
        let mut cut = log.transactions.clone();
        cut.truncate(Offset(to));
        cut
    };
    assert_eq!(cut_at(5).last_stable(Offset(5)), Offset(5), "only the third is gone");
    assert_eq!(cut_at(4).last_stable(Offset(4)), Offset(2));
    assert_eq!(cut_at(3).last_stable(Offset(3)), Offset(0));
    assert!(!cut_at(3).has_aborted());
    assert_eq!(cut_at(1).open_count(), 1);
}

fn snapshot() -> (Transactions, Vec<u8>) {
    let mut log = Log { end: 5, ..Log::default() };
    log.batch(0x0102, 2);
    log.marker(0x0102, Outcome::Abort);
    log.batch(0x0103, 1);
    log.settle();
    let mut bytes = Vec::new();
    log.transactions.encode(&mut bytes);
    (log.transactions, bytes)
}

/// The bytes of version 1, for ever.
#[test]
fn the_snapshot_format_is_this() {
    #[rustfmt::skip]
    let expected = [
        1,                                      // version
        0, 0, 0, 2,                             // producers
        0, 0, 0, 0, 0, 0, 1, 2,                 // producer id
        0, 0,                                   // epoch
        0, 0, 0, 3,                             // coordinator's epoch
        0, 0, 0, 0, 0, 0, 0, 0,                 // last active, ms
        0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, // nothing open
        0, 0, 0, 0, 0, 0, 1, 3,
        0, 0,
        0xff, 0xff, 0xff, 0xff,                 // no coordinator yet
        0, 0, 0, 0, 0, 0, 0, 0,
        0, 0, 0, 0, 0, 0, 0, 8,                 // open from here
        0, 0, 0, 1,                             // aborted
        0, 0, 0, 0, 0, 0, 1, 2,                 // producer id
        0, 0, 0, 0, 0, 0, 0, 5,                 // first
        0, 0, 0, 0, 0, 0, 0, 7,                 // marker
        0, 0, 0, 0, 0, 0, 0, 8,                 // stable
    ];
    assert_eq!(snapshot().1, expected);
}

/// A restart knows exactly what was open and what was aborted; damaged bytes are an error.
#[test]
fn a_snapshot_is_read_back_and_never_believed() {
    let (transactions, bytes) = snapshot();
    assert_eq!(Transactions::decode(&mut &bytes[..]), Some(transactions));
    for cut in 0..bytes.len() {
        assert_eq!(Transactions::decode(&mut &bytes[..cut]), None);
    }
    let with = |at: usize, byte| {
        let mut damaged = bytes.clone();
        damaged[at] = byte;
        Transactions::decode(&mut &damaged[..])
    };
    assert_eq!(with(0, 2), None, "another version");
    assert_eq!(with(1, 0xff), None, "more producers than fit");
    assert_eq!(with(42, 1), None, "ids that do not rise");
    assert_eq!(with(bytes.len() - 33, 9), None, "more transactions than follow");
}
