//! The coordinators at home on a shard: how they come to know their things, and how what they
//! decide gets to the disk.
//!
//! There is one for each partition of an internal topic whose home is this shard. It reads the
//! whole partition before it answers; until then clients are told that it is loading. What it
//! decides is appended to the partition like any other record, and acknowledged like any other.
//!
//! Everything here is for any kind of coordinator: [`AtHome`] says where a shard keeps those of a
//! kind and how they are wrapped into its jobs and answers.
//!
//! Start reading at `Shard::ask`.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use tidemill_net::kafka::ErrorCode;
use tidemill_record::{Batch, Contents, Offset, PartitionId, TopicId, TopicPartition};
use tidemill_replication::metadata::Image;
use tidemill_runtime::edge::Instant;

use super::linger::Lingering;
use super::{Append, Coordinate, DecodeError, LogRecord, Logged, Now, partition_of};
use crate::api::Job;
use crate::job::{JobId, ReplyTo};
use crate::limits::{OFFSETS_BATCH_BYTES_MAX, OFFSETS_LOAD_BYTES};
use crate::message::{Acks, Answer, Call, ReadCall};
use crate::partition::Times;
use crate::placement;
use crate::shard::Shard;

/// How often a partition that cannot be read is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// A kind of coordinator that shards have at home.
pub trait AtHome: Coordinate {
    /// The topic they are kept in.
    const TOPIC: &'static str;
    /// What they keep.
    const THINGS: &'static str;
    /// The most memory that those of one shard take; beyond it nothing new is kept.
    const BYTES_MAX: usize;

    /// Those of a shard, and the topics there are.
    fn of(shard: &mut Shard) -> (&mut Coordinators<Self>, &Image);

    /// One that knows nothing yet.
    fn new(shard: &mut Shard) -> Logged<Self>;

    /// How long what may wait for others to be appended with it does so at most.
    fn linger(_shard: &Shard) -> Duration {
        Duration::ZERO
    }

    /// A job of the shard's own that does this for them.
    fn job(job: LogJob) -> Job;

    /// The answer to who has asked.
    fn answer(reply: Self::Reply) -> Answer;

    /// What it has decided beside replies and records is done, after these went out.
    fn step_on(_shard: &mut Shard, _partition: TopicPartition, _times: Times) {}
}

/// What a job of the shard's own does for its coordinators.
#[derive(Clone, Copy, Debug)]
pub enum LogJob {
    /// Reads the partition that is being loaded.
    Load,
    /// Appends a coordinator's batch.
    Append {
        /// Whose.
        partition: TopicPartition,
        /// The coordinator's name for it.
        number: u64,
    },
    /// Drops the beginning of a coordinator's log; if it cannot, the next time it can.
    Trim,
}

/// The coordinators of one kind at home on one shard.
pub struct Coordinators<C: Coordinate> {
    /// What they are kept in, once it was made.
    topic: Option<TopicId>,
    all: BTreeMap<TopicPartition, Stage<C>>,
    /// Those whose partition is still to be read, one after the other.
    to_load: VecDeque<TopicPartition>,
    loading: Option<Loading>,
    /// What was read since nothing was left to read.
    recalled: Recalled,
    /// Those that may have something to say or to write.
    touched: BTreeSet<TopicPartition>,
    /// Those that wait for others before they append.
    lingering: Lingering,
    /// When the first of them wants to know the time.
    deadline: Option<Instant>,
    /// What all of them take in memory.
    bytes: usize,
}

enum Stage<C: Coordinate> {
    Loading(Logged<C>),
    Ready(Logged<C>),
}

/// What was found in the partitions that were read.
#[derive(Default)]
struct Recalled {
    partitions: u32,
    known: usize,
    records: u64,
}

/// A partition that is being read.
struct Loading {
    partition: TopicPartition,
    next: Offset,
    records: u64,
    bytes: usize,
    told: bool,
}

impl<C: Coordinate> Default for Coordinators<C> {
    fn default() -> Self {
        Self {
            topic: None,
            all: BTreeMap::new(),
            to_load: VecDeque::new(),
            loading: None,
            recalled: Recalled::default(),
            touched: BTreeSet::new(),
            lingering: Lingering::default(),
            deadline: None,
            bytes: 0,
        }
    }
}

impl<C: Coordinate> Coordinators<C> {
    /// Whether a topic belongs to them.
    #[inline]
    pub fn are_kept_in(&self, topic: TopicId) -> bool {
        self.topic == Some(topic)
    }

    /// When `Shard::tick_coordinators` is wanted.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// The coordinator of a partition, if it has read that.
    pub fn ready(&mut self, partition: TopicPartition) -> Option<&mut Logged<C>> {
        match self.all.get_mut(&partition) {
            Some(Stage::Ready(logged)) => Some(logged),
            Some(Stage::Loading(_)) | None => None,
        }
    }

