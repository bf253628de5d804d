//! `tidemill topic`: make, list, describe, grow and delete topics of any Kafka cluster.

use std::collections::BTreeMap;

use clap::{Args, Subcommand};
use serde_json::json;
use tidemill_net::kafka::create_partitions::{CreatePartitionsRequest, CreatePartitionsTopic};
use tidemill_net::kafka::create_topics::{
    CreatableTopic, CreatableTopicConfig, CreateTopicsRequest,
};
use tidemill_net::kafka::delete_topics::{DeleteTopicState, DeleteTopicsRequest};
use tidemill_net::kafka::describe_configs::{DescribeConfigsRequest, DescribeConfigsResource};
use tidemill_net::kafka::metadata::MetadataResponseTopic;
use tidemill_net::kafka::{ApiKey, ErrorCode};

use super::client::Client;
use super::failure::Failure;
use super::offsets::{self, EARLIEST, LATEST};
use super::{Bootstrap, Output, counted, print_line, print_table};
use crate::limits::SHARD_ID_STRIDE;

/// How long a broker may take to make or delete a topic.
const TIMEOUT_MS: i32 = 30_000;

/// Kafka's number for topics among the things that have settings.
const RESOURCE_TOPIC: i8 = 2;

/// Kafka's number for "set on this very topic" among the sources of a setting.
const SOURCE_TOPIC: i8 = 1;

