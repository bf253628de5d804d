//! What is remembered of a partition as a share group reads it, as records of `__share_group_state`
//! in Kafka's own format.
//!
//! ```text
//! key     kind: i16 | group, topic id, partition
//! value   version: i16 | epochs, start, batches: how it is (kind 0), or what has changed (kind 1)
//! ```
//!
//! How it is replaces all that was said before; without a value it is forgotten. What has changed
//! adds to it, and its start never goes back. Values are in the flexible form. We read what we
//! write: nobody else writes to this topic.

use std::sync::Arc;

use bytes::BytesMut;
use tidemill_net::cursor::{Reader, Writer};
use tidemill_record::TopicId;

use crate::coordinator_log::{DecodeError, LogRecord, open_value};

const STATE_KEY: i16 = 0;
const CHANGE_KEY: i16 = 1;
const VALUE: i16 = 0;

/// What it is about: a partition, as a group reads it.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Key {
    /// The group.
    pub group: Arc<str>,
    /// The topic.
    pub topic: TopicId,
    /// The partition's number.
    pub partition: i32,
}

impl Key {
    /// The name by which its coordinator is found, as Kafka makes it.
    pub fn name(&self) -> String {
        format!("{}:{}:{}", self.group, self.topic, self.partition)
    }
}

/// A state that is remembered.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Delivery {
    /// Somebody may have it.
    Available,
    /// It was dealt with.
    Acknowledged,
    /// Nobody is to have it.
    Archived,
}

impl Delivery {
    const ALL: [Self; 3] = [Self::Available, Self::Acknowledged, Self::Archived];

    /// Kafka's number.
    fn number(self) -> i8 {
        match self {
            Self::Available => 0,
            Self::Acknowledged => 2,
            Self::Archived => 4,
        }
    }
}

/// Records that follow each other, in the same state.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct StateBatch {
    /// The first one's offset.
    pub first: i64,
    /// The last one's offset.
    pub last: i64,
    /// How they are.
    pub state: Delivery,
    /// How often they were given out.
    pub count: i16,
}

/// One change of what is remembered.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Record {
    /// It is like this.
    State {
        /// What.
        key: Key,
        /// Everything below is done with.
        start: i64,
        /// What lies behind and is not as it was when it was written.
        batches: Vec<StateBatch>,
        /// When that was so, in milliseconds of the Unix epoch.
        wall_ms: i64,
    },
    /// It is forgotten.
    Forgotten {
        /// What.
        key: Key,
    },
    /// This has changed.
    Change {
        /// Of what.
        key: Key,
        /// Everything below is done with.
        start: i64,
        /// What is in another state now.
        batches: Vec<StateBatch>,
    },
}

impl Record {
    /// What it is about.
    pub fn key(&self) -> &Key {
        match self {
            Self::State { key, .. } | Self::Forgotten { key } | Self::Change { key, .. } => key,
        }
    }
}

impl LogRecord for Record {
    fn encode(&self) -> (BytesMut, Option<BytesMut>) {
        let mut bytes = BytesMut::new();
        let mut out = Writer::new(&mut bytes);
        out.i16(match self {
            Self::State { .. } | Self::Forgotten { .. } => STATE_KEY,
            Self::Change { .. } => CHANGE_KEY,
        });
        let key = self.key();
        out.string(&key.group, false);
        out.topic_id(key.topic);
        out.i32(key.partition);
        let mut value = BytesMut::new();
        let mut out = Writer::new(&mut value);
        out.i16(VALUE);
        match self {
            Self::Forgotten { .. } => return (bytes, None),
            Self::State { start, batches, wall_ms, .. } => {
                // Epochs of the snapshot, the state and the leader: one broker writes here.
                (0..3).for_each(|_| out.i32(0));
                out.i64(*start);
                // When it was made, and when it was written.
                (0..2).for_each(|_| out.i64(*wall_ms));
                write_batches(&mut out, batches);
            }
            Self::Change { start, batches, .. } => {
                (0..2).for_each(|_| out.i32(0));
                out.i64(*start);
                write_batches(&mut out, batches);
            }
        }
        out.tag_count(0, true);
        (bytes, Some(value))
    }

