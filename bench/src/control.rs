//! What comes before the load: making the topic, finding who leads its partitions, and where they
//! begin and end. Blocking, with the client's own admin.

use std::collections::BTreeMap;
use std::io;
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::thread;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tidemill_client::kafka::ErrorCode;
use tidemill_client::record::TopicId;
use tidemill_client::{
    Address, Admin, ClusterConfig, Error, ErrorKind, Isolation, NewTopic, Start, TopicView,
};

use crate::figures::counted;
use crate::progress::Progress;
use crate::trouble::Trouble;

const TIMEOUT: Duration = Duration::from_secs(60);

/// The most partitions made by one request; Kafka's controller refuses 10,000 at once.
const PARTITIONS_AT_ONCE: i32 = 5_000;

/// How long a broker that was lost may take to answer, or to take a connection, before it is asked
/// again.
const TIMEOUT_OF_LOST: Duration = Duration::from_secs(2);

/// How long the broker may take to give up the members of a group that say nothing more …
const GIVEN_UP_WITHIN: Duration = Duration::from_secs(60);

/// … and how often it is asked meanwhile.
const GIVEN_UP_AGAIN: Duration = Duration::from_secs(1);

/// A topic, ready for a run.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Topic {
    /// Its name.
    pub name: String,
    /// Its id; zero if the broker has not told one.
    #[serde(with = "id_as_bytes")]
    pub id: TopicId,
    /// Who is asked for the leaders when one was lost; nobody if they are as they are.
    pub bootstrap: Option<String>,
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

impl Topic {
    /// A topic of one partition, empty, whose leader is there for ever.
    #[must_use]
    pub fn of_one_leader(name: &str, leader: SocketAddr) -> Self {
        Self {
            name: name.to_owned(),
            id: TopicId::ZERO,
            bootstrap: None,
            leaders: vec![leader],
            earliest: vec![0],
            latest: vec![0],
        }
    }

    /// Takes one address for the leader of all partitions, whatever the brokers say.
    pub fn lead_all_from(&mut self, leader: SocketAddr) {
        self.leaders.fill(leader);
        self.bootstrap = None;
    }

    /// Who leads each partition now.
    pub fn leaders_now(&self) -> Result<Vec<SocketAddr>, Trouble> {
        let Some(bootstrap) = &self.bootstrap else { return Ok(self.leaders.clone()) };
        let bootstrap = Address::parse_list(bootstrap);
        let mut admin = Admin::with_config(ClusterConfig {
            bootstrap: bootstrap.map_err(|error| Trouble::usage(error.to_string()))?,
            connect_timeout: TIMEOUT_OF_LOST,
            request_timeout: TIMEOUT_OF_LOST,
            create_topics: false,
            ..ClusterConfig::default()
        })?;
        let view = admin.topic(&self.name)?;
        leaders(&mut admin, &self.name, &view)
    }
}

mod id_as_bytes {
    //! A topic's id among plain values.

    use serde::{Deserialize, Deserializer, Serialize, Serializer};
    use tidemill_client::record::TopicId;

    pub(super) fn serialize<S: Serializer>(id: &TopicId, to: S) -> Result<S::Ok, S::Error> {
        id.0.serialize(to)
    }

    pub(super) fn deserialize<'d, D: Deserializer<'d>>(from: D) -> Result<TopicId, D::Error> {
        <[u8; 16]>::deserialize(from).map(TopicId)
    }
}

/// How long a broker may take to let itself be connected to at the very beginning.
const REACHED_WITHIN: Duration = Duration::from_secs(5);

/// Whether some broker takes connections: the client would ask for half a minute, in case one
/// comes, where a person has most likely mistyped.
fn reach(bootstrap: &str) -> Result<(), Trouble> {
    let list = Address::parse_list(bootstrap);
    let list = list.map_err(|error| {
        Trouble::usage(error.to_string()).fix("name brokers as HOST:PORT, with commas between")
    })?;
    let mut causes = Vec::new();
    for Address { host, port } in &list {
        match reach_one(host, *port) {
            Ok(()) => return Ok(()),
            Err(error) => causes.push(format!("{host}:{port}: {error}")),
        }
    }
    let trouble = Trouble::new("cannot reach any broker").because(causes.join("; "));
    Err(trouble.fix("start it, or name another with --broker HOST:PORT"))
}

fn reach_one(host: &str, port: u16) -> io::Result<()> {
    let mut failed = io::Error::other("the name has no address");
    for address in (host, port).to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, REACHED_WITHIN) {
            Ok(_) => return Ok(()),
            Err(error) => failed = error,
        }
    }
    Err(failed)
}

/// Makes the topic if it is not there, waits until every partition has a leader that answers, and
/// tells where each begins and ends.
pub fn prepare(bootstrap: &str, name: &str, making: &Making) -> Result<Topic, Trouble> {
    reach(bootstrap)?;
    let mut admin = Admin::open(bootstrap)?;
    create(&mut admin, name, making)?;
    let deadline = Instant::now() + TIMEOUT;
    loop {
        match look(&mut admin, bootstrap, name) {
            Ok(topic) => return Ok(topic),
            Err(trouble) if deadline < Instant::now() => return Err(trouble),
            Err(_) => thread::sleep(Duration::from_millis(50)),
        }
    }
}

/// The topic as it is, with where each of its partitions begins and ends.
///
/// # Errors
/// If it is not there: whoever only reads does not make it.
pub fn find(bootstrap: &str, name: &str) -> Result<Topic, Trouble> {
    reach(bootstrap)?;
    look(&mut Admin::open(bootstrap)?, bootstrap, name)
}

