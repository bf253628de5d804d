//! What the controller grants and refuses, each decision replayed as it would be.
#![allow(clippy::unwrap_used)]

use tidemill_record::{LeaderEpoch, NodeId, PartitionId, TopicId};
use tidemill_replication::controller::{
    ConfigChange, ConfigOperation, CreateTopic, Defaults, Error, OFFSETS_TOPIC, TRANSACTIONS_TOPIC,
    decide_alter_configs, decide_create_partitions, decide_create_topics, decide_delete_topic,
    decide_delete_topic_id, decide_deletion_finished, decide_internal_topic, decide_node_start,
    decide_producer_ids, decide_replace_configs, resolve_topic_config,
};
use tidemill_replication::identity::DirectoryId;
use tidemill_replication::metadata::{Configs, Image, Record, Resource};

const NODE: NodeId = NodeId(1);
const DEFAULTS: Defaults =
    Defaults { partitions: 3, replication_factor: 1, partitions_max: 100_000 };

fn image() -> Image {
    let mut image = Image::default();
    image.replay(&decide_node_start(&image, NODE, DirectoryId([7; 16]), 2)).unwrap();
    image
}

fn topic(name: &str) -> CreateTopic {
    CreateTopic {
        name: name.to_owned(),
        partitions: -1,
        replication_factor: -1,
        ..CreateTopic::default()
    }
}

fn create(image: &mut Image, request: CreateTopic) -> Result<TopicId, Error> {
    let seed = u128::from(image.records_replayed());
    let record = decide_create_topics(image, &[request], &DEFAULTS, seed).remove(0)?;
    image.replay(&record).unwrap();
    let Record::TopicCreated { id, .. } = record else { panic!("{record:?}") };
    Ok(id)
}

/// Where the request does not say, the broker's defaults count.
#[test]
fn a_topic_gets_the_defaults() {
    let mut image = image();
    let id = create(&mut image, topic("a")).unwrap();
    assert_eq!(image.topic(id).unwrap().partitions.len(), 3);
    assert_eq!(&*image.topic(id).unwrap().partitions[0].replicas, [NODE]);
    assert_eq!(image.leader_epoch(id, PartitionId(0)), Some(LeaderEpoch(0)));
    assert_eq!(image.leader_epoch(id, PartitionId(3)), None);
    assert_eq!(image.partitions_count(), 3);
}

/// Names are Kafka's: 249 of `[a-zA-Z0-9._-]`, and not a directory's.
#[test]
fn names_that_no_topic_can_have_are_refused() {
    let mut image = image();
    for name in ["", ".", "..", "a/b", "ü", "a b", &"x".repeat(250)] {
        let refused = create(&mut image, topic(name)).unwrap_err();
        assert!(matches!(refused, Error::InvalidTopicName(_)), "{name:?}: {refused}");
    }
    create(&mut image, topic(&"x".repeat(249))).unwrap();
    create(&mut image, topic("__A.b-9")).unwrap();
}

/// `a.b` and `a_b` are one name to metrics, so only one of them can exist.
#[test]
fn names_that_metrics_cannot_tell_are_refused() {
    let mut image = image();
    create(&mut image, topic("a.b")).unwrap();
    assert!(matches!(create(&mut image, topic("a_b")), Err(Error::InvalidTopicName(_))));
    assert!(matches!(create(&mut image, topic("a.b")), Err(Error::TopicExists(_))));
    image.replay(&decide_delete_topic(&image, "a.b").unwrap()).unwrap();
    create(&mut image, topic("a_b")).unwrap();
}

/// A name twice in one request is the request's fault, for each of them.
#[test]
fn a_name_twice_in_one_request_is_refused_both_times() {
    let image = image();
    let requests = [topic("a"), topic("b"), topic("a")];
    let decided = decide_create_topics(&image, &requests, &DEFAULTS, 1);
    assert!(matches!(decided[0], Err(Error::InvalidRequest(_))));
    assert!(decided[1].is_ok());
    assert!(matches!(decided[2], Err(Error::InvalidRequest(_))));
}

