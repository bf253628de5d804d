//! HTTP/1.1, just enough and bounded: one request read, one response written, then the connection
//! ends. What the admin port speaks.
//!
//! [`RequestReader`] takes bytes as they come, cut anywhere, and gives a [`Request`] or a
//! [`Refusal`] that says which status to answer with. It holds at most [`HEAD_BYTES_MAX`] bytes,
//! looks at each byte a bounded number of times, and takes no body: what is asked for here needs
//! none. A [`Response`] always says how long it is and that the connection ends after it, so that
//! whatever else the client has sent means nothing.

use std::fmt;

/// The longest request line with all headers.
pub const HEAD_BYTES_MAX: usize = 8 * 1024;

/// The most headers of a request.
const HEADERS_MAX: usize = 64;

/// What is asked for.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Request {
    /// How.
    pub method: Method,
    /// The path, as it was sent: neither decoded nor made shorter.
    pub path: String,
    /// What stands behind the question mark, as pairs; a name alone has an empty value.
    pub query: Vec<(String, String)>,
}

/// How something is asked for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Method {
    /// With its body.
    Get,
    /// Without.
    Head,
}

/// Why a request is not served.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Refusal {
    /// The first line is not `METHOD TARGET HTTP/1.x`.
    RequestLine,
    /// A header is not `name: value`, or a byte in the head may not be there.
    Header,
    /// More than [`HEAD_BYTES_MAX`], or more headers than anyone needs.
    HeadTooLong,
    /// Neither HTTP/1.0 nor HTTP/1.1.
    Version,
    /// Neither GET nor HEAD.
    Method,
    /// A body was announced.
    Body,
}

/// The status line's number and words.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Status(pub u16, pub &'static str);

impl Status {
    /// Here it is.
    pub const OK: Self = Self(200, "OK");
    /// It makes no sense.
    pub const BAD_REQUEST: Self = Self(400, "Bad Request");
    /// There is no such thing.
    pub const NOT_FOUND: Self = Self(404, "Not Found");
    /// It cannot be asked for in this way.
    pub const METHOD_NOT_ALLOWED: Self = Self(405, "Method Not Allowed");
    /// The request did not come in time.
    pub const REQUEST_TIMEOUT: Self = Self(408, "Request Timeout");
    /// A body where none is taken.
    pub const CONTENT_TOO_LARGE: Self = Self(413, "Content Too Large");
    /// The head is too long.
    pub const HEAD_TOO_LARGE: Self = Self(431, "Request Header Fields Too Large");
    /// Not now.
    pub const UNAVAILABLE: Self = Self(503, "Service Unavailable");
    /// Another version of HTTP.
    pub const VERSION_NOT_SUPPORTED: Self = Self(505, "HTTP Version Not Supported");
}

impl Refusal {
    /// The status to answer with.
    #[must_use]
    pub fn status(self) -> Status {
        match self {
            Self::RequestLine | Self::Header => Status::BAD_REQUEST,
            Self::HeadTooLong => Status::HEAD_TOO_LARGE,
            Self::Version => Status::VERSION_NOT_SUPPORTED,
            Self::Method => Status::METHOD_NOT_ALLOWED,
            Self::Body => Status::CONTENT_TOO_LARGE,
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::RequestLine => f.write_str("the first line is not METHOD PATH HTTP/1.1"),
            Self::Header => f.write_str("a header is not NAME: VALUE in plain characters"),
            Self::HeadTooLong => write!(
                f,
                "the request line and its headers are more than {HEAD_BYTES_MAX} bytes or \
                 {HEADERS_MAX} headers"
            ),
            Self::Version => f.write_str("only HTTP/1.0 and HTTP/1.1 are spoken"),
            Self::Method => f.write_str("only GET and HEAD are served"),
            Self::Body => f.write_str("no request here has a body"),
        }
    }
}

impl std::error::Error for Refusal {}

/// Reads one request off a stream of bytes.
#[derive(Debug, Default)]
pub struct RequestReader {
    head: Vec<u8>,
    /// Before this there is no end of the head.
    searched: usize,
}

impl RequestReader {
    /// Takes what has come. `None` while the head is not complete; what lies behind it is passed
    /// over, and after a request or a refusal nothing more is to be read.
    pub fn handle_bytes(&mut self, bytes: &[u8]) -> Result<Option<Request>, Refusal> {
        let room = HEAD_BYTES_MAX - self.head.len();
        self.head.extend_from_slice(&bytes[..bytes.len().min(room)]);
        if let Some(end) = self.find_end() {
            return parse(&self.head[..end]).map(Some);
        }
        if self.head.len() == HEAD_BYTES_MAX {
            return Err(Refusal::HeadTooLong);
        }
        Ok(None)
    }

