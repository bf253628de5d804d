//! Topics neither vanish nor return, and their partitions never become fewer.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tidemill_record::TopicId;
use tidemill_runtime::edge::Instant;

use super::{Verdict, Violation, check};

/// A change that one shard shows all others show before so long. The longest stall takes a second.
const CHANGE_SPREADS: Duration = Duration::from_secs(5);

/// A topic that is or was.
#[derive(Debug)]
pub struct Topic {
    /// Its name.
    pub name: String,
    /// How many partitions every listing must show: as many as a finished change has made, or a
    /// listing has shown for long enough.
    promised: i32,
    /// The most partitions any listing has shown, and since when. One shard may show a change
    /// before another has heard of it, as brokers of a cluster do.
    shown: (i32, Instant),
    /// Whether somebody asked to delete it.
    pub delete_asked: bool,
    /// Whether it was said to be deleted.
    pub deleted: bool,
    /// The highest leader epoch of each partition.
    epochs: BTreeMap<i32, i32>,
}

/// A topic as a listing shows it.
#[derive(Clone, Debug)]
pub struct Listed {
    /// Its name.
    pub name: String,
    /// Its id.
    pub id: TopicId,
    /// The leader epoch of each partition.
    pub epochs: Vec<i32>,
}

impl Topic {
    fn promised_at(&self, now: Instant) -> i32 {
        let (partitions, since) = self.shown;
        if since.after(CHANGE_SPREADS) <= now { partitions } else { self.promised }
    }
}

/// All topics that were ever heard of.
#[derive(Debug, Default)]
pub struct Topics {
    asked: BTreeMap<String, i32>,
    known: BTreeMap<TopicId, Topic>,
}

impl Topics {
    /// Somebody asks for a topic, or for more partitions of it.
    pub fn asking(&mut self, name: &str, partitions: i32) {
        let most = self.asked.entry(name.to_owned()).or_default();
        *most = (*most).max(partitions);
    }

    /// Somebody asks to delete a topic.
    pub fn asking_to_delete(&mut self, id: TopicId) {
        if let Some(topic) = self.known.get_mut(&id) {
            topic.delete_asked = true;
        }
    }

    /// A change that gave a topic so many partitions was said to be done.
    pub fn told(&mut self, name: &str, id: TopicId, partitions: i32, now: Instant) -> Verdict {
        let topic = self.shown(name, id, partitions, now)?;
        topic.promised = topic.promised.max(partitions);
        Ok(())
    }

    /// A topic was shown with so many partitions.
    fn shown(
        &mut self,
        name: &str,
        id: TopicId,
        partitions: i32,
        now: Instant,
    ) -> Result<&mut Topic, Violation> {
        let most = self.asked.get(name).copied().unwrap_or(0);
        check(partitions <= most, "no topic appears that nobody asked for", || {
            format!("{name} with {partitions} partitions, asked for {most}")
        })?;
        let topic = self.known.entry(id).or_insert_with(|| Topic {
            name: name.to_owned(),
            promised: 0,
            shown: (partitions, now),
            delete_asked: false,
            deleted: false,
            epochs: BTreeMap::new(),
        });
        check(topic.name == name, "a topic id names one topic for ever", || {
            format!("{id} was {} and now is {name}", topic.name)
        })?;
        if topic.shown.0 < partitions {
            topic.promised = topic.promised_at(now);
            topic.shown = (partitions, now);
        }
        Ok(topic)
    }

    /// A topic was said to be deleted.
    pub fn told_deleted(&mut self, id: TopicId) {
        if let Some(topic) = self.known.get_mut(&id) {
            topic.deleted = true;
        }
    }

    /// The topics that must be in a listing asked for now, those that must not be, and the
    /// partitions each must have.
    #[must_use]
    pub fn expected(&self, now: Instant) -> Expected {
        let must = self.known.iter().filter(|(_, topic)| !topic.delete_asked && !topic.deleted);
        let must_not = self.known.iter().filter(|(_, topic)| topic.deleted);
        Expected {
            present: must.map(|(id, topic)| (*id, topic.promised_at(now))).collect(),
            absent: must_not.map(|(id, _)| *id).collect(),
            epochs: self.known.iter().map(|(id, topic)| (*id, topic.epochs.clone())).collect(),
        }
    }

    /// All topics were listed, to a request sent when `expected` held.
    pub fn listed(&mut self, topics: &[Listed], expected: &Expected, now: Instant) -> Verdict {
        let names: BTreeSet<&str> = topics.iter().map(|topic| topic.name.as_str()).collect();
        check(names.len() == topics.len(), "a name belongs to one topic", || format!("{names:?}"))?;
        for topic in topics {
            check(!expected.absent.contains(&topic.id), "a deleted topic stays deleted", || {
                format!("{} ({})", topic.name, topic.id)
            })?;
            self.shown(&topic.name, topic.id, topic.epochs.len() as i32, now)?;
            self.listed_epochs(topic, expected)?;
        }
        for (id, partitions) in &expected.present {
            let found = topics.iter().find(|topic| topic.id == *id);
            // It may have been deleted since the request was sent.
            if !self.known[id].delete_asked {
                let count = found.map_or(0, |topic| topic.epochs.len() as i32);
                check(*partitions <= count, "a topic keeps its partitions", || {
                    format!("{} ({id}): {partitions}, then {count}", self.known[id].name)
                })?;
            }
        }
        Ok(())
    }

