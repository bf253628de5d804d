//! The settings of what brokers coordinate: groups, the offsets they commit, and transactions.

use super::kind::{I32_MAX, Kind, Unit, bytes, count, millis};
use super::{Setting, setting};
use crate::limits;

/// Groups and their offsets.
pub(super) static GROUPS: &[Setting] = &[
    setting(
        "group.min.session.timeout.ms",
        millis(1, I32_MAX),
        "6000",
        "The shortest session a member of a group may ask for: how long it may be silent.",
    ),
    setting(
        "group.max.session.timeout.ms",
        millis(1, I32_MAX),
        "1800000",
        "The longest session a member of a group may ask for.",
    ),
    setting(
        "group.initial.rebalance.delay.ms",
        millis(0, I32_MAX),
        "3000",
        "How long a group that was empty waits for more members before it shares out. Consumers \
         that start alone start so much later.",
    ),
    setting(
        "group.coordinator.append.linger.ms",
        millis(0, 60_000),
        "5",
        "How long offsets that groups commit wait at most for those of other groups, to be written \
         together. A group that commits alone does not wait.",
    ),
    setting(
        "group.max.size",
        count(1, limits::GROUP_MEMBERS_MAX as i64),
        "10000",
        "How many members a group may have.",
    ),
    setting(
        "group.consumer.session.timeout.ms",
        millis(1, I32_MAX),
        "45000",
        "How long a member of a group of the newer kind (group.protocol=consumer) may be silent.",
    ),
    setting(
        "group.consumer.heartbeat.interval.ms",
        millis(1, I32_MAX),
        "5000",
        "How often members of such a group are asked to say that they live.",
    ),
    setting(
        "group.consumer.migration.policy",
        Kind::Choice(&["bidirectional", "upgrade", "downgrade", "disabled"]),
        "bidirectional",
        "Whether a group changes its kind under its members: from the classic protocol to the newer \
         one when the first member that speaks it joins (upgrade), and back when the last one has \
         gone (downgrade). Groups without members always do.",
    ),
    setting(
        "group.consumer.min.session.timeout.ms",
        millis(1, I32_MAX),
        "45000",
        "The shortest session that a single group of that kind may be set to.",
    ),
    setting(
        "group.consumer.max.session.timeout.ms",
        millis(1, I32_MAX),
        "60000",
        "The longest session that a single group of that kind may be set to.",
    ),
    setting(
        "group.consumer.min.heartbeat.interval.ms",
        millis(1, I32_MAX),
        "5000",
        "The shortest such interval that a single group may be set to.",
    ),
    setting(
        "group.consumer.max.heartbeat.interval.ms",
        millis(1, I32_MAX),
        "15000",
        "The longest such interval that a single group may be set to.",
    ),
    setting(
        "group.share.session.timeout.ms",
        millis(1, I32_MAX),
        "45000",
        "How long a member of a share group may be silent.",
    ),
    setting(
        "group.share.min.session.timeout.ms",
        millis(1, I32_MAX),
        "45000",
        "The shortest session that a single share group may be set to.",
    ),
    setting(
        "group.share.max.session.timeout.ms",
        millis(1, I32_MAX),
        "60000",
        "The longest session that a single share group may be set to.",
    ),
    setting(
        "group.share.heartbeat.interval.ms",
        millis(1, I32_MAX),
        "5000",
        "How often members of a share group are asked to say that they live.",
    ),
    setting(
        "group.share.min.heartbeat.interval.ms",
        millis(1, I32_MAX),
        "5000",
        "The shortest such interval that a single share group may be set to.",
    ),
    setting(
        "group.share.max.heartbeat.interval.ms",
        millis(1, I32_MAX),
        "15000",
        "The longest such interval that a single share group may be set to.",
    ),
    setting(
        "group.share.record.lock.duration.ms",
        millis(1000, 3_600_000),
        "30000",
        "How long a member of a share group may keep a record in hand.",
    ),
    setting(
        "group.share.min.record.lock.duration.ms",
        millis(1000, 30_000),
        "15000",
        "The shortest such time that a single share group may be set to.",
    ),
    setting(
        "group.share.max.record.lock.duration.ms",
        millis(30_000, 3_600_000),
        "60000",
        "The longest such time that a single share group may be set to.",
    ),
    setting(
        "group.share.delivery.count.limit",
        count(2, 25),
        "5",
        "How often a record is given to members of a share group at most.",
    ),
    setting(
        "group.share.min.delivery.count.limit",
        count(2, 5),
        "2",
        "The smallest such number that a single share group may be set to.",
    ),
    setting(
        "group.share.max.delivery.count.limit",
        count(5, 25),
        "10",
        "The greatest such number that a single share group may be set to.",
    ),
    setting(
        "group.share.partition.max.record.locks",
        count(100, 10_000),
        "2000",
        "How many records of a partition the members of a share group have in hand at most.",
    ),
    setting(
        "group.share.min.partition.max.record.locks",
        count(100, 2000),
        "100",
        "The smallest such number that a single share group may be set to.",
    ),
    setting(
        "group.share.max.partition.max.record.locks",
        count(2000, 10_000),
        "4000",
        "The greatest such number that a single share group may be set to.",
    ),
    setting(
        "offset.metadata.max.bytes",
        bytes(0, limits::OFFSET_METADATA_BYTES_MAX as i64),
        "4096",
        "How much a client may keep beside a committed offset.",
    ),
    setting(
        "offsets.retention.minutes",
        Kind::Integer { unit: Unit::Minutes, min: 1, max: I32_MAX },
        "10080",
        "How long committed offsets are kept after the last member of their group has gone, or, \
         without members, after the commit.",
    ),
    setting(
        "offsets.retention.check.interval.ms",
        millis(1, i64::MAX),
        "600000",
        "How often it is looked whether committed offsets are too old.",
    ),
    setting(
        "offsets.topic.num.partitions",
        count(1, limits::OFFSETS_PARTITIONS_MAX as i64),
        "50",
        "Partitions of __consumer_offsets, which is made when the first group is looked for. More \
         than shards share out the groups; never changed later.",
    ),
    setting(
        "offsets.topic.replication.factor",
        count(1, limits::REPLICAS_MAX as i64),
        "1",
        "Replicas of __consumer_offsets.",
    ),
    setting(
        "offsets.topic.segment.bytes",
        bytes(limits::OFFSETS_BATCH_BYTES_MAX as i64, I32_MAX),
        "16777216",
        "The size of a segment of __consumer_offsets; whole ones are dropped.",
    ),
];

