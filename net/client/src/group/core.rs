//! A member of a group without I/O: topics in, requests out, batches of what it is given back.
//!
//! ```text
//!   Outside -> Joining -> Joined -> Syncing -> Member       Leaving -> Left
//!      ^          |         |          |         |
//!      +----------+---------+----------+---------+  somebody comes or goes; we are not known
//! ```
//!
//! A [`ConsumerCore`] reads; here is decided what, and from where. The coordinator is asked over a
//! connection of its own ([`crate::Peer::Aside`]): it keeps who joins waiting for the others, and
//! fetches wait for records.
//!
//! What was taken with [`GroupCore::poll_batch`] counts as done with at the next [`GroupCore::tick`].
//!
//! Start reading at [`GroupCore::tick`].

mod joining;
mod offsets;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tidemill_net::kafka::{ErrorCode, Request};

use self::offsets::Commits;
use super::{Assignor, Change, GroupConfig, Member, Share};
use crate::backoff::Random;
use crate::cluster::{Cluster, NotSent, Peer};
use crate::connection::Reply;
use crate::consumer::{self, ConsumerConfig, ConsumerCore, FetchedBatch, Start};
use crate::error::{Error, ErrorKind};
use crate::time::{Instant, earlier};

/// What was asked of the coordinator, and in which attempt to be a member.
#[derive(Debug)]
pub struct Asked {
    what: Ask,
    round: u64,
}

#[derive(Debug)]
enum Ask {
    /// Who the coordinator is.
    Coordinator,
    Join,
    Sync,
    Heartbeat,
    /// Where the group left off.
    Offsets(Vec<Share>),
    /// To keep how far we have come.
    Commit(Vec<(Share, i64)>),
    Leave,
}

#[derive(Debug)]
enum Stage {
    /// Nothing is wanted.
    Idle,
    /// To join, as soon as what was read is committed.
    Outside,
    Joining,
    /// In a new generation; as its leader, these are to be given their shares.
    Joined(Option<Vec<Member>>),
    Syncing,
    Member,
    /// To say so, as soon as what was read is committed.
    Leaving,
    /// It was said.
    Parting,
    Left,
}

/// How far we are with a partition that is ours.
#[derive(Debug, Default)]
struct Progress {
    place: Placed,
    /// What the group has committed, as far as we know.
    committed: Option<i64>,
}

#[derive(Debug, Default)]
enum Placed {
    /// Where to begin is to be asked.
    #[default]
    Unknown,
    Asked,
    Known(Start),
}

/// See the head of this file.
#[derive(Debug)]
pub struct GroupCore {
    config: GroupConfig,
    reader: ConsumerCore,
    random: Random,
    topics: BTreeSet<Arc<str>>,
    stage: Stage,
    /// The node to ask, and whether that is being found out.
    coordinator: Option<i32>,
    is_finding: bool,
    member_id: String,
    generation: i32,
    /// What the generation shares out by.
    assignor: Assignor,
    /// How often we have begun to be a member: what was asked before is not meant any more.
    round: u64,
    /// When joined; the leader does not wait for ever to hear of topics.
    joined_at: Instant,
    /// What the leader has shared out: topics and how many partitions they had.
    shared_out: Option<BTreeMap<Arc<str>, i32>>,
    shares: BTreeMap<Share, Progress>,
    commits: Commits,
    heartbeat_at: Instant,
    is_beating: bool,
    last_heard: Instant,
    not_before: Instant,
    failed_tries: u32,
    problems: VecDeque<Error>,
    changes: VecDeque<Change>,
    /// What the coordinator last refused.
    trouble: Option<Error>,
    last_tick: Instant,
}

/// How many problems and changes wait to be told at most; the oldest are forgotten.
const TOLD_MAX: usize = 100;

/// How long the leader waits to hear of topics that it does not know.
const TOPICS_PATIENCE: Duration = Duration::from_secs(5);

