//! The answer to a ShareFetch: which records the member got, and the batches they lie in.
//!
//! Records stay where they are, as in the answer to a Fetch: the frame is a list of slices around
//! them. A batch comes whole though the member may have got only some of its records, which
//! [`AcquiredRecords`] tells.

use crate::cursor::{Form, Reader, WireError, Writer};
use crate::kafka::parts::{Parts, write_in_parts};
use crate::kafka::topic::write_by_topic;
use crate::kafka::{
    ApiKey, ByTopic, ErrorCode, LeaderHint, NodeEndpoint, OfTopic, PartitionWire, TopicRef,
};
use bytes::{Bytes, BytesMut};
use std::borrow::Cow;
use std::ops::Range;

fn form(version: i16) -> Result<Form, WireError> {
    ApiKey::ShareFetch.form(version).ok_or(WireError::UnsupportedVersion { version })
}

/// What the member got.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ShareFetchResponse<'a> {
    /// How long the client is to keep quiet.
    pub throttle_time_ms: i32,
    /// An error with the request as a whole.
    pub error_code: ErrorCode,
    /// What went wrong, for people.
    pub error_message: Option<Cow<'a, str>>,
    /// For how long nobody else gets these records.
    pub acquisition_lock_timeout_ms: i32,
    /// The partitions; neighbours of one topic are grouped.
    pub partitions: Cow<'a, [ShareFetchPartitionResponse<'a>]>,
    /// Where the leaders named in the partitions are.
    pub node_endpoints: Cow<'a, [NodeEndpoint<'a>]>,
}

/// What the member got of one partition.
#[derive(Clone, Debug, PartialEq)]
pub struct ShareFetchPartitionResponse<'a> {
    /// The topic, always by its id.
    pub topic: TopicRef<'a>,
    /// The partition's number.
    pub partition: i32,
    /// How reading ended.
    pub error_code: ErrorCode,
    /// What went wrong with reading, for people.
    pub error_message: Option<Cow<'a, str>>,
    /// How noting ended what became of earlier records.
    pub acknowledge_error_code: ErrorCode,
    /// What went wrong with noting, for people.
    pub acknowledge_error_message: Option<Cow<'a, str>>,
    /// Who leads, if the error says that it is not us. Without such an error it means nothing:
    /// Kafka sends zeros then.
    pub current_leader: Option<LeaderHint>,
    /// Whole batches, one slice after the other. Nothing is sent as empty, never as null.
    pub records: Cow<'a, [Bytes]>,
    /// Which of the records are for this member.
    pub acquired_records: Cow<'a, [AcquiredRecords]>,
}

/// Records that follow each other, and are for the member that asked.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct AcquiredRecords {
    /// The first one's offset.
    pub first_offset: i64,
    /// The last one's offset.
    pub last_offset: i64,
    /// How often they have been given to somebody, this time included.
    pub delivery_count: i16,
}

impl<'a> ShareFetchPartitionResponse<'a> {
    /// Nothing for this member. Add records to it.
    pub fn none(topic: TopicRef<'a>, partition: i32) -> Self {
        ShareFetchPartitionResponse {
            topic,
            partition,
            error_code: ErrorCode::None,
            error_message: None,
            acknowledge_error_code: ErrorCode::None,
            acknowledge_error_message: None,
            current_leader: None,
            records: Cow::Borrowed(&[]),
            acquired_records: Cow::Borrowed(&[]),
        }
    }

    /// Nothing could be read.
    pub fn failed(topic: TopicRef<'a>, partition: i32, error_code: ErrorCode) -> Self {
        ShareFetchPartitionResponse {
            error_code,
            ..ShareFetchPartitionResponse::none(topic, partition)
        }
    }

    /// How many bytes of records there are.
    pub fn records_bytes(&self) -> usize {
        self.records.iter().map(Bytes::len).sum()
    }