    fn listed_epochs(&mut self, topic: &Listed, expected: &Expected) -> Verdict {
        let known = self.known.get_mut(&topic.id).expect("just told");
        for (partition, epoch) in (0..).zip(&topic.epochs) {
            let before = expected.epochs.get(&topic.id).and_then(|epochs| epochs.get(&partition));
            check(
                before.is_none_or(|before| before <= epoch),
                "no leader epoch goes back",
                || format!("{}/{partition}: {before:?}, then {epoch}", topic.name),
            )?;
            let highest = known.epochs.entry(partition).or_insert(*epoch);
            *highest = (*highest).max(*epoch);
        }
        Ok(())
    }

    /// All topics ever heard of.
    pub fn iter(&self) -> impl Iterator<Item = (TopicId, &Topic)> {
        self.known.iter().map(|(id, topic)| (*id, topic))
    }

    /// The topic with this id, if it was heard of.
    #[must_use]
    pub fn get(&self, id: TopicId) -> Option<&Topic> {
        self.known.get(&id)
    }
}

/// What a listing must show.
#[derive(Clone, Debug, Default)]
pub struct Expected {
    present: BTreeMap<TopicId, i32>,
    absent: BTreeSet<TopicId>,
    epochs: BTreeMap<TopicId, BTreeMap<i32, i32>>,
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: TopicId = TopicId([1; 16]);
    const NOW: Instant = Instant { nanos: 0 };

    fn listed(epochs: &[i32]) -> Vec<Listed> {
        vec![Listed { name: "t".into(), id: ID, epochs: epochs.to_vec() }]
    }

    fn topics() -> Topics {
        let mut topics = Topics::default();
        topics.asking("t", 2);
        topics.told("t", ID, 2, NOW).unwrap();
        topics
    }

    fn rule(verdict: Verdict) -> &'static str {
        verdict.unwrap_err().rule
    }

    /// Bad history: a topic that was created is gone after a crash, or has lost a partition.
    #[test]
    fn a_vanished_topic_is_found() {
        let mut topics = topics();
        let expected = topics.expected(NOW);
        topics.listed(&listed(&[0, 0]), &expected, NOW).unwrap();
        assert_eq!(
            rule(topics.listed(&listed(&[0]), &expected, NOW)),
            "a topic keeps its partitions"
        );
        assert_eq!(rule(topics.listed(&[], &expected, NOW)), "a topic keeps its partitions");
    }

    /// Bad history: a shard that never hears of a change which another has shown. For a while it
    /// may not know.
    #[test]
    fn a_change_that_does_not_spread_is_found() {
        let mut topics = topics();
        topics.asking("t", 3);
        topics.listed(&listed(&[0, 0, 0]), &topics.expected(NOW), NOW).unwrap();
        topics.listed(&listed(&[0, 0]), &topics.expected(NOW), NOW).unwrap();
        let late = NOW.after(CHANGE_SPREADS);
        let found = topics.listed(&listed(&[0, 0]), &topics.expected(late), late);
        assert_eq!(rule(found), "a topic keeps its partitions");
    }

    /// Bad history: a deleted topic is back after a crash. On its way out it may or may not show.
    #[test]
    fn a_returned_topic_is_found() {
        let mut topics = topics();
        topics.asking_to_delete(ID);
        let expected = topics.expected(NOW);
        topics.listed(&listed(&[0, 0]), &expected, NOW).unwrap();
        topics.listed(&[], &expected, NOW).unwrap();
        topics.told_deleted(ID);
        let expected = topics.expected(NOW);
        let found = topics.listed(&listed(&[0, 0]), &expected, NOW);
        assert_eq!(rule(found), "a deleted topic stays deleted");
    }

    /// Bad history: a leader epoch that goes back, so that old appends could pass for new ones.
    #[test]
    fn a_falling_epoch_is_found() {
        let mut topics = topics();
        topics.listed(&listed(&[3, 3]), &topics.expected(NOW), NOW).unwrap();
        let expected = topics.expected(NOW);
        let found = topics.listed(&listed(&[3, 2]), &expected, NOW);
        assert_eq!(rule(found), "no leader epoch goes back");
    }

    /// Bad history: a topic nobody asked for.
    #[test]
    fn an_unasked_topic_is_found() {
        let found = Topics::default().listed(&listed(&[0]), &Expected::default(), NOW);
        assert_eq!(rule(found), "no topic appears that nobody asked for");
    }
}
