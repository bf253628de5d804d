//! What a member of a share group says of the records it was given.

use bytes::Bytes;
use tidemill_net::kafka::share_acknowledge::{
    AcknowledgePartition, AcknowledgeTopic, AcknowledgementBatch, FINAL_EPOCH, INITIAL_EPOCH,
    ShareAcknowledgeRequest, ShareAcknowledgeResponse, acknowledge_type,
};
use tidemill_net::kafka::{ErrorCode, encode_request};
use tidemill_runtime::edge::Instant;

use super::reading::Held;
use super::{Ask, Scene, Sharer};
use crate::checker::shares::{Said, Sent, Telling};
use crate::checker::{Place, Verdict, check};
use crate::workload::Phase;
use crate::workload::map::read;

/// What is said of one partition, as it goes to the broker.
pub(super) struct Speech {
    pub(super) place: Place,
    pub(super) batches: Vec<AcknowledgementBatch>,
    pub(super) spoken: Spoken,
}

/// What was said of one partition.
#[derive(Debug)]
pub(super) struct Spoken {
    pub(super) place: Place,
    told: Vec<Telling>,
    /// Records that are no gaps, of those that were asked for longer.
    kept: Vec<(i64, Held)>,
    /// Until then the member has all of it for certain.
    sure_until: Option<Instant>,
}

impl Speech {
    pub(super) fn renews(&self) -> bool {
        self.spoken.told.iter().any(|(_, _, said)| *said == Said::Renew)
    }
}

impl Sharer {
    /// Thinks of what to say of some of what it has of a shard.
    pub(super) fn speak(
        &mut self,
        port: u16,
        sent: &Sent,
        may_renew: bool,
        scene: &mut Scene<'_, '_>,
    ) -> Vec<Speech> {
        let settles = scene.phase == Phase::Settle;
        let renews = may_renew && 2 <= self.version;
        let Some(session) = self.sessions.get_mut(&port) else { return Vec::new() };
        let mut all = Vec::new();
        for (place, held) in &mut session.held {
            if !settles && self.random.happens(200_000) {
                continue;
            }
            let offsets: Vec<(i64, Held)> = held.iter().map(|(at, one)| (*at, *one)).collect();
            let (mut batches, mut told, mut kept) = (Vec::new(), Vec::new(), Vec::new());
            for run in offsets.chunk_by(|one, next| one.0 + 1 == next.0) {
                if !settles && self.random.happens(150_000) {
                    // Later, or never.
                    let forgets = self.random.happens(200_000);
                    for (at, _) in run.iter().filter(|_| forgets) {
                        held.remove(at);
                        session.forgotten.push((*place, *at));
                    }
                    continue;
                }
                let has_gaps = run.iter().any(|(_, one)| one.is_gap);
                let same = !has_gaps && self.random.happens(600_000);
                let mut kind = kind(&mut self.random, settles, renews);
                let mut kinds = Vec::new();
                for (offset, one) in run {
                    if !same {
                        kind = self::kind(&mut self.random, settles, renews);
                    }
                    if one.is_gap && kind == acknowledge_type::ACCEPT {
                        kind = acknowledge_type::GAP;
                    }
                    kinds.push(kind);
                    told.push((*offset, one.count, said_by(kind)));
                    held.remove(offset);
                    kept.extend((kind == acknowledge_type::RENEW).then_some((*offset, *one)));
                }
                kinds.truncate(if same { 1 } else { usize::MAX });
                batches.push(AcknowledgementBatch {
                    first_offset: run[0].0,
                    last_offset: run[run.len() - 1].0,
                    acknowledge_types: kinds,
                });
            }
            if told.is_empty() {
                continue;
            }
            let sure_until = scene.history.sharing.says(&self.group, *place, &told, sent);
            let spoken = Spoken { place: *place, told, kept, sure_until };
            all.push(Speech { place: *place, batches, spoken });
        }
        session.held.retain(|_, held| !held.is_empty());
        all
    }

    /// Speaks of what it has of a shard, for the last time in this session if it `ends`.
    pub(super) fn tell(&mut self, port: u16, ends: bool, scene: &mut Scene<'_, '_>) {
        let Some(session) = self.sessions.get(&port) else { return };
        let epoch = if ends { FINAL_EPOCH } else { session.epoch };
        let sent = scene.history.sharing.sends(session.line, scene.port.now());
        let speech = self.speak(port, &sent, !ends, scene);
        let is_renew_ack = speech.iter().any(Speech::renews);
        let mut topics: Vec<AcknowledgeTopic> = Vec::new();
        let mut spoken = Vec::new();
        for one in speech {
            let Place { topic, partition } = one.place;
            let told = AcknowledgePartition {
                partition_index: partition,
                acknowledgement_batches: one.batches,
            };
            match topics.last_mut() {
                Some(last) if last.topic_id == topic => last.partitions.push(told),
                _ => topics.push(AcknowledgeTopic { topic_id: topic, partitions: vec![told] }),
            }
            spoken.push(one.spoken);
        }
        let request = ShareAcknowledgeRequest {
            group_id: Some(self.group.clone()),
            member_id: Some(self.name()),
            share_session_epoch: epoch,
            is_renew_ack,
            topics,
        };
        if ends {
            self.let_go(port, scene);
        }
        let Some(session) = self.sessions.get_mut(&port) else { return };
        session.busy = true;
        if ends {
            // The next step begins another one.
            session.epoch = -1;
            session.places.clear();
        }
        let version = self.version;
        let ask = Ask::Tell { port, sent, spoken };
        self.lines.ask(port, Some(ask), scene.port, |out, correlation| {
            encode_request(out, version, correlation, Some("sharer"), &request);
        });
    }

