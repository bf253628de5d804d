//! A group's coordinator played by bytes: it answers one member, and makes up the others.

use std::collections::{BTreeMap, VecDeque};

use bytes::{Bytes, BytesMut};
use tidemill_net::kafka::consumer_protocol::{Assignment, Subscription};
use tidemill_net::kafka::find_coordinator::{Coordinator, FindCoordinatorResponse};
use tidemill_net::kafka::heartbeat::HeartbeatResponse;
use tidemill_net::kafka::join_group::{JoinGroupResponse, JoinGroupResponseMember};
use tidemill_net::kafka::leave_group::LeaveGroupResponse;
use tidemill_net::kafka::offset_commit::{
    OffsetCommitRequest, OffsetCommitResponse, OffsetCommitResponseTopic,
};
use tidemill_net::kafka::offset_fetch::{
    OffsetFetchRequest, OffsetFetchResponse, OffsetFetchResponseGroup,
    OffsetFetchResponsePartition, OffsetFetchResponseTopic,
};
use tidemill_net::kafka::sync_group::SyncGroupResponse;
use tidemill_net::kafka::topic_partitions::{PartitionError, TopicPartitions};
use tidemill_net::kafka::{AnyRequest, ApiKey, ErrorCode, Request, RequestHeader};
use tidemill_record::TopicId;

use super::{send, topic_id};

/// The id it gives to the member that is tested.
const US: &str = "us";

/// See the head of this file.
#[derive(Debug, Default)]
pub(crate) struct FakeGroup {
    /// The node that coordinates.
    pub(crate) node: i32,
    pub(crate) generation: i32,
    /// What other members say of themselves.
    pub(crate) others: Vec<Subscription>,
    /// If somebody else leads: what it gives to the member that is tested.
    pub(crate) given: Option<Vec<TopicPartitions>>,
    /// The next request of this kind is refused.
    pub(crate) refusals: VecDeque<(ApiKey, ErrorCode)>,
    pub(crate) committed: BTreeMap<(String, i32), i64>,
    /// What the member said of itself, each time it joined.
    pub(crate) joined: Vec<Subscription>,
    /// What it gave to each, the last time it led: itself first.
    pub(crate) shared_out: Vec<Vec<TopicPartitions>>,
    pub(crate) has_left: bool,
}

impl FakeGroup {
    fn refusal(&mut self, api: ApiKey) -> Option<ErrorCode> {
        let at = self.refusals.iter().position(|(refused, _)| *refused == api)?;
        self.refusals.remove(at).map(|(_, error)| error)
    }

    fn is_known(&self, member: &str, generation: i32) -> ErrorCode {
        match () {
            () if member != US => ErrorCode::UnknownMemberId,
            () if generation != self.generation => ErrorCode::IllegalGeneration,
            () => ErrorCode::None,
        }
    }

