//! Changes of configs: of topics, of nodes and the cluster, of groups; and what is in force.
//!
//! All changes of a resource happen or none. Start reading at [`decide_alter_configs`].

use std::collections::BTreeSet;

use tidemill_record::{NodeId, TopicId};

use super::{Error, check_not_internal};
use crate::config::{self, Kind, Layers, TopicConfig, topic_config};
use crate::limits::{
    CONFIG_VALUE_BYTES_MAX, CONFIGS_PER_RESOURCE_MAX, GROUP_CONFIG_VALUE_BYTES_MAX,
    GROUPS_WITH_CONFIGS_MAX, MESSAGE_BYTES_MAX,
};
use crate::metadata::{Configs, Image, Record, Resource, Topic};

/// One change of a config.
#[derive(Clone, Debug)]
pub struct ConfigChange {
    /// Which config.
    pub name: String,
    /// How to change it.
    pub operation: ConfigOperation,
    /// With what.
    pub value: Option<String>,
}

/// How to change a config.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ConfigOperation {
    /// Set it to the value.
    Set,
    /// Remove the override.
    Delete,
    /// Add the value's items to the list in force.
    Append,
    /// Remove the value's items from the list in force.
    Subtract,
}

impl ConfigOperation {
    /// The operation of this number on Kafka's wire.
    #[must_use]
    pub fn from_wire(number: i8) -> Option<Self> {
        [Self::Set, Self::Delete, Self::Append, Self::Subtract]
            .get(usize::try_from(number).ok()?)
            .copied()
    }
}

/// Configs of the broker's own topics are the broker's: without theirs, retention would delete what
/// groups and transactions rely on.
fn check_may_be_configured(image: &Image, resource: &Resource) -> Result<(), Error> {
    let Resource::Topic(id) = resource else { return Ok(()) };
    image.topic(*id).map_or(Ok(()), |topic| check_not_internal(&topic.name))
}

/// Changes of a resource's configs, all or none. `file` is what the node's own file sets: lists
/// are changed from what is in force. No record at all means that everything is so already.
pub fn decide_alter_configs(
    image: &Image,
    resource: &Resource,
    changes: &[ConfigChange],
    file: &Configs,
) -> Result<Vec<Record>, Error> {
    let current = image.configs(resource).ok_or(Error::UnknownTopic)?;
    check_may_be_configured(image, resource)?;
    let mut altered = current.clone();
    let mut named = BTreeSet::new();
    for change in changes {
        if !named.insert(&change.name) {
            return Err(Error::InvalidRequest(format!("{:?} is changed twice", change.name)));
        }
        alter(image, resource, change, file, &mut altered)?;
    }
    let is_new = current.is_empty() && !altered.is_empty();
    if matches!(resource, Resource::Group(_))
        && is_new
        && GROUPS_WITH_CONFIGS_MAX <= image.groups_with_configs().len()
    {
        let why = format!("more than {GROUPS_WITH_CONFIGS_MAX} groups with configs");
        return Err(Error::InvalidConfig(why));
    }
    if CONFIGS_PER_RESOURCE_MAX < altered.len() {
        let why = format!("more than {CONFIGS_PER_RESOURCE_MAX} configs on one resource");
        return Err(Error::InvalidConfig(why));
    }
    check_together(image, resource, &altered, file)?;
    Ok(difference(resource, current, &altered))
}

/// All configs of a resource anew, all or none: what is not named goes back to its default.
pub fn decide_replace_configs(
    image: &Image,
    resource: &Resource,
    configs: &[(String, Option<String>)],
    file: &Configs,
) -> Result<Vec<Record>, Error> {
    let current = image.configs(resource).ok_or(Error::UnknownTopic)?;
    check_may_be_configured(image, resource)?;
    let set = |(name, value): &(String, Option<String>)| ConfigChange {
        name: name.clone(),
        operation: ConfigOperation::Set,
        value: value.clone(),
    };
    let gone = current.keys().filter(|name| configs.iter().all(|(named, _)| named != *name));
    let gone = gone.map(|name| ConfigChange {
        name: name.clone(),
        operation: ConfigOperation::Delete,
        value: None,
    });
    let changes: Vec<ConfigChange> = configs.iter().map(set).chain(gone).collect();
    decide_alter_configs(image, resource, &changes, file)
}

