//! A cluster played by bytes: connecting again, and who counts as out of reach.

use super::*;
use crate::fake::{Fake, bootstrap};

const MS: Duration = Duration::from_millis(1);

fn cluster() -> Cluster<u32> {
    Cluster::new(ClusterConfig { bootstrap: bootstrap(), ..ClusterConfig::default() })
}

/// Lets time pass until the map is known.
fn meet(cluster: &mut Cluster<u32>, fake: &mut Fake, now: &mut Instant) {
    for _ in 0..10_000 {
        cluster.tick(*now);
        fake.drive(cluster, *now);
        if cluster.knows_the_cluster() {
            return;
        }
        *now = now.plus(MS);
    }
    panic!("the cluster was not met within ten seconds");
}

/// What is to be connected now.
fn connects(cluster: &mut Cluster<u32>) -> Vec<LineId> {
    let actions = std::iter::from_fn(|| cluster.poll_action());
    let lines = actions.filter_map(|action| match action {
        Action::Connect(line, _) => Some(line),
        Action::Disconnect(_) => None,
    });
    lines.collect()
}

/// A broker that is away is tried again and again, each time after twice as long, up to the longest
/// wait; so it is found within that when it is back.
#[test]
fn a_broker_that_is_away_is_tried_less_and_less_often() {
    let mut cluster = cluster();
    let mut now = Instant::default();
    let mut tries = Vec::new();
    for _ in 0..20_000 {
        cluster.tick(now);
        for line in connects(&mut cluster) {
            cluster.handle_closed(line, "connection refused", now);
            tries.push(now);
        }
        now = now.plus(MS);
    }
    assert!((20..40).contains(&tries.len()), "{} tries in 20 s", tries.len());
    let Backoff { first, longest } = cluster.config().reconnect;
    for (number, pair) in tries.windows(2).enumerate() {
        let wait = pair[1].since(pair[0]);
        let usual = (first * 2u32.pow(number.min(10) as u32)).min(longest);
        let around = usual.mul_f64(0.8)..=usual.mul_f64(1.2) + MS;
        assert!(around.contains(&wait), "wait {number} was {wait:?}");
    }
    assert!(cluster.is_out_of_reach());
    assert_eq!(cluster.trouble(), Some("cannot connect to fake:9000: connection refused"));

    let back = now;
    meet(&mut cluster, &mut Fake::new(1), &mut now);
    assert!(now.since(back) <= longest.mul_f64(1.2), "{:?}", now.since(back));
    assert!(!cluster.is_out_of_reach());
}

/// Brokers close connections that were idle: one that has worked is made again at once, and its
/// broker is not away; one that has not is waited for.
#[test]
fn a_connection_that_has_worked_is_made_again_at_once() {
    let mut cluster = cluster();
    let mut fake = Fake::new(1);
    let mut now = Instant::default();
    meet(&mut cluster, &mut fake, &mut now);
    assert!(cluster.room_at(0, ApiKey::Produce, now).is_ok());

    cluster.handle_closed(LineId(0), "the broker closed the connection", now);
    assert!(!cluster.is_out_of_reach());
    assert_eq!(cluster.room_at(0, ApiKey::Produce, now), Err(NotSent::NotNow));
    let again = connects(&mut cluster);
    assert_eq!(again.len(), 1, "at once");

    cluster.handle_closed(again[0], "connection refused", now);
    assert!(cluster.is_out_of_reach() && cluster.is_node_out_of_reach(0));
    assert_eq!(cluster.room_at(0, ApiKey::Produce, now), Err(NotSent::NotNow));
    assert_eq!(connects(&mut cluster), [], "not again at once");
    let next = cluster.next_deadline().expect("it will be tried again");
    assert!(now < next && next <= now.plus(MS * 240), "{:?}", next.since(now));
}
