//! A generation is shared out once, and a committed offset never goes back.

use std::collections::{BTreeMap, BTreeSet};

use super::{Place, Verdict, check};

/// All that was observed of one group.
#[derive(Debug, Default)]
pub struct Group {
    /// Who was given what, in which generation.
    shares: BTreeMap<(i32, Place), String>,
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
    /// A member was told its share.
    pub fn given(&mut self, generation: i32, member: &str, share: &[Place]) -> Verdict {
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
