//! OffsetFetch: where the readers of groups left off.
//!
//! Up to version 7 a request is about one group; from version 8 about many (KIP-709).
//! [`OffsetFetchRequest::into_groups`] and [`OffsetFetchResponse::of`] make one shape of the two:
//! a list of groups.

use super::message::messages;
use super::{ErrorCode, Request};
use tidemill_record::TopicId;

/// The offset of a partition that nobody has committed: no error, as is a group that nobody knows.
pub const NO_OFFSET: i64 = -1;
/// From here on topics are named by their ids.
pub const BY_ID_FROM: i16 = 10;
/// From here on there is a list of groups.
const GROUPS_FROM: i16 = 8;
/// From here on a group has an error of its own.
const GROUP_ERROR_FROM: i16 = 2;

messages! {
    /// Asks for committed offsets.
    struct OffsetFetchRequest of OffsetFetch {
        /// The one group; see [`OffsetFetchRequest::into_groups`].
        group_id: String [0..=7],
        /// The one group's topics; null for all it has committed.
        topics: Option<Vec<OffsetFetchRequestTopic>> [0..=7, null 2, default Some(Vec::new())],
        /// The groups.
        groups: Vec<OffsetFetchRequestGroup> [8..],
        /// Whether an offset that an open transaction may change is an error (KIP-447).
        require_stable: bool [7..],
    }

    /// One group.
    struct OffsetFetchRequestGroup {
        /// Its name.
        group_id: String [8..],
        /// The member that asks (KIP-848); null for none.
        member_id: Option<String> [9.., null 9],
        /// The member's epoch; -1 for none.
        member_epoch: i32 [9.., default -1],
        /// Its topics; null for all it has committed.
        topics: Option<Vec<OffsetFetchRequestTopic>> [8.., null 8],
    }

    /// One topic.
    struct OffsetFetchRequestTopic {
        /// Its name.
        name: String [0..=9],
        /// Its id.
        topic_id: TopicId [10..],
        /// Its partitions.
        partition_indexes: Vec<i32> [0..],
    }

    /// The committed offsets.
    struct OffsetFetchResponse of OffsetFetch {
        /// How long the client is to keep quiet.
        throttle_time_ms: i32 [3..],
        /// The one group's topics.
        topics: Vec<OffsetFetchResponseTopic> [0..=7],
        /// How it ended for the one group.
        error_code: ErrorCode [2..=7],
        /// The groups.
        groups: Vec<OffsetFetchResponseGroup> [8..],
    }

    /// The committed offsets of one group.
    struct OffsetFetchResponseGroup {
        /// Its name.
        group_id: String [8..],
        /// Its topics.
        topics: Vec<OffsetFetchResponseTopic> [8..],
        /// How it ended for the whole group.
        error_code: ErrorCode [8..],
    }

    /// The committed offsets of one topic.
    struct OffsetFetchResponseTopic {
        /// Its name.
        name: String [0..=9],
        /// Its id.
        topic_id: TopicId [10..],
        /// Its partitions.
        partitions: Vec<OffsetFetchResponsePartition> [0..],
    }

    /// The committed offset of one partition.
    struct OffsetFetchResponsePartition {
        /// Its number.
        partition_index: i32 [0..],
        /// The next offset to read; [`NO_OFFSET`] for none.
        committed_offset: i64 [0.., default NO_OFFSET],
        /// The leader epoch of the record before; -1 if not known.
        committed_leader_epoch: i32 [5.., default -1],
        /// What the client kept beside it; empty for nothing.
        metadata: Option<String> [0.., null 0, default Some(String::new())],
        /// How it ended.
        error_code: ErrorCode [0..],
    }
}

impl OffsetFetchRequest {
    /// The groups that a request of this version asks about, and whether offsets must be stable.
    pub fn into_groups(self, version: i16) -> Vec<OffsetFetchRequestGroup> {
        if GROUPS_FROM <= version {
            return self.groups;
        }
        vec![OffsetFetchRequestGroup {
            group_id: self.group_id,
            topics: self.topics,
            ..OffsetFetchRequestGroup::default()
        }]
    }
}

