//! How one becomes a member, stays one, and goes.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tidemill_net::kafka::ErrorCode;
use tidemill_net::kafka::consumer_protocol::{
    Assignment, PROTOCOL_TYPE, Subscription, VERSION_MAX,
};
use tidemill_net::kafka::find_coordinator::{
    FindCoordinatorRequest, FindCoordinatorResponse, key_type,
};
use tidemill_net::kafka::heartbeat::{HeartbeatRequest, HeartbeatResponse};
pub(super) use tidemill_net::kafka::join_group::NO_GENERATION;
use tidemill_net::kafka::join_group::{
    JoinGroupRequest, JoinGroupRequestProtocol, JoinGroupResponse,
};
use tidemill_net::kafka::leave_group::{LeaveGroupRequest, MemberIdentity};
use tidemill_net::kafka::sync_group::{
    SyncGroupRequest, SyncGroupRequestAssignment, SyncGroupResponse,
};

use super::super::assignor::{by_topic, each, generation_as_user_data};
use super::super::{Assignor, Change, Member, Share};
use super::{Ask, GroupCore, Progress, Stage, TOPICS_PATIENCE};
use crate::cluster::{Map, Peer};
use crate::time::Instant;

/// The version that assignments are written in: all clients read it, and later ones say no more.
const ASSIGNMENT_VERSION: i16 = 0;

impl GroupCore {
    pub(super) fn find_coordinator(&mut self, now: Instant) {
        if self.is_finding {
            return;
        }
        let request = FindCoordinatorRequest {
            key: self.config.group.clone(),
            key_type: key_type::GROUP,
            coordinator_keys: vec![self.config.group.clone()],
        };
        self.is_finding = self.ask(Peer::Any, &request, Duration::ZERO, Ask::Coordinator, now);
    }

    pub(super) fn take_coordinator(&mut self, answer: FindCoordinatorResponse, now: Instant) {
        self.is_finding = false;
        let (error, node) = match answer.coordinators.first() {
            Some(found) => (found.error_code, found.node_id),
            None => (answer.error_code, answer.node_id),
        };
        if !error.is_none() {
            return self.take_refusal(error, now);
        }
        self.coordinator = Some(node);
        if !self.reader.map().nodes().contains_key(&node) {
            self.reader.cluster().refresh(now);
        }
    }

    pub(super) fn join(&mut self, now: Instant) {
        if self.commits.are_under_way() {
            return;
        }
        let protocol = |assignor: &Assignor| JoinGroupRequestProtocol {
            name: assignor.name().to_owned(),
            metadata: self.subscription(*assignor).encode(VERSION_MAX),
        };
        let request = JoinGroupRequest {
            group_id: self.config.group.clone(),
            session_timeout_ms: ms(self.config.session_timeout),
            rebalance_timeout_ms: ms(self.config.rebalance_timeout),
            member_id: self.member_id.clone(),
            group_instance_id: self.config.instance.clone(),
            protocol_type: PROTOCOL_TYPE.to_owned(),
            protocols: self.config.assignors.iter().map(protocol).collect(),
            reason: None,
        };
        let wait = self.config.rebalance_timeout;
        if self.ask(self.peer(), &request, wait, Ask::Join, now) {
            self.stage = Stage::Joining;
        }
    }

    fn subscription(&self, assignor: Assignor) -> Subscription {
        let mut subscription = Subscription {
            topics: self.topics.iter().map(|topic| topic.to_string()).collect(),
            owned_partitions: by_topic(self.shares.keys()),
            generation_id: self.generation,
            ..Subscription::default()
        };
        if assignor.is_cooperative() {
            subscription.user_data = Some(generation_as_user_data(self.generation));
        }
        subscription
    }

    pub(super) fn take_joined(&mut self, answer: JoinGroupResponse, now: Instant) {
        self.stage = Stage::Outside;
        match answer.error_code {
            ErrorCode::None => {}
            ErrorCode::MemberIdRequired => {
                self.member_id = answer.member_id;
                return;
            }
            ErrorCode::RebalanceInProgress => return self.rest(now),
            error => return self.take_refusal(error, now),
        }
        let chosen = answer.protocol_name.as_deref();
        let known = self.config.assignors.iter().find(|known| Some(known.name()) == chosen);
        let Some(assignor) = known.copied() else {
            return self.take_refusal(ErrorCode::InconsistentGroupProtocol, now);
        };
        self.assignor = assignor;
        self.generation = answer.generation_id;
        self.joined_at = now;
        let is_leader = answer.leader == answer.member_id && !answer.skip_assignment;
        self.member_id = answer.member_id;
        let members = answer.members.into_iter().map(|member| Member {
            id: member.member_id,
            instance: member.group_instance_id,
            // Who cannot be understood gets nothing.
            subscription: Subscription::decode(&member.metadata).unwrap_or_default(),
        });
        self.stage = Stage::Joined(is_leader.then(|| members.collect()));
    }

