//! A generation is shared out once, and neither generations nor committed offsets go back; whatever
//! the kind of a group, and however often it changes.

use std::collections::{BTreeMap, BTreeSet};

use super::{Place, Verdict, check};

/// All that was observed of one group.
#[derive(Debug, Default)]
pub struct Group {
    /// Who was given what, in which generation.
    shares: BTreeMap<(i32, Place), String>,
    /// The last generation that is known to have been shared out.
    generation: i32,
    /// Of which kind it was in generations, the newer one or the classic one.
    kinds: BTreeMap<i32, bool>,
    offsets: BTreeMap<Place, Offsets>,
}

/// The offsets a group has committed for one partition. Each commit is above the ones that its
/// committer knows.
#[derive(Debug, Default)]
struct Offsets {
    /// Ever sent.
    sent: BTreeSet<i64>,
    /// The highest one that was acknowledged.
    acked: Option<i64>,
}

impl Group {
    /// The generation that who joins from now on must be let into at least.
    #[must_use]
    pub fn generation(&self) -> i32 {
        self.generation
    }

    /// Somebody who asked when `floor` was known was let into a generation.
    pub fn joined(&mut self, generation: i32, floor: i32) -> Verdict {
        check(floor <= generation, "generations go on, whatever kind a group is of", || {
            format!("{floor} was shared out, and somebody is let into {generation}")
        })
    }

    /// A member of the group in this generation has learned its kind.
    pub fn is_of_kind(&mut self, generation: i32, is_newer: bool) {
        self.kinds.insert(generation, is_newer);
    }

    /// How often it was upgraded, and how often downgraded, as far as its members could see.
    #[must_use]
    pub fn changes_of_kind(&self) -> (u64, u64) {
        let kinds = self.kinds.values().zip(self.kinds.values().skip(1));
        kinds.fold((0, 0), |(up, down), kinds| match kinds {
            (false, true) => (up + 1, down),
            (true, false) => (up, down + 1),
            _ => (up, down),
        })
    }

    /// A member was told its share.
    pub fn given(&mut self, generation: i32, member: &str, share: &[Place]) -> Verdict {
        self.generation = self.generation.max(generation);
        for place in share {
            let owner = self.shares.entry((generation, *place)).or_insert_with(|| member.into());
            check(owner == member, "a partition has one owner in a generation", || {
                format!("{place:?} in generation {generation}: {owner}, then {member}")
            })?;
        }
        Ok(())
    }

    /// A member is about to commit.
    pub fn committing(&mut self, place: Place, offset: i64) {
        self.offsets.entry(place).or_default().sent.insert(offset);
    }

    /// A commit was acknowledged.
    pub fn committed(&mut self, place: Place, offset: i64) {
        let offsets = self.offsets.entry(place).or_default();
        offsets.acked = offsets.acked.max(Some(offset));
    }

    /// What a fetch that is sent now must find at least.
    #[must_use]
    pub fn floor(&self, place: Place) -> Option<i64> {
        self.offsets.get(&place)?.acked
    }

    /// An offset was fetched, by a request sent when `floor` was acknowledged.
    pub fn fetched(&mut self, place: Place, found: Option<i64>, floor: Option<i64>) -> Verdict {
        check(floor <= found, "a committed offset never goes back", || {
            format!("{place:?}: acknowledged {floor:?}, found {found:?}")
        })?;
        let Some(found) = found else { return Ok(()) };
        let offsets = self.offsets.entry(place).or_default();
        check(offsets.sent.contains(&found), "an offset was committed by somebody", || {
            format!("{place:?}: {found}")
        })?;
        // Whoever was told it goes on from there.
        offsets.acked = offsets.acked.max(Some(found));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tidemill_record::TopicId;

    const PLACE: Place = Place { topic: TopicId([1; 16]), partition: 0 };

    /// Bad history: a crash forgets who was given what, and the generation is shared out again.
    #[test]
    fn a_generation_that_is_shared_out_twice_is_found() {
        let mut group = Group::default();
        group.given(3, "a", &[PLACE]).unwrap();
        group.given(3, "a", &[PLACE]).unwrap();
        group.given(4, "b", &[PLACE]).unwrap();
        let found = group.given(3, "b", &[PLACE]).unwrap_err();
        assert_eq!(found.rule, "a partition has one owner in a generation");
    }

    /// Bad history: a change of kind, or a crash within one, begins with the first generation again.
    #[test]
    fn a_generation_that_goes_back_is_found() {
        let mut group = Group::default();
        let floor = group.generation();
        group.joined(1, floor).unwrap();
        group.given(5, "a", &[PLACE]).unwrap();
        group.joined(1, floor).unwrap();
        let found = group.joined(1, group.generation()).unwrap_err();
        assert_eq!(found.rule, "generations go on, whatever kind a group is of");
    }

    #[test]
    fn changes_of_kind_are_counted_in_the_order_of_generations() {
        let mut group = Group::default();
        for (generation, is_newer) in [(1, false), (3, true), (2, false), (7, false), (4, true)] {
            group.is_of_kind(generation, is_newer);
        }
        assert_eq!(group.changes_of_kind(), (1, 1));
    }

    /// Bad history: a commit that was acknowledged is not found again, or an older one is.
    #[test]
    fn a_lost_commit_is_found() {
        let mut group = Group::default();
        group.committing(PLACE, 5);
        group.committed(PLACE, 5);
        group.committing(PLACE, 7);
        let floor = group.floor(PLACE);
        group.fetched(PLACE, Some(5), floor).unwrap();
        assert!(group.fetched(PLACE, None, floor).is_err());
        group.fetched(PLACE, Some(7), floor).unwrap();
        assert!(group.fetched(PLACE, Some(5), group.floor(PLACE)).is_err(), "it was told");
    }

    /// Bad history: an offset that nobody has committed.
    #[test]
    fn an_invented_offset_is_found() {
        assert!(Group::default().fetched(PLACE, Some(1), None).is_err());
    }
}
