//! The configs of a topic as values to work with, all layers resolved.

use super::{Layers, list, topic_config};

/// What is in force for one topic. A limit of none is no limit.
#[derive(Clone, Debug, PartialEq)]
pub struct TopicConfig {
    /// What becomes of old records.
    pub cleanup: Cleanup,
    /// The codec batches are kept in.
    pub compression: Compression,
    /// How long compaction keeps a deletion visible.
    pub delete_retention_ms: u64,
    /// Whether a record is on disk before it is acknowledged and read.
    pub durability: Durability,
    /// How long a file outlives its removal from the log.
    pub file_delete_delay_ms: u64,
    /// About how many bytes lie between two entries of the offset index.
    pub index_interval_bytes: u32,
    /// How long a record may wait for compaction.
    pub max_compaction_lag_ms: u64,
    /// The largest batch accepted, as compressed.
    pub max_message_bytes: u32,
    /// The share of a log not yet compacted at which compaction begins.
    pub min_cleanable_ratio: f64,
    /// How long a record is safe from compaction.
    pub min_compaction_lag_ms: u64,
    /// How many replicas must have a record for acks=all.
    pub min_in_sync_replicas: u32,
    /// How large a partition may grow before its oldest segments go.
    pub retention_bytes: Option<u64>,
    /// How old a record may become before its segment goes.
    pub retention_ms: Option<u64>,
    /// The size at which a segment is sealed.
    pub segment_bytes: u32,
    /// At most how much earlier than `segment_ms` a segment is sealed, at random.
    pub segment_jitter_ms: u64,
    /// The age at which a segment is sealed.
    pub segment_ms: u64,
    /// How far ahead of the broker's clock a record's timestamp may be.
    pub timestamp_after_max_ms: u64,
    /// How far behind the broker's clock a record's timestamp may be.
    pub timestamp_before_max_ms: u64,
    /// Whose clock stamps a record.
    pub timestamp_type: TimestampType,
    /// Whether a replica that may lack records can lead.
    pub unclean_leader_election: bool,
}

/// What becomes of old records: either, both, or neither.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Cleanup {
    /// Old segments are deleted.
    pub delete: bool,
    /// All but the last record per key are dropped.
    pub compact: bool,
}

/// The codec batches are kept in.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Compression {
    /// As the producer sent them.
    Producer,
    /// Not compressed.
    Uncompressed,
    /// gzip.
    Gzip,
    /// snappy.
    Snappy,
    /// lz4.
    Lz4,
    /// zstd.
    Zstd,
}

/// When a record counts as held by a replica.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Durability {
    /// Once it is on stable storage.
    Durable,
    /// Once it is in the log; stable storage follows.
    Relaxed,
}

/// Whose clock stamps a record.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum TimestampType {
    /// The producer's, or its application's.
    CreateTime,
    /// The broker's, at the append.
    LogAppendTime,
}

impl TopicConfig {
    /// What is in force under `layers`.
    #[must_use]
    pub fn resolve(layers: &Layers<'_>) -> Self {
        let text = |name: &str| {
            let definition = topic_config(name).expect("a name from the table");
            definition.effective(layers).0
        };
        let number = |name: &str| -> i64 {
            text(name).trim().parse().expect("effective values are of their kind")
        };
        // Kinds bound these from below by zero.
        let unsigned = |name: &str| number(name).unsigned_abs();
        let unsigned_32 = |name: &str| unsigned(name) as u32;
        let limit = |name: &str| u64::try_from(number(name)).ok();
        let policy = text("cleanup.policy");
        Self {
            cleanup: Cleanup {
                delete: list(&policy).any(|item| item == "delete"),
                compact: list(&policy).any(|item| item == "compact"),
            },
            compression: compression(&text("compression.type")),
            delete_retention_ms: unsigned("delete.retention.ms"),
            durability: match &*text("tidemill.durability") {
                "relaxed" => Durability::Relaxed,
                _ => Durability::Durable,
            },
            file_delete_delay_ms: unsigned("file.delete.delay.ms"),
            index_interval_bytes: unsigned_32("index.interval.bytes"),
            max_compaction_lag_ms: unsigned("max.compaction.lag.ms"),
            max_message_bytes: unsigned_32("max.message.bytes"),
            min_cleanable_ratio: text("min.cleanable.dirty.ratio")
                .trim()
                .parse()
                .expect("effective values are of their kind"),
            min_compaction_lag_ms: unsigned("min.compaction.lag.ms"),
            min_in_sync_replicas: unsigned_32("min.insync.replicas"),
            retention_bytes: limit("retention.bytes"),
            retention_ms: limit("retention.ms"),
            segment_bytes: unsigned_32("segment.bytes"),
            segment_jitter_ms: unsigned("segment.jitter.ms"),
            segment_ms: unsigned("segment.ms"),
            timestamp_after_max_ms: unsigned("message.timestamp.after.max.ms"),
            timestamp_before_max_ms: unsigned("message.timestamp.before.max.ms"),
            timestamp_type: match &*text("message.timestamp.type") {
                "LogAppendTime" => TimestampType::LogAppendTime,
                _ => TimestampType::CreateTime,
            },
            unclean_leader_election: text("unclean.leader.election.enable")
                .trim()
                .eq_ignore_ascii_case("true"),
        }
    }
}

fn compression(name: &str) -> Compression {
    match name {
        "uncompressed" => Compression::Uncompressed,
        "gzip" => Compression::Gzip,
        "snappy" => Compression::Snappy,
        "lz4" => Compression::Lz4,
        "zstd" => Compression::Zstd,
        _ => Compression::Producer,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metadata::Configs;

    /// Without any setting a topic is as Kafka's documentation says, and durable.
    #[test]
    fn defaults_are_kafkas() {
        let none = Configs::new();
        let layers = Layers { topic: Some(&none), node: &none, cluster: &none, file: &none };
        let config = TopicConfig::resolve(&layers);
        assert_eq!(config.cleanup, Cleanup { delete: true, compact: false });
        assert_eq!(config.retention_ms, Some(7 * 24 * 3600 * 1000));
        assert_eq!(config.retention_bytes, None);
        assert_eq!(config.segment_bytes, 1 << 30);
        assert_eq!(config.max_message_bytes, 1_048_588);
        assert_eq!(config.durability, Durability::Durable);
        assert_eq!(config.timestamp_type, TimestampType::CreateTime);
        assert_eq!(config.timestamp_before_max_ms, i64::MAX as u64);
    }

    /// A log that is both compacted and deleted says so in one list.
    #[test]
    fn a_policy_may_be_both() {
        let none = Configs::new();
        let set = |policy: &str| {
            let topic = [("cleanup.policy".to_owned(), policy.to_owned())].into();
            let layers = Layers { topic: Some(&topic), node: &none, cluster: &none, file: &none };
            TopicConfig::resolve(&layers).cleanup
        };
        assert_eq!(set("compact,delete"), Cleanup { delete: true, compact: true });
        assert_eq!(set("compact"), Cleanup { delete: false, compact: true });
        assert_eq!(set(""), Cleanup { delete: false, compact: false });
    }
}
