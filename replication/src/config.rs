//! Configs of topics and nodes: which there are, what they may be, what is in force.
//!
//! ```text
//! topic override > node override > cluster override > the node's file > default
//! ```
//!
//! Groups have configs of their own: [`GroupConfig`].
//!
//! Overrides live in the [`Image`](crate::Image); the node's file comes from the broker as
//! [`Layers::file`]. A topic config is called one thing on a topic and another on a node
//! (`retention.ms`, `log.retention.ms`): [`Definition::synonyms`]. [`TopicConfig`] is what
//! storage and the request path work with; [`describe_topic`] and [`describe_node`] are what
//! clients are told.

mod group;
mod table;
mod topic;

pub use group::{
    ConsumerConfig, GROUP_CONFIGS, GroupConfig, GroupDefinition, OffsetReset, ShareConfig,
    check_group_together, check_group_value, describe_group, group_config, is_of_groups,
};
pub use table::{NODE_CONFIGS, NodeKind, TOPIC_CONFIGS, topic_config};
pub use topic::{Cleanup, Compression, Durability, TimestampType, TopicConfig};

use std::borrow::Cow;
use std::fmt;

use crate::metadata::Configs;

/// One topic config.
#[derive(Clone, Copy, Debug)]
pub struct Definition {
    /// Its name on a topic.
    pub name: &'static str,
    /// What values it takes.
    pub kind: Kind,
    /// Its value where nobody set it.
    pub default: &'static str,
    /// Its names on a node, the strongest first.
    pub synonyms: &'static [Synonym],
    /// One sentence for those who read it in a list.
    pub doc: &'static str,
}

/// The name of a topic config on a node.
#[derive(Clone, Copy, Debug)]
pub struct Synonym {
    /// The name.
    pub name: &'static str,
    /// Its value times this is the topic config's value: hours to milliseconds.
    pub factor: i64,
}

/// What values a config takes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    /// `true` or `false`.
    Boolean,
    /// One of these.
    Choice(&'static [&'static str]),
    /// A 32-bit integer within these bounds, both inclusive.
    Int(i64, i64),
    /// A 64-bit integer within these bounds, both inclusive.
    Long(i64, i64),
    /// A decimal fraction within these bounds, both inclusive.
    Double(f64, f64),
    /// Values of these, comma-separated, or none; of any, if none are named.
    List(&'static [&'static str]),
    /// Any text.
    Text,
}

/// Where a value comes from, as numbered on Kafka's wire.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(i8)]
pub enum Source {
    /// Set on the topic.
    Topic = 1,
    /// Set on the node while it ran.
    Node = 2,
    /// Set on the cluster while it ran.
    Cluster = 3,
    /// In the node's file or command line.
    File = 4,
    /// Nobody set it.
    Default = 5,
    /// Set on the group.
    Group = 8,
}

/// All that may set a config, the strongest first.
#[derive(Clone, Copy, Debug)]
pub struct Layers<'a> {
    /// Overrides of the topic; none when a node is meant.
    pub topic: Option<&'a Configs>,
    /// Overrides of the node.
    pub node: &'a Configs,
    /// Overrides of the cluster.
    pub cluster: &'a Configs,
    /// What the node's file and command line set, under Kafka's names.
    pub file: &'a Configs,
}

/// One line of a list of configs.
#[derive(Clone, Debug, PartialEq)]
pub struct Described {
    /// Its name.
    pub name: String,
    /// The value in force.
    pub value: String,
    /// Where that comes from.
    pub source: Source,
    /// Whether it can only be changed in the node's file.
    pub is_read_only: bool,
    /// All that sets it, the strongest (the value in force) first.
    pub synonyms: Vec<SynonymValue>,
    /// What values it takes.
    pub kind: Kind,
    /// One sentence about it.
    pub doc: &'static str,
}

/// One value of a config, in force or hidden by a stronger one.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct SynonymValue {
    /// The name it was set under.
    pub name: String,
    /// The value, as set.
    pub value: String,
    /// Where.
    pub source: Source,
}

/// A config of nodes only, which the broker knows and this crate lists. It can be changed while the
/// node runs if it is one of [`NODE_CONFIGS`].
#[derive(Clone, Debug)]
pub struct NodeConfig {
    /// Its name.
    pub name: String,
    /// The value at the node's start.
    pub value: String,
    /// Its value where nobody set it.
    pub default: String,
    /// What values it takes.
    pub kind: Kind,
    /// One sentence about it.
    pub doc: &'static str,
}

