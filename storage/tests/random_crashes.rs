//! Random lives of a node: appends, trims, truncations, crashes at any moment, other numbers of
//! shards. After each start everything promised is there and nothing else has come back.
//!
//! A failing seed is named; `TIDEMILL_SEED=<seed> cargo test -p tidemill-storage --test
//! random_crashes` repeats it alone. `TIDEMILL_SEEDS=<count>` runs more of them.

mod disk;
mod world;

use std::collections::VecDeque;
use std::ops::Range;

use bytes::BytesMut;
use disk::{Random, Survival};
use tidemill_record::{Offset, TopicPartition};
use tidemill_storage::AppendKind;
use tidemill_storage::checkpoint::SegmentState;
use tidemill_storage::io::{Action, Fault};
use world::compacting::Fate;
use world::{World, partition};

const SEEDS: u64 = 150;

fn survival(random: &mut Random) -> Survival {
    match random.below(4) {
        0 => Survival::Nothing,
        1 => Survival::Everything,
        _ => Survival::Torn { seed: random.next() },
    }
}

/// What may happen in one life.
#[derive(Default)]
struct Hazards {
    trims: bool,
    truncations: bool,
    crashes_in_recovery: bool,
    /// Writes and syncs fail.
    faults: bool,
    /// The disk is full for a while.
    full_disks: bool,
    /// Logs are compacted.
    compactions: bool,
}

/// Returns how many compacted segments were put in.
fn live(seed: u64, hazards: &Hazards) -> u64 {
    let mut random = Random(seed);
    let partitions = 1 + random.below(5) as i32;
    let mut world = World::new(seed, partitions);
    for _ in 0..4 {
        let shards = 1 + random.below(3) as u16;
        if hazards.crashes_in_recovery && random.below(3) == 0 {
            let steps = random.below(80);
            let survival = survival(&mut random);
            world.crash_within_recovery(shards, steps, survival);
        }
        world.start(shards);
        // Some lives are long enough to use the whole journal several times.
        let longer = if random.below(8) == 0 { 8 } else { 1 + 2 * u64::from(hazards.compactions) };
        for _ in 0..longer * random.below(120) {
            step(&mut world, &mut random, partitions, hazards);
        }
        end_life(&mut world, &mut random);
    }
    world.start(1);
    world.stop();
    world.swaps
}

fn end_life(world: &mut World, random: &mut Random) {
    if random.below(4) == 0 {
        world.stop();
        world.disk.heal();
    } else {
        world.disk.heal();
        let survival = survival(random);
        world.crash(survival);
    }
}

fn step(world: &mut World, random: &mut Random, partitions: i32, hazards: &Hazards) {
    let tp = partition(random.below(partitions as u64) as i32);
    match random.below(20) {
        0..12 => {
            let records = 1 + random.below(5) as u32;
            let size_bytes = match random.below(8) {
                0 => 14_000 + random.below(20_000) as usize,
                1 => 5_000,
                _ => 300,
            };
            let batch = world.new_batch(records, size_bytes);
            // A refusal leaves everything as it was.
            let _ = world.append(tp, batch);
        }
        12 if hazards.trims => {
            let end = world.models[&tp].durable_end;
            let before = Offset(random.below(end.0 as u64 + 1) as i64);
            if world.log(tp).start() <= before {
                world.trim(tp, before);
            }
        }
        13 if hazards.truncations => truncate(world, random, tp),
        14 => world.check(),
        15 => world.settle(),
        16 if hazards.faults && random.below(4) == 0 => {
            let after = random.below(20) as u32;
            world.disk.fail_when(is_write_or_sync, after, Fault::Device);
        }
        16 if hazards.full_disks => {
            let free = random.below(100_000);
            world.disk.free_bytes = Some(free).filter(|_| random.below(2) == 0);
        }
        17 if hazards.compactions => compact(world, random, tp),
        _ => {
            let completions = random.below(6);
            world.turn(completions);
        }
    }
}

fn compact(world: &mut World, random: &mut Random, tp: TopicPartition) {
    let which: fn(&[SegmentState]) -> Range<usize> = match random.below(3) {
        0 => |all| 0..all.len(),
        1 => |all| all.len() / 2..all.len(),
        _ => |_| 0..1,
    };
    world.begin_compaction(tp, which, |_| match random.below(4) {
        0 => Fate::Stays,
        1 => Fate::Emptied,
        _ => Fate::Goes,
    });
}

fn is_write_or_sync(action: &Action) -> bool {
    matches!(
        action,
        Action::Write { .. }
            | Action::Sync { .. }
            | Action::SyncDir { .. }
            | Action::SyncFileSystem
            | Action::Truncate { .. }
    )
}

fn truncate(world: &mut World, random: &mut Random, tp: TopicPartition) {
    let model = &world.models[&tp];
    if model.truncating.is_some() {
        return;
    }
    let start = world.log(tp).start().max(model.start_asked);
    let boundaries: Vec<Offset> = model
        .batches
        .iter()
        .map(|batch| batch.base_offset)
        .filter(|offset| start <= *offset)
        .collect();
    let length = world.log(tp).end().0 - start.0;
    if length <= 0 {
        return;
    }
    let to = match random.below(2) {
        0 if !boundaries.is_empty() => boundaries[random.below(boundaries.len() as u64) as usize],
        // Anywhere, in a batch or a hole.
        _ => start.plus(random.below(length as u64) as i64),
    };
    world.truncate(tp, to);
}

/// An idempotent producer of one partition, with up to five batches whose replies it waits for.
struct Client {
    tp: TopicPartition,
    next_sequence: i32,
    /// Batches without a reply, each with where it was appended, if it was.
    unanswered: VecDeque<(BytesMut, Option<Offset>)>,
}

