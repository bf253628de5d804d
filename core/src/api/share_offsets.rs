//! How far share groups have come: DescribeShareGroupOffsets, AlterShareGroupOffsets and
//! DeleteShareGroupOffsets, and what of it goes before a group is deleted (KIP-932).
//!
//! Each is a job of stages: it asks some coordinators or partitions, and when all have answered the
//! next stage follows from what they said. What a group has read is kept in many places; all of them
//! are asked for it.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use tidemill_net::kafka::alter_share_group_offsets::{
    AlterShareGroupOffsetsRequest, AlterShareGroupOffsetsResponse, AlteredShareGroupPartition,
    AlteredShareGroupTopic,
};
use tidemill_net::kafka::delete_groups::DeleteGroupsRequest;
use tidemill_net::kafka::delete_share_group_offsets::{
    DeleteShareGroupOffsetsRequest, DeleteShareGroupOffsetsResponse, DeletedShareGroupTopic,
};
use tidemill_net::kafka::describe_share_group_offsets::{
    DescribeShareGroupOffsetsRequest, DescribeShareGroupOffsetsResponse, ShareGroupOffsets,
    ShareGroupPartitionOffset, ShareGroupToDescribe, ShareGroupTopicOffsets,
};
use tidemill_net::kafka::list_offsets::LATEST;
use tidemill_net::kafka::{ErrorCode, Request as _, TopicRef};
use tidemill_record::{PartitionId, TopicId, TopicPartition};

use super::groups::{error_of, is_group_name, reply_of};
use super::share_groups::First;
use super::{Job, ReplyForm, name_once};
use crate::coordinator::request::{Reply as GroupReply, Request as GroupRequest};
use crate::job::JobId;
use crate::limits::SHARE_GROUPS_DESCRIBED_MAX;
use crate::message::{Answer, Call};
use crate::partition::Times;
use crate::shard::Shard;
use crate::share::Coordinator;
use crate::share::record::Key;
use crate::share::request::{Listed, Reply, Request};

/// A request under way.
pub struct Work {
    reply: ReplyForm,
    answers: Vec<Option<Answer>>,
    missing: usize,
    then: Then,
}

/// What the answers are for.
enum Then {
    /// Of each group, whether there is one, and what it has read.
    Describe(DescribeShareGroupOffsetsRequest),
    /// The ends of the partitions that are told of.
    DescribeEnds(DescribeShareGroupOffsetsResponse),
    /// Whether the group has members.
    Alter(AlterShareGroupOffsetsRequest),
    /// Whether it begins elsewhere now.
    Altered(AlterShareGroupOffsetsResponse),
    /// Whether the group has members, and what it has read.
    Delete(DeleteShareGroupOffsetsRequest),
    /// Whether that is forgotten.
    Deleted(DeleteShareGroupOffsetsResponse),
    /// Of each group, whether it is a share group that can be deleted.
    DeleteGroups(DeleteGroupsRequest),
    /// Whether what they have read is forgotten; each answer is about the group in its place.
    Forgotten(DeleteGroupsRequest, Vec<Arc<str>>),
}

impl Shard {
    // Describing.

    pub(crate) fn handle_describe_share_offsets(
        &mut self,
        reply: ReplyForm,
        mut request: DescribeShareGroupOffsetsRequest,
        times: Times,
    ) {
        let mut seen = HashSet::new();
        request.groups.retain(|group| seen.insert(group.group_id.clone()));
        let mut calls = Vec::new();
        for group in request.groups.iter().take(SHARE_GROUPS_DESCRIBED_MAX) {
            let group: Arc<str> = group.group_id.as_str().into();
            let Some(asked) = self.describe_share(&group) else {
                let response = request.error_response(ErrorCode::GroupIdNotFound);
                return self.reply_message(reply, &response);
            };
            calls.push(asked);
            calls.extend(self.list_share(&group));
        }
        self.begin_share_work(reply, calls, Then::Describe(request), times);
    }

