//! Simulated Kafka clients: they speak the real protocol, retry as real clients do, and report
//! all they do and see to the [`History`].
//!
//! - `producer`: idempotent ones, which must never duplicate or reorder, and plain ones;
//! - `reader`: readers that start at the beginning, follow, and ask for ends of logs;
//! - `transactor`: producers of transactions, some of which share a transactional id;
//! - `member`: members of groups, which share partitions, commit, in transactions and outside, leave and
//!   die;
//! - `sharer`: members of share groups, which read the same partitions together;
//! - `admin`: creates and deletes topics, adds partitions, deletes records, sets quotas, makes groups
//!   forget.
//!
//! The names of ordinary topics are never used again, so that a request which names its topic
//! cannot meet another one. Names that begin with `REBORN` are, and are used by id only. Topics
//! whose names begin with `COMPACTED` are compacted: all their records have keys, and some delete
//! theirs.
//!
//! Start reading at [`Workload::handle`].

mod admin;
mod lines;
mod map;
mod member;
mod offsets;
mod producer;
mod reader;
mod sharer;
mod transactor;

use std::collections::BTreeMap;
use std::time::Duration;

use tidemill_record::{BatchBuilder, Header, Timestamp};
use tidemill_runtime::edge::Instant;

use self::admin::Admin;
use self::member::Member;
use self::producer::Producer;
use self::reader::Reader;
use self::sharer::Sharer;
use self::transactor::Transactor;
use crate::checker::shares::ShareRules;
use crate::checker::{History, Place, Verdict, Violation, check};
use crate::network::{ClientEvent, ConnectionId};
use crate::random::Random;
use crate::value::Value;
use crate::world::{Clients, Port};

/// The beginning of names that are used again after their topic was deleted.
pub(crate) const REBORN: &str = "reborn";

/// The beginning of names of compacted topics.
pub(crate) const COMPACTED: &str = "compacted";

/// The header that says which value a record without one is.
pub(crate) const DELETES: &[u8] = b"deletes";

/// How long deletion marks stay in the topic of this name, in ms, if it is compacted: its name says
/// so.
pub(crate) fn delete_retention_ms(name: &str) -> Option<i64> {
    let rest = name.strip_prefix(COMPACTED)?.strip_prefix('-')?;
    rest.split('-').next()?.parse().ok()
}

/// Whether the topic of this name is compacted and nothing else: its records are not deleted by
/// request. Of the compacted ones that is every other.
pub(crate) fn is_only_compacted(name: &str) -> bool {
    let number = name.rsplit('-').next().and_then(|number| number.parse::<u64>().ok());
    delete_retention_ms(name).is_some() && number.is_some_and(|number| number % 2 == 1)
}

/// Appends the record of a value to a batch. In a compacted topic it may delete its key.
pub(crate) fn append(
    builder: &mut BatchBuilder,
    timestamp: Timestamp,
    (value, has_key, is_compacted): (Value, bool, bool),
    filling: usize,
) {
    let key = has_key.then(|| value.key());
    let key = key.as_deref().map(str::as_bytes);
    if is_compacted && value.deletes() {
        let header = Header { key: DELETES, value: Some(&value.encode(0)) };
        return builder.append_with_headers(timestamp, key, None, &[header]);
    }
    builder.append(timestamp, key, Some(&value.encode(filling)));
}