/// Transactions.
pub(super) static TRANSACTIONS: &[Setting] = &[
    setting(
        "transaction.max.timeout.ms",
        millis(1, I32_MAX),
        "3600000",
        "The longest time a producer may ask to have a transaction open. Kafka's default is 15 \
         minutes; sinks of Flink ask for an hour unless they are told otherwise.",
    ),
    setting(
        "transactional.id.expiration.ms",
        millis(1, i64::MAX),
        "604800000",
        "How long a transactional id that nobody uses is remembered.",
    ),
    setting(
        "transaction.remove.expired.transaction.cleanup.interval.ms",
        millis(1, I32_MAX),
        "3600000",
        "How often it is looked whether transactional ids are unused.",
    ),
    setting(
        "transaction.state.log.num.partitions",
        count(1, limits::OFFSETS_PARTITIONS_MAX as i64),
        "50",
        "Partitions of __transaction_state, which is made when the first transactional id is looked \
         for. More than shards share out the ids; never changed later.",
    ),
    setting(
        "transaction.state.log.replication.factor",
        count(1, limits::REPLICAS_MAX as i64),
        "1",
        "Replicas of __transaction_state.",
    ),
    setting(
        "transaction.state.log.segment.bytes",
        bytes(limits::OFFSETS_BATCH_BYTES_MAX as i64, I32_MAX),
        "16777216",
        "The size of a segment of __transaction_state; whole ones are dropped.",
    ),
];
