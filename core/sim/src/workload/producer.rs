//! Producers.
//!
//! An idempotent producer numbers its batches and has up to five of them under way in each
//! partition. What is lost or refused for now is sent again with the same numbers, in order, as
//! soon as nothing of that partition is under way any more; so each value must end up in the log
//! once, in order. A plain producer sends each value once and forgets it.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tidemill_net::kafka::init_producer_id::{InitProducerIdRequest, InitProducerIdResponse};
use tidemill_net::kafka::produce::{OutgoingProduce, OutgoingProducePartition, ProduceResponse};
use tidemill_net::kafka::{
    ApiKey, ErrorCode, TopicRef, decode_response, encode_request, parse_response_header,
};
use tidemill_record::{
    BatchBuilder, Codec, Producer as ProducerFields, ProducerEpoch, ProducerId, Sequence, Timestamp,
};
use tidemill_runtime::edge::Instant;

use super::lines::{Heard, Lines};
use super::map::{Map, unreadable};
use super::{Phase, REBORN, REQUEST_TIMEOUT, Scene, append, delete_retention_ms, passed};
use crate::checker::{Place, Verdict, check};
use crate::edge::WALL_CLOCK_START_MS;
use crate::network::{BOOTSTRAP_PORT, ClientEvent};
use crate::random::Random;
use crate::value::Value;

/// How many batches of a partition, and requests of a connection, may be under way: Kafka's limit.
const UNDER_WAY_MAX: usize = 5;
/// From here on topics are named by their ids.
const BY_ID_FROM: i16 = 13;
/// From here on records may be compressed with zstd (KIP-110).
const ZSTD_FROM: i16 = 7;
const REFRESH: Duration = Duration::from_millis(400);
/// Partitions a producer writes to at a time, at most.
const PLACES_MAX: usize = 4;

/// One producer.
#[derive(Debug)]
pub(crate) struct Producer {
    writer: u32,
    idempotent: bool,
    acks: i16,
    version: i16,
    random: Random,
    lines: Lines<Ask>,
    map: Map,
    map_asked: Option<Instant>,
    id: Option<ProducerFields>,
    id_asked: bool,
    parts: BTreeMap<Place, Part>,
}

/// What it has under way in one partition.
#[derive(Debug)]
struct Part {
    next_number: u64,
    batches: VecDeque<Pending>,
    /// Where its batches go, while any are under way.
    to: u16,
    /// Something failed: all that is left is sent again once nothing is under way.
    failed: bool,
    /// Nothing more is to be sent.
    closing: bool,
}

#[derive(Debug)]
struct Pending {
    values: Vec<Value>,
    bytes: Bytes,
    under_way: bool,
}

#[derive(Debug)]
enum Ask {
    Map,
    Id {
        version: i16,
    },
    /// Batches, each with its place and the number of its first value.
    Produce {
        version: i16,
        batches: Vec<(Place, u64)>,
    },
}

impl Part {
    fn new() -> Self {
        Self { next_number: 0, batches: VecDeque::new(), to: 0, failed: false, closing: false }
    }

    fn under_way(&self) -> usize {
        self.batches.iter().filter(|batch| batch.under_way).count()
    }

    /// The next batch to send, if it may go now.
    fn next(&self) -> Option<usize> {
        let under_way = self.under_way();
        if self.failed && 0 < under_way || UNDER_WAY_MAX <= under_way {
            return None;
        }
        self.batches.iter().position(|batch| !batch.under_way)
    }
}

impl Producer {
    pub(crate) fn idempotent(writer: u32, random: &Random) -> Self {
        Self::new(writer, true, random)
    }

    pub(crate) fn plain(writer: u32, random: &Random) -> Self {
        Self::new(writer, false, random)
    }

    fn new(writer: u32, idempotent: bool, random: &Random) -> Self {
        let mut random = random.fork(&format!("producer {writer}"));
        Self {
            writer,
            idempotent,
            acks: if idempotent { -1 } else { *random.pick(&[-1, -1, 1, 0]) },
            version: random.between(3, 13) as i16,
            random,
            lines: Lines::new(REQUEST_TIMEOUT),
            map: Map::default(),
            map_asked: None,
            id: None,
            id_asked: false,
            parts: BTreeMap::new(),
        }
    }

    pub(crate) fn is_drained(&self) -> bool {
        let unanswered = self.acks == 0 && 0 < self.lines.all_in_flight();
        !unanswered && self.parts.values().all(|part| part.batches.is_empty())
    }

