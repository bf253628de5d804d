//! One change of the cluster, and its bytes.
//!
//! ```text
//! kind u8 | version u8 | fields, big-endian; strings and lists behind a u32 length
//! ```
//!
//! A kind is never used again for something else. A field is added under a new version, and old
//! versions are read for ever.

use std::fmt;
use std::sync::Arc;

use tidemill_record::{NodeId, TopicId};

use crate::identity::{ClusterId, DirectoryId, NodeEpoch};
use crate::limits::{
    CONFIG_NAME_BYTES_MAX, CONFIG_VALUE_BYTES_MAX, CONFIGS_PER_RESOURCE_MAX, GROUP_NAME_BYTES_MAX,
    PARTITIONS_PER_TOPIC_MAX, QUOTA_NAME_BYTES_MAX, REPLICAS_MAX, TOPIC_NAME_BYTES_MAX,
};
use crate::quota::{Bound, Entity, Who};
use crate::wire::{DecodeError, Reader, Write};

/// One thing the cluster has agreed on.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Record {
    /// The first record of every cluster.
    ClusterCreated {
        /// Its name for life.
        cluster: ClusterId,
    },
    /// A node started. Raises the leader epoch of every partition it leads.
    NodeStarted {
        /// Which node.
        node: NodeId,
        /// How often it has started, this start included.
        node_epoch: NodeEpoch,
        /// The data directory it started on.
        directory: DirectoryId,
        /// How many shards it runs.
        shards: u16,
    },
    /// A topic was made.
    TopicCreated {
        /// Its name for life.
        id: TopicId,
        /// Its name for clients.
        name: String,
        /// Each partition's assigned replicas; the first leads.
        partitions: Vec<Vec<NodeId>>,
        /// Its overrides.
        configs: Vec<(String, String)>,
    },
    /// A topic got more partitions.
    PartitionsAdded {
        /// Which topic.
        topic: TopicId,
        /// How many it has now.
        new_count: u32,
        /// The assigned replicas of the new ones only.
        partitions: Vec<Vec<NodeId>>,
    },
    /// A topic was deleted. Its name is free; a tombstone stays until its files are gone.
    TopicDeleted {
        /// Which topic.
        id: TopicId,
    },
    /// The files of a deleted topic are gone everywhere: its tombstone may go.
    TopicDeletionFinished {
        /// Which topic.
        id: TopicId,
    },
    /// An override was set or, with no value, removed.
    ConfigChanged {
        /// Whose.
        resource: Resource,
        /// Which config.
        name: String,
        /// Its value now.
        value: Option<String>,
    },
    /// Producer ids were taken by somebody who hands them out.
    ProducerIdsGranted {
        /// The first of them.
        first: i64,
        /// How many.
        count: i64,
    },
    /// A quota was set or, with no rate, removed.
    QuotaChanged {
        /// Whose.
        entity: Entity,
        /// Of what.
        bound: Bound,
        /// Bytes a second now.
        rate: Option<u64>,
    },
}

/// What can carry config overrides.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Resource {
    /// One topic.
    Topic(TopicId),
    /// One node.
    Node(NodeId),
    /// All nodes.
    Cluster,
    /// One group, whether or not anybody is in it.
    Group(Arc<str>),
}

const CLUSTER_CREATED: u8 = 1;
const NODE_STARTED: u8 = 2;
const TOPIC_CREATED: u8 = 3;
const PARTITIONS_ADDED: u8 = 4;
const TOPIC_DELETED: u8 = 5;
const TOPIC_DELETION_FINISHED: u8 = 6;
const CONFIG_CHANGED: u8 = 7;
const PRODUCER_IDS_GRANTED: u8 = 8;
const QUOTA_CHANGED: u8 = 9;

const RESOURCE_TOPIC: u8 = 1;
const RESOURCE_NODE: u8 = 2;
const RESOURCE_CLUSTER: u8 = 3;
const RESOURCE_GROUP: u8 = 4;

/// The only version of every kind so far.
const VERSION: u8 = 1;

