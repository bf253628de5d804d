//! A node's storage on a disk that crashes, and a model of what it has promised.
//!
//! The world drives [`Recovery`] and [`ShardStorage`] as a node would, with requests ending in any
//! order. Beside it stands a model: what was appended to each log, what of it was reported
//! durable, what was cut away. After each start, and whenever asked, the world reads every log
//! back and compares: what was durable is there byte for byte, nothing that was cut has returned,
//! and what is there beyond is a prefix of what was appended.
//!
//! Start reading at [`World::check`].

// Each test binary has this as a module of its own, and uses a part of it.
#![allow(dead_code, unreachable_pub)]

pub mod compacting;
mod model;

use std::collections::{BTreeMap, HashMap};

use bytes::{Bytes, BytesMut};
use compacting::Background;
pub use model::Model;
use tidemill_record::{
    BatchBuilder, Codec, LeaderEpoch, Limits, Offset, PartitionId, Producer, ProducerEpoch,
    ProducerId, Sequence, Timestamp, TopicId, TopicPartition, validate,
};
use tidemill_storage::error::{AppendError, ReadError};
use tidemill_storage::recovery::{Known, Recovered, Report};
use tidemill_storage::{
    AppendKind, Appended, Config, Event, Found, LogConfig, LogId, Lookup, Read, ReadId,
    RecoverError, Recovery, ShardStorage,
};

use tidemill_storage::io::{Action, Completion, FileName};

use crate::disk::{Disk, Random, Survival};

const KIB: usize = 1024;
/// After so many requests without an end in sight, something goes round in circles.
const STEPS_MAX: usize = 200_000;

/// Sizes so small that every rule about full files, rolls and pressure applies often.
pub fn small_config() -> Config {
    Config {
        window_bytes_close: 8 * KIB,
        window_bytes_max: 16 * KIB,
        journal_file_bytes: 64 * KIB as u64,
        journal_bytes_max: 256 * KIB as u64,
        replay_bytes_max: 96 * KIB as u64,
        replay_pending_bytes_max: 24 * KIB as u64,
        index_step_bytes: 16 * KIB as u64,
        flush_bytes: 8 * KIB,
        large_run_bytes: 12 * KIB,
        flush_in_flight_bytes_max: 32 * KIB,
        tail_bytes_max: 64 * KIB,
        read_bytes_max: 64 * KIB,
        allocate_bytes_min: 8 * KIB as u64,
        allocate_bytes_max: 64 * KIB as u64,
        ..Config::default()
    }
}

/// Segments of 48 KiB, so that logs roll.
pub fn small_log_config() -> LogConfig {
    LogConfig { segment_bytes: 48 * KIB as u64, retention_ms: None, ..LogConfig::default() }
}

/// Partition number `n` of the one topic.
pub fn partition(n: i32) -> TopicPartition {
    TopicPartition { topic: TopicId([0xaa; 16]), partition: PartitionId(n) }
}

/// A node's storage, its disk, and what it has promised.
pub struct World {
    pub disk: Disk,
    pub random: Random,
    pub config: Config,
    pub log_config: LogConfig,
    pub models: BTreeMap<TopicPartition, Model>,
    pub shards: Vec<ShardStorage>,
    /// Of the last start.
    pub report: Report,
    pub logs: BTreeMap<TopicPartition, (usize, LogId)>,
    reads: HashMap<(usize, ReadId), Result<Vec<Bytes>, ReadError>>,
    lookups: HashMap<(usize, ReadId), Result<Option<Found>, ReadError>>,
    incarnation: u64,
    /// Serial number of the next value, so that no two batches are equal.
    next_value: u64,
    pub now: u64,
    pub wall_ms: i64,
    /// Logs that were dropped since the last start.
    pub dropped: Vec<TopicPartition>,
    /// Somebody was told that the disk is full.
    pub no_space_told: bool,
    /// The disk may hold states that nobody wrote, with right checksums: of what is read, only
    /// batches' own checksums are to be relied on.
    pub forged: bool,
    /// The topic is not compacted any more.
    pub policy_changed: bool,
    /// The compaction under way.
    background: Option<Background>,
    /// How many new segments compaction has put in.
    pub swaps: u64,
    /// How many reads were begun and not waited for.
    pub reads_begun: usize,
}

