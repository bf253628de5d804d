//! What is remembered of a group of the newer kind (KIP-848), in Kafka's format.
//!
//! ```text
//! key 3  ConsumerGroupMetadata                the group's epoch, and a hash of the topics it reads
//! key 5  ConsumerGroupMemberMetadata          what a member wants
//! key 6  ConsumerGroupTargetAssignmentMetadata   for which epoch the shares were made
//! key 7  ConsumerGroupTargetAssignmentMember     what a member is to have
//! key 8  ConsumerGroupCurrentMemberAssignment    what it has, and has still to give up
//! ```
//!
//! Values are version 0 in the flexible form: compact lengths, and tagged fields at each end.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tidemill_net::cursor::{Reader, WireError, Writer};

use crate::coordinator::assignment::Partitions;
use crate::coordinator::request::{MemberId, Protocol};
use crate::coordinator_log::{DecodeError, open_value};

/// Of the group.
pub(super) const GROUP_KEY: i16 = 3;
/// Of a member.
pub(super) const MEMBER_KEY: i16 = 5;
/// Of the epoch of the shares.
pub(super) const TARGET_EPOCH_KEY: i16 = 6;
/// Of a member's share.
pub(super) const TARGET_KEY: i16 = 7;
/// Of what a member has.
pub(super) const CURRENT_KEY: i16 = 8;

const VALUE: i16 = 0;
/// The tag of the hash of topics (KIP-1101).
const HASH_TAG: u32 = 0;
/// The tag of what a member that speaks the classic protocol has said.
const CLASSIC_TAG: u32 = 0;

/// One change; none means that it is gone.
#[derive(Clone, Debug, PartialEq)]
pub enum ConsumerRecord {
    /// The group's epoch, and a hash of the topics that its members read.
    Epoch(Option<(i32, i64)>),
    /// A member, and what it wants.
    Member(MemberId, Option<Subscription>),
    /// The epoch the shares were made for.
    TargetEpoch(Option<i32>),
    /// What a member is to have.
    Target(MemberId, Option<Partitions>),
    /// What a member has.
    Current(MemberId, Option<Current>),
}

/// What a member wants.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Subscription {
    /// Its name across restarts.
    pub instance: Option<Arc<str>>,
    /// Where it is.
    pub rack: Option<Arc<str>>,
    /// What its client calls itself.
    pub client_id: Arc<str>,
    /// Where it comes from.
    pub client_host: Arc<str>,
    /// The topics it wants, in order.
    pub topics: Vec<Arc<str>>,
    /// A pattern of topics it wants.
    pub regex: Option<Arc<str>>,
    /// How long it may take to give partitions up.
    pub rebalance_ms: i32,
    /// Which assignor it asks for.
    pub assignor: Option<Arc<str>>,
    /// What it said when it joined, if it speaks the classic protocol.
    pub classic: Option<ClassicMember>,
}

/// A member that speaks the classic protocol in a group of the newer kind.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ClassicMember {
    /// After how much silence it is taken for dead.
    pub session_ms: i32,
    /// What it can work with, the one it likes best first; there is at least one.
    pub protocols: Vec<Protocol>,
}

impl ClassicMember {
    /// How long it may be silent.
    pub fn session(&self) -> Duration {
        Duration::from_millis(u64::try_from(self.session_ms).unwrap_or(0))
    }
}

impl Subscription {
    /// Whether it is that of a member that speaks the newer protocol.
    pub fn speaks_newer(&self) -> bool {
        self.classic.is_none()
    }

    /// The pattern, if there is one.
    pub fn pattern(&self) -> Option<&str> {
        self.regex.as_deref().filter(|regex| !regex.is_empty())
    }
}

/// What a member has.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Current {
    /// Its epoch.
    pub epoch: i32,
    /// The epoch before, which it may still name if the answer was lost.
    pub previous_epoch: i32,
    /// Where it is on its way to its share.
    pub state: State,
    /// What it may read.
    pub assigned: Partitions,
    /// What it must give up before anybody else may have it.
    pub revoking: Partitions,
}

/// Where a member is on its way to its share.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum State {
    /// It has all of it.
    #[default]
    Stable,
    /// It has still to give something up.
    Unrevoked,
    /// Others have still to give up what it is to have.
    Unreleased,
}

impl State {
    fn number(self) -> i8 {
        match self {
            Self::Stable => 0,
            Self::Unrevoked => 1,
            Self::Unreleased => 2,
        }
    }

