//! What administration asks of the real binary, beside topics: configs anew, partitions in pieces,
//! sizes, access rules, elections, the quorum. Asked in the protocol's own words, since few clients
//! have a call for all of it, and with librdkafka where it has one.
// Fixtures are tests, though they are no test functions.
#![allow(clippy::unwrap_used)]

mod process;
mod wire;

use std::io::Read as _;

use process::Broker;
use tidemill_net::kafka::alter_configs::{IncrementalAlterConfigsRequest, operation};
use tidemill_net::kafka::alter_partition_reassignments::{
    AlterPartitionReassignmentsRequest, ReassignablePartition, ReassignableTopic,
};
use tidemill_net::kafka::alter_user_scram_credentials::{
    AlterUserScramCredentialsRequest, ScramCredentialDeletion, ScramCredentialUpsertion,
};
use tidemill_net::kafka::api_versions::ApiVersionsRequest;
use tidemill_net::kafka::create_acls::{AclCreation, CreateAclsRequest};
use tidemill_net::kafka::delete_acls::{DeleteAclsFilter, DeleteAclsRequest};
use tidemill_net::kafka::describe_acls::DescribeAclsRequest;
use tidemill_net::kafka::describe_configs::resource;
use tidemill_net::kafka::describe_log_dirs::DescribeLogDirsRequest;
use tidemill_net::kafka::describe_quorum::{
    DescribeQuorumRequest, METADATA_TOPIC, QuorumPartition, QuorumTopic,
};
use tidemill_net::kafka::describe_topic_partitions::{
    DescribeCursor, DescribeTopicPartitionsRequest, TopicToDescribe,
};
use tidemill_net::kafka::describe_user_scram_credentials::{
    DescribeUserScramCredentialsRequest, ScramUserName,
};
use tidemill_net::kafka::elect_leaders::ElectLeadersRequest;
use tidemill_net::kafka::list_config_resources::ListConfigResourcesRequest;
use tidemill_net::kafka::list_partition_reassignments::ListPartitionReassignmentsRequest;
use tidemill_net::kafka::metadata::MetadataRequest;
use tidemill_net::kafka::topic_partitions::TopicPartitions;
use tidemill_net::kafka::update_features::{FeatureUpdateKey, UpdateFeaturesRequest, upgrade_type};
use tidemill_net::kafka::{ErrorCode, TopicRef};
use wire::{Client, altered};

fn partitions(topic: &str, numbers: &[i32]) -> TopicPartitions {
    TopicPartitions { topic: topic.to_owned(), partitions: numbers.to_vec() }
}

/// AlterConfigs gives all configs anew: what it does not name is as if it had never been set. What
/// it refuses changes nothing, and what it did survives a kill.
#[test]
fn the_older_way_to_change_configs_replaces_all_of_them() {
    const ON_TOPIC: i8 = 1;
    const DEFAULT: i8 = 5;
    let mut broker = Broker::start("replace-configs", &["--shards", "2"]);
    let mut client = Client::open(&broker);
    client.create("t", 1);
    let first = [("retention.ms", Some("1000")), ("segment.ms", Some("2000"))];
    assert_eq!(client.replace(resource::TOPIC, "t", &first), ErrorCode::None);
    assert_eq!(client.config("t", "segment.ms"), ("2000".to_owned(), ON_TOPIC));

    let second = [("retention.ms", Some("3000"))];
    assert_eq!(client.replace(resource::TOPIC, "t", &second), ErrorCode::None);
    assert_eq!(client.config("t", "retention.ms"), ("3000".to_owned(), ON_TOPIC));
    assert_eq!(client.config("t", "segment.ms").1, DEFAULT);

    let refused = [
        (vec![("retention.ms", None)], ErrorCode::InvalidRequest),
        (vec![("no.such.config", Some("1"))], ErrorCode::InvalidConfig),
        (vec![("segment.ms", Some("soon"))], ErrorCode::InvalidConfig),
        (vec![("segment.ms", Some("1")), ("segment.ms", Some("2"))], ErrorCode::InvalidRequest),
    ];
    for (configs, error) in refused {
        assert_eq!(client.replace(resource::TOPIC, "t", &configs), error, "{configs:?}");
    }
    assert_eq!(client.replace(resource::TOPIC, "u", &second), ErrorCode::UnknownTopicOrPartition);

    broker.kill();
    broker.run();
    let mut client = Client::open(&broker);
    assert_eq!(client.config("t", "retention.ms"), ("3000".to_owned(), ON_TOPIC));
    assert_eq!(client.replace(resource::TOPIC, "t", &[]), ErrorCode::None);
    assert_eq!(client.config("t", "retention.ms").1, DEFAULT);
}

