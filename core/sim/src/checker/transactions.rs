//! Transactions happen as a whole or not at all, and nobody writes after being fenced.
//!
//! Each transaction that a client begins has a number here, and everything it writes is known by
//! it. What becomes of it is told in two ways: its producer is answered, and readers are shown its
//! records, or told to leave them out. All of them must tell the same.
//!
//! Start reading at [`Transactions::shown`].

use std::collections::{BTreeMap, BTreeSet};

use tidemill_record::{Outcome, Producer};

use super::{Verdict, check};
use crate::value::Value;

/// All that was observed of transactions.
#[derive(Debug, Default)]
pub struct Transactions {
    ids: BTreeMap<String, TransactionalId>,
    begun: Vec<Fate>,
    /// Which transaction a value belongs to; values of other producers belong to none.
    of: BTreeMap<Value, usize>,
    /// Sent by those who had been fenced.
    forbidden: BTreeSet<Value>,
    /// Who was given which epoch.
    epochs: BTreeMap<(i64, i16), u32>,
    next_writer: u32,
    /// How many were committed, as far as their producers know.
    pub committed: u64,
}

/// What is known of one transactional id.
#[derive(Debug, Default)]
struct TransactionalId {
    /// The producers that were let in, with the epoch each has heard of last.
    epochs: BTreeMap<u32, Producer>,
    /// Each time somebody asked to be let in, and when that was answered: requests and answers
    /// are counted alike.
    asked: BTreeMap<u64, Option<u64>>,
    count: u64,
}

/// What is known of one transaction.
#[derive(Clone, Copy, Debug, Default)]
struct Fate {
    /// Its producer has asked to commit it.
    commit_asked: bool,
    /// What its producer was told.
    told: Option<Outcome>,
    /// What readers were shown.
    shown: Option<Outcome>,
}

impl Fate {
    fn is_committed(&self) -> bool {
        [self.told, self.shown].contains(&Some(Outcome::Commit))
    }

    fn is(&mut self, outcome: Outcome) -> bool {
        let asked = outcome == Outcome::Abort || self.commit_asked;
        asked && [self.told, self.shown].iter().flatten().all(|known| *known == outcome)
    }
}

/// Who may write under a transactional id, from being let in on.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Granted {
    /// The name under which it writes: nobody else ever has it.
    pub writer: u32,
    asked: u64,
}

/// The first name of a writer of transactions.
const WRITERS_FROM: u32 = 1_000_000;

impl Transactions {
    /// Somebody asks to be let in; the number is for [`Transactions::granted`].
    pub fn asking(&mut self, id: &str) -> u64 {
        let id = self.ids.entry(id.to_owned()).or_default();
        id.count += 1;
        id.asked.insert(id.count, None);
        id.count
    }

    /// Somebody who asked to be let in was answered.
    pub fn answered(&mut self, id: &str, asked: u64) {
        let id = self.ids.entry(id.to_owned()).or_default();
        id.count += 1;
        id.asked.insert(asked, Some(id.count));
    }

    /// Somebody was let in: who was in before is fenced.
    pub fn granted(
        &mut self,
        id: &str,
        asked: u64,
        producer: Producer,
    ) -> Result<Granted, super::Violation> {
        self.answered(id, asked);
        let writer = WRITERS_FROM + self.next_writer;
        self.next_writer += 1;
        self.goes_on(id, writer, producer)?;
        Ok(Granted { writer, asked })
    }

    /// A producer goes on under this epoch.
    pub fn goes_on(&mut self, id: &str, writer: u32, producer: Producer) -> Verdict {
        let key = (producer.id.0, producer.epoch.0);
        let owner = *self.epochs.entry(key).or_insert(writer);
        check(owner == writer, "an epoch is given to one producer", || {
            format!("{producer:?} of {id}: {owner}, then {writer}")
        })?;
        self.ids.entry(id.to_owned()).or_default().epochs.insert(writer, producer);
        Ok(())
    }

    /// Whether another producer was let in since.
    #[must_use]
    pub fn is_fenced(&self, id: &str, writer: u32) -> bool {
        let Some(id) = self.ids.get(id) else { return false };
        let Some(mine) = id.epochs.get(&writer) else { return false };
        id.epochs.values().any(|other| other.id == mine.id && mine.epoch < other.epoch)
    }

    /// Whether others may have been let in since this one asked, so that it may be fenced by now.
    #[must_use]
    pub fn may_be_fenced(&self, id: &str, granted: Granted) -> bool {
        let Some(id) = self.ids.get(id) else { return false };
        let mut others = id.asked.iter().filter(|(asked, _)| **asked != granted.asked);
        others.any(|(_, answered)| answered.is_none_or(|at| granted.asked < at))
    }

    /// A transaction begins.
    pub fn begins(&mut self) -> usize {
        self.begun.push(Fate::default());
        self.begun.len() - 1
    }

    /// A value is thought of, as part of a transaction.
    pub fn belongs(&mut self, value: Value, transaction: usize) {
        self.of.insert(value, transaction);
    }

    /// Values are sent for the first time.
    pub fn sending(&mut self, id: &str, writer: u32, values: &[Value]) {
        if self.is_fenced(id, writer) {
            self.forbidden.extend(values);
        }
    }

    /// Whether a value counts, as far as anybody knows: it was part of no transaction, or of one
    /// that was committed.
    #[must_use]
    pub fn counts(&self, value: Value) -> bool {
        self.of.get(&value).is_none_or(|transaction| self.begun[*transaction].is_committed())
    }

    /// A value is in the log.
    pub fn found(&self, value: Value) -> Verdict {
        check(!self.forbidden.contains(&value), "who was fenced writes no more", || {
            format!("{value:?} was sent after another producer had been let in")
        })
    }

