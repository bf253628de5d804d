//! Calls about partitions: each is asked of its leader, all of one leader's in one request.

use std::collections::{BTreeMap, BTreeSet};

use tidemill_net::kafka::delete_records::{
    DeleteRecordsPartition, DeleteRecordsRequest, DeleteRecordsTopic, HIGH_WATERMARK,
};
use tidemill_net::kafka::list_offsets::{
    ListOffsetsPartition, ListOffsetsRequest, ListOffsetsTopic,
};
use tidemill_net::kafka::{ErrorCode, Request};

use super::Admin;
use super::asking::{Call, NEWS_TAKES, decode, is_passing, unanswered};
use crate::cluster::Peer;
use crate::consumer::{Isolation, Start, wire_time};
use crate::error::Error;

/// What one partition was answered.
type Told = (i32, ErrorCode, i64);

impl Admin {
    /// The offset of each partition at a start; -1 where no record is that young.
    pub fn list_offsets(
        &mut self,
        topic: &str,
        partitions: &[i32],
        at: Start,
        isolation: Isolation,
    ) -> Result<BTreeMap<i32, i64>, Error> {
        let call = self.begin(format!("cannot tell offsets of topic {topic}"));
        let timeout_ms = self.timeout_ms();
        let request = |partitions: &[i32]| ListOffsetsRequest {
            isolation_level: isolation.to_wire(),
            topics: vec![ListOffsetsTopic {
                name: topic.to_owned(),
                partitions: partitions
                    .iter()
                    .map(|&partition_index| ListOffsetsPartition {
                        partition_index,
                        timestamp: wire_time(at),
                        ..ListOffsetsPartition::default()
                    })
                    .collect(),
            }],
            timeout_ms,
            ..ListOffsetsRequest::default()
        };
        self.ask_leaders(call, topic, partitions, request, |answer| {
            let told = answer.topics.into_iter().flat_map(|topic| topic.partitions);
            told.map(|told| (told.partition_index, told.error_code, told.offset)).collect()
        })
    }

    /// Deletes the records of partitions before an offset each (`None`: all there are). Tells the
    /// first offset that is kept of each.
    ///
    /// If it fails, other partitions than the one it tells of may have lost theirs all the same.
    pub fn delete_records(
        &mut self,
        topic: &str,
        before: &[(i32, Option<i64>)],
    ) -> Result<BTreeMap<i32, i64>, Error> {
        let call = self.begin(format!("cannot delete records of topic {topic}"));
        let timeout_ms = self.timeout_ms();
        let before: BTreeMap<i32, i64> =
            before.iter().map(|(at, offset)| (*at, offset.unwrap_or(HIGH_WATERMARK))).collect();
        let request = |partitions: &[i32]| DeleteRecordsRequest {
            topics: vec![DeleteRecordsTopic {
                name: topic.to_owned(),
                partitions: partitions
                    .iter()
                    .map(|at| DeleteRecordsPartition { partition_index: *at, offset: before[at] })
                    .collect(),
            }],
            timeout_ms,
        };
        let partitions: Vec<i32> = before.keys().copied().collect();
        self.ask_leaders(call, topic, &partitions, request, |answer| {
            let told = answer.topics.into_iter().flat_map(|topic| topic.partitions);
            told.map(|told| (told.partition_index, told.error_code, told.low_watermark)).collect()
        })
    }

    /// Asks the leader of each partition until all are answered, or one is refused for good.
    fn ask_leaders<R: Request>(
        &mut self,
        mut call: Call,
        topic: &str,
        partitions: &[i32],
        request: impl Fn(&[i32]) -> R,
        read: impl Fn(R::Response) -> Vec<Told>,
    ) -> Result<BTreeMap<i32, i64>, Error> {
        self.look_at(&mut call, topic)?;
        let mut left: BTreeSet<i32> = partitions.iter().copied().collect();
        let mut found = BTreeMap::new();
        while !left.is_empty() {
            let mut refused = None;
            for (leader, partitions) in self.by_leader(topic, &left) {
                // Lost, perhaps because somebody else leads by now: it is asked again.
                let Some(reply) = self.ask(&mut call, leader, &request(&partitions))? else {
                    continue;
                };
                let told = read(decode(&call, &reply)?);
                for partition in partitions {
                    let (_, code, offset) = *told
                        .iter()
                        .find(|told| told.0 == partition)
                        .ok_or_else(|| unanswered(&call))?;
                    if code.is_none() {
                        left.remove(&partition);
                        found.insert(partition, offset);
                    } else {
                        refused = Some((partition, code));
                    }
                }
            }
            let Some((partition, code)) = refused else { continue };
            let what = format!("{}, partition {partition}", call.what);
            let error = Error::refused(what, code, None);
            // What has just been made is not known to all nodes at once: neither to those we
            // asked who leads, nor to who does.
            let is_young = self.driver.now().since(call.start) < NEWS_TAKES;
            let is_told = self.cluster.map().partition(topic, partition).is_some();
            let is_news = code == ErrorCode::UnknownTopicOrPartition && (is_young || is_told);
            if !is_passing(code) && !is_news {
                return Err(error);
            }
            self.pause(&mut call, error)?;
        }
        Ok(found)
    }

    /// These partitions of a topic by whom to ask, as far as is known; whoever else is asked says
    /// that it does not lead, or that there is no such partition.
    fn by_leader(&self, topic: &str, partitions: &BTreeSet<i32>) -> Vec<(Peer, Vec<i32>)> {
        let mut by_leader: BTreeMap<Option<i32>, Vec<i32>> = BTreeMap::new();
        for &partition in partitions {
            let leader = self.cluster.map().leader(topic, partition);
            by_leader.entry(leader).or_default().push(partition);
        }
        let peer = |leader: Option<i32>| leader.map_or(Peer::Any, Peer::Node);
        by_leader.into_iter().map(|(leader, partitions)| (peer(leader), partitions)).collect()
    }
}
