//! What comes before the load: making the topic, and finding who leads its partitions. Blocking.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::thread;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use tidemill_net::frame::frame_size;
use tidemill_net::kafka::create_topics::{
    CreatableTopic, CreatableTopicConfig, CreateTopicsRequest,
};
use tidemill_net::kafka::metadata::{MetadataRequest, MetadataRequestTopic, MetadataResponse};
use tidemill_net::kafka::{ErrorCode, Request, decode_response, encode_request};

/// How the load generator calls itself.
pub const CLIENT_ID: &str = "tidemill-bench";

/// Versions that Tidemill and Kafka 4 both have.
const METADATA_VERSION: i16 = 9;
const CREATE_TOPICS_VERSION: i16 = 5;

const ANSWER_BYTES_MAX: usize = 64 << 20;
const TIMEOUT: Duration = Duration::from_secs(30);

/// The leader's address of each partition, the partition being the index.
pub type Leaders = Vec<SocketAddr>;

/// Makes the topic if it is not there, and waits until every partition has a leader.
pub fn prepare(
    bootstrap: &str,
    topic: &str,
    partitions: u32,
    configs: &[(String, String)],
) -> io::Result<Leaders> {
    let mut broker = Broker::connect(bootstrap)?;
    broker.create(topic, partitions, configs)?;
    let deadline = Instant::now() + TIMEOUT;
    loop {
        if let Some(leaders) = broker.leaders(topic)? {
            return Ok(leaders);
        }
        if deadline < Instant::now() {
            return Err(io::Error::other(format!("topic {topic} has no leaders")));
        }
        thread::sleep(Duration::from_millis(20));
    }
}

/// The first address that `name` stands for.
pub fn resolve(name: &str) -> io::Result<SocketAddr> {
    let mut addresses = name.to_socket_addrs()?;
    addresses.next().ok_or_else(|| io::Error::other(format!("{name} has no address")))
}

/// Connects for the load: no delay, non-blocking.
pub fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&address, TIMEOUT)?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

struct Broker {
    stream: TcpStream,
    correlation_id: i32,
}

impl Broker {
    fn connect(bootstrap: &str) -> io::Result<Self> {
        let stream = connect(resolve(bootstrap)?)?;
        stream.set_read_timeout(Some(TIMEOUT))?;
        Ok(Self { stream, correlation_id: 0 })
    }

    fn create(
        &mut self,
        topic: &str,
        partitions: u32,
        configs: &[(String, String)],
    ) -> io::Result<()> {
        let config = |(name, value): &(String, String)| CreatableTopicConfig {
            name: name.clone(),
            value: Some(value.clone()),
        };
        let creatable = CreatableTopic {
            name: topic.to_owned(),
            num_partitions: i32::try_from(partitions).map_err(io::Error::other)?,
            replication_factor: -1,
            configs: configs.iter().map(config).collect(),
            ..CreatableTopic::default()
        };
        let request =
            CreateTopicsRequest { topics: vec![creatable], ..CreateTopicsRequest::default() };
        let response = self.call(CREATE_TOPICS_VERSION, &request)?;
        match response.topics.first().map(|result| result.error_code) {
            Some(ErrorCode::None | ErrorCode::TopicAlreadyExists) => Ok(()),
            other => Err(io::Error::other(format!("topic {topic} could not be made: {other:?}"))),
        }
    }

    fn leaders(&mut self, topic: &str) -> io::Result<Option<Leaders>> {
        let named = MetadataRequestTopic {
            name: Some(topic.to_owned()),
            ..MetadataRequestTopic::default()
        };
        let request = MetadataRequest {
            topics: Some(vec![named]),
            allow_auto_topic_creation: false,
            ..MetadataRequest::default()
        };
        leaders_in(&self.call(METADATA_VERSION, &request)?)
    }

    fn call<R: Request>(&mut self, version: i16, request: &R) -> io::Result<R::Response> {
        self.correlation_id += 1;
        let mut out = BytesMut::new();
        encode_request(&mut out, version, self.correlation_id, Some(CLIENT_ID), request);
        self.stream.write_all(&out)?;
        let mut prefix = [0; 4];
        self.stream.read_exact(&mut prefix)?;
        let size = frame_size(&prefix, ANSWER_BYTES_MAX).map_err(io::Error::other)?;
        let size = size.expect("the whole prefix is here") - prefix.len();
        let mut frame = vec![0; size];
        self.stream.read_exact(&mut frame)?;
        let (_, response) = decode_response(version, &frame).map_err(io::Error::other)?;
        Ok(response)
    }
}

fn leaders_in(response: &MetadataResponse) -> io::Result<Option<Leaders>> {
    let Some(topic) = response.topics.first() else { return Ok(None) };
    if !topic.error_code.is_none() || topic.partitions.is_empty() {
        return Ok(None);
    }
    let mut leaders: Vec<Option<SocketAddr>> = vec![None; topic.partitions.len()];
    for partition in &topic.partitions {
        let broker = response.brokers.iter().find(|b| b.node_id == partition.leader_id);
        let place = usize::try_from(partition.partition_index).ok();
        let place = place.and_then(|place| leaders.get_mut(place));
        let (Some(broker), Some(place)) = (broker, place) else { return Ok(None) };
        *place = Some(resolve(&format!("{}:{}", broker.host, broker.port))?);
    }
    Ok(leaders.into_iter().collect())
}
