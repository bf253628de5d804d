//! Offsets by position or by time, as the commands ask for them (ListOffsets).

use std::collections::BTreeMap;

use tidemill_net::kafka::ErrorCode;
use tidemill_net::kafka::list_offsets::{
    ListOffsetsPartition, ListOffsetsRequest, ListOffsetsTopic,
};

use super::client::Client;
use super::failure::Failure;

/// Asks for the offset of the first record that is kept.
pub(super) const EARLIEST: i64 = -2;

/// Asks for the offset after the last record that may be read.
pub(super) const LATEST: i64 = -1;

/// The offset at `timestamp` (or [`EARLIEST`], [`LATEST`]) of each partition; -1 if no record is
/// that young. The client has asked for the topic's metadata before.
pub(super) fn at(
    client: &mut Client,
    topic: &str,
    partitions: &[i32],
    timestamp: i64,
) -> Result<BTreeMap<i32, i64>, Failure> {
    let mut by_leader: BTreeMap<i32, Vec<ListOffsetsPartition>> = BTreeMap::new();
    for &partition_index in partitions {
        let leader = client.leader_of(topic, partition_index).ok_or_else(|| {
            Failure::new(format!("partition {partition_index} of {topic} has no leader"))
        })?;
        by_leader.entry(leader).or_default().push(ListOffsetsPartition {
            partition_index,
            timestamp,
            ..ListOffsetsPartition::default()
        });
    }

    let mut found = BTreeMap::new();
    for (leader, partitions) in by_leader {
        let request = ListOffsetsRequest {
            topics: vec![ListOffsetsTopic { name: topic.to_owned(), partitions }],
            timeout_ms: 30_000,
            ..ListOffsetsRequest::default()
        };
        let answer = client.node(leader)?.call(&request)?;
        for partition in answer.topics.into_iter().flat_map(|topic| topic.partitions) {
            if partition.error_code != ErrorCode::None {
                return Err(Failure::new(format!(
                    "no offsets of partition {} of {topic}",
                    partition.partition_index
                ))
                .because(partition.error_code.name()));
            }
            found.insert(partition.partition_index, partition.offset);
        }
    }
    Ok(found)
}