impl Record {
    /// Appends the record's bytes to `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.put(&[self.kind(), VERSION]);
        match self {
            Self::ClusterCreated { cluster } => out.put(&cluster.0),
            Self::NodeStarted { node, node_epoch, directory, shards } => {
                out.put_i32(node.0);
                out.put_u32(node_epoch.0);
                out.put(&directory.0);
                out.put_u16(*shards);
            }
            Self::TopicCreated { id, name, partitions, configs } => {
                out.put(&id.0);
                out.put_string(name);
                encode_replicas(partitions, out);
                out.put_count(configs.len());
                for (name, value) in configs {
                    out.put_string(name);
                    out.put_string(value);
                }
            }
            Self::PartitionsAdded { topic, new_count, partitions } => {
                out.put(&topic.0);
                out.put_u32(*new_count);
                encode_replicas(partitions, out);
            }
            Self::TopicDeleted { id } | Self::TopicDeletionFinished { id } => out.put(&id.0),
            Self::ConfigChanged { resource, name, value } => {
                encode_resource(resource, out);
                out.put_string(name);
                out.put_u8(u8::from(value.is_some()));
                if let Some(value) = value {
                    out.put_string(value);
                }
            }
            Self::ProducerIdsGranted { first, count } => {
                out.put_i64(*first);
                out.put_i64(*count);
            }
            Self::QuotaChanged { entity, bound, rate } => {
                encode_entity(entity, out);
                out.put_u8(*bound as u8);
                out.put_u8(u8::from(rate.is_some()));
                if let Some(rate) = rate {
                    out.put_u64(*rate);
                }
            }
        }
    }

    /// Reads what [`Record::encode`] wrote; all of `bytes` is one record.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        let kind = reader.u8()?;
        if !(CLUSTER_CREATED..=QUOTA_CHANGED).contains(&kind) {
            return Err(DecodeError::UnknownKind(kind));
        }
        let version = reader.u8()?;
        if version != VERSION {
            return Err(DecodeError::NewerVersion { kind, version });
        }
        let record = Self::decode_fields(kind, &mut reader)?;
        reader.finish()?;
        Ok(record)
    }

    fn decode_fields(kind: u8, reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(match kind {
            CLUSTER_CREATED => Self::ClusterCreated { cluster: ClusterId(reader.array()?) },
            NODE_STARTED => Self::NodeStarted {
                node: NodeId(reader.i32()?),
                node_epoch: NodeEpoch(reader.u32()?),
                directory: DirectoryId(reader.array()?),
                shards: reader.u16()?,
            },
            TOPIC_CREATED => Self::TopicCreated {
                id: TopicId(reader.array()?),
                name: reader.string(TOPIC_NAME_BYTES_MAX)?.to_owned(),
                partitions: decode_replicas(reader)?,
                configs: decode_configs(reader)?,
            },
            PARTITIONS_ADDED => Self::PartitionsAdded {
                topic: TopicId(reader.array()?),
                new_count: reader.u32()?,
                partitions: decode_replicas(reader)?,
            },
            TOPIC_DELETED => Self::TopicDeleted { id: TopicId(reader.array()?) },
            TOPIC_DELETION_FINISHED => Self::TopicDeletionFinished { id: TopicId(reader.array()?) },
            CONFIG_CHANGED => Self::ConfigChanged {
                resource: decode_resource(reader)?,
                name: reader.string(CONFIG_NAME_BYTES_MAX)?.to_owned(),
                value: match reader.u8()? {
                    0 => None,
                    1 => Some(reader.string(CONFIG_VALUE_BYTES_MAX)?.to_owned()),
                    _ => return Err(DecodeError::Invalid("a flag that is neither 0 nor 1")),
                },
            },
            PRODUCER_IDS_GRANTED => {
                Self::ProducerIdsGranted { first: reader.i64()?, count: reader.i64()? }
            }
            QUOTA_CHANGED => Self::QuotaChanged {
                entity: decode_entity(reader)?,
                bound: decode_bound(reader)?,
                rate: match reader.u8()? {
                    0 => None,
                    1 => Some(reader.u64()?),
                    _ => return Err(DecodeError::Invalid("a flag that is neither 0 nor 1")),
                },
            },
            _ => return Err(DecodeError::UnknownKind(kind)),
        })
    }

    fn kind(&self) -> u8 {
        match self {
            Self::ClusterCreated { .. } => CLUSTER_CREATED,
            Self::NodeStarted { .. } => NODE_STARTED,
            Self::TopicCreated { .. } => TOPIC_CREATED,
            Self::PartitionsAdded { .. } => PARTITIONS_ADDED,
            Self::TopicDeleted { .. } => TOPIC_DELETED,
            Self::TopicDeletionFinished { .. } => TOPIC_DELETION_FINISHED,
            Self::ConfigChanged { .. } => CONFIG_CHANGED,
            Self::ProducerIdsGranted { .. } => PRODUCER_IDS_GRANTED,
            Self::QuotaChanged { .. } => QUOTA_CHANGED,
        }
    }
}

