//! What a member of a share group reads: in one session with each shard, which goes step by step.
//!
//! A session lives as long as its connection; what the member was given there and has not spoken of
//! goes with it.

use std::collections::{BTreeMap, BTreeSet};

use bytes::{Bytes, BytesMut};
use tidemill_net::cursor::Writer;
use tidemill_net::frame::{begin_frame, end_frame};
use tidemill_net::kafka::share_acknowledge::INITIAL_EPOCH;
use tidemill_net::kafka::share_fetch::{
    AcquiredRecords, ShareFetchPartition, ShareFetchPartitionResponse, ShareFetchRequest,
    ShareFetchResponse, ShareFetchTopic, acquire_mode,
};
use tidemill_net::kafka::topic_partitions::TopicIdPartitions;
use tidemill_net::kafka::{
    ApiKey, ErrorCode, Message, RequestHeader, TopicRef, parse_response_header,
};
use tidemill_runtime::edge::Instant;

use super::speaking::Spoken;
use super::{Ask, Scene, Sharer, Step};
use crate::checker::shares::{LINGERS, Sent};
use crate::checker::{Place, Seen, Verdict, check};
use crate::network::{BOOTSTRAP_PORT, ConnectionId};
use crate::workload::map::unreadable;
use crate::workload::reader::decode_records;
use crate::workload::{Phase, delete_retention_ms};

/// A session with one shard.
#[derive(Debug)]
pub(super) struct Session {
    /// The connection it lives as long as.
    pub(super) line: ConnectionId,
    /// The step that comes next.
    pub(super) epoch: i32,
    /// What is read.
    pub(super) places: BTreeSet<Place>,
    /// Its last step was not answered yet.
    pub(super) busy: bool,
    /// What the member was given, and has not spoken of.
    pub(super) held: BTreeMap<Place, BTreeMap<i64, Held>>,
    /// What it will never speak of.
    pub(super) forgotten: Vec<(Place, i64)>,
}

/// A record that a member was given.
#[derive(Clone, Copy, Debug)]
pub(super) struct Held {
    /// How often it was given out.
    pub(super) count: i16,
    /// There is none at this offset.
    pub(super) is_gap: bool,
}

/// A fetch on its way.
#[derive(Debug)]
pub(super) struct Asked {
    port: u16,
    sent: Sent,
    /// What is read, and where the log was known to begin.
    places: Vec<(Place, i64)>,
    spoken: Vec<Spoken>,
}

impl Sharer {
    /// Where a partition is read.
    fn port_of(&self, place: Place) -> u16 {
        if self.stays_at_bootstrap { BOOTSTRAP_PORT } else { self.map.leader(place) }
    }

    /// Sessions whose connection is gone are so, too.
    pub(super) fn end_lost_sessions(&mut self) {
        let lines = &self.lines;
        self.sessions.retain(|port, session| lines.connection(*port) == Some(session.line));
    }

    /// Where partitions are read elsewhere now, the member begins anew.
    pub(super) fn move_sessions(&mut self, scene: &mut Scene<'_, '_>) -> Verdict {
        let moved = self.sessions.iter().filter(|(port, session)| {
            session
                .places
                .iter()
                .any(|place| self.map.knows(*place) && self.port_of(*place) != **port)
        });
        let moved: Vec<u16> = moved.map(|(port, _)| *port).collect();
        moved.into_iter().try_for_each(|port| self.hang_up(port, scene))
    }

    /// Takes all sessions a step further that wait for nothing.
    pub(super) fn read_all(&mut self, scene: &mut Scene<'_, '_>) {
        let mut ports: BTreeMap<u16, BTreeSet<Place>> = BTreeMap::new();
        if self.step != Step::Leaving {
            // Of others it does not know where they lie yet.
            for place in self.assigned.iter().filter(|place| self.map.knows(**place)) {
                ports.entry(self.port_of(*place)).or_default().insert(*place);
            }
        }
        for port in self.sessions.keys() {
            ports.entry(*port).or_default();
        }
        for (port, wanted) in ports {
            let session = self.sessions.get(&port);
            let is_new = session.is_none_or(|session| session.epoch == INITIAL_EPOCH);
            if session.is_some_and(|session| session.busy) || (is_new && wanted.is_empty()) {
                continue;
            }
            let has_held = session.is_some_and(|session| !session.held.is_empty());
            let works = scene.phase != Phase::Settle;
            if !is_new && ((works && self.random.happens(5_000)) || wanted.is_empty()) {
                self.tell(port, true, scene);
            } else if !is_new && has_held && self.random.happens(300_000) {
                self.tell(port, false, scene);
            } else {
                self.fetch(port, wanted, scene);
            }
        }
    }

