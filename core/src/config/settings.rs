//! Every setting of the broker: its name, its kind with unit and bounds, its default, its meaning.
//!
//! Kafka's names and Kafka's meanings where Kafka has the setting; names of our own begin with
//! `tidemill.`. The table is the only place that knows a name, a default or a bound: the command
//! line, the file and the answer to DescribeConfigs are all read off it.
//!
//! Start reading at [`SETTINGS`].

use std::net::SocketAddr;

use crate::limits;

/// One row of the table.
#[derive(Debug)]
pub struct Setting {
    /// The name to use.
    pub name: &'static str,
    /// Other names that Kafka accepts for the same thing.
    pub aliases: &'static [&'static str],
    /// What its values look like.
    pub kind: Kind,
    /// The value if nobody gives one; empty means unset.
    pub default: &'static str,
    /// What it does, in one sentence or two.
    pub doc: &'static str,
}

/// What the values of a setting look like.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Kind {
    /// A whole number within bounds, both inclusive.
    Integer {
        /// What it counts.
        unit: Unit,
        /// The smallest value accepted.
        min: i64,
        /// The greatest value accepted.
        max: i64,
    },
    /// `true` or `false`.
    Boolean,
    /// One of these words.
    Choice(&'static [&'static str]),
    /// Any text.
    Text,
    /// A path of the file system.
    Path,
    /// An IP address (or `localhost`) and a port, to listen on.
    Address,
    /// The same, or `none`.
    AddressOrNone,
    /// A host name or address and a port, to be told to clients.
    Endpoint,
}

/// What a number counts. Bytes and times may be written with a suffix: `64KiB`, `7d`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Unit {
    /// Things.
    Count,
    /// Bytes; suffixes `KiB`, `MiB`, `GiB`, `TiB`.
    Bytes,
    /// Milliseconds; suffixes `ms`, `s`, `m`, `h`, `d`.
    Millis,
    /// Minutes; suffixes `m`, `h`, `d`.
    Minutes,
    /// Hours; suffixes `h`, `d`.
    Hours,
}

/// A value that fits its setting.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Value {
    /// Nothing was given and there is no default.
    Unset,
    /// Of an integer setting, in its unit.
    Integer(i64),
    /// Of a boolean setting.
    Boolean(bool),
    /// Of all other kinds.
    Text(String),
}

const fn count(min: i64, max: i64) -> Kind {
    Kind::Integer { unit: Unit::Count, min, max }
}

const fn bytes(min: i64, max: i64) -> Kind {
    Kind::Integer { unit: Unit::Bytes, min, max }
}

const fn millis(min: i64, max: i64) -> Kind {
    Kind::Integer { unit: Unit::Millis, min, max }
}

const fn setting(
    name: &'static str,
    kind: Kind,
    default: &'static str,
    doc: &'static str,
) -> Setting {
    Setting { name, aliases: &[], kind, default, doc }
}

const fn renamed(aliases: &'static [&'static str], mut setting: Setting) -> Setting {
    setting.aliases = aliases;
    setting
}

const KIB: i64 = 1024;
const MIB: i64 = 1024 * KIB;
const GIB: i64 = 1024 * MIB;
const TIB: i64 = 1024 * GIB;
const I32_MAX: i64 = i32::MAX as i64;

/// All settings, in the order in which they are explained to people.
pub static SETTINGS: &[Setting] = &[
    // Who and where this node is.
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
    // Groups.
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
    // Transactions.
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

/// The row of this name or alias.
#[must_use]
pub fn find(name: &str) -> Option<&'static Setting> {
    SETTINGS.iter().find(|s| s.name == name || s.aliases.contains(&name))
}

/// The name most like `wrong`, if any is like it at all.
#[must_use]
pub fn nearest(wrong: &str) -> Option<&'static str> {
    let all =
        SETTINGS.iter().flat_map(|s| std::iter::once(s.name).chain(s.aliases.iter().copied()));
    nearest_of(wrong, all)
}

/// The one of `names` that is most like `wrong`, if any is like it at all.
pub(crate) fn nearest_of(
    wrong: &str,
    names: impl Iterator<Item = &'static str>,
) -> Option<&'static str> {
    let wrong = wrong.replace(['_', '-'], ".").to_ascii_lowercase();
    let wrong: String = wrong.chars().take(limits::SETTING_NAME_BYTES_MAX).collect();

    let (distance, name) = names
        .map(|name| {
            (
                edits_between(&wrong, name.strip_prefix("tidemill.").unwrap_or(name))
                    .min(edits_between(&wrong, name)),
                name,
            )
        })
        .min_by_key(|(distance, _)| *distance)?;
    (distance <= wrong.len() / 3).then_some(name)
}

/// How many letters must be inserted, removed or replaced to turn one text into the other.
fn edits_between(one: &str, other: &str) -> usize {
    let other: Vec<char> = other.chars().collect();
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (i, a) in one.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, b) in other.iter().enumerate() {
            let replaced = diagonal + usize::from(a != *b);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[other.len()]
}

