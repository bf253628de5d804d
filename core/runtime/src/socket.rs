//! Listening sockets, made before the shards start.
//!
//! A port that all shards share is opened once per shard with SO_REUSEPORT: the kernel spreads
//! the connections, and no lock is shared. Because that option would also let a second process
//! of the same user take part, the port is first bound without it, which tells whether anybody
//! else is there. TCP_NODELAY is set on the listener: accepted sockets inherit it.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use socket2::{Domain, Protocol, SockAddr, Socket, Type};

/// How many connections may wait to be accepted; the kernel caps it at `net.core.somaxconn`.
const BACKLOG: i32 = 4096;

/// A listening socket for one shard.
#[derive(Debug)]
pub struct Listener {
    socket: OwnedFd,
    address: SocketAddr,
}

impl Listener {
    /// Where it listens, with the port the kernel chose if none was asked for.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

/// Listens at `address` with one socket for each of `shards` shards. Port 0 lets the kernel
/// choose one port for all of them.
///
/// # Errors
/// If the address is taken, not ours, or not allowed.
pub fn listen(address: SocketAddr, shards: usize) -> io::Result<Vec<Listener>> {
    assert!(shards != 0, "a node has at least one shard");
    let address = free_address(address)?;
    (0..shards)
        .map(|_| {
            let socket = new_socket(address)?;
            socket.set_reuse_port(true)?;
            start_listening(socket, address)
        })
        .collect()
}

/// Listens at `address` with a single socket: the endpoint of one shard.
///
/// # Errors
/// If the address is taken, not ours, or not allowed.
pub fn listen_alone(address: SocketAddr) -> io::Result<Listener> {
    start_listening(new_socket(address)?, address)
}

/// `address` with its port decided, if nobody else listens there now.
///
/// # Errors
/// As [`listen`].
pub fn free_address(address: SocketAddr) -> io::Result<SocketAddr> {
    let probe = new_socket(address)?;
    probe.bind(&SockAddr::from(address))?;
    // Two sockets may be bound to one port as long as neither listens.
    probe.listen(1)?;
    local_address(&probe)
}

fn new_socket(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // Connections of an earlier run that are still winding down do not matter.
    socket.set_reuse_address(true)?;
    Ok(socket)
}

fn start_listening(socket: Socket, address: SocketAddr) -> io::Result<Listener> {
    socket.set_tcp_nodelay(true)?;
    socket.bind(&SockAddr::from(address))?;
    socket.listen(BACKLOG)?;
    let address = local_address(&socket)?;
    Ok(Listener { socket: socket.into(), address })
}

fn local_address(socket: &Socket) -> io::Result<SocketAddr> {
    let address = socket.local_addr()?;
    address.as_socket().ok_or_else(|| io::Error::from(io::ErrorKind::Unsupported))
}

/// Who is at the other end of a connected socket.
pub(crate) fn peer_address(socket: RawFd) -> io::Result<SocketAddr> {
    // SAFETY: the kernel writes at most the length it is given into the storage it is given, and
    // reports how much; `try_init` uses no more than that.
    let outcome = unsafe {
        SockAddr::try_init(|storage, size| {
            if libc::getpeername(socket, storage.cast(), size) == 0 {
                Ok(())
            } else {
                Err(io::Error::last_os_error())
            }
        })
    };
    let ((), address) = outcome?;
    address.as_socket().ok_or_else(|| io::Error::from(io::ErrorKind::Unsupported))
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use std::net::TcpStream;

    use super::*;

    fn any_port() -> SocketAddr {
        "127.0.0.1:0".parse().expect("an address")
    }

    #[test]
    fn all_shards_listen_at_one_port() {
        let listeners = listen(any_port(), 3).expect("a free port");
        assert_eq!(listeners.len(), 3);
        let address = listeners[0].address();
        assert_ne!(address.port(), 0);
        assert!(listeners.iter().all(|listener| listener.address() == address));
        TcpStream::connect(address).expect("somebody listens");
    }

    #[test]
    fn a_port_taken_by_anybody_is_refused() {
        let listeners = listen(any_port(), 1).expect("a free port");
        let address = listeners[0].address();
        let again = listen(address, 1).expect_err("taken, though both share ports");
        assert_eq!(again.kind(), io::ErrorKind::AddrInUse);
        let alone = listen_alone(address).expect_err("taken");
        assert_eq!(alone.kind(), io::ErrorKind::AddrInUse);
    }
}