    fn describe_share_groups(
        &mut self,
        reply: ReplyForm,
        request: DescribeShareGroupOffsetsRequest,
        mut answers: impl Iterator<Item = Answer>,
        times: Times,
    ) {
        let places = self.partitions_of::<Coordinator>().len();
        let mut groups = Vec::with_capacity(request.groups.len());
        for (index, group) in request.groups.into_iter().enumerate() {
            if SHARE_GROUPS_DESCRIBED_MAX <= index {
                // More than is told of at once.
                groups.push(ShareGroupOffsets::failed(group.group_id, ErrorCode::InvalidRequest));
                continue;
            }
            let told = reply_of(answers.next().expect("one for each group"));
            let listed: Vec<Answer> = answers.by_ref().take(places).collect();
            groups.push(match check_empty(&told, false) {
                Ok(()) => self.offsets_of_share_group(group, listed),
                Err(error) => ShareGroupOffsets::failed(group.group_id, error),
            });
        }
        let mut calls = Vec::new();
        for (topic, partition) in groups.iter().flat_map(|group| &group.topics).flat_map(parts_of) {
            let id = TopicPartition { topic, partition: PartitionId(partition.partition_index) };
            let read_committed = false;
            let call =
                Call::ListOffset { timestamp: LATEST, read_committed, current_leader_epoch: None };
            calls.push((id, call));
        }
        let response = DescribeShareGroupOffsetsResponse { groups, ..Default::default() };
        self.begin_share_work(reply, calls, Then::DescribeEnds(response), times);
    }

    /// What a group has read, without where the logs end: in place of how far it is behind there is
    /// what it is to be counted with.
    fn offsets_of_share_group(
        &self,
        group: ShareGroupToDescribe,
        answers: Vec<Answer>,
    ) -> ShareGroupOffsets {
        let known = match listed(answers.into_iter()) {
            Ok(known) => known,
            Err(error) => return ShareGroupOffsets::failed(group.group_id, error),
        };
        let named: Vec<(TopicId, String, Vec<i32>)> = match group.topics {
            Some(topics) => {
                let mut topics = topics;
                let mut seen = HashSet::new();
                topics.retain_mut(|topic| {
                    let topic_seen = seen.insert(topic.topic.clone());
                    topic_seen && name_once(&mut topic.partitions, &mut HashSet::new())
                });
                let named = topics.into_iter().map(|topic| {
                    let id = self.image.topic_named(&topic.topic).map(|found| found.id);
                    (id.unwrap_or(TopicId::ZERO), topic.topic, topic.partitions)
                });
                named.collect()
            }
            None => {
                let mut all: BTreeMap<TopicId, Vec<i32>> = BTreeMap::new();
                for (topic, partition) in known.keys() {
                    all.entry(*topic).or_default().push(*partition);
                }
                let named = all.into_iter().filter_map(|(id, partitions)| {
                    Some((id, self.image.topic(id)?.name.to_string(), partitions))
                });
                named.collect()
            }
        };
        let topics = named.into_iter().map(|(topic_id, topic_name, partitions)| {
            let told = |partition_index: i32| {
                let found = known.get(&(topic_id, partition_index));
                let place = PartitionId(partition_index);
                let epoch = self.image.leader_epoch(topic_id, place).map(|epoch| epoch.0);
                ShareGroupPartitionOffset {
                    partition_index,
                    start_offset: found.map_or(-1, |found| found.start),
                    lag: found.map_or(-1, |found| found.start + found.done_past_start),
                    leader_epoch: epoch.unwrap_or(0),
                    error_code: match epoch {
                        Some(_) => ErrorCode::None,
                        None => ErrorCode::UnknownTopicOrPartition,
                    },
                    ..ShareGroupPartitionOffset::default()
                }
            };
            let partitions = partitions.into_iter().map(told).collect();
            ShareGroupTopicOffsets { topic_name, topic_id, partitions }
        });
        ShareGroupOffsets {
            group_id: group.group_id,
            topics: topics.collect(),
            ..ShareGroupOffsets::default()
        }
    }

    // Altering.

    pub(crate) fn handle_alter_share_offsets(
        &mut self,
        reply: ReplyForm,
        request: AlterShareGroupOffsetsRequest,
        times: Times,
    ) {
        let group: Arc<str> = request.group_id.as_str().into();
        let Some(coordinator) = self.partition_of_group(&group) else {
            return self.reply_message(reply, &request.error_response(ErrorCode::NotCoordinator));
        };
        if !is_group_name(&group) {
            return self.reply_message(reply, &request.error_response(ErrorCode::InvalidGroupId));
        }
        if self.waits_for_share_topic(reply, First::Alter, times) {
            return;
        }
        let make = Call::Group(Box::new(GroupRequest::MakeShare { group }));
        self.begin_share_work(reply, vec![(coordinator, make)], Then::Alter(request), times);
    }