    /// Tells who gets what, if we lead; in any case asks for what is ours.
    pub(super) fn share_out(&mut self, now: Instant) {
        let Stage::Joined(members) = &self.stage else { unreachable!("looked at by the caller") };
        let mut assignments = Vec::new();
        let mut shared_out = None;
        if let Some(members) = members {
            let topics: BTreeSet<Arc<str>> = members
                .iter()
                .flat_map(|member| &member.subscription.topics)
                .map(|topic| Arc::from(&**topic))
                .collect();
            let cluster = self.reader.cluster();
            for topic in &topics {
                cluster.want_topic(topic, now);
            }
            let is_heard_of = |topic: &Arc<str>| cluster.map().topic(topic).is_some();
            if !topics.iter().all(is_heard_of) && now < self.joined_at.plus(TOPICS_PATIENCE) {
                return;
            }
            let map = self.reader.map();
            let counts = topics.into_iter().map(|topic| (Arc::clone(&topic), count(map, &topic)));
            let counts = counts.collect();
            let shares = self.assignor.share_out(members, &counts);
            for (member, share) in members.iter().zip(&shares) {
                let assigned_partitions = by_topic(share);
                let assignment = Assignment { assigned_partitions, user_data: None };
                assignments.push(SyncGroupRequestAssignment {
                    member_id: member.id.clone(),
                    assignment: assignment.encode(ASSIGNMENT_VERSION),
                });
            }
            shared_out = Some(counts);
        }
        let request = SyncGroupRequest {
            group_id: self.config.group.clone(),
            generation_id: self.generation,
            member_id: self.member_id.clone(),
            group_instance_id: self.config.instance.clone(),
            protocol_type: Some(PROTOCOL_TYPE.to_owned()),
            protocol_name: Some(self.assignor.name().to_owned()),
            assignments,
        };
        let wait = self.config.rebalance_timeout;
        if self.ask(self.peer(), &request, wait, Ask::Sync, now) {
            self.stage = Stage::Syncing;
            self.shared_out = shared_out;
        }
    }

    pub(super) fn take_synced(&mut self, answer: SyncGroupResponse, now: Instant) {
        self.stage = Stage::Outside;
        if !answer.error_code.is_none() {
            return self.take_refusal(answer.error_code, now);
        }
        let Ok(assignment) = Assignment::decode(&answer.assignment) else {
            return self.take_refusal(ErrorCode::InconsistentGroupProtocol, now);
        };
        self.is_known(now);
        self.stage = Stage::Member;
        self.heartbeat_at = now.plus(self.config.heartbeat_interval);
        self.plan_commit(now);
        self.take_shares(each(&assignment.assigned_partitions).collect(), now);
    }

    fn take_shares(&mut self, given: BTreeSet<Share>, now: Instant) {
        let mine = self.shares.keys();
        let given_up: Vec<Share> = mine.filter(|share| !given.contains(*share)).cloned().collect();
        let is_new = |share: &Share| !self.shares.contains_key(share);
        let new: Vec<Share> = given.into_iter().filter(is_new).collect();
        // Before anything is given up, how far it was read is put down.
        let must_rejoin = !given_up.is_empty();
        if must_rejoin && self.config.auto_commit.is_some() {
            self.gather();
        }
        self.give_up(given_up, now);
        for share in &new {
            self.shares.insert(share.clone(), Progress::default());
        }
        if !new.is_empty() {
            self.tell(Change::Given(new));
        }
        // What was given up is shared out when those who gave it up join again (KIP-429).
        if must_rejoin {
            self.start_over();
        }
    }

    pub(super) fn beat(&mut self, now: Instant) {
        if self.is_beating || now < self.heartbeat_at {
            return;
        }
        let request = HeartbeatRequest {
            group_id: self.config.group.clone(),
            generation_id: self.generation,
            member_id: self.member_id.clone(),
            group_instance_id: self.config.instance.clone(),
        };
        self.is_beating = self.ask(self.peer(), &request, Duration::ZERO, Ask::Heartbeat, now);
    }

    pub(super) fn take_beat(&mut self, answer: &HeartbeatResponse, is_meant: bool, now: Instant) {
        self.is_beating = false;
        self.heartbeat_at = now.plus(self.config.heartbeat_interval);
        if !is_meant || !matches!(self.stage, Stage::Member) {
            return;
        }
        match answer.error_code {
            ErrorCode::None => self.is_known(now),
            error => self.take_refusal(error, now),
        }
    }

    /// The leader sees to it that new partitions get their readers.
    pub(super) fn watch_topics(&mut self, now: Instant) {
        let Some(before) = &self.shared_out else { return };
        let map = self.reader.map();
        if before.iter().any(|(topic, before)| count(map, topic) != *before) {
            self.rejoin(now);
        }
    }

    /// Leaves, once what was read is committed. A static member only goes silent: it may be back
    /// in a moment.
    pub(super) fn say_farewell(&mut self, now: Instant) {
        if self.commits.are_under_way() {
            return;
        }
        if self.config.instance.is_some() {
            self.stage = Stage::Left;
            return;
        }
        let request = LeaveGroupRequest {
            group_id: self.config.group.clone(),
            member_id: self.member_id.clone(),
            members: vec![MemberIdentity {
                member_id: self.member_id.clone(),
                ..MemberIdentity::default()
            }],
        };
        if self.ask(self.peer(), &request, Duration::ZERO, Ask::Leave, now) {
            // Whoever awaits the answer sees the stage; nothing else is sent any more.
            self.generation = NO_GENERATION;
            self.stage = Stage::Parting;
        }
    }
}

/// How many partitions a topic has; one that cannot be used has none.
fn count(map: &Map, topic: &str) -> i32 {
    let view = map.topic(topic).filter(|view| view.error.is_none());
    view.map_or(0, |view| view.partitions.len() as i32)
}

fn ms(duration: Duration) -> i32 {
    i32::try_from(duration.as_millis()).unwrap_or(i32::MAX)
}