    fn from_number(number: i8) -> Result<Self, DecodeError> {
        let all = [Self::Stable, Self::Unrevoked, Self::Unreleased];
        let found = all.into_iter().find(|state| state.number() == number);
        found.ok_or(DecodeError::Unknown { what: "state of a member", found: i16::from(number) })
    }
}

impl ConsumerRecord {
    /// The number of its key, and the member the key names.
    pub(super) fn key(&self) -> (i16, Option<&MemberId>) {
        match self {
            Self::Epoch(_) => (GROUP_KEY, None),
            Self::Member(member, _) => (MEMBER_KEY, Some(member)),
            Self::TargetEpoch(_) => (TARGET_EPOCH_KEY, None),
            Self::Target(member, _) => (TARGET_KEY, Some(member)),
            Self::Current(member, _) => (CURRENT_KEY, Some(member)),
        }
    }

    /// Its value, if it is not gone.
    pub(super) fn value(&self) -> Option<BytesMut> {
        let mut value = BytesMut::new();
        let mut out = Writer::new(&mut value);
        out.i16(VALUE);
        match self {
            Self::Epoch(epoch) => {
                let (epoch, hash) = (*epoch)?;
                out.i32(epoch);
                let tagged = hash != 0;
                out.tag_count(u32::from(tagged), true);
                if tagged {
                    out.tagged_field(HASH_TAG, |out| out.i64(hash));
                }
            }
            Self::Member(_, subscription) => write_subscription(&mut out, subscription.as_ref()?),
            Self::TargetEpoch(epoch) => {
                out.i32((*epoch)?);
                out.tag_count(0, true);
            }
            Self::Target(_, partitions) => {
                write_partitions(&mut out, partitions.as_ref()?);
                out.tag_count(0, true);
            }
            Self::Current(_, current) => write_current(&mut out, current.as_ref()?),
        }
        Some(value)
    }

    /// Reads what stands behind the group in a key of this number, and the value.
    pub(super) fn decode(
        key_number: i16,
        key: &mut Reader<'_>,
        value: Option<&[u8]>,
    ) -> Result<Self, DecodeError> {
        let mut value = value.map(|value| open_value(value, VALUE)).transpose()?;
        let value = value.as_mut();
        Ok(match key_number {
            GROUP_KEY => Self::Epoch(value.map(read_epoch).transpose()?),
            MEMBER_KEY => {
                let member = key.string(false)?.into();
                Self::Member(member, value.map(read_subscription).transpose()?)
            }
            TARGET_EPOCH_KEY => {
                Self::TargetEpoch(value.map(|value| ended(value, Reader::i32)).transpose()?)
            }
            TARGET_KEY => {
                let member = key.string(false)?.into();
                let partitions = value.map(|value| {
                    let partitions = read_partitions(value)?;
                    value.skip_tagged_fields(true)?;
                    Ok::<_, DecodeError>(partitions)
                });
                Self::Target(member, partitions.transpose()?)
            }
            CURRENT_KEY => {
                let member = key.string(false)?.into();
                Self::Current(member, value.map(read_current).transpose()?)
            }
            found => return Err(DecodeError::Unknown { what: "kind of key", found }),
        })
    }
}

/// Reads one thing and the tagged fields behind it.
fn ended<'a, T>(
    value: &mut Reader<'a>,
    read: impl FnOnce(&mut Reader<'a>) -> Result<T, WireError>,
) -> Result<T, DecodeError> {
    let found = read(value)?;
    value.skip_tagged_fields(true)?;
    Ok(found)
}

fn read_epoch(value: &mut Reader<'_>) -> Result<(i32, i64), DecodeError> {
    let epoch = value.i32()?;
    let mut hash = 0;
    value.tagged_fields(true, |tag, value| {
        if tag != HASH_TAG {
            return Ok(false);
        }
        hash = value.i64()?;
        Ok(true)
    })?;
    Ok((epoch, hash))
}