impl World {
    /// A node that was never started, with so many partitions.
    pub fn new(seed: u64, partitions: i32) -> Self {
        Self {
            disk: Disk::new(seed).with_root_dirs(),
            random: Random(!seed),
            config: small_config(),
            log_config: small_log_config(),
            models: (0..partitions).map(|n| (partition(n), Model::default())).collect(),
            shards: Vec::new(),
            report: Report::default(),
            logs: BTreeMap::new(),
            reads: HashMap::new(),
            lookups: HashMap::new(),
            incarnation: 0,
            next_value: 0,
            now: 0,
            wall_ms: 1_700_000_000_000,
            dropped: Vec::new(),
            no_space_told: false,
            forged: false,
            policy_changed: false,
            background: None,
            swaps: 0,
            reads_begun: 0,
        }
    }

    /// The world in which the power goes now; this one goes on.
    pub fn cut(&self, survival: Survival) -> World {
        let mut disk = self.disk.clone();
        disk.crash(survival);
        World {
            disk,
            random: self.random.clone(),
            config: self.config.clone(),
            log_config: self.log_config.clone(),
            models: self.models.clone(),
            shards: Vec::new(),
            report: Report::default(),
            logs: BTreeMap::new(),
            reads: HashMap::new(),
            lookups: HashMap::new(),
            dropped: Vec::new(),
            background: None,
            ..*self
        }
    }

    /// A node that is up, with so many partitions on so many shards.
    pub fn started(seed: u64, partitions: i32, shards: u16) -> Self {
        let mut world = Self::new(seed, partitions);
        world.start(shards);
        world
    }

    // --- starting, stopping, crashing ---

    /// Recovers, starts so many shards, and checks all promises.
    pub fn start(&mut self, shards: u16) {
        self.start_unchecked(shards);
        // A crash is not damage.
        assert_eq!(self.report.damaged, []);
        self.check_after_start();
    }

    /// Recovers and starts so many shards. Panics if recovery fails.
    pub fn start_unchecked(&mut self, shards: u16) {
        self.try_start(shards).expect("recovery succeeds");
    }

    /// Lets the next start be this one, counted from the first.
    pub fn set_incarnation(&mut self, incarnation: u64) {
        self.incarnation = incarnation - 1;
    }

    /// Recovers and starts so many shards, from a disk that may hold anything.
    pub fn try_start(&mut self, shards: u16) -> Result<(), RecoverError> {
        let mut recovery = self.begin_recovery(shards);
        for _ in 0..STEPS_MAX {
            if let Some(finished) = self.recovery_step(&mut recovery) {
                self.take_over(finished?);
                return Ok(());
            }
        }
        panic!("recovery never ends");
    }

    /// Recovers for at most so many ended requests, then the power goes.
    pub fn crash_within_recovery(&mut self, shards: u16, steps: u64, survival: Survival) {
        let mut recovery = self.begin_recovery(shards);
        for _ in 0..steps {
            if self.recovery_step(&mut recovery).is_some() {
                break;
            }
        }
        drop(recovery);
        self.crash(survival);
    }

    fn begin_recovery(&mut self, shards: u16) -> Recovery {
        assert!(self.shards.is_empty(), "the node is down");
        self.incarnation += 1;
        let partitions = self.models.keys().map(|&tp| (tp, home(tp, shards))).collect::<Vec<_>>();
        let known = Known {
            compacted: self.models.keys().copied().filter(|_| !self.policy_changed).collect(),
            partitions,
            shards,
            incarnation: self.incarnation,
            ..Known::default()
        };
        Recovery::new(self.config.clone(), known)
    }

    fn recovery_step(
        &mut self,
        recovery: &mut Recovery,
    ) -> Option<Result<Recovered, RecoverError>> {
        while let Some(request) = recovery.poll_request() {
            self.disk.submit(request);
        }
        if let Some(finished) = recovery.poll_finished() {
            return Some(finished);
        }
        let completion = self.disk.complete_any().expect("recovery waits for nothing");
        recovery.handle_completion(completion);
        recovery.poll_finished()
    }

