//! The node: starts one shard per core, tells when it serves, stops it in order.
//!
//! Listeners are bound before anything else happens, so that a busy port is told at once; clients
//! are accepted only when every shard serves. The thread that calls [`run`] does nothing but wait.

use std::fs::File;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use tidemill_perf::document::NodeLabel;
use tidemill_record::NodeId;
use tidemill_runtime::edge::{ListenerId, ShardId};
use tidemill_runtime::ring::RingConfig;
use tidemill_runtime::shard::{Handle, ShardPlan, run_shards};
use tidemill_runtime::socket::{Listener, free_address, listen, listen_alone};
use tidemill_runtime::topology;

use crate::admin::Admin;
use crate::admin::pages::{Life, LifeCell, Pages, unix_ms};
use crate::admin::shards::Shards;
use crate::background::BackgroundExecutor;
use crate::config::{Config, Routing};
use crate::limits::MESH_MESSAGES_MAX;
use crate::message::Message;
use crate::placement::Endpoints;
use crate::shard::{Notice, Settings, Shard};
use crate::startup::StartError;
use crate::stop;

/// How far the ports of the shards' own endpoints lie above the node's.
const SHARD_PORT_DISTANCE: u16 = 1000;

/// How long a start waits for ports that are still taken: see [`wait_for_ports`].
const PORTS_WITHIN: Duration = Duration::from_secs(1);

/// How often it looks.
const PORTS_EVERY: Duration = Duration::from_millis(2);

/// Why the node did not run.
#[derive(Debug)]
pub enum NodeError {
    /// An address cannot be listened on.
    Listen {
        /// Which.
        address: SocketAddr,
        /// Why.
        error: io::Error,
    },
    /// The shards' rings or threads cannot be made.
    Shards(io::Error),
    /// No randomness for the node's ids.
    Random(io::Error),
    /// What is on disk cannot be served.
    Start(StartError),
}

