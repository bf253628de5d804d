//! The consumer against a cluster played by bytes: positions, order, leaders, policies.

use std::time::Duration;

use tidemill_net::kafka::ErrorCode;

use super::*;
use crate::backoff::Backoff;
use crate::fake::{Fake, bootstrap};
use tidemill_record::{BatchBuilder, Codec, Timestamp};

const MS: Duration = Duration::from_millis(1);

fn core(reset: Option<Start>) -> ConsumerCore {
    let mut config = ConsumerConfig { reset, ..ConsumerConfig::default() };
    config.cluster.bootstrap = bootstrap();
    config.retry = Backoff { first: MS, longest: 10 * MS };
    config.cluster.reconnect = config.retry;
    config.cluster.refresh = config.retry;
    ConsumerCore::new(config).unwrap()
}

fn fill(fake: &mut Fake, partition: usize, batches: usize, records: usize) {
    for _ in 0..batches {
        let mut builder = BatchBuilder::new(Codec::None);
        for _ in 0..records {
            builder.append(Timestamp(1), None, Some(b"value"));
        }
        fake.partition("t", partition).append(&builder.build()).unwrap();
    }
}

/// Polls for `steps` milliseconds: offsets by partition.
fn read(
    core: &mut ConsumerCore,
    fake: &mut Fake,
    now: &mut Instant,
    steps: usize,
) -> Vec<Vec<i64>> {
    let mut offsets = vec![Vec::new(); 3];
    for _ in 0..steps {
        core.tick(*now);
        fake.drive(core.cluster(), *now);
        core.cluster().tick(*now);
        core.tick(*now);
        while let Some(batch) = core.poll_batch() {
            let mut records = Vec::new();
            batch.append_to(&mut records).unwrap();
            for record in records {
                offsets[record.partition as usize].push(record.offset);
            }
        }
        *now = now.plus(MS);
    }
    offsets
}

fn assign(core: &mut ConsumerCore, start: Start, now: Instant) {
    core.assign((0..3).map(|partition| (Arc::from("t"), partition, start)), now);
}

/// All records of all partitions, each once and in order, though leaders move.
#[test]
fn everything_is_read_once_and_in_order_though_leaders_move() {
    for seed in 0..50 {
        let mut random = Random::new(seed);
        let mut fake = Fake::new(3).with_topic("t", 3);
        for partition in 0..3 {
            fill(&mut fake, partition, 40, 5);
        }
        let mut core = core(None);
        let mut now = Instant::default();
        assign(&mut core, Start::Earliest, now);
        let mut offsets = vec![Vec::new(); 3];
        for _ in 0..300 {
            if random.below(10) == 0 {
                let partition = random.below(3);
                fake.partition("t", partition).move_to(random.below(3) as i32);
            }
            for (all, new) in offsets.iter_mut().zip(read(&mut core, &mut fake, &mut now, 5)) {
                all.extend(new);
            }
        }
        let expected: Vec<i64> = (0..200).collect();
        assert!(offsets.iter().all(|found| *found == expected), "seed {seed}: {offsets:?}");
        assert!(core.poll_problem().is_none(), "a change of leader is no news to applications");
    }
}

/// An offset in the middle of a batch begins there.
#[test]
fn reading_begins_in_the_middle_of_a_batch() {
    let mut fake = Fake::new(1).with_topic("t", 3);
    fill(&mut fake, 1, 2, 10);
    let mut core = core(None);
    let mut now = Instant::default();
    core.assign([(Arc::from("t"), 1, Start::Offset(7))], now);
    let found = read(&mut core, &mut fake, &mut now, 20);
    assert_eq!(found[1], (7..20).collect::<Vec<_>>());
    assert_eq!(core.position("t", 1), Some(20));
    assert_eq!(core.readable_end("t", 1), Some(20));
}

/// Answers to what was asked before a seek are not believed.
#[test]
fn a_seek_forgets_what_was_asked_before() {
    let mut fake = Fake::new(1).with_topic("t", 3);
    fill(&mut fake, 0, 1, 10);
    let mut core = core(None);
    let mut now = Instant::default();
    core.assign([(Arc::from("t"), 0, Start::Offset(0))], now);
    for _ in 0..5 {
        core.tick(now);
        fake.drive(core.cluster(), now);
        core.cluster().tick(now);
        now = now.plus(MS);
    }
    core.tick(now);
    assert!(core.has_batches(), "fetched and not yet taken");
    assert!(core.seek("t", 0, Start::Offset(8)));
    assert!(!core.has_batches());
    assert_eq!(read(&mut core, &mut fake, &mut now, 20)[0], [8, 9]);
    assert!(!core.seek("t", 1, Start::Earliest), "not assigned");
}

/// Out of range: the policy says where to go on; without one it is an error, told and not hidden.
#[test]
fn out_of_range_follows_the_policy() {
    for (reset, expected) in [(Some(Start::Earliest), vec![0, 1]), (Some(Start::Latest), vec![])] {
        let mut fake = Fake::new(1).with_topic("t", 3);
        fill(&mut fake, 0, 1, 2);
        let mut core = core(reset);
        let mut now = Instant::default();
        core.assign([(Arc::from("t"), 0, Start::Offset(99))], now);
        assert_eq!(read(&mut core, &mut fake, &mut now, 50)[0], expected);
        assert_eq!(core.position("t", 0), Some(2));
        assert!(core.poll_problem().is_none());
    }
    let mut fake = Fake::new(1).with_topic("t", 3);
    let mut core = core(None);
    let mut now = Instant::default();
    core.assign([(Arc::from("t"), 0, Start::Offset(99))], now);
    read(&mut core, &mut fake, &mut now, 10);
    let problem = core.poll_problem().unwrap();
    assert_eq!(problem.kind(), ErrorKind::Refused(ErrorCode::OffsetOutOfRange));
}

/// A paused partition is not asked for, the others are.
#[test]
fn a_paused_partition_is_left_alone() {
    let mut fake = Fake::new(1).with_topic("t", 3);
    (0..3).for_each(|partition| fill(&mut fake, partition, 1, 2));
    let mut core = core(None);
    let mut now = Instant::default();
    assign(&mut core, Start::Earliest, now);
    assert!(core.pause("t", 1, true));
    assert_eq!(read(&mut core, &mut fake, &mut now, 30), [vec![0, 1], vec![], vec![0, 1]]);
    assert!(core.pause("t", 1, false));
    assert_eq!(read(&mut core, &mut fake, &mut now, 30)[1], [0, 1]);
}

/// A partition that had been read to its end was waited for, and with it, on the same connection,
/// all that other partitions had: half a second for each answer.
#[test]
fn a_partition_at_its_end_does_not_keep_back_the_others() {
    let mut fake = Fake::new(1).with_topic("t", 3);
    fill(&mut fake, 0, 1, 1);
    fill(&mut fake, 1, 5, 1);
    let mut core = core(None);
    let mut now = Instant::default();
    core.assign((0..2).map(|partition| (Arc::from("t"), partition, Start::Offset(0))), now);
    while !core.has_batches() {
        core.cluster().tick(now);
        core.tick(now);
        fake.drive(core.cluster(), now);
        now = now.plus(MS);
    }
    assert_eq!(fake.waits, [500], "nothing is there yet: it may wait");
    let first = core.poll_batch().unwrap();
    assert_eq!(first.partition, 0);
    let second = core.poll_batch().unwrap();
    assert_eq!(second.partition, 1, "taken, but what it came in is not yet known to be empty");
    core.tick(now);
    fake.drive(core.cluster(), now);
    assert_eq!(fake.waits, [500, 0], "partition 0 is asked for alone, without waiting");
}
