//! What a start makes of what it finds: snapshots, damage, files missing or from elsewhere.
#![allow(clippy::unwrap_used)]

mod support;

use proptest::prelude::*;
use support::{Disk, START};
use tidemill_record::{NodeId, TopicId};
use tidemill_replication::identity::NodeEpoch;
use tidemill_replication::metadata::{Image, Record};
use tidemill_replication::quorum::io::{Action, Fault, FileName};
use tidemill_replication::quorum::{Index, ProposeError, RecoverError, Recovered, Recovery, Start};

const FIRST_LOG: &str = "metadata/00000000000000000001.log";

fn topic(number: u8) -> Record {
    Record::TopicCreated {
        id: TopicId([number; 16]),
        name: format!("topic-{number}"),
        partitions: vec![vec![NodeId(1)]],
        configs: Vec::new(),
    }
}

/// A disk on which a node made so many topics, one by one.
fn disk_with_topics(count: u8) -> (Disk, Image) {
    let mut disk = Disk::new();
    let mut node = disk.recover().unwrap().unwrap();
    commit_topics(&mut disk, &mut node, 1..=count);
    (disk, node.image)
}

fn commit_topics(disk: &mut Disk, node: &mut Recovered, numbers: std::ops::RangeInclusive<u8>) {
    for number in numbers {
        node.log.propose(vec![topic(number)]).unwrap();
        disk.run(&mut node.log).unwrap();
    }
    drain(node);
}

fn drain(node: &mut Recovered) {
    while let Some((_, record)) = node.log.poll_committed() {
        node.image.replay(&record).unwrap();
    }
}

/// A snapshot and the log behind it add up to what the whole log adds up to, and the files it
/// replaced are gone.
#[test]
fn a_snapshot_and_its_log_are_equal_to_the_whole_log() {
    let (mut whole, image) = disk_with_topics(20);
    let mut disk = Disk::new();
    for round in 0..4u8 {
        let mut node = disk.recover().unwrap().unwrap();
        commit_topics(&mut disk, &mut node, round * 5 + 1..=round * 5 + 5);
        node.log.snapshot(&node.image);
        disk.run(&mut node.log).unwrap();
        assert!(node.log.is_idle());
    }
    let snapshots =
        |disk: &Disk| disk.file_names().iter().filter(|name| name.contains("snapshot")).count();
    assert_eq!(snapshots(&disk), 1, "{:?}", disk.file_names());
    let logs = disk.file_names().iter().filter(|name| name.ends_with(".log")).count();
    assert_eq!(logs, 1, "{:?}", disk.file_names());
    assert_eq!(disk.recover().unwrap().unwrap().image, image);
    assert_eq!(whole.recover().unwrap().unwrap().image, image);
}

/// Entries are committed in the order they were proposed, under the indexes that were given.
#[test]
fn committed_records_come_back_in_order_under_their_index() {
    let mut disk = Disk::new();
    let mut node = disk.recover().unwrap().unwrap();
    let first = node.log.propose(vec![topic(1), topic(2)]).unwrap();
    let second = node.log.propose(vec![topic(3)]).unwrap();
    assert_eq!(node.log.poll_committed(), None, "nothing is committed before it is on disk");
    disk.run(&mut node.log).unwrap();
    assert_eq!(node.log.poll_committed(), Some((first, topic(1))));
    assert_eq!(node.log.poll_committed(), Some((first, topic(2))));
    assert_eq!(node.log.poll_committed(), Some((second, topic(3))));
    assert_eq!(second, first.next());
}

