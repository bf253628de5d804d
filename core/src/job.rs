//! Requests under way: each one a job that collects the answers of the shards it has asked.
//!
//! A job's name carries a serial number, so that an answer that comes after the job has ended
//! (its deadline passed, say) meets nobody instead of a stranger.

use std::collections::BTreeSet;

use slab::Slab;
use tidemill_runtime::edge::{Instant, ShardId};

/// The name of a job on its shard.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct JobId {
    index: u32,
    serial: u64,
}

/// Where the answer to a call goes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct ReplyTo {
    /// The asking shard.
    pub shard: ShardId,
    /// Its job.
    pub job: JobId,
    /// The place of this answer in the job.
    pub index: u32,
}

/// All jobs of one shard, and their deadlines.
///
/// Most jobs end long before their deadline, and most deadlines are later than those set before:
/// clients use few different timeouts. So a deadline goes to the end of the first of a few rows
/// that it does not come before, and leaves it, in a few steps; only one that fits into none of
/// them goes into a tree.
pub struct Jobs<T> {
    jobs: Slab<Entry<T>>,
    rows: [Row; ROWS],
    tree: BTreeSet<(Instant, JobId)>,
    next_serial: u64,
}

/// How many rows of deadlines there are.
const ROWS: usize = 4;

/// No job.
const NONE: u32 = u32::MAX;

/// Jobs in the order of their deadlines, each with its neighbours.
#[derive(Clone, Copy)]
struct Row {
    first: u32,
    last: u32,
    /// The deadline of the last one, if there is one.
    latest: Instant,
}

struct Entry<T> {
    serial: u64,
    deadline: Deadline,
    job: T,
}

#[derive(Clone, Copy)]
enum Deadline {
    None,
    InRow { at: Instant, row: u8, before: u32, behind: u32 },
    InTree { at: Instant },
}

impl<T> Default for Jobs<T> {
    fn default() -> Self {
        let row = Row { first: NONE, last: NONE, latest: Instant::default() };
        Self { jobs: Slab::new(), rows: [row; ROWS], tree: BTreeSet::new(), next_serial: 0 }
    }
}

impl<T> Jobs<T> {
    /// Takes a job in.
    pub fn insert(&mut self, job: T) -> JobId {
        let serial = self.next_serial;
        self.next_serial += 1;
        let index = self.jobs.insert(Entry { serial, deadline: Deadline::None, job }) as u32;
        assert!(index != NONE, "fewer jobs are under way");
        JobId { index, serial }
    }

    /// The job, unless it has ended.
    pub fn get_mut(&mut self, id: JobId) -> Option<&mut T> {
        let entry = self.jobs.get_mut(id.index as usize)?;
        (entry.serial == id.serial).then_some(&mut entry.job)
    }

    /// Sets when the job is to be looked at even if no answer has come.
    pub fn set_deadline(&mut self, id: JobId, deadline: Instant) {
        if self.jobs.get(id.index as usize).is_none_or(|entry| entry.serial != id.serial) {
            return;
        }
        self.clear_deadline(id);
        let fits = |row: &Row| row.last == NONE || row.latest <= deadline;
        self.jobs[id.index as usize].deadline = match self.rows.iter().position(fits) {
            Some(number) => {
                let row = &mut self.rows[number];
                let before = std::mem::replace(&mut row.last, id.index);
                row.latest = deadline;
                if before == NONE {
                    row.first = id.index;
                } else {
                    self.link_behind(before, id.index);
                }
                Deadline::InRow { at: deadline, row: number as u8, before, behind: NONE }
            }
            None => {
                self.tree.insert((deadline, id));
                Deadline::InTree { at: deadline }
            }
        };
    }

    fn clear_deadline(&mut self, id: JobId) {
        let deadline = &mut self.jobs[id.index as usize].deadline;
        match std::mem::replace(deadline, Deadline::None) {
            Deadline::None => {}
            Deadline::InTree { at } => {
                self.tree.remove(&(at, id));
            }
            Deadline::InRow { row, before, behind, .. } => {
                self.link_behind(before, behind);
                self.link_before(behind, before);
                let row = &mut self.rows[usize::from(row)];
                if before == NONE {
                    row.first = behind;
                }
                if behind == NONE {
                    row.last = before;
                    if let Some(last) = self.jobs.get(before as usize) {
                        row.latest = last.deadline.at().expect("it is in a row");
                    }
                }
            }
        }
    }

    fn link_behind(&mut self, index: u32, neighbour: u32) {
        if let Some(entry) = self.jobs.get_mut(index as usize)
            && let Deadline::InRow { behind, .. } = &mut entry.deadline
        {
            *behind = neighbour;
        }
    }

    fn link_before(&mut self, index: u32, neighbour: u32) {
        if let Some(entry) = self.jobs.get_mut(index as usize)
            && let Deadline::InRow { before, .. } = &mut entry.deadline
        {
            *before = neighbour;
        }
    }

