//! Members of groups: they join, share partitions out among themselves, commit, leave, and die.
//!
//! A member shares out by itself if it leads, as consumers of the classic protocol do; members of
//! the newer kind ([`newer`]) are told by the broker what they may read. What a member
//! commits of a partition is always above what it found committed there, so the offsets of a
//! partition rise for ever, whoever commits them: a commit that is taken from a member which has
//! lost the partition would show.
//!
//! ```text
//! looking ── joining ── syncing ── fetching ── holding ── …
//!    ^         ^                                  │
//!    └─────────┴──── errors, rebalances, deaths ──┘
//! ```

mod newer;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tidemill_net::kafka::consumer_group_heartbeat::JOIN_EPOCH;
use tidemill_net::kafka::consumer_protocol::{Assignment, PROTOCOL_TYPE, Subscription};
use tidemill_net::kafka::find_coordinator::{FindCoordinatorRequest, FindCoordinatorResponse};
use tidemill_net::kafka::heartbeat::{HeartbeatRequest, HeartbeatResponse};
use tidemill_net::kafka::join_group::{
    JoinGroupRequest, JoinGroupRequestProtocol, JoinGroupResponse, JoinGroupResponseMember,
};
use tidemill_net::kafka::leave_group::{LeaveGroupRequest, LeaveGroupResponse, MemberIdentity};
use tidemill_net::kafka::offset_commit::{
    OffsetCommitRequest, OffsetCommitRequestPartition, OffsetCommitRequestTopic,
    OffsetCommitResponse,
};
use tidemill_net::kafka::offset_fetch::OffsetFetchRequestGroup;
use tidemill_net::kafka::sync_group::{
    SyncGroupRequest, SyncGroupRequestAssignment, SyncGroupResponse,
};
use tidemill_net::kafka::topic_partitions::TopicPartitions;
use tidemill_net::kafka::{ErrorCode, Request, encode_request};
use tidemill_runtime::edge::Instant;

use self::newer::Newer;
use super::lines::{Heard, Lines};
use super::map::{Map, read, unreadable};
use super::{Phase, Scene, offsets, passed};
use crate::checker::{Place, Verdict, check};
use crate::network::{BOOTSTRAP_PORT, ClientEvent};
use crate::random::Random;

/// Longer than a join may be parked.
const TIMEOUT: Duration = Duration::from_secs(8);
const SESSION: Duration = Duration::from_millis(1_500);
const REBALANCE: Duration = Duration::from_millis(3_000);
const HEARTBEAT: Duration = Duration::from_millis(300);
const REFRESH: Duration = Duration::from_millis(700);
const PROTOCOL: &str = "in-turn";
/// A group does not take up more partitions than this.
const PLACES_MAX: usize = 12;

/// One member of a group.
#[derive(Debug)]
pub(crate) struct Member {
    group: String,
    instance: Option<String>,
    random: Random,
    lines: Lines<Ask>,
    map: Map,
    map_asked: Option<Instant>,
    versions: Versions,
    coordinator: Option<u16>,
    id: String,
    /// The generation it is in; of the newer kind, its epoch.
    generation: i32,
    /// What it keeps as a member of the newer kind.
    newer: Option<Newer>,
    leads: Option<Vec<JoinGroupResponseMember>>,
    step: Step,
    /// Something is asked that the next step depends on.
    busy: bool,
    heartbeat_at: Option<Instant>,
    /// What it holds, and what was committed last, as far as it knows.
    holds: BTreeMap<Place, i64>,
    /// Commits under way, and where they were sent: two that go different ways may change places.
    under_way: usize,
    commits_to: u16,
    /// Since nothing new is written: it has begun anew, and has seen what is committed.
    drain: Drain,
}

/// What a member does when nothing new is written any more.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Drain {
    NotYet,
    Begun,
    Seen,
}

