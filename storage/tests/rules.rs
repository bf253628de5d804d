//! The rules of storage, each by its name: what a crash, a full disk, a failing device and damage
//! may do, and what they may not.
//!
//! The random lives in `random_crashes.rs` look for what nobody thought of; here stand the cases
//! somebody did.

mod disk;
mod world;

use disk::Survival;
use tidemill_record::{BatchBuilder, Codec, Offset, PartitionId, Timestamp, TopicPartition};
use tidemill_storage::error::{AppendError, ReadError};
use tidemill_storage::io::{Action, DirName, Fault, FileName};
use tidemill_storage::layout::{EntryKind, WindowHeader};
use tidemill_storage::{AppendKind, RecoverError};
use world::{World, partition};

const BLOCK: usize = 4096;

fn journal_file(number: u32) -> FileName {
    FileName::Journal { shard: 0, number }
}

/// Positions of the windows in the first journal file, with their headers.
fn windows(world: &World) -> Vec<(usize, WindowHeader)> {
    let file = world.disk.file(&journal_file(0)).expect("the journal's first file");
    let mut found = Vec::new();
    let mut at = 0;
    while let Ok((header, ..)) = WindowHeader::decode(&file[at..], file.len() as u64) {
        found.push((at, header));
        at += header.window_bytes() as usize;
    }
    found
}

/// A scenario small enough to be cut at each of its steps: three logs, several windows, a
/// checkpoint, flushes, a roll.
fn scenario(world: &mut World, each_step: &mut dyn FnMut(&World)) {
    for round in 0..24 {
        for n in 0..3 {
            let size_bytes = if round % 8 == 7 { 9_000 } else { 700 };
            let batch = world.new_batch(2, size_bytes);
            // A refusal while space is being made ready is part of the scenario.
            let _ = world.append(partition(n), batch);
        }
        for _ in 0..3 {
            world.turn(1);
            each_step(world);
        }
    }
}

/// Promise 1, as a table: the power may go after any request of any kind.
#[test]
fn a_crash_after_any_request_loses_nothing_acknowledged() {
    let mut world = World::started(7, 3, 1);
    let mut cuts = 0;
    let mut seed = 0;
    scenario(&mut world, &mut |world| {
        seed += 1;
        for survival in [
            Survival::Nothing,
            Survival::Everything,
            Survival::Torn { seed },
            Survival::Torn { seed: !seed },
        ] {
            let mut after = world.cut(survival);
            after.start(1);
            cuts += 1;
        }
    });
    assert!(200 < cuts);
}

/// A journal file is used again only once a durable checkpoint needs nothing in it.
#[test]
fn a_crash_at_any_moment_while_the_journal_goes_round_loses_nothing() {
    for seed in 0..4 {
        let mut world = World::started(seed, 3, 1);
        // Only in the journal: nothing else ever asks for it to be written.
        world.append_new(partition(2), 1, 50);
        world.settle();
        for round in 0..150 {
            for n in [0, 0, 0, 1] {
                let batch = world.new_batch(1, 3_500);
                let _ = world.append(partition(n), batch);
            }
            world.turn_without_checkpoints(12);
            if round % 5 == 0 {
                let mut after = world.cut(Survival::Nothing);
                after.start(1);
                assert!(after.report.damaged.is_empty(), "{:?}", after.report.damaged);
            }
            if round == 100 {
                world.settle();
            }
        }
    }
}

/// Recovered is durable: a second crash straight after recovery takes nothing of it.
#[test]
fn what_recovery_has_given_survives_a_crash_at_once() {
    let mut world = World::started(8, 3, 1);
    let mut seed = 0;
    scenario(&mut world, &mut |world| {
        seed += 1;
        let mut after = world.cut(Survival::Torn { seed });
        after.start(2);
        after.crash(Survival::Nothing);
        after.start(1);
    });
}

/// Nobody was told of a window that was under way, so its loss is not damage.
#[test]
fn a_torn_tail_is_where_the_journal_ends() {
    for seed in 0..50 {
        let mut world = World::started(seed, 2, 1);
        world.append_new(partition(0), 3, 500);
        world.settle();
        for _ in 0..3 {
            let batch = world.new_batch(2, 6_000);
            world.append_patiently(partition(0), batch);
            world.turn(0);
        }
        world.crash(Survival::Torn { seed });
        world.start(1);
        assert!(world.report.damaged.is_empty(), "{:?}", world.report.damaged);
    }
}

