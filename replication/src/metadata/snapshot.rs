//! The image as bytes: what replaces the log before it.
//!
//! ```text
//! version u8 | cluster 16 | records replayed u64 | next producer id i64
//! nodes:      count u32, each: id i32, epoch u32, directory 16, shards u16
//! topics:     count u32, each: id 16, name, partitions, configs
//!   partitions: count u32, each: leader i32, epoch base i32, node epoch base u32,
//!               replicas: count u8, each: node i32
//! tombstones: count u32, each: id 16, name, partitions u32
//! configs of the cluster; of nodes: count u32, each: id i32, configs
//!   configs: count u32, each: name, value
//! quotas, from version 2 on: count u32, each: entity, count u8, each: of what u8, rate u64
//! configs of groups, in version 3: count u32, each: name, configs
//! ```
//!
//! An image is written in the first version that has room for it: programs before quotas can read
//! one without them, programs before configs of groups one without these.

use std::collections::BTreeMap;
use std::sync::Arc;

use tidemill_record::{NodeId, TopicId};

use super::record::{decode_bound, decode_entity, encode_entity};
use super::{Configs, Image, Node, Partition, Tombstone, Topic, alike_key};
use crate::identity::{ClusterId, DirectoryId, NodeEpoch};
use crate::limits::{
    CONFIG_NAME_BYTES_MAX, CONFIG_VALUE_BYTES_MAX, CONFIGS_PER_RESOURCE_MAX, GROUP_NAME_BYTES_MAX,
    GROUPS_WITH_CONFIGS_MAX, PARTITIONS_PER_TOPIC_MAX, QUOTA_ENTITIES_MAX, REPLICAS_MAX,
    TOPIC_NAME_BYTES_MAX,
};
use crate::quota::Quotas;
use crate::wire::{DecodeError, Reader, Write};

const VERSION: u8 = 1;
const VERSION_WITH_QUOTAS: u8 = 2;
const VERSION_WITH_GROUPS: u8 = 3;