/// The records that lead from one set of overrides to another.
fn difference(resource: &Resource, current: &Configs, altered: &Configs) -> Vec<Record> {
    let change = |name: &str, value: Option<&String>| Record::ConfigChanged {
        resource: resource.clone(),
        name: name.to_owned(),
        value: value.cloned(),
    };
    let removed = current.keys().filter(|name| !altered.contains_key(*name));
    let set = altered.iter().filter(|(name, value)| current.get(*name) != Some(value));
    removed
        .map(|name| change(name, None))
        .chain(set.map(|(name, value)| change(name, Some(value))))
        .collect()
}

fn alter(
    image: &Image,
    resource: &Resource,
    change: &ConfigChange,
    file: &Configs,
    altered: &mut Configs,
) -> Result<(), Error> {
    if change.operation == ConfigOperation::Delete {
        // Also of a name nobody knows: how else would one left by another version go?
        altered.remove(&change.name);
        return Ok(());
    }
    let kind = kind_of(resource, &change.name)?;
    let Some(given) = &change.value else {
        return Err(Error::InvalidRequest(format!("{:?} has no value", change.name)));
    };
    let value = match change.operation {
        ConfigOperation::Set | ConfigOperation::Delete => given.clone(),
        ConfigOperation::Append | ConfigOperation::Subtract => {
            if !matches!(kind, Kind::List(_)) {
                return Err(Error::InvalidConfig(format!("{:?} is not a list", change.name)));
            }
            let current = in_force(image, resource, &change.name, file);
            changed_list(&current, given, change.operation)
        }
    };
    check_value(resource, &change.name, &value, file)?;
    altered.insert(change.name.clone(), value);
    Ok(())
}

fn changed_list(current: &str, given: &str, operation: ConfigOperation) -> String {
    let mut items: Vec<&str> = config::list(current).collect();
    let given: Vec<&str> = config::list(given).collect();
    if operation == ConfigOperation::Append {
        for item in given {
            if !items.contains(&item) {
                items.push(item);
            }
        }
    } else {
        items.retain(|item| !given.contains(item));
    }
    items.join(",")
}

/// The kind of a config on a resource, if it can be changed there.
fn kind_of(resource: &Resource, name: &str) -> Result<Kind, Error> {
    match resource {
        Resource::Topic(_) => {
            let definition = topic_config(name);
            let definition = definition
                .ok_or_else(|| Error::InvalidConfig(format!("unknown topic config {name:?}")))?;
            Ok(definition.kind)
        }
        Resource::Node(_) | Resource::Cluster => config::kind_on_node(name).ok_or_else(|| {
            Error::InvalidRequest(format!(
                "no setting named {name:?} can be changed while a node runs"
            ))
        }),
        Resource::Group(_) => {
            let config = config::group_config(name);
            let config = config
                .ok_or_else(|| Error::InvalidConfig(format!("unknown group config {name:?}")))?;
            Ok(config.definition.kind)
        }
    }
}

fn check_value(resource: &Resource, name: &str, value: &str, file: &Configs) -> Result<(), Error> {
    let bytes_max = match resource {
        Resource::Group(_) => GROUP_CONFIG_VALUE_BYTES_MAX,
        _ => CONFIG_VALUE_BYTES_MAX,
    };
    if bytes_max < value.len() {
        let why = format!("{name}: a value has at most {bytes_max} bytes");
        return Err(Error::InvalidConfig(why));
    }
    let checked = match resource {
        Resource::Topic(_) => topic_config(name).map(|definition| definition.kind.check(value)),
        Resource::Node(_) | Resource::Cluster => config::check_node_value(name, value),
        Resource::Group(_) => {
            config::group_config(name).map(|known| config::check_group_value(known, value, file))
        }
    };
    checked
        .expect("the name was looked up before")
        .map_err(|error| Error::InvalidConfig(format!("{name}: {error}")))?;
    check_carried_out(name, value)
}