    /// Ends a job.
    pub fn remove(&mut self, id: JobId) -> Option<T> {
        let entry = self.jobs.get(id.index as usize)?;
        if entry.serial != id.serial {
            return None;
        }
        self.clear_deadline(id);
        Some(self.jobs.remove(id.index as usize).job)
    }

    /// All jobs under way.
    pub fn ids(&self) -> Vec<JobId> {
        let id = |(index, entry): (usize, &Entry<T>)| JobId {
            index: index as u32,
            serial: entry.serial,
        };
        self.jobs.iter().map(id).collect()
    }

    /// The next job whose deadline has passed; it has none afterwards.
    pub fn pop_expired(&mut self, now: Instant) -> Option<JobId> {
        let (deadline, id) = self.nearest()?;
        if now < deadline {
            return None;
        }
        self.clear_deadline(id);
        Some(id)
    }

    /// The nearest deadline.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.nearest().map(|(deadline, _)| deadline)
    }

    fn nearest(&self) -> Option<(Instant, JobId)> {
        let first = |row: &Row| {
            let entry = self.jobs.get(row.first as usize)?;
            let id = JobId { index: row.first, serial: entry.serial };
            Some((entry.deadline.at()?, id))
        };
        let firsts = self.rows.iter().filter_map(first);
        firsts.chain(self.tree.first().copied()).min()
    }

    /// How many jobs are under way.
    #[expect(clippy::len_without_is_empty, reason = "there is nothing to do when none is")]
    pub fn len(&self) -> usize {
        self.jobs.len()
    }
}

impl Deadline {
    fn at(self) -> Option<Instant> {
        match self {
            Self::None => None,
            Self::InRow { at, .. } | Self::InTree { at } => Some(at),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An answer for a job that has ended must not reach the one that took its place.
    #[test]
    fn the_name_of_an_ended_job_meets_nobody() {
        let mut jobs = Jobs::default();
        let first = jobs.insert("first");
        assert_eq!(jobs.remove(first), Some("first"));
        let second = jobs.insert("second");
        assert_eq!(jobs.get_mut(first), None);
        assert_eq!(jobs.get_mut(second), Some(&mut "second"));
    }

    /// Deadlines come out in order of time, each once, and not for jobs that have ended.
    #[test]
    fn deadlines_pass_in_order_and_only_for_living_jobs() {
        let mut jobs = Jobs::default();
        let at = |nanos| Instant { nanos };
        let (early, late, gone) = (jobs.insert(1), jobs.insert(2), jobs.insert(3));
        jobs.set_deadline(late, at(20));
        jobs.set_deadline(early, at(10));
        jobs.set_deadline(gone, at(5));
        jobs.remove(gone);

        assert_eq!(jobs.next_deadline(), Some(at(10)));
        assert_eq!(jobs.pop_expired(at(9)), None);
        assert_eq!(jobs.pop_expired(at(30)), Some(early));
        assert_eq!(jobs.pop_expired(at(30)), Some(late));
        assert_eq!(jobs.pop_expired(at(30)), None);
    }

    /// Whatever order deadlines are set, changed and cleared in, they pass as from a sorted list.
    #[test]
    fn deadlines_pass_in_order_however_they_were_set() {
        let mut jobs = Jobs::default();
        let mut expected: Vec<(Instant, JobId)> = Vec::new();
        let mut random = 7u64;
        let mut draw = |below: u64| {
            random = random.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
            (random >> 33) % below
        };
        let mut now = 0;
        for _ in 0..20_000 {
            now += draw(3);
            let at =
                Instant { nanos: now + [5, 30, 500, 1, 70, 900, draw(1000)][draw(7) as usize] };
            match draw(4) {
                0 | 1 => {
                    let id = jobs.insert(());
                    jobs.set_deadline(id, at);
                    expected.push((at, id));
                }
                2 if !expected.is_empty() => {
                    let place = draw(expected.len() as u64) as usize;
                    jobs.set_deadline(expected[place].1, at);
                    expected[place].0 = at;
                }
                3 if !expected.is_empty() => {
                    let (_, id) = expected.swap_remove(draw(expected.len() as u64) as usize);
                    assert_eq!(jobs.remove(id), Some(()));
                }
                _ => {}
            }
            assert_eq!(jobs.next_deadline(), expected.iter().min().map(|(at, _)| *at));
            while let Some(id) = jobs.pop_expired(Instant { nanos: now }) {
                let place = expected.iter().position(|(_, other)| *other == id).unwrap();
                let (at, _) = expected.swap_remove(place);
                assert!(at.nanos <= now && expected.iter().all(|(other, _)| at <= *other));
                jobs.remove(id);
            }
        }
    }
}
