//! Text in, checked [`Config`] out.
//!
//! Four layers, each over the one before: the defaults of the tables in [`settings`], a TOML file,
//! `--set name=value`, and the flags that have a name of their own (`--listen`). A name nobody
//! knows is an error that suggests the name that was meant; a value that does not fit is an error
//! that says what would. Nothing is checked again later: who holds a [`Config`] holds a good one.
//!
//! Start reading at [`Layers`], then [`Config`].

mod layers;
pub mod settings;

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use settings::{Setting, Value};

pub use layers::{ConfigError, Layers, Origin};

/// A host and a port, as told to clients.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Endpoint {
    /// A name or an address.
    pub host: String,
    /// Never 0.
    pub port: u16,
}

/// Which address clients are given for a partition.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Routing {
    /// That of the shard that owns it.
    Owner,
    /// That of the node.
    Node,
}

/// What a topic gets that is made without saying so itself.
///
/// The other settings that topics inherit (retention, segments, durability …) are not here: a topic
/// is resolved from the texts of all layers, its own included, by `tidemill_replication::config`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct TopicDefaults {
    /// `num.partitions`
    pub partitions: u32,
    /// `default.replication.factor`
    pub replication_factor: u16,
}

/// Budgets of the whole node, to be divided among its shards.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Budgets {
    /// `tidemill.journal.bytes` on disk.
    pub journal_bytes: u64,
    /// `tidemill.tail.bytes` in memory.
    pub tail_bytes: u64,
    /// `tidemill.network.bytes` in memory.
    pub network_bytes: u64,
    /// `tidemill.read.in.flight.bytes` in the device's queue.
    pub read_in_flight_bytes: u64,
}

/// What compaction may use.
#[derive(Clone, Copy, Debug)]
pub struct CompactionSettings {
    /// `log.cleaner.enable`
    pub enabled: bool,
    /// `log.cleaner.backoff.ms`
    pub backoff: Duration,
    /// `log.cleaner.dedupe.buffer.size`
    pub map_bytes: u64,
    /// `log.cleaner.io.max.bytes.per.second`
    pub bytes_per_second: u64,
}

/// All a broker is told at its start. Every value is within its bounds.
#[derive(Clone, Debug)]
pub struct Config {
    /// `node.id`
    pub node_id: i32,
    /// `log.dir`
    pub data_dir: PathBuf,
    /// `listeners`
    pub listen: SocketAddr,
    /// `advertised.listeners`; none: the address listened on.
    pub advertised: Option<Endpoint>,
    /// `broker.rack`
    pub rack: Option<String>,
    /// `tidemill.shards`; none: one for each core the process may use.
    pub shards: Option<u16>,
    /// `tidemill.routing`
    pub routing: Routing,
    /// `tidemill.shard.port`; none: above the port listened on.
    pub shard_port: Option<u16>,
    /// `auto.create.topics.enable`
    pub auto_create_topics: bool,
    /// What topics get where they do not say otherwise.
    pub topic_defaults: TopicDefaults,
    /// `log.retention.check.interval.ms`
    pub retention_check: Duration,
    /// Compaction, over all shards.
    pub compaction: CompactionSettings,
    /// `producer.id.expiration.ms`
    pub producer_id_expiration: Duration,
    /// Groups and their offsets.
    pub groups: GroupSettings,
    /// Transactions.
    pub transactions: TransactionSettings,
    /// `message.max.bytes`
    pub batch_bytes_max: u32,
    /// `fetch.max.bytes`
    pub fetch_bytes_max: u32,
    /// `max.incremental.fetch.session.cache.slots`
    pub fetch_sessions_max: u32,
    /// `socket.request.max.bytes`
    pub request_bytes_max: u32,
    /// `max.connections`
    pub connections_max: u32,
    /// `connections.max.idle.ms`; none: for ever.
    pub connection_idle: Option<Duration>,
    /// `tidemill.request.receive.ms`; none: for ever.
    pub request_receive: Option<Duration>,
    /// Memory and disk.
    pub budgets: Budgets,
    /// `tidemill.admin.listener`; none: nobody can look.
    pub admin: Option<SocketAddr>,
    /// `tidemill.stall.ms`
    pub stall: Duration,
    /// `tidemill.log`
    pub log_filter: String,
    /// Every setting as it was given, for those who describe them.
    layers: Layers,
}

