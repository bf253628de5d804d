//! Members of share groups (KIP-932): ShareGroupHeartbeat and ShareGroupDescribe.
//!
//! Like everything about who is in a group, it is decided by the group's coordinator
//! ([`crate::coordinator`]). The first member of the first share group has the topic made in which
//! what share groups have read is kept.

use std::collections::HashSet;
use std::sync::Arc;

use tidemill_net::kafka::alter_share_group_offsets::AlterShareGroupOffsetsResponse;
use tidemill_net::kafka::consumer_group_describe::{DescribedAssignment, DescribedTopicPartitions};
use tidemill_net::kafka::consumer_group_heartbeat::MemberAssignment;
use tidemill_net::kafka::share_group_describe::{
    DescribedShareGroup, ShareGroupDescribeRequest, ShareGroupDescribeResponse, ShareGroupMember,
};
use tidemill_net::kafka::share_group_heartbeat::{
    ShareGroupHeartbeatRequest, ShareGroupHeartbeatResponse,
};
use tidemill_net::kafka::{ErrorCode, Request as _};
use tidemill_replication::controller::SHARE_STATE_TOPIC;

use super::consumer_groups::told;
use super::groups::{
    ALLOWED_OPERATIONS, Purpose, error_of, is_group_name, kept_client_id, names_fit,
};
use super::{Job, ReplyForm, deadline_of, name_once};
use crate::controller::{Outcome, Proposal};
use crate::coordinator::request::{
    Reply, Request, ShareDescription, ShareHeartbeat, ShareMemberDescription, SharedPartitions,
};
use crate::limits::REQUEST_WAIT_MS_DEFAULT;
use crate::partition::Times;
use crate::shard::Shard;

/// What may be asked for the first share group of all.
#[derive(Clone, Copy, Debug)]
pub enum First {
    /// ShareGroupHeartbeat.
    Heartbeat,
    /// AlterShareGroupOffsets.
    Alter,
}

impl Shard {
    pub(crate) fn handle_share_group_heartbeat(
        &mut self,
        reply: ReplyForm,
        request: ShareGroupHeartbeatRequest,
        client_id: Option<&str>,
        times: Times,
    ) {
        let rack = request.rack_id.as_deref().unwrap_or_default();
        if !is_group_name(&request.group_id) || !names_fit(&[&request.member_id, rack]) {
            let response = request.error_response(ErrorCode::InvalidRequest);
            return self.reply_message(reply, &response);
        }
        if self.waits_for_share_topic(reply, First::Heartbeat, times) {
            return;
        }
        let rules = self.share_rules(&request.group_id);
        let topics = request.subscribed_topic_names;
        let heartbeat = ShareHeartbeat {
            group: request.group_id.into(),
            member: request.member_id.into(),
            epoch: request.member_epoch,
            rack: request.rack_id.map(Arc::from),
            topics: topics.map(|topics| topics.into_iter().map(Arc::from).collect()),
            client_id: kept_client_id(client_id),
            client_host: self.client_host(reply),
            session: rules.session,
        };
        let interval_ms = i32::try_from(rules.heartbeat.as_millis()).unwrap_or(i32::MAX);
        let request = Request::ShareHeartbeat(Box::new(heartbeat));
        self.ask_group(reply, request, Purpose::ShareHeartbeat { interval_ms }, times);
    }

    /// Whether the topic of what share groups have read is not there yet; then it is asked for.
    pub(super) fn waits_for_share_topic(
        &mut self,
        reply: ReplyForm,
        first: First,
        times: Times,
    ) -> bool {
        let is_missing = self.image.topic_named(SHARE_STATE_TOPIC).is_none();
        if is_missing {
            let job = self.jobs.insert(Job::ShareTopic(reply, first));
            self.jobs.set_deadline(job, deadline_of(REQUEST_WAIT_MS_DEFAULT, times));
            self.propose(job, Proposal::ShareStateTopic, 0, times);
        }
        is_missing
    }

    /// The topic of what share groups have read was asked for.
    pub(super) fn share_topic_made(&mut self, reply: ReplyForm, first: First, outcome: &Outcome) {
        let Outcome::InternalTopic(error) = outcome else {
            unreachable!("a topic of the broker's own was to be made");
        };
        tracing::debug!(%error, "the topic of what share groups have read");
        self.share_topic_awaited(reply, first);
    }

