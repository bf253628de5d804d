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
pub struct Jobs<T> {
    jobs: Slab<Entry<T>>,
    deadlines: BTreeSet<(Instant, JobId)>,
    next_serial: u64,
}

struct Entry<T> {
    serial: u64,
    deadline: Option<Instant>,
    job: T,
}

impl<T> Default for Jobs<T> {
    fn default() -> Self {
        Self { jobs: Slab::new(), deadlines: BTreeSet::new(), next_serial: 0 }
    }
}

impl<T> Jobs<T> {
    /// Takes a job in.
    pub fn insert(&mut self, job: T) -> JobId {
        let serial = self.next_serial;
        self.next_serial += 1;
        let index = self.jobs.insert(Entry { serial, deadline: None, job });
        JobId { index: index as u32, serial }
    }

    /// The job, unless it has ended.
    pub fn get_mut(&mut self, id: JobId) -> Option<&mut T> {
        let entry = self.jobs.get_mut(id.index as usize)?;
        (entry.serial == id.serial).then_some(&mut entry.job)
    }

    /// Sets when the job is to be looked at even if no answer has come.
    pub fn set_deadline(&mut self, id: JobId, deadline: Instant) {
        let Some(entry) = self.jobs.get_mut(id.index as usize) else { return };
        if entry.serial != id.serial {
            return;
        }
        if let Some(old) = entry.deadline.replace(deadline) {
            self.deadlines.remove(&(old, id));
        }
        self.deadlines.insert((deadline, id));
    }

    /// Ends a job.
    pub fn remove(&mut self, id: JobId) -> Option<T> {
        let entry = self.jobs.get(id.index as usize)?;
        if entry.serial != id.serial {
            return None;
        }
        let entry = self.jobs.remove(id.index as usize);
        if let Some(deadline) = entry.deadline {
            self.deadlines.remove(&(deadline, id));
        }
        Some(entry.job)
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
        let &(deadline, id) = self.deadlines.first()?;
        if now < deadline {
            return None;
        }
        self.deadlines.pop_first();
        self.jobs[id.index as usize].deadline = None;
        Some(id)
    }

    /// The nearest deadline.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.deadlines.first().map(|&(deadline, _)| deadline)
    }

    /// How many jobs are under way.
    #[expect(clippy::len_without_is_empty, reason = "there is nothing to do when none is")]
    pub fn len(&self) -> usize {
        self.jobs.len()
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
}
