//! Kafka's protocol: which APIs we speak, in which versions, and how a frame begins.
//!
//! A frame, behind its length, is a header and a body:
//!
//! ```text
//! request    | api key: i16 | version: i16 | correlation id: i32 | client id | tags* | body
//! response   | correlation id: i32 | tags* | body                 * flexible versions only
//! ```
//!
//! [`APIS`] is the one table of what is served. [`RequestHeader::parse`] reads the header,
//! [`AnyRequest::parse`] the body. [`produce`] and [`fetch`] are walked in place, without a copy
//! and without an allocation; every other message is one declaration in a file of its own (see
//! [`message`]).

#[cfg(test)]
mod differential;
mod error;
pub mod message;
mod topic;

pub mod api_versions;
pub mod fetch;
pub mod produce;

pub mod alter_configs;
pub mod create_partitions;
pub mod create_topics;
pub mod delete_records;
pub mod delete_topics;
pub mod describe_cluster;
pub mod describe_configs;
pub mod init_producer_id;
pub mod list_offsets;
pub mod metadata;
pub mod offset_for_leader_epoch;

pub use error::ErrorCode;
pub use message::{Message, Request};
pub use topic::{ByTopic, LeaderHint, NodeEndpoint, OfTopic, PartitionWire, TopicRef};

use crate::cursor::{Form, Reader, WireError, Writer};
use crate::frame::{begin_frame, end_frame};
use bytes::BytesMut;

/// One API: its number, and the versions we speak.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Api {
    /// Which one.
    pub key: ApiKey,
    /// The name in Kafka's documentation.
    pub name: &'static str,
    /// The lowest version we tell clients of.
    pub advertised_min: i16,
    /// The lowest version that gets what it asks for. Below it, down to `advertised_min`, requests
    /// are understood and answered with an error.
    pub served_min: i16,
    /// The highest version.
    pub max: i16,
    /// The lowest version with compact lengths and tagged fields.
    pub flexible_from: i16,
}

macro_rules! apis {
    ($(
        $(#[$meta:meta])*
        $key:ident = $number:literal, $advertised_min:literal, $served_min:literal, $max:literal,
        $flexible_from:literal;
    )*) => {
        /// The APIs we speak, by their number on the wire.
        #[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
        #[repr(i16)]
        pub enum ApiKey {
            $( $(#[$meta])* $key = $number, )*
        }

        /// All we speak, in the order of their numbers. Nothing else is served or advertised.
        pub const APIS: &[Api] = &[$(
            Api {
                key: ApiKey::$key,
                name: stringify!($key),
                advertised_min: $advertised_min,
                served_min: $served_min,
                max: $max,
                flexible_from: $flexible_from,
            },
        )*];

        impl ApiKey {
            /// The API with this number, if we speak it.
            pub fn from_wire(number: i16) -> Option<ApiKey> {
                match number {
                    $( $number => Some(ApiKey::$key), )*
                    _ => None,
                }
            }

            /// What the table says of this API.
            pub const fn api(self) -> Api {
                match self {
                    $( ApiKey::$key => Api {
                        key: ApiKey::$key,
                        name: stringify!($key),
                        advertised_min: $advertised_min,
                        served_min: $served_min,
                        max: $max,
                        flexible_from: $flexible_from,
                    }, )*
                }
            }
        }
    };
}

apis! {
    // number, advertised from, served from, up to, flexible from: Kafka 4.3's own ranges.

    /// Records to append. Versions 0 to 2 carry old message formats, which nobody sends any more;
    /// but librdkafka before 2.11 leaves compression out if they are not advertised.
    Produce = 0, 0, 3, 13, 9;
    /// Records to read, waiting for them if there are none.
    Fetch = 1, 4, 4, 18, 12;
    /// First and last offsets, and offsets by time.
    ListOffsets = 2, 1, 1, 11, 6;
    /// Nodes, topics, leaders.
    Metadata = 3, 0, 0, 13, 9;
    /// Which APIs and versions the broker speaks.
    ApiVersions = 18, 0, 0, 4, 3;
    /// New topics.
    CreateTopics = 19, 2, 2, 7, 5;
    /// Topics to delete.
    DeleteTopics = 20, 1, 1, 6, 4;
    /// Records to trim from the start of partitions.
    DeleteRecords = 21, 0, 0, 2, 2;
    /// A number for a producer that wants no duplicates.
    InitProducerId = 22, 0, 0, 5, 2;
    /// Where leader epochs end.
    OffsetForLeaderEpoch = 23, 2, 2, 4, 4;
    /// Settings of topics and nodes.
    DescribeConfigs = 32, 1, 1, 4, 4;
    /// More partitions for a topic.
    CreatePartitions = 37, 0, 0, 3, 2;
    /// Changes of settings, one by one.
    IncrementalAlterConfigs = 44, 0, 0, 1, 1;
    /// The nodes of the cluster.
    DescribeCluster = 60, 0, 0, 2, 0;
}

impl ApiKey {
    /// The number on the wire.
    pub const fn to_wire(self) -> i16 {
        self as i16
    }

    /// How `version` of this API is written; `None` if we do not know that version.
    pub fn form(self, version: i16) -> Option<Form> {
        let api = self.api();
        let known = api.advertised_min <= version && version <= api.max;
        known.then_some(Form { version, flexible: api.flexible_from <= version })
    }

    /// Whether the response's header ends with tagged fields. ApiVersions never has them, so that
    /// a client can read the answer before it knows what the broker speaks (KIP-511).
    fn tags_in_response_header(self, version: i16) -> bool {
        self != ApiKey::ApiVersions && self.api().flexible_from <= version
    }
}

/// What each request begins with.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct RequestHeader<'a> {
    /// What is asked for.
    pub api_key: ApiKey,
    /// In which version; one of those [`APIS`] advertises.
    pub version: i16,
    /// What the response must carry too.
    pub correlation_id: i32,
    /// How the client calls itself.
    pub client_id: Option<&'a str>,
    /// Where in the frame the body begins.
    pub body_start: usize,
}

/// Why a frame is no request that we understand.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum HeaderError {
    /// The frame is damaged. Close the connection.
    Malformed(WireError),
    /// An API we do not speak. Close the connection: the client could not read an answer.
    UnknownApi {
        /// The number sent.
        api_key: i16,
    },
    /// A version we do not speak. If `api_key` is ApiVersions, answer with
    /// [`api_versions::encode_unsupported_version`]; otherwise close the connection.
    UnsupportedVersion {
        /// The API asked for.
        api_key: ApiKey,
        /// The version asked for.
        version: i16,
        /// What the response must carry.
        correlation_id: i32,
    },
}

impl From<WireError> for HeaderError {
    fn from(error: WireError) -> HeaderError {
        HeaderError::Malformed(error)
    }
}

impl std::fmt::Display for HeaderError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            HeaderError::Malformed(error) => write!(f, "a damaged request header: {error}"),
            HeaderError::UnknownApi { api_key } => write!(f, "unknown API {api_key}"),
            HeaderError::UnsupportedVersion { api_key, version, .. } => {
                write!(f, "{} in version {version}, which is not spoken", api_key.api().name)
            }
        }
    }
}

