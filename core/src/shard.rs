//! One shard of the broker: its connections, its partitions, and the turn that steps them.
//!
//! A turn takes what has completed and arrived, steps every state machine it concerns, and submits
//! what follows; then the shard sleeps until something happens. Nothing in a turn waits.
//!
//! ```text
//! completions ─┬─ connection: bytes → requests → jobs → calls ─┬─ own home ─ journal, segments
//!              └─ disk: writes and reads that ended            └─ mesh → other shards' homes
//! answers → jobs → replies, in request order → sends
//! ```
//!
//! Start reading at [`Shard::turn`].

mod clients;
mod life;
mod mesh;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use slab::Slab;
use tidemill_perf::Work;
use tidemill_replication::config::{GroupConfig, is_of_groups, node_config};
use tidemill_replication::metadata::{Configs, Image, Record};
use tidemill_runtime::clock::StampClock;
use tidemill_runtime::edge::{Completion, Done, Edge, Instant, ListenerId, Next, Program, ShardId};
use tidemill_storage::Event;

use crate::api::Job;
use crate::api::fetch::WaitingFetches;
use crate::api::fetch_session::FetchSessions;
use crate::api::producer_ids::ProducerIds;
use crate::budget::Budget;
use crate::config::{Config, Origin};
use crate::connection::{Connection, ConnectionId};
use crate::controller::Controller;
use crate::coordinator::Coordinator as GroupCoordinator;
use crate::disk::{Disk, Owner};
use crate::groups::Groups;
use crate::job::{JobId, Jobs, ReplyTo};
use crate::limits::{GROUP_REWRITE_BYTES, MESSAGES_PER_TURN_MAX};
use crate::measure::Measures;
use crate::message::{Answer, Message};
use crate::partition::{Home, Times};
use crate::placement::Endpoints;
use crate::quota::Spending;
use crate::share;
use crate::shares::Shares;
use crate::startup::{StartError, Startup};
use crate::token::{TokenKind, split};
use crate::topic_rules;
use crate::transaction::Coordinator as TransactionCoordinator;
use crate::transactions::Transactions;

/// How often idle connections are looked for.
const IDLE_CHECK: Duration = Duration::from_secs(1);

/// What every shard of the node is told at the start.
#[derive(Clone, Debug)]
pub struct Settings {
    /// As the user gave it.
    pub config: Config,
    /// How many shards there are.
    pub shards: u16,
    /// What clients are told.
    pub endpoints: Endpoints,
    /// Whatever is random on this node comes from here.
    pub seed: u128,
    /// Sizes of storage that no setting names: the defaults, but for rehearsals, which must meet
    /// every limit within a few megabytes.
    pub storage: tidemill_storage::Config,
    /// How much is written about groups before what is remembered of them is written anew.
    pub group_rewrite_bytes: usize,
    /// Reads the time in ticks, for the stages of requests.
    pub clock: StampClock,
    /// What the user has set of the configs that topics and groups inherit, under Kafka's names.
    pub file_configs: Configs,
    /// What is in force for groups without configs of their own.
    pub group_defaults: GroupConfig,
    /// The data directory's path as clients are told it.
    pub data_dir_shown: String,
}

impl Settings {
    /// Settings of a node of `shards` shards.
    pub fn new(config: Config, shards: u16, endpoints: Endpoints, seed: u128) -> Self {
        let given = config.described().filter(|(setting, _, origin)| {
            let is_inherited = node_config(setting.name).is_some() || is_of_groups(setting.name);
            **origin != Origin::Default && is_inherited
        });
        let file_configs: Configs = given
            .map(|(setting, _, _)| (setting.name.to_owned(), config.value_text(setting.name)))
            .collect();
        let storage = tidemill_storage::Config::default();
        let data_dir = std::path::absolute(&config.data_dir);
        let data_dir = data_dir.unwrap_or_else(|_| config.data_dir.clone());
        Self {
            config,
            shards,
            endpoints,
            seed,
            storage,
            group_rewrite_bytes: GROUP_REWRITE_BYTES,
            clock: StampClock::cheapest(),
            group_defaults: GroupConfig::of_node(&file_configs),
            file_configs,
            data_dir_shown: data_dir.display().to_string(),
        }
    }