/// Words are added to a list and taken out of it; what is no list takes neither. A resource that
/// is named twice in one request is refused both times: which change would count?
#[test]
fn lists_are_changed_word_by_word() {
    let broker = Broker::start("config-lists", &[]);
    let mut client = Client::open(&broker);
    client.create("t", 1);
    let name = "leader.replication.throttled.replicas";
    let mut change = |op, value| {
        let error = client.alter(resource::TOPIC, "t", &[(name, op, Some(value))]);
        assert_eq!(error, ErrorCode::None);
        client.config("t", name).0
    };
    assert_eq!(change(operation::APPEND, "0:1,1:1"), "0:1,1:1");
    assert_eq!(change(operation::APPEND, "1:1,2:1"), "0:1,1:1,2:1");
    assert_eq!(change(operation::SUBTRACT, "1:1"), "0:1,2:1");
    let no_list = [("retention.ms", operation::APPEND, Some("1"))];
    assert_eq!(client.alter(resource::TOPIC, "t", &no_list), ErrorCode::InvalidConfig);
    let unknown = [("retention.ms", 9, Some("1"))];
    assert_eq!(client.alter(resource::TOPIC, "t", &unknown), ErrorCode::InvalidRequest);

    let once = altered(resource::TOPIC, "t", &[("retention.ms", operation::SET, Some("1"))]);
    let twice = IncrementalAlterConfigsRequest {
        resources: vec![once.clone(), once],
        validate_only: false,
    };
    let told = client.ask(1, &twice);
    assert!(told.responses.iter().all(|r| r.error_code == ErrorCode::InvalidRequest), "{told:?}");
}

/// Every topic config is told with all that sets it and with a sentence about it.
#[test]
fn configs_are_told_with_synonyms_and_documentation() {
    let broker = Broker::start("synonyms", &["--set", "log.retention.hours=5"]);
    let mut client = Client::open(&broker);
    client.create("t", 1);
    let told = client.configs(resource::TOPIC, "t", "retention.ms");
    let config = &told.results[0].configs[0];
    let synonyms: Vec<_> =
        config.synonyms.iter().map(|s| (&*s.name, s.value.as_deref().unwrap(), s.source)).collect();
    let expected = [("log.retention.hours", "5", 4), ("log.retention.ms", "604800000", 5)];
    assert_eq!((config.value.as_deref(), synonyms), (Some("18000000"), expected.to_vec()));
    assert!(config.documentation.as_ref().is_some_and(|text| !text.is_empty()));
}

/// What Kafka's tools look up by name and is no setting here is told as it is, and cannot be changed.
#[test]
fn what_is_a_fact_here_is_told_as_a_config() {
    let broker = Broker::start("facts", &["--shards", "1"]);
    let mut client = Client::open(&broker);
    for (name, value) in [
        ("log.cleaner.threads", "1"),
        ("log.cleaner.io.buffer.load.factor", "0.9"),
        ("delete.topic.enable", "true"),
        ("transaction.two.phase.commit.enable", "false"),
    ] {
        let told = client.configs(resource::BROKER, "1", name);
        let config = &told.results[0].configs[0];
        assert_eq!((config.value.as_deref(), config.read_only), (Some(value), true), "{name}");
        let set = [(name, operation::SET, Some(value))];
        assert_eq!(client.alter(resource::BROKER, "1", &set), ErrorCode::InvalidRequest, "{name}");
    }
}

