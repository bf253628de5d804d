//! The power goes at every request the metadata log makes, and the node starts again.
//!
//! After every cut: the node starts; what was reported committed is there; what is there was
//! proposed, in order, whole entries only; and the log goes on from it.
#![allow(clippy::unwrap_used)]

mod support;

use support::{Disk, PowerCut};
use tidemill_record::{NodeId, TopicId};
use tidemill_replication::identity::NodeEpoch;
use tidemill_replication::metadata::{Image, Record, Resource};
use tidemill_replication::quorum::Recovered;

/// A topic of so many partitions, and a number of bytes in its configs.
fn topic(number: u8, partitions: usize) -> Record {
    topic_of_size(number, partitions, 1)
}

fn topic_of_size(number: u8, partitions: usize, kilobytes: usize) -> Record {
    let value = number.to_string().repeat(1024);
    Record::TopicCreated {
        id: TopicId([number; 16]),
        name: format!("topic-{number}"),
        partitions: vec![vec![NodeId(1)]; partitions],
        configs: (0..kilobytes).map(|i| (format!("config-{i}"), value.clone())).collect(),
    }
}

fn started(recovered: &Recovered) -> Record {
    Record::NodeStarted {
        node: NodeId(1),
        node_epoch: NodeEpoch(recovered.image.node_epoch(NodeId(1)).0 + 1),
        directory: recovered.identity.directory,
        shards: 2,
    }
}

/// What happened so far, as the world outside the disk knows it.
#[derive(Default)]
struct Witness {
    /// The image after each entry proposed, the recovered one first.
    states: Vec<Image>,
    /// How many of the entries were reported committed.
    reported: usize,
}

impl Witness {
    /// The node starts; what it recovered is something that may have been.
    fn start(&mut self, disk: &mut Disk) -> Result<Recovered, PowerCut> {
        let recovered = disk.recover()?.expect("a crash is not damage");
        if !self.states.is_empty() {
            let found = self.states.iter().rposition(|state| *state == recovered.image);
            let found = found.expect("only whole entries, in the order they were proposed");
            assert!(self.reported <= found, "an entry reported committed is lost");
        }
        self.states = vec![recovered.image.clone()];
        self.reported = 0;
        Ok(recovered)
    }

    fn commit(
        &mut self,
        disk: &mut Disk,
        recovered: &mut Recovered,
        entries: Vec<Vec<Record>>,
    ) -> Result<(), PowerCut> {
        for entry in entries {
            let mut state = self.states.last().expect("started").clone();
            entry.iter().for_each(|record| state.replay(record).unwrap());
            self.states.push(state);
            recovered.log.propose(entry).unwrap();
        }
        let result = disk.run(&mut recovered.log);
        while let Some((_, record)) = recovered.log.poll_committed() {
            recovered.image.replay(&record).unwrap();
        }
        let reported = self.states.iter().position(|state| *state == recovered.image);
        self.reported = reported.expect("reported whole and in order");
        result
    }
}

/// Three starts with topics made and deleted, a change of log file and two snapshots.
fn story(disk: &mut Disk, witness: &mut Witness) -> Result<(), PowerCut> {
    for round in 0..3u8 {
        let mut node = witness.start(disk)?;
        let start = started(&node);
        witness.commit(disk, &mut node, vec![vec![start]])?;
        let first = 1 + 10 * round;
        let config = Record::ConfigChanged {
            resource: Resource::Cluster,
            name: "log.retention.ms".to_owned(),
            value: Some(round.to_string()),
        };
        witness.commit(
            disk,
            &mut node,
            vec![vec![topic(first, 3)], vec![config, topic(first + 1, 1)]],
        )?;
        if round == 1 {
            // Large enough to need another file.
            let large = (2..7).map(|i| vec![topic_of_size(first + i, 1, 150)]).collect();
            witness.commit(disk, &mut node, large)?;
        }
        if 0 < round {
            node.log.snapshot(&node.image);
            disk.run(&mut node.log)?;
        }
        let id = TopicId([first; 16]);
        let last = vec![vec![Record::TopicDeleted { id }, Record::TopicDeletionFinished { id }]];
        witness.commit(disk, &mut node, last)?;
        assert!(node.log.is_idle());
    }
    Ok(())
}

fn requests_of_the_story() -> usize {
    let mut disk = Disk::new();
    story(&mut disk, &mut Witness::default()).unwrap();
    disk.requests_done
}

/// Cut the power at every request, tear what was under way in several ways: nothing reported is
/// ever lost, and the node always starts.
#[test]
fn a_power_cut_at_any_request_loses_nothing_that_was_reported() {
    let requests = requests_of_the_story();
    assert!(80 < requests, "the story has something to cut: {requests}");
    for cut in 0..requests {
        for seed in 0..2 {
            let mut disk = Disk::new();
            let mut witness = Witness::default();
            disk.requests_left = cut;
            story(&mut disk, &mut witness).expect_err("the power went");
            disk.crash(seed * 1000 + cut as u64);

            let mut node = witness.start(&mut disk).unwrap();
            let start = started(&node);
            witness.commit(&mut disk, &mut node, vec![vec![start], vec![topic(200, 1)]]).unwrap();
            disk.crash(seed);
            let node = witness.start(&mut disk).unwrap();
            assert!(node.image.topic_named("topic-200").is_some(), "cut {cut}, seed {seed}");
        }
    }
}

/// Cut the power during the recovery after a cut, again and again: recovery itself may be torn.
#[test]
fn a_recovery_cut_off_at_any_request_is_made_again() {
    let mut disk = Disk::new();
    let mut witness = Witness::default();
    disk.requests_left = requests_of_the_story() * 2 / 3;
    story(&mut disk, &mut witness).expect_err("the power went");
    disk.crash(7);
    for cut in 0..60 {
        let mut torn = disk.clone();
        let image = disk.clone().recover().unwrap().unwrap().image;
        torn.requests_left = cut;
        let _ = torn.recover();
        torn.crash(cut as u64);
        assert_eq!(torn.recover().unwrap().unwrap().image, image, "cut {cut}");
    }
}

/// A first start cut off before `node` exists is a first start again; after it, it is not.
#[test]
fn a_first_start_cut_off_anywhere_ends_in_the_same_cluster() {
    for cut in 0..30 {
        let mut disk = Disk::new();
        disk.requests_left = cut;
        let _ = disk.recover();
        disk.crash(cut as u64);
        let recovered = disk.recover().unwrap().unwrap();
        assert_eq!(recovered.image.cluster(), recovered.identity.cluster);
        assert_eq!(recovered.image.records_replayed(), 1);
    }
}

/// The bug: a first start that was killed behind the rename of `node` left its name to the cache, and no
/// later start synced it. When the power went then, the data was there, and nobody knew whose.
#[test]
fn the_name_of_the_node_file_is_durable_though_the_first_start_was_killed() {
    for (cut, seed) in (0..30).flat_map(|cut| (0..4).map(move |seed| (cut, seed))) {
        let (mut disk, mut witness) = (Disk::new(), Witness::default());
        disk.requests_left = cut;
        let _ = disk.recover();
        disk.requests_left = usize::MAX;
        let mut node = witness.start(&mut disk).unwrap();
        let start = started(&node);
        witness.commit(&mut disk, &mut node, vec![vec![start], vec![topic(200, 1)]]).unwrap();
        disk.crash(seed);
        let node = witness.start(&mut disk).unwrap();
        assert!(node.image.topic_named("topic-200").is_some(), "killed at {cut}, seed {seed}");
    }
}
