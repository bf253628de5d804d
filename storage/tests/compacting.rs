//! Compacted segments: put in at once or not at all, whatever crash comes between; read through
//! their gaps; trimmed, cut, dropped like others; and never a wrong byte of them.
//!
//! The random lives with compactions are in `random_crashes.rs`.

mod disk;
mod world;

use disk::Survival;
use tidemill_record::{Batch, Offset, TopicPartition};
use tidemill_storage::block::BLOCK_BYTES;
use tidemill_storage::checkpoint::{SegmentName, SegmentState};
use tidemill_storage::compaction::policy::When;
use tidemill_storage::error::{AppendError, ReadError};
use tidemill_storage::io::{Action, FileName};
use tidemill_storage::layout::{EntryKind, WindowHeader};
use world::compacting::{Fate, base_offsets};
use world::{World, partition};

const TP: i32 = 0;

fn tp() -> TopicPartition {
    partition(TP)
}

/// Batches of two records and 3 KiB, in segments of 48 KiB: `segments` sealed ones, covered by a
/// checkpoint, and some more.
fn world_with(segments: usize) -> World {
    let mut world = World::started(11, 2, 1);
    while world.log(tp()).segments_count() <= segments {
        world.append_new(tp(), 2, 3_000);
        world.append_new(partition(1), 1, 100);
        world.settle();
    }
    world.cover(tp());
    world
}

/// Three of four batches go, and one in eight stays without records.
fn most_go(batch: &Batch<'_>) -> Fate {
    match batch.base_offset().0 / 2 % 8 {
        0 => Fate::Stays,
        4 => Fate::Emptied,
        _ => Fate::Goes,
    }
}

fn states(world: &World) -> Vec<SegmentState> {
    world.log(tp()).segments().copied().collect()
}

fn first(world: &World) -> SegmentName {
    states(world)[0].name()
}

/// The files of the log's sealed segments, without indexes, by their names.
fn log_files(world: &World) -> Vec<String> {
    let dir = SegmentName::appended(Offset(0)).file(tp()).dir().to_string();
    let active = world.log(tp()).segments().last().map_or(Offset(0), |it| it.base_offset);
    // What was begun just before a crash may have a file already.
    let is_sealed = |name: &str| name[..20].parse().is_ok_and(|base: i64| base < active.0);
    let paths = world.disk.paths(&dir);
    let names = paths.iter().filter_map(|path| path.rsplit('/').next());
    let logs = names.filter(|name| name.ends_with(".log") && is_sealed(name));
    logs.map(str::to_owned).collect()
}

fn named(world: &World) -> Vec<String> {
    let all = states(world);
    let sealed = all.iter().take(all.len() - 1);
    let mut names: Vec<String> = sealed
        .map(|segment| segment.name().file(tp()).to_string())
        .filter_map(|path| path.rsplit('/').next().map(str::to_owned))
        .collect();
    names.sort();
    names
}

#[test]
fn several_segments_become_one_and_their_files_go() {
    let mut world = world_with(4);
    let before = states(&world);
    let size = world.log(tp()).size_bytes();
    assert!(world.compact(tp(), most_go));
    world.check();

    let after = states(&world);
    assert_eq!(after.len(), 2, "{after:?}");
    assert_eq!(after[0].base_offset, before[0].base_offset);
    assert_eq!(after[0].next_offset, after[1].base_offset);
    assert!(after[0].is_compacted());
    assert_eq!(world.log(tp()).compacted_to(), after[0].next_offset);
    assert!(world.log(tp()).size_bytes() < size / 2);
    let file = world.disk.file(&after[0].name().file(tp())).unwrap();
    assert_eq!(file.len() as u64, after[0].size_bytes);
    assert_eq!(log_files(&world), named(&world), "nothing else is left");
    assert!(log_files(&world)[0].starts_with("00000000000000000000."));
}

/// Below the end there is always something to go on with, wherever a reader stands.
#[test]
fn a_fetch_in_a_hole_is_answered_with_the_next_batch() {
    let mut world = world_with(4);
    assert!(world.compact(tp(), most_go));
    world.append_new(tp(), 2, 3_000);
    world.settle();
    let end = world.log(tp()).durable_end();
    let all = base_offsets(&world.read_all(tp(), Offset(0)).unwrap());
    assert!(all.len() as i64 * 2 < end.0 / 2, "most are gone");
    for from in 0..end.0 {
        let found = base_offsets(&world.read_all(tp(), Offset(from)).unwrap());
        let wanted: Vec<_> = all.iter().copied().filter(|base| from < base.0 + 2).collect();
        assert_eq!(found, wanted, "from {from}");
    }
}

