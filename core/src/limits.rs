//! Every upper bound of the broker, and how the bounds relate.
//!
//! A bound that a setting can lower is the greatest value that setting accepts. Nothing in the
//! broker grows without a bound from here; what must hold between two of them is asserted at
//! compile time below.

use std::time::Duration;

use tidemill_replication::limits as metadata;
use tidemill_runtime::edge::RECEIVE_BYTES_MAX;

/// The greatest id of a node. Ids of shards are told to clients as `node + shard × 65,536`.
pub const NODE_ID_MAX: i32 = 65_535;

/// How far apart the ids of two neighbouring shards of one node are, as told to clients.
pub const SHARD_ID_STRIDE: i32 = 65_536;

/// The most shards of one node.
pub const SHARDS_MAX: u16 = 256;

/// The most replicas of a partition.
pub const REPLICAS_MAX: u16 = 15;

/// The most partitions of one topic.
pub const PARTITIONS_PER_TOPIC_MAX: u32 = 100_000;

/// The most partitions of one node, over all topics.
pub const PARTITIONS_MAX: u32 = 1_000_000;

/// The longest host name in an endpoint (RFC 1035).
pub const HOST_BYTES_MAX: usize = 253;

/// The longest name of a setting that is compared with those known.
pub const SETTING_NAME_BYTES_MAX: usize = 64;

/// The longest configuration file.
pub const CONFIG_FILE_BYTES_MAX: u64 = 1024 * 1024;

/// The smallest limit on record batches that still lets a useful one through.
pub const BATCH_BYTES_MIN: u32 = 1024;

/// The largest record batch: what `message.max.bytes` may be raised to.
pub const BATCH_BYTES_MAX: u32 = 64 * 1024 * 1024;

/// The largest request frame: what `socket.request.max.bytes` may be raised to.
pub const REQUEST_BYTES_MAX: u32 = 256 * 1024 * 1024;

/// The most record bytes in the answer to one fetch: what `fetch.max.bytes` may be raised to.
pub const FETCH_BYTES_MAX: u32 = 256 * 1024 * 1024;

/// The most connections of one node: what `max.connections` may be raised to.
pub const CONNECTIONS_MAX: u32 = 1_000_000;

/// The most incremental fetch sessions of one node.
pub const FETCH_SESSIONS_MAX: u32 = 100_000;

/// The most partitions that all fetch sessions of one shard remember together. A session that
/// would be one too many is not made: its client names all its partitions each time.
pub const FETCH_SESSION_PARTITIONS_MAX: usize = 250_000;

/// A fetch session unused for so long makes room for another (Kafka's
/// `min.incremental.fetch.session.eviction.ms`, which is no setting there either).
pub const FETCH_SESSION_UNUSED_MS: u64 = 2 * 60 * 1000;

/// The most requests of one connection that wait for their reply; further ones are not read.
/// Java clients keep 5 in flight, librdkafka up to this many.
pub const REQUESTS_PER_CONNECTION_MAX: usize = 64;

/// The longest wait a fetch may ask for; longer ones are answered after this time.
pub const FETCH_WAIT_MS_MAX: u64 = 5 * 60 * 1000;

/// The longest a produce or an admin request may wait; longer timeouts are cut to this.
pub const REQUEST_WAIT_MS_MAX: u64 = 5 * 60 * 1000;

/// How long a request waits that cannot say how long it may take.
pub const REQUEST_WAIT_MS_DEFAULT: i32 = 60 * 1000;

/// The least memory with which a fetch that has read nothing yet goes on to read; with less it
/// waits. What must be read whole may ask for more.
pub const FETCH_ROOM_BYTES_MIN: usize = 64 * 1024;

/// How long a fetch waits for memory, even if it asked for an answer sooner.
pub const FETCH_ROOM_WAIT_MS_MIN: u64 = 1000;

/// The most messages under way between one shard and another, in one direction.
pub const MESH_MESSAGES_MAX: usize = 1024;

/// The most requests one shard has under way that cannot be answered at once; further ones are
/// not begun before some have ended.
pub const REQUESTS_UNDER_WAY_MAX: usize = 1 << 20;

