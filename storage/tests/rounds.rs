//! Whole rounds of compaction, as the broker carries them out, over files in memory: given up
//! after some of their swaps, and with the power gone behind any of them.
//!
//! What is promised is what a reader of committed records needs: of each aborted transaction that
//! it is told of it meets the marker, or it would pass over all that the producer writes later.
// Fixtures are tests, though they are no test functions.
#![allow(clippy::unwrap_used)]

mod disk;
mod world;

use std::collections::BTreeMap;
use std::ops::Range;

use bytes::{Bytes, BytesMut};
use disk::Survival;
use tidemill_record::{
    Batch, BatchBuilder, Codec, Contents, Marker, Offset, Outcome, Producer, ProducerEpoch,
    ProducerId, Sequence, Timestamp,
};
use tidemill_storage::compaction::round::{Done, End, Need, Order};
use tidemill_storage::compaction::{Round, Terms};
use tidemill_storage::io::FileName;
use tidemill_storage::{CompactionPlan, LogId};
use world::{World, partition};

const TP: i32 = 0;
const DAY_MS: i64 = 86_400_000;
const NOW: i64 = 1_700_000_000_000;
const SEGMENT_BYTES: u64 = 48 * 1024;

/// How large the map of keys may be.
const KEYS_BYTES_MAX: usize = 1 << 20;

/// What a round takes beside it: a read, a write, what is worked on.
const BUFFERS_BYTES_MAX: usize = 256 << 10;
const PRODUCER: Producer = Producer { id: ProducerId(7), epoch: ProducerEpoch(0) };

/// When a round is given up.
const NEVER: usize = usize::MAX;

fn append(world: &mut World, builder: BatchBuilder, key: &str, size_bytes: usize) -> Offset {
    let mut builder = builder;
    builder.append(Timestamp(NOW), Some(key.as_bytes()), Some(&vec![b'v'; size_bytes]));
    put(world, builder.build())
}

fn put(world: &mut World, batch: BytesMut) -> Offset {
    let at = world.append_patiently(partition(TP), batch).base_offset;
    world.settle();
    at
}

/// So many sealed segments of records that the next ones replace.
fn fill(world: &mut World, segments: usize) {
    let wanted = world.log(partition(TP)).segments_count() + segments;
    let mut number = 0;
    while world.log(partition(TP)).segments_count() < wanted {
        append(world, BatchBuilder::new(Codec::None), &format!("filler {number}"), 3000);
        number += 1;
    }
}

fn in_transaction(world: &mut World, sequence: i32, key: &str) -> Offset {
    let builder = BatchBuilder::new(Codec::None).numbered(PRODUCER, Sequence(sequence));
    append(world, builder.transactional(), key, 100)
}

fn end_transaction(world: &mut World, outcome: Outcome) -> Offset {
    let marker = Marker { outcome, coordinator_epoch: 0 };
    put(world, marker.to_batch(PRODUCER, Timestamp(NOW)))
}

/// An aborted transaction at the log's start, and later a committed one of the same producer.
fn world() -> (World, Offset) {
    let mut world = World::started(31, 1, 1);
    // What may go of it is not told to the world's own books.
    world.forged = true;
    fill(&mut world, 1);
    in_transaction(&mut world, 0, "never was");
    let marker = end_transaction(&mut world, Outcome::Abort);
    fill(&mut world, 3);
    in_transaction(&mut world, 1, "is");
    end_transaction(&mut world, Outcome::Commit);
    fill(&mut world, 2);
    (world, marker)
}

/// Carries out a round over all sealed segments below `below`, up to its swap number `swaps_max`.
fn compact(world: &mut World, below: Offset, now_ms: i64, swaps_max: usize) -> Option<End> {
    compact_counting(world, below, now_ms, swaps_max).0
}

/// The same, and what it did.
fn compact_counting(
    world: &mut World,
    below: Offset,
    now_ms: i64,
    swaps_max: usize,
) -> (Option<End>, Done) {
    let (shard, log) = world.logs[&partition(TP)];
    let plan = begin(world, below);
    let number = plan.number;
    let (end, done) = carry_out(world, plan, now_ms, swaps_max, KEYS_BYTES_MAX);
    let storage = &mut world.shards[shard];
    if let Some(end) = &end {
        storage.forget_aborted(log, &end.forgotten);
    }
    storage.end_compaction(log, number, end.as_ref().map(|end| end.compacted_to));
    (end, done)
}