    pub(crate) fn describe(&self) -> String {
        let waiting = self.parts.iter().filter(|(_, part)| !part.batches.is_empty());
        let places: Vec<String> =
            waiting.map(|(place, part)| format!("{place:?}: {}", part.batches.len())).collect();
        format!("producer {} has batches left: {}", self.writer, places.join(", "))
    }

    pub(crate) fn step(&mut self, scene: &mut Scene<'_, '_>) -> Verdict {
        for heard in self.lines.expire(scene.port) {
            self.hear(heard, scene)?;
        }
        let now = scene.port.now();
        if passed(now, self.map_asked, REFRESH) {
            self.map_asked = Some(now);
            self.lines.ask(BOOTSTRAP_PORT, Some(Ask::Map), scene.port, Map::encode_question);
        }
        if self.idempotent && self.id.is_none() {
            if !self.id_asked {
                self.ask_for_id(scene);
            }
            return Ok(());
        }
        if self.random.happens(3_000)
            && let Some(to) = self.lines.ports().first()
        {
            for heard in self.lines.hang_up(*to, scene.port) {
                self.hear(heard, scene)?;
            }
        }
        if scene.phase == Phase::Work {
            self.write(scene);
        }
        self.send(scene);
        Ok(())
    }

    pub(crate) fn handle(&mut self, event: ClientEvent, scene: &mut Scene<'_, '_>) -> Verdict {
        for heard in self.lines.handle(event, scene.port)? {
            self.hear(heard, scene)?;
        }
        Ok(())
    }

    fn ask_for_id(&mut self, scene: &mut Scene<'_, '_>) {
        let version = self.random.between(0, 5) as i16;
        let request = InitProducerIdRequest {
            transactional_id: None,
            transaction_timeout_ms: 60_000,
            ..InitProducerIdRequest::default()
        };
        self.id_asked = true;
        let ask = Ask::Id { version };
        self.lines.ask(BOOTSTRAP_PORT, Some(ask), scene.port, |out, correlation| {
            encode_request(out, version, correlation, Some("sim"), &request);
        });
    }

    /// Thinks of new records.
    fn write(&mut self, scene: &mut Scene<'_, '_>) {
        let open = self.parts.values().filter(|part| !part.closing).count();
        if open < PLACES_MAX && !self.map.topics.is_empty() {
            let places = self.map.places();
            let place = *self.random.pick(&places);
            let reborn = self.map.name(place.topic).is_some_and(|name| name.starts_with(REBORN));
            if !reborn || BY_ID_FROM <= self.version {
                self.parts.entry(place).or_insert_with(Part::new);
            }
        }
        let places: Vec<Place> = self.parts.keys().copied().collect();
        for place in places {
            let part = &self.parts[&place];
            if !part.closing && part.batches.len() < UNDER_WAY_MAX && self.random.coin() {
                self.write_batch(place, scene);
            }
        }
    }

    fn write_batch(&mut self, place: Place, scene: &mut Scene<'_, '_>) {
        // What is not known to be there now is about to be forgotten.
        let Some(name) = self.map.name(place.topic) else { return };
        let retention_ms = delete_retention_ms(name);
        let is_compacted = retention_ms.is_some();
        if let Some(retention_ms) = retention_ms {
            scene.history.compacts(place, retention_ms);
        }
        let random = &mut self.random;
        let large = random.happens(scene.crowd.large_batches);
        let count = if large { 8 } else { random.between(1, scene.crowd.batch_records_max as u64) };
        let filling = if large { 40_000 } else { scene.crowd.value_bytes };
        let mut codecs = vec![Codec::Lz4, Codec::Snappy, Codec::Gzip];
        if ZSTD_FROM <= self.version {
            codecs.push(Codec::Zstd);
        }
        let codec = if random.happens(100_000) { *random.pick(&codecs) } else { Codec::None };
        let part = self.parts.get_mut(&place).expect("asked for by its place");
        let mut builder = BatchBuilder::new(codec);
        if let Some(id) = self.id {
            // Each value is one record, so values and sequences count alike.
            builder = builder.numbered(id, Sequence(part.next_number as i32));
        }
        let timestamp = WALL_CLOCK_START_MS + (scene.port.now().nanos / 1_000_000) as i64;
        let mut values = Vec::new();
        for _ in 0..count {
            let value = Value { writer: self.writer, number: part.next_number };
            part.next_number += 1;
            let filling = random.between(0, filling as u64) as usize;
            let has_key = random.coin() || is_compacted;
            let what = (value, has_key, is_compacted);
            append(&mut builder, Timestamp(timestamp), what, filling);
            scene.history.sending(place, value, self.idempotent);
            values.push(value);
        }
        let bytes = builder.build().freeze();
        part.batches.push_back(Pending { values, bytes, under_way: false });
    }

