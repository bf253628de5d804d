//! Of two commits of an offset the later one counts, in a transaction or not; what was aborted, sent
//! by a member that was out, or deleted, never shows.
//!
//! Offsets rise: each that is sent is above all that were sent before, whoever commits it. So what is
//! found must be no less than the last one that counts for certain when it is asked for. Of what is
//! sent in a transaction, the fate of that decides.
//!
//! Start reading at [`Offsets::fetched`].

use std::collections::BTreeMap;

use super::transactions::Transactions;
use super::{Place, Verdict, check};

/// All that was observed of committed offsets.
#[derive(Debug, Default)]
pub struct Offsets {
    groups: BTreeMap<String, BTreeMap<Place, BTreeMap<i64, Commit>>>,
    deletions: BTreeMap<String, Vec<Deletion>>,
    /// The last offset that was sent.
    last: i64,
    /// How many things happened.
    time: u64,
}

/// An offset that was sent.
#[derive(Clone, Copy, Debug, Default)]
struct Commit {
    transaction: Option<usize>,
    /// The member that sends it was out before.
    is_forbidden: bool,
    asked: u64,
    /// When it was acknowledged, or found.
    acked: Option<u64>,
    is_found: bool,
    /// It was sent more than once, and may come once more.
    comes_again: bool,
}

/// Somebody asked to forget offsets: all of a group, or those of one partition.
#[derive(Clone, Copy, Debug)]
struct Deletion {
    of: Option<Place>,
    asked: u64,
    /// When it was over.
    over: Option<u64>,
    end: DeletionEnd,
}

/// What came of asking to forget offsets.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum DeletionEnd {
    /// They are gone.
    Done,
    /// Nothing has changed.
    Refused,
    /// Nobody knows.
    Unknown,
}

/// What a fetch that was sent at some time must find at least.
#[derive(Clone, Copy, Debug)]
pub struct Floor {
    offset: Option<i64>,
    asked: u64,
}

impl Deletion {
    fn is_of(&self, place: Place) -> bool {
        self.of.is_none_or(|of| of == place)
    }
}

impl Offsets {
    fn now(&mut self) -> u64 {
        self.time += 1;
        self.time
    }

    /// The groups that have ever committed anything.
    pub fn groups(&self) -> impl Iterator<Item = &String> {
        self.groups.keys()
    }

    /// The partitions that a group has ever committed offsets of.
    pub fn places(&self, group: &str) -> impl Iterator<Item = &Place> {
        self.groups.get(group).into_iter().flat_map(BTreeMap::keys)
    }

    /// An offset to commit, above all before; perhaps in a transaction, and perhaps by somebody who
    /// is out.
    pub fn committing(
        &mut self,
        group: &str,
        place: Place,
        transaction: Option<usize>,
        is_forbidden: bool,
    ) -> i64 {
        self.last += 1;
        let asked = self.now();
        let commit = Commit { transaction, is_forbidden, asked, ..Commit::default() };
        let places = self.groups.entry(group.to_owned()).or_default();
        places.entry(place).or_default().insert(self.last, commit);
        self.last
    }

    fn commit(&mut self, group: &str, place: Place, offset: i64) -> Option<&mut Commit> {
        self.groups.get_mut(group)?.get_mut(&place)?.get_mut(&offset)
    }

    /// A commit is sent once more.
    pub fn committing_again(&mut self, group: &str, place: Place, offset: i64) {
        if let Some(commit) = self.commit(group, place, offset) {
            commit.comes_again = true;
        }
    }

    /// A commit was acknowledged.
    pub fn committed(&mut self, group: &str, place: Place, offset: i64) -> Verdict {
        let now = self.now();
        let Some(commit) = self.commit(group, place, offset) else { return Ok(()) };
        commit.acked.get_or_insert(now);
        may_count(commit, || format!("{offset} of {place:?} of {group} was taken"))
    }

