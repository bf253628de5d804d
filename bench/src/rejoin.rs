//! Connects again what was lost, away from the shards: connecting and asking for leaders block.
//!
//! One thread serves all shards of a process. It asks the brokers who leads now, connects, and
//! hands the connection to the shard as a message. While nobody answers it asks again, at most a
//! second apart. It ends when no shard is left to ask it.

use std::net::{SocketAddr, TcpStream};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use tidemill_runtime::edge::ShardId;
use tidemill_runtime::shard::Poster;

use crate::control::connect_again;
use crate::trouble::Trouble;

/// A connection that is gone.
#[derive(Clone, Debug)]
pub struct Lost<P> {
    /// Of which shard.
    pub shard: ShardId,
    /// Which of its links.
    pub link: usize,
    /// The link's generation.
    pub generation: u32,
    /// What it was connected to, by which it is found again.
    pub place: P,
}

/// A connection that is there again.
#[derive(Debug)]
pub struct Rejoined {
    /// For which link.
    pub link: usize,
    /// The generation that was lost.
    pub generation: u32,
    /// To whoever leads now.
    pub stream: TcpStream,
}

/// Before the first attempt: what breaks one connection breaks others, and a broker that refuses
/// each time is not to be asked without a pause.
const PAUSE_FIRST: Duration = Duration::from_millis(50);

/// The longest between two attempts.
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// Between two attempts to leave a message for a shard whose inbox is full.
const FULL: Duration = Duration::from_millis(1);

/// Serves until nobody can ask any more. `find` tells where the places are now, in their order; of
/// one that is nowhere it tells nothing.
pub fn serve<P>(
    mut find: impl FnMut(&[Lost<P>]) -> Result<Vec<Option<SocketAddr>>, Trouble>,
    lost: &Receiver<Lost<P>>,
    poster: &Poster<Rejoined>,
) {
    let mut waiting: Vec<Lost<P>> = Vec::new();
    let mut pause = PAUSE_FIRST;
    loop {
        if waiting.is_empty() {
            pause = PAUSE_FIRST;
            let Ok(first) = lost.recv() else { return };
            waiting.push(first);
        }
        // What else is lost meanwhile is connected together with it.
        let until = std::time::Instant::now() + pause;
        loop {
            let left = until.saturating_duration_since(std::time::Instant::now());
            match lost.recv_timeout(left) {
                Ok(another) => waiting.push(another),
                Err(RecvTimeoutError::Timeout) => break,
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
        pause = (pause * 2).min(PAUSE_MAX);
        let Ok(found) = find(&waiting) else { continue };
        assert_eq!(found.len(), waiting.len(), "every place was asked for");
        let (mut found, mut refusing) = (found.into_iter(), Vec::new());
        waiting.retain(|lost| {
            let Some(address) = found.next().flatten() else { return true };
            // One attempt for each address: those that wait for it would fail the same.
            if refusing.contains(&address) {
                return true;
            }
            match connect_again(address) {
                Ok(stream) => {
                    let Lost { link, generation, .. } = *lost;
                    hand_over(poster, lost.shard, Rejoined { link, generation, stream });
                    false
                }
                Err(_) => {
                    refusing.push(address);
                    true
                }
            }
        });
    }
}

/// An inbox is full for a moment only: its shard takes all of it each turn.
fn hand_over(poster: &Poster<Rejoined>, shard: ShardId, rejoined: Rejoined) {
    let mut message = rejoined;
    // A shard that has ended takes nothing any more; nothing waits for this thread then.
    for _ in 0..1000 {
        match poster.post(shard, message) {
            Ok(()) => return,
            Err(back) => message = back,
        }
        thread::sleep(FULL);
    }
}