    fn write_before_records(&self, writer: &mut Writer<'_>) {
        writer.i32(self.partition);
        writer.i16(self.error_code.to_wire());
        writer.nullable_string(self.error_message.as_deref(), true);
        writer.i16(self.acknowledge_error_code.to_wire());
        writer.nullable_string(self.acknowledge_error_message.as_deref(), true);
        LeaderHint::write(self.current_leader, writer);
        writer.bytes_length(Some(self.records_bytes()), true);
    }

    fn write_after_records(&self, writer: &mut Writer<'_>) {
        writer.count(self.acquired_records.len(), true);
        for acquired in self.acquired_records.iter() {
            writer.i64(acquired.first_offset);
            writer.i64(acquired.last_offset);
            writer.i16(acquired.delivery_count);
            writer.tag_count(0, true);
        }
        writer.tag_count(0, true);
    }
}

impl OfTopic for ShareFetchPartitionResponse<'_> {
    fn topic(&self) -> TopicRef<'_> {
        self.topic
    }
}

impl AcquiredRecords {
    /// Two offsets, a count, no tags.
    const BYTES_MIN: usize = 8 + 8 + 2 + 1;

    fn read_list(reader: &mut Reader<'_>) -> Result<Vec<AcquiredRecords>, WireError> {
        let count = reader.count(true, AcquiredRecords::BYTES_MIN)?;
        reader.allow(count * size_of::<AcquiredRecords>())?;
        let mut list = Vec::with_capacity(count);
        for _ in 0..count {
            list.push(AcquiredRecords {
                first_offset: reader.i64()?,
                last_offset: reader.i64()?,
                delivery_count: reader.i16()?,
            });
            reader.skip_tagged_fields(true)?;
        }
        Ok(list)
    }
}

impl<'a> ShareFetchResponse<'a> {
    /// Appends a whole response frame to `parts`, to be sent one slice after the other. What is
    /// written around the records lies in `out`, which must be empty and can be used again.
    ///
    /// # Panics
    /// If `out` holds something: it would not be clear where that belongs.
    pub fn encode(
        &self,
        out: &mut BytesMut,
        parts: &mut Vec<Bytes>,
        version: i16,
        correlation_id: i32,
    ) {
        let form = form(version).expect("a version of this API");
        write_in_parts(out, parts, ApiKey::ShareFetch, version, correlation_id, |out, parts| {
            self.write_body(out, parts, form);
        });
    }

    fn write_body(&self, out: &mut BytesMut, parts: &mut Parts<'_>, form: Form) {
        let mut writer = Writer::new(out);
        writer.i32(self.throttle_time_ms);
        writer.i16(self.error_code.to_wire());
        writer.nullable_string(self.error_message.as_deref(), true);
        writer.i32(self.acquisition_lock_timeout_ms);
        write_by_topic(&mut writer, form, true, &self.partitions, |writer, partition| {
            partition.write_before_records(writer);
            parts.insert(writer.out(), &partition.records);
            partition.write_after_records(writer);
        });
        NodeEndpoint::write_list(&mut writer, &self.node_endpoints);
        writer.tag_count(0, true);
    }

    /// Reads the response behind its header, as a client does. The records are slices of `body`.
    pub fn parse(version: i16, body: &'a Bytes) -> Result<ShareFetchResponse<'a>, WireError> {
        let form = form(version)?;
        let mut reader = Reader::new(body);
        let mut response = ShareFetchResponse {
            throttle_time_ms: reader.i32()?,
            error_code: ErrorCode::from_wire(reader.i16()?),
            error_message: reader.nullable_string(true)?.map(Cow::Borrowed),
            acquisition_lock_timeout_ms: reader.i32()?,
            ..ShareFetchResponse::default()
        };
        let list = ByTopic::<Received<'a>>::read(&mut reader, form, true)?;
        reader.allow(list.partitions_count() * size_of::<ShareFetchPartitionResponse<'_>>())?;
        let mut partitions = Vec::with_capacity(list.partitions_count());
        partitions.extend(list.map(|received| received.with_records(body)));
        response.partitions = Cow::Owned(partitions);
        response.node_endpoints = Cow::Owned(NodeEndpoint::read_list(&mut reader)?);
        reader.skip_tagged_fields(true)?;
        Ok(response)
    }
}

/// One partition as read from the wire, its records still a range of the body.
#[derive(Clone)]
struct Received<'a> {
    partition: ShareFetchPartitionResponse<'a>,
    records: Range<usize>,
}

impl<'a> Received<'a> {
    fn with_records(self, body: &Bytes) -> ShareFetchPartitionResponse<'a> {
        let mut partition = self.partition;
        if !self.records.is_empty() {
            partition.records = Cow::Owned(vec![body.slice(self.records)]);
        }
        partition
    }
}

