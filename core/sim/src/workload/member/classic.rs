//! What members of the classic protocol do: they join, one of them is told that it leads and shares
//! out, and each asks for its share.
//!
//! A member joins again when there are other topics, and the leader when there are other partitions.
//! In a group that members of the newer kind are in, nobody leads, and the broker looks for both.

use std::collections::BTreeSet;

use bytes::Bytes;
use tidemill_net::kafka::ErrorCode;
use tidemill_net::kafka::consumer_protocol::{Assignment, PROTOCOL_TYPE, Subscription};
use tidemill_net::kafka::heartbeat::HeartbeatRequest;
use tidemill_net::kafka::join_group::{
    JoinGroupRequest, JoinGroupRequestProtocol, JoinGroupResponse, JoinGroupResponseMember,
};
use tidemill_net::kafka::leave_group::{LeaveGroupRequest, LeaveGroupResponse, MemberIdentity};
use tidemill_net::kafka::sync_group::{
    SyncGroupRequest, SyncGroupRequestAssignment, SyncGroupResponse,
};
use tidemill_net::kafka::topic_partitions::TopicPartitions;

use super::{Ask, Member, REBALANCE, SESSION, Step, read, unreadable};
use crate::checker::{Place, Verdict, check};
use crate::random::Random;
use crate::workload::Scene;

/// All share out in the same way, whatever they call it. Everybody knows all names: of members that
/// a start finds, a group knows none but the one it had chosen, and refuses who does not know that.
const PROTOCOLS: [&str; 3] = ["in-turn", "range", "roundrobin"];

/// From here on what a member says tells what it reads.
const OWNED_FROM: i16 = 2;

/// What a member of the classic protocol keeps.
#[derive(Debug)]
pub(super) struct Classic {
    /// It keeps what it reads while it joins again (KIP-429).
    keeps: bool,
    /// The ways of sharing out that it knows, best first.
    knows: Vec<&'static str>,
    /// The one that its group has chosen.
    protocol: Option<String>,
    /// The topics it has said that it wants.
    wants: Vec<String>,
    /// Somebody in the group leads.
    is_led: bool,
    /// It leads, and is to share out to these.
    leads: Option<Vec<JoinGroupResponseMember>>,
    /// It leads, and has shared out this.
    shared: Option<Vec<Place>>,
}

impl Classic {
    pub(super) fn new(random: &mut Random) -> Self {
        let mut knows = Vec::new();
        for protocol in PROTOCOLS {
            knows.insert(random.below(1 + knows.len() as u64) as usize, protocol);
        }
        let (protocol, wants, is_led) = (None, Vec::new(), false);
        Self { keeps: random.coin(), knows, protocol, wants, is_led, leads: None, shared: None }
    }

    /// Whether it keeps what it reads while it joins again.
    pub(super) fn keeps(&self) -> bool {
        self.keeps
    }

    /// It has no share, and nothing to share out.
    pub(super) fn forget_share(&mut self) {
        (self.leads, self.shared) = (None, None);
    }
}

impl Member {
    pub(super) fn join(&mut self, scene: &mut Scene<'_, '_>) {
        // Where the broker shares out, a member may join again in the generation it is in: what it
        // commits must not come behind what it commits then.
        if self.changes && 0 < self.under_way {
            return;
        }
        self.classic.wants = self.topics();
        let subscription = Subscription {
            topics: self.classic.wants.clone(),
            owned_partitions: self.owned(),
            generation_id: self.generation,
            ..Subscription::default()
        };
        let version = if self.classic.keeps { OWNED_FROM } else { 0 };
        let protocols = self.classic.knows.iter().map(|name| JoinGroupRequestProtocol {
            name: (*name).to_owned(),
            metadata: subscription.encode(version),
        });
        let request = JoinGroupRequest {
            group_id: self.group.clone(),
            session_timeout_ms: SESSION.as_millis() as i32,
            rebalance_timeout_ms: REBALANCE.as_millis() as i32,
            member_id: self.id.clone(),
            group_instance_id: self.instance.clone(),
            protocol_type: PROTOCOL_TYPE.to_owned(),
            protocols: protocols.collect(),
            reason: None,
        };
        self.busy = true;
        // Who has something to give up first is told of its share in the generation it is in.
        let group = scene.history.group(&self.group);
        self.era = group.era();
        let known = group.generation();
        let floor = if self.holds.is_empty() { known } else { self.generation };
        self.ask(Ask::Join(floor), self.versions.join, &request, scene);
    }

    /// What it reads, by the names of topics.
    fn owned(&self) -> Vec<TopicPartitions> {
        let named = self.holds.iter().filter_map(|place| {
            let topic = self.map.name(place.topic)?.to_owned();
            Some(TopicPartitions { topic, partitions: vec![place.partition] })
        });
        named.collect()
    }

    pub(super) fn sync(&mut self, scene: &mut Scene<'_, '_>) {
        let places = self.map.lasting_places();
        let leads = self.classic.leads.as_ref();
        let assignments = leads.map_or_else(Vec::new, |members| self.share_out(members, &places));
        self.classic.shared = self.classic.leads.is_some().then_some(places);
        let request = SyncGroupRequest {
            group_id: self.group.clone(),
            generation_id: self.generation,
            member_id: self.id.clone(),
            group_instance_id: self.instance.clone(),
            protocol_type: Some(PROTOCOL_TYPE.to_owned()),
            protocol_name: self.classic.protocol.clone(),
            assignments,
        };
        self.busy = true;
        self.ask(Ask::Sync, self.versions.sync, &request, scene);
    }

