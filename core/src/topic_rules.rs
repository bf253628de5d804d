//! From the metadata to the partitions of a shard: which live here, and under which rules.
//!
//! Configs are resolved here, once for each change, so that the hot path only reads numbers.

use std::ops::Range;
use std::sync::Arc;

use tidemill_record::{Codec, Offset, PartitionId, TopicPartition};
use tidemill_replication::config::{
    Compression, Durability as TopicDurability, Layers, TimestampType, TopicConfig, set_on_node,
};
use tidemill_replication::controller::is_internal;
use tidemill_replication::metadata::{Configs, Image, Record, Resource, Topic};
use tidemill_runtime::edge::Instant;
use tidemill_storage::compaction::policy::When;
use tidemill_storage::{Config as StorageConfig, Durability, LogConfig, TimestampPolicy};

use crate::config::CompactionSettings;
use crate::limits::BATCH_BYTES_MAX;
use crate::partition::{CompactionLimits, CompactionRules, Rules};
use crate::placement;
use crate::rework::Wanted;
use crate::shard::{Settings, Shard};

/// What one shard's storage may use: its share of the node's budgets.
pub fn storage_config(settings: &Settings) -> StorageConfig {
    let shards = u64::from(settings.shards);
    let budgets = &settings.config.budgets;
    StorageConfig {
        journal_bytes_max: budgets.journal_bytes / shards,
        tail_bytes_max: (budgets.tail_bytes / shards) as usize,
        read_bytes_in_flight_max: (budgets.read_in_flight_bytes / shards) as usize,
        // One recovery replays what all shards have left.
        replay_bytes_max: settings.storage.replay_bytes_max / shards,
        ..settings.storage.clone()
    }
}

/// The layers of configs that hold for a topic on this node.
pub fn layers<'a>(settings: &'a Settings, image: &'a Image, topic: &'a Configs) -> Layers<'a> {
    Layers {
        topic: Some(topic),
        node: image.node_configs(settings.endpoints.node),
        cluster: image.cluster_configs(),
        file: &settings.file_configs,
    }
}

/// A number that was set on this node, or on all, while it ran.
pub fn node_number(name: &str, settings: &Settings, image: &Image) -> Option<i64> {
    let node = image.node_configs(settings.endpoints.node);
    let value = set_on_node(name, node, image.cluster_configs())?;
    Some(value.trim().parse().expect("the value was checked against its kind"))
}

/// Says which records are damaged, in the words that an operator's commands take.
pub fn tell_damage(
    image: &Image,
    settings: &Settings,
    id: TopicPartition,
    offsets: &Range<Offset>,
) {
    let topic = image.topic(id.topic).map_or("(deleted)", |topic| &*topic.name);
    let partition = id.partition.0;
    let partitions = settings.config.data_dir.join("partitions");
    let directory = partitions.join(format!("{}/{partition}", id.topic));
    // Behind a damaged end nothing is known: there is no last offset to name.
    let to = match offsets.end.0 {
        i64::MAX => "the end".to_owned(),
        end => (end - 1).max(offsets.start.0).to_string(),
    };
    tracing::error!(
        topic,
        partition,
        from = offsets.start.0,
        to,
        directory = %directory.display(),
        fix = "tidemill inspect segment FILE, of the files *.log there the last whose name is not \
               above `from`; then see \"When the disk fails\" in docs/operating/running.md",
        "records are damaged and will not be served"
    );
}

/// Takes in every partition whose home this shard is.
pub fn adopt_all(shard: &mut Shard) {
    let topics: Vec<_> = shard.image.topics().cloned().collect();
    for topic in topics {
        adopt_topic(shard, &topic, 0);
    }
}

/// Does to the partitions of this shard what a record that was just replayed means for them.
pub fn apply(record: &Record, shard: &mut Shard, now: Instant) {
    match record {
        Record::TopicCreated { id, .. } => {
            let topic = shard.image.topic(*id).cloned().expect("it was just made");
            adopt_topic(shard, &topic, 0);
        }
        Record::PartitionsAdded { topic, partitions, .. } => {
            let topic = shard.image.topic(*topic).cloned().expect("it was just extended");
            let first_new = topic.partitions.len() - partitions.len();
            adopt_topic(shard, &topic, first_new);
        }
        Record::TopicDeleted { id } => {
            let tombstones = shard.image.tombstones();
            let partitions = tombstones.filter(|(topic, _)| topic == id).map(|(_, t)| t.partitions);
            let count = partitions.last().expect("a deleted topic leaves a tombstone");
            for number in 0..count as i32 {
                let partition = TopicPartition { topic: *id, partition: PartitionId(number) };
                if let Some(home) = &mut shard.home {
                    home.delete(partition, now);
                }
            }
        }
        Record::ConfigChanged { resource: Resource::Topic(id), .. } => {
            let topic = shard.image.topic(*id).cloned().expect("its config was just changed");
            adopt_topic(shard, &topic, 0);
        }
        // Coordinators look it up when they need it.
        Record::ConfigChanged { resource: Resource::Group(_), .. } => {}
        Record::ConfigChanged { .. } => adopt_all(shard),
        Record::ClusterCreated { .. }
        | Record::NodeStarted { .. }
        | Record::TopicDeletionFinished { .. }
        | Record::ProducerIdsGranted { .. }
        | Record::QuotaChanged { .. } => {}
    }
}

