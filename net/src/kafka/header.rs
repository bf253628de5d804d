//! How every frame begins: whose request it is, and whose answer.
//!
//! A request's header names the API and the version of everything behind it, so what cannot be
//! known from it ([`HeaderError`]) ends the connection. The API named is one that we know how to
//! read; whether it is served as well says [`Api::served`](super::Api::served).

use super::ApiKey;
use crate::cursor::{Reader, WireError, Writer};

/// What each request begins with.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct RequestHeader<'a> {
    /// What is asked for.
    pub api_key: ApiKey,
    /// In which version; one that this API has.
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
    /// An API we do not know. Close the connection: the client could not read an answer.
    UnknownApi {
        /// The number sent.
        api_key: i16,
    },
    /// A version we do not know. If `api_key` is ApiVersions, answer with
    /// [`encode_unsupported_version`](super::api_versions::encode_unsupported_version); otherwise close the connection.
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

    /// Reads the header as the broker does: what it does not serve, it does not know.
    pub fn parse_served(frame: &'a [u8]) -> Result<RequestHeader<'a>, HeaderError> {
        match RequestHeader::parse(frame)? {
            header if header.api_key.api().served => Ok(header),
            header => Err(HeaderError::UnknownApi { api_key: header.api_key.to_wire() }),
        }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kafka::APIS;
    use bytes::BytesMut;

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

    /// What we can read and do not serve is unknown to the broker, so that the connection ends as
    /// it does for an API that nobody has heard of.
    #[test]
    fn what_is_not_served_is_unknown_to_the_broker() {
        for api in APIS {
            let mut frame = BytesMut::new();
            RequestHeader::write(&mut Writer::new(&mut frame), api.key, api.max, 7, None);
            let known = RequestHeader::parse(&frame).unwrap();
            assert_eq!((known.api_key, known.version), (api.key, api.max));
            let unknown = HeaderError::UnknownApi { api_key: api.key.to_wire() };
            let expected = if api.served { Ok(known) } else { Err(unknown) };
            assert_eq!(RequestHeader::parse_served(&frame), expected);
        }
    }
}
