//! How long members may be silent: one's session, and those of all members of a group.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tidemill_runtime::edge::Instant;

use super::decision::Decision;
use super::request::MemberId;
use super::timers::{Alarm, TimerId, Timers};

/// How long something may stay silent. A heartbeat only moves the deadline; the timer is looked
/// at when it goes off.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Session {
    deadline: Instant,
    timer: Option<TimerId>,
}

impl Session {
    /// It lives, and may stay silent for `timeout`.
    pub(super) fn touch(
        &mut self,
        now: Instant,
        timeout: Duration,
        group: &Arc<str>,
        member: &MemberId,
        timers: &mut Timers,
    ) {
        self.deadline = now.after(timeout);
        if self.timer.is_none_or(|timer| self.deadline < timer.at) {
            self.end(timers);
            let alarm = Alarm::Session(Arc::clone(member));
            self.timer = Some(timers.set(self.deadline, group, alarm));
        }
    }

    /// Its timer has gone off. Whether its time is really over; if not, it is set again.
    pub(super) fn is_over(
        &mut self,
        timer: TimerId,
        now: Instant,
        group: &Arc<str>,
        member: &MemberId,
        timers: &mut Timers,
    ) -> bool {
        if self.timer != Some(timer) {
            return false;
        }
        self.timer = None;
        if self.deadline <= now {
            return true;
        }
        let alarm = Alarm::Session(Arc::clone(member));
        self.timer = Some(timers.set(self.deadline, group, alarm));
        false
    }

    /// Nothing is waited for any more.
    pub(super) fn end(&mut self, timers: &mut Timers) {
        timers.cancel(&mut self.timer);
    }
}

/// The sessions of a group's members, of a kind that has nothing else to wait for with them.
#[derive(Debug, Default)]
pub(super) struct Sessions(BTreeMap<MemberId, Session>);

impl Sessions {
    /// Whether it is known how long a member may be silent.
    pub(super) fn has(&self, member: &MemberId) -> bool {
        self.0.contains_key(member)
    }

    /// A member lives, and may stay silent for `timeout`.
    pub(super) fn touch(
        &mut self,
        member: &MemberId,
        timeout: Duration,
        decision: &mut Decision<'_>,
    ) {
        let session = self.0.entry(Arc::clone(member)).or_default();
        session.touch(decision.times.now, timeout, decision.group, member, decision.timers);
    }

    /// The timer of a member has gone off. Whether it has really been silent for too long.
    pub(super) fn is_over(
        &mut self,
        timer: TimerId,
        member: &MemberId,
        decision: &mut Decision<'_>,
    ) -> bool {
        let (now, group) = (decision.times.now, decision.group);
        let Some(session) = self.0.get_mut(member) else { return false };
        let is_over = session.is_over(timer, now, group, member, decision.timers);
        if is_over {
            let (group, member) = (&**group, &**member);
            tracing::info!(group, member, "a member of a group has gone silent");
        }
        is_over
    }

    /// A member is not waited for any more.
    pub(super) fn forget(&mut self, member: &MemberId, timers: &mut Timers) {
        if let Some(mut session) = self.0.remove(member) {
            session.end(timers);
        }
    }

    /// Nobody is.
    pub(super) fn end(&mut self, timers: &mut Timers) {
        std::mem::take(&mut self.0).into_values().for_each(|mut session| session.end(timers));
    }
}
