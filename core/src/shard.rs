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

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use slab::Slab;
use tidemill_net::kafka::ErrorCode;
use tidemill_perf::{Stage as RequestStage, Work};
use tidemill_record::TopicPartition;
use tidemill_replication::config::node_config;
use tidemill_replication::metadata::{Configs, Image, Record};
use tidemill_runtime::clock;
use tidemill_runtime::edge::{
    Completion, Done, Edge, Fault, Instant, ListenerId, Next, Op, Program, ShardId,
};
use tidemill_storage::Event;

use crate::api::Job;
use crate::api::fetch::WaitingFetches;
use crate::api::fetch_session::FetchSessions;
use crate::api::producer_ids::ProducerIds;
use crate::budget::Budget;
use crate::config::{Config, Origin};
use crate::connection::{Connection, ConnectionId, Receive, ReplySlot, Taken};
use crate::controller::{self, Controller, Proposal};
use crate::disk::{Disk, Owner};
use crate::job::{JobId, Jobs, ReplyTo};
use crate::limits::{
    CLIENT_ID_BYTES_KEPT, MESSAGES_PER_TURN_MAX, OUTBOX_MESSAGES_MAX, PROPOSALS_PER_SHARD_MAX,
    REQUESTS_PER_CONNECTION_AND_TURN_MAX, REQUESTS_UNDER_WAY_MAX,
};
use crate::measure::{Measured, Measures};
use crate::message::{Adoption, Answer, Call, Message};
use crate::partition::{Home, Times};
use crate::placement::{self, Endpoints};
use crate::startup::{StartError, Startup};
use crate::token::{TokenKind, split, token};
use crate::topic_rules;

/// How often idle connections are looked for.
const IDLE_CHECK: Duration = Duration::from_secs(1);

/// How long a clean stop waits for clients to take their replies.
const STOP_WITHIN: Duration = Duration::from_secs(5);

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
    /// Reads the time in ticks, for the stages of requests.
    pub stamp: fn() -> u64,
    /// What the user has set of the configs that topics inherit, under Kafka's names.
    pub file_configs: Configs,
}

impl Settings {
    /// Settings of a node of `shards` shards.
    pub fn new(config: Config, shards: u16, endpoints: Endpoints, seed: u128) -> Self {
        let given = config.described().filter(|(setting, _, origin)| {
            **origin != Origin::Default && node_config(setting.name).is_some()
        });
        let file_configs = given
            .map(|(setting, _, _)| (setting.name.to_owned(), config.value_text(setting.name)))
            .collect();
        let storage = tidemill_storage::Config::default();
        Self {
            config,
            shards,
            endpoints,
            seed,
            storage,
            stamp: clock::cheapest_stamp(),
            file_configs,
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
    pub(crate) controller: Option<Controller>,
    pub(crate) disk: Disk,
    pub(crate) startup: Option<Startup>,
    /// What it measures of itself.
    pub(crate) measures: Measures,
    notify: Box<dyn FnMut(Notice) + Send>,
    listeners: Vec<ListenerId>,
    connections: Slab<Connection>,
    connections_made: u64,
    pub(crate) budget: Budget,
    /// Connections that wait for the budget.
    stalled: Vec<usize>,
    /// Connections that may have something to take, send or close.
    touched: Vec<usize>,
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
        let stamp = self.settings.stamp;
        self.measures.meter.turn.begin(stamp());
        let times = Times { now: edge.now(), wall_ms: edge.wall_clock_ms() };
        self.measures.wall_ms = times.wall_ms;
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
        self.measures.end_turn(stamp(), times, self.id);
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
            controller: None,
            startup,
            measures: Measures::new(&settings, id),
            notify,
            listeners,
            connections: Slab::new(),
            connections_made: 0,
            budget: Budget::new(settings.network_share()),
            stalled: Vec::new(),
            touched: Vec::new(),
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
            self.measures.meter.turn.ran(work, items, (self.settings.stamp)());
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
            TokenKind::Send => {
                let connection = self.connections.get_mut(index).expect("open until quiet");
                let now = (self.settings.stamp)();
                let sent = connection.sent(completion.result.is_ok(), &mut self.budget);
                self.measures.meter.traffic.bytes_out += sent.bytes as u64;
                for mut measured in sent.answered {
                    measured.stamps.end(RequestStage::Respond, now);
                    self.measures.ended(&measured, sent.client_id, &self.image);
                }
                self.touched.push(index);
            }
            TokenKind::Close => {
                self.connections.remove(index).release(&mut self.budget);
            }
            TokenKind::Disk => self.disk.handle_completion(index, completion.result, edge),
        }
    }

