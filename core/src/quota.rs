//! Quotas on one shard: who has spent how much, and until when whom is not read.
//!
//! Each quota is a bucket of bytes that fills at the quota's rate and holds what ten seconds bring,
//! over which Kafka averages. A request takes its bytes out of it, and the bucket may be in debt
//! afterwards: its client is answered at once, told how long the debt takes to be paid, and not read
//! for so long (KIP-219), though never longer than a minute. What is owed beyond is owed still.
//!
//! What is read for a client is bounded before: one answer brings ten seconds' worth at most, or one
//! batch. Only who shares a quota, or has had a very long batch, asks while in debt: the deeper it is,
//! the less is given, and nothing from a minute on. So all who share one get something.
//!
//! A client may have connections on several shards. So each shard tells the others, a hundred times
//! a second at most, what was spent here, and they take it out of their own bucket. Nobody shares
//! anything; a client exceeds its quota by what it can spend within a hundredth of a second.
//!
//! There are no users yet: everybody is [`ANONYMOUS`], as in Kafka. As long as no quota is set a
//! request pays for one look at a flag.
//!
//! Start reading at [`Spending::spend`].

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::sync::Arc;
use std::time::Duration;

use tidemill_replication::quota::{Bound, Entity, Quotas};
use tidemill_runtime::edge::Instant;

use crate::connection::ConnectionId;
use crate::limits::{QUOTA_BUCKETS_MAX, QUOTA_DEBT_MAX, QUOTA_WINDOW, THROTTLE_MAX};

/// The user that everybody is who has not said who they are.
pub const ANONYMOUS: &str = "ANONYMOUS";

/// How often shards tell each other what was spent.
const TELL_EVERY: Duration = Duration::from_millis(10);

/// How often full buckets are looked for when there are too many.
const SWEEP_EVERY: Duration = Duration::from_secs(1);

/// Which bucket: the quota, and who has one of their own under it.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct BucketKey {
    entity: Entity,
    /// Set if each client has its own.
    client: Option<String>,
    bound: Bound,
}

/// Bytes that may be spent.
#[derive(Clone, Copy, Debug)]
struct Bucket {
    /// Bytes a second.
    rate: f64,
    /// Below zero: in debt.
    level: f64,
    /// When that was so.
    at: Instant,
}

/// What one shard knows of what was spent.
#[derive(Debug, Default)]
pub struct Spending {
    buckets: BTreeMap<BucketKey, Bucket>,
    /// Spent here and not told to the other shards yet.
    untold: BTreeMap<BucketKey, u64>,
    told_at: Instant,
    /// When room was last made.
    swept_at: Instant,
    /// Connections that are not read, by when that ends.
    muted: BinaryHeap<Reverse<(Instant, usize, u64)>>,
}

impl Bucket {
    fn full(rate: u64, now: Instant) -> Self {
        let rate = rate as f64;
        Self { rate, level: holds(rate), at: now }
    }

    fn fill(&mut self, now: Instant) {
        let seconds = now.since(self.at).as_secs_f64();
        self.level = (self.level + seconds * self.rate).min(holds(self.rate));
        self.at = now;
    }

    fn is_full(&mut self, now: Instant) -> bool {
        self.fill(now);
        holds(self.rate) <= self.level
    }

    /// Takes bytes out, and tells how long its client is to wait.
    fn spend(&mut self, bytes: u64, now: Instant) -> Duration {
        self.fill(now);
        let debt_max = self.rate * QUOTA_DEBT_MAX.as_secs_f64();
        self.level = (self.level - bytes as f64).max(-debt_max);
        self.debt().min(THROTTLE_MAX)
    }

    /// How long it takes until the debt is paid.
    fn debt(&self) -> Duration {
        Duration::from_secs_f64((-self.level / self.rate).max(0.0))
    }

    /// How many bytes one answer may bring. All that share a bucket come back when the same debt is
    /// paid; if whoever came second then got nothing, it might be so each time.
    fn room(&mut self, now: Instant) -> u64 {
        self.fill(now);
        let left = 1.0 - self.debt().as_secs_f64() / THROTTLE_MAX.as_secs_f64();
        (holds(self.rate) * left.max(0.0)) as u64
    }
}

impl Spending {
    /// A client has spent bytes: for how long it is not to be read.
    pub fn spend(
        &mut self,
        quotas: &Quotas,
        client: &str,
        bound: Bound,
        bytes: u64,
        now: Instant,
    ) -> Duration {
        let Some((mut key, rate)) = key_of(quotas, client, bound) else { return Duration::ZERO };
        if !self.has_room(&key, now) {
            // There are too many to tell apart: the rest share one.
            key.client = None;
        }
        if 0 < bytes {
            *self.untold.entry(key.clone()).or_default() += bytes;
        }
        self.buckets.entry(key).or_insert_with(|| Bucket::full(rate, now)).spend(bytes, now)
    }