/// Numbers out of bounds are refused with the error that names which.
#[test]
fn numbers_out_of_bounds_are_refused() {
    let mut image = image();
    let with = |partitions, replication_factor| CreateTopic {
        partitions,
        replication_factor,
        ..topic("a")
    };
    for partitions in [0, -2, 100_001, i32::MAX] {
        let refused = create(&mut image, with(partitions, 1));
        assert!(matches!(refused, Err(Error::InvalidPartitions(_))), "{partitions}");
    }
    for factor in [0, -2, 2, i16::MAX] {
        let refused = create(&mut image, with(1, factor));
        assert!(matches!(refused, Err(Error::InvalidReplicationFactor(_))), "{factor}");
    }
    let all = create(&mut image, with(100_000, 1)).unwrap();
    assert!(matches!(create(&mut image, topic("b")), Err(Error::InvalidPartitions(_))));
    image.replay(&decide_delete_topic_id(&image, all).unwrap()).unwrap();
    create(&mut image, topic("b")).unwrap();
}

/// Replicas may be named by hand: every partition once, on nodes there are.
#[test]
fn assignments_by_hand_are_checked() {
    let mut image = image();
    let with = |assignments| CreateTopic { assignments, ..topic("a") };
    let on = |partition, nodes: &[i32]| (partition, nodes.iter().map(|&n| NodeId(n)).collect());
    let bad: [Vec<(i32, Vec<NodeId>)>; 5] = [
        vec![on(1, &[1])],
        vec![on(0, &[1]), on(0, &[1])],
        vec![on(0, &[2])],
        vec![on(0, &[])],
        vec![on(0, &[1, 1])],
    ];
    for assignments in bad {
        let refused = create(&mut image, with(assignments.clone()));
        assert!(matches!(refused, Err(Error::InvalidReplicaAssignment(_))), "{assignments:?}");
    }
    let mut both = with(vec![on(0, &[1])]);
    both.partitions = 1;
    assert!(matches!(create(&mut image, both), Err(Error::InvalidRequest(_))));
    let id = create(&mut image, with(vec![on(1, &[1]), on(0, &[1])])).unwrap();
    assert_eq!(image.topic(id).unwrap().partitions.len(), 2);
}

/// A topic is not made with a config it cannot have.
#[test]
fn configs_of_a_new_topic_are_checked() {
    let mut image = image();
    let with = |name: &str, value: Option<&str>| CreateTopic {
        configs: vec![(name.to_owned(), value.map(str::to_owned))],
        ..topic("a")
    };
    for (name, value) in [
        ("no.such.config", Some("1")),
        ("retention.ms", None),
        ("retention.ms", Some("-2")),
        ("retention.ms", Some("soon")),
        ("cleanup.policy", Some("compact,drop")),
        ("cleanup.policy", Some("compact,")),
        ("tidemill.durability", Some("maybe")),
        ("min.cleanable.dirty.ratio", Some("NaN")),
        ("segment.bytes", Some("100")),
        // This would be accepted and not carried out.
        ("max.message.bytes", Some("67108865")),
    ] {
        let refused = create(&mut image, with(name, value));
        assert!(matches!(refused, Err(Error::InvalidConfig(_))), "{name}={value:?}");
    }
    let id = create(&mut image, with("retention.ms", Some("1000"))).unwrap();
    let none = Configs::new();
    let config = resolve_topic_config(&image, image.topic(id).unwrap(), NODE, &none);
    assert_eq!(config.retention_ms, Some(1000));
}