/// The most messages of one shard that wait until another one takes them.
///
/// What a shard has not taken yet keeps new requests and new rounds of fetches from being begun.
/// Until then a request leaves at most these behind for one shard: calls, the end of a watch, and
/// the calls of a next round. The rest is bounded by itself: answers to changes by the credits of
/// [`PROPOSALS_PER_SHARD_MAX`], one commit at a time, and one message for each deleted partition,
/// before which no other commit is told as applied. Answers to calls are no part of it: all that
/// wait for a shard become one message.
pub const OUTBOX_MESSAGES_MAX: usize = 3 * REQUESTS_UNDER_WAY_MAX
    + PROPOSALS_PER_SHARD_MAX
    + PARTITIONS_MAX as usize
    + MESSAGES_ONCE_MAX;

/// Messages that pass once in a shard's life, or one at a time: adoption, start, stop, commits.
const MESSAGES_ONCE_MAX: usize = 16;

/// The most messages a shard takes from the mesh in one turn; the rest wait for the next.
pub const MESSAGES_PER_TURN_MAX: usize = 1024;

/// A batch of a compacted topic that is no longer, and not compressed, is walked in the turn it comes
/// in, to see whether its records have keys: a few microseconds.
pub const KEYS_IN_TURN_BYTES_MAX: u32 = 64 * 1024;

/// So many records without a key are named to the producer of a batch; the others it finds once these
/// have keys. A small batch may hold millions.
pub const KEYLESS_NAMED_MAX: usize = 1000;

/// So many logs are looked at in one turn for which to compact next.
pub const COMPACTION_LOGS_LOOKED_AT: usize = 64;

/// So large a share of the map of keys is used: beyond it, looking takes long.
pub const COMPACTION_MAP_LOAD_MAX: f64 = 0.9;

/// How large the records of a batch may be uncompressed that is made anew before it is appended; one
/// of a shard at a time.
pub const REWORKED_BYTES_MAX: usize = 64 * 1024 * 1024;

/// The most partitions in one answer to DescribeTopicPartitions, which is cut into pieces (Kafka's
/// `max.request.partition.size.limit`).
pub const PARTITIONS_DESCRIBED_MAX: usize = 2000;

/// The most partitions that are shown on the admin port.
pub const PARTITIONS_SHOWN_MAX: usize = 100_000;

/// The most connections to the admin port at a time, and the most questions a shard may leave open.
pub const ADMIN_CONNECTIONS_MAX: usize = 16;

/// How much of a client's own name is kept with its connection: as much as a quota can name.
pub const CLIENT_ID_BYTES_KEPT: usize = metadata::QUOTA_NAME_BYTES_MAX;

/// The most buckets of quotas that one shard keeps; further clients share one.
pub const QUOTA_BUCKETS_MAX: usize = 10_000;

/// For how long a quota is averaged: what so long brings may be spent at once, and is the most that
/// one fetch brings (Kafka's `quota.window.num`, less one, times `quota.window.size.seconds`).
pub const QUOTA_WINDOW: Duration = Duration::from_secs(10);

/// The longest a client is told to wait for its quota, and kept waiting.
pub const THROTTLE_MAX: Duration = Duration::from_secs(60);

/// The longest a quota takes to be paid; what is spent beyond is forgiven.
pub const QUOTA_DEBT_MAX: Duration = Duration::from_hours(1);

/// The most partitions a shard tells of in one turn to whoever looks at all of them.
pub const PARTITIONS_TOLD_MAX: usize = 1024;

/// The most partitions of a shard of which it is kept how late their records come: 12 MiB.
pub const LATENESS_PARTITIONS_MAX: usize = 10_000;

/// The most requests of one connection that are begun in one turn.
pub const REQUESTS_PER_CONNECTION_AND_TURN_MAX: usize = 16;

/// The most bytes of replies one connection may hold back before its socket is not read.
pub const REPLY_BYTES_PER_CONNECTION_MAX: usize = 8 * 1024 * 1024;

/// The memory set aside for a large frame before more than its length has arrived.
pub const FRAME_BYTES_FIRST_ALLOCATION: usize = 1024 * 1024;

/// The most appends to one partition that wait for space; further ones are refused.
pub const APPENDS_QUEUED_MAX: usize = 4096;

/// The most files of one shard that stay open while they are idle.
pub const FILES_OPEN_MAX: usize = 1024;

/// The most changes of metadata that wait; further ones are refused.
pub const PROPOSALS_QUEUED_MAX: usize = 10_000;

/// The most bytes of requests for changes that wait, beside one that may be as large as it likes.
pub const PROPOSALS_QUEUED_BYTES_MAX: usize = 64 * 1024 * 1024;

