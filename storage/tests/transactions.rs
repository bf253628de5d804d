//! Transactions across crashes: what was open is open, what was aborted is known as such, and who
//! was fenced stays fenced, whatever of it was in checkpoints, in the journal or in segments.
//!
//! What must hold is computed from the list of what was appended, without the code under test.

mod disk;
mod world;

use std::collections::BTreeMap;

use disk::{Random, Survival};
use tidemill_record::{Marker, Offset, Outcome, Producer, ProducerEpoch, ProducerId, Timestamp};
use tidemill_storage::Appended;
use tidemill_storage::error::AppendError;
use world::{World, partition};

/// Something a log holds.
#[derive(Clone, Copy, Debug)]
enum Noted {
    Batch(i64),
    Ended(i64, Outcome),
}

/// The transactional batches and markers of one log, by their offsets.
type Story = BTreeMap<i64, Noted>;

/// What readers are told: the last stable offset, and the aborted transactions by their markers.
fn told(story: &Story, end: i64) -> (i64, Vec<(i64, i64, i64)>) {
    let mut open: BTreeMap<i64, i64> = BTreeMap::new();
    let mut aborted = Vec::new();
    for (&offset, noted) in story.range(..end) {
        match noted {
            Noted::Batch(producer) => {
                open.entry(*producer).or_insert(offset);
            }
            Noted::Ended(producer, outcome) => {
                let first = open.remove(producer);
                if let Some(first) = first.filter(|_| *outcome == Outcome::Abort) {
                    aborted.push((*producer, first, offset));
                }
            }
        }
    }
    (open.values().copied().min().unwrap_or(end), aborted)
}

fn check(world: &World, n: i32, story: &Story) {
    let log = world.log(partition(n));
    let end = log.durable_end();
    let (stable, aborted) = told(story, end.0);
    assert_eq!(log.last_stable(end), Offset(stable).max(log.start()), "partition {n}");
    let found = log.aborted_in(log.start()..Offset(stable));
    let found: Vec<_> = found.iter().map(|a| (a.producer_id.0, a.first.0, a.last.0)).collect();
    let start = log.start().0;
    let expected = aborted.into_iter();
    let expected: Vec<_> =
        expected.filter(|(_, first, last)| *first < stable && start <= *last).collect();
    assert_eq!(found, expected, "partition {n}");
}

/// A producer of transactions in one partition.
#[derive(Clone, Debug, Default)]
struct Client {
    epoch: i16,
    sequence: i32,
}

impl Client {
    fn act(&mut self, world: &mut World, n: i32, id: i64, random: &mut Random, story: &mut Story) {
        let producer = Producer { id: ProducerId(id), epoch: ProducerEpoch(self.epoch) };
        if random.below(4) < 3 {
            let records = 1 + random.below(3) as u32;
            let batch = world.transactional_batch(producer, self.sequence, records);
            if let Ok(appended) = appended(world.append(partition(n), batch)) {
                story.insert(appended.base_offset.0, Noted::Batch(id));
                self.sequence += records as i32;
            }
            return;
        }
        let outcome = if random.below(2) == 0 { Outcome::Abort } else { Outcome::Commit };
        // Half of them end as in the newer flow: the marker carries the next epoch.
        let bump = random.below(2) as i16;
        let producer = Producer { epoch: ProducerEpoch(self.epoch + bump), ..producer };
        let marker = Marker { outcome, coordinator_epoch: 7 };
        let batch = marker.to_batch(producer, Timestamp(world.wall_ms));
        if let Ok(appended) = appended(world.append(partition(n), batch)) {
            story.insert(appended.base_offset.0, Noted::Ended(id, outcome));
            self.epoch += bump;
            if bump == 1 {
                self.sequence = 0;
            }
        }
    }
}

fn appended(result: Result<Appended, AppendError>) -> Result<Appended, ()> {
    match result {
        Ok(appended) => Ok(appended),
        Err(AppendError::SpaceNotReserved) => Err(()),
        Err(error) => panic!("refused: {error:?}"),
    }
}

