//! What a coordinator of transactions remembers, as records of `__transaction_state` in Kafka's
//! own format: TransactionLogKey version 0, TransactionLogValue version 1.
//!
//! ```text
//! key     version: i16 | transactional id
//! value   version: i16 | producer id, epoch, timeout, status, partitions, times | tagged fields
//! ```
//!
//! Kafka's tagged fields are the producer id before (0), the one after (1) and the flow of the
//! client (2). Ours, which its tools pass over, is the epoch before (100): a client that has not
//! heard of its new epoch is recognised after a restart too.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::BytesMut;
use tidemill_net::cursor::{Reader, Writer};
use tidemill_record::{Producer, ProducerEpoch, ProducerId};

use super::state::{Part, State, Status};
use crate::coordinator_log::{DecodeError, LogRecord, open_value};

const KEY_VERSION: i16 = 0;
const VALUE_VERSION: i16 = 1;
const PREVIOUS_ID_TAG: u32 = 0;
const NEXT_ID_TAG: u32 = 1;
const FLOW_TAG: u32 = 2;
const PREVIOUS_EPOCH_TAG: u32 = 100;
/// The newer flow, as `transaction.version` counts.
const NEWER_FLOW: i16 = 2;
const NO_ID: i64 = -1;
const NO_TIME: i64 = -1;

/// How a transactional id stands from now on; without a state it is forgotten.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Record {
    /// Whose.
    pub id: Arc<str>,
    /// How it stands.
    pub state: Option<State>,
}

impl LogRecord for Record {
    fn encode(&self) -> (BytesMut, Option<BytesMut>) {
        let mut key = BytesMut::new();
        let mut out = Writer::new(&mut key);
        out.i16(KEY_VERSION);
        out.string(&self.id, false);
        (key, self.state.as_ref().map(encode_state))
    }

    fn decode(key: &[u8], value: Option<&[u8]>) -> Result<Self, DecodeError> {
        let mut key = Reader::new(key);
        let found = key.i16()?;
        if found != KEY_VERSION {
            return Err(DecodeError::Unknown { what: "version of a key", found });
        }
        let id = key.string(false)?.into();
        Ok(Self { id, state: value.map(decode_state).transpose()? })
    }
}

fn encode_state(state: &State) -> BytesMut {
    let mut value = BytesMut::new();
    let mut out = Writer::new(&mut value);
    out.i16(VALUE_VERSION);
    out.i64(state.producer.id.0);
    out.i16(state.producer.epoch.0);
    out.i32(state.timeout_ms);
    out.i8(state.status as i8);
    let mut topics: Vec<(&Arc<str>, Vec<i32>)> = Vec::new();
    for (topic, partition) in &state.partitions {
        match topics.last_mut() {
            Some((last, partitions)) if *last == topic => partitions.push(*partition),
            _ => topics.push((topic, vec![*partition])),
        }
    }
    out.count(topics.len(), true);
    for (topic, partitions) in topics {
        out.string(topic, true);
        out.count(partitions.len(), true);
        partitions.into_iter().for_each(|partition| out.i32(partition));
        out.unsigned_varint(0);
    }
    out.i64(state.updated_ms);
    out.i64(state.started_ms.unwrap_or(NO_TIME));
    let tags = [
        state.previous.map(|previous| (PREVIOUS_ID_TAG, previous.id.0.to_be_bytes().to_vec())),
        state.next.map(|next| (NEXT_ID_TAG, next.0.to_be_bytes().to_vec())),
        state.is_newer.then(|| (FLOW_TAG, NEWER_FLOW.to_be_bytes().to_vec())),
        state
            .previous
            .map(|previous| (PREVIOUS_EPOCH_TAG, previous.epoch.0.to_be_bytes().to_vec())),
    ];
    out.unsigned_varint(tags.iter().flatten().count() as u32);
    for (tag, bytes) in tags.into_iter().flatten() {
        out.unsigned_varint(tag);
        out.unsigned_varint(bytes.len() as u32);
        out.out().extend_from_slice(&bytes);
    }
    value
}

