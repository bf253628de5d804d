//! What members of groups commit in transactions of their own, as those do that consume, transform and
//! produce.
//!
//! A member shows itself in a transaction as it was when that began, as real clients do that took
//! note of it when they polled: meanwhile it may have been given another share, or be out. Then its
//! commit must be refused, and it aborts. It commits outside, too, while a transaction is open; but
//! never two things at once whose order nobody would know.
//!
//! A process that dies leaves its transaction open. The next one takes its transactional id, which
//! ends that, or another one, and then time does.
//!
//! ```text
//! out ── let in ── naming the group ── committing ── open ── ending ──┐
//!  ^         ^                             └──────────┘               │
//!  │         └────────────────────────────────────────────────────────┤
//!  └──────────── fenced, dead, or unsure what may still come ─────────┘
//! ```

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tidemill_net::kafka::add_offsets_to_txn::{AddOffsetsToTxnRequest, AddOffsetsToTxnResponse};
use tidemill_net::kafka::end_txn::{EndTxnRequest, EndTxnResponse};
use tidemill_net::kafka::find_coordinator::{
    FindCoordinatorRequest, FindCoordinatorResponse, key_type,
};
use tidemill_net::kafka::init_producer_id::{InitProducerIdRequest, InitProducerIdResponse};
use tidemill_net::kafka::txn_offset_commit::{
    TxnOffsetCommitRequest, TxnOffsetCommitRequestPartition, TxnOffsetCommitRequestTopic,
    TxnOffsetCommitResponse,
};
use tidemill_net::kafka::{ErrorCode, Request, encode_request};
use tidemill_record::{Outcome, Producer, ProducerEpoch, ProducerId};
use tidemill_runtime::edge::Instant;

use super::{Member, Step, read};
use crate::checker::groups::Who;
use crate::checker::transactions::Granted;
use crate::checker::{Place, Verdict, check};
use crate::network::{BOOTSTRAP_PORT, ClientEvent};
use crate::random::Random;
use crate::workload::lines::{Heard, Lines};
use crate::workload::{Phase, REQUEST_TIMEOUT, Scene};

/// What a member keeps to commit in transactions.
#[derive(Debug)]
pub(super) struct Transacting {
    number: u32,
    /// Its transactional id.
    id: String,
    lines: Lines<Ask>,
    flow: Flow,
    timeout: Duration,
    coordinator: Option<u16>,
    producer: Option<(Producer, Granted)>,
    open: Option<Open>,
    stage: Stage,
    /// Something is asked and not answered.
    busy: bool,
    /// Something that it asked may come late, and get into the next transaction.
    is_unsure: bool,
}

/// Which versions it speaks, and what follows from them.
#[derive(Clone, Copy, Debug)]
struct Flow {
    newer: bool,
    find: i16,
    init: i16,
    add_offsets: i16,
    commit: i16,
    end: i16,
}

/// What it does next, if it is let in.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Stage {
    Idle,
    Naming,
    Committing,
    Open,
    Ending,
}

/// An open transaction.
#[derive(Debug)]
struct Open {
    /// Its name with the checker.
    number: usize,
    began: Instant,
    commits: bool,
    /// How the member shows itself.
    who: Who,
    member: String,
    instance: Option<String>,
    places: Vec<Place>,
    /// The coordinator may know of it.
    is_known: bool,
    ends_asked: u32,
}

#[derive(Debug)]
enum Ask {
    Find,
    Init(u64),
    AddOffsets,
    Commit(Vec<(Place, i64)>),
    End,
}

impl Flow {
    fn draw(random: &mut Random) -> Self {
        let newer = random.coin();
        let mut of = |least: u64, most: u64, newest: i16| match newer {
            true => newest,
            false => random.between(least, most) as i16,
        };
        Self {
            newer,
            find: of(1, 6, 6),
            init: of(0, 5, 5),
            add_offsets: of(0, 4, 4),
            commit: of(3, 4, 5),
            end: of(0, 4, 5),
        }
    }
}