/// A topic made anew under an old name has another id, and the old one stays a tombstone until
/// its files are gone.
#[test]
fn a_deleted_topic_leaves_a_tombstone() {
    let mut image = image();
    let old = create(&mut image, topic("a")).unwrap();
    image.replay(&decide_delete_topic(&image, "a").unwrap()).unwrap();
    assert_eq!(decide_delete_topic(&image, "a"), Err(Error::UnknownTopic));
    assert_eq!(decide_delete_topic_id(&image, old), Err(Error::UnknownTopicId));
    assert!(image.is_tombstone(old));

    let new = create(&mut image, topic("a")).unwrap();
    assert_ne!(old, new);
    image.replay(&decide_deletion_finished(&image, old).unwrap()).unwrap();
    assert!(!image.is_tombstone(old));
    assert_eq!(decide_deletion_finished(&image, old), None);
    assert!(image.topic(new).is_some());
}

/// The number of partitions only grows.
#[test]
fn partitions_are_only_added() {
    let mut image = image();
    create(&mut image, topic("a")).unwrap();
    for count in [-1, 0, 3, 100_001] {
        let refused = decide_create_partitions(&image, "a", count, None, &DEFAULTS);
        assert!(matches!(refused, Err(Error::InvalidPartitions(_))), "{count}");
    }
    let other = decide_create_partitions(&image, "b", 4, None, &DEFAULTS);
    assert_eq!(other, Err(Error::UnknownTopic));
    let by_hand = decide_create_partitions(&image, "a", 5, Some(&[vec![NODE]]), &DEFAULTS);
    assert!(matches!(by_hand, Err(Error::InvalidReplicaAssignment(_))));
    let record = decide_create_partitions(&image, "a", 5, None, &DEFAULTS).unwrap();
    image.replay(&record).unwrap();
    assert_eq!(image.topic_named("a").unwrap().partitions.len(), 5);
}

/// Every start of a node raises the epochs of all it leads by one, and a new partition begins
/// at zero whenever it is made: epochs never go back, also for clients that remember them.
#[test]
fn leader_epochs_rise_with_every_start() {
    let mut image = image();
    let start = |image: &mut Image| {
        image.replay(&decide_node_start(image, NODE, DirectoryId([7; 16]), 2)).unwrap();
    };
    let first = create(&mut image, topic("a")).unwrap();
    start(&mut image);
    let second = create(&mut image, topic("b")).unwrap();
    start(&mut image);
    assert_eq!(image.leader_epoch(first, PartitionId(2)), Some(LeaderEpoch(2)));
    assert_eq!(image.leader_epoch(second, PartitionId(0)), Some(LeaderEpoch(1)));

    let again = Record::NodeStarted {
        node: NODE,
        node_epoch: image.node_epoch(NODE),
        directory: DirectoryId([7; 16]),
        shards: 2,
    };
    assert!(image.replay(&again).is_err(), "no start has the epoch of another");
}

/// No producer id is granted twice.
#[test]
fn producer_ids_are_granted_in_blocks() {
    let mut image = image();
    let first = decide_producer_ids(&image);
    assert_eq!(first, Record::ProducerIdsGranted { first: 0, count: 1000 });
    image.replay(&first).unwrap();
    assert!(image.replay(&first).is_err());
    assert_eq!(
        decide_producer_ids(&image),
        Record::ProducerIdsGranted { first: 1000, count: 1000 }
    );
}

fn change(name: &str, operation: ConfigOperation, value: Option<&str>) -> ConfigChange {
    ConfigChange { name: name.to_owned(), operation, value: value.map(str::to_owned) }
}

fn alter(image: &mut Image, resource: &Resource, changes: &[ConfigChange]) -> Result<usize, Error> {
    let records = decide_alter_configs(image, resource, changes, &Configs::new())?;
    records.iter().for_each(|record| image.replay(record).unwrap());
    Ok(records.len())
}

