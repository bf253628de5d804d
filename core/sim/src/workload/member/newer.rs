//! What members of groups of the newer kind do (KIP-848): a heartbeat says what they want and read,
//! and its answer what they may read.
//!
//! A member lets go of a partition as soon as it is told to, and says so with its next heartbeat. It
//! commits nothing for a partition before it has found what is committed there. If an answer is
//! lost, it says everything again, under the epoch it knows.

use std::collections::BTreeSet;

use bytes::Bytes;
use tidemill_net::kafka::ErrorCode;
use tidemill_net::kafka::consumer_group_heartbeat::{
    ConsumerGroupHeartbeatRequest, ConsumerGroupHeartbeatResponse, JOIN_EPOCH, LEAVE_EPOCH,
    OWN_MEMBER_ID_FROM, STATIC_LEAVE_EPOCH,
};
use tidemill_net::kafka::topic_partitions::TopicIdPartitions;

use super::{Ask, HEARTBEAT, Member, REBALANCE, Step, read};
use tidemill_runtime::edge::Instant;

use crate::checker::{Place, Verdict, check};
use crate::random::Random;
use crate::workload::{Scene, passed};

/// What a member of the newer kind keeps.
#[derive(Debug)]
pub(super) struct Newer {
    /// Of its heartbeats.
    version: i16,
    assignor: Option<&'static str>,
    /// A heartbeat is not answered yet, and when the last one was sent.
    beats: bool,
    beaten_at: Option<Instant>,
    /// The next heartbeat says everything.
    says_all: bool,
    /// The coordinator knows what it reads.
    is_known: bool,
    /// What it may read, and does not know the committed offset of.
    pub(super) fresh: BTreeSet<Place>,
}

impl Newer {
    pub(super) fn new(random: &mut Random) -> Self {
        Self {
            version: random.between(0, 1) as i16,
            assignor: *random.pick(&[None, Some("uniform"), Some("range")]),
            beats: false,
            beaten_at: None,
            says_all: true,
            is_known: false,
            fresh: BTreeSet::new(),
        }
    }

    /// It reads nothing, and does not know what it may read.
    pub(super) fn forget_share(&mut self) {
        self.fresh.clear();
        self.says_all = true;
    }
}

impl Member {
    /// Whether it is to find out what is committed of a partition.
    pub(super) fn is_fresh(&self, place: &Place) -> bool {
        self.newer.as_ref().is_none_or(|newer| newer.fresh.contains(place))
    }

    /// Its next step, when it knows the coordinator.
    pub(super) fn go_on(&mut self, scene: &mut Scene<'_, '_>) {
        let now = scene.port.now();
        let beats = self.newer.as_ref().is_some_and(|newer| newer.beats);
        if !beats && passed(now, self.heartbeat_at, HEARTBEAT) {
            self.heartbeat_at = Some(now);
            return self.beat(scene);
        }
        match self.step {
            // One after the other: so it is never told that it has lost what it asks about.
            Step::Fetching if !beats && self.under_way == 0 => self.fetch(scene),
            Step::Holding => self.hold(scene),
            _ => {}
        }
    }

    fn beat(&mut self, scene: &mut Scene<'_, '_>) {
        let topics = self.topics();
        let Some(newer) = &mut self.newer else { return };
        if topics.is_empty() {
            // There is nothing to read, and a member must say what it wants.
            self.step = Step::Holding;
            return;
        }
        if self.id.is_empty() && OWN_MEMBER_ID_FROM <= newer.version {
            self.id = format!("own-{:016x}", self.random.draw());
        }
        let joins = self.generation == JOIN_EPOCH;
        let all = joins || newer.says_all || self.random.happens(100_000);
        (newer.beats, newer.beaten_at) = (true, Some(scene.port.now()));
        let owned = (all || !newer.is_known).then(|| partitions(self.holds.iter()));
        let (version, assignor) = (newer.version, newer.assignor);
        let request = ConsumerGroupHeartbeatRequest {
            group_id: self.group.clone(),
            member_id: self.id.clone(),
            member_epoch: self.generation,
            instance_id: self.instance.clone(),
            rebalance_timeout_ms: if all { REBALANCE.as_millis() as i32 } else { -1 },
            subscribed_topic_names: all.then_some(topics),
            server_assignor: assignor.map(str::to_owned),
            topic_partitions: owned,
            ..ConsumerGroupHeartbeatRequest::default()
        };
        let group = scene.history.group(&self.group);
        let floor = joins.then(|| group.generation());
        if joins {
            self.era = group.era();
        }
        self.ask(Ask::Beat(floor), version, &request, scene);
    }

