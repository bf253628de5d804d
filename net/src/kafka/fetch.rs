//! Fetch: records to read. Requests are walked in place; responses leave the records untouched.
//!
//! A response is a list of byte slices to be sent one after the other: what we say about the
//! partitions, and between it the records as they came from the log. They are never copied.
//!
//! ```text
//! | length, header, partition 0 ... | records of 0 | partition 1 ... | records of 1 | ... | end |
//! ```
//!
//! The request is in this file, the response in `fetch/response.rs`.

mod response;

pub use response::{
    AbortedTransaction, DivergingEpoch, FetchPartitionResponse, FetchResponse, SnapshotId,
};

use super::topic::write_by_topic;
use super::{ApiKey, ByTopic, ErrorCode, OfTopic, PartitionWire, RequestHeader, TopicRef};
use crate::cursor::{Form, Reader, WireError, Writer};
use crate::frame::{begin_frame, end_frame};
use bytes::BytesMut;
use tidemill_record::TopicId;

/// From here on there are fetch sessions, and an error for the whole response.
const SESSIONS_FROM: i16 = 7;
/// From here on topics are named by their ids.
const BY_ID_FROM: i16 = 13;
/// From here on the follower's id is a tagged field.
const REPLICA_STATE_FROM: i16 = 15;

/// The isolation level at which only stable records are visible.
pub const READ_COMMITTED: i8 = 1;
/// The session id of a request outside any session.
pub const NO_SESSION: i32 = 0;
/// The session epoch that closes a session, or asks for none.
pub const FINAL_EPOCH: i32 = -1;

fn form(version: i16) -> Result<Form, WireError> {
    ApiKey::Fetch.form(version).ok_or(WireError::UnsupportedVersion { version })
}

/// A request to read, lying in the bytes it came in.
#[derive(Clone, Debug)]
pub struct FetchRequest<'a> {
    /// Which follower asks; -1 for a consumer.
    pub replica_id: i32,
    /// The follower's epoch; -1 for a consumer (from version 15).
    pub replica_epoch: i64,
    /// How long to wait for `min_bytes`.
    pub max_wait_ms: i32,
    /// How much there must be before the answer goes out early.
    pub min_bytes: i32,
    /// How much the answer may hold; its first batch comes whole in any case.
    pub max_bytes: i32,
    /// [`READ_COMMITTED`], or 0 for all records.
    pub isolation_level: i8,
    /// The session to continue (from version 7).
    pub session_id: i32,
    /// The step of the session; [`FINAL_EPOCH`] for none.
    pub session_epoch: i32,
    /// Where the consumer is (from version 11).
    pub rack_id: &'a str,
    /// The cluster the follower believes to be in (from version 12).
    pub cluster_id: Option<&'a str>,
    partitions: ByTopic<'a, FetchPartition<'a>>,
    forgotten: ByTopic<'a, ForgottenPartition<'a>>,
}

/// What to read of one partition.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct FetchPartition<'a> {
    /// The topic, by name before version 13, by id from there.
    pub topic: TopicRef<'a>,
    /// The partition's number.
    pub partition: i32,
    /// The leader epoch the client knows of; -1 if none (from version 9).
    pub current_leader_epoch: i32,
    /// The first offset wanted.
    pub fetch_offset: i64,
    /// The epoch of the last batch a follower has; -1 if none (from version 12).
    pub last_fetched_epoch: i32,
    /// Where a follower's log begins; -1 for a consumer (from version 5).
    pub log_start_offset: i64,
    /// How much of this partition the answer may hold.
    pub partition_max_bytes: i32,
    /// The directory of a follower's log (from version 17).
    pub replica_directory_id: TopicId,
    /// The high watermark a follower knows of (from version 18); `i64::MAX` if not told.
    pub high_watermark: i64,
}

impl<'a> FetchPartition<'a> {
    /// What a consumer asks for.
    pub fn from_consumer(
        topic: TopicRef<'a>,
        partition: i32,
        fetch_offset: i64,
        partition_max_bytes: i32,
    ) -> FetchPartition<'a> {
        FetchPartition {
            topic,
            partition,
            current_leader_epoch: -1,
            fetch_offset,
            last_fetched_epoch: -1,
            log_start_offset: -1,
            partition_max_bytes,
            replica_directory_id: TopicId::ZERO,
            high_watermark: i64::MAX,
        }
    }

    fn write(&self, writer: &mut Writer<'_>, form: Form) {
        let Form { version, flexible } = form;
        writer.i32(self.partition);
        if 9 <= version {
            writer.i32(self.current_leader_epoch);
        }
        writer.i64(self.fetch_offset);
        if 12 <= version {
            writer.i32(self.last_fetched_epoch);
        }
        if 5 <= version {
            writer.i64(self.log_start_offset);
        }
        writer.i32(self.partition_max_bytes);

        let directory = 17 <= version && !self.replica_directory_id.is_zero();
        let watermark = 18 <= version && self.high_watermark != i64::MAX;
        writer.tag_count(u32::from(directory) + u32::from(watermark), flexible);
        if directory {
            writer.tagged_field(0, |writer| writer.topic_id(self.replica_directory_id));
        }
        if watermark {
            writer.tagged_field(1, |writer| writer.i64(self.high_watermark));
        }
    }
}