    fn take_over(&mut self, recovered: Recovered) {
        self.report = recovered.report;
        for shard in recovered.shards {
            self.shards.push(ShardStorage::new(self.config.clone(), shard));
        }
        let shards = self.shards.len() as u16;
        for &tp in self.models.keys() {
            let shard = usize::from(home(tp, shards));
            let log = self.shards[shard].create_log(tp, self.log_config.clone());
            self.logs.insert(tp, (shard, log));
        }
    }

    /// The power goes: memory is lost, and of the disk what `survival` says.
    pub fn crash(&mut self, survival: Survival) {
        self.shards.clear();
        self.logs.clear();
        self.reads.clear();
        self.lookups.clear();
        self.background = None;
        self.disk.crash(survival);
    }

    /// A clean stop.
    pub fn stop(&mut self) {
        for shard in &mut self.shards {
            shard.checkpoint_and_stop(self.now);
        }
        self.settle();
        assert!(self.shards.iter().all(ShardStorage::is_stopped), "a clean stop ends");
        self.background = None;
        self.shards.clear();
        self.logs.clear();
        self.reads.clear();
        self.lookups.clear();
    }

    // --- time and the disk ---

    /// One turn: everything new is submitted, at most `completions` requests end.
    pub fn turn(&mut self, completions: u64) {
        self.now += 100_000;
        self.end_turn();
        for _ in 0..completions {
            if !self.complete_one() {
                break;
            }
        }
    }

    /// A turn in which checkpoints take longer than everything else.
    pub fn turn_without_checkpoints(&mut self, completions: u64) {
        self.turn_with(completions, |action| match action {
            Action::Write { file, .. } => !matches!(file, FileName::Checkpoint { .. }),
            Action::Sync { .. } | Action::SyncFileSystem => false,
            _ => true,
        });
    }

    /// One turn in which only quick requests end, the oldest first.
    pub fn turn_with(&mut self, completions: u64, is_quick: fn(&Action) -> bool) {
        self.now += 100_000;
        self.end_turn();
        for _ in 0..completions {
            let mut pending = self.disk.pending().iter();
            let Some(at) = pending.position(|request| is_quick(&request.action)) else { break };
            let completion = self.disk.complete(at);
            self.hand_over(completion);
        }
    }

    /// Turns until nothing is under way and nothing more is wanted.
    pub fn settle(&mut self) {
        for _ in 0..STEPS_MAX {
            self.end_turn();
            if self.complete_one() {
                continue;
            }
            // Some work waits for time: deadlines a second away or less are due.
            let due = self.shards.iter().filter_map(ShardStorage::next_deadline).min();
            match due {
                Some(at) if at <= self.now + 1_000_000_000 => self.now = self.now.max(at) + 1,
                _ => return,
            }
            self.shards.iter_mut().for_each(|shard| shard.tick(self.now));
        }
        panic!("the storage never comes to rest");
    }

    fn end_turn(&mut self) {
        self.step_background();
        for shard in 0..self.shards.len() {
            self.shards[shard].tick(self.now);
            self.shards[shard].end_turn(self.now);
            self.take_requests(shard);
        }
        self.take_events();
    }

    /// Requests of all shards share the disk: the shard's number is kept in the id's high bits.
    fn take_requests(&mut self, shard: usize) {
        while let Some(mut request) = self.shards[shard].poll_request() {
            assert!(request.id.0 < 1 << 48);
            request.id.0 |= (shard as u64) << 48;
            self.disk.submit(request);
        }
    }

    fn complete_one(&mut self) -> bool {
        let Some(completion) = self.disk.complete_any() else { return false };
        self.hand_over(completion);
        true
    }

    /// Tells the shard that asked.
    fn hand_over(&mut self, mut completion: Completion) {
        if self.background_ended(&completion) {
            return;
        }
        let shard = (completion.id.0 >> 48) as usize;
        completion.id.0 &= (1 << 48) - 1;
        self.shards[shard].handle_completion(completion, self.now);
        self.take_requests(shard);
        self.take_events();
    }

