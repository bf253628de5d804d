//! Sharing out: once in each epoch, among all members.
//!
//! Each member that comes makes an epoch, so what is done here for each of the others is kept small:
//! those who want the same topics share one set of them, and only shares that change are made.
//!
//! Start reading at [`Draft::share_out`].

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tidemill_record::TopicId;
use tidemill_replication::metadata::Image;

use super::Consumer;
use super::heartbeat::Draft;
use super::topics::matching;
use crate::coordinator::assignment::{Partitions, Subscriber, assign};
use crate::coordinator::record::{ConsumerRecord, Subscription};
use crate::coordinator::request::MemberId;

impl Draft {
    /// Makes the shares of this epoch, if they are not made.
    pub(super) fn share_out(&mut self, early: Option<&MemberId>, image: &Image) {
        if self.group.assignment_epoch == self.group.epoch {
            return;
        }
        for (id, share) in self.group.changed_shares(early, image) {
            self.write(ConsumerRecord::Target(id, Some(share)));
        }
        self.write(ConsumerRecord::TargetEpoch(Some(self.group.epoch)));
    }
}

impl Consumer {
    /// The shares that are to be others than they are.
    fn changed_shares(
        &self,
        early: Option<&MemberId>,
        image: &Image,
    ) -> Vec<(MemberId, Partitions)> {
        let topics = self.topics_read(early, image);
        let counts = topics.into_iter().map(|(id, topic)| (id, topic.partitions.len() as i32));
        let topics: BTreeMap<TopicId, i32> = counts.collect();
        let subscribers = self.subscribers(early, image);
        let shares = assign(self.tally.assignor(), &subscribers, &topics);
        let changed = subscribers.iter().zip(shares).filter_map(|(subscriber, share)| {
            // Whoever has none yet has an empty one written down.
            let share = share.or_else(|| subscriber.before.is_none().then(Partitions::new))?;
            Some((Arc::clone(subscriber.member), share))
        });
        changed.collect()
    }

    /// All members, in the order of their names.
    fn subscribers(&self, early: Option<&MemberId>, image: &Image) -> Vec<Subscriber<'_>> {
        let mut wanted = Wanted { image, sets: BTreeMap::new(), last: None };
        let mut targets = self.targets.iter().peekable();
        let mut all = Vec::with_capacity(self.members.len());
        for (id, member) in self.members.iter() {
            while targets.next_if(|(other, _)| *other < id).is_some() {}
            let before = targets.next_if(|(other, _)| *other == id).map(|(_, share)| &**share);
            all.push(Subscriber {
                member: id,
                instance: member.wants.instance.as_ref(),
                topics: wanted.by(&member.wants, early != Some(id)),
                before,
            });
        }
        all
    }
}

/// Names and a pattern.
type Asked<'a> = (&'a [Arc<str>], Option<&'a str>);

/// The topics that members want and that there are.
struct Wanted<'a> {
    image: &'a Image,
    sets: BTreeMap<Asked<'a>, Arc<BTreeSet<TopicId>>>,
    last: Option<(Asked<'a>, Arc<BTreeSet<TopicId>>)>,
}

impl<'a> Wanted<'a> {
    fn by(&mut self, wants: &'a Subscription, pattern_counts: bool) -> Arc<BTreeSet<TopicId>> {
        let asked = (&wants.topics[..], wants.pattern().filter(|_| pattern_counts));
        // Members mostly want the same.
        if let Some((last, topics)) = &self.last
            && *last == asked
        {
            return Arc::clone(topics);
        }
        let topics = self.sets.entry(asked).or_insert_with(|| {
            let (names, pattern) = asked;
            let named = names.iter().filter_map(|name| self.image.topic_named(name));
            let matching = pattern.into_iter().flat_map(|regex| matching(regex, self.image));
            Arc::new(named.chain(matching).map(|topic| topic.id).collect())
        });
        self.last = Some((asked, Arc::clone(topics)));
        Arc::clone(topics)
    }
}
