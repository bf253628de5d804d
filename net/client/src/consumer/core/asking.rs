//! What the consumer asks: for offsets where a place is looked for, for records where it is known.

use std::collections::BTreeMap;
use std::time::Duration;

use tidemill_net::kafka::fetch::{FetchPartition, OutgoingFetch};
use tidemill_net::kafka::list_offsets::{
    ListOffsetsPartition, ListOffsetsRequest, ListOffsetsTopic,
};
use tidemill_net::kafka::{ApiKey, TopicRef};

use super::{Ask, Asked, ConsumerCore, Part, Place, wire_time};
use crate::cluster::{Map, NotSent, Peer};
use crate::error::Error;
use crate::time::Instant;

impl ConsumerCore {
    /// Indexes of the partitions that something can be asked for, by leader.
    fn askable(
        &mut self,
        now: Instant,
        wanted: impl Fn(&Part) -> bool,
    ) -> BTreeMap<i32, Vec<usize>> {
        let mut by_leader: BTreeMap<i32, Vec<usize>> = BTreeMap::new();
        let mut leaderless = false;
        let count = self.parts.len();
        for step in 0..count {
            let index = (self.rotation + step) % count;
            let part = &mut self.parts[index];
            if part.asked || part.holds || now < part.not_before || !wanted(part) {
                continue;
            }
            match self.cluster.map().leader(&part.topic, part.partition) {
                Some(leader) => by_leader.entry(leader).or_default().push(index),
                None => {
                    leaderless = true;
                    part.trouble.get_or_insert_with(|| "no leader is known".to_owned());
                }
            }
        }
        if leaderless && self.cluster.knows_the_cluster() {
            self.cluster.refresh(now);
        }
        by_leader
    }

    pub(super) fn ask_for_offsets(&mut self, now: Instant) {
        let by_leader = self.askable(now, |part| matches!(part.place, Place::Find(_)));
        for (leader, indexes) in by_leader {
            let mut topics: Vec<ListOffsetsTopic> = Vec::new();
            for &index in &indexes {
                let part = &self.parts[index];
                let Place::Find(start) = part.place else { unreachable!("just filtered") };
                let partition = ListOffsetsPartition {
                    partition_index: part.partition,
                    current_leader_epoch: leader_epoch(self.cluster.map(), part),
                    timestamp: wire_time(start),
                };
                match topics.iter_mut().find(|topic| *topic.name == *part.topic) {
                    Some(topic) => topic.partitions.push(partition),
                    None => topics.push(ListOffsetsTopic {
                        name: part.topic.to_string(),
                        partitions: vec![partition],
                    }),
                }
            }
            let request = ListOffsetsRequest {
                isolation_level: self.config.isolation.to_wire(),
                topics,
                ..ListOffsetsRequest::default()
            };
            let asked = |&part: &usize| Asked { part, generation: self.parts[part].generation };
            let ask = Ask::Find(indexes.iter().map(asked).collect());
            let sent = self.cluster.send(Peer::Node(leader), &request, Duration::ZERO, ask, now);
            self.after_asking(sent.map(|()| indexes), leader, now);
        }
    }

    /// Notes what was sent; false if nothing was.
    fn after_asking(&mut self, sent: Result<Vec<usize>, NotSent>, node: i32, now: Instant) -> bool {
        match sent {
            Ok(indexes) => {
                for index in indexes {
                    self.parts[index].asked = true;
                }
                true
            }
            Err(NotSent::NotNow) => false,
            Err(NotSent::UnknownNode) => {
                self.cluster.refresh(now);
                false
            }
            Err(NotSent::NoCommonVersion { api, theirs }) => {
                self.complain(Error::unsupported(format!("cannot ask node {node}"), api, theirs));
                false
            }
        }
    }

    pub(super) fn ask_for_records(&mut self, now: Instant) {
        let by_leader =
            self.askable(now, |part| matches!(part.place, Place::At(_)) && !part.paused);
        for (leader, indexes) in by_leader {
            if !self.fetching.contains(&leader) {
                self.fetch_from(leader, indexes, now);
            }
        }
    }

    fn fetch_from(&mut self, leader: i32, indexes: Vec<usize>, now: Instant) {
        let room = self.cluster.room_at(leader, ApiKey::Fetch, now);
        let takes_ids = match room {
            Ok(takes_ids) => takes_ids,
            Err(error) => {
                self.after_asking(Err(error), leader, now);
                return;
            }
        };
        let id_of = |index: usize| {
            let view = self.cluster.map().topic(&self.parts[index].topic);
            view.map(|view| view.id).filter(|id| !id.is_zero())
        };
        let by_id = takes_ids && indexes.iter().all(|&index| id_of(index).is_some());
        let partitions: Vec<FetchPartition<'_>> = indexes
            .iter()
            .map(|&index| {
                let part = &self.parts[index];
                let Place::At(offset) = part.place else { unreachable!("just filtered") };
                let topic = match id_of(index) {
                    Some(id) if by_id => TopicRef::Id(id),
                    _ => TopicRef::Name(&part.topic),
                };
                let most = i32::try_from(self.config.partition_bytes).unwrap_or(i32::MAX);
                FetchPartition {
                    current_leader_epoch: leader_epoch(self.cluster.map(), part),
                    ..FetchPartition::from_consumer(topic, part.partition, offset, most)
                }
            })
            .collect();
        // An answer that waits for records of these keeps back those of the others, which can be
        // asked for as soon as what they brought has been taken.
        let others_hold = self.parts.iter().any(|part| {
            part.holds && self.cluster.map().leader(&part.topic, part.partition) == Some(leader)
        });
        let wait = if others_hold { Duration::ZERO } else { self.config.max_wait };
        let max_wait_ms = i32::try_from(wait.as_millis()).unwrap_or(i32::MAX);
        let request = OutgoingFetch {
            max_wait_ms,
            min_bytes: i32::try_from(self.config.min_bytes).unwrap_or(i32::MAX),
            max_bytes: i32::try_from(self.config.max_bytes).unwrap_or(i32::MAX),
            isolation_level: self.config.isolation.to_wire(),
            partitions: &partitions,
            ..OutgoingFetch::default()
        };
        let asked = |&part: &usize| Asked { part, generation: self.parts[part].generation };
        let ask = Ask::Fetch { node: leader, parts: indexes.iter().map(asked).collect() };
        let sent = self.cluster.fetch(leader, &request, ask, now);
        self.rotation = indexes.last().map_or(0, |last| last + 1);
        if self.after_asking(sent.map(|()| indexes), leader, now) {
            self.fetching.push(leader);
        }
    }
}

fn leader_epoch(map: &Map, part: &Part) -> i32 {
    map.partition(&part.topic, part.partition).map_or(-1, |view| view.leader_epoch)
}