impl Kind {
    /// Reads a value as people write it; otherwise says what was expected.
    pub fn parse(self, text: &str) -> Result<Value, String> {
        match self {
            Self::Integer { unit, min, max } => parse_integer(text, unit, min, max),
            Self::Boolean => match text.to_ascii_lowercase().as_str() {
                "true" => Ok(Value::Boolean(true)),
                "false" => Ok(Value::Boolean(false)),
                _ => Err("true or false".to_owned()),
            },
            Self::Choice(words) => words
                .iter()
                .find(|word| word.eq_ignore_ascii_case(text))
                .map(|word| Value::Text((*word).to_owned()))
                .ok_or_else(|| format!("one of {}", words.join(", "))),
            Self::Text | Self::Path if text.is_empty() => Err("some text".to_owned()),
            Self::Text | Self::Path => Ok(Value::Text(text.to_owned())),
            Self::Address => parse_address(text)
                .map(|address| Value::Text(address.to_string()))
                .ok_or_else(|| "an IP address and a port, such as 127.0.0.1:9092".to_owned()),
            Self::AddressOrNone if text.eq_ignore_ascii_case("none") => {
                Ok(Value::Text("none".to_owned()))
            }
            Self::AddressOrNone => Self::Address.parse(text).map_err(|_| {
                "an IP address and a port, such as 127.0.0.1:9644, or none".to_owned()
            }),
            Self::Endpoint => split_endpoint(text)
                .map(|(host, port)| Value::Text(format!("{host}:{port}")))
                .ok_or_else(|| "a host and a port, such as kafka.example.org:9092".to_owned()),
        }
    }

    /// The word for it in an explanation of all settings.
    #[must_use]
    pub fn describe(self) -> String {
        match self {
            Self::Integer { unit, min, max } => {
                let (what, suffixes) = match unit {
                    Unit::Count => ("a number", ""),
                    Unit::Bytes => ("a number of bytes", "; KiB, MiB, GiB or TiB may follow"),
                    Unit::Millis => ("a number of milliseconds", "; ms, s, m, h or d may follow"),
                    Unit::Minutes => ("a number of minutes", "; m, h or d may follow"),
                    Unit::Hours => ("a number of hours", "; h or d may follow"),
                };
                if max == i64::MAX {
                    format!("{what}, {min} or more{suffixes}")
                } else {
                    format!("{what} from {min} to {max}{suffixes}")
                }
            }
            Self::Boolean => "true or false".to_owned(),
            Self::Choice(words) => words.join(" or "),
            Self::Text => "text".to_owned(),
            Self::Path => "a path".to_owned(),
            Self::Address => "an IP address and a port".to_owned(),
            Self::AddressOrNone => "an IP address and a port, or none".to_owned(),
            Self::Endpoint => "a host and a port".to_owned(),
        }
    }
}

fn parse_integer(text: &str, unit: Unit, min: i64, max: i64) -> Result<Value, String> {
    let suffixes: &[(&str, i64)] = match unit {
        Unit::Bytes => &[("KiB", KIB), ("MiB", MIB), ("GiB", GIB), ("TiB", TIB)],
        // "ms" before "s" and "m": the longer suffix must be tried first.
        Unit::Millis => {
            &[("ms", 1), ("s", 1000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)]
        }
        Unit::Minutes => &[("m", 1), ("h", 60), ("d", 24 * 60)],
        Unit::Hours => &[("h", 1), ("d", 24)],
        Unit::Count => &[],
    };
    let (digits, factor) = suffixes
        .iter()
        .find_map(|(suffix, factor)| Some((text.strip_suffix(suffix)?.trim_end(), *factor)))
        .unwrap_or((text, 1));

    let plain = digits.replace('_', "");
    let value = plain.parse::<i64>().ok().and_then(|number| number.checked_mul(factor));
    match value {
        Some(value) if min <= value && value <= max => Ok(Value::Integer(value)),
        _ => Err(Kind::Integer { unit, min, max }.describe()),
    }
}

/// `127.0.0.1:9092`, `[::1]:9092`, `localhost:9092`, `:9092`, with or without `PLAINTEXT://`.
fn parse_address(text: &str) -> Option<SocketAddr> {
    let text = text.strip_prefix("PLAINTEXT://").unwrap_or(text);
    if let Some(port) = text.strip_prefix("localhost:") {
        return format!("127.0.0.1:{port}").parse().ok();
    }
    if let Some(port) = text.strip_prefix(':').or_else(|| text.strip_prefix("*:")) {
        return format!("0.0.0.0:{port}").parse().ok();
    }
    text.parse().ok()
}

/// The host and the port of `host:port`, `[::1]:port`, with or without `PLAINTEXT://`.
pub(crate) fn split_endpoint(text: &str) -> Option<(&str, u16)> {
    let text = text.strip_prefix("PLAINTEXT://").unwrap_or(text);
    let (host, port) = text.rsplit_once(':')?;
    let port: u16 = port.parse().ok()?;
    let plain = !host.is_empty() && host.len() <= limits::HOST_BYTES_MAX;
    let legal = host.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._[]:".contains(&b));
    (plain && legal && port != 0).then_some((host, port))
}