impl Transacting {
    pub(super) fn new(number: u32, random: &mut Random) -> Self {
        Self {
            number,
            id: transactional_id(number, random),
            lines: Lines::new(REQUEST_TIMEOUT),
            flow: Flow::draw(random),
            timeout: Duration::from_millis(*random.pick(&[300, 1_000, 1_000, 3_000])),
            coordinator: None,
            producer: None,
            open: None,
            stage: Stage::Idle,
            busy: false,
            is_unsure: false,
        }
    }

    /// Its process ends; the next one may have another id.
    pub(super) fn die(&mut self, random: &mut Random, scene: &mut Scene<'_, '_>) {
        for to in self.lines.ports() {
            self.lines.hang_up(to, scene.port);
        }
        let lines = std::mem::replace(&mut self.lines, Lines::new(REQUEST_TIMEOUT));
        // Correlation ids go on.
        *self = Self { lines, ..Self::new(self.number, random) };
    }

    /// It is let in anew before anything else.
    fn leave(&mut self) {
        (self.producer, self.open, self.stage) = (None, None, Stage::Idle);
    }

    /// Nothing more is committed; what was is aborted.
    fn give_up(&mut self) {
        if let Some(open) = &mut self.open
            && open.ends_asked == 0
        {
            open.commits = false;
            self.stage = Stage::Ending;
        }
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
            encode_request(out, version, correlation, Some("member"), request);
        });
    }

    /// Asks the coordinator of its transactions, or looks for it first.
    fn ask_own<R: Request>(
        &mut self,
        ask: Ask,
        version: i16,
        request: &R,
        scene: &mut Scene<'_, '_>,
    ) {
        let to = self.coordinator.unwrap_or(BOOTSTRAP_PORT);
        self.ask(to, ask, version, request, scene);
    }

    fn find(&mut self, scene: &mut Scene<'_, '_>) {
        let key = self.id.clone();
        let key_type = key_type::TRANSACTION;
        let request =
            FindCoordinatorRequest { key: key.clone(), key_type, coordinator_keys: vec![key] };
        self.ask(BOOTSTRAP_PORT, Ask::Find, self.flow.find, &request, scene);
    }

    fn init(&mut self, scene: &mut Scene<'_, '_>) {
        let request = InitProducerIdRequest {
            transactional_id: Some(self.id.clone()),
            transaction_timeout_ms: self.timeout.as_millis() as i32,
            producer_id: -1,
            producer_epoch: -1,
        };
        let asked = scene.history.transactions.asking(&self.id);
        self.ask_own(Ask::Init(asked), self.flow.init, &request, scene);
    }

    fn name_group(&mut self, group: &str, producer: Producer, scene: &mut Scene<'_, '_>) {
        if let Some(open) = &mut self.open {
            open.is_known = true;
        }
        let request = AddOffsetsToTxnRequest {
            transactional_id: self.id.clone(),
            producer_id: producer.id.0,
            producer_epoch: producer.epoch.0,
            group_id: group.to_owned(),
        };
        self.ask_own(Ask::AddOffsets, self.flow.add_offsets, &request, scene);
    }

    fn end(&mut self, producer: Producer, scene: &mut Scene<'_, '_>) {
        let Some(open) = &mut self.open else { return };
        if !open.is_known {
            // Nobody has heard of it.
            (self.open, self.stage) = (None, Stage::Idle);
            return;
        }
        open.ends_asked += 1;
        if open.commits {
            scene.history.transactions.asking_to_commit(open.number);
        }
        let request = EndTxnRequest {
            transactional_id: self.id.clone(),
            producer_id: producer.id.0,
            producer_epoch: producer.epoch.0,
            committed: open.commits,
        };
        self.ask_own(Ask::End, self.flow.end, &request, scene);
    }

    /// No answer will come.
    fn lost(&mut self, ask: &Ask) {
        self.busy = false;
        self.is_unsure |= !matches!(ask, Ask::Find | Ask::Init(_));
        if matches!(ask, Ask::Commit(_) | Ask::AddOffsets) {
            self.give_up();
        }
    }

    // Hearing.

    fn found(&mut self, frame: &Bytes) -> Verdict {
        let response: FindCoordinatorResponse = read(self.flow.find, frame)?;
        let (error, port) = match response.coordinators.first() {
            Some(coordinator) => (coordinator.error_code, coordinator.port),
            None => (response.error_code, response.port),
        };
        self.coordinator = error.is_none().then_some(port as u16);
        Ok(())
    }

    fn let_in(&mut self, asked: u64, frame: &Bytes, scene: &mut Scene<'_, '_>) -> Verdict {
        let response: InitProducerIdResponse = read(self.flow.init, frame)?;
        if !response.error_code.is_none() {
            scene.history.transactions.answered(&self.id, asked);
            return self.refused("being let in", response.error_code, scene);
        }
        let producer = producer(response.producer_id, response.producer_epoch);
        let granted = scene.history.transactions.granted(&self.id, asked, producer)?;
        self.producer = Some((producer, granted));
        (self.is_unsure, self.stage) = (false, Stage::Idle);
        Ok(())
    }

    /// What was asked of the coordinator of its transactions is not done: it is asked again, or its
    /// transaction is over.
    fn refused(
        &mut self,
        what: &'static str,
        error: ErrorCode,
        scene: &mut Scene<'_, '_>,
    ) -> Verdict {
        match error {
            ErrorCode::NotCoordinator | ErrorCode::CoordinatorNotAvailable => {
                self.coordinator = None;
            }
            ErrorCode::InvalidProducerEpoch | ErrorCode::ProducerFenced => {
                self.may_be_fenced(what, error, scene)?;
                self.leave();
            }
            ErrorCode::InvalidTxnState | ErrorCode::TransactionAbortable => {
                self.may_be_fenced(what, error, scene)?;
                self.give_up();
            }
            error => {
                check(error.is_retriable(), "a producer is told what it can act upon", || {
                    format!("{:?} of {} when {what}: {error}", self.producer, self.id)
                })?
            }
        }
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
        let least = self.timeout - Duration::from_millis(2);
        let began = self.open.as_ref().map(|open| open.began);
        let late = began.is_some_and(|began| least <= scene.port.now().since(began));
        check(others || late, "nobody is fenced without a reason", || {
            format!("{producer:?} of {} when {what}: {error}", self.id)
        })
    }

    fn ended(&mut self, frame: &Bytes, scene: &mut Scene<'_, '_>) -> Verdict {
        let response: EndTxnResponse = read(self.flow.end, frame)?;
        let Some(open) = &self.open else { return Ok(()) };
        let (number, commits, error) = (open.number, open.commits, response.error_code);
        let is_first = open.ends_asked == 1;
        scene.port.say(format!("transaction {number} of {} ends: {error}", self.id));
        let transactions = &mut scene.history.transactions;
        match error {
            ErrorCode::None => {
                let outcome = if commits { Outcome::Commit } else { Outcome::Abort };
                transactions.told(number, outcome)?;
                (self.open, self.stage) = (None, Stage::Idle);
                if self.flow.newer
                    && let Some((now, granted)) = &mut self.producer
                {
                    *now = producer(response.producer_id, response.producer_epoch);
                    transactions.goes_on(&self.id, granted.writer, *now)?;
                }
                Ok(())
            }
            ErrorCode::InvalidTxnState
            | ErrorCode::InvalidProducerEpoch
            | ErrorCode::ProducerFenced => {
                // Perhaps nothing of what is to be aborted ever reached the coordinator.
                if commits || error != ErrorCode::InvalidTxnState {
                    self.may_be_fenced("ending", error, scene)?;
                }
                if is_first {
                    // Nobody else can have committed it.
                    scene.history.transactions.told(number, Outcome::Abort)?;
                }
                self.leave();
                Ok(())
            }
            error => self.refused("ending", error, scene),
        }
    }

    fn committed(
        &mut self,
        group: &str,
        offsets: &[(Place, i64)],
        frame: &Bytes,
        scene: &mut Scene<'_, '_>,
    ) -> Verdict {
        let response: TxnOffsetCommitResponse = read(self.flow.commit, frame)?;
        let partitions = response.topics.iter().flat_map(|topic| &topic.partitions);
        let errors: Vec<ErrorCode> = partitions.map(|partition| partition.error_code).collect();
        check(errors.len() == offsets.len(), "every offset is answered", || format!("{errors:?}"))?;
        for ((place, offset), error) in offsets.iter().zip(&errors) {
            if error.is_none() {
                scene.history.offsets_in_transactions += 1;
                scene.history.offsets.committed(group, *place, *offset)?;
            }
        }
        let error = errors.into_iter().find(|error| !error.is_none()).unwrap_or_default();
        if error.is_none() {
            if self.stage == Stage::Committing {
                self.stage = Stage::Open;
            }
            return Ok(());
        }
        scene.port.say(format!("{} commits nothing for {group}: {error}", self.id));
        // Whoever is told anything else of its group does not know what to do.
        let is_out = matches!(
            error,
            ErrorCode::IllegalGeneration
                | ErrorCode::UnknownMemberId
                | ErrorCode::FencedInstanceId
                | ErrorCode::UnknownTopicOrPartition
        );
        scene.history.fenced_commits += u64::from(is_out);
        // It may have been done all the same.
        self.is_unsure = true;
        if !is_out {
            self.refused("committing", error, scene)?;
        }
        self.give_up();
        Ok(())
    }
}

