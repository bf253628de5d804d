//! How the partitions of topics are shared out among the members of a group: pure, and the same for
//! the same members, so that it does not matter which of them does it.
//!
//! Start reading at [`Assignor::share_out`].

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use tidemill_net::kafka::consumer_protocol::Subscription;
use tidemill_net::kafka::topic_partitions::TopicPartitions;

use super::Share;

/// A way of sharing out partitions.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Assignor {
    /// Of each topic everybody gets a range of partitions, as equal as possible. All members stop
    /// reading until they know what they get.
    Range,
    /// Everybody gets as many partitions as anybody else, and keeps what it has as far as that goes.
    /// Only what moves is not read meanwhile (KIP-429), if the group's members know no other way.
    CooperativeSticky,
}

/// A member, as its leader learns of it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Member {
    /// Its id.
    pub id: String,
    /// Its name, if it is a static member.
    pub instance: Option<String>,
    /// What it says of itself.
    pub subscription: Subscription,
}

/// What each member gets, in the order of the members.
pub type Shares = Vec<BTreeSet<Share>>;

impl Assignor {
    /// What it is called in the protocol.
    pub fn name(self) -> &'static str {
        match self {
            Assignor::Range => "range",
            Assignor::CooperativeSticky => "cooperative-sticky",
        }
    }

    /// Whether members go on reading what they keep.
    pub fn is_cooperative(self) -> bool {
        self == Assignor::CooperativeSticky
    }

    /// Shares out all partitions of the topics: `counts` says how many each has. A cooperative
    /// assignor leaves out what has to be given up by somebody first; who gives up joins again,
    /// and then it is shared out.
    pub fn share_out(self, members: &[Member], counts: &BTreeMap<Arc<str>, i32>) -> Shares {
        match self {
            Assignor::Range => by_range(members, counts),
            Assignor::CooperativeSticky => {
                let owned = owned(members, counts);
                let mut shares = stickily(members, counts, &owned);
                withhold_what_moves(members, &mut shares);
                shares
            }
        }
    }
}

/// The generation in which a member got what it owns, in the form of clients that do not know the
/// field for it.
pub(super) fn generation_as_user_data(generation: i32) -> Bytes {
    Bytes::copy_from_slice(&generation.to_be_bytes())
}

fn generation_of(subscription: &Subscription) -> i32 {
    let said = subscription.user_data.as_ref().and_then(|data| data.get(..4));
    match said {
        Some(said) if subscription.generation_id < 0 => {
            i32::from_be_bytes(said.try_into().expect("four bytes were taken"))
        }
        _ => subscription.generation_id,
    }
}

/// The partitions of some lists.
pub(super) fn each(lists: &[TopicPartitions]) -> impl Iterator<Item = Share> {
    lists.iter().flat_map(|list| {
        let topic: Arc<str> = Arc::from(&*list.topic);
        list.partitions.iter().map(move |partition| (Arc::clone(&topic), *partition))
    })
}

/// Lists of partitions, a list for each topic.
pub(super) fn by_topic<'a>(shares: impl IntoIterator<Item = &'a Share>) -> Vec<TopicPartitions> {
    let mut lists: BTreeMap<&str, Vec<i32>> = BTreeMap::new();
    for (topic, partition) in shares {
        lists.entry(topic).or_default().push(*partition);
    }
    let list =
        |(topic, partitions): (&str, _)| TopicPartitions { topic: topic.to_owned(), partitions };
    lists.into_iter().map(list).collect()
}

/// For each topic, who wants it.
fn subscribers<'a>(
    members: &[Member],
    counts: &'a BTreeMap<Arc<str>, i32>,
) -> BTreeMap<&'a Arc<str>, Vec<usize>> {
    let mut wanted: BTreeMap<&Arc<str>, Vec<usize>> = BTreeMap::new();
    for (index, member) in members.iter().enumerate() {
        let topics: BTreeSet<&str> = member.subscription.topics.iter().map(|t| &**t).collect();
        for topic in topics {
            if let Some((topic, _)) = counts.get_key_value(topic) {
                wanted.entry(topic).or_default().push(index);
            }
        }
    }
    wanted
}

