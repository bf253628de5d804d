//! Replays bytes that real clients sent or write, or that were written down by hand from the
//! protocol's definition, and holds them against what they mean.
//!
//! A file of `tests/golden` says whose message it is, what it means, and then its bytes in
//! hexadecimal: the frame without its length.
//!
//! ```text
//! request ListOffsets 11
//! means ListOffsetsRequest { ... }
//! 0002 000b 00000007 ...
//! ```
//!
//! `NET_GOLDEN_REWRITE=1 cargo test -p tidemill-net --test golden` writes what each means now.

use bytes::{Bytes, BytesMut};
use std::path::Path;
use tidemill_net::kafka;
use tidemill_net::kafka::{
    APIS, AnyRequest, ApiKey, Message, RequestHeader, decode_response, parse_response_header,
};

struct Golden {
    head: String,
    means: String,
    frame: Bytes,
}

fn parse(text: &str) -> Golden {
    let mut lines = text.lines();
    let head = lines.next().expect("whose message it is").to_owned();
    let means = lines.next().and_then(|line| line.strip_prefix("means ")).expect("what it means");
    let digits: String = lines.flat_map(|line| line.split_whitespace()).collect();
    let byte = |at: usize| u8::from_str_radix(&digits[at..at + 2], 16).expect("hexadecimal");
    let frame = (0..digits.len()).step_by(2).map(byte).collect();
    Golden { head, means: means.to_owned(), frame }
}

/// What a request or response means, on one line.
fn meaning(head: &str, frame: &Bytes) -> String {
    let [direction, api, version] = head.split(' ').collect::<Vec<_>>()[..] else {
        panic!("{head:?} does not say whose message it is");
    };
    let api = APIS.iter().find(|known| known.name == api).expect("an API we speak").key;
    let version = version.parse().expect("a version");
    match direction {
        "request" => request_meaning(api, version, frame),
        "response" => response_meaning(api, version, frame),
        _ => panic!("{direction} is neither request nor response"),
    }
}

fn request_meaning(api_key: ApiKey, version: i16, frame: &[u8]) -> String {
    let header = RequestHeader::parse(frame).expect("a header");
    assert_eq!((header.api_key, header.version), (api_key, version));
    let from = format!("{} from {:?}", header.correlation_id, header.client_id);
    let body = &frame[header.body_start..];
    match AnyRequest::parse(api_key, version, body).expect("a body") {
        AnyRequest::Produce(produce) => format!(
            "{from}: Produce {:?} {} {} {:?}",
            produce.transactional_id,
            produce.acks,
            produce.timeout_ms,
            produce.partitions().collect::<Vec<_>>()
        ),
        AnyRequest::Fetch(fetch) => format!(
            "{from}: Fetch {} {} {} {} {} {} {:?} {:?} {:?}",
            fetch.max_wait_ms,
            fetch.min_bytes,
            fetch.max_bytes,
            fetch.isolation_level,
            fetch.session_id,
            fetch.session_epoch,
            fetch.rack_id,
            fetch.partitions().collect::<Vec<_>>(),
            fetch.forgotten().collect::<Vec<_>>()
        ),
        message => format!("{from}: {message:?}"),
    }
}

fn response_meaning(api_key: ApiKey, version: i16, frame: &Bytes) -> String {
    use tidemill_net::kafka::{fetch, produce, share_fetch};
    macro_rules! meaning_of {
        ($($api:ident: $module:ident::($request:ident, $response:ident);)*) => {
            match api_key {
                ApiKey::Produce => {
                    let (correlation_id, body) = body_of_response(api_key, version, frame);
                    let response =
                        produce::ProduceResponse::parse(version, &body).expect("a response");
                    format!("{correlation_id}: {response:?}")
                }
                ApiKey::Fetch => {
                    let (correlation_id, body) = body_of_response(api_key, version, frame);
                    let response = fetch::FetchResponse::parse(version, &body).expect("a response");
                    format!("{correlation_id}: {response:?}")
                }
                ApiKey::ShareFetch => {
                    let (correlation_id, body) = body_of_response(api_key, version, frame);
                    let response =
                        share_fetch::ShareFetchResponse::parse(version, &body).expect("a response");
                    format!("{correlation_id}: {response:?}")
                }
                $( ApiKey::$api => same::<kafka::$module::$response>(version, frame), )*
            }
        };
    }
    tidemill_net::declared_messages!(meaning_of)
}

fn body_of_response(api_key: ApiKey, version: i16, frame: &Bytes) -> (i32, Bytes) {
    let (correlation_id, start) = parse_response_header(api_key, version, frame).expect("a header");
    (correlation_id, frame.slice(start..))
}

/// A response we also write, byte for byte.
fn same<M: Message + std::fmt::Debug>(version: i16, frame: &[u8]) -> String {
    let (correlation_id, message) = decode_response::<M>(version, frame).expect("a response");
    let (_, start) = parse_response_header(M::API, version, frame).expect("a header");
    let mut body = BytesMut::new();
    message.encode(version, &mut body);
    assert_eq!(body, frame[start..]);
    format!("{correlation_id}: {message:?}")
}

/// Bytes that have once been understood keep their meaning.
#[test]
fn golden_bytes_keep_their_meaning() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let mut replayed = 0;
    for file in std::fs::read_dir(folder).expect("the golden bytes are part of the source") {
        let path = file.expect("a readable directory").path();
        if path.extension().is_none_or(|extension| extension != "hex") {
            continue;
        }
        let text = std::fs::read_to_string(&path).expect("a readable file");
        let golden = parse(&text);
        let meaning = meaning(&golden.head, &golden.frame);
        if std::env::var_os("NET_GOLDEN_REWRITE").is_some() {
            let rewritten = text.replacen(&golden.means, &meaning, 1);
            std::fs::write(&path, rewritten).expect("a writable file");
        } else {
            assert_eq!(meaning, golden.means, "{}", path.display());
        }
        replayed += 1;
    }
    assert!(4 <= replayed, "the golden bytes are part of the source");
}
