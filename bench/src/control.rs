//! What comes before the load: making the topic, finding who leads its partitions, and where they
//! begin and end. Blocking, with the client's own admin.

use std::collections::BTreeMap;
use std::io;
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::thread;
use std::time::{Duration, Instant};

use tidemill_client::kafka::ErrorCode;
use tidemill_client::record::TopicId;
use tidemill_client::{Address, Admin, ErrorKind, Isolation, NewTopic, Start, TopicView};

const TIMEOUT: Duration = Duration::from_secs(60);

/// The most partitions made by one request; Kafka's controller refuses 10,000 at once.
const PARTITIONS_AT_ONCE: i32 = 5_000;

/// A topic, ready for a run.
#[derive(Clone, Debug)]
pub struct Topic {
    /// Its name.
    pub name: String,
    /// Its id; zero if the broker has not told one.
    pub id: TopicId,
    /// The leader's address of each partition, the partition being the index.
    pub leaders: Vec<SocketAddr>,
    /// The first offset of each partition.
    pub earliest: Vec<i64>,
    /// The next offset of each partition.
    pub latest: Vec<i64>,
}

/// How a topic is made, if it is not there.
#[derive(Clone, Debug, Default)]
pub struct Making {
    /// How many partitions.
    pub partitions: u32,
    /// How many replicas; none for the broker's default.
    pub replicas: Option<i16>,
    /// Its configs.
    pub configs: Vec<(String, String)>,
}

/// Makes the topic if it is not there, waits until every partition has a leader that answers, and
/// tells where each begins and ends.
pub fn prepare(bootstrap: &str, name: &str, making: &Making) -> io::Result<Topic> {
    let mut admin = Admin::open(bootstrap).map_err(io::Error::other)?;
    create(&mut admin, name, making)?;
    let deadline = Instant::now() + TIMEOUT;
    loop {
        match look(&mut admin, name) {
            Ok(topic) => return Ok(topic),
            Err(error) if deadline < Instant::now() => return Err(error),
            Err(_) => thread::sleep(Duration::from_millis(50)),
        }
    }
}

fn create(admin: &mut Admin, name: &str, making: &Making) -> io::Result<()> {
    let count = i32::try_from(making.partitions).map_err(io::Error::other)?;
    let mut made = count.min(PARTITIONS_AT_ONCE);
    let mut topic = NewTopic::new(name).partitions(made);
    if let Some(replicas) = making.replicas {
        topic = topic.replicas(replicas);
    }
    for (name, value) in &making.configs {
        topic = topic.config(name, value);
    }
    match admin.create_topic(&topic) {
        Ok(_) => {}
        Err(error) if error.kind() == ErrorKind::Refused(ErrorCode::TopicAlreadyExists) => {
            return Ok(());
        }
        Err(error) => return Err(io::Error::other(error)),
    }
    while made < count {
        made = count.min(made + PARTITIONS_AT_ONCE);
        admin.create_partitions(name, made).map_err(io::Error::other)?;
    }
    Ok(())
}

fn look(admin: &mut Admin, name: &str) -> io::Result<Topic> {
    let view = admin.topic(name).map_err(io::Error::other)?;
    let leaders = leaders(admin, name, &view)?;
    let partitions: Vec<i32> = (0..leaders.len() as i32).collect();
    let mut at = |start| {
        let found = admin.list_offsets(name, &partitions, start, Isolation::ReadUncommitted);
        found.map(BTreeMap::into_values).map(Iterator::collect).map_err(io::Error::other)
    };
    let (earliest, latest) = (at(Start::Earliest)?, at(Start::Latest)?);
    Ok(Topic { name: name.to_owned(), id: view.id, leaders, earliest, latest })
}

fn leaders(admin: &mut Admin, name: &str, view: &TopicView) -> io::Result<Vec<SocketAddr>> {
    let cluster = admin.cluster().map_err(io::Error::other)?;
    let mut known: BTreeMap<&Address, SocketAddr> = BTreeMap::new();
    let mut leaders = Vec::with_capacity(view.partitions.len());
    for (number, partition) in view.partitions.iter().enumerate() {
        let node = partition.leader.and_then(|leader| cluster.nodes.get(&leader));
        let node = node.ok_or_else(|| {
            io::Error::other(format!("partition {number} of topic {name} has no leader"))
        })?;
        let address = match known.get(node) {
            Some(address) => *address,
            None => resolve(&format!("{}:{}", node.host, node.port))?,
        };
        known.insert(node, address);
        leaders.push(address);
    }
    if leaders.is_empty() {
        return Err(io::Error::other(format!("topic {name} has no partitions")));
    }
    Ok(leaders)
}

/// Deletes the topic; it is no error if there is none.
pub fn delete(bootstrap: &str, name: &str) -> io::Result<()> {
    let mut admin = Admin::open(bootstrap).map_err(io::Error::other)?;
    match admin.delete_topic(name) {
        Err(error) if error.kind() != ErrorKind::Refused(ErrorCode::UnknownTopicOrPartition) => {
            Err(io::Error::other(error))
        }
        _ => Ok(()),
    }
}

/// The first address that `name` stands for.
pub fn resolve(name: &str) -> io::Result<SocketAddr> {
    let mut addresses = name.to_socket_addrs()?;
    addresses.next().ok_or_else(|| io::Error::other(format!("{name} has no address")))
}

/// Connects for the load: no delay.
pub fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&address, TIMEOUT)?;
    stream.set_nodelay(true)?;
    Ok(stream)
}
