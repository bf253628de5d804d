//! What a producer of transactions makes of answers, and of there being none.

use bytes::Bytes;
use tidemill_net::kafka::add_offsets_to_txn::AddOffsetsToTxnResponse;
use tidemill_net::kafka::add_partitions_to_txn::AddPartitionsToTxnResponse;
use tidemill_net::kafka::end_txn::EndTxnResponse;
use tidemill_net::kafka::find_coordinator::FindCoordinatorResponse;
use tidemill_net::kafka::init_producer_id::InitProducerIdResponse;
use tidemill_net::kafka::produce::ProduceResponse;
use tidemill_net::kafka::txn_offset_commit::TxnOffsetCommitResponse;
use tidemill_net::kafka::{ApiKey, ErrorCode, TopicRef, parse_response_header};
use tidemill_record::{Outcome, Producer, ProducerEpoch, ProducerId};

use super::{Ask, Scene, Step, Transactor, Whose};
use crate::checker::offsets::Floor;
use crate::checker::{Place, Verdict, Violation, check};
use crate::workload::lines::Heard;
use crate::workload::map::{Map, read, unreadable};
use crate::workload::offsets::Answer;

impl Transactor {
    pub(super) fn hear(&mut self, heard: Heard<Ask>, scene: &mut Scene<'_, '_>) -> Verdict {
        let (ask, frame) = match heard {
            Heard::Answer(ask, frame) => (ask, frame),
            Heard::Lost(ask) => {
                self.lost(ask);
                return Ok(());
            }
        };
        let flow = self.flow;
        if !matches!(ask, Ask::Map | Ask::Produce(_)) {
            self.busy = false;
        }
        match ask {
            Ask::Map => self.map = Map::decode_answer(&frame)?,
            Ask::Find(whose) => self.found(whose, &read(flow.find, &frame)?, scene)?,
            Ask::Init(asked) => self.begun(asked, &read(flow.init, &frame)?, scene)?,
            Ask::Add(places) => self.named(&places, &read(flow.add, &frame)?, scene)?,
            Ask::AddOffsets => {
                let response: AddOffsetsToTxnResponse = read(flow.add_offsets, &frame)?;
                if self.done(Whose::Transactions, "naming a group", response.error_code, scene)? {
                    self.step = Step::CommittingOffsets;
                }
            }
            Ask::Produce(batches) => self.answered(&batches, &frame, scene)?,
            Ask::CommitOffsets => self.committed(&read(flow.commit_offsets, &frame)?, scene)?,
            Ask::End => self.ended(&read(flow.end, &frame)?, scene)?,
            Ask::FetchOffsets(wanted) => {
                let answer = Answer::read(flow.fetch_offsets, &frame)?;
                self.fetched(&wanted, &answer, scene)?;
            }
        }
        Ok(())
    }

    fn lost(&mut self, ask: Ask) {
        match ask {
            Ask::Map => {}
            Ask::Find(_) | Ask::Init(_) | Ask::FetchOffsets(_) => self.busy = false,
            Ask::Add(_) | Ask::AddOffsets | Ask::CommitOffsets | Ask::End => {
                self.busy = false;
                self.is_unsure = true;
            }
            Ask::Produce(batches) => {
                self.is_unsure = true;
                let Some(open) = &mut self.open else { return };
                for (place, sequence) in batches {
                    if let Some(part) = open.parts.get_mut(&place) {
                        part.unknown(sequence);
                    }
                }
            }
        }
    }

    /// Whether something that was asked of a coordinator is done; if not, it is asked again.
    fn done(
        &mut self,
        whose: Whose,
        what: &'static str,
        error: ErrorCode,
        scene: &mut Scene<'_, '_>,
    ) -> Result<bool, Violation> {
        match error {
            ErrorCode::None => return Ok(true),
            ErrorCode::NotCoordinator | ErrorCode::CoordinatorNotAvailable => {
                self.coordinators[whose as usize] = None;
            }
            ErrorCode::InvalidProducerEpoch | ErrorCode::ProducerFenced => {
                self.fenced(what, error, scene)?;
            }
            error => {
                check(error.is_retriable(), "a producer is told what it can act upon", || {
                    format!("{:?} of {} when {what}: {error}", self.producer, self.id)
                })?
            }
        }
        Ok(false)
    }

    fn found(
        &mut self,
        whose: Whose,
        response: &FindCoordinatorResponse,
        scene: &mut Scene<'_, '_>,
    ) -> Verdict {
        let (error, port) = match response.coordinators.first() {
            Some(coordinator) => (coordinator.error_code, coordinator.port),
            None => (response.error_code, response.port),
        };
        if self.done(whose, "looking for a coordinator", error, scene)? {
            self.coordinators[whose as usize] = Some(port as u16);
        }
        Ok(())
    }