/// The most changes one shard has asked for and not been told the end of; further ones are refused.
pub const PROPOSALS_PER_SHARD_MAX: usize = 1024;

/// The longest name of a group, a member or an instance, and of what clients call themselves in
/// groups. Kafka's strings end at 32,767 bytes; nobody gets there by a name.
pub const GROUP_NAME_BYTES_MAX: usize = 4096;

/// How much of a client's own name is kept with its members of groups. Kafka Streams makes it of
/// the application's name, a UUID and the name of a thread.
pub const CLIENT_ID_BYTES_IN_GROUP: usize = 512;

/// The most members of a group: what `group.max.size` may be raised to.
pub const GROUP_MEMBERS_MAX: u32 = 100_000;

/// The most members of a share group (Kafka's `group.share.max.size`).
pub const SHARE_MEMBERS_MAX: usize = 200;

/// The most groups of one partition of `__consumer_offsets`; further ones are refused.
pub const GROUPS_PER_PARTITION_MAX: usize = 100_000;

/// The most memory that the groups of one shard take; beyond it nothing new is kept.
pub const GROUPS_BYTES_MAX: usize = 256 * 1024 * 1024;

/// The largest record about one group: its members, what they said and what they were given.
pub const GROUP_RECORD_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Records of groups that go to the log together, about.
pub const GROUP_APPEND_BYTES: usize = 256 * 1024;

/// How much is written to a partition of `__consumer_offsets`, at least, before what it remembers is
/// written anew and the rest dropped: so much, or four times what there is, is read at a start.
pub const GROUP_REWRITE_BYTES: usize = 8 * 1024 * 1024;

/// The most partitions of `__consumer_offsets`.
pub const OFFSETS_PARTITIONS_MAX: u32 = 1000;

/// The largest batch of `__consumer_offsets`: its `max.message.bytes`.
pub const OFFSETS_BATCH_BYTES_MAX: u32 = 8 * 1024 * 1024;

/// How much of `__consumer_offsets` is read at a time when its groups are loaded.
pub const OFFSETS_LOAD_BYTES: u32 = 256 * 1024;

/// How many groups are looked at in one turn for offsets that nobody uses any more.
pub const GROUPS_EXPIRED_PER_TURN: usize = 100;

/// The most bytes a client may keep with an offset: what `offset.metadata.max.bytes` may be
/// raised to. Kafka's records have 16 bits for the length.
pub const OFFSET_METADATA_BYTES_MAX: usize = i16::MAX as usize;

/// The most transactional ids of one partition of `__transaction_state`; further ones are refused.
pub const TRANSACTIONS_PER_PARTITION_MAX: usize = 100_000;

/// The most memory that the transactional ids of one shard take; beyond it nothing new is kept.
pub const TRANSACTIONS_BYTES_MAX: usize = 256 * 1024 * 1024;

/// The most partitions of one transaction.
pub const TRANSACTION_PARTITIONS_MAX: usize = 10_000;

/// The most requests about one transactional id that wait for its record to be written.
pub const TRANSACTIONS_WAITING_MAX: usize = 1024;

/// The most partitions, as groups read them, of one partition of `__share_group_state`; further ones
/// are refused.
pub const SHARE_PARTITIONS_PER_PARTITION_MAX: usize = 100_000;

/// The most memory that what the share groups of one shard have read takes; beyond it nothing new is
/// kept.
pub const SHARE_BYTES_MAX: usize = 256 * 1024 * 1024;

/// The most runs of records in one state that are remembered of a partition before nothing new is
/// given out. One read and what its members say of it may go beyond.
pub const SHARE_RUNS_MAX: usize = 100_000;

/// How many groups one DescribeShareGroupOffsets is told of at most.
pub const SHARE_GROUPS_DESCRIBED_MAX: usize = 100;

/// How often a fetch of a share group looks at a partition again at once, when others were faster.
pub const SHARE_TRIES_MAX: u32 = 3;

/// How much of a partition is read at a time for a member of a share group, about.
pub const SHARE_READ_BYTES: u32 = 1024 * 1024;

/// The most share sessions of one shard (Kafka's `group.share.max.share.sessions`).
pub const SHARE_SESSIONS_MAX: usize = 2000;

/// The most partitions that one request of a member of a share group names, and that its session
/// remembers: each is looked at in each fetch.
pub const SHARE_SESSION_PLACES_MAX: usize = 10_000;

