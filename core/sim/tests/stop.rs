//! The real broker is told to stop at any moment of its start; its shards hear of it at once, or
//! when they have long been busy with something else.

use std::time::Duration;

use sim::broker::Broker;
use sim::random::Random;
use sim::run::Plan;
use sim::trace::Trace;
use sim::workload::Workload;
use sim::world::{Node, World};

const PATIENCE: Duration = Duration::from_secs(60);
const MOMENTS: u64 = 40;

fn world(seed: u64) -> World<Broker, Workload> {
    let plan = Plan::of(1);
    let crowd = Workload::new(plan.crowd.clone(), Random::new(1).fork("crowd"));
    World::new(seed, Broker::new(1), crowd, plan.settings, Trace::new(false))
}

/// How many events a start takes.
fn events_of_a_start() -> u64 {
    let mut world = world(0);
    world.start(2);
    let limit = world.now().after(PATIENCE);
    let mut events = 0;
    while !world.node().is_serving() {
        assert!(world.step(limit), "a start ends");
        events += 1;
    }
    events
}

#[test]
fn a_stop_at_any_moment_of_a_start_ends_it() {
    let most = 2 * events_of_a_start();
    for stalls in [1_000, 200_000] {
        for moment in 0..MOMENTS {
            let events = moment * most / MOMENTS;
            let mut world = world(moment);
            world.settings().stalls = stalls;
            world.start(2);
            world.run_events(events, world.now().after(PATIENCE));
            world.ask_to_stop();
            let limit = world.now().after(PATIENCE);
            while world.is_running() && world.step(limit) {}
            assert!(!world.is_running(), "stopped after {events} events, it still runs");
        }
    }
}