/// The bug: `kafka-configs --entity-type broker-loggers` was told that "type 8" has no configs.
#[test]
fn what_has_no_configs_was_told_by_a_number() {
    let broker = Broker::start("no-configs", &["--shards", "1"]);
    let mut client = Client::open(&broker);
    for (kind, what) in
        [(resource::BROKER_LOGGER, "loggers"), (resource::CLIENT_METRICS, "metrics")]
    {
        let told = client.configs(kind, "1", "root");
        assert_eq!(told.results[0].error_code, ErrorCode::InvalidRequest);
        assert!(told.results[0].error_message.as_ref().unwrap().starts_with(what), "{told:?}");
    }
}

/// What can have configs: topics and nodes, and groups that have some. A client of version 0 asks for
/// metrics of clients, of which there are none; kinds that nobody knows are refused.
#[test]
fn resources_with_configs_are_listed_by_kind() {
    let broker = Broker::start("resources", &[]);
    let mut client = Client::open(&broker);
    client.create("a", 1);
    client.create("b", 1);
    let mut list = |version, kinds: &[i8]| {
        let request = ListConfigResourcesRequest { resource_types: kinds.to_vec() };
        let told = client.ask(version, &request);
        let names = told.config_resources.into_iter().map(|r| (r.resource_type, r.resource_name));
        (told.error_code, names.collect::<Vec<_>>())
    };
    let of = |kind: i8, name: &str| (kind, name.to_owned());
    let all = vec![of(2, "a"), of(2, "b"), of(4, "1")];
    assert_eq!(list(1, &[]), (ErrorCode::None, all));
    assert_eq!(list(1, &[resource::BROKER]), (ErrorCode::None, vec![of(4, "1")]));
    assert_eq!(list(1, &[resource::GROUP]), (ErrorCode::None, Vec::new()));
    assert_eq!(list(0, &[]), (ErrorCode::None, Vec::new()));
    assert_eq!(list(1, &[99]), (ErrorCode::UnsupportedVersion, Vec::new()));
}

/// Partitions come in pieces of at most the limit, in the order of names, each once; the cursor
/// of one piece begins the next. Lists that Java's client does not check are empty, never null.
#[test]
fn partitions_are_described_in_pieces() {
    let broker = Broker::start("pieces", &["--shards", "2"]);
    let mut client = Client::open(&broker);
    client.create("b", 3);
    client.create("a", 2);
    let named = |name: &str| TopicToDescribe { name: name.to_owned() };
    for topics in [Vec::new(), ["b", "a", "b", "gone"].map(named).to_vec()] {
        let mut found = Vec::new();
        let mut cursor = None;
        loop {
            let request = DescribeTopicPartitionsRequest {
                topics: topics.clone(),
                response_partition_limit: 2,
                cursor,
            };
            let told = client.ask(0, &request);
            let size: usize = told.topics.iter().map(|topic| topic.partitions.len()).sum();
            assert!(size <= 2, "{told:?}");
            for topic in told.topics {
                let name = topic.name.unwrap();
                if topic.error_code != ErrorCode::None {
                    assert_eq!(topic.error_code, ErrorCode::UnknownTopicOrPartition);
                    found.push((name, -1));
                    continue;
                }
                for partition in topic.partitions {
                    assert_eq!((partition.leader_id, &partition.replica_nodes[..]), (1, &[1][..]));
                    assert_eq!(partition.eligible_leader_replicas, Some(Vec::new()));
                    assert_eq!(partition.last_known_elr, Some(Vec::new()));
                    found.push((name.clone(), partition.partition_index));
                }
            }
            cursor = told.next_cursor;
            if cursor.is_none() {
                break;
            }
        }
        let mut all: Vec<_> = [("a", 0), ("a", 1), ("b", 0), ("b", 1), ("b", 2)].to_vec();
        if !topics.is_empty() {
            all.push(("gone", -1));
        }
        let all: Vec<_> = all.into_iter().map(|(name, n)| (name.to_owned(), n)).collect();
        assert_eq!(found, all);
    }
    // The topic a cursor names may have been deleted: its number means nothing for the next one.
    let cursor = DescribeCursor { topic_name: "aa".to_owned(), partition_index: 2 };
    let request = DescribeTopicPartitionsRequest { cursor: Some(cursor), ..Default::default() };
    let told = client.ask(0, &request);
    assert_eq!(told.topics[0].partitions.len(), 3);
    let cursor = DescribeCursor { topic_name: "a".to_owned(), partition_index: -1 };
    let request = DescribeTopicPartitionsRequest {
        topics: vec![named("a")],
        cursor: Some(cursor),
        ..Default::default()
    };
    assert_eq!(client.ask(0, &request).topics[0].error_code, ErrorCode::InvalidRequest);
}