    fn begun(
        &mut self,
        asked: u64,
        response: &InitProducerIdResponse,
        scene: &mut Scene<'_, '_>,
    ) -> Verdict {
        let error = response.error_code;
        if !error.is_none() {
            scene.history.transactions.answered(&self.id, asked);
            if matches!(error, ErrorCode::InvalidProducerEpoch | ErrorCode::ProducerFenced) {
                self.producer = None;
                return Ok(());
            }
            return self.done(Whose::Transactions, "being let in", error, scene).map(drop);
        }
        let producer = producer(response.producer_id, response.producer_epoch);
        scene.port.say(format!("{producer:?} is let in as {}", self.id));
        let granted = scene.history.transactions.granted(&self.id, asked, producer)?;
        self.producer = Some((producer, granted));
        self.sequences.clear();
        self.is_unsure = false;
        self.step = Step::Idle;
        Ok(())
    }

    fn named(
        &mut self,
        places: &[Place],
        response: &AddPartitionsToTxnResponse,
        scene: &mut Scene<'_, '_>,
    ) -> Verdict {
        let results = response.results_by_topic_v3_and_below.iter();
        let errors: Vec<ErrorCode> = results
            .flat_map(|topic| topic.results_by_partition.iter().map(|p| p.partition_error_code))
            .collect();
        check(errors.len() == places.len(), "every partition is answered", || {
            format!("{places:?}: {errors:?}")
        })?;
        let refused =
            |error: &&ErrorCode| !error.is_none() && **error != ErrorCode::OperationNotAttempted;
        let error = errors.iter().find(refused).copied().unwrap_or_default();
        let gone = places.iter().filter(|place| is_deleted(**place, scene));
        let gone: Vec<Place> = gone.copied().collect();
        if error == ErrorCode::UnknownTopicOrPartition && !gone.is_empty() {
            let Some(open) = &mut self.open else { return Ok(()) };
            for place in gone {
                open.unnamed.remove(&place);
                open.parts.remove(&place);
            }
            if open.parts.is_empty() {
                self.give_up();
            }
            return Ok(());
        }
        if self.done(Whose::Transactions, "naming partitions", error, scene)?
            && let Some(open) = &mut self.open
        {
            open.unnamed.clear();
            self.step = Step::Writing;
        }
        Ok(())
    }

    // Batches.

    fn answered(
        &mut self,
        batches: &[(Place, i32)],
        frame: &Bytes,
        scene: &mut Scene<'_, '_>,
    ) -> Verdict {
        let version = self.flow.produce;
        let response = parse_response_header(ApiKey::Produce, version, frame)
            .and_then(|(_, body)| ProduceResponse::parse(version, &frame[body..]))
            .map_err(|error| unreadable("produce", &error))?;
        for (place, sequence) in batches {
            let answer = response.partitions.iter().find(|answer| {
                let same = match answer.topic {
                    TopicRef::Id(id) => id == place.topic,
                    TopicRef::Name(name) => self.name_of(*place, scene) == name,
                };
                same && answer.partition == place.partition
            });
            let Some(answer) = answer else {
                return check(false, "every partition is answered", || {
                    format!("{place:?} is missing in {:?}", response.partitions)
                });
            };
            match answer.error_code {
                ErrorCode::None => self.appended(*place, *sequence, answer.base_offset, scene)?,
                error => self.refused(*place, *sequence, error, scene)?,
            }
        }
        Ok(())
    }

    fn appended(
        &mut self,
        place: Place,
        sequence: i32,
        base_offset: i64,
        scene: &mut Scene<'_, '_>,
    ) -> Verdict {
        let Some(part) = self.open.as_mut().and_then(|open| open.parts.get_mut(&place)) else {
            return Ok(());
        };
        let Some(at) = part.batches.iter().position(|batch| batch.sequence == sequence) else {
            return Ok(());
        };
        check(0 <= base_offset, "an append tells its offset", || {
            format!("{:?} in {place:?}, {sequence}: {base_offset}", self.producer)
        })?;
        let batch = part.batches.remove(at).expect("just found");
        let count = batch.values.len();
        scene.port.say(format!("{} {place:?}: {sequence} +{count} at {base_offset}", self.id));
        scene.history.acked(place, base_offset, &batch.values)
    }

    fn refused(
        &mut self,
        place: Place,
        sequence: i32,
        error: ErrorCode,
        scene: &mut Scene<'_, '_>,
    ) -> Verdict {
        self.map_asked = None;
        scene.port.say(format!("{} {place:?}: {sequence} refused, {error}", self.id));
        let Some(open) = &mut self.open else { return Ok(()) };
        // It was given up already, and by now the transaction may be at its end.
        let Some(part) = open.parts.get_mut(&place) else { return Ok(()) };
        if is_deleted(place, scene) {
            open.parts.remove(&place);
            self.give_up();
            return Ok(());
        }
        let is_first = part.batches.front().is_some_and(|batch| batch.sequence == sequence);
        part.unknown(sequence);
        match error {
            ErrorCode::OutOfOrderSequenceNumber if !is_first => Ok(()),
            ErrorCode::InvalidProducerEpoch | ErrorCode::ProducerFenced => {
                self.fenced("writing", error, scene)
            }
            ErrorCode::InvalidTxnState | ErrorCode::TransactionAbortable => {
                self.may_be_fenced("writing", error, scene)?;
                self.give_up();
                Ok(())
            }
            error => check(error.is_retriable(), "a valid batch is accepted", || {
                format!("{:?} of {} in {place:?}, {sequence}: {error}", self.producer, self.id)
            }),
        }
    }

