//! What is asked of a coordinator and what it answers, without any version of the wire.
//!
//! The edge turns Kafka's messages into these ([`crate::api::groups`]); nothing here is checked
//! beyond what a type says. Errors are Kafka's codes, since clients act on them one by one.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tidemill_net::kafka::ErrorCode;
use tidemill_record::{Producer, ProducerId, TopicId};

use super::assignment::Partitions;
use super::offsets::Committed;
use super::record::{ShareSubscription, Subscription};

/// The name of a member, given by the coordinator or, in new groups, by the client.
pub type MemberId = Arc<str>;

/// Partitions, by the names of their topics.
pub type ByTopic<T> = Vec<(Arc<str>, Vec<T>)>;

/// Something asked of the coordinator of one partition.
#[derive(Clone, Debug)]
pub enum Request {
    /// JoinGroup.
    Join(Box<Join>),
    /// SyncGroup.
    Sync(Box<Sync>),
    /// Heartbeat.
    Heartbeat(Heartbeat),
    /// LeaveGroup.
    Leave(Leave),
    /// ConsumerGroupHeartbeat.
    ConsumerHeartbeat(Box<ConsumerHeartbeat>),
    /// ShareGroupHeartbeat.
    ShareHeartbeat(Box<ShareHeartbeat>),
    /// OffsetCommit.
    Commit(Commit),
    /// TxnOffsetCommit: offsets that count once the producer's transaction is committed.
    CommitInTransaction(Commit, ProducerId),
    /// A producer's transaction has ended: what it has committed counts, or is forgotten, in all
    /// groups.
    EndTransaction {
        /// Whose transaction, under the epoch that ends it.
        producer: Producer,
        /// Whether it counts.
        commit: bool,
    },
    /// OffsetFetch, for one group.
    FetchOffsets(FetchOffsets),
    /// OffsetDelete.
    DeleteOffsets(DeleteOffsets),
    /// DescribeGroups, for one group.
    Describe {
        /// Which group.
        group: Arc<str>,
    },
    /// ConsumerGroupDescribe, for one group.
    DescribeConsumer {
        /// Which group.
        group: Arc<str>,
    },
    /// ShareGroupDescribe, for one group.
    DescribeShare {
        /// Which group.
        group: Arc<str>,
    },
    /// AlterShareGroupOffsets: the group is there from now on, and is described.
    MakeShare {
        /// Which group.
        group: Arc<str>,
    },
    /// DeleteGroups, for one group.
    Delete {
        /// Which group.
        group: Arc<str>,
    },
    /// ListGroups: all groups of this coordinator.
    List(List),
}

impl Request {
    /// The group it is about; none if about all.
    pub fn group(&self) -> Option<&Arc<str>> {
        match self {
            Self::Join(join) => Some(&join.group),
            Self::Sync(sync) => Some(&sync.group),
            Self::Heartbeat(heartbeat) => Some(&heartbeat.group),
            Self::Leave(leave) => Some(&leave.group),
            Self::Commit(commit) | Self::CommitInTransaction(commit, _) => Some(&commit.group),
            Self::FetchOffsets(fetch) => Some(&fetch.group),
            Self::DeleteOffsets(delete) => Some(&delete.group),
            Self::ConsumerHeartbeat(heartbeat) => Some(&heartbeat.group),
            Self::ShareHeartbeat(heartbeat) => Some(&heartbeat.group),
            Self::Describe { group }
            | Self::DescribeConsumer { group }
            | Self::DescribeShare { group }
            | Self::MakeShare { group }
            | Self::Delete { group } => Some(group),
            Self::List(_) | Self::EndTransaction { .. } => None,
        }
    }
}

