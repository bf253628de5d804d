//! Decisions: a request and the image in, records or a refusal out.
//!
//! Nothing changes here: the records are proposed to the log, and replayed when committed. A
//! decision holds for the image it was made from, so whoever decides either makes one change at a
//! time, or decides with an image of its own that replays at once what it proposes. (If the log
//! fails nothing is decided any more, so such an image is never wrong.)
//!
//! Errors correspond to Kafka's one to one.

mod configs;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use tidemill_record::{NodeId, ProducerId, TopicId};

use crate::identity::{self, DirectoryId, NodeEpoch};
use crate::limits::{
    PARTITIONS_PER_TOPIC_MAX, PRODUCER_IDS_PER_GRANT, REPLICAS_MAX, TOPIC_NAME_BYTES_MAX,
};
use crate::metadata::{Image, Record};

use self::configs::new_topic_configs;
pub use self::configs::{
    ConfigChange, ConfigOperation, decide_alter_configs, decide_replace_configs, node_layers,
    resolve_topic_config, topic_layers,
};

/// Why a request is refused. Each variant is one of Kafka's error codes.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Error {
    /// UNKNOWN_TOPIC_OR_PARTITION: there is no topic of this name.
    UnknownTopic,
    /// INVALID_TOPIC_EXCEPTION: no topic can have this name.
    InvalidTopicName(String),
    /// TOPIC_ALREADY_EXISTS.
    TopicExists(String),
    /// INVALID_PARTITIONS: not a number of partitions this topic can have.
    InvalidPartitions(String),
    /// INVALID_REPLICATION_FACTOR: more replicas than nodes, or none.
    InvalidReplicationFactor(String),
    /// INVALID_REPLICA_ASSIGNMENT: the replicas asked for cannot be.
    InvalidReplicaAssignment(String),
    /// INVALID_CONFIG: an unknown config or a value it cannot take.
    InvalidConfig(String),
    /// INVALID_REQUEST: the request contradicts itself.
    InvalidRequest(String),
    /// UNKNOWN_TOPIC_ID: there is no topic of this id.
    UnknownTopicId,
}

/// What new topics get where the request does not say, and the bounds they are held to.
#[derive(Clone, Debug)]
pub struct Defaults {
    /// `num.partitions`.
    pub partitions: u32,
    /// `default.replication.factor`.
    pub replication_factor: u16,
    /// The most partitions of all topics together.
    pub partitions_max: usize,
}

/// A topic to be made.
#[derive(Clone, Debug, Default)]
pub struct CreateTopic {
    /// Its name.
    pub name: String,
    /// How many partitions; -1 for the default.
    pub partitions: i32,
    /// How many replicas each; -1 for the default.
    pub replication_factor: i16,
    /// Each partition's replicas; if any are given, both numbers above are -1.
    pub assignments: Vec<(i32, Vec<NodeId>)>,
    /// Its overrides.
    pub configs: Vec<(String, Option<String>)>,
}

/// The first record of a node's start; it is committed before the node appends anything.
#[must_use]
pub fn decide_node_start(
    image: &Image,
    node: NodeId,
    directory: DirectoryId,
    shards: u16,
) -> Record {
    let node_epoch = NodeEpoch(image.node_epoch(node).0 + 1);
    Record::NodeStarted { node, node_epoch, directory, shards }
}

/// A block of producer ids that nobody else gets: the first one and how many.
#[must_use]
pub fn decide_producer_ids(image: &Image) -> Record {
    let ProducerId(first) = image.next_producer_id();
    Record::ProducerIdsGranted { first, count: PRODUCER_IDS_PER_GRANT }
}

/// The topic in which groups keep their members and their offsets.
pub const OFFSETS_TOPIC: &str = "__consumer_offsets";

/// The topic in which transactional ids keep their producers and what these have open.
pub const TRANSACTIONS_TOPIC: &str = "__transaction_state";

/// The topic in which it is kept what share groups have read.
pub const SHARE_STATE_TOPIC: &str = "__share_group_state";