/// The size told of a partition is that of its batches, wherever its home is; what was not asked
/// for or does not exist is left out.
#[test]
fn sizes_of_partitions_are_told() {
    let set = ["--shards", "2", "--set", "tidemill.routing=node"];
    let broker = Broker::start("sizes", &set);
    let mut client = Client::open(&broker);
    client.create("t", 2);
    client.create("empty", 1);
    let mut batch = tidemill_record::BatchBuilder::new(tidemill_record::Codec::None);
    batch.append(tidemill_record::Timestamp(1), None, Some(&[7; 1000]));
    let batch = batch.build();
    assert_eq!(client.produce("t", 1, &batch).error_code, ErrorCode::None);

    let mut ask = |topics| {
        let told = client.ask(4, &DescribeLogDirsRequest { topics });
        assert_eq!((told.error_code, told.results.len()), (ErrorCode::None, 1));
        let directory = &told.results[0];
        assert_eq!(directory.log_dir, broker.data_dir().display().to_string());
        let (usable, total) = (directory.usable_bytes, directory.total_bytes);
        assert!(0 < usable && usable <= total, "{usable} of {total}");
        let sizes = directory.topics.iter().flat_map(|topic| {
            let size = |p: &tidemill_net::kafka::describe_log_dirs::DescribeLogDirsPartition| {
                (topic.name.clone(), p.partition_index, p.partition_size)
            };
            topic.partitions.iter().map(size).collect::<Vec<_>>()
        });
        sizes.collect::<Vec<_>>()
    };
    let size = batch.len() as i64;
    let of = |name: &str, number, size| (name.to_owned(), number, size);
    assert_eq!(ask(None), [of("empty", 0, 0), of("t", 0, 0), of("t", 1, size)]);
    let some = vec![partitions("t", &[1, 1, 5]), partitions("no", &[0])];
    assert_eq!(ask(Some(some)), [of("t", 1, size)]);
    assert_eq!(ask(Some(Vec::new())), []);
}

/// What all brokers tell of sizes, added up as Kafka's tools do it, names each partition once, and its
/// leader tells it; who names partitions is told of them by everybody. The bug: the endpoint of each
/// shard told of all of them, so that every byte was counted once for each shard.
#[test]
fn sizes_were_told_once_for_each_shard() {
    for (routing, brokers) in [("owner", 2), ("node", 1)] {
        let name = format!("sizes-{routing}");
        let set = format!("tidemill.routing={routing}");
        let broker = Broker::start(&name, &["--shards", "2", "--set", &set]);
        let mut client = Client::open(&broker);
        client.create("t", 8);
        let all = MetadataRequest { topics: None, ..MetadataRequest::default() };
        let told = client.ask(9, &all);
        let led = told.topics[0].partitions.iter().map(|p| (p.partition_index, p.leader_id));
        let mut led: Vec<(i32, i32)> = led.collect();
        led.sort_unstable();
        assert_eq!(told.brokers.len(), brokers);

        let mut sizes = Vec::new();
        for node in &told.brokers {
            let mut client = Client::at(&format!("{}:{}", node.host, node.port));
            let mut ask = |topics| {
                let mut told = client.ask(4, &DescribeLogDirsRequest { topics });
                assert_eq!((told.error_code, told.results.len()), (ErrorCode::None, 1));
                let told = told.results.remove(0).topics.into_iter();
                let told = told.flat_map(|topic| topic.partitions);
                told.map(|p| p.partition_index).collect::<Vec<i32>>()
            };
            sizes.extend(ask(None).into_iter().map(|partition| (partition, node.node_id)));
            let numbers: Vec<i32> = (0..8).collect();
            assert_eq!(ask(Some(vec![partitions("t", &numbers)])), numbers, "{routing}");
        }
        sizes.sort_unstable();
        assert_eq!(sizes, led, "{routing}");
    }
}