impl GroupCore {
    /// A member of nothing yet.
    pub fn new(config: GroupConfig) -> Result<GroupCore, Error> {
        let refused = |cause: &str, fix: &str| {
            Err(Error::new(ErrorKind::Invalid, "cannot make a member of a group")
                .because(cause)
                .fix(fix))
        };
        if config.group.is_empty() {
            return refused("the group has no name", "name it");
        }
        let Some(first) = config.assignors.first() else {
            return refused("it knows no way to share out partitions", "name one");
        };
        let now = Instant::default();
        let reset = config.reader.reset.or(Some(config.start));
        Ok(GroupCore {
            reader: ConsumerCore::new(ConsumerConfig { reset, ..config.reader.clone() })?,
            random: Random::new(config.reader.cluster.seed ^ 0x6772_6f75),
            topics: BTreeSet::new(),
            stage: Stage::Idle,
            coordinator: None,
            is_finding: false,
            member_id: String::new(),
            generation: joining::NO_GENERATION,
            assignor: *first,
            round: 0,
            joined_at: now,
            shared_out: None,
            shares: BTreeMap::new(),
            commits: Commits::default(),
            heartbeat_at: now,
            is_beating: false,
            last_heard: now,
            not_before: now,
            failed_tries: 0,
            problems: VecDeque::new(),
            changes: VecDeque::new(),
            trouble: None,
            last_tick: now,
            config,
        })
    }

    /// The connections, for the driver.
    pub fn cluster(&mut self) -> &mut Cluster<consumer::Ask> {
        self.reader.cluster()
    }

    /// Reads its share of these topics from now on, and of no others.
    pub fn subscribe(&mut self, topics: impl IntoIterator<Item = Arc<str>>, now: Instant) {
        self.topics = topics.into_iter().collect();
        for topic in &self.topics {
            self.reader.cluster().want_topic(topic, now);
        }
        self.rejoin(now);
    }

    /// Leaves the group, so that the others need not wait for its silence; what was taken is
    /// committed before, if that is done by itself. Ends with [`GroupCore::has_left`].
    pub fn leave(&mut self, now: Instant) {
        if matches!(self.stage, Stage::Leaving | Stage::Parting | Stage::Left) {
            return;
        }
        if self.config.auto_commit.is_some() {
            self.gather();
        }
        self.give_up_all(now);
        self.round += 1;
        let was_member = !self.member_id.is_empty();
        self.stage = if was_member { Stage::Leaving } else { Stage::Left };
        self.step(now);
    }

    /// Whether nothing more is to be done for leaving.
    pub fn has_left(&self) -> bool {
        matches!(self.stage, Stage::Left)
    }

    /// The next batch of what is ours; it counts as done with at the next [`GroupCore::tick`].
    pub fn poll_batch(&mut self) -> Option<FetchedBatch> {
        self.reader.poll_batch()
    }

    /// Goes on elsewhere in a partition that is ours; false if it is not. What is committed next is
    /// that place.
    pub fn seek(&mut self, topic: &str, partition: i32, start: Start) -> bool {
        self.reader.seek(topic, partition, start)
    }

    /// What went wrong that the application should know.
    pub fn poll_problem(&mut self) -> Option<Error> {
        self.problems.pop_front().or_else(|| self.reader.poll_problem())
    }

    /// What has changed in what is read.
    pub fn poll_change(&mut self) -> Option<Change> {
        self.changes.pop_front()
    }

    /// Whether there is something to be polled.
    pub fn has_batches(&self) -> bool {
        self.reader.has_batches() || !self.problems.is_empty()
    }

    /// The partitions that are ours just now.
    pub fn assigned(&self) -> impl Iterator<Item = &Share> {
        self.shares.keys()
    }

    /// The reader beneath: positions, and pausing.
    pub fn reader(&self) -> &ConsumerCore {
        &self.reader
    }

    /// What keeps records from being read just now, for whoever waits in vain.
    pub fn trouble(&self) -> Option<Error> {
        match &self.stage {
            Stage::Member => self.reader.trouble(),
            Stage::Idle | Stage::Left => None,
            _ => self.trouble.clone().or_else(|| self.reader.trouble()),
        }
    }

    pub(super) fn unreachable(&self, what: &str) -> Error {
        self.trouble.clone().unwrap_or_else(|| self.reader.unreachable(what))
    }

    /// Takes in what was heard, and asks for what can be asked.
    pub fn tick(&mut self, now: Instant) {
        self.last_tick = now;
        self.reader.tick(now);
        while let Some((asked, reply)) = self.reader.poll_for_group() {
            self.hear(asked, reply, now);
        }
        self.step(now);
        self.reader.tick(now);
    }

    /// Only reads on: nothing that was taken counts as done with yet.
    pub fn read_ahead(&mut self, now: Instant) {
        self.reader.tick(now);
    }