/// Whether a topic is the broker's own. Clients may read it, and change nothing about it that the
/// broker relies on.
#[must_use]
pub fn is_internal(name: &str) -> bool {
    [OFFSETS_TOPIC, TRANSACTIONS_TOPIC, SHARE_STATE_TOPIC].contains(&name)
}

fn check_not_internal(name: &str) -> Result<(), Error> {
    match is_internal(name) {
        true => Err(Error::InvalidRequest(format!("{name} belongs to the broker itself"))),
        false => Ok(()),
    }
}

/// A topic of the broker's own. Its configs are not held to what clients may set.
pub fn decide_internal_topic(
    image: &Image,
    request: &CreateTopic,
    configs: Vec<(String, String)>,
    defaults: &Defaults,
    seed: u128,
) -> Result<Record, Error> {
    assert!(is_internal(&request.name) && request.configs.is_empty());
    let mut batch = Batch { image, defaults, seed, ids: BTreeSet::new(), partitions: 0 };
    match batch.decide(request)? {
        Record::TopicCreated { id, name, partitions, .. } => {
            Ok(Record::TopicCreated { id, name, partitions, configs })
        }
        other => unreachable!("a topic was to be made, not {other:?}"),
    }
}

/// New topics: for each, its record or why there will be none. `seed` is 128 fresh random bits.
#[must_use]
pub fn decide_create_topics(
    image: &Image,
    requests: &[CreateTopic],
    defaults: &Defaults,
    seed: u128,
) -> Vec<Result<Record, Error>> {
    let mut batch = Batch { image, defaults, seed, ids: BTreeSet::new(), partitions: 0 };
    let mut named: BTreeMap<String, usize> = BTreeMap::new();
    for request in requests {
        *named.entry(request.name.replace('.', "_")).or_default() += 1;
    }
    let mut decide = |request: &CreateTopic| {
        if 1 < named[&request.name.replace('.', "_")] {
            let why = format!("topic {:?}, or one like it, is named twice", request.name);
            return Err(Error::InvalidRequest(why));
        }
        check_not_internal(&request.name)?;
        batch.decide(request)
    };
    requests.iter().map(&mut decide).collect()
}

/// Topics made by one request.
struct Batch<'a> {
    image: &'a Image,
    defaults: &'a Defaults,
    seed: u128,
    ids: BTreeSet<TopicId>,
    partitions: usize,
}

impl Batch<'_> {
    fn decide(&mut self, request: &CreateTopic) -> Result<Record, Error> {
        check_topic_name(&request.name)?;
        if self.image.topic_named(&request.name).is_some() {
            return Err(Error::TopicExists(format!("topic {:?} exists", request.name)));
        }
        if let Some(other) = self.image.topic_alike(&request.name) {
            let why = format!(
                "{:?} and the existing {:?} differ only in '.' and '_', which metrics cannot tell",
                request.name, other.name
            );
            return Err(Error::InvalidTopicName(why));
        }
        let partitions = self.assign(request)?;
        check_total(self.image, self.partitions + partitions.len(), self.defaults)?;
        let configs = new_topic_configs(&request.configs)?;

        self.partitions += partitions.len();
        Ok(Record::TopicCreated {
            id: self.next_id(),
            name: request.name.clone(),
            partitions,
            configs,
        })
    }

    fn assign(&self, request: &CreateTopic) -> Result<Vec<Vec<NodeId>>, Error> {
        if !request.assignments.is_empty() {
            return assigned_by_hand(self.image, request);
        }
        let count = match request.partitions {
            -1 => self.defaults.partitions as usize,
            count => usize::try_from(count).unwrap_or(0),
        };
        if !(1..=PARTITIONS_PER_TOPIC_MAX).contains(&count) {
            let why = format!("a topic has from 1 to {PARTITIONS_PER_TOPIC_MAX} partitions");
            return Err(Error::InvalidPartitions(why));
        }
        let factor = match request.replication_factor {
            -1 => usize::from(self.defaults.replication_factor),
            factor => usize::try_from(factor).unwrap_or(0),
        };
        let nodes = self.image.nodes().count();
        if factor == 0 || nodes.min(REPLICAS_MAX) < factor {
            let why = format!("replicas asked for: {factor}, nodes available: {nodes}");
            return Err(Error::InvalidReplicationFactor(why));
        }
        Ok(spread(self.image, 0, count, factor))
    }

    fn next_id(&mut self) -> TopicId {
        loop {
            self.seed = mix(self.seed);
            let id = identity::topic_id(self.seed);
            let is_known = self.image.topic(id).is_some() || self.image.is_tombstone(id);
            if !is_known && self.ids.insert(id) {
                return id;
            }
        }
    }
}