    /// It goes; a static member perhaps only for a while.
    pub(super) fn beat_last(&mut self, scene: &mut Scene<'_, '_>) {
        let Some(newer) = &self.newer else { return };
        let version = newer.version;
        let returns = self.instance.is_some() && self.random.coin();
        let request = ConsumerGroupHeartbeatRequest {
            group_id: self.group.clone(),
            member_id: self.id.clone(),
            member_epoch: if returns { STATIC_LEAVE_EPOCH } else { LEAVE_EPOCH },
            instance_id: self.instance.clone(),
            ..ConsumerGroupHeartbeatRequest::default()
        };
        self.holds.clear();
        self.busy = true;
        self.ask(Ask::LastBeat, version, &request, scene);
    }

    /// The answer to a heartbeat will not come.
    pub(super) fn beat_lost(&mut self) {
        let Some(newer) = &mut self.newer else { return };
        (newer.beats, newer.says_all, newer.is_known) = (false, true, false);
    }

    /// A heartbeat is answered; who joins is told an epoch no earlier than the `floor` that others
    /// knew when it asked.
    pub(super) fn beaten(
        &mut self,
        floor: Option<i32>,
        frame: &Bytes,
        scene: &mut Scene<'_, '_>,
    ) -> Verdict {
        let Some(newer) = &mut self.newer else { return Ok(()) };
        let response: ConsumerGroupHeartbeatResponse = read(newer.version, frame)?;
        if self.step == Step::Looking {
            self.beat_lost();
            return Ok(());
        }
        newer.beats = false;
        if !response.error_code.is_none() {
            // Told this, clients end for good.
            let is_let_in = floor.is_none() || response.error_code != ErrorCode::GroupIdNotFound;
            check(is_let_in, "who joins a group is let in", || {
                format!("{} of {}: {:?}", self.id, self.group, response.error_message)
            })?;
            return self.told(response.error_code);
        }
        (newer.says_all, newer.is_known) = (false, true);
        self.lived_at = newer.beaten_at;
        if self.id.is_empty() {
            self.id = response.member_id.unwrap_or_default();
        }
        let (before, epoch) = (self.generation, response.member_epoch);
        check(before <= epoch, "the epoch of a member never goes back", || {
            format!("{} of {}: {before}, then {epoch}", self.id, self.group)
        })?;
        self.generation = epoch;
        if let Some(floor) = floor {
            scene.history.group(&self.group).joined(epoch, floor, self.era)?;
        }
        match response.assignment {
            Some(share) => self.take_share(&share.topic_partitions, scene),
            None => {
                // It has begun anew, and is to be told everything.
                newer.says_all = self.step == Step::Joining;
                Ok(())
            }
        }
    }

    fn take_share(&mut self, told: &[TopicIdPartitions], scene: &mut Scene<'_, '_>) -> Verdict {
        let all = told.iter().flat_map(|topic| {
            let places = topic.partitions.iter();
            places.map(|partition| Place { topic: topic.topic_id, partition: *partition })
        });
        // A topic that it does not know yet, or not any more, it leaves alone.
        let share: BTreeSet<Place> =
            all.filter(|place| self.map.name(place.topic).is_some()).collect();
        let given: Vec<Place> = share.iter().copied().collect();
        self.given(true, &given, scene)?;

        let Some(newer) = &mut self.newer else { return Ok(()) };
        newer.is_known = false;
        self.holds.retain(|place| share.contains(place));
        newer.fresh.retain(|place| share.contains(place));
        let fresh = share.into_iter().filter(|place| !self.holds.contains(place));
        let fresh: Vec<Place> = fresh.collect();
        self.holds.extend(&fresh);
        newer.fresh.extend(fresh);
        self.step = if newer.fresh.is_empty() { Step::Holding } else { Step::Fetching };
        Ok(())
    }
}

fn partitions<'a>(places: impl Iterator<Item = &'a Place>) -> Vec<TopicIdPartitions> {
    let mut topics: Vec<TopicIdPartitions> = Vec::new();
    for Place { topic, partition } in places {
        match topics.last_mut() {
            Some(last) if last.topic_id == *topic => last.partitions.push(*partition),
            _ => topics.push(TopicIdPartitions { topic_id: *topic, partitions: vec![*partition] }),
        }
    }
    topics
}
