//! Seeing to a cluster: topics, settings, offsets, nodes.
//!
//! [`Admin`] works while one of its methods is called, on the calling thread. Each call is sent to
//! the broker it concerns, tried again while that may help, and ends within the timeout.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tidemill_net::kafka::alter_configs::{
    AlterConfigsResource, AlterableConfig, IncrementalAlterConfigsRequest, operation,
};
use tidemill_net::kafka::create_partitions::{CreatePartitionsRequest, CreatePartitionsTopic};
use tidemill_net::kafka::create_topics::{
    CreatableTopic, CreatableTopicConfig, CreateTopicsRequest,
};
use tidemill_net::kafka::delete_records::{
    DeleteRecordsPartition, DeleteRecordsRequest, DeleteRecordsTopic, HIGH_WATERMARK,
};
use tidemill_net::kafka::delete_topics::{DeleteTopicState, DeleteTopicsRequest};
use tidemill_net::kafka::describe_configs::{
    DescribeConfigsRequest, DescribeConfigsResource, DescribeConfigsResourceResult, resource,
};
use tidemill_net::kafka::list_offsets::{
    ListOffsetsPartition, ListOffsetsRequest, ListOffsetsTopic,
};
use tidemill_net::kafka::{ErrorCode, Request};
use tidemill_record::TopicId;

use crate::cluster::{Address, Cluster, ClusterConfig, Heard, Map, NotSent, Peer, TopicView};
use crate::connection::Reply;
use crate::consumer::{Isolation, Start};
use crate::driver::Driver;
use crate::error::{Error, ErrorKind};
use crate::time::Instant;

/// A topic to be created.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct NewTopic {
    /// Its name.
    pub name: String,
    /// How many partitions; `None`: as many as the broker thinks right.
    pub partitions: Option<i32>,
    /// How many replicas of each; `None`: as many as the broker thinks right.
    pub replication_factor: Option<i16>,
    /// Its settings.
    pub configs: Vec<(String, String)>,
}

impl NewTopic {
    /// A topic with the broker's defaults.
    pub fn new(name: impl Into<String>) -> NewTopic {
        let name = name.into();
        NewTopic { name, partitions: None, replication_factor: None, configs: Vec::new() }
    }

    /// With so many partitions.
    #[must_use]
    pub fn partitions(mut self, count: i32) -> NewTopic {
        self.partitions = Some(count);
        self
    }

    /// With so many replicas of each.
    #[must_use]
    pub fn replicas(mut self, count: i16) -> NewTopic {
        self.replication_factor = Some(count);
        self
    }

    /// With one more setting.
    #[must_use]
    pub fn config(mut self, name: impl Into<String>, value: impl Into<String>) -> NewTopic {
        self.configs.push((name.into(), value.into()));
        self
    }
}

/// A topic that was created.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct CreatedTopic {
    /// Its name.
    pub name: String,
    /// Its id; zero if the broker is too old to tell.
    pub id: TopicId,
    /// How many partitions it has, if told.
    pub partitions: Option<i32>,
}

/// What settings belong to.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum ConfigResource {
    /// A topic.
    Topic(String),
    /// A node.
    Node(i32),
}

impl ConfigResource {
    fn to_wire(&self) -> (i8, String) {
        match self {
            ConfigResource::Topic(name) => (resource::TOPIC, name.clone()),
            ConfigResource::Node(id) => (resource::BROKER, id.to_string()),
        }
    }

    /// Settings of a node are asked for at that node.
    fn peer(&self) -> Peer {
        match self {
            ConfigResource::Topic(_) => Peer::Any,
            ConfigResource::Node(id) => Peer::Node(*id),
        }
    }

    fn in_words(&self) -> String {
        match self {
            ConfigResource::Topic(name) => format!("topic {name}"),
            ConfigResource::Node(id) => format!("node {id}"),
        }
    }
}

/// A change of one setting.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum ConfigChange {
    /// Give it this value.
    Set(String, String),
    /// Go back to the default.
    Reset(String),
    /// Add to a list.
    Append(String, String),
    /// Take from a list.
    Subtract(String, String),
}

