//! Every upper bound of this crate, and how the bounds relate.

/// The unit of direct I/O.
pub const BLOCK_BYTES: usize = 4096;

/// The longest topic name, as in Kafka.
pub const TOPIC_NAME_BYTES_MAX: usize = 249;

/// The most partitions one topic may have.
pub const PARTITIONS_PER_TOPIC_MAX: usize = 100_000;

/// The most replicas one partition may have.
pub const REPLICAS_MAX: usize = 16;

/// The most config overrides one resource may carry.
pub const CONFIGS_PER_RESOURCE_MAX: usize = 256;

/// The longest name of a config.
pub const CONFIG_NAME_BYTES_MAX: usize = 256;

/// The longest value of a config.
pub const CONFIG_VALUE_BYTES_MAX: usize = 16 * 1024;

/// The longest name of a group.
pub const GROUP_NAME_BYTES_MAX: usize = 4096;

/// The longest value of a config of a group: they are numbers and words.
pub const GROUP_CONFIG_VALUE_BYTES_MAX: usize = 128;

/// The most groups with configs of their own.
pub const GROUPS_WITH_CONFIGS_MAX: usize = 10_000;

/// The longest name of a user or a client in a quota.
pub const QUOTA_NAME_BYTES_MAX: usize = 256;

/// The most entities with quotas.
pub const QUOTA_ENTITIES_MAX: usize = 10_000;

/// The largest record batch that a topic may be set to accept.
pub const MESSAGE_BYTES_MAX: u32 = 64 * 1024 * 1024;

/// How many producer ids are granted at once.
pub const PRODUCER_IDS_PER_GRANT: i64 = 1000;

/// The largest encoded record.
pub const RECORD_BYTES_MAX: usize = 12 * 1024 * 1024;

/// The most bytes of records in one entry of the metadata log.
pub const ENTRY_BYTES_MAX: usize = 16 * 1024 * 1024;

/// The most records in one entry of the metadata log.
pub const RECORDS_PER_ENTRY_MAX: usize = 4096;

/// The most bytes of proposals that may wait for the disk.
pub const PENDING_BYTES_MAX: usize = 32 * 1024 * 1024;

/// How many bytes of entries one write collects, unless a single entry is larger.
pub const WRITE_BYTES: usize = 1024 * 1024;

/// The size of a file of the metadata log, unless a single write is larger.
pub const LOG_FILE_BYTES: u64 = 1024 * 1024;

/// A snapshot is due once this many bytes of log follow the last one.
pub const SNAPSHOT_AFTER_BYTES: u64 = 8 * 1024 * 1024;

/// A snapshot is due once this many files of log follow the last one.
pub const SNAPSHOT_AFTER_FILES: usize = 16;

/// The largest snapshot that is read back.
pub const SNAPSHOT_BYTES_MAX: u64 = 1024 * 1024 * 1024;

/// How many bytes one read or one piece of a snapshot's write has.
pub const PIECE_BYTES: usize = 256 * 1024;

/// The most voters in the quorum.
pub const VOTERS_MAX: usize = 15;

/// All overrides of one resource, with room for what surrounds each.
const CONFIGS_BYTES_MAX: usize =
    CONFIGS_PER_RESOURCE_MAX * (CONFIG_NAME_BYTES_MAX + CONFIG_VALUE_BYTES_MAX + 64);

const _: () = {
    assert!(BLOCK_BYTES.is_power_of_two());
    // Any record fits into an entry, any entry into what may be pending.
    assert!(RECORD_BYTES_MAX <= ENTRY_BYTES_MAX);
    assert!(ENTRY_BYTES_MAX <= PENDING_BYTES_MAX);
    // A topic of the greatest size is one record: its creation is all or nothing.
    assert!(
        PARTITIONS_PER_TOPIC_MAX * (1 + 4 * REPLICAS_MAX) + CONFIGS_BYTES_MAX + 1024
            <= RECORD_BYTES_MAX
    );
    // All overrides of a resource fit into one entry, a record each.
    assert!(CONFIGS_PER_RESOURCE_MAX <= RECORDS_PER_ENTRY_MAX);
    assert!(CONFIGS_BYTES_MAX <= ENTRY_BYTES_MAX);
    assert!(PIECE_BYTES.is_multiple_of(BLOCK_BYTES));
    assert!((LOG_FILE_BYTES as usize).is_multiple_of(BLOCK_BYTES));
};