impl OfTopic for FetchPartition<'_> {
    fn topic(&self) -> TopicRef<'_> {
        self.topic
    }
}

impl<'a> PartitionWire<'a> for FetchPartition<'a> {
    fn bytes_min(form: Form) -> usize {
        match form.version {
            ..=4 => 4 + 8 + 4,
            5..=8 => 4 + 8 + 8 + 4,
            9..=11 => 4 + 4 + 8 + 8 + 4,
            12.. => 4 + 4 + 8 + 4 + 8 + 4 + 1,
        }
    }

    #[inline]
    fn read(topic: TopicRef<'a>, reader: &mut Reader<'a>, form: Form) -> Result<Self, WireError> {
        let version = form.version;
        let mut read = FetchPartition::from_consumer(topic, reader.i32()?, 0, 0);
        if 9 <= version {
            read.current_leader_epoch = reader.i32()?;
        }
        read.fetch_offset = reader.i64()?;
        if 12 <= version {
            read.last_fetched_epoch = reader.i32()?;
        }
        if 5 <= version {
            read.log_start_offset = reader.i64()?;
        }
        read.partition_max_bytes = reader.i32()?;
        reader.tagged_fields(form.flexible, |tag, reader| {
            match tag {
                0 if 17 <= version => read.replica_directory_id = reader.topic_id()?,
                1 if 18 <= version => read.high_watermark = reader.i64()?,
                _ => return Ok(false),
            }
            Ok(true)
        })?;
        Ok(read)
    }
}

/// A partition that leaves the session.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct ForgottenPartition<'a> {
    /// The topic, by name before version 13, by id from there.
    pub topic: TopicRef<'a>,
    /// The partition's number.
    pub partition: i32,
}

impl OfTopic for ForgottenPartition<'_> {
    fn topic(&self) -> TopicRef<'_> {
        self.topic
    }
}

impl<'a> PartitionWire<'a> for ForgottenPartition<'a> {
    fn bytes_min(_: Form) -> usize {
        4
    }

    #[inline]
    fn read(topic: TopicRef<'a>, reader: &mut Reader<'a>, _: Form) -> Result<Self, WireError> {
        Ok(ForgottenPartition { topic, partition: reader.i32()? })
    }
}

impl<'a> FetchRequest<'a> {
    /// Reads the request behind its header.
    pub fn parse(version: i16, body: &'a [u8]) -> Result<FetchRequest<'a>, WireError> {
        let form = form(version)?;
        let by_id = BY_ID_FROM <= version;
        let mut reader = Reader::new(body);
        let mut request = FetchRequest {
            replica_id: if version < REPLICA_STATE_FROM { reader.i32()? } else { -1 },
            replica_epoch: -1,
            max_wait_ms: reader.i32()?,
            min_bytes: reader.i32()?,
            max_bytes: reader.i32()?,
            isolation_level: reader.i8()?,
            session_id: if SESSIONS_FROM <= version { reader.i32()? } else { NO_SESSION },
            session_epoch: if SESSIONS_FROM <= version { reader.i32()? } else { FINAL_EPOCH },
            rack_id: "",
            cluster_id: None,
            partitions: ByTopic::read(&mut reader, form, by_id)?,
            forgotten: ByTopic::none(),
        };
        if SESSIONS_FROM <= version {
            request.forgotten = ByTopic::read(&mut reader, form, by_id)?;
        }
        if 11 <= version {
            request.rack_id = reader.string(form.flexible)?;
        }
        request.read_tagged_fields(&mut reader, form)?;
        Ok(request)
    }

    fn read_tagged_fields(&mut self, reader: &mut Reader<'a>, form: Form) -> Result<(), WireError> {
        reader.tagged_fields(form.flexible, |tag, reader| {
            match tag {
                0 => self.cluster_id = reader.nullable_string(true)?,
                1 if REPLICA_STATE_FROM <= form.version => {
                    self.replica_id = reader.i32()?;
                    self.replica_epoch = reader.i64()?;
                    reader.skip_tagged_fields(true)?;
                }
                _ => return Ok(false),
            }
            Ok(true)
        })
    }

    /// What to read, in the order of the wire.
    pub fn partitions(&self) -> ByTopic<'a, FetchPartition<'a>> {
        self.partitions.clone()
    }

    /// What leaves the session.
    pub fn forgotten(&self) -> ByTopic<'a, ForgottenPartition<'a>> {
        self.forgotten.clone()
    }

    /// The answer when nothing could be read: for the whole from version 7, before that for each
    /// partition.
    pub fn error_response(&self, error: ErrorCode) -> FetchResponse<'a> {
        let failed = |partition: FetchPartition<'a>| {
            FetchPartitionResponse::failed(partition.topic, partition.partition, error)
        };
        FetchResponse {
            error_code: error,
            partitions: self.partitions().map(failed).collect(),
            ..FetchResponse::default()
        }
    }
}

