//! What consumers of a classic group say to each other, inside JoinGroup and SyncGroup.
//!
//! The broker hands these bytes on unread, with two exceptions: it looks which topics a group
//! subscribes to before it deletes their offsets, and it reads everything when a classic group
//! becomes one of the newer kind. Each begins with a version of its own:
//!
//! ```text
//! | version: i16 | fields, in the older form |
//! ```
//!
//! A version is the one before with fields added at the end, so whoever finds a newer version
//! reads as far as it knows ([`VERSION_MAX`]).

use super::message::messages;
use super::topic_partitions::TopicPartitions;
use crate::cursor::{Form, Reader, Wire, WireError, Writer};
use bytes::{Bytes, BytesMut};

/// The protocol type of groups whose members say these things.
pub const PROTOCOL_TYPE: &str = "consumer";
/// The newest version we know.
pub const VERSION_MAX: i16 = 3;

messages! {
    /// What a consumer says when it joins.
    struct Subscription {
        /// The topics it wants.
        topics: Vec<String> [0..],
        /// Whatever its assignor wants to tell.
        user_data: Option<Bytes> [0.., null 0],
        /// What it reads now, if it gives that up only when asked (KIP-429).
        owned_partitions: Vec<TopicPartitions> [1..],
        /// The generation in which it got that; -1 for none.
        generation_id: i32 [2.., default -1],
        /// Where it is.
        rack_id: Option<String> [3.., null 3],
    }

    /// What a consumer gets.
    struct Assignment {
        /// What it is to read.
        assigned_partitions: Vec<TopicPartitions> [0..],
        /// Whatever its assignor wants to tell.
        user_data: Option<Bytes> [0.., null 0],
    }
}

impl Subscription {
    /// Reads the metadata of a member.
    pub fn decode(metadata: &[u8]) -> Result<Subscription, WireError> {
        decode(metadata, VERSION_MAX)
    }

    /// The metadata in this version.
    pub fn encode(&self, version: i16) -> Bytes {
        encode(self, version)
    }

    /// Only the topics, which lie at the same place in every version there will ever be.
    pub fn topics_of(metadata: &[u8]) -> Result<Vec<String>, WireError> {
        decode::<Subscription>(metadata, 0).map(|subscription| subscription.topics)
    }
}

impl Assignment {
    /// Reads the assignment of a member. No bytes at all are an assignment of nothing: the leader
    /// leaves out who gets nothing.
    pub fn decode(assignment: &[u8]) -> Result<Assignment, WireError> {
        if assignment.is_empty() {
            return Ok(Assignment::default());
        }
        decode(assignment, VERSION_MAX)
    }

    /// The assignment in this version.
    pub fn encode(&self, version: i16) -> Bytes {
        encode(self, version)
    }
}

/// Reads as much as version `version_max` has, if the bytes are of that version or a newer one.
fn decode<T: Wire>(bytes: &[u8], version_max: i16) -> Result<T, WireError> {
    let mut reader = Reader::new(bytes);
    let version = reader.i16()?;
    if version < 0 {
        return Err(WireError::UnsupportedVersion { version });
    }
    T::read(&mut reader, Form { version: version.min(version_max), flexible: false })
}