impl ConfigChange {
    fn to_wire(&self) -> AlterableConfig {
        let (name, config_operation, value) = match self {
            ConfigChange::Set(name, value) => (name, operation::SET, Some(value)),
            ConfigChange::Reset(name) => (name, operation::DELETE, None),
            ConfigChange::Append(name, value) => (name, operation::APPEND, Some(value)),
            ConfigChange::Subtract(name, value) => (name, operation::SUBTRACT, Some(value)),
        };
        AlterableConfig { name: name.clone(), config_operation, value: value.cloned() }
    }
}

/// A cluster, as it was when asked.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ClusterView {
    /// Its name, if the broker tells one.
    pub id: Option<String>,
    /// The node that decides for it.
    pub controller: Option<i32>,
    /// The nodes, and where they listen.
    pub nodes: BTreeMap<i32, Address>,
}

/// Sees to a cluster.
///
/// ```no_run
/// use tidemill_client::{Admin, NewTopic};
///
/// let mut admin = Admin::open("localhost:9092")?;
/// admin.create_topic(&NewTopic::new("greetings").partitions(3))?;
/// for (name, topic) in admin.topics()? {
///     println!("{name}: {} partitions", topic.partitions.len());
/// }
/// # Ok::<(), tidemill_client::Error>(())
/// ```
#[derive(Debug)]
pub struct Admin {
    cluster: Cluster<u64>,
    driver: Driver,
    timeout: Duration,
    next_tag: u64,
}

impl Admin {
    /// For the cluster of these brokers (`HOST:PORT,...`). Nothing is connected before a call.
    pub fn open(bootstrap: &str) -> Result<Admin, Error> {
        let config = crate::bootstrap(bootstrap)?;
        Admin::with_config(ClusterConfig { create_topics: false, ..config })
    }

    /// With settings of its own. Each call ends within `request_timeout`.
    pub fn with_config(mut config: ClusterConfig) -> Result<Admin, Error> {
        if config.bootstrap.is_empty() {
            return Err(Error::new(ErrorKind::Invalid, "cannot make an admin client")
                .because("no broker is named")
                .fix("name at least one, as HOST:PORT"));
        }
        if config.seed == 0 {
            config.seed = crate::driver::seed();
        }
        let timeout = config.request_timeout;
        Ok(Admin { cluster: Cluster::new(config), driver: Driver::new(), timeout, next_tag: 0 })
    }

    /// Creates a topic.
    pub fn create_topic(&mut self, topic: &NewTopic) -> Result<CreatedTopic, Error> {
        let what = format!("cannot create topic {}", topic.name);
        let config = |(name, value): &(String, String)| CreatableTopicConfig {
            name: name.clone(),
            value: Some(value.clone()),
        };
        let request = CreateTopicsRequest {
            topics: vec![CreatableTopic {
                name: topic.name.clone(),
                num_partitions: topic.partitions.unwrap_or(-1),
                replication_factor: topic.replication_factor.unwrap_or(-1),
                assignments: Vec::new(),
                configs: topic.configs.iter().map(config).collect(),
            }],
            timeout_ms: self.timeout_ms(),
            validate_only: false,
        };
        let made = self.try_until_done(&what, Self::controller, &request, |answer| {
            let made = answer.topics.first()?;
            Some((made.error_code, made.error_message.clone(), made.clone()))
        })?;
        let partitions = Some(made.num_partitions).filter(|count| 0 < *count);
        Ok(CreatedTopic { name: topic.name.clone(), id: made.topic_id, partitions })
    }

    /// Deletes a topic, and all its records.
    pub fn delete_topic(&mut self, name: &str) -> Result<(), Error> {
        // Versions below 6 carry one list, later ones the other.
        let by_name = DeleteTopicState { name: Some(name.to_owned()), ..Default::default() };
        let request = DeleteTopicsRequest {
            topics: vec![by_name],
            topic_names: vec![name.to_owned()],
            timeout_ms: self.timeout_ms(),
        };
        let what = format!("cannot delete topic {name}");
        self.try_until_done(&what, Self::controller, &request, |answer| {
            let deleted = answer.responses.first()?;
            Some((deleted.error_code, deleted.error_message.clone(), ()))
        })
    }

