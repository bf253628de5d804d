//! `tidemill topic`: make, list, describe, configure, grow, trim and delete topics of any Kafka
//! cluster.

use std::collections::BTreeMap;

use clap::{Args, Subcommand};
use serde_json::json;
use tidemill_client::kafka::ErrorCode;
use tidemill_client::kafka::describe_configs::source;
use tidemill_client::{
    Admin, ConfigChange, ConfigResource, Error, ErrorKind, NewTopic, PartitionView, TopicView,
};

use tidemill_replication::config::{TOPIC_CONFIGS, topic_config};

use super::brokers::Bootstrap;
use super::failure::Failure;
use super::offsets::{Partitions, Place, parse_place};
use super::{Output, counted, print_line, print_table};
use crate::config::settings::nearest_of;
use crate::limits::SHARD_ID_STRIDE;

/// `tidemill topic …`
#[derive(Debug, Subcommand)]
pub(super) enum TopicCommand {
    /// Make a topic.
    Create(Create),
    /// List all topics with their partitions.
    List(List),
    /// Show a topic's partitions, leaders, offsets and settings.
    Describe(Named),
    /// Change settings of a topic.
    Configure(Configure),
    /// Give a topic more partitions.
    Grow(Grow),
    /// Delete the oldest records of a topic (DeleteRecords).
    Trim(Trim),
    /// Delete topics and all their records.
    Delete(Delete),
}

/// `tidemill topic create …`
#[derive(Args, Debug)]
pub(super) struct Create {
    /// Its name: letters, digits, dots, underscores and dashes.
    name: String,
    /// How many partitions [default: what the broker says]
    #[arg(short, long, value_parser = clap::value_parser!(i32).range(1..))]
    partitions: Option<i32>,
    /// How many replicas each partition has [default: what the broker says]
    #[arg(short, long, value_parser = clap::value_parser!(i16).range(1..))]
    replication_factor: Option<i16>,
    /// A setting of the topic, such as retention.ms=3600000; may be repeated.
    #[arg(short = 'X', long = "config", value_name = "NAME=VALUE", value_parser = parse_setting)]
    configs: Vec<(String, String)>,
    #[command(flatten)]
    bootstrap: Bootstrap,
}

/// `tidemill topic list …`
#[derive(Args, Debug)]
pub(super) struct List {
    #[command(flatten)]
    output: Output,
    #[command(flatten)]
    bootstrap: Bootstrap,
}

/// `tidemill topic describe …`
#[derive(Args, Debug)]
pub(super) struct Named {
    /// The topic.
    name: String,
    #[command(flatten)]
    output: Output,
    #[command(flatten)]
    bootstrap: Bootstrap,
}

/// `tidemill topic configure …`: the operations of IncrementalAlterConfigs, carried out all or none.
#[derive(Args, Debug)]
pub(super) struct Configure {
    /// The topic.
    name: String,
    /// Give a setting this value; may be repeated, as may the others.
    #[arg(short = 'X', long = "set", value_name = "NAME=VALUE", value_parser = parse_setting)]
    set: Vec<(String, String)>,
    /// Take a setting off the topic: the broker's default holds again.
    #[arg(long = "delete", value_name = "NAME")]
    delete: Vec<String>,
    /// Add words to a setting that is a list, such as cleanup.policy=delete.
    #[arg(long = "append", value_name = "NAME=VALUE", value_parser = parse_setting)]
    append: Vec<(String, String)>,
    /// Take words out of a setting that is a list.
    #[arg(long = "subtract", value_name = "NAME=VALUE", value_parser = parse_setting)]
    subtract: Vec<(String, String)>,
    #[command(flatten)]
    bootstrap: Bootstrap,
}

/// `tidemill topic trim …`
#[derive(Args, Debug)]
pub(super) struct Trim {
    /// The topic.
    name: String,
    /// From which partition; may be repeated [default: all]
    #[arg(short, long = "partition", value_name = "PARTITION")]
    partitions: Vec<i32>,
    /// The first record to keep: an offset, end (keep none), -N (the last N), or s@MS (since a
    /// time)
    #[arg(long, value_name = "PLACE", allow_hyphen_values = true, value_parser = parse_place)]
    before: Place,
    #[command(flatten)]
    output: Output,
    #[command(flatten)]
    bootstrap: Bootstrap,
}

/// `tidemill topic grow …`
#[derive(Args, Debug)]
pub(super) struct Grow {
    /// The topic.
    name: String,
    /// How many partitions it shall have afterwards.
    #[arg(short, long, value_parser = clap::value_parser!(i32).range(1..))]
    partitions: i32,
    #[command(flatten)]
    bootstrap: Bootstrap,
}

