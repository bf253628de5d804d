//! The table of topic configs: Kafka's of version 4, and ours.
//!
//! All of Kafka's are listed, also those that mean nothing here, since tools look them up by name.

use super::Kind::{Boolean, Choice, Double, Int, List, Long};
use super::{Definition, Kind, Synonym};

const INT_MAX: i64 = i32::MAX as i64;

/// All topic configs, in the order of their names.
pub static TOPIC_CONFIGS: &[Definition] = &[
    define(
        "cleanup.policy",
        List(&["delete", "compact"]),
        "delete",
        &synonyms([("log.cleanup.policy", 1)]),
        "What becomes of old records: deleted, or compacted to the last one per key; empty: they stay.",
    ),
    define(
        "compression.gzip.level",
        Int(-1, 9),
        "-1",
        &synonyms([("compression.gzip.level", 1)]),
        "The level for gzip, where the broker compresses.",
    ),
    define(
        "compression.lz4.level",
        Int(1, 17),
        "9",
        &synonyms([("compression.lz4.level", 1)]),
        "The level for lz4, where the broker compresses.",
    ),
    define(
        "compression.type",
        Choice(&["uncompressed", "zstd", "lz4", "snappy", "gzip", "producer"]),
        "producer",
        &synonyms([("compression.type", 1)]),
        "The codec batches are kept in; `producer` keeps what was sent.",
    ),
    define(
        "compression.zstd.level",
        Int(-131_072, 22),
        "3",
        &synonyms([("compression.zstd.level", 1)]),
        "The level for zstd, where the broker compresses.",
    ),
    define(
        "delete.retention.ms",
        Long(0, i64::MAX),
        "86400000",
        &synonyms([("log.cleaner.delete.retention.ms", 1)]),
        "How long compaction keeps a deletion visible.",
    ),
    define(
        "file.delete.delay.ms",
        Long(0, i64::MAX),
        "60000",
        &synonyms([("log.segment.delete.delay.ms", 1)]),
        "How long a file outlives its removal from the log.",
    ),
    define(
        "flush.messages",
        Long(1, i64::MAX),
        "9223372036854775807",
        &synonyms([("log.flush.interval.messages", 1)]),
        "Accepted for Kafka's sake: every acknowledged record is on disk already.",
    ),
    define(
        "flush.ms",
        Long(0, i64::MAX),
        "9223372036854775807",
        &synonyms([("log.flush.interval.ms", 1)]),
        "Accepted for Kafka's sake: every acknowledged record is on disk already.",
    ),
    define(
        "follower.replication.throttled.replicas",
        List(&[]),
        "",
        &[],
        "Replicas whose fetching is throttled.",
    ),
    define(
        "index.interval.bytes",
        Int(0, INT_MAX),
        "4096",
        &synonyms([("log.index.interval.bytes", 1)]),
        "About how many bytes lie between two entries of the offset index.",
    ),
    define(
        "leader.replication.throttled.replicas",
        List(&[]),
        "",
        &[],
        "Replicas whose sending is throttled.",
    ),
    define(
        "local.retention.bytes",
        Long(-2, i64::MAX),
        "-2",
        &synonyms([("log.local.retention.bytes", 1)]),
        "How much stays here when older data is in remote storage.",
    ),
    define(
        "local.retention.ms",
        Long(-2, i64::MAX),
        "-2",
        &synonyms([("log.local.retention.ms", 1)]),
        "How long data stays here when older data is in remote storage.",
    ),
    define(
        "max.compaction.lag.ms",
        Long(1, i64::MAX),
        "9223372036854775807",
        &synonyms([("log.cleaner.max.compaction.lag.ms", 1)]),
        "How long a record may wait for compaction.",
    ),
    define(
        "max.message.bytes",
        Int(0, INT_MAX),
        "1048588",
        &synonyms([("message.max.bytes", 1)]),
        "The largest batch accepted, as compressed.",
    ),
    define(
        "message.timestamp.after.max.ms",
        Long(0, i64::MAX),
        "3600000",
        &synonyms([("log.message.timestamp.after.max.ms", 1)]),
        "How far ahead of the broker's clock a record's timestamp may be.",
    ),
    define(
        "message.timestamp.before.max.ms",
        Long(0, i64::MAX),
        "9223372036854775807",
        &synonyms([("log.message.timestamp.before.max.ms", 1)]),
        "How far behind the broker's clock a record's timestamp may be.",
    ),
    define(
        "message.timestamp.type",
        Choice(&["CreateTime", "LogAppendTime"]),
        "CreateTime",
        &synonyms([("log.message.timestamp.type", 1)]),
        "Whose clock stamps a record: the producer's or the broker's.",
    ),
    define(
        "min.cleanable.dirty.ratio",
        Double(0.0, 1.0),
        "0.5",
        &synonyms([("log.cleaner.min.cleanable.ratio", 1)]),
        "The share of a log not yet compacted at which compaction begins.",
    ),
    define(
        "min.compaction.lag.ms",
        Long(0, i64::MAX),
        "0",
        &synonyms([("log.cleaner.min.compaction.lag.ms", 1)]),
        "How long a record is safe from compaction.",
    ),
    define(
        "min.insync.replicas",
        Int(1, INT_MAX),
        "1",
        &synonyms([("min.insync.replicas", 1)]),
        "How many replicas must have a record for acks=all.",
    ),
    define(
        "preallocate",
        Boolean,
        "false",
        &synonyms([("log.preallocate", 1)]),
        "Accepted for Kafka's sake: space is always reserved before it is written.",
    ),
    define(
        "remote.log.copy.disable",
        Boolean,
        "false",
        &[],
        "Whether nothing more is copied to remote storage.",
    ),
    define(
        "remote.log.delete.on.disable",
        Boolean,
        "false",
        &[],
        "Whether turning remote storage off deletes what is there.",
    ),
    define(
        "remote.storage.enable",
        Choice(&["false"]),
        "false",
        &[],
        "Whether old segments move to remote storage; not available yet.",
    ),
    define(
        "retention.bytes",
        Long(-1, i64::MAX),
        "-1",
        &synonyms([("log.retention.bytes", 1)]),
        "How large a partition may grow before its oldest segments go; -1 for no limit.",
    ),
    define(
        "retention.ms",
        Long(-1, i64::MAX),
        "604800000",
        &synonyms([
            ("log.retention.ms", 1),
            ("log.retention.minutes", 60_000),
            ("log.retention.hours", 3_600_000),
        ]),
        "How old a record may become before its segment goes; -1 for no limit.",
    ),
    define(
        "segment.bytes",
        // Kafka's least is 1 MiB. Small ones let a test see a log roll.
        Int(16_384, INT_MAX),
        "1073741824",
        &synonyms([("log.segment.bytes", 1)]),
        "The size at which a segment is sealed.",
    ),
    define(
        "segment.index.bytes",
        Int(4, INT_MAX),
        "10485760",
        &synonyms([("log.index.size.max.bytes", 1)]),
        "The largest index of a segment.",
    ),
    define(
        "segment.jitter.ms",
        Long(0, i64::MAX),
        "0",
        &synonyms([("log.roll.jitter.ms", 1), ("log.roll.jitter.hours", 3_600_000)]),
        "At most how much earlier than segment.ms a segment is sealed, at random.",
    ),
    define(
        "segment.ms",
        Long(1, i64::MAX),
        "604800000",
        &synonyms([("log.roll.ms", 1), ("log.roll.hours", 3_600_000)]),
        "The age at which a segment is sealed.",
    ),
    define(
        "tidemill.durability",
        Choice(&["durable", "relaxed"]),
        "durable",
        &synonyms([("tidemill.durability", 1)]),
        "Whether a record is on disk before it is acknowledged and read, or soon after.",
    ),
    define(
        "unclean.leader.election.enable",
        Boolean,
        "false",
        &synonyms([("unclean.leader.election.enable", 1)]),
        "Whether a replica that may lack records can lead.",
    ),
];