/// A world in which three acknowledged batches of two logs lie in windows of their own.
fn three_windows() -> (World, Vec<(usize, WindowHeader)>) {
    let mut world = World::started(3, 2, 1);
    for n in [0, 1, 0] {
        world.append_new(partition(n), 1, 300);
        world.settle();
    }
    let all = windows(&world);
    let full: Vec<_> = all.into_iter().filter(|(_, header)| header.entries_count != 0).collect();
    assert_eq!(full.len(), 3);
    (world, full)
}

/// A window that was reported durable is missed when it is bad: what follows says so.
#[test]
fn a_bad_window_below_the_mark_is_damage_and_never_truncated_away() {
    let (mut world, full) = three_windows();
    let (last, _) = full[2];
    world.disk.rot(&journal_file(0), last + 20, 0xff);
    world.crash(Survival::Nothing);
    world.start_unchecked(1);

    assert_eq!(world.report.damaged.len(), 2, "what the window held is not known");
    let damage = world.report.damaged.iter().find(|d| d.partition == partition(0)).unwrap();
    assert_eq!(damage.offsets.start, Offset(1), "the second batch of log 0 is not proved");
    let batch = world.new_batch(1, 100);
    assert_eq!(world.append(partition(0), batch), Err(AppendError::Damaged { from: Offset(1) }));
    assert!(matches!(
        world.read_all(partition(0), Offset(0)).map(|bytes| !bytes.is_empty()),
        Ok(true)
    ));
    world.crash(Survival::Nothing);
    world.start_unchecked(1);
    assert_eq!(world.report.damaged.len(), 2, "a restart does not make it good");
}

/// The idle mark: the very last acknowledged window is missed too.
#[test]
fn an_idle_journal_ends_with_a_mark() {
    let (world, _) = three_windows();
    let (_, last) = windows(&world).pop().unwrap();
    assert_eq!(last.entries_count, 0);
    assert_eq!(last.mark, last.sequence - 1, "all before it was reported durable");
    assert_eq!(world.shards[0].next_deadline(), None, "an idle shard wants no time");
}

/// If one payload alone is bad, it is known whose it was, and the others go on.
#[test]
fn damage_in_one_payload_breaks_that_log_only() {
    let (mut world, full) = three_windows();
    let (at, header) = full[1];
    world.disk.rot(&journal_file(0), at + header.payload_at() + 70, 1);
    world.crash(Survival::Nothing);
    world.start_unchecked(1);

    assert_eq!(world.report.damaged.len(), 1);
    assert_eq!(world.report.damaged[0].partition, partition(1));
    assert_eq!(world.log(partition(0)).end(), Offset(2), "log 0 is whole");
    world.append_new(partition(0), 1, 100);
    let batch = world.new_batch(1, 100);
    assert_eq!(world.append(partition(1), batch), Err(AppendError::Damaged { from: Offset(0) }));
}

/// A log that has entries behind lost windows, and no gap, was not in them.
#[test]
fn a_log_whose_entries_go_on_without_a_gap_is_proved() {
    let (mut world, full) = three_windows();
    // Log 1 has its only entry in the lost window; log 0 has one before and one behind it.
    world.disk.rot(&journal_file(0), full[1].0 + 9, 0x55);
    world.crash(Survival::Nothing);
    world.start_unchecked(1);

    let broken: Vec<_> = world.report.damaged.iter().map(|d| d.partition).collect();
    assert_eq!(broken, [partition(1)]);
    assert_eq!(world.log(partition(0)).end(), Offset(2));
}

/// A fresh incarnation reads nothing of an older one, though its windows are still in the files.
#[test]
fn windows_of_an_older_incarnation_never_return() {
    let mut world = World::started(5, 1, 1);
    for _ in 0..6 {
        world.append_new(partition(0), 2, 3_000);
        world.settle();
    }
    world.crash(Survival::Everything);
    world.start(1);
    // The new journal overwrites the first window only.
    world.append_new(partition(0), 1, 10);
    world.settle();
    let end = world.log(partition(0)).end();
    world.crash(Survival::Everything);
    world.start(1);
    assert_eq!(world.log(partition(0)).end(), end);
    assert_eq!(world.report.windows, 2, "the append and its mark");
}

