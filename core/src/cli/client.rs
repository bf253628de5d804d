//! A small blocking Kafka client for the commands: one connection per node, one request at a time.
//!
//! It speaks to any Kafka broker. It asks each for its versions, takes the highest both know, and
//! follows leaders by Metadata. What it does not do: groups, transactions, pipelining. For those
//! there are real clients.
//!
//! Start reading at [`Client`].

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{Ipv6Addr, TcpStream, ToSocketAddrs};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use tidemill_net::frame::frame_size;
use tidemill_net::kafka::api_versions::{ApiVersionsRequest, ApiVersionsResponse};
use tidemill_net::kafka::metadata::{
    MetadataRequest, MetadataRequestTopic, MetadataResponse, MetadataResponseTopic,
};
use tidemill_net::kafka::{
    ApiKey, ErrorCode, Request, decode_response, encode_request, parse_response_header,
};

use super::failure::Failure;
use crate::config::settings::split_endpoint;
use crate::limits;

/// How we call ourselves.
const CLIENT_ID: &str = "tidemill-cli";

/// The broker that is meant if none is named.
pub(super) const USUAL_BROKER: &str = "127.0.0.1:9092";

/// The port that is meant if none is named.
const PORT: u16 = 9092;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a broker may take to answer; longer than any wait that a request asks for.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);

/// How long a request is tried again while a broker says that it may work later.
pub(super) const RETRY_FOR: Duration = Duration::from_secs(30);

/// How long to leave a broker alone between two tries.
const RETRY_PAUSE: Duration = Duration::from_millis(100);

/// How long a topic that was asked to be made may be unknown: a broker that makes topics at all
/// has begun by then.
const UNKNOWN_FOR: Duration = Duration::from_secs(2);

/// How long a person waits without being told what for.
const SILENT_FOR: Duration = Duration::from_secs(1);

/// How often a person who waits is told what for.
const TOLD_EVERY: Duration = Duration::from_secs(10);

/// The largest answer accepted.
const ANSWER_BYTES_MAX: usize = limits::FETCH_BYTES_MAX as usize + 1024 * 1024;

/// What helps if a broker that was named on the command line cannot be reached.
const UNREACHABLE_FIX: &str =
    "start one with `tidemill start`, or name another with --bootstrap HOST:PORT";

/// One connection to one broker, which has told us its versions.
pub(super) struct Connection {
    address: String,
    stream: TcpStream,
    versions: HashMap<i16, (i16, i16)>,
    correlation_id: i32,
}

impl Connection {
    /// Connects and asks for the versions; `fix` is what helps if nobody is there.
    fn open(address: &str, fix: &str) -> Result<Self, Failure> {
        let unreachable = |error: &dyn std::fmt::Display| {
            Failure::new(format!("cannot reach a broker at {address}")).because(error).fix(fix)
        };
        let resolved = address.to_socket_addrs().map_err(|e| unreachable(&e))?;
        let mut last = None;
        for candidate in resolved {
            match TcpStream::connect_timeout(&candidate, CONNECT_TIMEOUT) {
                Ok(stream) => return Self::greet(address, stream),
                Err(error) => last = Some(error),
            }
        }
        Err(last.map_or_else(|| unreachable(&"the name has no address"), |e| unreachable(&e)))
    }

    fn greet(address: &str, stream: TcpStream) -> Result<Self, Failure> {
        let setup =
            |e| Failure::new(format!("cannot set up the connection to {address}")).because(e);
        stream.set_nodelay(true).map_err(setup)?;
        stream.set_read_timeout(Some(ANSWER_TIMEOUT)).map_err(setup)?;
        stream.set_write_timeout(Some(ANSWER_TIMEOUT)).map_err(setup)?;
        let address = address.to_owned();
        let mut connection = Self { address, stream, versions: HashMap::new(), correlation_id: 0 };
        connection.ask_versions()?;
        Ok(connection)
    }