/// `tidemill topic …`
#[derive(Debug, Subcommand)]
pub(super) enum TopicCommand {
    /// Make a topic.
    Create(Create),
    /// List all topics with their partitions.
    List(List),
    /// Show a topic's partitions, leaders, offsets and settings.
    Describe(Named),
    /// Give a topic more partitions.
    Grow(Grow),
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
    #[arg(short = 'X', long = "config", value_name = "NAME=VALUE")]
    configs: Vec<String>,
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

impl TopicCommand {
    pub(super) fn run(self) -> Result<(), Failure> {
        match self {
            Self::Create(create) => create.run(),
            Self::List(list) => list.run(),
            Self::Describe(named) => named.run(),
            Self::Grow(grow) => grow.run(),
            Self::Delete(delete) => delete.run(),
        }
    }
}

impl Create {
    fn run(self) -> Result<(), Failure> {
        let configs = self.configs.iter().map(|text| {
            let (name, value) = text
                .split_once('=')
                .ok_or_else(|| Failure::usage(format!("--config wants NAME=VALUE, not {text}")))?;
            Ok(CreatableTopicConfig { name: name.to_owned(), value: Some(value.to_owned()) })
        });
        let topic = CreatableTopic {
            name: self.name.clone(),
            num_partitions: self.partitions.unwrap_or(-1),
            replication_factor: self.replication_factor.unwrap_or(-1),
            assignments: Vec::new(),
            configs: configs.collect::<Result<_, Failure>>()?,
        };
        let request = CreateTopicsRequest {
            topics: vec![topic],
            timeout_ms: TIMEOUT_MS,
            validate_only: false,
        };
        let answer = Client::new(&self.bootstrap.address).any()?.call(&request)?;
        let Some(made) = answer.topics.into_iter().next() else {
            return Err(Failure::new(format!(
                "the broker did not say what became of {}",
                self.name
            )));
        };
        outcome("create", &self.name, made.error_code, made.error_message)?;
        match made.num_partitions {
            ..=0 => print_line(&format!("created {}", self.name)),
            1 => print_line(&format!("created {} with 1 partition", self.name)),
            count => print_line(&format!("created {} with {count} partitions", self.name)),
        }
    }
}

impl List {
    fn run(self) -> Result<(), Failure> {
        let mut topics = Client::new(&self.bootstrap.address).metadata(None, false)?.topics;
        topics.sort_by(|a, b| a.name.cmp(&b.name));
        if self.output.is_json() {
            let rows: Vec<_> = topics
                .iter()
                .map(|topic| {
                    json!({
                        "name": topic.name,
                        "id": topic.topic_id.to_base64(),
                        "directory": topic.topic_id.to_string(),
                        "partitions": topic.partitions.len(),
                        "replicas": replicas_of(topic),
                        "internal": topic.is_internal,
                    })
                })
                .collect();
            return print_line(&json!(rows).to_string());
        }
        let rows = topics.iter().map(|topic| {
            vec![
                topic.name.clone().unwrap_or_default(),
                topic.partitions.len().to_string(),
                replicas_of(topic).to_string(),
                topic.topic_id.to_base64(),
            ]
        });
        print_table(&["TOPIC", "PARTITIONS", "REPLICAS", "ID"], rows.collect())
    }
}

fn replicas_of(topic: &MetadataResponseTopic) -> usize {
    topic.partitions.iter().map(|partition| partition.replica_nodes.len()).max().unwrap_or(0)
}

impl Named {
    fn run(self) -> Result<(), Failure> {
        let mut client = Client::new(&self.bootstrap.address);
        let topic = client.topic(&self.name, false)?;
        let numbers: Vec<i32> = topic.partitions.iter().map(|p| p.partition_index).collect();
        let starts = offsets::at(&mut client, &self.name, &numbers, EARLIEST)?;
        let ends = offsets::at(&mut client, &self.name, &numbers, LATEST)?;
        let configs = configs_of(&mut client, &self.name)?;
        if self.output.is_json() {
            let partitions: Vec<_> = topic
                .partitions
                .iter()
                .map(|p| {
                    json!({
                        "partition": p.partition_index,
                        "leader": p.leader_id,
                        "leader_epoch": p.leader_epoch,
                        "replicas": p.replica_nodes,
                        "isr": p.isr_nodes,
                        "start_offset": starts.get(&p.partition_index),
                        "end_offset": ends.get(&p.partition_index),
                    })
                })
                .collect();
            let whole = json!({
                "name": self.name,
                "id": topic.topic_id.to_base64(),
                "directory": topic.topic_id.to_string(),
                "partitions": partitions,
                "configs": configs,
            });
            return print_line(&whole.to_string());
        }
        let id = topic.topic_id;
        print_line(&format!("{}  id {}  directory {id}", self.name, id.to_base64()))?;
        for (name, value) in &configs {
            print_line(&format!("  {name} = {value}"))?;
        }
        let offset = |of: &BTreeMap<i32, i64>, partition: i32| {
            of.get(&partition).map_or_else(|| "?".to_owned(), i64::to_string)
        };
        let rows = topic.partitions.iter().map(|p| {
            vec![
                p.partition_index.to_string(),
                p.leader_id.to_string(),
                p.leader_epoch.to_string(),
                listed(&p.replica_nodes),
                listed(&p.isr_nodes),
                offset(&starts, p.partition_index),
                offset(&ends, p.partition_index),
            ]
        });
        print_table(
            &["PARTITION", "LEADER", "EPOCH", "REPLICAS", "ISR", "START", "END"],
            rows.collect(),
        )?;
        let leaders = topic.partitions.iter().map(|partition| partition.leader_id);
        let example = leaders.filter(|leader| SHARD_ID_STRIDE <= *leader).min();
        match example {
            Some(leader) => {
                let (node, shard) = (leader % SHARD_ID_STRIDE, leader / SHARD_ID_STRIDE);
                print_line(&format!(
                    "\nOf a tidemill, {leader} is shard {shard} of node {node}: each shard is told \
                     to clients as a broker."
                ))
            }
            None => Ok(()),
        }
    }
}

fn listed(nodes: &[i32]) -> String {
    nodes.iter().map(i32::to_string).collect::<Vec<_>>().join(",")
}

/// The settings that were made on this very topic.
fn configs_of(client: &mut Client, topic: &str) -> Result<BTreeMap<String, String>, Failure> {
    let request = DescribeConfigsRequest {
        resources: vec![DescribeConfigsResource {
            resource_type: RESOURCE_TOPIC,
            resource_name: topic.to_owned(),
            configuration_keys: None,
        }],
        ..DescribeConfigsRequest::default()
    };
    let answer = client.any()?.call(&request)?;
    let own = answer.results.into_iter().flat_map(|result| result.configs);
    Ok(own
        .filter(|config| config.config_source == SOURCE_TOPIC)
        .map(|config| (config.name, config.value.unwrap_or_default()))
        .collect())
}

impl Grow {
    fn run(self) -> Result<(), Failure> {
        let request = CreatePartitionsRequest {
            topics: vec![CreatePartitionsTopic {
                name: self.name.clone(),
                count: self.partitions,
                assignments: None,
            }],
            timeout_ms: TIMEOUT_MS,
            validate_only: false,
        };
        let answer = Client::new(&self.bootstrap.address).any()?.call(&request)?;
        for result in answer.results {
            outcome("grow", &self.name, result.error_code, result.error_message)?;
        }
        let partitions = counted(self.partitions as u64, "partition", "partitions");
        print_line(&format!("{} has {partitions}", self.name))
    }
}

impl Delete {
    fn run(self) -> Result<(), Failure> {
        let by_name = |name: &String| DeleteTopicState {
            name: Some(name.clone()),
            ..DeleteTopicState::default()
        };
        // Versions below 6 carry one list, later ones the other.
        let request = DeleteTopicsRequest {
            topics: self.names.iter().map(by_name).collect(),
            topic_names: self.names.clone(),
            timeout_ms: TIMEOUT_MS,
        };
        let mut client = Client::new(&self.bootstrap.address);
        let connection = client.any()?;
        let answer = connection.call(&request)?;
        if answer.responses.len() != self.names.len() {
            return Err(connection.refused(ApiKey::DeleteTopics, ErrorCode::UnknownServerError));
        }
        let mut first_failure = Ok(());
        for deleted in answer.responses {
            let name = deleted.name.unwrap_or_default();
            match outcome("delete", &name, deleted.error_code, deleted.error_message) {
                Ok(()) => print_line(&format!("deleted {name}"))?,
                Err(failure) => first_failure = first_failure.and(Err(failure)),
            }
        }
        first_failure
    }
}

/// An error code in the words of the command that met it.
fn outcome(
    verb: &str,
    topic: &str,
    error: ErrorCode,
    message: Option<String>,
) -> Result<(), Failure> {
    if error == ErrorCode::None {
        return Ok(());
    }
    let failure = Failure::new(format!("cannot {verb} topic {topic}")).because(match message {
        Some(message) if !message.is_empty() => format!("{}: {message}", error.name()),
        _ => error.name().to_owned(),
    });
    Err(match error {
        ErrorCode::TopicAlreadyExists => {
            failure.fix(format!("`tidemill topic describe {topic}` shows what is there"))
        }
        ErrorCode::UnknownTopicOrPartition => failure.fix("`tidemill topic list` shows all topics"),
        ErrorCode::InvalidTopicException => failure.fix(
            "a name has 1 to 249 letters, digits, dots, underscores or dashes, and differs from \
             other names in more than dots and underscores",
        ),
        error => failure.advised(error),
    })
}
