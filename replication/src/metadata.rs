//! The cluster as a value: [`Image`], and the [`Record`]s that change it.
//!
//! [`Image::replay`] is the only way the image changes. Replaying the same records gives the same
//! image, on every node and after every start; a snapshot of the image replaces the records
//! before it.
//!
//! A partition's leader epoch is not stored but follows from the starts of the node that leads
//! it: the epoch when the leader was chosen, plus one for each start of that node since. So one
//! [`Record::NodeStarted`] raises all of them at once without touching any.

mod record;
mod snapshot;

pub use crate::wire::DecodeError;
pub use record::{Record, Resource};

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use tidemill_record::{LeaderEpoch, NodeId, PartitionId, ProducerId, TopicId};

use crate::identity::{ClusterId, DirectoryId, NodeEpoch};
use crate::limits::{CONFIGS_PER_RESOURCE_MAX, GROUPS_WITH_CONFIGS_MAX, PARTITIONS_PER_TOPIC_MAX};
use crate::quota::Quotas;

/// Config overrides of one resource, by name.
pub type Configs = BTreeMap<String, String>;

/// All that the cluster has agreed on.
///
/// A clone is cheap (topics are shared until one of them changes), so each shard may hold one.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Image {
    cluster: ClusterId,
    records_replayed: u64,
    nodes: BTreeMap<NodeId, Node>,
    topics: BTreeMap<TopicId, Arc<Topic>>,
    ids: BTreeMap<Arc<str>, TopicId>,
    /// Names with `.` or `_`, keyed with all `.` replaced by `_`: in metrics they look alike.
    alike: BTreeMap<String, TopicId>,
    tombstones: BTreeMap<TopicId, Tombstone>,
    cluster_configs: Configs,
    node_configs: BTreeMap<NodeId, Configs>,
    /// Of groups that have any; shared until one of them changes.
    group_configs: Arc<BTreeMap<Arc<str>, Configs>>,
    quotas: Arc<Quotas>,
    next_producer_id: i64,
    partitions_count: usize,
}

/// A node, as of its last start.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Node {
    /// How often it has started.
    pub epoch: NodeEpoch,
    /// The data directory it started on.
    pub directory: DirectoryId,
    /// How many shards it runs.
    pub shards: u16,
}

/// A topic that exists.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Topic {
    /// Its name for life.
    pub id: TopicId,
    /// Its name for clients, unique among the topics that exist.
    pub name: Arc<str>,
    /// Its partitions; the index is the partition's number.
    pub partitions: Vec<Partition>,
    /// What differs from the broker's defaults.
    pub configs: Configs,
}

/// One partition: who holds it and who leads it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Partition {
    /// The assigned replicas, the preferred leader first.
    pub replicas: Box<[NodeId]>,
    /// The node that leads it.
    pub leader: NodeId,
    /// The leader epoch when `leader` was chosen.
    epoch_base: i32,
    /// The leader's node epoch at that time.
    node_epoch_base: NodeEpoch,
}

/// A topic that was deleted but may have files left.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Tombstone {
    /// The name it had; another topic may have it now.
    pub name: Arc<str>,
    /// How many partitions it had.
    pub partitions: u32,
}

/// Why a record does not follow from the image: the log it came from is not this image's.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum ReplayError {
    /// The cluster was made before.
    ClusterExists,
    /// A node started, but its epoch is not above that of its last start.
    NodeEpochNotRaised {
        /// Which node.
        node: NodeId,
        /// Its epoch in the image.
        current: NodeEpoch,
        /// Its epoch in the record.
        found: NodeEpoch,
    },
    /// A topic of this id exists or is a tombstone.
    TopicIdTaken(TopicId),
    /// A topic of this name exists, or of one that metrics cannot tell from it.
    TopicNameTaken(String),
    /// No topic of this id exists.
    UnknownTopic(TopicId),
    /// A topic must have partitions, within bounds, and their number only grows.
    PartitionCount {
        /// Which topic.
        topic: TopicId,
        /// How many it has.
        current: usize,
        /// How many it shall have.
        found: usize,
    },
    /// A partition must have replicas, all different.
    Replicas(TopicId),
    /// More overrides than one resource may have, or more groups with overrides than there may be.
    TooManyConfigs(Resource),
    /// More users and clients than may have quotas, or one that is neither.
    Quota,
    /// Producer ids are granted in order, each once.
    ProducerIds {
        /// The next to be granted.
        next: i64,
        /// The first of this grant.
        first: i64,
    },
}

impl Image {
    /// The cluster's id; all zero before the first record.
    #[must_use]
    pub fn cluster(&self) -> ClusterId {
        self.cluster
    }