    // Offsets.

    fn committed(
        &mut self,
        response: &TxnOffsetCommitResponse,
        scene: &mut Scene<'_, '_>,
    ) -> Verdict {
        let Some(open) = &mut self.open else { return Ok(()) };
        let errors = response.topics.iter().flat_map(|topic| &topic.partitions);
        let error = errors.map(|partition| partition.error_code).find(|error| !error.is_none());
        let error = error.unwrap_or_default();
        let gone = open.offsets.iter().any(|(place, _)| is_deleted(*place, scene));
        if !error.is_none() && gone {
            self.give_up();
            return Ok(());
        }
        if matches!(error, ErrorCode::InvalidTxnState | ErrorCode::TransactionAbortable) {
            self.may_be_fenced("committing offsets", error, scene)?;
            self.give_up();
            return Ok(());
        }
        if self.done(Whose::Group, "committing offsets", error, scene)?
            && let Some(open) = &mut self.open
        {
            open.has_offsets = true;
            for (place, offset) in &open.offsets {
                scene.history.offsets.committed(&self.group, *place, *offset)?;
            }
            self.step = Step::Ending;
        }
        Ok(())
    }

    fn fetched(
        &mut self,
        wanted: &[(Place, Floor)],
        answer: &Answer,
        scene: &mut Scene<'_, '_>,
    ) -> Verdict {
        if !self.done(Whose::Group, "looking for offsets", answer.error, scene)? {
            return Ok(());
        }
        for (place, floor) in wanted {
            if is_deleted(*place, scene) {
                continue;
            }
            let found = answer.of(*place, &self.map);
            let Some(found) = found else {
                return check(false, "every partition is answered", || {
                    format!("{place:?} of {} is missing in what is told of offsets", self.group)
                });
            };
            if !found.error_code.is_none() {
                let is_open = found.error_code == ErrorCode::UnstableOffsetCommit;
                return check(is_open && self.step == Step::Looking, "offsets are told", || {
                    format!("{place:?}: {}", found.error_code)
                });
            }
            let offset = (0 <= found.committed_offset).then_some(found.committed_offset);
            scene.history.offset_fetched(&self.group, *place, offset, *floor)?;
        }
        self.is_done = self.step == Step::Looking;
        Ok(())
    }

    // The end.

    fn ended(&mut self, response: &EndTxnResponse, scene: &mut Scene<'_, '_>) -> Verdict {
        let Some(open) = &self.open else { return Ok(()) };
        let (number, commits, error) = (open.number, open.commits, response.error_code);
        scene.port.say(format!("transaction {number} of {} ends: {error}", self.id));
        let is_over = match error {
            ErrorCode::InvalidTxnState if commits => {
                self.may_be_fenced("committing", error, scene)?;
                true
            }
            // Perhaps nothing of it ever reached the coordinator.
            ErrorCode::InvalidTxnState => true,
            ErrorCode::InvalidProducerEpoch | ErrorCode::ProducerFenced => true,
            _ => false,
        };
        if is_over && open.ends_asked == 1 {
            // Nobody else can have committed it.
            scene.history.transactions.told(number, Outcome::Abort)?;
        }
        if error == ErrorCode::InvalidTxnState {
            self.open = None;
            self.is_unsure = true;
            self.step = Step::Beginning;
            return Ok(());
        }
        if !self.done(Whose::Transactions, "ending a transaction", error, scene)? {
            return Ok(());
        }
        let outcome = if commits { Outcome::Commit } else { Outcome::Abort };
        scene.history.transactions.told(number, outcome)?;
        self.open = None;
        self.step = Step::Idle;
        if self.flow.newer
            && let Some((producer_now, granted)) = &mut self.producer
        {
            *producer_now = producer(response.producer_id, response.producer_epoch);
            let writer = granted.writer;
            scene.history.transactions.goes_on(&self.id, writer, *producer_now)?;
            self.sequences.clear();
        }
        Ok(())
    }
}

/// Whether somebody has asked to delete the topic.
fn is_deleted(place: Place, scene: &Scene<'_, '_>) -> bool {
    scene.history.topics.get(place.topic).is_some_and(|topic| topic.delete_asked)
}

fn producer(id: i64, epoch: i16) -> Producer {
    Producer { id: ProducerId(id), epoch: ProducerEpoch(epoch) }
}