/// What kind of clients there are, and how many.
#[derive(Clone, Debug)]
pub struct Crowd {
    /// Idempotent producers.
    pub idempotent_producers: u32,
    /// Producers without any promise, with acks 0, 1 and all in turn.
    pub plain_producers: u32,
    /// Readers.
    pub readers: u32,
    /// Members of groups.
    pub members: u32,
    /// Groups they are members of.
    pub groups: u32,
    /// Members of share groups.
    pub sharers: u32,
    /// Groups they are members of.
    pub share_groups: u32,
    /// What these are set to.
    pub share_rules: ShareRules,
    /// Producers of transactions.
    pub transactors: u32,
    /// Transactional ids that they share.
    pub transactional_ids: u32,
    /// Topics made at the beginning.
    pub topics: u32,
    /// The most partitions of a topic.
    pub partitions_max: i32,
    /// Record values are rarely longer than this.
    pub value_bytes: usize,
    /// Records of a batch, at most.
    pub batch_records_max: usize,
    /// Parts per million of batches that are a few hundred kilobytes.
    pub large_batches: u32,
    /// The longest pause of a client between two steps.
    pub pause_max: Duration,
    /// Parts per million of an administrator's steps that delete a topic.
    pub topic_deletions: u32,
    /// Parts per million of an administrator's steps that delete records.
    pub record_deletions: u32,
    /// Parts per million of an administrator's steps that delete a group or an offset of one.
    pub group_deletions: u32,
    /// Parts per million of the topics that are compacted.
    pub compacted_topics: u32,
    /// Parts per million of an administrator's steps that set a quota, and of those that ask for
    /// all of them.
    pub quotas: u32,
}

/// What the run is at.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Phase {
    /// Everybody does what it likes.
    Work,
    /// No new records: what was begun is brought to an end.
    Drain,
    /// Share groups read all there is.
    Settle,
    /// All that is left is read once more.
    Audit,
}

/// What an actor has to hand while it acts.
pub(crate) struct Scene<'a, 'b> {
    pub(crate) port: &'a mut Port<'b>,
    pub(crate) history: &'a mut History,
    pub(crate) random: &'a mut Random,
    pub(crate) crowd: &'a Crowd,
    pub(crate) phase: Phase,
}

/// One client.
enum Actor {
    Producer(Producer),
    Reader(Reader),
    Member(Box<Member>),
    Sharer(Box<Sharer>),
    Transactor(Box<Transactor>),
    Admin(Admin),
}

impl Actor {
    fn as_member(&self) -> Option<&Member> {
        match self {
            Self::Member(member) => Some(member),
            _ => None,
        }
    }
}

/// All clients of a run.
pub struct Workload {
    crowd: Crowd,
    random: Random,
    history: History,
    actors: Vec<Actor>,
    owner_of: BTreeMap<ConnectionId, usize>,
    violation: Option<Violation>,
    phase: Phase,
    /// The auditor, once there is one.
    auditor: Option<usize>,
}

impl Workload {
    /// The clients `crowd` describes.
    #[must_use]
    pub fn new(crowd: Crowd, random: Random) -> Self {
        let mut actors = vec![Actor::Admin(Admin::new(crowd.topics))];
        for number in 0..crowd.idempotent_producers {
            actors.push(Actor::Producer(Producer::idempotent(1 + number, &random)));
        }
        for number in 0..crowd.plain_producers {
            actors.push(Actor::Producer(Producer::plain(1_000 + number, &random)));
        }
        for number in 0..crowd.readers {
            actors.push(Actor::Reader(Reader::new(number, &random)));
        }
        for number in 0..crowd.members {
            let member = Member::new(number, crowd.groups, &random);
            actors.push(Actor::Member(Box::new(member)));
        }
        for number in 0..crowd.sharers {
            let sharer = Sharer::new(number, crowd.share_groups, &random);
            actors.push(Actor::Sharer(Box::new(sharer)));
        }
        for number in 0..crowd.transactors {
            let transactor = Transactor::new(number, crowd.transactional_ids, &random);
            actors.push(Actor::Transactor(Box::new(transactor)));
        }
        let mut history = History::new(crowd.share_rules);
        for number in 0..crowd.sharers {
            history.sharing.begins(&Sharer::group(number, crowd.share_groups));
        }
        Self {
            crowd,
            random,
            history,
            actors,
            owner_of: BTreeMap::new(),
            violation: None,
            phase: Phase::Work,
            auditor: None,
        }
    }

    /// The first broken promise, if there is one.
    #[must_use]
    pub fn violation(&self) -> Option<&Violation> {
        self.violation.as_ref()
    }