    /// How many bytes one answer to a client may bring, 0 if it owes too much; none without a quota.
    pub fn room(
        &mut self,
        quotas: &Quotas,
        client: &str,
        bound: Bound,
        now: Instant,
    ) -> Option<u64> {
        let (mut key, rate) = key_of(quotas, client, bound)?;
        if !self.has_room(&key, now) {
            key.client = None;
        }
        match self.buckets.get_mut(&key) {
            Some(bucket) => Some(bucket.room(now)),
            None => Some(Bucket::full(rate, now).room(now)),
        }
    }

    /// Another shard tells what was spent there.
    pub fn spent_elsewhere(&mut self, quotas: &Quotas, told: &[(BucketKey, u64)], now: Instant) {
        for (key, bytes) in told {
            let Some(rate) = quotas.rate(&key.entity, key.bound) else { continue };
            if !self.has_room(key, now) {
                continue;
            }
            let bucket = self.buckets.entry(key.clone());
            bucket.or_insert_with(|| Bucket::full(rate, now)).spend(*bytes, now);
        }
    }

    /// Whether a bucket is there or can be made. Full ones tell nothing that a new one would not, and
    /// are let go when room is wanted; but not with each request that wants some.
    fn has_room(&mut self, key: &BucketKey, now: Instant) -> bool {
        if self.buckets.len() < QUOTA_BUCKETS_MAX || self.buckets.contains_key(key) {
            return true;
        }
        if self.swept_at.after(SWEEP_EVERY) <= now {
            self.swept_at = now;
            self.buckets.retain(|_, bucket| !bucket.is_full(now));
        }
        self.buckets.len() < QUOTA_BUCKETS_MAX
    }

    /// What the other shards are to be told now.
    pub fn poll_told(&mut self, now: Instant) -> Option<Arc<[(BucketKey, u64)]>> {
        if self.untold.is_empty() || now < self.told_at.after(TELL_EVERY) {
            return None;
        }
        self.told_at = now;
        Some(std::mem::take(&mut self.untold).into_iter().collect())
    }

    /// Quotas have changed: everybody begins anew.
    pub fn reset(&mut self) {
        self.buckets.clear();
        self.untold.clear();
    }

    /// A connection is not to be read before `until`.
    pub fn mute(&mut self, connection: ConnectionId, until: Instant) {
        self.muted.push(Reverse((until, connection.index, connection.serial)));
    }

    /// A connection that may be read again by now.
    pub fn poll_unmuted(&mut self, now: Instant) -> Option<ConnectionId> {
        let Reverse((until, index, serial)) = *self.muted.peek()?;
        if now < until {
            return None;
        }
        self.muted.pop();
        Some(ConnectionId { index, serial })
    }

    /// When there is something to do next. Only a shard that `tells` is woken to do so: another one
    /// would find the time passed again and again.
    pub fn next_deadline(&self, tells: bool) -> Option<Instant> {
        let unmute = self.muted.peek().map(|Reverse((until, ..))| *until);
        let tell = (tells && !self.untold.is_empty()).then(|| self.told_at.after(TELL_EVERY));
        unmute.into_iter().chain(tell).min()
    }
}

/// How many bytes a bucket holds.
fn holds(rate: f64) -> f64 {
    rate * QUOTA_WINDOW.as_secs_f64()
}

