//! The answer to a Fetch: what we say about the partitions, around records that stay where they
//! are.

use super::{BY_ID_FROM, SESSIONS_FROM, form};
use crate::cursor::{Form, Reader, WireError, Writer};
use crate::kafka::parts::{Parts, write_in_parts};
use crate::kafka::topic::write_by_topic;
use crate::kafka::{
    ApiKey, ByTopic, ErrorCode, LeaderHint, NodeEndpoint, OfTopic, PartitionWire, TopicRef,
};
use bytes::{Bytes, BytesMut};
use std::borrow::Cow;
use std::ops::Range;

const NODE_ENDPOINTS_FROM: i16 = 16;

/// What was read.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct FetchResponse<'a> {
    /// How long the client is to keep quiet.
    pub throttle_time_ms: i32,
    /// An error with the request as a whole (from version 7).
    pub error_code: ErrorCode,
    /// The session this belongs to (from version 7); 0 for none.
    pub session_id: i32,
    /// The partitions; neighbours of one topic are grouped.
    pub partitions: Cow<'a, [FetchPartitionResponse<'a>]>,
    /// Where the leaders named in the partitions are (from version 16).
    pub node_endpoints: Cow<'a, [NodeEndpoint<'a>]>,
}

/// What was read of one partition.
#[derive(Clone, Debug, PartialEq)]
pub struct FetchPartitionResponse<'a> {
    /// The topic, named as in the request.
    pub topic: TopicRef<'a>,
    /// The partition's number.
    pub partition: i32,
    /// How it ended.
    pub error_code: ErrorCode,
    /// All in-sync replicas have what lies below.
    pub high_watermark: i64,
    /// No open transaction has records below.
    pub last_stable_offset: i64,
    /// Where the log begins (from version 5).
    pub log_start_offset: i64,
    /// The log of the asking follower ends where another leader's began (from version 12).
    pub diverging_epoch: Option<DivergingEpoch>,
    /// Who leads, if it is not us (from version 12).
    pub current_leader: Option<LeaderHint>,
    /// Take this snapshot instead; only the metadata quorum's log has any (from version 12).
    pub snapshot_id: Option<SnapshotId>,
    /// The aborted transactions among the records; `None` unless asked to read committed ones.
    pub aborted_transactions: Option<Cow<'a, [AbortedTransaction]>>,
    /// Who had better be asked (from version 11); -1 for nobody.
    pub preferred_read_replica: i32,
    /// Whole batches, one slice after the other. Nothing is sent as empty, never as null:
    /// librdkafka takes null for damage.
    pub records: Cow<'a, [Bytes]>,
}

/// Where two logs part.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct DivergingEpoch {
    /// The largest epoch both know.
    pub epoch: i32,
    /// Where it ends with the leader.
    pub end_offset: i64,
}

/// Names a snapshot of a log.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct SnapshotId {
    /// The first offset it does not cover.
    pub end_offset: i64,
    /// The epoch of the record before.
    pub epoch: i32,
}

/// A transaction whose records a reader of committed ones must leave out.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct AbortedTransaction {
    /// Who wrote the records.
    pub producer_id: i64,
    /// The transaction's first offset in this partition; it can lie before the records sent.
    pub first_offset: i64,
}

impl<'a> FetchPartitionResponse<'a> {
    /// Nothing but the state of the partition. Add records to it.
    pub fn at(topic: TopicRef<'a>, partition: i32, high_watermark: i64) -> Self {
        FetchPartitionResponse {
            topic,
            partition,
            error_code: ErrorCode::None,
            high_watermark,
            last_stable_offset: high_watermark,
            log_start_offset: -1,
            diverging_epoch: None,
            current_leader: None,
            snapshot_id: None,
            aborted_transactions: None,
            preferred_read_replica: -1,
            records: Cow::Borrowed(&[]),
        }
    }

    /// Nothing could be read.
    pub fn failed(topic: TopicRef<'a>, partition: i32, error_code: ErrorCode) -> Self {
        FetchPartitionResponse { error_code, ..FetchPartitionResponse::at(topic, partition, -1) }
    }

    /// How many bytes of records there are.
    pub fn records_bytes(&self) -> usize {
        self.records.iter().map(Bytes::len).sum()
    }