    /// KIP-511: ask in the highest version we know; a broker that does not know it answers in
    /// version 0 with error 35, and is asked again in version 0.
    fn ask_versions(&mut self) -> Result<(), Failure> {
        let request = ApiVersionsRequest {
            client_software_name: CLIENT_ID.to_owned(),
            client_software_version: env!("CARGO_PKG_VERSION").to_owned(),
        };
        let newest = ApiKey::ApiVersions.api().max;
        for version in [newest, 0] {
            let frame = self.exchange(|out, id| {
                encode_request(out, version, id, Some(CLIENT_ID), &request);
            })?;
            // The error code is the first field in every version; the header is always the same.
            let refused =
                frame.get(4..6) == Some(&ErrorCode::UnsupportedVersion.to_wire().to_be_bytes());
            if refused && version != 0 {
                continue;
            }
            let (_, answer) = decode_response::<ApiVersionsResponse>(version, &frame)
                .map_err(|e| self.garbled(ApiKey::ApiVersions, e))?;
            self.versions = answer
                .api_keys
                .iter()
                .map(|api| (api.api_key, (api.min_version, api.max_version)))
                .collect();
            return Ok(());
        }
        Err(self.refused(ApiKey::ApiVersions, ErrorCode::UnsupportedVersion))
    }

    /// The highest version of an API that both sides know, not above `limit`.
    pub(super) fn version_of(&self, api: ApiKey, limit: i16) -> Result<i16, Failure> {
        let ours = api.api();
        let (low, high) = self.versions.get(&api.to_wire()).copied().unwrap_or((0, -1));
        let version = high.min(ours.max).min(limit);
        if version < low.max(ours.served_min) {
            return Err(Failure::new(format!(
                "the broker at {} has no version of {} that we know",
                self.address, ours.name
            ))
            .because(format!(
                "it speaks {low} to {high}, we speak {} to {}",
                ours.served_min,
                ours.max.min(limit)
            )));
        }
        Ok(version)
    }

    /// Sends a request in the highest common version and waits for the answer.
    pub(super) fn call<R: Request>(&mut self, request: &R) -> Result<R::Response, Failure> {
        let version = self.version_of(R::API, i16::MAX)?;
        let frame =
            self.exchange(|out, id| encode_request(out, version, id, Some(CLIENT_ID), request))?;
        let (_, answer) =
            decode_response::<R::Response>(version, &frame).map_err(|e| self.garbled(R::API, e))?;
        Ok(answer)
    }

    /// Sends a request that `encode` writes and waits for the answer's body.
    pub(super) fn call_in_place(
        &mut self,
        api: ApiKey,
        version: i16,
        encode: impl FnOnce(&mut BytesMut, i32, Option<&str>),
    ) -> Result<Bytes, Failure> {
        let frame = self.exchange(|out, id| encode(out, id, Some(CLIENT_ID)))?;
        let (_, body) =
            parse_response_header(api, version, &frame).map_err(|e| self.garbled(api, e))?;
        Ok(frame.slice(body..))
    }

    /// Sends what `encode` writes and waits for nothing: a produce with acks=0 has no answer.
    pub(super) fn send_only(
        &mut self,
        encode: impl FnOnce(&mut BytesMut, i32, Option<&str>),
    ) -> Result<(), Failure> {
        let mut out = BytesMut::new();
        self.correlation_id = self.correlation_id.wrapping_add(1) & i32::MAX;
        encode(&mut out, self.correlation_id, Some(CLIENT_ID));
        self.stream.write_all(&out).map_err(|e| self.broken(&e))
    }

    fn exchange(&mut self, encode: impl FnOnce(&mut BytesMut, i32)) -> Result<Bytes, Failure> {
        let mut out = BytesMut::new();
        self.correlation_id = self.correlation_id.wrapping_add(1) & i32::MAX;
        encode(&mut out, self.correlation_id);
        self.stream.write_all(&out).map_err(|e| self.broken(&e))?;
        let frame = self.receive()?;
        if frame.get(..4) != Some(&self.correlation_id.to_be_bytes()) {
            return Err(self.broken(&"the answer belongs to another request"));
        }
        Ok(frame)
    }

    fn receive(&mut self) -> Result<Bytes, Failure> {
        let mut prefix = [0; 4];
        self.stream.read_exact(&mut prefix).map_err(|e| self.broken(&e))?;
        let size = match frame_size(&prefix, ANSWER_BYTES_MAX) {
            Ok(size) => size.expect("four bytes are a whole length") - prefix.len(),
            Err(error) => return Err(self.broken(&error)),
        };
        // Grows with what arrives, not with what was announced.
        let mut frame = Vec::new();
        let read = (&mut self.stream).take(size as u64).read_to_end(&mut frame);
        match read {
            Ok(read) if read == size => Ok(frame.into()),
            Ok(_) => Err(self.broken(&"the broker closed the connection")),
            Err(error) => Err(self.broken(&error)),
        }
    }

    fn broken(&self, cause: &dyn std::fmt::Display) -> Failure {
        Failure::new(format!("lost the connection to the broker at {}", self.address))
            .because(cause)
    }

