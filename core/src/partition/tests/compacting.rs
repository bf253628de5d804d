//! Compaction of a partition at home that is deleted while the node stops.

use tidemill_storage::compaction::policy::When;

use super::*;
use crate::disk::Request;

const NO_TIME: Times = Times { now: Instant { nanos: 0 }, wall_ms: 1 };

/// The disk ends all that the storage asks it for.
fn settle(home: &mut Home, now: u64) {
    loop {
        home.storage.end_turn(now);
        while let Some(event) = home.storage.poll_event() {
            home.handle_event(event, NO_TIME);
        }
        let Some(request) = home.storage.poll_request() else { break };
        let outcome = match request.action {
            Action::ListDir { .. } => Outcome::Names(Vec::new()),
            _ => Outcome::Done,
        };
        let done = Completion { id: request.id, result: Ok(outcome) };
        home.storage.handle_completion(done, now);
    }
}

/// A round of the partition, and the request of it that is under way.
fn begin_round(home: &mut Home) -> Request {
    let mut rules = home.partitions[&PARTITION].rules.clone();
    rules.log.segment_bytes = 4096;
    rules.compaction = Some(CompactionRules {
        when: When { dirty_ratio_min: 0.0, lag_min_ms: 0, lag_max_ms: i64::MAX },
        delete_retention_ms: 0,
    });
    home.adopt(PARTITION, rules);
    for number in 0..4 {
        append(home, number, batch(number as i32, &[7; 3000]));
        settle(home, 0);
    }
    // The first looks ask for checkpoints.
    let request = (0..100).find_map(|second| {
        let now = Instant { nanos: second * 1_000_000_000 };
        let request = home.poll_compaction(Times { now, wall_ms: 1_000_000 });
        settle(home, now.nanos);
        request
    });
    request.expect("a round begins")
}

/// The bug: a log that was dropped waited for the end of its compaction, which nobody took further
/// once the node stopped; so the storage never came to rest, and the node ran on for ever.
#[test]
fn a_stop_ends_although_a_deleted_topic_was_being_compacted() {
    const ORDERS: [[&str; 3]; 6] = [
        ["delete", "stop", "done"],
        ["delete", "done", "stop"],
        ["stop", "delete", "done"],
        ["stop", "done", "delete"],
        ["done", "delete", "stop"],
        ["done", "stop", "delete"],
    ];
    let now = Instant { nanos: 200_000_000_000 };
    for order in ORDERS {
        let mut home = home(1 << 20);
        begin_round(&mut home);
        for step in order {
            match step {
                "delete" => home.delete(PARTITION, now),
                "stop" => home.stop(now),
                _ => home.compaction_finished(Ok(Done::Complete), Times { now, wall_ms: 1 }),
            }
        }
        settle(&mut home, now.nanos);
        assert!(home.storage.is_stopped() && !home.storage.is_fenced(), "{order:?}");
    }
}