    /// When [`GroupCore::tick`] has something to do, if nothing is heard before.
    pub fn next_deadline(&self) -> Option<Instant> {
        let mine = match self.stage {
            Stage::Idle | Stage::Left => None,
            _ if self.coordinator.is_none() => Some(self.not_before),
            Stage::Member => {
                let beat = (!self.is_beating).then_some(self.heartbeat_at);
                let end = self.last_heard.plus(self.config.session_timeout);
                let commit = self.config.auto_commit.and(self.commits.at);
                earlier(earlier(beat, commit), Some(end))
            }
            Stage::Joined(_) => Some(self.joined_at.plus(TOPICS_PATIENCE)),
            Stage::Outside | Stage::Joining | Stage::Syncing | Stage::Leaving | Stage::Parting => {
                Some(self.not_before)
            }
        };
        // What was due and was not done waits for a connection, which the cluster sees to.
        let rested = Some(self.not_before).filter(|at| self.last_tick < *at);
        let mine = mine.map(|due| due.max(self.not_before)).filter(|due| self.last_tick < *due);
        earlier(self.reader.next_deadline(), earlier(mine, rested))
    }

    /// Asks for what can be asked now.
    fn step(&mut self, now: Instant) {
        if matches!(self.stage, Stage::Idle | Stage::Left) {
            return;
        }
        let silent_until = self.last_heard.plus(self.config.session_timeout);
        if matches!(self.stage, Stage::Member) && silent_until <= now {
            // The others have our partitions by now, or will in a moment.
            self.lose(now);
        }
        if now < self.not_before {
            return;
        }
        let is_away = |cluster: &Cluster<_>, node| cluster.is_node_out_of_reach(node);
        if self.coordinator.is_some_and(|node| is_away(self.reader.cluster(), node)) {
            self.coordinator = None;
            return self.rest(now);
        }
        if self.coordinator.is_none() {
            return self.find_coordinator(now);
        }
        self.commit_if_due(now);
        self.ask_for_offsets(now);
        match self.stage {
            Stage::Outside => self.join(now),
            Stage::Joined(_) => self.share_out(now),
            Stage::Member => {
                self.beat(now);
                self.watch_topics(now);
            }
            Stage::Leaving => self.say_farewell(now),
            Stage::Idle | Stage::Joining | Stage::Syncing | Stage::Parting | Stage::Left => {}
        }
    }

    /// Takes in an answer; none if it was lost.
    fn hear(&mut self, asked: Asked, reply: Option<Reply>, now: Instant) {
        let is_meant = asked.round == self.round;
        let Some(reply) = reply else { return self.take_loss(asked.what, is_meant, now) };
        let heard = match &asked.what {
            Ask::Coordinator => reply.decode().map(|answer| self.take_coordinator(answer, now)),
            Ask::Join if is_meant => reply.decode().map(|answer| self.take_joined(answer, now)),
            Ask::Sync if is_meant => reply.decode().map(|answer| self.take_synced(answer, now)),
            Ask::Heartbeat => reply.decode().map(|answer| self.take_beat(&answer, is_meant, now)),
            Ask::Offsets(asked) => {
                reply.decode().map(|answer| self.take_offsets(asked, answer, now))
            }
            Ask::Commit(sent) => reply.decode().map(|answer| self.take_kept(sent, &answer, now)),
            Ask::Leave => {
                self.stage = Stage::Left;
                Ok(())
            }
            Ask::Join | Ask::Sync => Ok(()),
        };
        if heard.is_err() {
            self.take_loss(asked.what, is_meant, now);
        }
    }

    /// No answer comes, and whether it was done is not known. The coordinator may be elsewhere.
    fn take_loss(&mut self, what: Ask, is_meant: bool, now: Instant) {
        match what {
            Ask::Coordinator => self.is_finding = false,
            Ask::Join | Ask::Sync if is_meant => self.stage = Stage::Outside,
            Ask::Join | Ask::Sync => return,
            Ask::Heartbeat => {
                self.is_beating = false;
                self.heartbeat_at = now;
            }
            Ask::Offsets(asked) => self.forget_asking(&asked),
            Ask::Commit(sent) => self.keep_for_later(sent),
            Ask::Leave => self.stage = Stage::Left,
        }
        self.coordinator = None;
        self.rest(now);
    }

