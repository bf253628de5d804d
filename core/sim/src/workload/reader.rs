//! Readers: from the start of each partition to its end and on, as consumers do, and at the end
//! of a run the auditor, which reads all there is.
//!
//! Some read only what is committed; they leave out what belongs to aborted transactions, as
//! consumers do. The auditor is one of them, and must reach the end of the log nevertheless: then
//! no transaction hangs.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tidemill_net::kafka::fetch::{
    AbortedTransaction, FetchPartition, FetchPartitionResponse, FetchResponse, OutgoingFetch,
    READ_COMMITTED,
};
use tidemill_net::kafka::list_offsets::{
    EARLIEST, LATEST, ListOffsetsPartition, ListOffsetsPartitionResponse, ListOffsetsRequest,
    ListOffsetsResponse, ListOffsetsTopic,
};
use tidemill_net::kafka::{
    ApiKey, ErrorCode, TopicRef, decode_response, encode_request, parse_response_header,
};
use tidemill_record::{Batch, Contents, Marker, Outcome, ProducerId};
use tidemill_runtime::edge::Instant;

use super::lines::{Heard, Lines};
use super::map::{Map, unreadable};
use super::{DELETES, Phase, REBORN, REQUEST_TIMEOUT, Scene, delete_retention_ms, passed};
use crate::checker::bounds::Floor;
use crate::checker::topics::Expected;
use crate::checker::{Place, Seen, Verdict, Violation, check};
use crate::network::{BOOTSTRAP_PORT, ClientEvent};
use crate::random::Random;
use crate::value::Value;

/// From here on topics are named by their ids.
const BY_ID_FROM: i16 = 13;
/// Before this, records compressed with zstd are refused (KIP-110).
const ZSTD_FROM: i16 = 10;
const REFRESH: Duration = Duration::from_millis(500);
/// Partitions read at a time, at most.
const PLACES_MAX: usize = 8;
const BATCH_BYTES_MAX: usize = 16 << 20;

/// One reader.
#[derive(Debug)]
pub(crate) struct Reader {
    auditor: bool,
    /// Something on the disk may be damaged: that it is told is as good as that it can be read.
    lenient: bool,
    damaged: BTreeSet<Place>,
    version: i16,
    /// It reads only what is committed.
    committed: bool,
    random: Random,
    lines: Lines<Ask>,
    map: Map,
    map_asked: Option<Instant>,
    has_map: bool,
    positions: BTreeMap<Place, Position>,
}

/// Where a reader is in one partition.
#[derive(Debug, Default)]
struct Position {
    next: i64,
    start: Option<i64>,
    end: Option<i64>,
    fetching: bool,
    listing: bool,
    /// A fetch at this offset was refused, so the log must begin behind it.
    refused_at: Option<i64>,
}

#[derive(Debug)]
enum Ask {
    Map(Expected),
    Fetch {
        version: i16,
        at: Vec<(Place, i64, Floor)>,
        asked_ms: i64,
    },
    /// With the offset that was out of range before, if that is why.
    List {
        version: i16,
        which: i64,
        committed: bool,
        place: Place,
        sent: Floor,
        refused_at: Option<i64>,
    },
}

impl Reader {
    pub(crate) fn new(number: u32, random: &Random) -> Self {
        let mut random = random.fork(&format!("reader {number}"));
        let version = random.between(4, 18) as i16;
        let committed = random.coin();
        Self { committed, ..Self::with(false, false, version, random) }
    }

    pub(crate) fn auditor(lenient: bool, random: &Random) -> Self {
        let mut random = random.fork("auditor");
        let version = random.between(i64::from(BY_ID_FROM) as u64, 18) as i16;
        Self::with(true, lenient, version, random)
    }

    fn with(auditor: bool, lenient: bool, version: i16, random: Random) -> Self {
        Self {
            auditor,
            lenient,
            damaged: BTreeSet::new(),
            version,
            // Of a transaction whose marker is damaged nobody knows how it ended.
            committed: auditor && !lenient,
            random,
            lines: Lines::new(REQUEST_TIMEOUT),
            map: Map::default(),
            map_asked: None,
            has_map: false,
            positions: BTreeMap::new(),
        }
    }