/// As Kafka's range assignor does it: of members in the order of their names, the first get one
/// more each.
fn by_range(members: &[Member], counts: &BTreeMap<Arc<str>, i32>) -> Shares {
    let mut shares = vec![BTreeSet::new(); members.len()];
    for (topic, mut takers) in subscribers(members, counts) {
        // Static members come first, by their names; the others by their ids.
        takers.sort_by_key(|index| {
            let member = &members[*index];
            (member.instance.is_none(), member.instance.as_deref(), &*member.id)
        });
        let count = counts[topic].max(0) as usize;
        let (each, more) = (count / takers.len(), count % takers.len());
        let mut next = 0;
        for (place, taker) in takers.into_iter().enumerate() {
            let end = next + each + usize::from(place < more);
            shares[taker].extend((next..end).map(|number| (Arc::clone(topic), number as i32)));
            next = end;
        }
    }
    shares
}

/// Who owns what, by what the members say. What two of them claim belongs to the one that got it
/// in the later generation; if that is the same, to nobody.
fn owned(members: &[Member], counts: &BTreeMap<Arc<str>, i32>) -> BTreeMap<Share, usize> {
    let mut claims: BTreeMap<Share, (i32, Option<usize>)> = BTreeMap::new();
    for (index, member) in members.iter().enumerate() {
        let generation = generation_of(&member.subscription);
        for share in each(&member.subscription.owned_partitions) {
            let claim = claims.entry(share).or_insert((i32::MIN, None));
            match claim.0.cmp(&generation) {
                std::cmp::Ordering::Less => *claim = (generation, Some(index)),
                std::cmp::Ordering::Equal => claim.1 = None,
                std::cmp::Ordering::Greater => {}
            }
        }
    }
    let wanted = subscribers(members, counts);
    let is_valid = |share: &Share, owner: usize| {
        counts.get(&share.0).is_some_and(|count| (0..*count).contains(&share.1))
            && wanted.get(&share.0).is_some_and(|takers| takers.contains(&owner))
    };
    let owned = claims.into_iter().filter_map(|(share, (_, owner))| {
        let owner = owner.filter(|owner| is_valid(&share, *owner))?;
        Some((share, owner))
    });
    owned.collect()
}

/// Everybody keeps what it owns; what nobody owns goes to who has least; then who has most gives to
/// who has least, as long as that evens it out.
fn stickily(
    members: &[Member],
    counts: &BTreeMap<Arc<str>, i32>,
    owned: &BTreeMap<Share, usize>,
) -> Shares {
    let wanted = subscribers(members, counts);
    let mut shares: Shares = vec![BTreeSet::new(); members.len()];
    for (share, owner) in owned {
        shares[*owner].insert(share.clone());
    }
    for (topic, takers) in &wanted {
        for number in 0..counts[*topic] {
            let share = (Arc::clone(topic), number);
            if !owned.contains_key(&share) {
                let least = takers.iter().min_by_key(|index| (shares[**index].len(), **index));
                shares[*least.expect("somebody wants it")].insert(share);
            }
        }
    }
    even_out(members, &mut shares);
    shares
}

/// Members by how much they have, the poorest first.
type Loads = BTreeSet<(usize, usize)>;

/// Who has most gives to who has least, until nobody could take from who has two more. Each move
/// brings two members closer together, so this ends.
///
/// Who has nothing that a poorer one wants is not asked again before all others were: with members
/// that want the same, a move costs no look at the others.
fn even_out(members: &[Member], shares: &mut Shares) {
    let wants: Vec<BTreeSet<&str>> = members
        .iter()
        .map(|member| member.subscription.topics.iter().map(|topic| &**topic).collect())
        .collect();
    let mut loads: Loads = shares.iter().enumerate().map(|(i, mine)| (mine.len(), i)).collect();
    loop {
        let mut has_moved = false;
        let mut givers = loads.clone();
        while let Some((_, from)) = givers.pop_last() {
            let Some((to, share)) = gift(from, &loads, shares, &wants) else { continue };
            has_moved = true;
            let (before_from, before_to) = (shares[from].len(), shares[to].len());
            shares[from].remove(&share);
            shares[to].insert(share);
            loads.remove(&(before_from, from));
            loads.remove(&(before_to, to));
            loads.extend([(before_from - 1, from), (before_to + 1, to)]);
            givers.insert((before_from - 1, from));
            if givers.remove(&(before_to, to)) {
                givers.insert((before_to + 1, to));
            }
        }
        if !has_moved {
            return;
        }
    }
}