    /// Every partition to one of the members, in turn.
    fn share_out(
        &self,
        members: &[JoinGroupResponseMember],
        places: &[Place],
    ) -> Vec<SyncGroupRequestAssignment> {
        let mut shares: Vec<Assignment> = vec![Assignment::default(); members.len()];
        for (turn, place) in places.iter().enumerate() {
            let name = self.map.name(place.topic).unwrap_or_default().to_owned();
            let share = &mut shares[turn % members.len()].assigned_partitions;
            share.push(TopicPartitions { topic: name, partitions: vec![place.partition] });
        }
        let shares = members.iter().zip(shares).map(|(member, share)| SyncGroupRequestAssignment {
            member_id: member.member_id.clone(),
            assignment: share.encode(0),
        });
        shares.collect()
    }

    /// Whether it is to join again, since there is something else to be shared out.
    pub(super) fn wants_other(&self) -> bool {
        let shared = self.classic.shared.as_ref();
        let is_other = shared.is_some_and(|shared| *shared != self.map.lasting_places());
        self.newer.is_none() && (is_other || self.classic.wants != self.topics())
    }

    pub(super) fn heartbeat(&mut self, scene: &mut Scene<'_, '_>) {
        let request = HeartbeatRequest {
            group_id: self.group.clone(),
            generation_id: self.generation,
            member_id: self.id.clone(),
            group_instance_id: self.instance.clone(),
        };
        self.ask(Ask::Heartbeat(scene.port.now()), self.versions.heartbeat, &request, scene);
    }

    pub(super) fn leave(&mut self, scene: &mut Scene<'_, '_>) {
        let request = LeaveGroupRequest {
            group_id: self.group.clone(),
            member_id: self.id.clone(),
            members: vec![MemberIdentity {
                member_id: self.id.clone(),
                group_instance_id: self.instance.clone().filter(|_| 3 <= self.versions.leave),
                ..MemberIdentity::default()
            }],
        };
        self.holds.clear();
        self.busy = true;
        self.ask(Ask::Leave, self.versions.leave, &request, scene);
    }

    // Hearing.

    /// It is told its generation, which is no earlier than the `floor` that others knew when it asked.
    pub(super) fn joined(
        &mut self,
        floor: i32,
        frame: &Bytes,
        scene: &mut Scene<'_, '_>,
    ) -> Verdict {
        let response: JoinGroupResponse = read(self.versions.join, frame)?;
        if self.step != Step::Joining {
            return Ok(());
        }
        self.busy = false;
        if response.error_code == ErrorCode::MemberIdRequired {
            self.id = response.member_id;
            return Ok(());
        }
        if !response.error_code.is_none() {
            return self.told(response.error_code);
        }
        let generation = response.generation_id;
        scene.history.group(&self.group).joined(generation, floor, self.era)?;
        let chosen = response.protocol_name.filter(|name| !name.is_empty());
        let knows = |name: &String| self.classic.knows.contains(&name.as_str());
        check(chosen.as_ref().is_some_and(knows), "a group works as all its members can", || {
            format!("{} of {}: {chosen:?}", response.member_id, self.group)
        })?;
        self.id = response.member_id;
        self.generation = generation;
        let leads = response.leader == self.id && !response.skip_assignment;
        check(!leads || !response.members.is_empty(), "who leads is told of all members", || {
            format!("{} of {} in {generation}", self.id, self.group)
        })?;
        self.classic.protocol = chosen;
        self.classic.is_led = !response.leader.is_empty();
        self.classic.leads = leads.then_some(response.members);
        self.step = Step::Syncing;
        Ok(())
    }

    pub(super) fn synced(&mut self, frame: &Bytes, scene: &mut Scene<'_, '_>) -> Verdict {
        let response: SyncGroupResponse = read(self.versions.sync, frame)?;
        if self.step != Step::Syncing {
            return Ok(());
        }
        self.busy = false;
        if !response.error_code.is_none() {
            return self.told(response.error_code);
        }
        let share = Assignment::decode(&response.assignment)
            .map_err(|error| unreadable("assignment", &error))?;
        let mut mine = BTreeSet::new();
        for part in share.assigned_partitions {
            // A topic that this member does not know yet, or not any more, it leaves alone.
            let topic = self.map.topics.iter().find(|(_, known)| known.name == part.topic);
            let Some((topic, _)) = topic else { continue };
            let places = part.partitions.iter();
            mine.extend(places.map(|partition| Place { topic: *topic, partition: *partition }));
        }
        let given: Vec<Place> = mine.iter().copied().collect();
        self.given(!self.classic.is_led, &given, scene)?;
        // Who has given something up says so, now or when it is told to.
        let has_lost = self.holds.iter().any(|place| !mine.contains(place));
        if has_lost && self.random.coin() {
            self.holds.retain(|place| mine.contains(place));
            self.begin(Step::Joining);
            return Ok(());
        }
        self.holds = mine;
        self.step = Step::Fetching;
        Ok(())
    }

    pub(super) fn left(&mut self, frame: &Bytes) -> Verdict {
        let response: LeaveGroupResponse = read(self.versions.leave, frame)?;
        let member = response.members.first().map(|member| member.error_code);
        let error = member.unwrap_or(response.error_code);
        self.forget_name();
        self.begin(Step::Looking);
        self.told(error)
    }
}
