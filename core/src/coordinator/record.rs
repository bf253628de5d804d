//! What a coordinator remembers, as records of `__consumer_offsets` in Kafka's own format.
//!
//! ```text
//! key     version: i16 | fields        which thing: an offset (1), a group (2; 3 to 8 of the newer kind)
//! value   version: i16 | fields        how it is now; none: it is gone
//! ```
//!
//! Strings have a length of 16 bits, bytes one of 32. The layouts are those that Kafka's group
//! coordinator writes, so that its tools (a log dump with the offsets decoder, say) read ours. We
//! read what we write: nobody else writes to this topic. What Kafka has no record for is drawn in
//! `docs/formats/offsets.md`.
//!
//! Start reading at [`Record`].

mod consumer;
mod share;

use std::sync::Arc;

pub use consumer::{ClassicMember, ConsumerRecord, Current, State, Subscription};
pub use share::{ShareRecord, ShareSubscription};

use bytes::{Bytes, BytesMut};
use tidemill_net::cursor::{Reader, Writer};
use tidemill_record::ProducerId;

use super::offsets::Committed;
use super::request::MemberId;
use crate::coordinator_log::{DecodeError, LogRecord, open_value};

const OFFSET_KEY: i16 = 1;
const GROUP_KEY: i16 = 2;
/// Ours: Kafka writes such offsets as records of transactions, and this log has none.
const PENDING_KEY: i16 = 1001;
/// Of an offset's value: with leader epoch, without expiry.
const OFFSET_VALUE: i16 = 3;
/// Of an offset's value whose client said how long to keep it: with expiry, without leader epoch.
const OFFSET_VALUE_EXPIRING: i16 = 1;
const GROUP_VALUE: i16 = 3;

/// One change of what is remembered.
#[derive(Clone, Debug, PartialEq)]
pub enum Record {
    /// A group has committed this offset.
    Offset {
        /// Which group.
        group: Arc<str>,
        /// Of which topic.
        topic: Arc<str>,
        /// Of which partition.
        partition: i32,
        /// The offset.
        committed: Committed,
        /// Up to which number it overtakes what was committed in transactions that are open; none if
        /// it overtakes all there are.
        overtakes: Option<i64>,
    },
    /// A committed offset is forgotten.
    OffsetRemoved {
        /// Which group's.
        group: Arc<str>,
        /// Of which topic.
        topic: Arc<str>,
        /// Of which partition.
        partition: i32,
    },
    /// A group has committed this offset within a transaction that is open.
    Pending {
        /// Which group.
        group: Arc<str>,
        /// Whose transaction.
        producer: ProducerId,
        /// Of which topic.
        topic: Arc<str>,
        /// Of which partition.
        partition: i32,
        /// The offset.
        committed: Committed,
        /// Its number among what the group has committed in transactions; older logs have none.
        order: Option<i64>,
    },
    /// The transaction has ended.
    PendingRemoved {
        /// Which group's.
        group: Arc<str>,
        /// Whose transaction.
        producer: ProducerId,
        /// Of which topic.
        topic: Arc<str>,
        /// Of which partition.
        partition: i32,
    },
    /// A group of the classic protocol is now like this.
    Group {
        /// Which group.
        group: Arc<str>,
        /// How it is.
        state: GroupState,
    },
    /// A group of the classic protocol is gone.
    GroupRemoved {
        /// Which group.
        group: Arc<str>,
    },
    /// Something about a group of the newer kind.
    Consumer {
        /// Which group.
        group: Arc<str>,
        /// What has changed.
        change: ConsumerRecord,
    },
    /// Something about a share group.
    Share {
        /// Which group.
        group: Arc<str>,
        /// What has changed.
        change: ShareRecord,
    },
}

/// What is remembered of a group of the classic protocol.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct GroupState {
    /// Its kind; empty if it never had members.
    pub protocol_type: Arc<str>,
    /// Its generation.
    pub generation: i32,
    /// The chosen protocol.
    pub protocol: Option<Arc<str>>,
    /// Who shares out.
    pub leader: Option<MemberId>,
    /// Since when it is in its state, in milliseconds of the Unix epoch.
    pub since_ms: i64,
    /// Who is in it.
    pub members: Vec<MemberState>,
}

/// What is remembered of a member of a group of the classic protocol.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct MemberState {
    /// Its name.
    pub member: MemberId,
    /// Its name across restarts.
    pub instance: Option<Arc<str>>,
    /// What its client calls itself.
    pub client_id: Arc<str>,
    /// Where it came from.
    pub client_host: Arc<str>,
    /// How long it may take to come back in a rebalance.
    pub rebalance_ms: i32,
    /// After how much silence it is taken for dead.
    pub session_ms: i32,
    /// What it said under the chosen protocol.
    pub subscription: Bytes,
    /// Its share.
    pub assignment: Bytes,
}