#[test]
fn records_are_found_by_time_in_a_compacted_log() {
    let mut world = world_with(4);
    assert!(world.compact(tp(), most_go));
    let bytes = world.read_all(tp(), Offset(0)).unwrap();
    let mut rest = &bytes[..];
    let mut with_records = Vec::new();
    while let Ok((batch, behind)) = Batch::parse(rest) {
        if batch.records_count() != 0 {
            with_records.push((batch.max_timestamp().0, batch.base_offset()));
        }
        rest = behind;
    }
    for pair in with_records.windows(2) {
        assert_eq!(world.first_at(tp(), pair[0].0), Some(pair[0].1));
        assert_eq!(world.first_at(tp(), pair[0].0 + 1), Some(pair[1].1), "over a hole");
    }
    assert_eq!(world.newest_anywhere(tp()), with_records.last().map(|last| last.1));
}

/// The power may go after any request of a compaction, of the removal of the old files, of the
/// next compaction over the result: what is there is the old or the new, and all of it.
#[test]
fn a_crash_at_any_moment_of_a_compaction_loses_nothing() {
    let mut world = world_with(4);
    let mut seed = 0;
    let mut cuts = 0;
    let mut files = Vec::new();
    for round in 0..4 {
        // The first takes two of the middle, the next ones all.
        let which: fn(&[SegmentState]) -> std::ops::Range<usize> = match round {
            0 => |all| 1..all.len().min(3),
            _ => |all| 0..all.len(),
        };
        assert!(world.begin_compaction(tp(), which, most_go), "round {round}");
        for step in 0..30 {
            if step % 4 == 0 {
                let batch = world.new_batch(2, 3_000);
                let _ = world.append(tp(), batch);
            }
            world.turn(1);
            seed += 1;
            for survival in [
                Survival::Nothing,
                Survival::Everything,
                Survival::Torn { seed },
                Survival::Torn { seed: !seed },
            ] {
                let mut after = world.cut(survival);
                after.start(1);
                after.settle();
                after.check();
                assert_eq!(log_files(&after), named(&after), "leftovers are removed");
                files.push(log_files(&after).len());
                cuts += 1;
                // Once more, without anything in between.
                if seed % 5 == 0 {
                    after.crash(Survival::Torn { seed });
                    after.start(2);
                    after.settle();
                    assert_eq!(log_files(&after), named(&after));
                }
            }
        }
        world.settle();
        world.check();
        world.cover(tp());
    }
    assert!(400 < cuts && world.swaps == 4, "{cuts} cuts, {} swaps", world.swaps);
    assert!(1 < files.iter().max().unwrap() - files.iter().min().unwrap(), "old and new were seen");
}

/// The entry is met again over the state it led to, and over what came later.
#[test]
fn a_swap_is_replayed_over_any_later_state() {
    let mut world = world_with(5);
    assert!(world.begin_compaction(tp(), |_| 2..4, most_go));
    world.settle();
    let merged = states(&world)[2];
    assert!(world.begin_compaction(tp(), |_| 1..3, most_go));
    world.settle();
    assert!(world.begin_compaction(tp(), |all| 0..all.len(), most_go));
    world.settle();
    let whole = states(&world)[0];
    assert!(merged.compaction < whole.compaction && world.swaps == 3);
    for checkpoints in [false, true] {
        let mut after = world.cut(Survival::Nothing);
        after.start(1);
        assert_eq!(states(&after)[0], whole);
        if checkpoints {
            after.append_new(tp(), 1, 100);
            after.stop();
            after.start(1);
            assert_eq!(states(&after)[0], whole);
        }
    }
    let trimmed = whole.next_offset;
    assert!(world.trim(tp(), trimmed));
    world.settle();
    world.crash(Survival::Nothing);
    world.start(1);
    world.settle();
    assert_eq!(world.log(tp()).start(), trimmed);
    assert_eq!(log_files(&world), named(&world));
}

/// Deleting records up to an offset that is missing, and all that was compacted.
#[test]
fn a_compacted_log_is_trimmed_like_any_other() {
    let mut world = world_with(4);
    assert!(world.compact(tp(), most_go));
    let end = states(&world)[0].next_offset;
    for before in [Offset(7), Offset(40), end.plus(-1), end] {
        assert!(world.trim(tp(), before));
        world.settle();
        assert_eq!(world.log(tp()).start(), before);
        world.check();
        let mut after = world.cut(Survival::Nothing);
        after.start(1);
        assert_eq!(after.log(tp()).start(), before);
    }
    assert!(!states(&world)[0].is_compacted());
    assert_eq!(log_files(&world), named(&world));
}