    /// Whether everything was read to its end.
    pub(crate) fn is_done(&self) -> bool {
        let done = |position: &Position| {
            position.start.is_some() && position.end.is_some_and(|end| end <= position.next)
        };
        self.has_map && self.positions.values().all(done)
    }

    pub(crate) fn describe(&self) -> Option<String> {
        if !self.auditor {
            return None;
        }
        let left = self.positions.iter().filter(|(_, p)| p.end.is_none_or(|end| p.next < end));
        let left: Vec<String> = left
            .map(|(place, p)| format!("{place:?} at {} of {:?}..{:?}", p.next, p.start, p.end))
            .collect();
        Some(format!("the auditor is not through with {}", left.join(", ")))
    }

    /// Where each partition began and ended.
    pub(crate) fn found(&self) -> BTreeMap<Place, (i64, i64)> {
        let whole = self.positions.iter().filter(|(place, _)| !self.damaged.contains(place));
        let ends = whole.map(|(place, position)| {
            (*place, (position.start.unwrap_or(0), position.end.unwrap_or(0)))
        });
        ends.collect()
    }

    /// The partitions of which it was told that they are damaged.
    pub(crate) fn damaged(&self) -> &BTreeSet<Place> {
        &self.damaged
    }

    pub(crate) fn step(&mut self, scene: &mut Scene<'_, '_>) -> Verdict {
        for heard in self.lines.expire(scene.port) {
            self.hear(heard, scene)?;
        }
        if scene.phase == Phase::Audit && !self.auditor {
            return Ok(());
        }
        let now = scene.port.now();
        let wants_map = !self.auditor || !self.has_map;
        if wants_map && passed(now, self.map_asked, REFRESH) {
            self.map_asked = Some(now);
            let ask = Ask::Map(scene.history.topics.expected(scene.port.now()));
            self.lines.ask(BOOTSTRAP_PORT, Some(ask), scene.port, Map::encode_question);
        }
        self.choose();
        let places: Vec<Place> = self.positions.keys().copied().collect();
        for place in places {
            let position = &self.positions[&place];
            let lost = position.refused_at.is_some();
            let curious = !self.auditor && self.random.happens(20_000);
            let ignorant = self.auditor && (position.start.is_none() || position.end.is_none());
            if !position.listing && (lost || curious || ignorant) {
                self.list(place, scene);
            }
        }
        self.fetch(scene);
        Ok(())
    }

    pub(crate) fn handle(&mut self, event: ClientEvent, scene: &mut Scene<'_, '_>) -> Verdict {
        for heard in self.lines.handle(event, scene.port)? {
            self.hear(heard, scene)?;
        }
        Ok(())
    }

    /// Takes up partitions: the auditor all, others some.
    fn choose(&mut self) {
        let places = self.map.places();
        if self.auditor {
            for place in places {
                self.positions.entry(place).or_default();
            }
        } else if !places.is_empty() && self.positions.len() < PLACES_MAX {
            let place = *self.random.pick(&places);
            let reborn = self.map.name(place.topic).is_some_and(|name| name.starts_with(REBORN));
            if !reborn || BY_ID_FROM <= self.version {
                self.positions.entry(place).or_default();
            }
        }
        if !self.auditor && self.random.happens(5_000) {
            // Somebody new comes and begins at the beginning.
            self.positions.retain(|_, position| position.fetching || position.listing);
        }
    }

    fn list(&mut self, place: Place, scene: &mut Scene<'_, '_>) {
        let Some(name) = self.map.name(place.topic) else { return };
        if name.starts_with(REBORN) && !self.auditor {
            // Its name may mean another topic by now: take it that the start is unknown.
            self.positions.remove(&place);
            return;
        }
        let position = &self.positions[&place];
        let which = match (position.refused_at, self.auditor, position.start) {
            (Some(_), _, _) | (_, true, None) => EARLIEST,
            (_, true, Some(_)) => LATEST,
            _ => *self.random.pick(&[EARLIEST, LATEST, LATEST]),
        };
        let version = self.random.between(1, 11) as i16;
        // The auditor asks for the end of all there is, and reads only what is committed.
        let committed = self.committed && !self.auditor && 2 <= version;
        let request = ListOffsetsRequest {
            isolation_level: if committed { READ_COMMITTED } else { 0 },
            topics: vec![ListOffsetsTopic {
                name: name.to_owned(),
                partitions: vec![ListOffsetsPartition {
                    partition_index: place.partition,
                    timestamp: which,
                    ..ListOffsetsPartition::default()
                }],
            }],
            timeout_ms: 1_000,
            ..ListOffsetsRequest::default()
        };
        let sent = scene.history.partition(place).bounds.floor();
        let refused_at = position.refused_at;
        let ask = Ask::List { version, which, committed, place, sent, refused_at };
        let to = self.port_for(place);
        self.positions.get_mut(&place).expect("listed above").listing = true;
        self.lines.ask(to, Some(ask), scene.port, |out, correlation| {
            encode_request(out, version, correlation, Some("sim"), &request);
        });
    }

