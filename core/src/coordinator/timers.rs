//! What is to happen at a certain time, in order.
//!
//! Each timer belongs to a group and has a name of its own, so that it can be taken back. Timers
//! that are put off again and again (a session, with each heartbeat) are not moved: whoever owns
//! one looks, when it goes off, whether its time has really come.

use std::collections::BTreeMap;
use std::sync::Arc;

use tidemill_runtime::edge::Instant;

use super::request::MemberId;

/// The name of a timer that has not gone off.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) struct TimerId {
    /// When it goes off.
    pub(super) at: Instant,
    number: u64,
}

/// What a timer is for.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Alarm {
    /// The time to join is over, or the first part of it.
    Join,
    /// The time to sync is over.
    Sync,
    /// Nothing was heard of a member for long.
    Session(MemberId),
    /// The time in which a member was to give partitions up is over.
    Revocation(MemberId),
}

/// The timers of one coordinator.
#[derive(Debug, Default)]
pub(super) struct Timers {
    queue: BTreeMap<TimerId, (Arc<str>, Alarm)>,
    made: u64,
}

impl Timers {
    /// Sets a timer of `group`.
    pub(super) fn set(&mut self, at: Instant, group: &Arc<str>, alarm: Alarm) -> TimerId {
        let id = TimerId { at, number: self.made };
        self.made += 1;
        self.queue.insert(id, (Arc::clone(group), alarm));
        id
    }

    /// Takes a timer back, if there is one.
    pub(super) fn cancel(&mut self, id: &mut Option<TimerId>) {
        if let Some(id) = id.take() {
            self.queue.remove(&id);
        }
    }

    /// The next timer that goes off by `now`.
    pub(super) fn pop(&mut self, now: Instant) -> Option<(TimerId, Arc<str>, Alarm)> {
        let due = self.queue.first_entry().filter(|entry| entry.key().at <= now)?;
        let (id, (group, alarm)) = due.remove_entry();
        Some((id, group, alarm))
    }

    /// When the next one goes off.
    pub(super) fn next(&self) -> Option<Instant> {
        self.queue.first_key_value().map(|(id, _)| id.at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Timers go off in order of time, those of one time in the order they were set, and those
    /// taken back not at all.
    #[test]
    fn timers_go_off_in_order_unless_taken_back() {
        let at = |nanos| Instant { nanos };
        let group: Arc<str> = "g".into();
        let mut timers = Timers::default();
        timers.set(at(20), &group, Alarm::Sync);
        timers.set(at(10), &group, Alarm::Join);
        timers.set(at(10), &group, Alarm::Session("m".into()));
        let mut gone = Some(timers.set(at(5), &group, Alarm::Join));
        timers.cancel(&mut gone);

        assert_eq!(timers.next(), Some(at(10)));
        assert!(timers.pop(at(9)).is_none());
        let order: Vec<Alarm> =
            std::iter::from_fn(|| timers.pop(at(30))).map(|(_, _, alarm)| alarm).collect();
        assert_eq!(order, [Alarm::Join, Alarm::Session("m".into()), Alarm::Sync]);
        assert_eq!(timers.next(), None);
    }
}
