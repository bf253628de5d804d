//! ApiVersions: which APIs the broker speaks, in which versions, with which features.
//!
//! The first request of every client, so its rules are special (KIP-511): the response's header
//! never has tagged fields, and a version that the broker does not know is answered in version 0,
//! with an error and the range of this API alone, so that the client can try again.

use super::message::messages;
use super::{APIS, Api, ApiKey, ErrorCode, Message, Request, write_response_header};
use crate::cursor::{Reader, WireError, Writer};
use crate::frame::{begin_frame, end_frame};
use bytes::BytesMut;

messages! {
    /// Asks what the broker speaks.
    struct ApiVersionsRequest of ApiVersions {
        /// Which software the client is; see [`ApiVersionsRequest::is_valid`].
        client_software_name: String [3..],
        /// In which version.
        client_software_version: String [3..],
    }

    /// What the broker speaks.
    struct ApiVersionsResponse of ApiVersions {
        /// Whether the request's version is unknown, or its names malformed.
        error_code: ErrorCode [0..],
        /// The APIs.
        api_keys: Vec<ApiVersion> [0..],
        /// How long the client is to keep quiet.
        throttle_time_ms: i32 [1..],
        /// The features of the cluster that this broker knows.
        supported_features: Vec<SupportedFeatureKey> [3.., tag 0],
        /// Grows with each change of the features in force; -1 for unknown.
        finalized_features_epoch: i64 [3.., tag 1, default -1],
        /// The features in force.
        finalized_features: Vec<FinalizedFeatureKey> [3.., tag 2],
        /// Of no use any more.
        zk_migration_ready: bool [3.., tag 3],
    }

    /// The versions of one API.
    struct ApiVersion {
        /// The API's number.
        api_key: i16 [0..],
        /// The lowest version.
        min_version: i16 [0..],
        /// The highest version.
        max_version: i16 [0..],
    }

    /// The levels of one feature that the broker knows.
    struct SupportedFeatureKey {
        /// The feature.
        name: String [3..],
        /// The lowest level.
        min_version: i16 [3..],
        /// The highest level.
        max_version: i16 [3..],
    }

    /// The level of one feature that is in force.
    struct FinalizedFeatureKey {
        /// The feature.
        name: String [3..],
        /// The highest level.
        max_version_level: i16 [3..],
        /// The lowest level.
        min_version_level: i16 [3..],
    }
}

/// A feature of the cluster: what this broker knows, and what is in force.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Feature<'a> {
    /// Its name, such as `metadata.version`.
    pub name: &'a str,
    /// The levels the broker knows, lowest and highest.
    pub supported: (i16, i16),
    /// The level in force; 0 for none.
    pub finalized: i16,
}

impl From<&Api> for ApiVersion {
    fn from(api: &Api) -> ApiVersion {
        ApiVersion {
            api_key: api.key.to_wire(),
            min_version: api.advertised_min,
            max_version: api.max,
        }
    }
}

impl ApiVersionsRequest {
    /// Whether the client's names are made of what KIP-511 allows:
    /// `[a-zA-Z0-9](?:[a-zA-Z0-9\-.]*[a-zA-Z0-9])?`. If not, the answer is INVALID_REQUEST.
    ///
    /// Versions below 3 do not carry the names.
    pub fn is_valid(&self, version: i16) -> bool {
        version < 3
            || is_software_name(&self.client_software_name)
                && is_software_name(&self.client_software_version)
    }
}

fn is_software_name(name: &str) -> bool {
    let plain = |byte: &u8| byte.is_ascii_alphanumeric();
    let bytes = name.as_bytes();
    bytes.first().is_some_and(plain)
        && bytes.last().is_some_and(plain)
        && bytes.iter().all(|byte| plain(byte) || matches!(byte, b'-' | b'.'))
}

impl ApiVersionsResponse {
    /// All of [`APIS`] that is served, and `features`, in the shape `version` allows.
    ///
    /// A supported level 0 cannot be told before version 4: clients took it for damage
    /// (KAFKA-17011), so such a feature is left out.
    pub fn advertise(version: i16, features: &[Feature<'_>], epoch: i64) -> ApiVersionsResponse {
        let told = features.iter().filter(|feature| 4 <= version || feature.supported.0 != 0);
        let in_force = features.iter().filter(|feature| feature.finalized != 0);
        ApiVersionsResponse {
            api_keys: APIS.iter().filter(|api| api.served).map(ApiVersion::from).collect(),
            supported_features: told
                .map(|feature| SupportedFeatureKey {
                    name: feature.name.to_owned(),
                    min_version: feature.supported.0,
                    max_version: feature.supported.1,
                })
                .collect(),
            finalized_features_epoch: epoch,
            finalized_features: in_force
                .map(|feature| FinalizedFeatureKey {
                    name: feature.name.to_owned(),
                    max_version_level: feature.finalized,
                    min_version_level: feature.finalized,
                })
                .collect(),
            ..ApiVersionsResponse::default()
        }
    }
}

impl Request for ApiVersionsRequest {
    type Response = ApiVersionsResponse;

