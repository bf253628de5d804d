//! The rules of reading, each by its name: what is served and found, by offset and by time, after
//! damage, trims, crashes, and while indexes are built.

mod disk;
mod world;

use disk::Survival;
use tidemill_record::{BatchBuilder, Codec, Offset, Timestamp, TopicPartition};
use tidemill_storage::checkpoint::SegmentName;
use tidemill_storage::error::ReadError;
use tidemill_storage::io::{Action, FileName};
use world::{World, partition};

const BLOCK: usize = 4096;

/// A block that went bad is never served: the exact range is told, the rest is served.
#[test]
fn a_bad_block_is_not_served_and_its_neighbours_are() {
    let mut world = World::started(13, 1, 1);
    for _ in 0..40 {
        world.append_new(partition(0), 1, 4_000);
    }
    world.settle();
    world.stop();
    world.start(1);
    let tp = partition(0);
    let file = SegmentName::appended(Offset(0)).file(tp);
    world.disk.rot(&file, 4 * BLOCK + 77, 4);

    let first = world.read_all(tp, Offset(0));
    let Err(ReadError::Damaged { offsets }) = first else {
        panic!("not served: {first:?}");
    };
    assert!(offsets.start <= Offset(4) && Offset(4) < offsets.end);
    assert!(world.read_all(tp, offsets.end).is_ok(), "what lies behind is served");
    assert_eq!(world.log(tp).damaged(), [offsets]);
}

/// The bug: as many readers of old records as liked filled the device's queue, and what the journal
/// wrote waited behind all of them. Few bytes are asked for at a time, and all readers are served.
#[test]
fn reads_under_way_are_bounded_by_their_bytes() {
    const PARTITIONS: i32 = 8;
    let mut world = World::new(31, PARTITIONS);
    // Room for two of the reads, which are of 40 KB, and not for three.
    world.config.read_bytes_in_flight_max = 100_000;
    world.start(1);
    for n in 0..PARTITIONS {
        for _ in 0..10 {
            world.append_new(partition(n), 1, 4_000);
        }
    }
    world.settle();
    world.stop();
    world.start(1);
    let ended = world.reads_ended();
    (0..PARTITIONS).for_each(|n| world.begin_read(partition(n), Offset(0)));
    let (mut most, mut rounds) = (0, 0);
    while world.reads_ended() < ended + PARTITIONS as usize {
        world.turn(0);
        let bytes = world.disk.pending().iter().filter_map(|request| match &request.action {
            Action::Read { file: FileName::Log { .. }, size, .. } => Some(u64::from(*size)),
            _ => None,
        });
        most = most.max(bytes.sum());
        world.turn(1);
        rounds += 1;
        assert!(rounds < 1000, "all are served");
    }
    assert!((80_000..=100_000).contains(&most), "two at a time: {most}");
}

/// The bug: after a crash a reader of the last record waited until the whole of the active segment
/// had been read, because nothing told where in it the record lies.
#[test]
fn the_last_record_is_found_soon_after_a_crash() {
    let mut world = World::new(27, 1);
    world.log_config.segment_bytes = 4 << 20;
    world.start(1);
    for _ in 0..250 {
        world.append_new(partition(0), 1, 4_000);
    }
    world.settle();
    world.crash(Survival::Everything);
    world.start_unchecked(1);
    let before = world.disk.read_bytes;
    let end = world.log(partition(0)).end();
    assert!(!world.read_all(partition(0), Offset(end.0 - 1)).unwrap().is_empty());
    let read = world.disk.read_bytes - before;
    assert!(read < 500_000, "{read} bytes read for the last of a million");
    world.check();
}

/// Damage in an old part of a segment whose index is lost does not take what came later with it.
#[test]
fn what_is_appended_behind_a_bad_block_is_served() {
    let mut world = World::started(23, 1, 1);
    world.log_config.segment_bytes = 1 << 20;
    world.crash(Survival::Nothing);
    world.start(1);
    let tp = partition(0);
    for _ in 0..10 {
        world.append_new(tp, 1, 4_000);
    }
    world.settle();
    world.crash(Survival::Nothing);
    world.start(1);
    let log = SegmentName::appended(Offset(0)).file(tp);
    world.disk.rot(&log, 4 * BLOCK, 1);
    for _ in 0..40 {
        world.append_new(tp, 1, 4_000);
    }
    world.settle();
    assert!(world.log(tp).tail_bytes() < 100_000, "the oldest have left memory");

    let Err(ReadError::Damaged { offsets }) = world.read_all(tp, Offset(0)) else {
        panic!("the bad block is not served");
    };
    assert!(offsets.end <= Offset(10));
    let behind = world.read_all(tp, offsets.end).unwrap();
    assert!(40 * 4_000 <= behind.len());
}