impl std::fmt::Display for NodeError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Listen { address, error } => write!(f, "cannot listen on {address}: {error}"),
            Self::Shards(error) => write!(f, "cannot start the shards: {error}"),
            Self::Random(error) => write!(f, "cannot read random bytes: {error}"),
            Self::Start(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for NodeError {}

/// What a node that serves tells of itself.
#[derive(Clone, Debug)]
pub struct Ready {
    /// The address clients connect to first.
    pub address: SocketAddr,
    /// How many shards there are.
    pub shards: u16,
    /// How clients are led to partitions.
    pub routing: Routing,
    /// Where the admin port is, if there is one.
    pub admin: Option<SocketAddr>,
}

/// Waits a moment while any of this node's ports is taken.
///
/// The kernel takes a ring apart in the background: the listeners of a broker that was killed stay
/// open for some milliseconds after the process is gone. Whoever starts the next one at once would
/// be refused, or would be led by node for as long as it runs. A port that stays taken is somebody
/// else's, and is told as such by those who bind it.
pub fn wait_for_ports(config: &Config) {
    let own = shard_addresses(config);
    let addresses: Vec<SocketAddr> = std::iter::once(config.listen).chain(own).collect();
    let deadline = Instant::now() + PORTS_WITHIN;
    while addresses.iter().any(|&address| is_taken(address)) && Instant::now() < deadline {
        std::thread::sleep(PORTS_EVERY);
    }
}

/// Where the shards' own endpoints would be, with this configuration on this machine.
#[must_use]
pub fn shard_addresses(config: &Config) -> Vec<SocketAddr> {
    let shards = shards_count(config, topology::cores().len());
    let ports = shard_ports(config, config.listen, shards).unwrap_or_default();
    ports.into_iter().map(|port| SocketAddr::new(config.listen.ip(), port)).collect()
}

fn is_taken(address: SocketAddr) -> bool {
    free_address(address).is_err_and(|error| error.kind() == io::ErrorKind::AddrInUse)
}

fn shards_count(config: &Config, cores: usize) -> u16 {
    config.shards.unwrap_or_else(|| u16::try_from(cores).unwrap_or(1).max(1))
}

/// Runs a node until it is asked to stop ([`stop`]). `ready` is called when clients are served.
///
/// `lock` is the lock on the data directory; every ring holds it for as long as it may still write.
pub fn run(config: Config, lock: Arc<File>, ready: impl FnOnce(&Ready)) -> Result<(), NodeError> {
    let cores = topology::cores();
    let shards = shards_count(&config, cores.len());
    let bootstrap = listen(config.listen, usize::from(shards))
        .map_err(|error| NodeError::Listen { address: config.listen, error })?;
    let address = bootstrap[0].address();
    let own = shard_listeners(&config, address, shards);
    let endpoints = endpoints(&config, address, &own);
    let routing = endpoints.routing();
    warn_of_unreachable(&config, address);
    let admin = admin_listener(&config);
    let seed = random_seed().map_err(NodeError::Random)?;
    let settings = Arc::new(Settings::new(config, shards, endpoints, seed));

    let (notices, notified) = channel();
    let handle =
        start(&settings, &cores, lock, bootstrap, own, &notices).map_err(NodeError::Shards)?;
    let life = LifeCell::default();
    let admin = admin.and_then(|listener| serve_admin(listener, &settings, &handle, &life));
    let outcome = match first(&notified) {
        Notice::Serving { cluster } => {
            life.set(Life::Serving);
            let admin = admin.as_ref().map(Admin::address);
            tell_serving(&settings, &cluster, address, admin);
            ready(&Ready { address, shards, routing, admin });
            stop::wait();
            life.set(Life::Stopping);
            pass_on_stop(&handle);
            Ok(())
        }
        Notice::Failed(error) => Err(NodeError::Start(error)),
        Notice::Stopped => Ok(()),
    };
    handle.join();
    outcome
}

fn start(
    settings: &Arc<Settings>,
    cores: &[usize],
    lock: Arc<File>,
    bootstrap: Vec<Listener>,
    own: Vec<Listener>,
    notices: &Sender<Notice>,
) -> io::Result<Handle<Message>> {
    let mut own = own.into_iter();
    let plans = bootstrap.into_iter().enumerate().map(|(number, listener)| {
        let listeners: Vec<Listener> = [Some(listener), own.next()].into_iter().flatten().collect();
        let ids = (0..listeners.len() as u32).map(ListenerId).collect();
        let settings = Arc::clone(settings);
        let notices = notices.clone();
        let make = move |id: ShardId| {
            // Whoever started the node may be gone; then there is nobody to tell.
            let notify = Box::new(move |notice| drop(notices.send(notice)));
            Shard::new(settings, id, ids, notify)
        };
        ShardPlan { core: cores.get(number).copied(), listeners, make }
    });
    let root = settings.config.data_dir.clone();
    let config = RingConfig {
        mesh_messages: MESH_MESSAGES_MAX,
        keep_open: Some(lock),
        ..RingConfig::new(root)
    };
    let background = BackgroundExecutor::new(settings.config.data_dir.clone());
    run_shards(&config, plans.collect(), background)
}

/// The listeners of the shards' own endpoints; none if clients are led by node.
///
/// A port that is taken is no reason not to start: clients then go by the node's address, and
/// requests for other shards' partitions cross the mesh.
fn shard_listeners(config: &Config, address: SocketAddr, shards: u16) -> Vec<Listener> {
    if config.routing == Routing::Owner && is_mapped(config, address) {
        tracing::info!(
            "advertised.listeners names another port than listeners: routing by node. For routing \
             by owner, map the shards' ports too, one to one, and set tidemill.shard.port"
        );
    }
    let Some(ports) = shard_ports(config, address, shards) else {
        tracing::warn!(
            shards,
            "the shards' ports would lie beyond 65535: routing by node; see tidemill.shard.port"
        );
        return Vec::new();
    };
    let mut listeners = Vec::new();
    for port in ports {
        match listen_alone(SocketAddr::new(address.ip(), port)) {
            Ok(listener) => listeners.push(listener),
            Err(error) => {
                tracing::warn!(port, %error, "a shard's port cannot be had: routing by node");
                return Vec::new();
            }
        }
    }
    listeners
}

/// The ports of the shards' own endpoints; `None` if they would lie beyond the last port.
///
/// A single shard has one as well, though it is told to nobody: a client that knows this node by
/// the endpoint of its first shard, from a start with more of them, must still find it there.
fn shard_ports(config: &Config, address: SocketAddr, shards: u16) -> Option<Vec<u16>> {
    if config.routing == Routing::Node || is_mapped(config, address) {
        return Some(Vec::new());
    }
    let base = config.shard_port.or_else(|| address.port().checked_add(SHARD_PORT_DISTANCE))?;
    (0..shards).map(|shard| base.checked_add(shard)).collect()
}

/// Whether clients come by another port than the one listened on, and nobody has said by which ones
/// they come to the shards.
fn is_mapped(config: &Config, address: SocketAddr) -> bool {
    let advertised = config.advertised.as_ref();
    config.shard_port.is_none() && advertised.is_some_and(|told| told.port != address.port())
}

fn endpoints(config: &Config, address: SocketAddr, own: &[Listener]) -> Endpoints {
    let (host, port) = match &config.advertised {
        Some(advertised) => (advertised.host.clone(), advertised.port),
        None => (reachable(address.ip()).to_string(), address.port()),
    };
    // With a single shard there is nothing to choose between: clients go by the node's address.
    let told = if own.len() < 2 { &[] } else { own };
    Endpoints {
        node: NodeId(config.node_id),
        host,
        port,
        shard_ports: told.iter().map(|listener| listener.address().port()).collect(),
        rack: config.rack.clone(),
    }
}

/// An address clients can use: one that means "all addresses" is told as the loopback's.
fn reachable(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    }
}

