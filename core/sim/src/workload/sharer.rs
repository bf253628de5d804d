//! Members of share groups (KIP-932): they read the same partitions together, and say of each record
//! what became of it, or nothing until its lock runs out.
//!
//! A member says by heartbeat what it wants, and is told which partitions to read. It reads those of
//! a shard in one session ([`reading`]), and says there what became of what it has ([`speaking`]).
//! Now and then it falls silent, leaves, or dies; then it comes again under another name.
//!
//! ```text
//! looking ── joining ── reading ── … ── leaving ── resting ── looking
//!    └──────────┴─ errors, deaths ┘
//! ```

mod reading;
mod speaking;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tidemill_net::kafka::consumer_group_heartbeat::{JOIN_EPOCH, LEAVE_EPOCH};
use tidemill_net::kafka::describe_share_group_offsets::{
    DescribeShareGroupOffsetsRequest, DescribeShareGroupOffsetsResponse, ShareGroupToDescribe,
};
use tidemill_net::kafka::find_coordinator::{FindCoordinatorRequest, FindCoordinatorResponse};
use tidemill_net::kafka::share_group_heartbeat::{
    ShareGroupHeartbeatRequest, ShareGroupHeartbeatResponse,
};
use tidemill_net::kafka::topic_partitions::TopicPartitions;
use tidemill_net::kafka::{ErrorCode, Request, encode_request};
use tidemill_runtime::edge::Instant;

use self::reading::Session;
use self::speaking::Spoken;
use super::lines::{Heard, Lines};
use super::map::{Map, read};
use super::{Phase, REQUEST_TIMEOUT, Scene, passed};
use crate::checker::shares::Sent;
use crate::checker::{Place, Verdict, check};
use crate::network::{BOOTSTRAP_PORT, ClientEvent};
use crate::random::Random;

const HEARTBEAT: Duration = Duration::from_millis(300);
const HEARTBEAT_VERSION: i16 = 1;
const REFRESH: Duration = Duration::from_millis(700);
/// How often it asks in the end how far its group is behind.
const LOOK: Duration = Duration::from_millis(100);

/// One member of a share group.
#[derive(Debug)]
pub(crate) struct Sharer {
    number: u32,
    group: String,
    random: Random,
    lines: Lines<Ask>,
    map: Map,
    map_asked: Option<Instant>,
    find_version: i16,
    /// Of its fetches and of what it says.
    version: i16,
    /// It asks the shared port for everything.
    stays_at_bootstrap: bool,
    /// How often it came under another name.
    lives: u32,
    epoch: i32,
    step: Step,
    /// Something is asked that the next step depends on.
    busy: bool,
    heartbeat_at: Option<Instant>,
    coordinator: Option<u16>,
    /// The topics it has said it wants.
    wants: Vec<String>,
    assigned: BTreeSet<Place>,
    sessions: BTreeMap<u16, Session>,
    /// Until then it does nothing at all.
    silent_until: Option<Instant>,
    /// When a step of a session was lost: it may be carried out later.
    lost_at: Option<Instant>,
    looked_at: Option<Instant>,
    end: End,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Step {
    Looking,
    Joining,
    Reading,
    Leaving,
}

/// How far it is when nothing new comes any more.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum End {
    NotYet,
    /// It wants to know all topics once more.
    Begun,
    /// It knows them.
    Knows,
    /// Its group has read all there is.
    Reached,
}

#[derive(Debug)]
enum Ask {
    Map,
    Find,
    Beat,
    LastBeat,
    /// How far the group is behind.
    Lag,
    /// For records, and what it said along with it.
    Fetch(reading::Asked),
    /// What it said.
    Tell {
        port: u16,
        sent: Sent,
        spoken: Vec<Spoken>,
    },
}

