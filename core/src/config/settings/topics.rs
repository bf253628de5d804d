//! The settings of topics: what is kept of them, and how they are written and read.

use super::kind::{I32_MAX, KIB, Kind, MIB, TIB, Unit, bytes, count, millis};
use super::{Setting, setting};
use crate::limits;

/// Topics, their records, and who writes and reads them.
pub(super) static TOPICS: &[Setting] = &[
    // Topics.
    setting(
        "auto.create.topics.enable",
        Kind::Boolean,
        "true",
        "Whether asking for the metadata of a missing topic creates it, if the client allows.",
    ),
    setting(
        "num.partitions",
        count(1, limits::PARTITIONS_PER_TOPIC_MAX as i64),
        "1",
        "Partitions of a topic whose creator does not say how many.",
    ),
    setting(
        "default.replication.factor",
        count(1, limits::REPLICAS_MAX as i64),
        "1",
        "Replicas of a topic whose creator does not say how many.",
    ),
    setting(
        "min.insync.replicas",
        count(1, limits::REPLICAS_MAX as i64),
        "1",
        "With acks=all, how many replicas must be in sync for a produce to be accepted.",
    ),
    setting(
        "tidemill.durability",
        Kind::Choice(&["durable", "relaxed"]),
        "durable",
        "durable: a record counts as acknowledged once it is on disk. relaxed: once it is in \
         memory, as in Kafka.",
    ),
    // Retention and segments.
    setting(
        "log.retention.ms",
        millis(-1, i64::MAX),
        "",
        "How long records are kept; -1: for ever. Wins over log.retention.minutes and .hours.",
    ),
    setting(
        "log.retention.minutes",
        Kind::Integer { unit: Unit::Minutes, min: -1, max: I32_MAX },
        "",
        "How long records are kept, if log.retention.ms is not given.",
    ),
    setting(
        "log.retention.hours",
        Kind::Integer { unit: Unit::Hours, min: -1, max: I32_MAX },
        "168",
        "How long records are kept, if neither log.retention.ms nor .minutes is given.",
    ),
    setting(
        "log.retention.bytes",
        bytes(-1, i64::MAX),
        "-1",
        "How many bytes of a partition are kept; -1: no limit.",
    ),
    setting(
        "log.retention.check.interval.ms",
        millis(1, i64::MAX),
        "300000",
        "How often it is looked whether segments have grown too old or too many.",
    ),
    setting(
        "log.segment.bytes",
        bytes(16 * KIB, I32_MAX),
        "1073741824",
        "The size at which a partition's segment is sealed and a new one begins.",
    ),
    setting(
        "log.roll.ms",
        millis(1, i64::MAX),
        "",
        "The age at which a partition's segment is sealed; wins over log.roll.hours.",
    ),
    setting(
        "log.roll.hours",
        Kind::Integer { unit: Unit::Hours, min: 1, max: I32_MAX },
        "168",
        "The age at which a partition's segment is sealed, if log.roll.ms is not given.",
    ),
    setting(
        "log.cleaner.enable",
        Kind::Boolean,
        "true",
        "Whether topics with cleanup.policy=compact are compacted.",
    ),
    setting(
        "log.cleaner.backoff.ms",
        millis(1, I32_MAX),
        "15000",
        "How long compaction rests when no log is due.",
    ),
    setting(
        "log.cleaner.dedupe.buffer.size",
        bytes(MIB, TIB),
        "134217728",
        "The most memory, over all shards, for the keys of logs being compacted: about 27 bytes for \
         each. It is taken while a log is compacted; one with more keys takes several rounds.",
    ),
    setting(
        "log.cleaner.io.max.bytes.per.second",
        bytes(KIB, i64::MAX),
        "33554432",
        "How much compaction reads and writes in a second, over all shards.",
    ),
    setting(
        "log.message.timestamp.type",
        Kind::Choice(&["CreateTime", "LogAppendTime"]),
        "CreateTime",
        "Whose time a record carries: its producer's or the broker's.",
    ),
    setting(
        "log.message.timestamp.before.max.ms",
        millis(0, i64::MAX),
        "9223372036854775807",
        "How far behind the broker's clock a record's timestamp may be; records are unpacked to find \
         out, unless any is allowed.",
    ),
    setting(
        "log.message.timestamp.after.max.ms",
        millis(0, i64::MAX),
        "3600000",
        "How far ahead of the broker's clock a record's timestamp may be.",
    ),
    setting(
        "compression.type",
        Kind::Choice(&["uncompressed", "zstd", "lz4", "snappy", "gzip", "producer"]),
        "producer",
        "The codec batches are kept in: what comes in another one is made anew, away from the shards. \
         producer: as they were sent.",
    ),
    setting(
        "message.max.bytes",
        bytes(limits::BATCH_BYTES_MIN as i64, limits::BATCH_BYTES_MAX as i64),
        "1048588",
        "The largest record batch accepted, as compressed by its producer.",
    ),
    // Producers and consumers.
    setting(
        "producer.id.expiration.ms",
        millis(1, I32_MAX),
        "86400000",
        "How long an idempotent producer is remembered after its last batch.",
    ),
    setting(
        "fetch.max.bytes",
        bytes(KIB, limits::FETCH_BYTES_MAX as i64),
        "57671680",
        "The most bytes of records in one answer to a fetch.",
    ),
    setting(
        "max.incremental.fetch.session.cache.slots",
        count(0, limits::FETCH_SESSIONS_MAX as i64),
        "1000",
        "How many incremental fetch sessions the node keeps. The longest unused one makes room for \
         another after two minutes; until then clients go without.",
    ),
];
