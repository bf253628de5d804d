//! Text in, checked [`Config`] out.
//!
//! Four layers, each over the one before: the defaults of the table in [`settings`], a TOML file,
//! `--set name=value`, and the flags that have a name of their own (`--listen`). A name nobody
//! knows is an error that suggests the name that was meant; a value that does not fit is an error
//! that says what would. Nothing is checked again later: who holds a [`Config`] holds a good one.
//!
//! Start reading at [`Layers`], then [`Config`].

pub mod settings;

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use toml::de::{DeTable, DeValue};

use crate::limits;
use settings::{SETTINGS, Setting, Value};

/// Where the value of a setting came from.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Origin {
    /// Nobody gave one: the table's own.
    Default,
    /// This line of this file.
    File {
        /// The file, as it was named.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
    },
    /// `--set name=value`.
    Set,
    /// A flag with a name of its own, such as `--listen`.
    Flag(&'static str),
}

/// The values of all settings while they are being collected, layer over layer.
#[derive(Clone, Debug)]
pub struct Layers {
    /// As many as there are [`SETTINGS`], in the same order.
    values: Vec<(Value, Origin)>,
}

/// Why there is no [`Config`].
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum ConfigError {
    /// No setting has this name.
    UnknownSetting {
        /// As written.
        name: String,
        /// Where.
        origin: Origin,
        /// What was probably meant.
        nearest: Option<&'static str>,
    },
    /// The value is not one this setting can have.
    BadValue {
        /// Of which setting.
        name: &'static str,
        /// As written.
        value: String,
        /// Where.
        origin: Origin,
        /// What it can have.
        expected: String,
    },
    /// `--set` without an equals sign.
    NotAnAssignment {
        /// As written.
        text: String,
    },
    /// The file is missing or cannot be read.
    UnreadableFile {
        /// Which one.
        path: PathBuf,
        /// The system's words.
        reason: String,
    },
    /// The file is not TOML.
    BadToml {
        /// Which one.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
        /// What is wrong there.
        reason: String,
    },
    /// Two settings that cannot both be right.
    Contradiction {
        /// One of them.
        name: &'static str,
        /// What must hold, and does not.
        reason: String,
    },
}

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

impl Default for Layers {
    /// The lowest layer: what the table says.
    fn default() -> Self {
        let values = SETTINGS.iter().map(|setting| {
            let value = match setting.default {
                "" => Value::Unset,
                text => setting.kind.parse(text).expect("a test parses every default"),
            };
            (value, Origin::Default)
        });
        Self { values: values.collect() }
    }
}

impl Layers {
    /// Lays all settings of a TOML file over what is known so far.
    pub fn read_file(&mut self, path: &Path) -> Result<(), ConfigError> {
        let unreadable =
            |reason: String| ConfigError::UnreadableFile { path: path.to_owned(), reason };
        let size = std::fs::metadata(path).map_err(|e| unreadable(e.to_string()))?.len();
        if limits::CONFIG_FILE_BYTES_MAX < size {
            return Err(unreadable(format!("{size} bytes are too many for a configuration")));
        }
        let text = std::fs::read_to_string(path).map_err(|e| unreadable(e.to_string()))?;
        self.read_toml(&text, path)
    }

    /// Lays all settings of a TOML text over what is known so far. Dots in names may be written
    /// as dots or as TOML tables: both mean the same.
    pub fn read_toml(&mut self, text: &str, path: &Path) -> Result<(), ConfigError> {
        let table = DeTable::parse(text).map_err(|e| ConfigError::BadToml {
            path: path.to_owned(),
            line: line_of(text, e.span().map_or(0, |span| span.start)),
            reason: format!("{} (text stands in quotes: name = \"text\")", e.message()),
        })?;
        self.lay_table("", table.get_ref(), text, path)
    }

    fn lay_table(
        &mut self,
        prefix: &str,
        table: &DeTable<'_>,
        text: &str,
        path: &Path,
    ) -> Result<(), ConfigError> {
        for (key, value) in table {
            let name = match prefix {
                "" => key.get_ref().to_string(),
                prefix => format!("{prefix}.{}", key.get_ref()),
            };
            let line = line_of(text, key.span().start);
            let origin = Origin::File { path: path.to_owned(), line };
            match value.get_ref() {
                // The parser bounds how deep tables nest.
                DeValue::Table(inner) => self.lay_table(&name, inner, text, path)?,
                DeValue::String(text) => self.set(&name, text, origin)?,
                DeValue::Integer(number) => self.set(&name, number.as_str(), origin)?,
                DeValue::Boolean(flag) => self.set(&name, &flag.to_string(), origin)?,
                DeValue::Float(number) => self.set(&name, number.as_str(), origin)?,
                other => {
                    return Err(ConfigError::BadToml {
                        path: path.to_owned(),
                        line,
                        reason: format!("{name} takes one value, no {}", other.type_str()),
                    });
                }
            }
        }
        Ok(())
    }

    /// Lays one `name=value` of the command line over what is known so far.
    pub fn assign(&mut self, text: &str) -> Result<(), ConfigError> {
        let (name, value) = text
            .split_once('=')
            .ok_or_else(|| ConfigError::NotAnAssignment { text: text.to_owned() })?;
        self.set(name.trim(), value.trim(), Origin::Set)
    }