    /// Whether anything has come yet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.head.is_empty()
    }

    /// Where the empty line that ends the head begins.
    fn find_end(&mut self) -> Option<usize> {
        const END: &[u8] = b"\r\n\r\n";
        let found = self.head[self.searched..].windows(END.len()).position(|four| four == END);
        let end = found.map(|at| self.searched + at);
        // The end may have begun in the last three bytes.
        self.searched = self.head.len().saturating_sub(END.len() - 1);
        end
    }
}

/// Reads a head without the empty line at its end.
fn parse(head: &[u8]) -> Result<Request, Refusal> {
    let head = std::str::from_utf8(head).map_err(|_| Refusal::Header)?;
    let mut lines = head.split("\r\n");
    let request = parse_request_line(lines.next().unwrap_or_default())?;
    for (number, line) in lines.enumerate() {
        if HEADERS_MAX <= number {
            return Err(Refusal::HeadTooLong);
        }
        let (name, value) = line.split_once(':').ok_or(Refusal::Header)?;
        if name.is_empty() || !name.bytes().all(is_token) || value.bytes().any(is_control) {
            return Err(Refusal::Header);
        }
        let announces_body = match name.to_ascii_lowercase().as_str() {
            "content-length" => value.trim() != "0",
            "transfer-encoding" => true,
            _ => false,
        };
        if announces_body {
            return Err(Refusal::Body);
        }
    }
    Ok(request)
}

fn parse_request_line(line: &str) -> Result<Request, Refusal> {
    let mut words = line.split(' ');
    let (Some(method), Some(target), Some(version), None) =
        (words.next(), words.next(), words.next(), words.next())
    else {
        return Err(Refusal::RequestLine);
    };
    let plain = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic());
    if !plain(method) || !method.bytes().all(is_token) || !plain(target) || !plain(version) {
        return Err(Refusal::RequestLine);
    }
    if !matches!(version, "HTTP/1.1" | "HTTP/1.0") {
        let http = version.starts_with("HTTP/");
        return Err(if http { Refusal::Version } else { Refusal::RequestLine });
    }
    let method = match method {
        "GET" => Method::Get,
        "HEAD" => Method::Head,
        _ => return Err(Refusal::Method),
    };
    if !target.starts_with('/') {
        return Err(Refusal::RequestLine);
    }
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let pairs = query.split('&').filter(|pair| !pair.is_empty());
    let pairs = pairs.map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    let query = pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
    Ok(Request { method, path: path.to_owned(), query })
}

/// Characters of names (RFC 9110).
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// What may not stand in a header's value: it would begin another one for somebody.
fn is_control(byte: u8) -> bool {
    byte.is_ascii_control() && byte != b'\t'
}

/// An answer. Its connection ends after it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Response {
    /// What became of the request.
    pub status: Status,
    /// What the body is.
    pub content_type: &'static str,
    /// The body.
    pub body: Vec<u8>,
}

impl Response {
    /// A body of this type.
    #[must_use]
    pub fn ok(content_type: &'static str, body: impl Into<Vec<u8>>) -> Self {
        Self { status: Status::OK, content_type, body: body.into() }
    }

    /// A line for people.
    #[must_use]
    pub fn text(status: Status, line: &str) -> Self {
        let body = format!("{line}\n").into_bytes();
        Self { status, content_type: "text/plain; charset=utf-8", body }
    }

