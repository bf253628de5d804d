//! What members of groups commit outside of transactions: of some of what they hold.

use bytes::Bytes;
use tidemill_net::kafka::ErrorCode;
use tidemill_net::kafka::offset_commit::{
    OffsetCommitRequest, OffsetCommitRequestPartition, OffsetCommitRequestTopic,
    OffsetCommitResponse,
};

use super::{Ask, Member, Step, read};
use crate::checker::{Place, Verdict, check};
use crate::workload::Scene;

impl Member {
    /// What it reads and knows the committed offsets of.
    pub(super) fn known(&self) -> Vec<Place> {
        let newer = self.newer.as_ref();
        let is_fresh = |place: &Place| newer.is_some_and(|newer| newer.fresh.contains(place));
        self.holds.iter().filter(|place| !is_fresh(place)).copied().collect()
    }

    pub(super) fn commit(&mut self, scene: &mut Scene<'_, '_>) {
        let who = self.who();
        let mut offsets = Vec::new();
        for place in self.known() {
            if self.random.coin() {
                let is_forbidden = self.is_fenced(&who, place, scene);
                let commits = &mut scene.history.offsets;
                offsets.push((place, commits.committing(&self.group, place, None, is_forbidden)));
            }
        }
        if offsets.is_empty() {
            return;
        }
        let topics = offsets.iter().map(|(place, offset)| OffsetCommitRequestTopic {
            name: self.map.name(place.topic).unwrap_or_default().to_owned(),
            topic_id: place.topic,
            partitions: vec![OffsetCommitRequestPartition {
                partition_index: place.partition,
                committed_offset: *offset,
                ..OffsetCommitRequestPartition::default()
            }],
        });
        let request = OffsetCommitRequest {
            group_id: self.group.clone(),
            generation_id_or_member_epoch: self.generation,
            member_id: self.id.clone(),
            group_instance_id: self.instance.clone(),
            topics: topics.collect(),
            ..OffsetCommitRequest::default()
        };
        if self.under_way == 0 {
            self.commits_to = self.to();
        }
        self.under_way += 1;
        self.ask(Ask::Commit(offsets), self.versions.commit, &request, scene);
    }

    pub(super) fn committed(
        &mut self,
        offsets: &[(Place, i64)],
        frame: &Bytes,
        scene: &mut Scene<'_, '_>,
    ) -> Verdict {
        self.under_way -= 1;
        let response: OffsetCommitResponse = read(self.versions.commit, frame)?;
        let results: Vec<ErrorCode> = response
            .topics
            .iter()
            .flat_map(|topic| topic.partitions.iter().map(|partition| partition.error_code))
            .collect();
        check(results.len() == offsets.len(), "every offset is answered", || {
            format!("{results:?}")
        })?;
        for ((place, offset), error) in offsets.iter().zip(&results) {
            if error.is_none() {
                scene.history.committed_offsets += 1;
                scene.history.offsets.committed(&self.group, *place, *offset)?;
            }
        }
        let first = results.into_iter().find(|error| !error.is_none());
        if first.is_some() {
            self.give_up_transaction();
        }
        match first {
            Some(error) if self.step == Step::Holding => self.told(error),
            _ => Ok(()),
        }
    }
}