/// A clean stop leaves nothing to replay.
#[test]
fn after_a_clean_stop_nothing_is_drained() {
    let mut world = World::started(6, 3, 2);
    for n in 0..3 {
        world.append_new(partition(n), 5, 12_000);
    }
    world.settle();
    world.stop();
    world.start(2);
    assert_eq!((world.report.windows, world.report.drained_bytes), (0, 0));
}

/// A failed write or sync may have lost anything: nothing more is appended, acknowledged or
/// recycled; what is durable is still read; a restart repairs it.
#[test]
fn a_failed_write_or_sync_fences_until_the_restart() {
    let kinds: [fn(&Action) -> bool; 3] = [
        |action| matches!(action, Action::Write { file: FileName::Journal { .. }, .. }),
        |action| matches!(action, Action::Write { file: FileName::Log { .. }, .. }),
        |action| matches!(action, Action::Sync { .. } | Action::SyncFileSystem),
    ];
    for kind in kinds {
        let mut world = World::started(11, 2, 1);
        world.append_new(partition(0), 3, 2_000);
        world.settle();
        world.disk.fail_when(kind, 0, Fault::Device);
        let refused = (0..500).find_map(|_| {
            let batch = world.new_batch(2, 3_000);
            let refused = world.append(partition(1), batch).err();
            world.turn(4);
            refused.filter(|error| *error == AppendError::Fenced)
        });
        assert_eq!(refused, Some(AppendError::Fenced));
        let durable_end = world.log(partition(1)).durable_end();
        world.check();
        world.settle();
        assert_eq!(world.log(partition(1)).durable_end(), durable_end, "nothing is acknowledged");

        world.crash(Survival::Nothing);
        world.start(1);
        world.append_new(partition(1), 1, 100);
        world.settle();
        world.check();
    }
}

/// Only reserving space can meet a full disk. The log that cannot grow waits; what is there can
/// be read; and when there is space again it goes on by itself.
#[test]
fn a_full_disk_refuses_appends_and_heals() {
    let mut world = World::started(12, 2, 1);
    world.append_new(partition(0), 3, 2_000);
    world.settle();
    world.disk.free_bytes = Some(0);
    let mut taken = 0;
    while taken < 1000 {
        let batch = world.new_batch(1, 1_000);
        if world.append(partition(0), batch).is_err() {
            world.settle();
            let batch = world.new_batch(1, 1_000);
            if world.append(partition(0), batch).is_err() {
                break;
            }
        }
        taken += 1;
        world.turn(2);
    }
    assert!(taken < 1000, "space that is not there cannot be used");
    world.settle();
    assert!(world.no_space_told, "whoever waits is told");
    world.check();

    world.disk.free_bytes = None;
    world.now += 2_000_000_000;
    world.append_new(partition(0), 1, 1_000);
    world.append_new(partition(1), 1, 1_000);
    world.settle();
    world.check();
}

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
    let file = FileName::Log { topic: tp.topic, partition: tp.partition, base_offset: Offset(0) };
    world.disk.rot(&file, 4 * BLOCK + 77, 4);

    let first = world.read_all(tp, Offset(0));
    let Err(ReadError::Damaged { offsets }) = first else {
        panic!("not served: {first:?}");
    };
    assert!(offsets.start <= Offset(4) && Offset(4) < offsets.end);
    assert!(world.read_all(tp, offsets.end).is_ok(), "what lies behind is served");
    assert_eq!(world.log(tp).damaged(), [offsets]);
}

/// A client that repeats a batch after a restart gets the offsets of the first time.
#[test]
fn a_batch_sent_again_after_a_restart_is_a_duplicate() {
    for stops in [false, true] {
        let mut world = World::started(14, 1, 1);
        let tp = partition(0);
        let batches: Vec<_> = (0..6).map(|i| world.numbered_batch(42, 3 * i, 3)).collect();
        let firsts: Vec<_> =
            batches.iter().map(|batch| world.append_patiently(tp, batch.clone())).collect();
        world.settle();
        if stops {
            world.stop();
        } else {
            world.crash(Survival::Nothing);
        }
        world.start(1);
        let again = world.append(tp, batches[5].clone()).unwrap();
        assert_eq!(again.kind, AppendKind::Duplicate);
        assert_eq!(again.base_offset, firsts[5].base_offset);
        let next = world.numbered_batch(42, 18, 1);
        assert_eq!(world.append_patiently(tp, next).kind, AppendKind::New);
    }
}