    fn decode(key: &[u8], value: Option<&[u8]>) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(key);
        let kind = reader.i16()?;
        let key = Key {
            group: reader.string(false)?.into(),
            topic: reader.topic_id()?,
            partition: reader.i32()?,
        };
        let mut value = value.map(|value| open_value(value, VALUE)).transpose()?;
        match (kind, &mut value) {
            (STATE_KEY, None) => Ok(Self::Forgotten { key }),
            (STATE_KEY, Some(value)) => {
                for _ in 0..3 {
                    value.i32()?;
                }
                let start = value.i64()?;
                value.i64()?;
                let wall_ms = value.i64()?;
                let batches = read_batches(value)?;
                value.skip_tagged_fields(true)?;
                Ok(Self::State { key, start, batches, wall_ms })
            }
            (CHANGE_KEY, Some(value)) => {
                for _ in 0..2 {
                    value.i32()?;
                }
                let start = value.i64()?;
                let batches = read_batches(value)?;
                value.skip_tagged_fields(true)?;
                Ok(Self::Change { key, start, batches })
            }
            (found, _) => Err(DecodeError::Unknown { what: "kind of key", found }),
        }
    }
}

fn write_batches(out: &mut Writer<'_>, batches: &[StateBatch]) {
    out.count(batches.len(), true);
    for batch in batches {
        out.i64(batch.first);
        out.i64(batch.last);
        out.i8(batch.state.number());
        out.i16(batch.count);
        out.tag_count(0, true);
    }
}

fn read_batches(value: &mut Reader<'_>) -> Result<Vec<StateBatch>, DecodeError> {
    /// Two offsets, a state, a count, no tags.
    const BATCH_BYTES_MIN: usize = 8 + 8 + 1 + 2 + 1;
    let mut batches = Vec::new();
    for _ in 0..value.count(true, BATCH_BYTES_MIN)? {
        let (first, last) = (value.i64()?, value.i64()?);
        let number = value.i8()?;
        let state = Delivery::ALL.into_iter().find(|state| state.number() == number);
        let unknown = DecodeError::Unknown { what: "state of records", found: i16::from(number) };
        batches.push(StateBatch { first, last, state: state.ok_or(unknown)?, count: value.i16()? });
        value.skip_tagged_fields(true)?;
    }
    Ok(batches)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> Key {
        Key { group: "g".into(), topic: TopicId([7; 16]), partition: 3 }
    }

    fn batches() -> Vec<StateBatch> {
        vec![
            StateBatch { first: 5, last: 6, state: Delivery::Available, count: 2 },
            StateBatch { first: 9, last: 9, state: Delivery::Archived, count: 5 },
        ]
    }

    /// The bytes are those of Kafka's schemas ShareUpdateKey and ShareUpdateValue 0.
    #[test]
    fn a_change_is_written_as_kafka_writes_it() {
        let batches = vec![batches()[1]];
        let (key, value) = Record::Change { key: key(), start: 4, batches }.encode();
        let mut expected = b"\0\x01\0\x01g".to_vec();
        expected.extend([7; 16]);
        expected.extend(b"\0\0\0\x03");
        assert_eq!(&key[..], expected);
        let mut expected = b"\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x04\x02".to_vec();
        expected.extend(b"\0\0\0\0\0\0\0\x09\0\0\0\0\0\0\0\x09\x04\0\x05\0\0");
        assert_eq!(&value.unwrap()[..], expected);
    }

    /// What is written is read back; what is cut off anywhere is an error, never a panic.
    #[test]
    fn records_are_read_back_and_never_believed() {
        let all = [
            Record::State { key: key(), start: 4, batches: batches(), wall_ms: 1000 },
            Record::Change { key: key(), start: 4, batches: batches() },
            Record::Forgotten { key: key() },
        ];
        for record in all {
            let (key, value) = record.encode();
            assert_eq!(Record::decode(&key, value.as_deref()), Ok(record));
            for cut in 0..key.len() {
                assert!(Record::decode(&key[..cut], value.as_deref()).is_err());
            }
            for cut in 0..value.as_ref().map_or(0, |value| value.len()) {
                assert!(Record::decode(&key, value.as_ref().map(|v| &v[..cut])).is_err());
            }
        }
        assert!(Record::decode(&[0, 9], None).is_err());
    }
}
