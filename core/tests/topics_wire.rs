//! Making, changing and deleting topics as it is on the wire: each refusal with its error and a reason,
//! what is told of a topic that was made, and what is told of configs.
// Fixtures are tests, though they are no test functions.
#![allow(clippy::unwrap_used)]

mod process;
mod wire;

use process::Broker;
use tidemill_net::kafka::ErrorCode;
use tidemill_net::kafka::alter_configs::{IncrementalAlterConfigsRequest, operation};
use tidemill_net::kafka::create_partitions::{CreatePartitionsRequest, CreatePartitionsTopic};
use tidemill_net::kafka::create_topics::{
    CreatableTopic, CreatableTopicConfig, CreatableTopicResult, CreateTopicsRequest,
};
use tidemill_net::kafka::delete_topics::{DeleteTopicState, DeleteTopicsRequest};
use tidemill_net::kafka::describe_configs::{
    DescribeConfigsRequest, DescribeConfigsResource, DescribeConfigsResourceResult, resource,
};
use tidemill_net::kafka::metadata::MetadataRequest;
use tidemill_record::TopicId;
use wire::{Client, altered};

/// Where the value of a config comes from.
mod source {
    pub(crate) const ON_TOPIC: i8 = 1;
    pub(crate) const AT_START: i8 = 4;
    pub(crate) const DEFAULT: i8 = 5;
}

fn start(name: &str) -> (Broker, Client) {
    let broker = Broker::start(name, &["--shards", "2", "--set", "num.partitions=3"]);
    let client = Client::open(&broker);
    (broker, client)
}

fn topic(name: &str, partitions: i32, replicas: i16) -> CreatableTopic {
    CreatableTopic {
        name: name.to_owned(),
        num_partitions: partitions,
        replication_factor: replicas,
        ..CreatableTopic::default()
    }
}

fn create(
    client: &mut Client,
    version: i16,
    topics: Vec<CreatableTopic>,
    validate_only: bool,
) -> Vec<CreatableTopicResult> {
    let request = CreateTopicsRequest { topics, timeout_ms: 30_000, validate_only };
    client.ask(version, &request).topics
}

fn names(client: &mut Client) -> Vec<String> {
    let told = client.ask(9, &MetadataRequest { topics: None, ..MetadataRequest::default() });
    let mut names: Vec<_> = told.topics.into_iter().map(|topic| topic.name.unwrap()).collect();
    names.sort_unstable();
    names
}

/// Each topic of a request is made or refused by itself, with an error that says what to change and
/// words that say why.
#[test]
fn each_topic_is_refused_with_its_reason() {
    let (_broker, mut client) = start("topics-refused");
    client.create("there", 1);
    client.create("a.b", 1);
    let with = |name: &str, value: &str| {
        let config = CreatableTopicConfig { name: name.to_owned(), value: Some(value.to_owned()) };
        CreatableTopic { configs: vec![config], ..topic("configs", 1, 1) }
    };
    let long = "x".repeat(250);
    for version in 2..=7 {
        for (asked, error) in [
            (topic("there", 1, 1), ErrorCode::TopicAlreadyExists),
            (topic("a_b", 1, 1), ErrorCode::InvalidTopicException),
            (topic("", 1, 1), ErrorCode::InvalidTopicException),
            (topic("..", 1, 1), ErrorCode::InvalidTopicException),
            (topic("a b", 1, 1), ErrorCode::InvalidTopicException),
            (topic(&long, 1, 1), ErrorCode::InvalidTopicException),
            (topic("none", 0, 1), ErrorCode::InvalidPartitions),
            (topic("none", -2, 1), ErrorCode::InvalidPartitions),
            (topic("far", 1, 2), ErrorCode::InvalidReplicationFactor),
            (topic("far", 1, 0), ErrorCode::InvalidReplicationFactor),
            (with("no.such.config", "1"), ErrorCode::InvalidConfig),
            (with("retention.ms", "soon"), ErrorCode::InvalidConfig),
        ] {
            let name = asked.name.clone();
            let beside = topic(&format!("beside-{version}"), 1, 1);
            let told = create(&mut client, version, vec![asked, beside], true);
            assert_eq!((told[0].name.as_str(), told[0].error_code), (name.as_str(), error));
            assert!(told[0].error_message.as_ref().is_some_and(|why| !why.is_empty()));
            assert_eq!(told[1].error_code, ErrorCode::None, "it is asked for by itself");
        }
    }
    assert_eq!(names(&mut client), ["a.b", "there"], "that was only asked about");
    // Which of two in one request would be first?
    for both in [["c.d", "c_d"], ["c", "c"]] {
        let both = both.map(|name| topic(name, 1, 1)).to_vec();
        let told = create(&mut client, 7, both, false);
        assert!(told.iter().all(|topic| topic.error_code == ErrorCode::InvalidRequest), "{told:?}");
    }
    assert_eq!(names(&mut client), ["a.b", "there"]);
}