    /// How many records this image has replayed since the cluster was made: its version.
    #[must_use]
    pub fn records_replayed(&self) -> u64 {
        self.records_replayed
    }

    /// A node by its id.
    #[must_use]
    pub fn node(&self, id: NodeId) -> Option<&Node> {
        self.nodes.get(&id)
    }

    /// All nodes, by id.
    pub fn nodes(&self) -> impl Iterator<Item = (NodeId, &Node)> {
        self.nodes.iter().map(|(&id, node)| (id, node))
    }

    /// A topic by its id.
    #[must_use]
    pub fn topic(&self, id: TopicId) -> Option<&Arc<Topic>> {
        self.topics.get(&id)
    }

    /// A topic by its name.
    #[must_use]
    pub fn topic_named(&self, name: &str) -> Option<&Arc<Topic>> {
        self.topics.get(self.ids.get(name)?)
    }

    /// All topics, in the order of their names.
    pub fn topics(&self) -> impl Iterator<Item = &Arc<Topic>> {
        self.ids.values().map(|id| &self.topics[id])
    }

    /// How many topics exist.
    #[must_use]
    pub fn topics_count(&self) -> usize {
        self.topics.len()
    }

    /// How many partitions all topics have together.
    #[must_use]
    pub fn partitions_count(&self) -> usize {
        self.partitions_count
    }

    /// The existing topic whose name is `name` but for `.` and `_` being taken for the same.
    #[must_use]
    pub fn topic_alike(&self, name: &str) -> Option<&Arc<Topic>> {
        self.topics.get(self.alike.get(&alike_key(name)?)?)
    }

    /// Topics deleted whose files may not all be gone.
    pub fn tombstones(&self) -> impl Iterator<Item = (TopicId, &Tombstone)> {
        self.tombstones.iter().map(|(&id, tombstone)| (id, tombstone))
    }

    /// Whether a topic was deleted and its deletion has not been reported finished.
    #[must_use]
    pub fn is_tombstone(&self, id: TopicId) -> bool {
        self.tombstones.contains_key(&id)
    }

    /// The leader epoch of a partition. It rises with each start of the node that leads it, so no
    /// process appends under an epoch that an earlier process held.
    #[must_use]
    pub fn leader_epoch(&self, topic: TopicId, partition: PartitionId) -> Option<LeaderEpoch> {
        let topic = self.topics.get(&topic)?;
        let partition = topic.partitions.get(usize::try_from(partition.0).ok()?)?;
        Some(self.leader_epoch_of(partition))
    }

    /// The leader epoch of a partition at hand.
    #[must_use]
    pub fn leader_epoch_of(&self, partition: &Partition) -> LeaderEpoch {
        let starts = self.node_epoch(partition.leader).0 - partition.node_epoch_base.0;
        LeaderEpoch(partition.epoch_base.saturating_add_unsigned(starts))
    }

    /// A node's epoch; 0 if it never started.
    #[must_use]
    pub fn node_epoch(&self, node: NodeId) -> NodeEpoch {
        self.nodes.get(&node).map_or(NodeEpoch(0), |node| node.epoch)
    }

    /// Overrides for all nodes.
    #[must_use]
    pub fn cluster_configs(&self) -> &Configs {
        &self.cluster_configs
    }

    /// Overrides for one node.
    #[must_use]
    pub fn node_configs(&self, node: NodeId) -> &Configs {
        static NONE: Configs = Configs::new();
        self.node_configs.get(&node).unwrap_or(&NONE)
    }

    /// Overrides for one group.
    #[must_use]
    pub fn group_configs(&self, group: &str) -> &Configs {
        static NONE: Configs = Configs::new();
        self.group_configs.get(group).unwrap_or(&NONE)
    }

    /// All groups with overrides, by name.
    pub fn groups_with_configs(&self) -> impl ExactSizeIterator<Item = (&Arc<str>, &Configs)> {
        self.group_configs.iter()
    }

    /// The overrides of a resource; none if there is no such topic.
    #[must_use]
    pub fn configs(&self, resource: &Resource) -> Option<&Configs> {
        match resource {
            Resource::Topic(id) => self.topics.get(id).map(|topic| &topic.configs),
            Resource::Node(id) => Some(self.node_configs(*id)),
            Resource::Cluster => Some(&self.cluster_configs),
            Resource::Group(name) => Some(self.group_configs(name)),
        }
    }

    /// The quotas of users and clients.
    #[must_use]
    pub fn quotas(&self) -> &Quotas {
        &self.quotas
    }

