//! Sockets for a [`Cluster`]: the standard library's, without blocking, waited for with poll.
//!
//! One turn: carry out what the cluster asks for and write what it has to send
//! ([`Driver::prepare`]), sleep until a socket can go on or time has come ([`Driver::wait`]), read
//! and tell ([`Driver::carry_on`]). Only `wait` sleeps, and it does not need the cluster: who
//! shares it between threads lets go of it there.
//!
//! Names are resolved by the system, which may take its time over it.

use std::collections::hash_map::RandomState;
use std::collections::{BTreeMap, VecDeque};
use std::hash::{BuildHasher, Hasher};
use std::io::{self, ErrorKind, IoSlice, Read, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use bytes::{Buf, Bytes};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use socket2::{Domain, Protocol, Socket, Type};

use crate::cluster::{Action, Address, Cluster, LineId};
use crate::time::Instant;

/// How many slices one write takes along.
const SLICES_MAX: usize = 64;

/// How much is read from one socket before the others have their turn.
const READ_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Sockets, by the lines they belong to.
#[derive(Debug)]
pub(crate) struct Driver {
    start: std::time::Instant,
    sockets: BTreeMap<LineId, Link>,
    parts: Vec<Bytes>,
}

#[derive(Debug)]
struct Link {
    stream: TcpStream,
    /// Not yet connected; where else to try.
    connecting: Option<VecDeque<SocketAddr>>,
    unsent: VecDeque<Bytes>,
}

/// What [`Driver::wait`] found.
#[derive(Debug, Default)]
pub(crate) struct Woken {
    lines: Vec<LineId>,
    /// Whether the file that wakes was ready.
    pub(crate) by_bell: bool,
}

impl Driver {
    pub(crate) fn new() -> Driver {
        Driver { start: std::time::Instant::now(), sockets: BTreeMap::new(), parts: Vec::new() }
    }

    /// What its moments count from.
    pub(crate) fn start(&self) -> std::time::Instant {
        self.start
    }

    /// The moment it is.
    pub(crate) fn now(&self) -> Instant {
        Instant::default().plus(self.start.elapsed())
    }

    /// A whole turn: until something was heard, but not beyond `until`.
    pub(crate) fn turn<A>(&mut self, cluster: &mut Cluster<A>, until: Instant) {
        self.prepare(cluster);
        let until = cluster.next_deadline().map_or(until, |next| next.min(until));
        let woken = self.wait(Some(until), None);
        self.carry_on(cluster, &woken);
    }

    /// Connects, disconnects and writes.
    pub(crate) fn prepare<A>(&mut self, cluster: &mut Cluster<A>) {
        let now = self.now();
        while let Some(action) = cluster.poll_action() {
            match action {
                Action::Connect(line, address) => match resolve(&address).and_then(connect) {
                    Ok(link) => {
                        self.sockets.insert(line, link);
                    }
                    Err(error) => cluster.handle_closed(line, error, now),
                },
                Action::Disconnect(line) => {
                    self.sockets.remove(&line);
                }
            }
        }
        for (line, link) in &mut self.sockets {
            cluster.take_output(*line, &mut self.parts);
            link.unsent.extend(self.parts.drain(..));
            if let Err(error) = link.write() {
                cluster.handle_closed(*line, error, now);
            }
        }
    }

    /// Sleeps until a socket, or `bell`, can go on, or `until` has come.
    pub(crate) fn wait(&mut self, until: Option<Instant>, bell: Option<BorrowedFd<'_>>) -> Woken {
        let mut woken = Woken::default();
        let mut waiting: Vec<PollFd<'_>> = Vec::with_capacity(self.sockets.len() + 1);
        for link in self.sockets.values() {
            let mut flags = PollFlags::IN;
            flags.set(PollFlags::OUT, link.connecting.is_some() || !link.unsent.is_empty());
            waiting.push(PollFd::from_borrowed_fd(link.stream.as_fd(), flags));
        }
        if let Some(bell) = bell {
            waiting.push(PollFd::from_borrowed_fd(bell, PollFlags::IN));
        }
        let timeout = until.map(|until| timespec(until.since(self.now())));
        // Interrupted by a signal, or out of memory for a moment: nothing is ready.
        let ready = poll(&mut waiting, timeout.as_ref()).unwrap_or(0);
        if ready == 0 {
            return woken;
        }
        let mut lines = self.sockets.keys();
        for waited in &waiting {
            let line = lines.next();
            if waited.revents().is_empty() {
                continue;
            }
            match line {
                Some(line) => woken.lines.push(*line),
                None => woken.by_bell = true,
            }
        }
        woken
    }

    /// Reads what has arrived and tells the cluster, also that time has passed.
    pub(crate) fn carry_on<A>(&mut self, cluster: &mut Cluster<A>, woken: &Woken) {
        let now = self.now();
        for line in &woken.lines {
            let Some(link) = self.sockets.get_mut(line) else { continue };
            if link.connecting.is_some() {
                match link.finish_connecting() {
                    Ok(true) => cluster.handle_connected(*line, now),
                    Ok(false) => {}
                    Err(error) => cluster.handle_closed(*line, error, now),
                }
            } else if let Err(error) = link.read(*line, cluster, now) {
                cluster.handle_closed(*line, error, now);
            }
        }
        cluster.tick(now);
    }
}

/// A seed that nobody chose.
pub(crate) fn seed() -> u64 {
    RandomState::new().build_hasher().finish()
}

/// What poll waits for at most; rounded up by it, never down.
fn timespec(duration: Duration) -> Timespec {
    Timespec {
        tv_sec: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: duration.subsec_nanos().into(),
    }
}

fn resolve(address: &Address) -> io::Result<VecDeque<SocketAddr>> {
    Ok((&*address.host, address.port).to_socket_addrs()?.collect())
}

/// Begins to connect to the first of the addresses that can be tried.
fn connect(mut candidates: VecDeque<SocketAddr>) -> io::Result<Link> {
    let mut failure = io::Error::new(ErrorKind::NotFound, "the name has no address");
    while let Some(candidate) = candidates.pop_front() {
        match begin(candidate) {
            Ok(stream) => {
                return Ok(Link { stream, connecting: Some(candidates), unsent: VecDeque::new() });
            }
            Err(error) => failure = error,
        }
    }
    Err(failure)
}

fn begin(address: SocketAddr) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    socket.set_tcp_nodelay(true)?;
    match socket.connect(&address.into()) {
        Ok(()) => {}
        Err(error) if error.raw_os_error() == Some(IN_PROGRESS) => {}
        Err(error) => return Err(error),
    }
    Ok(socket.into())
}

