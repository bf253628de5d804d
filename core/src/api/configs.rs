//! DescribeConfigs: what is in force for a topic, a node or a group, and where it comes from (KIP-226).
//! ListConfigResources: what can have configs (KIP-1142).
//!
//! Every well-known config is told, whether or not it means something here: tools look them up by
//! name.

use tidemill_net::kafka::describe_configs::{
    DescribeConfigsRequest, DescribeConfigsResource, DescribeConfigsResourceResult,
    DescribeConfigsResponse, DescribeConfigsResult, DescribeConfigsSynonym, resource,
};
use tidemill_net::kafka::list_config_resources::{
    ConfigResource, ListConfigResourcesRequest, ListConfigResourcesResponse,
};
use tidemill_net::kafka::{ErrorCode, Request as _};
use tidemill_replication::config::{
    Described, Kind, Layers, NodeConfig, describe_cluster, describe_group, describe_node,
    describe_topic, node_config,
};
use tidemill_replication::metadata::Resource;

use super::ReplyForm;
use crate::config::settings;
use crate::controller::code;
use crate::limits::COMPACTION_MAP_LOAD_MAX;
use crate::shard::Shard;
use crate::topic_rules;

/// What clients may ask about, whether or not there is any.
const RESOURCES: [i8; 5] = [
    resource::TOPIC,
    resource::BROKER,
    resource::BROKER_LOGGER,
    resource::CLIENT_METRICS,
    resource::GROUP,
];

impl Shard {
    pub(crate) fn handle_describe_configs(
        &mut self,
        reply: ReplyForm,
        request: &DescribeConfigsRequest,
    ) {
        // Each once, or a small request could ask for an answer of any size.
        let mut seen = std::collections::HashSet::new();
        let each = request
            .resources
            .iter()
            .filter(|asked| seen.insert((asked.resource_type, asked.resource_name.as_str())));
        let results = each.map(|asked| {
            let mut result = DescribeConfigsResult {
                resource_type: asked.resource_type,
                resource_name: asked.resource_name.clone(),
                ..DescribeConfigsResult::default()
            };
            match self.describe_resource(asked) {
                Ok(described) => {
                    let told = described.into_iter().filter(|config| is_asked_for(asked, config));
                    result.configs = told.map(|config| tell(config, request)).collect();
                }
                Err((error, message)) => {
                    result.error_code = error;
                    result.error_message = Some(message);
                }
            }
            result
        });
        let results = results.collect();
        self.reply_message(reply, &DescribeConfigsResponse { results, ..Default::default() });
    }

    pub(crate) fn handle_list_config_resources(
        &mut self,
        reply: ReplyForm,
        request: &ListConfigResourcesRequest,
    ) {
        let asked = request.kinds(reply.version).unwrap_or(&RESOURCES);
        if asked.iter().any(|kind| !RESOURCES.contains(kind)) {
            let response = request.error_response(ErrorCode::UnsupportedVersion);
            return self.reply_message(reply, &response);
        }
        let mut config_resources = Vec::new();
        for resource_type in RESOURCES.into_iter().filter(|kind| asked.contains(kind)) {
            let named = |resource_name| ConfigResource { resource_name, resource_type };
            match resource_type {
                resource::TOPIC => {
                    let names = self.image.topics().map(|topic| topic.name.to_string());
                    config_resources.extend(names.map(named));
                }
                resource::BROKER => {
                    config_resources.push(named(self.settings.endpoints.node.0.to_string()));
                }
                resource::GROUP => {
                    let names = self.image.groups_with_configs().map(|(name, _)| name.to_string());
                    config_resources.extend(names.map(named));
                }
                // Loggers and metrics of clients have no configs here.
                _ => {}
            }
        }
        let response = ListConfigResourcesResponse { config_resources, ..Default::default() };
        self.reply_message(reply, &response);
    }

