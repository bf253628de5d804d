//! A record is with one member of a share group at a time, until it is done with; none is passed over.
//!
//! Each delivery is known by its count. What members are told crosses what others are told, so a
//! request is held to what was known when it was *sent* ([`Sent`]): a record that was done with by
//! then is given out no more, and a delivery that was heard of by then had a lower count. Through a
//! crash counts fall back to what was durable: what a member was told is noted of a release.
//!
//! A lock ends with its time, with a word of its member, and with the connection its member got it
//! by, of whose end the broker may know first. So when a record comes to another member too early,
//! the holder is *suspected* of having lost its connection; an answer to something it asked
//! afterwards clears it, and shows the broker's mistake.
//!
//! Start reading at [`Shares::given`].

use std::collections::BTreeMap;
use std::time::Duration;

use tidemill_runtime::edge::Instant;

use super::records::Records;
use super::{Place, Verdict, check};
use crate::network::ConnectionId;
use crate::value::Value;

/// A request whose answer is lost may be carried out so much later.
pub const LINGERS: Duration = Duration::from_secs(10);

/// What share groups are set to.
#[derive(Clone, Copy, Debug, Default)]
pub struct ShareRules {
    /// For how long nobody else gets what a member has.
    pub lock: Duration,
    /// How often a record is given out at most.
    pub deliveries_max: i16,
    /// They get records of transactions only when these are committed.
    pub read_committed: bool,
}

/// All that was observed of share groups.
#[derive(Debug, Default)]
pub struct Shares {
    rules: ShareRules,
    /// Grows with everything that happens.
    moment: u64,
    /// Which process of the node it is.
    life: u64,
    groups: BTreeMap<String, BTreeMap<Place, Shared>>,
    /// Connections that must have ended before this moment, or a lock was not looked at.
    suspected: BTreeMap<ConnectionId, (u64, String)>,
    /// How many records were given to members.
    pub given: u64,
    /// How many of them were told to be done with, and noted.
    pub done: u64,
}

/// When a member sent a request, and by which connection.
#[derive(Clone, Copy, Debug)]
pub struct Sent {
    line: ConnectionId,
    at: Instant,
    moment: u64,
    life: u64,
}

/// What a member says of a record.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Said {
    /// Nobody is to have it again.
    Done,
    /// Somebody may have it again.
    Release,
    /// It takes longer.
    Renew,
}

/// What a member says of one record: its offset, and the count it was given out with.
pub type Telling = (i64, i16, Said);

/// How setting a group to another offset has ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Reset {
    /// It begins here.
    To(i64),
    /// Nothing has changed.
    Refused,
    /// Nobody knows, and it may still happen.
    Unknown,
}

/// A partition as a group reads it.
#[derive(Debug, Default)]
struct Shared {
    /// It was set to this; what lies before is not given out.
    from: i64,
    /// So many requests are on their way that set it to another offset.
    resets: u32,
    /// What was sent before this is not held to what comes after.
    reset_at: u64,
    /// It may be set to another offset at any time.
    is_unknown: bool,
    at: BTreeMap<i64, One>,
    /// When answers were lost that may have held records.
    lost: Vec<Instant>,
}

/// What is known of one record.
#[derive(Debug, Default)]
struct One {
    /// The process in which it was given out last, and with which counts.
    life: u64,
    counts: Vec<i16>,
    /// The highest of these, and when it was heard of.
    highest: Option<(i16, u64)>,
    /// The highest count of all, and when the request for it was sent.
    seen: Option<(i16, Instant)>,
    /// This count was told to be noted.
    durable: Option<(i16, u64)>,
    /// It was told to be done with, after a delivery of this count.
    done: Option<(i16, u64)>,
    /// So often it was said to be done with, and not refused.
    maybe_done: u32,
    hold: Option<Hold>,
}

/// Who has a record.
#[derive(Clone, Copy, Debug)]
struct Hold {
    line: ConnectionId,
    count: i16,
    /// Until then it has it for certain.
    until: Instant,
}