impl std::error::Error for HeaderError {}

impl<'a> RequestHeader<'a> {
    /// Reads the header of `frame`, which is without its length.
    pub fn parse(frame: &'a [u8]) -> Result<RequestHeader<'a>, HeaderError> {
        let mut reader = Reader::new(frame);
        let number = reader.i16()?;
        let version = reader.i16()?;
        let correlation_id = reader.i32()?;
        let api_key =
            ApiKey::from_wire(number).ok_or(HeaderError::UnknownApi { api_key: number })?;
        let form = api_key.form(version).ok_or(HeaderError::UnsupportedVersion {
            api_key,
            version,
            correlation_id,
        })?;
        // The client id keeps its old form in flexible headers too (KIP-482).
        let client_id = reader.nullable_string(false)?;
        reader.skip_tagged_fields(form.flexible)?;
        Ok(RequestHeader {
            api_key,
            version,
            correlation_id,
            client_id,
            body_start: reader.position(),
        })
    }

    /// Writes the header.
    pub fn write(
        writer: &mut Writer<'_>,
        api_key: ApiKey,
        version: i16,
        correlation_id: i32,
        client_id: Option<&str>,
    ) {
        let form = api_key.form(version).expect("a version of this API");
        writer.i16(api_key.to_wire());
        writer.i16(version);
        writer.i32(correlation_id);
        writer.nullable_string(client_id, false);
        writer.tag_count(0, form.flexible);
    }
}

/// Writes what each response begins with.
pub fn write_response_header(
    writer: &mut Writer<'_>,
    api_key: ApiKey,
    version: i16,
    correlation_id: i32,
) {
    writer.i32(correlation_id);
    writer.tag_count(0, api_key.tags_in_response_header(version));
}

/// Reads what each response begins with: the correlation id, and where the body begins.
pub fn parse_response_header(
    api_key: ApiKey,
    version: i16,
    frame: &[u8],
) -> Result<(i32, usize), WireError> {
    let mut reader = Reader::new(frame);
    let correlation_id = reader.i32()?;
    reader.skip_tagged_fields(api_key.tags_in_response_header(version))?;
    Ok((correlation_id, reader.position()))
}

/// Appends a whole request frame to `out`: length, header, body.
pub fn encode_request<R: Request>(
    out: &mut BytesMut,
    version: i16,
    correlation_id: i32,
    client_id: Option<&str>,
    request: &R,
) {
    let frame = begin_frame(out);
    RequestHeader::write(&mut Writer::new(out), R::API, version, correlation_id, client_id);
    request.encode(version, out);
    end_frame(out, frame, 0);
}

/// Appends a whole response frame to `out`: length, header, body.
pub fn encode_response<M: Message>(
    out: &mut BytesMut,
    version: i16,
    correlation_id: i32,
    response: &M,
) {
    let frame = begin_frame(out);
    write_response_header(&mut Writer::new(out), M::API, version, correlation_id);
    response.encode(version, out);
    end_frame(out, frame, 0);
}

/// Reads a whole response frame, without its length: the correlation id and the message.
pub fn decode_response<M: Message>(version: i16, frame: &[u8]) -> Result<(i32, M), WireError> {
    let (correlation_id, body_start) = parse_response_header(M::API, version, frame)?;
    Ok((correlation_id, M::decode(version, &frame[body_start..])?))
}

macro_rules! any_request {
    ($($api:ident($type:ty) $parse:ident;)*) => {
        /// The body of any request that we serve.
        #[derive(Clone, Debug)]
        pub enum AnyRequest<'a> {
            $(
                #[doc = concat!("See [`", stringify!($type), "`].")]
                $api($type),
            )*
        }

        impl<'a> AnyRequest<'a> {
            /// Reads the body of a request, whole, before any of it is acted upon.
            pub fn parse(
                api_key: ApiKey,
                version: i16,
                body: &'a [u8],
            ) -> Result<AnyRequest<'a>, WireError> {
                match api_key {
                    $( ApiKey::$api => <$type>::$parse(version, body).map(AnyRequest::$api), )*
                }
            }
        }
    };
}