/// What holds for groups and the offsets they commit.
#[derive(Clone, Debug)]
pub struct GroupSettings {
    /// `group.min.session.timeout.ms`
    pub session_min: Duration,
    /// `group.max.session.timeout.ms`
    pub session_max: Duration,
    /// `group.initial.rebalance.delay.ms`
    pub initial_delay: Duration,
    /// `group.coordinator.append.linger.ms`
    pub append_linger: Duration,
    /// `group.max.size`
    pub members_max: u32,
    /// `group.consumer.session.timeout.ms`
    pub consumer_session: Duration,
    /// `group.consumer.heartbeat.interval.ms`
    pub consumer_heartbeat: Duration,
    /// `group.consumer.migration.policy`: whether classic groups become ones of the newer kind.
    pub upgrades: bool,
    /// `group.consumer.migration.policy`: whether groups of the newer kind become classic ones.
    pub downgrades: bool,
    /// `offset.metadata.max.bytes`
    pub offset_metadata_bytes_max: u32,
    /// `offsets.retention.minutes`
    pub offsets_retention: Duration,
    /// `offsets.retention.check.interval.ms`
    pub expiry_interval: Duration,
    /// `offsets.topic.num.partitions`
    pub topic_partitions: u32,
    /// `offsets.topic.replication.factor`
    pub topic_replicas: u16,
    /// `offsets.topic.segment.bytes`
    pub topic_segment_bytes: u32,
}

/// What holds for transactions.
#[derive(Clone, Debug)]
pub struct TransactionSettings {
    /// `transaction.max.timeout.ms`
    pub timeout_max_ms: i32,
    /// `transactional.id.expiration.ms`
    pub expiration: Duration,
    /// `transaction.remove.expired.transaction.cleanup.interval.ms`
    pub expiry_interval: Duration,
    /// `transaction.state.log.num.partitions`
    pub topic_partitions: u32,
    /// `transaction.state.log.replication.factor`
    pub topic_replicas: u16,
    /// `transaction.state.log.segment.bytes`
    pub topic_segment_bytes: u32,
}

impl TransactionSettings {
    fn of(layers: &Layers) -> Self {
        let ms = |name| Duration::from_millis(layers.number(name));
        Self {
            timeout_max_ms: layers.number("transaction.max.timeout.ms"),
            expiration: ms("transactional.id.expiration.ms"),
            expiry_interval: ms("transaction.remove.expired.transaction.cleanup.interval.ms"),
            topic_partitions: layers.number("transaction.state.log.num.partitions"),
            topic_replicas: layers.number("transaction.state.log.replication.factor"),
            topic_segment_bytes: layers.number("transaction.state.log.segment.bytes"),
        }
    }
}

/// Kafka's -1 for "no limit", as an option.
fn unless_negative(number: i64) -> Option<u64> {
    u64::try_from(number).ok()
}