    /// The coordinator of a partition may have something to say or to write.
    pub fn touch(&mut self, partition: TopicPartition) {
        self.touched.insert(partition);
    }

    /// Tells something to all that have read their partitions.
    pub fn tell_all(&mut self, mut tell: impl FnMut(&mut Logged<C>)) {
        for (partition, stage) in &mut self.all {
            if let Stage::Ready(logged) = stage {
                tell(logged);
                self.touched.insert(*partition);
            }
        }
    }

    /// Who appends now, of those that were touched and those that linger.
    fn take_due(
        &mut self,
        touched: &BTreeSet<TopicPartition>,
        now: Instant,
        linger: Duration,
    ) -> BTreeSet<TopicPartition> {
        for partition in touched {
            if let Some(Stage::Ready(logged)) = self.all.get_mut(partition) {
                self.lingering.add(*partition, logged.haste());
            }
        }
        self.lingering.take_due(now, linger)
    }

    /// Counts anew what is due and what is held.
    fn count(&mut self, linger: Duration) {
        let ready = self.all.values().filter_map(|stage| match stage {
            Stage::Ready(logged) => Some(logged),
            Stage::Loading(_) => None,
        });
        let (mut bytes, mut deadline) = (0, self.lingering.deadline(linger));
        for logged in ready {
            bytes += logged.bytes();
            deadline = deadline.into_iter().chain(logged.next_deadline()).min();
        }
        (self.bytes, self.deadline) = (bytes, deadline);
    }

    /// Lets what was read of the partition that is being loaded have happened.
    fn replay(&mut self, runs: &[bytes::Bytes]) -> Result<(), DecodeError> {
        let Some(loading) = &mut self.loading else { return Ok(()) };
        let stage = self.all.get_mut(&loading.partition);
        let Some(Stage::Loading(logged)) = stage else { return Ok(()) };
        for run in runs {
            loading.bytes += run.len();
            let mut rest = &run[..];
            while !rest.is_empty() {
                let (batch, after) = Batch::parse(rest).map_err(|_| DecodeError::DamagedBatch)?;
                let contents = Contents::open(&batch, OFFSETS_BATCH_BYTES_MAX as usize);
                let contents = contents.map_err(|_| DecodeError::DamagedBatch)?;
                for record in contents.records() {
                    let record = record.map_err(|_| DecodeError::DamagedBatch)?;
                    let key = record.key.ok_or(DecodeError::DamagedBatch)?;
                    logged.replay(C::Record::decode(key, record.value)?);
                    loading.records += 1;
                }
                loading.next = batch.next_offset();
                rest = after;
            }
        }
        Ok(())
    }
}

impl Shard {
    /// Whether a topic belongs to coordinators of any kind, so that clients change nothing in it.
    #[inline]
    pub(crate) fn is_of_coordinators(&self, topic: TopicId) -> bool {
        self.groups.coordinators.are_kept_in(topic)
            || self.transactions.coordinators.are_kept_in(topic)
            || self.shares.log.are_kept_in(topic)
    }

    /// The partition whose coordinator a name belongs to; none before the first name was looked
    /// for.
    pub(crate) fn partition_of<C: AtHome>(&self, name: &str) -> Option<TopicPartition> {
        let topic = self.image.topic_named(C::TOPIC)?;
        let number = partition_of(name, topic.partitions.len() as i32);
        Some(TopicPartition { topic: topic.id, partition: PartitionId(number) })
    }

    /// All partitions that coordinators of a kind keep their things in.
    pub(crate) fn partitions_of<C: AtHome>(&self) -> Vec<TopicPartition> {
        let topic = self.image.topic_named(C::TOPIC);
        let all = topic.into_iter().flat_map(|topic| {
            let numbers = 0..topic.partitions.len() as i32;
            numbers.map(|number| TopicPartition { topic: topic.id, partition: PartitionId(number) })
        });
        all.collect()
    }

    /// Asks the coordinator of a partition at home here.
    pub(crate) fn ask<C: AtHome>(
        &mut self,
        partition: TopicPartition,
        request: C::Request,
        reply_to: ReplyTo,
        times: Times,
    ) {
        let (coordinators, image) = C::of(self);
        let has_room = coordinators.bytes < C::BYTES_MAX;
        let refused = match coordinators.all.get_mut(&partition) {
            Some(Stage::Ready(logged)) => {
                logged.request(request, reply_to, has_room, Now { times, image });
                coordinators.touched.insert(partition);
                return;
            }
            Some(Stage::Loading(_)) => ErrorCode::CoordinatorLoadInProgress,
            None => ErrorCode::NotCoordinator,
        };
        let home = self.home.as_mut().expect("clients are served after adoption");
        home.answer(reply_to, C::answer(C::refusal(refused)));
    }

