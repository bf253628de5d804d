//! A connection for one question after the other: what comes before a load, and what has to happen
//! in order. Blocking.

use std::collections::HashMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use tidemill_client::kafka::find_coordinator::{Coordinator, FindCoordinatorRequest};
use tidemill_client::kafka::{ApiKey, Request};
use tidemill_client::{Connection, ConnectionConfig, Event, Instant, Reply, SendError};
use tidemill_runtime::clock;

use crate::control;
use crate::load::{CLIENT_ID, client_time};
use crate::trouble::Trouble;

/// How long an answer may take.
pub const ANSWER_WITHIN: Duration = Duration::from_secs(60);

/// How many keys one request asks for.
const KEYS_AT_ONCE: usize = 500;

/// A coordinator may not be there yet: its topic is made when the first is asked for.
const PAUSE: Duration = Duration::from_millis(20);

/// One connection, which is spoken on in turns.
pub struct Asking {
    stream: TcpStream,
    connection: Connection<()>,
}

impl Asking {
    /// Connects, and learns the versions.
    pub fn open(address: SocketAddr) -> Result<Self, Trouble> {
        let stream = control::connect(address).map_err(lost)?;
        stream.set_read_timeout(Some(ANSWER_WITHIN))?;
        let client_id = CLIENT_ID.into();
        let config = ConnectionConfig { client_id, ..ConnectionConfig::default() };
        let mut connection = Connection::new(config);
        connection.handle_connected(now());
        let mut asking = Self { stream, connection };
        loop {
            match asking.next_event()? {
                Event::Ready => return Ok(asking),
                Event::Closed(trouble) => return Err(Trouble::passing(trouble.to_string())),
                Event::Reply(..) | Event::Lost(()) => {}
            }
        }
    }

    /// Asks, and waits for the answer.
    pub fn ask<R: Request>(&mut self, request: &R) -> Result<R::Response, Trouble> {
        let reply =
            self.ask_with(|connection, now| connection.send(request, (), ANSWER_WITHIN, now))?;
        reply.decode().map_err(|error| Trouble::new(format!("{:?}: {error}", R::API)))
    }

    /// The same for requests that the connection has ways of their own for.
    pub fn ask_with(
        &mut self,
        send: impl FnOnce(&mut Connection<()>, Instant) -> Result<(), SendError>,
    ) -> Result<Reply, Trouble> {
        send(&mut self.connection, now()).map_err(|error| Trouble::new(error.to_string()))?;
        loop {
            match self.next_event()? {
                Event::Reply((), reply) => return Ok(reply),
                Event::Closed(trouble) => return Err(Trouble::passing(trouble.to_string())),
                Event::Ready | Event::Lost(()) => {}
            }
        }
    }

    /// Whether topics are named by their ids.
    #[must_use]
    pub fn takes_topic_ids(&self, api: ApiKey) -> bool {
        self.connection.takes_topic_ids(api)
    }

    fn next_event(&mut self) -> Result<Event<()>, Trouble> {
        loop {
            if let Some(event) = self.connection.poll_event() {
                return Ok(event);
            }
            let mut parts = Vec::new();
            self.connection.take_output(&mut parts);
            for part in parts {
                self.stream.write_all(&part).map_err(lost)?;
            }
            let mut bytes = [0; 64 * 1024];
            let read = match self.stream.read(&mut bytes) {
                // A signal: it asks for an end, and what is under way comes to its own.
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                read => read.map_err(lost)?,
            };
            match read {
                0 => self.connection.handle_closed("the broker closed the connection"),
                count => self.connection.handle_bytes(&bytes[..count], now()),
            }
        }
    }

    /// Who looks after each of these keys, in their order.
    pub fn coordinators(&mut self, kind: i8, keys: &[String]) -> Result<Vec<SocketAddr>, Trouble> {
        let mut known: HashMap<(String, i32), SocketAddr> = HashMap::new();
        let mut all = Vec::with_capacity(keys.len());
        for some in keys.chunks(KEYS_AT_ONCE) {
            for Coordinator { host, port, .. } in self.find(kind, some)? {
                let address = match known.get(&(host.clone(), port)) {
                    Some(address) => *address,
                    None => control::resolve(&format!("{host}:{port}"))?,
                };
                known.insert((host, port), address);
                all.push(address);
            }
        }
        Ok(all)
    }

    fn find(&mut self, key_type: i8, keys: &[String]) -> Result<Vec<Coordinator>, Trouble> {
        let request = FindCoordinatorRequest {
            key: keys[0].clone(),
            key_type,
            coordinator_keys: keys.to_vec(),
        };
        let begun = now();
        loop {
            let found = self.ask(&request)?.coordinators;
            let failed = found.iter().find(|coordinator| !coordinator.error_code.is_none());
            if found.len() != keys.len() {
                let why = "the broker is too old to tell of many coordinators at once";
                return Err(Trouble::new(why));
            }
            let Some(failed) = failed else { return Ok(found) };
            if ANSWER_WITHIN < now().since(begun) {
                let why = format!("no coordinator of {}: {}", failed.key, failed.error_code);
                return Err(Trouble::new(why));
            }
            std::thread::sleep(PAUSE);
        }
    }
}

fn lost(error: std::io::Error) -> Trouble {
    Trouble::passing(error.to_string())
}

/// The time, as the client counts it.
#[must_use]
pub fn now() -> Instant {
    client_time(clock::monotonic())
}