/// What one request names twice is refused, told of once, and left as it is; others are not. The bug: a
/// topic that was named twice was deleted, and its client was told that it was not.
#[test]
fn a_topic_named_twice_was_deleted_and_said_not_to_be() {
    let (_broker, mut client) = start("topics-twice");
    let (none, refused) = (ErrorCode::None, ErrorCode::InvalidRequest);
    let asked = ["a", "b", "a"].map(|name| topic(name, 1, 1)).to_vec();
    let made = create(&mut client, 7, asked, false);
    let told: Vec<_> = made.iter().map(|t| (t.name.as_str(), t.error_code)).collect();
    assert_eq!(told, [("a", refused), ("b", none)]);

    client.create("c", 1);
    let delete = |client: &mut Client, version, request: DeleteTopicsRequest| {
        let told = client.ask(version, &request).responses;
        let told: Vec<_> = told.into_iter().map(|t| (t.name, t.error_code)).collect();
        (told, names(client))
    };
    let by_name = DeleteTopicsRequest {
        topic_names: ["b", "c", "b"].map(str::to_owned).to_vec(),
        timeout_ms: 30_000,
        ..DeleteTopicsRequest::default()
    };
    let b = || Some("b".to_owned());
    let told = vec![(b(), refused), (Some("c".to_owned()), none)];
    assert_eq!(delete(&mut client, 5, by_name), (told, vec!["b".to_owned()]));
    let named = DeleteTopicState { name: b(), topic_id: TopicId::ZERO };
    let by_id = DeleteTopicState { name: None, topic_id: made[1].topic_id };
    let topics = vec![named, by_id.clone(), by_id];
    let both = DeleteTopicsRequest { topics, timeout_ms: 30_000, ..Default::default() };
    let told = vec![(b(), refused), (None, refused)];
    assert_eq!(delete(&mut client, 6, both), (told, vec!["b".to_owned()]));

    let grown = |count| CreatePartitionsTopic { name: "b".to_owned(), count, assignments: None };
    let topics = vec![grown(2), grown(3)];
    let request = CreatePartitionsRequest { topics, timeout_ms: 30_000, validate_only: false };
    let told = client.ask(3, &request).results;
    assert_eq!((told.len(), told[0].error_code), (1, refused));
}

/// Without a policy records are kept whatever their age, as in Kafka: it takes the empty list. The bug:
/// it was refused.
#[test]
fn a_topic_without_a_cleanup_policy_was_refused() {
    let (_broker, mut client) = start("topics-no-policy");
    client.create_with("t", 1, &[("cleanup.policy", "")]);
    assert_eq!(client.config("t", "cleanup.policy"), (String::new(), source::ON_TOPIC));
    client.create_with("u", 1, &[("cleanup.policy", "delete")]);
    let without = [("cleanup.policy", operation::SUBTRACT, Some("delete"))];
    assert_eq!(client.alter(resource::TOPIC, "u", &without), ErrorCode::None);
    assert_eq!(client.config("u", "cleanup.policy"), (String::new(), source::ON_TOPIC));
    let unknown = [("cleanup.policy", operation::SET, Some("keep"))];
    assert_eq!(client.alter(resource::TOPIC, "u", &unknown), ErrorCode::InvalidConfig);
}

/// Without numbers of its own a topic has the broker's. What was made is told from version 5 on, with
/// configs that are never null, for Java fails on that; and everybody sees it at once.
#[test]
fn a_topic_that_was_made_is_told_and_seen() {
    let (broker, mut client) = start("topics-made");
    for version in 2..=7 {
        let name = format!("t{version}");
        let config = CreatableTopicConfig {
            name: "retention.ms".to_owned(),
            value: Some("1000".to_owned()),
        };
        let asked = CreatableTopic { configs: vec![config], ..topic(&name, -1, -1) };
        let told = create(&mut client, version, vec![asked], false).remove(0);
        assert_eq!(told.error_code, ErrorCode::None);
        if 5 <= version {
            let told = (told.num_partitions, told.replication_factor, told.topic_config_error_code);
            assert_eq!(told, (3, 1, ErrorCode::None));
        }
        if 5 <= version {
            let configs = told.configs.expect("never null");
            let config = configs.iter().find(|config| config.name == "retention.ms").unwrap();
            let source = config.config_source;
            assert_eq!((config.value.as_deref(), source), (Some("1000"), source::ON_TOPIC));
        }
        assert_eq!(told.topic_id.is_zero(), version < 7);
        let other = &mut Client::open(&broker);
        assert!(names(other).contains(&name), "visible on any connection");
        let only = create(&mut client, version, vec![topic("only", -1, -1)], true).remove(0);
        assert_eq!(only.error_code, ErrorCode::None);
        assert!(only.configs.is_some(), "{version}");
    }
    assert!(!names(&mut client).contains(&"only".to_owned()));
}