    fn alter_share_offsets(
        &mut self,
        reply: ReplyForm,
        request: AlterShareGroupOffsetsRequest,
        times: Times,
    ) {
        let group: Arc<str> = request.group_id.as_str().into();
        let mut calls = Vec::new();
        // Each partition once, however often it is named: what was said first counts.
        let mut topics = request.topics;
        let mut seen: HashMap<String, HashSet<i32>> = HashMap::new();
        topics.retain_mut(|topic| {
            let is_new = !seen.contains_key(&topic.topic_name);
            let seen = seen.entry(topic.topic_name.clone()).or_default();
            topic.partitions.retain(|one| seen.insert(one.partition_index));
            is_new || !topic.partitions.is_empty()
        });
        let topics = topics.into_iter().map(|topic| {
            let topic_id = self.image.topic_named(&topic.topic_name).map(|found| found.id);
            let partitions = topic.partitions.into_iter().map(|one| {
                let name = TopicRef::Name(&topic.topic_name);
                let found = self.find_partition(name, one.partition_index);
                let key = found.map(|id| Key {
                    group: Arc::clone(&group),
                    topic: id.topic,
                    partition: id.partition.0,
                });
                let asked = key.and_then(|key| {
                    let at = self.partition_of_share(&key);
                    at.map(|at| (at, key)).ok_or(ErrorCode::CoordinatorNotAvailable)
                });
                let error_code = match asked {
                    Ok((at, key)) if 0 <= one.start_offset => {
                        let request = Request::Reset { key, start: one.start_offset };
                        calls.push((at, Call::Share(Box::new(request))));
                        ErrorCode::None
                    }
                    Ok(_) => ErrorCode::InvalidRequest,
                    Err(error) => error,
                };
                AlteredShareGroupPartition {
                    partition_index: one.partition_index,
                    error_code,
                    error_message: None,
                }
            });
            AlteredShareGroupTopic {
                partitions: partitions.collect(),
                topic_name: topic.topic_name,
                topic_id: topic_id.unwrap_or(TopicId::ZERO),
            }
        });
        let responses = topics.collect();
        let response = AlterShareGroupOffsetsResponse { responses, ..Default::default() };
        self.begin_share_work(reply, calls, Then::Altered(response), times);
    }

    // Deleting.

    pub(crate) fn handle_delete_share_offsets(
        &mut self,
        reply: ReplyForm,
        request: DeleteShareGroupOffsetsRequest,
        times: Times,
    ) {
        let group: Arc<str> = request.group_id.as_str().into();
        let calls = match self.describe_share(&group) {
            Some(asked) => std::iter::once(asked).chain(self.list_share(&group)).collect(),
            None => Vec::new(),
        };
        self.begin_share_work(reply, calls, Then::Delete(request), times);
    }

    fn delete_share_offsets(
        &mut self,
        reply: ReplyForm,
        request: DeleteShareGroupOffsetsRequest,
        known: &BTreeMap<(TopicId, i32), Listed>,
        times: Times,
    ) {
        let has_read = |topic: TopicId| {
            let first = known.range((topic, i32::MIN)..).next();
            first.is_some_and(|((found, _), _)| *found == topic)
        };
        let group: Arc<str> = request.group_id.as_str().into();
        let mut topics = request.topics;
        let mut seen = HashSet::new();
        topics.retain(|topic| seen.insert(topic.topic_name.clone()));
        let mut ids = BTreeSet::new();
        let topics = topics.into_iter().map(|topic| {
            let found = self.image.topic_named(&topic.topic_name).map(|found| found.id);
            let read = match found {
                Some(id) if has_read(id) => Ok(id),
                Some(_) => Err("the group has read nothing of this topic"),
                None => Err("there is no such topic"),
            };
            ids.extend(read);
            DeletedShareGroupTopic {
                topic_name: topic.topic_name,
                topic_id: read.unwrap_or(TopicId::ZERO),
                error_code: match read {
                    Ok(_) => ErrorCode::None,
                    Err(_) => ErrorCode::UnknownTopicOrPartition,
                },
                error_message: read.err().map(str::to_owned),
            }
        });
        let responses = topics.collect();
        let calls = match ids.is_empty() {
            true => Vec::new(),
            false => self.forget_share(&group, Some(Arc::new(ids))),
        };
        let response = DeleteShareGroupOffsetsResponse { responses, ..Default::default() };
        self.begin_share_work(reply, calls, Then::Deleted(response), times);
    }