impl Config {
    /// The typed view of all layers, once they fit together.
    pub fn from_layers(layers: Layers) -> Result<Self, ConfigError> {
        let config = Self {
            node_id: layers.number("node.id"),
            data_dir: layers.text("log.dir").expect("has a default").into(),
            listen: layers
                .text("listeners")
                .and_then(|text| text.parse().ok())
                .expect("was parsed as an address when it was laid"),
            advertised: layers.text("advertised.listeners").map(Endpoint::from_checked),
            rack: layers.text("broker.rack").map(str::to_owned),
            shards: layers.integer("tidemill.shards").map(|_| layers.number("tidemill.shards")),
            routing: match layers.text("tidemill.routing") {
                Some("node") => Routing::Node,
                _ => Routing::Owner,
            },
            shard_port: layers
                .integer("tidemill.shard.port")
                .map(|_| layers.number("tidemill.shard.port")),
            auto_create_topics: layers.is("auto.create.topics.enable"),
            topic_defaults: TopicDefaults {
                partitions: layers.number("num.partitions"),
                replication_factor: layers.number("default.replication.factor"),
            },
            retention_check: Duration::from_millis(
                layers.number("log.retention.check.interval.ms"),
            ),
            producer_id_expiration: Duration::from_millis(
                layers.number("producer.id.expiration.ms"),
            ),
            groups: GroupSettings::of(&layers),
            transactions: TransactionSettings::of(&layers),
            batch_bytes_max: layers.number("message.max.bytes"),
            fetch_bytes_max: layers.number("fetch.max.bytes"),
            fetch_sessions_max: layers.number("max.incremental.fetch.session.cache.slots"),
            request_bytes_max: layers.number("socket.request.max.bytes"),
            connections_max: layers.number("max.connections"),
            connection_idle: layers
                .integer("connections.max.idle.ms")
                .and_then(unless_negative)
                .map(Duration::from_millis),
            request_receive: layers
                .integer("tidemill.request.receive.ms")
                .and_then(unless_negative)
                .map(Duration::from_millis),
            compaction: CompactionSettings {
                enabled: layers.is("log.cleaner.enable"),
                backoff: Duration::from_millis(layers.number("log.cleaner.backoff.ms")),
                map_bytes: layers.number("log.cleaner.dedupe.buffer.size"),
                bytes_per_second: layers.number("log.cleaner.io.max.bytes.per.second"),
            },
            budgets: Budgets {
                journal_bytes: layers.number("tidemill.journal.bytes"),
                tail_bytes: layers.number("tidemill.tail.bytes"),
                network_bytes: layers.number("tidemill.network.bytes"),
                read_in_flight_bytes: layers.number("tidemill.read.in.flight.bytes"),
            },
            admin: layers.text("tidemill.admin.listener").and_then(|text| text.parse().ok()),
            stall: Duration::from_millis(layers.number("tidemill.stall.ms")),
            log_filter: layers.text("tidemill.log").expect("has a default").to_owned(),
            layers,
        };
        config.check_together()?;
        Ok(config)
    }

    /// What one setting's own bounds cannot say.
    fn check_together(&self) -> Result<(), ConfigError> {
        let batch = u64::from(self.batch_bytes_max);
        let contradiction = |name, reason: String| Err(ConfigError::Contradiction { name, reason });

        if self.groups.session_max < self.groups.session_min {
            return contradiction(
                "group.max.session.timeout.ms",
                "must not be below group.min.session.timeout.ms".to_owned(),
            );
        }
        if self.groups.consumer_session <= self.groups.consumer_heartbeat {
            return contradiction(
                "group.consumer.session.timeout.ms",
                "must be above group.consumer.heartbeat.interval.ms".to_owned(),
            );
        }
        if u64::from(self.request_bytes_max) < batch + 64 * 1024 {
            return contradiction(
                "socket.request.max.bytes",
                "must be above message.max.bytes by 64 KiB, or its batches could never arrive"
                    .to_owned(),
            );
        }
        if self.layers.number::<u64>("log.segment.bytes") < batch {
            return contradiction(
                "log.segment.bytes",
                "must be at least message.max.bytes: a batch lies in one segment".to_owned(),
            );
        }
        if self.budgets.network_bytes < batch + 64 * 1024 {
            return contradiction(
                "tidemill.network.bytes",
                "must hold at least one batch of message.max.bytes".to_owned(),
            );
        }
        Ok(())
    }

    /// A configuration of defaults alone.
    #[must_use]
    pub fn of_defaults() -> Self {
        Self::from_layers(Layers::default()).expect("a test checks that the defaults fit together")
    }

    /// Each setting with its value and who gave it.
    pub fn described(&self) -> impl Iterator<Item = (&'static Setting, &Value, &Origin)> {
        self.layers.iter()
    }

    /// The file that was read, if it said anything.
    pub fn file(&self) -> Option<&Path> {
        self.described().find_map(|(_, _, origin)| match origin {
            Origin::File { path, .. } => Some(path.as_path()),
            _ => None,
        })
    }

    /// The value of one setting of the table, as text; empty if unset.
    ///
    /// # Panics
    /// If `name` is not in the table: names come from code, not from clients.
    #[must_use]
    pub fn value_text(&self, name: &str) -> String {
        self.layers.value(name).to_string()
    }
}

