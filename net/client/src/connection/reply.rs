//! The answer to a request, still as bytes: read when and as the caller wants.

use std::time::Duration;

use bytes::Bytes;
use tidemill_net::cursor::{Reader, WireError};
use tidemill_net::kafka::fetch::FetchResponse;
use tidemill_net::kafka::produce::ProduceResponse;
use tidemill_net::kafka::{ApiKey, Message};

use crate::time::Instant;

/// The answer to a request.
#[derive(Clone, Debug)]
pub struct Reply {
    api: ApiKey,
    version: i16,
    body: Bytes,
    sent_at: Instant,
}

impl Reply {
    pub(super) fn new(api: ApiKey, version: i16, body: Bytes, sent_at: Instant) -> Reply {
        Reply { api, version, body, sent_at }
    }

    /// Which request it answers.
    pub fn api(&self) -> ApiKey {
        self.api
    }

    /// In which version.
    pub fn version(&self) -> i16 {
        self.version
    }

    /// When the request was given to the connection.
    pub fn sent_at(&self) -> Instant {
        self.sent_at
    }

    /// The message behind its header.
    pub fn body(&self) -> &Bytes {
        &self.body
    }

    /// Reads an answer to Produce, in place.
    ///
    /// # Panics
    /// If it answers something else, as the next two do: the tag says what was asked.
    pub fn produce(&self) -> Result<ProduceResponse<'_>, WireError> {
        assert!(self.api == ApiKey::Produce, "this answers {:?}", self.api);
        ProduceResponse::parse(self.version, &self.body)
    }

    /// Reads an answer to Fetch, in place; the records are slices of what was received.
    pub fn fetch(&self) -> Result<FetchResponse<'_>, WireError> {
        assert!(self.api == ApiKey::Fetch, "this answers {:?}", self.api);
        FetchResponse::parse(self.version, &self.body)
    }

    /// Reads any other answer.
    pub fn decode<M: Message>(&self) -> Result<M, WireError> {
        assert!(self.api == M::API, "this answers {:?}", self.api);
        M::decode(self.version, &self.body)
    }

    /// How long the broker asks to keep quiet, where it says so first. (Produce says it last; what
    /// a producer must heed is rare enough to be read with the rest.)
    pub(super) fn throttle(&self) -> Option<Duration> {
        let says_it_first = match self.api {
            ApiKey::Fetch | ApiKey::InitProducerId => true,
            ApiKey::Metadata => 3 <= self.version,
            ApiKey::ListOffsets => 2 <= self.version,
            _ => false,
        };
        let ms = if says_it_first { Reader::new(&self.body).i32().ok()? } else { 0 };
        let ms = u64::try_from(ms).ok().filter(|ms| *ms != 0)?;
        Some(Duration::from_millis(ms.min(THROTTLE_MS_MAX)))
    }
}

/// No broker asks for longer; a number above it is damage.
const THROTTLE_MS_MAX: u64 = 60_000;
