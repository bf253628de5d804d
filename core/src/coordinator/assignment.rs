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

/// No partitions.
static NOTHING: Partitions = Partitions::new();

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
pub struct Subscriber<'a> {
    /// Its name.
    pub member: &'a MemberId,
    /// Its name across restarts.
    pub instance: Option<&'a Arc<str>>,
    /// The topics it wants: one set of all who want the same, best.
    pub topics: Arc<BTreeSet<TopicId>>,
    /// What it was to have before, if it was there.
    pub before: Option<&'a Partitions>,
}

/// Shares the partitions of `topics` out: of each it is told how many there are. Of every subscriber
/// it tells the share, or none if that is what it was before.
pub fn assign(
    assignor: Assignor,
    subscribers: &[Subscriber<'_>],
    topics: &BTreeMap<TopicId, i32>,
) -> Vec<Option<Partitions>> {
    match assignor {
        Assignor::Uniform => uniform(subscribers, topics),
        Assignor::Range => range(subscribers, topics),
    }
}

// Range.

fn range(
    subscribers: &[Subscriber<'_>],
    topics: &BTreeMap<TopicId, i32>,
) -> Vec<Option<Partitions>> {
    let mut sorted: Vec<(usize, &Subscriber<'_>)> = subscribers.iter().enumerate().collect();
    // Static members first, by the name that stays: then a restart moves nothing.
    sorted.sort_by_key(|(_, s)| (s.instance.is_none(), s.instance, s.member));
    let mut shares = vec![Partitions::new(); subscribers.len()];
    for (topic, count) in topics {
        let wanting = sorted.iter().filter(|(_, s)| s.topics.contains(topic));
        let wanting: Vec<usize> = wanting.map(|(index, _)| *index).collect();
        let Ok(among) = i32::try_from(wanting.len()) else { continue };
        if among == 0 {
            continue;
        }
        let (each, extra) = (count / among, count % among);
        let mut next = 0;
        for (turn, index) in (0..).zip(wanting) {
            let end = next + each + i32::from(turn < extra);
            if next < end {
                shares[index].insert(*topic, (next..end).collect());
            }
            next = end;
        }
    }
    let all = subscribers.iter().zip(shares);
    all.map(|(one, share)| (*one.before.unwrap_or(&NOTHING) != share).then_some(share)).collect()
}

// Uniform.

/// One partition.
type Place = (TopicId, i32);

/// Of each partition, by its number, whether somebody has it.
type Taken = BTreeMap<TopicId, Vec<bool>>;

fn uniform(
    subscribers: &[Subscriber<'_>],
    topics: &BTreeMap<TopicId, i32>,
) -> Vec<Option<Partitions>> {
    let nobody = |count: &i32| vec![false; usize::try_from(*count).unwrap_or(0)];
    let mut taken: Taken = topics.iter().map(|(topic, count)| (*topic, nobody(count))).collect();
    let mut shares = keep(subscribers, &mut taken);
    let alike = subscribers.windows(2).all(|pair| pair[0].topics == pair[1].topics);
    let is_wanted = |topic: &TopicId| subscribers.iter().any(|s| s.topics.contains(topic));
    let mut free: Vec<Place> = taken
        .iter()
        .filter(|(topic, _)| is_wanted(topic))
        .flat_map(|(topic, taken)| (0..).zip(taken).map(move |(n, taken)| ((*topic, n), *taken)))
        .filter_map(|(place, is_taken)| (!is_taken).then_some(place))
        .collect();
    if alike {
        share_evenly(&mut shares, &mut free, topics);
    } else {
        share_by_wishes(subscribers, &mut shares, free);
    }
    let all = subscribers.iter().zip(shares);
    all.map(|(one, share)| changed(one.before.unwrap_or(&NOTHING), &share)).collect()
}

/// A share, if it is another one than before.
fn changed(before: &Partitions, share: &[Place]) -> Option<Partitions> {
    let had = before.iter().flat_map(|(topic, numbers)| numbers.iter().map(|n| (*topic, *n)));
    // What was kept is in the order in which it was.
    if had.eq(share.iter().copied()) {
        return None;
    }
    let mut partitions = Partitions::new();
    for (topic, number) in share {
        partitions.entry(*topic).or_default().insert(*number);
    }
    (partitions != *before).then_some(partitions)
}

/// What each member had before, as far as it still wants it and it is still there.
fn keep(subscribers: &[Subscriber<'_>], taken: &mut Taken) -> Vec<Vec<Place>> {
    let mut kept = Vec::with_capacity(subscribers.len());
    for subscriber in subscribers {
        let mut share = Vec::new();
        for (topic, numbers) in subscriber.before.unwrap_or(&NOTHING) {
            let wanted = taken.get_mut(topic).filter(|_| subscriber.topics.contains(topic));
            let Some(taken) = wanted else { continue };
            for number in numbers {
                let place = usize::try_from(*number).ok().and_then(|at| taken.get_mut(at));
                if let Some(is_taken) = place
                    && !std::mem::replace(is_taken, true)
                {
                    share.push((*topic, *number));
                }
            }
        }
        kept.push(share);
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
fn share_by_wishes(
    subscribers: &[Subscriber<'_>],
    shares: &mut [Vec<Place>],
    mut free: Vec<Place>,
) {
    let wanting = |topic: TopicId| {
        let wants =
            move |(_, subscriber): &(usize, &Subscriber<'_>)| subscriber.topics.contains(&topic);
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
    // squares falls with every move. Who has least of those who want a topic is looked for once
    // between two moves.
    let mut poorest: BTreeMap<TopicId, Option<usize>> = BTreeMap::new();
    loop {
        let mut moved = false;
        for rich in 0..shares.len() {
            let mut at = shares[rich].len();
            while 0 < at {
                at -= 1;
                let (topic, _) = shares[rich][at];
                let find = || wanting(topic).min_by_key(|index| shares[*index].len());
                let Some(poor) = *poorest.entry(topic).or_insert_with(find) else { continue };
                if shares[poor].len() + 1 < shares[rich].len() {
                    let place = shares[rich].remove(at);
                    shares[poor].push(place);
                    poorest.clear();
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

    /// A member, and what it was told last.
    struct Member {
        name: MemberId,
        instance: Option<Arc<str>>,
        topics: BTreeSet<TopicId>,
        before: Option<Partitions>,
    }

    fn subscriber(name: &str, topics: &[u8]) -> Member {
        Member {
            name: name.into(),
            instance: None,
            topics: topics.iter().map(|number| topic(*number)).collect(),
            before: None,
        }
    }

    /// What each member has from then on.
    fn assign(
        assignor: Assignor,
        members: &[Member],
        topics: &BTreeMap<TopicId, i32>,
    ) -> BTreeMap<MemberId, Partitions> {
        let subscribers = members.iter().map(|member| Subscriber {
            member: &member.name,
            instance: member.instance.as_ref(),
            topics: Arc::new(member.topics.clone()),
            before: member.before.as_ref(),
        });
        let subscribers: Vec<Subscriber<'_>> = subscribers.collect();
        let shares = super::assign(assignor, &subscribers, topics);
        assert_eq!(shares.len(), members.len());
        let has = |(member, share): (&Member, Option<Partitions>)| {
            assert!(share.is_none() || share != member.before, "what is as before is not told");
            let share = share.or_else(|| member.before.clone()).unwrap_or_default();
            (Arc::clone(&member.name), share)
        };
        members.iter().zip(shares).map(has).collect()
    }

    fn count(partitions: &Partitions) -> usize {
        partitions.values().map(BTreeSet::len).sum()
    }

    /// How many partitions are with another member than before.
    fn moved(members: &[Member], after: &BTreeMap<MemberId, Partitions>) -> usize {
        let has = |member: &MemberId, topic: &TopicId, number: &i32| {
            after[member].get(topic).is_some_and(|numbers| numbers.contains(number))
        };
        let lost = members.iter().flat_map(|s| {
            let all = s.before.iter().flatten();
            let all = all.flat_map(|(topic, numbers)| numbers.iter().map(move |n| (topic, n)));
            all.filter(|(topic, number)| !has(&s.name, topic, number))
        });
        lost.count()
    }

    fn go_on(members: &mut [Member], shares: &BTreeMap<MemberId, Partitions>) {
        for member in members {
            member.before = shares.get(&member.name).cloned();
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
        let named = |member: &str, instance: &str| Member {
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
            let mut members: Vec<Member> = (0..1 + below(5))
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
        members: &[Member],
        topics: &BTreeMap<TopicId, i32>,
        shares: &BTreeMap<MemberId, Partitions>,
    ) {
        assert_eq!(shares.len(), members.len());
        let mut owners: BTreeMap<Place, &Member> = BTreeMap::new();
        for member in members {
            for (topic, numbers) in &shares[&member.name] {
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
                    let least = wanting.iter().map(|m| count(&shares[&m.name])).min().unwrap();
                    assert!(count(&shares[&owner.name]) <= least + 1);
                }
            }
        }
    }
}