fn create(admin: &mut Admin, name: &str, making: &Making) -> Result<(), Trouble> {
    let count = i32::try_from(making.partitions);
    let count = count.map_err(|_| Trouble::usage("so many partitions no topic has"))?;
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
        Err(error) => return Err(error.into()),
    }
    while made < count {
        made = count.min(made + PARTITIONS_AT_ONCE);
        admin.create_partitions(name, made)?;
    }
    Ok(())
}

fn look(admin: &mut Admin, bootstrap: &str, name: &str) -> Result<Topic, Trouble> {
    let view = admin.topic(name)?;
    let leaders = leaders(admin, name, &view)?;
    let partitions: Vec<i32> = (0..leaders.len() as i32).collect();
    let mut at = |start| {
        let found = admin.list_offsets(name, &partitions, start, Isolation::ReadUncommitted);
        found.map(BTreeMap::into_values).map(Iterator::collect).map_err(Trouble::from)
    };
    let (earliest, latest) = (at(Start::Earliest)?, at(Start::Latest)?);
    let (name, bootstrap) = (name.to_owned(), Some(bootstrap.to_owned()));
    Ok(Topic { name, id: view.id, bootstrap, leaders, earliest, latest })
}

fn leaders(admin: &mut Admin, name: &str, view: &TopicView) -> Result<Vec<SocketAddr>, Trouble> {
    let cluster = admin.cluster()?;
    let mut known: BTreeMap<&Address, SocketAddr> = BTreeMap::new();
    let mut leaders = Vec::with_capacity(view.partitions.len());
    for (number, partition) in view.partitions.iter().enumerate() {
        let node = partition.leader.and_then(|leader| cluster.nodes.get(&leader));
        let node = node.ok_or_else(|| {
            Trouble::new(format!("partition {number} of topic {name} has no leader"))
        })?;
        let address = match known.get(node) {
            Some(address) => *address,
            None => resolve(&format!("{}:{}", node.host, node.port))?,
        };
        known.insert(node, address);
        leaders.push(address);
    }
    if leaders.is_empty() {
        return Err(Trouble::new(format!("topic {name} has no partitions")));
    }
    Ok(leaders)
}

/// Deletes the topic; it is no error if there is none.
pub fn delete(bootstrap: &str, name: &str) -> Result<(), Trouble> {
    let mut admin = Admin::open(bootstrap)?;
    match admin.delete_topic(name) {
        Err(error) if error.kind() != ErrorKind::Refused(ErrorCode::UnknownTopicOrPartition) => {
            Err(error.into())
        }
        _ => Ok(()),
    }
}

/// Deletes groups; it is no error if one is not there. A group that somebody is still in, as a member
/// may be that was lost, is tried again until the broker has given that up.
///
/// # Errors
/// If some are left: how many, which is the first, and why. The others are deleted.
pub fn delete_groups(bootstrap: &str, groups: &[String]) -> Result<(), Trouble> {
    let mut admin = Admin::open(bootstrap)?;
    let (deadline, mut is_told) = (Instant::now() + GIVEN_UP_WITHIN, false);
    let mut left: Vec<&String> = groups.iter().collect();
    loop {
        let why;
        (left, why) = delete_each(&mut admin, &left);
        let Some(why) = why else { return Ok(()) };
        let count = counted(left.len() as u64, "group", "groups");
        let is_in_use = why.kind() == ErrorKind::Refused(ErrorCode::NonEmptyGroup);
        if !is_in_use || deadline <= Instant::now() {
            let what = format!("{count} of {} could not be deleted", groups.len());
            let fix = format!("tidemill group delete {} -b {bootstrap}", left[0]);
            let more = if left.len() == 1 { "" } else { ", and the others" };
            return Err(Trouble::new(what).because(why).fix(format!("{fix}{more}")));
        }
        if !std::mem::replace(&mut is_told, true) {
            let words = format!("{count} to be deleted when lost members are given up");
            Progress::on_stderr().step(&words);
        }
        thread::sleep(GIVEN_UP_AGAIN);
    }
}

/// Deletes groups; tells which are left, and why the first of them is.
fn delete_each<'a>(admin: &mut Admin, groups: &[&'a String]) -> (Vec<&'a String>, Option<Error>) {
    let (mut left, mut why) = (Vec::new(), None);
    for (nth, group) in groups.iter().enumerate() {
        let Err(error) = admin.delete_group(group) else { continue };
        if error.kind() == ErrorKind::Refused(ErrorCode::GroupIdNotFound) {
            continue;
        }
        let is_refused = matches!(error.kind(), ErrorKind::Refused(_));
        why.get_or_insert(error);
        if !is_refused {
            // Nobody is there to be asked about the others.
            left.extend(&groups[nth..]);
            break;
        }
        left.push(*group);
    }
    (left, why)
}

/// The first address that `name` stands for.
pub fn resolve(name: &str) -> io::Result<SocketAddr> {
    let mut addresses = name.to_socket_addrs()?;
    addresses.next().ok_or_else(|| io::Error::other(format!("{name} has no address")))
}

/// Connects for the load: no delay.
pub fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    connect_within(address, TIMEOUT)
}

/// Connects again to a broker that was lost.
pub fn connect_again(address: SocketAddr) -> io::Result<TcpStream> {
    connect_within(address, TIMEOUT_OF_LOST)
}

fn connect_within(address: SocketAddr, timeout: Duration) -> io::Result<TcpStream> {
    let told = |error| io::Error::other(format!("cannot connect to {address}: {error}"));
    let stream = TcpStream::connect_timeout(&address, timeout).map_err(told)?;
    stream.set_nodelay(true)?;
    Ok(stream)
}