/// The bug: `kafka-reassign-partitions --throttle` was refused, and so was the `--verify` that takes the
/// throttle away, because brokers did not know its rates. There is nothing that they could slow down.
#[test]
fn throttles_of_reassignments_were_refused() {
    let broker = Broker::start("throttles", &["--shards", "1"]);
    let mut client = Client::open(&broker);
    client.create("t", 1);
    for name in [
        "leader.replication.throttled.rate",
        "follower.replication.throttled.rate",
        "replica.alter.log.dirs.io.max.bytes.per.second",
    ] {
        let mut change = |op, value| {
            let error = client.alter(resource::BROKER, "1", &[(name, op, value)]);
            let told = client.configs(resource::BROKER, "1", name);
            (error, told.results[0].configs.first().and_then(|config| config.value.clone()))
        };
        let unlimited = Some(i64::MAX.to_string());
        let refused = change(operation::SET, Some("-1"));
        assert_eq!(refused, (ErrorCode::InvalidConfig, unlimited.clone()), "{name}");
        let set = change(operation::SET, Some("5000"));
        assert_eq!(set, (ErrorCode::None, Some("5000".to_owned())), "{name}");
        assert_eq!(change(operation::DELETE, None), (ErrorCode::None, unlimited), "{name}");
    }
    for name in ["leader.replication.throttled.replicas", "follower.replication.throttled.replicas"]
    {
        let set = [(name, operation::SET, Some("0:1"))];
        assert_eq!(client.alter(resource::TOPIC, "t", &set), ErrorCode::None);
        assert_eq!(client.config("t", name).0, "0:1");
    }
}

/// Without an authorizer there are no rules to tell, make or delete; each part of a request gets
/// its own answer, for that is where clients look.
#[test]
fn access_rules_are_said_to_be_disabled() {
    let broker = Broker::start("acls", &[]);
    let mut client = Client::open(&broker);
    let told = client.ask(3, &DescribeAclsRequest::default());
    assert_eq!((told.error_code, told.resources.len()), (ErrorCode::SecurityDisabled, 0));
    let creations = vec![AclCreation::default(), AclCreation::default()];
    let told = client.ask(3, &CreateAclsRequest { creations });
    let errors: Vec<_> = told.results.iter().map(|result| result.error_code).collect();
    assert_eq!(errors, [ErrorCode::SecurityDisabled; 2]);
    let told = client.ask(3, &DeleteAclsRequest { filters: vec![DeleteAclsFilter::default()] });
    assert_eq!(told.filter_results[0].error_code, ErrorCode::SecurityDisabled);
}

/// There are no users with passwords, and there can be none: who asks for all of them is told so without
/// an error. The bug: the question was not known, and `kafka-configs --describe --entity-type users`
/// asks it after the quotas, so that it always failed.
#[test]
fn quotas_of_users_could_not_be_described_for_want_of_their_passwords() {
    let broker = Broker::start("passwords", &[]);
    let mut client = Client::open(&broker);
    let name = |name: &str| ScramUserName { name: name.to_owned() };
    for (users, expected) in [
        (None, vec![]),
        (Some(vec![]), vec![]),
        (
            Some(vec![name("b"), name("a"), name("b")]),
            vec![("a", ErrorCode::ResourceNotFound), ("b", ErrorCode::DuplicateResource)],
        ),
    ] {
        let told = client.ask(0, &DescribeUserScramCredentialsRequest { users });
        assert_eq!(told.error_code, ErrorCode::None);
        let results: Vec<_> = told.results.iter().map(|r| (&*r.user, r.error_code)).collect();
        assert_eq!(results, expected);
    }
    let deletion = |name: &str| ScramCredentialDeletion { name: name.to_owned(), mechanism: 1 };
    let password = |name: &str, mechanism| ScramCredentialUpsertion {
        name: name.to_owned(),
        mechanism,
        iterations: 4096,
        ..ScramCredentialUpsertion::default()
    };
    let change = AlterUserScramCredentialsRequest {
        deletions: vec![deletion("a"), deletion("b")],
        upsertions: vec![password("b", 2), password("c", 1), password("c", 2)],
    };
    let told = client.ask(0, &change);
    let results: Vec<_> = told.results.iter().map(|r| (&*r.user, r.error_code)).collect();
    let disabled = ErrorCode::SecurityDisabled;
    assert_eq!(
        results,
        [("a", ErrorCode::ResourceNotFound), ("b", disabled), ("c", disabled)],
        "each of them once"
    );
    assert!(told.results.iter().all(|result| result.error_message.is_some()));
}

