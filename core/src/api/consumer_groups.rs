//! Groups of the newer kind (KIP-848): ConsumerGroupHeartbeat and ConsumerGroupDescribe.
//!
//! What a heartbeat leaves out is as before; null and empty are two things. Like everything about
//! groups, what it means is decided by the coordinator ([`crate::coordinator`]).

use std::collections::HashSet;
use std::sync::Arc;

use tidemill_net::kafka::consumer_group_describe::{
    ConsumerGroupDescribeRequest, ConsumerGroupDescribeResponse, ConsumerGroupMember,
    DescribedAssignment, DescribedConsumerGroup, DescribedTopicPartitions, member_type,
};
use tidemill_net::kafka::consumer_group_heartbeat::{
    ConsumerGroupHeartbeatRequest, ConsumerGroupHeartbeatResponse, MemberAssignment,
    OWN_MEMBER_ID_FROM,
};
use tidemill_net::kafka::topic_partitions::TopicIdPartitions;
use tidemill_net::kafka::{ErrorCode, Request as _};

use super::groups::{
    ALLOWED_OPERATIONS, Purpose, error_of, is_group_name, kept_client_id, names_fit,
};
use super::{ReplyForm, name_once};
use crate::coordinator::assignment::Partitions;
use crate::coordinator::request::{
    ConsumerDescription, ConsumerHeartbeat, ConsumerMemberDescription, Reply, Request,
    SharedPartitions,
};
use crate::partition::Times;
use crate::shard::Shard;

impl Shard {
    pub(crate) fn handle_consumer_group_heartbeat(
        &mut self,
        reply: ReplyForm,
        request: ConsumerGroupHeartbeatRequest,
        client_id: Option<&str>,
        times: Times,
    ) {
        let others = [&request.instance_id, &request.rack_id, &request.subscribed_topic_regex];
        let others: Vec<&str> = others.into_iter().filter_map(|name| name.as_deref()).collect();
        let is_named = !request.member_id.is_empty() || reply.version < OWN_MEMBER_ID_FROM;
        if !is_group_name(&request.group_id)
            || !is_named
            || !names_fit(&[&request.member_id])
            || !names_fit(&others)
        {
            let response = request.error_response(ErrorCode::InvalidRequest);
            return self.reply_message(reply, &response);
        }
        let topics = request.subscribed_topic_names;
        let heartbeat = ConsumerHeartbeat {
            group: request.group_id.into(),
            member: request.member_id.into(),
            epoch: request.member_epoch,
            instance: request.instance_id.map(Arc::from),
            rack: request.rack_id.map(Arc::from),
            rebalance_ms: request.rebalance_timeout_ms,
            topics: topics.map(|topics| topics.into_iter().map(Arc::from).collect()),
            regex: request.subscribed_topic_regex.map(Arc::from),
            assignor: request.server_assignor.map(Arc::from),
            owned: request.topic_partitions.map(|owned| partitions_of(&owned)),
            client_id: kept_client_id(client_id),
            client_host: self.client_host(reply),
        };
        let request = Request::ConsumerHeartbeat(Box::new(heartbeat));
        self.ask_group(reply, request, Purpose::ConsumerHeartbeat, times);
    }

    pub(super) fn finish_consumer_heartbeat(&mut self, reply: ReplyForm, answer: Reply) {
        let interval = self.settings.group_defaults.consumer.heartbeat_ms;
        let response = match answer {
            Reply::Heard(Ok(heard)) => ConsumerGroupHeartbeatResponse {
                member_id: Some(heard.member.to_string()),
                member_epoch: heard.epoch,
                heartbeat_interval_ms: i32::try_from(heard.heartbeat_ms.unwrap_or(interval))
                    .unwrap_or(i32::MAX),
                assignment: heard
                    .assignment
                    .map(|partitions| MemberAssignment { topic_partitions: told(&partitions) }),
                ..ConsumerGroupHeartbeatResponse::default()
            },
            Reply::Heard(Err((error_code, message))) => ConsumerGroupHeartbeatResponse {
                error_code,
                error_message: Some(message),
                ..ConsumerGroupHeartbeatResponse::default()
            },
            other => ConsumerGroupHeartbeatResponse {
                error_code: error_of(&other),
                ..ConsumerGroupHeartbeatResponse::default()
            },
        };
        self.reply_message(reply, &response);
    }