    /// What share groups have read is forgotten before they are deleted: were it the other way round
    /// and could not be forgotten, a new group of the name would go on where the old one was.
    pub(super) fn forget_before_deleting(
        &mut self,
        reply: ReplyForm,
        request: DeleteGroupsRequest,
        times: Times,
    ) {
        let groups = request.groups_names.iter();
        let calls = groups.filter_map(|group| self.describe_share(group)).collect();
        self.begin_share_work(reply, calls, Then::DeleteGroups(request), times);
    }

    fn forget_groups(
        &mut self,
        reply: ReplyForm,
        request: DeleteGroupsRequest,
        told: impl Iterator<Item = GroupReply>,
        times: Times,
    ) {
        // There is nobody to ask about any of them before the first group of all.
        let told = request.groups_names.iter().zip(told);
        // Why others cannot be deleted is told by who is to delete them.
        let gone = told.filter(|(_, told)| check_empty(told, true).is_ok());
        let mut calls = Vec::new();
        let mut of_groups = Vec::new();
        for (group, _) in gone {
            calls.extend(self.forget_share(group, None));
            of_groups.resize(calls.len(), Arc::from(group.as_str()));
        }
        self.begin_share_work(reply, calls, Then::Forgotten(request, of_groups), times);
    }

    /// The calls by which what a group has read is forgotten.
    fn forget_share(
        &self,
        group: &str,
        topics: Option<Arc<BTreeSet<TopicId>>>,
    ) -> Vec<(TopicPartition, Call)> {
        let group: Arc<str> = group.into();
        let everywhere = self.partitions_of::<Coordinator>().into_iter();
        let calls = everywhere.map(|at| {
            let (group, topics) = (Arc::clone(&group), topics.clone());
            let request = Request::Forget { group, topics };
            (at, Call::Share(Box::new(request)))
        });
        calls.collect()
    }

    /// The calls by which it is asked what a group has read.
    fn list_share(&self, group: &Arc<str>) -> Vec<(TopicPartition, Call)> {
        let everywhere = self.partitions_of::<Coordinator>().into_iter();
        let calls = everywhere.map(|at| {
            let request = Request::List { group: Arc::clone(group) };
            (at, Call::Share(Box::new(request)))
        });
        calls.collect()
    }

    // Working.

    /// The call by which it is asked whether there is such a share group, and who is in it; none
    /// before the first group of all.
    fn describe_share(&self, group: &str) -> Option<(TopicPartition, Call)> {
        let coordinator = self.partition_of_group(group)?;
        let describe = GroupRequest::DescribeShare { group: group.into() };
        Some((coordinator, Call::Group(Box::new(describe))))
    }

    fn begin_share_work(
        &mut self,
        reply: ReplyForm,
        calls: Vec<(TopicPartition, Call)>,
        then: Then,
        times: Times,
    ) {
        let missing = calls.len();
        let answers = (0..missing).map(|_| None).collect();
        let work = Work { reply, answers, missing, then };
        if missing == 0 {
            return self.go_on_with_share_work(work, times);
        }
        let job = self.jobs.insert(Job::ShareOffsets(Box::new(work)));
        let calls = (0..).zip(calls).map(|(index, (at, call))| (index, at, call));
        self.call(job, calls, times);
    }

    pub(super) fn share_offsets_answered(
        &mut self,
        job: JobId,
        index: u32,
        answer: Answer,
        times: Times,
    ) {
        let Some(Job::ShareOffsets(work)) = self.jobs.get_mut(job) else { return };
        work.answers[index as usize] = Some(answer);
        work.missing -= 1;
        if work.missing == 0
            && let Some(Job::ShareOffsets(work)) = self.jobs.remove(job)
        {
            self.go_on_with_share_work(*work, times);
        }
    }