    /// What a fetch that is sent now must find at least. Who does not wait for what is not decided
    /// yet (`waits`) need not find what was: the group may not have heard.
    pub fn floor(
        &mut self,
        group: &str,
        place: Place,
        waits: bool,
        transactions: &Transactions,
    ) -> Floor {
        let asked = self.now();
        let deletions = self.deletions.get(group).into_iter().flatten();
        let counts = deletions.filter(|one| one.is_of(place) && one.end != DeletionEnd::Refused);
        // Of what was sent before one was over, nobody can tell whether it was there by then.
        let over = counts.map(|one| one.over.unwrap_or(u64::MAX)).max().unwrap_or(0);
        let is_certain = |commit: &Commit| {
            let is_committed =
                || commit.transaction.is_none_or(|of| waits && transactions.is_committed(of));
            over < commit.asked && (commit.is_found || commit.acked.is_some() && is_committed())
        };
        let commits = self.groups.get(group).and_then(|places| places.get(&place));
        let last = commits.and_then(|all| all.iter().rev().find(|(_, commit)| is_certain(commit)));
        Floor { offset: last.map(|(offset, _)| *offset), asked }
    }

    /// An offset was fetched, by a request that was sent when `floor` was made.
    pub fn fetched(
        &mut self,
        group: &str,
        place: Place,
        found: Option<i64>,
        floor: Floor,
        transactions: &mut Transactions,
    ) -> Verdict {
        let now = self.now();
        let deletions = self.deletions.get(group).into_iter().flatten();
        let deletions: Vec<Deletion> = deletions.filter(|one| one.is_of(place)).copied().collect();
        let may_be_gone = deletions.iter().any(|one| floor.asked < one.asked);
        check(floor.offset <= found || may_be_gone, "the last commit counts", || {
            format!("{place:?} of {group}: committed {:?}, found {found:?}", floor.offset)
        })?;
        let Some(found) = found else { return Ok(()) };
        let Some(commit) = self.commit(group, place, found) else {
            return check(false, "an offset was committed by somebody", || {
                format!("{place:?} of {group}: {found}")
            });
        };
        may_count(commit, || format!("{found} of {place:?} of {group} was found"))?;
        let was_there = |one: &Deletion| commit.acked.is_some_and(|acked| acked < one.asked);
        let is_over = |one: &Deletion| one.over.is_some_and(|over| over < floor.asked);
        let deleted = deletions.iter().any(|one| {
            one.end == DeletionEnd::Done && is_over(one) && was_there(one) && !commit.comes_again
        });
        check(!deleted, "an offset that was deleted stays deleted", || {
            format!("{place:?} of {group}: {found}, {commit:?} in spite of {deletions:?}")
        })?;
        // Whoever was told it goes on from there.
        commit.acked.get_or_insert(now);
        commit.is_found = true;
        match commit.transaction {
            Some(of) => transactions.shown_offset(of, || format!("offset {found} of {place:?}")),
            None => Ok(()),
        }
    }

    /// Somebody asks to forget all offsets of a group, or that of one partition. The number is for
    /// [`Offsets::deletion_over`].
    pub fn deleting(&mut self, group: &str, of: Option<Place>) -> usize {
        let asked = self.now();
        let deletions = self.deletions.entry(group.to_owned()).or_default();
        deletions.push(Deletion { of, asked, over: None, end: DeletionEnd::Unknown });
        deletions.len() - 1
    }

    /// That was answered. One of unknown end may come about until the node starts again.
    pub fn deletion_over(&mut self, group: &str, number: usize, end: DeletionEnd) {
        let now = self.now();
        let Some(deletion) = self.deletions.get_mut(group).map(|all| &mut all[number]) else {
            return;
        };
        deletion.end = end;
        deletion.over = (end != DeletionEnd::Unknown).then_some(now);
    }

    /// The node starts again. Nothing comes about any more of what was asked before.
    pub fn starts(&mut self) {
        let now = self.now();
        for deletion in self.deletions.values_mut().flatten() {
            deletion.over.get_or_insert(now);
        }
    }
}