    /// Answers what is about a group; gives back what is not.
    pub(super) fn answer<'a>(
        &mut self,
        node: i32,
        header: &RequestHeader<'_>,
        request: AnyRequest<'a>,
        names: &[String],
        out: &mut BytesMut,
    ) -> Option<AnyRequest<'a>> {
        let is_elsewhere = node != self.node;
        let refusal = self.refusal(header.api_key);
        let refusal = if is_elsewhere { Some(ErrorCode::NotCoordinator) } else { refusal };
        match request {
            AnyRequest::FindCoordinator(asked) => {
                let found = Coordinator {
                    key: asked.coordinator_keys[0].clone(),
                    node_id: self.node,
                    ..Coordinator::default()
                };
                send(out, header, &FindCoordinatorResponse::of(vec![found]));
            }
            AnyRequest::JoinGroup(asked) => {
                let refusal = match refusal {
                    None if asked.member_id != US => Some(ErrorCode::MemberIdRequired),
                    refusal => refusal,
                };
                if let Some(error) = refusal {
                    send(out, header, &JoinGroupResponse::failed(US.to_owned(), error));
                    return None;
                }
                let protocol = &asked.protocols[0];
                self.joined.push(Subscription::decode(&protocol.metadata).unwrap());
                self.generation += 1;
                let mut members = vec![(US.to_owned(), protocol.metadata.clone())];
                for (number, other) in self.others.iter().enumerate() {
                    members.push((format!("other-{number}"), other.encode(3)));
                }
                let member = |(member_id, metadata): (String, Bytes)| JoinGroupResponseMember {
                    member_id,
                    metadata,
                    ..JoinGroupResponseMember::default()
                };
                let leads = self.given.is_none();
                let answer = JoinGroupResponse {
                    generation_id: self.generation,
                    protocol_name: Some(protocol.name.clone()),
                    leader: if leads { US.to_owned() } else { "other-0".to_owned() },
                    member_id: US.to_owned(),
                    members: members.into_iter().filter(|_| leads).map(member).collect(),
                    ..JoinGroupResponse::default()
                };
                send(out, header, &answer);
            }
            AnyRequest::SyncGroup(asked) => {
                let error = refusal.unwrap_or(self.is_known(&asked.member_id, asked.generation_id));
                let each = asked
                    .assignments
                    .iter()
                    .map(|told| Assignment::decode(&told.assignment).unwrap().assigned_partitions);
                self.shared_out = each.collect();
                let mine = self.given.clone().or(self.shared_out.first().cloned());
                let mine =
                    Assignment { assigned_partitions: mine.unwrap_or_default(), user_data: None };
                let answer = match error {
                    ErrorCode::None => {
                        SyncGroupResponse { assignment: mine.encode(0), ..Default::default() }
                    }
                    error => asked.error_response(error),
                };
                send(out, header, &answer);
            }
            AnyRequest::Heartbeat(asked) => {
                let error = refusal.unwrap_or(self.is_known(&asked.member_id, asked.generation_id));
                send(out, header, &HeartbeatResponse { error_code: error, ..Default::default() });
            }
            AnyRequest::OffsetCommit(asked) => {
                let generation = asked.generation_id_or_member_epoch;
                let error = refusal.unwrap_or(self.is_known(&asked.member_id, generation));
                send(out, header, &self.keep(&asked, error, names));
            }
            AnyRequest::OffsetFetch(asked) => {
                let answer = match refusal {
                    Some(error) => asked.error_response(error),
                    None => self.tell(&asked, names),
                };
                send(out, header, &answer);
            }
            AnyRequest::LeaveGroup(_) => {
                self.has_left = true;
                send(out, header, &LeaveGroupResponse::default());
            }
            other => return Some(other),
        }
        None
    }

    fn keep(
        &mut self,
        asked: &OffsetCommitRequest,
        error: ErrorCode,
        names: &[String],
    ) -> OffsetCommitResponse {
        let mut answer = OffsetCommitResponse::default();
        for topic in &asked.topics {
            let numbers = topic.partitions.iter().map(|asked| asked.partition_index);
            answer.topics.push(OffsetCommitResponseTopic {
                name: topic.name.clone(),
                topic_id: topic.topic_id,
                partitions: PartitionError::each(numbers, error),
            });
            for asked in topic.partitions.iter().filter(|_| error.is_none()) {
                let name = named(&topic.name, topic.topic_id, names);
                self.committed.insert((name, asked.partition_index), asked.committed_offset);
            }
        }
        answer
    }

    fn tell(&self, asked: &OffsetFetchRequest, names: &[String]) -> OffsetFetchResponse {
        let asked = &asked.groups[0];
        let topics = asked.topics.iter().flatten().map(|topic| {
            let name = named(&topic.name, topic.topic_id, names);
            let told = |&number: &i32| {
                let none = OffsetFetchResponsePartition::none(number);
                match self.committed.get(&(name.clone(), number)) {
                    Some(&committed_offset) => {
                        OffsetFetchResponsePartition { committed_offset, ..none }
                    }
                    None => none,
                }
            };
            OffsetFetchResponseTopic {
                name: topic.name.clone(),
                topic_id: topic.topic_id,
                partitions: topic.partition_indexes.iter().map(told).collect(),
            }
        });
        let group = OffsetFetchResponseGroup { topics: topics.collect(), ..Default::default() };
        OffsetFetchResponse { groups: vec![group], ..Default::default() }
    }
}

/// Newer requests name topics by their ids.
fn named(name: &str, id: TopicId, names: &[String]) -> String {
    let by_id = names.iter().find(|known| topic_id(known) == id);
    if name.is_empty() { by_id.expect("an id that we have told").clone() } else { name.to_owned() }
}
