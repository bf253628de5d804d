//! All that one shard measures of itself, and the copies of it that it hands over.
//!
//! A [`Meter`] belongs to one shard: plain values, no atomics, no locks. Whoever wants to know
//! asks by message and is handed a [`ShardReading`] or [`ShardSlow`] by message; what costs time
//! (merging, deflating, JSON) happens where the asking thread is.
//!
//! Start reading at [`Meter`].

use std::time::Duration;

use tidemill_runtime::clock::TickScale;

use crate::MEASURING;
use crate::document::{
    LATENCY_SCHEMA, LatencyDocument, MeshFigures, NodeLabel, PartFigures, SLOWEST_SCHEMA,
    ShardFigures, SlowFigures, SlowestDocument, StageFigures, StallFigures,
};
use crate::histogram::{Recorder, Snapshot};
use crate::hlog::encode_histogram;
use crate::slowest::{Slow, Slowest, Whose};
use crate::stage::{Stage, Stamps};
use crate::turn::{Stall, TurnWatch, Turns, Work};

/// What a meter keeps, and from where on a turn is a stall.
#[derive(Clone, Copy, Debug)]
pub struct MeterLimits {
    /// A turn longer than this is a stall.
    pub stall: Duration,
    /// Slow requests are kept by windows of this length.
    pub window: Duration,
    /// So many of each window.
    pub slowest: usize,
}

impl Default for MeterLimits {
    fn default() -> Self {
        let (stall, window) = (Duration::from_millis(20), Duration::from_secs(60));
        Self { stall, window, slowest: 16 }
    }
}

/// Counts of what went in and out of a shard since the start.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Traffic {
    /// Connections open now.
    pub connections: u64,
    /// Bytes received from clients.
    pub bytes_in: u64,
    /// Bytes sent to clients.
    pub bytes_out: u64,
    /// Record batches appended.
    pub batches_appended: u64,
    /// Bytes written to the device.
    pub disk_bytes_written: u64,
    /// Bytes read from the device.
    pub disk_bytes_read: u64,
}

/// Messages to and from each shard, by its number.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct MeshTraffic {
    peers: Vec<(u64, u64)>,
}

impl MeshTraffic {
    /// Each shard with the messages sent to it and received from it.
    pub fn peers(&self) -> impl Iterator<Item = (u16, u64, u64)> {
        let peers = self.peers.iter().enumerate();
        peers.map(|(peer, &(sent, received))| (peer as u16, sent, received))
    }

    /// Messages were sent to a shard of this node.
    #[inline]
    pub fn sent(&mut self, peer: u16, messages: u64) {
        if let Some((sent, _)) = self.peers.get_mut(usize::from(peer)) {
            *sent += messages;
        }
    }

    /// Messages came from a shard of this node; those from outside are not counted.
    #[inline]
    pub fn received(&mut self, peer: u16, messages: u64) {
        if let Some((_, received)) = self.peers.get_mut(usize::from(peer)) {
            *received += messages;
        }
    }
}

/// All that one shard measures of itself.
#[derive(Clone, Debug)]
pub struct Meter {
    shard: u16,
    /// Where the time of requests went.
    pub recorder: Recorder,
    /// The slowest requests.
    pub slowest: Slowest<Whose>,
    /// How busy the shard is, and its stalls.
    pub turn: TurnWatch,
    /// What went in and out.
    pub traffic: Traffic,
    /// What it said to other shards, and they to it.
    pub mesh: MeshTraffic,
}

/// A copy of a shard's counts since the start, to be handed over.
#[derive(Clone, Debug)]
pub struct ShardReading {
    /// Whose.
    pub shard: u16,
    /// Monotonic nanoseconds at which it was taken.
    pub taken_ns: u64,
    /// Its turns.
    pub turns: Turns,
    /// What went in and out.
    pub traffic: Traffic,
    /// What went through the mesh.
    pub mesh: MeshTraffic,
    /// Where the time of requests went.
    pub latency: Snapshot,
}

/// A copy of a shard's slowest requests and latest stalls, to be handed over.
#[derive(Clone, Debug)]
pub struct ShardSlow {
    /// Whose.
    pub shard: u16,
    scale: TickScale,
    window_ms: i64,
    requests: Vec<Slow<Whose>>,
    stalls: Vec<Stall>,
}

impl Meter {
    /// Nothing was measured yet by this one of so many shards.
    #[must_use]
    pub fn new(scale: TickScale, shard: u16, shards: u16, limits: MeterLimits) -> Self {
        let window_ms = i64::try_from(limits.window.as_millis()).unwrap_or(i64::MAX).max(1);
        Self {
            shard,
            recorder: Recorder::new(scale, u64::from(shard)),
            slowest: Slowest::new(limits.slowest, window_ms),
            turn: TurnWatch::new(scale, limits.stall),
            traffic: Traffic::default(),
            mesh: MeshTraffic { peers: vec![(0, 0); usize::from(shards)] },
        }
    }