    /// Gives a topic so many partitions in all.
    pub fn create_partitions(&mut self, topic: &str, count: i32) -> Result<(), Error> {
        let request = CreatePartitionsRequest {
            topics: vec![CreatePartitionsTopic {
                name: topic.to_owned(),
                count,
                assignments: None,
            }],
            timeout_ms: self.timeout_ms(),
            validate_only: false,
        };
        let what = format!("cannot give topic {topic} {count} partitions");
        self.try_until_done(&what, Self::controller, &request, |answer| {
            let grown = answer.results.first()?;
            Some((grown.error_code, grown.error_message.clone(), ()))
        })
    }

    /// All topics.
    pub fn topics(&mut self) -> Result<BTreeMap<Arc<str>, TopicView>, Error> {
        let now = self.driver.now();
        self.cluster.want_all_topics(now);
        let until = self.deadline();
        while !self.cluster.shows_all_topics() {
            self.map_until("cannot list the topics", until)?;
        }
        Ok(self.cluster.map().topics().clone())
    }

    /// One topic.
    pub fn topic(&mut self, name: &str) -> Result<TopicView, Error> {
        let what = format!("cannot describe topic {name}");
        let start = self.driver.now();
        let until = self.deadline();
        self.cluster.want_topic(&Arc::from(name), start);
        self.cluster.refresh_now(start);
        loop {
            self.map_until(&what, until)?;
            let now = self.driver.now();
            let seen = match self.cluster.map().topic(name) {
                // Heard before this was asked for.
                None => ErrorCode::LeaderNotAvailable,
                Some(view) if !view.error.is_none() => view.error,
                Some(view) if view.partitions.iter().any(|p| p.leader.is_none()) => {
                    ErrorCode::LeaderNotAvailable
                }
                Some(view) => return Ok(view.clone()),
            };
            // What has just been made is not known to all nodes at once.
            let patience = if is_passing(seen) { self.timeout } else { NEWS_TAKES };
            if !seen.is_retriable() || patience <= now.since(start) {
                return Err(Error::refused(what, seen, None));
            }
            self.cluster.refresh(now);
        }
    }

    /// The cluster: its name, its nodes.
    pub fn cluster(&mut self) -> Result<ClusterView, Error> {
        let now = self.driver.now();
        self.cluster.refresh_now(now);
        let until = self.deadline();
        self.map_until("cannot describe the cluster", until)?;
        let map = self.cluster.map();
        Ok(ClusterView {
            id: map.cluster_id().map(str::to_owned),
            controller: map.controller(),
            nodes: map.nodes().clone(),
        })
    }

    /// All settings of a topic or a node.
    pub fn describe_configs(
        &mut self,
        of: &ConfigResource,
    ) -> Result<Vec<DescribeConfigsResourceResult>, Error> {
        let what = format!("cannot tell the settings of {}", of.in_words());
        let (resource_type, resource_name) = of.to_wire();
        let request = DescribeConfigsRequest {
            resources: vec![DescribeConfigsResource {
                resource_type,
                resource_name,
                configuration_keys: None,
            }],
            ..DescribeConfigsRequest::default()
        };
        let peer = of.peer();
        self.try_until_done(
            &what,
            |_| peer,
            &request,
            |answer| {
                let told = answer.results.first()?;
                Some((told.error_code, told.error_message.clone(), told.configs.clone()))
            },
        )
    }