/// Which versions it speaks.
#[derive(Clone, Copy, Debug)]
struct Versions {
    find: i16,
    join: i16,
    sync: i16,
    heartbeat: i16,
    leave: i16,
    commit: i16,
    fetch: i16,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Step {
    Looking,
    Joining,
    Syncing,
    Fetching,
    Holding,
}

#[derive(Debug)]
enum Ask {
    Map,
    Find,
    Join,
    Sync,
    Heartbeat,
    /// A heartbeat of the newer kind.
    Beat,
    /// The last one.
    LastBeat,
    Leave,
    Commit(Vec<(Place, i64)>),
    /// With what must be found at least.
    Fetch(Vec<(Place, Option<i64>)>),
}

impl Member {
    pub(crate) fn new(number: u32, groups: u32, random: &Random) -> Self {
        let mut random = random.fork(&format!("member {number}"));
        let is_static = random.happens(300_000);
        let mut up_to = |least: u64, most: u64| random.between(least, most) as i16;
        let versions = Versions {
            find: up_to(0, 6),
            join: up_to(if is_static { 5 } else { 0 }, 9),
            sync: up_to(if is_static { 3 } else { 0 }, 5),
            heartbeat: up_to(if is_static { 3 } else { 0 }, 4),
            leave: up_to(0, 5),
            commit: up_to(if is_static { 7 } else { 2 }, 10),
            fetch: up_to(1, 10),
        };
        let newer = random.happens(400_000).then(|| Newer::new(&mut random));
        let kind = if newer.is_some() { "newer" } else { "group" };
        // Epochs came with this version.
        let commit = if newer.is_some() { versions.commit.max(9) } else { versions.commit };
        let versions = Versions { commit, ..versions };
        Self {
            group: format!("{kind}-{}", number % groups.max(1)),
            instance: is_static.then(|| format!("instance-{number}")),
            random,
            lines: Lines::new(TIMEOUT),
            map: Map::default(),
            map_asked: None,
            versions,
            coordinator: None,
            id: String::new(),
            generation: JOIN_EPOCH,
            newer,
            leads: None,
            step: Step::Looking,
            busy: false,
            heartbeat_at: None,
            holds: BTreeMap::new(),
            under_way: 0,
            commits_to: BOOTSTRAP_PORT,
            drain: Drain::NotYet,
        }
    }

    /// Whether it has seen, as a new member, what was committed in the end.
    pub(crate) fn is_drained(&self) -> bool {
        self.under_way == 0 && self.drain == Drain::Seen
    }

    pub(crate) fn describe(&self) -> String {
        let Self { group, id, step, under_way, .. } = self;
        format!("{id:?} of {group} is {step:?}, with {under_way} commits under way")
    }

    pub(crate) fn step(&mut self, scene: &mut Scene<'_, '_>) -> Verdict {
        for heard in self.lines.expire(scene.port) {
            self.hear(heard, scene)?;
        }
        if scene.phase == Phase::Audit {
            return Ok(());
        }
        let now = scene.port.now();
        if passed(now, self.map_asked, REFRESH) {
            self.map_asked = Some(now);
            self.lines.ask(BOOTSTRAP_PORT, Some(Ask::Map), scene.port, Map::encode_question);
        }
        if scene.phase == Phase::Drain && self.drain == Drain::NotYet {
            self.drain = Drain::Begun;
            self.die(scene)?;
        }
        if scene.phase == Phase::Work && self.random.happens(4_000) {
            self.die(scene)?;
        }
        if self.busy {
            return Ok(());
        }
        match self.step {
            Step::Looking => self.find(scene),
            _ if self.newer.is_some() => self.go_on(scene),
            Step::Joining => self.join(scene),
            Step::Syncing => self.sync(scene),
            Step::Fetching => self.fetch(scene),
            Step::Holding => self.hold(scene),
        }
        Ok(())
    }

    pub(crate) fn handle(&mut self, event: ClientEvent, scene: &mut Scene<'_, '_>) -> Verdict {
        for heard in self.lines.handle(event, scene.port)? {
            self.hear(heard, scene)?;
        }
        Ok(())
    }

    /// Its process ends without a word, and another one takes its place, perhaps much later.
    fn die(&mut self, scene: &mut Scene<'_, '_>) -> Verdict {
        for to in self.lines.ports() {
            for heard in self.lines.hang_up(to, scene.port) {
                self.hear(heard, scene)?;
            }
        }
        self.forget_name();
        self.coordinator = None;
        self.begin(Step::Looking);
        Ok(())
    }

    /// It is no member any more, as far as it knows.
    fn forget_name(&mut self) {
        self.id.clear();
        self.generation = JOIN_EPOCH;
    }

