//! Produce: records to append. Walked in place, never copied.
//!
//! [`ProduceRequest::parse`] reads the whole structure once before anything is done with it, so
//! that no request is half applied. The records of each partition are told as a range of the
//! body, so that the receiver can take the bytes themselves out of its buffer.
//!
//! Versions 0 to 2 are understood only to be refused: their records have formats that we do not
//! store.

use super::topic::write_by_topic;
use super::{
    ApiKey, ByTopic, ErrorCode, LeaderHint, NodeEndpoint, OfTopic, PartitionWire, RequestHeader,
    TopicRef, write_response_header,
};
use crate::cursor::{Form, Reader, WireError, Writer};
use crate::frame::{begin_frame, end_frame};
use bytes::{Bytes, BytesMut};
use std::borrow::Cow;
use std::ops::Range;

/// From here on topics are named by their ids.
const BY_ID_FROM: i16 = 13;
const CURRENT_LEADER_FROM: i16 = 10;

fn form(version: i16) -> Result<Form, WireError> {
    ApiKey::Produce.form(version).ok_or(WireError::UnsupportedVersion { version })
}

/// A request to append, lying in the bytes it came in.
#[derive(Clone, Debug)]
pub struct ProduceRequest<'a> {
    /// Who runs the transaction these records belong to.
    pub transactional_id: Option<&'a str>,
    /// Who must have the records before the answer: 0 nobody (and there is no answer), 1 the
    /// leader, -1 all in-sync replicas. Anything else is an error the answer must name.
    pub acks: i16,
    /// How long the answer may take.
    pub timeout_ms: i32,
    partitions: ByTopic<'a, ProducePartition<'a>>,
}

/// The records for one partition. A request can name a partition twice: see to it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ProducePartition<'a> {
    /// The topic, by name before version 13, by id from there.
    pub topic: TopicRef<'a>,
    /// The partition's number.
    pub partition: i32,
    /// Where in the body the records lie; `None` if the client sent null. The ranges of a request
    /// come in ascending order and never overlap.
    pub records: Option<Range<usize>>,
}

impl<'a> PartitionWire<'a> for ProducePartition<'a> {
    fn bytes_min(form: Form) -> usize {
        if form.flexible { 4 + 1 + 1 } else { 4 + 4 }
    }

    #[inline]
    fn read(topic: TopicRef<'a>, reader: &mut Reader<'a>, form: Form) -> Result<Self, WireError> {
        let partition = reader.i32()?;
        let records = reader.nullable_bytes(form.flexible)?.map(|records| {
            let end = reader.position();
            end - records.len()..end
        });
        reader.skip_tagged_fields(form.flexible)?;
        Ok(ProducePartition { topic, partition, records })
    }
}

impl<'a> ProduceRequest<'a> {
    /// Reads the request behind its header. Ranges are told relative to `body`.
    pub fn parse(version: i16, body: &'a [u8]) -> Result<ProduceRequest<'a>, WireError> {
        let form = form(version)?;
        let mut reader = Reader::new(body);
        let transactional_id =
            if 3 <= version { reader.nullable_string(form.flexible)? } else { None };
        let acks = reader.i16()?;
        let timeout_ms = reader.i32()?;
        let partitions = ByTopic::read(&mut reader, form, BY_ID_FROM <= version)?;
        reader.skip_tagged_fields(form.flexible)?;
        Ok(ProduceRequest { transactional_id, acks, timeout_ms, partitions })
    }

    /// The partitions, in the order of the wire.
    pub fn partitions(&self) -> ByTopic<'a, ProducePartition<'a>> {
        self.partitions.clone()
    }

    /// How many partitions there are.
    pub fn partitions_count(&self) -> usize {
        self.partitions.partitions_count()
    }

    /// The answer when none of it could be done.
    pub fn error_response(&self, error: ErrorCode) -> ProduceResponse<'a> {
        let failed = |partition: ProducePartition<'a>| {
            ProducePartitionResponse::failed(partition.topic, partition.partition, error)
        };
        ProduceResponse {
            partitions: self.partitions().map(failed).collect(),
            ..Default::default()
        }
    }
}

/// A request to append, as a client makes it.
#[derive(Clone, Debug)]
pub struct OutgoingProduce<'a> {
    /// See [`ProduceRequest::transactional_id`].
    pub transactional_id: Option<&'a str>,
    /// See [`ProduceRequest::acks`].
    pub acks: i16,
    /// See [`ProduceRequest::timeout_ms`].
    pub timeout_ms: i32,
    /// The records; neighbours of one topic are grouped.
    pub partitions: &'a [OutgoingProducePartition<'a>],
}