    /// One shard's share of the memory for requests and replies.
    pub fn network_share(&self) -> usize {
        self.config.budgets.network_bytes as usize / usize::from(self.shards)
    }
}

/// What a node tells whoever started it. Only shard 0 speaks.
#[derive(Debug)]
pub enum Notice {
    /// Clients are served from now on.
    Serving {
        /// The cluster's id.
        cluster: String,
    },
    /// The node cannot start; nothing was changed.
    Failed(StartError),
    /// Everything is durable and checkpointed; the node has ended.
    Stopped,
}

/// One shard of the broker.
pub struct Shard {
    pub(crate) id: ShardId,
    pub(crate) settings: Arc<Settings>,
    pub(crate) image: Image,
    pub(crate) home: Option<Home>,
    pub(crate) jobs: Jobs<Job>,
    pub(crate) sessions: FetchSessions,
    pub(crate) producer_ids: ProducerIds,
    pub(crate) waiting_fetches: WaitingFetches,
    pub(crate) groups: Groups,
    pub(crate) spending: Spending,
    pub(crate) transactions: Transactions,
    pub(crate) shares: Shares,
    /// Who wants to know how large the disk is: jobs, and the place of the answer in each.
    pub(crate) space_wanted: Vec<(JobId, u32)>,
    space_asked: bool,
    pub(crate) controller: Option<Controller>,
    pub(crate) disk: Disk,
    pub(crate) startup: Option<Startup>,
    pub(crate) clock: StampClock,
    /// When the clock was read last, for what ends at about the same time.
    pub(crate) stamped: u64,
    /// When this turn began.
    pub(crate) now: Instant,
    /// What it measures of itself.
    pub(crate) measures: Measures,
    notify: Box<dyn FnMut(Notice) + Send>,
    listeners: Vec<ListenerId>,
    pub(crate) connections: Slab<Connection>,
    connections_made: u64,
    pub(crate) budget: Budget,
    /// Connections that wait for the budget.
    stalled: Vec<usize>,
    /// Connections that may have something to take, send or close.
    touched: Vec<usize>,
    /// Memory for the next of these, so that a turn needs none of its own.
    spare_touched: Vec<usize>,
    spare_answers: Vec<(ReplyTo, Answer)>,
    /// Messages of this shard to itself.
    own: VecDeque<Message>,
    outbox: Vec<VecDeque<Message>>,
    answers_out: Vec<Vec<(JobId, u32, Answer)>>,
    /// Changes asked for whose end has not been told.
    proposals_open: usize,
    /// Another shard has not taken all that is for it yet.
    held_back: bool,
    idle_check_at: Instant,
    retention_at: Instant,
    stop_by: Instant,
    stage: Stage,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Stage {
    /// Not adopted yet: no client is accepted.
    Starting,
    Serving,
    /// No new connections; replies still leave; storage is being checkpointed.
    Stopping {
        /// Shard 0 ends last: it waits for so many others.
        others: u16,
        told: bool,
    },
    /// The start has failed: the others are told, then this shard ends.
    Failed,
    Stopped,
}

impl<E: Edge<Message = Message>> Program<E> for Shard {
    fn turn(&mut self, edge: &mut E) -> Next {
        let begun = self.stamp();
        let times = Times { now: edge.now(), wall_ms: edge.wall_clock_ms() };
        self.measures.begin_turn(begun, times);
        self.now = times.now;
        let mut completions = 0;
        while let Some(completion) = edge.poll_completion() {
            completions += 1;
            self.completed(completion, times, edge);
        }
        self.ran(Work::Completions, completions);
        let mut messages = 0;
        while messages < MESSAGES_PER_TURN_MAX {
            let Some((from, message)) = edge.poll_message() else { break };
            messages += 1;
            self.measures.meter.mesh.received(from.0, 1);
            self.handle_message(from, message, times, edge);
        }
        self.ran(Work::Messages, messages);
        let passed = self.pass_time(times, edge);
        self.ran(Work::Time, passed);
        let requests = self.take_requests(times);
        self.ran(Work::Requests, requests);
        let steps = self.step_storage(times, edge);
        self.ran(Work::Storage, steps);
        let sent = self.send_messages(edge);
        self.ran(Work::Send, sent);
        let connections = self.touched.len();
        self.serve_connections(times.now, edge);
        self.ran(Work::Replies, connections);
        self.step_stop(times.now);
        let ended = self.stamp();
        self.measures.end_turn(ended, times, self.id);
        if self.stage == Stage::Stopped {
            return Next::Stop;
        }
        // Left-over work needs another turn now; sent messages may have been held back.
        let left_over = messages == MESSAGES_PER_TURN_MAX || !self.touched.is_empty();
        if left_over { Next::Now } else { self.next_wake(times.now) }
    }
}

impl Shard {
    /// A shard that has not started. Shard 0 starts the node; the others wait to be told.
    pub fn new(
        settings: Arc<Settings>,
        id: ShardId,
        listeners: Vec<ListenerId>,
        notify: Box<dyn FnMut(Notice) + Send>,
    ) -> Self {
        let shards = usize::from(settings.shards);
        let startup = (id == ShardId(0)).then(|| Startup::new(Arc::clone(&settings)));
        Self {
            id,
            disk: Disk::default(),
            image: Image::default(),
            home: None,
            jobs: Jobs::default(),
            sessions: FetchSessions::new(&settings, id),
            producer_ids: ProducerIds::default(),
            waiting_fetches: WaitingFetches::default(),
            groups: Groups::new(&settings, id.0),
            spending: Spending::default(),
            space_wanted: Vec::new(),
            space_asked: false,
            now: Instant::default(),
            transactions: Transactions::new(&settings),
            shares: Shares::default(),
            controller: None,
            startup,
            clock: settings.clock,
            stamped: 0,
            measures: Measures::new(&settings, id),
            notify,
            listeners,
            connections: Slab::new(),
            connections_made: 0,
            budget: Budget::new(settings.network_share()),
            stalled: Vec::new(),
            touched: Vec::new(),
            spare_touched: Vec::new(),
            spare_answers: Vec::new(),
            own: VecDeque::new(),
            outbox: (0..shards).map(|_| VecDeque::new()).collect(),
            answers_out: (0..shards).map(|_| Vec::new()).collect(),
            proposals_open: 0,
            held_back: false,
            idle_check_at: Instant::default(),
            retention_at: Instant::default(),
            stop_by: Instant::default(),
            stage: Stage::Starting,
            settings,
        }
    }

