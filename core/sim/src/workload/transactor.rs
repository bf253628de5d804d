//! Producers of transactions: they write to several partitions, commit consumed offsets beside,
//! and commit or abort all of it; some share a transactional id, so that one fences the other.
//!
//! Half of them follow the newer flow (KIP-890), in which a batch adds its partition and each end
//! raises the epoch; the others name partitions first. As real clients do, one of the older flow
//! begins anew whenever something it asked could still come late, since that would get into its
//! next transaction.
//!
//! ```text
//! asking to be let in ── idle ── naming ── writing ── naming the group ── offsets ── ending ──┐
//!          ^               ^                                                                  │
//!          │               └──────────────────────────────────────────────────────────────────┤
//!          └───────────── fenced, dead, or unsure what may still come ────────────────────────┘
//! ```
//!
//! What it is told and why it may be told so is checked here; what becomes of its transactions, by
//! [`crate::checker::transactions`].

mod asking;
mod hearing;
mod writing;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::BytesMut;
use tidemill_net::kafka::{ErrorCode, Request, encode_request};
use tidemill_record::Producer;
use tidemill_runtime::edge::Instant;

use self::writing::Part;
use super::lines::Lines;
use super::map::Map;
use super::{Phase, REQUEST_TIMEOUT, Scene, passed};
use crate::checker::offsets::Floor;
use crate::checker::transactions::Granted;
use crate::checker::{Place, Verdict, check};
use crate::network::{BOOTSTRAP_PORT, ClientEvent};
use crate::random::Random;

const REFRESH: Duration = Duration::from_millis(600);
/// How long another process takes to come, at most.
const REST: Duration = Duration::from_millis(300);
/// Partitions a transaction writes to, at most.
const PLACES_MAX: u64 = 4;
/// Batches of a transaction, at most.
const BATCHES_MAX: u64 = 8;

/// One producer of transactions.
#[derive(Debug)]
pub(crate) struct Transactor {
    /// Its transactional id, and the group whose offsets it commits.
    id: String,
    group: String,
    random: Random,
    lines: Lines<Ask>,
    map: Map,
    map_asked: Option<Instant>,
    flow: Flow,
    timeout: Duration,
    /// Where the coordinators are, of its transactions and of its group.
    coordinators: [Option<u16>; 2],
    producer: Option<(Producer, Granted)>,
    sequences: BTreeMap<Place, i32>,
    next_value: u64,
    step: Step,
    /// Something is asked that the next step depends on.
    busy: bool,
    rests_until: Option<Instant>,
    open: Option<Open>,
    /// Something that it asked may still come, and get into the next transaction.
    is_unsure: bool,
    is_done: bool,
}

/// Which versions it speaks, and what follows from them.
#[derive(Clone, Copy, Debug)]
struct Flow {
    newer: bool,
    find: i16,
    init: i16,
    add: i16,
    add_offsets: i16,
    produce: i16,
    commit_offsets: i16,
    end: i16,
    fetch_offsets: i16,
}

/// What it has to do next.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Step {
    /// To be let in.
    Beginning,
    /// To think of a transaction.
    Idle,
    /// To name partitions.
    Naming,
    Writing,
    /// To name the group whose offsets are committed.
    NamingGroup,
    CommittingOffsets,
    Ending,
    /// To look what was committed, at the end of all.
    Looking,
}

/// An open transaction.
#[derive(Debug)]
struct Open {
    /// Its name with the checker.
    number: usize,
    began: Instant,
    commits: bool,
    parts: BTreeMap<Place, Part>,
    /// Partitions to be named first.
    unnamed: BTreeSet<Place>,
    batches_left: u64,
    /// The coordinator may know of it.
    is_known: bool,
    /// Offsets to commit, and how far that is.
    offsets: Vec<(Place, i64)>,
    wants_offsets: bool,
    has_offsets: bool,
    /// Nothing more is to be sent: it will be aborted.
    is_given_up: bool,
    /// How often its end was asked for.
    ends_asked: u32,
}

/// Whose coordinator.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Whose {
    Transactions,
    Group,
}

#[derive(Debug)]
enum Ask {
    Map,
    Find(Whose),
    Init(u64),
    Add(Vec<Place>),
    AddOffsets,
    /// Batches, each with its place and its first sequence.
    Produce(Vec<(Place, i32)>),
    CommitOffsets,
    End,
    /// With what must be found at least.
    FetchOffsets(Vec<(Place, Floor)>),
}