/// Configs are set, removed, and lists changed item by item; what changes nothing writes nothing.
#[test]
fn configs_change_step_by_step() {
    use ConfigOperation::{Append, Delete, Set, Subtract};
    let mut image = image();
    let id = create(&mut image, topic("a")).unwrap();
    let resource = Resource::Topic(id);
    let policy = |image: &Image| image.topic(id).unwrap().configs.get("cleanup.policy").cloned();

    alter(&mut image, &resource, &[change("cleanup.policy", Set, Some("compact"))]).unwrap();
    let append = [change("cleanup.policy", Append, Some("delete"))];
    assert_eq!(alter(&mut image, &resource, &append), Ok(1));
    assert_eq!(policy(&image).as_deref(), Some("compact,delete"));
    alter(&mut image, &resource, &[change("cleanup.policy", Set, Some("delete"))]).unwrap();
    assert_eq!(alter(&mut image, &resource, &append), Ok(0), "it is there already");
    assert_eq!(policy(&image).as_deref(), Some("delete"));
    let all = change("cleanup.policy", Subtract, Some("delete"));
    assert_eq!(alter(&mut image, &resource, &[all]), Ok(1));
    assert_eq!(policy(&image).as_deref(), Some(""), "of which nothing comes but that records stay");
    alter(&mut image, &resource, &[change("cleanup.policy", Delete, None)]).unwrap();
    assert_eq!(policy(&image), None);

    let both =
        [change("retention.ms", Set, Some("5")), change("retention.bytes", Set, Some("lots"))];
    assert!(matches!(alter(&mut image, &resource, &both), Err(Error::InvalidConfig(_))));
    assert!(image.topic(id).unwrap().configs.is_empty(), "all or none");
}

/// What cannot be is refused with Kafka's error for it.
#[test]
fn wrong_changes_of_configs_are_refused() {
    use ConfigOperation::{Append, Set};
    let mut image = image();
    let id = create(&mut image, topic("a")).unwrap();
    let topic = Resource::Topic(id);
    let node = Resource::Node(NODE);
    let unknown = Resource::Topic(TopicId([9; 16]));

    let mut refused = |resource: &Resource, changes: &[ConfigChange]| {
        alter(&mut image, resource, changes).unwrap_err()
    };
    let set = |name, value| change(name, Set, value);
    assert!(matches!(refused(&topic, &[set("nothing", Some("1"))]), Error::InvalidConfig(_)));
    assert!(matches!(refused(&topic, &[set("retention.ms", None)]), Error::InvalidRequest(_)));
    let twice = [set("retention.ms", Some("1")), set("retention.ms", Some("2"))];
    assert!(matches!(refused(&topic, &twice), Error::InvalidRequest(_)));
    let append = change("retention.ms", Append, Some("1"));
    assert!(matches!(refused(&topic, &[append]), Error::InvalidConfig(_)));
    assert_eq!(refused(&unknown, &[set("retention.ms", Some("1"))]), Error::UnknownTopic);
    assert!(matches!(refused(&node, &[set("log.dirs", Some("/"))]), Error::InvalidRequest(_)));
    let lags = [set("min.compaction.lag.ms", Some("10")), set("max.compaction.lag.ms", Some("5"))];
    assert!(matches!(refused(&topic, &lags), Error::InvalidConfig(_)));
}

/// Groups have configs of their own, bounded in number, in size and by each other.
#[test]
fn configs_of_groups_are_kept_per_group() {
    use ConfigOperation::{Append, Delete, Set};
    let mut image = image();
    let group = Resource::Group("g".into());
    let (session, interval) = ("consumer.session.timeout.ms", "consumer.heartbeat.interval.ms");
    let both = [change(session, Set, Some("46000")), change(interval, Set, Some("6000"))];
    assert_eq!(alter(&mut image, &group, &both), Ok(2));
    assert_eq!(image.group_configs("g").len(), 2);
    assert!(image.group_configs("other").is_empty());
    assert_eq!(image.groups_with_configs().len(), 1);

    let long = format!("{}46000", " ".repeat(200));
    let refused = [
        change(session, Set, Some("1")),
        change(session, Set, Some(&long)),
        change(session, Append, Some("1")),
        change("retention.ms", Set, Some("1")),
        change("share.isolation.level", Set, Some("serializable")),
    ];
    for change in refused {
        let error = alter(&mut image, &group, &[change]).unwrap_err();
        assert!(matches!(error, Error::InvalidConfig(_)), "{error}");
    }
    alter(&mut image, &group, &[change(session, Delete, None), change(interval, Delete, None)])
        .unwrap();
    assert_eq!(image.groups_with_configs().len(), 0, "nothing is left of it");
}