    fn begin(&mut self, step: Step) {
        self.step = step;
        self.busy = false;
        if matches!(step, Step::Looking | Step::Joining) {
            self.holds.clear();
            self.leads = None;
            self.newer.iter_mut().for_each(Newer::forget_share);
        }
    }

    /// Where the coordinator is; sometimes another shard is asked, which passes it on.
    fn to(&mut self) -> u16 {
        if self.random.happens(50_000) {
            return BOOTSTRAP_PORT;
        }
        self.coordinator.unwrap_or(BOOTSTRAP_PORT)
    }

    fn ask<R: Request>(&mut self, ask: Ask, version: i16, request: &R, scene: &mut Scene<'_, '_>) {
        let to = match ask {
            Ask::Commit(_) => self.commits_to,
            _ => self.to(),
        };
        self.lines.ask(to, Some(ask), scene.port, |out: &mut BytesMut, correlation| {
            encode_request(out, version, correlation, Some("member"), request);
        });
    }

    fn find(&mut self, scene: &mut Scene<'_, '_>) {
        let request = FindCoordinatorRequest {
            key: self.group.clone(),
            coordinator_keys: vec![self.group.clone()],
            ..FindCoordinatorRequest::default()
        };
        self.busy = true;
        self.coordinator = None;
        self.ask(Ask::Find, self.versions.find, &request, scene);
    }

    fn join(&mut self, scene: &mut Scene<'_, '_>) {
        let topics = self.map.topics.values().map(|topic| topic.name.clone());
        let subscription = Subscription { topics: topics.collect(), ..Subscription::default() };
        let request = JoinGroupRequest {
            group_id: self.group.clone(),
            session_timeout_ms: SESSION.as_millis() as i32,
            rebalance_timeout_ms: REBALANCE.as_millis() as i32,
            member_id: self.id.clone(),
            group_instance_id: self.instance.clone(),
            protocol_type: PROTOCOL_TYPE.to_owned(),
            protocols: vec![JoinGroupRequestProtocol {
                name: PROTOCOL.to_owned(),
                metadata: subscription.encode(0),
            }],
            reason: None,
        };
        self.busy = true;
        self.ask(Ask::Join, self.versions.join, &request, scene);
    }

    fn sync(&mut self, scene: &mut Scene<'_, '_>) {
        let assignments =
            self.leads.as_ref().map_or_else(Vec::new, |members| self.share_out(members));
        let request = SyncGroupRequest {
            group_id: self.group.clone(),
            generation_id: self.generation,
            member_id: self.id.clone(),
            group_instance_id: self.instance.clone(),
            protocol_type: Some(PROTOCOL_TYPE.to_owned()),
            protocol_name: Some(PROTOCOL.to_owned()),
            assignments,
        };
        self.busy = true;
        self.ask(Ask::Sync, self.versions.sync, &request, scene);
    }