fn decode_state(value: &[u8]) -> Result<State, DecodeError> {
    let mut value = open_value(value, VALUE_VERSION)?;
    let producer = Producer { id: ProducerId(value.i64()?), epoch: ProducerEpoch(value.i16()?) };
    let timeout_ms = value.i32()?;
    let status = value.i8()?;
    let known = usize::try_from(status).ok().and_then(|status| Status::ALL.get(status));
    let status = *known
        .ok_or(DecodeError::Unknown { what: "state of a transaction", found: i16::from(status) })?;
    let mut partitions: BTreeSet<Part> = BTreeSet::new();
    for _ in 0..value.count(true, 3)? {
        let topic: Arc<str> = value.string(true)?.into();
        for _ in 0..value.count(true, 4)? {
            partitions.insert((Arc::clone(&topic), value.i32()?));
        }
        value.skip_tagged_fields(true)?;
    }
    let updated_ms = value.i64()?;
    let started_ms = Some(value.i64()?).filter(|at| *at != NO_TIME);
    let (mut previous_id, mut next_id, mut flow, mut previous_epoch) = (NO_ID, NO_ID, 0, None);
    value.tagged_fields(true, |tag, field| {
        match tag {
            PREVIOUS_ID_TAG => previous_id = field.i64()?,
            NEXT_ID_TAG => next_id = field.i64()?,
            FLOW_TAG => flow = field.i16()?,
            PREVIOUS_EPOCH_TAG => previous_epoch = Some(ProducerEpoch(field.i16()?)),
            _ => return Ok(false),
        }
        Ok(true)
    })?;
    let previous = previous_epoch.filter(|_| previous_id != NO_ID);
    Ok(State {
        producer,
        previous: previous.map(|epoch| Producer { id: ProducerId(previous_id), epoch }),
        next: Some(ProducerId(next_id)).filter(|_| next_id != NO_ID),
        timeout_ms,
        status,
        partitions,
        is_newer: flow == NEWER_FLOW,
        updated_ms,
        started_ms,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state() -> State {
        State {
            producer: Producer { id: ProducerId(7), epoch: ProducerEpoch(3) },
            previous: Some(Producer { id: ProducerId(7), epoch: ProducerEpoch(2) }),
            next: None,
            timeout_ms: 60_000,
            status: Status::PrepareCommit,
            partitions: [("t".into(), 0), ("t".into(), 2), ("u".into(), 1)].into(),
            is_newer: true,
            updated_ms: 1000,
            started_ms: Some(999),
        }
    }

    /// The bytes are those of Kafka's schemas TransactionLogKey 0 and TransactionLogValue 1.
    #[test]
    fn a_transaction_is_written_as_kafka_writes_it() {
        let (key, value) = Record { id: "x".into(), state: Some(state()) }.encode();
        assert_eq!(&key[..], b"\0\0\0\x01x");
        let mut expected = Vec::new();
        expected.extend_from_slice(b"\0\x01\0\0\0\0\0\0\0\x07\0\x03\0\0\xea\x60\x02");
        expected.extend_from_slice(b"\x03\x02t\x03\0\0\0\0\0\0\0\x02\0\x02u\x02\0\0\0\x01\0");
        expected.extend_from_slice(b"\0\0\0\0\0\0\x03\xe8\0\0\0\0\0\0\x03\xe7");
        expected.extend_from_slice(b"\x03\0\x08\0\0\0\0\0\0\0\x07\x02\x02\0\x02\x64\x02\0\x02");
        assert_eq!(&value.unwrap()[..], expected);
    }

    /// What is written is read back; what is cut off anywhere is an error, never a panic.
    #[test]
    fn records_are_read_back_and_never_believed() {
        let plain = State {
            previous: None,
            next: Some(ProducerId(9)),
            is_newer: false,
            partitions: BTreeSet::new(),
            started_ms: None,
            status: Status::Empty,
            ..state()
        };
        for state in [Some(state()), Some(plain), None] {
            let record = Record { id: "x".into(), state };
            let (key, value) = record.encode();
            assert_eq!(Record::decode(&key, value.as_deref()), Ok(record));
            for cut in 0..key.len() {
                assert!(Record::decode(&key[..cut], value.as_deref()).is_err());
            }
            for cut in 0..value.as_ref().map_or(0, |value| value.len()) {
                assert!(Record::decode(&key, value.as_ref().map(|v| &v[..cut])).is_err());
            }
        }
        assert!(Record::decode(&[0, 9, 0, 0], None).is_err());
    }
}
