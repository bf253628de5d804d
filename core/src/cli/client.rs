//! A small blocking Kafka client for the commands: one connection per node, one request at a time.
//!
//! It speaks to any Kafka broker. It asks each for its versions, takes the highest both know, and
//! follows leaders by Metadata. What it does not do: groups, transactions, pipelining. For those
//! there are real clients.
//!
//! Start reading at [`Client`].

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
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
use crate::limits;

/// How we call ourselves.
const CLIENT_ID: &str = "tidemill-cli";

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a broker may take to answer; longer than any wait that a request asks for.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);

/// How long a request is tried again while a broker says that it may work later.
pub(super) const RETRY_FOR: Duration = Duration::from_secs(30);

/// How long to leave a broker alone between two tries.
const RETRY_PAUSE: Duration = Duration::from_millis(100);

/// The largest answer accepted.
const ANSWER_BYTES_MAX: usize = limits::FETCH_BYTES_MAX as usize + 1024 * 1024;

/// One connection to one broker, which has told us its versions.
pub(super) struct Connection {
    address: String,
    stream: TcpStream,
    versions: HashMap<i16, (i16, i16)>,
    correlation_id: i32,
}

impl Connection {
    /// Connects and asks for the versions.
    pub(super) fn open(address: &str) -> Result<Self, Failure> {
        let unreachable = |error: &dyn std::fmt::Display| {
            Failure::new(format!("cannot reach a broker at {address}"))
                .because(error)
                .fix("start one with `tidemill start`, or name another with --bootstrap HOST:PORT")
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
    /// A client that will first ask `bootstrap`; nothing is sent yet.
    pub(super) fn new(bootstrap: &str) -> Self {
        let bootstrap = match bootstrap.rsplit_once(':') {
            Some((_, port)) if port.parse::<u16>().is_ok() => bootstrap.to_owned(),
            _ => format!("{bootstrap}:9092"),
        };
        Self {
            bootstrap,
            connections: HashMap::new(),
            nodes: HashMap::new(),
            leaders: HashMap::new(),
        }
    }

    /// The connection to the node first asked; opened if need be.
    pub(super) fn any(&mut self) -> Result<&mut Connection, Failure> {
        let address = self.bootstrap.clone();
        self.at(address)
    }

    fn at(&mut self, address: String) -> Result<&mut Connection, Failure> {
        match self.connections.entry(address) {
            std::collections::hash_map::Entry::Occupied(entry) => Ok(entry.into_mut()),
            std::collections::hash_map::Entry::Vacant(entry) => {
                let connection = Connection::open(entry.key())?;
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
        let start = Instant::now();
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
            let being_made = topic.error_code == ErrorCode::LeaderNotAvailable
                || topic.error_code == ErrorCode::None
                || (create && topic.error_code == ErrorCode::UnknownTopicOrPartition);
            if !being_made || RETRY_FOR <= start.elapsed() {
                return Err(no_such_topic(name, topic.error_code));
            }
            pause();
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
        self.at(address)
    }

    /// Drops the connection to a node: it is broken, or it answered out of turn.
    pub(super) fn forget(&mut self, node: i32) {
        if let Some(address) = self.nodes.get(&node) {
            self.connections.remove(address);
        }
    }
}

/// Waits before the next try.
pub(super) fn pause() {
    std::thread::sleep(RETRY_PAUSE);
}

fn named(name: &str) -> MetadataRequestTopic {
    MetadataRequestTopic { name: Some(name.to_owned()), ..MetadataRequestTopic::default() }
}

fn no_such_topic(name: &str, error: ErrorCode) -> Failure {
    let failure = Failure::new(format!("no topic {name}")).because(error.name());
    match error {
        ErrorCode::UnknownTopicOrPartition => {
            failure.fix(format!("make it with `tidemill topic create {name}`"))
        }
        ErrorCode::InvalidTopicException => {
            failure.fix("names are made of letters, digits, dots, underscores and dashes")
        }
        _ => failure,
    }
}