impl Image {
    /// Appends the image's bytes to `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let version = match (self.group_configs.is_empty(), self.quotas.is_empty()) {
            (true, true) => VERSION,
            (true, false) => VERSION_WITH_QUOTAS,
            (false, _) => VERSION_WITH_GROUPS,
        };
        out.put_u8(version);
        out.put(&self.cluster.0);
        out.put_u64(self.records_replayed);
        out.put_i64(self.next_producer_id);

        out.put_count(self.nodes.len());
        for (id, node) in &self.nodes {
            out.put_i32(id.0);
            out.put_u32(node.epoch.0);
            out.put(&node.directory.0);
            out.put_u16(node.shards);
        }
        out.put_count(self.topics.len());
        for topic in self.topics.values() {
            encode_topic(topic, out);
        }
        out.put_count(self.tombstones.len());
        for (id, tombstone) in &self.tombstones {
            out.put(&id.0);
            out.put_string(&tombstone.name);
            out.put_u32(tombstone.partitions);
        }
        encode_configs(&self.cluster_configs, out);
        out.put_count(self.node_configs.len());
        for (id, configs) in &self.node_configs {
            out.put_i32(id.0);
            encode_configs(configs, out);
        }
        if VERSION_WITH_QUOTAS <= version {
            encode_quotas(&self.quotas, out);
        }
        if VERSION_WITH_GROUPS <= version {
            out.put_count(self.group_configs.len());
            for (name, configs) in &*self.group_configs {
                out.put_string(name);
                encode_configs(configs, out);
            }
        }
    }

    /// Reads what [`Image::encode`] wrote; all of `bytes` is one image.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        let version = reader.u8()?;
        if !(VERSION..=VERSION_WITH_GROUPS).contains(&version) {
            return Err(DecodeError::NewerVersion { kind: 0, version });
        }
        let mut image = Self {
            cluster: ClusterId(reader.array()?),
            records_replayed: reader.u64()?,
            next_producer_id: reader.i64()?,
            ..Self::default()
        };
        image.decode_nodes(&mut reader)?;
        image.decode_topics(&mut reader)?;
        image.decode_tombstones(&mut reader)?;
        image.cluster_configs = decode_configs(&mut reader)?;
        for _ in 0..reader.count(usize::MAX, 8)? {
            let id = NodeId(reader.i32()?);
            let configs = decode_configs(&mut reader)?;
            if configs.is_empty() || image.node_configs.insert(id, configs).is_some() {
                return Err(DecodeError::Invalid("a node's configs without content or twice"));
            }
        }
        if VERSION_WITH_QUOTAS <= version {
            image.quotas = Arc::new(decode_quotas(&mut reader)?);
            // Without any it would have been written in another version.
            if version == VERSION_WITH_QUOTAS && image.quotas.is_empty() {
                return Err(DecodeError::Invalid("no quotas"));
            }
        }
        if VERSION_WITH_GROUPS <= version {
            image.group_configs = Arc::new(decode_groups(&mut reader)?);
        }
        reader.finish()?;
        Ok(image)
    }

    fn decode_nodes(&mut self, reader: &mut Reader<'_>) -> Result<(), DecodeError> {
        for _ in 0..reader.count(usize::MAX, 26)? {
            let id = NodeId(reader.i32()?);
            let node = Node {
                epoch: NodeEpoch(reader.u32()?),
                directory: DirectoryId(reader.array()?),
                shards: reader.u16()?,
            };
            if self.nodes.insert(id, node).is_some() {
                return Err(DecodeError::Invalid("a node twice"));
            }
        }
        Ok(())
    }

    fn decode_topics(&mut self, reader: &mut Reader<'_>) -> Result<(), DecodeError> {
        for _ in 0..reader.count(usize::MAX, 28)? {
            let topic = self.decode_topic(reader)?;
            let id = topic.id;
            self.partitions_count += topic.partitions.len();
            if let Some(key) = alike_key(&topic.name)
                && self.alike.insert(key, id).is_some()
            {
                return Err(DecodeError::Invalid("two topics of names alike"));
            }
            if self.ids.insert(Arc::clone(&topic.name), id).is_some()
                || self.topics.insert(id, Arc::new(topic)).is_some()
            {
                return Err(DecodeError::Invalid("a topic twice"));
            }
        }
        Ok(())
    }

    fn decode_topic(&self, reader: &mut Reader<'_>) -> Result<Topic, DecodeError> {
        let id = TopicId(reader.array()?);
        let name = reader.string(TOPIC_NAME_BYTES_MAX)?.into();
        let count = reader.count(PARTITIONS_PER_TOPIC_MAX, 13)?;
        let mut partitions = Vec::with_capacity(count);
        for _ in 0..count {
            partitions.push(self.decode_partition(reader)?);
        }
        Ok(Topic { id, name, partitions, configs: decode_configs(reader)? })
    }

    fn decode_partition(&self, reader: &mut Reader<'_>) -> Result<Partition, DecodeError> {
        let leader = NodeId(reader.i32()?);
        let epoch_base = reader.i32()?;
        let node_epoch_base = NodeEpoch(reader.u32()?);
        if epoch_base < 0 || self.node_epoch(leader) < node_epoch_base {
            return Err(DecodeError::Invalid("a leader epoch from the future"));
        }
        let replicas = reader.u8()? as usize;
        if REPLICAS_MAX < replicas {
            return Err(DecodeError::Invalid("more replicas than allowed"));
        }
        let replicas: Result<_, _> = (0..replicas).map(|_| reader.i32().map(NodeId)).collect();
        Ok(Partition { replicas: replicas?, leader, epoch_base, node_epoch_base })
    }

    fn decode_tombstones(&mut self, reader: &mut Reader<'_>) -> Result<(), DecodeError> {
        for _ in 0..reader.count(usize::MAX, 24)? {
            let id = TopicId(reader.array()?);
            let name = reader.string(TOPIC_NAME_BYTES_MAX)?.into();
            let tombstone = Tombstone { name, partitions: reader.u32()? };
            if self.topics.contains_key(&id) || self.tombstones.insert(id, tombstone).is_some() {
                return Err(DecodeError::Invalid("a tombstone of a living topic, or twice"));
            }
        }
        Ok(())
    }
}