/// One life after the other, each ended by a crash or a clean stop, with trims in between.
fn live(seed: u64) {
    let mut random = Random(seed);
    let mut world = World::new(seed, 2);
    let mut stories = [Story::new(), Story::new()];
    for _ in 0..4 {
        world.start(1 + random.below(2) as u16);
        for n in 0..2 {
            check(&world, n, &stories[n as usize]);
        }
        let mut clients = vec![Client::default(); 6];
        for (at, client) in clients.iter_mut().enumerate() {
            // What was lost with the crash is unknown here: its producers begin anew, as after an
            // InitProducerId, which ends what was open.
            let id = at as i64;
            let n = (at % 2) as i32;
            let states = world.log(partition(n)).producer_states();
            let known = states.iter().find(|state| state.id == ProducerId(id));
            client.epoch = known.map_or(0, |state| state.epoch.0 + 1);
            let producer = Producer { id: ProducerId(id), epoch: ProducerEpoch(client.epoch) };
            let marker = Marker { outcome: Outcome::Abort, coordinator_epoch: 7 };
            let batch = marker.to_batch(producer, Timestamp(world.wall_ms));
            let appended = world.append_patiently(partition(n), batch);
            let story = &mut stories[n as usize];
            story.retain(|offset, _| *offset < appended.base_offset.0);
            story.insert(appended.base_offset.0, Noted::Ended(id, Outcome::Abort));
        }
        for _ in 0..random.below(300) {
            let at = random.below(6) as usize;
            let n = at % 2;
            clients[at].act(&mut world, n as i32, at as i64, &mut random, &mut stories[n]);
            if random.below(100) == 0 {
                let end = world.log(partition(n as i32)).durable_end().0;
                world.trim(partition(n as i32), Offset(random.below(end.max(1) as u64) as i64));
            }
            world.turn(random.below(4));
            check(&world, n as i32, &stories[n]);
        }
        if random.below(3) == 0 {
            world.stop();
        } else {
            let survivals = [Survival::Nothing, Survival::Everything, Survival::Torn { seed }];
            world.crash(survivals[random.below(3) as usize]);
        }
    }
    world.start(1);
    for n in 0..2 {
        check(&world, n, &stories[n as usize]);
    }
}

/// A restart knows exactly the open and the aborted transactions of what it finds in the log.
#[test]
fn a_restart_rebuilds_the_transactions() {
    let number = |name| std::env::var(name).ok().and_then(|value| value.parse::<u64>().ok());
    let count = number("TIDEMILL_SEEDS").unwrap_or(30);
    for seed in 0..count {
        println!("seed {seed}");
        live(seed);
    }
}

/// Who was fenced by a marker before a crash is fenced after it.
#[test]
fn a_fenced_producer_stays_fenced_after_a_crash() {
    let mut world = World::started(5, 1, 1);
    let old = Producer { id: ProducerId(9), epoch: ProducerEpoch(0) };
    let batch = world.transactional_batch(old, 0, 2);
    world.append_patiently(partition(0), batch);
    let marker = Marker { outcome: Outcome::Abort, coordinator_epoch: 0 };
    let new = Producer { epoch: ProducerEpoch(1), ..old };
    let batch = marker.to_batch(new, Timestamp(0));
    world.append_patiently(partition(0), batch);
    world.settle();
    world.crash(Survival::Nothing);
    world.start(1);
    let batch = world.transactional_batch(old, 2, 1);
    let refused = loop {
        match world.append(partition(0), batch.clone()) {
            Err(AppendError::SpaceNotReserved) => world.turn(3),
            other => break other,
        }
    };
    let expected = AppendError::InvalidProducerEpoch {
        producer: old.id,
        current: new.epoch,
        found: old.epoch,
    };
    assert_eq!(refused, Err(expected));
}