/// What compaction may use on one shard: its share of the node's budgets.
pub fn compaction_limits(settings: &Settings) -> CompactionLimits {
    let shards = u64::from(settings.shards);
    let CompactionSettings { enabled, backoff, map_bytes, bytes_per_second } =
        settings.config.compaction;
    CompactionLimits {
        enabled,
        backoff,
        map_bytes_max: (map_bytes / shards) as usize,
        bytes_per_second: (bytes_per_second / shards).max(1),
        seed: [settings.seed as u64, (settings.seed >> 64) as u64],
    }
}

fn adopt_topic(shard: &mut Shard, topic: &Topic, first: usize) {
    let Some(home) = &mut shard.home else { return };
    let settings = &shard.settings;
    let config = TopicConfig::resolve(&layers(settings, &shard.image, &topic.configs));
    // Of what is theirs, coordinators themselves keep the last record of each key only.
    let is_compacted = config.cleanup.compact && !is_internal(&topic.name);
    let mut log = log_config(&config, settings, &shard.image);
    if is_compacted {
        // What may not wait longer for compaction may not stay longer in the active segment.
        log.segment_ms = log.segment_ms.min(clamp(config.max_compaction_lag_ms));
    }
    for (number, partition) in topic.partitions.iter().enumerate().skip(first) {
        let id = TopicPartition { topic: topic.id, partition: PartitionId(number as i32) };
        if placement::home(id, settings.shards) != shard.id {
            continue;
        }
        let rules = Rules {
            topic: Arc::clone(&topic.name),
            leader_epoch: shard.image.leader_epoch_of(partition),
            batch_bytes_max: config.max_message_bytes.min(BATCH_BYTES_MAX),
            replicas: partition.replicas.len() as u32,
            min_in_sync: config.min_in_sync_replicas,
            ahead_max_ms: i64::try_from(config.timestamp_after_max_ms).unwrap_or(i64::MAX),
            wanted: Wanted { keys: is_compacted, ..wanted(&config) },
            log: log.clone(),
            compaction: is_compacted.then(|| compaction_rules(&config)),
        };
        home.adopt(id, rules);
    }
}

/// Whether the logs of a topic with these settings are compacted.
pub(crate) fn is_compacted(settings: &Settings, image: &Image, configs: &Configs) -> bool {
    TopicConfig::resolve(&layers(settings, image, configs)).cleanup.compact
}

/// Whether records of a topic with these settings may be deleted because they are old, by retention
/// or by whoever asks for it: of one that is only compacted each key's last record stays.
pub(crate) fn may_delete(settings: &Settings, image: &Image, configs: &Configs) -> bool {
    TopicConfig::resolve(&layers(settings, image, configs)).cleanup.delete
}

fn compaction_rules(config: &TopicConfig) -> CompactionRules {
    CompactionRules {
        when: When {
            dirty_ratio_min: config.min_cleanable_ratio,
            lag_min_ms: clamp(config.min_compaction_lag_ms),
            lag_max_ms: clamp(config.max_compaction_lag_ms),
        },
        delete_retention_ms: clamp(config.delete_retention_ms),
    }
}

fn clamp(ms: u64) -> i64 {
    i64::try_from(ms).unwrap_or(i64::MAX)
}

/// What is done to batches before they are appended.
fn wanted(config: &TopicConfig) -> Wanted {
    let codec = match config.compression {
        Compression::Producer => None,
        Compression::Uncompressed => Some(Codec::None),
        Compression::Gzip => Some(Codec::Gzip),
        Compression::Snappy => Some(Codec::Snappy),
        Compression::Lz4 => Some(Codec::Lz4),
        Compression::Zstd => Some(Codec::Zstd),
    };
    // Where the broker's clock stamps the records, theirs does not matter.
    let theirs = config.timestamp_type == TimestampType::CreateTime;
    let behind = i64::try_from(config.timestamp_before_max_ms).ok();
    Wanted { codec, behind_max_ms: behind.filter(|ms| theirs && *ms < i64::MAX), keys: false }
}

fn log_config(config: &TopicConfig, settings: &Settings, image: &Image) -> LogConfig {
    let expiration_ms = settings.config.producer_id_expiration.as_millis() as u64;
    let ms = clamp;
    LogConfig {
        segment_bytes: u64::from(config.segment_bytes),
        segment_ms: ms(config.segment_ms),
        // Compacted topics keep the last record of each key, however old.
        retention_ms: config.retention_ms.filter(|_| config.cleanup.delete).map(ms),
        retention_bytes: config.retention_bytes.filter(|_| config.cleanup.delete),
        timestamps: match config.timestamp_type {
            TimestampType::CreateTime => TimestampPolicy::CreateTime,
            TimestampType::LogAppendTime => TimestampPolicy::LogAppendTime,
        },
        durability: match config.durability {
            TopicDurability::Durable => Durability::Durable,
            TopicDurability::Relaxed => Durability::Relaxed,
        },
        producer_expiration_ms: node_number("producer.id.expiration.ms", settings, image)
            .unwrap_or(ms(expiration_ms)),
    }
}