    /// The session with a shard, begun if there is none.
    fn session(&mut self, port: u16, scene: &mut Scene<'_, '_>) -> &mut Session {
        let line = self.lines.open(port, scene.port);
        self.sessions.entry(port).or_insert_with(|| Session {
            line,
            epoch: INITIAL_EPOCH,
            places: BTreeSet::new(),
            busy: false,
            held: BTreeMap::new(),
            forgotten: Vec::new(),
        })
    }

    fn fetch(&mut self, port: u16, mut wanted: BTreeSet<Place>, scene: &mut Scene<'_, '_>) {
        let session = self.session(port, scene);
        let (line, epoch, before) = (session.line, session.epoch, session.places.clone());
        if scene.phase == Phase::Work && epoch != INITIAL_EPOCH && self.random.happens(20_000) {
            // It wants one less for a while.
            wanted.pop_first();
        }
        let sent = scene.history.sharing.sends(line, scene.port.now());
        // In the end at once: what comes late for one record is refused for all of a partition.
        let speaks = scene.phase == Phase::Settle || self.random.happens(700_000);
        let speech = if speaks { self.speak(port, &sent, true, scene) } else { Vec::new() };
        let is_renew_ack = speech.iter().any(|one| one.renews());
        let mut topics: Vec<ShareFetchTopic> = Vec::new();
        let new = wanted.difference(&before).copied();
        let named: BTreeSet<Place> = new.chain(speech.iter().map(|one| one.place)).collect();
        for place in named {
            let said = speech.iter().find(|one| one.place == place);
            let partition = ShareFetchPartition {
                partition_index: place.partition,
                acknowledgement_batches: said.map(|one| one.batches.clone()).unwrap_or_default(),
            };
            match topics.last_mut() {
                Some(last) if last.topic_id == place.topic => last.partitions.push(partition),
                _ => topics
                    .push(ShareFetchTopic { topic_id: place.topic, partitions: vec![partition] }),
            }
        }
        // What is only spoken of would be read from now on.
        let spoken_of = speech.iter().map(|one| one.place);
        let known: BTreeSet<Place> = before.into_iter().chain(spoken_of).collect();
        let forgotten = known.difference(&wanted).map(|place| TopicIdPartitions {
            topic_id: place.topic,
            partitions: vec![place.partition],
        });
        let settles = scene.phase == Phase::Settle;
        let request = ShareFetchRequest {
            group_id: Some(self.group.clone()),
            member_id: Some(self.name()),
            share_session_epoch: epoch,
            max_wait_ms: *self.random.pick(&[0, 5, 100, 500]),
            min_bytes: *self.random.pick(&[0, 1, 10_000]),
            max_bytes: *self.random.pick(&[1, 16 << 10, 1 << 20, 50 << 20]),
            max_records: *self.random.pick(if settles { &[50, 500] } else { &[1, 7, 50, 500] }),
            batch_size: *self.random.pick(&[1, 10, 500]),
            share_acquire_mode: match self.version {
                2 => {
                    *self.random.pick(&[acquire_mode::BATCH_OPTIMIZED, acquire_mode::RECORD_LIMIT])
                }
                _ => acquire_mode::BATCH_OPTIMIZED,
            },
            is_renew_ack,
            topics,
            forgotten_topics_data: forgotten.collect(),
        };
        let places = wanted.iter().map(|place| {
            let start = scene.history.partition(*place).bounds.floor().start;
            (*place, start)
        });
        let places = places.collect();
        let spoken = speech.into_iter().map(|one| one.spoken).collect();
        let session = self.session(port, scene);
        (session.busy, session.places) = (true, wanted);
        let version = self.version;
        let ask = Ask::Fetch(Asked { port, sent, places, spoken });
        self.lines.ask(port, Some(ask), scene.port, |out, correlation| {
            encode_fetch(out, version, correlation, &request);
        });
    }

    /// The answer to a fetch will not come.
    pub(super) fn fetch_lost(&mut self, asked: &Asked, scene: &mut Scene<'_, '_>) {
        self.lost_at = Some(scene.port.now());
        for (place, _) in &asked.places {
            scene.history.sharing.lost(&self.group, *place, scene.port.now());
        }
    }

    /// Whether a request of an earlier connection may have come meanwhile, as a step of a session that
    /// was begun later.
    fn is_overtaken(&self, now: Instant) -> bool {
        self.lost_at.is_some_and(|at| now < at.after(LINGERS))
    }

    /// The session with a shard is as before its step, or gone.
    pub(super) fn stepped(
        &mut self,
        port: u16,
        sent: &Sent,
        error: ErrorCode,
        scene: &mut Scene<'_, '_>,
    ) -> Verdict {
        let is_overtaken = self.is_overtaken(scene.port.now());
        let Some(session) = self.sessions.get_mut(&port) else { return Ok(()) };
        session.busy = false;
        if error.is_none() {
            session.epoch += 1;
            return scene.history.sharing.hears(sent);
        }
        let is_lost =
            matches!(error, ErrorCode::ShareSessionNotFound | ErrorCode::InvalidShareSessionEpoch);
        check(
            error.is_retriable() && (!is_lost || is_overtaken),
            "a session lives as long as its connection",
            || format!("{} at {port}, {session:?}: {error}", self.group),
        )?;
        let line = session.line;
        self.let_go(port, scene);
        scene.history.sharing.clears(line);
        self.sessions.remove(&port);
        Ok(())
    }