/// A node's override is in force for all topics without their own; the cluster's is behind it.
#[test]
fn overrides_of_nodes_reach_topics() {
    use ConfigOperation::Set;
    let mut image = image();
    let id = create(&mut image, topic("a")).unwrap();
    let retention = |image: &Image| {
        let topic = image.topic(id).unwrap();
        resolve_topic_config(image, topic, NODE, &Configs::new()).retention_ms
    };
    alter(&mut image, &Resource::Cluster, &[change("log.retention.ms", Set, Some("3"))]).unwrap();
    assert_eq!(retention(&image), Some(3));
    alter(&mut image, &Resource::Node(NODE), &[change("log.retention.hours", Set, Some("1"))])
        .unwrap();
    assert_eq!(retention(&image), Some(3_600_000));
    alter(&mut image, &Resource::Topic(id), &[change("retention.ms", Set, Some("-1"))]).unwrap();
    assert_eq!(retention(&image), None, "no limit");
}

/// All configs given anew leave nothing of what was before; what is refused changes nothing.
#[test]
fn configs_given_anew_replace_all_there_were() {
    let mut image = image();
    let id = create(&mut image, topic("a")).unwrap();
    let resource = Resource::Topic(id);
    let none = Configs::new();
    let mut replace = |configs: &[(&str, Option<&str>)]| {
        let given =
            |(name, value): &(&str, Option<&str>)| ((*name).to_owned(), value.map(str::to_owned));
        let configs: Vec<_> = configs.iter().map(given).collect();
        let records = decide_replace_configs(&image, &resource, &configs, &none)?;
        records.iter().for_each(|record| image.replay(record).unwrap());
        Ok::<Configs, Error>(image.topic(id).unwrap().configs.clone())
    };
    let first = [("segment.ms", Some("1")), ("retention.ms", Some("1"))];
    assert_eq!(replace(&first).unwrap().len(), 2);
    let second = replace(&[("retention.ms", Some("2"))]).unwrap();
    assert_eq!(second.into_iter().collect::<Vec<_>>(), [("retention.ms".into(), "2".into())]);

    let refused = [("segment.ms", Some("1")), ("retention.ms", None)];
    assert!(matches!(replace(&refused), Err(Error::InvalidRequest(_))));
    assert_eq!(replace(&[]).unwrap().len(), 0);
}

/// Anybody could set the configs of `__consumer_offsets` anew: what was left out went back to its
/// default, and retention deleted the offsets that groups had committed.
#[test]
fn configs_of_the_brokers_own_topics_are_not_changed() {
    use ConfigOperation::{Delete, Set};
    let none = Configs::new();
    for name in [OFFSETS_TOPIC, TRANSACTIONS_TOPIC] {
        let mut image = image();
        let configs = vec![("cleanup.policy".to_owned(), "compact".to_owned())];
        let made = decide_internal_topic(&image, &topic(name), configs, &DEFAULTS, 1).unwrap();
        image.replay(&made).unwrap();
        let resource = Resource::Topic(image.topic_named(name).unwrap().id);

        let changes = [
            vec![],
            vec![change("cleanup.policy", Set, Some("delete"))],
            vec![change("cleanup.policy", Delete, None)],
            vec![change("retention.ms", Set, Some("1"))],
        ];
        for changes in changes {
            let refused = alter(&mut image, &resource, &changes).unwrap_err();
            assert!(refused.to_string().contains(name), "{refused}");
        }
        for configs in [vec![], vec![("retention.ms".to_owned(), Some("1".to_owned()))]] {
            let refused = decide_replace_configs(&image, &resource, &configs, &none).unwrap_err();
            assert!(matches!(refused, Error::InvalidRequest(_)), "{refused}");
        }
    }
}