/// The bug: a segment that was sealed while its index was being built was taken for damaged, from
/// where it had ended when the building began, and was never served again.
#[test]
fn a_segment_sealed_while_its_index_is_built_is_not_damage() {
    let mut world = World::started(24, 1, 1);
    let tp = partition(0);
    for _ in 0..4 {
        world.append_new(tp, 1, 4_000);
    }
    world.settle();
    world.crash(Survival::Nothing);
    world.start_unchecked(1);

    world.append_new(tp, 1, 4_000);
    world.settle();

    world.begin_read(tp, Offset(0));
    let of_index =
        |action: &Action| matches!(action, Action::Read { file: FileName::Index { .. }, .. });
    world.turn_with(1, of_index);
    // The walk over the segment has begun; now it waits while everything else goes on.
    let not_reading = |action: &Action| !matches!(action, Action::Read { .. });
    // A segment holds twelve of them.
    for _ in 0..16 {
        let batch = world.new_batch(1, 4_000);
        for _ in 0..100 {
            if world.append(tp, batch.clone()).is_ok() {
                break;
            }
            world.turn_with(10, not_reading);
        }
    }
    assert_eq!(world.log(tp).end(), Offset(21));
    for _ in 0..100 {
        world.turn_with(10, not_reading);
    }
    world.settle();
    assert_eq!(world.log(tp).damaged(), []);
    world.check();
}

/// Under load the newest record of all is always one that is not durable yet.
#[test]
fn the_newest_timestamp_is_that_of_a_record_readers_see() {
    let mut world = World::started(3, 1, 1);
    let tp = partition(0);
    assert_eq!(world.newest(tp), None);
    for _ in 0..3 {
        world.append_new(tp, 1, 100);
    }
    world.settle();
    let durable = world.append_new(tp, 1, 100);
    while world.log(tp).durable_end() <= durable.base_offset {
        world.turn(1);
    }
    let undurable = world.append_new(tp, 1, 100);
    assert!(world.log(tp).durable_end() <= undurable.base_offset);
    assert_eq!(world.newest(tp), Some(durable.base_offset));
}

/// A log of one segment with these timestamps, in batches of ten that make many spans; durable,
/// and all of it out of memory.
fn with_timestamps(timestamps: &[i64]) -> (World, TopicPartition) {
    let mut world = World::new(31, 1);
    world.log_config.segment_bytes = 4 << 20;
    world.start(1);
    let tp = partition(0);
    append_timestamps(&mut world, tp, timestamps);
    restart(&mut world);
    (world, tp)
}

fn append_timestamps(world: &mut World, tp: TopicPartition, timestamps: &[i64]) {
    for batch in timestamps.chunks(10) {
        let mut builder = BatchBuilder::new(Codec::None);
        for &ms in batch {
            builder.append(Timestamp(ms), None, Some(&[b'v'; 1_500]));
        }
        world.append_patiently(tp, builder.build());
    }
    world.settle();
}

fn trim_and_settle(world: &mut World, tp: TopicPartition, before: Offset) {
    assert!(world.trim(tp, before));
    world.settle();
    assert_eq!(world.log(tp).start(), before);
}

fn restart(world: &mut World) {
    world.crash(Survival::Nothing);
    world.start(1);
}

/// The bug: after records were deleted in the middle of a segment, a search for a time before them
/// found a deleted one and then looked into the newest records only: it answered "none", or an
/// offset far behind the first that was left.
#[test]
fn a_search_by_time_finds_the_first_record_left_after_a_trim() {
    for start in [200, 205] {
        let (mut world, tp) = with_timestamps(&(1000..1300).collect::<Vec<_>>());
        trim_and_settle(&mut world, tp, Offset(start));
        restart(&mut world);
        for newest in [299, 304] {
            for ms in [0, 1000, 1001, 1100, 1199, 1200, 1205, 1206, 1212, 1250, 1299, 1304, 1400] {
                let wanted = Some(Offset((ms - 1000).max(start))).filter(|it| it.0 <= newest);
                assert_eq!(world.first_at(tp, ms), wanted, "since {ms} of {start}..={newest}");
            }
            assert_eq!(world.newest_anywhere(tp), Some(Offset(newest)));
            // The second time there is something in memory behind what is on disk.
            append_timestamps(&mut world, tp, &(1300..1305).collect::<Vec<_>>());
        }
    }
}

