//! What is committed of a group, asked for and answered in any version of OffsetFetch.

use bytes::Bytes;
use tidemill_net::kafka::ErrorCode;
use tidemill_net::kafka::offset_fetch::{
    OffsetFetchRequest, OffsetFetchRequestGroup, OffsetFetchRequestTopic, OffsetFetchResponse,
    OffsetFetchResponsePartition, OffsetFetchResponseTopic,
};

use super::map::{Map, read};
use crate::checker::{Place, Violation};

/// From here on it is about many groups, and topics are named by their ids.
const GROUPS_FROM: i16 = 8;
const BY_ID_FROM: i16 = 10;

/// Asks what a group has committed of these places. The group says in which name and how it asks.
pub(super) fn question<'a>(
    group: OffsetFetchRequestGroup,
    places: impl Iterator<Item = &'a Place>,
    map: &Map,
    require_stable: bool,
) -> OffsetFetchRequest {
    let topics: Vec<OffsetFetchRequestTopic> = places
        .map(|place| OffsetFetchRequestTopic {
            name: map.name(place.topic).unwrap_or_default().to_owned(),
            topic_id: place.topic,
            partition_indexes: vec![place.partition],
        })
        .collect();
    OffsetFetchRequest {
        group_id: group.group_id.clone(),
        topics: Some(topics.clone()),
        groups: vec![OffsetFetchRequestGroup { topics: Some(topics), ..group }],
        require_stable,
    }
}

/// What was answered of one group.
pub(super) struct Answer {
    pub(super) error: ErrorCode,
    version: i16,
    topics: Vec<OffsetFetchResponseTopic>,
}

impl Answer {
    pub(super) fn read(version: i16, frame: &Bytes) -> Result<Self, Violation> {
        let response: OffsetFetchResponse = read(version, frame)?;
        let (error, topics) = if GROUPS_FROM <= version {
            let group = response.groups.into_iter().next();
            group.map_or((ErrorCode::UnknownServerError, Vec::new()), |g| (g.error_code, g.topics))
        } else {
            (response.error_code, response.topics)
        };
        Ok(Self { error, version, topics })
    }

    /// What is told of a place; none if its topic is not known by name any more.
    pub(super) fn of(&self, place: Place, map: &Map) -> Option<&OffsetFetchResponsePartition> {
        let name = map.name(place.topic);
        let is_it = |topic: &&OffsetFetchResponseTopic| match BY_ID_FROM <= self.version {
            true => topic.topic_id == place.topic,
            false => name == Some(&*topic.name),
        };
        let partitions = self.topics.iter().filter(is_it).flat_map(|topic| &topic.partitions);
        partitions.into_iter().find(|partition| partition.partition_index == place.partition)
    }
}
