//! What a shard measures of itself, and how it tells.
//!
//! Each request has its [`Measured`] in its connection's slot: stamps, and what it was about, so
//! that the slowest can be named. It is stamped there and never moves. At its end the shard's own
//! [`Meter`] takes it, without atomics, locks or allocation. Whoever wants to know posts a [`Question`] from outside and is handed
//! copies; what costs time is done with them there ([`crate::admin`]).
//!
//! Start reading at `Shard::answer_question`.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::SyncSender;
use std::time::Duration;

use tidemill_net::kafka::{APIS, ApiKey};
use tidemill_perf::lateness::Lateness;
use tidemill_perf::turn::Stall;
use tidemill_perf::units;
use tidemill_perf::{
    Kind, MEASURING, Meter, MeterLimits, ShardReading, ShardSlow, Stage, Stamps, Whose, Work,
};
use tidemill_record::{PartitionId, TopicPartition};
use tidemill_replication::metadata::Image;
use tidemill_runtime::clock::TickScale;
use tidemill_runtime::edge::ShardId;

use crate::connection::ReplySlot;
use crate::limits::PARTITIONS_TOLD_MAX;
use crate::partition::{CompactionFigures, Home, Times};
use crate::placement;
use crate::shard::{Settings, Shard};

/// How often at most a shard says that its turns take too long.
const STALL_TOLD_EVERY: Duration = Duration::from_secs(1);

/// Above every number of an API that is served.
const API_NUMBERS: usize = 128;

const _: () = {
    let mut at = 0;
    while at < APIS.len() {
        assert!((APIS[at].key as usize) < API_NUMBERS);
        at += 1;
    }
};

/// Where the time of a request went, and what it was about.
#[derive(Debug)]
pub struct Measured {
    /// When it came, and its stages so far.
    pub stamps: Stamps,
    /// The first partition it names, if that exists.
    pub about: Option<TopicPartition>,
    /// Its size.
    pub size_bytes: u32,
}

impl Measured {
    /// A request of this size that begins at this stamp.
    #[inline]
    #[must_use]
    pub fn begin(stamp: u64, size_bytes: u32) -> Self {
        Self { stamps: Stamps::begin(stamp), about: None, size_bytes }
    }

    /// Its description for people.
    fn whose(&self, client_id: &str, image: &Image) -> Whose {
        let topic = self.about.and_then(|about| image.topic(about.topic));
        let partition = topic.zip(self.about).map_or(-1, |(_, about)| about.partition.0);
        let topic = topic.map_or("", |topic| &topic.name);
        Whose::new(client_id, topic, partition, self.size_bytes)
    }
}

/// What one shard keeps beside its meter.
pub struct Measures {
    /// Where the time of requests and turns went.
    pub meter: Meter,
    /// The time of this turn, for what is told to people.
    pub wall_ms: i64,
    /// How many requests there were of each API, by its number.
    requests: [u64; API_NUMBERS],
    /// When a stall was logged last, and how many were not since then.
    stall_told: u64,
    stalls_untold: u64,
}

impl Measures {
    /// Nothing was measured yet.
    #[must_use]
    pub fn new(settings: &Settings, shard: ShardId) -> Self {
        let limits = MeterLimits { stall: settings.config.stall, ..MeterLimits::default() };
        Self {
            meter: Meter::new(TickScale::measure(), shard.0, settings.shards, limits),
            wall_ms: 0,
            requests: [0; API_NUMBERS],
            stall_told: 0,
            stalls_untold: 0,
        }
    }

    /// A request asks for this.
    #[inline]
    pub fn asked_for(&mut self, api: ApiKey) {
        if MEASURING {
            self.requests[api as usize] += 1;
        }
    }

    /// A request has been answered at this stamp.
    #[inline]
    pub fn ended(&mut self, measured: &Measured, stamp: u64, client_id: &str, image: &Image) {
        let whose = || measured.whose(client_id, image);
        self.meter.request_ended(&measured.stamps, stamp, self.wall_ms, whose);
    }

    /// The same of one that has ended without an answer being due; apart, because most have one.
    #[cold]
    #[inline(never)]
    pub fn ended_silently(
        &mut self,
        measured: &Measured,
        stamp: u64,
        client_id: &str,
        image: &Image,
    ) {
        self.ended(measured, stamp, client_id, image);
    }