    /// Changes settings of a topic or a node, all or none.
    pub fn alter_configs(
        &mut self,
        of: &ConfigResource,
        changes: &[ConfigChange],
    ) -> Result<(), Error> {
        let what = format!("cannot change the settings of {}", of.in_words());
        let (resource_type, resource_name) = of.to_wire();
        let request = IncrementalAlterConfigsRequest {
            resources: vec![AlterConfigsResource {
                resource_type,
                resource_name,
                configs: changes.iter().map(ConfigChange::to_wire).collect(),
            }],
            validate_only: false,
        };
        let peer = of.peer();
        self.try_until_done(
            &what,
            |_| peer,
            &request,
            |answer| {
                let altered = answer.responses.first()?;
                Some((altered.error_code, altered.error_message.clone(), ()))
            },
        )
    }

    /// The offset of each partition at a start; -1 where no record is that young.
    pub fn list_offsets(
        &mut self,
        topic: &str,
        partitions: &[i32],
        at: Start,
        isolation: Isolation,
    ) -> Result<BTreeMap<i32, i64>, Error> {
        let what = format!("cannot tell offsets of topic {topic}");
        self.topic(topic)?;
        let mut found = BTreeMap::new();
        for &partition_index in partitions {
            let request = ListOffsetsRequest {
                isolation_level: isolation.to_wire(),
                topics: vec![ListOffsetsTopic {
                    name: topic.to_owned(),
                    partitions: vec![ListOffsetsPartition {
                        partition_index,
                        timestamp: crate::consumer::wire_time(at),
                        ..ListOffsetsPartition::default()
                    }],
                }],
                timeout_ms: self.timeout_ms(),
                ..ListOffsetsRequest::default()
            };
            let leader = |map: &Map| leader(map, topic, partition_index);
            let offset = self.try_until_done(&what, leader, &request, |answer| {
                let told = answer.topics.first()?.partitions.first()?;
                Some((told.error_code, None, told.offset))
            })?;
            found.insert(partition_index, offset);
        }
        Ok(found)
    }

    /// Deletes the records of a partition before an offset (`None`: all there are). Tells the
    /// first offset that is kept.
    pub fn delete_records(
        &mut self,
        topic: &str,
        partition: i32,
        before: Option<i64>,
    ) -> Result<i64, Error> {
        let what = format!("cannot delete records of partition {partition} of {topic}");
        self.topic(topic)?;
        let request = DeleteRecordsRequest {
            topics: vec![DeleteRecordsTopic {
                name: topic.to_owned(),
                partitions: vec![DeleteRecordsPartition {
                    partition_index: partition,
                    offset: before.unwrap_or(HIGH_WATERMARK),
                }],
            }],
            timeout_ms: self.timeout_ms(),
        };
        let leader = |map: &Map| leader(map, topic, partition);
        self.try_until_done(&what, leader, &request, |answer| {
            let trimmed = answer.topics.first()?.partitions.first()?;
            Some((trimmed.error_code, None, trimmed.low_watermark))
        })
    }

    fn timeout_ms(&self) -> i32 {
        i32::try_from(self.timeout.as_millis()).unwrap_or(i32::MAX)
    }

    fn deadline(&self) -> Instant {
        self.driver.now().plus(self.timeout)
    }

    /// Who decides for the cluster, if that is one we can reach; any broker passes it on.
    fn controller(map: &Map) -> Peer {
        let controller = map.controller().filter(|id| map.nodes().contains_key(id));
        controller.map_or(Peer::Any, Peer::Node)
    }

    /// Sends a request until the answer's first part is no error, or one that will not pass.
    fn try_until_done<R: Request, T>(
        &mut self,
        what: &str,
        to: impl Fn(&Map) -> Peer,
        request: &R,
        read: impl Fn(&R::Response) -> Option<(ErrorCode, Option<String>, T)>,
    ) -> Result<T, Error> {
        let until = self.deadline();
        let mut trouble: Option<Error> = None;
        let mut tries = 0;
        loop {
            let now = self.driver.now();
            if until <= now {
                return Err(trouble.unwrap_or_else(|| self.unreachable(what)));
            }
            if !self.cluster.knows_the_cluster() {
                self.map_until(what, until)?;
            }
            let to = to(self.cluster.map());
            let Some(reply) = self.ask(what, to, request, until)? else { continue };
            let answer = reply.decode::<R::Response>().map_err(|error| {
                Error::new(ErrorKind::Damaged, what).because(format!("unreadable answer: {error}"))
            })?;
            let (code, words, result) = read(&answer).ok_or_else(|| {
                Error::new(ErrorKind::Damaged, what).because("the broker did not answer for it")
            })?;
            if code.is_none() {
                return Ok(result);
            }
            let error = Error::refused(what, code, words.as_deref());
            if !is_passing(code) {
                return Err(error);
            }
            trouble = Some(error);
            tries += 1;
            self.cluster.refresh(self.driver.now());
            self.pause(tries, until);
        }
    }