impl Shared {
    fn is_unsure(&self, sent: &Sent) -> bool {
        self.is_unknown || 0 < self.resets || sent.moment < self.reset_at
    }

    /// Whether nobody is to get a record any more, as far as anybody knows.
    fn may_be_over(&self, offset: i64, rules: &ShareRules) -> bool {
        let one = self.at.get(&offset);
        let seen = one.and_then(|one| one.seen);
        // Answers that were lost may have held it.
        let since = |at: &&Instant| seen.is_none_or(|(_, sent_at)| sent_at <= at.after(LINGERS));
        let lost = self.lost.iter().filter(since).count();
        let deliveries = lost + seen.map_or(0, |(count, _)| count as usize);
        one.is_some_and(|one| one.done.is_some() || 0 < one.maybe_done)
            || rules.deliveries_max as usize <= deliveries
    }
}

impl Shares {
    /// Nothing was observed yet of groups that are set to this.
    #[must_use]
    pub fn new(rules: ShareRules) -> Self {
        Self { rules, ..Self::default() }
    }

    /// Whether groups get records of transactions only when these are committed.
    #[must_use]
    pub fn reads_committed(&self) -> bool {
        self.rules.read_committed
    }

    /// The node's process has ended.
    pub fn node_ended(&mut self) {
        self.life += 1;
    }

    /// A group will read.
    pub fn begins(&mut self, group: &str) {
        self.groups.entry(group.to_owned()).or_default();
    }

    fn now(&mut self) -> u64 {
        self.moment += 1;
        self.moment
    }

    fn shared(&mut self, group: &str, place: Place) -> &mut Shared {
        self.begins(group);
        let places = self.groups.get_mut(group).expect("it has just begun");
        places.entry(place).or_default()
    }

    /// A member sends a request by a connection.
    pub fn sends(&mut self, line: ConnectionId, at: Instant) -> Sent {
        Sent { line, at, moment: self.now(), life: self.life }
    }

    /// A request was answered, so its connection was there.
    pub fn hears(&self, sent: &Sent) -> Verdict {
        let suspected = self.suspected.get(&sent.line);
        let found = suspected.filter(|(moment, _)| *moment < sent.moment);
        check(found.is_none(), "a record is with one member at a time", || {
            found.map(|(_, evidence)| evidence.clone()).unwrap_or_default()
        })
    }

    /// A connection is not suspected any more: what its member had may have been free for other
    /// reasons.
    pub fn clears(&mut self, line: ConnectionId) {
        self.suspected.remove(&line);
    }

    /// A member was given a record, in an answer to what it had sent.
    pub fn given(
        &mut self,
        group: &str,
        place: Place,
        (offset, count): (i64, i16),
        sent: &Sent,
        now: Instant,
    ) -> Verdict {
        self.given += 1;
        let (moment, rules) = (self.now(), self.rules);
        let shared = self.shared(group, place);
        if shared.is_unsure(sent) {
            return Ok(());
        }
        let one = shared.at.entry(offset).or_default();
        let what = format!("{place:?} {offset} in {group}, delivery {count}");
        let allowed = 1..=rules.deliveries_max;
        check(allowed.contains(&count), "a record is given out so often at most", || what.clone())?;
        let done = one.done.filter(|(last, at)| *at < sent.moment || *last < count);
        check(done.is_none(), "what is done with is given to nobody", || {
            format!("{what}: it was done with after delivery {:?}", done)
        })?;
        let durable = one.durable.filter(|(last, at)| *at < sent.moment && count <= *last);
        check(durable.is_none(), "deliveries are counted through a crash", || {
            format!("{what}: {durable:?} had been noted")
        })?;
        if one.seen.is_none_or(|(highest, _)| highest <= count) {
            one.seen = Some((count, sent.at));
        }
        if sent.life < one.life {
            return Ok(());
        }
        if one.life < sent.life {
            (one.life, one.highest, one.hold) = (sent.life, None, None);
            one.counts.clear();
        }
        let is_new = !one.counts.contains(&count);
        check(is_new, "each delivery has a count of its own", || what.clone())?;
        one.counts.push(count);
        let before = one.highest;
        let rises = before.is_none_or(|(last, heard)| sent.moment < heard || last < count);
        check(rises, "the count of deliveries rises", || format!("{what}, after {before:?}"))?;
        if before.is_some_and(|(last, _)| count < last) {
            // It came late: others have had it since.
            return Ok(());
        }
        one.highest = Some((count, moment));
        let until = sent.at.after(rules.lock);
        let held = one.hold.replace(Hold { line: sent.line, count, until });
        let Some(held) = held.filter(|hold| now < hold.until) else { return Ok(()) };
        let evidence = format!("{what}, while another member has it: {held:?}");
        check(held.line != sent.line, "nobody is given what it has", || evidence.clone())?;
        self.suspected.entry(held.line).or_insert((moment, evidence));
        Ok(())
    }