impl Flow {
    fn draw(random: &mut Random) -> Self {
        let newer = random.coin();
        let mut of = |older: (u64, u64), newest: (u64, u64)| {
            let (least, most) = if newer { newest } else { older };
            random.between(least, most) as i16
        };
        Self {
            newer,
            find: of((1, 6), (4, 6)),
            init: of((0, 5), (3, 5)),
            add: of((0, 3), (3, 3)),
            add_offsets: of((0, 4), (4, 4)),
            produce: of((3, 11), (12, 13)),
            commit_offsets: of((0, 4), (5, 5)),
            end: of((0, 4), (5, 5)),
            fetch_offsets: of((7, 9), (7, 9)),
        }
    }
}

impl Transactor {
    pub(crate) fn new(number: u32, ids: u32, random: &Random) -> Self {
        let mut random = random.fork(&format!("transactor {number}"));
        let id = format!("transactions-{}", number % ids.max(1));
        let flow = Flow::draw(&mut random);
        Self {
            group: format!("read-by-{id}"),
            id,
            flow,
            timeout: Duration::from_millis(*random.pick(&[200, 1_000, 1_000, 3_000])),
            random,
            lines: Lines::new(REQUEST_TIMEOUT),
            map: Map::default(),
            map_asked: None,
            coordinators: [None; 2],
            producer: None,
            sequences: BTreeMap::new(),
            next_value: 0,
            step: Step::Beginning,
            busy: false,
            rests_until: None,
            open: None,
            is_unsure: false,
            is_done: false,
        }
    }

    pub(crate) fn is_drained(&self) -> bool {
        self.is_done
    }

    pub(crate) fn describe(&self) -> String {
        let Self { id, step, busy, producer, open, .. } = self;
        let number = open.as_ref().map(|open| open.number);
        format!("{producer:?} of {id} in transaction {number:?} is {step:?}, busy: {busy}")
    }

    pub(crate) fn handle(&mut self, event: ClientEvent, scene: &mut Scene<'_, '_>) -> Verdict {
        for heard in self.lines.handle(event, scene.port)? {
            self.hear(heard, scene)?;
        }
        let rests = self.rests_until.is_some_and(|until| scene.port.now() < until);
        let goes_on = scene.phase != Phase::Audit && !self.is_done && !self.busy && !rests;
        if goes_on && self.random.coin() { self.act(scene) } else { Ok(()) }
    }

    pub(crate) fn step(&mut self, scene: &mut Scene<'_, '_>) -> Verdict {
        for heard in self.lines.expire(scene.port) {
            self.hear(heard, scene)?;
        }
        if scene.phase == Phase::Audit || self.is_done {
            return Ok(());
        }
        let now = scene.port.now();
        let wait = if self.map.topics.is_empty() { REFRESH / 10 } else { REFRESH };
        if passed(now, self.map_asked, wait) {
            self.map_asked = Some(now);
            self.lines.ask(BOOTSTRAP_PORT, Some(Ask::Map), scene.port, Map::encode_question);
        }
        if scene.phase == Phase::Work {
            self.suffer(scene)?;
            if self.rests_until.is_some_and(|until| now < until) {
                return Ok(());
            }
        }
        if self.busy {
            return Ok(());
        }
        self.act(scene)
    }

    /// Connections break, processes die, and some stand still for longer than they may.
    fn suffer(&mut self, scene: &mut Scene<'_, '_>) -> Verdict {
        if self.random.happens(3_000) {
            self.hang_up(scene)?;
        }
        if self.random.happens(2_000) {
            scene.port.say(format!("a process of {} dies", self.id));
            self.hang_up(scene)?;
            self.leave(scene);
        }
        if self.random.happens(1_000) {
            self.rest(2 * self.timeout, scene);
        }
        Ok(())
    }

    fn hang_up(&mut self, scene: &mut Scene<'_, '_>) -> Verdict {
        for to in self.lines.ports() {
            for heard in self.lines.hang_up(to, scene.port) {
                self.hear(heard, scene)?;
            }
        }
        Ok(())
    }

    fn rest(&mut self, most: Duration, scene: &Scene<'_, '_>) {
        let pause = Duration::from_millis(self.random.between(10, most.as_millis() as u64));
        self.rests_until = Some(scene.port.now().after(pause));
    }

    /// It is nobody any more, and another process takes its place later.
    fn leave(&mut self, scene: &Scene<'_, '_>) {
        self.producer = None;
        self.open = None;
        self.is_unsure = false;
        self.busy = false;
        self.coordinators = [None; 2];
        self.step = Step::Beginning;
        self.flow = Flow::draw(&mut self.random);
        self.rest(REST, scene);
    }