    fn garbled(&self, api: ApiKey, cause: impl std::fmt::Display) -> Failure {
        let api = api.api().name;
        Failure::new(format!("the broker at {} gave no readable answer to {api}", self.address))
            .because(cause)
            .fix("make sure that the port belongs to a Kafka broker without TLS")
    }

    pub(super) fn refused(&self, api: ApiKey, error: ErrorCode) -> Failure {
        Failure::new(format!("the broker at {} refused {}", self.address, api.api().name))
            .because(error.name())
    }
}

/// Knows the cluster and keeps a connection to each node that was needed.
pub(super) struct Client {
    bootstrap: String,
    connections: HashMap<String, Connection>,
    /// Addresses by the id that Metadata gives them.
    nodes: HashMap<i32, String>,
    /// Leaders of the partitions of each topic asked for.
    leaders: HashMap<(String, i32), i32>,
}

impl Client {
    /// A client that will first ask `bootstrap`, which [`parse_bootstrap`] gave; nothing is sent
    /// yet.
    pub(super) fn new(bootstrap: &str) -> Self {
        Self {
            bootstrap: bootstrap.to_owned(),
            connections: HashMap::new(),
            nodes: HashMap::new(),
            leaders: HashMap::new(),
        }
    }

    /// The connection to the node first asked; opened if need be.
    pub(super) fn any(&mut self) -> Result<&mut Connection, Failure> {
        let address = self.bootstrap.clone();
        self.at(address, UNREACHABLE_FIX)
    }

    fn at(&mut self, address: String, fix: &str) -> Result<&mut Connection, Failure> {
        match self.connections.entry(address) {
            std::collections::hash_map::Entry::Occupied(entry) => Ok(entry.into_mut()),
            std::collections::hash_map::Entry::Vacant(entry) => {
                let connection = Connection::open(entry.key(), fix)?;
                Ok(entry.insert(connection))
            }
        }
    }

    /// The cluster and these topics (none given: all topics), and remembers who leads what.
    pub(super) fn metadata(
        &mut self,
        topics: Option<&[&str]>,
        create: bool,
    ) -> Result<MetadataResponse, Failure> {
        let request = MetadataRequest {
            topics: topics.map(|names| names.iter().map(|name| named(name)).collect()),
            allow_auto_topic_creation: create,
            ..MetadataRequest::default()
        };
        let answer = match self.any()?.call(&request) {
            Ok(answer) => answer,
            Err(_) => {
                // The connection may have been closed while it was idle: once more on a new one.
                self.connections.clear();
                self.any()?.call(&request)?
            }
        };
        self.nodes =
            answer.brokers.iter().map(|b| (b.node_id, format!("{}:{}", b.host, b.port))).collect();
        for topic in &answer.topics {
            let name = topic.name.clone().unwrap_or_default();
            for partition in &topic.partitions {
                self.leaders.insert((name.clone(), partition.partition_index), partition.leader_id);
            }
        }
        Ok(answer)
    }

    /// One topic, waited for while it is being made; its partitions in order, all with leaders.
    pub(super) fn topic(
        &mut self,
        name: &str,
        create: bool,
    ) -> Result<MetadataResponseTopic, Failure> {
        let mut patience = Patience::default();
        loop {
            let answer = self.metadata(Some(&[name]), create)?;
            let Some(mut topic) = answer.topics.into_iter().next() else {
                return Err(Failure::new(format!("the broker did not answer for topic {name}")));
            };
            let led = topic.partitions.iter().all(|p| p.error_code == ErrorCode::None);
            if topic.error_code == ErrorCode::None && led {
                topic.partitions.sort_by_key(|partition| partition.partition_index);
                return Ok(topic);
            }
            let error = match topic.error_code {
                ErrorCode::None => topic
                    .partitions
                    .iter()
                    .map(|p| p.error_code)
                    .find(|error| *error != ErrorCode::None)
                    .unwrap_or(ErrorCode::LeaderNotAvailable),
                error => error,
            };
            let being_made = match topic.error_code {
                ErrorCode::None | ErrorCode::LeaderNotAvailable => true,
                ErrorCode::UnknownTopicOrPartition => create && patience.spent() < UNKNOWN_FOR,
                _ => false,
            };
            if !being_made || !patience.wait(&format!("topic {name}: {}", error.name())) {
                return Err(self.no_such_topic(name, error));
            }
        }
    }

    /// The node that leads a partition, as last heard.
    pub(super) fn leader_of(&self, topic: &str, partition: i32) -> Option<i32> {
        self.leaders.get(&(topic.to_owned(), partition)).copied().filter(|leader| 0 <= *leader)
    }

