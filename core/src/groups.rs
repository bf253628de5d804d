//! The coordinators at home on this shard: how they come to know their groups, and how what they
//! decide gets to the disk.
//!
//! There is one for each partition of `__consumer_offsets` whose home this is. It reads the whole
//! partition before it answers; until then clients are told that it is loading. What it decides is
//! appended to the partition like any other record, and acknowledged like any other.
//!
//! Start reading at `Shard::ask_coordinator`.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tidemill_net::kafka::ErrorCode;
use tidemill_record::{Batch, Contents, Offset, PartitionId, TopicId, TopicPartition};
use tidemill_replication::controller::OFFSETS_TOPIC;
use tidemill_replication::metadata::Record as MetadataRecord;
use tidemill_runtime::edge::Instant;

use crate::api::Job;
use crate::coordinator::record::{DecodeError, Record};
use crate::coordinator::request::{Reply, Request};
use crate::coordinator::{Append, Coordinator, Now, Rules, partition_of};
use crate::job::{JobId, ReplyTo};
use crate::limits::{
    GROUP_RECORD_BYTES_MAX, GROUPS_BYTES_MAX, NEW_MEMBER_WAIT_MS, OFFSETS_BATCH_BYTES_MAX,
    OFFSETS_LOAD_BYTES,
};
use crate::message::{Acks, Answer, Call, ReadCall};
use crate::partition::Times;
use crate::placement;
use crate::random::Random;
use crate::shard::{Settings, Shard};

/// How often a partition that cannot be read is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// The coordinators of one shard.
pub struct Groups {
    rules: Arc<Rules>,
    random: Random,
    /// What they are kept in, once it was made.
    topic: Option<TopicId>,
    coordinators: BTreeMap<TopicPartition, Stage>,
    /// Those whose partition is still to be read, one after the other.
    to_load: VecDeque<TopicPartition>,
    loading: Option<Loading>,
    /// Those that may have something to say or to write.
    touched: BTreeSet<TopicPartition>,
    /// When the first of them wants to know the time.
    deadline: Option<Instant>,
    /// What all groups take in memory.
    bytes: usize,
}

enum Stage {
    Loading(Coordinator),
    Ready(Coordinator),
}

/// A partition that is being read.
struct Loading {
    partition: TopicPartition,
    next: Offset,
    records: u64,
    bytes: usize,
    told: bool,
}

/// What a job of the shard's own does for its groups.
#[derive(Clone, Copy, Debug)]
pub enum GroupJob {
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

impl Groups {
    /// No coordinators yet.
    pub fn new(settings: &Settings, shard: u16) -> Self {
        let groups = &settings.config.groups;
        let rules = Rules {
            initial_delay: groups.initial_delay,
            members_max: groups.members_max as usize,
            new_member_timeout: Duration::from_millis(NEW_MEMBER_WAIT_MS),
            consumer_session: groups.consumer_session,
            record_bytes_max: GROUP_RECORD_BYTES_MAX,
            rewrite_bytes: settings.group_rewrite_bytes,
            offset_metadata_bytes_max: groups.offset_metadata_bytes_max as usize,
            offsets_retention_ms: groups.offsets_retention.as_millis() as i64,
            expiry_interval: groups.expiry_interval,
        };
        Self {
            rules: Arc::new(rules),
            random: Random::new(settings.seed ^ 3 ^ u128::from(shard) << 64),
            topic: None,
            coordinators: BTreeMap::new(),
            to_load: VecDeque::new(),
            loading: None,
            touched: BTreeSet::new(),
            deadline: None,
            bytes: 0,
        }
    }

    /// Whether a topic belongs to the coordinators, so that clients change nothing in it.
    #[inline]
    pub fn are_kept_in(&self, topic: TopicId) -> bool {
        self.topic == Some(topic)
    }

    /// When `Shard::tick_groups` is wanted.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.deadline
    }

    fn ready(&mut self, partition: TopicPartition) -> Option<&mut Coordinator> {
        match self.coordinators.get_mut(&partition) {
            Some(Stage::Ready(coordinator)) => Some(coordinator),
            Some(Stage::Loading(_)) | None => None,
        }
    }

    /// Counts anew what is due and what is held.
    fn count(&mut self) {
        let ready = self.coordinators.values().filter_map(|stage| match stage {
            Stage::Ready(coordinator) => Some(coordinator),
            Stage::Loading(_) => None,
        });
        let (mut bytes, mut deadline) = (0, None::<Instant>);
        for coordinator in ready {
            bytes += coordinator.bytes();
            deadline = deadline.into_iter().chain(coordinator.next_deadline()).min();
        }
        (self.bytes, self.deadline) = (bytes, deadline);
    }
}

impl Shard {
    /// The partition whose coordinator a group belongs to; none before the first group was looked
    /// for.
    pub(crate) fn partition_of_group(&self, group: &str) -> Option<TopicPartition> {
        let topic = self.image.topic_named(OFFSETS_TOPIC)?;
        let number = partition_of(group, topic.partitions.len() as i32);
        Some(TopicPartition { topic: topic.id, partition: PartitionId(number) })
    }