    /// A turn begins at this stamp.
    #[inline]
    pub fn begin_turn(&mut self, stamp: u64, times: Times) {
        self.wall_ms = times.wall_ms;
        if MEASURING {
            self.meter.begin_turn(stamp, times.wall_ms);
        }
    }

    /// A turn ends at this stamp.
    #[inline]
    pub fn end_turn(&mut self, stamp: u64, times: Times, shard: ShardId) {
        if let Some(stall) = self.meter.turn.end(stamp, times.wall_ms) {
            self.tell_stall(&stall, times, shard);
        }
    }

    /// Says what held up everybody, but not too often: a shard that always stalls has better
    /// things to do.
    #[cold]
    fn tell_stall(&mut self, stall: &Stall, times: Times, shard: ShardId) {
        let since = times.now.nanos.saturating_sub(self.stall_told);
        if self.stall_told != 0 && u128::from(since) < STALL_TOLD_EVERY.as_nanos() {
            self.stalls_untold += 1;
            return;
        }
        self.stall_told = times.now.nanos.max(1);
        let untold = std::mem::take(&mut self.stalls_untold);
        let parts = Work::ALL.iter().zip(stall.parts).filter(|(_, (ns, _))| 1000 <= *ns);
        let parts: Vec<String> = parts
            .map(|(work, (ns, items))| {
                format!("{} {} ({items})", work.name(), units::nanos(ns as f64))
            })
            .collect();
        let (turn_ms, parts) = (stall.turn_ns / 1_000_000, parts.join(", "));
        tracing::warn!(shard = shard.0, turn_ms, parts, untold, "a turn took too long");
    }
}

/// From outside the shards: what has been measured?
#[derive(Debug)]
pub struct Question {
    /// What of it.
    pub what: What,
    /// Where the answer goes; nobody may be waiting there any more.
    pub answer: SyncSender<Told>,
    /// Counts the questions that a shard has not answered yet.
    pub open: Open,
}

/// One of the questions that a shard has not answered; gone with its [`Question`].
#[derive(Debug)]
pub struct Open(Arc<AtomicUsize>);

impl Open {
    /// One more; none if there would be more than `most`.
    #[must_use]
    pub fn begin(count: &Arc<AtomicUsize>, most: usize) -> Option<Self> {
        let open = Self(Arc::clone(count));
        // Relaxed: only the number counts, nothing else is read by it.
        (count.fetch_add(1, Ordering::Relaxed) < most).then_some(open)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What is asked for, beside the shard's state, which is always told.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct What {
    /// All counts and times.
    pub reading: bool,
    /// The slowest requests and the latest stalls.
    pub slowest: bool,
    /// Partitions: so many at most ([`PARTITIONS_TOLD_MAX`]), after so many.
    pub partitions_after: Option<usize>,
}

/// What one shard tells.
#[derive(Debug)]
pub struct Told {
    /// Who it is, and how it is.
    pub state: ShardState,
    /// If asked for.
    pub reading: Option<ShardReading>,
    /// If asked for.
    pub slowest: Option<ShardSlow>,
    /// If asked for.
    pub partitions: Vec<PartitionState>,
}

/// How a shard is just now.
#[derive(Clone, Debug, Default)]
pub struct ShardState {
    /// Which.
    pub shard: u16,
    /// It has its partitions and lets clients in.
    pub serving: bool,
    /// Its data directory has failed: nothing is appended.
    pub fenced: bool,
    /// Topics of the cluster, as this shard knows it.
    pub topics: usize,
    /// Partitions whose home it is.
    pub partitions: usize,
    /// Requests that wait for something.
    pub requests_open: usize,
    /// Memory held by requests and replies.
    pub network_bytes: usize,
    /// How much of that there may be.
    pub network_bytes_max: usize,
    /// Memory held by records on their way to the disk, and by indexes.
    pub storage_bytes: usize,
    /// Batches refused because their partition remembers too many transactions.
    pub transactions_refused: u64,
    /// What compaction did.
    pub compaction: CompactionFigures,
    /// Requests since the start, by API.
    pub requests: Vec<(&'static str, u64)>,
}

/// How a partition is just now.
#[derive(Clone, Debug)]
pub struct PartitionState {
    /// The name of its topic.
    pub topic: Arc<str>,
    /// Its number.
    pub partition: i32,
    /// The first offset kept.
    pub log_start: i64,
    /// Below it consumers read.
    pub high_watermark: i64,
    /// Its size on disk.
    pub size_bytes: u64,
    /// How late its records come; none if there were none since the start.
    pub lateness: Option<Box<Lateness>>,
}

impl Shard {
    /// The time in ticks, now.
    #[inline]
    pub(crate) fn stamp(&mut self) -> u64 {
        if MEASURING {
            self.stamped = self.clock.stamp();
        }
        self.stamped
    }

