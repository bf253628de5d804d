//! All that one shard says to another: a closed enum.
//!
//! Work on a partition is a [`Call`] to its home shard and an [`Answer`] back. A shard also calls
//! itself, without the mesh, so that local and remote work take the same path. One message carries
//! all calls of one request for one shard, and all answers of one turn.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use tidemill_net::kafka::ErrorCode;
use tidemill_record::{
    LeaderEpoch, Marker, Offset, Producer, ProducerEpoch, Timestamp, TopicPartition,
};
use tidemill_replication::metadata::{Image, Record};
use tidemill_storage::ProducerState;
use tidemill_storage::recovery::RecoveredShard;
use tidemill_storage::transactions::Aborted;

use crate::controller::Proposal;
use crate::coordinator;
use crate::job::JobId;
use crate::measure::Question;
use crate::quota::BucketKey;
use crate::share;
use crate::transaction;

/// What one shard says to another.
#[derive(Debug)]
pub enum Message {
    /// To the home shard of the partitions: please do.
    Calls {
        /// Which of the sender's jobs is told the answers.
        job: JobId,
        /// What to do, with the place of the answer in the job.
        calls: Vec<(u32, TopicPartition, Call)>,
    },
    /// From a home shard: what came of calls.
    Answers(Vec<(JobId, u32, Answer)>),
    /// A job no longer waits for anything to arrive in these partitions.
    Unwatch {
        /// The sender's job.
        job: JobId,
        /// Where it has watched.
        partitions: Vec<TopicPartition>,
    },
    /// To shard 0: a change of metadata is asked for.
    Propose {
        /// Which of the sender's jobs is told the end.
        job: JobId,
        /// The change.
        proposal: Proposal,
        /// Size of the request that asks for it.
        request_bytes: u32,
    },
    /// From shard 0: the change is in force on every shard, or it was refused.
    Proposed {
        /// The asking job.
        job: JobId,
        /// What came of it.
        outcome: crate::controller::Outcome,
    },
    /// From shard 0: these metadata records are committed.
    Commit {
        /// Counts commits of this process.
        number: u64,
        /// In order.
        records: Arc<[Record]>,
    },
    /// To shard 0: the commit has been replayed here.
    Applied {
        /// The commit's number.
        number: u64,
    },
    /// To shard 0: the files of a deleted partition are gone.
    Dropped(TopicPartition),
    /// What clients with quotas have spent on the sender since it last told.
    Spent(Arc<[(BucketKey, u64)]>),
    /// The data directory has failed: nothing is appended any more.
    Fence,
    /// From shard 0 at start: recovery has ended; these are your partitions.
    Adopt(Box<Adoption>),
    /// To shard 0: the shard has taken up its partitions.
    Adopted,
    /// From shard 0: every shard has taken up its partitions, so clients may be accepted.
    Serve,
    /// From outside to shard 0, and from there to all: end cleanly.
    Stop,
    /// To shard 0: everything here is durable and checkpointed.
    Stopped,
    /// From outside: what has been measured here?
    Ask(Question),
}

/// What a shard starts from.
#[derive(Debug)]
pub struct Adoption {
    /// The cluster's metadata.
    pub image: Image,
    /// The shard's logs as recovery left them.
    pub recovered: RecoveredShard,
}

/// Work on one partition, for its home shard.
#[derive(Debug)]
pub enum Call {
    /// Append one batch.
    Append {
        /// The batch as received.
        batch: BytesMut,
        /// Whether an answer is wanted only when it is durable and committed.
        acks: Acks,
        /// Old clients may not send zstd.
        zstd_allowed: bool,
    },
    /// Append one batch of a transaction, once its coordinator knows of it.
    AppendInTransaction {
        /// The batch as received.
        batch: BytesMut,
        /// Whether an answer is wanted only when it is durable and committed.
        acks: Acks,
        /// Old clients may not send zstd.
        zstd_allowed: bool,
        /// Of which transaction.
        transaction: Box<InTransaction>,
    },
    /// Append the marker that ends a producer's transaction.
    Mark {
        /// Whose transaction, and under which epoch it ended.
        producer: Producer,
        /// How it ended.
        marker: Marker,
    },
    /// DescribeProducers.
    DescribeProducers,
    /// Read batches.
    Read(ReadCall),
    /// Tell when something at or past `seen_end` can be read.
    Watch {
        /// Where the asking fetch has seen the end.
        seen_end: Offset,
        /// What belongs to open transactions cannot be read.
        read_committed: bool,
    },
    /// ListOffsets.
    ListOffset {
        /// What to look for: a timestamp or one of Kafka's negative specials.
        timestamp: i64,
        /// What belongs to open transactions is not looked at.
        read_committed: bool,
        /// The client's view of the leader epoch, if it has one.
        current_leader_epoch: Option<LeaderEpoch>,
    },
    /// OffsetForLeaderEpoch.
    EpochEnd {
        /// Which epoch's end is asked for.
        epoch: LeaderEpoch,
        /// The client's view of the leader epoch, if it has one.
        current_leader_epoch: Option<LeaderEpoch>,
    },
    /// DeleteRecords: drop everything below `before` (-1: below the high watermark).
    Trim {
        /// The new log start offset.
        before: i64,
    },
    /// Ask the coordinator of the groups that are kept in this partition.
    Group(Box<coordinator::request::Request>),
    /// Ask the coordinator of groups something that is part of a transaction, once that one's
    /// coordinator knows of it.
    GroupInTransaction(Box<GroupQuestion>),
    /// Ask the coordinator of the transactions that are kept in this partition.
    Transaction(Box<transaction::request::Request>),
    /// Ask the coordinator of what share groups have read that is kept in this partition.
    Share(Box<share::request::Request>),
    /// DescribeLogDirs: how much the log holds.
    Size,
}