/// A member wants to be part of the next generation.
#[derive(Clone, Debug)]
pub struct Join {
    /// Of which group.
    pub group: Arc<str>,
    /// Empty if it has no name yet.
    pub member: MemberId,
    /// Its name across restarts, if it is a static member.
    pub instance: Option<Arc<str>>,
    /// What its client calls itself.
    pub client_id: Arc<str>,
    /// Where it comes from.
    pub client_host: Arc<str>,
    /// After how much silence it is taken for dead.
    pub session_timeout: Duration,
    /// How long it may take to come back in a rebalance.
    pub rebalance_timeout: Duration,
    /// `consumer`, `connect`, …
    pub protocol_type: Arc<str>,
    /// What it can work with, the one it likes best first.
    pub protocols: Vec<Protocol>,
    /// A dynamic member must come again under the name it is given (KIP-394).
    pub needs_member_id: bool,
    /// A leader may be told that the assignment stands (KIP-814).
    pub may_skip_assignment: bool,
}

/// One way of sharing partitions, and what the member says under it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Protocol {
    /// `range`, `cooperative-sticky`, …
    pub name: Arc<str>,
    /// The member's subscription, which only its own kind understands.
    pub metadata: Bytes,
}

/// A member wants its share; the leader brings everybody's.
#[derive(Clone, Debug)]
pub struct Sync {
    /// Of which group.
    pub group: Arc<str>,
    /// Who asks.
    pub who: Who,
    /// What the client believes the group to be, if it says.
    pub protocol_type: Option<Arc<str>>,
    /// The protocol it believes to be chosen, if it says.
    pub protocol: Option<Arc<str>>,
    /// From the leader: each member's share.
    pub assignments: Vec<(MemberId, Bytes)>,
}

/// A member as it names itself.
#[derive(Clone, Debug)]
pub struct Who {
    /// Its name.
    pub member: MemberId,
    /// Its name across restarts.
    pub instance: Option<Arc<str>>,
    /// The generation it believes to be in; -1 for none.
    pub generation: i32,
}

/// A member is alive.
#[derive(Clone, Debug)]
pub struct Heartbeat {
    /// Of which group.
    pub group: Arc<str>,
    /// Who.
    pub who: Who,
}

/// A member of a group of the newer kind says how it is. What it leaves out is as before.
#[derive(Clone, Debug)]
pub struct ConsumerHeartbeat {
    /// Of which group.
    pub group: Arc<str>,
    /// Who; empty if the coordinator is to name it.
    pub member: MemberId,
    /// Its epoch: 0 joins, -1 leaves, -2 leaves for a restart.
    pub epoch: i32,
    /// Its name across restarts.
    pub instance: Option<Arc<str>>,
    /// Where it is.
    pub rack: Option<Arc<str>>,
    /// How long it may take to give partitions up; negative: as before.
    pub rebalance_ms: i32,
    /// The topics it wants.
    pub topics: Option<Vec<Arc<str>>>,
    /// A pattern of topics it wants; empty for none any more.
    pub regex: Option<Arc<str>>,
    /// Which assignor it asks for.
    pub assignor: Option<Arc<str>>,
    /// What it reads.
    pub owned: Option<Partitions>,
    /// What its client calls itself.
    pub client_id: Arc<str>,
    /// Where it comes from.
    pub client_host: Arc<str>,
}

/// A member of a share group says how it is. What it leaves out is as before.
#[derive(Clone, Debug)]
pub struct ShareHeartbeat {
    /// Of which group.
    pub group: Arc<str>,
    /// Who.
    pub member: MemberId,
    /// Its epoch: 0 joins, -1 leaves.
    pub epoch: i32,
    /// Where it is.
    pub rack: Option<Arc<str>>,
    /// The topics it wants.
    pub topics: Option<Vec<Arc<str>>>,
    /// What its client calls itself.
    pub client_id: Arc<str>,
    /// Where it comes from.
    pub client_host: Arc<str>,
    /// How long it may be silent from now on.
    pub session: Duration,
}

/// Members go.
#[derive(Clone, Debug)]
pub struct Leave {
    /// Out of which group.
    pub group: Arc<str>,
    /// Each by its name, or by its name across restarts alone.
    pub members: Vec<(MemberId, Option<Arc<str>>)>,
}