/// A partition that evens out two members by going from one to the poorest that wants it.
fn gift(
    from: usize,
    loads: &Loads,
    shares: &Shares,
    wants: &[BTreeSet<&str>],
) -> Option<(usize, Share)> {
    let poorer = loads.iter().take_while(|(load, _)| load + 2 <= shares[from].len());
    for &(_, to) in poorer {
        let fits = |share: &&Share| wants[to].contains(&*share.0);
        if let Some(share) = shares[from].iter().rev().find(fits) {
            return Some((to, share.clone()));
        }
    }
    None
}

/// Takes out what somebody else still reads.
fn withhold_what_moves(members: &[Member], shares: &mut Shares) {
    let mut readers: BTreeMap<Share, Vec<usize>> = BTreeMap::new();
    for (index, member) in members.iter().enumerate() {
        for share in each(&member.subscription.owned_partitions) {
            readers.entry(share).or_default().push(index);
        }
    }
    for (index, mine) in shares.iter_mut().enumerate() {
        mine.retain(|share| {
            readers.get(share).is_none_or(|readers| readers.iter().all(|reader| *reader == index))
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backoff::Random;

    fn counts(topics: &[(&str, i32)]) -> BTreeMap<Arc<str>, i32> {
        topics.iter().map(|(topic, count)| (Arc::from(*topic), *count)).collect()
    }

    fn member(id: &str, topics: &[&str]) -> Member {
        let topics = topics.iter().map(|topic| (*topic).to_owned()).collect();
        Member {
            id: id.to_owned(),
            instance: None,
            subscription: Subscription { topics, ..Subscription::default() },
        }
    }

    fn owning(mut member: Member, shares: &BTreeSet<Share>, generation: i32) -> Member {
        member.subscription.owned_partitions = by_topic(shares);
        member.subscription.generation_id = generation;
        member
    }

    fn numbers(shares: &BTreeSet<Share>, topic: &str) -> Vec<i32> {
        shares.iter().filter(|share| &*share.0 == topic).map(|share| share.1).collect()
    }

    fn all(counts: &BTreeMap<Arc<str>, i32>) -> Vec<Share> {
        let each = |(topic, count): (&Arc<str>, &i32)| {
            (0..*count).map(|number| (Arc::clone(topic), number)).collect::<Vec<_>>()
        };
        counts.iter().flat_map(each).collect()
    }

    /// The leader of a group may be a client of another make, and the next one not: with the same
    /// members each must come to what Kafka's own range assignor does.
    #[test]
    fn ranges_are_those_that_kafka_gives() {
        let mut members = [member("c", &["t", "u"]), member("a", &["t"]), member("b", &["t", "u"])];
        let shares = Assignor::Range.share_out(&members, &counts(&[("t", 7), ("u", 3), ("v", 9)]));
        assert_eq!(numbers(&shares[1], "t"), [0, 1, 2], "a is first, and gets the one more");
        assert_eq!(numbers(&shares[2], "t"), [3, 4]);
        assert_eq!(numbers(&shares[0], "t"), [5, 6]);
        assert_eq!((numbers(&shares[2], "u"), numbers(&shares[0], "u")), (vec![0, 1], vec![2]));
        assert!(shares.iter().all(|share| numbers(share, "v").is_empty()), "nobody wants it");

        members[0].instance = Some("z".to_owned());
        let shares = Assignor::Range.share_out(&members, &counts(&[("t", 7)]));
        assert_eq!(numbers(&shares[0], "t"), [0, 1, 2], "static members come first");
    }

    /// Plays rebalances until nobody has to give up anything: what each has in the end.
    fn settle(members: &mut [Member], counts: &BTreeMap<Arc<str>, i32>) -> (Shares, usize) {
        for round in 1..10 {
            let shares = Assignor::CooperativeSticky.share_out(members, counts);
            let mut is_settled = true;
            for (member, share) in members.iter_mut().zip(&shares) {
                let before: BTreeSet<Share> = each(&member.subscription.owned_partitions).collect();
                is_settled &= before.is_subset(share);
                *member = owning(member.clone(), share, round);
            }
            let given: Vec<&Share> = shares.iter().flatten().collect();
            let different: BTreeSet<&Share> = given.iter().copied().collect();
            assert_eq!(given.len(), different.len(), "no partition has two readers");
            if is_settled {
                return (shares, round as usize);
            }
        }
        panic!("it does not settle");
    }

    /// Whoever comes gets its part from the others, who keep the rest; and at no time does a
    /// partition have two readers.
    #[test]
    fn who_comes_gets_its_part_and_the_others_keep_theirs() {
        let counts = counts(&[("t", 8), ("u", 4)]);
        let mut members = vec![member("a", &["t", "u"]), member("b", &["t", "u"])];
        let (before, rounds) = settle(&mut members, &counts);
        assert_eq!(rounds, 1, "nobody had anything");
        members.push(member("c", &["t", "u"]));
        let first = Assignor::CooperativeSticky.share_out(&members, &counts);
        assert!(first[2].is_empty(), "it has to be given up first");
        let (after, rounds) = settle(&mut members, &counts);
        assert_eq!(rounds, 2);
        assert_eq!(after.iter().map(BTreeSet::len).collect::<Vec<_>>(), [4, 4, 4]);
        assert!(after[0].is_subset(&before[0]) && after[1].is_subset(&before[1]));
    }

    /// Who was away too long claims what others have got since: the later generation is right, and
    /// of two that are equal nobody.
    #[test]
    fn an_old_claim_counts_for_nothing() {
        let counts = counts(&[("t", 2)]);
        let both: BTreeSet<Share> = all(&counts).into_iter().collect();
        let old = owning(member("a", &["t"]), &both, 3);
        let new = owning(member("b", &["t"]), &both, 4);
        let owned_by = |members: &[Member]| owned(members, &counts).into_values().collect();
        let owners: Vec<usize> = owned_by(&[old.clone(), new.clone()]);
        assert_eq!(owners, [1, 1]);
        let mut said_in_user_data = old.clone();
        said_in_user_data.subscription.generation_id = -1;
        said_in_user_data.subscription.user_data = Some(generation_as_user_data(5));
        let owners: Vec<usize> = owned_by(&[said_in_user_data, new.clone()]);
        assert_eq!(owners, [0, 0]);
        let equal = owning(old, &both, 4);
        let owners: Vec<usize> = owned_by(&[equal, new]);
        assert!(owners.is_empty());
    }

    /// A leader of a large group shares out while all its members wait: it took a look at everybody
    /// for each partition that moved, and another for each that did not.
    #[test]
    fn a_large_group_is_shared_out_at_once() {
        let counts = counts(&[("t", 5_000)]);
        let mut members = vec![member("m", &["t"])];
        settle(&mut members, &counts);
        members.extend((0..499).map(|number| member(&format!("n{number:03}"), &["t"])));
        let (shares, rounds) = settle(&mut members, &counts);
        assert_eq!(rounds, 2);
        assert!(shares.iter().all(|mine| mine.len() == 10));
    }

    /// Whatever the members want and have: each partition that somebody wants gets one reader, who
    /// wants it; nobody could take one more from another who has two more than it.
    #[test]
    fn everything_is_shared_out_evenly_whoever_comes_and_goes() {
        let mut random = Random::new(7);
        for _ in 0..300 {
            let counts = counts(&[("t", 7), ("u", 1), ("v", 12)]);
            let mut members: Vec<Member> = Vec::new();
            for change in 0..6 {
                if 1 < members.len() && random.below(3) == 0 {
                    members.remove(random.below(members.len()));
                } else {
                    let topics = ["t", "u", "v"].into_iter();
                    let topics: Vec<&str> = topics.filter(|_| random.below(3) != 0).collect();
                    members.push(member(&format!("m{change}"), &topics));
                }
                let (shares, _) = settle(&mut members, &counts);
                for (topic, number) in all(&counts) {
                    let wants =
                        |member: &Member| member.subscription.topics.contains(&topic.to_string());
                    let share = (topic.clone(), number);
                    let readers =
                        members.iter().zip(&shares).filter(|(_, mine)| mine.contains(&share));
                    let readers: Vec<_> = readers.collect();
                    assert_eq!(readers.len(), usize::from(members.iter().any(wants)));
                    assert!(readers.iter().all(|(reader, _)| wants(reader)));
                    for (reader, mine) in readers {
                        let poorer = members.iter().zip(&shares).find(|(other, theirs)| {
                            *other != reader && wants(other) && theirs.len() + 2 <= mine.len()
                        });
                        assert_eq!(poorer, None, "{share:?} could go from {}", reader.id);
                    }
                }
            }
        }
    }
}
