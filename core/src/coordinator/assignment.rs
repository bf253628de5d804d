//! Sharing partitions out among members, where the broker does it (KIP-848).
//!
//! - *uniform* gives everybody about the same number, and leaves as much as it can where it is;
//! - *range* gives each member neighbouring partitions of every topic, the same ones of topics
//!   with as many partitions, so that records that belong together meet at one member.
//!
//! Both are the same on every call with the same input. A partition goes to one member, and only to
//! one that wants its topic.
//!
//! Start reading at [`assign`].

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tidemill_record::TopicId;

use super::request::MemberId;

/// Some partitions, by topic. No topic is without partitions.
pub type Partitions = BTreeMap<TopicId, BTreeSet<i32>>;

/// How partitions are shared out.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Assignor {
    /// Evenly, with few moves. The one that is used if nobody asks for another.
    #[default]
    Uniform,
    /// By neighbourhood.
    Range,
}

impl Assignor {
    /// Both, the default first.
    pub const ALL: [Assignor; 2] = [Assignor::Uniform, Assignor::Range];

    /// Kafka's name of it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Uniform => "uniform",
            Self::Range => "range",
        }
    }

    /// The one with this name.
    pub fn from_name(name: &str) -> Option<Assignor> {
        Self::ALL.into_iter().find(|assignor| assignor.name() == name)
    }
}

/// A member that wants partitions.
#[derive(Clone, Debug)]
pub struct Subscriber {
    /// Its name.
    pub member: MemberId,
    /// Its name across restarts.
    pub instance: Option<Arc<str>>,
    /// The topics it wants.
    pub topics: BTreeSet<TopicId>,
    /// What it was to have before.
    pub before: Partitions,
}

/// Shares the partitions of `topics` out: of each it is told how many there are. Every subscriber
/// is in the result, also without partitions.
pub fn assign(
    assignor: Assignor,
    subscribers: &[Subscriber],
    topics: &BTreeMap<TopicId, i32>,
) -> BTreeMap<MemberId, Partitions> {
    match assignor {
        Assignor::Uniform => uniform(subscribers, topics),
        Assignor::Range => range(subscribers, topics),
    }
}

// Range.

fn range(
    subscribers: &[Subscriber],
    topics: &BTreeMap<TopicId, i32>,
) -> BTreeMap<MemberId, Partitions> {
    let mut sorted: Vec<&Subscriber> = subscribers.iter().collect();
    // Static members first, by the name that stays: then a restart moves nothing.
    sorted.sort_by_key(|s| (s.instance.is_none(), s.instance.as_ref(), &s.member));
    let mut shares: BTreeMap<MemberId, Partitions> =
        sorted.iter().map(|s| (Arc::clone(&s.member), Partitions::new())).collect();
    for (topic, count) in topics {
        let wanting: Vec<&&Subscriber> =
            sorted.iter().filter(|s| s.topics.contains(topic)).collect();
        let Ok(among) = i32::try_from(wanting.len()) else { continue };
        if among == 0 {
            continue;
        }
        let (each, extra) = (count / among, count % among);
        let mut next = 0;
        for (turn, subscriber) in (0..).zip(wanting) {
            let end = next + each + i32::from(turn < extra);
            if next < end {
                let share = shares.get_mut(&subscriber.member).expect("everybody has one");
                share.insert(*topic, (next..end).collect());
            }
            next = end;
        }
    }
    shares
}

// Uniform.

/// One partition.
type Place = (TopicId, i32);