    /// All partitions that groups are kept in.
    pub(crate) fn partitions_of_groups(&self) -> Vec<TopicPartition> {
        let topic = self.image.topic_named(OFFSETS_TOPIC);
        let all = topic.into_iter().flat_map(|topic| {
            let numbers = 0..topic.partitions.len() as i32;
            numbers.map(|number| TopicPartition { topic: topic.id, partition: PartitionId(number) })
        });
        all.collect()
    }

    /// Asks the coordinator of a partition at home here.
    pub(crate) fn ask_coordinator(
        &mut self,
        partition: TopicPartition,
        request: Request,
        reply_to: ReplyTo,
        times: Times,
    ) {
        let has_room = self.groups.bytes < GROUPS_BYTES_MAX;
        let refused = match self.groups.coordinators.get_mut(&partition) {
            Some(Stage::Ready(coordinator)) => {
                let now = Now { times, image: &self.image };
                coordinator.request(request, reply_to, has_room, now);
                self.groups.touched.insert(partition);
                return;
            }
            Some(Stage::Loading(_)) => ErrorCode::CoordinatorLoadInProgress,
            None => ErrorCode::NotCoordinator,
        };
        let home = self.home.as_mut().expect("clients are served after adoption");
        home.answer(reply_to, Answer::Group(Box::new(Reply::Refused(refused))));
    }

    // Coming and going.

    /// Takes up the coordinators of all partitions that are at home here.
    pub(crate) fn adopt_groups(&mut self, times: Times) {
        self.groups.topic = self.image.topic_named(OFFSETS_TOPIC).map(|topic| topic.id);
        for partition in self.partitions_of_groups() {
            self.take_up(partition);
        }
        self.load_next(times);
    }

    /// Does what a record of the metadata means for groups; `deleted` is the name of a topic that
    /// is gone by it.
    pub(crate) fn groups_follow(
        &mut self,
        record: &MetadataRecord,
        deleted: Option<Arc<str>>,
        times: Times,
    ) {
        match record {
            MetadataRecord::TopicCreated { name, .. } if name == OFFSETS_TOPIC => {
                self.adopt_groups(times);
            }
            MetadataRecord::TopicDeleted { .. } => {
                let Some(name) = deleted else { return };
                for (partition, stage) in &mut self.groups.coordinators {
                    // Those that are loading look for themselves what is gone.
                    if let Stage::Ready(coordinator) = stage {
                        coordinator.topic_deleted(&name, Now { times, image: &self.image });
                        self.groups.touched.insert(*partition);
                    }
                }
            }
            _ => {}
        }
    }

    /// The node stops: all who wait for others are told to look for the coordinator again.
    pub(crate) fn close_groups(&mut self) {
        for (partition, stage) in &mut self.groups.coordinators {
            if let Stage::Ready(coordinator) = stage {
                coordinator.close(ErrorCode::NotCoordinator);
                self.groups.touched.insert(*partition);
            }
        }
    }

    fn take_up(&mut self, partition: TopicPartition) {
        let is_here = placement::home(partition, self.settings.shards) == self.id;
        if !is_here || self.groups.coordinators.contains_key(&partition) {
            return;
        }
        let seed = u128::from_be_bytes(self.groups.random.uuid());
        let coordinator = Coordinator::new(Arc::clone(&self.groups.rules), seed);
        self.groups.coordinators.insert(partition, Stage::Loading(coordinator));
        self.groups.to_load.push_back(partition);
    }

    // Loading.

    fn load_next(&mut self, times: Times) {
        while self.groups.loading.is_none() {
            let Some(partition) = self.groups.to_load.pop_front() else { return };
            let home = self.home.as_ref().expect("coordinators come after adoption");
            let Some((start, _)) = home.bounds(partition) else { continue };
            let loading = Loading { partition, next: start, records: 0, bytes: 0, told: false };
            self.groups.loading = Some(loading);
            self.load_on(times);
        }
    }

