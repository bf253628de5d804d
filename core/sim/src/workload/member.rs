//! Members of groups: they join, share partitions out among themselves, commit, leave, and die.
//!
//! Members of the classic protocol share out by themselves if they lead ([`classic`]); those of the
//! newer one ([`newer`]) are told by the broker what they may read. In some groups there are both: who
//! begins anew may speak the other protocol, and the group changes its kind with that.
//!
//! Each offset that is sent is above all before, whoever commits it, so the committed offsets of a
//! partition rise for ever. Some members commit in transactions, too ([`transacting`]). In the end each
//! partition is read by one member of each group.
//!
//! ```text
//! looking ── joining ── syncing ── fetching ── holding ── …
//!    ^         ^                                  │
//!    └─────────┴──── errors, rebalances, deaths ──┘
//! ```

mod classic;
mod committing;
mod newer;
mod transacting;

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tidemill_net::kafka::consumer_group_heartbeat::JOIN_EPOCH;
use tidemill_net::kafka::find_coordinator::{FindCoordinatorRequest, FindCoordinatorResponse};
use tidemill_net::kafka::heartbeat::HeartbeatResponse;
use tidemill_net::kafka::offset_fetch::OffsetFetchRequestGroup;
use tidemill_net::kafka::{ErrorCode, Request, encode_request};
use tidemill_runtime::edge::Instant;

use self::classic::Classic;
use self::newer::Newer;
use self::transacting::Transacting;
use super::lines::{Heard, Lines};
use super::map::{Map, read, unreadable};
use super::{Phase, REBORN, Scene, offsets, passed};
use crate::checker::groups::{Era, Who};
use crate::checker::offsets::Floor;
use crate::checker::{Place, Verdict, check};
use crate::network::{BOOTSTRAP_PORT, ClientEvent};
use crate::random::Random;

