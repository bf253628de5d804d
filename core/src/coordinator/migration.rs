//! The change of a group's kind under its members (KIP-848, `group.consumer.migration.policy`).
//!
//! ```text
//!            ConsumerGroupHeartbeat that joins (upgrade)
//!  classic ────────────────────────────────────────────────> newer kind, with classic members
//!     ^                                                          │     ^    │
//!     └── the last member that speaks the newer one is gone ─────┘     │    │ the last classic
//!            (downgrade: leaves, is silent, or is replaced)            │    v one is gone
//!                                               JoinGroup ─────────────┘  newer kind alone
//! ```
//!
//! **Upgrade.** A classic group of consumers becomes one of the newer kind when the first member that
//! speaks the newer protocol joins. Its generation is the epoch from then on, what the leader shared
//! out is what each member has and is to have, and its offsets stay. Whoever waits in a rebalance is
//! told to join again. The newcomer has what the others have let go of. A group whose leader tells
//! its members more than partitions (Kafka Streams) stays what it is; Kafka's own assignors do not.
//!
//! **Between.** A classic member is one of the others, whose subscription keeps what it said when it
//! joined. Its generation is its epoch. JoinGroup says what it reads and wants, and takes its next
//! step; SyncGroup tells what it may read; a heartbeat says REBALANCE_IN_PROGRESS when it is to join
//! again: when the group has entered another epoch, it has something to give up, or all that it
//! waits for is free. It has its rebalance timeout to join, and again to sync; then it is out. There
//! is no leader: nobody is told that it is one.
//!
//! **Downgrade.** When only classic members are left, the group is a classic one again, the epoch is
//! the generation, and the members share out anew. Until they have, it is remembered without a
//! leader: by that a start knows that a rebalance is due. A static member that comes back with the
//! classic protocol in place of the last newer one takes its share over, and if all others have
//! theirs, nobody notices.
//!
//! A group without members changes its kind for whoever comes next, under any policy; generation and
//! epoch go on there, too.
//!
//! Each change is one decision in one batch: it is remembered whole or not at all. A group for which
//! that would be too large a batch keeps its kind.
//!
//! This file turns into each other what the two kinds say of a member. What classic members ask is
//! in `consumer/classic_members.rs`, the changes are in `consumer/migration.rs`.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use tidemill_net::cursor::WireError;
use tidemill_net::kafka::consumer_protocol::{Assignment, Subscription, VERSION_MAX};
use tidemill_net::kafka::topic_partitions::TopicPartitions;
use tidemill_replication::metadata::Image;

use super::assignment::Partitions;
use super::record::MemberState;
use super::request::Protocol;

/// A classic member on its way from one kind to the other.
pub(super) struct Migrant {
    /// All but what it says under protocols that were not chosen.
    pub(super) state: MemberState,
    /// What it can work with.
    pub(super) protocols: Vec<Protocol>,
}

/// What a classic member says when it joins, understood.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Said {
    /// The topics it wants, in order.
    pub(super) topics: Vec<Arc<str>>,
    /// What it reads while it joins. Members that let go of everything before say nothing here.
    pub(super) owned: Partitions,
    /// Where it is.
    pub(super) rack: Option<Arc<str>>,
}

impl Said {
    /// Reads what was said.
    pub(super) fn read(metadata: &[u8], image: &Image) -> Result<Self, WireError> {
        let said = Subscription::decode(metadata).or_else(|_| {
            // Some clients leave out what their version has beside the topics.
            let topics = Subscription::topics_of(metadata)?;
            Ok(Subscription { topics, ..Subscription::default() })
        })?;
        let mut topics: Vec<Arc<str>> = said.topics.into_iter().map(Arc::from).collect();
        topics.sort_unstable();
        topics.dedup();
        let rack = said.rack_id.filter(|rack| !rack.is_empty()).map(Arc::from);
        Ok(Self { topics, owned: by_id(&said.owned_partitions, image), rack })
    }
}

/// Why a classic group cannot become one of the newer kind.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum CannotUpgrade {
    /// What its members said, or were given, cannot be read.
    Unreadable(WireError),
    /// Its leader tells them more than partitions, as that of Kafka Streams does: in this group only
    /// its own members can share out.
    UserData,
    /// The records would be too large for one batch.
    TooLarge,
}

impl fmt::Display for CannotUpgrade {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreadable(error) => write!(f, "what its members said cannot be read: {error}"),
            Self::TooLarge => f.write_str("it is too large"),
            Self::UserData => {
                f.write_str("its leader tells members more than partitions, which would be lost")
            }
        }
    }
}

impl From<WireError> for CannotUpgrade {
    fn from(error: WireError) -> Self {
        Self::Unreadable(error)
    }
}

/// Kafka's assignors. What their leaders tell members beside partitions is nothing that these need:
/// librdkafka's gives back what the member has said itself.
const PLAIN_ASSIGNORS: [&str; 4] = ["range", "roundrobin", "sticky", "cooperative-sticky"];

/// Reads a share that a leader has made under a protocol.
pub(super) fn share_of(
    assignment: &[u8],
    protocol: &str,
    image: &Image,
) -> Result<Partitions, CannotUpgrade> {
    let assignment = Assignment::decode(assignment)?;
    let tells_more = assignment.user_data.is_some_and(|data| !data.is_empty());
    if tells_more && !PLAIN_ASSIGNORS.contains(&protocol) {
        return Err(CannotUpgrade::UserData);
    }
    Ok(by_id(&assignment.assigned_partitions, image))
}

/// A share as a leader would have told it to a member that said this.
pub(super) fn told(share: &Partitions, metadata: &[u8], image: &Image) -> Bytes {
    let topics = share.iter().filter_map(|(id, numbers)| {
        let topic = image.topic(*id)?.name.to_string();
        Some(TopicPartitions { topic, partitions: numbers.iter().copied().collect() })
    });
    let assignment = Assignment { assigned_partitions: topics.collect(), user_data: None };
    let version = metadata.first_chunk().map_or(0, |version| i16::from_be_bytes(*version));
    assignment.encode(version.clamp(0, VERSION_MAX))
}

/// Topics that are gone are left out.
fn by_id(topics: &[TopicPartitions], image: &Image) -> Partitions {
    let mut partitions = Partitions::new();
    for topic in topics.iter().filter(|topic| !topic.partitions.is_empty()) {
        if let Some(known) = image.topic_named(&topic.topic) {
            partitions.entry(known.id).or_default().extend(&topic.partitions);
        }
    }
    partitions
}
