//! What a producer of transactions writes: numbered batches, a few under way in each partition,
//! and sent again, in order, when nothing of that partition is under way any more.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};
use tidemill_net::kafka::TopicRef;
use tidemill_net::kafka::produce::{OutgoingProduce, OutgoingProducePartition};
use tidemill_record::{BatchBuilder, Codec, Sequence, Timestamp};

use super::{Ask, Scene, Step, Transactor};
use crate::checker::{Place, Verdict};
use crate::edge::WALL_CLOCK_START_MS;
use crate::network::BOOTSTRAP_PORT;
use crate::value::Value;
use crate::workload::{append, delete_retention_ms};

/// How many batches of a partition may be under way.
const UNDER_WAY_MAX: usize = 5;
/// From here on topics are named by their ids.
const BY_ID_FROM: i16 = 13;

/// What a transaction writes to one partition.
#[derive(Debug, Default)]
pub(super) struct Part {
    pub(super) batches: VecDeque<Pending>,
    to: u16,
    failed: bool,
}

#[derive(Debug)]
pub(super) struct Pending {
    pub(super) values: Vec<Value>,
    pub(super) sequence: i32,
    bytes: Bytes,
    under_way: bool,
    /// It was sent before.
    is_sent: bool,
}

impl Part {
    fn under_way(&self) -> usize {
        self.batches.iter().filter(|batch| batch.under_way).count()
    }

    fn next(&self) -> Option<usize> {
        let under_way = self.under_way();
        if self.failed && 0 < under_way || UNDER_WAY_MAX <= under_way {
            return None;
        }
        self.batches.iter().position(|batch| !batch.under_way)
    }

    /// Nobody knows what became of a batch.
    pub(super) fn unknown(&mut self, sequence: i32) {
        self.failed = true;
        let batch = self.batches.iter_mut().find(|batch| batch.sequence == sequence);
        batch.into_iter().for_each(|batch| batch.under_way = false);
    }
}

impl Transactor {
    /// Thinks of records, sends them, and sees when all are there.
    pub(super) fn write(&mut self, scene: &mut Scene<'_, '_>) -> Verdict {
        let Some(open) = &mut self.open else {
            self.step = Step::Idle;
            return Ok(());
        };
        open.is_given_up |= !open.commits && self.random.happens(50_000);
        if open.is_given_up {
            // What is under way is waited for; what is left is never sent.
            if open.parts.values().all(|part| part.under_way() == 0) {
                self.is_unsure |= open.parts.values().any(|part| !part.batches.is_empty());
                self.step = Step::Ending;
            }
            return Ok(());
        }
        if 0 < open.batches_left {
            if self.random.coin() {
                self.write_batch(scene);
            }
        } else if open.parts.values().all(|part| part.batches.is_empty()) {
            self.written();
            return Ok(());
        }
        self.send(scene);
        Ok(())
    }

    fn write_batch(&mut self, scene: &mut Scene<'_, '_>) {
        let Some((producer, granted)) = self.producer else { return };
        let Some(open) = &mut self.open else { return };
        let places: Vec<Place> = open.parts.keys().copied().collect();
        if places.is_empty() {
            open.batches_left = 0;
            return;
        }
        open.batches_left -= 1;
        let place = *self.random.pick(&places);
        // A topic that is gone from the map takes nothing any more, keys or not.
        let retention_ms = self.map.name(place.topic).and_then(delete_retention_ms);
        if let Some(retention_ms) = retention_ms {
            scene.history.compacts(place, retention_ms);
        }
        let random = &mut self.random;
        let sequence = self.sequences.entry(place).or_default();
        let mut builder =
            BatchBuilder::new(Codec::None).numbered(producer, Sequence(*sequence)).transactional();
        let timestamp = WALL_CLOCK_START_MS + (scene.port.now().nanos / 1_000_000) as i64;
        let count = random.between(1, scene.crowd.batch_records_max as u64);
        let mut values = Vec::new();
        for _ in 0..count {
            let value = Value { writer: granted.writer, number: self.next_value };
            self.next_value += 1;
            let filling = random.between(0, scene.crowd.value_bytes.min(2_000) as u64) as usize;
            let what = (value, true, retention_ms.is_some());
            append(&mut builder, Timestamp(timestamp), what, filling);
            scene.history.sending_in(place, value, open.number);
            values.push(value);
        }
        let bytes = builder.build().freeze();
        let (under_way, is_sent) = (false, false);
        let pending = Pending { values, sequence: *sequence, bytes, under_way, is_sent };
        *sequence += count as i32;
        open.parts.get_mut(&place).expect("just listed").batches.push_back(pending);
    }

    /// Sends what may go.
    fn send(&mut self, scene: &mut Scene<'_, '_>) {
        loop {
            let Some(to) = self.next_port() else { return };
            let Some(open) = &mut self.open else { return };
            let most = self.random.between(1, 3) as usize;
            let mut batches = Vec::new();
            for (place, part) in &mut open.parts {
                if batches.len() < most
                    && part.to == to
                    && let Some(next) = part.next()
                {
                    part.failed = false;
                    part.batches[next].under_way = true;
                    let pending = &mut part.batches[next];
                    if !std::mem::replace(&mut pending.is_sent, true) {
                        let writer = pending.values[0].writer;
                        let transactions = &mut scene.history.transactions;
                        transactions.sending(&self.id, writer, &pending.values);
                    }
                    batches.push((*place, pending.sequence, pending.bytes.clone()));
                }
            }
            open.is_known = true;
            self.send_request(to, &batches, scene);
        }
    }

    fn next_port(&mut self) -> Option<u16> {
        let open = self.open.as_mut()?;
        for (place, part) in &mut open.parts {
            if part.under_way() == 0 {
                let elsewhere = self.random.happens(50_000);
                part.to = if elsewhere { BOOTSTRAP_PORT } else { self.map.leader(*place) };
            }
        }
        let ready = open.parts.values().filter(|part| part.next().is_some());
        ready.map(|part| part.to).find(|to| self.lines.in_flight(*to) < UNDER_WAY_MAX)
    }

    fn send_request(
        &mut self,
        to: u16,
        batches: &[(Place, i32, Bytes)],
        scene: &mut Scene<'_, '_>,
    ) {
        let version = self.flow.produce;
        let names: Vec<String> =
            batches.iter().map(|(place, ..)| self.name_of(*place, scene)).collect();
        let partitions: Vec<OutgoingProducePartition<'_>> = batches
            .iter()
            .zip(&names)
            .map(|((place, _, bytes), name)| OutgoingProducePartition {
                topic: if BY_ID_FROM <= version {
                    TopicRef::Id(place.topic)
                } else {
                    TopicRef::Name(name)
                },
                partition: place.partition,
                records: Some(bytes),
            })
            .collect();
        let request = OutgoingProduce {
            transactional_id: Some(&self.id),
            acks: -1,
            timeout_ms: 1_500,
            partitions: &partitions,
        };
        let asked = batches.iter().map(|(place, sequence, _)| (*place, *sequence)).collect();
        let encode =
            |out: &mut BytesMut, correlation| request.encode(out, version, correlation, None);
        self.lines.ask(to, Some(Ask::Produce(asked)), scene.port, encode);
    }
}
