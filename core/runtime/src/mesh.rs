//! The mesh: one bounded queue with one writer and one reader for each ordered pair of shards.
//!
//! A send never blocks: a full queue hands the message back. Messages of a pair arrive once and
//! in order. Neighbours that sleep are woken once per turn, however many messages they get (see
//! `doorbell.rs`). What threads outside the shards post goes through a small locked inbox:
//! it carries commands, not load.

use std::collections::VecDeque;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use rtrb::{Consumer, Producer, PushError, RingBuffer};

use crate::doorbell::Doorbell;
use crate::edge::ShardId;

/// The sender of messages that came from a thread outside the shards.
pub const OUTSIDE: ShardId = ShardId(u16::MAX);

/// One shard's ends of all its queues.
pub struct MeshPort<M> {
    me: usize,
    to: Vec<Option<Producer<M>>>,
    from: Vec<Option<Consumer<M>>>,
    /// Whose queue is asked first next time, so that none starves.
    next_from: usize,
    /// Who got a message in this turn and has not been woken for it.
    unannounced: Vec<usize>,
    doorbells: Arc<[Doorbell]>,
    inbox: Arc<Inbox<M>>,
}

/// Messages from threads outside the shards.
#[derive(Debug)]
pub(crate) struct Inbox<M> {
    capacity: usize,
    /// How many are waiting; lets the shard look without taking the lock.
    waiting: AtomicUsize,
    messages: Mutex<VecDeque<M>>,
}

impl<M> Inbox<M> {
    fn new(capacity: usize) -> Self {
        Self { capacity, waiting: AtomicUsize::new(0), messages: Mutex::new(VecDeque::new()) }
    }

    /// Leaves a message; returns it if the inbox is full. The caller then wakes the shard.
    pub(crate) fn push(&self, message: M) -> Result<(), M> {
        let mut messages = self.messages.lock().unwrap_or_else(PoisonError::into_inner);
        if self.capacity <= messages.len() {
            return Err(message);
        }
        messages.push_back(message);
        self.waiting.store(messages.len(), Ordering::Release);
        Ok(())
    }

    fn pop(&self) -> Option<M> {
        if self.is_empty() {
            return None;
        }
        let mut messages = self.messages.lock().unwrap_or_else(PoisonError::into_inner);
        let message = messages.pop_front();
        self.waiting.store(messages.len(), Ordering::Release);
        message
    }

    fn is_empty(&self) -> bool {
        self.waiting.load(Ordering::Acquire) == 0
    }
}

/// What the outside keeps of a mesh.
pub(crate) struct MeshOutside<M> {
    pub(crate) doorbells: Arc<[Doorbell]>,
    pub(crate) inboxes: Vec<Arc<Inbox<M>>>,
}

/// The ends of two shards' queues without the shards, to be measured or tried in one thread.
pub fn pair<M>(capacity: usize) -> io::Result<(MeshPort<M>, MeshPort<M>)> {
    let (ports, _) = weave(2, capacity)?;
    let [first, second] = <[_; 2]>::try_from(ports).ok().expect("two were asked for");
    Ok((first, second))
}

/// Queues of `capacity` messages between all of `shards` shards, and inboxes of the same size.
pub(crate) fn weave<M>(
    shards: usize,
    capacity: usize,
) -> io::Result<(Vec<MeshPort<M>>, MeshOutside<M>)> {
    let doorbells: Arc<[Doorbell]> =
        (0..shards).map(|_| Doorbell::new()).collect::<io::Result<Vec<_>>>()?.into();
    let mut ports: Vec<MeshPort<M>> = (0..shards)
        .map(|me| MeshPort {
            me,
            to: Vec::new(),
            from: Vec::new(),
            next_from: 0,
            unannounced: Vec::with_capacity(shards),
            doorbells: Arc::clone(&doorbells),
            inbox: Arc::new(Inbox::new(capacity)),
        })
        .collect();
    for sender in 0..shards {
        for receiver in 0..shards {
            let (to, from) = if sender == receiver {
                (None, None)
            } else {
                let (to, from) = RingBuffer::new(capacity);
                (Some(to), Some(from))
            };
            ports[sender].to.push(to);
            ports[receiver].from.push(from);
        }
    }
    let inboxes = ports.iter().map(|port| Arc::clone(&port.inbox)).collect();
    Ok((ports, MeshOutside { doorbells, inboxes }))
}

impl<M> MeshPort<M> {
    /// Posts a message; a full queue hands it back.
    pub fn send(&mut self, to: ShardId, message: M) -> Result<(), M> {
        let to = usize::from(to.0);
        let queue = self.to[to].as_mut().expect("a shard does not send to itself");
        queue.push(message).map_err(|PushError::Full(message)| message)?;
        if !self.unannounced.contains(&to) {
            self.unannounced.push(to);
        }
        Ok(())
    }