    fn accepted<E: Edge<Message = Message>>(
        &mut self,
        result: Result<Done, Fault>,
        times: Times,
        edge: &mut E,
    ) {
        let (socket, client) = match result {
            Ok(Done::Accepted { socket, client }) => (socket, client),
            Ok(_) => return,
            Err(fault) => {
                if self.stage == Stage::Serving {
                    tracing::warn!(?fault, "a connection could not be taken");
                }
                return;
            }
        };
        let entry = self.connections.vacant_entry();
        let id = ConnectionId { index: entry.key(), serial: self.connections_made };
        self.connections_made += 1;
        let index = id.index;
        let limit = self.settings.config.request_bytes_max as usize;
        entry.insert(Connection::new(id, socket, client, limit, times.now));
        let allowed = self.settings.config.connections_max as usize;
        let share = allowed.div_ceil(usize::from(self.settings.shards));
        if share < self.connections.len() || self.stage != Stage::Serving {
            tracing::warn!(%client, "refused: no more connections are allowed");
            self.close(index, edge);
            return;
        }
        self.touched.push(index);
    }

    fn received(&mut self, index: usize, result: Result<Done, Fault>, times: Times) {
        let connection = self.connections.get_mut(index).expect("open until quiet");
        match result {
            Ok(Done::Received { bytes, received }) if 0 < received => {
                self.measures.meter.traffic.bytes_in += received as u64;
                connection.received(bytes, times.now, (self.settings.stamp)());
            }
            Ok(_) => connection.receive_ended(),
            Err(_) => {
                connection.receive_ended();
                connection.break_off();
            }
        }
        self.touched.push(index);
    }

    // Connections.

    /// Takes whole requests off the received bytes, and tells how many. A busy connection leaves
    /// the rest for the next turn, so that it does not hold up the others.
    fn take_requests(&mut self, times: Times) -> usize {
        let mut requests = 0;
        let touched = std::mem::take(&mut self.touched);
        for &index in &touched {
            for _ in 0..REQUESTS_PER_CONNECTION_AND_TURN_MAX {
                if self.held_back || REQUESTS_UNDER_WAY_MAX <= self.jobs.len() {
                    break;
                }
                let Some(connection) = self.connections.get_mut(index) else { break };
                match connection.take_frame() {
                    Taken::Frame(frame) => {
                        requests += 1;
                        let slot = connection.open_slot(frame.len(), &mut self.budget);
                        let mut measured = connection.begin_request(frame.len());
                        measured.stamps.end(RequestStage::Receive, (self.settings.stamp)());
                        if let Err(error) = self.dispatch(slot, measured, frame, times) {
                            self.refuse(index, &error);
                            break;
                        }
                    }
                    Taken::Nothing => break,
                    Taken::Broken(error) => {
                        self.refuse(index, &error);
                        break;
                    }
                }
            }
        }
        // Jobs answered at once have touched their connections again.
        self.touched.extend(touched);
        requests
    }

    /// The client's bytes cannot be answered: it is not listened to any more.
    fn refuse(&mut self, index: usize, error: &dyn std::fmt::Display) {
        let connection = &mut self.connections[index];
        tracing::warn!(client = %connection.client, %error, "connection closed");
        connection.break_off();
    }

    /// Fills the slot of a request; no parts mean that the client expects no reply.
    pub(crate) fn reply(&mut self, slot: ReplySlot, measured: Measured, parts: Vec<Bytes>) {
        let ReplySlot { connection: id, number } = slot;
        let connection = self.connections.get_mut(id.index).filter(|c| c.id == id);
        let Some(connection) = connection else { return };
        if parts.is_empty() {
            // Nothing is sent at whose end it would be counted.
            let client_id = connection.client_id.as_deref().unwrap_or_default();
            self.measures.ended(&measured, client_id, &self.image);
        }
        connection.fill_slot(number, parts, measured, &mut self.budget);
        self.touched.push(slot.connection.index);
    }