fn write_subscription(out: &mut Writer<'_>, subscription: &Subscription) {
    out.nullable_string(subscription.instance.as_deref(), true);
    out.nullable_string(subscription.rack.as_deref(), true);
    out.string(&subscription.client_id, true);
    out.string(&subscription.client_host, true);
    out.count(subscription.topics.len(), true);
    for topic in &subscription.topics {
        out.string(topic, true);
    }
    out.nullable_string(subscription.regex.as_deref(), true);
    out.i32(subscription.rebalance_ms);
    out.nullable_string(subscription.assignor.as_deref(), true);
    let Some(classic) = &subscription.classic else { return out.tag_count(0, true) };
    out.tag_count(1, true);
    out.tagged_field(CLASSIC_TAG, |out| {
        // It is there.
        out.i8(1);
        out.i32(classic.session_ms);
        out.count(classic.protocols.len(), true);
        for protocol in &classic.protocols {
            out.string(&protocol.name, true);
            out.nullable_bytes(Some(&protocol.metadata), true);
            out.tag_count(0, true);
        }
        out.tag_count(0, true);
    });
}

fn read_classic(value: &mut Reader<'_>) -> Result<Option<ClassicMember>, WireError> {
    /// Two empty texts, no tags.
    const PROTOCOL_BYTES_MIN: usize = 3;
    if value.i8()? < 0 {
        return Ok(None);
    }
    let mut classic = ClassicMember { session_ms: value.i32()?, protocols: Vec::new() };
    for _ in 0..value.count(true, PROTOCOL_BYTES_MIN)? {
        let name = value.string(true)?.into();
        let metadata = value.nullable_bytes(true)?.unwrap_or_default();
        classic.protocols.push(Protocol { name, metadata: Bytes::copy_from_slice(metadata) });
        value.skip_tagged_fields(true)?;
    }
    value.skip_tagged_fields(true)?;
    Ok(Some(classic))
}

fn read_subscription(value: &mut Reader<'_>) -> Result<Subscription, DecodeError> {
    let mut subscription = Subscription {
        instance: value.nullable_string(true)?.map(Arc::from),
        rack: value.nullable_string(true)?.map(Arc::from),
        client_id: value.string(true)?.into(),
        client_host: value.string(true)?.into(),
        ..Subscription::default()
    };
    for _ in 0..value.count(true, 1)? {
        subscription.topics.push(value.string(true)?.into());
    }
    subscription.regex = value.nullable_string(true)?.map(Arc::from);
    subscription.rebalance_ms = value.i32()?;
    subscription.assignor = value.nullable_string(true)?.map(Arc::from);
    value.tagged_fields(true, |tag, value| {
        if tag != CLASSIC_TAG {
            return Ok(false);
        }
        subscription.classic = read_classic(value)?;
        Ok(true)
    })?;
    Ok(subscription)
}

fn write_partitions(out: &mut Writer<'_>, partitions: &Partitions) {
    out.count(partitions.len(), true);
    for (topic, numbers) in partitions {
        out.topic_id(*topic);
        out.count(numbers.len(), true);
        numbers.iter().for_each(|number| out.i32(*number));
        out.tag_count(0, true);
    }
}

fn read_partitions(value: &mut Reader<'_>) -> Result<Partitions, DecodeError> {
    /// An id, a count, no tags.
    const TOPIC_BYTES_MIN: usize = 16 + 1 + 1;
    let mut partitions = Partitions::new();
    for _ in 0..value.count(true, TOPIC_BYTES_MIN)? {
        let topic = value.topic_id()?;
        let count = value.count(true, size_of::<i32>())?;
        let numbers = (0..count).map(|_| value.i32()).collect::<Result<_, _>>()?;
        value.skip_tagged_fields(true)?;
        partitions.insert(topic, numbers);
    }
    Ok(partitions)
}

fn write_current(out: &mut Writer<'_>, current: &Current) {
    out.i32(current.epoch);
    out.i32(current.previous_epoch);
    out.i8(current.state.number());
    write_partitions(out, &current.assigned);
    write_partitions(out, &current.revoking);
    out.tag_count(0, true);
}

fn read_current(value: &mut Reader<'_>) -> Result<Current, DecodeError> {
    let current = Current {
        epoch: value.i32()?,
        previous_epoch: value.i32()?,
        state: State::from_number(value.i8()?)?,
        assigned: read_partitions(value)?,
        revoking: read_partitions(value)?,
    };
    value.skip_tagged_fields(true)?;
    Ok(current)
}

#[cfg(test)]
mod tests {
    use super::super::Record;
    use super::*;
    use crate::coordinator_log::LogRecord;
    use tidemill_record::TopicId;

    fn partitions() -> Partitions {
        [(TopicId([7; 16]), [1, 2].into())].into()
    }