fn encode<T: Wire>(value: &T, version: i16) -> Bytes {
    assert!((0..=VERSION_MAX).contains(&version), "a version that we know");
    let mut out = BytesMut::new();
    let mut writer = Writer::new(&mut out);
    writer.i16(version);
    value.write(&mut writer, Form { version, flexible: false });
    out.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subscription() -> Subscription {
        Subscription {
            topics: vec!["a".to_owned(), "b".to_owned()],
            user_data: Some(Bytes::from_static(b"u")),
            owned_partitions: vec![TopicPartitions {
                topic: "a".to_owned(),
                partitions: vec![0, 2],
            }],
            generation_id: 7,
            rack_id: Some("r".to_owned()),
        }
    }

    /// What Java's consumer of Kafka 4.3 sends: the newest version, whatever it has to say.
    #[test]
    fn javas_subscription_and_assignment_are_understood() {
        let sent = [
            &[0, 3][..],                                             // version
            &[0, 0, 0, 1, 0, 1, b't'],                               // topics
            &[0xff, 0xff, 0xff, 0xff],                               // no user data
            &[0, 0, 0, 1, 0, 1, b't', 0, 0, 0, 1, 0, 0, 0, 2],       // owned partitions
            &[0, 0, 0, 4, 0, 6, b'r', b'a', b'c', b'k', b'-', b'a'], // generation, rack
        ]
        .concat();
        let partitions = |numbers: &[i32]| {
            vec![TopicPartitions { topic: "t".to_owned(), partitions: numbers.to_vec() }]
        };
        let meant = Subscription {
            topics: vec!["t".to_owned()],
            user_data: None,
            owned_partitions: partitions(&[2]),
            generation_id: 4,
            rack_id: Some("rack-a".to_owned()),
        };
        assert_eq!(Subscription::decode(&sent), Ok(meant.clone()));
        assert_eq!(meant.encode(3), sent);

        let sent = [
            &[0, 3][..],
            &[0, 0, 0, 1, 0, 1, b't', 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 1],
            &[0xff, 0xff, 0xff, 0xff],
        ]
        .concat();
        let meant = Assignment { assigned_partitions: partitions(&[0, 1]), user_data: None };
        assert_eq!(Assignment::decode(&sent), Ok(meant.clone()));
        assert_eq!(meant.encode(3), sent);
    }

    /// Fields come at the end, one version after the other, so that each version is the beginning
    /// of the next.
    #[test]
    fn every_version_begins_as_the_one_before() {
        let bytes: Vec<_> =
            (0..=VERSION_MAX).map(|version| subscription().encode(version)).collect();
        for (older, newer) in bytes.iter().zip(&bytes[1..]) {
            assert_eq!(older[2..], newer[2..older.len()]);
        }
        for (version, bytes) in (0..).zip(&bytes) {
            let read = Subscription::decode(bytes).unwrap();
            assert_eq!(read.topics, subscription().topics);
            assert_eq!(read.owned_partitions.len(), usize::from(1 <= version));
            assert_eq!(read.generation_id, if version < 2 { -1 } else { 7 });
            assert_eq!(read.rack_id.is_some(), 3 <= version);
            assert_eq!(Subscription::topics_of(bytes).unwrap(), subscription().topics);
        }
    }

    /// A client of the future adds fields that we pass over.
    #[test]
    fn a_newer_version_is_read_as_the_newest_we_know() {
        let mut newer = subscription().encode(VERSION_MAX).to_vec();
        newer[..2].copy_from_slice(&9i16.to_be_bytes());
        newer.extend_from_slice(b"what is to come");
        assert_eq!(Subscription::decode(&newer), Ok(subscription()));
    }

    /// Some clients wrote version 1 without what is new in it. Their topics are read all the same.
    #[test]
    fn topics_are_read_though_the_rest_is_missing() {
        let mut cut = subscription().encode(0).to_vec();
        cut[..2].copy_from_slice(&1i16.to_be_bytes());
        assert!(matches!(Subscription::decode(&cut), Err(WireError::Truncated { .. })));
        assert_eq!(Subscription::topics_of(&cut).unwrap(), subscription().topics);
    }

    /// Members are free to send anything, which concerns only them as long as it is refused.
    #[test]
    fn what_is_no_subscription_is_refused() {
        assert!(Subscription::decode(b"").is_err());
        assert!(Subscription::topics_of(b"").is_err());
        assert_eq!(
            Subscription::decode(&[0xff, 0xff, 0, 0, 0, 0]),
            Err(WireError::UnsupportedVersion { version: -1 })
        );
        assert!(Subscription::topics_of(&[0, 0, 0x7f, 0xff, 0xff, 0xff]).is_err());
        let bytes = subscription().encode(VERSION_MAX);
        for cut in 0..bytes.len() {
            assert!(Subscription::decode(&bytes[..cut]).is_err(), "cut at {cut}");
        }
    }

    /// A member that the leader's assignment leaves out gets no bytes, and with them nothing.
    #[test]
    fn no_bytes_assign_nothing() {
        assert_eq!(Assignment::decode(b""), Ok(Assignment::default()));
        let assigned =
            Assignment { assigned_partitions: subscription().owned_partitions, user_data: None };
        for version in 0..=VERSION_MAX {
            assert_eq!(Assignment::decode(&assigned.encode(version)), Ok(assigned.clone()));
        }
    }
}