    /// An answer was lost, which may have held records.
    pub fn lost(&mut self, group: &str, place: Place, now: Instant) {
        self.shared(group, place).lost.push(now);
    }

    /// A member says what became of records it has. Tells until when it has all of them for certain,
    /// if it does.
    pub fn says(
        &mut self,
        group: &str,
        place: Place,
        told: &[Telling],
        sent: &Sent,
    ) -> Option<Instant> {
        let shared = self.shared(group, place);
        let mut sure_until = None;
        let mut all_held = !shared.is_unsure(sent);
        for (offset, count, said) in told {
            let one = shared.at.entry(*offset).or_default();
            let held = one.hold.filter(|hold| hold.line == sent.line && hold.count == *count);
            all_held &= held.is_some() && one.life == sent.life;
            sure_until = sure_until.into_iter().chain(held.map(|hold| hold.until)).min();
            if *said != Said::Renew {
                one.hold = None;
            }
            one.maybe_done += u32::from(*said == Said::Done);
        }
        sure_until.filter(|_| all_held)
    }

    /// It was told that this is noted.
    pub fn noted(&mut self, group: &str, place: Place, told: &[Telling], sent: &Sent) {
        let (moment, lock) = (self.now(), self.rules.lock);
        let shared = self.shared(group, place);
        if shared.is_unsure(sent) {
            return;
        }
        let mut done = 0;
        for (offset, count, said) in told {
            let one = shared.at.entry(*offset).or_default();
            match said {
                Said::Done => {
                    one.done = Some((*count, moment));
                    done += 1;
                }
                Said::Release => {
                    let before = one.durable.filter(|(last, _)| count <= last);
                    one.durable = before.or(Some((*count, moment)));
                }
                Said::Renew => {
                    if let Some(hold) = &mut one.hold
                        && (hold.line, hold.count) == (sent.line, *count)
                    {
                        hold.until = hold.until.max(sent.at.after(lock));
                    }
                }
            }
        }
        self.done += done;
    }

    /// It was told that it does not have these records, so that nothing of it is noted.
    pub fn refused(
        &mut self,
        group: &str,
        place: Place,
        told: &[Telling],
        sure_until: Option<Instant>,
        sent: &Sent,
        now: Instant,
    ) -> Verdict {
        let shared = self.shared(group, place);
        if shared.is_unsure(sent) {
            return Ok(());
        }
        for (offset, _, _) in told.iter().filter(|(_, _, said)| *said == Said::Done) {
            let one = shared.at.entry(*offset).or_default();
            one.maybe_done = one.maybe_done.saturating_sub(1);
        }
        let had = sure_until.is_some_and(|until| now < until);
        check(!had, "what a member has it can speak of", || {
            format!("{place:?} in {group}: {told:?}")
        })
    }

    /// A member gives up a record without a word of it.
    pub fn lets_go(&mut self, group: &str, place: Place, offset: i64) {
        if let Some(one) = self.shared(group, place).at.get_mut(&offset) {
            one.hold = None;
        }
    }

