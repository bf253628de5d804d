//! A steady load on one healthy shard: what do the shard's own turns cost per request?
//!
//! Nothing fails here and nothing is checked: every connection sends its next request when the
//! last one is answered. The same load takes the same course each time, so that the instructions
//! of two builds can be compared, and those of a long run less those of a short one are what the
//! requests between them cost. `docs/decisions/2026-11-23-what-measuring-costs.md` does that.
//!
//! Start reading at [`run`].

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tidemill_net::frame::frame_size;
use tidemill_net::kafka::create_topics::{CreatableTopic, CreateTopicsRequest};
use tidemill_net::kafka::fetch::{FetchPartition, OutgoingFetch};
use tidemill_net::kafka::produce::{OutgoingProduce, OutgoingProducePartition};
use tidemill_net::kafka::{TopicRef, encode_request};
use tidemill_record::{
    BatchBuilder, Codec, Producer, ProducerEpoch, ProducerId, Sequence, Timestamp,
};

use crate::broker::Broker;
use crate::edge::WALL_CLOCK_START_MS;
use crate::network::{ClientEvent, ConnectionId, NetworkFaults, OWN_PORT};
use crate::trace::Trace;
use crate::world::{Clients, Node, Port, Settings, World};

const TOPIC: &str = "steady";
const CLIENT: &str = "steady";
const PARTITIONS: usize = 16;
const CONNECTIONS: usize = 64;
/// Batches of each partition that are there before anybody fetches.
const BATCHES_AT_FIRST: u64 = 64;
const CREATE_VERSION: i16 = 7;
const PRODUCE_VERSION: i16 = 9;
const FETCH_VERSION: i16 = 12;
const FRAME_BYTES_MAX: usize = 64 << 20;
/// How long a run may take, in its own time.
const PATIENCE: Duration = Duration::from_hours(1);

/// What the connections do.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Load {
    /// Each appends batches of one record of 100 bytes, idempotently.
    Produce,
    /// Each reads one batch after another from memory.
    Fetch,
    /// Every other one produces to a partition, and its neighbour waits for what comes there.
    Follow,
}

impl Load {
    /// By its name on the command line.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        match name {
            "produce" => Some(Self::Produce),
            "fetch" => Some(Self::Fetch),
            "follow" => Some(Self::Follow),
            _ => None,
        }
    }
}

/// Lets so many requests be answered, once all is warm; tells how many were in all.
#[must_use]
pub fn run(load: Load, requests: u64) -> u64 {
    let clients = Steady::new(load, requests);
    let mut world = World::new(1, Broker::usual(), clients, Settings::default(), Trace::new(false));
    *world.network_faults() =
        NetworkFaults { resets: 0, delay_max: Duration::from_micros(20), whole: true };
    world.start(1);
    let limit = world.now().after(PATIENCE);
    while !world.node().is_serving() {
        assert!(world.step(limit), "a healthy node starts");
    }
    world.wake_clients(0);
    while world.clients().answered < world.clients().wanted {
        assert!(world.step(limit), "a healthy node answers");
    }
    world.clients().answered
}

/// All clients.
struct Steady {
    load: Load,
    lines: BTreeMap<ConnectionId, Line>,
    /// The first connection, which makes the topic.
    first: Option<ConnectionId>,
    /// Requests that come before those that were asked for.
    before: u64,
    wanted: u64,
    answered: u64,
}

/// One connection.
struct Line {
    number: usize,
    connected: bool,
    received: BytesMut,
    /// Requests answered.
    done: u64,
    sequence: i32,
    /// Where it reads next.
    offset: i64,
}

impl Steady {
    fn new(load: Load, requests: u64) -> Self {
        let before = match load {
            Load::Fetch => BATCHES_AT_FIRST * CONNECTIONS as u64,
            Load::Produce | Load::Follow => 16 * CONNECTIONS as u64,
        };
        let wanted = before + requests;
        Self { load, lines: BTreeMap::new(), first: None, before, wanted, answered: 0 }
    }

    /// Sends the next request of a connection.
    fn go_on(&mut self, id: ConnectionId, port: &mut Port<'_>) {
        let produces_first = self.answered < self.before;
        let line = self.lines.get_mut(&id).expect("one of ours");
        let mut out = BytesMut::new();
        match self.load {
            Load::Produce => line.produce(&mut out, line.number % PARTITIONS),
            Load::Follow if line.number.is_multiple_of(2) => {
                line.produce(&mut out, line.number / 2 % PARTITIONS);
            }
            Load::Follow => line.fetch(&mut out, line.number / 2 % PARTITIONS),
            Load::Fetch if produces_first => line.produce(&mut out, line.number % PARTITIONS),
            Load::Fetch => {
                line.offset = (line.offset + 1) % BATCHES_AT_FIRST as i64;
                line.fetch(&mut out, line.number % PARTITIONS);
            }
        }
        port.send(id, out.freeze());
    }