/// What was trimmed meanwhile does not come back with the new segment.
#[test]
fn a_segment_that_was_trimmed_meanwhile_is_not_put_in() {
    let mut world = world_with(4);
    let segments = states(&world);
    assert!(world.begin_compaction(tp(), |all| 0..all.len(), most_go));
    assert!(world.trim(tp(), segments[1].next_offset));
    world.settle();
    assert_eq!(world.swaps, 0);
    assert!(states(&world).iter().all(|segment| !segment.is_compacted()));
    assert_eq!(log_files(&world), named(&world), "its files are gone");
    world.check();
    world.crash(Survival::Nothing);
    world.start(1);
}

/// Also a cut inside a compacted segment leaves what can be proved.
#[test]
fn a_compacted_segment_is_cut_like_any_other() {
    let mut world = world_with(4);
    assert!(world.compact(tp(), most_go));
    let size = states(&world)[0].size_bytes;
    assert!(world.truncate(tp(), Offset(50)));
    world.settle();
    let end = world.log(tp()).end();
    assert_eq!(end, Offset(50), "the batch before it was left without records");
    assert!(world.log(tp()).compacted_to() <= end);
    assert!(states(&world)[0].size_bytes < size);
    world.append_new(tp(), 2, 3_000);
    world.settle();
    world.check();
    let (name, index) = (first(&world), first(&world).index_file(tp()));
    world.crash(Survival::Nothing);
    world.start(1);
    assert_eq!(first(&world), name);
    // The index file is longer than the segment: it is made again, and proved.
    assert!(world.disk.file(&index).is_some());
    world.check();
}

/// The bug: of a segment whose rest lies below the start, that rest was kept, and the log claimed
/// that it reaches up to the start.
#[test]
fn what_a_cut_would_leave_below_the_start_goes_too() {
    // A cut in a hole; before the first batch; in the batch that holds the start.
    for (gone, start, cut) in [(40..60, 50, 54), (0..60, 50, 54), (0..0, 5, 5)] {
        let mut world = world_with(4);
        if !gone.is_empty() {
            assert!(world.compact(tp(), |batch| match gone.contains(&batch.base_offset().0) {
                true => Fate::Goes,
                false => Fate::Stays,
            }));
        }
        let start = Offset(start);
        assert!(world.trim(tp(), start));
        world.settle();
        assert!(world.truncate(tp(), Offset(cut)));
        for step in 0..40 {
            let mut after = world.cut(Survival::Torn { seed: step });
            after.start(1);
            world.turn(1);
        }
        world.settle();
        assert_eq!((world.log(tp()).start(), world.log(tp()).end()), (start, start));
        assert_eq!(states(&world), [SegmentState::new(start, 1)]);
        assert_eq!(world.append_new(tp(), 2, 3_000).base_offset, start);
        world.settle();
        world.check();
        assert_eq!(log_files(&world), named(&world), "and its files");
        world.crash(Survival::Nothing);
        world.start(1);
        assert_eq!(states(&world).len(), 1);
        world.settle();
        assert_eq!(log_files(&world), named(&world));
    }
}

/// One bad block is one bad span: its neighbours are served, and nothing wrong is.
#[test]
fn a_bad_byte_of_a_compacted_segment_is_never_served() {
    let mut world = world_with(12);
    assert!(world.compact(tp(), |batch| match batch.base_offset().0 % 8 {
        0 | 2 => Fate::Stays,
        _ => Fate::Goes,
    }));
    let whole = world.read_all(tp(), Offset(0)).unwrap();
    let name = first(&world);
    assert!(100_000 < states(&world)[0].size_bytes);
    // A base offset, which no batch's checksum covers, in the second span or behind it.
    let at = whole.len() / 2;
    let mut batch_at = 0;
    while batch_at < at {
        let (batch, _) = Batch::parse(&whole[batch_at..]).unwrap();
        batch_at += batch.bytes().len();
    }
    for index_is_there in [true, false] {
        let mut world = world.cut(Survival::Everything);
        world.disk.rot(&name.file(tp()), batch_at + 7, 2);
        if !index_is_there {
            world.disk.rot(&name.index_file(tp()), 70, 1);
        }
        world.start_unchecked(1);
        let error = world.read_all(tp(), Offset(0)).unwrap_err();
        let ReadError::Damaged { offsets } = error else { panic!("{error:?}") };
        let all = states(&world)[0];
        match index_is_there {
            true => {
                assert!(all.base_offset < offsets.start && offsets.end < all.next_offset);
                assert!(world.read_all(tp(), offsets.end).is_ok(), "what lies behind is served");
            }
            // Nothing but the index proved where the batches begin.
            false => assert_eq!(offsets, all.base_offset..all.next_offset),
        }
        assert!(world.read_all(tp(), all.next_offset).is_ok());
        // Nor is it compacted on.
        let begun = world.begin_compaction(tp(), |all| 0..all.len(), |_| Fate::Stays);
        assert!(!begun || states(&world)[0].is_compacted());
    }
}