    fn go_on_with_share_work(&mut self, work: Work, times: Times) {
        let Work { reply, answers, then, .. } = work;
        let mut answers = answers.into_iter().map(|answer| answer.expect("all have come"));
        match then {
            Then::Describe(request) => self.describe_share_groups(reply, request, answers, times),
            Then::DescribeEnds(mut response) => {
                let topics = response.groups.iter_mut().flat_map(|group| &mut group.topics);
                let all = topics.flat_map(|topic| &mut topic.partitions);
                for partition in all.filter(|partition| is_counted(partition)) {
                    let answer = answers.next().expect("one for each partition");
                    partition.lag = match answer {
                        Answer::Offset { found: Some((end, _)), .. } => {
                            (end.0 - partition.lag).max(0)
                        }
                        _ => -1,
                    };
                }
                self.reply_message(reply, &response);
            }
            Then::Alter(request) => match check_changeable(answers.next()) {
                Ok(()) => self.alter_share_offsets(reply, request, times),
                Err(error) => self.reply_message(reply, &request.error_response(error)),
            },
            Then::Altered(mut response) => {
                let all = response.responses.iter_mut().flat_map(|topic| &mut topic.partitions);
                for partition in all.filter(|partition| partition.error_code.is_none()) {
                    let answer = answers.next().expect("one for each partition");
                    partition.error_code = error_of_share(&answer);
                }
                self.reply_message(reply, &response);
            }
            Then::Delete(request) => {
                match check_changeable(answers.next()).and_then(|()| listed(answers)) {
                    Ok(known) => self.delete_share_offsets(reply, request, &known, times),
                    Err(error) => self.reply_message(reply, &request.error_response(error)),
                }
            }
            Then::Deleted(mut response) => {
                let error = answers.map(|answer| error_of_share(&answer));
                if let Some(error) = error.into_iter().find(|error| !error.is_none()) {
                    let all = response.responses.iter_mut();
                    all.filter(|topic| topic.error_code.is_none())
                        .for_each(|topic| topic.error_code = error);
                }
                self.reply_message(reply, &response);
            }
            Then::DeleteGroups(request) => {
                self.forget_groups(reply, request, answers.map(reply_of), times);
            }
            Then::Forgotten(request, groups) => {
                let told = groups.into_iter().zip(answers);
                let told = told.map(|(group, answer)| (group, error_of_share(&answer)));
                let kept = told.filter(|(_, error)| !error.is_none()).collect();
                self.delete_groups(reply, request, kept, times);
            }
        }
    }
}

/// Whether this is a share group, and one that can be changed if it is to be.
fn check_empty(told: &GroupReply, must_be_empty: bool) -> Result<(), ErrorCode> {
    match told {
        GroupReply::ShareDescribed(Some(group)) if must_be_empty && !group.members.is_empty() => {
            Err(ErrorCode::NonEmptyGroup)
        }
        GroupReply::ShareDescribed(Some(_)) => Ok(()),
        GroupReply::ShareDescribed(None) => Err(ErrorCode::GroupIdNotFound),
        other => Err(error_of(other)),
    }
}

/// Whether what it has read can be changed of a group, of which there is no answer before the first
/// group of all.
fn check_changeable(answer: Option<Answer>) -> Result<(), ErrorCode> {
    check_empty(&answer.map_or(GroupReply::ShareDescribed(None), reply_of), true)
}

/// What a group has read, as all coordinators of share groups tell it.
fn listed(
    answers: impl Iterator<Item = Answer>,
) -> Result<BTreeMap<(TopicId, i32), Listed>, ErrorCode> {
    let mut known = BTreeMap::new();
    for answer in answers {
        match answer {
            Answer::Share(reply) => match *reply {
                Reply::Listed(all) => {
                    known.extend(all.into_iter().map(|one| ((one.topic, one.partition), one)));
                }
                Reply::Refused(error) => return Err(error),
                other => unreachable!("a list was asked for, not {other:?}"),
            },
            Answer::Refused { error, .. } => return Err(error),
            other => unreachable!("a list was asked for, not {other:?}"),
        }
    }
    Ok(known)
}

/// The partitions of a topic whose end is asked for.
fn parts_of(
    topic: &ShareGroupTopicOffsets,
) -> impl Iterator<Item = (TopicId, &ShareGroupPartitionOffset)> {
    let counted = topic.partitions.iter().filter(|partition| is_counted(partition));
    counted.map(|partition| (topic.topic_id, partition))
}

/// Whether it is told how far the group is behind there.
fn is_counted(partition: &ShareGroupPartitionOffset) -> bool {
    partition.error_code.is_none() && 0 <= partition.start_offset
}

fn error_of_share(answer: &Answer) -> ErrorCode {
    match answer {
        Answer::Share(reply) => match **reply {
            Reply::Refused(error) => error,
            _ => ErrorCode::None,
        },
        Answer::Refused { error, .. } => *error,
        other => unreachable!("what is kept of share groups was to be changed, not {other:?}"),
    }
}