/// The records of one partition, as a client sends them.
#[derive(Clone, Copy, Debug)]
pub struct OutgoingProducePartition<'a> {
    /// The topic, by name before version 13, by id from there.
    pub topic: TopicRef<'a>,
    /// The partition's number.
    pub partition: i32,
    /// The batch.
    pub records: Option<&'a [u8]>,
}

impl OfTopic for OutgoingProducePartition<'_> {
    fn topic(&self) -> TopicRef<'_> {
        self.topic
    }
}

impl OutgoingProduce<'_> {
    /// Appends a whole request frame to `out`.
    pub fn encode(
        &self,
        out: &mut BytesMut,
        version: i16,
        correlation_id: i32,
        client_id: Option<&str>,
    ) {
        let frame = begin_frame(out);
        let mut writer = Writer::new(out);
        RequestHeader::write(&mut writer, ApiKey::Produce, version, correlation_id, client_id);
        self.write_body(&mut writer, version);
        end_frame(out, frame, 0);
    }

    fn write_body(&self, writer: &mut Writer<'_>, version: i16) {
        let form = form(version).expect("a version of this API");
        write_head(writer, form, self.transactional_id, self.acks, self.timeout_ms);
        let by_id = BY_ID_FROM <= version;
        write_by_topic(writer, form, by_id, self.partitions, |writer, partition| {
            writer.i32(partition.partition);
            writer.nullable_bytes(partition.records, form.flexible);
            writer.tag_count(0, form.flexible);
        });
        writer.tag_count(0, form.flexible);
    }
}

fn write_head(
    writer: &mut Writer<'_>,
    form: Form,
    transactional_id: Option<&str>,
    acks: i16,
    timeout_ms: i32,
) {
    if 3 <= form.version {
        writer.nullable_string(transactional_id, form.flexible);
    }
    writer.i16(acks);
    writer.i32(timeout_ms);
}

/// A batch that is sent from where it lies, to one partition.
#[derive(Clone, Copy, Debug)]
pub struct OutgoingBatch<'a> {
    /// The topic, by name before version 13, by id from there.
    pub topic: TopicRef<'a>,
    /// The partition's number.
    pub partition: i32,
    /// The batch.
    pub records: &'a Bytes,
}

impl OfTopic for OutgoingBatch<'_> {
    fn topic(&self) -> TopicRef<'_> {
        self.topic
    }
}

/// A request to append batches that are not copied: the frame is cut into slices around them.
#[derive(Clone, Copy, Debug)]
pub struct OutgoingBatches<'a> {
    /// See [`ProduceRequest::transactional_id`].
    pub transactional_id: Option<&'a str>,
    /// See [`ProduceRequest::acks`].
    pub acks: i16,
    /// See [`ProduceRequest::timeout_ms`].
    pub timeout_ms: i32,
    /// The batches; neighbours of one topic are grouped.
    pub partitions: &'a [OutgoingBatch<'a>],
}

impl OutgoingBatches<'_> {
    /// Appends a whole request frame. What `out` held before comes first; whatever is left in
    /// `out` afterwards is the end of the frame, behind all of `parts`.
    ///
    /// Batches below `copy_below_bytes` are copied all the same: a slice of its own costs more
    /// than moving a few bytes.
    pub fn encode(
        &self,
        out: &mut BytesMut,
        parts: &mut impl Extend<Bytes>,
        copy_below_bytes: usize,
        version: i16,
        correlation_id: i32,
        client_id: Option<&str>,
    ) {
        let apart = |batch: &&OutgoingBatch<'_>| copy_below_bytes <= batch.records.len();
        let apart_bytes =
            self.partitions.iter().filter(apart).map(|batch| batch.records.len()).sum();
        let frame = begin_frame(out);
        let mut writer = Writer::new(out);
        RequestHeader::write(&mut writer, ApiKey::Produce, version, correlation_id, client_id);
        let form = form(version).expect("a version of this API");
        write_head(&mut writer, form, self.transactional_id, self.acks, self.timeout_ms);
        // Where the batches belong that are not copied, from the end of the one before.
        let mut cuts = CutPlaces::default();
        let by_id = BY_ID_FROM <= version;
        write_by_topic(&mut writer, form, by_id, self.partitions, |writer, batch| {
            writer.i32(batch.partition);
            if apart(&batch) {
                writer.bytes_length(Some(batch.records.len()), form.flexible);
                cuts.add(writer.out().len());
            } else {
                writer.nullable_bytes(Some(batch.records), form.flexible);
            }
            writer.tag_count(0, form.flexible);
        });
        writer.tag_count(0, form.flexible);
        end_frame(out, frame, apart_bytes);
        let mut cut_before = 0;
        for (batch, at) in self.partitions.iter().filter(apart).zip(cuts.places()) {
            let before = out.split_to(at - cut_before).freeze();
            cut_before = at;
            parts.extend([before, batch.records.clone()]);
        }
    }
}