fn may_count(commit: &Commit, what: impl FnOnce() -> String) -> Verdict {
    check(!commit.is_forbidden, "who has lost a partition commits nothing more", what)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tidemill_record::{Outcome, TopicId};

    const PLACE: Place = Place { topic: TopicId([1; 16]), partition: 0 };

    #[derive(Default)]
    struct Scene {
        offsets: Offsets,
        transactions: Transactions,
    }

    impl Scene {
        fn sent(&mut self, transaction: Option<usize>) -> i64 {
            self.offsets.committing("g", PLACE, transaction, false)
        }

        fn acked(&mut self, transaction: Option<usize>) -> i64 {
            let offset = self.sent(transaction);
            self.offsets.committed("g", PLACE, offset).unwrap();
            offset
        }

        fn ended(&mut self, transaction: usize, outcome: Outcome) {
            self.transactions.asking_to_commit(transaction);
            self.transactions.told(transaction, outcome).unwrap();
        }

        fn floor(&mut self) -> Floor {
            self.offsets.floor("g", PLACE, true, &self.transactions)
        }

        fn found(&mut self, found: Option<i64>, floor: Floor) -> Verdict {
            self.offsets.fetched("g", PLACE, found, floor, &mut self.transactions)
        }

        fn rule(&mut self, found: Option<i64>, floor: Floor) -> &'static str {
            self.found(found, floor).unwrap_err().rule
        }
    }

    /// Bad history: a commit that was acknowledged is not found again, or an older one is.
    #[test]
    fn a_lost_commit_is_found() {
        let mut scene = Scene::default();
        let (first, second) = (scene.acked(None), scene.sent(None));
        let floor = scene.floor();
        scene.found(Some(first), floor).unwrap();
        assert_eq!(scene.rule(None, floor), "the last commit counts");
        scene.found(Some(second), floor).unwrap();
        let floor = scene.floor();
        assert_eq!(scene.rule(Some(first), floor), "the last commit counts", "it was told");
    }

    /// Bad history: an offset that nobody has committed.
    #[test]
    fn an_invented_offset_is_found() {
        let mut scene = Scene::default();
        let floor = scene.floor();
        assert_eq!(scene.rule(Some(1), floor), "an offset was committed by somebody");
    }

    /// Bad history: offsets of an aborted transaction count, or those of a committed one do not.
    #[test]
    fn offsets_that_do_not_follow_their_transaction_are_found() {
        let mut scene = Scene::default();
        let (first, second) = (scene.transactions.begins(), scene.transactions.begins());
        let committed = scene.acked(Some(first));
        scene.ended(first, Outcome::Commit);
        let aborted = scene.acked(Some(second));
        scene.ended(second, Outcome::Abort);
        let floor = scene.floor();
        scene.found(Some(committed), floor).unwrap();
        assert!(scene.found(None, floor).is_err());
        assert!(scene.found(Some(aborted), floor).is_err());
    }

    /// Bad history: the end of a transaction brings back what a later commit has overtaken.
    #[test]
    fn a_transaction_that_counts_from_its_end_on_is_found() {
        let mut scene = Scene::default();
        let transaction = scene.transactions.begins();
        let (within, later) = (scene.acked(Some(transaction)), scene.acked(None));
        scene.ended(transaction, Outcome::Commit);
        let floor = scene.floor();
        assert_eq!(scene.rule(Some(within), floor), "the last commit counts");
        scene.found(Some(later), floor).unwrap();
    }

    /// Bad history: a member that was out is told that its commit counts, or it is seen to.
    #[test]
    fn a_commit_of_a_fenced_member_is_found() {
        let mut scene = Scene::default();
        let offset = scene.offsets.committing("g", PLACE, None, true);
        let floor = scene.floor();
        let rule = "who has lost a partition commits nothing more";
        assert_eq!(scene.rule(Some(offset), floor), rule);
        assert_eq!(scene.offsets.committed("g", PLACE, offset).unwrap_err().rule, rule);
    }

    /// Bad history: what was deleted is there again. What was on its way meanwhile may be.
    #[test]
    fn a_deleted_offset_that_returns_is_found() {
        let mut scene = Scene::default();
        let (gone, under_way) = (scene.acked(None), scene.sent(None));
        let before = scene.floor();
        let number = scene.offsets.deleting("g", None);
        scene.found(Some(gone), before).unwrap();
        scene.found(None, before).unwrap();
        scene.offsets.deletion_over("g", number, DeletionEnd::Done);
        let after = scene.floor();
        scene.found(None, after).unwrap();
        assert_eq!(scene.rule(Some(gone), after), "an offset that was deleted stays deleted");
        scene.found(Some(under_way), after).unwrap();
    }

    /// Bad history: an offset is gone, though nobody was told that it was deleted; or another one's
    /// deletion has taken it.
    #[test]
    fn a_deletion_that_takes_more_is_found() {
        let mut scene = Scene::default();
        scene.acked(None);
        let elsewhere = Place { partition: 1, ..PLACE };
        let ends = [(None, DeletionEnd::Refused), (Some(elsewhere), DeletionEnd::Done)];
        for (of, end) in ends {
            let number = scene.offsets.deleting("g", of);
            scene.offsets.deletion_over("g", number, end);
            let floor = scene.floor();
            assert_eq!(scene.rule(None, floor), "the last commit counts");
        }
    }
}
