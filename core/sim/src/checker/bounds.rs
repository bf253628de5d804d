//! The ends of a log never go back, and what was deleted stays deleted.
//!
//! A request sees at least what was known when it was *sent*: what others learned while it was on
//! its way need not be in its answer. So a client keeps the [`Floor`] it sent a request at.

use super::{Verdict, check};

/// The least the ends of a partition's log can be.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Floor {
    /// Where the log begins, or later.
    pub start: i64,
    /// Where the visible log ends, or later.
    pub end: i64,
    /// Below it nothing is open, or below something later.
    pub stable: i64,
}

/// The ends of one partition's log.
#[derive(Debug, Default)]
pub struct Bounds {
    floor: Floor,
    /// The highest start anybody asked for: no start is above it without reason.
    trim_asked: i64,
}

impl Bounds {
    /// What every request sent from now on must see.
    #[must_use]
    pub fn floor(&self) -> Floor {
        self.floor
    }

    /// Records below `next` were acknowledged.
    pub fn acked(&mut self, next: i64) {
        self.floor.end = self.floor.end.max(next);
    }

    /// Somebody asks to delete the records below `before`; -1 stands for all there are.
    pub fn trim_asked(&mut self, before: i64) {
        let before = if before == -1 { i64::MAX } else { before };
        self.trim_asked = self.trim_asked.max(before);
    }

    /// The log was said to begin at `start`, to a request sent at `sent`.
    pub fn told_start(&mut self, start: i64, sent: Floor) -> Verdict {
        check(sent.start <= start, "what was deleted stays deleted", || {
            format!("the log begins at {start}, though it was cut to {}", sent.start)
        })?;
        check(start <= self.trim_asked, "nothing is deleted unasked", || {
            format!("the log begins at {start}; the most anybody asked for is {}", self.trim_asked)
        })?;
        self.floor.start = self.floor.start.max(start);
        Ok(())
    }

    /// The visible log was said to end at `end`, to a request sent at `sent`.
    pub fn told_end(&mut self, end: i64, sent: Floor) -> Verdict {
        check(sent.end <= end, "the end of the log never goes back", || {
            format!("it ends at {end}, after it had ended at {}", sent.end)
        })?;
        self.floor.end = self.floor.end.max(end);
        Ok(())
    }

    /// What readers of what is committed see was said to end at `stable`, to a request sent at
    /// `sent`.
    pub fn told_stable(&mut self, stable: i64, sent: Floor) -> Verdict {
        check(sent.stable <= stable, "what is stable stays so", || {
            format!("it ends at {stable}, after it had ended at {}", sent.stable)
        })?;
        self.floor.stable = self.floor.stable.max(stable);
        Ok(())
    }

    /// At the end the log reaches from `start` to `end`.
    pub fn final_state(&mut self, start: i64, end: i64) -> Verdict {
        self.told_start(start, self.floor)?;
        self.told_end(end, self.floor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Answers may cross each other; only what was known at sending counts.
    #[test]
    fn crossing_answers_are_no_violation() {
        let mut bounds = Bounds::default();
        let early = bounds.floor();
        bounds.told_end(10, bounds.floor()).unwrap();
        bounds.told_end(7, early).unwrap();
    }

    /// Bad history: the high watermark goes back after a restart.
    #[test]
    fn a_shrinking_log_is_found() {
        let mut bounds = Bounds::default();
        bounds.acked(10);
        assert!(bounds.told_end(9, bounds.floor()).is_err());
    }

    /// Bad history: a transaction that had ended is open again after a restart.
    #[test]
    fn what_was_stable_and_is_open_again_is_found() {
        let mut bounds = Bounds::default();
        let early = bounds.floor();
        bounds.told_stable(10, early).unwrap();
        bounds.told_stable(4, early).unwrap();
        assert!(bounds.told_stable(4, bounds.floor()).is_err());
    }

    /// Bad history: records that were deleted are back after a restart.
    #[test]
    fn resurrected_records_are_found() {
        let mut bounds = Bounds::default();
        bounds.trim_asked(5);
        bounds.told_start(5, bounds.floor()).unwrap();
        let found = bounds.told_start(0, bounds.floor());
        assert_eq!(found.unwrap_err().rule, "what was deleted stays deleted");
    }

    /// Bad history: records vanish at the front though nobody asked for it.
    #[test]
    fn unasked_deletion_is_found() {
        let mut bounds = Bounds::default();
        let found = bounds.told_start(5, bounds.floor());
        assert_eq!(found.unwrap_err().rule, "nothing is deleted unasked");
    }
}