    /// The status line and the headers, up to the body.
    #[must_use]
    pub fn head(&self) -> String {
        let Status(number, words) = self.status;
        let allow = match self.status {
            Status::METHOD_NOT_ALLOWED => "Allow: GET, HEAD\r\n",
            _ => "",
        };
        format!(
            "HTTP/1.1 {number} {words}\r\nContent-Type: {}\r\nContent-Length: {}\r\n\
             Cache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\n{allow}\
             Connection: close\r\n\r\n",
            self.content_type,
            self.body.len()
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(bytes: &[u8]) -> Result<Option<Request>, Refusal> {
        RequestReader::default().handle_bytes(bytes)
    }

    fn refused(line: &str) -> Refusal {
        read(format!("{line}\r\n\r\n").as_bytes()).unwrap_err()
    }

    const GOOD: &str =
        "GET /metrics?full&format=text HTTP/1.1\r\nHost: 127.0.0.1:9644\r\nX:\r\nY: \tz\r\n\r\n";

    /// A request means the same whether it comes at once or byte by byte.
    #[test]
    fn a_request_may_be_cut_anywhere() {
        let whole = read(GOOD.as_bytes()).unwrap().unwrap();
        assert_eq!((whole.method, whole.path.as_str()), (Method::Get, "/metrics"));
        let pair = |a: &str, b: &str| (a.to_owned(), b.to_owned());
        assert_eq!(whole.query, [pair("full", ""), pair("format", "text")]);
        for cut in 0..GOOD.len() {
            let mut reader = RequestReader::default();
            let (first, second) = GOOD.as_bytes().split_at(cut);
            assert_eq!(reader.handle_bytes(first), Ok(None), "at {cut}");
            assert_eq!(reader.handle_bytes(second), Ok(Some(whole.clone())), "at {cut}");
        }
        let mut reader = RequestReader::default();
        let told = GOOD.bytes().map(|byte| reader.handle_bytes(&[byte])).collect::<Vec<_>>();
        assert_eq!(told.last(), Some(&Ok(Some(whole))));
    }

    /// Each kind of wrong request is told apart.
    #[test]
    fn what_is_wrong_is_told() {
        for (line, refusal) in [
            ("", Refusal::RequestLine),
            ("GET", Refusal::RequestLine),
            ("GET / HTTP/1.1 ", Refusal::RequestLine),
            ("GET  / HTTP/1.1", Refusal::RequestLine),
            ("GET http://elsewhere/ HTTP/1.1", Refusal::RequestLine),
            ("GET /\u{e4} HTTP/1.1", Refusal::RequestLine),
            ("G\u{0}T / HTTP/1.1", Refusal::RequestLine),
            ("GET / HTTP/2.0", Refusal::Version),
            ("GET / SIP/2.0", Refusal::RequestLine),
            ("POST / HTTP/1.1", Refusal::Method),
            ("get / HTTP/1.1", Refusal::Method),
            ("GET / HTTP/1.1\r\nno colon", Refusal::Header),
            ("GET / HTTP/1.1\r\n: value", Refusal::Header),
            ("GET / HTTP/1.1\r\nname : value", Refusal::Header),
            ("GET / HTTP/1.1\r\n folded: value", Refusal::Header),
            ("GET / HTTP/1.1\r\na: b\rc: d", Refusal::Header),
            ("GET / HTTP/1.1\r\na: b\nc: d", Refusal::Header),
            ("GET / HTTP/1.1\r\nContent-Length: 1", Refusal::Body),
            ("GET / HTTP/1.1\r\ntransfer-encoding: chunked", Refusal::Body),
        ] {
            assert_eq!(refused(line), refusal, "{line:?}");
        }
        assert!(read(b"GET / HTTP/1.1\r\nContent-Length: 0\r\n\r\n").unwrap().is_some());
    }

    /// However long a head is, no more than the limit is held, and then it is refused.
    #[test]
    fn a_head_without_an_end_is_refused_at_the_limit() {
        let mut reader = RequestReader::default();
        let mut fed = 0;
        let refusal = loop {
            fed += 100;
            match reader.handle_bytes(&[b'a'; 100]) {
                Ok(None) => assert!(fed < HEAD_BYTES_MAX),
                other => break other,
            }
        };
        assert_eq!(refusal, Err(Refusal::HeadTooLong));
        assert!(reader.head.capacity() <= 2 * HEAD_BYTES_MAX);
        let many = "a: b\r\n".repeat(HEADERS_MAX + 1);
        assert_eq!(
            refused(&format!("GET / HTTP/1.1\r\n{}", many.trim_end())),
            Refusal::HeadTooLong
        );
        // The longest that fits is served.
        let line = "GET / HTTP/1.1\r\na: ";
        let filler = "x".repeat(HEAD_BYTES_MAX - line.len() - 4);
        assert!(read(format!("{line}{filler}\r\n\r\n").as_bytes()).unwrap().is_some());
    }

    /// The answer says how long it is, and that nothing follows.
    #[test]
    fn a_response_is_framed() {
        let head = Response::text(Refusal::Method.status(), "no").head();
        assert!(head.starts_with("HTTP/1.1 405 Method Not Allowed\r\n"), "{head}");
        assert!(head.contains("\r\nContent-Length: 3\r\n") && head.contains("\r\nAllow: GET"));
        assert!(head.ends_with("\r\nConnection: close\r\n\r\n"));
    }

    proptest! {
        /// Any bytes are a request, a refusal or not enough, however they are cut.
        #[test]
        fn any_bytes_mean_the_same_in_any_pieces(
            bytes in prop::collection::vec(any::<u8>(), 0..300),
            edits in prop::collection::vec((0..GOOD.len(), any::<u8>()), 0..4),
            good in any::<bool>(),
            piece in 1usize..50,
        ) {
            let mut input = bytes;
            if good {
                input = GOOD.as_bytes().to_vec();
                edits.iter().for_each(|(at, byte)| input[*at] = *byte);
            }
            let whole = read(&input);
            let mut reader = RequestReader::default();
            let mut last = Ok(None);
            for piece in input.chunks(piece) {
                last = reader.handle_bytes(piece);
                if last != Ok(None) {
                    break;
                }
            }
            prop_assert_eq!(last, whole);
        }
    }
}