impl Sharer {
    pub(crate) fn new(number: u32, groups: u32, random: &Random) -> Self {
        let mut random = random.fork(&format!("sharer {number}"));
        Self {
            number,
            group: Self::group(number, groups),
            lines: Lines::new(REQUEST_TIMEOUT),
            map: Map::default(),
            map_asked: None,
            find_version: random.between(0, 6) as i16,
            version: random.between(1, 2) as i16,
            stays_at_bootstrap: random.happens(200_000),
            lives: 0,
            epoch: JOIN_EPOCH,
            step: Step::Looking,
            busy: false,
            heartbeat_at: None,
            coordinator: None,
            wants: Vec::new(),
            assigned: BTreeSet::new(),
            sessions: BTreeMap::new(),
            silent_until: None,
            lost_at: None,
            looked_at: None,
            end: End::NotYet,
            random,
        }
    }

    /// The name of the group that one of them is a member of.
    pub(crate) fn group(number: u32, groups: u32) -> String {
        format!("share-{}", number % groups.max(1))
    }

    /// Whether its group has read all there is.
    pub(crate) fn is_settled(&self) -> bool {
        self.end == End::Reached
    }

    pub(crate) fn describe(&self) -> String {
        let Self { group, step, end, assigned, .. } = self;
        format!("{} of {group} is {step:?} {assigned:?}, the end is {end:?}", self.name())
    }

    fn name(&self) -> String {
        format!("sharer-{}-{}", self.number, self.lives)
    }

    pub(crate) fn step(&mut self, scene: &mut Scene<'_, '_>) -> Verdict {
        for heard in self.lines.expire(scene.port) {
            self.hear(heard, scene)?;
        }
        self.end_lost_sessions();
        if scene.phase == Phase::Audit {
            return Ok(());
        }
        let now = scene.port.now();
        if scene.phase == Phase::Settle && self.end == End::NotYet {
            (self.end, self.map_asked, self.silent_until) = (End::Begun, None, None);
        }
        if self.silent_until.is_some_and(|until| now < until) {
            return Ok(());
        }
        if passed(now, self.map_asked, REFRESH) {
            self.map_asked = Some(now);
            self.lines.ask(BOOTSTRAP_PORT, Some(Ask::Map), scene.port, Map::encode_question);
        }
        if scene.phase == Phase::Work {
            self.misbehave(scene)?;
        }
        if self.end == End::Knows && passed(now, self.looked_at, LOOK) {
            self.looked_at = Some(now);
            self.look(scene);
        }
        match self.step {
            Step::Looking if !self.busy => self.find(scene),
            Step::Joining | Step::Reading
                if !self.busy && passed(now, self.heartbeat_at, HEARTBEAT) =>
            {
                self.heartbeat_at = Some(now);
                self.beat(scene);
            }
            Step::Leaving if !self.busy && self.has_let_go() => self.beat_last(scene),
            _ => {}
        }
        self.read_all(scene);
        Ok(())
    }

    pub(crate) fn handle(&mut self, event: ClientEvent, scene: &mut Scene<'_, '_>) -> Verdict {
        for heard in self.lines.handle(event, scene.port)? {
            self.hear(heard, scene)?;
        }
        self.end_lost_sessions();
        Ok(())
    }

    /// What members do that nobody likes.
    fn misbehave(&mut self, scene: &mut Scene<'_, '_>) -> Verdict {
        if self.random.happens(4_000) {
            return self.die(scene);
        }
        if self.random.happens(4_000) {
            let most = 3 * scene.crowd.share_rules.lock;
            let silence = self.random.latency(Duration::ZERO, most.max(Duration::from_secs(2)));
            self.silent_until = Some(scene.port.now().after(silence));
        }
        if self.step == Step::Reading && self.random.happens(4_000) {
            self.step = Step::Leaving;
        }
        let ports = self.lines.ports();
        if !ports.is_empty() && self.random.happens(2_000) {
            let port = *self.random.pick(&ports);
            self.hang_up(port, scene)?;
        }
        Ok(())
    }

    /// Its process ends without a word, and another one takes its place.
    fn die(&mut self, scene: &mut Scene<'_, '_>) -> Verdict {
        for port in self.lines.ports() {
            self.hang_up(port, scene)?;
        }
        self.come_again();
        Ok(())
    }

    fn hang_up(&mut self, port: u16, scene: &mut Scene<'_, '_>) -> Verdict {
        for heard in self.lines.hang_up(port, scene.port) {
            self.hear(heard, scene)?;
        }
        self.end_lost_sessions();
        Ok(())
    }

