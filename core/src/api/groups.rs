//! Groups: joining and leaving, and what tools ask about them.
//!
//! What a group does is decided by its coordinator ([`crate::coordinator`]), at home where its
//! partition of `__consumer_offsets` is. Here Kafka's messages become questions to it, and its
//! answers replies in the version asked. A request about a group may come to any shard.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use tidemill_net::kafka::acl::operation::{self, bit};
use tidemill_net::kafka::consumer_group_describe::ConsumerGroupDescribeRequest;
use tidemill_net::kafka::delete_groups::{
    DeletableGroupResult, DeleteGroupsRequest, DeleteGroupsResponse,
};
use tidemill_net::kafka::describe_groups::{
    DescribeGroupsRequest, DescribeGroupsResponse, DescribedGroup, DescribedGroupMember,
};
use tidemill_net::kafka::heartbeat::{HeartbeatRequest, HeartbeatResponse};
use tidemill_net::kafka::join_group::{
    JoinGroupRequest, JoinGroupResponse, JoinGroupResponseMember, MEMBER_ID_REQUIRED_FROM,
    SKIP_ASSIGNMENT_FROM,
};
use tidemill_net::kafka::leave_group::{
    LeaveGroupRequest, LeaveGroupResponse, MemberIdentity, MemberResponse,
};
use tidemill_net::kafka::list_groups::{ListGroupsRequest, ListGroupsResponse, ListedGroup};
use tidemill_net::kafka::offset_delete::OffsetDeleteRequest;
use tidemill_net::kafka::share_group_describe::ShareGroupDescribeRequest;
use tidemill_net::kafka::sync_group::{SyncGroupRequest, SyncGroupResponse};
use tidemill_net::kafka::{ErrorCode, Request as _};
use tidemill_perf::Stage;
use tidemill_record::{Producer, TopicPartition};

use super::group_offsets::{CommitAnswer, FetchedGroup};
use super::{Collect, Job, ReplyForm, name_once};
use crate::coordinator::request::{
    Description, Heartbeat, Join, Joined, Leave, List, MemberDescription, Protocol, Reply, Request,
    Sync, Synced, Who,
};
use crate::limits::{CLIENT_ID_BYTES_IN_GROUP, GROUP_NAME_BYTES_MAX};
use crate::message::{Answer, Call, GroupQuestion, InTransaction};
use crate::partition::Times;
use crate::shard::Shard;

/// Before this version the name of a protocol cannot be null.
const NULL_PROTOCOL_FROM: i16 = 7;

/// What a client may do with a group while there is no authorizer: all that Kafka 4.3 knows of one.
pub(super) const ALLOWED_OPERATIONS: i32 = bit(operation::READ)
    | bit(operation::DELETE)
    | bit(operation::DESCRIBE)
    | bit(operation::DESCRIBE_CONFIGS)
    | bit(operation::ALTER_CONFIGS);

/// Which reply the answers of coordinators make.
pub enum Purpose {
    /// JoinGroup.
    Join,
    /// SyncGroup.
    Sync,
    /// Heartbeat.
    Heartbeat,
    /// LeaveGroup, with who was to go.
    Leave(Vec<MemberIdentity>),
    /// ListGroups.
    List,
    /// DescribeGroups.
    Describe(DescribeGroupsRequest),
    /// DeleteGroups, with what is told of those that nobody was asked to delete.
    Delete(DeleteGroupsRequest, HashMap<Arc<str>, ErrorCode>),
    /// See [`super::consumer_groups`].
    ConsumerHeartbeat,
    /// See [`super::consumer_groups`].
    DescribeConsumers(ConsumerGroupDescribeRequest),
    /// See [`super::share_groups`].
    ShareHeartbeat {
        /// When the member is to be heard again.
        interval_ms: i32,
    },
    /// See [`super::share_groups`].
    DescribeShares(ShareGroupDescribeRequest),
    /// See [`super::group_offsets`].
    Commit(CommitAnswer),
    /// See [`super::group_offsets`].
    Fetch(Vec<FetchedGroup>),
    /// See [`super::group_offsets`].
    DeleteOffsets(OffsetDeleteRequest, Vec<ErrorCode>),
}

impl Shard {
    // Members.