/// What is not compacted since it is damaged, or lies behind damage, is not due: else it would be
/// taken up again and again, and no other log would have its turn.
#[test]
fn what_may_not_be_compacted_is_not_due() {
    let always = When { dirty_ratio_min: 0.0, lag_min_ms: 0, lag_max_ms: i64::MAX };
    for damaged_segment in [0, 2] {
        let mut world = world_with(5);
        let now_ms = world.wall_ms;
        assert_eq!(
            world.log(tp()).dirt(always, now_ms).unwrap().below,
            states(&world)[4].next_offset
        );
        let segment = states(&world)[damaged_segment];
        world.disk.rot(&segment.name().file(tp()), 7, 2);
        world.stop();
        world.start_unchecked(1);
        assert!(world.read_all(tp(), segment.base_offset).is_err());
        assert!(world.log(tp()).has_damage());
        let dirt = world.log(tp()).dirt(always, now_ms);
        if damaged_segment == 0 {
            assert_eq!(dirt, None);
            assert!(!world.begin_compaction(tp(), |all| 0..all.len(), most_go));
            continue;
        }
        assert_eq!(dirt.unwrap().below, segment.base_offset);
        assert!(world.begin_compaction(tp(), |all| 0..all.len(), most_go));
        for _ in 0..100 {
            world.turn(3);
        }
        assert_eq!(world.log(tp()).compacted_to(), segment.base_offset);
        assert_eq!(world.log(tp()).dirt(always, now_ms), None, "nothing more may be done");
    }
}

/// An index that is lost is made again, and what was compacted is proved by it.
#[test]
fn the_lost_index_of_a_compacted_segment_is_made_again() {
    let mut world = world_with(6);
    assert!(world.compact(tp(), most_go));
    let name = first(&world);
    for with_bad_index in [false, true] {
        let mut world = world.cut(Survival::Everything);
        let index = name.index_file(tp());
        if with_bad_index {
            world.disk.rot(&index, BLOCK_BYTES / 64, 0xff);
        } else {
            world.disk.put_file(&index, &[]);
        }
        world.start(1);
        world.check();
        // And it can be compacted again.
        assert!(world.compact(tp(), most_go));
        world.check();
    }
}

/// Only files of compactions that never came to count are removed.
#[test]
fn leftovers_are_removed_and_unknown_files_are_not() {
    let mut world = world_with(3);
    let leftover = SegmentName { base_offset: Offset(4), compaction: 7 };
    let unknown = SegmentName::appended(Offset(999));
    for name in [leftover, unknown] {
        world.disk.put_file(&name.file(tp()), &[1; 512]);
        world.disk.put_file(&name.index_file(tp()), &[1; 512]);
    }
    world.crash(Survival::Nothing);
    world.start(1);
    assert_eq!(world.disk.file(&leftover.file(tp())), None);
    assert_eq!(world.disk.file(&leftover.index_file(tp())), None);
    assert!(world.disk.file(&unknown.file(tp())).is_some());
}

/// The file of a compaction that a crash ended goes, though the topic is not compacted any more.
#[test]
fn a_leftover_is_removed_after_the_policy_has_changed() {
    let mut world = world_with(3);
    world.stop();
    world.start(1);
    let leftover = SegmentName { base_offset: Offset(4), compaction: 7 };
    world.disk.put_file(&leftover.file(tp()), &[1; 512]);
    world.crash(Survival::Nothing);
    world.policy_changed = true;
    world.start(1);
    assert_eq!(world.disk.file(&leftover.file(tp())), None);
}