/// Why a value is refused; `Display` says it.
#[derive(Clone, Debug, PartialEq)]
pub struct ValueError {
    value: String,
    kind: Kind,
}

impl Kind {
    /// Whether `value` is one of the values of this kind.
    pub fn check(self, value: &str) -> Result<(), ValueError> {
        let fits = match self {
            Self::Boolean => boolean(value).is_some(),
            Self::Choice(choices) => choices.contains(&value),
            Self::Int(min, max) | Self::Long(min, max) => {
                value.trim().parse().is_ok_and(|n: i64| (min..=max).contains(&n))
            }
            Self::Double(min, max) => {
                value.trim().parse().is_ok_and(|n: f64| (min..=max).contains(&n))
            }
            Self::List([]) | Self::Text => true,
            Self::List(allowed) => list(value).all(|item| allowed.contains(&item)),
        };
        if fits { Ok(()) } else { Err(ValueError { value: value.to_owned(), kind: self }) }
    }

    /// The type's number on Kafka's wire.
    #[must_use]
    pub fn wire_type(self) -> i8 {
        match self {
            Self::Boolean => 1,
            Self::Choice(_) | Self::Text => 2,
            Self::Int(..) => 3,
            Self::Long(..) => 5,
            Self::Double(..) => 6,
            Self::List(_) => 7,
        }
    }
}

/// The items of a list; empty text is the empty list.
pub(crate) fn list(value: &str) -> impl Iterator<Item = &str> {
    value.split(',').map(str::trim).filter(move |_| !value.is_empty())
}

fn boolean(value: &str) -> Option<bool> {
    let value = value.trim();
    match (value.eq_ignore_ascii_case("true"), value.eq_ignore_ascii_case("false")) {
        (true, _) => Some(true),
        (_, true) => Some(false),
        _ => None,
    }
}

impl Definition {
    /// All that sets this config, the strongest first; the last is the default.
    #[must_use]
    pub fn values(&self, layers: &Layers<'_>) -> Vec<SynonymValue> {
        let mut values = Vec::new();
        let mut add = |name: &str, configs: &Configs, source| {
            if let Some(value) = configs.get(name) {
                values.push(SynonymValue { name: name.to_owned(), value: value.clone(), source });
            }
        };
        if let Some(topic) = layers.topic {
            add(self.name, topic, Source::Topic);
        }
        let on_node = [
            (layers.node, Source::Node),
            (layers.cluster, Source::Cluster),
            (layers.file, Source::File),
        ];
        for (configs, source) in on_node {
            for synonym in self.synonyms {
                add(synonym.name, configs, source);
            }
        }
        let name = self.synonyms.first().map_or(self.name, |synonym| synonym.name).to_owned();
        let value = self.default.to_owned();
        values.push(SynonymValue { name, value, source: Source::Default });
        values
    }

    /// The value in force, in the topic config's unit, and where it comes from.
    #[must_use]
    pub fn effective<'a>(&self, layers: &Layers<'a>) -> (Cow<'a, str>, Source) {
        let on_topic = layers.topic.and_then(|topic| topic.get(self.name));
        if let Some(value) = on_topic
            && self.kind.check(value).is_ok()
        {
            return (Cow::Borrowed(value), Source::Topic);
        }
        let on_node = [
            (layers.node, Source::Node),
            (layers.cluster, Source::Cluster),
            (layers.file, Source::File),
        ];
        for (configs, source) in on_node {
            for synonym in self.synonyms {
                let value = configs.get(synonym.name).and_then(|value| synonym.scale(value));
                if let Some(value) = value.filter(|value| self.kind.check(value).is_ok()) {
                    return (value, source);
                }
            }
        }
        (Cow::Borrowed(self.default), Source::Default)
    }
}

impl Synonym {
    /// A value under this name as a value of the topic config.
    fn scale<'a>(&self, value: &'a str) -> Option<Cow<'a, str>> {
        if self.factor == 1 {
            return Some(Cow::Borrowed(value));
        }
        let number: i64 = value.trim().parse().ok()?;
        // Minus one is no limit, in every unit.
        let scaled = if number < 0 { number } else { number.saturating_mul(self.factor) };
        Some(Cow::Owned(scaled.to_string()))
    }
}