    fn port_for(&mut self, place: Place) -> u16 {
        if self.random.happens(50_000) { BOOTSTRAP_PORT } else { self.map.leader(place) }
    }

    /// Asks for more, of several partitions of one leader at once.
    fn fetch(&mut self, scene: &mut Scene<'_, '_>) {
        let ready: Vec<Place> = self
            .positions
            .iter()
            .filter(|(_, position)| !position.fetching && position.refused_at.is_none())
            .filter(|(_, position)| {
                !self.auditor || position.end.is_some_and(|end| position.next < end)
            })
            .map(|(place, _)| *place)
            .collect();
        let Some(first) = ready.first() else { return };
        let to = self.port_for(*first);
        if 0 < self.lines.in_flight(to) && self.lines.all_in_flight() != 0 && self.random.coin() {
            return;
        }
        let at: Vec<(Place, i64, Floor)> = ready
            .into_iter()
            .filter(|place| to == BOOTSTRAP_PORT || self.map.leader(*place) == to)
            .map(|place| {
                let floor = scene.history.partition(place).bounds.floor();
                (place, self.positions[&place].next, floor)
            })
            .collect();
        let version = self.version;
        let partition_max = *self.random.pick(&[1, 4 << 10, 64 << 10, 1 << 20]);
        let partitions: Vec<FetchPartition<'_>> = at
            .iter()
            .map(|(place, next, _)| {
                let topic = if BY_ID_FROM <= version {
                    TopicRef::Id(place.topic)
                } else {
                    TopicRef::Name(self.map.name(place.topic).unwrap_or("forgotten"))
                };
                FetchPartition::from_consumer(topic, place.partition, *next, partition_max)
            })
            .collect();
        let request = OutgoingFetch {
            max_wait_ms: *self.random.pick(&[0, 5, 100, 500]),
            min_bytes: *self.random.pick(&[0, 1, 1, 1, 10_000]),
            max_bytes: *self.random.pick(&[1, 16 << 10, 1 << 20, 50 << 20]),
            isolation_level: if self.committed { READ_COMMITTED } else { 0 },
            partitions: &partitions,
            ..OutgoingFetch::default()
        };
        for (place, _, _) in &at {
            self.positions.get_mut(place).expect("just listed").fetching = true;
        }
        let asked_ms = scene.history.now_ms;
        let ask = Ask::Fetch { version, at: at.clone(), asked_ms };
        let encode = |out: &mut BytesMut, correlation| {
            request.encode(out, version, correlation, Some("sim"))
        };
        self.lines.ask(to, Some(ask), scene.port, encode);
    }

    fn hear(&mut self, heard: Heard<Ask>, scene: &mut Scene<'_, '_>) -> Verdict {
        match heard {
            Heard::Answer(Ask::Map(expected), frame) => {
                self.map = Map::decode_answer(&frame)?;
                self.has_map = true;
                let there = &self.map.topics;
                self.positions.retain(|place, _| there.contains_key(&place.topic));
                self.choose();
                scene.history.topics.listed(&self.map.listed(), &expected, scene.port.now())?;
            }
            Heard::Answer(Ask::Fetch { version, at, asked_ms }, frame) => {
                self.fetched(version, &at, asked_ms, &frame, scene)?;
            }
            Heard::Answer(
                Ask::List { version, which, committed, place, sent, refused_at },
                frame,
            ) => {
                if let Some(position) = self.positions.get_mut(&place) {
                    position.listing = false;
                }
                let answer = decode_list(version, place, &frame)?;
                if committed && which == LATEST && answer.error_code.is_none() {
                    scene.port.say(format!("{place:?} is stable up to {}", answer.offset));
                    scene.history.partition(place).bounds.told_stable(answer.offset, sent)?;
                    return Ok(());
                }
                self.listed(which, place, sent, refused_at, &answer, scene)?;
            }
            Heard::Lost(Ask::Map(_)) => self.map_asked = None,
            Heard::Lost(Ask::Fetch { at, .. }) => {
                for (place, _, _) in at {
                    if let Some(position) = self.positions.get_mut(&place) {
                        position.fetching = false;
                    }
                }
            }
            Heard::Lost(Ask::List { place, .. }) => {
                if let Some(position) = self.positions.get_mut(&place) {
                    position.listing = false;
                }
            }
        }
        Ok(())
    }