    /// Asks once; `None` if the question was lost and can be asked again.
    fn ask<R: Request>(
        &mut self,
        what: &str,
        to: Peer,
        request: &R,
        until: Instant,
    ) -> Result<Option<Reply>, Error> {
        self.next_tag += 1;
        let tag = self.next_tag;
        loop {
            let now = self.driver.now();
            match self.cluster.send(to, request, Duration::ZERO, tag, now) {
                Ok(()) => break,
                Err(NotSent::NotNow) => {}
                Err(NotSent::UnknownNode) => self.cluster.refresh(now),
                Err(NotSent::NoCommonVersion { api, theirs }) => {
                    let name = api.api().name;
                    let cause = match theirs {
                        Some((low, high)) => format!("it takes versions {low} to {high} of {name}"),
                        None => format!("it does not take {name}"),
                    };
                    return Err(Error::new(ErrorKind::Unsupported, what).because(cause));
                }
            }
            if until <= now {
                return Err(self.unreachable(what));
            }
            self.driver.turn(&mut self.cluster, until);
            while self.cluster.poll_heard().is_some() {}
        }
        loop {
            self.driver.turn(&mut self.cluster, until);
            while let Some(heard) = self.cluster.poll_heard() {
                match heard {
                    Heard::Reply(found, reply) if found == tag => return Ok(Some(reply)),
                    Heard::Lost(found) if found == tag => return Ok(None),
                    _ => {}
                }
            }
            if until <= self.driver.now() {
                let error = Error::new(ErrorKind::TimedOut, what);
                return Err(error.because("the broker has not answered in time"));
            }
        }
    }

    /// Waits for the next map.
    fn map_until(&mut self, what: &str, until: Instant) -> Result<(), Error> {
        loop {
            self.driver.turn(&mut self.cluster, until);
            while let Some(heard) = self.cluster.poll_heard() {
                if matches!(heard, Heard::Map) {
                    return Ok(());
                }
            }
            if until <= self.driver.now() {
                return Err(self.unreachable(what));
            }
        }
    }

    /// Waits before the next try, while the connections go on.
    fn pause(&mut self, tries: u32, until: Instant) {
        let wait = Duration::from_millis(50).saturating_mul(tries.min(20));
        let pause_until = self.driver.now().plus(wait).min(until);
        while self.driver.now() < pause_until {
            self.driver.turn(&mut self.cluster, pause_until);
        }
        while self.cluster.poll_heard().is_some() {}
    }

    fn unreachable(&self, what: &str) -> Error {
        let cause = self.cluster.trouble().unwrap_or("no broker has answered in time");
        Error::new(ErrorKind::Unreachable, what)
            .because(cause)
            .fix("check the addresses of the brokers, and that they can be reached from here")
    }
}

/// How long nodes take at most to hear of a new topic.
const NEWS_TAKES: Duration = Duration::from_millis(500);

fn leader(map: &Map, topic: &str, partition: i32) -> Peer {
    map.leader(topic, partition).map_or(Peer::Any, Peer::Node)
}

/// Whether trying again may help. A topic that is said not to exist most likely does not.
fn is_passing(error: ErrorCode) -> bool {
    error.is_retriable()
        && !matches!(
            error,
            ErrorCode::UnknownTopicOrPartition
                | ErrorCode::UnknownTopicId
                | ErrorCode::InconsistentTopicId
        )
}