impl Record {
    /// The group it is about.
    pub fn group(&self) -> &Arc<str> {
        match self {
            Self::Offset { group, .. }
            | Self::OffsetRemoved { group, .. }
            | Self::Pending { group, .. }
            | Self::PendingRemoved { group, .. }
            | Self::Group { group, .. }
            | Self::GroupRemoved { group }
            | Self::Consumer { group, .. }
            | Self::Share { group, .. } => group,
        }
    }

    /// Whose transaction it is of, if it is of one.
    pub fn producer(&self) -> Option<ProducerId> {
        match self {
            Self::Pending { producer, .. } | Self::PendingRemoved { producer, .. } => {
                Some(*producer)
            }
            _ => None,
        }
    }
}

impl LogRecord for Record {
    fn encode(&self) -> (BytesMut, Option<BytesMut>) {
        let mut key = BytesMut::with_capacity(SMALL);
        let mut out = Writer::new(&mut key);
        match self {
            Self::Offset { group, topic, partition, .. }
            | Self::OffsetRemoved { group, topic, partition } => {
                out.i16(OFFSET_KEY);
                out.string(group, false);
                out.string(topic, false);
                out.i32(*partition);
            }
            Self::Pending { group, producer, topic, partition, .. }
            | Self::PendingRemoved { group, producer, topic, partition } => {
                out.i16(PENDING_KEY);
                out.string(group, false);
                out.i64(producer.0);
                out.string(topic, false);
                out.i32(*partition);
            }
            Self::Share { group, change } => {
                let (number, member) = change.key();
                out.i16(number);
                out.string(group, false);
                member.iter().for_each(|member| out.string(member, false));
            }
            Self::Group { group, .. } | Self::GroupRemoved { group } => {
                out.i16(GROUP_KEY);
                out.string(group, false);
            }
            Self::Consumer { group, change } => {
                let (number, member) = change.key();
                out.i16(number);
                out.string(group, false);
                member.iter().for_each(|member| out.string(member, false));
            }
        }
        let value = match self {
            Self::Offset { committed, overtakes: order, .. }
            | Self::Pending { committed, order, .. } => Some(encode_offset(committed, *order)),
            Self::Group { state, .. } => Some(encode_group(state)),
            Self::Consumer { change, .. } => change.value(),
            Self::Share { change, .. } => change.value(),
            Self::OffsetRemoved { .. }
            | Self::PendingRemoved { .. }
            | Self::GroupRemoved { .. } => None,
        };
        (key, value)
    }

    fn decode(key: &[u8], value: Option<&[u8]>) -> Result<Self, DecodeError> {
        let mut key = Reader::new(key);
        match key.i16()? {
            OFFSET_KEY => {
                let group = key.string(false)?.into();
                let topic = key.string(false)?.into();
                let partition = key.i32()?;
                Ok(match value {
                    Some(value) => {
                        let (committed, overtakes) = decode_offset(value)?;
                        Self::Offset { group, topic, partition, committed, overtakes }
                    }
                    None => Self::OffsetRemoved { group, topic, partition },
                })
            }
            PENDING_KEY => {
                let group = key.string(false)?.into();
                let producer = ProducerId(key.i64()?);
                let topic = key.string(false)?.into();
                let partition = key.i32()?;
                Ok(match value {
                    Some(value) => {
                        let (committed, order) = decode_offset(value)?;
                        Self::Pending { group, producer, topic, partition, committed, order }
                    }
                    None => Self::PendingRemoved { group, producer, topic, partition },
                })
            }
            GROUP_KEY => {
                let group = key.string(false)?.into();
                Ok(match value {
                    Some(value) => Self::Group { group, state: decode_group(value)? },
                    None => Self::GroupRemoved { group },
                })
            }
            number @ (share::MEMBER_KEY | share::GROUP_KEY) => {
                let group = key.string(false)?.into();
                let change = ShareRecord::decode(number, &mut key, value)?;
                Ok(Self::Share { group, change })
            }
            number => {
                let group = key.string(false)?.into();
                let change = ConsumerRecord::decode(number, &mut key, value)?;
                Ok(Self::Consumer { group, change })
            }
        }
    }
}

/// Most keys, and values of offsets, fit into so many bytes; both are made for each partition that is
/// committed.
const SMALL: usize = 64;

