//! Reads a broker's documents from its admin port: one plain HTTP GET each.
//!
//! Enough of HTTP/1.1 for a broker's own admin port, and bounded: an answer is read to its end or
//! to [`ANSWER_BYTES_MAX`], whichever comes first. No redirects, no encryption.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::time::Duration;

use serde::de::DeserializeOwned;

use crate::document::{
    LATENCY_SCHEMA, LATENESS_SCHEMA, LatencyDocument, LatenessDocument, SLOWEST_SCHEMA,
    SlowestDocument,
};

/// The largest answer that is taken.
pub const ANSWER_BYTES_MAX: u64 = 64 << 20;

/// How long connecting, sending or one read may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// Why there is no document.
#[derive(Debug)]
pub enum AdminError {
    /// Nobody answers there.
    Unreachable {
        /// The address asked.
        address: String,
        /// What the kernel said.
        cause: io::Error,
    },
    /// An answer came, but not 200.
    Refused {
        /// The path asked for.
        path: &'static str,
        /// The status line.
        status: String,
    },
    /// The answer is not the document asked for.
    NotTheDocument {
        /// The path asked for.
        path: &'static str,
        /// What is wrong with it.
        why: String,
    },
}

impl fmt::Display for AdminError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreachable { address, cause } => {
                write!(f, "no broker answers at the admin address {address}: {cause}")
            }
            Self::Refused { path, status } => write!(f, "{path} was refused: {status}"),
            Self::NotTheDocument { path, why } => {
                write!(f, "{path} did not give a document we know: {why}")
            }
        }
    }
}

impl std::error::Error for AdminError {}

/// A broker's admin port.
#[derive(Clone, Debug)]
pub struct Admin {
    address: String,
}

impl Admin {
    /// The one at `HOST:PORT`; an `http://` before it and a `/` behind it do no harm.
    #[must_use]
    pub fn at(address: &str) -> Self {
        let address = address.strip_prefix("http://").unwrap_or(address);
        Self { address: address.trim_end_matches('/').to_owned() }
    }

    /// Its address.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Whether the broker runs where we run, so that what was measured here holds for it: its
    /// address is one of the loopback interface.
    #[must_use]
    pub fn is_here(&self) -> bool {
        let Ok(mut found) = self.address.to_socket_addrs() else { return false };
        found.all(|address| address.ip().to_canonical().is_loopback())
    }

    /// Where the time of requests went, and how busy each shard is.
    pub fn latency(&self) -> Result<LatencyDocument, AdminError> {
        self.document("/latency", LATENCY_SCHEMA, |document: &LatencyDocument| &document.schema)
    }

    /// The slowest requests and the latest stalls.
    pub fn slowest(&self) -> Result<SlowestDocument, AdminError> {
        self.document("/slowest", SLOWEST_SCHEMA, |document: &SlowestDocument| &document.schema)
    }

    /// How late records come.
    pub fn lateness(&self) -> Result<LatenessDocument, AdminError> {
        self.document("/lateness", LATENESS_SCHEMA, |document: &LatenessDocument| &document.schema)
    }

    fn document<D: DeserializeOwned>(
        &self,
        path: &'static str,
        schema: &str,
        schema_of: impl Fn(&D) -> &String,
    ) -> Result<D, AdminError> {
        let body = self.get(path)?;
        let wrong = |why: String| AdminError::NotTheDocument { path, why };
        let document = serde_json::from_slice(&body).map_err(|error| wrong(error.to_string()))?;
        let found = schema_of(&document);
        if found == schema {
            Ok(document)
        } else {
            Err(wrong(format!("its schema is {found:?}, we read {schema:?}")))
        }
    }

    fn get(&self, path: &'static str) -> Result<Vec<u8>, AdminError> {
        let answer = self
            .exchange(path)
            .map_err(|cause| AdminError::Unreachable { address: self.address.clone(), cause })?;
        let wrong = |why: &str| AdminError::NotTheDocument { path, why: why.to_owned() };
        let end = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n");
        let end = end
            .ok_or_else(|| wrong("the answer is no HTTP: is that the port of Kafka's clients?"))?;
        let head = String::from_utf8_lossy(&answer[..end]);
        let mut lines = head.split("\r\n");
        let status = lines.next().unwrap_or_default();
        if status.split(' ').nth(1) != Some("200") {
            return Err(AdminError::Refused { path, status: status.to_owned() });
        }
        let body = &answer[end + 4..];
        let header = |name: &str| {
            let mut pairs = head.split("\r\n").filter_map(|line| line.split_once(':'));
            let found = pairs.find(|(key, _)| key.eq_ignore_ascii_case(name));
            found.map(|(_, value)| value.trim().to_owned())
        };
        if header("transfer-encoding").is_some_and(|v| v.eq_ignore_ascii_case("chunked")) {
            return unchunked(body).ok_or_else(|| wrong("the answer was cut off"));
        }
        let length = header("content-length").and_then(|length| length.parse::<usize>().ok());
        match length {
            Some(length) if body.len() < length => Err(wrong("the answer was cut off")),
            Some(length) => Ok(body[..length].to_vec()),
            None => Ok(body.to_vec()),
        }
    }