fn encode_topic(topic: &Topic, out: &mut Vec<u8>) {
    out.put(&topic.id.0);
    out.put_string(&topic.name);
    out.put_count(topic.partitions.len());
    for partition in &topic.partitions {
        out.put_i32(partition.leader.0);
        out.put_i32(partition.epoch_base);
        out.put_u32(partition.node_epoch_base.0);
        out.put_u8(partition.replicas.len() as u8);
        for node in &partition.replicas {
            out.put_i32(node.0);
        }
    }
    encode_configs(&topic.configs, out);
}

fn encode_configs(configs: &Configs, out: &mut Vec<u8>) {
    out.put_count(configs.len());
    for (name, value) in configs {
        out.put_string(name);
        out.put_string(value);
    }
}

fn encode_quotas(quotas: &Quotas, out: &mut Vec<u8>) {
    out.put_count(quotas.iter().len());
    for (entity, bounds) in quotas.iter() {
        encode_entity(entity, out);
        out.put_u8(bounds.len() as u8);
        for (bound, rate) in bounds {
            out.put_u8(*bound as u8);
            out.put_u64(*rate);
        }
    }
}

fn decode_quotas(reader: &mut Reader<'_>) -> Result<Quotas, DecodeError> {
    let mut quotas = Quotas::default();
    let count = reader.count(QUOTA_ENTITIES_MAX, 12)?;
    for _ in 0..count {
        let entity = decode_entity(reader)?;
        if entity.user.is_none() && entity.client.is_none() {
            return Err(DecodeError::Invalid("a quota for nobody"));
        }
        for _ in 0..reader.u8()? {
            let (bound, rate) = (decode_bound(reader)?, reader.u64()?);
            if quotas.rate(&entity, bound).is_some() {
                return Err(DecodeError::Invalid("a quota twice"));
            }
            quotas.set(&entity, bound, Some(rate));
        }
    }
    // Each once, and each with something to say, or it would be written otherwise.
    let found = quotas.iter().len();
    match found == count {
        true => Ok(quotas),
        false => Err(DecodeError::Invalid("an entity without quotas or twice")),
    }
}

fn decode_groups(reader: &mut Reader<'_>) -> Result<BTreeMap<Arc<str>, Configs>, DecodeError> {
    let mut groups = BTreeMap::new();
    let count = reader.count(GROUPS_WITH_CONFIGS_MAX, 8)?;
    for _ in 0..count {
        let name = reader.string(GROUP_NAME_BYTES_MAX)?.into();
        let configs = decode_configs(reader)?;
        if configs.is_empty() || groups.insert(name, configs).is_some() {
            return Err(DecodeError::Invalid("a group's configs without content or twice"));
        }
    }
    match groups.is_empty() {
        true => Err(DecodeError::Invalid("no configs of groups")),
        false => Ok(groups),
    }
}

fn decode_configs(reader: &mut Reader<'_>) -> Result<Configs, DecodeError> {
    let mut configs = Configs::new();
    for _ in 0..reader.count(CONFIGS_PER_RESOURCE_MAX, 8)? {
        let name = reader.string(CONFIG_NAME_BYTES_MAX)?.to_owned();
        let value = reader.string(CONFIG_VALUE_BYTES_MAX)?.to_owned();
        if configs.insert(name, value).is_some() {
            return Err(DecodeError::Invalid("a config twice"));
        }
    }
    Ok(configs)
}