impl Client {
    const IN_FLIGHT_MAX: usize = 5;

    fn of(tp: TopicPartition) -> Self {
        Self { tp, next_sequence: 0, unanswered: VecDeque::new() }
    }

    /// Takes replies: a batch below the durable end has been acknowledged.
    fn take_replies(&mut self, world: &World) {
        let durable_end = world.models[&self.tp].durable_end;
        while let Some((_, Some(base_offset))) = self.unanswered.front()
            && *base_offset < durable_end
        {
            self.unanswered.pop_front();
        }
    }

    fn send(&mut self, world: &mut World, random: &mut Random) {
        if self.unanswered.len() < Self::IN_FLIGHT_MAX {
            let records = 1 + random.below(4) as u32;
            let producer = i64::from(self.tp.partition.0);
            let batch = world.numbered_batch(producer, self.next_sequence, records);
            self.next_sequence += records as i32;
            self.unanswered.push_back((batch, None));
        }
        self.send_unsent(world);
    }

    /// Sends what was never appended, in order; a refusal is tried again later.
    fn send_unsent(&mut self, world: &mut World) {
        for (batch, at) in &mut self.unanswered {
            if at.is_none() {
                let Ok(appended) = world.append(self.tp, batch.clone()) else { return };
                assert_eq!(appended.kind, AppendKind::New);
                *at = Some(appended.base_offset);
            }
        }
    }

    /// After a restart: sends everything without a reply again. What survived must be known.
    fn send_again(&mut self, world: &mut World) {
        let end = world.log(self.tp).end();
        for (batch, at) in &mut self.unanswered {
            let survived = at.filter(|base_offset| *base_offset < end);
            let appended = world.append_patiently(self.tp, batch.clone());
            match survived {
                Some(base_offset) => {
                    assert_eq!(appended.kind, AppendKind::Duplicate, "{}: {base_offset}", self.tp);
                    assert_eq!(appended.base_offset, base_offset);
                }
                None => assert_eq!(appended.kind, AppendKind::New, "{}", self.tp),
            }
            *at = Some(appended.base_offset);
        }
    }
}

/// A life with idempotent producers that send again whatever was not answered before a crash.
fn live_with_clients(seed: u64) {
    let mut random = Random(seed);
    let partitions = 1 + random.below(3) as i32;
    let mut world = World::new(seed, partitions);
    let mut clients: Vec<Client> = (0..partitions).map(|n| Client::of(partition(n))).collect();
    for _ in 0..4 {
        world.start(1 + random.below(3) as u16);
        clients.iter_mut().for_each(|client| client.send_again(&mut world));
        for _ in 0..random.below(300) {
            let client = random.below(partitions as u64) as usize;
            clients[client].send(&mut world, &mut random);
            world.turn(random.below(4));
            clients.iter_mut().for_each(|client| client.take_replies(&world));
        }
        end_life(&mut world, &mut random);
    }
    world.start(1);
}

fn seeds() -> impl Iterator<Item = u64> {
    let number = |name| std::env::var(name).ok().and_then(|value| value.parse::<u64>().ok());
    let count = number("TIDEMILL_SEEDS").unwrap_or(SEEDS);
    let all = number("TIDEMILL_SEED").map_or(0..count, |seed| seed..seed + 1);
    all.inspect(|seed| println!("seed {seed}"))
}

/// Promise 1: what was acknowledged survives any crash.
#[test]
fn what_was_durable_survives_any_crash() {
    let hazards = Hazards::default();
    for seed in seeds() {
        live(seed, &hazards);
    }
}

/// A crash in the middle of recovering from a crash loses nothing either.
#[test]
fn recovery_may_be_interrupted_anywhere() {
    let hazards = Hazards { crashes_in_recovery: true, ..Hazards::default() };
    for seed in seeds() {
        live(seed, &hazards);
    }
}

/// What was deleted or cut off stays so, whatever old windows the journal still holds.
#[test]
fn what_was_cut_never_returns() {
    let hazards =
        Hazards { trims: true, truncations: true, crashes_in_recovery: true, ..Hazards::default() };
    for seed in seeds() {
        live(seed, &hazards);
    }
}

/// Compactions may end or be cut off anywhere, among all else that happens to their logs.
#[test]
fn what_compaction_leaves_survives_any_crash() {
    let all = Hazards {
        compactions: true,
        trims: true,
        truncations: true,
        crashes_in_recovery: true,
        ..Hazards::default()
    };
    let only = Hazards { compactions: true, ..Hazards::default() };
    let mut swaps = 0;
    let mut lives = 0;
    for seed in seeds().step_by(2) {
        swaps += live(seed, if seed % 3 == 0 { &all } else { &only });
        lives += 1;
    }
    assert!(lives < 20 || lives < swaps, "{swaps} compactions in {lives} lives");
}

/// A failed write or sync ends all appending; what had been acknowledged is there after a restart.
#[test]
fn what_was_durable_survives_failing_writes_and_syncs() {
    let hazards = Hazards { faults: true, trims: true, ..Hazards::default() };
    for seed in seeds() {
        live(seed, &hazards);
    }
}

/// A full disk refuses appends, and nothing else changes.
#[test]
fn a_full_disk_loses_nothing() {
    let hazards = Hazards { full_disks: true, trims: true, ..Hazards::default() };
    for seed in seeds() {
        live(seed, &hazards);
    }
}

/// Promise 3: what a producer sends again after a crash is neither lost nor stored twice.
#[test]
fn batches_sent_again_after_a_crash_are_stored_once() {
    seeds().for_each(live_with_clients);
}