/// The one node leads everything: no election is needed, and none that is named is left out.
#[test]
fn no_election_is_needed_on_one_node() {
    let broker = Broker::start("elections", &[]);
    let mut client = Client::open(&broker);
    client.create("t", 2);
    let asked = vec![partitions("t", &[0, 9]), partitions("no", &[0])];
    for election_type in [0, 1] {
        let request = ElectLeadersRequest {
            election_type,
            topic_partitions: Some(asked.clone()),
            timeout_ms: 1000,
        };
        let told = client.ask(2, &request);
        let errors: Vec<_> = told
            .replica_election_results
            .iter()
            .flat_map(|topic| topic.partition_result.iter().map(|result| result.error_code))
            .collect();
        let unknown = ErrorCode::UnknownTopicOrPartition;
        assert_eq!(errors, [ErrorCode::ElectionNotNeeded, unknown, unknown]);
    }
    let all = ElectLeadersRequest { topic_partitions: None, ..Default::default() };
    let told = client.ask(2, &all);
    assert_eq!((told.error_code, told.replica_election_results.len()), (ErrorCode::None, 0));
    let unknown = ElectLeadersRequest { election_type: 7, ..Default::default() };
    assert_eq!(client.ask(2, &unknown).error_code, ErrorCode::InvalidRequest);
}

/// Nothing moves: no move is listed, none can be ended, and only the replicas there are can be
/// asked for.
#[test]
fn replicas_stay_where_they_are() {
    let broker = Broker::start("reassignments", &[]);
    let mut client = Client::open(&broker);
    client.create("t", 3);
    let listed = client.ask(0, &ListPartitionReassignmentsRequest::default());
    assert_eq!((listed.error_code, listed.topics.len()), (ErrorCode::None, 0));

    let wanted = [Some(vec![1]), Some(vec![1, 2]), None];
    let moves = (0..)
        .zip(wanted)
        .map(|(partition_index, replicas)| ReassignablePartition { partition_index, replicas });
    let topic = ReassignableTopic { name: "t".to_owned(), partitions: moves.collect() };
    let request = AlterPartitionReassignmentsRequest { topics: vec![topic], ..Default::default() };
    let told = client.ask(0, &request);
    let errors: Vec<_> =
        told.responses[0].partitions.iter().map(|partition| partition.error_code).collect();
    let expected =
        [ErrorCode::None, ErrorCode::InvalidReplicaAssignment, ErrorCode::NoReassignmentInProgress];
    assert_eq!((told.error_code, &errors[..]), (ErrorCode::None, &expected[..]));
}

/// The metadata quorum is this node, which has all of the log; each change makes it longer.
#[test]
fn the_quorum_is_one_node_with_all_of_the_log() {
    let broker = Broker::start("quorum", &["--shards", "2"]);
    let mut client = Client::open(&broker);
    let mut end = || {
        let asked = |name: &str| QuorumTopic {
            topic_name: name.to_owned(),
            partitions: vec![QuorumPartition { partition_index: 0 }],
        };
        let request = DescribeQuorumRequest { topics: vec![asked(METADATA_TOPIC), asked("t")] };
        let told = client.ask(2, &request);
        let quorum = &told.topics[0].partitions[0];
        assert_eq!((quorum.error_code, quorum.leader_id), (ErrorCode::None, 1));
        let voter = &quorum.current_voters[0];
        assert_eq!((voter.replica_id, voter.log_end_offset), (1, quorum.high_watermark));
        assert!(!voter.replica_directory_id.is_zero());
        assert!(1 <= quorum.leader_epoch);
        let unknown = &told.topics[1].partitions[0];
        assert_eq!(unknown.error_code, ErrorCode::UnknownTopicOrPartition);
        quorum.high_watermark
    };
    let before = end();
    Client::open(&broker).create("t", 1);
    assert!(before < end());
}