/// Whoever listens everywhere wants clients from elsewhere, and those cannot use what they are told.
fn warn_of_unreachable(config: &Config, address: SocketAddr) {
    if config.advertised.is_none() && address.ip().is_unspecified() {
        let told = SocketAddr::new(reachable(address.ip()), address.port());
        tracing::warn!(
            "clients are told to connect to {told}, which those on other machines cannot reach: \
             set advertised.listeners=HOST:PORT"
        );
    }
}

/// One line with all that somebody who reads an old log wants to know of the start.
fn tell_serving(
    settings: &Settings,
    cluster: &str,
    address: SocketAddr,
    admin: Option<SocketAddr>,
) {
    let config = &settings.config;
    let data_dir =
        std::path::absolute(&config.data_dir).unwrap_or_else(|_| config.data_dir.clone());
    let advertised = format!("{}:{}", settings.endpoints.host, settings.endpoints.port);
    let file = config.file().map_or_else(|| "none".to_owned(), |path| path.display().to_string());
    let ports = &settings.endpoints.shard_ports;
    let shard_ports = match (ports.first(), ports.last()) {
        (Some(first), Some(last)) => format!("{first}-{last}"),
        _ => "none".to_owned(),
    };
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        node = config.node_id,
        cluster,
        data_dir = %data_dir.display(),
        listening = %address,
        advertised,
        shards = settings.shards,
        shard_ports,
        admin = %admin.map_or_else(|| "none".to_owned(), |address| address.to_string()),
        config = file,
        "serving"
    );
}

fn first(notified: &Receiver<Notice>) -> Notice {
    notified.recv().expect("a shard holds the other end for as long as it runs")
}

/// Passes the request to stop on to shard 0.
fn pass_on_stop(handle: &Handle<Message>) {
    tracing::info!("stopping");
    // Nothing else is posted from outside but a few questions.
    handle.post(ShardId(0), Message::Stop).expect("the inbox of shard 0 has room");
}