    fn listed(
        &mut self,
        which: i64,
        place: Place,
        sent: Floor,
        refused_at: Option<i64>,
        answer: &ListOffsetsPartitionResponse,
        scene: &mut Scene<'_, '_>,
    ) -> Verdict {
        if !answer.error_code.is_none() {
            return self.failed(place, answer.error_code, scene);
        }
        scene.port.say(format!("{place:?}, asked for {which}: {}", answer.offset));
        let bounds = &mut scene.history.partition(place).bounds;
        let found = format!("{place:?} offset {}", answer.offset);
        let verdict = if self.lenient {
            // A log that is cut short by damage must tell so to who reads on at its old end.
            Ok(())
        } else if which == LATEST {
            bounds.told_end(answer.offset, sent)
        } else {
            bounds.told_start(answer.offset, sent)
        };
        verdict.map_err(|violation| at(&found, violation))?;
        let Some(position) = self.positions.get_mut(&place) else { return Ok(()) };
        if which == LATEST {
            position.end =
                Some(if self.lenient { answer.offset.max(sent.end) } else { answer.offset });
            return Ok(());
        }
        if let Some(refused) = refused_at {
            position.refused_at = None;
            check(refused < answer.offset, "what is in the log can be read", || {
                format!(
                    "{place:?}: {refused} was out of range, the log begins at {}",
                    answer.offset
                )
            })?;
        }
        position.start = Some(answer.offset);
        position.next = position.next.max(answer.offset);
        Ok(())
    }

    fn fetched(
        &mut self,
        version: i16,
        asked: &[(Place, i64, Floor)],
        asked_ms: i64,
        frame: &Bytes,
        scene: &mut Scene<'_, '_>,
    ) -> Verdict {
        let (_, body) = parse_response_header(ApiKey::Fetch, version, frame)
            .map_err(|error| unreadable("fetch", &error))?;
        let body = frame.slice(body..);
        let response =
            FetchResponse::parse(version, &body).map_err(|error| unreadable("fetch", &error))?;
        check(
            response.error_code.is_none() || response.error_code.is_retriable(),
            "a valid fetch is served",
            || response.error_code.to_string(),
        )?;
        for (place, from, sent) in asked {
            if let Some(position) = self.positions.get_mut(place) {
                position.fetching = false;
            }
            let answer = response.partitions.iter().find(|answer| {
                let same = match answer.topic {
                    TopicRef::Id(id) => id == place.topic,
                    TopicRef::Name(name) => {
                        scene.history.topics.get(place.topic).is_some_and(|t| t.name == name)
                    }
                };
                same && answer.partition == place.partition
            });
            let Some(answer) = answer else {
                return check(
                    !response.error_code.is_none(),
                    "every partition is answered",
                    || format!("{place:?} is missing in a fetch of {asked:?}"),
                );
            };
            self.fetched_one(*place, *from, (*sent, asked_ms), answer, scene)
                .map_err(|violation| at(&format!("{place:?} from {from}"), violation))?;
        }
        Ok(())
    }