/// No level of a feature can be changed; from version 2 the answer as a whole says so.
#[test]
fn levels_of_features_cannot_be_changed() {
    let broker = Broker::start("features", &[]);
    let mut client = Client::open(&broker);
    let update = FeatureUpdateKey {
        feature: "no.such.version".to_owned(),
        max_version_level: 1,
        ..FeatureUpdateKey::default()
    };
    let request = UpdateFeaturesRequest { feature_updates: vec![update], ..Default::default() };
    let told = client.ask(1, &request);
    assert_eq!(told.error_code, ErrorCode::None);
    assert_eq!(told.results[0].error_code, ErrorCode::InvalidUpdateVersion);
    assert_eq!(client.ask(2, &request).error_code, ErrorCode::InvalidUpdateVersion);
    let nothing = UpdateFeaturesRequest::default();
    assert_eq!(client.ask(2, &nothing).error_code, ErrorCode::None);

    let told = client.ask(
        4,
        &ApiVersionsRequest {
            client_software_name: "test".to_owned(),
            client_software_version: "1".to_owned(),
        },
    );
    let levels = told.finalized_features.iter();
    let levels: Vec<_> = levels.map(|f| (f.name.as_str(), f.max_version_level)).collect();
    assert_eq!(levels, [("group.version", 1), ("share.version", 1), ("transaction.version", 2)]);
    let supported: Vec<_> = told.supported_features.iter().map(|f| f.name.as_str()).collect();
    assert_eq!(supported, ["group.version", "share.version", "transaction.version"]);
    for (level, error) in [(1, ErrorCode::None), (0, ErrorCode::InvalidUpdateVersion)] {
        let update = FeatureUpdateKey {
            feature: "group.version".to_owned(),
            max_version_level: level,
            upgrade_type: upgrade_type::SAFE_DOWNGRADE,
            ..FeatureUpdateKey::default()
        };
        let request = UpdateFeaturesRequest { feature_updates: vec![update], ..Default::default() };
        assert_eq!(client.ask(2, &request).error_code, error, "level {level}");
    }
}

/// A client that remembers a leader epoch from before the last start is told the new one, and where
/// the leader is, with the refusal (KIP-951).
#[test]
fn an_old_leader_epoch_is_refused_with_the_new_one() {
    let mut broker = Broker::start("hints", &["--shards", "2"]);
    let mut client = Client::open(&broker);
    client.create("t", 1);
    let epoch = client.fetch("t", 0, |told| {
        assert_eq!(told.partitions[0].error_code, ErrorCode::None);
        0
    });
    broker.kill();
    broker.run();
    let mut client = Client::open(&broker);
    let described = client.ask(0, &DescribeTopicPartitionsRequest::default());
    let id = described.topics[0].topic_id;
    client.fetch_in(16, TopicRef::Id(id), epoch, |told| {
        let partition = &told.partitions[0];
        assert_eq!(partition.error_code, ErrorCode::FencedLeaderEpoch);
        let hint = partition.current_leader.unwrap();
        assert_eq!(hint.leader_epoch, epoch + 1);
        assert_eq!(told.node_endpoints.len(), 1);
        let endpoint = told.node_endpoints[0];
        assert_eq!((endpoint.node_id, endpoint.host), (hint.leader_id, "127.0.0.1"));
    });
}