/// The number, if there is one, is ours: it comes behind what Kafka's readers look at.
fn encode_offset(committed: &Committed, order: Option<i64>) -> BytesMut {
    let mut value = BytesMut::with_capacity(SMALL);
    let mut out = Writer::new(&mut value);
    out.i16(if committed.expire_ms.is_some() { OFFSET_VALUE_EXPIRING } else { OFFSET_VALUE });
    out.i64(committed.offset);
    if committed.expire_ms.is_none() {
        out.i32(committed.leader_epoch);
    }
    out.string(&committed.metadata, false);
    out.i64(committed.commit_ms);
    if let Some(expire_ms) = committed.expire_ms {
        out.i64(expire_ms);
    }
    if let Some(order) = order {
        out.i64(order);
    }
    value
}

fn decode_offset(value: &[u8]) -> Result<(Committed, Option<i64>), DecodeError> {
    let mut value = Reader::new(value);
    let version = value.i16()?;
    if version != OFFSET_VALUE && version != OFFSET_VALUE_EXPIRING {
        return Err(DecodeError::Unknown { what: "version of a value", found: version });
    }
    let committed = Committed {
        offset: value.i64()?,
        leader_epoch: if version == OFFSET_VALUE { value.i32()? } else { -1 },
        metadata: value.string(false)?.into(),
        commit_ms: value.i64()?,
        expire_ms: if version == OFFSET_VALUE_EXPIRING { Some(value.i64()?) } else { None },
    };
    let order = if value.is_empty() { None } else { Some(value.i64()?) };
    Ok((committed, order))
}

fn encode_group(state: &GroupState) -> BytesMut {
    let mut value = BytesMut::new();
    let mut out = Writer::new(&mut value);
    out.i16(GROUP_VALUE);
    out.string(&state.protocol_type, false);
    out.i32(state.generation);
    out.nullable_string(state.protocol.as_deref(), false);
    out.nullable_string(state.leader.as_deref(), false);
    out.i64(state.since_ms);
    out.count(state.members.len(), false);
    for member in &state.members {
        out.string(&member.member, false);
        out.nullable_string(member.instance.as_deref(), false);
        out.string(&member.client_id, false);
        out.string(&member.client_host, false);
        out.i32(member.rebalance_ms);
        out.i32(member.session_ms);
        out.nullable_bytes(Some(&member.subscription), false);
        out.nullable_bytes(Some(&member.assignment), false);
    }
    value
}

fn decode_group(value: &[u8]) -> Result<GroupState, DecodeError> {
    /// Four strings, two numbers, two lengths of bytes.
    const MEMBER_BYTES_MIN: usize = 4 * 2 + 2 * 4 + 2 * 4;
    let mut value = open_value(value, GROUP_VALUE)?;
    let mut state = GroupState {
        protocol_type: value.string(false)?.into(),
        generation: value.i32()?,
        protocol: value.nullable_string(false)?.map(Arc::from),
        leader: value.nullable_string(false)?.map(Arc::from),
        since_ms: value.i64()?,
        members: Vec::new(),
    };
    for _ in 0..value.count(false, MEMBER_BYTES_MIN)? {
        state.members.push(MemberState {
            member: value.string(false)?.into(),
            instance: value.nullable_string(false)?.map(Arc::from),
            client_id: value.string(false)?.into(),
            client_host: value.string(false)?.into(),
            rebalance_ms: value.i32()?,
            session_ms: value.i32()?,
            subscription: bytes(&mut value)?,
            assignment: bytes(&mut value)?,
        });
    }
    Ok(state)
}