/// Offsets to keep.
#[derive(Clone, Debug)]
pub struct Commit {
    /// Of which group.
    pub group: Arc<str>,
    /// Who commits; nobody in particular if the generation is negative and the name empty.
    pub who: Who,
    /// Unknown groups are told by this code: it depends on the version (KIP-848).
    pub unknown_group: ErrorCode,
    /// The version is one that members of groups of the newer kind may use.
    pub knows_epochs: bool,
    /// What to keep of which partition.
    pub offsets: Vec<(Arc<str>, i32, Committed)>,
}

/// Offsets wanted back.
#[derive(Clone, Debug)]
pub struct FetchOffsets {
    /// Of which group.
    pub group: Arc<str>,
    /// Of which partitions; none for all there are.
    pub topics: Option<ByTopic<i32>>,
    /// In whose name, if that is said (KIP-848).
    pub member: Option<MemberId>,
    /// In which epoch; -1 if that is not said.
    pub epoch: i32,
    /// Not while a transaction may still change them.
    pub require_stable: bool,
}

/// Offsets to forget.
#[derive(Clone, Debug)]
pub struct DeleteOffsets {
    /// Of which group.
    pub group: Arc<str>,
    /// Of which partitions.
    pub topics: ByTopic<i32>,
}

/// Which groups to list.
#[derive(Clone, Debug, Default)]
pub struct List {
    /// Only in these states, in lower case; all if empty.
    pub states: Vec<String>,
    /// Only of these types, in lower case; all if empty.
    pub types: Vec<String>,
}

/// What came of a [`Request`].
#[derive(Clone, Debug)]
pub enum Reply {
    /// Nothing can be said or done: the error is that of the whole request.
    Refused(ErrorCode),
    /// To a join.
    Joined(Box<Joined>),
    /// To a sync.
    Synced(Box<Synced>),
    /// To a heartbeat.
    Alive(ErrorCode),
    /// To a leave: what came of each member.
    Left(Vec<ErrorCode>),
    /// To a heartbeat of a group of the newer kind, or of a share group.
    Heard(Result<Heard, (ErrorCode, String)>),
    /// To a commit: what came of each offset.
    Committed(Vec<ErrorCode>),
    /// To a fetch of offsets.
    Offsets(ByTopic<(i32, Result<Option<Committed>, ErrorCode>)>),
    /// To the end of a transaction.
    TransactionEnded,
    /// To a deletion of offsets: what came of each topic.
    OffsetsDeleted(Vec<ErrorCode>),
    /// To a question about one group; none if there is no such group of this kind.
    Described(Option<Box<Description>>),
    /// To a question about one group; none if there is no such group of the newer kind.
    ConsumerDescribed(Option<Box<ConsumerDescription>>),
    /// To a question about one group; none if there is no such share group.
    ShareDescribed(Option<Box<ShareDescription>>),
    /// To a deletion.
    Deleted(ErrorCode),
    /// The groups there are.
    Listed(Vec<Listed>),
}

/// What a joining member is told.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Joined {
    /// How it went.
    pub error: ErrorCode,
    /// The member's name.
    pub member: MemberId,
    /// The generation it is part of; -1 if none.
    pub generation: i32,
    /// The group's kind.
    pub protocol_type: Option<Arc<str>>,
    /// The protocol chosen.
    pub protocol: Option<Arc<str>>,
    /// Who shares out.
    pub leader: MemberId,
    /// The leader need not share out: what was shared out stands.
    pub skip_assignment: bool,
    /// For the leader: everybody, with what they said under the chosen protocol.
    pub members: Vec<(MemberId, Option<Arc<str>>, Bytes)>,
}

impl Joined {
    /// The answer to a join that failed.
    pub fn refused(error: ErrorCode, member: &MemberId) -> Self {
        Self {
            error,
            member: Arc::clone(member),
            generation: -1,
            protocol_type: None,
            protocol: None,
            leader: "".into(),
            skip_assignment: false,
            members: Vec::new(),
        }
    }
}

