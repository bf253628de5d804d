//! One member of a group, of either protocol, as a client behaves: it joins, shares out if it is the
//! leader, says that it lives, and gives up what it is told to. It reads nothing.

use std::sync::Arc;
use std::time::Duration;

use tidemill_client::Reply;
use tidemill_client::kafka::ErrorCode;
use tidemill_client::kafka::consumer_group_heartbeat::{
    ConsumerGroupHeartbeatRequest, ConsumerGroupHeartbeatResponse, JOIN_EPOCH, LEAVE_EPOCH,
};
use tidemill_client::kafka::consumer_protocol::{Assignment, Subscription};
use tidemill_client::kafka::heartbeat::{HeartbeatRequest, HeartbeatResponse};
use tidemill_client::kafka::join_group::{
    JoinGroupRequest, JoinGroupRequestProtocol, JoinGroupResponse, NO_GENERATION,
};
use tidemill_client::kafka::leave_group::{LeaveGroupRequest, MemberIdentity};
use tidemill_client::kafka::offset_commit::{
    OffsetCommitRequest, OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use tidemill_client::kafka::sync_group::{
    SyncGroupRequest, SyncGroupRequestAssignment, SyncGroupResponse,
};
use tidemill_client::kafka::topic_partitions::{TopicIdPartitions, TopicPartitions};
use tidemill_net::cursor::WireError;
use tidemill_runtime::edge::Instant;

use super::beat::Beat;
use crate::control::Topic;
use crate::stage::Lines;
use crate::trouble::Trouble;

const SESSION_MS: i32 = 45_000;
const REBALANCE_MS: i32 = 60_000;

/// After how long something is tried again that the broker could not do yet.
const AGAIN: Duration = Duration::from_millis(20);

/// Which of the two protocols of groups.
#[derive(Clone, Copy, Debug, Eq, PartialEq, clap::ValueEnum)]
pub enum Protocol {
    /// The members share out among themselves.
    Classic,
    /// The broker shares out (KIP-848).
    Consumer,
}

/// What was asked.
#[derive(Clone, Copy, Debug)]
pub enum What {
    /// To be a member; also every heartbeat of the newer protocol.
    Join,
    /// For one's share.
    Sync,
    /// To live on.
    Beat,
    /// To be out.
    Leave,
    /// To keep offsets, which was due at this time.
    Commit(Instant),
}

/// An answer, and whose it is.
pub type Tag = (usize, What);

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum State {
    Out,
    Joining,
    Stable,
    Leaving,
}

/// See the head of this file.
#[derive(Debug)]
pub struct Member {
    number: usize,
    group: String,
    line: usize,
    protocol: Protocol,
    topic: Arc<Topic>,
    beat: Beat,
    id: String,
    epoch: i32,
    owned: Vec<i32>,
    state: State,
    /// When it speaks next, if nothing is under way.
    due: Option<Instant>,
    /// When it last spoke because it was time to, or because it was to join.
    spoke_at: Instant,
    /// The last of these times that something new came of.
    news_of: Instant,
}

impl Member {
    /// A member to be: its number, which is also what its answers are known by, and its connection.
    #[must_use]
    pub fn new(
        (number, line): (usize, usize),
        group: String,
        protocol: Protocol,
        topic: Arc<Topic>,
        beat: Beat,
    ) -> Self {
        Self {
            number,
            group,
            line,
            protocol,
            topic,
            beat,
            id: String::new(),
            epoch: NO_GENERATION,
            owned: Vec::new(),
            state: State::Out,
            due: None,
            spoke_at: Instant::default(),
            news_of: Instant::default(),
        }
    }

    /// Whether it has its share and nothing is to be said but that it lives.
    #[must_use]
    pub fn is_stable(&self) -> bool {
        self.state == State::Stable
    }

    /// Whether it is in no group.
    #[must_use]
    pub fn is_out(&self) -> bool {
        self.state == State::Out
    }

    /// Its generation, or its epoch.
    #[must_use]
    pub fn epoch(&self) -> i32 {
        self.epoch
    }

    /// The partitions it reads.
    #[must_use]
    pub fn owned(&self) -> &[i32] {
        &self.owned
    }

    /// How often it says that it lives.
    #[must_use]
    pub fn interval(&self) -> Duration {
        self.beat.interval()
    }

    /// When it asked for what it last heard that was new to it: by a heartbeat that was due, or as
    /// it joined. What it says at once about what it has heard is part of the same.
    #[must_use]
    pub fn news_of(&self) -> Instant {
        self.news_of
    }

    /// When it wants to speak.
    #[must_use]
    pub fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Its connection is there again: it takes up what it was about. Whoever was a member still is
    /// one, and says at once that it lives.
    pub fn take_up(&mut self, lines: &mut Lines<Tag>) -> Result<(), Trouble> {
        match self.state {
            State::Out => Ok(()),
            State::Joining => self.join_again(lines),
            State::Leaving => self.leave(lines),
            State::Stable => {
                self.due = Some(lines.now);
                self.drive(lines)
            }
        }
    }

    /// Asks to be a member, for the first time.
    pub fn join(&mut self, lines: &mut Lines<Tag>) -> Result<(), Trouble> {
        self.id = match self.protocol {
            Protocol::Classic => String::new(),
            Protocol::Consumer => {
                format!("{}-{}-{}", self.group, self.number, lines.now.nanos)
            }
        };
        self.spoke_at = lines.now;
        self.join_again(lines)
    }

    /// Says that it goes.
    pub fn leave(&mut self, lines: &mut Lines<Tag>) -> Result<(), Trouble> {
        (self.state, self.due) = (State::Leaving, None);
        self.owned.clear();
        if !lines.is_up(self.line) {
            return Ok(());
        }
        let tag = (self.number, What::Leave);
        match self.protocol {
            Protocol::Classic => {
                let member_id = self.id.clone();
                let identity = MemberIdentity { member_id, ..MemberIdentity::default() };
                let request = LeaveGroupRequest {
                    group_id: self.group.clone(),
                    member_id: self.id.clone(),
                    members: vec![identity],
                };
                lines.send(self.line, &request, tag)
            }
            Protocol::Consumer => {
                let request = ConsumerGroupHeartbeatRequest {
                    member_epoch: LEAVE_EPOCH,
                    ..self.consumer_heartbeat()
                };
                lines.send(self.line, &request, tag)
            }
        }
    }

    /// Commits how far it is, in all its partitions.
    pub fn commit(&self, offset: i64, due: Instant, lines: &mut Lines<Tag>) -> Result<(), Trouble> {
        let partition = |number: &i32| OffsetCommitRequestPartition {
            partition_index: *number,
            committed_offset: offset,
            committed_metadata: Some(String::new()),
            ..OffsetCommitRequestPartition::default()
        };
        let request = OffsetCommitRequest {
            group_id: self.group.clone(),
            generation_id_or_member_epoch: self.epoch,
            member_id: self.id.clone(),
            topics: vec![OffsetCommitRequestTopic {
                name: self.topic.name.clone(),
                topic_id: self.topic.id,
                partitions: self.owned.iter().map(partition).collect(),
            }],
            ..OffsetCommitRequest::default()
        };
        lines.send(self.line, &request, (self.number, What::Commit(due)))
    }

    /// Speaks, if it is time.
    pub fn drive(&mut self, lines: &mut Lines<Tag>) -> Result<(), Trouble> {
        if self.due.is_none_or(|due| lines.now < due) {
            return Ok(());
        }
        self.due = None;
        // It takes up what it was about when its connection is back.
        if !lines.is_up(self.line) {
            return Ok(());
        }
        self.spoke_at = lines.now;
        match (self.state, self.protocol) {
            (State::Joining, _) => self.join_again(lines),
            (State::Stable, Protocol::Classic) => {
                let request = HeartbeatRequest {
                    group_id: self.group.clone(),
                    generation_id: self.epoch,
                    member_id: self.id.clone(),
                    ..HeartbeatRequest::default()
                };
                lines.send(self.line, &request, (self.number, What::Beat))
            }
            (State::Stable, Protocol::Consumer) => {
                let request = self.consumer_heartbeat();
                lines.send(self.line, &request, (self.number, What::Beat))
            }
            (State::Out | State::Leaving, _) => Ok(()),
        }
    }

    /// Takes an answer to anything but a commit.
    pub fn heard(
        &mut self,
        what: What,
        reply: &Reply,
        lines: &mut Lines<Tag>,
    ) -> Result<(), Trouble> {
        if let What::Leave = what {
            (self.state, self.epoch) = (State::Out, NO_GENERATION);
            return Ok(());
        }
        // What was under way as it left.
        if matches!(self.state, State::Leaving | State::Out) {
            return Ok(());
        }
        let known = (self.state, self.epoch, self.owned.len());
        self.hear(what, reply, lines)?;
        if known != (self.state, self.epoch, self.owned.len()) {
            self.news_of = self.spoke_at;
        }
        Ok(())
    }

    fn hear(&mut self, what: What, reply: &Reply, lines: &mut Lines<Tag>) -> Result<(), Trouble> {
        match (what, self.protocol) {
            (_, Protocol::Consumer) => self.heard_consumer(&read(reply.decode())?, lines),
            (What::Join, _) => self.heard_join(&read(reply.decode())?, lines),
            (What::Sync, _) => self.heard_sync(&read(reply.decode())?, lines),
            _ => {
                let answer: HeartbeatResponse = read(reply.decode())?;
                self.heard_error(answer.error_code, lines)?;
                if self.is_stable() {
                    self.due = Some(self.beat.after(lines.now));
                }
                Ok(())
            }
        }
    }

    fn join_again(&mut self, lines: &mut Lines<Tag>) -> Result<(), Trouble> {
        (self.state, self.due) = (State::Joining, None);
        self.owned.clear();
        if !lines.is_up(self.line) {
            return Ok(());
        }
        let tag = (self.number, What::Join);
        match self.protocol {
            Protocol::Classic => {
                let topics = vec![self.topic.name.clone()];
                let subscription = Subscription { topics, ..Subscription::default() };
                let request = JoinGroupRequest {
                    group_id: self.group.clone(),
                    session_timeout_ms: SESSION_MS,
                    rebalance_timeout_ms: REBALANCE_MS,
                    member_id: self.id.clone(),
                    protocol_type: "consumer".to_owned(),
                    protocols: vec![JoinGroupRequestProtocol {
                        name: "range".to_owned(),
                        metadata: subscription.encode(1),
                    }],
                    ..JoinGroupRequest::default()
                };
                lines.send(self.line, &request, tag)
            }
            Protocol::Consumer => {
                self.epoch = JOIN_EPOCH;
                let request = ConsumerGroupHeartbeatRequest {
                    rebalance_timeout_ms: REBALANCE_MS,
                    subscribed_topic_names: Some(vec![self.topic.name.clone()]),
                    topic_partitions: Some(Vec::new()),
                    ..self.consumer_heartbeat()
                };
                lines.send(self.line, &request, tag)
            }
        }
    }

    fn consumer_heartbeat(&self) -> ConsumerGroupHeartbeatRequest {
        ConsumerGroupHeartbeatRequest {
            group_id: self.group.clone(),
            member_id: self.id.clone(),
            member_epoch: self.epoch,
            ..ConsumerGroupHeartbeatRequest::default()
        }
    }

    fn heard_join(
        &mut self,
        answer: &JoinGroupResponse,
        lines: &mut Lines<Tag>,
    ) -> Result<(), Trouble> {
        if answer.error_code == ErrorCode::MemberIdRequired {
            self.id.clone_from(&answer.member_id);
            return self.join_again(lines);
        }
        if !answer.error_code.is_none() {
            return self.heard_error(answer.error_code, lines);
        }
        self.id.clone_from(&answer.member_id);
        self.epoch = answer.generation_id;
        let assignments = match answer.leader == self.id {
            true => self.share_out(answer),
            false => Vec::new(),
        };
        let request = SyncGroupRequest {
            group_id: self.group.clone(),
            generation_id: self.epoch,
            member_id: self.id.clone(),
            protocol_type: Some("consumer".to_owned()),
            protocol_name: Some("range".to_owned()),
            assignments,
            ..SyncGroupRequest::default()
        };
        lines.send(self.line, &request, (self.number, What::Sync))
    }

    /// One after the other in turn.
    fn share_out(&self, answer: &JoinGroupResponse) -> Vec<SyncGroupRequestAssignment> {
        let (members, partitions) = (answer.members.len(), self.topic.leaders.len() as i32);
        let share = |nth: usize| {
            let mine = (0..partitions).filter(|number| *number as usize % members == nth);
            let topic =
                TopicPartitions { topic: self.topic.name.clone(), partitions: mine.collect() };
            let assigned_partitions = vec![topic];
            Assignment { assigned_partitions, ..Assignment::default() }.encode(1)
        };
        let members = answer.members.iter().enumerate();
        members
            .map(|(nth, member)| SyncGroupRequestAssignment {
                member_id: member.member_id.clone(),
                assignment: share(nth),
            })
            .collect()
    }

    fn heard_sync(
        &mut self,
        answer: &SyncGroupResponse,
        lines: &mut Lines<Tag>,
    ) -> Result<(), Trouble> {
        if !answer.error_code.is_none() {
            return self.heard_error(answer.error_code, lines);
        }
        let share = read(Assignment::decode(&answer.assignment))?;
        self.owned = share.assigned_partitions.into_iter().flat_map(|t| t.partitions).collect();
        self.state = State::Stable;
        self.due = Some(self.beat.after(lines.now));
        Ok(())
    }

    fn heard_consumer(
        &mut self,
        answer: &ConsumerGroupHeartbeatResponse,
        lines: &mut Lines<Tag>,
    ) -> Result<(), Trouble> {
        if !answer.error_code.is_none() {
            return self.heard_error(answer.error_code, lines);
        }
        self.epoch = answer.member_epoch;
        self.state = State::Stable;
        let interval = u64::try_from(answer.heartbeat_interval_ms).unwrap_or(0);
        self.beat.set_interval(Duration::from_millis(interval));
        self.due = Some(self.beat.after(lines.now));
        let Some(told) = &answer.assignment else { return Ok(()) };
        let share = told.topic_partitions.iter().flat_map(|topic| &topic.partitions);
        self.owned = share.copied().collect();
        // It has let go of the rest at once, and says so at once.
        let owned = TopicIdPartitions { topic_id: self.topic.id, partitions: self.owned.clone() };
        let request = ConsumerGroupHeartbeatRequest {
            topic_partitions: Some(vec![owned]),
            ..self.consumer_heartbeat()
        };
        self.due = None;
        lines.send(self.line, &request, (self.number, What::Beat))
    }

    /// What a client does about an error: most mean that it is to join again.
    fn heard_error(&mut self, error: ErrorCode, lines: &mut Lines<Tag>) -> Result<(), Trouble> {
        match error {
            ErrorCode::None => Ok(()),
            ErrorCode::RebalanceInProgress => self.join_again(lines),
            ErrorCode::UnknownMemberId
            | ErrorCode::IllegalGeneration
            | ErrorCode::FencedMemberEpoch => self.join(lines),
            ErrorCode::NotCoordinator => {
                self.due = None;
                lines.abandon(self.line);
                Ok(())
            }
            // It is asked again, and is what it was.
            other if other.is_retriable() => {
                self.due = Some(lines.now.after(AGAIN));
                Ok(())
            }
            other => Err(Trouble::new(format!("group {}: {other}", self.group))),
        }
    }
}

/// What cannot be read ends the run.
pub(super) fn read<T>(answer: Result<T, WireError>) -> Result<T, Trouble> {
    answer.map_err(|error| Trouble::new(format!("an answer cannot be read: {error}")))
}