/// What a connect says that is under way.
const IN_PROGRESS: i32 = rustix::io::Errno::INPROGRESS.raw_os_error();

impl Link {
    /// The socket says that connecting has ended, or may have.
    fn finish_connecting(&mut self) -> io::Result<bool> {
        let failure = match self.stream.take_error()? {
            Some(error) => error,
            None => match self.stream.peer_addr() {
                Ok(_) => {
                    self.connecting = None;
                    return Ok(true);
                }
                Err(error) if error.kind() == ErrorKind::NotConnected => return Ok(false),
                Err(error) => error,
            },
        };
        let others = self.connecting.take().unwrap_or_default();
        if others.is_empty() {
            return Err(failure);
        }
        *self = connect(others)?;
        Ok(false)
    }

    fn write(&mut self) -> io::Result<()> {
        while self.connecting.is_none() && !self.unsent.is_empty() {
            let mut slices = [IoSlice::new(&[]); SLICES_MAX];
            let mut count = 0;
            for (slice, part) in slices.iter_mut().zip(&self.unsent) {
                *slice = IoSlice::new(part);
                count += 1;
            }
            match self.stream.write_vectored(&slices[..count]) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(written) => self.forget_sent(written),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn forget_sent(&mut self, mut written: usize) {
        while let Some(first) = self.unsent.front_mut() {
            if written < first.len() {
                return first.advance(written);
            }
            written -= first.len();
            self.unsent.pop_front();
        }
    }

    fn read<A>(&mut self, line: LineId, cluster: &mut Cluster<A>, now: Instant) -> io::Result<()> {
        let mut left = READ_BYTES_MAX;
        while 0 < left {
            let mut input = cluster.take_input(line);
            let held = input.len();
            input.resize(input.capacity(), 0);
            let room = input.len() - held;
            let read = self.stream.read(&mut input[held..]);
            input.truncate(held + *read.as_ref().unwrap_or(&0));
            cluster.handle_input(line, input, now);
            match read {
                // The line may have ended over what it read: then there is no room any more.
                Ok(0) if room == 0 => return Ok(()),
                Ok(0) => return Err(io::Error::other("the broker closed the connection")),
                // A short read has emptied the socket.
                Ok(read) if read < room => return Ok(()),
                Ok(read) => left = left.saturating_sub(read),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}