/// What a syncing member is told.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Synced {
    /// How it went.
    pub error: ErrorCode,
    /// The group's kind.
    pub protocol_type: Option<Arc<str>>,
    /// The protocol chosen.
    pub protocol: Option<Arc<str>>,
    /// The member's share.
    pub assignment: Bytes,
}

impl Synced {
    /// The answer to a sync that failed.
    pub fn refused(error: ErrorCode) -> Self {
        Self { error, ..Self::default() }
    }
}

/// A group as tools see it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Description {
    /// Kafka's name of the state it is in.
    pub state: &'static str,
    /// Its kind; empty if it has none.
    pub protocol_type: Arc<str>,
    /// The chosen protocol; empty if there is none.
    pub protocol: Arc<str>,
    /// Who is in it.
    pub members: Vec<MemberDescription>,
}

/// A member as tools see it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct MemberDescription {
    /// Its name.
    pub member: MemberId,
    /// Its name across restarts.
    pub instance: Option<Arc<str>>,
    /// What its client calls itself.
    pub client_id: Arc<str>,
    /// Where it comes from.
    pub client_host: Arc<str>,
    /// What it said under the chosen protocol, once there is one.
    pub metadata: Bytes,
    /// Its share.
    pub assignment: Bytes,
}

/// What a member of a group of the newer kind is told.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Heard {
    /// Its name.
    pub member: MemberId,
    /// Its epoch.
    pub epoch: i32,
    /// How often it is to say that it lives, if its group was set to anything.
    pub heartbeat_ms: Option<u64>,
    /// What it may read, if that has changed or it asked for it.
    pub assignment: Option<Partitions>,
}

/// A group of the newer kind as tools see it.
#[derive(Clone, Debug, PartialEq)]
pub struct ConsumerDescription {
    /// Kafka's name of the state it is in.
    pub state: &'static str,
    /// Its epoch.
    pub epoch: i32,
    /// The epoch its shares were made for.
    pub assignment_epoch: i32,
    /// Who made them.
    pub assignor: &'static str,
    /// Who is in it.
    pub members: Vec<ConsumerMemberDescription>,
}

/// A member of a group of the newer kind as tools see it.
#[derive(Clone, Debug, PartialEq)]
pub struct ConsumerMemberDescription {
    /// Its name.
    pub member: MemberId,
    /// Its epoch.
    pub epoch: i32,
    /// What it wants.
    pub wants: Subscription,
    /// What it may read.
    pub assigned: SharedPartitions,
    /// What it is to have.
    pub target: SharedPartitions,
}

/// A share group as tools see it.
#[derive(Clone, Debug, PartialEq)]
pub struct ShareDescription {
    /// Kafka's name of the state it is in.
    pub state: &'static str,
    /// Its epoch.
    pub epoch: i32,
    /// Who shares out.
    pub assignor: &'static str,
    /// Who is in it.
    pub members: Vec<ShareMemberDescription>,
}

/// A member of a share group as tools see it.
#[derive(Clone, Debug, PartialEq)]
pub struct ShareMemberDescription {
    /// Its name.
    pub member: MemberId,
    /// Its epoch.
    pub epoch: i32,
    /// What it wants.
    pub wants: ShareSubscription,
    /// What it may read.
    pub assigned: SharedPartitions,
}

/// Partitions by topic, each with its id and its name.
pub type SharedPartitions = Vec<(TopicId, Arc<str>, Vec<i32>)>;

/// A group in a list.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Listed {
    /// Its name.
    pub group: Arc<str>,
    /// Its kind; empty if it has none.
    pub protocol_type: Arc<str>,
    /// Kafka's name of the state it is in.
    pub state: &'static str,
    /// Kafka's name of its type.
    pub kind: &'static str,
}
