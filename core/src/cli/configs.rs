//! `tidemill config get | set | delete`: what is set on topics, brokers and groups of any Kafka cluster,
//! and the quotas of its clients, as `kafka-configs` has it.

mod listing;
mod names;

use clap::{Args, Subcommand, ValueEnum};
use serde_json::json;
use tidemill_client::kafka::describe_configs::{DescribeConfigsResourceResult, source};
use tidemill_client::{Admin, ConfigChange, ConfigResource, Quota, QuotaOf};

use super::brokers::Bootstrap;
use super::failure::Failure;
use super::topic::warn_of_replicas;
use super::{Output, print_line};
use crate::limits::SHARD_ID_STRIDE;

/// `tidemill config COMMAND …`
#[derive(Debug, Subcommand)]
pub(super) enum ConfigCommand {
    /// Show what is set; with --all also what is not, with the value in force.
    Get(Get),
    /// Give settings values, all or none.
    Set(Set),
    /// Take settings off: what holds for all holds again.
    Delete(Delete),
}

/// Whose settings.
#[derive(Args, Debug)]
struct Whose {
    /// What they belong to.
    of: Of,
    /// Its name; of a broker its id. Without one, `get` tells what is set of any of them, and `set` and
    /// `delete` mean all brokers, or all users or clients that have no quotas of their own.
    name: Option<String>,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
enum Of {
    /// A topic.
    Topic,
    /// A broker, by its id, or all of them.
    Broker,
    /// A group, whether or not anybody is in it.
    Group,
    /// The quotas of a user.
    User,
    /// The quotas of a client, by how it calls itself.
    Client,
}

/// `tidemill config get …`
#[derive(Args, Debug)]
pub(super) struct Get {
    #[command(flatten)]
    whose: Whose,
    /// Also what is not set, with its default.
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    output: Output,
    #[command(flatten)]
    bootstrap: Bootstrap,
}

/// `tidemill config set …`
#[derive(Args, Debug)]
pub(super) struct Set {
    #[command(flatten)]
    whose: Whose,
    /// A setting and its value, such as consumer.session.timeout.ms=50000; may be repeated.
    #[arg(short = 'X', long = "config", value_name = "NAME=VALUE", required = true)]
    #[arg(value_parser = setting)]
    settings: Vec<(String, String)>,
    #[command(flatten)]
    bootstrap: Bootstrap,
}

/// `tidemill config delete …`
#[derive(Args, Debug)]
pub(super) struct Delete {
    #[command(flatten)]
    whose: Whose,
    /// A setting; may be repeated.
    #[arg(short = 'X', long = "config", value_name = "NAME", required = true)]
    #[arg(value_parser = setting_name)]
    settings: Vec<String>,
    #[command(flatten)]
    bootstrap: Bootstrap,
}

fn setting(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("NAME=VALUE".to_owned()),
    }
}

fn setting_name(text: &str) -> Result<String, String> {
    match text.contains('=') {
        true => Err("only the NAME: what is taken off has no value".to_owned()),
        false => Ok(text.to_owned()),
    }
}

/// One or the other way to set something.
enum Target {
    Resource(ConfigResource),
    Quota(QuotaOf),
}

impl ConfigCommand {
    pub(super) fn run(self) -> Result<(), Failure> {
        match self {
            Self::Get(get) => get.run(),
            Self::Set(set) => set.run(),
            Self::Delete(delete) => delete.run(),
        }
    }
}

impl Whose {
    fn target(&self) -> Result<Target, Failure> {
        let missing = |what: &str| {
            let fix = format!("name it: `tidemill config … {what} NAME`");
            Failure::usage(format!("which {what}?")).fix(fix)
        };
        Ok(match (self.of, &self.name) {
            (Of::Topic, Some(name)) => Target::Resource(ConfigResource::Topic(name.clone())),
            (Of::Topic, None) => return Err(missing("topic")),
            (Of::Group, Some(name)) => Target::Resource(ConfigResource::Group(name.clone())),
            (Of::Group, None) => return Err(missing("group")),
            (Of::Broker, None) => Target::Resource(ConfigResource::Nodes),
            (Of::Broker, Some(id)) => {
                let id = id.parse();
                let id = id.map_err(|_| Failure::usage("a broker is named by its id, a number"))?;
                Target::Resource(ConfigResource::Node(id))
            }
            (Of::User, name) => Target::Quota(QuotaOf::User(name.clone())),
            (Of::Client, name) => Target::Quota(QuotaOf::Client(name.clone())),
        })
    }

    /// An admin, and what is meant; if that is one broker, it is there.
    fn reach(&self, bootstrap: &Bootstrap) -> Result<(Admin, Target), Failure> {
        let target = self.target()?;
        let mut admin = bootstrap.admin(false)?;
        if let Target::Resource(ConfigResource::Node(id)) = &target {
            let cluster = admin.cluster().map_err(|error| bootstrap.failure(error))?;
            if !cluster.nodes.contains_key(id) {
                let ids: Vec<String> = cluster.nodes.keys().map(i32::to_string).collect();
                let there = match &ids[..] {
                    [only] => format!("there is {only}"),
                    _ => format!("there are {}", ids.join(", ")),
                };
                return Err(Failure::new(format!("there is no broker {id}")).because(there));
            }
        }
        Ok((admin, target))
    }

    fn in_words(&self) -> String {
        let kind = format!("{:?}", self.of).to_lowercase();
        match (&self.name, self.of) {
            (Some(name), _) => format!("{kind} {name}"),
            (None, Of::Broker) => "all brokers".to_owned(),
            (None, _) => format!("{kind}s without quotas of their own"),
        }
    }