    /// A turn begins at this stamp and time.
    #[inline]
    pub fn begin_turn(&mut self, stamp: u64, wall_ms: i64) {
        self.turn.begin(stamp);
        self.slowest.time_is(wall_ms);
    }

    /// A request has ended, at this stamp and in the turn of this time; `describe` is asked for
    /// only if it is among the slowest.
    #[inline]
    pub fn request_ended(
        &mut self,
        stamps: &Stamps,
        ended: u64,
        wall_ms: i64,
        describe: impl FnOnce() -> Whose,
    ) {
        if !MEASURING {
            return;
        }
        let total_ticks = stamps.total_until(ended);
        self.recorder.record(total_ticks, stamps);
        self.slowest.offer(total_ticks, stamps, wall_ms, describe);
    }

    /// A copy of all counts, to be handed over. Some 50 µs with the stages of one kind met.
    #[must_use]
    pub fn read(&self, now_ns: u64) -> ShardReading {
        ShardReading {
            shard: self.shard,
            taken_ns: now_ns,
            turns: self.turn.read(),
            traffic: self.traffic,
            mesh: self.mesh.clone(),
            latency: self.recorder.snapshot(),
        }
    }

    /// A copy of the slowest requests, as of `wall_ms`, and the latest stalls, to be handed over.
    #[must_use]
    pub fn read_slowest(&self, wall_ms: i64) -> ShardSlow {
        ShardSlow {
            shard: self.shard,
            scale: self.recorder.scale(),
            window_ms: self.slowest.window_ms(),
            requests: self.slowest.read(wall_ms),
            stalls: self.turn.stalls(),
        }
    }
}

impl LatencyDocument {
    /// The document of these shards, read just now.
    #[must_use]
    pub fn new(
        node: NodeLabel,
        started_unix_ms: u64,
        taken_unix_ms: u64,
        shards: &[ShardReading],
    ) -> Self {
        let schema = LATENCY_SCHEMA.to_owned();
        let shards = shards.iter().map(figures).collect();
        Self { schema, node, started_unix_ms, taken_unix_ms, shards }
    }
}

fn figures(reading: &ShardReading) -> ShardFigures {
    let ShardReading { traffic, turns, .. } = reading;
    let peers = reading.mesh.peers.iter().enumerate();
    let others = peers.filter(|(peer, _)| *peer != usize::from(reading.shard));
    let mesh =
        others.map(|(peer, &(sent, received))| MeshFigures { peer: peer as u16, sent, received });
    let stages = reading.latency.iter().map(|(kind, stage, counts)| StageFigures {
        kind: kind.name().to_owned(),
        stage: stage.to_owned(),
        count: counts.len(),
        sum_ns: counts.sum_nanos(),
        histogram: encode_histogram(&counts.histogram()),
    });
    ShardFigures {
        shard: reading.shard,
        taken_ns: reading.taken_ns,
        turns: turns.turns,
        busy_ns: turns.busy_ns,
        longest_turn_ns: turns.longest_ns,
        stalls: turns.stalls,
        connections: traffic.connections,
        bytes_in: traffic.bytes_in,
        bytes_out: traffic.bytes_out,
        batches_appended: traffic.batches_appended,
        disk_bytes_written: traffic.disk_bytes_written,
        disk_bytes_read: traffic.disk_bytes_read,
        mesh: mesh.collect(),
        stages: stages.collect(),
    }
}

impl SlowestDocument {
    /// The document of these shards.
    #[must_use]
    pub fn new(node: NodeLabel, shards: &[ShardSlow]) -> Self {
        let mut requests: Vec<_> = shards.iter().flat_map(slow_figures).collect();
        // As a shard ranks them: without what a fetch waited for records.
        let waited = |slow: &SlowFigures| {
            slow.stages.iter().filter(|stage| stage.name == Stage::Wait.name()).map(|s| s.ns).sum()
        };
        let own_ns = |slow: &SlowFigures| slow.total_ns.saturating_sub(waited(slow));
        requests.sort_by_key(|slow| std::cmp::Reverse(own_ns(slow)));
        let mut stalls: Vec<_> = shards.iter().flat_map(stall_figures).collect();
        stalls.sort_by_key(|stall| stall.ended_unix_ms);
        let window_ms = shards.first().map_or(0, |shard| shard.window_ms as u64);
        Self { schema: SLOWEST_SCHEMA.to_owned(), node, window_ms, requests, stalls }
    }
}