/// Damage below what was committed ends the start with its place; the disk is left as it was.
#[test]
fn damage_is_told_and_never_taken_for_a_torn_tail() {
    let (disk, _) = disk_with_topics(3);
    // Entry 1 is the cluster's, in the block behind the header; then one block for each topic.
    for (block, index) in [(1, 1), (2, 2), (3, 3), (4, 4)] {
        let mut damaged = disk.clone();
        damaged.bytes_of(FIRST_LOG)[block * 4096 + 60] ^= 1;
        let before = damaged.bytes_of(FIRST_LOG).clone();
        let error = damaged.recover().unwrap().unwrap_err();
        let file = FileName::Log { first: Index(1) };
        let position = block as u64 * 4096;
        assert_eq!(error, RecoverError::Damaged { file, position, index: Index(index) });
        assert_eq!(*damaged.bytes_of(FIRST_LOG), before);
    }
    let mut damaged = disk.clone();
    damaged.bytes_of(FIRST_LOG)[20] ^= 1;
    assert!(matches!(damaged.recover().unwrap(), Err(RecoverError::Damaged { position: 0, .. })));
}

/// A log whose end is missing, or all of it, is damaged too: the hard state remembers.
#[test]
fn a_log_cut_short_is_damage() {
    let (mut disk, _) = disk_with_topics(3);
    disk.bytes_of(FIRST_LOG).truncate(3 * 4096);
    assert!(matches!(disk.recover().unwrap(), Err(RecoverError::Damaged { .. })));

    let (mut disk, _) = disk_with_topics(3);
    disk.lose(FIRST_LOG);
    assert!(matches!(disk.recover().unwrap(), Err(RecoverError::Damaged { .. })));
}

/// One slot of the hard state may be torn; the other is still true. Both cannot be.
#[test]
fn one_bad_slot_of_the_hard_state_is_survived_and_two_are_damage() {
    let (disk, image) = disk_with_topics(3);
    for slot in [0, 4096] {
        let mut torn = disk.clone();
        torn.bytes_of("metadata/state")[slot + 15] ^= 1;
        assert_eq!(torn.recover().unwrap().unwrap().image, image);
    }
    let mut damaged = disk.clone();
    damaged.bytes_of("metadata/state").fill(0xff);
    assert!(matches!(damaged.recover().unwrap(), Err(RecoverError::Damaged { .. })));
}

/// The files of a newer version are refused with both versions, not taken for damage.
#[test]
fn a_newer_format_is_named() {
    let (mut disk, _) = disk_with_topics(1);
    let node = disk.bytes_of("node");
    node[9] = 2;
    let size = u16::from_be_bytes([node[10], node[11]]) as usize;
    let crc = crc32c::crc32c(&node[..size]).to_be_bytes();
    node[size..size + 4].copy_from_slice(&crc);
    let error = disk.recover().unwrap().unwrap_err();
    assert_eq!(error, RecoverError::NewerFormat { file: FileName::Node, found: 2, supported: 1 });
}

/// Data without the file that says whose it is is not taken over.
#[test]
fn data_without_its_node_file_is_refused() {
    let (mut disk, _) = disk_with_topics(1);
    disk.lose("node");
    assert_eq!(disk.recover().unwrap().unwrap_err(), RecoverError::NodeFileMissing);

    let mut disk = Disk::new();
    disk.put("partitions", Vec::new());
    assert_eq!(disk.recover().unwrap().unwrap_err(), RecoverError::NodeFileMissing);
}

/// Another node's directory is refused.
#[test]
fn another_nodes_directory_is_refused() {
    let (mut disk, _) = disk_with_topics(1);
    let mut recovery = Recovery::new(Start { node: NodeId(2), ..START });
    disk.run(&mut recovery).unwrap();
    let error = recovery.poll_done().unwrap().unwrap_err();
    assert_eq!(error, RecoverError::OtherNode { configured: NodeId(2), found: NodeId(1) });
}

/// A disk that fails a write ends proposals, and what was under way is never called committed.
#[test]
fn a_failed_write_fences_the_log() {
    let mut disk = Disk::new();
    let mut node = disk.recover().unwrap().unwrap();
    disk.run(&mut node.log).unwrap();
    node.log.propose(vec![topic(1)]).unwrap();
    let is_log_write: fn(&Action) -> bool =
        |action| matches!(action, Action::Write { file: FileName::Log { .. }, .. });
    disk.fail_next = Some((is_log_write, Fault::Device));
    disk.run(&mut node.log).unwrap();
    assert_eq!(node.log.poll_committed(), None);
    assert_eq!(node.log.fault().unwrap().fault, Fault::Device);
    assert!(matches!(node.log.propose(vec![topic(2)]), Err(ProposeError::Fenced(_))));
    assert!(node.log.poll_request().is_none(), "a failed disk is not asked again");
}