/// A question to the coordinator of groups that is part of a transaction.
#[derive(Debug)]
pub struct GroupQuestion {
    /// Which transaction.
    pub transaction: InTransaction,
    /// Whose.
    pub producer: Producer,
    /// What is asked.
    pub request: coordinator::request::Request,
}

/// The transaction that a batch is part of.
#[derive(Clone, Debug)]
pub struct InTransaction {
    /// Its name.
    pub transactional_id: Arc<str>,
    /// The batch makes its partition a part of the transaction (KIP-890, the newer flow). Otherwise
    /// the coordinator must have been told before.
    pub adds_partition: bool,
    /// Its client knows the error that tells it to abort.
    pub may_be_told_to_abort: bool,
}

impl InTransaction {
    /// Whether what its producer sent under the epoch `sent` is too late for the transaction that
    /// a marker under the epoch `marker` ends. In the newer flow each end raises the epoch, so what
    /// comes under the marker's own belongs to the next transaction.
    pub fn is_ended_by(&self, sent: ProducerEpoch, marker: ProducerEpoch) -> bool {
        sent < marker || (sent == marker && !self.adds_partition)
    }
}

/// What a fetch asks of one partition.
#[derive(Clone, Copy, Debug)]
pub struct ReadCall {
    /// The first offset wanted.
    pub from: Offset,
    /// How many bytes at most.
    pub limit_bytes: u32,
    /// Whether the first batch is returned even above the limit (KIP-74).
    pub min_one: bool,
    /// Nothing of an open transaction is wanted.
    pub read_committed: bool,
    /// The client's view of the leader epoch, if it has one.
    pub current_leader_epoch: Option<LeaderEpoch>,
    /// Epoch of the last record the client has, for divergence (KIP-595).
    pub last_fetched_epoch: Option<LeaderEpoch>,
}

/// When a producer wants its answer.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Acks {
    /// Never.
    None,
    /// When the leader has it.
    Leader,
    /// When all in-sync replicas have it.
    InSync,
}

/// What came of a [`Call`].
#[derive(Debug)]
pub enum Answer {
    /// The partition refused; nothing was changed.
    Refused {
        /// Kafka's code.
        error: ErrorCode,
        /// Cause, for clients that show it.
        message: Option<String>,
    },
    /// The partition refused a batch for some of its records; nothing was changed.
    RefusedRecords {
        /// Kafka's code.
        error: ErrorCode,
        /// What is wrong with them.
        message: &'static str,
        /// Which records of the batch, from 0.
        records: Vec<u32>,
    },
    /// The batch is appended (and durable, as the acks asked).
    Appended {
        /// Offset of its first record.
        base_offset: Offset,
        /// Set if the topic's records carry the broker's time.
        log_append_time: Option<Timestamp>,
        /// Where the log begins.
        log_start_offset: Offset,
    },
    /// Batches, and where the log stands.
    Read(ReadAnswer),
    /// Something can be read that was not there before.
    Moved,
    /// An offset, for ListOffsets; `None` if there is no such record.
    Offset {
        /// The record found.
        found: Option<(Offset, Timestamp)>,
        /// Epoch of the leader that wrote it.
        leader_epoch: LeaderEpoch,
    },
    /// The producers that a partition remembers.
    Producers(Vec<ProducerState>),
    /// Where an epoch ended; `None` if it is unknown.
    EpochEnd(Option<(LeaderEpoch, Offset)>),
    /// The log starts here now, durably.
    Trimmed {
        /// The log start offset.
        log_start_offset: Offset,
    },
    /// What the coordinator answers.
    Group(Box<coordinator::request::Reply>),
    /// What the coordinator of transactions answers.
    Transaction(Box<transaction::request::Reply>),
    /// What the coordinator of what share groups have read answers.
    Share(Box<share::request::Reply>),
    /// How large the disk is, all of it and what may still be used; none if that cannot be told.
    Space(Option<(u64, u64)>),
    /// How much the log holds.
    Size {
        /// Its batches together.
        size_bytes: u64,
    },
}

/// What a read gave.
#[derive(Debug)]
pub struct ReadAnswer {
    /// Whole batches, verbatim.
    pub batches: Vec<Bytes>,
    /// Their size together.
    pub size_bytes: u32,
    /// There was a batch, but the limit had no room for it.
    pub held_back: bool,
    /// All replicas have everything below.
    pub high_watermark: Offset,
    /// Below it no open transaction.
    pub last_stable_offset: Offset,
    /// Of what is read, the aborted transactions; for those who want what is committed.
    pub aborted: Vec<Aborted>,
    /// The batches come from the disk, not from memory.
    pub from_disk: bool,
    /// The first offset kept.
    pub log_start_offset: Offset,
    /// Set if the client's log has parted from ours: the epoch and end offset to cut back to.
    pub diverging: Option<(LeaderEpoch, Offset)>,
}