    /// Sends what may go.
    fn send(&mut self, scene: &mut Scene<'_, '_>) {
        loop {
            let Some(to) = self.next_port() else { return };
            let most = self.random.between(1, 3) as usize;
            let mut batches = Vec::new();
            let places: Vec<Place> = self.parts.keys().copied().collect();
            for place in places {
                let part = self.parts.get_mut(&place).expect("listed");
                if batches.len() < most
                    && part.to == to
                    && self.map.topics.contains_key(&place.topic)
                    && let Some(next) = part.next()
                {
                    part.failed = false;
                    part.batches[next].under_way = true;
                    let pending = &part.batches[next];
                    batches.push((place, pending.values[0].number, pending.bytes.clone()));
                }
            }
            self.send_request(to, &batches, scene);
        }
    }

    /// A port something can be sent to; parts with nothing under way choose theirs here.
    fn next_port(&mut self) -> Option<u16> {
        for (place, part) in &mut self.parts {
            if part.under_way() == 0 {
                let elsewhere = self.random.happens(50_000);
                part.to = if elsewhere { BOOTSTRAP_PORT } else { self.map.leader(*place) };
            }
        }
        let known = |place: &Place| self.map.topics.contains_key(&place.topic);
        let ready = self.parts.iter().filter(|(place, part)| known(place) && part.next().is_some());
        ready.map(|(_, part)| part.to).find(|to| self.lines.in_flight(*to) < UNDER_WAY_MAX)
    }

    fn send_request(
        &mut self,
        to: u16,
        batches: &[(Place, u64, Bytes)],
        scene: &mut Scene<'_, '_>,
    ) {
        let version = self.version;
        let partitions: Vec<OutgoingProducePartition<'_>> = batches
            .iter()
            .map(|(place, _, bytes)| OutgoingProducePartition {
                topic: if BY_ID_FROM <= version {
                    TopicRef::Id(place.topic)
                } else {
                    TopicRef::Name(self.map.name(place.topic).unwrap_or("forgotten"))
                },
                partition: place.partition,
                records: Some(bytes),
            })
            .collect();
        let request = OutgoingProduce {
            transactional_id: None,
            acks: self.acks,
            timeout_ms: 1_500,
            partitions: &partitions,
        };
        let asked = batches.iter().map(|(place, number, _)| (*place, *number)).collect();
        let ask = (self.acks != 0).then_some(Ask::Produce { version, batches: asked });
        let encode =
            |out: &mut BytesMut, correlation| request.encode(out, version, correlation, None);
        self.lines.ask(to, ask, scene.port, encode);
        if self.acks == 0 {
            for (place, _, _) in batches {
                let part = self.parts.get_mut(place).expect("just sent from");
                part.batches.retain(|batch| !batch.under_way);
            }
            // Nothing answers these. What is asked behind them on the same connection tells when
            // they have arrived, so that no more than a few are ever on their way.
            self.lines.ask(to, Some(Ask::Map), scene.port, Map::encode_question);
        }
    }

    fn hear(&mut self, heard: Heard<Ask>, scene: &mut Scene<'_, '_>) -> Verdict {
        match heard {
            Heard::Answer(Ask::Map, frame) => {
                self.map = Map::decode_answer(&frame)?;
                self.forget_deleted(scene);
            }
            Heard::Answer(Ask::Id { version }, frame) => self.take_id(version, &frame, scene)?,
            Heard::Answer(Ask::Produce { version, batches }, frame) => {
                self.answered(version, &batches, &frame, scene)?;
            }
            Heard::Lost(Ask::Map) => {}
            Heard::Lost(Ask::Id { .. }) => self.id_asked = false,
            Heard::Lost(Ask::Produce { batches, .. }) => {
                for (place, number) in batches {
                    self.unknown(place, number);
                }
            }
        }
        Ok(())
    }

    fn take_id(&mut self, version: i16, frame: &Bytes, scene: &mut Scene<'_, '_>) -> Verdict {
        let (_, response) = decode_response::<InitProducerIdResponse>(version, frame)
            .map_err(|error| unreadable("producer id", &error))?;
        self.id_asked = false;
        if response.error_code.is_none() {
            scene.history.told_producer_id(response.producer_id)?;
            self.id = Some(ProducerFields {
                id: ProducerId(response.producer_id),
                epoch: ProducerEpoch(response.producer_epoch),
            });
            return Ok(());
        }
        check(response.error_code.is_retriable(), "a producer gets its id", || {
            response.error_code.to_string()
        })
    }