    fn take_events(&mut self) {
        for shard in 0..self.shards.len() {
            while let Some(event) = self.shards[shard].poll_event() {
                self.handle_event(shard, event);
            }
        }
    }

    fn handle_event(&mut self, shard: usize, event: Event) {
        match event {
            Event::Durable { log, end } => self.model_of(shard, log).durable(end),
            Event::Trimmed { log, start } => self.model_of(shard, log).trimmed(start),
            Event::Truncated { log, end } => self.model_of(shard, log).truncated(end),
            Event::ReadDone { read, result } => {
                self.reads.insert((shard, read), result);
            }
            Event::Dropped { partition } => self.dropped.push(partition),
            Event::NoSpace { .. } => self.no_space_told = true,
            Event::Fenced => self.shards.iter_mut().for_each(ShardStorage::fence),
            Event::LookupDone { read, result } => {
                self.lookups.insert((shard, read), result);
            }
            Event::Admitted { .. } | Event::Damaged { .. } => {}
        }
    }

    fn model_of(&mut self, shard: usize, log: LogId) -> &mut Model {
        let tp = self.shards[shard].log(log).partition();
        self.models.get_mut(&tp).expect("every log has a model")
    }

    // --- what a broker does ---

    /// A batch like no other, of these records and about this size.
    pub fn new_batch(&mut self, records: u32, size_bytes: usize) -> BytesMut {
        self.batch_of(BatchBuilder::new(Codec::None), records, size_bytes)
    }

    /// A batch of an idempotent producer, like no other.
    pub fn numbered_batch(&mut self, producer: i64, sequence: i32, records: u32) -> BytesMut {
        let producer = Producer { id: ProducerId(producer), epoch: ProducerEpoch(0) };
        let builder = BatchBuilder::new(Codec::None).numbered(producer, Sequence(sequence));
        self.batch_of(builder, records, 50 * records as usize)
    }

    /// A batch of a transaction, like no other.
    pub fn transactional_batch(
        &mut self,
        producer: Producer,
        sequence: i32,
        records: u32,
    ) -> BytesMut {
        let builder = BatchBuilder::new(Codec::None).numbered(producer, Sequence(sequence));
        self.batch_of(builder.transactional(), records, 50 * records as usize)
    }

    fn batch_of(&mut self, mut builder: BatchBuilder, records: u32, size_bytes: usize) -> BytesMut {
        for _ in 0..records {
            self.next_value += 1;
            let mut value = self.next_value.to_be_bytes().to_vec();
            let mut random = Random(self.next_value);
            value.resize_with((size_bytes / records as usize).max(8), || random.next() as u8);
            builder.append(Timestamp(self.wall_ms), None, Some(&value));
        }
        builder.build()
    }

    /// Appends a batch and notes it in the model, if it is taken.
    pub fn append(
        &mut self,
        tp: TopicPartition,
        mut batch: BytesMut,
    ) -> Result<Appended, AppendError> {
        self.wall_ms += 1;
        let limits = Limits { batch_bytes_max: 1 << 30, control_allowed: true };
        let validated = validate(&batch, &limits).expect("a sound batch");
        let (shard, log) = self.logs[&tp];
        let epoch = LeaderEpoch(self.incarnation as i32);
        let (wall_ms, now) = (self.wall_ms, self.now);
        let sent = batch.clone();
        let appended =
            self.shards[shard].append(log, &mut batch, &validated, epoch, wall_ms, now)?;
        let model = self.models.get_mut(&tp).expect("a known partition");
        if appended.kind == AppendKind::New {
            model.appended(sent, appended.base_offset, epoch);
        }
        Ok(appended)
    }

    /// Appends a new batch, waiting for space if need be.
    pub fn append_new(&mut self, tp: TopicPartition, records: u32, size_bytes: usize) -> Appended {
        let batch = self.new_batch(records, size_bytes);
        self.append_patiently(tp, batch)
    }