    pub(super) fn fetched(
        &mut self,
        asked: Asked,
        frame: &Bytes,
        scene: &mut Scene<'_, '_>,
    ) -> Verdict {
        let Asked { port, sent, places, spoken } = asked;
        let (_, start) = parse_response_header(ApiKey::ShareFetch, self.version, frame)
            .map_err(|error| unreadable("share fetch", &error))?;
        let body = frame.slice(start..);
        let response = ShareFetchResponse::parse(self.version, &body)
            .map_err(|error| unreadable("share fetch", &error))?;
        self.stepped(port, &sent, response.error_code, scene)?;
        if !response.error_code.is_none() {
            self.let_kept_go(&spoken, scene);
            return Ok(());
        }
        let find = |place: Place| {
            let mut all = response.partitions.iter();
            all.find(|one| {
                one.topic == TopicRef::Id(place.topic) && one.partition == place.partition
            })
        };
        for one in spoken {
            let error = find(one.place).map(|answer| answer.acknowledge_error_code);
            self.heard_of(port, one, &sent, error, scene)?;
        }
        for answer in response.partitions.iter() {
            let TopicRef::Id(topic) = answer.topic else { continue };
            let place = Place { topic, partition: answer.partition };
            let read = places.iter().find(|(asked, _)| *asked == place);
            let is_mine = read.is_some()
                || answer.acquired_records.is_empty()
                || self.is_overtaken(scene.port.now());
            check(is_mine, "a member is given what it reads", || {
                format!("{place:?} in {}", self.group)
            })?;
            let log_start = read.map_or(0, |(_, start)| *start);
            let deleted = scene.history.topics.get(place.topic).is_none_or(|t| t.delete_asked);
            check(
                answer.error_code.is_none() || answer.error_code.is_retriable() || deleted,
                "a member of a share group can read",
                || format!("{place:?}: {}", answer.error_code),
            )?;
            self.given(port, place, &sent, log_start, answer, scene)?;
        }
        Ok(())
    }

    /// Takes what it is given of one partition.
    fn given(
        &mut self,
        port: u16,
        place: Place,
        sent: &Sent,
        log_start: i64,
        answer: &ShareFetchPartitionResponse<'_>,
        scene: &mut Scene<'_, '_>,
    ) -> Verdict {
        if answer.acquired_records.is_empty() {
            return check(answer.records.is_empty(), "no records come for nobody", || {
                format!("{place:?}: {} bytes", answer.records_bytes())
            });
        }
        if let Some(retention_ms) = self.map.name(place.topic).and_then(delete_retention_ms) {
            scene.history.compacts(place, retention_ms);
        }
        let compacted = scene.history.partition(place).records.left().is_some();
        let (seen, _) = decode_records(&answer.records, 0, None, compacted)?;
        scene.port.say(format!("{}: {place:?} {:?}", self.name(), answer.acquired_records));
        let ranges = &answer.acquired_records[..];
        let is_mine = |offset: i64| {
            ranges.iter().any(|one| one.first_offset <= offset && offset <= one.last_offset)
        };
        let mine: Vec<Seen> = seen.iter().copied().filter(|one| is_mine(one.offset)).collect();
        scene.history.shared(place, &seen, &mine)?;
        let first = ranges[0].first_offset;
        check(log_start <= first, "what was deleted stays deleted", || {
            format!("{place:?} {first} was given out though the log was cut to {log_start}")
        })?;
        let mine: BTreeSet<i64> = mine.into_iter().map(|one| one.offset).collect();
        let now = scene.port.now();
        for AcquiredRecords { first_offset, last_offset, delivery_count } in ranges {
            for offset in *first_offset..=*last_offset {
                let is_gap = !mine.contains(&offset);
                check(!is_gap || compacted, "what is given out is there", || {
                    format!("{place:?} {offset} of {ranges:?}")
                })?;
                let given = (offset, *delivery_count);
                scene.history.sharing.given(&self.group, place, given, sent, now)?;
                let Some(session) = self.sessions.get_mut(&port) else { continue };
                let held = Held { count: *delivery_count, is_gap };
                session.held.entry(place).or_default().insert(offset, held);
            }
        }
        Ok(())
    }
}

fn encode_fetch(out: &mut BytesMut, version: i16, correlation: i32, request: &ShareFetchRequest) {
    let frame = begin_frame(out);
    let mut writer = Writer::new(out);
    RequestHeader::write(&mut writer, ApiKey::ShareFetch, version, correlation, Some("sharer"));
    request.encode(version, out);
    end_frame(out, frame, 0);
}
