//! One step of a member towards its share.
//!
//! ```text
//!            ┌── something to give up ──> Unrevoked ── it has let go ──┐
//! Stable ────┤                                                        ├──> Stable, in the new epoch
//!            └── nothing to give up ───────────────────────────────────┘      ^
//!                      └── some of it is still held by others ── Unreleased ──┘
//! ```
//!
//! A member enters the new epoch only when it has given up what others are to have; what it is to
//! have it takes as it becomes free.

use std::collections::BTreeSet;

use tidemill_record::TopicId;

use super::Member;
use crate::coordinator::assignment::Partitions;
use crate::coordinator::record::{Current, State};

/// What a member is to be moved towards.
pub(super) struct Goal<'a> {
    /// The epoch of the shares.
    pub(super) epoch: i32,
    /// The member's share.
    pub(super) share: &'a Partitions,
    /// What the member says it reads, if it says.
    pub(super) owned: Option<&'a Partitions>,
}

impl Member {
    /// What it has next; `is_held` tells of each partition whether anybody holds it.
    pub(super) fn reconciled(
        &self,
        goal: &Goal<'_>,
        is_held: impl Fn(TopicId, i32) -> bool,
    ) -> Current {
        if self.is_settled(goal.epoch) {
            return self.has.clone();
        }
        match self.has.state {
            State::Stable | State::Unreleased => self.next(self.has.epoch, goal, is_held),
            State::Unrevoked if owns_any(goal.owned, &self.has.revoking) => self.has.clone(),
            // It has let go of everything: its epoch is the next one, whatever follows.
            State::Unrevoked => self.next(self.has.epoch + 1, goal, is_held),
        }
    }

    fn next(&self, epoch: i32, goal: &Goal<'_>, is_held: impl Fn(TopicId, i32) -> bool) -> Current {
        let had = &self.has.assigned;
        let mut assigned = both(had, goal.share);
        let revoking = without(had, &assigned);
        let previous_epoch = self.has.epoch;
        if !revoking.is_empty() && owns_any(goal.owned, &revoking) {
            return Current { epoch, previous_epoch, state: State::Unrevoked, assigned, revoking };
        }
        // What it holds itself and has just let go of is free for it, too.
        let own = |topic: TopicId, number: i32| {
            let held = [&self.has.assigned, &self.has.revoking];
            held.iter().any(|held| held.get(&topic).is_some_and(|set| set.contains(&number)))
        };
        let mut waits = false;
        for (topic, numbers) in &without(goal.share, &assigned) {
            for number in numbers {
                if is_held(*topic, *number) && !own(*topic, *number) {
                    waits = true;
                } else {
                    assigned.entry(*topic).or_default().insert(*number);
                }
            }
        }
        let state = if waits { State::Unreleased } else { State::Stable };
        let revoking = Partitions::new();
        Current { epoch: goal.epoch, previous_epoch, state, assigned, revoking }
    }
}

/// Whether a member may still read some of these: if it does not say what it reads, it may.
fn owns_any(owned: Option<&Partitions>, partitions: &Partitions) -> bool {
    let Some(owned) = owned else { return true };
    partitions
        .iter()
        .any(|(topic, numbers)| owned.get(topic).is_some_and(|owned| !owned.is_disjoint(numbers)))
}

/// What is in both.
fn both(left: &Partitions, right: &Partitions) -> Partitions {
    combine(left, right, |left, right| left & right)
}

/// What is in the left one alone.
fn without(left: &Partitions, right: &Partitions) -> Partitions {
    combine(left, right, |left, right| left - right)
}

fn combine(
    left: &Partitions,
    right: &Partitions,
    combine: impl Fn(&BTreeSet<i32>, &BTreeSet<i32>) -> BTreeSet<i32>,
) -> Partitions {
    let none = BTreeSet::new();
    let combined = left
        .iter()
        .map(|(topic, numbers)| (*topic, combine(numbers, right.get(topic).unwrap_or(&none))));
    combined.filter(|(_, numbers)| !numbers.is_empty()).collect()
}