    /// The first producer id that nobody was granted.
    #[must_use]
    pub fn next_producer_id(&self) -> ProducerId {
        ProducerId(self.next_producer_id)
    }

    /// Lets `record` have happened. On an error the image is as it was before.
    pub fn replay(&mut self, record: &Record) -> Result<(), ReplayError> {
        match record {
            Record::ClusterCreated { cluster } => self.replay_cluster(*cluster)?,
            Record::NodeStarted { node, node_epoch, directory, shards } => {
                let started = Node { epoch: *node_epoch, directory: *directory, shards: *shards };
                self.replay_node(*node, started)?;
            }
            Record::TopicCreated { id, name, partitions, configs } => {
                self.replay_topic(*id, name, partitions, configs)?;
            }
            Record::PartitionsAdded { topic, new_count, partitions } => {
                self.replay_partitions(*topic, *new_count as usize, partitions)?;
            }
            Record::TopicDeleted { id } => self.replay_deletion(*id)?,
            Record::TopicDeletionFinished { id } => {
                self.tombstones.remove(id).ok_or(ReplayError::UnknownTopic(*id))?;
            }
            Record::ConfigChanged { resource, name, value } => {
                self.replay_config(resource, name, value.as_deref())?;
            }
            Record::ProducerIdsGranted { first, count } => {
                self.replay_producer_ids(*first, *count)?;
            }
            Record::QuotaChanged { entity, bound, rate } => {
                let named = entity.user.is_some() || entity.client.is_some();
                if !named || !self.quotas.fits(entity, *rate) {
                    return Err(ReplayError::Quota);
                }
                Arc::make_mut(&mut self.quotas).set(entity, *bound, *rate);
            }
        }
        self.records_replayed += 1;
        Ok(())
    }

    fn replay_cluster(&mut self, cluster: ClusterId) -> Result<(), ReplayError> {
        if self.cluster != ClusterId::default() {
            return Err(ReplayError::ClusterExists);
        }
        self.cluster = cluster;
        Ok(())
    }

    fn replay_node(&mut self, id: NodeId, started: Node) -> Result<(), ReplayError> {
        let current = self.node_epoch(id);
        if started.epoch <= current {
            let found = started.epoch;
            return Err(ReplayError::NodeEpochNotRaised { node: id, current, found });
        }
        self.nodes.insert(id, started);
        Ok(())
    }

    fn replay_topic(
        &mut self,
        id: TopicId,
        name: &str,
        partitions: &[Vec<NodeId>],
        configs: &[(String, String)],
    ) -> Result<(), ReplayError> {
        if id.is_zero() || self.topics.contains_key(&id) || self.tombstones.contains_key(&id) {
            return Err(ReplayError::TopicIdTaken(id));
        }
        if self.ids.contains_key(name) || self.topic_alike(name).is_some() {
            return Err(ReplayError::TopicNameTaken(name.to_owned()));
        }
        if partitions.is_empty() || PARTITIONS_PER_TOPIC_MAX < partitions.len() {
            let found = partitions.len();
            return Err(ReplayError::PartitionCount { topic: id, current: 0, found });
        }
        if CONFIGS_PER_RESOURCE_MAX < configs.len() {
            return Err(ReplayError::TooManyConfigs(Resource::Topic(id)));
        }
        let partitions = self.new_partitions(id, partitions)?;
        let configs = configs.iter().cloned().collect();

        self.partitions_count += partitions.len();
        let name: Arc<str> = name.into();
        self.ids.insert(Arc::clone(&name), id);
        if let Some(key) = alike_key(&name) {
            self.alike.insert(key, id);
        }
        self.topics.insert(id, Arc::new(Topic { id, name, partitions, configs }));
        Ok(())
    }

    fn new_partitions(
        &self,
        topic: TopicId,
        assigned: &[Vec<NodeId>],
    ) -> Result<Vec<Partition>, ReplayError> {
        let partition_of = |replicas: &Vec<NodeId>| {
            let distinct = (1..replicas.len()).all(|i| !replicas[..i].contains(&replicas[i]));
            let leader = *replicas.first().filter(|_| distinct)?;
            Some(Partition {
                replicas: replicas.as_slice().into(),
                leader,
                epoch_base: 0,
                node_epoch_base: self.node_epoch(leader),
            })
        };
        assigned.iter().map(|r| partition_of(r).ok_or(ReplayError::Replicas(topic))).collect()
    }

