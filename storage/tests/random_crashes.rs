//! Random lives of a node: appends, trims, truncations, crashes at any moment, other numbers of
//! shards. After each start everything promised is there and nothing else has come back.
//!
//! A failing seed is named; `TIDEMILL_SEED=<seed> cargo test -p tidemill-storage --test
//! random_crashes` repeats it alone.

mod disk;
mod world;

use disk::{Random, Survival};
use tidemill_record::Offset;
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
struct Hazards {
    trims: bool,
    truncations: bool,
    crashes_in_recovery: bool,
}

fn live(seed: u64, hazards: &Hazards) {
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
        for _ in 0..random.below(120) {
            step(&mut world, &mut random, partitions, hazards);
        }
        if random.below(4) == 0 {
            world.stop();
        } else {
            let survival = survival(&mut random);
            world.crash(survival);
        }
    }
    world.start(1);
    world.stop();
}

fn step(world: &mut World, random: &mut Random, partitions: i32, hazards: &Hazards) {
    let tp = partition(random.below(partitions as u64) as i32);
    match random.below(20) {
        0..12 => {
            let records = 1 + random.below(5) as u32;
            let size_bytes = match random.below(8) {
                0 => 12_000,
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
        _ => {
            let completions = random.below(6);
            world.turn(completions);
        }
    }
}

fn truncate(world: &mut World, random: &mut Random, tp: tidemill_record::TopicPartition) {
    let model = &world.models[&tp];
    let start = world.log(tp).start();
    let boundaries: Vec<Offset> = model
        .batches
        .iter()
        .map(|batch| batch.base_offset)
        .filter(|offset| start.max(model.start_asked) <= *offset)
        .collect();
    if boundaries.is_empty() || model.truncating.is_some() {
        return;
    }
    let to = boundaries[random.below(boundaries.len() as u64) as usize];
    world.truncate(tp, to);
}

fn seeds() -> impl Iterator<Item = u64> {
    let one = std::env::var("TIDEMILL_SEED").ok().and_then(|seed| seed.parse().ok());
    let all = one.map_or(0..SEEDS, |seed: u64| seed..seed + 1);
    all.inspect(|seed| println!("seed {seed}"))
}

/// Promise 1: what was acknowledged survives any crash.
#[test]
fn what_was_durable_survives_any_crash() {
    let hazards = Hazards { trims: false, truncations: false, crashes_in_recovery: false };
    seeds().for_each(|seed| live(seed, &hazards));
}

/// A crash in the middle of recovering from a crash loses nothing either.
#[test]
fn recovery_may_be_interrupted_anywhere() {
    let hazards = Hazards { trims: false, truncations: false, crashes_in_recovery: true };
    seeds().for_each(|seed| live(seed, &hazards));
}

/// What was deleted or cut off stays so, whatever old windows the journal still holds.
#[test]
fn what_was_cut_never_returns() {
    let hazards = Hazards { trims: true, truncations: true, crashes_in_recovery: true };
    seeds().for_each(|seed| live(seed, &hazards));
}