/// `tidemill topic delete …`
#[derive(Args, Debug)]
pub(super) struct Delete {
    /// The topics.
    #[arg(required = true)]
    names: Vec<String>,
    #[command(flatten)]
    bootstrap: Bootstrap,
}

fn parse_setting(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("NAME=VALUE".to_owned()),
    }
}

impl TopicCommand {
    pub(super) fn run(self) -> Result<(), Failure> {
        match self {
            Self::Create(create) => create.run(),
            Self::List(list) => list.run(),
            Self::Describe(named) => named.run(),
            Self::Configure(configure) => configure.run(),
            Self::Grow(grow) => grow.run(),
            Self::Trim(trim) => trim.run(),
            Self::Delete(delete) => delete.run(),
        }
    }
}

impl Create {
    fn run(self) -> Result<(), Failure> {
        let name = &self.name;
        let topic = NewTopic {
            name: name.clone(),
            partitions: self.partitions,
            replication_factor: self.replication_factor,
            configs: self.configs,
        };
        let mut admin = self.bootstrap.admin(false)?;
        let made = admin.create_topic(&topic).map_err(|error| {
            let names = topic.configs.iter().map(|(name, _)| name.as_str());
            settings_failure(&self.bootstrap, name, error, names)
        })?;
        if let Some(replicas) = made.replicas.or(topic.replication_factor) {
            say_if_too_few(name, i64::from(replicas), &topic.configs);
        }
        match made.partitions {
            None => print_line(&format!("created {name}")),
            Some(count) => {
                let partitions = counted(count as u64, "partition", "partitions");
                print_line(&format!("created {name} with {partitions}"))
            }
        }
    }
}

/// What Kafka takes without a word, and we as well, for there may be more replicas one day.
fn say_if_too_few(topic: &str, replicas: i64, settings: &[(String, String)]) {
    let name = "min.insync.replicas";
    let set = settings.iter().rev().find(|(set, _)| set == name);
    let Some(wanted) = set.and_then(|(_, value)| value.trim().parse::<i64>().ok()) else { return };
    if replicas < wanted {
        let replicas = counted(replicas as u64, "replica", "replicas");
        eprintln!(
            "tidemill: {name} is {wanted}, but {topic} has {replicas}: who sends with acks=all is refused"
        );
    }
}

/// Says so if a topic has fewer replicas than it was now set to want.
pub(super) fn warn_of_replicas(admin: &mut Admin, topic: &str, settings: &[(String, String)]) {
    if settings.iter().any(|(name, _)| name == "min.insync.replicas") {
        // Only a hint: what was asked for is done.
        if let Ok(view) = admin.topic(topic) {
            say_if_too_few(topic, replicas_of(&view) as i64, settings);
        }
    }
}

impl List {
    fn run(self) -> Result<(), Failure> {
        let mut admin = self.bootstrap.admin(false)?;
        let topics = admin.topics().map_err(|error| self.bootstrap.failure(error))?;
        if self.output.is_json() {
            let rows: Vec<_> = topics
                .iter()
                .map(|(name, topic)| {
                    json!({
                        "name": **name,
                        "id": topic.id.to_base64(),
                        "directory": topic.id.to_string(),
                        "partitions": topic.partitions.len(),
                        "replicas": replicas_of(topic),
                        "internal": topic.is_internal,
                    })
                })
                .collect();
            return print_line(&json!(rows).to_string());
        }
        let rows = topics.iter().map(|(name, topic)| {
            vec![
                name.to_string(),
                topic.partitions.len().to_string(),
                replicas_of(topic).to_string(),
                topic.id.to_base64(),
            ]
        });
        print_table(&["TOPIC", "PARTITIONS", "REPLICAS", "ID"], rows.collect())
    }
}

fn replicas_of(topic: &TopicView) -> usize {
    topic.partitions.iter().map(|partition| partition.replicas.len()).max().unwrap_or(0)
}