    /// The same once something is set: each shard of a tidemill is told to clients as a broker, but
    /// what is set on it is set on its node.
    fn in_words_at(&self, admin: &mut Admin) -> String {
        let id = self.name.as_deref().and_then(|name| name.parse().ok());
        let Some(id) = id.filter(|id: &i32| self.of == Of::Broker && SHARD_ID_STRIDE <= *id) else {
            return self.in_words();
        };
        let configs = admin.describe_configs(&ConfigResource::Node(id)).unwrap_or_default();
        match configs.iter().any(|config| config.name.starts_with("tidemill.")) {
            true => format!("broker {} with all its shards", id % SHARD_ID_STRIDE),
            false => self.in_words(),
        }
    }
}

impl Get {
    fn run(self) -> Result<(), Failure> {
        if self.whose.name.is_none() && !self.all {
            return self.list();
        }
        let (mut admin, target) = self.whose.reach(&self.bootstrap)?;
        let rows: Vec<(String, String, &str)> = match &target {
            Target::Resource(resource) => {
                let all = admin.describe_configs(resource);
                let all = all.map_err(|error| {
                    names::refused(&self.bootstrap, &mut admin, &target, error, [].into_iter())
                })?;
                all.into_iter().filter(|config| self.all || is_own(self.whose.of, config)).map(told)
            }
            .collect(),
            Target::Quota(of) => {
                let quotas = admin.quotas(of).map_err(|error| self.bootstrap.failure(error))?;
                let row = |quota: Quota| (quota.name, quota.value.to_string(), "set");
                quotas.into_iter().map(row).collect()
            }
        };
        if self.output.is_json() {
            let rows = rows.iter().map(
                |(name, value, origin)| json!({ "name": name, "value": value, "origin": origin }),
            );
            return print_line(&json!(rows.collect::<Vec<_>>()).to_string());
        }
        if rows.is_empty() {
            return print_line(&format!("nothing is set of {}", self.whose.in_words()));
        }
        for (name, value, origin) in rows {
            let origin = if self.all { format!("    [{origin}]") } else { String::new() };
            print_line(&format!("{name} = {value}{origin}"))?;
        }
        Ok(())
    }
}

/// Whether it was set on what was asked for, and not somewhere above it.
fn is_own(of: Of, config: &DescribeConfigsResourceResult) -> bool {
    match of {
        Of::Topic => config.config_source == source::TOPIC,
        Of::Group => config.config_source == source::GROUP,
        _ => matches!(
            config.config_source,
            source::DYNAMIC_BROKER | source::DYNAMIC_DEFAULT_BROKER | source::STATIC_BROKER
        ),
    }
}

fn told(config: DescribeConfigsResourceResult) -> (String, String, &'static str) {
    let origin = match config.config_source {
        source::TOPIC => "topic",
        source::GROUP => "group",
        source::DYNAMIC_BROKER => "broker",
        source::DYNAMIC_DEFAULT_BROKER => "all brokers",
        source::STATIC_BROKER => "file",
        _ => "default",
    };
    (config.name, config.value.unwrap_or_default(), origin)
}

impl Set {
    fn run(self) -> Result<(), Failure> {
        let Self { whose, settings, bootstrap } = self;
        let (mut admin, target) = whose.reach(&bootstrap)?;
        let done = match &target {
            Target::Resource(resource) => {
                let change = |(name, value): &(String, String)| {
                    ConfigChange::Set(name.clone(), value.clone())
                };
                let changes: Vec<_> = settings.iter().map(change).collect();
                admin.alter_configs(resource, &changes)
            }
            Target::Quota(of) => {
                let quota = |(name, value): &(String, String)| match value.parse() {
                    Ok(rate) => Ok((name.clone(), Some(rate))),
                    Err(_) => Err(Failure::usage(format!("{name}: {value} is no number"))),
                };
                let changes = settings.iter().map(quota).collect::<Result<Vec<_>, _>>()?;
                admin.alter_quotas(of, &changes)
            }
        };
        let names = settings.iter().map(|(name, _)| name.as_str());
        done.map_err(|error| names::refused(&bootstrap, &mut admin, &target, error, names))?;
        if let Target::Resource(ConfigResource::Topic(topic)) = &target {
            warn_of_replicas(&mut admin, topic, &settings);
        }
        let whose = whose.in_words_at(&mut admin);
        settings
            .iter()
            .try_for_each(|(name, value)| print_line(&format!("{whose}: {name} is {value}")))
    }
}

impl Delete {
    fn run(self) -> Result<(), Failure> {
        let Self { whose, settings, bootstrap } = self;
        let (mut admin, target) = whose.reach(&bootstrap)?;
        let names = || settings.iter().map(String::as_str);
        let done = match &target {
            Target::Resource(resource) => {
                names::check(&bootstrap, &mut admin, &target, names())?;
                let changes = settings.iter().cloned().map(ConfigChange::Reset);
                admin.alter_configs(resource, &changes.collect::<Vec<_>>())
            }
            Target::Quota(of) => {
                let changes = settings.iter().map(|name| (name.clone(), None));
                admin.alter_quotas(of, &changes.collect::<Vec<_>>())
            }
        };
        done.map_err(|error| names::refused(&bootstrap, &mut admin, &target, error, names()))?;
        let whose = whose.in_words_at(&mut admin);
        settings
            .iter()
            .try_for_each(|name| print_line(&format!("{whose}: {name} is not set any more")))
    }
}