/// The bug: of a log that never had been compacted before, no checkpoint told so. What a crash left
/// of its first compaction stayed for ever, if the policy was changed meanwhile.
#[test]
fn what_a_crash_leaves_of_the_first_compaction_ever_goes_whatever_the_policy_is() {
    let mut world = World::started(13, 1, 1);
    while world.log(tp()).segments_count() <= 4 {
        world.append_new(tp(), 2, 3_000);
        world.settle();
    }
    // A checkpoint that covers all of it, as when the topic was not compacted yet.
    world.stop();
    world.start(1);
    for _ in 0..3 {
        if world.begin_compaction(tp(), |all| 0..all.len(), most_go) {
            break;
        }
        world.settle();
    }
    let mut left_some = false;
    while world.swaps == 0 {
        let mut after = world.cut(Survival::Everything);
        let is_compacted = |path: &&str| path.ends_with(".log") && path.matches('.').count() == 2;
        left_some |= after.disk.paths("").iter().any(is_compacted);
        after.policy_changed = true;
        after.start(1);
        assert_eq!(log_files(&after), named(&after));
        world.turn(1);
    }
    assert!(left_some, "a crash has left files");
    world.settle();
    world.check();
}

/// If the entry itself has rotted, that is told, and the new file is kept: the old ones are gone.
#[test]
fn a_new_segment_is_not_removed_when_its_entry_is_damaged() {
    let mut world = world_with(4);
    world.stop();
    world.start(1);
    assert!(world.compact(tp(), most_go));
    let name = first(&world);
    let (file, position) = (0..8).find_map(|number| swap_payload(&world, number)).unwrap();
    world.disk.rot(&file, position + 9, 1);
    world.crash(Survival::Nothing);
    world.start_unchecked(1);
    assert_eq!(world.report.damaged.len(), 1);
    assert!(world.disk.file(&name.file(tp())).is_some());
    let batch = world.new_batch(1, 100);
    assert!(matches!(world.append(tp(), batch), Err(AppendError::Damaged { .. })));
    assert!(world.read_all(tp(), Offset(0)).is_err());
}

/// Where in a journal file the payload of a swap is.
fn swap_payload(world: &World, number: u32) -> Option<(FileName, usize)> {
    let name = FileName::Journal { shard: 0, number };
    let file = world.disk.file(&name)?;
    let mut at = 0;
    while let Ok((header, entries, _)) = WindowHeader::decode(&file[at..], file.len() as u64) {
        let mut payload_at = at + header.payload_at();
        for entry in entries {
            if entry.kind == EntryKind::Swap {
                return Some((name, payload_at));
            }
            payload_at += entry.payload_bytes() as usize;
        }
        at += header.window_bytes() as usize;
    }
    None
}

/// A topic that is deleted takes the files of its compaction along, also of one under way.
#[test]
fn a_log_is_dropped_only_when_its_compaction_has_ended() {
    let mut world = world_with(4);
    assert!(world.compact(tp(), most_go));
    let log_dir = first(&world).file(tp()).dir().to_string();
    assert!(world.begin_compaction(tp(), |all| 0..all.len(), most_go));
    world.turn(2);
    world.drop_log(tp());
    world.settle();
    assert_eq!(world.dropped, [tp()]);
    assert_eq!(world.disk.paths(&log_dir), Vec::<&str>::new());
}

/// A failed write away from the shard is a compaction that did not happen.
#[test]
fn a_compaction_without_space_changes_nothing() {
    let mut world = world_with(4);
    let before = states(&world);
    world.disk.free_bytes = Some(0);
    assert!(world.begin_compaction(tp(), |all| 0..all.len(), most_go));
    for _ in 0..200 {
        world.turn(3);
    }
    world.disk.heal();
    world.settle();
    assert_eq!(states(&world)[..4], before[..4]);
    assert_eq!(log_files(&world), named(&world));
    assert!(world.compact(tp(), most_go), "it can be tried again");
    world.check();
}

/// Readers on their way when their segment is replaced get what they asked for.
#[test]
fn a_read_under_way_outlives_the_segment_it_reads() {
    let mut world = world_with(6);
    world.stop();
    world.start(1);
    assert!(world.begin_compaction(tp(), |all| 0..all.len(), most_go));
    // Reads of all segments: some wait for an index, some for their bytes.
    let offsets: Vec<Offset> =
        states(&world)[..6].iter().map(|segment| segment.base_offset).collect();
    let swaps = world.swaps;
    while world.swaps == swaps {
        world.turn_with(1, |action| match action {
            Action::Read { file, .. } => !matches!(file, FileName::Index { .. }),
            _ => true,
        });
        if world.reads_begun < 40 {
            for from in &offsets {
                world.begin_read(tp(), *from);
            }
        }
    }
    world.settle();
    assert_eq!(world.reads_ended(), world.reads_begun);
    assert!(world.reads_failed().is_empty(), "{:?}", world.reads_failed());
}