    pub(crate) fn handle_join_group(
        &mut self,
        reply: ReplyForm,
        request: JoinGroupRequest,
        client_id: Option<&str>,
        times: Times,
    ) {
        let groups = &self.settings.config.groups;
        let session_timeout = milliseconds(request.session_timeout_ms);
        let refused = if !is_group_name(&request.group_id) {
            Some(ErrorCode::InvalidGroupId)
        } else if session_timeout < groups.session_min || groups.session_max < session_timeout {
            Some(ErrorCode::InvalidSessionTimeout)
        } else if !names_fit(&[&request.member_id, &request.protocol_type])
            || request.group_instance_id.as_deref().is_some_and(|name| !is_instance_name(name))
        {
            Some(ErrorCode::InvalidRequest)
        } else {
            None
        };
        if let Some(error) = refused {
            return self.reply_message(reply, &JoinGroupResponse::failed(request.member_id, error));
        }
        let rebalance_timeout = milliseconds(request.rebalance_timeout_of(reply.version));
        let protocols = request
            .protocols
            .into_iter()
            .map(|protocol| Protocol { name: protocol.name.into(), metadata: protocol.metadata });
        let join = Join {
            group: request.group_id.into(),
            member: request.member_id.into(),
            instance: request.group_instance_id.map(Arc::from),
            client_id: kept_client_id(client_id),
            client_host: self.client_host(reply),
            session_timeout,
            rebalance_timeout,
            protocol_type: request.protocol_type.into(),
            protocols: protocols.collect(),
            needs_member_id: MEMBER_ID_REQUIRED_FROM <= reply.version,
            may_skip_assignment: SKIP_ASSIGNMENT_FROM <= reply.version,
        };
        self.ask_group(reply, Request::Join(Box::new(join)), Purpose::Join, times);
    }

    /// Where a client comes from, as Java writes an address.
    pub(super) fn client_host(&mut self, reply: ReplyForm) -> Arc<str> {
        let connection = self.connection_mut(reply.slot.connection);
        connection.map_or_else(|| "/".into(), |c| format!("/{}", c.client.ip()).into())
    }

    pub(crate) fn handle_sync_group(
        &mut self,
        reply: ReplyForm,
        request: SyncGroupRequest,
        times: Times,
    ) {
        if !is_group_name(&request.group_id) {
            let response = request.error_response(ErrorCode::InvalidGroupId);
            return self.reply_message(reply, &response);
        }
        let assignments = request.assignments.into_iter();
        let sync = Sync {
            group: request.group_id.into(),
            who: Who {
                member: request.member_id.into(),
                instance: request.group_instance_id.map(Arc::from),
                generation: request.generation_id,
            },
            protocol_type: request.protocol_type.map(Arc::from),
            protocol: request.protocol_name.map(Arc::from),
            assignments: assignments.map(|one| (one.member_id.into(), one.assignment)).collect(),
        };
        self.ask_group(reply, Request::Sync(Box::new(sync)), Purpose::Sync, times);
    }

    pub(crate) fn handle_heartbeat(
        &mut self,
        reply: ReplyForm,
        request: HeartbeatRequest,
        times: Times,
    ) {
        if !is_group_name(&request.group_id) {
            let response = request.error_response(ErrorCode::InvalidGroupId);
            return self.reply_message(reply, &response);
        }
        let heartbeat = Heartbeat {
            group: request.group_id.into(),
            who: Who {
                member: request.member_id.into(),
                instance: request.group_instance_id.map(Arc::from),
                generation: request.generation_id,
            },
        };
        self.ask_group(reply, Request::Heartbeat(heartbeat), Purpose::Heartbeat, times);
    }

    pub(crate) fn handle_leave_group(
        &mut self,
        reply: ReplyForm,
        request: LeaveGroupRequest,
        times: Times,
    ) {
        if !is_group_name(&request.group_id) {
            let response = request.error_response(ErrorCode::InvalidGroupId);
            return self.reply_message(reply, &response);
        }
        let group = request.group_id.as_str().into();
        let who = request.into_members(reply.version);
        let members = who.iter().map(|member| {
            let instance = member.group_instance_id.as_deref().map(Arc::from);
            (member.member_id.as_str().into(), instance)
        });
        let leave = Leave { group, members: members.collect() };
        self.ask_group(reply, Request::Leave(leave), Purpose::Leave(who), times);
    }

    // Tools.

    pub(crate) fn handle_list_groups(
        &mut self,
        reply: ReplyForm,
        request: ListGroupsRequest,
        times: Times,
    ) {
        let list = List { states: request.states_filter, types: request.types_filter };
        let all = self.partitions_of_groups().into_iter();
        let asked = all
            .filter(|partition| self.lists_what_is_in(*partition))
            .map(|partition| Some((partition, Request::List(list.clone()))));
        let asked = asked.collect();
        self.ask_coordinators(reply, asked, Purpose::List, times);
    }

