//! The coordinators of share groups' records at home on this shard, and how members' requests find
//! them.
//!
//! There is one for each partition of `__share_group_state` whose home this is. What they decide is
//! in [`crate::share`], how it gets to the disk in [`crate::coordinator_log`].
//!
//! Not to be taken for each other: `shares` (this) is the shard's part, with state of a shard and its
//! jobs; `share` is the decisions, which know no shard.

use tidemill_record::TopicPartition;
use tidemill_replication::controller::SHARE_STATE_TOPIC;
use tidemill_replication::metadata::{Image, Record as MetadataRecord};

use crate::api::Job;
use crate::api::share_session::ShareSessions;
use crate::coordinator_log::Logged;
use crate::coordinator_log::at_home::{AtHome, Coordinators, LogJob};
use crate::limits::SHARE_BYTES_MAX;
use crate::message::Answer;
use crate::partition::Times;
use crate::shard::Shard;
use crate::share::Coordinator;
use crate::share::record::Key;
use crate::share::request::Reply;
use crate::share::rules::Rules;

/// What one shard has to do with share groups' records.
#[derive(Default)]
pub struct Shares {
    /// The coordinators that are at home here.
    pub log: Coordinators<Coordinator>,
    /// The sessions of members that fetch here.
    pub sessions: ShareSessions,
}

impl AtHome for Coordinator {
    const TOPIC: &'static str = SHARE_STATE_TOPIC;
    const THINGS: &'static str = "partitions of share groups";
    const BYTES_MAX: usize = SHARE_BYTES_MAX;

    fn of(shard: &mut Shard) -> (&mut Coordinators<Self>, &Image) {
        (&mut shard.shares.log, &shard.image)
    }

    fn new(shard: &mut Shard) -> Logged<Self> {
        let coordinator = Coordinator::new(shard.settings.group_defaults);
        Logged::new(coordinator, shard.settings.group_rewrite_bytes)
    }

    fn job(job: LogJob) -> Job {
        Job::Shares(job)
    }

    fn answer(reply: Reply) -> Answer {
        Answer::Share(Box::new(reply))
    }
}

impl Shard {
    /// What a share group is set to.
    pub(crate) fn share_rules(&self, group: &str) -> Rules {
        Rules::of(group, &self.settings.group_defaults, &self.image)
    }

    /// The partition of whoever knows what a group has read of this; none before the first share
    /// group.
    pub(crate) fn partition_of_share(&self, key: &Key) -> Option<TopicPartition> {
        self.partition_of::<Coordinator>(&key.name())
    }

    /// Does what a record of the metadata means for share groups' records.
    pub(crate) fn shares_follow(&mut self, record: &MetadataRecord, times: Times) {
        match record {
            MetadataRecord::TopicCreated { name, .. } if name == SHARE_STATE_TOPIC => {
                self.take_up_all::<Coordinator>(times);
            }
            MetadataRecord::TopicDeleted { id } => {
                self.shares.log.tell_all(|logged| logged.coordinator.topic_deleted(*id));
            }
            _ => {}
        }
    }
}