    /// A producer asks to commit.
    pub fn asking_to_commit(&mut self, transaction: usize) {
        self.begun[transaction].commit_asked = true;
    }

    /// A producer is told that its transaction has ended so, or that it never will otherwise.
    pub fn told(&mut self, transaction: usize, outcome: Outcome) -> Verdict {
        let fate = &mut self.begun[transaction];
        let before = *fate;
        check(fate.is(outcome), "a transaction ends in one way", || {
            format!("transaction {transaction} was told {outcome:?}, after {before:?}")
        })?;
        if outcome == Outcome::Commit && fate.told.is_none() {
            self.committed += 1;
        }
        fate.told = Some(outcome);
        Ok(())
    }

    /// A reader of what is committed was shown a value, or told to leave it out.
    pub fn shown(&mut self, value: Value, outcome: Outcome) -> Verdict {
        let Some(transaction) = self.of.get(&value).copied() else {
            return check(outcome == Outcome::Commit, "only what was aborted is left out", || {
                format!("{value:?} was part of no transaction")
            });
        };
        self.shown_of(transaction, outcome, || format!("{value:?}"))
    }

    fn shown_of(
        &mut self,
        transaction: usize,
        outcome: Outcome,
        what: impl FnOnce() -> String,
    ) -> Verdict {
        let fate = &mut self.begun[transaction];
        let before = *fate;
        check(fate.is(outcome), "a transaction is shown as a whole or not at all", || {
            format!("{} of transaction {transaction} is {outcome:?}, after {before:?}", what())
        })?;
        fate.shown = Some(outcome);
        Ok(())
    }

    /// Whether a transaction was committed, as far as anybody knows.
    #[must_use]
    pub fn is_committed(&self, transaction: usize) -> bool {
        self.begun[transaction].is_committed()
    }

    /// An offset that a transaction has committed was told to somebody.
    pub fn shown_offset(&mut self, transaction: usize, what: impl FnOnce() -> String) -> Verdict {
        self.shown_of(transaction, Outcome::Commit, what)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tidemill_record::{ProducerEpoch, ProducerId};

    fn producer(epoch: i16) -> Producer {
        Producer { id: ProducerId(7), epoch: ProducerEpoch(epoch) }
    }

    fn value(number: u64) -> Value {
        Value { writer: 1, number }
    }

    fn let_in(transactions: &mut Transactions, epoch: i16) -> Granted {
        let asked = transactions.asking("x");
        transactions.granted("x", asked, producer(epoch)).unwrap()
    }

    /// A transaction with the values 1 and 2, and somebody who runs it.
    fn begun() -> (Transactions, Granted, usize) {
        let mut transactions = Transactions::default();
        let granted = let_in(&mut transactions, 0);
        let number = transactions.begins();
        for value in [value(1), value(2)] {
            transactions.belongs(value, number);
            transactions.sending("x", granted.writer, &[value]);
        }
        (transactions, granted, number)
    }

    /// Bad history: of a transaction one record is shown and the other is left out.
    #[test]
    fn half_a_transaction_is_found() {
        let (mut transactions, _, number) = begun();
        transactions.asking_to_commit(number);
        transactions.shown(value(1), Outcome::Commit).unwrap();
        let found = transactions.shown(value(2), Outcome::Abort).unwrap_err();
        assert_eq!(found.rule, "a transaction is shown as a whole or not at all");
    }

    /// Bad history: a reader is shown what nobody has asked to commit.
    #[test]
    fn an_open_transaction_that_is_shown_is_found() {
        let (mut transactions, _, _) = begun();
        assert!(transactions.shown(value(1), Outcome::Commit).is_err());
    }

    /// Bad history: a commit that was acknowledged is aborted after a restart, and the other way
    /// round.
    #[test]
    fn an_outcome_that_changes_is_found() {
        for outcome in [Outcome::Commit, Outcome::Abort] {
            let (mut transactions, _, number) = begun();
            transactions.asking_to_commit(number);
            transactions.told(number, outcome).unwrap();
            transactions.shown(value(1), outcome).unwrap();
            let other = match outcome {
                Outcome::Commit => Outcome::Abort,
                Outcome::Abort => Outcome::Commit,
            };
            assert!(transactions.shown(value(2), other).is_err());
            assert!(transactions.told(number, other).is_err());
        }
    }

    /// Bad history: a record outside of transactions is left out.
    #[test]
    fn a_plain_record_that_is_left_out_is_found() {
        let mut transactions = Transactions::default();
        transactions.shown(value(9), Outcome::Commit).unwrap();
        assert!(transactions.shown(value(9), Outcome::Abort).is_err());
    }

    /// Bad history: a producer writes after another one was let in. What it had sent before may
    /// still come.
    #[test]
    fn a_fenced_producer_that_writes_is_found() {
        let (mut transactions, before, _) = begun();
        assert!(!transactions.may_be_fenced("x", before));
        let after = let_in(&mut transactions, 1);
        assert!(transactions.may_be_fenced("x", before));
        assert!(!transactions.may_be_fenced("x", after));
        transactions.sending("x", before.writer, &[value(3)]);
        transactions.sending("x", after.writer, &[value(4)]);
        transactions.found(value(2)).unwrap();
        transactions.found(value(4)).unwrap();
        assert!(transactions.found(value(3)).is_err());
    }

    /// Bad history: two producers under one epoch.
    #[test]
    fn an_epoch_that_is_given_twice_is_found() {
        let (mut transactions, _, _) = begun();
        let asked = transactions.asking("x");
        assert!(transactions.granted("x", asked, producer(0)).is_err());
    }
}