    /// Lays one value over what is known so far.
    pub fn set(&mut self, name: &str, text: &str, origin: Origin) -> Result<(), ConfigError> {
        let Some(setting) = settings::find(name) else {
            let nearest = settings::nearest(name);
            return Err(ConfigError::UnknownSetting { name: name.to_owned(), origin, nearest });
        };
        match setting.kind.parse(text) {
            Ok(value) => {
                self.values[index_of(setting.name)] = (value, origin);
                Ok(())
            }
            Err(expected) => Err(ConfigError::BadValue {
                name: setting.name,
                value: text.to_owned(),
                origin,
                expected,
            }),
        }
    }

    /// Each setting with its value and who gave it.
    pub fn iter(&self) -> impl Iterator<Item = (&'static Setting, &Value, &Origin)> {
        SETTINGS.iter().zip(&self.values).map(|(setting, (value, origin))| (setting, value, origin))
    }

    fn integer(&self, name: &str) -> Option<i64> {
        match self.values[index_of(name)].0 {
            Value::Integer(number) => Some(number),
            Value::Unset => None,
            _ => panic!("{name} is an integer in the table"),
        }
    }

    /// An integer that has a default and whose bounds fit `T`.
    fn number<T: TryFrom<i64>>(&self, name: &str) -> T {
        let number = self.integer(name).expect("the table has a default for it");
        T::try_from(number).ok().expect("the table's bounds fit the field")
    }

    fn text(&self, name: &str) -> Option<&str> {
        match &self.values[index_of(name)].0 {
            Value::Text(text) => Some(text),
            Value::Unset => None,
            _ => panic!("{name} is text in the table"),
        }
    }

    fn is(&self, name: &str) -> bool {
        self.values[index_of(name)].0 == Value::Boolean(true)
    }
}

/// Counts the line of a byte of `text`, from 1.
fn line_of(text: &str, position: usize) -> usize {
    1 + text.as_bytes().iter().take(position).filter(|byte| **byte == b'\n').count()
}

fn index_of(name: &str) -> usize {
    SETTINGS.iter().position(|s| s.name == name).expect("only names of the table are asked for")
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
        self.layers.values[index_of(name)].0.to_string()
    }
}

impl GroupSettings {
    fn of(layers: &Layers) -> Self {
        let ms = |name| Duration::from_millis(layers.number(name));
        Self {
            session_min: ms("group.min.session.timeout.ms"),
            session_max: ms("group.max.session.timeout.ms"),
            initial_delay: ms("group.initial.rebalance.delay.ms"),
            append_linger: ms("group.coordinator.append.linger.ms"),
            members_max: layers.number("group.max.size"),
            consumer_session: ms("group.consumer.session.timeout.ms"),
            consumer_heartbeat: ms("group.consumer.heartbeat.interval.ms"),
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

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unset => Ok(()),
            Self::Integer(number) => number.fmt(f),
            Self::Boolean(flag) => flag.fmt(f),
            Self::Text(text) => text.fmt(f),
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File { path, line } => write!(f, "{} line {line}", path.display()),
            Self::Set => f.write_str("--set"),
            Self::Flag(name) => f.write_str(name),
        }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownSetting { name, origin, nearest: Some(nearest) } => {
                write!(f, "{origin}: no setting is named {name}; did you mean {nearest}?")
            }
            Self::UnknownSetting { name, origin, nearest: None } => write!(
                f,
                "{origin}: no setting is named {name}; `tidemill config` lists all of them"
            ),
            Self::BadValue { name, value, origin, expected } => {
                write!(f, "{origin}: {name} cannot be \"{value}\": expected {expected}")
            }
            Self::NotAnAssignment { text } => {
                write!(f, "--set wants name=value, but was given \"{text}\"")
            }
            Self::UnreadableFile { path, reason } => {
                write!(f, "cannot read the configuration {}: {reason}", path.display())
            }
            Self::BadToml { path, line, reason } => {
                write!(f, "{} line {line}: {reason}", path.display())
            }
            Self::Contradiction { name, reason } => write!(f, "{name} {reason}"),
        }
    }
}

impl std::error::Error for ConfigError {}

#[cfg(test)]
mod tests {
    use super::*;

    fn laid(text: &str) -> Result<Layers, ConfigError> {
        let mut layers = Layers::default();
        layers.read_toml(text, Path::new("tidemill.toml"))?;
        Ok(layers)
    }

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
    fn an_unknown_name_is_an_error_that_suggests_the_right_one() {
        let error = laid("\n\nnum.partition = 1").unwrap_err();
        assert_eq!(
            error.to_string(),
            "tidemill.toml line 3: no setting is named num.partition; did you mean num.partitions?"
        );
    }

    #[test]
    fn a_bad_value_is_an_error_that_says_what_would_fit() {
        let error = Layers::default().assign("num.partitions=many").unwrap_err();
        assert_eq!(
            error.to_string(),
            "--set: num.partitions cannot be \"many\": expected a number from 1 to 100000"
        );
        let error = laid("num.partitions = [1]").unwrap_err();
        assert_eq!(
            error.to_string(),
            "tidemill.toml line 1: num.partitions takes one value, no array"
        );
        let error = laid("log.dir = /data").unwrap_err();
        assert!(error.to_string().contains("text stands in quotes"), "{error}");
        assert!(laid("num.partitions = ").is_err());
        assert!(Layers::default().assign("num.partitions").is_err());
    }

    #[test]
    fn settings_that_contradict_each_other_are_refused() {
        let layers = laid("message.max.bytes = \"32MiB\"\nsocket.request.max.bytes = \"1MiB\"");
        assert!(Config::from_layers(layers.unwrap()).is_err());
    }
}