impl Member {
    /// A commit in a transaction is on its way.
    pub(super) fn is_committing_in_transaction(&self) -> bool {
        let stage = self.transacting.as_ref().map(|own| (own.stage, own.busy));
        stage == Some((Stage::Committing, true))
    }

    /// A commit outside may come late: what is committed from now on in the same name could come
    /// before it.
    pub(super) fn give_up_transaction(&mut self) {
        self.transacting.iter_mut().for_each(|own| own.give_up());
    }

    /// The next step of its transactions.
    pub(super) fn transact(&mut self, scene: &mut Scene<'_, '_>) -> Verdict {
        let Some(mut own) = self.transacting.take() else { return Ok(()) };
        let mut verdict = Ok(());
        for heard in own.lines.expire(scene.port) {
            verdict = verdict.and_then(|()| self.hear_of(&mut own, heard, scene));
        }
        if !own.busy {
            self.go_on_with(&mut own, scene);
        }
        self.transacting = Some(own);
        verdict
    }

    pub(super) fn transaction_heard(
        &mut self,
        event: ClientEvent,
        scene: &mut Scene<'_, '_>,
    ) -> Verdict {
        let Some(mut own) = self.transacting.take() else { return Ok(()) };
        let heard = own.lines.handle(event, scene.port);
        let verdict = heard.and_then(|all| {
            all.into_iter().try_for_each(|heard| self.hear_of(&mut own, heard, scene))
        });
        self.transacting = Some(own);
        verdict
    }

