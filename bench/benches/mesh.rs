//! What does it cost to hand a message to another shard, and to take it there?
//!
//! Each ordered pair of shards has a queue of its own with one writer and one reader, so posting is
//! a store and a published index, and taking the same. Here both ends are in one thread: the price
//! of the instructions, without that of a cache line that moves between cores (some 50 to 100 ns),
//! and without waking a sleeper.
//!
//! Sketch before measuring: 64 bytes are 2 vectors in and 2 out; index, bound, publish and the
//! list of whom to wake 30 to post, and as much to take: about 80 instructions for a message, 25
//! ns. A turn that posts 32 messages and then looks whom to wake adds one fence, for all of them.
//!
//! Found: 124 a message with 32 a turn, 223 with one, where a crate is compiled in one unit as here.
//! In several, as in the broker, less is inlined: 206 and 349, of which posting is 70, of it the list
//! of whom to wake 15. Taking is 108, twice that where it finds nothing: a shard looks at its own
//! place in the row of queues too, and divides to go around it.
//!
//! `cargo bench -p tidemill-bench --bench mesh` measures; see `measure/mod.rs` for the rest.

mod measure;

use std::process::ExitCode;

use measure::{Bench, Case};
use tidemill_runtime::edge::ShardId;
use tidemill_runtime::mesh::{MeshPort, pair};

/// One line of the cache.
type Message = [u64; 8];

const CAPACITY: usize = 1024;
const PER_TURN: usize = 32;
const OPS: u64 = 1024;
const TO: ShardId = ShardId(1);

fn main() -> ExitCode {
    let mut bench = Bench::from_args("mesh");
    for (name, per_turn) in [("post-and-take-1-a-turn", 1), ("post-and-take-32-a-turn", PER_TURN)] {
        bench.case(
            Case { name, ops: OPS, op_bytes: 0 },
            || pair(CAPACITY).expect("two eventfds"),
            |(from, to)| {
                let turns = (0..OPS).step_by(per_turn);
                turns.map(|first| one_turn(from, to, first, per_turn)).sum::<u64>()
            },
            |_, sum| *sum,
        );
    }
    bench.finish()
}

/// One shard's turn, which posts the numbers from `first` on, then the other's; returns the sum of
/// what arrived.
fn one_turn(
    from: &mut MeshPort<Message>,
    to: &mut MeshPort<Message>,
    first: u64,
    messages: usize,
) -> u64 {
    for number in (first..).take(messages) {
        from.send(TO, [number; 8]).expect("the queue is longer than a turn");
    }
    assert_eq!(from.next_to_wake(), None, "the neighbour is awake");
    let taken = std::iter::from_fn(|| to.poll());
    taken.map(|(_, message)| message[0] + message[7]).sum()
}