    /// It is somebody else from now on.
    fn come_again(&mut self) {
        self.lives += 1;
        self.sessions.clear();
        self.look_again();
        self.join_again();
    }

    /// It does not know where the coordinator is.
    fn look_again(&mut self) {
        (self.step, self.busy, self.coordinator) = (Step::Looking, false, None);
    }

    /// It is no member as far as it knows.
    fn join_again(&mut self) {
        self.epoch = JOIN_EPOCH;
        self.wants.clear();
        self.assigned.clear();
    }

    fn to(&mut self) -> u16 {
        if self.stays_at_bootstrap || self.random.happens(50_000) {
            return BOOTSTRAP_PORT;
        }
        self.coordinator.unwrap_or(BOOTSTRAP_PORT)
    }

    fn ask<R: Request>(&mut self, ask: Ask, version: i16, request: &R, scene: &mut Scene<'_, '_>) {
        let to = self.to();
        self.lines.ask(to, Some(ask), scene.port, |out: &mut BytesMut, correlation| {
            encode_request(out, version, correlation, Some("sharer"), request);
        });
    }

    fn find(&mut self, scene: &mut Scene<'_, '_>) {
        let request = FindCoordinatorRequest {
            key: self.group.clone(),
            coordinator_keys: vec![self.group.clone()],
            ..FindCoordinatorRequest::default()
        };
        self.busy = true;
        self.ask(Ask::Find, self.find_version, &request, scene);
    }

    // Being a member.

    /// The names of all topics whose names stand for them for ever.
    fn topics(&self) -> Vec<String> {
        let topics: BTreeSet<_> =
            self.map.lasting_places().into_iter().map(|place| place.topic).collect();
        topics.into_iter().filter_map(|topic| self.map.name(topic)).map(str::to_owned).collect()
    }

    fn beat(&mut self, scene: &mut Scene<'_, '_>) {
        let wanted = self.topics();
        if wanted.is_empty() {
            // There is nothing to read, and a member must say what it wants.
            return;
        }
        let says = self.epoch == JOIN_EPOCH || wanted != self.wants || self.random.happens(50_000);
        let request = ShareGroupHeartbeatRequest {
            group_id: self.group.clone(),
            member_id: self.name(),
            member_epoch: self.epoch,
            rack_id: None,
            subscribed_topic_names: says.then(|| wanted.clone()),
        };
        self.wants = wanted;
        self.busy = true;
        self.ask(Ask::Beat, HEARTBEAT_VERSION, &request, scene);
    }

    fn beat_last(&mut self, scene: &mut Scene<'_, '_>) {
        let request = ShareGroupHeartbeatRequest {
            group_id: self.group.clone(),
            member_id: self.name(),
            member_epoch: LEAVE_EPOCH,
            ..ShareGroupHeartbeatRequest::default()
        };
        self.busy = true;
        self.ask(Ask::LastBeat, HEARTBEAT_VERSION, &request, scene);
    }

    /// Asks how far the group is behind.
    fn look(&mut self, scene: &mut Scene<'_, '_>) {
        if self.map.lasting_places().is_empty() {
            self.end = End::Reached;
            return;
        }
        let mut topics: Vec<TopicPartitions> = Vec::new();
        for place in self.map.lasting_places() {
            let topic = self.map.name(place.topic).unwrap_or_default();
            match topics.last_mut() {
                Some(last) if last.topic == topic => last.partitions.push(place.partition),
                _ => topics.push(TopicPartitions {
                    topic: topic.to_owned(),
                    partitions: vec![place.partition],
                }),
            }
        }
        let group = ShareGroupToDescribe { group_id: self.group.clone(), topics: Some(topics) };
        let request = DescribeShareGroupOffsetsRequest { groups: vec![group] };
        self.ask(Ask::Lag, 1, &request, scene);
    }

    // Hearing.

