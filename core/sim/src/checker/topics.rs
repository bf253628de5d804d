//! Topics neither vanish nor return, and their partitions never become fewer.

use std::collections::{BTreeMap, BTreeSet};

use tidemill_record::TopicId;

use super::{Verdict, check};

/// A topic that is or was.
#[derive(Debug)]
pub struct Topic {
    /// Its name.
    pub name: String,
    /// How many partitions it had at least, as far as anybody was told.
    pub partitions: i32,
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

    /// A topic was said to exist with so many partitions.
    pub fn told(&mut self, name: &str, id: TopicId, partitions: i32) -> Verdict {
        let most = self.asked.get(name).copied().unwrap_or(0);
        check(partitions <= most, "no topic appears that nobody asked for", || {
            format!("{name} with {partitions} partitions, asked for {most}")
        })?;
        let topic = self.known.entry(id).or_insert_with(|| Topic {
            name: name.to_owned(),
            partitions,
            delete_asked: false,
            deleted: false,
            epochs: BTreeMap::new(),
        });
        check(topic.name == name, "a topic id names one topic for ever", || {
            format!("{id} was {} and now is {name}", topic.name)
        })?;
        topic.partitions = topic.partitions.max(partitions);
        Ok(())
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
    pub fn expected(&self) -> Expected {
        let must = self.known.iter().filter(|(_, topic)| !topic.delete_asked && !topic.deleted);
        let must_not = self.known.iter().filter(|(_, topic)| topic.deleted);
        Expected {
            present: must.map(|(id, topic)| (*id, topic.partitions)).collect(),
            absent: must_not.map(|(id, _)| *id).collect(),
            epochs: self.known.iter().map(|(id, topic)| (*id, topic.epochs.clone())).collect(),
        }
    }

    /// All topics were listed, to a request sent when `expected` held.
    pub fn listed(&mut self, topics: &[Listed], expected: &Expected) -> Verdict {
        let names: BTreeSet<&str> = topics.iter().map(|topic| topic.name.as_str()).collect();
        check(names.len() == topics.len(), "a name belongs to one topic", || format!("{names:?}"))?;
        for topic in topics {
            check(!expected.absent.contains(&topic.id), "a deleted topic stays deleted", || {
                format!("{} ({})", topic.name, topic.id)
            })?;
            self.told(&topic.name, topic.id, topic.epochs.len() as i32)?;
            self.listed_epochs(topic, expected)?;
        }
        for (id, partitions) in &expected.present {
            let found = topics.iter().find(|topic| topic.id == *id);
            // It may have been deleted since the request was sent.
            if !self.known[id].delete_asked {
                let count = found.map(|topic| topic.epochs.len() as i32);
                check(Some(*partitions) <= count, "a topic keeps its partitions", || {
                    format!("{} ({id}): {partitions}, then {count:?}", self.known[id].name)
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

    fn listed(epochs: &[i32]) -> Vec<Listed> {
        vec![Listed { name: "t".into(), id: ID, epochs: epochs.to_vec() }]
    }

    fn topics() -> Topics {
        let mut topics = Topics::default();
        topics.asking("t", 2);
        topics.told("t", ID, 2).unwrap();
        topics
    }

    fn rule(verdict: Verdict) -> &'static str {
        verdict.unwrap_err().rule
    }

    /// Bad history: a topic that was created is gone after a crash, or has lost a partition.
    #[test]
    fn a_vanished_topic_is_found() {
        let mut topics = topics();
        let expected = topics.expected();
        topics.listed(&listed(&[0, 0]), &expected).unwrap();
        assert_eq!(rule(topics.listed(&listed(&[0]), &expected)), "a topic keeps its partitions");
        assert_eq!(rule(topics.listed(&[], &expected)), "a topic keeps its partitions");
    }

    /// Bad history: a deleted topic is back after a crash. On its way out it may or may not show.
    #[test]
    fn a_returned_topic_is_found() {
        let mut topics = topics();
        topics.asking_to_delete(ID);
        let expected = topics.expected();
        topics.listed(&listed(&[0, 0]), &expected).unwrap();
        topics.listed(&[], &expected).unwrap();
        topics.told_deleted(ID);
        let expected = topics.expected();
        let found = topics.listed(&listed(&[0, 0]), &expected);
        assert_eq!(rule(found), "a deleted topic stays deleted");
    }

    /// Bad history: a leader epoch that goes back, so that old appends could pass for new ones.
    #[test]
    fn a_falling_epoch_is_found() {
        let mut topics = topics();
        topics.listed(&listed(&[3, 3]), &topics.expected()).unwrap();
        let expected = topics.expected();
        let found = topics.listed(&listed(&[3, 2]), &expected);
        assert_eq!(rule(found), "no leader epoch goes back");
    }

    /// Bad history: a topic nobody asked for.
    #[test]
    fn an_unasked_topic_is_found() {
        let found = Topics::default().listed(&listed(&[0]), &Expected::default());
        assert_eq!(rule(found), "no topic appears that nobody asked for");
    }
}