    pub(crate) fn handle_describe_groups(
        &mut self,
        reply: ReplyForm,
        mut request: DescribeGroupsRequest,
        times: Times,
    ) {
        name_once(&mut request.groups, &mut HashSet::new());
        let groups = request.groups.iter();
        let asked = groups.map(|group| {
            let describe = Request::Describe { group: group.as_str().into() };
            self.partition_of_group(group).map(|partition| (partition, describe))
        });
        let asked = asked.collect();
        self.ask_coordinators(reply, asked, Purpose::Describe(request), times);
    }

    pub(crate) fn handle_delete_groups(
        &mut self,
        reply: ReplyForm,
        mut request: DeleteGroupsRequest,
        times: Times,
    ) {
        name_once(&mut request.groups_names, &mut HashSet::new());
        self.forget_before_deleting(reply, request, times);
    }

    /// Deletes groups, but for those that are `kept`, each for a reason.
    pub(super) fn delete_groups(
        &mut self,
        reply: ReplyForm,
        request: DeleteGroupsRequest,
        kept: HashMap<Arc<str>, ErrorCode>,
        times: Times,
    ) {
        let groups = request.groups_names.iter().filter(|group| !kept.contains_key(group.as_str()));
        let asked = groups.map(|group| {
            let delete = Request::Delete { group: group.as_str().into() };
            self.partition_of_group(group).map(|partition| (partition, delete))
        });
        let asked = asked.collect();
        self.ask_coordinators(reply, asked, Purpose::Delete(request, kept), times);
    }

    // Asking.

    /// Asks the coordinator of one group.
    pub(super) fn ask_group(
        &mut self,
        reply: ReplyForm,
        request: Request,
        purpose: Purpose,
        times: Times,
    ) {
        let group = request.group().expect("asked of one group");
        let asked = self.partition_of_group(group).map(|partition| (partition, request));
        self.ask_coordinators(reply, vec![asked], purpose, times);
    }

    /// Asks the coordinator of a group something that is part of a transaction.
    pub(super) fn ask_group_in_transaction(
        &mut self,
        reply: ReplyForm,
        transaction: InTransaction,
        producer: Producer,
        request: Request,
        purpose: Purpose,
        times: Times,
    ) {
        let group = request.group().expect("asked of one group");
        let partition = self.partition_of_group(group);
        let collect = Collect::new(reply, 1, super::Purpose::Groups(purpose));
        let job = self.jobs.insert(Job::Collect(collect));
        self.jobs.set_deadline(job, times.now.after(COMMIT_WITHIN));
        let Some(partition) = partition else {
            let refused = Reply::Refused(ErrorCode::NotCoordinator);
            return self.answered(job, 0, Answer::Group(Box::new(refused)), times);
        };
        let question = GroupQuestion { transaction, producer, request };
        self.call(job, [(0, partition, Call::GroupInTransaction(Box::new(question)))], times);
    }

    /// Asks coordinators; the reply is made when all have answered. Where nobody can be asked,
    /// because there is no topic of groups yet, the client is to look for the coordinator first.
    pub(super) fn ask_coordinators(
        &mut self,
        reply: ReplyForm,
        asked: Vec<Option<(TopicPartition, Request)>>,
        purpose: Purpose,
        times: Times,
    ) {
        let has_deadline = matches!(purpose, Purpose::Commit(_));
        let collect = Collect::new(reply, asked.len(), super::Purpose::Groups(purpose));
        let job = self.jobs.insert(Job::Collect(collect));
        if asked.is_empty() {
            return self.finish_collect(job);
        }
        if has_deadline {
            self.jobs.set_deadline(job, times.now.after(COMMIT_WITHIN));
        }
        let mut calls = Vec::new();
        let mut nowhere = Vec::new();
        for (index, asked) in (0..).zip(asked) {
            match asked {
                Some((partition, request)) => {
                    calls.push((index, partition, Call::Group(Box::new(request))));
                }
                None => nowhere.push(index),
            }
        }
        for index in nowhere {
            let refused = Reply::Refused(ErrorCode::NotCoordinator);
            self.answered(job, index, Answer::Group(Box::new(refused)), times);
        }
        self.call(job, calls, times);
    }

    // Replying.

