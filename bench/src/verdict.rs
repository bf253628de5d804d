//! Whether every acknowledged record was read by every set of readers: the end of a run.

use std::collections::HashMap;
use std::ops::Range;

use crate::tally::{Ends, Produced, ReadBack};
use crate::verify::Seen;

/// What came of the verification.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Verdict {
    /// Records acknowledged and not read, summed over the sets of readers.
    pub lost: u64,
    /// Records read and verified, summed over the sets of readers.
    pub verified: u64,
    /// Records read that no load generator made.
    pub foreign: u64,
    /// Readers that did not come to the end of their partition.
    pub behind: u64,
    /// Records of other runs that are not there, summed over the sets of readers: refused then, or
    /// lost. Only their own run knew which of them were acknowledged.
    pub gone_of_others: u64,
    /// What was lost, in words: the first of it.
    pub texts: Vec<String>,
}

const TEXTS_MAX: usize = 10;

impl Verdict {
    /// Holds what was read against what was acknowledged in `run`.
    #[must_use]
    pub fn of(run: u64, ends: &Ends) -> Self {
        let mut verdict = Self::default();
        let mut sets: HashMap<(usize, i32), &ReadBack> = HashMap::new();
        let mut set_count = 0;
        for read in &ends.read {
            set_count = set_count.max(read.set + 1);
            sets.insert((read.set, read.partition), read);
            verdict.verified += read.records;
            verdict.foreign += read.foreign;
            verdict.behind += u64::from(!read.caught_up);
            let others = read.seen.iter().filter(|seen| seen.run != run);
            let gaps = others.flat_map(|seen| &seen.gaps);
            verdict.gone_of_others += gaps.map(|gap| gap.end - gap.start).sum::<u64>();
        }
        for set in 0..set_count {
            for produced in &ends.produced {
                if let Some(read) = sets.get(&(set, produced.partition)) {
                    verdict.judge(run, read, produced);
                }
            }
        }
        verdict
    }

    fn judge(&mut self, run: u64, read: &ReadBack, produced: &Produced) {
        let is_theirs = |seen: &&Seen| seen.run == run && seen.producer == produced.producer;
        let seen = read.seen.iter().find(is_theirs);
        let mut missing: Vec<Range<u64>> = seen.map_or_else(Vec::new, |seen| seen.gaps.clone());
        // What a reader that is behind has not come to yet may be there.
        if read.caught_up {
            let next = seen.map_or(0, |seen| seen.next);
            missing.push(next..produced.sent.max(next));
        }
        for gap in missing {
            let excused: u64 = produced.failed.iter().map(|failed| overlap(failed, &gap)).sum();
            let lost = (gap.end - gap.start).saturating_sub(excused);
            if 0 < lost {
                self.note(lost, read, produced.producer, &gap);
            }
        }
    }

    fn note(&mut self, lost: u64, read: &ReadBack, producer: u32, within: &Range<u64>) {
        self.lost += lost;
        if self.texts.len() < TEXTS_MAX {
            let (set, partition) = (read.set, read.partition);
            let Range { start, end } = within;
            self.texts.push(format!(
                "partition {partition}: {lost} records of producer {producer} lost, from {start} to \
                 {end}, as readers {set} saw it"
            ));
        }
    }
}

fn overlap(left: &Range<u64>, right: &Range<u64>) -> u64 {
    left.end.min(right.end).saturating_sub(left.start.max(right.start))
}

#[cfg(test)]
// A list of gaps may have one gap.
#[allow(clippy::single_range_in_vec_init)]
mod tests {
    use super::*;

    fn ends(seen: Seen, failed: Vec<Range<u64>>) -> Ends {
        let produced = Produced { producer: 3, partition: 0, sent: 100, failed };
        let read = ReadBack { caught_up: true, seen: vec![seen], ..ReadBack::default() };
        Ends { produced: vec![produced], read: vec![read], ..Ends::default() }
    }

    fn seen(next: u64, gaps: Vec<Range<u64>>) -> Seen {
        Seen { run: 7, producer: 3, first: 0, next, gaps }
    }

    /// Lost is what was acknowledged and not read: in the middle, at the end, or altogether.
    #[test]
    fn what_was_acknowledged_must_be_read() {
        let lost = |seen, failed| Verdict::of(7, &ends(seen, failed)).lost;
        assert_eq!(lost(seen(100, vec![]), vec![]), 0);
        assert_eq!(lost(seen(100, vec![10..15]), vec![]), 5);
        assert_eq!(lost(seen(95, vec![]), vec![]), 5);
        let mut none = ends(seen(0, vec![]), vec![]);
        none.read[0].seen.clear();
        assert_eq!(Verdict::of(7, &none).lost, 100);
    }

    /// What was refused may be missing, and may be there.
    #[test]
    fn what_was_refused_may_be_missing() {
        let lost = |seen, failed| Verdict::of(7, &ends(seen, failed)).lost;
        let refused = vec![10..15, 90..100];
        assert_eq!(lost(seen(90, vec![10..15]), refused.clone()), 0);
        assert_eq!(lost(seen(100, vec![]), refused.clone()), 0);
        assert_eq!(lost(seen(90, vec![10..16]), refused), 1);
    }

    /// Each set of readers has to see everything.
    #[test]
    fn each_set_is_judged() {
        let mut ends = ends(seen(100, vec![]), vec![]);
        let caught_up = true;
        let second =
            ReadBack { set: 1, caught_up, seen: vec![seen(60, vec![])], ..ReadBack::default() };
        ends.read.push(second);
        let verdict = Verdict::of(7, &ends);
        assert_eq!((verdict.lost, verdict.behind), (40, 0));
        assert!(verdict.texts[0].contains("readers 1"), "{:?}", verdict.texts);
    }

    /// What another run was refused was once told as lost: only that run can tell the two apart.
    #[test]
    fn what_another_run_was_refused_is_not_lost() {
        let mut ends = ends(seen(100, vec![]), vec![]);
        ends.read[0].seen.push(Seen { run: 6, ..seen(50, vec![5..8, 20..30]) });
        let verdict = Verdict::of(7, &ends);
        assert_eq!((verdict.lost, verdict.gone_of_others), (0, 13));
        assert_eq!(verdict.texts, Vec::<String>::new());
    }

    /// A reader that did not come to the end says nothing about what it has not read, and all about
    /// what it has: records behind it were once told as lost.
    #[test]
    fn what_was_not_come_to_is_not_lost() {
        let mut ends = ends(seen(60, vec![10..15]), vec![]);
        ends.read[0].caught_up = false;
        let verdict = Verdict::of(7, &ends);
        assert_eq!((verdict.lost, verdict.behind), (5, 1));
    }
}
