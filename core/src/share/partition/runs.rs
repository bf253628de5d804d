//! Records of a partition that follow each other and are in the same state: the row of such runs.
//!
//! They cover what lies between a start and an end without gap or overlap, the first of them is not
//! done with, and neighbours differ: memory follows the number of runs, not of records.

use std::collections::BTreeMap;

use tidemill_runtime::edge::Instant;

use super::SessionId;
use crate::coordinator::request::MemberId;
use crate::share::record::{Delivery, StateBatch};

/// The row; see the file's head.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Runs {
    start: i64,
    end: i64,
    /// By their first offset.
    by_first: BTreeMap<i64, Run>,
    /// Records of runs that are not done with.
    open: i64,
}

/// Records that follow each other, and how often they were given out.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Run {
    pub(super) last: i64,
    pub(super) state: State,
    pub(super) count: i16,
}

#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum State {
    Available,
    Acquired { member: MemberId, session: SessionId, until: Instant },
    Acknowledged,
    Archived,
}

impl State {
    fn is_done(&self) -> bool {
        matches!(self, Self::Acknowledged | Self::Archived)
    }
}

impl Runs {
    /// None, behind a start.
    pub(super) fn new(start: i64) -> Self {
        Self { start, end: start, by_first: BTreeMap::new(), open: 0 }
    }

    // Looking.

    pub(super) fn start(&self) -> i64 {
        self.start
    }

    pub(super) fn end(&self) -> i64 {
        self.end
    }

    /// How many records are not done with.
    pub(super) fn open(&self) -> i64 {
        self.open
    }

    /// How many runs there are.
    pub(super) fn len(&self) -> usize {
        self.by_first.len()
    }

    pub(super) fn bytes(&self) -> usize {
        size_of::<Self>() + self.by_first.len() * (size_of::<Run>() + 32)
    }

    /// All of them, each with its first offset.
    pub(super) fn iter(&self) -> impl Iterator<Item = (i64, &Run)> {
        self.by_first.iter().map(|(first, run)| (*first, run))
    }

    /// Those that have something from `first` to `last`.
    pub(super) fn touching(&self, first: i64, last: i64) -> impl Iterator<Item = (i64, &Run)> {
        let before = self.by_first.range(..first).next_back().filter(|(_, run)| first <= run.last);
        let behind =
            (first <= last).then(|| self.by_first.range(first..=last)).into_iter().flatten();
        before.filter(|_| first <= last).into_iter().chain(behind).map(|(at, run)| (*at, run))
    }

    /// The same, each cut to what lies between.
    pub(super) fn within(&self, first: i64, last: i64) -> Vec<(i64, i64, Run)> {
        let touching = self.touching(first, last);
        touching.map(|(at, run)| (at.max(first), run.last.min(last), run.clone())).collect()
    }

    /// What is to be known of them after a crash.
    pub(super) fn remembered(&self) -> Vec<StateBatch> {
        let batch = |(first, run): (i64, &Run)| {
            let (state, count) = match run.state {
                State::Available => (Delivery::Available, run.count),
                State::Acquired { .. } => (Delivery::Available, run.count - 1),
                State::Acknowledged => (Delivery::Acknowledged, run.count),
                State::Archived => (Delivery::Archived, run.count),
            };
            StateBatch { first, last: run.last, state, count }
        };
        let all = self.iter().map(batch);
        all.filter(|batch| batch.state != Delivery::Available || 0 < batch.count).collect()
    }

    // Changing. Whoever changes states lets the start follow afterwards.

    /// Lets all records from `first` to `last`, which are within one run, be in a state.
    pub(super) fn set(&mut self, first: i64, last: i64, state: State, count: i16) {
        self.cut(first);
        self.cut(last + 1);
        let within: Vec<i64> = self.by_first.range(first..=last).map(|(at, _)| *at).collect();
        for at in within {
            let run = self.by_first.get_mut(&at).expect("seen above");
            let records = run.last - at + 1;
            self.open -= if run.state.is_done() { 0 } else { records };
            self.open += if state.is_done() { 0 } else { records };
            (run.state, run.count) = (state.clone(), count);
        }
        self.join(first);
        self.join(last + 1);
    }

    /// Adds what lies from the end up to `last`.
    pub(super) fn append(&mut self, last: i64, state: State, count: i16) {
        let first = self.end;
        assert!(first <= last, "there is something to append");
        self.open += if state.is_done() { 0 } else { last - first + 1 };
        self.by_first.insert(first, Run { last, state, count });
        self.end = last + 1;
        self.join(first);
    }

    /// Moves the start past what is done with.
    pub(super) fn advance(&mut self) {
        while let Some(first) = self.by_first.first_entry()
            && first.get().state.is_done()
        {
            self.start = first.remove().last + 1;
        }
        if self.by_first.is_empty() {
            self.start = self.end;
        }
        debug_assert!(self.holds(), "{self:?}");
    }

    /// Forgets what lies before `start`. True if that concerns it.
    pub(super) fn begin_at(&mut self, start: i64) -> bool {
        if start <= self.start {
            return false;
        }
        if self.end <= start {
            *self = Self::new(start);
            return true;
        }
        self.cut(start);
        let kept = self.by_first.split_off(&start);
        let gone = std::mem::replace(&mut self.by_first, kept);
        self.open -= open_of(&gone);
        self.start = start;
        self.advance();
        true
    }

    /// Forgets what lies from `end` on. True if that concerns it.
    pub(super) fn end_at(&mut self, end: i64) -> bool {
        if self.end <= end {
            return false;
        }
        self.cut(end);
        let gone = self.by_first.split_off(&end);
        self.open -= open_of(&gone);
        self.end = end;
        self.start = self.start.min(end);
        self.advance();
        true
    }

    /// Has a run begin at `at`, if that lies within one.
    fn cut(&mut self, at: i64) {
        if let Some((_, run)) = self.by_first.range_mut(..at).next_back()
            && at <= run.last
        {
            let behind = run.clone();
            run.last = at - 1;
            self.by_first.insert(at, behind);
        }
    }

    /// Makes one run of the one that begins here and the one before, if they are alike.
    fn join(&mut self, at: i64) {
        let Some(run) = self.by_first.get(&at) else { return };
        let Some((before, other)) = self.by_first.range(..at).next_back() else { return };
        if other.last + 1 == at && other.state == run.state && other.count == run.count {
            let (before, last) = (*before, run.last);
            self.by_first.remove(&at);
            self.by_first.get_mut(&before).expect("seen above").last = last;
        }
    }

    /// Whether they cover what they are to, without gap or overlap.
    pub(super) fn holds(&self) -> bool {
        let mut next = self.start;
        for (first, run) in &self.by_first {
            if *first != next || run.last < *first {
                return false;
            }
            next = run.last + 1;
        }
        next == self.end && open_of(&self.by_first) == self.open
    }
}

/// How many records of runs are not done with.
fn open_of(runs: &BTreeMap<i64, Run>) -> i64 {
    let open = runs.iter().filter(|(_, run)| !run.state.is_done());
    open.map(|(first, run)| run.last - first + 1).sum()
}