any_request! {
    Produce(produce::ProduceRequest<'a>) parse;
    Fetch(fetch::FetchRequest<'a>) parse;
    ListOffsets(list_offsets::ListOffsetsRequest) decode;
    Metadata(metadata::MetadataRequest) decode;
    ApiVersions(api_versions::ApiVersionsRequest) decode;
    CreateTopics(create_topics::CreateTopicsRequest) decode;
    DeleteTopics(delete_topics::DeleteTopicsRequest) decode;
    DeleteRecords(delete_records::DeleteRecordsRequest) decode;
    InitProducerId(init_producer_id::InitProducerIdRequest) decode;
    OffsetForLeaderEpoch(offset_for_leader_epoch::OffsetForLeaderEpochRequest) decode;
    DescribeConfigs(describe_configs::DescribeConfigsRequest) decode;
    CreatePartitions(create_partitions::CreatePartitionsRequest) decode;
    IncrementalAlterConfigs(alter_configs::IncrementalAlterConfigsRequest) decode;
    DescribeCluster(describe_cluster::DescribeClusterRequest) decode;
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The table is what it says of itself, and in the order a client may rely on.
    #[test]
    fn the_table_of_versions_is_consistent() {
        for pair in APIS.windows(2) {
            assert!(pair[0].key.to_wire() < pair[1].key.to_wire());
        }
        for api in APIS {
            assert_eq!(ApiKey::from_wire(api.key.to_wire()), Some(api.key));
            assert_eq!(api.key.api(), *api);
            assert!(0 <= api.advertised_min && api.advertised_min <= api.served_min);
            assert!(api.served_min <= api.max);
        }
    }

    /// Header version 1 ends with the client id, version 2 with tagged fields.
    #[test]
    fn a_request_header_is_read_in_both_forms() {
        for (version, tail) in [(8, &[][..]), (9, &[1, 5, 2, 7, 7][..])] {
            let mut frame = vec![0, 3, 0, version, 0, 0, 1, 2, 0, 2, b'm', b'e'];
            frame.extend_from_slice(tail);
            let header = RequestHeader::parse(&frame).unwrap();
            assert_eq!(header.api_key, ApiKey::Metadata);
            assert_eq!(header.version, i16::from(version));
            assert_eq!(header.correlation_id, 0x102);
            assert_eq!(header.client_id, Some("me"));
            assert_eq!(header.body_start, frame.len());
            for cut in 0..frame.len() {
                assert!(RequestHeader::parse(&frame[..cut]).is_err());
            }
        }
    }

    /// What we do not speak is told apart from what is damaged.
    #[test]
    fn unknown_apis_and_versions_are_named() {
        assert_eq!(
            RequestHeader::parse(&[0, 99, 0, 0, 0, 0, 0, 7, 0xff, 0xff]),
            Err(HeaderError::UnknownApi { api_key: 99 })
        );
        assert_eq!(
            RequestHeader::parse(&[0, 18, 0, 9, 0, 0, 0, 7, 0xff, 0xff]),
            Err(HeaderError::UnsupportedVersion {
                api_key: ApiKey::ApiVersions,
                version: 9,
                correlation_id: 7
            })
        );
        assert!(matches!(RequestHeader::parse(&[0, 18]), Err(HeaderError::Malformed(_))));
    }
}