    fn go_on_with(&mut self, own: &mut Transacting, scene: &mut Scene<'_, '_>) {
        let works = scene.phase == Phase::Work;
        if own.open.is_none() && !works {
            return;
        }
        if own.coordinator.is_none() {
            return own.find(scene);
        }
        let Some((producer, _)) = own.producer else { return own.init(scene) };
        match own.stage {
            Stage::Idle if own.is_unsure && !own.flow.newer => own.init(scene),
            Stage::Idle => {
                if self.step == Step::Holding && self.random.happens(500_000) {
                    self.begin_transaction(own, scene);
                }
            }
            Stage::Naming => own.name_group(&self.group, producer, scene),
            // One after the other: nobody knows in which order they would come.
            Stage::Committing => {
                if self.under_way == 0 && self.random.coin() {
                    self.commit_in(own, producer, scene);
                }
            }
            Stage::Open => match self.random.below(20) {
                0..3 => own.stage = Stage::Committing,
                3..8 => own.stage = Stage::Ending,
                _ => {}
            },
            Stage::Ending => own.end(producer, scene),
        }
    }

    fn begin_transaction(&mut self, own: &mut Transacting, scene: &mut Scene<'_, '_>) {
        let mut places = self.known();
        places.retain(|_| self.random.coin());
        if places.is_empty() {
            return;
        }
        let number = scene.history.transactions.begins();
        scene.port.say(format!("transaction {number} of {} begins: {:?}", own.id, self.who()));
        own.open = Some(Open {
            number,
            began: scene.port.now(),
            commits: self.random.happens(750_000),
            who: self.who(),
            member: self.id.clone(),
            instance: self.instance.clone(),
            places,
            is_known: false,
            ends_asked: 0,
        });
        own.stage = if own.flow.newer { Stage::Committing } else { Stage::Naming };
    }