/// Topics are deleted by name or, from version 6 on, by id; what is unknown is told in the word for
/// how it was named.
#[test]
fn topics_are_deleted_by_name_or_id() {
    let (_broker, mut client) = start("topics-deleted");
    let none = ErrorCode::None;
    for version in 1..=5 {
        client.create("t", 1);
        let request = DeleteTopicsRequest {
            topic_names: vec!["t".to_owned(), "no".to_owned()],
            timeout_ms: 30_000,
            ..DeleteTopicsRequest::default()
        };
        let told = client.ask(version, &request).responses;
        let told: Vec<_> =
            told.iter().map(|t| (t.name.as_deref().unwrap(), t.error_code)).collect();
        assert_eq!(told, [("t", none), ("no", ErrorCode::UnknownTopicOrPartition)]);
        assert_eq!(names(&mut client), [""; 0], "gone at once");
    }
    client.create("a", 1);
    let made = create(&mut client, 7, vec![topic("b", 1, 1)], false).remove(0);
    let state =
        |name: Option<&str>, topic_id| DeleteTopicState { name: name.map(str::to_owned), topic_id };
    let stranger = TopicId([9; 16]);
    let topics = vec![
        state(Some("a"), TopicId::ZERO),
        state(None, made.topic_id),
        state(None, stranger),
        state(Some("no"), TopicId::ZERO),
    ];
    let request = DeleteTopicsRequest { topics, timeout_ms: 30_000, ..Default::default() };
    let told = client.ask(6, &request).responses;
    let told: Vec<_> = told.iter().map(|t| (t.name.as_deref(), t.error_code)).collect();
    let expected = [
        (Some("a"), none),
        (Some("b"), none),
        (None, ErrorCode::UnknownTopicId),
        (Some("no"), ErrorCode::UnknownTopicOrPartition),
    ];
    assert_eq!(told, expected);
    assert_eq!(names(&mut client), [""; 0]);
}

/// Partitions are only added; what was only asked about is not done.
#[test]
fn partitions_are_added_to_topics() {
    let (_broker, mut client) = start("topics-grown");
    client.create("t", 2);
    let mut grow = |name: &str, count, validate_only| {
        let topic = CreatePartitionsTopic {
            name: name.to_owned(),
            count,
            ..CreatePartitionsTopic::default()
        };
        let request =
            CreatePartitionsRequest { topics: vec![topic], timeout_ms: 30_000, validate_only };
        let told = client.ask(3, &request).results.remove(0);
        assert_eq!(told.error_message.is_some(), told.error_code != ErrorCode::None);
        told.error_code
    };
    assert_eq!(grow("t", 2, false), ErrorCode::InvalidPartitions);
    assert_eq!(grow("t", 1, false), ErrorCode::InvalidPartitions);
    assert_eq!(grow("no", 3, false), ErrorCode::UnknownTopicOrPartition);
    assert_eq!(grow("t", 5, true), ErrorCode::None);
    assert_eq!(grow("t", 3, false), ErrorCode::None);
    let told = client.ask(9, &MetadataRequest { topics: None, ..MetadataRequest::default() });
    assert_eq!(told.topics[0].partitions.len(), 3);
}

fn describe(
    client: &mut Client,
    version: i16,
    kind: i8,
    name: &str,
    keys: Option<&[&str]>,
) -> Result<Vec<DescribeConfigsResourceResult>, ErrorCode> {
    let asked = DescribeConfigsResource {
        resource_type: kind,
        resource_name: name.to_owned(),
        configuration_keys: keys.map(|keys| keys.iter().map(|key| (*key).to_owned()).collect()),
    };
    let request = DescribeConfigsRequest {
        resources: vec![asked],
        include_synonyms: false,
        include_documentation: false,
    };
    let told = client.ask(version, &request).results.remove(0);
    match told.error_code {
        ErrorCode::None => Ok(told.configs),
        error => Err(error),
    }
}