    /// Somebody is about to set a group to another offset.
    pub fn resetting(&mut self, group: &str, place: Place) {
        self.shared(group, place).resets += 1;
    }

    /// That has ended.
    pub fn reset(&mut self, group: &str, place: Place, how: Reset) {
        let moment = self.now();
        let shared = self.shared(group, place);
        shared.resets -= 1;
        match how {
            Reset::To(from) => {
                shared.at.clear();
                shared.lost.clear();
                (shared.from, shared.reset_at) = (from, moment);
            }
            Reset::Refused => {}
            Reset::Unknown => shared.is_unknown = true,
        }
    }

    /// At the end, when groups have read all there is, a log reaches from `start` to `end`. `counts`
    /// tells which values are known not to be aborted.
    pub fn final_state(
        &self,
        place: Place,
        start: i64,
        end: i64,
        records: &Records,
        counts: impl Fn(Value) -> bool,
    ) -> Verdict {
        let nothing = Shared::default();
        for (group, places) in &self.groups {
            let shared = places.get(&place).unwrap_or(&nothing);
            if shared.is_unknown || 0 < shared.resets {
                continue;
            }
            for (offset, value) in records.values(start.max(shared.from)) {
                let is_there = records.left().is_none_or(|left| left.kept.contains_key(&offset));
                let is_for_all = !self.rules.read_committed || counts(value);
                if end <= offset || !is_there || !is_for_all {
                    continue;
                }
                check(shared.may_be_over(offset, &self.rules), "no record is passed over", || {
                    let one = shared.at.get(&offset);
                    format!("{value:?}, {place:?} {offset} in {group}: {one:?}")
                })?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use tidemill_record::TopicId;

    use super::*;

    const GROUP: &str = "g";
    const PLACE: Place = Place { topic: TopicId([1; 16]), partition: 0 };
    const LOCK: Duration = Duration::from_secs(1);
    const ONE: ConnectionId = ConnectionId(1);
    const OTHER: ConnectionId = ConnectionId(2);

    fn shares() -> Shares {
        Shares::new(ShareRules { lock: LOCK, deliveries_max: 3, read_committed: false })
    }

    fn at(ms: u64) -> Instant {
        Instant { nanos: ms * 1_000_000 }
    }

    /// Offset 5 is asked for and given out, so often by now.
    fn deliver(shares: &mut Shares, line: ConnectionId, count: i16, ms: u64) -> Verdict {
        let sent = shares.sends(line, at(ms));
        shares.given(GROUP, PLACE, (5, count), &sent, at(ms + 1))
    }

    fn say(shares: &mut Shares, line: ConnectionId, count: i16, said: Said) {
        let sent = shares.sends(line, at(0));
        shares.says(GROUP, PLACE, &[(5, count, said)], &sent);
        shares.noted(GROUP, PLACE, &[(5, count, said)], &sent);
    }

    fn rule(verdict: Verdict) -> &'static str {
        verdict.unwrap_err().rule
    }

    /// A record goes from hand to hand: given back, out of time, and at last dealt with.
    #[test]
    fn a_record_that_goes_from_hand_to_hand_is_fine() {
        let mut shares = shares();
        deliver(&mut shares, ONE, 1, 0).unwrap();
        say(&mut shares, ONE, 1, Said::Release);
        deliver(&mut shares, OTHER, 2, 10).unwrap();
        deliver(&mut shares, ONE, 3, 1_011).unwrap();
        say(&mut shares, ONE, 3, Said::Done);
        let sent = shares.sends(OTHER, at(2_000));
        shares.hears(&sent).unwrap();
    }

    /// Bad history: what was accepted, and told to be so, comes again after a crash.
    #[test]
    fn a_record_that_comes_again_is_found() {
        let mut shares = shares();
        deliver(&mut shares, ONE, 1, 0).unwrap();
        say(&mut shares, ONE, 1, Said::Done);
        shares.node_ended();
        let found = deliver(&mut shares, OTHER, 1, 10);
        assert_eq!(rule(found), "what is done with is given to nobody");
    }

    /// Bad history: a record is given to another while its lock holds. The first one may have lost
    /// its connection without knowing; that it is heard shows that it has not.
    #[test]
    fn two_who_have_the_same_record_are_found() {
        let mut shares = shares();
        deliver(&mut shares, ONE, 1, 0).unwrap();
        deliver(&mut shares, OTHER, 2, 10).unwrap();
        let sent = shares.sends(ONE, at(20));
        assert_eq!(rule(shares.hears(&sent)), "a record is with one member at a time");
        let mut shares = self::shares();
        deliver(&mut shares, ONE, 1, 0).unwrap();
        assert_eq!(rule(deliver(&mut shares, ONE, 2, 10)), "nobody is given what it has");
    }

    /// Bad history: a member is told that it does not have what nobody can have taken from it.
    #[test]
    fn a_member_that_loses_a_record_for_nothing_is_found() {
        let mut shares = shares();
        deliver(&mut shares, ONE, 1, 0).unwrap();
        let sent = shares.sends(ONE, at(10));
        let told = [(5, 1, Said::Done)];
        let until = shares.says(GROUP, PLACE, &told, &sent);
        shares.refused(GROUP, PLACE, &told, until, &sent, at(1_001)).unwrap();
        assert!(shares.refused(GROUP, PLACE, &told, until, &sent, at(999)).is_err());
    }

    /// Bad history: counts that stand still, come twice, go too far or fall behind what was noted.
    #[test]
    fn counts_that_do_not_count_are_found() {
        let mut shares = shares();
        assert!(deliver(&mut shares, ONE, 4, 0).is_err(), "more often than is allowed");
        deliver(&mut shares, ONE, 2, 0).unwrap();
        say(&mut shares, ONE, 2, Said::Release);
        let twice = deliver(&mut shares, OTHER, 2, 10);
        assert_eq!(rule(twice), "deliveries are counted through a crash");
        let mut shares = self::shares();
        deliver(&mut shares, ONE, 1, 0).unwrap();
        let twice = deliver(&mut shares, OTHER, 1, 2_000);
        assert_eq!(rule(twice), "each delivery has a count of its own");
        let mut shares = self::shares();
        deliver(&mut shares, ONE, 1, 0).unwrap();
        shares.node_ended();
        deliver(&mut shares, OTHER, 1, 10).unwrap();
    }

    /// Bad history: a record is in the log in the end, and nobody was ever given it, or has dealt with
    /// it.
    #[test]
    fn a_record_that_is_passed_over_is_found() {
        let value = Value { writer: 1, number: 0 };
        let mut records = Records::default();
        records.sending(value, 0);
        records.told(5, Some(value)).unwrap();
        let mut shares = shares();
        let look = |shares: &Shares| shares.final_state(PLACE, 0, 6, &records, |_| true);
        look(&shares).unwrap();
        shares.begins(GROUP);
        assert_eq!(rule(look(&shares)), "no record is passed over");
        deliver(&mut shares, ONE, 1, 0).unwrap();
        say(&mut shares, ONE, 1, Said::Release);
        assert!(look(&shares).is_err(), "it was given back");
        shares.final_state(PLACE, 6, 6, &records, |_| true).unwrap();
        (0..2).for_each(|_| shares.lost(GROUP, PLACE, at(100)));
        look(&shares).unwrap();
        let mut shares = self::shares();
        shares.begins(GROUP);
        deliver(&mut shares, ONE, 1, 0).unwrap();
        say(&mut shares, ONE, 1, Said::Done);
        look(&shares).unwrap();
        shares.resetting(GROUP, PLACE);
        shares.reset(GROUP, PLACE, Reset::To(5));
        assert!(look(&shares).is_err(), "it is to be read once more");
    }
}
