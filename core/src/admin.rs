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
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
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

/// What a client that was refused may still send before it is cut off, and for how long.
const IGNORED_BYTES_MAX: usize = 64 * 1024;
const IGNORE_WITHIN: Duration = Duration::from_secs(5);

/// The served admin port. Dropped, it takes no more connections.
#[derive(Debug)]
pub struct Admin {
    address: SocketAddr,
    over: Arc<AtomicBool>,
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
        thread::Builder::new().name("tidemill-admin".to_owned()).spawn(body)?;
        Ok(Self { address, over })
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
        // Wakes the thread. Whatever still waits for slow clients goes with the process.
        let _ = TcpStream::connect_timeout(&self.address, STEP);
    }
}

fn accept(listener: &TcpListener, pages: &Arc<Pages>, over: &AtomicBool) {
    let places = Arc::new(Places::default());
    loop {
        let taken = listener.accept();
        if over.load(Ordering::Acquire) {
            return;
        }
        let Ok((stream, _)) = taken else {
            thread::sleep(PAUSE);
            continue;
        };
        let place = Places::take(&places);
        let pages = Arc::clone(pages);
        let body = move || {
            // Whatever becomes of it: the client is gone, or is told.
            let _ = serve(stream, &pages);
            drop(place);
        };
        let _ = thread::Builder::new().name("tidemill-admin-1".to_owned()).spawn(body);
    }
}

/// How many connections are served. Further ones wait, at the latest until those have run out of
/// time.
#[derive(Debug, Default)]
struct Places {
    taken: Mutex<usize>,
    given_back: Condvar,
}

/// The place of one connection.
struct Place(Arc<Places>);

impl Places {
    fn take(places: &Arc<Self>) -> Place {
        // A number is whole whoever panicked while holding the lock.
        let taken = places.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let full = |taken: &mut usize| ADMIN_CONNECTIONS_MAX <= *taken;
        let taken = places.given_back.wait_while(taken, full);
        *taken.unwrap_or_else(PoisonError::into_inner) += 1;
        Place(Arc::clone(places))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        *self.0.taken.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
        self.0.given_back.notify_one();
    }
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
    if refused {
        stream.shutdown(std::net::Shutdown::Write)?;
        let answered = Instant::now();
        wait_for_end(&mut stream, || IGNORE_WITHIN <= answered.elapsed())?;
    }
    Ok(())
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
/// kernel would throw the answer away. Bounded in bytes and in time.
fn wait_for_end(stream: &mut impl Read, is_over: impl Fn() -> bool) -> io::Result<()> {
    let mut ignored = 0;
    let mut bytes = [0; 4096];
    while ignored < IGNORED_BYTES_MAX && !is_over() {
        match stream.read(&mut bytes)? {
            0 => break,
            received => ignored += received,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    /// A client that was refused and went on sending, a byte now and then, kept its place for
    /// hours; as many of those as there are places, and nobody else was served.
    #[test]
    fn a_refused_client_that_goes_on_sending_is_cut_off() {
        let seconds = Cell::new(0);
        let is_over = || {
            seconds.set(seconds.get() + 1);
            5 <= seconds.get()
        };
        struct Dripping(usize);
        impl Read for Dripping {
            fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
                self.0 += 1;
                Ok(usize::from(!bytes.is_empty()))
            }
        }
        let mut client = Dripping(0);
        wait_for_end(&mut client, is_over).expect("nothing failed");
        assert_eq!(client.0, 4, "until the time was over");

        wait_for_end(&mut io::repeat(7), || false).expect("until there were enough bytes");
        wait_for_end(&mut io::empty(), || false).expect("until its end");
    }
}
