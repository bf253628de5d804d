//! The client's examples, run against a broker: what people copy must work.
//!
//! `TIDEMILL_BROKERS=HOST:PORT` names another broker than one of the test's own.
#![allow(clippy::unwrap_used)]

mod process;

#[allow(dead_code, unreachable_pub)]
#[path = "../../net/client/examples/admin.rs"]
mod admin;
#[allow(dead_code, unreachable_pub)]
#[path = "../../net/client/examples/consume.rs"]
mod consume;
#[allow(dead_code, unreachable_pub)]
#[path = "../../net/client/examples/group.rs"]
mod group;
#[allow(dead_code, unreachable_pub)]
#[path = "../../net/client/examples/produce.rs"]
mod produce;
#[allow(dead_code, unreachable_pub)]
#[path = "../../net/client/examples/rate.rs"]
mod rate;

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use process::Broker;
use tidemill_client::{Admin, Isolation, NewTopic, Start};

const PATIENCE: Duration = Duration::from_secs(60);

/// Each example does what it says: what is produced is stored and read, a topic is seen to from its
/// making to its end, and the rate is that of records which are stored.
#[test]
fn the_examples_do_what_they_say() {
    let outside = std::env::var("TIDEMILL_BROKERS").ok();
    let own = outside.is_none().then(|| Broker::start("examples", &["--shards", "2"]));
    let brokers = outside.unwrap_or_else(|| own.as_ref().unwrap().address());
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos();
    let mut seen_to = Admin::open(&brokers).unwrap();

    let greetings = format!("greetings-{now}");
    seen_to.create_topic(&NewTopic::new(&greetings).partitions(3)).unwrap();
    assert_eq!(produce::produce(&brokers, &greetings, 1000), Ok(1000));
    // Both end when nothing has come for two seconds, which may be before all has come. Who reads
    // without a group begins anew then; a group goes on.
    let start = Instant::now();
    while consume::consume(&brokers, &greetings).unwrap() < 1000 {
        assert!(start.elapsed() < PATIENCE, "not all of it comes");
    }
    let readers = format!("readers-{now}");
    let start = Instant::now();
    let mut read = 0;
    while read < 1000 {
        read += group::consume(&brokers, &greetings, &readers).unwrap();
        assert!(start.elapsed() < PATIENCE, "{read} records came");
    }
    assert_eq!(read, 1000, "none came twice");
    assert_eq!(group::consume(&brokers, &greetings, &readers), Ok(0), "the group has read it");

    let example = format!("example-{now}");
    admin::see_to(&brokers, &example).unwrap();
    assert!(!seen_to.topics().unwrap().contains_key(&*example), "it is deleted in the end");

    let rate = format!("rate-{now}");
    rate::measure(&brokers, &rate, 10_000, 100).unwrap();
    let isolation = Isolation::default();
    let ends = seen_to.list_offsets(&rate, &[0, 1, 2, 3], Start::Latest, isolation).unwrap();
    assert_eq!(ends.into_values().sum::<i64>(), 30_000);
}