    /// Whether it is there now or not, who asked comes again.
    pub(super) fn share_topic_awaited(&mut self, reply: ReplyForm, first: First) {
        let error_code = ErrorCode::CoordinatorNotAvailable;
        match first {
            First::Heartbeat => {
                let response = ShareGroupHeartbeatResponse { error_code, ..Default::default() };
                self.reply_message(reply, &response);
            }
            First::Alter => {
                let response = AlterShareGroupOffsetsResponse { error_code, ..Default::default() };
                self.reply_message(reply, &response);
            }
        }
    }

    pub(super) fn finish_share_heartbeat(
        &mut self,
        reply: ReplyForm,
        heartbeat_interval_ms: i32,
        answer: Reply,
    ) {
        let response = match answer {
            Reply::Heard(Ok(heard)) => ShareGroupHeartbeatResponse {
                member_id: Some(heard.member.to_string()),
                member_epoch: heard.epoch,
                heartbeat_interval_ms,
                assignment: heard
                    .assignment
                    .map(|partitions| MemberAssignment { topic_partitions: told(&partitions) }),
                ..ShareGroupHeartbeatResponse::default()
            },
            Reply::Heard(Err((error_code, message))) => ShareGroupHeartbeatResponse {
                error_code,
                error_message: Some(message),
                ..ShareGroupHeartbeatResponse::default()
            },
            other => ShareGroupHeartbeatResponse {
                error_code: error_of(&other),
                ..ShareGroupHeartbeatResponse::default()
            },
        };
        self.reply_message(reply, &response);
    }

    pub(crate) fn handle_share_group_describe(
        &mut self,
        reply: ReplyForm,
        mut request: ShareGroupDescribeRequest,
        times: Times,
    ) {
        name_once(&mut request.group_ids, &mut HashSet::new());
        let asked = request.group_ids.iter().map(|group| {
            let describe = Request::DescribeShare { group: group.as_str().into() };
            self.partition_of_group(group).map(|partition| (partition, describe))
        });
        let asked = asked.collect();
        self.ask_coordinators(reply, asked, Purpose::DescribeShares(request), times);
    }

    pub(super) fn finish_describe_shares(
        &mut self,
        reply: ReplyForm,
        request: ShareGroupDescribeRequest,
        answers: impl Iterator<Item = Reply>,
    ) {
        let may = request.include_authorized_operations;
        let groups = request.group_ids.into_iter().zip(answers).map(|(group_id, answer)| {
            let mut described = match answer {
                Reply::ShareDescribed(Some(description)) => described(group_id, *description),
                Reply::ShareDescribed(None) => {
                    let message = Some(format!("Group {group_id} is not a share group."));
                    let error = ErrorCode::GroupIdNotFound;
                    let failed = DescribedShareGroup::failed(group_id, error);
                    DescribedShareGroup { error_message: message, ..failed }
                }
                other => DescribedShareGroup::failed(group_id, error_of(&other)),
            };
            if may {
                described.authorized_operations = ALLOWED_OPERATIONS;
            }
            described
        });
        let groups = groups.collect();
        let response = ShareGroupDescribeResponse { groups, ..Default::default() };
        self.reply_message(reply, &response);
    }
}

fn described(group_id: String, description: ShareDescription) -> DescribedShareGroup {
    DescribedShareGroup {
        group_id,
        group_state: description.state.to_owned(),
        group_epoch: description.epoch,
        // Shares follow from the group's epoch at once.
        assignment_epoch: description.epoch,
        assignor_name: description.assignor.to_owned(),
        members: description.members.into_iter().map(described_member).collect(),
        ..DescribedShareGroup::default()
    }
}

fn described_member(member: ShareMemberDescription) -> ShareGroupMember {
    let text = |text: Arc<str>| text.to_string();
    let wants = member.wants;
    ShareGroupMember {
        member_id: text(member.member),
        rack_id: wants.rack.map(text),
        member_epoch: member.epoch,
        client_id: text(wants.client_id),
        client_host: text(wants.client_host),
        subscribed_topic_names: wants.topics.into_iter().map(text).collect(),
        assignment: described_assignment(member.assigned),
    }
}

fn described_assignment(partitions: SharedPartitions) -> DescribedAssignment {
    let topics = partitions.into_iter().map(|(topic_id, name, partitions)| {
        DescribedTopicPartitions { topic_id, topic_name: name.to_string(), partitions }
    });
    DescribedAssignment { topic_partitions: topics.collect() }
}
