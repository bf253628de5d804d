//! Calls about groups: each is asked of the group's coordinator, which is looked for first.

use std::collections::BTreeMap;
use std::sync::Arc;

use tidemill_net::kafka::consumer_group_describe::{
    ConsumerGroupDescribeRequest, ConsumerGroupMember, DescribedAssignment, member_type,
};
use tidemill_net::kafka::consumer_protocol::Assignment;
use tidemill_net::kafka::delete_groups::DeleteGroupsRequest;
use tidemill_net::kafka::describe_groups::{
    DescribeGroupsRequest, DescribedGroup, DescribedGroupMember, group_type, state,
};
use tidemill_net::kafka::find_coordinator::{FindCoordinatorRequest, key_type};
use tidemill_net::kafka::list_groups::ListGroupsRequest;
use tidemill_net::kafka::offset_commit::{
    OffsetCommitRequest, OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use tidemill_net::kafka::offset_fetch::{OffsetFetchRequest, OffsetFetchRequestGroup};
use tidemill_net::kafka::{ErrorCode, Request};

use super::Admin;
use super::asking::{decode, is_passing, unanswered};
use crate::cluster::Peer;
use crate::error::{Error, ErrorKind};

/// A group in a list.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct ListedGroup {
    /// Its name.
    pub name: String,
    /// Its state, in Kafka's words; empty if the broker is too old to tell.
    pub state: String,
    /// Which protocol its members speak, `classic`, `consumer` or `share`; empty if not told.
    pub kind: String,
    /// What it is for, such as `consumer`; empty for a group of nothing but offsets.
    pub protocol_type: String,
}

/// A group and its members.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct GroupView {
    /// Its state, in Kafka's words.
    pub state: String,
    /// Which protocol its members speak: `classic`, `consumer` or `share`.
    pub kind: &'static str,
    /// How its members share partitions; empty if there are none.
    pub assignor: String,
    /// The node that looks after it.
    pub coordinator: i32,
    /// How often its members or what they want have changed; not told of a classic group.
    pub epoch: Option<i32>,
    /// The epoch for which its partitions were shared out; not told of a classic group.
    pub assignment_epoch: Option<i32>,
    /// Who is in it.
    pub members: Vec<MemberView>,
}

/// A member of a group.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct MemberView {
    /// Its name.
    pub name: String,
    /// Its name across restarts, if it is a static member.
    pub instance: Option<String>,
    /// What its client calls itself.
    pub client: String,
    /// Where it comes from.
    pub host: String,
    /// Which protocol it speaks, `classic`, `consumer` or `share`: that of its group, but in a group
    /// on its way from `classic` to `consumer` or back. Empty if the broker does not say.
    pub kind: &'static str,
    /// The epoch it has come to; not told of members of a classic group.
    pub epoch: Option<i32>,
    /// What it reads; empty if that is not for us to understand.
    pub partitions: Vec<(String, i32)>,
    /// What it is to read once all have given up and taken what they are to; where that is told.
    pub target: Option<Vec<(String, i32)>>,
}

/// Offsets by topic and partition.
pub type GroupOffsets = BTreeMap<(Arc<str>, i32), i64>;

impl Admin {
    /// All groups, by name. Every node is asked for those it looks after.
    pub fn groups(&mut self) -> Result<Vec<ListedGroup>, Error> {
        let what = "cannot list the groups";
        let nodes: Vec<i32> = self.cluster()?.nodes.into_keys().collect();
        let mut groups = Vec::new();
        for node in nodes {
            let peer = |_: &_| Peer::Node(node);
            let request = ListGroupsRequest::default();
            let listed = self.call(what.to_owned(), peer, &request, |answer| {
                Some((answer.error_code, None, answer.groups.clone()))
            })?;
            groups.extend(listed.into_iter().map(|group| ListedGroup {
                name: group.group_id,
                state: group.group_state,
                kind: group.group_type,
                protocol_type: group.protocol_type,
            }));
        }
        groups.sort_unstable();
        groups.dedup();
        Ok(groups)
    }