/// A node's limit on connections is changed while it runs, counts for those who come after, survives
/// a kill, and goes back to what the node was started with. What cannot be changed is refused.
#[test]
fn configs_of_a_node_are_changed_while_it_runs() {
    const ON_NODE: i8 = 2;
    const ON_ALL: i8 = 3;
    const AT_START: i8 = 4;
    let mut broker =
        Broker::start("node-configs", &["--shards", "1", "--set", "max.connections=50"]);
    let mut client = Client::open(&broker);
    let told = |client: &mut Client| {
        let told = client.configs(resource::BROKER, "1", "max.connections");
        let config = &told.results[0].configs[0];
        assert!(!config.read_only);
        (config.value.clone().unwrap(), config.config_source)
    };
    let set = |client: &mut Client, of: &str, value: &str| {
        client.alter(resource::BROKER, of, &[("max.connections", operation::SET, Some(value))])
    };
    assert_eq!(told(&mut client), ("50".to_owned(), AT_START));
    assert_eq!(set(&mut client, "", "40"), ErrorCode::None);
    assert_eq!(told(&mut client), ("40".to_owned(), ON_ALL));
    assert_eq!(set(&mut client, "1", "2"), ErrorCode::None);
    assert_eq!(told(&mut client), ("2".to_owned(), ON_NODE));
    assert_eq!(set(&mut client, "1", "none"), ErrorCode::InvalidConfig);
    let fixed = [("num.partitions", operation::SET, Some("3"))];
    assert_eq!(client.alter(resource::BROKER, "1", &fixed), ErrorCode::InvalidRequest);

    let mut second = Client::open(&broker);
    assert_eq!(told(&mut second), ("2".to_owned(), ON_NODE));
    let mut third = Client::open(&broker);
    assert_eq!(third.stream.read(&mut [0]).unwrap(), 0, "closed at once");

    broker.kill();
    broker.run();
    let mut client = Client::open(&broker);
    assert_eq!(told(&mut client), ("2".to_owned(), ON_NODE));
    let back = [("max.connections", operation::DELETE, None)];
    assert_eq!(client.alter(resource::BROKER, "1", &back), ErrorCode::None);
    assert_eq!(client.alter(resource::BROKER, "", &back), ErrorCode::None);
    assert_eq!(told(&mut client), ("50".to_owned(), AT_START));
}

/// A group has configs whether or not there is one of its name. They are kept over a kill, listed
/// while there are any, and held to the bounds that the node's settings give.
#[test]
fn configs_of_a_group_are_set_and_kept() {
    const ON_GROUP: i8 = 8;
    const AT_START: i8 = 4;
    let settings = [
        "--set",
        "group.consumer.heartbeat.interval.ms=7000",
        "--set",
        "group.consumer.min.session.timeout.ms=10000",
    ];
    let mut broker = Broker::start("group-configs", &settings);
    let mut client = Client::open(&broker);
    let told = |client: &mut Client, name: &str| {
        let told = client.configs(resource::GROUP, "g", name);
        let config = &told.results[0].configs[0];
        assert!(!config.read_only);
        (config.value.clone().unwrap(), config.config_source)
    };
    let listed = |client: &mut Client| {
        let request = ListConfigResourcesRequest { resource_types: vec![resource::GROUP] };
        let told = client.ask(1, &request).config_resources.into_iter();
        told.map(|resource| resource.resource_name).collect::<Vec<_>>()
    };
    let (session, interval) = ("consumer.session.timeout.ms", "consumer.heartbeat.interval.ms");
    assert_eq!(told(&mut client, session), ("45000".to_owned(), 5));
    assert_eq!(told(&mut client, interval), ("7000".to_owned(), AT_START));
    let set = |client: &mut Client, name: &str, value: &str| {
        client.alter(resource::GROUP, "g", &[(name, operation::SET, Some(value))])
    };
    assert_eq!(set(&mut client, session, "12000"), ErrorCode::None);
    assert_eq!(told(&mut client, session), ("12000".to_owned(), ON_GROUP));
    assert_eq!(listed(&mut client), ["g"]);
    for (name, value) in [
        (session, "9999"),
        (session, "60001"),
        (interval, "12000"),
        ("share.auto.offset.reset", "never"),
        ("retention.ms", "1"),
    ] {
        assert_eq!(set(&mut client, name, value), ErrorCode::InvalidConfig, "{name}={value}");
    }
    let nobody = client.alter(resource::GROUP, "", &[(session, operation::SET, Some("12000"))]);
    assert_eq!(nobody, ErrorCode::InvalidRequest);

    broker.kill();
    broker.run();
    let mut client = Client::open(&broker);
    assert_eq!(told(&mut client, session), ("12000".to_owned(), ON_GROUP));
    let back = [(session, operation::DELETE, None)];
    assert_eq!(client.alter(resource::GROUP, "g", &back), ErrorCode::None);
    assert_eq!(told(&mut client, session), ("45000".to_owned(), 5));
    assert_eq!(listed(&mut client), [] as [&str; 0]);
}
