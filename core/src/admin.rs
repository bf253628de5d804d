//! The admin port: what the broker tells of itself over HTTP, to people, scripts and Prometheus.
//!
//! It is served by threads of its own, never by a shard: a shard is asked by message for copies of
//! its counts ([`crate::measure`]), some ten microseconds of its time, and everything else (merging,
//! deflating, JSON) happens here. What a client can make it do is bounded: so many connections at a
//! time, one request each, of bounded size and within bounded time; so many open questions per
//! shard. A client that is slow holds up itself.
//!
//! There is no authentication, and nothing here changes anything.
//!
//! Start reading at [`Admin::start`], then [`pages`].

pub mod alerts;
pub mod dashboard;
pub mod metrics;
pub mod pages;
pub mod shards;

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use tidemill_net::http::{Method, RequestReader, Response, Status};

use crate::limits::ADMIN_CONNECTIONS_MAX;
use pages::Pages;

/// How long a request may take to arrive.
const RECEIVE_WITHIN: Duration = Duration::from_secs(5);

/// How long the answer may take to be taken.
const SEND_WITHIN: Duration = Duration::from_secs(30);

/// The longest a single read or write waits, so that the limits above are seen.
const STEP: Duration = Duration::from_secs(1);

/// How long to pause when no connection can be taken: too many files are open, say.
const PAUSE: Duration = Duration::from_millis(100);

/// How much of an answer is written at once.
const PIECE_BYTES: usize = 64 * 1024;

/// What a client that was refused may still send before it is cut off.
const IGNORED_BYTES_MAX: usize = 64 * 1024;

/// The served admin port. Dropped, it takes no more connections.
#[derive(Debug)]
pub struct Admin {
    address: SocketAddr,
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Admin {
    /// Serves these pages to whoever connects to `listener`.
    ///
    /// # Errors
    /// If there is no thread to be had.
    pub fn start(listener: TcpListener, pages: Pages) -> io::Result<Self> {
        let address = listener.local_addr()?;
        let over = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&over);
        let body = move || accept(&listener, &Arc::new(pages), &seen);
        let thread = Some(thread::Builder::new().name("tidemill-admin".to_owned()).spawn(body)?);
        Ok(Self { address, over, thread })
    }

    /// Where it is served.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Admin {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Release);
        // Wakes the thread. If that fails it goes with the process.
        let woken = TcpStream::connect_timeout(&self.address, STEP);
        if let (Ok(_), Some(thread)) = (woken, self.thread.take()) {
            let _ = thread.join();
        }
    }
}

fn accept(listener: &TcpListener, pages: &Arc<Pages>, over: &AtomicBool) {
    let open = Arc::new(AtomicUsize::new(0));
    loop {
        let taken = listener.accept();
        if over.load(Ordering::Acquire) {
            return;
        }
        let Ok((stream, _)) = taken else {
            thread::sleep(PAUSE);
            continue;
        };
        let place = Place::take(&open);
        if ADMIN_CONNECTIONS_MAX < place.number {
            refuse(stream);
            continue;
        }
        let pages = Arc::clone(pages);
        let body = move || {
            // Whatever becomes of it: the client is gone, or is told.
            let _ = serve(stream, &pages);
            drop(place);
        };
        let _ = thread::Builder::new().name("tidemill-admin-1".to_owned()).spawn(body);
    }
}

/// One of the connections that are open.
struct Place {
    open: Arc<AtomicUsize>,
    number: usize,
}

impl Place {
    fn take(open: &Arc<AtomicUsize>) -> Self {
        let number = open.fetch_add(1, Ordering::Relaxed) + 1;
        Self { open: Arc::clone(open), number }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Says that there are too many, without waiting for anything.
fn refuse(mut stream: TcpStream) {
    let answer = Response::text(Status::UNAVAILABLE, "too many admin connections at a time");
    let _ = stream.set_nonblocking(true);
    let _ = stream.write_all(answer.head().as_bytes());
    let _ = stream.write_all(&answer.body);
}

fn serve(mut stream: TcpStream, pages: &Pages) -> io::Result<()> {
    stream.set_read_timeout(Some(STEP))?;
    stream.set_write_timeout(Some(STEP))?;
    let mut reader = RequestReader::default();
    let mut bytes = [0; 4096];
    let begun = Instant::now();
    let (method, response) = loop {
        if RECEIVE_WITHIN <= begun.elapsed() {
            let late = Response::text(Status::REQUEST_TIMEOUT, "the request did not come in time");
            break (Method::Get, late);
        }
        let received = match stream.read(&mut bytes) {
            Ok(0) => return Ok(()),
            Ok(received) => received,
            Err(error) if is_too_early(&error) => continue,
            Err(error) => return Err(error),
        };
        match reader.handle_bytes(&bytes[..received]) {
            Ok(None) => {}
            Ok(Some(request)) => break (request.method, pages.answer(&request)),
            Err(refusal) => {
                break (Method::Get, Response::text(refusal.status(), &refusal.to_string()));
            }
        }
    };
    send(&mut stream, response.head().as_bytes())?;
    if method == Method::Get {
        send(&mut stream, &response.body)?;
    }
    let refused = response.status != Status::OK;
    if refused { wait_for_end(&mut stream) } else { Ok(()) }
}

fn is_too_early(error: &io::Error) -> bool {
    use io::ErrorKind::{Interrupted, TimedOut, WouldBlock};
    matches!(error.kind(), WouldBlock | TimedOut | Interrupted)
}

fn send(stream: &mut TcpStream, bytes: &[u8]) -> io::Result<()> {
    let begun = Instant::now();
    let mut left = bytes;
    while !left.is_empty() {
        match stream.write(&left[..left.len().min(PIECE_BYTES)]) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => left = &left[written..],
            Err(error) if is_too_early(&error) => {}
            Err(error) => return Err(error),
        }
        if SEND_WITHIN <= begun.elapsed() && !left.is_empty() {
            return Err(io::ErrorKind::TimedOut.into());
        }
    }
    Ok(())
}

/// Lets a client that is still sending read why it was refused: closed with bytes unread, the
/// kernel would throw the answer away.
fn wait_for_end(stream: &mut TcpStream) -> io::Result<()> {
    stream.shutdown(std::net::Shutdown::Write)?;
    let mut ignored = 0;
    let mut bytes = [0; 4096];
    while ignored < IGNORED_BYTES_MAX {
        match stream.read(&mut bytes)? {
            0 => break,
            received => ignored += received,
        }
    }
    Ok(())
}