/// More partitions for a topic.
pub fn decide_create_partitions(
    image: &Image,
    topic: &str,
    new_count: i32,
    assignments: Option<&[Vec<NodeId>]>,
    defaults: &Defaults,
) -> Result<Record, Error> {
    let topic = image.topic_named(topic).ok_or(Error::UnknownTopic)?;
    // Which partition a group belongs to follows from their number.
    check_not_internal(&topic.name)?;
    let current = topic.partitions.len();
    let count = usize::try_from(new_count).unwrap_or(0);
    if count <= current || PARTITIONS_PER_TOPIC_MAX < count {
        let why = format!(
            "partitions there are: {current}; the new number must be above that and at most \
             {PARTITIONS_PER_TOPIC_MAX}"
        );
        return Err(Error::InvalidPartitions(why));
    }
    check_total(image, count - current, defaults)?;
    let factor = topic.partitions[0].replicas.len();
    let partitions = match assignments {
        None => spread(image, current, count - current, factor),
        Some(assigned) if assigned.len() != count - current => {
            let (given, needed) = (assigned.len(), count - current);
            let why = format!("{given} assignments for {needed} new partitions");
            return Err(Error::InvalidReplicaAssignment(why));
        }
        Some(assigned) => {
            assigned.iter().try_for_each(|replicas| check_replicas(image, replicas, factor))?;
            assigned.to_vec()
        }
    };
    Ok(Record::PartitionsAdded { topic: topic.id, new_count: count as u32, partitions })
}

/// The end of a topic, by its name.
pub fn decide_delete_topic(image: &Image, name: &str) -> Result<Record, Error> {
    let topic = image.topic_named(name).ok_or(Error::UnknownTopic)?;
    check_not_internal(&topic.name)?;
    Ok(Record::TopicDeleted { id: topic.id })
}

/// The end of a topic, by its id.
pub fn decide_delete_topic_id(image: &Image, id: TopicId) -> Result<Record, Error> {
    let topic = image.topic(id).ok_or(Error::UnknownTopicId)?;
    check_not_internal(&topic.name)?;
    Ok(Record::TopicDeleted { id })
}

/// The end of a deletion: all files are gone. None if that was reported before.
#[must_use]
pub fn decide_deletion_finished(image: &Image, id: TopicId) -> Option<Record> {
    image.is_tombstone(id).then_some(Record::TopicDeletionFinished { id })
}

/// Whether a topic can have this name.
#[must_use]
pub fn is_valid_topic_name(name: &str) -> bool {
    check_topic_name(name).is_ok()
}

/// Why a topic cannot have this name, if it cannot: as in Kafka.
pub fn check_topic_name(name: &str) -> Result<(), Error> {
    let refuse = |why: &str| Err(Error::InvalidTopicName(format!("topic name {name:?} {why}")));
    if name.is_empty() {
        return refuse("is empty");
    }
    if name == "." || name == ".." {
        return refuse("would name a directory");
    }
    if TOPIC_NAME_BYTES_MAX < name.len() {
        return Err(Error::InvalidTopicName(format!(
            "a topic name has at most {TOPIC_NAME_BYTES_MAX} characters, this one {}",
            name.len()
        )));
    }
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    if !name.bytes().all(is_allowed) {
        return refuse("has characters other than letters, digits, '.', '_' and '-'");
    }
    Ok(())
}

