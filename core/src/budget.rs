//! Memory that connections may hold together: requests under way and replies on their way out.
//!
//! A large request claims its whole size before its bytes are received, and a fetch what it may
//! read before it reads; what does not fit waits until others have been answered. So what clients
//! merely claim or ask for never adds up to more than the budget, and TCP passes the wait on.
//!
//! Requests and replies each leave the other a quarter, so that neither starves the other. Of
//! each kind one is always let in, or a budget smaller than the largest of them would stop
//! everything.

/// What is left to the other kind, as a part of the limit.
const LEFT_TO_OTHERS: usize = 4;

/// One shard's budget.
#[derive(Debug)]
pub struct Budget {
    limit_bytes: usize,
    request_bytes: usize,
    reply_bytes: usize,
    has_freed: bool,
}

impl Budget {
    /// Nothing is used yet.
    pub fn new(limit_bytes: usize) -> Self {
        Self { limit_bytes, request_bytes: 0, reply_bytes: 0, has_freed: false }
    }

    /// Takes `bytes` for a request if there is room for them, or if no other request is held.
    pub fn try_take_request(&mut self, bytes: usize) -> bool {
        let fits = self.request_bytes == 0 || bytes <= self.room_beside(self.request_bytes);
        if fits {
            self.request_bytes += bytes;
        }
        fits
    }

    /// Takes `bytes` of a request that is here already, room or not.
    pub fn take_request(&mut self, bytes: usize) {
        self.request_bytes += bytes;
    }

    /// Gives back what was taken for a request.
    pub fn release_request(&mut self, bytes: usize) {
        assert!(bytes <= self.request_bytes, "nothing is given back that was not taken");
        self.request_bytes -= bytes;
        self.has_freed |= 0 < bytes;
    }

    /// Takes up to `wanted` bytes for a reply that is still to be made, if there is room for
    /// `least` of them or no other reply is held. Tells how many were taken.
    pub fn try_take_reply(&mut self, wanted: usize, least: usize) -> Option<usize> {
        assert!(least <= wanted);
        let room = self.room_beside(self.reply_bytes);
        let granted = if self.reply_bytes == 0 { wanted } else { wanted.min(room) };
        (least <= granted).then(|| {
            self.reply_bytes += granted;
            granted
        })
    }

    /// Takes `bytes` of a reply that is here already, room or not.
    pub fn take_reply(&mut self, bytes: usize) {
        self.reply_bytes += bytes;
    }

    /// Gives back what was taken for a reply.
    pub fn release_reply(&mut self, bytes: usize) {
        assert!(bytes <= self.reply_bytes, "nothing is given back that was not taken");
        self.reply_bytes -= bytes;
        self.has_freed |= 0 < bytes;
    }

    /// Whether there is room left.
    pub fn has_room(&self) -> bool {
        self.used_bytes() < self.limit_bytes
    }

    /// Whether something was given back since the last call: then those who wait may try again.
    pub fn take_freed(&mut self) -> bool {
        std::mem::take(&mut self.has_freed)
    }

    /// Bytes held now.
    pub fn used_bytes(&self) -> usize {
        self.request_bytes + self.reply_bytes
    }

    /// How much more may be taken of the kind of which `own` is held.
    fn room_beside(&self, own: usize) -> usize {
        let all = self.limit_bytes.saturating_sub(self.used_bytes());
        let share = self.limit_bytes - self.limit_bytes / LEFT_TO_OTHERS;
        all.min(share.saturating_sub(own))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What does not fit waits; but the first is let in however large, or nothing would move.
    #[test]
    fn the_budget_is_kept_except_for_a_lone_request() {
        let mut budget = Budget::new(100);
        assert!(budget.try_take_request(150), "alone");
        assert!(!budget.try_take_request(1));
        assert!(!budget.take_freed());

        budget.release_request(150);
        assert!(budget.take_freed());
        assert!(budget.try_take_request(40));
        assert!(!budget.try_take_request(40), "a quarter is for replies");
        assert!(budget.try_take_request(35));
        assert!(budget.has_room());
    }

    /// A reply still to be made gets what there is, if that is of use, and waits otherwise.
    #[test]
    fn a_reply_is_granted_what_there_is_room_for() {
        let mut budget = Budget::new(100);
        assert_eq!(budget.try_take_reply(50, 10), Some(50));
        assert_eq!(budget.try_take_reply(50, 10), Some(25), "a quarter is for requests");
        assert_eq!(budget.try_take_reply(50, 10), None);

        budget.release_reply(75);
        assert!(budget.take_freed());
        assert_eq!(budget.try_take_reply(150, 150), Some(150), "alone");
    }

    /// The bug: whichever kind filled the budget kept the other one out for as long as it liked.
    #[test]
    fn neither_requests_nor_replies_starve_the_other() {
        let mut budget = Budget::new(100);
        assert!(budget.try_take_request(200));
        assert_eq!(budget.try_take_reply(10, 10), Some(10));
        budget.release_request(200);
        budget.take_reply(500);
        assert!(budget.try_take_request(10));
    }
}
