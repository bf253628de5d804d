//! The rules of storage, each by its name: what a crash, a full disk, a failing device and damage
//! may do, and what they may not.
//!
//! The random lives in `random_crashes.rs` look for what nobody thought of; here stand the cases
//! somebody did, and in `reading.rs` those of what is served and found.

mod disk;
mod world;

use disk::Survival;
use tidemill_record::{
    Marker, Offset, Outcome, PartitionId, Producer, ProducerEpoch, ProducerId, Timestamp,
    TopicPartition,
};
use tidemill_storage::checkpoint::SegmentName;
use tidemill_storage::error::{AppendError, ReadError};
use tidemill_storage::io::{Action, DirName, Fault, FileName};
use tidemill_storage::layout::{EntryKind, WindowHeader};
use tidemill_storage::{AppendKind, Read, RecoverError};
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

/// Who reads what is committed waited without an error, for ever, where the damaged end of a log held
/// the marker of a transaction; who reads all was told of it. In a sound log such a reader waits.
#[test]
fn damage_that_holds_a_marker_is_told_to_who_waits_for_the_marker() {
    let mut world = World::started(3, 1, 1);
    let producer = Producer { id: ProducerId(9), epoch: ProducerEpoch(0) };
    let append = |world: &mut World, batch| {
        world.append_patiently(partition(0), batch);
        world.settle();
    };
    let batch = world.new_batch(1, 300);
    append(&mut world, batch);
    let batch = world.transactional_batch(producer, 0, 1);
    append(&mut world, batch);
    let read_stable = |world: &mut World| {
        let stable = world.log(partition(0)).last_stable(world.log(partition(0)).durable_end());
        assert_eq!(stable, Offset(1));
        world.read_once(partition(0), stable, stable)
    };
    let waits = read_stable(&mut world);
    assert!(matches!(waits, Ok(Read::Ready { size_bytes: 0, .. })), "the transaction is open");

    let marker = Marker { outcome: Outcome::Commit, coordinator_epoch: 0 };
    let batch = marker.to_batch(producer, Timestamp(world.wall_ms));
    append(&mut world, batch);
    let mut full = windows(&world).into_iter().filter(|(_, header)| header.entries_count != 0);
    let (at, header) = full.next_back().unwrap();
    world.disk.rot(&journal_file(0), at + header.payload_at() + 70, 1);
    world.crash(Survival::Nothing);
    world.start_unchecked(1);
    assert_eq!(world.report.damaged.len(), 1);
    let damage = ReadError::Damaged { offsets: Offset(2)..Offset(i64::MAX) };
    assert_eq!(read_stable(&mut world).unwrap_err(), damage);
    assert!(world.read_all(partition(0), Offset(0)).is_ok_and(|bytes| !bytes.is_empty()));
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
    let known = tidemill_storage::checkpoint::SNAPSHOT_VERSION;
    assert_eq!(
        world.try_start(1).unwrap_err(),
        RecoverError::NewerFormat { file: name, found: 9, known }
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
    let log = SegmentName::appended(Offset(0)).file(tp);
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
    let log = SegmentName::appended(Offset(0)).file(tp);
    world.disk.rot(&log, 2 * BLOCK, 1);
    world.crash(Survival::Nothing);
    world.start_unchecked(1);
    let broken: Vec<_> = world.report.damaged.iter().map(|d| d.partition).collect();
    assert_eq!(broken, [tp]);
    assert_eq!(world.log(partition(1)).end(), Offset(1));
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
            world.crash(Survival::Nothing);
            world.start(1);
        }
    }
}

fn is_journal(action: &Action) -> bool {
    matches!(action, Action::Write { file: FileName::Journal { .. }, .. })
}

/// The bug: when a read of what a cut takes away ended before the cut's entry was durable, the files
/// went at once. A crash then brought the log back as it was before, and they were missing.
#[test]
fn files_that_a_cut_takes_away_stay_until_its_entry_is_durable() {
    let mut world = World::started(36, 1, 1);
    let tp = partition(0);
    for _ in 0..40 {
        world.append_new(tp, 1, 4_000);
    }
    world.settle();
    world.crash(Survival::Nothing);
    world.start_unchecked(1);
    let gone = world.log(tp).segments().last().expect("the newest").base_offset;
    let file = SegmentName::appended(gone).file(tp);
    world.begin_read(tp, gone);
    assert!(world.truncate(tp, Offset(3)));
    while !world.disk.pending().iter().any(|request| is_journal(&request.action)) {
        world.turn_with(1, |action| match action {
            Action::Read { file, .. } => !matches!(file, FileName::Index { .. }),
            _ => !is_journal(action),
        });
    }
    assert_eq!(world.reads_ended(), 0);
    for _ in 0..20 {
        world.turn_with(1, |action| !is_journal(action));
    }
    assert_eq!(world.reads_ended(), 1);
    assert!(world.disk.file(&file).is_some());
    let mut after = world.cut(Survival::Nothing);
    after.start(1);
    assert_eq!(after.log(tp).end(), Offset(40));
    world.settle();
    assert_eq!(world.log(tp).end(), Offset(3));
    assert!(world.disk.file(&file).is_none());
}