/// A deleted record that was newer than all others says nothing of those behind it.
#[test]
fn a_deleted_record_does_not_count_as_the_newest() {
    let mut timestamps: Vec<i64> = (1000..1300).collect();
    timestamps[50] = 9000;
    timestamps[203] = 8000;
    timestamps[220] = 3000;
    timestamps[260] = 3000;
    let (mut world, tp) = with_timestamps(&timestamps);
    assert_eq!(world.newest_anywhere(tp), Some(Offset(50)));
    // Each takes the newest away, the second in the middle of its batch.
    for (start, newest) in [(200, 203), (205, 220), (221, 260), (261, 299), (300, -1)] {
        trim_and_settle(&mut world, tp, Offset(start));
        let newest = Some(Offset(newest)).filter(|it| Offset(0) <= *it);
        assert_eq!(world.newest_anywhere(tp), newest, "from {start}");
        assert_eq!(world.first_at(tp, 8500), None);
        let wanted = Some(Offset(start.max(290))).filter(|_| start < 300);
        let newer = (start <= 260).then_some(newest).flatten();
        assert_eq!(world.first_at(tp, 1290), newer.or(wanted), "from {start}");
        if start == 205 {
            restart(&mut world);
            assert_eq!(world.newest_anywhere(tp), newest, "also after a restart");
        }
    }
    append_timestamps(&mut world, tp, &[7, 9, 8]);
    assert_eq!(world.newest_anywhere(tp), Some(Offset(301)));
    trim_and_settle(&mut world, tp, Offset(302));
    assert_eq!(world.newest_anywhere(tp), Some(Offset(302)), "also in memory");
    assert_eq!(world.first_at(tp, 9), None);
}

/// Newer records behind the trimmed segment are found, on disk and in memory.
#[test]
fn the_newest_record_is_found_behind_a_trimmed_segment() {
    let mut timestamps: Vec<i64> = (1000..1300).collect();
    timestamps[5] = 9000;
    let mut world = World::started(32, 1, 1);
    let tp = partition(0);
    append_timestamps(&mut world, tp, &timestamps);
    assert!(3 < world.log(tp).segments_count());
    trim_and_settle(&mut world, tp, Offset(7));
    assert_eq!(world.newest_anywhere(tp), Some(Offset(299)));
    restart(&mut world);
    assert_eq!(world.newest_anywhere(tp), Some(Offset(299)));
    assert_eq!(world.first_at(tp, 1150), Some(Offset(150)));
    assert_eq!(world.first_at(tp, 2000), None);
}

/// The bug: a segment that got the name of one that was cut off lost its index to the cache, and
/// what was in memory only was taken for damage.
#[test]
fn a_new_segment_keeps_its_index_when_that_of_its_namesake_is_forgotten() {
    let mut world = World::new(35, 2);
    world.config.index_bytes_max = 1;
    world.start(1);
    let (cut, other) = (partition(0), partition(1));
    for _ in 0..30 {
        world.append_new(cut, 1, 4_000);
        world.append_new(other, 1, 4_000);
    }
    world.settle();
    world.crash(Survival::Nothing);
    world.log_config.segment_bytes = 4 << 20;
    world.start_unchecked(1);
    // Only the index that was loaded last stays.
    world.begin_read(cut, Offset(12));
    world.settle();
    assert!(world.truncate(cut, Offset(12)));
    world.settle();
    assert_eq!(world.log(cut).end(), Offset(12), "a segment begins there");
    for _ in 0..40 {
        world.append_new(cut, 1, 4_000);
    }
    world.settle();
    world.append_new(cut, 1, 100);
    world.settle();
    world.begin_read(other, Offset(0));
    world.settle();
    world.check();
    assert_eq!(world.log(cut).damaged(), []);
}
