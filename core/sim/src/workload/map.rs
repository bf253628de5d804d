//! What a client knows of the cluster: topics, partitions, and where their leaders listen.

use std::collections::BTreeMap;

use bytes::{Bytes, BytesMut};
use tidemill_net::kafka::metadata::{MetadataRequest, MetadataResponse};
use tidemill_net::kafka::{Message, decode_response, encode_request};
use tidemill_record::TopicId;

use super::REBORN;
use crate::checker::topics::Listed;
use crate::checker::{Place, Violation, check};
use crate::network::BOOTSTRAP_PORT;

/// A topic as the last metadata showed it.
#[derive(Clone, Debug)]
pub(crate) struct KnownTopic {
    pub(crate) name: String,
    /// The ports of the partitions' leaders.
    pub(crate) leaders: Vec<u16>,
    /// The leader epochs.
    pub(crate) epochs: Vec<i32>,
}

/// The topics a client knows.
#[derive(Clone, Debug, Default)]
pub(crate) struct Map {
    pub(crate) topics: BTreeMap<TopicId, KnownTopic>,
}

/// The version all simulated clients ask for metadata with: ids and names.
const VERSION: i16 = 12;

impl Map {
    /// Asks for all topics.
    pub(crate) fn encode_question(out: &mut BytesMut, correlation: i32) {
        let request = MetadataRequest {
            topics: None,
            allow_auto_topic_creation: false,
            ..MetadataRequest::default()
        };
        encode_request(out, VERSION, correlation, Some("sim"), &request);
    }

    /// Reads the answer.
    pub(crate) fn decode_answer(frame: &Bytes) -> Result<Self, Violation> {
        let (_, response) = decode_response::<MetadataResponse>(VERSION, frame)
            .map_err(|error| unreadable("metadata", &error))?;
        let ports: BTreeMap<i32, u16> =
            response.brokers.iter().map(|b| (b.node_id, b.port as u16)).collect();
        let mut map = Self::default();
        // The broker's own topics come and go by its own rules.
        for topic in response.topics.into_iter().filter(|topic| !topic.is_internal) {
            check(topic.error_code.is_none(), "listed topics are whole", || {
                format!("{:?}: {}", topic.name, topic.error_code)
            })?;
            let mut partitions = topic.partitions;
            partitions.sort_by_key(|partition| partition.partition_index);
            let numbered = (0..).zip(&partitions).all(|(n, p)| p.partition_index == n);
            check(numbered, "partitions are numbered from 0", || format!("{partitions:?}"))?;
            let leader = |id: &i32| ports.get(id).copied().unwrap_or(BOOTSTRAP_PORT);
            let known = KnownTopic {
                name: topic.name.unwrap_or_default(),
                leaders: partitions.iter().map(|p| leader(&p.leader_id)).collect(),
                epochs: partitions.iter().map(|p| p.leader_epoch).collect(),
            };
            map.topics.insert(topic.topic_id, known);
        }
        Ok(map)
    }

    /// The topics for the checker.
    pub(crate) fn listed(&self) -> Vec<Listed> {
        let listed = |(id, topic): (&TopicId, &KnownTopic)| Listed {
            name: topic.name.clone(),
            id: *id,
            epochs: topic.epochs.clone(),
        };
        self.topics.iter().map(listed).collect()
    }

    /// All partitions.
    pub(crate) fn places(&self) -> Vec<Place> {
        let places = |(topic, known): (&TopicId, &KnownTopic)| {
            let topic = *topic;
            (0..known.leaders.len() as i32).map(move |partition| Place { topic, partition })
        };
        self.topics.iter().flat_map(places).collect()
    }

    /// All partitions of topics whose names stand for them for ever.
    pub(crate) fn lasting_places(&self) -> Vec<Place> {
        let mut places = self.places();
        places.retain(|place| self.name(place.topic).is_some_and(|name| !name.starts_with(REBORN)));
        places
    }

    /// How many they are.
    pub(crate) fn lasting_places_count(&self) -> usize {
        let lasting = self.topics.values().filter(|topic| !topic.name.starts_with(REBORN));
        lasting.map(|topic| topic.leaders.len()).sum()
    }

    /// Whether it is known where the leader of a partition listens.
    pub(crate) fn knows(&self, place: Place) -> bool {
        let known = self.topics.get(&place.topic);
        known.is_some_and(|topic| (place.partition as usize) < topic.leaders.len())
    }

    /// Where the leader of a partition listens; the shared port if that is not known.
    pub(crate) fn leader(&self, place: Place) -> u16 {
        let known = self.topics.get(&place.topic);
        let leader = known.and_then(|topic| topic.leaders.get(place.partition as usize));
        leader.copied().unwrap_or(BOOTSTRAP_PORT)
    }

    /// The name of a topic.
    pub(crate) fn name(&self, topic: TopicId) -> Option<&str> {
        self.topics.get(&topic).map(|known| known.name.as_str())
    }
}

/// Reads an answer.
pub(crate) fn read<M: Message>(version: i16, frame: &Bytes) -> Result<M, Violation> {
    let (_, message) = decode_response::<M>(version, frame)
        .map_err(|error| unreadable(M::API.api().name, &error))?;
    Ok(message)
}

/// An answer that cannot be read is the broker's fault.
pub(crate) fn unreadable(what: &str, error: &dyn std::fmt::Display) -> Violation {
    Violation { rule: "answers can be read", evidence: format!("{what}: {error}") }
}