impl OffsetFetchRequestGroup {
    /// The answer when nothing could be said about this group. It names what was asked for: before
    /// version 2 the partitions are the only place for an error.
    pub fn failed(&self, error: ErrorCode) -> OffsetFetchResponseGroup {
        let topics = self.topics.iter().flatten().map(|topic| topic.failed(error));
        OffsetFetchResponseGroup {
            group_id: self.group_id.clone(),
            topics: topics.collect(),
            error_code: error,
        }
    }
}

impl OffsetFetchRequestTopic {
    /// The answer when nothing could be said about this topic.
    pub fn failed(&self, error: ErrorCode) -> OffsetFetchResponseTopic {
        let failed =
            |&partition: &i32| OffsetFetchResponsePartition::none(partition).with_error(error);
        OffsetFetchResponseTopic {
            name: self.name.clone(),
            topic_id: self.topic_id,
            partitions: self.partition_indexes.iter().map(failed).collect(),
        }
    }
}

impl OffsetFetchResponsePartition {
    /// Nobody has committed an offset of this partition.
    pub fn none(partition_index: i32) -> OffsetFetchResponsePartition {
        OffsetFetchResponsePartition { partition_index, ..Default::default() }
    }

    /// The same with an error.
    pub fn with_error(self, error_code: ErrorCode) -> OffsetFetchResponsePartition {
        OffsetFetchResponsePartition { error_code, ..self }
    }
}

impl OffsetFetchResponse {
    /// The groups' offsets, in the shape of this version.
    ///
    /// # Panics
    /// If a version that is about one group gets another number of them.
    pub fn of(version: i16, mut groups: Vec<OffsetFetchResponseGroup>) -> OffsetFetchResponse {
        if GROUPS_FROM <= version {
            return OffsetFetchResponse { groups, ..OffsetFetchResponse::default() };
        }
        assert_eq!(groups.len(), 1, "the request was about one group");
        let OffsetFetchResponseGroup { mut topics, error_code, .. } =
            groups.pop().expect("there is one");
        if version < GROUP_ERROR_FROM && !error_code.is_none() {
            for partition in topics.iter_mut().flat_map(|topic| &mut topic.partitions) {
                *partition = OffsetFetchResponsePartition::none(partition.partition_index)
                    .with_error(error_code);
            }
        }
        OffsetFetchResponse { topics, error_code, ..OffsetFetchResponse::default() }
    }
}

impl Request for OffsetFetchRequest {
    type Response = OffsetFetchResponse;