/// An append that was never durable is forgotten with its producer's number: sent again it is
/// new, or it would be acknowledged without being there.
#[test]
fn a_batch_that_did_not_survive_is_no_duplicate() {
    let mut world = World::started(15, 1, 1);
    let tp = partition(0);
    let first = world.numbered_batch(42, 0, 1);
    world.append_patiently(tp, first);
    world.settle();
    let lost = world.numbered_batch(42, 1, 1);
    world.append(tp, lost.clone()).unwrap();
    world.crash(Survival::Nothing);
    world.start(1);
    assert_eq!(world.append_patiently(tp, lost).kind, AppendKind::New);
}

/// A journal that is full of other logs' entries makes room by itself.
#[test]
fn a_journal_is_used_again_and_again() {
    let mut world = World::started(16, 3, 1);
    world.append_new(partition(2), 1, 50);
    let written: u64 = 40 * world.config.journal_bytes_max;
    for n in 0..(written / 8_000) as i32 {
        world.append_new(partition(n % 2), 2, 4_000);
    }
    world.settle();
    world.check();
    let files = world.disk.paths("journal/shard-0/").len() as u64;
    let bytes_max = world.config.journal_bytes_max / world.config.journal_file_bytes;
    assert!(files <= bytes_max + 2, "{files} files");
    world.crash(Survival::Nothing);
    world.start(1);
}