    /// Remembers what a client calls itself, for those who look at slow requests.
    pub(crate) fn note_client_id(&mut self, slot: ReplySlot, client_id: Option<&str>) {
        if let Some(connection) = self.connection_mut(slot.connection)
            && connection.client_id.is_none()
        {
            let name = client_id.unwrap_or_default();
            connection.client_id =
                Some(name[..name.floor_char_boundary(CLIENT_ID_BYTES_KEPT)].into());
        }
    }

    /// Ends a connection because of what one of its requests led to (acks=0 that failed).
    pub(crate) fn break_off(&mut self, slot: ReplySlot) {
        if let Some(connection) = self.connection_mut(slot.connection) {
            connection.break_off();
            self.touched.push(slot.connection.index);
        }
    }

    /// Sends what is ready, closes what is done, reads where there is room.
    fn serve_connections<E: Edge<Message = Message>>(&mut self, now: Instant, edge: &mut E) {
        let mut touched = std::mem::take(&mut self.touched);
        if self.budget.take_freed() {
            touched.append(&mut self.stalled);
        }
        touched.sort_unstable();
        touched.dedup();
        for index in touched {
            let Some(connection) = self.connections.get_mut(index) else { continue };
            if let Some(parts) = connection.next_send() {
                let socket = connection.socket;
                edge.submit(token(TokenKind::Send, index), Op::Send { socket, parts });
            }
            if connection.should_close() {
                self.close(index, edge);
                continue;
            }
            if connection.has_frame() {
                // Its turn comes again with the next one.
                self.touched.push(index);
                continue;
            }
            match connection.next_receive(&mut self.budget, now) {
                Receive::Into(into) => {
                    let socket = connection.socket;
                    edge.submit(token(TokenKind::Receive, index), Op::Receive { socket, into });
                }
                Receive::Stalled => self.stalled.push(index),
                Receive::Nothing => {}
            }
        }
    }