/// A request to read, as a client makes it.
#[derive(Clone, Debug)]
pub struct OutgoingFetch<'a> {
    /// See [`FetchRequest::replica_id`].
    pub replica_id: i32,
    /// See [`FetchRequest::replica_epoch`].
    pub replica_epoch: i64,
    /// See [`FetchRequest::max_wait_ms`].
    pub max_wait_ms: i32,
    /// See [`FetchRequest::min_bytes`].
    pub min_bytes: i32,
    /// See [`FetchRequest::max_bytes`].
    pub max_bytes: i32,
    /// See [`FetchRequest::isolation_level`].
    pub isolation_level: i8,
    /// See [`FetchRequest::session_id`].
    pub session_id: i32,
    /// See [`FetchRequest::session_epoch`].
    pub session_epoch: i32,
    /// See [`FetchRequest::rack_id`].
    pub rack_id: &'a str,
    /// See [`FetchRequest::cluster_id`].
    pub cluster_id: Option<&'a str>,
    /// What to read; neighbours of one topic are grouped.
    pub partitions: &'a [FetchPartition<'a>],
    /// What leaves the session.
    pub forgotten: &'a [ForgottenPartition<'a>],
}

impl Default for OutgoingFetch<'_> {
    /// A consumer's request for nothing, outside any session.
    fn default() -> Self {
        OutgoingFetch {
            replica_id: -1,
            replica_epoch: -1,
            max_wait_ms: 500,
            min_bytes: 1,
            max_bytes: 50 * 1024 * 1024,
            isolation_level: 0,
            session_id: NO_SESSION,
            session_epoch: FINAL_EPOCH,
            rack_id: "",
            cluster_id: None,
            partitions: &[],
            forgotten: &[],
        }
    }
}

impl OutgoingFetch<'_> {
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
        RequestHeader::write(&mut writer, ApiKey::Fetch, version, correlation_id, client_id);
        self.write_body(&mut writer, version);
        end_frame(out, frame, 0);
    }

    fn write_body(&self, writer: &mut Writer<'_>, version: i16) {
        let form = form(version).expect("a version of this API");
        let by_id = BY_ID_FROM <= version;
        if version < REPLICA_STATE_FROM {
            writer.i32(self.replica_id);
        }
        writer.i32(self.max_wait_ms);
        writer.i32(self.min_bytes);
        writer.i32(self.max_bytes);
        writer.i8(self.isolation_level);
        if SESSIONS_FROM <= version {
            writer.i32(self.session_id);
            writer.i32(self.session_epoch);
        }
        write_by_topic(writer, form, by_id, self.partitions, |writer, partition| {
            partition.write(writer, form);
        });
        if SESSIONS_FROM <= version {
            write_by_topic(writer, form, by_id, self.forgotten, |writer, forgotten| {
                writer.i32(forgotten.partition);
            });
        }
        if 11 <= version {
            writer.string(self.rack_id, form.flexible);
        }
        self.write_tagged_fields(writer, form);
    }

    fn write_tagged_fields(&self, writer: &mut Writer<'_>, form: Form) {
        let follower = (self.replica_id, self.replica_epoch) != (-1, -1);
        let state = REPLICA_STATE_FROM <= form.version && follower;
        let count = u32::from(self.cluster_id.is_some()) + u32::from(state);
        writer.tag_count(count, form.flexible);
        if !form.flexible {
            return;
        }
        if self.cluster_id.is_some() {
            writer.tagged_field(0, |writer| writer.nullable_string(self.cluster_id, true));
        }
        if state {
            writer.tagged_field(1, |writer| {
                writer.i32(self.replica_id);
                writer.i64(self.replica_epoch);
                writer.tag_count(0, true);
            });
        }
    }
}