    fn write_before_records(&self, writer: &mut Writer<'_>, form: Form) {
        let Form { version, flexible } = form;
        writer.i32(self.partition);
        writer.i16(self.error_code.to_wire());
        writer.i64(self.high_watermark);
        writer.i64(self.last_stable_offset);
        if 5 <= version {
            writer.i64(self.log_start_offset);
        }
        let aborted = self.aborted_transactions.as_deref();
        writer.nullable_count(aborted.map(<[_]>::len), flexible);
        for transaction in aborted.unwrap_or(&[]) {
            writer.i64(transaction.producer_id);
            writer.i64(transaction.first_offset);
            writer.tag_count(0, flexible);
        }
        if 11 <= version {
            writer.i32(self.preferred_read_replica);
        }
        writer.bytes_length(Some(self.records_bytes()), flexible);
    }

    fn write_after_records(&self, writer: &mut Writer<'_>, form: Form) {
        if !form.flexible {
            return;
        }
        let count = u32::from(self.diverging_epoch.is_some())
            + u32::from(self.current_leader.is_some())
            + u32::from(self.snapshot_id.is_some());
        writer.tag_count(count, true);
        if let Some(diverging) = self.diverging_epoch {
            writer.tagged_field(0, |writer| {
                writer.i32(diverging.epoch);
                writer.i64(diverging.end_offset);
                writer.tag_count(0, true);
            });
        }
        if let Some(leader) = self.current_leader {
            leader.write_tagged(writer, 1);
        }
        if let Some(snapshot) = self.snapshot_id {
            writer.tagged_field(2, |writer| {
                writer.i64(snapshot.end_offset);
                writer.i32(snapshot.epoch);
                writer.tag_count(0, true);
            });
        }
    }
}

impl OfTopic for FetchPartitionResponse<'_> {
    fn topic(&self) -> TopicRef<'_> {
        self.topic
    }
}

impl<'a> FetchResponse<'a> {
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
        write_in_parts(out, parts, ApiKey::Fetch, version, correlation_id, |out, parts| {
            self.write_body(out, parts, version);
        });
    }

    fn write_body(&self, out: &mut BytesMut, parts: &mut Parts<'_>, version: i16) {
        let form = form(version).expect("a version of this API");
        let mut writer = Writer::new(out);
        writer.i32(self.throttle_time_ms);
        if SESSIONS_FROM <= version {
            writer.i16(self.error_code.to_wire());
            writer.i32(self.session_id);
        }
        let by_id = BY_ID_FROM <= version;
        write_by_topic(&mut writer, form, by_id, &self.partitions, |writer, partition| {
            partition.write_before_records(writer, form);
            parts.insert(writer.out(), &partition.records);
            partition.write_after_records(writer, form);
        });
        if NODE_ENDPOINTS_FROM <= version && !self.node_endpoints.is_empty() {
            writer.tag_count(1, true);
            writer.tagged_field(0, |writer| {
                NodeEndpoint::write_list(writer, &self.node_endpoints);
            });
        } else {
            writer.tag_count(0, form.flexible);
        }
    }

    /// Reads the response behind its header, as a client does. The records are slices of `body`.
    pub fn parse(version: i16, body: &'a Bytes) -> Result<FetchResponse<'a>, WireError> {
        let form = form(version)?;
        let mut reader = Reader::new(body);
        let mut response =
            FetchResponse { throttle_time_ms: reader.i32()?, ..FetchResponse::default() };
        if SESSIONS_FROM <= version {
            response.error_code = ErrorCode::from_wire(reader.i16()?);
            response.session_id = reader.i32()?;
        }
        let list = ByTopic::<Received<'a>>::read(&mut reader, form, BY_ID_FROM <= version)?;
        reader.allow(list.partitions_count() * size_of::<FetchPartitionResponse<'_>>())?;
        let mut partitions = Vec::with_capacity(list.partitions_count());
        partitions.extend(list.map(|received| received.with_records(body)));
        response.partitions = Cow::Owned(partitions);
        reader.tagged_fields(form.flexible, |tag, reader| {
            if tag != 0 || version < NODE_ENDPOINTS_FROM {
                return Ok(false);
            }
            response.node_endpoints = Cow::Owned(NodeEndpoint::read_list(reader)?);
            Ok(true)
        })?;
        Ok(response)
    }
}

/// One partition as read from the wire, its records still a range of the body.
#[derive(Clone)]
struct Received<'a> {
    partition: FetchPartitionResponse<'a>,
    records: Range<usize>,
}

