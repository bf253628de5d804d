//! One connection to one broker, without I/O: requests in, bytes out; bytes in, events out.
//!
//! ```text
//! the driver                                   this
//!   connected        -> handle_connected       asks which versions the broker speaks
//!   bytes arrived    -> take_input, handle_input
//!   connection ended -> handle_closed
//!   time passed      -> tick                   gives up when an answer is overdue
//!   what to send?    <- take_output            slices, in order
//!   what happened?   <- poll_event             Ready, Reply, Lost, Closed
//! ```
//!
//! Each request carries a tag of the caller's, which comes back with the reply, or with the word
//! that none will come. Replies keep the order of requests, as the protocol promises; a reply out
//! of order, unreadable or overdue ends the connection, for nothing after it could be trusted.
//!
//! Versions are negotiated once (KIP-511): the highest ApiVersions we know is asked for; a broker
//! that does not know it says so in version 0, and is asked again in one it knows.
//!
//! The hot path allocates nothing per request but what its reply is parsed into:
//! [`Connection::produce`] sends batches from where they lie. A throttled client keeps quiet for as
//! long as the broker asked (KIP-219), by having no room for requests.
//!
//! What it does not do: TLS, authentication, connecting.

mod reply;

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tidemill_net::cursor::WireError;
use tidemill_net::frame::{FrameError, LENGTH_BYTES, frame_size};
use tidemill_net::kafka::api_versions::{ApiVersionsRequest, decode_answer};
use tidemill_net::kafka::fetch::OutgoingFetch;
use tidemill_net::kafka::produce::OutgoingBatches;
use tidemill_net::kafka::{
    ApiKey, ErrorCode, Request, TopicRef, encode_request, parse_response_header,
};

use crate::limits;
use crate::time::Instant;
use crate::versions::Versions;

pub use reply::Reply;

/// The first version of Produce and of Fetch that names topics by their ids.
const TOPIC_IDS_FROM: i16 = 13;

/// How a connection behaves.
#[derive(Clone, Debug)]
pub struct ConnectionConfig {
    /// How the client calls itself in requests.
    pub client_id: Arc<str>,
    /// How many requests may wait for their reply.
    pub in_flight_max: usize,
    /// How many bytes may wait to be sent before there is no room for more requests.
    pub unsent_bytes_max: usize,
    /// The largest reply accepted.
    pub reply_bytes_max: usize,
    /// How long the broker may take to tell its versions.
    pub greeting_timeout: Duration,
}

impl Default for ConnectionConfig {
    fn default() -> ConnectionConfig {
        ConnectionConfig {
            client_id: Arc::from("tidemill"),
            in_flight_max: limits::BATCHES_IN_FLIGHT_MAX,
            unsent_bytes_max: 64 * 1024 * 1024,
            reply_bytes_max: limits::REPLY_BYTES_MAX,
            greeting_timeout: Duration::from_secs(30),
        }
    }
}

/// What happened on a connection.
#[derive(Clone, Debug)]
pub enum Event<A> {
    /// The broker has told its versions: requests can be sent.
    Ready,
    /// The answer to a request.
    Reply(A, Reply),
    /// No answer will come. Whether the broker did what was asked is not known.
    Lost(A),
    /// The connection is of no use any more: close it. All requests have been told lost before.
    Closed(Trouble),
}

