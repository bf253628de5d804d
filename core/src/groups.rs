//! The group coordinators at home on this shard: where they are kept, and what of the metadata they
//! are told.
//!
//! How they come to know their groups, and how what they decide gets to the disk, is the same for
//! all coordinators: see [`crate::coordinator_log::at_home`].

use std::sync::Arc;
use std::time::Duration;

use tidemill_record::TopicPartition;
use tidemill_replication::controller::OFFSETS_TOPIC;
use tidemill_replication::metadata::{Image, Record as MetadataRecord};

use crate::api::Job;
use crate::coordinator::request::Reply;
use crate::coordinator::{Coordinator, Rules};
use crate::coordinator_log::at_home::{AtHome, Coordinators, LogJob};
use crate::coordinator_log::{Logged, Now};
use crate::limits::{GROUP_RECORD_BYTES_MAX, GROUPS_BYTES_MAX, NEW_MEMBER_WAIT_MS};
use crate::message::Answer;
use crate::partition::Times;
use crate::random::Random;
use crate::shard::{Settings, Shard};

/// The group coordinators of one shard.
pub struct Groups {
    /// Those at home here.
    pub coordinators: Coordinators<Coordinator>,
    rules: Arc<Rules>,
    random: Random,
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
            upgrades: groups.upgrades,
            downgrades: groups.downgrades,
            record_bytes_max: GROUP_RECORD_BYTES_MAX,
            offset_metadata_bytes_max: groups.offset_metadata_bytes_max as usize,
            offsets_retention_ms: groups.offsets_retention.as_millis() as i64,
            expiry_interval: groups.expiry_interval,
        };
        Self {
            coordinators: Coordinators::default(),
            rules: Arc::new(rules),
            random: Random::new(settings.seed ^ 3 ^ u128::from(shard) << 64),
        }
    }
}

impl AtHome for Coordinator {
    const TOPIC: &'static str = OFFSETS_TOPIC;
    const THINGS: &'static str = "groups";
    const BYTES_MAX: usize = GROUPS_BYTES_MAX;

    fn of(shard: &mut Shard) -> (&mut Coordinators<Self>, &Image) {
        (&mut shard.groups.coordinators, &shard.image)
    }

    fn new(shard: &mut Shard) -> Logged<Self> {
        let seed = u128::from_be_bytes(shard.groups.random.uuid());
        let coordinator = Self::new(Arc::clone(&shard.groups.rules), seed);
        Logged::new(coordinator, shard.settings.group_rewrite_bytes)
    }

    fn linger(shard: &Shard) -> Duration {
        shard.settings.config.groups.append_linger
    }

    fn job(job: LogJob) -> Job {
        Job::Groups(job)
    }

    fn answer(reply: Reply) -> Answer {
        Answer::Group(Box::new(reply))
    }
}

impl Shard {
    /// The partition whose coordinator a group belongs to; none before the first group was looked
    /// for.
    pub(crate) fn partition_of_group(&self, group: &str) -> Option<TopicPartition> {
        self.partition_of::<Coordinator>(group)
    }

    /// All partitions that groups are kept in.
    pub(crate) fn partitions_of_groups(&self) -> Vec<TopicPartition> {
        self.partitions_of::<Coordinator>()
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
                self.take_up_all::<Coordinator>(times);
            }
            MetadataRecord::TopicDeleted { .. } => {
                let Some(name) = deleted else { return };
                let now = Now { times, image: &self.image };
                // Those that are loading look for themselves what is gone.
                let tell = |logged: &mut Logged<Coordinator>| {
                    logged.coordinator.topic_deleted(&name, now);
                };
                self.groups.coordinators.tell_all(tell);
            }
            _ => {}
        }
    }
}