    /// Appends a batch, waiting for space if need be.
    pub fn append_patiently(&mut self, tp: TopicPartition, batch: BytesMut) -> Appended {
        for _ in 0..1000 {
            match self.append(tp, batch.clone()) {
                Ok(appended) => return appended,
                Err(AppendError::SpaceNotReserved | AppendError::Closing) => self.turn(3),
                Err(error) => panic!("refused: {error:?}"),
            }
        }
        panic!("space is never made");
    }

    /// Asks for what is at `from`, and does not wait for it.
    pub fn begin_read(&mut self, tp: TopicPartition, from: Offset) {
        let (shard, log) = self.logs[&tp];
        let end = self.log(tp).end();
        let asked = self.shards[shard].read(log, from, end, u32::MAX, true);
        assert!(matches!(asked, Ok(Read::Disk(_))), "it is on disk");
        self.reads_begun += 1;
    }

    /// Why reads that were begun failed.
    pub fn reads_failed(&self) -> Vec<&ReadError> {
        self.reads.values().filter_map(|result| result.as_ref().err()).collect()
    }

    /// How many of the reads that were begun have ended.
    pub fn reads_ended(&self) -> usize {
        self.reads.len()
    }

    /// Where the durable record with the newest timestamp is, if that is known without the disk.
    pub fn newest(&mut self, tp: TopicPartition) -> Option<Offset> {
        let (shard, log) = self.logs[&tp];
        let durable_end = self.log(tp).durable_end();
        match self.shards[shard].max_timestamp(log, durable_end) {
            Ok(Lookup::Ready(found)) => found.map(|found| found.offset),
            other => panic!("it is in memory: {other:?}"),
        }
    }

    /// The first durable record that is not older than `ms`, from wherever it is.
    pub fn first_at(&mut self, tp: TopicPartition, ms: i64) -> Option<Offset> {
        let (shard, log) = self.logs[&tp];
        let durable_end = self.log(tp).durable_end();
        let asked = self.shards[shard].offset_for_timestamp(log, Timestamp(ms), durable_end);
        self.answer_to(shard, asked)
    }

    /// The durable record with the newest timestamp, from wherever it is.
    pub fn newest_anywhere(&mut self, tp: TopicPartition) -> Option<Offset> {
        let (shard, log) = self.logs[&tp];
        let durable_end = self.log(tp).durable_end();
        let asked = self.shards[shard].max_timestamp(log, durable_end);
        self.answer_to(shard, asked)
    }

    fn answer_to(&mut self, shard: usize, asked: Result<Lookup, ReadError>) -> Option<Offset> {
        let read = match asked.expect("it may be asked") {
            Lookup::Ready(found) => return found.map(|found| found.offset),
            Lookup::Disk(read) => read,
        };
        for _ in 0..STEPS_MAX {
            if let Some(result) = self.lookups.remove(&(shard, read)) {
                return result.expect("nothing is damaged").map(|found| found.offset);
            }
            self.end_turn();
            self.complete_one();
        }
        panic!("a lookup never ends");
    }

    /// Asks that everything below `before` be deleted. Whether it was taken.
    pub fn trim(&mut self, tp: TopicPartition, before: Offset) -> bool {
        let (shard, log) = self.logs[&tp];
        let taken = self.shards[shard].trim(log, before, self.now).is_ok();
        if taken {
            self.models.get_mut(&tp).expect("a known partition").trimming(before);
        }
        taken
    }

    /// Asks that everything from `to` on be cut. Whether it was taken.
    pub fn truncate(&mut self, tp: TopicPartition, to: Offset) -> bool {
        let (shard, log) = self.logs[&tp];
        let taken = self.shards[shard].truncate(log, to, self.now).is_ok();
        if taken {
            self.models.get_mut(&tp).expect("a known partition").truncating(to);
        }
        taken
    }

    /// Deletes a log.
    pub fn drop_log(&mut self, tp: TopicPartition) {
        let (shard, log) = self.logs.remove(&tp).expect("a known partition");
        self.models.remove(&tp);
        self.shards[shard].drop_log(log, self.now);
    }

    /// The storage's own view of a log.
    pub fn log(&self, tp: TopicPartition) -> &tidemill_storage::Log {
        let (shard, log) = self.logs[&tp];
        self.shards[shard].log(log)
    }