    /// Every known partition to one of the members, in turn.
    fn share_out(&self, members: &[JoinGroupResponseMember]) -> Vec<SyncGroupRequestAssignment> {
        let mut shares: Vec<Assignment> = vec![Assignment::default(); members.len()];
        for (turn, place) in self.places().into_iter().enumerate() {
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

    /// What there is to share out.
    fn places(&self) -> Vec<Place> {
        let mut places = self.map.lasting_places();
        places.truncate(PLACES_MAX);
        places
    }

    fn fetch(&mut self, scene: &mut Scene<'_, '_>) {
        let group = scene.history.group(&self.group);
        let fresh = self.holds.keys().filter(|place| self.is_fresh(place));
        let wanted: Vec<(Place, Option<i64>)> =
            fresh.map(|place| (*place, group.floor(*place))).collect();
        if wanted.is_empty() {
            return self.begin(Step::Holding);
        }
        let asker = OffsetFetchRequestGroup {
            group_id: self.group.clone(),
            member_id: self.newer.is_some().then(|| self.id.clone()),
            member_epoch: if self.newer.is_some() { self.generation } else { -1 },
            ..OffsetFetchRequestGroup::default()
        };
        let places = wanted.iter().map(|(place, _)| place);
        let request = offsets::question(asker, places, &self.map, true);
        self.busy = true;
        self.ask(Ask::Fetch(wanted), self.versions.fetch, &request, scene);
    }

    /// It has its share: it says that it lives, commits, and sometimes goes.
    fn hold(&mut self, scene: &mut Scene<'_, '_>) {
        let now = scene.port.now();
        if self.newer.is_none() && passed(now, self.heartbeat_at, HEARTBEAT) {
            self.heartbeat_at = Some(now);
            self.heartbeat(scene);
        }
        if scene.phase == Phase::Work && self.under_way < 4 && self.random.happens(300_000) {
            self.commit(scene);
        }
        if scene.phase == Phase::Work && self.random.happens(4_000) {
            match self.newer.is_some() {
                true => self.beat_last(scene),
                false => self.leave(scene),
            }
        }
        if self.drain == Drain::Begun {
            self.drain = Drain::Seen;
        }
    }

    fn heartbeat(&mut self, scene: &mut Scene<'_, '_>) {
        let request = HeartbeatRequest {
            group_id: self.group.clone(),
            generation_id: self.generation,
            member_id: self.id.clone(),
            group_instance_id: self.instance.clone(),
        };
        self.ask(Ask::Heartbeat, self.versions.heartbeat, &request, scene);
    }

    fn commit(&mut self, scene: &mut Scene<'_, '_>) {
        let group = scene.history.group(&self.group);
        let mut offsets = Vec::new();
        for (place, last) in &mut self.holds {
            let is_fresh = self.newer.as_ref().is_some_and(|newer| newer.fresh.contains(place));
            if !is_fresh && self.random.coin() {
                *last += self.random.between(1, 5) as i64;
                group.committing(*place, *last);
                offsets.push((*place, *last));
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

    fn leave(&mut self, scene: &mut Scene<'_, '_>) {
        let request = LeaveGroupRequest {
            group_id: self.group.clone(),
            member_id: self.id.clone(),
            members: vec![MemberIdentity {
                member_id: self.id.clone(),
                group_instance_id: self.instance.clone().filter(|_| 3 <= self.versions.leave),
                ..MemberIdentity::default()
            }],
        };
        self.busy = true;
        self.ask(Ask::Leave, self.versions.leave, &request, scene);
    }

    // Hearing.

    fn hear(&mut self, heard: Heard<Ask>, scene: &mut Scene<'_, '_>) -> Verdict {
        let (ask, frame) = match heard {
            Heard::Answer(ask, frame) => (ask, frame),
            Heard::Lost(Ask::Map | Ask::Heartbeat) => return Ok(()),
            Heard::Lost(ask) => {
                match ask {
                    Ask::Commit(_) => {
                        self.under_way -= 1;
                        // It may still come about, behind what would be committed from now on in
                        // the same epoch. In the classic protocol the next generation is a barrier.
                        if self.newer.is_some() {
                            self.forget_name();
                        }
                    }
                    Ask::Beat => self.beat_lost(),
                    _ => {}
                }
                // What became of it is not known: look again.
                self.begin(Step::Looking);
                return Ok(());
            }
        };
        match ask {
            Ask::Map => self.map = Map::decode_answer(&frame)?,
            Ask::Find => self.found(&frame)?,
            Ask::Join => self.joined(&frame)?,
            Ask::Sync => self.synced(&frame, scene)?,
            Ask::Heartbeat => {
                let response: HeartbeatResponse = read(self.versions.heartbeat, &frame)?;
                if self.step == Step::Holding {
                    self.told(response.error_code)?;
                }
            }
            Ask::Beat => self.beaten(&frame, scene)?,
            Ask::LastBeat => {
                self.forget_name();
                self.begin(Step::Looking);
            }
            Ask::Leave => {
                let response: LeaveGroupResponse = read(self.versions.leave, &frame)?;
                let member = response.members.first().map(|member| member.error_code);
                let error = member.unwrap_or(response.error_code);
                self.id.clear();
                self.begin(Step::Looking);
                self.told(error)?;
            }
            Ask::Commit(offsets) => self.committed(&offsets, &frame, scene)?,
            Ask::Fetch(wanted) => self.fetched(&wanted, &frame, scene)?,
        }
        Ok(())
    }

    /// Does what an error asks a consumer to do.
    fn told(&mut self, error: ErrorCode) -> Verdict {
        match error {
            ErrorCode::None | ErrorCode::UnknownTopicOrPartition | ErrorCode::UnknownTopicId => {}
            ErrorCode::RebalanceInProgress | ErrorCode::MemberIdRequired => {
                self.begin(Step::Joining);
            }
            ErrorCode::UnknownMemberId
            | ErrorCode::IllegalGeneration
            | ErrorCode::FencedMemberEpoch => {
                self.forget_name();
                self.begin(Step::Joining);
            }
            // The epoch has changed meanwhile: it is asked again with the one that is known then.
            ErrorCode::StaleMemberEpoch if self.newer.is_some() => self.busy = false,
            // The process before is not known to be gone yet.
            ErrorCode::UnreleasedInstanceId if self.newer.is_some() => self.busy = false,
            // Another process of the same instance has come: an earlier one of its own, whose
            // requests were delayed.
            ErrorCode::FencedInstanceId => {
                self.forget_name();
                self.begin(Step::Looking);
            }
            ErrorCode::CoordinatorLoadInProgress => self.busy = false,
            ErrorCode::NotCoordinator
            | ErrorCode::CoordinatorNotAvailable
            | ErrorCode::GroupIdNotFound => self.begin(Step::Looking),
            error => {
                return check(false, "a member is told what it can act upon", || {
                    format!("{} in {:?}: {error}", self.id, self.step)
                });
            }
        }
        Ok(())
    }

    fn found(&mut self, frame: &Bytes) -> Verdict {
        let response: FindCoordinatorResponse = read(self.versions.find, frame)?;
        let (error, port) = match response.coordinators.first() {
            Some(coordinator) => (coordinator.error_code, coordinator.port),
            None => (response.error_code, response.port),
        };
        self.busy = false;
        if error.is_none() {
            self.coordinator = Some(port as u16);
            self.begin(Step::Joining);
        }
        self.told(error)
    }

    fn joined(&mut self, frame: &Bytes) -> Verdict {
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
        self.id = response.member_id;
        self.generation = response.generation_id;
        let leads = response.leader == self.id && !response.skip_assignment;
        self.leads = leads.then_some(response.members);
        self.step = Step::Syncing;
        Ok(())
    }

    fn synced(&mut self, frame: &Bytes, scene: &mut Scene<'_, '_>) -> Verdict {
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
        // A static member that comes again is the same owner under another name.
        let who = self.instance.as_deref().unwrap_or(&self.id).to_owned();
        let given: Vec<Place> = mine.iter().copied().collect();
        scene.history.shares += 1;
        scene.history.group(&self.group).given(self.generation, &who, &given)?;
        self.holds = mine.into_iter().map(|place| (place, 0)).collect();
        self.step = Step::Fetching;
        Ok(())
    }

    fn committed(
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
                scene.history.group(&self.group).committed(*place, *offset);
            }
        }
        let first = results.into_iter().find(|error| !error.is_none());
        match first {
            Some(error) if self.step == Step::Holding => self.told(error),
            _ => Ok(()),
        }
    }

    fn fetched(
        &mut self,
        wanted: &[(Place, Option<i64>)],
        frame: &Bytes,
        scene: &mut Scene<'_, '_>,
    ) -> Verdict {
        let answer = offsets::Answer::read(self.versions.fetch, frame)?;
        if self.step != Step::Fetching {
            return Ok(());
        }
        self.busy = false;
        if !answer.error.is_none() {
            return self.told(answer.error);
        }
        for (place, floor) in wanted {
            let Some(found) = answer.of(*place, &self.map) else { continue };
            match found.error_code {
                ErrorCode::None => {}
                ErrorCode::UnknownTopicId => continue,
                error => return self.told(error),
            }
            // A topic that is being deleted takes its offsets with it.
            let topic = scene.history.topics.get(place.topic);
            if topic.is_none_or(|topic| topic.delete_asked) {
                continue;
            }
            let offset = (0 <= found.committed_offset).then_some(found.committed_offset);
            scene.history.group(&self.group).fetched(*place, offset, *floor)?;
            if let Some(held) = self.holds.get_mut(place) {
                *held = offset.unwrap_or(0);
            }
            if let Some(newer) = &mut self.newer {
                newer.fresh.remove(place);
            }
        }
        self.step = Step::Holding;
        self.heartbeat_at = None;
        Ok(())
    }
}