    /// A stage of a request under way has ended when the clock was read last, if its client is
    /// still there.
    #[inline]
    pub(crate) fn stage_ended(&mut self, slot: ReplySlot, stage: Stage) {
        if MEASURING {
            let at = self.stamped;
            if let Some(measured) = self.measured(slot) {
                measured.stamps.end(stage, at);
            }
        }
    }

    /// What a request asks for, the first partition it is about, and when its first stages ended.
    #[inline]
    pub(crate) fn note_request<const STAGES: usize>(
        &mut self,
        slot: ReplySlot,
        kind: Kind,
        about: Option<TopicPartition>,
        ended: [(Stage, u64); STAGES],
    ) {
        if MEASURING && let Some(measured) = self.measured(slot) {
            measured.about = about;
            measured.stamps.set_kind(kind);
            for (stage, at) in ended {
                measured.stamps.end(stage, at);
            }
        }
    }

    /// What is measured of a request under way, if its client is still there.
    #[inline]
    pub(crate) fn measured(&mut self, slot: ReplySlot) -> Option<&mut Measured> {
        self.connection_mut(slot.connection)?.measured(slot.number)
    }

    /// Answers a question from outside, with copies.
    pub(crate) fn answer_question(&self, question: Question, times: Times) {
        let What { reading, slowest, partitions_after } = question.what;
        let meter = &self.measures.meter;
        let told = Told {
            state: self.state(),
            reading: reading.then(|| {
                let mut reading = meter.read(times.now.nanos);
                self.add_counts(&mut reading);
                reading
            }),
            slowest: slowest.then(|| meter.read_slowest(times.wall_ms)),
            partitions: partitions_after.map_or_else(Vec::new, |skip| self.partition_states(skip)),
        };
        // Who asked may have given up; then nobody misses the answer.
        let _ = question.answer.try_send(told);
    }

    /// Counts that are kept where they arise.
    fn add_counts(&self, reading: &mut ShardReading) {
        let traffic = &mut reading.traffic;
        traffic.connections = self.connections_open() as u64;
        traffic.batches_appended = self.home.as_ref().map_or(0, Home::batches_appended);
        (traffic.disk_bytes_written, traffic.disk_bytes_read) = self.disk.bytes_moved();
    }

    fn state(&self) -> ShardState {
        let home = self.home.as_ref();
        let counts = APIS.iter().map(|api| (api.name, self.measures.requests[api.key as usize]));
        ShardState {
            shard: self.id.0,
            serving: self.is_serving(),
            fenced: home.is_some_and(Home::is_fenced),
            topics: self.image.topics_count(),
            partitions: home.map_or(0, Home::partitions_count),
            requests_open: self.jobs.len(),
            network_bytes: self.budget.used_bytes(),
            network_bytes_max: self.settings.network_share(),
            storage_bytes: home.map_or(0, |home| home.storage.memory_bytes()),
            transactions_refused: home.map_or(0, Home::transactions_refused),
            compaction: home.map_or_else(Default::default, Home::compaction_figures),
            requests: counts.filter(|(_, count)| 0 < *count).collect(),
        }
    }

    /// Some of the partitions at home here, in the order of their topics' names.
    fn partition_states(&self, skip: usize) -> Vec<PartitionState> {
        let Some(home) = &self.home else { return Vec::new() };
        let all = self.image.topics().flat_map(|topic| {
            let numbers = 0..topic.partitions.len() as i32;
            numbers.map(move |number| {
                let id = TopicPartition { topic: topic.id, partition: PartitionId(number) };
                (id, &topic.name)
            })
        });
        let here = all.filter(|(id, _)| placement::home(*id, self.settings.shards) == self.id);
        let told = here.skip(skip).take(PARTITIONS_TOLD_MAX);
        told.filter_map(|(id, topic)| home.state(id, topic)).collect()
    }
}
