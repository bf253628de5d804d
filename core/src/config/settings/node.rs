//! The settings of the node: who and where it is, what it takes of connections, memory and disk, and
//! how it talks to people.

use super::kind::{KIB, Kind, MIB, TIB, bytes, count, millis};
use super::{Setting, renamed, setting};
use crate::limits;

/// Who and where this node is.
pub(super) static PLACE: &[Setting] = &[
    renamed(
        &["broker.id"],
        setting(
            "node.id",
            count(0, limits::NODE_ID_MAX as i64),
            "1",
            "The id of this node in its cluster; never changed once data exists.",
        ),
    ),
    renamed(
        &["log.dirs", "data.dir"],
        setting(
            "log.dir",
            Kind::Path,
            "tidemill-data",
            "The data directory: metadata, journal and partitions. Made at the first start.",
        ),
    ),
    renamed(
        &["listen"],
        setting(
            "listeners",
            Kind::Address,
            "127.0.0.1:9092",
            "The address clients connect to first. Listening beyond this machine is a decision: \
             there is no authentication yet.",
        ),
    ),
    setting(
        "advertised.listeners",
        Kind::Endpoint,
        "",
        "The host and port clients are told to use. Unset: the address listened on, and for 0.0.0.0 \
             this machine's loopback, which clients elsewhere cannot reach. With another port than \
             the one listened on, clients go by the node unless tidemill.shard.port is set.",
    ),
    setting("broker.rack", Kind::Text, "", "The rack of this node, as told to clients."),
    setting(
        "tidemill.shards",
        count(1, limits::SHARDS_MAX as i64),
        "",
        "How many shards (pinned threads) to run; unset: one for each core the process may use.",
    ),
    setting(
        "tidemill.routing",
        Kind::Choice(&["owner", "node"]),
        "owner",
        "owner: clients are sent straight to the shard that owns a partition, each on a port of \
         its own. node: clients see one address for the node, and shards forward.",
    ),
    setting(
        "tidemill.shard.port",
        count(1, 65_535),
        "",
        "The port of shard 0's own endpoint, the next shards following; unset: the port listened \
         on plus 1000.",
    ),
];

/// What it takes, and how it talks to people.
pub(super) static MEANS: &[Setting] = &[
    // Connections.
    setting(
        "socket.request.max.bytes",
        bytes(64 * KIB, limits::REQUEST_BYTES_MAX as i64),
        "104857600",
        "The largest request accepted; a connection that announces more is closed.",
    ),
    setting(
        "max.connections",
        count(1, limits::CONNECTIONS_MAX as i64),
        "100000",
        "How many connections the node keeps open; further ones are closed at once.",
    ),
    setting(
        "connections.max.idle.ms",
        millis(-1, i64::MAX),
        "600000",
        "How long a connection may be silent before it is closed; -1: for ever.",
    ),
    setting(
        "tidemill.request.receive.ms",
        millis(-1, i64::MAX),
        "60000",
        "How long one request may take to arrive, from its first byte to its last, before its \
         connection is closed: it holds memory that others wait for. -1: for ever.",
    ),
    // Memory and disk budgets.
    setting(
        "tidemill.journal.bytes",
        bytes(64 * MIB, TIB),
        "536870912",
        "The most disk space of the journals of all shards of this node, but never less than 48 MiB \
         for each shard.",
    ),
    setting(
        "tidemill.tail.bytes",
        bytes(16 * MIB, TIB),
        "268435456",
        "The most memory, over all shards, for records not yet written to their segments.",
    ),
    setting(
        "tidemill.network.bytes",
        bytes(4 * MIB, TIB),
        "268435456",
        "The most memory, over all shards, for requests being received and replies being sent.",
    ),
    setting(
        "tidemill.read.in.flight.bytes",
        bytes(64 * KIB, TIB),
        "4194304",
        "The most bytes, over all shards, that reads of records no longer in memory ask of the disk \
         at a time (but always one read a shard). More reads old records faster and lets new ones \
         wait longer for the disk.",
    ),
    // Talking to people.
    setting(
        "tidemill.admin.listener",
        Kind::AddressOrNone,
        "127.0.0.1:9644",
        "Where /metrics, /latency, /slowest, /livez and /readyz are served over HTTP; none: \
         nowhere. It has no authentication: whoever reaches it can read it.",
    ),
    setting(
        "tidemill.stall.ms",
        millis(1, 60_000),
        "50",
        "A turn of a shard that takes longer is counted and logged, with what ran in it.",
    ),
    setting(
        "tidemill.log",
        Kind::Text,
        "info",
        "What is logged to stderr: error, warn, info, debug or trace, or a filter such as \
         info,broker::api=debug.",
    ),
];