    pub(crate) fn handle_consumer_group_describe(
        &mut self,
        reply: ReplyForm,
        mut request: ConsumerGroupDescribeRequest,
        times: Times,
    ) {
        name_once(&mut request.group_ids, &mut HashSet::new());
        let asked = request.group_ids.iter().map(|group| {
            let describe = Request::DescribeConsumer { group: group.as_str().into() };
            self.partition_of_group(group).map(|partition| (partition, describe))
        });
        let asked = asked.collect();
        self.ask_coordinators(reply, asked, Purpose::DescribeConsumers(request), times);
    }

    pub(super) fn finish_describe_consumers(
        &mut self,
        reply: ReplyForm,
        request: ConsumerGroupDescribeRequest,
        answers: impl Iterator<Item = Reply>,
    ) {
        let may = request.include_authorized_operations;
        let groups = request.group_ids.into_iter().zip(answers).map(|(group_id, answer)| {
            let mut described = match answer {
                Reply::ConsumerDescribed(Some(description)) => described(group_id, *description),
                Reply::ConsumerDescribed(None) => {
                    let message = Some(format!("Group {group_id} is not a consumer group."));
                    let error = ErrorCode::GroupIdNotFound;
                    let failed = DescribedConsumerGroup::failed(group_id, error);
                    DescribedConsumerGroup { error_message: message, ..failed }
                }
                other => DescribedConsumerGroup::failed(group_id, error_of(&other)),
            };
            if may {
                described.authorized_operations = ALLOWED_OPERATIONS;
            }
            described
        });
        let groups = groups.collect();
        let response = ConsumerGroupDescribeResponse { groups, ..Default::default() };
        self.reply_message(reply, &response);
    }
}

fn partitions_of(topics: &[TopicIdPartitions]) -> Partitions {
    let mut partitions = Partitions::new();
    for topic in topics.iter().filter(|topic| !topic.partitions.is_empty()) {
        partitions.entry(topic.topic_id).or_default().extend(&topic.partitions);
    }
    partitions
}

pub(super) fn told(partitions: &Partitions) -> Vec<TopicIdPartitions> {
    let topics = partitions.iter().map(|(topic_id, numbers)| TopicIdPartitions {
        topic_id: *topic_id,
        partitions: numbers.iter().copied().collect(),
    });
    topics.collect()
}

fn described(group_id: String, description: ConsumerDescription) -> DescribedConsumerGroup {
    DescribedConsumerGroup {
        group_id,
        group_state: description.state.to_owned(),
        group_epoch: description.epoch,
        assignment_epoch: description.assignment_epoch,
        assignor_name: description.assignor.to_owned(),
        members: description.members.into_iter().map(described_member).collect(),
        ..DescribedConsumerGroup::default()
    }
}

fn described_member(member: ConsumerMemberDescription) -> ConsumerGroupMember {
    let text = |text: Arc<str>| text.to_string();
    let wants = member.wants;
    let speaks_classic = wants.classic.is_some();
    ConsumerGroupMember {
        member_id: text(member.member),
        instance_id: wants.instance.map(text),
        rack_id: wants.rack.map(text),
        member_epoch: member.epoch,
        client_id: text(wants.client_id),
        client_host: text(wants.client_host),
        subscribed_topic_names: wants.topics.into_iter().map(text).collect(),
        subscribed_topic_regex: wants.regex.map(text),
        assignment: described_assignment(member.assigned),
        target_assignment: described_assignment(member.target),
        member_type: if speaks_classic { member_type::CLASSIC } else { member_type::CONSUMER },
    }
}

fn described_assignment(partitions: SharedPartitions) -> DescribedAssignment {
    let topics = partitions.into_iter().map(|(topic_id, name, partitions)| {
        DescribedTopicPartitions { topic_id, topic_name: name.to_string(), partitions }
    });
    DescribedAssignment { topic_partitions: topics.collect() }
}
