//! The edge of one shard in the simulated world.
//!
//! Within a turn it only collects: what the shard submits and sends is carried out by the world
//! after the turn, so nothing can complete inside `submit`. The clock stands still meanwhile.

use std::collections::{BTreeMap, VecDeque};

use tidemill_runtime::edge::{Completion, Edge, Instant, Op, ShardId, Token};

/// The wall clock at virtual time zero: 2024-01-01, in milliseconds.
pub const WALL_CLOCK_START_MS: i64 = 1_704_067_200_000;

/// All one shard sees of the simulated world.
#[derive(Debug)]
pub struct SimEdge<M> {
    pub(crate) now: Instant,
    /// How far the wall clock is from where it should be.
    pub(crate) wall_skew_ms: i64,
    pub(crate) completions: VecDeque<Completion>,
    pub(crate) inbox: VecDeque<(ShardId, M)>,
    pub(crate) submitted: Vec<(Token, Op)>,
    pub(crate) sent: Vec<(ShardId, M)>,
    /// How many more messages each other shard's queue can take.
    pub(crate) room: BTreeMap<ShardId, usize>,
    /// Messages taken out of the inbox in this turn, by sender.
    pub(crate) taken: Vec<ShardId>,
}

impl<M> SimEdge<M> {
    pub(crate) fn new() -> Self {
        Self {
            now: Instant { nanos: 0 },
            wall_skew_ms: 0,
            completions: VecDeque::new(),
            inbox: VecDeque::new(),
            submitted: Vec::new(),
            sent: Vec::new(),
            room: BTreeMap::new(),
            taken: Vec::new(),
        }
    }
}

impl<M> Edge for SimEdge<M> {
    type Message = M;

    fn now(&self) -> Instant {
        self.now
    }

    fn wall_clock_ms(&self) -> i64 {
        WALL_CLOCK_START_MS + (self.now.nanos / 1_000_000) as i64 + self.wall_skew_ms
    }

    fn submit(&mut self, token: Token, op: Op) {
        self.submitted.push((token, op));
    }

    fn poll_completion(&mut self) -> Option<Completion> {
        self.completions.pop_front()
    }

    fn send(&mut self, to: ShardId, message: M) -> Result<(), M> {
        let room = self.room.get_mut(&to).unwrap_or_else(|| panic!("there is no {to:?}"));
        if *room == 0 {
            return Err(message);
        }
        *room -= 1;
        self.sent.push((to, message));
        Ok(())
    }

    fn poll_message(&mut self) -> Option<(ShardId, M)> {
        let (from, message) = self.inbox.pop_front()?;
        self.taken.push(from);
        Some((from, message))
    }
}