/// The config whose name on a node is `name`.
#[must_use]
pub fn node_config(name: &str) -> Option<(&'static Definition, Synonym)> {
    TOPIC_CONFIGS.iter().find_map(|definition| {
        let synonym = definition.synonyms.iter().find(|synonym| synonym.name == name)?;
        Some((definition, *synonym))
    })
}

/// What values a config takes that can be changed on a node while it runs, under its name there; none
/// if there is no such config.
#[must_use]
pub fn kind_on_node(name: &str) -> Option<Kind> {
    let own = || NODE_CONFIGS.iter().find(|config| config.name == name).map(|config| config.kind);
    node_config(name).map(|(definition, _)| definition.kind).or_else(own)
}

/// The value that was set on a running node for a config that no topic inherits, if one was and it
/// is one that the config takes.
#[must_use]
pub fn set_on_node<'a>(name: &str, node: &'a Configs, cluster: &'a Configs) -> Option<&'a str> {
    let kind = kind_on_node(name)?;
    let set = [node, cluster].into_iter().filter_map(|configs| configs.get(name));
    set.map(String::as_str).find(|value| kind.check(value).is_ok())
}

/// Checks a value of a config given under its name on a node, for the node's file.
///
/// None if there is no such config.
#[must_use]
pub fn check_node_value(name: &str, value: &str) -> Option<Result<(), ValueError>> {
    let Some((definition, synonym)) = node_config(name) else {
        return kind_on_node(name).map(|kind| kind.check(value));
    };
    let refused = || ValueError { value: value.to_owned(), kind: definition.kind };
    let scaled = synonym.scale(value);
    let fits = scaled.is_some_and(|scaled| definition.kind.check(&scaled).is_ok());
    Some(if fits { Ok(()) } else { Err(refused()) })
}

/// All configs of a topic, in the order of their names.
#[must_use]
pub fn describe_topic(layers: &Layers<'_>) -> Vec<Described> {
    let describe = |definition: &Definition| {
        let (value, source) = definition.effective(layers);
        Described {
            name: definition.name.to_owned(),
            value: value.into_owned(),
            source,
            is_read_only: false,
            synonyms: definition.values(layers),
            kind: definition.kind,
            doc: definition.doc,
        }
    };
    TOPIC_CONFIGS.iter().map(describe).collect()
}

/// All configs of a node: those that topics inherit, which can be changed while it runs, and
/// `own`, of which few can; in the order of their names.
#[must_use]
pub fn describe_node(layers: &Layers<'_>, own: &[NodeConfig]) -> Vec<Described> {
    let mut described: Vec<_> = TOPIC_CONFIGS
        .iter()
        .flat_map(|definition| definition.synonyms.first().map(|first| (definition, first)))
        .map(|(definition, first)| {
            let (value, source) = definition.effective(layers);
            Described {
                name: first.name.to_owned(),
                value: value.into_owned(),
                source,
                is_read_only: false,
                synonyms: definition.values(layers),
                kind: definition.kind,
                doc: definition.doc,
            }
        })
        .collect();
    described.extend(own.iter().map(|config| describe_own(config, layers)));
    described.sort_by(|a, b| a.name.cmp(&b.name));
    described
}

fn describe_own(config: &NodeConfig, layers: &Layers<'_>) -> Described {
    let value = |value: &str, source| SynonymValue {
        name: config.name.clone(),
        value: value.to_owned(),
        source,
    };
    let default = value(&config.default, Source::Default);
    let is_set = config.value != config.default;
    let set = is_set.then(|| value(&config.value, Source::File));
    let changed = [(layers.node, Source::Node), (layers.cluster, Source::Cluster)];
    let changed = changed.into_iter().filter_map(|(configs, source)| {
        let set = configs.get(&config.name)?;
        Some(value(set, source))
    });
    let is_read_only = kind_on_node(&config.name).is_none();
    let changed = changed.filter(|_| !is_read_only);
    let synonyms: Vec<SynonymValue> = changed.chain(set).chain([default]).collect();
    let in_force = synonyms.iter().find(|synonym| config.kind.check(&synonym.value).is_ok());
    let in_force = in_force.unwrap_or(&synonyms[synonyms.len() - 1]);
    Described {
        name: config.name.clone(),
        value: in_force.value.clone(),
        source: in_force.source,
        is_read_only,
        synonyms,
        kind: config.kind,
        doc: config.doc,
    }
}