    fn fetched_one(
        &mut self,
        place: Place,
        from: i64,
        (sent, asked_ms): (Floor, i64),
        answer: &FetchPartitionResponse<'_>,
        scene: &mut Scene<'_, '_>,
    ) -> Verdict {
        scene.port.say(format!(
            "reader of {place:?} from {from}: {}, log {}..{}, stable up to {}",
            answer.error_code,
            answer.log_start_offset,
            answer.high_watermark,
            answer.last_stable_offset
        ));
        if scene.phase == Phase::Audit && !self.auditor {
            // It was asked for before: how the log has grown meanwhile, the audit need not know.
            return Ok(());
        }
        if answer.error_code == ErrorCode::OffsetOutOfRange {
            check(!self.lenient || from < sent.start, "damage is told", || {
                format!("{from} is out of range, though the log had reached {}", sent.end)
            })?;
            if let Some(position) = self.positions.get_mut(&place) {
                position.refused_at = Some(from);
                position.start = None;
            }
            return Ok(());
        }
        if !answer.error_code.is_none() {
            return self.failed(place, answer.error_code, scene);
        }
        check(sent.start <= from, "what was deleted stays deleted", || {
            format!("read though the log was cut to {}", sent.start)
        })?;
        if !self.lenient {
            let bounds = &mut scene.history.partition(place).bounds;
            bounds.told_end(answer.high_watermark, sent)?;
            bounds.told_stable(answer.last_stable_offset, sent)?;
            if answer.log_start_offset != -1 {
                bounds.told_start(answer.log_start_offset, sent)?;
            }
        }
        if let Some(position) = self.positions.get_mut(&place) {
            // What was open when the audit began has ended by a marker behind the end, though this
            // answer may not have it yet.
            position.end = position.end.map(|end| end.max(answer.high_watermark));
        }
        let aborted = answer.aborted_transactions.as_deref();
        check(
            self.committed == aborted.is_some(),
            "who asks for it is told what to leave out",
            || format!("committed: {}, told {aborted:?}", self.committed),
        )?;
        // Markers may be all that is there of it, so that nobody who writes records has told.
        if let Some(retention_ms) = self.map.name(place.topic).and_then(delete_retention_ms) {
            scene.history.compacts(place, retention_ms);
        }
        let keyed = scene.history.partition(place).records.left().is_some();
        let (seen, next) = decode_records(&answer.records, from, aborted, keyed)?;
        if let Some(next) = next {
            let (high, stable) = (answer.high_watermark, answer.last_stable_offset);
            check(stable <= high, "what is stable is durable", || format!("{high}, {stable}"))?;
            let end = if self.committed { stable } else { high };
            check(next <= end, "only durable records are shown", || {
                format!("records up to {next} of {end}, high watermark {high}")
            })?;
            check(from < next, "a fetch begins where it was asked to", || {
                format!("asked for {from}, given what ends at {next}")
            })?;
            scene.history.read(place, from, next, asked_ms, &seen)?;
            if let Some(position) = self.positions.get_mut(&place) {
                position.next = next;
            }
        }
        Ok(())
    }

    /// A partition could not be read for now, or is gone.
    fn failed(&mut self, place: Place, error: ErrorCode, scene: &Scene<'_, '_>) -> Verdict {
        self.map_asked = None;
        let deleted = scene.history.topics.get(place.topic).is_some_and(|t| t.delete_asked);
        if deleted {
            self.positions.remove(&place);
            return Ok(());
        }
        if error == ErrorCode::UnsupportedCompressionType && self.version < ZSTD_FROM {
            // Rightly so. A reader as old as this stays where it is, until it begins anew.
            return Ok(());
        }
        if self.lenient && error == ErrorCode::KafkaStorageError {
            self.damaged.insert(place);
            let position = self.positions.entry(place).or_default();
            position.start = Some(position.next);
            position.end = Some(position.next);
            return Ok(());
        }
        check(error.is_retriable(), "a valid read is served", || format!("{place:?}: {error}"))
    }
}

fn at(place: &str, violation: Violation) -> Violation {
    Violation { evidence: format!("{place}: {}", violation.evidence), ..violation }
}

fn decode_list(
    version: i16,
    place: Place,
    frame: &Bytes,
) -> Result<ListOffsetsPartitionResponse, Violation> {
    let (_, response) = decode_response::<ListOffsetsResponse>(version, frame)
        .map_err(|error| unreadable("offsets", &error))?;
    let answers = response.topics.into_iter().flat_map(|topic| topic.partitions);
    let answer = answers.into_iter().find(|answer| answer.partition_index == place.partition);
    answer.ok_or_else(|| Violation {
        rule: "every partition is answered",
        evidence: format!("{place:?} is missing in an answer about offsets"),
    })
}

