//! Where things live: the home shard of a partition, and the endpoint clients are told for it.
//!
//! Pure arithmetic on ids, the same on every shard, so nobody has to ask anybody. A partition's
//! home follows from its topic id, its number and the number of shards; after a start with
//! another number of shards it may be another one, which recovery allows for.

use tidemill_record::{NodeId, PartitionId, TopicPartition};
use tidemill_runtime::edge::ShardId;

use crate::config::Routing;
use crate::limits::SHARD_ID_STRIDE;

/// Which of `shards` is the home of a partition.
///
/// Neighbouring partitions of a topic have neighbouring homes, so a topic with as many partitions
/// as shards uses all of them.
pub fn home(partition: TopicPartition, shards: u16) -> ShardId {
    assert!(0 < shards);
    let id = partition.topic.0;
    let start = u64::from_be_bytes(id[8..].try_into().expect("a topic id has 16 bytes"));
    let PartitionId(number) = partition.partition;
    ShardId(((start.wrapping_add(number as u64)) % u64::from(shards)) as u16)
}

/// The id under which clients know an endpoint: the node's for shard 0.
pub fn endpoint_id(node: NodeId, shard: ShardId) -> i32 {
    node.0 + i32::from(shard.0) * SHARD_ID_STRIDE
}

/// The node an endpoint id belongs to.
pub fn node_of(endpoint_id: i32) -> NodeId {
    NodeId(endpoint_id.rem_euclid(SHARD_ID_STRIDE))
}

/// The nodes that endpoint ids belong to, in their order, each once: a client that wants a replica
/// on each of the brokers it is told of names every endpoint of a node.
pub fn nodes_of(endpoint_ids: &[i32]) -> Vec<NodeId> {
    let mut nodes = Vec::new();
    for (place, id) in endpoint_ids.iter().enumerate() {
        let node = node_of(*id);
        // The same id twice stays a mistake.
        if endpoint_ids[..place].contains(id) || !nodes.contains(&node) {
            nodes.push(node);
        }
    }
    nodes
}

/// What clients are told about how to reach this node.
#[derive(Clone, Debug)]
pub struct Endpoints {
    /// This node.
    pub node: NodeId,
    /// Host name or address that clients can reach.
    pub host: String,
    /// The port every shard accepts on.
    pub port: u16,
    /// One port per shard; empty when routing is by node.
    pub shard_ports: Vec<u16>,
    /// The node's rack, told with every endpoint.
    pub rack: Option<String>,
}

/// One line of Metadata's broker list.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Endpoint<'a> {
    /// See [`endpoint_id`].
    pub id: i32,
    /// Where.
    pub host: &'a str,
    /// Where.
    pub port: u16,
    /// Of the node.
    pub rack: Option<&'a str>,
}

impl Endpoints {
    /// Which routing is in force: by owner only if every shard has an endpoint.
    pub fn routing(&self) -> Routing {
        if self.shard_ports.is_empty() { Routing::Node } else { Routing::Owner }
    }

    /// All endpoints of this node, shard 0 first.
    pub fn all(&self) -> impl Iterator<Item = Endpoint<'_>> {
        let count = self.shard_ports.len().max(1);
        (0..count as u16).map(|shard| self.of(ShardId(shard)))
    }

    /// The endpoint that clients are told is the leader of a partition.
    pub fn leader(&self, partition: TopicPartition, shards: u16) -> i32 {
        match self.routing() {
            Routing::Node => self.node.0,
            Routing::Owner => endpoint_id(self.node, home(partition, shards)),
        }
    }

    /// Where clients find whoever answers for a partition.
    pub fn endpoint_of(&self, partition: TopicPartition, shards: u16) -> Endpoint<'_> {
        match self.routing() {
            Routing::Node => self.of(ShardId(0)),
            Routing::Owner => self.of(home(partition, shards)),
        }
    }

    fn of(&self, shard: ShardId) -> Endpoint<'_> {
        let port = self.shard_ports.get(usize::from(shard.0)).copied().unwrap_or(self.port);
        Endpoint {
            id: endpoint_id(self.node, shard),
            host: &self.host,
            port,
            rack: self.rack.as_deref(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tidemill_record::TopicId;

    /// A topic with as many partitions as there are shards uses every shard once.
    #[test]
    fn neighbouring_partitions_live_on_neighbouring_shards() {
        let topic = TopicId([7; 16]);
        let mut homes: Vec<_> = (0..4)
            .map(|number| home(TopicPartition { topic, partition: PartitionId(number) }, 4))
            .collect();
        homes.sort();
        assert_eq!(homes, [ShardId(0), ShardId(1), ShardId(2), ShardId(3)]);
    }

    /// Tools that speak of nodes find the node behind any endpoint id.
    #[test]
    fn an_endpoint_id_gives_back_its_node() {
        let node = NodeId(3);
        assert_eq!(endpoint_id(node, ShardId(0)), 3, "a node's own id is its shard 0's");
        assert_eq!(node_of(endpoint_id(node, ShardId(5))), node);
    }

    /// Who asks for a replica on every broker there is does not name one node twice.
    #[test]
    fn all_endpoints_of_a_node_are_one_replica() {
        let endpoint = |node, shard| endpoint_id(NodeId(node), ShardId(shard));
        let asked = [endpoint(3, 0), endpoint(3, 1), endpoint(4, 1), endpoint(3, 2)];
        assert_eq!(nodes_of(&asked), [NodeId(3), NodeId(4)]);
        assert_eq!(nodes_of(&[3, 3]), [NodeId(3), NodeId(3)], "named twice");
    }
}