#[cfg(test)]
mod tests {
    use tidemill_replication::config::{GROUP_CONFIGS, Layers, Source, node_config};
    use tidemill_replication::metadata::Configs;

    use super::*;

    /// A default that its own setting refuses would only be met by the first user.
    #[test]
    fn every_default_fits_its_kind() {
        for setting in SETTINGS.iter().filter(|s| !s.default.is_empty()) {
            assert!(setting.kind.parse(setting.default).is_ok(), "{}", setting.name);
        }
    }

    /// A topic resolves what it inherits from the texts given here, and passes over what it does
    /// not take: so a setting must not accept what topics refuse.
    #[test]
    fn topics_accept_all_that_a_setting_accepts() {
        for setting in SETTINGS {
            let Some((definition, _)) = node_config(setting.name) else { continue };
            let values = match setting.kind {
                Kind::Integer { min, max, .. } => vec![min.to_string(), max.to_string()],
                Kind::Choice(words) => words.iter().map(|word| (*word).to_owned()).collect(),
                kind => panic!("{}: topics inherit no {kind:?}", setting.name),
            };
            for value in values {
                let none = Configs::default();
                let file = Configs::from([(setting.name.to_owned(), value.clone())]);
                let layers = Layers { topic: None, node: &none, cluster: &none, file: &file };
                let source = definition.effective(&layers).1;
                assert_eq!(source, Source::File, "{} = {value}", setting.name);
            }
        }
    }

    /// What holds for all groups by a setting must be what a group takes.
    #[test]
    fn groups_accept_all_that_a_setting_accepts() {
        let known = |name: &str| SETTINGS.iter().find(|setting| setting.name == name);
        for config in GROUP_CONFIGS {
            let definition = &config.definition;
            for (name, default) in config.bounds.iter().flatten() {
                assert_eq!(known(name).unwrap().default, default.to_string(), "{name}");
            }
            let on_node = definition.synonyms.first().and_then(|synonym| known(synonym.name));
            let Some(setting) = on_node else {
                assert!(config.bounds.is_none(), "{}", definition.name);
                continue;
            };
            assert_eq!(setting.default, definition.default, "{}", setting.name);
            let Kind::Integer { min, max, .. } = setting.kind else { panic!("{}", setting.name) };
            for value in [min, max] {
                definition.kind.check(&value.to_string()).unwrap();
            }
        }
    }

    #[test]
    fn no_two_settings_share_a_name() {
        let mut names: Vec<&str> = SETTINGS
            .iter()
            .flat_map(|s| std::iter::once(s.name).chain(s.aliases.iter().copied()))
            .collect();
        let all = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), all);
        assert!(names.iter().all(|n| n.len() <= limits::SETTING_NAME_BYTES_MAX));
    }

    #[test]
    fn sizes_and_times_may_be_written_with_a_suffix() {
        let bytes = bytes(0, i64::MAX);
        let millis = millis(-1, i64::MAX);
        assert_eq!(bytes.parse("64KiB"), Ok(Value::Integer(65_536)));
        assert_eq!(bytes.parse("1_000"), Ok(Value::Integer(1000)));
        assert_eq!(millis.parse("7d"), Ok(Value::Integer(604_800_000)));
        assert_eq!(millis.parse("250ms"), Ok(Value::Integer(250)));
        assert_eq!(millis.parse("-1"), Ok(Value::Integer(-1)));
        assert!(millis.parse("9223372036854775807d").is_err(), "overflow is refused");
        let hours = find("log.retention.hours").unwrap().kind;
        assert_eq!(hours.parse("72h"), Ok(Value::Integer(72)));
        assert_eq!(hours.parse("3d"), Ok(Value::Integer(72)));
        assert!(bytes.parse("64 parsecs").is_err());
    }

    #[test]
    fn a_slip_of_the_pen_is_recognised() {
        assert_eq!(nearest("num.partition"), Some("num.partitions"));
        assert_eq!(nearest("log_retention_ms"), Some("log.retention.ms"));
        assert_eq!(nearest("shards"), Some("tidemill.shards"));
        assert_eq!(nearest("zookeeper.connect"), None);
    }

    #[test]
    fn listeners_are_written_as_in_kafka_or_plainly() {
        for text in ["PLAINTEXT://127.0.0.1:9092", "127.0.0.1:9092", "localhost:9092"] {
            assert_eq!(parse_address(text), "127.0.0.1:9092".parse().ok());
        }
        assert_eq!(parse_address(":9"), "0.0.0.0:9".parse().ok());
        assert_eq!(parse_address("SSL://127.0.0.1:9092"), None);
        assert_eq!(
            split_endpoint("PLAINTEXT://b-1.example.org:9092"),
            Some(("b-1.example.org", 9092))
        );
        assert_eq!(split_endpoint("host:0"), None);
    }
}