fn check_total(image: &Image, added: usize, defaults: &Defaults) -> Result<(), Error> {
    let existing = image.partitions_count();
    if defaults.partitions_max < existing + added {
        let why = format!(
            "{added} more than the {existing} partitions there are would exceed {}",
            defaults.partitions_max
        );
        return Err(Error::InvalidPartitions(why));
    }
    Ok(())
}

/// The replicas the request names, in the order of the partitions.
fn assigned_by_hand(image: &Image, request: &CreateTopic) -> Result<Vec<Vec<NodeId>>, Error> {
    if request.partitions != -1 || request.replication_factor != -1 {
        let why = "both an assignment and a number of partitions or replicas are given";
        return Err(Error::InvalidRequest(why.to_owned()));
    }
    let count = request.assignments.len();
    if PARTITIONS_PER_TOPIC_MAX < count {
        let why = format!("a topic has from 1 to {PARTITIONS_PER_TOPIC_MAX} partitions");
        return Err(Error::InvalidPartitions(why));
    }
    let factor = request.assignments[0].1.len();
    let mut assigned: Vec<Option<&Vec<NodeId>>> = vec![None; count];
    for (partition, replicas) in &request.assignments {
        check_replicas(image, replicas, factor)?;
        let place = usize::try_from(*partition).ok().and_then(|i| assigned.get_mut(i));
        if place.is_none_or(|place| place.replace(replicas).is_some()) {
            let why = "partitions are numbered from 0, each once, without a gap";
            return Err(Error::InvalidReplicaAssignment(why.to_owned()));
        }
    }
    Ok(assigned.into_iter().map(|replicas| replicas.expect("as many as places").clone()).collect())
}

fn check_replicas(image: &Image, replicas: &[NodeId], factor: usize) -> Result<(), Error> {
    let refuse = |why: String| Err(Error::InvalidReplicaAssignment(why));
    if replicas.is_empty() || REPLICAS_MAX < replicas.len() || replicas.len() != factor {
        return refuse("all partitions have the same number of replicas, at least one".to_owned());
    }
    for (i, node) in replicas.iter().enumerate() {
        if image.node(*node).is_none() {
            return refuse(format!("there is no node {node}"));
        }
        if replicas[..i].contains(node) {
            return refuse(format!("node {node} is named twice for one partition"));
        }
    }
    Ok(())
}

/// Replicas for `count` partitions from number `first` on: leaders in turn over all nodes,
/// followers on the nodes after them.
fn spread(image: &Image, first: usize, count: usize, factor: usize) -> Vec<Vec<NodeId>> {
    let nodes: Vec<NodeId> = image.nodes().map(|(id, _)| id).collect();
    let factor = factor.min(nodes.len());
    let replicas = |partition: usize| {
        (0..factor).map(|i| nodes[(partition + i) % nodes.len()]).collect::<Vec<_>>()
    };
    (first..first + count).map(replicas).collect()
}

/// Other random bits from random bits: the finalizer of SplitMix64 on both halves.
fn mix(seed: u128) -> u128 {
    let half = |mut bits: u64| {
        bits = bits.wrapping_add(0x9e37_79b9_7f4a_7c15);
        bits = (bits ^ bits >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ bits >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^ bits >> 31
    };
    u128::from(half((seed >> 64) as u64)) << 64 | u128::from(half(seed as u64))
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownTopic => f.write_str("there is no such topic"),
            Self::UnknownTopicId => f.write_str("there is no topic of this id"),
            Self::InvalidTopicName(why)
            | Self::TopicExists(why)
            | Self::InvalidPartitions(why)
            | Self::InvalidReplicationFactor(why)
            | Self::InvalidReplicaAssignment(why)
            | Self::InvalidConfig(why)
            | Self::InvalidRequest(why) => f.write_str(why),
        }
    }
}

impl std::error::Error for Error {}