    pub(super) fn finish_groups(
        &mut self,
        reply: ReplyForm,
        purpose: Purpose,
        answers: impl Iterator<Item = Answer>,
    ) {
        let stage = match purpose {
            // For the others to do their part.
            Purpose::Join | Purpose::Sync => Some(Stage::Wait),
            // What changes a group is told when it is on disk.
            Purpose::Commit(..)
            | Purpose::ConsumerHeartbeat
            | Purpose::ShareHeartbeat { .. }
            | Purpose::Leave(_)
            | Purpose::Delete(..)
            | Purpose::DeleteOffsets(..) => Some(Stage::Durable),
            _ => None,
        };
        if let Some(stage) = stage {
            self.stamp();
            self.stage_ended(reply.slot, stage);
        }
        let mut answers = answers.map(reply_of);
        let mut first = || answers.next().expect("one coordinator was asked");
        match purpose {
            Purpose::Join => self.finish_join(reply, first()),
            Purpose::Sync => self.finish_sync(reply, first()),
            Purpose::Heartbeat => {
                let error_code = match first() {
                    Reply::Alive(error) => error,
                    // While it is not known who the members are, nobody is told to go (as in Kafka).
                    Reply::Refused(ErrorCode::CoordinatorLoadInProgress) => ErrorCode::None,
                    other => error_of(&other),
                };
                let response = HeartbeatResponse { error_code, ..HeartbeatResponse::default() };
                self.reply_message(reply, &response);
            }
            Purpose::Leave(who) => self.finish_leave(reply, who, first()),
            Purpose::List => self.finish_list_groups(reply, answers),
            Purpose::Describe(request) => self.finish_describe_groups(reply, request, answers),
            Purpose::Delete(request, kept) => {
                let result = |group_id: String| {
                    let error_code = kept.get(group_id.as_str()).copied().unwrap_or_else(|| {
                        match answers.next().expect("one for each that is not kept") {
                            Reply::Deleted(error) => error,
                            other => error_of(&other),
                        }
                    });
                    DeletableGroupResult { group_id, error_code }
                };
                let results = request.groups_names.into_iter().map(result).collect();
                let response = DeleteGroupsResponse { results, ..Default::default() };
                self.reply_message(reply, &response);
            }
            Purpose::ConsumerHeartbeat => {
                let answer = first();
                self.finish_consumer_heartbeat(reply, answer);
            }
            Purpose::DescribeConsumers(request) => {
                self.finish_describe_consumers(reply, request, answers);
            }
            Purpose::ShareHeartbeat { interval_ms } => {
                let answer = first();
                self.finish_share_heartbeat(reply, interval_ms, answer);
            }
            Purpose::DescribeShares(request) => {
                self.finish_describe_shares(reply, request, answers);
            }
            Purpose::Commit(answer) => self.finish_commit(reply, answer, answers.next()),
            Purpose::Fetch(groups) => self.finish_offset_fetch(reply, groups, answers),
            Purpose::DeleteOffsets(request, known) => {
                self.finish_offset_delete(reply, request, &known, answers.next());
            }
        }
    }

    fn finish_join(&mut self, reply: ReplyForm, answer: Reply) {
        let mut response = match answer {
            Reply::Joined(joined) => join_response(*joined),
            other => JoinGroupResponse::failed(String::new(), error_of(&other)),
        };
        if reply.version < NULL_PROTOCOL_FROM {
            response.protocol_name.get_or_insert_default();
        }
        self.reply_message(reply, &response);
    }

    fn finish_sync(&mut self, reply: ReplyForm, answer: Reply) {
        let response = match answer {
            Reply::Synced(synced) => {
                let Synced { error, protocol_type, protocol, assignment } = *synced;
                SyncGroupResponse {
                    error_code: error,
                    protocol_type: protocol_type.map(|text| text.to_string()),
                    protocol_name: protocol.map(|text| text.to_string()),
                    assignment,
                    ..SyncGroupResponse::default()
                }
            }
            other => {
                SyncGroupResponse { error_code: error_of(&other), ..SyncGroupResponse::default() }
            }
        };
        self.reply_message(reply, &response);
    }

    fn finish_leave(&mut self, reply: ReplyForm, who: Vec<MemberIdentity>, answer: Reply) {
        let response = match answer {
            Reply::Left(results) => {
                let members = who.into_iter().zip(results).map(|(member, error_code)| {
                    let MemberIdentity { member_id, group_instance_id, .. } = member;
                    MemberResponse { member_id, group_instance_id, error_code }
                });
                LeaveGroupResponse::of(reply.version, members.collect())
            }
            other => {
                LeaveGroupResponse { error_code: error_of(&other), ..LeaveGroupResponse::default() }
            }
        };
        self.reply_message(reply, &response);
    }