    // Coming and going.

    /// Takes up the coordinators of all partitions that are at home here and were not yet.
    pub(crate) fn take_up_all<C: AtHome>(&mut self, times: Times) {
        C::of(self).0.topic = self.image.topic_named(C::TOPIC).map(|topic| topic.id);
        for partition in self.partitions_of::<C>() {
            let is_here = placement::home(partition, self.settings.shards) == self.id;
            if is_here && !C::of(self).0.all.contains_key(&partition) {
                let stage = Stage::Loading(C::new(self));
                let (coordinators, _) = C::of(self);
                coordinators.all.insert(partition, stage);
                coordinators.to_load.push_back(partition);
            }
        }
        self.load_next::<C>(times);
    }

    /// The node stops: all who wait for others are told to look for the coordinator again.
    pub(crate) fn close_coordinators<C: AtHome>(&mut self) {
        C::of(self).0.tell_all(|logged| logged.close(ErrorCode::NotCoordinator));
    }

    // Loading.

    fn load_next<C: AtHome>(&mut self, times: Times) {
        while C::of(self).0.loading.is_none() {
            let Some(partition) = C::of(self).0.to_load.pop_front() else {
                return self.tell_recalled::<C>();
            };
            let home = self.home.as_ref().expect("coordinators come after adoption");
            let Some((start, _)) = home.bounds(partition) else { continue };
            let loading = Loading { partition, next: start, records: 0, bytes: 0, told: false };
            C::of(self).0.loading = Some(loading);
            self.load_on::<C>(times);
        }
    }

    /// Says once what all partitions together have held, if they held anything.
    fn tell_recalled<C: AtHome>(&mut self) {
        let recalled = std::mem::take(&mut C::of(self).0.recalled);
        if 0 < recalled.partitions {
            let Recalled { partitions, known, records } = recalled;
            let shard = self.id.0;
            tracing::info!(shard, partitions, known, records, "{} are known again", C::THINGS);
        }
    }

    /// Reads on, or ends if all is read.
    fn load_on<C: AtHome>(&mut self, times: Times) {
        let Some(loading) = &C::of(self).0.loading else { return };
        let (partition, from) = (loading.partition, loading.next);
        let home = self.home.as_ref().expect("coordinators come after adoption");
        let Some((_, end)) = home.bounds(partition) else {
            let (coordinators, _) = C::of(self);
            coordinators.all.remove(&partition);
            coordinators.loading = None;
            return self.load_next::<C>(times);
        };
        if end <= from {
            return self.loaded::<C>(times);
        }
        let job = self.jobs.insert(C::job(LogJob::Load));
        let read = ReadCall {
            from,
            limit_bytes: OFFSETS_LOAD_BYTES,
            min_one: true,
            read_committed: false,
            current_leader_epoch: None,
            last_fetched_epoch: None,
        };
        self.call(job, [(0, partition, Call::Read(read))], times);
    }

    fn loaded<C: AtHome>(&mut self, times: Times) {
        let (coordinators, image) = C::of(self);
        let Some(Loading { partition, records, bytes, .. }) = coordinators.loading.take() else {
            return;
        };
        if let Some(Stage::Loading(mut logged)) = coordinators.all.remove(&partition) {
            logged.loaded(bytes, Now { times, image });
            if 0 < records {
                let recalled = &mut coordinators.recalled;
                recalled.partitions += 1;
                recalled.known += logged.count();
                recalled.records += records;
            }
            coordinators.all.insert(partition, Stage::Ready(logged));
            coordinators.touched.insert(partition);
        }
        self.load_next::<C>(times);
    }

    fn load_answered<C: AtHome>(&mut self, job: JobId, answer: Answer, times: Times) {
        let refusal = match answer {
            Answer::Read(read) => match C::of(self).0.replay(&read.batches) {
                Ok(()) => {
                    self.jobs.remove(job);
                    return self.load_on::<C>(times);
                }
                Err(error) => error.to_string(),
            },
            Answer::Refused { error, .. } => error.to_string(),
            other => unreachable!("a read is answered as such, not with {other:?}"),
        };
        let Some(loading) = &mut C::of(self).0.loading else { return };
        if !loading.told {
            loading.told = true;
            let (partition, from) = (loading.partition.partition.0, loading.next.0);
            let things = C::THINGS;
            tracing::error!(partition, from, refusal, "{things} cannot be read; it is tried again");
        }
        self.jobs.set_deadline(job, times.now.after(RETRY));
    }