    /// Bytes of the node have come on a connection.
    fn hear(&mut self, id: ConnectionId, bytes: &Bytes, port: &mut Port<'_>) {
        let line = self.lines.get_mut(&id).expect("one of ours");
        line.received.extend_from_slice(bytes);
        let size = frame_size(&line.received, FRAME_BYTES_MAX).expect("answers are frames");
        let Some(size) = size.filter(|size| *size <= line.received.len()) else { return };
        let answer = line.received.split_to(size);
        if self.first == Some(id) && line.done == 0 {
            // The topic is there: now all begin.
            line.done = 1;
            let all: Vec<ConnectionId> = self.lines.keys().copied().collect();
            all.into_iter().for_each(|id| self.go_on(id, port));
            return;
        }
        line.done += 1;
        line.offset += line.batches_in(&answer);
        self.answered += 1;
        self.go_on(id, port);
    }
}

impl Line {
    fn new(number: usize) -> Self {
        let (received, connected) = (BytesMut::new(), false);
        Self { number, connected, received, done: 0, sequence: 0, offset: 0 }
    }

    fn produce(&mut self, out: &mut BytesMut, partition: usize) {
        let id = ProducerId(self.number as i64);
        let producer = Producer { id, epoch: ProducerEpoch(0) };
        let mut builder =
            BatchBuilder::new(Codec::None).numbered(producer, Sequence(self.sequence));
        builder.append(Timestamp(WALL_CLOCK_START_MS), None, Some(&[b'x'; 100]));
        self.sequence += 1;
        let batch = builder.build();
        let part = OutgoingProducePartition {
            topic: TopicRef::Name(TOPIC),
            partition: partition as i32,
            records: Some(&batch),
        };
        let request = OutgoingProduce {
            transactional_id: None,
            acks: -1,
            timeout_ms: 30_000,
            partitions: &[part],
        };
        request.encode(out, PRODUCE_VERSION, 1, Some(CLIENT));
    }

    fn fetch(&mut self, out: &mut BytesMut, partition: usize) {
        let topic = TopicRef::Name(TOPIC);
        let part = FetchPartition::from_consumer(topic, partition as i32, self.offset, 1);
        let request = OutgoingFetch { partitions: &[part], ..OutgoingFetch::default() };
        request.encode(out, FETCH_VERSION, 1, Some(CLIENT));
    }

    /// How many batches a follower was given: with the limit it sets, one or none.
    fn batches_in(&self, answer: &[u8]) -> i64 {
        i64::from(answer.windows(100).any(|window| window == [b'x'; 100]))
    }
}

impl Clients for Steady {
    fn handle(&mut self, event: ClientEvent, port: &mut Port<'_>) {
        match event {
            ClientEvent::Woken(_) => {
                for number in 0..CONNECTIONS {
                    let id = port.connect(OWN_PORT);
                    self.lines.insert(id, Line::new(number));
                    self.first.get_or_insert(id);
                }
            }
            ClientEvent::Connected(id) => {
                self.lines.get_mut(&id).expect("one of ours").connected = true;
                if self.lines.values().all(|line| line.connected) {
                    port.send(self.first.expect("they are connected"), create_topic());
                }
            }
            ClientEvent::Bytes(id, bytes) => self.hear(id, &bytes, port),
            ClientEvent::Closed(id) => panic!("a healthy node closes nothing: {id:?}"),
        }
    }
}

fn create_topic() -> Bytes {
    let topic = CreatableTopic {
        name: TOPIC.to_owned(),
        num_partitions: PARTITIONS as i32,
        replication_factor: 1,
        ..CreatableTopic::default()
    };
    let request =
        CreateTopicsRequest { topics: vec![topic], timeout_ms: 30_000, validate_only: false };
    let mut out = BytesMut::new();
    encode_request(&mut out, CREATE_VERSION, 1, Some(CLIENT), &request);
    out.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every load comes to its end.
    #[test]
    fn each_steady_load_is_answered() {
        for load in [Load::Produce, Load::Fetch, Load::Follow] {
            assert!(300 <= run(load, 300));
        }
    }
}
