//! What will happen next: events by virtual time, and by order of planning at the same time.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

use tidemill_runtime::edge::Instant;

/// The planned events of a world.
#[derive(Debug)]
pub(crate) struct Agenda<E> {
    now: Instant,
    planned: BinaryHeap<Reverse<Planned<E>>>,
    count: u64,
}

#[derive(Debug)]
struct Planned<E> {
    at: Instant,
    number: u64,
    event: E,
}

impl<E> Agenda<E> {
    pub(crate) fn new() -> Self {
        Self { now: Instant { nanos: 0 }, planned: BinaryHeap::new(), count: 0 }
    }

    pub(crate) fn now(&self) -> Instant {
        self.now
    }

    /// Plans `event` for `at`, or for now if that is past.
    pub(crate) fn plan(&mut self, at: Instant, event: E) {
        self.count += 1;
        let at = at.max(self.now);
        self.planned.push(Reverse(Planned { at, number: self.count, event }));
    }

    pub(crate) fn plan_in(&mut self, wait: Duration, event: E) {
        self.plan(self.now.after(wait), event);
    }

    /// Goes on to the next event, if there is one and it is planned for `limit` at the latest.
    pub(crate) fn next(&mut self, limit: Instant) -> Option<E> {
        if self.planned.peek().is_none_or(|next| limit < next.0.at) {
            self.now = self.now.max(limit);
            return None;
        }
        let next = self.planned.pop()?.0;
        self.now = next.at;
        Some(next.event)
    }
}

impl<E> Ord for Planned<E> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.number).cmp(&(other.at, other.number))
    }
}

impl<E> PartialOrd for Planned<E> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl<E> PartialEq for Planned<E> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl<E> Eq for Planned<E> {}

#[cfg(test)]
mod tests {
    use super::*;

    /// Events come by time; at the same time, in the order they were planned.
    #[test]
    fn events_come_in_order() {
        let mut agenda = Agenda::new();
        let at = |nanos| Instant { nanos };
        agenda.plan(at(5), "c");
        agenda.plan(at(1), "a");
        agenda.plan(at(5), "d");
        agenda.plan(at(2), "b");
        let came: Vec<_> = std::iter::from_fn(|| agenda.next(at(10))).collect();
        assert_eq!(came, ["a", "b", "c", "d"]);
        assert_eq!(agenda.now(), at(10));
    }

    /// Nothing is taken before its time.
    #[test]
    fn an_event_waits_for_its_time() {
        let mut agenda = Agenda::new();
        agenda.plan(Instant { nanos: 5 }, ());
        assert_eq!(agenda.next(Instant { nanos: 4 }), None);
        assert_eq!(agenda.next(Instant { nanos: 5 }), Some(()));
    }
}
