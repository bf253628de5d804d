//! Waiting a little for others: what many commit by themselves goes to the disk together.
//!
//! Each write to the disk costs about the same, however much is in it. Where a thousand groups
//! commit their offsets once in a while, each commit would have one for itself. So those of one
//! shard that come within a few milliseconds are appended together. Nothing is told before it is
//! durable; it is durable a little later.
//!
//! What waits is waited for, so it only waits where that helps: not if nothing was appended for as
//! long as it would wait, not where one alone commits again and again, and not if something is
//! appended that may not wait: then it goes along.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tidemill_record::TopicPartition;
use tidemill_runtime::edge::Instant;

/// The most decisions of one coordinator that wait.
pub(super) const LINGERING_MAX: usize = 256;

/// How soon something is to be appended.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) enum Haste {
    /// There is nothing.
    #[default]
    Nothing,
    /// It may wait for others; all of it is about this.
    Alone(Arc<str>),
    /// It may wait for others.
    Linger,
    /// It may not wait.
    Now,
}

impl Haste {
    /// With one more decision.
    pub(super) fn and(self, may_linger: Option<&Arc<str>>) -> Self {
        match (self, may_linger) {
            (Self::Now, _) | (_, None) => Self::Now,
            (Self::Nothing, Some(name)) => Self::Alone(Arc::clone(name)),
            (Self::Alone(name), Some(other)) if name == *other => Self::Alone(name),
            (Self::Alone(_) | Self::Linger, Some(_)) => Self::Linger,
        }
    }

    /// With what another coordinator has.
    fn with(self, other: Self) -> Self {
        match (self, other) {
            (Self::Nothing, haste) | (haste, Self::Nothing) => haste,
            (Self::Alone(name), Self::Alone(other)) if name == other => Self::Alone(name),
            (Self::Now, _) | (_, Self::Now) => Self::Now,
            (Self::Alone(_) | Self::Linger, Self::Alone(_) | Self::Linger) => Self::Linger,
        }
    }
}

/// The coordinators of a shard that wait for others before they append.
#[derive(Debug, Default)]
pub(super) struct Lingering {
    /// Who waits.
    partitions: BTreeSet<TopicPartition>,
    /// How soon all of it is to be appended.
    haste: Haste,
    /// When something was appended last.
    appended_at: Option<Instant>,
    /// What that was about.
    appended: Haste,
}

impl Lingering {
    /// One more has something to append.
    pub(super) fn add(&mut self, partition: TopicPartition, haste: Haste) {
        if haste != Haste::Nothing {
            self.partitions.insert(partition);
            self.haste = std::mem::take(&mut self.haste).with(haste);
        }
    }

    /// Those that wait.
    pub(super) fn partitions(&self) -> impl Iterator<Item = TopicPartition> + '_ {
        self.partitions.iter().copied()
    }

    /// When those that wait have waited long enough; `linger` is how long that is.
    pub(super) fn deadline(&self, linger: Duration) -> Option<Instant> {
        let waits = !self.partitions.is_empty();
        self.appended_at.filter(|_| waits).map(|at| at.after(linger))
    }

    /// Those that append now.
    pub(super) fn take_due(&mut self, now: Instant, linger: Duration) -> BTreeSet<TopicPartition> {
        let is_alone = matches!(self.haste, Haste::Alone(_)) && self.haste == self.appended;
        let is_over = self.deadline(linger).is_none_or(|deadline| deadline <= now);
        let is_due = self.haste == Haste::Now || is_alone || is_over;
        if self.partitions.is_empty() || !is_due {
            return BTreeSet::new();
        }
        self.appended_at = Some(now);
        self.appended = std::mem::take(&mut self.haste);
        std::mem::take(&mut self.partitions)
    }
}

#[cfg(test)]
mod tests {
    use tidemill_record::{PartitionId, TopicId};

    use super::*;

    const LINGER: Duration = Duration::from_millis(5);
    const NOBODY: [i32; 0] = [];

    /// What is to be appended, at which millisecond, and whether it is.
    struct Story(Lingering);

    impl Story {
        fn adds(&mut self, at_ms: u64, partition: i32, haste: Haste) -> Vec<i32> {
            self.0.add(place(partition), haste);
            self.passes(at_ms)
        }

        fn passes(&mut self, at_ms: u64) -> Vec<i32> {
            let now = Instant { nanos: at_ms * 1_000_000 };
            let due = self.0.take_due(now, LINGER).into_iter();
            due.map(|partition| partition.partition.0).collect()
        }
    }

    fn place(partition: i32) -> TopicPartition {
        TopicPartition { topic: TopicId([1; 16]), partition: PartitionId(partition) }
    }

    fn by(name: &str) -> Haste {
        Haste::Alone(name.into())
    }

    /// The first goes at once, those that follow closely wait for one another, and none for longer
    /// than the others took.
    #[test]
    fn those_that_follow_closely_go_together() {
        let mut story = Story(Lingering::default());
        assert_eq!(story.adds(100, 1, by("a")), [1], "nobody was before it");
        assert_eq!(story.adds(101, 2, by("b")), NOBODY);
        assert_eq!(story.adds(104, 3, by("c")), NOBODY);
        let deadline = story.0.deadline(LINGER);
        assert_eq!(deadline, Some(Instant { nanos: 105_000_000 }));
        assert_eq!(story.passes(105), [2, 3]);
        assert_eq!(story.0.deadline(LINGER), None, "nobody waits");
        assert_eq!(story.adds(110, 1, by("a")), [1], "it has taken long enough");
    }

    /// Who commits again and again, and is alone in that, does not wait.
    #[test]
    fn one_alone_does_not_wait() {
        let mut story = Story(Lingering::default());
        for at_ms in 100..110 {
            assert_eq!(story.adds(at_ms, 1, by("a")), [1]);
        }
        assert_eq!(story.adds(110, 1, by("b")), NOBODY, "it may not be alone");
    }

    /// What may not wait takes along what waits.
    #[test]
    fn what_may_not_wait_takes_the_others_along() {
        let mut story = Story(Lingering::default());
        story.adds(100, 1, by("a"));
        assert_eq!(story.adds(101, 2, by("b")), NOBODY);
        assert_eq!(story.adds(102, 3, Haste::Now), [2, 3]);
    }

    /// How soon several are to be appended is how soon the first of them is.
    #[test]
    fn haste_adds_up() {
        let (a, b): (Arc<str>, Arc<str>) = ("a".into(), "b".into());
        let all = |names: &[Option<&Arc<str>>]| {
            names.iter().fold(Haste::Nothing, |haste, name| haste.and(*name))
        };
        assert_eq!(all(&[]), Haste::Nothing);
        assert_eq!(all(&[Some(&a), Some(&a)]), by("a"));
        assert_eq!(all(&[Some(&a), Some(&b)]), Haste::Linger);
        assert_eq!(all(&[Some(&a), None, Some(&b)]), Haste::Now);
        assert_eq!(by("a").with(by("a")), by("a"));
        assert_eq!(by("a").with(by("b")), Haste::Linger);
        assert_eq!(Haste::Now.with(by("b")), Haste::Now);
    }
}
