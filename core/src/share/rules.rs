//! What a share group is set to, as its coordinator and those who fetch for it need it.

use std::time::Duration;

use tidemill_replication::config::{GroupConfig, OffsetReset};
use tidemill_replication::metadata::Image;

/// What a share group is set to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Rules {
    /// Where it begins to read a partition it has never read.
    pub reset: OffsetReset,
    /// It gets records of transactions only when these are committed.
    pub read_committed: bool,
    /// For how long nobody else gets what a member has.
    pub lock: Duration,
    /// How often a record is given out at most.
    pub deliveries_max: i16,
    /// How many records of a partition may be given out and not done with.
    pub locks_max: i64,
    /// Members may ask for more time.
    pub renew_allowed: bool,
    /// How long a member may be silent.
    pub session: Duration,
    /// How often members are to be heard.
    pub heartbeat: Duration,
}

impl Rules {
    /// What a group is set to, where `defaults` is for those that are set to nothing.
    pub fn of(group: &str, defaults: &GroupConfig, image: &Image) -> Self {
        let config = defaults.with(image.group_configs(group)).share;
        Self {
            reset: config.auto_offset_reset,
            read_committed: config.read_committed,
            lock: Duration::from_millis(config.record_lock_ms),
            deliveries_max: i16::try_from(config.delivery_count_limit).unwrap_or(i16::MAX),
            locks_max: i64::from(config.partition_record_locks_max),
            renew_allowed: config.renew_acknowledge,
            session: Duration::from_millis(config.session_ms),
            heartbeat: Duration::from_millis(config.heartbeat_ms),
        }
    }
}