    /// Sends a request; whether it was sent.
    fn ask<R: Request>(
        &mut self,
        to: Peer,
        request: &R,
        wait: Duration,
        what: Ask,
        now: Instant,
    ) -> bool {
        let ask = consumer::Ask::Group(Asked { what, round: self.round });
        match self.reader.cluster().send(to, request, wait, ask, now) {
            Ok(()) => return true,
            Err(NotSent::NotNow) => {}
            Err(NotSent::UnknownNode) => {
                self.reader.cluster().refresh(now);
                self.coordinator = None;
                self.rest(now);
            }
            Err(NotSent::NoCommonVersion { api, theirs }) => {
                self.complain(Error::unsupported(self.what(), api, theirs));
                self.rest(now);
            }
        }
        false
    }

    /// The coordinator, which is known.
    fn peer(&self) -> Peer {
        Peer::Aside(self.coordinator.expect("each step finds it first"))
    }

    /// What every refusal of the coordinator leads to.
    fn take_refusal(&mut self, error: ErrorCode, now: Instant) {
        let told = Error::refused(self.what(), error, None);
        self.trouble = Some(told.clone());
        match error {
            ErrorCode::RebalanceInProgress => return self.rejoin(now),
            ErrorCode::UnknownMemberId => {
                self.member_id.clear();
                return self.lose(now);
            }
            ErrorCode::IllegalGeneration => return self.lose(now),
            ErrorCode::NotCoordinator | ErrorCode::CoordinatorNotAvailable => {
                self.coordinator = None;
            }
            error if error.is_retriable() => {}
            error => {
                if error == ErrorCode::FencedInstanceId {
                    self.lose(now);
                }
                self.complain(told);
            }
        }
        self.rest(now);
    }

    /// Asks again only after a while.
    fn rest(&mut self, now: Instant) {
        self.failed_tries = self.failed_tries.saturating_add(1);
        let delay = self.config.reader.retry.delay(self.failed_tries, &mut self.random);
        self.not_before = now.plus(delay);
    }

    /// The coordinator takes us for a member.
    fn is_known(&mut self, now: Instant) {
        self.last_heard = now;
        self.failed_tries = 0;
        self.trouble = None;
    }

    fn what(&self) -> String {
        format!("cannot consume as a member of group {}", self.config.group)
    }

    fn complain(&mut self, error: Error) {
        if TOLD_MAX <= self.problems.len() {
            self.problems.pop_front();
        }
        self.problems.push_back(error);
    }

    fn tell(&mut self, change: Change) {
        if TOLD_MAX <= self.changes.len() {
            self.changes.pop_front();
        }
        self.changes.push_back(change);
    }

    fn is_cooperative(&self) -> bool {
        self.config.assignors.iter().all(|assignor| assignor.is_cooperative())
    }

    /// We are no member any more: what was ours may be another's.
    fn lose(&mut self, now: Instant) {
        self.commits.forget();
        self.give_up_all(now);
        self.generation = joining::NO_GENERATION;
        self.start_over();
    }

    /// Joins anew, for partitions to be shared out again. What can go on being read goes on.
    fn rejoin(&mut self, now: Instant) {
        if self.config.auto_commit.is_some() {
            self.gather();
        }
        if !self.is_cooperative() {
            self.give_up_all(now);
        }
        self.start_over();
    }

    fn start_over(&mut self) {
        if matches!(self.stage, Stage::Leaving | Stage::Parting | Stage::Left) {
            self.stage = Stage::Left;
            return;
        }
        self.round += 1;
        self.shared_out = None;
        self.stage = Stage::Outside;
    }

    fn give_up_all(&mut self, now: Instant) {
        let all = self.shares.keys().cloned().collect();
        self.give_up(all, now);
    }

    /// Reads these no more.
    fn give_up(&mut self, given_up: Vec<Share>, now: Instant) {
        if given_up.is_empty() {
            return;
        }
        self.note_forsaken(&given_up);
        for share in &given_up {
            self.shares.remove(share);
        }
        self.place_reader(now);
        self.tell(Change::Taken(given_up));
    }

    /// Lets the reader read all of which is known where to begin.
    fn place_reader(&mut self, now: Instant) {
        let placed = self.shares.iter().filter_map(|((topic, partition), progress)| {
            let Placed::Known(start) = progress.place else { return None };
            Some((Arc::clone(topic), *partition, start))
        });
        let placed: Vec<_> = placed.collect();
        self.reader.reassign(placed, now);
    }
}

#[cfg(test)]
mod tests;