    /// A part of the turn has ended. What did nothing took no time worth a look at the clock: it
    /// counts with the next part.
    #[inline]
    fn ran(&mut self, work: Work, items: usize) {
        if 0 < items {
            let now = self.stamp();
            self.measures.meter.turn.ran(work, items, now);
        }
    }

    /// How many connections are open.
    pub(crate) fn connections_open(&self) -> usize {
        self.connections.len()
    }

    /// Whether clients are let in here.
    pub(crate) fn is_serving(&self) -> bool {
        self.stage == Stage::Serving
    }

    pub(crate) fn notify(&mut self, notice: Notice) {
        (self.notify)(notice);
    }

    pub(crate) fn connection_mut(&mut self, id: ConnectionId) -> Option<&mut Connection> {
        self.connections.get_mut(id.index).filter(|connection| connection.id == id)
    }

    // Completions.

    fn completed<E: Edge<Message = Message>>(
        &mut self,
        completion: Completion,
        times: Times,
        edge: &mut E,
    ) {
        let (kind, index) = split(completion.token);
        match kind {
            TokenKind::Accept => self.accepted(completion.result, times, edge),
            TokenKind::Receive => self.received(index, completion.result, times),
            TokenKind::Send => self.sent(index, completion.result.is_ok()),
            TokenKind::Close => {
                let connection = self.connections.remove(index);
                let id = connection.id;
                connection.release(&mut self.budget);
                if !self.shares.sessions.is_empty() {
                    self.share_connection_gone(id, times);
                }
            }
            TokenKind::Disk => self.disk.handle_completion(index, completion.result, edge),
        }
    }

