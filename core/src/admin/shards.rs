//! Asking all shards at once, from outside, and waiting for their answers within bounds.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::mpsc::sync_channel;
use std::time::{Duration, Instant};

use tidemill_runtime::edge::ShardId;
use tidemill_runtime::shard::Poster;

use crate::limits::{ADMIN_CONNECTIONS_MAX, PARTITIONS_SHOWN_MAX, PARTITIONS_TOLD_MAX};
use crate::measure::{Open, PartitionState, Question, Told, What};
use crate::message::Message;

/// How long a shard may take to answer. One that works makes a turn within milliseconds.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);

/// The shards of this node, to be asked.
pub struct Shards {
    poster: Poster<Message>,
    /// Questions each shard has not answered.
    open: Vec<Arc<AtomicUsize>>,
}

/// What came of a question to all shards.
#[derive(Debug, Default)]
pub struct Asked {
    /// By the number of the shard.
    pub told: Vec<Told>,
    /// Those that did not answer in time.
    pub silent: Vec<u16>,
}

impl Shards {
    /// Those that can be posted to.
    #[must_use]
    pub fn new(poster: Poster<Message>) -> Self {
        let open = (0..poster.shards()).map(|_| Arc::default()).collect();
        Self { poster, open }
    }

    /// Asks all shards, and waits for their answers.
    #[must_use]
    pub fn ask(&self, what: What) -> Asked {
        let count = self.open.len();
        let (answer, answers) = sync_channel(count);
        for (shard, open) in self.open.iter().enumerate() {
            // One that has left so many unanswered is not asked again.
            if let Some(open) = Open::begin(open, ADMIN_CONNECTIONS_MAX) {
                let question = Question { what, answer: answer.clone(), open };
                // Its inbox is full only if it does not answer.
                let _ = self.poster.post(ShardId(shard as u16), Message::Ask(question));
            }
        }
        drop(answer);
        let deadline = Instant::now() + ANSWER_WITHIN;
        let mut told: Vec<Told> = Vec::with_capacity(count);
        while told.len() < count {
            let left = deadline.saturating_duration_since(Instant::now());
            let Ok(next) = answers.recv_timeout(left) else { break };
            told.push(next);
        }
        told.sort_by_key(|told| told.state.shard);
        let answered = |shard: &u16| told.iter().any(|told| told.state.shard == *shard);
        let silent = (0..count as u16).filter(|shard| !answered(shard)).collect();
        Asked { told, silent }
    }

    /// All partitions, by topic and number, up to [`PARTITIONS_SHOWN_MAX`]; a shard is asked for a
    /// few in each turn, so that nobody waits for that.
    #[must_use]
    pub fn partitions(&self) -> Vec<PartitionState> {
        let mut all: Vec<PartitionState> = Vec::new();
        let mut after = 0;
        while all.len() < PARTITIONS_SHOWN_MAX {
            let what = What { partitions_after: Some(after), ..What::default() };
            let asked = self.ask(what);
            let more = asked.told.iter().any(|told| told.partitions.len() == PARTITIONS_TOLD_MAX);
            all.extend(asked.told.into_iter().flat_map(|told| told.partitions));
            if !more {
                break;
            }
            after += PARTITIONS_TOLD_MAX;
        }
        all.sort_by(|a, b| (&a.topic, a.partition).cmp(&(&b.topic, b.partition)));
        // Topics come and go between two questions: one told twice is shown once.
        all.dedup_by(|a, b| (&a.topic, a.partition) == (&b.topic, b.partition));
        all.truncate(PARTITIONS_SHOWN_MAX);
        all
    }
}