fn uniform(
    subscribers: &[Subscriber],
    topics: &BTreeMap<TopicId, i32>,
) -> BTreeMap<MemberId, Partitions> {
    let mut shares = keep(subscribers, topics);
    let taken: BTreeSet<Place> = shares.iter().flatten().copied().collect();
    let alike = subscribers.windows(2).all(|pair| pair[0].topics == pair[1].topics);
    let is_wanted = |topic: &TopicId| subscribers.iter().any(|s| s.topics.contains(topic));
    let mut free: Vec<Place> = topics
        .iter()
        .filter(|(topic, _)| is_wanted(topic))
        .flat_map(|(topic, count)| (0..*count).map(move |number| (*topic, number)))
        .filter(|place| !taken.contains(place))
        .collect();
    if alike {
        share_evenly(&mut shares, &mut free, topics);
    } else {
        share_by_wishes(subscribers, &mut shares, free);
    }
    let partitions = |share: Vec<Place>| {
        let mut partitions = Partitions::new();
        for (topic, number) in share {
            partitions.entry(topic).or_default().insert(number);
        }
        partitions
    };
    let members = subscribers.iter().map(|subscriber| Arc::clone(&subscriber.member));
    members.zip(shares.into_iter().map(partitions)).collect()
}

/// What each member had before, as far as it still wants it and it is still there.
fn keep(subscribers: &[Subscriber], topics: &BTreeMap<TopicId, i32>) -> Vec<Vec<Place>> {
    let mut taken: BTreeSet<Place> = BTreeSet::new();
    let mut kept = Vec::with_capacity(subscribers.len());
    for subscriber in subscribers {
        let wanted =
            subscriber.before.iter().filter(|(topic, _)| subscriber.topics.contains(topic));
        let places = wanted.flat_map(|(topic, numbers)| {
            let count = topics.get(topic).copied().unwrap_or(0);
            numbers.iter().filter(move |number| **number < count).map(|number| (*topic, *number))
        });
        kept.push(places.filter(|place| taken.insert(*place)).collect());
    }
    kept
}

/// All want the same topics: so many each, and one more for some. Who has too many gives up the
/// last ones; who has one more than others keeps it.
fn share_evenly(shares: &mut [Vec<Place>], free: &mut Vec<Place>, topics: &BTreeMap<TopicId, i32>) {
    if shares.is_empty() || free.is_empty() && shares.iter().all(Vec::is_empty) {
        return;
    }
    let wanted = shares.iter().map(Vec::len).sum::<usize>() + free.len();
    debug_assert!(wanted as i64 <= topics.values().map(|count| i64::from(*count)).sum::<i64>());
    let (each, mut extra) = (wanted / shares.len(), wanted % shares.len());
    let mut quotas = vec![each; shares.len()];
    for (quota, share) in quotas.iter_mut().zip(shares.iter()) {
        if 0 < extra && each < share.len() {
            *quota += 1;
            extra -= 1;
        }
    }
    for (quota, share) in quotas.iter_mut().zip(shares.iter_mut()) {
        if 0 < extra && *quota == each && each <= share.len() {
            *quota += 1;
            extra -= 1;
        }
        if *quota < share.len() {
            free.extend(share.drain(*quota..));
        }
    }
    for quota in &mut quotas {
        if 0 < extra && *quota == each {
            *quota += 1;
            extra -= 1;
        }
    }
    let mut free = free.drain(..);
    for (quota, share) in quotas.into_iter().zip(shares) {
        let lacks = quota.saturating_sub(share.len());
        share.extend(free.by_ref().take(lacks));
    }
    assert!(free.next().is_none(), "the quotas add up to all there are");
}