impl<'a> PartitionWire<'a> for Received<'a> {
    fn bytes_min(_: Form) -> usize {
        4 + 2 + 1 + 2 + 1 + 9 + 1 + 1 + 1
    }

    fn read(topic: TopicRef<'a>, reader: &mut Reader<'a>, form: Form) -> Result<Self, WireError> {
        let mut read = ShareFetchPartitionResponse::none(topic, reader.i32()?);
        read.error_code = ErrorCode::from_wire(reader.i16()?);
        read.error_message = reader.nullable_string(true)?.map(Cow::Borrowed);
        read.acknowledge_error_code = ErrorCode::from_wire(reader.i16()?);
        read.acknowledge_error_message = reader.nullable_string(true)?.map(Cow::Borrowed);
        read.current_leader = LeaderHint::read(reader, form)?;
        // Other brokers may send null for nothing.
        let length = reader.nullable_bytes(true)?.map_or(0, <[u8]>::len);
        let end = reader.position();
        if length != 0 {
            // For the list of one slice that will hold them.
            reader.allow(size_of::<Bytes>())?;
        }
        read.acquired_records = Cow::Owned(AcquiredRecords::read_list(reader)?);
        reader.skip_tagged_fields(true)?;
        Ok(Received { partition: read, records: end - length..end })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tidemill_record::TopicId;

    /// A member without records gets a list of no bytes, with errors too: clients take null for
    /// damage (KAFKA-18646).
    #[test]
    fn records_are_never_null() {
        let topic = TopicRef::Id(TopicId([7; 16]));
        let nothing = ShareFetchPartitionResponse::none(topic, 0);
        let failed = ShareFetchPartitionResponse::failed(topic, 1, ErrorCode::NotLeaderOrFollower);
        let response = ShareFetchResponse {
            partitions: Cow::Owned(vec![nothing, failed]),
            ..ShareFetchResponse::default()
        };
        for version in 1..=2 {
            let (mut out, mut parts) = (BytesMut::new(), Vec::new());
            response.encode(&mut out, &mut parts, version, 0);
            // Behind length, header and head: a topic with two partitions, 22 bytes each.
            let frame = parts.concat();
            for partition in 0..2 {
                let start = 4 + 5 + 11 + 1 + 16 + 1 + partition * 22;
                let length_of_records = frame[start + 4 + 2 + 1 + 2 + 1 + 9];
                assert_eq!(length_of_records, 1, "a compact 0; null would be 0");
            }
        }
    }

    /// A member of a group with very many partitions can read its answer.
    #[test]
    fn ten_thousand_idle_partitions_fit_the_allowance() {
        let topic = TopicRef::Id(TopicId([7; 16]));
        let idle = |partition| ShareFetchPartitionResponse::none(topic, partition);
        let response = ShareFetchResponse {
            partitions: (0..10_000).map(idle).collect(),
            ..ShareFetchResponse::default()
        };
        let (mut out, mut parts) = (BytesMut::new(), Vec::new());
        response.encode(&mut out, &mut parts, 2, 0);
        assert_eq!(parts.len(), 1, "nothing to cut for");
        let body = parts[0].slice(4 + 5..);
        assert_eq!(ShareFetchResponse::parse(2, &body).unwrap().partitions.len(), 10_000);
    }
}