    fn answered(
        &mut self,
        version: i16,
        batches: &[(Place, u64)],
        frame: &Bytes,
        scene: &mut Scene<'_, '_>,
    ) -> Verdict {
        let response = parse_response_header(ApiKey::Produce, version, frame)
            .and_then(|(_, body)| ProduceResponse::parse(version, &frame[body..]))
            .map_err(|error| unreadable("produce", &error))?;
        check(response.partitions.len() == batches.len(), "every partition is answered", || {
            format!("asked for {batches:?}, answered {:?}", response.partitions)
        })?;
        for (place, number) in batches {
            let answer = response.partitions.iter().find(|answer| {
                let same = match answer.topic {
                    TopicRef::Id(id) => id == place.topic,
                    TopicRef::Name(name) => self.name_fits(name, *place, scene),
                };
                same && answer.partition == place.partition
            });
            let Some(answer) = answer else {
                return check(false, "every partition is answered", || {
                    format!("{place:?} is missing in {:?}", response.partitions)
                });
            };
            if answer.error_code.is_none() {
                self.appended(*place, *number, answer.base_offset, scene)?;
            } else {
                self.refused(*place, *number, answer.error_code, scene)?;
            }
        }
        Ok(())
    }

    fn name_fits(&self, name: &str, place: Place, scene: &Scene<'_, '_>) -> bool {
        let known = scene.history.topics.get(place.topic).map(|topic| topic.name.as_str());
        known == Some(name) || self.map.name(place.topic) == Some(name)
    }

    fn appended(
        &mut self,
        place: Place,
        number: u64,
        base_offset: i64,
        scene: &mut Scene<'_, '_>,
    ) -> Verdict {
        let Some(part) = self.parts.get_mut(&place) else { return Ok(()) };
        let found = part.batches.iter().position(|batch| batch.values[0].number == number);
        let Some(at) = found else { return Ok(()) };
        // One before it may have been refused for want of room though a crash had kept it: then
        // this one rightly follows, and the other will prove to be there. Where they lie shows it.
        check(0 <= base_offset, "an append tells its offset", || {
            format!("producer {} in {place:?}, {number}: {base_offset}", self.writer)
        })?;
        let batch = part.batches.remove(at).expect("just found");
        let (writer, count) = (self.writer, batch.values.len());
        scene.port.say(format!("producer {writer} {place:?}: {number} +{count} at {base_offset}"));
        scene.history.acked(place, base_offset, &batch.values)
    }

    fn refused(
        &mut self,
        place: Place,
        number: u64,
        error: ErrorCode,
        scene: &mut Scene<'_, '_>,
    ) -> Verdict {
        self.map_asked = None;
        scene.port.say(format!("producer {} {place:?}: {number} refused, {error}", self.writer));
        let deleted = scene.history.topics.get(place.topic).is_some_and(|t| t.delete_asked);
        if deleted {
            if let Some(part) = self.parts.get_mut(&place) {
                part.closing = true;
                part.batches.clear();
            }
            return Ok(());
        }
        let first = self.parts.get(&place).and_then(|part| part.batches.front());
        let is_first = first.is_some_and(|batch| batch.values[0].number == number);
        let follows = error == ErrorCode::OutOfOrderSequenceNumber && !is_first;
        check(follows || error.is_retriable(), "a valid batch is accepted", || {
            format!("producer {} in {place:?}, {number}: {error}", self.writer)
        })?;
        self.unknown(place, number);
        Ok(())
    }

    /// Nobody knows whether a batch was appended.
    fn unknown(&mut self, place: Place, number: u64) {
        let Some(part) = self.parts.get_mut(&place) else { return };
        if self.idempotent {
            part.failed = true;
            let batch = part.batches.iter_mut().find(|batch| batch.values[0].number == number);
            batch.into_iter().for_each(|batch| batch.under_way = false);
        } else {
            part.batches.retain(|batch| batch.values[0].number != number);
        }
    }

    fn forget_deleted(&mut self, scene: &Scene<'_, '_>) {
        for (place, part) in &mut self.parts {
            let gone = !self.map.topics.contains_key(&place.topic);
            let asked = scene.history.topics.get(place.topic).is_some_and(|t| t.delete_asked);
            if gone && asked {
                part.closing = true;
                part.batches.clear();
            }
        }
    }
}