impl GroupSettings {
    fn of(layers: &Layers) -> Self {
        let ms = |name| Duration::from_millis(layers.number(name));
        let migration = layers.text("group.consumer.migration.policy").expect("has a default");
        Self {
            session_min: ms("group.min.session.timeout.ms"),
            session_max: ms("group.max.session.timeout.ms"),
            initial_delay: ms("group.initial.rebalance.delay.ms"),
            append_linger: ms("group.coordinator.append.linger.ms"),
            members_max: layers.number("group.max.size"),
            consumer_session: ms("group.consumer.session.timeout.ms"),
            consumer_heartbeat: ms("group.consumer.heartbeat.interval.ms"),
            upgrades: matches!(migration, "bidirectional" | "upgrade"),
            downgrades: matches!(migration, "bidirectional" | "downgrade"),
            offset_metadata_bytes_max: layers.number("offset.metadata.max.bytes"),
            offsets_retention: Duration::from_mins(layers.number("offsets.retention.minutes")),
            expiry_interval: ms("offsets.retention.check.interval.ms"),
            topic_partitions: layers.number("offsets.topic.num.partitions"),
            topic_replicas: layers.number("offsets.topic.replication.factor"),
            topic_segment_bytes: layers.number("offsets.topic.segment.bytes"),
        }
    }
}

impl Endpoint {
    fn from_checked(text: &str) -> Self {
        let (host, port) = settings::split_endpoint(text).expect("was checked when it was laid");
        Self { host: host.to_owned(), port }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

#[cfg(test)]
mod tests {
    use super::layers::tests::laid;
    use super::*;

    fn config(text: &str) -> Config {
        Config::from_layers(laid(text).unwrap()).unwrap()
    }

    #[test]
    fn with_nothing_given_the_defaults_are_kafkas() {
        let config = Config::of_defaults();
        assert_eq!(config.listen, "127.0.0.1:9092".parse::<SocketAddr>().unwrap());
        assert_eq!(config.value_text("log.retention.hours"), "168");
        assert_eq!(config.value_text("message.max.bytes"), "1048588");
        assert_eq!(config.value_text("log.segment.bytes"), (1 << 30).to_string());
        assert_eq!(config.value_text("log.retention.bytes"), "-1");
        assert_eq!(config.connection_idle, Some(Duration::from_mins(10)));
    }

    #[test]
    fn each_layer_lies_over_the_one_before() {
        let mut layers = laid("num.partitions = 4\nnode.id = 7\n").unwrap();
        layers.assign("num.partitions=8").unwrap();
        layers.set("listeners", "127.0.0.1:1", Origin::Flag("--listen")).unwrap();
        let config = Config::from_layers(layers).unwrap();

        assert_eq!(config.topic_defaults.partitions, 8);
        assert_eq!(config.node_id, 7);
        assert_eq!(config.listen.port(), 1);
        let origin = |name| config.described().find(|(s, ..)| s.name == name).unwrap().2.clone();
        assert_eq!(origin("num.partitions"), Origin::Set);
        assert_eq!(origin("node.id"), Origin::File { path: "tidemill.toml".into(), line: 2 });
        assert_eq!(origin("log.dir"), Origin::Default);
    }

    #[test]
    fn dots_and_tables_in_the_file_mean_the_same() {
        let dotted = config("log.retention.ms = 1000\nlog.retention.bytes = \"64KiB\"");
        let tables = config("[log.retention]\nms = 1000\nbytes = \"64KiB\"");
        for config in [dotted, tables] {
            assert_eq!(config.value_text("log.retention.ms"), "1000");
            assert_eq!(config.value_text("log.retention.bytes"), "65536");
        }
    }

    #[test]
    fn minus_one_means_no_limit() {
        let config = config("connections.max.idle.ms = -1");
        assert_eq!(config.connection_idle, None);
    }

    #[test]
    fn settings_that_contradict_each_other_are_refused() {
        let layers = laid("message.max.bytes = \"32MiB\"\nsocket.request.max.bytes = \"1MiB\"");
        assert!(Config::from_layers(layers.unwrap()).is_err());
    }
}