    fn replay_partitions(
        &mut self,
        id: TopicId,
        new_count: usize,
        added: &[Vec<NodeId>],
    ) -> Result<(), ReplayError> {
        let topic = self.topics.get(&id).ok_or(ReplayError::UnknownTopic(id))?;
        let current = topic.partitions.len();
        let fits = !added.is_empty() && new_count <= PARTITIONS_PER_TOPIC_MAX;
        if !fits || current + added.len() != new_count {
            return Err(ReplayError::PartitionCount { topic: id, current, found: new_count });
        }
        let added = self.new_partitions(id, added)?;
        self.partitions_count += added.len();
        let topic = self.topics.get_mut(&id).expect("found above");
        Arc::make_mut(topic).partitions.extend(added);
        Ok(())
    }

    fn replay_deletion(&mut self, id: TopicId) -> Result<(), ReplayError> {
        let topic = self.topics.remove(&id).ok_or(ReplayError::UnknownTopic(id))?;
        self.ids.remove(&topic.name);
        if let Some(key) = alike_key(&topic.name) {
            self.alike.remove(&key);
        }
        self.partitions_count -= topic.partitions.len();
        let partitions = topic.partitions.len() as u32;
        self.tombstones.insert(id, Tombstone { name: Arc::clone(&topic.name), partitions });
        Ok(())
    }

    fn replay_config(
        &mut self,
        resource: &Resource,
        name: &str,
        value: Option<&str>,
    ) -> Result<(), ReplayError> {
        let current = match resource {
            Resource::Topic(id) => {
                self.topics.get(id).map(|t| &t.configs).ok_or(ReplayError::UnknownTopic(*id))?
            }
            Resource::Node(id) => self.node_configs(*id),
            Resource::Cluster => &self.cluster_configs,
            Resource::Group(group) => self.group_configs(group),
        };
        let grows = value.is_some() && !current.contains_key(name);
        let is_new_group = matches!(resource, Resource::Group(_)) && current.is_empty() && grows;
        if grows && CONFIGS_PER_RESOURCE_MAX <= current.len()
            || is_new_group && GROUPS_WITH_CONFIGS_MAX <= self.group_configs.len()
        {
            return Err(ReplayError::TooManyConfigs(resource.clone()));
        }
        let configs = match resource {
            Resource::Topic(id) => {
                &mut Arc::make_mut(self.topics.get_mut(id).expect("found above")).configs
            }
            Resource::Node(id) => self.node_configs.entry(*id).or_default(),
            Resource::Cluster => &mut self.cluster_configs,
            Resource::Group(group) => {
                Arc::make_mut(&mut self.group_configs).entry(Arc::clone(group)).or_default()
            }
        };
        match value {
            Some(value) => configs.insert(name.to_owned(), value.to_owned()),
            None => configs.remove(name),
        };
        let is_empty = configs.is_empty();
        // An image has one form: that of a snapshot, which knows no empty set of overrides.
        match resource {
            Resource::Node(id) if is_empty => {
                self.node_configs.remove(id);
            }
            Resource::Group(group) if is_empty => {
                Arc::make_mut(&mut self.group_configs).remove(group);
            }
            _ => {}
        }
        Ok(())
    }

    fn replay_producer_ids(&mut self, first: i64, count: i64) -> Result<(), ReplayError> {
        let error = ReplayError::ProducerIds { next: self.next_producer_id, first };
        if first != self.next_producer_id || count <= 0 {
            return Err(error);
        }
        self.next_producer_id = first.checked_add(count).ok_or(error)?;
        Ok(())
    }
}

/// The key under which `name` meets the names that metrics cannot tell from it; none if it has
/// neither `.` nor `_`.
fn alike_key(name: &str) -> Option<String> {
    name.contains(['.', '_']).then(|| name.replace('.', "_"))
}

impl fmt::Display for ReplayError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ClusterExists => write!(f, "the cluster was made before"),
            Self::NodeEpochNotRaised { node, current, found } => {
                write!(f, "node {node} started with epoch {found}, not above {current}")
            }
            Self::TopicIdTaken(id) => write!(f, "topic id {id} is taken"),
            Self::TopicNameTaken(name) => write!(f, "topic name {name:?} is taken"),
            Self::UnknownTopic(id) => write!(f, "there is no topic {id}"),
            Self::PartitionCount { topic, current, found } => {
                write!(f, "topic {topic} cannot go from {current} to {found} partitions")
            }
            Self::Replicas(id) => write!(f, "topic {id} has a partition without valid replicas"),
            Self::TooManyConfigs(resource) => write!(f, "too many configs on {resource}"),
            Self::Quota => write!(f, "too many quotas, or one for nobody"),
            Self::ProducerIds { next, first } => {
                write!(f, "producer ids from {first} were granted, {next} is next")
            }
        }
    }
}

impl std::error::Error for ReplayError {}