    /// What was seen so far.
    #[must_use]
    pub fn history(&self) -> &History {
        &self.history
    }

    /// The node starts again, `now`.
    pub fn starts(&mut self, now: Instant) {
        self.history.now_ms = (now.nanos / 1_000_000) as i64;
        self.history.starts();
    }

    /// Whether any log is compacted.
    #[must_use]
    pub fn compacts(&self) -> bool {
        self.history.compacts_any()
    }

    /// From now on nobody writes new records.
    pub fn drain(&mut self) {
        self.phase = Phase::Drain;
    }

    /// Whether all that was begun has come to an end.
    #[must_use]
    pub fn is_drained(&self) -> bool {
        self.actors.iter().all(|actor| match actor {
            Actor::Producer(producer) => producer.is_drained(),
            Actor::Admin(admin) => admin.is_drained(),
            Actor::Member(member) => member.is_drained(),
            Actor::Transactor(transactor) => transactor.is_drained(),
            Actor::Reader(_) | Actor::Sharer(_) => true,
        })
    }

    /// Whether each partition is read by one member of each group.
    #[must_use]
    pub fn is_shared_out(&self) -> bool {
        let members = || self.actors.iter().filter_map(Actor::as_member);
        members().all(|member| member.is_of_settled_group(members()))
    }

    /// Who was told its share in a group of the newer kind has nothing that another member may still
    /// read.
    fn check_owners(&mut self, index: usize, now: Instant) -> Verdict {
        let Actor::Member(member) = &mut self.actors[index] else { return Ok(()) };
        if !member.take_given() {
            return Ok(());
        }
        let Actor::Member(member) = &self.actors[index] else { return Ok(()) };
        for other in self.actors.iter().filter_map(Actor::as_member) {
            let is_itself = std::ptr::eq::<Member>(&**member, other);
            let both = member.has_of(other, now).filter(|_| !is_itself);
            check(both.is_none(), "a partition is given away when its reader has let go", || {
                format!("{both:?}: {}; {}", other.describe(), member.describe())
            })?;
        }
        Ok(())
    }

    /// Why it has not, for people.
    #[must_use]
    pub fn undrained(&self) -> String {
        let state = |actor: &Actor| match actor {
            Actor::Producer(producer) if !producer.is_drained() => Some(producer.describe()),
            Actor::Admin(admin) if !admin.is_drained() => Some(admin.describe()),
            Actor::Member(member) if !member.is_drained() => Some(member.describe()),
            Actor::Transactor(transactor) if !transactor.is_drained() => {
                Some(transactor.describe())
            }
            Actor::Member(member) if !self.is_shared_out() => Some(member.describe()),
            Actor::Sharer(sharer) if self.phase == Phase::Settle && !sharer.is_settled() => {
                Some(sharer.describe())
            }
            Actor::Reader(reader) if self.auditor.is_some() && !reader.is_done() => {
                reader.describe()
            }
            _ => None,
        };
        self.actors.iter().filter_map(state).collect::<Vec<_>>().join("; ")
    }

    /// The node's process has ended.
    pub fn node_ended(&mut self) {
        self.history.sharing.node_ended();
    }

    /// From now on share groups read all there is.
    pub fn settle(&mut self) {
        self.phase = Phase::Settle;
    }