    /// Whether it has ended all its sessions.
    pub(super) fn has_let_go(&self) -> bool {
        self.sessions.values().all(|session| !session.busy && session.epoch == INITIAL_EPOCH)
    }

    /// All it has of a shard others may have.
    pub(super) fn let_go(&mut self, port: u16, scene: &mut Scene<'_, '_>) {
        let Some(session) = self.sessions.get_mut(&port) else { return };
        for (place, held) in std::mem::take(&mut session.held) {
            let offsets = held.into_keys();
            offsets.for_each(|at| scene.history.sharing.lets_go(&self.group, place, at));
        }
        for (place, at) in session.forgotten.drain(..) {
            scene.history.sharing.lets_go(&self.group, place, at);
        }
    }

    /// Its session is gone: others may have what it asked to keep, too.
    pub(super) fn let_kept_go(&self, spoken: &[Spoken], scene: &mut Scene<'_, '_>) {
        for one in spoken {
            let offsets = one.kept.iter().map(|(at, _)| *at);
            offsets.for_each(|at| scene.history.sharing.lets_go(&self.group, one.place, at));
        }
    }

    /// What it said without fetching was heard.
    pub(super) fn spoken(
        &mut self,
        port: u16,
        sent: &Sent,
        spoken: Vec<Spoken>,
        frame: &Bytes,
        scene: &mut Scene<'_, '_>,
    ) -> Verdict {
        let response: ShareAcknowledgeResponse = read(self.version, frame)?;
        self.stepped(port, sent, response.error_code, scene)?;
        if !response.error_code.is_none() {
            self.let_kept_go(&spoken, scene);
            return Ok(());
        }
        for one in spoken {
            let mut topics = response.responses.iter().filter(|t| t.topic_id == one.place.topic);
            let answer = topics.find_map(|topic| {
                topic.partitions.iter().find(|p| p.partition_index == one.place.partition)
            });
            self.heard_of(port, one, sent, answer.map(|answer| answer.error_code), scene)?;
        }
        Ok(())
    }

    /// It is told whether what it said of a partition is noted.
    pub(super) fn heard_of(
        &mut self,
        port: u16,
        spoken: Spoken,
        sent: &Sent,
        answer: Option<ErrorCode>,
        scene: &mut Scene<'_, '_>,
    ) -> Verdict {
        let Spoken { place, told, kept, sure_until } = spoken;
        let group = &self.group;
        check(answer.is_some(), "all that is said is answered", || format!("{place:?}: {told:?}"))?;
        let error = answer.unwrap_or_default();
        scene.port.say(format!("{} said of {place:?} {told:?}: {error}", self.name()));
        if error.is_none() {
            scene.history.sharing.noted(group, place, &told, sent);
            // What it asked to keep it still has.
            if let Some(session) = self.sessions.get_mut(&port)
                && !kept.is_empty()
            {
                session.held.entry(place).or_default().extend(kept);
            }
            return Ok(());
        }
        // What it asked to keep it has until the session ends, or its time is over.
        if let Some(session) = self.sessions.get_mut(&port) {
            session.forgotten.extend(kept.into_iter().map(|(at, _)| (place, at)));
        }
        let deleted = scene.history.topics.get(place.topic).is_none_or(|t| t.delete_asked);
        if error == ErrorCode::InvalidRecordState && !deleted {
            let now = scene.port.now();
            return scene.history.sharing.refused(group, place, &told, sure_until, sent, now);
        }
        check(error.is_retriable() || deleted, "a member can speak of its records", || {
            format!("{place:?} in {group}: {error}")
        })
    }
}

fn said_by(kind: i8) -> Said {
    match kind {
        acknowledge_type::RELEASE => Said::Release,
        acknowledge_type::RENEW => Said::Renew,
        _ => Said::Done,
    }
}

/// What becomes of a record.
fn kind(random: &mut crate::random::Random, settles: bool, renews: bool) -> i8 {
    match random.below(100) {
        _ if settles => acknowledge_type::ACCEPT,
        0..15 => acknowledge_type::RELEASE,
        15..20 => acknowledge_type::REJECT,
        20..30 if renews => acknowledge_type::RENEW,
        _ => acknowledge_type::ACCEPT,
    }
}