    /// The time to try again has come.
    pub(crate) fn log_job_expired<C: AtHome>(&mut self, id: JobId, times: Times) {
        self.jobs.remove(id);
        self.load_on::<C>(times);
    }

    // Writing.

    /// An answer for a job of the coordinators' own.
    pub(crate) fn log_job_answered<C: AtHome>(
        &mut self,
        id: JobId,
        job: LogJob,
        answer: Answer,
        times: Times,
    ) {
        let (partition, number) = match job {
            LogJob::Load => return self.load_answered::<C>(id, answer, times),
            LogJob::Append { partition, number } => (partition, number),
            LogJob::Trim => {
                self.jobs.remove(id);
                return;
            }
        };
        self.jobs.remove(id);
        let (coordinators, image) = C::of(self);
        let Some(logged) = coordinators.ready(partition) else { return };
        let now = Now { times, image };
        match answer {
            Answer::Appended { base_offset, .. } => logged.appended(number, base_offset, now),
            Answer::Refused { error, .. } => logged.refused(number, told(error), now),
            other => unreachable!("an append is answered as such, not with {other:?}"),
        }
        coordinators.touch(partition);
    }

    /// Tells and writes what coordinators have decided; true if there was anything.
    pub(crate) fn step_coordinators<C: AtHome>(&mut self, times: Times) -> bool {
        let linger = C::linger(self);
        let (coordinators, _) = C::of(self);
        let touched = std::mem::take(&mut coordinators.touched);
        if touched.is_empty() {
            return false;
        }
        let lingers = !linger.is_zero();
        let due = lingers.then(|| coordinators.take_due(&touched, times.now, linger));
        for partition in &touched {
            self.tell_decided::<C>(*partition);
        }
        for partition in due.as_ref().unwrap_or(&touched) {
            self.append_decided::<C>(*partition, times);
        }
        for partition in touched {
            C::step_on(self, partition, times);
        }
        C::of(self).0.count(linger);
        true
    }

    fn tell_decided<C: AtHome>(&mut self, partition: TopicPartition) {
        let Some(logged) = C::of(self).0.ready(partition) else { return };
        let replies = logged.take_replies();
        let home = self.home.as_mut().expect("coordinators come after adoption");
        for (reply_to, reply) in replies {
            home.answer(reply_to, C::answer(reply));
        }
    }

    fn append_decided<C: AtHome>(&mut self, partition: TopicPartition, times: Times) {
        let Some(logged) = C::of(self).0.ready(partition) else { return };
        let appends = std::iter::from_fn(|| logged.poll_append(times.wall_ms));
        let mut calls: Vec<(LogJob, Call)> = appends
            .map(|Append { number, batch }| {
                let append = Call::Append { batch, acks: Acks::InSync, zstd_allowed: false };
                (LogJob::Append { partition, number }, append)
            })
            .collect();
        let trim = logged.take_trim();
        calls.extend(trim.map(|before| (LogJob::Trim, Call::Trim { before: before.0 })));
        let home = self.home.as_mut().expect("coordinators come after adoption");
        for (job, call) in calls {
            let job = self.jobs.insert(C::job(job));
            home.call(partition, call, ReplyTo { shard: self.id, job, index: 0 }, times);
        }
    }

    /// Time has passed; tells how many coordinators were told.
    pub(crate) fn tick_coordinators<C: AtHome>(&mut self, times: Times) -> usize {
        let linger = C::linger(self);
        let (coordinators, image) = C::of(self);
        if coordinators.deadline.is_none_or(|deadline| times.now < deadline) {
            return 0;
        }
        let mut ticked = 0;
        if coordinators.lingering.deadline(linger).is_some_and(|deadline| deadline <= times.now) {
            coordinators.touched.extend(coordinators.lingering.partitions());
            ticked += 1;
        }
        for (partition, stage) in &mut coordinators.all {
            if let Stage::Ready(logged) = stage
                && logged.next_deadline().is_some_and(|deadline| deadline <= times.now)
            {
                logged.tick(Now { times, image });
                coordinators.touched.insert(*partition);
                ticked += 1;
            }
        }
        ticked
    }
}

/// What clients are told about something whose record could not be appended. Kafka tells the same:
/// what helps is to look for the coordinator again.
fn told(error: ErrorCode) -> ErrorCode {
    match error {
        ErrorCode::KafkaStorageError | ErrorCode::NotLeaderOrFollower => ErrorCode::NotCoordinator,
        ErrorCode::UnknownTopicOrPartition
        | ErrorCode::NotEnoughReplicas
        | ErrorCode::RequestTimedOut => ErrorCode::CoordinatorNotAvailable,
        _ => ErrorCode::UnknownServerError,
    }
}