fn bytes(value: &mut Reader<'_>) -> Result<Bytes, DecodeError> {
    Ok(Bytes::copy_from_slice(value.nullable_bytes(false)?.unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offset(expire_ms: Option<i64>) -> Record {
        Record::Offset {
            group: "g".into(),
            topic: "t".into(),
            partition: 7,
            committed: Committed {
                offset: 42,
                leader_epoch: if expire_ms.is_some() { -1 } else { 3 },
                metadata: "m".into(),
                commit_ms: 1000,
                expire_ms,
            },
            overtakes: None,
        }
    }

    fn pending(order: Option<i64>) -> Record {
        let Record::Offset { group, topic, partition, committed, .. } = offset(None) else {
            unreachable!("it is one")
        };
        let producer = ProducerId(9);
        Record::Pending { group, producer, topic, partition, committed, order }
    }

    fn group() -> Record {
        let member = MemberState {
            member: "c-1".into(),
            instance: Some("i".into()),
            client_id: "c".into(),
            client_host: "/h".into(),
            rebalance_ms: 60_000,
            session_ms: 10_000,
            subscription: Bytes::from_static(b"sub"),
            assignment: Bytes::from_static(b"as"),
        };
        Record::Group {
            group: "g".into(),
            state: GroupState {
                protocol_type: "consumer".into(),
                generation: 5,
                protocol: Some("range".into()),
                leader: Some("c-1".into()),
                since_ms: 2000,
                members: vec![member],
            },
        }
    }

    /// The bytes are those of Kafka's schemas OffsetCommitKey 1 and OffsetCommitValue 3 and 1.
    #[test]
    fn an_offset_is_written_as_kafka_writes_it() {
        let (key, value) = offset(None).encode();
        assert_eq!(&key[..], b"\0\x01\0\x01g\0\x01t\0\0\0\x07");
        assert_eq!(
            &value.unwrap()[..],
            b"\0\x03\0\0\0\0\0\0\0\x2a\0\0\0\x03\0\x01m\0\0\0\0\0\0\x03\xe8"
        );
        let (_, value) = offset(Some(9)).encode();
        assert_eq!(
            &value.unwrap()[..],
            b"\0\x01\0\0\0\0\0\0\0\x2a\0\x01m\0\0\0\0\0\0\x03\xe8\0\0\0\0\0\0\0\x09"
        );
    }

    /// As drawn in `docs/formats/offsets.md`. What was written before there were numbers is read as
    /// it was; Kafka's tools read an offset with a number as one without.
    #[test]
    fn an_offset_of_a_transaction_has_its_number_behind_it() {
        let (key, value) = pending(Some(5)).encode();
        assert_eq!(&key[..], b"\x03\xe9\0\x01g\0\0\0\0\0\0\0\x09\0\x01t\0\0\0\x07");
        let value = value.unwrap();
        let (_, of_kafka) = offset(None).encode();
        let (before, number) = value.split_at(value.len() - 8);
        assert_eq!((before, number), (&of_kafka.unwrap()[..], &b"\0\0\0\0\0\0\0\x05"[..]));
        assert_eq!(Record::decode(&key, Some(&value)), Ok(pending(Some(5))));
        assert_eq!(Record::decode(&key, Some(before)), Ok(pending(None)));
        for cut in 1..8 {
            assert!(Record::decode(&key, Some(&value[..value.len() - cut])).is_err());
        }

        let Record::Offset { group, topic, partition, committed, .. } = offset(Some(9)) else {
            unreachable!("it is one")
        };
        let record = Record::Offset { group, topic, partition, committed, overtakes: Some(5) };
        let (key, value) = record.encode();
        assert_eq!(Record::decode(&key, value.as_deref()), Ok(record));
    }

    /// The bytes are those of Kafka's schemas GroupMetadataKey 2 and GroupMetadataValue 3.
    #[test]
    fn a_group_is_written_as_kafka_writes_it() {
        let (key, value) = group().encode();
        assert_eq!(&key[..], b"\0\x02\0\x01g");
        let mut expected = Vec::new();
        expected.extend_from_slice(b"\0\x03\0\x08consumer\0\0\0\x05\0\x05range\0\x03c-1");
        expected.extend_from_slice(b"\0\0\0\0\0\0\x07\xd0\0\0\0\x01");
        expected.extend_from_slice(b"\0\x03c-1\0\x01i\0\x01c\0\x02/h\0\0\xea\x60\0\0\x27\x10");
        expected.extend_from_slice(b"\0\0\0\x03sub\0\0\0\x02as");
        assert_eq!(&value.unwrap()[..], expected);
    }

    /// What is written is read back; what is cut off anywhere is an error, never a panic.
    #[test]
    fn records_are_read_back_and_never_believed() {
        let removed = [
            pending(None),
            Record::OffsetRemoved { group: "g".into(), topic: "t".into(), partition: 7 },
            Record::GroupRemoved { group: "g".into() },
        ];
        for record in [offset(None), offset(Some(9)), group()].into_iter().chain(removed) {
            let (key, value) = record.encode();
            assert_eq!(Record::decode(&key, value.as_deref()), Ok(record.clone()));
            for cut in 0..key.len() {
                assert!(Record::decode(&key[..cut], value.as_deref()).is_err());
            }
            for cut in 0..value.as_ref().map_or(0, |value| value.len()) {
                assert!(Record::decode(&key, value.as_ref().map(|v| &v[..cut])).is_err());
            }
        }
        assert!(Record::decode(&[0, 99], None).is_err());
    }
}