/// Why a connection is of no use any more.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Trouble {
    /// The other side, or the network, ended it.
    Ended {
        /// In the words of whoever noticed.
        cause: String,
    },
    /// A reply did not come in time.
    Overdue {
        /// To which request.
        api: ApiKey,
        /// How long it was waited for.
        waited: Duration,
    },
    /// What came is no frame: most likely not a Kafka broker, or one that wants TLS.
    NoFrame(FrameError),
    /// A reply that cannot be read.
    Unreadable {
        /// To which request.
        api: ApiKey,
        /// What is wrong with it.
        error: WireError,
    },
    /// A reply to another request than the oldest one, or to none.
    OutOfOrder {
        /// The number of the oldest request in flight.
        expected: Option<i32>,
        /// The number in the reply.
        found: i32,
    },
    /// The broker would not tell its versions.
    Refused(ErrorCode),
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Trouble::Ended { cause } => write!(f, "the connection ended: {cause}"),
            Trouble::Overdue { api, waited } => {
                write!(f, "no answer to {} for {waited:.0?}", api.api().name)
            }
            Trouble::NoFrame(error) => {
                write!(f, "what the other side sent is not Kafka's protocol without TLS: {error}")
            }
            Trouble::Unreadable { api, error } => {
                write!(f, "the answer to {} cannot be read: {error}", api.api().name)
            }
            Trouble::OutOfOrder { expected: Some(expected), found } => {
                write!(f, "answer {found} came where {expected} was due")
            }
            Trouble::OutOfOrder { expected: None, found } => {
                write!(f, "answer {found} came though nothing was asked")
            }
            Trouble::Refused(error) => write!(f, "the broker does not tell its versions: {error}"),
        }
    }
}

impl std::error::Error for Trouble {}

/// Why a request was not sent. Nothing was written.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum SendError {
    /// Not yet ready, or already closed.
    NotReady,
    /// As much as allowed is in flight or unsent, or the broker has asked to keep quiet.
    NoRoom,
    /// The broker and we have no version of this API in common that can say this.
    NoCommonVersion {
        /// The API.
        api: ApiKey,
        /// What the broker speaks of it, lowest and highest.
        theirs: Option<(i16, i16)>,
    },
}

impl fmt::Display for SendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SendError::NotReady => write!(f, "the connection is not ready"),
            SendError::NoRoom => write!(f, "enough requests are in flight"),
            SendError::NoCommonVersion { api, theirs: None } => {
                write!(f, "the broker does not speak {}", api.api().name)
            }
            SendError::NoCommonVersion { api, theirs: Some((low, high)) } => {
                let ours = api.api();
                write!(
                    f,
                    "the broker speaks {} in versions {low} to {high}, we in {} to {}",
                    ours.name, ours.served_min, ours.max
                )
            }
        }
    }
}

impl std::error::Error for SendError {}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum State {
    /// Not yet connected.
    Unconnected,
    /// Asked for the versions.
    Greeting,
    /// Ready for requests.
    Ready,
    /// Of no use any more.
    Closed,
}

#[derive(Debug)]
struct InFlight<A> {
    correlation_id: i32,
    api: ApiKey,
    version: i16,
    sent_at: Instant,
    deadline: Instant,
    /// None: our own question for versions.
    tag: Option<A>,
}

/// See the head of this file.
#[derive(Debug)]
pub struct Connection<A> {
    config: ConnectionConfig,
    state: State,
    versions: Versions,
    /// APIs that are spoken in older versions than both sides know.
    at_most: Vec<(ApiKey, i16)>,
    next_correlation_id: i32,
    in_flight: VecDeque<InFlight<A>>,
    /// No deadline in flight is earlier; perhaps none is this early.
    earliest_deadline: Option<Instant>,
    quiet_until: Instant,
    /// What to send: first the parts, then what is in `out`.
    parts: Vec<Bytes>,
    parts_bytes: usize,
    out: BytesMut,
    input: BytesMut,
    events: VecDeque<Event<A>>,
}

impl<A> Connection<A> {
    /// A connection that is not yet connected.
    pub fn new(config: ConnectionConfig) -> Connection<A> {
        Connection {
            config,
            state: State::Unconnected,
            versions: Versions::UNKNOWN,
            at_most: Vec::new(),
            next_correlation_id: 0,
            in_flight: VecDeque::new(),
            earliest_deadline: None,
            quiet_until: Instant::default(),
            parts: Vec::new(),
            parts_bytes: 0,
            out: BytesMut::new(),
            input: BytesMut::new(),
            events: VecDeque::new(),
        }
    }

    /// The transport is there: asks for the versions. [`Event::Ready`] follows.
    pub fn handle_connected(&mut self, now: Instant) {
        assert!(self.state == State::Unconnected, "a connection is connected once");
        self.state = State::Greeting;
        self.ask_versions(ApiKey::ApiVersions.api().max, now);
    }