/// Members want different topics: free partitions go to whoever has least of those who want them,
/// the ones that few want first; then whoever has two more than another one passes one on.
fn share_by_wishes(subscribers: &[Subscriber], shares: &mut [Vec<Place>], mut free: Vec<Place>) {
    let wanting = |topic: TopicId| {
        let wants =
            move |(_, subscriber): &(usize, &Subscriber)| subscriber.topics.contains(&topic);
        subscribers.iter().enumerate().filter(wants).map(|(index, _)| index)
    };
    let mut counts: BTreeMap<TopicId, usize> = BTreeMap::new();
    for (topic, _) in &free {
        counts.entry(*topic).or_insert_with(|| wanting(*topic).count());
    }
    free.sort_by_key(|(topic, number)| (counts[topic], *topic, *number));
    for place in free {
        if let Some(poorest) = wanting(place.0).min_by_key(|index| shares[*index].len()) {
            shares[poorest].push(place);
        }
    }
    // Each pass moves what can be moved towards those who have less; that ends, since the sum of
    // squares falls with every move.
    loop {
        let mut moved = false;
        for rich in 0..shares.len() {
            let mut at = shares[rich].len();
            while 0 < at {
                at -= 1;
                let (topic, _) = shares[rich][at];
                let poorest = wanting(topic).min_by_key(|index| shares[*index].len());
                let Some(poorest) = poorest else { continue };
                if shares[poorest].len() + 1 < shares[rich].len() {
                    let place = shares[rich].remove(at);
                    shares[poorest].push(place);
                    moved = true;
                }
            }
        }
        if !moved {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;

    fn topic(number: u8) -> TopicId {
        TopicId([number; 16])
    }

    fn subscriber(name: &str, topics: &[u8]) -> Subscriber {
        Subscriber {
            member: name.into(),
            instance: None,
            topics: topics.iter().map(|number| topic(*number)).collect(),
            before: Partitions::new(),
        }
    }

    fn count(partitions: &Partitions) -> usize {
        partitions.values().map(BTreeSet::len).sum()
    }

    /// How many partitions are with another member than before.
    fn moved(subscribers: &[Subscriber], after: &BTreeMap<MemberId, Partitions>) -> usize {
        let has = |member: &MemberId, topic: &TopicId, number: &i32| {
            after[member].get(topic).is_some_and(|numbers| numbers.contains(number))
        };
        let lost = subscribers.iter().flat_map(|s| {
            let all = s.before.iter();
            let all = all.flat_map(|(topic, numbers)| numbers.iter().map(move |n| (topic, n)));
            all.filter(|(topic, number)| !has(&s.member, topic, number))
        });
        lost.count()
    }

    fn go_on(subscribers: &mut [Subscriber], shares: &BTreeMap<MemberId, Partitions>) {
        for subscriber in subscribers {
            subscriber.before = shares.get(&subscriber.member).cloned().unwrap_or_default();
        }
    }

    /// Everybody has about as much as the others; who comes takes only its part, and who goes
    /// leaves only its own.
    #[test]
    fn uniform_is_even_and_moves_little() {
        let topics = BTreeMap::from([(topic(1), 7), (topic(2), 4)]);
        let mut members = vec![subscriber("a", &[1, 2]), subscriber("b", &[1, 2])];
        let shares = assign(Assignor::Uniform, &members, &topics);
        assert_eq!(shares.values().map(count).collect::<Vec<_>>(), [6, 5]);
        go_on(&mut members, &shares);
        assert_eq!(assign(Assignor::Uniform, &members, &topics), shares, "nothing moves by itself");

        members.push(subscriber("c", &[1, 2]));
        let shares = assign(Assignor::Uniform, &members, &topics);
        assert_eq!(shares.values().map(count).collect::<Vec<_>>(), [4, 4, 3]);
        assert_eq!(moved(&members, &shares), 3);

        go_on(&mut members, &shares);
        members.remove(0);
        let shares = assign(Assignor::Uniform, &members, &topics);
        assert_eq!(shares.values().map(count).collect::<Vec<_>>(), [6, 5]);
        assert_eq!(moved(&members, &shares), 0, "only what nobody had was given away");
    }

    /// Neighbours of each topic, the same numbers of topics that are as large.
    #[test]
    fn range_gives_neighbours_of_every_topic() {
        let topics = BTreeMap::from([(topic(1), 3), (topic(2), 3), (topic(3), 1)]);
        let members = [subscriber("a", &[1, 2, 3]), subscriber("b", &[1, 2])];
        let shares = assign(Assignor::Range, &members, &topics);
        let numbers = |range: std::ops::Range<i32>| range.collect::<BTreeSet<i32>>();
        let of_a =
            [(topic(1), numbers(0..2)), (topic(2), numbers(0..2)), (topic(3), numbers(0..1))];
        assert_eq!(shares["a"], of_a.into());
        assert_eq!(shares["b"], [(topic(1), numbers(2..3)), (topic(2), numbers(2..3))].into());
    }

    /// Static members keep their place in the row, whatever they are called this time.
    #[test]
    fn range_goes_by_the_names_that_stay() {
        let topics = BTreeMap::from([(topic(1), 2)]);
        let named = |member: &str, instance: &str| Subscriber {
            instance: Some(instance.into()),
            ..subscriber(member, &[1])
        };
        let before = assign(Assignor::Range, &[named("x", "1"), named("y", "2")], &topics);
        let after = assign(Assignor::Range, &[named("z", "1"), named("y", "2")], &topics);
        assert_eq!(before["x"], after["z"]);
        assert_eq!(before["y"], after["y"]);
    }

    /// Nobody, or nothing to share, is no mistake.
    #[test]
    fn nothing_is_shared_among_nobody() {
        for assignor in Assignor::ALL {
            assert_eq!(Assignor::from_name(assignor.name()), Some(assignor));
            let topics = BTreeMap::from([(topic(1), 3)]);
            assert_eq!(assign(assignor, &[], &topics), BTreeMap::new());
            let idle = assign(assignor, &[subscriber("a", &[]), subscriber("b", &[])], &topics);
            assert!(idle.values().all(Partitions::is_empty));
            let shares = assign(assignor, &[subscriber("a", &[9])], &topics);
            assert!(shares["a"].is_empty(), "there is no such topic");
        }
    }

    /// Whatever members want and had: each partition that somebody wants goes to one who wants it,
    /// and nobody who could take one has two fewer than its owner.
    #[test]
    fn every_partition_goes_to_one_who_wants_it() {
        let mut random = Random::new(11);
        let mut below = |end: u64| (random.next_u64() % end) as usize;
        for _ in 0..300 {
            let topics: BTreeMap<TopicId, i32> =
                (0..1 + below(4)).map(|n| (topic(n as u8), below(6) as i32)).collect();
            let mut members: Vec<Subscriber> = (0..1 + below(5))
                .map(|n| {
                    let wanted: Vec<u8> = (0..4).filter(|_| below(3) != 0).collect();
                    subscriber(&format!("m{n}"), &wanted)
                })
                .collect();
            for _ in 0..3 {
                for assignor in Assignor::ALL {
                    let shares = assign(assignor, &members, &topics);
                    check(assignor, &members, &topics, &shares);
                    go_on(&mut members, &shares);
                }
                members.rotate_left(1);
                let changed = below(members.len() as u64);
                members[changed].topics = (0..4).filter(|_| below(2) == 0).map(topic).collect();
            }
        }
    }

    fn check(
        assignor: Assignor,
        members: &[Subscriber],
        topics: &BTreeMap<TopicId, i32>,
        shares: &BTreeMap<MemberId, Partitions>,
    ) {
        assert_eq!(shares.len(), members.len());
        let mut owners: BTreeMap<Place, &Subscriber> = BTreeMap::new();
        for member in members {
            for (topic, numbers) in &shares[&member.member] {
                assert!(member.topics.contains(topic));
                assert!(!numbers.is_empty());
                for number in numbers {
                    assert!((0..topics[topic]).contains(number));
                    assert!(owners.insert((*topic, *number), member).is_none(), "one owner");
                }
            }
        }
        for (topic, count_of) in topics {
            let wanting: Vec<_> = members.iter().filter(|m| m.topics.contains(topic)).collect();
            for number in 0..*count_of {
                let owner = owners.get(&(*topic, number));
                assert_eq!(owner.is_some(), !wanting.is_empty());
                if let (Some(owner), Assignor::Uniform) = (owner, assignor) {
                    let least = wanting.iter().map(|m| count(&shares[&m.member])).min().unwrap();
                    assert!(count(&shares[&owner.member]) <= least + 1);
                }
            }
        }
    }
}
