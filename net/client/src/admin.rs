//! Seeing to a cluster: topics, settings, offsets, nodes.
//!
//! [`Admin`] works while one of its methods is called, on the calling thread. Each call is sent to
//! the broker it concerns, tried again while that may help, and ends within the timeout.

mod asking;
mod configs;
mod groups;
mod partitions;
mod quotas;
mod share_groups;
mod transactions;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tidemill_net::kafka::alter_configs::{
    AlterConfigsResource, AlterableConfig, IncrementalAlterConfigsRequest, operation,
};
use tidemill_net::kafka::create_partitions::{CreatePartitionsRequest, CreatePartitionsTopic};
use tidemill_net::kafka::create_topics::{
    CreatableTopic, CreatableTopicConfig, CreateTopicsRequest,
};
use tidemill_net::kafka::delete_topics::{DeleteTopicState, DeleteTopicsRequest};
use tidemill_net::kafka::describe_configs::{
    DescribeConfigsRequest, DescribeConfigsResource, DescribeConfigsResourceResult, resource,
};
use tidemill_record::TopicId;

use crate::cluster::{Address, Cluster, ClusterConfig, Map, Peer, TopicView};
use crate::driver::Driver;
use crate::error::{Error, ErrorKind};

pub use self::groups::{GroupOffsets, GroupView, ListedGroup, MemberView};
pub use self::quotas::{Quota, QuotaOf, QuotasView};
pub use self::share_groups::ShareProgress;
pub use self::transactions::{ListedTransaction, ProducerView, TransactionFilter, TransactionView};

/// Told what keeps a call from ending.
type Listener = Box<dyn FnMut(&Error) + Send>;

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
    /// How many replicas each partition has, if told.
    pub replicas: Option<i16>,
}

/// What settings belong to.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum ConfigResource {
    /// A topic.
    Topic(String),
    /// A node.
    Node(i32),
    /// All nodes: what was set for all of them.
    Nodes,
    /// A group, whether or not anybody is in it.
    Group(String),
}

impl ConfigResource {
    fn to_wire(&self) -> (i8, String) {
        match self {
            ConfigResource::Topic(name) => (resource::TOPIC, name.clone()),
            ConfigResource::Node(id) => (resource::BROKER, id.to_string()),
            ConfigResource::Nodes => (resource::BROKER, String::new()),
            ConfigResource::Group(name) => (resource::GROUP, name.clone()),
        }
    }

    /// Settings of a node are asked for at that node.
    fn peer(&self) -> Peer {
        match self {
            ConfigResource::Topic(_) | ConfigResource::Nodes | ConfigResource::Group(_) => {
                Peer::Any
            }
            ConfigResource::Node(id) => Peer::Node(*id),
        }
    }

    fn in_words(&self) -> String {
        match self {
            ConfigResource::Topic(name) => format!("topic {name}"),
            ConfigResource::Node(id) => format!("node {id}"),
            ConfigResource::Nodes => "all nodes".to_owned(),
            ConfigResource::Group(name) => format!("group {name}"),
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
pub struct Admin {
    cluster: Cluster<u64>,
    driver: Driver,
    timeout: Duration,
    next_tag: u64,
    gives_up_early: bool,
    listener: Option<Listener>,
}

impl fmt::Debug for Admin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Admin").field("cluster", self.cluster.config()).finish_non_exhaustive()
    }
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
        Ok(Admin {
            timeout: config.request_timeout,
            cluster: Cluster::new(config),
            driver: Driver::new(),
            next_tag: 0,
            gives_up_early: false,
            listener: None,
        })
    }

    /// Makes calls fail at once if whom they concern cannot be connected to, for people who can
    /// see to it and try again. Otherwise they go on trying until their time is over.
    #[must_use]
    pub fn giving_up_early(mut self) -> Admin {
        self.gives_up_early = true;
        self
    }

    /// About every second that a call takes, `listener` is told what it would fail with if its
    /// time were over.
    #[must_use]
    pub fn telling(mut self, listener: impl FnMut(&Error) + Send + 'static) -> Admin {
        self.listener = Some(Box::new(listener));
        self
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
        let made = self.call(what, controller, &request, |answer| {
            let made = answer.topics.first()?;
            Some((made.error_code, made.error_message.clone(), made.clone()))
        })?;
        let partitions = Some(made.num_partitions).filter(|count| 0 < *count);
        let replicas = Some(made.replication_factor).filter(|count| 0 < *count);
        Ok(CreatedTopic { name: topic.name.clone(), id: made.topic_id, partitions, replicas })
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
        self.call(what, controller, &request, |answer| {
            let deleted = answer.responses.first()?;
            Some((deleted.error_code, deleted.error_message.clone(), ()))
        })
    }

    /// Gives a topic so many partitions in all, and waits until the new ones have leaders: brokers
    /// hear of them a moment after they are made.
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
        let what = match count {
            1 => format!("cannot give topic {topic} 1 partition"),
            _ => format!("cannot give topic {topic} {count} partitions"),
        };
        self.call(what.clone(), controller, &request, |answer| {
            let grown = answer.results.first()?;
            Some((grown.error_code, grown.error_message.clone(), ()))
        })?;
        let mut call = self.begin(what);
        let grown = |view: TopicView| count as usize <= view.partitions.len();
        while !grown(self.look_at(&mut call, topic)?) {
            let unseen = "the new partitions are made, but not yet known to the broker asked";
            let error = Error::new(ErrorKind::TimedOut, call.what()).because(unseen);
            self.pause(&mut call, error)?;
        }
        Ok(())
    }

    /// All topics.
    pub fn topics(&mut self) -> Result<BTreeMap<Arc<str>, TopicView>, Error> {
        let mut call = self.begin("cannot list the topics");
        self.cluster.want_all_topics(call.start);
        while !self.cluster.shows_all_topics() {
            self.next_map(&mut call)?;
        }
        Ok(self.cluster.map().topics().clone())
    }

    /// One topic, waited for while it is in the making: all its partitions have leaders.
    pub fn topic(&mut self, name: &str) -> Result<TopicView, Error> {
        let mut call = self.begin(format!("cannot describe topic {name}"));
        self.look_at(&mut call, name)
    }

    /// The cluster: its name, its nodes.
    pub fn cluster(&mut self) -> Result<ClusterView, Error> {
        let mut call = self.begin("cannot describe the cluster");
        self.cluster.refresh_now(call.start);
        self.next_map(&mut call)?;
        let map = self.cluster.map();
        Ok(ClusterView {
            id: map.cluster_id().map(str::to_owned),
            controller: map.controller(),
            nodes: map.nodes().clone(),
        })
    }

    /// All settings of a topic, a node or a group.
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
        self.call(
            what,
            |_| peer,
            &request,
            |answer| {
                let told = answer.results.first()?;
                Some((told.error_code, told.error_message.clone(), told.configs.clone()))
            },
        )
    }

    /// Changes settings of a topic, a node or a group, all or none.
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
        self.call(
            what,
            |_| peer,
            &request,
            |answer| {
                let altered = answer.responses.first()?;
                Some((altered.error_code, altered.error_message.clone(), ()))
            },
        )
    }

    fn timeout_ms(&self) -> i32 {
        i32::try_from(self.timeout.as_millis()).unwrap_or(i32::MAX)
    }
}

/// Who decides for the cluster, if that is one we can reach; any broker passes it on.
fn controller(map: &Map) -> Peer {
    let controller = map.controller().filter(|id| map.nodes().contains_key(id));
    controller.map_or(Peer::Any, Peer::Node)
}