impl Named {
    fn run(self) -> Result<(), Failure> {
        let mut admin = self.bootstrap.admin(false)?;
        let topic = self.bootstrap.topic(&mut admin, &self.name)?;
        let numbers: Vec<i32> = (0..topic.partitions.len() as i32).collect();
        let mut partitions = Partitions::new(&self.bootstrap, &mut admin, &self.name, &numbers);
        let (firsts, ends) = (partitions.firsts()?, partitions.ends()?);
        let configs = self.own_configs(&mut admin)?;
        let rows = || {
            let placed = firsts.values().zip(ends.values());
            numbers.iter().zip(&topic.partitions).zip(placed)
        };
        if self.output.is_json() {
            let partitions: Vec<_> = rows()
                .map(|((partition, view), (first, end))| {
                    json!({
                        "partition": partition,
                        "leader": leader_of(view),
                        "leader_epoch": view.leader_epoch,
                        "replicas": view.replicas,
                        "isr": view.in_sync,
                        "start_offset": first,
                        "end_offset": end,
                    })
                })
                .collect();
            let whole = json!({
                "name": self.name,
                "id": topic.id.to_base64(),
                "directory": topic.id.to_string(),
                "partitions": partitions,
                "configs": configs,
            });
            return print_line(&whole.to_string());
        }
        print_line(&format!("{}  id {}  directory {}", self.name, topic.id.to_base64(), topic.id))?;
        for (name, value) in &configs {
            print_line(&format!("  {name} = {value}"))?;
        }
        let rows = rows().map(|((partition, view), (first, end))| {
            vec![
                partition.to_string(),
                leader_of(view).to_string(),
                view.leader_epoch.to_string(),
                listed(&view.replicas),
                listed(&view.in_sync),
                first.to_string(),
                end.to_string(),
            ]
        });
        print_table(
            &["PARTITION", "LEADER", "EPOCH", "REPLICAS", "ISR", "START", "END"],
            rows.collect(),
        )?;
        explain_leaders(&topic)
    }

    /// The settings that were made on this very topic.
    fn own_configs(&self, admin: &mut Admin) -> Result<BTreeMap<String, String>, Failure> {
        let topic = ConfigResource::Topic(self.name.clone());
        let all = admin.describe_configs(&topic).map_err(|error| self.bootstrap.failure(error))?;
        let own = all.into_iter().filter(|config| config.config_source == source::TOPIC);
        Ok(own.map(|config| (config.name, config.value.unwrap_or_default())).collect())
    }
}

fn leader_of(view: &PartitionView) -> i32 {
    view.leader.unwrap_or(-1)
}

/// Who sees a leader's number may wonder.
fn explain_leaders(topic: &TopicView) -> Result<(), Failure> {
    let leaders = topic.partitions.iter().map(leader_of);
    let Some(leader) = leaders.filter(|leader| SHARD_ID_STRIDE <= *leader).min() else {
        return Ok(());
    };
    let (node, shard) = (leader % SHARD_ID_STRIDE, leader / SHARD_ID_STRIDE);
    print_line(&format!(
        "\nOf a tidemill, {leader} is shard {shard} of node {node}: each shard is told to clients as \
         a broker."
    ))
}

fn listed(nodes: &[i32]) -> String {
    nodes.iter().map(i32::to_string).collect::<Vec<_>>().join(",")
}

impl Configure {
    fn run(self) -> Result<(), Failure> {
        let changes = self.changes();
        if changes.is_empty() {
            let flags = "--set, --delete, --append or --subtract";
            let describe =
                format!("tidemill topic describe {}{}", self.name, self.bootstrap.flag());
            return Err(Failure::usage("nothing is to be changed")
                .fix(format!("say what with {flags}; `{describe}` shows what is set")));
        }
        let topic = ConfigResource::Topic(self.name.clone());
        let mut admin = self.bootstrap.admin(false)?;
        admin.alter_configs(&topic, &changes).map_err(|error| {
            settings_failure(&self.bootstrap, &self.name, error, changes.iter().map(name_of))
        })?;
        warn_of_replicas(&mut admin, &self.name, &self.set);
        for change in &changes {
            print_line(&format!("{}: {}", self.name, in_words(change)))?;
        }
        Ok(())
    }

    fn changes(&self) -> Vec<ConfigChange> {
        let with = |change: fn(String, String) -> ConfigChange| {
            move |(name, value): &(String, String)| change(name.clone(), value.clone())
        };
        let set = self.set.iter().map(with(ConfigChange::Set));
        let reset = self.delete.iter().map(|name| ConfigChange::Reset(name.clone()));
        let append = self.append.iter().map(with(ConfigChange::Append));
        let subtract = self.subtract.iter().map(with(ConfigChange::Subtract));
        set.chain(reset).chain(append).chain(subtract).collect()
    }
}

fn name_of(change: &ConfigChange) -> &str {
    match change {
        ConfigChange::Reset(name)
        | ConfigChange::Set(name, _)
        | ConfigChange::Append(name, _)
        | ConfigChange::Subtract(name, _) => name,
    }
}

fn in_words(change: &ConfigChange) -> String {
    match change {
        ConfigChange::Set(name, value) => format!("{name} is {value}"),
        ConfigChange::Reset(name) => format!("{name} is the default again"),
        ConfigChange::Append(name, value) => format!("{name} has {value}"),
        ConfigChange::Subtract(name, value) => format!("{name} is without {value}"),
    }
}