    /// One group and its members; none if there is no such group, or it is a share group: see
    /// [`Admin::share_group`].
    pub fn group(&mut self, name: &str) -> Result<Option<GroupView>, Error> {
        let what = format!("cannot describe group {name}");
        let newer = ConsumerGroupDescribeRequest {
            group_ids: vec![name.to_owned()],
            include_authorized_operations: false,
        };
        let told = self.ask_coordinator(&what, name, &newer, |answer| {
            let group = answer.groups.first()?;
            Some((group.error_code, group.error_message.clone(), group.clone()))
        });
        match told {
            Ok((coordinator, group)) => {
                return Ok(Some(GroupView {
                    state: group.group_state,
                    kind: group_type::CONSUMER,
                    assignor: group.assignor_name,
                    coordinator,
                    epoch: Some(group.group_epoch),
                    assignment_epoch: Some(group.assignment_epoch),
                    members: group.members.into_iter().map(newer_member).collect(),
                }));
            }
            Err(error) if is_other_kind(&error) => {}
            Err(error) => return Err(error),
        }
        let classic = DescribeGroupsRequest { groups: vec![name.to_owned()], ..Default::default() };
        let told = self.ask_coordinator(&what, name, &classic, |answer| {
            let group = answer.groups.first()?;
            Some((group.error_code, group.error_message.clone(), group.clone()))
        });
        match told {
            Ok((_, group)) if group.group_state == state::DEAD => Ok(None),
            Ok((coordinator, group)) => Ok(Some(classic_group(group, coordinator))),
            Err(error) if is_other_kind(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Where a group's members have come to: what it has committed.
    pub fn group_offsets(&mut self, group: &str) -> Result<GroupOffsets, Error> {
        let what = format!("cannot tell the offsets of group {group}");
        let request = OffsetFetchRequest {
            group_id: group.to_owned(),
            topics: None,
            groups: vec![OffsetFetchRequestGroup {
                group_id: group.to_owned(),
                topics: None,
                ..OffsetFetchRequestGroup::default()
            }],
            require_stable: false,
        };
        let (_, topics) =
            self.ask_coordinator(&what, group, &request, |answer| match answer.groups.first() {
                Some(group) => Some((group.error_code, None, group.topics.clone())),
                None => Some((answer.error_code, None, answer.topics.clone())),
            })?;
        let by_id = topics.iter().any(|topic| topic.name.is_empty());
        let names = if by_id { self.names_of_topics()? } else { BTreeMap::new() };
        let mut offsets = GroupOffsets::new();
        for topic in topics {
            let named = (!topic.name.is_empty()).then(|| Arc::from(topic.name.as_str()));
            let Some(name) = named.or_else(|| names.get(&topic.topic_id).cloned()) else {
                continue;
            };
            for partition in topic.partitions.iter().filter(|p| p.error_code.is_none()) {
                let at = (Arc::clone(&name), partition.partition_index);
                offsets.insert(at, partition.committed_offset);
            }
        }
        offsets.retain(|_, offset| 0 <= *offset);
        Ok(offsets)
    }

    fn names_of_topics(&mut self) -> Result<BTreeMap<tidemill_record::TopicId, Arc<str>>, Error> {
        let topics = self.topics()?;
        Ok(topics.into_iter().map(|(name, topic)| (topic.id, name)).collect())
    }

    /// Commits offsets for a group that nobody is in.
    pub fn commit_group_offsets(
        &mut self,
        group: &str,
        offsets: &GroupOffsets,
    ) -> Result<(), Error> {
        let what = format!("cannot set the offsets of group {group}");
        let ids: BTreeMap<Arc<str>, tidemill_record::TopicId> =
            self.names_of_topics()?.into_iter().map(|(id, name)| (name, id)).collect();
        let topics = offsets.iter().map(|((topic, partition), offset)| OffsetCommitRequestTopic {
            name: topic.to_string(),
            topic_id: ids.get(topic).copied().unwrap_or_default(),
            partitions: vec![OffsetCommitRequestPartition {
                partition_index: *partition,
                committed_offset: *offset,
                committed_leader_epoch: -1,
                committed_metadata: None,
            }],
        });
        let request = OffsetCommitRequest {
            group_id: group.to_owned(),
            topics: topics.collect(),
            ..OffsetCommitRequest::default()
        };
        self.ask_coordinator(&what, group, &request, |answer| {
            let told = answer.topics.iter().flat_map(|topic| &topic.partitions);
            let mut codes = told.map(|partition| partition.error_code);
            Some((codes.find(|code| !code.is_none()).unwrap_or(ErrorCode::None), None, ()))
        })?;
        Ok(())
    }

    /// Deletes a group that nobody is in, and all it has committed.
    pub fn delete_group(&mut self, group: &str) -> Result<(), Error> {
        let what = format!("cannot delete group {group}");
        let request = DeleteGroupsRequest { groups_names: vec![group.to_owned()] };
        self.ask_coordinator(&what, group, &request, |answer| {
            Some((answer.results.first()?.error_code, None, ()))
        })?;
        Ok(())
    }

    pub(super) fn ask_coordinator<R: Request, T>(
        &mut self,
        what: &str,
        group: &str,
        request: &R,
        read: impl Fn(&R::Response) -> Option<(ErrorCode, Option<String>, T)>,
    ) -> Result<(i32, T), Error> {
        self.ask_coordinator_of(key_type::GROUP, what, group, request, read)
    }

    /// Finds out who looks after a group or a transactional id and asks there, again while that may
    /// help. Tells who answered, too.
    pub(super) fn ask_coordinator_of<R: Request, T>(
        &mut self,
        key_type: i8,
        what: &str,
        key: &str,
        request: &R,
        read: impl Fn(&R::Response) -> Option<(ErrorCode, Option<String>, T)>,
    ) -> Result<(i32, T), Error> {
        let find = FindCoordinatorRequest {
            key: key.to_owned(),
            key_type,
            coordinator_keys: vec![key.to_owned()],
        };
        let mut call = self.begin(what);
        loop {
            let node = self.call(
                what.to_owned(),
                |_| Peer::Any,
                &find,
                |answer| {
                    Some(match answer.coordinators.first() {
                        Some(told) => (told.error_code, told.error_message.clone(), told.node_id),
                        None => (answer.error_code, answer.error_message.clone(), answer.node_id),
                    })
                },
            )?;
            let Some(reply) = self.ask(&mut call, Peer::Node(node), request)? else { continue };
            let answer = decode::<R::Response>(&call, &reply)?;
            let (code, words, result) = read(&answer).ok_or_else(|| unanswered(&call))?;
            if code.is_none() {
                return Ok((node, result));
            }
            let error = Error::refused(what, code, words.as_deref());
            if !is_passing(code) {
                return Err(error);
            }
            self.pause(&mut call, error)?;
        }
    }
}

/// Whether a group is not of the kind that was asked about, or the broker knows no such kind.
pub(super) fn is_other_kind(error: &Error) -> bool {
    let kind = error.kind();
    kind == ErrorKind::Refused(ErrorCode::GroupIdNotFound) || kind == ErrorKind::Unsupported
}

fn newer_member(member: ConsumerGroupMember) -> MemberView {
    MemberView {
        kind: match member.member_type {
            member_type::CLASSIC => group_type::CLASSIC,
            member_type::CONSUMER => group_type::CONSUMER,
            _ => "",
        },
        epoch: Some(member.member_epoch),
        partitions: named_partitions(member.assignment),
        target: Some(named_partitions(member.target_assignment)),
        name: member.member_id,
        instance: member.instance_id,
        client: member.client_id,
        host: member.client_host,
    }
}

pub(super) fn named_partitions(assignment: DescribedAssignment) -> Vec<(String, i32)> {
    let topics = assignment.topic_partitions.into_iter();
    let partitions = topics.flat_map(|topic| {
        let name = topic.topic_name;
        topic.partitions.into_iter().map(move |partition| (name.clone(), partition))
    });
    partitions.collect()
}

fn classic_group(group: DescribedGroup, coordinator: i32) -> GroupView {
    GroupView {
        state: group.group_state,
        kind: group_type::CLASSIC,
        assignor: group.protocol_data,
        coordinator,
        epoch: None,
        assignment_epoch: None,
        members: group.members.into_iter().map(classic_member).collect(),
    }
}

fn classic_member(member: DescribedGroupMember) -> MemberView {
    let assignment = Assignment::decode(&member.member_assignment).unwrap_or_default();
    let topics = assignment.assigned_partitions.into_iter();
    let partitions = topics.flat_map(|topic| {
        let name = topic.topic;
        topic.partitions.into_iter().map(move |partition| (name.clone(), partition))
    });
    MemberView {
        kind: group_type::CLASSIC,
        epoch: None,
        partitions: partitions.collect(),
        target: None,
        name: member.member_id,
        instance: member.group_instance_id,
        client: member.client_id,
        host: member.client_host,
    }
}