/// Refuses what is a good value and would not be carried out, where silence would cost somebody
/// their disk or their records. What is in the metadata already stays in force.
fn check_carried_out(name: &str, value: &str) -> Result<(), Error> {
    let refused = match name {
        "max.message.bytes" | "message.max.bytes" => {
            value.trim().parse().is_ok_and(|bytes: u64| u64::from(MESSAGE_BYTES_MAX) < bytes).then(
                || format!("{value} is above {MESSAGE_BYTES_MAX}, the largest batch there is"),
            )
        }
        _ => None,
    };
    refused.map_or(Ok(()), |why| Err(Error::InvalidConfig(format!("{name}: {why}"))))
}

/// The value in force of a config of `resource`, under the name it has there.
fn in_force(image: &Image, resource: &Resource, name: &str, file: &Configs) -> String {
    let none = Configs::new();
    let set = image.configs(resource).unwrap_or(&none);
    let (definition, layers) = match resource {
        Resource::Topic(_) => {
            let layers =
                Layers { topic: Some(set), node: &none, cluster: image.cluster_configs(), file };
            (topic_config(name), layers)
        }
        Resource::Node(_) | Resource::Cluster => {
            let layers = Layers { topic: None, node: set, cluster: image.cluster_configs(), file };
            (config::node_config(name).map(|(definition, _)| definition), layers)
        }
        // None of theirs is a list.
        Resource::Group(_) => return String::new(),
    };
    definition.map_or(String::new(), |definition| definition.effective(&layers).0.into_owned())
}

/// Rules between configs of one resource.
fn check_together(
    image: &Image,
    resource: &Resource,
    altered: &Configs,
    file: &Configs,
) -> Result<(), Error> {
    match resource {
        Resource::Topic(_) => {}
        Resource::Node(_) | Resource::Cluster => return Ok(()),
        Resource::Group(_) => {
            return config::check_group_together(altered, file).map_err(Error::InvalidConfig);
        }
    }
    let none = Configs::new();
    let cluster = image.cluster_configs();
    check_topic_configs(&Layers { topic: Some(altered), node: &none, cluster, file })
}

fn check_topic_configs(layers: &Layers<'_>) -> Result<(), Error> {
    let config = TopicConfig::resolve(layers);
    if config.max_compaction_lag_ms < config.min_compaction_lag_ms {
        let why = "min.compaction.lag.ms is above max.compaction.lag.ms";
        return Err(Error::InvalidConfig(why.to_owned()));
    }
    Ok(())
}

/// The overrides of a topic to be made.
pub(super) fn new_topic_configs(
    given: &[(String, Option<String>)],
) -> Result<Vec<(String, String)>, Error> {
    if CONFIGS_PER_RESOURCE_MAX < given.len() {
        let why = format!("more than {CONFIGS_PER_RESOURCE_MAX} configs on one topic");
        return Err(Error::InvalidConfig(why));
    }
    let resource = &Resource::Topic(TopicId::ZERO);
    let mut configs = Configs::new();
    for (name, value) in given {
        kind_of(resource, name)?;
        let Some(value) = value else {
            return Err(Error::InvalidConfig(format!("{name:?} has no value")));
        };
        check_value(resource, name, value, &Configs::new())?;
        if configs.insert(name.clone(), value.clone()).is_some() {
            return Err(Error::InvalidConfig(format!("{name:?} is set twice")));
        }
    }
    let none = Configs::new();
    check_topic_configs(&Layers {
        topic: Some(&configs),
        node: &none,
        cluster: &none,
        file: &none,
    })?;
    Ok(configs.into_iter().collect())
}

/// What is in force for a topic on a node.
#[must_use]
pub fn resolve_topic_config(
    image: &Image,
    topic: &Topic,
    node: NodeId,
    file: &Configs,
) -> TopicConfig {
    TopicConfig::resolve(&topic_layers(image, topic, node, file))
}

/// All that sets a topic's configs on a node.
#[must_use]
pub fn topic_layers<'a>(
    image: &'a Image,
    topic: &'a Topic,
    node: NodeId,
    file: &'a Configs,
) -> Layers<'a> {
    let node = image.node_configs(node);
    Layers { topic: Some(&topic.configs), node, cluster: image.cluster_configs(), file }
}

/// All that sets a node's configs.
#[must_use]
pub fn node_layers<'a>(image: &'a Image, node: NodeId, file: &'a Configs) -> Layers<'a> {
    let node = image.node_configs(node);
    Layers { topic: None, node, cluster: image.cluster_configs(), file }
}