    fn ask_versions(&mut self, version: i16, now: Instant) {
        let request = ApiVersionsRequest {
            client_software_name: "tidemill".to_owned(),
            client_software_version: env!("CARGO_PKG_VERSION").to_owned(),
        };
        let id = self.take_correlation_id();
        encode_request(&mut self.out, version, id, Some(&self.config.client_id), &request);
        let timeout = self.config.greeting_timeout;
        self.expect(id, ApiKey::ApiVersions, version, None, timeout, now);
    }

    /// Where received bytes go: append them and give it back with [`Connection::handle_input`].
    /// It may hold the beginning of a frame already, and has room for more.
    pub fn take_input(&mut self) -> BytesMut {
        let mut input = std::mem::take(&mut self.input);
        let whole = frame_size(&input, self.config.reply_bytes_max).ok().flatten().unwrap_or(0);
        // A length is believed no further than what has arrived for it.
        let missing = whole.saturating_sub(input.len()).min(input.len());
        input.reserve(missing.max(limits::RECEIVE_BYTES_MIN));
        input
    }

    /// Bytes arrived: `input` is what [`Connection::take_input`] gave, and they behind it.
    pub fn handle_input(&mut self, input: BytesMut, now: Instant) {
        self.input = input;
        while self.state != State::Closed {
            let size = match frame_size(&self.input, self.config.reply_bytes_max) {
                Ok(Some(size)) if size <= self.input.len() => size,
                Ok(_) => return,
                Err(error) => return self.close(Trouble::NoFrame(error)),
            };
            let frame = self.input.split_to(size).freeze();
            self.take_frame(frame.slice(LENGTH_BYTES..), now);
        }
    }

    /// Bytes arrived that lie elsewhere; they are copied.
    pub fn handle_bytes(&mut self, bytes: &[u8], now: Instant) {
        let mut input = self.take_input();
        input.extend_from_slice(bytes);
        self.handle_input(input, now);
    }

    /// The transport has ended.
    pub fn handle_closed(&mut self, cause: impl fmt::Display) {
        self.close(Trouble::Ended { cause: cause.to_string() });
    }

    /// Time passed: a reply may be overdue.
    pub fn tick(&mut self, now: Instant) {
        if self.earliest_deadline.is_none_or(|deadline| now < deadline) {
            return;
        }
        let overdue = self.in_flight.iter().find(|asked| asked.deadline <= now);
        if let Some(asked) = overdue {
            let (api, waited) = (asked.api, now.since(asked.sent_at));
            return self.close(Trouble::Overdue { api, waited });
        }
        self.earliest_deadline = self.in_flight.iter().map(|asked| asked.deadline).min();
    }