    fn exchange(&self, path: &str) -> io::Result<Vec<u8>> {
        let mut stream = self.connect()?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let host = &self.address;
        let request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes())?;
        // Grows with what arrives, not with what is announced.
        let mut answer = Vec::new();
        stream.take(ANSWER_BYTES_MAX).read_to_end(&mut answer)?;
        Ok(answer)
    }

    fn connect(&self) -> io::Result<TcpStream> {
        let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
        for candidate in self.address.to_socket_addrs()? {
            let candidate: SocketAddr = candidate;
            match TcpStream::connect_timeout(&candidate, PATIENCE) {
                Ok(stream) => return Ok(stream),
                Err(error) => last = error,
            }
        }
        Err(last)
    }
}

/// The bytes of a chunked body; none if its end is missing.
fn unchunked(mut body: &[u8]) -> Option<Vec<u8>> {
    let mut whole = Vec::new();
    loop {
        let end = body.windows(2).position(|bytes| bytes == b"\r\n")?;
        let size = std::str::from_utf8(&body[..end]).ok()?;
        let size = usize::from_str_radix(size.split(';').next()?.trim(), 16).ok()?;
        let chunk = body.get(end + 2..)?;
        if size == 0 {
            return Some(whole);
        }
        whole.extend_from_slice(chunk.get(..size)?);
        body = chunk.get(size..)?.strip_prefix(b"\r\n")?;
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use std::net::TcpListener;
    use std::thread::{self, JoinHandle};

    /// Gives each connection the next of these answers, then ends; the address and the thread.
    pub(crate) fn serve(answers: Vec<String>) -> (String, JoinHandle<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let body = move || {
            for answer in answers {
                let (mut stream, _) = listener.accept().unwrap();
                let mut request = Vec::new();
                while !request.ends_with(b"\r\n\r\n") {
                    let mut byte = [0];
                    stream.read_exact(&mut byte).unwrap();
                    request.push(byte[0]);
                }
                assert!(request.starts_with(b"GET /"));
                stream.write_all(answer.as_bytes()).unwrap();
            }
        };
        (address, thread::spawn(body))
    }

    /// An answer of this body.
    pub(crate) fn ok(body: &str) -> String {
        format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len())
    }

    fn document() -> String {
        let schema = LATENCY_SCHEMA.to_owned();
        serde_json::to_string(&LatencyDocument { schema, ..Default::default() }).unwrap()
    }

    /// However a server frames its answer, the document is the same.
    #[test]
    fn documents_are_read() {
        let body = document();
        let (first, second) = body.split_at(10);
        let chunked = format!(
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n{:x}\r\n{first}\r\n{:x}\r\n{second}\r\n0\r\n\r\n",
            first.len(),
            second.len()
        );
        let unframed = format!("HTTP/1.1 200 OK\r\n\r\n{body}");
        let (address, server) = serve(vec![ok(&body), chunked, unframed]);
        let admin = Admin::at(&format!("http://{address}/"));
        for _ in 0..3 {
            assert_eq!(admin.latency().unwrap().schema, LATENCY_SCHEMA);
        }
        server.join().unwrap();
    }

    /// Limits of this machine say nothing of another one.
    #[test]
    fn a_broker_on_loopback_is_here() {
        for here in ["127.0.0.1:9644", "[::1]:9644", "http://127.8.9.1:1/", "localhost:9644"] {
            assert!(Admin::at(here).is_here(), "{here}");
        }
        for elsewhere in ["10.0.0.1:9644", "[2001:db8::1]:9644", "no address"] {
            assert!(!Admin::at(elsewhere).is_here(), "{elsewhere}");
        }
    }

    /// What is not the document is told as such, with the reason.
    #[test]
    fn what_is_no_document_is_refused() {
        let future = document().replace("latency/1", "latency/2");
        let mut cut = ok(&document());
        cut.truncate(cut.len() - 1);
        let missing = "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n".to_owned();
        let answers = vec![ok(&future), cut, missing, ok("{}"), "nonsense".to_owned()];
        let tries = answers.len();
        let (address, server) = serve(answers);
        let admin = Admin::at(&address);
        let told: Vec<_> = (0..tries).map(|_| admin.latency().unwrap_err().to_string()).collect();
        for (told, expected) in
            told.iter().zip(["latency/2", "cut off", "404 Not Found", "missing field", "no HTTP"])
        {
            assert!(told.contains(expected), "{told}");
        }
        server.join().unwrap();
        assert!(matches!(admin.latency(), Err(AdminError::Unreachable { .. })));
    }
}