/// What a consumer leaves out of the answer to one fetch, and what it shows.
struct Left<'a> {
    /// Where aborted transactions begin, in order; none if everything is shown.
    ahead: Option<VecDeque<&'a AbortedTransaction>>,
    /// Whose records are left out here.
    out: BTreeSet<ProducerId>,
}

impl<'a> Left<'a> {
    fn new(aborted: Option<&'a [AbortedTransaction]>) -> Self {
        let ahead = aborted.map(|aborted| {
            let mut ahead: Vec<_> = aborted.iter().collect();
            ahead.sort_by_key(|aborted| aborted.first_offset);
            ahead.into()
        });
        Self { ahead, out: BTreeSet::new() }
    }

    /// What becomes of the records of the next batch.
    fn shown(&mut self, batch: &Batch<'_>) -> Option<Outcome> {
        let ahead = self.ahead.as_mut()?;
        while let Some(next) = ahead.front()
            && next.first_offset <= batch.last_offset().0
        {
            self.out.insert(ProducerId(next.producer_id));
            ahead.pop_front();
        }
        let is_out = batch.is_transactional()
            && batch.producer().is_some_and(|producer| self.out.contains(&producer.id));
        Some(if is_out { Outcome::Abort } else { Outcome::Commit })
    }

    /// A marker ends what is left out of its producer.
    fn ended(&mut self, batch: &Batch<'_>, marker: Marker) {
        if let (Some(producer), Outcome::Abort) = (batch.producer(), marker.outcome) {
            self.out.remove(&producer.id);
        }
    }
}

/// All records of a fetch: whole batches, each with its checksum right, each value whole; each with
/// its key, if all are `keyed`; then it has no value where that deletes its key. And where the last
/// batch ends.
pub(super) fn decode_records(
    slices: &[Bytes],
    from: i64,
    aborted: Option<&[AbortedTransaction]>,
    keyed: bool,
) -> Result<(Vec<Seen>, Option<i64>), Violation> {
    let mut left = Left::new(aborted);
    let damaged = |what: String| Violation { rule: "records come back as sent", evidence: what };
    let (mut seen, mut next) = (Vec::new(), None);
    for slice in slices {
        let mut rest: &[u8] = slice;
        while !rest.is_empty() {
            let (batch, behind) = Batch::parse(rest).map_err(|error| damaged(error.to_string()))?;
            rest = behind;
            batch.verify_checksum().map_err(|error| damaged(error.to_string()))?;
            let sum = crc32c::crc32c(batch.bytes());
            let shown = left.shown(&batch);
            next = Some(batch.next_offset().0);
            if batch.is_control() && batch.records_count() == 0 {
                // Compaction has taken its record: it stays for what it says of its producer.
                continue;
            }
            if batch.is_control() {
                let marker = Marker::read(&batch).map_err(|error| damaged(error.to_string()))?;
                left.ended(&batch, marker);
                let offset = batch.base_offset().0;
                seen.push(Seen { offset, value: None, shown: None, batch: sum });
                continue;
            }
            let contents = Contents::open(&batch, BATCH_BYTES_MAX)
                .map_err(|error| damaged(error.to_string()))?;
            for record in contents.records() {
                let record = record.map_err(|error| damaged(error.to_string()))?;
                let named = record.headers.into_iter().find(|header| header.key == DELETES);
                let bytes = record.value.or(named.and_then(|header| header.value));
                let value = bytes
                    .and_then(Value::decode)
                    .ok_or_else(|| damaged(format!("offset {} holds no value", record.offset.0)))?;
                if record.value.is_none() != (keyed && value.deletes()) {
                    return Err(damaged(format!("{value:?} deletes its key, or does not")));
                }
                let key = record.key.map(String::from_utf8_lossy);
                if key.map_or(keyed, |key| key != value.key()) {
                    return Err(damaged(format!("{value:?} has lost its key {}", value.key())));
                }
                let shown = shown.filter(|_| from <= record.offset.0);
                let value = Some(value);
                seen.push(Seen { offset: record.offset.0, value, shown, batch: sum });
            }
        }
    }
    Ok((seen, next))
}