    // Time.

    /// Does what is due by now, and tells how much that was.
    fn pass_time<E: Edge<Message = Message>>(&mut self, times: Times, edge: &mut E) -> usize {
        let mut passed = 0;
        while let Some(job) = self.jobs.pop_expired(times.now) {
            passed += 1;
            self.job_expired(job, times);
        }
        // What is due in storage is done with its step, so that a commit window which closes for
        // its delay takes along what this turn brings.
        if let Some(home) = &mut self.home
            && self.retention_at <= times.now
        {
            passed += 1;
            self.retention_at = times.now.after(self.settings.config.retention_check);
            home.storage.retention(times.wall_ms, times.now.nanos);
        }
        passed += self.tick_coordinators::<GroupCoordinator>(times);
        passed += self.pass_quotas(times.now);
        passed += self.tick_coordinators::<TransactionCoordinator>(times);
        passed += self.tick_coordinators::<share::Coordinator>(times);
        if self.idle_check_at <= times.now && !self.connections.is_empty() {
            passed += 1;
            self.idle_check_at = times.now.after(IDLE_CHECK);
            self.close_idle(times, edge);
            self.close_overdue(times.now, edge);
        }
        passed
    }

    /// Lets clients go on whose time has come, and tells the other shards what was spent here.
    fn pass_quotas(&mut self, now: Instant) -> usize {
        let mut passed = 0;
        while let Some(id) = self.spending.poll_unmuted(now) {
            passed += 1;
            if let Some(connection) = self.connection_mut(id) {
                connection.unmute(now);
                self.touched.push(id.index);
            }
        }
        if !self.held_back
            && self.is_serving()
            && let Some(told) = self.spending.poll_told(now)
        {
            passed += 1;
            self.tell_others(|| Message::Spent(Arc::clone(&told)));
        }
        passed
    }

    fn next_wake(&self, now: Instant) -> Next {
        let storage = self.home.as_ref().and_then(|home| home.storage.next_deadline());
        let storage = storage.map(|nanos| Instant { nanos });
        let compaction = self.home.as_ref().and_then(Home::compaction_deadline);
        let idle = (!self.connections.is_empty()).then_some(self.idle_check_at);
        let retention = self.home.is_some().then_some(self.retention_at);
        // A mesh queue that was full is tried again soon; its receiver is awake.
        let unsent = self.outbox.iter().any(|queue| !queue.is_empty());
        if self.held_back || unsent {
            return Next::Now;
        }
        let controller = self.controller.as_ref().and_then(Controller::next_deadline);
        let stops_later = self.is_stopping() && now < self.stop_by;
        let stop = stops_later.then_some(self.stop_by);
        let groups = self.groups.coordinators.next_deadline();
        let transactions = self.transactions.coordinators.next_deadline();
        let jobs = self.jobs.next_deadline();
        let quotas = self.spending.next_deadline(self.is_serving());
        let shares = self.shares.log.next_deadline();
        let coordinators = [groups, transactions, shares];
        let deadlines = [jobs, storage, compaction, idle, retention, controller, quotas, stop];
        let deadlines = deadlines.into_iter().chain(coordinators);
        deadlines.flatten().min().map_or(Next::Idle, Next::At)
    }

    // Storage.