fn begin(world: &mut World, below: Offset) -> CompactionPlan {
    let (shard, log): (usize, LogId) = world.logs[&partition(TP)];
    for _ in 0..10 {
        if let Some(plan) = world.shards[shard].begin_compaction(log, below) {
            return plan;
        }
        world.settle();
    }
    panic!("it never may be compacted");
}

fn carry_out(
    world: &mut World,
    plan: CompactionPlan,
    now_ms: i64,
    swaps_max: usize,
    map_bytes_max: usize,
) -> (Option<End>, Done) {
    let (shard, log) = world.logs[&partition(TP)];
    let books = world.log(partition(TP));
    let all = Offset::ZERO..plan.segments.last().unwrap().next_offset;
    let terms = Terms { records_bytes_max: 1 << 20, now_ms, delete_retention_ms: DAY_MS };
    let order = Order {
        terms,
        segment_bytes: SEGMENT_BYTES,
        map_bytes_max,
        map_load_max: 0.5,
        seed: [1, 2],
        aborted: books.aborted_in(all),
        producers: books.producer_states(),
    };
    let mut round = Round::new(plan, order);
    let mut files: BTreeMap<String, Vec<u8>> = BTreeMap::new();
    let mut swaps = 0;
    loop {
        let need = round.poll_need();
        assert!(round.memory_bytes() <= map_bytes_max + BUFFERS_BYTES_MAX, "more memory than told");
        match need {
            Need::Step => round.step().unwrap(),
            Need::Read { file, position, size } => {
                let bytes = part_of(world, &file, position..position + u64::from(size));
                round.handle_read(bytes);
            }
            Need::Begin { files: begun } => {
                files.extend(begun.map(|file| (file.to_string(), Vec::new())));
            }
            Need::Write { file, position, bytes } => {
                let made = files.get_mut(&file.to_string()).unwrap();
                assert_eq!(made.len() as u64, position, "one behind the other");
                made.extend_from_slice(&bytes);
            }
            Need::Seal { file, size } => {
                let mut made = files.remove(&file.to_string()).unwrap();
                made.truncate(size as usize);
                world.disk.put_file(&file, &made);
            }
            Need::SyncDir { .. } => {}
            Need::Swap(swap) => {
                world.shards[shard].swap_in(log, &swap, world.now).unwrap();
                world.settle();
                swaps += 1;
                if swaps == swaps_max {
                    return (None, round.done());
                }
            }
            Need::End(end) => {
                assert!(files.is_empty(), "what was begun came to be a segment");
                assert_eq!(round.memory_bytes(), 0, "the map of keys is given back");
                return (Some(end), round.done());
            }
        }
    }
}

fn part_of(world: &World, file: &FileName, range: Range<u64>) -> Option<Bytes> {
    let all = world.disk.file(file)?;
    let (start, end) = (range.start.min(all.len() as u64), range.end.min(all.len() as u64));
    Some(Bytes::copy_from_slice(&all[start as usize..end as usize]))
}

/// What a client that reads committed records finds: it leaves out what a producer writes from
/// where it is told of an aborted transaction up to the next marker of that producer.
fn committed(world: &mut World) -> Vec<String> {
    let tp = partition(TP);
    let bytes = world.read_all(tp, Offset::ZERO).unwrap();
    let end = world.log(tp).durable_end();
    let mut aborted = world.log(tp).aborted_in(Offset::ZERO..end);
    aborted.sort_by_key(|one| one.first);
    aborted.reverse();
    let mut passed_over = Vec::new();
    let mut keys = Vec::new();
    let mut rest = &bytes[..];
    while let Ok((batch, behind)) = Batch::parse(rest) {
        rest = behind;
        while aborted.last().is_some_and(|one| one.first <= batch.last_offset()) {
            passed_over.extend(aborted.pop().map(|one| one.producer_id));
        }
        let id = batch.producer().map(|producer| producer.id);
        if batch.is_control() {
            if batch.records_count() != 0 {
                passed_over.retain(|one| Some(*one) != id);
            }
            continue;
        }
        if batch.is_transactional() && passed_over.iter().any(|one| Some(*one) == id) {
            continue;
        }
        for record in Contents::open(&batch, 1 << 20).unwrap().records() {
            keys.push(String::from_utf8(record.unwrap().key.unwrap().to_vec()).unwrap());
        }
    }
    keys
}