    /// When [`Connection::tick`] has something to do, at the earliest.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.earliest_deadline
    }

    /// What happened, oldest first.
    pub fn poll_event(&mut self) -> Option<Event<A>> {
        self.events.pop_front()
    }

    /// Appends all that is to be sent now, in order; tells how many bytes that is.
    pub fn take_output(&mut self, parts: &mut Vec<Bytes>) -> usize {
        let size_bytes = self.unsent_bytes();
        parts.append(&mut self.parts);
        self.parts_bytes = 0;
        if !self.out.is_empty() {
            parts.push(self.out.split().freeze());
        }
        size_bytes
    }

    /// How many bytes wait for [`Connection::take_output`].
    pub fn unsent_bytes(&self) -> usize {
        self.parts_bytes + self.out.len()
    }

    /// How many requests wait for their reply.
    pub fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    /// Whether requests can be sent, as far as the connection's state goes.
    pub fn is_ready(&self) -> bool {
        self.state == State::Ready
    }

    /// Whether a request can be sent right now.
    pub fn has_room(&self, now: Instant) -> bool {
        self.state == State::Ready
            && self.in_flight.len() < self.config.in_flight_max
            && self.unsent_bytes() < self.config.unsent_bytes_max
            && self.quiet_until <= now
    }

    /// Until when the broker has asked to keep quiet.
    pub fn quiet_until(&self) -> Instant {
        self.quiet_until
    }

    /// The broker has asked to keep quiet until then. Most replies are heeded without this; that
    /// to Produce says it last, so whoever reads it tells.
    pub fn keep_quiet(&mut self, until: Instant) {
        self.quiet_until = self.quiet_until.max(until);
    }

    /// What the broker speaks; nothing before it is ready.
    pub fn versions(&self) -> &Versions {
        &self.versions
    }

    /// From now on speaks this API in no newer version, as an older client would.
    pub fn speak_at_most(&mut self, api: ApiKey, version: i16) {
        self.at_most.push((api, version));
    }

    /// Whether the broker takes topics by their ids, in Produce and Fetch.
    pub fn takes_topic_ids(&self, api: ApiKey) -> bool {
        let highest = self.highest(api);
        self.versions.pick(api, highest).is_some_and(|version| TOPIC_IDS_FROM <= version)
    }

    /// Sends a request in the highest common version; the reply is due within `timeout`.
    pub fn send<R: Request>(
        &mut self,
        request: &R,
        tag: A,
        timeout: Duration,
        now: Instant,
    ) -> Result<(), SendError> {
        let version = self.admit(R::API, 0, i16::MAX, now)?;
        let id = self.take_correlation_id();
        encode_request(&mut self.out, version, id, Some(&self.config.client_id), request);
        self.expect(id, R::API, version, Some(tag), timeout, now);
        Ok(())
    }

    /// Sends batches. They are not copied, unless small ([`limits::COPY_BELOW_BYTES`]).
    ///
    /// Topics are named all by id, or all by name: see [`Connection::takes_topic_ids`]. With
    /// `acks` 0 there is no reply, and `tag` does not come back.
    pub fn produce(
        &mut self,
        request: &OutgoingBatches<'_>,
        tag: A,
        timeout: Duration,
        now: Instant,
    ) -> Result<(), SendError> {
        let by_id = request.partitions.first().is_some_and(|first| is_id(first.topic));
        let version = self.admit_naming(ApiKey::Produce, by_id, now)?;
        let id = self.take_correlation_id();
        let placed = self.parts.len();
        request.encode(
            &mut self.out,
            &mut self.parts,
            limits::COPY_BELOW_BYTES,
            version,
            id,
            Some(&self.config.client_id),
        );
        self.parts_bytes += self.parts[placed..].iter().map(Bytes::len).sum::<usize>();
        if request.acks != 0 {
            self.expect(id, ApiKey::Produce, version, Some(tag), timeout, now);
        }
        Ok(())
    }

    /// Asks for records. Topics are named all by id, or all by name.
    pub fn fetch(
        &mut self,
        request: &OutgoingFetch<'_>,
        tag: A,
        timeout: Duration,
        now: Instant,
    ) -> Result<(), SendError> {
        let named = request.partitions.first().map(|first| first.topic);
        let named = named.or(request.forgotten.first().map(|first| first.topic));
        let version = self.admit_naming(ApiKey::Fetch, named.is_some_and(is_id), now)?;
        let id = self.take_correlation_id();
        request.encode(&mut self.out, version, id, Some(&self.config.client_id));
        self.expect(id, ApiKey::Fetch, version, Some(tag), timeout, now);
        Ok(())
    }

    /// Ends it from our side: what is in flight is lost.
    pub fn close(&mut self, trouble: Trouble) {
        if self.state == State::Closed {
            return;
        }
        self.state = State::Closed;
        self.earliest_deadline = None;
        (self.parts, self.parts_bytes) = (Vec::new(), 0);
        self.out = BytesMut::new();
        self.input = BytesMut::new();
        let lost = self.in_flight.drain(..).filter_map(|asked| asked.tag);
        self.events.extend(lost.map(Event::Lost));
        self.events.push_back(Event::Closed(trouble));
    }

    fn admit_naming(&mut self, api: ApiKey, by_id: bool, now: Instant) -> Result<i16, SendError> {
        let (lowest, highest) =
            if by_id { (TOPIC_IDS_FROM, i16::MAX) } else { (0, TOPIC_IDS_FROM - 1) };
        self.admit(api, lowest, highest, now)
    }

    fn admit(
        &self,
        api: ApiKey,
        lowest: i16,
        highest: i16,
        now: Instant,
    ) -> Result<i16, SendError> {
        if self.state != State::Ready {
            return Err(SendError::NotReady);
        }
        if !self.has_room(now) {
            return Err(SendError::NoRoom);
        }
        let highest = highest.min(self.highest(api));
        let version = self.versions.pick(api, highest).filter(|version| lowest <= *version);
        version.ok_or(SendError::NoCommonVersion { api, theirs: self.versions.of(api) })
    }

    fn highest(&self, api: ApiKey) -> i16 {
        let own = self.at_most.iter().filter(|(known, _)| *known == api);
        own.map(|(_, version)| *version).min().unwrap_or(i16::MAX)
    }

    fn take_correlation_id(&mut self) -> i32 {
        let id = self.next_correlation_id;
        self.next_correlation_id = id.wrapping_add(1) & i32::MAX;
        id
    }

    fn expect(
        &mut self,
        correlation_id: i32,
        api: ApiKey,
        version: i16,
        tag: Option<A>,
        timeout: Duration,
        now: Instant,
    ) {
        let deadline = now.plus(timeout);
        let earliest = self.earliest_deadline.map_or(deadline, |known| known.min(deadline));
        self.earliest_deadline = Some(earliest);
        let asked = InFlight { correlation_id, api, version, sent_at: now, deadline, tag };
        self.in_flight.push_back(asked);
    }

    fn take_frame(&mut self, frame: Bytes, now: Instant) {
        let Some(asked) = self.in_flight.pop_front() else {
            let found = frame.first_chunk().map_or(-1, |id| i32::from_be_bytes(*id));
            return self.close(Trouble::OutOfOrder { expected: None, found });
        };
        let api = asked.api;
        let header = parse_response_header(api, asked.version, &frame);
        let trouble = match header {
            Ok((id, body)) if id == asked.correlation_id => {
                return self.take_reply(asked, frame.slice(body..), now);
            }
            Ok((found, _)) => Trouble::OutOfOrder { expected: Some(asked.correlation_id), found },
            Err(error) => Trouble::Unreadable { api, error },
        };
        // It counts as in flight until its own answer has come.
        self.in_flight.push_front(asked);
        self.close(trouble);
    }

    fn take_reply(&mut self, asked: InFlight<A>, body: Bytes, now: Instant) {
        if self.in_flight.is_empty() {
            self.earliest_deadline = None;
        }
        let Some(tag) = asked.tag else {
            return self.take_versions(asked.version, &body, now);
        };
        let reply = Reply::new(asked.api, asked.version, body, asked.sent_at);
        if let Some(quiet) = reply.throttle() {
            self.quiet_until = self.quiet_until.max(now.plus(quiet));
        }
        self.events.push_back(Event::Reply(tag, reply));
    }

    fn take_versions(&mut self, version: i16, body: &[u8], now: Instant) {
        let api = ApiKey::ApiVersions;
        let answer = match decode_answer(version, body) {
            Ok(answer) => answer,
            Err(error) => return self.close(Trouble::Unreadable { api, error }),
        };
        let versions = Versions::from_answer(&answer);
        match answer.error_code {
            ErrorCode::None => {
                self.versions = versions;
                self.state = State::Ready;
                self.events.push_back(Event::Ready);
            }
            // KIP-511: the answer tells which versions of this one API are known; an older broker
            // tells nothing, but knows version 0.
            ErrorCode::UnsupportedVersion if version != 0 => {
                let known = versions.pick(api, version - 1).unwrap_or(0);
                self.ask_versions(known, now);
            }
            error => self.close(Trouble::Refused(error)),
        }
    }
}

fn is_id(topic: TopicRef<'_>) -> bool {
    matches!(topic, TopicRef::Id(_))
}

#[cfg(test)]
mod tests;