/// What was set on the cluster as a whole, and nothing else: what clients are told who ask for
/// the node without a name.
#[must_use]
pub fn describe_cluster(cluster: &Configs) -> Vec<Described> {
    let known = cluster.iter().filter_map(|(name, value)| {
        let kind = kind_on_node(name)?;
        let doc = node_config(name).map_or("", |(definition, _)| definition.doc);
        let source = Source::Cluster;
        let set = SynonymValue { name: name.clone(), value: value.clone(), source };
        Some(Described {
            name: name.clone(),
            value: value.clone(),
            source,
            is_read_only: false,
            synonyms: vec![set],
            kind,
            doc,
        })
    });
    known.collect()
}

impl fmt::Display for ValueError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} is not ", self.value)?;
        match self.kind {
            Kind::Boolean => write!(f, "true or false"),
            Kind::Choice(choices) => write!(f, "one of {}", choices.join(", ")),
            Kind::Int(min, max) | Kind::Long(min, max) => {
                write!(f, "a number from {min} to {max}")
            }
            Kind::Double(min, max) => write!(f, "a number from {min} to {max}"),
            Kind::List(allowed) => write!(f, "a list of {}", allowed.join(", ")),
            Kind::Text => write!(f, "text"),
        }
    }
}

impl std::error::Error for ValueError {}

#[cfg(test)]
mod tests {
    use super::*;

    fn configs(pairs: &[(&str, &str)]) -> Configs {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    /// A topic's own value hides the node's, which hides the cluster's, the file's, the default.
    #[test]
    fn the_nearest_setting_is_in_force() {
        let retention = topic_config("retention.ms").unwrap();
        let none = Configs::new();
        let file = configs(&[("log.retention.hours", "2")]);
        let cluster = configs(&[("log.retention.ms", "3000")]);
        let node = configs(&[("log.retention.ms", "2000")]);
        let topic = configs(&[("retention.ms", "1000")]);

        let mut layers = Layers { topic: None, node: &none, cluster: &none, file: &none };
        assert_eq!(retention.effective(&layers), ("604800000".into(), Source::Default));
        layers.file = &file;
        assert_eq!(retention.effective(&layers), ("7200000".into(), Source::File));
        layers.cluster = &cluster;
        assert_eq!(retention.effective(&layers), ("3000".into(), Source::Cluster));
        layers.node = &node;
        assert_eq!(retention.effective(&layers), ("2000".into(), Source::Node));
        layers.topic = Some(&topic);
        assert_eq!(retention.effective(&layers), ("1000".into(), Source::Topic));

        let values = retention.values(&layers);
        let values: Vec<_> = values.iter().map(|v| (v.name.as_str(), v.value.as_str())).collect();
        let expected = [
            ("retention.ms", "1000"),
            ("log.retention.ms", "2000"),
            ("log.retention.ms", "3000"),
            ("log.retention.hours", "2"),
            ("log.retention.ms", "604800000"),
        ];
        assert_eq!(values, expected);
    }

    /// Of two names in one file the one with the finer unit counts, as in Kafka.
    #[test]
    fn milliseconds_beat_minutes_beat_hours() {
        let none = Configs::new();
        let file = configs(&[("log.retention.hours", "1"), ("log.retention.minutes", "1")]);
        let layers = Layers { topic: None, node: &none, cluster: &none, file: &file };
        let retention = topic_config("retention.ms").unwrap();
        assert_eq!(retention.effective(&layers).0, "60000");
        assert!(check_node_value("log.retention.hours", "-1").unwrap().is_ok(), "no limit");
        assert!(check_node_value("log.retention.hours", "many").unwrap().is_err());
        assert!(check_node_value("log.retention.years", "1").is_none());
    }

    /// What a node lists can be changed while it runs, but for what is its own.
    #[test]
    fn a_node_lists_what_topics_inherit_and_its_own() {
        let none = Configs::new();
        let layers = Layers { topic: None, node: &none, cluster: &none, file: &none };
        let own = NodeConfig {
            name: "num.partitions".to_owned(),
            value: "3".to_owned(),
            default: "1".to_owned(),
            kind: Kind::Int(1, 1000),
            doc: "",
        };
        let listed = describe_node(&layers, &[own]);
        assert!(listed.is_sorted_by(|a, b| a.name < b.name), "each once, in order");
        let line = |name: &str| listed.iter().find(|line| line.name == name).unwrap();
        assert!(line("num.partitions").is_read_only);
        assert_eq!(line("num.partitions").source, Source::File);
        assert!(!line("message.max.bytes").is_read_only);
    }
}
