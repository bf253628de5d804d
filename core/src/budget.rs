//! Memory that connections may hold together: requests under way and replies on their way out.
//!
//! A large request claims its whole size before its bytes are received; if that does not fit, its
//! socket is not read until others have been answered. So what clients merely claim never adds up
//! to more than the budget, and TCP passes the wait on to them. One request is always let in, or a
//! budget smaller than the largest request would stop everything.

/// One shard's budget.
#[derive(Debug)]
pub struct Budget {
    limit_bytes: usize,
    used_bytes: usize,
    has_freed: bool,
}

impl Budget {
    /// Nothing is used yet.
    pub fn new(limit_bytes: usize) -> Self {
        Self { limit_bytes, used_bytes: 0, has_freed: false }
    }

    /// Takes `bytes` if there is room for them, or if nothing else is held.
    pub fn try_take(&mut self, bytes: usize) -> bool {
        let fits =
            self.used_bytes == 0 || self.used_bytes.saturating_add(bytes) <= self.limit_bytes;
        if fits {
            self.used_bytes += bytes;
        }
        fits
    }

    /// Takes `bytes` that are held already, room or not.
    pub fn take(&mut self, bytes: usize) {
        self.used_bytes += bytes;
    }

    /// Gives back what was taken.
    pub fn release(&mut self, bytes: usize) {
        assert!(bytes <= self.used_bytes, "nothing is given back that was not taken");
        self.used_bytes -= bytes;
        self.has_freed |= 0 < bytes;
    }

    /// Whether there is room left.
    pub fn has_room(&self) -> bool {
        self.used_bytes < self.limit_bytes
    }

    /// Whether something was given back since the last call: then those who wait may try again.
    pub fn take_freed(&mut self) -> bool {
        std::mem::take(&mut self.has_freed)
    }

    /// Bytes held now.
    pub fn used_bytes(&self) -> usize {
        self.used_bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What does not fit waits; but the first is let in however large, or nothing would move.
    #[test]
    fn the_budget_is_kept_except_for_a_lone_request() {
        let mut budget = Budget::new(100);
        assert!(budget.try_take(150), "alone");
        assert!(!budget.try_take(1));
        assert!(!budget.take_freed());

        budget.release(150);
        assert!(budget.take_freed());
        assert!(budget.try_take(60));
        assert!(!budget.try_take(60));
        assert!(budget.try_take(40));
        assert!(!budget.has_room());
    }
}
