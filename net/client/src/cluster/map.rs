//! What a client knows of a cluster: the nodes, the topics, and who leads their partitions.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use tidemill_net::kafka::metadata::{MetadataResponse, MetadataResponseTopic};
use tidemill_net::kafka::{ErrorCode, LeaderHint};
use tidemill_record::TopicId;

use super::Address;
use crate::limits;

/// A topic, as last heard.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct TopicView {
    /// Its id; zero if the broker is too old to tell.
    pub id: TopicId,
    /// Whether it can be used.
    pub error: ErrorCode,
    /// Whether it belongs to the brokers themselves.
    pub is_internal: bool,
    /// Its partitions, by their numbers.
    pub partitions: Vec<PartitionView>,
}

/// A partition, as last heard.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct PartitionView {
    /// Whom to produce to and fetch from.
    pub leader: Option<i32>,
    /// The leader's epoch; -1 if not told.
    pub leader_epoch: i32,
    /// The nodes that are to hold a replica.
    pub replicas: Vec<i32>,
    /// Those of them that have everything committed.
    pub in_sync: Vec<i32>,
}

/// What a client knows of a cluster.
#[derive(Clone, Debug, Default)]
pub struct Map {
    cluster_id: Option<String>,
    controller: Option<i32>,
    nodes: BTreeMap<i32, Address>,
    racks: BTreeMap<i32, String>,
    topics: BTreeMap<Arc<str>, TopicView>,
    names: HashMap<TopicId, Arc<str>>,
}

impl Map {
    /// The name of the cluster, once known.
    pub fn cluster_id(&self) -> Option<&str> {
        self.cluster_id.as_deref()
    }

    /// The node that decides for the cluster.
    pub fn controller(&self) -> Option<i32> {
        self.controller
    }

    /// The nodes and where they listen.
    pub fn nodes(&self) -> &BTreeMap<i32, Address> {
        &self.nodes
    }

    /// Where a node is.
    pub fn rack(&self, node: i32) -> Option<&str> {
        self.racks.get(&node).map(String::as_str)
    }

    /// All topics known, by name.
    pub fn topics(&self) -> &BTreeMap<Arc<str>, TopicView> {
        &self.topics
    }

    /// A topic.
    pub fn topic(&self, name: &str) -> Option<&TopicView> {
        self.topics.get(name)
    }

    /// The name of the topic with this id.
    pub fn name_of(&self, id: TopicId) -> Option<&Arc<str>> {
        self.names.get(&id)
    }

    /// A partition, if it exists as far as we know.
    pub fn partition(&self, topic: &str, partition: i32) -> Option<&PartitionView> {
        let number = usize::try_from(partition).ok()?;
        self.topic(topic).and_then(|topic| topic.partitions.get(number))
    }

    /// The leader of a partition, if there is one that we can reach.
    pub fn leader(&self, topic: &str, partition: i32) -> Option<i32> {
        let leader = self.partition(topic, partition)?.leader?;
        self.nodes.contains_key(&leader).then_some(leader)
    }

    /// Takes in what a broker says. `all_topics`: what it does not name does not exist.
    pub(super) fn absorb(&mut self, answer: MetadataResponse, all_topics: bool) {
        self.cluster_id = answer.cluster_id.or(self.cluster_id.take());
        self.controller = Some(answer.controller_id).filter(|id| 0 <= *id);
        if !answer.brokers.is_empty() {
            self.nodes.clear();
            self.racks.clear();
        }
        for broker in answer.brokers.into_iter().take(limits::NODES_MAX) {
            let Ok(port) = u16::try_from(broker.port) else { continue };
            self.nodes.insert(broker.node_id, Address { host: Arc::from(broker.host), port });
            if let Some(rack) = broker.rack {
                self.racks.insert(broker.node_id, rack);
            }
        }
        let mut old = std::mem::take(&mut self.topics);
        if !all_topics {
            self.topics = old.clone();
        }
        for topic in answer.topics.into_iter().take(limits::TOPICS_MAX) {
            let Some(name) = topic.name.as_deref() else { continue };
            let known = old.remove(name);
            self.topics.insert(Arc::from(name), view(topic, known));
        }
        self.names = self.topics.iter().map(|(name, topic)| (topic.id, Arc::clone(name))).collect();
        self.names.remove(&TopicId::ZERO);
    }

    /// A broker that no longer leads has told who does, and where that is (KIP-951).
    pub(crate) fn take_hint(
        &mut self,
        topic: &str,
        partition: i32,
        hint: LeaderHint,
        address: Option<Address>,
    ) -> bool {
        if let Some(address) = address {
            self.nodes.insert(hint.leader_id, address);
        }
        let known = self.nodes.contains_key(&hint.leader_id);
        let number = usize::try_from(partition).ok();
        let topic = self.topics.get_mut(topic);
        let view = topic.zip(number).and_then(|(topic, n)| topic.partitions.get_mut(n));
        match view {
            Some(view) if known && view.leader_epoch < hint.leader_epoch => {
                view.leader = Some(hint.leader_id);
                view.leader_epoch = hint.leader_epoch;
                true
            }
            _ => false,
        }
    }

