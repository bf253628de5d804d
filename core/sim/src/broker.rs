//! The broker as a [`Node`] of the simulated world: the real shards, with budgets so small that
//! every limit is met within a run.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use broker::config::Config;
use broker::message::Message;
use broker::placement::Endpoints;
use broker::shard::{Notice, Settings, Shard};
use tidemill_record::NodeId;
use tidemill_replication::config::OffsetReset;
use tidemill_runtime::edge::ShardId;
use tidemill_storage::Config as StorageConfig;

use crate::checker::shares::ShareRules;
use crate::network::{BOOTSTRAP_LISTENER, BOOTSTRAP_PORT, OWN_LISTENER, OWN_PORT};
use crate::random::Random;
use crate::run::share_rules;
use crate::world::{Node, Start};

/// The node under test.
#[derive(Debug)]
pub struct Broker {
    config: Config,
    segment_bytes: u32,
    storage: StorageConfig,
    group_rewrite_bytes: usize,
    share: Option<ShareRules>,
    notices: Option<Receiver<Notice>>,
    serving: bool,
    failure: Option<String>,
}

impl Broker {
    /// A broker whose budgets and limits are drawn from `seed`.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        let mut random = Random::new(seed).fork("broker");
        let mut config = Config::of_defaults();
        config.data_dir = "/".into();
        config.auto_create_topics = false;
        config.budgets.journal_bytes = *random.pick(&[2 << 20, 8 << 20]);
        config.budgets.tail_bytes = *random.pick(&[1 << 20, 8 << 20]);
        config.budgets.read_in_flight_bytes = config.budgets.tail_bytes / 64;
        let segment_bytes = *random.pick(&[32 << 10, 256 << 10, 1 << 20]);
        let storage = draw_sizes(&mut random);
        hurry(&mut config, segment_bytes);
        let of_compaction = &mut Random::new(seed).fork("compaction");
        config.compaction.backoff = Duration::from_millis(*of_compaction.pick(&[1, 20, 200]));
        config.compaction.map_bytes = *of_compaction.pick(&[1 << 10, 8 << 10, 1 << 20]);
        config.compaction.bytes_per_second = *of_compaction.pick(&[8 << 20, 32 << 20]);
        let group_rewrite_bytes = *random.pick(&[2 << 10, 16 << 10, 1 << 20]);
        let share = Some(share_rules(seed));
        Self { group_rewrite_bytes, share, ..Self::of(config, segment_bytes, storage) }
    }

    /// A broker with the usual budgets and limits.
    #[must_use]
    pub fn usual() -> Self {
        let mut config = Config::of_defaults();
        config.data_dir = "/".into();
        config.auto_create_topics = false;
        Self::of(config, 1 << 30, StorageConfig::default())
    }

    fn of(config: Config, segment_bytes: u32, storage: StorageConfig) -> Self {
        Self {
            config,
            segment_bytes,
            storage,
            group_rewrite_bytes: broker::limits::GROUP_REWRITE_BYTES,
            share: None,
            notices: None,
            serving: false,
            failure: None,
        }
    }

    fn hear(&mut self) {
        for notice in self.notices.iter().flat_map(Receiver::try_iter) {
            match notice {
                Notice::Serving { .. } => self.serving = true,
                Notice::Failed(error) => self.failure = Some(error.to_string()),
                Notice::Stopped => self.serving = false,
            }
        }
    }
}

impl Node for Broker {
    type Message = Message;
    type Shard = Shard;

    fn start(&mut self, start: &Start) -> Vec<Shard> {
        let (notify, notices) = channel();
        self.notices = Some(notices);
        self.serving = false;
        self.failure = None;
        let endpoints = Endpoints {
            node: NodeId(self.config.node_id),
            host: "10.0.0.2".to_owned(),
            port: BOOTSTRAP_PORT,
            shard_ports: (0..start.shards).map(|shard| OWN_PORT + shard).collect(),
            rack: None,
        };
        let seed = u128::from(start.seed);
        let mut settings = Settings::new(self.config.clone(), start.shards, endpoints, seed);
        // Below what a user may ask for, so that logs roll within a run.
        let segment_bytes = ("log.segment.bytes".to_owned(), self.segment_bytes.to_string());
        settings.file_configs.extend([segment_bytes]);
        settings.storage = self.storage.clone();
        settings.group_rewrite_bytes = self.group_rewrite_bytes;
        if let Some(rules) = self.share {
            let share = &mut settings.group_defaults.share;
            share.record_lock_ms = rules.lock.as_millis() as u64;
            share.delivery_count_limit = rules.deliveries_max as u32;
            share.read_committed = rules.read_committed;
            share.auto_offset_reset = OffsetReset::Earliest;
            (share.session_ms, share.heartbeat_ms) = (1_500, 300);
        }
        let settings = Arc::new(settings);
        let shard = |number: u16| {
            let notify = notify.clone();
            let listeners = vec![BOOTSTRAP_LISTENER, OWN_LISTENER];
            // Nobody listens any more once the process was killed.
            let notify = Box::new(move |notice| drop(notify.send(notice)));
            Shard::new(Arc::clone(&settings), ShardId(number), listeners, notify)
        };
        (0..start.shards).map(shard).collect()
    }

    fn stop(&mut self) -> Vec<(ShardId, Message)> {
        vec![(ShardId(0), Message::Stop)]
    }

    fn is_serving(&mut self) -> bool {
        self.hear();
        self.serving
    }

    fn failure(&mut self) -> Option<String> {
        self.hear();
        self.failure.clone()
    }
}

/// Gives groups times that pass within a run, and little room.
fn hurry(config: &mut Config, segment_bytes: u32) {
    config.groups.session_min = Duration::from_millis(1);
    config.groups.initial_delay = Duration::from_millis(50);
    config.groups.consumer_session = Duration::from_millis(1_500);
    config.groups.topic_partitions = 3;
    config.groups.topic_segment_bytes = segment_bytes;
    config.transactions.topic_partitions = 3;
    config.transactions.topic_segment_bytes = segment_bytes;
}

/// Sizes at which journal files fill and are used again within a run, or the usual ones.
fn draw_sizes(random: &mut Random) -> StorageConfig {
    if random.happens(100_000) {
        return StorageConfig::default();
    }
    let file = *random.pick(&[128 << 10, 256 << 10, 1 << 20]);
    let window = file / 4;
    StorageConfig {
        window_bytes_close: window / 4,
        window_bytes_max: window,
        windows_in_flight_max: random.between(1, 4) as usize,
        journal_file_bytes: file as u64,
        // Of all shards together: reached before a ring of files is full, and after one file is.
        replay_bytes_max: 4 * file as u64,
        replay_pending_bytes_max: *random.pick(&[16 << 10, 256 << 10, 64 << 20]),
        flush_bytes: *random.pick(&[4 << 10, 16 << 10, 64 << 10]),
        flush_in_flight_bytes_max: *random.pick(&[64 << 10, 1 << 20]),
        read_bytes_max: *random.pick(&[8 << 10, 64 << 10, 1 << 20]),
        reads_in_flight_max: random.between(1, 8) as usize,
        index_bytes_max: *random.pick(&[4 << 10, 1 << 20]),
        large_run_bytes: window,
        allocate_bytes_min: *random.pick(&[4 << 10, 64 << 10]),
        allocate_bytes_max: *random.pick(&[64 << 10, 1 << 20]),
        sync_files_max: random.between(0, 4) as usize,
        ..StorageConfig::default()
    }
}