/// The bucket of a client, and its rate.
fn key_of(quotas: &Quotas, client: &str, bound: Bound) -> Option<(BucketKey, u64)> {
    let (entity, rate) = quotas.of(ANONYMOUS, client, bound)?;
    let own = entity.client.is_some();
    let key = BucketKey { entity: entity.clone(), client: own.then(|| client.to_owned()), bound };
    Some((key, rate))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tidemill_replication::quota::Who;

    const SECOND: Duration = Duration::from_secs(1);

    fn quotas(rate: u64) -> Quotas {
        let mut quotas = Quotas::default();
        let entity = Entity { user: None, client: Some(Who::Default) };
        quotas.set(&entity, Bound::Produce, Some(rate));
        quotas
    }

    fn at(millis: u64) -> Instant {
        Instant::default().after(Duration::from_millis(millis))
    }

    /// What ten seconds bring may be spent at once, as in Kafka; then the client waits for as long as
    /// its debt takes, and over time it gets its rate.
    #[test]
    fn a_client_gets_its_rate_over_time() {
        let quotas = quotas(1000);
        let mut spending = Spending::default();
        let mut spend = |bytes, now| spending.spend(&quotas, "c", Bound::Produce, bytes, now);
        assert_eq!(spend(10_000, at(0)), Duration::ZERO);
        assert_eq!(spend(500, at(0)), SECOND / 2);
        assert_eq!(spend(500, at(500)), SECOND / 2);
        let mut now = at(1000);
        for _ in 0..100 {
            now = now.after(spend(250, now));
        }
        let passed = now.since(at(1000)).as_millis();
        assert!((24_700..=25_000).contains(&passed), "25,000 bytes took {passed} ms");
    }

    /// Nobody is kept waiting for more than a minute, but what was owed beyond was forgiven, so that
    /// who took ten minutes' worth at once paid for one.
    #[test]
    fn what_was_owed_beyond_a_minute_was_forgiven() {
        let quotas = quotas(1000);
        let mut spending = Spending::default();
        let mut spend = |bytes, now| spending.spend(&quotas, "c", Bound::Produce, bytes, now);
        assert_eq!(spend(10_000 + 90_000, at(0)), THROTTLE_MAX);
        assert_eq!(spend(0, at(60_000)), 30 * SECOND);
        assert_eq!(spend(0, at(90_000)), Duration::ZERO);
        for _ in 0..100 {
            assert_eq!(spend(1 << 50, at(90_000)), THROTTLE_MAX);
        }
        let paid = at(90_000).after(QUOTA_DEBT_MAX);
        assert_eq!(spend(1000, paid), SECOND, "there is an end to any debt");
    }

    /// Consumers that share a quota all come back when the same debt is paid: each is given something,
    /// and all together get their rate.
    #[test]
    fn who_shares_a_quota_gets_a_share() {
        let quotas = quotas(1000);
        let mut spending = Spending::default();
        let mut given = [0; 20];
        let mut back = [at(0); 20];
        while let Some((now, who)) = (0..20).map(|who| (back[who], who)).min()
            && now < at(1_000_000)
        {
            let bytes = spending.room(&quotas, "c", Bound::Produce, now).unwrap();
            given[who] += bytes;
            let wait = spending.spend(&quotas, "c", Bound::Produce, bytes, now);
            back[who] = now.after(wait);
        }
        let all: u64 = given.iter().sum();
        assert!((990_000..=1_070_000).contains(&all), "{all} of a million");
        assert!(given.iter().all(|given| 25_000 < *given), "{given:?}");
    }

    /// One answer brought any number of seconds' worth, and what was beyond a minute was forgiven: a
    /// consumer got many times its quota. Now it gets ten seconds' worth at once and its rate over
    /// time; also if one batch alone is two minutes' worth.
    #[test]
    fn one_answer_brought_more_than_was_ever_paid_for() {
        let quotas = quotas(1000);
        for batch in [1, 120_000] {
            let mut spending = Spending::default();
            let (mut now, mut given) = (at(0), 0);
            let room = |spending: &mut Spending, now| {
                spending.room(&quotas, "c", Bound::Produce, now).unwrap()
            };
            assert_eq!(room(&mut spending, now), 10_000);
            while now < at(1_000_000) {
                let bytes = match room(&mut spending, now) {
                    0 => 0,
                    room => room.max(batch),
                };
                given += bytes;
                let wait = spending.spend(&quotas, "c", Bound::Produce, bytes, now);
                assert!(wait <= THROTTLE_MAX);
                now = now.after(wait.max(Duration::from_millis(1)));
            }
            assert!((990_000..=1_000_000 + 70_000 + batch).contains(&given), "{batch}: {given}");
        }
        assert_eq!(Spending::default().room(&quotas, "c", Bound::Fetch, at(0)), None);
    }

    /// Under the default each client has its own; other bounds and other clients are not touched.
    #[test]
    fn clients_do_not_spend_for_each_other() {
        let quotas = quotas(1000);
        let mut spending = Spending::default();
        let mut spend = |client, bound| spending.spend(&quotas, client, bound, 11_000, at(0));
        assert_eq!(spend("a", Bound::Produce), SECOND);
        assert_eq!(spend("b", Bound::Produce), SECOND);
        assert_eq!(spend("a", Bound::Fetch), Duration::ZERO);
    }

    /// What was spent on one shard counts on the others soon after.
    #[test]
    fn shards_tell_each_other_what_was_spent() {
        let quotas = quotas(1000);
        let (mut one, mut other) = (Spending::default(), Spending::default());
        one.spend(&quotas, "c", Bound::Produce, 10_500, at(100));
        assert_eq!(one.next_deadline(true), Some(at(10)));
        let told = one.poll_told(at(100)).unwrap();
        assert!(one.poll_told(at(200)).is_none(), "once");
        other.spent_elsewhere(&quotas, &told, at(100));
        let waits = other.spend(&quotas, "c", Bound::Produce, 500, at(100));
        assert_eq!(waits, SECOND);
    }

    /// A client that calls itself something else each time does not use up memory.
    #[test]
    fn names_are_bounded() {
        let quotas = quotas(10);
        let mut spending = Spending::default();
        for number in 0..2 * QUOTA_BUCKETS_MAX {
            spending.spend(&quotas, &number.to_string(), Bound::Produce, 200, at(0));
        }
        assert!(spending.buckets.len() <= QUOTA_BUCKETS_MAX + 1);
        assert!(spending.untold.len() <= QUOTA_BUCKETS_MAX + 1);
    }
}