    /// The next message for this shard, and from whom it is. All senders have their turns.
    pub fn poll(&mut self) -> Option<(ShardId, M)> {
        for _ in 0..self.from.len() {
            let from = self.next_from;
            self.next_from = (from + 1) % self.from.len();
            if let Some(message) = self.from[from].as_mut().and_then(|queue| queue.pop().ok()) {
                return Some((ShardId(from as u16), message));
            }
        }
        self.inbox.pop().map(|message| (OUTSIDE, message))
    }

    /// A neighbour that got messages since the last call, that sleeps, and that this shard has
    /// to wake. To be asked until it says `None`, at the end of a turn.
    pub fn next_to_wake(&mut self) -> Option<usize> {
        while let Some(to) = self.unannounced.pop() {
            if self.doorbells[to].sleep.claim_wake() {
                return Some(to);
            }
        }
        None
    }

    pub(crate) fn has_unannounced(&self) -> bool {
        !self.unannounced.is_empty()
    }

    /// Whether a message waits for this shard.
    pub(crate) fn has_messages(&self) -> bool {
        !self.inbox.is_empty() || self.from.iter().flatten().any(|queue| !queue.is_empty())
    }

    pub(crate) fn doorbell(&self) -> &Doorbell {
        &self.doorbells[self.me]
    }

    pub(crate) fn doorbell_of(&self, shard: usize) -> &Doorbell {
        &self.doorbells[shard]
    }

    pub(crate) fn me(&self) -> ShardId {
        ShardId(self.me as u16)
    }
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use super::*;

    const A: ShardId = ShardId(0);
    const B: ShardId = ShardId(1);

    fn pair(capacity: usize) -> (MeshPort<u64>, MeshPort<u64>, MeshOutside<u64>) {
        let (mut ports, outside) = weave(2, capacity).expect("two eventfds");
        let b = ports.pop().expect("two ports");
        (ports.pop().expect("two ports"), b, outside)
    }

    #[test]
    fn messages_of_a_pair_arrive_once_and_in_order() {
        let (mut a, mut b, _) = pair(8);
        for number in 0..5 {
            a.send(B, number).expect("room");
        }
        let arrived: Vec<_> = std::iter::from_fn(|| b.poll()).collect();
        assert_eq!(arrived, (0..5).map(|number| (A, number)).collect::<Vec<_>>());
        assert!(a.poll().is_none());
    }

    #[test]
    fn a_full_queue_hands_the_message_back() {
        let (mut a, mut b, _) = pair(2);
        a.send(B, 1).expect("room");
        a.send(B, 2).expect("room");
        assert_eq!(a.send(B, 3), Err(3));
        assert_eq!(b.poll(), Some((A, 1)));
        a.send(B, 3).expect("room again");
    }

    #[test]
    fn a_sleeping_neighbour_is_woken_once_per_turn() {
        let (mut a, b, _) = pair(8);
        b.doorbell().sleep.announce_sleep();
        a.send(B, 1).expect("room");
        a.send(B, 2).expect("room");
        assert_eq!(a.next_to_wake(), Some(1));
        assert_eq!(a.next_to_wake(), None);
        a.send(B, 3).expect("room");
        assert_eq!(a.next_to_wake(), None, "it has been woken already");
    }

    #[test]
    fn a_full_inbox_hands_the_message_back_and_the_sender_is_outside() {
        let (mut a, _b, outside) = pair(1);
        outside.inboxes[0].push(9).expect("room");
        assert_eq!(outside.inboxes[0].push(10), Err(10));
        assert!(a.has_messages());
        assert_eq!(a.poll(), Some((OUTSIDE, 9)));
        assert!(!a.has_messages());
    }

    /// Two threads, a queue much shorter than the traffic, and a receiver that sleeps whenever it
    /// finds nothing: if a wake-up were ever lost, the test would hang.
    #[test]
    fn under_load_nothing_is_lost_and_nobody_sleeps_for_ever() {
        const MESSAGES: u64 = 100_000;
        let (mut a, mut b, _) = pair(16);
        let (bell, sleeper) = std::sync::mpsc::channel();
        let receiver = std::thread::spawn(move || {
            let mut expected = 0;
            while expected < MESSAGES {
                while let Some((from, number)) = b.poll() {
                    assert_eq!((from, number), (A, expected));
                    expected += 1;
                }
                b.doorbell().sleep.announce_sleep();
                if !b.has_messages() && expected < MESSAGES {
                    sleeper.recv().expect("the sender rings before it ends");
                }
                b.doorbell().sleep.end_sleep();
            }
        });
        for number in 0..MESSAGES {
            while a.send(B, number).is_err() {
                std::thread::yield_now();
            }
            while a.next_to_wake().is_some() {
                bell.send(()).expect("the receiver is there");
            }
        }
        receiver.join().expect("no panic");
    }
}
