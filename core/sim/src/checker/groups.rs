//! A generation is shared out once, and generations never go back; whatever the kind of a group, and
//! however often it changes. Who has lost a partition to another is out.
//!
//! A group that was deleted begins anew: it has *eras*. Nobody can tell the era of a member that asked
//! to be let in while a deletion was under way, so nothing that such a member says counts here.

use std::collections::BTreeMap;

use super::{Place, Verdict, check};

/// All that was observed of one group.
#[derive(Debug, Default)]
pub struct Group {
    /// Who was given what, in which generation.
    shares: BTreeMap<(i32, Place), String>,
    /// Who was given each partition in the last generation that it was given to anybody.
    owners: BTreeMap<Place, (i32, String)>,
    /// The last generation that is known to have been shared out.
    generation: i32,
    /// Of which kind it was in generations, the newer one or the classic one.
    kinds: BTreeMap<i32, bool>,
    /// Changes of kind in earlier eras.
    changed: (u64, u64),
    era: Era,
    /// Deletions of it whose end is not known.
    deletions: u32,
}

/// How often a group may have been deleted before.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Era(u32);

/// A member of a group, as it shows itself when it commits.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Who {
    /// Its name; of a static member, that of its instance.
    pub name: String,
    /// The generation that it believes to be in.
    pub generation: i32,
    /// The era of the group in which it was let in, if that is known.
    pub era: Option<Era>,
}

impl Group {
    /// The generation that who joins from now on must be let into at least.
    #[must_use]
    pub fn generation(&self) -> i32 {
        self.generation
    }

    /// The era in which who asks now will be let in, if that can be told.
    #[must_use]
    pub fn era(&self) -> Option<Era> {
        (self.deletions == 0).then_some(self.era)
    }

    fn is_now(&self, era: Option<Era>) -> bool {
        era.is_some() && era == self.era()
    }

    /// Somebody who asked when `floor` was known was let into a generation.
    pub fn joined(&mut self, generation: i32, floor: i32, era: Option<Era>) -> Verdict {
        let goes_on = floor <= generation || !self.is_now(era);
        check(goes_on, "generations go on, whatever kind a group is of", || {
            format!("{floor} was shared out, and somebody is let into {generation}")
        })
    }

    /// How often it was upgraded, and how often downgraded, as far as its members could see.
    #[must_use]
    pub fn changes_of_kind(&self) -> (u64, u64) {
        let kinds = self.kinds.values().zip(self.kinds.values().skip(1));
        kinds.fold(self.changed, |(up, down), kinds| match kinds {
            (false, true) => (up + 1, down),
            (true, false) => (up, down + 1),
            _ => (up, down),
        })
    }

    /// A member was told its share, in a group of the newer kind or of the classic one.
    pub fn given(&mut self, who: &Who, is_newer: bool, share: &[Place]) -> Verdict {
        if !self.is_now(who.era) {
            return Ok(());
        }
        let Who { name, generation, .. } = who;
        self.kinds.insert(*generation, is_newer);
        self.generation = self.generation.max(*generation);
        for place in share {
            let owner = self.shares.entry((*generation, *place)).or_insert_with(|| name.clone());
            check(owner == name, "a partition has one owner in a generation", || {
                format!("{place:?} in generation {generation}: {owner}, then {name}")
            })?;
            let last = self.owners.entry(*place).or_insert_with(|| (*generation, name.clone()));
            if last.0 < *generation {
                *last = (*generation, name.clone());
            }
        }
        Ok(())
    }

    /// Whether a commit that a member sends now is to be refused: the partition is another one's, or,
    /// `by_generation`, others are in a later generation.
    #[must_use]
    pub fn is_fenced(&self, who: &Who, place: Place, by_generation: bool) -> bool {
        let lost = |(generation, owner): &(i32, String)| {
            who.generation < *generation && *owner != who.name
        };
        let is_late = by_generation && who.generation < self.generation;
        self.is_now(who.era) && (is_late || self.owners.get(&place).is_some_and(lost))
    }

    /// Somebody asks to delete it.
    pub fn deleting(&mut self) {
        self.deletions += 1;
    }

    /// That has ended, and it may be gone.
    pub fn deletion_over(&mut self, may_be_gone: bool) {
        self.deletions -= 1;
        if may_be_gone {
            self.changed = self.changes_of_kind();
            (self.shares, self.owners) = (BTreeMap::new(), BTreeMap::new());
            (self.generation, self.kinds) = (0, BTreeMap::new());
            self.era.0 += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tidemill_record::TopicId;

    const PLACE: Place = Place { topic: TopicId([1; 16]), partition: 0 };

    fn who(group: &Group, name: &str, generation: i32) -> Who {
        Who { name: name.to_owned(), generation, era: group.era() }
    }

    fn give(group: &mut Group, name: &str, generation: i32) -> Verdict {
        let who = who(group, name, generation);
        group.given(&who, false, &[PLACE])
    }

    /// Bad history: a crash forgets who was given what, and the generation is shared out again.
    #[test]
    fn a_generation_that_is_shared_out_twice_is_found() {
        let mut group = Group::default();
        give(&mut group, "a", 3).unwrap();
        give(&mut group, "a", 3).unwrap();
        give(&mut group, "b", 4).unwrap();
        let found = give(&mut group, "b", 3).unwrap_err();
        assert_eq!(found.rule, "a partition has one owner in a generation");
    }

    /// Bad history: a change of kind, or a crash within one, begins with the first generation again.
    /// A deletion may.
    #[test]
    fn a_generation_that_goes_back_is_found() {
        let mut group = Group::default();
        let (floor, era) = (group.generation(), group.era());
        group.joined(1, floor, era).unwrap();
        give(&mut group, "a", 5).unwrap();
        group.joined(1, floor, era).unwrap();
        let found = group.joined(1, group.generation(), era).unwrap_err();
        assert_eq!(found.rule, "generations go on, whatever kind a group is of");
        group.deleting();
        group.joined(1, group.generation(), era).unwrap();
        group.deletion_over(false);
        assert!(group.joined(1, group.generation(), era).is_err(), "it was refused");
        group.deleting();
        group.deletion_over(true);
        group.joined(1, group.generation(), group.era()).unwrap();
    }

    #[test]
    fn changes_of_kind_are_counted_in_the_order_of_generations() {
        let mut group = Group::default();
        for (generation, is_newer) in [(1, false), (3, true), (2, false), (7, false), (4, true)] {
            let who = who(&group, "a", generation);
            group.given(&who, is_newer, &[]).unwrap();
        }
        assert_eq!(group.changes_of_kind(), (1, 1));
        group.deleting();
        group.deletion_over(true);
        assert_eq!(group.changes_of_kind(), (1, 1));
    }

    /// Who has lost a partition is fenced, and in a classic group whoever comes late. The next
    /// process of a static member is the same reader.
    #[test]
    fn who_has_lost_a_partition_is_fenced() {
        let mut group = Group::default();
        give(&mut group, "a", 3).unwrap();
        let a = who(&group, "a", 3);
        assert!(!group.is_fenced(&a, PLACE, true));
        give(&mut group, "a", 4).unwrap();
        assert!(group.is_fenced(&a, PLACE, true));
        assert!(!group.is_fenced(&a, PLACE, false), "it has it still");
        give(&mut group, "b", 5).unwrap();
        assert!(group.is_fenced(&a, PLACE, false));
    }
}