impl Grow {
    fn run(self) -> Result<(), Failure> {
        let mut admin = self.bootstrap.admin(false)?;
        admin
            .create_partitions(&self.name, self.partitions)
            .map_err(|error| failure(&self.bootstrap, &self.name, error))?;
        let partitions = counted(self.partitions as u64, "partition", "partitions");
        print_line(&format!("{} has {partitions}", self.name))
    }
}

impl Trim {
    fn run(self) -> Result<(), Failure> {
        let mut admin = self.bootstrap.admin(false)?;
        let numbers = self.bootstrap.partitions(&mut admin, &self.name, &self.partitions)?;
        let before = match self.before {
            // The broker knows the end best: records may come while we ask.
            Place::End => numbers.iter().map(|partition| (*partition, None)).collect(),
            place => self.find(&mut admin, &numbers, place)?,
        };
        let kept =
            admin.delete_records(&self.name, &before).map_err(|error| self.failure(error))?;
        if self.output.is_json() {
            let rows: Vec<_> = kept
                .iter()
                .map(|(partition, first)| json!({"partition": partition, "start_offset": first}))
                .collect();
            return print_line(&json!(rows).to_string());
        }
        let rows =
            kept.iter().map(|(partition, first)| vec![partition.to_string(), first.to_string()]);
        print_table(&["PARTITION", "START"], rows.collect())
    }

    fn failure(&self, error: Error) -> Failure {
        let is_compacted = error.kind() == ErrorKind::Refused(ErrorCode::PolicyViolation);
        let failure = failure(&self.bootstrap, &self.name, error);
        if !is_compacted {
            return failure;
        }
        failure.fix(format!(
            "of a topic that is only compacted the last record of each key stays; `tidemill topic \
             configure {} --append cleanup.policy=delete{}` allows it",
            self.name,
            self.bootstrap.flag()
        ))
    }

    fn find(
        &self,
        admin: &mut Admin,
        numbers: &[i32],
        place: Place,
    ) -> Result<Vec<(i32, Option<i64>)>, Failure> {
        let (bootstrap, topic) = (&self.bootstrap, &*self.name);
        let mut partitions = Partitions::new(bootstrap, admin, topic, numbers);
        let found = match place {
            // What is gone already need not be deleted; what is not yet there cannot be.
            Place::At(offset) => partitions.reaching(offset)?,
            place => partitions.find(place)?,
        };
        Ok(found.into_iter().map(|(partition, offset)| (partition, Some(offset))).collect())
    }
}

impl Delete {
    fn run(self) -> Result<(), Failure> {
        let mut admin = self.bootstrap.admin(false)?;
        let mut first_failure = Ok(());
        for name in &self.names {
            match admin.delete_topic(name) {
                Ok(()) => print_line(&format!("deleted {name}"))?,
                Err(error) => {
                    let failure = failure(&self.bootstrap, name, error);
                    first_failure = first_failure.and(Err(failure));
                }
            }
        }
        first_failure
    }
}

/// What the client says, with the command that helps.
fn failure(bootstrap: &Bootstrap, topic: &str, error: Error) -> Failure {
    let kind = error.kind();
    let failure = bootstrap.failure(error);
    let flag = bootstrap.flag();
    match kind {
        ErrorKind::Refused(ErrorCode::TopicAlreadyExists) => {
            failure.fix(format!("`tidemill topic describe {topic}{flag}` shows what is there"))
        }
        ErrorKind::Refused(ErrorCode::UnknownTopicOrPartition) => {
            failure.fix(format!("`tidemill topic list{flag}` shows all topics"))
        }
        _ => failure,
    }
}

/// The same of settings: if one of these is the name of none, with the name that was meant.
fn settings_failure<'a>(
    bootstrap: &Bootstrap,
    topic: &str,
    error: Error,
    mut names: impl Iterator<Item = &'a str>,
) -> Failure {
    let is_about_them = error.kind() == ErrorKind::Refused(ErrorCode::InvalidConfig);
    let failure = failure(bootstrap, topic, error);
    match names.find(|name| topic_config(name).is_none()).filter(|_| is_about_them) {
        None => failure,
        Some(wrong) => match nearest_of(wrong, TOPIC_CONFIGS.iter().map(|config| config.name)) {
            Some(meant) => failure.fix(format!("did you mean {meant}?")),
            None => failure.fix("use Kafka's names: retention.ms, segment.bytes, cleanup.policy …"),
        },
    }
}