/// On a full disk the file kept in reserve takes over once; then proposals are refused, and go on
/// when space returns.
#[test]
fn a_full_disk_is_waited_for() {
    let large = |number: u8| {
        let Record::TopicCreated { id, name, configs, .. } = topic(number) else { unreachable!() };
        let partitions = vec![vec![NodeId(1)]; 90_000];
        vec![Record::TopicCreated { id, name, partitions, configs }]
    };
    let is_prewrite: fn(&Action) -> bool = |action| matches!(action, Action::Prewrite { .. });

    let mut disk = Disk::new();
    let mut node = disk.recover().unwrap().unwrap();
    disk.run(&mut node.log).unwrap();
    for number in 1..=2 {
        node.log.propose(large(number)).unwrap();
        disk.run(&mut node.log).unwrap();
    }
    disk.fail_next = Some((is_prewrite, Fault::NoSpace));
    node.log.propose(large(3)).unwrap();
    disk.run(&mut node.log).unwrap();
    drain(&mut node);
    assert!(node.image.topic_named("topic-3").is_some(), "the reserve was there");
    assert!(node.log.is_out_of_space());

    node.log.propose(large(4)).unwrap();
    disk.run(&mut node.log).unwrap();
    disk.fail_next = Some((is_prewrite, Fault::NoSpace));
    node.log.propose(large(5)).unwrap();
    disk.run(&mut node.log).unwrap();
    drain(&mut node);
    assert!(node.image.topic_named("topic-5").is_none());
    assert_eq!(node.log.propose(large(6)), Err(ProposeError::NoSpace));

    node.log.retry();
    disk.run(&mut node.log).unwrap();
    drain(&mut node);
    assert!(node.image.topic_named("topic-5").is_some(), "it was only waiting");
    assert_eq!(disk.recover().unwrap().unwrap().image, node.image);
}

/// Many starts leave no more files than a snapshot is due after.
#[test]
fn starts_do_not_pile_up_files() {
    let mut disk = Disk::new();
    for _ in 0..60 {
        let mut node = disk.recover().unwrap().unwrap();
        let node_epoch = NodeEpoch(node.image.node_epoch(NodeId(1)).0 + 1);
        let directory = node.identity.directory;
        let started = Record::NodeStarted { node: NodeId(1), node_epoch, directory, shards: 1 };
        node.log.propose(vec![started]).unwrap();
        disk.run(&mut node.log).unwrap();
        drain(&mut node);
        if node.log.snapshot_is_due() {
            node.log.snapshot(&node.image);
            disk.run(&mut node.log).unwrap();
        }
    }
    assert!(disk.file_names().len() < 25, "{:?}", disk.file_names());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever bytes lie in the files, a start ends: in an error or in an image.
    #[test]
    fn any_bytes_end_in_an_error_or_an_image(
        file in 0usize..5,
        bytes in proptest::collection::vec(any::<u8>(), 0..9000),
    ) {
        let (mut disk, _) = disk_with_topics(2);
        let snapshot = "metadata/snapshot-00000000000000000002";
        disk.put([FIRST_LOG, "metadata/state", "metadata/voters", "node", snapshot][file], bytes);
        let _ = disk.recover().unwrap();
    }

    /// One flipped bit anywhere in the log is found, or it lay where nothing was written.
    #[test]
    fn a_flipped_bit_is_found_or_irrelevant(position in 0usize..6 * 4096, bit in 0u8..8) {
        let (mut disk, image) = disk_with_topics(3);
        disk.bytes_of(FIRST_LOG)[position] ^= 1 << bit;
        if let Ok(recovered) = disk.recover().unwrap() {
            prop_assert_eq!(recovered.image, image);
        }
    }
}