    fn error_response(&self, error: ErrorCode) -> OffsetFetchResponse {
        let topics = self.topics.iter().flatten().map(|topic| topic.failed(error));
        OffsetFetchResponse {
            topics: topics.collect(),
            error_code: error,
            groups: self.groups.iter().map(|group| group.failed(error)).collect(),
            ..OffsetFetchResponse::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kafka::Message;
    use bytes::BytesMut;

    fn group(name: &str, topics: Option<Vec<OffsetFetchRequestTopic>>) -> OffsetFetchRequestGroup {
        OffsetFetchRequestGroup {
            group_id: name.to_owned(),
            topics,
            ..OffsetFetchRequestGroup::default()
        }
    }

    fn topic() -> OffsetFetchRequestTopic {
        OffsetFetchRequestTopic {
            name: "t".to_owned(),
            topic_id: TopicId([7; 16]),
            partition_indexes: vec![0, 1],
        }
    }

    fn sent(version: i16, asked: &OffsetFetchRequest) -> Vec<OffsetFetchRequestGroup> {
        let mut out = BytesMut::new();
        asked.encode(version, &mut out);
        OffsetFetchRequest::decode(version, &out).unwrap().into_groups(version)
    }

    fn received(version: i16, answer: &OffsetFetchResponse) -> OffsetFetchResponse {
        let mut out = BytesMut::new();
        answer.encode(version, &mut out);
        OffsetFetchResponse::decode(version, &out).unwrap()
    }

    /// KAFKA-19439: versions 0 and 1 have no error for the whole group, so a client that got one
    /// there would take the partitions for uncommitted, and start from the beginning.
    #[test]
    fn a_groups_error_stands_in_each_partition_before_version_2() {
        let error = ErrorCode::NotCoordinator;
        for version in 1..=7 {
            let asked = group("g", Some(vec![topic()]));
            let answer =
                received(version, &OffsetFetchResponse::of(version, vec![asked.failed(error)]));
            let partitions = &answer.topics[0].partitions;
            assert!(partitions.iter().all(|partition| partition.error_code == error));
            assert!(partitions.iter().all(|partition| partition.committed_offset == NO_OFFSET));
            assert_eq!(answer.error_code, if version < 2 { ErrorCode::None } else { error });
        }
        // Even if the coordinator had offsets at hand before it failed.
        let late = OffsetFetchResponseGroup {
            topics: vec![OffsetFetchResponseTopic {
                partitions: vec![OffsetFetchResponsePartition {
                    committed_offset: 42,
                    ..OffsetFetchResponsePartition::default()
                }],
                ..OffsetFetchResponseTopic::default()
            }],
            error_code: error,
            ..OffsetFetchResponseGroup::default()
        };
        let answer = received(1, &OffsetFetchResponse::of(1, vec![late]));
        let expected = OffsetFetchResponsePartition::none(0).with_error(error);
        assert_eq!(answer.topics[0].partitions, [expected]);
    }

    /// A group that nobody knows has no offsets, and that is no error: librdkafka's tests rest on
    /// it. The metadata is empty, not null.
    #[test]
    fn what_nobody_committed_is_minus_one_without_an_error() {
        let none = OffsetFetchResponsePartition::none(3);
        assert_eq!((none.committed_offset, none.committed_leader_epoch), (-1, -1));
        assert_eq!(none.metadata.as_deref(), Some(""));
        assert_eq!(none.error_code, ErrorCode::None);
    }

    /// Null asks for everything the group has committed, an empty list for nothing. Version 1
    /// cannot say null.
    #[test]
    fn null_topics_are_all_topics() {
        for (version, topics) in
            [(2, None), (7, None), (2, Some(Vec::new())), (1, Some(Vec::new()))]
        {
            let asked = OffsetFetchRequest {
                group_id: "g".to_owned(),
                topics: topics.clone(),
                ..OffsetFetchRequest::default()
            };
            assert_eq!(sent(version, &asked), [group("g", topics)]);
        }
        let asked = OffsetFetchRequest { groups: vec![group("g", None)], ..Default::default() };
        assert_eq!(sent(8, &asked), [group("g", None)]);
    }

    /// From version 8 one request is about many groups, which succeed and fail one by one.
    #[test]
    fn many_groups_are_asked_for_at_once_from_version_8() {
        let asked = OffsetFetchRequest {
            groups: vec![group("a", None), group("b", Some(vec![topic()]))],
            ..OffsetFetchRequest::default()
        };
        let read = sent(9, &asked);
        assert_eq!([&read[0].group_id[..], &read[1].group_id[..]], ["a", "b"]);
        let answers = vec![
            OffsetFetchResponseGroup { group_id: "a".to_owned(), ..Default::default() },
            read[1].failed(ErrorCode::StaleMemberEpoch),
        ];
        let answer = received(9, &OffsetFetchResponse::of(9, answers));
        assert_eq!(answer.groups[0].error_code, ErrorCode::None);
        assert_eq!(answer.groups[1].error_code, ErrorCode::StaleMemberEpoch);
    }

    /// From version 10 topics have ids only, and the answer has them too.
    #[test]
    fn topics_are_named_by_id_from_version_10() {
        let asked = OffsetFetchRequest {
            groups: vec![group("g", Some(vec![topic()]))],
            ..OffsetFetchRequest::default()
        };
        let named = |version| {
            let topic = sent(version, &asked)[0].topics.as_ref().unwrap()[0].clone();
            (topic.name, topic.topic_id)
        };
        assert_eq!(named(BY_ID_FROM - 1), ("t".to_owned(), TopicId::ZERO));
        assert_eq!(named(BY_ID_FROM), (String::new(), TopicId([7; 16])));
        let failed = received(10, &asked.error_response(ErrorCode::UnknownTopicId));
        assert_eq!(failed.groups[0].topics[0].topic_id, TopicId([7; 16]));
    }
}