/// Null asks for all configs and so does an empty list, any other for those it names; of what is unknown nothing is told. The
/// configs that tools look up by name are there, whatever they do here.
#[test]
fn configs_that_tools_look_for_are_told() {
    let (_broker, mut client) = start("topics-configs");
    client.create_with("t", 1, &[("cleanup.policy", "compact")]);
    for version in 1..=4 {
        let all = describe(&mut client, version, resource::TOPIC, "t", None).unwrap();
        for name in [
            "cleanup.policy",
            "compression.type",
            "delete.retention.ms",
            "file.delete.delay.ms",
            "flush.messages",
            "flush.ms",
            "follower.replication.throttled.replicas",
            "index.interval.bytes",
            "leader.replication.throttled.replicas",
            "local.retention.bytes",
            "local.retention.ms",
            "max.compaction.lag.ms",
            "max.message.bytes",
            "message.timestamp.after.max.ms",
            "message.timestamp.before.max.ms",
            "message.timestamp.type",
            "min.cleanable.dirty.ratio",
            "min.compaction.lag.ms",
            "min.insync.replicas",
            "preallocate",
            "remote.storage.enable",
            "retention.bytes",
            "retention.ms",
            "segment.bytes",
            "segment.index.bytes",
            "segment.jitter.ms",
            "segment.ms",
            "unclean.leader.election.enable",
        ] {
            let config = all.iter().find(|config| config.name == name);
            let config = config.unwrap_or_else(|| panic!("{name} is not told"));
            assert!(config.value.is_some() && !config.is_sensitive && config.synonyms.is_empty());
            let set = name == "cleanup.policy";
            let source = if set { source::ON_TOPIC } else { source::DEFAULT };
            assert_eq!(config.config_source, source, "{name}");
        }
        let some = ["segment.ms", "no.such.config"];
        let told = describe(&mut client, version, resource::TOPIC, "t", Some(&some)).unwrap();
        let told: Vec<&str> = told.iter().map(|config| config.name.as_str()).collect();
        assert_eq!(told, ["segment.ms"]);
        let empty = describe(&mut client, version, resource::TOPIC, "t", Some(&[]));
        assert_eq!(empty, Ok(all), "an empty list asks for all, as in Kafka");
        let unknown = describe(&mut client, version, resource::TOPIC, "no", None);
        assert_eq!(unknown, Err(ErrorCode::UnknownTopicOrPartition));
        let invalid = describe(&mut client, version, resource::TOPIC, "a b", None);
        assert_eq!(invalid, Err(ErrorCode::InvalidTopicException));
        // What UIs ask of a node.
        let node = describe(&mut client, version, resource::BROKER, "1", None).unwrap();
        for (name, source) in [
            ("num.partitions", source::AT_START),
            ("log.retention.ms", source::DEFAULT),
            ("message.max.bytes", source::DEFAULT),
            ("auto.create.topics.enable", source::DEFAULT),
            ("default.replication.factor", source::DEFAULT),
        ] {
            let config = node.iter().find(|config| config.name == name);
            let config = config.unwrap_or_else(|| panic!("{name} is not told"));
            assert_eq!(config.config_source, source, "{name}");
        }
        for other in ["2", "one"] {
            let told = describe(&mut client, version, resource::BROKER, other, None);
            assert_eq!(told, Err(ErrorCode::InvalidRequest));
        }
    }
}

/// A change that was only asked about is checked and not made; a topic that is not there has no
/// configs.
#[test]
fn changes_of_configs_are_checked_before_they_are_made() {
    let (_broker, mut client) = start("topics-changes");
    client.create("t", 1);
    let mut ask = |name: &str, config, value, validate_only| {
        let change = [(config, operation::SET, Some(value))];
        let resources = vec![altered(resource::TOPIC, name, &change)];
        let told = client.ask(1, &IncrementalAlterConfigsRequest { resources, validate_only });
        let told = &told.responses[0];
        assert_eq!(told.error_message.is_some(), told.error_code != ErrorCode::None);
        told.error_code
    };
    assert_eq!(ask("t", "retention.ms", "1", true), ErrorCode::None);
    assert_eq!(ask("t", "retention.ms", "soon", true), ErrorCode::InvalidConfig);
    assert_eq!(ask("t", "no.such.config", "1", false), ErrorCode::InvalidConfig);
    assert_eq!(ask("no", "retention.ms", "1", false), ErrorCode::UnknownTopicOrPartition);
    assert_eq!(client.config("t", "retention.ms").1, source::DEFAULT);
}