/// The listener of the admin port, if one is wanted and can be had: a broker is no worse without.
fn admin_listener(config: &Config) -> Option<TcpListener> {
    let address = config.admin?;
    TcpListener::bind(address)
        .inspect_err(|error| {
            tracing::warn!(%address, %error, "no admin port; see tidemill.admin.listener");
        })
        .ok()
}

fn serve_admin(
    listener: TcpListener,
    settings: &Settings,
    handle: &Handle<Message>,
    life: &LifeCell,
) -> Option<Admin> {
    let node = NodeLabel {
        id: settings.config.node_id,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        pid: std::process::id(),
    };
    let pages = Pages {
        node,
        started_unix_ms: unix_ms(),
        shards: Shards::new(handle.poster()),
        life: life.clone(),
    };
    let served = Admin::start(listener, pages);
    served.inspect_err(|error| tracing::warn!(%error, "the admin port cannot be served")).ok()
}

fn random_seed() -> io::Result<u128> {
    use std::io::Read;
    let mut bytes = [0; 16];
    std::fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(u128::from_be_bytes(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Endpoint;
    use std::sync::mpsc;

    /// The bug: after a start with one shard instead of two, a client that knew the node by the
    /// endpoint of its first shard never found it again.
    #[test]
    fn a_single_shard_still_listens_where_the_first_of_many_did() {
        let mut config = Config::of_defaults();
        config.shards = Some(1);
        let of = |shards| shard_ports(&config, config.listen, shards).unwrap();
        assert_eq!(of(1)[..], of(2)[..1]);
        let address = "127.0.0.1:0".parse().unwrap();
        let own = vec![listen_alone(address).unwrap()];
        let endpoints = endpoints(&config, config.listen, &own);
        assert_eq!(endpoints.routing(), Routing::Node, "it is told to nobody");
    }

    /// A shard's endpoint lies above the node's, or where the setting says, or nowhere.
    #[test]
    fn a_port_of_a_shard_is_a_port_or_nothing() {
        let mut config = Config::of_defaults();
        let of = |config: &Config, port| {
            shard_ports(config, SocketAddr::new(config.listen.ip(), port), 2)
        };
        assert_eq!(of(&config, 9092), Some(vec![10_092, 10_093]));
        assert_eq!(of(&config, 65_000), None);
        config.shard_port = Some(7000);
        assert_eq!(of(&config, 65_000), Some(vec![7000, 7001]));
        config.routing = Routing::Node;
        assert_eq!(of(&config, 9092), Some(Vec::new()));
    }

    /// The bug: with another port advertised than listened on, as behind NAT, clients were sent to
    /// ports of shards that nobody had mapped.
    #[test]
    fn behind_a_mapped_port_clients_go_by_the_node() {
        let mut config = Config::of_defaults();
        let of = |config: &Config| shard_ports(config, config.listen, 2);
        let advertise = |port| Some(Endpoint { host: "broker-1".to_owned(), port });
        config.advertised = advertise(9092);
        assert_eq!(of(&config), Some(vec![10_092, 10_093]), "the port is the same");
        config.advertised = advertise(39_092);
        assert_eq!(of(&config), Some(Vec::new()));
        config.shard_port = Some(40_000);
        assert_eq!(of(&config), Some(vec![40_000, 40_001]), "somebody has said which are mapped");
    }

    /// The bug: a broker started right after another was killed found its ports taken, and did not
    /// start, or led clients by node from then on.
    #[test]
    fn a_port_that_a_killed_broker_still_holds_is_waited_for() {
        let held = listen("127.0.0.1:0".parse().unwrap(), 1).unwrap();
        let address = held[0].address();
        let mut config = Config::of_defaults();
        config.listen = address;
        config.shards = Some(1);
        let (waiting, begun) = mpsc::channel();
        let kernel = std::thread::spawn(move || {
            begun.recv().unwrap();
            drop(held);
        });
        assert!(is_taken(address));
        waiting.send(()).unwrap();
        wait_for_ports(&config);
        assert!(!is_taken(address));
        kernel.join().unwrap();
    }
}