fn slow_figures(shard: &ShardSlow) -> impl Iterator<Item = SlowFigures> {
    shard.requests.iter().map(|slow| {
        let stages = slow.stamps.spent().map(|(place, ticks)| PartFigures {
            name: Stage::ALL[place].name().to_owned(),
            ns: shard.scale.nanos(ticks),
            items: 0,
        });
        SlowFigures {
            shard: shard.shard,
            ended_unix_ms: slow.ended_unix_ms.max(0) as u64,
            kind: slow.stamps.kind().name().to_owned(),
            client_id: slow.whose.client_id.clone(),
            topic: slow.whose.topic.clone(),
            partition: slow.whose.partition,
            size_bytes: slow.whose.size_bytes,
            total_ns: shard.scale.nanos(slow.total_ticks),
            stages: stages.collect(),
        }
    })
}

fn stall_figures(shard: &ShardSlow) -> impl Iterator<Item = StallFigures> {
    shard.stalls.iter().map(|stall| {
        let parts = Work::ALL.iter().zip(stall.parts).filter(|(_, (ns, _))| 0 < *ns);
        let parts = parts.map(|(work, (ns, items))| PartFigures {
            name: work.name().to_owned(),
            ns,
            items,
        });
        StallFigures {
            shard: shard.shard,
            ended_unix_ms: stall.ended_unix_ms.max(0) as u64,
            turn_ns: stall.turn_ns,
            parts: parts.collect(),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hlog::decode_histogram;
    use crate::stage::Kind;

    /// More than are kept of the slowest.
    const REQUESTS: u64 = 160;

    fn meter(shard: u16) -> Meter {
        let mut meter = Meter::new(TickScale::measure(), shard, 2, MeterLimits::default());
        meter.turn.begin(0);
        meter.mesh.sent(1 - shard, 3);
        meter.mesh.received(u16::MAX, 1);
        for i in 1..=REQUESTS {
            let mut stamps = Stamps::begin(0);
            stamps.set_kind(Kind::Produce);
            let ended = 160_000_000 * i;
            stamps.end(Stage::Append, 16_000 * i);
            stamps.end(Stage::Durable, ended);
            let whose = || Whose::new("client", "topic", i as i32, 100);
            meter.request_ended(&stamps, ended, 1000, whose);
        }
        meter.turn.end(1_000_000_000, 2000);
        meter
    }

    /// What a shard measured is what a reader of the JSON document finds.
    #[test]
    fn the_document_says_what_was_measured() {
        let readings = [meter(0).read(5), meter(1).read(6)];
        let document = LatencyDocument::new(NodeLabel::default(), 1, 2, &readings);
        let json = serde_json::to_string(&document).unwrap();
        let read: LatencyDocument = serde_json::from_str(&json).unwrap();
        assert_eq!(read, document);
        let shard = &read.shards[1];
        assert_eq!(shard.mesh, [MeshFigures { peer: 0, sent: 3, received: 0 }]);
        assert_eq!((shard.turns, shard.stalls), (1, 1));
        let tags: Vec<_> = shard.stages.iter().map(StageFigures::tag).collect();
        let expected = ["append", "durable", "sampled", "total"].map(|s| format!("produce.{s}"));
        assert_eq!(tags, expected);
        for (stage, count) in [(1, REQUESTS / 16), (2, REQUESTS / 16), (3, REQUESTS)] {
            let histogram = decode_histogram(&shard.stages[stage].histogram).unwrap();
            assert_eq!((histogram.len(), shard.stages[stage].count), (count, count));
        }
    }

    /// The slowest of all shards are told, the slowest first, with whose they were and all their
    /// stages, whether these were sampled or not; so are stalls.
    #[test]
    fn the_slowest_are_told_with_their_stages() {
        let shards = [meter(0).read_slowest(2000), meter(1).read_slowest(2000)];
        let document = SlowestDocument::new(NodeLabel::default(), &shards);
        let told: Vec<u64> = document.requests.iter().map(|slow| slow.partition as u64).collect();
        let slowest = (REQUESTS - 15..=REQUESTS).rev().flat_map(|request| [request, request]);
        assert_eq!(told, slowest.collect::<Vec<_>>());
        for slow in &document.requests {
            assert_eq!(slow.client_id, "client");
            let names: Vec<_> = slow.stages.iter().map(|stage| stage.name.as_str()).collect();
            assert_eq!(names, ["append", "durable"]);
            let spent: u64 = slow.stages.iter().map(|stage| stage.ns).sum();
            assert!(spent.abs_diff(slow.total_ns) <= 2, "{slow:?}");
        }
        assert_eq!(document.stalls.len(), 2);
        assert_eq!(document.stalls[0].parts[0].name, "rest");
    }
}