    /// Whether they have.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.actors.iter().all(|actor| match actor {
            Actor::Sharer(sharer) => sharer.is_settled(),
            _ => true,
        })
    }

    /// From now on one reader reads all there is, from start to end. The world must wake it with
    /// the number this returns.
    ///
    /// A `lenient` audit takes it that the disk is damaged somewhere: to be told so is fine, to be
    /// given less than there was without a word is not.
    pub fn audit(&mut self, lenient: bool) -> u64 {
        self.phase = Phase::Audit;
        let auditor = self.actors.len();
        self.actors.push(Actor::Reader(Reader::auditor(lenient, &self.random)));
        self.auditor = Some(auditor);
        auditor as u64
    }

    /// Whether the audit is done.
    #[must_use]
    pub fn is_audited(&self) -> bool {
        self.auditor.is_some_and(|auditor| match &self.actors[auditor] {
            Actor::Reader(reader) => reader.is_done(),
            _ => false,
        })
    }

    /// Compares what the audit found with what must be there.
    pub fn verdict(&mut self) -> Verdict {
        let auditor = self.auditor.expect("the audit comes before the verdict");
        let Actor::Reader(reader) = &self.actors[auditor] else {
            unreachable!("the auditor reads");
        };
        let found: BTreeMap<Place, (i64, i64)> = reader.found();
        let damaged = reader.damaged().clone();
        for (place, (start, end)) in &found {
            self.history.final_state(*place, *start, *end)?;
        }
        for place in self.history.places() {
            let topic = self.history.topics.get(place.topic);
            let may_be_gone = topic.is_none_or(|topic| topic.delete_asked);
            let found = damaged.contains(&place) || found.contains_key(&place);
            check(may_be_gone || found, "no partition vanishes", || {
                format!("{place:?} cannot be found")
            })?;
        }
        Ok(())
    }

    /// The numbers to wake all clients with at the beginning.
    #[must_use]
    pub fn numbers(&self) -> std::ops::Range<u64> {
        0..self.actors.len() as u64
    }

    fn act(
        &mut self,
        index: usize,
        port: &mut Port<'_>,
        act: impl FnOnce(&mut Actor, &mut Scene<'_, '_>) -> Verdict,
    ) {
        let mut scene = Scene {
            port,
            history: &mut self.history,
            random: &mut self.random,
            crowd: &self.crowd,
            phase: self.phase,
        };
        scene.history.now_ms = (scene.port.now().nanos / 1_000_000) as i64;
        let verdict = act(&mut self.actors[index], &mut scene);
        let now = scene.port.now();
        for id in scene.port.take_connected() {
            self.owner_of.insert(id, index);
        }
        if let Err(violation) = verdict.and_then(|()| self.check_owners(index, now))
            && self.violation.is_none()
        {
            self.violation = Some(violation);
        }
    }
}

impl Clients for Workload {
    fn handle(&mut self, event: ClientEvent, port: &mut Port<'_>) {
        if self.violation.is_some() {
            return;
        }
        match event {
            ClientEvent::Woken(number) => {
                let index = number as usize;
                let pause = self.random.latency(Duration::from_micros(200), self.crowd.pause_max);
                port.wake_in(pause, number);
                self.act(index, port, |actor, scene| match actor {
                    Actor::Producer(producer) => producer.step(scene),
                    Actor::Reader(reader) => reader.step(scene),
                    Actor::Member(member) => member.step(scene),
                    Actor::Sharer(sharer) => sharer.step(scene),
                    Actor::Transactor(transactor) => transactor.step(scene),
                    Actor::Admin(admin) => admin.step(scene),
                });
            }
            ClientEvent::Connected(id) | ClientEvent::Bytes(id, _) | ClientEvent::Closed(id) => {
                let Some(index) = self.owner_of.get(&id).copied() else { return };
                if matches!(event, ClientEvent::Closed(_)) {
                    self.owner_of.remove(&id);
                }
                self.act(index, port, |actor, scene| match actor {
                    Actor::Producer(producer) => producer.handle(event, scene),
                    Actor::Reader(reader) => reader.handle(event, scene),
                    Actor::Member(member) => member.handle(event, scene),
                    Actor::Sharer(sharer) => sharer.handle(event, scene),
                    Actor::Transactor(transactor) => transactor.handle(event, scene),
                    Actor::Admin(admin) => admin.handle(event, scene),
                });
            }
        }
    }
}

/// How long a client waits for an answer.
pub(crate) const REQUEST_TIMEOUT: Duration = Duration::from_secs(3);

/// Whether so much time has passed since `then`.
pub(crate) fn passed(now: Instant, then: Option<Instant>, wait: Duration) -> bool {
    then.is_none_or(|then| wait <= now.since(then))
}