    fn finish_list_groups(&mut self, reply: ReplyForm, answers: impl Iterator<Item = Reply>) {
        let mut response = ListGroupsResponse::default();
        for answer in answers {
            match answer {
                Reply::Listed(listed) => {
                    response.groups.extend(listed.into_iter().map(|one| ListedGroup {
                        group_id: one.group.to_string(),
                        protocol_type: one.protocol_type.to_string(),
                        group_state: one.state.to_owned(),
                        group_type: one.kind.to_owned(),
                    }));
                }
                // A coordinator that is not here (any more) has nothing to tell.
                Reply::Refused(ErrorCode::NotCoordinator) => {}
                other => response.error_code = error_of(&other),
            }
        }
        self.reply_message(reply, &response);
    }

    fn finish_describe_groups(
        &mut self,
        reply: ReplyForm,
        request: DescribeGroupsRequest,
        answers: impl Iterator<Item = Reply>,
    ) {
        let may = request.include_authorized_operations;
        let groups = request.groups.into_iter().zip(answers).map(|(group_id, answer)| {
            let mut described = match answer {
                Reply::Described(Some(description)) => described_group(group_id, *description),
                Reply::Described(None) => DescribedGroup::not_found(reply.version, group_id),
                other => DescribedGroup::failed(group_id, error_of(&other)),
            };
            if may {
                described.authorized_operations = ALLOWED_OPERATIONS;
            }
            described
        });
        let response = DescribeGroupsResponse {
            groups: groups.collect(),
            ..DescribeGroupsResponse::default()
        };
        self.reply_message(reply, &response);
    }
}

/// How long a commit may wait for the disk before its client is told to try again (Kafka's
/// `offsets.commit.timeout.ms`).
const COMMIT_WITHIN: Duration = Duration::from_secs(5);

/// What a coordinator answered, or what the way to it did.
pub(super) fn reply_of(answer: Answer) -> Reply {
    match answer {
        Answer::Group(reply) => *reply,
        Answer::Refused { error: ErrorCode::RequestTimedOut, .. } => {
            Reply::Refused(ErrorCode::CoordinatorNotAvailable)
        }
        Answer::Refused { .. } => Reply::Refused(ErrorCode::NotCoordinator),
        other => unreachable!("a coordinator answers as such, not with {other:?}"),
    }
}

/// The error of an answer that is not what was asked for.
pub(super) fn error_of(reply: &Reply) -> ErrorCode {
    match reply {
        Reply::Refused(error) => *error,
        other => unreachable!("a coordinator answers what it is asked, not {other:?}"),
    }
}

/// Whether a group can have this name. Kafka allows any, but for the empty one.
pub(super) fn is_group_name(name: &str) -> bool {
    (1..=GROUP_NAME_BYTES_MAX).contains(&name.len())
}

/// What is kept of what a client calls itself.
pub(super) fn kept_client_id(client_id: Option<&str>) -> Arc<str> {
    let client_id = client_id.unwrap_or_default();
    client_id[..client_id.floor_char_boundary(CLIENT_ID_BYTES_IN_GROUP)].into()
}

pub(super) fn names_fit(names: &[&str]) -> bool {
    names.iter().all(|name| name.len() <= GROUP_NAME_BYTES_MAX)
}

/// Whether a static member can have this name: what a topic can be called, as in Kafka.
fn is_instance_name(name: &str) -> bool {
    tidemill_replication::controller::is_valid_topic_name(name)
}

fn milliseconds(ms: i32) -> Duration {
    Duration::from_millis(u64::try_from(ms).unwrap_or(0))
}

fn join_response(joined: Joined) -> JoinGroupResponse {
    let members =
        joined.members.into_iter().map(|(id, instance, metadata)| JoinGroupResponseMember {
            member_id: id.to_string(),
            group_instance_id: instance.map(|name| name.to_string()),
            metadata,
        });
    JoinGroupResponse {
        error_code: joined.error,
        generation_id: joined.generation,
        protocol_type: joined.protocol_type.map(|text| text.to_string()),
        protocol_name: joined.protocol.map(|text| text.to_string()),
        leader: joined.leader.to_string(),
        skip_assignment: joined.skip_assignment,
        member_id: joined.member.to_string(),
        members: members.collect(),
        ..JoinGroupResponse::default()
    }
}

fn described_group(group_id: String, description: Description) -> DescribedGroup {
    let member = |member: MemberDescription| DescribedGroupMember {
        member_id: member.member.to_string(),
        group_instance_id: member.instance.map(|name| name.to_string()),
        client_id: member.client_id.to_string(),
        client_host: member.client_host.to_string(),
        member_metadata: member.metadata,
        member_assignment: member.assignment,
    };
    DescribedGroup {
        group_id,
        group_state: description.state.to_owned(),
        protocol_type: description.protocol_type.to_string(),
        protocol_data: description.protocol.to_string(),
        members: description.members.into_iter().map(member).collect(),
        ..DescribedGroup::default()
    }
}