fn has_marker(world: &mut World, marker: Offset) -> bool {
    let bytes = world.read_all(partition(TP), Offset::ZERO).unwrap();
    let mut rest = &bytes[..];
    while let Ok((batch, behind)) = Batch::parse(rest) {
        rest = behind;
        if batch.base_offset() == marker {
            return batch.is_control() && batch.records_count() == 1;
        }
    }
    false
}

/// Readers find the committed record and not the aborted one.
fn check(world: &mut World, told: &str) {
    let keys = committed(world);
    assert!(keys.iter().any(|key| key == "is"), "{told}: what was committed is not found");
    assert!(keys.iter().all(|key| key != "never was"), "{told}: what was aborted is found");
}

const EVERYTHING: Offset = Offset(i64::MAX);

/// Nothing is left of the transaction, and the round that saw that was given up before the log
/// could forget it: the marker's time is over, yet readers are told of the transaction.
#[test]
fn a_marker_stays_while_readers_are_told_of_its_transaction() {
    let (mut world, marker) = world();
    assert!(compact(&mut world, EVERYTHING, NOW, NEVER).unwrap().forgotten.is_empty());
    for (day, swaps_max) in [(0, 1), (2, 1), (4, 2), (6, 1)] {
        fill(&mut world, 2);
        assert_eq!(compact(&mut world, EVERYTHING, NOW + day * DAY_MS, swaps_max), None);
        check(&mut world, "given up");
        world.crash(Survival::Nothing);
        world.start_unchecked(1);
        world.settle();
        check(&mut world, "started again");
    }
    fill(&mut world, 2);
    let end = compact(&mut world, EVERYTHING, NOW + 8 * DAY_MS, NEVER).unwrap();
    assert_eq!(end.forgotten, [marker]);
    assert!(has_marker(&mut world, marker));
    fill(&mut world, 2);
    compact(&mut world, EVERYTHING, NOW + 10 * DAY_MS, NEVER).unwrap();
    assert!(!has_marker(&mut world, marker), "it goes in the end");
    check(&mut world, "in the end");
}

/// That a transaction is forgotten is not journaled: the marker waits for a checkpoint that says so.
#[test]
fn a_crash_does_not_bring_back_a_transaction_without_its_marker() {
    let (mut world, marker) = world();
    compact(&mut world, EVERYTHING, NOW, NEVER).unwrap();
    fill(&mut world, 6);
    world.cover(partition(TP));
    let segments: Vec<_> = world.log(partition(TP)).segments().copied().collect();
    let middle = segments[segments.len() / 2].next_offset;
    assert_eq!(compact(&mut world, middle, NOW, NEVER).unwrap().forgotten, [marker]);
    // At once, while the checkpoint before has all that is to be compacted.
    compact(&mut world, EVERYTHING, NOW + 2 * DAY_MS, NEVER).unwrap();
    assert!(!has_marker(&mut world, marker));
    check(&mut world, "compacted");
    world.crash(Survival::Nothing);
    world.start_unchecked(1);
    world.settle();
    check(&mut world, "started again");
    assert!(!world.log(partition(TP)).has_aborted());
}

/// All records: key and offset, as read.
fn records(world: &mut World) -> Vec<(Offset, String)> {
    let bytes = world.read_all(partition(TP), Offset::ZERO).unwrap();
    let (mut rest, mut found) = (&bytes[..], Vec::new());
    while let Ok((batch, behind)) = Batch::parse(rest) {
        rest = behind;
        for record in Contents::open(&batch, 1 << 20).unwrap().records() {
            let record = record.unwrap();
            let key = String::from_utf8(record.key.unwrap().to_vec()).unwrap();
            found.push((record.offset, key));
        }
    }
    found
}

/// A log without forgeries of which the caller knows what stays.
fn empty_world(seed: u64) -> World {
    let mut world = World::started(seed, 1, 1);
    world.forged = true;
    world
}

/// The bug: a segment of which nothing goes was written all over again in each round, and the copy
/// removed.
#[test]
fn of_a_segment_that_stays_as_it_is_nothing_is_written() {
    let mut world = empty_world(32);
    for number in 0..60 {
        append(&mut world, BatchBuilder::new(Codec::None), &format!("key {number}"), 3000);
    }
    world.cover(partition(TP));
    let before: Vec<_> = world.log(partition(TP)).segments().copied().collect();
    let (end, done) = compact_counting(&mut world, EVERYTHING, NOW, NEVER);
    assert_eq!(end.unwrap().compacted_to, before[before.len() - 2].next_offset);
    assert_eq!((done.written_bytes, done.records_after), (0, done.records_before));
    assert!(world.log(partition(TP)).segments().copied().eq(before));
}