/// The bug: large runs hardly fill the journal, so no checkpoint was made for long, and the start
/// after a kill read again everything that the runs had brought: 14 seconds after 3 GB.
#[test]
fn a_start_replays_little_however_much_was_written() {
    for size_bytes in [100, 4_000, 30_000] {
        let mut world = World::started(16, 2, 1);
        let replay_max = world.config.replay_bytes_max;
        for n in 0..(30 * replay_max / size_bytes).min(4_000) as i32 {
            world.append_new(partition(n % 2), 2, size_bytes as usize);
        }
        world.settle();
        world.crash(Survival::Nothing);
        let before = world.disk.read_bytes;
        world.start_unchecked(1);
        let read = world.disk.read_bytes - before;
        // Beside it: what came while the checkpoint was made, the journal's rest is searched, and
        // the checkpoints are read with the space reserved for them.
        let others = 2 * world.config.journal_file_bytes + (512 << 10);
        assert!(read <= 2 * replay_max + others, "{read} bytes for runs of {size_bytes}");
        world.check();
    }
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

/// Deleted topics go with all their files; a directory nobody knows is put aside, not removed.
#[test]
fn a_dropped_log_leaves_nothing_behind() {
    let mut world = World::started(17, 2, 1);
    for n in 0..14 {
        world.append_new(partition(n % 2), 30, 12_000);
    }
    world.settle();
    assert!(1 < world.log(partition(0)).segments_count());
    world.drop_log(partition(0));
    world.settle();
    assert_eq!(world.dropped, [partition(0)]);
    let left = world.disk.paths("partitions/");
    assert!(!left.is_empty() && left.iter().all(|path| path.contains("/1/")), "{left:?}");
    world.check();
}

/// A node epoch that is not new means that two nodes share a directory, or metadata was lost.
#[test]
fn a_node_epoch_seen_before_is_refused() {
    let mut world = World::started(18, 1, 1);
    world.append_new(partition(0), 1, 10);
    world.settle();
    world.crash(Survival::Nothing);
    world.set_incarnation(1);
    assert_eq!(
        world.try_start(1).unwrap_err(),
        RecoverError::StaleIncarnation { given: 1, found: 1 }
    );
}

/// Without the common state, newer windows mean nothing: better not to start than to serve holes.
#[test]
fn a_damaged_base_is_not_passed_over() {
    let mut world = World::started(19, 1, 1);
    world.append_new(partition(0), 1, 10);
    world.settle();
    world.crash(Survival::Nothing);
    world.disk.rot(&FileName::Base { incarnation: 1 }, 30, 1);
    assert_eq!(world.try_start(1).unwrap_err(), RecoverError::BaseDamaged { incarnation: 1 });
}

/// What a newer program wrote is not guessed at.
#[test]
fn a_newer_format_is_a_clear_error() {
    let mut world = World::started(20, 1, 1);
    world.append_new(partition(0), 1, 10);
    world.settle();
    world.stop();
    let name = FileName::Base { incarnation: 1 };
    let mut base = world.disk.file(&name).unwrap().to_vec();
    base[9] = 9;
    let crc_at = tidemill_storage::checkpoint::SNAPSHOT_HEADER_BYTES - 4;
    let total = tidemill_storage::checkpoint::Snapshot::total_bytes(&base).unwrap() as usize;
    let crc = tidemill_record::checksum::crc32c(&base[..crc_at]);
    let crc = tidemill_record::checksum::append(crc, &base[crc_at + 4..total]);
    base[crc_at..crc_at + 4].copy_from_slice(&crc.to_be_bytes());
    world.disk.put_file(&name, &base);
    assert_eq!(
        world.try_start(1).unwrap_err(),
        RecoverError::NewerFormat { file: name, found: 9, known: 1 }
    );
}

/// What is long is written once: to its segment, while the journal takes only the reference and
/// the partial blocks at its ends.
#[test]
fn a_large_run_is_written_once() {
    let mut world = World::started(21, 1, 1);
    let tp = partition(0);
    world.append_new(tp, 1, 100);
    world.settle();
    let before = windows(&world).len();
    world.append_new(tp, 4, 30_000);
    world.settle();

    let file = world.disk.file(&journal_file(0)).unwrap();
    let (at, header) = windows(&world)[before];
    let (_, entries, _) = WindowHeader::decode(&file[at..], header.window_bytes()).unwrap();
    assert_eq!(entries[0].kind, EntryKind::Reference);
    assert!(header.window_bytes() <= 3 * BLOCK as u64);
    let log = FileName::Log { topic: tp.topic, partition: tp.partition, base_offset: Offset(0) };
    let segment = world.disk.file(&log).unwrap();
    assert!(segment[BLOCK..2 * BLOCK].iter().any(|&byte| byte != 0), "it is there already");

    world.append_new(tp, 1, 100);
    world.crash(Survival::Nothing);
    world.start(1);
    assert!(Offset(5) <= world.log(tp).end());
}

/// A run that rotted in its segment is noticed by the replay that needs it, and not served.
#[test]
fn a_reference_to_damaged_bytes_is_damage() {
    let mut world = World::started(22, 2, 1);
    world.append_new(partition(0), 4, 30_000);
    world.append_new(partition(1), 1, 100);
    world.settle();
    let tp = partition(0);
    let log = FileName::Log { topic: tp.topic, partition: tp.partition, base_offset: Offset(0) };
    world.disk.rot(&log, 2 * BLOCK, 1);
    world.crash(Survival::Nothing);
    world.start_unchecked(1);
    let broken: Vec<_> = world.report.damaged.iter().map(|d| d.partition).collect();
    assert_eq!(broken, [tp]);
    assert_eq!(world.log(partition(1)).end(), Offset(1));
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
    let log = FileName::Log { topic: tp.topic, partition: tp.partition, base_offset: Offset(0) };
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

/// The bug: after a kill that found a new record in each of 10,000 partitions, the start synced each
/// of their directories, one by one, for 5 seconds.
#[test]
fn a_start_that_drains_many_partitions_syncs_them_all_at_once() {
    let mut world = World::started(5, 40, 1);
    world.config.sync_files_max = 8;
    for n in 0..40 {
        world.append_new(partition(n), 1, 100);
    }
    while (0..40).any(|n| world.log(partition(n)).durable_end() == Offset(0)) {
        world.turn(1);
    }
    world.crash(Survival::Nothing);
    let one_by_one = |action: &Action| match action {
        Action::SyncDir { dir } => matches!(dir, DirName::Partition { .. }),
        Action::Sync { file } => matches!(file, FileName::Log { .. }),
        _ => false,
    };
    world.disk.fail_when(one_by_one, 0, Fault::Device);
    world.start(1);
    world.disk.heal();
    world.check_after_start();
}

/// The bug: a checkpoint spoke of a log as synced up to a place in a segment that was trimmed away
/// since. Its replay dropped that segment's bytes in between, then did not know the beginning of
/// the block in which the next append went on, and gave up the whole log.
#[test]
fn a_long_replay_through_a_trimmed_segment_loses_nothing() {
    let mut world = World::new(11, 2);
    world.config.replay_bytes_max = 1 << 30;
    world.config.index_step_bytes = 1 << 30;
    world.config.journal_bytes_max = 1 << 20;
    // Longer than a file of the journal.
    world.log_config.segment_bytes = 128 << 10;
    world.start(1);
    let (trimmed, forces) = (partition(0), partition(1));
    let mut last = world.append_new(trimmed, 1, 3_001);
    while last.base_offset < Offset(44) {
        // One by one: together they would be a large run.
        (0..4).for_each(|_| world.turn(4));
        last = world.append_new(trimmed, 1, 3_001);
    }
    for _ in 0..12 {
        world.append_new(forces, 1, 14_001);
    }
    world.settle();
    assert!(world.trim(trimmed, Offset(44)));
    world.settle();
    // A segment with large runs goes only after a checkpoint without them.
    assert!(world.trim(forces, Offset(11)));
    world.settle();
    world.append_new(trimmed, 1, 3_001);
    world.settle();
    world.crash(Survival::Nothing);
    world.start(1);
    world.check_after_start();
    assert!(world.report.damaged.is_empty());
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

/// A log whose next append waits for space, which a full disk is about to refuse.
fn refused_soon(appended: usize) -> (World, TopicPartition) {
    let mut world = World::started(33, 1, 1);
    let tp = partition(0);
    for _ in 0..appended {
        world.append_new(tp, 1, 1_000);
    }
    world.settle();
    world.disk.free_bytes = Some(0);
    let is_allocation = |action: &Action| matches!(action, Action::Allocate { .. });
    for _ in 0..1000 {
        if world.disk.pending().iter().any(|request| is_allocation(&request.action)) {
            return (world, tp);
        }
        let batch = world.new_batch(1, 1_000);
        let _ = world.append(tp, batch);
        world.turn_with(20, not_allocating);
    }
    panic!("it never needs space");
}

fn not_allocating(action: &Action) -> bool {
    !matches!(action, Action::Allocate { .. })
}

/// The bug: a log that was dropped or cut while space for it was being reserved waited for ever
/// when the disk was full.
#[test]
fn a_full_disk_does_not_keep_a_log_from_going() {
    let (mut world, tp) = refused_soon(0);
    world.drop_log(tp);
    (0..100).for_each(|_| world.turn_with(20, not_allocating));
    assert!(world.dropped.is_empty(), "a request is under way");
    world.settle();
    assert_eq!(world.dropped, [tp]);

    let (mut world, tp) = refused_soon(3);
    assert!(world.truncate(tp, Offset(1)));
    (0..200).for_each(|_| world.turn_with(20, not_allocating));
    world.settle();
    assert_eq!(world.log(tp).end(), Offset(1));
    assert_eq!(world.models[&tp].truncating, None);
}

/// The bug: the drop of another partition took the topic's directory, still empty, and the log
/// that was about to make its own in it fenced the node.
#[test]
fn a_first_append_makes_again_the_directory_that_a_drop_has_removed() {
    for drops_both in [false, true] {
        let mut world = World::started(34, 2, 2);
        let (dropped, kept) = (partition(0), partition(1));
        let batch = world.new_batch(1, 100);
        assert_eq!(world.append(kept, batch), Err(AppendError::SpaceNotReserved));
        let is_quick = |action: &Action| match action {
            Action::MakeDir { dir: DirName::Partition { partition, .. } } => {
                *partition != PartitionId(1)
            }
            _ => true,
        };
        (0..10).for_each(|_| world.turn_with(10, is_quick));
        world.drop_log(dropped);
        if drops_both {
            world.drop_log(kept);
        }
        (0..50).for_each(|_| world.turn_with(10, is_quick));
        assert_eq!(world.dropped, [dropped]);
        world.settle();
        assert!(world.shards.iter().all(|shard| !shard.is_fenced()));
        if drops_both {
            assert_eq!(world.dropped, [dropped, kept]);
        } else {
            world.append_new(kept, 1, 100);
            world.settle();
            restart(&mut world);
        }
    }
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
