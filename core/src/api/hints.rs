//! Who leads a partition now, told along with the refusal of a request that was for another leader
//! or for this one in an earlier epoch, so that the client need not ask for Metadata (KIP-951).
//!
//! On one node that is a client that remembers a leader epoch from before the node's last start. A
//! node that stops gives no hints: it has nobody else to name.

use tidemill_net::kafka::{ErrorCode, LeaderHint, NodeEndpoint, TopicRef};

use crate::placement;
use crate::shard::Shard;

/// Whether a refusal comes with a hint.
pub(super) fn wants_hint(error: ErrorCode) -> bool {
    matches!(error, ErrorCode::NotLeaderOrFollower | ErrorCode::FencedLeaderEpoch)
}

impl Shard {
    /// The leader of a partition, as clients are told it.
    pub(super) fn leader_hint(&self, topic: TopicRef<'_>, partition: i32) -> Option<LeaderHint> {
        if self.is_stopping() {
            return None;
        }
        let id = self.find_partition(topic, partition).ok()?;
        Some(LeaderHint {
            leader_id: self.settings.endpoints.leader(id, self.settings.shards),
            leader_epoch: self.image.leader_epoch(id.topic, id.partition)?.0,
        })
    }

    /// Where the leaders that were named can be reached, each once.
    pub(super) fn hinted_endpoints(
        &self,
        hints: impl Iterator<Item = LeaderHint>,
    ) -> Vec<NodeEndpoint<'_>> {
        let mut ids: Vec<i32> = hints.map(|hint| hint.leader_id).collect();
        ids.sort_unstable();
        ids.dedup();
        let all = self.settings.endpoints.all();
        let named = all.filter(|endpoint| ids.binary_search(&endpoint.id).is_ok());
        named
            .map(|placement::Endpoint { id, host, port, rack }| NodeEndpoint {
                node_id: id,
                host,
                port: i32::from(port),
                rack,
            })
            .collect()
    }
}