/// What lies before the first batch that changes is copied as it was: wherever in its segment that
/// is, in segments as appended and in compacted ones.
#[test]
fn a_segment_that_changes_keeps_what_lies_before_the_change() {
    for changed in [0, 1, 7, 13, 14] {
        let mut world = empty_world(33);
        for number in 0..60 {
            append(&mut world, BatchBuilder::new(Codec::None), &format!("key {number}"), 3000);
        }
        // One batch of each of the first segments goes, then another one of them.
        for more in [0, 2, 3] {
            for segment in [0, 1] {
                let key = format!("key {}", 15 * segment + (changed + more) % 15);
                append(&mut world, BatchBuilder::new(Codec::None), &key, 10);
            }
            let cover = format!("cover {more}");
            append(&mut world, BatchBuilder::new(Codec::None), &cover, 45_000);
            append(&mut world, BatchBuilder::new(Codec::None), &cover, 45_000);
            let mut last = BTreeMap::new();
            let all = records(&mut world);
            let sealed = world.log(partition(TP)).segments().last().unwrap().base_offset;
            let seen = all.iter().filter(|(offset, _)| *offset < sealed);
            last.extend(seen.map(|(offset, key)| (key.clone(), *offset)));
            world.cover(partition(TP));
            let end = compact(&mut world, EVERYTHING, NOW, NEVER).unwrap();
            assert_eq!(end.compacted_to, sealed);
            let stays =
                |(offset, key): &(Offset, String)| sealed <= *offset || last[key] == *offset;
            let wanted: Vec<_> = all.into_iter().filter(stays).collect();
            assert_eq!(records(&mut world), wanted, "change at {changed}, {more} later");
            world.crash(Survival::Nothing);
            world.start_unchecked(1);
            assert_eq!(records(&mut world), wanted);
        }
    }
}

/// With room for a few keys only, a round takes no more than that, and as many rounds as it needs
/// compact the log.
#[test]
fn a_round_takes_no_more_memory_than_it_may_however_many_keys_there_are() {
    let mut world = empty_world(35);
    let (shard, log) = world.logs[&partition(TP)];
    for number in 0..400 {
        append(&mut world, BatchBuilder::new(Codec::None), &format!("key {}", number % 200), 900);
    }
    world.cover(partition(TP));
    let map_bytes_max = 40 * tidemill_storage::compaction::offset_map::ENTRY_BYTES;
    let mut keys = Vec::new();
    while world.log(partition(TP)).compacted_to() < Offset(340) {
        let plan = begin(&mut world, EVERYTHING);
        let number = plan.number;
        let (end, done) = carry_out(&mut world, plan, NOW, NEVER, map_bytes_max);
        world.shards[shard].end_compaction(log, number, end.map(|end| end.compacted_to));
        keys.push(done.keys);
    }
    assert!(keys.iter().all(|keys| *keys <= 20) && 9 <= keys.len(), "{keys:?}");
    let left = records(&mut world).len();
    assert!(left < 270, "{left} are left");
}

/// Keys that are written again and again, as a table's are, in rounds as often as half of the log
/// is new: for each byte appended not many more are written by compaction.
#[test]
fn compaction_writes_not_much_more_than_what_is_appended() {
    let mut world = empty_world(34);
    let (mut appended, mut written, mut random) = (0, 0, disk::Random(34));
    for _ in 0..24 {
        let (mut new, old) = (0, world.log(partition(TP)).size_bytes());
        while new <= old.max(4 * SEGMENT_BYTES) {
            let key = format!("key {}", random.below(120));
            append(&mut world, BatchBuilder::new(Codec::None), &key, 2000);
            new += 2100;
        }
        world.cover(partition(TP));
        let (_, done) = compact_counting(&mut world, EVERYTHING, NOW, NEVER);
        appended += new;
        written += done.written_bytes;
    }
    // Of which a quarter are the ends of blocks, for segments are small here.
    assert!(written < 4 * appended / 3, "{written} written for {appended}");
}