impl<'a> Received<'a> {
    fn with_records(self, body: &Bytes) -> FetchPartitionResponse<'a> {
        let mut partition = self.partition;
        if !self.records.is_empty() {
            partition.records = Cow::Owned(vec![body.slice(self.records)]);
        }
        partition
    }
}

impl<'a> PartitionWire<'a> for Received<'a> {
    fn bytes_min(form: Form) -> usize {
        match form.version {
            ..=4 => 4 + 2 + 8 + 8 + 4 + 4,
            5..=10 => 4 + 2 + 8 + 8 + 8 + 4 + 4,
            11 => 4 + 2 + 8 + 8 + 8 + 4 + 4 + 4,
            12.. => 4 + 2 + 8 + 8 + 8 + 1 + 4 + 1 + 1,
        }
    }

    fn read(topic: TopicRef<'a>, reader: &mut Reader<'a>, form: Form) -> Result<Self, WireError> {
        let Form { version, flexible } = form;
        let mut read = FetchPartitionResponse::at(topic, reader.i32()?, -1);
        read.error_code = ErrorCode::from_wire(reader.i16()?);
        read.high_watermark = reader.i64()?;
        read.last_stable_offset = reader.i64()?;
        if 5 <= version {
            read.log_start_offset = reader.i64()?;
        }
        read.aborted_transactions = read_aborted_transactions(reader, flexible)?;
        if 11 <= version {
            read.preferred_read_replica = reader.i32()?;
        }
        // Other brokers do send null for nothing.
        let length = reader.nullable_bytes(flexible)?.map_or(0, <[u8]>::len);
        let end = reader.position();
        if length != 0 {
            // For the list of one slice that will hold them.
            reader.allow(size_of::<Bytes>())?;
        }
        read.read_tagged_fields(reader, form)?;
        Ok(Received { partition: read, records: end - length..end })
    }
}

fn read_aborted_transactions(
    reader: &mut Reader<'_>,
    flexible: bool,
) -> Result<Option<Cow<'static, [AbortedTransaction]>>, WireError> {
    let Some(count) = reader.nullable_count(flexible, 16)? else {
        return Ok(None);
    };
    reader.allow(count * size_of::<AbortedTransaction>())?;
    let mut transactions = Vec::with_capacity(count);
    for _ in 0..count {
        transactions
            .push(AbortedTransaction { producer_id: reader.i64()?, first_offset: reader.i64()? });
        reader.skip_tagged_fields(flexible)?;
    }
    Ok(Some(Cow::Owned(transactions)))
}

impl FetchPartitionResponse<'_> {
    fn read_tagged_fields(&mut self, reader: &mut Reader<'_>, form: Form) -> Result<(), WireError> {
        reader.tagged_fields(form.flexible, |tag, reader| {
            match tag {
                0 => {
                    let (epoch, end_offset) = (reader.i32()?, reader.i64()?);
                    self.diverging_epoch = Some(DivergingEpoch { epoch, end_offset });
                    reader.skip_tagged_fields(true)?;
                }
                1 => self.current_leader = LeaderHint::read(reader, form)?,
                2 => {
                    let (end_offset, epoch) = (reader.i64()?, reader.i32()?);
                    self.snapshot_id = Some(SnapshotId { end_offset, epoch });
                    reader.skip_tagged_fields(true)?;
                }
                _ => return Ok(false),
            }
            Ok(true)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A consumer of very many idle partitions can read its answer: real lists stay far below
    /// what a message may allocate.
    #[test]
    fn a_hundred_thousand_idle_partitions_fit_the_allowance() {
        let idle = |partition| FetchPartitionResponse::at(TopicRef::Name("idle"), partition, 7);
        let response =
            FetchResponse { partitions: (0..100_000).map(idle).collect(), ..Default::default() };
        for version in [4, 12] {
            let (mut out, mut parts) = (BytesMut::new(), Vec::new());
            response.encode(&mut out, &mut parts, version, 0);
            assert_eq!(parts.len(), 1, "nothing to cut for");
            let start = if version < 12 { 8 } else { 9 };
            let body = parts[0].slice(start..);
            let read = FetchResponse::parse(version, &body).unwrap();
            assert_eq!(read.partitions.len(), 100_000);
        }
    }
}