    fn commit_in(&mut self, own: &mut Transacting, producer: Producer, scene: &mut Scene<'_, '_>) {
        let Some(open) = &mut own.open else { return };
        open.is_known = true;
        let mut offsets = Vec::new();
        for place in &open.places {
            let is_forbidden = self.is_fenced(&open.who, *place, scene);
            let (of, commits) = (Some(open.number), &mut scene.history.offsets);
            offsets.push((*place, commits.committing(&self.group, *place, of, is_forbidden)));
        }
        let topics = offsets.iter().map(|(place, offset)| TxnOffsetCommitRequestTopic {
            name: self.map.name(place.topic).unwrap_or("forgotten").to_owned(),
            partitions: vec![TxnOffsetCommitRequestPartition {
                partition_index: place.partition,
                committed_offset: *offset,
                ..TxnOffsetCommitRequestPartition::default()
            }],
        });
        let request = TxnOffsetCommitRequest {
            transactional_id: own.id.clone(),
            group_id: self.group.clone(),
            producer_id: producer.id.0,
            producer_epoch: producer.epoch.0,
            generation_id: open.who.generation,
            member_id: open.member.clone(),
            group_instance_id: open.instance.clone(),
            topics: topics.collect(),
        };
        let to = self.to();
        own.ask(to, Ask::Commit(offsets), own.flow.commit, &request, scene);
    }

    fn hear_of(
        &mut self,
        own: &mut Transacting,
        heard: Heard<Ask>,
        scene: &mut Scene<'_, '_>,
    ) -> Verdict {
        let (ask, frame) = match heard {
            Heard::Answer(ask, frame) => (ask, frame),
            Heard::Lost(ask) => {
                own.lost(&ask);
                return Ok(());
            }
        };
        own.busy = false;
        match ask {
            Ask::Find => own.found(&frame),
            Ask::Init(asked) => own.let_in(asked, &frame, scene),
            Ask::AddOffsets => {
                let response: AddOffsetsToTxnResponse = read(own.flow.add_offsets, &frame)?;
                if !response.error_code.is_none() {
                    return own.refused("naming a group", response.error_code, scene);
                }
                if own.stage == Stage::Naming {
                    own.stage = Stage::Committing;
                }
                Ok(())
            }
            Ask::Commit(offsets) => own.committed(&self.group, &offsets, &frame, scene),
            Ask::End => own.ended(&frame, scene),
        }
    }
}

/// Of each two ids of a member one is like that of its process before.
fn transactional_id(number: u32, random: &mut Random) -> String {
    format!("reads-{number}-{}", random.below(2))
}

fn producer(id: i64, epoch: i16) -> Producer {
    Producer { id: ProducerId(id), epoch: ProducerEpoch(epoch) }
}