    /// The batches of a log from `from` to its durable end, or why not.
    pub fn read_all(&mut self, tp: TopicPartition, from: Offset) -> Result<Vec<u8>, ReadError> {
        let end = self.log(tp).durable_end();
        self.read_to(tp, from, end)
    }

    /// What a reader is told at `from` who sees all below `visible_end`.
    pub fn read_once(
        &mut self,
        tp: TopicPartition,
        from: Offset,
        visible_end: Offset,
    ) -> Result<Read, ReadError> {
        let (shard, log) = self.logs[&tp];
        self.shards[shard].read(log, from, visible_end, u32::MAX, true)
    }

    fn read_to(
        &mut self,
        tp: TopicPartition,
        from: Offset,
        end: Offset,
    ) -> Result<Vec<u8>, ReadError> {
        let (shard, log) = self.logs[&tp];
        let mut all: Vec<u8> = Vec::new();
        let mut next = from;
        while next < end {
            let limit_bytes = 1 + self.random.below(40_000) as u32;
            let batches = match self.shards[shard].read(log, next, end, limit_bytes, true)? {
                Read::Ready { batches, .. } => batches,
                Read::Disk(read) => self.wait_for(shard, read)?,
            };
            let before = next;
            for run in batches {
                let mut rest = &run[..];
                while !rest.is_empty() {
                    let (batch, behind) = tidemill_record::Batch::parse(rest).expect("a batch");
                    let follows = match all.is_empty() {
                        true => batch.base_offset() <= next,
                        false => batch.base_offset() == next,
                    };
                    let is_gap = || {
                        next <= batch.base_offset()
                            && self.models[&tp].may_lack(next..batch.base_offset())
                    };
                    let follows = follows || self.forged || is_gap();
                    assert!(follows, "{tp}: offsets are dense at {next}");
                    next = batch.next_offset();
                    rest = behind;
                }
                all.extend_from_slice(&run);
            }
            if next <= before && self.forged {
                break;
            }
            assert!(before < next, "{tp}: a read below the visible end returns a batch");
            assert!(next <= end || self.forged, "{tp}: a read stays below the visible end");
        }
        Ok(all)
    }

    fn wait_for(&mut self, shard: usize, read: ReadId) -> Result<Vec<Bytes>, ReadError> {
        for _ in 0..STEPS_MAX {
            if let Some(result) = self.reads.remove(&(shard, read)) {
                return result;
            }
            self.end_turn();
            self.complete_one();
        }
        panic!("a read never ends");
    }

    // --- what must hold ---

    /// After a start: what was promised is there, nothing else has come back; and what recovery
    /// kept beyond is now a promise too.
    pub fn check_after_start(&mut self) {
        for tp in self.models.keys().copied().collect::<Vec<_>>() {
            let (start, end, durable_end) = {
                let log = self.log(tp);
                (log.start(), log.end(), log.durable_end())
            };
            assert_eq!(end, durable_end, "{tp}: what recovery gives is durable");
            let model = self.models.get_mut(&tp).expect("a known partition");
            model.recovered(tp, start, end);
        }
        self.check();
    }

    /// Everything below each log's durable end is what was appended, byte for byte.
    pub fn check(&mut self) {
        for tp in self.models.keys().copied().collect::<Vec<_>>() {
            if self.models[&tp].truncating.is_some() {
                // What is being cut may be there for the first read and gone for the next.
                continue;
            }
            let durable_end = self.log(tp).durable_end();
            assert!(
                self.models[&tp].durable_end <= durable_end,
                "{tp}: an acknowledged record is lost"
            );
            let (start, found) = loop {
                let start = self.log(tp).start();
                match self.read_to(tp, start, durable_end) {
                    // A trim became durable between two reads.
                    Err(ReadError::OffsetOutOfRange { .. }) if start < self.log(tp).start() => {}
                    found => break (start, found.expect("nothing is damaged")),
                }
            };
            self.models[&tp].check_bytes(tp, start, durable_end, &found);
        }
    }
}

fn home(tp: TopicPartition, shards: u16) -> u16 {
    (tp.partition.0 as u16) % shards
}