    fn act(&mut self, scene: &mut Scene<'_, '_>) -> Verdict {
        let drains = scene.phase != Phase::Work;
        match self.step {
            Step::Beginning | Step::Idle if drains => {
                self.step = Step::Looking;
                Ok(())
            }
            Step::Beginning => self.init(scene),
            Step::Idle => {
                if !self.flow.newer && self.is_unsure {
                    self.step = Step::Beginning;
                } else if self.random.happens(300_000) {
                    self.begin(scene);
                } else if self.random.happens(50_000) {
                    return self.fetch_offsets(scene);
                }
                Ok(())
            }
            Step::Naming => self.name_partitions(scene),
            Step::Writing => self.write(scene),
            Step::NamingGroup => self.name_group(scene),
            Step::CommittingOffsets => self.commit_offsets(scene),
            Step::Ending => self.end(scene),
            Step::Looking => self.fetch_offsets(scene),
        }
    }

    /// Thinks of a transaction.
    fn begin(&mut self, scene: &mut Scene<'_, '_>) {
        let places = self.map.lasting_places();
        if places.is_empty() {
            return;
        }
        let mut parts = BTreeMap::new();
        for _ in 0..self.random.between(1, PLACES_MAX) {
            parts.insert(*self.random.pick(&places), Part::default());
        }
        let number = scene.history.transactions.begins();
        let unnamed = match self.flow.newer {
            true => BTreeSet::new(),
            false => parts.keys().copied().collect(),
        };
        scene.port.say(format!("transaction {number} of {} begins: {:?}", self.id, self.producer));
        self.open = Some(Open {
            number,
            began: scene.port.now(),
            commits: self.random.happens(750_000),
            parts,
            unnamed,
            batches_left: self.random.between(1, BATCHES_MAX),
            is_known: false,
            offsets: Vec::new(),
            wants_offsets: self.random.happens(400_000),
            has_offsets: false,
            is_given_up: false,
            ends_asked: 0,
        });
        self.step = if self.flow.newer { Step::Writing } else { Step::Naming };
    }

    /// All records are written: the offsets, if there are to be any, and the end.
    fn written(&mut self) {
        let Some(open) = &mut self.open else { return };
        let offsets = open.commits && open.wants_offsets && !open.has_offsets;
        self.step = match (offsets, self.flow.newer) {
            (false, _) => Step::Ending,
            (true, true) => Step::CommittingOffsets,
            (true, false) => Step::NamingGroup,
        };
    }

    /// The transaction cannot be committed any more.
    fn give_up(&mut self) {
        if let Some(open) = &mut self.open {
            (open.commits, open.is_given_up) = (false, true);
            self.step = Step::Writing;
            self.busy = false;
        }
    }

    /// Another one has taken its place, or its time was over; that must be so.
    fn fenced(
        &mut self,
        what: &'static str,
        error: ErrorCode,
        scene: &mut Scene<'_, '_>,
    ) -> Verdict {
        self.may_be_fenced(what, error, scene)?;
        scene.port.say(format!("{} is fenced when {what}: {error}", self.id));
        self.hang_up(scene)?;
        self.leave(scene);
        Ok(())
    }

    fn may_be_fenced(
        &self,
        what: &'static str,
        error: ErrorCode,
        scene: &Scene<'_, '_>,
    ) -> Verdict {
        let Some((producer, granted)) = self.producer else { return Ok(()) };
        let others = scene.history.transactions.may_be_fenced(&self.id, granted);
        // The coordinator counts whole milliseconds.
        let began = self.open.as_ref().map(|open| open.began);
        let least = self.timeout - Duration::from_millis(2);
        let late = began.is_some_and(|began| least <= scene.port.now().since(began));
        check(others || late, "nobody is fenced without a reason", || {
            format!("{producer:?} of {} when {what}: {error}", self.id)
        })
    }

    /// The name of a topic, also of one that is gone by now.
    fn name_of(&self, place: Place, scene: &Scene<'_, '_>) -> String {
        let known = scene.history.topics.get(place.topic).map(|topic| topic.name.as_str());
        self.map.name(place.topic).or(known).unwrap_or("forgotten").to_owned()
    }

    fn port_of(&mut self, whose: Whose) -> u16 {
        if self.random.happens(50_000) {
            return BOOTSTRAP_PORT;
        }
        self.coordinators[whose as usize].unwrap_or(BOOTSTRAP_PORT)
    }

    fn ask<R: Request>(
        &mut self,
        to: u16,
        ask: Ask,
        version: i16,
        request: &R,
        scene: &mut Scene<'_, '_>,
    ) {
        self.busy = true;
        self.lines.ask(to, Some(ask), scene.port, |out: &mut BytesMut, correlation| {
            encode_request(out, version, correlation, Some("transactor"), request);
        });
    }
}