    fn error_response(&self, error: ErrorCode) -> ApiVersionsResponse {
        ApiVersionsResponse {
            error_code: error,
            api_keys: vec![ApiVersion::from(&ApiKey::ApiVersions.api())],
            ..ApiVersionsResponse::default()
        }
    }
}

/// Appends the whole frame that answers a version we do not know.
pub fn encode_unsupported_version(out: &mut BytesMut, correlation_id: i32) {
    let frame = begin_frame(out);
    write_response_header(&mut Writer::new(out), ApiKey::ApiVersions, 0, correlation_id);
    ApiVersionsRequest::default().error_response(ErrorCode::UnsupportedVersion).encode(0, out);
    end_frame(out, frame, 0);
}

/// Reads the body of an answer to a request of `version`, as a client does: if the broker does
/// not know that version, the answer is in version 0.
pub fn decode_answer(version: i16, body: &[u8]) -> Result<ApiVersionsResponse, WireError> {
    let error = ErrorCode::from_wire(Reader::new(body).i16()?);
    let unknown = error == ErrorCode::UnsupportedVersion;
    ApiVersionsResponse::decode(if unknown { 0 } else { version }, body)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a client calls itself is logged and counted, so it is held to the letter of KIP-511.
    #[test]
    fn software_names_are_checked() {
        let request = |name: &str, version: &str| ApiVersionsRequest {
            client_software_name: name.to_owned(),
            client_software_version: version.to_owned(),
        };
        assert!(request("apache-kafka-java", "4.3.0").is_valid(3));
        assert!(request("x", "1").is_valid(4));
        for bad in ["", "-x", "x.", "two words", "é", "a\nb"] {
            assert!(!request(bad, "1").is_valid(3), "{bad:?}");
            assert!(!request("x", bad).is_valid(3), "{bad:?}");
        }
        assert!(request("", "").is_valid(2), "older versions have no names");
    }

    /// A client that speaks a newer version learns what to fall back to, in a form it can read.
    #[test]
    fn an_unknown_version_is_answered_in_version_0() {
        let mut out = BytesMut::new();
        encode_unsupported_version(&mut out, 77);
        assert_eq!(
            out[..],
            [
                &16i32.to_be_bytes()[..], // the frame's length
                &77i32.to_be_bytes()[..], // the correlation id, and no tags
                &35i16.to_be_bytes()[..], // UNSUPPORTED_VERSION
                &1i32.to_be_bytes()[..],  // one API
                &[0, 18, 0, 0, 0, 4][..], // ApiVersions, 0 to 4
            ]
            .concat()
        );
        let answer = decode_answer(4, &out[8..]).unwrap();
        assert_eq!(answer.error_code, ErrorCode::UnsupportedVersion);
        assert_eq!(answer.api_keys.len(), 1);
    }

    /// A level 0 is told only to those who can read it.
    #[test]
    fn features_from_level_0_are_left_out_before_version_4() {
        let features = [
            Feature { name: "kraft.version", supported: (0, 1), finalized: 0 },
            Feature { name: "metadata.version", supported: (7, 29), finalized: 29 },
        ];
        let told = |version| {
            ApiVersionsResponse::advertise(version, &features, 3)
                .supported_features
                .iter()
                .map(|feature| feature.name.clone())
                .collect::<Vec<_>>()
        };
        assert_eq!(told(3), ["metadata.version"]);
        assert_eq!(told(4), ["kraft.version", "metadata.version"]);
    }

    /// librdkafka looks for these very numbers before it compresses.
    #[test]
    fn produce_is_advertised_from_version_0() {
        let answer = ApiVersionsResponse::advertise(3, &[], -1);
        let produce = answer.api_keys.iter().find(|api| api.api_key == 0).unwrap();
        assert_eq!((produce.min_version, produce.max_version), (0, 13));
    }
}
