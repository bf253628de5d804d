//! What is remembered of a share group (KIP-932), in Kafka's format.
//!
//! ```text
//! key 10  ShareGroupMemberMetadata   what a member wants
//! key 11  ShareGroupMetadata         the group's epoch, and a hash of the topics it reads
//! ```
//!
//! Values are version 0 in the flexible form. What each member may read follows from these.

use std::sync::Arc;

use bytes::BytesMut;
use tidemill_net::cursor::{Reader, Writer};

use crate::coordinator::request::MemberId;
use crate::coordinator_log::{DecodeError, open_value};

/// Of a member.
pub(super) const MEMBER_KEY: i16 = 10;
/// Of the group.
pub(super) const GROUP_KEY: i16 = 11;

const VALUE: i16 = 0;

/// One change; none means that it is gone.
#[derive(Clone, Debug, PartialEq)]
pub enum ShareRecord {
    /// The group's epoch, and a hash of the topics that its members read.
    Epoch(Option<(i32, i64)>),
    /// A member, and what it wants.
    Member(MemberId, Option<ShareSubscription>),
}

/// What a member wants.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ShareSubscription {
    /// Where it is.
    pub rack: Option<Arc<str>>,
    /// What its client calls itself.
    pub client_id: Arc<str>,
    /// Where it comes from.
    pub client_host: Arc<str>,
    /// The topics it wants, in order.
    pub topics: Vec<Arc<str>>,
}

impl ShareRecord {
    /// The number of its key, and the member the key names.
    pub(super) fn key(&self) -> (i16, Option<&MemberId>) {
        match self {
            Self::Epoch(_) => (GROUP_KEY, None),
            Self::Member(member, _) => (MEMBER_KEY, Some(member)),
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
                out.i64(hash);
            }
            Self::Member(_, wants) => {
                let wants = wants.as_ref()?;
                out.nullable_string(wants.rack.as_deref(), true);
                out.string(&wants.client_id, true);
                out.string(&wants.client_host, true);
                out.count(wants.topics.len(), true);
                wants.topics.iter().for_each(|topic| out.string(topic, true));
            }
        }
        out.tag_count(0, true);
        Some(value)
    }

    /// Reads what stands behind the group in a key of this number, and the value.
    pub(super) fn decode(
        key_number: i16,
        key: &mut Reader<'_>,
        value: Option<&[u8]>,
    ) -> Result<Self, DecodeError> {
        let mut value = value.map(|value| open_value(value, VALUE)).transpose()?;
        let change = match key_number {
            GROUP_KEY => {
                let epoch =
                    value.as_mut().map(|value| Ok::<_, DecodeError>((value.i32()?, value.i64()?)));
                Self::Epoch(epoch.transpose()?)
            }
            MEMBER_KEY => {
                let member = key.string(false)?.into();
                Self::Member(member, value.as_mut().map(read_subscription).transpose()?)
            }
            found => return Err(DecodeError::Unknown { what: "kind of key", found }),
        };
        if let Some(value) = &mut value {
            value.skip_tagged_fields(true)?;
        }
        Ok(change)
    }
}

fn read_subscription(value: &mut Reader<'_>) -> Result<ShareSubscription, DecodeError> {
    let mut wants = ShareSubscription {
        rack: value.nullable_string(true)?.map(Arc::from),
        client_id: value.string(true)?.into(),
        client_host: value.string(true)?.into(),
        topics: Vec::new(),
    };
    for _ in 0..value.count(true, 1)? {
        wants.topics.push(value.string(true)?.into());
    }
    Ok(wants)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::coordinator::record::Record;
    use crate::coordinator_log::LogRecord as _;

    fn record(change: ShareRecord) -> Record {
        Record::Share { group: "g".into(), change }
    }

    fn member(wants: Option<ShareSubscription>) -> Record {
        record(ShareRecord::Member("m".into(), wants))
    }

    fn wants() -> ShareSubscription {
        ShareSubscription {
            rack: None,
            client_id: "c".into(),
            client_host: "/h".into(),
            topics: vec!["t".into()],
        }
    }

    /// The bytes are those of Kafka's schemas ShareGroupMetadata and ShareGroupMemberMetadata.
    #[test]
    fn a_share_group_is_written_as_kafka_writes_it() {
        let (key, value) = record(ShareRecord::Epoch(Some((7, 9)))).encode();
        assert_eq!(&key[..], b"\0\x0b\0\x01g");
        assert_eq!(&value.unwrap()[..], b"\0\0\0\0\0\x07\0\0\0\0\0\0\0\x09\0");
        let (key, value) = member(Some(wants())).encode();
        assert_eq!(&key[..], b"\0\x0a\0\x01g\0\x01m");
        assert_eq!(&value.unwrap()[..], b"\0\0\0\x02c\x03/h\x02\x02t\0");
    }

    /// What is written is read back; what is cut off anywhere is an error, never a panic.
    #[test]
    fn records_of_share_groups_are_read_back_and_never_believed() {
        let epoch = |epoch| record(ShareRecord::Epoch(epoch));
        for record in [epoch(Some((7, 9))), epoch(None), member(Some(wants())), member(None)] {
            let (key, value) = record.encode();
            assert_eq!(Record::decode(&key, value.as_deref()), Ok(record));
            for cut in 0..value.as_ref().map_or(0, |value| value.len()) {
                assert!(Record::decode(&key, value.as_ref().map(|v| &v[..cut])).is_err());
            }
        }
    }
}