    /// Reads on, or ends if all is read.
    fn load_on(&mut self, times: Times) {
        let Some(loading) = &self.groups.loading else { return };
        let (partition, from) = (loading.partition, loading.next);
        let home = self.home.as_ref().expect("coordinators come after adoption");
        let Some((_, end)) = home.bounds(partition) else {
            self.groups.coordinators.remove(&partition);
            self.groups.loading = None;
            return self.load_next(times);
        };
        if end <= from {
            return self.loaded(times);
        }
        let job = self.jobs.insert(Job::Groups(GroupJob::Load));
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

    fn loaded(&mut self, times: Times) {
        let Some(Loading { partition, records, bytes, .. }) = self.groups.loading.take() else {
            return;
        };
        if let Some(Stage::Loading(mut coordinator)) = self.groups.coordinators.remove(&partition) {
            coordinator.loaded(bytes, Now { times, image: &self.image });
            if 0 < records {
                let groups = coordinator.groups_count();
                let partition = partition.partition.0;
                tracing::info!(partition, groups, records, "groups are known again");
            }
            self.groups.coordinators.insert(partition, Stage::Ready(coordinator));
            self.groups.touched.insert(partition);
        }
        self.load_next(times);
    }

    fn load_answered(&mut self, job: JobId, answer: Answer, times: Times) {
        let refusal = match answer {
            Answer::Read(read) => match self.replay_groups(&read.batches) {
                Ok(()) => {
                    self.jobs.remove(job);
                    return self.load_on(times);
                }
                Err(error) => error.to_string(),
            },
            Answer::Refused { error, .. } => error.to_string(),
            other => unreachable!("a read is answered as such, not with {other:?}"),
        };
        let Some(loading) = &mut self.groups.loading else { return };
        if !loading.told {
            loading.told = true;
            let partition = loading.partition.partition.0;
            let from = loading.next.0;
            tracing::error!(partition, from, refusal, "groups cannot be read; it is tried again");
        }
        self.jobs.set_deadline(job, times.now.after(RETRY));
    }

    /// The time to try again has come.
    pub(crate) fn group_job_expired(&mut self, id: JobId, times: Times) {
        self.jobs.remove(id);
        self.load_on(times);
    }

    fn replay_groups(&mut self, runs: &[bytes::Bytes]) -> Result<(), DecodeError> {
        let Some(loading) = &mut self.groups.loading else { return Ok(()) };
        let stage = self.groups.coordinators.get_mut(&loading.partition);
        let Some(Stage::Loading(coordinator)) = stage else { return Ok(()) };
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
                    coordinator.replay(Record::decode(key, record.value)?);
                    loading.records += 1;
                }
                loading.next = batch.next_offset();
                rest = after;
            }
        }
        Ok(())
    }

    // Writing.

    /// An answer for a job of the groups' own.
    pub(crate) fn group_job_answered(&mut self, id: JobId, answer: Answer, times: Times) {
        let Some(Job::Groups(job)) = self.jobs.get_mut(id) else { return };
        let (partition, number) = match *job {
            GroupJob::Append { partition, number } => (partition, number),
            GroupJob::Load => return self.load_answered(id, answer, times),
            GroupJob::Trim => {
                self.jobs.remove(id);
                return;
            }
        };
        self.jobs.remove(id);
        let Some(coordinator) = self.groups.ready(partition) else { return };
        let now = Now { times, image: &self.image };
        match answer {
            Answer::Appended { base_offset, .. } => {
                coordinator.appended(number, base_offset, now);
            }
            Answer::Refused { error, .. } => coordinator.refused(number, told(error), now),
            other => unreachable!("an append is answered as such, not with {other:?}"),
        }
        self.groups.touched.insert(partition);
    }

    /// Tells and writes what coordinators have decided; true if there was anything.
    pub(crate) fn step_groups(&mut self, times: Times) -> bool {
        if self.groups.touched.is_empty() {
            return false;
        }
        for partition in std::mem::take(&mut self.groups.touched) {
            self.step_coordinator(partition, times);
        }
        self.groups.count();
        true
    }

    fn step_coordinator(&mut self, partition: TopicPartition, times: Times) {
        let Some(coordinator) = self.groups.ready(partition) else { return };
        let replies = coordinator.take_replies();
        let appends = std::iter::from_fn(|| coordinator.poll_append(times.wall_ms));
        let mut calls: Vec<(GroupJob, Call)> = appends
            .map(|Append { number, batch }| {
                let append = Call::Append { batch, acks: Acks::InSync, zstd_allowed: false };
                (GroupJob::Append { partition, number }, append)
            })
            .collect();
        let trim = coordinator.take_trim();
        calls.extend(trim.map(|before| (GroupJob::Trim, Call::Trim { before: before.0 })));
        let home = self.home.as_mut().expect("coordinators come after adoption");
        for (reply_to, reply) in replies {
            home.answer(reply_to, Answer::Group(Box::new(reply)));
        }
        for (job, call) in calls {
            let job = self.jobs.insert(Job::Groups(job));
            home.call(partition, call, ReplyTo { shard: self.id, job, index: 0 }, times);
        }
    }

    /// Time has passed; tells how many coordinators were told.
    pub(crate) fn tick_groups(&mut self, times: Times) -> usize {
        if self.groups.deadline.is_none_or(|deadline| times.now < deadline) {
            return 0;
        }
        let mut ticked = 0;
        for (partition, stage) in &mut self.groups.coordinators {
            if let Stage::Ready(coordinator) = stage
                && coordinator.next_deadline().is_some_and(|deadline| deadline <= times.now)
            {
                coordinator.tick(Now { times, image: &self.image });
                self.groups.touched.insert(*partition);
                ticked += 1;
            }
        }
        ticked
    }
}

/// What clients are told about a group when its record could not be appended. Kafka tells the
/// same: what helps is to look for the coordinator again.
fn told(error: ErrorCode) -> ErrorCode {
    match error {
        ErrorCode::KafkaStorageError | ErrorCode::NotLeaderOrFollower => ErrorCode::NotCoordinator,
        ErrorCode::UnknownTopicOrPartition
        | ErrorCode::NotEnoughReplicas
        | ErrorCode::RequestTimedOut => ErrorCode::CoordinatorNotAvailable,
        _ => ErrorCode::UnknownServerError,
    }
}