/// Places in a buffer; most requests have one.
#[derive(Default)]
struct CutPlaces {
    first: Option<usize>,
    more: Vec<usize>,
}

impl CutPlaces {
    fn add(&mut self, at: usize) {
        match self.first {
            None => self.first = Some(at),
            Some(_) => self.more.push(at),
        }
    }

    fn places(&self) -> impl Iterator<Item = usize> + '_ {
        self.first.into_iter().chain(self.more.iter().copied())
    }
}

/// What became of a request to append.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ProduceResponse<'a> {
    /// The partitions; neighbours of one topic are grouped.
    pub partitions: Cow<'a, [ProducePartitionResponse<'a>]>,
    /// How long the client is to keep quiet.
    pub throttle_time_ms: i32,
    /// Where the leaders named in the partitions are (from version 10).
    pub node_endpoints: Cow<'a, [NodeEndpoint<'a>]>,
}

/// What became of one partition's records.
#[derive(Clone, Debug, PartialEq)]
pub struct ProducePartitionResponse<'a> {
    /// The topic, named as in the request.
    pub topic: TopicRef<'a>,
    /// The partition's number.
    pub partition: i32,
    /// How it ended.
    pub error_code: ErrorCode,
    /// The offset of the first record; -1 with an error.
    pub base_offset: i64,
    /// When the broker appended, if the topic's timestamps mean that; -1 otherwise. Anything else
    /// would replace the records' own timestamps in Java's answer to the application.
    pub log_append_time_ms: i64,
    /// Where the log begins (from version 5); -1 with an error.
    pub log_start_offset: i64,
    /// Which records were at fault (from version 8).
    pub record_errors: Cow<'a, [RecordError<'a>]>,
    /// What went wrong, for people (from version 8).
    pub error_message: Option<Cow<'a, str>>,
    /// Who leads, if it is not us (from version 10).
    pub current_leader: Option<LeaderHint>,
}

/// One record for which its whole batch was refused.
#[derive(Clone, Debug, PartialEq)]
pub struct RecordError<'a> {
    /// Which record of the batch, from 0.
    pub batch_index: i32,
    /// What is wrong with it.
    pub message: Option<Cow<'a, str>>,
}

impl<'a> ProducePartitionResponse<'a> {
    /// Appended: the first record has `base_offset`.
    pub fn appended(
        topic: TopicRef<'a>,
        partition: i32,
        base_offset: i64,
        log_start_offset: i64,
    ) -> Self {
        ProducePartitionResponse {
            topic,
            partition,
            error_code: ErrorCode::None,
            base_offset,
            log_append_time_ms: -1,
            log_start_offset,
            record_errors: Cow::Borrowed(&[]),
            error_message: None,
            current_leader: None,
        }
    }

    /// Not appended.
    pub fn failed(topic: TopicRef<'a>, partition: i32, error_code: ErrorCode) -> Self {
        ProducePartitionResponse {
            error_code,
            ..ProducePartitionResponse::appended(topic, partition, -1, -1)
        }
    }

    fn write(&self, writer: &mut Writer<'_>, form: Form) {
        let Form { version, flexible } = form;
        writer.i32(self.partition);
        writer.i16(self.error_code.to_wire());
        writer.i64(self.base_offset);
        if 2 <= version {
            writer.i64(self.log_append_time_ms);
        }
        if 5 <= version {
            writer.i64(self.log_start_offset);
        }
        if 8 <= version {
            writer.count(self.record_errors.len(), flexible);
            for error in self.record_errors.iter() {
                writer.i32(error.batch_index);
                writer.nullable_string(error.message.as_deref(), flexible);
                writer.tag_count(0, flexible);
            }
            writer.nullable_string(self.error_message.as_deref(), flexible);
        }
        match self.current_leader {
            Some(leader) if CURRENT_LEADER_FROM <= version => {
                writer.tag_count(1, true);
                leader.write_tagged(writer, 0);
            }
            _ => writer.tag_count(0, flexible),
        }
    }
}