/// Configs of nodes that no topic inherits and that can be changed while a node runs. Their bounds
/// are those of the node's own settings, and so are their defaults.
pub static NODE_CONFIGS: &[NodeKind] = &[
    NodeKind { name: "follower.replication.throttled.rate", kind: Long(0, i64::MAX) },
    NodeKind { name: "leader.replication.throttled.rate", kind: Long(0, i64::MAX) },
    NodeKind { name: "max.connections", kind: Int(1, 1_000_000) },
    NodeKind { name: "producer.id.expiration.ms", kind: Int(1, INT_MAX) },
    NodeKind { name: "replica.alter.log.dirs.io.max.bytes.per.second", kind: Long(0, i64::MAX) },
];

/// What values a config of nodes takes.
#[derive(Clone, Copy, Debug)]
pub struct NodeKind {
    /// Its name.
    pub name: &'static str,
    /// What values it takes.
    pub kind: Kind,
}

/// The topic config of this name.
#[must_use]
pub fn topic_config(name: &str) -> Option<&'static Definition> {
    let place = TOPIC_CONFIGS.binary_search_by(|definition| definition.name.cmp(name)).ok()?;
    Some(&TOPIC_CONFIGS[place])
}

const fn define(
    name: &'static str,
    kind: Kind,
    default: &'static str,
    synonyms: &'static [Synonym],
    doc: &'static str,
) -> Definition {
    Definition { name, kind, default, synonyms, doc }
}

const fn synonyms<const N: usize>(pairs: [(&'static str, i64); N]) -> [Synonym; N] {
    let mut synonyms = [Synonym { name: "", factor: 1 }; N];
    let mut i = 0;
    while i < N {
        synonyms[i] = Synonym { name: pairs[i].0, factor: pairs[i].1 };
        i += 1;
    }
    synonyms
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The table is found in by bisection, and whatever nobody sets is valid.
    #[test]
    fn the_table_is_in_order_and_each_default_is_a_value_of_its_kind() {
        assert!(TOPIC_CONFIGS.is_sorted_by(|a, b| a.name < b.name));
        for definition in TOPIC_CONFIGS {
            definition.kind.check(definition.default).unwrap();
            assert!(topic_config(definition.name).is_some());
            assert!(!definition.doc.is_empty());
        }
    }
}