    fn all() -> Vec<ConsumerRecord> {
        let subscription = Subscription {
            instance: Some("i".into()),
            rack: None,
            client_id: "c".into(),
            client_host: "/h".into(),
            topics: vec!["t".into(), "u".into()],
            regex: Some("v.*".into()),
            rebalance_ms: 300_000,
            assignor: Some("range".into()),
            classic: None,
        };
        let protocols = [("range", b"\0\x01".as_slice()), ("own", b"")].map(|(name, said)| {
            Protocol { name: name.into(), metadata: Bytes::copy_from_slice(said) }
        });
        let classic = ClassicMember { session_ms: 10_000, protocols: protocols.into() };
        let of_classic = Subscription {
            client_id: "c".into(),
            topics: vec!["t".into()],
            rebalance_ms: 300_000,
            classic: Some(classic),
            ..Subscription::default()
        };
        let current = Current {
            epoch: 5,
            previous_epoch: 4,
            state: State::Unrevoked,
            assigned: partitions(),
            revoking: [(TopicId([8; 16]), [3].into())].into(),
        };
        vec![
            ConsumerRecord::Epoch(Some((5, 0))),
            ConsumerRecord::Epoch(Some((5, -9))),
            ConsumerRecord::Epoch(None),
            ConsumerRecord::Member("m".into(), Some(subscription)),
            ConsumerRecord::Member("m".into(), None),
            ConsumerRecord::TargetEpoch(Some(5)),
            ConsumerRecord::TargetEpoch(None),
            ConsumerRecord::Target("m".into(), Some(partitions())),
            ConsumerRecord::Target("m".into(), None),
            ConsumerRecord::Current("m".into(), Some(current)),
            ConsumerRecord::Current("m".into(), None),
            ConsumerRecord::Member("m".into(), Some(of_classic)),
        ]
    }

    fn record(change: ConsumerRecord) -> Record {
        Record::Consumer { group: "g".into(), change }
    }

    /// The bytes are those of Kafka's schemas.
    #[test]
    fn consumer_groups_are_written_as_kafka_writes_them() {
        let written = |number: usize| {
            let (key, value) = record(all()[number].clone()).encode();
            (key.to_vec(), value.map(|value| value.to_vec()))
        };
        assert_eq!(written(0), (b"\0\x03\0\x01g".to_vec(), Some(b"\0\0\0\0\0\x05\0".to_vec())));
        let hash = b"\0\0\0\0\0\x05\x01\0\x08\xff\xff\xff\xff\xff\xff\xff\xf7".to_vec();
        assert_eq!(written(1).1, Some(hash));
        let member = b"\0\0\x02i\0\x02c\x03/h\x03\x02t\x02u\x04v.*\0\x04\x93\xe0\x06range\0";
        assert_eq!(written(3), (b"\0\x05\0\x01g\0\x01m".to_vec(), Some(member.to_vec())));
        assert_eq!(written(5), (b"\0\x06\0\x01g".to_vec(), Some(b"\0\0\0\0\0\x05\0".to_vec())));
        let mut share = b"\0\0\x02".to_vec();
        share.extend_from_slice(&[7; 16]);
        share.extend_from_slice(b"\x03\0\0\0\x01\0\0\0\x02\0\0");
        assert_eq!(written(7), (b"\0\x07\0\x01g\0\x01m".to_vec(), Some(share)));
        assert_eq!(written(10), (b"\0\x08\0\x01g\0\x01m".to_vec(), None));
        // The last field of ConsumerGroupMemberMetadataValue is tagged, with a mark that it is there.
        let mut member = b"\0\0\0\0\x02c\x01\x02\x02t\0\0\x04\x93\xe0\0".to_vec();
        member.extend_from_slice(b"\x01\0\x17\x01\0\0\x27\x10\x03");
        member.extend_from_slice(b"\x06range\x03\0\x01\0\x04own\x01\0\0");
        assert_eq!(written(11).1, Some(member));
    }

    /// What is written is read back; what is cut off anywhere is an error, never a panic.
    #[test]
    fn records_are_read_back_and_never_believed() {
        for change in all() {
            let record = record(change);
            let (key, value) = record.encode();
            assert_eq!(Record::decode(&key, value.as_deref()), Ok(record.clone()));
            for cut in 0..key.len() {
                assert!(Record::decode(&key[..cut], value.as_deref()).is_err());
            }
            for cut in 0..value.as_ref().map_or(0, |value| value.len()) {
                assert!(Record::decode(&key, value.as_ref().map(|v| &v[..cut])).is_err());
            }
        }
    }
}