impl OfTopic for ProducePartitionResponse<'_> {
    fn topic(&self) -> TopicRef<'_> {
        self.topic
    }
}

impl<'a> PartitionWire<'a> for ProducePartitionResponse<'a> {
    fn bytes_min(form: Form) -> usize {
        match form.version {
            ..=1 => 4 + 2 + 8,
            2..=4 => 4 + 2 + 8 + 8,
            5..=7 => 4 + 2 + 8 + 8 + 8,
            8 => 4 + 2 + 8 + 8 + 8 + 4 + 2,
            9.. => 4 + 2 + 8 + 8 + 8 + 1 + 1 + 1,
        }
    }

    fn read(topic: TopicRef<'a>, reader: &mut Reader<'a>, form: Form) -> Result<Self, WireError> {
        let Form { version, flexible } = form;
        let mut read = ProducePartitionResponse::appended(topic, reader.i32()?, -1, -1);
        read.error_code = ErrorCode::from_wire(reader.i16()?);
        read.base_offset = reader.i64()?;
        if 2 <= version {
            read.log_append_time_ms = reader.i64()?;
        }
        if 5 <= version {
            read.log_start_offset = reader.i64()?;
        }
        if 8 <= version {
            read.record_errors = Cow::Owned(RecordError::read_list(reader, flexible)?);
            read.error_message = reader.nullable_string(flexible)?.map(Cow::Borrowed);
        }
        reader.tagged_fields(flexible, |tag, reader| {
            if tag != 0 || version < CURRENT_LEADER_FROM {
                return Ok(false);
            }
            read.current_leader = LeaderHint::read(reader, form)?;
            Ok(true)
        })?;
        Ok(read)
    }
}

impl<'a> RecordError<'a> {
    fn read_list(
        reader: &mut Reader<'a>,
        flexible: bool,
    ) -> Result<Vec<RecordError<'a>>, WireError> {
        let count = reader.count(flexible, 6)?;
        reader.allow(count * size_of::<RecordError<'_>>())?;
        let mut errors = Vec::with_capacity(count);
        for _ in 0..count {
            let batch_index = reader.i32()?;
            let message = reader.nullable_string(flexible)?.map(Cow::Borrowed);
            reader.skip_tagged_fields(flexible)?;
            errors.push(RecordError { batch_index, message });
        }
        Ok(errors)
    }
}

impl<'a> ProduceResponse<'a> {
    /// Appends a whole response frame to `out`.
    pub fn encode(&self, out: &mut BytesMut, version: i16, correlation_id: i32) {
        let frame = begin_frame(out);
        let mut writer = Writer::new(out);
        write_response_header(&mut writer, ApiKey::Produce, version, correlation_id);
        self.write_body(&mut writer, version);
        end_frame(out, frame, 0);
    }

    fn write_body(&self, writer: &mut Writer<'_>, version: i16) {
        let form = form(version).expect("a version of this API");
        let by_id = BY_ID_FROM <= version;
        write_by_topic(writer, form, by_id, &self.partitions, |writer, partition| {
            partition.write(writer, form);
        });
        if 1 <= version {
            writer.i32(self.throttle_time_ms);
        }
        if CURRENT_LEADER_FROM <= version && !self.node_endpoints.is_empty() {
            writer.tag_count(1, true);
            writer.tagged_field(0, |writer| {
                NodeEndpoint::write_list(writer, &self.node_endpoints);
            });
        } else {
            writer.tag_count(0, form.flexible);
        }
    }

    /// Reads the response behind its header, as a client does.
    pub fn parse(version: i16, body: &'a [u8]) -> Result<ProduceResponse<'a>, WireError> {
        let form = form(version)?;
        let mut reader = Reader::new(body);
        let list = ByTopic::<ProducePartitionResponse<'a>>::read(
            &mut reader,
            form,
            BY_ID_FROM <= version,
        )?;
        reader.allow(list.partitions_count() * size_of::<ProducePartitionResponse<'_>>())?;
        let mut response = ProduceResponse {
            partitions: list.collect(),
            throttle_time_ms: if 1 <= version { reader.i32()? } else { 0 },
            node_endpoints: Cow::Borrowed(&[]),
        };
        reader.tagged_fields(form.flexible, |tag, reader| {
            if tag != 0 || version < CURRENT_LEADER_FROM {
                return Ok(false);
            }
            response.node_endpoints = Cow::Owned(NodeEndpoint::read_list(reader)?);
            Ok(true)
        })?;
        Ok(response)
    }
}

#[cfg(test)]
mod tests;