    fn close<E: Edge<Message = Message>>(&mut self, index: usize, edge: &mut E) {
        let connection = &mut self.connections[index];
        let socket = connection.socket;
        if connection.begin_close() {
            edge.submit(token(TokenKind::Close, index), Op::CloseSocket { socket });
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
        if let Some(home) = &mut self.home {
            home.storage.tick(times.now.nanos);
            if self.retention_at <= times.now {
                passed += 1;
                self.retention_at = times.now.after(self.settings.config.retention_check);
                home.storage.retention(times.wall_ms, times.now.nanos);
            }
        }
        if self.idle_check_at <= times.now && !self.connections.is_empty() {
            passed += 1;
            self.idle_check_at = times.now.after(IDLE_CHECK);
            self.close_idle(times, edge);
            self.close_overdue(times.now, edge);
        }
        passed
    }

    fn close_idle<E: Edge<Message = Message>>(&mut self, times: Times, edge: &mut E) {
        let Some(limit) = self.settings.config.connection_idle else { return };
        let idle: Vec<usize> = self
            .connections
            .iter()
            .filter(|(_, c)| c.is_idle() && limit <= times.now.since(c.last_active))
            .map(|(index, _)| index)
            .collect();
        for index in idle {
            self.close(index, edge);
        }
    }

    fn close_overdue<E: Edge<Message = Message>>(&mut self, now: Instant, edge: &mut E) {
        let Some(limit) = self.settings.config.request_receive else { return };
        let overdue = self.connections.iter().filter(|(_, c)| c.is_request_overdue(now, limit));
        let overdue: Vec<usize> = overdue.map(|(index, _)| index).collect();
        for index in overdue {
            let client = self.connections[index].client;
            let limit_ms = limit.as_millis() as u64;
            tracing::warn!(%client, limit_ms, "connection closed: a request came too slowly");
            self.close(index, edge);
        }
    }

    fn next_wake(&self, now: Instant) -> Next {
        let storage = self.home.as_ref().and_then(|home| home.storage.next_deadline());
        let storage = storage.map(|nanos| Instant { nanos });
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
        let deadlines = [self.jobs.next_deadline(), storage, idle, retention, controller, stop];
        deadlines.into_iter().flatten().min().map_or(Next::Idle, Next::At)
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

    // Calls and answers.

    /// Asks the home shards of partitions, this one included, on behalf of `job`.
    pub(crate) fn call(
        &mut self,
        job: JobId,
        calls: impl IntoIterator<Item = (u32, TopicPartition, Call)>,
        times: Times,
    ) {
        let shards = self.settings.shards;
        let mut remote: Vec<Vec<(u32, TopicPartition, Call)>> = Vec::new();
        for (index, partition, call) in calls {
            let shard = placement::home(partition, shards);
            if shard == self.id {
                let reply_to = ReplyTo { shard, job, index };
                let home = self.home.as_mut().expect("clients are served after adoption");
                home.call(partition, call, reply_to, times);
            } else {
                if remote.is_empty() {
                    remote.resize_with(usize::from(shards), Vec::new);
                }
                remote[usize::from(shard.0)].push((index, partition, call));
            }
        }
        for (shard, calls) in remote.into_iter().enumerate() {
            if !calls.is_empty() {
                self.post(shard, Message::Calls { job, calls });
            }
        }
    }

    /// Asks the controller for a change, whose outcome `job` is told. It counts as open until then,
    /// even if the job ends before: each request carries the credit for its reply.
    pub(crate) fn propose(
        &mut self,
        job: JobId,
        proposal: Proposal,
        request_bytes: u32,
        times: Times,
    ) {
        if PROPOSALS_PER_SHARD_MAX <= self.proposals_open {
            let outcome = controller::refused(&proposal, ErrorCode::ThrottlingQuotaExceeded);
            return self.proposed(job, outcome, times);
        }
        self.proposals_open += 1;
        self.tell_controller(Message::Propose { job, proposal, request_bytes });
    }

    /// A message for shard 0, which may be this one.
    pub(crate) fn tell_controller(&mut self, message: Message) {
        self.tell(ShardId(0), message);
    }

    /// A message for every shard but this one.
    pub(crate) fn tell_others(&mut self, message: impl Fn() -> Message) {
        let own = usize::from(self.id.0);
        for shard in (0..self.outbox.len()).filter(|shard| *shard != own) {
            self.post(shard, message());
        }
    }

    /// A message for one shard, which may be this one.
    pub(crate) fn tell(&mut self, shard: ShardId, message: Message) {
        if shard == self.id {
            self.own.push_back(message);
        } else {
            self.post(usize::from(shard.0), message);
        }
    }

    fn deliver_answers(&mut self, times: Times) -> bool {
        let mut moved = false;
        while let Some(home) = self.home.as_mut().filter(|home| home.has_answers()) {
            moved = true;
            for (reply_to, answer) in home.take_answers() {
                if reply_to.shard == self.id {
                    self.answered(reply_to.job, reply_to.index, answer, times);
                } else {
                    let out = &mut self.answers_out[usize::from(reply_to.shard.0)];
                    out.push((reply_to.job, reply_to.index, answer));
                }
            }
        }
        moved
    }

    // Messages.

    fn handle_message<E: Edge<Message = Message>>(
        &mut self,
        from: ShardId,
        message: Message,
        times: Times,
        edge: &mut E,
    ) {
        match message {
            Message::Calls { job, calls } => {
                let home = self.home.as_mut().expect("shards call each other after adoption");
                for (index, partition, call) in calls {
                    home.call(partition, call, ReplyTo { shard: from, job, index }, times);
                }
            }
            Message::Answers(answers) => {
                for (job, index, answer) in answers {
                    self.answered(job, index, answer, times);
                }
            }
            Message::Unwatch { job, partitions } => {
                if let Some(home) = &mut self.home {
                    for partition in partitions {
                        home.unwatch(partition, job, from);
                    }
                }
            }
            Message::Propose { job, proposal, request_bytes } => {
                let controller = self.controller.as_mut().expect("proposals go to shard 0");
                let proposed = controller.propose(from, job, proposal, request_bytes);
                if let Err(outcome) = proposed {
                    self.tell(from, Message::Proposed { job, outcome });
                }
            }
            Message::Proposed { job, outcome } => {
                self.proposals_open -= 1;
                self.proposed(job, outcome, times);
            }
            Message::Commit { number, records } => {
                self.replay(&records, times);
                self.tell_controller(Message::Applied { number });
            }
            Message::Applied { number } => {
                let controller = self.controller.as_mut().expect("commits come from shard 0");
                controller.applied(number);
            }
            Message::Dropped(partition) => {
                let controller = self.controller.as_mut().expect("told to shard 0");
                controller.dropped(partition);
            }
            Message::Fence => {
                if let Some(home) = &mut self.home {
                    home.fence();
                }
            }
            Message::Adopt(adoption) => self.adopt(*adoption, times),
            Message::Serve => self.serve(edge),
            Message::Adopted => {
                let startup = self.startup.as_mut().expect("told to shard 0 while it starts");
                startup.adopted();
            }
            Message::Ask(question) => self.answer_question(question, times),
            Message::Stop => self.begin_stop(times),
            Message::Stopped => {
                if let Stage::Stopping { others, .. } = &mut self.stage {
                    *others -= 1;
                }
            }
        }
    }

    fn send_messages<E: Edge<Message = Message>>(&mut self, edge: &mut E) -> usize {
        let mut all = 0;
        self.held_back = false;
        for (shard, queue) in self.outbox.iter_mut().enumerate() {
            let to = ShardId(shard as u16);
            let mut sent = 0;
            while let Some(message) = queue.pop_front() {
                if let Err(message) = edge.send(to, message) {
                    queue.push_front(message);
                    break;
                }
                sent += 1;
            }
            // All answers of a turn, or of several, are one message.
            let answers = &mut self.answers_out[shard];
            if queue.is_empty() && !answers.is_empty() {
                match edge.send(to, Message::Answers(std::mem::take(answers))) {
                    Ok(()) => sent += 1,
                    Err(Message::Answers(kept)) => *answers = kept,
                    Err(_) => unreachable!("as it was given"),
                }
            }
            if 0 < sent {
                self.measures.meter.mesh.sent(to.0, sent);
                all += sent as usize;
            }
            self.held_back |= !queue.is_empty() || !answers.is_empty();
        }
        all
    }

    /// Whether another shard has not taken all that is for it yet. Until it has, no requests are
    /// begun, so that what waits for it is bounded: see [`OUTBOX_MESSAGES_MAX`].
    pub(crate) fn mesh_is_held_back(&self) -> bool {
        self.held_back
    }

    fn post(&mut self, shard: usize, message: Message) {
        let queue = &mut self.outbox[shard];
        assert!(queue.len() < OUTBOX_MESSAGES_MAX, "requests wait while a shard is behind");
        queue.push_back(message);
    }

    // Metadata.

    /// Lets committed records have happened on this shard.
    pub(crate) fn replay(&mut self, records: &[Record], times: Times) {
        for record in records {
            // What shard 0 has committed was replayed on the same image there.
            self.image.replay(record).expect("a committed record follows from the image");
            topic_rules::apply(record, self, times.now);
        }
    }

    // Start and stop.

    /// Goes on with the start of the node; true if that led to something.
    fn step_start<E: Edge<Message = Message>>(&mut self, edge: &mut E) -> bool {
        // It may have been told to stop in this very turn.
        if !matches!(self.stage, Stage::Starting | Stage::Serving) {
            return false;
        }
        let Some(mut startup) = self.startup.take() else { return false };
        let before = self.disk.submitted();
        match startup.step(self, edge) {
            None => {
                self.startup = Some(startup);
                return before != self.disk.submitted() || !self.own.is_empty();
            }
            Some(Ok(())) => {
                for shard in 0..self.settings.shards {
                    self.tell(ShardId(shard), Message::Serve);
                }
                let cluster = self.image.cluster().to_string();
                self.notify(Notice::Serving { cluster });
            }
            Some(Err(error)) => {
                self.notify(Notice::Failed(error));
                self.tell_others(|| Message::Stop);
                self.stage = Stage::Failed;
            }
        }
        true
    }

    pub(crate) fn adopt(&mut self, adoption: Adoption, times: Times) {
        if self.stage != Stage::Starting {
            return;
        }
        let Adoption { image, recovered } = adoption;
        self.image = image;
        let config = topic_rules::storage_config(&self.settings);
        let storage = tidemill_storage::ShardStorage::new(config, recovered);
        self.home = Some(Home::new(storage, self.settings.network_share()));
        topic_rules::adopt_all(self);
        self.retention_at = times.now.after(self.settings.config.retention_check);
        self.idle_check_at = times.now.after(IDLE_CHECK);
        self.stage = Stage::Serving;
        self.tell_controller(Message::Adopted);
    }

    /// Lets clients in. Before all shards have adopted, a request could be passed on to one that
    /// knows nothing yet.
    fn serve<E: Edge<Message = Message>>(&self, edge: &mut E) {
        if self.stage == Stage::Serving {
            for (index, &listener) in self.listeners.iter().enumerate() {
                edge.submit(token(TokenKind::Accept, index), Op::Accept { listener });
            }
        }
    }

    fn begin_stop(&mut self, times: Times) {
        match self.stage {
            Stage::Stopping { .. } | Stage::Failed | Stage::Stopped => return,
            Stage::Starting if self.id == ShardId(0) => {
                // Nothing is served yet: what recovery has not committed it does again next time.
                self.tell_others(|| Message::Stop);
                self.stage = Stage::Stopped;
                self.notify(Notice::Stopped);
                return;
            }
            Stage::Starting => {
                self.stage = Stage::Stopped;
                return;
            }
            Stage::Serving => {}
        }
        let others = if self.id == ShardId(0) { self.settings.shards - 1 } else { 0 };
        self.stage = Stage::Stopping { others, told: false };
        self.stop_by = times.now.after(STOP_WITHIN);
        if let Some(controller) = &mut self.controller {
            controller.begin_stop();
        }
        for (index, connection) in &mut self.connections {
            connection.drain();
            self.touched.push(index);
        }
        // Fetches that wait for records are answered with what there is.
        for job in self.jobs.ids() {
            self.fetch_expired(job, times);
        }
        let home = self.home.as_mut().expect("a serving shard has a home");
        home.stop(times.now);
    }

    /// Whether no more records are waited for.
    pub(crate) fn is_stopping(&self) -> bool {
        matches!(self.stage, Stage::Stopping { .. })
    }

    fn step_stop(&mut self, now: Instant) {
        let unsent = self.outbox.iter().any(|queue| !queue.is_empty());
        let sent = self.own.is_empty() && !self.held_back && !unsent;
        if self.stage == Stage::Failed && sent {
            self.stage = Stage::Stopped;
        }
        let Stage::Stopping { others, told } = self.stage else { return };
        if let Some(controller) = &mut self.controller {
            // The others replay what is still being committed: they stop after that.
            if !controller.is_idle() {
                return;
            }
            if controller.tell_stop() {
                self.tell_others(|| Message::Stop);
            }
        }
        let home = self.home.as_ref().expect("a stopping shard has a home");
        // What is still to be sent may be for a shard that has stopped and takes nothing more.
        let answered = (self.connections.is_empty() && sent) || self.stop_by <= now;
        let at_rest = home.storage.is_stopped() && self.disk.is_idle();
        if !answered || !at_rest || 0 < others {
            return;
        }
        if !told {
            let stages = self.measures.meter.recorder.snapshot().to_text();
            tracing::debug!(shard = self.id.0, "where the time of requests went\n{stages}");
        }
        if self.id == ShardId(0) {
            self.stage = Stage::Stopped;
            self.notify(Notice::Stopped);
        } else if !told {
            self.tell_controller(Message::Stopped);
            self.stage = Stage::Stopping { others, told: true };
        } else if self.outbox[0].is_empty() {
            self.stage = Stage::Stopped;
        }
    }
}

#[cfg(test)]
mod tests;