    fn describe_resource(
        &self,
        asked: &DescribeConfigsResource,
    ) -> Result<Vec<Described>, (ErrorCode, String)> {
        let resource = self
            .find_resource(asked.resource_type, &asked.resource_name)
            .map_err(|error| (code(&error), error.to_string()))?;
        Ok(match resource {
            Resource::Topic(id) => {
                let topic = self.image.topic(id).expect("just found");
                let layers = topic_rules::layers(&self.settings, &self.image, &topic.configs);
                describe_topic(&layers)
            }
            Resource::Cluster => describe_cluster(self.image.cluster_configs()),
            Resource::Group(name) => {
                describe_group(self.image.group_configs(&name), &self.settings.file_configs)
            }
            Resource::Node(node) => {
                let layers = Layers {
                    topic: None,
                    node: self.image.node_configs(node),
                    cluster: self.image.cluster_configs(),
                    file: &self.settings.file_configs,
                };
                describe_node(&layers, &self.own_configs())
            }
        })
    }

    /// Settings of the node that no topic inherits.
    fn own_configs(&self) -> Vec<NodeConfig> {
        let described = self.settings.config.described();
        described
            .filter(|(setting, _, _)| node_config(setting.name).is_none())
            .map(|(setting, _, _)| NodeConfig {
                name: setting.name.to_owned(),
                value: self.settings.config.value_text(setting.name),
                default: setting.default.to_owned(),
                kind: kind_of(setting.kind),
                doc: setting.doc,
            })
            .chain(facts())
            .chain(throttles())
            .collect()
    }
}

/// What tools set on each node while they move replicas, and take back afterwards. There is nothing that
/// it could slow down.
fn throttles() -> impl Iterator<Item = NodeConfig> {
    let names = [
        "follower.replication.throttled.rate",
        "leader.replication.throttled.rate",
        "replica.alter.log.dirs.io.max.bytes.per.second",
    ];
    names.into_iter().map(|name| NodeConfig {
        name: name.to_owned(),
        value: i64::MAX.to_string(),
        default: i64::MAX.to_string(),
        kind: Kind::Long(0, i64::MAX),
        doc: "Accepted for Kafka's sake: no replica moves to another node.",
    })
}

/// What is a setting in Kafka and a fact here: told as it is, since tools look it up by name.
fn facts() -> impl Iterator<Item = NodeConfig> {
    let fact = |name: &str, value: String, kind, doc| NodeConfig {
        name: name.to_owned(),
        default: value.clone(),
        value,
        kind,
        doc,
    };
    [
        fact("delete.topic.enable", "true".to_owned(), Kind::Boolean, "Topics can be deleted."),
        fact(
            "log.cleaner.io.buffer.load.factor",
            COMPACTION_MAP_LOAD_MAX.to_string(),
            Kind::Double(0.0, 1.0),
            "How large a share of log.cleaner.dedupe.buffer.size is used.",
        ),
        fact(
            "log.cleaner.threads",
            "1".to_owned(),
            Kind::Int(1, 1),
            "Each shard compacts one log at a time; one thread does the work between reads and writes.",
        ),
        fact(
            "remote.log.storage.system.enable",
            "false".to_owned(),
            Kind::Boolean,
            "There is no remote storage.",
        ),
        fact(
            "transaction.two.phase.commit.enable",
            "false".to_owned(),
            Kind::Boolean,
            "There is no two-phase commit (KIP-939).",
        ),
    ]
    .into_iter()
}

fn kind_of(kind: settings::Kind) -> Kind {
    match kind {
        settings::Kind::Integer { min, max, .. } => Kind::Long(min, max),
        settings::Kind::Boolean => Kind::Boolean,
        _ => Kind::Text,
    }
}

fn is_asked_for(asked: &DescribeConfigsResource, config: &Described) -> bool {
    // Kafka treats no keys like null: all of them.
    match &asked.configuration_keys {
        Some(keys) if !keys.is_empty() => keys.contains(&config.name),
        _ => true,
    }
}

fn tell(config: Described, request: &DescribeConfigsRequest) -> DescribeConfigsResourceResult {
    let synonyms = config.synonyms.into_iter().map(|synonym| DescribeConfigsSynonym {
        name: synonym.name,
        value: Some(synonym.value),
        source: synonym.source as i8,
    });
    DescribeConfigsResourceResult {
        name: config.name,
        value: Some(config.value),
        read_only: config.is_read_only,
        config_source: config.source as i8,
        is_sensitive: false,
        synonyms: if request.include_synonyms { synonyms.collect() } else { Vec::new() },
        config_type: config.kind.wire_type(),
        documentation: request.include_documentation.then(|| config.doc.to_owned()),
    }
}