/// Longer than a join may be parked.
const TIMEOUT: Duration = Duration::from_secs(8);
const SESSION: Duration = Duration::from_millis(1_500);
const REBALANCE: Duration = Duration::from_millis(3_000);
const HEARTBEAT: Duration = Duration::from_millis(300);
const REFRESH: Duration = Duration::from_millis(700);

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
    /// The era of the group in which it asked to be let in, if that can be told.
    era: Option<Era>,
    /// What it keeps as a member of the classic kind.
    classic: Classic,
    /// What it keeps as a member of the newer kind, if it is one.
    newer: Option<Newer>,
    /// It is in a group of both kinds, and speaks either protocol from one life to the next.
    changes: bool,
    /// What it keeps to commit in transactions, if it does.
    transacting: Option<Box<Transacting>>,
    /// It waits for what is not decided yet before it reads.
    waits: bool,
    step: Step,
    /// Something is asked that the next step depends on.
    busy: bool,
    heartbeat_at: Option<Instant>,
    /// When it sent the last heartbeat that was answered well.
    lived_at: Option<Instant>,
    /// Something that it asked under its name may still come about.
    is_unsure: bool,
    /// It was just told its share in a group of the newer kind.
    was_given: bool,
    holds: BTreeSet<Place>,
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
    /// With the generation that it must be let into at least.
    Join(i32),
    Sync,
    /// With the time it was sent.
    Heartbeat(Instant),
    /// A heartbeat of the newer kind; with the epoch that it must be told at least, if it joins.
    Beat(Option<i32>),
    /// The last one.
    LastBeat,
    Leave,
    Commit(Vec<(Place, i64)>),
    /// With what must be found at least.
    Fetch(Vec<(Place, Floor)>),
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
        let classic = Classic::new(&mut random);
        let changes = random.happens(300_000);
        let kind = match newer {
            _ if changes => "both",
            Some(_) => "newer",
            None => "group",
        };
        // Epochs came with this version.
        let knows_epochs = changes || newer.is_some();
        let commit = if knows_epochs { versions.commit.max(9) } else { versions.commit };
        let versions = Versions { commit, ..versions };
        let transacts = random.coin();
        let transacting = transacts.then(|| Box::new(Transacting::new(number, &mut random)));
        let waits = random.happens(700_000);
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
            era: None,
            classic,
            newer,
            changes,
            transacting,
            waits,
            step: Step::Looking,
            busy: false,
            heartbeat_at: None,
            lived_at: None,
            is_unsure: false,
            was_given: false,
            holds: BTreeSet::new(),
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
        let Self { group, id, step, under_way, generation, holds, .. } = self;
        let kind = if self.newer.is_some() { "newer" } else { "classic" };
        let (reads, all) = (holds.len(), self.map.lasting_places().len());
        format!(
            "{id:?} of {group}, {kind}, is {step:?} in {generation}, reads {reads} of {all} \
             partitions, with {under_way} commits under way"
        )
    }

    /// Whether each partition that its group wants is read by one member of the group.
    pub(crate) fn is_of_settled_group<'a>(
        &self,
        all: impl Iterator<Item = &'a Member> + Clone,
    ) -> bool {
        let others = all.filter(|member| member.group == self.group);
        let reads: usize = others.clone().map(|member| member.holds.len()).sum();
        let all_hold = others.clone().all(|member| member.step == Step::Holding);
        if !all_hold || reads != self.map.lasting_places_count() {
            return false;
        }
        let read: BTreeSet<&Place> = others.flat_map(|member| &member.holds).collect();
        read.into_iter().copied().eq(self.map.lasting_places())
    }

    pub(crate) fn step(&mut self, scene: &mut Scene<'_, '_>) -> Verdict {
        for heard in self.lines.expire(scene.port) {
            self.hear(heard, scene)?;
        }
        if scene.phase == Phase::Audit {
            return Ok(());
        }
        self.transact(scene)?;
        let now = scene.port.now();
        if passed(now, self.map_asked, REFRESH) {
            self.map_asked = Some(now);
            self.lines.ask(BOOTSTRAP_PORT, Some(Ask::Map), scene.port, Map::encode_question);
        }
        if scene.phase == Phase::Drain && self.drain == Drain::NotYet {
            self.drain = Drain::Begun;
            self.die(scene)?;
            // Where one took the place of a leader, nobody would look for new partitions.
            if self.newer.is_none() {
                self.instance.iter_mut().for_each(|name| name.push_str("-again"));
            }
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
        for heard in self.lines.handle(event.clone(), scene.port)? {
            self.hear(heard, scene)?;
        }
        self.transaction_heard(event, scene)
    }

    /// Its process ends without a word, and another one takes its place, perhaps much later.
    fn die(&mut self, scene: &mut Scene<'_, '_>) -> Verdict {
        for to in self.lines.ports() {
            for heard in self.lines.hang_up(to, scene.port) {
                self.hear(heard, scene)?;
            }
        }
        if let Some(transacting) = &mut self.transacting {
            transacting.die(&mut self.random, scene);
        }
        self.forget_name();
        self.coordinator = None;
        if self.changes && self.random.coin() {
            let newer = self.newer.is_none().then(|| Newer::new(&mut self.random));
            self.newer = newer;
            self.classic = Classic::new(&mut self.random);
        }
        self.begin(Step::Looking);
        Ok(())
    }

    /// Whether it was just told its share in a group of the newer kind.
    pub(crate) fn take_given(&mut self) -> bool {
        std::mem::take(&mut self.was_given)
    }

    /// What it has of another member, which has not let go of it and cannot be taken for dead.
    pub(crate) fn has_of(&self, other: &Member, now: Instant) -> Option<Place> {
        let lives = other.lived_at.is_some_and(|at| now.since(at) < SESSION);
        let is_other = self.group == other.group && lives && !other.is_unsure;
        let mut held = other.holds.iter().filter(|_| is_other);
        held.find(|place| self.holds.contains(*place)).copied()
    }

    /// It is no member any more, as far as it knows.
    fn forget_name(&mut self) {
        self.is_unsure = false;
        self.lived_at = None;
        self.id.clear();
        self.generation = JOIN_EPOCH;
    }

    fn begin(&mut self, step: Step) {
        self.step = step;
        self.busy = false;
        if matches!(step, Step::Looking | Step::Joining) {
            // Who keeps what it reads does so while it is a member.
            let keeps = self.newer.is_none() && self.classic.keeps();
            if step == Step::Looking || self.id.is_empty() || !keeps {
                self.holds.clear();
            }
            self.classic.forget_share();
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

    /// The topics it wants: those whose names stand for them for ever.
    fn topics(&self) -> Vec<String> {
        let names = self.map.topics.values().map(|topic| &topic.name);
        names.filter(|name| !name.starts_with(REBORN)).cloned().collect()
    }

    fn fetch(&mut self, scene: &mut Scene<'_, '_>) {
        // What it sees in the end is to be the last word.
        let waits = self.waits || self.drain != Drain::NotYet;
        let fresh = self.holds.iter().filter(|place| self.is_fresh(place));
        let floor =
            |place: &Place| (*place, scene.history.floor_of_offset(&self.group, *place, waits));
        let wanted: Vec<(Place, Floor)> = fresh.map(floor).collect();
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
        let request = offsets::question(asker, places, &self.map, waits);
        self.busy = true;
        self.ask(Ask::Fetch(wanted), self.versions.fetch, &request, scene);
    }

    /// It has its share: it says that it lives, commits, and sometimes goes.
    fn hold(&mut self, scene: &mut Scene<'_, '_>) {
        if self.wants_other() {
            return self.begin(Step::Joining);
        }
        let now = scene.port.now();
        if self.newer.is_none() && passed(now, self.heartbeat_at, HEARTBEAT) {
            self.heartbeat_at = Some(now);
            self.heartbeat(scene);
        }
        let may_commit = self.under_way < 4 && !self.is_committing_in_transaction();
        if scene.phase == Phase::Work && may_commit && self.random.happens(300_000) {
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

    // Hearing.

    fn hear(&mut self, heard: Heard<Ask>, scene: &mut Scene<'_, '_>) -> Verdict {
        let (ask, frame) = match heard {
            Heard::Answer(ask, frame) => (ask, frame),
            Heard::Lost(Ask::Map | Ask::Heartbeat(_)) => return Ok(()),
            Heard::Lost(ask) => {
                self.is_unsure = true;
                match ask {
                    Ask::Commit(_) => {
                        self.under_way -= 1;
                        self.give_up_transaction();
                        // It may still come about, behind what would be committed from now on in
                        // the same epoch. In the classic protocol the next generation is a barrier.
                        if self.newer.is_some() || self.changes {
                            self.forget_name();
                        }
                    }
                    Ask::Beat(_) => self.beat_lost(),
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
            Ask::Join(floor) => self.joined(floor, &frame, scene)?,
            Ask::Sync => self.synced(&frame, scene)?,
            Ask::Heartbeat(at) => {
                let response: HeartbeatResponse = read(self.versions.heartbeat, &frame)?;
                if self.step == Step::Holding {
                    self.lived_at = Some(at);
                    self.told(response.error_code)?;
                }
            }
            Ask::Beat(floor) => self.beaten(floor, &frame, scene)?,
            Ask::LastBeat => {
                self.forget_name();
                self.begin(Step::Looking);
            }
            Ask::Leave => self.left(&frame)?,
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
            // A transaction is not at its end.
            ErrorCode::CoordinatorLoadInProgress | ErrorCode::UnstableOffsetCommit => {
                self.busy = false;
            }
            // A member that was out for long, of a group that has ended meanwhile.
            ErrorCode::GroupIdNotFound if self.changes => {
                self.forget_name();
                self.begin(Step::Looking);
            }
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

    /// It is told its share, in a group of the newer kind or of the classic one.
    fn given(&mut self, is_newer: bool, share: &[Place], scene: &mut Scene<'_, '_>) -> Verdict {
        self.was_given = is_newer;
        scene.history.shares += 1;
        let who = self.who();
        scene.history.group(&self.group).given(&who, is_newer, share)
    }

    /// How it shows itself. A static member that comes again is the same under another name.
    fn who(&self) -> Who {
        let name = self.instance.as_deref().unwrap_or(&self.id).to_owned();
        Who { name, generation: self.generation, era: self.era }
    }

    /// Whether a commit in this name that is sent now must be refused.
    fn is_fenced(&self, who: &Who, place: Place, scene: &mut Scene<'_, '_>) -> bool {
        let is_classic = !self.changes && self.newer.is_none();
        scene.history.group(&self.group).is_fenced(who, place, is_classic)
    }

    fn fetched(
        &mut self,
        wanted: &[(Place, Floor)],
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
            scene.history.offset_fetched(&self.group, *place, offset, *floor)?;
            if let Some(newer) = &mut self.newer {
                newer.fresh.remove(place);
            }
        }
        self.step = Step::Holding;
        self.heartbeat_at = None;
        Ok(())
    }
}