/// The most partitions that all share sessions of one shard remember together.
pub const SHARE_SESSION_PARTITIONS_MAX: usize = 250_000;

/// How long a member that was not told its name yet may wait for the others (as in Kafka).
pub const NEW_MEMBER_WAIT_MS: u64 = 5 * 60 * 1000;

const _: () = {
    // The largest record about a group fits a batch, behind others that go along with it.
    assert!(GROUP_RECORD_BYTES_MAX + 2 * GROUP_APPEND_BYTES < OFFSETS_BATCH_BYTES_MAX as usize);
    assert!(OFFSETS_BATCH_BYTES_MAX <= BATCH_BYTES_MAX);
    assert!(OFFSETS_PARTITIONS_MAX <= PARTITIONS_PER_TOPIC_MAX);
    // So does the largest record about a transaction: a topic's name takes 249 bytes at most.
    assert!(TRANSACTION_PARTITIONS_MAX * 260 < GROUP_RECORD_BYTES_MAX);
    // And the largest about a share group: 20 bytes for a run, behind which there may be one for each
    // record that is out and each batch of a read.
    let runs = SHARE_RUNS_MAX + 2 * (10_000 + SHARE_READ_BYTES as usize / 61);
    assert!(20 * runs < GROUP_RECORD_BYTES_MAX);
    // Names must fit Kafka's strings; a member's is a name, a dash and a UUID.
    assert!(GROUP_NAME_BYTES_MAX + 64 < i16::MAX as usize);
    assert!(GROUP_NAME_BYTES_MAX <= metadata::GROUP_NAME_BYTES_MAX);
    // The id of the last shard of the last node must be a Kafka broker id, an i32.
    assert!(NODE_ID_MAX < SHARD_ID_STRIDE);
    assert!((SHARDS_MAX as i64) * (SHARD_ID_STRIDE as i64) <= i32::MAX as i64);
    // A batch of the greatest size must fit into a request, with room for what surrounds it.
    assert!(BATCH_BYTES_MAX <= REQUEST_BYTES_MAX / 2);
    // A fetch must be able to carry the largest batch, or its reader would hang.
    assert!(BATCH_BYTES_MAX <= FETCH_BYTES_MAX);
    // Frame lengths are i32 on the wire.
    assert!(REQUEST_BYTES_MAX <= i32::MAX as u32);
    assert!(FETCH_BYTES_MAX <= i32::MAX as u32 / 2);
    assert!(BATCH_BYTES_MIN <= BATCH_BYTES_MAX);
    // Whatever is accepted uncompressed can be compressed.
    assert!(BATCH_BYTES_MAX as usize <= REWORKED_BYTES_MAX);
    // The smallest request limit accepted is above what one receive can bring.
    assert!(RECEIVE_BYTES_MAX <= 64 * 1024);
    assert!(PARTITIONS_PER_TOPIC_MAX <= PARTITIONS_MAX);
    // One client can follow the largest topic in a session.
    assert!(PARTITIONS_PER_TOPIC_MAX as usize <= FETCH_SESSION_PARTITIONS_MAX);
    // What a setting or a client may ask for, the metadata can hold.
    assert!(PARTITIONS_PER_TOPIC_MAX as usize <= metadata::PARTITIONS_PER_TOPIC_MAX);
    assert!(REPLICAS_MAX as usize <= metadata::REPLICAS_MAX);
    assert!(BATCH_BYTES_MAX == metadata::MESSAGE_BYTES_MAX);
    assert!(REQUEST_WAIT_MS_DEFAULT as u64 <= REQUEST_WAIT_MS_MAX);
    assert!(MESH_MESSAGES_MAX.is_power_of_two());
    // Questions from outside leave room for the request to stop.
    assert!(ADMIN_CONNECTIONS_MAX < MESH_MESSAGES_MAX);
    // Every client may wait for records at the same time.
    assert!(CONNECTIONS_MAX as usize <= REQUESTS_UNDER_WAY_MAX);
    // A shard that has stopped reading one client goes on with the others.
    assert!(REQUESTS_PER_CONNECTION_MAX < REQUESTS_UNDER_WAY_MAX);
    // One shard alone does not use up what all of them may ask for.
    assert!(PROPOSALS_PER_SHARD_MAX < PROPOSALS_QUEUED_MAX);
    // A round of a fetch can read something in a budget's smallest share.
    assert!(FETCH_ROOM_BYTES_MIN <= 4 * 1024 * 1024);
};