    /// The connection to a node of the last Metadata answer.
    pub(super) fn node(&mut self, node: i32) -> Result<&mut Connection, Failure> {
        let address = self.nodes.get(&node).cloned().ok_or_else(|| {
            Failure::new(format!("node {node} is not among those the cluster names"))
        })?;
        if address == self.bootstrap {
            return self.any();
        }
        let fix = format!(
            "{} names this address for node {node}: see advertised.listeners and tidemill.routing \
             on that broker",
            self.bootstrap
        );
        self.at(address, &fix)
    }

    fn no_such_topic(&self, name: &str, error: ErrorCode) -> Failure {
        let failure = Failure::new(format!("no topic {name}")).because(error.name());
        match error {
            ErrorCode::UnknownTopicOrPartition => {
                let flag = bootstrap_flag(&self.bootstrap);
                failure.fix(format!("make it with `tidemill topic create {name}{flag}`"))
            }
            ErrorCode::InvalidTopicException => {
                failure.fix("names are made of letters, digits, dots, underscores and dashes")
            }
            error => failure.advised(error),
        }
    }

    /// Drops the connection to a node: it is broken, or it answered out of turn.
    pub(super) fn forget(&mut self, node: i32) {
        if let Some(address) = self.nodes.get(&node) {
            self.connections.remove(address);
        }
    }
}

/// How long something has been tried again in vain, and what a person was told of it.
#[derive(Debug)]
pub(super) struct Patience {
    start: Instant,
    told: Option<Instant>,
}

impl Default for Patience {
    fn default() -> Self {
        Self { start: Instant::now(), told: None }
    }
}

impl Patience {
    /// Waits before the next try, and says why once that takes long; false if there is to be none.
    pub(super) fn wait(&mut self, why: &str) -> bool {
        if RETRY_FOR <= self.spent() {
            return false;
        }
        if SILENT_FOR <= self.spent() && self.told.is_none_or(|told| TOLD_EVERY <= told.elapsed()) {
            self.told = Some(Instant::now());
            eprintln!("tidemill: waiting: {why}");
        }
        std::thread::sleep(RETRY_PAUSE);
        true
    }

    fn spent(&self) -> Duration {
        self.start.elapsed()
    }
}

/// Reads the address of a broker as people write it: the port may be left out.
pub(super) fn parse_bootstrap(text: &str) -> Result<String, String> {
    let expected = || "one broker as HOST or HOST:PORT, such as 127.0.0.1:9092".to_owned();
    let plain = text.strip_prefix("PLAINTEXT://").unwrap_or(text);
    let address = match plain.parse::<Ipv6Addr>() {
        Ok(address) => format!("[{address}]:{PORT}"),
        Err(_) if !plain.contains(':') || plain.ends_with(']') => format!("{plain}:{PORT}"),
        Err(_) => plain.to_owned(),
    };
    let (host, _) = split_endpoint(&address).ok_or_else(expected)?;
    match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        Some(inner) => inner.parse::<Ipv6Addr>().map(drop).map_err(|_| expected())?,
        None if host.contains([':', '[', ']']) => return Err(expected()),
        None => {}
    }
    Ok(address)
}

/// How a command for the same broker is told which it is; nothing if it is the usual one.
pub(super) fn bootstrap_flag(address: &str) -> String {
    if address == USUAL_BROKER { String::new() } else { format!(" -b {address}") }
}

fn named(name: &str) -> MetadataRequestTopic {
    MetadataRequestTopic { name: Some(name.to_owned()), ..MetadataRequestTopic::default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What cannot be an address is told at once, not looked up as a name.
    #[test]
    fn a_broker_is_named_with_or_without_its_port() {
        let read = |text: &str| parse_bootstrap(text).ok();
        for (text, address) in [
            ("localhost", "localhost:9092"),
            ("10.0.0.1:19092", "10.0.0.1:19092"),
            ("PLAINTEXT://b-1.example.org:9092", "b-1.example.org:9092"),
            ("::1", "[::1]:9092"),
            ("[::1]", "[::1]:9092"),
            ("[::1]:19092", "[::1]:19092"),
        ] {
            assert_eq!(read(text).as_deref(), Some(address), "{text}");
        }
        for text in
            ["", "a:1,b:2", "host:", "host:0", "host:99999", "host:kafka", "http://host:1", "a:1:2"]
        {
            assert_eq!(read(text), None, "{text}");
        }
    }
}