/// `count u32`, then for each partition `count u8` and that many node ids.
fn encode_replicas(partitions: &[Vec<NodeId>], out: &mut Vec<u8>) {
    out.put_count(partitions.len());
    for replicas in partitions {
        assert!(replicas.len() <= REPLICAS_MAX, "the controller bounds the replication factor");
        out.put_u8(replicas.len() as u8);
        for node in replicas {
            out.put_i32(node.0);
        }
    }
}

fn decode_replicas(reader: &mut Reader<'_>) -> Result<Vec<Vec<NodeId>>, DecodeError> {
    let count = reader.count(PARTITIONS_PER_TOPIC_MAX, 1)?;
    let mut partitions = Vec::with_capacity(count);
    for _ in 0..count {
        let replicas = reader.u8()? as usize;
        if REPLICAS_MAX < replicas {
            return Err(DecodeError::Invalid("more replicas than allowed"));
        }
        let replicas: Result<_, _> = (0..replicas).map(|_| reader.i32().map(NodeId)).collect();
        partitions.push(replicas?);
    }
    Ok(partitions)
}

fn decode_configs(reader: &mut Reader<'_>) -> Result<Vec<(String, String)>, DecodeError> {
    let count = reader.count(CONFIGS_PER_RESOURCE_MAX, 8)?;
    let mut configs = Vec::with_capacity(count);
    for _ in 0..count {
        let name = reader.string(CONFIG_NAME_BYTES_MAX)?.to_owned();
        configs.push((name, reader.string(CONFIG_VALUE_BYTES_MAX)?.to_owned()));
    }
    Ok(configs)
}

fn encode_resource(resource: &Resource, out: &mut Vec<u8>) {
    match resource {
        Resource::Topic(id) => {
            out.put_u8(RESOURCE_TOPIC);
            out.put(&id.0);
        }
        Resource::Node(id) => {
            out.put_u8(RESOURCE_NODE);
            out.put_i32(id.0);
        }
        Resource::Cluster => out.put_u8(RESOURCE_CLUSTER),
        Resource::Group(name) => {
            out.put_u8(RESOURCE_GROUP);
            out.put_string(name);
        }
    }
}

fn decode_resource(reader: &mut Reader<'_>) -> Result<Resource, DecodeError> {
    match reader.u8()? {
        RESOURCE_TOPIC => Ok(Resource::Topic(TopicId(reader.array()?))),
        RESOURCE_NODE => Ok(Resource::Node(NodeId(reader.i32()?))),
        RESOURCE_CLUSTER => Ok(Resource::Cluster),
        RESOURCE_GROUP => Ok(Resource::Group(reader.string(GROUP_NAME_BYTES_MAX)?.into())),
        kind => Err(DecodeError::UnknownKind(kind)),
    }
}

/// The user, then the client: each 0 if not said, 1 for the default, 2 and a name.
pub(super) fn encode_entity(entity: &Entity, out: &mut Vec<u8>) {
    for who in [&entity.user, &entity.client] {
        match who {
            None => out.put_u8(0),
            Some(Who::Default) => out.put_u8(1),
            Some(Who::Named(name)) => {
                out.put_u8(2);
                out.put_string(name);
            }
        }
    }
}

pub(super) fn decode_entity(reader: &mut Reader<'_>) -> Result<Entity, DecodeError> {
    let mut who = || {
        Ok(match reader.u8()? {
            0 => None,
            1 => Some(Who::Default),
            2 => Some(Who::Named(reader.string(QUOTA_NAME_BYTES_MAX)?.to_owned())),
            _ => return Err(DecodeError::Invalid("neither nobody, the default nor a name")),
        })
    };
    Ok(Entity { user: who()?, client: who()? })
}

pub(super) fn decode_bound(reader: &mut Reader<'_>) -> Result<Bound, DecodeError> {
    let bound = Bound::from_number(reader.u8()?);
    bound.ok_or(DecodeError::Invalid("a quota of nothing that is known"))
}

impl fmt::Display for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Topic(id) => write!(f, "topic {id}"),
            Self::Node(id) => write!(f, "node {id}"),
            Self::Cluster => write!(f, "cluster"),
            Self::Group(name) => write!(f, "group {name:?}"),
        }
    }
}