    /// Forgets the topics that nobody asks for any more.
    pub(super) fn keep_only(&mut self, wanted: impl Fn(&str) -> bool) {
        self.topics.retain(|name, _| wanted(name));
        self.names.retain(|_, name| wanted(name));
    }
}

/// A topic as told, except that leaders of an older epoch than we know are old news.
fn view(told: MetadataResponseTopic, known: Option<TopicView>) -> TopicView {
    let known = known.filter(|known| known.id == told.topic_id);
    let mut partitions = Vec::new();
    let mut sorted = told.partitions;
    sorted.sort_by_key(|partition| partition.partition_index);
    for partition in sorted {
        let in_order = usize::try_from(partition.partition_index) == Ok(partitions.len());
        if !in_order || limits::PARTITIONS_MAX <= partitions.len() {
            break;
        }
        let before = known.as_ref().and_then(|known| known.partitions.get(partitions.len()));
        let mut view = PartitionView {
            leader: Some(partition.leader_id).filter(|leader| 0 <= *leader),
            leader_epoch: partition.leader_epoch,
            replicas: partition.replica_nodes,
            in_sync: partition.isr_nodes,
        };
        if let Some(before) = before
            && 0 <= view.leader_epoch
            && view.leader_epoch < before.leader_epoch
        {
            (view.leader, view.leader_epoch) = (before.leader, before.leader_epoch);
        }
        partitions.push(view);
    }
    let TopicView { id, error, is_internal, .. } = TopicView {
        id: told.topic_id,
        error: told.error_code,
        is_internal: told.is_internal,
        partitions: Vec::new(),
    };
    TopicView { id, error, is_internal, partitions }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tidemill_net::kafka::metadata::{MetadataResponseBroker, MetadataResponsePartition};

    fn answer(id: u8, leader_id: i32, leader_epoch: i32) -> MetadataResponse {
        let broker = |node_id| MetadataResponseBroker {
            node_id,
            host: "b".to_owned(),
            port: 9000 + node_id,
            rack: None,
        };
        let partition = MetadataResponsePartition { leader_id, leader_epoch, ..Default::default() };
        MetadataResponse {
            brokers: vec![broker(1), broker(2)],
            topics: vec![MetadataResponseTopic {
                name: Some("t".to_owned()),
                topic_id: TopicId([id; 16]),
                partitions: vec![partition],
                ..Default::default()
            }],
            ..Default::default()
        }
    }

    /// A broker that is behind tells of an older leader; a deleted topic that was created anew
    /// begins with new epochs.
    #[test]
    fn old_leaders_are_old_news_unless_the_topic_is_new() {
        let mut map = Map::default();
        map.absorb(answer(1, 1, 5), false);
        assert_eq!(map.leader("t", 0), Some(1));
        map.absorb(answer(1, 2, 4), false);
        assert_eq!(map.leader("t", 0), Some(1), "an older epoch");
        map.absorb(answer(1, 2, 6), false);
        assert_eq!(map.leader("t", 0), Some(2));
        map.absorb(answer(9, 1, 0), false);
        assert_eq!(map.leader("t", 0), Some(1), "another topic of the same name");
        assert_eq!(map.name_of(TopicId([1; 16])), None);
    }

    /// KIP-951: whoever led before says who leads now, and where that is.
    #[test]
    fn hints_lead_to_the_new_leader_at_once() {
        let mut map = Map::default();
        map.absorb(answer(1, 1, 5), false);
        let new = LeaderHint { leader_id: 7, leader_epoch: 6 };
        assert!(!map.take_hint("t", 0, new, None), "nobody knows where 7 is");
        let address: Address = "c:1".parse().unwrap();
        assert!(map.take_hint("t", 0, new, Some(address)));
        assert_eq!(map.leader("t", 0), Some(7));
        let old = LeaderHint { leader_id: 1, leader_epoch: 5 };
        assert!(!map.take_hint("t", 0, old, None));
    }

    /// What an answer about all topics leaves out is gone; one about some says nothing of others.
    #[test]
    fn what_is_left_out_is_gone_only_if_all_was_asked_for() {
        let mut map = Map::default();
        map.absorb(answer(1, 1, 5), false);
        map.absorb(MetadataResponse::default(), false);
        assert!(map.topic("t").is_some());
        map.absorb(MetadataResponse::default(), true);
        assert!(map.topic("t").is_none());
        assert_eq!(map.nodes().len(), 2, "an answer without nodes is no cluster without nodes");
    }
}