    fn hear(&mut self, heard: Heard<Ask>, scene: &mut Scene<'_, '_>) -> Verdict {
        let (ask, frame) = match heard {
            Heard::Answer(ask, frame) => (ask, frame),
            Heard::Lost(ask) => {
                match ask {
                    Ask::Map => self.map_asked = None,
                    Ask::Lag => {}
                    Ask::Find | Ask::Beat | Ask::LastBeat => self.look_again(),
                    Ask::Fetch(asked) => self.fetch_lost(&asked, scene),
                    // What became of it is not known.
                    Ask::Tell { .. } => self.lost_at = Some(scene.port.now()),
                }
                return Ok(());
            }
        };
        match ask {
            Ask::Map => {
                self.map = Map::decode_answer(&frame)?;
                if self.end == End::Begun {
                    self.end = End::Knows;
                }
                self.move_sessions(scene)
            }
            Ask::Find => self.found(&frame),
            Ask::Beat => self.beaten(&frame),
            Ask::LastBeat => {
                self.come_again();
                Ok(())
            }
            Ask::Lag => self.told_lag(&frame, scene),
            Ask::Fetch(asked) => self.fetched(asked, &frame, scene),
            Ask::Tell { port, sent, spoken } => self.spoken(port, &sent, spoken, &frame, scene),
        }
    }

    fn found(&mut self, frame: &Bytes) -> Verdict {
        let response: FindCoordinatorResponse = read(self.find_version, frame)?;
        let (error, port) = match response.coordinators.first() {
            Some(coordinator) => (coordinator.error_code, coordinator.port),
            None => (response.error_code, response.port),
        };
        self.busy = false;
        if error.is_none() {
            self.coordinator = Some(port as u16);
            self.step = if self.epoch == JOIN_EPOCH { Step::Joining } else { Step::Reading };
        }
        self.told(error)
    }

    fn beaten(&mut self, frame: &Bytes) -> Verdict {
        let response: ShareGroupHeartbeatResponse = read(HEARTBEAT_VERSION, frame)?;
        if !matches!(self.step, Step::Joining | Step::Reading | Step::Leaving) {
            return Ok(());
        }
        self.busy = false;
        if !response.error_code.is_none() {
            return self.told(response.error_code);
        }
        let (before, epoch) = (self.epoch, response.member_epoch);
        check(before <= epoch, "the epoch of a member never goes back", || {
            format!("{} of {}: {before}, then {epoch}", self.name(), self.group)
        })?;
        self.epoch = epoch;
        if self.step == Step::Joining {
            self.step = Step::Reading;
        }
        if let Some(assignment) = response.assignment {
            let all = assignment.topic_partitions.iter().flat_map(|topic| {
                let numbers = topic.partitions.iter();
                numbers.map(|partition| Place { topic: topic.topic_id, partition: *partition })
            });
            self.assigned = all.collect();
        }
        Ok(())
    }

    /// Does what an error asks a member to do.
    fn told(&mut self, error: ErrorCode) -> Verdict {
        match error {
            ErrorCode::None | ErrorCode::CoordinatorLoadInProgress => self.busy = false,
            ErrorCode::UnknownMemberId | ErrorCode::FencedMemberEpoch => {
                self.join_again();
                (self.step, self.busy) = (Step::Joining, false);
            }
            ErrorCode::NotCoordinator | ErrorCode::CoordinatorNotAvailable => self.look_again(),
            error => {
                return check(false, "a member is told what it can act upon", || {
                    format!("{} in {:?}: {error}", self.name(), self.step)
                });
            }
        }
        Ok(())
    }

    fn told_lag(&mut self, frame: &Bytes, scene: &mut Scene<'_, '_>) -> Verdict {
        let response: DescribeShareGroupOffsetsResponse = read(1, frame)?;
        let Some(group) = response.groups.first().filter(|group| group.error_code.is_none()) else {
            return Ok(());
        };
        let is_read = group.topics.iter().all(|topic| {
            let is_gone = scene.history.topics.get(topic.topic_id).is_none_or(|t| t.delete_asked);
            is_gone || topic.partitions.iter().all(|one| one.error_code.is_none() && one.lag == 0)
        });
        scene.port.say(format!("{} is behind: {:?}", self.group, group.topics));
        if is_read && self.end == End::Knows {
            self.end = End::Reached;
        }
        Ok(())
    }
}