    /// Hands requests to the disk and completions back until nothing more follows; tells how many
    /// rounds that took.
    fn step_storage<E: Edge<Message = Message>>(&mut self, times: Times, edge: &mut E) -> usize {
        for rounds in 0.. {
            let mut moved = false;
            if let Some(home) = &mut self.home {
                home.storage.end_turn(times.now.nanos);
                while let Some(request) = home.storage.poll_request() {
                    moved = true;
                    let request = crate::disk::storage_request(Owner::Storage, request);
                    self.disk.submit(request, edge);
                }
                while let Some(request) = home.poll_compaction(times) {
                    moved = true;
                    self.disk.submit(request, edge);
                }
                if let Some(chore) = home.poll_rework() {
                    moved = true;
                    self.disk.submit(crate::disk::rework_request(chore), edge);
                }
            }
            if !self.space_wanted.is_empty() && !self.space_asked {
                moved = true;
                self.space_asked = true;
                self.disk.submit(crate::disk::space_request(), edge);
            }
            if let Some(controller) = &mut self.controller {
                while let Some(request) = controller.poll_request() {
                    moved = true;
                    self.disk.submit(crate::disk::metadata_request(request), edge);
                }
            }
            while let Some(finished) = self.disk.poll_finished() {
                moved = true;
                self.disk_finished(finished, times);
            }
            while let Some(message) = self.own.pop_front() {
                moved = true;
                self.handle_message(self.id, message, times, edge);
            }
            moved |= self.step_start(edge);
            moved |= self.step_events(times);
            moved |= self.step_controller(times);
            moved |= self.step_coordinators::<GroupCoordinator>(times);
            moved |= self.step_transactions(times);
            moved |= self.step_coordinators::<share::Coordinator>(times);
            moved |= self.deliver_answers(times);
            moved |= self.resume_fetches(times);
            if !moved {
                return rounds;
            }
        }
        unreachable!("what has nothing left to do ends")
    }

    fn disk_finished(&mut self, finished: crate::disk::Finished, times: Times) {
        match finished.owner {
            Owner::Storage => {
                let home = self.home.as_mut().expect("it asked");
                let completion = crate::disk::storage_completion(finished);
                home.storage.handle_completion(completion, times.now.nanos);
            }
            Owner::Space => {
                self.space_asked = false;
                let space = match finished.result {
                    Ok(Done::Space { total_bytes, usable_bytes }) => {
                        Some((total_bytes, usable_bytes))
                    }
                    _ => None,
                };
                for (job, index) in std::mem::take(&mut self.space_wanted) {
                    self.answered(job, index, Answer::Space(space), times);
                }
            }
            Owner::Rework => {
                let home = self.home.as_mut().expect("it asked");
                home.reworked(finished.result, times);
            }
            Owner::Compaction => {
                let home = self.home.as_mut().expect("it asked");
                home.compaction_finished(finished.result, times);
            }
            Owner::Recovery => {
                let startup = self.startup.as_mut().expect("it asked");
                startup.storage_completed(crate::disk::storage_completion(finished));
            }
            Owner::Metadata => {
                let completion = crate::disk::metadata_completion(finished);
                match (&mut self.controller, &mut self.startup) {
                    (Some(controller), _) => controller.handle_completion(completion),
                    (None, Some(startup)) => startup.metadata_completed(completion),
                    (None, None) => unreachable!("only shard 0 owns metadata files"),
                }
            }
        }
    }

    fn step_events(&mut self, times: Times) -> bool {
        let Some(home) = &mut self.home else { return false };
        let mut moved = false;
        let was_fenced = home.is_fenced();
        let mut dropped = Vec::new();
        while let Some(event) = home.storage.poll_event() {
            moved = true;
            if let Event::Damaged { log, offsets } = &event
                && let Some(id) = home.partition_of(*log)
            {
                topic_rules::tell_damage(&self.image, &self.settings, id, offsets);
            }
            dropped.extend(home.handle_event(event, times));
        }
        let fenced_now = !was_fenced && home.is_fenced();
        for partition in dropped {
            self.tell_controller(Message::Dropped(partition));
        }
        if fenced_now {
            self.tell_others(|| Message::Fence);
        }
        moved
    }

    // Metadata.

    /// Lets committed records have happened on this shard.
    pub(crate) fn replay(&mut self, records: &[Record], times: Times) {
        for record in records {
            // What shard 0 has committed was replayed on the same image there.
            let deleted = match record {
                Record::TopicDeleted { id } => self.image.topic(*id).map(|t| Arc::clone(&t.name)),
                _ => None,
            };
            self.image.replay(record).expect("a committed record follows from the image");
            if let Record::QuotaChanged { .. } = record {
                self.spending.reset();
            }
            topic_rules::apply(record, self, times.now);
            self.groups_follow(record, deleted, times);
            self.transactions_follow(record, times);
            self.shares_follow(record, times);
        }
    }
}

#[cfg(test)]
mod tests;
